//! Blobs, layer trees and records on disk.
//!
//! ```text
//! blobs/sha256/HEX     manifests and configs, as they came
//! layers/NAME          a layer's tree; 22 characters, so that 127 joined by `:` fit into the page of mount options
//! layers/NAME.json     what is known about it; no tree counts without it
//! layers/NAME.owners   true owners that are not the tree's
//! owners/HEX.json      which owner ids occur in a diff ID
//! images/HEX.json      one image: names, digest, layers
//! references/HEX.json  a reference and the digest that it stands for
//! prepared/KEY         everything that a warm start needs, in one read
//! locks/NAME           held while NAME is made
//! lock                 shared: somebody loads; exclusive: somebody sweeps
//! ```
//!
//! Everything is 0700 or 0600, is written beside and renamed into place, and is safe with many hampers at once and after kill -9 at
//! any moment. Nothing is in two steps that must both happen: a tree without its JSON is a leftover, a JSON without its tree too.

mod error;
mod lock;
mod remove;
mod tree;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

pub use error::Error;
pub use lock::Lock;
pub use remove::remove_tree;
pub use tree::{LayerName, TreeFacts};
pub(crate) use tree::{PendingTree, ThreadIds, to_json};

use crate::image::{Digest, MAX_CONFIG};

/// The directories of a store, parents first.
const DIRECTORIES: [&str; 9] = ["blobs", "blobs/sha256", "blobs/sha512", "layers", "owners", "images", "references", "prepared", "locks"];
/// A link to a directory of the user's for [`TREES`], where overlayfs cannot use the file system of the store: NFS, or one without user
/// extended attributes.
const ELSEWHERE: &str = "trees";
/// What overlayfs mounts and writes to, and what is renamed from and to there.
const TREES: [&str; 4] = ["layers", "scratch", "scratch-range", "trash"];
/// Files that are written beside and not yet renamed; leftovers when nobody loads.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// A user's store.
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
}

/// A record with which nobody can begin.
pub struct Held {
    pub bytes: Vec<u8>,
    _file: Option<File>,
}

impl Store {
    /// Opens the store at `path`, and makes it where it is missing. Makes nothing inside of it: that is for who writes.
    pub fn open(path: &Path) -> Result<Self, Error> {
        match Self::find(path)? {
            Some(store) => Ok(store),
            None => {
                create_private(path)?;
                Self::find(path)?.ok_or_else(|| Error::new("open", path, Errno::NOENT))
            }
        }
    }

