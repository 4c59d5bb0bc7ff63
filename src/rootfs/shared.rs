//! Images of published stores: found by name, verified once, used where they lie.
//!
//! A published layer takes the place of a tree in this store by a link, with a small tree over it that belongs to the reader: the layer's
//! directories, and the files that only their owner may read in the image. So what the payload makes, replaces and removes, it can; what it
//! would have to change in place it cannot, since the kernel copies no file up whose owner the sandbox does not have.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, Timestamps, Uid};
use rustix::io::Errno;

use super::layer::{Load, Loaded};
use super::owner::OwnerMap;
use super::prepare::{Request, check_lock};
use super::published::{Documents, Published, Tree, copy_out};
use super::{Error, Progress, kept, record};
use crate::image::{self, Digest, Image, Reference};
use crate::profile::{ImageSource, Pull};
use crate::store::{LayerName, PendingTree, Store, ThreadIds, TreeFacts};

/// The first published store that has the name, and what it stands for there. One that cannot be used is told of, and passed over.
pub(super) fn find(request: &Request<'_>, reference: &Reference) -> Result<Option<(PathBuf, Digest)>, Error> {
    let (found, unusable) = look_through(request, reference)?;
    if let Some(progress) = request.progress {
        unusable.iter().for_each(|(store, error)| progress(Progress::Unusable { store, error }));
    }
    Ok(found)
}

type LookedThrough = (Option<(PathBuf, Digest)>, Vec<(PathBuf, Error)>);

fn look_through(request: &Request<'_>, reference: &Reference) -> Result<LookedThrough, Error> {
    let mut unusable = Vec::new();
    let Some(stores) = request.stores.filter(|_| request.pull != Pull::Always) else { return Ok((None, unusable)) };
    for path in stores()? {
        match Published::open(&path).and_then(|store| store.digest(reference, request.platform)) {
            Ok(Some(digest)) => return Ok((Some((path, digest)), unusable)),
            Ok(None) => {}
            Err(error) => unusable.push((path, error)),
        }
    }
    Ok((None, unusable))
}

/// Why an image could not be had, with the stores that may have it and could not be used.
pub(super) fn explain(store: &Store, request: &Request<'_>, error: Error) -> Error {
    let ImageSource::Registry(text) = request.source else { return error };
    if !matches!(error, Error::NotPulled { .. } | Error::Image(image::Error::Remote { .. })) {
        return error;
    }
    let Ok(reference) = text.parse::<Reference>() else { return error };
    if !matches!(record::read_reference(store, &reference, request.platform), Ok(None)) {
        return error;
    }
    match look_through(request, &reference) {
        Ok((None, unusable)) if !unusable.is_empty() => {
            let stores = unusable.iter().map(|(_, error)| error.chain()).collect::<Vec<_>>().join("; ");
            Error::NotShared { stores, source: Box::new(error) }
        }
        _ => error,
    }
}

/// As [`find`], where this store does not know the name itself.
pub(super) fn of(store: &Store, request: &Request<'_>) -> Result<Option<(PathBuf, Digest)>, Error> {
    let ImageSource::Registry(text) = request.source else { return Ok(None) };
    let reference: Reference = text.parse()?;
    match record::read_reference(store, &reference, request.platform)? {
        Some(_) => Ok(None),
        None => find(request, &reference),
    }
}

/// Opens the image `digest` of a published store; its documents go into this one, its name does not.
pub(super) fn open(store: &Store, request: &Request<'_>, place: &Path, digest: &Digest) -> Result<Image, Error> {
    let ImageSource::Registry(text) = request.source else { return Err(Error::NoLayers) };
    let reference = Reference { tag: None, digest: Some(digest.clone()), ..text.parse()? };
    check_lock(request, digest)?;
    let documents = std::sync::Arc::new(Documents(Published::open(place)?));
    let contents = kept::contents(store, &format!("{} in {}", reference.repository, place.display()), Some(documents))?;
    let mut image = image::open_remote(&contents, &reference, request.platform)?;
    image.names.clear();
    Ok(image)
}

/// Puts a link to the published tree of `diff_id` in place, once all of it has been verified; `None`: the image is in no published store.
///
/// # Errors
/// [`Error::PublishedTree`] where the tree is not what was published.
pub(super) fn adopt(load: &Load<'_>, diff_id: &Digest) -> Result<Option<Loaded>, Error> {
    let Some(place) = load.shared else { return Ok(None) };
    let store = Published::open(place)?;
    let Some(facts) = store.facts(diff_id)? else { return Ok(None) };
    let expected = facts.tree.clone().unwrap_or_default();
    let name = LayerName::new(diff_id, &format!("shared {} {expected}", place.display()));
    let owners = format!("cover {} {expected}", OwnerMap::describe(load.map.ownership, load.map.you));
    let cover = LayerName::new(diff_id, &owners);
    let loaded = |facts| Loaded { diff_id: diff_id.clone(), name: name.clone(), cover: Some(cover.clone()), facts };
    if let (Some(facts), Some(_)) = (load.store.tree_facts(&name)?, load.store.tree_facts(&cover)?) {
        return Ok(Some(loaded(facts)));
    }
    let tree = store.open_tree(diff_id)?;
    let (found, entries) = tree.look()?;
    if found != expected {
        return Err(Error::PublishedTree { path: place.display().to_string(), diff_id: diff_id.clone(), expected, found });
    }
    let pending = load.store.new_tree(load.map.process_ids())?;
    fill(load.map, &pending, &tree, &entries)?;
    // Nothing of it is counted as room: the files are another's.
    let own = TreeFacts { diff_id: diff_id.to_string(), ..TreeFacts::default() };
    pending.publish(&cover, &mut TreeFacts { owners, ..own.clone() })?;
    let facts = TreeFacts { owners: format!("shared {}", place.display()), bytes: 0, ..facts };
    load.store.link_tree(&name, &store.tree_path(diff_id), &facts)?;
    Ok(Some(loaded(facts)))
}

/// Makes the directories as the image has them, and the files that the published tree shows to more people than the image does.
fn fill(map: OwnerMap, pending: &PendingTree<'_>, tree: &Tree, entries: &[super::published::Entry]) -> Result<(), Error> {
    let _ids = ThreadIds::enter(pending.owner());
    let owners = tree.owners();
    let root = pending.root();
    for entry in entries {
        let failed = |errno| tree.failed(&entry.path, errno);
        if !entry.is_directory {
            copy_out(tree, entry, root).map_err(failed)?;
        } else if !entry.path.is_empty() {
            rustix::fs::mkdirat(root, entry.path.as_slice(), Mode::RWXU).map_err(failed)?;
        }
    }
    // The deepest first: a time changes with what is made inside.
    for entry in entries.iter().rev() {
        let (uid, gid) = owners.get(&entry.path).copied().unwrap_or_default();
        let times = Timestamps { last_access: entry.modified, last_modification: entry.modified };
        finish(root, &entry.path, map.place(uid, gid).ids, entry.mode, &times).map_err(|errno| tree.failed(&entry.path, errno))?;
    }
    Ok(())
}

fn finish(root: impl AsFd, path: &[u8], owner: Option<(u32, u32)>, mode: u32, times: &Timestamps) -> Result<(), Errno> {
    let path = if path.is_empty() { b"." } else { path };
    if let Some((uid, gid)) = owner {
        rustix::fs::chownat(&root, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::chmodat(&root, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    rustix::fs::utimensat(&root, path, times, AtFlags::SYMLINK_NOFOLLOW)
}
