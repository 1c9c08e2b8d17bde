//! `lockstep-sim swarm`: many seeds; the failures grouped, and each saved.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::options::{Seeds, WorldArgs, jobs, parse_budget, parse_jobs, parse_seeds};
use super::output::{Keep, Row, Source, play};
use super::pool::{Heard, InOrder, each};
use super::progress::Progress;
use super::tally::Tally;
use super::{Console, Outcome, Trouble, save};
use crate::knobs::Knobs;
use crate::report::Verdict;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// From the first to the last seed, both included
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Seeds,
    #[command(flatten)]
    world: WorldArgs,
    /// How many worlds run side by side; as many as there are cores, when not given
    #[arg(long, value_name = "COUNT", value_parser = parse_jobs)]
    jobs: Option<NonZeroUsize>,
    /// Begin no seed after so much time of the wall
    #[arg(long, value_name = "TIME", value_parser = parse_budget)]
    budget: Option<Duration>,
    /// Save each failure into this folder
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
    /// One JSON object a line for each seed, and nothing else
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    if let Some(folder) = &args.save {
        save::prepare(folder)?;
    }
    let begun = Instant::now();
    let deadline = args.budget.map(|budget| begun + budget);
    let mut tally = Tally::default();
    let mut progress = Progress::new(console.terminal, args.seeds.count());
    let mut in_order = InOrder::new(args.seeds);
    let work = |seed| play_seed(&args.world, seed, Keep::default());
    each(args.seeds, jobs(args.jobs), deadline, work, |heard| {
        if let Heard::Done(seed, row) = heard {
            tally.add(seed, &row);
            if row.verdict != Verdict::Ok {
                progress.clear(console.err);
                fell(console, &args, seed, &row)?;
            }
            if args.json {
                for (seed, row) in in_order.put(seed, row) {
                    writeln!(console.out, "{}", row.json(&args.world.repro(seed)))?;
                }
                console.out.flush()?;
            }
        }
        let note = if tally.failed > 0 { format!(", {} failed", tally.failed) } else { String::new() };
        progress.show(console.err, tally.runs, &note);
        Ok(ControlFlow::Continue(()))
    })?;
    progress.clear(console.err);
    if tally.runs == 0 {
        return Err(Trouble::Usage("the budget was over before the first seed".to_owned()));
    }
    if args.json {
        for (seed, row) in in_order.rest() {
            writeln!(console.out, "{}", row.json(&args.world.repro(seed)))?;
        }
    } else {
        if tally.runs < args.seeds.count() {
            let (runs, all) = (tally.runs, args.seeds.count());
            writeln!(console.out, "budget      {runs} of {all} seeds were run, then the time was up")?;
        }
        tally.print(console.out, begun.elapsed(), &|seed| args.world.repro(seed))?;
    }
    Ok(tally.has_passed())
}

pub(crate) fn play_seed(world: &WorldArgs, seed: u64, keep: Keep) -> Row {
    let knobs = Knobs::draw(seed, world.members, world.until, world.profile);
    play(Source::seed(seed, knobs), world.options(), keep, world.bare)
}

/// A run that did not pass is told at once, and a failure saved.
fn fell(console: &mut Console, args: &Args, seed: u64, row: &Row) -> Result<(), Trouble> {
    let repro = args.world.repro(seed);
    if !args.json {
        match &row.verdict {
            Verdict::Fail { checker, place, .. } => writeln!(console.out, "seed {seed} fails: {checker}: {place}")?,
            Verdict::Unknown { checker, .. } => writeln!(console.out, "seed {seed} is unknown: {checker}")?,
            Verdict::Ok => {}
        }
        console.out.flush()?;
    }
    let Some(folder) = args.save.as_ref().filter(|_| matches!(row.verdict, Verdict::Fail { .. })) else {
        return Ok(());
    };
    let world = &args.world;
    let knobs = Knobs::draw(seed, world.members, world.until, world.profile);
    let name = format!("seed-{seed}");
    let source = Source::seed(seed, knobs);
    let again = save::save(console, folder, &name, source, world.options(), world.bare, &repro)?;
    if again.trace_hash != row.trace_hash {
        writeln!(console.err, "lockstep-sim: seed {seed} ran differently the second time: try `lockstep-sim check`")?;
    }
    Ok(())
}
