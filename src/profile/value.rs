//! Values with a syntax of their own, parsed once: sizes, durations, users, paths inside, names.
//!
//! Every function takes text and returns the value, or what is wrong with the text and what to write instead.

use std::time::Duration;

use super::model::{IdOrName, Platform, UserSpec};

/// What is wrong with a value: a lower-case fragment that follows the key, and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub hint: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

pub type Parsed<T> = Result<T, Wrong>;

/// Longest path that the kernel takes, with its final NUL.
const PATH_MAX: usize = 4096;
/// Longest name in a directory.
const NAME_MAX: usize = 255;

/// `512M`, `2G`, `1048576`, `0`: bytes, with powers of 1024.
pub fn size(text: &str) -> Parsed<u64> {
    let wrong = || Wrong::new("is no size").hint("sizes are bytes or `512K`, `512M`, `2G`, `1T` (powers of 1024)");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number = decimal(digits).ok_or_else(wrong)?;
    let too_large = || Wrong::new("is larger than 8 EiB");
    // The kernel's sizes are signed.
    number?.checked_mul(1 << shift).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(too_large)
}

/// All digits, or nothing; `Some(Err)` where the number is too large.
fn decimal(text: &str) -> Option<Parsed<u64>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_err(|_| Wrong::new("is too large a number")))
}

/// A size as a person would write it.
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// `30s`, `10m`, `1h30m`, `500ms`, `2d`: units from large to small, each at most once.
pub fn duration(text: &str) -> Parsed<Duration> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    /// About three years; beyond that it is a slip of the keyboard.
    const LONGEST: u64 = 1000 * 86_400_000;
    let wrong = || Wrong::new("is no duration").hint("durations are `500ms`, `30s`, `10m`, `1h30m`, `2d`");
    let (mut rest, mut units, mut total) = (text, &UNITS[..], 0_u64);
    while !rest.is_empty() || total == 0 && units.len() == UNITS.len() {
        let digits = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
        let number = decimal(digits).ok_or_else(wrong)??;
        rest = &rest[digits.len()..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
        let known = units.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let milliseconds = number.checked_mul(units[known].1).and_then(|part| total.checked_add(part));
        total = milliseconds.filter(|total| *total <= LONGEST).ok_or_else(|| Wrong::new("is longer than 1000 days"))?;
        rest = &rest[unit.len()..];
        units = &units[known + 1..];
    }
    Ok(Duration::from_millis(total))
}

/// A duration as a person would write it.
pub fn show_duration(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut shown = String::new();
    for (unit, milliseconds) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if left >= milliseconds {
            shown.push_str(&format!("{}{unit}", left / milliseconds));
            left %= milliseconds;
        }
    }
    if shown.is_empty() { "0s".into() } else { shown }
}

/// `user[:group]`, each a name or a decimal number.
pub fn user(text: &str) -> Parsed<UserSpec> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    Ok(UserSpec { user: id_or_name(user)?, group: group.map(id_or_name).transpose()? })
}

/// All digits is a number and is never looked up; the last id, 4294967295, is -1 to the kernel and means "no change".
fn id_or_name(text: &str) -> Parsed<IdOrName> {
    if let Some(number) = decimal(text) {
        let id = number.ok().and_then(|number| u32::try_from(number).ok()).filter(|id| *id != u32::MAX);
        return id.map(IdOrName::Id).ok_or_else(|| Wrong::new("is no user or group id").hint("ids go from 0 to 4294967294"));
    }
    let bare = text.strip_suffix('$').unwrap_or(text);
    let first = bare.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_uppercase() || byte == b'_');
    let all = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if first && all && text.len() <= 64 {
        return Ok(IdOrName::Name(text.to_owned()));
    }
    Err(Wrong::new("is no user or group").hint("write `node`, `1000`, `node:staff` or `1000:1000`"))
}

/// `linux/amd64`, `linux/arm64/v8`.
pub fn platform(text: &str) -> Parsed<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    let word = |part: &&str| {
        (1..=32).contains(&part.len()) && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'))
    };
    let wrong = || Wrong::new("is no platform").hint("write `linux/amd64` or `linux/arm64/v8`");
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
        return Err(wrong());
    }
    if parts[0] != "linux" {
        return Err(wrong());
    }
    Ok(Platform { os: parts[0].into(), architecture: parts[1].into(), variant: parts.get(2).map(|variant| (*variant).into()) })
}

/// A name that becomes part of file names and messages.
pub fn name(text: &str) -> Parsed<()> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if first && all && text.len() <= 63 {
        return Ok(());
    }
    Err(Wrong::new("is no name").hint("letters, digits, `.`, `_` and `-`, at most 63, a letter or digit first"))
}

