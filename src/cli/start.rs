//! What `run`, `shell` and `plan` have in common: everything from a profile to a plan that can be started.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Signal;

use super::error::CliError;
use super::image_facts::{ImageFacts, image_facts};
use super::landlock_rung::Private;
use crate::host::{
    Directories, Host, Ids, Opened, SourceError, find_worktree, open_in_project, open_source, survey_guarded, writable_by_group_alone,
};
use crate::launch::{Resources, RootAttributes, Scratch};
use crate::plan::{self, Invocation, OpenedMount, Plan, Step};
use crate::profile::{
    HomeMode, Isolation, MapMode, Missing, Mount, MountKind, NetworkMode, OnReplace, Preset, Profile, ProjectMode, Requirement, RootMode,
    SeccompSource, SecretSource, TtyMode,
};
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
    pub notes: Vec<String>,
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
    pub exposed: (Vec<PathBuf>, Vec<PathBuf>),
    /// What git obeys in the repository of a worktree, and was not there.
    pub absent: Vec<PathBuf>,
    pub stop_signal: Signal,
    pub image: ImageFacts,
    pub host: Host,
}

/// Brings profile, image, project and machine together.
///
/// # Errors
/// [`CliError`] with the act, the object and a hint; nothing has been started.
pub fn assemble(
    profile: &Profile,
    choice: &ProjectChoice,
    directories: &Directories,
    ids: Ids,
    invocation: &Invocation,
    offline: bool,
    effects: Effects,
) -> Result<Assembled, CliError> {
    let rung = profile.isolation == Isolation::Landlock;
    if rung {
        plan::refuse_wishes(profile)?;
    }
    let want_ranges = profile.identity.map != MapMode::Single || profile.require.contains(&Requirement::Subuid);
    let host = Host::probe(ids, want_ranges && !rung)?;
    let state = ProjectState::new(directories, profile, choice.path.as_deref());
    let mut opened = Opening { fds: Vec::with_capacity(8), effects };
    let target = project_target(profile, choice);
    if let (Some(project), Some(path)) = (&choice.path, profile.image.path()) {
        stays_in_project(project, path)?;
    }
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
        (HomeMode::Private, home) if home != "/" => Some(open_home(&state, image.image.home_is_empty, &mut opened)?),
        _ => None,
    };
    let keep = (profile.root.mode == RootMode::Keep && !image.image.is_host()).then(|| state.keep(&image.digest, &host));
    if let (Some(keep), Effects::All) = (&keep, effects) {
        make_directory(&keep.join("u"))?;
        make_directory(&keep.join("w"))?;
        opened.fds.push(lock_keep(keep)?);
    }
    let secrets = read_secrets(profile)?;
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
    let filter = compile_seccomp(profile, &host, same_user)?;
    let facts = filter.as_ref().map(|(name, filter)| plan::SeccompFacts {
        name: name.clone(),
        allowed: filter.allowed,
        instructions: filter.program.len(),
    });
    let resolv_conf = match profile.network.mode {
        NetworkMode::Host => open_source(Path::new("/etc/resolv.conf")).ok(),
        _ => None,
    };
    let environment = environment(profile, &image, invocation)?;
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
            let made = Made { scratch, seccomp, secrets, terminal: invocation.terminal, pipes: ends };
            Some(resources(&plan, profile, directories, &host, &image, made)?)
        }
    };
    // What nothing protects, nobody can lose; and all of it can be left changed.
    let watched = if rung { None } else { watched(&project) };
    let appearing = appearing(&project);
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
        stop_signal: stop_signal(profile, &image),
        image,
        host,
    })
}

/// What exists and is guarded is watched for replacement; what is to be hidden, and is not there, must not appear.
fn watched(project: &plan::Project) -> Option<(PathBuf, Vec<Watched>)> {
    let guarded = project.guarded.iter().filter(|guarded| guarded.hidden || guarded.identity.is_some());
    let paths: Vec<Watched> = guarded.map(|guarded| Watched { path: guarded.path.clone(), identity: guarded.identity }).collect();
    (!paths.is_empty() && project.source.is_some()).then(|| (project.path.clone(), paths))
}

