//! From an image source to the one image in it.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::archive::{Archive, open_file};
use super::blob::Blob;
use super::document::{self, Descriptor, Document, Manifest, choose, listed};
use super::json::{self, Shape};
use super::layout::Layout;
use super::media::{self, Compression, Kind};
use super::{Digest, Error, ImageConfig, MAX_CONFIG, MAX_INDEX_DEPTH, MAX_LAYERS, MAX_MANIFEST, Reference, Remote};
use crate::profile::{ImageSource, Platform, Select};

/// An image whose documents have been read and verified; its layers have not.
pub struct Image {
    /// The manifest's; absent until the layers have been read, where a source has no manifest.
    pub digest: Option<Digest>,
    /// The manifest as it stands in the source.
    pub manifest: Option<Vec<u8>>,
    /// The config as it stands in the source; empty for a plain tar.
    pub config_bytes: Vec<u8>,
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Names that the source gives this image.
    pub names: Vec<String>,
    /// The index in which it was chosen by its platform, as it stands in the source.
    pub index: Option<(Digest, Vec<u8>)>,
    /// A registry was asked what the name stands for, and said this.
    pub is_answer: bool,
}

/// One layer as it stands in its source.
pub struct Layer {
    pub blob: Blob,
    /// Of the blob, as its descriptor says; absent in Docker's archives.
    pub digest: Option<Digest>,
    pub size: Option<u64>,
    /// Of the uncompressed tar, as the config says; absent for a plain tar.
    pub diff_id: Option<Digest>,
    /// As the media type says; absent: by the first bytes.
    pub compression: Option<Compression>,
    /// For messages.
    pub name: String,
}

/// Opens the image of `source` for `platform`. Not for registries, directories and the host, which are no archives.
pub fn open(source: &ImageSource, platform: &Platform) -> Result<Image, Error> {
    match source {
        ImageSource::OciDir { path, select } => open_layout(&Layout::open_directory(path)?, select, platform),
        ImageSource::OciArchive { path, select } => open_layout(&Layout::Archive(Archive::open(path)?), select, platform),
        ImageSource::DockerArchive { path, select } => open_docker(&Archive::open(path)?, select, platform),
        ImageSource::Tar { path } => open_tar(path, platform),
        ImageSource::Registry(_) | ImageSource::Rootfs { .. } | ImageSource::Host => {
            Err(Error::refused("the image source", "it is neither a layout nor an archive"))
        }
    }
}

fn open_layout(layout: &Layout, select: &Select, platform: &Platform) -> Result<Image, Error> {
    check_layout_version(layout)?;
    let what = format!("`index.json` of {}", layout.name());
    let Document::Index(entries) = Document::parse(&layout.read("index.json", MAX_MANIFEST)?, &what)? else {
        return Err(Error::refused(what, "it is not an index"));
    };
    let descriptor = match select {
        Select::Digest(text) => find_digest(layout, &entries, &text.parse()?, 1)?,
        Select::Tag(tag) if !entries.iter().any(|one| one.is_image() && one.has_name(tag)) => {
            return Err(Error::NoSuchTag { what, wanted: super::shown(tag.as_bytes()), available: all_names(&entries) });
        }
        Select::Tag(tag) => Some(select_named(&entries, |one| one.has_name(tag), platform, &what)?),
        Select::Only => {
            let mut names: Vec<&String> = entries.iter().filter(|one| one.is_image()).filter_map(|one| one.names.first()).collect();
            names.dedup();
            if names.len() > 1 {
                return Err(Error::Several { what, available: listed(names.into_iter().cloned()) });
            }
            Some(select_named(&entries, |_| true, platform, &what)?)
        }
    };
    let wanted = || Error::NoSuchImage { what: what.clone(), wanted: words(select), available: all_names(&entries) };
    let descriptor = descriptor.ok_or_else(wanted)?;
    let names = descriptor.names.iter().filter(|name| is_image_name(name)).cloned().collect();
    let bytes = layout.document(&descriptor, MAX_MANIFEST)?;
    descend(layout, descriptor.digest, bytes, names, platform)
}

