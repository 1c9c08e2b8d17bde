//! `defrag`: gives the room that compaction has left back to the file system, one endpoint after the other.

use super::endpoint::endpoints;
use crate::ctl::client::{Client, runtime};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::{Context, Failure, code, emit, say_error};

pub static FLAGS: &[Flag] =
    &[flag("data-dir", Kind::Text, "", "defragment a data directory that no server uses, instead of the endpoints")];

pub fn run(context: &mut Context) -> Result<(), Failure> {
    if !context.flags.bytes("data-dir").is_empty() {
        return Err(Failure::new(code::BAD_ARGS, "--data-dir is not supported yet"));
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
