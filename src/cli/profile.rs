//! `hamper profile`: check, show, list and begin profiles.

use super::exit::ExitCode;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use super::diagnostic;
use super::output::{say, talk};
use crate::host::Directories;
use crate::profile::{self, Caller, FindError, Findings, OpenError, Opened, Request, Search};

/// Look at profiles: check, show, list, begin one
#[derive(clap::Args, Debug)]
pub struct ProfileArgs {
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Subcommand, Debug)]
enum ProfileCommand {
    Check(CheckArgs),
    Show(ShowArgs),
    Ls(LsArgs),
    New(NewArgs),
    /// Print the JSON Schema of profiles, for editors
    Schema,
}

/// Tell everything that is wrong with profiles, with file, line and key
#[derive(clap::Args, Debug)]
struct CheckArgs {
    /// Paths or names; the nearest hamper.toml upwards where absent
    #[arg(value_name = "PROFILE")]
    profiles: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Print the effective profile, each value with where it came from
#[derive(clap::Args, Debug)]
struct ShowArgs {
    /// A path or name; the nearest hamper.toml upwards where absent
    profile: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// List the profiles that have a name here
#[derive(clap::Args, Debug)]
struct LsArgs {
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

/// Write a commented hamper.toml into the current directory
#[derive(clap::Args, Debug)]
struct NewArgs {
    /// Name of the profile [default: the directory's]
    name: Option<String>,
    /// Image that it starts from
    #[arg(long, value_name = "REF", conflicts_with = "from")]
    image: Option<String>,
    /// Profile whose text it starts from
    #[arg(long, value_name = "PROFILE")]
    from: Option<String>,
}

#[derive(clap::Args, Debug)]
struct Common {
    /// Set any key of the profile
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The project directory
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

impl Common {
    fn json(&self) -> bool {
        self.json || self.format == Format::Json
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Something was found, as opposed to something that could not be done.
const FINDING: u8 = 1;
const USAGE: u8 = 2;

pub fn run(args: &ProfileArgs) -> ExitCode {
    let result = match &args.command {
        ProfileCommand::Check(args) => check(args),
        ProfileCommand::Show(args) => show(args),
        ProfileCommand::Ls(args) => ls(args),
        ProfileCommand::New(args) => new(args),
        ProfileCommand::Schema => {
            say(&profile::schema());
            Ok(0)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure { message, hint }) => {
            talk(&super::error::told(&message, hint.as_deref()));
            ExitCode::from(USAGE)
        }
    }
}

/// What could not be done at all.
struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>, hint: Option<&str>) -> Self {
        Self { message: message.into(), hint: hint.map(str::to_owned) }
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        Self { hint: error.hint(), message: error.to_string() }
    }
}

/// Where the caller stands.
struct Here {
    cwd: PathBuf,
    directories: Directories,
    caller: Caller,
}

impl Here {
    fn find() -> Result<Self, Failure> {
        let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from))
            .map_err(|error| Failure::new(error.to_string(), Some("export HOME=/path/to/your/home")))?;
        let cwd = std::env::current_dir().map_err(|error| Failure::new(format!("the current directory cannot be found: {error}"), None))?;
        let caller = Caller { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() };
        Ok(Self { cwd, directories, caller })
    }

    fn search(&self) -> Search<'_> {
        Search { cwd: &self.cwd, home: &self.directories.home, config: &self.directories.config, caller: self.caller }
    }

