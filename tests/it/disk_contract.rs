//! The `Disk` port's contract, clause by clause: what can be seen without a crash on the real disk and on the one in
//! memory, and what a crash leaves on the one in memory.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use lockstep::ports::disk::{Disk, DiskFile, Open};
use lockstep::server::disk::{DirLock, RealDisk};
use lockstep_sim::disk::{FailedSync, Loss, MemDisk, chance};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

type Clause = (&'static str, fn(&dyn Disk));

fn read(file: &dyn DiskFile, offset: u64, count: usize) -> Vec<u8> {
    let mut out = vec![0xff; count];
    file.read_at(offset, &mut out).unwrap();
    out
}

fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

const CLAUSES: &[Clause] = &[
    ("a write is read at once, through every handle", |disk| {
        let file = disk.open("f", Open::CreateNew).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(3, b"abc").unwrap();
        let other = disk.open("f", Open::Existing).unwrap();
        assert_eq!(read(&*other, 0, 6), b"\0\0\0abc");
        other.write_at(4, b"X").unwrap();
        assert_eq!(read(&*file, 3, 3), b"aXc");
        assert_eq!(file.len().unwrap(), 6);
        file.write_at(6, b"").unwrap();
        file.sync_data().unwrap();
    }),
    ("a read beyond the end fails", |disk| {
        let file = disk.open("f", Open::CreateNew).unwrap();
        file.write_at(0, b"abc").unwrap();
        for offset in [1, 3, 100] {
            assert_eq!(kind(file.read_at(offset, &mut [0; 3])), ErrorKind::UnexpectedEof);
        }
        assert_eq!(read(&*file, 3, 0), b"");
    }),
    ("how a name is opened", |disk| {
        assert_eq!(kind(disk.open("f", Open::Existing)), ErrorKind::NotFound);
        disk.open("f", Open::CreateOrExisting).unwrap().write_at(0, b"abc").unwrap();
        assert_eq!(disk.open("f", Open::CreateOrExisting).unwrap().len().unwrap(), 3);
        assert_eq!(kind(disk.open("f", Open::CreateNew)), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.open("no/f", Open::CreateNew)), ErrorKind::NotFound);
    }),
    ("set_len and allocate grow with zeros, only set_len shrinks", |disk| {
        let file = disk.open("f", Open::CreateNew).unwrap();
        file.write_at(0, b"abc").unwrap();
        file.set_len(1).unwrap();
        file.set_len(3).unwrap();
        assert_eq!(read(&*file, 0, 3), b"a\0\0");
        file.allocate(3_000_000).unwrap();
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 3_000_000);
        assert_eq!(read(&*file, 0, 1), b"a");
        assert!(read(&*file, 1, 2_999_999).iter().all(|byte| *byte == 0));
        file.write_at(2_999_999, b"z").unwrap();
        assert_eq!(file.len().unwrap(), 3_000_000);
    }),
    ("folders are made with their parents, twice without harm", |disk| {
        assert!(!disk.exists("a/b").unwrap());
        for _ in 0..2 {
            disk.create_dir_all("a/b/c").unwrap();
            disk.create_dir_all("").unwrap();
        }
        assert!(disk.exists("a/b").unwrap() && disk.exists("").unwrap());
        assert_eq!(disk.list("a").unwrap(), ["b"]);
        for dir in ["", "a", "a/b/c"] {
            disk.sync_dir(dir).unwrap();
        }
    }),
    ("names are listed sorted, and only those directly below", |disk| {
        disk.create_dir_all("d/sub").unwrap();
        for name in ["d/z", "d/a", "d/sub/x", "d/m"] {
            disk.open(name, Open::CreateNew).unwrap();
        }
        assert_eq!(disk.list("d").unwrap(), ["a", "m", "sub", "z"]);
        assert_eq!(kind(disk.list("nowhere")), ErrorKind::NotFound);
        assert_eq!(disk.list("").unwrap(), ["d"]);
    }),
    ("a rename replaces, also across folders, and handles follow the file", |disk| {
        disk.create_dir_all("d").unwrap();
        let file = disk.open("a", Open::CreateNew).unwrap();
        file.write_at(0, b"new").unwrap();
        disk.open("b", Open::CreateNew).unwrap().write_at(0, b"old!").unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list("").unwrap(), ["b", "d"]);
        disk.rename("b", "d/c").unwrap();
        assert!(!disk.exists("b").unwrap());
        file.write_at(3, b"er").unwrap();
        assert_eq!(read(&*disk.open("d/c", Open::Existing).unwrap(), 0, 5), b"newer");
        assert_eq!(kind(disk.rename("nothing", "x")), ErrorKind::NotFound);
        disk.rename("d/c", "d/c").unwrap();
        assert!(disk.exists("d/c").unwrap());
    }),
    ("a removed file lives on for its handles", |disk| {
        let file = disk.open("f", Open::CreateNew).unwrap();
        file.write_at(0, b"abc").unwrap();
        disk.remove("f").unwrap();
        disk.sync_dir("").unwrap();
        assert_eq!(kind(disk.remove("f")), ErrorKind::NotFound);
        assert_eq!(read(&*file, 0, 3), b"abc");
        assert!(disk.open("f", Open::CreateNew).unwrap().is_empty().unwrap());
    }),
    ("no path leaves the root", |disk| {
        for path in ["/etc/passwd", "..", "../f", "a/../../f", "a/..", "./f", "/", "f\0"] {
            assert_eq!(kind(disk.open(path, Open::CreateOrExisting)), ErrorKind::InvalidInput, "{path:?}");
            assert_eq!(kind(disk.exists(path)), ErrorKind::InvalidInput, "{path:?}");
            assert_eq!(kind(disk.create_dir_all(path)), ErrorKind::InvalidInput, "{path:?}");
            assert_eq!(kind(disk.list(path)), ErrorKind::InvalidInput, "{path:?}");
            assert_eq!(kind(disk.remove(path)), ErrorKind::InvalidInput, "{path:?}");
            assert_eq!(kind(disk.sync_dir(path)), ErrorKind::InvalidInput, "{path:?}");
            assert_eq!(kind(disk.rename(path, "g")), ErrorKind::InvalidInput, "{path:?}");
        }
    }),
];

