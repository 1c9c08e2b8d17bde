//! A disk in memory that loses on a crash exactly what a real one may lose, and fails in the ways real ones fail.
//!
//! # Fault model
//!
//! * A write is visible at once and durable after `sync_data` of its file. At a crash every sector (512 bytes, atomic)
//!   of a file independently goes back to the state after *some* of the unsynced writes that touched it, from none to
//!   all. Sectors so reach the disk in any order (a younger write may survive where an older one is lost), a long write
//!   may be torn anywhere, and a sector written twice may keep its first version.
//! * A file's length is durable after `sync_data`, too. What lies beyond the length that survived is gone; where the
//!   length survived and the data did not, there are zeros. An unsynced truncation survives or not, and with it what
//!   followed.
//! * A created, renamed or removed name is durable after `sync_dir` of its directory. At a crash any subset of the
//!   pending changes of a directory survives, in order. A rename inside a directory is atomic; between two it is two
//!   changes.
//! * A file without a name in any directory is gone after the crash, whatever was synced.
//! * [`Loss`] picks among these outcomes ([`loss`]). What is in doubt is asked of the caller, few questions a file, and
//!   an answer of 0 always means that it is lost.
//! * [`MemDisk::crash_after`] cuts the power between two operations, [`MemDisk::crash_before_dir_sync`] between a
//!   change of names and the sync of their directory: every later call fails with "simulated crash", those of
//!   destructors too, until [`MemDisk::restart`]. Handles opened before the restart stay dead ("stale handle").
//! * A failing `sync_data` ([`MemDisk::fail_sync`]) answers EIO, and what was unsynced then will never become durable,
//!   whatever later syncs answer, as on Linux. Until the crash it is still read, as from the page cache, or, with
//!   [`FailedSync::Revert`], the old bytes come back at once, as after the eviction of those pages.
//! * The disk may be full ([`MemDisk::full_after`]): a call that needs room answers `StorageFull` and changes nothing.
//!   A file's length is the room it takes.
//! * Bits rot ([`MemDisk::flip_bit`]), also in the copy that is read, until somebody writes over them or brings the
//!   good copy back ([`MemDisk::mend`]); a file may be unreadable ([`MemDisk::read_error`]).
//!
//! Not modelled: misdirected writes, loss inside a sector, loss of what was synced.
//!
//! Nothing here is random, nothing depends on addresses or hash order: same calls and answers, same disk. An operation
//! costs a copy of the bytes it writes; a crash costs the unsynced writes.

mod dir;
mod faults;
mod file;
mod loss;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use lockstep::ports::disk::{Disk, DiskFile, Open};

use self::dir::{Change, Dir};
pub use self::faults::FailedSync;
use self::faults::{Faults, Fuse};
use self::file::{File, MemFile};
pub use self::loss::{Loss, chance};

pub const SECTOR_BYTES: u64 = 512;
const ROOT: u64 = 0;

/// How often what was called, since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub reads: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub set_lens: u64,
    pub allocates: u64,
    pub syncs: u64,
    pub dir_syncs: u64,
    pub creates: u64,
    pub renames: u64,
    pub removes: u64,
}

impl Counters {
    /// The operations that [`MemDisk::crash_after`] counts.
    pub fn mutations(&self) -> u64 {
        self.writes
            + self.set_lens
            + self.allocates
            + self.syncs
            + self.dir_syncs
            + self.creates
            + self.renames
            + self.removes
    }
}

/// Cheap to clone: clones are the same disk. [`MemDisk::fork`] makes another one.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

impl MemDisk {
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// An independent disk with the same contents, the same pending changes and the same faults; no handle belongs to
    /// it.
    pub fn fork(&self) -> MemDisk {
        let mut state = self.state().clone();
        state.incarnation += 1;
        MemDisk { state: Arc::new(Mutex::new(state)) }
    }

    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Bytes that all files take together.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// What a file holds now, rot included. For tests: nothing else is in the way and nothing is counted.
    pub fn contents(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let inode = state.find(path)?;
        state.file_mut(inode)?.read(0, None)
    }

