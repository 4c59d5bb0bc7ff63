//! The one place where the order of a start is decided.

use std::path::{Path, PathBuf};

use super::landlock::{MINIMUM_ABI, SCOPES, Writable, rules};
use super::landlock_rung;
use super::limits::{self, Chosen};
use super::locked::unlocked;
use super::namespaces::{maps, namespaces};
use super::payload::{Invocation, argv, inside_home, workdir};
use super::{Degraded, Guard, Lower, Missing, Namespace, Node, Over, Plan, PlanError, Root, Setting, Step, Upper, laws, procfs, project};
use crate::host::{Delegation, Disks, Guarded, Host, Place, Presence, Source, SubRange};
use crate::profile::{
    HomeMode, Isolation, LandlockMode, MapMode, MountKind, NetworkMode, Preset, Profile, ProjectMode, Requirement, Rlimit, RootMode,
    SeccompSource,
};

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
    /// Where a cgroup can be had; looked for where limits are asked for.
    pub delegation: Option<&'a Delegation>,
    /// What the sandbox's files are on; looked for where bytes a second are limited.
    pub disks: Option<&'a Disks>,
    /// The run's own temporary directory, where there is no mount to make one.
    pub temporary: Option<&'a Path>,
}

/// Decides every step of a start, in order.
///
/// # Errors
/// [`PlanError::NotYet`] for all keys whose mechanism is missing, [`PlanError::Required`] where something that may degrade is required,
/// [`PlanError::Impossible`] where the profile asks for what cannot be had together.
pub fn build(request: &Request<'_>) -> Result<Plan, PlanError> {
    if request.profile.isolation == Isolation::Landlock {
        return landlock_rung::build(request);
    }
    refuse_what_is_missing(request.profile)?;
    let mut plan = Plan { steps: Vec::with_capacity(48), degraded: Vec::new(), notes: Vec::new() };
    let ranges = choose_map(request, &mut plan)?;
    let landlock = choose_landlock(request, &mut plan)?;
    let limits = limits::choose(request, &mut plan)?;
    parent_steps(request, landlock, limits.cgroup.as_ref(), &mut plan);
    identity_steps(request, ranges, limits.cgroup.is_some(), &mut plan);
    let writable = tree_steps(request, ranges.is_some(), &mut plan)?;
    entering_steps(request, &limits, &mut plan);
    payload_steps(request, landlock, &writable, &limits, &mut plan)?;
    plan.degraded.extend(unlocked(request.profile, request.digest));
    laws::check(&plan.steps)?;
    Ok(plan)
}

pub(super) fn refuse_what_is_missing(profile: &Profile) -> Result<(), PlanError> {
    match missing(profile) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(PlanError::NotYet(missing)),
    }
}

/// Every key that asks for what is not there so far.
pub fn missing(profile: &Profile) -> Vec<Missing> {
    let network = &profile.network;
    let filtered = matches!(network.mode, NetworkMode::Filtered | NetworkMode::Nat);
    let rows = [
        (filtered, "network", "mode", "only \"none\" and \"host\" are there so far"),
        (!network.ports.is_empty(), "network", "ports", "they need the filtered network"),
        (!network.host_services.is_empty(), "network", "host_services", "they need the filtered network"),
        (network.host_ca, "network", "host_ca", "it comes with the filtered network"),
        (!profile.expose.is_empty(), "expose", "commands", "shims on the host's PATH are not there so far"),
    ];
    rows.into_iter().filter(|row| row.0).map(|(_, section, name, why)| Missing { section, name, why, place: None }).collect()
}

fn choose_map(request: &Request<'_>, plan: &mut Plan) -> Result<Option<(SubRange, SubRange)>, PlanError> {
    let identity = &request.profile.identity;
    let required = identity.map == MapMode::Range || request.profile.require.contains(&Requirement::Subuid);
    match (identity.map, request.host.ranges) {
        (MapMode::Single, _) if !required && !request.profile.security.caps.is_empty() => {
            Err(PlanError::Impossible { key: "identity.map", why: "\"single\" has no ids for security.caps; \"range\" has".into() })
        }
        (MapMode::Single, _) if !required => Ok(None),
        (_, Some(ranges)) => Ok(Some(ranges)),
        _ if required => Err(PlanError::Required {
            what: "identity.map = \"range\"",
            got: "this user has no range in /etc/subuid and /etc/subgid, or newuidmap is not installed".into(),
        }),
        _ => {
            let caps = &request.profile.security.caps;
            if !caps.is_empty() {
                return Err(PlanError::Impossible {
                    key: "security.caps",
                    why: "they need the range map, and this user has no range in /etc/subuid and /etc/subgid".into(),
                });
            }
            plan.degraded.push(Degraded { what: "subuid", asked: "a range of ids".into(), got: "your own id alone".into() });
            Ok(None)
        }
    }
}

