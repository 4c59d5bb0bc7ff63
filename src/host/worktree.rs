//! Git worktrees: a project whose `.git` is a file has its repository elsewhere.
//!
//! That directory is mounted too, so that git works inside, but only where it names this project back: a `.git` file alone could
//! otherwise make any directory writable. Follows gitrepository-layout(5), "commondir" and "worktrees".

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::sources::{Guarded, Opened, SourceError, open_source, survey_guarded};

/// The repository of a worktree.
pub struct Worktree {
    pub common: Opened,
    /// `worktrees/NAME`, relative to the common directory: what belongs to this worktree.
    pub own: PathBuf,
    /// hooks, config and the other worktrees.
    pub guarded: Vec<Guarded>,
}

/// A `.git` file, and the file that names it back, hold one path each.
const MAX_POINTER: u64 = 8192;

/// Finds the repository of the worktree that `project` is; `None` where it is none, or where the repository does not name it back.
///
/// # Errors
/// [`SourceError`] of looking at what is to be protected in it.
pub fn find_worktree(project: &Path) -> Result<Option<Worktree>, SourceError> {
    let Some((common, own)) = common_directory(project) else { return Ok(None) };
    let opened = open_source(&common)?;
    let protect = [PathBuf::from("hooks"), PathBuf::from("config"), PathBuf::from("worktrees")];
    let guarded = survey_guarded(opened.fd.as_fd(), &common, &protect, &[])?;
    Ok(Some(Worktree { common: opened, own, guarded }))
}

fn common_directory(project: &Path) -> Option<(PathBuf, PathBuf)> {
    let pointer = read_pointer(&project.join(".git"))?;
    let target = pointer.strip_prefix("gitdir:")?.trim();
    let own = project.join(target).canonicalize().ok()?;
    let worktrees = own.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "worktrees"))?;
    let common = worktrees.parent()?.to_owned();
    // In the project, it would be mounted over what is hidden there; above the project, over all of it.
    let real = project.canonicalize().ok()?;
    if common.starts_with(&real) || real.starts_with(&common) {
        return None;
    }
    let back = own.join(read_pointer(&own.join("gitdir"))?.trim()).canonicalize().ok()?;
    let named_back = back == project.join(".git").canonicalize().ok()?;
    let is_repository = ["HEAD", "objects", "refs"].iter().all(|name| common.join(name).exists());
    let inside = own.strip_prefix(&common).ok()?.to_owned();
    (named_back && is_repository).then_some((common, inside))
}

fn read_pointer(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(MAX_POINTER).read_to_string(&mut text).ok()?;
    Some(text)
}
