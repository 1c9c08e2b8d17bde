//! Every call of the crate `etcd-client` that needs neither auth nor snapshots, good and bad, as a transcript:
//! `etcd-client ENDPOINT DEAD`. `tests/clients/run.py` runs it against both servers and compares.

mod members;
mod recipes;
mod transcript;

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, WatchFilterType, WatchOptions, WatchStream,
};

use transcript::{call, delete, error, get, header, kv, lease, left, line, put, txn, watch};

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, live, dead] = &words[..] else { panic!("etcd-client ENDPOINT DEAD") };
    let mut c = Client::connect([live], None).await.expect("a client");
    keys(&mut c).await;
    txns(&mut c).await;
    leases(&mut c).await;
    watches(&mut c).await;
    recipes::locks(&mut c, live).await;
    recipes::elections(&mut c, live).await;
    recipes::namespaces(&mut c).await;
    members::endpoints(live, dead).await;
    members::cluster(&mut c).await;
}

async fn keys(c: &mut Client) {
    let o = PutOptions::new;
    let puts = [
        ("put", "a", "1", None),
        ("put with_prev_key", "a", "2", Some(o().with_prev_key())),
        ("put with_prev_key of nothing", "b", "2", Some(o().with_prev_key())),
        ("put with_ignore_value", "a", "", Some(o().with_ignore_value())),
        ("put with_ignore_value and a value", "a", "x", Some(o().with_ignore_value())),
        ("put with_ignore_value of nothing", "none", "", Some(o().with_ignore_value())),
        ("put with_ignore_lease", "a", "3", Some(o().with_ignore_lease())),
        ("put with_ignore_lease and a lease", "a", "3", Some(o().with_ignore_lease().with_lease(1))),
        ("put with_lease unknown", "a", "x", Some(o().with_lease(4242))),
        ("put an empty key", "", "x", None),
        ("put for lists 0", "p/3", "x", None),
        ("put for lists 1", "p/1", "z", None),
        ("put for lists 2", "p/2", "y", None),
        ("put for lists 3", "p/1", "w", None),
    ];
    for (name, key, value, options) in puts {
        call(name, c.put(key, value, options), put).await;
    }
    call("put bytes", c.put(vec![255, 0], vec![0, 254], None), put).await;
    call("put 1.4 MiB", c.put("big", vec![b'x'; 1_400_000], None), put).await;
    call("put 1.6 MiB", c.put("big", vec![b'x'; 1_600_000], None), put).await;
    call("delete big", c.delete("big", None), delete).await;

    let o = || GetOptions::new().with_prefix();
    let gets = [
        ("get", "a", None),
        ("get of nothing", "none", None),
        ("get an empty key", "", None),
        ("get with_prefix", "p/", Some(o())),
        ("get with_range", "p/1", Some(GetOptions::new().with_range("p/3"))),
        ("get with_from_key", "p/2", Some(GetOptions::new().with_from_key())),
        ("get with_all_keys", "", Some(GetOptions::new().with_all_keys())),
        ("get with_limit", "p/", Some(o().with_limit(2))),
        ("get with_revision", "p/", Some(o().with_revision(8))),
        ("get with_revision of the future", "p/", Some(o().with_revision(1000))),
        ("get with_serializable", "p/", Some(o().with_serializable())),
        ("get with_keys_only", "p/", Some(o().with_keys_only())),
        ("get with_count_only", "p/", Some(o().with_count_only())),
        ("get with_min_mod_revision", "p/", Some(o().with_min_mod_revision(9))),
        ("get with_max_mod_revision", "p/", Some(o().with_max_mod_revision(8))),
        ("get with_min_create_revision", "p/", Some(o().with_min_create_revision(8))),
        ("get with_max_create_revision", "p/", Some(o().with_max_create_revision(8))),
    ];
    for (name, key, options) in gets {
        call(name, c.get(key, options), get).await;
    }
    let streamed = async {
        let mut stream = c.kv_client().get_stream("p/", Some(o())).await?;
        let mut keys = 0;
        while let Some(piece) = stream.message().await? {
            keys += piece.kvs().len();
        }
        Ok(keys)
    };
    call("get_stream", streamed, |keys| format!("{keys} keys")).await;
    for target in [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value] {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let options = o().with_sort(target, order);
            call(&format!("get with_sort {target:?} {order:?}"), c.get("p/", Some(options)), get).await;
        }
    }
    let o = DeleteOptions::new;
    let deletes = [
        ("delete with_prev_key", "a", Some(o().with_prev_key())),
        ("delete of nothing", "a", None),
        ("delete an empty key", "", None),
        ("delete with_range", "p/1", Some(o().with_range("p/2").with_prev_key())),
        ("delete with_prefix", "p/", Some(o().with_prefix().with_prev_key())),
        ("delete with_from_key", "c", Some(o().with_from_key())),
        ("delete with_all_keys", "", Some(o().with_all_keys().with_prev_key())),
    ];
    for (name, key, options) in deletes {
        call(name, c.delete(key, options), delete).await;
    }
}