/// Opens what `reference` stands for in its repository, for `platform`: by its digest, else by its tag.
///
/// # Errors
/// [`Error`] of the registry; [`Error::Digest`] where it gave something else than what was asked for; [`Error::NoPlatform`]; others of
/// documents that are malformed.
///
/// # References
/// OCI distribution-spec 1.1, "Pulling manifests"
pub fn open_remote(remote: &Arc<dyn Remote>, reference: &Reference, platform: &Platform) -> Result<Image, Error> {
    let layout = Layout::Remote(Arc::clone(remote));
    let (digest, bytes) = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => {
            let bytes = remote.manifest(digest)?;
            super::layout::verify(&bytes, digest, &format!("manifest {digest} of {}", remote.name()))?;
            (digest.clone(), bytes)
        }
        (None, tag) => {
            let bytes = remote.manifest_of_tag(tag.as_deref().unwrap_or("latest"))?;
            (Digest::of(&bytes), bytes)
        }
    };
    descend(&layout, digest, bytes, vec![reference.to_string()], platform)
}

/// The images of an index.
#[derive(Default)]
pub struct Platforms {
    /// At least one.
    pub found: Vec<(Platform, Image)>,
    /// Why other entries are none: artifacts travel in indexes too, some with the platform that they are made for.
    pub skipped: Vec<Error>,
}

/// Every platform of what `reference` stands for now, with its image. Where there is no index, the one image is that of `only`.
///
/// An entry that is no image is skipped, unless it is the one that `only` would get.
///
/// # Errors
/// As [`open_remote`]; [`Error::NoPlatform`] where no entry is an image.
pub fn open_platforms(remote: &Arc<dyn Remote>, reference: &Reference, only: &Platform) -> Result<Platforms, Error> {
    let layout = Layout::Remote(Arc::clone(remote));
    let bytes = remote.manifest_of_tag(reference.tag.as_deref().unwrap_or("latest"))?;
    let digest = Digest::of(&bytes);
    let what = format!("{digest} of {}", layout.name());
    let names = || vec![reference.to_string()];
    let entries = match Document::parse(&bytes, &what)? {
        Document::Manifest(manifest) => {
            let image = finish(&layout, digest, bytes, &manifest, names(), only)?;
            return Ok(Platforms { found: vec![(only.clone(), image)], skipped: Vec::new() });
        }
        Document::Index(entries) => entries,
    };
    let mut offered = Offered { only, list: Vec::new(), skipped: Vec::new(), looks: 0 };
    offered.add(&layout, &entries, &what, 1)?;
    let mut platforms = Platforms { found: Vec::new(), skipped: offered.skipped };
    let mut wanted_but = None;
    for platform in offered.list {
        match descend(&layout, digest.clone(), bytes.clone(), names(), &platform) {
            Ok(image) => platforms.found.push((platform, image)),
            Err(error) if is_no_image(&error) && document::rank(&platform, only).is_some() => wanted_but = Some(error),
            Err(error) if is_no_image(&error) => platforms.skipped.push(error),
            Err(error) => return Err(error),
        }
    }
    let fits = platforms.found.iter().any(|(platform, _)| document::rank(platform, only).is_some());
    match wanted_but {
        Some(error) if !fits => return Err(error),
        other => platforms.skipped.extend(other),
    }
    match (platforms.found.is_empty(), platforms.skipped.is_empty()) {
        (true, false) => Err(platforms.skipped.swap_remove(0)),
        (true, true) => Err(Error::NoPlatform { what, platform: only.to_string(), available: listed(std::iter::empty()) }),
        (false, _) => Ok(platforms),
    }
}

/// The platforms of an index, each once.
struct Offered<'a> {
    /// What a config that names no architecture is taken for, as everywhere.
    only: &'a Platform,
    list: Vec<Platform>,
    skipped: Vec<Error>,
    /// Entries that had to be fetched to know what they are.
    looks: usize,
}

