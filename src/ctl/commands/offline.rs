//! `hashkv`, `verify`, and `defrag --data-dir`: what etcdutl does to the files of a member that does not run.

use std::path::Path;

use super::snapshot::{failed, path_of};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::golang::human_bytes;
use crate::ctl::{Context, Failure, code, emit, say_error};
use crate::offline::maintain;

pub static HASHKV_FLAGS: &[Flag] = &[
    flag("rev", Kind::Int, "0", "maximum revision to hash (default: latest revision)"),
    flag("data-dir", Kind::Text, "", "hash a data directory that no server uses, instead of a file"),
];
pub static HASHKV_LONG: &str = "The file is a snapshot, the database of a stopped etcd, or a store of lockstepd.
With --write-out=simple it is a line of comma-separated items: hash, hash revision, compact revision.
";
pub static VERIFY_FLAGS: &[Flag] = &[
    flag("data-dir", Kind::Text, "", "the data directory of a member that does not run"),
    flag("wal-dir", Kind::Text, "", "where its log lies (within the data directory by default)"),
];
pub static VERIFY_LONG: &str = "Reads every page of the store and every record of the log; changes nothing.
";

pub fn hashkv(context: &mut Context) -> Result<(), Failure> {
    context.printer.choose(&context.flags.text("write-out"), false)?;
    let flags = &context.flags;
    let revision = flags.int("rev");
    let hash = match (flags.bytes("data-dir"), flags.args.as_slice()) {
        (b"", [file]) => maintain::hash_kv_of_file(&path_of(file), revision),
        (dir, []) if !dir.is_empty() => maintain::hash_kv_of_dir(&path_of(dir), revision),
        _ => return Err(Failure::new(code::BAD_ARGS, "hashkv expects a file, or --data-dir")),
    };
    context.printer.hash_kv_of_file(&hash.map_err(failed)?)
}

pub fn verify(context: &mut Context) -> Result<(), Failure> {
    let flags = &context.flags;
    let given = |name: &str| Some(flags.bytes(name)).filter(|dir| !dir.is_empty()).map(path_of);
    let Some(data_dir) = given("data-dir") else {
        return Err(Failure::new(code::BAD_ARGS, "verify requires --data-dir"));
    };
    let found = maintain::verify(&data_dir, given("wal-dir").as_deref()).map_err(failed)?;
    if let Some(torn) = &found.torn {
        say_error(&format!("{torn}: the next start cuts that off"));
    }
    let text = format!(
        "member {:x} of cluster {:x}\nstore: revision {}, {}, {} keys, entry {} applied; every page is sound\nlog: \
         entries {} to {}, committed up to {} at least; every record is sound\n",
        found.member_id,
        found.cluster_id,
        found.revision,
        compaction(found.compact_revision),
        found.keys,
        found.consistent_index,
        found.first_index,
        found.last_index,
        found.commit
    );
    emit(text.as_bytes());
    Ok(())
}

/// What was compacted, in words: a store says -1 before its first compaction.
pub fn compaction(revision: i64) -> String {
    match revision {
        ..=0 => "never compacted".to_owned(),
        revision => format!("compacted up to {revision}"),
    }
}

/// `defrag --data-dir`.
pub fn defrag(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), Failure> {
    let shown = data_dir.display();
    match maintain::defrag(data_dir, wal_dir) {
        Ok((before, after)) => {
            let (before, after) = (human_bytes(before), human_bytes(after));
            say_error(&format!("Finished defragmenting data[{shown}]: {before} before, {after} after"));
            Ok(())
        }
        Err(error) => Err(failed(format!("Failed to defragment etcd data[{shown}] ({error})"))),
    }
}
