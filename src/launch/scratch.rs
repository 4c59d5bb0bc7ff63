//! Scratch directories: taken for a run, given back when it is over, and used again while they are untouched.
//!
//! Making and removing directories costs a start more than the overlay itself, so a directory that the payload did not write to is
//! recycled as it is. One that it wrote to is renamed into `trash` and removed by a process of its own, which nobody waits for.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, Timestamps, UTIME_OMIT, chmodat, flistxattr, flock, fstat, mkdirat, openat, renameat,
    statat, utimensat,
};
use rustix::io::Errno;
use rustix::time::Timespec;

#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("cannot make {}", path.display())]
    Make { path: PathBuf, source: Errno },
    #[error("all {MAX_SLOTS} scratch directories below {} are taken", path.display())]
    Exhausted { path: PathBuf },
}

/// Runs at the same time by one user; a bound, so that a full directory is not searched for ever.
const MAX_SLOTS: u32 = 4096;

/// What the root directory of the upper layer must look like, since it is what the payload sees as `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootAttributes {
    pub mode: u32,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
}

/// A scratch directory in use: `u` and `w` for the root, and others beside them.
#[derive(Debug)]
pub struct Scratch {
    slot: OwnedFd,
    path: PathBuf,
    relative: String,
    extra: bool,
}

impl Scratch {
    /// Takes a free directory below `base`, or makes one; the lock on it ends with this process.
    ///
    /// # Errors
    /// [`ScratchError`] names the path.
    pub fn take(base: &Path, root: RootAttributes) -> Result<Self, ScratchError> {
        for number in 0..MAX_SLOTS {
            let path = base.join(number.to_string());
            let wrap = |source| ScratchError::Make { path: path.clone(), source };
            let slot = open_slot(base, &path).map_err(wrap)?;
            match flock(&slot, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => continue,
                result => result.map_err(wrap)?,
            }
            prepare(&slot, base, root).map_err(wrap)?;
            let relative = format!("../{}/{number}", base.file_name().unwrap_or_default().to_string_lossy());
            return Ok(Self { slot, path, relative, extra: false });
        }
        Err(ScratchError::Exhausted { path: base.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Relative to the store's `layers`, which lies beside the scratch directories.
    pub fn relative(&self) -> String {
        self.relative.clone()
    }

    /// Another pair of upper and work directory in this one.
    pub fn also(&mut self, name: &str) -> Result<PathBuf, Errno> {
        self.extra = true;
        make(&self.slot, name)?;
        let directory = openat(&self.slot, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        make(&directory, "u")?;
        make(&directory, "w")?;
        Ok(self.path.join(name))
    }

    /// Gives the directory back: kept as it is where nothing was written, else thrown away. Returns whether there is trash to remove.
    ///
    /// # Errors
    /// The errno of moving it away; the next take finds it unclean and does that again.
    pub fn give_back(self) -> Result<bool, Errno> {
        if !self.extra && is_untouched(&self.slot)? {
            return Ok(false);
        }
        let base = self.path.parent().unwrap_or(Path::new("."));
        throw_away(&self.slot, base, self.extra)?;
        Ok(true)
    }
}

fn open_slot(base: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let open = || openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Err(Errno::NOENT) => {
            make(CWD, base)?;
            make(CWD, path)?;
            open()
        }
        result => result,
    }
}

fn make(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    match mkdirat(directory, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// A slot whose last run was killed is not clean; then its content is moved away first.
fn prepare(slot: &OwnedFd, base: &Path, root: RootAttributes) -> Result<(), Errno> {
    match statat(slot, "u", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            if !is_untouched(slot)? {
                throw_away(slot, base, true)?;
                return prepare(slot, base, root);
            }
            let known = RootAttributes { mode: stat.st_mode & 0o7777, modified: (stat.st_mtime, stat.st_mtime_nsec as i64) };
            if known != root { set_root(slot, root) } else { Ok(()) }
        }
        Err(Errno::NOENT) => {
            make(slot, "u")?;
            make(slot, "w")?;
            set_root(slot, root)
        }
        Err(errno) => Err(errno),
    }
}

fn set_root(slot: &OwnedFd, root: RootAttributes) -> Result<(), Errno> {
    chmodat(slot, "u", Mode::from_raw_mode(root.mode), AtFlags::empty())?;
    let (tv_sec, tv_nsec) = root.modified;
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: Timespec { tv_sec, tv_nsec } };
    utimensat(slot, "u", &times, AtFlags::empty())
}

/// Whether the upper directory holds no entry and no attribute that a payload could have left.
fn is_untouched(slot: &OwnedFd) -> Result<bool, Errno> {
    let upper = openat(slot, "u", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&upper)?;
    if stat.st_uid != rustix::process::getuid().as_raw() {
        return Ok(false);
    }
    let mut names = [0u8; 256];
    match flistxattr(&upper, &mut names) {
        Ok(0) | Err(Errno::NOTSUP) => {}
        Ok(_) | Err(Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let mut entries = Dir::new(upper)?;
    Ok(entries.by_ref().filter_map(Result::ok).all(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")))
}

/// Moves everything in the slot below `trash`, under names that nobody else uses.
fn throw_away(slot: &OwnedFd, base: &Path, all: bool) -> Result<(), Errno> {
    let trash = base.with_file_name("trash");
    make(CWD, &trash)?;
    let trash = openat(CWD, &trash, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = vec![c"u".to_owned(), c"w".to_owned()];
    if all {
        let entries = Dir::read_from(slot)?.filter_map(Result::ok).map(|entry| entry.file_name().to_owned());
        names = entries.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect();
    }
    let own = std::process::id();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    for (index, name) in names.iter().enumerate() {
        let unique = format!("{own}-{}-{}-{index}", now.tv_sec, now.tv_nsec);
        match renameat(slot, name, &trash, unique) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
