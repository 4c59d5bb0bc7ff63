//! Entries of one layer become its tree.
//!
//! Each layer has a directory of its own, so its entries replace only each other; what it deletes of lower layers is written as
//! overlayfs wants it: a character device 0:0 for a whiteout, `user.overlay.opaque` for a directory that hides what is below.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::Error;
use super::bounds::Bounds;
use super::directory::{Directories, EntryPath, is_whiteout, mark_opaque, open_for_attributes};
use super::late::{Late, times};
use super::owner::{OwnerIds, OwnerLog, OwnerMap};
use crate::image::shown;
use crate::image::tar::{Entry, Kind, Reader, Stream, Time};
use crate::store::{TreeFacts, remove_tree};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS kept its own books in these directories at the root of a layer; very old images still carry them, empty.
const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];
/// An owner that no file can have: the kernel takes it as "no change".
const NO_ID: u64 = 0xffff_ffff;

/// Why an entry cannot be unpacked: refused, or a call failed.
pub(crate) enum Fault {
    Refused(&'static str),
    Failed(&'static str, io::Error),
    Bounds(String),
}

impl Fault {
    fn act(act: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Failed(act, errno.into())
    }
}

type Outcome<T = ()> = Result<T, Fault>;

/// One layer in the making.
pub(crate) struct Unpacker<'a> {
    pub directories: Directories<'a>,
    pub bounds: &'a Bounds,
    /// Entries that a blob of this size may have.
    pub max_entries: u64,
    pub map: OwnerMap,
    pub facts: TreeFacts,
    pub ids: OwnerIds,
    pub owners: OwnerLog,
    pub late: Late,
}

impl Unpacker<'_> {
    /// The root as it is where no entry says otherwise; it was made by the caller, for the caller.
    pub fn prepare_root(&mut self, layer: &str) -> Result<(), Error> {
        let failed = |act| move |source| Error::Unpack { layer: layer.to_owned(), entry: ".".into(), act, source };
        if let Some((uid, gid)) = self.map.process_ids() {
            let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
            rustix::fs::fchown(self.directories.root(), owner.0, owner.1).map_err(|errno| failed("set the owner of")(errno.into()))?;
        }
        rustix::fs::fchmod(self.directories.root(), Mode::from_raw_mode(0o755)).map_err(|errno| failed("set the mode of")(errno.into()))?;
        self.ids.add(0, 0);
        self.late.directory(b"", 0o755, Time::default()).map_err(failed("note the time of"))
    }

