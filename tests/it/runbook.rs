//! `docs/OPERATIONS.md`, run: the commands of its blocks on machines of the test's own (a folder each, with a systemd
//! of a few lines), and what they print compared with what the document shows. Ids, times, sizes and indexes are
//! masked.
//!
//! What the document shows is true of a real etcd and its etcdctl, too, but for blocks `only=lockstep`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::util::oracle::Etcd;
use crate::util::process::Port;

/// The document's machines and their addresses.
const MACHINES: [(&str, &str); 4] = [
    ("lone", "192.168.116.10"),
    ("etcd-1", "192.168.116.15"),
    ("etcd-2", "192.168.116.16"),
    ("etcd-3", "192.168.116.17"),
];

/// Folders of the document that each machine has of its own.
const FOLDERS: [&str; 5] =
    ["/etc/lockstep", "/etc/systemd/system", "/var/lib/lockstep", "/var/backups/lockstep", "/usr/local/bin"];

/// Columns of tables that differ from run to run.
const VARY: [&str; 7] = ["ID", "VERSION", "DB SIZE", "IS LEADER", "RAFT TERM", "RAFT INDEX", "RAFT APPLIED INDEX"];

/// Stands in for systemd and rsync: a unit is started with its environment file, in the background.
const TOOLS: [(&str, &str); 3] = [
    (
        "systemctl",
        r#"#!/bin/bash
# systemctl start|stop|restart|enable [--now] UNIT
action=$1 unit=${!#} pid=$HOST_ROOT/${!#}.pid
stop() {
    [ -f "$pid" ] || return 0
    local id; id=$(cat "$pid"); rm "$pid"
    kill "$id" 2>/dev/null
    while grep -q '^State:.[^Z]' "/proc/$id/status" 2>/dev/null; do sleep 0.02; done
}
start() {
    local file=$HOST_ROOT/etc/systemd/system/$unit.service
    (
        set -a
        conf=$(sed -n 's/^EnvironmentFile=-\?//p' "$file"); [ -f "$conf" ] && . "$conf"
        set +a
        cd "$(sed -n 's/^WorkingDirectory=//p' "$file")" && exec $(sed -n 's/^ExecStart=//p' "$file")
    ) </dev/null >>"$HOST_ROOT/$unit.log" 2>&1 &
    echo $! >"$pid"
}
case $action in
stop) stop ;;
restart) stop; start ;;
*) start ;;
esac
"#,
    ),
    (
        "systemd-run",
        r#"#!/bin/bash
# systemd-run --unit=NAME COMMAND...
unit=${1#--unit=}; shift
"$@" </dev/null >>"$HOST_ROOT/$unit.log" 2>&1 &
echo $! >"$HOST_ROOT/$unit.pid"
"#,
    ),
    (
        "rsync",
        r#"#!/bin/bash
# rsync -a --delete FROM/ MACHINE:TO
machine=${4%%:*} to=${4#*:}
to=$ROOTS/$machine${to#"$HOST_ROOT"}
rm -rf "$to" && cp -a "$3" "$to"
"#,
    ),
];

/// One command and what it shows.
#[derive(Debug)]
struct Step {
    line: usize,
    machine: String,
    command: String,
    shown: String,
}

#[derive(Debug)]
struct Block {
    name: String,
    /// Not a thing of etcd's.
    only_ours: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Default)]
struct Section {
    title: String,
    given: Vec<String>,
    blocks: Vec<Block>,
}

/// What the document calls `lockstepd` and `lockstepctl`.
#[derive(Clone, Debug)]
struct Programs {
    server: PathBuf,
    client: PathBuf,
    /// Whose data directories `snapshot restore` has to write: the server's.
    restorer: PathBuf,
    /// The server or the client is not ours.
    with_etcd: bool,
}

#[test]
fn the_runbook_runs() {
    let [server, client] = ours();
    run_all(&Programs { server, restorer: client.clone(), client, with_etcd: false });
}

#[test]
fn etcdctl_runs_the_runbook_too() {
    let [server, restorer] = ours();
    let Some(client) = Etcd::V35.program("etcdctl") else { return };
    run_all(&Programs { server, restorer, client, with_etcd: true });
}

#[test]
fn the_runbook_is_true_of_etcd() {
    let (Some(server), Some(etcdctl)) = (Etcd::V35.program("etcd"), Etcd::V35.program("etcdctl")) else { return };
    run_all(&Programs { server, restorer: etcdctl.clone(), client: etcdctl, with_etcd: true });
}

fn ours() -> [PathBuf; 2] {
    [env!("CARGO_BIN_EXE_lockstepd"), env!("CARGO_BIN_EXE_lockstepctl")].map(PathBuf::from)
}

fn run_all(programs: &Programs) {
    let text = document();
    let mut sections = read(&text);
    for section in &mut sections {
        section.blocks.retain(|block| !(block.only_ours && programs.with_etcd));
    }
    assert!(sections.iter().map(|section| section.blocks.len()).sum::<usize>() >= 14);
    let failures = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for section in sections.iter().filter(|section| !section.blocks.is_empty()) {
            let (sections, failures) = (&sections, &failures);
            scope.spawn(move || {
                if let Err(why) = play_section(section, sections, programs) {
                    writeln!(failures.lock().unwrap(), "[{}] {why}", section.title).unwrap();
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures}");
}

/// The table at the end names blocks that are there, and every block is named.
#[test]
fn every_command_of_the_old_runbook_has_its_block() {
    let text = document();
    let names: Vec<String> =
        read(&text).into_iter().flat_map(|section| section.blocks).map(|block| block.name).collect();
    let (_, table) = text.split_once("| command | block |\n").expect("the table");
    let mut rows = 0;
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let place = row.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        let quoted = place.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| !name.contains('/') && !name.starts_with('-')) {
            assert!(names.iter().any(|known| known == name), "no block is called {name}: {row}");
        }
        let told = place.contains('`') || ["later", "under ", "not here"].iter().any(|word| place.starts_with(word));
        assert!(told, "{row}");
        rows += 1;
    }
    assert!(rows >= 25, "{rows} rows");
}

fn document() -> String {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    std::fs::read_to_string(Path::new(&root).join("docs/OPERATIONS.md")).unwrap()
}

fn read(text: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    let mut block: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        let section = sections.last_mut().unwrap();
        if let Some(open) = block.as_mut() {
            if line == "```" {
                section.blocks.extend(block.take());
            } else {
                read_line(open, line, at + 1);
            }
        } else if let Some(tags) = line.strip_prefix("```console ") {
            let tag = |name: &str| tags.split(' ').find_map(|tag| tag.strip_prefix(name)).map(str::to_string);
            let name = tag("name=").unwrap_or_else(|| panic!("line {}: a block without a name", at + 1));
            let only_ours = tag("only=").is_some();
            block = Some(Block { name, only_ours, steps: Vec::new() });
        } else if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section { title: title.to_string(), ..Default::default() });
        } else if let Some(given) = line.strip_prefix("<!-- given: ") {
            section.given = given.trim_end_matches(" -->").split(", ").map(str::to_string).collect();
        }
    }
    sections
}

