//! Where the order of a start is decided; that of what is mounted in it is in `tree.rs`.

use std::path::{Path, PathBuf};

use super::landlock::{MINIMUM_ABI, SCOPES, Writable, rules};
use super::landlock_rung;
use super::limits::{self, Chosen};
use super::locked::unlocked;
use super::namespaces::{maps, namespaces};
use super::payload::{argv, workdir};
use super::request::{Request, Tree};
use super::tree::tree_steps;
use super::{Degraded, Missing, Namespace, Plan, PlanError, Setting, Step, laws};
use crate::host::{Host, Place, Source, SubRange};
use crate::profile::{
    Isolation, LandlockMode, MapMode, MountKind, NetworkMode, Preset, Profile, ProjectMode, Requirement, Rlimit, RootMode, SeccompSource,
};

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
        steps.push(Step::MakeCgroup { place: place.clone(), settings: settings.clone(), nested: can_mount(request.profile) });
        // One that is made by clone has the parent's cgroup for its root, not the one that the child is born in.
        namespaces.retain(|namespace| *namespace != Namespace::Cgroup);
    }
    steps.push(Step::Clone { namespaces });
    if cgroup.is_some_and(|(_, settings)| settings.iter().any(|setting| setting.file == "memory.max")) {
        steps.push(Step::KillAsOne);
    }
}

/// Whether a payload may come by a mount of its own, of cgroups among them.
fn can_mount(profile: &Profile) -> bool {
    let security = &profile.security;
    let filtered = matches!(security.seccomp, SeccompSource::Default | SeccompSource::Strict) && security.seccomp_allow.is_empty();
    security.nested_userns || !filtered || !security.caps.is_empty()
}

/// Whether a payload could end all that stands in the cgroup that it is born in, if the caller may: it takes a mount of cgroups, which Landlock
/// refuses.
pub fn needs_own_cgroup(profile: &Profile, host: &Host) -> bool {
    let security = &profile.security;
    let held = security.landlock != LandlockMode::Off && !security.nested_userns && host.landlock.is_ok_and(|abi| abi >= MINIMUM_ABI);
    can_mount(profile) && !held
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
mod tests {
    use super::*;
    use crate::profile::{Vars, local_text};
    use rustix::io::Errno;

    #[test]
    fn who_may_mount_has_a_cgroup_of_its_own_unless_a_domain_refuses_mounts() {
        let host = |landlock| Host { uid: 1000, gid: 1000, landlock, ranges: None, kernel: (5, 15) };
        let vars = Vars { home: Path::new("/home/u"), env: &|_| None, project: Some(Path::new("/p")) };
        let profile = |text: &str| local_text("x.toml", text, Path::new("/p"), &[]).finish(&vars).expect("valid");
        assert!(!needs_own_cgroup(&profile("image = \"host\""), &host(Err(Errno::NOSYS))));
        let profile = profile("image = \"host\"\n[security]\nseccomp = \"none\"");
        for (landlock, needs) in [(Err(Errno::NOSYS), true), (Ok(1), true), (Ok(2), false), (Ok(7), false)] {
            assert_eq!(needs_own_cgroup(&profile, &host(landlock)), needs, "{landlock:?}");
        }
    }
}

#[cfg(test)]
pub mod tests_support {
    use super::*;
    use crate::plan::{MapWriter, Root};

    /// One of each step, with little in it.
    pub fn every_step() -> Vec<Step> {
        let source = Source { path: "/x".into(), directory: true, device: 0, inode: 0 };
        vec![
            Step::JoinSessionKeyring,
            Step::OpenSource { source: source.clone() },
            Step::TakeScratch,
            Step::BecomeSubreaper,
            Step::MakeCgroup { place: Place::Own { directory: "/x".into() }, settings: vec![], nested: false },
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
