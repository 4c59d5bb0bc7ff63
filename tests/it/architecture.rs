//! The rooms and their arrows, where unsafe code may be, and that no path of somebody's machine is in the sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::sources;

/// Which rooms a room may name. `cli` may name all; nothing names `cli`.
const ARROWS: &[(&str, &[&str])] = &[
    ("profile", &[]),
    ("image", &["profile"]),
    ("registry", &["profile", "image"]),
    ("store", &["profile", "image"]),
    ("rootfs", &["profile", "image", "store", "sys"]),
    ("host", &["profile", "sys"]),
    ("plan", &["profile", "image", "rootfs", "host"]),
    ("launch", &["profile", "plan", "host", "rootfs", "image", "sys"]),
    ("network", &["profile", "plan", "host", "sys"]),
    ("supervise", &["profile", "plan", "host", "launch", "network", "sys"]),
    ("sandbox", &["profile", "plan", "host", "launch", "supervise"]),
    ("report", &["profile", "plan", "host", "supervise"]),
    ("sys", &[]),
];

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every file below `src`, with its room and its text without comments.
fn rooms() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let src = sources().join("src");
    let mut rooms: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for path in rust_files(&src) {
        let relative = path.strip_prefix(&src).expect("below").to_owned();
        if relative.components().count() < 2 {
            continue;
        }
        let room = relative.components().next().expect("room").as_os_str().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("source");
        let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        rooms.entry(room).or_default().push((relative, code));
    }
    rooms
}

/// The rooms that a text names after `crate::`, in `use` lines, in braces and in paths.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut part = String::new();
            for character in list.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => names.push(word(&std::mem::take(&mut part))),
                    _ => {}
                }
                if character != ',' || depth > 0 {
                    part.push(character);
                }
            }
            names.push(word(&part));
        } else {
            names.push(word(rest));
        }
    }
    names
}

#[test]
fn arrows_run_one_way() {
    let rooms = rooms();
    let known: Vec<&String> = rooms.keys().collect();
    let mut faults = Vec::new();
    for (room, files) in &rooms {
        if room == "cli" {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == room) else {
            faults.push(format!("the room {room} has no arrows here"));
            continue;
        };
        for (path, code) in files {
            for name in named(code) {
                let is_room = known.iter().any(|room| **room == name);
                if is_room && name != *room && !allowed.contains(&name.as_str()) {
                    faults.push(format!("{}: {room} -> {name}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_arrow_runs_back() {
    // The table itself has no cycle.
    fn reaches(from: &str, to: &str) -> bool {
        ARROWS.iter().find(|(name, _)| *name == from).is_some_and(|(_, next)| next.iter().any(|next| *next == to || reaches(next, to)))
    }
    for (room, _) in ARROWS {
        assert!(!reaches(room, room), "{room}");
    }
    // And the reader of `use` lines reads.
    assert_eq!(named("use crate::plan::{self, Step};\nuse crate::{report, sys::{a, b}, host};"), ["plan", "report", "sys", "host"]);
}

#[test]
fn a_plan_touches_nothing() {
    for (path, code) in &rooms()["plan"] {
        // Tests at the end of a file may read files.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        if path.ends_with("tests.rs") {
            continue;
        }
        for word in ["std::fs", "std::env", "std::process", "std::time", "std::net", "rustix::fs", "rustix::process", "nix::", "File::open"]
        {
            assert!(!code.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn only_the_command_line_prints_exits_and_reads_arguments() {
    for (room, files) in rooms() {
        for (path, code) in files {
            let code = code.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            for word in ["println!", "eprintln!", "std::process::exit", "env::args"] {
                assert!(room == "cli" || room == "sys" || !code.contains(word), "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_one_room_and_says_why() {
    let root = sources();
    let mut blocks = 0;
    for path in rust_files(&root.join("src")).into_iter().chain(rust_files(&root.join("tests"))) {
        let text = std::fs::read_to_string(&path).expect("source");
        let inside = path.starts_with(root.join("src/sys"));
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words: Vec<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let mentions = words.contains(&"unsafe");
            // A word in a string is no code.
            if !mentions || code.contains('"') || code.contains("unsafe_") {
                continue;
            }
            assert!(inside, "{}:{}: {line}", path.display(), number + 1);
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                blocks += 1;
                let before = lines[number.saturating_sub(12)..=number].join("\n");
                assert!(before.contains("SAFETY"), "{}:{}: no SAFETY comment", path.display(), number + 1);
            }
        }
    }
    assert!(blocks > 0, "the reader of unsafe blocks finds none");
    let lines: usize =
        rust_files(&root.join("src/sys")).iter().map(|path| std::fs::read_to_string(path).expect("source").lines().count()).sum();
    assert!(lines < 1500, "the room with unsafe code has {lines} lines");
}

#[test]
fn no_path_of_a_machine_is_in_the_sources() {
    let root = sources();
    let words = ["/home/", "/Users/", "/work/"].map(|start| [start, "shared"].concat());
    for directory in ["src", "tests", "profiles", "doc", ".ci"] {
        let mut todo = vec![root.join(directory)];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(std::fs::read_dir(&path).expect("directory").flatten().map(|entry| entry.path()));
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                for word in &words {
                    assert!(!text.contains(word.as_str()), "{}: {word}", path.display());
                }
                let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
                assert!(own.len() < 4 || !text.contains(&own), "{}: {own}", path.display());
            }
        }
    }
}

#[test]
fn every_room_says_what_it_is() {
    for (room, files) in rooms() {
        let Some((path, _)) = files.iter().find(|(path, _)| path.ends_with(format!("{room}/mod.rs"))) else {
            panic!("{room} has no mod.rs");
        };
        let text = std::fs::read_to_string(sources().join("src").join(path)).expect("source");
        assert!(text.starts_with("//! "), "{}", path.display());
    }
}
