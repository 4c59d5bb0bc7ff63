//! A layer stack as one directory, for `image unpack`: what a sandbox would show, copied.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::namespace::in_range;
use super::stack::{Found, Stack};
use super::{Error, Ownership, Prepared, Tree};
use crate::image::shown;
use crate::store::Store;

/// Copies the merged tree of `prepared` into the new or empty directory `target`. Everything in it belongs to the caller; trees of a
/// range are read where its ids are.
pub fn export(store: &Store, prepared: &Prepared, target: &Path, ownership: Ownership) -> Result<u64, Error> {
    let stack = match &prepared.tree {
        Tree::Layers { names } => Stack::of_layers(store.layers()?, names)?,
        Tree::Directory(path) => Stack::of_directory(path)?,
        Tree::Host => return Err(Error::Open { path: "host".into(), source: Errno::NOTSUP.into() }),
    };
    let failed = |errno: Errno| Error::Open { path: target.display().to_string(), source: errno.into() };
    match rustix::fs::mkdir(target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty()).map_err(failed)?;
    let mut entries = rustix::fs::Dir::read_from(&root).map_err(failed)?;
    if entries.any(|entry| entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))) {
        return Err(failed(Errno::NOTEMPTY));
    }
    let copy = |owner| {
        let mut copy = Copy { stack: &stack, owner, links: HashMap::new(), entries: 0 };
        copy.directory(b"", &root)?;
        Ok(copy.entries)
    };
    match ownership {
        Ownership::Single => copy(None),
        // The caller stands right behind the range.
        Ownership::Range { uids, gids } => {
            let caller = (rustix::fs::Uid::from_raw(uids.count), rustix::fs::Gid::from_raw(gids.count));
            in_range(uids, gids, || copy(Some(caller)))
        }
    }
}

struct Copy<'s> {
    stack: &'s Stack,
    /// To whom everything is given, where the process has other ids.
    owner: Option<(rustix::fs::Uid, rustix::fs::Gid)>,
    /// Files with several names, by layer and inode: where the first was put.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
}

impl Copy<'_> {
    fn directory(&mut self, path: &[u8], target: &OwnedFd) -> Result<(), Error> {
        let failed = |errno: Errno| Error::LookupIo { path: shown(path), source: errno.into() };
        for name in self.stack.list(path)?.unwrap_or_default() {
            let child = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            let Some(found) = self.stack.lookup_link(&child)? else { continue };
            self.entries += 1;
            self.one(&found, target, &name).map_err(|errno| Error::LookupIo { path: shown(&child), source: errno.into() })?;
            if found.file_type() == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(target, name.as_slice(), flags, Mode::empty()).map_err(failed)?;
                self.directory(&child, &fd)?;
                finish(&fd, &found).map_err(failed)?;
            }
        }
        if let (true, Some(found)) = (path.is_empty(), self.stack.lookup(b"")?) {
            finish(target, &found).map_err(failed)?;
        }
        Ok(())
    }

    fn one(&mut self, found: &Found, target: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(found.stat.st_mode & 0o7777);
        match found.file_type() {
            FileType::Directory => {
                rustix::fs::mkdirat(target, name, Mode::RWXU)?;
                self.give(target, name)
            }
            FileType::Symlink => {
                rustix::fs::symlinkat(self.stack.target(found)?.as_slice(), target, name)?;
                self.give(target, name)?;
                rustix::fs::utimensat(target, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)
            }
            FileType::Fifo => {
                rustix::fs::mknodat(target, name, FileType::Fifo, mode, 0)?;
                self.give(target, name)?;
                rustix::fs::utimensat(target, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)
            }
            _ => self.file(found, target, name, mode),
        }
    }

    fn give(&self, target: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        match self.owner {
            Some((uid, gid)) => rustix::fs::chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW),
            None => Ok(()),
        }
    }

    fn file(&mut self, found: &Found, target: &OwnedFd, name: &[u8], mode: Mode) -> Result<(), Errno> {
        let key = (found.stat.st_dev, found.stat.st_ino);
        if let Some(first) = self.links.get(&key).filter(|_| found.stat.st_nlink > 1) {
            return rustix::fs::linkat(rustix::fs::CWD, first.as_slice(), target, name, AtFlags::empty());
        }
        let from = self.stack.open_found(found)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
        copy_content(&from, &to, u64::try_from(found.stat.st_size).unwrap_or(0))?;
        copy_xattrs(&from, &to)?;
        // Before the mode: a new owner takes the setuid bit away.
        self.give(target, name)?;
        rustix::fs::fchmod(&to, mode)?;
        rustix::fs::futimens(&to, &times(found))?;
        if found.stat.st_nlink > 1 {
            let path = rustix::fs::readlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&to)), Vec::new())?;
            self.links.insert(key, path.into_bytes());
        }
        Ok(())
    }
}

fn finish(fd: &OwnedFd, found: &Found) -> Result<(), Errno> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(found.stat.st_mode & 0o7777))?;
    rustix::fs::futimens(fd, &times(found))
}

fn times(found: &Found) -> Timestamps {
    let time = Timespec { tv_sec: found.stat.st_mtime, tv_nsec: i64::try_from(found.stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

/// Holes stay holes.
pub(super) fn copy_content(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(data))?;
        let (mut source, mut sink) = (data, data);
        while source < end {
            let most = usize::try_from(end - source).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut sink), most) {
                Ok(0) => break,
                Ok(_) => {}
                // From one file system to another that is of a different kind.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    copy_bytes(from, to, source, end)?;
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        at = end;
    }
    Ok(())
}

fn copy_bytes(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = rustix::io::pread(from, &mut buffer[..most], at)?;
        if count == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < count {
            written += rustix::io::pwrite(to, &buffer[written..count], at + written as u64)?;
        }
        at += count as u64;
    }
    Ok(())
}

pub(super) fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let mut names = vec![0u8; 64 << 10];
    let count = match rustix::fs::flistxattr(&from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names[..count].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")) {
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::fgetxattr(&from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
