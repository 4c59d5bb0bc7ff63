//! Plan to [`Lowered`]: C strings, opened descriptors, compiled filter, Landlock ruleset. Everything that allocates or that may fail
//! politely happens here, before clone.

use std::ffi::{CString, NulError};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ::landlock::{AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope};
use rustix::io::Errno;
use rustix::process::Resource;
use seccompiler::BpfProgram;

use super::op::{BindSource, Indexed, LandlockRule, Op, PayloadOp};
use super::overlay::{over_options, root_op};
use super::scratch::Scratch;
use super::tree::Missing;
use crate::plan::{self, Guard, MapWriter, Node, Plan, Step};
use crate::profile::Rlimit;
use crate::sys::{CStrArray, Extent, format_map};

/// What the steps of a plan refer to, as the parent has made or opened it.
pub struct Resources {
    /// The store's `layers` directory.
    pub layers: PathBuf,
    /// Those of the layers that are links to what somebody else owns: the name, where it is, and that itself.
    pub published: Vec<(String, PathBuf, OwnedFd)>,
    /// The directory taken for this run, where the plan asks for one.
    pub scratch: Option<Scratch>,
    /// An empty file and an empty directory of mode 0000, for what is hidden.
    pub masks: (PathBuf, PathBuf),
    /// The compiled filter.
    pub seccomp: Option<BpfProgram>,
    /// Contents of secrets by name.
    pub secrets: Vec<(String, Vec<u8>)>,
    /// Descriptors 0, 1, 2: whether each becomes the payload's terminal.
    pub terminal: [bool; 3],
    /// Ends of pipes that become descriptors 0, 1, 2 in place of the caller's terminal.
    pub pipes: [Option<OwnedFd>; 3],
    /// The file mode creation mask of the payload.
    pub umask: u32,
    /// Stop at this step with this errno, in builds for tests only.
    pub fault: Option<(u32, i32)>,
}

#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    #[error("{what} holds a zero byte")]
    Nul { what: String, source: NulError },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: Errno },
    #[error("cannot make the Landlock ruleset")]
    Landlock { source: ::landlock::RulesetError },
    #[error("the plan takes {0}, which was not made ready")]
    Missing(&'static str),
    #[error("the mount options of the root need {length} bytes; the kernel takes 4095")]
    TooManyLayers { length: usize },
}

/// A plan made ready: the child only walks it.
pub struct Lowered {
    pub(super) init: Vec<Indexed<Op>>,
    pub(super) payload: Vec<Indexed<PayloadOp>>,
    pub(super) namespaces: u64,
    pub(super) clone_step: u32,
    /// Where the cgroup's processes are to end together.
    pub(super) kill_step: Option<u32>,
    pub(super) maps: Option<(u32, Vec<Extent>, Vec<Extent>)>,
    pub(super) terminal: [bool; 3],
    pub(super) pipes: [Option<OwnedFd>; 3],
    pub(super) umask: u32,
    pub(super) fault: Option<(u32, i32)>,
    pub(super) has_init: bool,
    /// Whether init's signals reach the sandbox and nothing else.
    pub(super) scoped: bool,
    pub(super) scratch: Option<Scratch>,
}

/// Makes a plan ready.
///
/// # Errors
/// [`LowerError`]: nothing has been started.
pub fn lower(plan: &Plan, mut resources: Resources) -> Result<Lowered, LowerError> {
    let mut lowering = Lowering {
        lowered: Lowered {
            init: Vec::with_capacity(plan.steps.len()),
            payload: Vec::with_capacity(6),
            namespaces: 0,
            clone_step: 0,
            kill_step: None,
            maps: None,
            terminal: resources.terminal,
            pipes: std::mem::take(&mut resources.pipes),
            umask: resources.umask,
            fault: resources.fault,
            has_init: plan.steps.iter().any(|step| matches!(step, Step::StartPayload { init: true })),
            scoped: false,
            scratch: None,
        },
        ruleset: None,
        cloned: false,
        guarded: plan
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Guard { project, .. } => Some(project.clone()),
                _ => None,
            })
            .collect(),
    };
    for (index, step) in plan.steps.iter().enumerate() {
        lowering.step(u32::try_from(index).unwrap_or(u32::MAX), step, &mut resources)?;
    }
    lowering.lowered.scratch = resources.scratch;
    Ok(lowering.lowered)
}

struct Lowering {
    lowered: Lowered,
    ruleset: Option<OwnedFd>,
    /// Targets in which something is guarded.
    guarded: Vec<String>,
    /// Whether the steps are the child's by now.
    cloned: bool,
}

