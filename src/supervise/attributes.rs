//! Modes and times that a payload without namespaces changes: done by the parent, where it lies in what the payload may write.
//!
//! Landlock does not look at chmod(2) and utimensat(2), and the kernel asks for the owner alone, who is the caller: every file of the
//! caller would be open to them. So the filter lets no such call through. It hands them over, and this process, which is outside the
//! domain, resolves the path once, to a descriptor, looks where that leads, and acts on the descriptor. Nothing that the payload does
//! meanwhile changes which file that is; it cannot move a file out of or into what it may write. The host can: so what may be written is
//! held by descriptor, as Landlock holds it, and a file counts only if it is found from there by its own name.
//!
//! A thread does all that: resolving a path waits for whoever serves it, and signals and limits of time must not.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, Timestamps, chmod, fstat, open, openat2, readlink, utimensat};
use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::time::Timespec;

use crate::sys::{self, Asked};

/// Longest path, with its zero byte, as the kernel takes it.
const PATH_MAX: usize = 4096;

/// Bytes of stack, for a path and what a file of /proc is read into.
const STACK: usize = 256 * 1024;

/// So often a file that is renamed all the time is looked for again.
const RENAMES: usize = 8;

/// What to do, with the arguments as the kernel takes them.
enum Wish {
    Mode(Mode),
    Times(Timestamps),
}

/// Which file: a descriptor of the payload, a path beside it, and whether a link at its end is meant itself.
struct Place {
    directory: i32,
    /// Address of the path; none for the descriptor itself.
    path: Option<u64>,
    no_follow: bool,
}

/// Hears the calls of one sandbox.
pub struct Attributes {
    listener: OwnedFd,
    writable: Vec<Writable>,
}

/// A directory below which the payload may write, whatever its path comes to mean.
#[derive(Debug)]
pub struct Writable(OwnedFd);

impl Writable {
    /// Opens it, if it is what the domain's rule was made for: device and inode.
    pub fn open(path: &Path, identity: Option<(u64, u64)>) -> Option<Self> {
        let fd = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let found = fstat(&fd).ok()?;
        identity.is_none_or(|wanted| wanted == (found.st_dev, found.st_ino)).then_some(Self(fd))
    }

    /// Whether a file of this name lies in it. The name alone would not do: by now another directory may be where this one was.
    fn has(&self, name: &Path, file: &Stat) -> bool {
        let Ok(place) = name_of(&self.0) else { return false };
        let Ok(inside) = name.strip_prefix(&place) else { return false };
        // Its last name was here, and is gone: only by a descriptor can it be reached at all.
        if file.st_nlink == 0 {
            return true;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let found = openat2(&self.0, inside, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS).and_then(fstat);
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino))
    }
}

/// As the kernel names it, without a link; what has lost its name has one that ends in ` (deleted)`.
fn name_of(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    let name = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(name.into_bytes())))
}

impl Attributes {
    pub fn new(listener: OwnedFd, writable: Vec<Writable>) -> Self {
        Self { listener, writable }
    }

    /// Answers from now on, beside what else is waited for: a path of the payload's may lead to a server that does not answer, and whoever
    /// resolves it waits until it does.
    ///
    /// # Errors
    /// `EAGAIN` where no thread is to be had: nobody answers then, and the caller has to end the sandbox.
    pub fn begin(self) -> Result<JoinHandle<()>, Errno> {
        let thread = std::thread::Builder::new().name("attributes".into()).stack_size(STACK);
        thread.spawn(move || while self.answer() {}).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Waits for the next call and answers it; false once nobody can ask any more.
    fn answer(&self) -> bool {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        // Ignoring: a poll that fails is made again.
        let _ = poll(&mut fds, None);
        let ready = fds[0].revents();
        if !ready.contains(PollFlags::IN) {
            return !ready.intersects(PollFlags::HUP | PollFlags::ERR);
        }
        if let Ok(asked) = sys::hear_call(self.as_fd()) {
            // Ignoring: who has asked is gone.
            let _ = sys::answer_call(self.as_fd(), asked.id, self.perform(&asked));
        }
        true
    }

    fn perform(&self, asked: &Asked) -> Result<(), Errno> {
        let process = PathBuf::from(format!("/proc/{}", asked.pid));
        let memory = std::fs::File::open(process.join("mem")).map_err(|_| Errno::PERM)?;
        // From here on `memory` is that of the process that waits, whatever its number comes to mean.
        if !sys::still_waits(self.as_fd(), asked.id) {
            return Err(Errno::SRCH);
        }
        let (place, wish) = understand(asked, &memory)?;
        let file = self.resolve(asked, &process, &memory, &place)?;
        self.check(&file)?;
        match wish {
            // chmod(2) has no form for such a descriptor before Linux 6.6; its name in /proc leads to it and to nothing else.
            Wish::Mode(mode) => chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode),
            Wish::Times(times) => utimensat(&file, c"", &times, AtFlags::EMPTY_PATH),
        }
    }

