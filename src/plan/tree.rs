//! What the payload sees of files: the root, `/dev`, `/proc`, `/sys`, and every mount on it, in an order in which none covers another.

use std::path::{Path, PathBuf};

use super::payload::inside_home;
use super::request::{Home, Request, Tree, Worktree};
use super::{Degraded, Guard, Over, Plan, PlanError, Root, Step, Upper, procfs, project};
use crate::host::Presence;
use crate::profile::{HomeMode, NetworkMode, Profile, ProjectMode, Requirement, RootMode};

/// Default sizes of the tmpfs mounts that a read-only root needs, in bytes.
const READ_ONLY_TMP: u64 = 256 << 20;
const READ_ONLY_RUN: u64 = 64 << 20;

/// Everything that is mounted; returns the targets that the payload may write.
pub(super) fn tree_steps(request: &Request<'_>, range: bool, plan: &mut Plan) -> Result<Vec<String>, PlanError> {
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
