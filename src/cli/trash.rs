//! What runs have left in scratch directories is removed by a process of its own, which nobody waits for.

use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use crate::host::Host;
use crate::rootfs::{Ownership, SubRange, sweep};
use crate::sys::{self, Clone3, Forked};

/// Starts the removal and returns at once. What it cannot remove, the next one finds.
pub fn sweep_in_background(directory: &Path, host: &Host) {
    if is_swept(directory) {
        return;
    }
    // Ignoring: no process to be had is no reason to fail a run that is over; the next run tries again.
    // Some filters of containers have the older call only.
    if let Ok(Forked::Child) = sys::clone3(&Clone3 { namespaces: 0, cgroup: None }).or_else(|_| sys::fork()) {
        detach();
        let range = |range: crate::host::SubRange| SubRange { start: range.start, count: range.count };
        let ownership = match host.ranges {
            Some((uids, gids)) => Ownership::Range { uids: range(uids), gids: range(gids) },
            None => Ownership::Single,
        };
        let removed = sweep(directory, ownership);
        sys::exit_now(i32::from(removed.is_err()));
    }
}

/// Whether a removal is on its way, which will find what this run has left as well.
fn is_swept(directory: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(trash) = openat(CWD, directory, flags, Mode::empty()) else { return true };
    flock(&trash, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// Nobody's terminal, nobody's pipe, and last in line for the processor.
fn detach() {
    // Ignoring, all of it: a removal that disturbs is better than none.
    let _ = rustix::process::setsid();
    if let Ok(null) = openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let _ = rustix::process::nice(19);
    // The locks of the run that is over are among them.
    let _ = sys::close_from(3, false);
}
