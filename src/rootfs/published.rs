//! Stores that many users read: a directory with documents and trees that somebody publishes and nobody else writes.
//!
//! ```text
//! hamper-store                       "1\n": what this is
//! hamper-lock                        held by who publishes
//! references/HASH.json               as in a store of one's own
//! blobs/sha256/…                     manifests and configs
//! layers/NAME, NAME.json             trees, and what is known about them, with the digest of the tree
//! layers/NAME.modes, NAME.owners     what the tree itself cannot say: modes that would let others write or keep them out, and owners
//! ```
//!
//! Everything in it is written beside and renamed, and never changed after that: readers take no locks. In a tree every directory is 0755 and
//! every file 0644 or 0755: it lies open on a shared file system, where a setuid bit or an open mode would be one for everybody there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec};
use rustix::io::Errno;

use super::Error;
use super::bounds::Bounds;
use super::directory::is_whiteout;
use super::export::{copy_content, copy_xattrs};
use super::record::{self, ReferenceRecord};
use crate::image::{self, Digest, MAX_CONFIG, MAX_MANIFEST, Reference, Remote};
use crate::profile::Platform;
use crate::store::{LayerName, Store, TreeFacts};

/// What the file `hamper-store` says.
pub(super) const VERSION: &[u8] = b"1\n";
/// Directories in each other: each is open while what is in it is looked at.
pub(super) const MAX_DEPTH: usize = 400;
/// Sidecars of one tree: a line for each entry that is not what most are.
const MAX_SIDECAR: u64 = 64 << 20;
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux.
const MAX_ATTRIBUTES: usize = 64 << 10;
const OPAQUE: &str = "user.overlay.opaque";

/// How a tree is named there.
pub(super) fn tree_name(diff_id: &Digest) -> LayerName {
    LayerName::new(diff_id, "published")
}

/// A published store that is read.
pub(super) struct Published {
    pub path: PathBuf,
    pub directory: OwnedFd,
}

impl Published {
    /// # Errors
    /// [`Error::Published`] where it is none, or where others than its owner can write.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let refused = |reason: &'static str| Error::Published { path: path.display().to_string(), reason };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| open_failed(path, errno))?;
        let stat = rustix::fs::fstat(&directory).map_err(|errno| open_failed(path, errno))?;
        let sound = |found: &rustix::fs::Stat| found.st_mode & 0o022 == 0 && found.st_uid == stat.st_uid;
        // Those that are not there yet are made by their owner; what is no directory is refused where it is opened.
        let below = ["references", "blobs", "blobs/sha256", "layers"].into_iter();
        let mut found = below.filter_map(|name| rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).ok());
        let mut found = found.by_ref().filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
        if !sound(&stat) || !found.all(|found| sound(&found)) {
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
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open_inside(name, flags) {
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

    /// Never by a link: one in the place of a directory would lead to what the reader has and the owner of the store has not.
    fn open_inside(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE)
    }

    /// The image that a name stands for there.
    pub fn digest(&self, reference: &Reference, platform: &Platform) -> Result<Option<Digest>, Error> {
        let bytes = self.read(&record::reference_path(reference, platform), 64 << 10)?.unwrap_or_default();
        let known = serde_json::from_slice::<ReferenceRecord>(&bytes).ok().filter(|known| known.reference == reference.to_string());
        let Some(ReferenceRecord { digest, .. }) = known else { return Ok(None) };
        // What a tag means is its owner's to say; what a digest means is not.
        match &reference.digest {
            Some(wanted) if *wanted != digest && !self.lists(wanted, &digest)? => Ok(None),
            _ => Ok(Some(digest)),
        }
    }

    /// Whether the index of this digest is there, and has this manifest.
    fn lists(&self, index: &Digest, manifest: &Digest) -> Result<bool, Error> {
        let path = format!("blobs/{}/{}", index.algorithm().name(), index.hex());
        let Some(bytes) = self.read(&path, MAX_MANIFEST)?.filter(|bytes| index.is_of(bytes)) else { return Ok(false) };
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let listed = value.get("manifests").and_then(serde_json::Value::as_array);
        Ok(listed
            .is_some_and(|list| list.iter().any(|one| one.get("digest").and_then(|text| text.as_str()) == Some(&manifest.to_string()))))
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
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let root = self.open_inside(&path, flags).map_err(|errno| open_failed(&self.path.join(&path), errno))?;
        let modes = self.read(&format!("{path}.modes"), MAX_SIDECAR)?.unwrap_or_default();
        let owners = self.read(&format!("{path}.owners"), MAX_SIDECAR)?.unwrap_or_default();
        Ok(Tree { root, modes: parse_modes(&modes), owners, name: self.tree_path(diff_id).display().to_string() })
    }
}

