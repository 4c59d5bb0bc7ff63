//! The layers of an image become trees in the store, side by side, the largest first.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::mpsc::sync_channel;

use rustix::fs::Mode;

use super::bounds::{Bounds, ENTRY_BYTES, FREE_ENTRIES};
use super::directory::Directories;
use super::extract::Unpacker;
use super::late::Late;
use super::owner::{OwnerIds, OwnerLog, OwnerMap, You};
use super::stream::{BUFFERS, TarStream, decompress};
use super::{Error, Progress, Watch};
use crate::image::tar::Reader;
use crate::image::{self, Algorithm, Digest, Layer};
use crate::store::{LayerName, PendingTree, Store, ThreadIds, TreeFacts};

/// Layers that are unpacked at once. Each has two threads and about 2 MiB, 18 MiB where its zstd window is large.
const MAX_WORKERS: usize = 3;

/// A layer whose tree is in the store.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Loaded {
    pub diff_id: Digest,
    pub name: LayerName,
    /// Of a published tree: what lies over it, so that its directories are the reader's.
    #[serde(default)]
    pub cover: Option<LayerName>,
    pub facts: TreeFacts,
}

/// Everything that the layers of one load share.
pub(crate) struct Load<'a> {
    pub store: &'a Store,
    pub map: OwnerMap,
    /// The published store that the image is in.
    pub shared: Option<&'a std::path::Path>,
    pub progress: Option<&'a Watch<'a>>,
}

/// Loads `layers`; the result is in their order.
pub(crate) fn load_all(load: &Load<'_>, layers: &[Layer]) -> Result<Vec<Loaded>, Error> {
    let mut coming = Vec::new();
    // What is published is used where it lies.
    for layer in layers.iter().filter(|layer| layer.blob.is_remote() && load.shared.is_none()) {
        if layer.diff_id.as_ref().map(|diff_id| known(load, diff_id)).transpose()?.flatten().is_none() {
            coming.push(layer);
        }
    }
    announce(load.progress, &coming);
    let bounds = Bounds::default();
    let begin = || {
        // Modes of the image are set as files are made; the mask of the process is not for them, and is not ours to change.
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok() {
            rustix::process::umask(Mode::empty());
        }
    };
    let act = |index: usize| -> Result<Loaded, Error> {
        let layer = &layers[index];
        let loaded = load_one(load, layer, &bounds)?;
        if let Some(progress) = load.progress {
            progress(Progress::Layer { name: &layer.name, facts: &loaded.facts });
        }
        Ok(loaded)
    };
    let loaded = image::side_by_side(&largest_first(layers), workers(layers), begin, act);
    if let Some(progress) = load.progress {
        progress(Progress::End);
    }
    let mut loaded = loaded?;
    loaded.sort_by_key(|(index, _)| *index);
    Ok(loaded.into_iter().map(|(_, loaded)| loaded).collect())
}

/// Says how much will come from a registry, if anything does.
pub(super) fn announce(progress: Option<&Watch<'_>>, coming: &[&Layer]) {
    if let Some(progress) = progress.filter(|_| !coming.is_empty()) {
        progress(Progress::Begin {
            layers: coming.len(),
            bytes: coming.iter().filter_map(|layer| layer.size).fold(0, u64::saturating_add),
        });
    }
}

pub(super) fn workers(layers: &[Layer]) -> usize {
    let processors = std::thread::available_parallelism().map_or(2, NonZero::get);
    // A network keeps a layer waiting where a disk does not.
    let useful = if layers.iter().any(|layer| layer.blob.is_remote()) { MAX_WORKERS } else { processors };
    useful.min(MAX_WORKERS).min(layers.len())
}

/// The longest work first, so that no thread is left alone with it at the end. One layer may stand in an image twice.
pub(super) fn largest_first(layers: &[Layer]) -> Vec<usize> {
    let size = |layer: &Layer| layer.size.or_else(|| layer.blob.size(&layer.name).ok()).unwrap_or(0);
    let mut order: Vec<(usize, u64)> = layers.iter().enumerate().map(|(index, layer)| (index, size(layer))).collect();
    order.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    order.into_iter().map(|(index, _)| index).collect()
}

fn load_one(load: &Load<'_>, layer: &Layer, bounds: &Bounds) -> Result<Loaded, Error> {
    let Some(diff_id) = &layer.diff_id else { return unpack(load, layer, bounds, None) };
    if let Some(loaded) = known(load, diff_id)? {
        return Ok(loaded);
    }
    let _lock = load.store.lock_name(layer_name(diff_id, load.map, You::default()).as_str())?;
    // Somebody else may have made it while we waited.
    let found = known(load, diff_id)?.map_or_else(|| super::shared::adopt(load, diff_id), |known| Ok(Some(known)))?;
    match found {
        Some(loaded) => Ok(loaded),
        None => loop {
            match unpack(load, layer, bounds, Some(diff_id)) {
                // The bytes of a mirror, which is asked no more: the registry may have better ones.
                Err(error) if is_content(&error) && layer.blob.distrust(&error.chain()) => {}
                done => return done,
            }
        },
    }
}

/// Whether the bytes of the layer are at fault, and not what is done with them.
fn is_content(error: &Error) -> bool {
    matches!(
        error,
        Error::BlobDigest { .. }
            | Error::DiffId { .. }
            | Error::Decompress { .. }
            | Error::Compression { .. }
            | Error::Tar { .. }
            | Error::Entry { .. }
            | Error::Bounds { .. }
    )
}

