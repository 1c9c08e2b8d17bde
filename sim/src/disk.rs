//! A disk in memory that loses on a crash exactly what a real one may lose, and fails in the ways real ones fail.
//!
//! # Fault model
//!
//! * A write is visible at once and durable after `sync_data` of its file. At a crash every sector (512 bytes, atomic)
//!   of a file independently goes back to the state after *some* of the unsynced writes that touched it, from none to
//!   all. Sectors so reach the disk in any order, a long write may be torn anywhere, and a sector written twice may
//!   keep its first version.
//! * A file's length is durable after `sync_data`, too. What lies beyond the length that survived is gone; where the
//!   length survived and the data did not, there are zeros. An unsynced truncation survives or not, and with it what
//!   followed.
//! * A created, renamed or removed name is durable after `sync_dir` of its directory. At a crash any subset of the
//!   pending changes of a directory survives, in order. A rename inside a directory is atomic; between two it is two
//!   changes.
//! * A file without a name in any directory is gone after the crash, whatever was synced.
//! * [`Loss`] picks among these outcomes. The random ones draw only from the generator handed in.
//! * [`MemDisk::crash_after`] cuts the power between two operations: every later call fails with "simulated crash",
//!   those of destructors too, until [`MemDisk::restart`]. Handles opened before the restart stay dead ("stale
//!   handle").
//! * A failing `sync_data` ([`MemDisk::fail_sync`]) answers EIO, and what was unsynced then will never become durable,
//!   whatever later syncs answer, as on Linux. Until the crash it is still read, as from the page cache, or, with
//!   [`FailedSync::Revert`], the old bytes come back at once, as after the eviction of those pages.
//! * The disk may be full ([`MemDisk::full_after`]): a call that needs room answers `StorageFull` and changes nothing.
//!   A file's length is the room it takes.
//! * Bits rot ([`MemDisk::flip_bit`]), also in the copy that is read; a file may be unreadable
//!   ([`MemDisk::read_error`]).
//!
//! Not modelled: misdirected writes, loss inside a sector, loss of what was synced.
//!
//! Nothing is random but what is drawn at a crash, nothing depends on addresses or hash order: same calls, same disk.
//! An operation costs a copy of the bytes it writes; a crash costs the unsynced writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use lockstep::ports::disk::{Disk, DiskFile, Open};
use rand_core::RngCore;

pub const SECTOR_BYTES: u64 = 512;
const ROOT: u64 = 0;

/// What a crash does to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    Everything,
    /// All of it survives, as after kill -9.
    Nothing,
    /// Of each file and each directory the first so many changes survive.
    Prefix,
    /// Any subset of sectors and of names survives.
    Sectors,
}

impl Loss {
    pub const ALL: [Loss; 4] = [Loss::Everything, Loss::Nothing, Loss::Prefix, Loss::Sectors];
}

