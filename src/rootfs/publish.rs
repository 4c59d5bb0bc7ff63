//! Writing a published store: the one who publishes, and nobody else, changes it, and only beside what readers see.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::directory::{is_whiteout, mark_opaque};
use super::export::{copy_content, copy_xattrs};
use super::published::{Failed, MAX_DEPTH, Published, VERSION, is_opaque, join, names, tree_name};
use super::record::{self, ImageRecord, ReferenceRecord};
use super::{Error, manage};
use crate::image::{self, Digest, Reference};
use crate::profile::Platform;
use crate::store::{LayerName, Store, TEMPORARY, TreeFacts, remove_tree, temporary_name, to_json};

/// Held by who publishes, to the end; first of all that is made in a new store.
const LOCK: &str = "hamper-lock";
/// Directories of a published store, parents first.
const DIRECTORIES: [&str; 5] = ["references", "blobs", "blobs/sha256", "blobs/sha512", "layers"];
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes an image of `store` into the directory `path`, which is made where it is missing: its documents, its trees as the single map has
/// them, and what `names` stand for.
///
/// # Errors
/// [`Error::Published`] for a directory that is something else · [`Error::Publish`] of writing there; others of reading.
pub fn publish(store: &Store, image: &ImageRecord, platform: &Platform, names: &[Reference], path: &Path) -> Result<usize, Error> {
    let _lock = store.begin_load()?;
    let to = Writer::open(path)?;
    // Modes of the image may keep even the owner out.
    let made = super::namespace::as_owner(|| {
        let mut made = 0;
        for diff_id in &image.diff_ids {
            let from = LayerName::new(diff_id, "single");
            let facts = store.tree_facts(&from)?;
            let facts = facts.ok_or_else(|| Error::NoSuchImage { wanted: format!("{} (layer {diff_id})", image.digest) })?;
            made += usize::from(to.tree(store, diff_id, &from, facts)?);
        }
        Ok(made)
    })?;
    let blobs = [Some(&image.digest), image.config_digest.as_ref()];
    for digest in blobs.into_iter().flatten() {
        let bytes = store.blob(digest)?.ok_or_else(|| Error::NoSuchImage { wanted: digest.to_string() })?;
        to.write(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()), &bytes)?;
    }
    // A name with the digest of an index is good for nothing without it.
    for name in names {
        let index = manage::index_of(store, &name.to_string(), image)?;
        if let Some((index, bytes)) = index.map(|index| store.blob(&index).map(|bytes| (index, bytes))).transpose()?
            && let Some(bytes) = bytes
        {
            to.write(&format!("blobs/{}/{}", index.algorithm().name(), index.hex()), &bytes)?;
        }
    }
    // What names lead to is there before they are.
    rustix::fs::syncfs(&to.store.directory).map_err(|errno| cannot(path, errno))?;
    for name in names {
        let index = manage::index_of(store, &name.to_string(), image)?;
        let known = ReferenceRecord { reference: name.to_string(), digest: image.digest.clone(), index, fetched: false };
        to.write(&record::reference_path(name, platform), &to_json(&known))?;
    }
    Ok(made)
}

fn cannot(path: &Path, errno: Errno) -> Error {
    Error::Publish { path: path.display().to_string(), source: errno.into() }
}

struct Writer {
    store: Published,
    _lock: Option<OwnedFd>,
}

impl Writer {
    fn open(path: &Path) -> Result<Self, Error> {
        if is_begun(path) {
            Self::begin(path)?;
        }
        let mut writer = Self { store: Published::open(path)?, _lock: None };
        writer.lock()?;
        Ok(writer)
    }

