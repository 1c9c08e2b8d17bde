//! `snapshot save | restore | status`: a member's state in a file of etcd's format.
//!
//! A file has its name only when it is whole, durable and verified; what is cut short leaves at most `<name>.part`. The
//! lines on standard error are etcdctl's, which are of its loggers.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::time::timeout_at;
use tonic::Streaming;

use lockstep_proto::etcdserverpb::SnapshotResponse;

use crate::ctl::client::{Client, never, runtime, stream_error};
use crate::ctl::flags::{Flag, Flags, Kind, flag};
use crate::ctl::golang::{human_bytes, json_string, now_epoch};
use crate::ctl::progress::Flow;
use crate::ctl::{Context, Failure, code, emit, say_error};
use crate::interop::etcd::REVISIONS;
use crate::interop::snapshot::{self, DIGEST_BYTES, Sum};
use crate::interop::status;
use crate::offline::file::reason;
use crate::offline::{self, Event, Request, Snapshot};

pub static STATUS_LONG: &str = "With --write-out=simple it is a line of comma-separated items:
hash, revision, total keys, total size.
";
pub static RESTORE_FLAGS: &[Flag] = &[
    flag("data-dir", Kind::Text, "", "the directory to restore to ({name}.etcd by default)"),
    flag("wal-dir", Kind::Text, "", "the directory of the log (within the data directory by default)"),
    flag("initial-cluster", Kind::Text, "default=http://localhost:2380", "the members of the new cluster"),
    flag("initial-cluster-token", Kind::Text, "etcd-cluster", "the token of the new cluster"),
    flag("initial-advertise-peer-urls", Kind::Text, "http://localhost:2380", "this member's peer URLs"),
    flag("name", Kind::Text, "default", "this member's name"),
    flag("skip-hash-check", Kind::Bool, "false", "do not ask for a digest (for a copy of a data directory's file)"),
    flag("bump-revision", Kind::Int, "0", "how far to move the revision ahead"),
    flag("mark-compacted", Kind::Bool, "false", "compact what is below (goes with --bump-revision)"),
    flag("initial-memory-map-size", Kind::Int, "10737418240", "for etcd's scripts: nothing is mapped here"),
];

pub fn save(context: &mut Context) -> Result<(), Failure> {
    let [path] = context.flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "snapshot save expects one argument"));
    };
    let path = path_of(path);
    let client = Client::open(context)?;
    let [endpoint] = client.settings.endpoints.as_slice() else {
        let all = client.settings.endpoints.join(" ");
        return Err(interrupted(format!("snapshot must be requested to one selected node, not multiple [{all}]")));
    };
    let mut part = Part::create(&path).map_err(interrupted)?;
    let shown = json_string(part.path.to_string_lossy().as_bytes());
    log("snapshot/v3_snapshot.go:68", "created temporary db file", &format!(r#","path":{shown}"#));
    let started = Instant::now();
    // As with etcdctl, a download may take its time unless a limit is given; reaching the member may not.
    let limit = if context.flags.changed("command-timeout") { client.deadline() } else { never() };
    let endpoint = json_string(endpoint.as_bytes());
    let bytes = runtime().block_on(async {
        let stream = client.snapshot_until(client.deadline()).await?;
        log_client("v3/maintenance.go:211", "opened snapshot stream; downloading");
        log("snapshot/v3_snapshot.go:76", "fetching snapshot", &format!(r#","endpoint":{endpoint}"#));
        let taken = timeout_at(limit, part.take(stream)).await;
        taken.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    });
    let bytes = bytes.map_err(interrupted)?;
    log_client("v3/maintenance.go:219", "completed snapshot read; closing");
    part.sync().map_err(interrupted)?;
    let took = ago(started.elapsed());
    let size = human_bytes(bytes);
    let more = format!(r#","endpoint":{endpoint},"size":"{size}","took":"{took}""#);
    log("snapshot/v3_snapshot.go:91", "fetched snapshot", &more);
    part.name(&path).map_err(interrupted)?;
    let shown = json_string(path.to_string_lossy().as_bytes());
    log("snapshot/v3_snapshot.go:100", "saved", &format!(r#","path":{shown}"#));
    emit(format!("Snapshot saved at {}\n", path.display()).as_bytes());
    Ok(())
}

pub fn status(context: &mut Context) -> Result<(), Failure> {
    moved(context, "status");
    let [path] = context.flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "snapshot status requires exactly one argument"));
    };
    context.printer.choose(&context.flags.text("write-out"), context.flags.bool("hex"))?;
    let snapshot = Snapshot::open(&path_of(path), "stat").map_err(failed)?;
    let status = status::status(&snapshot.database().map_err(failed)?).map_err(failed)?;
    context.printer.snapshot_status(&status)
}

pub fn restore(context: &mut Context) -> Result<(), Failure> {
    moved(context, "restore");
    let flags = &context.flags;
    let [path] = flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "snapshot restore requires exactly one argument"));
    };
    let name = flags.text("name");
    let request = Request {
        snapshot: path_of(path),
        data_dir: match flags.bytes("data-dir") {
            b"" => format!("{name}.etcd").into(),
            dir => path_of(dir),
        },
        wal_dir: Some(flags.bytes("wal-dir")).filter(|dir| !dir.is_empty()).map(path_of),
        initial_cluster: flags.text("initial-cluster"),
        initial_cluster_token: flags.text("initial-cluster-token"),
        initial_advertise_peer_urls: flags.text("initial-advertise-peer-urls"),
        name,
        skip_hash_check: flags.bool("skip-hash-check"),
        bump_revision: bump(flags)?,
    };
    let mut shown = Shown::default();
    offline::restore(&request, &mut |event| shown.tell(&request, event)).map_err(failed)
}

