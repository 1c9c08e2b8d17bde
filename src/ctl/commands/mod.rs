//! The commands, one file each: what a command asks of the cluster, and which refusals come before it asks.
//!
//! A command reads its flags, builds one request, calls it through `client` and hands the answer to `printer`.

pub mod alarm;
pub mod backups;
pub mod check;
pub mod cluster;
pub mod compaction;
pub mod completion;
pub mod defrag;
pub mod del;
pub mod elect;
pub mod endpoint;
pub mod get;
pub mod import;
pub mod lease;
pub mod lock;
pub mod log;
pub mod make_mirror;
pub mod member;
pub mod move_leader;
pub mod offline;
pub mod put;
pub mod snapshot;
pub mod txn;
mod txn_text;
pub mod version;
pub mod watch;

use bytes::Bytes;

/// The smallest key after every key with this prefix; `\0`, "to the end", when there is none.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&byte| byte < 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(b"\0"),
    }
}

/// Key and end of a range as `--prefix` and `--from-key` widen them.
fn widen(key: &[u8], end: Option<&[u8]>, prefix: bool, from_key: bool) -> (Bytes, Bytes) {
    let to_the_end = Bytes::from_static(b"\0");
    match (prefix || from_key, key.is_empty()) {
        (false, _) => (Bytes::copy_from_slice(key), Bytes::copy_from_slice(end.unwrap_or_default())),
        (true, true) => (to_the_end.clone(), to_the_end),
        (true, false) if from_key => (Bytes::copy_from_slice(key), to_the_end),
        (true, false) => (Bytes::copy_from_slice(key), prefix_end(key)),
    }
}