/// A tree of a published store in the place where a start uses it.
#[derive(Debug)]
pub struct PublishedTree {
    /// The link to it in the reader's store.
    pub name: LayerName,
    pub path: PathBuf,
    /// It itself: by its path alone, its owner could put another directory, the reader's own, in its place.
    pub fd: OwnedFd,
}

/// Opens trees to which this store has links.
///
/// # Errors
/// [`Error::Published`] where a link stands in the place of one; [`Error::Open`].
pub fn open_published(store: &Store, links: &[LayerName]) -> Result<Vec<PublishedTree>, Error> {
    let mut opened = Vec::with_capacity(links.len());
    for name in links {
        let path = store.link_of(name)?;
        let (place, file) = (path.ancestors().nth(2), path.file_name().and_then(|name| name.to_str()));
        let (Some(place), Some(file)) = (place, file) else { return Err(open_failed(&path, Errno::INVAL)) };
        let fd = match Published::open(place)?.open_inside(&format!("layers/{file}"), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => {
                return Err(Error::Published { path: place.display().to_string(), reason: "has something else in the place of a layer" });
            }
            Err(errno) => return Err(open_failed(&path, errno)),
        };
        opened.push(PublishedTree { name: name.clone(), path, fd });
    }
    Ok(opened)
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
    ///
    /// # Errors
    /// [`Error::Entry`] for what no layer has · [`Error::Bounds`] beyond what any image may have · [`Error::Unpack`] of reading.
    pub fn look(&self) -> Result<(String, Vec<Entry>), Error> {
        let mut look = Look {
            tree: self,
            context: Context::new(&SHA256),
            entries: Vec::new(),
            buffer: vec![0; 256 << 10],
            bounds: Bounds::default(),
            linked: HashSet::new(),
        };
        look.add(&self.owners);
        look.directory(self.root.as_fd(), b"", 0).map_err(|(path, fault)| match fault {
            Fault::Errno(errno) => self.failed(&path, errno),
            Fault::Strange(reason) => Error::Entry { layer: self.name.clone(), entry: image::shown(&path), reason },
            Fault::Bounds(reason) => Error::Bounds { layer: self.name.clone(), reason },
        })?;
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
    /// The owner of a store may have put anything into it.
    bounds: Bounds,
    /// Files with several names that have been counted.
    linked: HashSet<(u64, u64)>,
}

pub(super) type Failed = (Vec<u8>, Errno);

enum Fault {
    Errno(Errno),
    Strange(&'static str),
    Bounds(String),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl Look<'_> {
    /// With its length before it, so that no two lists of parts make the same bytes.
    fn add(&mut self, part: &[u8]) {
        self.context.update(&(part.len() as u64).to_le_bytes());
        self.context.update(part);
    }

    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<(), (Vec<u8>, Fault)> {
        let names = self.directory_itself(directory, path, depth).map_err(|fault| (path.to_vec(), fault))?;
        for name in names {
            let child = join(path, &name);
            match self.one(directory, &child, &name) {
                Ok(Some(inner)) => self.directory(inner.as_fd(), &child, depth + 1)?,
                Ok(None) => {}
                Err(fault) => return Err((child, fault)),
            }
        }
        Ok(())
    }

    fn directory_itself(&mut self, directory: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<Vec<Vec<u8>>, Fault> {
        if depth == MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let stat = rustix::fs::fstat(directory)?;
        self.bounds.count(0).map_err(Fault::Bounds)?;
        self.entry(b"d", path, &stat);
        self.add(&[u8::from(is_opaque(directory))]);
        self.attributes(directory, true)?;
        Ok(names(directory)?)
    }

    /// A directory is handed back, to be looked into.
    fn one(&mut self, parent: BorrowedFd<'_>, path: &[u8], name: &[u8]) -> Result<Option<OwnedFd>, Fault> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return Ok(Some(rustix::fs::openat(parent, name, flags, Mode::empty())?));
        }
        let is_first = kind == FileType::RegularFile && (stat.st_nlink == 1 || self.linked.insert((stat.st_dev, stat.st_ino)));
        self.bounds.count(if is_first { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 }).map_err(Fault::Bounds)?;
        match kind {
            FileType::RegularFile => self.file(parent, path, name, &stat)?,
            FileType::Symlink => {
                self.entry(b"l", path, &stat);
                self.add(rustix::fs::readlinkat(parent, name, Vec::new())?.as_bytes());
            }
            FileType::Fifo => self.entry(b"p", path, &stat),
            _ if is_whiteout(&stat) => {
                self.add(b"w");
                self.add(path);
            }
            _ => return Err(Fault::Strange("it is a socket or a device, which no layer has")),
        }
        Ok(None)
    }

    fn file(&mut self, parent: BorrowedFd<'_>, path: &[u8], name: &[u8], stat: &Stat) -> Result<(), Fault> {
        self.entry(b"f", path, stat);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        self.attributes(file.as_fd(), false)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.context.update(&size.to_le_bytes());
        // One that grows meanwhile is another one.
        let mut left = size + 1;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match rustix::io::read(&file, &mut self.buffer[..most]) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.context.update(&self.buffer[..count]);
                    left -= count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Fault::Strange("it grows while it is read"))
    }

    /// What an overlay would obey is none of a layer's, but for the mark of an opaque directory; everything else is part of the digest.
    fn attributes(&mut self, fd: BorrowedFd<'_>, is_directory: bool) -> Result<(), Fault> {
        match rustix::fs::flistxattr_query(fd) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        };
        let mut list = vec![0; MAX_ATTRIBUTES];
        let count = rustix::fs::flistxattr(fd, &mut list[..])?;
        let mut names: Vec<&[u8]> = list[..count].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).collect();
        names.sort_unstable();
        for name in names {
            let mut value = vec![0; MAX_ATTRIBUTES];
            let length = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
            match name.starts_with(b"user.overlay.") {
                true if is_directory && name == OPAQUE.as_bytes() && value[..length] == *b"y" => {}
                true => return Err(Fault::Strange("it has attributes for an overlay, which no layer has")),
                false => {
                    self.add(b"x");
                    self.add(name);
                    self.add(&value[..length]);
                }
            }
        }
        Ok(())
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

/// Names in a directory, sorted.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
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

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1)) && value[0] == b'y'
}

pub(super) fn open_failed(path: &Path, errno: Errno) -> Error {
    Error::Open { path: path.display().to_string(), source: errno.into() }
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
    let from = rustix::fs::openat2(&tree.root, entry.path.as_slice(), flags, Mode::empty(), INSIDE)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(to, entry.path.as_slice(), flags, Mode::RUSR | Mode::WUSR)?;
    let size = u64::try_from(rustix::fs::fstat(&from)?.st_size).unwrap_or(0);
    copy_content(&from, &file, size)?;
    copy_xattrs(&from, &file)
}

#[cfg(test)]
mod tests {
    use super::super::publish::write_modes;
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
