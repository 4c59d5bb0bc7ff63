//! The validated profile: the types that the other rooms work with.
//!
//! Every value has been checked and every variable expanded. A key that was not written has the value that its preset or the
//! documented default gives it; `Option` is used only where "absent" means something of its own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::seen::Seen;

/// What a program needs, as its author declared it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The profile's name: `name`, else the name of the directory that holds the file, else the shipped profile's own.
    pub name: String,
    /// Section and name of every key that some file or `--set` writes, as opposed to a default or a preset's value.
    #[serde(skip)]
    pub written: Vec<(&'static str, &'static str)>,
    /// Every file that was read to make this profile, in order: profile, includes, local, (later) lock. Always protected.
    pub files: Vec<PathBuf>,
    /// What those files were when they were read.
    #[serde(skip)]
    pub seen: Vec<Seen>,
    /// The digest that the lock file has for the image and the platform; set by who has read one.
    #[serde(skip)]
    pub locked: Option<String>,
    /// Where the image comes from.
    pub image: ImageSource,
    /// The platform to take from an index.
    pub platform: Platform,
    /// When a registry may be asked.
    pub pull: Pull,
    /// Replaces the image's ENTRYPOINT, and drops its CMD. `Some(vec![])` drops the entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's CMD.
    pub command: Option<Vec<String>>,
    /// Host name inside.
    pub hostname: String,
    /// Working directory inside: absolute, or starting with `~`. Absent: the image's, or the caller's, by the rule of the README.
    pub workdir: Option<String>,
    /// Names (`LANG`) and prefixes (`LC_*`) that are taken from the caller's environment.
    pub env_pass: Vec<String>,
    /// Files of `NAME=value` lines, absolute, in order.
    pub env_file: Vec<PathBuf>,
    /// The `[env]` table, expanded, in the order of the file.
    pub env: Vec<(String, String)>,
    /// Which rung may be used.
    pub isolation: Isolation,
    /// Protections that stop the run where they cannot be had.
    pub require: Vec<Requirement>,
    /// `[identity]`
    pub identity: Identity,
    /// `[root]`
    pub root: Root,
    /// `[project]`
    pub project: Project,
    /// `[[mounts]]`, in order, targets distinct.
    pub mounts: Vec<Mount>,
    /// `[limits]`
    pub limits: Limits,
    /// `[network]`
    pub network: Network,
    /// `[security]`
    pub security: Security,
    /// `[secrets.*]`
    pub secrets: Vec<Secret>,
    /// `[lifecycle]`
    pub lifecycle: Lifecycle,
    /// `[expose] commands`
    pub expose: Vec<String>,
}

impl Profile {
    /// Whether a key is written, whatever its value: what somebody asked for must not degrade in silence, a default may.
    pub fn is_written(&self, section: &str, name: &str) -> bool {
        self.written.contains(&(section, name))
    }
}

/// `image`: where the root file system and its config come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "type", content = "value")]
pub enum ImageSource {
    /// A reference into a registry, unparsed beyond its characters: `docker.io/library/node:14`.
    Registry(String),
    /// `oci:DIR[:TAG|@DIGEST]`, an OCI image layout.
    OciDir { path: PathBuf, select: Select },
    /// `oci-archive:FILE[:TAG|@DIGEST]`, a tar of an OCI image layout.
    OciArchive { path: PathBuf, select: Select },
    /// `docker-archive:FILE[:TAG]`, as `docker save` writes it.
    DockerArchive { path: PathBuf, select: Select },
    /// `tar:FILE`, one layer without a config.
    Tar { path: PathBuf },
    /// `rootfs:DIR`, a directory tree used as it is.
    Rootfs { path: PathBuf },
    /// `host`: the host's own `/usr` and the parts of `/etc` that programs need.
    Host,
}

impl ImageSource {
    /// Where it lies on this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::OciDir { path, .. }
            | Self::OciArchive { path, .. }
            | Self::DockerArchive { path, .. }
            | Self::Tar { path }
            | Self::Rootfs { path } => Some(path),
            Self::Registry(_) | Self::Host => None,
        }
    }
}