/// What a payload could leave for git on the host to obey.
fn appearing(project: &plan::Project) -> Option<Appearing> {
    // The paths of a repository are guarded where there is one.
    let repository = || project.guarded.iter().any(|guarded| guarded.path.starts_with(".git"));
    (project.source.is_some() && project.mode == ProjectMode::Rw).then(|| Appearing::survey(&project.path, repository()))
}

/// The directories of the host that the payload can write, and the files in them that stay read-only for as long as the run lasts.
fn exposed(project: &plan::Project, mounts: &[OpenedMount], profile: &Profile, rung: bool) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut trees = Vec::new();
    let mut guarded = Vec::new();
    if project.source.is_some() && project.mode == ProjectMode::Rw {
        trees.push(project.path.clone());
        trees.extend(project.worktree.iter().map(|worktree| worktree.common.path.clone()));
        // A file that is replaced loses its guard, and without namespaces there is none; a second view of it has none either.
        if !rung && profile.project.on_replace == OnReplace::Stop && project.shown.is_empty() {
            let held = project.guarded.iter().filter(|guarded| guarded.identity.is_some());
            guarded.extend(held.map(|guarded| project.path.join(&guarded.path)));
        }
    }
    let sources = mounts.iter().filter(|mount| !mount.read_only).filter_map(|mount| mount.source.as_ref());
    trees.extend(sources.map(|source| source.path.canonicalize().unwrap_or_else(|_| source.path.clone())));
    (trees, guarded)
}

fn stop_signal(profile: &Profile, image: &ImageFacts) -> Signal {
    let number = profile.lifecycle.stop_signal.or(image.stop_signal);
    number.and_then(Signal::from_named_raw).unwrap_or(Signal::TERM)
}

/// A kept root has one writer; the file says who.
///
/// # Errors
/// [`CliError::Told`] names the process that has it.
fn lock_keep(keep: &Path) -> Result<OwnedFd, CliError> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let path = keep.join("lock");
    let wrap = |source| CliError::Io { act: "lock", path: path.clone(), source };
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(wrap)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(wrap)?;
            return Err(CliError::Told {
                words: format!("the kept root of this project is in use by process {}", owner.trim()),
                hint: Some("wait for it to end, or run with --set root.mode=scratch".into()),
            });
        }
        result => result.map_err(|errno| wrap(errno.into()))?,
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(wrap)?;
    Ok(file.into())
}

/// Opens sources and keeps them open.
struct Opening {
    fds: Vec<OwnedFd>,
    effects: Effects,
}

impl Opening {
    fn add(&mut self, opened: Opened) -> crate::host::Source {
        self.fds.push(opened.fd);
        opened.source
    }

    /// A directory of ours, made where it is missing.
    fn own(&mut self, path: &Path) -> Result<crate::host::Source, CliError> {
        match open_source(path) {
            Err(SourceError::Open { source: Errno::NOENT, .. }) if self.effects == Effects::All => {
                make_directory(path)?;
                Ok(self.add(open_source(path)?))
            }
            Err(SourceError::Open { source: Errno::NOENT, .. }) => {
                Ok(crate::host::Source { path: path.to_owned(), directory: true, device: 0, inode: 0 })
            }
            result => Ok(self.add(result?)),
        }
    }
}

/// Makes a directory of ours, and its parents, for the caller alone.
pub fn make_directory(path: &Path) -> Result<(), CliError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| CliError::Io {
        act: "make the directory",
        path: path.to_owned(),
        source,
    })
}

/// Where the project is inside: the same path as outside, unless the profile says otherwise.
fn project_target(profile: &Profile, choice: &ProjectChoice) -> Option<String> {
    let path = choice.path.as_ref().filter(|_| profile.project.mode != ProjectMode::None)?;
    Some(profile.project.target.clone().unwrap_or_else(|| path.to_string_lossy().into_owned()))
}

