//! Leases: the table and the keeper in virtual time, and real servers beside a real etcd.

use std::time::{Duration, Instant as StdInstant};

use lockstep::member::error::EtcdError;
use lockstep::member::lease::{Change, Effect, Keeper, MAX_TTL_S, Renewal, Settings, Table, TimeToLive, min_ttl_s};
use lockstep::member::raft::Role;
use lockstep::ports::clock::Instant;
use lockstep::proto::etcdserverpb::*;
use lockstep::proto::mvccpb::KeyValue;

use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

// The table.

#[test]
fn the_shortest_ttl_is_one_and_a_half_elections() {
    for (election_ticks, heartbeat_ms, ttl_s) in [(10, 100, 2), (10, 20, 1), (50, 100, 8), (9, 100, 2), (1, 1, 1)] {
        assert_eq!(min_ttl_s(election_ticks, heartbeat_ms), ttl_s, "{election_ticks} ticks of {heartbeat_ms} ms");
    }
}

#[test]
fn the_table_refuses_as_etcd_does() {
    let mut table = Table::default();
    for (id, ttl_s, outcome) in [
        (0, 10, Err(EtcdError::LeaseNotFound)),
        (0, MAX_TTL_S + 1, Err(EtcdError::LeaseNotFound)),
        (7, MAX_TTL_S + 1, Err(EtcdError::LeaseTtlTooLarge)),
        (7, MAX_TTL_S, Ok(MAX_TTL_S)),
        (7, 5, Err(EtcdError::LeaseExists)),
        (7, MAX_TTL_S + 1, Err(EtcdError::LeaseTtlTooLarge)),
        (-7, -5, Ok(1)),
    ] {
        assert_eq!(table.grant(id, ttl_s), outcome, "grant {id} for {ttl_s} s");
    }
    assert!(!table.revoke(8) && !table.checkpoint(8, 1), "nobody granted 8");
    assert!(table.revoke(7) && !table.exists(7));
}

/// etcd's bytes: `leasepb.Lease` by the big-endian id.
#[test]
fn a_lease_is_stored_in_etcds_bytes_and_found_again() {
    let mut table = Table::default();
    table.grant(0x0102, 300).expect("it is new");
    assert_eq!(table.record(0x0102), Some(([0, 0, 0, 0, 0, 0, 1, 2], vec![8, 0x82, 2, 16, 0xac, 2])));
    assert!(table.checkpoint(0x0102, 100));
    let (_, record) = table.record(0x0102).expect("it is there");
    assert_eq!(record, vec![8, 0x82, 2, 16, 0xac, 2, 24, 100]);

    let attachments = vec![("a".into(), 0x0102), ("b".into(), 99)];
    let mut found = Table::load([record.as_slice()], attachments).expect("sound");
    assert_eq!(found.take_changes(), [Change::Granted { id: 0x0102, ttl_s: 300, remaining_s: 100 }]);
    assert_eq!(found.keys(0x0102), Some(vec!["a".into()]));
    assert_eq!(found.lease_of(b"b"), None, "its lease is not there");
    for damaged in [&[0xff_u8][..], &[16, 5], &[8, 5]] {
        assert!(Table::load([damaged], Vec::new()).is_err(), "{damaged:?} is no lease");
    }
}

#[test]
fn keys_follow_the_puts_and_deletions_of_entries() {
    let put = |key: &'static str, lease| KeyValue { key: key.into(), version: 1, lease, ..Default::default() };
    let gone = |key: &'static str| KeyValue { key: key.into(), ..Default::default() };
    let mut table = Table::default();
    table.grant(1, 10).expect("it is new");
    table.grant(2, 10).expect("it is new");
    let steps: [(&[KeyValue], &str, &str); 8] = [
        (&[put("b", 1), put("a", 1), put("x", 0)], "a b", ""),
        (&[put("a", 1)], "a b", ""),
        (&[put("a", 2)], "b", "a"),
        (&[put("a", 0), put("c", 2)], "b", "c"),
        (&[gone("b"), gone("never")], "", "c"),
        (&[put("b", 1), gone("b"), put("b", 2)], "", "b c"),
        (&[gone("c"), put("c", 1)], "c", "b"),
        (&[put("c", 77)], "", "b"),
    ];
    for (changes, first, second) in steps {
        table.follow(changes);
        let keys =
            |id| table.keys(id).expect("granted").iter().map(|k| k.escape_ascii().to_string()).collect::<Vec<_>>();
        assert_eq!((keys(1).join(" "), keys(2).join(" ")), (first.to_owned(), second.to_owned()), "{changes:?}");
    }
    table.revoke(2);
    assert_eq!(table.lease_of(b"b"), None);
}

