//! Calls of a payload that a seccomp filter hands to a supervisor: it does them in the payload's place, or refuses them.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::clone::last_errno;

/// A call that waits for an answer: `struct seccomp_notif`, with the `struct seccomp_data` in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub id: u64,
    /// The thread that called, as this process numbers it.
    pub pid: u32,
    flags: u32,
    /// Of the system call.
    pub number: i32,
    arch: u32,
    instruction_pointer: u64,
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const SECCOMP_IOCTL_NOTIF_RECV: libc::c_ulong = 0xC050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: libc::c_ulong = 0xC018_2101;
const SECCOMP_IOCTL_NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;

/// Installs a seccomp filter on the calling thread, and gives the descriptor at which its `SECCOMP_RET_USER_NOTIF` are heard. It is
/// closed by execve(2); once nobody has it any more, such calls give `ENOSYS`.
///
/// # Errors
/// `EACCES` no_new_privs is not set · `EBUSY` a filter of this thread has a listener already · `EINVAL` the kernel does not take the
/// program, or is older than 5.19.
///
/// # References
/// seccomp(2) `SECCOMP_FILTER_FLAG_NEW_LISTENER`, seccomp_unotify(2)
pub fn install_filter_that_asks(program: &seccompiler::BpfProgram) -> Result<OwnedFd, Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    /// A call that was heard is not begun anew because of a signal that does not kill.
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` names `len` instructions, which have the kernel's layout (seccompiler's sock_filter is repr(C)) and are only read.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE_RECV, std::ptr::from_ref(&filter))
    };
    let fd = i32::try_from(result).map_err(|_| Errno::RANGE)?;
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ioctl<T>(listener: BorrowedFd<'_>, request: libc::c_ulong, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: each request is only made with the structure that it is defined for, which the kernel reads and writes within its size.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, listener.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Takes the next call, for which poll(2) has said that there is one.
///
/// # Errors
/// `ENOENT` the caller has ended meanwhile · `EINTR`.
pub fn hear_call(listener: BorrowedFd<'_>) -> Result<Asked, Errno> {
    // The kernel wants it zeroed.
    let mut asked = Asked::default();
    ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &mut asked)?;
    Ok(asked)
}

/// Whether the caller still waits, so that its number is not somebody else's by now.
pub fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &mut { id }).is_ok()
}

/// What the call gives: 0, or an errno.
///
/// # Errors
/// `ENOENT` the caller has ended meanwhile.
pub fn answer_call(listener: BorrowedFd<'_>, id: u64, result: Result<(), Errno>) -> Result<(), Errno> {
    let error = result.err().map_or(0, |errno| -errno.raw_os_error());
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &mut Answer { id, value: 0, error, flags: 0 })
}