/// How far `--bump-revision` moves; it and `--mark-compacted` go together.
pub fn bump(flags: &Flags) -> Result<i64, Failure> {
    let bump = flags.int("bump-revision");
    if !(0..=*REVISIONS.end()).contains(&bump) {
        let text = format!("--bump-revision moves the revision ahead, and not by {bump}");
        return Err(Failure::new(code::BAD_ARGS, text));
    }
    if (bump > 0) != flags.bool("mark-compacted") {
        return Err(Failure::new(code::BAD_ARGS, "--mark-compacted required if --revision-bump > 0"));
    }
    Ok(bump)
}

/// What is shown of a restore.
#[derive(Default)]
pub struct Shown {
    loading: Option<Flow>,
}

impl Shown {
    pub fn tell(&mut self, request: &Request, event: Event<'_>) {
        self.loading = match (event, self.loading.take()) {
            (Event::Loading { bytes, of }, loading) => {
                let mut loading = loading.unwrap_or_else(|| Flow::new(of));
                loading.at(bytes);
                Some(loading)
            }
            (event, loading) => {
                loading.into_iter().for_each(Flow::finish);
                log_restore(request, event);
                None
            }
        };
    }
}

/// The lines of etcdctl 3.4's restore, in JSON.
fn log_restore(request: &Request, event: Event<'_>) {
    let quoted = |path: &Path| json_string(path.to_string_lossy().as_bytes());
    let paths = || {
        let (path, wal) = (quoted(&request.snapshot), quoted(&request.wal_path()));
        let (data, snap) = (quoted(&request.data_dir), quoted(&request.snap_dir()));
        format!(r#","path":{path},"wal-dir":{wal},"data-dir":{data},"snap-dir":{snap}"#)
    };
    match event {
        Event::Started => log("snapshot/v3_snapshot.go:296", "restoring snapshot", &paths()),
        Event::Loading { .. } | Event::Loaded { .. } => {}
        Event::Bumped { from, by } => {
            let to = from + by;
            let more = format!(r#","latest-revision":{from},"bump-amount":{by},"new-latest-revision":{to}"#);
            log("snapshot/v3_snapshot.go:397", "bumping latest revision", &more);
            let more = format!(r#","revision":{to}"#);
            log("snapshot/v3_snapshot.go:414", "marking revision compacted", &more);
        }
        Event::Added { cluster_id, member } => {
            let urls: Vec<String> = member.peer_urls.iter().map(|url| json_string(url.as_bytes())).collect();
            let (id, urls) = (member.id, urls.join(","));
            let more = format!(r#","cluster-id":"{cluster_id:x}","local-member-id":"0","added-peer-id":"{id:x}","#,)
                + &format!(r#""added-peer-peer-urls":[{urls}]"#);
            log("membership/cluster.go:392", "added member", &more);
        }
        Event::Finished => log("snapshot/v3_snapshot.go:309", "restored snapshot", &paths()),
    }
}

pub fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(code::ERROR, error.to_string())
}

pub fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

fn interrupted(error: impl std::fmt::Display) -> Failure {
    Failure::new(code::INTERRUPTED, error.to_string())
}

/// etcdctl 3.5 points to a program that we have no need for.
fn moved(context: &Context, command: &str) {
    if context.program == "etcdctl" {
        say_error(&format!("Deprecated: Use `etcdutl snapshot {command}` instead.\n"));
    }
}

/// A line of the command's logger.
fn log(caller: &str, message: &str, more: &str) {
    say_error(&format!(r#"{{"level":"info","ts":{},"caller":"{caller}","msg":"{message}"{more}}}"#, now_epoch()));
}

/// A line of its client's.
fn log_client(caller: &str, message: &str) {
    let ts = now_epoch();
    say_error(&format!(r#"{{"level":"info","ts":{ts},"logger":"client","caller":"{caller}","msg":"{message}"}}"#));
}

/// How long ago something was, as etcdctl tells people.
fn ago(took: Duration) -> String {
    let (minute, hour) = (60, 3_600);
    match took.as_secs() {
        0 => "now".to_owned(),
        1 => "1 second ago".to_owned(),
        s if s < minute => format!("{s} seconds ago"),
        s if s < 2 * minute => "1 minute ago".to_owned(),
        s if s < hour => format!("{} minutes ago", s / minute),
        s if s < 2 * hour => "1 hour ago".to_owned(),
        s => format!("{} hours ago", s / hour),
    }
}

/// A file that is not whole yet; gone when this is dropped before it has its name.
struct Part {
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl Part {
    fn create(target: &Path) -> Result<Part, String> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|error| {
            let shown = path.display();
            format!("could not open {shown} (open {shown}: {})", reason(&error))
        })?;
        Ok(Part { path, file, is_named: false })
    }

    /// Writes what comes, and compares the digest at its end.
    async fn take(&mut self, mut stream: Streaming<SnapshotResponse>) -> Result<u64, String> {
        let mut bytes = 0;
        let mut digest = Sha256::new();
        // The last of it may be the digest.
        let mut end: Vec<u8> = Vec::new();
        let mut shown: Option<Flow> = None;
        while let Some(piece) = stream.message().await.map_err(|status| stream_error(&status))? {
            let whole = bytes + piece.blob.len() as u64 + piece.remaining_bytes;
            self.file.write_all(&piece.blob).map_err(|error| self.says("write", &error))?;
            bytes += piece.blob.len() as u64;
            end.extend_from_slice(&piece.blob);
            let before = end.len().saturating_sub(DIGEST_BYTES);
            digest.update(&end[..before]);
            end.drain(..before);
            shown.get_or_insert_with(|| Flow::new(whole)).at(bytes);
        }
        if let Some(shown) = shown {
            shown.finish();
        }
        if !snapshot::database_bytes(bytes).1 {
            return Err(format!("sha256 checksum not found [bytes: {bytes}]"));
        }
        let found = Sum(digest.finalize().into());
        match <[u8; DIGEST_BYTES]>::try_from(&end[..]).map(Sum) {
            Ok(expected) if expected == found => Ok(bytes),
            Ok(expected) => Err(snapshot::Error::Mismatch { expected, found }.to_string()),
            Err(_) => Err(snapshot::Error::Missing.to_string()),
        }
    }

    fn sync(&self) -> Result<(), String> {
        self.file.sync_all().map_err(|error| self.says("sync", &error))
    }

    fn name(&mut self, target: &Path) -> Result<(), String> {
        fs::rename(&self.path, target).map_err(|error| {
            let why = format!("rename {} {}: {}", self.path.display(), target.display(), reason(&error));
            format!("could not rename {} to {} ({why})", self.path.display(), target.display())
        })?;
        self.is_named = true;
        let above = target.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(above).and_then(|above| above.sync_all());
        synced.map_err(|error| format!("sync {}: {}", above.display(), reason(&error)))
    }

    fn says(&self, doing: &str, error: &std::io::Error) -> String {
        format!("{doing} {}: {}", self.path.display(), reason(error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_named {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}
