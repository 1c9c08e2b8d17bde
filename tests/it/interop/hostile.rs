//! Files that are broken, by accident and on purpose: an error that names the page, never a panic, an endless walk or
//! memory for a length that was only claimed.

use bytes::Bytes;

use super::{Buckets, one, read, rows, write};

const SIZE: usize = 1024;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;

fn small() -> (Buckets, Vec<u8>) {
    let mut buckets = one("auth", rows(2, |_| 10));
    buckets.extend(one("key", rows(40, |at| at * 5)));
    buckets.extend(one("lease", rows(2, |_| 900)));
    buckets.extend(one("meta", rows(1, |_| 3_000)));
    let file = write(&buckets, SIZE as u32);
    (buckets, file)
}

/// Without the snapshot's digest a flipped bit in a value is a value; whatever else it hits is noticed or meaningless.
#[test]
fn a_flipped_byte_breaks_nothing_but_its_file() {
    let (buckets, file) = small();
    let mut refused = 0;
    for at in 0..file.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut flipped = file.clone();
            flipped[at] ^= mask;
            match read(flipped) {
                Ok(found) => {
                    let rows = |buckets: &Buckets| buckets.iter().map(|(_, rows)| rows.len()).sum::<usize>();
                    assert!(rows(&found) <= file.len() / 16, "byte {at}");
                    // The two meta pages stand for one another.
                    assert!(at >= 2 * SIZE || found == buckets, "byte {at}");
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("the etcd database"), "byte {at}: {error}");
                }
            }
        }
    }
    assert!(refused > 500, "only {refused} flips were noticed");
}

#[test]
fn a_file_cut_short_is_refused() {
    let (_, file) = small();
    for len in 0..file.len() {
        read(file[..len].to_vec()).expect_err("a file cut short");
    }
    let longer = [&file[..], &[0xaa; 4_096]].concat();
    assert!(read(longer).expect("bbolt's files have room at their end") == small().0);
}

/// The newer valid meta page counts, wherever it is.
#[test]
fn either_meta_page_will_do() {
    let (buckets, file) = small();
    for broken in [0, 1] {
        let mut file = file.clone();
        file[broken * SIZE..(broken + 1) * SIZE].fill(0xff);
        assert!(read(file).expect("the other one") == buckets, "meta page {broken}");
    }
    let mut newer = file.clone();
    put_u64(&mut newer, SIZE + 16 + 48, 9);
    put_u64(&mut newer, SIZE + 16 + 16, 77);
    seal(&mut newer, 1);
    assert!(read(newer).expect_err("the newer one").to_string().contains("it leads to page 77"));
}

