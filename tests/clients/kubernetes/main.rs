//! The access pattern of a Kubernetes API server on the crate `etcd-client`, as a transcript:
//! `kubernetes ENDPOINT DEAD`. Creation by txn, guarded updates and deletes, paged lists at a revision, counts,
//! watchers from a revision with progress, events on leases, and compaction by `compact_rev_key`.
//! `tests/clients/run.py` compares both servers.
//!
//! Writers of different namespaces run side by side, so revisions differ from run to run there; what is printed is what
//! must not: how many of what, the final objects, and whether every watcher saw each change, once, in order, with its
//! former value.

mod watchers;

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error, EventType, GetOptions, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp,
    TxnOpResponse, WatchOptions,
};

use watchers::{Objects, Watchers};

const NAMESPACES: usize = 10;
const OBJECTS: usize = 5_000;
const PAGE: i64 = 500;
const LIMIT: Duration = Duration::from_secs(100);

#[tokio::main]
async fn main() {
    let live = std::env::args().nth(1).expect("kubernetes ENDPOINT DEAD");
    let mut c = Client::connect([&live], None).await.expect("a client");
    if let Err(e) = tokio::time::timeout(LIMIT, run(&live, &mut c)).await.unwrap_or_else(|_| panic!("not done in time"))
    {
        line("an error ends it", &error(&e));
    }
}

async fn run(live: &str, c: &mut Client) -> Result<(), Error> {
    line("health: a get of what is not there", &format!("{} keys", c.get("/registry/health", None).await?.count()));
    for namespace in 0..NAMESPACES {
        let made = create(c, &format!("/registry/namespaces/ns-{namespace}"), "active").await?;
        line(&format!("create namespace {namespace}"), &made.shown());
    }
    let again = create(c, "/registry/namespaces/ns-0", "again").await?;
    line("create namespace 0 again", &again.shown());

    let start = revision(c).await?;
    let mut watchers = Watchers::start(live, c, start + 1, NAMESPACES).await?;
    in_parallel(live, "create", |mut c, key, n| async move { Ok(create(&mut c, &key, &spec(n, 1)).await?.is_done) })
        .await?;
    line("pods after the creation", &count(c, "/registry/pods/").await?.to_string());
    in_parallel(live, "update", |mut c, key, n| async move {
        if n / NAMESPACES % 5 != 0 {
            return Ok(true);
        }
        let found = c.get(key.clone(), None).await?;
        let first = &found.kvs()[0];
        let stale = update(&mut c, &key, first.mod_revision() - 1, &spec(n, 9)).await?;
        let fresh = update(&mut c, &key, stale.now.map_or(0, |now| now.mod_revision()), &spec(n, 2)).await?;
        Ok(!stale.is_done && fresh.is_done)
    })
    .await?;
    in_parallel(live, "delete", |mut c, key, n| async move {
        if n / NAMESPACES % 10 != 3 {
            return Ok(true);
        }
        let found = c.get(key.clone(), Some(GetOptions::new().with_serializable())).await?;
        let wrong = delete(&mut c, &key, 1).await?;
        let right = delete(&mut c, &key, found.kvs()[0].mod_revision()).await?;
        Ok(!wrong.is_done && right.is_done)
    })
    .await?;

    let listed = lists(c).await?;
    let now = revision(c).await?;
    watchers.catch_up(now).await?;
    watchers.report("the pods", &listed);
    line("watchers hear of progress by themselves", &watchers.hear_progress(now).await?);
    events(c).await?;
    compaction(live, c, start).await?;
    drop(watchers);
    Ok(())
}

fn pod(n: usize) -> String {
    format!("/registry/pods/ns-{}/pod-{n:05}", n % NAMESPACES)
}

/// About as long as a small object of Kubernetes.
fn spec(n: usize, generation: u32) -> String {
    format!("{{\"generation\":{generation},\"name\":\"pod-{n}\",\"padding\":\"{}\"}}", "x".repeat(400))
}