    fn open(&self, name: Option<&str>, common: &Common) -> Result<Opened, OpenError> {
        profile::open(&Request {
            profile: name,
            image: None,
            sets: &common.set,
            project: common.project.as_deref(),
            search: self.search(),
            store: &self.directories.data,
            env: &|name| std::env::var(name).ok(),
        })
    }
}

fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let here = Here::find()?;
    let names: Vec<Option<&str>> =
        if args.profiles.is_empty() { vec![None] } else { args.profiles.iter().map(|name| Some(&**name)).collect() };
    let mut results = Vec::with_capacity(names.len());
    let mut code = 0;
    for name in names {
        let findings = match here.open(name, &args.common) {
            Ok(opened) => {
                opened.notes.iter().for_each(|note| talk(&format!("hamper: {}", super::error::escape(note))));
                Findings::default()
            }
            Err(OpenError::Find(error)) => return Err(error.into()),
            Err(OpenError::Findings(findings)) => findings,
        };
        if !findings.is_empty() {
            code = FINDING;
        }
        results.push((name.unwrap_or("hamper.toml"), findings));
    }
    if args.common.json() {
        let profiles =
            results.iter().map(|(name, findings)| json!({ "profile": name, "findings": findings.findings, "more": findings.more }));
        say(&pretty(&json!({ "profiles": profiles.collect::<Vec<_>>() })));
    } else {
        for (_, findings) in results.iter().filter(|(_, findings)| !findings.is_empty()) {
            say(&diagnostic::render(findings, diagnostic::colour_on_stdout()));
        }
    }
    Ok(code)
}

fn show(args: &ShowArgs) -> Result<u8, Failure> {
    let here = Here::find()?;
    match here.open(args.profile.as_deref(), &args.common) {
        Ok(opened) => {
            opened.notes.iter().for_each(|note| talk(&format!("hamper: {}", super::error::escape(note))));
            say(&if args.common.json() { pretty(&shown(&opened)) } else { opened.loaded.show(&opened.profile) });
            Ok(0)
        }
        Err(OpenError::Find(error)) => Err(error.into()),
        Err(OpenError::Findings(findings)) => {
            talk(diagnostic::render(&findings, diagnostic::colour_on_stderr()).trim_end());
            Ok(FINDING)
        }
    }
}

fn shown(opened: &Opened) -> Json {
    let values = opened.loaded.values(&opened.profile).into_iter().map(|shown| {
        let key = if shown.section.is_empty() { shown.name } else { format!("{}.{}", shown.section, shown.name) };
        json!({ "key": key, "value": shown.value, "origin": shown.origin })
    });
    json!({ "profile": opened.profile, "values": values.collect::<Vec<_>>() })
}

fn pretty(value: &Json) -> String {
    super::output::json(&serde_json::to_string_pretty(value).unwrap_or_default())
}

fn ls(args: &LsArgs) -> Result<u8, Failure> {
    let here = Here::find()?;
    let listed = profile::list(&here.search());
    if args.json || args.format == Format::Json {
        let rows = listed.iter().map(
            |one| json!({ "name": one.name, "origin": one.origin.word(), "path": one.path, "about": one.about, "shadowed": one.shadowed }),
        );
        say(&pretty(&json!({ "profiles": rows.collect::<Vec<_>>() })));
        return Ok(0);
    }
    let widest = listed.iter().map(|one| one.name.chars().count()).max().unwrap_or_default();
    let rows = listed.iter().map(|one| {
        let shadowed = if one.shadowed { " (shadowed)" } else { "" };
        format!("{:widest$}  {:7}  {}{shadowed}\n", one.name, one.origin.word(), one.about)
    });
    say(&rows.collect::<String>());
    Ok(0)
}

fn new(args: &NewArgs) -> Result<u8, Failure> {
    let here = Here::find()?;
    let name = args.name.clone().or_else(|| here.cwd.file_name().map(|name| profile::name_from(&name.to_string_lossy())));
    let name = name.unwrap_or_else(|| "app".into());
    let text = match &args.from {
        Some(from) => renamed(
            &profile::find(Some(from), &here.search())?.read().map_err(|error| Failure::new(format!("`{from}` {error}"), None))?,
            &name,
        ),
        None => template(&name, args.image.as_deref().unwrap_or("docker.io/library/debian:stable")),
    };
    valid(&text, &here)?;
    let path = here.cwd.join("hamper.toml");
    write_new(&path, &text)?;
    super::trust::take(&path, &here.directories).map_err(|error| Failure::new(error.to_string(), None))?;
    talk(&format!("wrote {}", profile::escape(&path.to_string_lossy())));
    Ok(0)
}

