//! The write-ahead log through its public surface, on the disk in memory: what was synced is never lost silently,
//! whatever happens.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep::ports::disk::{Disk, Open};
use lockstep::proto::raftpb::{Entry, HardState};
use lockstep::server::disk::RealDisk;
use lockstep::wal::{Error, HEADER_BYTES, Metadata, Options, Recovered, SnapshotMark, Wal};
use lockstep_sim::disk::{FailedSync, Loss, MemDisk, chance};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const DIR: &str = "member/wal";
const META: Metadata = Metadata { member_id: 0x8e9e05c52164694d, cluster_id: 0xcdf818194e3a8c32 };
const SMALL: Options = Options { segment_bytes: 2048, sync: true };

fn entry(index: u64, term: u64, size: usize) -> Entry {
    let data: Vec<u8> = (0..size).map(|n| index.wrapping_mul(31).wrapping_add(term * 7 + n as u64) as u8).collect();
    Entry { r#type: Some(0), term: Some(term), index: Some(index), data: Some(data.into()) }
}

fn entries(range: std::ops::Range<u64>, term: u64, size: usize) -> Vec<Entry> {
    range.map(|index| entry(index, term, size)).collect()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Some(term), vote: Some(vote), commit: Some(commit) }
}

fn create(disk: &MemDisk, options: Options) -> Wal {
    Wal::create(Arc::new(disk.clone()), DIR, META, options).unwrap()
}

