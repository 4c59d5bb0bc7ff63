//! `hamper image`: what the store has, and how it gets there and away.

use super::exit::ExitCode;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::error::{escape, told};
use super::image_du;
use super::image_history::{self, HistoryArgs};
use super::image_publish::{self, PublishArgs};
use super::image_push::{self, PushArgs};
use super::image_save::{self, SaveArgs};
use super::output::{say, say_json, talk};
use super::progress::Display;
use crate::host::{Directories, subordinate_ranges};
use crate::image::{self, ImageConfig, Reference};
use crate::profile::{self, ImageSource, Platform, Pull, Select};
use crate::rootfs::{self, Gone, ImageRecord, Ownership, Prepared, Progress, Prune, Removed, Request, SubRange};
use crate::store::Store;

/// Work with images
#[derive(Args, Debug)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
    /// Directory of the store [default: $XDG_DATA_HOME/hamper]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// How owners of the image stand in the store
    #[arg(long, global = true, value_enum, default_value_t = Map::Auto, value_name = "MAP")]
    map: Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Map {
    /// The range of ids where there is one
    Auto,
    /// Everything is yours
    Single,
    /// True owners, from your range in /etc/subuid
    Range,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Args, Debug)]
pub struct Form {
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

impl Form {
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Subcommand, Debug)]
enum ImageCommand {
    /// Fetch an image from its registry into the store
    Pull {
        reference: String,
        /// Platform to take where there are several
        #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
        platform: Option<String>,
        /// Keep the layers as they came, beside their files: to push or save the image without its registry
        #[arg(long)]
        keep_blobs: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Send an image to a registry, with the digests that it has
    Push(PushArgs),
    /// Write images into a directory from which others run them without a copy
    Publish(PublishArgs),
    /// Load an image into the store: oci:DIR, oci-archive:FILE, docker-archive:FILE or tar:FILE
    Load {
        source: String,
        /// Platform to take where there are several
        #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
        platform: Option<String>,
        /// Name of the image in the store, beside those that the source gives it
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        /// Keep the layers as they came, beside their files: to push or save the image without its source
        #[arg(long)]
        keep_blobs: bool,
        #[command(flatten)]
        form: Form,
    },
    /// List the images of the store
    Ls {
        #[command(flatten)]
        form: Form,
    },
    /// Show all that is known about an image, as JSON
    Inspect {
        image: String,
        /// It is JSON in any case
        #[arg(long)]
        json: bool,
    },
    /// Take names away; with the last name of an image, or its digest, the image and the layers that no other image has
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Give an image further names
    Tag {
        /// The image, by name or digest
        image: String,
        #[arg(required = true)]
        names: Vec<String>,
        /// Platform to take where a name stands for several images
        #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
        platform: Option<String>,
    },
    /// Show how an image was made
    History(HistoryArgs),
    /// Show what takes how much room
    Du {
        #[command(flatten)]
        form: Form,
    },
    /// Write an image into a file that other tools load: oci-archive:FILE or docker-archive:FILE
    Save(SaveArgs),
    /// Remove layers that no image has
    Prune {
        /// Remove every image that no sandbox uses
        #[arg(long)]
        all: bool,
        /// Remove every image that came into the store longer ago than this, such as 30d, and that no sandbox uses
        #[arg(long, value_name = "DURATION", conflicts_with = "all")]
        older_than: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Write an image's files into a new directory, as a sandbox would see them
    Unpack {
        source: String,
        directory: PathBuf,
        /// Platform to take where there are several
        #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
        platform: Option<String>,
        /// Ask no registry
        #[arg(long)]
        offline: bool,
    },
}

/// What ends a command, with its exit code.
pub enum Failure {
    Usage(String),
    Rootfs(rootfs::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(words) => f.write_str(words),
            Self::Rootfs(error) => f.write_str(&error.chain()),
        }
    }
}

impl From<rootfs::Error> for Failure {
    fn from(error: rootfs::Error) -> Self {
        Self::Rootfs(error)
    }
}

impl From<crate::store::Error> for Failure {
    fn from(error: crate::store::Error) -> Self {
        Self::Rootfs(error.into())
    }
}

pub fn run(args: &ImageArgs) -> ExitCode {
    match dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(words)) => {
            talk(&format!("hamper: {}", escape(&words)));
            ExitCode::from(2)
        }
        Err(Failure::Rootfs(error)) => {
            let hint = match &error {
                rootfs::Error::Image(image::Error::NoPlatform { .. }) => Some("name one of these: --platform OS/ARCH[/VARIANT]"),
                error => error.hint(),
            };
            talk(&told(&error.chain(), hint));
            ExitCode::from(1)
        }
    }
}

