//! Leases, as a client library has them. Their ids are chosen by whoever writes the scenario.
//!
//! ```text
//! grant 7 4                                  lives for 4 s
//! keep 7 every 500ms                         renewed in the background, there or at whoever answers, until it is gone
//! leave 7                                    ... no longer
//! attach held7 1.4 7                         a put with the lease 7
//! left 7                                     its time to live
//! revoke 7
//! ```

use std::fmt;

use lockstep::member::apply::Response;
use lockstep_proto::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest};

use super::Told;
use super::lock::word;
use crate::fault::{Words, print_time};
use crate::history::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseAsk {
    Grant { lease: i64, ttl_s: i64 },
    Keep { lease: i64, every_us: u64 },
    Leave { lease: i64 },
    Attach { key: String, value: String, lease: i64 },
    Left { lease: i64 },
    Revoke { lease: i64 },
}

/// The longest TTL of a scenario.
const MOST_TTL_S: u64 = 86_400;
const LEAST_EVERY_US: u64 = 10_000;

impl LeaseAsk {
    pub fn lease(&self) -> i64 {
        match self {
            LeaseAsk::Grant { lease, .. }
            | LeaseAsk::Keep { lease, .. }
            | LeaseAsk::Leave { lease }
            | LeaseAsk::Attach { lease, .. }
            | LeaseAsk::Left { lease }
            | LeaseAsk::Revoke { lease } => *lease,
        }
    }

    /// What goes through the log for it.
    pub fn request(&self) -> Option<InternalRaftRequest> {
        let request = InternalRaftRequest::default();
        Some(match self {
            LeaseAsk::Grant { lease, ttl_s } => {
                let lease_grant = Some(LeaseGrantRequest { id: *lease, ttl: *ttl_s });
                InternalRaftRequest { lease_grant, ..request }
            }
            LeaseAsk::Revoke { lease } => {
                let lease_revoke = Some(LeaseRevokeRequest { id: *lease });
                InternalRaftRequest { lease_revoke, ..request }
            }
            LeaseAsk::Attach { key, value, lease } => {
                let put = PutRequest {
                    key: key.as_bytes().to_vec().into(),
                    value: value.as_bytes().to_vec().into(),
                    lease: *lease,
                    ..Default::default()
                };
                InternalRaftRequest { put: Some(put), ..request }
            }
            LeaseAsk::Keep { .. } | LeaseAsk::Leave { .. } | LeaseAsk::Left { .. } => return None,
        })
    }

    pub fn outcome(&self, response: &Response) -> Outcome {
        let (header, told) = match (self, response) {
            (LeaseAsk::Grant { .. }, Response::LeaseGrant(grant)) => {
                (&grant.header, Told::Granted { ttl_s: grant.ttl })
            }
            (LeaseAsk::Revoke { .. }, Response::LeaseRevoke(revoke)) => (&revoke.header, Told::Revoked),
            (LeaseAsk::Attach { .. }, Response::Put(put)) => (&put.header, Told::Attached),
            _ => panic!("{self} is answered {response:?}"),
        };
        Outcome::Told { revision: header.as_ref().map_or(0, |header| header.revision), told }
    }

    pub fn parse(verb: &str, words: &mut Words) -> Result<Option<LeaseAsk>, String> {
        Ok(Some(match verb {
            "grant" => {
                let (lease, ttl_s) = (id(words)?, words.number("seconds")?);
                if !(1..=MOST_TTL_S).contains(&ttl_s) {
                    return Err(format!("a lease lives from 1 to {MOST_TTL_S} seconds"));
                }
                LeaseAsk::Grant { lease, ttl_s: ttl_s as i64 }
            }
            "keep" => {
                let lease = id(words)?;
                words.expect("every")?;
                LeaseAsk::Keep { lease, every_us: words.time_us("every")?.max(LEAST_EVERY_US) }
            }
            "leave" => LeaseAsk::Leave { lease: id(words)? },
            "attach" => {
                LeaseAsk::Attach { key: word(words, "a key")?, value: word(words, "a value")?, lease: id(words)? }
            }
            "left" => LeaseAsk::Left { lease: id(words)? },
            "revoke" => LeaseAsk::Revoke { lease: id(words)? },
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for LeaseAsk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeaseAsk::Grant { lease, ttl_s } => write!(out, "grant {lease} {ttl_s}"),
            LeaseAsk::Keep { lease, every_us } => write!(out, "keep {lease} every {}", print_time(*every_us)),
            LeaseAsk::Leave { lease } => write!(out, "leave {lease}"),
            LeaseAsk::Attach { key, value, lease } => write!(out, "attach {key} {value} {lease}"),
            LeaseAsk::Left { lease } => write!(out, "left {lease}"),
            LeaseAsk::Revoke { lease } => write!(out, "revoke {lease}"),
        }
    }
}

/// The id of a lease.
pub(super) fn id(words: &mut Words) -> Result<i64, String> {
    let number = words.number("a lease")?;
    if !(1..=u64::from(u32::MAX)).contains(&number) {
        return Err(format!("leases have numbers from 1 to {}", u32::MAX));
    }
    Ok(number as i64)
}
