//! Why an image cannot be read.

use std::io;

use super::Digest;

/// An error and everything that caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot open `{path}`")]
    Open { path: String, source: io::Error },
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    #[error("cannot write the archive")]
    Write { source: io::Error },
    #[error("{what} is {size} bytes, more than the {limit} that are accepted")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("{what} is not valid JSON")]
    Syntax { what: String, source: serde_json::Error },
    #[error("{what}: {reason}")]
    Refused { what: String, reason: String },
    #[error("{what}: `{key}` must be {expected}, and is {found}")]
    Type { what: String, key: String, expected: &'static str, found: &'static str },
    #[error("{what} has {found} bytes, its descriptor says {expected}")]
    Size { what: String, expected: u64, found: u64 },
    #[error("{what} has digest {found}, expected {expected}")]
    Digest { what: String, expected: Digest, found: Digest },
    #[error("`{text}` is not a digest: {reason}")]
    BadDigest { text: String, reason: &'static str },
    #[error("`{text}` is not an image reference: {reason}")]
    BadReference { text: String, reason: &'static str },
    #[error("no image for {platform} in {what}; it has {available}")]
    NoPlatform { what: String, platform: String, available: String },
    #[error("no image `{wanted}` in {what}; it has {available}")]
    NoSuchImage { what: String, wanted: String, available: String },
    #[error("{what} has no tag `{wanted}`; it has {available}")]
    NoSuchTag { what: String, wanted: String, available: String },
    #[error("{what} holds several images: name one of {available}")]
    Several { what: String, available: String },
    #[error("{what}: blob {digest} is missing")]
    MissingBlob { what: String, digest: String },
    /// A registry's failure, in its words: which host, which step, which status.
    #[error("{words}")]
    Remote { words: String, hint: Option<String>, source: Option<Box<dyn std::error::Error + Send + Sync>> },
    #[error("{what} is malformed at byte {offset}")]
    Tar { what: String, offset: u64, source: super::tar::TarError },
}

impl Error {
    pub(crate) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source }
    }
}
