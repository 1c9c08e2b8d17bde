//! `lockstepctl`, etcdctl by another name: its commands, flags, environment, output and exit codes.
//!
//! Reads as a story: [`run`] finds the command a line means, reads its flags, and lets `commands/` do the rest. What a
//! script sees of etcdctl 3.5.1 it sees here byte for byte; only help texts are our own.

pub mod client;
pub mod commands;
pub mod complete;
pub mod concurrency;
pub mod dial;
pub mod exec;
pub mod flags;
pub mod golang;
pub mod printer;
pub mod progress;
pub mod session;
pub mod tree;
pub mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use commands::{
    alarm, backups, check, cluster, compaction, completion, defrag, del, elect, endpoint, get, import, lease, lock,
    log, make_mirror, member, move_leader, offline, put, snapshot, txn, version as version_command,
    watch as watch_command,
};
use flags::{Flag, Flags, Kind, flag, flag_short};
use printer::Printer;
use tree::Command;

/// The API's version, as `version` prints it.
pub const API_VERSION: &str = "3.7";

/// etcdctl's exit codes.
pub mod code {
    pub const OK: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const BAD_CONNECTION: u8 = 2;
    /// A transaction that does not parse.
    pub const INVALID_INPUT: u8 = 3;
    /// A known flag with a value that does not exist.
    pub const BAD_FEATURE: u8 = 4;
    /// The server ended what should go on.
    pub const INTERRUPTED: u8 = 5;
    pub const BAD_ARGS: u8 = 128;
}

/// Why a command ends without success: the exit code, and what follows `Error: `.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: Option<String>,
    logged: Option<String>,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: Some(message.into()), logged: None }
    }

    /// Everything has been said.
    pub fn silent(code: u8) -> Failure {
        Failure { code, message: None, logged: None }
    }

    /// A line of a log instead of an error.
    pub fn logged(line: String) -> Failure {
        Failure { code: code::ERROR, message: None, logged: Some(line) }
    }
}

/// What a command gets: its flags and arguments, and the printer it answers through.
#[derive(Debug)]
pub struct Context {
    pub program: String,
    pub flags: Flags,
    /// The flags that came from the commands above: those the environment may set.
    pub inherited: Vec<&'static Flag>,
    pub printer: Printer,
}

/// What a command does.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Run(fn(&mut Context) -> Result<(), Failure>),
    Help,
    /// etcdctl has it, this program will.
    Later,
}

/// Runs one command line (`args` without the program's name) under the name `program`, and returns the exit code.
pub fn run(program: &str, args: impl IntoIterator<Item = OsString>) -> u8 {
    match std::env::var_os("ETCDCTL_API").as_deref().map(OsStrExt::as_bytes) {
        None | Some(b"" | b"3") => {}
        Some(b"2") => {
            say_error("Error: the v2 API (ETCDCTL_API=2) is not supported yet; unset ETCDCTL_API or set it to 3");
            return code::ERROR;
        }
        Some(other) => {
            say_error(&format!("unsupported API version: {}", String::from_utf8_lossy(other)));
            return code::ERROR;
        }
    }
    match execute(program, flags::to_bytes(args)) {
        Ok(()) => code::OK,
        Err(failure) => {
            if let Some(line) = failure.logged {
                say_error(&line);
            }
            if let Some(message) = failure.message {
                say_error(&format!("Error: {message}"));
            }
            failure.code
        }
    }
}

/// The name this program was called by: it answers as `etcdctl` and `etcdutl` when it is called so.
pub fn program_name(argv0: Option<OsString>) -> String {
    let name = argv0.as_deref().and_then(|path| Path::new(path).file_name()).map(|name| name.to_string_lossy());
    let theirs = ["etcdctl", "etcdutl"].into_iter().find(|theirs| name.as_deref() == Some(theirs));
    theirs.unwrap_or("lockstepctl").into()
}

