//! Guarded files that the host replaces by rename lose their mounts: the parent sees that and ends the sandbox.
//!
//! Taking an inotify instance down makes the kernel wait for a grace period, some ten milliseconds. So a watch begins only when a run
//! has lasted for a while, and first looks whether everything still is what it was at the start.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::lstat;
use rustix::io::Errno;

use crate::host::Identity;

#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}", path.display())]
pub struct WatchError {
    pub path: PathBuf,
    pub source: Errno,
}

/// What is not what it was when the sandbox was started.
pub fn replaced(project: &Path, paths: &[Watched]) -> impl Iterator<Item = PathBuf> {
    let now = |path: &Path| lstat(project.join(path)).ok().map(|stat| Identity::of(&stat));
    paths.iter().filter(move |watched| now(&watched.path) != watched.identity).map(|watched| project.join(&watched.path))
}

/// A guarded path and what it was when the sandbox was started.
#[derive(Clone, Debug)]
pub struct Watched {
    pub path: PathBuf,
    /// Absent where there was nothing, which then must not appear: no mount hides it.
    pub identity: Option<Identity>,
}

/// An inotify(7) instance on the directories that hold guarded names.
pub struct Watch {
    fd: OwnedFd,
    project: PathBuf,
    /// Guarded names by watch descriptor.
    names: HashMap<i32, Vec<PathBuf>>,
    /// Hidden paths that did not exist.
    missing: Vec<PathBuf>,
}

/// A relative path and what it lies in, without the root of all.
fn components(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().filter(|part| !part.as_os_str().is_empty())
}

/// What makes a guarded path another one.
const REPLACED: WatchFlags = WatchFlags::MOVED_TO.union(WatchFlags::MOVED_FROM).union(WatchFlags::DELETE);

impl Watch {
    /// Watches every component of each path, relative to `project`, and tells which of them has been replaced already.
    ///
    /// # Errors
    /// `ENOSPC` the user's `fs.inotify.max_user_watches` are used up · `EMFILE` `max_user_instances`.
    pub fn new(project: &Path, paths: &[Watched]) -> Result<(Self, Option<PathBuf>), WatchError> {
        let wrap = |path: &Path| {
            let path = path.to_owned();
            move |source| WatchError { path, source }
        };
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(wrap(project))?;
        let missing = paths.iter().filter(|watched| watched.identity.is_none()).map(|watched| watched.path.clone()).collect();
        let mut watch = Self { fd, project: project.to_owned(), names: HashMap::new(), missing };
        paths.iter().filter(|watched| watched.identity.is_some()).try_for_each(|watched| watch.add(&watched.path))?;
        watch.add_missing()?;
        let found = replaced(project, paths).next();
        Ok((watch, found))
    }

    /// Watches every component of a path that is there.
    fn add(&mut self, path: &Path) -> Result<(), WatchError> {
        for guarded in components(path) {
            let directory = self.project.join(guarded.parent().unwrap_or(Path::new("")));
            let added = add_watch(&self.fd, &directory, REPLACED | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD);
            let descriptor = match added {
                // A directory that its own user may not list: nobody but he replaces what is in it.
                Err(Errno::ACCESS) => continue,
                result => result.map_err(|source| WatchError { path: directory, source })?,
            };
            let names = self.names.entry(descriptor).or_default();
            if !names.iter().any(|known| known == guarded) {
                names.push(guarded.to_owned());
            }
        }
        Ok(())
    }

    /// Watches what there is of the ways to what is not there.
    fn add_missing(&self) -> Result<(), WatchError> {
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        for guarded in self.missing.iter().flat_map(|path| components(path)) {
            let directory = self.project.join(guarded.parent().unwrap_or(Path::new("")));
            match add_watch(&self.fd, &directory, flags) {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(source) => return Err(WatchError { path: directory, source }),
            }
        }
        Ok(())
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The first path that something has happened to since the last call.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn replaced(&mut self) -> Result<Option<PathBuf>, WatchError> {
        let (mut replaced, mut made) = (None, false);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
            let moved = event.events().intersects(ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE);
            made |= event.events().intersects(ReadFlags::MOVED_TO | ReadFlags::CREATE);
            let guarded = self.names.get(&event.wd()).into_iter().flatten().filter(|_| moved);
            if let Some(path) = guarded.into_iter().find(|path| path.file_name() == name.map(Path::as_os_str)) {
                replaced.get_or_insert_with(|| self.project.join(path));
            }
        }
        if made && !self.missing.is_empty() {
            // What leads to it may be there now; watched first, so that nothing falls in between.
            self.add_missing()?;
            let appeared = self.missing.iter().map(|path| self.project.join(path)).find(|path| path.symlink_metadata().is_ok());
            replaced = replaced.or(appeared);
        }
        Ok(replaced)
    }
}
