//! A name that was given by `--name` has one sandbox at a time.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::CliError;
use super::state::make_directory;
use crate::host::Directories;

/// Takes the name until the descriptor is closed, at the latest by the end of the process.
///
/// # Errors
/// [`CliError::Told`] says who has it.
pub fn take(name: &str, directories: &Directories) -> Result<OwnedFd, CliError> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir());
    let directory = runtime.map_or_else(|| directories.state.clone(), |runtime| runtime.join("hamper")).join("names");
    make_directory(&directory)?;
    let path = directory.join(format!("{name}.lock"));
    let wrap = |source| CliError::Io { act: "lock", path: path.clone(), source };
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(wrap)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(wrap)?;
            Err(CliError::Told {
                words: format!("a sandbox named {name} runs already, by process {}", owner.trim()),
                hint: Some("choose another --name, or leave it out".into()),
            })
        }
        Err(errno) => Err(wrap(errno.into())),
        Ok(()) => {
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(wrap)?;
            Ok(file.into())
        }
    }
}
