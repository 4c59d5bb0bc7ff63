//! The images that the store has, and their removal.

use std::collections::BTreeSet;

use serde::Serialize;

use super::namespace::in_range;
use super::prepare::{Prepared, Tree};
use super::record::{self, ImageRecord, ReferenceRecord};
use super::skeleton::is_skeleton;
use super::{Error, Ownership};
use crate::image::{self, Digest, Reference};
use crate::profile::Platform;
use crate::store::{Lock, Store, TreeFacts};

/// What a removal has taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub images: usize,
    pub layers: usize,
    pub bytes: u64,
    /// Images that a running sandbox uses, and that were kept.
    pub in_use: usize,
}

/// Every image with all of its names, by name and digest.
pub fn images(store: &Store) -> Result<Vec<ImageRecord>, Error> {
    let references = references(store)?;
    let mut list: Vec<ImageRecord> = Vec::new();
    for name in store.list("images")? {
        let bytes = store.read(&format!("images/{name}"))?.unwrap_or_default();
        // One that a power loss cut off; the next load of the image writes it again.
        list.extend(serde_json::from_slice::<ImageRecord>(&bytes));
    }
    for image in &mut list {
        let mine = references.iter().filter(|known| known.digest == image.digest);
        image.names = mine.map(|known| known.reference.clone()).collect();
        image.names.sort();
        // Known for several spellings of its platform.
        image.names.dedup();
    }
    list.sort_by(|a, b| (&a.names, &a.digest).cmp(&(&b.names, &b.digest)));
    Ok(list)
}

/// Names, each with the image that it stands for now.
pub(super) fn references(store: &Store) -> Result<Vec<ReferenceRecord>, Error> {
    let mut list = Vec::new();
    for name in store.list("references")? {
        let bytes = store.read(&format!("references/{name}"))?.unwrap_or_default();
        list.extend(serde_json::from_slice::<ReferenceRecord>(&bytes));
    }
    Ok(list)
}

/// Names of an image that its registries gave, as repositories from which it can be had again.
pub fn fetched_names(store: &Store, digest: &Digest) -> Result<Vec<Reference>, Error> {
    let names = references(store)?.into_iter().filter(|known| known.fetched && known.digest == *digest);
    Ok(names.filter_map(|known| known.reference.parse().ok()).collect())
}

/// The image of a name, a reference, a digest or the beginning of one.
pub fn find_image(store: &Store, wanted: &str) -> Result<ImageRecord, Error> {
    let all = images(store)?;
    if let Some(image) = all.iter().find(|image| image.digest.to_string() == wanted) {
        return Ok(image.clone());
    }
    if let Some(image) = by_reference(&all, wanted) {
        return Ok(image.clone());
    }
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let good = |image: &&ImageRecord| hex.len() >= 4 && image.digest.hex().starts_with(hex);
    let found: Vec<&ImageRecord> = all.iter().filter(good).collect();
    match found.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(Error::NoSuchImage { wanted: crate::image::shown(wanted.as_bytes()) }),
        several => {
            let found = several.iter().map(|image| image.digest.to_string()).collect();
            Err(Error::Ambiguous { wanted: crate::image::shown(wanted.as_bytes()), found })
        }
    }
}

fn by_reference<'a>(all: &'a [ImageRecord], wanted: &str) -> Option<&'a ImageRecord> {
    let reference: Reference = wanted.parse().ok()?;
    let name = reference.to_string();
    // For each platform a name stands for another image; on its own it means this machine's.
    let native = Platform::native().to_string();
    let mut named = all.iter().filter(|image| image.names.contains(&name));
    let first = named.next();
    let own = first.into_iter().chain(named).find(|image| image.platform == native).or(first);
    own.or_else(|| all.iter().find(|image| reference.digest.as_ref() == Some(&image.digest)))
}

/// As [`find_image`], of the image that a name stands for on `platform`.
pub fn find_image_for(store: &Store, wanted: &str, platform: &Platform) -> Result<ImageRecord, Error> {
    let known = wanted.parse::<Reference>().ok().map(|reference| record::read_reference(store, &reference, platform)).transpose()?;
    let wanted = known.flatten().map_or_else(|| wanted.to_owned(), |known| known.digest.to_string());
    find_image(store, &wanted)
}

