//! A blob as one stream, over as many connections as it takes.

use std::io::{self, Read};
use std::sync::Arc;

use super::Error;
use super::client::{Event, Given, Inner};
use super::hosts::Endpoint;
use super::http::{Answer, Paced};
use super::wait::back_off;
use crate::image::{self, Digest};

/// A connection that brought as much was a good one: tries are counted anew.
const PROGRESS: u64 = 64 << 10;

/// Reads a blob from its first byte to its last. Where a connection breaks, the next one goes on at the same byte, if the registry can do
/// that; if not, the bytes that have been are read past. Who reads verifies the digest, over all connections.
pub(super) struct BlobStream {
    repository: Arc<Inner>,
    digest: Digest,
    size: u64,
    at: u64,
    body: Option<Paced>,
    /// The answer said how long it is.
    sized: bool,
    host: String,
    /// Who was asked last; `host` is where that led.
    endpoint: Option<Endpoint>,
    /// Breaks since [`Self::mark`].
    tries: u32,
    /// Where the last good connection began.
    mark: u64,
}

impl BlobStream {
    pub fn open(repository: Arc<Inner>, digest: Digest, size: u64) -> Result<Self, Error> {
        let mut stream =
            Self { repository, digest, size, at: 0, body: None, sized: false, host: String::new(), endpoint: None, tries: 0, mark: 0 };
        stream.connect()?;
        stream.tell(Event::Begin { digest: stream.digest.clone(), size });
        Ok(stream)
    }

    fn step(&self) -> String {
        format!("fetch layer {} of {}", self.digest, self.repository.name)
    }

    fn tell(&self, event: Event) {
        self.repository.client.tell(&event);
    }

    /// Asks for the rest.
    fn connect(&mut self) -> Result<(), Error> {
        let step = self.step();
        let range = (self.at > 0).then(|| ("range", format!("bytes={}-", self.at)));
        let good: &[u16] = if self.at > 0 { &[200, 206] } else { &[200] };
        let headers: Vec<_> = range.into_iter().collect();
        let repository = Arc::clone(&self.repository);
        let Given { answer, endpoint } = repository.get(&format!("blobs/{}", self.digest), &headers, &step, good)?;
        self.endpoint = Some(endpoint.clone());
        self.host = answer.host.clone();
        let from = match self.check(&answer, &step) {
            // The next one is asked by who reads.
            Err(error) if repository.client.leave_out(endpoint, &error) => return Ok(()),
            from => from?,
        };
        self.sized = answer.body.content_length().is_some();
        let mut body = answer.reader(self.repository.client.settings.stall_timeout());
        // The registry began anew.
        let skipped = io::copy(&mut Read::by_ref(&mut body).take(self.at - from), &mut io::sink());
        if skipped.as_ref().is_ok_and(|count| *count == self.at - from) {
            self.body = Some(body);
            return Ok(());
        }
        let source = skipped.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        self.broke(source).map_err(|error| *error)
    }

    /// At which byte the body begins. Its length and its range must be those of the blob.
    fn check(&self, answer: &Answer, step: &str) -> Result<u64, Error> {
        let refused = |reason: String| Error::refused(&answer.host, step, reason);
        let from = if answer.status == 206 {
            let range = answer.header("content-range").unwrap_or_default();
            let wanted = format!("bytes {}-{}/{}", self.at, self.size - 1, self.size);
            if range != wanted && range != format!("bytes {}-{}/*", self.at, self.size - 1) {
                return Err(refused(format!("asked for `{wanted}`, it sends `{}`", image::shown(range.as_bytes()))));
            }
            self.at
        } else {
            0
        };
        match answer.body.content_length() {
            Some(length) if length != self.size - from => {
                Err(refused(format!("it has {} bytes there, the manifest says {}", length + from, self.size)))
            }
            _ => Ok(from),
        }
    }

    /// The connection is gone: waits, unless there have been too many tries.
    fn broke(&mut self, source: io::Error) -> Result<(), Box<Error>> {
        self.body = None;
        if self.at - self.mark >= PROGRESS {
            self.tries = 0;
            self.mark = self.at;
        }
        self.tries += 1;
        let (host, step, tries) = (self.host.clone(), self.step(), self.tries);
        let error = Error::Cut { host, step, tries, at: self.at, size: self.size, source };
        // Once may be the weather.
        if tries > 1 && self.endpoint.as_ref().is_some_and(|endpoint| self.repository.client.leave_out(endpoint, &error)) {
            self.tries = 0;
            return Ok(());
        }
        if tries > self.repository.client.settings.retries() {
            return Err(Box::new(error));
        }
        self.repository.client.again(&error, back_off(tries));
        Ok(())
    }
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let told = |error: Error| io::Error::other(image::Error::from(error));
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = buffer.len().min(left);
        loop {
            let Some(body) = &mut self.body else {
                self.connect().map_err(told)?;
                continue;
            };
            let source = match body.read(&mut buffer[..most]) {
                Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(count) => {
                    self.at += count as u64;
                    self.tell(Event::Bytes { digest: self.digest.clone(), at: self.at });
                    if self.at == self.size {
                        // At the end of what has a length, the connection can be used again; else it is given up.
                        if let Some(mut body) = self.body.take().filter(|_| self.sized) {
                            // Ignoring: all bytes are there.
                            let _ = body.read(&mut [0]);
                        }
                        self.tell(Event::End { digest: self.digest.clone(), size: self.size });
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.broke(source).map_err(|error| told(*error))?;
        }
    }
}