fn dispatch(args: &ImageArgs) -> Result<(), Failure> {
    let store = Store::open(&store_path(args)?)?;
    let ownership = ownership(args.map)?;
    match &args.command {
        ImageCommand::Pull { reference, platform, keep_blobs, form } => {
            let wanted = Wanted { platform: platform.as_deref(), keep_blobs: *keep_blobs, pull: Pull::Always, ..Wanted::default() };
            pull(&store, ownership, reference, wanted, form.format())
        }
        ImageCommand::Push(args) => image_push::push(&store, args),
        ImageCommand::Publish(args) => image_publish::publish(&store, args),
        ImageCommand::Load { source, platform, names, keep_blobs, form } => {
            let wanted = Wanted { platform: platform.as_deref(), keep_blobs: *keep_blobs, ..Wanted::default() };
            load(&store, ownership, source, wanted, names, form.format())
        }
        ImageCommand::Ls { form } => list(&store, form.format()),
        ImageCommand::Inspect { image, .. } => inspect(&store, image),
        ImageCommand::Rm { images } => images.iter().try_for_each(|image| {
            tell_of_a_wait(&store);
            match rootfs::remove_image(&store, image, all_ids()?)? {
                Gone::Name(name) => say(&format!("untagged: {name}")),
                Gone::Image(digest) => say(&digest.to_string()),
            }
            Ok(())
        }),
        ImageCommand::Tag { image, names, platform } => tag(&store, image, names, platform.as_deref()),
        ImageCommand::History(args) => image_history::history(&store, args),
        ImageCommand::Du { form } => image_du::du(&store, form.format()),
        ImageCommand::Save(args) => image_save::save(&store, args),
        ImageCommand::Prune { all, older_than, form } => {
            let which = match older_than {
                Some(text) => Prune::Before(before(text)?),
                None if *all => Prune::All,
                None => Prune::Unreferenced,
            };
            tell_of_a_wait(&store);
            say_removed(&rootfs::prune(&store, which, all_ids()?)?, form.format());
            discard_scratch(&store)
        }
        ImageCommand::Unpack { source, directory, platform, offline } => unpack(
            &store,
            source,
            Wanted { platform: platform.as_deref(), offline: *offline, stores: true, ..Wanted::default() },
            directory,
        ),
    }
}

fn store_path(args: &ImageArgs) -> Result<PathBuf, Failure> {
    if let Some(path) = &args.store {
        return Ok(path.clone());
    }
    let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from));
    directories.map(|directories| directories.data).map_err(|error| Failure::Usage(error.to_string()))
}

fn ownership(map: Map) -> Result<Ownership, Failure> {
    let ranges = match map {
        Map::Single => None,
        Map::Auto | Map::Range => subordinate_ranges(rustix::process::geteuid().as_raw()),
    };
    match ranges {
        Some((uids, gids)) => Ok(Ownership::Range {
            uids: SubRange { start: uids.start, count: uids.count },
            gids: SubRange { start: gids.start, count: gids.count },
        }),
        None if map == Map::Range => {
            Err(Failure::Usage("you have no range in /etc/subuid and /etc/subgid, or newuidmap is missing".into()))
        }
        None => Ok(Ownership::Single),
    }
}

