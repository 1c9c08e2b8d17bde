//! `lockstep-sim mutants`: each deliberate bug must be found by a checker that should find it.
//!
//! A mutant is killed when, within its seeds, a checker that it names objects; when the same seeds pass without it; and
//! when it survives the same seeds once the faults that trigger it are switched off. So it was found for the right
//! reason. Found runs are shrunk; what is alive is shown as alive.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockstep::mutation::{self, Mutation};
use serde_json::json;

use super::options::{Seeds, jobs, parse_budget, parse_jobs, parse_mutation, parse_seeds, parse_until_ms, write_file};
use super::output::{Keep, Row, Source, play};
use super::pool::{Heard, InOrder, each};
use super::progress::Progress;
use super::shrink::{Small, smaller};
use super::{Console, Outcome, Trouble, save};
use crate::fault::print_time;
use crate::knobs::{Knobs, Profile};
use crate::report::Verdict;
use crate::scenario::Scenario;
use crate::world::Options;

/// A mutant with no more triggers than these has them switched on in every seed, not in those that happen to draw them.
const FEW_TRIGGERS: usize = 3;
/// Of a mutant's share of the time: the same seeds are run twice more afterwards, and what is found is shrunk.
const HUNT_SHARE: f64 = 0.4;
/// How often one that was not found yet may come again, and how much time there must be for it.
const TURNS: usize = 4;
const LEAST_SHARE: Duration = Duration::from_secs(5);
const SHRINK_AT_MOST: Duration = Duration::from_secs(20);
const BEGIN: &str = "<!-- begin: lockstep-sim mutants --table -->";
const END: &str = "<!-- end: lockstep-sim mutants --table -->";

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = parse_mutation)]
    id: Vec<Mutation>,
    /// Hunt in these seeds
    #[arg(long, value_name = "A..B", default_value = "1..2000", value_parser = parse_seeds)]
    seeds: Seeds,
    /// How much simulated time a run has
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = parse_until_ms)]
    until: u64,
    /// How much time there is for all of them
    #[arg(long, value_name = "TIME", default_value = "14m", value_parser = parse_budget)]
    budget: Duration,
    /// How many worlds run side by side; as many as there are cores, when not given
    #[arg(long, value_name = "COUNT", value_parser = parse_jobs)]
    jobs: Option<NonZeroUsize>,
    /// Save each found run, shrunk, into this folder
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
    /// Write the kill table between its two marker lines in this file
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// One JSON object a line for each mutant, and nothing else
    #[arg(long)]
    json: bool,
}

/// A line of the kill table.
struct Kill {
    mutation: Mutation,
    /// Which of its checkers objected, and with what words.
    found: Option<Found>,
    /// Seeds that were needed, or that did not do.
    seeds: u64,
    /// Why it does not count, though it was found.
    but: Option<String>,
    /// Its share of the time ended before its seeds did.
    out_of_time: bool,
}

struct Found {
    seed: u64,
    checker: &'static str,
    signature: String,
    small: Option<Small>,
}

impl Kill {
    fn is_killed(&self) -> bool {
        self.found.is_some() && self.but.is_none()
    }

    fn small(&self) -> Option<&Small> {
        self.found.as_ref()?.small.as_ref()
    }

    fn json(&self) -> String {
        json!({
            "mutant": self.mutation.name(),
            "killed": self.is_killed(),
            "checker": self.found.as_ref().map(|found| found.checker),
            "seeds": self.seeds,
            "events_after_shrink": self.small().map(|small| small.lines),
        })
        .to_string()
    }

    /// Killed by, or why it is alive.
    fn fate(&self) -> String {
        match (&self.found, &self.but) {
            (Some(found), None) => found.signature.clone(),
            (Some(found), Some(but)) => format!("alive: {} objects, but {but}", found.checker),
            (None, _) if self.out_of_time => "alive (the time was up)".to_owned(),
            (None, _) => "alive".to_owned(),
        }
    }

    fn without(&self) -> String {
        match (self.mutation.trigger(), self.is_killed()) {
            (_, false) => "-".to_owned(),
            ([], true) => "needs no fault".to_owned(),
            (_, true) => "survives".to_owned(),
        }
    }