async fn txns(c: &mut Client) {
    call("put t", c.put("t", "1", None), put).await;
    let compares = [
        ("value =", vec![Compare::value("t", CompareOp::Equal, "1")]),
        ("value !=", vec![Compare::value("t", CompareOp::NotEqual, "1")]),
        ("value <", vec![Compare::value("t", CompareOp::Less, "2")]),
        ("value >", vec![Compare::value("t", CompareOp::Greater, "2")]),
        ("version", vec![Compare::version("t", CompareOp::Equal, 1)]),
        ("create_revision", vec![Compare::create_revision("t", CompareOp::Greater, 0)]),
        ("mod_revision", vec![Compare::mod_revision("t", CompareOp::Less, 1000)]),
        ("lease", vec![Compare::lease("t", CompareOp::Equal, 0)]),
        ("value of nothing", vec![Compare::value("none", CompareOp::Equal, "")]),
        ("with_range", vec![Compare::version("a", CompareOp::Greater, 0).with_range("z")]),
        ("with_prefix", vec![Compare::version("t", CompareOp::Greater, 0).with_prefix()]),
        ("two", vec![Compare::version("t", CompareOp::Equal, 1), Compare::version("none", CompareOp::Equal, 1)]),
        ("an empty key", vec![Compare::version("", CompareOp::Equal, 0)]),
        ("none", vec![]),
    ];
    for (name, compares) in compares {
        let request = Txn::new().when(compares).and_then([TxnOp::get("t", None)]).or_else([TxnOp::get("none", None)]);
        call(&format!("txn when {name}"), c.txn(request), txn).await;
    }
    let inner = || {
        let missing = Compare::create_revision("n", CompareOp::Equal, 0);
        let deleting = TxnOp::delete("n", Some(DeleteOptions::new().with_prev_key()));
        let request = Txn::new().when([missing]).and_then([TxnOp::put("n", "1", None), TxnOp::get("n", None)]);
        TxnOp::txn(request.or_else([deleting]))
    };
    let prev = PutOptions::new().with_prev_key();
    let many = |count: usize| (0..count).map(|n| TxnOp::put(format!("many{n}"), "", None)).collect::<Vec<_>>();
    let unknown = PutOptions::new().with_lease(4242);
    let then = [
        (
            "everything",
            vec![
                TxnOp::put("t1", "1", None),
                TxnOp::put("t", "2", Some(prev)),
                TxnOp::get("t", Some(GetOptions::new().with_prefix())),
                TxnOp::delete("t1x", None),
            ],
        ),
        ("nested, then", vec![inner()]),
        ("nested, else", vec![inner()]),
        ("nested twice", vec![TxnOp::txn(Txn::new().and_then([inner()])), TxnOp::put("q", "1", None)]),
        ("a key twice", vec![TxnOp::put("d", "1", None), TxnOp::put("d", "2", None)]),
        ("put and delete", vec![TxnOp::put("d", "1", None), TxnOp::delete("d", None)]),
        ("an unknown lease", vec![TxnOp::put("d", "1", Some(unknown))]),
        ("a future revision", vec![TxnOp::get("t", Some(GetOptions::new().with_revision(1000)))]),
        ("129 operations", many(129)),
        ("nothing", vec![]),
    ];
    for (name, operations) in then {
        call(&format!("txn and_then {name}"), c.txn(Txn::new().and_then(operations)), txn).await;
    }
    call("txn of 128 operations", c.txn(Txn::new().and_then(many(128))), |r| header(r.header())).await;

    call("hash_kv", c.hash_kv(0), |r| format!("{} compact={}", r.hash(), r.compact_version())).await;
    call("compact", c.compact(10, None), |r| header(r.header())).await;
    call("compact again", c.compact(10, None), |r| header(r.header())).await;
    let physical = etcd_client::CompactionOptions::new().with_physical();
    call("compact with_physical", c.compact(12, Some(physical)), |r| header(r.header())).await;
    call("compact the future", c.compact(100_000, None), |r| header(r.header())).await;
    call("get of the compacted", c.get("t", Some(GetOptions::new().with_revision(5))), get).await;
    call("hash_kv after", c.hash_kv(0), |r| format!("{} compact={}", r.hash(), r.compact_version())).await;
    call("hash_kv of the compacted", c.hash_kv(5), |r| r.hash().to_string()).await;
    call("hash_kv of the future", c.hash_kv(100_000), |r| r.hash().to_string()).await;
    call("hash", c.hash(), |r| if r.hash() == 0 { "none".to_owned() } else { "a number".to_owned() }).await;
}