/// What runs have left, and the directories that the next ones would use again.
fn discard_scratch(store: &Store) -> Result<(), Failure> {
    for name in ["scratch", "scratch-range"] {
        let path = store.path().join(name);
        crate::launch::discard_free(&path)
            .map_err(|errno| rootfs::Error::Open { path: path.display().to_string(), source: errno.into() })?;
    }
    Ok(rootfs::sweep(&store.path().join("trash"), all_ids()?)?)
}

/// Trees of both kinds can stand in one store; who has a range can remove both.
fn all_ids() -> Result<Ownership, Failure> {
    ownership(Map::Auto)
}

/// `oci:DIR[:TAG|@DIGEST]` and its like; a registry's reference where there is no such word before it.
pub fn parse_source(text: &str) -> Result<ImageSource, Failure> {
    let path = |rest: &str| match rest.is_empty() {
        true => Err(Failure::Usage(format!("{text}: the path is missing"))),
        false => std::path::absolute(rest).map_err(|error| Failure::Usage(format!("{rest}: {error}"))),
    };
    if let Some(rest) = text.strip_prefix("oci:") {
        let (at, select) = split_select(rest);
        return Ok(ImageSource::OciDir { path: path(at)?, select });
    }
    if let Some(rest) = text.strip_prefix("oci-archive:") {
        let (at, select) = split_select(rest);
        return Ok(ImageSource::OciArchive { path: path(at)?, select });
    }
    if let Some(rest) = text.strip_prefix("docker-archive:") {
        let (at, select) = split_select(rest);
        return Ok(ImageSource::DockerArchive { path: path(at)?, select });
    }
    if let Some(rest) = text.strip_prefix("tar:") {
        return Ok(ImageSource::Tar { path: path(rest)? });
    }
    if let Some(rest) = text.strip_prefix("rootfs:") {
        return Ok(ImageSource::Rootfs { path: path(rest)? });
    }
    Ok(ImageSource::Registry(text.to_owned()))
}

/// A colon behind the path of a file or a directory begins a tag, which may be a whole reference; where there is neither, the first does.
fn split_select(rest: &str) -> (&str, Select) {
    if Path::new(rest).exists() {
        return (rest, Select::Only);
    }
    if let Some((path, digest)) = rest.split_once('@') {
        return (path, Select::Digest(digest.to_owned()));
    }
    let split = |at: usize| (&rest[..at], Select::Tag(rest[at + 1..].to_owned()));
    let mut colons = rest.match_indices(':').map(|(at, _)| at);
    let first = colons.clone().next();
    let fits = colons.find(|at| Path::new(&rest[..*at]).exists());
    fits.or(first).map_or((rest, Select::Only), split)
}

pub fn parse_platform(text: Option<&str>) -> Result<Platform, Failure> {
    let Some(text) = text else { return Ok(Platform::native()) };
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [os, architecture, rest @ ..] if rest.len() <= 1 && parts.iter().all(|part| !part.is_empty()) => Ok(Platform {
            os: (*os).to_owned(),
            architecture: (*architecture).to_owned(),
            variant: rest.first().map(|variant| (*variant).to_owned()),
        }),
        _ => Err(Failure::Usage(format!("{text}: a platform is OS/ARCHITECTURE, such as linux/amd64"))),
    }
}

/// Where the layers of an image may come from, and what it is called.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub platform: Option<&'a str>,
    pub pull: Pull,
    pub offline: bool,
    pub names: Option<&'a [Reference]>,
    pub keep_blobs: bool,
    /// Nothing is told of it: it is only looked whether it can be done.
    pub quiet: bool,
    /// Whether published stores count too.
    pub stores: bool,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { platform: None, pull: Pull::Missing, offline: false, names: None, keep_blobs: false, stores: false, quiet: false }
    }
}