/// The index that a name of `image` stands for, where it stands for one.
pub fn index_of(store: &Store, wanted: &str, image: &ImageRecord) -> Result<Option<Digest>, Error> {
    let wanted = wanted.parse::<Reference>().ok().map(|reference| reference.to_string());
    let mut mine = references(store)?.into_iter().filter(|known| known.digest == image.digest && known.index.is_some());
    let first = mine.next();
    let named = first.iter().cloned().chain(mine).find(|known| Some(&known.reference) == wanted.as_ref());
    Ok(named.or(first).and_then(|known| known.index))
}

/// What was taken away by a word that names an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The name alone: the image has others.
    Name(String),
    Image(Digest),
}

/// Takes a name away from its image. The last name takes the image with it, and so does a digest, with all names: its records, and the
/// layers that no other image has.
pub fn remove_image(store: &Store, wanted: &str, ownership: Ownership) -> Result<Gone, Error> {
    let lock = store.begin_removal()?;
    let image = find_image(store, wanted)?;
    if let Ok(reference) = wanted.parse::<Reference>()
        && image.names.len() > 1
        && image.names.contains(&reference.to_string())
    {
        forget_references(store, |known| known.digest == image.digest && known.reference == reference.to_string())?;
        return Ok(Gone::Name(reference.to_string()));
    }
    if !forget(store, &image)? {
        return Err(Error::InUse(image.digest));
    }
    sweep_layers(store, &lock, ownership, &mut Removed::default())?;
    drop(lock);
    empty_trash(store, ownership)?;
    Ok(Gone::Image(image.digest))
}

/// Trees are moved aside while no load may run, and removed when loads run again.
fn empty_trash(store: &Store, ownership: Ownership) -> Result<(), Error> {
    super::sweep(&store.path().join("trash"), ownership)
}

/// From here on `names` stand for the image too, on its platform, whatever they stood for before.
pub fn tag(store: &Store, wanted: &str, image: &ImageRecord, platform: &Platform, names: &[Reference]) -> Result<(), Error> {
    let _lock = store.begin_load()?;
    let index = index_of(store, wanted, image)?;
    names.iter().try_for_each(|name| {
        let record = ReferenceRecord { reference: name.to_string(), digest: image.digest.clone(), index: index.clone(), fetched: false };
        record::put_reference(store, platform, &record)
    })
}

/// Which images a removal takes besides what belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// None.
    Unreferenced,
    /// Those that came into the store before a time, in seconds since 1970.
    Before(u64),
    All,
}

/// Removes layers, blobs and records that no image refers to, and of the images what `which` says, but for those that a sandbox uses.
pub fn prune(store: &Store, which: Prune, ownership: Ownership) -> Result<Removed, Error> {
    let lock = store.begin_removal()?;
    let mut removed = Removed::default();
    let doomed = |image: &ImageRecord| match which {
        Prune::Unreferenced => false,
        Prune::Before(time) => image.loaded < time,
        Prune::All => true,
    };
    for image in images(store)?.iter().filter(|image| doomed(image)) {
        match forget(store, image)? {
            true => removed.images += 1,
            false => removed.in_use += 1,
        }
    }
    sweep_layers(store, &lock, ownership, &mut removed)?;
    drop(lock);
    empty_trash(store, ownership)?;
    Ok(removed)
}

/// Takes an image's records away; `false`: it is in use, and nothing was done.
fn forget(store: &Store, image: &ImageRecord) -> Result<bool, Error> {
    let mut mine = Vec::new();
    for name in store.list("prepared")? {
        let path = format!("prepared/{name}");
        let Some(prepared) = read_prepared(store, &path)? else { continue };
        if prepared.digest == image.digest {
            if store.is_leased(&path)? {
                return Ok(false);
            }
            mine.push(path);
        }
    }
    for path in &mine {
        store.unlink(path)?;
    }
    forget_references(store, |known| known.digest == image.digest)?;
    Ok(store.unlink(&ImageRecord::path(&image.digest))? || !mine.is_empty())
}

fn forget_references(store: &Store, which: impl Fn(&ReferenceRecord) -> bool) -> Result<(), Error> {
    for name in store.list("references")? {
        let path = format!("references/{name}");
        let bytes = store.read(&path)?.unwrap_or_default();
        if serde_json::from_slice::<ReferenceRecord>(&bytes).is_ok_and(|record| which(&record)) {
            store.unlink(&path)?;
        }
    }
    Ok(())
}