#[test]
fn every_clause_holds_on_both_disks() {
    for (name, clause) in CLAUSES {
        let dir = tempfile::tempdir().unwrap();
        let disks: [(&str, Arc<dyn Disk>); 2] = [
            ("real", Arc::new(RealDisk::new(dir.path().join("x/root")).unwrap())),
            ("in memory", Arc::new(MemDisk::new())),
        ];
        for (which, disk) in disks {
            eprintln!("{which}: {name}");
            clause(&*disk);
        }
    }
}

#[test]
fn the_real_disk_keeps_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let disk = RealDisk::new(&root).unwrap();
    disk.create_dir_all("member/wal").unwrap();
    disk.open("member/wal/f", Open::CreateNew).unwrap().allocate(1 << 20).unwrap();
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("member"), mode("member/wal"), mode("member/wal/f")], [0o700, 0o700, 0o700, 0o600]);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(root.join("member/wal/f")).unwrap());
    assert!(blocks * 512 >= 1 << 20, "allocated files have blocks");

    let lock = DirLock::acquire(&root.join("member")).unwrap();
    let refused = DirLock::acquire(&root.join("member")).unwrap_err().to_string();
    assert!(
        refused.contains("in use by another process") && refused.contains(&std::process::id().to_string()),
        "{refused}"
    );
    drop(lock);
    DirLock::acquire(&root.join("member")).unwrap();

    // What is in the way is named: "Permission denied" alone helps nobody.
    let (occupied, blocked) = (root.join("occupied/lock"), root.join("blocked"));
    std::fs::create_dir_all(&occupied).unwrap();
    std::fs::write(&blocked, "").unwrap();
    for (dir, named) in [(occupied.parent().unwrap(), &occupied), (&blocked, &blocked)] {
        let refused = DirLock::acquire(dir).unwrap_err().to_string();
        assert!(refused.contains(&named.display().to_string()), "{refused}");
    }
}

