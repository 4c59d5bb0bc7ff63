//! A repository of a registry as this room needs it: documents by tag and digest, blobs as streams.
//!
//! The registry room speaks the protocol; here its answers are parsed and verified like those of a layout.

use std::io::Read;

use super::{Digest, Error};

/// A repository that can be read. Answers of the registry are not trusted: who asks by digest verifies what comes.
pub trait Remote: Send + Sync {
    /// Registry and repository, for messages: `docker.io/library/node`.
    fn name(&self) -> &str;

    /// The manifest or index that `tag` stands for now; at most [`MAX_MANIFEST`](super::MAX_MANIFEST) bytes.
    ///
    /// # Errors
    /// [`Error::Remote`]: no connection, no leave, no such tag.
    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, Error>;

    /// The digest of what `tag` stands for now, where that can be known without fetching it.
    ///
    /// # Errors
    /// As above.
    fn digest_of_tag(&self, _tag: &str) -> Result<Option<Digest>, Error> {
        Ok(None)
    }

    /// The manifest or index `digest`; bounded as above.
    ///
    /// # Errors
    /// As above.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error>;

    /// A small blob as a whole, a config; never more than `size` bytes and one.
    ///
    /// # Errors
    /// As above.
    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error>;

    /// Hears that the bytes of a blob were of no use, and `why`. Whether there is another place to take it from, which is asked from then on.
    fn distrust(&self, _digest: &Digest, _why: &str) -> bool {
        false
    }

    /// The blob as a stream of exactly `size` bytes, or of an error. An error of the stream is an [`Error::Remote`] in an
    /// [`io::Error`](std::io::Error).
    ///
    /// # Errors
    /// As above.
    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error>;
}
