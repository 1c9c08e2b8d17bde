//! `txn`: compares, then one of two lists of requests, read from standard input line by line.
//!
//! Each of the three sections ends with an empty line; `-i` says which one is next.

use std::io::BufRead;

use lockstep_proto::etcdserverpb::TxnRequest;

use super::txn_text::{parse_compare, parse_request};
use crate::ctl::client::Client;
use crate::ctl::flags::{Flag, Kind, flag_short};
use crate::ctl::{Context, Failure, code, emit};

pub static FLAGS: &[Flag] = &[flag_short("interactive", 'i', Kind::Bool, "false", "say what is to be entered")];

/// No line of a transaction is longer: a request may be 1.5 MiB, and escapes make four bytes of one.
const LINE_BYTES_MAX: u64 = 8 << 20;

pub fn run(context: &mut Context) -> Result<(), Failure> {
    if !context.flags.args.is_empty() {
        return Err(Failure::new(code::BAD_ARGS, "txn command does not accept argument"));
    }
    let client = Client::open(context)?;
    let interactive = context.flags.bool("interactive");
    let prompt = |text: &str| {
        if interactive {
            emit(format!("{text}\n").as_bytes());
        }
    };
    let mut input = std::io::stdin().lock();
    prompt("compares:");
    let compare = section(&mut input, parse_compare)?;
    prompt("success requests (get, put, del):");
    let success = section(&mut input, parse_request)?;
    prompt("failure requests (get, put, del):");
    let failure = section(&mut input, parse_request)?;
    let response = client.txn(TxnRequest { compare, success, failure })?;
    context.printer.txn(&response)
}

fn section<T>(input: &mut impl BufRead, parse: impl Fn(&[u8]) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = std::io::Read::take(&mut *input, LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|why| Failure::new(code::INVALID_INPUT, why.to_string()))?;
        if line.last() != Some(&b'\n') {
            let why = if line.len() as u64 == LINE_BYTES_MAX { "line too long" } else { "EOF" };
            return Err(Failure::new(code::INVALID_INPUT, why));
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(items);
        }
        items.push(parse(line)?);
    }
}
