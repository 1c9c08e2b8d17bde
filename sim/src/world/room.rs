//! The operator of a cluster with a quota: an alarm that lasts is answered as the runbook says, compact, then disarm.
//!
//! Nothing is drawn: every look is at a fixed time and depends on nothing but what the members say. In the liveness
//! phase there is no quota any more, as though the operator had found room for all.

use lockstep::mvcc::read::Read;
use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{AlarmMember, AlarmRequest, CompactionRequest, InternalRaftRequest};

use super::{Failure, What, World};

/// Between two looks; an alarm stands for up to two of them.
const LOOK_US: u64 = 400_000;

impl World {
    pub(super) fn operator_begins(&mut self) {
        if self.knobs.quota_bytes > 0 {
            self.after(LOOK_US, 0, 0, What::MakeRoom);
        }
    }

    pub(super) fn make_room(&mut self) -> Result<(), Failure> {
        let patience_ms = self.knobs.request_timeout_ms;
        for id in self.ids() {
            let now_us = self.now_us;
            let machine = self.machine(id);
            let alarms: Vec<AlarmMember> = machine.member.alarms().to_vec();
            if alarms != machine.alarms_seen {
                machine.alarms_seen = alarms;
                continue;
            }
            let Some(view) = machine.member.view().filter(|_| !alarms.is_empty() && machine.paused_until_us <= now_us)
            else {
                continue;
            };
            let mut expires = machine.clock.now(now_us);
            expires.0 += patience_ms;
            let compaction = CompactionRequest { revision: view.rev(), physical: false };
            let compact = InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
            let disarms = alarms.iter().map(disarm);
            for request in std::iter::once(compact).chain(disarms) {
                machine.member.propose(request, expires);
            }
            self.say(&format!("the operator of {id:x} compacts at {} and disarms {} alarms", view.rev(), alarms.len()));
            self.wake(id);
        }
        self.after(LOOK_US, 0, 0, What::MakeRoom);
        Ok(())
    }

    pub(super) fn lift_quotas(&mut self) {
        for id in self.ids() {
            self.machine(id).member.lift_quota();
        }
    }
}

fn disarm(alarm: &AlarmMember) -> InternalRaftRequest {
    let action = AlarmAction::Deactivate as i32;
    let alarm = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
    InternalRaftRequest { alarm: Some(alarm), ..Default::default() }
}
