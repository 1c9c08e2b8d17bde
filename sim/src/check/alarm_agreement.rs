//! Alarms are replicated: whenever a member says which are raised, these are the ones that the log has raised up to the
//! index that it has applied, in this life and over crashes, snapshots and defragmentations.
//!
//! The log is read as it is first committed. What members refuse by their alarms is [`super::space`]'s to say; that the
//! rows in their stores are alike, [`super::applied_hash`]'s.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest};
use lockstep_proto::raftpb::{Entry, EntryType};
use prost::Message;

use super::{Checker, Objection, PerMember, Seen, object};

/// By kind and member.
type Raised = BTreeSet<(i32, u64)>;

#[derive(Debug, Default)]
pub struct AlarmAgreement {
    /// Looked at up to this index.
    looked: u64,
    /// What is raised from an index on.
    changes: BTreeMap<u64, Raised>,
    /// What each running member said last.
    said: PerMember<Option<Raised>>,
}

impl AlarmAgreement {
    fn committed(&mut self, entry: &Entry) {
        if entry.index() <= self.looked {
            return;
        }
        self.looked = entry.index();
        let Some(data) = entry.data.as_ref().filter(|_| entry.r#type() == EntryType::EntryNormal) else { return };
        let Ok(InternalRaftRequest { alarm: Some(alarm), .. }) = InternalRaftRequest::decode(data.clone()) else {
            return;
        };
        let mut raised = self.as_of(entry.index());
        change(&mut raised, &alarm);
        self.changes.insert(entry.index(), raised);
    }

    fn as_of(&self, index: u64) -> Raised {
        self.changes.range(..=index).next_back().map(|(_, raised)| raised.clone()).unwrap_or_default()
    }

    fn compare(&self, member: u64, index: u64, raised: &Raised) -> Result<(), Objection> {
        let expected = self.as_of(index);
        if *raised == expected {
            return Ok(());
        }
        object(
            "different alarms",
            format!(
                "member {member} has applied up to {index} and has these alarms (kind, member): {raised:?}; the log up \
                 to there raises {expected:?}"
            ),
        )
    }
}

impl Checker for AlarmAgreement {
    fn name(&self) -> &'static str {
        "alarm-agreement"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Committed { entries, .. } => entries.iter().for_each(|entry| self.committed(entry)),
            Seen::Ended { member } => *self.said.of(*member) = None,
            Seen::Alarms { member, index, raised } => {
                let raised: Raised =
                    raised.iter().map(|AlarmMember { member_id, alarm }| (*alarm, *member_id)).collect();
                self.compare(*member, *index, &raised)?;
                *self.said.of(*member) = Some(raised);
            }
            Seen::AtRest { status, view } => {
                // Nothing has changed for it since, so it must have heard of everything.
                if let Some(raised) = self.said.of(status.id).clone() {
                    return self.compare(status.id, view.applied_index(), &raised);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn change(raised: &mut Raised, alarm: &AlarmRequest) {
    let place = (alarm.alarm, alarm.member_id);
    match AlarmAction::try_from(alarm.action) {
        Ok(AlarmAction::Activate) if alarm.alarm != AlarmType::None as i32 => drop(raised.insert(place)),
        Ok(AlarmAction::Deactivate) => drop(raised.remove(&place)),
        _ => {}
    }
}
