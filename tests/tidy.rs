//! Keeps the tree as `docs/ARCHITECTURE.md` says it is: who may name whom, what the deterministic rooms may not touch,
//! and the small habits that a reader counts on.
//!
//! A rule is one function from the tree to its findings, and a line of [`RULES`]. It reads text, not types
//! (`clippy.toml` bans part of the same by type), so it looks at paths as they are written, with `use` trees spread out
//! and comments and strings blanked. [`every_rule_can_fail`] gives each rule what it has to find, and what it must let
//! pass.

use std::collections::BTreeSet;
use std::path::Path;

/// A rule and what it says of the tree.
type Rule = (&'static str, fn(&Tree) -> Vec<String>);

const RULES: &[Rule] = &[
    ("dependencies go one way", direction),
    ("a crate is named in one place", owners),
    ("the deterministic rooms are closed", closed_rooms),
    ("asynchronous crates are optional", optional_crates),
    ("files are short", short_files),
    ("files say why they exist", heads),
    ("lines fit", narrow_lines),
    ("nothing is unfinished", finished),
    ("tests are in tests/", tests_apart),
    ("every file is compiled", no_orphans),
    ("what is named exists", names_exist),
    ("nothing names a machine", no_machine),
    ("flags are in COMPATIBILITY", flags_listed),
    ("every mark is listed", marks_listed),
    ("every mutation is made", mutations_made),
];

/// Folder, and the rooms of `src/` it may name beside itself.
const DIRECTION: &[(&str, &[&str])] = &[
    ("src/bin/lockstepd.rs", &["server"]),
    ("src/bin/lockstepctl.rs", &["ctl"]),
    ("src/server/", &["member", "interop", "mvcc", "wal", "ports"]),
    ("src/ctl/", &["offline", "member", "interop", "mvcc", "wal", "ports"]),
    ("src/offline/", &["server", "member", "interop", "mvcc", "wal", "ports"]),
    ("src/member/", &["interop", "mvcc", "wal", "ports"]),
    ("src/interop/", &["mvcc", "ports"]),
    ("src/mvcc/", &["ports"]),
    ("src/wal/", &["ports"]),
    ("src/ports/", &[]),
    ("sim/src/", &["member", "interop", "mvcc", "wal", "ports"]),
];
const ROOMS: &[&str] = &["server", "ctl", "offline", "member", "interop", "mvcc", "wal", "ports"];

/// Crate, and the only folder that names it.
const OWNERS: &[(&str, &str)] = &[
    ("raft", "src/member/raft/"),
    ("eraftpb", "src/member/raft/"),
    ("protobuf", "src/member/raft/"),
    ("slog", "src/member/raft/"),
    ("redb", "src/mvcc/"),
];

/// Where a member is a function of its inputs.
const CLOSED: &[&str] =
    &["src/calendar.rs", "src/member/", "src/interop/", "src/mvcc/", "src/wal/", "src/ports/", "sim/src/"];
/// What lets worlds run and tells of it stands outside of them.
const NOT_CLOSED: &[&str] = &["sim/src/bin/", "sim/src/program/", "sim/src/host.rs"];
/// Paths that reach the world outside.
const OUTSIDE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "rand",
    "getrandom",
    "libc",
];
/// Names that give another order, time or number in every run, wherever they were imported from.
const UNSTEADY: &[&str] =
    &["HashMap", "HashSet", "RandomState", "DefaultHasher", "SystemTime", "thread_rng", "ThreadRng", "OsRng"];
const ASYNCHRONOUS: &[&str] = &[
    "axum",
    "futures_util",
    "http",
    "http_body_util",
    "hyper",
    "hyper_util",
    "tokio",
    "tokio_stream",
    "tonic",
    "tower",
    "tracing",
    "tracing_subscriber",
];

const MAX_LINES: usize = 1_000;
const MAX_COLUMNS: usize = 120;
/// Text whose lines mean something, or that nobody writes by hand.
const ANY_WIDTH: &[&str] = &["proto/src/generated/", "tests/it/ctl_conformance/sessions.rs"];
const GENERATED: &str = "proto/src/generated/";
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "#[ignore", "dbg!("];
/// Folders of one machine, and what points a package manager somewhere else than at its public registry.
const MACHINE: &[&str] = &[
    "/home/",
    "/root/",
    "/work/",
    "/Users/",
    "/mnt/",
    "index-url",
    "extra-index",
    "artifactory",
    "replace-with",
    "[source.",
    "[registries.",
];

