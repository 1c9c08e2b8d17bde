//! Revisions, the key index, views, and the store on redb.

pub mod read;