fn open(disk: &MemDisk) -> Result<(Wal, Recovered), Error> {
    Wal::open(Arc::new(disk.clone()), DIR, SMALL, 0)
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// What a log should hold: the same calls, done the obvious way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    term_vote_commit: (u64, u64, u64),
    epoch: u64,
    snapshot: (u64, u64),
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn of(recovered: &Recovered) -> Model {
        let hard_state = &recovered.hard_state;
        Model {
            term_vote_commit: (hard_state.term(), hard_state.vote(), hard_state.commit()),
            epoch: recovered.epoch,
            snapshot: (recovered.snapshot.index, recovered.snapshot.term),
            entries: recovered.entries.iter().map(|entry| (entry.index(), entry.clone())).collect(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(hard_state, entries) => {
                if let Some(hard_state) = hard_state {
                    self.term_vote_commit = (hard_state.term(), hard_state.vote(), hard_state.commit());
                }
                for entry in entries {
                    self.entries.split_off(&entry.index());
                    self.entries.insert(entry.index(), entry.clone());
                }
            }
            Step::Epoch(epoch) => self.epoch = *epoch,
            Step::Snapshot(index, term) => {
                self.snapshot = (*index, *term);
                self.entries.clear();
            }
            Step::Sync | Step::Release(_) => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Option<HardState>, Vec<Entry>),
    Epoch(u64),
    Snapshot(u64, u64),
    Sync,
    Release(u64),
}

impl Step {
    fn run(&self, wal: &mut Wal) -> Result<(), Error> {
        match self {
            Step::Append(hard_state, entries) => wal.append(hard_state.as_ref(), entries),
            Step::Epoch(epoch) => wal.append_epoch(*epoch),
            Step::Snapshot(index, term) => wal.append_snapshot(SnapshotMark { index: *index, term: *term }),
            Step::Sync => wal.sync(),
            Step::Release(index) => wal.release_below(*index),
        }
    }
}

/// Fills, overwrites, rotates, releases and recycles; about every second batch is synced.
fn script() -> Vec<Step> {
    let mut steps = vec![Step::Epoch(1), Step::Append(Some(hard_state(1, 1, 0)), vec![]), Step::Sync];
    let mut next = 1;
    for round in 0..14u64 {
        let term = 1 + round / 3;
        // Every fifth round replaces the last two entries.
        if round % 5 == 4 {
            next -= 2;
        }
        let count = 1 + round % 4;
        let batch = entries(next..next + count, term, 40 + 90 * (round % 5) as usize);
        next += count;
        steps.push(Step::Append((round % 2 == 0).then(|| hard_state(term, round % 3, next - 1)), batch));
        if round % 2 == 1 {
            steps.push(Step::Sync);
        }
        if round % 6 == 5 {
            steps.push(Step::Release(next - 4));
            steps.push(Step::Epoch(round));
        }
    }
    steps.push(Step::Snapshot(next + 10, 9));
    steps.push(Step::Append(None, entries(next + 11..next + 13, 9, 30)));
    steps.push(Step::Sync);
    steps.push(Step::Append(None, entries(next + 13..next + 15, 9, 700)));
    steps
}

/// The states a crash may leave: the last synced one and every one after it.
struct Acceptable {
    states: Vec<Model>,
}

impl Acceptable {
    fn check(&self, recovered: &Recovered, context: &str) {
        let found = Model::of(recovered);
        let fits = self.states.iter().any(|state| {
            // What was released may be gone, and nothing else.
            let mut state = state.clone();
            let kept = state.entries.split_off(&recovered.first_index);
            Model { entries: kept, ..state } == found
        });
        assert!(fits, "{context}: recovered {found:?}\n{:?}", recovered.repaired);
    }
}

fn half_states(before: &Model, step: &Step) -> Vec<Model> {
    // The records of one append survive from the front: entries one by one, then the hard state.
    let mut states = Vec::new();
    if let Step::Append(_, entries) = step {
        for count in 1..=entries.len() {
            let mut state = before.clone();
            state.apply(&Step::Append(None, entries[..count].to_vec()));
            states.push(state);
        }
    }
    states
}

#[test]
fn a_crash_at_any_operation_loses_nothing_synced() {
    let steps = script();
    let run = |crash_after: Option<u64>| {
        let disk = MemDisk::new();
        let mut wal = create(&disk, SMALL);
        let start = disk.counters().mutations();
        if let Some(k) = crash_after {
            disk.crash_after(k);
        }
        let mut acceptable = Acceptable { states: vec![Model::default()] };
        let mut model = Model::default();
        for step in &steps {
            let before = model.clone();
            model.apply(step);
            if matches!(step, Step::Append(..) | Step::Epoch(_) | Step::Snapshot(..)) {
                acceptable.states.extend(half_states(&before, step));
                acceptable.states.push(model.clone());
            }
            if let Err(error) = step.run(&mut wal) {
                assert!(crash_after.is_some(), "{step:?}: {error}");
                break;
            }
            if matches!(step, Step::Sync) {
                acceptable.states = vec![model.clone()];
            }
        }
        (disk.counters().mutations() - start, disk, acceptable)
    };
    let (operations, ..) = run(None);
    assert!(operations > 80, "the script is worth it: {operations} operations");
    let mut repaired = 0;
    for k in 0..=operations {
        let (_, disk, acceptable) = run(Some(k));
        for (position, loss) in Loss::ALL.into_iter().chain([Loss::Sectors; 20]).enumerate() {
            let context = format!("crash after {k} operations, {loss:?} (draw {position})");
            let disk = disk.fork();
            disk.restart(loss, &mut chance(&mut rng(k * 100 + position as u64)));
            let (mut wal, recovered) = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            acceptable.check(&recovered, &context);
            assert_eq!(recovered.metadata, META);
            repaired += u64::from(recovered.repaired.is_some());
            // It is durable as reported, and goes on.
            let last = recovered.last_index;
            wal.append(Some(&hard_state(99, 9, last)), &entries(last + 1..last + 3, 99, 25)).unwrap();
            wal.sync().unwrap();
            let model = Model::of(&recovered);
            disk.crash(Loss::Everything, &mut chance(&mut rng(0)));
            let (_, again) = open(&disk).unwrap_or_else(|error| panic!("{context}, then once more: {error}"));
            assert_eq!(again.repaired, None, "{context}");
            let mut expected = model;
            expected.apply(&Step::Append(Some(hard_state(99, 9, last)), entries(last + 1..last + 3, 99, 25)));
            assert_eq!(Model::of(&again), expected, "{context}");
        }
    }
    assert!(repaired > 40, "torn tails happened: {repaired}");
}

#[test]
fn a_crash_while_opening_or_creating_is_harmless() {
    // Creating: afterwards there is a log, or none and it can be created.
    for k in 0..12 {
        for loss in Loss::ALL.into_iter().chain([Loss::Sectors; 4]) {
            let disk = MemDisk::new();
            disk.crash_after(k);
            let created = Wal::create(Arc::new(disk.clone()), DIR, META, SMALL).is_ok();
            disk.restart(loss, &mut chance(&mut rng(k)));
            if Wal::exists(&disk, DIR).unwrap() {
                open(&disk).unwrap();
            } else {
                assert!(!created, "a log that was created is there");
                create(&disk, SMALL);
            }
        }
    }
    // Opening a log with a torn tail, again and again.
    let torn = MemDisk::new();
    let mut wal = create(&torn, SMALL);
    wal.append(Some(&hard_state(1, 1, 1)), &entries(1..3, 1, 100)).unwrap();
    wal.sync().unwrap();
    for index in 3..6 {
        wal.append(None, &[entry(index, 1, 600)]).unwrap();
    }
    for k in 0..8 {
        for seed in 0..40 {
            let disk = torn.fork();
            disk.crash(Loss::Sectors, &mut chance(&mut rng(seed)));
            disk.crash_after(k);
            let _ = open(&disk);
            disk.restart(Loss::Sectors, &mut chance(&mut rng(seed + 1000)));
            let (_, recovered) = open(&disk).unwrap();
            assert!(recovered.last_index >= 2, "k {k}, seed {seed}");
        }
    }
}

/// A log of three segments and a synced end, closed in an orderly way.
fn small_log() -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let mut wal = create(&disk, Options { segment_bytes: 700, sync: true });
    let mut model = Model::default();
    let mut steps = vec![Step::Epoch(3)];
    for batch in 0..8 {
        let first = batch * 2 + 1;
        steps.push(Step::Append(Some(hard_state(2, 1, first)), entries(first..first + 2, 2, 60)));
        steps.push(Step::Sync);
    }
    for step in &steps {
        step.run(&mut wal).unwrap();
        model.apply(step);
    }
    (disk, model)
}

#[test]
fn a_flipped_bit_is_refused_or_harmless_wherever_it_is() {
    let (disk, model) = small_log();
    let (mut refused, mut harmless) = (0, 0);
    let files = disk.files();
    assert_eq!(files.len(), 3, "{files:?}");
    for path in files {
        for offset in 0..disk.contents(&path).unwrap().len() as u64 {
            for bit in [0, 3, 7] {
                let rotten = disk.fork();
                rotten.flip_bit(&path, offset, bit).unwrap();
                match open(&rotten) {
                    Err(error) => {
                        let message = error.to_string();
                        assert!(message.contains(&path), "{message}");
                        refused += 1;
                    }
                    Ok((_, recovered)) => {
                        assert_eq!(Model::of(&recovered), model, "{path} offset {offset} bit {bit}");
                        harmless += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 3000 && harmless > 500, "refused {refused}, harmless {harmless}");
}

#[test]
fn damage_is_told_where_it_is_and_what_to_do() {
    let check = |damage: fn(&MemDisk), expected: &[&str]| {
        let (disk, _) = small_log();
        damage(&disk);
        let message = open(&disk).unwrap_err().to_string();
        for part in expected {
            assert!(message.contains(part), "{part:?} in {message:?}");
        }
    };
    check(
        |disk| disk.flip_bit("member/wal/0000000000000002.seg", 300, 1).unwrap(),
        &["0000000000000002.seg is damaged at offset", "snapshot"],
    );
    check(
        |disk| disk.remove("member/wal/0000000000000002.seg").unwrap(),
        &["segment member/wal/0000000000000002.seg is missing", "the ones before and behind it are there"],
    );
    check(
        |disk| disk.remove("member/wal/0000000000000003.seg").unwrap(),
        &["segment member/wal/0000000000000003.seg is missing", "0000000000000002.seg says that it was there"],
    );
    check(
        |disk| disk.flip_bit("member/wal/0000000000000003.seg", 9, 0).unwrap(),
        &["0000000000000003.seg has format version 258", "start the newer version again"],
    );
    check(
        |disk| {
            let path = "member/wal/0000000000000003.seg";
            let mut bytes = disk.contents(path).unwrap();
            bytes[8] = 1;
            disk.plant(path, &bytes).unwrap();
        },
        &["0000000000000003.seg has format version 1", "snapshot"],
    );
    check(
        |disk| disk.rename("member/wal/0000000000000003.seg", "member/wal/0000000000000004.seg").unwrap(),
        &["0000000000000003.seg is missing"],
    );
    check(
        |disk| disk.plant("member/wal/0000000000000003.seg", b"").unwrap(),
        &["0000000000000003.seg is damaged at offset 0", "shorter"],
    );
    check(
        |disk| disk.plant("member/wal/0000000000000000-0000000000000000.wal", b"").unwrap(),
        &["0000000000000000-0000000000000000.wal", "etcd's own log"],
    );
    check(
        |disk| disk.read_error("member/wal/0000000000000001.seg", true).unwrap(),
        &["cannot read member/wal/0000000000000001.seg"],
    );

    // Another member's segment among ours.
    let (disk, _) = small_log();
    let other = MemDisk::new();
    let meta = Metadata { member_id: 5, ..META };
    let mut wal = Wal::create(Arc::new(other.clone()), DIR, meta, Options { segment_bytes: 700, sync: true }).unwrap();
    wal.append(None, &entries(1..10, 1, 100)).unwrap();
    wal.append(None, &entries(10..20, 1, 100)).unwrap();
    let path = "member/wal/0000000000000002.seg";
    disk.plant(path, &other.contents(path).unwrap()).unwrap();
    assert!(matches!(open(&disk).unwrap_err(), Error::NotOurs { what, .. } if what.contains("member 5")));

    // And one of ours from another time.
    let (disk, _) = small_log();
    let other = MemDisk::new();
    let mut wal = create(&other, Options { segment_bytes: 700, sync: true });
    wal.append(None, &entries(1..10, 1, 100)).unwrap();
    wal.append(None, &entries(10..20, 1, 100)).unwrap();
    disk.plant(path, &other.contents(path).unwrap()).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { what, .. } if what.contains("not the segment that the next one continues")),
        "{error}"
    );

    assert!(matches!(open(&MemDisk::new()).unwrap_err(), Error::NotFound { .. }));
    assert!(matches!(Wal::create(Arc::new(disk), DIR, META, SMALL).unwrap_err(), Error::Exists { .. }));
}

#[test]
fn a_lost_unsynced_tail_is_reported_and_a_clean_end_is_not() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, Options { segment_bytes: 16 << 10, sync: true });
    wal.append(None, &entries(1..3, 1, 100)).unwrap();
    wal.sync().unwrap();
    wal.append(None, &entries(3..9, 1, 1000)).unwrap();
    let clean = disk.fork();
    clean.crash(Loss::Everything, &mut chance(&mut rng(1)));
    assert_eq!(open(&clean).unwrap().1.repaired, None);
    // The first sector of the tail is lost, others are there.
    let torn = disk.fork();
    let path = torn.files().remove(0);
    torn.crash(Loss::Nothing, &mut chance(&mut rng(1)));
    let mut bytes = torn.contents(&path).unwrap();
    bytes[512..1024].fill(0);
    torn.plant(&path, &bytes).unwrap();
    let (_, recovered) = open(&torn).unwrap();
    assert_eq!(recovered.last_index, 2);
    let repaired = recovered.repaired.unwrap();
    assert!(repaired.contains("0000000000000001.seg: cut off") && repaired.contains("at offset"), "{repaired}");
    assert_eq!(open(&torn).unwrap().1.repaired, None, "once");
}

/// The story: a tail A B is torn, A is lost and B kept. The member starts, is sent the very same A again and appends
/// it; if B were still behind it, the next start would find entries the member never took in this life.
#[test]
fn what_was_cut_never_comes_back() {
    let (a, b) = (entry(2, 1, 900), entry(3, 1, 900));
    let disk = MemDisk::new();
    let mut wal = create(&disk, Options { segment_bytes: 8192, sync: true });
    wal.append(None, &[entry(1, 1, 10)]).unwrap();
    wal.sync().unwrap();
    wal.append(None, std::slice::from_ref(&a)).unwrap();
    wal.append(None, std::slice::from_ref(&b)).unwrap();
    disk.crash(Loss::Nothing, &mut chance(&mut rng(1)));
    let path = disk.files().remove(0);
    let mut bytes = disk.contents(&path).unwrap();
    bytes[512..1024].fill(0);
    disk.plant(&path, &bytes).unwrap();

    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, 1);
    wal.append(None, &[a]).unwrap();
    wal.sync().unwrap();
    // The mark, which covers the place where B was, does not survive.
    disk.crash(Loss::Everything, &mut chance(&mut rng(1)));
    assert_eq!(open(&disk).unwrap().1.last_index, 2);
}

