//! What the child and the payload do, one entry a step, with everything that it needs made ready.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::process::Resource;
use seccompiler::BpfProgram;

use super::tree::Missing;
use crate::plan::Guard;
use crate::sys::CStrArray;

/// An operation of the child, with the index of the step that it belongs to.
pub(super) type Indexed<T> = (u32, T);

/// A file or directory that is bound.
pub(super) struct BindSource {
    pub path: CString,
    pub device: u64,
    pub inode: u64,
    pub missing: Missing,
}

/// A lower directory that somebody else owns. The child opens it anew, in its own mount namespace, and it must be what the parent has open.
pub(super) struct PublishedLower {
    pub path: CString,
    pub device: u64,
    pub inode: u64,
    /// The parent's, whose number the child's takes; open until then, so that no other directory can get that inode.
    pub fd: OwnedFd,
}

/// What init does, one entry a step.
pub(super) enum Op {
    WriteMaps {
        uid: String,
        gid: String,
    },
    AwaitMaps,
    DieWithParent,
    EnterCgroupNamespace,
    BecomeSubreaper,
    EndWithParent,
    NotDumpable,
    SetGroups(Vec<rustix::process::Gid>),
    SetHostname(Vec<u8>),
    LoopbackUp,
    PrivatePropagation,
    OverlayRoot {
        layers: CString,
        published: Vec<PublishedLower>,
        marks: Vec<CString>,
        owner: Option<(u32, u32)>,
        options: CString,
        target: CString,
    },
    /// More layers than fit into one page of options.
    LongOverlayRoot {
        layers: CString,
        published: Vec<PublishedLower>,
        /// Of a volatile overlay; none where it is not one.
        marks: Vec<CString>,
        owner: Option<(u32, u32)>,
        lower: Vec<CString>,
        upper: CString,
        work: CString,
        target: CString,
    },
    TmpfsRoot {
        target: CString,
    },
    Link {
        path: CString,
        target: CString,
    },
    File {
        path: CString,
        mode: u32,
        content: Vec<u8>,
    },
    Directory {
        path: CString,
        mode: u32,
    },
    Dev {
        shm: CString,
        devices: Vec<(CString, CString)>,
    },
    Proc,
    Sysctls(Vec<(CString, Vec<u8>)>),
    MaskProc {
        directories: Vec<CString>,
        files: Vec<CString>,
        read_only: Vec<CString>,
    },
    Sys,
    Cgroup,
    Tmpfs {
        target: CString,
        options: CString,
        read_only: bool,
    },
    Bind {
        source: BindSource,
        target: CString,
        read_only: bool,
        project: bool,
    },
    Over {
        target: CString,
        options: CString,
        project: bool,
    },
    Guard {
        path: CString,
        guard: Guard,
        mask: CString,
    },
    Secret {
        name: CString,
        target: Option<CString>,
        content: Vec<u8>,
    },
    OpenPty,
    /// Of the host's devpts.
    OpenHostPty,
    PivotRoot,
    ReadOnlyRoot,
    ChangeDirectory(CString),
    /// On the host's tree.
    EnterDirectory(CString),
    DropCapabilities {
        keep: u64,
        ambient: bool,
    },
    /// Without a user namespace, in which they would be the process's own to drop.
    DropAllCapabilities,
    NoNewPrivileges,
    /// A ruleset that handles signals alone.
    ScopeSignals(OwnedFd),
    Affinity(Box<rustix::thread::CpuSet>),
    StartPayload {
        init: bool,
    },
}

/// What the payload does before execve.
pub(super) enum PayloadOp {
    Rlimits(Vec<(Resource, u64)>),
    Landlock { ruleset: OwnedFd, rules: Vec<LandlockRule>, terminal: u64 },
    CloseDescriptors,
    Seccomp { program: BpfProgram, asks: bool },
    Execute { candidates: Vec<CString>, argv: CStrArray, environment: CStrArray },
}

pub(super) struct LandlockRule {
    pub path: CString,
    pub access: u64,
    /// The rights that remain where the path is no directory.
    pub file_access: u64,
    pub optional: bool,
    /// Device and inode that it must have.
    pub identity: Option<(u64, u64)>,
}