    /// As [`Self::open`], but makes nothing; `None`: there is no store.
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|errno| Error::new("open", path, errno))?,
        };
        let stat = rustix::fs::fstat(&directory).map_err(|errno| Error::new("stat", path, errno))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Error::NotOurs { path: path.to_owned(), owner: stat.st_uid });
        }
        if stat.st_mode & 0o077 != 0 {
            // Made by somebody's mkdir under an open umask; nothing of ours may be reachable for others.
            rustix::fs::fchmod(&directory, Mode::RWXU).map_err(|errno| Error::new("chmod", path, errno))?;
        }
        Ok(Some(Self { path: path.to_owned(), directory }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that layer names count from, for overlay mounts and lookups.
    pub fn layers(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, "layers", flags, Mode::empty()).map_err(|errno| self.error("open", "layers", errno))
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(crate) fn error(&self, act: &'static str, path: &str, errno: Errno) -> Error {
        Error::new(act, &self.path.join(path), errno)
    }

    /// Where a link of the user's keeps trees elsewhere: makes the directories there, and links to them.
    ///
    /// # Errors
    /// [`Error::NotOurs`] where others own the place · `ENOTEMPTY` where there are trees here already.
    fn keep_trees_elsewhere(&self) -> Result<(), Error> {
        let failed = |name: &str| {
            let name = name.to_owned();
            move |errno| self.error("link", &name, errno)
        };
        let target = match rustix::fs::readlinkat(&self.directory, ELSEWHERE, Vec::new()) {
            Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
            other => other.map_err(failed(ELSEWHERE))?.into_string().map_err(|_| failed(ELSEWHERE)(Errno::ILSEQ))?,
        };
        if !target.starts_with('/') {
            return Err(failed(ELSEWHERE)(Errno::INVAL));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.directory, ELSEWHERE, flags, Mode::empty());
        let place = match open() {
            // Something that cleans up was there. Where the directory around it is gone as well, it may be a disk that is not mounted.
            Err(Errno::NOENT) => {
                match rustix::fs::mkdir(target.as_str(), Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => {
                        let command = format!("mkdir -p -m 700 '{}'", target.replace('\'', "'\\''"));
                        return Err(Error::Trees { path: target.into(), command, source: errno.into() });
                    }
                }
                open()
            }
            result => result,
        }
        .map_err(failed(ELSEWHERE))?;
        let stat = rustix::fs::fstat(&place).map_err(failed(ELSEWHERE))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Error::NotOurs { path: PathBuf::from(target), owner: stat.st_uid });
        }
        rustix::fs::fchmod(&place, Mode::RWXU).map_err(failed(ELSEWHERE))?;
        for name in TREES {
            match rustix::fs::mkdirat(&place, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(name)(errno)),
            }
            if rustix::fs::readlinkat(&self.directory, name, Vec::new()).is_ok() {
                continue;
            }
            match rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(name)(errno)),
            }
            match rustix::fs::symlinkat(format!("{target}/{name}"), &self.directory, name) {
                // Another hamper was faster.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(name)(errno)),
            }
        }
        Ok(())
    }

    /// Makes what is missing of the directories.
    fn create_directories(&self) -> Result<(), Error> {
        self.keep_trees_elsewhere()?;
        for name in DIRECTORIES {
            match rustix::fs::mkdirat(&self.directory, name, Mode::RWXU) {
                // Against a umask that takes bits from the owner.
                Ok(()) => rustix::fs::chmodat(&self.directory, name, Mode::RWXU, AtFlags::empty()),
                Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno),
            }
            .map_err(|errno| self.error("make", name, errno))?;
        }
        Ok(())
    }

    /// Reads the small file `name`; `None`: there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.open_record(name)?.map(|(_, bytes)| bytes))
    }

    /// As [`Self::read`], and the open file, on which a lock can be held.
    pub fn open_record(&self, name: &str) -> Result<Option<(File, Vec<u8>)>, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error("open", name, errno)),
        };
        // One read takes nearly every record whole; `read_to_end` would ask for the size first.
        let mut bytes = vec![0; 16 << 10];
        let io = |source| Error::Io { act: "read", path: self.path.join(name), source };
        let mut filled = 0;
        loop {
            let count = file.read(&mut bytes[filled..]).map_err(io)?;
            filled += count;
            if count == 0 || filled < bytes.len() {
                bytes.truncate(filled);
                return Ok(Some((file, bytes)));
            }
            if bytes.len() as u64 > 2 * MAX_CONFIG {
                return Err(self.error("read", name, Errno::FBIG));
            }
            bytes.resize(bytes.len() * 4, 0);
        }
    }

    /// Writes `name` whole or not at all, replacing what was there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (directory, _) = name.rsplit_once('/').unwrap_or((".", name));
        let temporary = format!("{directory}/{}", temporary_name());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error("make", name, errno))?;
        let written = File::from(fd).write_all(bytes).map_err(|source| Error::Io { act: "write", path: self.path.join(name), source });
        let renamed = written.and_then(|()| {
            rustix::fs::renameat(&self.directory, &temporary, &self.directory, name).map_err(|errno| self.error("rename", name, errno))
        });
        if renamed.is_err() {
            // ignoring: the first failure is the one to tell, and the next sweep finds the file.
            let _ = rustix::fs::unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
        renamed
    }

    /// A file of which nothing is read: a lease can be held on it by who uses trees of which there is no record.
    pub fn open_lease(&self, name: &str) -> Result<File, Error> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = || rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR);
        let opened = match open() {
            Err(Errno::NOENT) => {
                self.create_directories()?;
                open()
            }
            opened => opened,
        };
        opened.map(File::from).map_err(|errno| self.error("open", name, errno))
    }

    /// Keeps every start away from a record that none has a lease on, until what is returned is dropped; `None`: one has. A record that is
    /// not there any more is nobody's.
    pub fn hold(&self, name: &str) -> Result<Option<Held>, Error> {
        let Some((file, bytes)) = self.open_record(name)? else { return Ok(Some(Held { bytes: Vec::new(), _file: None })) };
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Held { bytes, _file: Some(file) })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(self.error("lock", name, errno)),
        }
    }

    /// Moves a layer's tree into the trash and removes what is known about it; facts first, so that a tree without them is a leftover.
    pub fn discard_layer(&self, name: &str) -> Result<(), Error> {
        self.unlink(&format!("layers/{name}.json"))?;
        self.unlink(&format!("layers/{name}.owners"))?;
        match rustix::fs::mkdirat(&self.directory, "trash", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.error("make", "trash", errno)),
        }
        let aside = format!("trash/{}", temporary_name());
        match rustix::fs::renameat(&self.directory, format!("layers/{name}"), &self.directory, &aside) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("move aside", &format!("layers/{name}"), errno)),
        }
    }

    /// Removes `name`; whether it was there.
    pub fn unlink(&self, name: &str) -> Result<bool, Error> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    /// Keeps a document under its digest.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let name = blob_name(digest);
        match rustix::fs::statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if u64::try_from(stat.st_size).is_ok_and(|size| size == bytes.len() as u64) => Ok(()),
            _ => self.write(&name, bytes),
        }
    }

    /// A blob of whatever size, and its size; its digest is verified by whoever reads it.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, Error> {
        let name = blob_name(digest);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.directory, &name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error("open", &name, errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.error("stat", &name, errno))?;
        Ok(Some((file, u64::try_from(stat.st_size).unwrap_or(0))))
    }

    /// Every blob's digest, and its bytes.
    pub fn blob_sizes(&self) -> Result<Vec<(String, u64)>, Error> {
        let mut sizes = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            for hex in self.list(&format!("blobs/{algorithm}"))? {
                let name = format!("blobs/{algorithm}/{hex}");
                match rustix::fs::statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => sizes.push((format!("{algorithm}:{hex}"), u64::try_from(stat.st_size).unwrap_or(0))),
                    // Another hamper has removed it.
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(self.error("stat", &name, errno)),
                }
            }
        }
        Ok(sizes)
    }

    /// A blob that comes in pieces.
    pub fn new_blob(&self) -> Result<PendingBlob<'_>, Error> {
        let temporary = format!("blobs/sha256/{}", temporary_name());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error("make", &temporary, errno))?;
        Ok(PendingBlob { store: self, temporary, file: file.into() })
    }

    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.read(&blob_name(digest))
    }

    /// Names of the entries of a directory of the store, without temporary ones.
    pub fn list(&self, name: &str) -> Result<Vec<String>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(self.error("open", name, errno)),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).map_err(|errno| self.error("read", name, errno))? {
            let entry = entry.map_err(|errno| self.error("read", name, errno))?;
            if let Some(text) = entry.file_name().to_str().ok().filter(|text| !text.starts_with('.')) {
                names.push(text.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Writes everything in the store's file system to the disk.
    ///
    /// Once a load, before its records call the trees whole: files of a tree are not synced one by one, and after a power loss a
    /// tree may be there with empty files in it. Until then its [`TreeFacts::boot`] says in which boot it can be trusted.
    pub fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.directory).map_err(|errno| self.error("sync", ".", errno))
    }
}

