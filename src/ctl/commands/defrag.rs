//! `defrag`: gives the room that compaction has left back to the file system, one endpoint after the other.

use super::endpoint::endpoints;
use super::offline;
use super::snapshot::path_of;
use crate::ctl::client::{Client, runtime};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::{Context, Failure, code, emit, say_error};

pub static FLAGS: &[Flag] = &[
    flag("data-dir", Kind::Text, "", "defragment a data directory that no server uses, instead of the endpoints"),
    flag("wal-dir", Kind::Text, "", "where that directory's log lies (within it by default)"),
];

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let flags = &context.flags;
    let given = |name: &str| Some(flags.bytes(name)).filter(|dir| !dir.is_empty()).map(path_of);
    if let Some(dir) = given("data-dir") {
        if context.program == "etcdctl" {
            say_error("Use `etcdutl defrag` instead. The --data-dir is going to be decomissioned in v3.6.\n");
        }
        return offline::defrag(&dir, given("wal-dir").as_deref());
    }
    if context.program == "etcdutl" {
        return Err(Failure::new(code::ERROR, "required flag(s) \"data-dir\" not set"));
    }
    let client = Client::open(context)?;
    let mut failed = false;
    for endpoint in endpoints(context, &client.settings)? {
        match runtime().block_on(client.defragment_until(client.deadline(), &endpoint)) {
            Ok(_) => emit(format!("Finished defragmenting etcd member[{endpoint}]\n").as_bytes()),
            Err(why) => {
                failed = true;
                say_error(&format!("Failed to defragment etcd member[{endpoint}] ({why})"));
            }
        }
    }
    if failed { Err(Failure::silent(code::ERROR)) } else { Ok(()) }
}