impl Lowering {
    fn step(&mut self, index: u32, step: &Step, resources: &mut Resources) -> Result<(), LowerError> {
        match step {
            Step::JoinSessionKeyring
            | Step::OpenSource { .. }
            | Step::WatchReplaced { .. }
            | Step::TakeScratch
            | Step::MakePipes
            | Step::MakeCgroup { .. }
            | Step::CompileSeccomp { .. } => {}
            Step::CreateLandlock { abi, no_tcp } => self.ruleset = Some(ruleset(*abi, *no_tcp)?),
            // Before the clone it is the parent's, which has nothing to make ready for it.
            Step::BecomeSubreaper if !self.cloned => {}
            Step::ScopeSignals => {
                self.lowered.scoped = true;
                self.lowered.init.push((index, Op::ScopeSignals(signals_alone()?)));
            }
            Step::Clone { namespaces } => {
                self.cloned = true;
                self.lowered.clone_step = index;
                self.lowered.namespaces = namespaces.iter().fold(0, |flags, namespace| flags | namespace.flag());
            }
            Step::KillAsOne => self.lowered.kill_step = Some(index),
            Step::SetRlimits { .. }
            | Step::EnterLandlock { .. }
            | Step::CloseDescriptors
            | Step::InstallSeccomp { .. }
            | Step::Execute { .. } => {
                let op = self.payload_op(step, resources)?;
                self.lowered.payload.push((index, op));
            }
            Step::WriteIdMaps { uid, gid, by, .. } => {
                let (uid, gid) = (extents(uid), extents(gid));
                let op = match by {
                    MapWriter::Init => Op::WriteMaps { uid: format_map(&uid), gid: format_map(&gid) },
                    MapWriter::Newidmap => {
                        self.lowered.maps = Some((index, uid, gid));
                        Op::AwaitMaps
                    }
                };
                self.lowered.init.push((index, op));
            }
            Step::Guard { path, guard, .. } => {
                let mask = match guard {
                    Guard::Hide { directory: true } => &resources.masks.1,
                    _ => &resources.masks.0,
                };
                let op = Op::Guard { path: c_path(path)?, guard: guard.clone(), mask: c_path(mask)? };
                self.lowered.init.push((index, op));
            }
            Step::Bind { source, target, read_only } => {
                let missing = if source.directory { Missing::Directory } else { Missing::File };
                let path = c_path(&source.path)?;
                let source = BindSource { path, device: source.device, inode: source.inode, missing };
                let project = self.guarded.contains(target);
                self.lowered.init.push((index, Op::Bind { source, target: inside(target)?, read_only: *read_only, project }));
            }
            Step::MountOver { target, over } => {
                let project = self.guarded.contains(target);
                let options = over_options(over, resources.scratch.as_mut())?;
                self.lowered.init.push((index, Op::Over { target: inside(target)?, options, project }));
            }
            Step::MountRoot { root } => {
                let op = root_op(root, resources)?;
                self.lowered.init.push((index, op));
            }
            Step::WriteSecret { name, target, .. } => {
                let op = secret_op(name, target, resources)?;
                self.lowered.init.push((index, op));
            }
            other => {
                let op = if self.lowered.has_namespaces() { plain_op(other)? } else { host_op(other)? };
                self.lowered.init.push((index, op));
            }
        }
        Ok(())
    }

    fn payload_op(&mut self, step: &Step, resources: &mut Resources) -> Result<PayloadOp, LowerError> {
        Ok(match step {
            Step::SetRlimits { rlimits } => {
                PayloadOp::Rlimits(rlimits.iter().map(|(resource, value)| (rlimit(*resource), *value)).collect())
            }
            Step::EnterLandlock { rules, terminal, .. } => {
                let ruleset = self.ruleset.take().ok_or(LowerError::Missing("a Landlock ruleset"))?;
                let rules = rules.iter().map(landlock_rule).collect::<Result<_, _>>()?;
                PayloadOp::Landlock { ruleset, rules, terminal: *terminal }
            }
            Step::InstallSeccomp { asks, .. } => {
                let program = resources.seccomp.take().ok_or(LowerError::Missing("a seccomp filter"))?;
                PayloadOp::Seccomp { program, asks: *asks }
            }
            Step::Execute { argv, environment } => execute(argv, environment)?,
            _ => PayloadOp::CloseDescriptors,
        })
    }
}

impl Lowered {
    /// Whether the sandbox is one of namespaces; else what the payload leaves is found by descent, and ended one by one.
    pub(super) fn has_namespaces(&self) -> bool {
        self.namespaces != 0
    }
}

