//! What a cluster cannot survive is not asked of it: the budget of faults that chance may draw.
//!
//! Raft promises to keep what was acknowledged as long as what members synced is there when they come back, and to make
//! progress as long as a majority works. So there is no limit to
//! * crashes, of any number of members at once and with any loss of what was not synced: all come back with what they
//!   synced;
//! * cuts, losses, pauses and clocks: they cost time only.
//!
//! A limit is on damage: rot, unreadable files, failed fsyncs, full disks. A damaged member may be unable to read what
//! it synced and stays away until its disk is mended. If a majority were damaged at a time, entries could exist on
//! nothing but bad disks, and on real ones, which nobody mends, acknowledged writes would be gone. So at most a
//! minority is damaged at a time, by however many faults; one and two members have no minority to spare, and get no
//! damage.
//!
//! Faults that a person wrote into a scenario are played without asking.

use std::collections::BTreeMap;

use super::{Fault, print_members};

/// Kinds that a member may not get over by itself.
const DAMAGE: &[&str] = &["full", "fsync-error", "read-error", "rot-wal", "rot-store"];

#[derive(Debug)]
pub struct Budget {
    members: u64,
    /// How many faults are at work on each damaged member.
    damaged: BTreeMap<u64, u64>,
}

impl Budget {
    pub fn new(members: u64) -> Budget {
        Budget { members, damaged: BTreeMap::new() }
    }

    /// The fault may strike, and counts until it is [`Budget::over`]. `Err` says why not.
    pub fn admit(&mut self, fault: &dyn Fault) -> Result<(), String> {
        if !DAMAGE.contains(&fault.kind()) {
            return Ok(());
        }
        let most = (self.members.saturating_sub(1) / 2) as usize;
        let new = fault.members().iter().filter(|member| !self.damaged.contains_key(*member)).count();
        if self.damaged.len() + new > most {
            let damaged: Vec<u64> = self.damaged.keys().copied().collect();
            let now = if damaged.is_empty() { "nobody".to_owned() } else { print_members(&damaged) };
            return Err(format!("of {} members {most} may be damaged at a time, and {now} is", self.members));
        }
        for member in fault.members() {
            *self.damaged.entry(member).or_default() += 1;
        }
        Ok(())
    }

    /// An admitted fault is over, or had no effect.
    pub fn over(&mut self, fault: &dyn Fault) {
        if !DAMAGE.contains(&fault.kind()) {
            return;
        }
        for member in fault.members() {
            let left = self.damaged.get(&member).map_or(0, |count| count - 1);
            if left == 0 {
                self.damaged.remove(&member);
            } else {
                self.damaged.insert(member, left);
            }
        }
    }
}
