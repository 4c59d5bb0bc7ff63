//! What git on the host obeys, and cannot be protected where it does not exist: told when it is there after a run.

use std::path::{Path, PathBuf};

use rustix::fs::{Stat, lstat};
use rustix::time::{ClockId, clock_gettime};

const REPOSITORY: &str = ".git";
const IN_REPOSITORY: [&str; 2] = [".git/commondir", ".git/config.worktree"];
/// Without this git looks for a repository elsewhere: in the project itself, and then above it.
const HEAD: &str = ".git/HEAD";

/// What git obeys after a run, and did not before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    Appeared(PathBuf),
    /// The repository's HEAD.
    Gone(PathBuf),
    /// A directory that git takes for a repository, with its configuration.
    Bare(PathBuf),
}

/// A project, and what was not there before the sandbox was started.
#[derive(Debug)]
pub struct Appearing {
    project: PathBuf,
    /// By the clock of file times, in seconds and nanoseconds.
    began: (i64, i64),
    missing: Vec<PathBuf>,
    head: Option<PathBuf>,
    repository: bool,
}

impl Appearing {
    /// Looks at `project`, which has a git repository or not.
    pub fn survey(project: &Path, repository: bool) -> Self {
        let path = |name: &&str| project.join(name);
        let missing = match repository {
            true => IN_REPOSITORY.iter().map(path).filter(|path| !is_there(path)).collect(),
            false => vec![project.join(REPOSITORY)],
        };
        let head = repository.then(|| project.join(HEAD)).filter(|head| is_there(head));
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self { project: project.to_owned(), began: (now.tv_sec, now.tv_nsec), missing, head, repository }
    }

    /// Where nobody has looked yet whether there is a repository.
    #[must_use]
    pub fn look(self) -> Self {
        let found = !self.repository && is_there(&self.project.join(REPOSITORY));
        if found { Self::survey(&self.project, true) } else { self }
    }

    /// What is there now.
    pub fn appeared(self) -> Vec<Sign> {
        // A directory's own time changes with each name that comes to it.
        let untouched = lstat(&self.project).is_ok_and(|found| changed(&found) < self.began);
        if untouched && !self.repository {
            return Vec::new();
        }
        let mut signs: Vec<Sign> = self.missing.iter().filter(|path| is_there(path)).cloned().map(Sign::Appeared).collect();
        signs.extend(self.head.as_ref().filter(|head| !is_there(head)).cloned().map(Sign::Gone));
        if !untouched && self.is_bare() {
            signs.push(Sign::Bare(self.project));
        }
        signs
    }

    /// Whether the project itself has what makes a repository by now, and some of it is of this run.
    fn is_bare(&self) -> bool {
        let look = |name: &str| lstat(self.project.join(name)).ok();
        let Some(head) = look("HEAD") else { return false };
        let (common, objects, refs) = (look("commondir"), look("objects"), look("refs"));
        let complete = common.is_some() || (objects.is_some() && refs.is_some());
        // A rename changes the time of what is renamed.
        complete && [Some(head), common, objects, refs].iter().flatten().any(|found| changed(found) >= self.began)
    }
}

fn is_there(path: &Path) -> bool {
    lstat(path).is_ok()
}

fn changed(found: &Stat) -> (i64, i64) {
    (found.st_ctime, found.st_ctime_nsec as i64)
}
