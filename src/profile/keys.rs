//! The schema, once: every key with its kind, its default, its meaning, how it is set and how it is shown.
//!
//! From this table come reading and validation, suggestions for misspelt keys, the JSON Schema for editors, and `profile show`.

use toml::Value as Toml;

use super::check::{Cx, Draft};
use super::model::{
    Capability, HomeMode, IdOrName, ImageSource, Isolation, LandlockMode, MapMode, Missing, NetworkMode, OnReplace, Preset, Profile,
    ProjectMode, Pull, Requirement, Rlimit, RootMode, SeccompSource, Select, TtyMode, UserSpec,
};
use super::rules::{NetworkRule, PortMap};
use super::source::Item;
use super::value;
use super::words::{MountMode, MountWord, OnMissing, Word, words};

/// One key of the schema.
pub struct Key {
    /// The table that it stands in; empty for the top level.
    pub section: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// Union where a later file adds to an earlier one; otherwise the later value stands alone.
    pub union: bool,
    /// As it would be written; empty where absent means something of its own, which `doc` then says.
    pub default: &'static str,
    /// One line for editors and documentation.
    pub doc: &'static str,
    /// Checks the value and puts it into the draft.
    pub set: fn(&mut Draft, &mut Cx<'_>, &Item),
    /// The value as TOML; absent where the key is absent.
    pub get: fn(&Profile) -> Option<Toml>,
}

impl Key {
    pub fn path(&self) -> String {
        if self.section.is_empty() { self.name.into() } else { format!("{}.{}", self.section, self.name) }
    }

    pub fn is(&self, section: &str, name: &str) -> bool {
        self.section == section && self.name == name
    }
}

/// The form of a value, as far as an editor can check it.
#[derive(Clone, Copy)]
pub enum Kind {
    Text,
    TextList,
    Word(fn() -> Vec<&'static str>),
    WordList(fn() -> Vec<&'static str>),
    /// Bytes as text or number.
    Size,
    Duration,
    /// With its least and greatest value.
    Integer(i64, i64),
    IntegerList(i64, i64),
    /// A number of processors.
    Number,
    Flag,
    /// A name or number.
    Signal,
    /// A table of any names with text.
    TextMap,
    /// `ulimits`
    LimitMap,
    /// `[[mounts]]`
    Mounts,
    /// `[secrets.NAME]`
    Secrets,
}

/// A key within each of `[[mounts]]` or `[secrets.*]`.
pub struct Inner {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub doc: &'static str,
    pub required: bool,
}

pub const MOUNT: &[Inner] = &[
    Inner {
        name: "type",
        kind: Kind::Word(words::<MountWord>),
        default: "\"bind\"",
        doc: "bind: a host path; tmpfs: memory; volume: by name, per user; cache: by name, per project.",
        required: false,
    },
    Inner {
        name: "source",
        kind: Kind::Text,
        default: "",
        doc: "Host path of a bind, from this file's directory; name of a volume or cache.",
        required: false,
    },
    Inner { name: "target", kind: Kind::Text, default: "", doc: "Where it appears inside: absolute, or from `~`.", required: true },
    Inner {
        name: "mode",
        kind: Kind::Word(words::<MountMode>),
        default: "\"ro\" for bind, else \"rw\"",
        doc: "Read-only or writable.",
        required: false,
    },
    Inner {
        name: "missing",
        kind: Kind::Word(words::<Missing>),
        default: "\"error\"",
        doc: "What to do where a bind's source does not exist.",
        required: false,
    },
    Inner { name: "shared", kind: Kind::Flag, default: "false", doc: "A cache kept per user instead of per project.", required: false },
    Inner { name: "size", kind: Kind::Size, default: "half of the memory", doc: "Size of a tmpfs.", required: false },
];

pub const SECRET: &[Inner] = &[
    Inner { name: "from", kind: Kind::Text, default: "", doc: "`env:NAME` or `file:PATH`.", required: true },
    Inner { name: "target", kind: Kind::Text, default: "\"/run/secrets/NAME\"", doc: "Where the file appears inside.", required: false },
];

/// The tables that hold keys of [`KEYS`], with what each is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("identity", "Who the payload is."),
    ("root", "The root file system."),
    ("project", "The directory that is worked in."),
    ("limits", "Limits by cgroup v2, and rlimits."),
    ("network", "What may be reached, and what may reach in."),
    ("security", "What the payload may ask of the kernel."),
    ("lifecycle", "How it starts and ends."),
    ("expose", "What the host's PATH gets."),
];

/// The position of a key in [`KEYS`].
pub fn find(section: &str, name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.is(section, name))
}

pub fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == name)
}

