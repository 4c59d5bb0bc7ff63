//! Every failure of a command, with its words, its causes and a hint that can be pasted.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::plan::PlanError;
use crate::profile::is_unseen;
use crate::{host, launch, plan, report, rootfs, supervise};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Source(#[from] host::SourceError),
    #[error("{origin}: the source of the mount cannot be used")]
    Mount { origin: String, source: host::SourceError },
    #[error("cannot {act} {}", path.display())]
    Io { act: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("cannot make the image ready")]
    Rootfs { source: rootfs::Error },
    #[error("cannot make a cgroup for the limits")]
    Cgroup(#[from] launch::CgroupError),
    #[error(transparent)]
    Scratch(#[from] launch::ScratchError),
    #[error(transparent)]
    Lower(#[from] launch::LowerError),
    #[error("{step}")]
    Step { step: String, kind: StepKind, source: rustix::io::Errno },
    #[error("{step}")]
    Maps { step: String, source: crate::sys::IdMapError },
    #[error(transparent)]
    Supervise(#[from] supervise::SuperviseError),
    #[error("security.seccomp")]
    Seccomp { source: plan::seccomp::Error },
    #[error("{}: not a seccomp profile", path.display())]
    SeccompProfile { path: PathBuf, source: plan::seccomp::OciError },
    #[error("the secret {secret} comes from the variable {variable}, which is not set")]
    SecretUnset { secret: String, variable: String },
    #[error("{}:{line}: not a NAME=value line", path.display())]
    EnvFile { path: PathBuf, line: usize },
    #[error("the host has no user {name:?} that could be you")]
    HostUser { name: String },
    #[error(transparent)]
    Profile(#[from] crate::profile::OpenError),
    #[error("the payload ran and ended with code {code}, but the report cannot be written")]
    Report { code: i32, source: std::io::Error },
    #[error("cannot write the report to {}", path.display())]
    ReportPlace { path: PathBuf, source: report::DestinationError },
    #[error("{0}")]
    Usage(String),
    #[error("{words}")]
    Told { words: String, hint: Option<String> },
}

/// What kind of step failed, as far as hint and exit code depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    Keyring,
    Clone,
    Maps,
    Root,
    Mount,
    Execute,
    /// `shell`, in an image that has none.
    NoShell,
    Other,
}

impl StepKind {
    pub fn of(step: &plan::Step) -> Self {
        use plan::Step;
        match step {
            Step::JoinSessionKeyring => Self::Keyring,
            Step::Clone { .. } => Self::Clone,
            Step::WriteIdMaps { .. } => Self::Maps,
            Step::MountRoot { .. } => Self::Root,
            Step::Execute { .. } => Self::Execute,
            Step::MountDev { .. }
            | Step::MountProc
            | Step::Bind { .. }
            | Step::MountTmpfs { .. }
            | Step::MountOver { .. }
            | Step::Guard { .. } => Self::Mount,
            _ => Self::Other,
        }
    }
}

impl CliError {
    /// The number of the kernel's answer, where one is behind it.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if let Some(errno) = io.or_else(|| error.downcast_ref::<rustix::io::Errno>().map(|errno| errno.raw_os_error())) {
                return Some(errno);
            }
            cause = error.source();
        }
        None
    }

    /// The error and its causes on one line.
    pub fn chain(&self) -> String {
        crate::image::chain(self)
    }

    /// What the caller can do about it.
    pub fn hint(&self) -> Option<String> {
        use rustix::io::Errno;
        if let Some(hint) = self.errno().and_then(|errno| rootfs::hint_of_errno(Errno::from_raw_os_error(errno))) {
            return Some(hint.to_owned());
        }
        let hint = match self {
            Self::Told { hint, .. } => return hint.clone(),
            Self::Profile(crate::profile::OpenError::Find(error)) => return error.hint(),
            Self::Rootfs { source } => {
                // Where nobody can have a user namespace, no other map helps.
                let of_namespaces = matches!(source, rootfs::Error::Namespace { .. } | rootfs::Error::Maps(_));
                let why = of_namespaces.then(host::namespaces_blocked).flatten();
                return why.map(|why| blocked(&why)).or_else(|| source.hint().map(str::to_owned));
            }
            Self::Host(host::HostError::NoHome) => "export HOME=/path/to/your/home",
            Self::Host(host::HostError::RaisedPrivileges) => "remove the bits: chmod ug-s hamper; setcap -r hamper",
            Self::Plan(PlanError::NoCommand) => "give one: hamper run PROFILE -- COMMAND",
            Self::Cgroup(launch::CgroupError::CleanupKilled) => return None,
            Self::Cgroup(_) | Self::Plan(PlanError::Limits(_) | PlanError::Required { what: "cgroup", .. }) => {
                "`hamper doctor` says what this machine needs; limits.on_missing = \"warn\" without require = [\"cgroup\"] goes on without limits"
            }
            Self::Plan(PlanError::Required { what: "protect", .. }) => "create the path, or drop \"protect\" from require",
            Self::Plan(PlanError::NeedsNamespaces { remedy, .. }) => {
                return Some(format!("{remedy}; or isolation = \"namespaces\", where user namespaces can be had (hamper doctor)"));
            }
            Self::Plan(PlanError::Required { .. }) => "hamper doctor",
            Self::Plan(PlanError::Impossible { key: "security.caps", .. }) => "hamper doctor",
            Self::Maps { .. } => "hamper doctor",
            Self::Step { kind: StepKind::Keyring, source: Errno::DQUOT, .. } => {
                "every running sandbox has a keyring; the kernel bounds them by kernel.keys.maxkeys for each user"
            }
            Self::Step { kind: StepKind::Clone, source, .. } => return Some(blocked(&host::explain_clone(*source))),
            Self::Step { kind: StepKind::Maps, source, .. } => return Some(blocked(&host::explain(host::Act::UidMap, *source))),
            Self::Step { kind: StepKind::Root, source: Errno::NOENT, .. } => {
                "layers of the image are gone from the store: hamper image pull IMAGE, or hamper image load IMAGE, makes them again"
            }
            Self::Step { kind: StepKind::Root, source: Errno::STALE, .. } => {
                "a published store was changed while the sandbox was starting; run it again, or without it: HAMPER_STORES= hamper …"
            }
            Self::Step { kind: StepKind::Root, .. } => "hamper doctor says whether overlay works on your store's file system",
            Self::Step { kind: StepKind::Mount, source: Errno::STALE, .. } => {
                "the source was replaced while the sandbox was starting; run it again"
            }
            Self::Step { kind: StepKind::NoShell, .. } => "name a program that it has: hamper run PROFILE -- PROGRAM",
            Self::Step { kind: StepKind::Execute, source: Errno::NOENT, .. } => {
                "a missing interpreter or loader of the program looks the same as a missing program"
            }
            Self::Step { kind: StepKind::Execute, source: Errno::NOEXEC, .. } => {
                "the file has no #! line, or is built for another processor"
            }
            Self::Source(host::SourceError::LeavesProject { .. }) => "write the true path",
            Self::Mount { source: host::SourceError::LeavesProject { .. }, .. } => "write the true path",
            Self::Io { act: "make the directory", source, .. } if is_closed(source) => {
                "export XDG_DATA_HOME=DIR XDG_STATE_HOME=DIR, with directories that you can write"
            }
            Self::ReportPlace { path, source: report::DestinationError::NobodyReads { .. } } => {
                let path = path.display();
                return Some(format!("read from it first: cat '{path}' & or, for a file: rm '{path}'"));
            }
            Self::ReportPlace { source: report::DestinationError::OfAnother { .. }, .. } => {
                "name a file in a directory of your own: --report ./report.json"
            }
            Self::SecretUnset { .. } => "export the variable, or remove the secret from the profile",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of `run`, `shell` and `exec`: 126 and 127 as a shell has them, 125 for everything that is ours.
    pub fn run_code(&self) -> u8 {
        match self {
            Self::Step { kind: StepKind::Execute | StepKind::NoShell, source: rustix::io::Errno::NOENT, .. } => 127,
            Self::Step { kind: StepKind::Execute, .. } => 126,
            _ => 125,
        }
    }

    /// What failed, what caused it, and the hint, each on a line of its own.
    pub fn render(&self) -> String {
        if let Self::Profile(crate::profile::OpenError::Findings(findings)) = self {
            return super::diagnostic::render(findings, super::diagnostic::colour_on_stderr());
        }
        told(&self.chain(), self.hint().as_deref())
    }
}

/// A place that cannot be written to by this user.
fn is_closed(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

/// Who blocks user namespaces, and what an admin can do about it.
fn blocked(explanation: &host::Explanation) -> String {
    let mut text = explanation.sentence.clone();
    for line in &explanation.remedy {
        text.push_str("\n      ");
        text.push_str(line);
    }
    text
}

/// What failed and the hint. Words may hold text of others, and of several lines: none of these can pass for the hint, or for another
/// message, as all but the first begin further to the right.
pub fn told(words: &str, hint: Option<&str>) -> String {
    let mut text = String::new();
    for (first, part) in [("hamper: ", Some(words)), ("\nhint: ", hint)] {
        for (number, line) in part.map(escape_text).iter().flat_map(|part| part.lines()).enumerate() {
            text.push_str(match number {
                0 => first,
                _ if line.starts_with(' ') => "\n",
                _ => "\n  ",
            });
            text.push_str(line);
        }
    }
    text
}

/// Data on one line: control and deceptive characters could hide what is said or drive the terminal, and a newline could begin a line that
/// looks like hamper's own.
pub fn escape(text: &str) -> String {
    escape_but(text, &[])
}

/// As [`escape`], for text of several lines.
pub fn escape_text(text: &str) -> String {
    escape_but(text, &['\n', '\t'])
}

fn escape_but(text: &str, good: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unseen(character) && !good.contains(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_drives_a_terminal_or_forges_a_line() {
        let evil = "a\nhint: rm\x1b[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}b";
        assert_eq!(escape(evil), r"a\nhint: rm\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}b");
        assert_eq!(escape_text("a\n\tb\u{9b}"), "a\n\tb\\u{9b}");
        let shown = told(evil, Some("ls"));
        assert!(shown.lines().filter(|line| line.starts_with("hint: ")).eq(["hint: ls"]), "{shown}");
    }
}
