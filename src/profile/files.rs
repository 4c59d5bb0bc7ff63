//! The only module of this room that touches the file system: opens, judges and reads profiles, and looks at directories.
//!
//! A file is opened once, judged through its descriptor, and read from that same descriptor, so that what was judged is what is read.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use std::os::fd::IntoRawFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::seen::Seen;
use super::source::MAX_BYTES;

/// Whose profiles are trusted: the caller's and root's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// Why a file was not read. The message follows the file's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("does not exist")]
    Missing,
    #[error("cannot be opened: {0}")]
    Open(Errno),
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("belongs to user {0}, who is neither you nor root")]
    Foreign(u32),
    #[error("can be written by others (mode {0:04o})")]
    Writable(u32),
    #[error("is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("is not UTF-8 text: byte {0} is not part of a character")]
    NotText(usize),
    #[error("cannot be read: {0}")]
    Read(String),
}

impl ReadError {
    pub fn hint(&self, path: &Path) -> Option<String> {
        let shown = super::finding::escape(&path.to_string_lossy());
        match self {
            Self::Writable(_) => Some(format!("chmod go-w {shown}")),
            Self::Foreign(_) => Some(format!("make a copy of your own: cp {shown} .")),
            _ => None,
        }
    }
}

/// A file that may be read: its owner and mode are right, and it is a file.
#[derive(Debug)]
pub struct Opened {
    pub path: PathBuf,
    /// Where the path leads, if its last part is a symbolic link.
    pub real: Option<PathBuf>,
    /// Device and inode, which tell whether two names are one file.
    pub identity: (u64, u64),
    file: OwnedFd,
}

/// Opens a profile. Neither blocks on a pipe nor follows anything after it has judged.
pub fn open(path: &Path, caller: Caller) -> Result<Opened, ReadError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let (file, real) = match rustix::fs::openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::LOOP) => {
            let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(open_error)?;
            (file, std::fs::canonicalize(path).ok())
        }
        other => (other.map_err(open_error)?, None),
    };
    let stat = rustix::fs::fstat(&file).map_err(ReadError::Open)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        other => return Err(ReadError::NotRegular(file_type(other))),
    }
    judge(&stat, caller)?;
    if stat.st_size > i64::try_from(MAX_BYTES).unwrap_or(i64::MAX) {
        return Err(ReadError::TooLarge);
    }
    Ok(Opened { path: path.to_owned(), real, identity: (stat.st_dev, stat.st_ino), file })
}

fn open_error(errno: Errno) -> ReadError {
    match errno {
        Errno::NOENT | Errno::NOTDIR => ReadError::Missing,
        // A socket.
        Errno::NXIO => ReadError::NotRegular("a socket or a pipe"),
        other => ReadError::Open(other),
    }
}

fn file_type(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

/// Owner and mode. Writing by the group is fine where the group is the owner's own, which has the owner's number by convention:
/// distributions with such groups make every file so.
fn judge(stat: &Stat, caller: Caller) -> Result<(), ReadError> {
    if stat.st_uid != caller.uid && stat.st_uid != 0 {
        return Err(ReadError::Foreign(stat.st_uid));
    }
    if others_write(stat.st_mode, stat.st_uid, stat.st_gid) { Err(ReadError::Writable(stat.st_mode & 0o7777)) } else { Ok(()) }
}

fn others_write(mode: u32, uid: u32, gid: u32) -> bool {
    mode & 0o002 != 0 || mode & 0o020 != 0 && gid != uid
}

impl Opened {
    /// The whole text, and what was read. The bound is kept even if the file grows meanwhile.
    pub fn read(self) -> Result<(String, Seen), ReadError> {
        let mut bytes = Vec::with_capacity(4096);
        let limit = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
        let file = File::from(self.file);
        (&file).take(limit).read_to_end(&mut bytes).map_err(|error| ReadError::Read(error.to_string()))?;
        if bytes.len() > MAX_BYTES {
            return Err(ReadError::TooLarge);
        }
        let seen = Seen::of(&self.path, file.as_fd(), &bytes).map_err(ReadError::Open)?;
        let text = String::from_utf8(bytes).map_err(|error| ReadError::NotText(error.utf8_error().valid_up_to()))?;
        Ok((text, seen))
    }
}

/// What the search for a profile asks of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    pub others_write: bool,
    /// Tells mounts apart, bind mounts of one file system too, where the kernel does.
    pub mount: (u64, u64),
}

