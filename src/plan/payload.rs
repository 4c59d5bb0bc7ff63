//! The payload: its command line, environment and working directory.

use std::path::{Path, PathBuf};

use super::PlanError;
use super::request::{Image, Project};
use crate::profile::{Profile, ProjectMode};

/// What the caller gave on the command line, and where the caller stands.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// COMMAND: replaces CMD.
    pub command: Vec<String>,
    /// `--entrypoint`: replaces ENTRYPOINT; empty drops it.
    pub entrypoint: Option<Vec<String>>,
    /// `-e`, the last word on the environment.
    pub environment: Vec<(String, String)>,
    /// `-w`
    pub workdir: Option<String>,
    /// The caller's working directory, resolved.
    pub directory: PathBuf,
    /// No entrypoint at all, as `shell` and `exec` have it.
    pub no_entrypoint: bool,
    /// Which of descriptors 0, 1, 2 become a terminal of the payload's own.
    pub terminal: [bool; 3],
    /// Which of them are the caller's terminal, and become pipes.
    pub pipes: [bool; 3],
}

impl Invocation {
    pub fn has_terminal(&self) -> bool {
        self.terminal.contains(&true)
    }

    fn changes_command(&self) -> bool {
        !self.command.is_empty() || self.entrypoint.is_some() || self.no_entrypoint
    }
}

/// ENTRYPOINT + CMD with what profile and caller put in their place; replacing the entrypoint drops the image's CMD.
pub fn argv(profile: &Profile, image: &Image, invocation: &Invocation) -> Result<Vec<String>, PlanError> {
    let replaced = invocation.entrypoint.as_ref().or(profile.entrypoint.as_ref());
    let mut argv = match replaced {
        _ if invocation.no_entrypoint => Vec::new(),
        Some(entrypoint) => entrypoint.clone(),
        None => image.entrypoint.clone(),
    };
    if !invocation.command.is_empty() {
        argv.extend_from_slice(&invocation.command);
    } else if let Some(command) = &profile.command {
        argv.extend_from_slice(command);
    } else if replaced.is_none() {
        argv.extend_from_slice(&image.cmd);
    }
    if argv.is_empty() { Err(PlanError::NoCommand) } else { Ok(argv) }
}

/// Docker's PATH for an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment, last wins: image, env files, passed names, `[env]`, `-e`.
///
/// `files` are the parsed env files in order, `passed` what `env_pass` takes from the caller.
pub fn payload_environment(
    profile: &Profile,
    image: &Image,
    invocation: &Invocation,
    files: &[(String, String)],
    passed: &[(String, String)],
) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = Vec::new();
    let defaults = [("PATH", DEFAULT_PATH), ("HOME", &image.user.home), ("HOSTNAME", &profile.hostname)];
    for (name, value) in defaults {
        set(&mut environment, name, value);
    }
    if invocation.has_terminal() {
        set(&mut environment, "TERM", "xterm");
    }
    for (name, value) in [&image.environment, files, passed, &profile.env, &invocation.environment].into_iter().flatten() {
        set(&mut environment, name, value);
    }
    environment
}

fn set(environment: &mut Vec<(String, String)>, name: &str, value: &str) {
    match environment.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => environment.push((name.to_owned(), value.to_owned())),
    }
}

/// Where the payload starts: what was asked for; else the image's WORKDIR if its own command runs and that says something; else the
/// caller's directory where it lies in the project; else the project; else home.
pub fn workdir(profile: &Profile, image: &Image, invocation: &Invocation, project: &Project) -> String {
    if let Some(asked) = invocation.workdir.as_ref().or(profile.workdir.as_ref()) {
        return inside_home(asked, &image.user.home);
    }
    let own_command = !invocation.changes_command() && profile.command.is_none() && profile.entrypoint.is_none();
    let says_something = !image.workdir.is_empty() && image.workdir != "/";
    if own_command && says_something {
        return image.workdir.clone();
    }
    match &project.source {
        Some(_) if project.mode != ProjectMode::None => {
            let below = invocation.directory.strip_prefix(&project.path).unwrap_or(Path::new(""));
            Path::new(&project.target).join(below).to_string_lossy().trim_end_matches('/').to_owned()
        }
        _ if says_something => image.workdir.clone(),
        _ if image.is_host() => image.user.home.clone(),
        _ => "/".into(),
    }
}

/// `~` in a target is the home of the user inside.
pub fn inside_home(target: &str, home: &str) -> String {
    match target.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", home.trim_end_matches('/')),
        _ => target.to_owned(),
    }
}
