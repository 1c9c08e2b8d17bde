//! Flags as pflag reads them, and the environment as etcd reads it. One flag, one place: name, kind, default and help
//! are a row of a table beside the command that owns it.
//!
//! Values stay bytes: a key is whatever the shell handed over. Error texts are pflag's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::golang::{format_duration, json_string, now_epoch, parse_bool, parse_duration, parse_int, quote};
use super::{Failure, say_error};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Int,
    Duration,
    /// Comma-separated, may be given several times.
    List,
}

/// One flag of a command.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    pub help: &'static str,
}

/// A row of a command's flag table.
pub const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, kind, default, help }
}

/// A row whose flag has a one-letter form as well.
pub const fn flag_short(
    name: &'static str,
    short: char,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, short: Some(short), kind, default, help }
}

impl Flag {
    /// How the flag is called in an error about its value.
    fn title(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }

    /// The flag's environment variable.
    pub fn variable(&self) -> String {
        format!("ETCDCTL_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Bool(bool),
    Text(Vec<u8>),
    Int(i64),
    Duration(i64),
    List(Vec<Vec<u8>>),
}

impl Value {
    fn parse(kind: Kind, text: &[u8]) -> Result<Value, String> {
        Ok(match kind {
            Kind::Bool => Value::Bool(parse_bool(text)?),
            Kind::Text => Value::Text(text.to_vec()),
            Kind::Int => Value::Int(parse_int(text, 0)?),
            Kind::Duration => Value::Duration(parse_duration(&String::from_utf8_lossy(text))?),
            Kind::List => Value::List(split_csv(text)?),
        })
    }

    fn show(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Text(value) => String::from_utf8_lossy(value).into_owned(),
            Value::Int(value) => value.to_string(),
            Value::Duration(value) => format_duration(*value),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(|item| String::from_utf8_lossy(item)).collect();
                format!("[{}]", items.join(","))
            }
        }
    }
}

/// The flags one command knows, with the values they have now, and the arguments that were no flags.
#[derive(Debug)]
pub struct Flags {
    known: Vec<&'static Flag>,
    values: BTreeMap<&'static str, Value>,
    changed: BTreeMap<&'static str, bool>,
    pub args: Vec<Vec<u8>>,
    /// How many of them came before a `--`, if there was one.
    pub before_dash: Option<usize>,
}

impl Flags {
    /// The defaults of these tables. `-h, --help` is known everywhere.
    pub fn new(tables: &[&'static [Flag]]) -> Flags {
        let mut flags = Flags {
            known: Vec::new(),
            values: BTreeMap::new(),
            changed: BTreeMap::new(),
            args: Vec::new(),
            before_dash: None,
        };
        for flag in tables.iter().flat_map(|table| table.iter()).chain([&HELP]) {
            let value = Value::parse(flag.kind, flag.default.as_bytes()).expect("a flag's default parses");
            flags.values.insert(flag.name, value);
            flags.known.push(flag);
        }
        flags
    }

    /// Flags that only the environment can set.
    pub fn know_variables(&mut self, flags: &'static [Flag]) {
        for flag in flags {
            self.values.insert(flag.name, Value::Text(flag.default.into()));
        }
    }

    /// Reads a command line: flags and arguments in any order, everything after `--` is an argument.
    pub fn parse(&mut self, args: &[Vec<u8>]) -> Result<(), String> {
        let mut rest = args;
        while let Some((arg, tail)) = rest.split_first() {
            rest = tail;
            if arg.as_slice() == b"--" {
                self.before_dash = Some(self.args.len());
                self.args.extend_from_slice(rest);
                return Ok(());
            }
            if arg.starts_with(b"--") {
                self.long(arg, &mut rest)?;
            } else if arg.len() > 1 && arg[0] == b'-' {
                self.short(&arg[1..], &mut rest)?;
            } else {
                self.args.push(arg.clone());
            }
        }
        Ok(())
    }

    fn long(&mut self, arg: &[u8], rest: &mut &[Vec<u8>]) -> Result<(), String> {
        let body = &arg[2..];
        if body.starts_with(b"-") || body.starts_with(b"=") {
            return Err(format!("bad flag syntax: {}", String::from_utf8_lossy(arg)));
        }
        let equals = body.iter().position(|&b| b == b'=');
        let name = String::from_utf8_lossy(&body[..equals.unwrap_or(body.len())]).into_owned();
        let Some(flag) = self.known.iter().copied().find(|flag| flag.name == name) else {
            return Err(format!("unknown flag: --{name}"));
        };
        match equals {
            Some(at) => self.set(flag, &body[at + 1..]),
            None if flag.kind == Kind::Bool => self.set(flag, b"true"),
            None => match take(rest) {
                Some(value) => self.set(flag, &value),
                None => Err(format!("flag needs an argument: --{name}")),
            },
        }
    }

    fn short(&mut self, mut letters: &[u8], rest: &mut &[Vec<u8>]) -> Result<(), String> {
        while let Some((&letter, tail)) = letters.split_first() {
            let shown = String::from_utf8_lossy(letters);
            let Some(flag) = self.known.iter().copied().find(|flag| flag.short == Some(letter as char)) else {
                return Err(format!("unknown shorthand flag: {:?} in -{shown}", letter as char));
            };
            if let Some(value) = tail.strip_prefix(b"=") {
                return self.set(flag, value);
            }
            if flag.kind != Kind::Bool {
                return match if tail.is_empty() { take(rest) } else { Some(tail.to_vec()) } {
                    Some(value) => self.set(flag, &value),
                    None => Err(format!("flag needs an argument: {:?} in -{shown}", letter as char)),
                };
            }
            self.set(flag, b"true")?;
            letters = tail;
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, text: &[u8]) -> Result<(), String> {
        let value = Value::parse(flag.kind, text)
            .map_err(|why| format!("invalid argument {} for \"{}\" flag: {why}", quote(text), flag.title()))?;
        // The first list replaces the default, later ones add to it.
        match (self.values.get_mut(flag.name), value) {
            (Some(Value::List(old)), Value::List(new)) if self.changed.contains_key(flag.name) => old.extend(new),
            (_, value) => {
                self.values.insert(flag.name, value);
            }
        }
        self.changed.insert(flag.name, true);
        Ok(())
    }

    /// Fills the `inherited` flags that the command line left alone from `ETCDCTL_*`. A variable for a flag that was
    /// given is an error, a variable of no flag is a warning, a value that does not parse is passed over: etcd's rules.
    pub fn fill_from_environment(
        &mut self,
        inherited: &[&'static Flag],
        environment: &[(OsString, OsString)],
    ) -> Result<(), Failure> {
        let given: Vec<String> =
            inherited.iter().filter(|flag| self.changed(flag.name)).map(|flag| flag.variable()).collect();
        let mut used = Vec::new();
        for flag in inherited {
            let variable = flag.variable();
            if given.contains(&variable) {
                continue;
            }
            let value = environment.iter().rev().find(|(name, _)| name.as_bytes() == variable.as_bytes());
            if let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()) {
                let _ = self.set(flag, value.as_bytes());
                used.push(variable);
            }
        }
        for (name, value) in environment {
            let name = String::from_utf8_lossy(name.as_bytes());
            if used.iter().any(|used| *used == name) {
                continue;
            }
            if given.iter().any(|given| *given == name) {
                return Err(Failure::logged(zap_line(
                    "fatal",
                    "flags/flag.go:85",
                    "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                     environment variable or disable flag))",
                    &name,
                )));
            }
            if name.starts_with("ETCDCTL_") {
                let pair = format!("{name}={}", String::from_utf8_lossy(value.as_bytes()));
                say_error(&zap_line("warn", "flags/flag.go:93", "unrecognized environment variable", &pair));
            }
        }
        Ok(())
    }

    /// `ETCDCTL_NAME=value` of every inherited flag, as `--debug` shows it.
    pub fn show(&self, inherited: &[&'static Flag]) -> Vec<String> {
        let mut flags = inherited.to_vec();
        flags.sort_by_key(|flag| flag.name);
        flags.iter().map(|flag| format!("{}={}", flag.variable(), self.values[flag.name].show())).collect()
    }

    pub fn changed(&self, name: &str) -> bool {
        self.changed.contains_key(name)
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        match self.value(name) {
            Value::Text(text) => text,
            other => panic!("--{name} is no text: {other:?}"),
        }
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.bytes(name)).into_owned()
    }

    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(value) => *value,
            other => panic!("--{name} is no number: {other:?}"),
        }
    }

