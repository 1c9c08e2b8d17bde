//! The store against real etcds: the same requests end in the same revisions, the same rows and the same HashKV.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep::mvcc::read::{RangeOptions, Read, Write};
use lockstep::mvcc::{Backend, CompactProgress, Options, Store};
use lockstep::ports::disk::Disk;
use lockstep::proto::etcdserverpb::kv_client::KvClient;
use lockstep::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use lockstep::proto::etcdserverpb::request_op::Request;
use lockstep::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use tonic::transport::{Channel, Endpoint};

use crate::util::oracle::Etcd;
use crate::util::small_disk::SmallDisk;

struct Server {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(etcd: Etcd) -> Option<Server> {
        let program = etcd.program("etcd")?;
        let dir = tempfile::tempdir().unwrap();
        let [client, peer] = free_ports().map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new(program)
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--name=m", "--log-level=error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Server { child, endpoint: client, _dir: dir })
    }

    async fn connect(&self) -> Channel {
        for _ in 0..200 {
            if let Ok(channel) = Endpoint::new(self.endpoint.clone()).unwrap().connect().await {
                let probe = RangeRequest { key: Bytes::from_static(b"probe"), ..RangeRequest::default() };
                if KvClient::new(channel.clone()).range(probe).await.is_ok() {
                    return channel;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd at {} does not answer", self.endpoint);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two ports that were free a moment ago, held together so that they differ.
fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref().map(|listener| listener.local_addr().unwrap().port())
}

/// Numbers that look random and are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

struct Pair {
    kv: KvClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    disk: Arc<SmallDisk>,
    store: Store,
    backend: Backend,
}

impl Pair {
    /// Runs one transaction on both. The store's txn is what etcd's applier does with each operation.
    async fn txn(&mut self, ops: Vec<Request>) {
        let mut txn = self.store.write();
        for op in ops.clone() {
            match op {
                Request::RequestPut(put) => drop(txn.put(put.key, put.value, 0)),
                Request::RequestDeleteRange(delete) => drop(txn.delete_range(&delete.key, &delete.range_end)),
                other => panic!("not a write: {other:?}"),
            }
        }
        drop(txn);
        let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
        let response = self.kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap().into_inner();
        assert_eq!(response.header.unwrap().revision, self.store.revision());
        self.commit();
    }

    async fn compact(&mut self, revision: i64) {
        let ours = self.store.compact(revision).map_err(|e| format!("etcdserver: {e}"));
        let theirs = self.kv.compact(CompactionRequest { revision, physical: true }).await;
        assert_eq!(ours, theirs.map(|_| ()).map_err(|status| status.message().to_string()));
    }

    fn commit(&mut self) {
        let next = self.store.consistent_index() + 1;
        self.store.set_consistent_index(next, 2);
        if next.is_multiple_of(7) {
            let batch = self.store.seal().unwrap();
            let done = self.backend.commit(&batch).unwrap();
            self.store.committed(done);
        }
    }

    fn sweep(&mut self) {
        self.store.publish(1);
        while self.store.compact_step(3) != CompactProgress::Idle {}
    }

    fn reopen(&mut self) {
        if let Some(batch) = self.store.seal() {
            let done = self.backend.commit(&batch).unwrap();
            self.store.committed(done);
        }
        self.backend.poison();
        self.disk = Arc::new(self.disk.crash(|| true));
        (self.store, self.backend) = open(&self.disk);
    }

    /// Everything both would tell a client, at some revisions that are not compacted.
    async fn compare(&mut self, draw: &mut Draw) {
        let view = self.store.publish(1);
        let (oldest, newest) = (view.compact_rev().max(1), view.rev());
        let mut revisions = vec![0, newest, oldest + 1];
        revisions.extend((0..4).map(|_| oldest + 1 + draw.below((newest - oldest).max(1) as u64) as i64));
        // These releases refuse the compaction revision itself; later ones, and the store, do not.
        for rev in revisions.into_iter().filter(|r| *r == 0 || (*r <= newest && *r > view.compact_rev())) {
            let theirs = self.maintenance.hash_kv(HashKvRequest { revision: rev }).await.unwrap().into_inner();
            let ours = view.hash_kv(rev).unwrap();
            assert_eq!(ours.hash, theirs.hash, "HashKV at {rev} of {newest}, compacted at {oldest}");
            assert_eq!(ours.compact_revision, theirs.compact_revision);

            let request = RangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                revision: rev,
                limit: 3,
                ..RangeRequest::default()
            };
            let theirs = self.kv.range(request).await.unwrap().into_inner();
            let ours = view.range(b"\0", b"\0", RangeOptions { rev, limit: 3, ..RangeOptions::default() }).unwrap();
            assert_eq!((ours.kvs, ours.count), (theirs.kvs, theirs.count), "all keys at {rev}");
        }
    }
}

fn open(disk: &Arc<SmallDisk>) -> (Store, Backend) {
    Store::open(disk.clone() as Arc<dyn Disk>, "db", Options { cache_bytes: 1 << 20, ..Options::default() }).unwrap()
}

fn put(key: String, value: String) -> Request {
    Request::RequestPut(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
}

fn delete(key: &str, range_end: &str) -> Request {
    let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(range_end.as_bytes()));
    Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() })
}

