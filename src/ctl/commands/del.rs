//! `del`: a key, a range, a prefix.

use lockstep_proto::etcdserverpb::DeleteRangeRequest;

use super::widen;
use crate::ctl::client::Client;
use crate::ctl::flags::{Flag, Flags, Kind, flag};
use crate::ctl::{Context, Failure, code};

pub static FLAGS: &[Flag] = &[
    flag("prefix", Kind::Bool, "false", "delete every key that begins with the given one"),
    flag("prev-kv", Kind::Bool, "false", "return the deleted key-value pairs"),
    flag("from-key", Kind::Bool, "false", "delete every key from the given one on, in byte order"),
    // Newer etcdctls wait two seconds without it; here a range is deleted at once, as in 3.5.1.
    flag("range", Kind::Bool, "false", "delete a range of keys"),
];

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let request = request(&context.flags)?;
    let response = Client::open(context)?.delete_range(request)?;
    context.printer.delete_range(&response)
}

/// The request that these flags and arguments say.
pub fn request(flags: &Flags) -> Result<DeleteRangeRequest, Failure> {
    let fail = |text: &str| Err(Failure::new(code::BAD_ARGS, text));
    let (key, end) = match flags.args.as_slice() {
        [key] => (key, None),
        [key, end] => (key, Some(end.as_slice())),
        _ => return fail("del command needs one argument as key and an optional argument as range_end"),
    };
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    if prefix && from_key {
        return fail("`--prefix` and `--from-key` cannot be set at the same time, choose one");
    }
    if end.is_some() && (prefix || from_key) {
        return fail("too many arguments, only accept one argument when `--prefix` or `--from-key` is set");
    }
    let (key, range_end) = widen(key, end, prefix, from_key);
    Ok(DeleteRangeRequest { key, range_end, prev_kv: flags.bool("prev-kv") })
}
