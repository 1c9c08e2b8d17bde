//! Ranges of keys, by what lies in them: which of ten thousand ranges hold this key, without looking at all of them.
//!
//! A treap in the order of the ranges' begins, in which every node knows the greatest end below it. Its priorities come
//! from a counter, so that equal calls make equal trees and no client can make it lopsided.

use std::cmp::Ordering;

use bytes::Bytes;
use slab::Slab;

/// Half-open; no end means every key from the begin on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub begin: Bytes,
    pub end: Option<Bytes>,
}

/// Distinct ranges, each with a number.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    nodes: Slab<Node>,
    root: Link,
    made: u64,
}

type Link = Option<usize>;

#[derive(Debug)]
struct Node {
    range: Range,
    value: usize,
    priority: u64,
    /// The greatest end in this subtree.
    reach: Option<Bytes>,
    left: Link,
    right: Link,
}

impl Intervals {
    pub fn get(&self, range: &Range) -> Option<usize> {
        let mut at = self.root;
        while let Some(i) = at {
            let node = &self.nodes[i];
            at = match order(range, &node.range) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(node.value),
            };
        }
        None
    }

    /// Adds a range that is not there yet.
    pub fn insert(&mut self, range: Range, value: usize) {
        self.made += 1;
        let priority = mix(self.made);
        let (left, right) = self.split(self.root, &range);
        let reach = range.end.clone();
        let node = self.nodes.insert(Node { range, value, priority, reach, left: None, right: None });
        let left = self.merge(left, Some(node));
        self.root = self.merge(left, right);
    }

    pub fn remove(&mut self, range: &Range) {
        self.root = self.remove_below(self.root, range);
    }

    /// Calls `f` with the number of every range that holds the key, in the order of their begins.
    pub fn stab(&self, key: &[u8], f: &mut impl FnMut(usize)) {
        self.stab_below(self.root, key, f);
    }

    fn stab_below(&self, at: Link, key: &[u8], f: &mut impl FnMut(usize)) {
        let Some(i) = at else { return };
        let node = &self.nodes[i];
        if !is_before(key, &node.reach) {
            return;
        }
        self.stab_below(node.left, key, f);
        if *node.range.begin <= *key {
            if is_before(key, &node.range.end) {
                f(node.value);
            }
            self.stab_below(node.right, key, f);
        }
    }

    /// Those before `range`, and those after it.
    fn split(&mut self, at: Link, range: &Range) -> (Link, Link) {
        let Some(i) = at else { return (None, None) };
        if order(&self.nodes[i].range, range).is_lt() {
            let (middle, after) = self.split(self.nodes[i].right, range);
            self.nodes[i].right = middle;
            self.measure(i);
            (at, after)
        } else {
            let (before, middle) = self.split(self.nodes[i].left, range);
            self.nodes[i].left = middle;
            self.measure(i);
            (before, at)
        }
    }

    /// All of `left` are before all of `right`.
    fn merge(&mut self, left: Link, right: Link) -> Link {
        let (Some(l), Some(r)) = (left, right) else { return left.or(right) };
        if self.nodes[l].priority > self.nodes[r].priority {
            self.nodes[l].right = self.merge(self.nodes[l].right, right);
            self.measure(l);
            left
        } else {
            self.nodes[r].left = self.merge(left, self.nodes[r].left);
            self.measure(r);
            right
        }
    }

    fn remove_below(&mut self, at: Link, range: &Range) -> Link {
        let i = at?;
        match order(range, &self.nodes[i].range) {
            Ordering::Equal => {
                let node = self.nodes.remove(i);
                return self.merge(node.left, node.right);
            }
            Ordering::Less => self.nodes[i].left = self.remove_below(self.nodes[i].left, range),
            Ordering::Greater => self.nodes[i].right = self.remove_below(self.nodes[i].right, range),
        }
        self.measure(i);
        at
    }

    fn measure(&mut self, i: usize) {
        let node = &self.nodes[i];
        let below = [node.left, node.right].into_iter().flatten().map(|child| &self.nodes[child].reach);
        let reach = below.fold(&node.range.end, |a, b| if end_order(a, b).is_lt() { b } else { a }).clone();
        self.nodes[i].reach = reach;
    }
}

fn order(a: &Range, b: &Range) -> Ordering {
    a.begin.cmp(&b.begin).then_with(|| end_order(&a.end, &b.end))
}

/// No end is after every end.
fn end_order(a: &Option<Bytes>, b: &Option<Bytes>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
}

fn is_before(key: &[u8], end: &Option<Bytes>) -> bool {
    end.as_ref().is_none_or(|end| key < &**end)
}

/// The finalizer of splitmix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