pub fn prepare(store: &Store, ownership: Ownership, source: &ImageSource, wanted: Wanted<'_>) -> Result<Prepared, Failure> {
    let platform = parse_platform(wanted.platform)?;
    let display = Display::new(true);
    let reach = super::registries::reach(&display);
    let origin = image_push::again(&display, wanted.offline);
    let stores = || {
        let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from));
        directories.map_or_else(|_| Ok(Vec::new()), |directories| super::settings::stores(&directories.config))
    };
    let progress = |progress: Progress<'_>| display.load(&progress);
    let request = Request {
        source,
        platform: &platform,
        pull: wanted.pull,
        load: true,
        ownership,
        user: None,
        names: wanted.names,
        locked: None,
        keep_blobs: wanted.keep_blobs,
        stores: if wanted.stores { Some(&stores) } else { None },
        registry: (!wanted.offline).then_some(&reach),
        origin: Some(&origin),
        progress: if wanted.quiet { None } else { Some(&progress) },
    };
    let mut prepared = rootfs::prepare(store, &request)?;
    if rootfs::forget_torn(store, &request, &prepared)? {
        prepared = rootfs::prepare(store, &request)?;
    }
    for note in &prepared.notes {
        talk(&format!("note: {}", escape(note)));
    }
    Ok(prepared)
}

fn load(store: &Store, ownership: Ownership, text: &str, wanted: Wanted<'_>, names: &[String], format: Format) -> Result<(), Failure> {
    let source = parse_source(text)?;
    refuse_unloadable(&source, text)?;
    let names = names.iter().map(|name| one_name("--name", name)).collect::<Result<Vec<_>, _>>()?;
    let prepared = prepare(store, ownership, &source, Wanted { names: Some(&names), ..wanted })?;
    say_prepared(&prepared, format);
    if matches!(source, ImageSource::DockerArchive { .. }) && rootfs::find_image(store, &prepared.digest.to_string())?.names.is_empty() {
        talk("note: the archive gives the image no name; to give it one: hamper image load --name NAME:TAG SOURCE");
    }
    Ok(())
}

fn pull(store: &Store, ownership: Ownership, reference: &str, wanted: Wanted<'_>, format: Format) -> Result<(), Failure> {
    let source = parse_source(reference)?;
    if !matches!(source, ImageSource::Registry(_)) {
        return Err(Failure::Usage(format!("{reference} is in no registry: hamper image load {reference}")));
    }
    let prepared = prepare(store, ownership, &source, wanted)?;
    say_prepared(&prepared, format);
    Ok(())
}

fn say_prepared(prepared: &Prepared, format: Format) {
    match format {
        Format::Table => say(&prepared.digest.to_string()),
        Format::Json => {
            let value = json!({ "digest": prepared.digest, "tree": prepared.tree, "user": prepared.user, "notes": prepared.notes });
            say(&super::output::json(&value.to_string()));
        }
    }
}

fn tag(store: &Store, wanted: &str, names: &[String], platform: Option<&str>) -> Result<(), Failure> {
    let names = names.iter().map(|name| one_name("tag", name)).collect::<Result<Vec<_>, _>>()?;
    let image = rootfs::find_image_for(store, wanted, &parse_platform(platform)?)?;
    Ok(rootfs::tag(store, wanted, &image, &parse_platform(Some(&image.platform))?, &names)?)
}

/// So long ago, in seconds since 1970.
fn before(text: &str) -> Result<u64, Failure> {
    let age = profile::duration(text).map_err(|wrong| Failure::Usage(format!("--older-than {text}: {}", wrong.message)))?;
    Ok(super::time::now().saturating_sub(age.as_secs()))
}

