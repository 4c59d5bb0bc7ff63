//! Values to fields: each is checked where it stands, and a wrong one becomes a finding instead of an end.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::expand::{Lookup, expand};
use super::finding::{Findings, escape, nearest};
use super::keys::{self, Inner, Key, Kind};
use super::model::{
    Capability, ImageSource, Missing, Mount, MountKind, Profile, Rlimit, SeccompSource, Secret, SecretSource, UserSpec, Vars,
};
use super::source::{At, Item, Name, Source, Value};
use super::value::{self, Parsed, Wrong};
use super::words::{MountMode, MountWord, Word};

/// Longest list, also after files have added to it.
const MAX_LIST: usize = 1024;
/// Longest text of one value, in bytes.
const MAX_TEXT: usize = 64 << 10;
/// Longest path, as the kernel has it.
const MAX_PATH: usize = 4096;

/// The profile while its keys are being set.
pub struct Draft {
    pub profile: Profile,
    pub image: Option<ImageSource>,
    /// Whether `protect` is written, so that the first written list replaces the default.
    pub protect_given: bool,
    /// Beside each of the profile's mounts: the place that it was written at.
    pub mount_places: Vec<At>,
    pub secrets: Vec<SecretDraft>,
}

/// One of `[secrets.*]`, whose keys may come from several files.
pub struct SecretDraft {
    pub name: String,
    pub at: At,
    /// Written, though perhaps not well.
    pub has_from: bool,
    pub from: Option<SecretSource>,
    pub target: Option<String>,
}

/// Where a text will be used, which decides what `${project}` means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// On the host: the project's directory.
    Host,
    /// In the sandbox: where the project appears.
    Inside,
}

/// What a check can see, and which key it is at.
pub struct Cx<'a> {
    pub sources: &'a [Source],
    pub vars: &'a Vars<'a>,
    /// The effective `env_pass`.
    pub pass: Vec<String>,
    /// Where the project appears inside.
    pub inside: Option<String>,
    pub findings: Findings,
    pub key: &'static Key,
    /// The name in an open table: `env.NAME`, `secrets.NAME`.
    pub name: Option<Name>,
    /// The key within a mount or secret.
    pub inner: Option<&'static str>,
    /// Which of `[[mounts]]`.
    pub mount: Option<usize>,
    /// Which element of a list.
    pub element: Option<usize>,
    /// The source, offset and line of the last mount, from which the next is counted.
    counted: (u16, u32, usize),
}

impl<'a> Cx<'a> {
    pub fn new(sources: &'a [Source], vars: &'a Vars<'a>) -> Self {
        let key = &keys::KEYS[0];
        Self {
            sources,
            vars,
            pass: Vec::new(),
            inside: None,
            findings: Findings::default(),
            key,
            name: None,
            inner: None,
            mount: None,
            element: None,
            counted: (0, 0, 1),
        }
    }

    /// The key path as the author would write it.
    fn path(&self) -> String {
        let mut path = self.key.path();
        if let Some(name) = &self.name {
            path = format!("{path}.{}", escape(&name.text));
        }
        if let Some(index) = self.mount {
            path = format!("{path}[{index}]");
        }
        if let Some(inner) = self.inner {
            path = format!("{path}.{inner}");
        }
        if let Some(index) = self.element {
            path = format!("{path}[{index}]");
        }
        path
    }

    pub fn fail(&mut self, at: At, wrong: Wrong) {
        let path = self.path();
        self.fail_key(at, path, wrong);
    }

    fn fail_key(&mut self, at: At, key: String, wrong: Wrong) {
        let Some(source) = self.sources.get(usize::from(at.source)).filter(|_| self.findings.wants()) else { return };
        self.findings.push(Findings::at(source, at.span(), key, wrong.message, wrong.hint));
    }

    /// Says that the value is of another type than the key takes.
    fn mistyped<T>(&mut self, item: &Item, expected: &str, hint: Option<&str>) -> Option<T> {
        let wrong = Wrong::new(format!("is {}, not {expected}", item.value.kind()));
        self.fail(
            item.at,
            match hint {
                Some(hint) => wrong.hint(hint),
                None => wrong,
            },
        );
        None
    }

