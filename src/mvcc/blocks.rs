//! The store's file in blocks: what redb reads and writes goes through here, is remembered by a check value, and is
//! held back until the store has been judged.
//!
//! **Rot.** redb verifies the check values of its pages when it opens a file, and trusts them from then on. So that a
//! bit that flips later reaches no reader, no hash and no page that is written anew, each block's CRC-32 is kept in
//! memory from the first time it is read or written in this life, and every later read must agree. That costs 4 bytes
//! of memory for each 4 KiB of file, and nothing on disk. The header alone, which is no whole block, is not covered:
//! redb reads it when it opens the file and checks it itself.
//!
//! **Judgement.** Opening a file makes redb repair it, and a repair may fall back to the commit before the last one and
//! write over the last. Whether the log can make up for that is known only later, and a store that is refused must
//! stay as it is, for whoever inspects or mends it. So until [`Blocks::release`] all writes are held in memory.
//!
//! **Failed fsyncs.** What an fsync could not write is lost, but the kernel may go on to show it, as clean, to the
//! process that comes after. Whoever built on it would build on nothing. So a failed fsync leaves an empty file
//! `<store>.suspect`; the next life writes every byte it sees once more, and syncs, before anything counts as durable.
//! If not even that name can be written, or the process is killed in between, the next power cut may leave a store that
//! is refused.
//!
//! This file knows nothing of redb's format but that the header is in the first block.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::ports::disk::{Disk, DiskFile, Open};

const BLOCK_BYTES: u64 = 4096;
/// No check value: nothing is known about the block.
const UNKNOWN: u32 = 0;
const COPY_BYTES: u64 = 256 << 10;
/// So much of a copy is on its way to the disk at a time; the log's next sync waits behind it.
const STREAM_BYTES: usize = 512 << 10;

/// Stops every access to the file, for a process that has died in a simulation: redb writes when it is dropped, a dead
/// process does not.
#[derive(Clone, Debug, Default)]
pub struct Poison(Arc<AtomicBool>);

impl Poison {
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(io::Error::other("the store's process is gone")) } else { Ok(()) }
    }
}

/// See the head of this file. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Blocks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    path: RwLock<String>,
    poison: Poison,
    /// Growing leaves so much of the disk to others.
    headroom: u64,
    /// Of a copy that is being made, bytes written since the disk was last told to begin with them.
    streamed: Option<AtomicUsize>,
    sums: RwLock<Vec<AtomicU32>>,
    held: RwLock<Option<Held>>,
}