/// The project, and what git obeys in its repository elsewhere, and is not there yet.
fn open_project(
    profile: &Profile,
    choice: &ProjectChoice,
    directories: &Directories,
    opening: &mut Opening,
) -> Result<(plan::Project, Vec<PathBuf>), CliError> {
    let none = |mode| plan::Project {
        path: PathBuf::from("/"),
        source: None,
        target: "/".into(),
        mode,
        guarded: Vec::new(),
        shown: Vec::new(),
        worktree: None,
    };
    let Some(path) = choice.path.as_ref().filter(|_| profile.project.mode != ProjectMode::None) else {
        return Ok((none(ProjectMode::None), Vec::new()));
    };
    let opened = open_source(path)?;
    let git = std::fs::symlink_metadata(path.join(".git")).ok().map(|found| found.is_file());
    let protect = protected_paths(profile, path, git);
    let guarded = survey_guarded(opened.fd.as_fd(), path, &protect, &profile.project.hide)?;
    let target = project_target(profile, choice).unwrap_or_default();
    let worktree = if git == Some(true) { find_worktree(path, &[&directories.state, &directories.data])? } else { None };
    let mut absent = Vec::new();
    let worktree = worktree.map(|worktree| {
        absent = worktree.absent;
        plan::Worktree { common: opening.add(worktree.common), own: worktree.own, guarded: worktree.guarded }
    });
    let project = plan::Project {
        path: path.clone(),
        source: Some(opening.add(opened)),
        target,
        mode: profile.project.mode,
        guarded,
        shown: Vec::new(),
        worktree,
    };
    Ok((project, absent))
}

/// What the profile protects, and every file that this run has read.
fn protected_paths(profile: &Profile, project: &Path, git_is_file: Option<bool>) -> Vec<PathBuf> {
    let mut paths = profile.project.protect.clone();
    let seccomp = match &profile.security.seccomp {
        SeccompSource::File(path) => Some(path.as_path()),
        _ => None,
    };
    let secrets = profile.secrets.iter().filter_map(|secret| match &secret.from {
        SecretSource::File(path) => Some(path.as_path()),
        SecretSource::Env(_) => None,
    });
    let read = profile.files.iter().chain(&profile.env_file).map(PathBuf::as_path).chain(seccomp).chain(secrets);
    for path in read.map(without_dots) {
        if let Ok(inside) = path.strip_prefix(project)
            && !paths.iter().any(|known| known == inside)
        {
            paths.push(inside.to_owned());
        }
    }
    // A repository that is not there needs no protection of its hooks; one that is elsewhere is named by a file, which is protected.
    match git_is_file {
        None => paths.retain(|path| !path.starts_with(".git")),
        Some(true) => {
            paths.retain(|path| !path.starts_with(".git"));
            paths.push(".git".into());
        }
        Some(false) => {}
    }
    paths
}

/// A mount that shows a hidden path a second time, or lies over the hiding of one, would undo it.
///
/// # Errors
/// [`CliError::Told`] names both.
fn refuse_second_view(project: &plan::Project, mounts: &[OpenedMount]) -> Result<(), CliError> {
    let hidden = project.guarded.iter().filter(|guarded| guarded.hidden).map(|guarded| &guarded.path);
    for path in hidden {
        let (outside, inside) = (project.path.join(path), Path::new(&project.target).join(path));
        let shows = |mount: &&OpenedMount| {
            let source = mount.source.as_ref().and_then(|source| source.path.canonicalize().ok());
            source.is_some_and(|source| outside.starts_with(source)) || inside.starts_with(&mount.target)
        };
        if let Some(mount) = mounts.iter().find(shows) {
            return Err(CliError::Told {
                words: format!("the mount on {} would show {}, which project.hide hides", mount.target, path.display()),
                hint: Some("mount a directory that does not hold it, or take it out of hide".into()),
            });
        }
    }
    Ok(())
}

/// A directory goes on a directory, anything else on a file. What is in an image is looked at when its skeleton is made; this is about
/// what lies on the host.
///
/// # Errors
/// [`CliError::Told`] names both.
fn refuse_other_kinds(image: &plan::Image, project: &plan::Project, mounts: &[OpenedMount]) -> Result<(), CliError> {
    for mount in mounts {
        let target = Path::new(&mount.target);
        let outside = match (&project.source, target.strip_prefix(&project.target)) {
            (Some(_), Ok(below)) => project.path.join(below),
            _ if image.is_host() && target.starts_with("/usr") => target.to_owned(),
            _ => continue,
        };
        let directory = mount.source.as_ref().is_none_or(|source| source.directory);
        let Some(there) = std::fs::metadata(&outside).ok().filter(|there| there.is_dir() != directory) else { continue };
        let kind = |directory| if directory { "directory" } else { "file" };
        let source = mount.source.as_ref().map_or("a tmpfs".into(), |source| format!("the {} {}", kind(directory), source.path.display()));
        let name = mount.source.as_ref().and_then(|source| source.path.file_name()).unwrap_or_default();
        return Err(CliError::Told {
            words: format!("{source} cannot be mounted on {}, which is a {}", mount.target, kind(there.is_dir())),
            hint: (!directory).then(|| format!("name the file in the target: {}", target.join(name).display())),
        });
    }
    Ok(())
}

