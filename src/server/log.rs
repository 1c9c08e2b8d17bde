//! The log lines operators and their scripts read: etcd's (zap's) JSON, or its console form, from `tracing` events.
//!
//! A line is one `write`, in full, to each output. Nothing here may wait for anything but that write, and a disabled
//! level costs one load of a static. Field names with dashes are string literals:
//! `tracing::info!("local-member-id" = %id, "started")`; a list or an object goes through [`json`]:
//! `tracing::info!("args" = ?log::json(&args), "Running: ")`. Events with target [`FATAL`] print as zap's `fatal`; the
//! target [`RAFT`] prints as the logger `raft`.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::calendar::Civil;

/// Target of an event that is zap's `fatal`: the last words before the process exits.
pub const FATAL: &str = "fatal";
/// Target of raft's own lines; etcd marks them with `"logger":"raft"`.
pub const RAFT: &str = "raft";

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Marks a `Debug` rendering that already is JSON; no text that people write starts with it.
const RAW_JSON: char = '\u{1}';

/// zap's levels, least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

/// How a line is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    /// systemd's journal, by its own socket.
    Journal,
    /// Appended to; made when it is not there.
    File(String),
}

/// What `--log-level`, `--log-format` and `--log-outputs` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
    pub outputs: Vec<LogOutput>,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: LogLevel::Info, format: LogFormat::Json, outputs: vec![LogOutput::Stderr] }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevel, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "info" | "" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            "panic" | "dpanic" => LogLevel::Panic,
            "fatal" => LogLevel::Fatal,
            _ => return Err(format!("unrecognized level: {text:?}")),
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "json" | "" => Ok(LogFormat::Json),
            "console" => Ok(LogFormat::Console),
            _ => Err(format!("unknown log format: {text}, supported values json, console")),
        }
    }
}

/// Starts logging for the whole process. Fails when an output cannot be opened; a second call changes nothing.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let sinks = config.outputs.iter().map(Sink::open).collect::<Result<Vec<_>, _>>()?;
    // The only failure is "already set": the logger that is there goes on.
    LEVEL.store(config.level as u8, Ordering::Relaxed);
    let _ = tracing::subscriber::set_global_default(Zap { format: config.format, sinks });
    Ok(())
}

/// Changes the level while the process runs. The line that says so is at home in the more talkative of the two.
pub fn set_level(level: LogLevel) {
    let say = || tracing::info!(level = level_name(level), "changed the log level");
    let is_talkative = LogLevel::now() <= LogLevel::Info;
    if is_talkative {
        say();
    }
    LEVEL.store(level as u8, Ordering::Relaxed);
    // Every place that logs keeps whether anybody listens.
    tracing::callsite::rebuild_interest_cache();
    if !is_talkative {
        say();
    }
}

/// A [`LogLevel`]: asked when a place logs for the first time, and again when it has changed.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

impl LogLevel {
    const ALL: [LogLevel; 6] = {
        use LogLevel::*;
        [Debug, Info, Warn, Error, Panic, Fatal]
    };

    fn now() -> LogLevel {
        LogLevel::ALL[usize::from(LEVEL.load(Ordering::Relaxed))]
    }
}

/// A value that appears in the line as JSON, not as a string: `"urls" = ?log::json(&urls)`.
pub fn json<T: Serialize + ?Sized>(value: &T) -> impl fmt::Debug + use<T> {
    RawJson(serde_json::to_string(value).unwrap_or_else(|e| format!("{:?}", e.to_string())))
}

struct RawJson(String);

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char(RAW_JSON)?;
        f.write_str(&self.0)
    }
}

enum Sink {
    Stderr,
    Stdout,
    File(Mutex<File>),
    Journal(UnixDatagram),
}

impl Sink {
    fn open(output: &LogOutput) -> Result<Sink, String> {
        match output {
            LogOutput::Stderr => Ok(Sink::Stderr),
            LogOutput::Stdout => Ok(Sink::Stdout),
            LogOutput::Journal => {
                let socket = UnixDatagram::unbound().and_then(|s| s.connect(JOURNAL_SOCKET).map(|()| s));
                socket.map(Sink::Journal).map_err(|e| {
                    format!("can't find journal (dial unixgram {JOURNAL_SOCKET}: connect: {})", errno_text(&e))
                })
            }
            LogOutput::File(path) => {
                let file = File::options().append(true).create(true).open(path);
                file.map(|f| Sink::File(Mutex::new(f)))
                    .map_err(|e| format!("couldn't open sink {path:?}: open {path}: {}", errno_text(&e)))
            }
        }
    }

