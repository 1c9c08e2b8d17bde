//! Two servers, cell by cell, round after round: A B A B ..., on the same disk, each with a fresh directory.
//!
//! A cell is (members, fsync, operation, clients). A server is started once a (round, members, fsync), its key space is
//! filled, and its cells run one after another; then the other server's turn comes. What fails is a line of the
//! report, and the comparison goes on.

use crate::args::Args;
use crate::load::{self, Load, Op};
use crate::report;
use crate::servers::{Cluster, Echo};
use crate::usage;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub members: usize,
    pub fsync_ms: u64,
    pub op: Op,
    pub clients: usize,
}

/// What one server did in one cell of one round.
#[derive(Clone, Debug)]
pub struct Figure {
    pub ops_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The server's CPU seconds for 100,000 requests, all members together.
    pub cpu_per_100k: f64,
    pub rss_mib: f64,
    pub rss_high_mib: f64,
    pub failed: u64,
    pub raw: Value,
}

/// Everything that was measured, both servers.
#[derive(Default)]
pub struct Results {
    pub cells: BTreeMap<Cell, [Vec<Figure>; 2]>,
    pub echo: BTreeMap<usize, Vec<Figure>>,
    pub fdatasync_per_second: Vec<f64>,
    pub failures: Vec<String>,
}

pub struct Side {
    pub name: String,
    pub program: PathBuf,
}

pub struct Plan {
    pub sides: [Side; 2],
    pub rounds: usize,
    pub cells: Vec<Cell>,
    pub warm_up: Duration,
    pub seconds: Duration,
    pub value_size: usize,
    pub keys: u64,
    pub leader: bool,
    dir: PathBuf,
}

pub fn main(args: Args) -> Result<bool, String> {
    let (plan, out) = plan(args)?;
    let results = measure(&plan)?;
    usage::progress("");
    let text = report::markdown(&plan, &results);
    match out {
        None => print!("{text}"),
        Some(path) => {
            let json = serde_json::to_string_pretty(&report::json(&plan, &results)).expect("plain JSON");
            for (path, text) in [(path.clone(), text), (format!("{path}.json"), json)] {
                std::fs::write(&path, text).map_err(|why| format!("write {path}: {why}"))?;
                println!("{path}");
            }
        }
    }
    Ok(results.failures.is_empty())
}

/// The two programs that are compared.
pub fn sides(args: &mut Args) -> Result<[Side; 2], String> {
    let side = |args: &mut Args, flag: &str, default: PathBuf| -> Result<Side, String> {
        let program = args.text(flag)?.map_or(default, PathBuf::from);
        if !program.is_file() {
            return Err(format!("{flag}: there is no program {}", program.display()));
        }
        let name = args.text(&format!("{flag}-name"))?.unwrap_or_else(|| name(&program));
        Ok(Side { name, program })
    };
    Ok([side(args, "--a", oracle()?)?, side(args, "--b", PathBuf::from("target/release/lockstepd"))?])
}

fn plan(mut args: Args) -> Result<(Plan, Option<String>), String> {
    let quick = args.flag("--quick");
    let sides = sides(&mut args)?;
    let rounds = args.value("--rounds", if quick { 1 } else { 5 })?;
    let mut ops: Vec<Op> =
        args.list("--ops", if quick { "put,linearizable" } else { "put,linearizable,serializable" })?;
    let mut clients: Vec<usize> = args.list("--clients", if quick { "1,100" } else { "1,100,1000" })?;
    let mut members: Vec<usize> = args.list("--members", "1,3")?;
    let mut fsyncs: Vec<u64> = args.list("--fsync", if quick { "0" } else { "0,1,10" })?;
    if let Some(only) = args.text("--only")? {
        let words: Vec<_> = only.split(',').collect();
        let [op, c, m, rest @ ..] = words.as_slice() else {
            return Err(format!("--only {only}: wants OPERATION,CLIENTS,MEMBERS or with ,FSYNC_MS after it"));
        };
        ops = vec![crate::args::parse("--only", op)?];
        clients = vec![crate::args::parse("--only", c)?];
        members = vec![crate::args::parse("--only", m)?];
        fsyncs = vec![rest.first().map_or(Ok(0), |ms| crate::args::parse("--only", ms))?];
    }
    let plan = Plan {
        sides,
        rounds,
        cells: cells(&members, &fsyncs, &ops, &clients),
        warm_up: args.seconds("--warm-up", if quick { 0.5 } else { 1.0 })?,
        seconds: args.seconds("--seconds", if quick { 2.0 } else { 3.0 })?,
        value_size: args.value("--value-size", 256)?,
        keys: args.value("--keys", 10_000)?,
        leader: args.flag("--leader"),
        dir: args.text("--dir")?.map_or_else(|| PathBuf::from("target/bench"), PathBuf::from),
    };
    let out = args.text("--out")?;
    args.finish()?;
    if plan.cells.iter().any(|cell| cell.members == 0 || cell.clients == 0) || rounds == 0 {
        return Err("rounds, members and clients are at least 1".into());
    }
    if plan.cells.iter().any(|cell| cell.fsync_ms > 0) && !has_strace() {
        return Err("a slower fsync needs strace: install it, or choose --fsync 0".into());
    }
    Ok((plan, out))
}

/// In the order in which they run. A serializable read never meets the disk, so one speed of fsync is enough for it.
fn cells(members: &[usize], fsyncs: &[u64], ops: &[Op], clients: &[usize]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &members in members {
        for (number, &fsync_ms) in fsyncs.iter().enumerate() {
            for &op in ops.iter().filter(|op| number == 0 || **op != Op::Serializable) {
                cells.extend(clients.iter().map(|&clients| Cell { members, fsync_ms, op, clients }));
            }
        }
    }
    cells
}

