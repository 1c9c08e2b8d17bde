//! `get`: a key, a range, a prefix; at a revision, sorted, limited, counted.

use lockstep_proto::etcdserverpb::RangeRequest;
use lockstep_proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::widen;
use crate::ctl::client::Client;
use crate::ctl::flags::{Flag, Flags, Kind, flag};
use crate::ctl::printer::Format;
use crate::ctl::{Context, Failure, code};

pub static FLAGS: &[Flag] = &[
    flag("consistency", Kind::Text, "l", "linearizable (l) or serializable (s) read"),
    flag("order", Kind::Text, "", "order of the results: ASCEND or DESCEND (ASCEND by default)"),
    flag("sort-by", Kind::Text, "", "what to sort by: CREATE, KEY, MODIFY, VALUE or VERSION"),
    flag("limit", Kind::Int, "0", "most results to return"),
    flag("prefix", Kind::Bool, "false", "get every key that begins with the given one"),
    flag("from-key", Kind::Bool, "false", "get every key from the given one on, in byte order"),
    flag("rev", Kind::Int, "0", "the revision to read at"),
    flag("keys-only", Kind::Bool, "false", "get the keys without their values"),
    flag("count-only", Kind::Bool, "false", "get the count only"),
    flag("print-value-only", Kind::Bool, "false", "print values only, with the \"simple\" output format"),
    flag("min-create-rev", Kind::Int, "0", "leave out keys created before this revision"),
    flag("max-create-rev", Kind::Int, "0", "leave out keys created after this revision"),
    flag("min-mod-rev", Kind::Int, "0", "leave out keys modified before this revision"),
    flag("max-mod-rev", Kind::Int, "0", "leave out keys modified after this revision"),
];

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let request = request(&context.flags)?;
    let client = Client::open(context)?;
    let response = client.range(request)?;
    let printer = &mut context.printer;
    if context.flags.bool("count-only") && printer.format != Format::Fields {
        return Err(Failure::new(code::BAD_ARGS, "--count-only is only for `--write-out=fields`"));
    }
    if context.flags.bool("print-value-only") {
        if printer.format != Format::Simple {
            return Err(Failure::new(code::BAD_ARGS, "print-value-only is only for `--write-out=simple`"));
        }
        printer.value_only = true;
    }
    printer.range(&response)
}

/// The request that these flags and arguments say.
pub fn request(flags: &Flags) -> Result<RangeRequest, Failure> {
    let Some(key) = flags.args.first() else {
        let text = "get command needs one argument as key and an optional argument as range_end";
        return Err(Failure::new(code::BAD_ARGS, text));
    };
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let both = |a: &str, b: &str| {
        let text = format!("`--{a}` and `--{b}` cannot be set at the same time, choose one");
        Err(Failure::new(code::BAD_ARGS, text))
    };
    if prefix && from_key {
        return both("prefix", "from-key");
    }
    if flags.bool("keys-only") && flags.bool("count-only") {
        return both("keys-only", "count-only");
    }
    let serializable = match flags.bytes("consistency") {
        b"s" => true,
        b"l" => false,
        other => {
            let text = format!("unknown consistency flag {}", crate::ctl::golang::quote(other));
            return Err(Failure::new(code::BAD_FEATURE, text));
        }
    };
    let end = flags.args.get(1).map(Vec::as_slice);
    if end.is_some() && (prefix || from_key) {
        let text = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
        return Err(Failure::new(code::BAD_ARGS, text));
    }
    let order = match flags.text("order").to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Failure::new(code::BAD_FEATURE, format!("bad sort order {}", flags.text("order")))),
    };
    let target = match flags.text("sort-by").to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::new(code::BAD_FEATURE, format!("bad sort target {}", flags.text("sort-by")))),
    };
    // Ascending by key is how a range comes anyway: Go's client asks for no sort then.
    let order = if target == SortTarget::Key && order == SortOrder::Ascend { SortOrder::None } else { order };
    let (key, range_end) = widen(key, end, prefix, from_key);
    Ok(RangeRequest {
        key,
        range_end,
        limit: flags.int("limit"),
        revision: flags.int("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: flags.bool("keys-only"),
        count_only: flags.bool("count-only"),
        min_mod_revision: flags.int("min-mod-rev"),
        max_mod_revision: flags.int("max-mod-rev"),
        min_create_revision: flags.int("min-create-rev"),
        max_create_revision: flags.int("max-create-rev"),
    })
}
