//! A crash after every disk operation of a run of 300 acknowledged writes loses nothing acknowledged.
//!
//! The run switches log segments, commits the store, compacts and defragments it. In the k-th round the power of one
//! member fails after its k-th disk operation, wherever in the code that is; what was not synced is lost, torn or
//! kept; then it starts again, sometimes to be cut off once more while it recovers. Rounds go on until the run ends
//! before the power fails, so k is exhaustive. Each round draws its way of losing from its number;
//! `CRASH_ALL_LOSSES=1` tries them all.

use lockstep::member::apply::Response;
use lockstep_proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use lockstep_sim::calm::Calm;
use lockstep_sim::disk::{Loss, chance};
use lockstep_sim::lab::put;
use lockstep_sim::member::Setup;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const WRITES: usize = 300;
/// Writes that are under way together.
const GROUP: usize = 10;
const COMMIT_EVERY: usize = 3;
const COMPACT_EVERY: usize = 7;
const DEFRAGMENT_EVERY: usize = 11;
/// Of a defragmentation, between two groups of writes.
const STORE_STEPS: usize = 3;

/// Whose power fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Leader,
    Follower,
    /// A follower that was away for so long that it gets a snapshot.
    Behind,
    /// The leader's disk counts, but all go down together.
    All,
}

struct Run {
    cluster: Calm,
    rng: ChaCha8Rng,
    /// Numbers of the writes that a client was told are done.
    acknowledged: Vec<usize>,
}

/// Every round `k` with `k % parts == part`.
fn check(members: u64, who: Who, parts: u64, part: u64) {
    let all_losses = std::env::var_os("CRASH_ALL_LOSSES").is_some();
    let leader = leader_of(members);
    let victim = if matches!(who, Who::Follower | Who::Behind) { leader % members + 1 } else { leader };
    let mut k = part;
    loop {
        let losses = if all_losses { &Loss::ALL[..] } else { &[Loss::ALL[(k / parts % 4) as usize]][..] };
        let mut crashed = false;
        for loss in losses {
            crashed |= round(members, who, victim, k, *loss);
        }
        if !crashed {
            assert!(k > 200, "the run has too few disk operations to prove anything: {k}");
            return;
        }
        k += parts;
    }
}

/// Whether the power failed before the run was over.
fn round(members: u64, who: Who, victim: u64, k: u64, loss: Loss) -> bool {
    let mut run =
        Run { cluster: Calm::new(&setup(members)), rng: ChaCha8Rng::seed_from_u64(k), acknowledged: Vec::new() };
    let context = || format!("{members} members, {who:?}, operation {k}, {loss:?}");

    let mut crashed = false;
    run.cluster.member(victim).disk().crash_after(k);
    let mut next = 0;
    let ids = run.cluster.ids();
    for id in ids.iter().filter(|id| who != Who::Behind || **id != victim) {
        run.boot(*id, &context());
    }
    if who == Who::Behind {
        next = run.leave_behind();
        run.boot(victim, &context());
        (0..12).for_each(|_| run.cluster.tick());
    }
    while next < WRITES {
        let down: Vec<u64> = run.cluster.ids().into_iter().filter(|id| !run.cluster.member(*id).is_up()).collect();
        if !down.is_empty() {
            assert!(!crashed, "{}: only one crash was meant", context());
            crashed = true;
            for (id, reason) in run.cluster.take_died() {
                assert_eq!(id, victim, "{}: {reason}", context());
            }
            run.recover(who, victim, loss, &context());
            // A little more work, and that is it: what comes later is another round's.
            next = next.max(WRITES - 3 * GROUP);
            continue;
        }
        run.write(next);
        next += GROUP;
    }
    run.cluster.member(victim).disk().crash_after(u64::MAX);
    if !run.cluster.take_died().is_empty() {
        crashed = true;
        run.recover(who, victim, loss, &context());
    }
    run.check_all(&context());
    assert!(
        crashed || run.acknowledged.len() == WRITES,
        "{}: only {} writes are done",
        context(),
        run.acknowledged.len()
    );
    crashed
}

fn setup(members: u64) -> Setup {
    let mut setup = Setup { members, segment_bytes: 4096, ..Setup::default() };
    setup.raft.log_slack_entries = 8;
    setup.raft.log_cache_bytes = 2000;
    setup
}

/// Who wins the first election: in a calm world with one seed always the same.
fn leader_of(members: u64) -> u64 {
    let mut cluster = Calm::new(&setup(members));
    for id in cluster.ids() {
        cluster.boot(id).expect("a new member starts");
    }
    cluster.elect().expect("nobody dies")
}

impl Run {
    fn boot(&mut self, id: u64, context: &str) {
        if let Err(reason) = self.cluster.boot(id) {
            assert!(self.cluster.member(id).disk().crashed(), "{context}: member {id} does not start: {reason}");
        }
    }

