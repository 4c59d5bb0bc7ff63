//! `hamper image publish`: images in a directory from which others run them without a copy.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::image::{Failure, Form, Format, Wanted, parse_platform, prepare};
use super::image_push::sources;
use super::output::{say, talk};
use crate::image::Reference;
use crate::rootfs::{self, ImageRecord, Ownership};
use crate::store::Store;

#[derive(Args, Debug)]
pub struct PublishArgs {
    /// The directory; made where it is missing. Others name it in HAMPER_STORES, or as `stores` in settings.toml
    directory: PathBuf,
    /// Images, by name; a digest publishes an image with all of its names
    #[arg(required = true)]
    images: Vec<String>,
    /// Platform to take where a name stands for several images
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    #[command(flatten)]
    form: Form,
}

pub fn publish(store: &Store, args: &PublishArgs) -> Result<(), Failure> {
    let directory = std::path::absolute(&args.directory).map_err(|error| Failure::Usage(error.to_string()))?;
    for wanted in &args.images {
        let image = rootfs::find_image_for(store, wanted, &parse_platform(args.platform.as_deref())?)?;
        let names = names(wanted, &image)?;
        ready(store, &image)?;
        let layers = rootfs::publish(store, &image, &parse_platform(Some(&image.platform))?, &names, &directory)?;
        let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
        match args.form.format() {
            Format::Table => say(&format!("{}: {}, {layers} new layers", shown.join(", "), image.digest)),
            Format::Json => say(&json!({ "names": shown, "digest": image.digest, "new_layers": layers }).to_string()),
        }
    }
    talk(&format!("to use it: export HAMPER_STORES='{}'", directory.display()));
    Ok(())
}

fn names(wanted: &str, image: &ImageRecord) -> Result<Vec<Reference>, Failure> {
    let asked = wanted.parse::<Reference>().ok().filter(|name| image.names.contains(&name.to_string()));
    let all = || image.names.iter().filter_map(|name| name.parse().ok()).collect();
    let names: Vec<Reference> = asked.map_or_else(all, |name| vec![name]);
    match names.is_empty() {
        true => Err(Failure::Usage(format!("{wanted} has no name by which others could ask for it: hamper image tag {wanted} NAME:TAG"))),
        false => Ok(names),
    }
}

/// Makes the trees of the single map: of a range, they have owners that nobody else has.
fn ready(store: &Store, image: &ImageRecord) -> Result<(), Failure> {
    let mut first = None;
    for source in sources(store, image)? {
        match prepare(store, Ownership::Single, &source, Wanted { platform: Some(&image.platform), ..Wanted::default() }) {
            Ok(prepared) if prepared.digest == image.digest => return Ok(()),
            // Files that are other ones now.
            Ok(_) => {}
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    Err(first.unwrap_or_else(|| rootfs::Error::NoSuchImage { wanted: image.digest.to_string() }.into()))
}
