//! A full disk, on a real file system: what was acknowledged stays, the member says what is wrong, goes on reading,
//! and writes again by itself once there is space; and a disk that promises more than it has.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use lockstep::proto::etcdserverpb::{DefragmentRequest, HashKvRequest, PutRequest, RangeRequest, StatusRequest};
use tonic::Code;

use super::process::{Member, members};
use super::{Kv, assert_explained, channel, check_after_restart, put, runtime, wait_up, write_until_it_breaks};
use crate::util::process::http_get;
use crate::util::volume::{Volume, run};

/// Two segments of the log and some of the store.
const MEGABYTES: u64 = 192;
const PATIENCE: Duration = Duration::from_secs(20);
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_lockstepd"))
}

fn start_on(member: &mut Member, volume: &Volume) {
    let prefix = volume.prefix();
    member.start(&prefix.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_member_on_a_full_tmpfs_goes_on_by_itself() {
    goes_on_by_itself(|member, _| Volume::tmpfs(&member.dir, MEGABYTES));
}

#[test]
fn a_member_on_a_full_ext4_goes_on_by_itself() {
    goes_on_by_itself(|member, folder| Volume::ext4(&member.dir, &folder.join("image"), MEGABYTES));
}

/// The store has room; the log alone is full. It keeps more segments, one for each time.
#[test]
fn a_member_whose_log_is_on_a_full_disk_goes_on_by_itself() {
    goes_on_by_itself(|member, folder| {
        let dir = folder.join("log");
        let volume = Volume::tmpfs(&dir, 2 * MEGABYTES)?;
        member.add_flags(&["--wal-dir", &dir.join("wal").display().to_string()]);
        Some(volume)
    });
}

fn goes_on_by_itself(mount: impl Fn(&mut Member, &std::path::Path) -> Option<Volume>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut member = members(&program(), 1, folder.path()).remove(0);
    let Some(volume) = mount(&mut member, folder.path()) else { return };
    start_on(&mut member, &volume);
    let mut acknowledged = Vec::new();
    runtime().block_on(async {
        wait_up(&mut member).await;
        volume.fill(2 << 20);
        for round in 0..2 {
            fill_up(&mut member, &mut acknowledged).await;
            is_full(&mut member, &volume, round).await;
            volume.make_room();
            is_well_again(&mut member, &mut acknowledged).await;
            volume.fill(1 << 20);
        }
        // Killed when it is full, it is as good as before.
        fill_up(&mut member, &mut acknowledged).await;
    });
    member.kill();
    volume.make_room();
    start_on(&mut member, &volume);
    runtime().block_on(async { all_there(&mut wait_up(&mut member).await, &acknowledged, &member).await });
    member.kill();
}

/// What is asked for must leave room for what is scheduled, and both for others: 16 MiB.
#[test]
fn a_backup_that_is_asked_for_needs_room_for_two() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (megabytes, expected) in [(22, None), (21, Some(" bytes and the next scheduled one: free space there"))] {
        let mut member = members(&program(), 1, folder.path()).remove(0);
        let dir = folder.path().join(format!("backups-{megabytes}"));
        let Some(volume) = Volume::tmpfs(&dir, megabytes) else { return };
        member.add_flags(&["--backup-dir", &dir.display().to_string(), "--backup-interval=1h"]);
        start_on(&mut member, &volume);
        runtime().block_on(async {
            let mut kv = wait_up(&mut member).await;
            for key in 0..5 {
                put(&mut kv, format!("{key}"), vec![b'v'; 512 << 10]).await.expect("a put");
            }
        });
        let endpoint = format!("--endpoints={}", member.endpoint);
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_lockstepctl"));
        let done = ctl.args([&*endpoint, "backups", "now"]).output().expect("it runs");
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.success(), expected.is_none(), "{megabytes}: {text}");
        assert!(text.contains(expected.unwrap_or_default()), "{text}");
        let (_, page) = http_get(&member.endpoint, "/metrics").expect("an answer");
        assert!(page.contains("lockstep_backup_failures_total 0\n"), "the schedule is to go on");
        member.kill();
        std::fs::remove_dir_all(&member.dir).expect("the data directory");
    }
}