// The keeper.

const NOBODY: [i64; 0] = [];
const NOTHING: [(i64, i64); 0] = [];

/// A keeper with its time, and what it has proposed.
struct Driven {
    keeper: Keeper,
    now: Instant,
    term: u64,
}

impl Driven {
    fn new(settings: Settings) -> Driven {
        Driven { keeper: Keeper::new(settings), now: Instant(1_000), term: 0 }
    }

    fn leading() -> Driven {
        let mut driven = Driven::new(Settings::new(1_000));
        driven.lead();
        driven
    }

    fn lead(&mut self) {
        self.term += 1;
        self.keeper.role(self.now, self.term, Role::Leader);
    }

    fn grant(&mut self, id: i64, ttl_s: i64) {
        self.keeper.changed(self.now, &[Change::Granted { id, ttl_s, remaining_s: 0 }]);
    }

    fn renew(&mut self, id: i64) -> Renewal {
        self.keeper.renew(self.now, id, self.term)
    }

    fn left(&mut self, id: i64) -> TimeToLive {
        self.keeper.time_to_live(self.now, id, self.term)
    }

    /// Works until `until`, confirming every round at once when `confirm`; applies checkpoints, and revocations too, as
    /// one member would. What was revoked, and the checkpoints.
    fn run(&mut self, until: Instant, confirm: bool) -> (Vec<i64>, Vec<(i64, i64)>) {
        let (mut revoked, mut checkpoints) = (Vec::new(), Vec::new());
        while self.now <= until {
            let mut effects = self.keeper.work(self.now);
            while let Some(effect) = effects.pop() {
                match effect {
                    Effect::Confirm { term } if confirm => effects.extend(self.keeper.confirmed(self.now, term)),
                    Effect::Confirm { .. } => {}
                    Effect::Propose { term, requests } => {
                        assert_eq!(term, self.term, "proposals are bound to the term that is led");
                        for request in requests {
                            if let Some(LeaseRevokeRequest { id }) = request.lease_revoke {
                                revoked.push(id);
                                self.keeper.changed(self.now, &[Change::Revoked { id }]);
                            }
                            for c in request.lease_checkpoint.unwrap_or_default().checkpoints {
                                checkpoints.push((c.id, c.remaining_ttl));
                                let change = Change::Checkpointed { id: c.id, remaining_s: c.remaining_ttl };
                                self.keeper.changed(self.now, &[change]);
                            }
                        }
                    }
                }
            }
            self.now = match self.keeper.wake_at(self.now) {
                Some(at) if at > self.now => at.min(Instant(until.0 + 1)),
                Some(_) => self.now,
                None => Instant(until.0 + 1),
            };
        }
        self.now = until;
        (revoked, checkpoints)
    }

    fn after(&self, ms: u64) -> Instant {
        Instant(self.now.0 + ms)
    }
}

#[test]
fn a_lease_is_revoked_when_its_time_is_over_and_not_before() {
    let mut d = Driven::leading();
    d.grant(1, 10);
    d.grant(2, 20);
    assert_eq!(d.left(1), TimeToLive::Left { ttl_s: 9, granted_ttl_s: 10 });
    assert_eq!(d.run(d.after(9_999), true).0, NOBODY);
    assert_eq!(d.run(d.after(1), true).0, [1]);
    assert_eq!((d.renew(1), d.left(1)), (Renewal::NotFound, TimeToLive::NotFound));
    assert_eq!(d.renew(2), Renewal::Renewed { ttl_s: 20 });
    assert_eq!(d.run(d.after(19_999), true).0, NOBODY);
    assert_eq!(d.run(d.after(1), true).0, [2]);
}