fn choose_landlock(request: &Request<'_>, plan: &mut Plan) -> Result<Option<u32>, PlanError> {
    let security = &request.profile.security;
    let required = security.landlock == LandlockMode::Required || request.profile.require.contains(&Requirement::Landlock);
    if security.landlock == LandlockMode::Off || security.nested_userns {
        return if required {
            Err(PlanError::Impossible { key: "security.landlock", why: "required and switched off at once".into() })
        } else {
            Ok(None)
        };
    }
    // A network of its own keeps them away without Landlock.
    let reaches_sockets = request.profile.network.mode == NetworkMode::Host;
    let domain = "a Landlock domain";
    let (abi, asked, got) = match request.host.landlock {
        Ok(abi @ MINIMUM_ABI..SCOPES) if reaches_sockets => (
            Some(abi),
            "no abstract sockets of the host",
            format!("this kernel has Landlock ABI {abi}, which does not scope abstract sockets"),
        ),
        Ok(abi) if abi >= MINIMUM_ABI => return Ok(Some(abi)),
        Ok(abi) => (None, domain, format!("this kernel has Landlock ABI {abi}, which forbids renames between directories")),
        Err(errno) => (None, domain, format!("this kernel has no Landlock ({errno})")),
    };
    if required {
        return Err(PlanError::Required { what: "landlock", got });
    }
    plan.degraded.push(Degraded { what: "landlock", asked: asked.into(), got });
    Ok(abi)
}

/// The sources that a start opens, in the order in which it does.
pub(super) fn sources<'a>(request: &Request<'a>) -> impl Iterator<Item = &'a Source> {
    let mounts = request.mounts.iter().filter_map(|mount| mount.source.as_ref());
    let host = match &request.image.tree {
        Tree::Host { binds, .. } => binds.as_slice(),
        Tree::Layers(_) => &[],
    };
    let repository = request.project.worktree.as_ref().map(|worktree| &worktree.common);
    request
        .project
        .source
        .iter()
        .chain(repository)
        .chain(request.home.map(|home| &home.source))
        .chain(request.resolv_conf)
        .chain(host)
        .chain(mounts)
}

fn parent_steps(request: &Request<'_>, landlock: Option<u32>, cgroup: Option<&(Place, Vec<Setting>)>, plan: &mut Plan) {
    let steps = &mut plan.steps;
    steps.push(Step::JoinSessionKeyring);
    steps.extend(sources(request).map(|source| Step::OpenSource { source: source.clone() }));
    let watched: Vec<PathBuf> = request.project.guarded.iter().map(|guarded| guarded.path.clone()).collect();
    if !watched.is_empty() {
        steps.push(Step::WatchReplaced { paths: watched });
    }
    if needs_scratch(request) {
        steps.push(Step::TakeScratch);
    }
    if request.invocation.pipes.contains(&true) {
        steps.push(Step::MakePipes);
    }
    if let Some(seccomp) = request.seccomp {
        steps.push(Step::CompileSeccomp { filter: seccomp.name.clone(), allowed: seccomp.allowed, instructions: seccomp.instructions });
    }
    if let Some(abi) = landlock {
        steps.push(Step::CreateLandlock { abi, no_tcp: false });
    }
    let mut namespaces = namespaces(request.profile.network.mode);
    if let Some((place, settings)) = cgroup {
        steps.push(Step::MakeCgroup { place: place.clone(), settings: settings.clone() });
        // One that is made by clone has the parent's cgroup for its root, not the one that the child is born in.
        namespaces.retain(|namespace| *namespace != Namespace::Cgroup);
    }
    steps.push(Step::Clone { namespaces });
}

