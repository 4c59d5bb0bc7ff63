//! Every failure of a command, with its words, its causes and a hint that can be pasted.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::plan::PlanError;
use crate::{host, launch, plan, rootfs, supervise};

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
    /// What the caller can do about it.
    pub fn hint(&self) -> Option<String> {
        use rustix::io::Errno;
        let hint = match self {
            Self::Told { hint, .. } => return hint.clone(),
            Self::Profile(crate::profile::OpenError::Find(error)) => return error.hint(),
            Self::Rootfs { source } => return source.hint().map(str::to_owned),
            Self::Host(host::HostError::NoHome) => "export HOME=/path/to/your/home",
            Self::Host(host::HostError::RaisedPrivileges) => "remove the bits: chmod ug-s hamper; setcap -r hamper",
            Self::Plan(PlanError::NoCommand) => "give one: hamper run PROFILE -- COMMAND",
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
            Self::Step { kind: StepKind::Root, .. } => "hamper doctor says whether overlay works on your store's file system",
            Self::Step { kind: StepKind::Mount, source: Errno::STALE, .. } => {
                "the source was replaced while the sandbox was starting; run it again"
            }
            Self::Step { kind: StepKind::Execute, source: Errno::NOENT, .. } => {
                "a missing interpreter or loader of the program looks the same as a missing program"
            }
            Self::Step { kind: StepKind::Execute, source: Errno::NOEXEC, .. } => {
                "the file has no #! line, or is built for another processor"
            }
            Self::Source(host::SourceError::LeavesProject { .. }) => "write the true path into the profile",
            Self::Mount { source: host::SourceError::LeavesProject { .. }, .. } => {
                "write the true path into the profile, or mount it by -v"
            }
            Self::SecretUnset { .. } => "export the variable, or remove the secret from the profile",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of `run`, `shell` and `exec`: 126 and 127 as a shell has them, 125 for everything that is ours.
    pub fn run_code(&self) -> u8 {
        match self {
            Self::Step { kind: StepKind::Execute, source: rustix::io::Errno::NOENT, .. } => 127,
            Self::Step { kind: StepKind::Execute, .. } => 126,
            _ => 125,
        }
    }

    /// What failed, what caused it, and the hint, each on a line of its own.
    pub fn render(&self) -> String {
        if let Self::Profile(crate::profile::OpenError::Findings(findings)) = self {
            return super::diagnostic::render(findings, super::diagnostic::colour_on_stderr());
        }
        let mut text = format!("hamper: {}", escape(&self.to_string()));
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {}", escape(&error.to_string())));
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("\nhint: {}", escape(&hint)));
        }
        text
    }
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

/// Control characters could hide the message or drive the terminal.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
