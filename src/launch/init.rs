//! Our pid 1, or without a pid namespace the subreaper: starts the payload, reaps, forwards signals, and tells the parent how it ended.
//!
//! It holds no host descriptor but the socket, has no capability that the payload lacks, and is not dumpable.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, ioctl_tiocsctty, kill_process, kill_process_group, setsid, wait};
use rustix::thread::{CapabilitySet, capabilities};

use super::child::{State, is_hung_up};
use super::descendants::{end_descendants, end_domain};
use super::payload::{self, Failure};
use super::wire::{Message, tell};
use crate::sys::{self, Taken, exit_now};

/// Milliseconds after which a payload is taken to last.
const SETTLE: u32 = 250;

/// Leaves the caller's session, and takes the new terminal where there is one.
pub(super) fn own_session(state: &State<'_>) -> Result<(), Errno> {
    setsid()?;
    match &state.terminal {
        Some(terminal) => ioctl_tiocsctty(terminal),
        None => Ok(()),
    }
}

/// Starts the payload and stays as pid 1 until it has ended; never returns but with an error.
pub(super) fn run(state: &State<'_>, step: u32) -> Result<(), Errno> {
    own_session(state)?;
    let stack = sys::payload_stack();
    let mut failure: Option<Failure> = None;
    let payload = sys::spawn_sharing_memory(stack, &mut || {
        failure = Some(payload::run(state, step));
        125
    })?;
    if let Some(Failure { step, errno }) = failure {
        tell(state.socket, Message::Failed { step, errno: errno.raw_os_error() });
        exit_now(125)
    }
    let socket = sys::keep_only(state.socket)?;
    serve(&Init { socket, payload, has_namespaces: state.lowered.has_namespaces(), scoped: state.lowered.scoped }, stack)
}

/// What is left of a start.
struct Init {
    socket: BorrowedFd<'static>,
    payload: Pid,
    has_namespaces: bool,
    scoped: bool,
}

/// Reaps and forwards. All signals are blocked and taken one by one; for pid 1 a blocked signal is kept even where its default would
/// have the kernel drop it (pid_namespaces(7)).
fn serve(init: &Init, stack: &mut [std::mem::MaybeUninit<u8>]) -> ! {
    debug_assert!(init.socket.as_raw_fd() >= 0);
    // A payload that lasts has an init that is as small as can be.
    let mut settled = false;
    loop {
        let taken = if settled { sys::await_signal_idle() } else { sys::await_signal(Some(SETTLE)) };
        match taken {
            Some(Taken { signal: Signal::CHILD, .. }) => reap(init),
            // With a pid namespace the kernel ends init together with its parent.
            Some(_) if !init.has_namespaces && is_hung_up(init.socket) => {
                end_all(init);
                exit_now(0)
            }
            // What has a number here is the payload's: it could have a signal passed on that it may not send itself. Landlock drops such
            // signals too, but from ABI 6 on only.
            Some(taken) if init.has_namespaces && !taken.from_outside => {}
            Some(taken) => forward(taken.signal, init.payload),
            None if settled => {}
            None => {
                settled = true;
                sys::forget(stack);
                sys::forget_allocations();
                sys::forget_stack();
            }
        }
    }
}

fn reap(init: &Init) {
    loop {
        match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((pid, status))) if pid == init.payload => report(init, status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

fn report(init: &Init, status: WaitStatus) {
    if status.stopped() {
        tell(init.socket, Message::Stopped);
        return;
    }
    let message = match status.terminating_signal() {
        Some(signal) => Message::Signaled { signal },
        None => Message::Exited { code: status.exit_status().unwrap_or(0) },
    };
    if init.has_namespaces {
        end_the_rest();
    } else {
        end_all(init);
    }
    tell(init.socket, message);
    exit_now(0)
}

/// Without a pid namespace: one signal for all where that means the sandbox, else generation by generation.
fn end_all(init: &Init) {
    if init.scoped {
        end_domain();
    } else {
        end_descendants();
    }
}

/// How often in a row init looks in vain for one that has ended, where some may not be its to end; how long it waits in between, and how long
/// it looks at most.
const PATIENCE: u32 = 200;
const A_MOMENT: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
const AT_MOST: Duration = Duration::from_secs(30);

/// Ends whatever the payload has left running, so that nothing runs any more when the parent hears of the end.
fn end_the_rest() {
    // Ignoring: ESRCH says that there is nothing to end, and success not that all were.
    let _ = sys::kill_all(Signal::KILL);
    // All of them are on their way out then, however long the kernel takes for their memory. Else what belongs to another id is ended by the
    // kernel with init itself, and may start others without end until then.
    let patience = if can_end_all() { u32::MAX } else { PATIENCE };
    let (began, mut in_vain) = (Instant::now(), 0);
    while in_vain < patience && began.elapsed() < AT_MOST {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return,
            Ok(Some(_)) => in_vain = 0,
            _ => {
                in_vain += 1;
                // Ignoring: a wait that a signal cut short is a wait.
                let _ = rustix::thread::nanosleep(&A_MOMENT);
            }
        }
    }
}

/// Whether nothing in the sandbox is safe from a signal of init's: it may signal every id (capabilities(7), CAP_KILL), or no process can have got
/// another id, since the payload has no more than init.
fn can_end_all() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::KILL) || !sets.permitted.contains(CapabilitySet::SETUID))
}

/// Keyboard signals go to the payload's process group, as a terminal sends them; the others to the payload alone.
fn forward(signal: Signal, payload: Pid) {
    let to_group = [Signal::INT, Signal::QUIT, Signal::TSTP, Signal::CONT, Signal::HUP, Signal::WINCH].contains(&signal);
    // Ignoring: the payload may be gone already, and its end is on the way.
    let _ = if to_group { kill_process_group(payload, signal) } else { kill_process(payload, signal) };
}
