//! Scheduled backups on real processes: who takes them, what they hold, what is refused, and what a bad folder, a
//! killed member or a flipped bit leads to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lockstep::interop::backup::{Backup, expired};
use lockstep::proto::etcdserverpb::{HashKvRequest, PutRequest};
use serde_json::Value;

use crate::util::client::Client;
use crate::util::process::{Cluster, Kind, http_get};
use crate::util::volume::Volume;

const DAY_S: u64 = 86_400;

#[test]
fn a_name_tells_what_it_is_a_backup_of_and_nothing_else_is_taken_for_one() {
    let name = "backup-00000000000000ab-20240229T235959Z-17.db";
    let backup = Backup::parse(name).expect("it is a backup's");
    assert_eq!(backup, Backup { cluster_id: 0xab, taken_s: 1_709_251_199, revision: 17 });
    assert_eq!((backup.to_string().as_str(), backup.taken().as_str()), (name, "2024-02-29T23:59:59Z"));
    let others = [
        "snapshot.db",
        "backup-ab-20240229T235959Z-17.db",
        "backup-00000000000000ab-20230229T235959Z-17.db",
        "backup-00000000000000ab-20241301T000000Z-17.db",
        "backup-00000000000000ab-20240229T235960Z-17.db",
        "backup-00000000000000ab-20240229T235959Z-017.db",
        "backup-00000000000000ab-20240229T235959Z-17.db.part",
        "backup-00000000000000ab-2024022\u{e9}T235959Z-17.db",
        ".tmp-backup-00000000000000ab-20240229T235959Z-17.db",
    ];
    for other in others {
        assert_eq!(Backup::parse(other), None, "{other}");
    }
}

