//! A disk in memory for tests of one file format at a time: it forgets what was not synced, and can fail after so many
//! writes.
//!
//! It follows the contract of `lockstep::ports::disk`: a crash keeps any sectors of unsynced writes, and no
//! name that was not synced with its directory. Not the simulator's disk: no time, no bit rot, no accounting.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use lockstep::ports::disk::{Disk, DiskFile, Open};

const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub struct SmallDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    /// Changes until every further one fails.
    left: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug)]
struct SmallFile {
    state: Arc<Mutex<State>>,
    file: usize,
}

impl SmallDisk {
    /// The disk as a new process finds it after this one died: of what was not synced, `keep` says which sectors made
    /// it.
    pub fn crash(&self, mut keep: impl FnMut() -> bool) -> SmallDisk {
        let state = self.state.lock().unwrap();
        let files = state.files.iter().map(|f| f.crash(&mut keep)).collect();
        let names = state.durable_names.clone();
        let state = State { names: names.clone(), durable_names: names, files, left: None };
        SmallDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on `changes` more changes succeed, then none.
    pub fn fail_after(&self, changes: Option<u64>) {
        self.state.lock().unwrap().left = changes;
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        state.files[state.names[path]].now.clone()
    }

    /// Puts a durable file there, whatever was there before.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let content = Content { now: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
        state.files.push(content);
        let file = state.files.len() - 1;
        state.names.insert(path.to_string(), file);
        state.durable_names.insert(path.to_string(), file);
    }
}

impl Content {
    fn apply(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
        if bytes.len() < offset + data.len() {
            bytes.resize(offset + data.len(), 0);
        }
        bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    fn crash(&self, keep: &mut impl FnMut() -> bool) -> Content {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Length(len) if keep() => bytes.resize(*len, 0),
                Change::Length(_) => {}
                Change::Write(offset, data) => {
                    let mut at = *offset;
                    while at < offset + data.len() {
                        let end = ((at / SECTOR + 1) * SECTOR).min(offset + data.len());
                        if keep() {
                            Self::apply(&mut bytes, at, &data[at - offset..end - offset]);
                        }
                        at = end;
                    }
                }
            }
        }
        Content { now: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("the disk has failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn file(&self, path: &str) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SmallDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock().unwrap();
        let file = match (state.file(path), how) {
            (Ok(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(file), _) => file,
            (Err(error), Open::Existing) => return Err(error),
            (Err(_), _) => {
                state.spend()?;
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                state.names.insert(path.to_string(), file);
                file
            }
        };
        Ok(Arc::new(SmallFile { state: self.state.clone(), file }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.state.lock().unwrap().names.contains_key(path))
    }

    fn create_dir_all(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let state = self.state.lock().unwrap();
        Ok(state.names.keys().filter_map(|n| n.strip_prefix(path)?.strip_prefix('/')).map(str::to_string).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        let file = state.file(from)?;
        state.names.remove(from);
        state.names.insert(to.to_string(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        state.names.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        state.durable_names = state.names.clone();
        Ok(())
    }
}

impl DiskFile for SmallFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().files[self.file].now.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let offset = offset as usize;
        let found = state.files[self.file].now.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        let file = &mut state.files[self.file];
        Content::apply(&mut file.now, offset as usize, data);
        file.unsynced.push(Change::Write(offset as usize, data.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        let file = &mut state.files[self.file];
        file.now.resize(len as usize, 0);
        file.unsynced.push(Change::Length(len as usize));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn reserve(&self, _len: u64) -> io::Result<()> {
        self.state.lock().unwrap().spend()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        let file = &mut state.files[self.file];
        file.durable.clone_from(&file.now);
        file.unsynced.clear();
        Ok(())
    }
}
