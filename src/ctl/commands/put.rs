//! `put`: one key; the value from the command line or from standard input.

use std::io::Read;

use lockstep_proto::etcdserverpb::PutRequest;

use crate::ctl::client::Client;
use crate::ctl::flags::{Flag, Flags, Kind, flag};
use crate::ctl::golang::parse_int;
use crate::ctl::{Context, Failure, code};

pub static FLAGS: &[Flag] = &[
    flag("lease", Kind::Text, "0", "id of the lease (hexadecimal) the key hangs on"),
    flag("prev-kv", Kind::Bool, "false", "return the key-value pair from before"),
    flag("ignore-value", Kind::Bool, "false", "keep the key's value"),
    flag("ignore-lease", Kind::Bool, "false", "keep the key's lease"),
];

pub static LONG: &str = "Stores a value under a key.

A <value> that begins with '-' would be read as a flag; '--' ends the flags:

$ put <key> -- <value>
$ put -- <key> <value>

Without <value> and without '--ignore-value' the value is read from standard input:

$ cat file | put <key>
";

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let request = request(&context.flags, || {
        let mut value = Vec::new();
        std::io::stdin().lock().read_to_end(&mut value).ok().filter(|_| !value.is_empty()).map(|_| value)
    })?;
    let response = Client::open(context)?.put(request)?;
    context.printer.put(&response)
}

/// The request that these flags and arguments say; `stdin` is asked for a value that is not among them.
pub fn request(flags: &Flags, stdin: impl FnOnce() -> Option<Vec<u8>>) -> Result<PutRequest, Failure> {
    let usage = || Failure::new(code::BAD_ARGS, "put command needs 1 argument and input from stdin or 2 arguments");
    let key = flags.args.first().ok_or_else(usage)?;
    let ignore_value = flags.bool("ignore-value");
    if ignore_value && flags.args.len() > 1 {
        return Err(Failure::new(code::BAD_ARGS, "put command needs only 1 argument when 'ignore-value' is set"));
    }
    let value = match flags.args.get(1) {
        Some(value) => value.clone(),
        None if ignore_value => Vec::new(),
        None => stdin().ok_or_else(usage)?,
    };
    let lease = parse_int(flags.bytes("lease"), 16)
        .map_err(|why| Failure::new(code::BAD_ARGS, format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: flags.bool("prev-kv"),
        ignore_value,
        ignore_lease: flags.bool("ignore-lease"),
    })
}
