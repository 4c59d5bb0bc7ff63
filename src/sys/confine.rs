//! Confinement calls that the crates lack: Landlock on raw descriptors, mount_setattr, close_range, the session keyring.
//!
//! The rulesets and filters themselves are made by the landlock and seccompiler crates before clone; what is here is what the child
//! must do after it, without allocating.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::clone::last_errno;

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// `struct mount_attr`, mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

impl MountAttr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// Size of the first version of the struct; the kernel accepts it for ever.
    const SIZE: usize = size_of::<Self>();
}

/// Sets attributes of the mount that `fd` is the root of, and of all mounts below it where `recursive`.
///
/// # Errors
/// `EPERM` an attribute that is locked in this user namespace would be cleared · `EINVAL` not a mount · `ENOSYS` below Linux 5.12.
///
/// # References
/// mount_setattr(2)
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attributes: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid empty C string and `attributes` points to SIZE readable bytes.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, std::ptr::from_ref(attributes), MountAttr::SIZE)
    };
    check(result).map(drop)
}

/// Closes every descriptor from `first` on, now or when the process executes another program.
///
/// # References
/// close_range(2)
pub fn close_from(first: u32, at_execve: bool) -> Result<(), Errno> {
    /// `CLOSE_RANGE_CLOEXEC`
    const CLOEXEC: u32 = 4;
    let flags = if at_execve { CLOEXEC } else { 0 };
    // SAFETY: the callers are children about to execute or to loop on descriptors below `first`; no OwnedFd of theirs is used or
    // dropped afterwards, since they end by execve or _exit.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Closes every descriptor above 2 but one, now.
///
/// # References
/// close_range(2)
pub fn close_all_but(kept: BorrowedFd<'_>) -> Result<(), Errno> {
    let kept = u32::try_from(kept.as_raw_fd()).map_err(|_| Errno::BADF)?;
    if kept > 3 {
        // SAFETY: as in close_from: the caller is a child about to execute, and neither uses nor drops what it had open.
        check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, kept - 1, 0u32) })?;
    }
    close_from(kept.max(2) + 1, false)
}

/// The Landlock ABI of the running kernel.
///
/// # Errors
/// `EOPNOTSUPP` switched off at boot · `ENOSYS` not built in, or an outer seccomp filter.
///
/// # References
/// landlock_create_ruleset(2) `LANDLOCK_CREATE_RULESET_VERSION`
pub fn landlock_abi() -> Result<u32, Errno> {
    // SAFETY: with the VERSION flag the attribute pointer must be null and the size zero; nothing is created.
    let result = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    check(result).map(|version| u32::try_from(version).unwrap_or(0))
}

/// `struct landlock_path_beneath_attr`, packed as in `linux/landlock.h`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Allows `access` below the file or directory `path` in a ruleset.
///
/// # Errors
/// `EINVAL` an access right that the ruleset does not handle, or a directory right on a file · `EBADFD` not a file system object.
///
/// # References
/// landlock_add_rule(2)
pub fn landlock_add_path(ruleset: BorrowedFd<'_>, path: BorrowedFd<'_>, access: u64) -> Result<(), Errno> {
    const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: path.as_raw_fd() };
    // SAFETY: `rule` has the layout that rule type 1 asks for and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), LANDLOCK_RULE_PATH_BENEATH, std::ptr::from_ref(&rule), 0u32)
    };
    check(result).map(drop)
}

/// Puts the calling thread into the ruleset's domain, for ever.
///
/// # Errors
/// `EPERM` no_new_privs is not set · `E2BIG` sixteen domains are stacked already.
///
/// # References
/// landlock_restrict_self(2)
pub fn landlock_restrict_self(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: two integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}

/// Replaces the session keyring by a new, empty one, so that keys of the caller's session cannot be searched from inside.
///
/// # Errors
/// `ENOSYS` no keyrings in this kernel, or an outer filter · `EDQUOT` the user's key quota.
///
/// # References
/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`
pub fn join_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) }).map(drop)
}

/// Drops one capability from the bounding set; `EINVAL` means that the kernel does not know so high a number.
///
/// # References
/// capabilities(7), prctl(2) `PR_CAPBSET_DROP`
pub fn drop_bounding(capability: u8) -> Result<(), Errno> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) })).map(drop)
}

/// Whether the kernel started this program with raised privileges: setuid, setgid or file capabilities (getauxval(3) `AT_SECURE`).
pub fn secure_mode() -> bool {
    // SAFETY: getauxval only reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether this process has a scheduling policy that goes before all that is fair, and passes it on: sched_setscheduler(2), `SCHED_FIFO`, `SCHED_RR` and
/// `SCHED_DEADLINE` without `SCHED_RESET_ON_FORK`.
pub fn is_real_time() -> bool {
    // SAFETY: integers only.
    let policy = unsafe { libc::sched_getscheduler(0) };
    matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR | libc::SCHED_DEADLINE)
}

/// The ids that this program was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartIds {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
}

/// From the auxiliary vector, which the kernel fills at execve(2); nothing in this program changes them (getauxval(3)).
pub fn ids_at_start() -> StartIds {
    // SAFETY: getauxval only reads the auxiliary vector.
    let read = |kind| u32::try_from(unsafe { libc::getauxval(kind) }).unwrap_or(u32::MAX);
    StartIds { uid: read(libc::AT_UID), euid: read(libc::AT_EUID), gid: read(libc::AT_GID), egid: read(libc::AT_EGID) }
}

/// Installs a seccomp filter on the calling thread.
///
/// # Errors
/// `EACCES` no_new_privs is not set · `EINVAL` the kernel does not take the program.
///
/// # References
/// seccomp(2) `SECCOMP_SET_MODE_FILTER`
pub fn install_filter(program: &seccompiler::BpfProgram) -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` names `len` instructions, which have the kernel's layout (seccompiler's sock_filter is repr(C)) and are only read.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0u64, std::ptr::from_ref(&filter)) }).map(drop)
}