/// The kernel has no way to drop the caller's supplementary groups under the single map, so that a payload writes what they let him write.
///
/// # Errors
/// [`CliError::Told`] names the source and the group.
fn refuse_group_writable(project: &plan::Project, mounts: &[OpenedMount], ids: Ids) -> Result<(), CliError> {
    let own = project.source.iter().filter(|_| project.mode == ProjectMode::Rw);
    let sources = mounts.iter().filter(|mount| !mount.read_only).filter_map(|mount| mount.source.as_ref()).chain(own);
    for source in sources {
        if let Some(group) = writable_by_group_alone(source, ids) {
            return Err(CliError::Told {
                words: format!(
                    "{} is writable for you only by your supplementary group {group}, which an untrusted program would keep",
                    source.path.display()
                ),
                hint: Some("mount it read-only, or use a range of ids: hamper doctor".into()),
            });
        }
    }
    Ok(())
}

/// Protected paths that a writable mount of the same files undoes.
fn shown_writable(project: &plan::Project, mounts: &[OpenedMount]) -> Vec<(PathBuf, String)> {
    let mut shown = Vec::new();
    for mount in mounts.iter().filter(|mount| !mount.read_only) {
        let Some(source) = mount.source.as_ref().and_then(|source| source.path.canonicalize().ok()) else { continue };
        for guarded in project.guarded.iter().filter(|guarded| !guarded.hidden && guarded.identity.is_some()) {
            let outside = project.path.join(&guarded.path);
            if outside.starts_with(&source) || source.starts_with(&outside) {
                shown.push((guarded.path.clone(), mount.target.clone()));
            }
        }
    }
    shown
}

/// What the caller names on the command line is meant as it is; what a profile names in the project may have been swapped by a payload.
fn open_bind(source: &Path, project: &plan::Project, mount: &Mount, effects: Effects) -> Result<Opened, SourceError> {
    let MountKind::Bind { missing, .. } = &mount.kind else { return open_source(source) };
    if project.source.is_none() || mount.by_hand() || !source.starts_with(&project.path) {
        return open_source(source);
    }
    let source = without_dots(source);
    match source.strip_prefix(&project.path) {
        Ok(relative) => open_in_project(&project.path, relative, *missing == Missing::Create && effects == Effects::All),
        Err(_) => open_source(&source),
    }
}

/// An image in the project may be another one than last time, but no link leads to what lies elsewhere.
///
/// # Errors
/// [`CliError::Source`] where one does; what is missing is told by whoever opens it.
fn stays_in_project(project: &Path, path: &Path) -> Result<(), CliError> {
    if !path.starts_with(project) {
        return Ok(());
    }
    match without_dots(path).strip_prefix(project).map(|inside| open_in_project(project, inside, false)) {
        Ok(Err(error @ SourceError::LeavesProject { .. })) => Err(error.into()),
        _ => Ok(()),
    }
}

/// A path without `..`, by its words alone: what a payload has made of a directory on the way does not change where it leads.
pub fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}

