//! The vocabulary of a start: every step that can appear in a plan, with the data it needs and the sentence that describes it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::Setting;
use crate::host::{Place, Source, path_as_text};
use crate::profile::{Capability, Rlimit};

/// One line of uid_map(5): `size` ids from `container_id` on are `host_id` and up on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdMap {
    pub container_id: u32,
    pub host_id: u32,
    pub size: u32,
}

/// Who writes the id maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapWriter {
    /// The child itself: one id, which the kernel allows everybody.
    Init,
    /// newuidmap(1) and newgidmap(1), started by the parent.
    Newidmap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    User,
    Mount,
    Pid,
    Ipc,
    Uts,
    Net,
    Cgroup,
}

impl Namespace {
    /// `CLONE_NEW*`, clone(2).
    pub fn flag(self) -> u64 {
        match self {
            Self::User => 0x1000_0000,
            Self::Mount => 0x0002_0000,
            Self::Pid => 0x2000_0000,
            Self::Ipc => 0x0800_0000,
            Self::Uts => 0x0400_0000,
            Self::Net => 0x4000_0000,
            Self::Cgroup => 0x0200_0000,
        }
    }
}

/// What the root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Root {
    /// An overlay of layer trees, lowest first, under a writable upper directory.
    Overlay {
        lower: Vec<Lower>,
        upper: Upper,
        /// The root directory is given to this user and group inside, where the caller is not its owner.
        owner: Option<(u32, u32)>,
    },
    /// An empty tmpfs, on which the host's directories are bound.
    Tmpfs,
}

/// A lower directory of the root overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lower {
    /// By name in the store's `layers` directory.
    Layer(String),
    /// A directory of the host, `rootfs:DIR`.
    Directory(#[serde(serialize_with = "path_as_text")] PathBuf),
}

/// Where writes to the root go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upper {
    /// A recycled directory whose content is thrown away.
    Scratch,
    /// A directory that is kept, with `u` and `w` in it.
    Keep(#[serde(serialize_with = "path_as_text")] PathBuf),
}

/// Where the files of an overlay over one directory of the tree are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Below the scratch directory of this run, by this name.
    Scratch(String),
    /// A directory on the host, with `u` and the work directory in it. Runs at the same time share `u`; a work directory has one run.
    Keep {
        #[serde(serialize_with = "path_as_text")]
        path: PathBuf,
        work: String,
    },
}

/// A Landlock rule: rights below one path of the final tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LandlockRule {
    pub path: String,
    /// `LANDLOCK_ACCESS_FS_*`.
    pub access: u64,
    /// Whether the rule may be left out where the path does not exist.
    pub optional: bool,
    /// Device and inode of what the parent has opened there, where it has.
    #[serde(skip)]
    pub identity: Option<(u64, u64)>,
}

/// A name in the tree that is read-only or hidden, relative to the project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// A directory on the way: a mount point of its own, so that it cannot be moved away.
    Pin,
    /// Bound over itself, read-only.
    Protect,
    /// Bound over itself, writable: an entry of a directory that had to become read-only.
    Release,
    /// Covered by an empty file or directory of mode 0000.
    Hide { directory: bool },
}

