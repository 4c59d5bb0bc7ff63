//! What the user has said about registries: `registries.toml` and variables of the environment.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Error;
use crate::image::{is_component, is_host, shown};

/// Looks a variable up.
pub type Environment<'e> = dyn Fn(&str) -> Option<OsString> + 'e;

/// Nobody writes a larger settings file by hand.
const MAX_SETTINGS: u64 = 1 << 20;

/// `registries.toml`, and where the other files about registries are.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(crate) file: File,
    /// `$XDG_CONFIG_HOME/hamper`, from where relative paths count.
    pub(crate) directory: PathBuf,
    pub(crate) variables: Variables,
}

/// Variables that decide how registries are reached, as they were when the settings were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    pub home: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub runtime: Option<PathBuf>,
    pub docker_config: Option<PathBuf>,
    pub auth_file: Option<PathBuf>,
    pub ssl_cert_file: Option<PathBuf>,
    pub ssl_cert_dir: Option<OsString>,
    pub https_proxy: Option<String>,
    pub http_proxy: Option<String>,
    pub no_proxy: Option<String>,
}

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    /// A connection that brings nothing for so long is given up, in seconds; one that brings less than 1 KiB/s over as long too.
    stall_timeout: Option<Seconds>,
    /// A credential helper that has not ended after so long is ended, in seconds; some ask the user for something.
    helper_timeout: Option<Seconds>,
    /// How often in a row a step may fail before hamper gives up.
    retries: Option<Tries>,
    registries: BTreeMap<Host, RegistrySettings>,
}

/// A time; a longer one than a day is none, and one of ages would be beyond what a clock has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u64")]
struct Seconds(u64);

impl TryFrom<u64> for Seconds {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        match seconds {
            0..=86_400 => Ok(Self(seconds.max(1))),
            _ => Err(format!("{seconds} s are too many: at most 86400, a day")),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u64")]
struct Tries(u32);

impl TryFrom<u64> for Tries {
    type Error = String;

    fn try_from(tries: u64) -> Result<Self, String> {
        u32::try_from(tries).ok().filter(|tries| *tries <= 100).map(Self).ok_or_else(|| format!("{tries} are too many: at most 100"))
    }
}

/// A registry, by the name that references have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Host(String);

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match is_host(&text) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(format!("`{}` is no registry: it is written as HOST[:PORT], without https:// and path", shown(text.as_bytes()))),
        }
    }
}

impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Another place that has what a registry has.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Mirror {
    pub host: String,
    /// With a slash at its end, where it is not empty.
    pub prefix: String,
}

impl TryFrom<String> for Mirror {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (host, path) = text.trim_end_matches('/').split_once('/').unwrap_or((text.trim_end_matches('/'), ""));
        if !is_host(host) || !path.is_empty() && !path.split('/').all(is_component) {
            let text = shown(text.as_bytes());
            return Err(format!("`{text}` is no mirror: it is written as HOST[:PORT][/PREFIX], without https:// and user"));
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        Ok(Self { host: host.to_ascii_lowercase(), prefix })
    }
}

/// What is said about one registry, by the name that references have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistrySettings {
    /// Plain HTTP. Absent: for loopback without a CA of its own only.
    pub insecure: Option<bool>,
    /// A PEM file of certificates that are trusted for this registry besides the system's.
    pub ca: Option<PathBuf>,
    /// Asked in order before the registry itself.
    pub mirrors: Vec<Mirror>,
}

impl Settings {
    /// Reads `registries.toml`, where there is one, and the environment.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read or has other keys than those that are known.
    pub fn read(environment: &Environment<'_>) -> Result<Self, Error> {
        let path = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let text = |names: [&str; 2]| names.iter().find_map(|name| environment(name)?.into_string().ok().filter(|text| !text.is_empty()));
        let home = path("HOME");
        let config = path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let variables = Variables {
            runtime: path("XDG_RUNTIME_DIR"),
            docker_config: path("DOCKER_CONFIG"),
            auth_file: environment("REGISTRY_AUTH_FILE").filter(|text| !text.is_empty()).map(PathBuf::from),
            ssl_cert_file: environment("SSL_CERT_FILE").filter(|text| !text.is_empty()).map(PathBuf::from),
            ssl_cert_dir: environment("SSL_CERT_DIR").filter(|text| !text.is_empty()),
            https_proxy: text(["HTTPS_PROXY", "https_proxy"]).or_else(|| text(["ALL_PROXY", "all_proxy"])),
            http_proxy: text(["http_proxy", "HTTP_PROXY"]).or_else(|| text(["ALL_PROXY", "all_proxy"])),
            no_proxy: text(["NO_PROXY", "no_proxy"]),
            home,
            config: config.clone(),
        };
        let Some(directory) = config.map(|config| config.join("hamper")) else {
            return Ok(Self { variables, ..Self::default() });
        };
        let path = directory.join("registries.toml");
        let file = match read_bounded(&path, MAX_SETTINGS) {
            Ok(text) => {
                let text = String::from_utf8(text).map_err(|error| failed(&path, error))?;
                toml::from_str(&text).map_err(|error| failed(&path, error))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
            Err(error) => return Err(failed(&path, error)),
        };
        Ok(Self { file, directory, variables })
    }

    pub(crate) fn registry(&self, registry: &str) -> RegistrySettings {
        let mut settings = self.file.registries.get(registry).cloned().unwrap_or_default();
        settings.ca = settings.ca.map(|path| self.directory.join(path));
        settings
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.file.stall_timeout.map_or(30, |seconds| seconds.0))
    }

    pub(crate) fn helper_timeout(&self) -> Duration {
        Duration::from_secs(self.file.helper_timeout.map_or(60, |seconds| seconds.0))
    }

    pub(crate) fn retries(&self) -> u32 {
        self.file.retries.map_or(6, |tries| tries.0)
    }
}

pub(crate) fn failed(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::File { path: path.to_owned(), source: source.into() }
}

/// Reads a file of at most `limit` bytes, and only a regular one.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(std::io::Error::other(format!("larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}