/// What is read after a failed sync from the pages it lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedSync {
    /// The new bytes, until the next crash.
    #[default]
    Linger,
    /// The old bytes at once.
    Revert,
}

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

    /// The power fails and comes back: what was not synced is treated as `loss` says, open handles die, armed one-time
    /// faults stay.
    pub fn crash(&self, loss: Loss, rng: &mut dyn RngCore) {
        self.state().crash(loss, rng);
    }

    /// The power fails after `mutations` more mutating operations: the next one, and everything from then on, fails.
    pub fn crash_after(&self, mutations: u64) {
        self.state().fuse = Some(mutations);
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
    pub fn restart(&self, loss: Loss, rng: &mut dyn RngCore) {
        self.crash(loss, rng);
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

    /// Flips one bit for good.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(path)?;
        let file = state.file_mut(inode)?;
        for bytes in [&mut file.live, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// Reads of the file at `path` fail with EIO from now on, or no longer.
    pub fn read_error(&self, path: &str, on: bool) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(path)?;
        state.file_mut(inode)?.unreadable = on;
        Ok(())
    }

    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Bytes that all files take together.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// What a file holds now. For tests: no fault applies and nothing is counted.
    pub fn contents(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let inode = state.find(path)?;
        Ok(state.file_mut(inode)?.live.clone())
    }

    /// Puts a file there, durably, with all folders on its way. For tests: no fault applies and nothing is counted.
    pub fn plant(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let (dir, name) = split(path);
        let dir = state.make_dirs(dir)?;
        let inode = state.new_inode(Node::File(File {
            live: contents.to_vec(),
            durable: contents.to_vec(),
            ..File::default()
        }));
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
        Ok(Arc::new(MemFile { disk: self.clone(), inode, incarnation, path: path.to_owned() }))
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
        state.dir_mut(inode)?;
        state.mutate()?;
        state.counters.dir_syncs += 1;
        if state.dir_mut(inode)?.sync() {
            state.sweep();
        }
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    inode: u64,
    incarnation: u64,
    path: String,
}

impl MemFile {
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
        Ok(self.state()?.file_mut(self.inode)?.live.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.counters.reads += 1;
        let file = state.file_mut(self.inode)?;
        if file.unreadable {
            return Err(input_output_error());
        }
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= file.live.len() as u64);
        let Some(end) = end else { return Err(error(io::ErrorKind::UnexpectedEof, &self.path)) };
        out.copy_from_slice(&file.live[offset as usize..end as usize]);
        Ok(())
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
        if len > file.live.len() as u64 {
            file.set_len(len);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.mutate()?;
        state.counters.syncs += 1;
        if state.faults.take_sync_failure(&self.path) {
            let revert = state.faults.failed_sync == FailedSync::Revert;
            let file = state.file_mut(self.inode)?;
            file.pending.clear();
            if revert {
                file.live.clone_from(&file.durable);
            }
            return Err(input_output_error());
        }
        state.file_mut(self.inode)?.sync();
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
    fuse: Option<u64>,
    faults: Faults,
    counters: Counters,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    sync: Option<(String, u64)>,
    failed_sync: FailedSync,
    capacity: Option<u64>,
}

impl Faults {
    fn take_sync_failure(&mut self, path: &str) -> bool {
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
            Some(0) => {
                self.crashed = true;
                self.check_power()
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check_room(&mut self, inode: u64, len: u64) -> io::Result<()> {
        let old = self.file_mut(inode)?.live.len() as u64;
        match self.faults.capacity {
            Some(capacity) if len > old && self.used() + (len - old) > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "simulated disk full"))
            }
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let files = self.nodes.values().filter_map(|node| if let Node::File(file) = node { Some(file) } else { None });
        files.map(|file| file.live.len() as u64).sum()
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

    fn crash(&mut self, loss: Loss, rng: &mut dyn RngCore) {
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir(dir) => dir.crash(loss, rng),
                Node::File(file) => file.crash(loss, rng),
            }
        }
        self.sweep();
        self.incarnation += 1;
        self.crashed = false;
        self.fuse = None;
    }
}

/// A change of a directory's names.
#[derive(Clone, Debug)]
enum Change {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl Change {
    fn inode(&self) -> Option<&u64> {
        match self {
            Change::Link(_, inode) | Change::Rename(_, _, inode) => Some(inode),
            Change::Unlink(_) => None,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Link(name, inode) => _ = names.insert(name.clone(), *inode),
            Change::Unlink(name) => _ = names.remove(name),
            Change::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Dir {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<Change>,
}

impl Dir {
    fn link(&mut self, name: &str, inode: u64) {
        self.change(Change::Link(name.to_owned(), inode));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// Whether there was anything to sync.
    fn sync(&mut self) -> bool {
        let changed = !self.pending.is_empty();
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
        changed
    }

    fn crash(&mut self, loss: Loss, rng: &mut dyn RngCore) {
        let pending = std::mem::take(&mut self.pending);
        let prefix = if loss == Loss::Prefix { below(rng, pending.len() + 1) } else { 0 };
        for (position, change) in pending.iter().enumerate() {
            let survives = match loss {
                Loss::Everything => false,
                Loss::Nothing => true,
                Loss::Prefix => position < prefix,
                Loss::Sectors => below(rng, 2) == 1,
            };
            if survives {
                change.apply(&mut self.durable);
            }
        }
        self.live.clone_from(&self.durable);
    }
}

/// An unsynced change of a file.
#[derive(Clone, Debug)]
enum Pending {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    handles: usize,
    unreadable: bool,
}

impl File {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let pending = Pending::Write { offset: offset as usize, data: data.to_vec() };
        pending.apply(&mut self.live);
        self.pending.push(pending);
    }

    fn set_len(&mut self, len: u64) {
        set_len(&mut self.live, len as usize);
        self.pending.push(Pending::SetLen(len as usize));
    }

    /// Copies the sectors that changed; those that a failed sync gave up stay as they are.
    fn sync(&mut self) {
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

    fn crash(&mut self, loss: Loss, rng: &mut dyn RngCore) {
        match loss {
            Loss::Everything => {}
            Loss::Nothing => self.sync(),
            Loss::Prefix => {
                let kept = below(rng, self.pending.len() + 1);
                for pending in &self.pending[..kept] {
                    pending.apply(&mut self.durable);
                }
            }
            Loss::Sectors => self.tear(rng),
        }
        self.pending.clear();
        self.live.clone_from(&self.durable);
        self.handles = 0;
    }

    /// Each sector keeps its own number of the writes that touched it.
    fn tear(&mut self, rng: &mut dyn RngCore) {
        // A truncation that was lost takes with it what was done to the file after it.
        let mut len = self.durable.len();
        let mut kept = self.pending.len();
        for (position, pending) in self.pending.iter().enumerate() {
            let next = pending.len_after(len);
            if next < len && below(rng, 2) == 0 {
                kept = position;
                break;
            }
            len = next;
        }
        let pending = &self.pending[..kept];

        let mut touched: BTreeMap<usize, usize> = BTreeMap::new();
        for sector in pending.iter().flat_map(Pending::sectors) {
            *touched.entry(sector).or_default() += 1;
        }
        for count in touched.values_mut() {
            // Half of the time all or nothing: otherwise sectors written often would hardly ever survive whole.
            *count = match below(rng, 4) {
                0 => 0,
                1 => *count,
                _ => below(rng, *count + 1),
            };
        }
        // The length may be that after any of the changes, but for the truncations that survived.
        let growths = below(rng, pending.len() + 1);
        let mut final_len = self.durable.len();
        for (position, pending) in pending.iter().enumerate() {
            let next = pending.len_after(final_len);
            if position < growths || next < final_len {
                final_len = next;
            }
        }
        for pending in pending {
            match pending {
                Pending::SetLen(len) => set_len(&mut self.durable, *len),
                Pending::Write { offset, data } => {
                    let end = offset + data.len();
                    if self.durable.len() < end {
                        set_len(&mut self.durable, end);
                    }
                    for sector in pending.sectors() {
                        let left = touched.get_mut(&sector).expect("counted above");
                        if *left == 0 {
                            continue;
                        }
                        *left -= 1;
                        let from = (sector * SECTOR_BYTES as usize).max(*offset);
                        let to = ((sector + 1) * SECTOR_BYTES as usize).min(end);
                        self.durable[from..to].copy_from_slice(&data[from - offset..to - offset]);
                    }
                }
            }
        }
        set_len(&mut self.durable, final_len);
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
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

    fn len_after(&self, len: usize) -> usize {
        match self {
            Pending::SetLen(len) => *len,
            Pending::Write { offset, data } => len.max(offset + data.len()),
        }
    }

    fn sectors(&self) -> std::ops::Range<usize> {
        match self {
            Pending::Write { offset, data } if !data.is_empty() => {
                offset / SECTOR_BYTES as usize..(offset + data.len()).div_ceil(SECTOR_BYTES as usize)
            }
            _ => 0..0,
        }
    }
}

/// A number below `bound`. The bias of a remainder does not matter here, its being the same everywhere does.
fn below(rng: &mut dyn RngCore, bound: usize) -> usize {
    (rng.next_u64() % bound as u64) as usize
}

/// Cuts or lengthens with zeros. Not `Vec::resize`, which costs a minute of a debug build's tests: it writes byte by
/// byte.
fn set_len(bytes: &mut Vec<u8>, len: usize) {
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