    fn lines(&self) -> String {
        self.small().map_or("-".to_owned(), |small| small.lines.to_string())
    }
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    if !mutation::COMPILED_IN {
        let message = "this build has no deliberate bugs in it: `make sim-build` makes one that has";
        return Err(Trouble::Usage(message.to_owned()));
    }
    if let Some(folder) = &args.save {
        save::prepare(folder)?;
    }
    if let Some(file) = &args.table {
        with_table(file, "")?;
    }
    let mutations = if args.id.is_empty() { Mutation::ALL.to_vec() } else { args.id.clone() };
    let deadline = Instant::now() + args.budget;
    if !args.json {
        writeln!(console.out, "{:30} {:>6} {:>6}  {:14}  killed by", "mutant", "seeds", "lines", "without faults")?;
    }
    // Those that are hard to find come again, for the time that the others left.
    let mut waiting: VecDeque<(Mutation, u64)> = mutations.iter().map(|mutation| (*mutation, 0)).collect();
    let mut kills = Vec::new();
    let mut turns = 0;
    while let Some((mutation, tried)) = waiting.pop_front() {
        turns += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (waiting.len() + 1) as u32;
        let kill = hunt(console, &args, mutation, tried, share)?;
        if kill.out_of_time && turns < TURNS * mutations.len() && Instant::now() + LEAST_SHARE < deadline {
            waiting.push_back((mutation, kill.seeds));
            continue;
        }
        match args.json {
            true => writeln!(console.out, "{}", kill.json())?,
            false => writeln!(
                console.out,
                "{:30} {:>6} {:>6}  {:14}  {}",
                mutation.name(),
                kill.seeds,
                kill.lines(),
                kill.without(),
                kill.fate()
            )?,
        }
        console.out.flush()?;
        kills.push(kill);
    }
    kills.sort_by_key(|kill| mutations.iter().position(|mutation| *mutation == kill.mutation));
    if let Some(file) = &args.table {
        let text = with_table(file, &table(&kills))?;
        write_file(file, "kill table", &text)?;
    }
    let killed = kills.iter().filter(|kill| kill.is_killed()).count();
    if !args.json {
        writeln!(console.out, "{killed} of {} killed", kills.len())?;
    }
    Ok(killed == kills.len())
}

