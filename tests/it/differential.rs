//! The same generated requests to two implementations must be answered alike: responses, revisions, codes, texts,
//! hashes.
//!
//! `LOCKSTEP_DIFF_SEQUENCES` (50) and `LOCKSTEP_DIFF_SEED` (1) say how many sequences of 200 requests, and which. One
//! pair of targets serves all sequences; each begins with the deletion of everything. A mismatch is first repeated on a
//! fresh pair and then shrunk. What may differ between releases is listed in `util::differences`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep::member::error::EtcdError;
use lockstep::proto::etcdserverpb::*;

use crate::util::differences::reconcile;
use crate::util::generator::{self, LEASE_POOL, LEASES, Position};
use crate::util::oracle::Etcd;
use crate::util::process::Kind;
use crate::util::target::{InProcess, LEASE_TTL_S, Process, Release, Reply, Request, Response, Target};

const STEPS: u64 = 200;

type Pair = (Box<dyn Target>, Box<dyn Target>);

/// What was asked and how it was answered: `put ok`, `range etcdserver: …` -> how often.
type Tally = BTreeMap<String, u64>;

struct Mismatch {
    step: u64,
    text: String,
}

#[test]
fn our_code_on_the_model_answers_as_etcd_3_5() {
    compare_all(1, &|| Some((process(Kind::Etcd(Etcd::V35))?, Box::new(InProcess::default()))));
}

/// What differs between two real releases is no business of ours; that nothing else does shows the list is complete.
#[test]
fn etcd_3_4_answers_as_etcd_3_5() {
    compare_all(10, &|| Some((process(Kind::Etcd(Etcd::V34))?, process(Kind::Etcd(Etcd::V35))?)));
}

#[test]
fn lockstepd_answers_as_etcd_3_5() {
    compare_all(1, &|| Some((process(Kind::Etcd(Etcd::V35))?, process(Kind::Lockstepd)?)));
}

/// The harness itself: a target that forgets one thing is found out, and the sequence shrinks to what shows it.
#[test]
fn a_forgetful_target_is_found_and_its_sequence_shrunk() {
    struct Forgetful(InProcess);
    impl Target for Forgetful {
        fn name(&self) -> String {
            "forgetful".to_owned()
        }
        fn release(&self) -> Release {
            Release::V37
        }
        fn call(&mut self, request: &Request) -> Reply {
            let mut reply = self.0.call(request);
            if let Ok(Response::DeleteRange(r)) = &mut reply {
                r.prev_kvs.truncate(1);
            }
            reply
        }
        fn grant_lease(&mut self, id: i64) -> bool {
            self.0.grant_lease(id)
        }
        fn member_count(&mut self) -> usize {
            1
        }
    }
    let fresh =
        || -> Option<Pair> { Some((Box::new(InProcess::default()), Box::new(Forgetful(InProcess::default())))) };
    let mut pair = fresh().expect("nothing is missing");
    let leases = grant_leases(&mut pair);
    let all: Vec<u64> = (0..STEPS).collect();
    let found =
        run(&mut pair, leases, (1, 0), &all, &mut Tally::new()).expect_err("a target that forgets must be found");
    let shrunk = shrink(&fresh, 1, 0, found.step).expect("it fails on a fresh pair too");
    // Two keys, and the deletion of both.
    assert_eq!(shrunk.len(), 3, "{shrunk:?}");
}

fn process(kind: Kind) -> Option<Box<dyn Target>> {
    Some(Box::new(Process::start(kind)?))
}

/// Runs all sequences (or a fraction of them), and fails with the first mismatch, shrunk.
fn compare_all(fraction: u64, fresh: &dyn Fn() -> Option<Pair>) {
    let Some(mut pair) = fresh() else { return };
    let leases = grant_leases(&mut pair);
    let sequences = (number("LOCKSTEP_DIFF_SEQUENCES", 50) / fraction).max(1);
    let seed = number("LOCKSTEP_DIFF_SEED", 1);
    let steps: Vec<u64> = (0..STEPS).collect();
    let mut tally = Tally::new();
    let start = Instant::now();
    for sequence in 0..sequences {
        if let Err(found) = run(&mut pair, leases, (seed, sequence), &steps, &mut tally) {
            panic!("{}", report(fresh, seed, sequence, found));
        }
    }
    println!("{} and {}: {sequences} sequences in {:.1?}", pair.0.name(), pair.1.name(), start.elapsed());
    for (what, times) in &tally {
        println!("{times:7}  {what}");
    }
    if sequences >= 20 {
        assert_covered(&tally);
    }
}