#[test]
fn the_tree_is_tidy() {
    let tree = Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(tree.files.len() > 100, "only {} files were found", tree.files.len());
    let findings: Vec<String> =
        RULES.iter().flat_map(|(name, rule)| rule(&tree).into_iter().map(move |f| format!("{name}: {f}"))).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn every_rule_can_fail() {
    let long = format!("//! x\n{}", "\n".repeat(MAX_LINES));
    let wide = format!("//! x\n// {}\n", "é".repeat(MAX_COLUMNS));
    let skipped = format!("//! x\n#[rustfmt::skip]\nconst A: &[u8] = &[\n    {}\n];\n", "0, ".repeat(50));
    // rule, file, text, how many findings
    let cases: &[(&str, &str, &str, usize)] = &[
        ("dependencies", "src/server/a.rs", "use crate::ctl::golang;", 1),
        ("dependencies", "src/ctl/a.rs", "fn a() { crate::server::run() }", 1),
        ("dependencies", "src/member/a.rs", "use crate::{mvcc, server::{node, disk as d}};", 2),
        ("dependencies", "src/member/apply/a.rs", "use super::super::super::server::disk;", 1),
        ("dependencies", "src/wal/a.rs", "use crate::mvcc;\nuse crate::member;", 2),
        ("dependencies", "src/mvcc/mod.rs", "use super::wal::Wal;", 1),
        ("dependencies", "src/mvcc/a.rs", "use crate::interop::bbolt;", 1),
        ("dependencies", "src/ports/a.rs", "type A = crate::wal::Wal;", 1),
        ("dependencies", "sim/src/a.rs", "use lockstep::server::disk;", 1),
        ("dependencies", "src/bin/lockstepd.rs", "fn main() { lockstep::ctl::run() }", 1),
        (
            "dependencies",
            "src/wal/a.rs",
            "use super::writer;\nuse crate::wal::index;\nuse crate::ports::disk::Disk;",
            0,
        ),
        ("dependencies", "src/member/a.rs", "// crate::server\nconst A: &str = \"crate::server\";", 0),
        ("a crate", "src/member/apply/a.rs", "use raft::{RawNode, eraftpb};", 2),
        ("a crate", "sim/src/a.rs", "fn a(_: raft::eraftpb::Entry) {}", 1),
        ("a crate", "src/server/a.rs", "use redb::Database;", 1),
        ("a crate", "src/member/boot.rs", "use super::raft::Consensus;\nuse crate::member::raft;", 0),
        ("a crate", "src/member/raft/a.rs", "use raft::eraftpb;", 0),
        ("the deterministic", "src/member/a.rs", "use std::{fs, io, time::Instant};", 2),
        ("the deterministic", "src/mvcc/a.rs", "fn a() { std::thread::yield_now() }", 1),
        ("the deterministic", "src/interop/a.rs", "use std::fs::File;", 1),
        ("the deterministic", "src/wal/a.rs", "use std::collections::{BTreeMap, HashMap};", 1),
        ("the deterministic", "src/ports/a.rs", "use std::net::TcpStream;\nuse tokio::net;", 2),
        ("the deterministic", "sim/src/a.rs", "fn a() { rand::thread_rng(); }", 1),
        ("the deterministic", "sim/src/fault/program.rs", "use std::fs;", 1),
        ("the deterministic", "sim/src/program/a.rs", "use std::{fs, thread, time::Instant};", 0),
        ("the deterministic", "src/member/a.rs", "fn a() { println!(\"a\") }", 1),
        ("the deterministic", "src/member/a.rs", "use std::{io, sync::Arc};\nuse crate::ports::clock::Instant;", 0),
        ("the deterministic", "src/server/a.rs", "use std::{fs, time, thread, collections::HashMap};", 0),
        ("asynchronous", "Cargo.toml", "[dependencies]\ntokio = { version = \"1\" }\nbytes = \"1\"\n", 1),
        ("asynchronous", "Cargo.toml", "[dependencies]\nhyper-util = \"1\"\n", 1),
        ("asynchronous", "Cargo.toml", "[dependencies]\ntokio = { version = \"1\", optional = true }\n", 0),
        ("asynchronous", "sim/Cargo.toml", "[dependencies]\nlockstep = { path = \"..\" }\n", 1),
        ("files are short", "src/wal/a.rs", &long, 1),
        ("files say", "src/wal/a.rs", "// x\n//! y\n", 1),
        ("files say", "src/wal/a.rs", "//!\n", 1),
        ("lines fit", "src/wal/a.rs", &wide, 1),
        ("lines fit", "src/wal/a.rs", &skipped, 0),
        ("lines fit", "src/wal/a.rs", &format!("{skipped}{wide}"), 1),
        ("nothing is unfinished", "src/wal/a.rs", "fn a() { todo!() }", 1),
        ("nothing is unfinished", "tests/it/a.rs", "#[ignore = \"slow\"]\nfn a() {}", 1),
        ("nothing is unfinished", "tests/it/a.rs", "const A: &str = r#\"todo!()\"#; // todo!()", 0),
        ("tests are in", "src/wal/a.rs", "#[cfg(test)]\nmod tests {}", 1),
        ("tests are in", "sim/src/a.rs", "#[test]\nfn a() {}", 1),
        ("every file", "src/wal/a.rs", "//! x", 1),
        ("every file", "tests/it/a.rs", "//! x", 1),
        ("every file", "src/lib.rs", "//! x\nmod wal;", 0),
        ("what is named", "README.md", "[a](docs/NONE.md) and `src/none/`", 2),
        ("what is named", "README.md", "make none\n`make run`", 1),
        ("what is named", "src/wal/a.rs", "//! See `docs/NONE.md`.", 1),
        ("what is named", "docs/A.md", "[a](../README.md), `src/wal/`, [b](https://example.com/x), `docs/<x>.md`", 0),
        ("every mark", "src/wal/a.rs", "fn a() { sometimes!(b, \"a torn c\"); sometimes!(\n    \"another\"\n); }", 2),
        ("every mark", "sim/src/marks.rs", "pub const OTHERS: &[&str] = &[\n    \"nowhere\",\n    \"nowhere\",\n];", 2),
        ("every mark", "src/wal/a.rs", "/// `sometimes!(\"a\")`\nfn a() {}", 0),
        ("every mutation", "src/mutation.rs", "//! x\n    Unmade \"unmade\" {\n    }\n", 1),
        ("every mutation", "src/wal/a.rs", "fn a() -> bool { mutation!(Unmade) }", 0),
        ("flags are in", "src/server/config/defs.rs", "//! x\n    flag(\"name\", Text, \"\", Works, \"x\"),\n", 1),
        ("nothing names", "docs/A.md", "see /home/me/x", 1),
        ("nothing names", ".cargo/config.toml", "[source.crates-io]\nreplace-with = \"mirror\"\n", 2),
    ];
    for (name, path, text, count) in cases {
        let mut tree = Tree::default();
        tree.add("README.md", "x");
        tree.add("Makefile", "run: build ## x\n");
        tree.add("src/wal/mod.rs", "//! x");
        tree.add("src/lib.rs", "//! x\nmod wal;");
        tree.add("tests/it.rs", "//! x");
        tree.files.retain(|file| file.path != *path);
        tree.add(path, text);
        let (_, rule) = RULES.iter().find(|(rule, _)| rule.starts_with(name)).expect("a rule of this name");
        let findings = rule(&tree);
        assert_eq!(findings.len(), *count, "{name} of {path}: {text:.300}\n{findings:#?}");
    }
    for (rule, _) in RULES {
        assert!(
            cases.iter().any(|case| rule.starts_with(case.0) && case.3 > 0),
            "{rule}: nothing shows that it can fail"
        );
    }
}

fn direction(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.rust() {
        let Some((folder, allowed)) = DIRECTION.iter().find(|(folder, _)| file.path.starts_with(folder)) else {
            continue;
        };
        let own = folder.strip_prefix("src/").map_or("", |rest| rest.trim_end_matches('/'));
        for (line, path) in file.paths() {
            let Some(room) = file.resolve(&path).and_then(|inside| inside.first().cloned()) else { continue };
            if ROOMS.contains(&room.as_str()) && room != own && !allowed.contains(&room.as_str()) {
                found.push(format!("{}:{line} names {room}: {}", file.path, path.join("::")));
            }
        }
    }
    found
}

fn owners(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.rust().filter(|f| f.path.starts_with("src/") || f.path.starts_with("sim/")) {
        for (line, path) in file.paths().into_iter().filter(|(_, path)| path.len() > 1 && file.resolve(path).is_none())
        {
            let is_ours = |name: &str| file.code.contains(&format!("mod {name};"));
            let owner = OWNERS.iter().find(|(name, _)| path[0] == *name && !is_ours(name));
            if let Some((name, folder)) = owner.filter(|(_, folder)| !file.path.starts_with(folder)) {
                found.push(format!("{}:{line} names {name}, which is {folder}'s: {}", file.path, path.join("::")));
            }
        }
    }
    found
}

fn closed_rooms(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let is_closed = |path: &str| {
        CLOSED.iter().any(|room| path.starts_with(room)) && !NOT_CLOSED.iter().any(|room| path.starts_with(room))
    };
    for file in tree.rust().filter(|f| is_closed(&f.path)) {
        for (line, path) in file.paths() {
            let text = path.join("::");
            let is_outside = OUTSIDE.iter().chain(ASYNCHRONOUS).any(|p| {
                text.strip_prefix(p).is_some_and(|rest| rest.is_empty() && p.contains("::") || rest.starts_with("::"))
            });
            if is_outside || path.iter().any(|name| UNSTEADY.contains(&name.as_str())) {
                found.push(format!("{}:{line} reaches out: {text}", file.path));
            }
        }
        for (line, code) in (1..).zip(file.code.lines()) {
            if ["print!(", "println!("].iter().any(|p| code.contains(p)) {
                found.push(format!("{}:{line} prints", file.path));
            }
        }
    }
    found
}

fn optional_crates(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        let mut is_wanted = false;
        for (line, text) in (1..).zip(file.text.lines()) {
            if text.starts_with('[') {
                is_wanted = text == "[dependencies]";
            }
            let Some((name, value)) = text.split_once(" = ").filter(|_| is_wanted) else { continue };
            let is_async = ASYNCHRONOUS.contains(&name.replace('-', "_").as_str());
            if file.path == "Cargo.toml" && is_async && !value.contains("optional = true") {
                found.push(format!("{}:{line} {name} is not optional", file.path));
            }
            if file.path == "sim/Cargo.toml"
                && value.contains("path = \"..\"")
                && !value.contains("default-features = false")
            {
                found.push(format!("{}:{line} the simulator must not take the library's default features", file.path));
            }
            if file.path == "sim/Cargo.toml" && is_async {
                found.push(format!("{}:{line} {name} has no business in the simulator", file.path));
            }
        }
    }
    found
}

