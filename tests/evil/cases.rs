//! The hostile and wrong profiles of `tests/evil/profiles`, as values: for a test that drives the library, and for one that drives
//! the binary (`#[path]` this file from both).
//!
//! A file `NNN-name.toml` is a case of its own; each line at its top that starts with `#! ` is text that must be told. `made.toml` has
//! the cases that cannot or should not lie in a repository: files of many megabytes, pipes, modes, cycles. Every case must be refused.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One profile that must be refused.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    /// The argument; absent: what the search finds.
    pub profile: Option<String>,
    pub sets: Vec<String>,
    /// What must be told, each somewhere in the output.
    pub tells: Vec<String>,
    files: Vec<Made>,
}

/// A file that a case needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    path: String,
    #[serde(default)]
    text: String,
    /// Between `text` and `tail`, this often; `{n}` is the number of the repetition.
    #[serde(default)]
    repeat: String,
    #[serde(default)]
    times: usize,
    #[serde(default)]
    tail: String,
    /// Instead of text: bytes.
    #[serde(default)]
    bytes: Vec<u8>,
    /// As many files, with `{n}` in path and text counted from 0, and `{next}` one more.
    #[serde(default)]
    files: usize,
    /// fifo, directory, link (to `text`) or socket
    #[serde(default)]
    kind: String,
    mode: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MadeCase {
    name: String,
    profile: Option<String>,
    #[serde(default)]
    sets: Vec<String>,
    tells: Vec<String>,
    #[serde(default)]
    files: Vec<Made>,
}

#[derive(Deserialize)]
struct MadeCases {
    case: Vec<MadeCase>,
}

/// All cases, in the order of their numbers.
pub fn all(directory: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory).expect("directory of cases") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("case");
        if name == "made.toml" {
            let made: MadeCases = toml::from_str(&text).expect("made.toml");
            cases.extend(made.case.into_iter().map(|made| Case {
                name: made.name,
                profile: made.profile,
                sets: made.sets,
                tells: made.tells,
                files: made.files,
            }));
        } else if name.ends_with(".toml") {
            let tells = text.lines().map_while(|line| line.strip_prefix("#! ")).map(str::to_owned).collect();
            let file = Made { path: name.clone(), text, ..Made::default() };
            cases.push(Case { profile: Some(format!("./{name}")), name, sets: Vec::new(), tells, files: vec![file] });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

impl Case {
    /// Makes the files of the case in an empty directory.
    pub fn make(&self, directory: &Path) {
        for made in &self.files {
            for n in 0..made.files.max(1) {
                let counted = |text: &str| text.replace("{next}", &(n + 1).to_string()).replace("{n}", &n.to_string());
                make(&directory.join(counted(&made.path)), made, &counted(&made.text));
            }
        }
    }
}

fn make(path: &PathBuf, made: &Made, text: &str) {
    std::fs::create_dir_all(path.parent().expect("parent")).expect("parents");
    match made.kind.as_str() {
        "fifo" => rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo"),
        "directory" => std::fs::create_dir_all(path).expect("directory"),
        "link" => return std::os::unix::fs::symlink(text, path).expect("link"),
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).expect("socket")),
        "" if !made.bytes.is_empty() => std::fs::write(path, &made.bytes).expect("bytes"),
        "" => {
            let middle: String = (0..made.times).map(|n| made.repeat.replace("{n}", &n.to_string())).collect();
            std::fs::write(path, format!("{text}{middle}{}", made.tail)).expect("text");
        }
        other => panic!("unknown kind {other}"),
    }
    let mode = made.mode.unwrap_or(if made.kind == "directory" { 0o755 } else { 0o644 });
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}
