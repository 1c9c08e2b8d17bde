//! `lockstep-sim run`: one seed.

use std::path::PathBuf;

use super::options::{WorldArgs, write_file};
use super::output::{Keep, Source, play};
use super::{Console, Outcome};
use crate::knobs::Knobs;
use crate::report::Verdict;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The seed of everything that chance decides
    #[arg(long, value_name = "NUMBER")]
    seed: u64,
    #[command(flatten)]
    world: WorldArgs,
    /// Write every event as a line into this file; its SHA-256 is the trace hash
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the run into this file as a scenario, which replays without the seed
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    let Args { seed, world, .. } = &args;
    let repro = world.repro(*seed);
    let knobs = Knobs::draw(*seed, world.members, world.until, world.profile);
    if !args.json {
        writeln!(console.out, "{}, seed {seed}", console.version())?;
        write!(console.out, "{knobs}")?;
        console.out.flush()?;
    }
    let keep = Keep {
        trace: args.trace.is_some(),
        record: args.record.as_ref().map(|_| console.record_head(&repro)),
        ..Keep::default()
    };
    let row = play(Source::seed(*seed, knobs), world.options(), keep, world.bare);
    if let Some(path) = &args.trace {
        write_file(path, "trace", row.trace.as_deref().unwrap_or_default())?;
    }
    if let Some(path) = &args.record {
        write_file(path, "record", row.record.as_deref().unwrap_or_default())?;
    }
    match args.json {
        true => writeln!(console.out, "{}", row.json(&repro))?,
        false => row.print(console.out, &repro)?,
    }
    Ok(row.verdict == Verdict::Ok)
}