/// The nearest valid name to any text.
pub fn name_from(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' };
    let fitted: String = text.chars().map(fit).take(63).collect();
    let trimmed = fitted.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if trimmed.is_empty() { "sandbox".into() } else { trimmed.into() }
}

/// RFC 1123 labels; the kernel keeps 64 bytes.
pub fn hostname(text: &str) -> Parsed<()> {
    if text.len() <= 64 && text.split('.').all(is_label) {
        return Ok(());
    }
    Err(Wrong::new("is no host name").hint("letters, digits and `-` in parts between dots, at most 64 bytes"))
}

fn is_label(label: &str) -> bool {
    let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
}

/// The nearest valid host name to a profile's name.
pub fn hostname_from(name: &str) -> String {
    let fitted: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let trimmed = fitted.trim_matches('-');
    if trimmed.is_empty() { "sandbox".into() } else { trimmed.to_ascii_lowercase() }
}

/// A variable's name. Dots and dashes are more than POSIX has; some images configure themselves by such names.
pub fn variable(text: &str) -> Parsed<()> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let all = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if first && all && text.len() <= NAME_MAX {
        return Ok(());
    }
    Err(Wrong::new("is no variable name").hint("letters, digits and `_`, no digit first"))
}

/// A variable's name, or a prefix with `*` at its end.
pub fn variable_pattern(text: &str) -> Parsed<()> {
    if text == "*" {
        return Err(Wrong::new("would pass the whole environment").hint("name the variables, or a prefix: `LC_*`"));
    }
    variable(text.strip_suffix('*').unwrap_or(text))
}

/// A path inside the sandbox: absolute, or from `~` where that is allowed. The result has no `//`, no `.` and no final `/`.
pub fn inside_path(text: &str, tilde: bool) -> Parsed<String> {
    let (home, rest) = match text.strip_prefix('~') {
        Some(rest) if tilde && (rest.is_empty() || rest.starts_with('/')) => ("~", rest),
        Some(_) if tilde => return Err(Wrong::new("names another user's home").hint("`~` and `~/DIR` are the home inside")),
        _ if !text.starts_with('/') => {
            let also = if tilde { ", or starting with `~/`" } else { "" };
            return Err(Wrong::new("is no absolute path").hint(format!("a path inside the sandbox, from `/`{also}")));
        }
        _ => ("", text),
    };
    let mut path = String::with_capacity(text.len());
    path.push_str(home);
    for part in rest.split('/').filter(|part| !part.is_empty() && *part != ".") {
        component(part)?;
        path.push('/');
        path.push_str(part);
    }
    match path.len() {
        0 => Ok("/".into()),
        length if length >= PATH_MAX => Err(Wrong::new("is longer than a path can be")),
        _ => Ok(path),
    }
}

fn component(part: &str) -> Parsed<()> {
    if part == ".." {
        return Err(Wrong::new("contains `..`").hint("write the path that is meant"));
    }
    if part.len() > NAME_MAX {
        return Err(Wrong::new("has a name of more than 255 bytes in it"));
    }
    Ok(())
}

/// Where something may be mounted: an inside path that is neither the root nor the kernel's own directories.
pub fn target(text: &str, tilde: bool) -> Parsed<String> {
    let path = inside_path(text, tilde)?;
    if path == "/" {
        return Err(Wrong::new("is the root").hint("the root comes from `image`"));
    }
    for kernel in ["/proc", "/sys", "/dev"] {
        if path.strip_prefix(kernel).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let wrong = Wrong::new(format!("lies at or below `{kernel}`, which hamper makes itself"));
            let device = kernel == "/dev" && path.len() > 5 && !path.starts_with("/dev/shm") && !path.starts_with("/dev/pts");
            return Err(if device { wrong.hint(format!("[security] devices = [\"{path}\"]")) } else { wrong });
        }
    }
    Ok(path)
}

/// A path relative to the project that stays in it.
pub fn project_path(text: &str) -> Parsed<String> {
    if text.starts_with('/') || text.starts_with('~') {
        return Err(Wrong::new("is not relative to the project").hint("write it from the project's directory: `.git/hooks`"));
    }
    let mut path = String::with_capacity(text.len());
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        component(part)?;
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    match path.len() {
        0 => Err(Wrong::new("is the project itself").hint("[project] mode = \"ro\" or \"none\"")),
        length if length >= PATH_MAX => Err(Wrong::new("is longer than a path can be")),
        _ => Ok(path),
    }
}