/// Runs `f` on every pod, one writer a namespace with a client of its own.
async fn in_parallel<F, A>(live: &str, name: &str, f: F) -> Result<(), Error>
where
    F: Fn(Client, String, usize) -> A + Send + Copy + 'static,
    A: Future<Output = Result<bool, Error>> + Send + 'static,
{
    let mut tasks = Vec::new();
    for namespace in 0..NAMESPACES {
        let c = Client::connect([live], None).await?;
        tasks.push(tokio::spawn(async move {
            let mut right = 0;
            for n in (namespace..OBJECTS).step_by(NAMESPACES) {
                right += usize::from(f(c.clone(), pod(n), n).await?);
            }
            Ok::<_, Error>(right)
        }));
    }
    let mut right = 0;
    for task in tasks {
        right += task.await.expect("a writer ends")?;
    }
    line(&format!("{name} {OBJECTS} pods"), &format!("{right} as expected"));
    Ok(())
}

/// What a guarded write did: whether it was done, and what is there instead when it was not.
struct Written {
    is_done: bool,
    now: Option<KeyValue>,
}

impl Written {
    fn shown(&self) -> String {
        match &self.now {
            None => format!("done={}", self.is_done),
            Some(now) => format!("done={} {}", self.is_done, shown(now)),
        }
    }
}

async fn guarded(c: &mut Client, key: &str, expected: i64, then: TxnOp) -> Result<Written, Error> {
    let guard = Compare::mod_revision(key, CompareOp::Equal, expected);
    let r = c.txn(Txn::new().when([guard]).and_then([then]).or_else([TxnOp::get(key, None)])).await?;
    let now = r.op_responses().into_iter().find_map(|one| match one {
        TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
        _ => None,
    });
    Ok(Written { is_done: r.succeeded(), now })
}

async fn create(c: &mut Client, key: &str, value: &str) -> Result<Written, Error> {
    guarded(c, key, 0, TxnOp::put(key, value, None)).await
}

async fn update(c: &mut Client, key: &str, expected: i64, value: &str) -> Result<Written, Error> {
    guarded(c, key, expected, TxnOp::put(key, value, None)).await
}

async fn delete(c: &mut Client, key: &str, expected: i64) -> Result<Written, Error> {
    guarded(c, key, expected, TxnOp::delete(key, None)).await
}

async fn count(c: &mut Client, prefix: &str) -> Result<i64, Error> {
    Ok(c.get(prefix, Some(GetOptions::new().with_prefix().with_count_only())).await?.count())
}

async fn revision(c: &mut Client) -> Result<i64, Error> {
    Ok(c.get("/registry/health", None).await?.header().map_or(0, |h| h.revision()))
}

/// A list in pages at the revision of the first, with writes in between; returns what it has.
async fn lists(c: &mut Client) -> Result<Objects, Error> {
    let prefix = "/registry/pods/";
    let end = "/registry/pods0";
    let (mut from, mut at, mut all) = (prefix.as_bytes().to_vec(), 0, Objects::default());
    for page in 0.. {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(at);
        let r = c.get(from, Some(options)).await?;
        at = if at == 0 { r.header().map_or(0, |h| h.revision()) } else { at };
        for kv in r.kvs() {
            all.put(kv);
        }
        let ends = [r.kvs().first(), r.kvs().last()].map(|kv| kv.map_or(String::new(), shown_key));
        line(
            &format!("list, page {page}"),
            &format!("count={} more={} {} {ends:?}", r.count(), r.more(), r.kvs().len()),
        );
        if page == 1 {
            c.put("/registry/pods/ns-5/between", "x", None).await?;
            c.delete("/registry/pods/ns-5/between", None).await?;
            c.put("/registry/other", "x", None).await?;
        }
        from = r.kvs().last().map_or(Vec::new(), |kv| [kv.key(), &[0]].concat());
        if !r.more() {
            break;
        }
    }
    line("list in pages", &all.digest());
    for (name, options) in [
        ("list linearizable", GetOptions::new().with_prefix()),
        ("list serializable", GetOptions::new().with_prefix().with_serializable()),
        ("list at the revision", GetOptions::new().with_prefix().with_revision(at)),
    ] {
        let mut whole = Objects::default();
        for kv in c.get(prefix, Some(options)).await?.kvs() {
            whole.put(kv);
        }
        line(name, &format!("equal to the pages: {}", whole.digest() == all.digest()));
    }
    for namespace in 0..NAMESPACES {
        let prefix = format!("/registry/pods/ns-{namespace}/");
        line(&format!("count of namespace {namespace}"), &count(c, &prefix).await?.to_string());
    }
    Ok(all)
}

