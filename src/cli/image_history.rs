//! `hamper image history`: how an image was made, the newest step first.

use clap::Args;
use serde_json::json;

use super::error::escape;
use super::image::{Failure, Form, Format, size, table};
use super::output::say_json;
use crate::image::ImageConfig;
use crate::rootfs;
use crate::store::Store;

/// Longest line of a command in the table; `--no-trunc` and JSON have all of it.
const SHORT: usize = 60;

#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// The image, by name or digest
    image: String,
    /// Commands in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    form: Form,
}

/// One step; one that made no layer has no diff ID.
struct Step {
    created: String,
    by: String,
    comment: String,
    diff_id: Option<String>,
    bytes: u64,
}

pub fn history(store: &Store, args: &HistoryArgs) -> Result<(), Failure> {
    let image = rootfs::find_image(store, &args.image)?;
    let bytes = image.config_digest.as_ref().map(|digest| store.blob(digest)).transpose()?.flatten();
    let config = bytes.map(|bytes| ImageConfig::parse(&bytes, &format!("config of {}", image.digest))).transpose();
    let steps = steps(store, &config.map_err(rootfs::Error::from)?.unwrap_or_default())?;
    if args.form.format() == Format::Json {
        let list: Vec<_> = steps
            .iter()
            .map(|step| {
                let Step { created, by, comment, diff_id, bytes } = step;
                json!({ "created": created, "created_by": by, "comment": comment, "diff_id": diff_id, "size": bytes })
            })
            .collect();
        say_json(&list);
        return Ok(());
    }
    let mut rows = vec![["CREATED", "SIZE", "LAYER", "CREATED BY"].map(str::to_owned)];
    rows.extend(steps.iter().map(|step| {
        let layer = step.diff_id.as_deref().and_then(|digest| digest.get(..19)).unwrap_or("-").to_owned();
        let by: String = step.by.chars().take(if args.no_trunc { usize::MAX } else { SHORT }).collect();
        [escape(&step.created), size(step.bytes), layer, escape(&by)]
    }));
    table(&rows);
    Ok(())
}

/// Steps and layers, paired: a step that is not empty made the next layer. Layers without a step come last, that is, lowest.
fn steps(store: &Store, config: &ImageConfig) -> Result<Vec<Step>, Failure> {
    let trees = store.trees()?;
    let mut layers = config.diff_ids.iter();
    let mut take = |is_empty: bool| {
        let diff_id = if is_empty { None } else { layers.next() }.map(ToString::to_string);
        let bytes = trees.iter().find(|(_, facts)| Some(&facts.diff_id) == diff_id.as_ref()).map_or(0, |(_, facts)| facts.bytes);
        (diff_id, bytes)
    };
    let mut steps = Vec::new();
    for one in &config.history {
        let (diff_id, bytes) = take(one.empty_layer);
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        steps.push(Step { created: text(&one.created), by: text(&one.created_by), comment: text(&one.comment), diff_id, bytes });
    }
    while let (Some(diff_id), bytes) = take(false) {
        steps.push(Step { created: String::new(), by: String::new(), comment: String::new(), diff_id: Some(diff_id), bytes });
    }
    steps.reverse();
    Ok(steps)
}
