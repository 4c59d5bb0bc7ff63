//! Which profile: a path, a name, or the nearest `hamper.toml` upwards.

use std::path::{Path, PathBuf};

use super::files::{self, Caller, Opened, ReadError};
use super::finding::{escape, nearest};
use super::finish::Loaded;
use super::load::{Texts, shown};
use super::shipped::{SHIPPED, Shipped};
use super::source::Layer;
use super::value;

/// Where the caller stands; all paths are absolute.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    pub cwd: &'a Path,
    pub home: &'a Path,
    /// `$XDG_CONFIG_HOME/hamper`
    pub config: &'a Path,
    pub caller: Caller,
}

/// By which rule a profile was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The nearest `hamper.toml`.
    Upwards,
    /// Given as a path.
    Path,
    /// `./profiles/NAME.toml`
    Here,
    /// `$XDG_CONFIG_HOME/hamper/profiles/NAME.toml`
    User,
    /// Inside the binary.
    Shipped,
    /// None at all: an image was named instead.
    Bare,
}

impl Origin {
    pub fn word(self) -> &'static str {
        match self {
            Self::Upwards | Self::Path => "project",
            Self::Here => "here",
            Self::User => "user",
            Self::Shipped => "shipped",
            Self::Bare => "none",
        }
    }
}

/// A profile that is open but not read yet.
#[derive(Debug)]
pub struct Found {
    pub origin: Origin,
    pub notes: Vec<String>,
    text: Text,
}

#[derive(Debug)]
enum Text {
    File(Opened),
    Built(&'static Shipped),
    Empty,
}

/// Why no profile was found. All of these end a run with 125.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("no `hamper.toml` from `{}` upwards{}", escape(&from.to_string_lossy()), stopped(stop.as_deref()))]
    Nowhere { from: PathBuf, stop: Option<String> },
    #[error("no profile is called `{}`", escape(name))]
    Unknown { name: String, near: Option<String> },
    #[error("`{}` is no profile name", escape(name))]
    BadName { name: String },
    #[error("`{}` {error}", escape(&path.to_string_lossy()))]
    Unreadable { path: PathBuf, error: ReadError },
}

fn stopped(stop: Option<&str>) -> String {
    stop.map(|stop| format!(" ({stop})")).unwrap_or_default()
}

impl FindError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nowhere { .. } => Some("try: hamper run hello".into()),
            Self::Unknown { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Self::Unknown { .. } | Self::BadName { .. } => {
                Some("`hamper profile ls` lists the names; a path contains `/` or ends in `.toml`".into())
            }
            Self::Unreadable { path, error } => error.hint(path),
        }
    }
}

/// The profile that `profile` means, or that is nearest where nothing is said.
///
/// # Errors
/// None found, or one found that must not be read.
pub fn find(profile: Option<&str>, search: &Search<'_>) -> Result<Found, FindError> {
    #[expect(clippy::case_sensitive_file_extension_comparisons, reason = "a file's name is taken as it is written")]
    match profile {
        None => upwards(search),
        Some(path) if path.contains('/') || path.ends_with(".toml") => {
            let path: PathBuf = search.cwd.join(path).components().collect();
            Ok(Found { origin: Origin::Path, notes: Vec::new(), text: Text::File(open(&path, search)?) })
        }
        Some(name) => by_name(name, search),
    }
}

/// No profile: every key has its default, and the image comes by `--set image=…`.
pub fn bare() -> Found {
    Found { origin: Origin::Bare, notes: Vec::new(), text: Text::Empty }
}

fn open(path: &Path, search: &Search<'_>) -> Result<Opened, FindError> {
    files::open(path, search.caller).map_err(|error| FindError::Unreadable { path: path.to_owned(), error })
}

