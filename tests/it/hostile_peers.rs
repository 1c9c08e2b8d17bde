//! What faulty peers send never stops a member, nor makes it promise or answer what is not so.
//!
//! raft-rs panics on messages that no correct peer sends, and believes others; `member/raft/inbound.rs` stands before
//! it.

use std::sync::Arc;

use lockstep::member::apply::{self, Applier};
use lockstep::member::membership::{self, ids};
use lockstep::member::raft::{Config, Consensus, Effect, Input, Proposal, ReadRequest, Recovered, Role, Stamp};
use lockstep::mvcc::Store;
use lockstep::ports::clock::Instant;
use lockstep::ports::dice::SeededDice;
use lockstep_proto::raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message,
    MessageType::{self, *},
    Snapshot, SnapshotMetadata,
};
use lockstep_sim::disk::MemDisk;
use prost::Message as _;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const FOUNDED: u64 = 3;
const EPOCH: u64 = 7;
const LATER: Instant = Instant(1_000_000);

/// Member 1 of 1, 2 and 3.
struct Member {
    consensus: Consensus,
    sent: Vec<Message>,
    reads_ready: Vec<(u64, u64)>,
    stopped: Option<String>,
}

impl Member {
    fn config() -> Config {
        Config {
            id: 1,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            log_cache_bytes: 1 << 20,
            log_slack_entries: 1,
            log_catch_up_entries: 5_000,
            epoch: EPOCH,
            dice: Arc::new(SeededDice::new(1)),
        }
    }

    fn follower() -> Member {
        let recovered = Recovered {
            hard_state: HardState { term: Some(1), vote: Some(0), commit: Some(FOUNDED) },
            conf_state: ConfState { voters: vec![1, 2, 3], ..Default::default() },
            applied: FOUNDED,
            truncated: (0, 0),
            term_runs: vec![(1, 1)],
            last_index: FOUNDED,
            entries: (1..=FOUNDED).map(|index| entry(1, index)).collect(),
            removed: Vec::new(),
        };
        let consensus = Consensus::new(Member::config(), recovered).expect("a founded member");
        let mut member = Member { consensus, sent: Vec::new(), reads_ready: Vec::new(), stopped: None };
        member.receive(Message { commit: Some(FOUNDED), ..message(MsgHeartbeat, 2) });
        assert_eq!((member.consensus.status().role, member.consensus.status().leader), (Role::Follower, 2));
        member.sent.clear();
        member
    }

    /// Leads term 3, with one entry in it.
    fn leader() -> Member {
        let mut member = Member::candidate();
        member.receive(Message { term: Some(3), ..message(MsgPreVoteResp, 2) });
        member.receive(Message { term: Some(3), ..message(MsgVoteResp, 2) });
        member.receive(Message { term: Some(3), index: Some(FOUNDED + 1), ..message(MsgAppResp, 2) });
        let status = member.consensus.status();
        assert_eq!((status.role, status.term, status.commit), (Role::Leader, 3, FOUNDED + 1));
        member.sent.clear();
        member
    }

    fn candidate() -> Member {
        let mut member = Member::follower();
        while member.consensus.status().role == Role::Follower {
            member.input(Input::Tick);
        }
        member.sent.clear();
        member
    }

    fn receive(&mut self, message: Message) {
        self.input(Input::Message(Box::new(message)));
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            for effect in self.consensus.step(Instant(0), std::mem::take(&mut inputs)) {
                match effect {
                    Effect::Send(messages) => self.sent.extend(messages),
                    Effect::Persist(persist) => inputs.push(Input::Persisted(persist.number)),
                    Effect::Apply(entries) => inputs.push(Input::Applied(entries.last().expect("entries").index())),
                    Effect::ReadReady { reads, index, .. } => {
                        self.reads_ready.extend(reads.iter().map(|read| (read.id, index)));
                    }
                    Effect::Stop(reason) => self.stopped = Some(reason),
                    Effect::Fetch(_) | Effect::Release { .. } | Effect::SnapshotRefused { .. } => {}
                    Effect::TakeSnapshot | Effect::DropSnapshot => {}
                    Effect::Install { index } => inputs.push(Input::Applied(index)),
                }
            }
        }
    }
}