fn read_prepared(store: &Store, path: &str) -> Result<Option<Prepared>, Error> {
    let bytes = store.read(path)?.unwrap_or_default();
    Ok(record::any_body(&bytes).and_then(|body| serde_json::from_slice(body).ok()))
}

/// Removes what nothing refers to any more.
fn sweep_layers(store: &Store, lock: &Lock, ownership: Ownership, removed: &mut Removed) -> Result<(), Error> {
    let kept = images(store)?;
    let diff_ids: BTreeSet<String> = kept.iter().flat_map(|image| &image.diff_ids).map(ToString::to_string).collect();
    let blobs = kept_blobs(store, &kept)?;
    forget_orphans(store, &kept)?;
    let leased = leased_layers(store)?;
    let mut doomed = Vec::new();
    for name in store.list("layers")?.iter().filter_map(|name| name.strip_suffix(".json").or((!name.contains('.')).then_some(name))) {
        let facts: Option<TreeFacts> = store.read(&format!("layers/{name}.json"))?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let keep = facts.as_ref().is_some_and(|facts| diff_ids.contains(&facts.diff_id)) || leased.contains(name);
        if !keep && !doomed.iter().any(|(known, _)| known == name) {
            doomed.push((name.to_owned(), facts.map_or(0, |facts| facts.bytes)));
        }
    }
    // Nothing says which sandbox stands on which skeleton: they stay while any sandbox runs, and are soon made again.
    if leased.is_empty() {
        doomed.extend(store.list("layers")?.into_iter().filter(|name| is_skeleton(name)).map(|name| (name, 0)));
    }
    for directory in ["sha256", "sha512"] {
        for name in store.list(&format!("blobs/{directory}"))?.iter().filter(|name| !blobs.contains(name.as_str())) {
            store.unlink(&format!("blobs/{directory}/{name}"))?;
        }
    }
    for name in store.list("owners")? {
        let hex = name.trim_end_matches(".json");
        if !diff_ids.iter().any(|diff_id| diff_id.ends_with(hex)) {
            store.unlink(&format!("owners/{name}"))?;
        }
    }
    if doomed.is_empty() && lock.leftovers.is_empty() {
        return Ok(());
    }
    let work = || {
        doomed.iter().try_for_each(|(name, _)| store.discard_layer(name))?;
        Ok(store.remove_leftovers(lock)?)
    };
    match ownership {
        Ownership::Single => work()?,
        // Files of the range's ids can be removed only where these ids are.
        Ownership::Range { uids, gids } => in_range(uids, gids, work)?,
    }
    removed.layers = doomed.iter().filter(|(name, _)| !is_skeleton(name)).count();
    removed.bytes = doomed.iter().map(|(_, bytes)| bytes).sum();
    Ok(())
}

/// Hex digests of what images need in `blobs`: their documents, the indexes that names stand for, and layers that are kept as they came.
fn kept_blobs(store: &Store, images: &[ImageRecord]) -> Result<BTreeSet<String>, Error> {
    let mut blobs = BTreeSet::new();
    for image in images {
        blobs.extend(std::iter::once(&image.digest).chain(&image.config_digest).map(|digest| digest.hex().to_owned()));
        let manifest = store.blob(&image.digest)?.unwrap_or_default();
        blobs.extend(image::blobs_of(&manifest).iter().map(|piece| piece.digest.hex().to_owned()));
    }
    blobs.extend(references(store)?.into_iter().filter_map(|known| Some(known.index?.hex().to_owned())));
    Ok(blobs)
}

/// A record of an image that is not there would start something whose layers are about to go.
fn forget_orphans(store: &Store, kept: &[ImageRecord]) -> Result<(), Error> {
    for name in store.list("prepared")? {
        let path = format!("prepared/{name}");
        let known = read_prepared(store, &path)?.is_some_and(|prepared| kept.iter().any(|image| image.digest == prepared.digest));
        if !known && !store.is_leased(&path)? {
            store.unlink(&path)?;
        }
    }
    Ok(())
}

fn leased_layers(store: &Store) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for name in store.list("prepared")? {
        let path = format!("prepared/{name}");
        let Some(Prepared { tree: Tree::Layers { names: layers }, .. }) = read_prepared(store, &path)? else { continue };
        if store.is_leased(&path)? {
            names.extend(layers.iter().map(|layer| layer.as_str().to_owned()));
        }
    }
    Ok(names)
}