/// Below that a program takes minutes to be read.
const LEAST_BYTES_A_SECOND: u64 = 64 << 10;

const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    set: fn(&mut Draft, &mut Cx<'_>, &Item),
    get: fn(&Profile) -> Option<Toml>,
) -> Key {
    Key { section, name, kind, union: false, default, doc, set, get }
}

const fn union(key: Key) -> Key {
    Key { union: true, ..key }
}

/// Declares `set` closures: the checked value goes into a field where there is one.
macro_rules! set {
    (|$cx:ident, $item:ident| $parse:expr => $($field:ident).+) => {
        |draft, $cx, $item| {
            if let Some(value) = $parse {
                draft.profile.$($field).+ = value;
            }
        }
    };
    (|$cx:ident, $item:ident| $parse:expr => Some $($field:ident).+) => {
        |draft, $cx, $item| {
            if let Some(value) = $parse {
                draft.profile.$($field).+ = Some(value);
            }
        }
    };
    (|$cx:ident, $item:ident| $parse:expr => union $($field:ident).+) => {
        |draft, $cx, $item| {
            if let Some(values) = $parse {
                $cx.unite($item, &mut draft.profile.$($field).+, values);
            }
        }
    };
}

fn text(value: impl Into<String>) -> Option<Toml> {
    Some(Toml::String(value.into()))
}

fn texts<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Option<Toml> {
    Some(Toml::Array(values.into_iter().map(|value| Toml::String(value.into())).collect()))
}

fn word<T: Word>(value: T) -> Option<Toml> {
    text(value.word())
}

fn path(value: &std::path::Path) -> String {
    value.to_string_lossy().into_owned()
}

fn number(value: impl Into<i64>) -> Option<Toml> {
    Some(Toml::Integer(value.into()))
}

