//! What `--help`, `--version` and a malformed command line print.

use std::fmt::Write as _;

use super::defs::SECTIONS;
use super::flags::{FlagDef, Status};
use crate::{ETCD_VERSION, VERSION};

/// The short part, on stderr.
pub fn usage(program: &str) -> String {
    let mut out = String::from("Usage:\n");
    for (form, what) in [
        ("[flags]", "Start a member."),
        ("--version", "Print the version."),
        ("-h | --help", "Print this and every flag."),
        ("--config-file", "Not supported yet: start from a YAML file."),
        ("gateway", "Not supported yet: forward TCP connections."),
        ("grpc-proxy", "Not supported yet: be a gRPC proxy."),
    ] {
        let _ = write!(out, "\n  {program} {form}\n    {what}\n");
    }
    out.push_str("\nEach flag is also a variable: --listen-client-urls is ETCD_LISTEN_CLIENT_URLS.\n");
    out
}

/// Every flag, on stdout.
pub fn flags() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let _ = write!(out, "\n{}:\n", section.title);
        for FlagDef { name, default, status, help, .. } in section.flags {
            let note = match status {
                Status::Works => String::new(),
                Status::NotYet(_) => " [not supported yet]".to_string(),
                Status::SafeNoOp => " [accepted, no effect]".to_string(),
                Status::Removed(instead) => format!(" [removed: {instead}]"),
            };
            let _ = write!(out, "  --{name} '{default}'\n    {help}{note}\n");
        }
    }
    out
}

/// Scripts read the first line; our own version comes after etcd's four.
pub fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {sha}\nGo Version: none (Rust)\nGo OS/Arch: {os}/{arch}\n\
         lockstepd Version: {VERSION}\n",
        sha = option_env!("LOCKSTEP_GIT_SHA").unwrap_or("Not provided"),
        os = std::env::consts::OS,
        arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
    )
}
