//! A directory: the names as processes see them, as they are durable, and the changes between.
//!
//! It knows names and inode numbers only; what survives a crash is [`super::loss`]'s business.

use std::collections::BTreeMap;

/// A change of a directory's names.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl Change {
    pub fn inode(&self) -> Option<&u64> {
        match self {
            Change::Link(_, inode) | Change::Rename(_, _, inode) => Some(inode),
            Change::Unlink(_) => None,
        }
    }

    pub fn apply(&self, names: &mut BTreeMap<String, u64>) {
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
pub(super) struct Dir {
    pub live: BTreeMap<String, u64>,
    pub durable: BTreeMap<String, u64>,
    pub pending: Vec<Change>,
}

impl Dir {
    pub fn link(&mut self, name: &str, inode: u64) {
        self.change(Change::Link(name.to_owned(), inode));
    }

    pub fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub fn is_changed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether there was anything to sync.
    pub fn sync(&mut self) -> bool {
        let changed = self.is_changed();
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
        changed
    }
}
