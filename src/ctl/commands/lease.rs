//! `lease grant | revoke | timetolive | list | keep-alive`.

use crate::ctl::client::{Client, runtime};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::golang::{hex16, parse_int};
use crate::ctl::printer::Format;
use crate::ctl::session::{keep_alive, keep_alive_once};
use crate::ctl::{Context, Failure, code, emit};

pub static TIMETOLIVE_FLAGS: &[Flag] = &[flag("keys", Kind::Bool, "false", "show the keys that hang on the lease")];
pub static KEEP_ALIVE_FLAGS: &[Flag] =
    &[flag("once", Kind::Bool, "false", "keep the lease alive for one more TTL, and end")];

pub fn grant(context: &mut Context) -> Result<(), Failure> {
    let ttl = one_argument(context, "lease grant command needs TTL argument")?;
    let ttl_s = parse_int(ttl, 10).map_err(|why| Failure::new(code::BAD_ARGS, format!("bad TTL ({why})")))?;
    let response = Client::open(context)?.lease_grant(ttl_s);
    let response = response.map_err(|why| Failure::new(code::ERROR, format!("failed to grant lease ({why})")))?;
    context.printer.lease_grant(&response)
}

pub fn revoke(context: &mut Context) -> Result<(), Failure> {
    let id = lease_id(one_argument(context, "lease revoke command needs 1 argument")?)?;
    let response = Client::open(context)?.lease_revoke(id);
    let response = response.map_err(|why| Failure::new(code::ERROR, format!("failed to revoke lease ({why})")))?;
    context.printer.lease_revoke(id, &response)
}

pub fn timetolive(context: &mut Context) -> Result<(), Failure> {
    one_argument(context, "lease timetolive command needs lease ID as argument")?;
    let client = Client::open(context)?;
    let id = lease_id(&context.flags.args[0])?;
    let keys = context.flags.bool("keys");
    let response = client.lease_time_to_live(id, keys).map_err(|why| Failure::new(code::BAD_CONNECTION, why))?;
    context.printer.lease_time_to_live(&response, keys)
}

pub fn list(context: &mut Context) -> Result<(), Failure> {
    let response = Client::open(context)?.leases().map_err(|why| Failure::new(code::BAD_CONNECTION, why))?;
    context.printer.leases(&response)
}

pub fn keepalive(context: &mut Context) -> Result<(), Failure> {
    let id = lease_id(one_argument(context, "lease keep-alive command needs lease ID as argument")?)?;
    let client = Client::open(context)?;
    if context.flags.bool("once") {
        let answer = runtime().block_on(keep_alive_once(&client, id, client.deadline()));
        return context.printer.lease_keep_alive(&answer.map_err(|why| Failure::new(code::BAD_CONNECTION, why))?);
    }
    context.printer.live = true;
    runtime().block_on(async {
        let mut kept = keep_alive(&client, id);
        while let Some(answer) = kept.recv().await {
            context.printer.lease_keep_alive(&answer)?;
        }
        Ok::<_, Failure>(())
    })?;
    if context.printer.format == Format::Simple {
        emit(format!("lease {} expired or revoked.\n", hex16(id)).as_bytes());
    }
    Ok(())
}

fn one_argument<'a>(context: &'a Context, refusal: &str) -> Result<&'a [u8], Failure> {
    match context.flags.args.as_slice() {
        [argument] => Ok(argument),
        _ => Err(Failure::new(code::BAD_ARGS, refusal)),
    }
}

fn lease_id(text: &[u8]) -> Result<i64, Failure> {
    parse_int(text, 16)
        .map_err(|why| Failure::new(code::BAD_ARGS, format!("bad lease ID arg ({why}), expecting ID in Hex")))
}
