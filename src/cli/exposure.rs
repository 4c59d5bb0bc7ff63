//! What a payload could reach by another way than the one that is guarded, and what it could leave behind.

use std::path::{Path, PathBuf};

use super::error::CliError;
use super::ledger::Tree;
use crate::host::{Ids, Source, writable_by_group_alone};
use crate::plan::{self, OpenedMount};
use crate::profile::{OnReplace, Profile, ProjectMode};
use crate::supervise::{Appearing, Watched};

/// What exists and is guarded is watched for replacement; what is to be hidden, and is not there, must not appear.
pub fn watched(project: &plan::Project) -> Option<(PathBuf, Vec<Watched>)> {
    let guarded = project.guarded.iter().filter(|guarded| guarded.hidden || guarded.identity.is_some());
    let paths: Vec<Watched> = guarded.map(|guarded| Watched { path: guarded.path.clone(), identity: guarded.identity }).collect();
    (!paths.is_empty() && project.source.is_some()).then(|| (project.path.clone(), paths))
}

/// What a payload could leave for git on the host to obey.
pub fn appearing(project: &plan::Project) -> Option<Appearing> {
    // The paths of a repository are guarded where there is one.
    let repository = || project.guarded.iter().any(|guarded| guarded.path.starts_with(".git"));
    (project.source.is_some() && project.mode == ProjectMode::Rw).then(|| Appearing::survey(&project.path, repository()))
}

/// The directories of the host that the payload can write, and the files in them that stay read-only for as long as the run lasts.
pub fn exposed(project: &plan::Project, mounts: &[OpenedMount], profile: &Profile, rung: bool) -> (Vec<Tree>, Vec<PathBuf>) {
    let tree = |source: &Source| Tree {
        path: source.path.canonicalize().unwrap_or_else(|_| source.path.clone()),
        identity: (source.device, source.inode),
    };
    let mut trees = Vec::new();
    let mut guarded = Vec::new();
    if let Some(source) = project.source.as_ref().filter(|_| project.mode == ProjectMode::Rw) {
        // This one is resolved.
        trees.push(Tree { path: project.path.clone(), identity: (source.device, source.inode) });
        trees.extend(project.worktree.iter().map(|worktree| tree(&worktree.common)));
        // A file that is replaced loses its guard, and without namespaces there is none; a second view of it has none either.
        if !rung && profile.project.on_replace == OnReplace::Stop && project.shown.is_empty() {
            // What belongs to git, nobody obeys here.
            let held = project.guarded.iter().filter(|guarded| guarded.is_held() && !guarded.path.starts_with(".git"));
            guarded.extend(held.map(|guarded| project.path.join(&guarded.path)));
        }
    }
    let sources = mounts.iter().filter(|mount| !mount.read_only).filter_map(|mount| mount.source.as_ref());
    trees.extend(sources.map(tree));
    (trees, guarded)
}

/// A mount that shows a hidden path a second time, or lies over the hiding of one, would undo it.
///
/// # Errors
/// [`CliError::Told`] names both.
pub fn refuse_second_view(project: &plan::Project, mounts: &[OpenedMount]) -> Result<(), CliError> {
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
pub fn refuse_other_kinds(image: &plan::Image, project: &plan::Project, mounts: &[OpenedMount]) -> Result<(), CliError> {
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
pub fn refuse_group_writable(project: &plan::Project, mounts: &[OpenedMount], ids: Ids) -> Result<(), CliError> {
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
pub fn shown_writable(project: &plan::Project, mounts: &[OpenedMount]) -> Vec<(PathBuf, String)> {
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
