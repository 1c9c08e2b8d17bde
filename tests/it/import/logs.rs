//! etcd's write-ahead log by itself: built record by record, read, and read again with every byte of it wrong.

use bytes::Bytes;
use lockstep::interop::wal::request::Meaning;
use lockstep::interop::wal::{Error, File, Log};
use lockstep::proto::etcdserverpb::{InternalRaftRequest, PutRequest};
use lockstep::proto::raftpb::{Entry, HardState};
use prost::Message;

/// Where the last frame of a file ends.
pub fn end_of(file: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = file.get(at..at + 8) {
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        if length == 0 {
            break;
        }
        let padding = if length >> 63 == 1 { (length >> 56) & 7 } else { 0 };
        at += 8 + ((length & !(0xff << 56)) + padding) as usize;
    }
    at
}

/// Puts a put behind the last record: in the log, and not known to be committed.
pub fn append_put(file: &mut Vec<u8>, key: &str) {
    let end = end_of(file);
    let (mut at, mut crc, mut last) = (0, 0, Entry::default());
    while at < end {
        let length = u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
        let padding = if length >> 63 == 1 { (length >> 56) & 7 } else { 0 };
        let bytes = (length & !(0xff << 56)) as usize;
        let record = Record::decode(&file[at + 8..at + 8 + bytes]).expect("a record");
        crc = record.crc;
        if record.kind == 2 {
            last = Entry::decode(&*record.data).expect("an entry");
        }
        at += 8 + bytes + padding as usize;
    }
    let put = PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
    let request = InternalRaftRequest { id: 77, put: Some(put), ..Default::default() };
    let mut log = Builder { files: vec![file[..end].to_vec()], crc };
    log = log.entry(last.index() + 1, last.term(), &request.encode_to_vec());
    let built = log.files.remove(0);
    file.resize(file.len().max(built.len()), 0);
    file[..built.len()].copy_from_slice(&built);
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(uint32, tag = "2")]
    crc: u32,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

/// A log in the making: its files, and the rolling check value.
#[derive(Default)]
struct Builder {
    files: Vec<Vec<u8>>,
    crc: u32,
}

impl Builder {
    fn file(mut self) -> Builder {
        self.files.push(Vec::new());
        let crc = self.crc;
        self.frame(Record { kind: 4, crc, data: Vec::new() });
        self.record(1, vec![0x08, 1, 0x10, 2])
    }

    fn record(mut self, kind: i64, data: Vec<u8>) -> Builder {
        self.crc = crc32c::crc32c_append(self.crc, &data);
        let crc = self.crc;
        self.frame(Record { kind, crc, data });
        self
    }

    fn frame(&mut self, record: Record) {
        let bytes = record.encode_to_vec();
        let padding = (8 - bytes.len() % 8) % 8;
        let length = bytes.len() as u64 | if padding > 0 { (0x80 | padding as u64) << 56 } else { 0 };
        let file = self.files.last_mut().expect("a file");
        file.extend(length.to_le_bytes());
        file.extend(bytes);
        file.resize(file.len() + padding, 0);
    }

    fn entry(self, index: u64, term: u64, data: &[u8]) -> Builder {
        let data = Some(Bytes::copy_from_slice(data));
        let entry = Entry { r#type: Some(0), term: Some(term), index: Some(index), data };
        self.record(2, entry.encode_to_vec())
    }

    fn commit(self, commit: u64) -> Builder {
        self.record(3, HardState { term: Some(3), vote: Some(1), commit: Some(commit) }.encode_to_vec())
    }

    fn mark(self, index: u64, term: u64) -> Builder {
        self.record(5, vec![0x08, index as u8, 0x10, term as u8])
    }

    fn read(&self) -> Result<Log<Bytes>, Error> {
        read(&self.files)
    }
}

fn read(files: &[Vec<u8>]) -> Result<Log<Bytes>, Error> {
    let file = |(sequence, data): (u64, &Vec<u8>)| File {
        name: format!("file {sequence}"),
        sequence,
        bytes: data.len() as u64,
        data: Bytes::from(data.clone()),
    };
    Log::read((3..).zip(files).map(file).collect())
}

/// The terms of the entries that there are.
fn terms(log: &Log<Bytes>) -> Vec<(u64, u64)> {
    (log.first_index()..=log.last_index()).map(|i| (i, log.entry(i).expect("an entry").term())).collect()
}

fn two_files() -> Builder {
    let begin = Builder::default().file().mark(0, 0).entry(1, 1, b"").entry(2, 1, &[7; 900]).entry(3, 1, b"x");
    // A new leader has other entries from 3 on.
    begin.commit(2).entry(3, 2, b"y").file().commit(2).entry(4, 2, b"").entry(5, 2, &[9; 1_500]).commit(4)
}

#[test]
fn what_a_log_says() {
    let log = two_files().read().expect("a log");
    assert_eq!(terms(&log), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]);
    assert_eq!((log.hard_state().commit(), log.hard_state().term(), log.hard_state().vote()), (4, 3, 1));
    assert_eq!((log.metadata().member_id, log.metadata().cluster_id, log.torn()), (1, 2, None));
    // A snapshot from elsewhere takes the place of what was there; one of its own changes nothing.
    let log = two_files().mark(4, 2).mark(9, 3).entry(10, 3, b"").read().expect("a log");
    assert_eq!(terms(&log), [(10, 3)]);
    assert_eq!(log.marks().iter().map(|mark| mark.index).collect::<Vec<_>>(), [0, 4, 9]);
    // Released files leave the middle of a log.
    let files = two_files().files;
    assert_eq!(terms(&read(&files[1..]).expect("a log")), [(4, 2), (5, 2)]);

