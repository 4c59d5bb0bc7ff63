//! A process that outlives this one, to put in order what a killed process leaves.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getppid, kill_process, pidfd_open, setsid};

use super::clone::{block_signals, exit_now, last_errno};
use super::confine::close_from;

/// What the work at the end needs, and what waits for it.
const STACK: usize = 32 * 1024;

#[repr(align(16))]
struct Stack(std::cell::UnsafeCell<[MaybeUninit<u8>; STACK]>);

// SAFETY: only the one cleanup process runs on it, as the flag sees to.
unsafe impl Sync for Stack {}

static MEMORY: Stack = Stack(std::cell::UnsafeCell::new([MaybeUninit::uninit(); STACK]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The process; dropping it ends it, its work undone.
#[derive(Debug)]
pub struct Cleanup {
    pid: Pid,
}

struct Task<T: 'static> {
    data: &'static T,
    work: fn(&T),
    parent: Pid,
}

/// Starts a process that does `work` when this one has ended without having dropped what is returned: kill -9 above all.
///
/// It shares this process's memory and descriptors, which makes it cheap and small; it leaves the session and the process group, so that
/// what is sent to these does not reach it. It stays in the cgroup that it was started in: who ends what is there ends it, of which this process
/// learns by SIGTERM. No wait(2) of this process tells of it.
///
/// `work` has that memory as it was left in the middle of whatever this process did: it must not allocate, print or take a lock. Its stack
/// has 32 KiB.
///
/// # Errors
/// `EAGAIN` process limit · `ENOMEM` · `EBUSY` there is one already.
///
/// # References
/// clone(2) `CLONE_VM`, `CLONE_FILES` and "The child termination signal"; wait(2) `__WCLONE`; pidfd_open(2)
pub fn spawn_cleanup<T: Sync + 'static>(parent: Pid, data: &'static T, work: fn(&T)) -> Result<Cleanup, Errno> {
    extern "C" fn enter<T: Sync + 'static>(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `argument` is the task that spawn_cleanup has leaked, which nobody changes.
        let task = unsafe { &*argument.cast::<Task<T>>() };
        if await_end(task.parent).is_ok() {
            // Ignoring: whoever waits for these to be closed waits a little longer.
            let _ = close_from(0, false);
            (task.work)(task.data);
        }
        exit_now(0)
    }
    if TAKEN.swap(true, Ordering::Acquire) {
        return Err(Errno::BUSY);
    }
    let task: &'static mut Task<T> = Box::leak(Box::new(Task { data, work, parent }));
    let top = MEMORY.0.get().cast::<u8>().wrapping_add(STACK);
    // SAFETY: `top` is the aligned end of a stack that is this child's alone until it was waited for. Both run at the same time in one memory:
    // until the parent has ended the child makes bare system calls only, which touch nothing but its stack (rustix makes them itself, and writes
    // no errno, which the two would share); afterwards nobody else runs there. `enter` never returns and never unwinds: panics abort.
    let result =
        unsafe { libc::clone(enter::<T>, top.cast(), libc::CLONE_VM | libc::CLONE_FILES | libc::SIGTERM, std::ptr::from_mut(task).cast()) };
    match Pid::from_raw(result).filter(|_| result > 0) {
        Some(pid) => Ok(Cleanup { pid }),
        None => {
            let errno = last_errno();
            TAKEN.store(false, Ordering::Release);
            Err(errno)
        }
    }
}

/// Returns when the process is gone whose child this is. Signals end this one before, and no more then: a service manager sends some to all that
/// is left when a first process has ended.
fn await_end(parent: Pid) -> Result<(), Errno> {
    // Ignoring: it leads no group yet, so that this cannot fail.
    let _ = setsid();
    block_signals();
    let pidfd = match pidfd_open(parent, PidfdFlags::empty()) {
        // Not closed: that is for the parent's descriptors as well.
        Ok(pidfd) => super::keep_open(pidfd),
        Err(Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut end = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // Otherwise the number is somebody else's by now.
    while getppid() == Some(parent) && end.revents == 0 {
        // SAFETY: one pollfd, no limit of time, and a set of signals that was filled. It fails for no signal that has no handler, and so writes no
        // errno. Where the end is there, what else is pending stays blocked: poll(2) looks at descriptors first.
        unsafe {
            let mut none = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::ppoll(&mut end, 1, std::ptr::null(), none.as_ptr());
        }
    }
    Ok(())
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // SAFETY: the set is filled before it is used; the calls get valid arguments, or none where they take none. `__WCLONE`: a child with
        // another exit signal than SIGCHLD.
        unsafe {
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            // Its end is told by this signal, which is not to end this process now.
            libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            // Ignoring: it is gone already. Its number stays its own until it was waited for.
            let _ = kill_process(self.pid, Signal::KILL);
            while libc::waitpid(self.pid.as_raw_nonzero().get(), std::ptr::null_mut(), libc::__WCLONE) < 0 && last_errno() == Errno::INTR {}
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &at_once);
        }
        TAKEN.store(false, Ordering::Release);
    }
}

/// This process's number, asked for once; not for a child of it.
pub fn own_pid() -> Pid {
    static OWN: std::sync::OnceLock<Pid> = std::sync::OnceLock::new();
    *OWN.get_or_init(rustix::process::getpid)
}