/// A link or a file of the tmpfs root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Node {
    Link { target: String },
    File { mode: u32, content: String },
    Directory { mode: u32 },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    // The parent, before clone.
    JoinSessionKeyring,
    OpenSource {
        source: Source,
    },
    WatchReplaced {
        #[serde(serialize_with = "paths_as_text")]
        paths: Vec<PathBuf>,
    },
    TakeScratch,
    MakePipes,
    CompileSeccomp {
        filter: String,
        allowed: usize,
        instructions: usize,
    },
    // `no_tcp`: the domain refuses TCP as well, where the ABI can.
    CreateLandlock {
        abi: u32,
        no_tcp: bool,
    },
    // Without a pid namespace, in the parent and in init: processes whose parents have ended become theirs to end.
    BecomeSubreaper,
    // `nested`: the sandbox is born in one more below it.
    MakeCgroup {
        place: Place,
        settings: Vec<Setting>,
        nested: bool,
    },
    Clone {
        namespaces: Vec<Namespace>,
    },
    // The parent, beside the child.
    KillAsOne,
    // The child, which becomes init.
    WriteIdMaps {
        uid: Vec<IdMap>,
        gid: Vec<IdMap>,
        deny_setgroups: bool,
        by: MapWriter,
    },
    DieWithParent,
    // The sandbox's own cgroup is its root.
    EnterCgroupNamespace,
    // Without a pid namespace: init outlives its parent until it has ended everything.
    EndWithParent,
    NotDumpable,
    SetGroups {
        groups: Vec<u32>,
    },
    SetHostname {
        hostname: String,
    },
    LoopbackUp,
    PrivatePropagation,
    MountRoot {
        root: Root,
    },
    MakeNode {
        path: String,
        node: Node,
    },
    MountDev {
        shm: u64,
        devices: Vec<String>,
        mqueue: bool,
    },
    MountProc,
    WriteSysctls {
        sysctls: Vec<(String, String)>,
    },
    MaskProc {
        masked: Vec<String>,
        read_only: Vec<String>,
    },
    MountSys,
    MountCgroup,
    MountTmpfs {
        target: String,
        size: Option<u64>,
        mode: u32,
        read_only: bool,
    },
    Bind {
        source: Source,
        target: String,
        read_only: bool,
    },
    MountOver {
        target: String,
        over: Over,
    },
    Guard {
        project: String,
        /// Relative to it, with the bytes that it has: another name could be another file.
        #[serde(serialize_with = "path_as_text")]
        path: PathBuf,
        guard: Guard,
    },
    WriteSecret {
        name: String,
        target: String,
        length: usize,
    },
    OpenPty,
    PivotRoot,
    ReadOnlyRoot,
    ChangeDirectory {
        path: String,
    },
    DropCapabilities {
        keep: Vec<Capability>,
        ambient: bool,
    },
    NoNewPrivileges,
    // Without a pid namespace: init's signals reach what it has started, and nothing else.
    ScopeSignals,
    // Where no cgroup limits processors.
    SetAffinity {
        processors: Vec<u32>,
    },
    StartPayload {
        init: bool,
    },
    // The payload, before execve.
    SetRlimits {
        rlimits: Vec<(Rlimit, u64)>,
    },
    // `terminal`: the rights on the payload's own terminal, which has no path before it is opened.
    EnterLandlock {
        abi: u32,
        rules: Vec<LandlockRule>,
        terminal: u64,
    },
    CloseDescriptors,
    // `asks`: the parent changes modes and times, in what the payload may write.
    InstallSeccomp {
        instructions: usize,
        asks: bool,
    },
    Execute {
        argv: Vec<String>,
        environment: Vec<String>,
    },
}

