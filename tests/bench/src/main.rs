//! `lockstep-bench`: how fast is a server that speaks etcd's API, and how does it compare with a real etcd?
//!
//! `load` drives a server that runs already; `compare` starts two servers in turn and puts their figures side by
//! side; `echo` is the reference line, a server that does nothing. It must stay cheap: client and server share
//! the machine, so every microsecond spent here is missing there. Nothing of the product is linked in but the
//! wire's message types.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod args;
mod client;
mod compare;
mod echo;
mod load;
mod ops;
mod report;
mod servers;
mod streams;
mod usage;
mod wire;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
usage: lockstep-bench load    [--endpoints HOST:PORT,...] [--leader] [options]
       lockstep-bench compare [--a ETCD] [--b LOCKSTEPD] [options]
       lockstep-bench streams [--a ETCD] [--b LOCKSTEPD] [--only LIST]
       lockstep-bench ops     [--a ETCD] [--b LOCKSTEPD] [--quick] [--only LIST]
       lockstep-bench echo    [--listen HOST:PORT]

load: one run against servers that are up; prints JSON
  --endpoints LIST     client addresses (127.0.0.1:2379); connections go round robin over them
  --leader             send everything to the leader among the endpoints
  --op OP              put | linearizable | serializable (put)
  --clients N          closed loop: N clients with one request outstanding each (100)
  --rate R             open loop: R requests/s, latency from the intended send time; --clients caps the outstanding
  --conns N            connections (the smaller of 8 and clients)
  --threads N          client threads (half of the cores)
  --key-size B --value-size B --keys N --sequential     (8, 256, 10000, random)
  --warm-up S --seconds S (1, 5)   --total N: stop after N requests instead
  --seed N             for the random order of keys (1)
  --fill               write every key once before the run (reads need keys to find)

compare: starts A and B in turn on the same disk, round after round; prints Markdown, or writes it to --out
  --a PATH --b PATH    programs that take etcd's flags (etcd 3.5.1 of the oracles, target/release/lockstepd)
  --a-name N --b-name N
  --rounds N           (5; the tables show medians)   --quick: one short round, fewer cells
  --ops LIST           put,linearizable,serializable
  --clients LIST       1,100,1000
  --members LIST       1,3
  --fsync LIST         milliseconds added to each fsync, by strace, both alike: 0,1,10
  --only OP,CLIENTS,MEMBERS[,FSYNC]   one cell
  --warm-up S --seconds S (1, 3)   --value-size B --keys N   (256, 10000)
  --leader             send everything to the leader (else all members, round robin)
  --dir DIR            data directories (target/bench)
  --out FILE           Markdown to FILE, every single figure as JSON to FILE.json

streams: watches, keep-alives, grants, long ranges, restarts; A and B in turn, a fresh member each time; prints Markdown
  --a --b --a-name --b-name --rounds --seconds --dir   as above (5 rounds of 3 s)
  --only LIST          of watch-1x10000,watch-100x1000,watch-latency,keep-alive,grant,range,restart

ops: snapshots saved and restored, restarts, defragmentation under load, space; A and B in turn; prints Markdown, then
whether the floors are held (the exit code says so, too)
  --a --b --a-name --b-name --rounds --seconds --dir   as above (3 rounds; 5 s before the defragmentation)
  --keys N             (1000000; values of 256 B)   --quick: one round, 100,000 keys
  --only LIST          of snapshot,restart,restart-x10,defrag,overwrite
etcdctl and lockstepctl are looked for beside the servers.
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let args = args::Args::new(words.collect());
    let done = match command.as_str() {
        "load" => load::main(args),
        "compare" => compare::main(args),
        "streams" => streams::main(args),
        "ops" => ops::main(args),
        "echo" => echo::main(args),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(true)
        }
        other => Err(format!("unknown command {other:?}\n{HELP}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("lockstep-bench: {why}");
            ExitCode::from(2)
        }
    }
}
