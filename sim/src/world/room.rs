//! The operator of a cluster with a quota: an alarm that lasts is answered as the runbook says, compact, defragment
//! whom it hangs on, and at the next look disarm. In between the cluster only deletes.
//!
//! Nothing is drawn: every look is at a fixed time and depends on nothing but what the members say. In the liveness
//! phase there is no quota any more, as though the operator had found room for all.

use lockstep::mvcc::read::Read;
use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{AlarmMember, AlarmRequest, CompactionRequest, InternalRaftRequest};

use super::{Failure, What, World};

/// Between two looks; an alarm stands for two or three of them.
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
                (machine.alarms_seen, machine.made_room) = (alarms, false);
                continue;
            }
            let Some(view) = machine.member.view().filter(|_| !alarms.is_empty() && machine.paused_until_us <= now_us)
            else {
                continue;
            };
            let mut expires = machine.clock.now(now_us);
            expires.0 += patience_ms;
            machine.made_room = !machine.made_room;
            if machine.made_room {
                machine.member.propose(compact(view.rev()), expires);
                if alarms.iter().any(|alarm| alarm.member_id == id) {
                    machine.member.defragment();
                }
                self.say(&format!("the operator of {id:x} compacts at {}", view.rev()));
            } else {
                for alarm in &alarms {
                    machine.member.propose(disarm(alarm), expires);
                }
                self.say(&format!("the operator of {id:x} disarms {} alarms", alarms.len()));
            }
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

fn compact(revision: i64) -> InternalRaftRequest {
    let compaction = CompactionRequest { revision, physical: false };
    InternalRaftRequest { compaction: Some(compaction), ..Default::default() }
}

fn disarm(alarm: &AlarmMember) -> InternalRaftRequest {
    let action = AlarmAction::Deactivate as i32;
    let alarm = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
    InternalRaftRequest { alarm: Some(alarm), ..Default::default() }
}