#[test]
fn what_expired_is_not_renewed_and_not_revoked_without_a_round() {
    let mut d = Driven::leading();
    d.grant(1, 10);
    assert_eq!(d.run(d.after(60_000), false).0, NOBODY, "nobody has confirmed that this member leads");
    assert_eq!(d.renew(1), Renewal::Later);
    assert_eq!(d.left(1), TimeToLive::Left { ttl_s: -50, granted_ttl_s: 10 });
    // A round is asked for again and again.
    assert!(d.keeper.wake_at(d.now).is_some_and(|at| at <= d.after(1_000)));
    assert_eq!(d.run(d.after(1_000), true).0, [1]);
}

#[test]
fn whoever_was_deposed_promises_and_revokes_nothing() {
    let mut d = Driven::leading();
    d.grant(1, 10);
    let confirm = d.keeper.work(d.after(11_000));
    assert_eq!(confirm, [Effect::Confirm { term: 1 }]);
    d.keeper.role(d.after(11_000), 2, Role::Follower);
    assert_eq!(d.keeper.confirmed(d.after(11_000), 1), []);
    assert_eq!(d.renew(1), Renewal::NotLeader);
    assert_eq!(d.left(1), TimeToLive::NotLeader);
    assert_eq!(d.run(d.after(100_000), true).0, NOBODY);
    // News of the past makes it no leader again, and neither does a proof of the past.
    d.keeper.role(d.now, 1, Role::Leader);
    assert_eq!((d.renew(1), d.keeper.leads()), (Renewal::NotLeader, None));
    // A proof of a later term does, even before anybody said so.
    d.term = 3;
    assert_eq!(d.renew(1), Renewal::Renewed { ttl_s: 10 });
    d.keeper.role(d.now, 3, Role::Candidate);
    assert_eq!(d.keeper.leads(), Some(3), "it was a candidate before it led");
    d.keeper.role(d.now, 3, Role::Follower);
    assert_eq!((d.renew(1), d.keeper.leads()), (Renewal::NotLeader, None));
}

#[test]
fn a_new_leader_gives_what_is_left_and_an_election() {
    let mut d = Driven::new(Settings::new(1_000));
    d.grant(1, 10);
    d.keeper.changed(d.now, &[Change::Granted { id: 2, ttl_s: 100, remaining_s: 20 }]);
    d.now = d.after(500_000);
    d.lead();
    assert_eq!(d.left(2), TimeToLive::Left { ttl_s: 20, granted_ttl_s: 100 });
    assert_eq!(d.run(d.after(10_999), true).0, NOBODY);
    assert_eq!(d.run(d.after(1), true).0, [1]);
    assert_eq!(d.run(d.after(9_999), true).0, NOBODY);
    assert_eq!(d.run(d.after(1), true).0, [2]);
}

#[test]
fn long_leases_are_checkpointed_and_a_renewal_sets_that_back_first() {
    let mut d = Driven::leading();
    d.grant(1, 1_000);
    d.grant(2, 300);
    assert_eq!(d.run(d.after(299_999), true).1, NOTHING);
    assert_eq!(d.run(d.after(1), true), (vec![2], vec![(1, 700)]));
    assert_eq!(d.renew(1), Renewal::Later, "the next leader would give 700 s");
    assert_eq!(d.run(d.after(10), true).1, [(1, 0)]);
    assert_eq!(d.renew(1), Renewal::Renewed { ttl_s: 1_000 });
    // Counted from the renewal, and then every five minutes.
    assert_eq!(d.run(d.after(299_999), true).1, NOTHING);
    assert_eq!(d.run(d.after(600_001), true).1, [(1, 700), (1, 400), (1, 100)]);
    assert_eq!(d.run(d.after(99_999), true).0, NOBODY);
    assert_eq!(d.run(d.after(1), true).0, [1]);
}

