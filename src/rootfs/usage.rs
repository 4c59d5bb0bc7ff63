//! What takes how much room in the store.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Error;
use super::manage::{images, references};
use super::record::ImageRecord;
use crate::image::{self, Digest};
use crate::store::Store;

/// The room of one image, in bytes of file content. A layer counts once for each map of ids and user that it was unpacked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    pub digest: Digest,
    pub names: Vec<String>,
    /// All that it stands on.
    pub size: u64,
    /// What goes when it is removed.
    pub unique: u64,
    /// Of [`Self::size`], layers that are kept as they came.
    pub blobs: u64,
    /// Seconds since 1970.
    pub loaded: u64,
}

/// The room of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub images: Vec<ImageUsage>,
    /// Trees of layers.
    pub layers: u64,
    /// Documents, and layers that are kept as they came.
    pub blobs: u64,
    /// Of both, what no image refers to.
    pub unreferenced: u64,
}

/// Adds up what the records say; trees are not walked.
pub fn usage(store: &Store) -> Result<Usage, Error> {
    let images = images(store)?;
    let mut pieces: BTreeMap<String, u64> = BTreeMap::new();
    for (_, facts) in store.trees()? {
        *pieces.entry(facts.diff_id).or_default() += facts.bytes;
    }
    let mut usage = Usage { layers: pieces.values().sum(), ..Usage::default() };
    for (digest, size) in store.blob_sizes()? {
        usage.blobs += size;
        // An uncompressed layer has one digest for its blob and its tree.
        *pieces.entry(blob(&digest)).or_default() += size;
    }
    let mut parts: Vec<BTreeSet<String>> = images.iter().map(|image| parts(store, image)).collect::<Result<_, _>>()?;
    for known in references(store)? {
        let at = images.iter().position(|image| image.digest == known.digest);
        if let (Some(at), Some(index)) = (at, &known.index) {
            parts[at].insert(blob(&index.to_string()));
        }
    }
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    parts.iter().flatten().for_each(|part| *users.entry(part).or_default() += 1);
    let room = |part: &String| pieces.get(part).copied().unwrap_or(0);
    for (image, parts) in images.iter().zip(&parts) {
        usage.images.push(ImageUsage {
            digest: image.digest.clone(),
            names: image.names.clone(),
            size: parts.iter().map(room).sum(),
            unique: parts.iter().filter(|part| users.get(part.as_str()) == Some(&1)).map(room).sum(),
            blobs: parts.iter().filter(|part| part.starts_with(BLOB)).map(room).sum(),
            loaded: image.loaded,
        });
    }
    usage.unreferenced = pieces.iter().filter(|(part, _)| !users.contains_key(part.as_str())).map(|(_, size)| size).sum();
    Ok(usage)
}

const BLOB: &str = "blob ";

fn blob(digest: &str) -> String {
    format!("{BLOB}{digest}")
}

/// Diff IDs of trees and digests of blobs that an image stands on.
fn parts(store: &Store, image: &ImageRecord) -> Result<BTreeSet<String>, Error> {
    let mut parts: BTreeSet<String> = image.diff_ids.iter().map(ToString::to_string).collect();
    let manifest = store.blob(&image.digest)?.unwrap_or_default();
    let named = image::blobs_of(&manifest).into_iter().map(|piece| piece.digest);
    parts.extend(named.chain([image.digest.clone()]).chain(image.config_digest.clone()).map(|digest| blob(&digest.to_string())));
    Ok(parts)
}
