//! An image of a registry: which one a reference stands for, and what of it the store has already.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::layer::{announce, largest_first, workers};
use super::prepare::{Request, check_lock};
use super::record::{self, ImageRecord};
use super::{Error, Progress, Watch, not_loaded};
use crate::image::{self, Algorithm, Blob, Digest, Hasher, Image, Layer, Reference, Remote};
use crate::profile::{ImageSource, Pull};
use crate::store::Store;

/// Opens what `reference` stands for: what the store knows of it, unless the request wants the registry asked.
///
/// # Errors
/// [`Error::NotLoaded`] where the registry may not be asked and the store has no such image · [`Error::Image`] of the registry, or of a
/// malformed image.
pub(super) fn open(store: &Store, request: &Request<'_>, reference: &Reference) -> Result<Image, Error> {
    let known = known(store, request, reference)?;
    let given = given(store, request, reference, known.as_ref())?;
    let upstream = match (request.pull, request.registry, request.origin, given) {
        (pull, _, Some(origin), Some(image)) if pull != Pull::Always => Some(origin(store, &image)?),
        (Pull::Never, ..) | (_, None, ..) => None,
        (_, Some(registry), ..) => Some(registry(reference)?),
    };
    let known = known.filter(|_| request.pull != Pull::Always || upstream.is_none());
    let is_answer = known.is_none();
    let pinned = |digest| Reference { tag: None, digest: Some(digest), ..reference.clone() };
    let wanted = match (known, &upstream) {
        (Some(digest), _) => pinned(digest),
        (None, Some(_)) => reference.clone(),
        (None, None) => return Err(not_loaded(request)),
    };
    let name = format!("{}/{}", reference.registry, reference.repository);
    let kept: Arc<dyn Remote> = Arc::new(Kept { store: Store::open(store.path())?, upstream, name, reference: reference.to_string() });
    let mut image = image::open_remote(&kept, &wanted, request.platform)?;
    if let Some(found) = &image.digest {
        check_lock(request, found)?;
    }
    image.names = vec![reference.to_string()];
    image.is_answer = is_answer;
    Ok(image)
}

/// The image of a name that the user has given, and no registry: none of that name need have it.
fn given(store: &Store, request: &Request<'_>, reference: &Reference, known: Option<&Digest>) -> Result<Option<ImageRecord>, Error> {
    match (known, record::read_reference(store, reference, request.platform)?) {
        (Some(digest), Some(record)) if !record.fetched => ImageRecord::read(store, digest),
        _ => Ok(None),
    }
}

/// The manifest that `reference` was the last time; `None`: the store does not know it.
fn known(store: &Store, request: &Request<'_>, reference: &Reference) -> Result<Option<Digest>, Error> {
    if let Some(known) = record::read_reference(store, reference, request.platform)? {
        return Ok(Some(known.digest));
    }
    // Named by digest, it may have come by another name.
    match &reference.digest {
        Some(digest) => Ok(ImageRecord::read(store, digest)?.map(|record| record.digest)),
        None => Ok(None),
    }
}

/// Whether the store knows a name as something else than what it is locked to: then only its registry can say what it is now.
pub(super) fn is_behind(store: &Store, request: &Request<'_>) -> Result<bool, Error> {
    let (ImageSource::Registry(text), Some(locked), true) = (request.source, request.locked, request.pull != Pull::Never) else {
        return Ok(false);
    };
    let known = record::read_reference(store, &text.parse()?, request.platform)?;
    Ok(known.is_some_and(|known| known.digest.to_string() != locked))
}

/// Whether a tag stands for something else than the store knows of it. Registries count this question less than a manifest that is fetched.
///
/// # Errors
/// [`Error::Image`] of the registry.
pub(super) fn has_moved(store: &Store, request: &Request<'_>) -> Result<bool, Error> {
    let (ImageSource::Registry(text), Some(registry)) = (request.source, request.registry) else { return Ok(false) };
    let reference: Reference = text.parse()?;
    let Some(known) = record::read_reference(store, &reference, request.platform)? else { return Ok(true) };
    let (Some(tag), None) = (&reference.tag, &reference.digest) else { return Ok(false) };
    let now = registry(&reference)?.digest_of_tag(tag)?;
    Ok(now.is_none_or(|now| now != known.index.unwrap_or(known.digest)))
}

/// Puts the blobs of layers into the store, where they are not there yet, and reads the layers from there. They come side by side, as layers
/// that are unpacked do.
///
/// # Errors
/// [`Error::BlobDigest`] for one that is not what its digest says; others of reading and writing.
pub(super) fn keep_blobs(store: &Store, layers: &mut [Layer], progress: Option<&Watch<'_>>) -> Result<(), Error> {
    let mut coming = Vec::new();
    for layer in layers.iter().filter(|layer| layer.blob.is_remote()) {
        if kept_blob(store, layer, layer.digest.as_ref())?.is_none() {
            coming.push(layer);
        }
    }
    announce(progress, &coming);
    let kept = image::side_by_side(&largest_first(layers), workers(layers), || {}, |index| keep_or_find(store, &layers[index]));
    if let Some(progress) = progress.filter(|_| kept.is_err()) {
        progress(Progress::End);
    }
    for (index, (file, length)) in kept? {
        layers[index].blob = Blob::Range { file: Arc::new(file), offset: 0, length };
    }
    Ok(())
}

