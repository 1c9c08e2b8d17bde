//! `lockstep-sim shrink`: a failing scenario, made small.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::options::{can_write, parse_budget, read_scenario, write_file};
use super::output::{Keep, Source, play};
use super::{Console, Outcome, Trouble};
use crate::scenario::{Expect, Scenario};
use crate::world::Options;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The scenario that fails
    file: PathBuf,
    /// Where the small one goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Try for so long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_budget)]
    budget: Duration,
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    let (scenario, text) = read_scenario(&args.file)?;
    can_write(&args.output, "scenario")?;
    let lines = event_lines(&scenario);
    let Some(signature) = signature_of(&text) else {
        let message = format!("{} does not fail, so there is nothing to shrink", args.file.display());
        return Err(Trouble::Usage(message));
    };
    let begun = Instant::now();
    let terminal = console.terminal;
    let small = smaller(&scenario, &signature, begun + args.budget, &mut |what| {
        if terminal {
            let _ = write!(console.err, "\r\x1b[K{what}");
            let _ = console.err.flush();
        }
    });
    if terminal {
        let _ = write!(console.err, "\r\x1b[K");
    }
    write_file(&args.output, "scenario", &small.text)?;
    writeln!(console.out, "failure     {signature}")?;
    writeln!(console.out, "lines       {lines} became {}, with {} members", small.lines, small.members)?;
    writeln!(console.out, "tried       {} runs in {:.1} s", small.runs, begun.elapsed().as_secs_f64())?;
    writeln!(console.out, "again       lockstep-sim replay {}", args.output.display())?;
    Ok(true)
}

/// What the shrinker came to.
pub(crate) struct Small {
    /// The scenario, with its failure and its trace in its head.
    pub text: String,
    /// Of events and exceptions: what is not head.
    pub lines: u64,
    pub members: u64,
    pub runs: u64,
}

/// The smallest scenario with this failure that is found until then.
pub(crate) fn smaller(
    scenario: &Scenario,
    signature: &str,
    deadline: Instant,
    progress: &mut dyn FnMut(&str),
) -> Small {
    let mut runs = 0;
    let fails_clean = |scenario: &Scenario| {
        let clean = Scenario { mutation: None, ..scenario.clone() };
        signature_of(&clean.to_string()).as_deref() == Some(signature)
    };
    // Then what is left has to show the deliberate bug, not something that goes wrong without it as well.
    let is_to_blame = scenario.mutation.is_some() && !fails_clean(scenario);
    // What is tried is the text, so that what is written has been tried.
    let mut try_run = |candidate: &Scenario| {
        if Instant::now() >= deadline {
            return None;
        }
        runs += 1;
        let found = signature_of(&candidate.to_string())?;
        if is_to_blame && found == signature {
            runs += 1;
            return (!fails_clean(candidate)).then_some(found);
        }
        Some(found)
    };
    let mut small = crate::shrink::shrink(scenario, signature, &mut try_run, progress);
    small.expect = Expect::Fail(signature.to_owned());
    small.trace = None;
    let row = play(Source::Text(small.to_string()), Options::default(), Keep::default(), false);
    small.trace = Some(row.trace_hash);
    Small { text: small.to_string(), lines: event_lines(&small), members: small.knobs.members, runs }
}

pub(crate) fn event_lines(scenario: &Scenario) -> u64 {
    (scenario.events.len() + scenario.exceptions.len()) as u64
}

fn signature_of(text: &str) -> Option<String> {
    play(Source::Text(text.to_owned()), Options::default(), Keep::default(), false).verdict.signature()
}
