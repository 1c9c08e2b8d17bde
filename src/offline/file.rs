//! A snapshot file: opened, judged by its digest, and read in any order.

use std::cell::RefCell;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::interop::bbolt::{self, Db};
use crate::interop::etcd::{self, Etcd};
use crate::interop::{ReadAt, snapshot};

/// What there is to do about a database or a log that has them.
pub const NO_AUTH: &str = "users and roles are not supported yet: start an etcd on this data, run `etcdctl auth \
     disable`, and stop it with SIGTERM and import its directory, or restore a snapshot of it";

/// An open snapshot file, or a database without a digest behind it.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    file: File,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In Go's words, which scripts know.
    #[error("{doing} {}: {}", path.display(), reason(source))]
    Open { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {detail}", path.display())]
    NoFile { path: PathBuf, detail: &'static str },
    #[error(transparent)]
    Digest(#[from] snapshot::Error),
    #[error(transparent)]
    Database(#[from] bbolt::Error),
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
    #[error("{} is in use: stop the etcd that runs on it first", path.display())]
    InUse { path: PathBuf },
    #[error("{}: authentication is enabled; {NO_AUTH}", path.display())]
    Auth { path: PathBuf },
}

impl Snapshot {
    /// `doing` is what an error says was tried.
    pub fn open(path: &Path, doing: &'static str) -> Result<Snapshot, Error> {
        let failed = |source| Error::Open { doing, path: path.to_owned(), source };
        // A pipe would wait for its writer, and cannot be read in any order.
        let kind = std::fs::metadata(path).map_err(failed)?;
        if !kind.is_file() {
            return Err(Error::NoFile { path: path.to_owned(), detail: "it is not a file" });
        }
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Snapshot { path: path.to_owned(), file, bytes })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// See [`lock`].
    pub fn lock(&self) -> Result<(), Error> {
        lock(&self.file, &self.path)
    }

    /// Of the file, the digest included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the whole file and compares its digest; `skip` takes any, or none.
    pub fn verify(&self, skip: bool) -> Result<(), Error> {
        if !skip {
            snapshot::verify(&self, self.bytes)?;
        }
        Ok(())
    }

    /// How long the database in it is.
    pub fn database_bytes(&self) -> u64 {
        snapshot::database_bytes(self.bytes).0
    }

    pub fn database(&self) -> Result<Db<&Snapshot>, Error> {
        Ok(Db::open(self, self.database_bytes())?)
    }

    /// etcd's database in it, unless authentication guards it: what only some may read would be open to all.
    pub fn unguarded(&self) -> Result<Etcd<&Snapshot>, Error> {
        let etcd = Etcd::new(self.database()?)?;
        match etcd.auth()?.is_enabled {
            true => Err(Error::Auth { path: self.path.clone() }),
            false => Ok(etcd),
        }
    }
}

/// Keeps etcd away from its database as long as the file is open, and notices one that is there.
pub fn lock(file: &File, path: &Path) -> Result<(), Error> {
    let path = || path.to_owned();
    file.try_lock_shared().map_err(|error| match error {
        TryLockError::WouldBlock => Error::InUse { path: path() },
        TryLockError::Error(source) => Error::Open { doing: "lock", path: path(), source },
    })
}

impl ReadAt for Snapshot {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
}

/// Tells how much of it was read.
pub struct Watched<'a> {
    file: &'a Snapshot,
    told: RefCell<(u64, &'a mut dyn FnMut(u64))>,
}

impl<'a> Watched<'a> {
    pub fn new(file: &'a Snapshot, tell: &'a mut dyn FnMut(u64)) -> Watched<'a> {
        Watched { file, told: RefCell::new((0, tell)) }
    }
}

impl ReadAt for Watched<'_> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)?;
        let (bytes, tell) = &mut *self.told.borrow_mut();
        // A page may be read more than once.
        *bytes = (*bytes + out.len() as u64).min(self.file.database_bytes());
        tell(*bytes);
        Ok(())
    }
}

/// As Go says it.
pub fn reason(error: &io::Error) -> String {
    crate::server::log::errno_text(error)
}
