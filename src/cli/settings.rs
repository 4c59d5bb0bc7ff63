//! What the user has said once for all runs: `$XDG_CONFIG_HOME/hamper/settings.toml`, and variables that stand for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::registry::read_bounded;
use crate::rootfs;

/// Nobody writes a larger settings file by hand.
const MAX_SETTINGS: u64 = 1 << 20;
/// Stores that are looked through for one name.
const MAX_STORES: usize = 16;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Directories of published stores.
    stores: Vec<PathBuf>,
}

/// Directories of published stores: `HAMPER_STORES`, which may be empty, else what the settings say. Not on the way of a start whose image
/// this user's store knows.
///
/// # Errors
/// [`rootfs::Error::Told`] for settings that cannot be used.
pub fn stores(config: &Path) -> Result<Vec<PathBuf>, rootfs::Error> {
    let (what, stores) = match std::env::var_os("HAMPER_STORES") {
        Some(list) => {
            let parts = list.as_bytes().split(|byte| *byte == b':').filter(|part| !part.is_empty());
            ("HAMPER_STORES".to_owned(), parts.map(|part| PathBuf::from(OsStr::from_bytes(part))).collect())
        }
        None => {
            let path = config.join("settings.toml");
            (path.display().to_string(), read(&path)?.stores)
        }
    };
    let told = |words: String| rootfs::Error::Told { words, hint: Some("name directories by their whole paths".into()) };
    if let Some(relative) = stores.iter().find(|path| !path.is_absolute()) {
        return Err(told(format!("{what}: {} is no absolute path", relative.display())));
    }
    match stores.len() > MAX_STORES {
        true => Err(told(format!("{what} names more than {MAX_STORES} stores"))),
        false => Ok(stores),
    }
}

fn read(path: &Path) -> Result<Settings, rootfs::Error> {
    let told = |why: String| rootfs::Error::Told {
        words: format!("cannot use {}: {}", path.display(), why.trim_end()),
        hint: Some(format!("mend it, or take it away: mv '{0}' '{0}.old'", path.display())),
    };
    let bytes = match read_bounded(path, MAX_SETTINGS) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
        bytes => bytes.map_err(|error| told(error.to_string()))?,
    };
    let text = String::from_utf8(bytes).map_err(|error| told(error.to_string()))?;
    toml::from_str(&text).map_err(|error| told(error.to_string()))
}
