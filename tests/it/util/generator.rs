//! KV requests from a seed: few keys, so that they collide; every option; good requests and bad ones.
//!
//! A step's request depends on the seed, the sequence's number, the step's number and on where the store stands (its
//! revisions), and on no other step. So a sequence is a list of step numbers, and dropping some shrinks it.

use bytes::Bytes;
use lockstep::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep::proto::etcdserverpb::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::target::{LEASE_TTL_S, Request};

/// Leases that exist when leases do, until a step revokes one.
pub const LEASES: [i64; 2] = [7001, 7002];
/// Leases that steps grant and revoke.
pub const LEASE_POOL: [i64; 4] = [LEASES[0], LEASES[1], 7003, -7004];
const UNKNOWN_LEASE: i64 = 666;
const KEYS: [&[u8]; 11] = [b"a", b"a0", b"aa", b"ab", b"b", b"b\0", b"ba", b"c", b"k", b"\0", b"\xff\xff"];

/// Where the store stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    pub rev: i64,
    pub compact_rev: i64,
    /// Whether `LEASES` were granted.
    pub leases: bool,
}

/// What a txn may do, which its nested ones may too.
struct Txn {
    /// "All keys from k on" overlaps no put. With a put that takes the deleted key's value, real etcd stops for good;
    /// so a txn has the one or the other.
    deletes_from_key: bool,
    /// Puts so far: mostly not again, so that most txns are not refused.
    put: Vec<Bytes>,
}

struct Source {
    rng: ChaCha8Rng,
    at: Position,
}

/// The request of a step.
pub fn request(seed: u64, sequence: u64, step: u64, at: Position) -> Request {
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sequence);
    rng.set_stream(step);
    let mut g = Source { rng, at };
    match g.below(100) {
        0..28 => {
            let key = g.key();
            Request::Put(g.put(key))
        }
        28..58 => Request::Range(g.range(true)),
        58..66 => Request::DeleteRange(g.delete_range(true)),
        66..91 => Request::Txn(g.txn_request()),
        91..94 => Request::Compact(g.compaction()),
        96..100 if at.leases => g.lease_request(),
        _ => Request::HashKv(g.hash_kv()),
    }
}

impl Source {
    fn below(&mut self, n: u32) -> u32 {
        self.rng.next_u32() % n
    }