fn short_files(tree: &Tree) -> Vec<String> {
    let lines = |file: &File| file.text.lines().count();
    let long = tree.rust().filter(|f| !f.path.starts_with(GENERATED) && lines(f) > MAX_LINES);
    long.map(|f| format!("{} has {} lines: it wants to be two", f.path, lines(f))).collect()
}

fn heads(tree: &Tree) -> Vec<String> {
    let says_why = |file: &&File| file.text.strip_prefix("//! ").is_some_and(|rest| !rest.trim().is_empty());
    let silent = tree.rust().filter(|f| !f.path.starts_with(GENERATED) && !says_why(f));
    silent.map(|f| format!("{} does not open with a //! paragraph", f.path)).collect()
}

fn narrow_lines(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.rust().filter(|f| !ANY_WIDTH.iter().any(|free| f.path.starts_with(free))) {
        let mut is_table = false;
        for (line, text) in (1..).zip(file.text.lines()) {
            is_table = text == "#[rustfmt::skip]" || is_table && !text.starts_with("];");
            let columns = text.chars().count();
            if columns > MAX_COLUMNS && !is_table {
                found.push(format!("{}:{line} is {columns} columns wide", file.path));
            }
        }
    }
    found
}

fn finished(tree: &Tree) -> Vec<String> {
    tree.rust().flat_map(|file| file.code_with(UNFINISHED)).collect()
}

