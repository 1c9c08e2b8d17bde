//! Segment files: their names, how one is built, recycled and prepared ahead of need.
//!
//! A segment gets its name only when its header is durable and the name itself is made durable before a record goes in.
//! So a file called `<sequence>.seg` always has a whole header, and a file of any other name holds nothing that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::error::Error;
use super::format::Header;
use super::sectors::{SECTOR_BYTES, Sectors};
use crate::ports::disk::{Disk, Open};

/// Spare files kept for the next segments; more are removed.
pub const SPARES: usize = 2;
const SUFFIX: &str = ".seg";
const SPARE_SUFFIX: &str = ".spare";
const BUILDING: &str = "next.tmp";
const FRESH_BUILDING: &str = "fresh.tmp";
const FRESH: &str = "fresh.spare";

pub fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}{SUFFIX}")
}

pub fn spare_name(sequence: u64) -> String {
    format!("{sequence:016x}{SPARE_SUFFIX}")
}

pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// The files of a log's folder, by what they are.
#[derive(Debug, Default)]
pub struct Listing {
    /// Ascending.
    pub sequences: Vec<u64>,
    pub spares: Vec<String>,
    pub leftovers: Vec<String>,
    /// A segment of etcd's own log.
    pub foreign: Option<String>,
}

impl Listing {
    pub fn of(disk: &dyn Disk, dir: &str) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        if !disk.exists(dir).map_err(Error::io("look for", dir))? {
            return Ok(listing);
        }
        for name in disk.list(dir).map_err(Error::io("list", dir))? {
            let sequence = name.strip_suffix(SUFFIX).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            if let Some(sequence) = sequence.filter(|sequence| segment_name(*sequence) == name) {
                listing.sequences.push(sequence);
            } else if name.ends_with(SPARE_SUFFIX) {
                listing.spares.push(name);
            } else if name == BUILDING || name == FRESH_BUILDING {
                listing.leftovers.push(name);
            } else if name.ends_with(".wal") {
                listing.foreign = Some(name);
            }
        }
        listing.sequences.sort_unstable();
        Ok(listing)
    }
}

/// What building a segment needs to know.
#[derive(Clone, Copy)]
pub struct Builder<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a str,
    pub bytes: u64,
    pub sync: bool,
}

impl Builder<'_> {
    /// Makes the segment `header` describes, out of a spare file where there is one, and gives it its name durably.
    pub fn build(&self, header: &Header, spare: Option<&str>) -> Result<Sectors, Error> {
        let from = match spare {
            Some(name) => join(self.dir, name),
            None => self.zeroed(BUILDING)?,
        };
        let file = self.disk.open(&from, Open::Existing).map_err(Error::io("open", &from))?;
        if file.len().map_err(Error::io("measure", &from))? < self.file_bytes() {
            file.allocate(self.file_bytes()).map_err(Error::io("allocate", &from))?;
        }
        let file = Sectors::new(file);
        file.write_at(0, &header.encode()).map_err(Error::io("write", &from))?;
        self.sync_file(&file, &from)?;
        let to = join(self.dir, &segment_name(header.sequence));
        self.disk.rename(&from, &to).map_err(Error::io("name", &to))?;
        if !mutation!(SegmentNameNotSynced) {
            self.sync_dir()?;
        }
        Ok(file)
    }

    pub fn sync_file(&self, file: &Sectors, path: &str) -> Result<(), Error> {
        if self.sync { file.sync_data().map_err(Error::io("fsync", path)) } else { Ok(()) }
    }

    fn file_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(SECTOR_BYTES)
    }

    pub fn sync_dir(&self) -> Result<(), Error> {
        if self.sync { self.disk.sync_dir(self.dir).map_err(Error::io("fsync", self.dir)) } else { Ok(()) }
    }

    /// A new file of zeros under `name`; nothing is left of it when there is no room.
    fn zeroed(&self, name: &str) -> Result<String, Error> {
        let path = join(self.dir, name);
        if self.disk.exists(&path).map_err(Error::io("look for", &path))? {
            self.disk.remove(&path).map_err(Error::io("remove", &path))?;
        }
        let file = self.disk.open(&path, Open::CreateNew).map_err(Error::io("create", &path))?;
        if let Err(error) = file.allocate(self.file_bytes()) {
            // The first error is the one to tell.
            let _ = self.disk.remove(&path);
            return Err(Error::io("allocate", &path)(error));
        }
        Ok(path)
    }
}

const IDLE: u8 = 0;
const MAKING: u8 = 1;
const READY: u8 = 2;

/// Whether a file is being prepared on another thread, or is there.
#[derive(Debug, Default)]
pub struct Preparation(AtomicU8);

impl Preparation {
    pub fn begin(&self) -> bool {
        self.0.compare_exchange(IDLE, MAKING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The prepared file's name, once.
    pub fn take(&self) -> Option<String> {
        self.0.compare_exchange(READY, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok().then(|| FRESH.to_owned())
    }
}

/// Work for another thread: writes the zeros of a segment ahead of need, which would hold up an append for a tenth of a
/// second. Not doing it is always correct: the log then makes its segments itself.
#[derive(Debug)]
pub struct Spare {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: String,
    pub(super) bytes: u64,
    pub(super) sync: bool,
    pub(super) preparation: Arc<Preparation>,
}

impl Spare {
    pub fn prepare(self) -> Result<(), Error> {
        let builder = Builder { disk: &*self.disk, dir: &self.dir, bytes: self.bytes, sync: self.sync };
        let from = builder.zeroed(FRESH_BUILDING)?;
        let file = self.disk.open(&from, Open::Existing).map_err(Error::io("open", &from))?;
        builder.sync_file(&Sectors::new(file), &from)?;
        let to = join(&self.dir, FRESH);
        self.disk.rename(&from, &to).map_err(Error::io("name", &to))?;
        builder.sync_dir()?;
        self.preparation.0.store(READY, Ordering::Release);
        Ok(())
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let _ = self.preparation.0.compare_exchange(MAKING, IDLE, Ordering::AcqRel, Ordering::Acquire);
    }
}
