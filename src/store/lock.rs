//! Who loads, who sweeps, and who makes which layer.
//!
//! Locks are flock(2) on files of the store: the kernel drops them when their holder dies. No deadlock: everybody takes the store's
//! lock first, and a thread that holds a layer's lock takes no other.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Error, Store, TEMPORARY, remove_tree};

/// Held until it is dropped.
pub struct Lock {
    _file: OwnedFd,
}

impl Store {
    /// Announces a load: from here to the drop nobody sweeps. If nobody else loads, leftovers of killed loads are swept first.
    pub fn begin_load(&self) -> Result<Lock, Error> {
        self.create_directories()?;
        let file = self.lock_file("lock")?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.sweep()?,
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(self.error("lock", "lock", errno)),
        }
        self.flock(&file, FlockOperation::LockShared, "lock")?;
        Ok(Lock { _file: file })
    }

    /// Keeps every load away, for removals. Waits for those that run.
    pub fn begin_removal(&self) -> Result<Lock, Error> {
        self.create_directories()?;
        let file = self.lock_file("lock")?;
        self.flock(&file, FlockOperation::LockExclusive, "lock")?;
        self.sweep()?;
        Ok(Lock { _file: file })
    }

    /// Waits until nobody else makes the layer `name`.
    pub(crate) fn lock_layer(&self, name: &str) -> Result<Lock, Error> {
        let path = format!("locks/{name}");
        let file = self.lock_file(&path)?;
        self.flock(&file, FlockOperation::LockExclusive, &path)?;
        Ok(Lock { _file: file })
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
    fn sweep(&self) -> Result<(), Error> {
        for directory in ["layers", "owners", "images", "references", "prepared", "blobs/sha256", "blobs/sha512"] {
            for name in self.list_all(directory)? {
                if name.starts_with(TEMPORARY) {
                    self.discard(&format!("{directory}/{name}"))?;
                }
            }
        }
        for name in self.list("layers")?.iter().filter(|name| !name.contains('.')) {
            if !self.is_whole(name)? {
                self.discard(&format!("layers/{name}"))?;
            }
        }
        for name in self.list("locks")? {
            self.unlink(&format!("locks/{name}"))?;
        }
        Ok(())
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

    /// Removes a file or a tree of the store; one that other ids own is left for `image prune`, which can.
    fn discard(&self, path: &str) -> Result<(), Error> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(self.directory(), parent, flags, Mode::empty()).map_err(|errno| self.error("open", path, errno))?;
        match remove_tree(&parent, name.as_bytes()) {
            Ok(()) | Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => Ok(()),
            Err(errno) => Err(self.error("remove", path, errno)),
        }
    }
}
