//! etcd's files: what we write is read back, by us and by real etcds; what they write is read; what is broken is
//! refused.
//!
//! `interop/etcds.rs` has the real etcds, `interop/hostile.rs` the files that mean harm, `interop/stores.rs` what
//! becomes a store of ours; here is every shape a database can have, and what reading and writing hold in memory.

#[path = "interop/etcds.rs"]
mod etcds;
#[path = "interop/hostile.rs"]
mod hostile;
#[path = "interop/stores.rs"]
mod stores;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use lockstep::interop::ReadAt;
use lockstep::interop::bbolt::{Db, Error, Layout, PAGE_BYTES, Plan, Writer};
use lockstep::interop::snapshot::{self, Sealed};

type Row = (Bytes, Bytes);
/// Buckets with their rows, both in order.
type Buckets = Vec<(String, Vec<Row>)>;

/// Both passes over the same rows.
fn write(buckets: &Buckets, page_bytes: u32) -> Vec<u8> {
    let plan = plan(buckets, page_bytes);
    let mut writer = Writer::new(plan, Vec::new()).expect("a vector takes all");
    for (name, rows) in buckets {
        writer.bucket(name).expect("buckets in order");
        for (key, value) in rows {
            writer.row(key.clone(), value.clone()).expect("rows in order");
        }
    }
    let file = writer.finish().expect("what was planned");
    assert_eq!(file.len() as u64, plan.bytes());
    file
}

fn plan(buckets: &Buckets, page_bytes: u32) -> Plan {
    let mut layout = Layout::new(page_bytes);
    for (name, rows) in buckets {
        layout.bucket(name).expect("buckets in order");
        for (key, value) in rows {
            layout.row(key.len(), value.len()).expect("rows that fit");
        }
    }
    layout.finish().expect("a plan")
}

fn read(file: impl Into<Bytes>) -> Result<Buckets, Error> {
    let file = file.into();
    let bytes = file.len() as u64;
    let db = Db::open(file, bytes)?;
    let mut buckets = Buckets::new();
    for (name, bucket) in db.buckets()? {
        let rows = bucket.rows().collect::<Result<Vec<Row>, Error>>()?;
        buckets.push((String::from_utf8_lossy(&name).into_owned(), rows));
    }
    Ok(buckets)
}

/// Rows like those of the bucket `key`.
fn rows(count: usize, value: impl Fn(usize) -> usize) -> Vec<Row> {
    let row = |at: usize| {
        let key = [&(at as u64 + 2).to_be_bytes()[..], b"_", &[0; 8]].concat();
        (Bytes::from(key), Bytes::from(vec![at as u8; value(at)]))
    };
    (0..count).map(row).collect()
}

fn one(name: &str, rows: Vec<Row>) -> Buckets {
    vec![(name.to_owned(), rows)]
}

#[test]
fn every_shape_is_read_back() {
    let long_keys = |count: usize| {
        let key = |at: usize| Bytes::from(format!("{at:08}{}", "k".repeat(32_000)));
        (0..count).map(|at| (key(at), Bytes::new())).collect()
    };
    let many = |count: usize| -> Buckets {
        (0..count).map(|at| (format!("bucket-{at:04}"), rows(at % 4, |at| at * 300))).collect()
    };
    // What a leaf has left of its page, of nine tenths of it, and of the quarter that may lie within another leaf.
    let element = 16 + 17;
    let exact =
        |page: usize, count: usize| rows(count, move |at| if at == 0 { page - 16 - count * element } else { 0 });
    // With how many pages of 4 KiB there are: three before the data, its nodes, the root.
    let cases: Vec<(&str, usize, Buckets)> = vec![
        ("no bucket", 4, Buckets::new()),
        ("an empty bucket", 4, one("key", Vec::new())),
        ("one row", 4, one("key", rows(1, |_| 5))),
        ("an empty value", 4, one("key", rows(1, |_| 0))),
        ("within the parent's leaf, full", 4, one("key", exact(1024, 3))),
        ("one byte too many for that", 5, one("key", exact(1025, 3))),
        ("nine tenths of a page", 5, one("key", exact(3686, 9))),
        ("one byte more", 5, one("key", exact(3687, 9))),
        ("a whole page", 7, one("key", exact(4096, 9))),
        ("a page and a byte", 7, one("key", exact(4097, 9))),
        ("two whole pages by a row", 6, one("key", exact(8192, 3))),
        ("two whole pages and a byte by a row", 7, one("key", exact(8193, 3))),
        ("rows of 2 MiB", 3592, one("key", rows(7, |_| 2 << 20))),
        ("a row of 2 MiB among small ones", 530, one("key", rows(500, |at| if at == 250 { 2 << 20 } else { 50 }))),
        ("keys of 32 KiB", 0, one("key", long_keys(40))),
        ("hundreds of buckets", 0, many(400)),
        ("three levels and more", 0, one("key", rows(200_000, |at| at % 90))),
    ];
    for (name, pages, buckets) in &cases {
        for page_bytes in [1024, PAGE_BYTES, 65_536] {
            let file = write(buckets, page_bytes);
            assert!(file.len().is_multiple_of(page_bytes as usize), "{name}");
            assert!(read(file).expect(name) == *buckets, "{name}, pages of {page_bytes}");
        }
        let file = write(buckets, PAGE_BYTES);
        let is_as_long = *pages == 0 || file.len() == pages * PAGE_BYTES as usize;
        assert!(is_as_long, "{name}: {} pages", file.len() / PAGE_BYTES as usize);
        etcds::checks(name, &file);
        look_up(name, &file, buckets);
    }
}