async fn leases(c: &mut Client) {
    let granted = call("lease_grant", c.lease_grant(60, None), |r| {
        format!("{} {} ttl={} error={:?}", header(r.header()), lease(r.id()), r.ttl(), r.error())
    });
    let Some(id) = granted.await.map(|r| r.id()) else { return };
    for (name, ttl, id) in [
        ("lease_grant with_id", 60, 7000),
        ("lease_grant with_id again", 60, 7000),
        ("lease_grant no time", 0, 7001),
        ("lease_grant less than no time", -1, 7002),
        ("lease_grant too long", 9_000_000_001, 7003),
    ] {
        let options = LeaseGrantOptions::new().with_id(id);
        call(name, c.lease_grant(ttl, Some(options)), |r| format!("{} ttl={}", r.id(), r.ttl())).await;
    }
    let with = |id| Some(PutOptions::new().with_lease(id));
    call("put with the lease", c.put("l/1", "1", with(id)), put).await;
    call("put with the lease, too", c.put("l/2", "1", with(id)), put).await;
    call("put with_ignore_lease", c.put("l/2", "2", Some(PutOptions::new().with_ignore_lease())), put).await;
    call("put with another lease", c.put("l/3", "1", with(7000)), put).await;
    call("get with leases", c.get("l/", Some(GetOptions::new().with_prefix())), get).await;
    ttl(c, "lease_time_to_live", id, false).await;
    ttl(c, "lease_time_to_live with_keys", id, true).await;
    ttl(c, "lease_time_to_live unknown", 4242, true).await;
    call("leases", c.leases(), |r| r.leases().len().to_string()).await;
    for (name, id) in [("lease_keep_alive", id), ("lease_keep_alive unknown", 4242)] {
        let alive = call(name, c.lease_keep_alive(id), |(keeper, _)| lease(keeper.id())).await;
        let Some((mut keeper, mut stream)) = alive else { continue };
        for n in 0..2 {
            call(&format!("{name}, send {n}"), keeper.keep_alive(), |()| "ok".to_owned()).await;
            let shown = |r: &Option<etcd_client::LeaseKeepAliveResponse>| match r {
                Some(r) => format!("{} {} ttl={}", header(r.header()), lease(r.id()), r.ttl()),
                None => "the end".to_owned(),
            };
            call(&format!("{name}, answer {n}"), stream.message(), shown).await;
        }
    }
    call("lease_revoke", c.lease_revoke(id), |r| header(r.header())).await;
    call("lease_revoke again", c.lease_revoke(id), |r| header(r.header())).await;
    ttl(c, "lease_time_to_live revoked", id, true).await;
    call("get after the revoke", c.get("l/", Some(GetOptions::new().with_prefix())), get).await;
    call("put with the revoked", c.put("l/1", "1", with(id)), put).await;

    let options = Some(WatchOptions::new().with_prefix().with_prev_key());
    let Some(mut stream) = call("watch for the expiry", c.watch("l/", options), |_| "ok".to_owned()).await else {
        return;
    };
    answers("expiry, created", &mut stream, 1).await;
    call("lease_grant short", c.lease_grant(1, Some(LeaseGrantOptions::new().with_id(7100))), |r| r.ttl().to_string())
        .await;
    call("put with the short", c.put("l/short", "1", with(7100)), put).await;
    answers("expiry", &mut stream, 2).await;
    ttl(c, "lease_time_to_live expired", 7100, true).await;
}

