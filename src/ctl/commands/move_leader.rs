//! `move-leader`: hands the leadership to another member. The leader has to be among the endpoints.

use crate::ctl::client::{Client, Log};
use crate::ctl::golang::parse_id;
use crate::ctl::{Context, Failure, code};

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let [target] = context.flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "move-leader command needs 1 argument"));
    };
    let target = parse_id(target).map_err(|why| Failure::new(code::BAD_ARGS, why))?;
    let settings = Client::open(context)?.settings;
    for endpoint in &settings.endpoints {
        let client = Client::with(&settings, vec![endpoint.clone()], Log::Iso)?;
        let status = client.status(endpoint).map_err(|why| Failure::new(code::ERROR, why))?;
        if status.header.unwrap_or_default().member_id == status.leader {
            let response = client.move_leader(target)?;
            return context.printer.move_leader(status.leader, target, &response);
        }
    }
    let endpoints = settings.endpoints.join(" ");
    Err(Failure::new(code::BAD_ARGS, format!("no leader endpoint given at [{endpoints}]")))
}
