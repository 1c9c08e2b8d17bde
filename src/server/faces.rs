//! What the health and version pages see of the member.

use std::future::Future;
use std::pin::Pin;

use super::http::{AlarmType, Answer, Health};
use super::node::{Consistency, Node};
use crate::CLUSTER_VERSION;
use crate::mvcc::read::{RangeOptions, Read};

impl Health for Node {
    fn has_leader(&self) -> bool {
        self.status().leader != 0
    }

    fn alarms(&self) -> Vec<(u64, AlarmType)> {
        self.raised_alarms().iter().map(|a| (a.member_id, a.alarm())).collect()
    }

    fn full_disk(&self) -> Option<String> {
        self.room.lacking().map(|(_, place)| place)
    }

    fn is_learner(&self) -> bool {
        Node::is_learner(self)
    }

    fn cluster_version(&self) -> Option<String> {
        self.membership().version().map(str::to_owned)
    }

    fn storage_version(&self) -> Option<String> {
        Some(CLUSTER_VERSION.to_owned())
    }

    fn serializable_read(&self) -> Answer<'_> {
        self.probe(Consistency::Serializable)
    }

    fn linearizable_read(&self) -> Answer<'_> {
        self.probe(Consistency::Linearizable)
    }
}

impl Node {
    fn probe(&self, consistency: Consistency) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            let view = self.view(consistency).await.map_err(|e| e.to_string())?;
            // etcd reads this key, too: found or not, the store has answered.
            view.range(b"health", b"", RangeOptions { limit: 1, ..Default::default() }).map_err(|e| e.to_string())?;
            Ok(())
        })
    }
}
