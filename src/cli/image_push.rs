//! `hamper image push`: an image of the store to a registry, every digest as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::image::{Failure, Form, Format, parse_platform, parse_source};
use super::origin::Origin;
use super::output::say;
use super::progress::Display;
use super::registries;
use crate::image::{self, Digest, Reference};
use crate::profile::{ImageSource, Platform};
use crate::registry::Push;
use crate::rootfs::{self, ImageRecord};
use crate::store::Store;

/// Repositories of one registry that are asked for one blob.
const MAX_MOUNTS: usize = 3;

#[derive(Args, Debug)]
pub struct PushArgs {
    /// The image, by name or digest
    image: String,
    /// Where it goes, as a name with its registry [default: the image's name]
    target: Option<String>,
    /// Platform to take where a name stands for several images
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all_platforms")]
    platform: Option<String>,
    /// Push the index that the name stands for, with the images of all its platforms
    #[arg(long)]
    all_platforms: bool,
    #[command(flatten)]
    form: Form,
}

pub fn push(store: &Store, args: &PushArgs) -> Result<(), Failure> {
    let target = target(args)?;
    let image = rootfs::find_image_for(store, &args.image, &parse_platform(args.platform.as_deref())?)?;
    let top = top(store, args, &image)?;
    if let Some(wanted) = target.digest.as_ref().filter(|wanted| **wanted != top) {
        return Err(Failure::Usage(format!("{} is {top}, and the target names {wanted}", args.image)));
    }
    let display = Display::new(true);
    let content = content(store, &image, &display, false)?;
    let whole = image::collect(&*content, &top).map_err(rootfs::Error::from)?;
    let places = places(store, &target.registry)?;
    let client = registries::client(&display).map_err(|error| rootfs::Error::Image(error.into()))?;
    let push = Push {
        content: &*content,
        whole: &whole,
        tag: target.tag.as_deref(),
        elsewhere: &|digest| places.get(digest).cloned().unwrap_or_default(),
    };
    let pushed = client.repository(&target).push(&push);
    display.end();
    pushed.map_err(rootfs::Error::from)?;
    match args.form.format() {
        Format::Table => say(&top.to_string()),
        Format::Json => say(&json!({ "reference": target.to_string(), "digest": top }).to_string()),
    }
    Ok(())
}

fn target(args: &PushArgs) -> Result<Reference, Failure> {
    let text = args.target.as_ref().unwrap_or(&args.image);
    let is_digest = args.target.is_none() && text.starts_with("sha256:");
    text.parse::<Reference>()
        .ok()
        .filter(|_| !is_digest)
        .ok_or_else(|| Failure::Usage(format!("{text} is no name with a registry: hamper image push {} REGISTRY/NAME:TAG", args.image)))
}

/// What is pushed: the image's manifest, or the index.
fn top(store: &Store, args: &PushArgs, image: &ImageRecord) -> Result<Digest, Failure> {
    if !args.all_platforms {
        return Ok(image.digest.clone());
    }
    rootfs::index_of(store, &args.image, image)?
        .ok_or_else(|| Failure::Usage(format!("{} stands for one image and for no index: leave --all-platforms out", args.image)))
}

/// The places from which an image came, for a load that must read its layers again.
pub fn again(
    display: &Arc<Display>,
    offline: bool,
) -> impl Fn(&Store, &ImageRecord) -> Result<Arc<dyn image::Remote>, image::Error> + use<> {
    let display = Arc::clone(display);
    move |store, image| {
        let told = |words: String| image::Error::Remote { words, hint: None, source: None };
        let platform = parse_platform(Some(&image.platform)).map_err(|failure| told(failure.to_string()))?;
        let sources = sources(store, image).map_err(|failure| told(failure.to_string()))?;
        Ok(Arc::new(Origin::new(&image.source, sources, platform, &display, offline)))
    }
}

/// Documents and blobs of an image: what the store keeps, and the rest from where the image came from.
pub fn content(store: &Store, image: &ImageRecord, display: &Arc<Display>, offline: bool) -> Result<Arc<dyn image::Remote>, Failure> {
    let platform: Platform = parse_platform(Some(&image.platform))?;
    let origin = Origin::new(&image.source, sources(store, image)?, platform, display, offline);
    Ok(rootfs::contents(store, &image.digest.to_string(), Some(Arc::new(origin)))?)
}

/// Where an image can be had again: where it came from last, then the repositories that gave it before.
///
/// # Errors
/// [`Failure::Usage`] for a record that names no source.
pub fn sources(store: &Store, image: &ImageRecord) -> Result<Vec<ImageSource>, Failure> {
    let by_digest =
        |name: Reference| ImageSource::Registry(Reference { tag: None, digest: Some(image.digest.clone()), ..name }.to_string());
    let mut sources = match parse_source(&image.source)? {
        // Of a published store there is a name, and its place.
        ImageSource::Registry(text) => text.split(' ').next().and_then(|name| name.parse().ok()).map(by_digest).into_iter().collect(),
        other => vec![other],
    };
    for source in rootfs::fetched_names(store, &image.digest)?.into_iter().map(by_digest) {
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// Which repositories of a registry have a blob, as far as the store knows.
fn places(store: &Store, registry: &str) -> Result<BTreeMap<Digest, Vec<String>>, Failure> {
    let mut places: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for image in rootfs::images(store)? {
        let references = image.names.iter().chain([&image.source]).filter_map(|name| name.parse::<Reference>().ok());
        let repositories: Vec<String> =
            references.filter(|reference| reference.registry == registry).map(|reference| reference.repository).collect();
        if repositories.is_empty() {
            continue;
        }
        for blob in image::blobs_of(&store.blob(&image.digest)?.unwrap_or_default()) {
            let known = places.entry(blob.digest).or_default();
            for repository in &repositories {
                if known.len() < MAX_MOUNTS && !known.contains(repository) {
                    known.push(repository.clone());
                }
            }
        }
    }
    Ok(places)
}
