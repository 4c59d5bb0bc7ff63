//! A process that outlives this one, to put in order what a killed process leaves.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal, setsid};
use rustix::thread::futex;

use super::clone::{exit_now, last_errno};
use super::confine::close_from;

/// What the work at the end needs, and what waits for it.
const STACK: usize = 32 * 1024;

#[repr(align(16))]
struct Stack(std::cell::UnsafeCell<[MaybeUninit<u8>; STACK]>);

// SAFETY: only the one cleanup process runs on it, as the flag sees to.
unsafe impl Sync for Stack {}

static MEMORY: Stack = Stack(std::cell::UnsafeCell::new([MaybeUninit::uninit(); STACK]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Its number; 0 where there is none.
static NUMBER: AtomicI32 = AtomicI32::new(0);

/// Whether it has left the process group, and hears of its parent's end.
static APART: AtomicU32 = AtomicU32::new(0);

/// The process; dropping it ends it, its work undone.
#[derive(Debug)]
pub struct Cleanup {
    pid: Pid,
}

struct Task<T: 'static> {
    data: &'static T,
    work: fn(&T),
    parent: Pid,
    forwards: bool,
}

/// Starts a process that does `work` when this one has ended without having dropped what is returned: kill -9 above all.
///
/// It shares this process's memory and descriptors, which makes it cheap and small; it leaves the session and the process group, so that
/// what is sent to these does not reach it; that takes it a moment, see [`Cleanup::await_apart`]. Where it `forwards`, and this process leaves the
/// cgroup that both were in, a signal that is sent to all that is there it passes on to this process. That it was killed this process learns by
/// SIGCONT, which wakes it where it is stopped; while that is not blocked it is lost, and one of somebody else's hides it: [`cleanup_has_ended`]
/// tells for certain. No wait(2) of this process tells of it.
///
/// All signals must be blocked by the caller: until it is apart, what ends this process's group would end it.
///
/// `work` has that memory as it was left in the middle of whatever this process did: it must not allocate, print or take a lock. Its stack
/// has 32 KiB.
///
/// # Errors
/// `EAGAIN` process limit · `ENOMEM` · `EBUSY` there is one already.
///
/// # References
/// clone(2) `CLONE_VM`, `CLONE_FILES` and "The child termination signal"; signal(7) SIGCONT; wait(2) `__WCLONE`; prctl(2) `PR_SET_PDEATHSIG`
pub fn spawn_cleanup<T: Sync + 'static>(parent: Pid, forwards: bool, data: &'static T, work: fn(&T)) -> Result<Cleanup, Errno> {
    extern "C" fn enter<T: Sync + 'static>(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `argument` is the task that spawn_cleanup has leaked, which nobody changes.
        let task = unsafe { &*argument.cast::<Task<T>>() };
        await_end(task.parent, task.forwards);
        // Ignoring: whoever waits for these to be closed waits a little longer.
        let _ = close_from(0, false);
        (task.work)(task.data);
        exit_now(0)
    }
    if TAKEN.swap(true, Ordering::Acquire) {
        return Err(Errno::BUSY);
    }
    APART.store(0, Ordering::Relaxed);
    let task: &'static mut Task<T> = Box::leak(Box::new(Task { data, work, parent, forwards }));
    let top = MEMORY.0.get().cast::<u8>().wrapping_add(STACK);
    // SAFETY: `top` is the aligned end of a stack that is this child's alone until it was waited for. Both run at the same time in one
    // memory: until the parent has ended the child makes bare system calls only, which touch nothing but its stack (rustix makes them itself,
    // and writes no errno, which the two would share); afterwards nobody else runs there. `enter` never
    // returns and never unwinds: panics abort.
    let result =
        unsafe { libc::clone(enter::<T>, top.cast(), libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCONT, std::ptr::from_mut(task).cast()) };
    match Pid::from_raw(result).filter(|_| result > 0) {
        Some(pid) => {
            NUMBER.store(result, Ordering::Relaxed);
            Ok(Cleanup { pid })
        }
        None => {
            let errno = last_errno();
            TAKEN.store(false, Ordering::Release);
            Err(errno)
        }
    }
}