/// Wiping ends a sector. Bytes across its end, whose first half made them too long for a record, begin one without it.
#[test]
fn what_is_half_wiped_begins_no_record() {
    let disk = MemDisk::new();
    drop(create(&disk, SMALL));
    let path = format!("{DIR}/0000000000000001.seg");
    let mut bytes = plain(&disk.contents(&path).unwrap());
    let prefix = |payload: u32| [&payload.to_le_bytes()[..], &[4, 1, 0, 0]].concat();
    let end = HEADER_BYTES as usize + 16;
    bytes[end..end + 8].copy_from_slice(&prefix(16));
    bytes[504..512].copy_from_slice(&prefix(u32::MAX));
    let disk = MemDisk::new();
    disk.plant(&path, &in_sectors(&bytes)).unwrap();
    let (wal, first) = open(&disk).unwrap();
    assert!(first.repaired.is_some());
    drop(wal);
    assert_eq!(open(&disk).unwrap().1.repaired, None);
}

#[test]
fn recycled_segments_never_show_a_former_life() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, SMALL);
    let mut next = 1;
    // The same shapes in every life, so that old records lie exactly where new ones end.
    for _ in 0..40 {
        wal.append(None, &entries(next..next + 2, 1, 200)).unwrap();
        wal.sync().unwrap();
        next += 2;
        wal.release_below(next - 1).unwrap();
        let crashed = disk.fork();
        crashed.crash(Loss::Sectors, &mut chance(&mut rng(next)));
        let (_, recovered) = open(&crashed).unwrap();
        assert_eq!((recovered.last_index, recovered.repaired), (next - 1, None));
        for entry in &recovered.entries {
            assert_eq!(*entry, self::entry(entry.index(), 1, 200));
        }
    }
    let counters = disk.counters();
    assert!(counters.renames > 12 && counters.allocates <= 3, "segments are recycled: {counters:?}");
    assert!(disk.files().len() <= 4, "{:?}", disk.files());
    assert!(matches!(wal.read(1, 2, 0).unwrap_err(), Error::Released { index: 1, .. }));
}