#[test]
fn only_old_backups_of_the_same_cluster_go_and_never_the_newest() {
    let at = |cluster_id, day: u64| Backup { cluster_id, taken_s: day * DAY_S, revision: day as i64 };
    let all = [at(1, 10), at(1, 20), at(1, 30), at(2, 10), at(1, 50)];
    let newest = at(1, 30);
    // Now in days, retention in days, and whose days go.
    let table: [(u64, u64, &[u64]); 6] = [
        (30, 15, &[10]),
        (30, 5, &[10, 20]),
        (30, 20, &[]),
        (30, 0, &[]),
        // The clock was set ahead, and back: what is said to be of the future stays.
        (90, 5, &[10, 20, 50]),
        (5, 1, &[]),
    ];
    for (now, retention, gone) in table {
        let gone: Vec<Backup> = gone.iter().map(|day| at(1, *day)).collect();
        assert_eq!(expired(&all, &newest, now * DAY_S, retention * DAY_S), gone, "at {now}, {retention} kept");
    }
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let table = [
        (vec!["--backup-interval=1h"], "--backup-interval needs --backup-dir"),
        (vec!["--backup-retention=1h"], "--backup-retention needs --backup-dir"),
        (vec!["--backup-dir=b", "--backup-interval=0s"], "--backup-interval must be at least 1s (set to 0s)"),
        (vec!["--backup-dir=b", "--backup-interval=-1h"], "--backup-interval must be at least 1s (set to -1h)"),
        (vec!["--backup-dir=b", "--backup-interval=9999999h"], "parse error"),
        (vec!["--backup-dir=b", "--backup-retention=-1h"], "--backup-retention must not be negative"),
        (vec!["--backup-dir=default.etcd/member/x"], "lies within the data directory"),
    ];
    for (flags, said) in table {
        let output = Command::new(env!("CARGO_BIN_EXE_lockstepd")).args(&flags).output().expect("it runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && text.contains(said), "{flags:?}: {text}");
    }
}

#[test]
fn the_leader_takes_verified_backups_that_restore_to_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("deep/backups");
    let flags = [&format!("--backup-dir={}", dir.display()), "--backup-interval=1s", "--backup-retention=2s"];
    let mut cluster = Cluster::prepare(Kind::Lockstepd, 3, &flags).expect("it is ours");
    fs::create_dir_all(&dir).expect("a folder");
    // What a killed process has left, what has served its time, and what is nobody's business.
    let unfinished = dir.join(".tmp-backup-00000000000000ab-20240229T235959Z-17.db");
    let others = dir.join("backup-00000000000000ab-20240229T235959Z-17.db");
    let notes = dir.join("notes.db");
    for file in [&unfinished, &others, &notes] {
        fs::write(file, "x").expect("a file");
    }
    cluster.members.iter_mut().for_each(|member| member.spawn());
    cluster.members.iter_mut().for_each(|member| member.wait_ready());
    let client = cluster.client(0);
    put(&client, 200);
    let first = wait_for(|| ours(&dir, &others).first().cloned());
    wait_for(|| (!first.exists()).then_some(()));
    assert!(others.exists() && notes.exists() && !unfinished.exists());
    let mode = fs::metadata(ours(&dir, &others).last().expect("a newer one")).map(|m| m.permissions().mode() & 0o777);
    assert!(mode.is_err() || mode.is_ok_and(|mode| mode == 0o600));
    let writers = cluster.members.iter().filter(|member| member.log().contains("took a backup")).count();
    assert_eq!(writers, 1, "one member at a time");

    let endpoints = format!("--endpoints={}", cluster.endpoints());
    let taken: Value = serde_json::from_str(&ok(ctl(&[&endpoints, "-w=json", "backups", "now"]))).expect("JSON");
    let kept = folder.path().join(taken["name"].as_str().expect("a name"));
    fs::copy(dir.join(kept.file_name().expect("a name")), &kept).expect("it is there");
    let revision = taken["revision"].as_i64().expect("a revision");
    let hash = client.hash_kv(HashKvRequest { revision }).expect("a hash").hash;
    assert!(ok(ctl(&[&endpoints, "-w=table", "backups", "list"])).contains("REVISION"));
    assert!(ok(ctl(&["backups", "list", folder.path().to_str().expect("text")])).contains(&format!(", {revision}, ")));
    assert!(ok(ctl(&["backups", "verify", kept.to_str().expect("text")])).contains(", ok"));
    let metrics: Vec<String> = cluster.members.iter().map(|member| metrics(&member.client_url())).collect();
    assert!(
        metrics.iter().any(|page| page.contains("lockstep_backup_duration_seconds_count")
            && !page.contains("lockstep_backup_files 0\n"))
    );
    for page in &metrics {
        assert!(page.contains("lockstep_backup_failures_total 0\n"), "{page}");
    }

    let mut next = Cluster::prepare(Kind::Lockstepd, 1, &[]).expect("it is ours");
    let member = &next.members[0];
    let (name, peer) = (&member.name, member.peer_url());
    ok(ctl(&[
        "snapshot",
        "restore",
        kept.to_str().expect("text"),
        &format!("--data-dir={}", member.data_dir.display()),
        &format!("--name={name}"),
        &format!("--initial-cluster={name}={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
    ]));
    next.members[0].spawn();
    next.members[0].wait_ready();
    assert_eq!(next.client(0).hash_kv(HashKvRequest { revision }).expect("a hash").hash, hash);

    // The next leader goes on.
    let leader =
        cluster.members.iter().position(|member| member.log().contains("took a backup")).expect("there is one");
    cluster.members[leader].kill();
    wait_for(|| {
        let others = cluster.members.iter().enumerate().filter(|(at, _)| *at != leader);
        others.map(|(_, member)| member).any(|member| member.log().contains("took a backup")).then_some(())
    });
}

#[test]
fn a_wrong_bit_is_found_and_the_file_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("text");
    let flags = [&format!("--backup-dir={dir}"), "--backup-interval=1h"];
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
    put(&cluster.client(0), 50);
    let endpoint = format!("--endpoints={}", cluster.endpoints());
    let name = |said: String| said.split(", ").next().expect("a name").to_owned();
    let mut names = vec![name(ok(ctl(&[&endpoint, "backups", "now"])))];
    put(&cluster.client(0), 50);
    let first = Backup::parse(&names[0]).expect("a backup's name");
    let next = Backup { taken_s: first.taken_s + 1, revision: first.revision + 50, ..first };
    names.push(next.to_string());
    ok(ctl(&[&endpoint, "snapshot", "save", folder.path().join(&names[1]).to_str().expect("text")]));
    ok(ctl(&["backups", "verify", dir]));
    let path = folder.path().join(&names[1]);
    let whole = fs::read(&path).expect("a backup");
    for at in [100, whole.len() / 2, whole.len() - 1] {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).expect("it is written");
        refused(
            ctl(&["backups", "verify", dir]),
            &["expected sha256", &format!("not good: 1 of 2: {}", path.display())],
        );
    }
    fs::write(&path, &whole[..whole.len() / 2]).expect("it is written");
    refused(ctl(&["backups", "verify", dir]), &["snapshot missing hash", &names[1]]);
    // Older than what it holds.
    let renamed = folder.path().join(names[1].replace(&format!("-{}.db", revision_of(&names[1])), "-3.db"));
    fs::write(&renamed, &whole).expect("it is written");
    refused(ctl(&["backups", "verify", renamed.to_str().expect("text")]), &["and is to be of revision 3"]);
    refused(ctl(&["backups", "verify", "/nowhere"]), &["/nowhere"]);
}

