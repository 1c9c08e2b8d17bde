//! What a new cluster keeps of a snapshot: keys, leases, users, alarms; nothing of the cluster it was taken from.
//!
//! Members, the cluster's version and how far the log had come belong to the old cluster; the new one has its own
//! members, and a log that begins where it says. The revision may be moved ahead, so that whoever watched the old
//! cluster beyond the snapshot never sees a revision twice; everything below is then compacted.

use bytes::Bytes;

use super::etcd::REVISIONS;
use super::store::{Keep, Loaded, member_entry, progress};
use crate::mvcc::read::Revision;
use crate::mvcc::{Bucket, parse_row_key, row_key};

const SCHEDULED: &[u8] = b"scheduledCompactRev";
const FINISHED: &[u8] = b"finishedCompactRev";

/// See the head of this file. For [`load`](super::store::load).
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// How far the revision moves ahead.
    bump_revision: i64,
    /// Index and term that its log begins behind.
    begins: (u64, u64),
    /// Ids, and what a store says of them.
    members: Vec<(u64, Bytes)>,
    compacted: i64,
}

impl NewCluster {
    pub fn new(bump_revision: i64, begins: (u64, u64), members: Vec<(u64, Bytes)>) -> NewCluster {
        NewCluster { bump_revision, begins, members, compacted: 0 }
    }

    /// The revision that what was loaded stands at, and the one that it is moved to.
    pub fn revisions(&self, loaded: &Loaded) -> (i64, i64) {
        let latest = loaded.revision.max(self.compacted);
        (latest, latest.saturating_add(self.bump_revision))
    }
}

impl Keep for NewCluster {
    fn entry(&mut self, bucket: Bucket, key: &[u8], value: Bytes) -> Result<Option<Bytes>, String> {
        let is_kept = match bucket {
            Bucket::Members | Bucket::MembersRemoved | Bucket::Cluster => false,
            Bucket::Meta if key == SCHEDULED || key == FINISHED => {
                let revision = parse_row_key(&value).filter(|revision| revision.main <= *REVISIONS.end());
                let revision = revision.ok_or("it is no revision")?;
                self.compacted = self.compacted.max(revision.main);
                true
            }
            Bucket::Meta => false,
            Bucket::Alarm | Bucket::Auth | Bucket::AuthRoles | Bucket::AuthUsers | Bucket::Lease => true,
        };
        Ok(is_kept.then_some(value))
    }

    /// A compaction that is scheduled beyond the newest row moves the revision there when the store is opened.
    fn besides(&mut self, loaded: &Loaded) -> Vec<(Bucket, Bytes, Bytes)> {
        let mut entries = Vec::from(progress(self.begins));
        entries.extend(self.members.iter().map(|(id, json)| member_entry(*id, json.clone())));
        if self.bump_revision > 0 {
            let main = self.revisions(loaded).1;
            let place = row_key(Revision { main, sub: 0 });
            entries.push((Bucket::Meta, Bytes::from_static(SCHEDULED), Bytes::copy_from_slice(&place)));
        }
        entries
    }
}
