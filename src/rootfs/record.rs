//! Records that let a second start do next to nothing.
//!
//! A `prepared/` record begins with everything that decided it, which is compared byte by byte: the hash in its name is short and
//! needs no strength.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::prepare::{Lease, Prepared, Request};
use super::{Error, Ownership};
use crate::image::{Digest, MAX_MANIFEST, Reference};
use crate::profile::{IdOrName, ImageSource, Platform, Select};
use crate::store::{Store, to_json};

const MAGIC: &[u8] = b"hamper prepared 1\n";

/// An image that was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRecord {
    pub digest: Digest,
    pub config_digest: Option<Digest>,
    /// All of its names; the records of names have them, and a list of images fills them in.
    #[serde(default)]
    pub names: Vec<String>,
    /// Where it was loaded from.
    pub source: String,
    pub platform: String,
    /// Lowest first.
    pub diff_ids: Vec<Digest>,
    /// Bytes of the layers' files.
    pub size: u64,
    /// Seconds since 1970.
    pub loaded: u64,
}

impl ImageRecord {
    pub fn path(digest: &Digest) -> String {
        format!("images/{}.json", digest.hex())
    }

    pub fn read(store: &Store, digest: &Digest) -> Result<Option<Self>, Error> {
        Ok(store.read(&Self::path(digest))?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    pub fn write(&self, store: &Store) -> Result<(), Error> {
        Ok(store.write(&Self::path(&self.digest), &to_json(self))?)
    }
}

/// Everything that a prepared image depends on, as bytes; `None`: such a source is not recorded.
pub(crate) fn key(store: &Store, request: &Request<'_>) -> Result<Option<Vec<u8>>, Error> {
    let mut key = Vec::with_capacity(1024);
    match request.source {
        ImageSource::OciDir { path, select } => {
            key.extend_from_slice(b"oci\n");
            push_select(&mut key, select);
            key.extend_from_slice(&read_index(path)?);
        }
        ImageSource::OciArchive { path, select } => {
            key.extend_from_slice(b"oci-archive\n");
            push_select(&mut key, select);
            push_file(&mut key, path)?;
        }
        ImageSource::DockerArchive { path, select } => {
            key.extend_from_slice(b"docker-archive\n");
            push_select(&mut key, select);
            push_file(&mut key, path)?;
        }
        ImageSource::Tar { path } => {
            key.extend_from_slice(b"tar\n");
            push_file(&mut key, path)?;
        }
        ImageSource::Registry(text) => {
            let reference: Reference = text.parse()?;
            // The digest is part of the key: where a tag moves, what was prepared for it is not found any more.
            let (digest, place) = match read_reference(store, &reference, request.platform)? {
                Some(known) => (known.digest, String::new()),
                // Looked up there each time: what is published anew is seen at once.
                None => match super::shared::find(request, &reference)? {
                    Some((place, digest)) => (digest, place.display().to_string()),
                    None => return Ok(None),
                },
            };
            key.extend_from_slice(b"registry\n");
            push(&mut key, text);
            push(&mut key, &digest.to_string());
            push(&mut key, &place);
        }
        ImageSource::Rootfs { .. } | ImageSource::Host => return Ok(None),
    }
    push(&mut key, &request.platform.os);
    push(&mut key, &request.platform.architecture);
    push(&mut key, request.platform.variant.as_deref().unwrap_or(""));
    match request.ownership {
        Ownership::Single => push(&mut key, "single"),
        Ownership::Range { uids, gids } => {
            push(&mut key, "range");
            for number in [uids.start, uids.count, gids.start, gids.count] {
                key.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
    if let Some(spec) = request.user {
        push_id(&mut key, Some(&spec.user));
        push_id(&mut key, spec.group.as_ref());
    }
    Ok(Some(key))
}

/// With its length before it, so that no two lists of parts make the same bytes.
fn push(key: &mut Vec<u8>, part: &str) {
    key.extend_from_slice(&(part.len() as u64).to_le_bytes());
    key.extend_from_slice(part.as_bytes());
}

fn push_select(key: &mut Vec<u8>, select: &Select) {
    match select {
        Select::Only => key.push(0),
        Select::Tag(tag) => {
            key.push(1);
            push(key, tag);
        }
        Select::Digest(digest) => {
            key.push(2);
            push(key, digest);
        }
    }
}

fn push_id(key: &mut Vec<u8>, id: Option<&IdOrName>) {
    match id {
        None => key.push(0),
        Some(IdOrName::Id(id)) => {
            key.push(1);
            key.extend_from_slice(&id.to_le_bytes());
        }
        Some(IdOrName::Name(name)) => {
            key.push(2);
            push(key, name);
        }
    }
}

/// What changes when a file's content does; nobody reads an archive of gigabytes to see whether it is still the same.
fn push_file(key: &mut Vec<u8>, path: &Path) -> Result<(), Error> {
    let stat = rustix::fs::stat(path).map_err(|errno| Error::Open { path: path.display().to_string(), source: errno.into() })?;
    key.extend_from_slice(path.as_os_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&stat.st_dev.to_le_bytes());
    key.extend_from_slice(&stat.st_ino.to_le_bytes());
    for number in [stat.st_size, stat.st_mtime, stat.st_ctime] {
        key.extend_from_slice(&number.to_le_bytes());
    }
    key.extend_from_slice(&stat.st_mtime_nsec.to_le_bytes());
    key.extend_from_slice(&stat.st_ctime_nsec.to_le_bytes());
    Ok(())
}

/// `index.json` is the one file of a layout that may change; everything else is named by its content.
fn read_index(path: &Path) -> Result<Vec<u8>, Error> {
    let path = path.join("index.json");
    let failed = |errno: rustix::io::Errno| Error::Open { path: path.display().to_string(), source: errno.into() };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // One descriptor of a start stays open to its end, which closes it.
    let fd = crate::sys::keep_open(rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?);
    let stat = rustix::fs::fstat(fd).map_err(failed)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > MAX_MANIFEST {
        return Err(failed(rustix::io::Errno::INVAL));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(fd, &mut bytes[filled..]).map_err(failed)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn name(key: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    format!("prepared/{:016x}", hasher.finish())
}

/// What a start found the last time; the lease keeps its layers from being removed while it is held.
pub(crate) fn read(store: &Store, key: &[u8]) -> Result<Option<Prepared>, Error> {
    let Some((file, bytes)) = store.open_record(&name(key))? else { return Ok(None) };
    let Some(body) = body(&bytes, key) else { return Ok(None) };
    let Ok(mut prepared) = serde_json::from_slice::<Prepared>(body) else { return Ok(None) };
    match lease(file) {
        Some(lease) => prepared.lease = Some(lease),
        None => return Ok(None),
    }
    Ok(Some(prepared))
}

/// `None`: a removal was faster, and the record is one of what no longer exists.
fn lease(file: File) -> Option<Lease> {
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
    let stat = rustix::fs::fstat(file.as_fd()).ok()?;
    (stat.st_nlink > 0).then_some(Lease { _file: file })
}

/// Of a start from a directory, which has no record: what is kept beside it stays for as long.
pub(super) fn lease_of_directories(store: &Store) -> Result<Lease, Error> {
    loop {
        let file = store.open_lease("prepared/directories")?;
        // A removal that is under way is waited for; it may take the file with it.
        match rustix::fs::flock(&file, FlockOperation::LockShared) {
            Ok(()) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::Open { path: "prepared/directories".into(), source: errno.into() }),
        }
        if let Some(lease) = lease(file) {
            return Ok(lease);
        }
    }
}

fn body<'b>(bytes: &'b [u8], key: &[u8]) -> Option<&'b [u8]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (found, body) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    (found == key).then_some(body)
}

/// The body of a record whatever its key.
pub(crate) fn any_body(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    rest.get(usize::try_from(u64::from_le_bytes(*length)).ok()?..)
}

pub(crate) fn forget(store: &Store, key: &[u8]) -> Result<bool, Error> {
    Ok(store.unlink(&name(key))?)
}

/// Notes what the next start finds, and takes the lease on it. A record that is there stays, since a sandbox may have its lease on it; only one
/// load looks and writes at a time, so that none puts its own over the one that another has just leased.
pub(super) fn keep(store: &Store, key: &[u8], prepared: &Prepared) -> Result<Option<Lease>, Error> {
    let name = name(key);
    let _lock = store.lock_name(name.trim_start_matches("prepared/"))?;
    if let Some(found) = read(store, key)? {
        return Ok(found.lease);
    }
    let body = to_json(prepared);
    let bytes = [MAGIC, &(key.len() as u64).to_le_bytes(), key, &body].concat();
    store.write(&name, &bytes)?;
    Ok(read(store, key)?.and_then(|written| written.lease))
}

/// The image that a reference stands for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReferenceRecord {
    pub reference: String,
    pub digest: Digest,
    /// Of the index that the reference itself names, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// Its registry has said so, and not only the user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fetched: bool,
}

pub(super) fn reference_path(reference: &Reference, platform: &Platform) -> String {
    format!("references/{}.json", Digest::of(format!("{reference} {platform}").as_bytes()).hex())
}

/// What the store has for a reference and a platform.
pub(crate) fn read_reference(store: &Store, reference: &Reference, platform: &Platform) -> Result<Option<ReferenceRecord>, Error> {
    let Some(bytes) = store.read(&reference_path(reference, platform))? else { return Ok(None) };
    // A record that a power loss cut off is as good as none.
    Ok(serde_json::from_slice::<ReferenceRecord>(&bytes).ok())
}

/// Notes what a reference stands for. An image that it stood for before loses the name, and stays until it is removed.
pub(crate) fn put_reference(store: &Store, platform: &Platform, record: &ReferenceRecord) -> Result<(), Error> {
    let Ok(reference) = record.reference.parse::<Reference>() else { return Ok(()) };
    Ok(store.write(&reference_path(&reference, platform), &to_json(record))?)
}