/// Which image of a layout or archive that holds several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "by", content = "value")]
pub enum Select {
    /// The only one there is.
    #[default]
    Only,
    /// `org.opencontainers.image.ref.name`, or a RepoTag.
    Tag(String),
    /// Digest of a manifest or index, `sha256:…`.
    Digest(String),
}

/// `os/architecture[/variant]` in the words of the image spec (those of Go): `linux/amd64`, `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this binary was built for.
    pub fn native() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether it is made of letters, digits, `.`, `_` and `-` alone, as all platforms are that Go and the image spec know. Others could
    /// drive a terminal, or be taken for two.
    pub fn is_plain(&self) -> bool {
        let parts = [Some(&self.os), Some(&self.architecture), self.variant.as_ref()];
        parts.into_iter().flatten().all(|part| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    Missing,
    Always,
    Never,
    Locked,
}

impl Pull {
    /// The same once the registry has been asked.
    pub fn unasked(self) -> Self {
        if self == Self::Always { Self::Missing } else { self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    Auto,
    Namespaces,
    Landlock,
}

/// What may degrade, and stops the run when it is required and cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Requirement {
    Subuid,
    Cgroup,
    Landlock,
    Protect,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// `user[:group]` by name or number; absent: the image's USER.
    pub user: Option<UserSpec>,
    pub map: MapMode,
    pub home: HomeMode,
}

/// `user[:group]`. A part that is all digits is a number and is never looked up as a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserSpec {
    pub user: IdOrName,
    pub group: Option<IdOrName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IdOrName {
    /// 0 to 4294967294; the last number, -1, means "no change" to the kernel and is refused.
    Id(u32),
    Name(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MapMode {
    Auto,
    Single,
    Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HomeMode {
    Private,
    Tmp,
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Root {
    pub mode: RootMode,
    /// Size of a tmpfs on `/tmp`, in bytes.
    pub tmp: Option<u64>,
    /// Size of `/dev/shm`, in bytes.
    pub shm: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RootMode {
    Scratch,
    Ro,
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Project {
    /// Absolute; absent: found by the rule of the README.
    pub path: Option<PathBuf>,
    /// Absolute path inside; absent: the same as outside.
    pub target: Option<String>,
    /// From the preset where not written.
    pub mode: ProjectMode,
    /// Relative to the project, no `..`, distinct. The defaults are in it.
    pub protect: Vec<PathBuf>,
    /// Relative to the project, no `..`, distinct.
    pub hide: Vec<PathBuf>,
    /// What follows when the host replaces a protected or hidden file during the run.
    pub on_replace: OnReplace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectMode {
    Rw,
    Ro,
    Scratch,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReplace {
    Stop,
    Warn,
}

/// One of `[[mounts]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Absolute path inside, or starting with `~`.
    pub target: String,
    /// `true` for `mode = "ro"`; the default of a bind.
    pub read_only: bool,
    /// `profile.toml:12` or `-v`, for messages.
    pub origin: String,
}

impl Mount {
    /// Given on the command line, not in a file.
    pub fn by_hand(&self) -> bool {
        self.origin.starts_with('-')
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum MountKind {
    /// `source` is absolute on the host.
    Bind { source: PathBuf, missing: Missing },
    /// `size` in bytes; absent: the kernel's half of memory.
    Tmpfs { size: Option<u64> },
    /// By name, kept per user.
    Volume { name: String },
    /// By name, kept per project, or per user where shared.
    Cache { name: String, shared: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    Error,
    Skip,
    Create,
}

/// Limits by the kernel's files; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// `memory.max`, bytes.
    pub memory: Option<u64>,
    /// `memory.high`, bytes.
    pub memory_high: Option<u64>,
    /// `memory.swap.max`, bytes.
    pub swap: Option<u64>,
    /// `cpu.max` as a number of processors.
    pub cpus: Option<f64>,
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u32>,
    /// `pids.max`.
    pub pids: Option<u32>,
    /// `io.weight`, 1 to 10000.
    pub io_weight: Option<u32>,
    /// `rbps` and `wbps` of `io.max`, bytes a second, on each disk below the sandbox.
    pub io_read: Option<u64>,
    pub io_write: Option<u64>,
    /// `cpuset.cpus` in the kernel's list form.
    pub cpuset: Option<String>,
    /// Wall clock; the payload ends with 124.
    pub time: Option<Duration>,
    /// `true`: a limit that cannot be enforced stops the run.
    pub missing_is_error: bool,
    /// `RLIMIT_*` by lower-case name without the prefix; soft and hard are the same number.
    pub ulimits: Vec<(Rlimit, u64)>,
}

impl Limits {
    /// Whether any limit needs a cgroup.
    pub fn needs_cgroup(&self) -> bool {
        self.memory.is_some()
            || self.memory_high.is_some()
            || self.swap.is_some()
            || self.cpus.is_some()
            || self.cpu_weight.is_some()
            || self.pids.is_some()
            || self.io_weight.is_some()
            || self.cpuset.is_some()
            || self.needs_disks()
    }

    /// Whether any limit is one of disks.
    pub fn needs_disks(&self) -> bool {
        self.io_read.is_some() || self.io_write.is_some()
    }
}

/// setrlimit(2) resources that a profile may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rlimit {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    pub mode: NetworkMode,
    /// Rules in the form that they were written in; validated.
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub ports: Vec<String>,
    pub host_services: Vec<u16>,
    pub dns: Vec<std::net::IpAddr>,
    pub hosts: Vec<(String, std::net::IpAddr)>,
    pub host_ca: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    None,
    Filtered,
    Nat,
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Security {
    pub preset: Preset,
    /// Capability numbers, sorted, distinct; `@root` already expanded.
    pub caps: Vec<Capability>,
    pub seccomp: SeccompSource,
    /// System call names and `@groups`.
    pub seccomp_allow: Vec<String>,
    pub landlock: LandlockMode,
    pub nested_userns: bool,
    /// From the preset: the sandbox runs its one command, and `exec` and `shell` into it are refused.
    pub single_command: bool,
    /// Absolute paths below `/dev`, or `@gpu`.
    pub devices: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    Dev,
    Build,
    Untrusted,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "filter", content = "path")]
pub enum SeccompSource {
    Default,
    Strict,
    None,
    /// An OCI seccomp JSON, absolute.
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LandlockMode {
    Auto,
    Required,
    Off,
}

/// A capability by number, 0 to 40; printed by its name without `CAP_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "&'static str")]
pub struct Capability(u8);

impl Capability {
    /// Names in the order of their numbers, capabilities(7).
    pub const NAMES: [&'static str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];

    /// What `@root` stands for: enough for programs that start as root and change user.
    pub const ROOT: [Self; 7] = [Self(0), Self(1), Self(3), Self(4), Self(5), Self(6), Self(7)];

    /// By name, with or without `CAP_`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::NAMES.iter().position(|known| *known == bare).and_then(|number| u8::try_from(number).ok()).map(Self)
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }
}

impl From<Capability> for &'static str {
    fn from(capability: Capability) -> Self {
        capability.name()
    }
}

/// A secret arrives as a file of mode 0400 and never in the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secret {
    pub name: String,
    pub from: SecretSource,
    /// Absolute path inside; default `/run/secrets/NAME`.
    pub target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from", content = "value")]
pub enum SecretSource {
    /// The name of a variable of the caller.
    Env(String),
    /// A file on the host, absolute.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lifecycle {
    /// `true`: our reaper is pid 1.
    pub init: bool,
    /// Signal number; absent: the image's STOPSIGNAL, else SIGTERM.
    pub stop_signal: Option<i32>,
    pub stop_timeout: Duration,
    pub tty: TtyMode,
    /// From the preset: the file mode creation mask that the payload starts with; absent: the caller's.
    pub umask: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TtyMode {
    Auto,
    Always,
    Never,
}

/// What a profile's text may refer to: `${NAME}` and a leading `~`.
///
/// The caller decides what exists; the profile room never reads the environment itself.
pub struct Vars<'a> {
    /// The caller's home directory.
    pub home: &'a std::path::Path,
    /// Looks a variable of the caller's environment up.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The project's directory, known only after `[project] path` has been read.
    pub project: Option<&'a std::path::Path>,
}
