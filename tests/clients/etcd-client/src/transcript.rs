//! One line a call, `call | result`: how answers and errors are written, with ids between signs that `run.py` numbers.

use std::fmt::Write;
use std::future::Future;
use std::time::Duration;

use etcd_client::{
    DeleteResponse, Error, GetResponse, KeyValue, Member, PutResponse, ResponseHeader, TxnOpResponse, TxnResponse,
    WatchResponse,
};

const LIMIT: Duration = Duration::from_secs(10);

/// Waits for a call, prints what came of it and hands it on; `None` after an error.
pub async fn call<T>(
    name: &str,
    answer: impl Future<Output = Result<T, Error>>,
    show: impl Fn(&T) -> String,
) -> Option<T> {
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(Ok(answer)) => {
            line(name, &show(&answer));
            Some(answer)
        }
        Ok(Err(e)) => {
            line(name, &error(&e));
            None
        }
        Err(_) => {
            line(name, "no answer in time");
            None
        }
    }
}

pub fn line(name: &str, result: &str) {
    println!("{name} | {}", result.split_whitespace().collect::<Vec<_>>().join(" "));
}

pub fn error(e: &Error) -> String {
    match e {
        Error::GRpcStatus(status) => format!("error {:?}: {}", status.code(), status.message()),
        // The text of a transport's error depends on how far the connection came.
        Error::TransportError(_) => "error: transport".to_owned(),
        e => format!("error: {e}"),
    }
}

pub fn header(h: Option<&ResponseHeader>) -> String {
    match h {
        None => "no header".to_owned(),
        Some(h) if h.cluster_id() == 0 && h.member_id() == 0 => format!("rev={}", h.revision()),
        Some(h) => format!("<cluster:{}> <member:{}> rev={}", h.cluster_id(), h.member_id(), h.revision()),
    }
}

pub fn lease(id: i64) -> String {
    format!("<lease:{id}>")
}

pub fn text(bytes: &[u8]) -> String {
    let mut text: String = bytes.escape_ascii().to_string();
    text.truncate(60);
    text
}

pub fn kv(kv: &KeyValue) -> String {
    let (key, value) = (text(kv.key()), text(kv.value()));
    let mut s = format!("{key}={value} c{} m{} v{}", kv.create_revision(), kv.mod_revision(), kv.version());
    if kv.lease() != 0 {
        write!(s, " {}", lease(kv.lease())).expect("a string");
    }
    s
}

pub fn kvs(all: &[KeyValue]) -> String {
    format!("[{}]", all.iter().map(kv).collect::<Vec<_>>().join("; "))
}

pub fn put(r: &PutResponse) -> String {
    format!("{} prev={}", header(r.header()), r.prev_key().map_or("none".to_owned(), kv))
}

pub fn get(r: &GetResponse) -> String {
    format!("{} count={} more={} {}", header(r.header()), r.count(), r.more(), kvs(r.kvs()))
}

pub fn delete(r: &DeleteResponse) -> String {
    format!("{} deleted={} {}", header(r.header()), r.deleted(), kvs(r.prev_kvs()))
}

pub fn txn(r: &TxnResponse) -> String {
    let all: Vec<_> = r
        .op_responses()
        .iter()
        .map(|one| match one {
            TxnOpResponse::Put(r) => format!("put {}", put(r)),
            TxnOpResponse::Get(r) => format!("get {}", get(r)),
            TxnOpResponse::Delete(r) => format!("delete {}", delete(r)),
            TxnOpResponse::Txn(r) => format!("txn ({})", txn(r)),
        })
        .collect();
    format!("{} succeeded={} [{}]", header(r.header()), r.succeeded(), all.join(" / "))
}

pub fn watch(r: &WatchResponse) -> String {
    let events: Vec<_> = r
        .events()
        .iter()
        .map(|e| {
            let prev = e.prev_kv().map_or(String::new(), |p| format!(" prev=({})", kv(p)));
            format!("{:?} {}{prev}", e.event_type(), e.kv().map_or("nothing".to_owned(), kv))
        })
        .collect();
    format!(
        "id={} {} created={} canceled={} compact={} reason={:?} [{}]",
        r.watch_id(),
        header(r.header()),
        r.created(),
        r.canceled(),
        r.compact_revision(),
        r.cancel_reason(),
        events.join("; ")
    )
}

pub fn member(m: &Member) -> String {
    format!(
        "<member:{}> {} peers={:?} clients={:?} learner={}",
        m.id(),
        m.name(),
        m.peer_urls(),
        m.client_urls(),
        m.is_learner()
    )
}

/// A time to live that counts down while one looks at it.
pub fn left(ttl: i64, granted: i64) -> String {
    if ttl > 0 && (0..4).contains(&(granted - ttl)) { "in time".to_owned() } else { ttl.to_string() }
}