/// While a checkpoint is on its way a renewal waits: promised and answered, it would be taken back by it.
#[test]
fn a_renewal_waits_for_a_checkpoint_on_its_way() {
    let mut d = Driven::leading();
    d.grant(1, 1_000);
    d.run(d.after(10), true);
    d.now = d.after(300_000);
    let proposed = d.keeper.work(d.now);
    assert!(matches!(&proposed[..], [Effect::Propose { .. }]), "{proposed:?}");
    assert_eq!(d.renew(1), Renewal::Later);
    d.keeper.changed(d.now, &[Change::Checkpointed { id: 1, remaining_s: 700 }]);
    assert_eq!(d.renew(1), Renewal::Later);
    assert_eq!(d.run(d.after(1), true).1, [(1, 0)]);
    assert_eq!(d.renew(1), Renewal::Renewed { ttl_s: 1_000 });
}

#[test]
fn work_and_revocations_in_flight_are_bounded() {
    const LEASES: i64 = 10_000;
    let mut d = Driven::new(Settings { revokes_in_flight: 100, work_leases: 64, ..Settings::new(1_000) });
    for id in 1..=LEASES {
        d.grant(id, 10);
    }
    d.lead();
    assert_eq!(d.keeper.confirmed(d.now, 1), []);
    d.now = d.after(60_000);
    let mut calls = 0;
    while d.keeper.work(d.now).is_empty() {
        calls += 1;
    }
    assert!(calls < 3, "the first that expired are revoked before all have been looked at");
    let proposed = d.keeper.confirmed(d.now, 1);
    let [Effect::Propose { requests, .. }] = &proposed[..] else { panic!("{proposed:?}") };
    assert!((1..=100).contains(&requests.len()));
    for _ in 0..1_000 {
        for effect in d.keeper.work(d.now) {
            let Effect::Confirm { term } = effect else { panic!("{effect:?}") };
            for effect in d.keeper.confirmed(d.now, term) {
                let Effect::Propose { requests, .. } = effect else { panic!("{effect:?}") };
                assert!(requests.len() <= 100);
            }
        }
    }
    assert!(d.keeper.counts().expired <= 100, "nothing of it was applied: {:?}", d.keeper.counts());
    // Whoever comes meanwhile is told, without waiting for all that.
    assert_eq!(d.renew(LEASES), Renewal::Later);
    d.grant(LEASES + 1, 30);
    assert_eq!(d.renew(LEASES + 1), Renewal::Renewed { ttl_s: 30 });
}

/// An id that was revoked and granted again is another lease: what was planned for the first does not touch it.
#[test]
fn a_lease_granted_anew_is_another_one() {
    let mut d = Driven::leading();
    d.grant(1, 10);
    d.run(d.after(5), true);
    d.now = d.after(20_000);
    assert_eq!(d.keeper.work(d.now), [Effect::Confirm { term: 1 }]);
    d.keeper.changed(d.now, &[Change::Revoked { id: 1 }]);
    d.grant(1, 10);
    assert_eq!(d.keeper.confirmed(d.now, 1), []);
    assert_eq!(d.renew(1), Renewal::Renewed { ttl_s: 10 });
    assert_eq!(d.run(d.after(9_999), true).0, NOBODY);
    assert_eq!(d.run(d.after(1), true).0, [1]);
}

/// A new leader may hear that it leads before it has applied what the one before was committed to: a renewal, whose
/// checkpoint is set back in the log, counts all the same (found by the fuzz target `lease_stream`).
#[test]
fn what_a_former_leader_promised_is_kept_however_late_it_is_applied() {
    let granted = Change::Granted { id: 1, ttl_s: 1_000, remaining_s: 0 };
    let checkpoint = |remaining_s| Change::Checkpointed { id: 1, remaining_s };
    let histories: [(&[Change], &[Change], u64); 5] = [
        (&[granted, checkpoint(10)], &[checkpoint(0)], 1_001),
        (&[granted, checkpoint(10)], &[checkpoint(0), checkpoint(700)], 701),
        (&[granted, checkpoint(10)], &[Change::Revoked { id: 1 }, granted], 1_000),
        (&[granted], &[checkpoint(700)], 701),
        (&[], &[granted, checkpoint(700), checkpoint(0)], 1_000),
    ];
    for (before, after, seconds) in histories {
        // Long enough for what it knows to have expired.
        for pause_ms in [0, 500, 12_000] {
            let mut d = Driven::new(Settings { checkpoint_ms: 10_000_000, ..Settings::new(1_000) });
            d.keeper.changed(d.now, before);
            d.lead();
            let promoted = d.now;
            assert_eq!(d.run(d.after(pause_ms), false).0, NOBODY);
            let counted_from = if after.contains(&granted) { d.now } else { promoted };
            d.keeper.changed(d.now, after);
            let due = Instant(counted_from.0 + seconds * 1_000);
            assert_eq!(d.run(Instant(due.0 - 1), true).0, NOBODY, "{before:?} {after:?} {pause_ms}");
            assert_eq!(d.run(due, true).0, [1], "{before:?} {after:?} {pause_ms}");
        }
    }
}

