//! State machine safety (Raft, section 5.4.3): no two members, and no two lives of one, commit different entries at an
//! index. And what it rests on: an entry is committed only when a majority has it durably (5.3; thesis 10.2.1, which
//! lets a leader count itself only once its own write is done), and then nobody overwrites it.
//!
//! Sees every entry that is handed to an apply machine, and the commit index of leaders with each step, which is where
//! a commit is made. "Durably" is what was synced before that moment, so an acknowledgement that left before its fsync
//! is found at once, without a crash (etcd #14370). A majority is one of the voters that the member counts with, before
//! its step or after it; whether it counts with the right ones is [`super::membership`]'s to say.

use lockstep::member::raft::{Persist, Role, Status};
use lockstep::wal::SnapshotMark;
use lockstep_proto::raftpb::Entry;

use super::log_matching::digest;
use super::mirror::Mirror;
use super::{Checker, Objection, PerMember, Seen, is_majority, object};

#[derive(Debug, Default)]
pub struct StateMachineSafety {
    /// By index - 1.
    committed: Vec<Committed>,
    /// A majority was found to have everything up to here.
    settled: u64,
    of: PerMember<Member>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    term: u64,
    digest: u64,
    /// Whoever committed it first.
    member: u64,
}

#[derive(Debug, Default)]
struct Member {
    mirror: Mirror,
    /// Everything up to here went to the apply machine, or was in the store at boot.
    handed_out: u64,
    /// Whom it counted with before its last step, and counts with now.
    voters: [Vec<u64>; 2],
}

impl StateMachineSafety {
    fn booted(&mut self, member: u64, first: u64, log: &[Entry], applied: u64) -> Result<(), Objection> {
        let this = self.of.of(member);
        // What is wrong with the log is for log matching to say.
        let _ = this.mirror.booted(first, log);
        this.handed_out = applied;
        self.applied(member, applied)
    }

    fn stepped(&mut self, status: &Status, voters: &[u64]) -> Result<(), Objection> {
        let this = self.of.of(status.id);
        this.voters.swap(0, 1);
        voters.clone_into(&mut this.voters[1]);
        if status.role != Role::Leader || status.commit <= self.settled {
            return Ok(());
        }
        match self.of.of(status.id).mirror.told().term(status.commit) {
            Some(term) => self.settle(status.id, status.commit, term),
            None => Ok(()),
        }
    }

    fn committed(&mut self, member: u64, entries: &[Entry]) -> Result<(), Objection> {
        for entry in entries {
            let (index, term) = (entry.index(), entry.term());
            let this = self.of.of(member);
            if index != this.handed_out + 1 {
                let story = format!("member {member} commits entry {index} after entry {}", this.handed_out);
                return object("commits out of order", story);
            }
            this.handed_out = index;
            let found = Committed { term, digest: digest(entry), member };
            match self.committed.get(index as usize - 1) {
                Some(known) if (known.term, known.digest) != (found.term, found.digest) => {
                    let story = format!(
                        "member {member} commits entry {term}/{index}, where member {} committed {}/{index}{}",
                        known.member,
                        known.term,
                        if known.term == term { ", another one" } else { "" }
                    );
                    return object("different entries committed", story);
                }
                Some(_) => {}
                None => self.committed.push(found),
            }
            if index > self.settled {
                self.settle(member, index, term)?;
            }
        }
        Ok(())
    }

    /// Somebody takes this entry for committed: a majority must have it.
    fn settle(&mut self, member: u64, index: u64, term: u64) -> Result<(), Objection> {
        let durable =
            |of: &&(u64, &Member)| of.1.mirror.durable().last() > 0 && of.1.mirror.durable().holds(index, term);
        let having: Vec<u64> = self.of.iter().filter(|of| durable(&of)).map(|(id, _)| id).collect();
        let voters = &self.of.of(member).voters;
        // A founder that has not applied the founding yet.
        if voters.iter().all(Vec::is_empty) {
            return Ok(());
        }
        if !voters.iter().any(|voters| is_majority(&having, voters)) {
            let story = format!(
                "member {member} takes entry {term}/{index} for committed, but of {} voters only {having:?} have it \
                 synced",
                voters[1].len()
            );
            return object("committed without a durable majority", story);
        }
        self.settled = index;
        Ok(())
    }

    fn persist(&mut self, member: u64, persist: &Persist) -> Result<(), Objection> {
        let this = self.of.of(member);
        if let Some(SnapshotMark { index, term }) = persist.snapshot {
            if self.committed.get(index as usize - 1).is_none_or(|committed| committed.term != term) {
                let story = format!("member {member} takes a snapshot of entry {term}/{index}, which nobody committed");
                return object("snapshot of what was not committed", story);
            }
            this.handed_out = index;
        }
        for entry in &persist.entries {
            let (index, term) = (entry.index(), entry.term());
            let Some(committed) = self.committed.get(index as usize - 1) else { break };
            if term != committed.term && this.mirror.told().term(index) == Some(committed.term) {
                let story = format!(
                    "member {member} overwrites entry {}/{index}, which member {} committed, with {term}/{index}",
                    committed.term, committed.member
                );
                return object("committed entry overwritten", story);
            }
        }
        this.mirror.persist(persist);
        Ok(())
    }

    fn applied(&mut self, member: u64, index: u64) -> Result<(), Objection> {
        let handed_out = self.of.of(member).handed_out;
        let known = handed_out.min(self.committed.len() as u64);
        if index > known {
            let story =
                format!("member {member} has applied entry {index}, but was handed out only those up to {known}");
            return object("applied what was not committed", story);
        }
        Ok(())
    }
}

impl Checker for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state-machine-safety"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, first, log, view, .. } => self.booted(*member, *first, log, view.applied_index()),
            Seen::Stepped { status, voters } => self.stepped(status, voters),
            Seen::Persist { member, persist } => self.persist(*member, persist),
            Seen::Synced { member, number } => {
                self.of.of(*member).mirror.synced(*number);
                Ok(())
            }
            Seen::Committed { member, entries } => self.committed(*member, entries),
            Seen::Published { member, view } => self.applied(*member, view.applied_index()),
            _ => Ok(()),
        }
    }
}
