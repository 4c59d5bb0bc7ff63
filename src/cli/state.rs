//! What is kept about a project and for all: directories of the caller's own, made where they are missing, and their locks.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::CliError;
use crate::host::{Directories, Host};
use crate::profile::Profile;

/// A kept root has one writer; the file says who.
///
/// # Errors
/// [`CliError::Told`] names the process that has it.
pub fn lock_keep(keep: &Path) -> Result<OwnedFd, CliError> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let path = keep.join("lock");
    let wrap = |source| CliError::Io { act: "lock", path: path.clone(), source };
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(wrap)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(wrap)?;
            return Err(CliError::Told {
                words: format!("the kept root of this project is in use by process {}", owner.trim()),
                hint: Some("wait for it to end, or run with --set root.mode=scratch".into()),
            });
        }
        result => result.map_err(|errno| wrap(errno.into()))?,
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(wrap)?;
    Ok(file.into())
}

/// Makes a directory of ours, and its parents, for the caller alone.
pub fn make_directory(path: &Path) -> Result<(), CliError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| CliError::Io {
        act: "make the directory",
        path: path.to_owned(),
        source,
    })
}

/// Runs of one project that share its home at the same time, under one user.
const MAX_HOMES: u32 = 256;

/// A work directory that no other run has: the kernel empties it with each mount, whoever is using it. The lock ends with this process.
pub fn lock_work(home: &Path) -> Result<(String, OwnedFd), CliError> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    for number in 0..MAX_HOMES {
        let name = if number == 0 { "w".to_owned() } else { format!("w{number}") };
        let path = home.join(&name);
        let wrap = |errno: Errno| CliError::Io { act: "lock", path: path.clone(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                make_directory(&path)?;
                open(&path, flags, Mode::empty())
            }
            result => result,
        };
        let fd = fd.map_err(wrap)?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok((name, fd)),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(wrap(errno)),
        }
    }
    Err(CliError::Told {
        words: format!("{MAX_HOMES} runs of this project are using its home"),
        hint: Some("--set identity.home=tmp".into()),
    })
}

/// Twenty hexadecimal digits that stand for a path in the names of what is kept about it.
pub fn short_hash(key: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(key).iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

/// Where a project's own things are kept: by its resolved path, never by its name.
pub struct ProjectState {
    pub directory: PathBuf,
}

impl ProjectState {
    pub fn new(directories: &Directories, profile: &Profile, project: Option<&Path>) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let key = match project {
            Some(path) => path.as_os_str().as_bytes().to_vec(),
            None => [b"profile:", profile.name.as_bytes()].concat(),
        };
        Self { directory: directories.state.join("projects").join(short_hash(&key)) }
    }

    /// A kept root belongs to one image and one map.
    pub fn keep(&self, digest: &str, host: &Host) -> PathBuf {
        let short: String = digest.rsplit(':').next().unwrap_or(digest).chars().take(16).collect();
        let map = if host.ranges.is_some() { "range" } else { "single" };
        self.directory.join("root").join(format!("{short}-{map}"))
    }
}

/// An empty file and an empty directory that nobody may read, for what is hidden.
pub fn masks(directories: &Directories, needed: bool) -> Result<(PathBuf, PathBuf), CliError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let base = directories.data.join("masks");
    let (file, directory) = (base.join("file"), base.join("directory"));
    if needed && !(file.exists() && directory.exists()) {
        make_directory(&directory)?;
        let wrap = |path: &Path| {
            let path = path.to_owned();
            move |source| CliError::Io { act: "make", path, source }
        };
        std::fs::OpenOptions::new().create(true).append(true).mode(0o000).open(&file).map_err(wrap(&file))?;
        for path in [&file, &directory] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).map_err(wrap(path))?;
        }
    }
    Ok((file, directory))
}
