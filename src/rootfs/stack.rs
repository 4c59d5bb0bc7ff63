//! What a path shows when the layers lie over one another, found without a mount.
//!
//! Follows overlayfs: the topmost layer that has a name decides, directories are merged down to the first opaque one, a whiteout
//! ends the search. Links are resolved as in a chroot.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::Error;
use super::directory::is_whiteout;
use super::published::PublishedTree;
use crate::image::shown;
use crate::store::LayerName;

/// As the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;
const MAX_PARTS: usize = 4096;

/// A stack of trees, or one directory.
pub struct Stack {
    /// Topmost first.
    layers: Vec<OwnedFd>,
}

/// What a path leads to.
pub struct Found {
    /// Where it is once every link has been followed, without a leading slash.
    pub path: Vec<u8>,
    pub stat: Stat,
    /// The layers that show through at this path, topmost first, as indexes; one for all but directories.
    layers: Vec<usize>,
}

impl Found {
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl Stack {
    /// Of layers below the directory `layers`, lowest first.
    pub fn of_layers(layers: impl AsFd, names: &[LayerName]) -> Result<Self, Error> {
        Self::with_published(layers, names, &[])
    }

    /// As [`Self::of_layers`], with those that were opened already.
    pub fn with_published(layers: impl AsFd, names: &[LayerName], published: &[PublishedTree]) -> Result<Self, Error> {
        let open = |name: &LayerName| {
            let opened = match published.iter().find(|tree| tree.name == *name) {
                Some(tree) => rustix::io::fcntl_dupfd_cloexec(&tree.fd, 0),
                None => {
                    // A published layer is a link of ours.
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    rustix::fs::openat(layers.as_fd(), name.as_str(), flags, Mode::empty())
                }
            };
            opened.map_err(|errno| Error::Open { path: format!("layer {}", name.as_str()), source: errno.into() })
        };
        Ok(Self { layers: names.iter().rev().map(open).collect::<Result<_, _>>()? })
    }

    /// Of one directory.
    pub fn of_directory(path: &Path) -> Result<Self, Error> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::Open { path: path.display().to_string(), source: errno.into() })?;
        Ok(Self { layers: vec![fd] })
    }

    /// Looks `path` up, the last link followed as well. `None`: there is nothing.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Found>, Error> {
        self.resolve(path, true)
    }

    /// As [`Self::lookup`], but shows a link itself where the path ends in one.
    pub fn lookup_link(&self, path: &[u8]) -> Result<Option<Found>, Error> {
        self.resolve(path, false)
    }

    /// Names in the merged directory at `path`; `None`: there is no directory.
    pub fn list(&self, path: &[u8]) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let failed = |errno: Errno| Error::LookupIo { path: shown(path), source: errno.into() };
        let Some(found) = self.lookup(path)? else { return Ok(None) };
        if found.file_type() != FileType::Directory {
            return Ok(None);
        }
        let mut names = std::collections::BTreeMap::new();
        for layer in found.layers {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = self.open(layer, &found.path, flags).map_err(failed)?;
            for entry in rustix::fs::Dir::read_from(&fd).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." && !names.contains_key(&name) {
                    let stat = rustix::fs::statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                    names.insert(name, !is_whiteout(&stat));
                }
            }
        }
        Ok(Some(names.into_iter().filter(|(_, shows)| *shows).map(|(name, _)| name).collect()))
    }

    /// Reads the regular file at `path`. Never hangs on a fifo, never leaves the image, reads at most `limit` bytes.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let failed = |source| Error::LookupIo { path: shown(path), source };
        let refused = |reason| Error::Lookup { path: shown(path), reason };
        let Some(found) = self.lookup(path)? else { return Ok(None) };
        if found.file_type() != FileType::RegularFile {
            return Err(refused("is not a regular file"));
        }
        let Some(layer) = found.layers.first() else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(self.open(*layer, &found.path, flags).map_err(|errno| failed(errno.into()))?);
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        match bytes.len() as u64 > limit {
            true => Err(refused("is larger than what is read of it")),
            false => Ok(Some(bytes)),
        }
    }

    fn open(&self, layer: usize, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.layers[layer], path, flags, Mode::empty(), resolve)
    }

    fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Option<Found>, Error> {
        let failed = |errno: Errno| Error::LookupIo { path: shown(path), source: errno.into() };
        let root = || self.root().map_err(failed);
        let mut todo: Vec<Vec<u8>> = parts(path);
        let mut above = vec![root()?];
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if above.len() > 1 {
                        above.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let Some(at) = above.last() else { return Ok(None) };
            if at.file_type() != FileType::Directory {
                return Ok(None);
            }
            let Some(next) = self.child(at, &part).map_err(failed)? else { return Ok(None) };
            if next.file_type() != FileType::Symlink || (todo.is_empty() && !follow_last) {
                above.push(next);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(failed(Errno::LOOP));
            }
            let target = self.target(&next).map_err(failed)?;
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            todo.extend(parts(&target));
            if todo.len() > MAX_PARTS {
                return Err(failed(Errno::NAMETOOLONG));
            }
        }
        Ok(above.pop())
    }

    /// Opens a regular file that was found.
    pub(crate) fn open_found(&self, found: &Found) -> Result<OwnedFd, Errno> {
        let layer = *found.layers.first().ok_or(Errno::NOENT)?;
        self.open(layer, &found.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    pub(crate) fn target(&self, link: &Found) -> Result<Vec<u8>, Errno> {
        let layer = *link.layers.first().ok_or(Errno::NOENT)?;
        let fd = self.open(layer, &link.path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        Ok(rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes())
    }

    fn root(&self) -> Result<Found, Errno> {
        let stat = rustix::fs::fstat(self.layers.first().ok_or(Errno::NOENT)?)?;
        Ok(Found { path: Vec::new(), stat, layers: (0..self.layers.len()).collect() })
    }

    fn child(&self, at: &Found, name: &[u8]) -> Result<Option<Found>, Errno> {
        let path = if at.path.is_empty() { name.to_vec() } else { [at.path.as_slice(), b"/", name].concat() };
        let mut found: Option<Found> = None;
        for layer in &at.layers {
            let fd = match self.open(*layer, &path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let stat = rustix::fs::fstat(&fd)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_whiteout(&stat) {
                break;
            }
            match &mut found {
                Some(_) if !is_directory => break,
                Some(found) => found.layers.push(*layer),
                None => found = Some(Found { path: path.clone(), stat, layers: vec![*layer] }),
            }
            if !is_directory || self.is_opaque(*layer, &path) {
                break;
            }
        }
        Ok(found)
    }

    fn is_opaque(&self, layer: usize, path: &[u8]) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(fd) = self.open(layer, path, flags) else { return false };
        let mut value = [0u8; 1];
        matches!(rustix::fs::fgetxattr(&fd, "user.overlay.opaque", &mut value[..]), Ok(1)) && value == *b"y"
    }
}

fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}
