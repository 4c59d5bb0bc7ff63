//! clone3(2), the memory-sharing clone of vfork(2), and the exit that goes with them.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// What [`clone3`] is asked for.
pub struct Clone3<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// The cgroup v2 directory in which the child is born (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// clone3 returns twice, like fork(2).
pub enum Forked {
    Child,
    Parent { child: Pid, pidfd: OwnedFd },
}

/// `CLONE_INTO_CGROUP`, `linux/sched.h`; the libc crate has it for glibc only.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Copies this process into new namespaces and, where asked, straight into a cgroup, so that no instant exists in which the child
/// runs unlimited.
///
/// The child is a full copy with its own memory. It may allocate only because the caller has one thread, which is checked here.
///
/// # Errors
/// `EPERM` user namespaces refused (sysctl, LSM, seccomp) · `EACCES` refused by AppArmor, or the cgroup is not ours · `ENOSPC` nesting
/// or `max_*_namespaces` reached · `EBUSY` the cgroup has domain controllers enabled · `ENOSYS` an outer seccomp filter · `EINVAL` the
/// process has more than one thread.
///
/// # References
/// clone(2), user_namespaces(7), cgroups(7)
pub fn clone3(request: &Clone3<'_>) -> Result<Forked, Errno> {
    if !single_threaded() {
        return Err(Errno::INVAL);
    }
    let mut pidfd: libc::c_int = -1;
    let mut flags = request.namespaces | libc::CLONE_PIDFD as u64;
    // SAFETY: clone_args is plain integers, for which all zeroes is a valid value ("not used").
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = request.cgroup {
        flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    arguments.flags = flags;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: no CLONE_VM and no stack, so the child continues on a copy of this stack like after fork(2). There is one thread (checked
    // above), so no lock is left held by a thread that the child lacks. `arguments` and `pidfd` outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => {
            let child = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
            // SAFETY: the kernel stored a new descriptor there, and nothing else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { child, pidfd })
        }
    }
}

/// How often, and how far apart, a second thread is looked for before it counts: about three seconds in all.
const LOOKS: u32 = 20_000;
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_micros(100);

/// Whether this process has exactly one thread. Threads that have done their work may still be on their way out: the end of a
/// `std::thread::scope` waits for their closures, pthread_join(3) for their memory, and neither until the kernel counts them no more.
/// So they are given time to go.
pub fn single_threaded() -> bool {
    alone()
        || (1..LOOKS).any(|_| {
            std::thread::sleep(BETWEEN_LOOKS);
            alone()
        })
}

/// `unshare(CLONE_THREAD)` is a no-op where there is one thread, and `EINVAL` otherwise (unshare(2)).
fn alone() -> bool {
    // SAFETY: with one thread the call changes nothing; with more it fails and changes nothing.
    let result = unsafe { libc::unshare(libc::CLONE_THREAD) };
    // An outer filter that refuses unshare says EPERM or ENOSYS, whatever the threads are.
    result == 0 || last_errno() != Errno::INVAL
}

/// What the way to execve needs.
const LEAST_STACK: usize = 16 * 1024;

/// A stack for the one child that shares this process's memory. On the caller's own it would be part of a frame, every page of which is
/// touched (stack probes). Empty for whoever asks a second time.
pub fn payload_stack() -> &'static mut [std::mem::MaybeUninit<u8>] {
    const SIZE: usize = 64 * 1024;
    #[repr(align(16))]
    struct Stack(std::cell::UnsafeCell<[std::mem::MaybeUninit<u8>; SIZE]>);
    // SAFETY: handed out once, as the flag sees to.
    unsafe impl Sync for Stack {}
    static STACK: Stack = Stack(std::cell::UnsafeCell::new([std::mem::MaybeUninit::uninit(); SIZE]));
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return &mut [];
    }
    // SAFETY: the only reference there ever is.
    unsafe { &mut *STACK.0.get() }
}

/// Runs `body` in a child that shares this process's memory, and waits, as vfork(2) does, until it has exited or called execve(2).
///
/// `body` runs on `stack`. It ends by execve or by returning, which ends the child with that status. What it writes to memory is seen
/// here afterwards.
///
/// # Errors
/// `EAGAIN` process limit · `ENOMEM`, also for a stack that is too small.
///
/// # References
/// clone(2) `CLONE_VM | CLONE_VFORK`
pub fn spawn_sharing_memory(stack: &mut [std::mem::MaybeUninit<u8>], body: &mut dyn FnMut() -> i32) -> Result<Pid, Errno> {
    extern "C" fn enter(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `argument` points to the `&mut dyn FnMut` on the frame of spawn_sharing_memory, which is suspended by CLONE_VFORK until
        // this child has ended or executed another program, so the reference is live and unique.
        let body = unsafe { &mut *argument.cast::<&mut dyn FnMut() -> i32>() };
        exit_now(body())
    }
    if stack.len() < LEAST_STACK {
        return Err(Errno::NOMEM);
    }
    let mut body = body;
    let top = stack.as_mut_ptr_range().end;
    // The ABI wants the stack pointer at a multiple of 16.
    let top = top.wrapping_sub(top as usize % 16);
    // SAFETY: `top` is the end of a stack that is exclusively borrowed for the whole call; the caller is suspended (CLONE_VFORK) for as
    // long as the child uses the shared memory, so the two never run at the same time. `enter` never returns and never unwinds: panics
    // abort in this program.
    let result =
        unsafe { libc::clone(enter, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, std::ptr::from_mut(&mut body).cast()) };
    if result < 0 { Err(last_errno()) } else { Pid::from_raw(result).ok_or(Errno::RANGE) }
}

