//! The skeleton: a small tree on top of an image's layers with the mount points that the image lacks and the files that hamper makes.
//!
//! Made once for an image and a set of wishes, and used by every later start, which so need not make a single file. It never changes
//! after it has been renamed into place.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timestamps, chmodat, mkdirat, openat, renameat_with, statat, utimensat,
};
use rustix::io::Errno;
use rustix::time::Timespec;
use sha2::{Digest, Sha256};

use super::namespace::in_range;
use super::{Error, Ownership, Stack};
use crate::store::{Store, remove_tree};

/// What has to be there on top of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Mount points.
    pub directories: Vec<String>,
    /// Mount points of single files.
    pub file_points: Vec<String>,
    /// Files with their content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Lines to append to the image's passwd and group.
    pub passwd: Option<String>,
    pub group: Option<String>,
    /// The user's home; looked at, and made where it is missing.
    pub home: String,
    /// The payload's user and group.
    pub user: (u32, u32),
}

/// A skeleton that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skeleton {
    /// Below the store's `layers`.
    pub name: String,
    /// Whether the image has nothing in the user's home.
    pub home_is_empty: bool,
    /// Permission bits of the merged root directory.
    pub mode: u32,
    /// Its modification time, seconds and nanoseconds.
    pub modified: (i64, i64),
}

/// How the names of all begin.
const PREFIX: &str = "s.";
/// Directories that are mounted on, and must be real ones whatever the image has there.
const REAL: [&str; 3] = ["dev", "proc", "sys"];

/// Whether an entry of the directory of layers is one.
pub(super) fn is_skeleton(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Finds the skeleton for an image, or makes it.
///
/// `image` names the image together with the way it was unpacked; `stack` is opened only where something has to be made.
///
/// # Errors
/// [`Error`] of the lookup or of making it; nothing half made is visible.
pub fn ensure(
    store: &Store,
    image: &str,
    wishes: &Wishes,
    ownership: Ownership,
    stack: impl FnOnce() -> Result<Stack, Error>,
) -> Result<Skeleton, Error> {
    let key = key(image, wishes);
    if let Some(found) = find(store, &key)? {
        return Ok(found);
    }
    make(store, &key, wishes, ownership, stack)?;
    find(store, &key)?.ok_or_else(|| failed(&key, Errno::NOENT))
}

/// As [`ensure`], but makes nothing: where the skeleton is missing, what it would be.
///
/// # Errors
/// [`Error`] of the lookup.
pub fn foresee(
    store: &Store,
    image: &str,
    wishes: &Wishes,
    ownership: Ownership,
    stack: impl FnOnce() -> Result<Stack, Error>,
) -> Result<Skeleton, Error> {
    let key = key(image, wishes);
    if let Some(found) = find(store, &key)? {
        return Ok(found);
    }
    let look = || {
        let stack = stack()?;
        let root = stack.lookup(b"")?.map_or((0o755, (0, 0)), |found| attributes(&found.stat));
        Ok((home_is_empty(&stack, wishes)?, root))
    };
    let (home_is_empty, (mode, modified)) = match ownership {
        Ownership::Single => look()?,
        Ownership::Range { uids, gids } => in_range(uids, gids, look)?,
    };
    Ok(Skeleton { name: name(&key, home_is_empty), home_is_empty, mode, modified })
}

fn name(key: &str, home_is_empty: bool) -> String {
    format!("{key}{}", if home_is_empty { 'e' } else { 'f' })
}

fn home_is_empty(stack: &Stack, wishes: &Wishes) -> Result<bool, Error> {
    Ok(stack.list(wishes.home.as_bytes())?.is_none_or(|names| names.is_empty()))
}

/// Permission bits, and the modification time in seconds and nanoseconds.
fn attributes(stat: &Stat) -> (u32, (i64, i64)) {
    (stat.st_mode & 0o7777, (stat.st_mtime, stat.st_mtime_nsec as i64))
}

/// Eighteen hexadecimal digits of a hash over everything that the content depends on, after `s.`: by the dot a sweep of the store knows
/// that this is no layer whose facts are missing.
fn key(image: &str, wishes: &Wishes) -> String {
    // In software: asking the processor for its abilities costs a virtual machine more than this hash does.
    let mut context = Sha256::new();
    let mut add = |bytes: &[u8]| {
        context.update((bytes.len() as u64).to_le_bytes());
        context.update(bytes);
    };
    add(image.as_bytes());
    add(wishes.home.as_bytes());
    add(&wishes.user.0.to_le_bytes());
    add(&wishes.user.1.to_le_bytes());
    for list in [&wishes.directories, &wishes.file_points] {
        add(&(list.len() as u64).to_le_bytes());
        list.iter().for_each(|path| add(path.as_bytes()));
    }
    for (path, content) in &wishes.files {
        add(path.as_bytes());
        add(content);
    }
    for line in [&wishes.passwd, &wishes.group] {
        add(line.as_deref().unwrap_or("-").as_bytes());
    }
    let mut name = String::with_capacity(22);
    name.push_str(PREFIX);
    for byte in context.finalize().iter().take(9) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

fn find(store: &Store, key: &str) -> Result<Option<Skeleton>, Error> {
    for home_is_empty in [true, false] {
        let name = name(key, home_is_empty);
        let path = store.path().join("layers").join(&name);
        match statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let (mode, modified) = attributes(&stat);
                return Ok(Some(Skeleton { name, home_is_empty, mode, modified }));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(&name, errno)),
        }
    }
    Ok(None)
}

