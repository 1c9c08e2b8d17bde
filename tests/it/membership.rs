//! Changing the membership of running clusters: what is allowed and in which words, and that nothing is lost meanwhile.
//!
//! Refusals are compared with a real etcd, call by call. Growing, shrinking, replacing and forcing are done to real
//! processes while somebody writes: what was acknowledged must be there at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::*;
use tonic::{Code, Status};

use crate::util::client::Client;
use crate::util::metrics::Page;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, http_get};

/// One call, and what it is about: `own` stands for the first member, `it` for the one added last.
#[derive(Clone, Copy, Debug)]
enum Call {
    Add(&'static [&'static str]),
    Learner(&'static [&'static str]),
    Remove(&'static str),
    Update(&'static str, &'static [&'static str]),
    Promote(&'static str),
    MoveLeader(&'static str),
}

use Call::*;

/// On a cluster of one. `$OWN` is its peer URL.
const CALLS: &[Call] = &[
    Add(&[]),
    Add(&["abc"]),
    Add(&["http://127.0.0.1"]),
    Add(&["http://127.0.0.1:1/path"]),
    Add(&["ftp://127.0.0.1:1"]),
    Add(&["$OWN"]),
    Learner(&["$OWN"]),
    Add(&["http://127.0.0.1:1", "$OWN"]),
    Promote("nobody"),
    Promote("own"),
    Remove("nobody"),
    Remove("own"),
    Update("nobody", &["http://127.0.0.1:1"]),
    MoveLeader("nobody"),
    MoveLeader("own"),
    Learner(&["http://127.0.0.1:2", " http://127.0.0.1:1"]),
    Learner(&["http://127.0.0.1:3"]),
    Add(&["http://127.0.0.1:2"]),
    Promote("it"),
    MoveLeader("it"),
    Update("own", &["http://127.0.0.1:1"]),
    Remove("it"),
    Remove("it"),
    Promote("it"),
    Update("it", &["http://127.0.0.1:4"]),
    Learner(&["http://127.0.0.1:1"]),
    Remove("it"),
    // From here on there is no majority.
    Add(&["http://127.0.0.1:5"]),
    Add(&["http://127.0.0.1:6"]),
    Remove("own"),
];

/// What a call was answered: the members without their ids, or the error.
fn outcome(cluster: &Cluster, client: &Client, it: &mut u64, own: u64, call: Call) -> String {
    let own_url = cluster.members[0].peer_url();
    let urls = |urls: &[&str]| urls.iter().map(|url| url.replace("$OWN", &own_url)).collect::<Vec<String>>();
    let id = |who: &str, it: u64| match who {
        "own" => own,
        "it" => it,
        _ => 0x1234,
    };
    let members = |members: Vec<Member>| {
        let mut all: Vec<String> = members
            .iter()
            .map(|m| {
                let urls = m.peer_ur_ls.join(",").replace(&own_url, "$OWN");
                format!("{} {urls} {} learner:{}", m.name, m.client_ur_ls.len(), m.is_learner)
            })
            .collect();
        all.sort();
        all.join("; ")
    };
    let header = |header: Option<ResponseHeader>| {
        header.map_or("no header".to_owned(), |h| format!("revision {}, term {}", h.revision, h.raft_term > 0))
    };
    let mut add = |list: &[&str], is_learner: bool| {
        let answer = client.member_add(MemberAddRequest { peer_ur_ls: urls(list), is_learner })?;
        let added = answer.member.expect("the member that was added");
        *it = added.id;
        Ok(format!("{} added {} to {}", header(answer.header), members(vec![added]), members(answer.members)))
    };
    let answer: Result<String, Status> = match call {
        Add(list) => add(list, false),
        Learner(list) => add(list, true),
        Remove(who) => client
            .member_remove(MemberRemoveRequest { id: id(who, *it) })
            .map(|a| format!("{} {}", header(a.header), members(a.members))),
        Update(who, list) => client
            .member_update(MemberUpdateRequest { id: id(who, *it), peer_ur_ls: urls(list) })
            .map(|a| format!("{} {}", header(a.header), members(a.members))),
        Promote(who) => client
            .member_promote(MemberPromoteRequest { id: id(who, *it) })
            .map(|a| format!("{} {}", header(a.header), members(a.members))),
        MoveLeader(who) => client.move_leader(MoveLeaderRequest { target_id: id(who, *it) }).map(|a| header(a.header)),
    };
    answer.unwrap_or_else(|status| format!("{:?}: {}", status.code(), status.message()))
}

#[test]
fn calls_are_answered_as_by_etcd() {
    for strict in [true, false] {
        let play = |kind: Kind| {
            let cluster = Cluster::start_with(kind, 1, &[&format!("--strict-reconfig-check={strict}")])?;
            let client = cluster.client(0);
            let own = client.status(StatusRequest {}).expect("status").leader;
            let mut it = 0;
            // Without the check the first voter takes the majority with it, and an etcd stops of removing the last.
            let calls = CALLS.iter().filter(|call| strict || !matches!(call, Remove("own")));
            let calls = calls.take(if strict { usize::MAX } else { 26 });
            let play = |call: &Call| {
                // An etcd drops a change that comes too soon after another, and its client waits for ever.
                if kind != Kind::Lockstepd {
                    std::thread::sleep(Duration::from_millis(100));
                }
                (*call, outcome(&cluster, &client, &mut it, own, *call))
            };
            Some(calls.map(play).collect::<Vec<_>>())
        };
        let ours = play(Kind::Lockstepd).expect("ours is there");
        for etcd in [Etcd::V35, Etcd::V34] {
            let Some(theirs) = play(Kind::Etcd(etcd)) else { continue };
            let wrong: Vec<String> = ours
                .iter()
                .zip(&theirs)
                .filter(|((_, ours), (_, theirs))| ours != theirs)
                .map(|((call, ours), (_, theirs))| format!("{call:?}\n  ours:  {ours}\n  {etcd:?}:  {theirs}"))
                .collect();
            assert!(wrong.is_empty(), "strict: {strict}\n{}", wrong.join("\n"));
        }
    }
}

/// Asks until the answer is no error; a cluster in which somebody was just removed may be without a leader.
fn insist<T>(what: &str, mut ask: impl FnMut() -> Result<T, Status>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < deadline, "{what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn member_id(cluster: &Cluster, i: usize) -> u64 {
    let status = insist("status", || cluster.client(i).status(StatusRequest {}));
    status.header.expect("a header").member_id
}

fn leader(cluster: &Cluster, i: usize) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match insist("status", || cluster.client(i).status(StatusRequest {})).leader {
            0 => assert!(Instant::now() < deadline, "there is no leader"),
            leader => return leader,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Adds a member and starts it; returns its place.
pub fn add(cluster: &mut Cluster, at: usize, of: &[usize], is_learner: bool) -> usize {
    let i =
        cluster.newcomer(of, &["--heartbeat-interval=100", "--election-timeout=1000", "--strict-reconfig-check=false"]);
    let peer_ur_ls = vec![cluster.members[i].peer_url()];
    insist("add", || cluster.client(at).member_add(MemberAddRequest { peer_ur_ls: peer_ur_ls.clone(), is_learner }));
    cluster.members[i].spawn();
    if !is_learner {
        cluster.members[i].wait_ready();
    }
    i
}

/// Somebody who writes all the time, and remembers what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Vec<String>, Duration)>,
}

impl Writer {
    fn start(urls: Arc<parking_lot::Mutex<Vec<String>>>) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut acknowledged, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
            let mut clients: Vec<(String, Client)> = Vec::new();
            let mut n = 0u64;
            while !stopping.load(Ordering::Relaxed) {
                let known = urls.lock().clone();
                clients.retain(|(url, _)| known.contains(url));
                for url in known {
                    if clients.iter().all(|(known, _)| *known != url) {
                        clients.push((url.clone(), Client::connect(&url)));
                    }
                }
                n += 1;
                let key = format!("k{n:08}");
                let put = PutRequest { key: key.clone().into(), value: "v".into(), ..Default::default() };
                let place = n as usize % clients.len();
                if clients[place].1.put(put).is_ok() {
                    acknowledged.push(key);
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            (acknowledged, longest.max(last.elapsed()))
        });
        Writer { stop, thread }
    }

    fn finish(self) -> (Vec<String>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer")
    }
}

fn assert_all_there(cluster: &Cluster, i: usize, acknowledged: &[String]) {
    let everything = RangeRequest { key: "k".into(), range_end: "l".into(), keys_only: true, ..Default::default() };
    let found = insist("range", || cluster.client(i).range(everything.clone()));
    let found: std::collections::BTreeSet<String> =
        found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|key| !found.contains(*key)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged keys are lost: {:?}", lost.len(), acknowledged.len(), lost.first());
}

#[test]
fn a_cluster_grows_and_shrinks_under_load() {
    let flags = ["--heartbeat-interval=100", "--election-timeout=1000", "--strict-reconfig-check=false"];
    let mut cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("ours is there");
    let urls = Arc::new(parking_lot::Mutex::new(vec![cluster.members[0].client_url()]));
    let writer = Writer::start(urls.clone());
    let mut alive = vec![0];
    for _ in 1..5 {
        let i = add(&mut cluster, 0, &alive.clone(), false);
        alive.push(i);
        urls.lock().push(cluster.members[i].client_url());
        std::thread::sleep(Duration::from_millis(300));
    }
    let listed = cluster.client(3).member_list(MemberListRequest { linearizable: true }).expect("a list").members;
    assert!(listed.len() == 5 && listed.iter().all(|m| !m.name.is_empty()), "{listed:?}");
    // Whoever leads goes first, twice; then a follower, asked to leave by itself.
    while alive.len() > 1 {
        let leads = leader(&cluster, alive[0]);
        let goes = match alive.len() {
            5 | 4 => alive.iter().position(|i| member_id(&cluster, *i) == leads).expect("one of them leads"),
            _ => alive.iter().position(|i| member_id(&cluster, *i) != leads).expect("one of them does not lead"),
        };
        let gone = alive.remove(goes);
        urls.lock().retain(|url| *url != cluster.members[gone].client_url());
        let id = member_id(&cluster, gone);
        let asked = if alive.len() == 2 { gone } else { alive[0] };
        match cluster.client(asked).member_remove(MemberRemoveRequest { id }) {
            Ok(answer) => assert_eq!(answer.members.len(), alive.len()),
            // A member that is removed may not live to hear of it.
            Err(why) => assert!(asked == gone && why.code() == Code::Unavailable, "{why}"),
        }
        let status = cluster.members[gone].wait_end();
        let log = cluster.members[gone].log();
        assert!(status.success() && log.contains("permanently removed"), "{status}:\n{log}");
        // It does not come back.
        cluster.members[gone].spawn();
        let status = cluster.members[gone].wait_end();
        assert!(cluster.members[gone].log().contains("removed from the cluster"), "{status}");
        std::thread::sleep(Duration::from_millis(300));
    }
    let (acknowledged, longest) = writer.finish();
    assert_all_there(&cluster, alive[0], &acknowledged);
    assert!(acknowledged.len() > 200, "only {} writes", acknowledged.len());
    // An election takes up to two seconds here, and a request to a member that goes may hang as long as it may take.
    assert!(longest < Duration::from_secs(12), "no write for {longest:?}");
}

/// What a member says first goes to peers that it does not know as members yet, and is not lost when it does.
#[test]
fn who_joins_is_heard_the_first_time() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("ours is there");
    let mut members = vec![0];
    for _ in 0..3 {
        let i = add(&mut cluster, 0, &members.clone(), false);
        members.push(i);
        let log = cluster.members[i].log();
        assert!(!log.contains("failed to publish local member"), "{log}");
    }
}

#[test]
fn a_dead_member_is_replaced_under_its_old_urls() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 3).expect("ours is there");
    let put = |cluster: &Cluster, key: &str| {
        let request = PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
        insist(key, || cluster.client(0).put(request.clone()));
    };
    put(&cluster, "ka");
    let id = member_id(&cluster, 2);
    cluster.members[2].kill();
    std::fs::remove_dir_all(&cluster.members[2].data_dir).expect("the directory goes");
    put(&cluster, "kb");

    // Under its old id it is refused: it has promised what it does not know any more.
    let args = cluster.members[2].args_mut();
    args.push("--initial-cluster-state=existing".to_owned());
    cluster.members[2].spawn();
    assert!(!cluster.members[2].wait_end().success());
    assert!(cluster.members[2].log().contains("has already been bootstrapped"), "{}", cluster.members[2].log());

    let peer_ur_ls = vec![cluster.members[2].peer_url()];
    let removed = insist("remove", || cluster.client(0).member_remove(MemberRemoveRequest { id }));
    assert_eq!(removed.members.len(), 2);
    let request = MemberAddRequest { peer_ur_ls, is_learner: false };
    // The other two must have been connected for five seconds.
    let added = insist("add", || cluster.client(0).member_add(request.clone()));
    assert_ne!(added.member.expect("a member").id, id);
    cluster.members[2].spawn();
    cluster.members[2].wait_ready();
    put(&cluster, "kc");
    cluster.members[1].kill();
    assert_all_there(&cluster, 2, &["ka", "kb", "kc"].map(str::to_owned));
}