/// As `open`, but what does not exist is no error.
fn open_if_there(path: &Path, search: &Search<'_>) -> Result<Option<Opened>, FindError> {
    match open(path, search) {
        Ok(opened) => Ok(Some(opened)),
        Err(FindError::Unreadable { error: ReadError::Missing, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn by_name(name: &str, search: &Search<'_>) -> Result<Found, FindError> {
    value::name(name).map_err(|_| FindError::BadName { name: name.into() })?;
    let built = SHIPPED.iter().find(|shipped| shipped.name == name);
    let user_path = search.config.join(format!("profiles/{name}.toml"));
    let here_path = search.cwd.join(format!("profiles/{name}.toml"));
    if let Some(opened) = open_if_there(&here_path, search)? {
        let shadowed =
            if files::exists(&user_path) { Some(shown(&user_path, search.cwd)) } else { built.map(|_| "the shipped one".to_owned()) };
        let note = shadowed.map(|other| format!("`{name}` is ./profiles/{name}.toml, which shadows {}", escape(&other)));
        return Ok(Found { origin: Origin::Here, notes: note.into_iter().collect(), text: Text::File(opened) });
    }
    if let Some(opened) = open_if_there(&user_path, search)? {
        return Ok(Found { origin: Origin::User, notes: Vec::new(), text: Text::File(opened) });
    }
    match built {
        Some(built) => Ok(Found { origin: Origin::Shipped, notes: Vec::new(), text: Text::Built(built) }),
        None => {
            let names = list(search);
            let near = nearest(name, names.iter().map(|listed| &*listed.name)).map(str::to_owned);
            Err(FindError::Unknown { name: name.into(), near })
        }
    }
}

fn upwards(search: &Search<'_>) -> Result<Found, FindError> {
    let mut stop = None;
    for step in Climb::new(search) {
        match step {
            Ok(dir) => {
                if let Some(opened) = open_if_there(&dir.join("hamper.toml"), search)? {
                    return Ok(Found { origin: Origin::Upwards, notes: Vec::new(), text: Text::File(opened) });
                }
            }
            Err(reason) => stop = Some(reason),
        }
    }
    Err(FindError::Nowhere { from: search.cwd.to_owned(), stop })
}

/// Where a project may be, seen from the current directory.
pub(super) struct Surroundings<'a> {
    /// The directory of the nearest `hamper.toml`, whatever is in it, else of the nearest `.git`.
    pub project: Option<&'a Path>,
    /// Whether the current directory is one that others cannot write.
    pub private: bool,
}

impl<'a> Surroundings<'a> {
    pub fn look(search: &Search<'a>) -> Self {
        let mut seen = Self { project: None, private: false };
        for dir in Climb::new(search).filter_map(Result::ok) {
            seen.private = true;
            if files::exists(&dir.join("hamper.toml")) {
                seen.project = Some(dir);
                break;
            }
            if seen.project.is_none() && files::exists(&dir.join(".git")) {
                seen.project = Some(dir);
            }
        }
        seen
    }
}

/// From the current directory upwards, as far as files there may be trusted: not into $HOME from below, not across a mount, and
/// not into a directory that others can write. The last element may say why it ended.
struct Climb<'a, 's> {
    next: Option<&'a Path>,
    search: &'s Search<'a>,
    mount: Option<(u64, u64)>,
}

impl<'a, 's> Climb<'a, 's> {
    fn new(search: &'s Search<'a>) -> Self {
        Self { next: Some(search.cwd), search, mount: None }
    }

    fn stop(&mut self, why: String) -> Option<Result<&'a Path, String>> {
        self.next = None;
        Some(Err(why))
    }
}

impl<'a> Iterator for Climb<'a, '_> {
    type Item = Result<&'a Path, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let dir = self.next?;
        let quoted = || format!("`{}`", escape(&dir.to_string_lossy()));
        let Some(facts) = files::directory(dir, self.search.caller) else {
            return self.stop(format!("{} cannot be looked at", quoted()));
        };
        let first = self.mount.is_none();
        if facts.others_write {
            return self.stop(format!("not looked into {}, which others can write", quoted()));
        }
        if *self.mount.get_or_insert(facts.mount) != facts.mount {
            return self.stop(format!("stopped below {}, which is another mount", quoted()));
        }
        let home = dir == self.search.home;
        if home && !first {
            return self.stop(format!("stopped below your home {}", quoted()));
        }
        self.next = if home { None } else { dir.parent() };
        Some(Ok(dir))
    }
}

