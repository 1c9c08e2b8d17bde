//! What a row that cannot be read stands for: the keys whose newest values lie beside it and cannot be read either.
//!
//! Rows lie in the order of their revisions, so one damaged page takes those of neighbouring revisions, and keys from
//! anywhere. Whoever operates the member asks for keys. This looks only around the row that failed, and only once it
//! has failed.

use super::index::Index;
use super::read::{Error, Revision};
use super::view::Base;

/// How far around the row the others are tried, in revisions, and how many.
const AROUND: i64 = 1_000;
const MOST: usize = 10_000;

/// The error, and which keys are not readable as of `at`.
pub fn explain(base: &Base, index: &Index, at: i64, revision: Revision, error: Error) -> Error {
    let Error::Storage(text) = error else { return error };
    let mut near = Vec::new();
    let is_near = |main: i64| (revision.main - AROUND..=revision.main + AROUND).contains(&main);
    let walked = index.for_each_live(at, |key, found| {
        if is_near(found.main) && near.len() < MOST {
            near.push((found, Box::<[u8]>::from(key)));
        }
    });
    near.retain(|(found, _)| base.row(*found).is_err());
    let revisions = near.iter().map(|(found, _)| found.main);
    let lost = match (walked, near.first(), near.last(), revisions.clone().min(), revisions.max()) {
        (Ok(()), Some((_, first)), Some((_, last)), Some(least), Some(most)) => format!(
            "{} keys from \"{}\" to \"{}\", written at revisions {least} to {most}",
            near.len(),
            first.escape_ascii(),
            last.escape_ascii()
        ),
        _ => format!("what was written at revision {}", revision.main),
    };
    Error::Storage(format!("{text}; not readable on this member: {lost}; the others have it"))
}
