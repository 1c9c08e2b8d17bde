//! Who votes, as the first member to apply a change has shown it; until then the founders.

use std::collections::BTreeSet;

use super::Seen;

#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// As of this index.
    index: u64,
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    /// Machines that are lost, and what they held.
    pub lost: BTreeSet<u64>,
}

impl Newest {
    pub fn founded_by(members: u64) -> Newest {
        Newest { index: members, voters: (1..=members).collect(), ..Newest::default() }
    }

    pub fn see(&mut self, seen: &Seen) {
        match seen {
            Seen::Lost { member } => drop(self.lost.insert(*member)),
            Seen::Members { index, membership, .. } if *index > self.index => {
                self.index = *index;
                self.voters = membership.voters().map(|member| member.id).collect();
                self.learners = membership.learners().map(|member| member.id).collect();
            }
            _ => {}
        }
    }

    /// All members whose machine is not lost.
    pub fn present(&self) -> impl Iterator<Item = u64> {
        self.voters.union(&self.learners).copied().filter(|id| !self.lost.contains(id))
    }
}
