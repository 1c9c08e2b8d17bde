//! etcd's rafthttp: how members reach each other over the network.
//!
//! Every member dials two long-lived streams from each of its peers and answers the two that each peer dials; the
//! member that **answers** a stream writes into it. Appends go down `msgapp`, the rest down `message`, and while no
//! stream is attached a message is POSTed (the pipeline). The wire is etcd 3.5's, byte for byte: headers, framings,
//! status codes, bodies.
//!
//! ```text
//! codec        the two framings, pure functions            conn      sockets, and the seam for TLS
//! outbox       a bounded queue and the stream that drains it   reader    the streams we dial
//! pipeline     POST /raft, four at a time                  probe     GET /raft/probing, every four seconds
//! http         what a peer may ask of us                   client    what we ask of a peer outside of raft
//! identity     headers, versions, cluster id               status    active or not, and since when
//! hash         the hash of a member's history, for its peers
//! promote      a member asks the leader to promote a learner
//! snapshot     POST /raft/snapshot, both ends
//! lease        keep-alives and times to live, from a follower to the leader
//! ```
//!
//! What this may not do: wait in [`Transport::send`], keep a message for later (what can not be sent now is dropped,
//! and raft sends it again), or trust a peer: a message reaches the [`Handler`] only after its size, its addressee, its
//! sender and the shape of its entries were checked.

pub mod client;
pub mod codec;
mod conn;
mod hash;
mod http;
mod identity;
mod lease;
mod outbox;
mod pipeline;
mod probe;
mod promote;
mod reader;
mod remote;
mod snapshot;
mod status;
mod transfer;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::raftpb::{Message, MessageType};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::client::{ClusterError, RemoteCluster, RemoteMember, Versions, get_cluster_from_peers, get_version};
pub use self::conn::{Listener, PeerUrl, UrlError};
pub use self::hash::{HashError, HashFuture, PeerHash, get_hash_kv};
pub use self::lease::{LeaseAnswer, LeaseClient, LeaseError, LeaseFuture, LeaseQuestion};
pub use self::promote::{PromoteAnswer, PromoteFuture, promote};
pub use self::remote::{PeerReport, PeerStats};
pub use self::snapshot::{Pieces, Taking};
pub use self::transfer::TransferReport;

use self::identity::{Identity, hex};
use self::remote::{Remote, Sent};

/// A reader that hears nothing for so long gives the stream up.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Members that only a request's headers told us of, at most. See [`Transport::add_remote`].
const MAX_REMOTES: usize = 64;

/// Who we are, and how much we take.
#[derive(Clone, Debug)]
pub struct Config {
    pub member_id: u64,
    pub cluster_id: u64,
    /// Told to peers as `X-Server-Version`: "3.7.1".
    pub server_version: String,
    /// The oldest peer we talk to: "3.0.0".
    pub min_cluster_version: String,
    /// Ours, as advertised; told to peers as `X-PeerURLs`.
    pub peer_urls: Vec<String>,
    /// The largest message taken from a peer. [`DEFAULT_MAX_MESSAGE_BYTES`] unless there is a reason.
    pub max_message_bytes: usize,
    /// Connections that a listener serves at a time.
    pub max_connections: usize,
}

/// etcd takes 512 MiB; nothing a member may send comes near 64.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// What the transport tells the member. Called from tokio's workers, and [`Handler::unreachable`] also from within
/// [`Transport::send`]: must not block, and must not take a lock that is held while sending.
pub trait Handler: Send + Sync + 'static {
    /// One message from a peer: addressed to us, from a member of our cluster, its entries in order, never a `MsgSnap`
    /// or a message that only a member's own clock may send.
    fn message(&self, message: Message);
    /// All messages that arrived together; one hand-over is cheaper than many.
    fn messages(&self, messages: Vec<Message>) {
        for message in messages {
            self.message(message);
        }
    }
    /// A message to this peer was dropped or lost: raft's `report_unreachable`.
    fn unreachable(&self, peer: u64);
    /// How the snapshot to this peer ended: raft's `report_snapshot`.
    fn snapshot_status(&self, peer: u64, ok: bool);
    /// The body of the snapshot of this index, which a message to a peer speaks of.
    fn open_snapshot(&self, index: u64) -> Option<Pieces>;
    /// A peer sends a snapshot. Done when its body is safe on the disk and the message has gone where messages go.
    fn snapshot(&self, message: Message, body: Pieces) -> Taking<'_>;
    /// The body of GET /members: etcd's JSON list of members.
    fn members_json(&self) -> Vec<u8>;
    /// The body of GET /version.
    fn version_json(&self) -> Vec<u8>;
    /// A peer asks about a lease; whoever does not lead says so.
    fn lease(&self, _question: LeaseQuestion) -> LeaseFuture<'_> {
        Box::pin(std::future::ready(LeaseAnswer::NotPrimary))
    }
    /// A member asks this one, as the leader, to promote a learner.
    fn promote(&self, _id: u64) -> PromoteFuture<'_> {
        Box::pin(std::future::ready(PromoteAnswer::Failed("this member promotes nobody".to_owned())))
    }
    /// A peer asks for the hash of the history up to a revision. The error is what it is told.
    fn hash_kv(&self, _revision: i64) -> HashFuture<'_> {
        Box::pin(std::future::ready(Err("this member cannot say yet".to_owned())))
    }
    /// Whether this member was removed from the cluster, forever.
    fn is_removed(&self, peer: u64) -> bool;
    /// A peer says that *we* were removed from the cluster: etcd stops the member.
    fn removed_from_cluster(&self, peer: u64) {
        tracing::error!("remote-peer-id" = %hex(peer), "the member has been permanently removed from the cluster");
    }
}

