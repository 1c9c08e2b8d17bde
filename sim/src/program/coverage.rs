//! `lockstep-sim coverage`: which rare situations a range of seeds reaches.
//!
//! A test of rare situations that never occur proves nothing, so a required mark that too few seeds hit is a failure.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use lockstep::mutation;

use super::options::{Seeds, WorldArgs, jobs, parse_jobs, parse_seeds};
use super::output::Keep;
use super::pool::{Heard, each};
use super::progress::Progress;
use super::swarm::play_seed;
use super::tally::{Hits, Tally};
use super::{Console, Outcome, Trouble};

/// Seeds that must hit a required mark.
const LEAST_SEEDS: u64 = 5;

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
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    if !mutation::COMPILED_IN {
        let message = "this build does not count marks: `make sim-build` makes one that does";
        return Err(Trouble::Usage(message.to_owned()));
    }
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut progress = Progress::new(console.terminal, args.seeds.count());
    let work = |seed| play_seed(&args.world, seed, Keep::default());
    each(args.seeds, jobs(args.jobs), None, work, |heard| {
        if let Heard::Done(seed, row) = heard {
            tally.add(seed, &row);
        }
        progress.show(console.err, tally.runs, "");
        Ok(ControlFlow::Continue(()))
    })?;
    progress.clear(console.err);
    writeln!(console.out, "{:>12} {:>7}  mark", "hits", "seeds")?;
    let never = crate::marks::REQUIRED.iter().filter(|mark| !tally.marks.contains_key(*mark));
    let mut marks: Vec<(&str, Hits)> = tally.marks.iter().map(|(mark, hits)| (*mark, *hits)).collect();
    marks.extend(never.map(|mark| (*mark, Hits::default())));
    marks.sort_by_key(|(mark, hits)| (std::cmp::Reverse(hits.seeds), *mark));
    for (mark, Hits { hits, seeds }) in &marks {
        writeln!(console.out, "{hits:>12} {seeds:>7}  {mark}")?;
    }
    // Fewer seeds than that cannot hit anything in more of them.
    let least = LEAST_SEEDS.min(tally.runs);
    let missed = tally.missed_marks(least);
    writeln!(
        console.out,
        "{} marks in {} seeds and {:.0} s; {} of {} required ones in {least} seeds or more",
        marks.iter().filter(|(_, hits)| hits.seeds > 0).count(),
        tally.runs,
        begun.elapsed().as_secs_f64(),
        crate::marks::REQUIRED.len() - missed.len(),
        crate::marks::REQUIRED.len(),
    )?;
    for mark in &missed {
        writeln!(console.out, "missing     {mark}")?;
    }
    Ok(missed.is_empty())
}
