//! The way from an image source to what a start needs.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::layer::{Load, Loaded, load_all};
use super::namespace::in_range;
use super::owner::{OwnerMap, You};
use super::record::{self, ImageRecord, ReferenceRecord};
use super::user::{self, ResolvedUser};
use super::{Error, Ownership, Stack};
use crate::image::{self, Digest, Image, ImageConfig, Reference, Remote};
use crate::profile::{IdOrName, ImageSource, Platform, Pull, Select, UserSpec};
use crate::store::{LayerName, Lock, Store, TreeFacts};

/// What is to be prepared.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub source: &'a ImageSource,
    pub platform: &'a Platform,
    pub pull: Pull,
    /// Whether layers that the store does not have may be unpacked; without it, nothing is made or changed.
    pub load: bool,
    pub ownership: Ownership,
    /// Instead of the image's USER.
    pub user: Option<&'a UserSpec>,
    /// A load that was asked for gives the image these names beside those of the source; a start gives it the latter alone, and only
    /// when it unpacks it.
    pub names: Option<&'a [Reference]>,
    /// The only manifest that a reference may stand for; what is another one is refused.
    pub locked: Option<&'a str>,
    /// Whether blobs of layers are kept as they came, beside their trees; those that the store has are then read again.
    pub keep_blobs: bool,
    /// Published stores, in which a name is looked for that this store does not have. Called for such a name alone.
    pub stores: Option<&'a Stores<'a>>,
    /// How the repository of a reference is reached; absent: no registry is asked. Called where the store does not do, never for an image
    /// that is ready.
    pub registry: Option<&'a Registries<'a>>,
    /// How an image that the store knows is had again, where its name alone says nothing of that.
    pub origin: Option<&'a Origins<'a>>,
    pub progress: Option<&'a Watch<'a>>,
}

/// Directories of published stores, in the order in which they are looked through.
pub type Stores<'a> = dyn Fn() -> Result<Vec<PathBuf>, Error> + Sync + 'a;

/// Reaches the repository of a reference.
pub type Registries<'a> = dyn Fn(&Reference) -> Result<Arc<dyn Remote>, image::Error> + 'a;

/// Reaches the places from which an image came.
pub type Origins<'a> = dyn Fn(&Store, &ImageRecord) -> Result<Arc<dyn Remote>, image::Error> + 'a;

/// Hears of what happens in a load, from many threads.
pub type Watch<'a> = dyn Fn(Progress<'_>) + Sync + 'a;

/// What happened in a load, for whoever watches.
pub enum Progress<'p> {
    /// So many layers, of so many bytes in all, are not in the store and come from a registry.
    Begin { layers: usize, bytes: u64 },
    /// A layer is in the store, new or from before.
    Layer { name: &'p str, facts: &'p TreeFacts },
    /// A published store that could have had the image, and why it cannot be looked through.
    Unusable { store: &'p Path, error: &'p Error },
    /// Nothing more comes.
    End,
}

/// An image that can be started.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// Of the manifest; where the source has none, of one that describes it.
    pub digest: Digest,
    pub config: ImageConfig,
    pub tree: Tree,
    /// The topmost layer that says what the root directory is like: its mode, owner and times are those of the image's root, also
    /// where layers above it say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<LayerName>,
    pub user: ResolvedUser,
    /// Those of the trees that are links to a published store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<LayerName>,
    /// Trees with the same content, where those of `tree` are not made yet.
    #[serde(skip)]
    pub content: Option<Vec<LayerName>>,
    /// What is worth saying about the load; empty when nothing was loaded.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// Held for as long as the trees are in use.
    #[serde(skip)]
    pub lease: Option<Lease>,
}

