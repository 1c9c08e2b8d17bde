//! Watches, as a client library has them: a watcher has a name of its own and outlives the stream that it is on.
//!
//! ```text
//! watch 5 hot0                               a key, from now on
//! watch 5 hot to hou from 17                 a range, from a revision on: past, future or compacted
//! watch 5 hot0 prev no-put no-delete notify fragment
//! watch 5 hot0 slow 50ms                     its reader takes so long for each response
//! watch 6 cas0 beside 5                      on the stream of watcher 5
//! resume 5                                   over there, from the next revision: with all of its stream
//! cancel 5                                   progress 5
//! ```

use std::fmt;

use lockstep_proto::etcdserverpb::watch_create_request::FilterType;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest};

use crate::fault::{Words, print_time};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchAsk {
    Create { watcher: u64, spec: WatchSpec, beside: Option<u64>, slow_us: u64 },
    Resume { watcher: u64 },
    Cancel { watcher: u64 },
    Progress { watcher: u64 },
}

/// What a watcher wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchSpec {
    pub key: String,
    pub end: Option<String>,
    /// 0: from now on.
    pub from: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub notify: bool,
    pub fragment: bool,
}

impl WatchSpec {
    pub fn covers(&self, key: &[u8]) -> bool {
        match &self.end {
            None => key == self.key.as_bytes(),
            Some(end) => self.key.as_bytes() <= key && key < end.as_bytes(),
        }
    }

    /// As it is asked for on a stream, from this revision on.
    pub fn request(&self, watcher: u64, from: i64) -> WatchRequest {
        let filters = [(self.no_put, FilterType::Noput), (self.no_delete, FilterType::Nodelete)];
        let create = WatchCreateRequest {
            key: bytes(&self.key),
            range_end: self.end.as_deref().map(bytes).unwrap_or_default(),
            start_revision: from,
            progress_notify: self.notify,
            filters: filters.iter().filter(|(on, _)| *on).map(|(_, filter)| *filter as i32).collect(),
            prev_kv: self.prev_kv,
            watch_id: watcher as i64,
            fragment: self.fragment,
        };
        WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    }
}

pub fn cancel(watcher: u64) -> WatchRequest {
    let cancel = WatchCancelRequest { watch_id: watcher as i64 };
    WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) }
}

pub fn progress() -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) }
}

impl WatchAsk {
    pub fn watcher(&self) -> u64 {
        match self {
            WatchAsk::Create { watcher, .. }
            | WatchAsk::Resume { watcher }
            | WatchAsk::Cancel { watcher }
            | WatchAsk::Progress { watcher } => *watcher,
        }
    }

    pub fn parse(verb: &str, words: &mut Words) -> Result<Option<WatchAsk>, String> {
        if !matches!(verb, "watch" | "resume" | "cancel" | "progress") {
            return Ok(None);
        }
        let watcher = words.number("a watcher")?;
        // Ids on the wire are signed, and 0 leaves the choice to the member.
        if !(1..=u64::from(u32::MAX)).contains(&watcher) {
            return Err(format!("watchers have numbers from 1 to {}", u32::MAX));
        }
        Ok(Some(match verb {
            "resume" => WatchAsk::Resume { watcher },
            "cancel" => WatchAsk::Cancel { watcher },
            "progress" => WatchAsk::Progress { watcher },
            _ => create(watcher, words)?,
        }))
    }
}

fn create(watcher: u64, words: &mut Words) -> Result<WatchAsk, String> {
    let mut spec = WatchSpec { key: super::lock::word(words, "a key")?, ..WatchSpec::default() };
    if words.take("to") {
        let end = super::lock::word(words, "the end of the range")?;
        if end <= spec.key {
            return Err("a range ends behind its first key".into());
        }
        spec.end = Some(end);
    }
    if words.take("from") {
        let from = words.number("a revision")?;
        spec.from = i64::try_from(from).map_err(|_| format!("{from} is no revision"))?;
    }
    spec.prev_kv = words.take("prev");
    spec.no_put = words.take("no-put");
    spec.no_delete = words.take("no-delete");
    spec.notify = words.take("notify");
    spec.fragment = words.take("fragment");
    let slow_us = if words.take("slow") { words.time_us("slow")? } else { 0 };
    let beside = if words.take("beside") { Some(words.number("a watcher")?) } else { None };
    Ok(WatchAsk::Create { watcher, spec, beside, slow_us: slow_us.min(60_000_000) })
}

impl fmt::Display for WatchAsk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchAsk::Create { watcher, spec, beside, slow_us } => {
                write!(out, "watch {watcher} {spec}")?;
                if *slow_us > 0 {
                    write!(out, " slow {}", print_time(*slow_us))?;
                }
                beside.map_or(Ok(()), |beside| write!(out, " beside {beside}"))
            }
            WatchAsk::Resume { watcher } => write!(out, "resume {watcher}"),
            WatchAsk::Cancel { watcher } => write!(out, "cancel {watcher}"),
            WatchAsk::Progress { watcher } => write!(out, "progress {watcher}"),
        }
    }
}

impl fmt::Display for WatchSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.key)?;
        if let Some(end) = &self.end {
            write!(out, " to {end}")?;
        }
        if self.from != 0 {
            write!(out, " from {}", self.from)?;
        }
        let flags = [
            (self.prev_kv, "prev"),
            (self.no_put, "no-put"),
            (self.no_delete, "no-delete"),
            (self.notify, "notify"),
            (self.fragment, "fragment"),
        ];
        flags.iter().filter(|(on, _)| *on).try_for_each(|(_, word)| write!(out, " {word}"))
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}
