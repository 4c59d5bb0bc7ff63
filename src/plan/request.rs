//! Everything that a plan is made from.

use std::path::{Path, PathBuf};

use super::{Invocation, Lower, Node};
use crate::host::{Delegation, Disks, Guarded, Host, Source};
use crate::profile::{Profile, ProjectMode};

/// The image, as far as a start needs it.
#[derive(Clone, Debug)]
pub struct Image {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub workdir: String,
    pub volumes: Vec<String>,
    pub user: User,
    pub tree: Tree,
    /// Whether there is nothing in the user's home in the image, so that a bind serves instead of an overlay.
    pub home_is_empty: bool,
    /// Owner of the root directory inside, where that is not the payload's user.
    pub root_owner: Option<(u32, u32)>,
}

impl Image {
    pub fn is_host(&self) -> bool {
        matches!(self.tree, Tree::Host { .. })
    }
}

/// The user inside.
#[derive(Clone, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// What the root file system is made of.
#[derive(Clone, Debug)]
pub enum Tree {
    /// Lowest first; the last one is the skeleton with what hamper generates.
    Layers(Vec<Lower>),
    /// Parts of the host, and what is generated beside them.
    Host { binds: Vec<Source>, nodes: Vec<(String, Node)> },
}

/// The kept home: a directory to bind, or, with the name of a work directory that no other run has, one for an overlay over what the
/// image has there.
#[derive(Clone, Debug)]
pub struct Home {
    pub source: Source,
    pub work: Option<String>,
}

/// The project as the parent found it.
#[derive(Clone, Debug)]
pub struct Project {
    /// Resolved.
    pub path: PathBuf,
    /// Absent where there is none to mount.
    pub source: Option<Source>,
    pub target: String,
    pub mode: ProjectMode,
    pub guarded: Vec<Guarded>,
    /// Protected paths that a writable mount shows a second time, with its target.
    pub shown: Vec<(PathBuf, String)>,
    /// The repository, where the project is a git worktree.
    pub worktree: Option<Worktree>,
}

/// The repository of a worktree: mounted at its own path, with hooks, config, the other worktrees, and what says where the repository is,
/// read-only.
#[derive(Clone, Debug)]
pub struct Worktree {
    pub common: Source,
    /// `worktrees/NAME`
    pub own: PathBuf,
    pub guarded: Vec<Guarded>,
}

/// The compiled filter, as far as the plan tells about it.
#[derive(Clone, Debug)]
pub struct SeccompFacts {
    pub name: String,
    pub allowed: usize,
    pub instructions: usize,
}

/// One of `[[mounts]]` or `-v`, its source opened where it has one.
#[derive(Clone, Debug)]
pub struct OpenedMount {
    pub target: String,
    pub read_only: bool,
    /// Absent for a tmpfs.
    pub source: Option<Source>,
    pub size: Option<u64>,
}

/// Everything that a plan is made from.
pub struct Request<'a> {
    pub profile: &'a Profile,
    pub host: &'a Host,
    pub image: &'a Image,
    /// Of the image that was found.
    pub digest: &'a str,
    pub project: &'a Project,
    pub invocation: &'a Invocation,
    /// The environment of the payload.
    pub environment: &'a [(String, String)],
    pub mounts: &'a [OpenedMount],
    /// The kept home directory, opened.
    pub home: Option<&'a Home>,
    /// Where a kept root lives.
    pub keep: Option<&'a Path>,
    /// Name, target and length of each secret.
    pub secrets: &'a [(String, String, usize)],
    pub seccomp: Option<&'a SeccompFacts>,
    /// `/etc/resolv.conf` of the host, for its network.
    pub resolv_conf: Option<&'a Source>,
    /// Where a cgroup can be had; looked for where limits are asked for, or the payload is to stand apart.
    pub delegation: Option<&'a Delegation>,
    /// Whether the payload could end what stands in the caller's cgroup, if it stood there.
    pub apart: bool,
    /// What the sandbox's files are on; looked for where bytes a second are limited.
    pub disks: Option<&'a Disks>,
    /// The run's own temporary directory, where there is no mount to make one.
    pub temporary: Option<&'a Path>,
}
