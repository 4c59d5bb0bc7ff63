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
    /// Where the body ends: at the blob's end, or before it where a registry gives less than was asked for (RFC 9110 section 15.3.7).
    until: u64,
    /// The registry has no ranges that can be used: it is asked for the blob as a whole.
    whole: bool,
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
        let mut stream = Self {
            repository,
            digest,
            size,
            at: 0,
            body: None,
            sized: false,
            until: size,
            whole: false,
            host: String::new(),
            endpoint: None,
            tries: 0,
            mark: 0,
        };
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
        let range = (self.at > 0 && !self.whole).then(|| ("range", format!("bytes={}-", self.at)));
        let good: &[u16] = if range.is_some() { &[200, 206, 416] } else { &[200] };
        let headers: Vec<_> = range.into_iter().collect();
        let repository = Arc::clone(&self.repository);
        let Given { answer, endpoint } = repository.get(&format!("blobs/{}", self.digest), &headers, &step, good)?;
        self.endpoint = Some(endpoint.clone());
        self.host = answer.host.clone();
        if answer.status == 416 || answer.status == 206 && answer.header("content-range").is_none() {
            // What it has, it may still give from the start; who reads asks for that.
            self.whole = true;
            return Ok(());
        }
        repository.client.given(&self.digest, endpoint);
        let (from, until) = match self.check(&answer, &step) {
            // The next one is asked by who reads.
            Err(error) if repository.client.leave_out(endpoint, &error) => return Ok(()),
            from => from?,
        };
        self.until = until;
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

    /// At which byte the body begins, and where it ends. Its length and its range must be those of the blob.
    fn check(&self, answer: &Answer, step: &str) -> Result<(u64, u64), Error> {
        let refused = |reason: String| Error::refused(&answer.host, step, reason);
        let (from, until) = if answer.status == 206 {
            let range = answer.header("content-range").unwrap_or_default();
            let until = end_of_range(range, self.at, self.size).ok_or_else(|| {
                let wanted = format!("bytes {}-{}/{}", self.at, self.size - 1, self.size);
                refused(format!("asked for `{wanted}`, it sends `{}`", image::shown(range.as_bytes())))
            })?;
            (self.at, until)
        } else {
            (0, self.size)
        };
        match answer.body.content_length() {
            Some(length) if length != until - from => {
                let found = length.saturating_add(from).saturating_add(self.size - until);
                Err(refused(format!("it has {found} bytes there, the manifest says {}", self.size)))
            }
            _ => Ok((from, until)),
        }
    }

    /// A range shorter than was asked for has ended: the next one goes on there. One that brings next to nothing again and again is no
    /// better than a connection that breaks.
    fn next_range(&mut self) -> Result<(), Box<Error>> {
        if self.at - self.mark >= PROGRESS {
            self.body = None;
            self.tries = 0;
            self.mark = self.at;
            return Ok(());
        }
        self.broke(io::Error::other("the registry gives less than was asked for"))
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
        let is_last = tries > self.repository.client.settings.retries();
        let error = Error::Cut { host, step, tries: is_last.then_some(tries), at: self.at, size: self.size, source };
        // Once may be the weather.
        if tries > 1 && self.endpoint.as_ref().is_some_and(|endpoint| self.repository.client.leave_out(endpoint, &error)) {
            self.tries = 0;
            return Ok(());
        }
        if is_last {
            return Err(Box::new(error));
        }
        self.repository.client.again(&error, back_off(tries));
        Ok(())
    }
}

/// Where a `Content-Range` ends that begins at `from`: RFC 9110 section 14.4. `None`: it is of something else than the rest of `size` bytes.
fn end_of_range(range: &str, from: u64, size: u64) -> Option<u64> {
    let (range, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let good = number(first)? == from && (whole == "*" || number(whole)? == size);
    number(last).filter(|last| good && (from..size).contains(last)).map(|last| last + 1)
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
            let most = most.min(usize::try_from(self.until - self.at).unwrap_or(usize::MAX));
            if most == 0 {
                self.next_range().map_err(|error| told(*error))?;
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_that_were_asked_for_or_shorter() {
        for (range, end) in [
            ("bytes 5-9/10", Some(10)),
            ("bytes 5-9/*", Some(10)),
            ("bytes 5-5/10", Some(6)),
            ("bytes 5-10/10", None),
            ("bytes 5-4/10", None),
            ("bytes 4-9/10", None),
            ("bytes 5-9/11", None),
            ("bytes +5-9/10", None),
            ("bytes */10", None),
            ("5-9/10", None),
            ("", None),
        ] {
            assert_eq!(end_of_range(range, 5, 10), end, "{range}");
        }
    }
}