fn open_mounts(
    profile: &Profile,
    project: &plan::Project,
    directories: &Directories,
    state: &ProjectState,
    opening: &mut Opening,
) -> Result<Vec<OpenedMount>, CliError> {
    let mut mounts = Vec::with_capacity(profile.mounts.len());
    for mount in &profile.mounts {
        let (source, size) = match &mount.kind {
            MountKind::Tmpfs { size } => (None, *size),
            MountKind::Bind { source, missing } => match (open_bind(source, project, mount, opening.effects), missing) {
                (Ok(opened), _) => (Some(opening.add(opened)), None),
                (Err(SourceError::Open { source: Errno::NOENT, .. }), Missing::Skip) => continue,
                (Err(SourceError::Open { source: Errno::NOENT, .. }), Missing::Create) => (Some(opening.own(source)?), None),
                (Err(error), _) => return Err(CliError::Mount { origin: mount.origin.clone(), source: error }),
            },
            MountKind::Cache { name, shared: false } => (Some(opening.own(&state.directory.join("caches").join(name))?), None),
            kind => match plan::kept_directory(kind) {
                Some(below) => (Some(opening.own(&directories.data.join(below))?), None),
                None => continue,
            },
        };
        mounts.push(OpenedMount { target: mount.target.clone(), read_only: mount.read_only, source, size });
    }
    Ok(mounts)
}

/// The kept home: its files are in `u`, whether it is bound or the upper directory of an overlay.
fn open_home(state: &ProjectState, bound: bool, opening: &mut Opening) -> Result<plan::Home, CliError> {
    let home = state.directory.join("home");
    let upper = opening.own(&home.join("u"))?;
    if bound {
        return Ok(plan::Home { source: upper, work: None });
    }
    let source = opening.own(&home)?;
    let work = if opening.effects == Effects::All { lock_work(&home, opening)? } else { "w".into() };
    Ok(plan::Home { source, work: Some(work) })
}

/// Runs of one project that share its home at the same time, under one user.
const MAX_HOMES: u32 = 256;

/// A work directory that no other run has: the kernel empties it with each mount, whoever is using it. The lock ends with this process.
fn lock_work(home: &Path, opening: &mut Opening) -> Result<String, CliError> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    for number in 0..MAX_HOMES {
        let name = if number == 0 { "w".to_owned() } else { format!("w{number}") };
        let path = home.join(&name);
        let wrap = |errno: Errno| CliError::Io { act: "lock", path: path.clone(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                make_directory(&path)?;
                open(&path, flags, Mode::empty())
            }
            result => result,
        };
        let fd = fd.map_err(wrap)?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                opening.fds.push(fd);
                return Ok(name);
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(wrap(errno)),
        }
    }
    Err(CliError::Told {
        words: format!("{MAX_HOMES} runs of this project are using its home"),
        hint: Some("--set identity.home=tmp".into()),
    })
}

/// Twenty hexadecimal digits that stand for a path in the names of what is kept about it.
pub fn short_hash(key: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(key).iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

/// Where a project's own things are kept: by its resolved path, never by its name.
pub struct ProjectState {
    pub directory: PathBuf,
}

impl ProjectState {
    pub fn new(directories: &Directories, profile: &Profile, project: Option<&Path>) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let key = match project {
            Some(path) => path.as_os_str().as_bytes().to_vec(),
            None => [b"profile:", profile.name.as_bytes()].concat(),
        };
        Self { directory: directories.state.join("projects").join(short_hash(&key)) }
    }

    /// A kept root belongs to one image and one map.
    fn keep(&self, digest: &str, host: &Host) -> PathBuf {
        let short: String = digest.rsplit(':').next().unwrap_or(digest).chars().take(16).collect();
        let map = if host.ranges.is_some() { "range" } else { "single" };
        self.directory.join("root").join(format!("{short}-{map}"))
    }
}

/// A secret is a file of at most this many bytes.
const MAX_SECRET: u64 = 1 << 20;

fn read_secrets(profile: &Profile) -> Result<Vec<(String, Vec<u8>)>, CliError> {
    use std::io::Read;
    use std::os::unix::ffi::OsStringExt;
    profile
        .secrets
        .iter()
        .map(|secret| {
            let content = match &secret.from {
                SecretSource::Env(name) => std::env::var_os(name)
                    .map(OsStringExt::into_vec)
                    .ok_or_else(|| CliError::SecretUnset { secret: secret.name.clone(), variable: name.clone() })?,
                SecretSource::File(path) => {
                    let wrap = |source| CliError::Io { act: "read the secret", path: path.clone(), source };
                    let mut content = Vec::new();
                    open_regular(path, MAX_SECRET).and_then(|file| file.take(MAX_SECRET).read_to_end(&mut content)).map_err(wrap)?;
                    content
                }
            };
            Ok((secret.name.clone(), content))
        })
        .collect()
}