/// Steps that are another act on the host's own tree than in a namespace.
fn host_op(step: &Step) -> Result<Op, LowerError> {
    Ok(match step {
        Step::OpenPty => Op::OpenHostPty,
        Step::ChangeDirectory { path } => Op::EnterDirectory(c_string(path, "the working directory")?),
        Step::DropCapabilities { .. } => Op::DropAllCapabilities,
        other => plain_op(other)?,
    })
}

/// Steps that need nothing but their own data.
fn plain_op(step: &Step) -> Result<Op, LowerError> {
    Ok(match step {
        Step::DieWithParent => Op::DieWithParent,
        Step::BecomeSubreaper => Op::BecomeSubreaper,
        Step::EndWithParent => Op::EndWithParent,
        Step::NotDumpable => Op::NotDumpable,
        Step::SetGroups { groups } => Op::SetGroups(groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect()),
        Step::SetHostname { hostname } => Op::SetHostname(hostname.clone().into_bytes()),
        Step::LoopbackUp => Op::LoopbackUp,
        Step::PrivatePropagation => Op::PrivatePropagation,
        Step::MakeNode { path, node } => match node {
            Node::Link { target } => Op::Link { path: inside(path)?, target: c_string(target, "a link")? },
            Node::File { mode, content } => Op::File { path: inside(path)?, mode: *mode, content: content.clone().into_bytes() },
            Node::Directory { mode } => Op::Directory { path: inside(path)?, mode: *mode },
        },
        Step::MountDev { shm, devices, .. } => Op::Dev {
            shm: c_string(&format!("mode=1777,size={shm}"), "the size of /dev/shm")?,
            devices: devices.iter().map(|path| device(path)).collect::<Result<_, _>>()?,
        },
        Step::MountProc => Op::Proc,
        Step::WriteSysctls { sysctls } => Op::Sysctls(
            sysctls
                .iter()
                .map(|(name, value)| Ok((c_string(&format!("sys/{name}"), "a sysctl")?, value.clone().into_bytes())))
                .collect::<Result<_, LowerError>>()?,
        ),
        Step::MaskProc { masked, read_only } => {
            let names = |list: &[String]| list.iter().map(|name| c_string(name, "a name in /proc")).collect::<Result<Vec<_>, _>>();
            let (directories, files): (Vec<_>, Vec<_>) =
                masked.iter().cloned().partition(|name| plan::MASKED_DIRECTORIES.contains(&name.as_str()));
            Op::MaskProc { directories: names(&directories)?, files: names(&files)?, read_only: names(read_only)? }
        }
        Step::MountSys => Op::Sys,
        Step::MountCgroup => Op::Cgroup,
        Step::EnterCgroupNamespace => Op::EnterCgroupNamespace,
        Step::SetAffinity { processors } => {
            let mut set = Box::new(rustix::thread::CpuSet::new());
            processors.iter().for_each(|processor| set.set(*processor as usize));
            Op::Affinity(set)
        }
        Step::MountTmpfs { target, size, mode, read_only } => {
            let size = size.map_or(String::new(), |size| format!(",size={size}"));
            let options = c_string(&format!("mode={mode:o}{size}"), "a tmpfs")?;
            Op::Tmpfs { target: inside(target)?, options, read_only: *read_only }
        }
        Step::OpenPty => Op::OpenPty,
        Step::PivotRoot => Op::PivotRoot,
        Step::ReadOnlyRoot => Op::ReadOnlyRoot,
        Step::ChangeDirectory { path } => Op::ChangeDirectory(inside(path)?),
        Step::DropCapabilities { keep, ambient } => {
            Op::DropCapabilities { keep: keep.iter().fold(0, |set, capability| set | 1 << capability.number()), ambient: *ambient }
        }
        Step::NoNewPrivileges => Op::NoNewPrivileges,
        Step::StartPayload { init } => Op::StartPayload { init: *init },
        _ => return Err(LowerError::Missing("an operation")),
    })
}

fn extents(maps: &[plan::IdMap]) -> Vec<Extent> {
    maps.iter().map(|map| Extent { inside: map.container_id, outside: map.host_id, count: map.size }).collect()
}

fn ruleset(abi: u32, no_tcp: bool) -> Result<OwnedFd, LowerError> {
    let make = || -> Result<_, ::landlock::RulesetError> {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let mut ruleset = ruleset.handle_access(plan::handled_access(abi))?;
        if no_tcp {
            ruleset = ruleset.handle_access(plan::tcp(abi))?;
        }
        let scoped = plan::scoped(abi);
        if scoped.is_empty() { ruleset.create() } else { ruleset.scope(scoped)?.create() }
    };
    let created = make().map_err(|source| LowerError::Landlock { source })?;
    Option::<OwnedFd>::from(created).ok_or(LowerError::Missing("a Landlock ruleset"))
}

