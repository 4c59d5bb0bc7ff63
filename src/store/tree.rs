//! Layer trees: their names, what is known about them, and how one comes into being.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use ring::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Error, Store, remove_tree, temporary_name};
use crate::image::Digest;

/// 22 characters of base64url, made of 128 bits of a hash over what decides the bytes and owners of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayerName(String);

impl LayerName {
    /// `owners` says in which form owners stand in the tree: `single`, or the range and who of it is the caller.
    pub fn new(diff_id: &Digest, owners: &str) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut context = Context::new(&SHA256);
        context.update(diff_id.to_string().as_bytes());
        context.update(b"\n");
        context.update(owners.as_bytes());
        let hash = context.finish();
        let bits = hash.as_ref().iter().take(16).fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
        Self((0..22).map(|i| char::from(ALPHABET[usize::try_from((bits >> (6 * i)) & 63).unwrap_or(0)])).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known about a tree; its presence beside the tree says that the tree is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TreeFacts {
    pub diff_id: String,
    /// As in [`LayerName::new`].
    pub owners: String,
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// The layer hides every layer below it: its root is opaque, which overlayfs does not read from the root itself.
    pub opaque_root: bool,
    /// The layer says what the root directory is like.
    pub has_root: bool,
    /// Directories that no entry described; they have mode 0755 and no true time.
    pub implied: u64,
    pub whiteouts: u64,
    /// Device nodes, which are not created.
    pub devices: u64,
    /// Owners outside of the map; these entries belong to the caller.
    pub outside: u64,
    /// Extended attributes that were left out, `security.capability` among them.
    pub dropped_xattrs: u64,
    pub capabilities: u64,
    /// Of a published tree: a hash over all that a reader sees in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// The boot in which the tree was made and not yet synced; absent: it survives a power loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl Store {
    /// What is known about the whole tree `name`; `None`: there is no such tree, or it cannot be trusted.
    pub fn tree_facts(&self, name: &LayerName) -> Result<Option<TreeFacts>, Error> {
        let Some(bytes) = self.read(&format!("layers/{}.json", name.as_str()))? else { return Ok(None) };
        // A record that a power loss cut off is as good as none.
        let Ok(facts) = serde_json::from_slice::<TreeFacts>(&bytes) else { return Ok(None) };
        let path = format!("layers/{}", name.as_str());
        match rustix::fs::statat(self.directory(), &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error("stat", &path, errno)),
        }
        match &facts.boot {
            Some(boot) if *boot != boot_id() => Ok(None),
            _ => Ok(Some(facts)),
        }
    }

    /// Every whole tree, with what is known about it.
    pub fn trees(&self) -> Result<Vec<(LayerName, TreeFacts)>, Error> {
        let mut trees = Vec::new();
        for entry in self.list("layers")? {
            let Some(name) = entry.strip_suffix(".json") else { continue };
            let name = LayerName(name.to_owned());
            if let Some(facts) = self.tree_facts(&name)? {
                trees.push((name, facts));
            }
        }
        Ok(trees)
    }

    pub(super) fn is_whole(&self, name: &str) -> Result<bool, Error> {
        Ok(self.tree_facts(&LayerName(name.to_owned()))?.is_some())
    }

    /// Writes what is known about a tree.
    pub fn put_facts(&self, name: &LayerName, facts: &TreeFacts) -> Result<(), Error> {
        self.write(&format!("layers/{}.json", name.as_str()), &to_json(facts))
    }

    /// The sidecar of owners of a tree; empty where all are root's.
    pub(crate) fn read_sidecar(&self, name: &LayerName) -> Result<Vec<u8>, Error> {
        let path = self.path.join(format!("layers/{}.owners", name.as_str()));
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|source| Error::Io { act: "read", path, source }),
        }
    }

    /// A layer whose files lie in another store: a link in its place.
    pub(crate) fn link_tree(&self, name: &LayerName, target: &std::path::Path, facts: &TreeFacts) -> Result<(), Error> {
        let path = format!("layers/{}", name.as_str());
        let failed = |errno| self.error("make", &path, errno);
        match rustix::fs::symlinkat(target, self.directory(), &path) {
            Ok(()) => {}
            // One without facts, or of another hamper that was faster.
            Err(Errno::EXIST) => {
                let aside = format!("layers/{}", temporary_name());
                rustix::fs::symlinkat(target, self.directory(), &aside).map_err(failed)?;
                rustix::fs::renameat(self.directory(), &aside, self.directory(), &path).map_err(failed)?;
            }
            Err(errno) => return Err(failed(errno)),
        }
        self.put_facts(name, facts)
    }

    /// Where the link that [`Self::link_tree`] has made leads.
    pub(crate) fn link_of(&self, name: &LayerName) -> Result<std::path::PathBuf, Error> {
        let path = format!("layers/{}", name.as_str());
        let target = rustix::fs::readlinkat(self.directory(), &path, Vec::new()).map_err(|errno| self.error("read", &path, errno))?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }

    /// Begins a tree under a temporary name. `owner`: the ids that its files are made with, inside a user namespace.
    pub(crate) fn new_tree(&self, owner: Option<(u32, u32)>) -> Result<PendingTree<'_>, Error> {
        let layers = self.layers()?;
        let name = temporary_name();
        rustix::fs::mkdirat(&layers, &name, Mode::RWXU).map_err(|errno| self.error("make", &name, errno))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&layers, &name, flags, Mode::empty()).map_err(|errno| self.error("open", &name, errno))?;
        Ok(PendingTree { store: self, layers, root, owner, name: Some(name) })
    }
}