fn needs_scratch(request: &Request<'_>) -> bool {
    let layered = matches!(request.image.tree, Tree::Layers(_)) && request.profile.root.mode != RootMode::Keep;
    layered || request.project.mode == ProjectMode::Scratch && request.project.source.is_some()
}

fn identity_steps(request: &Request<'_>, ranges: Option<(SubRange, SubRange)>, cgroup: bool, plan: &mut Plan) {
    let user = &request.image.user;
    let maps = maps(request.host, user.uid, user.gid, ranges);
    let steps = &mut plan.steps;
    steps.push(Step::WriteIdMaps { uid: maps.uid, gid: maps.gid, deny_setgroups: ranges.is_none(), by: maps.writer });
    steps.push(Step::DieWithParent);
    if cgroup {
        steps.push(Step::EnterCgroupNamespace);
    }
    if ranges.is_some() {
        steps.push(Step::SetGroups { groups: user.groups.clone() });
    }
    steps.push(Step::SetHostname { hostname: request.profile.hostname.clone() });
    if request.profile.network.mode != NetworkMode::Host {
        steps.push(Step::LoopbackUp);
    }
    steps.push(Step::PrivatePropagation);
}

/// Default sizes of the tmpfs mounts that a read-only root needs, in bytes.
const READ_ONLY_TMP: u64 = 256 << 20;
const READ_ONLY_RUN: u64 = 64 << 20;

/// Everything that is mounted; returns the targets that the payload may write.
fn tree_steps(request: &Request<'_>, range: bool, plan: &mut Plan) -> Result<Vec<String>, PlanError> {
    let profile = request.profile;
    root_steps(request, range, &mut plan.steps)?;
    plan.steps.push(Step::MountDev { shm: profile.root.shm, devices: more_devices(profile), mqueue: true });
    plan.steps.push(Step::MountProc);
    let own_network = profile.network.mode != NetworkMode::Host;
    if own_network {
        plan.steps.push(Step::WriteSysctls { sysctls: procfs::network_sysctls(request.image.user.gid) });
    }
    plan.steps.push(Step::MaskProc {
        masked: procfs::MASKED.map(str::to_owned).to_vec(),
        read_only: procfs::READ_ONLY.map(str::to_owned).to_vec(),
    });
    if own_network {
        plan.steps.push(Step::MountSys);
        plan.steps.push(Step::MountCgroup);
    }
    let mut mounts = Mounts::default();
    temporary_mounts(request, &mut mounts);
    if let Some(source) = request.resolv_conf {
        mounts.push("/etc/resolv.conf", false, Step::Bind { source: source.clone(), target: "/etc/resolv.conf".into(), read_only: true });
    }
    home_mount(request, &mut mounts);
    project_mounts(request, &mut mounts, plan)?;
    profile_mounts(request, &mut mounts);
    secrets_mount(request, &mut mounts);
    let writable = mounts.finish(&mut plan.steps);
    let home = &request.image.user.home;
    plan.steps.extend(request.secrets.iter().map(|(name, target, length)| Step::WriteSecret {
        name: name.clone(),
        target: inside_home(target, home),
        length: *length,
    }));
    Ok(writable)
}

/// Mounts by target, put into an order in which no mount covers one that came before it.
#[derive(Default)]
struct Mounts {
    list: Vec<(usize, Step, Vec<Step>)>,
    writable: Vec<String>,
}

impl Mounts {
    fn push(&mut self, target: &str, writable: bool, step: Step) {
        self.push_with(target, writable, step, Vec::new());
    }

    fn push_with(&mut self, target: &str, writable: bool, step: Step, after: Vec<Step>) {
        let depth = Path::new(target).components().count();
        self.list.push((depth, step, after));
        if writable {
            self.writable.push(target.to_owned());
        }
    }

    fn finish(mut self, steps: &mut Vec<Step>) -> Vec<String> {
        self.list.sort_by_key(|(depth, ..)| *depth);
        for (_, step, after) in self.list {
            steps.push(step);
            steps.extend(after);
        }
        self.writable
    }
}

