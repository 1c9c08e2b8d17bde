//! `lock`: holds a named lock until a signal, or while a command runs.

use lockstep_proto::etcdserverpb::RangeRequest;

use crate::ctl::client::{Client, never, runtime};
use crate::ctl::concurrency::Place;
use crate::ctl::exec::{self, Signals, Variables};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::session::Session;
use crate::ctl::{Context, Failure, code};

pub static FLAGS: &[Flag] = &[flag("ttl", Kind::Int, "10", "seconds the lock outlives this program at most")];

pub static LONG: &str = "Waits for the lock, and prints the key that holds it; SIGINT or SIGTERM gives it up.

With a command, it is run while the lock is held, with ETCD_LOCK_KEY and ETCD_LOCK_REV in its environment:

$ lock name -- sh -c 'echo \"$ETCD_LOCK_KEY\"'
";

pub fn run(context: &mut Context) -> Result<(), Failure> {
    if context.flags.args.is_empty() {
        let text = "lock takes a lock name argument and an optional command to execute";
        return Err(Failure::new(code::BAD_ARGS, text));
    }
    let client = Client::open(context)?;
    runtime().block_on(hold(context, &client))
}

async fn hold(context: &mut Context, client: &Client) -> Result<(), Failure> {
    let (name, command) = context.flags.args.split_first().expect("there is a name");
    let mut session = Session::open(client, context.flags.int("ttl")).await.map_err(error)?;
    let mut signals = Signals::listen()?;
    let mut place = Place::new(client, name, session.lease);
    let locked = tokio::select! {
        locked = place.lock() => locked,
        () = signals.next() => Err("context canceled".into()),
    };
    let revision = match locked {
        Ok(revision) => revision,
        Err(why) => {
            // Nobody shall wait for a key that nobody holds.
            let _ = place.unlock().await;
            return Err(error(why));
        }
    };
    if !command.is_empty() {
        let key = String::from_utf8_lossy(&place.key).into_owned();
        let variables = vec![("ETCD_LOCK_KEY", key), ("ETCD_LOCK_REV", revision.to_string())];
        let ended = exec::run(command, variables, Variables::Keep).await;
        let unlocked = place.unlock().await;
        ended.map_err(|ended| Failure::new(ended.code.unwrap_or(code::ERROR), ended.text))?;
        return unlocked.map_err(error);
    }
    let get = client.range_until(never(), RangeRequest { key: place.key.clone().into(), ..Default::default() });
    let response = tokio::select! {
        response = get => response,
        () = signals.next() => return place.unlock().await.map_err(error),
    };
    let response = response.map_err(error)?;
    if response.kvs.is_empty() {
        return Err(error("lock lost on init"));
    }
    context.printer.range(&response)?;
    tokio::select! {
        () = signals.next() => place.unlock().await.map_err(error),
        () = session.expired() => Err(error("session expired")),
    }
}

fn error(why: impl Into<String>) -> Failure {
    Failure::new(code::ERROR, why)
}
