//! What somebody has written for the units of systemd that a process stands in: the files, not what a manager makes of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where the files of the system manager's units are, the strongest first: systemd.unit(5).
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

/// Those of a user's manager, as said there: what is its user's by `config`, `data` and `runtime`, each with `systemd` in it.
fn of_user(root: &Path, config: &Path, data: &Path, runtime: &Path) -> Vec<PathBuf> {
    let own = [
        config.join("systemd/user.control"),
        runtime.join("systemd/user.control"),
        runtime.join("systemd/transient"),
        runtime.join("systemd/generator.early"),
        config.join("systemd/user"),
        root.join("etc/xdg/systemd/user"),
        root.join("etc/systemd/user"),
        runtime.join("systemd/user"),
        root.join("run/systemd/user"),
        runtime.join("systemd/generator"),
        data.join("systemd/user"),
    ];
    let shared = ["usr/local/share", "usr/share", "usr/local/lib", "usr/lib"].map(|directory| root.join(directory).join("systemd/user"));
    own.into_iter().chain(shared).chain([runtime.join("systemd/generator.late")]).collect()
}

/// Where a manager has the files of its units, the strongest directory first.
pub struct Units(Vec<PathBuf>);

impl Units {
    pub fn of_system(root: &Path) -> Self {
        Self(DIRECTORIES.iter().map(|directory| root.join(directory)).collect())
    }

    /// Of the user who runs this process, whose manager has its sockets below `runtime`; taken to have the caller's home.
    pub fn of_user(runtime: &Path) -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = variable("HOME").unwrap_or_default();
        let config = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let data = variable("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        Self(of_user(Path::new("/"), &config, &data, runtime))
    }

    /// The files of a unit, in the order in which they count: its own, then drop-ins. `names`: the most general first.
    pub fn files(&self, names: &[&str]) -> Vec<PathBuf> {
        let own = names.iter().rev().flat_map(|name| self.0.iter().map(move |directory| directory.join(name)));
        let own = own.into_iter().find(|file| file.is_file());
        // One name hides the others of that name: of weaker directories, and of less specific units.
        let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for name in names {
            for directory in self.0.iter().rev() {
                let Ok(entries) = directory.join(format!("{name}.d")).read_dir() else { continue };
                let conf = entries.flatten().take(MOST_FILES).filter(|entry| entry.path().extension().is_some_and(|end| end == "conf"));
                files.extend(conf.map(|entry| (entry.file_name(), entry.path())));
            }
        }
        own.into_iter().chain(files.into_values()).collect()
    }
}

/// What files of a unit of the system's manager assign to a key, in the order in which it counts. `names`: the most general first.
pub fn assignments(root: &Path, names: &[&str], key: &str) -> Vec<Assignment> {
    in_files(&Units::of_system(root).files(names), key)
}

/// The same, of files that are known.
pub fn in_files(files: &[PathBuf], key: &str) -> Vec<Assignment> {
    files.iter().flat_map(|file| in_file(file, key)).collect()
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

    #[test]
    fn files_of_a_users_manager_the_strongest_first() {
        let root = std::env::temp_dir().join(format!("hamper-user-units-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            std::fs::write(path, text).expect("a file");
        };
        write("usr/lib/systemd/user/x.service", "TasksMax=1\n");
        write("home/.config/systemd/user/x.service", "TasksMax=2\n");
        write("run/user/7/systemd/user.control/x.service.d/50-a.conf", "TasksMax=4\n");
        write("etc/systemd/user/x.service.d/50-a.conf", "TasksMax=3\n");
        write("etc/systemd/user/service.d/10-b.conf", "TasksMax=5\n");
        let units = Units(of_user(&root, &root.join("home/.config"), &root.join("home/.local/share"), &root.join("run/user/7")));
        let found = in_files(&units.files(&["service", "x.service"]), "TasksMax");
        std::fs::remove_dir_all(&root).expect("directories");
        assert_eq!(found.iter().map(|one| one.value.as_str()).collect::<Vec<_>>(), ["2", "5", "4"]);
    }
}
