//! A member's data directory in the making: all of it or nothing.
//!
//! It is built as `member.restoring` within the data directory (which may be a mount point, so it is not built beside
//! it), and named `member` last; a log that lies elsewhere gets its name just before. What is cut short leaves that
//! name, and a server that finds it refuses to start. What fails is taken away again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_proto::raftpb::HardState;

use super::file::reason;
use crate::member::boot;
use crate::ports::disk::Disk;
use crate::server::disk::RealDisk;
use crate::wal::{self, Metadata, SnapshotMark, Wal};

pub const MEMBER: &str = "member";
/// The store, below [`Unfinished::disk`]'s root.
pub const STORE: &str = "snap/db";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error("{doing} {}: {}", path.display(), reason(source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("making the write-ahead log: {0}")]
    Log(#[from] wal::Error),
}

/// See the head of this file.
pub struct Unfinished<'a> {
    data_dir: &'a Path,
    wal_dir: Option<&'a Path>,
    /// The data directory was there before.
    was_there: bool,
    is_whole: bool,
}

impl<'a> Unfinished<'a> {
    /// Refuses places where something is; changes nothing yet.
    pub fn check(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), Error> {
        if !is_empty(data_dir) {
            return Err(Error::Refused(format!("data-dir {:?} not empty or could not be read", data_dir.display())));
        }
        if let Some(dir) = wal_dir.filter(|dir| dir.exists()) {
            return Err(Error::Refused(format!("wal-dir {:?} exists", dir.display())));
        }
        Ok(())
    }

    pub fn begin(data_dir: &'a Path, wal_dir: Option<&'a Path>) -> Result<Unfinished<'a>, Error> {
        let unfinished = Unfinished { data_dir, wal_dir, was_there: data_dir.exists(), is_whole: false };
        let snap = "snap";
        let made = unfinished.disk()?.create_dir_all(snap);
        made.map_err(|source| Error::Io { doing: "making", path: unfinished.root().join(snap), source })?;
        Ok(unfinished)
    }

    /// What will be the folder `member`.
    pub fn disk(&self) -> Result<Arc<dyn Disk>, Error> {
        real_disk(&self.root())
    }

    /// Makes a log that goes on behind what the store holds.
    pub fn log_behind(&self, mark: SnapshotMark, metadata: Metadata, state: HardState) -> Result<Wal, Error> {
        let (disk, dir) = self.wal()?;
        let mut wal = Wal::create(disk, &dir, metadata, wal::Options::default())?;
        wal.append_snapshot(mark)?;
        wal.append(Some(&HardState { commit: Some(mark.index), ..state }), &[])?;
        Ok(wal)
    }

    /// Where the log is to be made.
    fn wal(&self) -> Result<(Arc<dyn Disk>, String), Error> {
        let Some(dir) = self.wal_dir else { return Ok((self.disk()?, "wal".to_owned())) };
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = unfinished(dir).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::Refused("--wal-dir names no directory".to_owned()))?;
        Ok((real_disk(above)?, name))
    }

    /// Makes everything durable and gives it its name: from here on it is a member's.
    pub fn finish(mut self) -> Result<(), Error> {
        let (wal_disk, wal_dir) = self.wal()?;
        let synced = self.disk()?.sync_dir("snap").and_then(|()| wal_disk.sync_dir(&wal_dir));
        synced.and_then(|()| File::open(self.root())?.sync_all()).map_err(|source| Error::Io {
            doing: "syncing",
            path: self.root(),
            source,
        })?;
        if let Some(dir) = self.wal_dir {
            rename(&unfinished(dir), dir)?;
        }
        rename(&self.root(), &self.data_dir.join(MEMBER))?;
        self.is_whole = true;
        Ok(())
    }

    fn root(&self) -> PathBuf {
        self.data_dir.join(boot::RESTORING_DIR)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.is_whole {
            return;
        }
        // The error that led here is the one to tell.
        if let Some(dir) = &self.wal_dir {
            let _ = fs::remove_dir_all(unfinished(dir));
            let _ = fs::remove_dir_all(dir);
        }
        let _ = fs::remove_dir_all(self.root());
        if !self.was_there {
            let _ = fs::remove_dir(self.data_dir);
        }
    }
}

pub fn real_disk(root: &Path) -> Result<Arc<dyn Disk>, Error> {
    let disk = RealDisk::new(root);
    Ok(Arc::new(disk.map_err(|source| Error::Io { doing: "making", path: root.to_owned(), source })?))
}

fn unfinished(wal_dir: &Path) -> PathBuf {
    let mut name = wal_dir.as_os_str().to_owned();
    name.push(".restoring");
    name.into()
}

/// Whether nothing is there, or an empty directory.
fn is_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut names) => names.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to).and_then(|()| File::open(above)?.sync_all());
    renamed.map_err(|source| Error::Io { doing: "naming", path: to.to_owned(), source })
}