/// Some keys that are there, and some that are not.
fn look_up(name: &str, file: &[u8], buckets: &Buckets) {
    let db = Db::open(Bytes::copy_from_slice(file), file.len() as u64).expect(name);
    assert!(db.bucket("none").expect(name).is_none());
    for (bucket, rows) in buckets.iter().step_by(37) {
        let found = db.bucket(bucket).expect(name).expect(name);
        for (key, value) in rows.iter().step_by(rows.len() / 50 + 1) {
            assert_eq!(found.get(key).expect(name).as_ref(), Some(value), "{name}");
            let longer = [key, &b"x"[..]].concat();
            assert_eq!(found.get(&longer).expect(name), None, "{name}");
        }
        for missing in [&b"\0"[..], b"", b"\xff\xff"] {
            assert_eq!(found.get(missing).expect(name), None, "{name}");
        }
    }
}

/// Every place a cut between nodes can fall: a few rows of any size, and many of one.
#[test]
fn every_cut_is_read_back() {
    let check = |name: String, rows: Vec<Row>| {
        let buckets = one("key", rows);
        let file = write(&buckets, 1024);
        assert!(fewest_children(&file, 1024) > 1, "{name}: a branch of one child, which bbolt fails on later");
        assert!(read(file).expect("a database") == buckets, "{name}");
    };
    for count in 1..=9 {
        for value in (0..4_200).step_by(61) {
            let of = |at: usize| if at % 3 == 1 { value } else { value / (at + 1) };
            check(format!("{count} rows of {value}"), rows(count, of));
        }
    }
    for count in 10..200 {
        check(format!("{count} rows"), rows(count, |_| 400));
    }
}

/// The least number of elements that a branch of the file has.
fn fewest_children(file: &[u8], page_bytes: usize) -> usize {
    let mut fewest = usize::MAX;
    let mut at = 2 * page_bytes;
    while let Some(page) = file.get(at..).filter(|page| !page.is_empty()) {
        let number = |at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
        let (kind, count, overflow) = (number(8), number(10), number(12));
        if kind == 1 {
            fewest = fewest.min(count);
        }
        at += (1 + overflow) * page_bytes;
    }
    fewest
}

