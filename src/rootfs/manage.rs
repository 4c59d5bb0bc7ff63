//! The images that the store has, and their removal.

use std::collections::BTreeSet;

use serde::Serialize;

use super::namespace::in_range;
use super::prepare::{Prepared, Tree};
use super::record::{self, ImageRecord, ReferenceRecord};
use super::{Error, Ownership};
use crate::image::Reference;
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

/// Every image, by name and digest.
pub fn images(store: &Store) -> Result<Vec<ImageRecord>, Error> {
    let mut list = Vec::new();
    for name in store.list("images")? {
        let bytes = store.read(&format!("images/{name}"))?.unwrap_or_default();
        // One that a power loss cut off; the next load of the image writes it again.
        list.extend(serde_json::from_slice::<ImageRecord>(&bytes));
    }
    list.sort_by(|a, b| (&a.names, &a.digest).cmp(&(&b.names, &b.digest)));
    Ok(list)
}

/// The image of a name, a reference, a digest or the beginning of one.
pub fn find_image(store: &Store, wanted: &str) -> Result<ImageRecord, Error> {
    let all = images(store)?;
    if let Some(image) = all.iter().find(|image| image.digest.to_string() == wanted) {
        return Ok(image.clone());
    }
    if let Some(image) = by_reference(store, &all, wanted)? {
        return Ok(image);
    }
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let good =
        |image: &&ImageRecord| image.names.iter().any(|name| name == wanted) || (hex.len() >= 4 && image.digest.hex().starts_with(hex));
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

fn by_reference(store: &Store, all: &[ImageRecord], wanted: &str) -> Result<Option<ImageRecord>, Error> {
    let Ok(reference) = wanted.parse::<Reference>() else { return Ok(None) };
    let Some(digest) = record::read_reference(store, &reference, &Platform::native())? else { return Ok(None) };
    Ok(all.iter().find(|image| image.digest == digest).cloned())
}

/// Removes one image, and the layers that no other image has.
pub fn remove_image(store: &Store, image: &ImageRecord, ownership: Ownership) -> Result<Removed, Error> {
    let lock = store.begin_removal()?;
    let mut removed = Removed::default();
    if !forget(store, image)? {
        return Err(Error::InUse(image.digest.clone()));
    }
    removed.images = 1;
    sweep_layers(store, &lock, ownership, &mut removed)?;
    Ok(removed)
}

/// Removes layers, blobs and records that no image refers to; with `all` every image that no sandbox uses.
pub fn prune(store: &Store, all: bool, ownership: Ownership) -> Result<Removed, Error> {
    let lock = store.begin_removal()?;
    let mut removed = Removed::default();
    for image in images(store)? {
        if !all {
            continue;
        }
        match forget(store, &image)? {
            true => removed.images += 1,
            false => removed.in_use += 1,
        }
    }
    sweep_layers(store, &lock, ownership, &mut removed)?;
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
    for name in store.list("references")? {
        let path = format!("references/{name}");
        let bytes = store.read(&path)?.unwrap_or_default();
        if serde_json::from_slice::<ReferenceRecord>(&bytes).is_ok_and(|record| record.digest == image.digest) {
            store.unlink(&path)?;
        }
    }
    Ok(store.unlink(&ImageRecord::path(&image.digest))? || !mine.is_empty())
}

fn read_prepared(store: &Store, path: &str) -> Result<Option<Prepared>, Error> {
    let bytes = store.read(path)?.unwrap_or_default();
    Ok(record::any_body(&bytes).and_then(|body| serde_json::from_slice(body).ok()))
}

/// Removes what nothing refers to any more.
fn sweep_layers(store: &Store, lock: &Lock, ownership: Ownership, removed: &mut Removed) -> Result<(), Error> {
    let kept = images(store)?;
    let diff_ids: BTreeSet<String> = kept.iter().flat_map(|image| &image.diff_ids).map(ToString::to_string).collect();
    let blobs: BTreeSet<&str> =
        kept.iter().flat_map(|image| std::iter::once(&image.digest).chain(&image.config_digest)).map(|digest| digest.hex()).collect();
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
        doomed.extend(store.list("layers")?.into_iter().filter(|name| name.starts_with("s.")).map(|name| (name, 0)));
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
        doomed.iter().try_for_each(|(name, _)| store.remove_layer(name))?;
        Ok(store.remove_leftovers(lock)?)
    };
    match ownership {
        Ownership::Single => work()?,
        // Files of the range's ids can be removed only where these ids are.
        Ownership::Range { uids, gids } => in_range(uids, gids, work)?,
    }
    removed.layers = doomed.len();
    removed.bytes = doomed.iter().map(|(_, bytes)| bytes).sum();
    Ok(())
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
