//! `log dump`: the write-ahead log of a stopped member, entry by entry, in the lines of etcd's own tool.

use super::snapshot::{failed, path_of};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::golang::{base64, json_string, quote};
use crate::ctl::printer::Format;
use crate::ctl::{Context, Failure, code, emit_live};
use crate::offline::log_dump::{Line, Value, What, Words, dump};
use crate::wal::Recovered;

pub static DUMP_FLAGS: &[Flag] = &[
    flag("data-dir", Kind::Text, "", "the data directory of a member that does not run"),
    flag("wal-dir", Kind::Text, "", "where its log lies (within the data directory by default)"),
    flag("start-index", Kind::Int, "0", "the entry to begin with (the oldest there is by default)"),
    flag("entry-type", Kind::List, "Normal,ConfigChange", "the kinds of entries to show"),
];
pub static DUMP_LONG: &str =
    "Kinds of entries: Normal, ConfigChange; InternalRaftRequest, or of these one kind: IRRRange,
IRRPut, IRRDeleteRange, IRRTxn, IRRCompaction, IRRLeaseGrant, IRRLeaseRevoke, IRRLeaseCheckpoint.
";

/// A kind of entry, and the kind of request that it stands for.
const KINDS: &[(&str, &str)] = &[
    ("IRRRange", "range"),
    ("IRRPut", "put"),
    ("IRRDeleteRange", "delete_range"),
    ("IRRTxn", "txn"),
    ("IRRCompaction", "compaction"),
    ("IRRLeaseGrant", "lease_grant"),
    ("IRRLeaseRevoke", "lease_revoke"),
    ("IRRLeaseCheckpoint", "lease_checkpoint"),
];

pub fn dump_log(context: &mut Context) -> Result<(), Failure> {
    context.printer.choose(&context.flags.text("write-out"), false)?;
    let is_json = match context.printer.format {
        Format::Simple => false,
        Format::Json => true,
        _ => return Err(Failure::new(code::BAD_FEATURE, "log dump writes simple and json only")),
    };
    let flags = &context.flags;
    let data_dir = match (flags.bytes("data-dir"), flags.args.as_slice()) {
        (b"", [dir]) => path_of(dir),
        (dir, []) if !dir.is_empty() => path_of(dir),
        _ => return Err(Failure::new(code::BAD_ARGS, "log dump requires --data-dir")),
    };
    let wal_dir = Some(flags.bytes("wal-dir")).filter(|dir| !dir.is_empty()).map(path_of);
    let kinds = flags.list("entry-type");
    let known = |kind: &str| {
        ["Normal", "ConfigChange", "InternalRaftRequest"].contains(&kind) || KINDS.iter().any(|(name, _)| *name == kind)
    };
    if let Some(kind) = kinds.iter().find(|kind| !known(kind)) {
        let text = format!("{kind:?} is not a valid entry-type; `help log dump` names them");
        return Err(Failure::new(code::BAD_ARGS, text));
    }
    let Ok(start) = u64::try_from(flags.int("start-index")) else {
        return Err(Failure::new(code::BAD_ARGS, "there is no entry before 0: give --start-index another"));
    };
    let mut count = 0;
    let head = |log: &Recovered| {
        if !is_json {
            emit_live(head(log).as_bytes());
        }
    };
    dump(&data_dir, wal_dir.as_deref(), start, head, |line| {
        if is_shown(&line.what, &kinds) {
            count += 1;
            emit_live((if is_json { json(&line) } else { simple(&line) }).as_bytes());
        }
        true
    })
    .map_err(failed)?;
    if !is_json {
        emit_live(format!("\nEntry types ({}) count is : {count}\n", kinds.join(",")).as_bytes());
    }
    Ok(())
}

fn is_shown(what: &What, kinds: &[String]) -> bool {
    let has = |kind: &str| kinds.iter().any(|wanted| wanted == kind);
    match what {
        What::ConfChange { .. } => has("ConfigChange"),
        What::Unknown => has("Normal"),
        What::Empty => has("Normal") || has("InternalRaftRequest"),
        What::Request { request, .. } => {
            let own = KINDS.iter().find(|(_, kind)| *kind == request.kind);
            has("Normal") || has("InternalRaftRequest") || own.is_some_and(|(name, _)| has(name))
        }
    }
}

fn head(log: &Recovered) -> String {
    let mut text = "Snapshot:\n".to_owned();
    match log.snapshot.index {
        0 => text.push_str("empty\n"),
        index => text.push_str(&format!("term={} index={index}\n", log.snapshot.term)),
    }
    let (id, state) = (log.metadata, &log.hard_state);
    text.push_str(&format!(
        "WAL metadata:\nnodeID={:x} clusterID={:x} term={} commitIndex={} vote={:x}\n",
        id.member_id,
        id.cluster_id,
        state.term(),
        state.commit(),
        state.vote()
    ));
    text + &format!("WAL entries:\nlastIndex={}\nterm\t     index\ttype\tdata\n", log.last_index)
}

fn simple(line: &Line) -> String {
    let Line { index, term, what } = line;
    let (kind, data) = match what {
        What::Empty => ("norm", String::new()),
        What::Unknown => ("norm", "???".to_owned()),
        What::Request { id, request } => ("norm", format!("ID:{id} {}", in_words(request))),
        What::ConfChange { method, id } => ("conf", format!("method={method} id={id:x}")),
    };
    format!("{term:4}\t{index:10}\t{kind}\t{data}\n")
}

fn in_words(words: &Words) -> String {
    let mut text = words.kind.to_owned();
    for (name, value) in &words.fields {
        let value = match value {
            Value::Number(number) => number.to_string(),
            Value::Id(id) => format!("{id:x}"),
            Value::Bytes(bytes) => quote(bytes),
            Value::Text(text) => text.clone(),
            Value::Requests(all) => format!("[{}]", all.iter().map(in_words).collect::<Vec<_>>().join("; ")),
        };
        text.push_str(&format!(" {name}={value}"));
    }
    text
}

/// A line is an object: keys and values in base64, ids in hexadecimal.
fn json(line: &Line) -> String {
    let Line { index, term, what } = line;
    let more = match what {
        What::Empty => r#""type":"norm""#.to_owned(),
        What::Unknown => r#""type":"unknown""#.to_owned(),
        What::Request { id, request } => format!(r#""type":"norm","id":{id},"request":{}"#, json_words(request)),
        What::ConfChange { method, id } => format!(r#""type":"conf","method":"{method}","id":"{id:x}""#),
    };
    format!("{{\"term\":{term},\"index\":{index},{more}}}\n")
}

fn json_words(words: &Words) -> String {
    let mut text = format!(r#"{{"kind":"{}""#, words.kind);
    for (name, value) in &words.fields {
        let value = match value {
            Value::Number(number) => number.to_string(),
            Value::Id(id) => format!("\"{id:x}\""),
            Value::Bytes(bytes) => format!("\"{}\"", base64(bytes)),
            Value::Text(text) => json_string(text.as_bytes()),
            Value::Requests(all) => format!("[{}]", all.iter().map(json_words).collect::<Vec<_>>().join(",")),
        };
        text.push_str(&format!(r#","{name}":{value}"#));
    }
    text + "}"
}
