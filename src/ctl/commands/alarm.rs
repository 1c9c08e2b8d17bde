//! `alarm list | disarm`: what the members complain about, and that it has been dealt with.

use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{AlarmRequest, AlarmResponse};

use crate::ctl::client::Client;
use crate::ctl::{Context, Failure, code};

pub fn list(context: &mut Context) -> Result<(), Failure> {
    no_arguments(context, "alarm list command accepts no arguments")?;
    let client = Client::open(context)?;
    let response = client.alarm(client.deadline(), AlarmRequest::default())?;
    context.printer.alarm(&response)
}

/// Every alarm there is, one after the other: the answer has no header of its own.
pub fn disarm(context: &mut Context) -> Result<(), Failure> {
    no_arguments(context, "alarm disarm command accepts no arguments")?;
    let client = Client::open(context)?;
    let deadline = client.deadline();
    let mut disarmed = AlarmResponse::default();
    for alarm in client.alarm(deadline, AlarmRequest::default())?.alarms {
        let action = AlarmAction::Deactivate.into();
        let request = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
        disarmed.alarms.extend(client.alarm(deadline, request)?.alarms);
    }
    context.printer.alarm(&disarmed)
}

fn no_arguments(context: &Context, refusal: &str) -> Result<(), Failure> {
    match context.flags.args.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(code::BAD_ARGS, refusal)),
    }
}
