//! A layer's bytes from blob to tar: read, hashed, decompressed in one thread; hashed again and unpacked in another.
//!
//! The two halves cost about the same: inflate and the blob's hash here, the diff ID's hash and the file system there. Four buffers
//! of 256 KiB go round between them, so a layer holds about 2 MiB however large it is.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use super::Error;
use super::bounds::{FREE_BYTES, MAX_RATIO};
use crate::image::tar::Stream;
use crate::image::{Algorithm, BlobReader, Compression, Digest, Hasher, Layer};

const BUFFER: usize = 256 << 10;
pub(crate) const BUFFERS: usize = 4;
/// zstd needs a window of memory as large as the writer chose. 8 MiB is what RFC 8878 asks every reader to support, and what
/// `zstd -19` and the container tools write; 16 MiB leaves a step, and keeps a load under its 64 MiB.
const ZSTD_WINDOW_LOG: u32 = 24;

/// What went through the first half.
pub(crate) struct BlobSum {
    pub digest: Digest,
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

enum Decoder {
    Plain(BufReader<Hashing<BlobReader>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Hashing<BlobReader>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Hashing<BlobReader>>>),
}

impl Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }

    fn into_source(self) -> BufReader<Hashing<BlobReader>> {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(reader) => reader.into_inner(),
            Self::Zstd(reader) => reader.finish(),
        }
    }
}

/// The first half: sends the tar in pieces through `full`, takes empty buffers from `free`.
///
/// Ends early without an error when the other half has gone: that half has the reason.
pub(crate) fn decompress(layer: &Layer, full: &SyncSender<Vec<u8>>, free: &Receiver<Vec<u8>>) -> Result<Option<BlobSum>, Error> {
    let blob = layer.blob.open(&layer.name)?;
    let limit = blob.left().saturating_mul(MAX_RATIO).max(FREE_BYTES);
    let algorithm = layer.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let source = BufReader::with_capacity(BUFFER, Hashing { inner: blob, hasher: Hasher::new(algorithm) });
    let (mut decoder, compression) = decoder(layer, source)?;
    let mut total = 0u64;
    loop {
        let Ok(mut buffer) = free.recv() else { return Ok(None) };
        buffer.resize(BUFFER, 0);
        let count = match fill(&mut decoder, &mut buffer) {
            Ok(count) => count,
            Err(source) if super::error::remote(&source).is_some() => return Err(Error::Read { layer: layer.name.clone(), source }),
            Err(source) => {
                let error = Error::Decompress { layer: layer.name.clone(), compression: compression.name(), source };
                return Err(other_bytes(layer, decoder.into_source()).unwrap_or(error));
            }
        };
        buffer.truncate(count);
        total += count as u64;
        if total > limit {
            let reason = format!("it unpacks to more than {MAX_RATIO} times its size and more than {} GiB", FREE_BYTES >> 30);
            return Err(Error::Bounds { layer: layer.name.clone(), reason });
        }
        if count == 0 {
            break;
        }
        if full.send(buffer).is_err() {
            return Ok(None);
        }
    }
    let mut rest = decoder.into_source();
    let trailing = rest.fill_buf().map_err(|source| Error::Read { layer: layer.name.clone(), source })?;
    if !trailing.is_empty() {
        return Err(Error::Bounds { layer: layer.name.clone(), reason: "bytes follow the end of the compressed stream".into() });
    }
    Ok(Some(BlobSum { digest: rest.into_inner().hasher.finish() }))
}

/// The true reason where a stream makes no sense: these are not the bytes that were asked for.
fn other_bytes(layer: &Layer, mut source: BufReader<Hashing<BlobReader>>) -> Option<Error> {
    let expected = layer.digest.as_ref()?;
    // No more than the blob's own length is read.
    io::copy(&mut source, &mut io::sink()).ok()?;
    let found = source.into_inner().hasher.finish();
    (found != *expected).then(|| Error::BlobDigest { layer: format!("{} (expected {expected})", layer.name), found })
}

/// Chooses by the first bytes; a media type that says something else is a lie to one of two readers.
fn decoder(layer: &Layer, mut source: BufReader<Hashing<BlobReader>>) -> Result<(Decoder, Compression), Error> {
    let read = |source| Error::Read { layer: layer.name.clone(), source };
    let found = Compression::by_magic(source.fill_buf().map_err(read)?);
    if let Some(stated) = layer.compression.filter(|stated| *stated != found) {
        let error = Error::Compression { layer: layer.name.clone(), stated: stated.name(), found: found.name() };
        return Err(other_bytes(layer, source).unwrap_or(error));
    }
    let decoder = match found {
        Compression::None => Decoder::Plain(source),
        Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(read)?;
            Decoder::Zstd(decoder)
        }
    };
    Ok((decoder, found))
}

fn fill(decoder: &mut Decoder, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match decoder.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The second half's end of the pipe: the tar as a stream, hashed as it comes by.
pub(crate) struct TarStream {
    full: Receiver<Vec<u8>>,
    free: SyncSender<Vec<u8>>,
    hasher: Hasher,
    current: Vec<u8>,
    used: usize,
    total: u64,
}

impl TarStream {
    pub fn new(full: Receiver<Vec<u8>>, free: SyncSender<Vec<u8>>, algorithm: Algorithm) -> Self {
        for _ in 0..BUFFERS {
            // The channel has room for as many; it can only fail if the other half has gone, which `fill_buf` sees.
            let _ = free.try_send(Vec::new());
        }
        Self { full, free, hasher: Hasher::new(algorithm), current: Vec::new(), used: 0, total: 0 }
    }

    /// The diff ID and the length of what went by; the stream must have been read to its end.
    pub fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.total)
    }
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let count = have.len().min(buffer.len());
        buffer[..count].copy_from_slice(&have[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for TarStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.current.len() {
            let spent = std::mem::take(&mut self.current);
            if spent.capacity() > 0 {
                let _ = self.free.try_send(spent);
            }
            self.used = 0;
            // The sender is gone: the end, or a failure that its thread reports.
            self.current = self.full.recv().unwrap_or_default();
            self.hasher.update(&self.current);
            self.total += self.current.len() as u64;
        }
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.current.len());
    }
}

impl Stream for TarStream {}
