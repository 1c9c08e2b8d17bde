//! `endpoint health | status | hashkv`: each endpoint by itself, given ones or (`--cluster`) every member's.

use std::time::Instant;

use lockstep_proto::etcdserverpb::{AlarmType, HashKvRequest};
use tokio::task::JoinSet;

use crate::ctl::client::{Client, Log, Settings, runtime};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::golang::format_duration;
use crate::ctl::printer::Health;
use crate::ctl::{Context, Failure, code, say_error};

pub static SHARED: &[Flag] =
    &[flag("cluster", Kind::Bool, "false", "use the endpoints of every member in the cluster's list")];
pub static HASHKV_FLAGS: &[Flag] = &[flag("rev", Kind::Int, "0", "newest revision to hash (all by default)")];
pub static STATUS_LONG: &str = "With --write-out=simple every endpoint is a line of comma-separated items:
endpoint, ID, version, db size, is leader, is learner, raft term, raft index, raft applied index, errors.
";

pub fn health(context: &mut Context) -> Result<(), Failure> {
    let settings = Settings::read(context)?;
    let endpoints = endpoints(context, &settings)?;
    let list: Vec<Health> = runtime().block_on(async {
        let mut checks = JoinSet::new();
        for endpoint in endpoints {
            let client = Client::with(&settings, vec![endpoint.clone()], Log::Epoch)?;
            checks.spawn(async move { check(&client, endpoint).await });
        }
        // In the order of their answers, as etcdctl lists them.
        let mut list = Vec::new();
        while let Some(health) = checks.join_next().await {
            list.push(health.map_err(|why| Failure::new(code::ERROR, why.to_string()))?);
        }
        Ok::<_, Failure>(list)
    })?;
    context.printer.endpoint_health(&list)?;
    match list.iter().any(|health| !health.error.is_empty()) {
        true => Err(Failure::new(code::ERROR, "unhealthy cluster")),
        false => Ok(()),
    }
}

/// An endpoint is healthy when a read goes through consensus and no alarm is up.
async fn check(client: &Client, endpoint: String) -> Health {
    let start = Instant::now();
    let deadline = client.deadline();
    let read = client.probe(deadline).await;
    let took = format_duration(start.elapsed().as_nanos() as i64);
    let mut error = read.err().unwrap_or_default();
    if error.is_empty() {
        error = match client.alarms(deadline).await {
            Err(_) => "Unable to fetch the alarm list".to_string(),
            Ok(alarms) if alarms.is_empty() => String::new(),
            Ok(alarms) => alarms.iter().fold("Active Alarm(s): ".to_string(), |text, alarm| {
                text + match AlarmType::try_from(alarm.alarm) {
                    Ok(AlarmType::Nospace) => "NOSPACE ",
                    Ok(AlarmType::Corrupt) => "CORRUPT ",
                    _ => "UNKNOWN ",
                }
            }),
        };
    }
    Health { endpoint, healthy: error.is_empty(), took, error }
}

pub fn status(context: &mut Context) -> Result<(), Failure> {
    let client = Client::open(context)?;
    let mut list = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(context, &client.settings)? {
        match client.status(&endpoint) {
            Ok(response) => list.push((endpoint, response)),
            Err(why) => {
                failed = true;
                say_error(&format!("Failed to get the status of endpoint {endpoint} ({why})"));
            }
        }
    }
    context.printer.endpoint_status(&list)?;
    if failed { Err(Failure::silent(code::ERROR)) } else { Ok(()) }
}

pub fn hashkv(context: &mut Context) -> Result<(), Failure> {
    let revision = context.flags.int("rev");
    let client = Client::open(context)?;
    let mut list = Vec::new();
    let mut last_error = None;
    for endpoint in endpoints(context, &client.settings)? {
        match client.hash_kv(&endpoint, HashKvRequest { revision }) {
            Ok(response) => list.push((endpoint, response)),
            Err(why) => {
                say_error(&format!("Failed to get the hash of endpoint {endpoint} ({why})"));
                last_error = Some(why);
            }
        }
    }
    context.printer.endpoint_hashkv(&list)?;
    last_error.map_or(Ok(()), |why| Err(Failure::new(code::ERROR, why)))
}

/// The endpoints to look at, as they were written.
pub(super) fn endpoints(context: &Context, settings: &Settings) -> Result<Vec<String>, Failure> {
    if !context.flags.bool("cluster") {
        return Ok(context.flags.list("endpoints"));
    }
    let client = Client::with(settings, settings.endpoints.clone(), Log::Iso)?;
    let members = client.member_list(true).map_err(|failure| {
        let why = failure.message.unwrap_or_default();
        Failure::new(code::ERROR, format!("failed to fetch endpoints from etcd cluster member list: {why}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}
