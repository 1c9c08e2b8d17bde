//! `lockstep-sim check`: the same seed must do the same, whoever runs it.
//!
//! Each seed is run twice on threads of this process, once in another process and once more in another process outside
//! of madsim; a second program, from another build, can be named. A hash that differs is followed to the first event
//! that differs: there something looked at what it should not see, at the wall's time, at the order of a hash map, at a
//! thread's luck, at bytes that nobody had initialised.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::options::{Seeds, WorldArgs, jobs, parse_jobs, parse_seeds};
use super::output::{Keep, first_difference};
use super::pool::{Heard, each};
use super::progress::Progress;
use super::swarm::play_seed;
use super::{Console, Outcome, Trouble};

/// Differing seeds whose traces are compared.
const SHOWN: usize = 3;
/// A leak that depends on luck may hide while it is looked for.
const ATTEMPTS: usize = 10;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// From the first to the last seed, both included
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Seeds,
    #[command(flatten)]
    world: WorldArgs,
    /// A lockstep-sim of another build, which must do the same
    #[arg(long, value_name = "PROGRAM")]
    other: Option<PathBuf>,
    /// How many worlds run side by side; as many as there are cores, when not given
    #[arg(long, value_name = "COUNT", value_parser = parse_jobs)]
    jobs: Option<NonZeroUsize>,
}

/// Who runs a seed.
#[derive(Clone, Debug)]
enum Runner {
    /// A thread of this process.
    Here,
    Process {
        program: PathBuf,
        bare: bool,
    },
}

impl Runner {
    fn name(&self, args: &Args) -> String {
        match self {
            Runner::Here => "here".to_owned(),
            Runner::Process { program, .. } if args.other.as_ref() == Some(program) => program.display().to_string(),
            Runner::Process { bare: false, .. } => "another process".to_owned(),
            Runner::Process { bare: true, .. } => "outside of madsim".to_owned(),
        }
    }
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    let mut runners = Vec::new();
    if let Some(program) = &console.program {
        runners.push(Runner::Process { program: program.clone(), bare: false });
        runners.push(Runner::Process { program: program.clone(), bare: true });
    }
    if let Some(program) = &args.other {
        if !program.is_file() {
            return Err(Trouble::Usage(format!("there is no program {}", program.display())));
        }
        runners.push(Runner::Process { program: program.clone(), bare: false });
    }

    let mut differing: BTreeMap<u64, Runner> = BTreeMap::new();
    let hashes = twice_here(console, &args, &mut differing)?;
    for runner in &runners {
        for (seed, hash) in there(&args, runner)? {
            if hashes.get(&seed) != Some(&hash) {
                differing.entry(seed).or_insert_with(|| runner.clone());
            }
        }
    }

    let names: Vec<String> = runners.iter().map(|runner| runner.name(&args)).collect();
    let against = match names.as_slice() {
        [] => "twice here".to_owned(),
        names => format!("twice here, {}", names.join(", ")),
    };
    if differing.is_empty() {
        writeln!(console.out, "seeds {}: the same traces ({against})", args.seeds)?;
        return Ok(true);
    }
    writeln!(console.out, "seeds {}: {} of {} differ ({against})", args.seeds, differing.len(), hashes.len())?;
    for (seed, runner) in differing.iter().take(SHOWN) {
        show(console, &args, *seed, runner)?;
    }
    Ok(false)
}

/// The hashes of all seeds, and which of them differ at once.
fn twice_here(
    console: &mut Console,
    args: &Args,
    differing: &mut BTreeMap<u64, Runner>,
) -> Result<BTreeMap<u64, String>, Trouble> {
    let mut hashes = BTreeMap::new();
    let mut progress = Progress::new(console.terminal, args.seeds.count());
    let work = |seed| [(); 2].map(|()| play_seed(&args.world, seed, Keep::default()).trace_hash);
    each(args.seeds, jobs(args.jobs), None, work, |heard| {
        if let Heard::Done(seed, [first, second]) = heard {
            if first != second {
                differing.insert(seed, Runner::Here);
            }
            hashes.insert(seed, first);
        }
        progress.show(console.err, hashes.len() as u64, " twice");
        Ok(ControlFlow::Continue(()))
    })?;
    progress.clear(console.err);
    Ok(hashes)
}

/// The hashes of all seeds, as another process finds them.
fn there(args: &Args, runner: &Runner) -> Result<BTreeMap<u64, String>, Trouble> {
    let Runner::Process { program, .. } = runner else { unreachable!("only processes are asked") };
    let mut command = command(args, runner, "swarm");
    command.args(["--json", "--seeds", &args.seeds.to_string(), "--jobs", &jobs(args.jobs).to_string()]);
    let output =
        command.output().map_err(|error| Trouble::Usage(format!("cannot start {}: {error}", program.display())))?;
    let mut hashes = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_default();
        if let (Some(seed), Some(hash)) = (row["seed"].as_u64(), row["trace_hash"].as_str()) {
            hashes.insert(seed, hash.to_owned());
        }
    }
    // A failing seed is no business of ours, a seed without an answer is.
    if hashes.len() as u64 != args.seeds.count() {
        let complaint = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it said nothing").to_owned();
        let message = format!("{} answered for {} seeds only: {complaint}", program.display(), hashes.len());
        return Err(Trouble::Usage(message));
    }
    Ok(hashes)
}

fn command(args: &Args, runner: &Runner, what: &str) -> Command {
    let Runner::Process { program, bare } = runner else { unreachable!("only processes are asked") };
    let mut command = Command::new(program);
    command.arg(what).args(args.world.line().split(' '));
    if *bare || args.world.bare {
        command.arg("--bare");
    }
    command
}

/// Follows a difference to the first event.
fn show(console: &mut Console, args: &Args, seed: u64, runner: &Runner) -> Result<(), Trouble> {
    let name = match runner {
        Runner::Here => "here again".to_owned(),
        Runner::Process { .. } => runner.name(args),
    };
    for _ in 0..ATTEMPTS {
        let left = trace(args, seed, &Runner::Here)?;
        let right = trace(args, seed, runner)?;
        if let Some(difference) = first_difference(&left, &right) {
            writeln!(console.out, "seed {seed} differs at line {}: here and {name}", difference.line)?;
            difference.print(console.out, "here", &name)?;
            return Ok(());
        }
    }
    writeln!(console.out, "seed {seed} differed (here and {name}), and then was the same {ATTEMPTS} times")?;
    Ok(())
}

fn trace(args: &Args, seed: u64, runner: &Runner) -> Result<String, Trouble> {
    let Runner::Process { program, .. } = runner else {
        let keep = Keep { trace: true, ..Keep::default() };
        return Ok(play_seed(&args.world, seed, keep).trace.unwrap_or_default());
    };
    let file = std::env::temp_dir().join(format!("lockstep-sim-{}-{seed}.trace", std::process::id()));
    let started =
        command(args, runner, "run").args(["--json", "--seed", &seed.to_string(), "--trace"]).arg(&file).output();
    let text = started.and_then(|_| fs::read_to_string(&file));
    remove(&file);
    text.map_err(|error| Trouble::Usage(format!("{} wrote no trace of seed {seed}: {error}", program.display())))
}

fn remove(file: &Path) {
    // It may not be there.
    let _ = fs::remove_file(file);
}