fn read_line(block: &mut Block, line: &str, number: usize) {
    if let Some(last) = block.steps.last_mut() {
        let heredoc = last.command.contains("<<'END'") && !last.command.ends_with("\nEND");
        if heredoc || last.command.ends_with('\\') {
            last.command = format!("{}\n{line}", last.command);
            return;
        }
    }
    match line.strip_prefix('[').and_then(|rest| rest.split_once("]# ")) {
        Some((machine, command)) => block.steps.push(Step {
            line: number,
            machine: machine.to_string(),
            command: command.to_string(),
            shown: String::new(),
        }),
        None => {
            let step = block.steps.last_mut().unwrap_or_else(|| panic!("line {number}: output before a command"));
            step.shown.push_str(line);
            step.shown.push('\n');
        }
    }
}

fn play_section(section: &Section, all: &[Section], programs: &Programs) -> Result<(), String> {
    let machines = Machines::new(programs);
    let named = |name: &String| {
        let found = all.iter().flat_map(|section| &section.blocks).find(|block| block.name == *name);
        found.unwrap_or_else(|| panic!("no block is called {name}"))
    };
    section.given.iter().map(named).chain(&section.blocks).try_for_each(|block| machines.play(block))
}

/// The machines of one section: a folder each, and ports in the place of addresses.
struct Machines {
    dir: tempfile::TempDir,
    /// From the document's `host:port` to ours.
    addresses: BTreeMap<String, String>,
    _ports: Vec<Port>,
}

impl Machines {
    fn new(programs: &Programs) -> Machines {
        let dir = tempfile::Builder::new().prefix("lockstep-runbook-").tempdir().unwrap();
        let script = |path: PathBuf, text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let tools = dir.path().join("tools");
        std::fs::create_dir(&tools).unwrap();
        TOOLS.iter().for_each(|(name, text)| script(tools.join(name), text));
        let (mut addresses, mut ports) = (BTreeMap::new(), Vec::new());
        for (name, host) in MACHINES {
            for port in [2379, 2380] {
                let own = Port::reserve();
                addresses.insert(format!("{host}:{port}"), own.address());
                ports.push(own);
            }
            let root = dir.path().join(name);
            for folder in ["root", "etc/systemd/system", "usr/local/bin"] {
                std::fs::create_dir_all(root.join(folder)).unwrap();
            }
            let [server, client, restorer] =
                [&programs.server, &programs.client, &programs.restorer].map(|program| program.display());
            script(root.join("root/lockstepd"), &format!("#!/bin/sh\nexec {server} \"$@\"\n"));
            let client = format!(
                "#!/bin/sh\ncase \"$*\" in *'snapshot restore'*) exec {restorer} \"$@\"; esac\nexec {client} \"$@\"\n"
            );
            script(root.join("root/lockstepctl"), &client);
        }
        Machines { dir, addresses, _ports: ports }
    }

