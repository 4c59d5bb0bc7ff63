//! The effective profile, each value with where it came from. Never needed by a run.

use std::fmt::Write;

use toml::Value as Toml;

use super::check::origin;
use super::finish::Loaded;
use super::keys::{KEYS, Key, Kind, SECTIONS};
use super::model::{Missing, Mount, MountKind, Preset, Profile, Secret, SecretSource};
use super::preset::defaults;
use super::value;
use super::walk::Entry;
use super::words::Word;

/// A value that the profile has, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub section: &'static str,
    pub name: String,
    pub value: Toml,
    /// `hamper.toml:3`, `preset build`, `default`, `--set limits.memory`; several where files added to each other.
    pub origin: String,
}

impl Loaded {
    /// Every key that has a value, in the order of the schema; tables of names as one key for each name.
    pub fn values(&self, profile: &Profile) -> Vec<Shown> {
        KEYS.iter().enumerate().flat_map(|(index, key)| self.values_of(index, key, profile)).collect()
    }

    fn values_of(&self, index: usize, key: &'static Key, profile: &Profile) -> Vec<Shown> {
        let Some(value) = (key.get)(profile) else { return Vec::new() };
        match (key.kind, value) {
            (Kind::TextMap | Kind::LimitMap, Toml::Table(table)) => {
                let section = match key.section {
                    "" => "env",
                    "limits" => "limits.ulimits",
                    _ => "network.hosts",
                };
                let named = table.into_iter().map(|(name, value)| {
                    let origin = self.origin_of(index, Some(&name)).unwrap_or_else(|| self.origin_of_default(key, profile));
                    Shown { section, name, value, origin }
                });
                named.collect()
            }
            (_, value) => {
                let origin = self.origin_of(index, None).unwrap_or_else(|| self.origin_of_default(key, profile));
                vec![Shown { section: key.section, name: key.name.into(), value, origin }]
            }
        }
    }

    /// Where a key was written, if it was.
    fn origin_of(&self, key: usize, name: Option<&str>) -> Option<String> {
        let counts = |entry: &&Entry| entry.live && entry.key == key && entry.name.as_ref().map(|name| &*name.text) == name;
        let mut places: Vec<String> =
            self.texts.entries.iter().filter(counts).map(|entry| origin(&self.texts.sources, entry.item.at)).collect();
        places.dedup();
        (!places.is_empty()).then(|| places.join(", "))
    }

    fn origin_of_default(&self, key: &Key, profile: &Profile) -> String {
        let preset = self.preset();
        let of_preset = (key.get)(&defaults(preset));
        let differs = preset != Preset::Dev && of_preset != (key.get)(&defaults(Preset::Dev));
        let open = matches!(key.kind, Kind::TextMap | Kind::LimitMap);
        match () {
            () if differs && (open || of_preset == (key.get)(profile)) => format!("preset {}", preset.word()),
            () if open || of_preset == (key.get)(profile) => "default".into(),
            () => "found".into(),
        }
    }

    /// The effective profile as TOML that means the same, with a comment behind each value.
    pub fn show(&self, profile: &Profile) -> String {
        let values = self.values(profile);
        let mut text = String::new();
        section(&mut text, "", &values);
        section(&mut text, "env", &values);
        for (name, _) in SECTIONS {
            section(&mut text, name, &values);
            for inner in ["limits.ulimits", "network.hosts"].into_iter().filter(|inner| inner.split('.').next() == Some(name)) {
                section(&mut text, inner, &values);
            }
        }
        profile.mounts.iter().for_each(|mount| show_mount(&mut text, mount));
        for secret in &profile.secrets {
            show_secret(&mut text, secret, &self.origin_of_secret(&secret.name));
        }
        show_preset(&mut text, profile);
        text
    }

    fn origin_of_secret(&self, secret: &str) -> String {
        let named = |entry: &&Entry| entry.inner.is_some() && entry.name.as_ref().is_some_and(|name| name.text == secret);
        self.texts.entries.iter().rfind(named).map(|entry| origin(&self.texts.sources, entry.item.at)).unwrap_or_default()
    }
}

fn section(text: &mut String, name: &str, values: &[Shown]) {
    let mut values = values.iter().filter(|shown| shown.section == name).peekable();
    if values.peek().is_none() {
        return;
    }
    if !name.is_empty() {
        let _ = write!(text, "\n[{name}]\n");
    }
    for shown in values {
        line(text, &shown.name, &shown.value, Some(&shown.origin));
    }
}

fn line(text: &mut String, name: &str, value: &Toml, origin: Option<&str>) {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let name = if bare { name.to_owned() } else { Toml::String(name.into()).to_string() };
    let _ = write!(text, "{name} = {}", literal(value));
    let _ = match origin {
        Some(origin) => writeln!(text, "  # {origin}"),
        None => writeln!(text),
    };
}

/// On one line where it can be; a `${` in a value is text by now, and is written so that it stays text.
fn literal(value: &Toml) -> String {
    match value {
        Toml::String(text) => Toml::String(text.replace("${", "$${")).to_string(),
        Toml::Array(values) => format!("[{}]", values.iter().map(literal).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn show_mount(text: &mut String, mount: &Mount) {
    let string = |text: &str| Toml::String(text.into());
    let _ = write!(text, "\n[[mounts]]  # {}\n", mount.origin);
    let (word, mut keys) = match &mount.kind {
        MountKind::Bind { source, missing } => {
            let missing = (*missing != Missing::Error).then(|| ("missing", string(missing.word())));
            ("bind", vec![Some(("source", string(&source.to_string_lossy()))), missing])
        }
        MountKind::Tmpfs { size } => ("tmpfs", vec![size.map(|size| ("size", string(&value::show_size(size))))]),
        MountKind::Volume { name } => ("volume", vec![Some(("source", string(name)))]),
        MountKind::Cache { name, shared } => {
            ("cache", vec![Some(("source", string(name))), shared.then(|| ("shared", Toml::Boolean(true)))])
        }
    };
    keys.insert(0, Some(("type", string(word))));
    keys.push(Some(("target", string(&mount.target))));
    keys.push(Some(("mode", string(if mount.read_only { "ro" } else { "rw" }))));
    keys.into_iter().flatten().for_each(|(name, value)| line(text, name, &value, None));
}

fn show_secret(text: &mut String, secret: &Secret, origin: &str) {
    let from = match &secret.from {
        SecretSource::Env(name) => format!("env:{name}"),
        SecretSource::File(path) => format!("file:{}", path.to_string_lossy()),
    };
    let name = if secret.name.contains('.') { Toml::String(secret.name.clone()).to_string() } else { secret.name.clone() };
    let _ = write!(text, "\n[secrets.{name}]\n");
    line(text, "from", &Toml::String(from), Some(origin));
    line(text, "target", &Toml::String(secret.target.clone()), None);
}

/// What a preset brings that has no key.
fn show_preset(text: &mut String, profile: &Profile) {
    let preset = profile.security.preset.word();
    if let Some(umask) = profile.lifecycle.umask {
        let _ = write!(text, "\n# preset {preset}: the payload starts with umask {umask:03o}\n");
    }
    if profile.security.single_command {
        let _ = write!(text, "\n# preset {preset}: one command only; exec and shell into it are refused\n");
    }
}
