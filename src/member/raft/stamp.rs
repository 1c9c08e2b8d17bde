//! A stamp makes a forwarded request recognisable, so that the leader takes it once.
//!
//! Raft's own messages may arrive twice without harm; a forwarded `MsgProp` would be appended twice, and a
//! `MsgReadIndex` that arrives twice makes raft-rs 0.7 serve a stale read (the shape of etcd #20418): the second copy
//! re-opens a round that late acknowledgements of the first then complete. Senders stamp with (member, boot epoch,
//! sequence); the epoch is durable before the first message, so a stamp is never used again, not even after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Who asked, in which life, as which request. On the wire three big-endian u64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub member: u64,
    pub epoch: u64,
    pub sequence: u64,
}

const STAMP_BYTES: usize = 24;

impl Stamp {
    pub fn encode(self) -> Bytes {
        let mut bytes = Vec::with_capacity(STAMP_BYTES);
        for part in [self.member, self.epoch, self.sequence] {
            bytes.extend_from_slice(&part.to_be_bytes());
        }
        bytes.into()
    }

    /// `None` when the bytes are not a stamp of ours (an etcd peer's context is 8 bytes).
    pub fn decode(bytes: &[u8]) -> Option<Stamp> {
        if bytes.len() != STAMP_BYTES {
            return None;
        }
        let part = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Some(Stamp { member: part(0), epoch: part(8), sequence: part(16) })
    }
}

/// How far back a late stamp is still told from a repeated one. Older than that counts as repeated: its sender times
/// out and asks again, which is safe.
const WINDOW: u64 = 4096;

/// The stamps taken so far, in constant memory a member.
#[derive(Debug, Default)]
pub struct Taken {
    senders: BTreeMap<u64, Window>,
}

#[derive(Debug)]
struct Window {
    epoch: u64,
    highest: u64,
    /// Bit `s % WINDOW` says whether sequence `s` was taken, for `s` in `(highest - WINDOW, highest]`.
    bits: Vec<u64>,
}

impl Taken {
    /// Whether this stamp is new; remembers it.
    pub fn take(&mut self, stamp: Stamp) -> bool {
        let window = self.senders.entry(stamp.member).or_insert_with(|| Window::new(stamp.epoch));
        if stamp.epoch < window.epoch {
            sometimes!("stamp refused that is of a former life");
            return false;
        }
        if stamp.epoch > window.epoch {
            sometimes!("stamps of a member begin anew with its next life");
            *window = Window::new(stamp.epoch);
        }
        window.take(stamp.sequence)
    }
}

impl Window {
    fn new(epoch: u64) -> Window {
        Window { epoch, highest: 0, bits: vec![0; (WINDOW / 64) as usize] }
    }

    fn take(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let from = self.highest.max(sequence.saturating_sub(WINDOW)) + 1;
            for passed in from..=sequence {
                self.set(passed, false);
            }
            self.highest = sequence;
            self.set(sequence, true);
            return true;
        }
        if self.highest - sequence >= WINDOW || self.get(sequence) {
            return false;
        }
        sometimes!("stamp taken although a newer one came before");
        self.set(sequence, true);
        true
    }

    fn get(&self, sequence: u64) -> bool {
        let bit = sequence % WINDOW;
        self.bits[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    fn set(&mut self, sequence: u64, taken: bool) {
        let bit = sequence % WINDOW;
        let word = &mut self.bits[(bit / 64) as usize];
        if taken {
            *word |= 1 << (bit % 64);
        } else {
            *word &= !(1 << (bit % 64));
        }
    }
}