/// The tree of `diff_id` for this map, if the store has it.
pub(crate) fn known(load: &Load<'_>, diff_id: &Digest) -> Result<Option<Loaded>, Error> {
    let you = match load.map.ownership {
        super::Ownership::Single => You::default(),
        super::Ownership::Range { .. } => match read_ids(load.store, diff_id)? {
            Some(ids) => ids.relevant(load.map.you),
            None => return Ok(None),
        },
    };
    let name = layer_name(diff_id, load.map, you);
    Ok(load.store.tree_facts(&name)?.map(|facts| Loaded { diff_id: diff_id.clone(), name, cover: None, facts }))
}

/// Trees with the content of `diff_ids`, whoever owns the files in them as long as this map can read it; `None`: one is missing.
pub(crate) fn contents(store: &Store, ownership: super::Ownership, diff_ids: &[Digest]) -> Result<Option<Vec<Loaded>>, Error> {
    let single = OwnerMap::describe(super::Ownership::Single, You::default());
    let range = OwnerMap::describe(ownership, You::default());
    let readable = |facts: &TreeFacts| facts.owners == single || facts.owners.split(" you ").next() == range.split(" you ").next();
    let mut found = HashMap::new();
    for (name, facts) in store.trees()? {
        if readable(&facts) {
            found.insert(facts.diff_id.clone(), (name, facts));
        }
    }
    let loaded = |diff_id: &Digest| {
        let (name, facts) = found.get(&diff_id.to_string())?.clone();
        Some(Loaded { diff_id: diff_id.clone(), name, cover: None, facts })
    };
    Ok(diff_ids.iter().map(loaded).collect())
}

/// The tree that a load would make of the same content under `map`.
pub(crate) fn foreseen(store: &Store, map: OwnerMap, content: &Loaded) -> Result<Loaded, Error> {
    let you = match map.ownership {
        super::Ownership::Single => You::default(),
        super::Ownership::Range { .. } => read_ids(store, &content.diff_id)?.unwrap_or_default().relevant(map.you),
    };
    Ok(Loaded { name: layer_name(&content.diff_id, map, you), ..content.clone() })
}

fn layer_name(diff_id: &Digest, map: OwnerMap, you: You) -> LayerName {
    LayerName::new(diff_id, &OwnerMap::describe(map.ownership, you))
}

fn ids_path(diff_id: &Digest) -> String {
    format!("owners/{}.json", diff_id.hex())
}

pub(crate) fn read_ids(store: &Store, diff_id: &Digest) -> Result<Option<OwnerIds>, Error> {
    Ok(store.read(&ids_path(diff_id))?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn unpack(load: &Load<'_>, layer: &Layer, bounds: &Bounds, expected: Option<&Digest>) -> Result<Loaded, Error> {
    let tree = load.store.new_tree(load.map.process_ids())?;
    let (diff_id, mut facts, ids) = fill(load, layer, bounds, &tree, expected)?;
    if let Some(expected) = expected.filter(|expected| **expected != diff_id) {
        return Err(Error::DiffId { layer: layer.name.clone(), expected: expected.clone(), found: diff_id });
    }
    let you = ids.relevant(load.map.you);
    let name = layer_name(&diff_id, load.map, you);
    facts.diff_id = diff_id.to_string();
    facts.owners = OwnerMap::describe(load.map.ownership, you);
    load.store.write(&ids_path(&diff_id), &crate::store::to_json(&ids))?;
    tree.publish(&name, &mut facts)?;
    Ok(Loaded { diff_id, name, cover: None, facts })
}

/// Runs both halves of the pipe over one blob.
fn fill(
    load: &Load<'_>,
    layer: &Layer,
    bounds: &Bounds,
    tree: &PendingTree<'_>,
    expected: Option<&Digest>,
) -> Result<(Digest, TreeFacts, OwnerIds), Error> {
    let (full_sender, full) = sync_channel(BUFFERS);
    let (free_sender, free) = sync_channel(BUFFERS);
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    std::thread::scope(|scope| {
        let first = scope.spawn(move || decompress(layer, &full_sender, &free));
        let mut reader = Reader::new(TarStream::new(full, free_sender, algorithm));
        let second = extract(load, layer, bounds, tree, &mut reader);
        let stream = reader.into_inner();
        // On a failure of ours the other half must not wait for a reader that will not come.
        let sum = match &second {
            Ok(_) => Some(stream.finish()),
            Err(_) => {
                drop(stream);
                None
            }
        };
        let first = first.join().map_err(|_| Error::Thread(layer.name.clone()))?;
        // A stream that broke off is told by the half that saw why.
        let blob = first?;
        let (facts, ids) = second?;
        let (Some((diff_id, tar_bytes)), Some(blob)) = (sum, blob) else { return Err(Error::Thread(layer.name.clone())) };
        if let Some(stated) = layer.digest.as_ref().filter(|stated| **stated != blob.digest) {
            let layer = format!("{} (expected {stated})", layer.name);
            return Err(Error::BlobDigest { layer, found: blob.digest });
        }
        Ok((diff_id, TreeFacts { tar_bytes, ..facts }, ids))
    })
}

fn extract(
    load: &Load<'_>,
    layer: &Layer,
    bounds: &Bounds,
    tree: &PendingTree<'_>,
    reader: &mut Reader<TarStream>,
) -> Result<(TreeFacts, OwnerIds), Error> {
    let blob = layer.blob.size(&layer.name)?;
    let mut unpacker = Unpacker {
        directories: Directories::new(tree.root()),
        bounds,
        max_entries: FREE_ENTRIES + blob / ENTRY_BYTES,
        map: load.map,
        facts: TreeFacts::default(),
        ids: OwnerIds::default(),
        owners: OwnerLog::new(tree.create_owners()?),
        late: Late::new(tree.unnamed()),
    };
    let _ids = ThreadIds::enter(tree.owner());
    unpacker.prepare_root(&layer.name)?;
    unpacker.unpack(reader, &layer.name)?;
    unpacker.finish(&layer.name)
}
