//! Where an image came from, asked again for what the store does not keep: the blobs of its layers as they came.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use super::progress::Display;
use super::registries;
use crate::image::{self, Digest, Error, Reference, Remote};
use crate::profile::{ImageSource, Platform};

/// The places from which an image can be had again: where it was loaded from last, then the repositories of its names. One that does not
/// give something is passed over for it; what the first one says is the failure.
pub struct Origin {
    /// As the store has noted the first.
    text: String,
    sources: Vec<ImageSource>,
    platform: Platform,
    display: Arc<Display>,
    offline: bool,
    /// Opened when they are asked for the first time: a blob that everybody has already is not asked for.
    opened: Vec<OnceLock<Result<Arc<dyn Remote>, Failed>>>,
}

/// Why a place could not be opened, to be told as often as it is asked.
#[derive(Clone)]
struct Failed {
    words: String,
    hint: Option<String>,
}

impl Origin {
    pub fn new(text: &str, sources: Vec<ImageSource>, platform: Platform, display: &Arc<Display>, offline: bool) -> Self {
        let opened = sources.iter().map(|_| OnceLock::new()).collect();
        Self { text: text.to_owned(), sources, platform, display: Arc::clone(display), offline, opened }
    }

    fn open(&self, at: usize) -> Result<Arc<dyn Remote>, Error> {
        let opened = self.opened[at].get_or_init(|| {
            self.open_source(&self.sources[at]).map_err(|error| match error {
                Error::Remote { words, hint, source: None } => Failed { words, hint },
                other => Failed { words: image::chain(&other), hint: None },
            })
        });
        opened.clone().map_err(|Failed { words, hint }| Error::Remote { words, hint, source: None })
    }

    fn open_source(&self, source: &ImageSource) -> Result<Arc<dyn Remote>, Error> {
        match source {
            ImageSource::Registry(_) if self.offline => {
                Err(Error::Remote { words: "no registry may be asked".into(), hint: None, source: None })
            }
            ImageSource::Registry(text) => Ok(Arc::new(registries::client(&self.display)?.repository(&text.parse::<Reference>()?))),
            source => image::files(source, &self.platform),
        }
    }

    /// Asks one after the other.
    fn ask<T>(&self, digest: &Digest, ask: impl Fn(&dyn Remote) -> Result<T, Error>) -> Result<T, Error> {
        let mut first = None;
        for at in 0..self.sources.len() {
            match self.open(at).and_then(|origin| ask(&*origin)) {
                Ok(answer) => return Ok(answer),
                Err(error) => first = first.or(Some(error)),
            }
        }
        let first = first.unwrap_or_else(|| Error::Remote { words: "it came from nowhere".into(), hint: None, source: None });
        Err(self.wanted(digest, first))
    }

    /// Says what is wanted of whom; the cause says what went wrong.
    fn wanted(&self, digest: &Digest, error: Error) -> Error {
        let source = self.text.as_str();
        let verb = if matches!(self.sources.first(), Some(ImageSource::Registry(_))) { "pull" } else { "load" };
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

impl Remote for Origin {
    fn name(&self) -> &str {
        &self.text
    }

    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, Error> {
        self.open(0)?.manifest_of_tag(tag)
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.ask(digest, |origin| origin.manifest(digest))
    }

    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        self.ask(digest, |origin| origin.document(digest, size))
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error> {
        self.ask(digest, |origin| origin.blob(digest, size))
    }
}
