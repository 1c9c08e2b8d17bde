//! Bits flip on a member's disk: what it then says is right, or it stops with an error that names the file.
//!
//! One member with a small store and log. Each round takes a copy of its disk, flips one bit of one file, and has a
//! process work on it: started after the bit flipped, or running while it flips. Whatever is read back must equal what
//! was acknowledged; "nothing" only in company of an error. After the good copy is brought back, everything is there.

use lockstep::member::apply::Response;
use lockstep::member::error::EtcdError;
use lockstep::member::raft::Input;
use lockstep::mvcc::View;
use lockstep::mvcc::read::{RangeOptions, Read, Revision};
use lockstep::ports::clock::Instant;
use lockstep_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, InternalRaftRequest};
use lockstep_sim::disk::{FailedSync, Loss, MemDisk};
use lockstep_sim::lab::put;
use lockstep_sim::member::{Event, Setup, SimMember};

const STORE: &str = "member/snap/db";
const EVERYTHING: (&[u8], &[u8]) = (b"\0", b"\0");

/// A member that is driven by hand, one stage after the other.
struct One {
    member: SimMember,
    now: Instant,
    /// Why it is down.
    died: Option<String>,
    answers: Vec<Result<Response, EtcdError>>,
}

/// Everything that readers can see.
#[derive(Debug, PartialEq)]
struct Seen {
    rev: i64,
    keys: String,
    history: String,
    hash: u32,
}

impl One {
    fn on(disk: MemDisk) -> One {
        let mut setup = Setup { members: 1, segment_bytes: 4096, store_cache_bytes: 0, ..Setup::default() };
        setup.raft.log_slack_entries = 4;
        setup.raft.log_cache_bytes = 1;
        let mut member = SimMember::new(1, setup);
        member.replace_disk(disk);
        One { member, now: Instant(0), died: None, answers: Vec::new() }
    }

    fn boot(&mut self) -> Result<(), String> {
        self.died = None;
        let events = self.member.boot()?;
        self.take(events);
        Ok(())
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Died(reason) => self.died = Some(reason),
                Event::Reply { result, .. } => self.answers.push(result),
                _ => {}
            }
        }
    }

    /// Until nothing moves.
    fn work(&mut self) {
        loop {
            let events = [
                self.member.step(self.now),
                self.member.append(usize::MAX),
                self.member.fsync(),
                self.member.apply(usize::MAX),
                self.member.store_commit(),
            ];
            self.member.compaction_due();
            let moved = events.iter().any(|events| !events.is_empty());
            events.into_iter().for_each(|events| self.take(events));
            let queues = self.member.queues();
            if !moved && queues.inputs + queues.log + queues.apply + queues.batches == 0 {
                return;
            }
        }
    }

    /// Until it leads and has applied what was committed, or has died.
    fn lead(&mut self) {
        for _ in 0..60 {
            self.now.0 += 100;
            self.member.input(Input::Tick);
            self.work();
        }
    }

    /// Whether it was acknowledged.
    fn ask(&mut self, request: InternalRaftRequest) -> bool {
        self.answers.clear();
        self.member.propose(request, Instant(self.now.0 + 5_000));
        self.work();
        matches!(self.answers.as_slice(), [Ok(_)])
    }

    fn commit(&mut self) {
        self.member.commit_due();
        self.work();
    }

    fn see(&self) -> Result<Seen, String> {
        let view = self.member.view().ok_or("it is down")?;
        see(&view).map_err(|error| error.to_string())
    }
}

fn see(view: &View) -> Result<Seen, lockstep::mvcc::read::Error> {
    let keys = view.range(EVERYTHING.0, EVERYTHING.1, RangeOptions::default())?;
    let history = view.rows(Revision::default(), usize::MAX)?;
    let hash = view.hash_kv(0)?.hash;
    Ok(Seen { rev: view.rev(), keys: format!("{:?}", keys.kvs), history: format!("{history:?}"), hash })
}

fn delete(key: &str) -> InternalRaftRequest {
    let request = DeleteRangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
    InternalRaftRequest { delete_range: Some(request), ..Default::default() }
}

fn compact(revision: i64) -> InternalRaftRequest {
    let request = CompactionRequest { revision, physical: false };
    InternalRaftRequest { compaction: Some(request), ..Default::default() }
}

/// Puts, deletions, a compaction, segments that were released, and a tail that only the log has.
fn lived() -> One {
    let mut one = One::on(MemDisk::new());
    one.boot().unwrap();
    one.lead();
    for n in 0..60 {
        let value = if n % 7 == 0 { "long ".repeat(600) } else { format!("value {n}") };
        assert!(one.ask(put(&format!("key{:02}", n % 40), &value)), "{:?}", one.died);
        if n % 10 == 0 {
            assert!(one.ask(delete(&format!("key{:02}", n / 2))));
        }
        if n % 6 == 5 {
            one.commit();
        }
        if n == 30 {
            assert!(one.ask(compact(20)));
        }
    }
    one.commit();
    for n in 0..5 {
        assert!(one.ask(put("tail", &n.to_string())));
    }
    one
}

