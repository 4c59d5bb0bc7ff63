//! The sources of a start: project, mounts and home, each opened once, before anything is started.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::error::CliError;
use super::ledger::Tree;
use super::start::{Effects, ProjectChoice};
use super::state::{ProjectState, lock_work, make_directory};
use crate::host::{Directories, Opened, SourceError, find_worktree, linked_worktrees, open_in_project, open_source, survey_guarded};
use crate::plan::{self, OpenedMount};
use crate::profile::{Missing, Mount, MountKind, Profile, ProjectMode, SeccompSource, SecretSource};

/// Opens sources and keeps them open.
pub struct Opening<'o> {
    pub fds: Vec<OwnedFd>,
    pub effects: Effects,
    /// Directories that payloads could write below at some time.
    pub written: &'o [Tree],
}

impl Opening<'_> {
    pub fn add(&mut self, opened: Opened) -> crate::host::Source {
        self.fds.push(opened.fd);
        opened.source
    }

    /// A directory of ours, made where it is missing.
    pub fn own(&mut self, path: &Path) -> Result<crate::host::Source, CliError> {
        match open_source(path) {
            Err(SourceError::Open { source: Errno::NOENT, .. }) if self.effects == Effects::All => {
                make_directory(path)?;
                Ok(self.add(open_source(path)?))
            }
            Err(SourceError::Open { source: Errno::NOENT, .. }) => {
                Ok(crate::host::Source { path: path.to_owned(), directory: true, device: 0, inode: 0 })
            }
            result => Ok(self.add(result?)),
        }
    }
}

/// Where the project is inside: the same path as outside, unless the profile says otherwise.
pub fn project_target(profile: &Profile, choice: &ProjectChoice) -> Option<String> {
    let path = choice.path.as_ref().filter(|_| profile.project.mode != ProjectMode::None)?;
    Some(profile.project.target.clone().unwrap_or_else(|| path.to_string_lossy().into_owned()))
}

/// The project, and what git obeys in its repository elsewhere, and is not there yet.
pub fn open_project(
    profile: &Profile,
    choice: &ProjectChoice,
    directories: &Directories,
    opening: &mut Opening<'_>,
) -> Result<(plan::Project, Vec<PathBuf>), CliError> {
    let none = |mode| plan::Project {
        path: PathBuf::from("/"),
        source: None,
        target: "/".into(),
        mode,
        guarded: Vec::new(),
        shown: Vec::new(),
        worktree: None,
    };
    let Some(path) = choice.path.as_ref().filter(|_| profile.project.mode != ProjectMode::None) else {
        return Ok((none(ProjectMode::None), Vec::new()));
    };
    let opened = open_source(path)?;
    let git = std::fs::symlink_metadata(path.join(".git")).ok().map(|found| found.is_file());
    let mut protect = protected_paths(profile, path, git);
    let mut absent = Vec::new();
    if git == Some(false) && protect.iter().any(|path| path.starts_with(".git")) {
        let (present, missing) = linked_worktrees(path)?;
        protect.extend(present);
        absent.extend(missing.iter().map(|linked| path.join(linked)));
    }
    let guarded = survey_guarded(opened.fd.as_fd(), path, &protect, &profile.project.hide)?;
    let target = project_target(profile, choice).unwrap_or_default();
    let worktree = if git == Some(true) { find_worktree(path, &[&directories.state, &directories.data])? } else { None };
    let worktree = worktree.map(|worktree| {
        absent.extend(worktree.absent);
        plan::Worktree { common: opening.add(worktree.common), own: worktree.own, guarded: worktree.guarded }
    });
    let project = plan::Project {
        path: path.clone(),
        source: Some(opening.add(opened)),
        target,
        mode: profile.project.mode,
        guarded,
        shown: Vec::new(),
        worktree,
    };
    Ok((project, absent))
}

