//! The command line and the environment, read by Go's and etcd's rules: `-name x`, `--name=x`, `--flag`,
//! `--flag=false`.
//!
//! This file knows how flags are written, not what they do: that is the table in `defs.rs` and the checks in
//! `validate.rs`. It prints nothing and ends nothing; whoever calls it does.

use std::collections::BTreeMap;

use super::defs;
use super::value;

/// One flag, one place: how it is written, what it defaults to, whether it works, and the help that says so.
#[derive(Clone, Copy, Debug)]
pub struct FlagDef {
    pub name: &'static str,
    pub kind: Kind,
    /// etcd 3.7's default, as one would write it.
    pub default: &'static str,
    pub status: Status,
    pub help: &'static str,
}

/// What a flag's text must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    Uint,
    Uint32,
    Int,
    /// Go's `1h30m`.
    Duration,
    /// A comma-separated list of anything.
    List,
    /// A comma-separated list of URLs.
    Urls,
    /// The same, or `*`.
    Origins,
    OneOf(&'static [&'static str]),
    /// Flags of etcd 0.x and 2.x: accepted, whatever they say, with a warning.
    Ignored,
}

/// What happens when a flag is set to something other than its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Works,
    /// Its feature is not there: the start stops. The listed values ask for nothing, like the default.
    NotYet(&'static [&'static str]),
    /// Tunes something that this server does in another way, or that cannot be switched on: accepted.
    SafeNoOp,
    /// A later etcd took it away; says what to use in its place.
    Removed(&'static str),
}

/// Why a start stops before there is a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `--help`: usage on stderr, the flags on stdout, exit 0.
    Help,
    /// `--version`: on stdout, exit 0.
    Version,
    /// A malformed command line: this and the usage on stderr, exit 2.
    Usage(String),
    /// An environment variable that a flag shadows: a fatal log line, exit 1.
    Shadowed(String),
    /// Everything else: a log line, exit 1.
    Refused(String),
}

/// A line that is logged once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    UnrecognizedEnv(String),
    UsedEnv {
        name: String,
        value: String,
    },
    SpecialEnv {
        key: String,
        value: String,
    },
    Ignored(String),
    NoEffect(String),
    DataDirDefault(String),
    DetectedHost(String),
    /// `--max-request-bytes` above what etcd recommends.
    LargeRequests(u64),
}

/// The flags that were set, by name, and who set them.
#[derive(Clone, Debug, Default)]
pub struct FlagSet {
    values: BTreeMap<&'static str, (String, Source)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    CommandLine,
    Environment,
}