fn compile_seccomp(
    profile: &Profile,
    host: &Host,
    same_user: Option<plan::seccomp::SameUser>,
) -> Result<Option<(String, plan::seccomp::Filter)>, CliError> {
    use plan::seccomp::{Arch, Request, Source, compile, parse_oci};
    let security = &profile.security;
    let parsed;
    let (name, source) = match &security.seccomp {
        SeccompSource::Default => ("default".to_owned(), Source::Default),
        SeccompSource::Strict => ("strict".to_owned(), Source::Strict),
        SeccompSource::None => return Ok(None),
        SeccompSource::File(path) => {
            let text = read_text(path)?;
            parsed = parse_oci(&text).map_err(|source| CliError::SeccompProfile { path: path.clone(), source })?;
            (path.display().to_string(), Source::Oci(&parsed))
        }
    };
    let caps: Vec<&str> = security.caps.iter().map(|capability| capability.name()).collect();
    let request = Request {
        source,
        allow: &security.seccomp_allow,
        ptrace: security.preset == Preset::Dev && same_user.is_none(),
        nested_userns: security.nested_userns,
        same_user,
        caps: &caps,
        kernel: host.kernel,
        arch: Arch::HOST,
    };
    Ok(Some((name, compile(&request).map_err(|source| CliError::Seccomp { source })?)))
}

/// Files that a profile refers to, other than images, are small.
const MAX_TEXT: u64 = 1 << 20;

/// Opens a file without waiting for a writer, and only if it is a regular one of at most `limit` bytes.
fn open_regular(path: &Path, limit: u64) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    if facts.len() > limit {
        return Err(std::io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(file)
}

fn read_text(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text)).map_err(|source| CliError::Io {
        act: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(text)
}

fn environment(profile: &Profile, image: &ImageFacts, invocation: &Invocation) -> Result<Vec<(String, String)>, CliError> {
    let mut files = Vec::new();
    for path in &profile.env_file {
        env_file(path, &read_text(path)?, &mut files)?;
    }
    let mut passed = Vec::new();
    if !profile.env_pass.is_empty() {
        // A value that is no UTF-8 is not passed on.
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        for (name, value) in variables {
            let matches = |pattern: &String| pattern.strip_suffix('*').map_or(*pattern == name, |prefix| name.starts_with(prefix));
            if profile.env_pass.iter().any(matches) {
                passed.push((name, value));
            }
        }
    }
    Ok(plan::payload_environment(profile, &image.image, invocation, &files, &passed))
}

/// `NAME=value` lines as `docker run --env-file` takes them: no quoting, `#` starts a comment line.
fn env_file(path: &Path, text: &str, into: &mut Vec<(String, String)>) -> Result<(), CliError> {
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let broken = || CliError::EnvFile { path: path.to_owned(), line: number + 1 };
        let (name, value) = line.split_once('=').ok_or_else(broken)?;
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(sound) || value.contains('\0') {
            return Err(broken());
        }
        into.push((name.to_owned(), value.to_owned()));
    }
    Ok(())
}

/// What was made on the way to the plan.
struct Made {
    scratch: Option<Scratch>,
    seccomp: Option<seccompiler::BpfProgram>,
    secrets: Vec<(String, Vec<u8>)>,
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
    let Made { scratch, seccomp, secrets, terminal, pipes } = made;
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
    Ok(Resources { layers, scratch, masks, seccomp, secrets, terminal, pipes, umask: profile_umask(profile), fault: fault() })
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

/// An empty file and an empty directory that nobody may read, for what is hidden.
fn masks(directories: &Directories, needed: bool) -> Result<(PathBuf, PathBuf), CliError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let base = directories.data.join("masks");
    let (file, directory) = (base.join("file"), base.join("directory"));
    if needed && !(file.exists() && directory.exists()) {
        make_directory(&directory)?;
        let wrap = |path: &Path| {
            let path = path.to_owned();
            move |source| CliError::Io { act: "make", path, source }
        };
        std::fs::OpenOptions::new().create(true).append(true).mode(0o000).open(&file).map_err(wrap(&file))?;
        for path in [&file, &directory] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).map_err(wrap(path))?;
        }
    }
    Ok((file, directory))
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
