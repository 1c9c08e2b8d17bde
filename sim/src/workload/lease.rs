//! Leases, some kept alive and some left to themselves, with keys on them, and clients who ask what is left.
//!
//! Good at finding: leases revoked while their clients hold a promise, by a leader that was deposed or had lost its
//! clock; leases that never end, because every new leader begins anew; keys that outlive their lease.

use std::collections::BTreeMap;

use super::{Kind, Work};
use crate::asks::{LeaseAsk, Told};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "lease", make: |_| Box::new(Leases::default()), weight: 4 };

/// Of one client at a time.
const MOST_LEASES: usize = 2;
const FIRST: i64 = 100_000;

#[derive(Debug, Default)]
struct Leases {
    made: i64,
    of: BTreeMap<u64, Vec<Lease>>,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    ttl_s: i64,
    is_granted: bool,
    is_kept: bool,
}

impl Work for Leases {
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let leases = self.of.entry(client).or_default();
        let ready: Vec<usize> = (0..leases.len()).filter(|at| leases[*at].is_granted).collect();
        if ready.is_empty() || (leases.len() < MOST_LEASES && random.permille(300)) {
            self.made += 1;
            let (lease, ttl_s) = (FIRST + self.made, *random.pick(&[2, 2, 3, 4, 20]));
            leases.retain(|lease| lease.is_granted);
            leases.push(Lease { id: lease, ttl_s, is_granted: false, is_kept: false });
            return Operation::Lease(LeaseAsk::Grant { lease, ttl_s });
        }
        let at = *random.pick(&ready);
        let Lease { id: lease, ttl_s, is_kept, .. } = leases[at];
        Operation::Lease(match random.below(20) {
            0..7 if !is_kept && ttl_s < 20 => {
                leases[at].is_kept = true;
                LeaseAsk::Keep { lease, every_us: ttl_s as u64 * 1_000_000 / random.between(3, 6) }
            }
            0..10 => LeaseAsk::Left { lease },
            10..16 => LeaseAsk::Attach { key: format!("held{}", random.below(6)), value: fresh(), lease },
            16..19 if is_kept => {
                leases.remove(at);
                LeaseAsk::Leave { lease }
            }
            16..18 => LeaseAsk::Left { lease },
            _ => {
                leases.remove(at);
                LeaseAsk::Revoke { lease }
            }
        })
    }

    fn learn(&mut self, client: u64, operation: &Operation, outcome: &Outcome) {
        let Operation::Lease(ask) = operation else { return };
        let leases = self.of.entry(client).or_default();
        let is_gone = match outcome {
            Outcome::Told { told: Told::Granted { .. }, .. } => {
                leases.iter_mut().filter(|known| known.id == ask.lease()).for_each(|known| known.is_granted = true);
                false
            }
            Outcome::Told { told: Told::Left { ttl_s }, .. } => *ttl_s < 0,
            Outcome::Refused { .. } => true,
            _ => false,
        };
        if is_gone {
            leases.retain(|known| known.id != ask.lease());
        }
    }

    fn lost(&mut self, client: u64, lease: i64) {
        self.of.entry(client).or_default().retain(|known| known.id != lease);
    }
}
