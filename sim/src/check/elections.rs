//! Election safety (Raft, section 5.2): at most one leader a term.

use std::collections::BTreeMap;

use lockstep::member::raft::{Role, Status};

#[derive(Debug, Default)]
pub struct Elections {
    leaders: BTreeMap<u64, u64>,
}

impl Elections {
    pub fn see(&mut self, status: &Status) -> Result<(), String> {
        if status.role != Role::Leader {
            return Ok(());
        }
        let leader = *self.leaders.entry(status.term).or_insert(status.id);
        if leader != status.id {
            return Err(format!("members {leader} and {} both lead term {}", status.id, status.term));
        }
        Ok(())
    }

    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }
}
