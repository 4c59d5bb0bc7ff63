//! Which profile and which project, with what the command line changes in them.

use std::path::{Path, PathBuf};

use super::error::CliError;
use super::run::CommonArgs;
use super::start::ProjectChoice;
use crate::host::{Directories, Ids, gpu_devices};
use crate::plan::{self, PlanError};
use crate::profile::{self, Caller, Isolation, Missing, Mount, MountKind, OpenError, Profile, ProjectMode, Search};

pub struct Chosen {
    pub profile: Profile,
    pub project: ProjectChoice,
}

/// Finds, reads and checks the profile; what the command line says comes last.
///
/// # Errors
/// [`CliError::Profile`] with every finding; [`CliError::Usage`] for an option that cannot be read.
pub fn choose(args: &CommonArgs, directories: &Directories, ids: Ids, cwd: &Path) -> Result<Chosen, CliError> {
    let mut chosen = find(args, directories, ids, cwd)?;
    super::lock::hold(&mut chosen.profile, Caller { uid: ids.uid, gid: ids.gid }, args.locked)?;
    Ok(chosen)
}

/// As [`choose`], whatever the lock file says.
pub fn find(args: &CommonArgs, directories: &Directories, ids: Ids, cwd: &Path) -> Result<Chosen, CliError> {
    let mut sets = args.set.clone();
    if let Some(mode) = &args.network {
        sets.push(format!("network.mode={mode}"));
    }
    if args.keep {
        sets.push("root.mode=keep".into());
    }
    if args.locked {
        sets.push("pull=locked".into());
    }
    let caller = Caller { uid: ids.uid, gid: ids.gid };
    let opened = profile::open(&profile::Request {
        profile: args.profile.as_deref(),
        image: args.image.as_deref(),
        sets: &sets,
        project: args.project.as_deref(),
        search: Search { cwd, home: &directories.home, config: &directories.config, caller },
        store: &directories.data,
        env: &|name| std::env::var(name).ok(),
    });
    let opened = opened.map_err(|error| not_found(error, args))?;
    let mut profile = opened.profile;
    // Without namespaces other words are due for the same keys.
    if profile.isolation != Isolation::Landlock {
        let mut missing = plan::missing(&profile);
        missing.iter_mut().for_each(|one| one.place = opened.loaded.place(one.section, one.name));
        if !missing.is_empty() {
            return Err(PlanError::NotYet(missing).into());
        }
    }
    refuse_project(&profile, &opened.project)?;
    command_line(&mut profile, args, cwd)?;
    expand_devices(&mut profile)?;
    let mounted = profile.project.mode != ProjectMode::None;
    let project = ProjectChoice { path: mounted.then_some(opened.project), written: opened.written, notes: opened.notes };
    Ok(Chosen { profile, project })
}

/// A PROFILE that is an image, a command or a directory.
fn not_found(error: OpenError, args: &CommonArgs) -> CliError {
    let hint = args.profile.as_deref().and_then(|profile| super::hints::of_profile(profile, args.image.as_deref()));
    match (&error, hint) {
        (OpenError::Find(found), Some(hint)) => CliError::Told { words: found.to_string(), hint: Some(hint) },
        _ => error.into(),
    }
}

/// What cannot be mounted as a project, whoever has named it.
fn refuse_project(profile: &Profile, path: &Path) -> Result<(), CliError> {
    if profile.project.mode == ProjectMode::None {
        return Ok(());
    }
    if path == Path::new("/") {
        return Err(CliError::Told {
            words: "the project `/` is the root: nothing can be mounted there, and the root comes from `image`".into(),
            hint: Some("--project DIR, with a directory below it".into()),
        });
    }
    if path.metadata().is_ok_and(|facts| !facts.is_dir()) {
        let parent = path.parent().unwrap_or(Path::new("/"));
        return Err(CliError::Told {
            words: format!("the project {} is not a directory", path.display()),
            hint: Some(format!("--project '{}'", parent.display())),
        });
    }
    Ok(())
}

/// `@gpu` stands for what this machine has.
fn expand_devices(profile: &mut Profile) -> Result<(), CliError> {
    let devices = &mut profile.security.devices;
    let Some(at) = devices.iter().position(|device| device == "@gpu") else { return Ok(()) };
    let found = gpu_devices();
    if found.is_empty() {
        return Err(CliError::Told {
            words: "security.devices: this machine has no device that @gpu could stand for".into(),
            hint: Some("ls -l /dev/dri /dev/kfd /dev/nvidia*".into()),
        });
    }
    devices.splice(at..=at, found);
    Ok(())
}

fn command_line(profile: &mut Profile, args: &CommonArgs, cwd: &Path) -> Result<(), CliError> {
    let wrong = |option: &str, value: &str, why: String| CliError::Usage(format!("{option} {value}: {why}"));
    if let Some(user) = &args.user {
        profile.identity.user = Some(profile::user(user).map_err(|error| wrong("--user", user, error.message.to_string()))?);
    }
    if let Some(workdir) = &args.workdir
        && !workdir.starts_with(['/', '~'])
    {
        return Err(wrong("--workdir", workdir, "must be an absolute path inside".into()));
    }
    if let Some(name) = &args.name {
        profile::name(name).map_err(|error| wrong("--name", name, error.message.to_string()))?;
        profile.name.clone_from(name);
    }
    profile.env_file.extend(args.env_file.iter().map(|path| cwd.join(path)));
    for volume in &args.volume {
        let mount = volume_mount(volume, cwd).map_err(|why| wrong("-v", volume, why))?;
        profile.mounts.retain(|known| known.target != mount.target);
        profile.mounts.push(mount);
    }
    Ok(())
}

/// `SRC:DST[:ro|:rw]` as Docker has it: a source with a slash is a path, another one the name of a volume.
fn volume_mount(text: &str, cwd: &Path) -> Result<Mount, String> {
    let mut parts = text.split(':');
    let (source, target, mode) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (Some(target), None) = (target, parts.next()) else {
        return Err("must be SRC:DST or SRC:DST:ro".into());
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => return Err(format!("{other} is neither ro nor rw")),
    };
    let kind = if source.contains('/') || source == "." || source == ".." {
        MountKind::Bind { source: normal(&cwd.join(source)), missing: Missing::Error }
    } else {
        profile::name(source).map_err(|error| error.message.to_string())?;
        MountKind::Volume { name: source.to_owned() }
    };
    let target = profile::target(target, true).map_err(|error| error.message.to_string())?;
    Ok(Mount { kind, target, read_only, origin: "-v".into() })
}

fn normal(path: &Path) -> PathBuf {
    path.components().collect()
}