/// What the profile protects, and every file that this run has read.
fn protected_paths(profile: &Profile, project: &Path, git_is_file: Option<bool>) -> Vec<PathBuf> {
    let mut paths = profile.project.protect.clone();
    let seccomp = match &profile.security.seccomp {
        SeccompSource::File(path) => Some(path.as_path()),
        _ => None,
    };
    let secrets = profile.secrets.iter().filter_map(|secret| match &secret.from {
        SecretSource::File(path) => Some(path.as_path()),
        SecretSource::Env(_) => None,
    });
    let read = profile.files.iter().chain(&profile.env_file).map(PathBuf::as_path).chain(seccomp).chain(secrets);
    for path in read.map(without_dots) {
        if let Ok(inside) = path.strip_prefix(project)
            && !paths.iter().any(|known| known == inside)
        {
            paths.push(inside.to_owned());
        }
    }
    // Also where this run does not read it: what nobody could write is the caller's to change unasked.
    let own = Path::new("hamper.toml");
    if !paths.iter().any(|known| known == own) && project.join(own).symlink_metadata().is_ok() {
        paths.push(own.to_owned());
    }
    // A repository that is not there needs no protection of its hooks; one that is elsewhere is named by a file, which is protected.
    match git_is_file {
        None => paths.retain(|path| !path.starts_with(".git")),
        Some(true) => {
            paths.retain(|path| !path.starts_with(".git"));
            paths.push(".git".into());
        }
        Some(false) => {}
    }
    paths
}

/// In the project, and wherever else payloads could write, a source may have been swapped: there no link is followed. For its own project
/// the caller can name on the command line what he likes.
fn open_bind(source: &Path, project: &plan::Project, mount: &Mount, opening: &Opening<'_>) -> Result<Opened, SourceError> {
    let MountKind::Bind { missing, .. } = &mount.kind else { return open_source(source) };
    let own = Some(&project.path).filter(|_| project.source.is_some() && !mount.by_hand());
    let source = without_dots(source);
    let written = opening.written.iter().map(|tree| &tree.path);
    match own.into_iter().chain(written).find(|tree| source.starts_with(tree)) {
        None if follows_a_written_link(&source, opening.written) => Err(SourceError::LeavesProject { path: source }),
        None => open_source(&source),
        Some(tree) => {
            let relative = source.strip_prefix(tree).unwrap_or(&source);
            open_in_project(tree, relative, *missing == Missing::Create && opening.effects == Effects::All)
        }
    }
}

/// An image in the project, or where else payloads could write, may be another one than last time, but no link leads to what lies
/// elsewhere.
///
/// # Errors
/// [`CliError::Source`] where one does; what is missing is told by whoever opens it.
pub fn refuse_swapped_image(path: &Path, project: Option<&Path>, trees: &[Tree]) -> Result<(), CliError> {
    project.into_iter().chain(trees.iter().map(|tree| tree.path.as_path())).try_for_each(|tree| stays_beneath(tree, path))?;
    match follows_a_written_link(path, trees) && !trees.iter().any(|tree| path.starts_with(&tree.path)) {
        true => Err(SourceError::LeavesProject { path: path.to_owned() }.into()),
        false => Ok(()),
    }
}

fn stays_beneath(tree: &Path, path: &Path) -> Result<(), CliError> {
    if !path.starts_with(tree) {
        return Ok(());
    }
    match without_dots(path).strip_prefix(tree).map(|inside| open_in_project(tree, inside, false)) {
        Ok(Err(error @ SourceError::LeavesProject { .. })) => Err(error.into()),
        _ => Ok(()),
    }
}

/// A project that is named by a path through what payloads could write is the directory of that name, or none.
///
/// # Errors
/// [`CliError::Told`] names what it leads to.
pub fn refuse_moved_project(choice: &ProjectChoice, trees: &[Tree]) -> Result<(), CliError> {
    let (Some(path), Some(written)) = (&choice.path, choice.written.as_deref().map(without_dots)) else { return Ok(()) };
    let is_below = || trees.iter().any(|tree| written.starts_with(&tree.path));
    if *path == written || !(is_below() || follows_a_written_link(&written, trees)) {
        return Ok(());
    }
    Err(CliError::Told {
        words: format!("the project {} leads to {} by a link that a sandbox could have made", written.display(), path.display()),
        hint: Some(format!("if that is meant: --project '{}'", path.display())),
    })
}

