//! What `run`, `shell` and `plan` have in common: everything from a profile to a plan that can be started.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, chmod, fstat};
use rustix::io::Errno;
use rustix::process::Signal;

use super::error::CliError;
use super::exposure::{appearing, exposed, refuse_group_writable, refuse_other_kinds, refuse_second_view, shown_writable, watched};
use super::image_facts::{ImageFacts, image_facts};
use super::inputs::{Inputs, compile_seccomp, environment};
use super::landlock_rung::Private;
use super::ledger::Tree;
use super::sources::{Opening, open_home, open_mounts, open_project, project_target, refuse_moved_project, refuse_swapped_image};
use super::state::{ProjectState, lock_keep, make_directory, masks};
use crate::host::{Controller, Delegation, Directories, Disks, Host, Ids, Learned, can_end_own_cgroup, open_source};
use crate::launch::{Resources, RootAttributes, Scratch};
use crate::plan::{self, Invocation, Plan, Step};
use crate::profile::{HomeMode, Isolation, MapMode, NetworkMode, Preset, Profile, Requirement, RootMode, TtyMode};
use crate::supervise::{self, Appearing, Pipes, Watched};

/// Whether anything may be made on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// `plan`: look, do not touch.
    None,
    /// `run`.
    All,
}

/// The project directory as the profile room has chosen it.
pub struct ProjectChoice {
    /// Resolved; `None` where there is none to mount.
    pub path: Option<PathBuf>,
    /// As somebody has written it, before links were followed.
    pub written: Option<PathBuf>,
    pub notes: Vec<String>,
}

/// What a start is made of.
#[derive(Clone, Copy)]
pub struct Request<'r> {
    pub profile: &'r Profile,
    pub project: &'r ProjectChoice,
    pub directories: &'r Directories,
    pub ids: Ids,
    pub invocation: &'r Invocation,
    pub inputs: &'r Inputs,
    /// Directories that payloads could write below at some time: no link in them is followed.
    pub written: &'r [Tree],
    pub offline: bool,
    /// What an earlier start of this run has found out.
    pub learned: &'r Learned,
    pub effects: Effects,
}

/// A plan, and everything that it refers to.
pub struct Assembled {
    pub plan: Plan,
    pub resources: Option<Resources>,
    /// Where the payload is to see no terminal.
    pub pipes: Option<Pipes>,
    /// Sources stay open until the child has bound them, so that no inode is used again.
    pub opened: Vec<OwnedFd>,
    /// The project and the guarded paths in it that exist.
    pub watched: Option<(PathBuf, Vec<Watched>)>,
    /// What git obeys in a writable project, and is not there.
    pub appearing: Option<Appearing>,
    /// Directories that the payload can write, and files in them that it cannot.
    pub exposed: (Vec<Tree>, Vec<PathBuf>),
    /// What git obeys in the repository of a worktree, and was not there.
    pub absent: Vec<PathBuf>,
    /// Where the cgroup comes from, if one was looked for.
    pub delegation: Option<Delegation>,
    pub stop_signal: Signal,
    pub image: ImageFacts,
    pub host: Host,
}

