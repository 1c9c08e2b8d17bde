//! Scheduled backups as they lie in a folder: listed, and verified as the server did before it gave them their names.

use std::path::{Path, PathBuf};

use super::file::{self, Snapshot, reason};
use crate::interop::backup;
pub use crate::interop::backup::Backup;
use crate::interop::status::Status;
use crate::server::backups::list;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] file::Error),
    #[error("{}: {source}", path.display())]
    Bad { path: PathBuf, source: backup::Error },
    #[error("reading {}: {}", path.display(), reason(source))]
    Folder { path: PathBuf, source: std::io::Error },
}

/// A folder's backups, oldest first, with their lengths.
pub fn of(dir: &Path) -> Result<Vec<(Backup, u64)>, Error> {
    list(dir).map_err(|source| Error::Folder { path: dir.to_owned(), source })
}

/// Reads the whole file. Any snapshot will do; a name that is a backup's must be true.
pub fn verify(path: &Path) -> Result<Status, Error> {
    let said = path.file_name().and_then(|name| Backup::parse(name.to_str()?)).map(|backup| backup.revision);
    let snapshot = Snapshot::open(path, "open")?;
    backup::verify(&&snapshot, snapshot.bytes(), said).map_err(|source| Error::Bad { path: path.to_owned(), source })
}