#[test]
fn a_learner_serves_little_and_is_promoted() {
    let flags = ["--heartbeat-interval=100", "--election-timeout=1000", "--strict-reconfig-check=false"];
    let mut cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("ours is there");
    let put = PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
    cluster.client(0).put(put.clone()).expect("a put");
    let i = add(&mut cluster, 0, &[0], true);
    let learner = cluster.client(i);
    let range = |serializable| RangeRequest { key: "a".into(), serializable, ..Default::default() };
    let found = insist("range", || match learner.range(range(true)) {
        Ok(found) if found.count == 0 => Err(Status::not_found("a")),
        other => other,
    });
    assert_eq!(found.count, 1);
    assert!(learner.status(StatusRequest {}).expect("status").is_learner);
    let refused = [
        learner.range(range(false)).map(drop),
        learner.put(put.clone()).map(drop),
        learner.member_list(MemberListRequest::default()).map(drop),
        learner.hash_kv(HashKvRequest::default()).map(drop),
        learner.lease_grant(LeaseGrantRequest { ttl: 10, id: 0 }).map(drop),
        learner.keep_alive(&[1]).map(drop),
        learner.move_leader(MoveLeaderRequest { target_id: 1 }).map(drop),
    ];
    for (place, answer) in refused.into_iter().enumerate() {
        let why = answer.expect_err("a learner does not serve this");
        let told = (why.code(), why.message());
        assert_eq!(told, (Code::FailedPrecondition, "etcdserver: rpc not supported for learner"), "{place}");
    }
    let (status, body) = http_get(&cluster.members[i].client_url(), "/readyz").expect("an answer");
    assert!(status == 503 && body.contains("non_learner failed: not supported for learner"), "{status} {body}");
    assert_eq!(Page::of(&cluster.members[i].client_url()).value("etcd_server_is_learner"), 1.0);

    // Other URLs leave it what it is.
    let id = member_id(&cluster, i);
    let url = cluster.members[i].peer_url();
    let peer_ur_ls = vec![url.clone(), "http://127.0.0.1:1".to_owned()];
    let list = cluster.client(0).member_update(MemberUpdateRequest { id, peer_ur_ls }).expect("an update").members;
    assert!(list.iter().any(|m| m.id == id && m.is_learner && m.peer_ur_ls.len() == 2), "{list:?}");
    cluster.client(0).member_update(MemberUpdateRequest { id, peer_ur_ls: vec![url] }).expect("an update");

    let promoted = insist("promote", || cluster.client(0).member_promote(MemberPromoteRequest { id })).members;
    assert!(promoted.iter().all(|m| !m.is_learner), "{promoted:?}");
    assert_eq!(Page::of(&cluster.members[0].client_url()).value("etcd_server_learner_promote_successes"), 1.0);
    cluster.members[i].wait_ready();

    // The next one is promoted through a member that does not lead.
    let j = add(&mut cluster, 0, &[0, i], true);
    let id = member_id(&cluster, j);
    let leads = leader(&cluster, 0);
    let follower = [0, i].into_iter().find(|i| member_id(&cluster, *i) != leads).expect("one of two follows");
    let promoted = insist("promote", || cluster.client(follower).member_promote(MemberPromoteRequest { id })).members;
    assert!(promoted.len() == 3 && promoted.iter().all(|m| !m.is_learner), "{promoted:?}");
    let again = cluster.client(follower).member_promote(MemberPromoteRequest { id }).expect_err("it is a voter");
    assert_eq!(again.message(), "etcdserver: can only promote a learner member");
    let nobody = cluster.client(follower).member_promote(MemberPromoteRequest { id: 9 }).expect_err("there is none");
    assert_eq!(nobody.message(), "etcdserver: member not found");
}

