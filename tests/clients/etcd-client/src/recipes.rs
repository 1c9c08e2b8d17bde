//! Locks, elections and namespaces.

use std::time::Duration;

use etcd_client::{
    CampaignResponse, Client, Compare, CompareOp, DeleteOptions, GetOptions, KvClientPrefix, LeaderResponse,
    LeaseClientPrefix, LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions, ProclaimOptions, PutOptions,
    ResignOptions, Txn, TxnOp,
};

use crate::transcript::{call, delete, get, header, kv, line, put, text, txn};

pub async fn locks(c: &mut Client, live: &str) {
    for id in [8000, 8001] {
        let granted = c.lease_grant(60, Some(LeaseGrantOptions::new().with_id(id)));
        call(&format!("lease_grant {id}"), granted, |r| r.ttl().to_string()).await;
    }
    let with = |id| Some(LockOptions::new().with_lease(id));
    let shown = |r: &etcd_client::LockResponse| format!("{} {}", header(r.header()), text(r.key()));
    let first = call("lock", c.lock("lk", with(8000)), shown).await;
    call("lock again", c.lock("lk", with(8000)), shown).await;
    call("lock with_lease unknown", c.lock("lk", with(4242)), shown).await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), c.lock("lk", with(8001))).await;
    line("lock of another, in time", if waiting.is_err() { "waits" } else { "an answer" });
    tokio::time::sleep(Duration::from_millis(200)).await;
    call("get lk", c.get("lk", Some(GetOptions::new().with_prefix())), get).await;

    let mut other = Client::connect([live], None).await.expect("a client");
    let task = tokio::spawn(async move { other.lock("lk", with(8001)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let key = first.map_or(Vec::new(), |r| r.key().to_vec());
    call("unlock", c.unlock(key.clone()), |r| header(r.header())).await;
    let second = call("lock of another, unlocked", async { task.await.expect("a task") }, shown).await;
    call("unlock again", c.unlock(key), |r| header(r.header())).await;
    call("unlock an empty key", c.unlock(""), |r| header(r.header())).await;
    call("lease_revoke 8001", c.lease_revoke(8001), |r| header(r.header())).await;
    call("lock, the other's lease is gone", c.lock("lk", with(8000)), shown).await;
    if let Some(second) = second {
        call("unlock what is gone", c.unlock(second.key()), |r| header(r.header())).await;
    }
    let own = call("lock with a lease of its own", c.lock("own", None), |r| {
        let (name, id) = r.key().split_at(4);
        format!("{} {} and {}", header(r.header()), text(name), if id.len() > 12 { "an id" } else { "nothing" })
    });
    if let Some(own) = own.await {
        call("unlock of its own", c.unlock(own.key()), |r| header(r.header())).await;
    }
    call("lock without name", c.lock("", with(8000)), shown).await;
}

pub async fn elections(c: &mut Client, live: &str) {
    call("lease_grant 8002", c.lease_grant(60, Some(LeaseGrantOptions::new().with_id(8002))), |r| r.ttl().to_string())
        .await;
    let elected = |r: &CampaignResponse| match r.leader() {
        Some(l) => {
            format!("{} {} {} rev={} lease={}", header(r.header()), text(l.name()), text(l.key()), l.rev(), l.lease())
        }
        None => "nobody".to_owned(),
    };
    let leader = |r: &LeaderResponse| format!("{} {}", header(r.header()), r.kv().map_or("nobody".to_owned(), kv));
    call("leader of nobody", c.leader("el"), leader).await;
    let one = call("campaign", c.campaign("el", "one", 8000), elected).await;
    let mut observed = call("observe", c.observe("el"), |_| "ok".to_owned()).await;
    observe(&mut observed, "observe one").await;
    call("campaign again", c.campaign("el", "eins", 8000), elected).await;
    observe(&mut observed, "observe eins").await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), c.campaign("el", "two", 8002)).await;
    line("campaign of another, in time", if waiting.is_err() { "waits" } else { "an answer" });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let key = one.and_then(|mut r| r.take_leader()).unwrap_or_default();
    let options = || Some(ProclaimOptions::new().with_leader(key.clone()));
    call("proclaim", c.proclaim("uno", options()), |r| header(r.header())).await;
    observe(&mut observed, "observe uno").await;
    call("leader", c.leader("el"), leader).await;
    let mut other = Client::connect([live], None).await.expect("a client");
    let task = tokio::spawn(async move { other.campaign("el", "two", 8002).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    call("resign", c.resign(Some(ResignOptions::new().with_leader(key.clone()))), |r| header(r.header())).await;
    call("campaign of another", async { task.await.expect("a task") }, elected).await;
    observe(&mut observed, "observe two").await;
    call("proclaim, resigned", c.proclaim("late", options()), |r| header(r.header())).await;
    call("resign again", c.resign(Some(ResignOptions::new().with_leader(key))), |r| header(r.header())).await;
    call("proclaim without leader", c.proclaim("x", None), |r| header(r.header())).await;
    call("resign without leader", c.resign(None), |r| header(r.header())).await;
    call("campaign with an unknown lease", c.campaign("el", "x", 4242), elected).await;
    call("campaign without a name", c.campaign("", "x", 8000), elected).await;
    call("lease_revoke 8002", c.lease_revoke(8002), |r| header(r.header())).await;
    call("leader, its lease is gone", c.leader("el"), leader).await;
    call("lease_revoke 8000", c.lease_revoke(8000), |r| header(r.header())).await;
}

async fn observe(stream: &mut Option<etcd_client::ObserveStream>, name: &str) {
    let Some(stream) = stream else { return };
    let shown = |r: &Option<LeaderResponse>| match r.as_ref().and_then(|r| r.kv()) {
        Some(leader) => kv(leader),
        None => "nobody".to_owned(),
    };
    call(name, stream.message(), shown).await;
}

pub async fn namespaces(c: &mut Client) {
    let mut ns = KvClientPrefix::new(c.kv_client(), b"ns/".to_vec());
    call("namespace put", ns.put("a", "1", None), put).await;
    call("namespace put with_prev_key", ns.put("a", "2", Some(PutOptions::new().with_prev_key())), put).await;
    call("namespace get", ns.get("a", None), get).await;
    call("namespace get with_all_keys", ns.get("", Some(GetOptions::new().with_all_keys())), get).await;
    let request = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("b", "1", None), TxnOp::get("", Some(GetOptions::new().with_prefix()))]);
    call("namespace txn", ns.txn(request), txn).await;
    call("all of them", c.get("ns/", Some(GetOptions::new().with_prefix())), get).await;
    call("lease_grant 8003", c.lease_grant(60, Some(LeaseGrantOptions::new().with_id(8003))), |r| r.ttl().to_string())
        .await;
    call("namespace put with_lease", ns.put("l", "1", Some(PutOptions::new().with_lease(8003))), put).await;
    let mut leases = LeaseClientPrefix::new(c.lease_client(), b"ns/".to_vec());
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    call("namespace time_to_live", leases.time_to_live(8003, keys), |r| format!("{:?}", r.keys())).await;
    call("namespace delete", ns.delete("", Some(DeleteOptions::new().with_all_keys().with_prev_key())), delete).await;
}