#[derive(Debug, Default, PartialEq)]
struct Tally {
    equal: usize,
    refused: usize,
    stopped: usize,
    /// Those that said which keys.
    named: usize,
}

/// Boots a copy of `disk` on which one bit is flipped, and reads everything.
fn boot_rotten(disk: &MemDisk, expected: &Seen, path: &str, offset: u64, bit: u8, tally: &mut Tally) {
    let place = format!("{path} {offset} bit {bit}");
    let rotten = disk.fork();
    rotten.flip_bit(path, offset, bit).unwrap();
    let mut one = One::on(rotten.clone());
    match one.boot() {
        Err(reason) => {
            assert!(reason.contains(path.rsplit_once('/').unwrap().0), "{place}: which file? {reason}");
            tally.refused += 1;
        }
        Ok(()) => {
            one.lead();
            match (one.see(), &one.died) {
                (Ok(seen), None) => {
                    assert!(seen == *expected, "{place}: wrong data is served:\n{seen:?}\n{expected:?}");
                    tally.equal += 1;
                }
                (_, Some(reason)) => {
                    assert!(reason.contains("member/"), "{place}: which file? {reason}");
                    tally.stopped += 1;
                }
                (Err(reason), None) => {
                    assert!(reason.contains(path), "{place}: which file? {reason}");
                    tally.stopped += 1;
                }
            }
        }
    }
    // The operator brings the good copy back.
    one.member.kill();
    rotten.mend(path, offset, bit);
    let mut one = One::on(rotten);
    one.boot().unwrap_or_else(|reason| panic!("{place}: mended, it does not start: {reason}"));
    one.lead();
    let seen = one.see().unwrap_or_else(|reason| panic!("{place}: mended, {reason}, {:?}", one.died));
    assert!(seen == *expected, "{place}: mended, wrong data is served:\n{seen:?}\n{expected:?}");
}

/// Offsets at which something is written, about `count` of them, all over the file; every one with `ROT_ALL=1`.
fn places(contents: &[u8], count: usize) -> Vec<u64> {
    let used: Vec<u64> = (0..contents.len() as u64).filter(|at| contents[*at as usize] != 0).collect();
    let step = if std::env::var_os("ROT_ALL").is_some() { 1 } else { (used.len() / count).max(1) };
    used.into_iter().step_by(step).collect()
}

#[test]
fn a_store_that_rotted_is_right_or_refused_at_boot() {
    for loss in [Loss::Everything, Loss::Nothing] {
        let mut one = lived();
        let expected = one.see().unwrap();
        one.member.crash(loss, &mut |_| 0);
        let disk = one.member.disk().clone();
        let contents = disk.contents(STORE).unwrap();
        let mut tally = Tally::default();
        for at in (0..320).step_by(if std::env::var_os("ROT_ALL").is_some() { 1 } else { 7 }) {
            boot_rotten(&disk, &expected, STORE, at, (at % 8) as u8, &mut tally);
        }
        for (n, at) in places(&contents, 150).into_iter().enumerate() {
            boot_rotten(&disk, &expected, STORE, at, (n % 8) as u8, &mut tally);
        }
        println!("{loss:?}: {tally:?}");
        assert!(tally.equal > 0 && tally.refused > 0, "{tally:?}");
    }
}

/// Work that reads old rows and pages, writes new ones, and compacts; what was acknowledged of it.
fn more_work(one: &mut One) -> Vec<usize> {
    let mut done = Vec::new();
    for n in 0..12 {
        if one.ask(put(&format!("more{n}"), "value")) {
            done.push(n);
        }
        if n == 5 {
            one.ask(compact(45));
        }
        if n % 4 == 3 {
            one.commit();
        }
    }
    done
}