    /// `Some` of the value, or a finding that quotes the text.
    fn take<T>(&mut self, item: &Item, parsed: Parsed<T>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(Wrong { message, hint }) => {
                let message = match &item.value {
                    Value::Text(text) => format!("`{}` {message}", escape(text)),
                    _ => message,
                };
                self.fail(item.at, Wrong { message, hint });
                None
            }
        }
    }

    /// Text that may hold newlines and tabs, but no NUL.
    fn free_text<'i>(&mut self, item: &'i Item) -> Option<&'i str> {
        let Value::Text(text) = &item.value else { return self.mistyped(item, "a string", None) };
        let wrong = match text {
            _ if text.len() > MAX_TEXT => "is longer than 64 KiB",
            _ if text.contains('\0') => "contains a NUL character",
            _ => return Some(text),
        };
        self.fail(item.at, Wrong::new(wrong));
        None
    }

    fn plain_text<'i>(&mut self, item: &'i Item) -> Option<&'i str> {
        let text = self.free_text(item)?;
        if text.chars().any(char::is_control) { self.take(item, Err(Wrong::new("contains a control character"))) } else { Some(text) }
    }

    fn lookup(&self, name: &str, side: Side) -> Lookup {
        let owned = |path: &Path| path.to_str().map_or(Lookup::Unset, |path| Lookup::Value(path.to_owned()));
        if name == "project" {
            return match (side, &self.inside, self.vars.project) {
                _ if self.key.is("project", "path") => Lookup::TooEarly,
                (Side::Inside, Some(inside), _) => Lookup::Value(inside.clone()),
                (_, _, Some(project)) => owned(project),
                (_, _, None) => Lookup::TooEarly,
            };
        }
        if name == "HOME" {
            return owned(self.vars.home);
        }
        if name != "USER" && !name.starts_with("XDG_") && !passes(&self.pass, name) {
            return Lookup::Forbidden;
        }
        (self.vars.env)(name).filter(|value| !value.contains('\0')).map_or(Lookup::Unset, Lookup::Value)
    }

    /// Replaces variables; a failure points at the variable, not at the whole string.
    pub fn expand<'t>(&mut self, item: &Item, text: &'t str, side: Side) -> Option<Cow<'t, str>> {
        match expand(text, &|name| self.lookup(name, side)) {
            Ok(expanded) => Some(expanded),
            Err((variable, wrong)) => {
                let at = self.place_in(item.at, &format!("${{{variable}"));
                self.fail(at, wrong);
                None
            }
        }
    }

    /// Where `part` stands within a value, as far as the text has it literally.
    fn place_in(&self, at: At, part: &str) -> At {
        let text = self.sources.get(usize::from(at.source)).and_then(|source| source.text.get(at.span())).unwrap_or_default();
        let Some(offset) = text.find(part) else { return at };
        let start = at.start + u32::try_from(offset).unwrap_or_default();
        let length = text[offset..].find('}').map_or(part.len(), |end| end + 1);
        At { start, end: start + u32::try_from(length).unwrap_or_default(), ..at }
    }

    fn expanded<'i>(&mut self, item: &'i Item) -> Option<Cow<'i, str>> {
        let text = self.plain_text(item)?;
        let expanded = self.expand(item, text, Side::Inside)?;
        if expanded.chars().any(char::is_control) {
            self.fail(item.at, Wrong::new("contains a control character when its variables are replaced"));
            return None;
        }
        Some(expanded)
    }

    pub fn parsed<T>(&mut self, item: &Item, parse: impl FnOnce(&str) -> Parsed<T>) -> Option<T> {
        let text = self.plain_text(item)?;
        self.take(item, parse(text))
    }

    pub fn expanded_parsed<T>(&mut self, item: &Item, parse: impl FnOnce(&str) -> Parsed<T>) -> Option<T> {
        let text = self.expanded(item)?;
        self.take(item, parse(&text))
    }

    pub fn word<T: Word>(&mut self, item: &Item) -> Option<T> {
        let text = self.plain_text(item)?;
        if let Some(value) = T::from_word(text) {
            return Some(value);
        }
        let known = super::words::words::<T>();
        let wrong = Wrong::new(format!("is none of {}", known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")));
        // The word that `project.mode` has for it.
        let writable_root = self.key.is("root", "mode") && text == "rw";
        let wrong = match if writable_root { Some("scratch") } else { nearest(text, known) } {
            Some(near) => wrong.hint(format!("{} = \"{near}\"", self.inner.unwrap_or(self.key.name))),
            None => wrong,
        };
        self.take(item, Err(wrong))
    }

    pub fn flag(&mut self, item: &Item) -> Option<bool> {
        match &item.value {
            Value::Flag(flag) => Some(*flag),
            Value::Text(text) if text == "true" || text == "false" => self.mistyped(item, "a boolean", Some("without the quotes")),
            _ => self.mistyped(item, "a boolean", None),
        }
    }

    pub fn integer<T: TryFrom<i64>>(&mut self, item: &Item, least: i64, greatest: i64) -> Option<T> {
        let Value::Integer(number) = item.value else { return self.mistyped(item, "an integer", None) };
        let within = Some(number).filter(|number| (least..=greatest).contains(number)).and_then(|number| T::try_from(number).ok());
        if within.is_none() {
            self.fail(item.at, Wrong::new(format!("{number} is not between {least} and {greatest}")));
        }
        within
    }

    pub fn size(&mut self, item: &Item, least: u64) -> Option<u64> {
        let bytes = match &item.value {
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(bytes) => bytes,
                Err(_) => return self.take(item, Err(Wrong::new(format!("{number} is no size")))),
            },
            Value::Text(_) => self.parsed(item, value::size)?,
            _ => return self.mistyped(item, "a size", Some("sizes are \"512M\" or \"2G\"")),
        };
        if bytes >= least {
            return Some(bytes);
        }
        self.take(item, Err(Wrong::new(format!("is less than {}, the least that works", value::show_size(least)))))
    }

    pub fn duration(&mut self, item: &Item, least_ms: u64) -> Option<Duration> {
        if let Value::Integer(number) = item.value {
            return self.mistyped(item, "a duration", Some(&format!("with its unit: \"{number}s\"")));
        }
        let duration = self.parsed(item, value::duration)?;
        if duration >= Duration::from_millis(least_ms) {
            return Some(duration);
        }
        self.take(item, Err(Wrong::new("is no time at all")))
    }

    pub fn cpus(&mut self, item: &Item) -> Option<f64> {
        let cpus = match item.value {
            // Exact: no machine has 2^52 processors, and what is larger is refused below.
            Value::Integer(number) => i32::try_from(number).map_or(f64::INFINITY, f64::from),
            Value::Float(number) => number,
            _ => return self.mistyped(item, "a number of processors", Some("cpus = 1.5")),
        };
        // Below a hundredth the kernel's own bound of 1 ms in 100 ms is broken.
        if (0.01..=8192.0).contains(&cpus) {
            return Some(cpus);
        }
        self.take(item, Err(Wrong::new("is not between 0.01 and 8192")))
    }

    /// Each element, as far as it is right; nothing if any is wrong.
    pub fn list<T>(&mut self, item: &Item, mut each: impl FnMut(&mut Self, &Item) -> Option<T>) -> Option<Vec<T>> {
        let Value::List(items) = &item.value else {
            let hint = match &item.value {
                Value::Text(text) => Some(format!("{} = [\"{}\"]", self.inner.unwrap_or(self.key.name), escape(text))),
                _ => None,
            };
            return self.mistyped(item, "an array", hint.as_deref());
        };
        if items.len() > MAX_LIST {
            self.fail(item.at, Wrong::new(format!("has more than {MAX_LIST} elements")));
            return None;
        }
        let mut values = Vec::with_capacity(items.len());
        for (index, element) in items.iter().enumerate() {
            self.element = Some(index);
            values.extend(each(self, element));
        }
        self.element = None;
        (values.len() == items.len()).then_some(values)
    }

    pub fn list_of<T>(&mut self, item: &Item, parse: impl Fn(&str) -> Parsed<T>) -> Option<Vec<T>> {
        self.list(item, |cx, element| cx.parsed(element, &parse))
    }

    /// Adds what is not there yet: a later file adds to a list, it does not replace it.
    pub fn unite<T: PartialEq>(&mut self, item: &Item, list: &mut Vec<T>, values: Vec<T>) {
        for value in values {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        if list.len() > MAX_LIST {
            list.truncate(MAX_LIST);
            self.fail(item.at, Wrong::new(format!("has more than {MAX_LIST} elements in all files together")));
        }
    }

    pub fn schema(&mut self, item: &Item) {
        match item.value {
            Value::Integer(1) => {}
            Value::Integer(number) => {
                self.fail(
                    item.at,
                    Wrong::new(format!("{number} is unknown to this hamper, which knows 1")).hint("a newer hamper may know it"),
                );
            }
            _ => {
                self.mistyped::<()>(item, "an integer", Some("schema = 1"));
            }
        }
    }

    /// The files themselves were read before; here only the form is checked.
    pub fn include(&mut self, item: &Item) {
        self.list(item, Self::plain_text_owned);
    }

    fn plain_text_owned(&mut self, item: &Item) -> Option<String> {
        self.plain_text(item).map(str::to_owned)
    }

    pub fn image(&mut self, item: &Item) -> Option<ImageSource> {
        let text = self.plain_text(item)?;
        if text.contains("${") {
            let at = self.place_in(item.at, "${");
            self.fail(
                at,
                Wrong::new("variables are never replaced in `image`")
                    .hint("hamper run --image REF, or a hamper.local.toml beside the profile"),
            );
            return None;
        }
        let dir = self.dir(item.at);
        let home = self.vars.home;
        self.take(item, super::image::image(text, &|path| absolute(path, dir, home)))
    }

    pub fn command(&mut self, item: &Item) -> Option<Vec<String>> {
        if let Value::Text(text) = &item.value {
            let shown = escape(text).replace('\\', "\\\\").replace('"', "\\\"");
            let hint = if text.contains(' ') { format!("[\"sh\", \"-c\", \"{shown}\"]") } else { format!("[\"{shown}\"]") };
            return self.mistyped(item, "an array", Some(&format!("{} = {hint}", self.key.name)));
        }
        let words = self.list(item, |cx, element| {
            let text = cx.free_text(element)?;
            cx.expand(element, text, Side::Inside).map(Cow::into_owned)
        })?;
        if words.first().is_some_and(String::is_empty) {
            return self.take(item, Err(Wrong::new("starts with an empty word").hint("to drop the image's: `entrypoint = []`")));
        }
        Some(words)
    }

    pub fn user(&mut self, item: &Item) -> Option<UserSpec> {
        if let Value::Integer(number) = item.value {
            return self.mistyped(item, "a string", Some(&format!("user = \"{number}\"")));
        }
        self.expanded_parsed(item, value::user)
    }

    pub fn signal(&mut self, item: &Item) -> Option<i32> {
        match item.value {
            Value::Integer(_) => self.integer(item, 1, 64),
            _ => self.parsed(item, value::signal),
        }
    }

    pub fn address(&mut self, item: &Item) -> Option<IpAddr> {
        self.parsed(item, |text| text.parse().map_err(|_| Wrong::new("is no IP address")))
    }

    fn dir(&self, at: At) -> &'a Path {
        self.sources.get(usize::from(at.source)).map_or(Path::new("/"), |source| &source.dir)
    }

    /// A path on the host: variables and `~` replaced, and counted from the directory of the file that it stands in.
    pub fn host_path(&mut self, item: &Item) -> Option<PathBuf> {
        let text = self.plain_text(item)?;
        self.host_path_of(item, text)
    }

    fn host_path_of(&mut self, item: &Item, text: &str) -> Option<PathBuf> {
        let expanded = self.expand(item, text, Side::Host)?;
        let (dir, home) = (self.dir(item.at), self.vars.home);
        self.take(item, absolute(&expanded, dir, home))
    }

    pub fn project_path(&mut self, item: &Item) -> Option<PathBuf> {
        self.parsed(item, |text| value::project_path(text).map(PathBuf::from))
    }

    pub fn capabilities(&mut self, item: &Item) -> Option<Vec<Capability>> {
        let names = self.list(item, |cx, element| {
            cx.parsed(element, |text| match text {
                "@root" => Ok(Capability::ROOT.to_vec()),
                _ => Capability::from_name(text).map(|cap| vec![cap]).ok_or_else(|| unknown_capability(text)),
            })
        })?;
        let mut caps = names.concat();
        caps.sort_unstable();
        caps.dedup();
        Some(caps)
    }

    pub fn seccomp(&mut self, item: &Item) -> Option<SeccompSource> {
        let text = self.plain_text(item)?;
        match text {
            "default" => return Some(SeccompSource::Default),
            "strict" => return Some(SeccompSource::Strict),
            "none" => return Some(SeccompSource::None),
            _ => {}
        }
        #[expect(clippy::case_sensitive_file_extension_comparisons, reason = "a file's name is taken as it is written")]
        if text.contains('/') || text.ends_with(".json") {
            return self.host_path_of(item, text).map(SeccompSource::File);
        }
        let wrong = Wrong::new("is none of `default`, `strict`, `none` and no path");
        let wrong = match nearest(text, ["default", "strict", "none"]) {
            Some(near) => wrong.hint(format!("seccomp = \"{near}\"")),
            None => wrong.hint(format!("seccomp = \"./{}.json\"", escape(text))),
        };
        self.take(item, Err(wrong))
    }

    /// The name in an open table, checked.
    fn named(&mut self, check: fn(&str) -> Parsed<()>) -> Option<String> {
        let name = self.name.clone()?;
        match check(&name.text) {
            Ok(()) => Some(name.text),
            Err(Wrong { message, hint }) => {
                self.fail(name.at, Wrong { message: format!("`{}` {message}", escape(&name.text)), hint });
                None
            }
        }
    }

    pub fn variable(&mut self, draft: &mut Draft, item: &Item) {
        let name = self.named(value::variable);
        if let Value::Integer(_) | Value::Float(_) | Value::Flag(_) = item.value {
            let written =
                self.sources.get(usize::from(item.at.source)).and_then(|source| source.text.get(item.at.span())).unwrap_or_default();
            return self.mistyped(item, "a string", Some(&format!("\"{}\"", escape(written)))).unwrap_or_default();
        }
        let value = self.free_text(item).and_then(|text| self.expand(item, text, Side::Inside));
        if let Some((name, value)) = name.zip(value) {
            upsert(&mut draft.profile.env, name, value.into_owned());
        }
    }

    pub fn host(&mut self, draft: &mut Draft, item: &Item) {
        let name = self.named(value::hostname);
        let address = self.address(item);
        if let Some((name, address)) = name.zip(address) {
            upsert(&mut draft.profile.network.hosts, name, address);
        }
    }

    pub fn ulimit(&mut self, draft: &mut Draft, item: &Item) {
        let limit = self.rlimit();
        let value = match (&item.value, limit) {
            (Value::Text(text), _) if text == "unlimited" => Some(u64::MAX),
            (Value::Text(_), Some(limit)) if limit.counts_bytes() => self.size(item, 0),
            (Value::Text(_), None) => None,
            _ => self.integer(item, 0, i64::MAX),
        };
        if let Some((limit, value)) = limit.zip(value) {
            upsert(&mut draft.profile.limits.ulimits, limit, value);
        }
    }

    fn rlimit(&mut self) -> Option<Rlimit> {
        let name = self.name.clone()?;
        let known = Rlimit::from_word(&name.text);
        if known.is_none() {
            let wrong = Wrong::new(format!("`{}` is no rlimit", escape(&name.text)));
            let near = nearest(&name.text, super::words::words::<Rlimit>());
            self.fail(name.at, near.map(|near| wrong.clone().hint(format!("`{near}`"))).unwrap_or(wrong));
        }
        known
    }
}