    /// Puts a file there, durably, with all folders on its way. For tests: no fault applies and nothing is counted.
    pub fn plant(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let (dir, name) = split(path);
        let dir = state.make_dirs(dir)?;
        let inode = state.new_inode(Node::File(File::durable(contents)));
        state.dir_mut(dir)?.link(name, inode);
        for node in state.nodes.values_mut() {
            if let Node::Dir(dir) = node {
                dir.sync();
            }
        }
        Ok(())
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        let state = self.state();
        let mut files = Vec::new();
        state.walk(ROOT, "", &mut files);
        files
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is a failed test already; the state itself is never left half-changed.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MemDisk").field("files", &self.files()).finish()
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.check_power()?;
        let inode = match (state.find(path), how) {
            (Ok(_), Open::CreateNew) => return Err(error(io::ErrorKind::AlreadyExists, path)),
            (Ok(inode), _) => inode,
            (Err(missing), Open::Existing) => return Err(missing),
            (Err(_), Open::CreateNew | Open::CreateOrExisting) => {
                let (dir, name) = split(path);
                check_path(path)?;
                let dir = state.find(dir)?;
                state.dir_mut(dir)?;
                state.mutate()?;
                state.counters.creates += 1;
                let inode = state.new_inode(Node::File(File::default()));
                state.dir_mut(dir)?.link(name, inode);
                inode
            }
        };
        state.file_mut(inode)?.handles += 1;
        let incarnation = state.incarnation;
        Ok(Arc::new(MemFile::new(self.clone(), inode, incarnation, path)))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let state = self.state();
        state.check_power()?;
        match state.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.state();
        state.check_power()?;
        if let Ok(inode) = state.find(path) {
            return state.dir_mut(inode).map(drop);
        }
        state.mutate()?;
        state.counters.creates += 1;
        state.make_dirs(path).map(drop)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.check_power()?;
        let inode = state.find(path)?;
        Ok(state.dir_mut(inode)?.live.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_path(to)?;
        let mut state = self.state();
        state.check_power()?;
        let inode = state.find(from)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from), split(to));
        let (from_dir, to_dir) = (state.find(from_dir)?, state.find(to_dir)?);
        state.dir_mut(to_dir)?;
        if let Ok(target) = state.find(to) {
            let kinds = (&state.nodes[&inode], &state.nodes[&target]);
            if !matches!(kinds, (Node::File(_), Node::File(_))) && target != inode {
                return Err(error(io::ErrorKind::AlreadyExists, to));
            }
        }
        state.mutate()?;
        state.counters.renames += 1;
        if from_dir == to_dir {
            state.dir_mut(from_dir)?.change(Change::Rename(from_name.to_owned(), to_name.to_owned(), inode));
        } else {
            state.dir_mut(from_dir)?.change(Change::Unlink(from_name.to_owned()));
            state.dir_mut(to_dir)?.link(to_name, inode);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.state();
        state.check_power()?;
        let inode = state.find(path)?;
        state.file_mut(inode)?;
        let (dir, name) = split(path);
        let dir = state.find(dir)?;
        state.mutate()?;
        state.counters.removes += 1;
        state.dir_mut(dir)?.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check_power()?;
        let inode = state.find(path)?;
        if state.dir_mut(inode)?.is_changed() && state.fuse == Some(Fuse::DirSync) {
            state.crashed = true;
            return state.check_power();
        }
        state.mutate()?;
        state.counters.dir_syncs += 1;
        if state.dir_mut(inode)?.sync() {
            state.sweep();
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_inode: u64,
    /// Handles of an earlier one are dead.
    incarnation: u64,
    crashed: bool,
    fuse: Option<Fuse>,
    faults: Faults,
    counters: Counters,
}

#[derive(Clone, Debug)]
enum Node {
    Dir(Dir),
    File(File),
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next_inode: ROOT + 1,
            incarnation: 0,
            crashed: false,
            fuse: None,
            faults: Faults::default(),
            counters: Counters::default(),
        }
    }
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("simulated crash")) } else { Ok(()) }
    }

    /// Called before every change: here the power may fail.
    fn mutate(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(Fuse::Operations(0)) => {
                self.crashed = true;
                self.check_power()
            }
            Some(Fuse::Operations(left)) => {
                *left -= 1;
                Ok(())
            }
            Some(Fuse::DirSync) | None => Ok(()),
        }
    }

    fn check_room(&mut self, inode: u64, len: u64) -> io::Result<()> {
        let old = self.file_mut(inode)?.len();
        match self.faults.capacity {
            Some(capacity) if len > old && self.used() + (len - old) > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "simulated disk full"))
            }
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let files = self.nodes.values().filter_map(|node| if let Node::File(file) = node { Some(file) } else { None });
        files.map(|file| file.len()).sum()
    }

    fn find(&self, path: &str) -> io::Result<u64> {
        check_path(path)?;
        let mut inode = ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            inode = match &self.nodes[&inode] {
                Node::Dir(dir) => *dir.live.get(part).ok_or_else(|| error(io::ErrorKind::NotFound, path))?,
                Node::File(_) => return Err(error(io::ErrorKind::NotADirectory, path)),
            };
        }
        Ok(inode)
    }

    fn file_mut(&mut self, inode: u64) -> io::Result<&mut File> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, inode: u64) -> io::Result<&mut Dir> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn new_inode(&mut self, node: Node) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.nodes.insert(inode, node);
        inode
    }

    fn make_dirs(&mut self, path: &str) -> io::Result<u64> {
        let mut inode = ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            inode = match self.dir_mut(inode)?.live.get(part) {
                Some(existing) => *existing,
                None => {
                    let made = self.new_inode(Node::Dir(Dir::default()));
                    self.dir_mut(inode)?.link(part, made);
                    made
                }
            };
        }
        self.dir_mut(inode)?;
        Ok(inode)
    }

    fn walk(&self, inode: u64, path: &str, out: &mut Vec<String>) {
        match &self.nodes[&inode] {
            Node::File(_) => out.push(path.to_owned()),
            Node::Dir(dir) => {
                for (name, child) in &dir.live {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    self.walk(*child, &below, out);
                }
            }
        }
    }

    /// Forgets files that no name, pending or not, and no handle can bring back.
    fn sweep(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Node::Dir(dir) = node {
                reachable.extend(dir.live.values().chain(dir.durable.values()));
                reachable.extend(dir.pending.iter().filter_map(Change::inode));
            }
        }
        self.nodes
            .retain(|inode, node| reachable.contains(inode) || matches!(node, Node::File(file) if file.handles > 0));
    }

    fn crash(&mut self, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir(dir) => dir.crash(loss, choose),
                Node::File(file) => file.crash(loss, choose),
            }
        }
        self.sweep();
        self.incarnation += 1;
        self.crashed = false;
        self.fuse = None;
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn check_path(path: &str) -> io::Result<()> {
    if path.starts_with('/') || path.split('/').any(|part| part == "." || part == "..") || path.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("path {path:?} leaves the disk")));
    }
    Ok(())
}

fn error(kind: io::ErrorKind, path: &str) -> io::Error {
    io::Error::new(kind, path.to_owned())
}

/// EIO as the kernel reports it.
fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}
