//! The image config: what the image would run, and with what. Data, never an instruction to the host.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::document::odd_platform;
use super::json::{self, Shape};
use super::{Digest, Error, MAX_LAYERS, shown};
use crate::profile::Platform;

/// The default command of an image and what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Names are distinct: a later entry of the image has replaced an earlier one.
    pub env: Vec<(String, String)>,
    /// Absolute, or absent. Not resolved: it may lead through links of the image.
    pub workdir: Option<String>,
    /// `user[:group]` as the image says it; absent where it says nothing.
    pub user: Option<String>,
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
    pub exposed_ports: Vec<String>,
    /// Sorted by name.
    pub labels: Vec<(String, String)>,
    /// Lowest layer first.
    pub diff_ids: Vec<Digest>,
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
    pub created: Option<String>,
    pub author: Option<String>,
    pub history: Vec<History>,
}

/// One step of how the image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    pub created: Option<String>,
    pub created_by: Option<String>,
    pub comment: Option<String>,
    pub empty_layer: bool,
}

const SHAPES: &[(&str, Shape)] = &[
    ("created", Shape::String),
    ("author", Shape::String),
    ("architecture", Shape::String),
    ("os", Shape::String),
    ("variant", Shape::String),
    ("config", Shape::Object),
    ("config/User", Shape::String),
    ("config/Env", Shape::Strings),
    ("config/Entrypoint", Shape::Strings),
    ("config/Cmd", Shape::Strings),
    ("config/WorkingDir", Shape::String),
    ("config/StopSignal", Shape::String),
    ("config/Labels", Shape::StringMap),
    ("config/Volumes", Shape::Set),
    ("config/ExposedPorts", Shape::Set),
    ("rootfs", Shape::Object),
    ("rootfs/type", Shape::String),
    ("rootfs/diff_ids", Shape::Strings),
    ("history", Shape::Objects),
    ("history[]/created", Shape::String),
    ("history[]/created_by", Shape::String),
    ("history[]/comment", Shape::String),
];