pub const KEYS: &[Key] = &[
    key("", "schema", Kind::Integer(1, 1), "1", "Version of this schema.", |_, cx, item| cx.schema(item), |_| number(1)),
    key(
        "",
        "name",
        Kind::Text,
        "",
        "The profile's name; absent: the directory's.",
        set!(|cx, i| cx.parsed(i, |t| value::name(t).map(|()| t.to_owned())) => name),
        |p| text(&*p.name),
    ),
    key(
        "",
        "include",
        Kind::TextList,
        "[]",
        "Files that this one builds on; what stands here wins.",
        |_, cx, item| cx.include(item),
        |_| None,
    ),
    key(
        "",
        "image",
        Kind::Text,
        "",
        "A registry reference, `oci:DIR[:TAG|@DIGEST]`, `oci-archive:FILE`, `docker-archive:FILE[:TAG]`, `tar:FILE`, `rootfs:DIR`, or `host`.",
        |draft, cx, item| draft.image = cx.image(item).or(draft.image.take()),
        |p| text(show_image(&p.image)),
    ),
    key(
        "",
        "platform",
        Kind::Text,
        "",
        "Which platform of the image; absent: this machine's.",
        set!(|cx, i| cx.parsed(i, value::platform) => platform),
        |p| text(p.platform.to_string()),
    ),
    key("", "pull", Kind::Word(words::<Pull>), "\"missing\"", "When a registry is asked.", set!(|cx, i| cx.word(i) => pull), |p| {
        word(p.pull)
    }),
    key(
        "",
        "entrypoint",
        Kind::TextList,
        "",
        "Replaces the image's ENTRYPOINT and drops its CMD; absent: the image's.",
        set!(|cx, i| cx.command(i) => Some entrypoint),
        |p| p.entrypoint.as_ref().and_then(texts),
    ),
    key(
        "",
        "command",
        Kind::TextList,
        "",
        "Replaces the image's CMD; absent: the image's.",
        set!(|cx, i| cx.command(i) => Some command),
        |p| p.command.as_ref().and_then(texts),
    ),
    key(
        "",
        "hostname",
        Kind::Text,
        "",
        "Host name inside; absent: the name.",
        set!(|cx, i| cx.expanded_parsed(i, |t| value::hostname(t).map(|()| t.to_owned())) => hostname),
        |p| text(&*p.hostname),
    ),
    key(
        "",
        "workdir",
        Kind::Text,
        "",
        "Working directory inside; absent: the image's, or the caller's within the project, or the project.",
        set!(|cx, i| cx.expanded_parsed(i, |t| value::inside_path(t, true)) => Some workdir),
        |p| p.workdir.as_deref().and_then(text),
    ),
    key(
        "",
        "env_pass",
        Kind::TextList,
        r#"["TERM", "COLORTERM", "NO_COLOR", "LANG", "LC_*", "TZ"]"#,
        "Names, or prefixes with `*`, taken from the caller's environment.",
        set!(|cx, i| cx.list_of(i, |t| value::variable_pattern(t).map(|()| t.to_owned())) => env_pass),
        |p| texts(&p.env_pass),
    ),
    key("", "env_file", Kind::TextList, "[]", "Files of `NAME=value` lines.", set!(|cx, i| cx.list(i, Cx::host_path) => env_file), |p| {
        texts(p.env_file.iter().map(|file| path(file)))
    }),
    key(
        "",
        "isolation",
        Kind::Word(words::<Isolation>),
        "\"auto\"",
        "How to isolate; `landlock` is for the host's files only.",
        set!(|cx, i| cx.word(i) => isolation),
        |p| word(p.isolation),
    ),
    key(
        "",
        "require",
        Kind::WordList(words::<Requirement>),
        "[]",
        "What stops the run where this machine cannot give it.",
        set!(|cx, i| cx.list(i, Cx::word::<Requirement>) => require),
        |p| texts(p.require.iter().map(|r| r.word())),
    ),
    key(
        "",
        "env",
        Kind::TextMap,
        "{}",
        "Variables inside.",
        |draft, cx, item| cx.variable(draft, item),
        |p| Some(Toml::Table(p.env.iter().map(|(name, value)| (name.clone(), Toml::String(value.clone()))).collect())),
    ),
    key("", "mounts", Kind::Mounts, "[]", "What else is mounted.", super::check::mounts, |_| None),
    key(
        "",
        "secrets",
        Kind::Secrets,
        "{}",
        "What arrives as a file of mode 0400, and never in the environment.",
        super::check::secret,
        |_| None,
    ),
    key(
        "identity",
        "user",
        Kind::Text,
        "",
        "User and group by name or number; absent: the image's USER.",
        set!(|cx, i| cx.user(i) => Some identity.user),
        |p| p.identity.user.as_ref().map(show_user).and_then(text),
    ),
    key(
        "identity",
        "map",
        Kind::Word(words::<MapMode>),
        "\"auto\"",
        "single: one id; range: your subuid range too; auto: range where there is one.",
        set!(|cx, i| cx.word(i) => identity.map),
        |p| word(p.identity.map),
    ),
    key(
        "identity",
        "home",
        Kind::Word(words::<HomeMode>),
        "\"private\"",
        "private: kept per project; tmp: thrown away; none: the image's own.",
        set!(|cx, i| cx.word(i) => identity.home),
        |p| word(p.identity.home),
    ),
    key(
        "root",
        "mode",
        Kind::Word(words::<RootMode>),
        "\"scratch\"",
        "scratch: writable and thrown away; ro; keep: writable and kept per project.",
        set!(|cx, i| cx.word(i) => root.mode),
        |p| word(p.root.mode),
    ),
    key(
        "root",
        "tmp",
        Kind::Size,
        "",
        "Size of a tmpfs on /tmp; absent: the image's own /tmp.",
        set!(|cx, i| cx.size(i, 4096) => Some root.tmp),
        |p| p.root.tmp.map(value::show_size).and_then(text),
    ),
    key("root", "shm", Kind::Size, "\"64M\"", "Size of /dev/shm.", set!(|cx, i| cx.size(i, 4096) => root.shm), |p| {
        text(value::show_size(p.root.shm))
    }),
    key(
        "project",
        "path",
        Kind::Text,
        "",
        "The project's directory; absent: that of the profile.",
        set!(|cx, i| cx.host_path(i) => Some project.path),
        |p| p.project.path.as_deref().map(path).and_then(text),
    ),
    key(
        "project",
        "target",
        Kind::Text,
        "",
        "Where it appears inside; absent: at the same path.",
        set!(|cx, i| cx.expanded_parsed(i, |t| value::target(t, false)) => Some project.target),
        |p| p.project.target.as_deref().and_then(text),
    ),
    key(
        "project",
        "mode",
        Kind::Word(words::<ProjectMode>),
        "\"rw\"",
        "rw; ro; scratch: writable and thrown away; none: not there.",
        set!(|cx, i| cx.word(i) => project.mode),
        |p| word(p.project.mode),
    ),
    union(key(
        "project",
        "protect",
        Kind::TextList,
        r#"[".git/hooks", ".git/config"]"#,
        "Stays read-only inside a writable project.",
        |draft, cx, item| {
            draft.protect_given = true;
            if let Some(values) = cx.list(item, Cx::project_path) {
                cx.unite(item, &mut draft.profile.project.protect, values);
            }
        },
        |p| texts(p.project.protect.iter().map(|file| path(file))),
    )),
    union(key(
        "project",
        "hide",
        Kind::TextList,
        "[]",
        "Cannot be read inside.",
        set!(|cx, i| cx.list(i, Cx::project_path) => union project.hide),
        |p| texts(p.project.hide.iter().map(|file| path(file))),
    )),
    key(
        "project",
        "on_replace",
        Kind::Word(words::<OnReplace>),
        "\"stop\"",
        "What follows when the host replaces a protected or hidden file during the run.",
        set!(|cx, i| cx.word(i) => project.on_replace),
        |p| word(p.project.on_replace),
    ),
    key(
        "limits",
        "memory",
        Kind::Size,
        "",
        "memory.max; absent: no limit.",
        set!(|cx, i| cx.size(i, 1 << 20) => Some limits.memory),
        |p| p.limits.memory.map(value::show_size).and_then(text),
    ),
    key(
        "limits",
        "memory_high",
        Kind::Size,
        "",
        "memory.high: above it the payload is slowed down and its memory taken back, and nothing is ended; absent: no such limit.",
        set!(|cx, i| cx.size(i, 1 << 20) => Some limits.memory_high),
        |p| p.limits.memory_high.map(value::show_size).and_then(text),
    ),
    key(
        "limits",
        "swap",
        Kind::Size,
        "",
        "memory.swap.max: swap alone, not memory and swap; absent: no limit.",
        set!(|cx, i| cx.size(i, 0) => Some limits.swap),
        |p| p.limits.swap.map(value::show_size).and_then(text),
    ),
    key(
        "limits",
        "cpus",
        Kind::Number,
        "",
        "cpu.max as a number of processors; absent: no limit.",
        set!(|cx, i| cx.cpus(i) => Some limits.cpus),
        |p| p.limits.cpus.map(Toml::Float),
    ),
    key(
        "limits",
        "cpu_weight",
        Kind::Integer(1, 10_000),
        "",
        "cpu.weight; absent: the kernel's 100.",
        set!(|cx, i| cx.integer(i, 1, 10_000) => Some limits.cpu_weight),
        |p| p.limits.cpu_weight.and_then(number),
    ),
    key(
        "limits",
        "pids",
        Kind::Integer(1, 4_194_304),
        "",
        "pids.max; absent: no limit.",
        set!(|cx, i| cx.integer(i, 1, 4_194_304) => Some limits.pids),
        |p| p.limits.pids.and_then(number),
    ),
    key(
        "limits",
        "io_weight",
        Kind::Integer(1, 10_000),
        "",
        "io.weight; absent: the kernel's 100.",
        set!(|cx, i| cx.integer(i, 1, 10_000) => Some limits.io_weight),
        |p| p.limits.io_weight.and_then(number),
    ),
    key(
        "limits",
        "io_read",
        Kind::Size,
        "",
        "io.max: bytes that may be read in a second from each disk below the sandbox's files; absent: no limit.",
        set!(|cx, i| cx.size(i, LEAST_BYTES_A_SECOND) => Some limits.io_read),
        |p| p.limits.io_read.map(value::show_size).and_then(text),
    ),
    key(
        "limits",
        "io_write",
        Kind::Size,
        "",
        "io.max: bytes that may be written in a second to each disk below the sandbox's files; absent: no limit.",
        set!(|cx, i| cx.size(i, LEAST_BYTES_A_SECOND) => Some limits.io_write),
        |p| p.limits.io_write.map(value::show_size).and_then(text),
    ),
    key(
        "limits",
        "cpuset",
        Kind::Text,
        "",
        "cpuset.cpus, `0-3,8`; absent: all.",
        set!(|cx, i| cx.parsed(i, |t| value::cpu_list(t).map(|()| t.to_owned())) => Some limits.cpuset),
        |p| p.limits.cpuset.as_deref().and_then(text),
    ),
    key(
        "limits",
        "time",
        Kind::Duration,
        "",
        "Wall clock; the payload then ends with 124; absent: no limit.",
        set!(|cx, i| cx.duration(i, 1) => Some limits.time),
        |p| p.limits.time.map(value::show_duration).and_then(text),
    ),
    key(
        "limits",
        "on_missing",
        Kind::Word(words::<OnMissing>),
        "\"warn\"",
        "What follows when a limit cannot be enforced here.",
        |draft, cx, item| {
            if let Some(word) = cx.word::<OnMissing>(item) {
                draft.profile.limits.missing_is_error = word == OnMissing::Error
            }
        },
        |p| word(if p.limits.missing_is_error { OnMissing::Error } else { OnMissing::Warn }),
    ),
    key(
        "limits",
        "ulimits",
        Kind::LimitMap,
        "{}",
        "rlimits by their lower-case names; a number, a size, or \"unlimited\".",
        |draft, cx, item| cx.ulimit(draft, item),
        |p| Some(Toml::Table(p.limits.ulimits.iter().map(|(name, value)| (name.word().to_owned(), show_ulimit(*name, *value))).collect())),
    ),
    key(
        "network",
        "mode",
        Kind::Word(words::<NetworkMode>),
        "\"none\"",
        "none; filtered: what `allow` names; nat: everything; host: the host's own.",
        set!(|cx, i| cx.word(i) => network.mode),
        |p| word(p.network.mode),
    ),
    union(key(
        "network",
        "allow",
        Kind::TextList,
        "[]",
        "filtered: `NAME[:PORT]`, `*.DOMAIN[:PORT]`, `ADDRESS[/BITS][:PORT]`.",
        set!(|cx, i| cx.list_of(i, |t| NetworkRule::parse(t).map(|_| t.to_owned())) => union network.allow),
        |p| texts(&p.network.allow),
    )),
    union(key(
        "network",
        "deny",
        Kind::TextList,
        "[]",
        "filtered: wins over `allow`.",
        set!(|cx, i| cx.list_of(i, |t| NetworkRule::parse(t).map(|_| t.to_owned())) => union network.deny),
        |p| texts(&p.network.deny),
    )),
    key(
        "network",
        "ports",
        Kind::TextList,
        "[]",
        "`[ADDRESS:]HOST:INSIDE[/udp]`, on 127.0.0.1 unless written.",
        set!(|cx, i| cx.list_of(i, |t| PortMap::parse(t).map(|_| t.to_owned())) => network.ports),
        |p| texts(&p.network.ports),
    ),
    key(
        "network",
        "host_services",
        Kind::IntegerList(1, 65_535),
        "[]",
        "Ports of the host's loopback, reachable as host.hamper.internal.",
        set!(|cx, i| cx.list(i, |cx, i| cx.integer::<u16>(i, 1, 65_535)) => network.host_services),
        |p| Some(Toml::Array(p.network.host_services.iter().map(|port| Toml::Integer((*port).into())).collect())),
    ),
    key(
        "network",
        "dns",
        Kind::TextList,
        "[]",
        "Addresses of the servers that hamper's resolver asks; empty: the host's.",
        set!(|cx, i| cx.list(i, Cx::address) => network.dns),
        |p| texts(p.network.dns.iter().map(ToString::to_string)),
    ),
    key(
        "network",
        "hosts",
        Kind::TextMap,
        "{}",
        "Lines for /etc/hosts: name to address.",
        |draft, cx, item| cx.host(draft, item),
        |p| Some(Toml::Table(p.network.hosts.iter().map(|(name, address)| (name.clone(), Toml::String(address.to_string()))).collect())),
    ),
    key(
        "network",
        "host_ca",
        Kind::Flag,
        "false",
        "Adds the host's CA bundle and the usual variables for it.",
        set!(|cx, i| cx.flag(i) => network.host_ca),
        |p| Some(Toml::Boolean(p.network.host_ca)),
    ),
    key(
        "security",
        "preset",
        Kind::Word(words::<Preset>),
        "\"dev\"",
        "Named sets of defaults: dev, build, untrusted.",
        set!(|cx, i| cx.word(i) => security.preset),
        |p| word(p.security.preset),
    ),
    key(
        "security",
        "caps",
        Kind::TextList,
        "[]",
        "Capabilities by name, or `@root` for programs that start as root and change user.",
        set!(|cx, i| cx.capabilities(i) => security.caps),
        |p| texts(show_capabilities(&p.security.caps)),
    ),
    key(
        "security",
        "seccomp",
        Kind::Text,
        "\"default\"",
        "default, strict, none, or the path of an OCI seccomp JSON.",
        set!(|cx, i| cx.seccomp(i) => security.seccomp),
        |p| text(show_seccomp(&p.security.seccomp)),
    ),
    key(
        "security",
        "seccomp_allow",
        Kind::TextList,
        "[]",
        "System calls, or @groups, allowed besides.",
        set!(|cx, i| cx.list_of(i, |t| value::system_call(t).map(|()| t.to_owned())) => security.seccomp_allow),
        |p| texts(&p.security.seccomp_allow),
    ),
    key(
        "security",
        "landlock",
        Kind::Word(words::<LandlockMode>),
        "\"auto\"",
        "auto: where the kernel has it; required; off.",
        set!(|cx, i| cx.word(i) => security.landlock),
        |p| word(p.security.landlock),
    ),
    key(
        "security",
        "nested_userns",
        Kind::Flag,
        "false",
        "Lets the payload make namespaces of its own.",
        set!(|cx, i| cx.flag(i) => security.nested_userns),
        |p| Some(Toml::Boolean(p.security.nested_userns)),
    ),
    key(
        "security",
        "devices",
        Kind::TextList,
        "[]",
        "Paths below /dev, or @gpu.",
        set!(|cx, i| cx.list_of(i, value::device) => security.devices),
        |p| texts(&p.security.devices),
    ),
    key(
        "lifecycle",
        "init",
        Kind::Flag,
        "true",
        "hamper's reaper is pid 1, so Ctrl-C and zombies just work.",
        set!(|cx, i| cx.flag(i) => lifecycle.init),
        |p| Some(Toml::Boolean(p.lifecycle.init)),
    ),
    key(
        "lifecycle",
        "stop_signal",
        Kind::Signal,
        "",
        "What `stop` sends first; absent: the image's, else SIGTERM.",
        set!(|cx, i| cx.signal(i) => Some lifecycle.stop_signal),
        |p| p.lifecycle.stop_signal.map(value::show_signal).and_then(text),
    ),
    key(
        "lifecycle",
        "stop_timeout",
        Kind::Duration,
        "\"10s\"",
        "How long `stop` waits before SIGKILL.",
        set!(|cx, i| cx.duration(i, 0) => lifecycle.stop_timeout),
        |p| text(value::show_duration(p.lifecycle.stop_timeout)),
    ),
    key(
        "lifecycle",
        "tty",
        Kind::Word(words::<TtyMode>),
        "\"auto\"",
        "Whether the payload gets a terminal of its own.",
        set!(|cx, i| cx.word(i) => lifecycle.tty),
        |p| word(p.lifecycle.tty),
    ),
    key(
        "expose",
        "commands",
        Kind::TextList,
        "[]",
        "Programs of the image that get a shim on the host's PATH.",
        set!(|cx, i| cx.list_of(i, |t| value::program(t).map(|()| t.to_owned())) => expose),
        |p| texts(&p.expose),
    ),
];

