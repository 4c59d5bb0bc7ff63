//! The steps of the distribution spec that write: blobs, in pieces where they are large, then the documents that name them.

use std::io::Read;

use ureq::http::Method;

use super::Error;
use super::auth::encode;
use super::client::{Event, Inner, Repository, passes};
use super::hosts::{Endpoint, is_loopback};
use super::http::{Answer, Call, authority_of, resolve};
use super::wait::back_off;
use crate::image::{self, Digest, Hasher, Piece, Remote, Whole};

/// Blobs that are sent at once, each with one [`CHUNK`] of memory.
const WORKERS: usize = 3;
/// A blob goes in pieces of this size. What a cut costs is at most one of them, and registries that want large ones want 5 MiB.
const CHUNK: usize = 8 << 20;
/// No registry may ask for larger pieces than this (`OCI-Chunk-Min-Length`).
const MAX_CHUNK: usize = 32 << 20;

/// An image that is handed to a registry.
pub struct Push<'p> {
    /// Where documents and blobs are; a blob is opened only if the registry does not have it.
    pub content: &'p dyn Remote,
    /// As [`image::collect`] gives it.
    pub whole: &'p Whole,
    /// What the last document is called there; absent: its digest.
    pub tag: Option<&'p str>,
    /// Repositories of the same registry that may have a blob.
    pub elsewhere: &'p (dyn Fn(&Digest) -> Vec<String> + Sync),
}

impl Repository {
    /// Gives the repository all blobs that it lacks, and then the documents, each after what it names.
    ///
    /// # Errors
    /// [`image::Error::Remote`] of the registry; [`image::Error`] of the content, among them [`image::Error::Digest`] for a blob that is not
    /// what its digest says, of which the registry then keeps nothing.
    ///
    /// # References
    /// distribution-spec 1.1, "Push"
    pub fn push(&self, push: &Push<'_>) -> Result<(), image::Error> {
        let Some(endpoint) = self.0.endpoints.last() else {
            return Err(Error::refused(&self.0.name, "push", "no host has it").into());
        };
        let session = Session { inner: &self.0, endpoint, push };
        session.blobs()?;
        let last = push.whole.documents.len().saturating_sub(1);
        for (index, (piece, bytes)) in push.whole.documents.iter().enumerate() {
            let name = push.tag.filter(|_| index == last).map_or_else(|| piece.digest.to_string(), str::to_owned);
            session.document(piece, bytes, &name)?;
        }
        Ok(())
    }
}

struct Session<'s> {
    inner: &'s Inner,
    endpoint: &'s Endpoint,
    push: &'s Push<'s>,
}

/// An upload that has begun.
struct Upload {
    url: String,
    chunk: usize,
}

/// Why a piece did not go through.
enum Broken {
    /// The upload is lost; the blob can be sent again from its first byte.
    Lost(Error),
    Fatal(Error),
}