/// Ends the process at once: no destructors, no exit handlers, as is right after a fork.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// The errno of the libc call that has just failed.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Sets the signal mask to empty and SIGPIPE, which Rust's start-up ignores, back to its default, as a new program expects it.
pub fn reset_signals() {
    // SAFETY: both calls get valid arguments; the handler table is this process's own, even while memory is shared (no CLONE_SIGHAND).
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Blocks every signal that can be blocked, so that each is taken by [`await_signal`] or a signalfd(2).
pub fn block_signals() {
    // SAFETY: the set is filled before it is used.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Signals that wait until this is dropped.
pub struct HeldSignals(Option<SigSet>);

impl HeldSignals {
    pub fn all() -> Self {
        Self::hold(SigSet::all())
    }

    /// The stop that somebody asks for at his terminal.
    pub fn stop() -> Self {
        Self::hold(NixSignal::SIGTSTP.into())
    }

    fn hold(set: SigSet) -> Self {
        // Fails for an operation that is none: sigprocmask(2).
        Self(set.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // Ignoring: as above.
        let _ = self.0.map(|before| before.thread_set_mask());
    }
}

/// A blocked signal that has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub signal: Signal,
    /// Sent by the kernel, or by a process that does not exist in this one's pid namespace.
    pub from_outside: bool,
}

impl Taken {
    /// `None` for a signal without a name.
    pub(super) fn new(signal: i32, info: &libc::siginfo_t) -> Option<Self> {
        // Only the kernel gives these two codes to what is sent to another process; the number in a queued signal is whatever its sender
        // wrote there (rt_sigqueueinfo(2)). A sender of a namespace above has the number 0 (pid_namespaces(7)).
        let from_outside = match info.si_code {
            // SAFETY: with this code the kernel has filled in the sender's number.
            libc::SI_USER => unsafe { info.si_pid() == 0 },
            code => code == libc::SI_KERNEL,
        };
        Signal::from_named_raw(signal).map(|signal| Self { signal, from_outside })
    }
}

/// Takes the next of the blocked signals; `None` when none has come in `milliseconds`.
///
/// # References
/// sigtimedwait(2), sigwaitinfo(2)
pub fn await_signal(milliseconds: Option<u32>) -> Option<Taken> {
    let timeout =
        milliseconds.map(|count| libc::timespec { tv_sec: i64::from(count / 1000), tv_nsec: libc::c_long::from(count % 1000) * 1_000_000 });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        // SAFETY: the set is filled before it is used, a siginfo_t of zeroes is one, and a null timeout means to wait for ever.
        let (signal, info) = unsafe {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            libc::sigfillset(set.as_mut_ptr());
            (libc::sigtimedwait(set.as_ptr(), &mut info, timeout), info)
        };
        match Taken::new(signal, &info) {
            Some(taken) => return Some(taken),
            None if signal < 0 && last_errno() == Errno::AGAIN => return None,
            None => {}
        }
    }
}

/// Moves a descriptor to 3 and closes all others, also 0 to 2, which become /dev/null's place: nothing of the host stays open.
///
/// # Errors
/// The errno of dup2(2) or close_range(2).
pub fn keep_only(fd: BorrowedFd<'_>) -> Result<BorrowedFd<'static>, Errno> {
    // SAFETY: plain descriptor numbers; descriptor 0 is overwritten on purpose. The caller is init, which uses no other descriptor
    // from here on and ends by _exit, so no OwnedFd is dropped.
    unsafe {
        if libc::dup2(fd.as_raw_fd(), 0) < 0 {
            return Err(last_errno());
        }
        if libc::syscall(libc::SYS_close_range, 1u32, u32::MAX, 0u32) < 0 {
            return Err(last_errno());
        }
        Ok(BorrowedFd::borrow_raw(0))
    }
}

/// Keeps a descriptor open until [`close_from`](super::close_from) or execve(2) ends it, which saves the close(2).
pub fn keep_open(fd: OwnedFd) -> BorrowedFd<'static> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the number was owned until here and is given up for good: nothing closes it but a wholesale close right before the process
    // executes or ends, after which the borrow is not used.
    unsafe { BorrowedFd::borrow_raw(fd.into_raw_fd()) }
}

/// Puts a descriptor in the place of another, under the number of that; close-on-exec.
///
/// # Errors
/// The errno of dup3(2).
pub fn replace_descriptor(fd: OwnedFd, place: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: plain descriptor numbers, both open: whoever owns the second goes on owning one that is open.
    if unsafe { libc::dup3(fd.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Signals every process that this one may signal but itself; in a pid namespace, everything in it but its init (kill(2), pid -1). In a
/// Landlock domain that scopes signals: everything in that domain.
pub fn kill_all(signal: Signal) -> Result<(), Errno> {
    // SAFETY: integers only. The caller is pid 1 of its namespace, or has tried that its domain lets no signal out, so nothing
    // outside is meant.
    if unsafe { libc::kill(-1, signal.as_raw()) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Closes a descriptor that was kept open, once there are so many of them that a limit could be met.
pub fn release(fd: BorrowedFd<'static>) {
    /// A few dozen stay open for the speed of it; a plan of a thousand mounts must not.
    const MANY: i32 = 64;
    if fd.as_raw_fd() >= MANY {
        // SAFETY: keep_open gave the number up, and the callers do not use it after this.
        drop(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
    }
}