/// `/dev/NAME` or `@gpu`.
pub fn device(text: &str) -> Parsed<String> {
    if text.starts_with('@') {
        let known = if text == "@gpu" { Ok(text.to_owned()) } else { Err(Wrong::new("is no group of devices").hint("\"@gpu\"")) };
        return known;
    }
    let path = inside_path(text, false)?;
    let Some(name) = path.strip_prefix("/dev/") else {
        return Err(Wrong::new("is no path below /dev").hint("\"/dev/kvm\" or \"@gpu\""));
    };
    let first = name.split('/').next().unwrap_or_default();
    if OWN_DEVICES.contains(&first) {
        return Err(Wrong::new("is the sandbox's own in every sandbox"));
    }
    Ok(path)
}

/// Names in `/dev` that are never the host's: what stands there belongs to whoever opened it.
const OWN_DEVICES: [&str; 9] = ["console", "fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"];

/// The name of a volume or cache, which becomes a directory's name.
pub fn store_name(text: &str) -> Parsed<()> {
    name(text).map_err(|wrong| if text.contains('/') { Wrong::new("is no name, but a path").hint("type = \"bind\"") } else { wrong })
}

/// A program's name without a directory.
pub fn program(text: &str) -> Parsed<()> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'[');
    let all = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+' | b'['));
    if !(first && all && text.len() <= NAME_MAX) {
        return Err(Wrong::new("is no program's name").hint("a name without a directory: `node`"));
    }
    if text == "hamper" {
        return Err(Wrong::new("would stand in hamper's own way"));
    }
    Ok(())
}

/// A kernel list of processors: `0-3,8`.
pub fn cpu_list(text: &str) -> Parsed<()> {
    /// As many as the kernel can be built for.
    const CPUS: u64 = 8192;
    let number = |part: &str| decimal(part)?.ok().filter(|number| *number < CPUS);
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    if text.len() <= 1024 && text.split(',').all(range) {
        return Ok(());
    }
    Err(Wrong::new("is no list of processors").hint("write `0-3` or `0,2,4-7`"))
}

/// The signals of Linux by number, without `SIG`; the same on x86-64 and aarch64.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub fn signal(text: &str) -> Parsed<i32> {
    /// What glibc and musl leave to programs starts here; images name their stop signals by it.
    const RTMIN: i32 = 34;
    let wrong = || Wrong::new("is no signal").hint("write `SIGTERM`, `TERM` or `15`");
    if let Some(number) = decimal(text) {
        return number.ok().and_then(|number| i32::try_from(number).ok()).filter(|n| (1..=64).contains(n)).ok_or_else(wrong);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = SIGNALS.iter().position(|known| *known == bare) {
        return i32::try_from(index + 1).map_err(|_| wrong());
    }
    let offset = match bare.strip_prefix("RTMIN").ok_or_else(wrong)? {
        "" => Some(0),
        rest => rest.strip_prefix('+').and_then(decimal).and_then(Result::ok).and_then(|offset| i32::try_from(offset).ok()),
    };
    offset.filter(|offset| *offset <= 64 - RTMIN).map(|offset| RTMIN + offset).ok_or_else(wrong)
}

/// A signal by the name that people use.
pub fn show_signal(number: i32) -> String {
    let name = usize::try_from(number - 1).ok().and_then(|index| SIGNALS.get(index));
    name.map_or_else(|| number.to_string(), |name| format!("SIG{name}"))
}