    /// A line that cannot be written is dropped: there is nowhere left to say so.
    fn write(&self, line: &str, severity: LogLevel) {
        let _ = match self {
            Sink::Stderr => std::io::stderr().write_all(line.as_bytes()),
            Sink::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush())
            }
            Sink::File(file) => file.lock().write_all(line.as_bytes()),
            Sink::Journal(socket) => {
                let message = line.trim_end_matches('\n').replace('\n', " ");
                let entry = format!(
                    "PRIORITY={}\nSYSLOG_IDENTIFIER=lockstepd\nMESSAGE={message}\n",
                    match severity {
                        LogLevel::Debug => 7,
                        LogLevel::Info => 6,
                        LogLevel::Warn => 4,
                        LogLevel::Error => 3,
                        LogLevel::Panic | LogLevel::Fatal => 2,
                    }
                );
                socket.send(entry.as_bytes()).map(|_| ())
            }
        };
    }
}

/// What the operating system said, as Go words it: lower case, no error number.
pub fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => text.to_string(),
    }
}

struct Zap {
    format: LogFormat,
    sinks: Vec<Sink>,
}

impl Zap {
    fn wants(&self, meta: &Metadata<'_>) -> bool {
        // Below "warn" only our own lines: at "debug" the HTTP stack would drown them.
        let ours = meta.target().starts_with("lockstep") || matches!(meta.target(), FATAL | RAFT);
        meta.is_event() && severity(meta) >= LogLevel::now() && (ours || *meta.level() <= Level::WARN)
    }
}

impl Subscriber for Zap {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        if self.wants(meta) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, meta: &Metadata<'_>) -> bool {
        self.wants(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match LogLevel::now() {
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let meta = event.metadata();
        let mut line = Line { msg: String::new(), fields: String::new(), spaced: self.format == LogFormat::Console };
        event.record(&mut line);
        let severity = severity(meta);
        let level = level_name(severity);
        let ts = timestamp(SystemTime::now());
        let caller = caller(meta);
        let logger = if meta.target() == RAFT { Some(RAFT) } else { None };
        let text = match self.format {
            LogFormat::Json => {
                let mut out = format!("{{\"level\":\"{level}\",\"ts\":\"{ts}\"");
                if let Some(logger) = logger {
                    let _ = write!(out, ",\"logger\":\"{logger}\"");
                }
                let _ = write!(out, ",\"caller\":\"{caller}\",\"msg\":");
                push_json_string(&mut out, &line.msg);
                if !line.fields.is_empty() {
                    out.push(',');
                    out.push_str(&line.fields);
                }
                out.push_str("}\n");
                out
            }
            LogFormat::Console => {
                let logger = logger.map(|l| format!("\t{l}")).unwrap_or_default();
                let fields = if line.fields.is_empty() { String::new() } else { format!("\t{{{}}}", line.fields) };
                format!("{ts}\t{level}{logger}\t{caller}\t{}{fields}\n", line.msg)
            }
        };
        for sink in &self.sinks {
            sink.write(&text, severity);
        }
    }

    // There are no spans in these logs; dependencies that open some get one id for all.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn severity(meta: &Metadata<'_>) -> LogLevel {
    if meta.target() == FATAL {
        return LogLevel::Fatal;
    }
    match *meta.level() {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG | Level::TRACE => LogLevel::Debug,
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
    }
}

/// `folder/file.rs:line`, as zap's short caller.
fn caller(meta: &Metadata<'_>) -> String {
    let file = meta.file().unwrap_or("unknown");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[start..], meta.line().unwrap_or(0))
}

/// The message and the rendered fields of one event.
struct Line {
    msg: String,
    fields: String,
    spaced: bool,
}

impl Line {
    fn key(&mut self, field: &Field) {
        if !self.fields.is_empty() {
            self.fields.push_str(if self.spaced { ", " } else { "," });
        }
        push_json_string(&mut self.fields, field.name());
        self.fields.push_str(if self.spaced { ": " } else { ":" });
    }

    fn raw(&mut self, field: &Field, value: impl fmt::Display) {
        self.key(field);
        let _ = write!(self.fields, "{value}");
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.msg, "{value:?}");
            return;
        }
        let text = format!("{value:?}");
        match text.strip_prefix(RAW_JSON) {
            Some(json) => self.raw(field, json),
            None => self.record_str(field, &text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.msg.push_str(value);
            return;
        }
        self.key(field);
        push_json_string(&mut self.fields, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() { self.raw(field, value) } else { self.record_str(field, &value.to_string()) }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }
}

fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `2026-11-22T07:59:16.831Z`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (secs, millis) = (since.as_secs(), since.subsec_millis());
    format!("{}.{millis:03}Z", Civil::of_unix(secs as i64))
}
