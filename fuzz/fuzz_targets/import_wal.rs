//! Arbitrary bytes as etcd's write-ahead log, in one file or two, and as raft's snapshot: never a panic, nor memory
//! beyond the input's own length; every entry that the log says it has can be read, and meant.
//!
//! The first byte says whether the input is the log itself, or what its records are made of, each with the check value
//! that belongs to it, without which the fuzzer would have to guess a CRC before it sees anything but the first check.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lockstep::interop::raft_snapshot::RaftSnapshot;
use lockstep::interop::wal::request::Meaning;
use lockstep::interop::wal::{File, Log};
use prost::Message;

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else { return };
    let _ = RaftSnapshot::read(input);
    let bytes = if first & 1 == 0 { input.to_vec() } else { records(input) };
    let cut = if first & 2 == 0 { bytes.len() } else { bytes.len() / 2 / 8 * 8 };
    let file = |sequence: u64, data: &[u8]| File {
        name: format!("file {sequence}"),
        sequence,
        bytes: data.len() as u64,
        data: Bytes::copy_from_slice(data),
    };
    let mut files = vec![file(0, &bytes[..cut])];
    if cut < bytes.len() {
        files.push(file(1, &bytes[cut..]));
    }
    let Ok(log) = Log::read(files) else { return };
    for index in log.first_index().max(1)..=log.last_index() {
        let entry = log.entry(index).expect("an entry that the log has");
        assert_eq!(entry.index(), index);
        if let Ok(meaning) = Meaning::of(&entry) {
            let _ = (meaning.is_of_the_membership(), meaning.data());
        }
    }
    assert!(log.entry(log.last_index() + 1).is_err());
});

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(uint32, tag = "2")]
    crc: u32,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

/// Each piece of the input is a kind, a length and as much data.
fn records(mut input: &[u8]) -> Vec<u8> {
    let (mut file, mut crc) = (Vec::new(), 0);
    while let [kind, length, rest @ ..] = input {
        let data;
        (data, input) = rest.split_at(rest.len().min(usize::from(*length)));
        let kind = i64::from(kind % 7);
        if kind != 4 {
            crc = crc32c::crc32c_append(crc, data);
        }
        let record = Record { kind, crc, data: Bytes::copy_from_slice(data) }.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let length = record.len() as u64 | if padding > 0 { (0x80 | padding as u64) << 56 } else { 0 };
        file.extend(length.to_le_bytes());
        file.extend(record);
        file.resize(file.len() + padding, 0);
    }
    file
}
