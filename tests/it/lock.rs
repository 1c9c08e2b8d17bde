//! The services of locks and elections: the same scripts of calls, some of which wait for others, against etcd 3.5.1
//! and `lockstepd`, with equal answers, errors, keys and revisions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::kv_client::KvClient;
use lockstep::proto::etcdserverpb::lease_client::LeaseClient;
use lockstep::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, ResponseHeader,
};
use lockstep::proto::mvccpb::KeyValue;
use lockstep::proto::v3electionpb::election_client::ElectionClient;
use lockstep::proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use lockstep::proto::v3lockpb::lock_client::LockClient;
use lockstep::proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

/// A script: a name, and a call a line.
///
/// `A: lock name lease` and `A: campaign name lease value` begin a call, `A.` waits for its answer, `A?` says whether
/// it still waits, `A-` hangs up; `O: observe name` and `O.`, `O?`, `O-` likewise, an answer each. Everything else is
/// answered at once. A name or value `''` is empty.
const SCRIPTS: &[(&str, &str)] = &[
    (
        "one after the other",
        "grant 1\ngrant 2\ngrant 3\nA: lock l 1\nA.\nB: lock l 2\nB?\nC: lock l 3\nC?\nkeys l\nunlock A\nB.\n\
         C?\nkeys l\nunlock A\nunlock B\nC.\nunlock C\nkeys l",
    ),
    (
        "the same lease twice",
        "grant 1\ngrant 2\nA: lock l 1\nA.\nB: lock l 1\nB.\nkeys l\nC: lock l 2\nC?\nunlock B\nC.\n\
         unlock A\nkeys l",
    ),
    (
        "locks of many names",
        "grant 1\ngrant 2\nA: lock a 1\nA.\nB: lock b 1\nB.\nC: lock a/b 2\nC.\nD: lock '' 2\nD.\n\
         E: lock a 2\nE?\nkeys a\nput a/zzz x\nunlock =a/zzz\nunlock A\nE?\nunlock C\nE.\nkeys ''",
    ),
    (
        "refused",
        "A: lock l 77\nA.\nB: lock '' 77\nB.\nunlock =''\nunlock =nothing\nC: campaign e 77 v\nC.\n\
         D: campaign '' 77 ''\nD.\nleader e\nleader ''\nproclaim none v\nresign none\n\
         proclaim raw e e/1 5 1 v\nresign raw e e/1 5 1\nproclaim raw e '' 5 1 v\nresign raw e '' 0 1\n\
         proclaim raw e new 0 0 v\nproclaim raw e e/9 0 88 v\nkeys ''",
    ),
    ("a lease of its own", "A: lock l 0\nA.\nB: campaign e 0 v\nB.\nttl A\nttl B\nunlock A\nresign B"),
    (
        "who hangs up leaves the queue",
        "grant 1\ngrant 2\ngrant 3\nA: lock l 1\nA.\nB: lock l 2\nB?\nC: lock l 3\nC?\nB-\nkeys l\nunlock A\n\
         C.\nkeys l\nD: campaign e 1 a\nD.\nE: campaign e 2 b\nE?\nF: campaign e 3 c\nF?\nE-\nkeys e\n\
         resign D\nF.\nkeys e",
    ),
    (
        "a lease that goes while its holder waits",
        "grant 1\ngrant 2\ngrant 3\nA: lock l 1\nA.\nB: lock l 2\nB?\nC: lock l 3\nC?\nrevoke 2\nkeys l\nB?\n\
         unlock A\nB.\nC.\nrevoke 3\nkeys l\nD: lock l 1\nD.\nrevoke 1\nE: lock l 1\nE.\nkeys l",
    ),
    (
        "the holder's lease goes",
        "grant 1\ngrant 2\nA: lock l 1\nA.\nB: lock l 2\nB?\nrevoke 1\nB.\nkeys l\nunlock A\nkeys l",
    ),
    (
        "keys of other clients stand in the queue, too",
        "put l/other x\ngrant 1\nA: lock l 1\nA?\ndel l/other\nA.\nput l/later x\nunlock A\nkeys l\ngrant 2\n\
         B: lock l 2\nB?\nput l/later y\nB?\ndel l/later\nB.",
    ),
    (
        "a put to the key that is waited for wakes nobody",
        "grant 1\ngrant 2\nA: campaign e 1 a\nA.\nB: campaign e 2 b\nB?\nproclaim A aa\nproclaim A aaa\nB?\n\
         leader e\nresign A\nB.\nleader e\nproclaim A x\nresign A\nresign B\nleader e",
    ),
    (
        "standing again",
        "grant 1\ngrant 2\nA: campaign e 1 a\nA.\nB: campaign e 1 a\nB.\nC: campaign e 1 other\nC.\n\
         leader e\nD: campaign e 2 d\nD?\nE: campaign e 2 e\nE?\nkeys e\nresign A\nD.\nE.\nleader e\n\
         revoke 2\nleader e",
    ),
    (
        "history goes while somebody waits",
        "grant 1\ngrant 2\nA: lock l 1\nA.\nB: lock l 2\nB?\nput x 1\nput x 2\ncompact 4\nB?\nunlock A\nB.",
    ),
    (
        "observers",
        "grant 1\ngrant 2\nO: observe e\nO?\nA: campaign e 1 a\nA.\nO.\nproclaim A b\nproclaim A c\nO.\nO.\n\
         O?\nB: campaign e 2 d\nB?\nP: observe e\nP.\nresign A\nB.\nO.\nP.\nproclaim B e\nO.\nP.\nP-\n\
         revoke 2\nO?\nput e/someone f\nO.\nput e/0 g\nO?\ndel e/someone\nO.\nput elsewhere x\nO?\nO-",
    ),
];