fn measure(plan: &Plan) -> Result<Results, String> {
    std::fs::create_dir_all(&plan.dir).map_err(|why| format!("create {}: {why}", plan.dir.display()))?;
    let mut results = Results::default();
    for round in 1..=plan.rounds {
        for group in plan.cells.chunk_by(|a, b| (a.members, a.fsync_ms) == (b.members, b.fsync_ms)) {
            match usage::fdatasync_rate(&plan.dir, Duration::from_millis(500)) {
                Ok(rate) => results.fdatasync_per_second.push(rate),
                Err(why) => return Err(format!("fdatasync in {}: {why}", plan.dir.display())),
            }
            echo(plan, group, &mut results);
            for side in 0..2 {
                if let Err(why) = serve(plan, side, round, group, &mut results) {
                    let (name, first) = (&plan.sides[side].name, group[0]);
                    let (members, fsync_ms) = (first.members, first.fsync_ms);
                    results
                        .failures
                        .push(format!("round {round}, {name}, members {members}, fsync +{fsync_ms} ms: {why}"));
                }
            }
        }
    }
    Ok(results)
}

/// One server's turn: start, fill, every cell of the group, stop.
fn serve(plan: &Plan, side: usize, round: usize, group: &[Cell], results: &mut Results) -> Result<(), String> {
    let Side { name, program } = &plan.sides[side];
    let Cell { members, fsync_ms, .. } = group[0];
    let dir = plan.dir.join(format!("run-{}-{side}", std::process::id()));
    let title = format!("round {round} of {}, {name}, members {members}, fsync +{fsync_ms} ms", plan.rounds);
    usage::progress(&format!("{title}: starting"));
    let mut cluster = Cluster::start(program, members, fsync_ms, &dir)?;
    let mut endpoints = cluster.endpoints();
    if plan.leader {
        endpoints = vec![load::find_leader(&endpoints)?];
    }
    let (filled, ..) = load::run(&settings(plan, group[0], endpoints.clone()).fill(), || ())?;
    if filled.failed() > 0 {
        return Err(format!("fill the key space: {:?}, {} without an answer", filled.errors, filled.unfinished));
    }
    for &cell in group {
        usage::progress(&format!("{title}: {} with {} clients", cell.op.name(), cell.clients));
        let load = settings(plan, cell, endpoints.clone());
        let (outcome, before, after) = load::run(&load, || cluster.cpu_seconds())?;
        cluster.check()?;
        let figure = figure(&outcome, after - before, cluster.memory_mib());
        if figure.failed > 0 {
            results
                .failures
                .push(format!("{title}, {cell:?}: {:?}, no answer: {}", outcome.errors, outcome.unfinished));
        }
        results.cells.entry(cell).or_default()[side].push(figure);
    }
    Ok(())
}

fn echo(plan: &Plan, group: &[Cell], results: &mut Results) {
    let mut clients: Vec<_> = group.iter().map(|cell| cell.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    for clients in clients {
        usage::progress(&format!("echo with {clients} clients"));
        let run = || {
            let server = Echo::start()?;
            let cell = Cell { members: 1, fsync_ms: 0, op: Op::Put, clients };
            let mut load = settings(plan, cell, vec![server.endpoint.clone()]);
            (load.warm_up, load.seconds) = (Duration::from_millis(200), Duration::from_secs(1));
            let (outcome, before, after) = load::run(&load, || server.cpu_seconds())?;
            Ok::<_, String>(figure(&outcome, after - before, (0.0, 0.0)))
        };
        match run() {
            Ok(figure) => results.echo.entry(clients).or_default().push(figure),
            Err(why) => results.failures.push(format!("echo with {clients} clients: {why}")),
        }
    }
}

fn settings(plan: &Plan, cell: Cell, endpoints: Vec<String>) -> Load {
    Load {
        warm_up: plan.warm_up,
        seconds: plan.seconds,
        value_size: plan.value_size,
        keys: plan.keys,
        ..Load::new(cell.op, endpoints, cell.clients)
    }
}

fn figure(outcome: &load::Outcome, cpu_seconds: f64, (rss_mib, rss_high_mib): (f64, f64)) -> Figure {
    let mut raw = outcome.to_json();
    let cpu_per_100k = cpu_seconds * 100_000.0 / outcome.ops.max(1) as f64;
    raw["server_cpu_seconds_per_100k"] = json!(cpu_per_100k);
    raw["server_cores"] = json!(cpu_seconds / outcome.seconds);
    raw["rss_mib"] = json!(rss_mib);
    raw["rss_high_mib"] = json!(rss_high_mib);
    Figure {
        ops_per_second: outcome.ops_per_second(),
        p50_us: outcome.percentile_us(50.0),
        p99_us: outcome.percentile_us(99.0),
        cpu_per_100k,
        rss_mib,
        rss_high_mib,
        failed: outcome.failed(),
        raw,
    }
}

/// etcd 3.5.1, where `.ci/oracles` puts it.
fn oracle() -> Result<PathBuf, String> {
    let dir = match (std::env::var_os("LOCKSTEP_ORACLES"), std::env::var_os("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) => PathBuf::from(home).join(".cache/lockstep-oracles"),
        (None, None) => return Err("neither LOCKSTEP_ORACLES nor HOME is set".into()),
    };
    Ok(dir.join("3.5.1/etcd"))
}

/// "etcd 3.5.1" from `--version`, or the file's name.
fn name(program: &Path) -> String {
    let file = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let output = std::process::Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match text.lines().find_map(|line| line.strip_prefix("etcd Version: ")) {
        Some(version) if file == "etcd" => format!("etcd {}", version.trim()),
        _ => file,
    }
}

fn has_strace() -> bool {
    std::process::Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
}
