//! Reading a database that anybody may have written: etcd, a failing disk, or somebody who means harm.
//!
//! What is held is the way from the root to one leaf. Every page says its own number and kind, lies within the file,
//! and its keys lie between those that its parent gave it; so no two ways lead to the same rows, and no way leads back.
//! Beyond that a walk takes no more pages than the file has, and goes no deeper than [`MAX_DEPTH`].

use bytes::Bytes;

use super::Error;
use super::page::{BUCKET, HEADER, Header, META, Meta, Node, PAGE_SIZES, short, u64_at};
use crate::interop::ReadAt;

/// Branches have two children and more, so this is deeper than any file is long.
const MAX_DEPTH: usize = 40;
/// What one node may have: bbolt puts up to four rows in one that it never cuts, and etcd's rows have 1.5 MiB, or what
/// its operator allows.
const MAX_NODE_BYTES: u64 = 256 << 20;

/// An open database.
#[derive(Debug)]
pub struct Db<S> {
    source: S,
    meta: Meta,
}

impl<S: ReadAt> Db<S> {
    /// Opens the database in the first `bytes` of `source`.
    pub fn open(source: S, bytes: u64) -> Result<Db<S>, Error> {
        let first = read_meta(&source, 0, bytes);
        let second = match &first {
            Ok(meta) => read_meta(&source, u64::from(meta.page_bytes), bytes),
            Err(Error::Io { .. }) => return Err(first.expect_err("just seen")),
            // Where the second one is, only the first one says.
            Err(_) => find_second(&source, bytes)?,
        };
        let meta = match (first, second) {
            (Ok(first), Ok(second)) if second.transaction > first.transaction => second,
            (Ok(first), _) => first,
            (Err(_), Ok(second)) => second,
            (Err(error), Err(_)) => return Err(error),
        };
        let needed = meta.pages.saturating_mul(u64::from(meta.page_bytes));
        if needed > bytes {
            return Err(Error::damaged(
                meta.transaction % 2,
                format!("it says that {needed} bytes are in use, the file has {bytes}"),
            ));
        }
        Ok(Db { source, meta })
    }

    /// The length of what is in use: a file may be longer, for what comes next.
    pub fn bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    pub fn page_bytes(&self) -> u32 {
        self.meta.page_bytes
    }

    pub fn bucket(&self, name: &str) -> Result<Option<Bucket<'_, S>>, Error> {
        let mut walk = self.walk();
        let root = walk.page(self.meta.root, META_ASKED, None, None)?;
        let Some((leaf, at)) = walk.find(root, name.as_bytes())? else { return Ok(None) };
        self.as_bucket(&leaf, at).map(Some)
    }

    /// All buckets with their names, in the order of those.
    pub fn buckets(&self) -> Result<Vec<(Bytes, Bucket<'_, S>)>, Error> {
        let mut walk = self.walk();
        walk.enter(self.meta.root, META_ASKED)?;
        let mut buckets = Vec::new();
        while let Some((leaf, at)) = walk.next()? {
            buckets.push((leaf.key_bytes(at), self.as_bucket(&leaf, at)?));
            if buckets.len() > MAX_BUCKETS {
                return Err(Error::damaged(leaf.id, format!("there are more than {MAX_BUCKETS} buckets")));
            }
        }
        Ok(buckets)
    }

    fn as_bucket(&self, leaf: &Node, at: usize) -> Result<Bucket<'_, S>, Error> {
        let (name, value) = leaf.entry(at);
        let damaged = |what: String| Err(Error::damaged(leaf.id, format!("{} {what}", short(&name))));
        if !leaf.is_bucket(at) {
            return damaged("is a row outside of all buckets".to_string());
        }
        if value.len() < BUCKET {
            return damaged(format!("is a bucket of {} bytes", value.len()));
        }
        let root = match u64_at(&value, 0) {
            0 => Root::Within(Node::parse(leaf.id, value.slice(BUCKET..))?),
            page => Root::Page { page, named_by: leaf.id },
        };
        if matches!(&root, Root::Within(node) if !node.is_leaf()) {
            return damaged("lies within a leaf and is none itself".to_string());
        }
        Ok(Bucket { db: self, root })
    }

    fn walk(&self) -> Walk<'_, S> {
        Walk { db: self, path: Vec::new(), left: self.meta.pages }
    }
}

