//! A blob that can be read: a range of a file, a file of a layout that is opened when it is read, or a registry's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::{Digest, Error, Remote};

/// Where the bytes of a blob are; nothing is opened or copied before [`Blob::open`].
#[derive(Clone)]
pub enum Blob {
    /// A range of an archive.
    Range { file: Arc<File>, offset: u64, length: u64 },
    /// A file below a layout's directory.
    File { directory: Arc<OwnedFd>, path: String },
    /// A blob of a registry, asked for when it is opened; `size` is what its descriptor says.
    Remote { remote: Arc<dyn Remote>, digest: Digest, size: u64 },
}

impl Blob {
    /// Opens the blob for one pass from its first byte to its last.
    pub fn open(&self, what: &str) -> Result<BlobReader, Error> {
        match self {
            Self::Range { file, offset, length } => {
                Ok(BlobReader { bytes: Bytes::File { file: Arc::clone(file), at: *offset }, left: *length })
            }
            Self::File { directory, path } => {
                let (file, length) = open_regular(directory, path, what)?;
                Ok(BlobReader { bytes: Bytes::File { file: Arc::new(file), at: 0 }, left: length })
            }
            Self::Remote { remote, digest, size } => Ok(BlobReader { bytes: Bytes::Remote(remote.blob(digest, *size)?), left: *size }),
        }
    }

    /// How many bytes it has; nothing is asked of a registry.
    pub fn size(&self, what: &str) -> Result<u64, Error> {
        match self {
            Self::Remote { size, .. } => Ok(*size),
            _ => Ok(self.open(what)?.left),
        }
    }

    /// Whether reading it takes a network.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote { .. })
    }

    /// As [`Remote::distrust`]; what lies in files is what it is.
    pub fn distrust(&self, why: &str) -> bool {
        match self {
            Self::Remote { remote, digest, .. } => remote.distrust(digest, why),
            _ => false,
        }
    }

    /// Reads the whole blob, which must not be larger than `limit`.
    pub fn read(&self, what: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let mut reader = self.open(what)?;
        if reader.left > limit {
            return Err(Error::TooLarge { what: what.to_owned(), size: reader.left, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(reader.left).unwrap_or(0));
        reader.read_to_end(&mut bytes).map_err(Error::read(what))?;
        Ok(bytes)
    }
}

/// Opens a regular file below `directory`; never a fifo that would hang, never anything outside of it.
pub(crate) fn open_regular(directory: impl AsFd, path: &str, what: &str) -> Result<(File, u64), Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)
        .map_err(|errno| Error::Open { path: format!("{path} of {what}"), source: errno.into() })?;
    let file = File::from(fd);
    let stat = rustix::fs::fstat(&file).map_err(|errno| Error::Read { what: what.to_owned(), source: errno.into() })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::refused(what, format!("`{path}` is not a regular file")));
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

/// Reads a blob once; a file by position, so that many readers can share one that is open.
pub struct BlobReader {
    bytes: Bytes,
    left: u64,
}

enum Bytes {
    File { file: Arc<File>, at: u64 },
    Remote(Box<dyn Read + Send>),
}

impl BlobReader {
    /// Bytes that are still to be read.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = match &mut self.bytes {
            Bytes::File { file, at } => {
                let count = file.read_at(&mut buffer[..most], *at)?;
                *at += count as u64;
                count
            }
            Bytes::Remote(stream) => stream.read(&mut buffer[..most])?,
        };
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
