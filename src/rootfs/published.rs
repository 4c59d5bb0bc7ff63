//! Stores that many users read: a directory with documents and trees that somebody publishes and nobody else writes.
//!
//! ```text
//! hamper-store                       "1\n": what this is
//! references/HASH.json               as in a store of one's own
//! blobs/sha256/…                     manifests and configs
//! layers/NAME, NAME.json             trees, and what is known about them, with the digest of the tree
//! layers/NAME.modes, NAME.owners     what the tree itself cannot say: modes that would let others write or keep them out, and owners
//! ```
//!
//! Everything in it is written beside and renamed, and never changed after that: readers take no locks. In a tree every directory is 0755 and
//! every file 0644 or 0755: it lies open on a shared file system, where a setuid bit or an open mode would be one for everybody there.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::directory::{is_whiteout, mark_opaque};
use super::export::{copy_content, copy_xattrs};
use super::record::{self, ImageRecord, ReferenceRecord};
use super::{Error, manage};
use crate::image::{self, Digest, MAX_CONFIG, Reference, Remote};
use crate::profile::Platform;
use crate::store::{LayerName, Store, TreeFacts, to_json};

/// What the file `hamper-store` says.
const VERSION: &[u8] = b"1\n";
/// Directories in each other: each is open while what is in it is looked at.
const MAX_DEPTH: usize = 400;
/// Sidecars of one tree: a line for each entry that is not what most are.
const MAX_SIDECAR: u64 = 64 << 20;
const OPAQUE: &str = "user.overlay.opaque";

/// How a tree is named there.
pub(super) fn tree_name(diff_id: &Digest) -> LayerName {
    LayerName::new(diff_id, "published")
}

/// A published store that is read.
pub(super) struct Published {
    path: PathBuf,
    directory: OwnedFd,
}

impl Published {
    /// # Errors
    /// [`Error::Published`] where it is none, or where others than its owner can write.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let refused = |reason: &'static str| Error::Published { path: path.display().to_string(), reason };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| open_failed(path, errno))?;
        let stat = rustix::fs::fstat(&directory).map_err(|errno| open_failed(path, errno))?;
        if stat.st_mode & 0o022 != 0 {
            return Err(refused("can be written by others than its owner"));
        }
        let store = Self { path: path.to_owned(), directory };
        match store.read("hamper-store", 64)? {
            Some(bytes) if bytes == VERSION => Ok(store),
            Some(_) => Err(refused("is a store of another version of hamper")),
            None => Err(refused("is no published store")),
        }
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(fd) => std::fs::File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(open_failed(&self.path.join(name), errno)),
        };
        let mut bytes = Vec::new();
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|source| Error::Open { path: self.path.join(name).display().to_string(), source })?;
        if bytes.len() as u64 > limit {
            return Err(open_failed(&self.path.join(name), Errno::FBIG));
        }
        Ok(Some(bytes))
    }

    /// The image that a name stands for there.
    pub fn digest(&self, reference: &Reference, platform: &Platform) -> Result<Option<Digest>, Error> {
        let bytes = self.read(&record::reference_path(reference, platform), 64 << 10)?.unwrap_or_default();
        Ok(serde_json::from_slice::<ReferenceRecord>(&bytes).ok().map(|known| known.digest))
    }

    /// What is known about the tree of `diff_id`.
    pub fn facts(&self, diff_id: &Digest) -> Result<Option<TreeFacts>, Error> {
        let bytes = self.read(&format!("layers/{}.json", tree_name(diff_id).as_str()), 64 << 10)?.unwrap_or_default();
        Ok(serde_json::from_slice::<TreeFacts>(&bytes).ok().filter(|facts| facts.diff_id == diff_id.to_string() && facts.tree.is_some()))
    }

    /// Where the tree is, for a link.
    pub fn tree_path(&self, diff_id: &Digest) -> PathBuf {
        self.path.join("layers").join(tree_name(diff_id).as_str())
    }

    pub fn open_tree(&self, diff_id: &Digest) -> Result<Tree, Error> {
        let name = tree_name(diff_id);
        let path = format!("layers/{}", name.as_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(&self.directory, &path, flags, Mode::empty()).map_err(|errno| open_failed(&self.path.join(&path), errno))?;
        let modes = self.read(&format!("{path}.modes"), MAX_SIDECAR)?.unwrap_or_default();
        let owners = self.read(&format!("{path}.owners"), MAX_SIDECAR)?.unwrap_or_default();
        Ok(Tree { root, modes: parse_modes(&modes), owners, name: self.tree_path(diff_id).display().to_string() })
    }
}