fn failed(name: &str, errno: Errno) -> Error {
    Error::Open { path: format!("skeleton {name}"), source: errno.into() }
}

fn make(
    store: &Store,
    key: &str,
    wishes: &Wishes,
    ownership: Ownership,
    stack: impl FnOnce() -> Result<Stack, Error>,
) -> Result<(), Error> {
    // Whoever loads next may sweep up what it takes for leftovers, unless this counts as a load.
    let _load = store.begin_load()?;
    let layers = store.layers()?;
    let temporary = format!(".tmp-{key}-{}", std::process::id());
    // The image is looked at where its owners count: a home of mode 0700 is closed to everybody else.
    let look_and_fill = |owner| {
        let stack = stack()?;
        let home_is_empty = home_is_empty(&stack, wishes)?;
        fill(&layers, &temporary, wishes, owner, &stack)?;
        Ok(home_is_empty)
    };
    let filled = match ownership {
        Ownership::Single => look_and_fill(None),
        Ownership::Range { uids, gids } => {
            // The payload's user is the caller, who stands right behind the range.
            let root = |id, count| if id == 0 { count } else { 0 };
            let owner = (root(wishes.user.0, uids.count), root(wishes.user.1, gids.count));
            in_range(uids, gids, || look_and_fill(Some(owner)))
        }
    };
    let result = filled.and_then(|home_is_empty| {
        let name = name(key, home_is_empty);
        match renameat_with(&layers, &temporary, &layers, &name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            // Another hamper was faster, with the same content.
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(failed(&name, errno)),
        }
    });
    if !matches!(result, Ok(true)) {
        // Ignoring: the next prune removes what is left.
        let _ = remove_tree(&layers, temporary.as_bytes());
    }
    result.map(drop)
}

/// A skeleton while it is made.
struct Making<'a> {
    root: OwnedFd,
    stack: &'a Stack,
    /// Who root is here, where ids are mapped; else everything is the caller's.
    owner: Option<(u32, u32)>,
    /// Directories that the image has as well, with what they look like there.
    copied: Vec<(PathBuf, Stat)>,
    /// What the image does not have.
    made: Vec<PathBuf>,
}

/// Modification time of what the image does not have, 1980-01-01: the same image looks the same whenever its skeleton was made.
const MADE: Timespec = Timespec { tv_sec: 315_532_800, tv_nsec: 0 };

fn fill(layers: &OwnedFd, temporary: &str, wishes: &Wishes, owner: Option<(u32, u32)>, stack: &Stack) -> Result<(), Error> {
    let wrap = |errno| failed(temporary, errno);
    mkdirat(layers, temporary, Mode::from_raw_mode(0o700)).map_err(wrap)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(layers, temporary, flags, Mode::empty()).map_err(wrap)?;
    let mut making = Making { root, stack, owner, copied: Vec::new(), made: Vec::new() };
    for name in REAL {
        let real = stack.lookup_link(name.as_bytes())?.is_some_and(|found| found.file_type() == FileType::Directory);
        if !real {
            making.directory(Path::new(name), 0o755)?;
        }
    }
    for path in &wishes.directories {
        if stack.lookup(path.as_bytes())?.is_some_and(|found| found.file_type() != FileType::Directory) {
            return Err(Error::Lookup { path: path.clone(), reason: "is a file, on which no directory can be mounted" });
        }
    }
    for path in wishes.directories.iter().chain(std::iter::once(&wishes.home)) {
        making.mount_point(path)?;
    }
    for path in &wishes.file_points {
        match stack.lookup(path.as_bytes())? {
            None => making.file(path, &[])?,
            Some(found) if found.file_type() == FileType::Directory => {
                return Err(Error::Lookup { path: path.clone(), reason: "is a directory, on which no file can be mounted" });
            }
            Some(_) => {}
        }
    }
    for (path, content) in &wishes.files {
        making.file(path, content)?;
    }
    for (path, line) in [("/etc/passwd", &wishes.passwd), ("/etc/group", &wishes.group)] {
        if let Some(line) = line {
            let mut content = stack.read(path.as_bytes(), MAX_PASSWD)?.unwrap_or_default();
            if content.last().is_some_and(|byte| *byte != b'\n') {
                content.push(b'\n');
            }
            content.extend_from_slice(line.as_bytes());
            content.push(b'\n');
            making.file(path, &content)?;
        }
    }
    making.finish()
}

