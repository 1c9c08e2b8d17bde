//! One page: its bytes taken apart, with every claim in them checked, and put together.
//!
//! Nothing in here follows a page number or trusts a length: what a [`Node`] gives out lies within its own bytes.

use bytes::Bytes;

use super::Error;
use super::tree::Item;

pub const VERSION: u32 = 2;
pub const HEADER: usize = 16;
/// Elements of branches and of leaves take the same room.
pub const ELEMENT: usize = 16;
pub const BUCKET: usize = 16;
pub const META: usize = 64;
/// The flag of a leaf's element whose value is a bucket.
pub const IS_BUCKET: u64 = 1;
pub const MAX_KEY: usize = 32 << 10;
pub const MAX_VALUE: usize = (1 << 31) - 2;
/// bbolt itself puts up to 16 MiB in a page when asked to; etcd takes the system's page size.
pub const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1 << 10..=1 << 20;

pub const BRANCH: u16 = 0x01;
pub const LEAF: u16 = 0x02;
pub const META_PAGE: u16 = 0x04;
pub const FREE_LIST: u16 = 0x10;

const MAGIC: u32 = 0xED0C_DAED;

#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub id: u64,
    pub kind: u16,
    pub count: u16,
    pub overflow: u32,
}

impl Header {
    /// `bytes` are at least the header's.
    pub fn decode(bytes: &[u8]) -> Header {
        Header { id: u64_at(bytes, 0), kind: u16_at(bytes, 8), count: u16_at(bytes, 10), overflow: u32_at(bytes, 12) }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub page_bytes: u32,
    pub root: u64,
    pub free_list: u64,
    /// Pages in use: the number of the first that is not.
    pub pages: u64,
    pub transaction: u64,
}

impl Meta {
    /// Reads the meta behind a page's header.
    pub fn decode(page: &[u8]) -> Result<Meta, Error> {
        let Some(bytes) = page.get(HEADER..HEADER + META) else {
            return Err(Error::NotBbolt(format!("{} bytes are no meta page", page.len())));
        };
        match u32_at(bytes, 0) {
            MAGIC => {}
            found if found == MAGIC.swap_bytes() => {
                return Err(Error::NotBbolt("it is of a big-endian machine, which cannot be read".to_string()));
            }
            found => return Err(Error::NotBbolt(format!("its magic number is {found:08x}, not {MAGIC:08x}"))),
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(Error::Version { found: u32_at(bytes, 4) });
        }
        let (expected, found) = (u64_at(bytes, META - 8), fnv1a(&bytes[..META - 8]));
        if expected != found {
            return Err(Error::NotBbolt(format!(
                "the meta page's check value is {expected:016x}, its bytes give {found:016x}"
            )));
        }
        let page_bytes = u32_at(bytes, 8);
        if !page_bytes.is_power_of_two() || !PAGE_SIZES.contains(&page_bytes) {
            return Err(Error::NotBbolt(format!("its pages have {page_bytes} bytes")));
        }
        Ok(Meta {
            page_bytes,
            root: u64_at(bytes, 16),
            free_list: u64_at(bytes, 32),
            pages: u64_at(bytes, 40),
            transaction: u64_at(bytes, 48),
        })
    }

    /// The whole meta page. Its number follows from the transaction, as bbolt has it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Header { id: self.transaction % 2, kind: META_PAGE, count: 0, overflow: 0 }.encode(out);
        let start = out.len();
        for number in [MAGIC, VERSION, self.page_bytes, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.root, 0, self.free_list, self.pages, self.transaction] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let check = fnv1a(&out[start..]);
        out.extend_from_slice(&check.to_le_bytes());
        out.resize(start - HEADER + self.page_bytes as usize, 0);
    }
}

/// A branch or a leaf whose elements all lie within its bytes, in strictly ascending order of their keys.
#[derive(Clone, Debug)]
pub struct Node {
    /// The page's number; that of the page around it for a bucket that lies within a leaf.
    pub id: u64,
    bytes: Bytes,
    is_leaf: bool,
    count: usize,
}