fn tests_apart(tree: &Tree) -> Vec<String> {
    let product = ["src/", "sim/src/", "proto/src/", "tests/bench/src/", "tests/clients/"];
    let files = tree.rust().filter(|f| product.iter().any(|folder| f.path.starts_with(folder)));
    files.flat_map(|file| file.code_with(&["#[cfg(test)]", "#[test]", "#[tokio::test"])).collect()
}

/// A file that no `mod` names is never compiled, and its tests never run.
fn no_orphans(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.rust() {
        let parts: Vec<&str> = file.path.trim_end_matches(".rs").split('/').collect();
        let is_declared = match parts.as_slice() {
            ["src" | "sim", .., "lib"] | ["src", "bin", _] | ["sim", "src", "bin", _] | ["tests", "it"] => true,
            ["tests", rest @ ..] if !["bench", "clients"].contains(&rest[0]) => {
                let paths = [rest.join("/"), rest[rest.len().min(2) - 1..].join("/")].map(|p| format!("\"{p}.rs\""));
                let parent = format!("tests/{}/mod.rs", rest[..rest.len() - 1].join("/"));
                let name = format!("mod {};", rest[rest.len() - 1]);
                tree.rust().any(|f| paths.iter().any(|p| f.text.contains(&format!("#[path = {p}]"))))
                    || tree.rust().any(|f| f.path == parent && f.code.contains(&name))
            }
            ["src", folder @ .., name] | ["sim", "src", folder @ .., name] => {
                let (folder, name) = if *name == "mod" {
                    folder.split_last().map_or((folder, *name), |(l, f)| (f, *l))
                } else {
                    (folder, *name)
                };
                let root = if parts[0] == "sim" { "sim/src" } else { "src" };
                let folder = [root].iter().chain(folder).copied().collect::<Vec<_>>().join("/");
                let declared = format!("mod {name};");
                let parents = [format!("{folder}/mod.rs"), format!("{folder}/lib.rs")];
                tree.rust().any(|f| parents.contains(&f.path) && f.code.contains(&declared))
            }
            _ => true,
        };
        if !is_declared {
            found.push(format!("{} is in no mod", file.path));
        }
    }
    found
}

