//! Scratch directories: taken for a run, given back when it is over, and used again while they are untouched.
//!
//! Making and removing directories costs a start more than the overlay itself, so a directory that the payload did not write to is
//! recycled as it is. One that it wrote to is renamed into `trash` and removed by a process of its own, which nobody waits for.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RawDir, Timestamps, UTIME_OMIT, chmodat, fchmod, flistxattr, flock, fstat, mkdirat, openat,
    rename, statat, utimensat,
};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::sys::keep_open;

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
    /// User and group of the caller, which a new one has.
    pub caller: (u32, u32),
    /// User and group on the host once init has set them.
    pub owner: (u32, u32),
}

/// A scratch directory in use: `u` and `w` for the root, and others beside them.
#[derive(Debug)]
pub struct Scratch {
    slot: Slot,
    relative: String,
    /// Of the upper directory while it is empty, in bytes.
    size: i64,
    extra: bool,
    /// Slots that were passed over because the run that had them last was killed.
    used: Vec<Slot>,
}

/// A directory that nobody else has while the lock on it lasts.
#[derive(Debug)]
struct Slot {
    fd: OwnedFd,
    path: PathBuf,
}

/// Slots that are always kept.
const POOL: u32 = 8;

/// One run in so many looks whether there are more.
const ONE_IN: u32 = 64;

/// Used slots that one run passes over, and keeps open until it throws them away.
const MAX_USED: usize = 4;

/// Slots that it throws away beside them.
const MAX_THROWN: u32 = 256;

/// On a slot's directory: a run has begun in it, and has not said yet that it left nothing. It means nothing else in a directory that only
/// its owner can reach.
const USED: Mode = Mode::SVTX;