pub fn directory(path: &Path, caller: Caller) -> Option<Directory> {
    let want = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID | StatxFlags::GID | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(CWD, path, AtFlags::NO_AUTOMOUNT, want).ok()?;
    let mode = u32::from(stat.stx_mode);
    if FileType::from_raw_mode(mode) != FileType::Directory {
        return None;
    }
    let foreign = stat.stx_uid != caller.uid && stat.stx_uid != 0;
    let mount_id = if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 { stat.stx_mnt_id } else { 0 };
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    Some(Directory { others_write: foreign || others_write(mode, stat.stx_uid, stat.stx_gid), mount: (device, mount_id) })
}

/// Whether anything is there, also a dangling link.
pub fn exists(path: &Path) -> bool {
    rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).is_ok()
}

/// The path with every link followed; as it is where it leads nowhere.
pub fn resolve(path: &Path) -> PathBuf {
    let open = || rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    // The kernel has the resolved path at hand; realpath(3) asks once for each component.
    // Two descriptors of a start stay open to its end, which closes them.
    let known = |fd: std::os::fd::OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.into_raw_fd())).ok();
    open().ok().and_then(known).filter(|real| real.is_absolute()).unwrap_or_else(|| path.to_owned())
}

/// The names in a directory that end in `.toml`, sorted; none where there is no such directory.
pub fn profiles_in(directory: &Path) -> Vec<PathBuf> {
    /// More than this in one directory is no collection of profiles.
    const MOST: usize = 10_000;
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.take(MOST).filter_map(Result::ok).map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn me() -> Caller {
        Caller { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    #[test]
    fn only_trustworthy_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str, mode| {
            std::fs::write(at(name), "a = 1").expect("write");
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        write("good", 0o644);
        assert_eq!(open(&at("good"), me()).expect("open").read().expect("read").0, "a = 1");
        write("world", 0o646);
        assert_eq!(open(&at("world"), me()).expect_err("world"), ReadError::Writable(0o646));
        if me().uid != 0 {
            assert_eq!(open(&at("good"), Caller { uid: me().uid + 1, gid: 0 }).expect_err("foreign"), ReadError::Foreign(me().uid));
        }
        assert_eq!(open(&at("none"), me()).expect_err("none"), ReadError::Missing);
        assert_eq!(open(dir.path(), me()).expect_err("directory"), ReadError::NotRegular("a directory"));
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("mkfifo");
        assert_eq!(open(&at("pipe"), me()).expect_err("pipe"), ReadError::NotRegular("a pipe"));
        let large = File::create(at("large")).expect("create");
        large.set_len(2 << 20).expect("grow");
        large.set_permissions(std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(open(&at("large"), me()).expect_err("large"), ReadError::TooLarge);
        std::fs::write(at("latin"), b"a = \"\xe4\"").expect("write");
        std::fs::set_permissions(at("latin"), std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(open(&at("latin"), me()).expect("open").read().err(), Some(ReadError::NotText(5)));
        std::os::unix::fs::symlink("good", at("link")).expect("symlink");
        assert!(open(&at("link"), me()).expect("link").real.is_some_and(|real| real.ends_with("good")));
    }

    #[test]
    fn groups_of_ones_own_may_write() {
        for (mode, uid, gid, others) in
            [(0o664, 1000, 1000, false), (0o664, 1000, 100, true), (0o644, 1000, 100, false), (0o666, 0, 0, true)]
        {
            assert_eq!(others_write(mode, uid, gid), others, "{mode:o}");
        }
    }
}