/// Links, paths of this tree between backticks, and targets of make.
fn names_exist(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let targets: BTreeSet<&str> = tree
        .files
        .iter()
        .filter(|f| f.path == "Makefile")
        .flat_map(|f| f.text.lines().filter_map(|l| l.split_once(':')).map(|(target, _)| target))
        .collect();
    for file in &tree.files {
        let is_page = file.path.ends_with(".md");
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, text) in (1..).zip(file.text.lines()) {
            let mut named = Vec::new();
            if is_page {
                for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                    if !link.contains("://") && !link.starts_with('#') {
                        named.push(join(folder, link.split('#').next().unwrap_or_default()));
                    }
                }
            }
            if is_page || text.trim_start().starts_with("//") {
                for word in text.split('`').skip(1).step_by(2) {
                    let is_ours = ["src/", "sim/", "tests/", "docs/", "proto/", "fuzz/", ".ci/"]
                        .iter()
                        .any(|f| word.starts_with(f));
                    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
                    if is_ours && word.chars().all(plain) {
                        named.push(word.trim_end_matches('/').to_owned());
                    }
                }
            }
            for name in named.iter().filter(|name| !tree.has(name)) {
                found.push(format!("{}:{line} names {name}, which is not there", file.path));
            }
            let command = text.trim_start_matches('`').strip_prefix("make ").filter(|_| file.path == "README.md");
            let target = command.and_then(|rest| rest.split([' ', '`']).next());
            if let Some(target) = target.filter(|t| !t.is_empty() && !t.starts_with('#') && !targets.contains(t)) {
                found.push(format!("{}:{line} names make {target}, which the Makefile lacks", file.path));
            }
        }
    }
    found
}

fn no_machine(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|f| f.path != "tests/tidy.rs" && f.path != "Cargo.lock") {
        for (line, text) in (1..).zip(file.text.lines()) {
            if let Some(name) = MACHINE.iter().find(|name| text.contains(**name)) {
                found.push(format!("{}:{line} names {name}", file.path));
            }
        }
    }
    found
}

