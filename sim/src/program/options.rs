//! What several commands are told alike: which worlds, which seeds, how many at once; and what is wrong with it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::Duration;

use lockstep::mutation::Mutation;

use super::Trouble;
use crate::fault::{self, parse_time_us, print_time};
use crate::knobs::Profile;
use crate::scenario::Scenario;
use crate::world::Options;

/// The kind of world that a seed is run in.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct WorldArgs {
    /// How many members the cluster has
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = clap::value_parser!(u64).range(1..=9))]
    pub members: u64,
    /// How much simulated time a run has, from 30s on
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_until_ms)]
    pub until: u64,
    /// How rough the weather is: swarm, calm or lite
    #[arg(long, value_name = "NAME", default_value = "swarm", value_parser = parse_profile)]
    pub profile: Profile,
    /// Kinds of fault that never strike
    #[arg(long, value_name = "KIND,KIND", value_delimiter = ',', value_parser = parse_kind)]
    pub without: Vec<String>,
    /// A deliberate bug to switch on
    #[arg(long, value_name = "NAME", value_parser = parse_mutation)]
    pub mutation: Option<Mutation>,
    /// Run outside of madsim, also in a build that has it
    #[arg(long, hide = true)]
    pub bare: bool,
}

impl WorldArgs {
    pub fn options(&self) -> Options {
        let without: BTreeSet<String> = self.without.iter().cloned().collect();
        Options { without, mutation: self.mutation, ..Options::default() }
    }

    /// Everything that a seed's run depends on beside the program, as options.
    pub fn line(&self) -> String {
        let mut line = format!("--members {} --until {}", self.members, print_time(self.until * 1_000));
        if self.profile != Profile::default() {
            line += &format!(" --profile {}", self.profile.name());
        }
        if !self.without.is_empty() {
            line += &format!(" --without {}", self.without.join(","));
        }
        if let Some(mutation) = self.mutation {
            line += &format!(" --mutation {}", mutation.name());
        }
        line
    }

    /// The one line that does it again.
    pub fn repro(&self, seed: u64) -> String {
        format!("lockstep-sim run --seed {seed} {}", self.line())
    }
}

/// `a..b`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeds {
    pub first: u64,
    pub last: u64,
}

impl Seeds {
    pub fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

impl std::fmt::Display for Seeds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}..{}", self.first, self.last)
    }
}

/// Each has a thread and some megabytes.
const MOST_JOBS: usize = 256;

/// How many worlds run side by side; all cores unless told otherwise.
pub(crate) fn jobs(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

pub(crate) fn parse_seeds(word: &str) -> Result<Seeds, String> {
    let number =
        |part: &str| part.parse::<u64>().map_err(|_| format!("{part:?} is not a seed: a range is like 1..500"));
    let Some((first, last)) = word.split_once("..") else {
        return number(word).map(|seed| Seeds { first: seed, last: seed });
    };
    let seeds = Seeds { first: number(first)?, last: number(last)? };
    if seeds.first > seeds.last {
        return Err(format!("the range ends before it begins: {}..{} would do", seeds.last, seeds.first));
    }
    Ok(seeds)
}

pub(crate) fn parse_jobs(word: &str) -> Result<NonZeroUsize, String> {
    let jobs = word.parse().ok().filter(|jobs: &NonZeroUsize| jobs.get() <= MOST_JOBS);
    jobs.ok_or_else(|| format!("from 1 to {MOST_JOBS} worlds run side by side"))
}

/// Of the wall's time.
pub(crate) fn parse_budget(word: &str) -> Result<Duration, String> {
    let minutes = word.strip_suffix('m').and_then(|number| number.parse::<u64>().ok());
    let us = minutes.and_then(|m| m.checked_mul(60_000_000)).or_else(|| parse_time_us(word));
    us.map(Duration::from_micros).ok_or_else(|| "a time is like 60s or 5m".to_owned())
}

pub(crate) fn parse_until_ms(word: &str) -> Result<u64, String> {
    const LEAST_MS: u64 = 30_000;
    const MOST_MS: u64 = 86_400_000;
    let until_ms = parse_time_us(word).ok_or("a time is like 60s or 90.5s")? / 1_000;
    if !(LEAST_MS..=MOST_MS).contains(&until_ms) {
        let message =
            "a run has 30s at least (10s with faults, 10s for a core alone, 10s for all to rest), 86400s at most";
        return Err(message.to_owned());
    }
    Ok(until_ms)
}

fn parse_profile(word: &str) -> Result<Profile, String> {
    Profile::parse(word).ok_or_else(|| "there are swarm, calm and lite".to_owned())
}

fn parse_kind(word: &str) -> Result<String, String> {
    let known = || fault::KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    fault::kind(word).map(|kind| kind.name.to_owned()).ok_or_else(|| format!("the kinds of fault are {}", known()))
}

pub(crate) fn parse_mutation(word: &str) -> Result<Mutation, String> {
    let known = || Mutation::ALL.iter().map(|mutation| mutation.name()).collect::<Vec<_>>().join(", ");
    Mutation::parse(word).ok_or_else(|| format!("the deliberate bugs are {}", known()))
}

/// The scenario in this file, and its text.
pub(crate) fn read_scenario(path: &Path) -> Result<(Scenario, String), Trouble> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Trouble::Usage(format!("cannot read the scenario {}: {error}", path.display())))?;
    let scenario = Scenario::parse(&text).map_err(|error| Trouble::Usage(format!("{}: {error}", path.display())))?;
    Ok((scenario, text))
}

/// Told before the work is done whose result goes there. Touches nothing: a full disk is found out later.
pub(crate) fn can_write(path: &Path, what: &str) -> Result<(), Trouble> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opened = match path.exists() {
        true => OpenOptions::new().append(true).open(path).map(drop),
        false => std::fs::read_dir(folder).map(drop),
    };
    opened.map_err(|error| Trouble::Usage(format!("cannot write the {what} to {}: {error}", path.display())))
}

pub(crate) fn write_file(path: &Path, what: &str, text: &str) -> Result<(), Trouble> {
    std::fs::write(path, text)
        .map_err(|error| Trouble::Usage(format!("cannot write the {what} to {}: {error}", path.display())))
}