impl Rlimit {
    /// Whether the limit is a number of bytes.
    pub(super) fn counts_bytes(self) -> bool {
        matches!(self, Self::As | Self::Core | Self::Data | Self::Fsize | Self::Memlock | Self::Msgqueue | Self::Rss | Self::Stack)
    }
}

fn unknown_capability(text: &str) -> Wrong {
    let wrong = Wrong::new("is no capability");
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return wrong.hint("name what the program needs, or `@root` for one that starts as root");
    }
    match nearest(upper.trim_start_matches("CAP_"), Capability::NAMES) {
        Some(near) => wrong.hint(format!("\"{near}\"")),
        None => wrong,
    }
}

/// Whether a name is one of `env_pass`, or falls under one of its prefixes.
pub fn passes(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    })
}

fn upsert<K: PartialEq, V>(list: &mut Vec<(K, V)>, key: K, value: V) {
    match list.iter_mut().find(|(known, _)| *known == key) {
        Some((_, old)) => *old = value,
        None => list.push((key, value)),
    }
}

/// `~`, absolute and relative paths of the host; `..` stays, because only the kernel knows what it leads to.
fn absolute(text: &str, dir: &Path, home: &Path) -> Parsed<PathBuf> {
    let path = match text.strip_prefix('~') {
        Some("") => home.to_path_buf(),
        Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        Some(_) => return Err(Wrong::new("names another user's home").hint("write the path; `~/` is your own home")),
        None if text.is_empty() => return Err(Wrong::new("is empty").hint("`.` is the directory of this file")),
        None => dir.join(text),
    };
    // Takes out `.` and doubled slashes.
    let path: PathBuf = path.components().collect();
    match path.as_os_str().as_encoded_bytes() {
        bytes if bytes.len() >= MAX_PATH => Err(Wrong::new("is longer than a path can be")),
        bytes if bytes.iter().any(u8::is_ascii_control) => Err(Wrong::new("contains a control character when its variables are replaced")),
        _ => Ok(path),
    }
}

