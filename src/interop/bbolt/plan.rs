//! The first of the two passes that write a database: how many pages there will be, and which of them is the root.
//!
//! Both stand in the meta pages, which come first in the file; a stream cannot go back and fill them in. The pass sees
//! lengths and no bytes.

use super::Error;
use super::page::{IS_BUCKET, MAX_KEY, MAX_VALUE, PAGE_SIZES, node_bytes};
use super::tree::{Field, Item, Pages, Root, Tree};

/// The page of the list of free pages, which is empty; the data comes after it.
pub(super) const FREE_LIST_PAGE: u64 = 2;

/// What the second pass is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) page_bytes: u32,
    pub(super) pages: u64,
    pub(super) root: u64,
    pub(super) seen: Seen,
}

impl Plan {
    /// How long the database will be.
    pub fn bytes(&self) -> u64 {
        self.pages * u64::from(self.page_bytes)
    }
}

/// What a pass was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub buckets: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Takes the lengths of all rows of all buckets, in the order in which the writer will take the rows themselves.
pub struct Layout {
    forest: Forest<usize>,
    pages: Counter,
}

impl Layout {
    /// `page_bytes`: a power of two, usually [`PAGE_BYTES`](super::PAGE_BYTES).
    pub fn new(page_bytes: u32) -> Layout {
        assert!(page_bytes.is_power_of_two() && PAGE_SIZES.contains(&page_bytes), "pages of {page_bytes} bytes");
        Layout { forest: Forest::new(), pages: Counter { page_bytes, next: FREE_LIST_PAGE + 1 } }
    }

    /// Begins the next bucket.
    pub fn bucket(&mut self, name: &str) -> Result<(), Error> {
        self.forest.bucket(name, &mut self.pages)
    }

    pub fn row(&mut self, key_len: usize, value_len: usize) -> Result<(), Error> {
        self.forest.row(key_len, value_len, &mut self.pages)
    }

    pub fn finish(mut self) -> Result<Plan, Error> {
        let (root, seen) = self.forest.finish(&mut self.pages)?;
        Ok(Plan { page_bytes: self.pages.page_bytes, pages: self.pages.next, root, seen })
    }
}

struct Counter {
    page_bytes: u32,
    next: u64,
}

impl Pages<usize> for Counter {
    fn page_bytes(&self) -> usize {
        self.page_bytes as usize
    }

    fn put(&mut self, _: bool, items: &[Item<usize>]) -> Result<u64, Error> {
        let page = self.next;
        self.next += node_bytes(items).div_ceil(self.page_bytes()) as u64;
        Ok(page)
    }
}

/// The bucket that is open, and the tree of those before it: the half of a pass that both have in common.
pub(super) struct Forest<F> {
    buckets: Tree<F>,
    open: Option<(String, Tree<F>)>,
    seen: Seen,
}

impl<F: Field> Forest<F> {
    pub fn new() -> Forest<F> {
        Forest { buckets: Tree::new(), open: None, seen: Seen::default() }
    }

    pub fn bucket(&mut self, name: &str, pages: &mut impl Pages<F>) -> Result<(), Error> {
        if name.is_empty() || name.len() > MAX_KEY {
            return Err(Error::Unfit(format!("the name of a bucket has {} bytes", name.len())));
        }
        if let Some((last, _)) = self.open.as_ref().filter(|(last, _)| last.as_str() >= name) {
            return Err(Error::Unfit(format!("the bucket {name} came after {last}")));
        }
        self.close(pages)?;
        self.seen.buckets += 1;
        self.seen.bytes += name.len() as u64;
        self.open = Some((name.to_string(), Tree::new()));
        Ok(())
    }

    pub fn row(&mut self, key: F, value: F, pages: &mut impl Pages<F>) -> Result<(), Error> {
        let Some((name, tree)) = &mut self.open else {
            return Err(Error::Unfit("a row came before the first bucket".to_string()));
        };
        if !(1..=MAX_KEY).contains(&key.len()) || value.len() > MAX_VALUE {
            let (key, value) = (key.len(), value.len());
            return Err(Error::Unfit(format!("a row of {name} has a key of {key} bytes and a value of {value}")));
        }
        self.seen.rows += 1;
        self.seen.bytes += (key.len() + value.len()) as u64;
        tree.push(Item { key, value, tag: 0 }, pages)
    }

    /// The page of the root, and what was seen in all.
    pub fn finish(mut self, pages: &mut impl Pages<F>) -> Result<(u64, Seen), Error> {
        self.close(pages)?;
        match self.buckets.finish(false, pages)? {
            Root::Page(root) => Ok((root, self.seen)),
            Root::Within(_) => unreachable!("the root has a page of its own"),
        }
    }

    fn close(&mut self, pages: &mut impl Pages<F>) -> Result<(), Error> {
        let Some((name, tree)) = self.open.take() else { return Ok(()) };
        let value = match tree.finish(true, pages)? {
            Root::Page(page) => F::bucket(page, None),
            Root::Within(items) => F::bucket(0, Some(&items)),
        };
        self.buckets.push(Item { key: F::text(name.as_bytes()), value, tag: IS_BUCKET }, pages)
    }
}