/// The status of each row of the server's flags is the paragraph of the page that names it, and no other does.
fn flags_listed(tree: &Tree) -> Vec<String> {
    const PARAGRAPHS: &[(&str, &str)] = &[
        ("Works", "**Works:**"),
        ("SafeNoOp", "**Accepted, no effect**"),
        ("NotYet", "**Not supported yet**"),
        ("Removed", "**Removed by etcd**"),
    ];
    let text = |path: &str| tree.files.iter().find(|f| f.path == path).map_or("", |f| f.text.as_str());
    let page = text("docs/COMPATIBILITY.md");
    let mut found = Vec::new();
    let rows = text("src/server/config/defs.rs").lines().filter_map(|row| row.trim_start().strip_prefix("flag(\""));
    for (name, rest) in rows.filter_map(|row| row.split_once('"')) {
        for (status, head) in PARAGRAPHS {
            let has_status = rest.contains(&format!(", {status},")) || rest.contains(&format!(", {status}("));
            let listed = page.split("\n\n").filter(|part| part.starts_with(head));
            let is_listed = listed.flat_map(str::split_whitespace).any(|word| word == format!("`--{name}`"));
            if has_status != is_listed {
                found.push(format!("--{name}: {status} is {has_status}, under {head} is {is_listed}"));
            }
        }
    }
    found
}

/// Each name of a `sometimes!` in product and simulator stands once in the list of marks, and the other way round.
fn marks_listed(tree: &Tree) -> Vec<String> {
    const LIST: &str = "sim/src/marks.rs";
    let list = tree.files.iter().find(|f| f.path == LIST).map_or("", |f| f.text.as_str());
    let lines = list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let listed: Vec<&str> = lines.collect();
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for file in tree.rust().filter(|f| f.path.starts_with("src/") || f.path.starts_with("sim/src/")) {
        // Where the code has the call, the text has its name: the first literal from there on.
        for ((line, code), (from, _)) in (1..).zip(file.code.lines()).zip(line_starts(&file.text)) {
            for (column, _) in code.match_indices("sometimes!(") {
                let column = code[..column].chars().count();
                let rest: String = file.text[from..].chars().skip(column).take(400).collect();
                let Some(name) = rest.split('"').nth(1).map(str::to_owned) else { continue };
                if !listed.contains(&name.as_str()) {
                    found.push(format!("{}:{line} marks {name:?}, which {LIST} does not list", file.path));
                }
                used.insert(name);
            }
        }
    }
    for (at, name) in listed.iter().enumerate() {
        if listed[..at].contains(name) {
            found.push(format!("{LIST} lists {name:?} twice"));
        } else if !used.contains(*name) {
            found.push(format!("{LIST} lists {name:?}, which nothing marks"));
        }
    }
    found
}

/// The compiler knows every name in a `mutation!`; this finds the deliberate bugs that nobody has put anywhere.
fn mutations_made(tree: &Tree) -> Vec<String> {
    let zoo = tree.files.iter().find(|f| f.path == "src/mutation.rs").map_or("", |f| f.text.as_str());
    let heads = zoo.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix("\" {")?.split_once(" \""));
    let product = || tree.rust().filter(|f| f.path.starts_with("src/") || f.path.starts_with("sim/src/"));
    let unmade = heads.filter(|(variant, _)| !product().any(|f| f.code.contains(&format!("mutation!({variant})"))));
    unmade.map(|(variant, name)| format!("src/mutation.rs names {variant} ({name}), which is nowhere made")).collect()
}

/// The offset and the text of each line.
fn line_starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |at, line| {
        let from = *at;
        *at += line.len();
        Some((from, line))
    })
}

/// The text files of the tree.
#[derive(Default)]
struct Tree {
    files: Vec<File>,
}

struct File {
    /// From the tree's root, with `/`.
    path: String,
    text: String,
    /// The text with comments and the insides of literals blanked, line by line as before.
    code: String,
}

