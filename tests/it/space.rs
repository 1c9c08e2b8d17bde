//! Space: defragmentation of a store in use, crashes at every disk operation of it, alarms and quotas beside real
//! etcds, corruption found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep::member::boot::STORE_PATH;
use lockstep::mvcc::read::{RangeOptions, Read, Write};
use lockstep::mvcc::{Backend, Batch, Options, Store};
use lockstep::ports::disk::Disk;
use lockstep::proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep::proto::etcdserverpb::request_op::Request as Op;
use lockstep::proto::etcdserverpb::*;
use lockstep::server::disk::RealDisk;
use tonic::Status;

use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, http_get};
use crate::util::small_disk::SmallDisk;

const PATH: &str = "member/snap/db";

/// A store, and what it is to hold at each consistent index: revision, compaction, and the hash of everything.
struct Run {
    disk: Arc<SmallDisk>,
    store: Store,
    backend: Backend,
    index: u64,
    sealed: BTreeMap<u64, (i64, i64, u32)>,
}

impl Run {
    fn open(disk: Arc<SmallDisk>) -> Run {
        let options = Options { cache_bytes: 1 << 16, copy_step_bytes: 600 };
        let opened = Store::open(disk.clone() as Arc<dyn Disk>, PATH, options);
        let (store, backend) = opened.expect("the store opens");
        let index = store.consistent_index();
        Run { disk, store, backend, index, sealed: BTreeMap::new() }
    }

    /// Some puts, a deletion, a compaction, entries of a bucket; not sealed.
    fn work(&mut self, round: u64) {
        for n in 0..6 {
            self.index += 1;
            let key = Bytes::from(format!("key{}", (round * 5 + n) % 23));
            self.store.write().put(key, Bytes::from(vec![b'v'; (20 + 7 * n) as usize]), 0);
            self.store.set_consistent_index(self.index, 1);
        }
        self.index += 1;
        self.store.write().delete_range(format!("key{}", round % 23).as_bytes(), b"");
        self.store.bucket_put(lockstep::mvcc::Bucket::Lease, &(round % 9).to_be_bytes(), &round.to_be_bytes());
        self.store.bucket_delete(lockstep::mvcc::Bucket::Lease, &((round + 3) % 9).to_be_bytes());
        self.store.set_consistent_index(self.index, 1);
        self.store.publish(self.index);
        if round % 4 == 3 {
            let _ = self.store.compact(self.store.revision() - 9);
        }
        self.store.compact_step(7);
    }

    fn seal(&mut self) -> Arc<Batch> {
        let view = self.store.publish(self.index);
        let state = (view.rev(), view.compact_rev(), view.hash().expect("a hash"));
        self.sealed.insert(self.index, state);
        self.store.seal().expect("there is something to seal")
    }

    fn commit(&mut self) -> Result<(), String> {
        let batch = self.seal();
        let done = self.backend.commit(&batch).map_err(|e| e.to_string())?;
        self.store.committed(done);
        Ok(())
    }