#[test]
fn learners_are_promoted_by_themselves_where_that_is_wanted() {
    let flags = ["--auto-promote-learners", "--max-learners=2"];
    let mut cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("ours is there");
    let (i, j) = (cluster.newcomer(&[0], &["--heartbeat-interval=20", "--election-timeout=200"]), 1);
    assert_eq!(i, j);
    let learner = |url: String| MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
    let id =
        cluster.client(0).member_add(learner(cluster.members[i].peer_url())).expect("added").member.expect("it").id;
    let never = cluster.client(0).member_add(learner("http://127.0.0.1:1".to_owned())).expect("a second").member;
    let never = never.expect("it").id;
    let full = cluster.client(0).member_add(learner("http://127.0.0.1:2".to_owned())).expect_err("two are enough");
    assert_eq!(full.message(), "etcdserver: too many learner members in cluster");
    cluster.client(0).member_remove(MemberRemoveRequest { id: never }).expect("removed");
    cluster.members[i].spawn();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let members = insist("list", || cluster.client(0).member_list(MemberListRequest::default())).members;
        if members.iter().any(|m| m.id == id && !m.is_learner) {
            break;
        }
        assert!(Instant::now() < deadline, "{members:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.members[i].wait_ready();
}

/// Each is another member, though all of them come with the same URL and within a second.
#[test]
fn who_is_removed_and_added_again_at_once_has_another_id() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("our own server");
    let client = cluster.client(0);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let request = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true };
        let id = client.member_add(request).expect("a learner is added").member.expect("the one added").id;
        assert!(!ids.contains(&id), "{id:x} has been there: {ids:x?}");
        client.member_remove(MemberRemoveRequest { id }).expect("it is removed");
        ids.push(id);
    }
}