#[test]
fn the_list_comes_in_pieces_and_knows_expiries_where_the_member_leads() {
    let mut d = Driven::new(Settings::new(1_000));
    for (id, ttl_s) in [(3, 30), (1, 20), (2, 10), (-5, 40)] {
        d.grant(id, ttl_s);
    }
    assert_eq!(d.keeper.list(None, 3), [(0, -5), (0, 1), (0, 2)]);
    assert_eq!(d.keeper.list(Some(2), 3), [(0, 3)]);
    d.lead();
    assert_eq!(d.keeper.list(Some(-5), 2), [(22_000, 1), (12_000, 2)]);
}

// Real servers.

fn grant(client: &Client, id: i64, ttl: i64) -> LeaseGrantResponse {
    client.lease_grant(LeaseGrantRequest { id, ttl }).unwrap_or_else(|e| panic!("granting {id}: {e}"))
}

fn put(client: &Client, key: &str, lease: i64) {
    let request = PutRequest { key: key.to_owned().into(), value: "v".into(), lease, ..Default::default() };
    client.put(request).unwrap_or_else(|e| panic!("putting {key}: {e}"));
}

fn exists(client: &Client, key: &str) -> bool {
    let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    client.range(request).expect("a range").count == 1
}

fn ttl(client: &Client, id: i64) -> (i64, i64, Vec<String>) {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let response = client.lease_time_to_live(request).expect("a time to live");
    let mut keys: Vec<_> = response.keys.iter().map(|k| String::from_utf8_lossy(k).into_owned()).collect();
    keys.sort();
    (response.ttl, response.granted_ttl, keys)
}

fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let started = StdInstant::now();
    while !done() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}

fn leader(cluster: &Cluster, among: &[usize]) -> usize {
    let mut found = None;
    wait_until("a leader", Duration::from_secs(30), || {
        found = among.iter().copied().find(|i| {
            let status = cluster.client(*i).status(StatusRequest::default());
            status.is_ok_and(|s| s.leader != 0 && s.leader == s.header.expect("a header").member_id)
        });
        found.is_some()
    });
    found.expect("just found")
}

/// The same on etcd, so that what is compared is what etcd does.
fn on_both(check: impl Fn(Kind, &Cluster)) {
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V35)] {
        if let Some(cluster) = Cluster::start(kind, 1) {
            check(kind, &cluster);
        }
    }
}