#[test]
fn a_spare_prepared_elsewhere_is_used() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, SMALL);
    assert!(wal.spare().is_none(), "the first segment has hardly begun");
    wal.append(None, &entries(1..3, 1, 600)).unwrap();
    let spare = wal.spare().unwrap();
    assert!(wal.spare().is_none(), "one at a time");
    drop(spare);
    wal.spare().unwrap().prepare().unwrap();
    assert!(wal.spare().is_none(), "there is one");
    let before = disk.counters().allocates;
    wal.append(None, &entries(3..5, 1, 600)).unwrap();
    assert_eq!(disk.counters().allocates, before);
    assert_eq!(disk.files().len(), 2);
    assert!(wal.spare().is_some());
    wal.sync().unwrap();
    assert_eq!(open(&disk).unwrap().1.last_index, 4);
}

#[test]
fn the_first_failure_is_the_last_thing_it_does() {
    for mode in [FailedSync::Linger, FailedSync::Revert] {
        let disk = MemDisk::new();
        let mut wal = create(&disk, SMALL);
        wal.append(None, &entries(1..3, 1, 50)).unwrap();
        wal.sync().unwrap();
        disk.after_failed_sync(mode);
        disk.fail_sync_once();
        wal.append(None, &entries(3..5, 1, 50)).unwrap();
        let error = wal.sync().unwrap_err().to_string();
        assert!(error.contains("cannot fsync member/wal/0000000000000001.seg"), "{error}");
        for result in [wal.sync(), wal.append(None, &entries(5..6, 1, 1)), wal.append_epoch(1), wal.release_below(1)] {
            let error = result.unwrap_err();
            assert!(matches!(&error, Error::Failed { first, .. } if first.contains("fsync")), "{error}");
        }
        assert!(wal.spare().is_none());
        // The next life must not trust the page cache either: what it reports survives a crash.
        let (_, recovered) = open(&disk).unwrap();
        disk.crash(Loss::Everything, &mut chance(&mut rng(1)));
        assert_eq!(open(&disk).unwrap().1.last_index, recovered.last_index, "{mode:?}");
        assert_eq!(recovered.last_index, if mode == FailedSync::Linger { 4 } else { 2 });
    }
}

