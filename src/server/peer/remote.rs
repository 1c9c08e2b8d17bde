//! One other member: its URLs, its two queues, its pipeline, and the tasks that keep the connections up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::raftpb::{Message, MessageType};
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, exponential_buckets};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::conn::PeerUrl;
use super::identity::hex;
use super::outbox::{Outbox, Pushed, StreamKind};
use super::status::PeerStatus;
use super::transfer::{TransferReport, Transfers};
use super::{Shared, pipeline, probe, reader, snapshot};

/// Dropped messages are logged at most so often for each peer; a full queue drops them by the thousand.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What has gone to and come from a peer since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub sent_failures: u64,
    pub received_failures: u64,
    /// The last probe's round trip; `None` while probes fail.
    pub round_trip: Option<Duration>,
}

/// A peer, as `/metrics` shows it.
pub struct PeerReport {
    /// In hexadecimal, as everywhere.
    pub id: String,
    pub stats: PeerStats,
    pub is_active: bool,
    /// How often it was active and then was not.
    pub disconnected: u64,
    pub round_trips: Histogram,
    /// Of snapshots.
    pub sends: TransferReport,
    pub receives: TransferReport,
}

pub(super) struct Remote {
    id: u64,
    local: String,
    streams: AtomicBool,
    pub urls: UrlPicker,
    pub status: PeerStatus,
    pub counters: Counters,
    pub round_trips: Histogram,
    /// Of snapshots.
    pub sends: Transfers,
    pub receives: Transfers,
    msgapp: Outbox,
    message: Outbox,
    pipeline: mpsc::Sender<Message>,
    snapshots: mpsc::Sender<Message>,
    last_drop_log: Mutex<Option<Instant>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
    pub sent_failures: AtomicU64,
    pub received_failures: AtomicU64,
    /// Microseconds and one; 0 is unknown.
    pub round_trip: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Queued,
    Dropped,
}

impl Remote {
    /// Starts the tasks. Without `streams` there is only the pipeline.
    pub fn start(shared: &Arc<Shared>, id: u64, urls: Vec<String>, streams: bool) -> Arc<Remote> {
        let (pipeline, queued) = mpsc::channel(pipeline::QUEUE_MESSAGES);
        let (snapshots, queued_snapshots) = mpsc::channel(snapshot::QUEUE_MESSAGES);
        let peer = Arc::new(Remote {
            id,
            local: shared.identity.member(),
            streams: AtomicBool::new(false),
            urls: UrlPicker::default(),
            status: PeerStatus::new(hex(id)),
            counters: Counters::default(),
            round_trips: round_trips(id),
            sends: Transfers::to(id),
            receives: Transfers::from(id),
            msgapp: Outbox::default(),
            message: Outbox::default(),
            pipeline,
            snapshots,
            last_drop_log: Mutex::default(),
            tasks: Mutex::default(),
        });
        peer.set_urls(urls);
        let mut tasks = pipeline::start(shared, &peer, queued);
        tasks.push(snapshot::start(shared, &peer, queued_snapshots));
        *peer.tasks.lock() = tasks;
        if streams {
            peer.start_streams(shared);
        }
        info!("local-member-id" = %peer.local, "remote-peer-id" = %peer.hex(), "started remote peer");
        peer
    }

