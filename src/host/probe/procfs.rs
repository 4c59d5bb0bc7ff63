//! Parsers of what the kernel and the system's files tell. Each takes text; [`read`] is the only reader.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// Files that are read here are small; a mount table may be long.
const MAX_FILE: u64 = 4 << 20;

/// Reads a file of text; what is not UTF-8 is replaced.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read(path: impl AsRef<Path>) -> Result<String, Errno> {
    let fd: OwnedFd = openat(CWD, path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let mut bytes = Vec::new();
    let read = std::fs::File::from(fd).take(MAX_FILE).read_to_end(&mut bytes);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file with one number, as sysctls are.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// `Name:\tvalue`, proc_pid_status(5).
pub fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// One line of uid_map(5): inside, outside, count.
pub fn id_map(text: &str) -> Vec<(u64, u64, u64)> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    text.lines().filter_map(line).collect()
}

/// Whether the map is that of the initial user namespace.
pub fn is_identity(map: &[(u64, u64, u64)]) -> bool {
    map == [(0, 0, u64::from(u32::MAX))]
}

/// Whether an id as seen from inside has a meaning outside.
pub fn is_mapped(map: &[(u64, u64, u64)], id: u64) -> bool {
    map.iter().any(|(inside, _, count)| (*inside..inside.saturating_add(*count)).contains(&id))
}

/// A line of proc_pid_mountinfo(5), as far as it is used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLine {
    pub point: PathBuf,
    pub kind: String,
    pub options: String,
}

pub fn mounts(mountinfo: &str) -> Vec<MountLine> {
    let line = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let point = PathBuf::from(unescape(fields.next()?));
        let options = fields.next()?.to_owned();
        Some(MountLine { point, options, kind: filesystem.split(' ').next()?.to_owned() })
    };
    mountinfo.lines().filter_map(line).collect()
}

/// `\040` and the like, as the kernel writes white space in a mount table.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                plain.push(char::from(byte));
                rest = &after[3..];
            }
            _ => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain + rest
}

/// The mount that a resolved path is on: the longest mount point above it, of several at one place the last.
pub fn mount_of<'a>(mounts: &'a [MountLine], path: &Path) -> Option<&'a MountLine> {
    mounts.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

/// An AppArmor label that confines: `name (enforce)`; `unconfined`, `name (unconfined)` and `name (complain)` do not.
pub fn confines(label: &str) -> bool {
    ["(enforce)", "(kill)", "(mixed)"].iter().any(|mode| label.trim_end().ends_with(mode))
}

/// Major and minor of a kernel release.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A variable of a NUL-separated environment.
pub fn variable<'a>(environment: &'a str, name: &str) -> Option<&'a str> {
    environment.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).filter(|value| !value.is_empty())
}

/// A value of os-release(5), without its quotes.
pub fn os_release<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(|value| value.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_maps() {
        let status = "Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(status_field(status, "Seccomp"), Some("2"));
        assert_eq!(status_field(status, "CapEff"), None);
        assert!(is_identity(&id_map("         0          0 4294967295\n")));
        let nested = id_map("         0       1001          1\n");
        assert!(!is_identity(&nested) && is_mapped(&nested, 0) && !is_mapped(&nested, 1));
        assert!(!is_mapped(&id_map(""), 65_534));
    }

    #[test]
    fn mount_tables() {
        let text = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n\
                    30 22 0:30 / /home/a\\040b rw,nosuid - nfs4 server:/x rw\n\
                    31 22 0:31 / /home/a\\040b rw,nosuid - tmpfs t rw\n\
                    broken\n";
        let mounts = mounts(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mount_of(&mounts, Path::new("/home/a b/c")).map(|mount| &*mount.kind), Some("tmpfs"));
        assert_eq!(mount_of(&mounts, Path::new("/home/a")).map(|mount| &*mount.kind), Some("ext4"));
        assert_eq!(unescape("a\\134b\\9\\"), "a\\b\\9\\");
    }

    #[test]
    fn labels_and_versions() {
        for (label, confined) in [
            ("unconfined", false),
            ("hamper (unconfined)", false),
            ("x (complain)", false),
            ("unprivileged_userns (enforce)\n", true),
            ("docker-default (enforce)", true),
        ] {
            assert_eq!(confines(label), confined, "{label}");
        }
        assert_eq!(kernel_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(kernel_version("5.4-rc1"), Some((5, 4)));
        assert_eq!(kernel_version("x"), None);
        assert_eq!(variable("A=1\0container=lxc\0", "container"), Some("lxc"));
        assert_eq!(os_release("NAME=x\nID=\"debian\"\n", "ID"), Some("debian"));
    }
}