#[test]
fn locks_and_elections_answer_as_etcds() {
    let theirs = play_all(Kind::Etcd(Etcd::V35));
    let ours = play_all(Kind::Lockstepd);
    let (Some(theirs), Some(ours)) = (theirs, ours) else { return };
    let mut differences = String::new();
    for ((name, expected), (_, got)) in theirs.iter().zip(&ours) {
        for (expected, got) in expected.iter().zip(got).filter(|(expected, got)| expected != got) {
            differences.push_str(&format!("[{name}]\n  expected {expected}\n  got      {got}\n"));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    println!("{} answers alike", ours.iter().map(|(_, answers)| answers.len()).sum::<usize>());
}

/// A thousand wait for one lock, a third of them hang up; the others get it in their order, one at a time.
#[test]
fn a_thousand_wait_for_one_lock() {
    const WAITERS: i64 = 1_000;
    let cluster = Cluster::start(Kind::Lockstepd, 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = channel(&cluster.members[0].client_url());
        let lock = |lease: i64| {
            let mut client = LockClient::new(channel.clone());
            tokio::spawn(async move { client.lock(LockRequest { name: b"l".into(), lease }).await })
        };
        for id in 1..=WAITERS {
            let request = LeaseGrantRequest { ttl: 600, id };
            LeaseClient::new(channel.clone()).lease_grant(request).await.unwrap();
        }
        let mut kv = KvClient::new(channel.clone());
        let count = async |kv: &mut KvClient<Channel>| {
            let request =
                RangeRequest { key: "l/".into(), range_end: "l0".into(), count_only: true, ..Default::default() };
            kv.range(request).await.unwrap().into_inner().count
        };
        let mut waiting = Vec::new();
        for lease in 1..=WAITERS {
            waiting.push((lease, lock(lease)));
            // In the order of their leases.
            if lease % 50 == 1 {
                let deadline = Instant::now() + Duration::from_secs(30);
                while count(&mut kv).await < lease && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while count(&mut kv).await < WAITERS {
            assert!(Instant::now() < deadline, "{} of {WAITERS} are in the queue", count(&mut kv).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The first holds the lock.
        for (lease, call) in waiting.iter().skip(1).filter(|(lease, _)| lease % 3 == 0) {
            assert!(!call.is_finished(), "{lease} waits");
            call.abort();
        }
        waiting.retain(|(lease, _)| lease % 3 != 0);
        let left = waiting.len() as i64;
        while count(&mut kv).await > left {
            assert!(Instant::now() < deadline, "{} are in the queue, {left} should be", count(&mut kv).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let request = RangeRequest { key: "l/".into(), range_end: "l0".into(), ..Default::default() };
        let mut queue = kv.range(request).await.unwrap().into_inner().kvs;
        queue.sort_by_key(|kv| kv.create_revision);
        let mut calls: BTreeMap<i64, _> = waiting.into_iter().collect();
        let start = Instant::now();
        for place in queue {
            let answer = timeout(Duration::from_secs(10), calls.remove(&place.lease).unwrap()).await;
            let answer = answer.expect("it is this one's turn").unwrap().unwrap().into_inner();
            assert_eq!(answer.key, place.key);
            assert_eq!(count(&mut kv).await, calls.len() as i64 + 1);
            LockClient::new(channel.clone()).unlock(UnlockRequest { key: answer.key }).await.unwrap();
        }
        println!("{left} took their turns in {:?}", start.elapsed());
        assert_eq!(count(&mut kv).await, 0);
    });
}

fn play_all(kind: Kind) -> Option<Vec<(&'static str, Vec<String>)>> {
    kind.program()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let played = SCRIPTS.iter().map(|(name, script)| {
        // Each in a fresh cluster: revisions are compared.
        let cluster = Cluster::start(kind, 1).unwrap();
        let channel = runtime.block_on(async { channel(&cluster.members[0].client_url()) });
        let mut stage = Stage { channel, calls: BTreeMap::new(), held: BTreeMap::new(), observers: BTreeMap::new() };
        let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
        (*name, lines.map(|line| format!("{line} -> {}", runtime.block_on(stage.play(line)))).collect())
    });
    Some(played.collect())
}

fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy()
}

/// What a call that has been answered left to others.
#[derive(Clone, Default)]
struct Held {
    shown: String,
    leader: LeaderKey,
}

struct Stage {
    channel: Channel,
    calls: BTreeMap<String, JoinHandle<Held>>,
    held: BTreeMap<String, Held>,
    observers: BTreeMap<String, (UnboundedReceiver<String>, JoinHandle<()>)>,
}

/// Long enough for whatever does not wait.
const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

impl Stage {
    async fn play(&mut self, line: &str) -> String {
        let (name, what) = line.split_at(line.find(|c: char| !c.is_ascii_uppercase()).unwrap());
        match (name, what) {
            ("", _) => self.ask(line).await,
            (_, "." | "?" | "-") => self.look(name, what).await,
            _ => self.begin(name, what.trim_start_matches(": ")).await,
        }
    }

    async fn begin(&mut self, name: &str, call: &str) -> String {
        let words: Vec<String> = words(call);
        let lease = words.get(2).map_or(0, |lease| lease.parse().unwrap());
        let channel = self.channel.clone();
        let about = words[1].clone().into_bytes();
        let call = match words[0].as_str() {
            "lock" => tokio::spawn(async move {
                let answer = LockClient::new(channel).lock(LockRequest { name: about, lease }).await;
                let key = answer.as_ref().map(|answer| answer.get_ref().key.clone()).unwrap_or_default();
                let shown = show(answer, |answer| format!("{} {}", header(&answer.header), text(&answer.key, lease)));
                Held { shown, leader: LeaderKey { key, ..Default::default() } }
            }),
            "campaign" => {
                let request = CampaignRequest { name: about, lease, value: words[3].clone().into() };
                tokio::spawn(async move {
                    let answer = ElectionClient::new(channel).campaign(request).await;
                    let leader = answer.as_ref().ok().and_then(|answer| answer.get_ref().leader.clone());
                    let shown = show(answer, |answer| {
                        let LeaderKey { name, key, rev, lease: of } = answer.leader.unwrap();
                        let of = if lease == 0 { 0 } else { of };
                        format!("{} {} {} {rev} {of}", header(&answer.header), text(&name, 1), text(&key, lease))
                    });
                    Held { shown, leader: leader.unwrap_or_default() }
                })
            }
            "observe" => {
                let (answers, received) = mpsc::unbounded_channel();
                // The stream of an etcd opens with its first answer.
                let task = tokio::spawn(async move {
                    let opened = ElectionClient::new(channel).observe(LeaderRequest { name: about }).await;
                    let mut stream = match opened {
                        Ok(stream) => stream.into_inner(),
                        Err(why) => return drop(answers.send(refusal(&why))),
                    };
                    while let Some(answer) = stream.message().await.transpose() {
                        let _ = answers.send(answer.map_or_else(|why| refusal(&why), leader));
                    }
                });
                self.observers.insert(name.into(), (received, task));
                tokio::time::sleep(SOON / 3).await;
                return "begun".into();
            }
            other => panic!("no call {other}"),
        };
        self.calls.insert(name.into(), call);
        tokio::time::sleep(SOON / 3).await;
        "begun".into()
    }

    async fn look(&mut self, name: &str, what: &str) -> String {
        if let Some((observer, task)) = self.observers.get_mut(name) {
            if what == "-" {
                task.abort();
                self.observers.remove(name);
                return "gone".into();
            }
            let limit = if what == "." { LONG } else { SOON };
            return match timeout(limit, observer.recv()).await {
                Err(_) => "nothing".into(),
                Ok(Some(answer)) => answer,
                Ok(None) => "the end".into(),
            };
        }
        match what {
            "-" => {
                self.calls.remove(name).unwrap().abort();
                tokio::time::sleep(SOON).await;
                "hung up".into()
            }
            "?" => {
                tokio::time::sleep(SOON).await;
                if self.calls[name].is_finished() { "is there" } else { "waits" }.into()
            }
            _ => {
                let call = self.calls.remove(name).unwrap();
                let Ok(held) = timeout(LONG, call).await else { return "still waits".into() };
                self.held.insert(name.into(), held.unwrap());
                self.held[name].shown.clone()
            }
        }
    }

    async fn ask(&mut self, line: &str) -> String {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let channel = self.channel.clone();
        let (mut kv, mut lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel.clone()));
        let (mut lock, mut election) = (LockClient::new(channel.clone()), ElectionClient::new(channel));
        let bytes = |word: &str| word.as_bytes().to_vec();
        match words.as_slice() {
            ["grant", id] => {
                let answer = lease.lease_grant(LeaseGrantRequest { ttl: 600, id: id.parse().unwrap() }).await;
                show(answer, |answer| header(&answer.header))
            }
            ["revoke", id] => {
                let answer = lease.lease_revoke(LeaseRevokeRequest { id: id.parse().unwrap() }).await;
                show(answer, |answer| header(&answer.header))
            }
            // Of a lease that the server granted by itself.
            ["ttl", name] => {
                let key = String::from_utf8(self.held[*name].leader.key.clone()).unwrap();
                let id = i64::from_str_radix(key.rsplit('/').next().unwrap(), 16).unwrap();
                let answer = lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await;
                show(answer, |answer| format!("{} {}", answer.granted_ttl, answer.keys.len()))
            }
            ["put", key, value] => {
                let request = PutRequest { key: bytes(key).into(), value: bytes(value).into(), ..Default::default() };
                show(kv.put(request).await, |answer| header(&answer.header))
            }
            ["del", key] => {
                let request = DeleteRangeRequest { key: bytes(key).into(), ..Default::default() };
                show(kv.delete_range(request).await, |answer| header(&answer.header))
            }
            ["compact", revision] => {
                let request = CompactionRequest { revision: revision.parse().unwrap(), physical: true };
                show(kv.compact(request).await, |answer| header(&answer.header))
            }
            ["keys", name] => {
                let request = RangeRequest {
                    key: if name.is_empty() { b"\0".to_vec().into() } else { bytes(name).into() },
                    range_end: b"\0".to_vec().into(),
                    ..Default::default()
                };
                show(kv.range(request).await, |answer| answer.kvs.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
            ["unlock", key] => {
                let key = match key.strip_prefix('=') {
                    Some(key) => bytes(if key == "''" { "" } else { key }),
                    None => self.held[*key].leader.key.clone(),
                };
                show(lock.unlock(UnlockRequest { key }).await, |answer| header(&answer.header))
            }
            ["leader", name] => show(election.leader(LeaderRequest { name: bytes(name) }).await, leader),
            ["proclaim", who @ .., value] => {
                let request = ProclaimRequest { leader: self.leader(who), value: bytes(value) };
                show(election.proclaim(request).await, |answer| header(&answer.header))
            }
            ["resign", who @ ..] => {
                let answer = election.resign(ResignRequest { leader: self.leader(who) }).await;
                show(answer, |answer| header(&answer.header))
            }
            other => panic!("no call {other:?}"),
        }
    }

    fn leader(&self, who: &[&str]) -> Option<LeaderKey> {
        match who {
            ["none"] => None,
            ["raw", name, key, rev, lease] => Some(LeaderKey {
                name: name.as_bytes().to_vec(),
                key: key.as_bytes().to_vec(),
                rev: rev.parse().unwrap(),
                lease: lease.parse().unwrap(),
            }),
            who => Some(self.held[who[0]].leader.clone()),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(|word| if word == "''" { String::new() } else { word.to_string() }).collect()
}

fn show<T>(answer: Result<tonic::Response<T>, Status>, shown: impl FnOnce(T) -> String) -> String {
    match answer {
        Ok(answer) => shown(answer.into_inner()),
        Err(why) => refusal(&why),
    }
}

fn refusal(why: &Status) -> String {
    format!("{:?}: {}", why.code(), why.message())
}

/// Ids and terms differ between two clusters.
fn header(header: &Option<ResponseHeader>) -> String {
    match header {
        Some(header) if header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0 => {
            format!("at {}", header.revision)
        }
        other => format!("{other:?}"),
    }
}

/// A key; of a lease whose id the server chose, only the name.
fn text(key: &[u8], lease: i64) -> String {
    let text = String::from_utf8_lossy(key).into_owned();
    if lease == 0 { text.rsplit_once('/').map_or(text.clone(), |(name, _)| format!("{name}/…")) } else { text }
}

fn pair(kv: &KeyValue) -> String {
    let [key, value] = [&kv.key, &kv.value].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let (created, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    // Those that the server chose are long.
    let lease = if kv.lease > 1_000 { 0 } else { kv.lease };
    format!("{key}={value} {created} {modified} {version} {lease}")
}

fn leader(answer: LeaderResponse) -> String {
    format!("{} {}", header(&answer.header), answer.kv.as_ref().map(pair).unwrap_or_default())
}
