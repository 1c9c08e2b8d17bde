//! The second pass: a whole database, written from its first byte to its last without ever going back.
//!
//! Pages leave in the order of their numbers: the metas, the empty list of free pages, then every node when it is full,
//! a parent after its children. What is held is one open node a level and a page's buffer, whatever the file's size.
//! The file is one that bbolt could have written, so that a real etcd goes on with it.

use std::io;

use bytes::Bytes;

use super::Error;
use super::page::{BRANCH, FREE_LIST, Header, LEAF, Meta, encode_node, node_bytes, short};
use super::plan::{FREE_LIST_PAGE, Forest, Plan};
use super::tree::{Item, Pages};

/// The newer meta page is page 0, that of an even transaction.
const TRANSACTION: u64 = 2;

pub struct Writer<W> {
    forest: Forest<Bytes>,
    pages: Out<W>,
    last_key: Bytes,
}

impl<W: io::Write> Writer<W> {
    /// Begins the file in `out`, which is written to in large pieces.
    pub fn new(plan: Plan, out: W) -> Result<Writer<W>, Error> {
        let mut pages = Out { plan, out, next: FREE_LIST_PAGE + 1, buffer: Vec::new() };
        let Plan { page_bytes, root, pages: count, .. } = plan;
        for transaction in [TRANSACTION, TRANSACTION - 1] {
            let meta = Meta { page_bytes, root, free_list: FREE_LIST_PAGE, pages: count, transaction };
            meta.encode(&mut pages.buffer);
        }
        Header { id: FREE_LIST_PAGE, kind: FREE_LIST, count: 0, overflow: 0 }.encode(&mut pages.buffer);
        pages.flush()?;
        Ok(Writer { forest: Forest::new(), pages, last_key: Bytes::new() })
    }

    /// Begins the next bucket; their names ascend.
    pub fn bucket(&mut self, name: &str) -> Result<(), Error> {
        self.last_key = Bytes::new();
        self.forest.bucket(name, &mut self.pages)
    }

    /// The next row of the bucket; keys ascend.
    pub fn row(&mut self, key: Bytes, value: Bytes) -> Result<(), Error> {
        if key <= self.last_key {
            return Err(Error::Unfit(format!("the row {} came after {}", short(&key), short(&self.last_key))));
        }
        self.last_key = key.clone();
        self.forest.row(key, value, &mut self.pages)
    }

    /// Ends the file, and gives back where it went. Fails when this pass was not given what the plan was made from.
    pub fn finish(mut self) -> Result<W, Error> {
        let plan = self.pages.plan;
        let (root, seen) = self.forest.finish(&mut self.pages)?;
        if (root, self.pages.next, seen) != (plan.root, plan.pages, plan.seen) {
            return Err(Error::Unfit(format!("it was planned for {:?} and given {seen:?}", plan.seen)));
        }
        Ok(self.pages.out)
    }
}

struct Out<W> {
    plan: Plan,
    out: W,
    next: u64,
    buffer: Vec<u8>,
}

impl<W: io::Write> Out<W> {
    /// Fills the last page of the buffer with zeros, and sends it.
    fn flush(&mut self) -> Result<(), Error> {
        let len = self.buffer.len().next_multiple_of(self.page_bytes());
        self.buffer.resize(len, 0);
        self.out.write_all(&self.buffer).map_err(|source| Error::Io { doing: "writing", source })?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: io::Write> Pages<Bytes> for Out<W> {
    fn page_bytes(&self) -> usize {
        self.plan.page_bytes as usize
    }

    fn put(&mut self, is_leaf: bool, items: &[Item<Bytes>]) -> Result<u64, Error> {
        let id = self.next;
        let pages = node_bytes(items).div_ceil(self.page_bytes()) as u64;
        self.next += pages;
        if self.next > self.plan.pages {
            return Err(Error::Unfit(format!("it was planned for {:?} and given more", self.plan.seen)));
        }
        let overflow = u32::try_from(pages - 1)
            .map_err(|_| Error::Unfit(format!("{} rows take {pages} pages together", items.len())))?;
        let kind = if is_leaf { LEAF } else { BRANCH };
        encode_node(Header { id, kind, count: 0, overflow }, items, &mut self.buffer);
        self.flush()?;
        Ok(id)
    }
}
