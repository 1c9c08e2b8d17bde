//! What many runs come to together.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::fault;
use crate::report::Verdict;

use super::output::Row;

/// Of so many runs at most one may be undecided.
const RUNS_AN_UNKNOWN: u64 = 100;

#[derive(Default)]
pub(crate) struct Tally {
    pub runs: u64,
    pub passed: u64,
    pub failed: u64,
    pub unknown: u64,
    pub simulated_us: u64,
    pub events: u64,
    pub messages: u64,
    pub cpu: Duration,
    acknowledged: Vec<u64>,
    /// Seeds in which a kind of fault struck.
    struck: BTreeMap<&'static str, u64>,
    /// Hits of a mark, and seeds in which it was hit.
    pub marks: BTreeMap<&'static str, Hits>,
    /// By signature.
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hits {
    pub hits: u64,
    pub seeds: u64,
}

struct Group {
    failures: u64,
    /// That with the fewest events.
    cheapest: (u64, u64),
}

impl Tally {
    pub fn add(&mut self, seed: u64, row: &Row) {
        self.runs += 1;
        self.simulated_us += row.simulated_us;
        self.events += row.events;
        self.messages += row.messages;
        self.cpu += row.cpu;
        self.acknowledged.push(row.acknowledged);
        for (kind, _) in row.faults.iter().filter(|(_, count)| **count > 0) {
            *self.struck.entry(kind).or_default() += 1;
        }
        for (mark, hits) in row.marks.iter().filter(|(_, hits)| **hits > 0) {
            let of_mark = self.marks.entry(mark).or_default();
            of_mark.hits += hits;
            of_mark.seeds += 1;
        }
        match &row.verdict {
            Verdict::Ok => self.passed += 1,
            Verdict::Unknown { .. } => self.unknown += 1,
            Verdict::Fail { .. } => {
                self.failed += 1;
                let signature = row.verdict.signature().unwrap_or_default();
                let group = self.groups.entry(signature).or_insert(Group { failures: 0, cheapest: (u64::MAX, 0) });
                group.failures += 1;
                group.cheapest = group.cheapest.min((row.events, seed));
            }
        }
    }

    /// Honest budgets run out now and then; when they do so often, the checkers check little.
    pub fn too_many_unknown(&self) -> bool {
        self.unknown * RUNS_AN_UNKNOWN > self.runs
    }

    pub fn has_passed(&self) -> bool {
        self.failed == 0 && !self.too_many_unknown()
    }

    pub fn median_acknowledged(&self) -> u64 {
        let mut sorted = self.acknowledged.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    pub fn print(&self, out: &mut dyn Write, wall: Duration, repro: &dyn Fn(u64) -> String) -> io::Result<()> {
        let Tally { runs, passed, failed, unknown, .. } = self;
        writeln!(out, "seeds       {runs}: {passed} passed, {failed} failed, {unknown} unknown")?;
        if self.too_many_unknown() {
            writeln!(out, "            more than 1 % unknown is too many: this range does not count as passed")?;
        }
        writeln!(out, "operations  {} acknowledged in the median run", self.median_acknowledged())?;
        let simulated_s = self.simulated_us as f64 / 1e6;
        writeln!(
            out,
            "speed       {:.1} seeds a second, {:.0} simulated seconds a CPU second ({:.0} in {:.1}; wall {:.1} s)",
            *runs as f64 / wall.as_secs_f64(),
            simulated_s / self.cpu.as_secs_f64(),
            simulated_s,
            self.cpu.as_secs_f64(),
            wall.as_secs_f64(),
        )?;
        writeln!(out, "faults      in so many of 100 seeds:")?;
        let kinds: Vec<&fault::Kind> = fault::weather().collect();
        for kinds in kinds.chunks(4) {
            let cells: Vec<String> = kinds
                .iter()
                .map(|kind| {
                    let share = 100.0 * self.struck.get(kind.name).copied().unwrap_or(0) as f64 / (*runs).max(1) as f64;
                    format!("{:20} {share:5.1}", kind.name)
                })
                .collect();
            writeln!(out, "            {}", cells.join("   "))?;
        }
        writeln!(out, "operators   in so many of 100 seeds:")?;
        for operations in crate::marks::OPERATIONS.chunks(4) {
            let share = |mark| 100.0 * self.marks.get(mark).map_or(0, |hits| hits.seeds) as f64 / (*runs).max(1) as f64;
            let cells: Vec<String> =
                operations.iter().map(|(name, mark)| format!("{name:20} {:5.1}", share(mark))).collect();
            writeln!(out, "            {}", cells.join("   "))?;
        }
        let missed = self.missed_marks(1);
        match missed.as_slice() {
            [] => writeln!(out, "marks       none missed")?,
            missed => writeln!(out, "marks       {} missed: {}", missed.len(), missed.join(", "))?,
        }
        for (signature, Group { failures, cheapest }) in &self.groups {
            writeln!(out, "failure     {signature}: {failures} seeds, the cheapest is {}", cheapest.1)?;
            writeln!(out, "            {}", repro(cheapest.1))?;
        }
        Ok(())
    }

    /// The required marks that fewer seeds hit.
    pub fn missed_marks(&self, seeds: u64) -> Vec<&'static str> {
        let hit = |mark: &str| self.marks.get(mark).map_or(0, |hits| hits.seeds);
        crate::marks::REQUIRED.iter().copied().filter(|mark| hit(mark) < seeds).collect()
    }
}