fn paths_as_text<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinSessionKeyring => write!(f, "join a new session keyring"),
            Self::OpenSource { source } => write!(f, "open {}", source.path.display()),
            Self::WatchReplaced { paths } => write!(f, "watch {} protected paths for replacement on the host", paths.len()),
            Self::TakeScratch => write!(f, "take a scratch directory"),
            Self::MakePipes => write!(f, "make pipes in place of the terminal"),
            Self::CompileSeccomp { filter, allowed, instructions } => {
                write!(f, "make the seccomp filter {filter} ({allowed} calls, {instructions} instructions)")
            }
            Self::CreateLandlock { abi, no_tcp } => {
                write!(f, "create the Landlock ruleset (ABI {abi}{})", if *no_tcp { ", no TCP" } else { "" })
            }
            Self::BecomeSubreaper => write!(f, "take in processes that lose their parent"),
            Self::MakeCgroup { place, settings, nested } => {
                let below = if *nested { " one below" } else { "" };
                write!(
                    f,
                    "make a cgroup {place}, for the clone to be born in{below}, and a process that removes it if this one is killed"
                )?;
                settings.iter().try_for_each(|Setting { file, value, .. }| write!(f, ", {file} = {value}"))
            }
            Self::EnterCgroupNamespace => write!(f, "make a cgroup namespace with the sandbox's cgroup for its root"),
            Self::SetAffinity { processors } => {
                write!(f, "start on processor")?;
                processors.iter().try_for_each(|processor| write!(f, " {processor}"))
            }
            Self::KillAsOne => write!(f, "have the kernel end the whole sandbox where its memory is not enough, memory.oom.group = 1"),
            Self::Clone { namespaces } if namespaces.is_empty() => write!(f, "clone, with no namespace of its own"),
            Self::Clone { namespaces } => {
                write!(f, "clone into new namespaces:")?;
                namespaces.iter().try_for_each(|namespace| write!(f, " {}", format!("{namespace:?}").to_lowercase()))
            }
            Self::WriteIdMaps { uid, gid, deny_setgroups, by } => {
                let who = if *by == MapWriter::Init { "by itself" } else { "by newuidmap and newgidmap" };
                let maps = |f: &mut fmt::Formatter<'_>, maps: &[IdMap]| {
                    maps.iter().try_for_each(|map| write!(f, " {}:{}:{}", map.container_id, map.host_id, map.size))
                };
                write!(f, "write the id maps {who}: uid")?;
                maps(f, uid)?;
                write!(f, ", gid")?;
                maps(f, gid)?;
                if *deny_setgroups { write!(f, ", setgroups denied first") } else { Ok(()) }
            }
            Self::DieWithParent => write!(f, "die with the parent"),
            Self::EndWithParent => write!(f, "end everything when the parent ends"),
            Self::NotDumpable => write!(f, "become not dumpable"),
            Self::SetGroups { groups } => write!(f, "set the supplementary groups to {groups:?}"),
            Self::SetHostname { hostname } => write!(f, "set the host name to {hostname}, and no domain name"),
            Self::LoopbackUp => write!(f, "bring the loopback interface up"),
            Self::PrivatePropagation => write!(f, "make all mounts private"),
            Self::MountRoot { root: Root::Tmpfs } => write!(f, "mount a tmpfs as root"),
            Self::MountRoot { root: Root::Overlay { lower, upper, .. } } => {
                let upper = match upper {
                    Upper::Scratch => "the scratch directory".to_owned(),
                    Upper::Keep(path) => path.display().to_string(),
                };
                write!(f, "mount the root: overlay of {} directories under {upper}", lower.len())
            }
            Self::MakeNode { path, node: Node::Link { target } } => write!(f, "link {path} to {target}"),
            Self::MakeNode { path, node: Node::File { .. } } => write!(f, "make the file {path}"),
            Self::MakeNode { path, node: Node::Directory { .. } } => write!(f, "make the directory {path}"),
            Self::MountDev { devices, .. } if devices.is_empty() => write!(f, "mount /dev"),
            Self::MountDev { devices, .. } => write!(f, "mount /dev with {}", devices.join(", ")),
            Self::MountProc => write!(f, "mount /proc"),
            Self::WriteSysctls { sysctls } => {
                write!(f, "set")?;
                sysctls.iter().try_for_each(|(name, value)| write!(f, " {name}={value:?}"))
            }
            Self::MaskProc { masked, read_only } => {
                write!(f, "mask {} paths of /proc and make {} read-only", masked.len(), read_only.len())
            }
            Self::MountSys => write!(f, "mount /sys read-only"),
            Self::MountCgroup => write!(f, "mount /sys/fs/cgroup read-only"),
            Self::MountTmpfs { target, size, read_only, .. } => {
                write!(f, "mount a tmpfs on {target}")?;
                size.map_or(Ok(()), |size| write!(f, " of {size} bytes"))?;
                if *read_only { write!(f, ", read-only") } else { Ok(()) }
            }
            Self::Bind { source, target, read_only } => {
                write!(f, "bind {} on {target} {}", source.path.display(), if *read_only { "read-only" } else { "writable" })
            }
            Self::MountOver { target, over: Over::Scratch(_) } => write!(f, "mount an overlay on {target}, thrown away"),
            Self::MountOver { target, over: Over::Keep { path, .. } } => {
                write!(f, "mount an overlay on {target}, kept in {}", path.display())
            }
            Self::Guard { project, path, guard } => {
                let path = path.display();
                match guard {
                    Guard::Pin => write!(f, "pin {project}/{path}"),
                    Guard::Protect => write!(f, "protect {project}/{path}"),
                    Guard::Release => write!(f, "keep {project}/{path} writable"),
                    Guard::Hide { .. } => write!(f, "hide {project}/{path}"),
                }
            }
            Self::WriteSecret { name, target, .. } => write!(f, "put the secret {name} at {target}"),
            Self::OpenPty => write!(f, "open a pseudo-terminal"),
            Self::PivotRoot => write!(f, "pivot to the new root and detach the old one"),
            Self::ReadOnlyRoot => write!(f, "make the root read-only"),
            Self::ChangeDirectory { path } => write!(f, "change to {path}"),
            Self::DropCapabilities { keep, .. } if keep.is_empty() => write!(f, "drop all capabilities"),
            Self::DropCapabilities { keep, .. } => {
                write!(f, "drop all capabilities but")?;
                keep.iter().try_for_each(|capability| write!(f, " {}", capability.name()))
            }
            Self::NoNewPrivileges => write!(f, "set no_new_privs"),
            Self::ScopeSignals => write!(f, "keep init's own signals inside"),
            Self::StartPayload { init: true } => write!(f, "start the payload under init"),
            Self::StartPayload { init: false } => write!(f, "become the payload"),
            Self::SetRlimits { rlimits } => {
                write!(f, "set rlimits")?;
                rlimits.iter().try_for_each(|(resource, value)| write!(f, " {}={value}", format!("{resource:?}").to_lowercase()))
            }
            Self::EnterLandlock { rules, .. } => write!(f, "enter the Landlock domain with {} rules", rules.len()),
            Self::CloseDescriptors => write!(f, "close all descriptors above 2"),
            Self::InstallSeccomp { asks: true, .. } => {
                write!(f, "install the seccomp filter, which asks the parent to change modes and times")
            }
            Self::InstallSeccomp { asks: false, .. } => write!(f, "install the seccomp filter"),
            Self::Execute { argv, .. } => write!(f, "execute {}", argv.join(" ")),
        }
    }
}