#[test]
fn a_lone_server_answers_as_etcd() {
    on_both(|kind, cluster| {
        let client = cluster.client(0);
        let code = |error: tonic::Status| (error.code() as i32, error.message().to_owned());
        // What may be asked for.
        let granted = grant(&client, 0, 0);
        assert!(granted.id > 0 && granted.ttl == 1 && granted.error.is_empty(), "{kind:?}: {granted:?}");
        for (id, ttl, error) in
            [(granted.id, 5, EtcdError::LeaseExists), (5, MAX_TTL_S + 1, EtcdError::LeaseTtlTooLarge)]
        {
            let refused = client.lease_grant(LeaseGrantRequest { id, ttl }).expect_err("it must be refused");
            assert_eq!(code(refused), (error.code().number(), error.message().to_owned()), "{kind:?}");
        }
        let refused = client.lease_revoke(LeaseRevokeRequest { id: 404 }).expect_err("there is no such lease");
        assert_eq!(code(refused).1, EtcdError::LeaseNotFound.message(), "{kind:?}");
        assert_eq!(ttl(&client, 404), (-1, 0, vec![]), "{kind:?}");

        // Keys and their leases.
        for (id, ttl) in [(10, 1_000), (11, 500), (12, 100)] {
            grant(&client, id, ttl);
        }
        for (key, lease) in [("b", 10), ("a", 10), ("c", 10), ("c", 11), ("d", 11), ("e", 11)] {
            put(&client, key, lease);
        }
        client.delete_range(DeleteRangeRequest { key: "e".into(), ..Default::default() }).expect("a deletion");
        assert_eq!(ttl(&client, 10), (999, 1_000, vec!["a".into(), "b".into()]), "{kind:?}");
        assert_eq!(ttl(&client, 11).2, ["c", "d"], "{kind:?}");
        let listed = client.lease_leases(LeaseLeasesRequest {}).expect("a list");
        let listed: Vec<i64> = listed.leases.iter().map(|l| l.id).filter(|id| *id != granted.id).collect();
        assert_eq!(listed, [12, 11, 10], "{kind:?}: by when they expire");

        // Keep-alives: in order, 0 for what is not there, the header of this member.
        let answers = client.keep_alive(&[10, 404, 12, 10]).expect("keep-alives");
        let ttls: Vec<_> = answers.iter().map(|a| (a.id, a.ttl)).collect();
        assert_eq!(ttls, [(10, 1_000), (404, 0), (12, 100), (10, 1_000)], "{kind:?}");
        let header = answers[0].header.expect("a header");
        assert!(header.revision > 1 && header.member_id != 0 && header.raft_term != 0, "{kind:?}: {header:?}");

        // One revision for all keys of a lease; none when it has none.
        let revoked = client.lease_revoke(LeaseRevokeRequest { id: 11 }).expect("a revocation");
        assert_eq!(revoked.header.expect("a header").revision, header.revision + 1, "{kind:?}");
        assert!(!exists(&client, "c") && !exists(&client, "d") && exists(&client, "a"), "{kind:?}");
        let revoked = client.lease_revoke(LeaseRevokeRequest { id: 12 }).expect("a revocation");
        assert_eq!(revoked.header.expect("a header").revision, header.revision + 1, "{kind:?}");

        // The shortest lease goes by itself, and what was put with it.
        let short = grant(&client, 20, 1);
        put(&client, "short", 20);
        put(&client, "kept", 20);
        put(&client, "kept", 0);
        let took = wait_until("expiry", Duration::from_secs(10), || !exists(&client, "short"));
        assert!(took >= Duration::from_secs(short.ttl as u64 - 1), "{kind:?}: gone after {took:?}");
        assert!(exists(&client, "kept"), "{kind:?}: it had no lease any more");
        assert_eq!(client.keep_alive(&[20]).expect("a keep-alive")[0].ttl, 0, "{kind:?}");
    });
}

#[test]
fn a_lease_that_is_kept_alive_stays() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("our own program");
    let client = cluster.client(0);
    let granted = grant(&client, 1, 1);
    put(&client, "k", 1);
    let started = StdInstant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(client.keep_alive(&[1]).expect("a keep-alive")[0].ttl, granted.ttl);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(exists(&client, "k"));
    wait_until("expiry", Duration::from_secs(10), || !exists(&client, "k"));
}

#[test]
fn leases_and_their_keys_survive_a_kill() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("our own program");
    let client = cluster.client(0);
    grant(&client, 1, 500);
    grant(&client, 2, 3);
    for (key, lease) in [("a", 1), ("b", 2), ("c", 2), ("c", 1)] {
        put(&client, key, lease);
    }
    cluster.members[0].restart();
    let client = cluster.client(0);
    let (left, granted, keys) = ttl(&client, 1);
    assert_eq!((granted, keys), (500, vec!["a".to_owned(), "c".to_owned()]));
    assert!((495..=500).contains(&left), "{left} s left");
    wait_until("expiry after the restart", Duration::from_secs(15), || !exists(&client, "b"));
    assert!(exists(&client, "c"));
}

