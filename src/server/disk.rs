//! The real disk: the `Disk` port on `std::fs`, and the lock that keeps a second process out of a data directory.
//!
//! Files are made with mode 0600 and folders with 0700; descriptors are closed on exec (std's default). It caches
//! nothing, and never follows a path out of its root. A change that finds no space is tried again only where `room`
//! says so.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::room::retried;
use crate::ports::disk::{Disk, DiskFile, Open};

const ZERO_BYTES: usize = 1 << 20;

/// A folder of the real file system as a [`Disk`].
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Makes the folder when it is missing, durably.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        if !root.is_dir() {
            create_dirs(&root)?;
            let mut above = root.parent();
            while let Some(dir) = above {
                let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                // A folder we may not open was not made by us just now.
                let Ok(handle) = File::open(dir) else { break };
                handle.sync_all()?;
                above = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            }
        }
        Ok(RealDisk { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file system's path for one of the port's.
    fn locate(&self, path: &str) -> io::Result<PathBuf> {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.contains('\0') {
            let message = format!("path {path:?} leaves {}", self.root.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(self.root.join(path))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match how {
            Open::Existing => {}
            Open::CreateNew => _ = options.create_new(true),
            Open::CreateOrExisting => _ = options.create(true).truncate(false),
        }
        let path = self.locate(path)?;
        let file = retried(&path, || options.open(&path))?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.locate(path)?.try_exists()
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        create_dirs(&self.locate(path)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.locate(path)?)? {
            let name = entry?.file_name();
            // No name of ours is anything but ASCII.
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.locate(from)?, self.locate(to)?);
        retried(&to, || fs::rename(&from, &to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.locate(path)?)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.locate(path)?)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// As it was opened: for messages.
    path: PathBuf,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        retried(&self.path, || self.file.write_all_at(data, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        retried(&self.path, || self.file.set_len(len))
    }

    /// Reserves the blocks first, so that a full disk shows at once and the file lies in one piece, then writes the
    /// zeros: a block that is only reserved costs a change of metadata when it is first written, inside somebody's
    /// fdatasync.
    fn allocate(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len <= old {
            return Ok(());
        }
        retried(&self.path, || {
            let grown = reserve(&self.file, old, len - old).and_then(|()| write_zeros(&self.file, old, len));
            if grown.is_err() {
                // The first error is the one to tell.
                let _ = self.file.set_len(old);
            }
            grown
        })
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len <= old { Ok(()) } else { retried(&self.path, || reserve(&self.file, old, len - old)) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_back(&self) {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
            // SAFETY: the descriptor is this file's; the call touches no memory. It is advice: a sync tells of errors.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, how) };
        }
    }
}

/// Holds a data directory against other processes for as long as it lives.
///
/// etcd locks `member/snap/db` and each WAL file; one file beside them, locked before anything is opened, does for
/// both.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Locks `dir` through the file `lock` in it, without waiting.
    pub fn acquire(dir: &Path) -> io::Result<DirLock> {
        let path = dir.join("lock");
        let named = |error: io::Error| {
            let message = format!(
                "cannot lock the data directory by {}: {error}; check its owner and permissions",
                path.display()
            );
            io::Error::new(error.kind(), message)
        };
        create_dirs(dir).map_err(named)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(named)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let message = format!(
                    "{} is in use by another process (pid {}); stop that one first, or give this one its own \
                     --data-dir",
                    dir.display(),
                    holder.trim()
                );
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(TryLockError::Error(error)) => return Err(named(error)),
        }
        file.set_len(0).map_err(named)?;
        writeln!(file, "{}", std::process::id()).map_err(named)?;
        Ok(DirLock { _file: file })
    }
}

fn create_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What of the file system that holds `path` is free for such as us.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros are a valid value of this plain struct.
    let mut stats: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a NUL and the struct is ours; both outlive the call.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stats) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Their widths differ between systems.
    #[allow(clippy::unnecessary_cast)]
    Ok((stats.f_bavail as u64).saturating_mul(stats.f_frsize as u64))
}

fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let offset = libc::off_t::try_from(offset).map_err(out_of_range)?;
    let len = libc::off_t::try_from(len).map_err(out_of_range)?;
    loop {
        // SAFETY: plain numbers and a descriptor that `file` keeps open; no memory is shared.
        if unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // The file system cannot; writing the zeros does the same, only slower.
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(()),
            _ => return Err(error),
        }
    }
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES.min((to - from) as usize)];
    let mut offset = from;
    while offset < to {
        let count = (zeros.len() as u64).min(to - offset);
        file.write_all_at(&zeros[..count as usize], offset)?;
        offset += count;
    }
    Ok(())
}