impl Offered<'_> {
    /// An entry without a platform has that of its config, or those of the index that it is.
    fn add(&mut self, layout: &Layout, entries: &[Descriptor], what: &str, depth: usize) -> Result<(), Error> {
        for one in entries.iter().filter(|one| one.is_image()) {
            match &one.platform {
                Some(platform) => self.put(platform.clone(), what)?,
                None => match self.look(layout, one, depth) {
                    Err(error) if is_no_image(&error) => self.skipped.push(error),
                    done => done?,
                },
            }
        }
        Ok(())
    }

    fn look(&mut self, layout: &Layout, one: &Descriptor, depth: usize) -> Result<(), Error> {
        let what = format!("{} of {}", one.digest, layout.name());
        self.looks += 1;
        if self.looks > MAX_LOOKS {
            return Err(Error::refused(what, format!("more than {MAX_LOOKS} entries of the index have no platform")));
        }
        let manifest = match Document::parse(&layout.document(one, MAX_MANIFEST)?, &what)? {
            Document::Index(_) if depth == MAX_INDEX_DEPTH => {
                return Err(Error::refused(layout.name(), format!("its indexes are nested deeper than {MAX_INDEX_DEPTH}")));
            }
            Document::Index(inner) => return self.add(layout, &inner, &what, depth + 1),
            Document::Manifest(manifest) => manifest,
        };
        let config = read_config(layout, &manifest, &what)?.1;
        let platform = if config.architecture.is_empty() { self.only.clone() } else { config.platform() };
        self.put(platform, &what)
    }

    fn put(&mut self, platform: Platform, what: &str) -> Result<(), Error> {
        if self.list.contains(&platform) {
            return Ok(());
        }
        if self.list.len() == MAX_PLATFORMS {
            return Err(Error::refused(what, format!("it has more than {MAX_PLATFORMS} platforms")));
        }
        self.list.push(platform);
        Ok(())
    }
}

/// Whether an entry of an index is at fault, and not the way to it.
fn is_no_image(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused { .. }
            | Error::Type { .. }
            | Error::Syntax { .. }
            | Error::TooLarge { .. }
            | Error::NoPlatform { .. }
            | Error::NoSuchImage { .. }
            | Error::Several { .. }
    )
}

/// As many as platforms, and half as many indexes and artifacts beside them.
const MAX_LOOKS: usize = 3 * MAX_PLATFORMS / 2;

/// Docker's official images have ten.
const MAX_PLATFORMS: usize = 64;

/// From a manifest or an index, whose bytes have been verified, to the image for `platform`.
fn descend(layout: &Layout, mut digest: Digest, mut bytes: Vec<u8>, names: Vec<String>, platform: &Platform) -> Result<Image, Error> {
    let mut index = None;
    for _ in 0..MAX_INDEX_DEPTH {
        let what = format!("{digest} of {}", layout.name());
        match Document::parse(&bytes, &what)? {
            Document::Index(entries) => {
                let descriptor = select_named(&entries, |_| true, platform, &what)?;
                let inner = layout.document(&descriptor, MAX_MANIFEST)?;
                index.get_or_insert((digest, std::mem::replace(&mut bytes, inner)));
                digest = descriptor.digest;
            }
            Document::Manifest(manifest) => {
                return Ok(Image { index, ..finish(layout, digest, bytes, &manifest, names, platform)? });
            }
        }
    }
    Err(Error::refused(layout.name(), format!("its indexes are nested deeper than {MAX_INDEX_DEPTH}")))
}

/// A tag alone, as `latest`, tells the images of one layout apart and names none of them elsewhere.
fn is_image_name(name: &str) -> bool {
    name.contains(['/', ':'])
}

/// What was selected, for messages.
fn words(select: &Select) -> String {
    match select {
        Select::Only => "the only one".to_owned(),
        Select::Tag(text) | Select::Digest(text) => super::shown(text.as_bytes()),
    }
}

/// `oci-layout` says which layout it is; only 1.0.0 has ever been one.
fn check_layout_version(layout: &Layout) -> Result<(), Error> {
    let what = format!("`oci-layout` of {}", layout.name());
    let value = json::parse(&layout.read("oci-layout", 4096)?, &what)?;
    json::check(&value, &what, &[("imageLayoutVersion", Shape::String)])?;
    match value.get("imageLayoutVersion").and_then(Value::as_str) {
        Some("1.0.0") => Ok(()),
        _ => Err(Error::refused(what, "`imageLayoutVersion` must be 1.0.0")),
    }
}

fn all_names(entries: &[Descriptor]) -> String {
    listed(entries.iter().filter(|one| one.is_image()).map(|one| one.names.first().cloned().unwrap_or_else(|| one.digest.to_string())))
}