fn execute(program: &str, args: Vec<Vec<u8>>) -> Result<(), Failure> {
    let root = if program == "etcdutl" { offline_root() } else { root() };
    if let Some((name, words)) = args.split_first()
        && name == complete::COMMAND.as_bytes()
    {
        emit(&complete::candidates(root, words));
        return Ok(());
    }
    let found = tree::find(root, program, &args).map_err(|text| {
        // Twice, as cobra and then etcdctl say it.
        say_error(&format!("Error: {text}\nRun '{program} --help' for usage."));
        Failure::new(code::ERROR, text)
    })?;
    let mut flags = Flags::new(&found.tables());
    if matches!(found.command().action, Some(Action::Later)) {
        // Their flags are not there yet either.
        let words: Vec<&str> = found.path.iter().skip(1).map(|command| command.name).collect();
        return Err(Failure::new(code::ERROR, format!("{program} {} is not supported yet", words.join(" "))));
    }
    if let Err(text) = flags.parse(&found.rest) {
        emit(tree::help(&found.path, program).as_bytes());
        say_error(&format!("Error: {text}\n"));
        return Err(Failure::new(code::ERROR, text));
    }
    if flags.bool("help") {
        emit(tree::help(&found.path, program).as_bytes());
        return Ok(());
    }
    let inherited = found.inherited();
    let mut context = Context { program: program.to_string(), flags, inherited, printer: Printer::default() };
    match found.command().action {
        Some(Action::Run(run)) => run(&mut context),
        Some(Action::Help) => tree::help_topic(root, program, &context.flags.args),
        Some(Action::Later) | None => {
            emit(tree::help(&found.path, program).as_bytes());
            Ok(())
        }
    }
}

/// Writes to standard output. A reader that went away is nobody's problem.
pub fn emit(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Writes to standard output what a command prints that goes on. It ends with its reader, as a Go program does.
pub fn emit_live(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err_and(|why| why.kind() == std::io::ErrorKind::BrokenPipe) {
        // SAFETY: both calls are safe at any time; the process ends in the second.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::raise(libc::SIGPIPE);
        }
    }
}

/// Writes a line to standard error.
pub fn say_error(line: &str) {
    say_error_bytes(format!("{line}\n").as_bytes());
}

/// Writes to standard error.
pub fn say_error_bytes(bytes: &[u8]) {
    let _ = std::io::stderr().lock().write_all(bytes);
}

/// The version of the program by that name.
pub fn version(program: &str) -> &'static str {
    if program == "lockstepctl" { crate::VERSION } else { crate::ETCD_VERSION }
}

/// The help of one of the commands below the root, for a line of a transaction.
fn program_help(name: &str) -> String {
    let root = root();
    let command = root.children.iter().find(|child| child.name == name);
    tree::help(&command.into_iter().fold(vec![root], |path, command| [path, vec![command]].concat()), "etcdctl")
}

/// The flags of every command.
pub const GLOBAL: &[Flag] = &[
    flag("endpoints", Kind::List, "127.0.0.1:2379", "where the cluster's members listen for clients"),
    flag("debug", Kind::Bool, "false", "show what the client uses"),
    flag_short("write-out", 'w', Kind::Text, "simple", "output format (fields, json, protobuf, simple, table)"),
    flag("hex", Kind::Bool, "false", "print byte strings in hexadecimal"),
    flag("dial-timeout", Kind::Duration, "2s", "time limit of one attempt to connect"),
    flag("command-timeout", Kind::Duration, "5s", "time limit of a short command"),
    flag("keepalive-time", Kind::Duration, "2s", "how often an idle connection is tried"),
    flag("keepalive-timeout", Kind::Duration, "6s", "how long a tried connection may be silent"),
    flag("insecure-transport", Kind::Bool, "true", "talk to the members without TLS"),
    flag("insecure-discovery", Kind::Bool, "true", "accept SRV records that name members without TLS"),
    flag("insecure-skip-tls-verify", Kind::Bool, "false", "do not check the members' certificates (for tests only)"),
    flag("cert", Kind::Text, "", "this client's TLS certificate"),
    flag("key", Kind::Text, "", "the key of this client's TLS certificate"),
    flag("cacert", Kind::Text, "", "the CA bundle that members' certificates are checked with"),
    flag("user", Kind::Text, "", "username[:password] to log in with (asks for a missing password)"),
    flag("password", Kind::Text, "", "password to log in with (--user has none then)"),
    flag_short("discovery-srv", 'd', Kind::Text, "", "domain whose SRV records name the members"),
    flag("discovery-srv-name", Kind::Text, "", "service name in those SRV records"),
];