    /// Reads the whole tar; `layer` names it in errors.
    pub fn unpack<S: Stream>(&mut self, reader: &mut Reader<S>, layer: &str) -> Result<(), Error> {
        let mut last = Vec::new();
        loop {
            let malformed = |offset, after: &[u8], source| Error::Tar { layer: layer.to_owned(), offset, after: shown(after), source };
            let entry = match reader.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(source) => return Err(malformed(reader.offset(), &last, source)),
            };
            if let Err(fault) = self.entry(&entry, reader) {
                return Err(describe(fault, layer, &entry.path));
            }
            last = entry.path;
        }
        if let Err(source) = reader.finish() {
            return Err(Error::Tar { layer: layer.to_owned(), offset: reader.offset(), after: shown(&last), source });
        }
        Ok(())
    }

    /// Sets what had to wait.
    pub fn finish(mut self, layer: &str) -> Result<(TreeFacts, OwnerIds), Error> {
        let failed = |act| move |source| Error::Unpack { layer: layer.to_owned(), entry: ".".into(), act, source };
        let implied = std::mem::take(&mut self.directories.implied);
        self.facts.implied = self.directories.implied_count;
        self.directories.forget();
        // No entry gave them a time; any other than a fixed one would make two loads differ.
        for path in implied {
            self.late.directory(&path, 0o755, Time::default()).map_err(failed("set times of"))?;
        }
        self.late.apply(&self.directories).map_err(failed("set times of the directories of"))?;
        self.owners.finish().map_err(failed("note the owners of"))?;
        Ok((self.facts, self.ids))
    }

    fn entry<S: Stream>(&mut self, entry: &Entry, reader: &mut Reader<S>) -> Outcome {
        self.bounds.count(entry.real_size).map_err(Fault::Bounds)?;
        self.facts.entries += 1;
        if self.facts.entries > self.max_entries {
            return Err(Fault::Bounds(format!(
                "it has more than {} entries, which is more than its size can honestly hold",
                self.max_entries
            )));
        }
        let path = EntryPath::parse(&entry.path).map_err(Fault::Refused)?;
        let Some((parent, name)) = path.split() else { return self.root(entry) };
        if entry.path.ends_with(b"/.") && entry.kind != Kind::Directory {
            return Err(Fault::Refused("its path names a directory, and it is none"));
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout_entry(entry, &parent, name);
        }
        if parent.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return match AUFS.iter().any(|aufs| parent.starts_with(aufs)) {
                true => Ok(()),
                false => Err(Fault::Refused("it is below a whiteout")),
            };
        }
        let directory = self.directories.get(&parent).map_err(Fault::act("find the directory of"))?;
        if entry.kind == Kind::CharDevice && entry.device == (0, 0) {
            return self.whiteout(&directory, name);
        }
        let joined = path.joined();
        match entry.kind {
            Kind::File => self.file(entry, reader, &directory, name),
            Kind::Directory => self.make_directory(entry, &directory, name, &joined),
            Kind::Symlink => self.symlink(entry, &directory, name),
            Kind::HardLink => return self.hard_link(entry, &directory, name, &joined),
            Kind::Fifo => self.fifo(entry, &directory, name),
            Kind::CharDevice | Kind::BlockDevice => {
                self.facts.devices += 1;
                return self.clear(&directory, name);
            }
        }?;
        self.note_owner(entry, &joined)
    }

    /// The root is made already; its entry can only say what it is like.
    fn root(&mut self, entry: &Entry) -> Outcome {
        if entry.kind != Kind::Directory {
            return Err(Fault::Refused("it would replace the root, which must be a directory"));
        }
        self.facts.has_root = true;
        let root = self.directories.root();
        self.directory_attributes(entry, root, b"")?;
        self.note_owner(entry, b"")
    }

    fn note_owner(&mut self, entry: &Entry, path: &[u8]) -> Outcome {
        let (uid, gid) = owner(entry)?;
        self.ids.add(uid, gid);
        if (uid, gid) != (0, 0) {
            self.owners.add(path, uid, gid).map_err(|error| Fault::Failed("note the owner of", error))?;
        }
        Ok(())
    }

    // --- the kinds -------------------------------------------------------------------------------------------------------------

    fn file<S: Stream>(&mut self, entry: &Entry, reader: &mut Reader<S>, directory: &OwnedFd, name: &[u8]) -> Outcome {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode);
        let fd = self.create(directory, name, || rustix::fs::openat(directory, name, flags, mode))?;
        match &entry.sparse {
            None => write_content(&fd, reader)?,
            Some(map) => write_pieces(&fd, reader, map, entry.real_size)?,
        }
        self.facts.bytes += entry.real_size;
        let chowned = self.chown(entry, |uid, gid| rustix::fs::fchown(&fd, uid, gid))?;
        // A write takes the setuid bit away, and so does a change of owner.
        if entry.mode & 0o6000 != 0 && (chowned || entry.real_size > 0) {
            rustix::fs::fchmod(&fd, mode).map_err(Fault::act("set the mode of"))?;
        }
        self.xattrs(entry, fd.as_fd())?;
        rustix::fs::futimens(&fd, &times(entry.mtime)).map_err(Fault::act("set the time of"))
    }

    fn make_directory(&mut self, entry: &Entry, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Outcome {
        let mut hides = false;
        match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(entry.mode | 0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Fault::act("look at"))?;
                // A directory over a directory adds to it; over a link it replaces the link (CVE-2021-32760).
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    hides = is_whiteout(&stat);
                    self.clear(directory, name)?;
                    rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(entry.mode | 0o700)).map_err(Fault::act("make"))?;
                }
            }
            Err(errno) => return Err(Fault::act("make")(errno)),
        }
        let fd = open_for_attributes(directory, name).map_err(Fault::act("open"))?;
        if hides {
            mark_opaque(&fd).map_err(Fault::act("make opaque"))?;
        }
        self.directory_attributes(entry, fd.as_fd(), path)
    }

    fn directory_attributes(&mut self, entry: &Entry, fd: BorrowedFd<'_>, path: &[u8]) -> Outcome {
        self.chown(entry, |uid, gid| rustix::fs::fchown(fd, uid, gid))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode | 0o700)).map_err(Fault::act("set the mode of"))?;
        self.xattrs(entry, fd)?;
        self.late.directory(path, entry.mode, entry.mtime).map_err(|error| Fault::Failed("note the time of", error))
    }

    fn symlink(&mut self, entry: &Entry, directory: &OwnedFd, name: &[u8]) -> Outcome {
        if entry.link.is_empty() {
            return Err(Fault::Refused("it is a link to nothing"));
        }
        self.create(directory, name, || rustix::fs::symlinkat(entry.link.as_slice(), directory, name))?;
        // Nothing that is cached was found through it: it was not there. What it replaced was forgotten in `clear`.
        self.facts.dropped_xattrs += entry.xattrs.len() as u64;
        self.path_attributes(entry, directory, name)
    }

    fn fifo(&mut self, entry: &Entry, directory: &OwnedFd, name: &[u8]) -> Outcome {
        let mode = Mode::from_raw_mode(entry.mode);
        self.create(directory, name, || rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0))?;
        self.facts.dropped_xattrs += entry.xattrs.len() as u64;
        self.path_attributes(entry, directory, name)
    }

    fn path_attributes(&mut self, entry: &Entry, directory: &OwnedFd, name: &[u8]) -> Outcome {
        self.chown(entry, |uid, gid| rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        rustix::fs::utimensat(directory, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(Fault::act("set the time of"))
    }

    /// To a file of this layer. One of a lower layer is not here: a link to it would make this tree depend on what is below, and no
    /// tool writes it, since an overlay copies a file up before it can be linked. podman fails on it as well.
    fn hard_link(&mut self, entry: &Entry, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Outcome {
        let target = EntryPath::parse(&entry.link).map_err(|_| Fault::Refused("the path of its target has a `..`, or is beyond bounds"))?;
        let Some((parent, base)) = target.split() else { return Err(Fault::Refused("it is a hard link to the root")) };
        if target.joined() == path {
            return Err(Fault::Refused("it is a hard link to itself"));
        }
        let missing = Fault::Refused("it is a hard link to what is not in this layer");
        let from = match self.directories.find(&parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing),
            other => other.map_err(Fault::act("find the target of"))?,
        };
        let stat = match rustix::fs::statat(&from, base, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(missing),
            other => other.map_err(Fault::act("find the target of"))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Err(Fault::Refused("it is a hard link to a directory")),
            FileType::CharacterDevice => return Err(Fault::Refused("it is a hard link to a whiteout")),
            _ => {}
        }
        self.create(directory, name, || rustix::fs::linkat(&from, base, directory, name, AtFlags::empty()))?;
        Ok(())
    }

    // --- whiteouts -------------------------------------------------------------------------------------------------------------

    fn whiteout_entry(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Outcome {
        if AUFS.contains(&name) && parent.is_empty() {
            return Ok(());
        }
        if entry.kind == Kind::Directory || entry.real_size != 0 {
            return Err(Fault::Refused("a whiteout must be an empty file"));
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Fault::Refused("it is a whiteout of nothing, of its directory or of the one above"));
        }
        if hidden.starts_with(WHITEOUT) && name != OPAQUE {
            return Err(Fault::Refused("it is a whiteout of a whiteout"));
        }
        let found = self.directories.get_for_whiteout(parent).map_err(Fault::act("find the directory of"))?;
        let Some(directory) = found else { return Ok(()) };
        if name == OPAQUE {
            self.facts.whiteouts += 1;
            if parent.is_empty() {
                self.facts.opaque_root = true;
                return Ok(());
            }
            let fd = open_for_attributes(&directory, b".").map_err(Fault::act("open"))?;
            return mark_opaque(&fd).map_err(Fault::act("make opaque"));
        }
        self.whiteout(&directory, hidden)
    }

    /// Hides `name` of the layers below. What this layer has there itself stays, whichever came first.
    fn whiteout(&mut self, directory: &OwnedFd, name: &[u8]) -> Outcome {
        self.facts.whiteouts += 1;
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let fd = open_for_attributes(directory, name).map_err(Fault::act("open"))?;
                mark_opaque(&fd).map_err(Fault::act("make opaque"))
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                // The one device that the kernel lets anybody make.
                rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(Fault::act("make a whiteout for"))
            }
            Err(errno) => Err(Fault::act("look at")(errno)),
        }
    }

    // --- the common steps ------------------------------------------------------------------------------------------------------

    /// Makes something new; what stands in its place goes, as on every later entry of a path.
    fn create<T>(&mut self, directory: &OwnedFd, name: &[u8], make: impl Fn() -> Result<T, Errno>) -> Outcome<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(directory, name)?;
                make().map_err(Fault::act("make"))
            }
            other => other.map_err(Fault::act("make")),
        }
    }

    fn clear(&mut self, directory: &OwnedFd, name: &[u8]) -> Outcome {
        self.directories.forget();
        match remove_tree(directory, name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Fault::act("replace")(errno)),
        }
    }

    /// Whether the owner had to be changed.
    fn chown(
        &mut self,
        entry: &Entry,
        set: impl FnOnce(Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) -> Result<(), Errno>,
    ) -> Outcome<bool> {
        let (uid, gid) = owner(entry)?;
        let placed = self.map.place(uid, gid);
        self.facts.outside += u64::from(placed.outside);
        let Some((uid, gid)) = placed.ids else { return Ok(false) };
        set(Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid))).map_err(Fault::act("set the owner of"))?;
        Ok(true)
    }

    /// `user.*` is kept, except overlayfs's own; all else needs a privilege on the host, or would be obeyed where it must not be.
    fn xattrs(&mut self, entry: &Entry, fd: BorrowedFd<'_>) -> Outcome {
        for (name, value) in &entry.xattrs {
            let kept = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if !kept {
                self.facts.dropped_xattrs += 1;
                self.facts.capabilities += u64::from(name == b"security.capability");
                continue;
            }
            match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // The file system has none, or has no room: the file itself is whole.
                Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE) => self.facts.dropped_xattrs += 1,
                Err(errno) => return Err(Fault::act("set an extended attribute of")(errno)),
            }
        }
        Ok(())
    }
}

