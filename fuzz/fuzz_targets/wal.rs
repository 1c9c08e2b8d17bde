//! Opens arbitrary bytes as the segments of a log: never a panic, and what is opened can be read, appended to and
//! opened again.
//!
//! The first byte says where the input is cut in two segments, and whether a valid header goes in front, without which
//! the fuzzer would have to guess a check value before it sees anything but the header's decoder. Sectors get their
//! check values for the same reason, unless a third bit says otherwise.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use lockstep::wal::{HEADER_BYTES, Metadata, Options, Wal};
use lockstep_sim::disk::MemDisk;

const DIR: &str = "wal";
const OPTIONS: Options = Options { segment_bytes: 1024, sync: true };

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else { return };
    let disk = MemDisk::new();
    let cut = if first & 1 == 0 { input.len() } else { input.len() * usize::from(*first) / 255 };
    let (one, two) = input.split_at(cut);
    let head = if first & 2 == 0 { Vec::new() } else { header() };
    let laid = |plain: &[u8]| if first & 4 == 0 { in_sectors(plain) } else { plain.to_vec() };
    disk.plant("wal/0000000000000001.seg", &laid(&[&head, one].concat())).expect("a path");
    if cut < input.len() {
        disk.plant("wal/0000000000000002.seg", &laid(two)).expect("a path");
    }
    let Ok((mut wal, recovered)) = Wal::open(Arc::new(disk.clone()), DIR, OPTIONS, 0) else { return };
    let last = wal.last_index();
    let entries = wal.read(wal.first_index(), last + 1, u64::MAX).expect("what was recovered can be read");
    assert_eq!(entries, recovered.entries);
    wal.append_epoch(7).expect("it goes on");
    wal.sync().expect("it goes on");
    drop(wal);
    let (_, again) = Wal::open(Arc::new(disk), DIR, OPTIONS, 0).expect("it opens again");
    assert_eq!((again.last_index, again.epoch, again.repaired), (last, 7, None));
});

fn header() -> Vec<u8> {
    let disk = MemDisk::new();
    Wal::create(Arc::new(disk.clone()), DIR, Metadata::default(), OPTIONS).expect("an empty disk takes a log");
    let mut bytes = disk.contents("wal/0000000000000001.seg").expect("it is there");
    bytes.truncate(HEADER_BYTES as usize);
    bytes
}

fn in_sectors(plain: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for plain in plain.chunks(508) {
        let mut sector = plain.to_vec();
        sector.resize(508, 0);
        let check = crc32fast::hash(&sector);
        file.extend(sector);
        file.extend(check.to_le_bytes());
    }
    file
}