#[test]
fn a_full_disk_is_told_by_name() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, SMALL);
    disk.full_after(Some(100));
    wal.append(None, &entries(1..4, 1, 500)).unwrap();
    wal.sync().unwrap();
    let error = wal.append(None, &entries(4..7, 1, 500)).unwrap_err();
    assert!(matches!(&error, Error::Full { dir, .. } if dir == DIR), "{error:?}");
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(matches!(wal.sync().unwrap_err(), Error::Failed { .. }));
    drop(wal);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, 3);
    disk.full_after(None);
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(None, &entries(4..7, 1, 500)).unwrap();
    assert!(matches!(
        Wal::create(
            Arc::new({
                let full = MemDisk::new();
                full.full_after(Some(10));
                full
            }),
            DIR,
            META,
            SMALL
        )
        .unwrap_err(),
        Error::Full { .. }
    ));
}

#[test]
fn refused_appends_change_nothing() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, SMALL);
    wal.append(None, &entries(1..3, 1, 50)).unwrap();
    let check = |wal: &mut Wal, batch: Vec<Entry>| {
        let error = wal.append(Some(&hard_state(7, 7, 7)), &batch).unwrap_err();
        assert!(matches!(error, Error::Gap { .. }), "{error}");
    };
    check(&mut wal, entries(4..5, 1, 1));
    check(&mut wal, vec![entry(3, 1, 1), entry(5, 1, 1)]);
    check(&mut wal, vec![entry(0, 1, 1)]);
    check(&mut wal, vec![entry(3, 1, 1), entry(3, 1, 1)]);
    assert!(wal.append_snapshot(SnapshotMark { index: u64::MAX, term: 1 }).is_err());
    let huge = Entry { data: Some(vec![0; 65 << 20].into()), ..entry(3, 1, 0) };
    assert!(matches!(wal.append(None, &[huge]).unwrap_err(), Error::TooLarge { index: 3, .. }));
    wal.append(None, &entries(3..4, 1, 1)).unwrap();
    wal.sync().unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.last_index, recovered.hard_state), (3, hard_state(0, 0, 0)));
}