impl Scratch {
    /// Takes a free directory below `base`, or makes one; the lock on it ends with this process.
    ///
    /// # Errors
    /// [`ScratchError`] names the path.
    pub fn take(base: &Path, root: RootAttributes) -> Result<Self, ScratchError> {
        let mut used = Vec::new();
        for number in 0..MAX_SLOTS {
            let path = base.join(number.to_string());
            let wrap = |source| ScratchError::Make { path: path.clone(), source };
            let fd = open_slot(base, &path).map_err(wrap)?;
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => continue,
                result => result.map_err(wrap)?,
            }
            let slot = Slot { fd, path: path.clone() };
            let fit = match slot.mode() {
                None => continue,
                Some(mode) if mode.contains(USED) => Fit::Used,
                Some(_) => prepare(&slot.fd, root).map_err(wrap)?,
            };
            match fit {
                Fit::Ready { size } => {
                    let relative = format!("../{}/{number}", base.file_name().unwrap_or_default().to_string_lossy());
                    return Ok(Self { slot, relative, size, extra: false, used });
                }
                Fit::Used if used.len() < MAX_USED => used.push(slot),
                Fit::Used | Fit::Foreign => {}
            }
        }
        Err(ScratchError::Exhausted { path: base.to_owned() })
    }

    /// Throws away the slots of killed runs that were passed over; called while the payload runs, so that nobody waits for it. Returns
    /// whether there is trash to remove.
    ///
    /// # Errors
    /// The errno of the first slot that could not be moved.
    pub fn discard_used(&mut self) -> Result<bool, Errno> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // Where some runs were killed there may be more of them, further on than this one had to look.
        let looks_further = !self.used.is_empty() || now.subsec_micros().is_multiple_of(ONE_IN);
        let more = looks_further && self.shrink_pool()?;
        self.used.iter().try_for_each(Slot::throw_away)?;
        Ok(!std::mem::take(&mut self.used).is_empty() || more)
    }

    /// Says that the run begins: until it is given back, nobody takes the slot for an untouched one.
    ///
    /// # Errors
    /// The errno of chmod(2).
    pub(super) fn begin(&self) -> Result<(), Errno> {
        fchmod(&self.slot.fd, Mode::RWXU | USED)
    }

    /// Throws away slots that nobody has, and says whether there were any: those far behind the first few were made when many ran at the
    /// same time, and go with those of runs that were killed, since no later run may come so far again.
    fn shrink_pool(&self) -> Result<bool, Errno> {
        let Some(base) = self.slot.path.parent() else { return Ok(false) };
        let mut thrown = 0;
        for number in 0..MAX_SLOTS {
            let path = base.join(number.to_string());
            // Slots are made one after the other, so the first that is not there is the end; but a whole pool may have been discarded.
            let fd = match openat(CWD, &path, SLOT, Mode::empty()) {
                Ok(fd) => fd,
                Err(_) if number < POOL => continue,
                Err(_) => break,
            };
            if path == self.slot.path || flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let slot = Slot { fd, path };
            if slot.mode().is_some_and(|mode| number >= POOL || mode.contains(USED)) {
                slot.throw_away()?;
                thrown += 1;
            }
            if thrown == MAX_THROWN {
                break;
            }
        }
        Ok(thrown > 0)
    }

    pub fn path(&self) -> &Path {
        &self.slot.path
    }

    /// Relative to the store's `layers`, which lies beside the scratch directories.
    pub fn relative(&self) -> String {
        self.relative.clone()
    }

    /// Another pair of upper and work directory in this one.
    pub fn also(&mut self, name: &str) -> Result<PathBuf, Errno> {
        self.extra = true;
        self.begin()?;
        make(&self.slot.fd, name)?;
        let directory = openat(&self.slot.fd, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        make(&directory, "u")?;
        make(&directory, "w")?;
        Ok(self.slot.path.join(name))
    }

    /// Gives the directory back: kept where it is `reusable` and nothing was written, else thrown away. Returns whether there is trash to
    /// remove.
    ///
    /// # Errors
    /// The errno of moving it away; the run that finds it next does that again.
    pub fn give_back(mut self, reusable: bool) -> Result<bool, Errno> {
        if reusable && !self.extra && is_untouched(&self.slot.fd, self.size)? {
            fchmod(&self.slot.fd, Mode::RWXU)?;
            // The lock goes with the process, which is about to end.
            std::mem::forget(self);
            return Ok(false);
        }
        self.extra = false;
        self.slot.throw_away().map(|()| true)
    }
}

/// A start that comes to nothing takes with it what it has made beside the root's directories.
impl Drop for Scratch {
    fn drop(&mut self) {
        if self.extra {
            // Ignoring: the run that finds it next does that again.
            let _ = self.slot.throw_away();
        }
    }
}

/// Throws away every scratch directory below `base` that no run has.
///
/// # Errors
/// The errno of the first that could not be moved.
pub fn discard_free(base: &Path) -> Result<(), Errno> {
    let names = match std::fs::read_dir(base) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()),
        Err(_) => return Ok(()),
    };
    for path in names {
        if let Ok(fd) = openat(CWD, &path, SLOT, Mode::empty())
            && flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let slot = Slot { fd, path };
            if slot.mode().is_some() {
                slot.throw_away()?;
            }
        }
    }
    Ok(())
}

impl Slot {
    /// Its mode, if the path still leads here: who had the lock before may have thrown the directory away between open and lock.
    fn mode(&self) -> Option<Mode> {
        let own = fstat(&self.fd).ok()?;
        let named = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (own.st_ino == named.st_ino && own.st_dev == named.st_dev).then(|| Mode::from_raw_mode(own.st_mode))
    }

    /// Moves it below `trash`, under a name that nobody else uses: nobody else has this slot now. It is the caller's own whoever owns
    /// what is in it, and so can be moved.
    fn throw_away(&self) -> Result<(), Errno> {
        let trash = self.path.parent().unwrap_or(Path::new(".")).with_file_name("trash");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let target = trash.join(format!("{name}-{}", now.as_nanos()));
        match rename(&self.path, &target) {
            Err(Errno::NOENT) => {
                make_place(&trash)?;
                rename(&self.path, &target)
            }
            result => result,
        }
    }
}