/// All of `[[mounts]]` of one file.
pub fn mounts(draft: &mut Draft, cx: &mut Cx<'_>, item: &Item) {
    let Value::List(items) = &item.value else {
        return cx.mistyped(item, "an array of tables", Some("[[mounts]]")).unwrap_or_default();
    };
    if items.len() > MAX_LIST {
        return cx.fail(item.at, Wrong::new(format!("has more than {MAX_LIST} elements")));
    }
    for (index, element) in items.iter().enumerate() {
        cx.mount = Some(index);
        if let Some(mount) = mount(cx, element) {
            place_mount(draft, cx, mount, element.at);
        }
        cx.inner = None;
    }
    cx.mount = None;
    if draft.profile.mounts.len() > MAX_LIST {
        draft.profile.mounts.truncate(MAX_LIST);
        cx.fail(item.at, Wrong::new(format!("has more than {MAX_LIST} elements in all files together")));
    }
}

/// A target that is there already is replaced when another file had it, and is a finding in the same file.
fn place_mount(draft: &mut Draft, cx: &mut Cx<'_>, mount: Mount, at: At) {
    let known = draft.profile.mounts.iter().position(|other| other.target == mount.target);
    match known {
        Some(index) if draft.mount_places[index].source == at.source => {
            let wrong = Wrong::new(format!("`{}` is a target already, at {}", escape(&mount.target), draft.profile.mounts[index].origin));
            cx.fail(at, wrong);
        }
        Some(index) => (draft.profile.mounts[index], draft.mount_places[index]) = (mount, at),
        None => {
            draft.profile.mounts.push(mount);
            draft.mount_places.push(at);
        }
    }
}

