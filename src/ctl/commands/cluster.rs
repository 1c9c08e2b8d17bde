//! `cluster restore`: the data directories of all members of a new cluster, out of one snapshot.
//!
//! What else takes a restore on each machine and the same words there: here every member's directory is made in one
//! place and compared with the others, to be copied to where it belongs.

use std::fs;
use std::path::PathBuf;

use super::snapshot::{Shown, bump, failed, path_of};
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::{Context, Failure, code, emit};
use crate::offline::restore::{Sums, sums};
use crate::offline::{self, Event, Request};

pub static RESTORE_FLAGS: &[Flag] = &[
    flag("initial-cluster", Kind::Text, "", "the members of the new cluster: name=peerURL,name=peerURL"),
    flag("initial-cluster-token", Kind::Text, "etcd-cluster", "the token of the new cluster"),
    flag("output", Kind::Text, "", "where to put the members' data directories, each under its member's name"),
    flag("skip-hash-check", Kind::Bool, "false", "do not ask for a digest (for a copy of a data directory's file)"),
    flag("bump-revision", Kind::Int, "0", "how far to move the revision ahead"),
    flag("mark-compacted", Kind::Bool, "false", "compact what is below (goes with --bump-revision)"),
];
pub static RESTORE_LONG: &str = "Each directory is the --data-dir of one member; start all of them with the same
--initial-cluster and --initial-cluster-token.
";

pub fn restore(context: &mut Context) -> Result<(), Failure> {
    let flags = &context.flags;
    let refused = |text: String| Failure::new(code::BAD_ARGS, text);
    let [path] = flags.args.as_slice() else {
        return Err(refused("cluster restore requires exactly one argument".into()));
    };
    for name in ["initial-cluster", "output"] {
        if flags.bytes(name).is_empty() {
            return Err(refused(format!("cluster restore requires --{name}")));
        }
    }
    let initial_cluster = flags.text("initial-cluster");
    let members = members(&initial_cluster).map_err(refused)?;
    let output = path_of(flags.bytes("output"));
    let bump_revision = bump(flags)?;
    let mut made = Made::default();
    let mut first: Option<(String, Sums)> = None;
    let count = members.len();
    for (at, (name, urls)) in (1..).zip(members) {
        let request = Request {
            snapshot: path_of(path),
            data_dir: output.join(&name),
            wal_dir: None,
            initial_cluster: initial_cluster.clone(),
            initial_cluster_token: flags.text("initial-cluster-token"),
            initial_advertise_peer_urls: urls.join(","),
            name: name.clone(),
            skip_hash_check: flags.bool("skip-hash-check"),
            bump_revision,
        };
        let (mut rows, mut shown) = (0, Shown::default());
        let restored = offline::restore(&request, &mut |event| {
            if let Event::Loaded { rows: loaded, .. } = event {
                rows = loaded;
            }
            shown.tell(&request, event);
        });
        restored.map_err(|error| failed(format!("member {name}: {error}")))?;
        made.dirs.push(request.data_dir.clone());
        let sums = sums(&request.data_dir).map_err(|error| failed(format!("member {name}: {error}")))?;
        if let Some((other, _)) = first.as_ref().filter(|(_, others)| *others != sums) {
            return Err(failed(format!("the directories of {other} and {name} differ: restore again")));
        }
        let Sums { revision, hash, .. } = sums;
        let dir = request.data_dir.display();
        emit(format!("{at}/{count} {name}: {dir}, {rows} rows, revision {revision}, hash {hash}\n").as_bytes());
        first.get_or_insert((name, sums));
    }
    made.dirs.clear();
    let text =
        if count == 1 { "1 member restored\n".to_owned() } else { format!("{count} members restored, all alike\n") };
    emit(text.as_bytes());
    Ok(())
}

/// Directories that are of no use when one of them fails.
#[derive(Default)]
struct Made {
    dirs: Vec<PathBuf>,
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// The members' names and URLs, in the order in which they are written.
fn members(initial_cluster: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut members: Vec<(String, Vec<String>)> = Vec::new();
    for pair in initial_cluster.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').ok_or(format!("--initial-cluster: {pair:?} is no name=URL"))?;
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(format!("--initial-cluster: the name {name:?} cannot be that of a directory"));
        }
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url.to_owned()),
            None => members.push((name.to_owned(), vec![url.to_owned()])),
        }
    }
    if members.is_empty() { Err("--initial-cluster names nobody".into()) } else { Ok(members) }
}
