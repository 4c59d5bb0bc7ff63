//! The parent's part of a start: clone, id maps, and the handle on what runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, pidfd_send_signal, set_child_subreaper, waitid};

use super::cgroup::{Cgroup, Got};
use super::child;
use super::descendants::end_descendants;
use super::lower::Lowered;
use super::scratch::Scratch;
use super::wire;
use crate::sys::{self, Arguments, Clone3, Forked, IdMapError, write_maps_with_programs};

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the plan, by its index.
    #[error("step {step} failed")]
    Step { step: u32, source: Errno },
    #[error("cannot write the id maps")]
    Maps { step: u32, source: IdMapError },
}

/// A sandbox that has been started. Dropping it ends it.
pub struct Running {
    pub child: Pid,
    pub pidfd: OwnedFd,
    pub socket: OwnedFd,
    pub scratch: Option<Scratch>,
    /// Whether pid 1 is our init, which tells how the payload ended.
    pub init: bool,
    /// What the kernel says of the cgroup's processes ending together.
    pub kills_as_one: Option<Got>,
    has_namespaces: bool,
    /// Whether what init leaves comes to this process, and nothing else does.
    adopts: bool,
    reaped: bool,
}

impl Running {
    /// Waits until pid 1 of the sandbox is gone, and with it everything in its pid namespace. `None` where that was seen before.
    ///
    /// Without a pid namespace what an init that was killed has left is ended here.
    pub fn reap(&mut self) -> Result<Option<WaitIdStatus>, Errno> {
        while !self.reaped {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(status) => {
                    self.reaped = true;
                    if self.adopts {
                        end_descendants();
                    }
                    return Ok(status);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// Whether nothing of the sandbox can be left once it was reaped, even where init was killed.
    pub fn ends_all(&self) -> bool {
        self.has_namespaces || self.adopts
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        pidfd_send_signal(&self.pidfd, signal)
    }

    /// Tells a child that waits for it that its terminal is set up.
    ///
    /// # Errors
    /// Those of send(2), but for a child that is gone.
    pub fn terminal_is_ready(&self) -> Result<(), Errno> {
        if self.has_namespaces {
            return Ok(());
        }
        match wire::go_ahead(&self.socket) {
            Err(Errno::PIPE) => Ok(()),
            result => result,
        }
    }

    /// Ends the sandbox at once. Without a pid namespace an init that is killed would leave everything else: it is told to end that, by
    /// the socket, and woken up.
    pub fn kill(&self) -> Result<(), Errno> {
        if self.has_namespaces {
            return self.signal(Signal::KILL);
        }
        // Ignoring: an init that is gone has closed its end.
        let _ = shutdown(&self.socket, Shutdown::Both);
        self.signal(Signal::HUP)?;
        self.signal(Signal::CONT)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            // Ignoring: it is gone already, which is what is wanted.
            let _ = self.kill();
            let _ = self.reap();
        }
    }
}

/// Longest answer of getcwd(2).
const PATH_MAX: usize = 4096;

/// Clones the child, straight into a cgroup where there is one, writes its maps where that is the parent's part, and returns the handle.
///
/// All signals must be blocked by the caller: the child inherits that, and so loses none.
///
/// # Errors
/// [`LaunchError`]; the child is gone by then.
pub fn start(mut lowered: Lowered, cgroup: Option<&Cgroup>, arguments: &Arguments) -> Result<Running, LaunchError> {
    let clone_step = lowered.clone_step;
    let step = |source| LaunchError::Step { step: clone_step, source };
    let own = lowered.kill_step.unwrap_or(clone_step);
    if let Some((at, errno)) = lowered.fault.filter(|(at, _)| *at <= own) {
        return Err(LaunchError::Step { step: at, source: Errno::from_raw_os_error(errno) });
    }
    if let Some(scratch) = &lowered.scratch {
        scratch.begin().map_err(step)?;
    }
    let (ours, theirs) = wire::pair().map_err(step)?;
    let directory = Vec::with_capacity(PATH_MAX);
    let adopts = !lowered.has_namespaces() && adopt().map_err(step)?;
    let (child, pidfd) = match clone(&lowered, cgroup.map(Cgroup::descriptor)).map_err(step)? {
        Forked::Child => {
            drop(ours);
            arguments.clear();
            child::run(&lowered, theirs.as_fd(), directory)
        }
        Forked::Parent { child, pidfd } => (child, pidfd),
    };
    drop(theirs);
    let (scratch, has_namespaces) = (lowered.scratch.take(), lowered.has_namespaces());
    let (init, kills) = (lowered.has_init, lowered.kill_step.and(cgroup));
    let mut running = Running { child, pidfd, socket: ours, scratch, init, kills_as_one: None, has_namespaces, adopts, reaped: false };
    if let Some((step, uids, gids)) = &lowered.maps {
        write_maps_with_programs(child, uids, gids).map_err(|source| LaunchError::Maps { step: *step, source })?;
        match wire::go_ahead(&running.socket) {
            // The child has failed already, and what it said is still to be heard.
            Ok(()) | Err(Errno::PIPE) => {}
            Err(source) => return Err(LaunchError::Step { step: *step, source }),
        }
    }
    // Now, when the child waits for nothing any more.
    running.kills_as_one = kills.map(Cgroup::kill_as_one);
    // Its pieces are in memory that goes with the process, as the one descriptor in it does.
    std::mem::forget(lowered);
    Ok(running)
}

/// Without namespaces an older call does as well, which filters of containers let through.
fn clone(lowered: &Lowered, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    if lowered.has_namespaces() {
        return sys::clone3(&Clone3 { namespaces: lowered.namespaces, cgroup });
    }
    sys::fork()
}

/// Takes in what init would leave if it were killed. Not where the caller had children when it became hamper: theirs could not be told
/// from ours.
fn adopt() -> Result<bool, Errno> {
    match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT) {
        Err(Errno::CHILD) => set_child_subreaper(Some(getpid())).map(|()| true),
        result => result.map(|_| false),
    }
}