fn entry(term: u64, index: u64) -> Entry {
    Entry { r#type: Some(0), term: Some(term), index: Some(index), data: None }
}

/// As the leader of term 2 would send it.
fn message(kind: MessageType, from: u64) -> Message {
    let term = if matches!(kind, MsgProp | MsgReadIndex) { 0 } else { 2 };
    Message { r#type: Some(kind as i32), to: Some(1), from: Some(from), term: Some(term), ..Default::default() }
}

fn snapshot(index: u64, term: u64, voters: &[u64], learners: &[u64]) -> Message {
    let conf_state = ConfState { voters: voters.into(), learners: learners.into(), ..Default::default() };
    let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: Some(index), term: Some(term) };
    Message { snapshot: Some(Snapshot { data: None, metadata: Some(metadata) }), ..message(MsgSnap, 2) }
}

fn proposal(kind: EntryType, data: &'static [u8]) -> Message {
    let entry = Entry { r#type: Some(kind as i32), data: Some(data.into()), ..Default::default() };
    Message { entries: vec![entry], ..message(MsgProp, 2) }
}

fn read(kind: MessageType, context: &[u8]) -> Message {
    let entry = Entry { data: Some(context.to_vec().into()), ..Default::default() };
    Message { entries: vec![entry], ..message(kind, 2) }
}

#[test]
fn what_no_correct_peer_sends_is_dropped() {
    let term = |term, message| Message { term: Some(term), ..message };
    let at = |index, log_term, message| Message { index: Some(index), log_term: Some(log_term), ..message };
    let table = [
        ("a proposal of nothing", message(MsgProp, 2)),
        ("a proposal for the leader of an earlier term", term(2, proposal(EntryType::EntryNormal, b"x"))),
        ("a proposal for the leader of a later term", term(4, proposal(EntryType::EntryNormal, b"x"))),
        ("a conf change that cannot be read", proposal(EntryType::EntryConfChange, b"\xff\xff")),
        ("a joint conf change", proposal(EntryType::EntryConfChangeV2, b"")),
        ("a read with a term", term(2, read(MsgReadIndex, b"12345678"))),
        ("a read in nobody's name", Message { from: Some(0), ..read(MsgReadIndex, b"12345678") }),
        ("a read without a context", message(MsgReadIndex, 2)),
        ("an answer to nobody's read", read(MsgReadIndexResp, b"12345678")),
        ("an answer without a context", message(MsgReadIndexResp, 2)),
        ("a transfer through a follower", message(MsgTransferLeader, 3)),
        ("an append past the log", at(9, 0, message(MsgApp, 2))),
        ("entries past the log", Message { entries: vec![entry(2, 10)], ..at(9, 0, message(MsgApp, 2)) }),
        ("entries with a gap", Message { entries: vec![entry(2, 5)], ..at(3, 1, message(MsgApp, 2)) }),
        ("an entry without a term", Message { entries: vec![entry(0, 4)], ..at(3, 1, message(MsgApp, 2)) }),
        ("an append without a term", term(0, at(3, 1, message(MsgApp, 2)))),
        ("an append at the end of all terms", term(u64::MAX, at(3, 1, message(MsgApp, 2)))),
        ("a vote at the end of all terms", term(u64::MAX, at(9, 9, message(MsgVote, 2)))),
        ("an acknowledgement past the log", term(3, at(u64::MAX, 0, message(MsgAppResp, 2)))),
        (
            "a hint past the log",
            Message { reject: Some(true), reject_hint: Some(u64::MAX), ..term(3, at(4, 0, message(MsgAppResp, 3))) },
        ),
        ("a snapshot of nothing", message(MsgSnap, 2)),
        ("a snapshot of the end of all", snapshot(u64::MAX, 2, &[1, 2, 3], &[])),
        ("a snapshot of a later term", snapshot(9, 3, &[1, 2, 3], &[])),
        ("a snapshot of no term", snapshot(9, 0, &[1, 2, 3], &[])),
        ("a snapshot without voters", snapshot(9, 2, &[], &[1, 2, 3])),
        ("a snapshot with a voter twice", snapshot(9, 2, &[1, 2, 2], &[])),
        ("a snapshot with a voter that learns", snapshot(9, 2, &[1, 2, 3], &[3])),
        ("a snapshot with member 0", snapshot(9, 2, &[0, 1, 2], &[])),
    ];
    for (what, message) in table {
        for mut member in [Member::follower(), Member::candidate(), Member::leader()] {
            let before = member.consensus.status();
            if (before.term + 1..u64::MAX).contains(&message.term()) {
                continue; // It is the term that counts then.
            }
            member.receive(message.clone());
            assert_eq!(member.consensus.status(), before, "{what}");
            assert!(member.sent.is_empty() || before.role != Role::Follower, "{what}: {:?}", member.sent);
            assert_eq!(member.stopped, None, "{what}");
        }
    }
}

/// Fields from where the edges are, in every role. Whatever comes, nothing panics.
#[test]
fn no_message_panics() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for round in 0..30_000 {
        let mut member = match round % 3 {
            0 => Member::follower(),
            1 => Member::candidate(),
            _ => Member::leader(),
        };
        let mut history = Vec::new();
        for _ in 0..6 {
            let mut pick = |values: &[u64]| values[rng.next_u32() as usize % values.len()];
            let edges = [0, 1, 2, 3, 3, 4, 4, 5, 6, 9, u64::MAX / 2, u64::MAX - 1, u64::MAX];
            let entries = (0..pick(&[0, 0, 1, 1, 2])).map(|_| Entry {
                r#type: Some(pick(&[0, 0, 0, 1, 2]) as i32),
                term: Some(pick(&edges)),
                index: Some(pick(&edges)),
                data: Some(vec![8; pick(&[0, 1, 8, 24]) as usize].into()),
            });
            let entries = entries.collect();
            let message = Message {
                r#type: Some(pick(&(0..=22).collect::<Vec<u64>>()) as i32),
                to: Some(1),
                from: Some(pick(&[0, 1, 2, 2, 3, 3, 9])),
                term: Some(pick(&[0, 1, 2, 2, 3, 3, 3, 4, u64::MAX / 2, u64::MAX])),
                log_term: Some(pick(&edges)),
                index: Some(pick(&edges)),
                commit: Some(pick(&[0, 1, 3, 3, 3, 4, 5, u64::MAX])),
                reject: Some(pick(&[0, 1]) == 1),
                reject_hint: Some(pick(&edges)),
                context: Some(vec![9; pick(&[0, 8, 24]) as usize].into()),
                entries,
                ..Default::default()
            };
            history.push(message.clone());
            let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                member.receive(message);
                member.input(Input::Tick);
                member.input(Input::Propose(Proposal { data: "x".into(), expires: LATER, term: None }));
            }));
            assert!(taken.is_ok(), "round {round}: after {history:#?}");
        }
    }
}