/// Events live as long as a lease that many of them share.
async fn events(c: &mut Client) -> Result<(), Error> {
    let (id, ttl) = (9_000, 5);
    c.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await?;
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = c.watch("/registry/events/", Some(options)).await?;
    stream.message().await?;
    for n in 0..200 {
        let key = format!("/registry/events/ns-0/event-{n:03}");
        let put = TxnOp::put(key.as_str(), "happened", Some(PutOptions::new().with_lease(id)));
        guarded(c, &key, 0, put).await?;
    }
    line("events", &count(c, "/registry/events/").await?.to_string());
    let (mut puts, mut gone, mut revisions) = (0, Vec::new(), Vec::new());
    while gone.len() < 200 {
        let Some(r) = stream.message().await? else { break };
        for e in r.events() {
            let kv = e.kv().expect("an event has one");
            if e.event_type() == EventType::Put {
                puts += 1;
            } else {
                revisions.push(kv.mod_revision());
                gone.push(format!("{} was {}", shown_key(kv), e.prev_kv().map_or(String::new(), shown_key)));
            }
        }
    }
    revisions.dedup();
    let is_sorted = gone.is_sorted();
    line(
        "events expire",
        &format!("{puts} puts, {} deletions, {} revision, in order: {is_sorted}", gone.len(), revisions.len()),
    );
    line("events expire, the first", &gone[0]);
    line("events after the expiry", &count(c, "/registry/events/").await?.to_string());
    Ok(())
}

/// Two API servers compact as `k8s.io/apiserver` does: whoever moves the key does it, the other learns from it.
async fn compaction(live: &str, c: &mut Client, start: i64) -> Result<(), Error> {
    let mut other = Client::connect([live], None).await?;
    let mut known = [(0, 0), (0, 0)];
    for round in 0..3 {
        for server in 0..2 {
            let c = if server == 0 { &mut *c } else { &mut other };
            let (version, target) = known[server];
            let key = "compact_rev_key";
            let guard = Compare::version(key, CompareOp::Equal, version);
            let then = TxnOp::put(key, target.to_string(), None);
            let r = c.txn(Txn::new().when([guard]).and_then([then]).or_else([TxnOp::get(key, None)])).await?;
            let now = r.header().map_or(0, |h| h.revision());
            let name = format!("compaction, round {round}, server {server}");
            if r.succeeded() {
                known[server] = (version + 1, now);
                match c.compact(target, None).await {
                    Ok(_) => line(&name, "compacted"),
                    Err(e) => line(&name, &error(&e)),
                }
            } else {
                let version = match &r.op_responses()[0] {
                    TxnOpResponse::Get(found) => found.kvs()[0].version(),
                    _ => 0,
                };
                known[server] = (version, now);
                line(&name, &format!("another did, version {version}"));
            }
        }
        c.put("/registry/other", round.to_string(), None).await?;
    }
    let old = GetOptions::new().with_prefix().with_limit(PAGE).with_revision(start + 1);
    match c.get("/registry/pods/", Some(old)).await {
        Ok(r) => line("go on with an old list", &format!("{} objects", r.count())),
        Err(e) => line("go on with an old list", &error(&e)),
    }
    let options = WatchOptions::new().with_prefix().with_start_revision(start + 1);
    let mut stream = c.watch("/registry/pods/", Some(options)).await?;
    for n in 0..2 {
        let Some(r) = stream.message().await? else { break };
        let is_known = r.compact_revision() == known[0].1.min(known[1].1) || r.compact_revision() > start;
        let text = format!("created={} canceled={} compact revision: {is_known}", r.created(), r.canceled());
        line(&format!("watch from an old revision {n}"), &text);
    }
    let mut whole = Objects::default();
    for kv in c.get("/registry/pods/", Some(GetOptions::new().with_prefix())).await?.kvs() {
        whole.put(kv);
    }
    line("list after the compaction", &whole.digest());
    Ok(())
}

fn line(name: &str, result: &str) {
    println!("{name} | {result}");
}

fn shown_key(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.key()).into_owned()
}

fn shown(kv: &KeyValue) -> String {
    let value = String::from_utf8_lossy(kv.value());
    format!("{}={value} c{} m{} v{}", shown_key(kv), kv.create_revision(), kv.mod_revision(), kv.version())
}

fn error(e: &Error) -> String {
    match e {
        Error::GRpcStatus(status) => format!("error {:?}: {}", status.code(), status.message()),
        e => format!("error: {e}"),
    }
}
