//! Small disks that are real file systems: a tmpfs, or an ext4 in a file. Gone when dropped.
//!
//! Mounting takes root. Without it a tmpfs is mounted in a namespace of its own, which a helper process keeps; the
//! server is started inside, and the test looks in from outside. Where neither works the tests say that they skip.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lockstep::server::disk::free_bytes;

pub struct Volume {
    /// Where the server sees it.
    pub dir: PathBuf,
    /// Where the test does.
    seen: PathBuf,
    keeper: Option<Child>,
}

impl Volume {
    pub fn tmpfs(dir: &Path, megabytes: u64) -> Option<Volume> {
        make(dir);
        let size = format!("size={megabytes}m,mode=0700");
        if run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &text(dir)]) {
            return Some(Volume { dir: dir.to_owned(), seen: dir.to_owned(), keeper: None });
        }
        let script = "mount -t tmpfs -o \"$2\" tmpfs \"$1\" && echo mounted && exec sleep 3600";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", &text(dir), &size]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: prctl is safe between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let mut keeper = command.spawn().ok()?;
        let mut said = [0; 7];
        let is_there = keeper.stdout.take().expect("a pipe").read_exact(&mut said).is_ok();
        let seen = PathBuf::from(format!("/proc/{}/root{}", keeper.id(), dir.display()));
        let volume = Volume { dir: dir.to_owned(), seen, keeper: Some(keeper) };
        if !is_there {
            eprintln!("skipped: neither root nor a user namespace may mount a tmpfs here");
            return None;
        }
        Some(volume)
    }

    /// An ext4 in the file `image`, which may be larger than what it lies on.
    pub fn ext4(dir: &Path, image: &Path, megabytes: u64) -> Option<Volume> {
        make(dir);
        let made = File::create(image).and_then(|file| file.set_len(megabytes << 20)).is_ok();
        let made = made && run(&["mkfs.ext4", "-q", "-F", "-m", "0", &text(image)]);
        if !made || !run(&["mount", "-o", "loop", &text(image), &text(dir)]) {
            eprintln!("skipped: no ext4 can be made and mounted here");
            return None;
        }
        Some(Volume { dir: dir.to_owned(), seen: dir.to_owned(), keeper: None })
    }

    /// What somebody else has mounted, to be unmounted.
    pub fn mounted(dir: &Path) -> Volume {
        Volume { dir: dir.to_owned(), seen: dir.to_owned(), keeper: None }
    }

    /// The words in front of a server that is to see this volume.
    pub fn prefix(&self) -> Vec<String> {
        let Some(keeper) = &self.keeper else { return Vec::new() };
        let id = keeper.id().to_string();
        ["nsenter", "-t", &id, "--user", "--mount", "--preserve-credentials"].map(str::to_owned).to_vec()
    }

    /// The test's way to a file of the volume.
    pub fn path(&self, name: &str) -> PathBuf {
        self.seen.join(name)
    }

    /// Takes all the space but `left_bytes`, until [`Volume::make_room`].
    pub fn fill(&self, left_bytes: u64) {
        let mut file = File::options().append(true).create(true).open(self.path("ballast")).expect("a ballast file");
        let zeros = vec![0; 1 << 16];
        while self.free_bytes() > left_bytes {
            let count = (self.free_bytes() - left_bytes).min(zeros.len() as u64) as usize;
            if file.write_all(&zeros[..count]).is_err() {
                break;
            }
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.path("ballast")).expect("remove the ballast file");
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(&self.seen).expect("the volume's space")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        match &mut self.keeper {
            Some(keeper) => {
                let _ = keeper.kill();
                let _ = keeper.wait();
            }
            None => _ = run(&["umount", "-l", &text(&self.dir)]),
        }
    }
}

fn make(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap_or_else(|why| panic!("make {}: {why}", dir.display()));
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

pub fn run(command: &[&str]) -> bool {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}