/// A generator that never gets anywhere would agree with everything.
fn assert_covered(tally: &Tally) {
    for kind in ["range", "put", "delete", "txn", "compact", "hashkv", "grant", "revoke", "timetolive", "leases"] {
        assert!(tally.contains_key(&format!("{kind} ok")), "no {kind} ever succeeded: {tally:?}");
    }
    for error in [
        EtcdError::EmptyKey,
        EtcdError::KeyNotFound,
        EtcdError::ValueProvided,
        EtcdError::LeaseProvided,
        EtcdError::LeaseNotFound,
        EtcdError::LeaseExists,
        EtcdError::LeaseTtlTooLarge,
        EtcdError::TooManyOps,
        EtcdError::DuplicateKey,
        EtcdError::Compacted,
        EtcdError::FutureRev,
    ] {
        assert!(
            tally.keys().any(|k| k.ends_with(error.message())),
            "nothing was ever refused with {error:?}: {tally:?}"
        );
    }
}

/// Grants the generator's leases on a new pair; whether both have leases at all.
fn grant_leases(pair: &mut Pair) -> bool {
    LEASES.map(|id| pair.0.grant_lease(id) & pair.1.grant_lease(id)) == [true; 2]
}

/// What brings the leases to where a sequence begins.
fn lease_requests(leases: bool) -> Vec<Request> {
    if !leases {
        return Vec::new();
    }
    let revoke = |id| Request::Revoke(LeaseRevokeRequest { id });
    let grant = |id| Request::Grant(LeaseGrantRequest { id, ttl: LEASE_TTL_S });
    LEASE_POOL.into_iter().map(revoke).chain(LEASES.into_iter().map(grant)).collect()
}

/// Runs the given steps of one sequence on a pair.
fn run(
    pair: &mut Pair,
    leases: bool,
    (seed, sequence): (u64, u64),
    steps: &[u64],
    tally: &mut Tally,
) -> Result<(), Mismatch> {
    let all = Bytes::from_static(b"\0");
    let clear = DeleteRangeRequest { key: all.clone(), range_end: all.clone(), prev_kv: false };
    let mut at = Position { leases, ..Default::default() };
    ask(pair, &Request::DeleteRange(clear), 0, &mut at, tally)?;
    for request in lease_requests(leases) {
        ask(pair, &request, 0, &mut at, tally)?;
    }
    ask(pair, &Request::HashKv(HashKvRequest::default()), 0, &mut at, tally)?;
    for step in steps {
        let request = generator::request(seed, sequence, *step, at);
        ask(pair, &request, *step, &mut at, tally)?;
    }
    let last = steps.last().copied().unwrap_or(0);
    let everything = RangeRequest { key: all.clone(), range_end: all, ..Default::default() };
    ask(pair, &Request::Range(everything), last, &mut at, tally)?;
    ask(pair, &Request::HashKv(HashKvRequest::default()), last, &mut at, tally)?;
    let members = (pair.0.member_count(), pair.1.member_count());
    if members.0 != members.1 {
        return Err(Mismatch { step: last, text: format!("the numbers of members differ: {members:?}") });
    }
    Ok(())
}