fn one_name(what: &str, text: &str) -> Result<Reference, Failure> {
    let reference: Reference = text.parse().map_err(|error| Failure::Usage(format!("{what}: {error}")))?;
    if rootfs::is_digest(text) {
        return Err(Failure::Usage(format!("{what} {text}: that would be taken for a digest")));
    }
    match &reference.digest {
        Some(_) => Err(Failure::Usage(format!("{what} {text}: a name has no digest"))),
        None => Ok(reference),
    }
}

/// What is no file or layout has nothing to load.
fn refuse_unloadable(source: &ImageSource, text: &str) -> Result<(), Failure> {
    let (words, hint) = match source {
        ImageSource::Registry(name) => (
            format!("`{name}` is a name: an image is loaded from a file or a directory, and pulled by its name"),
            format!("hamper image pull '{name}'"),
        ),
        ImageSource::Rootfs { .. } => {
            (format!("`{text}` is a directory that is used where it lies: there is nothing to load"), format!("hamper run --image {text}"))
        }
        _ => return Ok(()),
    };
    Err(rootfs::Error::Told { words, hint: Some(hint) }.into())
}

fn unpack(store: &Store, source: &str, wanted: Wanted<'_>, directory: &Path) -> Result<(), Failure> {
    let source = parse_source(source)?;
    // A copy that is the caller's own is made of trees that are; an image that is known by name may have others alone.
    let mut found = None;
    if matches!(source, ImageSource::Registry(_)) {
        for ownership in [Ownership::Single, all_ids()?] {
            let here = prepare(store, ownership, &source, Wanted { pull: Pull::Never, offline: true, quiet: true, ..wanted });
            found = here.ok().map(|prepared| (prepared, ownership));
            if found.is_some() {
                break;
            }
        }
    }
    let (prepared, ownership) = match found {
        Some(found) => found,
        None => (prepare(store, Ownership::Single, &source, wanted)?, Ownership::Single),
    };
    let entries = rootfs::export(store, &prepared, directory, ownership)?;
    talk(&format!("{entries} entries"));
    Ok(())
}

fn list(store: &Store, format: Format) -> Result<(), Failure> {
    let images = rootfs::images(store)?;
    if format == Format::Json {
        say_json(&images);
        return Ok(());
    }
    let mut rows = vec![["NAME", "DIGEST", "PLATFORM", "SIZE", "SOURCE"].map(str::to_owned)];
    rows.extend(images.iter().flat_map(rows_of));
    table(&rows);
    Ok(())
}

/// Columns as wide as they must be; the last one ends where its text does.
pub fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// One for each name.
fn rows_of(image: &ImageRecord) -> Vec<[String; 5]> {
    let digest = format!("{}:{}", image.digest.algorithm().name(), &image.digest.hex()[..12]);
    let row = |name: &str| [escape(name), digest.clone(), escape(&image.platform), size(image.size), escape(&image.source)];
    match image.names.as_slice() {
        [] => vec![row("-")],
        names => names.iter().map(|name| row(name)).collect(),
    }
}

fn inspect(store: &Store, wanted: &str) -> Result<(), Failure> {
    let image = rootfs::find_image(store, wanted)?;
    let config = match &image.config_digest {
        Some(digest) => store.blob(digest)?.map(|bytes| ImageConfig::parse(&bytes, &format!("config {digest}"))),
        None => None,
    };
    let config = config.transpose().map_err(rootfs::Error::from)?;
    let manifest = store.blob(&image.digest)?.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    say_json(&json!({ "image": image, "config": config, "manifest": manifest }));
    Ok(())
}

fn tell_of_a_wait(store: &Store) {
    if store.is_loading() {
        talk("waiting for those who load images now");
    }
}

fn say_removed(removed: &Removed, format: Format) {
    match format {
        Format::Json => say(&json!(removed).to_string()),
        Format::Table => {
            say(&format!("removed {} images and {} layers, {}", removed.images, removed.layers, size(removed.bytes)));
            if removed.in_use > 0 {
                talk(&format!("{} images are in use and were kept", removed.in_use));
            }
        }
    }
}

pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