/// Brings profile, image, project and machine together.
///
/// # Errors
/// [`CliError`] with the act, the object and a hint; nothing has been started.
pub fn assemble(request: &Request<'_>) -> Result<Assembled, CliError> {
    let &Request { profile, project: choice, directories, ids, invocation, inputs, written, offline, learned, effects } = request;
    let rung = profile.isolation == Isolation::Landlock;
    if rung {
        plan::refuse_wishes(profile)?;
    }
    let want_ranges = profile.identity.map != MapMode::Single || profile.require.contains(&Requirement::Subuid);
    let host = Host::probe(ids, want_ranges && !rung)?;
    let state = ProjectState::new(directories, profile, choice.path.as_deref());
    let mut opened = Opening { fds: Vec::with_capacity(8), effects, written };
    let target = project_target(profile, choice);
    if let Some(path) = profile.image.path() {
        refuse_swapped_image(path, choice.path.as_deref(), written)?;
    }
    refuse_moved_project(choice, written)?;
    let mut image = image_facts(profile, directories, &host, target.as_deref(), offline, effects)?;
    opened.fds.extend(image.opened.iter().map(|fd| fd.try_clone()).collect::<Result<Vec<_>, _>>().unwrap_or_default());
    let (mut project, absent) = open_project(profile, choice, directories, &mut opened)?;
    let mounts = open_mounts(profile, &project, directories, &state, &mut opened)?;
    refuse_second_view(&project, &mounts)?;
    refuse_other_kinds(&image.image, &project, &mounts)?;
    project.shown = shown_writable(&project, &mounts);
    if profile.security.preset == Preset::Untrusted && (profile.identity.map == MapMode::Single || host.ranges.is_none()) {
        refuse_group_writable(&project, &mounts, ids)?;
    }
    let private = rung.then(|| Private::take(profile, directories, &host, effects)).transpose()?;
    let home = match (profile.identity.home, image.image.user.home.as_str()) {
        (HomeMode::Tmp, _) => private
            .as_ref()
            .and_then(|own| own.home.as_deref())
            .map(|home| opened.own(home).map(|source| plan::Home { source, work: None }))
            .transpose()?,
        (HomeMode::Private, home) if home != "/" => {
            let upper = opened.fds.len();
            let home = open_home(&state, image.image.home_is_empty, &mut opened)?;
            opened.fds.get(upper).filter(|_| effects == Effects::All).map_or(Ok(()), reopen).map_err(|source| CliError::Io {
                act: "restore the mode of",
                path: state.directory.join("home/u"),
                source: source.into(),
            })?;
            Some(home)
        }
        _ => None,
    };
    let keep = (profile.root.mode == RootMode::Keep && !image.image.is_host()).then(|| state.keep(&image.digest, &host));
    if let (Some(keep), Effects::All) = (&keep, effects) {
        make_directory(&keep.join("u"))?;
        make_directory(&keep.join("w"))?;
        opened.fds.push(lock_keep(keep)?);
    }
    let secrets = inputs.secrets.clone();
    let secret_facts: Vec<_> = profile
        .secrets
        .iter()
        .zip(&secrets)
        .map(|(secret, (name, content))| (name.clone(), secret.target.clone(), content.len()))
        .collect();
    if let Some(private) = &private {
        // Nothing can be mounted where the image has it, so the payload is told where it is.
        image.image.environment.push(private.variable());
        if let Some(home) = &home {
            image.image.user.home = home.source.path.to_string_lossy().into_owned();
        }
    }
    let same_user = rung.then(|| plan::seccomp::SameUser { network: profile.network.mode == NetworkMode::Host });
    let filter = compile_seccomp(profile, &host, same_user, inputs)?;
    let facts = filter.as_ref().map(|(name, filter)| plan::SeccompFacts {
        name: name.clone(),
        allowed: filter.allowed,
        instructions: filter.program.len(),
    });
    let resolv_conf = match profile.network.mode {
        NetworkMode::Host => open_source(Path::new("/etc/resolv.conf")).ok(),
        _ => None,
    };
    let environment = environment(profile, &image, invocation, &inputs.variables);
    let apart = !rung && plan::needs_own_cgroup(profile, &host) && can_end_own_cgroup();
    let limited = profile.limits.needs_cgroup() || profile.require.contains(&Requirement::Cgroup) || apart;
    let limits = &profile.limits;
    let of_processors: Vec<_> = [(limits.cpus.is_some(), Controller::Cpu), (limits.cpuset.is_some(), Controller::Cpuset)]
        .into_iter()
        .filter_map(|(wanted, controller)| wanted.then_some(controller))
        .collect();
    let disks = (limits.needs_disks() || limits.io_weight.is_some()).then(|| disks(&opened.fds, &image, directories));
    let weighed = disks.as_ref().filter(|_| limits.io_weight.is_some());
    let delegation = limited.then(|| Delegation::find(&of_processors, weighed, learned));
    let mut plan = plan::build(&plan::Request {
        profile,
        host: &host,
        image: &image.image,
        digest: &image.digest,
        project: &project,
        invocation,
        environment: &environment,
        mounts: &mounts,
        home: home.as_ref(),
        keep: keep.as_deref(),
        secrets: &secret_facts,
        seccomp: facts.as_ref(),
        resolv_conf: resolv_conf.as_ref().map(|opened| &opened.source),
        delegation: delegation.as_ref(),
        apart,
        disks: disks.as_ref().filter(|_| limits.needs_disks()),
        temporary: private.as_ref().map(|private| private.temporary.as_path()),
    })?;
    plan.notes.extend(choice.notes.iter().chain(&image.notes).cloned());
    if let Some((_, filter)) = &filter {
        plan.notes.extend(filter.notes.iter().cloned());
    }
    opened.fds.extend(resolv_conf.map(|opened| opened.fd));
    let mut pipes = None;
    let resources = match effects {
        Effects::None => None,
        Effects::All => {
            let mut ends = [const { None }; 3];
            if invocation.pipes.contains(&true) {
                let (ours, theirs) = Pipes::new(invocation.pipes)?;
                (pipes, ends) = (Some(ours), theirs);
            }
            let scratch = private.and_then(|private| private.scratch);
            let seccomp = filter.map(|(_, filter)| filter.program);
            let layers = std::mem::take(&mut image.published).into_iter();
            let published = layers.map(|tree| (tree.name.as_str().to_owned(), tree.path, tree.fd)).collect();
            let made = Made { scratch, seccomp, secrets, published, terminal: invocation.terminal, pipes: ends };
            Some(resources(&plan, profile, directories, &host, &image, made)?)
        }
    };
    // What nothing protects, nobody can lose; and all of it can be left changed.
    let watched = if rung { None } else { watched(&project) };
    // With paths of a repository to protect there was a look whether it is there.
    let looked = profile.project.protect.iter().any(|path| path.starts_with(".git"));
    let appearing = appearing(&project).map(|appearing| if looked { appearing } else { appearing.look() });
    let exposed = exposed(&project, &mounts, profile, rung);
    Ok(Assembled {
        plan,
        resources,
        pipes,
        opened: opened.fds,
        watched,
        appearing,
        exposed,
        absent,
        delegation,
        stop_signal: stop_signal(profile, &image),
        image,
        host,
    })
}

