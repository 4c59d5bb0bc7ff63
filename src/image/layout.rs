//! A set of blobs found by digest: an OCI layout in a directory, or in a tar.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::archive::Archive;
use super::blob::{Blob, open_regular};
use super::document::Descriptor;
use super::media::{self, Kind};
use super::{Digest, Error, Hasher, Remote};

/// Where the blobs of an image are.
pub(crate) enum Layout {
    Directory {
        directory: Arc<OwnedFd>,
        name: String,
    },
    Archive(Archive),
    /// A repository; only documents and blobs by digest are asked of it.
    Remote(Arc<dyn Remote>),
}

impl Layout {
    pub fn open_directory(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::Open { path: path.display().to_string(), source: errno.into() })?;
        Ok(Self::Directory { directory: Arc::new(directory), name: path.display().to_string() })
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Directory { name, .. } => name,
            Self::Archive(archive) => archive.name(),
            Self::Remote(remote) => remote.name(),
        }
    }

    /// The small file `path` of the layout.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let what = format!("`{path}` of {}", self.name());
        match self {
            Self::Directory { directory, .. } => Blob::File { directory: Arc::clone(directory), path: path.to_owned() }.read(&what, limit),
            Self::Archive(archive) => match archive.find(path.as_bytes())? {
                Some(blob) => blob.read(&what, limit),
                None => Err(Error::refused(archive.name(), format!("it has no `{path}`"))),
            },
            Self::Remote(remote) => Err(Error::refused(remote.name(), format!("a registry has no `{path}`"))),
        }
    }

    /// The blob of a descriptor; its size is checked here, its digest by whoever reads it.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Blob, Error> {
        let path = blob_path(&descriptor.digest);
        let what = format!("blob {} of {}", descriptor.digest, self.name());
        let missing = || Error::MissingBlob { what: self.name().to_owned(), digest: descriptor.digest.to_string() };
        let (blob, found) = match self {
            Self::Directory { directory, .. } => match open_regular(directory, &path, &what) {
                Ok((_, size)) => (Blob::File { directory: Arc::clone(directory), path }, size),
                Err(Error::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                Err(error) => return Err(error),
            },
            Self::Archive(archive) => {
                let blob = archive.find(path.as_bytes())?.ok_or_else(missing)?;
                let size = blob.open(&what)?.left();
                (blob, size)
            }
            Self::Remote(remote) => {
                let blob = Blob::Remote { remote: Arc::clone(remote), digest: descriptor.digest.clone(), size: descriptor.size };
                (blob, descriptor.size)
            }
        };
        match found == descriptor.size {
            true => Ok(blob),
            false => Err(Error::Size { what, expected: descriptor.size, found }),
        }
    }

    /// The blob of a digest, of whatever size; never of a repository.
    pub fn by_digest(&self, digest: &Digest) -> Result<Blob, Error> {
        let path = blob_path(digest);
        let missing = || Error::MissingBlob { what: self.name().to_owned(), digest: digest.to_string() };
        match self {
            Self::Directory { directory, .. } => match open_regular(directory, &path, &format!("blob {digest} of {}", self.name())) {
                Ok(_) => Ok(Blob::File { directory: Arc::clone(directory), path }),
                Err(Error::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Err(missing()),
                Err(error) => Err(error),
            },
            Self::Archive(archive) => archive.find(path.as_bytes())?.ok_or_else(missing),
            Self::Remote(_) => Err(missing()),
        }
    }

    /// Reads a document by its descriptor and verifies it.
    pub fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        let what = format!("blob {} of {}", descriptor.digest, self.name());
        let bytes = match self {
            Self::Remote(remote) => {
                if descriptor.size > limit {
                    return Err(Error::TooLarge { what, size: descriptor.size, limit });
                }
                let bytes = match media::kind(&descriptor.media_type) {
                    Kind::Index | Kind::Manifest => remote.manifest(&descriptor.digest)?,
                    _ => remote.document(&descriptor.digest, descriptor.size)?,
                };
                if bytes.len() as u64 != descriptor.size {
                    return Err(Error::Size { what, expected: descriptor.size, found: bytes.len() as u64 });
                }
                bytes
            }
            _ => self.blob(descriptor)?.read(&what, limit)?,
        };
        verify(&bytes, &descriptor.digest, &what)?;
        Ok(bytes)
    }
}

pub(crate) fn verify(bytes: &[u8], expected: &Digest, what: &str) -> Result<(), Error> {
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    match found == *expected {
        true => Ok(()),
        false => Err(Error::Digest { what: what.to_owned(), expected: expected.clone(), found }),
    }
}

/// `blobs/sha256/…`; the hex has been checked, so this is one file name.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
