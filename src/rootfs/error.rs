//! Why an image cannot be made into a root file system.

use std::io;

use crate::image::tar::TarError;
use crate::image::{self, Digest};
use crate::store;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot read {layer}")]
    Read { layer: String, source: io::Error },
    #[error("{layer} cannot be decompressed as {compression}")]
    Decompress { layer: String, compression: &'static str, source: io::Error },
    #[error("{layer} is compressed as {found}, its media type says {stated}")]
    Compression { layer: String, stated: &'static str, found: &'static str },
    #[error("{layer} has digest {found}")]
    BlobDigest { layer: String, found: Digest },
    #[error("{layer} unpacks to diff ID {found}, the config says {expected}")]
    DiffId { layer: String, expected: Digest, found: Digest },
    #[error("{layer} is malformed at byte {offset} of its tar, after entry `{after}`")]
    Tar { layer: String, offset: u64, after: String, source: TarError },
    #[error("{layer}: entry `{entry}` is refused: {reason}")]
    Entry { layer: String, entry: String, reason: &'static str },
    #[error("{layer}: cannot {act} entry `{entry}`")]
    Unpack { layer: String, entry: String, act: &'static str, source: io::Error },
    #[error("{layer} is beyond bounds: {reason}")]
    Bounds { layer: String, reason: String },
    #[error("`{path}` of the image {reason}")]
    Lookup { path: String, reason: &'static str },
    #[error("cannot look `{path}` up in the image")]
    LookupIo { path: String, source: io::Error },
    #[error("user `{text}` is not valid: {reason}")]
    BadUser { text: String, reason: &'static str },
    #[error("the image has no user `{0}`")]
    NoUser(String),
    #[error("the image has no group `{0}`")]
    NoGroup(String),
    #[error("cannot open `{path}`")]
    Open { path: String, source: io::Error },
    /// Looked for without leave to load; the command would load it.
    #[error("{image} is not loaded yet, and nothing is made or changed here")]
    NotLoaded { image: String, command: String },
    /// A registry's image, and the registry may not be asked.
    #[error("image `{image}` is not in the store, and no registry may be asked for it here")]
    NotPulled { image: String, command: String },
    /// A tag stands for something else than it did when it was locked.
    #[error("{image} is locked to {locked}, and is {found} now")]
    Moved { image: String, locked: String, found: Digest },
    /// A store in which a tag stands for something else than what it is locked to, and nobody may be asked.
    #[error("{image} is locked to {locked}, and the store has {found}")]
    Behind { image: String, locked: String, found: Digest },
    #[error("a thread that unpacked {0} ended unexpectedly")]
    Thread(String),
    #[error("the image has no layers")]
    NoLayers,
    /// Nobody has the image, and a published store that may have it could not be looked through.
    #[error("not looked for in a published store ({stores})")]
    NotShared { stores: String, source: Box<Error> },
    #[error("the store `{path}` {reason}")]
    Published { path: String, reason: &'static str },
    #[error("cannot publish at `{path}`")]
    Publish { path: String, source: io::Error },
    /// A published tree that is not what was published.
    #[error("layer {diff_id} in the store `{path}` has digest {found}, and was published with {expected}")]
    PublishedTree { path: String, diff_id: Digest, expected: String, found: String },
    #[error("cannot {act} a process in a user namespace for the range of ids")]
    Namespace { act: &'static str, source: io::Error },
    #[error("cannot map the range of ids")]
    Maps(#[from] crate::sys::IdMapError),
    /// What a process in a user namespace told; it could not hand over the error itself.
    #[error("{words}")]
    Told { words: String, hint: Option<String> },
    #[error("image {0} is in use: a sandbox runs from it, or it is being loaded")]
    InUse(Digest),
    #[error("there is no image `{wanted}` in the store")]
    NoSuchImage { wanted: String },
    #[error("`{wanted}` stands for several images: {}", .found.join(", "))]
    Ambiguous { wanted: String, found: Vec<String> },
}

/// What helps wherever the kernel answers so.
pub fn hint_of_errno(errno: rustix::io::Errno) -> Option<&'static str> {
    match errno {
        rustix::io::Errno::MFILE => Some("more open files are needed than this shell allows: ulimit -n 1024"),
        rustix::io::Errno::NFILE => Some("this machine has no more open files to give: sysctl fs.file-max"),
        _ => None,
    }
}

impl Error {
    /// The error and everything that caused it, on one line.
    pub fn chain(&self) -> String {
        image::chain(self)
    }

    /// What the caller can do about it, for the end of the message.
    pub fn hint(&self) -> Option<&str> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let errno = error.downcast_ref::<io::Error>().and_then(rustix::io::Errno::from_io_error);
            if let Some(hint) = errno.and_then(hint_of_errno) {
                return Some(hint);
            }
            cause = error.source();
        }
        match self {
            Self::Store(store::Error::Io { act: "make", source, .. })
                if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                Some("export XDG_DATA_HOME=DIR XDG_STATE_HOME=DIR, with directories that you can write")
            }
            Self::Store(store::Error::Io { act: "link", source, .. }) if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Some("trees are here already: hamper image prune --all, without the link `trees`; then link it again")
            }
            Self::Unpack { act: "make opaque", source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                Some("the file system of the store has no user extended attributes; hamper doctor says how to keep trees elsewhere")
            }
            // NFS has no RENAME_NOREPLACE, and knows no user namespaces.
            Self::Store(store::Error::Io { act: "rename", source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                Some("the file system of the store cannot hold trees, as NFS cannot; hamper doctor says how to keep them elsewhere")
            }
            Self::Unpack { act: "set the owner of", source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "the file system of the store takes no owner of the range, as NFS does not; hamper doctor says how to keep trees elsewhere",
            ),
            Self::Told { hint, .. } => hint.as_deref(),
            Self::Maps(_) | Self::Namespace { .. } => {
                Some("hamper doctor says what is missing; `identity.map = \"single\"` needs no range")
            }
            Self::InUse(_) => Some("end the runs of it first: pgrep -a hamper"),
            Self::Moved { .. } => Some("to take the new one: hamper lock; to stay with the old: name it by its digest, `NAME@sha256:…`"),
            Self::Behind { .. } => Some("fetch what is locked: run it once without --offline and with --locked, or hamper image pull NAME"),
            Self::NotShared { source, .. } => source.hint(),
            Self::Store(store::Error::Trees { command, .. }) => Some(command),
            Self::Published { .. } => Some("look at HAMPER_STORES, and at `stores` in settings.toml"),
            Self::PublishedTree { .. } => Some("ask who publishes there to publish it anew; until then: HAMPER_STORES= hamper …"),
            Self::NoSuchImage { .. } => Some("hamper image ls"),
            Self::NotLoaded { command, .. } | Self::NotPulled { command, .. } => Some(command),
            Self::Read { source, .. } | Self::Decompress { source, .. } if remote(source).is_some() => remote(source)?.1,
            Self::Image(image::Error::Remote { hint, .. }) => hint.as_deref(),
            Self::BlobDigest { .. } | Self::DiffId { .. } => {
                Some("the image is damaged or was tampered with: fetch it again, without the mirror if there is one (registries.toml)")
            }
            Self::Publish { source, .. } if is_full(source) => Some("free some space there, and publish again: layers that are whole stay"),
            Self::Publish { .. } => Some("publish into a directory that is yours: hamper image publish DIR NAME"),
            Self::Unpack { act: "publish", source, .. } if is_full(source) => {
                Some("free some space there, and publish again: layers that are whole stay")
            }
            Self::Store(store::Error::Io { source, .. }) | Self::Unpack { source, .. } if is_full(source) => {
                Some("free some space, or set XDG_DATA_HOME to a larger file system")
            }
            Self::Open { source, .. } | Self::Image(image::Error::Open { source, .. }) => match source.kind() {
                io::ErrorKind::DirectoryNotEmpty => Some("name a directory that is empty, or is not there yet"),
                io::ErrorKind::NotFound => {
                    Some("look at the path: ls -ld DIRECTORY; a directory that is to be made needs one that it is made in")
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("name a place that is yours, such as one below $HOME; whose this one is: ls -ld DIRECTORY")
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Some("look at what the path is: ls -ld PATH"),
                _ if is_full(source) => Some("free some space there: df -h DIRECTORY"),
                _ => None,
            },
            Self::Store(store::Error::NotOurs { .. } | store::Error::Io { .. }) => {
                Some("look at the directory of the store: ls -ld; or use another: export XDG_DATA_HOME=DIR XDG_STATE_HOME=DIR")
            }
            Self::Compression { .. } => Some("the tool that made the image wrote a wrong media type: make it again"),
            Self::NoUser(_) | Self::NoGroup(_) | Self::BadUser { .. } => Some("set `identity.user` in the profile, by number if need be"),
            Self::Entry { .. }
            | Self::Bounds { .. }
            | Self::Tar { .. }
            | Self::Image(
                image::Error::Syntax { .. }
                | image::Error::Refused { .. }
                | image::Error::Type { .. }
                | image::Error::Size { .. }
                | image::Error::Digest { .. }
                | image::Error::TooLarge { .. },
            ) => Some(
                "whoever made it made it wrong, or something on the way has changed it: look at the registry and its mirrors, or make the image again",
            ),
            Self::Decompress { .. } => Some("the tool that made the image made it wrong: make it again"),
            Self::Image(image::Error::NoPlatform { .. }) => Some("set `platform` in the profile"),
            Self::Image(image::Error::BadReference { .. } | image::Error::BadDigest { .. }) => {
                Some("write it as [REGISTRY/]NAME[:TAG][@sha256:DIGEST], without http://: docker.io/library/node:14")
            }
            Self::Image(image::Error::Several { .. }) => Some("append `:TAG` or `@DIGEST` to the source"),
            _ => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(error), Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT))
}

/// A registry's failure in a stream, with its words and its hint.
pub(super) fn remote(error: &io::Error) -> Option<(&str, Option<&str>)> {
    match error.get_ref()?.downcast_ref()? {
        image::Error::Remote { words, hint, .. } => Some((words, hint.as_deref())),
        _ => None,
    }
}