/// etcd has a dozen.
const MAX_BUCKETS: usize = 1_000;
/// The page that an error names when a meta page leads astray.
const META_ASKED: u64 = 0;

/// One bucket of a database.
#[derive(Debug)]
pub struct Bucket<'a, S> {
    db: &'a Db<S>,
    root: Root,
}

#[derive(Clone, Debug)]
enum Root {
    Page { page: u64, named_by: u64 },
    Within(Node),
}

impl<'a, S: ReadAt> Bucket<'a, S> {
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let mut walk = self.db.walk();
        let root = match &self.root {
            Root::Page { page, named_by } => walk.page(*page, *named_by, None, None)?,
            Root::Within(node) => node.clone(),
        };
        let found = walk.find(root, key)?;
        found.map(|(leaf, at)| row(&leaf, at).map(|(_, value)| value)).transpose()
    }

    /// All rows in the order of their keys.
    pub fn rows(&self) -> Rows<'a, S> {
        Rows { walk: self.db.walk(), start: Some(self.root.clone()) }
    }
}

/// The rows of a bucket; ends at the first error. Keys and values share the memory of their page: what is kept for
/// long is better copied.
pub struct Rows<'a, S> {
    walk: Walk<'a, S>,
    start: Option<Root>,
}

impl<S: ReadAt> Iterator for Rows<'_, S> {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.step();
        if found.is_err() {
            self.walk.path.clear();
        }
        found.transpose()
    }
}

impl<S: ReadAt> Rows<'_, S> {
    fn step(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        match self.start.take() {
            Some(Root::Page { page, named_by }) => self.walk.enter(page, named_by)?,
            Some(Root::Within(node)) => self.walk.path.push(Step { node, next: 0, end: None }),
            None => {}
        }
        let Some((leaf, at)) = self.walk.next()? else { return Ok(None) };
        row(&leaf, at).map(Some)
    }
}

/// The way from a root to where the next row is.
#[derive(Debug)]
struct Walk<'a, S> {
    db: &'a Db<S>,
    path: Vec<Step>,
    /// Pages that this walk may still read: no more than there are.
    left: u64,
}

#[derive(Debug)]
struct Step {
    node: Node,
    next: usize,
    /// The first key that no longer belongs here.
    end: Option<Bytes>,
}

