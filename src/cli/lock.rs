//! `hamper lock`: writes down which image the profile's name stands for, and holds runs to it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::error::{CliError, escape};
use super::exit::ExitCode;
use super::ledger::Ledger;
use super::output::{say, talk};
use super::progress::Display;
use super::registries;
use super::run::CommonArgs;
use super::time::{now, rfc3339};
use super::which;
use crate::host::{Directories, Ids};
use crate::image::{self, Digest, Reference, Remote};
use crate::profile::{
    Caller, ImageSource, LOCK_NAME, Lock, LockError, LockedDigest, LockedImage, LockedPlatform, Platform, Profile, Pull, Seen, Select,
    read_lock,
};

/// Write hamper.lock: the digest, for each platform, of the image that the profile names
#[derive(Args, Debug)]
pub struct LockArgs {
    /// A profile's path or name; the nearest hamper.toml upwards where absent
    profile: Option<String>,
    /// Write nothing, and end with 1 if the lock file would change, with 125 if that cannot be known
    #[arg(long)]
    check: bool,
}

pub fn run(args: &LockArgs) -> ExitCode {
    match lock(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            talk(&error.render());
            // A check that could not be made has found nothing.
            if args.check { ExitCode::from(error.run_code()) } else { ExitCode::FAILURE }
        }
    }
}

/// `false`: a check found something.
fn lock(args: &LockArgs) -> Result<bool, CliError> {
    let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from))?;
    let ids = Ids::own()?;
    let here =
        std::env::current_dir().map_err(|source| CliError::Io { act: "find", path: PathBuf::from("the current directory"), source })?;
    let common = CommonArgs { profile: args.profile.clone(), ..CommonArgs::default() };
    let profile = which::find(&common, &directories, ids, &here)?.profile;
    let directory = directory_of(&profile)?;
    // What is kept of the lock file that is there is written anew, and would be the caller's own from then on.
    let caller = Caller { uid: ids.uid, gid: ids.gid };
    let known = read_lock(directory, caller).map_err(failed)?;
    let read: Vec<Seen> = profile.seen.iter().cloned().chain(known.iter().map(|(seen, _)| seen.clone())).collect();
    super::trust::refuse_suspects(&mut Ledger::read(&directories)?, &read)?;
    let Some(reference) = unpinned(&profile.image)? else {
        talk("the profile names no tag: there is nothing to lock");
        return Ok(true);
    };
    let mut lock = known.map(|(_, lock)| lock).unwrap_or_default();
    let found = look_up(&reference, &profile)?;
    let changes = changes(lock.find(&found.reference), &found);
    for change in &changes {
        say(&format!("{}: {change}", found.reference));
    }
    if changes.is_empty() {
        talk(&format!("{} is as it was locked", found.reference));
        return Ok(true);
    }
    if args.check {
        return Ok(false);
    }
    lock.put(found);
    write(directory, &lock)?;
    super::trust::take(&directory.join(LOCK_NAME), &directories)?;
    Ok(true)
}

/// What a run is held to, where the profile or the command line wants it held: sets [`Profile::locked`]. `strictly`: by `--locked`, which
/// also refuses what no lock file could name.
///
/// # Errors
/// [`CliError::Told`] where that was asked for in words, and no lock file has the image.
pub fn hold(profile: &mut Profile, caller: Caller, strictly: bool) -> Result<(), CliError> {
    if profile.pull != Pull::Locked {
        return Ok(());
    }
    let pinned = match &profile.image {
        ImageSource::OciDir { select, .. } | ImageSource::OciArchive { select, .. } => matches!(select, Select::Digest(_)),
        source => matches!(source, ImageSource::Registry(_)),
    };
    if strictly && !pinned {
        let words =
            "--locked: the image comes from no registry and is not named by its digest, so nothing says which one it must be".into();
        return Err(CliError::Told { words, hint: Some("name the image by its digest: image = \"oci:DIR@sha256:…\"".into()) });
    }
    let asked = strictly || profile.is_written("", "pull");
    let refuse = |words: String, hint: &str| match asked {
        true => Err(CliError::Told { words, hint: Some(hint.to_owned()) }),
        false => Ok(()),
    };
    let Some(reference) = unpinned(&profile.image)? else { return Ok(()) };
    let directory = directory_of(profile).ok().map(Path::to_owned);
    let read = directory.map(|directory| read_lock(&directory, caller)).transpose().map_err(failed)?.flatten();
    let Some((seen, lock)) = read else {
        return refuse(format!("{reference} is to be locked, and there is no {LOCK_NAME}"), "hamper lock");
    };
    let platform = &profile.platform;
    let found = lock.find(&reference.to_string()).and_then(|image| {
        // As from an index: `linux/arm64` is met by what is there as `linux/arm64/v8`.
        let offered: Vec<_> = image.platforms.iter().map(|one| one.platform().clone()).collect();
        image::best_platform(&offered, platform).map(|index| &image.platforms[index])
    });
    let Some(found) = found else {
        return refuse(format!("{} has no {reference} for {platform}", seen.path.display()), "hamper lock");
    };
    profile.locked = Some(found.digest.to_string());
    // What a run has obeyed is not for the payload to change.
    profile.files.push(seen.path.clone());
    profile.seen.push(seen);
    Ok(())
}

