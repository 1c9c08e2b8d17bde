//! `make-mirror`: copies the keys of one cluster to another, and then everything that happens to them, for ever.
//!
//! First every key as it is at one revision, a put each; then every later revision as one transaction, as long as it
//! has no more operations than the destination takes. Leases are not copied, as in etcd: their keys stay until they are
//! deleted. A break of either side is waited for: a write that may have arrived is made again, which changes nothing
//! but the destination's revisions. Nothing is read before the destination has what was read before it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lockstep_proto::etcdserverpb::watch_client::WatchClient;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
    WatchResponse, request_op,
};
use lockstep_proto::mvccpb::event::EventType;
use lockstep_proto::mvccpb::{Event, KeyValue};
use prost::Message;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, interval_at, sleep};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use super::widen;
use crate::ctl::client::{Client, INSIST_PAUSE, Log, is_passing, runtime, stream_error};
use crate::ctl::flags::{Flag, Flags, Kind, flag};
use crate::ctl::progress::REFRESH;
use crate::ctl::{Context, Failure, code, emit_live, say_error};

pub static FLAGS: &[Flag] = &[
    flag("prefix", Kind::Text, "", "mirror the keys that begin with this only"),
    flag("dest-prefix", Kind::Text, "", "what mirrored keys begin with at the destination, instead of --prefix"),
    flag("no-dest-prefix", Kind::Bool, "false", "take the prefix off at the destination"),
    flag("rev", Kind::Int, "0", "go on at this revision, instead of copying every key first"),
    flag("max-txn-ops", Kind::Int, "128", "most operations of one transaction at the destination"),
    flag("dest-cert", Kind::Text, "", "this client's TLS certificate for the destination"),
    flag("dest-key", Kind::Text, "", "the key of this client's TLS certificate for the destination"),
    flag("dest-cacert", Kind::Text, "", "the CA bundle that the destination's certificates are checked with"),
    flag("dest-insecure-transport", Kind::Bool, "true", "talk to the destination without TLS"),
    flag("dest-user", Kind::Text, "", "username[:password] to log in with at the destination"),
    flag("dest-password", Kind::Text, "", "password to log in with at the destination (--dest-user has none then)"),
];
pub static LONG: &str =
    "The destination is one endpoint or several, with commas between them. Every 30 seconds the number of keys and
events that were copied is printed; it never ends by itself. When it ends, it says the --rev to go on with.
";

/// Keys that are asked for at a time, unless they are big, and how much of them is held.
const PAGE_KEYS_MAX: i64 = 1_000;
const PAGE_BYTES: i64 = 4 << 20;
/// Of the first copy, at a time.
const PUTS_UNDER_WAY: usize = 16;
const TELL: Duration = Duration::from_secs(30);

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let [destination] = context.flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "make-mirror takes one destination argument"));
    };
    let destination = String::from_utf8_lossy(destination).into_owned();
    let plan = Plan::read(&context.flags, &destination)?;
    let from = plan.from.max(0);
    let source = Client::open(context)?;
    let endpoints = destination.split(',').map(|endpoint| endpoint.trim().to_string()).collect();
    let destination = Client::with(&source.settings, endpoints, Log::Iso)?;
    let shown = Shown::default();
    let mirror = Mirror { source, destination, plan, shown: shown.clone() };
    runtime().block_on(async {
        let told = tokio::spawn(tell(shown.clone()));
        let listen = |kind| signal(kind).expect("a signal can be listened to");
        let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
        let end = tokio::select! {
            why = mirror.run() => Err(why),
            _ = interrupt.recv() => Ok(libc::SIGINT),
            _ = terminate.recv() => Ok(libc::SIGTERM),
        };
        told.abort();
        if std::io::stdout().is_terminal() {
            emit_live(b"\n");
        }
        let next = shown.next.load(Ordering::Relaxed);
        if next > from {
            say_error(&format!("mirrored up to revision {}: --rev={next} goes on from there", next - 1));
        }
        end.map(die_of)
    })
}

