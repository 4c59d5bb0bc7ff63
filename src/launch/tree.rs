//! Mounting below the new root: targets are resolved inside it, once, to a descriptor, and that descriptor is mounted on.
//!
//! Runs in the child between clone and execve: nothing here allocates, prints or panics.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};
use rustix::process::fchdir;

use crate::sys::{MountAttr, keep_open, mount_setattr};

/// A descriptor that the child leaves open until everything is closed at once.
pub type Kept = BorrowedFd<'static>;

/// What a missing target is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Directory,
    File,
}

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Opens a directory or file inside the root; links are followed as if the root were `/`, and never out of it.
pub fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<Kept, Errno> {
    openat2(root, path, PATH.union(flags), Mode::empty(), ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS)).map(keep_open)
}

/// Opens a directory that must be a real one: the image must not choose by a link where `/proc`, `/sys` and `/dev` are.
pub fn resolve_real(root: BorrowedFd<'_>, path: &CStr) -> Result<Kept, Errno> {
    let resolve = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
    let open = || openat2(root, path, PATH.union(OFlags::DIRECTORY), Mode::empty(), resolve).map(keep_open);
    match open() {
        Err(Errno::NOENT) => {
            mkdirat(root, path, Mode::from_raw_mode(0o755))?;
            open()
        }
        result => result,
    }
}

/// Opens a mount target, making what is missing of it, each missing name in its resolved parent.
pub fn resolve_or_make(root: BorrowedFd<'_>, path: &CStr, missing: Missing) -> Result<Kept, Errno> {
    match resolve(root, path, OFlags::empty()) {
        Err(Errno::NOENT) => make_parents(root, path, missing),
        result => result,
    }
}

/// Longest path that a target may have, `PATH_MAX`.
const PATH_MAX: usize = 4096;

fn make_parents(root: BorrowedFd<'_>, path: &CStr, missing: Missing) -> Result<Kept, Errno> {
    let bytes = path.to_bytes();
    if bytes.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [0u8; PATH_MAX];
    let mut parent = resolve(root, c".", OFlags::DIRECTORY)?;
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes[start..].iter().position(|byte| *byte == b'/').map_or(bytes.len(), |length| start + length);
        if end > start {
            let last = bytes[end..].iter().all(|byte| *byte == b'/');
            buffer[..end].copy_from_slice(&bytes[..end]);
            buffer[end] = 0;
            let prefix = c_str(&buffer[..=end])?;
            let name = c_str(&buffer[start..=end])?;
            let kind = if last { missing } else { Missing::Directory };
            parent = resolve_or_make_one(root, prefix, parent, name, kind)?;
        }
        start = end + 1;
    }
    Ok(parent)
}

fn resolve_or_make_one(root: BorrowedFd<'_>, prefix: &CStr, parent: BorrowedFd<'_>, name: &CStr, kind: Missing) -> Result<Kept, Errno> {
    match resolve(root, prefix, OFlags::empty()) {
        Err(Errno::NOENT) => {
            match kind {
                Missing::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
                Missing::File => mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)?,
            }
            resolve(root, prefix, OFlags::empty())
        }
        result => result,
    }
}

fn c_str(bytes: &[u8]) -> Result<&CStr, Errno> {
    CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::INVAL)
}

/// Mounts a new file system on the directory that `target` is.
///
/// The target is entered and mounted on as `.`, so that no path is walked a second time.
pub fn mount_on<'o>(target: BorrowedFd<'_>, kind: &CStr, flags: MountFlags, options: impl Into<Option<&'o CStr>>) -> Result<(), Errno> {
    fchdir(target)?;
    mount(kind, c".", kind, flags, options.into())
}

/// A copy of a mount subtree, not attached anywhere yet, and known to be the file that the parent opened.
pub fn clone_tree(path: &CStr, device: u64, inode: u64) -> Result<Kept, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = keep_open(open_tree(CWD, path, flags)?);
    let stat = fstat(tree)?;
    // ESTALE: the file was replaced since the parent opened it.
    if stat.st_dev == device && stat.st_ino == inode { Ok(tree) } else { Err(Errno::STALE) }
}

/// A copy of the mount subtree below a descriptor of this mount namespace.
pub fn clone_tree_at(fd: BorrowedFd<'_>) -> Result<Kept, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(fd, c"", flags).map(keep_open)
}

/// Sets the attributes of a detached tree: never setuid, never devices, read-only where asked.
pub fn restrict(tree: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    let set = MountAttr::NOSUID | MountAttr::NODEV | if read_only { MountAttr::RDONLY } else { 0 };
    mount_setattr(tree, true, &MountAttr { set, ..MountAttr::default() })
}

/// Attaches a detached tree to the file or directory that `target` is.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}