/// The keys of one mount, before they are judged together.
#[derive(Default)]
struct MountKeys<'i> {
    by_key: [Option<&'i Item>; keys::MOUNT.len()],
}

impl<'i> MountKeys<'i> {
    fn get(&self, name: &str) -> Option<&'i Item> {
        keys::MOUNT.iter().position(|key| key.name == name).and_then(|index| self.by_key[index])
    }
}

fn mount(cx: &mut Cx<'_>, item: &Item) -> Option<Mount> {
    let Value::Table(entries) = &item.value else { return cx.mistyped(item, "a table", Some("[[mounts]]")) };
    cx.inner = None;
    let mut written = MountKeys::default();
    let mut unknown = false;
    for (name, value) in entries {
        match keys::MOUNT.iter().position(|key| key.name == name.text) {
            Some(index) => written.by_key[index] = Some(value),
            None => {
                unknown = true;
                unknown_inner(cx, keys::MOUNT, name);
            }
        }
    }
    let word = match written.get("type") {
        Some(value) => within(cx, "type", |cx| cx.word::<MountWord>(value))?,
        None => MountWord::Bind,
    };
    refuse_strangers(cx, &written, word, entries);
    let target =
        written.get("target").and_then(|value| within(cx, "target", |cx| cx.expanded_parsed(value, |text| value::target(text, true))));
    if written.get("target").is_none() && !unknown {
        cx.fail(item.at, Wrong::new("has no `target`").hint("target = \"/data\""));
    }
    let mode = written.get("mode").map(|value| within(cx, "mode", |cx| cx.word::<MountMode>(value)));
    let kind = mount_kind(cx, &written, word, item)?;
    let read_only = match mode {
        Some(mode) => mode? == MountMode::Ro,
        None => word == MountWord::Bind,
    };
    Some(Mount { kind, target: target?, read_only, origin: cx.origin(item.at) })
}

