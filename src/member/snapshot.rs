//! Snapshots between members: a view of the store as an etcd database, and such a database as a store of ours.
//!
//! A member that lacks what the log has released is sent a [`write`]n view. It [`receive`]s it under a name of its own,
//! whole and durable, before consensus hears of it; consensus makes the log go on behind it, and only then it is
//! [`install`]ed. A crash anywhere in between leaves what `boot` puts in order: a store that the log says is the
//! member's, or a file that is of no use to anybody.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::boot::{SNAP_DIR, STORE_PATH};
use super::membership::Member;
use super::raft::SnapshotMeta;
use crate::interop::store::{self, Export, For, Keep};
use crate::interop::{ReadAt, snapshot};
use crate::mvcc::{self, Backend, Bucket, Store, View};
use crate::ports::disk::Disk;

const SUFFIX: &str = ".snap.store";

/// Where the store of a received snapshot lies until it takes the store's place.
pub fn path(index: u64) -> String {
    format!("{SNAP_DIR}/{index:016x}{SUFFIX}")
}

/// Whether a name in [`SNAP_DIR`] is of a snapshot that was on its way.
pub fn is_unfinished(name: &str) -> bool {
    name.contains(".snap.")
}

/// Puts the store of a received snapshot in place. The log goes on behind it by now: if this is cut short, the next
/// boot does it.
pub fn put_in_place(disk: &dyn Disk, index: u64) -> io::Result<()> {
    disk.rename(&path(index), STORE_PATH)?;
    disk.sync_dir(SNAP_DIR)
}

/// [`put_in_place`] for a member that runs: whoever reads the former store goes on reading it.
pub fn install(disk: &Arc<dyn Disk>, index: u64, options: mvcc::Options) -> Result<(Store, Backend), mvcc::OpenError> {
    let io = |source| mvcc::OpenError::Io { path: path(index), doing: "installing", source };
    if !mutation!(InstalledBeforeLog) {
        put_in_place(&**disk, index).map_err(io)?;
    }
    sometimes!("received snapshot installed");
    Store::open(disk.clone(), STORE_PATH, options)
}

/// A received snapshot is of no use.
pub fn discard(disk: &dyn Disk, index: u64) -> io::Result<()> {
    if !mutation!(InstalledBeforeLog) {
        disk.remove(&path(index))?;
    }
    disk.sync_dir(SNAP_DIR)
}

/// Writes a view for another member, in pieces as they come.
pub fn write(view: &Arc<View>, out: &mut dyn io::Write) -> Result<(), store::Error> {
    Export::new(view.clone(), For::Member)?.write(out).map(drop)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Digest(#[from] snapshot::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("it is of entry {found}, and its sender says {said}")]
    OtherIndex { said: u64, found: u64 },
    #[error("its members are not those that its sender says")]
    OtherMembers,
}

/// Makes a store of a snapshot that came, `bytes` long, and puts it where [`install`] looks for it.
pub fn receive(disk: &Arc<dyn Disk>, image: &dyn ReadAt, bytes: u64, meta: &SnapshotMeta) -> Result<(), Error> {
    let (database, is_sealed) = snapshot::database_bytes(bytes);
    if is_sealed {
        snapshot::verify(&image, bytes)?;
    }
    let mut said = Said::default();
    let path = path(meta.index);
    // One that came before, and of which consensus has not heard.
    if disk.exists(&path).map_err(store::Error::from)? {
        disk.remove(&path).map_err(store::Error::from)?;
    }
    store::load(disk, &path, image, database, &mut said)?;
    let judged = said.judge(meta);
    if judged.is_ok() && mutation!(InstalledBeforeLog) {
        put_in_place(&**disk, meta.index).map_err(store::Error::from)?;
    }
    if judged.is_err() {
        discard(&**disk, meta.index).map_err(store::Error::from)?;
    }
    judged
}

/// What a database says of itself.
#[derive(Default)]
struct Said {
    index: u64,
    members: Vec<Member>,
}

impl Keep for Said {
    fn entry(&mut self, bucket: Bucket, key: &[u8], value: Bytes) -> Result<Option<Bytes>, String> {
        match bucket {
            Bucket::Meta if key == b"consistent_index" => {
                let index = <[u8; 8]>::try_from(&value[..]).map_err(|_| "it is no number".to_owned())?;
                self.index = u64::from_be_bytes(index);
            }
            Bucket::Members => {
                self.members.push(serde_json::from_slice(&value).map_err(|e| format!("it is no member: {e}"))?);
            }
            _ => {}
        }
        Ok(Some(value))
    }
}

impl Said {
    fn judge(&self, meta: &SnapshotMeta) -> Result<(), Error> {
        if self.index != meta.index {
            return Err(Error::OtherIndex { said: meta.index, found: self.index });
        }
        let ids = |is_learner| {
            let mut ids: Vec<u64> = self.members.iter().filter(|m| m.is_learner == is_learner).map(|m| m.id).collect();
            ids.sort_unstable();
            ids
        };
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        let conf_state = &meta.conf_state;
        match ids(false) == sorted(&conf_state.voters) && ids(true) == sorted(&conf_state.learners) {
            true => Ok(()),
            false => Err(Error::OtherMembers),
        }
    }
}
