//! The simulated clients: what they ask for, and what they make of the answers.
//!
//! Closed loops. Each has a key of its own that it counts up ([`Registers`] says why), reads anybody's keys,
//! linearizably and not, at any member, takes part in a compare-and-swap counter, puts and deletes a scratch key, and
//! sometimes compacts. A client that loses its answer never tries the same again: whether it was done is unknown for
//! ever.

use lockstep::member::apply::Response;
use lockstep::member::error::EtcdError;
use lockstep::mvcc::View;
use lockstep::mvcc::read::{Error, RangeOptions, Read};
use lockstep_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestOp, TxnRequest, compare,
    request_op,
};
use lockstep_proto::mvccpb::KeyValue;

use crate::check::registers::Registers;
use crate::lab::put;
use crate::random::Random;

const SHARED: &str = "shared";

/// One request of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Put {
        key: String,
        value: u64,
    },
    /// `floor` is what was known when it was asked for.
    Read {
        key: String,
        floor: u64,
    },
    Serializable {
        key: String,
    },
    /// Counts the shared key up if it still has this version.
    Swap {
        version: i64,
    },
    /// Puts the scratch key, or deletes it.
    Scratch {
        key: String,
        delete: bool,
    },
    Compact {
        revision: i64,
    },
}

impl Operation {
    /// What goes through the log for it; `None` for reads.
    pub fn request(&self) -> Option<InternalRaftRequest> {
        match self {
            Operation::Put { key, value } => Some(put(key, &value.to_string())),
            Operation::Read { .. } | Operation::Serializable { .. } => None,
            Operation::Swap { version } => Some(swap(*version)),
            Operation::Scratch { key, delete: false } => Some(put(key, "x")),
            Operation::Scratch { key, delete: true } => {
                let delete = DeleteRangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
                Some(InternalRaftRequest { delete_range: Some(delete), ..Default::default() })
            }
            Operation::Compact { revision } => {
                let compaction = CompactionRequest { revision: *revision, physical: false };
                Some(InternalRaftRequest { compaction: Some(compaction), ..Default::default() })
            }
        }
    }
}

/// All clients together.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    pub registers: Registers,
    /// Successful and possibly successful swaps of the shared key.
    swapped: u64,
    swaps_unknown: u64,
    newest_revision: i64,
}

#[derive(Clone, Debug, Default)]
struct Client {
    /// Keys given up so far.
    generation: u64,
    value: u64,
    shared_version: i64,
    scratch: bool,
}

impl Clients {
    pub fn new(count: u64) -> Clients {
        Clients {
            clients: vec![Client::default(); count as usize],
            registers: Registers::default(),
            swapped: 0,
            swaps_unknown: 0,
            newest_revision: 0,
        }
    }

    pub fn count(&self) -> u64 {
        self.clients.len() as u64
    }

    pub fn next(&mut self, client: u64, random: &mut Random) -> Operation {
        let any = random.below(self.count());
        let key_of_any = key(any, self.clients[any as usize].generation);
        let me = &mut self.clients[client as usize];
        match random.below(100) {
            0..40 => {
                let operation = Operation::Put { key: key(client, me.generation), value: me.value + 1 };
                if let Operation::Put { key, value } = &operation {
                    self.registers.asked(key, *value);
                }
                operation
            }
            40..65 => {
                let floor = self.registers.floor(&key_of_any);
                Operation::Read { key: key_of_any, floor }
            }
            65..78 => Operation::Serializable { key: key_of_any },
            78..90 => Operation::Swap { version: me.shared_version },
            90..98 => {
                me.scratch = !me.scratch;
                Operation::Scratch { key: format!("scratch{client}"), delete: !me.scratch }
            }
            _ => Operation::Compact { revision: self.newest_revision - random.below(20) as i64 },
        }
    }