impl Found {
    /// Where the file lies; absent for what is built in.
    pub fn path(&self) -> Option<&Path> {
        match &self.text {
            Text::File(opened) => Some(&opened.path),
            Text::Built(_) | Text::Empty => None,
        }
    }

    /// The text alone, for a profile that starts from it.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(self) -> Result<String, ReadError> {
        match self.text {
            Text::File(opened) => opened.read().map(|(text, _)| text),
            Text::Built(built) => Ok(built.text.to_owned()),
            Text::Empty => Ok(String::new()),
        }
    }

    /// Reads it, what it includes, `hamper.local.toml` beside it, and the values of `--set`. What is wrong is told by
    /// [`Loaded::finish`], together with what else is.
    pub fn load(self, sets: &[String], search: &Search<'_>) -> Loaded {
        let mut texts = Texts::default();
        let default_name = self.default_name();
        match self.text {
            Text::File(opened) => {
                let dir = opened.path.parent().map(Path::to_owned);
                texts.file(opened, Layer::Profile, search.cwd, search.caller);
                if let Some(dir) = dir {
                    texts.local(&dir, search.cwd, search.caller);
                }
            }
            Text::Built(built) => {
                texts.text(format!("shipped:{}", built.name), built.text.to_owned(), search.cwd.to_owned(), Layer::Profile)
            }
            Text::Empty => texts.text("--image".into(), String::new(), search.cwd.to_owned(), Layer::Profile),
        }
        texts.sets(sets, search.cwd);
        texts.bury();
        Loaded { texts, default_name, notes: self.notes }
    }

    /// The directory's name for `hamper.toml`, else the file's own.
    fn default_name(&self) -> String {
        let name = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
        match &self.text {
            Text::Built(built) => built.name.to_owned(),
            Text::Empty => "sandbox".into(),
            Text::File(opened) if opened.path.file_name().is_some_and(|file| file == "hamper.toml") => {
                name(opened.path.parent().and_then(Path::file_name))
            }
            Text::File(opened) => name(opened.path.file_stem()),
        }
    }
}

/// The text of a profile that a test or an editor holds, with `dir` for its relative paths.
pub fn local_text(name: &str, text: &str, dir: &Path, sets: &[String]) -> Loaded {
    let mut texts = Texts::default();
    texts.text(name.to_owned(), text.to_owned(), dir.to_owned(), Layer::Profile);
    texts.sets(sets, dir);
    texts.bury();
    Loaded { texts, default_name: "sandbox".into(), notes: Vec::new() }
}

/// One of `hamper profile ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub origin: Origin,
    pub path: Option<PathBuf>,
    /// The first comment, which says whom it is for.
    pub about: String,
    /// Another of the same name is used instead.
    pub shadowed: bool,
}

/// Every profile that has a name here, those that win first.
pub fn list(search: &Search<'_>) -> Vec<Listed> {
    let mut listed: Vec<Listed> = Vec::new();
    let here = files::profiles_in(&search.cwd.join("profiles")).into_iter().map(|path| (Origin::Here, path));
    let user = files::profiles_in(&search.config.join("profiles")).into_iter().map(|path| (Origin::User, path));
    for (origin, path) in here.chain(user) {
        let Some(name) =
            path.file_stem().and_then(|stem| stem.to_str()).filter(|name| value::name(name).is_ok() && *name != "hamper.local")
        else {
            continue;
        };
        let about = match files::open(&path, search.caller).and_then(Opened::read) {
            Ok((text, _)) => first_comment(&text),
            Err(error) => error.to_string(),
        };
        add(&mut listed, Listed { name: name.to_owned(), origin, about, path: Some(path.clone()), shadowed: false });
    }
    for built in SHIPPED {
        add(
            &mut listed,
            Listed { name: built.name.into(), origin: Origin::Shipped, path: None, about: first_comment(built.text), shadowed: false },
        );
    }
    listed
}

fn add(listed: &mut Vec<Listed>, one: Listed) {
    let shadowed = listed.iter().any(|other| other.name == one.name);
    listed.push(Listed { shadowed, ..one });
}

fn first_comment(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).and_then(|line| line.trim().strip_prefix('#'));
    escape(line.unwrap_or_default().trim())
}
