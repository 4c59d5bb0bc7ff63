//! `hamper trust`, and what it is for: a file that a payload may have made or changed is not obeyed unseen.

use std::path::{Path, PathBuf};

use clap::Args;

use super::error::{CliError, escape};
use super::exit::ExitCode;
use super::ledger::Ledger;
use super::output::{say, talk};
use super::run::CommonArgs;
use super::sources::without_dots;
use super::which;
use crate::host::{Directories, Ids};
use crate::profile::{Profile, SeccompSource, SecretSource};

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
    let mut ledger = Ledger::read(&directories)?;
    let current = std::env::current_dir().map_err(|source| CliError::Io { act: "find", path: "the current directory".into(), source })?;
    if args.files.is_empty() {
        let chosen = which::choose(&CommonArgs::default(), &directories, Ids::own()?, &current)?;
        let suspect = ledger.suspect(&obeyed(&chosen.profile));
        suspect.iter().for_each(|path| say(&escape(&path.to_string_lossy())));
        return Ok(if suspect.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    for file in &args.files {
        ledger.trust(&without_dots(&current.join(file)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every file of the host that decides what a sandbox is given.
pub fn obeyed(profile: &Profile) -> Vec<PathBuf> {
    let secrets = profile.secrets.iter().filter_map(|secret| match &secret.from {
        SecretSource::File(path) => Some(path),
        SecretSource::Env(_) => None,
    });
    let seccomp = match &profile.security.seccomp {
        SeccompSource::File(path) => Some(path),
        _ => None,
    };
    profile.files.iter().chain(&profile.env_file).chain(seccomp).chain(secrets).map(|path| without_dots(path)).collect()
}

/// # Errors
/// [`CliError::Told`] names the first file that a payload may have made or changed.
pub fn refuse_suspects(ledger: &mut Ledger, profile: &Profile) -> Result<(), CliError> {
    refuse_suspect_files(ledger, &obeyed(profile))
}

/// As [`refuse_suspects`], of these files alone.
pub fn refuse_suspect_files(ledger: &mut Ledger, files: &[PathBuf]) -> Result<(), CliError> {
    match ledger.suspect(files) {
        None => Ok(()),
        Some(file) => Err(refused(&file)),
    }
}

fn refused(file: &Path) -> CliError {
    CliError::Told {
        words: format!("{} was made or changed while a sandbox could write there, and it decides what a sandbox may reach", file.display()),
        hint: Some(format!("read it, then: hamper trust '{}'", file.display())),
    }
}