    /// What was only answered is a peer from now on. Its pipeline goes on: what is under way there, a member's first
    /// proposal for one, is not cut off.
    pub fn start_streams(self: &Arc<Remote>, shared: &Arc<Shared>) {
        if self.streams.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut tasks = self.tasks.lock();
        for kind in StreamKind::ALL {
            tasks.push(shared.runtime.spawn(reader::run(shared.clone(), self.clone(), kind)).abort_handle());
        }
        tasks.push(shared.runtime.spawn(probe::run(shared.clone(), self.clone())).abort_handle());
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn hex(&self) -> String {
        hex(self.id)
    }

    pub fn has_streams(&self) -> bool {
        self.streams.load(Ordering::SeqCst)
    }

    pub fn outbox(&self, kind: StreamKind) -> &Outbox {
        match kind {
            StreamKind::MsgApp => &self.msgapp,
            StreamKind::Message => &self.message,
        }
    }

    /// Replaces the URLs; those that can not be used are left out, with a line in the log.
    pub fn set_urls(&self, urls: Vec<String>) {
        let mut usable = Vec::with_capacity(urls.len());
        for url in urls {
            match url.parse::<PeerUrl>() {
                Ok(url) => {
                    if url.is_tls() {
                        warn!(
                            "remote-peer-id" = %self.hex(), "remote-peer-url" = %url,
                            "remote peer is not reachable yet: TLS between members is not supported yet"
                        );
                    }
                    usable.push(url);
                }
                Err(error) => warn!("remote-peer-id" = %self.hex(), %error, "ignored URL of remote peer"),
            }
        }
        self.urls.set(usable);
    }

    /// Queues a message where etcd would: appends on their stream, the rest on the other, and all by POST while there
    /// is none.
    pub fn push(&self, mut message: Message) -> Sent {
        let kind = message.r#type();
        let streams: &[&Outbox] = match kind {
            // A snapshot's database goes with it, by a POST of its own.
            MessageType::MsgSnap => {
                return match self.snapshots.try_send(message) {
                    Ok(()) => Sent::Queued,
                    Err(_) => self.dropped(kind, "another snapshot is being sent"),
                };
            }
            MessageType::MsgApp => &[&self.msgapp, &self.message],
            _ => &[&self.message],
        };
        for stream in streams {
            match stream.push(&mut message) {
                Pushed::Queued => return Sent::Queued,
                Pushed::Full => return self.dropped(kind, "the queue is full"),
                Pushed::Detached => {}
            }
        }
        match self.pipeline.try_send(message) {
            Ok(()) => Sent::Queued,
            Err(_) => self.dropped(kind, "the queue is full"),
        }
    }

    /// Sends off what was pushed.
    pub fn wake(&self) {
        self.msgapp.wake();
        self.message.wake();
    }

    pub fn stats(&self) -> PeerStats {
        let counters = &self.counters;
        let round_trip = counters.round_trip.load(Ordering::Relaxed);
        PeerStats {
            sent_bytes: counters.sent_bytes.load(Ordering::Relaxed),
            received_bytes: counters.received_bytes.load(Ordering::Relaxed),
            sent_failures: counters.sent_failures.load(Ordering::Relaxed),
            received_failures: counters.received_failures.load(Ordering::Relaxed),
            round_trip: round_trip.checked_sub(1).map(Duration::from_micros),
        }
    }

    pub fn report(&self) -> PeerReport {
        PeerReport {
            id: self.hex(),
            stats: self.stats(),
            is_active: self.status.since().is_some(),
            disconnected: self.status.disconnected(),
            round_trips: self.round_trips.clone(),
            sends: self.sends.report(),
            receives: self.receives.report(),
        }
    }

    /// Queued messages went down with their connection.
    pub fn lost_messages(&self, shared: &Shared) {
        self.counters.sent_failures.fetch_add(1, Ordering::Relaxed);
        shared.handler.unreachable(self.id);
    }

    /// Ends the tasks and the connections.
    pub fn stop(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.msgapp.close();
        self.message.close();
        info!("local-member-id" = %self.local, "remote-peer-id" = %self.hex(), "stopped remote peer");
    }

    fn dropped(&self, kind: MessageType, reason: &str) -> Sent {
        self.counters.sent_failures.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_drop_log.lock();
        if last.is_none_or(|last| last.elapsed() >= DROP_LOG_INTERVAL) {
            *last = Some(Instant::now());
            warn!(
                "message-type" = kind.as_str_name(), "local-member-id" = %self.local, "remote-peer-id" = %self.hex(),
                "remote-peer-active" = self.status.since().is_some(), reason, "dropped internal Raft message"
            );
        }
        Sent::Dropped
    }
}

fn round_trips(id: u64) -> Histogram {
    let opts =
        HistogramOpts::new("etcd_network_peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers");
    let buckets = exponential_buckets(0.0001, 2.0, 16).expect("they ascend");
    Histogram::with_opts(opts.const_label("To", hex(id)).buckets(buckets)).expect("the name is well-formed")
}

/// The URLs of a peer, and the one to try next: stays with one that works.
#[derive(Debug, Default)]
pub(super) struct UrlPicker {
    urls: Mutex<(Vec<PeerUrl>, usize)>,
}

impl UrlPicker {
    pub fn pick(&self) -> Option<PeerUrl> {
        let urls = self.urls.lock();
        urls.0.get(urls.1).cloned()
    }

    /// This URL did not work: the next one, unless somebody else has moved on already.
    pub fn unreachable(&self, url: &PeerUrl) {
        let mut urls = self.urls.lock();
        if urls.0.get(urls.1) == Some(url) {
            urls.1 = (urls.1 + 1) % urls.0.len();
        }
    }

    fn set(&self, urls: Vec<PeerUrl>) {
        *self.urls.lock() = (urls, 0);
    }
}