/// Puts until one is refused, for the reason that there is no space.
async fn fill_up(member: &mut Member, acknowledged: &mut Vec<i64>) {
    let mut kv = Kv::new(channel(&member.endpoint, Duration::from_secs(2)));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match put(&mut kv, format!("k/{:06}", acknowledged.len()), vec![b'v'; 500_000]).await {
            Ok(revision) => acknowledged.push(revision),
            Err(why) if why.message() == NO_SPACE => {
                assert_eq!(why.code(), Code::ResourceExhausted);
                return;
            }
            // It was on its way when there was no space; it may be written once there is.
            Err(_) => acknowledged.push(0),
        }
        assert!(Instant::now() < deadline, "the disk does not get full:\n{}", member.log_end());
    }
}

async fn is_full(member: &mut Member, volume: &Volume, round: usize) {
    let mut kv = Kv::new(channel(&member.endpoint, Duration::from_secs(5)));
    // Whatever a client asks that has to be written.
    for _ in 0..3 {
        let why = put(&mut kv, "late", "v").await.expect_err("a put on a full disk");
        assert_eq!(why.message(), NO_SPACE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Linearizable.
    let read = kv.range(RangeRequest { key: "k/000000".into(), ..Default::default() }).await;
    assert_eq!(read.expect("a read on a full disk").into_inner().count, 1);
    let (code, page) = http_get(&member.endpoint, "/health").expect("an answer");
    assert_eq!(code, 503);
    let dir = volume.dir.display().to_string();
    assert!(page.contains(&format!("NO SPACE LEFT ON DISK: {dir}")), "{page}");
    let (_, page) = http_get(&member.endpoint, "/metrics").expect("an answer");
    assert!(page.contains("lockstep_disk_full 1"), "{page}");
    let log = member.log();
    assert!(log.lines().any(|line| line.contains("free space there") && line.contains(&dir)), "{}", member.log_end());
    let said = log.lines().filter(|line| line.contains("reads go on, writes are refused")).count();
    assert!(said <= 10 * (round + 1), "said {said} times:\n{}", member.log_end());
    assert!(member.ended(Duration::ZERO).is_none(), "it ended:\n{}", member.log_end());
}

async fn is_well_again(member: &mut Member, acknowledged: &mut Vec<i64>) {
    let mut kv = Kv::new(channel(&member.endpoint, Duration::from_secs(10)));
    let deadline = Instant::now() + PATIENCE;
    let revision = loop {
        match put(&mut kv, format!("k/{:06}", acknowledged.len()), "v").await {
            Ok(revision) => break revision,
            Err(why) => assert!(Instant::now() < deadline, "{why}:\n{}", member.log_end()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    acknowledged.push(revision);
    assert_eq!(http_get(&member.endpoint, "/health").expect("an answer").0, 200);
    let (_, page) = http_get(&member.endpoint, "/metrics").expect("an answer");
    assert!(page.contains("lockstep_disk_full 0"), "{page}");
    assert!(member.log().contains("there is space on the disk again"), "{}", member.log_end());
    all_there(&mut kv, acknowledged, member).await;
}

/// 0 stands for a put of which nothing is known.
async fn all_there(kv: &mut Kv, acknowledged: &[i64], member: &Member) {
    for (number, &revision) in acknowledged.iter().enumerate().filter(|(_, revision)| **revision > 0) {
        let key = format!("k/{number:06}");
        let answer = kv.range(RangeRequest { key: key.clone().into(), ..Default::default() }).await;
        let found = answer.expect("a read").into_inner().kvs.first().map(|kv| kv.mod_revision);
        assert_eq!(found, Some(revision), "{key} was acknowledged:\n{}", member.log_end());
    }
}

/// The others go on, and who was full is like them again.
#[test]
fn a_leader_on_a_full_disk_lets_another_lead() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = members(&program(), 3, folder.path());
    let mut volumes = Vec::new();
    for member in &mut cluster {
        let Some(volume) = Volume::tmpfs(&member.dir, MEGABYTES) else { return };
        start_on(member, &volume);
        volumes.push(volume);
    }
    runtime().block_on(async {
        let mut ids = Vec::new();
        for member in &mut cluster {
            wait_up(member).await;
            ids.push(status(member).await.header.expect("a header").member_id);
        }
        let led = status(&cluster[0]).await.leader;
        let full = ids.iter().position(|id| *id == led).expect("one of them leads");
        volumes[full].fill(1 << 20);
        fill_up(&mut cluster[full], &mut Vec::new()).await;
        let other = (full + 1) % 3;
        let mut kv = Kv::new(channel(&cluster[other].endpoint, Duration::from_secs(10)));
        let deadline = Instant::now() + PATIENCE;
        while status(&cluster[other]).await.leader == ids[full] || put(&mut kv, "by/others", "v").await.is_err() {
            assert!(Instant::now() < deadline, "nobody else leads:\n{}", cluster[full].log_end());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for n in 0..50 {
            put(&mut kv, format!("by/others{n}"), "v").await.expect("a put where there is space");
        }
        volumes[full].make_room();
        put(&mut Kv::new(channel(&cluster[full].endpoint, Duration::from_secs(10))), "again", "v").await.ok();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut hashes = Vec::new();
            for member in &cluster {
                hashes.push(hash(member).await);
            }
            if hashes.iter().all(|hash| *hash == hashes[0]) {
                break;
            }
            assert!(Instant::now() < deadline, "{hashes:?}:\n{}", cluster[full].log_end());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

async fn status(member: &Member) -> lockstep::proto::etcdserverpb::StatusResponse {
    let mut maintenance = MaintenanceClient::new(channel(&member.endpoint, Duration::from_secs(5)));
    maintenance.status(StatusRequest {}).await.expect("a status").into_inner()
}

async fn hash(member: &Member) -> (i64, u32) {
    let mut maintenance = MaintenanceClient::new(channel(&member.endpoint, Duration::from_secs(5)));
    let answer = maintenance.hash_kv(HashKvRequest::default()).await.expect("a hash").into_inner();
    (answer.header.expect("a header").revision, answer.hash)
}

/// A copy of the store that does not fit is given up and takes nothing with it; writes go on.
#[test]
fn a_defragmentation_without_space_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut member = members(&program(), 1, folder.path()).remove(0);
    let Some(volume) = Volume::tmpfs(&member.dir, 600) else { return };
    start_on(&mut member, &volume);
    let copy = volume.path("member/snap/db.defrag");
    runtime().block_on(async {
        let mut kv = wait_up(&mut member).await;
        for n in 0..60 {
            let value = vec![b'v'; 1_000_000].into();
            kv.put(PutRequest { key: format!("big{n}").into(), value, ..Default::default() }).await.expect("a put");
        }
        // The log has prepared its segments, and the store is durable.
        tokio::time::sleep(Duration::from_secs(1)).await;
        volume.fill(20 << 20);
        let mut maintenance = MaintenanceClient::new(channel(&member.endpoint, Duration::from_secs(20)));
        let why = maintenance.defragment(DefragmentRequest {}).await.expect_err("no space for a copy");
        assert!(why.message().contains("make room for a copy of it, then defragment again"), "{why}");
        assert!(!copy.exists(), "the copy was left");
        put(&mut kv, "after", "v").await.expect("a put after it");
        assert_eq!(http_get(&member.endpoint, "/health").expect("an answer").0, 200);
        volume.make_room();
        maintenance.defragment(DefragmentRequest {}).await.expect("there is space now");
        // What is written from now on goes to the new file, and waits for space as before.
        volume.fill(1 << 20);
        fill_up(&mut member, &mut Vec::new()).await;
        volume.make_room();
        assert!(until(|| http_get(&member.endpoint, "/health").is_some_and(|(code, _)| code == 200)));
        put(&mut kv, "at last", "v").await.expect("a put");
    });
}

/// A file system that has less behind it than it says: what the kernel took turns out not to be written. The member
/// stops, as nobody knows what is on the disk; started again on one that holds, it has all that it acknowledged.
#[test]
fn a_disk_that_fails_behind_the_file_system_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut member = members(&program(), 1, folder.path()).remove(0);
    let Some(thin) = Volume::tmpfs(&folder.path().join("thin"), 170) else { return };
    if !thin.prefix().is_empty() {
        eprintln!("skipped: an ext4 in a file takes root");
        return;
    }
    let image = thin.path("image");
    let Some(volume) = Volume::ext4(&member.dir, &image, 1024) else { return };
    member.start(&[]);
    let acknowledged = runtime().block_on(write_until_it_breaks(&mut member, 500_000));
    let status = member.ended(PATIENCE).unwrap_or_else(|| panic!("the server goes on:\n{}", member.log_end()));
    assert!(!status.success(), "{status}:\n{}", member.log_end());
    assert_explained(&member, "the member stops", "");
    drop(volume);
    let (thin_dir, dir) = (thin.dir.display().to_string(), member.dir.display().to_string());
    assert!(run(&["mount", "-o", "remount,size=1200m", &thin_dir]), "more space behind it");
    assert!(
        until(|| run(&["mount", "-o", "loop", &image.display().to_string(), &dir])),
        "the file system is mounted again"
    );
    let _again = Volume::mounted(&member.dir);
    check_after_restart(&mut member, &acknowledged);
}

fn until(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}
