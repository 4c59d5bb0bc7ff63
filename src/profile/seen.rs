//! A file as it was when it was read: questions about it are asked of that, not of what its name leads to by then.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// What a descriptor said of a file, and a digest of what was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As it was named.
    pub path: PathBuf,
    /// Where it lies, by the kernel's word.
    pub real: PathBuf,
    /// How many names it has.
    pub links: u64,
    /// Its last change (ctime) in nanoseconds since 1970. Only the kernel sets that.
    pub changed: i64,
    /// Thirty-two hexadecimal digits of the SHA-256 of its content.
    pub digest: String,
}

impl Seen {
    /// To be called when `content` has been read: a change meanwhile is then told by the time.
    ///
    /// # Errors
    /// Of fstat(2); `ENOENT` there is no /proc.
    pub fn of(path: &Path, file: BorrowedFd<'_>, content: &[u8]) -> Result<Self, Errno> {
        let stat = fstat(file)?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::NOENT)?;
        Ok(Self {
            path: path.to_owned(),
            real,
            links: stat.st_nlink,
            changed: stat.st_ctime.saturating_mul(1_000_000_000).saturating_add(i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            digest: Sha256::digest(content).iter().take(16).map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}