#[test]
fn one_write_for_a_batch_and_no_sync_for_nothing() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, Options { segment_bytes: 1 << 20, sync: true });
    let before = disk.counters();
    wal.append(Some(&hard_state(1, 1, 1)), &entries(1..200, 1, 300)).unwrap();
    assert_eq!(disk.counters().writes, before.writes + 1);
    for _ in 0..3 {
        wal.sync().unwrap();
        wal.append(Some(&hard_state(1, 1, 1)), &[]).unwrap();
    }
    assert_eq!(
        (disk.counters().syncs, disk.counters().writes),
        (before.syncs + 1, before.writes + 2),
        "one sync and its mark"
    );
}

#[test]
fn old_entries_are_read_from_the_files() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, Options { segment_bytes: 1 << 20, sync: true });
    let mut expected = BTreeMap::new();
    for (first, last, term) in [(1, 400, 1), (300, 900, 2), (850, 850, 3), (851, 2000, 3)] {
        expected.split_off(&first);
        for at in (first..=last).step_by(50) {
            let batch = entries(at..(at + 50).min(last + 1), term, 900);
            expected.extend(batch.iter().map(|entry| (entry.index(), entry.clone())));
            wal.append(Some(&hard_state(term, at, at)), &batch).unwrap();
        }
    }
    let check = |wal: &Wal| {
        for (low, high, max) in
            [(1, 2, 0), (1, 2001, u64::MAX), (295, 305, u64::MAX), (845, 855, 3000), (1999, 2001, 0), (7, 7, 9)]
        {
            let read = wal.reader().read(low, high, max).unwrap();
            let whole: Vec<Entry> = expected.range(low..high).map(|(_, entry)| entry.clone()).collect();
            assert_eq!(read, whole[..read.len()], "{low}..{high}");
            let bytes: u64 = read.iter().map(|entry| prost::Message::encoded_len(entry) as u64).sum();
            assert!(read.len() <= 1 || bytes <= max, "{low}..{high}: {bytes}");
            assert!(read.len() == whole.len() || bytes + 1000 > max, "{low}..{high} stops at {bytes}");
        }
        assert_eq!([299, 300, 849, 850].map(|index| wal.term(index).unwrap()), [1, 2, 2, 3]);
        assert!(matches!(wal.read(2000, 2002, 0).unwrap_err(), Error::Unavailable { index: 2001, last: 2000 }));
        assert!(matches!(wal.read(0, 2, 0).unwrap_err(), Error::Released { .. }));
        assert!(wal.term(u64::MAX).is_err());
    };
    check(&wal);
    wal.sync().unwrap();
    drop(wal);
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), DIR, SMALL, 1990).unwrap();
    assert_eq!(recovered.entries.iter().map(Entry::index).collect::<Vec<_>>(), (1990..=2000).collect::<Vec<_>>());
    assert_eq!((wal.first_index(), wal.last_index()), (1, 2000));
    check(&wal);
    // Rot under a running member is not handed out as an entry.
    let path = disk.files().remove(0);
    for offset in (HEADER_BYTES..100_000).step_by(300) {
        disk.flip_bit(&path, offset, 2).unwrap();
    }
    assert!(matches!(wal.read(1, 50, u64::MAX).unwrap_err(), Error::Corrupt { .. }));
}

#[test]
fn without_fsync_nothing_is_synced() {
    let disk = MemDisk::new();
    let options = Options { segment_bytes: 2048, sync: false };
    let mut wal = create(&disk, options);
    for index in 1..30 {
        wal.append(None, &[entry(index, 1, 300)]).unwrap();
        wal.sync().unwrap();
    }
    wal.release_below(20).unwrap();
    let (mut wal, recovered) = Wal::open(Arc::new(disk.clone()), DIR, options, 0).unwrap();
    assert_eq!(recovered.last_index, 29);
    wal.append(None, &[entry(30, 1, 300)]).unwrap();
    let counters = disk.counters();
    assert_eq!((counters.syncs, counters.dir_syncs), (0, 0));
}

#[test]
fn the_real_disk_carries_a_log_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()).unwrap());
    let options = Options { segment_bytes: 64 << 10, sync: true };
    let mut wal = Wal::create(disk.clone(), DIR, META, options).unwrap();
    for index in 1..200 {
        wal.append(Some(&hard_state(1, 1, index)), &[entry(index, 1, 1000)]).unwrap();
        wal.sync().unwrap();
        if index % 50 == 0 {
            wal.release_below(index - 20).unwrap();
        }
    }
    drop(wal);
    let (wal, recovered) = Wal::open(disk, DIR, options, 150).unwrap();
    assert_eq!((recovered.last_index, recovered.entries.len(), recovered.repaired), (199, 50, None));
    assert!(recovered.first_index > 50);
    assert_eq!(wal.read(recovered.first_index, 200, u64::MAX).unwrap().len() as u64, 200 - recovered.first_index);
}