async fn ttl(c: &mut Client, name: &str, id: i64, with_keys: bool) {
    let options = with_keys.then(|| LeaseTimeToLiveOptions::new().with_keys());
    call(name, c.lease_time_to_live(id, options), |r| {
        let mut keys: Vec<_> = r.keys().iter().map(|k| transcript::text(k)).collect();
        keys.sort(); // etcd goes through a map
        let left = left(r.ttl(), r.granted_ttl());
        format!("{} {} ttl={left} granted={} keys={keys:?}", header(r.header()), lease(r.id()), r.granted_ttl())
    })
    .await;
}

/// The next answers of a stream, as they come.
async fn answers(name: &str, stream: &mut WatchStream, count: usize) {
    for n in 0..count {
        let shown = |r: &Option<_>| r.as_ref().map_or("the end".to_owned(), watch);
        call(&format!("{name} {n}"), stream.message(), shown).await;
    }
}

/// The next events of a stream, in whatever answers they come; what has none is left out.
async fn events(name: &str, stream: &mut WatchStream, count: usize) {
    let mut n = 0;
    while n < count {
        match tokio::time::timeout(Duration::from_secs(10), stream.message()).await {
            Ok(Ok(Some(r))) => {
                for e in r.events() {
                    let kind = if e.event_type() == EventType::Put { "put" } else { "delete" };
                    let prev = e.prev_kv().map_or(String::new(), |p| format!(" prev=({})", kv(p)));
                    let shown = e.kv().map_or("nothing".to_owned(), kv);
                    line(&format!("{name} {n}"), &format!("id={} {kind} {shown}{prev}", r.watch_id()));
                    n += 1;
                }
                if r.canceled() {
                    return line(&format!("{name} {n}"), &watch(&r));
                }
            }
            Ok(Ok(None)) => return line(&format!("{name} {n}"), "the end"),
            Ok(Err(e)) => return line(&format!("{name} {n}"), &error(&e)),
            Err(_) => return line(&format!("{name} {n}"), "no event in time"),
        }
    }
}

