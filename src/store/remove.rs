//! Removal of trees of any depth and any modes, by descriptors, never through a link.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Directories open at once; deeper ones are first moved up, so that no path and no recursion grows with the tree.
const MAX_DEPTH: usize = 64;

/// Removes `name` below `parent`, whatever it is.
pub fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let parent = parent.as_fd();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        // EPERM is what POSIX says for a directory, EISDIR what Linux says.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    // Modes of the image may keep even the owner out.
    make_accessible(parent, name)?;
    let top = open_directory(parent, name)?;
    let mut moved = 0;
    // Each pass lifts directories that are too deep to the top; they are emptied by the next.
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn make_accessible(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::PERM);
    }
    if stat.st_mode & 0o700 == 0o700 {
        return Ok(());
    }
    // Just seen to be a directory, and nobody but us writes here.
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())
}

fn open_directory(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn empty(top: &OwnedFd, directory: &OwnedFd, depth: usize, moved: &mut u64) -> Result<(), Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        make_accessible(directory, name)?;
        if depth >= MAX_DEPTH {
            lift(top, directory, name, moved)?;
            continue;
        }
        empty(top, &open_directory(directory, name)?, depth + 1, moved)?;
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn lift(top: &OwnedFd, directory: &OwnedFd, name: &[u8], moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let target = format!(".hamper-removed-{moved}");
        match rustix::fs::renameat_with(directory, name, top, &target, rustix::fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}
