//! An image of a registry: which one a reference stands for, and what of it the store has already.

use std::io::Read;
use std::sync::Arc;

use super::prepare::{Request, check_lock};
use super::record::{self, ImageRecord};
use super::{Error, not_loaded};
use crate::image::{self, Digest, Image, Reference, Remote};
use crate::profile::Pull;
use crate::store::Store;

/// Opens what `reference` stands for: what the store knows of it, unless the request wants the registry asked.
///
/// # Errors
/// [`Error::NotLoaded`] where the registry may not be asked and the store has no such image · [`Error::Image`] of the registry, or of a
/// malformed image.
pub(super) fn open(store: &Store, request: &Request<'_>, reference: &Reference) -> Result<Image, Error> {
    let known = known(store, request, reference)?;
    let upstream = match (request.pull, request.registry) {
        (Pull::Never, _) | (_, None) => None,
        (_, Some(registry)) => Some(registry(reference)?),
    };
    let known = known.filter(|_| request.pull != Pull::Always || upstream.is_none());
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
    Ok(image)
}

/// The manifest that `reference` was the last time; `None`: the store does not know it.
fn known(store: &Store, request: &Request<'_>, reference: &Reference) -> Result<Option<Digest>, Error> {
    if let Some(digest) = record::read_reference(store, reference, request.platform)? {
        return Ok(Some(digest));
    }
    // Named by digest, it may have come by another name.
    match &reference.digest {
        Some(digest) => Ok(ImageRecord::read(store, digest)?.map(|record| record.digest)),
        None => Ok(None),
    }
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

    /// Asks for a document once, however many hampers want it at once, and keeps it.
    fn once(&self, digest: &Digest, ask: impl FnOnce(&Arc<dyn Remote>) -> Result<Vec<u8>, image::Error>) -> Result<Vec<u8>, image::Error> {
        let failed = |error: crate::store::Error| image::Error::Remote {
            words: format!("cannot keep {digest} of {}", self.name),
            hint: None,
            source: Some(Box::new(error)),
        };
        let look = || self.store.blob(digest).map(|found| found.filter(|bytes| Digest::of(bytes) == *digest)).map_err(failed);
        if let Some(bytes) = look()? {
            return Ok(bytes);
        }
        let upstream = self.upstream(&digest.to_string())?;
        let _lock = self.store.lock_layer(digest.hex()).map_err(failed)?;
        if let Some(bytes) = look()? {
            return Ok(bytes);
        }
        let bytes = ask(upstream)?;
        // Whoever asked verifies; what is wrong is not kept.
        if Digest::of(&bytes) == *digest {
            self.store.put_blob(digest, &bytes).map_err(failed)?;
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

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, image::Error> {
        // Trees are made for a map of ids and a user: another one takes the layer again.
        self.upstream(&format!("layer {digest}, for this user and map of ids,"))?.blob(digest, size)
    }
}
