//! The tree of commands: how a command line finds its command (as cobra does: prefixes, suggestions, flags of a parent
//! between the words), and what `help` prints.
//!
//! It knows names, flag tables and texts only; what a command does is in `commands/`.

use super::flags::{Flag, Kind};
use super::golang::quote;
use super::{Action, Failure, emit};

/// One command, or a group of them.
#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub usage: &'static str,
    pub short: &'static str,
    pub long: &'static str,
    /// Flags of this command alone.
    pub flags: &'static [Flag],
    /// Flags of this command and of all below it.
    pub shared: &'static [Flag],
    pub children: &'static [Command],
    /// `None` for a group: it prints its help.
    pub action: Option<Action>,
}

/// A command line that has found its command: from the root down, and the words that are left.
#[derive(Debug)]
pub struct Found {
    pub path: Vec<&'static Command>,
    pub rest: Vec<Vec<u8>>,
}

impl Found {
    pub fn command(&self) -> &'static Command {
        self.path[self.path.len() - 1]
    }

    /// The flags that come from the commands above this one.
    pub fn inherited(&self) -> Vec<&'static Flag> {
        self.path[..self.path.len() - 1].iter().rev().flat_map(|command| command.shared).collect()
    }

    /// Every table of flags this command knows.
    pub fn tables(&self) -> Vec<&'static [Flag]> {
        let own = self.command().flags;
        std::iter::once(own).chain(self.path.iter().map(|command| command.shared)).collect()
    }
}

/// Walks down from `root` as far as the words lead. The error is the text for an unknown command.
pub fn find(root: &'static Command, program: &str, args: &[Vec<u8>]) -> Result<Found, String> {
    let mut found = Found { path: vec![root], rest: args.to_vec() };
    loop {
        let words = words_of(&found);
        let Some(word) = words.first() else { return Ok(found) };
        let ours = if found.path.len() == 1 { OURS } else { &[] };
        match child(found.command(), word, ours) {
            Some(next) => {
                let at = found.rest.iter().position(|arg| arg == word).expect("the word came from the rest");
                found.rest.remove(at);
                found.path.push(next);
            }
            None if found.path.len() > 1 => return Ok(found),
            None => {
                let word = String::from_utf8_lossy(word);
                let mut text = format!("unknown command {} for \"{program}\"", quote(word.as_bytes()));
                let close = suggestions(root, &word);
                if !close.is_empty() {
                    text.push_str("\n\nDid you mean this?\n");
                    close.iter().for_each(|name| text.push_str(&format!("\t{name}\n")));
                }
                return Err(text);
            }
        }
    }
}

/// Commands that etcdctl has not: a prefix never means one of them, so that what it means to etcdctl it means here.
const OURS: &[&str] = &["backups", "cluster", "hashkv", "import", "log", "verify"];