/// passwd(5) and group(5) of an image are read up to this size.
const MAX_PASSWD: u64 = 1 << 20;

impl Making<'_> {
    /// A directory at a path as the payload will see it; nothing where the image has one.
    fn mount_point(&mut self, path: &str) -> Result<(), Error> {
        let (base, rest) = self.existing(path)?;
        if rest.is_empty() {
            return Ok(());
        }
        self.copy_directories(&base)?;
        let mut at = base;
        for part in rest {
            at.push(part);
            self.directory(&at, 0o755)?;
        }
        Ok(())
    }

    /// A file, over whatever the image has at that name; links on the way to its directory are followed, the name itself is not.
    fn file(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        let path = Path::new(path);
        let parent = path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        self.mount_point(&parent)?;
        let (mut at, _) = self.existing(&parent)?;
        self.copy_directories(&at)?;
        at.push(path.file_name().unwrap_or_default());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.root, &at, flags, Mode::from_raw_mode(0o644)).map_err(|errno| self.failed(&at, errno))?;
        let mut file = std::fs::File::from(file);
        file.write_all(content).map_err(|source| Error::Open { path: at.display().to_string(), source })?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(|errno| self.failed(&at, errno))?;
        self.own(&at, self.owner)?;
        self.made.push(at);
        Ok(())
    }

    /// The longest part of a path that is there, in the image or already made, resolved; and the rest.
    fn existing(&self, path: &str) -> Result<(PathBuf, Vec<String>), Error> {
        use std::os::unix::ffi::OsStrExt;
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut base = PathBuf::new();
        let mut walked = String::new();
        for (index, part) in parts.iter().enumerate() {
            walked.push('/');
            walked.push_str(part);
            let made = base.join(part);
            if statat(&self.root, &made, AtFlags::SYMLINK_NOFOLLOW).is_ok() && self.stack.lookup(walked.as_bytes())?.is_none() {
                base = made;
                continue;
            }
            match self.stack.lookup(walked.as_bytes())? {
                Some(found) => base = Path::new(std::ffi::OsStr::from_bytes(&found.path)).to_owned(),
                None => return Ok((base, parts[index..].iter().map(ToString::to_string).collect())),
            }
        }
        Ok((base, Vec::new()))
    }

    /// The directories of the image on the way, so that the merged ones look as they do in the image.
    fn copy_directories(&mut self, path: &Path) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        let mut ancestors: Vec<&Path> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if statat(&self.root, ancestor, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            self.directory(ancestor, 0o755)?;
            if let Some(found) = self.stack.lookup(ancestor.as_os_str().as_bytes())? {
                self.copied.push((ancestor.to_owned(), found.stat));
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, mode: u32) -> Result<(), Error> {
        match mkdirat(&self.root, path, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                chmodat(&self.root, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(|errno| self.failed(path, errno))?;
                self.made.push(path.to_owned());
                self.own(path, self.owner)
            }
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.failed(path, errno)),
        }
    }

    fn own(&self, path: &Path, owner: Option<(u32, u32)>) -> Result<(), Error> {
        let Some((uid, gid)) = owner else { return Ok(()) };
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(&self.root, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.failed(path, errno))
    }

    fn failed(&self, path: &Path, errno: Errno) -> Error {
        failed(&path.display().to_string(), errno)
    }

    /// Modes and times, of the copied directories the deepest first, the root last.
    fn finish(mut self) -> Result<(), Error> {
        let times = Timestamps { last_access: MADE, last_modification: MADE };
        for path in &self.made {
            utimensat(self.root.as_fd(), path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.failed(path, errno))?;
        }
        if let Some(found) = self.stack.lookup(b"")? {
            self.copied.insert(0, (PathBuf::from("."), found.stat));
        }
        for (path, stat) in self.copied.iter().rev() {
            let wrap = |errno| self.failed(path, errno);
            if self.owner.is_some() {
                self.own(path, Some((stat.st_uid, stat.st_gid)))?;
            }
            chmodat(self.root.as_fd(), path, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty()).map_err(wrap)?;
            let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(self.root.as_fd(), path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(wrap)?;
        }
        Ok(())
    }
}