/// A lone founder that never stopped is no member that lost its data, whoever first writes to it, and whatever that one
/// knows of it by then.
#[test]
fn a_founder_hears_who_joined_while_another_led() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("ours is there");
    add(&mut cluster, 0, &[0], false);
    let second = member_id(&cluster, 1);
    insist("move", || cluster.client(0).move_leader(MoveLeaderRequest { target_id: second }));
    assert_eq!(leader(&cluster, 0), second);
    // It has had nothing to say to the founder yet.
    add(&mut cluster, 1, &[0, 1], false);
    cluster.members[1].kill();
    let client = cluster.client(0);
    let request = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    insist("put", || client.put(request.clone()));
    assert!(!cluster.members[0].log().contains("must not take part"), "{}", cluster.members[0].log());
}

#[test]
fn leadership_is_moved_on_demand() {
    let cluster = Cluster::start(Kind::Lockstepd, 3).expect("ours is there");
    let ids: Vec<u64> = (0..3).map(|i| member_id(&cluster, i)).collect();
    let leads = leader(&cluster, 0);
    let at = ids.iter().position(|id| *id == leads).expect("one leads");
    let to = ids[(at + 1) % 3];
    let refused = cluster.client((at + 1) % 3).move_leader(MoveLeaderRequest { target_id: to }).expect_err("no leader");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "etcdserver: not leader"));
    cluster.client(at).move_leader(MoveLeaderRequest { target_id: to }).expect("moved");
    assert_eq!(leader(&cluster, (at + 1) % 3), to);
}