/// Ends as a program does that does not listen to the signal.
fn die_of(signal: libc::c_int) {
    // SAFETY: both calls are safe at any time; the process ends in the second.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// What is to be mirrored, and how.
struct Plan {
    prefix: Vec<u8>,
    dest_prefix: Vec<u8>,
    /// 0: everything there is.
    from: i64,
    ops_max: usize,
}

impl Plan {
    fn read(flags: &Flags, destination: &str) -> Result<Plan, Failure> {
        let refuse = |text: String| Err(Failure::new(code::BAD_ARGS, text));
        for name in ["dest-cert", "dest-key", "dest-cacert", "dest-user"] {
            if !flags.bytes(name).is_empty() {
                return refuse(format!("--{name} is not supported yet"));
            }
        }
        if !flags.bool("dest-insecure-transport") {
            return refuse("--dest-insecure-transport=false is not supported yet".into());
        }
        let secure = |endpoint: &&str| {
            let scheme = endpoint.trim().split(':').next().unwrap_or_default();
            ["https", "unixs"].iter().any(|secure| scheme.eq_ignore_ascii_case(secure))
        };
        if let Some(endpoint) = destination.split(',').find(secure) {
            return refuse(format!("destination {endpoint}: TLS is not supported yet"));
        }
        let (prefix, dest_prefix) = (flags.bytes("prefix"), flags.bytes("dest-prefix"));
        let stripped = flags.bool("no-dest-prefix");
        if stripped && !dest_prefix.is_empty() {
            return refuse("`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one".into());
        }
        let dest_prefix = if !stripped && dest_prefix.is_empty() { prefix } else { dest_prefix };
        let ops_max = match flags.int("max-txn-ops") {
            most @ 1.. => most as usize,
            _ => return refuse("--max-txn-ops has to be at least 1".into()),
        };
        // A mirror from the first revision on is one of everything.
        let from = if flags.int("rev") > 1 { flags.int("rev") } else { 0 };
        Ok(Plan { prefix: prefix.to_vec(), dest_prefix: dest_prefix.to_vec(), from, ops_max })
    }

    fn renamed(&self, key: &[u8]) -> Bytes {
        let rest = key.strip_prefix(self.prefix.as_slice()).unwrap_or(key);
        [self.dest_prefix.as_slice(), rest].concat().into()
    }

    fn put(&self, kv: KeyValue) -> PutRequest {
        PutRequest { key: self.renamed(&kv.key), value: kv.value, ..Default::default() }
    }

    fn range(&self) -> (Bytes, Bytes) {
        widen(&self.prefix, None, true, false)
    }

    /// A key that a reader of the prefix may read.
    fn prefix_key(&self) -> Bytes {
        if self.prefix.is_empty() { "foo".into() } else { self.prefix.clone().into() }
    }

    fn operation(&self, event: &Event) -> Option<RequestOp> {
        let kv = event.kv.clone()?;
        let request = match event.r#type() {
            EventType::Put => request_op::Request::RequestPut(self.put(kv)),
            EventType::Delete => request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                key: self.renamed(&kv.key),
                ..Default::default()
            }),
        };
        Some(RequestOp { request: Some(request) })
    }
}

/// What is said about a mirror while it runs.
#[derive(Clone, Default)]
struct Shown {
    copied: Arc<AtomicU64>,
    /// The revision to go on at; 0 before there is one.
    next: Arc<AtomicI64>,
}

/// A line every 30 seconds; on a terminal, that line is always up to date.
async fn tell(shown: Shown) {
    let is_live = std::io::stdout().is_terminal();
    let mut line = interval_at(Instant::now() + TELL, TELL);
    let mut redraw = interval(REFRESH);
    loop {
        let is_line = tokio::select! {
            _ = line.tick() => true,
            _ = redraw.tick(), if is_live => false,
        };
        let copied = shown.copied.load(Ordering::Relaxed);
        let (begin, end) = (if is_live { "\r" } else { "" }, if is_line { "\n" } else { "" });
        emit_live(format!("{begin}{copied}{end}").as_bytes());
    }
}

struct Mirror {
    source: Client,
    destination: Client,
    plan: Plan,
    shown: Shown,
}

