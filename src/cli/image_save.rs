//! `hamper image save`: an image as one file that other tools load.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::image::{Failure, parse_platform, size};
use super::image_push::content;
use super::output::talk;
use super::progress::Display;
use crate::image::{self, ImageConfig, PlainLayer, Reference, Remote};
use crate::rootfs::{self, ImageRecord};
use crate::store::Store;

#[derive(Args, Debug)]
pub struct SaveArgs {
    /// The image, by name or digest
    image: String,
    /// oci-archive:FILE or docker-archive:FILE; `-` is the standard output
    target: String,
    /// Platform to take where a name stands for several images
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all_platforms")]
    platform: Option<String>,
    /// Save the index that the name stands for, with the images of all its platforms; into an oci-archive alone
    #[arg(long)]
    all_platforms: bool,
    /// Ask no registry for layers that are not kept as they came
    #[arg(long)]
    offline: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Layout,
    Docker,
}

pub fn save(store: &Store, args: &SaveArgs) -> Result<(), Failure> {
    let (kind, path) = target(&args.target)?;
    let image = rootfs::find_image_for(store, &args.image, &parse_platform(args.platform.as_deref())?)?;
    let index = if args.all_platforms { rootfs::index_of(store, &args.image, &image)? } else { None };
    if args.all_platforms && (index.is_none() || kind == Kind::Docker) {
        let words = format!("--all-platforms: {} is no index, or the archive is Docker's, which has one image for each name", args.image);
        return Err(Failure::Usage(words));
    }
    let display = Display::new(true);
    let content = content(store, &image, &display, args.offline)?;
    let names = names(&args.image, &image);
    let written = write(path, |out| match kind {
        Kind::Layout => {
            let whole = image::collect(&*content, index.as_ref().unwrap_or(&image.digest))?;
            Ok(image::save_layout(&*content, &whole, &names, out)?)
        }
        Kind::Docker => docker(store, &image, &*content, &names, out),
    });
    display.end();
    let bytes = written?;
    talk(&format!("{}: {}", args.target, size(bytes)));
    Ok(())
}

fn target(text: &str) -> Result<(Kind, &Path), Failure> {
    let kinds = [("oci-archive:", Kind::Layout), ("docker-archive:", Kind::Docker)];
    let found = kinds.iter().find_map(|(prefix, kind)| Some((*kind, Path::new(text.strip_prefix(prefix)?))));
    found
        .filter(|(_, path)| !path.as_os_str().is_empty())
        .ok_or_else(|| Failure::Usage(format!("{text}: the target is oci-archive:FILE or docker-archive:FILE")))
}

/// The name that was asked for, else all that the image has; a name with a digest is none for an archive.
fn names(wanted: &str, image: &ImageRecord) -> Vec<String> {
    let asked = wanted.parse::<Reference>().ok().map(|reference| reference.to_string()).filter(|name| image.names.contains(name));
    let names = asked.map_or_else(|| image.names.clone(), |name| vec![name]);
    names.into_iter().filter(|name| !name.contains('@')).collect()
}

fn docker(store: &Store, image: &ImageRecord, content: &dyn Remote, names: &[String], out: &mut dyn Write) -> Result<(), rootfs::Error> {
    let whole = image::collect(content, &image.digest)?;
    let Some((_, manifest)) = whole.documents.last() else { return Ok(()) };
    let mut pieces = image::blobs_of(manifest).into_iter();
    let Some(config) = pieces.next() else { return Ok(()) };
    let bytes = content.document(&config.digest, config.size)?;
    let what = format!("config {}", config.digest);
    let diff_ids = ImageConfig::parse(&bytes, &what)?.diff_ids;
    let trees = store.trees()?;
    let layers = pieces.zip(diff_ids).map(|(blob, diff_id)| {
        let known = trees.iter().find(|(_, facts)| facts.diff_id == diff_id.to_string());
        let (_, facts) = known.ok_or_else(|| rootfs::Error::NoSuchImage { wanted: diff_id.to_string() })?;
        Ok(PlainLayer { blob, diff_id, size: facts.tar_bytes })
    });
    let layers: Vec<PlainLayer> = layers.collect::<Result<_, rootfs::Error>>()?;
    Ok(image::save_docker(content, (&config.digest, &bytes), &layers, names, out)?)
}

/// Writes beside the file and renames, so that an archive is there whole or not at all; how many bytes it has.
fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), rootfs::Error>) -> Result<u64, Failure> {
    if path == Path::new("-") {
        let out = io::stdout();
        if out.is_terminal() {
            return Err(Failure::Usage("an archive is not for a terminal: add `> FILE`".into()));
        }
        let mut out = Counted { out: BufWriter::with_capacity(256 << 10, out), count: 0 };
        fill(&mut out)?;
        return Ok(out.count);
    }
    let beside = Beside::new(path)?;
    let mut out = Counted { out: BufWriter::with_capacity(256 << 10, &beside.file), count: 0 };
    fill(&mut out)?;
    let count = out.count;
    drop(out);
    beside.publish(path)?;
    Ok(count)
}

struct Counted<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that is gone again unless it is published, however this process ends: until then it has no name where the file system can do that.
struct Beside {
    path: PathBuf,
    file: File,
    has_name: bool,
}

impl Beside {
    fn new(path: &Path) -> Result<Self, Failure> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().ok_or_else(|| Failure::Usage(format!("{} is no file", path.display())))?);
        name.push(format!(".{}", std::process::id()));
        let beside = path.with_file_name(name);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // What is saved is the caller's: the mask says who else may read it.
        let mode = Mode::from_raw_mode(0o666);
        match rustix::fs::open(directory, OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
            Ok(fd) => Ok(Self { file: fd.into(), path: beside, has_name: false }),
            // open(2): a file system that cannot says one of these.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o666).open(&beside);
                Ok(Self { file: file.map_err(open(path))?, path: beside, has_name: true })
            }
            Err(errno) => Err(open(path)(errno.into()).into()),
        }
    }

    fn publish(mut self, path: &Path) -> Result<(), Failure> {
        if !self.has_name {
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, unnamed, CWD, &self.path, AtFlags::SYMLINK_FOLLOW).map_err(|errno| open(path)(errno.into()))?;
            self.has_name = true;
        }
        Ok(std::fs::rename(&self.path, path).map_err(open(path))?)
    }
}

fn open(path: &Path) -> impl FnOnce(io::Error) -> rootfs::Error {
    let path = path.display().to_string();
    move |source| rootfs::Error::Open { path, source }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.has_name {
            // Ignoring: published, it has another name; of a failure that one is told.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
