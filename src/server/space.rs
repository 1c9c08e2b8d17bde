//! The quota, the alarms and what a member does about its space by itself: warn, compact, disarm.
//!
//! What is refused when an alarm is raised, apply decides; here a request that would not fit is refused before it goes
//! through the log, and the alarm is asked for.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{self as pb, AlarmMember, AlarmType, InternalRaftRequest};
use tracing::{info, warn};

use super::node::Node;
use crate::member::apply::{Input as ApplyInput, Response, alarm};
use crate::member::error::EtcdError;
use crate::mvcc::read::Read;
use crate::ports::clock::Instant;

/// What `--quota-backend-bytes=0` means, and the most that etcd recommends.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;
const MAX_QUOTA_BYTES: i64 = 8 << 30;
/// Parts of the quota, in hundredths: a warning above the first, an alarm that heals itself below the second.
const WARN_PERCENT: u64 = 80;
const HEALED_PERCENT: u64 = 90;
/// Between two looks at the space in use.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The quota in effect; none when the flag is negative.
pub fn quota(flag: i64) -> Option<u64> {
    match flag {
        0 => Some(DEFAULT_QUOTA_BYTES as u64),
        flag => u64::try_from(flag).ok(),
    }
}

/// The quota as the flag, `Status` and the metric give it.
pub fn quota_as_told(flag: i64) -> i64 {
    if flag == 0 { DEFAULT_QUOTA_BYTES } else { flag }
}

pub fn log_quota(flag: i64) {
    let name = "v3-applier";
    match flag {
        ..0 => info!("quota-name" = name, "quota-size-bytes" = flag, "disabled backend quota"),
        0 => info!(
            "quota-name" = name,
            "quota-size-bytes" = DEFAULT_QUOTA_BYTES,
            "quota-size" = %human_bytes(DEFAULT_QUOTA_BYTES as u64),
            "enabled backend quota with default value"
        ),
        _ => {
            if flag > MAX_QUOTA_BYTES {
                warn!(
                    "quota-name" = name,
                    "quota-size-bytes" = flag,
                    "quota-size" = %human_bytes(flag as u64),
                    "quota-maximum-size-bytes" = MAX_QUOTA_BYTES,
                    "quota-maximum-size" = %human_bytes(MAX_QUOTA_BYTES as u64),
                    "quota exceeds the maximum value"
                );
            }
            info!(
                "quota-name" = name,
                "quota-size-bytes" = flag,
                "quota-size" = %human_bytes(flag as u64),
                "enabled backend quota"
            );
        }
    }
}

impl Node {
    /// Refuses a request that the store has no room for, once this member's alarm is raised.
    pub async fn check_room(&self, request: &InternalRaftRequest) -> Result<(), EtcdError> {
        if alarm::has_room(self.quota_bytes(), self.local_view().size_bytes(), request) {
            return Ok(());
        }
        // As in etcd, whether that could be done makes no difference here.
        let _ = self.propose(self.no_space()).await;
        Err(EtcdError::NoSpace)
    }

    /// From the apply thread: what was just applied exceeded the quota.
    pub(super) fn ask_for_alarm(&self) {
        warn!(
            "quota-size-bytes" = self.quota,
            "quota-size" = %human_bytes(self.quota.max(0) as u64),
            error = %EtcdError::NoSpace,
            "message exceeded backend quota; raising alarm"
        );
        self.propose_unheard(self.no_space());
    }

    pub fn quota_bytes(&self) -> Option<u64> {
        quota(self.quota)
    }

    /// Gives back the space that the store's file does not need; reads and writes go on meanwhile.
    pub async fn defragment(&self) -> Result<(), String> {
        info!("starting defragment");
        let id = self.next_id();
        let answer = self.desk().ask(id, ApplyInput::Defragment { id }, Instant(u64::MAX)).await;
        let done = match answer {
            Ok(Response::Defragmented(done)) => done,
            Ok(other) => unreachable!("the apply machine was asked to defragment and says {other:?}"),
            Err(error) => Err(error.to_string()),
        };
        match &done {
            Ok(()) => info!("finished defragment"),
            Err(error) => warn!(error = %error, "failed to defragment"),
        }
        done
    }