#[test]
fn one_member_is_forced_to_go_on_alone() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 3).expect("ours is there");
    let keys: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    for key in &keys {
        let put = PutRequest { key: key.clone().into(), value: "v".into(), ..Default::default() };
        insist(key, || cluster.client(0).put(put.clone()));
    }
    let id = member_id(&cluster, 1);
    // All three have them, for a member that is alone has only its own.
    assert_all_there(&cluster, 1, &keys);
    for member in &mut cluster.members {
        member.kill();
    }
    let plain = cluster.members[1].args_mut().len();
    cluster.members[1].args_mut().push("--force-new-cluster".to_owned());
    cluster.members[1].spawn();
    cluster.members[1].wait_ready();
    let list = cluster.client(1).member_list(MemberListRequest { linearizable: true }).expect("a list").members;
    assert_eq!(list.iter().map(|m| m.id).collect::<Vec<_>>(), [id]);
    assert_all_there(&cluster, 1, &keys);
    // The flag may stay, or go.
    cluster.members[1].restart();
    cluster.members[1].args_mut().truncate(plain);
    cluster.members[1].restart();
    assert_all_there(&cluster, 1, &keys);
    // The others belong to it no more.
    cluster.members[0].spawn();
    assert!(cluster.members[0].wait_end().success());
    assert!(cluster.members[0].log().contains("permanently removed"), "{}", cluster.members[0].log());
}

