//! Sources of mounts and the guarded paths of a project, opened before anything is made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, statat};
use rustix::io::Errno;
use serde::Serialize;

use super::Ids;

/// A source that the parent has opened: the child binds it only if it still is this file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    #[serde(serialize_with = "path_as_text")]
    pub path: PathBuf,
    pub directory: bool,
    #[serde(skip)]
    pub device: u64,
    #[serde(skip)]
    pub inode: u64,
}

/// A path as text, whatever its bytes: what is not UTF-8 is shown as such, and fails nothing.
///
/// # Errors
/// The serializer's.
pub fn path_as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// A source with the descriptor that keeps its inode from being reused.
pub struct Opened {
    pub source: Source,
    pub fd: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{} leads elsewhere by a link, which a sandbox could have made", path.display())]
    LeavesProject { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: Errno },
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: Errno },
    #[error("{} has more than {MAX_SIBLINGS} entries, too many to protect a missing name in it", path.display())]
    TooManySiblings { path: PathBuf },
}

/// Entries that a directory with a missing guarded name may have: each becomes a mount, and a namespace holds 100,000 of them
/// (`fs.mount-max`).
const MAX_SIBLINGS: usize = 1000;

/// Opens a mount source by `O_PATH`, following links: it names what the caller may reach anyway.
///
/// # Errors
/// `ENOENT` missing · `EACCES` a directory on the way may not be searched.
pub fn open_source(path: &Path) -> Result<Opened, SourceError> {
    let open = || describe(path, openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    open().map_err(|source| SourceError::Open { path: path.to_owned(), source })
}

/// As [`open_source`] for a path that has been resolved: nothing on the way may be a link by now.
///
/// # Errors
/// `ELOOP` a link; as [`open_source`].
pub(super) fn open_source_without_links(path: &Path) -> Result<Opened, SourceError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || describe(path, openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    open().map_err(|source| SourceError::Open { path: path.to_owned(), source })
}

/// As [`open_source`] for a source in the project, where a payload may have put a link in its place: no link leads out. `make`: what is
/// missing of it is made, as directories for the caller alone.
///
/// # Errors
/// [`SourceError::LeavesProject`]; as [`open_source`].
pub fn open_in_project(project: &Path, relative: &Path, make: bool) -> Result<Opened, SourceError> {
    let path = project.join(relative);
    let wrap = |source| match source {
        Errno::XDEV => SourceError::LeavesProject { path: path.clone() },
        source => SourceError::Open { path: path.clone(), source },
    };
    let root = openat(CWD, project, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(wrap)?;
    let beneath = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    };
    match beneath(relative) {
        Err(Errno::NOENT) if make => {}
        result => return result.and_then(|fd| describe(&path, fd)).map_err(wrap),
    }
    let mut parents: Vec<&Path> = relative.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parents.reverse();
    for part in parents {
        let parent = beneath(part.parent().unwrap_or(Path::new(""))).map_err(wrap)?;
        match mkdirat(&parent, part.file_name().unwrap_or_default(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(wrap(errno)),
        }
    }
    beneath(relative).and_then(|fd| describe(&path, fd)).map_err(wrap)
}

fn describe(path: &Path, fd: OwnedFd) -> Result<Opened, Errno> {
    let stat = fstat(&fd)?;
    let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
    Ok(Opened { source: Source { path: path.to_owned(), directory, device: stat.st_dev, inode: stat.st_ino }, fd })
}

/// The supplementary group that alone lets the caller write to `source`; `None`: he may as its owner, by his own group, as everybody, or
/// not at all.
///
/// # References
/// path_resolution(7), "Permissions"
pub fn writable_by_group_alone(source: &Source, ids: Ids) -> Option<u32> {
    let stat = rustix::fs::stat(&source.path).ok()?;
    let by_group = stat.st_uid != ids.uid && stat.st_gid != ids.gid && stat.st_mode & 0o020 != 0;
    let groups = if by_group { rustix::process::getgroups().unwrap_or_default() } else { Vec::new() };
    groups.into_iter().map(rustix::process::Gid::as_raw).find(|group| *group == stat.st_gid)
}

/// What there is at a path that the profile guards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Presence {
    File,
    Directory,
    /// Missing, or a symbolic link, which cannot be bound over; its parent is a directory with these entries (name, is a link).
    Unbindable {
        link: bool,
        siblings: Vec<(PathBuf, bool)>,
    },
    /// Missing, and its parent as well, or its parent is the project itself.
    Unprotectable,
    /// A symbolic link that nothing holds in place; its replacement is seen.
    Link,
}

/// One guarded path, relative to the project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guarded {
    pub path: PathBuf,
    pub hidden: bool,
    pub presence: Presence,
    /// What is there.
    #[serde(skip)]
    pub identity: Option<Identity>,
}