    fn percent(&mut self, p: u32) -> bool {
        self.below(100) < p
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize].clone()
    }

    fn key(&mut self) -> Bytes {
        if self.percent(1) { Bytes::new() } else { Bytes::from_static(self.pick(&KEYS)) }
    }

    fn range_end(&mut self, key: &[u8], from_key: bool) -> Bytes {
        match self.below(10) {
            0..3 => Bytes::new(),
            // The last prefix has no end but that of all keys.
            3..6 => Some(prefix_end(key)).filter(|end| from_key || end != "\0").unwrap_or_default(),
            6..8 if from_key => Bytes::from_static(b"\0"),
            _ => Bytes::from_static(self.pick(&KEYS[..9])),
        }
    }

    fn value(&mut self) -> Bytes {
        match self.below(6) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"y"),
            2 => Bytes::from_static(b"\xff\0\x01"),
            3 => Bytes::from(vec![b'v'; self.below(300) as usize]),
            _ => Bytes::from(self.below(50).to_string()),
        }
    }

    fn lease(&mut self) -> i64 {
        match self.below(20) {
            0 => UNKNOWN_LEASE,
            1..4 if self.at.leases => self.pick(&LEASES),
            4 if self.at.leases => self.pick(&LEASE_POOL),
            _ => 0,
        }
    }

    /// A revision to read at: mostly the newest, but also old, compacted, future and senseless ones.
    fn read_rev(&mut self) -> i64 {
        let Position { rev, compact_rev, .. } = self.at;
        match self.below(20) {
            0..11 => 0,
            11..16 => rev - i64::from(self.below(12)),
            16 => compact_rev + i64::from(self.below(3)) - 1,
            17 => rev + 1 + i64::from(self.below(3)),
            18 => self.pick(&[-1, -2, 1, 2]),
            _ => self.pick(&[rev, i64::MAX, i64::MIN, i64::from(i32::MAX)]),
        }
    }

    /// A bound or an operand near where revisions are.
    fn near_rev(&mut self) -> i64 {
        match self.below(8) {
            0 => self.pick(&[-1, 1, i64::MAX]),
            _ => self.at.rev - i64::from(self.below(25)),
        }
    }

    fn put(&mut self, key: Bytes) -> PutRequest {
        let mut req = PutRequest {
            key,
            value: self.value(),
            lease: self.lease(),
            prev_kv: self.percent(40),
            ignore_value: self.percent(15),
            ignore_lease: self.percent(12),
        };
        // Most of them as they should be.
        if req.ignore_value && self.percent(85) {
            req.value = Bytes::new();
        }
        if req.ignore_lease && self.percent(85) {
            req.lease = 0;
        }
        req
    }

    /// `odd_order`: 3.5 sorts by orders nobody knows without complaint, which must not decide whether a txn writes.
    fn range(&mut self, odd_order: bool) -> RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key, true);
        let mut req = RangeRequest {
            key,
            range_end,
            limit: if self.percent(40) { self.pick(&[1, 2, 3, 5, -1, i64::MAX]) } else { 0 },
            revision: self.read_rev(),
            sort_order: if self.percent(60) { self.below(3) as i32 } else { 0 },
            sort_target: if self.percent(60) { self.below(5) as i32 } else { 0 },
            serializable: self.percent(40),
            keys_only: self.percent(20),
            count_only: self.percent(10),
            ..Default::default()
        };
        if odd_order && self.percent(1) {
            req.sort_order = 7;
        }
        if self.percent(20) {
            for bound in [
                &mut req.min_mod_revision,
                &mut req.max_mod_revision,
                &mut req.min_create_revision,
                &mut req.max_create_revision,
            ] {
                if self.percent(40) {
                    *bound = self.near_rev();
                }
            }
        }
        req
    }

    fn delete_range(&mut self, from_key: bool) -> DeleteRangeRequest {
        let key = self.key();
        // Mostly few keys, or little would ever be there.
        let range_end = if self.percent(60) { Bytes::new() } else { self.range_end(&key, from_key) };
        DeleteRangeRequest { key, range_end, prev_kv: self.percent(40) }
    }

    fn compaction(&mut self) -> CompactionRequest {
        let Position { rev, compact_rev, .. } = self.at;
        let revision = match self.below(10) {
            0 => compact_rev,
            1 => self.pick(&[-1, 0, 1, i64::MAX]),
            2 => rev + 1,
            3 => rev,
            _ => rev - i64::from(self.below(15)),
        };
        CompactionRequest { revision, physical: self.percent(50) }
    }

    fn lease_request(&mut self) -> Request {
        let id = if self.percent(10) { UNKNOWN_LEASE } else { self.pick(&LEASE_POOL) };
        match self.below(10) {
            0..5 => {
                let ttl = self.pick(&[LEASE_TTL_S, LEASE_TTL_S, LEASE_TTL_S * 2, 9_000_000_000, 9_000_000_001]);
                // The unknown one stays unknown.
                let id = if id == UNKNOWN_LEASE { LEASE_POOL[2] } else { id };
                Request::Grant(LeaseGrantRequest { id, ttl })
            }
            5..7 => Request::Revoke(LeaseRevokeRequest { id }),
            7..9 => Request::TimeToLive(LeaseTimeToLiveRequest { id, keys: self.percent(70) }),
            _ => Request::Leases(LeaseLeasesRequest {}),
        }
    }

    fn hash_kv(&mut self) -> HashKvRequest {
        let Position { rev, compact_rev, .. } = self.at;
        let revision = match self.below(10) {
            0..4 => 0,
            4 => compact_rev + i64::from(self.below(3)) - 1,
            5 => rev + 1,
            6 => -1,
            _ => rev - i64::from(self.below(10)),
        };
        HashKvRequest { revision }
    }

    fn txn_request(&mut self) -> TxnRequest {
        if self.percent(2) {
            return self.too_many_ops();
        }
        let mut txn = Txn { deletes_from_key: self.percent(25), put: Vec::new() };
        self.txn(&mut txn, 2)
    }

    fn txn(&mut self, txn: &mut Txn, depth: u32) -> TxnRequest {
        let compares = self.pick(&[0, 0, 1, 1, 1, 2, 3]);
        let compare = (0..compares).map(|_| self.compare()).collect();
        let before = txn.put.len();
        let success = self.ops(txn, depth);
        // The branches exclude one another: what one puts, the other may put too.
        let mut other = Txn { put: txn.put[..before].to_vec(), ..*txn };
        let failure = self.ops(&mut other, depth);
        txn.put.append(&mut other.put);
        TxnRequest { compare, success, failure }
    }

    fn ops(&mut self, txn: &mut Txn, depth: u32) -> Vec<RequestOp> {
        let n = self.pick(&[0, 1, 1, 2, 2, 3, 4]);
        (0..n).map(|_| self.op(txn, depth)).collect()
    }

    fn op(&mut self, txn: &mut Txn, depth: u32) -> RequestOp {
        use request_op::Request as Op;
        let request = match self.below(100) {
            0 => None,
            1..45 => {
                let mut key = self.key();
                for _ in 0..4 {
                    if txn.put.contains(&key) {
                        key = self.key();
                    }
                }
                txn.put.push(key.clone());
                let mut put = self.put(key);
                if txn.deletes_from_key {
                    (put.ignore_value, put.ignore_lease) = (false, false);
                }
                Some(Op::RequestPut(put))
            }
            45..72 => Some(Op::RequestRange(self.range(false))),
            72..85 => Some(Op::RequestDeleteRange(self.delete_range(txn.deletes_from_key))),
            _ if depth > 0 => Some(Op::RequestTxn(self.txn(txn, depth - 1))),
            _ => Some(Op::RequestRange(self.range(false))),
        };
        RequestOp { request }
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let range_end = if self.percent(70) { Bytes::new() } else { self.range_end(&key, true) };
        let target = self.below(5) as i32;
        let operand = if self.percent(4) { self.below(5) as i32 } else { target };
        let target_union = match CompareTarget::try_from(operand).expect("one of five") {
            _ if self.percent(3) => None,
            CompareTarget::Version => Some(TargetUnion::Version(i64::from(self.below(4)))),
            CompareTarget::Create if self.percent(50) => Some(TargetUnion::CreateRevision(0)),
            CompareTarget::Create => Some(TargetUnion::CreateRevision(self.near_rev())),
            CompareTarget::Mod => Some(TargetUnion::ModRevision(self.near_rev())),
            CompareTarget::Value => Some(TargetUnion::Value(self.value())),
            CompareTarget::Lease => Some(TargetUnion::Lease(self.pick(&[0, 0, LEASES[0]]))),
        };
        let result = self.pick(&[
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
            CompareResult::NotEqual,
        ]);
        Compare { result: result as i32, target, key, range_end, target_union }
    }

    /// At the limit of operations, or one beyond it: in one level, or by what a level leaves its nested txn.
    fn too_many_ops(&mut self) -> TxnRequest {
        use request_op::Request as Op;
        let range = |key: &'static [u8]| RequestOp {
            request: Some(Op::RequestRange(RangeRequest { key: key.into(), ..Default::default() })),
        };
        let outer = self.pick(&[1usize, 100, 127, 128, 129]);
        let inner = (128usize + self.below(2) as usize).saturating_sub(outer);
        let mut success: Vec<RequestOp> = (1..outer).map(|_| range(b"a")).collect();
        let nested = TxnRequest { failure: (0..inner).map(|_| range(b"b")).collect(), ..Default::default() };
        success.push(RequestOp { request: Some(Op::RequestTxn(nested)) });
        TxnRequest { success, ..Default::default() }
    }
}

/// The end of the range of all keys with this prefix.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}