/// Keeps the layers of an image from being removed until it is dropped. Its descriptor is closed on exec.
#[derive(Debug)]
pub struct Lease {
    pub(super) _file: File,
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tree {
    /// Names below the store's directory of layers, lowest first; at least one.
    Layers { names: Vec<LayerName> },
    /// A directory that is used as it is.
    Directory(PathBuf),
    /// The host's own files.
    Host,
}

/// Makes the image of `request` ready: finds it, loads what the store does not have, resolves the user.
pub fn prepare(store: &Store, request: &Request<'_>) -> Result<Prepared, Error> {
    find_or_load(store, request).map_err(|error| super::shared::explain(store, request, error))
}

/// Whether trees are gone that a record calls ready: a directory of trees elsewhere was emptied. Then the record is gone too, and the image
/// can be prepared anew.
///
/// # Errors
/// [`Error::Store`] where the store cannot be read.
pub fn forget_torn(store: &Store, request: &Request<'_>, prepared: &Prepared) -> Result<bool, Error> {
    let Tree::Layers { names } = &prepared.tree else { return Ok(false) };
    for name in names {
        if store.tree_facts(name)?.is_none() {
            if let Some(key) = record::key(store, request)? {
                record::forget(store, &key)?;
            }
            return Ok(true);
        }
    }
    Ok(false)
}

fn find_or_load(store: &Store, request: &Request<'_>) -> Result<Prepared, Error> {
    match request.source {
        ImageSource::Host => return of_directory(request, PathBuf::from("/"), Tree::Host, b"host", None),
        ImageSource::Rootfs { path } => {
            let name = format!("rootfs:{}", path.display());
            let lease = request.load.then(|| record::lease_of_directories(store)).transpose()?;
            return of_directory(request, path.clone(), Tree::Directory(path.clone()), name.as_bytes(), lease);
        }
        _ => {}
    }
    // A tag is what the store knows of it, unless the registry is to be asked each time.
    let asks = request.registry.is_some()
        && (super::kept::is_behind(store, request)? || request.pull == Pull::Always && super::kept::has_moved(store, request)?);
    let request = &Request { pull: if asks { Pull::Always } else { request.pull.unasked() }, ..*request };
    if !asks
        && !request.keep_blobs
        && let Some(key) = record::key(store, request)?
        && let Some(prepared) = record::read(store, &key)?
    {
        check_lock(request, &prepared.digest)?;
        if let Some(names) = request.names {
            let image = image::open(request.source, request.platform)?;
            if !image.names.is_empty() || !names.is_empty() {
                let _lock = store.begin_load()?;
                keep_names(store, request, &prepared.digest, &image)?;
            }
        }
        return Ok(prepared);
    }
    if !request.load {
        return look(store, request);
    }
    // Held until there is a lease: a removal in between would take the image that nobody uses yet.
    let (mut prepared, _lock) = load(store, request)?;
    // The load may have changed what a reference stands for.
    if let Some(key) = record::key(store, request)? {
        prepared.lease = record::keep(store, &key, &prepared)?;
    }
    Ok(prepared)
}

/// A tree that is there already; nobody promised that it stays the same, so nothing is recorded.
fn of_directory(request: &Request<'_>, path: PathBuf, tree: Tree, name: &[u8], lease: Option<Lease>) -> Result<Prepared, Error> {
    let stack = Stack::of_directory(&path)?;
    let caller = UserSpec {
        user: IdOrName::Id(rustix::process::geteuid().as_raw()),
        group: Some(IdOrName::Id(rustix::process::getegid().as_raw())),
    };
    let root = UserSpec { user: IdOrName::Id(0), group: None };
    let default = if tree == Tree::Host { caller } else { root };
    let user = user::resolve(&stack, request.user.unwrap_or(&default))?;
    let config =
        ImageConfig { os: request.platform.os.clone(), architecture: request.platform.architecture.clone(), ..ImageConfig::default() };
    Ok(Prepared {
        digest: Digest::of(name),
        config,
        tree,
        root: None,
        user,
        published: Vec::new(),
        content: None,
        notes: Vec::new(),
        lease,
    })
}

/// The image of a source, with its documents; layers are read when they are needed.
fn open(store: &Store, request: &Request<'_>) -> Result<Image, Error> {
    match request.source {
        ImageSource::Registry(text) => super::kept::open(store, request, &text.parse()?),
        source => Ok(image::open(source, request.platform)?),
    }
}

/// Whether an image is the one that the lock file names. What nobody was asked for may be old.
pub(super) fn check_lock(request: &Request<'_>, found: &Digest) -> Result<(), Error> {
    match request.locked.filter(|locked| **locked != found.to_string()) {
        Some(locked) if request.pull == Pull::Never || request.registry.is_none() => {
            Err(Error::Behind { image: describe(request.source), locked: locked.to_owned(), found: found.clone() })
        }
        Some(locked) => Err(Error::Moved { image: describe(request.source), locked: locked.to_owned(), found: found.clone() }),
        None => Ok(()),
    }
}

/// What is told of an image where there is no leave to load it, or no store.
pub fn not_loaded(request: &Request<'_>) -> Error {
    let image = describe(request.source);
    let map = if request.ownership == Ownership::Single { "single" } else { "range" };
    let command = match request.source {
        // Nothing of it is loaded, but a start keeps something beside it.
        ImageSource::Rootfs { .. } => "hamper image ls".to_owned(),
        ImageSource::Registry(_) => {
            let command = format!("hamper image pull '{image}' --platform {} --map {map}", request.platform);
            return Error::NotPulled { image, command };
        }
        _ => format!("hamper image load '{image}' --platform {} --map {map}", request.platform),
    };
    Error::NotLoaded { image, command }
}

/// What a load would make of an archive's image, if the store has the content of all of its layers, whoever owns it there.
fn look(store: &Store, request: &Request<'_>) -> Result<Prepared, Error> {
    let missing = || not_loaded(request);
    if super::shared::of(store, request)?.is_some() {
        // Its trees are verified and linked to by the first start.
        let image = describe(request.source);
        let command = format!("hamper run --image '{image}' -- true");
        return Err(Error::NotLoaded { image, command });
    }
    let mut image = open(store, &Request { pull: Pull::Never, ..*request })?;
    let spec = spec(&image.config, request.user)?;
    let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id.clone().ok_or_else(missing)).collect::<Result<_, _>>()?;
    let work = || {
        let contents = super::layer::contents(store, request.ownership, &diff_ids)?;
        let Some(contents) = contents else { return Ok(None) };
        let user = resolve_user(store, &spec, &contents)?;
        Ok(Some((contents, user)))
    };
    let found = match request.ownership {
        Ownership::Single => work()?,
        // Files that only their owners may read are looked at as those.
        Ownership::Range { uids, gids } => in_range(uids, gids, work)?,
    };
    let (contents, user) = found.ok_or_else(missing)?;
    complete(&mut image, &contents);
    let digest = image.digest.clone().unwrap_or_else(|| Digest::of(image.manifest.as_deref().unwrap_or_default()));
    let map = OwnerMap { ownership: request.ownership, you: is(&user) };
    let loaded = contents.iter().map(|content| super::layer::foreseen(store, map, content)).collect::<Result<_, _>>()?;
    Ok(Prepared { content: Some(names(&contents)), ..Unpacked { loaded, user }.prepared(digest, image.config) })
}