/// What lies below all that the sandbox may read or write: what was opened, layers, scratch directories, and files in place of a terminal.
fn disks(opened: &[OwnedFd], image: &ImageFacts, directories: &Directories) -> Disks {
    // Those of the store may be links to somewhere else. A start that has none of them does without.
    let own = ["layers", "scratch", "scratch-range"].map(|name| open_source(&directories.data.join(name)).ok());
    let own = own.iter().flatten().map(|opened| opened.fd.as_fd());
    let published = image.published.iter().map(|tree| tree.fd.as_fd());
    // What the caller has redirected is passed on as it is.
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let is_file = |fd: &BorrowedFd<'_>| fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    Disks::below(opened.iter().map(AsFd::as_fd).chain(own).chain(published).chain(streams.into_iter().filter(is_file)))
}

fn stop_signal(profile: &Profile, image: &ImageFacts) -> Signal {
    let number = profile.lifecycle.stop_signal.or(image.stop_signal);
    number.and_then(Signal::from_named_raw).unwrap_or(Signal::TERM)
}

/// What was made on the way to the plan.
struct Made {
    scratch: Option<Scratch>,
    seccomp: Option<seccompiler::BpfProgram>,
    secrets: Vec<(String, Vec<u8>)>,
    published: Vec<(String, PathBuf, OwnedFd)>,
    terminal: [bool; 3],
    pipes: [Option<OwnedFd>; 3],
}

fn resources(
    plan: &Plan,
    profile: &Profile,
    directories: &Directories,
    host: &Host,
    image: &ImageFacts,
    made: Made,
) -> Result<Resources, CliError> {
    let Made { scratch, seccomp, secrets, published, terminal, pipes } = made;
    let layers = directories.data.join("layers");
    let ranges = host.ranges.filter(|_| profile.identity.map != MapMode::Single);
    let scratch_base = directories.data.join(if ranges.is_some() { "scratch-range" } else { "scratch" });
    let scratch = if scratch.is_none() && plan.steps.iter().any(|step| matches!(step, Step::TakeScratch)) {
        let (mode, modified) = image.root;
        let caller = (host.uid, host.gid);
        let user = &image.image.user;
        let id = |own: u32, inside: u32, range: u32| if inside == 0 { own } else { range };
        let owner = ranges.map_or(caller, |(uids, gids)| (id(host.uid, user.uid, uids.start), id(host.gid, user.gid, gids.start)));
        let root = RootAttributes { mode, modified, caller, owner };
        Some(Scratch::take(&scratch_base, root)?)
    } else {
        scratch
    };
    let hides = plan.steps.iter().any(|step| matches!(step, Step::Guard { guard: plan::Guard::Hide { .. }, .. }));
    let masks = masks(directories, hides)?;
    if image.image.is_host() && !layers.exists() {
        make_directory(&layers)?;
    }
    Ok(Resources { layers, published, scratch, masks, seccomp, secrets, terminal, pipes, umask: profile_umask(profile), fault: fault() })
}

/// A payload may have closed its own home, `chmod 000 ~`: that is not for all the runs after it.
fn reopen(home: &OwnedFd) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(fstat(home)?.st_mode);
    if mode.contains(Mode::RWXU) {
        return Ok(());
    }
    // fchmod(2) has no form for such a descriptor before Linux 6.6; its name in /proc leads to it and to nothing else.
    match chmod(format!("/proc/self/fd/{}", home.as_raw_fd()), mode | Mode::RWXU) {
        // Given away to another id of the range, by a payload with a capability for that: whoever needs it says so.
        Err(Errno::PERM) => Ok(()),
        result => result,
    }
}

fn profile_umask(profile: &Profile) -> u32 {
    let own = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077)).as_raw_mode();
    profile.lifecycle.umask.unwrap_or(own)
}

/// Which of 0, 1, 2 the payload gets its own terminal for, and which a pipe in place of the caller's.
pub fn terminal_sides(mode: TtyMode) -> ([bool; 3], [bool; 3]) {
    match mode {
        TtyMode::Auto => (supervise::sides(), [false; 3]),
        TtyMode::Never => ([false; 3], supervise::sides()),
        TtyMode::Always => ([true; 3], [false; 3]),
    }
}

/// `HAMPER_FAIL_AT=STEP:ERRNO` makes a step fail, in builds for tests only.
#[cfg(debug_assertions)]
fn fault() -> Option<(u32, i32)> {
    let text = std::env::var("HAMPER_FAIL_AT").ok()?;
    let (step, errno) = text.split_once(':')?;
    Some((step.parse().ok()?, errno.parse().ok()?))
}

#[cfg(not(debug_assertions))]
fn fault() -> Option<(u32, i32)> {
    None
}