fn root() -> &'static Command {
    static ROOT: OnceLock<Command> = OnceLock::new();
    ROOT.get_or_init(|| Command {
        name: "lockstepctl",
        usage: "",
        short: "A simple command line client for etcd and Lockstep.",
        long: "",
        flags: &[],
        shared: GLOBAL,
        children: CHILDREN,
        action: None,
    })
}

/// The commands that ask no server.
fn offline_root() -> &'static Command {
    static ROOT: OnceLock<Command> = OnceLock::new();
    ROOT.get_or_init(|| Command {
        name: "etcdutl",
        short: "An administrative command line tool for etcd and Lockstep.",
        children: OFFLINE,
        ..*root()
    })
}

const fn leaf(name: &'static str, usage: &'static str, short: &'static str, action: Action) -> Command {
    Command { name, usage, short, long: "", flags: &[], shared: &[], children: &[], action: Some(action) }
}

const fn group(name: &'static str, short: &'static str, children: &'static [Command]) -> Command {
    Command { name, usage: "<subcommand>", short, long: "", flags: &[], shared: &[], children, action: None }
}

const fn later(name: &'static str, short: &'static str) -> Command {
    leaf(name, "", short, Action::Later)
}

const VERSION: Command = leaf("version", "", "Prints the version", Action::Run(version_command::run));

const SNAPSHOT: Command = group("snapshot", "Snapshots", SNAPSHOT_COMMANDS);
const SNAPSHOT_COMMANDS: &[Command] = &[
    leaf("save", "<filename>", "Saves a member's snapshot to a file", Action::Run(snapshot::save)),
    Command {
        flags: snapshot::RESTORE_FLAGS,
        ..leaf(
            "restore",
            "<filename> [options]",
            "Restores a snapshot to a data directory",
            Action::Run(snapshot::restore),
        )
    },
    Command {
        long: snapshot::STATUS_LONG,
        ..leaf("status", "<filename>", "Shows a snapshot file", Action::Run(snapshot::status))
    },
];

const DEFRAG: Command = Command {
    flags: defrag::FLAGS,
    shared: endpoint::SHARED,
    ..leaf("defrag", "", "Defragments the stores of the members at the endpoints", Action::Run(defrag::run))
};

const IMPORT: Command = Command {
    flags: import::FLAGS,
    long: import::LONG,
    ..leaf(
        "import",
        "--from-etcd {dir} --data-dir {dir} [options]",
        "Takes over the data directory of a stopped etcd",
        Action::Run(import::run),
    )
};

const COMPLETION: Command = Command {
    long: completion::LONG,
    ..leaf(
        "completion",
        "[bash|zsh|fish|powershell]",
        "Prints a completion script for a shell",
        Action::Run(completion::run),
    )
};

const HASHKV: Command = Command {
    flags: offline::HASHKV_FLAGS,
    long: offline::HASHKV_LONG,
    ..leaf("hashkv", "<filename> [options]", "Prints the KV history hash of a given file", Action::Run(offline::hashkv))
};

const VERIFY: Command = Command {
    flags: offline::VERIFY_FLAGS,
    long: offline::VERIFY_LONG,
    ..leaf(
        "verify",
        "--data-dir {dir}",
        "Verifies the data directory of a stopped member",
        Action::Run(offline::verify),
    )
};

