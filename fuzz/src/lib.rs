//! What the fuzz targets share. Nothing here is random: the same bytes do the same, so that an artifact is a test.

pub mod choices;
pub mod member;
pub mod messages;