/// All outcomes of a crash after `prepare`, over many draws.
fn outcomes<T: Ord>(loss: Loss, prepare: impl Fn(&MemDisk), look: impl Fn(&MemDisk) -> T) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = MemDisk::new();
        prepare(&disk);
        disk.crash(loss, &mut chance(&mut ChaCha8Rng::seed_from_u64(seed)));
        seen.insert(look(&disk));
    }
    seen
}

fn plant(disk: &MemDisk, path: &str, contents: &[u8]) -> Arc<dyn DiskFile> {
    disk.plant(path, contents).unwrap();
    disk.open(path, Open::Existing).unwrap()
}

#[test]
fn what_was_synced_survives_every_crash() {
    for loss in Loss::ALL {
        let seen = outcomes(
            loss,
            |disk| {
                disk.create_dir_all("d").unwrap();
                disk.sync_dir("").unwrap();
                let file = disk.open("d/tmp", Open::CreateNew).unwrap();
                file.write_at(1000, &[7; 1000]).unwrap();
                file.sync_data().unwrap();
                disk.rename("d/tmp", "d/f").unwrap();
                disk.sync_dir("d").unwrap();
            },
            |disk| (disk.files(), disk.contents("d/f").unwrap()),
        );
        let expected = (vec!["d/f".to_owned()], [vec![0; 1000], vec![7; 1000]].concat());
        assert_eq!(seen, BTreeSet::from([expected]), "{loss:?}");
    }
}