impl Mirror {
    /// Until something cannot be mirrored.
    async fn run(self) -> Failure {
        // One connection, before many writes want it.
        while self.destination.probe(self.destination.deadline()).await.is_err() {
            sleep(INSIST_PAUSE).await;
        }
        let next = match self.plan.from {
            0 => match self.copy_all().await {
                Ok(revision) => revision + 1,
                Err(why) => return Failure::new(code::ERROR, why),
            },
            from => from,
        };
        self.shown.next.store(next, Ordering::Relaxed);
        loop {
            let status = match self.follow().await {
                Ok(status) => self.source.look_at(status),
                Err(why) => return Failure::new(code::ERROR, why),
            };
            if !is_passing(&status) && status.code() != Code::Internal {
                return Failure::new(code::ERROR, stream_error(&status));
            }
            say_error(&format!("the watch of the source broke ({}); beginning it again", stream_error(&status)));
            self.source.leave();
            sleep(INSIST_PAUSE).await;
        }
    }

    /// Copies every key as it is at one revision, which is returned.
    async fn copy_all(&self) -> Result<i64, String> {
        let newest = RangeRequest { key: self.plan.prefix_key(), limit: 1, count_only: true, ..Default::default() };
        let revision = self.source.range_at_last(newest).await?.header.unwrap_or_default().revision;
        let (mut key, range_end) = self.plan.range();
        let mut limit = 64;
        loop {
            let request = RangeRequest { key, range_end: range_end.clone(), limit, revision, ..Default::default() };
            let page = self.source.range_at_last(request).await?;
            limit = (limit * PAGE_BYTES / page.encoded_len().max(1) as i64).clamp(1, PAGE_KEYS_MAX);
            let Some(last) = page.kvs.last() else { return Ok(revision) };
            key = [&last.key, &b"\0"[..]].concat().into();
            let puts = page.kvs.into_iter().map(|kv| async {
                self.destination.put_at_last(self.plan.put(kv)).await?;
                self.shown.copied.fetch_add(1, Ordering::Relaxed);
                Ok::<_, String>(())
            });
            stream::iter(puts).buffered(PUTS_UNDER_WAY).try_collect::<Vec<()>>().await?;
            if !page.more {
                return Ok(revision);
            }
        }
    }

    /// Copies what happens from the next revision on until the watch breaks, and returns how it did.
    async fn follow(&self) -> Result<Status, String> {
        let (requests, queue) = mpsc::unbounded_channel();
        let (key, range_end) = self.plan.range();
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: self.shown.next.load(Ordering::Relaxed),
            // So that a mirror of keys that rest does not fall behind a compaction.
            progress_notify: true,
            ..Default::default()
        };
        let _ = requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        let channel = self.source.connection().await;
        // The stream's window is what holds a source that is faster than the destination.
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut answers = match client.watch(UnboundedReceiverStream::new(queue)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(status),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => self.take(answer).await?,
                Ok(None) => return Ok(Status::unavailable("the watch ended")),
                Err(status) => return Ok(status),
            }
        }
    }

    async fn take(&self, answer: WatchResponse) -> Result<(), String> {
        if answer.compact_revision != 0 {
            return Err("etcdserver: mvcc: required revision has been compacted".into());
        }
        if answer.canceled {
            return Err(answer.cancel_reason);
        }
        if answer.events.is_empty() && !answer.created {
            self.reached(answer.header.unwrap_or_default().revision);
        }
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        for events in answer.events.chunk_by(|a, b| revision(a) == revision(b)) {
            for events in events.chunks(self.plan.ops_max) {
                let ops = events.iter().filter_map(|event| self.plan.operation(event)).collect();
                self.destination.txn_at_last(TxnRequest { success: ops, ..Default::default() }).await?;
                self.shown.copied.fetch_add(events.len() as u64, Ordering::Relaxed);
            }
            self.reached(revision(&events[0]));
        }
        Ok(())
    }

    fn reached(&self, revision: i64) {
        self.shown.next.fetch_max(revision + 1, Ordering::Relaxed);
    }
}
