//! How many files this process may open, and who may have them.
//!
//! A member that cannot open the next file of its log has to stop. So connections, which anybody may open, get only
//! what is left beside the files of the member itself, and clients cannot take what peers need.

use std::io;

/// What a member wants for itself: log, store, threads, connections to its peers. etcd's figure.
const RESERVED: u64 = 150;
/// A peer needs fewer than ten connections.
const MOST_FOR_PEERS: u64 = 1_024;

/// How many connections may be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    pub clients: usize,
    pub peers: usize,
    pub metrics: usize,
}

/// Raises the limit of open files as far as one may, as Go's programs do, and divides it.
pub fn connections() -> Result<Connections, String> {
    let limit = raise().map_err(|e| format!("cannot read the limit of open files: {e}"))?;
    if limit <= RESERVED {
        return Err(format!(
            "file descriptor limit[{limit}] of etcd process is too low, and should be set higher than {RESERVED} to \
             ensure internal usage"
        ));
    }
    let left = limit - RESERVED;
    let peers = (left / 4).clamp(1, MOST_FOR_PEERS);
    let metrics = (left / 16).clamp(1, MOST_FOR_PEERS);
    // No more than a process could have in any case; a semaphore holds less than a u64 may say.
    let clients = left.saturating_sub(peers + metrics).clamp(1, u64::from(u32::MAX >> 1));
    Ok(Connections { clients: clients as usize, peers: peers as usize, metrics: metrics as usize })
}

/// What this process may have of something at most.
pub fn limit(of: libc::__rlimit_resource_t) -> io::Result<u64> {
    Ok(get(of)?.rlim_cur)
}

fn raise() -> io::Result<u64> {
    let limit = get(libc::RLIMIT_NOFILE)?;
    let most = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: setrlimit reads the struct it is given.
    let raised = limit.rlim_cur < most.rlim_cur && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &most) } == 0;
    Ok(if raised { most.rlim_cur } else { limit.rlim_cur })
}

fn get(of: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes into the struct it is given.
    match unsafe { libc::getrlimit(of, &mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}
