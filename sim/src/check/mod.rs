//! What must hold in every world, one file each. A checker watches and never touches; its `Err` says what was broken
//! and by whom.

pub mod agreement;
pub mod elections;
pub mod progress;
pub mod registers;