/// The documents of a published store, as a repository's; its layers are trees.
pub(super) struct Documents(pub Published);

impl Remote for Documents {
    fn name(&self) -> &str {
        self.0.path.to_str().unwrap_or("a published store")
    }

    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, image::Error> {
        Err(image::Error::refused(self.name(), format!("`{tag}` is looked for by its tag alone")))
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, image::Error> {
        self.document(digest, MAX_CONFIG)
    }

    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, image::Error> {
        let path = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let read = self.0.read(&path, size).map_err(|error| image::Error::refused(self.name(), error.chain()))?;
        read.ok_or_else(|| image::Error::MissingBlob { what: self.name().to_owned(), digest: digest.to_string() })
    }

    fn blob(&self, digest: &Digest, _: u64) -> Result<Box<dyn Read + Send>, image::Error> {
        Err(image::Error::MissingBlob { what: self.name().to_owned(), digest: digest.to_string() })
    }
}

/// A published tree with its sidecars.
pub(super) struct Tree {
    pub root: OwnedFd,
    /// True modes, by path.
    modes: BTreeMap<Vec<u8>, u32>,
    owners: Vec<u8>,
    name: String,
}

/// What is worth knowing of one entry once the tree has been looked at.
pub(super) struct Entry {
    pub path: Vec<u8>,
    /// As the image has it.
    pub mode: u32,
    pub is_directory: bool,
    pub modified: Timespec,
}

impl Tree {
    /// Reads all of it: its digest, its directories, and files that only their owner may read in the image.
    pub fn look(&self) -> Result<(String, Vec<Entry>), Error> {
        let mut look = Look { tree: self, context: Context::new(&SHA256), entries: Vec::new(), buffer: vec![0; 256 << 10] };
        look.add(&self.owners);
        look.directory(self.root.as_fd(), b"", 0).map_err(|(path, errno)| self.failed(&path, errno))?;
        Ok((hex(look.context.finish().as_ref()), look.entries))
    }

    pub fn failed(&self, path: &[u8], errno: Errno) -> Error {
        Error::Unpack { layer: self.name.clone(), entry: image::shown(path), act: "read", source: errno.into() }
    }

    /// Owners that are not `0:0`, by path.
    pub fn owners(&self) -> HashMap<Vec<u8>, (u32, u32)> {
        let line = |line: &[u8]| {
            let mut parts = line.splitn(3, |byte| *byte == b' ');
            let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u32>().ok();
            let (uid, gid) = (number()?, number()?);
            Some((unescape(parts.next()?)?, (uid, gid)))
        };
        self.owners.split(|byte| *byte == b'\n').filter_map(line).collect()
    }
}

struct Look<'t> {
    tree: &'t Tree,
    context: Context,
    entries: Vec<Entry>,
    buffer: Vec<u8>,
}

type Failed = (Vec<u8>, Errno);