    /// In nanoseconds; negative is possible.
    pub fn duration(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Duration(ns) => *ns,
            other => panic!("--{name} is no duration: {other:?}"),
        }
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(items) => items.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect(),
            other => panic!("--{name} is no list: {other:?}"),
        }
    }

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).unwrap_or_else(|| panic!("--{name} is not in this command's table"))
    }
}

static HELP: Flag = flag_short("help", 'h', Kind::Bool, "false", "show this help");

/// The words of a command line as bytes.
pub fn to_bytes(args: impl IntoIterator<Item = OsString>) -> Vec<Vec<u8>> {
    args.into_iter().map(OsStringExt::into_vec).collect()
}

fn take(rest: &mut &[Vec<u8>]) -> Option<Vec<u8>> {
    let (value, tail) = rest.split_first()?;
    *rest = tail;
    Some(value.clone())
}

fn zap_line(level: &str, caller: &str, message: &str, variable: &str) -> String {
    let (message, variable) = (json_string(message.as_bytes()), json_string(variable.as_bytes()));
    let ts = now_epoch();
    format!(r#"{{"level":"{level}","ts":{ts},"caller":"{caller}","msg":{message},"environment-variable":{variable}}}"#)
}

const MISSING_QUOTE: &str = "extraneous or missing \" in quoted-field";

/// One record of CSV: commas part the fields, quotes may hold them.
fn split_csv(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut fields = Vec::new();
    if text.is_empty() {
        return Ok(fields);
    }
    let text = text.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut at = 0;
    loop {
        let mut field = Vec::new();
        if text.get(at) == Some(&b'"') {
            at += 1;
            loop {
                match (text.get(at), text.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => {
                        field.push(b'"');
                        at += 2;
                    }
                    (Some(b'"'), None | Some(b',')) => {
                        at += 1;
                        break;
                    }
                    (Some(b'"'), _) => return Err(format!("parse error on line 1, column {at}: {MISSING_QUOTE}")),
                    (None, _) => {
                        return Err(format!("record on line 1; parse error on line 2, column 0: {MISSING_QUOTE}"));
                    }
                    (Some(&byte), _) => {
                        field.push(byte);
                        at += 1;
                    }
                }
            }
        } else {
            while let Some(&byte) = text.get(at).filter(|&&b| b != b',') {
                if byte == b'"' {
                    return Err(format!("parse error on line 1, column {at}: bare \" in non-quoted-field"));
                }
                field.push(byte);
                at += 1;
            }
        }
        fields.push(field);
        if text.get(at).is_none() {
            return Ok(fields);
        }
        at += 1;
    }
}