/// A blob that is not whole yet; it is gone again unless it is published.
pub struct PendingBlob<'s> {
    store: &'s Store,
    temporary: String,
    file: File,
}

impl PendingBlob<'_> {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| Error::Io { act: "write", path: self.store.path.join(&self.temporary), source })
    }

    /// Gives it its name. It is on the disk before: nobody reads a blob of the store to the end to see whether it is whole.
    pub fn publish(self, digest: &Digest) -> Result<(), Error> {
        let name = blob_name(digest);
        self.file.sync_data().map_err(|source| Error::Io { act: "sync", path: self.store.path.join(&name), source })?;
        let directory = &self.store.directory;
        rustix::fs::renameat(directory, &self.temporary, directory, &name).map_err(|errno| self.store.error("rename", &name, errno))
    }
}

impl Drop for PendingBlob<'_> {
    fn drop(&mut self) {
        // Ignoring: once published it has another name, and what is left of a failure is swept by the next load.
        let _ = rustix::fs::unlinkat(&self.store.directory, &self.temporary, AtFlags::empty());
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Makes `path` 0700; parents that are missing too, as XDG asks.
fn create_private(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::Io {
        act: "make",
        path: path.to_owned(),
        source,
    })
}

/// A name that no other process and no other thread of this one uses now.
pub(crate) fn temporary_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{TEMPORARY}{:x}-{count:x}-{now:x}", std::process::id())
}