/// Takes away nothing but signals to what is outside of it. Every domain refuses links and renames between directories that it does not
/// allow in so many words, even one that looks at no files (landlock(7), `LANDLOCK_ACCESS_FS_REFER`).
fn signals_alone() -> Result<OwnedFd, LowerError> {
    let root = PathFd::new("/").map_err(|_| LowerError::Missing("the root directory"))?;
    let make = || {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let created = ruleset.handle_access(AccessFs::Refer)?.scope(Scope::Signal)?.create()?;
        created.add_rule(PathBeneath::new(root, AccessFs::Refer))
    };
    let created = make().map_err(|source| LowerError::Landlock { source })?;
    Option::<OwnedFd>::from(created).ok_or(LowerError::Missing("a Landlock ruleset"))
}

fn landlock_rule(rule: &plan::LandlockRule) -> Result<LandlockRule, LowerError> {
    Ok(LandlockRule {
        path: c_string(&rule.path, "a Landlock rule")?,
        access: rule.access,
        file_access: rule.access & plan::file_rights().bits(),
        optional: rule.optional,
        identity: rule.identity,
    })
}

fn secret_op(name: &str, target: &str, resources: &mut Resources) -> Result<Op, LowerError> {
    let position = resources.secrets.iter().position(|(known, _)| known == name).ok_or(LowerError::Missing("a secret"))?;
    let (_, content) = resources.secrets.swap_remove(position);
    let own_place = target.strip_prefix("/run/secrets/").is_some_and(|rest| rest == name);
    let target = if own_place { None } else { Some(inside(target)?) };
    Ok(Op::Secret { name: c_string(name, "a secret")?, target, content })
}

/// A device by its path on the host and its name below `/dev`.
fn device(path: &str) -> Result<(CString, CString), LowerError> {
    let name = path.strip_prefix("/dev/").unwrap_or(path);
    Ok((c_string(path, "a device")?, c_string(name, "a device")?))
}

/// The candidates of execvp(3): the name itself where it has a slash, else one in each directory of the payload's PATH.
fn execute(argv: &[String], environment: &[String]) -> Result<PayloadOp, LowerError> {
    let program = argv.first().ok_or(LowerError::Missing("a command"))?;
    let candidates = if program.contains('/') {
        vec![c_string(program, "the command")?]
    } else {
        let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
        path.split(':')
            .map(|directory| if directory.is_empty() { "." } else { directory })
            .map(|directory| c_string(&format!("{}/{program}", directory.trim_end_matches('/')), "the command"))
            .collect::<Result<_, _>>()?
    };
    let array = |list: &[String], what: &str| -> Result<CStrArray, LowerError> {
        Ok(CStrArray::new(list.iter().map(|entry| c_string(entry, what)).collect::<Result<_, _>>()?))
    };
    Ok(PayloadOp::Execute { candidates, argv: array(argv, "the command")?, environment: array(environment, "the environment")? })
}

fn rlimit(resource: Rlimit) -> Resource {
    match resource {
        Rlimit::As => Resource::As,
        Rlimit::Core => Resource::Core,
        Rlimit::Cpu => Resource::Cpu,
        Rlimit::Data => Resource::Data,
        Rlimit::Fsize => Resource::Fsize,
        Rlimit::Locks => Resource::Locks,
        Rlimit::Memlock => Resource::Memlock,
        Rlimit::Msgqueue => Resource::Msgqueue,
        Rlimit::Nice => Resource::Nice,
        Rlimit::Nofile => Resource::Nofile,
        Rlimit::Nproc => Resource::Nproc,
        Rlimit::Rss => Resource::Rss,
        Rlimit::Rtprio => Resource::Rtprio,
        Rlimit::Rttime => Resource::Rttime,
        Rlimit::Sigpending => Resource::Sigpending,
        Rlimit::Stack => Resource::Stack,
    }
}

/// A path inside, relative to the root.
fn inside(path: &str) -> Result<CString, LowerError> {
    let relative = path.trim_start_matches('/');
    c_string(if relative.is_empty() { "." } else { relative }, path)
}

pub(super) fn c_string(text: &str, what: &str) -> Result<CString, LowerError> {
    CString::new(text).map_err(|source| LowerError::Nul { what: what.to_owned(), source })
}

pub(super) fn c_path(path: &Path) -> Result<CString, LowerError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|source| LowerError::Nul { what: path.display().to_string(), source })
}