impl Session<'_> {
    fn url(&self, path: &str) -> String {
        format!("{}/v2/{}{}/{path}", self.endpoint.base(), self.endpoint.prefix, self.inner.repository)
    }

    fn scope(&self) -> String {
        format!("repository:{}{}:pull,push", self.endpoint.prefix, self.inner.repository)
    }

    fn send(&self, call: &Call<'_>, scope: &str) -> Result<Answer, Error> {
        self.inner.client.exchange_as_user(self.endpoint, &self.inner.repository, scope, call)
    }

    fn failed(&self, answer: Answer, step: &str) -> Error {
        self.inner.client.refusal(answer, step, self.endpoint, &self.inner.repository)
    }

    /// All blobs, the largest first.
    fn blobs(&self) -> Result<(), image::Error> {
        let blobs = &self.push.whole.blobs;
        let mut order: Vec<usize> = (0..blobs.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(blobs[*index].size));
        image::side_by_side(&order, WORKERS, || {}, |index| self.blob(&blobs[index])).map(drop)
    }

    fn blob(&self, blob: &Piece) -> Result<(), image::Error> {
        let step = format!("push blob {} to {}", blob.digest, self.inner.name);
        if self.has(blob, &step)? {
            self.inner.client.tell(&Event::Present { digest: blob.digest.clone() });
            return Ok(());
        }
        let mut upload = None;
        for from in (self.push.elsewhere)(&blob.digest).iter().filter(|from| **from != self.inner.repository) {
            match self.mount(blob, from, &step)? {
                None => {
                    self.inner.client.tell(&Event::Mounted { digest: blob.digest.clone(), from: from.clone() });
                    return Ok(());
                }
                begun => upload = begun,
            }
        }
        let mut tries = 0;
        loop {
            let begun = upload.take().map_or_else(|| self.begin(&step), Ok)?;
            match self.upload(blob, begun, &step)? {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let host = self.endpoint.authority.clone();
                    let error = Error::Lost { host, step: step.clone(), source: Box::new(error) };
                    tries += 1;
                    if tries > self.inner.client.settings.retries() {
                        return Err(error.into());
                    }
                    self.inner.client.again(&error, back_off(tries));
                    // The last answer may have been all that was lost.
                    if self.has(blob, &step)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// "Checking if content exists in the registry"
    fn has(&self, blob: &Piece, step: &str) -> Result<bool, Error> {
        let call = Call::new(Method::HEAD, self.url(&format!("blobs/{}", blob.digest)), step);
        let answer = self.send(&call, &self.scope())?;
        match answer.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.failed(answer, step)),
        }
    }

    /// "Mounting a blob from another repository"; an upload where the registry does not do that.
    fn mount(&self, blob: &Piece, from: &str, step: &str) -> Result<Option<Upload>, Error> {
        let url = self.url(&format!("blobs/uploads/?mount={}&from={}", encode(&blob.digest.to_string()), encode(from)));
        let scope = format!("{} repository:{from}:pull", self.scope());
        let answer = self.send(&Call::new(Method::POST, url, step), &scope)?;
        match answer.status {
            201 => Ok(None),
            202 => self.location(&answer, &self.url("blobs/uploads/"), step).map(Some),
            // Who may not read there sends it all the same.
            401 | 403 | 404 | 405 => self.begin(step).map(Some),
            _ => Err(self.failed(answer, step)),
        }
    }

    fn begin(&self, step: &str) -> Result<Upload, Error> {
        let url = self.url("blobs/uploads/");
        let answer = self.send(&Call::new(Method::POST, url.clone(), step), &self.scope())?;
        match answer.status {
            202 => self.location(&answer, &url, step),
            _ => Err(self.failed(answer, step)),
        }
    }

    /// Where the upload goes on. It may be another host, which then learns no password, but not one in plain.
    fn location(&self, answer: &Answer, base: &str, step: &str) -> Result<Upload, Error> {
        let url = answer.header("location").and_then(|location| resolve(base, location));
        let url = url.ok_or_else(|| Error::refused(&answer.host, step, "it does not say where the upload goes"))?;
        if base.starts_with("https:") && !url.starts_with("https:") && !is_loopback(authority_of(&url)) {
            return Err(Error::refused(&answer.host, step, "it sends the upload from TLS to plain HTTP"));
        }
        let least = answer.header("oci-chunk-min-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        if least > MAX_CHUNK {
            return Err(Error::refused(&answer.host, step, format!("it wants pieces of {least} bytes; at most {MAX_CHUNK} are sent")));
        }
        Ok(Upload { url, chunk: least.max(CHUNK) })
    }

    /// Sends a blob from its first byte to its last; the inner error: it can be begun again.
    fn upload(&self, blob: &Piece, mut upload: Upload, step: &str) -> Result<Result<(), Error>, image::Error> {
        let what = format!("blob {} of {}", blob.digest, self.push.content.name());
        let mut source = self.push.content.blob(&blob.digest, blob.size)?;
        let client = &self.inner.client;
        client.tell(&Event::Begin { digest: blob.digest.clone(), size: blob.size });
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut bytes = Vec::new();
        let mut at = 0;
        loop {
            bytes.clear();
            let most = u64::try_from(upload.chunk).unwrap_or(u64::MAX);
            source.by_ref().take(most).read_to_end(&mut bytes).map_err(|source| match source.downcast::<image::Error>() {
                Ok(told) => told,
                Err(source) => image::Error::Read { what: what.clone(), source },
            })?;
            hasher.update(&bytes);
            let end = at + bytes.len() as u64;
            if end > blob.size || (end < blob.size && bytes.len() < upload.chunk) {
                return Err(image::Error::Size { what, expected: blob.size, found: end });
            }
            let last = end == blob.size;
            if last {
                // Before the registry is told that this is all.
                let found = hasher.clone().finish();
                if found != blob.digest {
                    return Err(image::Error::Digest { what, expected: blob.digest.clone(), found });
                }
            }
            // What fits into one request needs no second one.
            let sent = match last && at == 0 {
                true => self.close(blob, &upload, &bytes, step),
                false => self.chunk(&mut upload, at, &bytes, step),
            };
            match sent {
                Ok(()) => {}
                Err(Broken::Lost(error)) => return Ok(Err(error)),
                Err(Broken::Fatal(error)) => return Err(error.into()),
            }
            client.tell(&Event::Bytes { digest: blob.digest.clone(), at: end });
            if last {
                break;
            }
            at = end;
        }
        if at > 0 {
            match self.close(blob, &upload, &[], step) {
                Ok(()) => {}
                Err(Broken::Lost(error)) => return Ok(Err(error)),
                Err(Broken::Fatal(error)) => return Err(error.into()),
            }
        }
        client.tell(&Event::Sent { digest: blob.digest.clone(), size: blob.size });
        Ok(Ok(()))
    }

    /// Sends one piece, and after a cut what the registry has not got of it.
    fn chunk(&self, upload: &mut Upload, from: u64, bytes: &[u8], step: &str) -> Result<(), Broken> {
        let end = from + bytes.len() as u64;
        let (mut at, mut tries) = (from, 0);
        while at < end {
            let rest = usize::try_from(at - from).ok().and_then(|skip| bytes.get(skip..)).unwrap_or_default();
            let mut call = Call::new(Method::PATCH, upload.url.clone(), step);
            call.headers = vec![("content-type", "application/octet-stream".into()), ("content-range", format!("{at}-{}", end - 1))];
            (call.body, call.once) = (rest, true);
            let error = match self.send(&call, &self.scope()) {
                Ok(answer) if answer.status == 202 => {
                    let has = has(&answer).unwrap_or(end);
                    upload.url = self.location(&answer, &call.url, step).map_err(Broken::Fatal)?.url;
                    if (from..=end).contains(&has) {
                        at = has.max(at);
                        if at == end {
                            return Ok(());
                        }
                    }
                    Error::refused(&answer.host, step, format!("it has {has} bytes of {end} that were sent"))
                }
                Ok(answer) if answer.status == 416 => self.failed(answer, step),
                Ok(answer) if answer.status == 404 => return Err(Broken::Lost(self.failed(answer, step))),
                Ok(answer) => return Err(Broken::Fatal(self.failed(answer, step))),
                Err(error) if may_pass(&error) => error,
                Err(error) => return Err(Broken::Fatal(error)),
            };
            tries += 1;
            if tries > self.inner.client.settings.retries() {
                return Err(Broken::Fatal(error));
            }
            self.inner.client.again(&error, back_off(tries));
            match self.progress(upload, step).map_err(Broken::Fatal)? {
                Some(has) if (from..=end).contains(&has) => at = has,
                _ => return Err(Broken::Lost(error)),
            }
        }
        Ok(())
    }

    /// How many bytes of an upload the registry has; `None`: it does not know it any more.
    fn progress(&self, upload: &mut Upload, step: &str) -> Result<Option<u64>, Error> {
        let call = Call::new(Method::GET, upload.url.clone(), step);
        let answer = self.send(&call, &self.scope())?;
        if answer.status != 204 {
            return Ok(None);
        }
        if answer.header("location").is_some() {
            upload.url = self.location(&answer, &call.url, step)?.url;
        }
        Ok(Some(has(&answer).unwrap_or(0)))
    }

    /// Says which digest the bytes have that were sent, and sends the last of them.
    fn close(&self, blob: &Piece, upload: &Upload, bytes: &[u8], step: &str) -> Result<(), Broken> {
        let sign = if upload.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{sign}digest={}", upload.url, encode(&blob.digest.to_string()));
        let mut call = Call::new(Method::PUT, url, step);
        call.headers = vec![("content-type", "application/octet-stream".into())];
        (call.body, call.once) = (bytes, true);
        match self.send(&call, &self.scope()) {
            Ok(answer) if answer.status == 201 => Ok(()),
            Ok(answer) if matches!(answer.status, 404 | 416) => Err(Broken::Lost(self.failed(answer, step))),
            Ok(answer) => Err(Broken::Fatal(self.failed(answer, step))),
            Err(error) if may_pass(&error) => Err(Broken::Lost(error)),
            Err(error) => Err(Broken::Fatal(error)),
        }
    }

    fn document(&self, piece: &Piece, bytes: &[u8], name: &str) -> Result<(), Error> {
        let step = format!("push manifest {name} to {}", self.inner.name);
        let mut call = Call::new(Method::PUT, self.url(&format!("manifests/{name}")), &step);
        call.headers = vec![("content-type", piece.media_type.clone())];
        call.body = bytes;
        let answer = self.send(&call, &self.scope())?;
        if answer.status != 201 {
            return Err(self.failed(answer, &step));
        }
        // Where it says what it has taken, that must be it.
        match answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok()) {
            Some(stated) if stated.algorithm() == piece.digest.algorithm() && stated != piece.digest => {
                Err(Error::refused(&answer.host, &step, format!("it has kept {stated}, and {} was sent", piece.digest)))
            }
            _ => Ok(()),
        }
    }
}

/// `Range: 0-N` of an upload, as a count of bytes. Nothing at all is `0-0` too: then one byte is sent once more than needed, or refused.
fn has(answer: &Answer) -> Option<u64> {
    let last = answer.header("range")?.trim_start_matches("bytes=").strip_prefix("0-")?.parse::<u64>().ok()?;
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
}

fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Status { status: 408 | 429 | 500.., .. }) || passes(error)
}