/// Returns when the process is gone whose child this is, and passes on to it what comes until then. Nothing here can fail.
fn await_end(parent: Pid, forwards: bool) {
    const END: Signal = Signal::USR1;
    /// What is of no meaning for another process, or means its terminal.
    const OWN: [Signal; 5] = [Signal::CHILD, Signal::TSTP, Signal::TTIN, Signal::TTOU, Signal::WINCH];
    // Ignoring: it leads no group yet.
    let _ = setsid();
    // Ignoring: a signal there is.
    let _ = set_parent_process_death_signal(Some(END));
    APART.store(1, Ordering::Release);
    // Ignoring: the address is one.
    let _ = futex::wake(&APART, futex::Flags::PRIVATE, 1);
    // It may have gone before.
    while getppid() == Some(parent) {
        let signal = i32::try_from(await_any_signal()).ok().and_then(Signal::from_named_raw);
        if let Some(signal) = signal.filter(|signal| forwards && !OWN.contains(signal) && getppid() == Some(parent)) {
            // Ignoring: it has just gone.
            let _ = kill_process(parent, signal);
        }
    }
}

/// rt_sigtimedwait(2) for every signal, without the C library, which would write an errno that is another process's: the number of the signal, or
/// less than 0.
fn await_any_signal() -> isize {
    let set = u64::MAX;
    let mut result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a set of the kernel's eight bytes, no siginfo_t and no limit of time; the call writes no memory, and the kernel clobbers rcx and r11.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_rt_sigtimedwait as isize => result, in("rdi") &raw const set, in("rsi") 0usize,
            in("rdx") 0usize, in("r10") size_of::<u64>(), lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the kernel clobbers nothing but x0.
    unsafe {
        std::arch::asm!("svc 0", in("x8") libc::SYS_rt_sigtimedwait as usize, inlateout("x0") &raw const set as isize => result, in("x1") 0usize,
            in("x2") 0usize, in("x3") size_of::<u64>(), options(nostack));
    }
    result
}

impl Cleanup {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until what is sent to this process's group, or session, does not reach it any more: before there is something that it would have
    /// to put in order.
    pub fn await_apart(&self) {
        const LONG: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
        while APART.load(Ordering::Acquire) == 0 {
            match futex::wait(&APART, futex::Flags::PRIVATE, 0, Some(&LONG)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                // It was killed before, which is told by its signal, or a busy machine has not let it run yet.
                Err(_) if cleanup_has_ended() => return,
                Err(_) => {}
            }
        }
    }
}

/// Whether there is a cleanup process, and it is gone: killed, since it does not end before this one.
///
/// # References
/// waitid(2) `WNOWAIT`; wait(2) `__WCLONE`
pub fn cleanup_has_ended() -> bool {
    const OPTIONS: libc::c_int = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WCLONE;
    let Some(number) = libc::id_t::try_from(NUMBER.load(Ordering::Relaxed)).ok().filter(|number| *number > 0) else { return false };
    // SAFETY: a siginfo_t of zeroes is one, which the call fills in; the number in it stays 0 where the process has not ended.
    unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        libc::waitid(libc::P_PID, number, &mut info, OPTIONS) < 0 || info.si_pid() != 0
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // SAFETY: the sets are filled before they are used; the calls get valid arguments, or none where they take none. `__WCLONE`: a child
        // with another exit signal than SIGCHLD.
        unsafe {
            let (mut set, mut before) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::<libc::sigset_t>::uninit());
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGCONT);
            // Its end is told by this signal, which is not to be taken for somebody's word later. If it is somebody's, it has continued what it
            // was to continue when it was sent.
            libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            // Ignoring: it is gone already. Its number stays its own until it was waited for.
            let _ = kill_process(self.pid, Signal::KILL);
            while libc::waitpid(self.pid.as_raw_nonzero().get(), std::ptr::null_mut(), libc::__WCLONE) < 0 && last_errno() == Errno::INTR {}
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &at_once);
            libc::sigprocmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        }
        NUMBER.store(0, Ordering::Relaxed);
        TAKEN.store(false, Ordering::Release);
    }
}

/// This process's number, asked for once; not for a child of it.
pub fn own_pid() -> Pid {
    static OWN: std::sync::OnceLock<Pid> = std::sync::OnceLock::new();
    *OWN.get_or_init(rustix::process::getpid)
}
