//! The payload's own steps, from the fork to execve.
//!
//! Runs while init's memory is shared with it: nothing here allocates, prints or panics.

use std::ffi::CString;
use std::os::fd::AsFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Rlimit, setpgid, setrlimit, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::tcsetpgrp;

use super::child::State;
use super::op::{LandlockRule, PayloadOp};
use super::wire::{Message, tell, tell_with};
use crate::sys::{self, CStrArray, close_from, exit_now, landlock_add_path, landlock_restrict_self};

/// Where a payload failed.
pub(super) struct Failure {
    pub step: u32,
    pub errno: Errno,
}

/// Confines this process and executes the payload; returns only when that failed.
pub(super) fn run(state: &State<'_>, start_step: u32) -> Failure {
    if let Err(errno) = take_terminal(state) {
        return Failure { step: start_step, errno };
    }
    umask(Mode::from_raw_mode(state.lowered.umask));
    sys::reset_signals();
    for (step, op) in &state.lowered.payload {
        let result = match state.lowered.fault {
            Some((at, errno)) if at == *step => Err(Errno::from_raw_os_error(errno)),
            _ => perform(*step, op, state),
        };
        if let Err(errno) = result {
            return Failure { step: *step, errno };
        }
    }
    Failure { step: start_step, errno: Errno::NOEXEC }
}

/// Without an init of ours the payload is pid 1 itself.
pub(super) fn become_payload(state: &State<'_>, step: u32) -> Result<(), Errno> {
    super::init::own_session(state)?;
    let failure = run(state, step);
    tell(state.socket, Message::Failed { step: failure.step, errno: failure.errno.raw_os_error() });
    exit_now(125)
}

/// A process group of its own in the foreground of its terminal, as a shell would give it, so that Ctrl-C and Ctrl-Z reach it.
fn take_terminal(state: &State<'_>) -> Result<(), Errno> {
    match setpgid(None, None) {
        // A session leader, as without init, has its group already.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let [stdin, stdout, stderr] = &state.lowered.pipes;
    stdin.as_ref().map_or(Ok(()), dup2_stdin)?;
    stdout.as_ref().map_or(Ok(()), dup2_stdout)?;
    stderr.as_ref().map_or(Ok(()), dup2_stderr)?;
    let Some(terminal) = &state.terminal else { return Ok(()) };
    let own = rustix::process::getpid();
    tcsetpgrp(terminal, own)?;
    let [stdin, stdout, stderr] = state.lowered.terminal;
    if stdin {
        dup2_stdin(terminal)?;
    }
    if stdout {
        dup2_stdout(terminal)?;
    }
    if stderr {
        dup2_stderr(terminal)?;
    }
    Ok(())
}

fn perform(step: u32, op: &PayloadOp, state: &State<'_>) -> Result<(), Errno> {
    match op {
        PayloadOp::Rlimits(rlimits) => rlimits.iter().try_for_each(|(resource, value)| {
            let value = (*value != u64::MAX).then_some(*value);
            setrlimit(*resource, Rlimit { current: value, maximum: value })
        }),
        PayloadOp::Landlock { ruleset, rules, terminal } => {
            for rule in rules {
                add_rule(ruleset.as_fd(), rule)?;
            }
            if let Some(own) = state.terminal.as_ref().filter(|_| *terminal != 0) {
                landlock_add_path(ruleset.as_fd(), own.as_fd(), *terminal)?;
            }
            landlock_restrict_self(ruleset.as_fd())
        }
        // Without an init to tell of it, the socket must outlive a failing execve.
        // Nor can a filter that asks be told of without it; nothing else may be open then, for a small rlimit to leave room.
        PayloadOp::CloseDescriptors if !state.lowered.has_namespaces() => sys::close_all_but(state.socket),
        PayloadOp::CloseDescriptors => close_from(3, !state.lowered.has_init),
        PayloadOp::Seccomp { program, asks: false } => sys::install_filter(program),
        PayloadOp::Seccomp { program, asks: true } => {
            match sys::install_filter_that_asks(program) {
                Ok(listener) => tell_with(state.socket, Message::Listener, listener.as_fd()),
                // A filter that this process was started under has a listener, and there is one at most: then nobody can be asked, and
                // the kernel refuses such calls.
                Err(Errno::BUSY) => {
                    tell(state.socket, Message::Missed { step, errno: Errno::BUSY.raw_os_error() });
                    sys::install_filter(program)
                }
                Err(errno) => Err(errno),
            }
        }
        PayloadOp::Execute { candidates, argv, environment } => Err(execute(candidates, argv, environment)),
    }
}

fn add_rule(ruleset: std::os::fd::BorrowedFd<'_>, rule: &LandlockRule) -> Result<(), Errno> {
    let path = match openat(CWD, rule.path.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(path) => sys::keep_open(path),
        Err(Errno::NOENT) if rule.optional => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut access = rule.access;
    if rule.identity.is_some() || rule.optional && rule.access != rule.file_access {
        let stat = fstat(path)?;
        // ESTALE: the file was replaced since the parent opened it.
        if rule.identity.is_some_and(|identity| identity != (stat.st_dev, stat.st_ino)) {
            return Err(Errno::STALE);
        }
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            access = rule.file_access;
        }
    }
    landlock_add_path(ruleset, path.as_fd(), access)
}

/// execvp(3): the first candidate that can be executed; EACCES on the way is remembered over ENOENT.
fn execute(candidates: &[CString], argv: &CStrArray, environment: &CStrArray) -> Errno {
    let mut result = Errno::NOENT;
    for candidate in candidates {
        match sys::execve(candidate, argv, environment) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => result = Errno::ACCESS,
            errno => return errno,
        }
    }
    result
}
