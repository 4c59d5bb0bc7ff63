//! Files of a project that decide what later runs may do: a payload that can write there must not speak to the next sandbox unseen.
//!
//! What this run has read is mounted read-only. A name that does not exist cannot be mounted over, and a file that another run would
//! read is nobody's concern here: those are compared before and after, and while a run lasts.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names that hamper reads by itself, and that git on the host obeys.
const NAMES: [&str; 3] = ["hamper.toml", "hamper.local.toml", LOCK];
/// Beside any profile.
const LOCK: &str = "hamper.lock";
const REPOSITORY: &str = ".git";
const GIT: [&str; 2] = [".git/commondir", ".git/config.worktree"];
/// Where named profiles of a project are.
const PROFILES: &str = "profiles";
/// Entries of that directory that are looked at.
const MAX_PROFILES: usize = 1000;

/// Device, inode, and the time of the last change in seconds and nanoseconds, which nobody can set back.
type Stamp = (u64, u64, i64, i64);

/// The files as they were before the sandbox was started.
#[derive(Debug)]
pub struct Obeyed {
    project: PathBuf,
    /// Of the project's directory: as long as it stays, no name was made in it.
    unchanged: Stamp,
    /// Relative to the project; these are mounted read-only.
    guarded: Vec<PathBuf>,
    profiles: BTreeMap<PathBuf, Stamp>,
    git: Vec<PathBuf>,
}

impl Obeyed {
    /// Looks at `project`, in which the files `guarded` are read-only for the payload, a git repository or not. `None`: it cannot be looked at.
    pub fn survey(project: &Path, guarded: Vec<PathBuf>, repository: bool) -> Option<Self> {
        let unchanged = stamp(project)?;
        let mut profiles = profiles(project);
        profiles.retain(|path, _| !is_below(&guarded, path));
        Some(Self { project: project.to_owned(), unchanged, guarded, profiles, git: missing(project, repository) })
    }

    /// The project, and the directory of its named profiles where there is one.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let named = self.project.join(PROFILES);
        std::iter::once(self.project.clone()).chain(named.is_dir().then_some(named))
    }

    /// What is different since.
    pub fn changes(&self) -> Changes {
        let new_names = stamp(&self.project) != Some(self.unchanged);
        let in_project = |path: PathBuf| self.project.join(path);
        let mut changes = Changes::default();
        if new_names || !self.profiles.is_empty() {
            let changed = |(path, stamp): &(PathBuf, Stamp)| self.profiles.get(path) != Some(stamp) && !is_below(&self.guarded, path);
            changes.profiles = profiles(&self.project).into_iter().filter(changed).map(|(path, _)| in_project(path)).collect();
        }
        if new_names || self.git != [Path::new(REPOSITORY)] {
            changes.git = self.git.iter().cloned().map(in_project).filter(|path| stamp(path).is_some()).collect();
        }
        changes
    }
}

/// What is different after a while.
#[derive(Debug, Default)]
pub struct Changes {
    /// Profiles that were made or changed, and that the payload could reach.
    pub profiles: Vec<PathBuf>,
    /// What git obeys, and was not there before.
    pub git: Vec<PathBuf>,
}

fn is_below(guarded: &[PathBuf], path: &Path) -> bool {
    guarded.iter().any(|guarded| path.starts_with(guarded))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let facts = path.symlink_metadata().ok()?;
    Some((facts.dev(), facts.ino(), facts.ctime(), facts.ctime_nsec()))
}

/// Whether a name in one of the directories can be a profile's, or that of the directory of profiles.
pub(super) fn is_obeyed(name: &Path) -> bool {
    name == Path::new(PROFILES) || is_profile(name)
}

fn is_profile(name: &Path) -> bool {
    name.extension().is_some_and(|end| end == "toml") || name == Path::new(LOCK)
}

fn profiles(project: &Path) -> BTreeMap<PathBuf, Stamp> {
    let mut found = BTreeMap::new();
    let mut look = |path: PathBuf| {
        if let Some(stamp) = stamp(&project.join(&path)) {
            found.insert(path, stamp);
        }
    };
    NAMES.iter().for_each(|name| look(name.into()));
    if let Ok(entries) = project.join(PROFILES).read_dir() {
        let names = entries.take(MAX_PROFILES).filter_map(|entry| Some(entry.ok()?.file_name()));
        names.filter(|name| is_profile(Path::new(name))).for_each(|name| look(Path::new(PROFILES).join(name)));
    }
    found
}

/// In a repository its own names, else the repository.
fn missing(project: &Path, repository: bool) -> Vec<PathBuf> {
    if !repository {
        return vec![REPOSITORY.into()];
    }
    GIT.into_iter().filter(|name| project.join(name).symlink_metadata().is_err()).map(PathBuf::from).collect()
}
