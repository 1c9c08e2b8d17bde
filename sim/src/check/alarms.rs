//! Which alarms the log has raised, for checkers that want to know what apply refuses from there on.

use std::collections::BTreeSet;

use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{AlarmRequest, AlarmType};

/// Members whose `NOSPACE` alarm is raised.
#[derive(Debug, Default)]
pub struct Alarms {
    raised: BTreeSet<u64>,
}

impl Alarms {
    pub fn has_space(&self) -> bool {
        self.raised.is_empty()
    }

    /// This one is committed.
    pub fn committed(&mut self, alarm: &AlarmRequest) {
        if alarm.alarm != AlarmType::Nospace as i32 {
            return;
        }
        match AlarmAction::try_from(alarm.action) {
            Ok(AlarmAction::Activate) => drop(self.raised.insert(alarm.member_id)),
            Ok(AlarmAction::Deactivate) => drop(self.raised.remove(&alarm.member_id)),
            _ => {}
        }
    }
}