/// File system ids of this thread that are not the caller's, until it is dropped.
///
/// Inside a user namespace the files of a tree are made as the image's root, so that most need no chown, while everything else in
/// the store stays the caller's. Going back takes the file capabilities away, which the caller's own files do not need.
pub(crate) struct ThreadIds(Option<(nix::unistd::Uid, nix::unistd::Gid)>);

impl ThreadIds {
    pub fn enter(ids: Option<(u32, u32)>) -> Self {
        Self(ids.map(|(uid, gid)| {
            let old_gid = nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
            (nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid)), old_gid)
        }))
    }
}

impl Drop for ThreadIds {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.0 {
            nix::unistd::setfsuid(uid);
            nix::unistd::setfsgid(gid);
        }
    }
}

/// A tree that nobody sees yet; removed when it is dropped.
pub struct PendingTree<'s> {
    store: &'s Store,
    layers: OwnedFd,
    root: OwnedFd,
    owner: Option<(u32, u32)>,
    name: Option<String>,
}

impl PendingTree<'_> {
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A file beside the tree for the owners that it does not have; it goes where the tree goes, unless it is empty.
    pub fn create_owners(&self) -> Result<File, Error> {
        let name = format!("{}.owners", self.name.as_deref().unwrap_or_default());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.layers, &name, flags, Mode::RUSR | Mode::WUSR);
        Ok(fd.map_err(|errno| self.store.error("make", &name, errno))?.into())
    }

    /// A file without a name, for what does not fit into memory.
    pub fn unnamed(&self) -> impl FnMut() -> io::Result<File> + Send + use<> {
        let layers = self.layers.try_clone();
        move || {
            let layers = layers.as_ref().map_err(|error| io::Error::from(error.kind()))?;
            let fd = rustix::fs::openat(layers, ".", OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
            Ok(fd.into())
        }
    }

    /// Makes the tree visible as `name`, for this boot: see [`Store::sync`]. Losing the race against another loader is fine, the
    /// tree is the same.
    pub fn publish(mut self, name: &LayerName, facts: &mut TreeFacts) -> Result<(), Error> {
        let Some(temporary) = self.name.clone() else { return Ok(()) };
        let store = self.store;
        let rename = || rustix::fs::renameat_with(&self.layers, &temporary, &self.layers, name.as_str(), RenameFlags::NOREPLACE);
        let renamed = match rename() {
            // A tree without facts, or of an earlier boot: nobody can be using it, so it is replaced.
            Err(Errno::EXIST) if store.tree_facts(name)?.is_none() => {
                let _ids = ThreadIds::enter(self.owner);
                remove_tree(&self.layers, name.as_str().as_bytes()).and_then(|()| rename())
            }
            other => other,
        };
        match renamed {
            Ok(()) => self.name = None,
            Err(Errno::EXIST) => return Ok(()),
            Err(errno) => return Err(store.error("rename", name.as_str(), errno)),
        }
        let owners = |name: &str| format!("layers/{name}.owners");
        match rustix::fs::renameat(store.directory(), owners(&temporary), store.directory(), owners(name.as_str())) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(store.error("rename", name.as_str(), errno)),
        }
        facts.boot = Some(boot_id());
        store.put_facts(name, facts)
    }
}

impl Drop for PendingTree<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = rustix::fs::unlinkat(&self.layers, format!("{name}.owners"), AtFlags::empty());
            let _ids = ThreadIds::enter(self.owner);
            // ignoring: the next load sweeps it.
            let _ = remove_tree(&self.layers, name.as_bytes());
        }
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own plain structs: strings for keys, nothing that can fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// The kernel's name for this boot; empty where /proc is missing, which equals no boot that was noted.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_differ_by_owners() {
        let digest = Digest::of(b"x");
        let (one, other) = (LayerName::new(&digest, "single"), LayerName::new(&digest, "range"));
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 22);
        assert!(one.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
    }
}