    fn play(&self, block: &Block) -> Result<(), String> {
        for step in &block.steps {
            for (machine, _) in MACHINES.iter().filter(|(name, _)| step.machine == *name || step.machine == "all") {
                self.step(step, machine)?;
            }
        }
        Ok(())
    }

    /// A command that only looks is repeated until the machines have come to what is shown; so is one that was refused
    /// because members have not known each other for long enough.
    fn step(&self, step: &Step, machine: &str) -> Result<(), String> {
        let looks = [" get ", "endpoint ", "member list"].iter().any(|word| step.command.contains(word));
        // A busy machine is no reason to fail.
        let deadline = Instant::now() + Duration::from_secs(60);
        let expected = self.plain(&step.shown);
        loop {
            let (said, is_ok) = self.run(&step.command, machine);
            let got = self.plain(&said);
            if got == expected && (is_ok || step.shown.contains("Error: ")) {
                return Ok(());
            }
            let again = looks || said.contains("etcdserver: unhealthy cluster");
            if !again || Instant::now() >= deadline {
                let (line, command) = (step.line, &step.command);
                let logs: String = self.log_tail(machine);
                return Err(format!(
                    "line {line}, on {machine}: {command}\nsaid:\n{said}\nas compared: {got:#?}\n\
                     expected: {expected:#?}\n{logs}"
                ));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn run(&self, command: &str, machine: &str) -> (String, bool) {
        let root = self.dir.path().join(machine);
        let path = format!(
            "{}:{}:/usr/bin:/bin",
            self.dir.path().join("tools").display(),
            self.own("/usr/local/bin", machine)
        );
        let mut script = format!("exec 2>&1\n{command}");
        self.addresses.iter().for_each(|(theirs, ours)| script = script.replace(theirs, ours));
        FOLDERS.iter().for_each(|folder| script = script.replace(folder, &self.own(folder, machine)));
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(root.join("root")).env_clear().env("PATH", path);
        shell.env("HOST_ROOT", &root).env("ROOTS", self.dir.path()).env("LC_ALL", "C");
        let output = shell.stdin(Stdio::null()).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }

    fn own(&self, folder: &str, machine: &str) -> String {
        format!("{}/{machine}{folder}", self.dir.path().display())
    }

    fn log_tail(&self, machine: &str) -> String {
        let log = std::fs::read_to_string(self.dir.path().join(machine).join("lockstepd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// An output without what differs from run to run, its lines in order: members are listed by their ids.
    fn plain(&self, text: &str) -> Vec<String> {
        let mut text = text.to_string();
        for (theirs, ours) in &self.addresses {
            text = text.replace(ours.as_str(), theirs);
        }
        for (name, _) in MACHINES {
            text = text.replace(&self.dir.path().join(name).display().to_string(), "");
        }
        let mut vary = Vec::new();
        let mut lines = Vec::new();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if line.starts_with('|') {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                if vary.is_empty() {
                    vary = cells.iter().map(|title| VARY.contains(title)).collect();
                }
                let cells = cells.iter().zip(&vary).map(|(cell, vary)| if *vary { "*" } else { *cell });
                lines.push(cells.collect::<Vec<_>>().join("|"));
            } else if !line.starts_with('+') && !line.starts_with("{\"level\":") {
                lines.push(plain_line(line));
            }
        }
        lines.sort();
        lines
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for (name, _) in MACHINES {
            let root = self.dir.path().join(name);
            for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "pid") {
                    let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                    let Ok(id) = text.trim().parse::<libc::pid_t>() else { continue };
                    // The id may be somebody else's by now: only what runs in our folder is ours.
                    let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
                    let root = root.display().to_string();
                    if String::from_utf8_lossy(&environment).contains(&root) {
                        // SAFETY: kill(2) touches no memory of ours.
                        unsafe { libc::kill(id, libc::SIGKILL) };
                    }
                }
            }
        }
    }
}

fn plain_line(line: &str) -> String {
    if let Some((before, _)) = line.split_once("took = ") {
        return format!("{before}took = *");
    }
    if let Some(list) = line.strip_prefix("ETCD_INITIAL_CLUSTER=\"") {
        let mut members: Vec<&str> = list.trim_end_matches('"').split(',').collect();
        members.sort();
        return format!("ETCD_INITIAL_CLUSTER={}", members.join(","));
    }
    let is_json = line.starts_with('{');
    let mut out = String::new();
    for word in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let end = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
        let (word, sign) = word.split_at(end);
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_id = (12..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let vary = is_id || (is_number && (is_json || word.len() >= 8));
        out.push_str(if vary { "*" } else { word });
        out.push_str(sign);
    }
    // Short ids have a blank in front.
    out.replace("  *", " *")
}
