//! A set of keys made of ranges, for the checks of a txn: what its deletes cover.
//!
//! Ranges are joined as they come, so that a hostile request costs no more than a sort.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// Disjoint half-open ranges of keys: begin -> end; no end means all keys from the begin on.
#[derive(Default)]
pub(super) struct Intervals(BTreeMap<Bytes, Option<Bytes>>);

impl Intervals {
    /// Adds one key.
    pub fn add_key(&mut self, key: &Bytes) {
        self.add(key.clone(), Some(Bytes::from([key.as_ref(), b"\0"].concat())));
    }

    /// Adds a range; one whose end is not after its begin holds nothing.
    pub fn add(&mut self, mut begin: Bytes, mut end: Option<Bytes>) {
        if end.as_ref().is_some_and(|end| *end <= begin) {
            return;
        }
        // Those that touch the new one become one with it; being disjoint, they are the last that begin before its end.
        loop {
            let upto = end.as_ref().map_or(Bound::Unbounded, Bound::Included);
            let Some((b, e)) = self.0.range::<Bytes, _>((Bound::Unbounded, upto)).next_back() else { break };
            if e.as_ref().is_some_and(|e| *e < begin) {
                break;
            }
            let (b, e) = (b.clone(), e.clone());
            self.0.remove(&b);
            begin = begin.min(b);
            end = end.zip(e).map(|(a, b)| a.max(b));
        }
        self.0.insert(begin, end);
    }

    /// Adds all of another set.
    pub fn merge(&mut self, other: Intervals) {
        for (begin, end) in other.0 {
            self.add(begin, end);
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        let last = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        last.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end.as_ref()))
    }
}