#[test]
fn the_writer_refuses_what_would_not_be_a_database() {
    let plan = plan(&one("key", rows(3, |_| 2_000)), PAGE_BYTES);
    let row = |n: u64| Bytes::copy_from_slice(&[&n.to_be_bytes()[..], b"_", &[0; 8]].concat());
    let value = || Bytes::from(vec![0; 2_000]);
    type Steps = fn(&mut Writer<Vec<u8>>, &dyn Fn(u64) -> Bytes, &dyn Fn() -> Bytes) -> Result<(), Error>;
    let cases: &[(&str, &str, Steps)] = &[
        ("a row before all buckets", "before the first bucket", |w, row, value| w.row(row(2), value())),
        ("rows that descend", "came after", |w, row, value| {
            w.bucket("key")?;
            w.row(row(3), value())?;
            w.row(row(2), value())
        }),
        ("an empty key", "came after", |w, _, value| {
            w.bucket("key")?;
            w.row(Bytes::new(), value())
        }),
        ("a long key", "a key of 32769 bytes", |w, _, value| {
            w.bucket("key")?;
            w.row(Bytes::from(vec![b'k'; 32_769]), value())
        }),
        ("buckets that descend", "came after", |w, _, _| {
            w.bucket("meta")?;
            w.bucket("key")
        }),
        ("a row less than planned", "planned for", |w, row, value| {
            w.bucket("key")?;
            w.row(row(2), value())?;
            w.row(row(3), value())
        }),
        ("more than planned", "given more", |w, row, value| {
            w.bucket("key")?;
            (2..9).try_for_each(|n| w.row(row(n), value()))
        }),
        ("other lengths than planned", "planned for", |w, row, value| {
            w.bucket("key")?;
            w.row(row(2), value())?;
            w.row(row(3), value())?;
            w.row(row(4), value().slice(1..))
        }),
    ];
    for (name, expected, steps) in cases {
        let mut writer = Writer::new(plan, Vec::new()).expect("a vector takes all");
        let error = steps(&mut writer, &row, &value).and_then(|()| writer.finish().map(drop)).expect_err(name);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_snapshot_is_verified() {
    let mut sealed = Sealed::new(Vec::new());
    sealed.write_all(&write(&one("key", rows(9, |_| 700)), 1024)).expect("a vector takes all");
    let file = sealed.finish().expect("a vector takes all");
    let whole = file.len() as u64;
    let verify = |file: Vec<u8>| {
        let bytes = file.len() as u64;
        snapshot::verify(&Bytes::from(file), bytes)
    };
    assert_eq!(verify(file.clone()).expect("a snapshot"), whole - 32);
    let without = verify(file[..file.len() - 32].to_vec()).expect_err("a database alone");
    assert_eq!(without.to_string(), "snapshot missing hash but --skip-hash-check=false");
    for at in 0..file.len() {
        let mut flipped = file.clone();
        flipped[at] ^= 1;
        let error = verify(flipped).expect_err("a flipped bit").to_string();
        assert!(error.starts_with("expected sha256 [") && error.contains("], got ["), "byte {at}: {error}");
    }
    for len in 0..file.len() {
        verify(file[..len].to_vec()).expect_err("a file cut short");
    }
}

/// A process of its own, so that what other tests hold does not count.
const CHILD: &str = "LOCKSTEP_INTEROP_MEMORY";

#[test]
fn a_gibibyte_passes_through_little_memory() {
    if std::env::var_os(CHILD).is_some() {
        return pass_through();
    }
    let program = std::env::current_exe().expect("this test");
    let test = "interop::a_gibibyte_passes_through_little_memory";
    let output = std::process::Command::new(program).args(["--exact", test, "--nocapture"]).env(CHILD, "1").output();
    let output = output.expect("this test runs again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let grown: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split("held KiB: ").nth(1))
        .map(|rest| rest.trim().parse().expect("a number"))
        .collect();
    assert_eq!(grown.len(), 2, "{text}");
    assert!(grown.iter().all(|kib| *kib < 8 << 10), "reading or writing held {grown:?} KiB");
}

fn pass_through() {
    const ROWS: u64 = 256 << 10;
    let row = |at: u64| {
        let key = Bytes::copy_from_slice(&[&at.to_be_bytes()[..], b"_", &[0; 8]].concat());
        (key, Bytes::from(vec![at as u8; 4_000]))
    };
    let write_to = |count: u64, out: &mut dyn Write| {
        let mut layout = Layout::new(PAGE_BYTES);
        layout.bucket("key").expect("a bucket");
        (0..count).for_each(|_| layout.row(17, 4_000).expect("a row"));
        let plan = layout.finish().expect("a plan");
        let mut writer = Writer::new(plan, out).expect("a file");
        writer.bucket("key").expect("a bucket");
        for (key, value) in (0..count).map(row) {
            writer.row(key, value).expect("a row");
        }
        writer.finish().expect("what was planned");
        plan.bytes()
    };
    let before = peak_kib();
    let bytes = write_to(ROWS, &mut io::sink());
    assert!(bytes > 1 << 30, "only {bytes} bytes");
    println!("held KiB: {}", peak_kib() - before);

    let mut sealed = Sealed::new(tempfile::tempfile().expect("a temporary file"));
    let bytes = write_to(ROWS / 8, &mut sealed);
    let file = OnDisk(sealed.finish().expect("a file"));
    let before = peak_kib();
    assert_eq!(snapshot::verify(&file, bytes + 32).expect("a snapshot"), bytes);
    let db = Db::open(&file, bytes).expect("a database");
    let bucket = db.bucket("key").expect("a database").expect("a bucket");
    assert!(bucket.rows().map(|found| found.expect("a row")).eq((0..ROWS / 8).map(row)));
    println!("held KiB: {}", peak_kib() - before);
}

struct OnDisk(File);

impl ReadAt for OnDisk {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
