//! Guarded files that the host replaces by rename lose their mounts: the parent sees that and ends the sandbox.
//!
//! Taking an inotify instance down makes the kernel wait for a grace period, some ten milliseconds. So a watch begins only when a run
//! has lasted for a while, and first looks whether everything still is what it was at the start.
//!
//! The kernel keeps so many events and drops what comes after (inotify(7), `IN_Q_OVERFLOW`), which a payload can bring about while nobody
//! reads them. Then everything is looked at once more.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{AtFlags, CWD, StatxFlags, lstat, statx};
use rustix::io::Errno;

use crate::host::Identity;

/// Events that are read until others wait as well: a payload that renames without end must not keep signals, deadline and terminal waiting.
const AT_ONCE: usize = 256;

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

/// When a file was made, to the nanosecond; `None` where its filesystem does not know, or it is not there.
type Birth = Option<(i64, u32)>;

fn birth(path: &Path) -> Birth {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// An inotify(7) instance on the directories that hold guarded names.
pub struct Watch {
    fd: OwnedFd,
    project: PathBuf,
    guarded: Vec<(Watched, Birth)>,
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
        let guarded = paths.iter().map(|watched| (watched.clone(), birth(&project.join(&watched.path)))).collect();
        let mut watch = Self { fd, project: project.to_owned(), guarded, names: HashMap::new(), missing };
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

    /// The first path that something has happened to, by the next events.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn replaced(&mut self) -> Result<Option<PathBuf>, WatchError> {
        let events = self.read();
        if (events.made || events.lost) && !self.missing.is_empty() {
            // What leads to it may be there now; watched first, so that nothing falls in between.
            self.add_missing()?;
        }
        let appeared = || self.missing.iter().map(|path| self.project.join(path)).find(|path| path.symlink_metadata().is_ok());
        let other = || events.lost.then(|| self.other()).flatten();
        Ok(events.replaced.or_else(|| events.made.then(appeared).flatten()).or_else(other))
    }

    /// Takes what the kernel has to tell, up to a number.
    fn read(&self) -> Events {
        let mut events = Events::default();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        let mut count = 0;
        // What was read of the kernel has to be looked at, since it is told once.
        while count < AT_ONCE || !reader.is_buffer_empty() {
            let Ok(event) = reader.next() else { break };
            count += 1;
            let name = event.file_name().map(|name| Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
            let moved = event.events().intersects(ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE);
            events.made |= event.events().intersects(ReadFlags::MOVED_TO | ReadFlags::CREATE);
            events.lost |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let guarded = self.names.get(&event.wd()).into_iter().flatten().filter(|_| moved);
            if let Some(path) = guarded.into_iter().find(|path| path.file_name() == name.map(Path::as_os_str)) {
                events.replaced.get_or_insert_with(|| self.project.join(path));
            }
        }
        events
    }

    /// The first path that is another one than it was. A file that is removed and made anew may get the same number, but not the same birth.
    fn other(&self) -> Option<PathBuf> {
        let is_other = |(watched, born): &&(Watched, Birth)| {
            let path = self.project.join(&watched.path);
            replaced(&self.project, std::slice::from_ref(watched)).next().is_some() || birth(&path) != *born
        };
        self.guarded.iter().find(is_other).map(|(watched, _)| self.project.join(&watched.path))
    }
}

/// What some events have told.
#[derive(Default)]
struct Events {
    replaced: Option<PathBuf>,
    /// Something has come to a directory.
    made: bool,
    /// There were more than the kernel keeps.
    lost: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{remove_file, rename, write};

    fn watched(project: &Path, names: &[&str]) -> Vec<Watched> {
        let identity = |name: &str| lstat(project.join(name)).ok().map(|stat| Identity::of(&stat));
        names.iter().map(|name| Watched { path: PathBuf::from(name), identity: identity(name) }).collect()
    }

    /// As many events as the kernel keeps, and some more.
    fn fill(project: &Path) {
        let most: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("limit").trim().parse().expect("number");
        write(project.join("a"), "").expect("write");
        for _ in 0..=most / 4 {
            rename(project.join("a"), project.join("b")).expect("rename");
            rename(project.join("b"), project.join("a")).expect("rename");
        }
    }

    fn all(watch: &mut Watch) -> (usize, Option<PathBuf>) {
        let is_ready = |watch: &Watch| {
            let mut fds = [rustix::event::PollFd::new(&watch.fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") > 0
        };
        let (mut calls, mut found) = (0, None);
        while found.is_none() && is_ready(watch) {
            found = watch.replaced().expect("events");
            calls += 1;
        }
        (calls, found)
    }

    #[test]
    fn what_happens_after_more_events_than_the_kernel_keeps_is_seen() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 3] = [
            ("guarded", |project| rename(project.join("a"), project.join("guarded")).expect("rename")),
            ("guarded", |project| {
                remove_file(project.join("guarded")).expect("remove");
                write(project.join("guarded"), "").expect("write");
            }),
            ("missing", |project| write(project.join("missing"), "").expect("write")),
        ];
        for (name, change) in changes {
            let directory = tempfile::tempdir().expect("directory");
            let project = directory.path();
            write(project.join("guarded"), "").expect("write");
            let (mut watch, found) = Watch::new(project, &watched(project, &["guarded", "missing"])).expect("watch");
            assert_eq!(found, None);
            fill(project);
            change(project);
            assert_eq!(all(&mut watch).1, Some(project.join(name)));
        }
    }

    #[test]
    fn many_events_are_no_replacement_and_are_not_read_at_once() {
        let directory = tempfile::tempdir().expect("directory");
        let project = directory.path();
        write(project.join("guarded"), "").expect("write");
        let (mut watch, _) = Watch::new(project, &watched(project, &["guarded", "missing"])).expect("watch");
        fill(project);
        write(project.join("guarded"), "in place").expect("write");
        let (calls, found) = all(&mut watch);
        assert_eq!(found, None);
        assert!(calls > 10, "{calls}");
    }
}