/// The member's link to its peers. Clones share it; when the last one goes, or on [`Transport::stop`], every connection
/// closes.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    _stop: Arc<StopOnDrop>,
}

/// What every task of the transport sees.
struct Shared {
    identity: Identity,
    handler: Arc<dyn Handler>,
    runtime: Handle,
    max_message_bytes: usize,
    max_connections: usize,
    peers: RwLock<BTreeMap<u64, Arc<Remote>>>,
    paused: AtomicBool,
    stopped: watch::Sender<bool>,
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Transport {
    /// Must be called on a tokio runtime: that is where the transport's tasks will run.
    pub fn new(config: Config, handler: Arc<dyn Handler>) -> Transport {
        let shared = Arc::new(Shared {
            identity: Identity::new(&config),
            handler,
            runtime: Handle::current(),
            max_message_bytes: config.max_message_bytes,
            max_connections: config.max_connections,
            peers: RwLock::default(),
            paused: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
        });
        Transport { _stop: Arc::new(StopOnDrop(shared.clone())), shared }
    }

    /// Starts talking to a member. URLs that cannot be used are logged and left out; a peer left without any is still
    /// heard. A peer that is already there keeps its connections and gets the new URLs.
    pub fn add_peer(&self, id: u64, urls: Vec<String>) {
        self.shared.add(id, urls, true);
    }

    /// Makes a member of the cluster known that is no peer yet: its messages are taken and answered by POST, no stream
    /// is dialled. A member that joins knows its peers only in this way until it has applied their membership.
    pub fn add_remote(&self, id: u64, urls: Vec<String>) {
        self.shared.add(id, urls, false);
    }

    /// The peer moved; the streams are dialled at the new URLs the next time they break.
    pub fn update_peer(&self, id: u64, urls: Vec<String>) {
        if let Some(peer) = self.shared.peer(id) {
            info!(
                "local-member-id" = %self.shared.identity.member(), "remote-peer-id" = %peer.hex(),
                "updated-remote-peer-urls" = ?urls, "updated remote peer"
            );
            peer.set_urls(urls);
        }
    }

    /// Closes every connection with this peer and forgets it.
    pub fn remove_peer(&self, id: u64) {
        let removed = self.shared.peers.write().remove(&id);
        if let Some(peer) = removed {
            peer.stop();
            info!(
                "local-member-id" = %self.shared.identity.member(), "removed-remote-peer-id" = %peer.hex(),
                "removed remote peer"
            );
        }
    }

    /// Queues the messages and returns. A message to a peer whose queue is full is dropped and reported as unreachable;
    /// one to nobody, or to a member that is not known, is dropped.
    pub fn send(&self, messages: Vec<Message>) {
        if self.shared.paused.load(Ordering::Relaxed) {
            return;
        }
        // The callbacks come after the lock: a handler may add or remove peers.
        let mut failed = Vec::new();
        {
            let peers = self.shared.peers.read();
            for message in messages {
                let Some(peer) = peers.get(&message.to()) else {
                    if message.to() != 0 {
                        tracing::debug!("remote-peer-id" = %hex(message.to()), "ignored message to an unknown peer");
                    }
                    continue;
                };
                let snapshot = message.r#type() == MessageType::MsgSnap;
                if peer.push(message) == Sent::Dropped {
                    failed.push((peer.id(), snapshot));
                }
            }
            peers.values().for_each(|peer| peer.wake());
        }
        for (peer, snapshot) in failed {
            self.shared.handler.unreachable(peer);
            if snapshot {
                self.shared.handler.snapshot_status(peer, false);
            }
        }
    }

    /// Since when messages have reached this peer; `None` while they do not.
    pub fn active_since(&self, id: u64) -> Option<Instant> {
        self.shared.peer(id)?.status.since()
    }

    /// How many peers are active.
    pub fn active_peers(&self) -> usize {
        self.shared.peers.read().values().filter(|peer| peer.status.since().is_some()).count()
    }

    /// What has gone to and come from this peer.
    pub fn stats(&self, id: u64) -> Option<PeerStats> {
        Some(self.shared.peer(id)?.stats())
    }

    /// The same of every peer, for `/metrics`.
    pub fn reports(&self) -> Vec<PeerReport> {
        self.shared.peers.read().values().filter(|peer| peer.has_streams()).map(|peer| peer.report()).collect()
    }

    /// Answers peers on this listener until `shutdown` is ready or the transport stops; then closes their connections.
    pub async fn serve(&self, listener: Listener, shutdown: impl Future<Output = ()>) {
        http::serve(self.shared.clone(), listener, shutdown).await;
    }

    /// Drops everything that comes and goes from now on, with the connections kept: a partition, for tests.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::Relaxed);
    }

