//! The project: which directory is worked in, and when it must not be mounted unasked.

use std::fmt;
use std::path::{Path, PathBuf};

use super::files;
use super::find::{FindError, Found, Origin, Search, Surroundings, bare, find};
use super::finding::{Findings, escape};
use super::finish::Loaded;
use super::model::{Profile, ProjectMode, Vars};

/// The directory of the project, resolved, and why it must not be mounted unless somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub path: PathBuf,
    pub refused: Option<NoProject>,
}

/// Why a directory is nobody's project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoProject {
    Root,
    Tmp,
    Home,
    AboveHome,
    AboveStore,
    OthersWrite,
    Unseen,
}

impl fmt::Display for NoProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "is the root of this machine",
            Self::Tmp => "is everybody's directory",
            Self::Home => "is your home",
            Self::AboveHome => "contains your home",
            Self::AboveStore => "contains the images",
            Self::OthersWrite => "can be written by others",
            Self::Unseen => "cannot be looked at",
        })
    }
}

/// The project of a profile that was found by `origin`, at `profile` where that is a file.
pub fn place(origin: Origin, profile: Option<&Path>, search: &Search<'_>, store: &Path) -> Project {
    let own = profile.and_then(Path::parent).filter(|_| matches!(origin, Origin::Upwards | Origin::Path));
    let (path, private) = match own {
        Some(dir) if dir != search.cwd => (files::resolve(dir), false),
        Some(dir) => (dir.to_owned(), false),
        None => {
            // All of these are above the current directory, for which the kernel's word is resolved already.
            let Surroundings { project, private } = Surroundings::look(search);
            (project.unwrap_or(search.cwd).to_owned(), private)
        }
    };
    let refused = refuse(&path, private, search, store);
    Project { path, refused }
}

/// `private`: it is known that others cannot write there.
fn refuse(path: &Path, private: bool, search: &Search<'_>, store: &Path) -> Option<NoProject> {
    let home = files::resolve(search.home);
    match path {
        _ if path == Path::new("/") => Some(NoProject::Root),
        _ if path == Path::new("/tmp") || path == Path::new("/var/tmp") => Some(NoProject::Tmp),
        _ if path == home => Some(NoProject::Home),
        _ if home.starts_with(path) => Some(NoProject::AboveHome),
        _ if files::resolve(store).starts_with(path) => Some(NoProject::AboveStore),
        _ if private => None,
        _ => match files::directory(path, search.caller) {
            Some(facts) if facts.others_write => Some(NoProject::OthersWrite),
            Some(_) => None,
            None => Some(NoProject::Unseen),
        },
    }
}

/// What a command line asks of this room.
pub struct Request<'a> {
    /// PROFILE as it was typed.
    pub profile: Option<&'a str>,
    /// `--image`, with which no profile is needed; with one it replaces the profile's.
    pub image: Option<&'a str>,
    /// `KEY=VALUE`, in order.
    pub sets: &'a [String],
    /// `--project`, from the current directory.
    pub project: Option<&'a Path>,
    pub search: Search<'a>,
    /// Where images lie: no directory above it is a project.
    pub store: &'a Path,
    /// A variable of the caller's environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// A profile, and all that was found out on the way to it.
#[derive(Debug)]
pub struct Opened {
    pub profile: Profile,
    pub loaded: Loaded,
    pub origin: Origin,
    /// The project's directory, resolved; `profile.project.path` is the same where the project is mounted.
    pub project: PathBuf,
    /// As the profile or the caller has written it, absolute, before links were followed; `None`: nobody has.
    pub written: Option<PathBuf>,
    /// What a person should hear once, on stderr.
    pub notes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Findings(#[from] Findings),
}

/// From a command line to a validated profile whose project is settled.
///
/// # Errors
/// No profile, or all that is wrong with it.
pub fn open(request: &Request<'_>) -> Result<Opened, OpenError> {
    let search = &request.search;
    let found = match (request.profile, request.image) {
        (None, Some(_)) => bare(),
        (None, None) => nearest(request)?,
        (profile, _) => find(profile, search)?,
    };
    finish(found, request)
}

/// The nearest profile upwards, or where there is none that of the project which the caller names.
fn nearest(request: &Request<'_>) -> Result<Found, FindError> {
    let nowhere = match (find(None, &request.search), request.project) {
        (Err(error @ FindError::Nowhere { .. }), Some(_)) => error,
        (found, _) => return found,
    };
    let project = files::resolve(&request.search.cwd.join(request.project.unwrap_or(Path::new(""))));
    match find(None, &Search { cwd: &project, ..request.search }) {
        Err(FindError::Nowhere { .. }) => Err(nowhere),
        found => found,
    }
}

fn finish(found: Found, request: &Request<'_>) -> Result<Opened, OpenError> {
    let search = &request.search;
    let (origin, path) = (found.origin, found.path().map(Path::to_owned));
    let mut sets = request.sets.to_vec();
    // First, so that `--set image=` still wins, as the later word on the command line would.
    sets.splice(0..0, request.image.map(|image| format!("image={}", toml::Value::String(image.into()))));
    let loaded = found.load(&sets, search);
    let vars = |project| Vars { home: search.home, env: request.env, project };
    let written = match request.project {
        Some(path) => Some(search.cwd.join(path)),
        // What is wrong with it is told with everything else.
        None => loaded.project_path(&vars(None)).unwrap_or_default(),
    };
    let project = match &written {
        Some(path) => Project { path: files::resolve(path), refused: None },
        None => place(origin, path.as_deref(), search, request.store),
    };
    let mut profile = loaded.finish(&vars(Some(&project.path)))?;
    let mut notes = loaded.notes().to_vec();
    if let Some(reason) = project.refused.filter(|_| profile.project.mode != ProjectMode::None) {
        profile.project.mode = ProjectMode::None;
        notes.push(format!("no project: `{}` {reason}; `--project DIR` names one", escape(&project.path.to_string_lossy())));
    }
    profile.project.path = Some(project.path.clone());
    Ok(Opened { profile, loaded, origin, project: project.path, written, notes })
}
