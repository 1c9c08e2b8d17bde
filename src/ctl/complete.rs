//! What could come next on a command line: the shells' scripts ask `lockstepctl __complete words…`, where the last word
//! is the one that is being typed, and get a line for each candidate, its help behind a tab.
//!
//! It knows what the tree and the tables of flags know; it asks no server.

use super::flags::{Flag, Kind};
use super::tree::{self, Command};

/// The hidden command.
pub const COMMAND: &str = "__complete";
pub const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

/// The values of flags that have few.
const VALUES: &[(&str, &[&str])] = &[
    ("write-out", &["fields", "json", "protobuf", "simple", "table"]),
    ("consistency", &["l", "s"]),
    ("order", &["ASCEND", "DESCEND"]),
    ("sort-by", &["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
    ("load", &["s", "m", "l", "xl"]),
];

pub fn candidates(root: &'static Command, words: &[Vec<u8>]) -> Vec<u8> {
    let Some((typed, before)) = words.split_last() else { return Vec::new() };
    // A PowerShell before 7.3 cannot say that a word is empty.
    let typed = String::from_utf8_lossy(if typed == b"\"\"" { b"" } else { typed });
    // Some shells make three words of `--flag=value`.
    let (typed, before, apart) = match before {
        [rest @ .., equals] if equals == b"=" => (typed, rest, true),
        _ if typed == "=" => ("".into(), before, true),
        _ => (typed, before, false),
    };
    let program = root.name;
    let Ok(found) = tree::find(root, program, before) else { return Vec::new() };
    let flags: Vec<&Flag> = found.tables().into_iter().flatten().collect();
    let named = |word: &[u8]| {
        let word = String::from_utf8_lossy(word).into_owned();
        let long = |flag: &&&Flag| word.strip_prefix("--") == Some(flag.name);
        let short = |flag: &&&Flag| flag.short.is_some_and(|short| word == format!("-{short}"));
        flags.iter().find(|flag| long(flag) || short(flag)).copied()
    };
    let mut list = List { typed: &typed, out: String::new() };
    let awaited = before.last().and_then(|word| named(word)).filter(|flag| apart || flag.kind != Kind::Bool);
    if let Some(flag) = awaited {
        values(flag).iter().for_each(|value| list.add(value, ""));
    } else if let Some((name, _)) = typed.split_once('=').filter(|_| typed.starts_with('-')) {
        if let Some(flag) = named(name.as_bytes()) {
            values(flag).iter().for_each(|value| list.add(&format!("{name}={value}"), ""));
        }
    } else if typed.starts_with('-') {
        flags.iter().for_each(|flag| list.add(&format!("--{}", flag.name), flag.help));
        list.add("--help", "show this help");
    } else if found.command().name == "completion" {
        SHELLS.iter().for_each(|shell| list.add(shell, ""));
    } else {
        let mut command = found.command();
        if command.name == "help" {
            let topic = tree::find(root, program, &found.rest);
            command = topic.map_or(root, |topic| topic.command());
        }
        command.children.iter().for_each(|child| list.add(child.name, child.short));
    }
    list.out.into_bytes()
}

fn values(flag: &Flag) -> &'static [&'static str] {
    match VALUES.iter().find(|(name, _)| *name == flag.name) {
        Some((_, values)) => values,
        None if flag.kind == Kind::Bool => &["true", "false"],
        None => &[],
    }
}

struct List<'a> {
    typed: &'a str,
    out: String,
}

impl List<'_> {
    fn add(&mut self, candidate: &str, help: &str) {
        if candidate.starts_with(self.typed) {
            let tab = if help.is_empty() { "" } else { "\t" };
            self.out.push_str(&format!("{candidate}{tab}{help}\n"));
        }
    }
}
