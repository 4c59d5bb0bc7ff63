//! Entries to the profile: presets, then every key in order, then what only several keys together can get wrong.

use std::path::PathBuf;

use super::check::{self, Cx, Draft, Side};
use super::finding::{Finding, Findings, escape};
use super::keys::{self, KEYS};
use super::load::Texts;
use super::model::{
    ImageSource, Isolation, LandlockMode, MapMode, NetworkMode, Preset, Profile, ProjectMode, Requirement, SeccompSource, Vars,
};
use super::preset;
use super::source::{Layer, Value};
use super::value::{self, Wrong};
use super::walk::{Entry, MAX_NAMES};
use super::words::Word;

/// A profile whose files have been read and whose values have not been judged yet.
#[derive(Debug)]
pub struct Loaded {
    pub(super) texts: Texts,
    /// The name where no `name` is written.
    pub(super) default_name: String,
    pub(super) notes: Vec<String>,
}

impl Loaded {
    /// What a person should hear once, on stderr.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every file that was read, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.texts.files
    }

    /// Where a key is written, as messages name the place.
    pub fn place(&self, section: &str, name: &str) -> Option<String> {
        let at = self.last(section, name)?.item.at;
        let source = self.texts.sources.get(usize::from(at.source))?;
        let line = source.text.bytes().take(at.start as usize).filter(|byte| *byte == b'\n').count() + 1;
        Some(if source.layer == Layer::Override { escape(&source.name) } else { format!("{}:{line}", escape(&source.name)) })
    }

    /// The entry of a key that counts.
    pub(super) fn last(&self, section: &str, name: &str) -> Option<&Entry> {
        let key = keys::find(section, name)?;
        self.texts.entries.iter().rev().find(|entry| entry.key == key)
    }

    /// `[project] path`, absolute, where it is written.
    ///
    /// # Errors
    /// The finding about its value; `finish` would report it too.
    pub fn project_path(&self, vars: &Vars<'_>) -> Result<Option<PathBuf>, Findings> {
        let Some(entry) = self.last("project", "path") else { return Ok(None) };
        let mut cx = self.cx(vars);
        cx.key = &KEYS[entry.key];
        let path = cx.host_path(&entry.item);
        if cx.findings.is_empty() { Ok(path) } else { Err(cx.findings) }
    }

    /// The preset, as far as it is one.
    pub(super) fn preset(&self) -> Preset {
        match self.last("security", "preset").map(|entry| &entry.item.value) {
            Some(Value::Text(word)) => Preset::from_word(word).unwrap_or(Preset::Dev),
            _ => Preset::Dev,
        }
    }

    fn cx<'a>(&'a self, vars: &'a Vars<'a>) -> Cx<'a> {
        let mut cx = Cx::new(&self.texts.sources, vars);
        cx.pass = match self.last("", "env_pass").map(|entry| &entry.item.value) {
            Some(Value::List(items)) => {
                items.iter().filter_map(|item| if let Value::Text(text) = &item.value { Some(text.clone()) } else { None }).collect()
            }
            _ => preset::defaults(self.preset()).env_pass,
        };
        cx
    }

    /// The validated profile.
    ///
    /// # Errors
    /// Every finding of every file, in the order of files and lines.
    pub fn finish(&self, vars: &Vars<'_>) -> Result<Profile, Findings> {
        let mut cx = self.cx(vars);
        cx.findings.extend(self.texts.findings.clone());
        let mut draft = self.draft(&mut cx);
        if self.within_bounds(&mut cx) {
            self.apply(&mut draft, &mut cx);
            check::finish_secrets(&mut draft, &mut cx);
            self.names(&mut draft);
            self.settle(&mut draft, &mut cx);
        }
        if cx.findings.is_empty() {
            return Ok(draft.profile);
        }
        let mut findings = cx.findings;
        findings.sort(&self.texts.sources);
        Err(findings)
    }

    /// The preset's defaults, and where the project will appear inside.
    fn draft(&self, cx: &mut Cx<'_>) -> Draft {
        let mut profile = preset::defaults(self.preset());
        profile.files = self.texts.files.clone();
        profile.seen = self.texts.seen.clone();
        profile.written = self.texts.entries.iter().map(|entry| (KEYS[entry.key].section, KEYS[entry.key].name)).collect();
        cx.inside = profile.project.target.clone();
        if let Some(Entry { item, .. }) = self.last("project", "target")
            && let Value::Text(text) = &item.value
        {
            let quiet = std::mem::take(&mut cx.findings);
            cx.inside = None;
            cx.inside = cx.expand(item, text, Side::Inside).and_then(|text| value::target(&text, false).ok());
            cx.findings = quiet;
        }
        Draft { profile, image: None, protect_given: false, mount_places: Vec::new(), secrets: Vec::new() }
    }

    /// Open tables may grow over many files; past the bound nothing is judged, since judging costs the square of it.
    fn within_bounds(&self, cx: &mut Cx<'_>) -> bool {
        let mut counts = [0_usize; KEYS.len()];
        for entry in &self.texts.entries {
            counts[entry.key] += usize::from(entry.name.is_some());
            if counts[entry.key] > 2 * MAX_NAMES {
                cx.key = &KEYS[entry.key];
                cx.fail(entry.item.at, Wrong::new(format!("has more than {} names in all files together", 2 * MAX_NAMES)));
                return false;
            }
        }
        true
    }

    fn apply(&self, draft: &mut Draft, cx: &mut Cx<'_>) {
        let protect = std::mem::take(&mut draft.profile.project.protect);
        let passed = |name: &str| {
            self.last("", "env_pass").is_some() && cx.pass.iter().any(|pattern| pattern == name) && (cx.vars.env)(name).is_some()
        };
        // A variable that the profile takes from the caller by name beats the preset's.
        let mut preset_env = std::mem::take(&mut draft.profile.env);
        preset_env.retain(|(name, _)| !passed(name));
        draft.profile.env = preset_env;
        for entry in &self.texts.entries {
            // What a later file has written anew need not make sense here.
            if !entry.live && holds_variable(&entry.item.value) {
                continue;
            }
            cx.key = &KEYS[entry.key];
            cx.name.clone_from(&entry.name);
            cx.inner = entry.inner;
            (cx.key.set)(draft, cx, &entry.item);
        }
        (cx.name, cx.inner) = (None, None);
        if !draft.protect_given {
            draft.profile.project.protect = protect;
        }
    }

    fn names(&self, draft: &mut Draft) {
        let profile = &mut draft.profile;
        if profile.name.is_empty() {
            profile.name = value::name_from(&self.default_name);
        }
        if profile.hostname.is_empty() {
            profile.hostname = value::hostname_from(&profile.name);
        }
    }

    /// What only several keys together can get wrong.
    fn settle(&self, draft: &mut Draft, cx: &mut Cx<'_>) {
        self.settle_image(draft, cx);
        self.settle_security(&mut draft.profile, cx);
        self.settle_network(&mut draft.profile, cx);
        self.settle_isolation(&draft.profile, cx);
        self.settle_limits(&draft.profile, cx);
        self.settle_project(&draft.profile, cx);
    }

    fn settle_image(&self, draft: &mut Draft, cx: &mut Cx<'_>) {
        match draft.image.take() {
            Some(image) => draft.profile.image = image,
            None if self.texts.broken || self.last("", "image").is_some() => {}
            None => {
                let file = self.texts.sources.first().map_or("profile", |source| &source.name);
                let hint = "image = \"docker.io/library/debian:stable-slim\", or \"host\" for this machine's own programs";
                cx.findings.push(Finding { key: "image".into(), ..Findings::about_file(file, "is not written", Some(hint.into())) });
            }
        }
    }

    /// Says what is wrong with a key that is written; a default cannot be wrong.
    fn blame(&self, cx: &mut Cx<'_>, section: &str, name: &str, wrong: Wrong) {
        if let Some(entry) = self.last(section, name) {
            cx.key = &KEYS[entry.key];
            cx.fail(entry.item.at, wrong);
        }
    }

    fn settle_security(&self, profile: &mut Profile, cx: &mut Cx<'_>) {
        let written = self.last("", "require").is_some();
        let security = &profile.security;
        if security.nested_userns && security.landlock == LandlockMode::Required {
            let hint = "namespaces of its own need mount, which Landlock forbids: landlock = \"off\"";
            self.blame(cx, "security", "nested_userns", Wrong::new("cannot be together with `landlock = \"required\"`").hint(hint));
        }
        if security.landlock == LandlockMode::Off && profile.require.contains(&Requirement::Landlock) {
            self.blame(cx, "security", "landlock", Wrong::new("is off, and `require` names it"));
        }
        if security.seccomp == SeccompSource::None && !security.seccomp_allow.is_empty() {
            self.blame(cx, "security", "seccomp_allow", Wrong::new("means nothing with `seccomp = \"none\"`"));
        }
        // A single id that was asked for does not degrade; only a written `require` contradicts it.
        if profile.identity.map == MapMode::Single && profile.require.contains(&Requirement::Subuid) {
            if written {
                self.blame(cx, "identity", "map", Wrong::new("is single, and `require` names `subuid`").hint("map = \"range\""));
            } else {
                profile.require.retain(|requirement| *requirement != Requirement::Subuid);
            }
        }
    }

    /// Keys that the mode does not have are findings, unless a later file turned the network down: then they are dropped.
    fn settle_network(&self, profile: &mut Profile, cx: &mut Cx<'_>) {
        let mode = profile.network.mode;
        let written = self.last("network", "mode").map(|entry| &entry.item.value);
        if written.is_some_and(|value| !matches!(value, Value::Text(word) if word == mode.word())) {
            return;
        }
        let filtered = mode == NetworkMode::Filtered;
        let own = filtered || mode == NetworkMode::Nat;
        for (name, means, needs) in [
            ("allow", filtered, "filtered"),
            ("deny", filtered, "filtered"),
            ("ports", own, "filtered"),
            ("host_services", own, "filtered"),
            ("dns", own, "filtered"),
        ] {
            let written =
                self.last("network", name).is_some_and(|entry| !matches!(&entry.item.value, Value::List(items) if items.is_empty()));
            if means || !written {
                continue;
            }
            if !self.overruled("network", name, "mode") {
                let wrong = Wrong::new(format!("means nothing with `mode = \"{}\"`", mode.word()));
                self.blame(cx, "network", name, wrong.hint(format!("[network] mode = \"{needs}\"")));
            }
            let network = &mut profile.network;
            match name {
                "allow" => network.allow.clear(),
                "deny" => network.deny.clear(),
                "ports" => network.ports.clear(),
                "host_services" => network.host_services.clear(),
                _ => network.dns.clear(),
            }
        }
    }

    /// Whether `by` was written in a later file than the last that wrote `name`.
    fn overruled(&self, section: &str, name: &str, by: &str) -> bool {
        let position = |name: &str| {
            let key = keys::find(section, name)?;
            self.texts.entries.iter().rposition(|entry| entry.key == key)
        };
        let file = |index: usize| self.texts.entries[index].item.at.source;
        position(by).zip(position(name)).is_some_and(|(by, name)| by > name && file(by) != file(name))
    }

    fn settle_isolation(&self, profile: &Profile, cx: &mut Cx<'_>) {
        if profile.isolation != Isolation::Landlock {
            return;
        }
        if profile.image != ImageSource::Host && self.last("", "image").is_some() {
            self.blame(
                cx,
                "",
                "isolation",
                Wrong::new("is landlock, which can only have the host's files").hint("image = \"host\", or isolation = \"namespaces\""),
            );
        }
        let cannot = |what: &str| Wrong::new(format!("cannot hold with `isolation = \"landlock\"`, which {what}"));
        if !profile.mounts.is_empty() {
            self.blame(cx, "", "mounts", cannot("mounts nothing"));
        }
        if !profile.project.hide.is_empty() {
            self.blame(cx, "project", "hide", cannot("hides nothing"));
        }
        if !profile.project.protect.is_empty() {
            self.blame(cx, "project", "protect", cannot("cannot take a part out of a writable directory"));
        }
        for key in KEYS.iter().filter(|key| key.section == "limits" && profile.limits.needs_cgroup()) {
            if !matches!(key.name, "on_missing" | "ulimits" | "time") {
                self.blame(cx, "limits", key.name, cannot("has no cgroup"));
            }
        }
    }

    /// A payload that has reached its end is not slowed down before it.
    fn settle_limits(&self, profile: &Profile, cx: &mut Cx<'_>) {
        let limits = &profile.limits;
        if let (Some(high), Some(max)) = (limits.memory_high, limits.memory)
            && high > max
        {
            let (high, max) = (value::show_size(high), value::show_size(max));
            let wrong = Wrong::new(format!("`{high}` is more than `memory = \"{max}\"`, at which the sandbox ends"));
            self.blame(cx, "limits", "memory_high", wrong.hint("memory_high at most as large as memory"));
        }
    }

    fn settle_project(&self, profile: &Profile, cx: &mut Cx<'_>) {
        let outside = cx.vars.project.and_then(|project| project.to_str());
        let Some(target) = profile.project.target.as_deref().or(outside).filter(|_| profile.project.mode != ProjectMode::None) else {
            return;
        };
        let Some(mount) = profile.mounts.iter().position(|mount| mount.target == target) else { return };
        let origin = profile.mounts[mount].origin.clone();
        let wrong = Wrong::new(format!("`{}` is where the project appears ({origin})", escape(target)));
        self.blame(cx, "", "mounts", wrong.hint("[project] mode = \"none\", or another target"));
    }

    /// Whether any value came from `--set`.
    pub fn is_overridden(&self) -> bool {
        self.texts.sources.iter().any(|source| source.layer == Layer::Override)
    }
}

fn holds_variable(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.contains("${"),
        Value::List(items) => items.iter().any(|item| holds_variable(&item.value)),
        _ => false,
    }
}
