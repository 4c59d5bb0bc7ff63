//! Ids, subordinate ids, directories and Landlock of this machine.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::probe::{MINIMUM_KERNEL, kernel_version};
use crate::sys;

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("hamper must not be installed setuid, setgid or with file capabilities")]
    RaisedPrivileges,
    #[error("HOME is not set to an absolute path")]
    NoHome,
    #[error("this is Linux {release}, and hamper needs {}.{} or newer", MINIMUM_KERNEL.0, MINIMUM_KERNEL.1)]
    OldKernel { release: String },
}

/// A block of subordinate ids, subuid(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SubRange {
    pub start: u32,
    pub count: u32,
}

/// Where hamper keeps things, by the XDG base directory specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    pub home: PathBuf,
    /// `$XDG_DATA_HOME/hamper`
    pub data: PathBuf,
    /// `$XDG_STATE_HOME/hamper`
    pub state: PathBuf,
    /// `$XDG_CONFIG_HOME/hamper`
    pub config: PathBuf,
}

impl Directories {
    /// From the environment; a variable that is unset, empty or relative counts as unset, as that specification says.
    ///
    /// # Errors
    /// [`HostError::NoHome`].
    pub fn from_environment(lookup: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, HostError> {
        let absolute = |name| lookup(name).filter(|path| path.is_absolute());
        let home = absolute("HOME").or_else(|| lookup("HOME").is_none().then(passwd_home).flatten()).ok_or(HostError::NoHome)?;
        let directory = |name, fallback| absolute(name).unwrap_or_else(|| home.join(fallback)).join("hamper");
        Ok(Self {
            data: directory("XDG_DATA_HOME", ".local/share"),
            state: directory("XDG_STATE_HOME", ".local/state"),
            config: directory("XDG_CONFIG_HOME", ".config"),
            home,
        })
    }
}

/// The home that the host knows for the caller.
fn passwd_home() -> Option<PathBuf> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let text = read_bounded(Path::new("/etc/passwd"))?;
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let line = text.lines().map(fields).find(|fields| fields.get(2) == Some(&uid))?;
    line.get(5).map(PathBuf::from).filter(|home| home.is_absolute())
}

/// Who runs this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

impl Ids {
    /// Of this process.
    ///
    /// # Errors
    /// [`HostError::RaisedPrivileges`]: hamper never runs with more rights than its caller.
    pub fn own() -> Result<Self, HostError> {
        let ids = sys::ids_at_start();
        if sys::secure_mode() || ids.uid != ids.euid || ids.gid != ids.egid {
            return Err(HostError::RaisedPrivileges);
        }
        Ok(Self { uid: ids.uid, gid: ids.gid })
    }
}

/// What a plan must know about this machine.
#[derive(Clone, Debug)]
pub struct Host {
    pub uid: u32,
    pub gid: u32,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// The Landlock ABI, or why there is none.
    pub landlock: Result<u32, Errno>,
    /// Subordinate ranges, where both and the two programs that map them exist; looked up only when asked for.
    pub ranges: Option<(SubRange, SubRange)>,
}

impl Host {
    /// Looks at this process and this kernel.
    ///
    /// # Errors
    /// [`HostError::OldKernel`].
    pub fn probe(ids: Ids, want_ranges: bool) -> Result<Self, HostError> {
        let Ids { uid, gid } = ids;
        let kernel = supported_kernel(&rustix::system::uname().release().to_string_lossy())?;
        let ranges = if want_ranges { subordinate_ranges(uid) } else { None };
        Ok(Self { uid, gid, kernel, landlock: landlock_abi(), ranges })
    }
}

/// The version that a release of uname(2) begins with.
///
/// # Errors
/// [`HostError::OldKernel`] below the minimum, and where there is no version in it.
fn supported_kernel(release: &str) -> Result<(u32, u32), HostError> {
    kernel_version(release).filter(|version| *version >= MINIMUM_KERNEL).ok_or_else(|| HostError::OldKernel { release: release.to_owned() })
}

/// The Landlock ABI of this kernel.
///
/// # Errors
/// `EOPNOTSUPP` switched off at boot, `ENOSYS` not built in.
pub fn landlock_abi() -> Result<u32, Errno> {
    sys::landlock_abi()
}

/// The first subordinate ranges of a user in subuid(5) and subgid(5), where newuidmap and newgidmap are installed.
pub fn subordinate_ranges(uid: u32) -> Option<(SubRange, SubRange)> {
    let installed = sys::MAP_PROGRAMS.iter().all(|program| Path::new(program).exists());
    if !installed {
        return None;
    }
    let name = user_name(uid);
    let range = |file| find_range(&read_bounded(Path::new(file))?, name.as_deref(), uid);
    Some((range("/etc/subuid")?, range("/etc/subgid")?))
}

/// subuid(5): `name-or-uid:start:count`. The largest block wins, since ids up to 65535 should fit.
pub(super) fn find_range(text: &str, name: Option<&str>, uid: u32) -> Option<SubRange> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let owner = fields.next()?;
            if Some(owner) != name && owner != number {
                return None;
            }
            let range = SubRange { start: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
            let fits = range.count > 0 && range.start.checked_add(range.count).is_some();
            fits.then_some(range)
        })
        .max_by_key(|range| range.count)
}

pub(super) fn user_name(uid: u32) -> Option<String> {
    let passwd = read_bounded(Path::new("/etc/passwd"))?;
    let number = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    })
}

/// Files of `/etc` that are read here are small; a larger one is not what it should be.
const MAX_ETC_FILE: u64 = 4 << 20;

pub(super) fn read_bounded(path: &Path) -> Option<String> {
    let fd: OwnedFd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(fd).take(MAX_ETC_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused() {
        for (release, expected) in [("5.13.0", Some((5, 13))), ("5.13-rc1", Some((5, 13))), ("6.1.0-13-amd64", Some((6, 1)))] {
            assert_eq!(supported_kernel(release).ok(), expected, "{release}");
        }
        for release in ["5.12.19", "5.4.0-150-generic", "4.18.0-553.el8.x86_64", "5", "x", ""] {
            let error = supported_kernel(release).expect_err(release);
            assert_eq!(error.to_string(), format!("this is Linux {release}, and hamper needs 5.13 or newer"));
        }
    }

    #[test]
    fn ranges_by_name_and_by_number() {
        let text = "root:1:1\nalice:100000:65536\n1000:300000:10\nalice:bad:1\n";
        assert_eq!(find_range(text, Some("alice"), 1000), Some(SubRange { start: 100_000, count: 65_536 }));
        assert_eq!(find_range(text, None, 1000), Some(SubRange { start: 300_000, count: 10 }));
        assert_eq!(find_range(text, Some("bob"), 7), None);
        assert_eq!(find_range("alice:4294967290:100", Some("alice"), 1), None);
    }
}
