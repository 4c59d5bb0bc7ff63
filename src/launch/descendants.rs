//! Ending everything that a payload has left, where no pid namespace does it.
//!
//! The caller is a child subreaper (prctl(2)): a process whose parent ends becomes its child, whatever sessions and groups it has made
//! for itself. So killing the children, and then those that were theirs, and so on, leaves none. A process with a pending SIGKILL cannot
//! fork any more, so that each round takes away more than it lets grow; but for chains that grow faster than this process looks, against which only a domain
//! that scopes signals helps.
//!
//! Runs in init, whose memory is given back: nothing here allocates, prints or panics.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::{Errno, read};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

use crate::sys;

/// Bytes that are read of a file of `/proc` at once.
const CHUNK: usize = 4096;

/// Kills and reaps every descendant of this process; returns when there is none, or none can be found any more.
///
/// # References
/// prctl(2) `PR_SET_CHILD_SUBREAPER`, proc(5) `/proc/PID/task/TID/children`
pub(super) fn end_descendants() {
    loop {
        if !reap_ended() || !kill_children() {
            return;
        }
        // All that were there are about to end: the first that has is what there is to wait for. The next round takes in its children.
        // Ignoring: without children the next round says so.
        let _ = wait(WaitOptions::empty());
    }
}

/// Kills and reaps everything that this process may signal; for a process in a Landlock domain that scopes signals these are its descendants,
/// in that domain or in one below. Nobody outruns it: the kernel signals all of them while nobody can be forked, and who has a pending SIGKILL
/// forks no more.
///
/// # References
/// kill(2), pid -1; landlock(7), `LANDLOCK_SCOPE_SIGNAL`
pub(super) fn end_domain() {
    loop {
        // Ignoring: ESRCH and EPERM say that there is nobody left.
        let _ = sys::kill_all(Signal::KILL);
        if !reap_ended() {
            return;
        }
        // Ignoring: without children the next round says so.
        let _ = wait(WaitOptions::empty());
    }
}

/// Takes every child that has ended; whether there are others.
fn reap_ended() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Kills every child that there is now; whether there was one.
///
/// None of the numbers can have been used again: a child keeps its number until this process has waited for it.
fn kill_children() -> bool {
    match open(c"/proc/thread-self/children") {
        Ok(file) => kill_listed(file.as_fd()),
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(_) => kill_found_in_proc(),
    }
}

fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Numbers with a space after each.
fn kill_listed(file: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; CHUNK];
    let (mut number, mut found) = (0i32, false);
    while let Ok(count @ 1..) = read(file, &mut buffer) {
        for byte in buffer.iter().take(count) {
            match byte {
                b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i32::from(byte - b'0')),
                _ => {
                    found |= kill(number);
                    number = 0;
                }
            }
        }
    }
    found
}

fn kill(number: i32) -> bool {
    // Ignoring: it may have ended meanwhile.
    Pid::from_raw(number).filter(|_| number > 0).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Slower: asks every process for its parent.
fn kill_found_in_proc() -> bool {
    let Ok(proc) = open(c"/proc") else { return false };
    let mut buffer = [MaybeUninit::uninit(); CHUNK];
    let mut entries = RawDir::new(&proc, &mut buffer);
    let (own, mut found) = (getpid().as_raw_nonzero().get(), false);
    while let Some(Ok(entry)) = entries.next() {
        let number = entry.file_name().to_bytes().iter().try_fold(0i32, |number, byte| match byte {
            b'0'..=b'9' => number.checked_mul(10)?.checked_add(i32::from(byte - b'0')),
            _ => None,
        });
        if let Some(number) = number.filter(|_| parent_of(proc.as_fd(), entry.file_name()) == Some(own)) {
            found |= kill(number);
        }
    }
    found
}

/// The second field after the name, which ends at the last parenthesis (proc(5), `/proc/PID/stat`).
fn parent_of(proc: BorrowedFd<'_>, process: &CStr) -> Option<i32> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = openat(proc, process, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = openat(&directory, c"stat", flags, Mode::empty()).ok()?;
    let mut buffer = [0u8; CHUNK];
    let count = read(&file, &mut buffer).ok()?;
    let text = buffer.get(..count)?;
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = text.get(name_end + 1..)?.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let digits = fields.nth(1)?;
    digits.iter().try_fold(0i32, |number, byte| number.checked_mul(10)?.checked_add(i32::from(byte.checked_sub(b'0')?)))
}
