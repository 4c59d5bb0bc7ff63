//! What lies in a directory, to be compared with what lay in it before.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Path to what it is: kind and mode, size, modification time, inode.
pub type Tree = BTreeMap<PathBuf, String>;

/// Everything below a directory; what may not be read is there by its name.
pub fn tree(top: &Path) -> Tree {
    let mut found = Tree::new();
    collect(top, top, &mut found);
    found
}

fn collect(top: &Path, path: &Path, found: &mut Tree) {
    let Ok(status) = std::fs::symlink_metadata(path) else { return };
    let name = path.strip_prefix(top).expect("below").to_owned();
    found.insert(name, format!("{:o} {} {} {}.{}", status.mode(), status.size(), status.ino(), status.mtime(), status.mtime_nsec()));
    if status.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            collect(top, &entry.path(), found);
        }
    }
}

/// Names alone.
pub fn names(top: &Path) -> Vec<PathBuf> {
    tree(top).into_keys().collect()
}

/// Nothing was made, changed or removed.
#[track_caller]
pub fn assert_same(before: &Tree, after: &Tree, what: &str) {
    let changed: Vec<_> =
        before.iter().filter(|(path, was)| after.get(*path) != Some(was)).map(|(path, was)| (path, was, after.get(path))).collect();
    let made: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(changed.is_empty() && made.is_empty(), "{what}: changed: {changed:?}, made: {made:?}");
}

/// Scratch directories are kept for the next run, empty, as many as were in use at once; and the place that trash goes to is kept.
pub fn is_recycled(path: &Path) -> bool {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let Some((first, rest)) = parts.split_first() else { return true };
    let Some((number, rest)) = rest.split_first() else { return first == "trash" || first.starts_with("scratch") };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    first.starts_with("scratch")
        && number.parse::<u32>().is_ok_and(|number| number < 16)
        && matches!(rest[..], [] | ["u"] | ["w"] | ["w", "work"])
}