fn show_image(image: &ImageSource) -> String {
    let local = |form: &str, at: &std::path::Path, select: &Select| match select {
        Select::Only => format!("{form}:{}", at.display()),
        Select::Tag(tag) => format!("{form}:{}:{tag}", at.display()),
        Select::Digest(digest) => format!("{form}:{}@{digest}", at.display()),
    };
    match image {
        ImageSource::Registry(reference) => reference.clone(),
        ImageSource::OciDir { path, select } => local("oci", path, select),
        ImageSource::OciArchive { path, select } => local("oci-archive", path, select),
        ImageSource::DockerArchive { path, select } => local("docker-archive", path, select),
        ImageSource::Tar { path } => local("tar", path, &Select::Only),
        ImageSource::Rootfs { path } => local("rootfs", path, &Select::Only),
        ImageSource::Host => "host".into(),
    }
}

fn show_user(user: &UserSpec) -> String {
    let part = |part: &IdOrName| match part {
        IdOrName::Id(id) => id.to_string(),
        IdOrName::Name(name) => name.clone(),
    };
    match &user.group {
        Some(group) => format!("{}:{}", part(&user.user), part(group)),
        None => part(&user.user),
    }
}

fn show_ulimit(name: Rlimit, value: u64) -> Toml {
    match i64::try_from(value) {
        Err(_) => Toml::String("unlimited".into()),
        Ok(number) if number < 1 << 20 || !name.counts_bytes() => Toml::Integer(number),
        Ok(_) => Toml::String(value::show_size(value)),
    }
}