async fn watches(c: &mut Client) {
    let Some(first) = call("put w/a", c.put("w/a", "1", None), put).await else { return };
    let start = first.header().map_or(0, |h| h.revision());
    call("put w/a 2", c.put("w/a", "2", None), put).await;
    call("put w/b", c.put("w/b", "1", None), put).await;
    let both = [TxnOp::put("w/a", "3", None), TxnOp::delete("w/b", None), TxnOp::put("w/c", "1", None)];
    call("txn on all", c.txn(Txn::new().and_then(both)), txn).await;

    let o = || WatchOptions::new().with_start_revision(start);
    let past = [
        ("watch a key", "w/a", o(), 3),
        ("watch with_prefix with_prev_key", "w/", o().with_prefix().with_prev_key(), 6),
        ("watch with_range", "w/a", o().with_range("w/b"), 3),
        ("watch with_from_key", "w/b", o().with_from_key(), 3),
        ("watch with_all_keys", "", o().with_all_keys(), 6),
        ("watch no puts", "w/", o().with_prefix().with_filters([WatchFilterType::NoPut]), 1),
        ("watch no deletes", "w/", o().with_prefix().with_filters([WatchFilterType::NoDelete]), 5),
        ("watch nothing of all", "w/", o().with_filters([WatchFilterType::NoDelete, WatchFilterType::NoPut]), 0),
        ("watch with_watch_id", "w/a", o().with_watch_id(77), 3),
        ("watch with_fragment", "w/a", o().with_fragment(), 3),
        ("watch a negative revision", "w/a", o().with_start_revision(-1), 0),
        ("watch a negative id", "w/a", o().with_watch_id(-1), 0),
        ("watch the compacted", "w/a", o().with_start_revision(5), 1),
    ];
    for (name, key, options, count) in past {
        let stream = call(name, c.watch(key, Some(options)), |_| "ok".to_owned()).await;
        if let Some(mut stream) = stream {
            answers(&format!("{name}, created"), &mut stream, 1).await;
            events(name, &mut stream, count).await;
        }
    }

    // One stream, many watchers.
    let Some(mut s) = call("watch", c.watch("w/s", None), |_| "ok".to_owned()).await else { return };
    answers("stream, created", &mut s, 1).await;
    let more = [
        ("an id", "w/s", Some(WatchOptions::new().with_watch_id(5))),
        ("the same id", "w/s", Some(WatchOptions::new().with_watch_id(5))),
        ("the next id", "w/t", None),
        ("a future revision", "w/s", Some(WatchOptions::new().with_start_revision(start + 5))),
        ("an empty key", "", None),
        ("a range the wrong way round", "w/t", Some(WatchOptions::new().with_range("w/a"))),
    ];
    for (name, key, options) in more {
        let name = format!("stream, {name}");
        call(&name, s.watch(key, options), |()| "ok".to_owned()).await;
        answers(&name, &mut s, 1).await;
    }
    // Watchers of one stream hear of a change in no order that either server promises.
    for (name, key) in [("put w/t", "w/t"), ("put w/t again", "w/t")] {
        call(name, c.put(key, "1", None), put).await;
        answers(name, &mut s, 1).await;
    }
    call("stream, progress", s.request_progress(), |()| "ok".to_owned()).await;
    answers("stream, progress", &mut s, 1).await;
    for (name, id) in [("stream, cancel", 5), ("stream, cancel the first", 0)] {
        call(name, s.cancel(id), |()| "ok".to_owned()).await;
        answers(name, &mut s, 1).await;
    }
    call("stream, cancel nobody", s.cancel(99), |()| "ok".to_owned()).await;
    let (mut sender, mut receiver) = s.split();
    let again = sender.watch("w/v", Some(WatchOptions::new().with_watch_id(5).with_progress_notify()));
    call("split, watch", again, |()| "ok".to_owned()).await;
    for n in 0..2 {
        let shown = |r: &Option<_>| r.as_ref().map_or("the end".to_owned(), watch);
        call(&format!("split, message {n}"), receiver.message(), shown).await;
    }
    call("split, progress", sender.request_progress(), |()| "ok".to_owned()).await;
    drop((sender, receiver));

    big(c).await;
    let stream = call("watch compacted away", c.watch("w/z", Some(o())), |_| "ok".to_owned()).await;
    if let Some(mut s) = stream {
        answers("watch compacted away", &mut s, 1).await;
    }
}

/// Revisions of more than one answer's size, with fragments and without.
async fn big(c: &mut Client) {
    let options = WatchOptions::new().with_prefix().with_fragment().with_prev_key();
    let Some(mut s) = call("big, watch", c.watch("big/", Some(options)), |_| "ok".to_owned()).await else { return };
    answers("big, created", &mut s, 1).await;
    for n in 0..4 {
        let key = format!("big/{n}");
        call(&format!("put {key}"), c.put(key.clone(), vec![b'x'; 700_000], None), put).await;
    }
    let all = DeleteOptions::new().with_prefix();
    call("big, delete", c.delete("big/", Some(all)), delete).await;
    events("big", &mut s, 8).await;
}