    /// Ends [`Transport::pause`].
    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::Relaxed);
    }

    /// Closes every connection and ends every `serve`. The transport stays stopped.
    pub fn stop(&self) {
        self.shared.stop();
    }
}

impl Shared {
    fn peer(&self, id: u64) -> Option<Arc<Remote>> {
        self.peers.read().get(&id).cloned()
    }

    fn add(self: &Arc<Self>, id: u64, urls: Vec<String>, streams: bool) {
        if id == self.identity.member_id || id == 0 {
            return;
        }
        let mut peers = self.peers.write();
        if *self.stopped.borrow() {
            return;
        }
        if let Some(known) = peers.get(&id) {
            if streams {
                known.set_urls(urls);
                known.start_streams(self);
            }
            return;
        }
        if !streams && peers.values().filter(|peer| !peer.has_streams()).count() >= MAX_REMOTES {
            return warn!("remote-peer-id" = %hex(id), "ignored remote peer: too many members are unknown to this one");
        }
        peers.insert(id, Remote::start(self, id, urls, streams));
    }

    fn stop(&self) {
        let mut peers = self.peers.write();
        // Peers first: their connections then end because we say so, and are not logged as lost. No peer comes after
        // the flag.
        peers.values().for_each(|peer| peer.stop());
        peers.clear();
        self.stopped.send_replace(true);
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether raft may see this message. The text says why not.
    fn check(&self, message: &Message) -> Result<(), Refusal> {
        use MessageType::*;
        if message.to() != self.identity.member_id {
            return Err(Refusal::NotForUs);
        }
        // A transfer of leadership is forwarded in the name of the member that shall lead, which may be the leader
        // itself.
        let from = message.from();
        let ourselves = from == self.identity.member_id && message.r#type() == MsgTransferLeader;
        if self.handler.is_removed(from) {
            return Err(Refusal::Removed);
        }
        if !ourselves && !self.peers.read().contains_key(&from) {
            return Err(Refusal::Unknown);
        }
        match message.r#type.map_or(Ok(MsgHup), MessageType::try_from) {
            Err(_) => Err(Refusal::UnknownType),
            Ok(MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum) => Err(Refusal::Local),
            Ok(MsgSnap) => Err(Refusal::Snapshot),
            Ok(MsgApp) => check_entries(message),
            Ok(_) => Ok(()),
        }
    }
}

/// Why a message from a peer goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("cannot process message to mismatch member")]
    NotForUs,
    #[error("cannot process message from removed member")]
    Removed,
    #[error("cannot process message from unknown member")]
    Unknown,
    #[error("cannot process message of unknown type")]
    UnknownType,
    #[error("cannot process message that only the member itself may send")]
    Local,
    #[error("cannot process snapshot without its database")]
    Snapshot,
    #[error("cannot process append whose entries are out of order")]
    Entries,
}

/// An append's entries follow its index one by one, in terms that never fall: a log relies on that and stops where it
/// is not so.
fn check_entries(message: &Message) -> Result<(), Refusal> {
    let (mut index, mut term) = (message.index(), message.log_term());
    for entry in &message.entries {
        index = index.checked_add(1).ok_or(Refusal::Entries)?;
        if entry.index() != index || entry.term() < term || entry.term() > message.term() {
            return Err(Refusal::Entries);
        }
        term = entry.term();
    }
    Ok(())
}