fn select_named(entries: &[Descriptor], good: impl Fn(&Descriptor) -> bool, platform: &Platform, what: &str) -> Result<Descriptor, Error> {
    let candidates: Vec<&Descriptor> = entries.iter().filter(|one| one.is_image() && good(one)).collect();
    if candidates.is_empty() {
        return Err(Error::NoSuchImage { what: what.to_owned(), wanted: platform.to_string(), available: all_names(entries) });
    }
    choose(&candidates, platform, what).cloned()
}

fn find_digest(layout: &Layout, entries: &[Descriptor], wanted: &Digest, depth: usize) -> Result<Option<Descriptor>, Error> {
    if let Some(found) = entries.iter().find(|one| one.digest == *wanted) {
        return Ok(Some(found.clone()));
    }
    if depth == MAX_INDEX_DEPTH {
        return Ok(None);
    }
    for one in entries.iter().filter(|one| media::kind(&one.media_type) == Kind::Index) {
        let what = format!("{} of {}", one.digest, layout.name());
        let Document::Index(inner) = Document::parse(&layout.document(one, MAX_MANIFEST)?, &what)? else { continue };
        if let Some(found) = find_digest(layout, &inner, wanted, depth + 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn finish(
    layout: &Layout,
    digest: Digest,
    bytes: Vec<u8>,
    manifest: &Manifest,
    names: Vec<String>,
    platform: &Platform,
) -> Result<Image, Error> {
    let what = format!("manifest {digest} of {}", layout.name());
    let (config_bytes, config) = read_config(layout, manifest, &what)?;
    check_platform(&config, platform, &format!("config {} of {}", manifest.config.digest, layout.name()))?;
    if config.diff_ids.len() != manifest.layers.len() {
        let reason = format!("it has {} layers, its config {} diff IDs", manifest.layers.len(), config.diff_ids.len());
        return Err(Error::refused(what, reason));
    }
    let layers = manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .map(|(layer, diff_id)| {
            let Kind::Layer(compression) = media::kind(&layer.media_type) else {
                let shown = super::shown(layer.media_type.as_bytes());
                return Err(Error::refused(&what, format!("layer {} is of type `{shown}`, which is not supported", layer.digest)));
            };
            Ok(Layer {
                blob: layout.blob(layer)?,
                digest: Some(layer.digest.clone()),
                size: Some(layer.size),
                diff_id: Some(diff_id.clone()),
                compression: Some(compression),
                name: format!("layer {} of {}", layer.digest, layout.name()),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Image { digest: Some(digest), manifest: Some(bytes), config_bytes, config, layers, names, index: None, is_answer: false })
}

fn read_config(layout: &Layout, manifest: &Manifest, what: &str) -> Result<(Vec<u8>, ImageConfig), Error> {
    if media::kind(&manifest.config.media_type) != Kind::Config {
        let shown = super::shown(manifest.config.media_type.as_bytes());
        return Err(Error::refused(what, format!("its config is of type `{shown}`: it is not an image")));
    }
    let bytes = layout.document(&manifest.config, MAX_CONFIG)?;
    let config = ImageConfig::parse(&bytes, &format!("config {} of {}", manifest.config.digest, layout.name()))?;
    Ok((bytes, config))
}

/// An image of another architecture starts with "exec format error" at best; whoever wants it says so with `platform`.
fn check_platform(config: &ImageConfig, wanted: &Platform, what: &str) -> Result<(), Error> {
    let offered = config.platform();
    let silent = offered.architecture.is_empty() && offered.os == wanted.os;
    match silent || document::rank(&offered, wanted).is_some() {
        true => Ok(()),
        false => Err(Error::NoPlatform {
            what: what.to_owned(),
            platform: wanted.to_string(),
            available: super::shown(offered.to_string().as_bytes()),
        }),
    }
}

/// `docker save`: `manifest.json` lists images, each with a config and layers by path. New ones are OCI layouts as well.
fn open_docker(archive: &Archive, select: &Select, platform: &Platform) -> Result<Image, Error> {
    let what = format!("`manifest.json` of {}", archive.name());
    let blob = archive.find(b"manifest.json")?.ok_or_else(|| Error::refused(archive.name(), "it has no `manifest.json`"))?;
    let mut value = json::parse(&blob.read(&what, MAX_MANIFEST)?, &what)?;
    json::drop_nulls(&mut value);
    let items = value.as_array().ok_or_else(|| Error::refused(&what, "it is not a list"))?;
    for item in items {
        json::check(item, &what, &[("Config", Shape::String), ("RepoTags", Shape::Strings), ("Layers", Shape::Strings)])?;
    }
    let item = select_docker(items, select, &what)?;
    let path = item.get("Config").and_then(Value::as_str).ok_or_else(|| Error::refused(&what, "an image has no `Config`"))?;
    let config_what = format!("config `{}` of {}", super::shown(path.as_bytes()), archive.name());
    let config_blob = archive.find(path.as_bytes())?.ok_or_else(|| Error::refused(&what, format!("{config_what} is missing")))?;
    let config_bytes = config_blob.read(&config_what, MAX_CONFIG)?;
    check_config_name(path, &config_bytes, &config_what)?;
    let config = ImageConfig::parse(&config_bytes, &config_what)?;
    check_platform(&config, platform, &config_what)?;
    let paths = strings(item, "Layers");
    if paths.len() != config.diff_ids.len() || paths.len() > MAX_LAYERS {
        let reason = format!("it has {} layers, its config {} diff IDs (at most {MAX_LAYERS})", paths.len(), config.diff_ids.len());
        return Err(Error::refused(what, reason));
    }
    let layers = paths
        .iter()
        .zip(&config.diff_ids)
        .map(|(path, diff_id)| {
            let name = format!("layer `{}` of {}", super::shown(path.as_bytes()), archive.name());
            let blob = archive.find(path.as_bytes())?.ok_or_else(|| Error::refused(&what, format!("{name} is missing")))?;
            Ok(Layer { blob, digest: None, size: None, diff_id: Some(diff_id.clone()), compression: None, name })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Image {
        digest: None,
        manifest: None,
        config_bytes,
        config,
        layers,
        names: strings(item, "RepoTags"),
        index: None,
        is_answer: false,
    })
}

/// The config's name is its digest in every form that Docker and podman write; where it looks like one it must be true.
fn check_config_name(path: &str, bytes: &[u8], what: &str) -> Result<(), Error> {
    let base = path.rsplit('/').next().unwrap_or(path);
    let stem = base.strip_suffix(".json").unwrap_or(base);
    match format!("sha256:{stem}").parse() {
        Ok(digest) => super::layout::verify(bytes, &digest, what),
        Err(_) => Ok(()),
    }
}

fn strings(item: &Value, key: &str) -> Vec<String> {
    item.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn select_docker<'v>(items: &'v [Value], select: &Select, what: &str) -> Result<&'v Value, Error> {
    let names = || listed(items.iter().flat_map(|item| strings(item, "RepoTags")));
    let found: Vec<&Value> = match select {
        Select::Only => items.iter().collect(),
        Select::Tag(tag) => {
            let wanted = tag.parse::<Reference>().ok().filter(|_| is_image_name(tag));
            let good = |name: &String| {
                let same = wanted.is_some() && name.parse::<Reference>().ok() == wanted;
                same || name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
            };
            items.iter().filter(|item| strings(item, "RepoTags").iter().any(good)).collect()
        }
        Select::Digest(digest) => {
            let digest: Digest = digest.parse()?;
            let good = |item: &&Value| item.get("Config").and_then(Value::as_str).is_some_and(|path| path.contains(digest.hex()));
            items.iter().filter(good).collect()
        }
    };
    match found.as_slice() {
        [only] => Ok(only),
        [] if matches!(select, Select::Tag(_)) => {
            Err(Error::NoSuchTag { what: what.to_owned(), wanted: words(select), available: names() })
        }
        [] => Err(Error::NoSuchImage { what: what.to_owned(), wanted: words(select), available: names() }),
        _ => Err(Error::Several { what: what.to_owned(), available: names() }),
    }
}

/// One layer, no config: what runs in it is the profile's business.
fn open_tar(path: &Path, platform: &Platform) -> Result<Image, Error> {
    let (file, length) = open_file(path)?;
    let name = path.display().to_string();
    let blob = Blob::Range { file: Arc::new(file), offset: 0, length };
    let config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    let layer = Layer { blob, digest: None, size: None, diff_id: None, compression: None, name };
    Ok(Image {
        digest: None,
        manifest: None,
        config_bytes: Vec::new(),
        config,
        layers: vec![layer],
        names: Vec::new(),
        index: None,
        is_answer: false,
    })
}