impl Look<'_> {
    /// With its length before it, so that no two lists of parts make the same bytes.
    fn add(&mut self, part: &[u8]) {
        self.context.update(&(part.len() as u64).to_le_bytes());
        self.context.update(part);
    }

    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<(), Failed> {
        let failed = |errno| (path.to_vec(), errno);
        if depth == MAX_DEPTH {
            return Err(failed(Errno::NAMETOOLONG));
        }
        let stat = rustix::fs::fstat(directory).map_err(failed)?;
        self.entry(b"d", path, &stat);
        self.add(&[u8::from(is_opaque(directory))]);
        for name in names(directory).map_err(failed)? {
            let child = join(path, &name);
            self.one(directory, &child, &name, depth)
                .map_err(|(inner, errno)| (if inner.is_empty() { child.clone() } else { inner }, errno))?;
        }
        Ok(())
    }

    fn one(&mut self, parent: BorrowedFd<'_>, path: &[u8], name: &[u8], depth: usize) -> Result<(), Failed> {
        let here = |errno| (path.to_vec(), errno);
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(here)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(here)?;
                self.directory(child.as_fd(), path, depth + 1)
            }
            FileType::RegularFile => self.file(parent, path, name, &stat).map_err(here),
            FileType::Symlink => {
                self.entry(b"l", path, &stat);
                let target = rustix::fs::readlinkat(parent, name, Vec::new()).map_err(here)?;
                self.add(target.as_bytes());
                Ok(())
            }
            FileType::Fifo => {
                self.entry(b"p", path, &stat);
                Ok(())
            }
            _ if is_whiteout(&stat) => {
                self.add(b"w");
                self.add(path);
                Ok(())
            }
            _ => Err(here(Errno::NOTSUP)),
        }
    }

    fn file(&mut self, parent: BorrowedFd<'_>, path: &[u8], name: &[u8], stat: &Stat) -> Result<(), Errno> {
        self.entry(b"f", path, stat);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        self.context.update(&u64::try_from(stat.st_size).unwrap_or(0).to_le_bytes());
        loop {
            match rustix::io::read(&file, &mut self.buffer[..]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.context.update(&self.buffer[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn entry(&mut self, kind: &[u8], path: &[u8], stat: &Stat) {
        let mode = self.tree.modes.get(path).copied().unwrap_or(stat.st_mode & 0o7777);
        self.add(kind);
        self.add(path);
        // Of a link the kernel has made up the mode.
        let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
        if kind != b"l" {
            self.add(&mode.to_le_bytes());
        }
        self.add(&modified.tv_sec.to_le_bytes());
        self.add(&modified.tv_nsec.to_le_bytes());
        let is_directory = kind == b"d";
        if is_directory || kind == b"f" && mode & 0o044 != 0o044 {
            self.entries.push(Entry { path: path.to_vec(), mode, is_directory, modified });
        }
    }
}

/// Writes an image of `store` into the directory `path`, which is made where it is missing: its documents, its trees as the single map has
/// them, and what `names` stand for.
///
/// # Errors
/// [`Error::Published`] for a directory that is something else; others of reading and writing.
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
    // What names lead to is there before they are.
    rustix::fs::syncfs(&to.0.directory).map_err(|errno| open_failed(path, errno))?;
    for name in names {
        let index = manage::index_of(store, &name.to_string(), image)?;
        let known = ReferenceRecord { reference: name.to_string(), digest: image.digest.clone(), index };
        to.write(&record::reference_path(name, platform), &to_json(&known))?;
    }
    Ok(made)
}

struct Writer(Published);

impl Writer {
    fn open(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let fresh = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
        if fresh {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
            made.map_err(|source| Error::Open { path: path.display().to_string(), source })?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| open_failed(path, errno))?;
            let writer = Self(Published { path: path.to_owned(), directory });
            rustix::fs::fchmod(&writer.0.directory, Mode::from_raw_mode(0o755)).map_err(|errno| open_failed(path, errno))?;
            for name in ["references", "blobs", "blobs/sha256", "blobs/sha512", "layers"] {
                writer.make(name)?;
            }
            writer.write("hamper-store", VERSION)?;
        }
        Ok(Self(Published::open(path)?))
    }

    fn failed(&self, name: &str) -> impl Fn(Errno) -> Error {
        let path = self.0.path.join(name);
        move |errno| open_failed(&path, errno)
    }

    fn make(&self, name: &str) -> Result<(), Error> {
        match rustix::fs::mkdirat(&self.0.directory, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed(name)(errno)),
        }
        rustix::fs::chmodat(&self.0.directory, name, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(self.failed(name))
    }

    /// Beside, and renamed.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let failed = self.failed(name);
        let temporary = format!("{name}.tmp-{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0.directory, &temporary, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        let mut file = std::fs::File::from(file);
        file.write_all(bytes).map_err(|source| Error::Open { path: self.0.path.join(name).display().to_string(), source })?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(&failed)?;
        rustix::fs::renameat(&self.0.directory, &temporary, &self.0.directory, name).map_err(&failed)
    }

    /// Copies one tree; `false`: it is there already.
    fn tree(&self, store: &Store, diff_id: &Digest, from: &LayerName, facts: TreeFacts) -> Result<bool, Error> {
        if self.0.facts(diff_id)?.is_some() {
            return Ok(false);
        }
        let name = format!("layers/{}", tree_name(diff_id).as_str());
        let temporary = format!("{name}.tmp-{}", std::process::id());
        let failed = self.failed(&name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(store.layers()?, from.as_str(), flags, Mode::empty()).map_err(&failed)?;
        rustix::fs::mkdirat(&self.0.directory, &temporary, Mode::RWXU).map_err(&failed)?;
        let target = rustix::fs::openat(&self.0.directory, &temporary, flags, Mode::empty()).map_err(&failed)?;
        let mut copy = Copy { modes: BTreeMap::new(), links: HashMap::new(), depth: 0 };
        copy.directory(source.as_fd(), target.as_fd(), b"").map_err(|(entry, errno)| Error::Unpack {
            layer: self.0.path.join(&name).display().to_string(),
            entry: image::shown(&entry),
            act: "publish",
            source: errno.into(),
        })?;
        let owners = store.read_sidecar(from)?;
        self.write(&format!("{name}.modes"), &write_modes(&copy.modes))?;
        self.write(&format!("{name}.owners"), &owners)?;
        match rustix::fs::renameat_with(&self.0.directory, &temporary, &self.0.directory, &name, RenameFlags::NOREPLACE) {
            // What is there has no facts: a publication that was killed.
            Err(Errno::EXIST) => {
                crate::store::remove_tree(&self.0.directory, name.as_bytes()).map_err(&failed)?;
                rustix::fs::renameat(&self.0.directory, &temporary, &self.0.directory, &name).map_err(&failed)?;
            }
            other => other.map_err(&failed)?,
        }
        let (digest, _) = self.0.open_tree(diff_id)?.look()?;
        let facts = TreeFacts { owners: "published".into(), boot: None, tree: Some(digest), ..facts };
        self.write(&format!("{name}.json"), &to_json(&facts))?;
        Ok(true)
    }
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

/// Names in a directory, sorted.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1)) && value[0] == b'y'
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

fn open_failed(path: &Path, errno: Errno) -> Error {
    Error::Open { path: path.display().to_string(), source: errno.into() }
}

/// One line `MODE PATH` for each, in octal, the path escaped as in the sidecar of owners.
fn write_modes(modes: &BTreeMap<Vec<u8>, u32>) -> Vec<u8> {
    modes.iter().flat_map(|(path, mode)| format!("{mode:o} {}\n", path.escape_ascii()).into_bytes()).collect()
}

fn parse_modes(bytes: &[u8]) -> BTreeMap<Vec<u8>, u32> {
    let line = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b' ')?;
        let mode = u32::from_str_radix(std::str::from_utf8(&line[..at]).ok()?, 8).ok()?;
        Some((unescape(&line[at + 1..])?, mode & 0o7777))
    };
    bytes.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// The reverse of [`slice::escape_ascii`].
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies a file that only its owner may read in the image to where only its reader has it.
pub(super) fn copy_out(tree: &Tree, entry: &Entry, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let from = rustix::fs::openat2(&tree.root, entry.path.as_slice(), flags, Mode::empty(), resolve)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(to, entry.path.as_slice(), flags, Mode::RUSR | Mode::WUSR)?;
    let size = u64::try_from(rustix::fs::fstat(&from)?.st_size).unwrap_or(0);
    copy_content(&from, &file, size)?;
    copy_xattrs(&from, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_hold_any_path() {
        let paths: [&[u8]; 5] = [b"", b"etc/shadow", b"a b\nc\td\\e\"f'g", &[0xff, 0x80, b'/', 1, 127], "\u{e4}/\u{1f9fa}".as_bytes()];
        let modes: BTreeMap<Vec<u8>, u32> = paths.iter().map(|path| (path.to_vec(), 0o1777)).collect();
        assert_eq!(parse_modes(&write_modes(&modes)), modes);
        let tree = |owners: Vec<u8>| Tree {
            root: rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap(),
            modes: BTreeMap::new(),
            owners,
            name: String::new(),
        };
        let text: Vec<u8> = paths[1..].iter().flat_map(|path| format!("7 8 {}\n", path.escape_ascii()).into_bytes()).collect();
        let owners = tree(text).owners();
        assert!(owners.len() == 4 && paths[1..].iter().all(|path| owners[*path] == (7, 8)));
    }
}