fn mount_kind(cx: &mut Cx<'_>, written: &MountKeys<'_>, word: MountWord, item: &Item) -> Option<MountKind> {
    let source = written.get("source");
    if source.is_none() && word != MountWord::Tmpfs {
        let hint = if word == MountWord::Bind { "source = \"./data\"" } else { "source = \"npm\"" };
        cx.fail(item.at, Wrong::new(format!("a {} has no `source`", word.word())).hint(hint));
    }
    match word {
        MountWord::Bind => {
            let source = within(cx, "source", |cx| cx.host_path(source?));
            let missing = match written.get("missing") {
                Some(value) => within(cx, "missing", |cx| cx.word(value))?,
                None => Missing::Error,
            };
            Some(MountKind::Bind { source: source?, missing })
        }
        MountWord::Tmpfs => {
            let size = written.get("size").map(|value| within(cx, "size", |cx| cx.size(value, 4096)));
            Some(MountKind::Tmpfs { size: size.map_or(Some(None), |size| size.map(Some))? })
        }
        MountWord::Volume => Some(MountKind::Volume { name: store_name(cx, source?)? }),
        MountWord::Cache => {
            let shared = written.get("shared").map_or(Some(false), |value| within(cx, "shared", |cx| cx.flag(value)));
            let name = store_name(cx, source?);
            Some(MountKind::Cache { name: name?, shared: shared? })
        }
    }
}

