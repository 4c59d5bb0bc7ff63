//! What an image is: digests, media types, documents, layouts and archives, read and checked.
//!
//! In: an [`ImageSource`](crate::profile::ImageSource) and a platform. Out: an [`Image`]: manifest, config and layer blobs that can be
//! read, nothing unpacked. Nothing in an image config is an instruction to the host: it is carried as data, and the plan decides.
//! Follows the OCI image spec 1.1 and Docker's `save` format; where they are silent, malformed is refused.

mod archive;
mod blob;
mod config;
mod content;
mod digest;
mod document;
mod error;
mod json;
mod layout;
mod media;
mod open;
mod parallel;
mod reference;
mod remote;
mod save;
pub mod tar;

pub use blob::{Blob, BlobReader};
pub use config::ImageConfig;
pub use content::{Piece, Whole, blobs_of, collect, files, plain};
pub use digest::{Algorithm, Digest, Hasher};
pub use document::best_platform;
pub use error::Error;
pub(crate) use error::chain;
pub use media::Compression;
pub use open::{Image, Layer, Platforms, open, open_platforms, open_remote};
pub(crate) use parallel::side_by_side;
pub use reference::Reference;
pub(crate) use reference::{is_component, is_host};
pub use remote::Remote;
pub use save::{PlainLayer, save_docker, save_layout};

/// Caps on what is read into memory; containerd's and go-containerregistry's own caps are of this size (CVE-2023-25153).
pub const MAX_MANIFEST: u64 = 4 << 20;
/// As [`MAX_MANIFEST`], for the config, which carries labels and history.
pub const MAX_CONFIG: u64 = 8 << 20;
/// overlayfs takes 500 lower layers (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;
/// An index in an index in an index: real ones are two deep at most.
pub const MAX_INDEX_DEPTH: usize = 4;

/// Bytes of an image as they may be shown to people: control and non-ASCII bytes escaped, length bounded.
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    let mut text = bytes[..bytes.len().min(MOST)].escape_ascii().to_string();
    if bytes.len() > MOST {
        text.push('…');
    }
    text
}
