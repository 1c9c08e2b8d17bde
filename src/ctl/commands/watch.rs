//! `watch`: what happens to keys, as it happens; from a line of the shell, or (`-i`) from lines of standard input.

use std::io::{BufRead, Read};

use lockstep_proto::etcdserverpb::WatchCreateRequest;
use lockstep_proto::mvccpb::event::EventType;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::txn_text::words;
use super::widen;
use crate::ctl::client::{Client, runtime};
use crate::ctl::exec::{self, Variables};
use crate::ctl::flags::{Flag, Flags, Kind, flag, flag_short};
use crate::ctl::golang::quote;
use crate::ctl::printer::Printer;
use crate::ctl::watch::{Watched, Watches};
use crate::ctl::{Context, Failure, code, emit_live, say_error};

pub static FLAGS: &[Flag] = &[
    flag_short("interactive", 'i', Kind::Bool, "false", "read watches from standard input, a line each"),
    flag("prefix", Kind::Bool, "false", "watch every key that begins with the given one"),
    flag("rev", Kind::Int, "0", "the revision to begin at"),
    flag("prev-kv", Kind::Bool, "false", "show the key-value pair from before each event"),
    flag("progress-notify", Kind::Bool, "false", "show the server's regular notes of how far the watch is"),
];

pub static LONG: &str = "Prints the events of a key, of the range [key, range_end) or of a prefix.

With a command after '--', it is run for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE,
ETCD_WATCH_KEY and ETCD_WATCH_VALUE in its environment:

$ watch foo -- sh -c 'echo \"$ETCD_WATCH_KEY\"'

ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END stand for the arguments that are not given.

With --interactive the lines of standard input are watches, or 'progress' to ask how far all of them are:

$ watch -i
watch foo
watch bar --prefix -- echo an event
progress
";

/// Variables that are no flags; etcdctl knows them here only.
static VARIABLES: [Flag; 2] =
    [flag("watch-key", Kind::Text, "", "the key"), flag("watch-range-end", Kind::Text, "", "the end of the range")];

/// No line is longer: two keys and a command, with escapes.
const LINE_BYTES_MAX: u64 = 8 << 20;

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let ranges = ranges_of_environment()?;
    context.printer.live = true;
    context.flags.know_variables(&VARIABLES);
    context.inherited.extend(&VARIABLES);
    if context.flags.bool("interactive") {
        let client = Client::open(context)?;
        return runtime().block_on(interactive(&client, &context.printer, &ranges));
    }
    let asked = Asked::read(&context.flags, &ranges)?;
    if !ranges.is_empty() && context.flags.before_dash.unwrap_or(context.flags.args.len()) > 0 {
        return Err(bad_args("bad number of arguments (found conflicting environment key)"));
    }
    // Without a word at all it does not even look at the environment.
    if asked.keys.is_empty() && asked.command.is_none() {
        return Err(bad_args("bad number of arguments"));
    }
    let client = Client::open(context)?;
    let request = asked.request(&context.flags).map_err(bad_args)?;
    runtime().block_on(async {
        let watches = Watches::of(&client);
        print(watches.watch(request), &context.printer, asked.command.as_deref()).await
    })?;
    Err(Failure::new(code::INTERRUPTED, "watch is canceled by the server"))
}

/// What `ETCDCTL_WATCH_KEY` and `ETCDCTL_WATCH_RANGE_END` ask for.
fn ranges_of_environment() -> Result<Vec<Vec<u8>>, Failure> {
    use std::os::unix::ffi::OsStringExt;
    let variable = |name| std::env::var_os(name).map(OsStringExt::into_vec).filter(|value| !value.is_empty());
    match (variable("ETCDCTL_WATCH_KEY"), variable("ETCDCTL_WATCH_RANGE_END")) {
        (None, Some(end)) => {
            let end = quote(&end);
            Err(bad_args(format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}")))
        }
        (key, end) => Ok(key.into_iter().chain(end).collect()),
    }
}

/// The words of a watch: its key and range end, and the command to run.
struct Asked {
    keys: Vec<Vec<u8>>,
    command: Option<Vec<Vec<u8>>>,
}

impl Asked {
    fn read(flags: &Flags, ranges: &[Vec<u8>]) -> Result<Asked, Failure> {
        let (keys, command) = flags.args.split_at(flags.before_dash.unwrap_or(flags.args.len()));
        if flags.before_dash.is_some() && command.is_empty() {
            return Err(bad_args("bad number of arguments (found separator --, but no commands)"));
        }
        Ok(Asked { keys: [ranges, keys].concat(), command: flags.before_dash.map(|_| command.to_vec()) })
    }

    fn request(&self, flags: &Flags) -> Result<WatchCreateRequest, &'static str> {
        let prefix = flags.bool("prefix");
        // As in etcdctl, what follows a key and its end is passed over.
        let (key, end) = match self.keys.as_slice() {
            [] => return Err("bad number of arguments"),
            [_, _] if prefix => return Err("`range_end` and `--prefix` are mutually exclusive"),
            [key, end] => (key, Some(end.as_slice())),
            [key, ..] => (key, None),
        };
        let (key, range_end) = widen(key, end, prefix, false);
        Ok(WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: flags.int("rev"),
            progress_notify: flags.bool("progress-notify"),
            prev_kv: flags.bool("prev-kv"),
            ..Default::default()
        })
    }
}

