//! Liveness, bounded: once faults have stopped, every client gets a write done, and all members end at the same index.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Progress {
    /// Client -> the time of its last acknowledged write.
    last_us: BTreeMap<u64, u64>,
}

impl Progress {
    pub fn done(&mut self, client: u64, now_us: u64) {
        self.last_us.insert(client, now_us);
    }

    pub fn at_the_end(&self, clients: u64, calm_since_us: u64) -> Result<(), String> {
        for client in 0..clients {
            let last = self.last_us.get(&client).copied().unwrap_or(0);
            if last < calm_since_us {
                return Err(format!(
                    "no progress: client {client} got its last write done at {last} us, though all is well since \
                     {calm_since_us} us"
                ));
            }
        }
        Ok(())
    }
}
