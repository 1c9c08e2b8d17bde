//! What a cluster cannot survive is not asked of it: the budget of faults that chance may draw.
//!
//! Raft promises to keep what was acknowledged as long as what members synced is there when they come back, and to make
//! progress as long as a majority works. So there is no limit to
//! * crashes, of any number of members at once and with any loss of what was not synced: all come back with what they
//!   synced;
//! * cuts, losses, pauses and clocks: they cost time only.
//!
//! A limit is on damage: rot, unreadable files, failed fsyncs, full disks, machines lost for good. A damaged member may
//! be unable to read what it synced and stays away until its disk is mended. If a majority were damaged at a time,
//! entries could exist on nothing but bad disks, and on real ones, which nobody mends, acknowledged writes would be
//! gone. So a majority is well at any time, whatever changes of the membership may still come and whoever has not heard
//! yet of those that were made ([`Standing::bears`]); one and two members have no minority to spare, and get no damage.
//!
//! Faults that a person wrote into a scenario are played without asking.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Change, MOST_MEMBERS, What};
use super::{Fault, print_members};

/// Kinds that a member may not get over by itself.
const DAMAGE: &[&str] = &["full", "fsync-error", "read-error", "rot-wal", "rot-store"];

#[derive(Debug, Default)]
pub struct Budget {
    /// How many faults are at work on each damaged member.
    damaged: BTreeMap<u64, u64>,
}

/// Who counts, and what may still become of that.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The sets of voters that some member may go by, the newest last.
    pub voters: Vec<BTreeSet<u64>>,
    pub learners: BTreeSet<u64>,
    /// Machines that are lost for good.
    pub lost: BTreeSet<u64>,
    /// Changes that were asked for, and may yet come true.
    pub open: Vec<Change>,
    /// No change may leave fewer voters.
    pub least: usize,
}

impl Standing {
    /// Whether a majority is well without these, however the open changes turn out.
    pub fn bears(&self, unwell: &BTreeSet<u64>) -> bool {
        self.voters.iter().all(|voters| {
            let may_come = |id: &u64| self.may(*id, |what| matches!(what, What::Add | What::Promote));
            let coming: BTreeSet<u64> = self.open.iter().map(|change| change.member).filter(may_come).collect();
            let is_unwell = |id: &&u64| unwell.contains(*id) || self.lost.contains(*id);
            let may_leave = |id: &&u64| self.may(**id, |what| what == What::Remove);
            let well = voters.iter().filter(|id| !is_unwell(id) && !may_leave(id)).count();
            let not = voters.union(&coming).filter(is_unwell).count();
            well > not
        })
    }

    fn may(&self, id: u64, change: impl Fn(What) -> bool) -> bool {
        self.open.iter().any(|open| open.member == id && change(open.what))
    }

    /// Neither too many nor too few, whatever comes of what is open.
    fn has_sound_size(&self) -> bool {
        let Some(voters) = self.voters.last() else { return true };
        let stay = voters.iter().filter(|id| !self.may(**id, |what| what == What::Remove)).count();
        let all: BTreeSet<u64> = voters.union(&self.learners).copied().collect();
        let come = |change: &&Change| matches!(change.what, What::Add | What::Learner) && !all.contains(&change.member);
        let coming: BTreeSet<u64> = self.open.iter().filter(come).map(|change| change.member).collect();
        stay >= self.least.min(voters.len()) && (coming.is_empty() || all.len() + coming.len() <= MOST_MEMBERS)
    }
}

impl Budget {
    /// The fault may strike, and counts until it is [`Budget::over`]. `Err` says why not.
    pub fn admit(&mut self, fault: &dyn Fault, mut standing: Standing) -> Result<(), String> {
        let is_damage = DAMAGE.contains(&fault.kind());
        let (changes, loses) = (fault.changes(), fault.loses());
        if !is_damage && changes.is_empty() && loses.is_none() {
            return Ok(());
        }
        standing.lost.extend(loses);
        standing.open.extend(changes.iter().copied());
        if !changes.is_empty() && !standing.has_sound_size() {
            return Err(format!("there would be more than {MOST_MEMBERS} members, or too few"));
        }
        let mut unwell: BTreeSet<u64> = self.damaged.keys().copied().collect();
        if is_damage {
            unwell.extend(fault.members());
        }
        if !standing.bears(&unwell) {
            let all: Vec<u64> = unwell.union(&standing.lost).copied().collect();
            return Err(format!("a majority is to be well at any time, and {} would not be", print_members(&all)));
        }
        if is_damage {
            for member in fault.members() {
                *self.damaged.entry(member).or_default() += 1;
            }
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
