//! How a disk is made to fail: the calls by which tests and the world's faults do it.
//!
//! Everything here is armed by hand and nothing is drawn; the model is in the head of the module.

use std::io;

use super::{Loss, MemDisk, Node, State};

/// What is read after a failed sync from the pages it lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedSync {
    /// The new bytes, until the next crash.
    #[default]
    Linger,
    /// The old bytes at once.
    Revert,
}

/// When the power fails by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fuse {
    /// At the operation after so many more that change something.
    Operations(u64),
    /// At the next sync of a directory that has something to sync.
    DirSync,
}

/// A bit that is read wrong, with the path by which it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rot {
    pub path: String,
    pub offset: u64,
    pub bit: u8,
}

impl Rot {
    pub fn mask(&self) -> u8 {
        1 << (self.bit % 8)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub sync: Option<(String, u64)>,
    pub failed_sync: FailedSync,
    pub capacity: Option<u64>,
}

impl Faults {
    pub fn take_sync_failure(&mut self, path: &str) -> bool {
        let Some((pattern, times)) = &mut self.sync else { return false };
        if !path.contains(pattern.as_str()) {
            return false;
        }
        *times = if *times == u64::MAX { u64::MAX } else { *times - 1 };
        if *times == 0 {
            self.sync = None;
        }
        true
    }
}

impl MemDisk {
    /// The power fails and comes back: what was not synced is treated as `loss` says, open handles die, armed one-time
    /// faults stay. `choose(bound)` answers what is in doubt with a number below `bound`; 0 is always "lost".
    pub fn crash(&self, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
        self.state().crash(loss, choose);
    }

    /// The power fails after `mutations` more mutating operations: the next one, and everything from then on, fails.
    pub fn crash_after(&self, mutations: u64) {
        self.state().fuse = (mutations < u64::MAX).then_some(Fuse::Operations(mutations));
    }

    /// The power fails when a directory whose names have changed is to be synced.
    pub fn crash_before_dir_sync(&self) {
        self.state().fuse = Some(Fuse::DirSync);
    }

    /// The power will not fail by itself.
    pub fn defuse(&self) {
        self.state().fuse = None;
    }

    /// Whether the power is going to fail by itself.
    pub fn is_fused(&self) -> bool {
        self.state().fuse.is_some()
    }

    /// Cuts the power now; [`MemDisk::restart`] brings it back.
    pub fn power_off(&self) {
        self.state().crashed = true;
    }

    /// Whether the power is off.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// After [`MemDisk::crash_after`] or [`MemDisk::power_off`]: the same as [`MemDisk::crash`].
    pub fn restart(&self, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
        self.crash(loss, choose);
    }

    /// The next `times` calls of `sync_data` fail, on files whose path contains `path` (the name they were opened by).
    pub fn fail_sync(&self, path: &str, times: u64) {
        self.state().faults.sync = (times > 0).then(|| (path.to_owned(), times));
    }

    pub fn fail_sync_once(&self) {
        self.fail_sync("", 1);
    }

    pub fn fail_sync_always(&self) {
        self.fail_sync("", u64::MAX);
    }

    pub fn after_failed_sync(&self, mode: FailedSync) {
        self.state().faults.failed_sync = mode;
    }

    /// Room for `bytes` more, and no end of it with `None`.
    pub fn full_after(&self, bytes: Option<u64>) {
        let mut state = self.state();
        let used = state.used();
        state.faults.capacity = bytes.map(|bytes| used + bytes);
    }

    /// Whether there is an end to its room.
    pub fn is_limited(&self) -> bool {
        self.state().faults.capacity.is_some()
    }

    /// Whether some `sync_data` is going to fail.
    pub fn fails_sync(&self) -> bool {
        self.state().faults.sync.is_some()
    }

    /// Flips one bit on the medium, until somebody writes over it or [`MemDisk::mend`] brings the good copy back.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(path)?;
        let file = state.file_mut(inode)?;
        if offset >= file.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} has no offset {offset}")));
        }
        file.rot.push(Rot { path: path.to_owned(), offset, bit });
        Ok(())
    }

    /// Undoes a [`MemDisk::flip_bit`], whatever the file is called by now. False when there is nothing left of it.
    pub fn mend(&self, path: &str, offset: u64, bit: u8) -> bool {
        let mended = Rot { path: path.to_owned(), offset, bit };
        let mut found = false;
        self.state().each_file(|file| {
            let before = file.rot.len();
            file.rot.retain(|rot| *rot != mended);
            found |= file.rot.len() < before;
        });
        found
    }

    /// Reads of the file at `path` fail with EIO from now on; or no longer, whatever it is called by now.
    pub fn read_error(&self, path: &str, on: bool) -> io::Result<()> {
        let mut state = self.state();
        if on {
            let inode = state.find(path)?;
            state.file_mut(inode)?.unreadable = Some(path.to_owned());
        } else {
            state.each_file(|file| file.unreadable = file.unreadable.take().filter(|by| by != path));
        }
        Ok(())
    }
}

impl State {
    fn each_file(&mut self, mut f: impl FnMut(&mut super::File)) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                f(file);
            }
        }
    }
}