    fn resolve(&self, asked: &Asked, process: &Path, memory: &std::fs::File, place: &Place) -> Result<OwnedFd, Errno> {
        let path = place.path.map(|address| read_path(memory, address)).transpose()?;
        // The C library changes modes by the name of a descriptor in /proc, where the caller asks for the end of the path itself.
        let by_name = path.as_ref().filter(|_| !place.no_follow).and_then(|path| descriptor_of(path.as_bytes()));
        let path = if by_name.is_some() { None } else { path };
        let link = match by_name.unwrap_or(place.directory) {
            libc::AT_FDCWD => process.join("cwd"),
            number => process.join(format!("fd/{number}")),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let absolute = path.as_ref().is_some_and(|path| path.as_bytes().first() == Some(&b'/'));
        let base = if absolute { None } else { Some(open(&link, flags, Mode::empty()).map_err(|_| Errno::BADF)?) };
        if !sys::still_waits(self.as_fd(), asked.id) {
            return Err(Errno::SRCH);
        }
        match (path, base) {
            (None, Some(file)) => Ok(file),
            (Some(path), base) => {
                let flags = if place.no_follow { flags | OFlags::NOFOLLOW } else { flags };
                let base = base.as_ref().map_or(CWD, |base| base.as_fd());
                // Links of /proc would lead by this process, not by the one that asks.
                openat2(base, &path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
            }
            (None, None) => Err(Errno::BADF),
        }
    }

    /// Whether the payload may write there, and would be asked for nothing more than to be the owner. A caller who is root has more.
    fn check(&self, file: &OwnedFd) -> Result<(), Errno> {
        let found = fstat(file)?;
        if found.st_uid != geteuid().as_raw() {
            return Err(Errno::PERM);
        }
        for _ in 0..RENAMES {
            let name = name_of(file)?;
            if self.writable.iter().any(|writable| writable.has(&name, &found)) {
                return Ok(());
            }
            // It may have been renamed between the two looks, by another thread of a program that does nothing wrong.
            if name_of(file)? == name {
                break;
            }
        }
        Err(Errno::PERM)
    }
}

/// The same number on every architecture; the libc crate does not have it for all.
const FCHMODAT2: libc::c_long = 452;

/// The calls that the filter hands over. The kernel looks at the low half of an `int`.
fn understand(asked: &Asked, memory: &std::fs::File) -> Result<(Place, Wish), Errno> {
    const NO_FOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
    let [a, b, c, d, ..] = asked.arguments;
    let mode = |bits: u64| Wish::Mode(Mode::from_raw_mode(bits as u32 & 0o7777));
    let by_path = |directory: u64, path, flags: u64| {
        let no_follow = flags & 0xFFFF_FFFF == NO_FOLLOW;
        if flags & 0xFFFF_FFFF & !NO_FOLLOW != 0 {
            Err(Errno::PERM)
        } else {
            Ok(Place { directory: directory as i32, path: Some(path), no_follow })
        }
    };
    match libc::c_long::from(asked.number) {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => Ok((by_path(libc::AT_FDCWD as u64, a, 0)?, mode(b))),
        libc::SYS_fchmod => Ok((Place { directory: a as i32, path: None, no_follow: false }, mode(b))),
        libc::SYS_fchmodat => Ok((by_path(a, b, 0)?, mode(c))),
        FCHMODAT2 => Ok((by_path(a, b, d)?, mode(c))),
        libc::SYS_utimensat if b == 0 => Ok((Place { directory: a as i32, path: None, no_follow: false }, times(memory, c)?)),
        libc::SYS_utimensat => Ok((by_path(a, b, d)?, times(memory, c)?)),
        _ => Err(Errno::PERM),
    }
}

/// Two `struct timespec`; none means now.
fn times(memory: &std::fs::File, address: u64) -> Result<Wish, Errno> {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    if address == 0 {
        return Ok(Wish::Times(Timestamps { last_access: now, last_modification: now }));
    }
    let mut bytes = [0u8; 32];
    memory.read_exact_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
    let [accessed, accessed_nano, modified, modified_nano] =
        std::array::from_fn(|index| i64::from_ne_bytes(std::array::from_fn(|byte| bytes[8 * index + byte])));
    Ok(Wish::Times(Timestamps {
        last_access: Timespec { tv_sec: accessed, tv_nsec: accessed_nano },
        last_modification: Timespec { tv_sec: modified, tv_nsec: modified_nano },
    }))
}

/// The number in the caller's own name of a descriptor.
fn descriptor_of(path: &[u8]) -> Option<i32> {
    let digits = path.strip_prefix(b"/proc/self/fd/").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A path in the payload's memory, page by page, since the next one need not be there.
fn read_path(memory: &std::fs::File, address: u64) -> Result<CString, Errno> {
    const PAGE: u64 = 4096;
    let mut path = Vec::new();
    let mut at = address;
    while path.len() < PATH_MAX {
        let room = usize::try_from(PAGE - at % PAGE).unwrap_or(0).min(PATH_MAX - path.len());
        let mut part = [0u8; PAGE as usize];
        let count = memory.read_at(&mut part[..room], at).map_err(|_| Errno::FAULT)?;
        if count == 0 {
            return Err(Errno::FAULT);
        }
        if let Some(end) = part[..count].iter().position(|byte| *byte == 0) {
            path.extend_from_slice(&part[..end]);
            return CString::new(path).map_err(|_| Errno::INVAL);
        }
        path.extend_from_slice(&part[..count]);
        at = at.checked_add(count as u64).ok_or(Errno::FAULT)?;
    }
    Err(Errno::NAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_descriptor_is_named_in_one_way() {
        assert_eq!(descriptor_of(b"/proc/self/fd/17"), Some(17));
        for path in
            ["/proc/self/fd/", "/proc/self/fd/1/x", "/proc/self/fd/-100", "/proc/self/fd/+1", "/proc/1/fd/1", "/proc/self/fd/99999999999"]
        {
            assert_eq!(descriptor_of(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn paths_end_at_a_zero_byte_and_have_a_longest() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&[b'x'; 4000]).expect("write");
        file.write_all(b"/y\0zzz").expect("write");
        file.write_all(&[b'x'; 9000]).expect("write");
        assert_eq!(read_path(&file, 3998).expect("a path").as_bytes(), b"xx/y");
        assert_eq!(read_path(&file, 4003), Err(Errno::NAMETOOLONG));
        assert_eq!(read_path(&file, 20_000), Err(Errno::FAULT));
        assert_eq!(read_path(&file, 12_000), Err(Errno::FAULT));
    }
}