impl FlagSet {
    /// Reads a command line (without the program's name) the way Go's `flag` package does.
    pub fn parse(args: &[String]) -> Result<FlagSet, Stop> {
        let mut set = FlagSet::default();
        let mut args = args.iter();
        let mut positional = None;
        while let Some(arg) = args.next() {
            let Some(body) = arg.strip_prefix('-').filter(|b| !b.is_empty()) else {
                positional = Some(arg);
                break;
            };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() {
                positional = args.next();
                break;
            }
            if body.starts_with(['-', '=']) {
                return Err(Stop::Usage(format!("bad flag syntax: {arg}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some(def) = defs::find(name) else {
                return Err(match name {
                    "help" | "h" => Stop::Help,
                    _ => Stop::Usage(format!("flag provided but not defined: -{name}")),
                });
            };
            let value = match (def.kind, value) {
                (_, Some(value)) => value,
                (Kind::Bool | Kind::Ignored, None) => "true",
                (_, None) => args.next().ok_or_else(|| Stop::Usage(format!("flag needs an argument: -{name}")))?,
            };
            value::check(def.kind, value).map_err(|e| {
                Stop::Usage(match def.kind {
                    Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {e}"),
                    _ => format!("invalid value {value:?} for flag -{name}: {e}"),
                })
            })?;
            set.values.insert(def.name, (value.to_string(), Source::CommandLine));
        }
        match positional {
            Some(arg) => Err(Stop::Refused(format!("'{arg}' is not a valid flag"))),
            None => Ok(set),
        }
    }

    /// Adds what `ETCD_*` variables say: never over a flag (that is an error), an empty one counts as absent.
    pub fn merge_env(&mut self, env: &[(String, String)]) -> Result<Vec<Note>, Stop> {
        let mut notes = Vec::new();
        let mut used = BTreeMap::new();
        let mut refused = None;
        for def in defs::by_name() {
            let name = env_name(def.name);
            let Some((_, value)) = env.iter().find(|(key, value)| *key == name && !value.is_empty()) else { continue };
            if def.name == "version" {
                notes.push(Note::SpecialEnv { key: name.clone(), value: value.clone() });
                used.insert(name, ());
                continue;
            }
            if self.is_set(def.name) {
                continue;
            }
            // As etcd: every variable is read, and the last complaint is the one that is told.
            match value::check(def.kind, value) {
                Ok(()) => {
                    self.values.insert(def.name, (value.clone(), Source::Environment));
                    let secret = def.name.ends_with("password") || def.name == "discovery-user";
                    let value = if secret { "***".to_string() } else { value.clone() };
                    notes.push(Note::UsedEnv { name: name.clone(), value });
                }
                Err(e) => refused = Some(format!("invalid value {value:?} for {name}: {e}")),
            }
            used.insert(name, ());
        }
        for (key, value) in env {
            let shadowed = self.values.iter().any(|(n, (_, s))| *s == Source::CommandLine && env_name(n) == *key);
            if shadowed {
                return Err(Stop::Shadowed(key.clone()));
            }
            if key.starts_with("ETCD_") && !used.contains_key(key) {
                notes.push(Note::UnrecognizedEnv(format!("{key}={value}")));
            }
        }
        match refused {
            Some(error) => Err(Stop::Refused(error)),
            None => Ok(notes),
        }
    }

    /// Stops a start that asks for what is not there; names the flags that have no effect.
    pub fn check_supported(&self) -> Result<Vec<Note>, Stop> {
        let mut notes = Vec::new();
        for (name, (value, source)) in &self.values {
            let Some(def) = defs::find(name) else { continue };
            let at_default = value::same(def.kind, value, def.default);
            let how = match source {
                Source::CommandLine => "on the command line".to_string(),
                Source::Environment => format!("as {}", env_name(name)),
            };
            match def.status {
                _ if def.kind == Kind::Ignored => notes.push(Note::Ignored(name.to_string())),
                Status::NotYet(harmless) if !at_default && !harmless.contains(&value.as_str()) => {
                    let default = if def.default.is_empty() { "unset" } else { def.default };
                    return Err(Stop::Refused(format!(
                        "\"--{name}\" is not supported yet: it was given {how}; leave it at its default ({default})"
                    )));
                }
                Status::Removed(instead) if !at_default => {
                    return Err(Stop::Refused(format!("\"--{name}\" was removed from etcd, {instead}")));
                }
                Status::SafeNoOp if !at_default => notes.push(Note::NoEffect(name.to_string())),
                _ => {}
            }
        }
        Ok(notes)
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value in effect, as text.
    ///
    /// # Panics
    /// When the table has no such flag: a mistake in this program.
    pub fn text(&self, name: &str) -> &str {
        let set = self.values.get(name).or_else(|| defs::former_names(name).find_map(|name| self.values.get(name)));
        match set {
            Some((value, _)) => value,
            None => defs::find(name).unwrap_or_else(|| panic!("no flag --{name} in the table")).default,
        }
    }

    /// The value in effect of a flag of kind `Bool`; every value in the set has passed its check.
    pub fn bool(&self, name: &str) -> bool {
        value::parse_bool(self.text(name)).unwrap_or_default()
    }

    pub fn u64(&self, name: &str) -> u64 {
        value::parse_u64(self.text(name)).unwrap_or_default()
    }

    /// A duration in milliseconds, negative ones as 0.
    pub fn duration_ms(&self, name: &str) -> u64 {
        let ns = value::parse_duration_ns(self.text(name)).unwrap_or_default();
        u64::try_from(ns / 1_000_000).unwrap_or(0)
    }

    /// A comma-separated list, sorted, each entry once.
    pub fn list(&self, name: &str) -> Vec<String> {
        let mut list: Vec<String> = self.text(name).split(',').map(str::to_string).collect();
        list.sort();
        list.dedup();
        list
    }
}

/// `listen-client-urls` -> `ETCD_LISTEN_CLIENT_URLS`.
pub fn env_name(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}