/// What the layers have become, and who the user is in them.
#[derive(Serialize, Deserialize)]
struct Unpacked {
    loaded: Vec<Loaded>,
    user: ResolvedUser,
}

impl Unpacked {
    fn prepared(self, digest: Digest, config: ImageConfig) -> Prepared {
        let Self { loaded, user } = self;
        let tree = Tree::Layers { names: names(&loaded) };
        let published = loaded.iter().filter(|layer| layer.cover.is_some()).map(|layer| layer.name.clone());
        let published: BTreeSet<LayerName> =
            published.filter(|name| matches!(&tree, Tree::Layers { names } if names.contains(name))).collect();
        let published = published.into_iter().collect();
        Prepared { digest, config, tree, root: root(&loaded), user, published, content: None, notes: Vec::new(), lease: None }
    }
}

fn load(store: &Store, request: &Request<'_>) -> Result<(Prepared, Lock), Error> {
    // What is asked of a registry goes into the store on its way, and so do blobs that are kept.
    let early = (request.keep_blobs || matches!(request.source, ImageSource::Registry(_))).then(|| store.begin_load()).transpose()?;
    let shared = super::shared::of(store, request)?;
    let mut image = match &shared {
        Some((place, digest)) => super::shared::open(store, request, place, digest)?,
        None => open(store, request)?,
    };
    let place = shared.as_ref().map(|(place, _)| place.as_path());
    if image.layers.is_empty() {
        return Err(Error::NoLayers);
    }
    if request.keep_blobs {
        super::kept::keep_blobs(store, &mut image.layers, request.progress)?;
    }
    let spec = spec(&image.config, request.user)?;
    let lock = early.map_or_else(|| store.begin_load(), Ok)?;
    let work = || unpack(store, request, &image, place, &spec);
    let unpacked = match request.ownership {
        Ownership::Single => work()?,
        Ownership::Range { uids, gids } => in_range(uids, gids, || {
            store.remove_leftovers(&lock)?;
            work()
        })?,
    };
    complete(&mut image, &unpacked.loaded);
    let digest = keep(store, request, &image, place, &unpacked.loaded)?;
    Ok((Prepared { notes: notes(&unpacked.loaded), ..unpacked.prepared(digest, image.config) }, lock))
}