fn show_capabilities(caps: &[Capability]) -> Vec<String> {
    let root = Capability::ROOT.iter().all(|cap| caps.contains(cap));
    let rest = caps.iter().filter(|cap| !(root && Capability::ROOT.contains(cap)));
    let names = rest.map(|cap| cap.name().to_owned());
    root.then(|| "@root".to_owned()).into_iter().chain(names).collect()
}

fn show_seccomp(source: &SeccompSource) -> String {
    match source {
        SeccompSource::Default => "default".into(),
        SeccompSource::Strict => "strict".into(),
        SeccompSource::None => "none".into(),
        SeccompSource::File(file) => path(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_documented() {
        for (index, key) in KEYS.iter().enumerate() {
            assert_eq!(find(key.section, key.name), Some(index), "{}", key.path());
            assert!(key.section.is_empty() || is_section(key.section), "{}", key.path());
            assert!(key.doc.ends_with('.') && !key.doc.contains('\n'), "{}", key.path());
        }
    }

    #[test]
    fn documented_defaults_are_the_real_ones() {
        let profile = super::super::preset::defaults(Preset::Dev);
        for key in KEYS.iter().filter(|key| !key.default.is_empty() && !matches!(key.kind, Kind::Mounts | Kind::Secrets)) {
            let Some(actual) = (key.get)(&profile) else { continue };
            let documented: toml::Table = toml::from_str(&format!("x = {}", key.default)).expect(key.default);
            assert_eq!(documented["x"], actual, "{}", key.path());
        }
    }
}
