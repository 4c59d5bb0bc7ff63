//! `hamper.lock`: which image a name stood for when somebody looked, for each platform. Written by `hamper lock`, for git.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Platform;
use super::files::{self, Caller, Opened, ReadError};
use super::finding::escape;
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
    pub name: PlatformName,
    /// Of the manifest.
    pub digest: LockedDigest,
    /// Of the config.
    pub config: LockedDigest,
    /// Lowest layer first.
    pub diff_ids: Vec<LockedDigest>,
}

/// A digest as a lock file may have it; the file comes from git, and what it says is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockedDigest(String);

impl TryFrom<String> for LockedDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = match text.split_once(':') {
            Some(("sha256", hex)) if hex.len() == 64 => hex,
            Some(("sha512", hex)) if hex.len() == 128 => hex,
            _ => return Err(format!("`{}` is no digest: it is written as sha256: and 64 digits", escape(&text))),
        };
        match digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            true => Ok(Self(text)),
            false => Err(format!("`{}` is no digest: it may only have the characters 0-9 and a-f", escape(&text))),
        }
    }
}

impl From<LockedDigest> for String {
    fn from(digest: LockedDigest) -> Self {
        digest.0
    }
}

impl fmt::Display for LockedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A platform by its name: `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlatformName(Platform);

impl TryFrom<String> for PlatformName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let platform = os.zip(architecture).map(|(os, architecture)| Platform { os, architecture, variant });
        platform
            .filter(|platform| platform.is_plain() && parts.next().is_none())
            .map(Self)
            .ok_or_else(|| format!("`{}` is no platform: it is written as OS/ARCHITECTURE[/VARIANT]", escape(&text)))
    }
}

impl From<PlatformName> for String {
    fn from(name: PlatformName) -> Self {
        name.0.to_string()
    }
}

impl From<Platform> for PlatformName {
    fn from(platform: Platform) -> Self {
        Self(platform)
    }
}

impl fmt::Display for PlatformName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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
    pub fn platform(&self, name: &PlatformName) -> Option<&LockedPlatform> {
        self.platforms.iter().find(|platform| platform.name == *name)
    }
}

impl LockedPlatform {
    pub fn platform(&self) -> &Platform {
        &self.name.0
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
        let digest = |digit: &str| LockedDigest::try_from(format!("sha256:{}", digit.repeat(64))).expect("digest");
        let platform = |name: &str| LockedPlatform {
            name: name.to_owned().try_into().expect("name"),
            digest: digest("d"),
            config: digest("c"),
            diff_ids: vec![digest("0")],
        };
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
        for (good, bad, word) in [
            ("linux/amd64", r"linux/\u001b[2J", r"`linux/\u{1b}[2J` is no platform"),
            ("linux/amd64", "linux/a/b/c", "is no platform"),
            ("linux/amd64", "linux", "is no platform"),
            (&*"d".repeat(64), r"\u001b[31m\nhint: evil", r"`sha256:\u{1b}[31m\nhint: evil` is no digest"),
            (&*"c".repeat(64), &*"C".repeat(64), "0-9 and a-f"),
            (&*"0".repeat(64), "0", "is no digest"),
        ] {
            let error = toml::from_str::<Lock>(&text.replace(good, bad)).expect_err(bad).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