#[test]
fn a_store_that_rots_under_a_running_member_is_right_or_stops_it() {
    let mut before = lived();
    let expected = before.see().unwrap();
    before.member.crash(Loss::Nothing, &mut |_| 0);
    let disk = before.member.disk().clone();
    let contents = disk.contents(STORE).unwrap();
    let mut tally = Tally::default();
    let header = (0..320).step_by(32);
    for (n, at) in header.chain(places(&contents, 100)).enumerate() {
        let place = format!("{at} bit {}", n % 8);
        let rotting = disk.fork();
        let mut one = One::on(rotting.clone());
        one.boot().unwrap();
        one.lead();
        rotting.flip_bit(STORE, at, (n % 8) as u8).unwrap();
        let stopped = match one.see() {
            Ok(seen) => {
                assert!(seen == expected, "{place}: wrong data is served:\n{seen:?}\n{expected:?}");
                false
            }
            Err(reason) => {
                assert!(reason.contains(STORE) && reason.contains("damaged"), "{place}: which file? {reason}");
                // What a range met is of keys; what only the history has is not.
                let is_named = reason.contains("not readable on this member: ");
                let are_keys = reason.contains(" keys from \"") && reason.contains("written at revisions ");
                assert!(!is_named || are_keys, "{place}: which keys? {reason}");
                tally.named += usize::from(is_named);
                true
            }
        };
        let acknowledged = more_work(&mut one);
        if let Some(reason) = &one.died {
            assert!(reason.contains(STORE), "{place}: which file? {reason}");
        }
        if stopped || one.died.is_some() {
            tally.stopped += 1;
        } else {
            tally.equal += 1;
        }
        // Nothing wrong went anywhere: with the good copy back, all of it is there.
        one.member.crash(Loss::Everything, &mut |_| 0);
        rotting.mend(STORE, at, (n % 8) as u8);
        let mut one = One::on(rotting);
        one.boot().unwrap_or_else(|reason| panic!("{place}: mended, it does not start: {reason}"));
        one.lead();
        let view = one.member.view().unwrap_or_else(|| panic!("{place}: mended, {:?}", one.died));
        let old = view.range(b"key", b"kez", RangeOptions::default()).unwrap();
        let count = |keys: &str| keys.matches("key: b\"key").count();
        assert_eq!(old.kvs.len(), count(&expected.keys), "{place}: mended, keys are missing");
        assert!(old.kvs.iter().all(|kv| expected.keys.contains(&format!("{kv:?}"))), "{place}: mended, other keys");
        for n in acknowledged {
            let found = view.range(format!("more{n}").as_bytes(), b"", RangeOptions::default()).unwrap();
            assert_eq!(found.count, 1, "{place}: mended, an acknowledged write is gone");
        }
    }
    println!("{tally:?}");
    assert!(tally.equal > 0 && tally.stopped > 0 && tally.named > 0, "{tally:?}");
}

#[test]
fn a_log_that_rotted_is_right_or_refused_at_boot() {
    for loss in [Loss::Everything, Loss::Nothing] {
        let mut one = lived();
        let expected = one.see().unwrap();
        one.member.crash(loss, &mut |_| 0);
        let disk = one.member.disk().clone();
        let mut tally = Tally::default();
        let logs: Vec<String> = disk.files().into_iter().filter(|path| path.ends_with(".seg")).collect();
        for path in &logs {
            for (n, at) in places(&disk.contents(path).unwrap(), 150).into_iter().enumerate() {
                boot_rotten(&disk, &expected, path, at, (n % 8) as u8, &mut tally);
            }
        }
        println!("{loss:?}, {} segments: {tally:?}", logs.len());
        assert!(tally.equal > 0 && tally.refused > 0, "{tally:?}");
    }
}

/// Whatever fsync fails, and whatever is then read of what it lost: the member stops, and after its next life and a
/// power cut everything acknowledged is there.
#[test]
fn a_failed_fsync_forgets_nothing_in_two_lives() {
    for (nth, mode) in (0..40).flat_map(|nth| [(nth, FailedSync::Linger), (nth, FailedSync::Revert)]) {
        for path in ["member/wal", STORE] {
            let mut one = lived();
            let disk = one.member.disk().clone();
            let place = format!("{path} {nth} {mode:?}");
            disk.after_failed_sync(mode);
            let mut acknowledged = Vec::new();
            for n in 0..20 {
                if n == nth / 2 {
                    disk.fail_sync(path, 1);
                }
                if one.ask(put(&format!("more{n}"), &"v".repeat(200 * (nth % 2 + 1)))) {
                    acknowledged.push(format!("more{n}"));
                }
                if n % 3 == 2 {
                    one.commit();
                }
                if let Some(reason) = &one.died {
                    assert!(reason.contains("member/"), "{place}: {reason}");
                    // The process ends, the machine goes on.
                    one.member.kill();
                    one.boot().unwrap_or_else(|reason| panic!("{place}: it does not start again: {reason}"));
                    one.lead();
                }
            }
            disk.fail_sync("", 0);
            one.member.crash(Loss::Everything, &mut |_| 0);
            one.boot().unwrap_or_else(|reason| panic!("{place}: after the power cut: {reason}"));
            one.lead();
            let view = one.member.view().unwrap_or_else(|| panic!("{place}: {:?}", one.died));
            for key in &acknowledged {
                let found = view.range(key.as_bytes(), b"", RangeOptions::default()).unwrap();
                assert_eq!(found.count, 1, "{place}: {key} was acknowledged and is gone");
            }
        }
    }
}