    let gap = two_files().entry(7, 2, b"").read().expect_err("a gap").to_string();
    assert!(gap.contains("entry 7 follows entry 5"), "{gap}");
    let other = two_files().record(1, vec![0x08, 9, 0x10, 2]).read().expect_err("another member").to_string();
    assert!(other.contains("another member's log"), "{other}");
    let unknown = two_files().record(6, Vec::new()).read().expect_err("an unknown kind").to_string();
    assert!(unknown.contains("no record of kind 6"), "{unknown}");
    assert!(matches!(read(&[]), Err(Error::Empty)));
}

/// A flipped bit, or an end anywhere: refused, or the end of the log is left out and said so. Never another entry.
#[test]
fn a_damaged_log_is_refused_or_cut_at_its_end() {
    let whole = two_files();
    let expected = terms(&whole.read().expect("a log"));
    let (mut refused, mut cut) = (0, 0);
    let mut judge = |files: &[Vec<u8>], what: String| match read(files) {
        Err(Error::Damaged { .. }) => refused += 1,
        Err(error) => panic!("{what}: {error}"),
        Ok(log) => {
            let found = terms(&log);
            // Bytes that count for nothing: padding, and the kind of a record that etcd does not look at.
            assert!(expected.starts_with(&found), "{what}: {found:?}");
            cut += usize::from(found.len() < expected.len());
            let is_at_the_end = log.torn().is_some() || files[1].len() < whole.files[1].len();
            assert!(found == expected || is_at_the_end || what.contains("length"), "{what}");
        }
    };
    for at in 0..2 {
        for byte in 0..whole.files[at].len() {
            for bit in [1, 0x80] {
                let mut files = whole.files.clone();
                files[at][byte] ^= bit;
                judge(&files, format!("file {at}, byte {byte}, bit {bit}"));
            }
        }
    }
    for length in 24..whole.files[1].len() {
        let mut files = whole.files.clone();
        files[1].truncate(length);
        judge(&files, format!("a length of {length}"));
    }
    assert!(refused > 3_000 && cut > 1_000, "{refused} refused, {cut} cut");
}

/// Records whose check values are right, and which say anything: every entry that the log has can be read.
#[test]
fn a_log_that_lies_never_panics() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut read, mut entries) = (0, 0);
    for _ in 0..30_000 {
        let mut log = Builder::default().file();
        for _ in 0..random(12) {
            log = match random(8) {
                0..=3 => log.entry(random(9), random(4), b"\x08\x09\x22\x00"),
                4 => log.commit(random(12)),
                5 => log.mark(random(12), random(4)),
                6 => log.file(),
                _ => {
                    let data = (0..random(24)).map(|_| random(256) as u8).collect();
                    log.record([1, 2, 3, 5, 6][random(5) as usize], data)
                }
            };
        }
        let Ok(log) = log.read() else { continue };
        read += 1;
        for index in log.first_index().max(1)..=log.last_index() {
            let entry = log.entry(index).expect("an entry that the log has");
            assert_eq!(entry.index(), index);
            entries += usize::from(Meaning::of(&entry).is_ok());
        }
        assert!(log.entry(log.last_index() + 1).is_err());
    }
    assert!(read > 1_000 && entries > 1_000, "{read} logs, {entries} entries");
}

#[test]
fn what_entries_of_older_releases_mean() {
    let entry = |data: &[u8]| Entry { data: Some(Bytes::copy_from_slice(data)), ..Default::default() };
    let v2 = |method: &str, path: &str, val: &str| {
        let mut data = vec![0x08, 99];
        for (tag, text) in [(0x12, method), (0x1a, path), (0x22, val)] {
            data.extend([tag, text.len() as u8]);
            data.extend(text.as_bytes());
        }
        // Every request of etcd's has these.
        data.extend([0x28, 0, 0x32, 0, 0x38, 0, 0x48, 0, 0x50, 0, 0x58, 0, 0x60, 0, 0x68, 0, 0x70, 0, 0x78, 0]);
        data
    };
    let attributes = r#"{"name":"m0","clientURLs":["http://a:1"]}"#;
    let cases: &[(Vec<u8>, &str)] = &[
        (Vec::new(), "Nothing"),
        (v2("SYNC", "", ""), "Nothing"),
        (v2("QGET", "/1/a", ""), "Nothing"),
        (v2("PUT", "/0/version", "3.4.0"), "ver: \"3.4.0\""),
        (
            v2("PUT", "/0/members/8e9e05c52164694d/attributes", attributes),
            "name: \"m0\", client_urls: [\"http://a:1\"]",
        ),
        (v2("PUT", "/0/members/8e9e05c52164694d/attributes", "{}"), "member_id: 10276657743932975437"),
        (v2("PUT", "/0/members/8e9e05c52164694d/attributes", "{"), "no JSON"),
        (v2("PUT", "/1/a", "b"), "V2 { method: \"PUT\", path: \"/1/a\" }"),
        (v2("POST", "/1/a", "b"), "V2 { method: \"POST\""),
        (v2("DELETE", "/1/a", ""), "V2 { method: \"DELETE\""),
        // A put of "a", a user that is added, one that logs in.
        (vec![0x08, 9, 0x22, 3, 0x0a, 1, b'a'], "put: Some(PutRequest { key: b\"a\""),
        (vec![0x08, 9, 0xe2, 0x44, 3, 0x0a, 1, b'a'], "Auth"),
        (vec![0x08, 9, 0xa2, 0x3f, 3, 0x0a, 1, b'a'], "authenticate: Some"),
        (vec![0xff; 9], "no request"),
    ];
    for (data, expected) in cases {
        let found = format!("{:?}", Meaning::of(&entry(data)));
        assert!(found.contains(expected), "{}: {found}, not {expected}", data.escape_ascii());
    }
}
