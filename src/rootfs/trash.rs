//! What runs have left behind is removed here: by the caller's own rights, and, where owners from the range are in it, inside it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Dir, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use super::namespace::in_range;
use super::{Error, Ownership};
use crate::store::remove_tree;

/// Removes everything in `directory`; does nothing where another process is doing that.
///
/// # Errors
/// [`Error`] for what could not be removed even with the range of ids.
pub fn sweep(directory: &Path, ownership: Ownership) -> Result<(), Error> {
    let failed = |source: Errno| Error::Open { path: directory.display().to_string(), source: source.into() };
    // A link of ours where trees are kept elsewhere.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let trash = match openat(CWD, directory, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        result => result.map_err(failed)?,
    };
    match flock(&trash, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(()),
        result => result.map_err(failed)?,
    }
    match (empty(&trash), ownership) {
        (Err(Errno::ACCESS | Errno::PERM), Ownership::Range { uids, gids }) => in_range(uids, gids, || empty(&trash).map_err(failed)),
        (result, _) => result.map_err(failed),
    }
}

/// Removes until nothing is left, also what comes while it is at it.
fn empty(trash: &OwnedFd) -> Result<(), Errno> {
    while empty_once(trash)? {}
    Ok(())
}

/// Removes what can be removed; a failure is told after all have been tried. Returns whether there was anything.
fn empty_once(trash: &OwnedFd) -> Result<bool, Errno> {
    let mut result = Ok(false);
    for entry in Dir::read_from(trash)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            match remove_tree(trash, name) {
                Ok(()) => result = result.map(|_| true),
                Err(Errno::NOENT) => {}
                Err(errno) => result = Err(errno),
            }
        }
    }
    result
}
