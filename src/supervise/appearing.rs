//! What git on the host obeys, and cannot be protected where it does not exist: told when it is there after a run.

use std::path::{Path, PathBuf};

const REPOSITORY: &str = ".git";
const IN_REPOSITORY: [&str; 2] = [".git/commondir", ".git/config.worktree"];

/// Names that were not there before the sandbox was started.
#[derive(Debug)]
pub struct Appearing {
    paths: Vec<PathBuf>,
}

impl Appearing {
    /// Looks at `project`, which has a git repository or not.
    pub fn survey(project: &Path, repository: bool) -> Self {
        let names: &[&str] = if repository { &IN_REPOSITORY } else { &[REPOSITORY] };
        let paths = names.iter().map(|name| project.join(name));
        // That there is no repository is known already.
        Self { paths: paths.filter(|path| !repository || !is_there(path)).collect() }
    }

    /// What is there now.
    pub fn appeared(self) -> Vec<PathBuf> {
        self.paths.into_iter().filter(|path| is_there(path)).collect()
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