/// Hunts in the seeds behind those that were tried already.
fn hunt(console: &mut Console, args: &Args, mutation: Mutation, tried: u64, share: Duration) -> Result<Kill, Trouble> {
    let deadline = Instant::now() + share.mul_f64(HUNT_SHARE);
    let mut kill = Kill { mutation, found: None, seeds: tried, but: None, out_of_time: false };
    let mut progress = Progress::new(console.terminal, args.seeds.count());
    let seeds = Seeds { first: args.seeds.first + tried, ..args.seeds };
    let mut in_order = InOrder::new(seeds);
    let note = format!(" seeds for {}", mutation.name());
    // In the order of the seeds, so that the figure does not depend on how many cores there are.
    each(
        seeds,
        jobs(args.jobs),
        Some(deadline),
        |seed| play_mutant(args, mutation, seed),
        |heard| {
            if let Heard::Done(seed, row) = heard {
                for (seed, row) in in_order.put(seed, row) {
                    kill.seeds += 1;
                    kill.found = objection(mutation, seed, &row);
                    if kill.found.is_some() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            progress.show(console.err, kill.seeds, &note);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    progress.clear(console.err);
    let Some(mut found) = kill.found.take() else {
        kill.out_of_time = kill.seeds < args.seeds.count();
        return Ok(kill);
    };
    kill.but = doubt(args, mutation, found.seed)?;
    let small = shrunk(args, mutation, &found, share.mul_f64(1.0 - HUNT_SHARE).min(SHRINK_AT_MOST));
    if let Some(folder) = &args.save {
        let repro = format!(
            "lockstep-sim mutants --id {} --seeds {} --until {}",
            mutation.name(),
            Seeds { last: found.seed, ..args.seeds },
            print_time(args.until * 1_000)
        );
        let source = Source::Text(small.text.clone());
        save::save(console, folder, mutation.name(), source, Options::default(), false, &repro)?;
        write_file(&folder.join(format!("{}.scenario", mutation.name())), "scenario", &small.text)?;
    }
    found.small = Some(small);
    kill.found = Some(found);
    Ok(kill)
}

/// The worlds in which this mutant is hunted.
fn knobs(args: &Args, mutation: Mutation, seed: u64) -> Knobs {
    let mut knobs = Knobs::draw(seed, mutation.members(), args.until, Profile::Swarm);
    for (name, value) in mutation.knobs() {
        knobs.set(name, *value).expect("a mutation names knobs that there are");
    }
    if !mutation.faults().is_empty() {
        knobs.faults = mutation.faults().iter().map(|kind| (*kind).to_owned()).collect();
    }
    if mutation.trigger().len() <= FEW_TRIGGERS {
        knobs.faults.extend(mutation.trigger().iter().map(|kind| (*kind).to_owned()));
    }
    knobs
}

fn play_mutant(args: &Args, mutation: Mutation, seed: u64) -> Row {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    play(Source::seed(seed, knobs(args, mutation, seed)), options, Keep::default(), false)
}

/// When it is by one of the checkers that the mutation names.
fn objection(mutation: Mutation, seed: u64, row: &Row) -> Option<Found> {
    let Verdict::Fail { checker, .. } = row.verdict else { return None };
    let signature = row.verdict.signature()?;
    mutation.checkers().contains(&checker).then_some(Found { seed, checker, signature, small: None })
}

/// The seeds up to the found one, clean and without the triggers: what speaks against the kill.
fn doubt(args: &Args, mutation: Mutation, last: u64) -> Result<Option<String>, Trouble> {
    let seeds = Seeds { first: args.seeds.first, last };
    let without: BTreeSet<String> = mutation.trigger().iter().map(|kind| (*kind).to_owned()).collect();
    let work = |seed| {
        let source = Source::seed(seed, knobs(args, mutation, seed));
        let clean = play(source.clone(), Options::default(), Keep::default(), false);
        if let Some(signature) = clean.verdict.signature() {
            return Some(format!("seed {seed} fails without it too: {signature}"));
        }
        if without.is_empty() {
            return None;
        }
        let options = Options { mutation: Some(mutation), without: without.clone(), ..Options::default() };
        let calm = play(source, options, Keep::default(), false);
        let found = objection(mutation, seed, &calm)?;
        Some(format!("seed {seed} fails without its triggers too: {}", found.signature))
    };
    let mut doubt = None;
    let mut in_order = InOrder::new(seeds);
    each(seeds, jobs(args.jobs), None, work, |heard| {
        if let Heard::Done(seed, found) = heard {
            for (_, found) in in_order.put(seed, found) {
                if found.is_some() {
                    doubt = found;
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(doubt)
}

fn shrunk(args: &Args, mutation: Mutation, found: &Found, time: Duration) -> Small {
    let source = Source::seed(found.seed, knobs(args, mutation, found.seed));
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let keep =
        Keep { record: Some(vec![mutation.about().to_owned(), mutation.source().to_owned()]), ..Keep::default() };
    let record = play(source, options, keep, false).record.expect("it was asked for");
    let scenario = Scenario::parse(&record).expect("what is printed can be read");
    smaller(&scenario, &found.signature, Instant::now() + time, &mut |_| {})
}

fn table(kills: &[Kill]) -> String {
    let mut text = String::from(
        "| mutant | what is wrong | source | killed by | seeds | lines | without its faults |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for kill in kills {
        let mutation = kill.mutation;
        text += &format!(
            "| `{}` | {} | {} | {} | {} | {} | {} |\n",
            mutation.name(),
            mutation.about(),
            mutation.source(),
            kill.fate(),
            kill.seeds,
            kill.lines(),
            kill.without()
        );
    }
    text
}

/// The page with this table in it.
fn with_table(file: &Path, table: &str) -> Result<String, Trouble> {
    let text = fs::read_to_string(file)
        .map_err(|error| Trouble::Usage(format!("cannot read {} to put the table there: {error}", file.display())))?;
    let parts = text.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let Some((head, foot)) = parts else {
        let message = format!("{} has no place for the table: the lines {BEGIN} and {END}", file.display());
        return Err(Trouble::Usage(message));
    };
    Ok(format!("{head}{BEGIN}\n\n{table}\n{END}{foot}"))
}
