//! `hamper trust`, and what it is for: a file that a payload may have made or changed is not obeyed unseen.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::{CliError, escape};
use super::exit::ExitCode;
use super::inputs::{Inputs, MAX_FILE, open_regular};
use super::ledger::Ledger;
use super::output::{say, talk};
use super::run::CommonArgs;
use super::sources::without_dots;
use super::which;
use crate::host::{Directories, Ids};
use crate::profile::{Profile, Seen};

/// Take files as they are that a sandbox could have made or changed; without FILE, name the first that `hamper run` would refuse here
#[derive(Args, Debug)]
pub struct TrustArgs {
    /// Profiles, and files that profiles name, which you have read
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub fn run(args: &TrustArgs) -> ExitCode {
    match trust(args) {
        Ok(code) => code,
        Err(error) => {
            talk(&error.render());
            ExitCode::FAILURE
        }
    }
}

fn trust(args: &TrustArgs) -> Result<ExitCode, CliError> {
    let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from))?;
    let current = std::env::current_dir().map_err(|source| CliError::Io { act: "find", path: "the current directory".into(), source })?;
    if args.files.is_empty() {
        let chosen = which::choose(&CommonArgs::default(), &directories, Ids::own()?, &current)?;
        let inputs = Inputs::read(&chosen.profile)?;
        let mut ledger = Ledger::read(&directories)?;
        let suspect = ledger.suspect(&obeyed(&chosen.profile, &inputs));
        suspect.iter().for_each(|path| say(&escape(&path.to_string_lossy())));
        return Ok(if suspect.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    args.files.iter().try_for_each(|file| take(&current.join(file), &directories))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes a file as it is: the caller has read it, or hamper has written it at his word.
///
/// # Errors
/// [`CliError::Io`] of the file or the ledger.
pub fn take(file: &Path, directories: &Directories) -> Result<(), CliError> {
    Ledger::read(directories)?.trust(&see(&without_dots(file))?)
}

/// What the file is at this moment, which is what the caller says that he has read.
fn see(path: &Path) -> Result<Seen, CliError> {
    let wrap = |source| CliError::Io { act: "read", path: path.to_owned(), source };
    let file = open_regular(path).map_err(wrap)?;
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE).read_to_end(&mut bytes).map_err(wrap)?;
    Seen::of(path, file.as_fd(), &bytes).map_err(|errno| wrap(errno.into()))
}

/// Every file of the host that decides what a sandbox is given.
pub fn obeyed(profile: &Profile, inputs: &Inputs) -> Vec<Seen> {
    let named = |seen: &Seen| Seen { path: without_dots(&seen.path), ..seen.clone() };
    profile.seen.iter().chain(&inputs.seen).map(named).collect()
}

/// # Errors
/// [`CliError::Told`] names the first file that a payload may have made or changed.
pub fn refuse_suspects(ledger: &mut Ledger, files: &[Seen]) -> Result<(), CliError> {
    match ledger.suspect(files) {
        None => Ok(()),
        Some(file) => Err(refused(&file)),
    }
}

fn refused(file: &Path) -> CliError {
    CliError::Told {
        words: format!(
            "{} may have been made or changed by a sandbox that could write there, and it decides what a sandbox may reach",
            file.display()
        ),
        hint: Some(format!("read it, then: hamper trust '{}'", file.display())),
    }
}
