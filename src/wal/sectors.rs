//! A segment's file as a plain run of bytes: in front of each sector's last four bytes lie 508 of them, and in those
//! four their check value.
//!
//! Disks write sectors whole or not at all. So whatever a crash leaves of an unsynced write, each sector is one that
//! was written here once, or still the zeros the file was made of, and verifies; a sector that does not has rotted.
//! That is what tells the two apart in the newest bytes of a log, about which nothing later bears witness.
//!
//! Only recovery looks at the check values ([`Sectors::rotten`]): a reader may meet a sector that is just being written
//! again, and has the chain of the records to go by. All offsets but those in errors are of the plain run.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ports::disk::DiskFile;

pub const SECTOR_BYTES: u64 = 512;
const DATA_BYTES: u64 = SECTOR_BYTES - 4;
const SECTOR: usize = SECTOR_BYTES as usize;
const DATA: usize = DATA_BYTES as usize;

/// See the head of this file. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Sectors {
    file: Arc<dyn DiskFile>,
    /// The sector written last, which the next write mostly goes on with.
    last: Arc<Mutex<Option<Last>>>,
}

/// Where a byte of the plain run lies in the file.
pub fn place(offset: u64) -> u64 {
    (offset / DATA_BYTES).saturating_mul(SECTOR_BYTES).saturating_add(offset % DATA_BYTES)
}

/// How long a file has to be for a plain run of this length.
pub fn file_bytes(len: u64) -> u64 {
    len.div_ceil(DATA_BYTES).saturating_mul(SECTOR_BYTES)
}

/// The last place up to `offset` at which a sector ends.
pub fn whole_sectors(offset: u64) -> u64 {
    offset / DATA_BYTES * DATA_BYTES
}

/// A sector's number, and its part of the plain run.
type Last = (u64, [u8; DATA]);

impl Sectors {
    pub fn new(file: Arc<dyn DiskFile>) -> Sectors {
        Sectors { file, last: Arc::default() }
    }

    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()? / SECTOR_BYTES * DATA_BYTES)
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let first = offset / DATA_BYTES;
        let end = (offset + out.len() as u64).div_ceil(DATA_BYTES);
        let mut raw = vec![0; ((end - first) * SECTOR_BYTES) as usize];
        self.file.read_at(first * SECTOR_BYTES, &mut raw)?;
        let mut skip = (offset % DATA_BYTES) as usize;
        let mut out = out;
        for sector in raw.chunks_exact(SECTOR) {
            let take = (DATA - skip).min(out.len());
            let (now, later) = out.split_at_mut(take);
            now.copy_from_slice(&sector[skip..skip + take]);
            out = later;
            skip = 0;
        }
        Ok(())
    }

    /// Writes `data`, and zeros behind it to the end of its last sector: a log has nothing behind what it writes.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let (first, head) = (offset / DATA_BYTES, (offset % DATA_BYTES) as usize);
        let mut last = self.last.lock();
        let mut plain = [0; DATA];
        match &*last {
            _ if head == 0 => {}
            Some((sector, bytes)) if *sector == first => plain[..head].copy_from_slice(&bytes[..head]),
            _ => self.file.read_at(first * SECTOR_BYTES, &mut plain[..head])?,
        }
        let mut raw = Vec::with_capacity(((head + data.len()) / DATA + 1) * SECTOR);
        let (mut sector, mut from, mut data) = (first, head, data);
        loop {
            let (now, later) = data.split_at(data.len().min(DATA - from));
            plain[from..from + now.len()].copy_from_slice(now);
            plain[from + now.len()..].fill(0);
            raw.extend_from_slice(&plain);
            raw.extend_from_slice(&crc32fast::hash(&plain).to_le_bytes());
            if later.is_empty() {
                break;
            }
            (sector, from, data) = (sector + 1, 0, later);
        }
        // After a failed write nobody knows what is there.
        *last = None;
        self.file.write_at(first * SECTOR_BYTES, &raw)?;
        *last = Some((sector, plain));
        Ok(())
    }

    /// The file's offset of the first sector in `from..to` that was never written as it is.
    pub fn rotten(&self, from: u64, to: u64) -> io::Result<Option<u64>> {
        let sectors = self.file.len()? / SECTOR_BYTES;
        let mut raw = [0; SECTOR];
        for sector in from / DATA_BYTES..to.div_ceil(DATA_BYTES).min(sectors) {
            self.file.read_at(sector * SECTOR_BYTES, &mut raw)?;
            let (plain, check) = raw.split_at(DATA);
            if raw != [0; SECTOR] && crc32fast::hash(plain).to_le_bytes() != *check {
                return Ok(Some(sector * SECTOR_BYTES));
            }
        }
        Ok(None)
    }
}
