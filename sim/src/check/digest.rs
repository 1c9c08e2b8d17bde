//! A digest for comparing what members hold: fast, the same on every machine and in every run, and no secret. It tells
//! different contents apart by accident of one in 2^64; nobody here chooses contents against it.

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: u64 = 0xff51_afd7_ed55_8ccd;

/// Eight bytes at a time, each word mixed into all bits.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Digest {
    pub fn new() -> Digest {
        Digest(SEED)
    }

    #[must_use]
    pub fn number(self, word: u64) -> Digest {
        let mixed = (self.0 ^ word).wrapping_mul(MIX);
        Digest(mixed ^ (mixed >> 32))
    }

    /// The length counts, so that two strings are told from one.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Digest {
        let mut digest = self.number(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            digest = digest.number(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        digest.number(u64::from_le_bytes(last))
    }

    pub fn finish(self) -> u64 {
        self.number(SEED).0
    }
}

impl Default for Digest {
    fn default() -> Digest {
        Digest::new()
    }
}
