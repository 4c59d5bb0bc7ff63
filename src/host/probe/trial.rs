//! A child that tries things and says, after each, how it went; it may be killed at any of them, and nothing of it stays.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, set_parent_process_death_signal, waitid};

use crate::sys::{self, Clone3, Forked, exit_now};

/// A trial that takes longer hangs, on a dead network file system for instance.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// What a child may say, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// How one act of a trial went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Done,
    Failed(Errno),
    /// The act ended the child: an outer seccomp filter sends SIGSYS, the time limit SIGKILL.
    Killed(i32),
    /// The trial ended before, or left it out.
    NotTried,
}

impl Attempt {
    pub fn done(self) -> bool {
        self == Self::Done
    }

    pub fn failed(self) -> bool {
        !matches!(self, Self::Done | Self::NotTried)
    }
}

/// What a child has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    records: Vec<(String, Option<String>)>,
    signal: Option<i32>,
}

impl Tried {
    pub fn attempt(&self, act: &str) -> Attempt {
        match self.records.iter().find(|(name, _)| name == act) {
            None => Attempt::NotTried,
            Some((_, None)) => Attempt::Killed(self.signal.unwrap_or(0)),
            Some((_, Some(errno))) => match errno.parse() {
                Ok(0) => Attempt::Done,
                Ok(errno) => Attempt::Failed(Errno::from_raw_os_error(errno)),
                Err(_) => Attempt::NotTried,
            },
        }
    }

    /// What the child has told under a name.
    pub fn told(&self, name: &str) -> Option<&str> {
        self.records.iter().find(|(known, _)| known == name).and_then(|(_, text)| text.as_deref())
    }

    fn parse(text: &str, signal: Option<i32>) -> Self {
        let records = text.lines().map(|line| match line.split_once('\t') {
            Some((name, "")) => (name.to_owned(), None),
            Some((name, text)) => (name.to_owned(), Some(text.to_owned())),
            None => (line.to_owned(), None),
        });
        Self { records: records.collect(), signal }
    }
}

/// The child's side.
pub struct Trial {
    answer: File,
}

impl Trial {
    /// Tries one act. The name goes first, so that an act that ends the child is known.
    pub fn attempt(&mut self, name: &str, act: impl FnOnce() -> Result<(), Errno>) -> bool {
        self.write(format!("{name}\t"));
        let result = act();
        self.write(format!("{}\n", result.err().map_or(0, Errno::raw_os_error)));
        result.is_ok()
    }

    pub fn tell(&mut self, name: &str, text: &str) {
        self.write(format!("{name}\t{}\n", text.replace(['\n', '\t'], " ")));
    }

    fn write(&mut self, text: String) {
        if self.answer.write_all(text.as_bytes()).is_err() {
            exit_now(1);
        }
    }
}

/// Runs `work` in a child in new `namespaces` (`CLONE_NEW*`; none: a plain fork), while `meanwhile` does what only a parent can.
///
/// `work` begins when `meanwhile` has returned true. The process must have one thread.
///
/// # Errors
/// The errno of the clone.
pub fn run<R>(namespaces: u64, meanwhile: impl FnOnce(Pid) -> bool, work: impl FnOnce(&mut Trial) -> R) -> Result<Tried, Errno> {
    let (go, start) = pipe_with(PipeFlags::CLOEXEC)?;
    let (answer, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let forked = match namespaces {
        0 => sys::fork()?,
        namespaces => sys::clone3(&Clone3 { namespaces, cgroup: None })?,
    };
    match forked {
        Forked::Child => {
            drop((start, answer));
            let mut byte = [0];
            let asked = set_parent_process_death_signal(Some(Signal::KILL));
            if asked.is_ok() && matches!(File::from(go).read(&mut byte), Ok(1)) {
                work(&mut Trial { answer: write.into() });
            }
            exit_now(0)
        }
        Forked::Parent { child, pidfd } => {
            drop((go, write));
            if meanwhile(child) {
                // A child that is gone says nothing, which is seen below.
                let _ = rustix::io::write(&start, b"!");
            }
            drop(start);
            let text = listen(answer, Instant::now() + TIME_LIMIT);
            if text.is_none() {
                // It may just have ended by itself.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
            let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
            let signal = status.and_then(|status| status.terminating_signal());
            Ok(Tried::parse(&text.unwrap_or_default(), signal))
        }
    }
}

/// Everything until the child's end, or `None` at the deadline.
fn listen(answer: OwnedFd, deadline: Instant) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&answer, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return None,
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        match rustix::io::read(&answer, &mut buffer) {
            Ok(0) => return Some(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(count) if bytes.len() + count <= MAX_ANSWER => bytes.extend_from_slice(buffer.get(..count)?),
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let tried = Tried::parse("clone\t0\nlabel\tunconfined\nmount\t1\nproc\t", Some(31));
        assert_eq!(tried.attempt("clone"), Attempt::Done);
        assert_eq!(tried.attempt("mount"), Attempt::Failed(Errno::PERM));
        assert_eq!(tried.attempt("proc"), Attempt::Killed(31));
        assert_eq!(tried.attempt("pivot_root"), Attempt::NotTried);
        assert_eq!(tried.told("label"), Some("unconfined"));
    }
}