/// The reference that a lock would pin; `None`: it is pinned, or comes from no registry.
fn unpinned(source: &ImageSource) -> Result<Option<Reference>, CliError> {
    let ImageSource::Registry(text) = source else { return Ok(None) };
    let reference: Reference = text.parse().map_err(|error: image::Error| CliError::Rootfs { source: error.into() })?;
    Ok(reference.digest.is_none().then_some(reference))
}

fn directory_of(profile: &Profile) -> Result<&Path, CliError> {
    profile.files.first().and_then(|path| path.parent()).ok_or_else(|| CliError::Told {
        words: "the profile is no file, so there is no place for a lock beside it".into(),
        hint: Some("hamper profile new".into()),
    })
}

fn failed(error: LockError) -> CliError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {}", cause.to_string().trim_end())).unwrap_or_default();
    CliError::Told { words: format!("{error}{cause}"), hint: Some("remove it, and write it anew: hamper lock".into()) }
}

/// What the registry says now.
fn look_up(reference: &Reference, profile: &Profile) -> Result<LockedImage, CliError> {
    let failed = |error: image::Error| CliError::Rootfs { source: error.into() };
    let client = registries::client(&Display::new(false)).map_err(|error| failed(error.into()))?;
    let remote: Arc<dyn Remote> = Arc::new(client.repository(reference));
    let offered = image::open_platforms(&remote, reference, &profile.platform).map_err(failed)?;
    for error in &offered.skipped {
        talk(&format!("hamper: ignoring: {}", escape(&image::chain(error))));
    }
    let digest = |digest: &Digest| LockedDigest::try_from(digest.to_string());
    let lock = |(platform, image): (Platform, image::Image)| {
        Ok::<_, String>(LockedPlatform {
            name: platform.into(),
            digest: digest(&image.digest.unwrap_or_else(|| Digest::of(&image.manifest.unwrap_or_default())))?,
            config: digest(&Digest::of(&image.config_bytes))?,
            diff_ids: image.config.diff_ids.iter().map(digest).collect::<Result<_, _>>()?,
        })
    };
    let platforms: Result<Vec<_>, String> = offered.found.into_iter().map(lock).collect();
    let mut platforms = platforms.map_err(|words| CliError::Told { words, hint: None })?;
    platforms.sort_by_key(|platform| platform.name.to_string());
    Ok(LockedImage { reference: reference.to_string(), date: rfc3339(now()), platforms })
}

/// What is new, in words; empty: nothing but the date.
fn changes(before: Option<&LockedImage>, now: &LockedImage) -> Vec<String> {
    let known = |platform: &LockedPlatform| before.and_then(|before| before.platform(&platform.name));
    let mut changes: Vec<String> = now
        .platforms
        .iter()
        .filter_map(|platform| match known(platform) {
            Some(before) if before == platform => None,
            Some(before) if before.digest == platform.digest => {
                Some(format!("{}: {} has another config or other layers than the lock file says", platform.name, platform.digest))
            }
            Some(before) => Some(format!("{}: {} is now {}", platform.name, before.digest, platform.digest)),
            None => Some(format!("{}: {}", platform.name, platform.digest)),
        })
        .collect();
    let gone = before.iter().flat_map(|before| &before.platforms).filter(|platform| now.platform(&platform.name).is_none());
    changes.extend(gone.map(|platform| format!("{}: {} is gone", platform.name, platform.digest)));
    if before.is_none() && changes.is_empty() {
        changes.push("it has not been locked".to_owned());
    }
    changes
}

/// Beside, and renamed.
fn write(directory: &Path, lock: &Lock) -> Result<(), CliError> {
    let text = lock.text().map_err(|error| CliError::Told { words: format!("cannot write {LOCK_NAME}: {error}"), hint: None })?;
    let path = directory.join(LOCK_NAME);
    write_beside(directory, &path, text.as_bytes()).map_err(|source| CliError::Io { act: "write", path, source })
}

/// A payload may have put links there under names that it could foresee: only a file that is made here and now is written to.
fn write_beside(directory: &Path, path: &Path, text: &[u8]) -> std::io::Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let beside = directory.join(format!(".{LOCK_NAME}.{}.{now}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
    let done = file.write_all(text).and_then(|()| std::fs::rename(&beside, path));
    if done.is_err() {
        // Ignoring: the first failure is told.
        let _ = std::fs::remove_file(&beside);
    }
    done
}