fn owner(entry: &Entry) -> Outcome<(u32, u32)> {
    let id = |id: u64| match u32::try_from(id) {
        Ok(id) if u64::from(id) != NO_ID => Ok(id),
        _ => Err(Fault::Refused("its owner is a number that no file can have")),
    };
    Ok((id(entry.uid)?, id(entry.gid)?))
}

fn describe(fault: Fault, layer: &str, path: &[u8]) -> Error {
    let (layer, entry) = (layer.to_owned(), shown(path));
    match fault {
        Fault::Refused(reason) => Error::Entry { layer, entry, reason },
        Fault::Failed(act, source) => Error::Unpack { layer, entry, act, source },
        Fault::Bounds(reason) => Error::Bounds { layer, reason },
    }
}

fn read_fault(error: crate::image::tar::TarError) -> Fault {
    Fault::Failed("read the content of", io::Error::other(error))
}

fn write_content<S: Stream>(fd: &OwnedFd, reader: &mut Reader<S>) -> Outcome {
    loop {
        let piece = reader.content().map_err(read_fault)?;
        if piece.is_empty() {
            return Ok(());
        }
        let count = rustix::io::write(fd, piece).map_err(Fault::act("write"))?;
        reader.advance(count);
    }
}

fn write_pieces<S: Stream>(fd: &OwnedFd, reader: &mut Reader<S>, map: &[(u64, u64)], size: u64) -> Outcome {
    rustix::fs::ftruncate(fd, size).map_err(Fault::act("set the size of"))?;
    for (offset, length) in map {
        let (mut at, end) = (*offset, *offset + *length);
        while at < end {
            let piece = reader.content().map_err(read_fault)?;
            let most = piece.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            if most == 0 {
                return Err(Fault::Refused("its content is shorter than its sparse map"));
            }
            let count = rustix::io::pwrite(fd, &piece[..most], at).map_err(Fault::act("write"))?;
            reader.advance(count);
            at += count as u64;
        }
    }
    Ok(())
}
