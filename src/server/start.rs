//! From the words a process was started with to its exit code: what `main` of the server is.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::config::{self, Failed, Loaded, Note, Stop, help};
use super::log::{self, FATAL, LogConfig};

/// Reads flags and variables, starts the log, runs the member.
pub fn main(args: impl Iterator<Item = OsString>, env: impl Iterator<Item = (OsString, OsString)>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let Ok(args) = args.into_iter().map(OsString::into_string).collect::<Result<Vec<String>, _>>() else {
        eprintln!("cannot read the command line: an argument is not valid UTF-8");
        return ExitCode::from(2);
    };
    let env: Vec<(String, String)> =
        env.map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect();
    let program = args.first().map_or("lockstepd", |arg| program_name(arg));
    let Loaded { config, notes } = match config::load(args.get(1..).unwrap_or_default(), &env) {
        Ok(loaded) => loaded,
        Err(failed) => return refuse(program, &args, *failed),
    };
    if let Err(error) = log::init(&config.log) {
        return refuse(program, &args, Failed { stop: Stop::Refused(error), notes });
    }
    tracing::info!("args" = ?log::json(&args), "Running: ");
    tell(&notes);
    match super::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(target: FATAL, error, "failed to start etcd");
            ExitCode::FAILURE
        }
    }
}

/// A start that goes no further says so on stderr, wherever the log was to go.
fn refuse(program: &str, args: &[String], failed: Failed) -> ExitCode {
    let (code, out, err) = match failed.stop {
        Stop::Help => (0, help::flags(), help::usage(program)),
        Stop::Version => (0, help::version(), String::new()),
        Stop::Usage(error) => (2, String::new(), format!("{error}\n{}", help::usage(program))),
        Stop::Shadowed(variable) => {
            let _ = log::init(&LogConfig::default());
            tell(&failed.notes);
            tracing::error!(
                target: FATAL,
                { "environment-variable" = variable },
                "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                 environment variable or disable flag))"
            );
            (1, String::new(), String::new())
        }
        Stop::Refused(error) => {
            let _ = log::init(&LogConfig::default());
            tell(&failed.notes);
            tracing::info!("args" = ?log::json(args), "Running: ");
            tracing::warn!(error, "failed to verify flags");
            (1, String::new(), String::new())
        }
    };
    // A reader that went away (`lockstepd --help | head`) is no failure.
    let _ = std::io::stderr().write_all(err.as_bytes());
    let _ = std::io::stdout().write_all(out.as_bytes());
    ExitCode::from(code)
}

fn tell(notes: &[Note]) {
    for note in notes {
        match note {
            Note::UnrecognizedEnv(text) => {
                tracing::warn!("environment-variable" = text.as_str(), "unrecognized environment variable");
            }
            Note::UsedEnv { name, value } => tracing::info!(
                "variable-name" = name.as_str(),
                "variable-value" = value.as_str(),
                "recognized and used environment variable"
            ),
            Note::SpecialEnv { key, value } => {
                tracing::warn!(key = key.as_str(), value = value.as_str(), "cannot set special environment variable")
            }
            Note::Ignored(flag) => {
                tracing::warn!(flag = flag.as_str(), "flag is no longer supported - ignoring");
            }
            Note::NoEffect(flag) => tracing::warn!(flag = flag.as_str(), "flag is accepted and has no effect here"),
            Note::DataDirDefault(dir) => {
                tracing::warn!("data-dir" = dir.as_str(), "'data-dir' was empty; using default");
            }
            Note::LargeRequests(bytes) => tracing::warn!(
                "max-request-bytes" = bytes,
                "recommended-request-bytes" = config::RECOMMENDED_REQUEST_BYTES,
                "exceeded recommended request limit"
            ),
            Note::DetectedHost(host) => {
                tracing::info!(host = host.as_str(), "detected default host for advertise");
            }
        }
    }
}

fn program_name(arg: &str) -> &str {
    Path::new(arg).file_name().and_then(|name| name.to_str()).unwrap_or("lockstepd")
}