    /// Makes a store of a directory that is missing or empty, or in which that was begun.
    fn begin(path: &Path) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
        made.map_err(|source| Error::Publish { path: path.display().to_string(), source })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| cannot(path, errno))?;
        let mut writer = Self { store: Published { path: path.to_owned(), directory }, _lock: None };
        writer.lock()?;
        rustix::fs::fchmod(&writer.store.directory, Mode::from_raw_mode(0o755)).map_err(|errno| cannot(path, errno))?;
        DIRECTORIES.iter().try_for_each(|name| writer.make(name))?;
        writer.write("hamper-store", VERSION)
    }

    /// Waits until nobody else publishes here, and sweeps up what those left who were killed while they did.
    fn lock(&mut self) -> Result<(), Error> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.store.directory, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(self.failed(LOCK))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // A file system without locks: what is left over may be somebody's work.
                Err(Errno::NOLCK | Errno::OPNOTSUPP) => return Ok(()),
                Err(errno) => return Err(self.failed(LOCK)(errno)),
            }
        }
        self._lock = Some(file);
        ["."].iter().chain(&DIRECTORIES).try_for_each(|name| self.sweep(name))
    }

    /// Removes temporary files and trees of this user, and trees without facts, which no reader looks at.
    fn sweep(&self, directory: &str) -> Result<(), Error> {
        let failed = self.failed(directory);
        let fd = match rustix::fs::openat(&self.store.directory, directory, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let all = names(fd.as_fd()).map_err(&failed)?;
        let has = |name: &str| all.binary_search_by(|one| one.as_slice().cmp(name.as_bytes())).is_ok();
        let own = rustix::process::geteuid().as_raw();
        for name in all.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
            let stem = name.split('.').next().unwrap_or_default();
            let is_temporary = name.contains(TEMPORARY) && (stem == "hamper-store" || is_own_name(stem));
            let is_torn = directory == "layers" && is_own_name(stem) && !has(&format!("{stem}.json"));
            let is_own = || rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_uid == own);
            if (is_temporary || is_torn) && is_own() {
                remove_tree(&fd, name.as_bytes()).map_err(&failed)?;
            }
        }
        Ok(())
    }

    fn failed(&self, name: &str) -> impl Fn(Errno) -> Error + use<> {
        let path = self.store.path.join(name);
        move |errno| cannot(&path, errno)
    }

    fn make(&self, name: &str) -> Result<(), Error> {
        match rustix::fs::mkdirat(&self.store.directory, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed(name)(errno)),
        }
        rustix::fs::chmodat(&self.store.directory, name, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(self.failed(name))
    }

    /// Beside, and renamed.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let failed = self.failed(name);
        let directory = &self.store.directory;
        let temporary = format!("{name}{}", temporary_name());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, &temporary, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        let mut file = std::fs::File::from(file);
        let written =
            file.write_all(bytes).map_err(|source| Error::Publish { path: self.store.path.join(name).display().to_string(), source });
        let renamed = written.and_then(|()| {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(&failed)?;
            rustix::fs::renameat(directory, &temporary, directory, name).map_err(&failed)
        });
        if renamed.is_err() {
            // Ignoring: the first failure is the one to tell, and who publishes next sweeps.
            let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
        }
        renamed
    }

    /// Copies one tree; `false`: it is there already, as it was published.
    fn tree(&self, store: &Store, diff_id: &Digest, from: &LayerName, facts: TreeFacts) -> Result<bool, Error> {
        if let Some(known) = self.store.facts(diff_id)? {
            let found = self.store.open_tree(diff_id).and_then(|tree| tree.look());
            if found.is_ok_and(|(found, _)| Some(found) == known.tree) {
                return Ok(false);
            }
        }
        let name = format!("layers/{}", tree_name(diff_id).as_str());
        let temporary = format!("{name}{}", temporary_name());
        let made = self.copy(store, from, &name, &temporary).and_then(|()| self.place(&name, &temporary));
        if made.is_err() {
            // Ignoring: as above.
            let _ = remove_tree(&self.store.directory, temporary.as_bytes());
        }
        made?;
        let (digest, _) = self.store.open_tree(diff_id)?.look()?;
        let facts = TreeFacts { owners: "published".into(), boot: None, tree: Some(digest), ..facts };
        self.write(&format!("{name}.json"), &to_json(&facts))?;
        Ok(true)
    }

    fn copy(&self, store: &Store, from: &LayerName, name: &str, temporary: &str) -> Result<(), Error> {
        let failed = self.failed(name);
        let source = rustix::fs::openat(store.layers()?, from.as_str(), DIRECTORY, Mode::empty()).map_err(&failed)?;
        rustix::fs::mkdirat(&self.store.directory, temporary, Mode::RWXU).map_err(&failed)?;
        let target = rustix::fs::openat(&self.store.directory, temporary, DIRECTORY, Mode::empty()).map_err(&failed)?;
        let mut copy = Copy { modes: BTreeMap::new(), links: HashMap::new(), depth: 0 };
        copy.directory(source.as_fd(), target.as_fd(), b"").map_err(|(entry, errno)| Error::Unpack {
            layer: self.store.path.join(name).display().to_string(),
            entry: image::shown(&entry),
            act: "publish",
            source: errno.into(),
        })?;
        self.write(&format!("{name}.modes"), &write_modes(&copy.modes))?;
        self.write(&format!("{name}.owners"), &store.read_sidecar(from)?)
    }

    /// Gives the copy its name. What has the name already is not what was published; whoever uses it keeps what it has open.
    fn place(&self, name: &str, temporary: &str) -> Result<(), Error> {
        let (directory, failed) = (&self.store.directory, self.failed(name));
        // Without flags, which network file systems do not know: no directory takes the place of one that is not empty.
        match rustix::fs::renameat(directory, temporary, directory, name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(failed(errno)),
        }
        match rustix::fs::renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE) {
            Ok(()) => remove_tree(directory, temporary.as_bytes()).map_err(&failed),
            Err(Errno::INVAL) => {
                remove_tree(directory, name.as_bytes()).map_err(&failed)?;
                rustix::fs::renameat(directory, temporary, directory, name).map_err(&failed)
            }
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// Whether a store can be made there: nothing is, or somebody who began was killed.
fn is_begun(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else { return true };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.is_empty() || names.iter().any(|name| name == LOCK) && !names.iter().any(|name| name == "hamper-store")
}

/// The name of a tree, or a digest of either length.
fn is_own_name(stem: &str) -> bool {
    matches!(stem.len(), 22 | 64 | 128) && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

struct Copy {
    modes: BTreeMap<Vec<u8>, u32>,
    /// Files with several names, by device and inode: where the first was put.
    links: HashMap<(u64, u64), (std::rc::Rc<OwnedFd>, Vec<u8>)>,
    depth: usize,
}

impl Copy {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8]) -> Result<(), Failed> {
        let failed = |errno| (path.to_vec(), errno);
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(failed(Errno::NAMETOOLONG));
        }
        let stat = rustix::fs::fstat(from).map_err(failed)?;
        let target = std::rc::Rc::new(rustix::io::fcntl_dupfd_cloexec(to, 0).map_err(failed)?);
        for name in names(from).map_err(failed)? {
            let child = join(path, &name);
            self.one(from, &target, &child, &name)
                .map_err(|(inner, errno)| (if inner.is_empty() { child.clone() } else { inner }, errno))?;
        }
        if is_opaque(from) {
            mark_opaque(to).map_err(failed)?;
        }
        copy_xattrs(from, to).map_err(failed)?;
        self.mode(path, &stat, 0o755);
        rustix::fs::fchmod(to, Mode::from_raw_mode(0o755)).map_err(failed)?;
        rustix::fs::futimens(to, &times(&stat)).map_err(failed)?;
        self.depth -= 1;
        Ok(())
    }

    fn mode(&mut self, path: &[u8], stat: &Stat, published: u32) {
        let mode = stat.st_mode & 0o7777;
        if mode != published {
            self.modes.insert(path.to_vec(), mode);
        }
    }

    fn one(&mut self, from: BorrowedFd<'_>, to: &std::rc::Rc<OwnedFd>, path: &[u8], name: &[u8]) -> Result<(), Failed> {
        let here = |errno| (path.to_vec(), errno);
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(here)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(here)?;
                rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(here)?;
                let target = rustix::fs::openat(to, name, flags, Mode::empty()).map_err(here)?;
                self.directory(source.as_fd(), target.as_fd(), path)
            }
            FileType::RegularFile => self.file(from, to, path, name, &stat).map_err(here),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(here)?;
                rustix::fs::symlinkat(target.as_c_str(), to, name).map_err(here)?;
                rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).map_err(here)
            }
            FileType::Fifo => {
                rustix::fs::mknodat(to, name, FileType::Fifo, Mode::from_raw_mode(0o644), 0).map_err(here)?;
                rustix::fs::chmodat(to, name, Mode::from_raw_mode(0o644), AtFlags::empty()).map_err(here)?;
                self.mode(path, &stat, 0o644);
                rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).map_err(here)
            }
            _ if is_whiteout(&stat) => rustix::fs::mknodat(to, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(here),
            _ => Err(here(Errno::NOTSUP)),
        }
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: &std::rc::Rc<OwnedFd>, path: &[u8], name: &[u8], stat: &Stat) -> Result<(), Errno> {
        let published = if stat.st_mode & 0o111 != 0 { 0o755 } else { 0o644 };
        self.mode(path, stat, published);
        let key = (stat.st_dev, stat.st_ino);
        if let Some((directory, first)) = self.links.get(&key) {
            return rustix::fs::linkat(directory, first.as_slice(), to, name, AtFlags::empty());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        copy_content(&source, &target, u64::try_from(stat.st_size).unwrap_or(0))?;
        copy_xattrs(&source, &target)?;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(published))?;
        rustix::fs::futimens(&target, &times(stat))?;
        if stat.st_nlink > 1 {
            self.links.insert(key, (std::rc::Rc::clone(to), name.to_vec()));
        }
        Ok(())
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

/// One line `MODE PATH` for each, in octal, the path escaped as in the sidecar of owners.
pub(super) fn write_modes(modes: &BTreeMap<Vec<u8>, u32>) -> Vec<u8> {
    modes.iter().flat_map(|(path, mode)| format!("{mode:o} {}\n", path.escape_ascii()).into_bytes()).collect()
}