/// What every sandbox has in `/dev`.
const DEVICES: [&str; 6] = ["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];

/// What the profile names beyond that, each once.
fn more_devices(profile: &Profile) -> Vec<String> {
    let mut devices: Vec<String> = Vec::new();
    for device in &profile.security.devices {
        if !DEVICES.contains(&device.as_str()) && !devices.contains(device) {
            devices.push(device.clone());
        }
    }
    devices
}

fn root_steps(request: &Request<'_>, range: bool, steps: &mut Vec<Step>) -> Result<(), PlanError> {
    match &request.image.tree {
        Tree::Layers(lower) => {
            let upper = match (request.profile.root.mode, request.keep) {
                (RootMode::Keep, Some(path)) => Upper::Keep(path.to_owned()),
                _ => Upper::Scratch,
            };
            let owner = request.image.root_owner.filter(|_| range && matches!(upper, Upper::Scratch));
            steps.push(Step::MountRoot { root: Root::Overlay { lower: lower.clone(), upper, owner } });
        }
        Tree::Host { .. } if request.profile.root.mode == RootMode::Keep => {
            return Err(PlanError::Impossible {
                key: "root.mode",
                why: "\"keep\" needs an image of its own; the image \"host\" has only what the host has".into(),
            });
        }
        Tree::Host { binds, nodes } => {
            steps.push(Step::MountRoot { root: Root::Tmpfs });
            steps.extend(nodes.iter().map(|(path, node)| Step::MakeNode { path: path.clone(), node: node.clone() }));
            steps.extend(binds.iter().map(|source| Step::Bind {
                source: source.clone(),
                target: source.path.to_string_lossy().into_owned(),
                read_only: true,
            }));
        }
    }
    Ok(())
}

fn temporary_mounts(request: &Request<'_>, mounts: &mut Mounts) {
    let root = &request.profile.root;
    let tmpfs = |target: &str, size, mode| Step::MountTmpfs { target: target.into(), size, mode, read_only: false };
    let read_only = root.mode == RootMode::Ro;
    if root.tmp.is_some() || read_only || request.image.is_host() {
        let size = root.tmp.or(read_only.then_some(READ_ONLY_TMP));
        mounts.push("/tmp", true, tmpfs("/tmp", size, 0o1777));
    }
    if read_only {
        mounts.push("/run", true, tmpfs("/run", Some(READ_ONLY_RUN), 0o755));
        for volume in &request.image.volumes {
            mounts.push(volume, true, Step::MountOver { target: volume.clone(), over: Over::Scratch(scratch_name(volume)) });
        }
    }
}

fn home_mount(request: &Request<'_>, mounts: &mut Mounts) {
    let home = &request.image.user.home;
    if home == "/" {
        return;
    }
    match (request.profile.identity.home, request.home) {
        (HomeMode::Private, Some(Home { source, work: None })) => {
            mounts.push(home, true, Step::Bind { source: source.clone(), target: home.clone(), read_only: false });
        }
        (HomeMode::Private, Some(Home { source, work: Some(work) })) => {
            let over = Over::Keep { path: source.path.clone(), work: work.clone() };
            mounts.push(home, true, Step::MountOver { target: home.clone(), over });
        }
        (HomeMode::Tmp, _) => {
            mounts.push(home, true, Step::MountTmpfs { target: home.clone(), size: None, mode: 0o700, read_only: false });
        }
        _ => {}
    }
}

fn project_mounts(request: &Request<'_>, mounts: &mut Mounts, plan: &mut Plan) -> Result<(), PlanError> {
    let project = request.project;
    let Some(source) = project.source.as_ref().filter(|_| project.mode != ProjectMode::None) else {
        return Ok(());
    };
    let (mut guards, missing) = project::guards(&project.target, &project.guarded);
    let mut unprotected: Vec<(PathBuf, String)> =
        project.shown.iter().map(|(path, target)| (path.clone(), format!("is writable through the mount on {target}"))).collect();
    if project.mode != ProjectMode::Rw {
        // What cannot be written needs no protection; what is hidden stays hidden.
        guards.retain(|step| matches!(step, Step::Guard { guard: Guard::Hide { .. } | Guard::Pin, .. }));
    } else {
        let is_link = |path: &PathBuf| project.guarded.iter().any(|one| one.path == *path && one.presence == Presence::Link);
        let why = |path: &PathBuf| if is_link(path) { "is a link, whose replacement ends the run" } else { "does not exist" };
        unprotected.extend(missing.into_iter().map(|path| {
            let why = why(&path).to_owned();
            (path, why)
        }));
    }
    for (path, why) in unprotected {
        if request.profile.require.contains(&Requirement::Protect) {
            return Err(PlanError::Required { what: "protect", got: format!("{} {why}", path.display()) });
        }
        plan.notes.push(format!("not protected: {} {why}", path.display()));
        plan.degraded.push(Degraded { what: "protect", asked: path.display().to_string(), got: format!("not protected: it {why}") });
    }
    if let Some(worktree) = &project.worktree {
        worktree_mount(worktree, project.mode, mounts, plan);
    }
    let target = project.target.clone();
    let step = match project.mode {
        ProjectMode::Scratch => Step::MountOver { target: target.clone(), over: Over::Scratch("project".into()) },
        mode => Step::Bind { source: source.clone(), target: target.clone(), read_only: mode == ProjectMode::Ro },
    };
    let mut steps = vec![];
    if project.mode == ProjectMode::Scratch {
        steps.push(step);
        let bind = Step::Bind { source: source.clone(), target: target.clone(), read_only: true };
        steps.extend(guards);
        mounts.push_with(&target, true, bind, steps);
    } else {
        mounts.push_with(&target, project.mode == ProjectMode::Rw, step, guards);
    }
    Ok(())
}

fn worktree_mount(worktree: &Worktree, mode: ProjectMode, mounts: &mut Mounts, plan: &mut Plan) {
    let target = worktree.common.path.to_string_lossy().into_owned();
    let writable = mode == ProjectMode::Rw;
    let mut guards = Vec::new();
    if writable {
        guards = project::guards(&target, &worktree.guarded).0;
        // On the way to what is guarded in it, and so pinned already.
        for step in &mut guards {
            if let Step::Guard { path, guard: guard @ Guard::Pin, .. } = step
                && *path == worktree.own
            {
                *guard = Guard::Release;
            }
        }
    }
    plan.notes.push(format!("a git worktree: its repository {target} is mounted as well"));
    let bind = Step::Bind { source: worktree.common.clone(), target: target.clone(), read_only: !writable };
    mounts.push_with(&target, writable, bind, guards);
}

fn profile_mounts(request: &Request<'_>, mounts: &mut Mounts) {
    let home = &request.image.user.home;
    for mount in request.mounts {
        let target = inside_home(&mount.target, home);
        let step = match &mount.source {
            Some(source) => Step::Bind { source: source.clone(), target: target.clone(), read_only: mount.read_only },
            None => Step::MountTmpfs { target: target.clone(), size: mount.size, mode: 0o1777, read_only: mount.read_only },
        };
        mounts.push(&target, !mount.read_only, step);
    }
}

/// Where secrets lie: in memory, and for the payload's user alone.
const SECRETS: &str = "/run/secrets";
const PAGE: u64 = 4096;

fn secrets_mount(request: &Request<'_>, mounts: &mut Mounts) {
    if request.secrets.is_empty() {
        return;
    }
    let size = request.secrets.iter().map(|(_, _, length)| (*length as u64).next_multiple_of(PAGE)).sum::<u64>() + PAGE;
    mounts.push(SECRETS, false, Step::MountTmpfs { target: SECRETS.into(), size: Some(size), mode: 0o700, read_only: false });
}

fn scratch_name(path: &str) -> String {
    format!("volume{}", path.replace('/', "-"))
}

fn entering_steps(request: &Request<'_>, limits: &Chosen, plan: &mut Plan) {
    if request.invocation.has_terminal() {
        plan.steps.push(Step::OpenPty);
    }
    plan.steps.push(Step::PivotRoot);
    if request.profile.root.mode == RootMode::Ro {
        plan.steps.push(Step::ReadOnlyRoot);
    }
    let path = workdir(request.profile, request.image, request.invocation, request.project);
    plan.steps.push(Step::ChangeDirectory { path });
    let keep = request.profile.security.caps.clone();
    let ambient = !keep.is_empty() && request.image.user.uid != 0;
    plan.steps.push(Step::DropCapabilities { keep, ambient });
    plan.steps.push(Step::NoNewPrivileges);
    if !limits.affinity.is_empty() {
        plan.steps.push(Step::SetAffinity { processors: limits.affinity.clone() });
    }
    plan.steps.push(Step::StartPayload { init: request.profile.lifecycle.init });
}

fn payload_steps(
    request: &Request<'_>,
    landlock: Option<u32>,
    writable: &[String],
    limits: &Chosen,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    if let Some(abi) = landlock {
        let writable = Writable { root: request.profile.root.mode != RootMode::Ro, targets: writable };
        plan.steps.push(Step::EnterLandlock { abi, rules: rules(abi, &writable), terminal: 0 });
    }
    last_steps(request, &limits.rlimits, plan)
}

/// From the closing of descriptors to execve; `more` are rlimits beside those of the profile.
pub(super) fn last_steps(request: &Request<'_>, more: &[(Rlimit, u64)], plan: &mut Plan) -> Result<(), PlanError> {
    let profile = request.profile;
    plan.steps.push(Step::CloseDescriptors);
    let rlimits: Vec<_> = profile.limits.ulimits.iter().chain(more).copied().collect();
    if !rlimits.is_empty() {
        plan.steps.push(Step::SetRlimits { rlimits });
    }
    match request.seccomp {
        Some(seccomp) => {
            plan.steps.push(Step::InstallSeccomp { instructions: seccomp.instructions, asks: profile.isolation == Isolation::Landlock })
        }
        None if profile.security.seccomp == SeccompSource::None && profile.security.preset != Preset::Untrusted => {}
        None => return Err(PlanError::Impossible { key: "security.seccomp", why: "the filter is missing".into() }),
    }
    let argv = argv(profile, request.image, request.invocation)?;
    let environment = request.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    plan.steps.push(Step::Execute { argv, environment });
    Ok(())
}

/// The kinds of mounts that need a directory of the store or the state.
pub fn kept_directory(kind: &MountKind) -> Option<PathBuf> {
    match kind {
        MountKind::Volume { name } => Some(Path::new("volumes").join(name)),
        MountKind::Cache { name, shared: true } => Some(Path::new("caches").join(name)),
        MountKind::Cache { .. } | MountKind::Bind { .. } | MountKind::Tmpfs { .. } => None,
    }
}

#[cfg(test)]
pub mod tests_support {
    use super::*;
    use crate::plan::MapWriter;

    /// One of each step, with little in it.
    pub fn every_step() -> Vec<Step> {
        let source = Source { path: "/x".into(), directory: true, device: 0, inode: 0 };
        vec![
            Step::JoinSessionKeyring,
            Step::OpenSource { source: source.clone() },
            Step::TakeScratch,
            Step::BecomeSubreaper,
            Step::MakeCgroup { place: Place::Own { directory: "/x".into() }, settings: vec![] },
            Step::Clone { namespaces: vec![] },
            Step::WriteIdMaps { uid: vec![], gid: vec![], deny_setgroups: true, by: MapWriter::Init },
            Step::DieWithParent,
            Step::EnterCgroupNamespace,
            Step::EndWithParent,
            Step::NotDumpable,
            Step::ScopeSignals,
            Step::SetGroups { groups: vec![] },
            Step::SetHostname { hostname: "x".into() },
            Step::LoopbackUp,
            Step::PrivatePropagation,
            Step::MountRoot { root: Root::Tmpfs },
            Step::MountDev { shm: 0, devices: vec![], mqueue: true },
            Step::MountProc,
            Step::WriteSysctls { sysctls: vec![] },
            Step::MaskProc { masked: vec![], read_only: vec![] },
            Step::MountSys,
            Step::Bind { source, target: "/x".into(), read_only: true },
            Step::PivotRoot,
            Step::ReadOnlyRoot,
            Step::ChangeDirectory { path: "/".into() },
            Step::DropCapabilities { keep: vec![], ambient: false },
            Step::NoNewPrivileges,
            Step::SetAffinity { processors: vec![0] },
            Step::StartPayload { init: true },
            Step::EnterLandlock { abi: 7, rules: vec![], terminal: 0 },
            Step::CloseDescriptors,
            Step::SetRlimits { rlimits: vec![] },
            Step::InstallSeccomp { instructions: 0, asks: false },
            Step::Execute { argv: vec![], environment: vec![] },
        ]
    }
}
