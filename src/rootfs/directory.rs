//! Directories of a tree that is being made: found and made below its root, never through a link out of it.
//!
//! An entry's parent is resolved as the kernel would resolve it in a chroot of the tree (`RESOLVE_IN_ROOT`); links of the same layer
//! are followed, as Docker and podman do, links of lower layers are not there. Everything else happens by `*at(parent, name)` with
//! no link followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::bounds::{MAX_DEPTH, MAX_NAME};

/// Links in a row, as the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;
/// Directories kept open: tars go down and come up again, mostly by one step.
const CACHED: usize = 8;

/// A path of an entry, split and checked; empty for the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath<'p> {
    parts: Vec<&'p [u8]>,
}

impl<'p> EntryPath<'p> {
    /// Leading slashes and `.` are dropped, as everybody does; `..` is refused wherever it stands.
    pub fn parse(path: &'p [u8]) -> Result<Self, &'static str> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if parts.contains(&&b".."[..]) {
            return Err("its path has a `..`");
        }
        if parts.iter().any(|part| part.len() > MAX_NAME) {
            return Err("a name in its path is longer than 255 bytes");
        }
        if parts.len() > MAX_DEPTH {
            return Err("its path is deeper than 256 directories");
        }
        Ok(Self { parts })
    }

    /// The path of the directory, and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(Vec<u8>, &'p [u8])> {
        let (name, parents) = self.parts.split_last()?;
        Some((parents.join(&b'/'), name))
    }

    pub fn joined(&self) -> Vec<u8> {
        self.parts.join(&b'/')
    }
}

pub(crate) const WHITEOUT_DEVICE: u64 = 0;

pub(crate) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == WHITEOUT_DEVICE
}

/// The directories of one tree.
pub(crate) struct Directories<'r> {
    root: BorrowedFd<'r>,
    cache: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    next: usize,
    /// Directories that no entry had described when they were needed.
    pub implied: Vec<Vec<u8>>,
    /// As many were ever implied.
    pub implied_count: u64,
}

/// Memory for names of implied directories; where there are more, their times are simply those of now.
const MAX_IMPLIED: usize = 4096;

impl<'r> Directories<'r> {
    pub fn new(root: BorrowedFd<'r>) -> Self {
        Self { root, cache: Vec::with_capacity(CACHED), next: 0, implied: Vec::new(), implied_count: 0 }
    }

    pub fn root(&self) -> BorrowedFd<'r> {
        self.root
    }

    /// The directory `path`, made with everything above it where it is missing.
    pub fn get(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if let Some((_, fd)) = self.cache.iter().find(|(cached, _)| cached == path) {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.find(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path)?,
            other => other?,
        };
        let fd = Rc::new(fd);
        let item = (path.to_vec(), Rc::clone(&fd));
        if self.cache.len() < CACHED {
            self.cache.push(item);
        } else {
            self.cache[self.next] = item;
            self.next = (self.next + 1) % CACHED;
        }
        Ok(fd)
    }

    /// The directory `path` for a whiteout in it, made where it is missing. `None`: this layer has a file or a link in its place,
    /// so that whatever lower layers have there is hidden already, and no link may lead the whiteout elsewhere.
    pub fn get_for_whiteout(&mut self, path: &[u8]) -> Result<Option<Rc<OwnedFd>>, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let at = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(self.root, at, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(Rc::new(fd))),
            Err(Errno::NOENT) => self.get(path).map(Some),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The directory `path`; nothing is made.
    pub fn find(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                // Something anywhere on the machine was renamed while a `..` in a link was walked.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// What is cached may lead elsewhere from now on: a directory or a link was replaced.
    pub fn forget(&mut self) {
        self.cache.clear();
        self.next = 0;
    }

    /// Walks `path` and makes what is missing: also behind a link whose target this layer has not brought (a lower one may have).
    fn make(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut todo: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut at = self.find(b"")?;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    at = self.find(&done.join(&b'/'))?;
                    continue;
                }
                _ => {}
            }
            match step(&at, &part)? {
                Step::Into(fd) => {
                    at = fd;
                    done.push(part);
                }
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                        at = self.find(b"")?;
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Step::Missing { whiteout } => {
                    if whiteout {
                        rustix::fs::unlinkat(&at, part.as_slice(), AtFlags::empty())?;
                    }
                    rustix::fs::mkdirat(&at, part.as_slice(), Mode::from_raw_mode(0o755))?;
                    at = open_child(&at, &part)?;
                    if whiteout {
                        mark_opaque(open_for_attributes(&at, b".")?)?;
                    }
                    done.push(part);
                    self.note_implied(&done);
                }
            }
            if done.len() > MAX_DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
        }
        Ok(at)
    }

    fn note_implied(&mut self, done: &[Vec<u8>]) {
        self.implied_count += 1;
        if self.implied.len() < MAX_IMPLIED {
            self.implied.push(done.join(&b'/'));
        }
    }
}

enum Step {
    Into(OwnedFd),
    Link(Vec<u8>),
    Missing { whiteout: bool },
}

fn step(at: &OwnedFd, part: &[u8]) -> Result<Step, Errno> {
    let stat = match rustix::fs::statat(at, part, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Step::Missing { whiteout: false }),
        other => other?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => open_child(at, part).map(Step::Into),
        FileType::Symlink => Ok(Step::Link(rustix::fs::readlinkat(at, part, Vec::new())?.into_bytes())),
        _ if is_whiteout(&stat) => Ok(Step::Missing { whiteout: true }),
        _ => Err(Errno::NOTDIR),
    }
}

fn open_child(at: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// A descriptor that attributes can be set through.
pub(crate) fn open_for_attributes(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Marks a directory so that overlayfs shows nothing of the layers below it.
pub(crate) fn mark_opaque(directory: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
}
