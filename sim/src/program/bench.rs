//! `lockstep-sim bench`: how fast worlds run, with faults and checkers on, and where the time goes.
//!
//! Figures are for CPU seconds of the worlds' own threads, so that a busy machine does not change them much. Where the
//! time goes is sampled: see [`crate::meter`].

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::options::{Seeds, WorldArgs, jobs, parse_seeds};
use super::output::{Keep, Source, play};
use super::pool::{Heard, each};
use super::progress::Progress;
use super::swarm::play_seed;
use super::tally::Tally;
use super::{Console, Outcome, Trouble};
use crate::knobs::Knobs;
use crate::meter::{self, Part};

const SAMPLE: Duration = Duration::from_micros(500);

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// From the first to the last seed, both included
    #[arg(long, value_name = "A..B", default_value = "1..20", value_parser = parse_seeds)]
    seeds: Seeds,
    #[command(flatten)]
    world: WorldArgs,
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    let cores = jobs(None);
    let line = args.world.line();
    writeln!(console.out, "worlds      seeds {}, {line}, checkers on; {}", args.seeds, console.version())?;
    if cfg!(debug_assertions) {
        writeln!(console.out, "            this is a debug build: `make sim-build` makes a fast one")?;
    }
    console.out.flush()?;

    let (one, one_wall) = measure(console, &args, 1, args.world.bare)?;
    let (all, all_wall) = measure(console, &args, cores, args.world.bare)?;
    let per_wall = |tally: &Tally, wall: Duration| tally.runs as f64 / wall.as_secs_f64();
    writeln!(
        console.out,
        "speed       {:.2} seeds a second one at a time, {:.2} with {cores} side by side",
        per_wall(&one, one_wall),
        per_wall(&all, all_wall)
    )?;
    let cpu_s = one.cpu.as_secs_f64();
    writeln!(
        console.out,
        "            {:.0} simulated seconds a CPU second, {:.0} events and {:.0} messages a CPU second",
        simulated_a_cpu_second(&one),
        one.events as f64 / cpu_s,
        one.messages as f64 / cpu_s
    )?;
    if cfg!(madsim) && !args.world.bare {
        let (bare, _) = measure(console, &args, 1, true)?;
        let (inside, outside) = (simulated_a_cpu_second(&one), simulated_a_cpu_second(&bare));
        let dearer = (outside / inside - 1.0) * 100.0;
        writeln!(console.out, "            {outside:.0} outside of madsim, which costs {dearer:.0} %")?;
    }
    writeln!(console.out, "operations  {} acknowledged in the median run", one.median_acknowledged())?;
    if one.passed < one.runs {
        writeln!(console.out, "            {} of {} runs did not pass", one.runs - one.passed, one.runs)?;
    }
    where_time_goes(console, &args)?;
    Ok(true)
}

fn simulated_a_cpu_second(tally: &Tally) -> f64 {
    tally.simulated_us as f64 / 1e6 / tally.cpu.as_secs_f64()
}

fn measure(console: &mut Console, args: &Args, jobs: usize, bare: bool) -> Result<(Tally, Duration), Trouble> {
    let mut tally = Tally::default();
    let mut progress = Progress::new(console.terminal, args.seeds.count());
    let world = WorldArgs { bare, ..args.world.clone() };
    let begun = Instant::now();
    let work = |seed| play_seed(&world, seed, Keep::default());
    each(args.seeds, jobs, None, work, |heard| {
        if let Heard::Done(seed, row) = heard {
            tally.add(seed, &row);
        }
        progress.show(console.err, tally.runs, "");
        Ok(ControlFlow::Continue(()))
    })?;
    let wall = begun.elapsed();
    progress.clear(console.err);
    Ok((tally, wall))
}

fn where_time_goes(console: &mut Console, args: &Args) -> Result<(), Trouble> {
    let mut samples = [0u64; Part::ALL.len()];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seed in args.seeds.first..=args.seeds.last {
                let world = &args.world;
                let knobs = Knobs::draw(seed, world.members, world.until, world.profile);
                let keep = Keep { watched: true, ..Keep::default() };
                play(Source::seed(seed, knobs), world.options(), keep, world.bare);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            thread::sleep(SAMPLE);
            samples[meter::look() as usize] += 1;
        }
    });
    let all: u64 = samples.iter().sum();
    let mut parts: Vec<(u64, Part)> = samples.into_iter().zip(Part::ALL).collect();
    parts.sort_by_key(|(count, part)| (std::cmp::Reverse(*count), *part as u8));
    writeln!(console.out, "time goes   {all} looks:")?;
    for (count, part) in parts {
        writeln!(console.out, "            {:5.1} %  {}", 100.0 * count as f64 / all.max(1) as f64, part.name())?;
    }
    Ok(())
}
