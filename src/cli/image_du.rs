//! `hamper image du`: what takes how much room.

use super::error::escape;
use super::image::{Failure, Format, size, table};
use super::output::{say, say_json};
use super::time::rfc3339;
use crate::rootfs;
use crate::store::Store;

pub fn du(store: &Store, format: Format) -> Result<(), Failure> {
    let mut usage = rootfs::usage(store)?;
    usage.images.sort_by_key(|image| std::cmp::Reverse(image.unique));
    if format == Format::Json {
        say_json(&usage);
        return Ok(());
    }
    let mut rows = vec![["NAME", "DIGEST", "SIZE", "UNIQUE", "KEPT BLOBS", "LOADED"].map(str::to_owned)];
    rows.extend(usage.images.iter().map(|image| {
        let name = image.names.first().map_or("-".to_owned(), |name| escape(name));
        let digest = format!("{}:{}", image.digest.algorithm().name(), &image.digest.hex()[..12]);
        [name, digest, size(image.size), size(image.unique), size(image.blobs), rfc3339(image.loaded)]
    }));
    table(&rows);
    say(&format!("layers {}, blobs {}; of no image {}", size(usage.layers), size(usage.blobs), size(usage.unreferenced)));
    Ok(())
}