/// A layer's blob in the store, and its size.
fn keep_or_find(store: &Store, layer: &Layer) -> Result<(File, u64), Error> {
    let expected = layer.digest.as_ref().or(layer.diff_id.as_ref());
    let _lock = expected.map(|digest| store.lock_name(digest.hex())).transpose()?;
    match kept_blob(store, layer, expected)? {
        Some(found) => Ok(found),
        None => keep_blob(store, layer, expected),
    }
}

fn kept_blob(store: &Store, layer: &Layer, expected: Option<&Digest>) -> Result<Option<(File, u64)>, Error> {
    let Some(digest) = expected else { return Ok(None) };
    Ok(store.open_blob(digest)?.filter(|(_, size)| layer.size.is_none_or(|stated| stated == *size)))
}

/// One that has no digest in its source, as in Docker's archives, is kept as the tar that its diff ID means.
fn keep_blob(store: &Store, layer: &Layer, expected: Option<&Digest>) -> Result<(File, u64), Error> {
    let read = |source: io::Error| Error::Read { layer: layer.name.clone(), source };
    let blob: Box<dyn Read + Send> = Box::new(layer.blob.open(&layer.name)?);
    let mut blob = if layer.digest.is_some() { blob } else { image::plain(blob).map_err(read)? };
    let mut hasher = Hasher::new(expected.map_or(Algorithm::Sha256, Digest::algorithm));
    let mut pending = store.new_blob()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = blob.read(&mut buffer).map_err(read)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        pending.write(&buffer[..count])?;
    }
    let found = hasher.finish();
    if let Some(expected) = expected.filter(|expected| **expected != found) {
        return Err(Error::BlobDigest { layer: format!("{} (expected {expected})", layer.name), found });
    }
    pending.publish(&found)?;
    store.open_blob(&found)?.ok_or_else(|| read(io::ErrorKind::NotFound.into()))
}

/// Everything of the images that the store has, by digest: from the store, else from `upstream`, which is asked for nothing else.
///
/// # Errors
/// [`Error::Store`] where the store cannot be opened again.
pub fn contents(store: &Store, name: &str, upstream: Option<Arc<dyn Remote>>) -> Result<Arc<dyn Remote>, Error> {
    let kept = Kept { store: Store::open(store.path())?, upstream, name: name.to_owned(), reference: name.to_owned() };
    Ok(Arc::new(kept))
}

/// A repository with the store before it.
struct Kept {
    store: Store,
    upstream: Option<Arc<dyn Remote>>,
    name: String,
    /// As it was asked for, for hints.
    reference: String,
}

impl Kept {
    fn upstream(&self, what: &str) -> Result<&Arc<dyn Remote>, image::Error> {
        self.upstream.as_ref().ok_or_else(|| image::Error::Remote {
            words: format!("{what} of {} is not in the store, and no registry may be asked", self.name),
            hint: Some(format!("hamper image pull {}", self.reference)),
            source: None,
        })
    }

    fn kept(&self, digest: &Digest) -> impl Fn(crate::store::Error) -> image::Error {
        move |error| image::Error::Remote {
            words: format!("cannot keep {digest} of {}", self.name),
            hint: None,
            source: Some(Box::new(error)),
        }
    }

    /// Asks for a document once, however many hampers want it at once, and keeps it.
    fn once(&self, digest: &Digest, ask: impl FnOnce(&Arc<dyn Remote>) -> Result<Vec<u8>, image::Error>) -> Result<Vec<u8>, image::Error> {
        let failed = self.kept(digest);
        let look = || self.store.blob(digest).map(|found| found.filter(|bytes| Digest::of(bytes) == *digest)).map_err(&failed);
        if let Some(bytes) = look()? {
            return Ok(bytes);
        }
        let upstream = self.upstream(&digest.to_string())?;
        let _lock = self.store.lock_name(digest.hex()).map_err(&failed)?;
        if let Some(bytes) = look()? {
            return Ok(bytes);
        }
        let bytes = ask(upstream)?;
        // Whoever asked verifies; what is wrong is not kept.
        if Digest::of(&bytes) == *digest {
            self.store.put_blob(digest, &bytes).map_err(&failed)?;
        }
        Ok(bytes)
    }
}

impl Remote for Kept {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, image::Error> {
        self.upstream(tag)?.manifest_of_tag(tag)
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, image::Error> {
        self.once(digest, |upstream| upstream.manifest(digest))
    }

    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, image::Error> {
        self.once(digest, |upstream| upstream.document(digest, size))
    }

    fn distrust(&self, digest: &Digest, why: &str) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.distrust(digest, why))
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, image::Error> {
        if let Some((file, _)) = self.store.open_blob(digest).map_err(self.kept(digest))?.filter(|(_, found)| *found == size) {
            return Ok(Box::new(file.take(size)));
        }
        // Trees are made for a map of ids and a user: another one takes the layer again.
        self.upstream(&format!("layer {digest}, for this user and map of ids,"))?.blob(digest, size)
    }
}
