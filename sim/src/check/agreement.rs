//! State machine safety (Raft, section 5.4.3): no two members, and no two lives of a member, ever commit different
//! entries at an index, or have applied different states there.

use std::collections::BTreeMap;

use lockstep::mvcc::View;
use lockstep::mvcc::read::Read;
use lockstep_proto::raftpb::Entry;
use sha2::{Digest, Sha256};

/// Views at indexes divisible by this are hashed whole.
const HASH_EVERY: u64 = 64;

#[derive(Debug, Default)]
pub struct Agreement {
    /// index -> (term, digest of the entry), by whoever committed it first.
    committed: BTreeMap<u64, (u64, [u8; 8], u64)>,
    /// applied index -> the state there.
    states: BTreeMap<u64, (State, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    revision: i64,
    compact_revision: i64,
    hash: Option<u32>,
}

impl Agreement {
    pub fn committed(&mut self, member: u64, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let digest = Sha256::digest(entry.data());
            let digest: [u8; 8] = digest[..8].try_into().expect("eight bytes");
            let first = *self.committed.entry(entry.index()).or_insert((entry.term(), digest, member));
            if (first.0, first.1) != (entry.term(), digest) {
                return Err(format!(
                    "member {member} commits an entry of term {} at index {}, where member {} committed another, \
                         of term {}",
                    entry.term(),
                    entry.index(),
                    first.2,
                    first.0
                ));
            }
        }
        Ok(())
    }

    pub fn published(&mut self, member: u64, view: &View) -> Result<(), String> {
        let index = view.applied_index();
        let hash = index.is_multiple_of(HASH_EVERY).then(|| view.hash_kv(0).map(|h| h.hash).ok()).flatten();
        let state = State { revision: view.rev(), compact_revision: view.compact_rev(), hash };
        let (first, by) = *self.states.entry(index).or_insert((state, member));
        let hashes_differ = first.hash.is_some() && hash.is_some() && first.hash != hash;
        if (first.revision, first.compact_revision) != (state.revision, state.compact_revision) || hashes_differ {
            return Err(format!("at index {index} member {member} is at {state:?}, member {by} was at {first:?}"));
        }
        Ok(())
    }

    /// The newest index that anybody committed.
    pub fn last(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }
}
