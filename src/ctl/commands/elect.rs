//! `elect`: stands for an office until a signal, or (`-l`) watches who holds it.

use lockstep_proto::etcdserverpb::RangeRequest;
use tokio::sync::mpsc;

use crate::ctl::client::{Client, never, runtime};
use crate::ctl::concurrency::{Place, observe};
use crate::ctl::exec::Signals;
use crate::ctl::flags::{Flag, Kind, flag_short};
use crate::ctl::session::{Session, TTL_DEFAULT_S};
use crate::ctl::{Context, Failure, code};

pub static FLAGS: &[Flag] = &[flag_short("listen", 'l', Kind::Bool, "false", "watch the election only")];

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let refuse = |text: &str| Err(Failure::new(code::BAD_ARGS, text));
    let listen = context.flags.bool("listen");
    match (context.flags.args.len(), listen) {
        (1, true) | (2, false) => {}
        (1, false) => return refuse_open(context, "no proposal argument but -l not set"),
        (2, true) => return refuse_open(context, "proposal given but -l is set"),
        _ => return refuse("elect takes one election name argument and an optional proposal argument"),
    }
    let client = Client::open(context)?;
    context.printer.live = true;
    if listen { runtime().block_on(watch(context, &client)) } else { runtime().block_on(stand(context, &client)) }
}

/// etcdctl looks at the environment before it refuses these.
fn refuse_open(context: &mut Context, text: &str) -> Result<(), Failure> {
    Client::open(context)?;
    Err(Failure::new(code::BAD_ARGS, text))
}

async fn watch(context: &Context, client: &Client) -> Result<(), Failure> {
    let _session = Session::open(client, TTL_DEFAULT_S).await.map_err(error)?;
    let mut signals = Signals::listen()?;
    let (sender, mut leaders) = mpsc::unbounded_channel();
    let (client, name) = (client.clone(), context.flags.args[0].clone());
    tokio::spawn(async move { observe(&client, &name, sender).await });
    loop {
        tokio::select! {
            leader = leaders.recv() => match leader {
                Some(leader) => context.printer.range(&leader)?,
                None => return Err(error("elect: observer lost")),
            },
            () = signals.next() => return Ok(()),
        }
    }
}

async fn stand(context: &Context, client: &Client) -> Result<(), Failure> {
    let (name, value) = (&context.flags.args[0], &context.flags.args[1]);
    let mut session = Session::open(client, TTL_DEFAULT_S).await.map_err(error)?;
    let mut signals = Signals::listen()?;
    let mut place = Place::new(client, name, session.lease);
    let elected = tokio::select! {
        elected = place.campaign(value) => elected,
        () = signals.next() => Err("context canceled".into()),
    };
    if let Err(why) = elected {
        let _ = place.resign().await;
        return Err(error(why));
    }
    let response = client.range_until(never(), RangeRequest { key: place.key.clone().into(), ..Default::default() });
    context.printer.range(&response.await.map_err(error)?)?;
    tokio::select! {
        () = signals.next() => place.resign().await.map_err(error),
        () = session.expired() => Err(error("elect: session expired")),
    }
}

fn error(why: impl Into<String>) -> Failure {
    Failure::new(code::ERROR, why)
}
