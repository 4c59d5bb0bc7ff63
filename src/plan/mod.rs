//! Profile, image, rootfs and host in, a [`Plan`] out: the ordered steps of a start.
//!
//! Pure: no file system, no clock, no environment, no system call. What the machine is like comes in as values. One mechanism a file;
//! [`build`] is where the order is decided, and [`laws`] states that order as predicates that every plan is checked
//! against.

mod build;
mod landlock;
mod landlock_rung;
pub mod laws;
mod limits;
mod locked;
mod namespaces;
mod payload;
mod procfs;
mod project;
mod request;
pub mod seccomp;
mod step;
mod tree;

use std::path::PathBuf;

use serde::Serialize;

pub use build::{build, kept_directory, missing, needs_own_cgroup};
pub use landlock::{MINIMUM_ABI, file_rights, handled_access, scoped, tcp};
pub use landlock_rung::{RUNG_MINIMUM_ABI, refuse_wishes, writable};
pub use limits::{BETWEEN_DISKS, Setting, has_stand_in, in_list};
pub use payload::{Invocation, inside_home, payload_environment};
pub use procfs::MASKED_DIRECTORIES;
pub use request::{Home, Image, OpenedMount, Project, Request, SeccompFacts, Tree, User, Worktree};
pub use step::{Guard, IdMap, LandlockRule, Lower, MapWriter, Namespace, Node, Over, Root, Step, Upper};

/// The ordered steps of a start, and what the supervisor must know about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What is asked for and cannot be had on this machine, one sentence each.
    pub degraded: Vec<Degraded>,
    /// Sentences that are said and change nothing.
    pub notes: Vec<String>,
}

/// A protection that was asked for and is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Degraded {
    /// The word that `require` takes, where it takes one.
    pub what: &'static str,
    pub asked: String,
    pub got: String,
}

/// A key that asks for what is not there so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its table; empty at the top.
    pub section: &'static str,
    pub name: &'static str,
    pub why: &'static str,
    /// File and line, where they are known.
    pub place: Option<String>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.section.is_empty() { "" } else { "." };
        write!(f, "{}{dot}{}", self.section, self.name)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " ({place})"))?;
        write!(f, " is not available yet: {}", self.why)
    }
}

/// Why there can be no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    NotYet(Vec<Missing>),
    #[error("{what} is required, but {got}")]
    Required { what: &'static str, got: String },
    #[error("{}", .0.iter().map(|one| format!("{} is asked for, and cannot be had: {}", one.asked, one.got)).collect::<Vec<_>>().join("\n"))]
    Limits(Vec<Degraded>),
    #[error("{key} needs namespaces, and isolation = \"landlock\" has none: {why}")]
    NeedsNamespaces { key: &'static str, why: &'static str, remedy: &'static str },
    #[error("{key}: {why}")]
    Impossible { key: &'static str, why: String },
    #[error("the image has no default command, and none was given")]
    NoCommand,
    #[error("the plan breaks an order law: {0}")]
    Law(&'static str),
}

/// The directories of the store and of the state that steps refer to, as the parent has opened them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// `layers` of the store.
    pub layers: PathBuf,
    /// Where scratch directories are recycled.
    pub scratch: PathBuf,
}
