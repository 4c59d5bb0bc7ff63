//! Where an image came from, asked again for what the store does not keep: the blobs of its layers as they came.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use super::progress::Display;
use super::registries;
use crate::image::{self, Digest, Error, Reference, Remote};
use crate::profile::{ImageSource, Platform};

/// Opened when it is asked for the first time: a blob that everybody has already is not asked for.
pub struct Origin {
    /// As the store has noted it.
    text: String,
    source: ImageSource,
    platform: Platform,
    display: Arc<Display>,
    offline: bool,
    opened: Mutex<Option<Arc<dyn Remote>>>,
}

impl Origin {
    pub fn new(text: &str, source: ImageSource, platform: Platform, display: &Arc<Display>, offline: bool) -> Self {
        Self { text: text.to_owned(), source, platform, display: Arc::clone(display), offline, opened: Mutex::default() }
    }

    fn open(&self) -> Result<Arc<dyn Remote>, Error> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = &*opened {
            return Ok(Arc::clone(origin));
        }
        let origin: Arc<dyn Remote> = match &self.source {
            ImageSource::Registry(_) if self.offline => {
                return Err(Error::Remote { words: "no registry may be asked".into(), hint: None, source: None });
            }
            ImageSource::Registry(text) => Arc::new(registries::client(&self.display)?.repository(&text.parse::<Reference>()?)),
            source => image::files(source, &self.platform)?,
        };
        *opened = Some(Arc::clone(&origin));
        Ok(origin)
    }

    /// Says what is wanted of whom; the cause says what went wrong.
    fn wanted(&self, digest: &Digest) -> impl Fn(Error) -> Error {
        move |error| {
            let (verb, source) = match &self.source {
                ImageSource::Registry(_) => ("pull", self.text.as_str()),
                _ => ("load", self.text.as_str()),
            };
            let hint = match &error {
                Error::Remote { hint: Some(hint), .. } => hint.clone(),
                _ => format!("where {source} is there again: hamper image {verb} --keep-blobs '{source}'"),
            };
            Error::Remote {
                words: format!("{digest} is not kept as it came, and {} does not give it again", image::shown(source.as_bytes())),
                hint: Some(hint),
                source: Some(Box::new(error)),
            }
        }
    }
}

impl Remote for Origin {
    fn name(&self) -> &str {
        &self.text
    }

    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, Error> {
        self.open()?.manifest_of_tag(tag)
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.open().and_then(|origin| origin.manifest(digest)).map_err(self.wanted(digest))
    }

    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        self.open().and_then(|origin| origin.document(digest, size)).map_err(self.wanted(digest))
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error> {
        self.open().and_then(|origin| origin.blob(digest, size)).map_err(self.wanted(digest))
    }
}
