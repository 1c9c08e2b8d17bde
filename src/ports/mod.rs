//! What a member asks of its world, and nothing more: [`clock`], [`dice`], [`network`] and [`disk`].
//!
//! Production implements them in `server/`, the simulator in `sim/`; one contract test runs against both disks.
//! This module may name no real clock, socket or file.

pub mod clock;
pub mod dice;
pub mod disk;
pub mod network;
