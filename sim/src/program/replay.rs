//! `lockstep-sim replay`: a scenario, played without drawing anything.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::options::{read_scenario, write_file};
use super::output::{Keep, Row, Source, first_difference, play};
use super::{Console, Outcome};
use crate::report::Verdict;
use crate::scenario::{Expect, Scenario};
use crate::world::Options;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The scenario
    file: PathBuf,
    /// Write every event as a line into this file; its SHA-256 is the trace hash
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Run outside of madsim, also in a build that has it
    #[arg(long, hide = true)]
    bare: bool,
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    let (scenario, text) = read_scenario(&args.file)?;
    let repro = format!("lockstep-sim replay {}", args.file.display());
    if !args.json {
        writeln!(console.out, "{}, {}", console.version(), args.file.display())?;
        if let Some(mutation) = scenario.mutation {
            writeln!(console.out, "mutation {}", mutation.name())?;
        }
        write!(console.out, "{}", scenario.knobs)?;
        console.out.flush()?;
    }
    let keep = Keep { trace: true, ..Keep::default() };
    let row = play(Source::Text(text), Options::default(), keep, args.bare);
    if let Some(path) = &args.trace {
        write_file(path, "trace", row.trace.as_deref().unwrap_or_default())?;
    }
    if args.json {
        writeln!(console.out, "{}", row.json(&repro))?;
    } else {
        row.print(console.out, &repro)?;
        compare(console.out, &args.file, &scenario, &row)?;
    }
    Ok(row.verdict == Verdict::Ok)
}

/// What the head promised, and what it was recorded with.
fn compare(out: &mut dyn Write, file: &Path, scenario: &Scenario, row: &Row) -> io::Result<()> {
    let found = row.verdict.signature();
    match (&scenario.expect, found) {
        (Expect::Pass, None) => writeln!(out, "expected    to pass: it does")?,
        (Expect::Pass, Some(_)) => writeln!(out, "expected    to pass: it does not")?,
        (Expect::Fail(wanted), Some(found)) if *wanted == found => {
            writeln!(out, "expected    to fail with {wanted:?}: it does")?;
        }
        (Expect::Fail(wanted), found) => {
            let instead =
                found.map_or("it does not fail any more".to_owned(), |found| format!("it fails with {found:?}"));
            writeln!(out, "expected    to fail with {wanted:?}: {instead}")?;
        }
    }
    let Some(hash) = &scenario.trace else { return Ok(()) };
    if *hash == row.trace_hash {
        return writeln!(out, "recorded    the same trace");
    }
    let beside = file.with_extension("trace");
    let (old, new) = (fs::read_to_string(&beside).ok(), row.trace.as_deref().unwrap_or_default());
    match old.as_deref().and_then(|old| first_difference(old, new)) {
        Some(difference) => {
            writeln!(out, "recorded    another trace: they part at line {}", difference.line)?;
            difference.print(out, "recorded", "now")
        }
        None => writeln!(out, "recorded    another trace, {hash}; {} would say where they part", beside.display()),
    }
}
