//! How cgroups of runs go: at their end, after a parent that was killed, and those that were left all the same.
//!
//! Part of it runs in the memory of a process that has been killed: nothing on the way of [`Removal::carry_out`] allocates or prints.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RawDir, chmodat, openat, unlinkat};
use rustix::io::{Errno, write};
use rustix::process::Pid;

/// Prefix of the names of sandboxes' cgroups; a number follows, that of the run's process.
pub(super) const PREFIX: &str = "hamper-";

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How long processes that were killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a run has to undo of what it did to cgroups.
#[derive(Default)]
pub(super) struct Removal {
    /// About to be made, and then perhaps found to be another's.
    intended: OnceLock<CString>,
    made: OnceLock<CString>,
    home: Option<Home>,
}

/// A cgroup that this process alone stood in, and has left to divide it: back there, and undivided, or nobody could enter it any more.
pub(super) struct Home {
    processes: CString,
    /// Where it stands meanwhile; left to whoever takes the whole of it away, where there is somebody.
    aside: Option<CString>,
    subtree_control: CString,
    undividing: String,
}

impl Home {
    /// `undividing`: the controllers, each with its sign.
    pub(super) fn new(path: &Path, aside: Option<PathBuf>, undividing: &str) -> Self {
        Self {
            processes: c_path(&path.join("cgroup.procs")),
            aside: aside.as_deref().map(c_path),
            subtree_control: c_path(&path.join("cgroup.subtree_control")),
            undividing: undividing.to_owned(),
        }
    }
}

/// A path of the kernel's, which has no zero in it; a command line or a file cannot give one either.
fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

impl Removal {
    pub(super) fn of_divided(home: Home) -> Self {
        Self { home: Some(home), ..Self::default() }
    }

    pub(super) fn divides(&self) -> bool {
        self.home.is_some()
    }

    /// The sandbox's cgroup is made next.
    pub(super) fn is_intended(&self, path: &Path) {
        // Ignoring: the first name counts, of which nobody else has this process's number.
        let _ = self.intended.set(c_path(path));
    }

    /// The sandbox's cgroup is there.
    pub(super) fn is_made(&self, path: &Path) {
        // Ignoring: it is made once.
        let _ = self.made.set(c_path(path));
    }

    /// In place of a run that has been killed.
    pub(super) fn carry_out(&self) {
        // Ignoring: there is nobody to tell; the next run sweeps.
        let _ = self.remove_made();
        if let (None, Some(path)) = (self.made.get(), self.intended.get()) {
            // Ignoring: it was not made, or is another's, with a sandbox in it.
            let _ = unlinkat(CWD, path, AtFlags::REMOVEDIR);
        }
        self.undivide(None);
    }

    /// Ends what is in the sandbox's cgroup and removes it.
    ///
    /// # Errors
    /// Those of rmdir(2): `EBUSY` where a process is on its way out for longer than [`PATIENCE`].
    pub(super) fn remove_made(&self) -> Result<(), Errno> {
        self.made.get().map_or(Ok(()), |path| end_and_remove(path))
    }

    /// Ignoring each failure: it is ours to tidy, and nobody's to miss. `other`: stands where this process does, and leaves with it; without one, what
    /// the killed process has started there, newuidmap(1) for one, is ended.
    pub(super) fn undivide(&self, other: Option<Pid>) {
        let Some(home) = &self.home else { return };
        // Where one of them was never there, none of the line is taken.
        if put(CWD, &home.subtree_control, home.undividing.as_bytes()).is_err() {
            for one in home.undividing.split(' ') {
                let _ = put(CWD, &home.subtree_control, one.as_bytes());
            }
        }
        if let Some(aside) = &home.aside
            && put(CWD, &home.processes, b"0").is_ok()
        {
            let _ = match other {
                Some(pid) => {
                    let _ = put(CWD, &home.processes, pid.to_string().as_bytes());
                    unlinkat(CWD, aside, AtFlags::REMOVEDIR)
                }
                None => end_and_remove(aside),
            };
        }
    }
}

fn put(directory: BorrowedFd<'_>, path: &CStr, text: &[u8]) -> Result<(), Errno> {
    // Not closed: this process ends.
    let file = crate::sys::keep_open(openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?);
    write(file, text).map(drop)
}

