//! One run from script to printed result: [`play`] lets the host run it and keeps what the commands print, as text for
//! people and as JSON for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use crate::host;
use crate::knobs::Knobs;
use crate::meter;
use crate::report::{Report, Verdict};
use crate::scenario::Scenario;
use crate::world::{Options, Script};

/// Lines of the trace's end that a failed run prints.
const TAIL_LINES: usize = 30;
/// Lines of context before a difference.
const BEFORE: usize = 3;

/// What to run. Other than a script it can be handed to another thread.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Seed {
        seed: u64,
        knobs: Box<Knobs>,
    },
    /// A scenario's text, which was parsed before without complaint.
    Text(String),
}

impl Source {
    pub fn seed(seed: u64, knobs: Knobs) -> Source {
        Source::Seed { seed, knobs: Box::new(knobs) }
    }
}

/// What to keep of a run beside its figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keep {
    pub trace: bool,
    /// For `play_with`: the report has the data of a picture.
    pub timeline: bool,
    /// The run as a scenario, with these lines above it.
    pub record: Option<Vec<String>>,
    /// The thread says where it is.
    pub watched: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub seed: Option<u64>,
    pub knobs: Knobs,
    pub trace_hash: String,
    pub trace_lines: u64,
    pub simulated_us: u64,
    pub events: u64,
    pub messages: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub refused: BTreeMap<&'static str, u64>,
    pub work: BTreeMap<String, u64>,
    pub acknowledged: u64,
    pub marks: BTreeMap<&'static str, u64>,
    pub verdict: Verdict,
    pub tail: String,
    /// Of the run's own thread.
    pub cpu: Duration,
    pub trace: Option<String>,
    pub record: Option<String>,
}

/// Runs it on a thread of its own; `bare`: outside of madsim in any build.
pub(crate) fn play(source: Source, options: Options, keep: Keep, bare: bool) -> Row {
    play_with(source, options, keep, bare, |_| ()).0
}

/// The same, with a look at the report, which does not leave its thread.
pub(crate) fn play_with<T: Send>(
    source: Source,
    options: Options,
    keep: Keep,
    bare: bool,
    look: impl FnOnce(&Report) -> T + Send,
) -> (Row, T) {
    host::fresh(move || {
        if keep.watched {
            meter::watch_this_thread();
        }
        let begin = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID);
        let options = Options { keep_trace: keep.trace, keep_timeline: keep.timeline, ..options };
        let script = match source {
            Source::Seed { seed, knobs } => Script::Seed { seed, knobs: *knobs },
            Source::Text(text) => Script::Scenario(Scenario::parse(&text).expect("it was parsed before")),
        };
        let report = if bare { host::run_bare(script, options) } else { host::run(script, options) };
        let cpu = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(begin);
        let looked = look(&report);
        let record = keep.record.map(|head| {
            let mut scenario = report.scenario;
            scenario.head = head;
            scenario.trace = Some(report.trace_hash.clone());
            scenario.to_string()
        });
        let row = Row {
            seed: report.seed,
            knobs: report.knobs,
            trace_hash: report.trace_hash,
            trace_lines: report.trace_lines,
            simulated_us: report.simulated_us,
            events: report.events,
            messages: report.messages,
            faults: report.faults,
            refused: report.refused,
            work: report.work,
            acknowledged: report.acknowledged,
            marks: report.marks,
            verdict: report.verdict,
            tail: report.trace_tail,
            cpu,
            trace: report.trace,
            record,
        };
        (row, looked)
    })
}

/// What this thread or this process has used of the processors.
pub(crate) fn cpu_time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, and the call writes nothing else.
    let code = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(code, 0, "every Unix since 2001 has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Row {
    /// For programs: these keys and no others.
    pub fn json(&self, repro: &str) -> String {
        let checker = match &self.verdict {
            Verdict::Ok => None,
            Verdict::Fail { checker, .. } | Verdict::Unknown { checker, .. } => Some(*checker),
        };
        json!({
            "seed": self.seed,
            "trace_hash": self.trace_hash,
            "faults": self.faults,
            "ops": self.acknowledged,
            "verdict": self.verdict.word(),
            "checker": checker,
            "repro": repro,
        })
        .to_string()
    }

    /// What struck, what was asked for, what came of it, and how to see it again.
    pub fn print(&self, out: &mut dyn Write, repro: &str) -> io::Result<()> {
        let simulated_s = self.simulated_us as f64 / 1e6;
        writeln!(out, "faults      {}", counts(self.faults.iter().map(|(kind, count)| (*kind, *count))))?;
        if !self.refused.is_empty() {
            let refused = counts(self.refused.iter().map(|(kind, count)| (*kind, *count)));
            writeln!(out, "refused     {refused} (more than the cluster could survive)")?;
        }
        let work = counts(self.work.iter().map(|(kind, count)| (kind.as_str(), *count)));
        // Nobody drew what a scenario's clients ask for.
        let of = if self.work.is_empty() { String::new() } else { format!(" of: {work}") };
        writeln!(out, "operations  {} acknowledged{of}", self.acknowledged)?;
        writeln!(
            out,
            "simulated   {simulated_s:.1} s in {:.2} s of CPU: {} events, {} messages",
            self.cpu.as_secs_f64(),
            self.events,
            self.messages
        )?;
        writeln!(out, "marks       {} of the rare situations", self.marks.len())?;
        writeln!(out, "trace       {} {} lines", self.trace_hash, self.trace_lines)?;
        self.print_verdict(out)?;
        writeln!(out, "again       {repro}")
    }

    pub fn print_verdict(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.verdict {
            Verdict::Ok => writeln!(out, "verdict     ok"),
            Verdict::Unknown { checker, story } => writeln!(out, "verdict     unknown: {checker}: {story}"),
            Verdict::Fail { checker, place, story } => {
                let skip = self.tail.lines().count().saturating_sub(TAIL_LINES);
                for line in self.tail.lines().skip(skip) {
                    writeln!(out, "  {line}")?;
                }
                writeln!(out, "verdict     fail: {checker}: {place}")?;
                story.lines().try_for_each(|line| writeln!(out, "            {line}"))
            }
        }
    }
}

/// `crash 3, pause 1`, or `none`.
fn counts<'a>(named: impl Iterator<Item = (&'a str, u64)>) -> String {
    let list: Vec<String> =
        named.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

/// Where two traces part.
#[derive(Debug)]
pub(crate) struct Difference<'a> {
    /// Counted from 1.
    pub line: usize,
    pub before: Vec<&'a str>,
    /// `None`: this one ends here.
    pub left: Option<&'a str>,
    pub right: Option<&'a str>,
}

pub(crate) fn first_difference<'a>(left: &'a str, right: &'a str) -> Option<Difference<'a>> {
    if left == right {
        return None;
    }
    let (mut lefts, mut rights) = (left.lines(), right.lines());
    let mut before = std::collections::VecDeque::new();
    for line in 1.. {
        let (left, right) = (lefts.next(), rights.next());
        if left != right || left.is_none() {
            return Some(Difference { line, before: before.into(), left, right });
        }
        if before.len() == BEFORE {
            before.pop_front();
        }
        before.extend(left);
    }
    None
}

impl Difference<'_> {
    pub fn print(&self, out: &mut dyn Write, left: &str, right: &str) -> io::Result<()> {
        let width = left.len().max(right.len());
        for line in &self.before {
            writeln!(out, "  {:width$}  {line}", "both")?;
        }
        for (name, line) in [(left, self.left), (right, self.right)] {
            writeln!(out, "  {name:width$}  {}", line.unwrap_or("(ends here)"))?;
        }
        Ok(())
    }
}
