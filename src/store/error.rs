//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {act} `{}`", path.display())]
    Io { act: &'static str, path: PathBuf, source: io::Error },
    #[error("the store `{}` belongs to user id {owner}", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("cannot make `{}`, to which the link `trees` of the store leads", path.display())]
    Trees { path: PathBuf, command: String, source: io::Error },
    #[error("record `{}` cannot be read", path.display())]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("image {0} is in use: a sandbox runs from it, or it is being loaded")]
    InUse(String),
}

impl Error {
    pub(crate) fn new(act: &'static str, path: &Path, errno: Errno) -> Self {
        Self::Io { act, path: path.to_owned(), source: errno.into() }
    }
}
