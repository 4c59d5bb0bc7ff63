//! fork(2), for probes that must also work where an outer filter refuses clone3(2).

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::clone::{Forked, last_errno, single_threaded};

/// Copies this process; the child is a full copy with its own memory, and ends by [`exit_now`](super::exit_now).
///
/// # Errors
/// `EAGAIN` process limit · `ENOMEM` · `EINVAL` the process has more than one thread.
///
/// # References
/// fork(2), pidfd_open(2)
pub fn fork() -> Result<Forked, Errno> {
    if !single_threaded() && !one_task() {
        return Err(Errno::INVAL);
    }
    // SAFETY: there is one thread (checked above), so no lock is left held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => {
            let child = Pid::from_raw(pid).ok_or(Errno::RANGE)?;
            // Nobody else waits for this child, so its number cannot have been used again.
            Ok(Forked::Parent { child, pidfd: pidfd_open(child, PidfdFlags::empty())? })
        }
    }
}

/// The kernel's own list, where a filter refuses the unshare(2) that `single_threaded` asks by; a directory has a link for each entry
/// and two for itself, proc(5).
fn one_task() -> bool {
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3)
}
