//! A file: its bytes as processes see them, as they are durable, the changes between, and the handles on it.
//!
//! What survives a crash is [`super::loss`]'s business, which faults are at work [`super::faults`]'s.

use std::fmt;
use std::io;
use std::sync::MutexGuard;

use lockstep::ports::disk::DiskFile;

use super::faults::{FailedSync, Rot};
use super::{MemDisk, SECTOR_BYTES, State, error, input_output_error};

/// An unsynced change of a file.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub live: Vec<u8>,
    pub durable: Vec<u8>,
    pub pending: Vec<Pending>,
    pub handles: usize,
    pub rot: Vec<Rot>,
    /// The path by which it was made so.
    pub unreadable: Option<String>,
}

impl File {
    pub fn durable(contents: &[u8]) -> File {
        File { live: contents.to_vec(), durable: contents.to_vec(), ..File::default() }
    }

    pub fn len(&self) -> u64 {
        self.live.len() as u64
    }

    /// Bytes as they come off the disk, rot included; to the end without a length.
    pub fn read(&self, offset: u64, len: Option<u64>) -> io::Result<Vec<u8>> {
        let mut out = vec![0; len.unwrap_or_else(|| self.len().saturating_sub(offset)) as usize];
        self.read_into(offset, &mut out)?;
        Ok(out)
    }

    fn read_into(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.len());
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        out.copy_from_slice(&self.live[offset as usize..end as usize]);
        for rot in self.rot.iter().filter(|rot| (offset..end).contains(&rot.offset)) {
            out[(rot.offset - offset) as usize] ^= rot.mask();
        }
        Ok(())
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let pending = Pending::Write { offset: offset as usize, data: data.to_vec() };
        pending.apply(&mut self.live);
        self.pending.push(pending);
        let end = offset + data.len() as u64;
        self.rot.retain(|rot| !(offset..end).contains(&rot.offset));
    }

    pub fn set_len(&mut self, len: u64) {
        set_len(&mut self.live, len as usize);
        self.pending.push(Pending::SetLen(len as usize));
        self.rot.retain(|rot| rot.offset < len);
    }

    /// Copies the sectors that changed; those that a failed sync gave up stay as they are.
    pub fn sync(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::SetLen(len) => set_len(&mut self.durable, len),
                Pending::Write { offset, data } if !data.is_empty() => {
                    let end = offset + data.len();
                    if self.durable.len() < end {
                        set_len(&mut self.durable, end);
                    }
                    // The live bytes, not the written ones: a whole sector goes to the disk as it is now.
                    let to = end.next_multiple_of(SECTOR_BYTES as usize).min(self.durable.len()).min(self.live.len());
                    let from = (offset - offset % SECTOR_BYTES as usize).min(to);
                    self.durable[from..to].copy_from_slice(&self.live[from..to]);
                }
                Pending::Write { .. } => {}
            }
        }
        set_len(&mut self.durable, self.live.len());
    }

    /// What was not synced will never be.
    fn give_up(&mut self, mode: FailedSync) {
        self.pending.clear();
        if mode == FailedSync::Revert {
            self.live.clone_from(&self.durable);
        }
    }
}

impl Pending {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::SetLen(len) => set_len(bytes, *len),
            Pending::Write { offset, data } => {
                let end = offset + data.len();
                if bytes.len() < end {
                    set_len(bytes, end);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }

    pub fn len_after(&self, len: usize) -> usize {
        match self {
            Pending::SetLen(len) => *len,
            Pending::Write { offset, data } => len.max(offset + data.len()),
        }
    }

    pub fn sectors(&self) -> std::ops::Range<usize> {
        match self {
            Pending::Write { offset, data } if !data.is_empty() => {
                offset / SECTOR_BYTES as usize..(offset + data.len()).div_ceil(SECTOR_BYTES as usize)
            }
            _ => 0..0,
        }
    }
}

/// An open file. It is dead once the disk has crashed.
pub(super) struct MemFile {
    disk: MemDisk,
    inode: u64,
    incarnation: u64,
    path: String,
}

impl MemFile {
    pub fn new(disk: MemDisk, inode: u64, incarnation: u64, path: &str) -> MemFile {
        MemFile { disk, inode, incarnation, path: path.to_owned() }
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        state.check_power()?;
        if state.incarnation != self.incarnation {
            return Err(io::Error::other(format!("stale handle of {}: opened before the crash", self.path)));
        }
        Ok(state)
    }
}

impl fmt::Debug for MemFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "MemFile({})", self.path)
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.incarnation == self.incarnation
            && let Ok(file) = state.file_mut(self.inode)
        {
            file.handles -= 1;
        }
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file_mut(self.inode)?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.counters.reads += 1;
        let file = state.file_mut(self.inode)?;
        if file.unreadable.is_some() {
            return Err(input_output_error());
        }
        file.read_into(offset, out).map_err(|cause| error(cause.kind(), &self.path))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let end =
            offset.checked_add(data.len() as u64).ok_or_else(|| error(io::ErrorKind::FileTooLarge, &self.path))?;
        state.check_room(self.inode, end)?;
        state.mutate()?;
        state.counters.writes += 1;
        state.counters.bytes_written += data.len() as u64;
        state.file_mut(self.inode)?.write(offset, data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.check_room(self.inode, len)?;
        state.mutate()?;
        state.counters.set_lens += 1;
        state.file_mut(self.inode)?.set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.check_room(self.inode, len)?;
        state.mutate()?;
        state.counters.allocates += 1;
        let file = state.file_mut(self.inode)?;
        if len > file.len() {
            file.set_len(len);
        }
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.check_room(self.inode, len)?;
        state.mutate()?;
        state.counters.allocates += 1;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.mutate()?;
        state.counters.syncs += 1;
        if state.faults.take_sync_failure(&self.path) {
            let mode = state.faults.failed_sync;
            state.file_mut(self.inode)?.give_up(mode);
            return Err(input_output_error());
        }
        state.file_mut(self.inode)?.sync();
        Ok(())
    }
}

/// Cuts or lengthens with zeros. Not `Vec::resize`, which costs a minute of a debug build's tests: it writes byte by
/// byte.
pub(super) fn set_len(bytes: &mut Vec<u8>, len: usize) {
    const ZEROS: &[u8] = &[0; 4096];
    match len.checked_sub(bytes.len()) {
        None => bytes.truncate(len),
        Some(more) if more <= ZEROS.len() => bytes.extend_from_slice(&ZEROS[..more]),
        Some(_) => {
            let mut grown = vec![0; len];
            grown[..bytes.len()].copy_from_slice(bytes);
            *bytes = grown;
        }
    }
}