#[test]
fn who_does_not_fit_does_not_join() {
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V35)] {
        let Some(mut cluster) = Cluster::start(kind, 1) else { continue };
        let i = cluster.newcomer(&[0], &[]);
        let (old, new) = (cluster.members[0].peer_url(), cluster.members[i].peer_url());
        let mut refused = |initial: String, says: &str| {
            cluster.members[i].args_mut().push(format!("--initial-cluster={initial}"));
            cluster.members[i].spawn();
            assert!(!cluster.members[i].wait_end().success());
            let log = cluster.members[i].log();
            let last = log.lines().rev().find(|line| line.contains("\"error\"")).unwrap_or_default();
            assert!(last.contains(says), "{kind:?}, {initial}: wanted {says}\nin {last}");
        };
        refused(format!("m0={old},m1={new}"), "RemovedMemberIDs:[]}: member count is unequal");
        refused(format!("m0={old}"), "couldn't find local name \\\"m1\\\" in the initial cluster configuration");
        refused(
            format!("m0=http://127.0.0.1:1,m1={new}"),
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        );
        refused(format!("m0={old},m1={old}"), "has duplicate url");
        cluster
            .client(0)
            .member_add(MemberAddRequest { peer_ur_ls: vec![new.clone()], is_learner: true })
            .expect("added");
        let mut refused = |initial: String, says: &str| {
            cluster.members[i].args_mut().push(format!("--initial-cluster={initial}"));
            cluster.members[i].spawn();
            assert!(!cluster.members[i].wait_end().success());
            let log = cluster.members[i].log();
            let last = log.lines().rev().find(|line| line.contains("\"error\"")).unwrap_or_default();
            assert!(last.contains(says), "{kind:?}, {initial}: wanted {says}\nin {last}");
        };
        refused(
            format!("m0={old},m1=http://127.0.0.1:1"),
            "RemovedMemberIDs:[]}: PeerURLs: no match found for existing member (",
        );
    }
}
