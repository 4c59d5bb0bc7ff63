//! An image as it is handed on: every document and blob below one digest, byte for byte as it came.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use super::archive::Archive;
use super::document::{Descriptor, Document};
use super::layout::{Layout, verify};
use super::media::{self, Compression, Kind};
use super::open::{Layer, open};
use super::{Digest, Error, MAX_INDEX_DEPTH, MAX_MANIFEST, Remote};
use crate::profile::{ImageSource, Platform};

/// Documents below one index: the platforms of an image and their attestations. Docker's official images have twenty.
const MAX_DOCUMENTS: usize = 256;
/// As `rootfs` has it for unpacking.
const ZSTD_WINDOW_LOG: u32 = 24;

/// Something with a digest, as a document names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

/// All that a digest stands for.
#[derive(Debug, Default)]
pub struct Whole {
    /// Manifests and indexes, each after everything that it names; the last is the one that was asked for.
    pub documents: Vec<(Piece, Vec<u8>)>,
    /// Configs and layers, each once.
    pub blobs: Vec<Piece>,
}

impl Piece {
    fn of(descriptor: &Descriptor) -> Self {
        Self { media_type: descriptor.media_type.clone(), digest: descriptor.digest.clone(), size: descriptor.size }
    }
}

/// The blobs that a manifest names; none where it is an index or malformed.
pub fn blobs_of(manifest: &[u8]) -> Vec<Piece> {
    match Document::parse(manifest, "a manifest") {
        Ok(Document::Manifest(manifest)) => std::iter::once(&manifest.config).chain(&manifest.layers).map(Piece::of).collect(),
        _ => Vec::new(),
    }
}

/// Reads the document `top` and all that it names; blobs are named and not read.
///
/// # Errors
/// [`Error`] of `content`; [`Error::Digest`], [`Error::Size`] and [`Error::Refused`] for documents that are not what they should be.
pub fn collect(content: &dyn Remote, top: &Digest) -> Result<Whole, Error> {
    let mut whole = Whole::default();
    visit(content, top, None, 1, &mut whole)?;
    Ok(whole)
}

fn visit(content: &dyn Remote, digest: &Digest, named: Option<&Descriptor>, depth: usize, whole: &mut Whole) -> Result<(), Error> {
    if whole.documents.iter().any(|(known, _)| known.digest == *digest) {
        return Ok(());
    }
    let what = format!("{digest} of {}", content.name());
    let bytes = content.manifest(digest)?;
    verify(&bytes, digest, &what)?;
    if let Some(named) = named.filter(|named| named.size != bytes.len() as u64) {
        return Err(Error::Size { what, expected: named.size, found: bytes.len() as u64 });
    }
    let document = Document::parse(&bytes, &what)?;
    let media_type = named.map_or_else(|| media_type(&bytes, &document), |named| named.media_type.clone());
    match document {
        Document::Manifest(manifest) => {
            for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                if !whole.blobs.iter().any(|known| known.digest == descriptor.digest) {
                    whole.blobs.push(Piece::of(descriptor));
                }
            }
        }
        Document::Index(entries) => {
            if depth > MAX_INDEX_DEPTH || entries.len() > MAX_DOCUMENTS {
                return Err(Error::refused(what, "it names too much, or too deep"));
            }
            for entry in &entries {
                if !matches!(media::kind(&entry.media_type), Kind::Index | Kind::Manifest) {
                    let shown = super::shown(entry.media_type.as_bytes());
                    return Err(Error::refused(what, format!("it names {} of type `{shown}`, which is not supported", entry.digest)));
                }
                visit(content, &entry.digest, Some(entry), depth + 1, whole)?;
            }
        }
    }
    if whole.documents.len() == MAX_DOCUMENTS {
        return Err(Error::refused(format!("{digest} of {}", content.name()), "it names too much"));
    }
    whole.documents.push((Piece { media_type, digest: digest.clone(), size: bytes.len() as u64 }, bytes));
    Ok(())
}

/// What a document says that it is; OCI's documents need not say it.
fn media_type(bytes: &[u8], document: &Document) -> String {
    let stated = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let stated = stated.as_ref().and_then(|value| value.get("mediaType")?.as_str());
    let silent = match document {
        Document::Index(_) => media::OCI_INDEX,
        Document::Manifest(_) => media::OCI_MANIFEST,
    };
    stated.unwrap_or(silent).to_owned()
}

/// A layout or an archive as something that is read by digest, like a repository.
///
/// # Errors
/// [`Error::Open`] where it is not there any more; others where it is malformed.
pub fn files(source: &ImageSource, platform: &Platform) -> Result<Arc<dyn Remote>, Error> {
    match source {
        ImageSource::OciDir { path, .. } => Ok(Arc::new(Files { layout: Layout::open_directory(path)? })),
        ImageSource::OciArchive { path, .. } => Ok(Arc::new(Files { layout: Layout::Archive(Archive::open(path)?) })),
        ImageSource::DockerArchive { path, .. } | ImageSource::Tar { path } => {
            let image = open(source, platform)?;
            Ok(Arc::new(Tars { name: path.display().to_string(), layers: image.layers }))
        }
        ImageSource::Registry(_) | ImageSource::Rootfs { .. } | ImageSource::Host => {
            Err(Error::refused("the image source", "it is neither a layout nor an archive"))
        }
    }
}

struct Files {
    layout: Layout,
}

impl Files {
    fn descriptor(digest: &Digest, size: u64) -> Descriptor {
        Descriptor { media_type: String::new(), digest: digest.clone(), size, platform: None, names: Vec::new() }
    }
}

impl Remote for Files {
    fn name(&self) -> &str {
        self.layout.name()
    }

    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, Error> {
        Err(Error::refused(self.name(), format!("`{}` is looked for by tag", super::shown(tag.as_bytes()))))
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.layout.by_digest(digest)?.read(&format!("{digest} of {}", self.name()), MAX_MANIFEST)
    }

    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        self.layout.blob(&Self::descriptor(digest, size))?.read(&format!("{digest} of {}", self.name()), size)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error> {
        let blob = self.layout.blob(&Self::descriptor(digest, size))?;
        Ok(Box::new(blob.open(&format!("{digest} of {}", self.name()))?))
    }
}

/// `docker save` and plain tars have no digests of blobs: a layer goes by its diff ID, as it is without compression.
struct Tars {
    name: String,
    layers: Vec<Layer>,
}

impl Remote for Tars {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest_of_tag(&self, _: &str) -> Result<Vec<u8>, Error> {
        Err(Error::refused(&self.name, "it has no manifests"))
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        Err(Error::MissingBlob { what: self.name.clone(), digest: digest.to_string() })
    }

    fn document(&self, digest: &Digest, _: u64) -> Result<Vec<u8>, Error> {
        Err(Error::MissingBlob { what: self.name.clone(), digest: digest.to_string() })
    }

    fn blob(&self, digest: &Digest, _: u64) -> Result<Box<dyn Read + Send>, Error> {
        let found = self.layers.iter().find(|layer| layer.diff_id.as_ref().is_none_or(|diff_id| diff_id == digest));
        let layer = found.ok_or_else(|| Error::MissingBlob { what: self.name.clone(), digest: digest.to_string() })?;
        plain(Box::new(layer.blob.open(&layer.name)?)).map_err(Error::read(&layer.name))
    }
}

/// A layer's tar, whatever it is compressed as.
///
/// # Errors
/// Those of reading its first bytes.
pub fn plain(blob: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut blob = BufReader::with_capacity(256 << 10, blob);
    let compression = Compression::by_magic(blob.fill_buf()?);
    Ok(match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}