    /// Writes until the log does not reach back to the beginning any more. Returns the number of the next write.
    fn leave_behind(&mut self) -> usize {
        for group in 0..2 * COMMIT_EVERY {
            self.write(group * GROUP);
            // Two election time-outs without an answer, and a member is away.
            (0..12).for_each(|_| self.cluster.tick());
        }
        2 * COMMIT_EVERY * GROUP
    }

    /// A group of writes, and whatever else is due.
    fn write(&mut self, first: usize) {
        let Some(leader) = self.cluster.elect() else { return };
        // Also through followers, which forward.
        let ids = self.cluster.ids();
        let mut pending = Vec::new();
        for number in first..first + GROUP {
            let through = if number % 3 == 0 { ids[number % ids.len()] } else { leader };
            let value = format!("{number:0>width$}", width = 20 + number % 200);
            pending.extend(self.cluster.propose(through, put(&key(number), &value)).map(|request| (number, request)));
        }
        self.cluster.propose(leader, put("hot", &first.to_string()));
        let group = first / GROUP;
        if group % COMPACT_EVERY == COMPACT_EVERY - 1 {
            let revision = (first / 2).max(1) as i64;
            let compaction = Some(CompactionRequest { revision, physical: false });
            self.cluster.propose(leader, InternalRaftRequest { compaction, ..Default::default() });
        }
        self.cluster.settle();
        for (number, request) in pending {
            match self.cluster.reply(request) {
                Some(Ok(Response::Put(_))) => self.acknowledged.push(number),
                Some(other) => panic!("write {number} is answered {other:?}"),
                None => {}
            }
        }
        for &id in &ids {
            if group % DEFRAGMENT_EVERY == DEFRAGMENT_EVERY / 2 {
                self.cluster.defragment(id);
            }
            for _ in 0..STORE_STEPS {
                self.cluster.store_step(id);
            }
            self.cluster.settle();
        }
        if group % COMMIT_EVERY == COMMIT_EVERY - 1 {
            for id in ids {
                self.cluster.commit_store(id);
                self.cluster.settle();
            }
        }
    }

    fn recover(&mut self, who: Who, victim: u64, loss: Loss, context: &str) {
        let others_go_on = who != Who::All && self.cluster.ids().len() > 1;
        let victims = if who == Who::All { self.cluster.ids() } else { vec![victim] };
        for id in &victims {
            self.cluster.crash(*id, loss, &mut chance(&mut self.rng));
        }
        if others_go_on {
            self.write(2 * WRITES);
        }
        for id in victims {
            // Sometimes the power fails again while the member recovers.
            if self.rng.next_u64().is_multiple_of(2) {
                let operations = self.rng.next_u64() % 24;
                self.cluster.member(id).disk().crash_after(operations);
                if self.cluster.boot(id).is_ok() {
                    self.cluster.settle();
                    self.cluster.take_died();
                }
                self.cluster.crash(id, loss, &mut chance(&mut self.rng));
            }
            self.cluster.boot(id).unwrap_or_else(|reason| panic!("{context}: member {id} does not start: {reason}"));
        }
        self.cluster.settle();
    }

    fn check_all(&mut self, context: &str) {
        self.cluster.elect();
        // Enough for heartbeats to bring everybody up to date.
        for _ in 0..12 {
            self.cluster.tick();
        }
        let died = self.cluster.take_died();
        assert!(died.is_empty(), "{context}: {died:?}");
        let mut hashes = Vec::new();
        for id in self.cluster.ids() {
            for number in &self.acknowledged {
                let found = self.cluster.get(id, key(*number).as_bytes());
                let kv = found.unwrap_or_else(|| panic!("{context}: member {id} has lost acknowledged write {number}"));
                assert_eq!(kv.version, 1, "{context}: write {number} was applied twice at member {id}");
                assert!(kv.value.ends_with(number.to_string().as_bytes()), "{context}: write {number} at member {id}");
            }
            let view = self.cluster.member(id).view().expect("it runs");
            hashes.push((view.applied_index(), view.hash_kv(0).expect("a hash")));
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{context}: members disagree: {hashes:?}");
    }
}

fn key(number: usize) -> String {
    format!("key{number:03}")
}

#[test]
fn one_member() {
    check(1, Who::Leader, 1, 0);
}

#[test]
fn leader_of_three() {
    check(3, Who::Leader, 1, 0);
}

#[test]
fn follower_of_three() {
    check(3, Who::Follower, 1, 0);
}

#[test]
fn receiver_of_a_snapshot() {
    check(3, Who::Behind, 1, 0);
}

#[test]
fn all_three_even() {
    check(3, Who::All, 2, 0);
}

#[test]
fn all_three_odd() {
    check(3, Who::All, 2, 1);
}
