//! Linearizability, where it can be decided at once: each key has one writer, which counts up.
//!
//! A writer that does not know whether its write was done (time-out, lost connection) leaves the key for ever, so the
//! value never goes down. A linearizable read must return at least what was acknowledged, or read by anyone, before it
//! began, and at most what has been asked for. The version counts the puts, so a put that was applied twice shows.

use std::collections::BTreeMap;

use lockstep_proto::mvccpb::KeyValue;

#[derive(Debug, Default)]
pub struct Registers {
    keys: BTreeMap<String, Register>,
    pub acknowledged: u64,
    pub reads: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Register {
    /// The largest value asked for.
    asked: u64,
    /// The largest value that was acknowledged or read.
    floor: u64,
}

impl Registers {
    pub fn asked(&mut self, key: &str, value: u64) {
        let register = self.keys.entry(key.to_owned()).or_default();
        register.asked = register.asked.max(value);
    }

    pub fn acknowledged(&mut self, key: &str, value: u64) {
        let register = self.keys.entry(key.to_owned()).or_default();
        register.floor = register.floor.max(value);
        self.acknowledged += 1;
    }

    /// What a linearizable read that begins now must find at least.
    pub fn floor(&self, key: &str) -> u64 {
        self.keys.get(key).map_or(0, |register| register.floor)
    }

    pub fn linearizable_read(&mut self, key: &str, floor: u64, found: Option<&KeyValue>) -> Result<(), String> {
        let value = self.plausible(key, found)?;
        if value < floor {
            return Err(format!("stale read: {key} is {value}, but {floor} was known before the read began"));
        }
        let register = self.keys.entry(key.to_owned()).or_default();
        register.floor = register.floor.max(value);
        self.reads += 1;
        Ok(())
    }

    /// A read of whatever a member has: old, but never made up.
    pub fn serializable_read(&mut self, key: &str, found: Option<&KeyValue>) -> Result<(), String> {
        self.reads += 1;
        self.plausible(key, found).map(drop)
    }

    /// When all is over: every key has at least its floor.
    pub fn at_the_end(&mut self, mut look_up: impl FnMut(&str) -> Option<KeyValue>) -> Result<(), String> {
        for (key, register) in self.keys.clone() {
            let found = look_up(&key);
            let value = self.plausible(&key, found.as_ref())?;
            if value < register.floor {
                return Err(format!("acknowledged write lost: {key} is {value}, but {} was known", register.floor));
            }
        }
        Ok(())
    }

    fn plausible(&self, key: &str, found: Option<&KeyValue>) -> Result<u64, String> {
        let Some(kv) = found else { return Ok(0) };
        let text = String::from_utf8_lossy(&kv.value);
        let value: u64 = text.parse().map_err(|_| format!("{key} holds {text:?}, which nobody wrote"))?;
        let asked = self.keys.get(key).map_or(0, |register| register.asked);
        if value > asked {
            return Err(format!("{key} is {value}, but at most {asked} was ever asked for"));
        }
        if kv.version != value as i64 {
            return Err(format!("{key} is {value} at version {}: a put was applied twice, or lost", kv.version));
        }
        Ok(value)
    }
}