impl ImageConfig {
    /// Parses a config document of OCI or Docker.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, Error> {
        let mut value = json::parse(bytes, what)?;
        json::drop_nulls(&mut value);
        json::check(&value, what, SHAPES)?;
        // Both are required by the spec, and left out by builders of images for one platform only.
        if let Some(object) = value.as_object_mut() {
            object.entry("architecture").or_insert_with(|| "".into());
            object.entry("os").or_insert_with(|| "linux".into());
        }
        let typed: ImageConfiguration = serde_json::from_value(value).map_err(|source| Error::Syntax { what: what.to_owned(), source })?;
        Self::from_typed(&typed, what)
    }

    fn from_typed(typed: &ImageConfiguration, what: &str) -> Result<Self, Error> {
        let refused = |key: &str, reason: String| Error::refused(what, format!("`{key}` {reason}"));
        if typed.rootfs().typ() != "layers" {
            return Err(refused("rootfs.type", format!("is `{}`, and must be `layers`", shown(typed.rootfs().typ().as_bytes()))));
        }
        let diff_ids: Vec<Digest> = typed.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<_, Error>>()?;
        if diff_ids.len() > MAX_LAYERS {
            return Err(refused("rootfs.diff_ids", format!("names {} layers, more than {MAX_LAYERS}", diff_ids.len())));
        }
        let mut config = Self {
            diff_ids,
            os: typed.os().to_string(),
            architecture: typed.architecture().to_string(),
            variant: typed.variant().clone().filter(|text| !text.is_empty()),
            created: typed.created().clone(),
            author: typed.author().clone(),
            history: typed.history().iter().flatten().map(History::from_typed).collect(),
            ..Self::default()
        };
        if !config.platform().is_plain() {
            return Err(odd_platform(what, &config.platform()));
        }
        if let Some(typed) = typed.config() {
            config.take_command(typed, what)?;
        }
        Ok(config)
    }

    /// What it was built for; without an architecture where it says none.
    pub fn platform(&self) -> Platform {
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() }
    }

    fn take_command(&mut self, typed: &oci_spec::image::Config, what: &str) -> Result<(), Error> {
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        self.entrypoint = typed.entrypoint().clone().unwrap_or_default();
        self.cmd = typed.cmd().clone().unwrap_or_default();
        self.env = parse_env(typed.env().as_deref().unwrap_or_default(), what)?;
        self.user = text(typed.user());
        self.stop_signal = text(typed.stop_signal());
        // Docker reads a relative one from the root.
        self.workdir = text(typed.working_dir()).map(|path| if path.starts_with('/') { path } else { format!("/{path}") });
        self.volumes = sorted(typed.volumes().clone().unwrap_or_default());
        self.exposed_ports = sorted(typed.exposed_ports().clone().unwrap_or_default());
        self.labels = sorted(typed.labels().iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect());
        self.check_nul(what)
    }

    /// What becomes an argument, a variable or a path cannot hold a NUL; cut off there it would be something else.
    fn check_nul(&self, what: &str) -> Result<(), Error> {
        let lists = [("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd), ("Volumes", &self.volumes)];
        let one = |name, value: &Option<String>| (name, value.iter().cloned().collect::<Vec<_>>());
        let singles = [one("WorkingDir", &self.workdir), one("User", &self.user), one("StopSignal", &self.stop_signal)];
        let all = lists.into_iter().chain(singles.iter().map(|(name, list)| (*name, list)));
        for (name, list) in all {
            if list.iter().any(|text| text.contains('\0')) {
                return Err(Error::refused(what, format!("`config.{name}` has a NUL byte")));
            }
        }
        Ok(())
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

impl History {
    fn from_typed(typed: &oci_spec::image::History) -> Self {
        Self {
            created: typed.created().clone(),
            created_by: typed.created_by().clone(),
            comment: typed.comment().clone(),
            empty_layer: typed.empty_layer().unwrap_or(false),
        }
    }
}

/// `NAME=value` each. An entry without `=` means "copy the host's variable" to `podman run -e`, and one with `*` all of them
/// (CVE-2026-57231): both are refused, as is whatever no shell could set.
fn parse_env(entries: &[String], what: &str) -> Result<Vec<(String, String)>, Error> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        let refused = |reason: &str| Error::refused(what, format!("`config.Env[{i}]` (`{}`) {reason}", shown(entry.as_bytes())));
        let (name, value) = entry.split_once('=').ok_or_else(|| refused("has no `=`"))?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*') {
            return Err(refused("has a name that is empty or has odd characters"));
        }
        if value.contains('\0') {
            return Err(refused("has a NUL byte"));
        }
        match env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => env.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = r#""architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}"#;

    fn parse(config: &str) -> Result<ImageConfig, Error> {
        ImageConfig::parse(format!("{{\"config\":{config},{TAIL}}}").as_bytes(), "config")
    }

    #[test]
    fn reads_what_docker_writes() {
        let config = parse(
            r#"{"Hostname":"","Env":["PATH=/bin","A=1","A=2=3"],"Cmd":["sh"],"Entrypoint":null,"Volumes":{"/data":{}},
               "Labels":null,"WorkingDir":"app","User":"","OnBuild":null,"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}"#,
        )
        .unwrap();
        assert_eq!(config.env, [("PATH".into(), "/bin".into()), ("A".into(), "2=3".into())]);
        assert_eq!((config.cmd, config.entrypoint), (vec!["sh".to_owned()], vec![]));
        assert_eq!((config.volumes, config.user), (vec!["/data".to_owned()], None));
        assert_eq!((config.workdir.as_deref(), config.stop_signal.as_deref()), (Some("/app"), Some("SIGQUIT")));
        assert_eq!(parse("null").unwrap().cmd, Vec::<String>::new());
    }

    #[test]
    fn refuses_what_could_be_taken_for_something_else() {
        for (config, word) in [
            (r#"{"Env":["HOME"]}"#, "has no `=`"),
            (r#"{"Env":["*=1"]}"#, "odd characters"),
            (r#"{"Env":["=1"]}"#, "odd characters"),
            (r#"{"Env":["A B=1"]}"#, "odd characters"),
            (r#"{"Env":["A=\u0000"]}"#, "NUL"),
            (r#"{"Env":"A=1"}"#, "`config.Env` must be a list of strings"),
            (r#"{"Cmd":"sh"}"#, "`config.Cmd` must be a list of strings"),
            (r#"{"Cmd":["a\u0000b"]}"#, "NUL"),
            (r#"{"User":7}"#, "`config.User` must be a string, and is a number"),
            (r#"{"user":"0","User":"1"}"#, "in case only"),
            (r#"{"WorkingDir":"/a\u0000"}"#, "NUL"),
        ] {
            let error = parse(config).unwrap_err().to_string();
            assert!(error.contains(word), "{config}: {error}");
        }
    }
}