/// Whoever reaches the client port can ask, as often as it likes.
#[test]
fn what_is_asked_for_is_taken_one_at_a_time_and_with_pauses() {
    let folder = tempfile::tempdir().expect("a folder");
    // The schedule begins a minute later.
    let flags = [&format!("--backup-dir={}", folder.path().display()), "--backup-interval=1h"];
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
    for at in 0..16 {
        let put =
            PutRequest { key: format!("large{at}").into(), value: vec![at; 1 << 20].into(), ..Default::default() };
        cluster.client(0).put(put).expect("a put");
    }
    let endpoint = format!("--endpoints={}", cluster.endpoints());
    let now = [&*endpoint, "backups", "now"];
    let askers: Vec<Child> = (0..8).map(|_| ctl_begin(&now)).collect();
    let answers: Vec<Output> = askers.into_iter().map(|asker| asker.wait_with_output().expect("it ends")).collect();
    let (taken, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status.success());
    let ended = Instant::now();
    assert_eq!((taken.len(), ours(folder.path(), Path::new("")).len()), (1, 1));
    for other in others {
        let text = String::from_utf8_lossy(&other.stderr);
        let said = ["another backup is being taken in ", "the last one was asked for 0s ago: ask again in 10s"];
        assert!(said.iter().any(|said| text.contains(said)), "{text}");
    }
    refused(ctl(&now), &["the last one was asked for "]);
    wait_for(|| ctl(&now).status.success().then_some(()));
    assert!(ended.elapsed() > Duration::from_secs(8), "{:?}", ended.elapsed());
    assert_eq!(ours(folder.path(), Path::new("")).len(), 2);
}

/// As etcd's `snapshot status` says it: a store begins at revision 1, and has nothing of it.
#[test]
fn a_backup_of_nothing_is_of_revision_0() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("text");
    let flags = [&format!("--backup-dir={dir}"), "--backup-interval=1h"];
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
    let endpoint = format!("--endpoints={}", cluster.endpoints());
    ok(ctl(&[&endpoint, "backups", "now"]));
    let path = ours(folder.path(), Path::new("")).remove(0);
    let path = path.to_str().expect("text");
    for words in [&["backups", "list", dir][..], &["backups", "verify", dir], &["snapshot", "status", path]] {
        let said: Value = serde_json::from_str(&ok(ctl(&[&["-w=json"], words].concat()))).expect("JSON");
        let one = if said.is_array() { &said[0] } else { &said };
        assert_eq!(one["revision"], 0, "{words:?}: {said}");
    }
}

#[test]
fn what_is_dated_ahead_of_now_is_not_the_last_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = [&format!("--backup-dir={}", folder.path().display()), "--backup-interval=1s"];
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
    let first = wait_for(|| ours(folder.path(), Path::new("")).first().cloned());
    let real = Backup::parse(&first.file_name().expect("a name").to_string_lossy()).expect("a backup's name");
    let ahead = Backup { taken_s: real.taken_s + 365 * DAY_S, ..real }.to_string();
    fs::write(folder.path().join(&ahead), "x").expect("a file");
    // It puts nothing off, goes not, and is told of.
    wait_for(|| {
        let log = cluster.members[0].log();
        log.lines().any(|line| line.contains("is dated ahead of") && line.contains(&ahead)).then_some(())
    });
    let count = ours(folder.path(), Path::new("")).len();
    wait_for(|| (ours(folder.path(), Path::new("")).len() >= count + 2).then_some(()));
    let page = metrics(&cluster.members[0].client_url());
    let last = page.lines().find_map(|line| line.strip_prefix("lockstep_backup_last_success_timestamp_seconds "));
    let last: f64 = last.and_then(|last| last.parse().ok()).expect("a time");
    assert!((real.taken_s..real.taken_s + DAY_S).contains(&(last as u64)), "{last}, and the first {}", real.taken_s);
    assert!(!page.contains("lockstep_backup_last_size_bytes 1\n"), "{page}");
    assert!(folder.path().join(&ahead).exists());
}

