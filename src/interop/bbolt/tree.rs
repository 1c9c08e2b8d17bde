//! A B+ tree that grows from its left edge: elements come in order, nodes leave as soon as they are full.
//!
//! Generic over what is known of a key and a value: their lengths in the pass that plans a file, their bytes in the
//! one that writes it. So both cut the same nodes, because it is the same code that cuts. One open node a level is
//! held, and nothing of those that have left.

use bytes::Bytes;

use super::Error;
use super::page::{BUCKET, ELEMENT, HEADER, Header, LEAF, encode_node, node_bytes};

/// bbolt never makes a node of fewer elements when it splits one, and a branch of one child breaks it later, when it
/// merges nodes.
const LEAST: usize = 2;

/// A key or a value.
pub trait Field: Clone {
    fn len(&self) -> usize;
    /// A copy that keeps nothing else alive.
    fn owned(&self) -> Self;
    fn text(text: &[u8]) -> Self;
    /// A bucket, as the value of its name.
    fn bucket(root: u64, within: Option<&[Item<Self>]>) -> Self;
}

impl Field for usize {
    fn len(&self) -> usize {
        *self
    }

    fn owned(&self) -> usize {
        *self
    }

    fn text(text: &[u8]) -> usize {
        text.len()
    }

    fn bucket(_: u64, within: Option<&[Item<usize>]>) -> usize {
        BUCKET + within.map_or(0, node_bytes)
    }
}

impl Field for Bytes {
    fn len(&self) -> usize {
        Bytes::len(self)
    }

    fn owned(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn text(text: &[u8]) -> Bytes {
        Bytes::copy_from_slice(text)
    }

    fn bucket(root: u64, within: Option<&[Item<Bytes>]>) -> Bytes {
        let mut value = root.to_le_bytes().to_vec();
        value.extend_from_slice(&[0; 8]);
        if let Some(items) = within {
            encode_node(Header { id: 0, kind: LEAF, count: 0, overflow: 0 }, items, &mut value);
        }
        value.into()
    }
}

/// An element of a node: its tag is the flags of a leaf's element, the page of a branch's.
#[derive(Clone, Debug)]
pub struct Item<F> {
    pub key: F,
    pub value: F,
    pub tag: u64,
}

impl<F: Field> Item<F> {
    pub fn bytes(&self) -> usize {
        ELEMENT + self.key.len() + self.value.len()
    }
}

/// Where full nodes go.
pub trait Pages<F> {
    fn page_bytes(&self) -> usize;
    /// Takes a node, and gives the number of its page.
    fn put(&mut self, is_leaf: bool, items: &[Item<F>]) -> Result<u64, Error>;
}

/// What became of a tree.
pub enum Root<F> {
    Page(u64),
    /// It is one leaf, small enough to lie within its parent's.
    Within(Vec<Item<F>>),
}

pub struct Tree<F> {
    /// The leaf first.
    levels: Vec<Level<F>>,
}

/// The open node of a level, with what may become the start of the next.
struct Level<F> {
    items: Vec<Item<F>>,
    bytes: usize,
    /// So many items fill the node; it leaves once another node is sure to have enough.
    full: Option<usize>,
}

impl<F: Field> Tree<F> {
    pub fn new() -> Tree<F> {
        Tree { levels: vec![Level::new()] }
    }

    pub fn push(&mut self, item: Item<F>, pages: &mut impl Pages<F>) -> Result<(), Error> {
        self.push_at(0, item, pages)
    }

    /// Ends the tree. A root that may lie within its parent is put nowhere.
    pub fn finish(mut self, may_lie_within: bool, pages: &mut impl Pages<F>) -> Result<Root<F>, Error> {
        let mut at = 0;
        loop {
            let level = std::mem::replace(&mut self.levels[at], Level::new());
            let (first, second) = level.close(pages.page_bytes());
            if second.is_none() && at + 1 == self.levels.len() {
                let fits = node_bytes(&first) <= pages.page_bytes() / 4;
                if may_lie_within && at == 0 && fits {
                    return Ok(Root::Within(first));
                }
                return pages.put(at == 0, &first).map(Root::Page);
            }
            for items in [Some(first), second].into_iter().flatten() {
                self.put(at, &items, pages)?;
            }
            at += 1;
        }
    }

    fn push_at(&mut self, at: usize, item: Item<F>, pages: &mut impl Pages<F>) -> Result<(), Error> {
        if at == self.levels.len() {
            self.levels.push(Level::new());
        }
        match self.levels[at].push(item, pages.page_bytes()) {
            Some(items) => self.put(at, &items, pages),
            None => Ok(()),
        }
    }

    fn put(&mut self, at: usize, items: &[Item<F>], pages: &mut impl Pages<F>) -> Result<(), Error> {
        let page = pages.put(at == 0, items)?;
        let parent = Item { key: items[0].key.owned(), value: F::text(&[]), tag: page };
        self.push_at(at + 1, parent, pages)
    }
}

impl<F: Field> Level<F> {
    fn new() -> Level<F> {
        Level { items: Vec::new(), bytes: HEADER, full: None }
    }

    /// A node that is full, once there is enough for the next. Nodes are filled to nine tenths, as etcd has it: the
    /// rest is for what is put between later.
    fn push(&mut self, item: Item<F>, page_bytes: usize) -> Option<Vec<Item<F>>> {
        let is_beyond = self.bytes + item.bytes() > page_bytes * 9 / 10;
        if self.full.is_none() && self.items.len() >= LEAST && is_beyond {
            self.full = Some(self.items.len());
        }
        self.bytes += item.bytes();
        self.items.push(item);
        let full = self.full.filter(|full| self.items.len() == full + LEAST)?;
        let rest = self.items.split_off(full);
        let items = std::mem::replace(&mut self.items, rest);
        self.bytes = node_bytes(&self.items);
        self.full = None;
        Some(items)
    }

    /// The last node of the level, or the last two.
    fn close(mut self, page_bytes: usize) -> (Vec<Item<F>>, Option<Vec<Item<F>>>) {
        if self.full.is_none() || self.bytes <= page_bytes || self.items.len() <= 2 * LEAST {
            return (self.items, None);
        }
        let last = self.items.split_off(self.items.len() - LEAST);
        (self.items, Some(last))
    }
}