#[test]
fn hostile_files_never_panic() {
    let mut rng = rng(5);
    for round in 0..400u32 {
        let (disk, _) = small_log();
        let path = disk.files()[(round % 3) as usize].clone();
        let mut bytes = disk.contents(&path).unwrap();
        // Random bytes, from nothing kept to all but one kept.
        let keep = match round % 4 {
            0 => 0,
            1 => HEADER_BYTES as usize,
            _ => rng.next_u32() as usize % bytes.len(),
        };
        rng.fill_bytes(&mut bytes[keep..]);
        if round % 5 == 0 {
            bytes.truncate(rng.next_u32() as usize % (bytes.len() + 1));
        }
        // Absurd lengths that claim to be of this segment.
        if round % 7 == 0 && bytes.len() > 200 {
            let at = HEADER_BYTES as usize;
            bytes[at..at + 8].copy_from_slice(&[0xff, 0xff, 0xff, 0x03, 1, 1 + (round % 3) as u8, 0, 0]);
        }
        disk.plant(&path, &bytes).unwrap();
        let _ = open(&disk);
    }
    // A file far longer than a segment is looked through, not loaded.
    let (disk, model) = small_log();
    let path = disk.files().pop().unwrap();
    disk.open(&path, Open::Existing).unwrap().set_len(20 << 20).unwrap();
    assert_eq!(Model::of(&open(&disk).unwrap().1), model);
}

