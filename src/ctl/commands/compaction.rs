//! `compaction`: forget what is older than a revision.

use lockstep_proto::etcdserverpb::CompactionRequest;

use crate::ctl::client::Client;
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::golang::parse_int;
use crate::ctl::{Context, Failure, code, emit};

pub static FLAGS: &[Flag] =
    &[flag("physical", Kind::Bool, "false", "wait until the old revisions are gone from the store")];

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let [revision] = context.flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "compaction command needs 1 argument"));
    };
    let revision = parse_int(revision, 10).map_err(|why| Failure::new(code::ERROR, why))?;
    let physical = context.flags.bool("physical");
    Client::open(context)?.compact(CompactionRequest { revision, physical })?;
    emit(format!("compacted revision {revision}\n").as_bytes());
    Ok(())
}