/// The child of that name, or the only one that begins so beside `ours`.
fn child(command: &'static Command, word: &[u8], ours: &[&str]) -> Option<&'static Command> {
    if let Some(exact) = command.children.iter().find(|child| child.name.as_bytes() == word) {
        return Some(exact);
    }
    let theirs = command.children.iter().filter(|child| !ours.contains(&child.name));
    let mut close = theirs.filter(|child| child.name.as_bytes().starts_with(word));
    close.next().filter(|_| close.next().is_none())
}

/// What is left without flags and their values. A flag nobody knows takes the next word with it, as in cobra.
fn words_of(found: &Found) -> Vec<Vec<u8>> {
    let tables = found.tables();
    let is_bool = |pick: &dyn Fn(&Flag) -> bool| {
        tables.iter().flat_map(|table| table.iter()).any(|flag| pick(flag) && flag.kind == Kind::Bool)
    };
    let mut words = Vec::new();
    let mut rest = found.rest.iter();
    while let Some(arg) = rest.next() {
        if arg.as_slice() == b"--" {
            break;
        }
        let takes_next = if arg.contains(&b'=') {
            false
        } else if let Some(name) = arg.strip_prefix(b"--") {
            name != b"help" && !is_bool(&|flag| flag.name.as_bytes() == name)
        } else {
            let letter = arg.get(1).map(|&b| b as char);
            arg.len() == 2 && arg[0] == b'-' && letter != Some('h') && !is_bool(&|flag| flag.short == letter)
        };
        if takes_next {
            if rest.len() <= 1 {
                break;
            }
            rest.next();
        } else if !arg.is_empty() && arg[0] != b'-' {
            words.push(arg.clone());
        }
    }
    words
}

fn suggestions(root: &'static Command, word: &str) -> Vec<&'static str> {
    let lower = word.to_lowercase();
    let close = |name: &str| distance(&lower, name) <= 2 || name.starts_with(&lower);
    root.children.iter().map(|child| child.name).filter(|name| *name != "help" && close(name)).collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// `help [words…]`: the help of a command, or of everything with a word that it is unknown.
pub fn help_topic(root: &'static Command, program: &str, words: &[Vec<u8>]) -> Result<(), Failure> {
    match find(root, program, words) {
        Ok(found) => emit(help(&found.path, program).as_bytes()),
        Err(_) => {
            let topic = words.iter().map(|word| format!("`{}`", String::from_utf8_lossy(word)));
            super::say_error(&format!("Unknown help topic [{}]", topic.collect::<Vec<_>>().join(" ")));
            emit(help(&[root], program).as_bytes());
        }
    }
    Ok(())
}

/// The help of the last command of `path`.
pub fn help(path: &[&'static Command], program: &str) -> String {
    let command = path[path.len() - 1];
    let words: Vec<&str> = path.iter().skip(1).map(|command| command.name).collect();
    let title = if words.is_empty() { program.to_string() } else { words.join(" ") };
    let mut line = vec![program];
    line.extend(words);
    if !command.usage.is_empty() {
        line.push(command.usage);
    }
    let mut text = format!("NAME:\n\t{title} - {}\n\nUSAGE:\n\t{} [flags]\n\n", command.short, line.join(" "));
    if path.len() == 1 {
        text.push_str(&format!(
            "VERSION:\n\t{}\n\nAPI VERSION:\n\t{}\n\n",
            super::version(program),
            super::API_VERSION
        ));
    }
    if !command.children.is_empty() {
        let mut leaves = Vec::new();
        collect(command, "", &mut leaves);
        leaves.sort();
        text.push_str("COMMANDS:\n");
        let rows = leaves.iter().map(|(name, short)| (name.clone(), short.to_string())).collect();
        columns(&mut text, "\t", rows);
        text.push('\n');
    }
    if !command.long.is_empty() {
        text.push_str("DESCRIPTION:\n");
        command.long.lines().for_each(|line| text.push_str(&format!("\t{line}\n")));
        text.push('\n');
    }
    text.push_str("OPTIONS:\n");
    let own: Vec<&Flag> = command.flags.iter().chain(command.shared).collect();
    let mut rows: Vec<_> = own.iter().map(|flag| option(flag)).collect();
    rows.push(("  -h, --help[=false]".into(), format!("help for {}", command.name)));
    columns(&mut text, "", sorted(rows));
    let inherited: Vec<&Flag> = path[..path.len() - 1].iter().flat_map(|command| command.shared).collect();
    if !inherited.is_empty() {
        text.push_str("\nGLOBAL OPTIONS:\n");
        columns(&mut text, "", sorted(inherited.iter().map(|flag| option(flag)).collect()));
    }
    text.push('\n');
    text
}

fn collect(command: &'static Command, above: &str, leaves: &mut Vec<(String, &'static str)>) {
    for child in command.children {
        let name = if above.is_empty() { child.name.to_string() } else { format!("{above} {}", child.name) };
        if child.children.is_empty() {
            leaves.push((name, child.short));
        } else {
            collect(child, &name, leaves);
        }
    }
}

fn option(flag: &Flag) -> (String, String) {
    let short = flag.short.map_or("    ".to_string(), |short| format!("-{short}, "));
    let default = match flag.kind {
        Kind::Bool => format!("[={}]", flag.default),
        Kind::Text => format!("=\"{}\"", flag.default),
        Kind::List => format!("=[{}]", flag.default),
        Kind::Int | Kind::Duration => format!("={}", flag.default),
    };
    (format!("  {short}--{}{default}", flag.name), flag.help.to_string())
}

fn sorted(mut rows: Vec<(String, String)>) -> Vec<(String, String)> {
    let name = |row: &(String, String)| {
        let name = row.0.split("--").last().unwrap_or_default();
        name.split(['=', '[']).next().unwrap_or_default().to_string()
    };
    rows.sort_by_key(name);
    rows
}

fn columns(text: &mut String, indent: &str, rows: Vec<(String, String)>) {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, help) in rows {
        text.push_str(&format!("{indent}{name:width$}  {help}\n"));
    }
}
