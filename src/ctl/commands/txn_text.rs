//! The grammar of a transaction's lines: `mod("key") > "5"`, and `put`, `get`, `del` with their flags.
//!
//! Go's scanner decides what is a compare, so a refused line is answered with what was understood until then.

use lockstep_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::{Compare, RequestOp};

use super::{del, get, put};
use crate::ctl::flags::Flags;
use crate::ctl::golang::{parse_int, quote, unquote};
use crate::ctl::{Failure, code, program_help, say_error_bytes};

/// One line of the first section.
pub fn parse_compare(line: &[u8]) -> Result<Compare, Failure> {
    let fail = |text: String| Err(Failure::new(code::INVALID_INPUT, text));
    let shown = String::from_utf8_lossy(line);
    let Some(open) = line.iter().position(|&b| b == b'(') else {
        return fail(format!("malformed comparison: {shown}"));
    };
    let (target, rest) = (&line[..open], &line[open + 1..]);
    let target_shown = String::from_utf8_lossy(target);
    let mut scan = Scan { rest, key: Vec::new(), operator: Vec::new(), value: Vec::new() };
    if scan.run().is_none() {
        let (key, operator) = (quote(&scan.key), String::from_utf8_lossy(&scan.operator));
        let value = quote(&scan.value);
        return fail(format!("malformed comparison: {shown}; got {target_shown}({key}) {operator} {value}"));
    }
    let number = |base| {
        let refused = format!("invalid txn compare request: {shown}");
        parse_int(&scan.value, base).map_err(|_| Failure::new(code::INVALID_INPUT, refused))
    };
    let (target, union) = match target {
        b"ver" | b"version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        b"c" | b"create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        b"m" | b"mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        b"val" | b"value" => (CompareTarget::Value, TargetUnion::Value(scan.value.clone().into())),
        b"lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return fail(format!("malformed comparison: {shown} (unknown target {target_shown})")),
    };
    let result = match scan.operator.as_slice() {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        other => {
            let other = String::from_utf8_lossy(other);
            return fail(format!("malformed comparison: {shown} (unknown operator {other}; use =, !=, > or <)"));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: scan.key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

/// What Go's `Sscanf("%q) %s %q")` takes from a line.
struct Scan<'a> {
    rest: &'a [u8],
    key: Vec<u8>,
    operator: Vec<u8>,
    value: Vec<u8>,
}

impl Scan<'_> {
    fn run(&mut self) -> Option<()> {
        self.key = self.quoted()?;
        self.rest = self.rest.strip_prefix(b")")?;
        self.space()?;
        let end = self.rest.iter().position(u8::is_ascii_whitespace).unwrap_or(self.rest.len());
        if end == 0 {
            return None;
        }
        self.operator = self.rest[..end].to_vec();
        self.rest = &self.rest[end..];
        self.space()?;
        self.value = self.quoted()?;
        Some(())
    }

    /// A space in the format wants at least one in the input, or its end.
    fn space(&mut self) -> Option<()> {
        let trimmed = self.rest.trim_ascii_start();
        if trimmed.len() == self.rest.len() && !trimmed.is_empty() {
            return None;
        }
        self.rest = trimmed;
        Some(())
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        self.rest = self.rest.trim_ascii_start();
        let length = literal_length(self.rest)?;
        let (literal, rest) = self.rest.split_at(length);
        self.rest = rest;
        unquote(literal)
    }
}

/// How long the string literal is that `text` begins with.
fn literal_length(text: &[u8]) -> Option<usize> {
    let mark = *text.first().filter(|&&b| b == b'"' || b == b'`')?;
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte == mark {
            return Some(at);
        }
        if byte == b'\\' && mark == b'"' {
            at += 1;
        }
    }
    None
}

/// One line of the second or third section.
pub fn parse_request(line: &[u8]) -> Result<RequestOp, Failure> {
    let shown = String::from_utf8_lossy(line);
    let words = words(line)?;
    let [name, rest @ ..] = words.as_slice() else {
        return Err(Failure::new(code::INVALID_INPUT, format!("invalid txn compare request: {shown}")));
    };
    if rest.is_empty() {
        return Err(Failure::new(code::INVALID_INPUT, format!("invalid txn compare request: {shown}")));
    }
    let names: &[&str] = &["put", "get", "del"];
    let matching: Vec<_> = names.iter().filter(|known| known.as_bytes().starts_with(name)).collect();
    let invalid = || Failure::new(code::INVALID_INPUT, format!("invalid txn request: {shown}"));
    let &[&command] = matching.as_slice() else { return Err(invalid()) };
    let table = match command {
        "put" => put::FLAGS,
        "get" => get::FLAGS,
        _ => del::FLAGS,
    };
    let mut flags = Flags::new(&[table]);
    // etcdctl prints that command's usage here, and waits for ever after `--help`.
    if flags.parse(rest).is_err() || flags.bool("help") {
        say_error_bytes(program_help(command).as_bytes());
        return Err(invalid());
    }
    let request = match command {
        "put" => Request::RequestPut(put::request(&flags, || None)?),
        "get" => Request::RequestRange(get::request(&flags)?),
        _ => Request::RequestDeleteRange(del::request(&flags)?),
    };
    Ok(RequestOp { request: Some(request) })
}

/// The words of a line: `"double quoted"` with Go's escapes, `'single quoted'` as it is, or up to the next space.
/// A quote that nothing closes is passed over.
pub fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut words = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let rest = &line[at..];
        let length = match rest[0] {
            b'"' => literal_length(rest).unwrap_or(0),
            b'\'' => rest[1..].iter().position(|&b| b == b'\'').map_or(0, |end| end + 2),
            byte if byte.is_ascii_whitespace() => 0,
            _ => rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len()),
        };
        if length == 0 {
            at += 1;
            continue;
        }
        let word = &rest[..length];
        words.push(match word[0] {
            b'"' => unquote(word).ok_or_else(|| Failure::new(code::INVALID_INPUT, "invalid syntax"))?,
            b'\'' => word[1..length - 1].to_vec(),
            _ => word.to_vec(),
        });
        at += length;
    }
    Ok(words)
}