/// What is written must be right: a name or image from the command line may not be.
fn valid(text: &str, here: &Here) -> Result<(), Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let vars = profile::Vars { home: &here.directories.home, env: &env, project: Some(&here.cwd) };
    match profile::local_text("hamper.toml", text, &here.cwd, &[]).finish(&vars) {
        Ok(_) => Ok(()),
        Err(findings) => {
            let first = findings.findings.into_iter().next();
            let (key, message, hint) = first.map(|finding| (finding.key, finding.message, finding.hint)).unwrap_or_default();
            Err(Failure { message: format!("{key}: {message}"), hint })
        }
    }
}

/// The text with its own name in the place of the old one.
fn renamed(text: &str, name: &str) -> String {
    let own = format!("name = {}", toml::Value::String(name.into()));
    let mut seen = false;
    let lines = text.lines().map(|line| {
        let is_name = !seen && line.trim_start().strip_prefix("name").is_some_and(|rest| rest.trim_start().starts_with('='));
        seen |= is_name || line.starts_with('[');
        if is_name { own.clone() } else { line.to_owned() }
    });
    let mut renamed = lines.collect::<Vec<_>>().join("\n");
    renamed.push('\n');
    renamed
}

fn template(name: &str, image: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.into()).to_string();
    format!(
        r#"# For whom, and for what: say it here; `hamper profile ls` shows this line.
schema = 1
name = {name}
image = {image}

# What runs; absent: the image's own command.
# command = ["bash"]

# Names taken from your environment; nothing else is.
# env_pass = ["TERM", "LANG"]

[env]
# NODE_ENV = "development"

[project]
# rw | ro | scratch | none
mode = "rw"
# Cannot be read inside.
# hide = [".env"]

# [[mounts]]
# source = "../data"
# target = "/data"
# mode = "ro"

[network]
# none | filtered | nat | host
mode = "none"
# allow = ["packages.example.org:443"]

[limits]
# memory = "2G"
# pids = 512

[expose]
# Shims for the host's PATH.
# commands = ["node"]
"#,
        name = quoted(name),
        image = quoted(image),
    )
}

/// Written beside and moved into place; a file that is there already stays.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let exists = || Failure::new(format!("`{}` exists already", profile::escape(&path.to_string_lossy())), Some("hamper profile check"));
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(exists());
    }
    let beside = path.with_file_name(format!(".hamper.toml.{}", std::process::id()));
    let failed =
        |error: std::io::Error| Failure::new(format!("`{}` cannot be written: {error}", profile::escape(&path.to_string_lossy())), None);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside).map_err(failed)?;
    // A hard link takes no name that is taken, on every file system that has links; there, nothing is overwritten.
    let written = file.write_all(text.as_bytes()).and_then(|()| std::fs::hard_link(&beside, path));
    // Ignoring: what could not be removed is a small file with a name of its own.
    let _ = std::fs::remove_file(&beside);
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists()),
        other => other.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_only_at_the_top() {
        let text = "# c\nname = \"a\"\nimage = \"host\"\n[env]\nname = \"x\"\n";
        assert_eq!(renamed(text, "b"), "# c\nname = \"b\"\nimage = \"host\"\n[env]\nname = \"x\"\n");
        assert_eq!(renamed("[env]\nname = \"x\"\n", "b"), "[env]\nname = \"x\"\n");
    }

    #[test]
    fn the_template_is_valid() {
        let env = |_: &str| None;
        let vars = profile::Vars { home: Path::new("/home/u"), env: &env, project: None };
        profile::local_text("t", &template("a", "host"), Path::new("/"), &[]).finish(&vars).unwrap_or_else(|findings| panic!("{findings}"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("hamper.toml");
        assert!(write_new(&path, "a").is_ok());
        assert!(write_new(&path, "b").is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "a");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