fn end_and_remove(path: &CStr) -> Result<(), Errno> {
    let gone = |removed: Result<(), Errno>| if removed == Err(Errno::NOENT) { Ok(()) } else { removed };
    let first = gone(unlinkat(CWD, path, AtFlags::REMOVEDIR));
    if first != Err(Errno::BUSY) {
        return first;
    }
    // Ignoring: before Linux 5.14 there is no such file; pid 1 is dead by now, and the kernel ends the rest of its namespace.
    let _ = openat(CWD, path, DIRECTORY, Mode::empty()).and_then(|directory| put(directory.as_fd(), c"cgroup.kill", b"1"));
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match gone(remove_all(CWD, path)) {
            Err(Errno::BUSY) if started.elapsed() < PATIENCE => std::thread::sleep(pause),
            result => return result,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Ends what is in a sandbox's cgroup and removes it, waiting for what is on its way out.
///
/// # Errors
/// As [`Removal::remove_made`].
pub(super) fn end_and_remove_at(path: &Path) -> Result<(), Errno> {
    end_and_remove(&c_path(path))
}

/// Cgroups in each other that a payload may make.
pub(super) const MAX_DEPTH: usize = 64;

/// And all of them.
pub(super) const MAX_DESCENDANTS: usize = 1024;

/// Removes a cgroup and those that a payload has made in it, the lowest first; one with a process in it is `EBUSY`.
fn remove_all(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // Each round takes away one branch at least.
    for _ in 0..=MAX_DESCENDANTS {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY) => remove_lowest(enter(parent, name)?)?,
            result => return result,
        }
    }
    Err(Errno::BUSY)
}

/// Opens a cgroup, which a payload may have closed to everybody, to remove what is in it.
fn enter(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // Ignoring: what follows says why it cannot be done. There are no links in this file system.
    let _ = chmodat(parent, name, Mode::RWXU, AtFlags::empty());
    openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Goes down to where nothing is below any more; what was found empty on the way is gone.
fn remove_lowest(mut directory: OwnedFd) -> Result<(), Errno> {
    for _ in 0..=MAX_DEPTH {
        match remove_empty(&directory)? {
            Below::Busy(below) => directory = below,
            Below::Emptied => return Ok(()),
            // It has a process in it.
            Below::Nothing => return Err(Errno::BUSY),
        }
    }
    Err(Errno::BUSY)
}

/// What was found below a cgroup.
enum Below {
    Nothing,
    Emptied,
    Busy(OwnedFd),
}

fn remove_empty(directory: &OwnedFd) -> Result<Below, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut found = Below::Nothing;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_type() != FileType::Directory || matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, entry.file_name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => found = Below::Emptied,
            Err(Errno::BUSY) => return enter(directory.as_fd(), entry.file_name()).map(Below::Busy),
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// Removes a cgroup that a killed run has left where this one makes its own. Nothing in it is ended: what still runs there may be another's.
///
/// # Errors
/// Those of rmdir(2): `EBUSY` where a process is in it.
pub(super) fn remove_left(path: &Path) -> Result<(), Errno> {
    remove_all(CWD, &c_path(path))
}

/// Removes what killed runs have left: an empty cgroup with a name of ours. One with a process in it is not removable, which the kernel
/// sees to; one that another run has just made is told by its number.
///
/// # Errors
/// `EACCES`, `EPERM` where something in there belongs to somebody else.
pub(super) fn sweep(base: &Path) -> Result<(), Errno> {
    const MOST: usize = 4096;
    let base = openat(CWD, base, DIRECTORY, Mode::empty())?;
    let mut swept = Ok(());
    for entry in Dir::read_from(&base)?.flatten().take(MOST) {
        if !is_left(entry.file_name().to_bytes()) {
            continue;
        }
        // Ignoring others: it is in use, or another has removed it.
        if let Err(errno @ (Errno::ACCESS | Errno::PERM)) = remove_all(base.as_fd(), entry.file_name()) {
            swept = Err(errno);
        }
    }
    swept
}

/// Whether a cgroup has the name of one whose run may have ended: one with a number says whether it has.
fn is_left(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok()) else { return false };
    let ended = |pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH);
    match rest.split('-').next().map(|word| (word, word.parse().map(Pid::from_raw))) {
        Some(("parent" | "sandbox", _)) => true,
        Some((_, Ok(pid))) => pid.is_none_or(ended),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_that_have_ended() {
        let own = rustix::process::getpid().as_raw_nonzero();
        for (name, left) in [
            (format!("hamper-{own}"), false),
            (format!("hamper-{own}-2"), false),
            ("hamper-2147483647".into(), true),
            ("hamper-parent".into(), true),
            ("hamper-sandbox-1".into(), true),
            ("hamper-x".into(), false),
            ("hamper.scope".into(), false),
        ] {
            assert_eq!(is_left(name.as_bytes()), left, "{name}");
        }
    }
}
