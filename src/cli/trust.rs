//! `hamper trust`, and what it is for: a profile that was made or changed while a sandbox could write there is not obeyed unseen.
//!
//! `$XDG_STATE_HOME/hamper/untrusted` has a file for each such path, named by a hash of the path, with the path in it.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::{CliError, escape};
use super::exit::ExitCode;
use super::output::{say, talk};
use super::start::{make_directory, short_hash};
use crate::host::Directories;
use crate::supervise::Tell;

/// Obey profiles again that were made or changed while a sandbox could write them; without FILE, list those
#[derive(Args, Debug)]
pub struct TrustArgs {
    /// Profiles that you have read
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub fn run(args: &TrustArgs) -> ExitCode {
    match trust(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            talk(&error.render());
            ExitCode::FAILURE
        }
    }
}

fn trust(args: &TrustArgs) -> Result<(), CliError> {
    let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from))?;
    if args.files.is_empty() {
        list(&directories)?.iter().for_each(|path| say(&escape(&path.to_string_lossy())));
        return Ok(());
    }
    for file in &args.files {
        let wrap = |source| CliError::Io { act: "find", path: file.clone(), source };
        let path = resolved(&std::path::absolute(file).map_err(wrap)?);
        match std::fs::remove_file(mark(&directories, &path)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CliError::Told {
                    words: format!("nothing is held against {}", file.display()),
                    hint: Some("hamper trust".into()),
                });
            }
            Err(source) => return Err(CliError::Io { act: "trust", path, source }),
        }
    }
    // While others are listed there the directory stays.
    let _ = std::fs::remove_dir(directory(&directories));
    Ok(())
}

fn list(directories: &Directories) -> Result<Vec<PathBuf>, CliError> {
    let directory = directory(directories);
    let wrap = |source| CliError::Io { act: "list", path: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(wrap)?,
    };
    let path = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read(entry?.path()).map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)))
    };
    let mut paths = entries.map(path).collect::<std::io::Result<Vec<_>>>().map_err(wrap)?;
    paths.sort();
    Ok(paths)
}

fn directory(directories: &Directories) -> PathBuf {
    directories.state.join("untrusted")
}

fn mark(directories: &Directories, path: &Path) -> PathBuf {
    directory(directories).join(short_hash(path.as_os_str().as_bytes()))
}

/// Links on the way to a file are followed, the file itself is not.
fn resolved(path: &Path) -> PathBuf {
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    parent.map_or_else(|| path.to_owned(), |parent| parent.join(path.file_name().unwrap_or(OsStr::new(""))))
}

/// Remembers a profile that the sandbox made or changed, and says so once.
pub fn distrust_in(directories: &Directories) -> Tell {
    let directories = directories.clone();
    Box::new(move |path| {
        let path = resolved(path);
        let mark = mark(&directories, &path);
        if mark.exists() {
            return;
        }
        let kept = make_directory(&directory(&directories)).and_then(|()| {
            std::fs::write(&mark, path.as_os_str().as_bytes()).map_err(|source| CliError::Io { act: "remember", path: mark, source })
        });
        let shown = escape(&path.to_string_lossy());
        talk(&format!(
            "hamper: {shown} was made or changed while the sandbox ran; runs refuse it until you have read it: hamper trust '{shown}'"
        ));
        if let Err(error) = kept {
            talk(&error.render());
        }
    })
}

/// What a sandbox could have written is obeyed only when the caller says so.
///
/// # Errors
/// [`CliError::Told`] names the first such file.
pub fn refuse_untrusted(files: &[PathBuf], directories: &Directories) -> Result<(), CliError> {
    if files.is_empty() || !directory(directories).exists() {
        return Ok(());
    }
    match files.iter().map(|file| resolved(file)).find(|file| mark(directories, file).exists()) {
        None => Ok(()),
        Some(file) => Err(CliError::Told {
            words: format!(
                "{} was made or changed while a sandbox could write there, and it decides what a sandbox may reach",
                file.display()
            ),
            hint: Some(format!("read it, then: hamper trust '{}'", file.display())),
        }),
    }
}
