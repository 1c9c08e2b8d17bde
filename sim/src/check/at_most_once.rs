//! A proposal takes effect at most once (thesis, section 6.3): no request id is committed at two indexes.
//!
//! Ids are made by the member that proposes, of its id, its boot epoch and a count, so a request that is there twice
//! was repeated by the network or by consensus, not asked for twice by a client. Sees the committed entries' headers,
//! each index once. Does not see one entry that is applied twice: that is [`super::applied_hash`]'s.

use std::collections::BTreeMap;

use lockstep_proto::etcdserverpb::InternalRaftRequest;
use lockstep_proto::raftpb::{Entry, EntryType};
use prost::Message;

use super::{Checker, Objection, Seen, object};

#[derive(Debug, Default)]
pub struct AtMostOnce {
    /// Looked at up to this index.
    looked: u64,
    /// Request id -> where it was committed.
    at: BTreeMap<u64, u64>,
}

impl AtMostOnce {
    pub fn new() -> AtMostOnce {
        AtMostOnce::default()
    }

    fn committed(&mut self, entry: &Entry) -> Result<(), Objection> {
        let index = entry.index();
        if index <= self.looked {
            return Ok(());
        }
        self.looked = index;
        let Some(data) = &entry.data else { return Ok(()) };
        let is_request = entry.r#type() == EntryType::EntryNormal && !data.is_empty();
        let Some(request) = is_request.then(|| InternalRaftRequest::decode(data.clone()).ok()).flatten() else {
            return Ok(());
        };
        let id = request.header.map_or(0, |header| header.id);
        match self.at.insert(id, index) {
            Some(first) if id != 0 => object(
                "proposal committed twice",
                format!("request {id:x} is committed at index {index}, and was at index {first}"),
            ),
            _ => Ok(()),
        }
    }
}

impl Checker for AtMostOnce {
    fn name(&self) -> &'static str {
        "at-most-once"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Committed { entries, .. } => entries.iter().try_for_each(|entry| self.committed(entry)),
            _ => Ok(()),
        }
    }
}