/// A system call's name, or a group of them.
pub fn system_call(text: &str) -> Parsed<()> {
    let bare = text.strip_prefix('@').unwrap_or(text);
    let all = bare.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if (1..=64).contains(&bare.len()) && all {
        return Ok(());
    }
    Err(Wrong::new("is no system call").hint("write `keyctl` or a group as `@debug`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("1", 1), ("512M", 512 << 20), ("2g", 2 << 30), ("1K", 1024), ("8388607T", 8_388_607 << 40)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "1.5G",
            "-1",
            "+1",
            " 1",
            "1 M",
            "512MB",
            "1e3",
            "0x10",
            "8388608T",
            "99999999999999999999",
            "9223372036854775808",
            "1MM",
            "１M",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        for (bytes, text) in [(0, "0"), (1, "1"), (1 << 30, "1G"), (1536 << 20, "1536M"), (1000, "1000")] {
            assert_eq!(show_size(bytes), text);
            assert_eq!(size(text), Ok(bytes));
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1m500ms", 60_500),
            ("0s", 0),
            ("1000d", 86_400_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "30 s",
            "1m1h",
            "1s1s",
            "-1s",
            "1.5s",
            "1001d",
            "99999999999999999999s",
            "0s0",
            "30S",
            "1x",
            "18446744073709551615d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["1h30m", "500ms", "10s", "2d", "0s"] {
            assert_eq!(show_duration(duration(text).expect(text)), text);
        }
    }

    #[test]
    fn users() {
        let id = |n| IdOrName::Id(n);
        let name = |n: &str| IdOrName::Name(n.into());
        for (text, expected, group) in [
            ("0", id(0), None),
            ("node", name("node"), None),
            ("1000:1000", id(1000), Some(id(1000))),
            ("www-data:staff", name("www-data"), Some(name("staff"))),
            ("4294967294", id(4_294_967_294), None),
            ("machine$", name("machine$"), None),
            ("_apt", name("_apt"), None),
            ("007", id(7), None),
        ] {
            assert_eq!(user(text), Ok(UserSpec { user: expected, group }), "{text}");
        }
        for text in
            ["", ":", "a:", ":a", "4294967295", "4294967296", "-1", "1x", "a b", "a:b:c", "root\n", "+0", "99999999999999999999", "ä"]
        {
            assert!(user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn targets() {
        for (text, expected) in
            [("/data", "/data"), ("/a//b/./c/", "/a/b/c"), ("~", "~"), ("~/x/", "~/x"), ("/device", "/device"), ("/procs", "/procs")]
        {
            assert_eq!(target(text, true).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "", "data", "/", "//", "/.", "/..", "/a/../b", "~root/x", "~x", "/proc", "/proc/1", "/sys/", "/dev", "/dev/shm", "/dev/kvm",
            "//proc", "/./dev",
        ] {
            assert!(target(text, true).is_err(), "{text}");
        }
        assert!(target("~/x", false).is_err());
        assert!(target(&format!("/{}", "a".repeat(256)), true).is_err());
        assert!(target(&"/aa".repeat(1400), true).is_err());
    }

    #[test]
    fn project_paths() {
        for (text, expected) in [(".git/hooks", ".git/hooks"), ("./a//b/", "a/b")] {
            assert_eq!(project_path(text).as_deref(), Ok(expected));
        }
        for text in ["", ".", "./", "..", "a/../b", "/etc", "~/x"] {
            assert!(project_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_of_many_kinds() {
        type Case = (fn(&str) -> bool, &'static [&'static str], &'static [&'static str]);
        let ok: [Case; 8] = [
            (|t| hostname(t).is_ok(), &["app", "a.b-c.d", "0"], &["", "-a", "a-", "a..b", "a_b", "a b"]),
            (|t| variable(t).is_ok(), &["A", "_x1", "discovery.type"], &["", "1A", "A=B", "A B", "ä"]),
            (|t| variable_pattern(t).is_ok(), &["LC_*", "LANG"], &["*", "", "**", "A*B"]),
            (
                |t| platform(t).is_ok(),
                &["linux/amd64", "linux/arm64/v8"],
                &["", "linux", "linux/", "windows/amd64", "linux/a/b/c", "Linux/amd64"],
            ),
            (|t| cpu_list(t).is_ok(), &["0", "0-3", "0,2,4-7"], &["", "3-1", "a", "0-", "-1", "0,,1", "9999"]),
            (|t| device(t).is_ok(), &["/dev/kvm", "/dev/dri/card0", "@gpu"], &["", "/dev", "/dev/../etc", "/etc/passwd", "@all", "kvm"]),
            (|t| program(t).is_ok(), &["node", "g++", "["], &["", "a/b", "../x", "-x", "hamper", "a b"]),
            (|t| system_call(t).is_ok(), &["keyctl", "@debug"], &["", "@", "a b", "Keyctl"]),
        ];
        for (check, good, bad) in ok {
            assert!(good.iter().all(|text| check(text)), "{good:?}");
            assert!(bad.iter().all(|text| !check(text)), "{bad:?}");
        }
        assert!(hostname(&"a".repeat(64)).is_err());
        assert!(hostname(&format!("{}.b", "a".repeat(62))).is_ok());
    }

    #[test]
    fn signals() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("64", 64)] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "SIG", "SIGRTMIN+31", "SIGFOO", "-1", "RTMIN-1", "SIGSIGTERM"] {
            assert!(signal(text).is_err(), "{text}");
        }
        assert_eq!(show_signal(15), "SIGTERM");
    }

    #[test]
    fn names_made_from_anything_are_valid() {
        for text in ["", "..", "my app", "ä", "-x", &"y".repeat(300), "a/b"] {
            assert_eq!(name(&name_from(text)), Ok(()), "{text}");
            assert_eq!(hostname(&hostname_from(text)), Ok(()), "{text}");
        }
    }
}