#[test]
fn a_folder_that_cannot_be_used_is_told_and_the_member_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("a file");
    for dir in [file.clone(), file.join("below")] {
        let flags = [&format!("--backup-dir={}", dir.display()), "--backup-interval=1s"];
        let cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
        put(&cluster.client(0), 1);
        let endpoint = format!("--endpoints={}", cluster.endpoints());
        refused(ctl(&[&endpoint, "backups", "now"]), &["--backup-dir", dir.to_str().expect("text")]);
        assert!(!metrics(&cluster.members[0].client_url()).contains("lockstep_backup_failures_total 0\n"));
    }
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("it is ours");
    let endpoint = format!("--endpoints={}", cluster.endpoints());
    for command in ["now", "list"] {
        refused(ctl(&[&endpoint, "backups", command]), &["it runs without --backup-dir"]);
    }
}

/// The disk may be the log's, too.
#[test]
fn a_scheduled_backup_leaves_room_to_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("volume");
    let Some(volume) = Volume::tmpfs(&dir, 64) else { return };
    if !volume.prefix().is_empty() {
        return eprintln!("skipped: this takes root");
    }
    volume.fill(15 << 20);
    let flags = [&format!("--backup-dir={}", dir.display()), "--backup-interval=1s", "--backup-retention=1s"];
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
    let member = &cluster.members[0];
    wait_for(|| (!metrics(&member.client_url()).contains("lockstep_backup_failures_total 0\n")).then_some(()));
    assert!(member.log().contains("are needed for a backup of") && !member.log().contains("took a backup"));
    volume.make_room();
    wait_for(|| member.log().contains("took a backup").then_some(()));
}

#[test]
fn a_member_that_is_killed_while_it_writes_leaves_no_backup_that_is_not_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = [&format!("--backup-dir={}", folder.path().display()), "--backup-interval=1h"];
    let mut cluster = Cluster::start_with(Kind::Lockstepd, 1, &flags).expect("it is ours");
    let client = cluster.client(0);
    for at in 0..30 {
        let put =
            PutRequest { key: format!("large{at}").into(), value: vec![at; 1 << 20].into(), ..Default::default() };
        client.put(put).expect("a put");
    }
    let unfinished = || {
        let names = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".tmp-")).count()
    };
    let endpoint = format!("--endpoints={}", cluster.endpoints());
    let mut asker =
        Command::new(env!("CARGO_BIN_EXE_lockstepctl")).args([&endpoint, "backups", "now"]).spawn().expect("it runs");
    wait_for(|| (unfinished() == 1).then_some(()));
    cluster.members[0].kill();
    assert!(!asker.wait().expect("it ends").success());
    assert_eq!(unfinished(), 1, "the kill came too late");
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        if Backup::parse(&name.to_string_lossy()).is_some() {
            ok(ctl(&["backups", "verify", folder.path().join(&name).to_str().expect("text")]));
        }
    }
    cluster.members[0].restart();
    ok(ctl(&[&endpoint, "backups", "now"]));
    assert_eq!(unfinished(), 0);
}

fn put(client: &Client, count: usize) {
    for at in 0..count {
        let put = PutRequest { key: format!("key{at}").into(), value: "v".repeat(at).into(), ..Default::default() };
        client.put(put).expect("a put");
    }
}

/// The backups in a folder but one, oldest first.
fn ours(dir: &Path, but: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_one = |path: &PathBuf| Backup::parse(&path.file_name().expect("a name").to_string_lossy()).is_some();
    let mut found: Vec<PathBuf> = names.filter(|path| path != but && is_one(path)).collect();
    found.sort_unstable();
    found
}

fn revision_of(name: &str) -> i64 {
    Backup::parse(name).expect("a backup's name").revision
}

fn metrics(url: &str) -> String {
    http_get(url, "/metrics").expect("an answer").1
}

fn wait_for<T>(mut until: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = until() {
            return found;
        }
        assert!(Instant::now() < deadline, "it has not come about in 60 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ctl(args: &[&str]) -> Output {
    ctl_begin(args).wait_with_output().expect("it ends")
}

fn ctl_begin(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstepctl"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn refused(output: Output, said: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for said in said {
        assert!(text.contains(said), "{said} is not in {text}");
    }
}
