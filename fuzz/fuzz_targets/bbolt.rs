//! Opens arbitrary bytes as etcd's database: never a panic, an endless walk or memory beyond the input's own length;
//! and what can be read can be written, and is the same when it is read again.
//!
//! The first byte says whether the meta pages get right check values and the pages their own numbers, without which the
//! fuzzer would have to guess a hash and a number a page before it sees anything but the first check.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lockstep::interop::bbolt::{Db, Error, Layout, PAGE_BYTES, Writer};
use lockstep::interop::etcd::Etcd;

const SIZE: usize = 1024;

type Row = (Bytes, Bytes);

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else { return };
    let mut file = input.to_vec();
    if first & 1 == 0 {
        mend(&mut file);
    }
    let file = Bytes::from(file);
    let Ok(db) = Db::open(file.clone(), file.len() as u64) else { return };
    if let Ok(etcd) = Etcd::new(db) {
        walk(&etcd);
    }
    let Ok(buckets) = read(&file) else { return };
    let total: usize = buckets.iter().flat_map(|(_, rows)| rows).map(|(key, value)| key.len() + value.len()).sum();
    assert!(total <= file.len() * (buckets.len() + 1), "{total} bytes of rows in a file of {}", file.len());
    if let Some(written) = write(&buckets) {
        let again = read(&written).expect("what we write can be read");
        assert!(again == buckets, "what was written is what was read");
    }
});

/// Metas for pages of [`SIZE`], and every page its own number.
fn mend(file: &mut [u8]) {
    let pages = (file.len() / SIZE) as u64;
    for (id, page) in (0..).zip(file.chunks_exact_mut(SIZE)) {
        page[..8].copy_from_slice(&u64::to_le_bytes(id));
        if id < 2 {
            page[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
            page[20..24].copy_from_slice(&2u32.to_le_bytes());
            page[24..28].copy_from_slice(&(SIZE as u32).to_le_bytes());
            page[56..64].copy_from_slice(&pages.to_le_bytes());
            let check = page[16..72]
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            page[72..80].copy_from_slice(&check.to_le_bytes());
        }
    }
}

/// Everything that etcd's schema knows.
fn walk(etcd: &Etcd<Bytes>) {
    let _ = etcd.key_rows().map(|rows| rows.map_while(Result::ok).map(|row| row.header().key.len()).sum::<usize>());
    let _ = etcd.leases().map(|rows| rows.map_while(Result::ok).count());
    let _ = etcd.members().map(|rows| rows.map_while(Result::ok).count());
    let _ = etcd.members_removed().map(|rows| rows.map_while(Result::ok).count());
    let _ = etcd.alarms().map(|rows| rows.map_while(Result::ok).count());
    let _ = (etcd.cluster_version(), etcd.auth(), etcd.progress());
}

fn read(file: &Bytes) -> Result<Vec<(Bytes, Vec<Row>)>, Error> {
    let db = Db::open(file.clone(), file.len() as u64)?;
    let buckets = db.buckets()?;
    buckets.into_iter().map(|(name, bucket)| Ok((name, bucket.rows().collect::<Result<_, Error>>()?))).collect()
}

/// `None` where a bucket's name is no text, which etcd's are.
fn write(buckets: &[(Bytes, Vec<Row>)]) -> Option<Bytes> {
    let mut layout = Layout::new(PAGE_BYTES);
    for (name, rows) in buckets {
        layout.bucket(std::str::from_utf8(name).ok()?).ok()?;
        for (key, value) in rows {
            layout.row(key.len(), value.len()).ok()?;
        }
    }
    let mut writer = Writer::new(layout.finish().ok()?, Vec::new()).expect("a vector takes all");
    for (name, rows) in buckets {
        writer.bucket(std::str::from_utf8(name).ok()?).expect("buckets in order");
        for (key, value) in rows {
            writer.row(key.clone(), value.clone()).expect("rows in order");
        }
    }
    Some(writer.finish().expect("what was planned").into())
}