impl Tree {
    fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let mut entries: Vec<_> =
                std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
            entries.sort();
            for path in entries {
                let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
                if path.is_dir() {
                    // What cargo and running members leave behind is nobody's source.
                    if ![".git", "target", "corpus", "artifacts", "tour"].contains(&name.as_str())
                        && !name.ends_with(".etcd")
                    {
                        folders.push(path);
                    }
                } else if let Ok(text) = std::fs::read_to_string(&path) {
                    let path = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                    if !path.ends_with(".log") && path != ".git" {
                        tree.add(&path, &text);
                    }
                }
            }
        }
        tree
    }

    fn add(&mut self, path: &str, text: &str) {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        self.files.push(File { path: path.to_owned(), text: text.to_owned(), code });
    }

    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// A file, or a folder with something in it.
    fn has(&self, path: &str) -> bool {
        self.files
            .iter()
            .any(|f| f.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

impl File {
    fn code_with(&self, words: &[&str]) -> Vec<String> {
        let lines = (1..).zip(self.code.lines());
        let hits = lines.filter_map(|(line, code)| Some((line, words.iter().find(|word| code.contains(**word))?)));
        hits.map(|(line, word)| format!("{}:{line} has {word}", self.path)).collect()
    }

    /// Every path in the code with its line, those of `use` trees spread out.
    fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let tokens = tokens(&self.code);
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let (line, token) = &tokens[at];
            if token == "use" {
                at = use_tree(&tokens, at + 1, &[], &mut paths);
            } else if is_name(token) {
                let mut path = vec![token.clone()];
                let line = *line;
                at += 1;
                while at + 1 < tokens.len() && tokens[at].1 == "::" && is_name(&tokens[at + 1].1) {
                    path.push(tokens[at + 1].1.clone());
                    at += 2;
                }
                paths.push((line, path));
            } else {
                at += 1;
            }
        }
        paths
    }

    /// A path inside the library, from its root; `None` for one that is not.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let inside = self.path.strip_prefix("src/");
        let mut module: Vec<&str> = inside.unwrap_or_default().trim_end_matches(".rs").split('/').collect();
        if matches!(module.last(), Some(&"mod" | &"lib")) {
            module.pop();
        }
        let mut rest = path;
        match path[0].as_str() {
            "lockstep" => return Some(path[1..].to_vec()),
            "crate" => return inside.map(|_| path[1..].to_vec()),
            "super" | "self" => {}
            _ => return None,
        }
        while let Some("super" | "self") = rest.first().map(String::as_str) {
            if rest[0] == "super" {
                module.pop();
            }
            rest = &rest[1..];
        }
        Some(module.into_iter().map(str::to_owned).chain(rest.iter().cloned()).collect())
    }
}

/// Reads one tree of a `use` from `at` on; returns where it ended.
fn use_tree(
    tokens: &[(usize, String)],
    mut at: usize,
    base: &[String],
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = base.to_vec();
    while let Some((line, token)) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|(_, t)| t != "}") {
                    at = use_tree(tokens, at, &path, paths);
                    at += usize::from(tokens.get(at).is_some_and(|(_, t)| t == ","));
                }
                return at + 1;
            }
            "as" => at += 2,
            name if is_name(name) || name == "*" => {
                if name != "self" || path.is_empty() {
                    path.push(name.to_owned());
                }
                at += 1;
                if tokens.get(at).is_none_or(|(_, t)| t != "::") {
                    paths.push((*line, path.clone()));
                }
            }
            _ => return at,
        }
    }
    at
}

/// Names, `::`, and single signs, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(code.lines()) {
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let mut token = c.to_string();
            if is_name(&token) {
                while let Some(more) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    token.push(more);
                }
            } else if c == ':' && chars.next_if_eq(&':').is_some() {
                token.push(':');
            }
            if c != ' ' {
                tokens.push((line, token));
            }
        }
    }
    tokens
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Blanks comments and the insides of string and character literals; keeps every line where it was.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    // Copies line ends only, up to `end`.
    let hide = |out: &mut String, from: usize, end: usize| {
        out.extend(chars[from..end.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        end.min(chars.len())
    };
    let find = |from: usize, what: &str| {
        let what: Vec<char> = what.chars().collect();
        (from..chars.len()).find(|i| chars[*i..].starts_with(&what)).map_or(chars.len(), |i| i + what.len())
    };
    while at < chars.len() {
        let rest = &chars[at..];
        let is_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let hashes = rest.iter().skip(1).take_while(|c| **c == '#').count();
        if rest.starts_with(&['/', '/']) {
            let end = rest.iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n);
            at = hide(&mut out, at, end);
        } else if rest.starts_with(&['/', '*']) {
            at = hide(&mut out, at, find(at + 2, "*/"));
        } else if rest[0] == 'r' && rest.get(1 + hashes) == Some(&'"') && (!is_word || chars[at - 1] == 'b') {
            at = hide(&mut out, at, find(at + hashes + 2, &format!("\"{}", "#".repeat(hashes))));
        } else if rest[0] == '"' {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            at = hide(&mut out, at, end + 1);
        } else if rest.starts_with(&['\'', '\\']) {
            at = hide(&mut out, at, find(at + 3, "'"));
        } else if rest[0] == '\'' && rest.get(2) == Some(&'\'') {
            at = hide(&mut out, at, at + 3);
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    out
}

/// `link` as seen from `folder`.
fn join(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