fn store_name(cx: &mut Cx<'_>, item: &Item) -> Option<String> {
    within(cx, "source", |cx| cx.expanded_parsed(item, |text| value::store_name(text).map(|()| text.to_owned())))
}

/// Keys that the type of the mount does not have.
fn refuse_strangers(cx: &mut Cx<'_>, written: &MountKeys<'_>, word: MountWord, entries: &[(Name, Item)]) {
    for (name, only) in [("missing", MountWord::Bind), ("shared", MountWord::Cache), ("size", MountWord::Tmpfs)] {
        if word != only && written.get(name).is_some() {
            stranger(cx, name, word, entries, &format!("only a mount of type \"{}\" has it", only.word()));
        }
    }
    if word == MountWord::Tmpfs && written.get("source").is_some() {
        stranger(cx, "source", word, entries, "what a tmpfs holds comes from nowhere");
    }
}

fn stranger(cx: &mut Cx<'_>, name: &'static str, word: MountWord, entries: &[(Name, Item)], hint: &str) {
    let Some((key, _)) = entries.iter().find(|(key, _)| key.text == name) else { return };
    within(cx, name, |cx| {
        cx.fail(key.at, Wrong::new(format!("means nothing for a {}", word.word())).hint(hint));
    });
}

/// Runs a check as one of a key within a mount or secret.
fn within<T>(cx: &mut Cx<'_>, name: &'static str, check: impl FnOnce(&mut Cx<'_>) -> T) -> T {
    let before = cx.inner.replace(name);
    let result = check(cx);
    cx.inner = before;
    result
}

fn unknown_inner(cx: &mut Cx<'_>, known: &[Inner], name: &Name) {
    let wrong = Wrong::new("unknown key");
    let near = match name.text.as_str() {
        "destination" | "dest" | "dst" | "path" => Some("target"),
        "src" | "name" | "from" => Some("source"),
        "readonly" | "read_only" | "ro" => Some("mode"),
        other => nearest(other, known.iter().map(|key| key.name)),
    };
    let wrong = match near.filter(|near| known.iter().any(|key| key.name == *near)) {
        Some(near) => wrong.hint(format!("did you mean `{near}`?")),
        None => wrong.hint(format!("keys here: {}", known.iter().map(|key| key.name).collect::<Vec<_>>().join(", "))),
    };
    let path = format!("{}.{}", cx.path(), escape(&name.text));
    cx.fail_key(name.at, path, wrong);
}

/// One key of one of `[secrets.*]`; the walk has put its name into `cx`.
pub fn secret(draft: &mut Draft, cx: &mut Cx<'_>, item: &Item) {
    let Some(name) = cx.name.clone() else { return };
    let index = match draft.secrets.iter().position(|known| known.name == name.text) {
        Some(index) => index,
        None => {
            draft.secrets.push(SecretDraft { name: name.text.clone(), at: name.at, has_from: false, from: None, target: None });
            let inner = cx.inner.take();
            cx.named(value::name);
            cx.inner = inner;
            draft.secrets.len() - 1
        }
    };
    match cx.inner {
        Some("from") => {
            draft.secrets[index].has_from = true;
            draft.secrets[index].from = secret_source(cx, item);
        }
        Some("target") => draft.secrets[index].target = cx.expanded_parsed(item, |text| value::target(text, false)),
        _ => {}
    }
}

fn secret_source(cx: &mut Cx<'_>, item: &Item) -> Option<SecretSource> {
    let text = cx.plain_text(item)?;
    match text.split_once(':') {
        Some(("env", name)) => cx.take(item, value::variable(name).map(|()| SecretSource::Env(name.to_owned()))),
        Some(("file", path)) => cx.host_path_of(item, path).map(SecretSource::File),
        // What stands here may be the secret itself, so it is not repeated.
        _ => {
            cx.fail(item.at, Wrong::new("is neither `env:NAME` nor `file:PATH`").hint("from = \"env:NPM_TOKEN\""));
            None
        }
    }
}

/// Secrets as they leave: each has a source, and a place of its own.
pub fn finish_secrets(draft: &mut Draft, cx: &mut Cx<'_>) {
    for secret in std::mem::take(&mut draft.secrets) {
        cx.name = Some(Name { text: secret.name.clone(), at: secret.at });
        let target = secret.target.unwrap_or_else(|| format!("/run/secrets/{}", secret.name));
        let taken = draft.profile.secrets.iter().any(|other| other.target == target)
            || draft.profile.mounts.iter().any(|mount| mount.target == target);
        if taken {
            cx.fail(secret.at, Wrong::new(format!("`{}` is a target already", escape(&target))));
        }
        match secret.from {
            Some(from) => draft.profile.secrets.push(Secret { name: secret.name, from, target }),
            None if secret.has_from => {}
            None => cx.fail(secret.at, Wrong::new("has no `from`").hint("from = \"env:NPM_TOKEN\"")),
        }
    }
    cx.name = None;
}

impl Cx<'_> {
    /// `profile.toml:12`; mounts of a file come in order, so that its lines are counted once.
    fn origin(&mut self, at: At) -> String {
        let Some(source) = self.sources.get(usize::from(at.source)) else { return String::new() };
        if self.counted.0 != at.source || self.counted.1 > at.start {
            self.counted = (at.source, 0, 1);
        }
        let (_, from, line) = self.counted;
        let line = line + lines(source.text.as_bytes().get(from as usize..at.start as usize).unwrap_or_default());
        self.counted = (at.source, at.start, line);
        named_line(source, line)
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn named_line(source: &Source, line: usize) -> String {
    match source.layer {
        super::source::Layer::Override => source.name.clone(),
        _ => format!("{}:{line}", escape(&source.name)),
    }
}

/// `profile.toml:12`, or `--set`.
pub fn origin(sources: &[Source], at: At) -> String {
    let Some(source) = sources.get(usize::from(at.source)) else { return String::new() };
    named_line(source, 1 + lines(source.text.as_bytes().get(..at.start as usize).unwrap_or_default()))
}

/// Whether a key of this kind is a table of names.
pub fn is_open(kind: Kind) -> bool {
    matches!(kind, Kind::TextMap | Kind::LimitMap | Kind::Secrets)
}