/// Unpacks for whom the user is thought to be; where the image's files say something else, the layers for which that makes a
/// difference are made again. Those are few: a layer in which neither id occurs is the same for everybody.
fn unpack(store: &Store, request: &Request<'_>, image: &Image, shared: Option<&Path>, spec: &UserSpec) -> Result<Unpacked, Error> {
    let mut you = guess(spec);
    loop {
        let load = Load { store, map: OwnerMap { ownership: request.ownership, you }, shared, progress: request.progress };
        let loaded = load_all(&load, &image.layers)?;
        let user = resolve_user(store, spec, &loaded)?;
        // The files do not change with their owners, so the second round agrees with itself.
        if request.ownership == Ownership::Single || is(&user) == you {
            return Ok(Unpacked { loaded, user });
        }
        you = is(&user);
    }
}

fn is(user: &ResolvedUser) -> You {
    You { uid: Some(user.uid), gid: Some(user.gid) }
}

/// Who the user will be, before there is a passwd file to look into: most images run as root, or as the first of the ordinary users.
fn guess(spec: &UserSpec) -> You {
    let uid = match &spec.user {
        IdOrName::Id(id) => *id,
        IdOrName::Name(name) if name == "root" => 0,
        IdOrName::Name(_) => 1000,
    };
    let gid = match &spec.group {
        Some(IdOrName::Id(id)) => *id,
        _ => uid,
    };
    You { uid: Some(uid), gid: Some(gid) }
}

fn spec(config: &ImageConfig, wanted: Option<&UserSpec>) -> Result<UserSpec, Error> {
    match wanted {
        Some(spec) => Ok(spec.clone()),
        None => user::parse(config.user.as_deref().unwrap_or("")),
    }
}

/// Fills in what the source did not say and the layers have told.
fn complete(image: &mut Image, loaded: &[Loaded]) {
    image.config.diff_ids = loaded.iter().map(|layer| layer.diff_id.clone()).collect();
    if image.config_bytes.is_empty() {
        let config = &image.config;
        let document = json!({
            "architecture": config.architecture,
            "os": config.os,
            "rootfs": { "type": "layers", "diff_ids": config.diff_ids },
        });
        image.config_bytes = document.to_string().into_bytes();
    }
    if image.manifest.is_none() {
        let manifest = synthetic_manifest(image, loaded);
        image.digest = Some(Digest::of(&manifest));
        image.manifest = Some(manifest);
    }
}

/// Docker's archives and plain tars have no manifest: this is the one that an OCI layout with the uncompressed layers would have.
fn synthetic_manifest(image: &Image, loaded: &[Loaded]) -> Vec<u8> {
    let layers: Vec<_> = loaded
        .iter()
        .map(|layer| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.diff_id, "size": layer.facts.tar_bytes }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&image.config_bytes),
            "size": image.config_bytes.len(),
        },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// The names of a stack, lowest first; what an opaque root hides is left out, since overlayfs does not look for one there. A layer that
/// stands in an image twice, which overlayfs refuses, is left out below: everything that it has or hides there, it has or hides above too.
fn names(loaded: &[Loaded]) -> Vec<LayerName> {
    let first = loaded.iter().rposition(|layer| layer.facts.opaque_root).unwrap_or(0);
    let stack = &loaded[first.min(loaded.len())..];
    let is_last = |index: usize| stack[index + 1..].iter().all(|above| above.name != stack[index].name);
    let kept = stack.iter().enumerate().filter(|(index, _)| is_last(*index));
    kept.flat_map(|(_, layer)| std::iter::once(&layer.name).chain(&layer.cover)).cloned().collect()
}

fn root(loaded: &[Loaded]) -> Option<LayerName> {
    loaded.iter().rfind(|layer| layer.facts.has_root).map(|layer| layer.cover.as_ref().unwrap_or(&layer.name).clone())
}

fn resolve_user(store: &Store, spec: &UserSpec, loaded: &[Loaded]) -> Result<ResolvedUser, Error> {
    user::resolve(&Stack::of_layers(store.layers()?, &names(loaded))?, spec)
}

