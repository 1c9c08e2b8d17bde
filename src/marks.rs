//! Coverage of what matters: places that a good set of simulated runs reaches now and then.
//!
//! `sometimes!("torn tail repaired")` stands where something interesting has just been found to be so; with a condition
//! in front, `sometimes!(is_torn, "torn tail repaired")`, it counts only when that holds. A mark that no run reaches
//! says that the faults, the workload or the knobs are too tame to test that line. The names and which of them are
//! required are in `sim/src/marks.rs`; a tidy test keeps both sides equal.
//!
//! Without the feature `simulation` a mark is nothing at all: its condition is compiled, and never looked at.

#[cfg(feature = "simulation")]
use std::cell::RefCell;
use std::collections::BTreeMap;

#[cfg(feature = "simulation")]
#[macro_export]
macro_rules! sometimes {
    ($name:literal) => {
        $crate::marks::hit($name)
    };
    ($condition:expr, $name:literal) => {
        if $condition {
            $crate::marks::hit($name);
        }
    };
}

#[cfg(not(feature = "simulation"))]
#[macro_export]
macro_rules! sometimes {
    ($name:literal) => {{}};
    ($condition:expr, $name:literal) => {
        if false {
            let _: bool = $condition;
        }
    };
}

#[cfg(feature = "simulation")]
thread_local! {
    static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one hit on this thread.
#[cfg(feature = "simulation")]
pub fn hit(name: &'static str) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(name).or_default() += 1);
}

/// The marks hit on this thread since the last call, and how often; empties the counts.
#[cfg(feature = "simulation")]
pub fn take() -> BTreeMap<&'static str, u64> {
    COUNTS.take()
}

/// Nothing is counted without the feature `simulation`.
#[cfg(not(feature = "simulation"))]
pub fn take() -> BTreeMap<&'static str, u64> {
    BTreeMap::new()
}
