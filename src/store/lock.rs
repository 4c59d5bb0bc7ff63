//! Who loads, who sweeps, and who makes what.
//!
//! Locks are flock(2) on files of the store: the kernel drops them when their holder dies. No deadlock: everybody takes the store's
//! lock first, and a thread that holds the lock of a name takes no other.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Error, Store, TEMPORARY, remove_tree};

/// Held until it is dropped.
pub struct Lock {
    _file: OwnedFd,
    /// Trees that killed loads left and that could not be removed, since ids of a range own them. They have no owner but whoever
    /// reads this; see [`Store::remove_leftovers`].
    pub leftovers: Vec<String>,
}

impl Store {
    /// Announces a load: from here to the drop nobody sweeps. If nobody else loads, leftovers of killed loads are swept first.
    pub fn begin_load(&self) -> Result<Lock, Error> {
        self.create_directories()?;
        let file = self.lock_file("lock")?;
        let leftovers = match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A tree that is not whole has a name that other loads may give by the time when it would be removed; they replace it.
            Ok(()) => self.sweep()?.into_iter().filter(|path| is_temporary(path)).collect(),
            Err(Errno::WOULDBLOCK) => Vec::new(),
            Err(errno) => return Err(self.error("lock", "lock", errno)),
        };
        self.flock(&file, FlockOperation::LockShared, "lock")?;
        Ok(Lock { _file: file, leftovers })
    }

    /// Whether somebody loads now, for whom a removal would wait.
    pub fn is_loading(&self) -> bool {
        let Ok(file) = self.lock_file("lock") else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
    }

    /// Keeps every load away, for removals. Waits for those that run.
    pub fn begin_removal(&self) -> Result<Lock, Error> {
        self.create_directories()?;
        let file = self.lock_file("lock")?;
        self.flock(&file, FlockOperation::LockExclusive, "lock")?;
        let leftovers = self.sweep()?;
        Ok(Lock { _file: file, leftovers })
    }

    /// Removes what a sweep could not, from where the ids of the range are.
    pub fn remove_leftovers(&self, lock: &Lock) -> Result<(), Error> {
        lock.leftovers.iter().try_for_each(|path| match self.discard(path)? {
            true => Ok(()),
            false => Err(self.error("remove", path, Errno::PERM)),
        })
    }

    /// Waits until nobody else makes what has this name: a layer, a blob, a record. To be held beside [`Self::begin_load`]'s.
    pub(crate) fn lock_name(&self, name: &str) -> Result<Lock, Error> {
        let path = format!("locks/{name}");
        let file = self.lock_file(&path)?;
        self.flock(&file, FlockOperation::LockExclusive, &path)?;
        Ok(Lock { _file: file, leftovers: Vec::new() })
    }

    fn lock_file(&self, name: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(self.directory(), name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| self.error("open", name, errno))
    }

    fn flock(&self, file: &OwnedFd, operation: FlockOperation, name: &str) -> Result<(), Error> {
        loop {
            match rustix::fs::flock(file, operation) {
                Err(Errno::INTR) => {}
                other => return other.map_err(|errno| self.error("lock", name, errno)),
            }
        }
    }

    /// Removes what killed loads left. Only under the exclusive lock: every temporary file then has no owner.
    fn sweep(&self) -> Result<Vec<String>, Error> {
        let mut doomed = Vec::new();
        for directory in ["layers", "owners", "images", "references", "prepared", "blobs/sha256", "blobs/sha512"] {
            for name in self.list_all(directory)? {
                if is_temporary(&name) {
                    doomed.push(format!("{directory}/{name}"));
                }
            }
        }
        for name in self.list("layers")?.iter().filter(|name| !name.contains('.')) {
            if !self.is_whole(name)? {
                doomed.push(format!("layers/{name}"));
            }
        }
        for name in self.list("locks")? {
            self.unlink(&format!("locks/{name}"))?;
        }
        let mut leftovers = Vec::new();
        for path in doomed {
            if !self.discard(&path)? {
                leftovers.push(path);
            }
        }
        Ok(leftovers)
    }

    fn list_all(&self, name: &str) -> Result<Vec<String>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.directory(), name, flags, Mode::empty()).map_err(|errno| self.error("open", name, errno))?;
        let entries = rustix::fs::Dir::read_from(&fd).map_err(|errno| self.error("read", name, errno))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|n| n != "." && n != "..")
            .collect())
    }

    /// Removes a file or a tree of the store; `false`: other ids own some of it.
    fn discard(&self, path: &str) -> Result<bool, Error> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(self.directory(), parent, flags, Mode::empty()).map_err(|errno| self.error("open", path, errno))?;
        match remove_tree(&parent, name.as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::PERM | Errno::ACCESS) => Ok(false),
            Err(errno) => Err(self.error("remove", path, errno)),
        }
    }
}

fn is_temporary(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(TEMPORARY))
}