/// Keeps documents and records. The trees are on the disk before a record calls them whole.
fn keep(store: &Store, request: &Request<'_>, image: &Image, shared: Option<&Path>, loaded: &[Loaded]) -> Result<Digest, Error> {
    let manifest = image.manifest.as_deref().unwrap_or_default();
    let digest = image.digest.clone().unwrap_or_else(|| Digest::of(manifest));
    let config_digest = Digest::of(&image.config_bytes);
    store.put_blob(&digest, manifest)?;
    store.put_blob(&config_digest, &image.config_bytes)?;
    if let Some((digest, index)) = &image.index {
        store.put_blob(digest, index)?;
    }
    if loaded.iter().any(|layer| layer.facts.boot.is_some()) {
        store.sync()?;
        for layer in loaded.iter().filter(|layer| layer.facts.boot.is_some()) {
            store.put_facts(&layer.name, &TreeFacts { boot: None, ..layer.facts.clone() })?;
        }
    }
    // A start that unpacks what the store knows for another map or user has not brought the image.
    let fresh = request.names.is_some() || request.pull == Pull::Always;
    let before = ImageRecord::read(store, &digest)?.filter(|_| !fresh);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let record = ImageRecord {
        digest: digest.clone(),
        config_digest: Some(config_digest),
        names: Vec::new(),
        source: before.as_ref().map_or_else(|| source(request, shared), |before| before.source.clone()),
        platform: platform_of(&image.config, request.platform).to_string(),
        diff_ids: image.config.diff_ids.clone(),
        size: loaded.iter().map(|layer| layer.facts.bytes).sum(),
        loaded: before.map_or(now, |before| before.loaded),
    };
    record.write(store)?;
    keep_names(store, request, &digest, image)?;
    Ok(digest)
}

/// What an image says that it is for; one that says nothing is for what was asked for.
fn platform_of(config: &ImageConfig, wanted: &Platform) -> Platform {
    match config.os.is_empty() || config.architecture.is_empty() {
        true => wanted.clone(),
        false => Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant: config.variant.clone() },
    }
}

/// From here on these names stand for the image, beside those that it has.
fn keep_names(store: &Store, request: &Request<'_>, digest: &Digest, image: &Image) -> Result<(), Error> {
    // What a registry gave by digest is found by that digest again, an index's too; what an archive calls itself must be a name.
    let by_digest = matches!(request.source, ImageSource::Registry(_));
    let own = image.names.iter().filter(|name| !super::is_digest(name)).filter_map(|name| name.parse::<Reference>().ok());
    let own = own.map(|name| (name, image.is_answer));
    let given = request.names.into_iter().flatten().cloned().map(|name| (name, false));
    for (reference, fetched) in own.chain(given).filter(|(name, _)| by_digest || name.digest.is_none()) {
        // What came again by its digest has not said what else is known of the name.
        let before = record::read_reference(store, &reference, request.platform)?.filter(|before| before.digest == *digest);
        let index = image.index.as_ref().map(|(digest, _)| digest.clone()).or_else(|| before.as_ref()?.index.clone());
        let fetched = fetched || before.is_some_and(|before| before.fetched);
        let record = ReferenceRecord { reference: reference.to_string(), digest: digest.clone(), index, fetched };
        record::put_reference(store, request.platform, &record)?;
    }
    Ok(())
}

/// Where an image was found, for people and for a push.
fn source(request: &Request<'_>, shared: Option<&Path>) -> String {
    shared.map_or_else(|| describe(request.source), |place| format!("{} in {}", describe(request.source), place.display()))
}

/// A source in the words of the profile.
fn describe(source: &ImageSource) -> String {
    let selected = |kind: &str, path: &Path, select: &Select| match select {
        Select::Only => format!("{kind}:{}", path.display()),
        Select::Tag(tag) => format!("{kind}:{}:{tag}", path.display()),
        Select::Digest(digest) => format!("{kind}:{}@{digest}", path.display()),
    };
    match source {
        ImageSource::Registry(text) => text.clone(),
        ImageSource::OciDir { path, select } => selected("oci", path, select),
        ImageSource::OciArchive { path, select } => selected("oci-archive", path, select),
        ImageSource::DockerArchive { path, select } => selected("docker-archive", path, select),
        ImageSource::Tar { path } => format!("tar:{}", path.display()),
        ImageSource::Rootfs { path } => format!("rootfs:{}", path.display()),
        ImageSource::Host => "host".to_owned(),
    }
}

fn notes(loaded: &[Loaded]) -> Vec<String> {
    let sum = |pick: fn(&TreeFacts) -> u64| loaded.iter().map(|layer| pick(&layer.facts)).sum::<u64>();
    let mut notes = Vec::new();
    for (count, text) in [
        (sum(|facts| facts.devices), "device nodes were not created"),
        (sum(|facts| facts.outside), "entries have owners outside of the id map; they are yours"),
        (sum(|facts| facts.capabilities), "files have capabilities, which never take effect in a sandbox"),
        (sum(|facts| facts.dropped_xattrs - facts.capabilities), "extended attributes were left out"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {text}"));
        }
    }
    notes
}