/// What tells a file from another one that has its name. File systems use the numbers of removed inodes again, and a link, which is never
/// changed in place, is another one when its time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    kind: FileType,
    link_changed: Option<(i64, u64)>,
}

impl Identity {
    pub fn of(stat: &Stat) -> Self {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let link_changed = kind.is_symlink().then_some((stat.st_ctime, stat.st_ctime_nsec));
        Self { device: stat.st_dev, inode: stat.st_ino, kind, link_changed }
    }
}

/// Looks at every guarded path below the project, without following a link out of it.
///
/// A path that runs through a symbolic link yields two entries: the link, whose parent has to be frozen, and what it leads to, where
/// that lies in the project.
///
/// # Errors
/// [`SourceError`] names the path.
pub fn survey_guarded(project: BorrowedFd<'_>, root: &Path, protect: &[PathBuf], hide: &[PathBuf]) -> Result<Vec<Guarded>, SourceError> {
    let mut found = Vec::with_capacity(protect.len() + hide.len());
    for (paths, hidden) in [(protect, false), (hide, true)] {
        for path in paths {
            survey_one(project, root, path, hidden, &mut found)?;
        }
    }
    Ok(found)
}

fn survey_one(project: BorrowedFd<'_>, root: &Path, path: &Path, hidden: bool, found: &mut Vec<Guarded>) -> Result<(), SourceError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(project, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        Ok(fd) => {
            let stat = fstat(&fd).map_err(|source| SourceError::Open { path: root.join(path), source })?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind.is_symlink() {
                return survey_link(project, root, path, hidden, found);
            }
            let presence = if kind.is_dir() { Presence::Directory } else { Presence::File };
            found.push(Guarded { path: path.to_owned(), hidden, presence, identity: Some(Identity::of(&stat)) });
            Ok(())
        }
        Err(Errno::LOOP) => survey_link(project, root, path, hidden, found),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let presence = missing(project, root, path)?;
            found.push(Guarded { path: path.to_owned(), hidden, presence, identity: None });
            Ok(())
        }
        Err(source) => Err(SourceError::Open { path: root.join(path), source }),
    }
}

/// The first component that is a link cannot be bound over, so its parent is frozen, or where that is the project the link is watched; what
/// the whole path leads to is guarded as well.
fn survey_link(project: BorrowedFd<'_>, root: &Path, path: &Path, hidden: bool, found: &mut Vec<Guarded>) -> Result<(), SourceError> {
    let link = first_link(project, path);
    let stat = statat(project, &link, AtFlags::SYMLINK_NOFOLLOW).map_err(|source| SourceError::Open { path: root.join(&link), source })?;
    let presence = match missing(project, root, &link)? {
        Presence::Unbindable { siblings, .. } if !hidden => Presence::Unbindable { link: true, siblings },
        _ => Presence::Link,
    };
    found.push(Guarded { path: link, hidden, presence, identity: Some(Identity::of(&stat)) });
    if let Ok(real) = root.join(path).canonicalize()
        && let Ok(inside) = real.strip_prefix(root)
        && !inside.as_os_str().is_empty()
    {
        survey_one(project, root, inside, hidden, found)?;
    }
    Ok(())
}

fn first_link(project: BorrowedFd<'_>, path: &Path) -> PathBuf {
    let mut prefix = PathBuf::new();
    for component in path.components().filter(|component| matches!(component, Component::Normal(_))) {
        prefix.push(component);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(project, &prefix, flags, Mode::empty()).and_then(|fd| fstat(&fd));
        if opened.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink()) {
            break;
        }
    }
    prefix
}

impl Guarded {
    /// Whether a mount keeps it as it is.
    pub fn is_held(&self) -> bool {
        matches!(self.presence, Presence::File | Presence::Directory)
    }
}

fn missing(project: BorrowedFd<'_>, root: &Path, path: &Path) -> Result<Presence, SourceError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(Presence::Unprotectable);
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(project, parent, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        Ok(fd) => Ok(Presence::Unbindable { link: false, siblings: siblings(fd.as_fd(), &root.join(parent))? }),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Presence::Unprotectable),
        Err(source) => Err(SourceError::Open { path: root.join(parent), source }),
    }
}

fn siblings(directory: BorrowedFd<'_>, path: &Path) -> Result<Vec<(PathBuf, bool)>, SourceError> {
    use std::os::unix::ffi::OsStrExt;
    let wrap = |source| SourceError::List { path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(wrap)? {
        let entry = entry.map_err(wrap)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() >= MAX_SIBLINGS {
            return Err(SourceError::TooManySiblings { path: path.to_owned() });
        }
        names.push((PathBuf::from(std::ffi::OsStr::from_bytes(name)), entry.file_type() == FileType::Symlink));
    }
    Ok(names)
}
