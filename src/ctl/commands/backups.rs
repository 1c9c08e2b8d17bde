//! `backups list | verify | now`: the backups that a server with `--backup-dir` takes by itself.
//!
//! `verify`, and `list` of a folder, need no server. A server is asked by plain HTTP on its client port, for this is no
//! part of etcd's API.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::snapshot::{failed, path_of};
use crate::ctl::client::Settings;
use crate::ctl::dial::{Address, errno_text};
use crate::ctl::golang::human_bytes;
use crate::ctl::{Context, Failure, code, say_error};
use crate::offline::backups;

pub static LIST_LONG: &str =
    "Without a folder it asks the servers at the endpoints, each of which tells of its own --backup-dir.
";
pub static VERIFY_LONG: &str = "Reads every file whole: its digest, its pages, and its rows as a restore would.
Of a folder, all backups in it. Fails if any of them is not good, and names it.
";
pub static NOW_LONG: &str = "The leader takes it: name all members with --endpoints, or the leader. There is no time
limit unless --command-timeout is given.
";

/// An answer of a server is no longer.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
const HEAD: [&str; 4] = ["name", "taken", "revision", "size"];
const VERIFIED_HEAD: [&str; 5] = ["name", "revision", "total keys", "total size", "verdict"];

pub fn list(context: &mut Context) -> Result<(), Failure> {
    let found = match context.flags.args.clone().as_slice() {
        [] => {
            let settings = Settings::read(context)?;
            let limit = Some(timeout(context, "command-timeout"));
            let mut all = Vec::new();
            for endpoint in &settings.endpoints {
                let (status, answer) = ask(context, endpoint, "GET", limit)?;
                let found = if status == 200 { answer.as_array().cloned() } else { None };
                all.extend(found.ok_or_else(|| refusal(endpoint, &answer))?);
            }
            // Members that share a folder tell of the same.
            all.sort_by_key(|one| (one["taken"].to_string(), one["name"].to_string()));
            all.dedup();
            all
        }
        [dir] => {
            choose(context)?;
            let found = backups::of(&path_of(dir)).map_err(failed)?;
            let shown = |(backup, bytes): &(backups::Backup, u64)| {
                let (name, taken, revision) = (backup.to_string(), backup.taken(), backup.revision);
                json!({ "name": name, "taken": taken, "revision": revision, "bytes": bytes })
            };
            found.iter().map(shown).collect()
        }
        _ => return Err(Failure::new(code::BAD_ARGS, "backups list expects one folder, or none")),
    };
    let rows = found.iter().map(row).collect();
    context.printer.backups(&HEAD, rows, &Value::Array(found))
}

pub fn verify(context: &mut Context) -> Result<(), Failure> {
    choose(context)?;
    if context.flags.args.is_empty() {
        return Err(Failure::new(code::BAD_ARGS, "backups verify expects files or folders"));
    }
    let mut paths = Vec::new();
    for path in context.flags.args.iter().map(|path| path_of(path)) {
        if !path.is_dir() {
            paths.push(path);
            continue;
        }
        let found = backups::of(&path).map_err(failed)?;
        if found.is_empty() {
            return Err(failed(format!("there are no backups in {}", path.display())));
        }
        paths.extend(found.iter().map(|(backup, _)| path.join(backup.to_string())));
    }
    let (mut rows, mut shown, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for path in &paths {
        let name = path.display().to_string();
        match backups::verify(path) {
            Ok(status) => {
                let size = human_bytes(status.total_bytes);
                rows.push(vec![
                    name.clone(),
                    status.revision.to_string(),
                    status.total_keys.to_string(),
                    size,
                    "ok".into(),
                ]);
                shown.push(json!({
                    "name": name, "revision": status.revision, "totalKey": status.total_keys,
                    "totalSize": status.total_bytes, "ok": true,
                }));
            }
            Err(error) => {
                say_error(&error.to_string());
                let empty = String::new;
                rows.push(vec![name.clone(), empty(), empty(), empty(), "damaged".into()]);
                shown.push(json!({ "name": name, "ok": false, "error": error.to_string() }));
                bad.push(name);
            }
        }
    }
    context.printer.backups(&VERIFIED_HEAD, rows, &Value::Array(shown))?;
    match bad.is_empty() {
        true => Ok(()),
        false => Err(failed(format!("not good: {} of {}: {}", bad.len(), paths.len(), bad.join(", ")))),
    }
}

pub fn now(context: &mut Context) -> Result<(), Failure> {
    if !context.flags.args.is_empty() {
        return Err(Failure::new(code::BAD_ARGS, "backups now accepts no arguments"));
    }
    let settings = Settings::read(context)?;
    let limit = context.flags.changed("command-timeout").then(|| timeout(context, "command-timeout"));
    let mut last = None;
    for endpoint in &settings.endpoints {
        let (status, taken) = match ask(context, endpoint, "POST", limit) {
            Ok(answer) => answer,
            Err(unreachable) => {
                last = Some(unreachable);
                continue;
            }
        };
        match status {
            200 => return context.printer.backups(&HEAD, vec![row(&taken)], &taken),
            // Another endpoint may be the leader's.
            421 => last = Some(refusal(endpoint, &taken)),
            _ => return Err(refusal(endpoint, &taken)),
        }
    }
    Err(last.unwrap_or_else(|| failed("there are no endpoints")))
}

/// For the commands that ask nobody.
fn choose(context: &mut Context) -> Result<(), Failure> {
    context.printer.choose(&context.flags.text("write-out"), context.flags.bool("hex"))
}

fn row(one: &Value) -> Vec<String> {
    let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let (revision, bytes) = (one["revision"].as_i64().unwrap_or_default(), one["bytes"].as_u64().unwrap_or_default());
    vec![text("name"), text("taken"), revision.to_string(), human_bytes(bytes)]
}

fn refusal(endpoint: &str, answer: &Value) -> Failure {
    let text = answer["error"].as_str().unwrap_or("it is no server of Lockstep, or one without backups");
    failed(format!("{endpoint}: {text}"))
}

fn timeout(context: &Context, flag: &str) -> Duration {
    // None at all would be refused by the sockets.
    Duration::from_nanos(u64::try_from(context.flags.duration(flag)).unwrap_or(0).max(1))
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One request; the status and what the body says, `Null` where that is no JSON.
fn ask(context: &Context, endpoint: &str, method: &str, limit: Option<Duration>) -> Result<(u16, Value), Failure> {
    let dial = timeout(context, "dial-timeout");
    let unreachable =
        |why: &dyn std::fmt::Display| Failure::new(code::BAD_CONNECTION, format!("{endpoint}: {}", errno_text(why)));
    let address = Address::of(endpoint);
    let opened: std::io::Result<Box<dyn Stream>> = match &address {
        Address::Tcp(text) => text.to_socket_addrs().and_then(|mut all| {
            let first = all.next().ok_or_else(|| std::io::Error::other("no such host"))?;
            let stream = TcpStream::connect_timeout(&first, dial)?;
            stream.set_read_timeout(limit)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }),
        Address::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(limit)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }),
    };
    let mut stream = opened.map_err(|error| unreachable(&error))?;
    let host = match &address {
        Address::Tcp(text) => text,
        Address::Unix(_) => "localhost",
    };
    let request = format!(
        "{method} /lockstep/backups HTTP/1.0\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    let asked =
        stream.write_all(request.as_bytes()).and_then(|()| stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
    asked.map_err(|error| unreachable(&error))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}
