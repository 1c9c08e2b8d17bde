//! The program `lockstep-sim`: one command a file.
//!
//! This is the world outside: it reads and writes files, has a clock, starts threads and processes. Nothing here may
//! reach into a running world; it makes a script, lets [`crate::host`] run it, and looks at the report.
//!
//! Results go to stdout, progress and complaints to stderr. The exit code is 0 when everything passed, 1 when something
//! failed, 2 when the program could not do what it was asked to: a wrong option, an unreadable file.

mod bench;
mod check;
mod coverage;
mod explain;
mod mutants;
mod options;
mod output;
mod pool;
mod progress;
mod replay;
mod run;
mod save;
mod shrink;
mod swarm;
mod tally;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// The whole program; `commit` is the source's, when the build knew it.
pub fn main(commit: Option<&'static str>) -> ExitCode {
    let (mut out, mut err) = (io::BufWriter::new(io::stdout()), io::stderr());
    let terminal = err.is_terminal();
    let program = std::env::current_exe().ok();
    let mut console = Console { out: &mut out, err: &mut err, terminal, program, commit };
    let code = console.run(std::env::args_os());
    ExitCode::from(code as u8)
}

/// The program inside of another: `args` without the program's name. It starts no other process, so `check` leaves out
/// what needs one.
pub fn main_with<A: Into<OsString>>(
    args: impl IntoIterator<Item = A>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> i32 {
    let args = std::iter::once(OsString::from("lockstep-sim")).chain(args.into_iter().map(Into::into));
    Console { out, err, terminal: false, program: None, commit: None }.run(args)
}

#[derive(Parser)]
#[command(
    name = "lockstep-sim",
    version,
    about = "Whole clusters of Lockstep from one seed: faults, checkers, records, pictures",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one seed and say what came of it
    Run(run::Args),
    /// Run many seeds, group and save the failures
    Swarm(swarm::Args),
    /// Run seeds several times, in several processes, and compare every event
    Check(check::Args),
    /// Play a scenario, drawing nothing
    Replay(replay::Args),
    /// Make a failing scenario as small as it can be
    Shrink(shrink::Args),
    /// Draw a scenario's run as a picture
    Explain(explain::Args),
    /// Show that each deliberate bug is found by the checker that should find it
    Mutants(mutants::Args),
    /// Count which rare situations the seeds reach
    Coverage(coverage::Args),
    /// Measure how fast worlds run, and where the time goes
    Bench(bench::Args),
}

/// Where a command says what it has to say.
pub(crate) struct Console<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    /// Whether stderr is a terminal, which has progress bars.
    pub terminal: bool,
    /// This program, to start it once more.
    pub program: Option<PathBuf>,
    pub commit: Option<&'static str>,
}

/// Why a command could not be carried out.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What was asked for is wrong: one line.
    Usage(String),
    /// Nobody reads the output any more.
    Unread,
}

/// Whether everything passed.
pub(crate) type Outcome = Result<bool, Trouble>;

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Trouble::Unread,
            _ => Trouble::Usage(format!("cannot write the results: {error}")),
        }
    }
}

impl Console<'_> {
    /// As the reports of runs begin.
    pub fn version(&self) -> String {
        let commit = self.commit.map_or_else(String::new, |commit| format!(" ({commit})"));
        format!("lockstep-sim {}{commit}", lockstep::VERSION)
    }

    /// The comments above a recorded scenario.
    pub fn record_head(&self, repro: &str) -> Vec<String> {
        vec![format!("recorded by {} from: {repro}", self.version())]
    }

    fn run(&mut self, args: impl Iterator<Item = OsString>) -> i32 {
        let outcome = match Cli::try_parse_from(args) {
            Ok(cli) => self.command(cli.command),
            Err(error) => self.refused(&error),
        };
        let outcome = outcome.and_then(|passed| self.out.flush().map(|()| passed).map_err(Trouble::from));
        match outcome {
            Ok(passed) => i32::from(!passed),
            Err(Trouble::Unread) => 1,
            Err(Trouble::Usage(message)) => {
                let _ = self.out.flush();
                let _ = writeln!(self.err, "lockstep-sim: {message}");
                2
            }
        }
    }

    fn command(&mut self, command: Command) -> Outcome {
        match command {
            Command::Run(args) => run::run(self, args),
            Command::Swarm(args) => swarm::run(self, args),
            Command::Check(args) => check::run(self, args),
            Command::Replay(args) => replay::run(self, args),
            Command::Shrink(args) => shrink::run(self, args),
            Command::Explain(args) => explain::run(self, args),
            Command::Mutants(args) => mutants::run(self, args),
            Command::Coverage(args) => coverage::run(self, args),
            Command::Bench(args) => bench::run(self, args),
        }
    }

    /// What the parser of options has to say: help is a result, everything else one line.
    fn refused(&mut self, error: &clap::Error) -> Outcome {
        let text = error.to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                write!(self.out, "{text}")?;
                Ok(true)
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(Trouble::Usage(
                "a command is missing: run, swarm, check, replay, shrink, explain, mutants, coverage, bench or help"
                    .to_owned(),
            )),
            _ => {
                let story = text.split("\n\nUsage:").next().unwrap_or_default();
                let story = story.split("\n\nFor more information").next().unwrap_or_default();
                let story = story.strip_prefix("error: ").unwrap_or(story);
                let line = story.split_whitespace().collect::<Vec<_>>().join(" ");
                Err(Trouble::Usage(format!("{line}; `lockstep-sim help` lists commands and options")))
            }
        }
    }
}