/// Whether a link is on the way of a path that lies where a payload could have made it, by whatever name that directory goes now.
fn follows_a_written_link(path: &Path, trees: &[Tree]) -> bool {
    /// As path_resolution(7) has it.
    const MOST_LINKS: usize = 40;
    if trees.is_empty() {
        return false;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if let Ok(fd) = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // There is none at all. Not closed, as the process ends soon.
        std::mem::forget(fd);
        return false;
    }
    let mut ahead: VecDeque<OsString> = path.components().map(|component| component.as_os_str().to_owned()).collect();
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = ahead.pop_front() {
        match Path::new(&name).components().next() {
            Some(Component::ParentDir) => drop(real.pop()),
            Some(Component::Normal(_)) => {
                let next = real.join(&name);
                let Ok(target) = std::fs::read_link(&next) else {
                    real = next;
                    continue;
                };
                links += 1;
                if links > MOST_LINKS || is_written(&real, trees) {
                    return true;
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                target.components().rev().for_each(|component| ahead.push_front(component.as_os_str().to_owned()));
            }
            _ => {}
        }
    }
    false
}

fn is_written(directory: &Path, trees: &[Tree]) -> bool {
    directory.ancestors().any(|ancestor| {
        let identity = rustix::fs::stat(ancestor).ok().map(|stat| (stat.st_dev, stat.st_ino));
        trees.iter().any(|tree| tree.path == ancestor || Some(tree.identity) == identity)
    })
}

/// A path without `..`, by its words alone: what a payload has made of a directory on the way does not change where it leads.
pub fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}

pub fn open_mounts(
    profile: &Profile,
    project: &plan::Project,
    directories: &Directories,
    state: &ProjectState,
    opening: &mut Opening<'_>,
) -> Result<Vec<OpenedMount>, CliError> {
    let mut mounts = Vec::with_capacity(profile.mounts.len());
    for mount in &profile.mounts {
        let (source, size) = match &mount.kind {
            MountKind::Tmpfs { size } => (None, *size),
            MountKind::Bind { source, missing } => match (open_bind(source, project, mount, opening), missing) {
                (Ok(opened), _) => (Some(opening.add(opened)), None),
                (Err(SourceError::Open { source: Errno::NOENT, .. }), Missing::Skip) => continue,
                // Where payloads write it was made already, or is a link that leads nowhere.
                (Err(SourceError::Open { source: Errno::NOENT, .. }), Missing::Create) if !is_written(source, opening.written) => {
                    (Some(opening.own(source)?), None)
                }
                (Err(error), _) => return Err(CliError::Mount { origin: mount.origin.clone(), source: error }),
            },
            MountKind::Cache { name, shared: false } => (Some(opening.own(&state.directory.join("caches").join(name))?), None),
            kind => match plan::kept_directory(kind) {
                Some(below) => (Some(opening.own(&directories.data.join(below))?), None),
                None => continue,
            },
        };
        mounts.push(OpenedMount { target: mount.target.clone(), read_only: mount.read_only, source, size });
    }
    Ok(mounts)
}

/// The kept home: its files are in `u`, whether it is bound or the upper directory of an overlay.
pub fn open_home(state: &ProjectState, bound: bool, opening: &mut Opening<'_>) -> Result<plan::Home, CliError> {
    let home = state.directory.join("home");
    let upper = opening.own(&home.join("u"))?;
    if bound {
        return Ok(plan::Home { source: upper, work: None });
    }
    let source = opening.own(&home)?;
    let mut work = "w".to_owned();
    if opening.effects == Effects::All {
        let (name, lock) = lock_work(&home)?;
        opening.fds.push(lock);
        work = name;
    }
    Ok(plan::Home { source, work: Some(work) })
}