    pub(super) fn set_alarms(&self, now: Vec<AlarmMember>) {
        let before = self.replace_alarms(now.clone());
        // As in etcd, the first of a kind and the last are worth a line.
        for kind in [AlarmType::Nospace, AlarmType::Corrupt] {
            let first = |list: &[AlarmMember]| list.iter().find(|a| a.alarm == kind as i32).map(|a| a.member_id);
            let name = kind.as_str_name();
            match (first(&before), first(&now)) {
                (None, Some(from)) => warn!(alarm = name, from = %format_args!("{from:x}"), "alarm raised"),
                (Some(from), None) => warn!(alarm = name, from = %format_args!("{from:x}"), "alarm disarmed"),
                _ => {}
            }
        }
    }

    fn no_space(&self) -> InternalRaftRequest {
        alarm_request(AlarmAction::Activate, self.member_id, AlarmType::Nospace)
    }
}

pub(super) fn alarm_request(action: AlarmAction, member_id: u64, kind: AlarmType) -> InternalRaftRequest {
    let alarm = pb::AlarmRequest { action: action as i32, member_id, alarm: kind as i32 };
    InternalRaftRequest { alarm: Some(alarm), ..Default::default() }
}

/// Warns when the quota is nearly used up; with `heals`, the leader makes room and disarms the alarm.
pub async fn look_after(node: Arc<Node>, heals: bool) {
    let Some(quota_bytes) = node.quota_bytes() else { return };
    let mut stopping = node.watch_stopping();
    let (mut warned, mut compacted) = (false, false);
    loop {
        tokio::select! {
            _ = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = stopping.changed() => return,
        }
        let size_bytes = node.local_view().size_bytes();
        let is_high = size_bytes >= quota_bytes / 100 * WARN_PERCENT;
        if is_high && !warned {
            warn!(
                "db-size-bytes" = size_bytes,
                "quota-size-bytes" = quota_bytes,
                "the store has used {WARN_PERCENT} % of its quota; compact its history, delete what is not needed, or \
                 raise --quota-backend-bytes"
            );
        }
        warned = is_high;
        if heals && node.status().leader == node.member_id {
            compacted = heal(&node, size_bytes, quota_bytes, compacted).await;
        }
    }
}

/// Forgets all history but the newest revision, and disarms once the store is well below the quota. An alarm is never
/// disarmed before that: it may have been raised by a request too large for what was left. Says whether it has been
/// done for the alarms that are raised.
async fn heal(node: &Node, size_bytes: u64, quota_bytes: u64, compacted: bool) -> bool {
    let raised = node.raised_alarms();
    let raised: Vec<_> = raised.iter().filter(|a| a.alarm == AlarmType::Nospace as i32).collect();
    if raised.is_empty() {
        return false;
    }
    let view = node.local_view();
    if !compacted || size_bytes >= quota_bytes / 100 * HEALED_PERCENT {
        if view.compact_rev() < view.rev() {
            let compaction = pb::CompactionRequest { revision: view.rev(), physical: true };
            let request = InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
            match node.propose(request).await {
                Ok(_) => info!(revision = view.rev(), "compacted the history to get below the quota again"),
                Err(error) => warn!(revision = view.rev(), error = %error, "failed to compact to get below the quota"),
            }
        }
        return true;
    }
    for alarm in raised {
        let request = alarm_request(AlarmAction::Deactivate, alarm.member_id, AlarmType::Nospace);
        if let Err(error) = node.propose(request).await {
            warn!(error = %error, "failed to disarm the alarm although there is space again");
        }
    }
    compacted
}

/// As etcd's logs write sizes: powers of 1,000, one decimal below ten.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1_000 {
        scale *= 1_000;
        unit += 1;
    }
    let tenths = (bytes as u128 * 10 + scale as u128 / 2) / scale as u128;
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (tenths + 5) / 10, UNITS[unit])
    }
}