async fn interactive(client: &Client, printer: &Printer, ranges: &[Vec<u8>]) -> Result<(), Failure> {
    let watches = Watches::of(client);
    let mut lines = lines_of_stdin();
    let (failures, mut failed) = mpsc::unbounded_channel();
    loop {
        let line = tokio::select! {
            Some(failure) = failed.recv() => return Err(failure),
            Some(line) = lines.recv() => line,
        };
        let line =
            line.map_err(|why| Failure::new(code::INVALID_INPUT, format!("error reading watch request line: {why}")))?;
        let shown = String::from_utf8_lossy(&line);
        let words = words(&line)?;
        match words.first().map(Vec::as_slice) {
            None => say_error(&format!("Invalid command: {shown} (watch and progress supported)")),
            Some(b"watch") if words.len() < 2 && ranges.is_empty() => {
                say_error(&format!("Invalid command {shown} (command type or key is not provided)"));
            }
            Some(b"watch") => {
                let (asked, flags) = read_line(&words[1..], ranges)?;
                let request = match asked.request(&flags) {
                    Ok(request) => request,
                    Err(why) => {
                        say_error(&format!("Invalid command {shown} ({why})"));
                        continue;
                    }
                };
                let (watched, printer, failures) = (watches.watch(request), printer.clone(), failures.clone());
                tokio::spawn(async move {
                    if let Err(failure) = print(watched, &printer, asked.command.as_deref()).await {
                        let _ = failures.send(failure);
                    }
                });
            }
            Some(b"progress") => watches.request_progress(),
            Some(_) => say_error(&format!("Invalid command {shown} (only support watch)")),
        }
    }
}

/// One line's words after `watch`.
fn read_line(words: &[Vec<u8>], ranges: &[Vec<u8>]) -> Result<(Asked, Flags), Failure> {
    let mut flags = Flags::new(&[FLAGS]);
    // As in etcdctl, a separator without a command comes before whatever else may be wrong.
    if words.iter().position(|word| word == b"--").is_some_and(|at| at + 1 == words.len()) {
        return Err(bad_args("bad number of arguments (found separator --, but no commands)"));
    }
    flags.parse(words).map_err(bad_args)?;
    if flags.bool("help") {
        return Err(bad_args("pflag: help requested"));
    }
    if flags.before_dash.is_none() && flags.args.is_empty() == ranges.is_empty() {
        let conflict = if ranges.is_empty() { "" } else { " (found conflicting environment key)" };
        return Err(bad_args(format!("bad number of arguments{conflict}")));
    }
    Ok((Asked::read(&flags, ranges)?, flags))
}

/// The lines of standard input, read on a thread that may wait; an error, or the end, is the last.
fn lines_of_stdin() -> UnboundedReceiver<Result<Vec<u8>, String>> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let line = match read {
                Err(why) => Err(why.to_string()),
                Ok(_) if line.pop_if(|byte| *byte == b'\n').is_some() => Ok(line),
                Ok(_) if line.len() as u64 == LINE_BYTES_MAX => Err("line too long".into()),
                Ok(_) => Err("EOF".into()),
            };
            let is_last = line.is_err();
            if sender.send(line).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

/// Prints what a watch delivers, to its end.
async fn print(
    mut watched: UnboundedReceiver<Watched>,
    printer: &Printer,
    command: Option<&[Vec<u8>]>,
) -> Result<(), Failure> {
    while let Some(watched) = watched.recv().await {
        if watched.canceled {
            say_error(&format!("watch was canceled ({})", watched.error.as_deref().unwrap_or("<nil>")));
        }
        if watched.is_progress_notify() {
            emit_live(format!("progress notify: {}\n", watched.header.revision).as_bytes());
        }
        printer.watch(&watched)?;
        let Some(command) = command else { continue };
        for event in &watched.events {
            let kv = event.kv.clone().unwrap_or_default();
            let kind = if event.r#type() == EventType::Put { "\"PUT\"" } else { "\"DELETE\"" };
            let variables = vec![
                ("ETCD_WATCH_REVISION", watched.header.revision.to_string()),
                ("ETCD_WATCH_EVENT_TYPE", kind.to_string()),
                ("ETCD_WATCH_KEY", quote(&kv.key)),
                ("ETCD_WATCH_VALUE", quote(&kv.value)),
            ];
            if let Err(ended) = exec::run(command, variables, Variables::Replace).await {
                let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
                say_error(&format!("command [{}] error ({})", words.join(" "), ended.text));
                return Err(Failure::silent(code::ERROR));
            }
        }
    }
    Ok(())
}

fn bad_args(text: impl Into<String>) -> Failure {
    Failure::new(code::BAD_ARGS, text)
}
