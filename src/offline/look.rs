//! A data directory of ours is looked at, and nothing of it is changed: not even what a boot would repair. What would
//! be written is dropped on the way to the disk, so that the code which opens a store and a log for a member opens them
//! here as well, with every check that it makes.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::MEMBER;
use super::file::reason;
use crate::member::boot;
use crate::mvcc::{self, Backend, Store};
use crate::ports::disk::{Disk, DiskFile, Open};
use crate::server::disk::RealDisk;
use crate::wal::{self, Recovered, Wal};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] mvcc::OpenError),
    #[error(transparent)]
    Log(#[from] wal::Error),
    #[error(transparent)]
    Boot(#[from] boot::Error),
    #[error(transparent)]
    Read(#[from] mvcc::read::Error),
}

/// The data directory of a member that does not run, and cannot be started as long as this is there.
#[derive(Debug)]
pub struct Stopped {
    disk: Arc<dyn Disk>,
    wal_disk: Arc<dyn Disk>,
    wal_dir: String,
    _lock: Option<File>,
}

impl Stopped {
    pub fn open(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Stopped, Error> {
        let refused = |text: String| Err(Error::Refused(text));
        let shown = data_dir.display();
        if data_dir.join(boot::RESTORING_DIR).exists() {
            return Err(boot::Error::Restoring.into());
        }
        let member = data_dir.join(MEMBER);
        if let Err(error) = fs::metadata(&member)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return refused(format!("open {}: {}", member.display(), reason(&error)));
        }
        if !member.is_dir() {
            return refused(format!("{shown} is no data directory: there is no {}", member.display()));
        }
        let lock = lock(data_dir)?;
        let disk: Arc<dyn Disk> = Arc::new(Untouched { real: real(data_dir)?, root: data_dir.to_owned() });
        let (wal_disk, wal_dir) = match wal_dir {
            None => (disk.clone(), boot::WAL_DIR.to_owned()),
            Some(dir) => {
                let wal_disk: Arc<dyn Disk> = Arc::new(Untouched { real: real(dir)?, root: dir.to_owned() });
                (wal_disk, String::new())
            }
        };
        Ok(Stopped { disk, wal_disk, wal_dir, _lock: lock })
    }

    /// The store, every page of which has been verified.
    pub fn store(&self) -> Result<Looked, Error> {
        if !self.disk.exists(boot::STORE_PATH).unwrap_or(false) {
            return Err(self.without_store());
        }
        open_store(&self.disk, boot::STORE_PATH)
    }

    /// What is lost with the store, by what the log still has.
    fn without_store(&self) -> Error {
        let path = boot::STORE_PATH;
        if !Wal::exists(&*self.wal_disk, &self.wal_dir).unwrap_or(false) {
            return Error::Refused(format!(
                "there is neither a store {path} nor a log: nothing ever ran here, or --wal-dir was another"
            ));
        }
        match self.log() {
            Ok((_, log)) if log.first_index > 1 => {
                boot::Error::LogTooLate { before: log.first_index - 1, applied: 0 }.into()
            }
            Ok(_) => Error::Refused(format!(
                "the store {path} is missing, and the log is there from its first entry on: a member that is started \
                 makes the store anew from it"
            )),
            Err(error) => error,
        }
    }

    /// The log, every record of which has been verified; no entry is in memory.
    pub fn log(&self) -> Result<(Wal, Recovered), Error> {
        let options = wal::Options { sync: false, ..wal::Options::default() };
        Ok(Wal::open(self.wal_disk.clone(), &self.wal_dir, options, u64::MAX)?)
    }

    /// Whether log and store belong together, as a boot asks.
    pub fn check(&self, store: &Store, log: &Recovered) -> Result<(), Error> {
        boot::reaches(log.first_index, log.last_index, log.snapshot, store.consistent_index())?;
        Ok(())
    }
}

/// A store that stays as it is.
#[derive(Debug)]
pub struct Looked {
    pub store: Store,
    backend: Backend,
}

impl Drop for Looked {
    fn drop(&mut self) {
        self.backend.poison();
    }
}

/// A store's file by itself.
pub fn open_file(path: &Path) -> Result<Looked, Error> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let disk: Arc<dyn Disk> = Arc::new(Untouched { real: real(above)?, root: above.to_owned() });
    open_store(&disk, &name)
}

fn open_store(disk: &Arc<dyn Disk>, path: &str) -> Result<Looked, Error> {
    let (store, backend) = Store::open(disk.clone(), path, mvcc::Options::default())?;
    Ok(Looked { store, backend })
}

/// Keeps servers out. A directory without the file, a copy, has nobody who would run in it.
fn lock(data_dir: &Path) -> Result<Option<File>, Error> {
    let path = data_dir.join(MEMBER).join("lock");
    let Ok(file) = File::open(&path) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            Err(Error::Refused(format!(
                "{} is in use by a running server (pid {}): stop it first, or ask it by --endpoints",
                data_dir.display(),
                holder.trim()
            )))
        }
        Err(TryLockError::Error(error)) => {
            Err(Error::Refused(format!("locking {}: {}", path.display(), reason(&error))))
        }
    }
}

fn real(dir: &Path) -> Result<RealDisk, Error> {
    if !dir.is_dir() {
        return Err(Error::Refused(format!("there is no directory {}", dir.display())));
    }
    RealDisk::new(dir).map_err(|error| Error::Refused(format!("open {}: {}", dir.display(), reason(&error))))
}

/// A disk that takes every change and makes none.
#[derive(Debug)]
struct Untouched {
    real: RealDisk,
    root: PathBuf,
}

impl Disk for Untouched {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::CreateNew {
            return Err(io::Error::other("nothing is created while a directory is looked at"));
        }
        Ok(Arc::new(UntouchedFile { file: File::open(self.root.join(path))? }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.real.exists(path)
    }

    fn create_dir_all(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.real.list(path)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct UntouchedFile {
    file: File,
}

impl DiskFile for UntouchedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