impl<S: ReadAt> Walk<'_, S> {
    fn enter(&mut self, root: u64, named_by: u64) -> Result<(), Error> {
        let node = self.page(root, named_by, None, None)?;
        self.path.push(Step { node, next: 0, end: None });
        Ok(())
    }

    /// The next element of a leaf.
    fn next(&mut self) -> Result<Option<(Node, usize)>, Error> {
        loop {
            let depth = self.path.len();
            let Some(step) = self.path.last_mut() else { return Ok(None) };
            let at = step.next;
            if at == step.node.count() {
                self.path.pop();
                continue;
            }
            step.next += 1;
            let node = step.node.clone();
            if node.is_leaf() {
                return Ok(Some((node, at)));
            }
            let end = if at + 1 < node.count() { Some(node.key_bytes(at + 1)) } else { step.end.clone() };
            let child = self.child(&node, at, end.as_deref(), depth)?;
            self.path.push(Step { node: child, next: 0, end });
        }
    }

    /// The element of a leaf below `node` that has this key.
    fn find(&mut self, mut node: Node, key: &[u8]) -> Result<Option<(Node, usize)>, Error> {
        let mut end = None;
        for depth in 1.. {
            if node.is_leaf() {
                return Ok(node.search(key).ok().map(|at| (node, at)));
            }
            let at = match node.search(key) {
                Ok(at) => at,
                Err(0) => return Ok(None),
                Err(after) => after - 1,
            };
            if at + 1 < node.count() {
                end = Some(node.key_bytes(at + 1));
            }
            node = self.child(&node, at, end.as_deref(), depth)?;
        }
        unreachable!("a way has an end")
    }

    fn child(&mut self, node: &Node, at: usize, end: Option<&[u8]>, depth: usize) -> Result<Node, Error> {
        if depth >= MAX_DEPTH {
            return Err(Error::damaged(node.id, format!("it is {depth} levels below its root: the way has no end")));
        }
        self.page(node.child(at), node.id, Some(node.key(at)), end)
    }

    /// Reads a node whose keys shall be at least `start` and less than `end`.
    fn page(&mut self, id: u64, named_by: u64, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Node, Error> {
        let Meta { page_bytes, pages, .. } = self.db.meta;
        if id < 2 || id >= pages {
            return Err(Error::damaged(named_by, format!("it leads to page {id}, of {pages} in use")));
        }
        let offset = id * u64::from(page_bytes);
        let mut bytes = vec![0; page_bytes as usize];
        let io = |source| Error::Io { doing: "reading", source };
        self.db.source.read_at(offset, &mut bytes).map_err(io)?;
        let header = Header::decode(&bytes);
        if header.id != id {
            return Err(Error::damaged(id, format!("it says that it is page {}", header.id)));
        }
        let count = u64::from(header.overflow) + 1;
        if count > pages - id {
            return Err(Error::damaged(id, format!("it claims {count} pages, of {pages} in use")));
        }
        if count > self.left {
            return Err(Error::damaged(id, "pages are used twice: the way to it led through more than the file has"));
        }
        self.left -= count;
        let whole = count * u64::from(page_bytes);
        if whole > MAX_NODE_BYTES {
            return Err(Error::damaged(id, format!("it claims {whole} bytes, more than the {MAX_NODE_BYTES} allowed")));
        }
        if count > 1 {
            bytes.resize(whole as usize, 0);
            let (_, rest) = bytes.split_at_mut(page_bytes as usize);
            self.db.source.read_at(offset + u64::from(page_bytes), rest).map_err(io)?;
        }
        let node = Node::parse(id, bytes.into())?;
        if node.count() > 0 {
            let (first, last) = (node.key(0), node.key(node.count() - 1));
            if start.is_some_and(|start| first < start) || end.is_some_and(|end| last >= end) {
                let detail =
                    format!("its keys from {} to {} are not those that page {named_by}", short(first), short(last));
                return Err(Error::damaged(id, format!("{detail} says it has")));
            }
        }
        Ok(node)
    }
}

fn row(leaf: &Node, at: usize) -> Result<(Bytes, Bytes), Error> {
    if leaf.is_bucket(at) {
        return Err(Error::damaged(leaf.id, format!("{} is a bucket within a bucket", short(leaf.key(at)))));
    }
    Ok(leaf.entry(at))
}

fn read_meta(source: &impl ReadAt, offset: u64, bytes: u64) -> Result<Meta, Error> {
    let mut page = [0; HEADER + META];
    if offset + page.len() as u64 > bytes {
        return Err(Error::NotBbolt(format!("it has only {bytes} bytes")));
    }
    source.read_at(offset, &mut page).map_err(|source| Error::Io { doing: "reading", source })?;
    Meta::decode(&page)
}

/// Looks for the second meta page where pages of each size would have it.
fn find_second(source: &impl ReadAt, bytes: u64) -> Result<Result<Meta, Error>, Error> {
    let mut page_bytes = *PAGE_SIZES.start();
    while PAGE_SIZES.contains(&page_bytes) {
        match read_meta(source, u64::from(page_bytes), bytes) {
            Ok(meta) if meta.page_bytes == page_bytes => return Ok(Ok(meta)),
            Err(error @ Error::Io { .. }) => return Err(error),
            _ => page_bytes *= 2,
        }
    }
    Ok(Err(Error::NotBbolt("it has no second meta page".to_string())))
}