fn step() -> impl Strategy<Value = (u8, u64, u64, usize)> {
    (0u8..12, 0u64..6, 1u64..5, 0usize..500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of calls, crashes and restarts among them, leaves what the model says.
    #[test]
    fn it_does_what_the_model_does(plan in proptest::collection::vec(step(), 1..60), seed in any::<u64>()) {
        let mut rng = rng(seed);
        let disk = MemDisk::new();
        let mut wal = create(&disk, SMALL);
        let mut model = Model::default();
        let mut term = 1;
        for (what, a, b, size) in plan {
            let (first, last) = (wal.first_index(), wal.last_index());
            let step = match what {
                0..=4 => Step::Append(None, entries(last + 1..last + 1 + b, term, size)),
                5 | 6 => {
                    term += 1;
                    let from = last.saturating_sub(a).max(first).min(last + 1);
                    Step::Append(Some(hard_state(term, a, first)), entries(from..from + b, term, size))
                }
                7 => Step::Epoch(size as u64),
                8 => Step::Release(last.saturating_sub(a)),
                9 if size < 60 => Step::Snapshot(last + a, term),
                _ => Step::Sync,
            };
            step.run(&mut wal).unwrap();
            model.apply(&step);
            if what == 11 {
                disk.crash(Loss::ALL[a as usize % 4], &mut chance(&mut rng));
                let (reopened, recovered) = open(&disk).unwrap();
                prop_assert_eq!(&recovered.repaired, &None);
                let mut expected = model.clone();
                expected.entries = expected.entries.split_off(&recovered.first_index);
                prop_assert_eq!(Model::of(&recovered), expected.clone());
                model = expected;
                wal = reopened;
            }
            let (first, last) = (wal.first_index(), wal.last_index());
            let all: Vec<Entry> = model.entries.range(first..).map(|(_, entry)| entry.clone()).collect();
            prop_assert_eq!(wal.read(first, last + 1, u64::MAX).unwrap(), all);
        }
    }
}

/// As it lies in the file: 508 bytes and their check value in each sector.
fn in_sectors(plain: &[u8]) -> Vec<u8> {
    let sector = |plain: &[u8]| {
        let mut sector = plain.to_vec();
        sector.resize(508, 0);
        let check = crc32fast::hash(&sector);
        sector.extend(check.to_le_bytes());
        sector
    };
    plain.chunks(508).flat_map(sector).collect()
}

fn plain(file: &[u8]) -> Vec<u8> {
    file.chunks_exact(512).flat_map(|sector| sector[..508].to_vec()).collect()
}

/// A segment written by hand from `docs/wal-format.md`.
struct Handmade {
    bytes: Vec<u8>,
    sequence: u64,
}

impl Handmade {
    /// The words are those at offset 16 and on.
    fn new(words: [u64; 11]) -> Handmade {
        let mut bytes = b"LSTPWAL\0\x02\0\0\0\0\0\0\0".to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(124, 0);
        let check = crc32fast::hash(&bytes);
        bytes.extend(check.to_le_bytes());
        Handmade { bytes, sequence: words[0] }
    }

    fn record(mut self, kind: u8, payload: &[u8]) -> Handmade {
        let offset = self.bytes.len() as u64;
        let chain = u32::from_le_bytes(self.bytes[self.bytes.len() - 4..].try_into().unwrap());
        let mut record = (payload.len() as u32).to_le_bytes().to_vec();
        record.push(kind);
        record.extend(&self.sequence.to_le_bytes()[..3]);
        record.extend(payload);
        while record.len() % 8 != 4 {
            record.push(0);
        }
        let mut hasher = crc32fast::Hasher::new_with_initial(chain);
        hasher.update(&self.sequence.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(&record);
        self.bytes.extend(record);
        self.bytes.extend(hasher.finalize().to_le_bytes());
        self
    }

    fn open(&self, name: &str) -> Result<Recovered, Error> {
        let disk = MemDisk::new();
        disk.plant(&format!("{DIR}/{name}.seg"), &in_sectors(&self.bytes)).unwrap();
        open(&disk).map(|(_, recovered)| recovered)
    }
}

#[test]
fn the_format_is_the_documented_one() {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let encoded = |entry: &Entry| prost::Message::encode_to_vec(entry);
    let name = "000000000a0b0c0d";
    let head = || Handmade::new([0x0a0b0c0d, META.member_id, META.cluster_id, 5, 0, 1, 2, 3, 4, 4, 2]);
    let recovered = head()
        .record(1, &encoded(&entry(5, 2, 11)))
        .record(3, &words(&[9]))
        .record(2, &words(&[6, 7, 5]))
        .record(1, &encoded(&entry(6, 3, 0)))
        .open(name)
        .unwrap();
    assert_eq!(recovered.metadata, META);
    assert_eq!(recovered.entries, [entry(5, 2, 11), entry(6, 3, 0)]);
    assert_eq!((recovered.epoch, recovered.hard_state), (9, hard_state(6, 7, 5)));
    assert_eq!((recovered.first_index, recovered.snapshot), (5, SnapshotMark { index: 4, term: 2 }));

    // And the log writes what was written by hand above.
    let disk = MemDisk::new();
    disk.plant(&format!("{DIR}/{name}.seg"), &in_sectors(&[head().bytes, vec![0; 1000]].concat())).unwrap();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(Some(&hard_state(6, 7, 5)), &[entry(5, 2, 11)]).unwrap();
    let written = plain(&disk.contents(&format!("{DIR}/{name}.seg")).unwrap());
    let by_hand = head().record(1, &encoded(&entry(5, 2, 11))).record(2, &words(&[6, 7, 5])).bytes;
    assert!(written.starts_with(&by_hand), "{written:x?}\n{by_hand:x?}");

    // Records that verify and make no sense.
    let check = |kind: u8, payload: &[u8], expected: &str| {
        let error = head().record(kind, payload).open(name).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { offset: 128, .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(1, &encoded(&entry(7, 1, 1)), "entry 7 follows entry 4");
    check(1, &encoded(&entry(0, 1, 1)), "entry 0 follows");
    check(1, &encoded(&entry(u64::MAX, 1, 1)), "follows");
    check(1, b"\xff\xff\xff", "cannot be decoded");
    check(2, &words(&[1, 2]), "HardState record has 16 bytes");
    check(3, b"", "Epoch record has 0 bytes");
    check(4, &words(&[u64::MAX, 1]), "out of range");
    assert!(matches!(head().record(6, &words(&[1])).open(name).unwrap_err(), Error::MissingSegment { .. }));
    // Kinds that are not known are not records.
    assert_eq!(head().record(0, b"").record(1, &encoded(&entry(5, 1, 1))).open(name).unwrap().last_index, 4);
    assert_eq!(head().record(7, b"").open(name).unwrap().last_index, 4);
    // Headers that verify and make no sense.
    assert!(matches!(head().open("0000000000000001").unwrap_err(), Error::Corrupt { offset: 0, .. }));
    for header in [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], [u64::MAX; 11]] {
        let error = Handmade::new(header).open(&format!("{:016x}", header[0])).unwrap_err();
        assert!(matches!(error, Error::Corrupt { offset: 0, .. }), "{error}");
    }
    let extreme =
        Handmade::new([1, 1, 1, u64::MAX, u64::MAX, u64::MAX, 1, 1, 1, 1, 1]).open("0000000000000001").unwrap();
    assert_eq!(extreme.last_index, u64::MAX - 1);
}
