//! `hamper.lock`: which image a name stood for when somebody looked, for each platform. Written by `hamper lock`, for git.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Platform;
use super::files::{self, Caller, Opened, ReadError};
use super::seen::Seen;

/// Beside the profile; several profiles of a directory share it.
pub const LOCK_NAME: &str = "hamper.lock";

const VERSION: u32 = 1;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// Sorted by reference.
    #[serde(default, rename = "image")]
    pub images: Vec<LockedImage>,
}

/// What one reference stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// In full: `docker.io/library/node:14`.
    pub reference: String,
    /// When it was looked up, RFC 3339.
    pub date: String,
    /// Sorted by name.
    #[serde(rename = "platform")]
    pub platforms: Vec<LockedPlatform>,
}

/// The image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPlatform {
    /// `linux/amd64`
    pub name: String,
    /// Of the manifest.
    pub digest: String,
    /// Of the config.
    pub config: String,
    /// Lowest layer first.
    pub diff_ids: Vec<String>,
}

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} {error}", path.display())]
    Read { path: PathBuf, error: ReadError },
    #[error("{} is no lock file", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{} is of version {version}; this hamper knows {VERSION}", path.display())]
    Version { path: PathBuf, version: u32 },
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: VERSION, images: Vec::new() }
    }
}

impl Lock {
    pub fn find(&self, reference: &str) -> Option<&LockedImage> {
        self.images.iter().find(|image| image.reference == reference)
    }

    /// Puts an image in place of what was there of the same reference.
    pub fn put(&mut self, image: LockedImage) {
        self.images.retain(|known| known.reference != image.reference);
        self.images.push(image);
        self.images.sort_by(|a, b| a.reference.cmp(&b.reference));
    }

    pub fn text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("# Written by `hamper lock`, which writes it anew; for git.\n{}", toml::to_string_pretty(self)?))
    }
}

impl LockedImage {
    pub fn platform(&self, name: &str) -> Option<&LockedPlatform> {
        self.platforms.iter().find(|platform| platform.name == name)
    }
}

impl LockedPlatform {
    /// The platform that the name means; `None`: it is none.
    pub fn platform(&self) -> Option<Platform> {
        let mut parts = self.name.split('/').map(str::to_owned);
        let platform = Platform { os: parts.next()?, architecture: parts.next()?, variant: parts.next() };
        parts.next().is_none().then_some(platform)
    }
}

/// Reads the lock file of a directory, with the care that a profile is read with; `None`: there is none.
///
/// # Errors
/// [`LockError`].
pub fn read_lock(directory: &Path, caller: Caller) -> Result<Option<(Seen, Lock)>, LockError> {
    let path = directory.join(LOCK_NAME);
    let (text, seen) = match files::open(&path, caller).and_then(Opened::read) {
        Ok(read) => read,
        Err(ReadError::Missing) => return Ok(None),
        Err(error) => return Err(LockError::Read { path, error }),
    };
    let lock: Lock = toml::from_str(&text).map_err(|source| LockError::Syntax { path: path.clone(), source: Box::new(source) })?;
    match lock.version {
        VERSION => Ok(Some((seen, lock))),
        version => Err(LockError::Version { path, version }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let platform =
            |name: &str| LockedPlatform { name: name.into(), digest: "d".into(), config: "c".into(), diff_ids: vec!["x".into()] };
        let image =
            |reference: &str| LockedImage { reference: reference.into(), date: "now".into(), platforms: vec![platform("linux/amd64")] };
        let mut lock = Lock::default();
        for reference in ["b:1", "a:1", "b:1"] {
            lock.put(image(reference));
        }
        let text = lock.text().expect("text");
        assert_eq!(toml::from_str::<Lock>(&text).expect("lock"), lock, "{text}");
        assert_eq!(lock.images.iter().map(|image| image.reference.as_str()).collect::<Vec<_>>(), ["a:1", "b:1"]);
        assert!(toml::from_str::<Lock>("version = 1\nx = 2").is_err());
    }
}