impl Node {
    /// `bytes` are a whole page with all that belongs to it.
    pub fn parse(id: u64, bytes: Bytes) -> Result<Node, Error> {
        if bytes.len() < HEADER {
            return Err(Error::damaged(id, format!("a bucket of {} bytes within it is too short", bytes.len())));
        }
        let header = Header::decode(&bytes);
        let is_leaf = match header.kind {
            LEAF => true,
            BRANCH => false,
            kind => return Err(Error::damaged(id, format!("it is neither branch nor leaf (kind {kind:#x})"))),
        };
        let node = Node { id, bytes, is_leaf, count: usize::from(header.count) };
        let data = HEADER + node.count * ELEMENT;
        let Some(mut room) = node.bytes.len().checked_sub(data) else {
            return Err(Error::damaged(
                id,
                format!("{} elements do not fit in its {} bytes", node.count, node.bytes.len()),
            ));
        };
        if !is_leaf && node.count == 0 {
            return Err(Error::damaged(id, "a branch without elements"));
        }
        let mut previous: &[u8] = &[];
        for at in 0..node.count {
            let damaged = |detail: String| Err(Error::damaged(id, format!("element {at}: {detail}")));
            let [start, key_len, value_len] = node.place(at);
            let len = key_len.saturating_add(value_len);
            // Elements that share bytes could make an endless amount of data of a small page.
            let fits = start >= data as u64 && start.saturating_add(len) <= node.bytes.len() as u64;
            if !fits || len > room as u64 {
                return damaged(format!("{len} bytes at {start} are not the page's ({} bytes)", node.bytes.len()));
            }
            room -= len as usize;
            let key = node.key(at);
            if key.is_empty() {
                return damaged("its key is empty".to_string());
            }
            if at > 0 && key <= previous {
                return damaged(format!("its key {} does not come after the one before", short(key)));
            }
            previous = node.key(at);
        }
        Ok(node)
    }

    pub fn is_leaf(&self) -> bool {
        self.is_leaf
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn key(&self, at: usize) -> &[u8] {
        let [start, len, _] = self.place(at);
        &self.bytes[start as usize..(start + len) as usize]
    }

    /// Key and value of a leaf's element, without a copy.
    pub fn entry(&self, at: usize) -> (Bytes, Bytes) {
        let [start, key_len, value_len] = self.place(at).map(|n| n as usize);
        let middle = start + key_len;
        (self.bytes.slice(start..middle), self.bytes.slice(middle..middle + value_len))
    }

    pub fn key_bytes(&self, at: usize) -> Bytes {
        self.entry(at).0
    }

    /// Whether a leaf's element is a bucket.
    pub fn is_bucket(&self, at: usize) -> bool {
        u64::from(u32_at(&self.bytes, HEADER + at * ELEMENT)) & IS_BUCKET != 0
    }

    /// The page that a branch's element leads to.
    pub fn child(&self, at: usize) -> u64 {
        u64_at(&self.bytes, HEADER + at * ELEMENT + 8)
    }

    /// The first element whose key is `key`, or the place where it belongs.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Where an element's key starts, its length, and the length of its value.
    fn place(&self, at: usize) -> [u64; 3] {
        let element = HEADER + at * ELEMENT;
        let number = |offset| u64::from(u32_at(&self.bytes, element + offset));
        if self.is_leaf {
            [element as u64 + number(4), number(8), number(12)]
        } else {
            [element as u64 + number(0), number(4), 0]
        }
    }
}

/// The bytes of a node that holds `items`, header included and padding not.
pub fn node_bytes<'a, F: super::tree::Field + 'a>(items: impl IntoIterator<Item = &'a Item<F>>) -> usize {
    HEADER + items.into_iter().map(Item::bytes).sum::<usize>()
}

/// Appends a node. `header` says whether it is a leaf; its count is that of `items`.
pub fn encode_node(header: Header, items: &[Item<Bytes>], out: &mut Vec<u8>) {
    let count = u16::try_from(items.len()).expect("a node is cut long before");
    Header { count, ..header }.encode(out);
    let mut place = items.len() * ELEMENT;
    for item in items {
        // A place counts from its own element.
        let numbers = [place as u32, item.key.len() as u32, item.value.len() as u32];
        if header.kind == LEAF {
            out.extend_from_slice(&(item.tag as u32).to_le_bytes());
            numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        } else {
            numbers[..2].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            out.extend_from_slice(&item.tag.to_le_bytes());
        }
        place += item.key.len() + item.value.len();
        place -= ELEMENT;
    }
    for item in items {
        out.extend_from_slice(&item.key);
        out.extend_from_slice(&item.value);
    }
}

/// A key for an error's text.
pub fn short(key: &[u8]) -> String {
    const SHOWN: usize = 32;
    let more = if key.len() > SHOWN { "…" } else { "" };
    format!("\"{}{more}\"", key[..key.len().min(SHOWN)].escape_ascii())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
