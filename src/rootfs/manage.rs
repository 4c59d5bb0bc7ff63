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
use crate::store::{Held, LayerName, Lock, Store, TreeFacts};

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

/// Whether a text is a digest, or the beginning of one, whatever else it could be read as: an archive may call its image by the digest of
/// another.
pub fn is_digest(text: &str) -> bool {
    ["sha256:", "sha512:"].iter().any(|algorithm| text.starts_with(algorithm))
}

/// The name that a text is.
fn parse_name(text: &str) -> Option<Reference> {
    text.parse().ok().filter(|_| !is_digest(text))
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
    let reference = parse_name(wanted)?;
    let name = reference.to_string();
    // For each platform a name stands for another image; on its own it means this machine's, or one that this machine can run.
    let native = Platform::native().to_string();
    let distance = |image: &&ImageRecord| match image.platform.strip_prefix(&native) {
        Some("") => 0,
        Some(variant) if variant.starts_with('/') => 1,
        _ => 2,
    };
    let own = all.iter().filter(|image| image.names.contains(&name)).min_by_key(distance);
    own.or_else(|| all.iter().find(|image| reference.digest.as_ref() == Some(&image.digest)))
}

/// As [`find_image`], of the image that a name stands for on `platform`.
pub fn find_image_for(store: &Store, wanted: &str, platform: &Platform) -> Result<ImageRecord, Error> {
    let known = parse_name(wanted).map(|reference| record::read_reference(store, &reference, platform)).transpose()?;
    let wanted = known.flatten().map_or_else(|| wanted.to_owned(), |known| known.digest.to_string());
    find_image(store, &wanted)
}

/// The index that a name of `image` stands for, where it stands for one.
pub fn index_of(store: &Store, wanted: &str, image: &ImageRecord) -> Result<Option<Digest>, Error> {
    let wanted = parse_name(wanted).map(|reference| reference.to_string());
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
    if let Some(reference) = parse_name(wanted)
        && image.names.len() > 1
        && image.names.contains(&reference.to_string())
    {
        forget_references(store, |known| known.digest == image.digest && known.reference == reference.to_string())?;
        return Ok(Gone::Name(reference.to_string()));
    }
    let records = Records::hold(store)?;
    if !forget(store, &records, &image)? {
        return Err(Error::InUse(image.digest));
    }
    sweep_layers(store, &lock, &records, ownership, &mut Removed::default())?;
    drop((records, lock));
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
    let plain = Platform { variant: None, ..platform.clone() };
    let platforms = [Some(platform), platform.variant.is_some().then_some(&plain)];
    names.iter().flat_map(|name| platforms.iter().flatten().map(move |platform| (name, platform))).try_for_each(|(name, platform)| {
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
    let records = Records::hold(store)?;
    for image in images(store)?.iter().filter(|image| doomed(image)) {
        match forget(store, &records, image)? {
            true => removed.images += 1,
            false => removed.in_use += 1,
        }
    }
    sweep_layers(store, &lock, &records, ownership, &mut removed)?;
    drop((records, lock));
    empty_trash(store, ownership)?;
    Ok(removed)
}

/// Records of what starts are made from: those that a sandbox has a lease on, and the others, with which none can begin before this is
/// dropped. A start that would waits until the store may be read again, and makes what it needs anew.
struct Records {
    free: Vec<(String, Option<Prepared>, Held)>,
    leased: Vec<Option<Prepared>>,
}

impl Records {
    fn hold(store: &Store) -> Result<Self, Error> {
        // Each is an open file.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        // Ignoring: with few records it is not needed, and with many their opening tells.
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
        let mut records = Self { free: Vec::new(), leased: Vec::new() };
        for name in store.list("prepared")? {
            let path = format!("prepared/{name}");
            match store.hold(&path)? {
                Some(held) => {
                    let prepared = parse_prepared(&held.bytes);
                    records.free.push((path, prepared, held));
                }
                None => records.leased.push(parse_prepared(&store.read(&path)?.unwrap_or_default())),
            }
        }
        Ok(records)
    }

    fn is_in_use(&self, image: &Digest) -> bool {
        self.leased.iter().flatten().any(|prepared| prepared.digest == *image)
    }

    /// Names of layers that sandboxes use.
    fn leased_layers(&self) -> BTreeSet<&str> {
        let trees = self.leased.iter().flatten().map(|prepared| &prepared.tree);
        let names = trees.filter_map(|tree| if let Tree::Layers { names } = tree { Some(names) } else { None });
        names.flatten().map(LayerName::as_str).collect()
    }
}

fn parse_prepared(bytes: &[u8]) -> Option<Prepared> {
    record::any_body(bytes).and_then(|body| serde_json::from_slice(body).ok())
}

/// Takes an image's records away; `false`: it is in use, and nothing was done.
fn forget(store: &Store, records: &Records, image: &ImageRecord) -> Result<bool, Error> {
    if records.is_in_use(&image.digest) {
        return Ok(false);
    }
    let mut any = false;
    for (path, prepared, _) in &records.free {
        if prepared.as_ref().is_some_and(|prepared| prepared.digest == image.digest) {
            any |= store.unlink(path)?;
        }
    }
    forget_references(store, |known| known.digest == image.digest)?;
    Ok(store.unlink(&ImageRecord::path(&image.digest))? || any)
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

/// Removes what nothing refers to any more.
fn sweep_layers(store: &Store, lock: &Lock, records: &Records, ownership: Ownership, removed: &mut Removed) -> Result<(), Error> {
    let kept = images(store)?;
    let diff_ids: BTreeSet<String> = kept.iter().flat_map(|image| &image.diff_ids).map(ToString::to_string).collect();
    let blobs = kept_blobs(store, &kept)?;
    forget_orphans(store, records, &kept)?;
    let leased = records.leased_layers();
    let mut doomed = Vec::new();
    for name in store.list("layers")?.iter().filter_map(|name| name.strip_suffix(".json").or((!name.contains('.')).then_some(name))) {
        let facts: Option<TreeFacts> = store.read(&format!("layers/{name}.json"))?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let keep = facts.as_ref().is_some_and(|facts| diff_ids.contains(&facts.diff_id)) || leased.contains(name);
        if !keep && !doomed.iter().any(|(known, _)| known == name) {
            doomed.push((name.to_owned(), facts.map_or(0, |facts| facts.bytes)));
        }
    }
    // Nothing says which sandbox stands on which skeleton: they stay while any sandbox runs, and are soon made again.
    if records.leased.is_empty() {
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
fn forget_orphans(store: &Store, records: &Records, kept: &[ImageRecord]) -> Result<(), Error> {
    for (path, prepared, _) in &records.free {
        let known = prepared.as_ref().is_some_and(|prepared| kept.iter().any(|image| image.digest == prepared.digest));
        if !known {
            store.unlink(path)?;
        }
    }
    Ok(())
}
