//! Git worktrees: a project whose `.git` is a file has its repository elsewhere.
//!
//! That directory is mounted too, so that git works inside, but only where it names this project back: a `.git` file alone could
//! otherwise make any directory writable. A payload that can write the `.git` file could name a repository of its own making: so it must
//! not lie where payloads write, and nothing in it that is looked at may be a link. Follows gitrepository-layout(5), "commondir" and
//! "worktrees".

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, lstat, openat, openat2};
use rustix::io::Errno;

use super::sources::{Guarded, Opened, SourceError, open_source_without_links, survey_guarded};

/// The repository of a worktree.
pub struct Worktree {
    pub common: Opened,
    /// `worktrees/NAME`, relative to the common directory: what belongs to this worktree.
    pub own: PathBuf,
    /// hooks, config and the other worktrees, and what names this worktree's repository and configuration.
    pub guarded: Vec<Guarded>,
    /// What git obeys as well, and is not there to be guarded.
    pub absent: Vec<PathBuf>,
}

/// A `.git` file, and the file that names it back, hold one path each.
const MAX_POINTER: u64 = 8192;

/// What git on the host obeys in a repository, and in what belongs to one worktree.
const OBEYED: [&str; 5] = ["hooks", "config", "worktrees", "commondir", "config.worktree"];
const OBEYED_OF_ONE: [&str; 3] = ["commondir", "gitdir", "config.worktree"];

/// Finds the repository of the worktree that `project` is; `None` where it is none, where the repository does not name it back, or where it
/// lies in one of `ours`, in which payloads write.
///
/// # Errors
/// [`SourceError`] of looking at what is to be protected in it.
pub fn find_worktree(project: &Path, ours: &[&Path]) -> Result<Option<Worktree>, SourceError> {
    let Some((opened, own)) = common_directory(project, ours) else { return Ok(None) };
    let of_one = OBEYED_OF_ONE.iter().map(|name| own.join(name));
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for path in OBEYED.iter().map(PathBuf::from).chain(of_one) {
        let looked = is_there(kind_beneath(opened.fd.as_fd(), &path));
        let there = looked.map_err(|source| SourceError::Open { path: opened.source.path.join(&path), source })?;
        if there { present.push(path) } else { absent.push(path) }
    }
    let guarded = survey_guarded(opened.fd.as_fd(), &opened.source.path, &present, &[])?;
    let absent = absent.iter().map(|path| opened.source.path.join(path)).collect();
    Ok(Some(Worktree { common: opened, own, guarded, absent }))
}

/// More worktrees of one repository are protected as one directory, in which none can be added or removed then.
const MOST_LINKED: usize = 64;

/// What git obeys in the worktrees of the repository that `project` has itself, relative to the project: git on the host reads it when it
/// is used in one of them, wherever that lies; first what is there, then what is not. A repository without worktrees gives nothing.
///
/// # Errors
/// [`SourceError`] of a directory that cannot be looked into: a payload could have shut it.
pub fn linked_worktrees(project: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), SourceError> {
    let below = Path::new(".git/worktrees");
    let directory = project.join(below);
    let list =
        |source: std::io::Error| SourceError::List { path: directory.clone(), source: Errno::from_io_error(&source).unwrap_or(Errno::IO) };
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok((Vec::new(), Vec::new())),
        entries => entries.map_err(list)?,
    };
    let names =
        entries.take(MOST_LINKED + 1).map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>().map_err(list)?;
    if names.len() > MOST_LINKED {
        return Ok((vec![below.to_owned()], Vec::new()));
    }
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for path in names.iter().flat_map(|name| OBEYED_OF_ONE.iter().map(move |file| below.join(name).join(file))) {
        let there = is_there(lstat(project.join(&path))).map_err(|source| SourceError::Open { path: project.join(&path), source })?;
        if there { present.push(path) } else { absent.push(path) }
    }
    Ok((present, absent))
}

