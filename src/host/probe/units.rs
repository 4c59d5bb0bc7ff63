//! What an admin has written for the units of systemd above a user's cgroup: the files, not what the manager makes of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where the files of units are, the strongest first: systemd.unit(5).
const DIRECTORIES: [&str; 7] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "etc/systemd/system",
    "run/systemd/transient",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
];

/// Bytes of a file that are read, and drop-ins of a unit that are looked at.
const MOST_BYTES: u64 = 64 * 1024;
const MOST_FILES: usize = 256;

/// `KEY=VALUE` as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub file: PathBuf,
    pub value: String,
}

/// What files of a unit assign to a key, in the order in which it counts: its own, then drop-ins. `names`: the most general first.
pub fn assignments(root: &Path, names: &[&str], key: &str) -> Vec<Assignment> {
    let own = names.iter().rev().flat_map(|name| DIRECTORIES.iter().map(move |directory| root.join(directory).join(name)));
    let own = own.into_iter().find(|file| file.is_file());
    // One name hides the others of that name: of weaker directories, and of less specific units.
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for name in names {
        for directory in DIRECTORIES.iter().rev() {
            let Ok(entries) = root.join(directory).join(format!("{name}.d")).read_dir() else { continue };
            let conf = entries.flatten().take(MOST_FILES).filter(|entry| entry.path().extension().is_some_and(|end| end == "conf"));
            files.extend(conf.map(|entry| (entry.file_name(), entry.path())));
        }
    }
    own.into_iter().chain(files.into_values()).flat_map(|file| in_file(&file, key)).collect()
}

fn in_file(file: &Path, key: &str) -> Vec<Assignment> {
    let Ok(opened) = std::fs::File::open(file) else { return Vec::new() };
    if !opened.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Vec::new();
    }
    let text = std::io::read_to_string(std::io::Read::take(opened, MOST_BYTES)).unwrap_or_default();
    let value = |line: &str| Some(line.trim().strip_prefix(key)?.trim_start().strip_prefix('=')?.trim().to_owned());
    text.lines().filter_map(value).map(|value| Assignment { file: file.to_owned(), value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_file_of_a_name_counts_in_the_order_of_names() {
        let root = std::env::temp_dir().join(format!("hamper-units-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            std::fs::write(path, text).expect("a file");
        };
        write("usr/lib/systemd/system/user@.service.d/10-a.conf", "[Service]\nDelegate=pids\n");
        write("etc/systemd/system/user@.service.d/10-a.conf", "[Service]\n# Delegate=x\n Delegate = cpu \nDelegated=y\n");
        write("etc/systemd/system/user@7.service.d/20-b.conf", "[Service]\nDelegate=\nDelegate=io\n");
        write("etc/systemd/system/user@7.service.d/30-c.txt", "Delegate=z\n");
        write("usr/lib/systemd/system/user@.service", "[Service]\nDelegate=memory\n");
        let found = assignments(&root, &["user@.service", "user@7.service"], "Delegate");
        let values: Vec<&str> = found.iter().map(|one| one.value.as_str()).collect();
        std::fs::remove_dir_all(&root).expect("directories");
        assert_eq!(values, ["memory", "cpu", "", "io"]);
        assert!(found[1].file.starts_with(root.join("etc")), "{found:?}");
    }
}
