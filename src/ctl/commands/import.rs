//! `import`: a stopped etcd's data directory becomes one of ours, of the same member of the same cluster.

use super::offline::compaction;
use super::snapshot::{failed, path_of};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::progress::Flow;
use crate::ctl::{Context, Failure, code, emit, say_error};
use crate::offline::import::{Event, Request, import};

pub static FLAGS: &[Flag] = &[
    flag("from-etcd", Kind::Text, "", "the data directory of the stopped etcd, which is only read"),
    flag("from-wal-dir", Kind::Text, "", "where its log lies (within its data directory by default)"),
    flag("data-dir", Kind::Text, "", "the data directory to make"),
    flag("wal-dir", Kind::Text, "", "the directory of the log to make (within the data directory by default)"),
    flag("ignore-v2-keys", Kind::Bool, "false", "leave the keys of the v2 API behind"),
];
pub static LONG: &str = "Ids, members, revisions, leases and raft's progress stay: start lockstepd with the flags that
etcd had, and this --data-dir. Of a cluster, stop every member and import each on its machine; it goes on when most are
started. Nothing of etcd's is changed.
";

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let flags = &context.flags;
    let refused = |text: &str| Failure::new(code::BAD_ARGS, text);
    if !flags.args.is_empty() {
        return Err(refused("import takes no argument: it has --from-etcd and --data-dir"));
    }
    let given = |name: &str| Some(flags.bytes(name)).filter(|dir| !dir.is_empty()).map(path_of);
    let request = Request {
        from: given("from-etcd").ok_or_else(|| refused("import requires --from-etcd"))?,
        from_wal_dir: given("from-wal-dir"),
        data_dir: given("data-dir").ok_or_else(|| refused("import requires --data-dir"))?,
        wal_dir: given("wal-dir"),
        ignore_v2_keys: flags.bool("ignore-v2-keys"),
    };
    let mut loading: Option<Flow> = None;
    let made = import(&request, &mut |event| match event {
        Event::Loading { bytes, of } => loading.get_or_insert_with(|| Flow::new(of)).at(bytes),
        Event::Torn(what) => say_error(&format!("{what}: it is left out, as etcd would")),
        Event::Passed { file, why } => say_error(&format!("{} is not used: {why}", file.display())),
        Event::Loaded { rows, revision, consistent_index } => {
            loading.take().into_iter().for_each(Flow::finish);
            say_error(&format!(
                "loaded {rows} rows up to revision {revision}, which entry {consistent_index} of the log had led to"
            ));
        }
        Event::Finished(_) => {}
    })
    .map_err(failed)?;
    let text = format!(
        "Imported member {:x} of cluster {:x}\nrevision {}, {}, hash {}\nentry {} applied, {} more in the log\n",
        made.member_id,
        made.cluster_id,
        made.revision,
        compaction(made.compact_revision),
        made.hash,
        made.committed,
        made.last - made.committed
    );
    emit(text.as_bytes());
    Ok(())
}