    /// `Ok(true)` when it is done.
    fn step(&mut self) -> Result<bool, String> {
        match self.backend.defragment_step().map_err(|e| e.to_string())? {
            Some(reopened) => {
                assert!(reopened.after_bytes <= reopened.before_bytes, "{reopened:?}");
                self.store.reopened(reopened);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// A defragmentation with commits between its steps; how many steps it took.
    fn defragment(&mut self) -> Result<u64, String> {
        self.backend.defragment_begin().map_err(|e| e.to_string())?;
        for steps in 1.. {
            assert!(steps < 10_000, "the copying does not get ahead of the commits");
            if self.step()? {
                return Ok(steps);
            }
            if steps % 3 == 0 {
                self.work(100 + steps);
                self.commit()?;
            }
        }
        unreachable!()
    }

    fn check(&self, context: &str) {
        let (rev, compact_rev, hash) = self.sealed[&self.store.consistent_index()];
        let view = self.store.view();
        assert_eq!((view.rev(), view.compact_rev()), (rev, compact_rev), "{context}");
        assert_eq!(view.hash().expect("a hash"), hash, "{context}");
    }
}

fn begun() -> Run {
    let mut run = Run::open(Arc::default());
    for round in 0..30 {
        run.work(round);
        run.commit().expect("the disk is well");
    }
    run
}

#[test]
fn a_store_is_defragmented_while_it_is_used() {
    let mut run = begun();
    let old = run.store.view();
    let all = RangeOptions::default();
    let (seen, hash) = (old.range(&[0], &[0], all).unwrap(), old.hash_kv(0).unwrap());
    let steps = run.defragment().expect("the disk is well");
    assert!(steps > 5, "it was done in {steps} steps, which proves little");
    run.work(1_000);
    run.commit().expect("the new file takes commits");
    run.check("in use");
    assert_eq!(old.range(&[0], &[0], all).unwrap(), seen, "an old view goes on in the old file");
    assert_eq!(old.hash_kv(0).unwrap(), hash);
    drop(old);
    run.work(1_001);
    run.commit().expect("the old file is closed without trouble");
    let (disk, sealed) = (run.disk.clone(), std::mem::take(&mut run.sealed));
    drop(run);
    let again = Run { sealed, ..Run::open(disk) };
    again.check("opened again");
}

/// The disk fails at the k-th change of a defragmentation. Either the store goes on in the old file, or the process
/// ends; after a power cut at that moment it is found at what was durable.
#[test]
fn a_crash_at_every_change_of_a_defragmentation_leaves_one_good_store() {
    let mut outlived = 0;
    let base = begun();
    for k in 0.. {
        let disk = Arc::new(base.disk.crash(|| true));
        let mut run = Run { sealed: base.sealed.clone(), ..Run::open(disk) };
        run.backend.keep().expect("the disk is well");
        let mut allowed = vec![run.store.durable_index()];
        run.disk.fail_after(Some(k));
        let failed = run.defragment();
        let is_over = failed.is_ok();
        allowed[0] = run.store.durable_index();
        if let Err(reason) = &failed {
            // A commit that failed may have come through all the same.
            allowed.extend(run.sealed.keys().next_back());
            assert!(reason.contains("disk has failed") || reason.contains("failed before"), "{k}: {reason}");
        }
        // The power fails now; what was not synced is kept by the sector.
        let mut state = k | 1;
        let crashed = run.disk.crash(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 63 == 1
        });
        let sealed = run.sealed.clone();
        run.disk.fail_after(None);
        if failed.is_err() && !run.backend.has_failed() {
            outlived += 1;
            run.work(2_000);
            run.commit().unwrap_or_else(|e| panic!("{k}: the old file does not go on: {e}"));
            run.check(&format!("{k}: went on"));
            run.defragment().unwrap_or_else(|e| panic!("{k}: a second defragmentation: {e}"));
            run.check(&format!("{k}: a second defragmentation"));
        }
        run.backend.poison();
        drop(run);
        let mut again = Run { sealed, ..Run::open(Arc::new(crashed)) };
        let found = again.store.consistent_index();
        assert!(allowed.contains(&found), "{k}: the store came back at {found}, not at one of {allowed:?}");
        again.check(&format!("{k}: after the crash"));
        again.backend.keep().expect("the disk is well");
        assert!(!again.disk.exists(&format!("{PATH}.defrag")).unwrap(), "{k}: half a copy is left behind");
        again.work(3_000);
        again.commit().expect("the disk is well");
        again.check(&format!("{k}: in use again"));
        if is_over {
            assert!(k > 60, "a defragmentation of {k} changes proves little");
            break;
        }
    }
    assert!(outlived > 20, "only {outlived} failures were outlived");
}

/// What a request was answered, without what must differ.
fn say<T: std::fmt::Debug>(answer: Result<T, Status>, header: impl Fn(&T) -> Option<ResponseHeader>) -> String {
    match answer {
        Ok(response) => format!("revision {}", header(&response).map_or(0, |h| h.revision)),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn put(key: &str, value: &[u8]) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_vec().into(), ..Default::default() }
}

fn txn(op: Op) -> TxnRequest {
    TxnRequest { success: vec![RequestOp { request: Some(op) }], ..Default::default() }
}

fn set(client: &Client, action: AlarmAction, member_id: u64, kind: AlarmType) -> Vec<AlarmMember> {
    let request = AlarmRequest { action: action as i32, member_id, alarm: kind as i32 };
    client.alarm(request).expect("alarms can be asked for").alarms
}

/// One of everything that an alarm might refuse.
fn everything(client: &Client, round: i64) -> Vec<String> {
    let delete = |key: &str| DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    let range = |serializable| RangeRequest { key: "a".into(), serializable, ..Default::default() };
    vec![
        say(client.put(put("a", b"1")), |r| r.header),
        say(client.range(range(false)), |r| r.header),
        say(client.range(range(true)), |r| r.header),
        say(client.txn(txn(Op::RequestPut(put("b", b"2")))), |r| r.header),
        say(client.txn(txn(Op::RequestRange(range(false)))), |r| r.header),
        say(client.txn(txn(Op::RequestDeleteRange(delete("b")))), |r| r.header),
        say(client.lease_grant(LeaseGrantRequest { id: 77 + round, ttl: 9_000 }), |r| r.header),
        say(client.lease_revoke(LeaseRevokeRequest { id: 77 }), |r| r.header),
        say(client.delete_range(delete("a")), |r| r.header),
        say(client.compact(CompactionRequest { revision: 2 + round, physical: true }), |r| r.header),
    ]
}

/// What a server says and does through the life of two alarms.
fn alarms_of(kind: Kind) -> Option<Vec<String>> {
    // 3.4 keeps an alarm of no kind.
    let keeps_none = kind == Kind::Etcd(Etcd::V34);
    let mut cluster = Cluster::start(kind, 1)?;
    let mut client = cluster.client(0);
    let me = client.status(StatusRequest {}).expect("a status").header.expect("a header").member_id;
    let mut said = Vec::new();
    for n in 0..10 {
        client.put(put(&format!("key{n}"), b"value")).expect("a put");
    }
    let name = |alarms: &[AlarmMember]| -> Vec<String> {
        let name = |a: &AlarmMember| format!("{}{}", a.alarm().as_str_name(), if a.member_id == me { "" } else { "?" });
        alarms.iter().map(name).collect()
    };
    let mut round = 0;
    for (action, alarm) in [
        (AlarmAction::Get, AlarmType::None),
        (AlarmAction::Activate, AlarmType::None),
        (AlarmAction::Activate, AlarmType::Nospace),
        (AlarmAction::Activate, AlarmType::Nospace),
        (AlarmAction::Deactivate, AlarmType::Corrupt),
        (AlarmAction::Deactivate, AlarmType::None),
        (AlarmAction::Deactivate, AlarmType::Nospace),
        (AlarmAction::Deactivate, AlarmType::Nospace),
        (AlarmAction::Activate, AlarmType::Corrupt),
        (AlarmAction::Get, AlarmType::Nospace),
        (AlarmAction::Get, AlarmType::Corrupt),
        (AlarmAction::Deactivate, AlarmType::Corrupt),
        (AlarmAction::Activate, AlarmType::Nospace),
    ] {
        if keeps_none && (action, alarm) == (AlarmAction::Activate, AlarmType::None) {
            said.push("Activate None: []".to_owned());
        } else {
            said.push(format!("{action:?} {alarm:?}: {:?}", name(&set(&client, action, me, alarm))));
        }
        said.push(format!("listed: {:?}", name(&set(&client, AlarmAction::Get, 0, AlarmType::None))));
        let errors = client.status(StatusRequest {}).expect("a status").errors;
        said.push(format!("errors: {:?}", errors.iter().map(|e| e.replace(&me.to_string(), "me")).collect::<Vec<_>>()));
        said.extend(everything(&client, round));
        round += 1;
    }
    // They survive a restart.
    cluster.members[0].kill();
    cluster.members[0].spawn();
    client = cluster.client(0);
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.alarm(AlarmRequest::default()).is_err() {
        assert!(Instant::now() < deadline, "it does not come back: {}", cluster.members[0].log());
        std::thread::sleep(Duration::from_millis(50));
    }
    said.push(format!("listed: {:?}", name(&set(&client, AlarmAction::Get, 0, AlarmType::None))));
    said.extend(everything(&client, round));
    said.push(format!("{:?}", http_get(&cluster.members[0].client_url(), "/health")));
    set(&client, AlarmAction::Deactivate, me, AlarmType::Nospace);
    said.extend(everything(&client, round + 1));
    let hash = client.hash_kv(HashKvRequest { revision: 0 }).expect("a hash");
    said.push(format!("hash {} compacted {}", hash.hash, hash.compact_revision));
    Some(said)
}

#[test]
fn alarms_refuse_what_etcds_refuse() {
    let ours = alarms_of(Kind::Lockstepd).expect("our own server");
    for release in [Etcd::V35, Etcd::V34] {
        let Some(theirs) = alarms_of(Kind::Etcd(release)) else { continue };
        for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            // 3.4 has fewer words for its health.
            if ours.starts_with("Some") && release == Etcd::V34 {
                continue;
            }
            assert_eq!(ours, theirs, "line {at}, beside {release:?}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

/// Puts until one is refused, with an alarm; then makes room.
#[test]
fn a_full_quota_raises_an_alarm_and_compaction_and_defragmentation_make_room() {
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V35), Kind::Etcd(Etcd::V34)] {
        let Some(cluster) = Cluster::start_with(kind, 1, &["--quota-backend-bytes", "3000000"]) else { continue };
        let client = cluster.client(0);
        let value = vec![b'x'; 50_000];
        let mut puts = 0;
        let refused = loop {
            match client.put(put("big", &value)) {
                Ok(_) => puts += 1,
                Err(status) => break status,
            }
            // Etcd counts what it has committed, every 100 ms.
            assert!(puts < 2_000, "{kind:?}: the quota does not hold");
        };
        assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded", "{kind:?}");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{kind:?}");
        assert!(puts > 20, "{kind:?}: refused after {puts} puts");
        let status = client.status(StatusRequest {}).expect("a status");
        let me = status.header.expect("a header").member_id;
        assert_eq!(status.errors, [format!("memberID:{me} alarm:NOSPACE ")], "{kind:?}");
        assert!(status.db_size > 2_000_000, "{kind:?}: {status:?}");
        let health = http_get(&cluster.members[0].client_url(), "/health").expect("an answer");
        assert_eq!(health.0, 503, "{kind:?}: {health:?}");
        // What frees space is not refused.
        let delete = DeleteRangeRequest { key: "none".into(), ..Default::default() };
        client.delete_range(delete).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        let revision = status.header.expect("a header").revision;
        let compact = CompactionRequest { revision, physical: true };
        client.compact(compact).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        client.defragment(DefragmentRequest {}).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        let smaller = client.status(StatusRequest {}).expect("a status");
        assert!(smaller.db_size < status.db_size / 4, "{kind:?}: {smaller:?}");
        assert!(smaller.db_size_in_use < 200_000, "{kind:?}: {smaller:?}");
        // The alarm stays until it is disarmed.
        let still = client.put(put("big", b"small")).expect_err("the alarm is raised");
        assert_eq!(still.message(), refused.message(), "{kind:?}");
        set(&client, AlarmAction::Deactivate, me, AlarmType::Nospace);
        client.put(put("big", b"small")).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        assert_eq!(client.status(StatusRequest {}).expect("a status").errors, Vec::<String>::new(), "{kind:?}");
    }
}

/// Waits for what a look finds.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_quota_heals_by_itself_when_told_to() {
    let flags = ["--quota-backend-bytes", "3000000", "--quota-auto-heal"];
    // What does not fit may leave the store well below the quota.
    for value_bytes in [50_000, 800_000] {
        let cluster = Cluster::start_with(Kind::Lockstepd, 3, &flags).expect("our own server");
        let client = cluster.client(1);
        let value = vec![b'x'; value_bytes];
        while client.put(put("big", &value)).is_ok() {}
        wait_for("the alarm is disarmed and puts work again", || client.put(put("big", &value)).ok());
        let raised = client.alarm(AlarmRequest::default()).expect("a list").alarms;
        assert_eq!(raised, [], "nothing is raised any more");
        let logs: String = cluster.members.iter().map(|m| m.log()).collect();
        for line in ["alarm raised", "compacted the history", "alarm disarmed"] {
            assert!(logs.contains(line), "no member says {line:?}");
        }
        assert!(value_bytes > 50_000 || logs.contains("has used 80 % of its quota"), "no member warns");
    }
}

#[test]
fn history_is_compacted_by_the_clock_on_the_leader() {
    let flags = ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s"];
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V35)] {
        let Some(cluster) = Cluster::start_with(kind, 3, &flags) else { continue };
        let client = cluster.client(0);
        let term = || client.status(StatusRequest {}).expect("a status").raft_term;
        let first_term = term();
        for n in 0..50 {
            client.put(put("key", &[n])).expect("a put");
        }
        let old = RangeRequest { key: "key".into(), revision: 10, ..Default::default() };
        let refused = wait_for("revision 10 is compacted", || client.range(old.clone()).err());
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted", "{kind:?}");
        let logs: Vec<String> = cluster.members.iter().map(|m| m.log()).collect();
        let done = logs.iter().filter(|log| log.contains("completed auto periodic compaction")).count();
        // On a busy machine another may have come to lead.
        let most = if term() == first_term { 1 } else { 3 };
        assert!((1..=most).contains(&done), "{kind:?}: the leader alone compacts, not {done} members");
    }
}