#[test]
fn revisions_and_hashes_are_those_of_etcd_3_5() {
    same_as(Etcd::V35, 1);
}

#[test]
fn revisions_and_hashes_are_those_of_etcd_3_4() {
    same_as(Etcd::V34, 2);
}

fn same_as(etcd: Etcd, seed: u64) {
    let Some(server) = Server::start(etcd) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = server.connect().await;
        let disk = Arc::<SmallDisk>::default();
        let (store, backend) = open(&disk);
        let (kv, maintenance) = (KvClient::new(channel.clone()), MaintenanceClient::new(channel));
        let mut pair = Pair { kv, maintenance, disk, store, backend };
        let mut draw = Draw(seed);

        pair.compare(&mut draw).await;
        for round in 0..12 {
            for _ in 0..25 {
                let key = |draw: &mut Draw| format!("k{}", draw.below(8));
                let value = "v".repeat(draw.below(300) as usize);
                let ops = match draw.below(8) {
                    0 => vec![delete("k0", "k3")],
                    1 => vec![delete(&key(&mut draw), "")],
                    2 => vec![put("t1".into(), value.clone()), delete("k1", "k4"), put("t2".into(), value)],
                    3 => vec![delete("nothing", "")],
                    _ => vec![put(key(&mut draw), value)],
                };
                pair.txn(ops).await;
            }
            pair.compare(&mut draw).await;
            let (oldest, newest) = (pair.store.compact_revision().max(0), pair.store.revision());
            // Compactions just before, at, and after a tombstone; behind the last one; ahead of time.
            match round % 4 {
                0 => pair.compact(oldest + (newest - oldest) / 2).await,
                1 => {
                    pair.txn(vec![put("doomed".into(), String::new())]).await;
                    pair.txn(vec![delete("doomed", "")]).await;
                    pair.compact(pair.store.revision()).await;
                    pair.compact(pair.store.revision()).await;
                }
                2 => pair.compact(newest + 1).await,
                _ => pair.compact(newest - 1).await,
            }
            pair.compare(&mut draw).await;
            pair.sweep();
            pair.compare(&mut draw).await;
            if round % 3 == 2 {
                pair.reopen();
                pair.compare(&mut draw).await;
            }
        }
        // No key is left: etcd then hashes what the compaction kept.
        pair.compact(pair.store.revision()).await;
        pair.txn(vec![delete("\0", "\0")]).await;
        pair.compare(&mut draw).await;
        pair.sweep();
        pair.compare(&mut draw).await;
        pair.compact(pair.store.revision()).await;
        pair.txn(vec![put("again".into(), "1".into())]).await;
        pair.compare(&mut draw).await;
    });
}
