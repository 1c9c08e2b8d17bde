//! Waiting until an instant to a few microseconds. Tokio's own timer has steps of a millisecond, which an open loop
//! would report as the server's latency.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;
use tokio::io::unix::AsyncFd;

pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Must be called inside a runtime.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the descriptor is new and owned by nobody else.
        let fd = unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: the descriptor stays open and the same as long as it is registered: nothing takes it out.
        unsafe { AsyncFd::register(fd) }.map(Timer).map_err(io::Error::from)
    }

    /// Returns at once when `due` is over; lets other tasks run in any case.
    pub async fn wait_until(&mut self, due: Instant) {
        let rest = due.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return tokio::task::yield_now().await;
        }
        let it_value = libc::timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        // SAFETY: the descriptor is open, `spec` is initialised, and the old value is not asked for.
        let set = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &spec, std::ptr::null_mut()) };
        if set != 0 {
            return tokio::time::sleep(rest).await;
        }
        while Instant::now() < due {
            let Ok(mut guard) = self.0.readable().await else { return };
            let mut expired = [0u8; 8];
            // SAFETY: eight bytes are what a timer descriptor writes.
            let _ = unsafe { libc::read(self.0.as_raw_fd(), expired.as_mut_ptr().cast(), 8) };
            guard.clear_ready();
        }
    }
}