const LOG: Command = group("log", "Write-ahead logs", LOG_COMMANDS);
const LOG_COMMANDS: &[Command] = &[Command {
    flags: log::DUMP_FLAGS,
    long: log::DUMP_LONG,
    ..leaf("dump", "--data-dir {dir} [options]", "Shows the log of a stopped member", Action::Run(log::dump_log))
}];

/// What etcdutl has, and what is like it.
static OFFLINE: &[Command] = &[
    DEFRAG,
    SNAPSHOT,
    HASHKV,
    VERIFY,
    LOG,
    IMPORT,
    VERSION,
    COMPLETION,
    leaf("help", "[command]", "Help about any command", Action::Help),
];

/// In the order in which etcdctl suggests them.
static CHILDREN: &[Command] = &[
    Command {
        flags: get::FLAGS,
        ..leaf("get", "[options] <key> [range_end]", "Gets a key or a range of keys", Action::Run(get::run))
    },
    Command {
        flags: put::FLAGS,
        long: put::LONG,
        ..leaf(
            "put",
            "[options] <key> <value> (<value> can also come from stdin)",
            "Stores a value under a key",
            Action::Run(put::run),
        )
    },
    Command {
        flags: del::FLAGS,
        ..leaf("del", "[options] <key> [range_end]", "Deletes a key or a range of keys", Action::Run(del::run))
    },
    Command {
        flags: txn::FLAGS,
        ..leaf("txn", "[options]", "Runs compares and requests as one transaction", Action::Run(txn::run))
    },
    Command {
        flags: compaction::FLAGS,
        ..leaf("compaction", "[options] <revision>", "Forgets what is older", Action::Run(compaction::run))
    },
    group(
        "alarm",
        "Alarms",
        &[
            leaf("disarm", "", "Disarms all alarms", Action::Run(alarm::disarm)),
            leaf("list", "", "Lists all alarms", Action::Run(alarm::list)),
        ],
    ),
    DEFRAG,
    Command {
        shared: endpoint::SHARED,
        ..group(
            "endpoint",
            "Looks at endpoints one by one",
            &[
                leaf("health", "", "Checks whether endpoints are healthy", Action::Run(endpoint::health)),
                Command {
                    long: endpoint::STATUS_LONG,
                    ..leaf("status", "", "Prints the status of endpoints", Action::Run(endpoint::status))
                },
                Command {
                    flags: endpoint::HASHKV_FLAGS,
                    ..leaf("hashkv", "", "Prints the hash of each endpoint's history", Action::Run(endpoint::hashkv))
                },
            ],
        )
    },
    leaf(
        "move-leader",
        "<transferee-member-id>",
        "Hands the leadership to another member",
        Action::Run(move_leader::run),
    ),
    Command {
        flags: watch_command::FLAGS,
        long: watch_command::LONG,
        ..leaf(
            "watch",
            "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
            "Watches keys",
            Action::Run(watch_command::run),
        )
    },
    VERSION,
    group(
        "lease",
        "Leases",
        &[
            leaf("grant", "<ttl>", "Grants a lease", Action::Run(lease::grant)),
            leaf("revoke", "<leaseID>", "Revokes a lease", Action::Run(lease::revoke)),
            Command {
                flags: lease::TIMETOLIVE_FLAGS,
                ..leaf("timetolive", "<leaseID> [options]", "Shows a lease", Action::Run(lease::timetolive))
            },
            leaf("list", "", "Lists all leases", Action::Run(lease::list)),
            Command {
                flags: lease::KEEP_ALIVE_FLAGS,
                ..leaf("keep-alive", "[options] <leaseID>", "Keeps a lease alive", Action::Run(lease::keepalive))
            },
        ],
    ),
    group(
        "member",
        "Membership",
        &[
            Command {
                flags: member::ADD_FLAGS,
                long: member::ADD_LONG,
                ..leaf("add", "<memberName> [options]", "Adds a member to the cluster", Action::Run(member::add))
            },
            leaf("remove", "<memberID>", "Removes a member from the cluster", Action::Run(member::remove)),
            Command {
                flags: member::UPDATE_FLAGS,
                ..leaf("update", "<memberID> [options]", "Updates a member's peer URLs", Action::Run(member::update))
            },
            Command {
                flags: member::LIST_FLAGS,
                long: member::LIST_LONG,
                ..leaf("list", "", "Lists all members of the cluster", Action::Run(member::list))
            },
            leaf("promote", "<memberID>", "Gives a learner its vote", Action::Run(member::promote)),
        ],
    ),
    SNAPSHOT,
    group(
        "backups",
        "Backups that servers take by themselves",
        &[
            Command {
                long: backups::LIST_LONG,
                ..leaf("list", "[folder]", "Lists backups", Action::Run(backups::list))
            },
            Command {
                long: backups::VERIFY_LONG,
                ..leaf("verify", "<file or folder>...", "Reads backups back", Action::Run(backups::verify))
            },
            Command { long: backups::NOW_LONG, ..leaf("now", "", "Takes a backup now", Action::Run(backups::now)) },
        ],
    ),
    group(
        "cluster",
        "Whole clusters",
        &[Command {
            flags: cluster::RESTORE_FLAGS,
            long: cluster::RESTORE_LONG,
            ..leaf(
                "restore",
                "<filename> --initial-cluster {members} --output {dir} [options]",
                "Restores a snapshot to the data directories of all members of a new cluster",
                Action::Run(cluster::restore),
            )
        }],
    ),
    IMPORT,
    HASHKV,
    VERIFY,
    LOG,
    Command {
        flags: make_mirror::FLAGS,
        long: make_mirror::LONG,
        ..leaf(
            "make-mirror",
            "[options] <destination>",
            "Mirrors keys to another cluster",
            Action::Run(make_mirror::run),
        )
    },
    Command {
        flags: lock::FLAGS,
        long: lock::LONG,
        ..leaf("lock", "<lockname> [exec-command arg1 arg2 ...]", "Acquires a named lock", Action::Run(lock::run))
    },
    Command {
        flags: elect::FLAGS,
        ..leaf("elect", "<election-name> [proposal]", "Takes part in an election", Action::Run(elect::run))
    },
    group(
        "auth",
        "Authentication",
        &[
            later("enable", "Enables authentication"),
            later("disable", "Disables authentication"),
            later("status", "Shows whether authentication is on"),
        ],
    ),
    group(
        "user",
        "Users",
        &[
            later("add", "Adds a user"),
            later("delete", "Deletes a user"),
            later("get", "Shows a user"),
            later("list", "Lists all users"),
            later("passwd", "Changes a user's password"),
            later("grant-role", "Grants a role to a user"),
            later("revoke-role", "Revokes a role from a user"),
        ],
    ),
    group(
        "role",
        "Roles",
        &[
            later("add", "Adds a role"),
            later("delete", "Deletes a role"),
            later("get", "Shows a role"),
            later("list", "Lists all roles"),
            later("grant-permission", "Grants a permission to a role"),
            later("revoke-permission", "Revokes a permission from a role"),
        ],
    ),
    group(
        "check",
        "Checks of the cluster",
        &[
            Command {
                flags: check::PERF_FLAGS,
                ..leaf("perf", "[options]", "Checks the cluster's speed", Action::Run(check::perf))
            },
            Command {
                flags: check::DATASCALE_FLAGS,
                long: check::DATASCALE_LONG,
                ..leaf("datascale", "[options]", "Checks the memory a data size takes", Action::Run(check::datascale))
            },
        ],
    ),
    COMPLETION,
    leaf("help", "[command]", "Help about any command", Action::Help),
];