/// Writes that are not in the file yet.
#[derive(Debug)]
struct Held {
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Blocks {
    /// Opens the file; writes go to it at once.
    pub fn direct(disk: &Arc<dyn Disk>, path: &str, how: Open) -> io::Result<Blocks> {
        let file = disk.open(path, how)?;
        Ok(Blocks::new(disk.clone(), file, path, Poison::default(), 0))
    }

    /// A new file that is to take the place of `of`, and dies with it.
    pub fn copy(disk: &Arc<dyn Disk>, path: &str, of: &Blocks, headroom: u64) -> io::Result<Blocks> {
        of.poison().check()?;
        let file = disk.open(path, Open::CreateNew)?;
        let mut copy = Blocks::new(disk.clone(), file, path, of.poison().clone(), headroom);
        Arc::get_mut(&mut copy.shared).expect("nobody else has it yet").streamed = Some(AtomicUsize::new(0));
        Ok(copy)
    }

    fn new(disk: Arc<dyn Disk>, file: Arc<dyn DiskFile>, path: &str, poison: Poison, headroom: u64) -> Blocks {
        let (path, sums, held) = (RwLock::new(path.to_owned()), RwLock::default(), RwLock::default());
        Blocks { shared: Arc::new(Shared { disk, file, path, poison, headroom, streamed: None, sums, held }) }
    }

    /// The file has another name now.
    pub fn renamed(&self, path: &str) {
        *self.shared.path.write() = path.to_owned();
    }

    /// Opens the file; writes are held until [`Blocks::release`].
    pub fn held(disk: &Arc<dyn Disk>, path: &str) -> io::Result<Blocks> {
        let blocks = Blocks::direct(disk, path, Open::Existing)?;
        let len = blocks.shared.file.len()?;
        *blocks.shared.held.write() = Some(Held { len, blocks: BTreeMap::new() });
        Ok(blocks)
    }

    pub fn file(&self) -> &dyn DiskFile {
        &*self.shared.file
    }

    pub fn poison(&self) -> &Poison {
        &self.shared.poison
    }

    /// What was held back is now durable in the file, and what follows goes there at once. The header comes after
    /// everything it may speak of.
    pub fn release(&self) -> io::Result<()> {
        self.shared.poison.check()?;
        let mut held = self.shared.held.write();
        let Some(Held { len, mut blocks }) = held.take() else { return Ok(()) };
        let file = &self.shared.file;
        let suspect = suspect_path(&self.shared.path.read());
        let is_suspect = self.shared.disk.exists(&suspect)?;
        if is_suspect {
            self.shared.write_again()?;
        }
        if len != file.len()? {
            file.set_len(len)?;
        }
        let header = blocks.remove(&0);
        for (block, bytes) in blocks {
            self.shared.write(block * BLOCK_BYTES, cut(&bytes, block, len))?;
        }
        self.shared.sync()?;
        if let Some(bytes) = header {
            self.shared.write(0, cut(&bytes, 0, len))?;
            self.shared.sync()?;
        }
        if is_suspect {
            self.shared.disk.remove(&suspect)?;
            self.shared.disk.sync_dir(directory(&suspect))?;
        }
        Ok(())
    }

    pub fn len(&self) -> io::Result<u64> {
        self.shared.poison.check()?;
        match &*self.shared.held.read() {
            Some(held) => Ok(held.len),
            None => self.shared.file.len(),
        }
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.shared.poison.check()?;
        match &*self.shared.held.read() {
            Some(held) => self.shared.read_over(held, offset, out),
            None => self.shared.read(offset, out),
        }
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.shared.poison.check()?;
        if self.shared.held.read().is_none() {
            return self.shared.write(offset, data);
        }
        let mut held = self.shared.held.write();
        let held = held.as_mut().expect("only one thread opens a store");
        for (block, range) in pieces(offset, data.len()) {
            let bytes = match held.blocks.remove(&block) {
                Some(bytes) => bytes,
                None => {
                    let mut bytes = vec![0; BLOCK_BYTES as usize];
                    let end = held.len.min((block + 1) * BLOCK_BYTES);
                    let known = end.saturating_sub(block * BLOCK_BYTES) as usize;
                    // A block written whole need not be read, and may be beyond what can be.
                    if range.len() < BLOCK_BYTES as usize {
                        self.shared.read_over(held, block * BLOCK_BYTES, &mut bytes[..known])?;
                    }
                    bytes
                }
            };
            let bytes = held.blocks.entry(block).or_insert(bytes);
            let from = (block * BLOCK_BYTES + range.start as u64 - offset) as usize;
            bytes[range.clone()].copy_from_slice(&data[from..from + range.len()]);
        }
        held.len = held.len.max(offset + data.len() as u64);
        Ok(())
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.shared.poison.check()?;
        if let Some(held) = &mut *self.shared.held.write() {
            held.len = len;
            held.blocks.retain(|block, _| block * BLOCK_BYTES < len);
            return Ok(());
        }
        let file = &self.shared.file;
        if self.shared.headroom > 0 && len > file.len()? {
            // Not zeros: redb syncs after growing, and the log's sync would wait behind all of them.
            let more = len + self.shared.headroom;
            file.reserve(more)?;
            // So that cutting it gives the headroom back.
            file.set_len(more)?;
        }
        file.set_len(len)?;
        self.shared.sums.write().truncate((len / BLOCK_BYTES) as usize);
        Ok(())
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.shared.poison.check()?;
        if self.shared.held.read().is_some() { Ok(()) } else { self.shared.sync() }
    }
}

impl Shared {
    fn read_over(&self, held: &Held, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > held.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What is beyond the file's own end is zeros, or held.
        let there = self.file.len()?.clamp(offset, end) - offset;
        let (there, beyond) = out.split_at_mut(there as usize);
        beyond.fill(0);
        if !there.is_empty() {
            self.read(offset, there)?;
        }
        for (block, range) in pieces(offset, out.len()) {
            if let Some(bytes) = held.blocks.get(&block) {
                let to = (block * BLOCK_BYTES + range.start as u64 - offset) as usize;
                out[to..to + range.len()].copy_from_slice(&bytes[range]);
            }
        }
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)?;
        for (block, bytes) in whole_blocks(offset, out) {
            let sum = sum(bytes);
            let known = self.sums.read().get(block).map_or(UNKNOWN, |known| known.load(Ordering::Relaxed));
            if known == UNKNOWN {
                self.remember(block, sum);
            } else if known != sum && !mutation!(RottedPageAccepted) {
                let (from, path) = (block as u64 * BLOCK_BYTES, self.path.read());
                let text = format!(
                    "{path} is damaged: the {BLOCK_BYTES} bytes at offset {from} are not what was read or written \
                     there before; the disk may be failing: keep the file for inspection, then restore the member \
                     from a snapshot, or remove it from the cluster and add it again with an empty data directory"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut blocks = offset / BLOCK_BYTES..(offset + data.len() as u64).div_ceil(BLOCK_BYTES);
        // Whatever comes of the write, the old check values do not count any more.
        blocks.by_ref().for_each(|block| self.remember(block as usize, UNKNOWN));
        self.file.write_at(offset, data)?;
        if let Some(streamed) = &self.streamed
            && streamed.fetch_add(data.len(), Ordering::Relaxed) + data.len() >= STREAM_BYTES
        {
            streamed.store(0, Ordering::Relaxed);
            self.file.write_back();
        }
        for (block, bytes) in whole_blocks(offset, data) {
            self.remember(block, sum(bytes));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let result = self.file.sync_data();
        if result.is_err() {
            // The first error is the one to tell.
            let suspect = suspect_path(&self.path.read());
            let marked = self.disk.open(&suspect, Open::CreateOrExisting);
            let _ = marked.and_then(|_| self.disk.sync_dir(directory(&suspect)));
        }
        result
    }

    /// What is read may not be what is on the disk: written again, it will be.
    fn write_again(&self) -> io::Result<()> {
        let len = self.file.len()?;
        let mut offset = 0;
        while offset < len {
            let mut bytes = vec![0; COPY_BYTES.min(len - offset) as usize];
            self.read(offset, &mut bytes)?;
            self.file.write_at(offset, &bytes)?;
            offset += bytes.len() as u64;
        }
        self.sync()
    }

    fn remember(&self, block: usize, sum: u32) {
        if let Some(known) = self.sums.read().get(block) {
            known.store(sum, Ordering::Relaxed);
            return;
        }
        if sum != UNKNOWN {
            let mut sums = self.sums.write();
            if sums.len() <= block {
                sums.resize_with(block + 1, AtomicU32::default);
            }
            sums[block].store(sum, Ordering::Relaxed);
        }
    }
}

fn sum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes).max(UNKNOWN + 1)
}

/// The blocks that lie whole in `bytes`, which begin at `offset`.
fn whole_blocks(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let skip = (offset.next_multiple_of(BLOCK_BYTES) - offset) as usize;
    let first = (offset.div_ceil(BLOCK_BYTES)) as usize;
    let whole = bytes.get(skip..).unwrap_or_default().chunks_exact(BLOCK_BYTES as usize);
    whole.enumerate().map(move |(n, bytes)| (first + n, bytes))
}

/// The blocks that `len` bytes at `offset` touch, and what of each.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).map(move |block| {
        let start = block * BLOCK_BYTES;
        let from = offset.max(start) - start;
        let to = end.min(start + BLOCK_BYTES) - start;
        (block, from as usize..to as usize)
    })
}

/// A block without what lies beyond the file's end.
fn cut(bytes: &[u8], block: u64, len: u64) -> &[u8] {
    &bytes[..(len - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize]
}

fn suspect_path(path: &str) -> String {
    format!("{path}.suspect")
}

/// The folder of a path.
pub fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}