/// Times that a slot is made for which somebody sweeps up.
const MOST_TRIES: u32 = 32;

/// How slots are opened.
const SLOT: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_slot(base: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let open = || openat(CWD, path, SLOT, Mode::empty());
    let mut opened = open();
    // One that nobody has yet may be thrown away as soon as it is made.
    for _ in 0..MOST_TRIES {
        if opened.as_ref().err() != Some(&Errno::NOENT) {
            break;
        }
        make_place(base)?;
        opened = match make(CWD, path) {
            Err(Errno::NOENT) => Err(Errno::NOENT),
            made => made.and_then(|()| open()),
        };
    }
    opened
}

/// Makes a directory of slots, or what a link in its place leads to: trees may be kept elsewhere, where something has cleaned up.
fn make_place(path: &Path) -> Result<(), Errno> {
    make(CWD, path)?;
    match rustix::fs::readlinkat(CWD, path, Vec::new()) {
        Ok(target) => make(CWD, target),
        Err(_) => Ok(()),
    }
}

fn make(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    match mkdirat(directory, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Whether a run can have a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// With the size of its upper directory.
    Ready { size: i64 },
    /// Left by a run that was killed.
    Used,
    /// Of a run under another map: its root belongs to an id that does not exist in this one, so that init could not change that.
    Foreign,
}

/// Makes a slot ready, where it is not in use by another kind of run.
fn prepare(slot: &OwnedFd, root: RootAttributes) -> Result<Fit, Errno> {
    match statat(slot, "u", AtFlags::SYMLINK_NOFOLLOW) {
        // A new one is the caller's, until init gives it to its owner.
        Ok(stat) if ![root.caller, root.owner].iter().any(|(uid, gid)| (stat.st_uid, stat.st_gid) == (*uid, *gid)) => Ok(Fit::Foreign),
        Ok(stat) => {
            let same = stat.st_mode & 0o7777 == root.mode && (stat.st_mtime, stat.st_mtime_nsec as i64) == root.modified;
            if same {
                return Ok(Fit::Ready { size: stat.st_size });
            }
            // What belongs to another id of the range cannot be changed from here.
            Ok(if set_root(slot, root).is_ok() { Fit::Ready { size: stat.st_size } } else { Fit::Used })
        }
        Err(Errno::NOENT) => {
            // The upper directory last: where it is, a slot is taken for a whole one.
            make(slot, "w")?;
            make(slot, "u")?;
            set_root(slot, root)?;
            Ok(Fit::Ready { size: statat(slot, "u", AtFlags::SYMLINK_NOFOLLOW)?.st_size })
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
fn is_untouched(slot: &OwnedFd, size: i64) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = match openat(slot, "u", flags, Mode::empty()) {
        Err(Errno::ACCESS | Errno::NOENT) => return Ok(false),
        result => keep_open(result?),
    };
    // A directory does not shrink again: it would tell how many names there were.
    if fstat(upper)?.st_size != size {
        return Ok(false);
    }
    let mut names = [0u8; 256];
    match flistxattr(upper, &mut names) {
        Ok(length) if only_overlay_names(names.get(..length).unwrap_or_default()) => {}
        Err(Errno::NOTSUP) => {}
        Ok(_) | Err(Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut entries = RawDir::new(upper, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
        if entries.is_buffer_empty() {
            // An empty directory comes whole in the first answer of the kernel.
            return Ok(true);
        }
    }
    Ok(true)
}

/// The kernel's own attributes by their full names: one that the payload sets inside under such a name is stored under a longer one.
fn only_overlay_names(names: &[u8]) -> bool {
    const OWN: [&[u8]; 4] = [b"", b"user.overlay.uuid", b"user.overlay.origin", b"user.overlay.impure"];
    names.split(|byte| *byte == 0).all(|name| OWN.contains(&name))
}