#[test]
fn followers_ask_the_leader_and_a_new_leader_goes_on() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 3).expect("our own program");
    let first = leader(&cluster, &[0, 1, 2]);
    let others: Vec<usize> = (0..3).filter(|i| *i != first).collect();
    let follower = cluster.client(others[0]);
    grant(&follower, 1, 60);
    grant(&follower, 2, 5);
    put(&follower, "long", 1);
    put(&follower, "short", 2);
    assert_eq!(ttl(&follower, 1).2, ["long"]);
    assert_eq!(ttl(&follower, 404).0, -1);
    let answers = follower.keep_alive(&[1, 404, 2]).expect("keep-alives");
    assert_eq!(answers.iter().map(|a| (a.id, a.ttl)).collect::<Vec<_>>(), [(1, 60), (404, 0), (2, 5)]);
    let own = follower.status(StatusRequest::default()).expect("a status").header.expect("a header").member_id;
    assert_eq!(answers[0].header.expect("a header").member_id, own, "the header is the follower's");
    let listed = follower.lease_leases(LeaseLeasesRequest {}).expect("a list").leases;
    assert_eq!(listed.iter().map(|l| l.id).collect::<Vec<_>>(), [1, 2]);

    cluster.members[first].kill();
    let second = leader(&cluster, &others);
    let client = cluster.client(second);
    let (left, granted, keys) = ttl(&client, 1);
    assert!((55..=61).contains(&left) && granted == 60 && keys == ["long"], "{left} of {granted}, {keys:?}");
    wait_until("expiry under the new leader", Duration::from_secs(20), || !exists(&client, "short"));
    assert_eq!(client.keep_alive(&[1]).expect("a keep-alive")[0].ttl, 60);
    assert!(exists(&client, "long"));
}

/// Whoever asks through a follower while the leader hangs is answered as soon as there is another one.
#[test]
fn questions_to_a_leader_that_hangs_are_asked_again_at_the_next_one() {
    let cluster = Cluster::start(Kind::Lockstepd, 3).expect("our own program");
    let first = leader(&cluster, &[0, 1, 2]);
    let others: Vec<usize> = (0..3).filter(|i| *i != first).collect();
    grant(&cluster.client(others[0]), 1, 60);
    type Ask = fn(&Client) -> i64;
    let questions: [(&str, Ask); 2] = [
        ("a keep-alive", |client| client.keep_alive(&[1]).expect("a keep-alive")[0].ttl),
        ("a time to live", |client| ttl(client, 1).1),
    ];
    let clients: Vec<_> = others.iter().flat_map(|at| questions.map(|q| (*at, q, cluster.client(*at)))).collect();
    for (_, (_, ask), client) in &clients {
        assert_eq!(ask(client), 60);
    }
    cluster.members[first].signal(libc::SIGSTOP);
    std::thread::scope(|scope| {
        for (at, (what, ask), client) in clients {
            let members = &cluster.members;
            scope.spawn(move || {
                let started = StdInstant::now();
                assert_eq!(ask(&client), 60, "{what}");
                // The election takes 1 to 2 s of it, and the time-out of a request is 7.
                let (took, name) = (started.elapsed(), &members[at].name);
                assert!(took < Duration::from_secs(6), "{what} through {name} took {took:?}");
            });
        }
    });
}

/// The old leader wakes up when others have gone on: what it believes about expiry must change nothing.
#[test]
fn a_paused_leader_revokes_nothing_that_others_keep() {
    let cluster = Cluster::start(Kind::Lockstepd, 3).expect("our own program");
    let first = leader(&cluster, &[0, 1, 2]);
    let others: Vec<usize> = (0..3).filter(|i| *i != first).collect();
    let client = cluster.client(others[0]);
    grant(&client, 1, 3);
    put(&client, "k", 1);
    cluster.members[first].signal(libc::SIGSTOP);
    leader(&cluster, &others);
    let started = StdInstant::now();
    let mut is_paused = true;
    while started.elapsed() < Duration::from_secs(8) {
        assert_eq!(client.keep_alive(&[1]).expect("a keep-alive")[0].ttl, 3);
        if is_paused && started.elapsed() > Duration::from_secs(5) {
            cluster.members[first].signal(libc::SIGCONT);
            is_paused = false;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(exists(&client, "k"));
    let awake = cluster.client(first);
    assert_eq!(awake.keep_alive(&[1]).expect("a keep-alive through the old leader")[0].ttl, 3);
}
