//! Texts to entries: the profile with its includes, its `hamper.local.toml`, and `--set`, in the order in which later ones win.

use std::path::{Path, PathBuf};

use super::files::{self, Caller, Opened, ReadError};
use super::finding::{Finding, Findings, escape};
use super::keys::KEYS;
use super::seen::Seen;
use super::source::{At, Item, Layer, Source, Value, parse};
use super::walk::{Entry, Walk};

/// Longest chain of files that include each other.
const MAX_DEPTH: usize = 16;
/// Most files in one profile.
const MAX_FILES: usize = 64;
/// Most bytes of all files together.
const MAX_TOTAL: usize = 4 << 20;
/// Most values of `--set`.
const MAX_SETS: usize = 256;

/// Everything that was read, before any value is judged.
#[derive(Debug, Default)]
pub struct Texts {
    pub sources: Vec<Source>,
    /// In the order of application: a later one wins.
    pub entries: Vec<Entry>,
    /// All that were read, as named and as resolved, for protection.
    pub files: Vec<PathBuf>,
    /// What was read of them.
    pub seen: Vec<Seen>,
    pub findings: Findings,
    /// Some text could not be read as TOML, so that what seems absent may be written.
    pub broken: bool,
    /// Identity and number of each file, to tell a diamond from a cycle.
    known: Vec<(u64, u64)>,
    /// The files that are being read, outermost first.
    open: Vec<((u64, u64), String)>,
}

/// How messages name a file: from the current directory where it is below it.
pub fn shown(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).to_string_lossy().into_owned()
}

impl Texts {
    /// A text that is already here: built in, or made for `--image`.
    pub fn text(&mut self, name: String, text: String, dir: PathBuf, layer: Layer) {
        self.add(Source { name, dir, text, layer }, &mut |_, _, _| {});
    }

    /// A file and what it includes.
    pub fn file(&mut self, opened: Opened, layer: Layer, cwd: &Path, caller: Caller) {
        let name = shown(&opened.path, cwd);
        let (path, identity) = (opened.path.clone(), opened.identity);
        self.files.push(path.clone());
        self.files.extend(opened.real.clone());
        self.known.push(identity);
        let text = match opened.read() {
            Ok((text, seen)) => {
                self.seen.push(seen);
                text
            }
            Err(error) => {
                self.broken = true;
                return self.findings.push(Findings::about_file(&name, error.to_string(), error.hint(&path)));
            }
        };
        if self.sources.iter().map(|source| source.text.len()).sum::<usize>() + text.len() > MAX_TOTAL {
            return self.findings.push(Findings::about_file(&name, format!("all files together are larger than {MAX_TOTAL} bytes"), None));
        }
        let dir = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        self.open.push((identity, name.clone()));
        let source = Source { name, dir, text, layer };
        self.add(source, &mut |texts, item, dir| texts.include(item, dir, cwd, caller));
        self.open.pop();
    }

    /// Includes come first, so that what stands in the file itself wins.
    fn add(&mut self, source: Source, include: &mut dyn FnMut(&mut Self, &Item, &Path)) {
        let number = u16::try_from(self.sources.len()).unwrap_or(u16::MAX);
        let before = self.findings.findings.len();
        let table = parse(&source, number, &mut self.findings);
        self.broken |= self.findings.findings.len() > before;
        let mut walk = Walk { source: &source, findings: &mut self.findings, entries: Vec::with_capacity(32) };
        walk.file(table);
        let entries = walk.entries;
        let dir = source.dir.clone();
        self.sources.push(source);
        for entry in entries.iter().filter(|entry| KEYS[entry.key].is("", "include")) {
            if let Value::List(items) = &entry.item.value {
                items.iter().for_each(|item| include(self, item, &dir));
            }
        }
        self.entries.extend(entries);
    }

    fn include(&mut self, item: &Item, dir: &Path, cwd: &Path, caller: Caller) {
        // Another type than text is told when the key is checked.
        let Value::Text(text) = &item.value else { return };
        if let Err((message, hint)) = self.try_include(text, dir, cwd, caller) {
            let finding = self.finding(item.at, "include", message, hint);
            self.findings.push(finding);
        }
    }

    fn try_include(&mut self, text: &str, dir: &Path, cwd: &Path, caller: Caller) -> Result<(), (String, Option<String>)> {
        if text.is_empty() || text.contains("${") || text.starts_with('~') || text.chars().any(char::is_control) {
            let hint = "a path from the directory of this file; no variables and no `~`";
            return Err((format!("`{}` cannot be an include", escape(text)), Some(hint.into())));
        }
        let path: PathBuf = dir.join(text).components().collect();
        let name = shown(&path, cwd);
        let failed = |error: ReadError| (format!("`{}` {error}", escape(&name)), error.hint(&path));
        let opened = files::open(&path, caller).map_err(failed)?;
        if let Some(start) = self.open.iter().position(|(identity, _)| *identity == opened.identity) {
            let chain: Vec<String> = self.open[start..].iter().map(|(_, name)| escape(name)).collect();
            return Err((format!("include cycle: {} -> {}", chain.join(" -> "), escape(&name)), None));
        }
        if self.known.contains(&opened.identity) {
            return Ok(());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err((format!("includes are nested more than {MAX_DEPTH} deep"), None));
        }
        if self.known.len() >= MAX_FILES {
            return Err((format!("more than {MAX_FILES} files are included"), None));
        }
        self.file(opened, Layer::Include, cwd, caller);
        Ok(())
    }