/// Only what says that there is nothing means so.
fn is_there<T>(looked: Result<T, Errno>) -> Result<bool, Errno> {
    match looked {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn common_directory(project: &Path, ours: &[&Path]) -> Option<(Opened, PathBuf)> {
    let pointer = read_pointer(openat(CWD, project.join(".git"), READ, Mode::empty()))?;
    let target = pointer.strip_prefix("gitdir:")?.trim();
    let own = project.join(target).canonicalize().ok()?;
    let worktrees = own.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "worktrees"))?;
    let common = worktrees.parent()?.to_owned();
    // In the project, it would be mounted over what is hidden there; above the project, over all of it.
    let real = |path: &Path| path.canonicalize().ok();
    let overlaps = |path: &PathBuf| common.starts_with(path) || path.starts_with(&common);
    if overlaps(&real(project)?) || ours.iter().filter_map(|path| real(path)).any(|path| overlaps(&path)) {
        return None;
    }
    let opened = open_source_without_links(&common).ok()?;
    let inside = own.strip_prefix(&common).ok()?.to_owned();
    let root = opened.fd.as_fd();
    let is = |name: &str, kind| kind_beneath(root, Path::new(name)) == Ok(kind);
    let is_repository = is("HEAD", FileType::RegularFile) && is("objects", FileType::Directory) && is("refs", FileType::Directory);
    let names = |name: &str| real(&own.join(read_pointer(openat2(root, inside.join(name), READ, Mode::empty(), BENEATH))?.trim()));
    let named_back = names("gitdir")? == real(&project.join(".git"))? && names("commondir")? == common;
    (named_back && is_repository).then_some((opened, inside))
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// What is there; a link is one, and is not followed.
fn kind_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<FileType, Errno> {
    let fd = openat2(root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), BENEATH)?;
    Ok(FileType::from_raw_mode(fstat(&fd)?.st_mode))
}

fn read_pointer(opened: Result<std::os::fd::OwnedFd, Errno>) -> Option<String> {
    let file = std::fs::File::from(opened.ok()?);
    let mut text = String::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(MAX_POINTER).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository and a worktree of it, as git makes them.
    fn make(root: &Path) -> (PathBuf, PathBuf) {
        let (common, project) = (root.join("main/.git"), root.join("tree"));
        let own = common.join("worktrees/tree");
        for directory in [&common.join("objects"), &common.join("refs"), &common.join("hooks"), &own, &project] {
            std::fs::create_dir_all(directory).expect("directory");
        }
        let dot_git = project.join(".git");
        for (file, text) in [
            (common.join("HEAD"), "ref: refs/heads/main\n".to_owned()),
            (common.join("config"), String::new()),
            (own.join("commondir"), "../..\n".into()),
            (own.join("gitdir"), format!("{}\n", dot_git.display())),
            (dot_git.clone(), format!("gitdir: {}\n", own.display())),
        ] {
            std::fs::write(file, text).expect("file");
        }
        (common, project)
    }

    #[test]
    fn a_worktree_is_found_with_what_git_obeys() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path().canonicalize().expect("path");
        let (common, project) = make(&root);
        let found = find_worktree(&project, &[&root.join("state")]).expect("looked").expect("a worktree");
        assert_eq!((&found.common.source.path, found.own.as_path()), (&common, Path::new("worktrees/tree")));
        let guarded: Vec<String> = found.guarded.iter().map(|guarded| guarded.path.display().to_string()).collect();
        assert_eq!(guarded, ["hooks", "config", "worktrees", "worktrees/tree/commondir", "worktrees/tree/gitdir"]);
        let absent = ["commondir", "config.worktree", "worktrees/tree/config.worktree"].map(|name| common.join(name));
        assert_eq!(found.absent, absent);
    }

    #[test]
    fn a_repository_that_a_payload_could_have_made_is_none() {
        let forged = |change: &dyn Fn(&Path, &Path, &Path)| {
            let root = tempfile::tempdir().expect("directory");
            let root = root.path().canonicalize().expect("path");
            let (common, project) = make(&root);
            change(&root, &common, &project);
            find_worktree(&project, &[&root.join("state")]).expect("looked").is_none()
        };
        let link = |target: &Path, at: PathBuf| {
            std::fs::rename(&at, at.with_extension("old")).expect("rename");
            std::os::unix::fs::symlink(target, at).expect("link");
        };
        assert!(!forged(&|_, _, _| ()));
        for name in ["objects", "refs", "HEAD", "worktrees"] {
            assert!(forged(&|root, common, _| link(&root.join("state"), common.join(name))), "{name}");
            assert!(forged(&|_, common, _| link(&common.join(name).with_extension("old"), common.join(name))), "{name}");
        }
        assert!(forged(&|_, common, _| link(&common.join("config"), common.join("worktrees/tree/gitdir"))));
        // Elsewhere than git has put it, and in what payloads write.
        assert!(forged(
            &|root, common, _| std::fs::write(common.join("worktrees/tree/commondir"), root.display().to_string()).expect("write")
        ));
        assert!(forged(&|root, common, project| {
            let moved = root.join("state/home/fake");
            std::fs::create_dir_all(root.join("state/home")).expect("directory");
            std::fs::rename(common, &moved).expect("rename");
            std::fs::write(project.join(".git"), format!("gitdir: {}/worktrees/tree", moved.display())).expect("write");
        }));
    }
}
