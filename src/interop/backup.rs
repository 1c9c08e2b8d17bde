//! Backups: what the file of one is called, which have served their time, and what makes one good.
//!
//! It knows no folder and no clock. A backup is a snapshot, so whatever restores snapshots restores it; its name says
//! of which cluster it is, when it was taken and at which revision: a folder may be shared, and is its own index.

use std::fmt;

use super::ReadAt;
use super::bbolt::{self, Db};
use super::etcd::{self, Etcd};
use super::snapshot;
use super::status::{self, Status};
use crate::calendar::Civil;

/// The year 10000 has no room in a name.
const MAX_TAKEN_S: u64 = 253_402_300_799;

/// One backup, as its name tells of it; ordered by the time it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backup {
    /// Seconds of Unix time.
    pub taken_s: u64,
    pub revision: i64,
    pub cluster_id: u64,
}

/// Why a file is no backup to rely on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Digest(#[from] snapshot::Error),
    #[error(transparent)]
    Database(#[from] bbolt::Error),
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
    #[error("it ends at revision {found}, and is to be of revision {said}")]
    OtherRevision { said: i64, found: i64 },
}

impl Backup {
    /// `None` for every name that is not exactly one of ours.
    pub fn parse(name: &str) -> Option<Backup> {
        let mut words = name.strip_prefix("backup-")?.strip_suffix(".db")?.split('-');
        let (cluster, taken, revision) = (words.next()?, words.next()?, words.next()?);
        let backup = Backup {
            cluster_id: u64::from_str_radix(cluster, 16).ok()?,
            taken_s: parse_time(taken)?,
            revision: revision.parse().ok()?,
        };
        (backup.to_string() == name).then_some(backup)
    }

    /// When it was taken, for people.
    pub fn taken(&self) -> String {
        format!("{}Z", self.civil())
    }

    fn civil(&self) -> Civil {
        Civil::of_unix(self.taken_s.min(MAX_TAKEN_S) as i64)
    }
}

impl fmt::Display for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second } = self.civil();
        let (cluster, revision) = (self.cluster_id, self.revision);
        write!(f, "backup-{cluster:016x}-{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{revision}.db")
    }
}

/// Those that are older than `retention_s` (0 keeps all) once `newest` has been verified, which is never one of them.
/// Other clusters' are nobody's business.
pub fn expired(backups: &[Backup], newest: &Backup, now_s: u64, retention_s: u64) -> Vec<Backup> {
    let is_old = |backup: &&Backup| {
        backup.cluster_id == newest.cluster_id
            && *backup != newest
            && retention_s > 0
            && now_s.saturating_sub(backup.taken_s) > retention_s
    };
    backups.iter().filter(is_old).copied().collect()
}

/// Reads a whole backup: its digest, every page, and every row as a restore would. `said` is its name's revision.
pub fn verify(source: &impl ReadAt, bytes: u64, said: Option<i64>) -> Result<Status, Error> {
    let database = snapshot::verify(source, bytes)?;
    let etcd = Etcd::new(Db::open(source, database)?)?;
    etcd.key_rows()?.try_for_each(|row| row.map(drop))?;
    etcd.check_entries()?;
    let status = status::status(etcd.db())?;
    match said {
        Some(said) if said < status.revision => Err(Error::OtherRevision { said, found: status.revision }),
        _ => Ok(status),
    }
}

/// The other way; [`Backup::parse`] finds out whether it is a time at all.
fn parse_time(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    u64::try_from(Civil { year, month, day, hour, minute, second }.unix_s()).ok()
}