    /// `hamper.local.toml` in the profile's directory, merged after it.
    pub fn local(&mut self, dir: &Path, cwd: &Path, caller: Caller) {
        let path = dir.join("hamper.local.toml");
        match files::open(&path, caller) {
            Ok(opened) if self.known.contains(&opened.identity) => {}
            Ok(opened) => self.file(opened, Layer::Local, cwd, caller),
            Err(ReadError::Missing) => {}
            Err(error) => self.findings.push(Findings::about_file(&shown(&path, cwd), error.to_string(), error.hint(&path))),
        }
    }

    /// `--set KEY=VALUE`: any key of the schema; the value is TOML, and where it is none, a string.
    pub fn sets(&mut self, sets: &[String], cwd: &Path) {
        for set in sets.iter().take(MAX_SETS) {
            match assignment(set) {
                Ok(text) => {
                    let name = format!("--set {}", set.split('=').next().unwrap_or_default().trim());
                    let before = self.entries.len();
                    self.text(name, text, cwd.to_owned(), Layer::Override);
                    if let Some(entry) = self.entries.get(before).filter(|entry| KEYS[entry.key].is("", "include")) {
                        let hint = "write it into a file: include = [\"base.toml\"]";
                        let at = entry.item.at;
                        let finding = self.finding(at, "include", "cannot be set on the command line".into(), Some(hint.into()));
                        self.findings.push(finding);
                    }
                }
                Err(message) => self.findings.push(Finding {
                    key: escape(set.split('=').next().unwrap_or_default()),
                    ..Findings::about_file("--set", message, Some(set_hint(set)))
                }),
            }
        }
        if sets.len() > MAX_SETS {
            self.findings.push(Findings::about_file("--set", format!("more than {MAX_SETS} values are set"), None));
        }
    }

    pub fn finding(&self, at: At, key: &str, message: String, hint: Option<String>) -> Finding {
        match self.sources.get(usize::from(at.source)) {
            Some(source) => Findings::at(source, at.span(), key.into(), message, hint),
            None => Findings::about_file("", message, hint),
        }
    }

    /// Marks what a later file has written anew. Lists that files add to, and mounts, all count.
    pub fn bury(&mut self) {
        if self.sources.len() < 2 {
            return;
        }
        let mut seen = std::collections::BTreeSet::new();
        for index in (0..self.entries.len()).rev() {
            let entry = &self.entries[index];
            let key = &KEYS[entry.key];
            let sum = key.union || key.is("", "mounts") || key.is("", "include");
            let name = entry.name.as_ref().map(|name| name.text.clone());
            let fresh = sum || seen.insert((entry.key, name, entry.inner));
            self.entries[index].live = fresh;
        }
    }
}

/// How a broken `--set` is written.
fn set_hint(set: &str) -> String {
    match set.split_once('=') {
        None if !set.trim().is_empty() => format!("--set '{}=VALUE'", escape(set.trim())),
        _ => "--set KEY=VALUE, with a key as `hamper profile show` prints it".into(),
    }
}

/// `KEY=VALUE` as TOML text.
fn assignment(set: &str) -> Result<String, String> {
    let (key, value) = set.split_once('=').ok_or("has no `=`")?;
    let (key, value) = (key.trim(), value.trim());
    let one_line = |text: &str| !text.is_empty() && !text.contains(['\n', '#', '=', '[', '{']);
    if !one_line(key) || key.len() > 256 || toml::de::DeTable::parse(&format!("{key} = 0")).is_err() {
        return Err("is no key".into());
    }
    let bounded = value.len() <= super::source::MAX_BYTES / 4 && value.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() <= 1024;
    let nested = value.bytes().take_while(|byte| matches!(byte, b'[' | b'{' | b' ')).count() > 16;
    if !bounded || nested {
        return Err("has too large a value".into());
    }
    let is_toml = !value.is_empty() && toml::de::DeValue::parse(value).is_ok();
    let value = if is_toml { value.to_owned() } else { toml::Value::String(value.to_owned()).to_string() };
    Ok(format!("{key} = {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments() {
        for (set, expected) in [
            ("limits.memory=512M", "limits.memory = \"512M\""),
            ("limits.pids=5", "limits.pids = 5"),
            ("command=[\"a\", \"b\"]", "command = [\"a\", \"b\"]"),
            ("env.A=x=y", "env.A = \"x=y\""),
            ("name = x", "name = \"x\""),
            ("env.\"a b\"=1 2", "env.\"a b\" = \"1 2\""),
            ("name=", "name = \"\""),
            ("name=a\"b", "name = 'a\"b'"),
            ("project.path=~/x", "project.path = \"~/x\""),
        ] {
            assert_eq!(assignment(set).as_deref(), Ok(expected), "{set}");
        }
        for set in ["", "a", "=x", "a b=1", "[a]=1", "a\n[b]\nc=1", "a#=1", "a.=1"] {
            assert!(assignment(set).is_err(), "{set}");
        }
    }
}