#[test]
fn unsynced_bytes_are_lost_kept_or_torn_by_sectors() {
    let text = |bytes: Vec<u8>| bytes.chunks(512).map(|sector| sector[0] as char).collect::<String>();
    let prepare = |disk: &MemDisk| {
        let file = plant(disk, "f", &[b'-'; 1536]);
        file.write_at(0, &[b'a'; 1024]).unwrap();
        file.write_at(512, &[b'b'; 1024]).unwrap();
    };
    let look = |disk: &MemDisk| text(disk.contents("f").unwrap());
    let check = |loss, expected: &[&str]| {
        let expected: BTreeSet<String> = expected.iter().map(|text| text.to_string()).collect();
        assert_eq!(outcomes(loss, prepare, look), expected, "{loss:?}");
    };
    check(Loss::Everything, &["---"]);
    check(Loss::Nothing, &["abb"]);
    check(Loss::Prefix, &["---", "aa-", "abb"]);
    let all: Vec<String> = ["-", "a"]
        .iter()
        .flat_map(|x| ["-", "a", "b"].map(|y| ["-", "b"].map(|z| format!("{x}{y}{z}"))))
        .flatten()
        .collect();
    check(Loss::Sectors, &all.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn unsynced_lengths_are_lost_or_kept() {
    let prepare = |disk: &MemDisk| {
        let file = plant(disk, "f", &[1; 1024]);
        file.set_len(512).unwrap();
        file.allocate(2048).unwrap();
    };
    let look = |disk: &MemDisk| {
        let bytes = disk.contents("f").unwrap();
        (bytes.len(), bytes.iter().filter(|byte| **byte == 1).count())
    };
    assert_eq!(outcomes(Loss::Everything, prepare, look), BTreeSet::from([(1024, 1024)]));
    assert_eq!(outcomes(Loss::Nothing, prepare, look), BTreeSet::from([(2048, 512)]));
    assert_eq!(outcomes(Loss::Sectors, prepare, look), BTreeSet::from([(1024, 1024), (512, 512), (2048, 512)]));
}

#[test]
fn unsynced_names_are_lost_or_kept() {
    let prepare = |disk: &MemDisk| {
        disk.plant("old", b"old").unwrap();
        disk.plant("gone", b"gone").unwrap();
        let file = disk.open("new", Open::CreateNew).unwrap();
        file.write_at(0, b"new").unwrap();
        file.sync_data().unwrap();
        disk.rename("new", "old").unwrap();
        disk.remove("gone").unwrap();
    };
    let look = |disk: &MemDisk| {
        let files = disk.files();
        files
            .into_iter()
            .map(|name| format!("{name}={}", String::from_utf8(disk.contents(&name).unwrap()).unwrap()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let set = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(outcomes(Loss::Everything, prepare, look), set(&["gone=gone old=old"]));
    assert_eq!(outcomes(Loss::Nothing, prepare, look), set(&["old=new"]));
    let prefix = set(&["gone=gone old=old", "gone=gone new=new old=old", "gone=gone old=new", "old=new"]);
    assert_eq!(outcomes(Loss::Prefix, prepare, look), prefix);
    let sectors = outcomes(Loss::Sectors, prepare, look);
    assert!(sectors.is_superset(&prefix) && sectors.contains("new=new old=old"), "{sectors:?}");
}

#[test]
fn the_power_fails_between_two_operations() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let disk = MemDisk::new();
    let file = plant(&disk, "f", b"");
    disk.crash_after(2);
    file.write_at(0, b"a").unwrap();
    file.sync_data().unwrap();
    for error in
        [file.write_at(1, b"b"), file.sync_data(), file.read_at(0, &mut [0]), disk.sync_dir(""), disk.remove("f")]
    {
        assert_eq!(error.unwrap_err().to_string(), "simulated crash");
    }
    assert!(disk.crashed() && disk.open("f", Open::Existing).is_err());
    disk.restart(Loss::Everything, &mut chance(&mut rng));
    assert!(file.len().unwrap_err().to_string().starts_with("stale handle"));
    assert_eq!(read(&*disk.open("f", Open::Existing).unwrap(), 0, 1), b"a");
}

#[test]
fn a_failed_sync_drops_what_was_unsynced_for_ever() {
    for (mode, seen) in [(FailedSync::Linger, b"new"), (FailedSync::Revert, b"old")] {
        let disk = MemDisk::new();
        let file = plant(&disk, "f", b"old");
        file.write_at(0, b"new").unwrap();
        disk.after_failed_sync(mode);
        disk.fail_sync_once();
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        assert_eq!(read(&*file, 0, 3), seen);
        file.sync_data().unwrap();
        disk.crash(Loss::Nothing, &mut chance(&mut ChaCha8Rng::seed_from_u64(1)));
        assert_eq!(disk.contents("f").unwrap(), b"old");
    }
}

#[test]
fn a_full_a_rotten_and_an_unreadable_disk() {
    let disk = MemDisk::new();
    let file = plant(&disk, "f", b"abc");
    disk.full_after(Some(2));
    assert_eq!(kind(file.write_at(2, b"123456")), ErrorKind::StorageFull);
    assert_eq!(kind(file.allocate(6)), ErrorKind::StorageFull);
    file.write_at(0, b"x").unwrap();
    file.allocate(5).unwrap();
    assert_eq!(disk.contents("f").unwrap(), b"xbc\0\0");
    disk.full_after(None);
    file.allocate(600).unwrap();
    disk.flip_bit("f", 1, 0).unwrap();
    assert_eq!(read(&*file, 0, 3), b"xcc");
    disk.read_error("f", true).unwrap();
    assert_eq!(file.read_at(0, &mut [0]).unwrap_err().raw_os_error(), Some(5));
    disk.read_error("f", false).unwrap();
    assert_eq!(read(&*file, 0, 1), b"x");
    assert_eq!(disk.counters().mutations(), 3);
}

#[test]
fn a_fork_is_another_disk() {
    let disk = MemDisk::new();
    let file = plant(&disk, "f", b"abc");
    file.write_at(0, b"x").unwrap();
    let fork = disk.fork();
    fork.crash(Loss::Everything, &mut chance(&mut ChaCha8Rng::seed_from_u64(1)));
    assert_eq!(fork.contents("f").unwrap(), b"abc");
    assert_eq!(read(&*file, 0, 3), b"xbc");
}
