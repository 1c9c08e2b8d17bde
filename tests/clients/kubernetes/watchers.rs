//! Fifty watchers that rebuild the objects from what they hear, and complain of every event that does not fit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_client::{Client, Error, Event, EventType, KeyValue, WatchOptions, WatchRequestSender, WatchResponseStream};

use crate::line;

/// So many have a stream of their own; as many more share one.
const ALONE: usize = 25;
const PATIENCE: Duration = Duration::from_secs(20);

/// Objects by key: value and version. Revisions stay out: they differ from run to run where writers run side by side.
#[derive(Default, Clone, PartialEq)]
pub struct Objects(BTreeMap<Vec<u8>, (Vec<u8>, i64)>);

impl Objects {
    pub fn put(&mut self, kv: &KeyValue) {
        self.0.insert(kv.key().to_vec(), (kv.value().to_vec(), kv.version()));
    }

    /// How many there are, and a sum over all of them (FNV-1a).
    pub fn digest(&self) -> String {
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        for (key, (value, version)) in &self.0 {
            for byte in key.iter().chain(value).chain(&version.to_le_bytes()) {
                sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{} objects, {sum:016x}", self.0.len())
    }

    fn below(&self, prefix: &str) -> Objects {
        let inside = self.0.iter().filter(|(key, _)| key.starts_with(prefix.as_bytes()));
        Objects(inside.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// What one watcher has heard.
struct Heard {
    prefix: String,
    objects: Objects,
    /// The newest revision that this watcher is known to have seen everything of.
    seen: i64,
    last: i64,
    creates: usize,
    updates: usize,
    deletes: usize,
    complaints: Vec<String>,
}

impl Heard {
    fn event(&mut self, e: &Event) {
        let Some(kv) = e.kv() else { return self.complaints.push("an event of nothing".to_owned()) };
        if !kv.key().starts_with(self.prefix.as_bytes()) {
            self.complaints.push(format!("{kv:?} is not below {}", self.prefix));
        }
        if kv.mod_revision() < self.last {
            self.complaints.push(format!("revision {} after {}", kv.mod_revision(), self.last));
        }
        self.last = kv.mod_revision();
        let before = self.objects.0.get(kv.key()).cloned();
        let told = e.prev_kv().map(|p| (p.value().to_vec(), p.version()));
        if before != told {
            self.complaints.push(format!("the former value of {} is another", crate::shown_key(kv)));
        }
        let version = before.map_or(0, |(_, version)| version);
        if e.event_type() == EventType::Delete {
            self.deletes += 1;
            self.objects.0.remove(kv.key());
            return;
        }
        if kv.version() != version + 1 {
            self.complaints.push(format!("version {} of {} after {version}", kv.version(), crate::shown_key(kv)));
        }
        if kv.version() == 1 {
            self.creates += 1;
        } else {
            self.updates += 1;
        }
        self.objects.put(kv);
    }
}

/// A stream and its watchers, by the id of each.
struct Stream {
    sender: WatchRequestSender,
    receiver: WatchResponseStream,
    heard: BTreeMap<i64, Heard>,
}

pub struct Watchers {
    streams: Vec<Stream>,
}

impl Watchers {
    /// Watchers of everything and of single namespaces, from `start` on.
    pub async fn start(live: &str, c: &mut Client, start: i64, namespaces: usize) -> Result<Watchers, Error> {
        let prefix = |n: usize| match n % (namespaces + 1) {
            0 => "/registry/pods/".to_owned(),
            namespace => format!("/registry/pods/ns-{}/", namespace - 1),
        };
        let options = || {
            let o = WatchOptions::new().with_prefix().with_prev_key().with_progress_notify();
            Some(o.with_start_revision(start))
        };
        let mut streams = Vec::new();
        for n in 0..ALONE {
            let mut own = Client::connect([live], None).await?;
            let (sender, receiver) = own.watch(prefix(n), options()).await?.split();
            let mut stream = Stream { sender, receiver, heard: BTreeMap::new() };
            stream.add(prefix(n), start).await?;
            streams.push(stream);
        }
        let (sender, receiver) = c.watch(prefix(0), options()).await?.split();
        let mut shared = Stream { sender, receiver, heard: BTreeMap::new() };
        shared.add(prefix(0), start).await?;
        for n in 1..ALONE {
            shared.sender.watch(prefix(n), options()).await?;
            shared.add(prefix(n), start).await?;
        }
        streams.push(shared);
        line("watchers", &streams.iter().map(|s| s.heard.len()).sum::<usize>().to_string());
        Ok(Watchers { streams })
    }

    /// Reads until every watcher has seen `revision`, and asks for progress as long as one has not.
    pub async fn catch_up(&mut self, revision: i64) -> Result<(), Error> {
        let mut late = 0;
        for stream in &mut self.streams {
            late += usize::from(!stream.catch_up(revision).await?);
        }
        line("streams that hear of the newest revision", &(self.streams.len() - late).to_string());
        Ok(())
    }

    /// Compares what each watcher has with what is listed, and prints it.
    pub fn report(&self, name: &str, listed: &Objects) {
        for (s, stream) in self.streams.iter().enumerate() {
            for (id, heard) in &stream.heard {
                let is_equal = heard.objects == listed.below(&heard.prefix);
                let text = format!(
                    "{} creates={} updates={} deletes={} equal to the list: {is_equal}, complaints: {:?}",
                    heard.prefix,
                    heard.creates,
                    heard.updates,
                    heard.deletes,
                    &heard.complaints[..heard.complaints.len().min(3)]
                );
                line(&format!("{name}, stream {s}, watcher {id}"), &text);
            }
        }
    }

    /// Waits until every stream has heard of progress without asking.
    pub async fn hear_progress(&mut self, revision: i64) -> Result<String, Error> {
        let mut told = 0;
        for stream in &mut self.streams {
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                let next = tokio::time::timeout(PATIENCE, stream.receiver.message()).await;
                let Ok(Ok(Some(r))) = next else { break };
                let is_new = r.header().map_or(0, |h| h.revision()) >= revision;
                if r.events().is_empty() && !r.canceled() && is_new && r.watch_id() >= 0 {
                    told += 1;
                    break;
                }
            }
        }
        Ok(format!("{told} streams"))
    }
}

impl Stream {
    /// Waits for the answer to a watcher's creation, and keeps what others say meanwhile.
    async fn add(&mut self, prefix: String, start: i64) -> Result<(), Error> {
        while let Some(r) = self.receiver.message().await? {
            if r.created() {
                let heard = Heard {
                    prefix,
                    objects: Objects::default(),
                    seen: start - 1,
                    last: 0,
                    creates: 0,
                    updates: 0,
                    deletes: 0,
                    complaints: Vec::new(),
                };
                self.heard.insert(r.watch_id(), heard);
                break;
            }
        }
        Ok(())
    }

    async fn catch_up(&mut self, revision: i64) -> Result<bool, Error> {
        let deadline = Instant::now() + PATIENCE;
        while self.heard.values().any(|heard| heard.seen < revision) {
            if Instant::now() > deadline {
                return Ok(false);
            }
            let Ok(next) = tokio::time::timeout(Duration::from_millis(200), self.receiver.message()).await else {
                self.sender.request_progress().await?;
                continue;
            };
            let Some(r) = next? else { return Ok(false) };
            let at = r.header().map_or(0, |h| h.revision());
            if r.canceled() {
                line("a watcher is cancelled", &format!("{} {}", r.watch_id(), r.cancel_reason()));
                return Ok(false);
            }
            for (id, heard) in &mut self.heard {
                if *id != r.watch_id() && r.watch_id() != -1 {
                    continue;
                }
                for e in r.events() {
                    heard.event(e);
                }
                // An answer without events is progress: everything up to its revision has been sent.
                let is_progress = r.events().is_empty() && !r.created();
                heard.seen = heard.seen.max(if is_progress { at } else { heard.last });
            }
        }
        Ok(true)
    }
}