/// Stamps count from 1 in every life: an answer that was under way when the member restarted looks like one to a read
/// of now, and its index may be old.
#[test]
fn an_answer_to_a_former_life_answers_no_read() {
    let mut member = Member::follower();
    member.input(Input::Read(ReadRequest { id: 17, expires: LATER }));
    let asked = member.sent.pop().expect("the leader is asked");
    let stamp = Stamp::decode(asked.entries[0].data()).expect("a stamp");
    assert_eq!((asked.r#type(), stamp.member, stamp.epoch), (MsgReadIndex, 1, EPOCH));

    let answer = |stamp: Stamp| Message { index: Some(FOUNDED), ..read(MsgReadIndexResp, &stamp.encode()) };
    for other in [Stamp { epoch: EPOCH - 1, ..stamp }, Stamp { member: 3, ..stamp }] {
        member.receive(answer(other));
        assert_eq!(member.reads_ready, [], "{other:?}");
    }
    member.receive(answer(stamp));
    assert_eq!(member.reads_ready, [(17, FOUNDED)]);
}

/// A committed entry reaches every member, again at each restart: what raft cannot carry out must be refused.
#[test]
fn no_conf_change_leaves_raft_without_a_voter() {
    use ConfChangeType::*;
    /// What it is about, the changes, and the voters that are left.
    type Case = (&'static str, &'static [(ConfChangeType, u64)], &'static [u64]);
    let table: [Case; 5] = [
        ("the last voter stays", &[(ConfChangeAddNode, 1), (ConfChangeRemoveNode, 1)], &[1]),
        ("nobody has the id 0", &[(ConfChangeAddNode, 1), (ConfChangeAddNode, 0)], &[1]),
        ("a cluster does not begin with a learner", &[(ConfChangeAddLearnerNode, 1)], &[]),
        (
            "a learner is no voter",
            &[(ConfChangeAddNode, 1), (ConfChangeAddLearnerNode, 2), (ConfChangeRemoveNode, 1)],
            &[1],
        ),
        ("one of two may go", &[(ConfChangeAddNode, 1), (ConfChangeAddNode, 2), (ConfChangeRemoveNode, 1)], &[2]),
    ];
    for (what, changes, voters) in table {
        let (store, _backend) = Store::open(Arc::new(MemDisk::new()), "db", Default::default()).expect("a new store");
        let mut applier = Applier::new(store).expect("an empty store");
        let mut raft = Consensus::new(Member::config(), Recovered::default()).expect("a member of nothing");
        for ((kind, id), index) in changes.iter().zip(1..) {
            let member = membership::Member { id: *id, ..Default::default() };
            let change = ConfChange {
                r#type: Some(*kind as i32),
                node_id: Some(*id),
                context: Some(member.to_json().into()),
                ..Default::default()
            };
            let data = Some(change.encode_to_vec().into());
            let entry = Entry { r#type: Some(EntryType::EntryConfChange as i32), data, ..entry(1, index) };
            for effect in applier.step([apply::Input::Entries(vec![entry])]) {
                if let apply::Effect::ConfChange(change) = effect {
                    raft.step(Instant(0), [Input::ConfChange(change)]);
                }
            }
        }
        assert_eq!(raft.voters(), voters, "{what}");
        assert_eq!(applier.membership().conf_state().voters, voters, "{what}");
    }
}

/// Answers find their way by the ids of requests, on every member.
#[test]
fn no_two_lives_share_request_ids() {
    // Such as no cluster should be afraid of: alike in their low bits, or restarted 256 times.
    let lives =
        [(0x1_beef, 1), (0x2_beef, 1), (0x3_0000_0000_beef, 1), (0x1_beef, 2), (0x1_beef, 257), (0x2_beef, 257)];
    // A desk takes six bits of an id for itself.
    let firsts: Vec<u64> = lives.iter().map(|(member, epoch)| ids::first_request(*member, *epoch) << 6).collect();
    for (i, a) in firsts.iter().enumerate() {
        for b in &firsts[..i] {
            assert!(a.wrapping_sub(*b).min(b.wrapping_sub(*a)) > 1 << 50, "{a:x} {b:x}");
        }
    }
}