    /// A write was answered. Says what came of it, for the trace.
    pub fn answered(
        &mut self,
        client: u64,
        operation: &Operation,
        result: &Result<Response, EtcdError>,
    ) -> Result<(), String> {
        let me = &mut self.clients[client as usize];
        match (operation, result) {
            (Operation::Put { key, value }, Ok(Response::Put(response))) => {
                me.value = *value;
                self.newest_revision = response.header.as_ref().map_or(0, |h| h.revision).max(self.newest_revision);
                self.registers.acknowledged(key, *value);
            }
            (Operation::Swap { version }, Ok(Response::Txn(response))) => {
                if response.succeeded {
                    me.shared_version = version + 1;
                    self.swapped += 1;
                } else {
                    me.shared_version = shared_version(response).unwrap_or(0);
                }
            }
            (Operation::Scratch { .. }, Ok(Response::Put(_) | Response::DeleteRange(_))) => {}
            (Operation::Compact { .. }, Ok(Response::Compaction(_))) => {}
            (Operation::Compact { .. }, Err(EtcdError::Compacted | EtcdError::FutureRev)) => {}
            _ => return Err(format!("client {client}: {operation:?} is answered {result:?}")),
        }
        Ok(())
    }

    /// The answer is lost: the request may have been done, may still be, or never.
    pub fn lost(&mut self, client: u64, operation: &Operation) {
        let me = &mut self.clients[client as usize];
        match operation {
            Operation::Put { .. } => {
                me.generation += 1;
                me.value = 0;
            }
            Operation::Swap { .. } => self.swaps_unknown += 1,
            _ => {}
        }
    }

    /// Carries a read out. `Ok(None)`: compaction overtook the view, a fresh one is needed.
    pub fn read(&mut self, operation: &Operation, view: &View) -> Result<Option<String>, String> {
        let (Operation::Read { key, .. } | Operation::Serializable { key }) = operation else {
            return Err(format!("{operation:?} is no read"));
        };
        let found = match look_up(view, key) {
            Ok(found) => found,
            Err(Error::Overtaken) => return Ok(None),
            Err(error) => return Err(format!("reading {key}: {error}")),
        };
        match operation {
            Operation::Read { floor, .. } => self.registers.linearizable_read(key, *floor, found.as_ref())?,
            _ => self.registers.serializable_read(key, found.as_ref())?,
        }
        let value = found.map_or("nothing".into(), |kv| String::from_utf8_lossy(&kv.value).into_owned());
        Ok(Some(format!("{key}={value} rev:{}", view.rev())))
    }

    /// When all is over: nothing acknowledged is lost, nothing was done twice.
    pub fn at_the_end(&mut self, view: &View) -> Result<(), String> {
        self.registers.at_the_end(|key| look_up(view, key).ok().flatten())?;
        let version = look_up(view, SHARED).map_err(|e| e.to_string())?.map_or(0, |kv| kv.version as u64);
        if version < self.swapped || version > self.swapped + self.swaps_unknown {
            return Err(format!(
                "the shared key was counted up {version} times, but {} times for certain and {} times perhaps",
                self.swapped, self.swaps_unknown
            ));
        }
        Ok(())
    }
}

fn key(client: u64, generation: u64) -> String {
    format!("c{client}.{generation}")
}

fn look_up(view: &View, key: &str) -> Result<Option<KeyValue>, Error> {
    Ok(view.range(key.as_bytes(), b"", RangeOptions::default())?.kvs.pop())
}

fn swap(version: i64) -> InternalRaftRequest {
    let condition = Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Version as i32,
        key: SHARED.into(),
        target_union: Some(compare::TargetUnion::Version(version)),
        ..Default::default()
    };
    let put = PutRequest { key: SHARED.into(), value: (version + 1).to_string().into(), ..Default::default() };
    let get = lockstep_proto::etcdserverpb::RangeRequest { key: SHARED.into(), ..Default::default() };
    let txn = TxnRequest {
        compare: vec![condition],
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(request_op::Request::RequestRange(get)) }],
    };
    InternalRaftRequest { txn: Some(txn), ..Default::default() }
}

fn shared_version(response: &lockstep_proto::etcdserverpb::TxnResponse) -> Option<i64> {
    use lockstep_proto::etcdserverpb::response_op::Response as R;
    match &response.responses.first()?.response {
        Some(R::ResponseRange(range)) => Some(range.kvs.first()?.version),
        _ => None,
    }
}
