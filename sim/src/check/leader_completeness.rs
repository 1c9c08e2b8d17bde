//! Leader completeness (Raft, section 5.4.3): whoever leads a term has every entry that was committed in an earlier
//! one. And the rule that it rests on (5.4.2, figure 8): a leader counts copies only of entries of its own term.
//!
//! Sees commits where they are made: in the steps of leaders. By log matching the last such entry stands for all before
//! it, so an election costs one look into the new leader's log, which is mirrored from what it hands to its write-ahead
//! log. Does not see what a step did in between: who comes to lead and steps down within one is never looked at, and
//! never led anybody.

use std::collections::BTreeMap;

use lockstep::member::raft::{Role, Status};

use super::mirror::Terms;
use super::{Checker, Objection, PerMember, Seen, object};

#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// Term -> index and term of the last entry that its leader committed.
    commits: BTreeMap<u64, (u64, u64)>,
    of: PerMember<Member>,
}

#[derive(Debug, Default)]
struct Member {
    log: Terms,
    /// As of the last step of this life.
    last: Status,
    /// Its log was compared as the leader of this term.
    compared: u64,
    /// Its commit index when that was last put into the table.
    recorded: u64,
}

impl LeaderCompleteness {
    pub fn new() -> LeaderCompleteness {
        LeaderCompleteness::default()
    }

    fn stepped(&mut self, status: &Status) -> Result<(), Objection> {
        let this = self.of.of(status.id);
        let before = std::mem::replace(&mut this.last, *status);
        if status.role != Role::Leader {
            return Ok(());
        }
        if this.compared != status.term {
            // What this step wrote may be shown after it. A leader's log ends with an entry of its own.
            if this.log.term(status.last_index) != Some(status.term) {
                return Ok(());
            }
            this.compared = status.term;
            let earlier = self.commits.range(..status.term).max_by_key(|(_, (index, _))| *index);
            if let Some((term, (index, entry_term))) = earlier
                && !this.log.holds(*index, *entry_term)
            {
                let story = format!(
                    "member {} leads term {}, and its log, which ends at {}, lacks entry {entry_term}/{index}, which \
                     the leader of term {term} committed",
                    status.id,
                    status.term,
                    this.log.last()
                );
                return object("leader lacks a committed entry", story);
            }
        }
        if status.commit == this.recorded {
            return Ok(());
        }
        let Some(entry_term) = this.log.term(status.commit) else { return Ok(()) };
        let led_before = before.role == Role::Leader && before.term == status.term;
        if led_before && status.commit != before.commit && entry_term != status.term {
            let story = format!(
                "member {} leads term {} and commits up to entry {entry_term}/{}: its majority may be outvoted, only \
                 an entry of its own term settles those before",
                status.id, status.term, status.commit
            );
            return object("entry of an earlier term committed by count", story);
        }
        this.recorded = status.commit;
        let last = self.commits.entry(status.term).or_default();
        *last = (*last).max((status.commit, entry_term));
        Ok(())
    }
}

impl Checker for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader-completeness"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, first, log, .. } => {
                *self.of.of(*member) = Member { log: Terms::of(*first, log), ..Member::default() };
                Ok(())
            }
            Seen::Persist { member, persist } => {
                let log = &mut self.of.of(*member).log;
                if let Some(mark) = persist.snapshot {
                    log.restart_behind(mark.index);
                }
                for entry in &persist.entries {
                    log.put(entry.index(), entry.term());
                }
                Ok(())
            }
            Seen::Stepped { status, .. } => self.stepped(status),
            _ => Ok(()),
        }
    }
}