#[test]
fn members_with_equal_data_pass_the_corruption_checks() {
    let flags = ["--experimental-initial-corrupt-check", "--experimental-corrupt-check-time", "300ms"];
    let mut cluster = Cluster::start_with(Kind::Lockstepd, 3, &flags).expect("our own server");
    let client = cluster.client(0);
    for n in 0..20 {
        client.put(put(&format!("key{n}"), b"value")).expect("a put");
    }
    wait_for("a check of two peers", || {
        let logs: String = cluster.members.iter().map(|m| m.log()).collect();
        logs.contains(r#""number-of-peers-checked":2"#).then_some(())
    });
    cluster.members[2].restart();
    let log = cluster.members[2].log();
    assert!(log.contains("initial corruption checking passed; no corruption"), "{log}");
    assert_eq!(client.alarm(AlarmRequest::default()).expect("a list").alarms, []);
    let (status, body) = http_get(&cluster.members[0].peer_url(), "/members/hashkv").expect("an answer");
    assert_eq!((status, body.trim()), (400, "error unmarshalling request"));
}

/// A member's store gets a key that no other has.
fn tamper(data_dir: &std::path::Path) {
    let disk = Arc::new(RealDisk::new(data_dir).expect("a data directory")) as Arc<dyn Disk>;
    let (mut store, mut backend) = Store::open(disk, STORE_PATH, Options::default()).expect("its store");
    store.write().put(Bytes::from("rot"), Bytes::from("yes"), 0);
    backend.commit(&store.seal().expect("a key")).expect("the disk is well");
}

#[test]
fn a_member_that_differs_is_found_and_the_cluster_refuses() {
    let flags = ["--corrupt-check-time", "300ms", "--initial-corrupt-check"];
    let mut cluster = Cluster::start_with(Kind::Lockstepd, 3, &flags).expect("our own server");
    let status = cluster.client(0).status(StatusRequest {}).expect("a status");
    let mut ids = (0..3).map(|i| {
        let status = cluster.client(i).status(StatusRequest {}).expect("a status");
        status.header.expect("a header").member_id
    });
    let ids: Vec<u64> = ids.by_ref().collect();
    let victim = (0..3).find(|i| ids[*i] != status.leader).expect("a follower");
    let client = cluster.client((victim + 1) % 3);
    client.put(put("key", b"value")).expect("a put");
    cluster.members[victim].terminate();
    tamper(&cluster.members[victim].data_dir);
    for n in 0..3 {
        client.put(put("key", &[n])).expect("two of three are enough");
    }
    cluster.members[victim].spawn();
    wait_for("the member refuses to start", || {
        cluster.members[victim].log().contains("found data inconsistency with peers").then_some(())
    });
    assert!(client.put(put("key", b"still")).is_ok(), "the others go on");
    // Let in all the same, it is found by the leader.
    cluster.members[victim].kill();
    cluster.members[victim].args_mut().push("--initial-corrupt-check=false".to_owned());
    cluster.members[victim].spawn();
    let raised = wait_for("an alarm", || {
        let raised = client.alarm(AlarmRequest::default()).ok()?.alarms;
        (!raised.is_empty()).then_some(raised)
    });
    assert_eq!(raised, [AlarmMember { member_id: ids[victim], alarm: AlarmType::Corrupt as i32 }]);
    let refused = client.put(put("key", b"value")).expect_err("the cluster is corrupt");
    assert_eq!((refused.code(), refused.message()), (tonic::Code::DataLoss, "etcdserver: corrupt cluster"));
    let url = cluster.members[(victim + 1) % 3].client_url();
    let health = http_get(&url, "/health").expect("an answer");
    assert_eq!((health.0, health.1.trim()), (503, r#"{"health":"false","reason":"ALARM CORRUPT"}"#));
}