#[test]
fn what_contradicts_itself_is_named() {
    let leaf = |id: u64, keys: &[&str]| {
        let elements: Vec<_> = keys.iter().map(|key| (key.as_bytes().to_vec(), b"v".to_vec(), 0)).collect();
        page(id, LEAF, &elements)
    };
    let branch = |id: u64, children: &[(&str, u64)]| {
        let elements: Vec<_> = children.iter().map(|(key, child)| (key.as_bytes().to_vec(), vec![], *child)).collect();
        page(id, BRANCH, &elements)
    };
    let chain = || -> Vec<Vec<u8>> {
        let mut pages: Vec<_> = (4..200).map(|id| branch(id, &[("a", id + 1)])).collect();
        pages.push(leaf(200, &["a"]));
        pages
    };
    let set = |mut page: Vec<u8>, at: usize, bytes: &[u8]| {
        page[at..at + bytes.len()].copy_from_slice(bytes);
        page
    };
    // The pages from 4 on, which is the root of the one bucket, and what the error says.
    let cases: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("a way back to itself", vec![branch(4, &[("a", 4), ("b", 4)])], "page 4: its keys from"),
        ("a way back, in order", vec![branch(4, &[("a", 4)])], "page 4: pages are used twice"),
        ("a way back to the parent", vec![branch(4, &[("a", 5)]), branch(5, &[("a", 4)])], "pages are used twice"),
        ("too deep", chain(), "page 43: it is 40 levels below its root"),
        (
            "two ways to one leaf",
            vec![branch(4, &[("a", 5), ("b", 5)]), leaf(5, &["a"])],
            "page 5: its keys from \"a\" to \"a\" are not those that page 4 says it has",
        ),
        (
            "thousands of ways to an empty leaf",
            vec![branch(4, &[("a", 5), ("b", 5), ("c", 5), ("d", 5), ("e", 5), ("f", 5)]), leaf(5, &[])],
            "page 5: pages are used twice",
        ),
        ("a page out of the file", vec![branch(4, &[("a", 99)])], "page 4: it leads to page 99, of 5 in use"),
        ("a way to a meta page", vec![branch(4, &[("a", 1)])], "page 4: it leads to page 1"),
        ("a way to the free pages", vec![branch(4, &[("a", 2)])], "page 2: it is neither branch nor leaf"),
        ("another page's number", vec![leaf(9, &["a"])], "page 4: it says that it is page 9"),
        ("no kind", vec![set(leaf(4, &["a"]), 8, &[0, 0])], "neither branch nor leaf (kind 0x0)"),
        ("two kinds", vec![set(leaf(4, &["a"]), 8, &[3, 0])], "neither branch nor leaf (kind 0x3)"),
        ("an empty branch", vec![branch(4, &[])], "page 4: a branch without elements"),
        ("too many elements", vec![set(leaf(4, &["a"]), 10, &[0xff, 0xff])], "65535 elements do not fit"),
        ("pages beyond the file", vec![set(leaf(4, &["a"]), 12, &[0xff; 4])], "it claims 4294967296 pages, of 5"),
        ("a key before its page's data", vec![set(leaf(4, &["a"]), 20, &[0; 4])], "are not the page's"),
        ("a key behind its page", vec![set(leaf(4, &["a"]), 20, &[0xff; 4])], "are not the page's"),
        ("an endless key", vec![set(leaf(4, &["a"]), 24, &[0xff; 4])], "are not the page's"),
        ("an endless value", vec![set(leaf(4, &["a"]), 28, &[0xff; 4])], "are not the page's"),
        ("an empty key", vec![set(leaf(4, &["a"]), 24, &[0; 4])], "its key is empty"),
        (
            "elements that share their bytes",
            vec![set(set(leaf(4, &["a", "b"]), 28, &[132, 3]), 44, &[132, 3])],
            "element 1: 901 bytes at 50 are not the page's",
        ),
        ("keys that descend", vec![leaf(4, &["b", "a"])], "element 1: its key \"a\" does not come after"),
        ("a key twice", vec![leaf(4, &["a", "a"])], "element 1: its key \"a\" does not come after"),
        (
            "a leaf whose keys belong to the next",
            vec![branch(4, &[("a", 5), ("c", 6)]), leaf(5, &["a", "d"]), leaf(6, &["e"])],
            "page 5: its keys from \"a\" to \"d\"",
        ),
        ("a bucket within a bucket", vec![set(leaf(4, &["a"]), 16, &[1])], "\"a\" is a bucket within a bucket"),
    ];
    for (name, pages, expected) in &cases {
        let bucket = [&4u64.to_le_bytes()[..], &[0; 8]].concat();
        let root = page(3, LEAF, &[(b"key".to_vec(), bucket, 1)]);
        let error = read(file(root, pages)).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }

    let within = |kind: u16| [&[0; 16][..], &page(0, kind, &[(b"a".to_vec(), vec![], 0)])[..40]].concat();
    let roots: &[(&str, Vec<u8>, u64, &str)] = &[
        ("a row outside of all buckets", vec![0; 16], 0, "page 3: \"key\" is a row outside of all buckets"),
        ("a short bucket", vec![0; 15], 1, "page 3: \"key\" is a bucket of 15 bytes"),
        ("a bucket without a leaf", vec![0; 16], 1, "page 3: a bucket of 0 bytes within it is too short"),
        ("a branch within a leaf", within(BRANCH), 1, "lies within a leaf and is none itself"),
        ("a leaf within, of no kind", within(0), 1, "page 3: it is neither branch nor leaf"),
        ("a leaf within, cut short", within(LEAF)[..36].to_vec(), 1, "page 3: 1 elements do not fit"),
    ];
    for (name, value, tag, expected) in roots {
        let root = page(3, LEAF, &[(b"key".to_vec(), value.clone(), *tag)]);
        let error = read(file(root, &[])).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn what_is_no_database_says_what_it_is() {
    let (_, good) = small();
    let both = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        for meta in [0, 1] {
            file[meta * SIZE + 16 + at..][..bytes.len()].copy_from_slice(bytes);
            seal(&mut file, meta);
        }
        file
    };
    let mut unsealed = good.clone();
    unsealed[16 + 60] ^= 1;
    unsealed[SIZE + 16 + 60] ^= 1;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "it has only 0 bytes"),
        ("zeros", vec![0; 8_192], "its magic number is 00000000, not ed0cdaed"),
        ("text", b"key: value\n".repeat(900), "its magic number is"),
        ("big-endian", both(0, &[0xed, 0x0c, 0xda, 0xed]), "big-endian"),
        ("a newer format", both(4, &[3]), "has format 3, this program knows format 2"),
        ("both metas rotten", unsealed, "check value"),
        ("pages of no bytes", both(8, &[0; 4]), "its pages have 0 bytes"),
        ("pages of 4 GiB", both(8, &[0xff; 4]), "its pages have 4294967295 bytes"),
        ("pages of a GiB", both(8, &(1u32 << 30).to_le_bytes()), "its pages have 1073741824 bytes"),
        ("endless pages", both(40, &[0xff; 8]), "bytes are in use, the file has"),
        ("a root out of the file", both(16, &[0xff; 8]), "it leads to page 18446744073709551615"),
        ("a root that is a meta page", both(16, &[0; 8]), "it leads to page 0"),
    ];
    for (name, file, expected) in cases {
        let error = read(file).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// A page of so much data as its elements have: key, value, and flags or child.
fn page(id: u64, kind: u16, elements: &[(Vec<u8>, Vec<u8>, u64)]) -> Vec<u8> {
    let mut page = id.to_le_bytes().to_vec();
    page.extend(kind.to_le_bytes());
    page.extend((elements.len() as u16).to_le_bytes());
    page.extend([0; 4]);
    let mut data = Vec::new();
    for (at, (key, value, tag)) in elements.iter().enumerate() {
        let place = ((elements.len() - at) * 16 + data.len()) as u32;
        let lengths = [place, key.len() as u32, value.len() as u32];
        if kind == LEAF {
            page.extend((*tag as u32).to_le_bytes());
            page.extend(lengths.iter().flat_map(|n| n.to_le_bytes()));
        } else {
            page.extend(lengths[..2].iter().flat_map(|n| n.to_le_bytes()));
            page.extend(tag.to_le_bytes());
        }
        data.extend([&key[..], value].concat());
    }
    page.extend(data);
    page.resize(SIZE, 0);
    page
}

/// A database whose root is page 3.
fn file(root: Vec<u8>, pages: &[Vec<u8>]) -> Bytes {
    let mut file = write(&Buckets::new(), SIZE as u32);
    file.truncate(3 * SIZE);
    file.extend(root);
    file.extend(pages.iter().flatten());
    let count = (file.len() / SIZE) as u64;
    for meta in [0, 1] {
        put_u64(&mut file, meta * SIZE + 16 + 16, 3);
        put_u64(&mut file, meta * SIZE + 16 + 40, count);
        seal(&mut file, meta);
    }
    file.into()
}

fn put_u64(file: &mut [u8], at: usize, number: u64) {
    file[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// Gives a meta page that was changed a check value of its own.
fn seal(file: &mut [u8], meta: usize) {
    let at = meta * SIZE + 16;
    let check = file[at..at + 56]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    put_u64(file, at + 56, check);
}