/// Asks both, compares, and notes where the store stands now.
fn ask(pair: &mut Pair, request: &Request, step: u64, at: &mut Position, tally: &mut Tally) -> Result<(), Mismatch> {
    // HashKV runs beside a compaction that was not asked to be physical, and counts what that has not yet removed when
    // no key is left alive: that settles within moments.
    let attempts = if matches!(request, Request::HashKv(_)) { 20 } else { 1 };
    let mut attempt = 0;
    let (left, right) = loop {
        attempt += 1;
        let (left, right) = (pair.0.call(request), pair.1.call(request));
        let (mut l, mut r) = (left.clone(), right.clone());
        let taken = reconcile(request, (pair.0.release(), &mut l), (pair.1.release(), &mut r));
        if l == r {
            for difference in taken {
                *tally.entry(format!("known difference: {}", difference.what)).or_default() += 1;
            }
            break (left, right);
        }
        if attempt == attempts {
            let mut text = format!("step {step}: {request:?}\n");
            let _ = writeln!(text, "  {}: {left:?}", pair.0.name());
            let _ = writeln!(text, "  {}: {right:?}", pair.1.name());
            return Err(Mismatch { step, text });
        }
        std::thread::sleep(Duration::from_millis(25));
    };
    let kind = match request {
        Request::Range(_) => "range",
        Request::Put(_) => "put",
        Request::DeleteRange(_) => "delete",
        Request::Txn(_) => "txn",
        Request::Compact(_) => "compact",
        Request::HashKv(_) => "hashkv",
        Request::Grant(_) => "grant",
        Request::Revoke(_) => "revoke",
        Request::TimeToLive(_) => "timetolive",
        Request::Leases(_) => "leases",
    };
    let outcome = match &right {
        Ok(_) => "ok".to_owned(),
        Err(refusal) => refusal.message.clone(),
    };
    *tally.entry(format!("{kind} {outcome}")).or_default() += 1;
    if let Ok(response) = left {
        at.rev = response.header().revision;
        if let Response::HashKv(r) = &response {
            at.compact_rev = r.compact_revision;
        }
        if let Request::Compact(r) = request {
            at.compact_rev = r.revision;
        }
    }
    Ok(())
}

/// The smallest list of steps found that still fails on a fresh pair; `None` when it takes what went before.
fn shrink(fresh: &dyn Fn() -> Option<Pair>, seed: u64, sequence: u64, failed: u64) -> Option<Vec<u64>> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let fails = |steps: &[u64]| {
        let Some(mut pair) = fresh() else { return false };
        let leases = grant_leases(&mut pair);
        run(&mut pair, leases, (seed, sequence), steps, &mut Tally::new()).is_err()
    };
    let mut steps: Vec<u64> = (0..=failed).collect();
    if !fails(&steps) {
        return None;
    }
    let mut chunk = steps.len().div_ceil(2);
    loop {
        let mut start = 0;
        while start < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(start..(start + chunk).min(steps.len()));
            if fails(&fewer) { steps = fewer } else { start += chunk }
        }
        if chunk == 1 || Instant::now() >= deadline {
            return Some(steps);
        }
        chunk = chunk.div_ceil(2);
    }
}

fn report(fresh: &dyn Fn() -> Option<Pair>, seed: u64, sequence: u64, found: Mismatch) -> String {
    let mut text = format!("two answers differ; LOCKSTEP_DIFF_SEED={seed}, sequence {sequence}, {}", found.text);
    let Some(steps) = shrink(fresh, seed, sequence, found.step) else {
        let _ = writeln!(text, "It does not happen on a fresh pair: the sequences before it are part of the story.");
        return text;
    };
    let _ = writeln!(text, "Shrunk to {} steps on a fresh pair:", steps.len());
    let Some(mut pair) = fresh() else { return text };
    let mut at = Position { leases: grant_leases(&mut pair), ..Default::default() };
    let all = Bytes::from_static(b"\0");
    let mut requests = vec![
        Request::DeleteRange(DeleteRangeRequest { key: all.clone(), range_end: all, prev_kv: false }),
        Request::HashKv(HashKvRequest::default()),
    ];
    requests.splice(1..1, lease_requests(at.leases));
    for request in requests.drain(..) {
        let _ = ask(&mut pair, &request, 0, &mut at, &mut Tally::new());
    }
    for step in steps {
        let request = generator::request(seed, sequence, step, at);
        let _ = writeln!(text, "  {step}: {request:?}");
        if let Err(again) = ask(&mut pair, &request, step, &mut at, &mut Tally::new()) {
            let _ = writeln!(text, "{}", again.text);
        }
    }
    text
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text} is not a number: {e}")),
        Err(_) => default,
    }
}
