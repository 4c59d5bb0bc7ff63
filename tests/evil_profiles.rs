//! Every hostile or wrong profile is refused with its place and its key, quickly, and nothing is created.

#[path = "evil/cases.rs"]
mod cases;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hamper::profile::{Caller, OpenError, Request, Search, open};

fn told(case: &cases::Case, directory: &Path) -> Option<String> {
    let caller = Caller { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() };
    let home = directory.join("home");
    let request = Request {
        profile: case.profile.as_deref(),
        image: None,
        sets: &case.sets,
        project: None,
        search: Search { cwd: directory, home: &home, config: &home.join(".config/hamper"), caller },
        store: &home.join(".local/share/hamper"),
        env: &|name| (name == "LC_TRICK").then(|| "a\u{7}b".to_owned()),
    };
    match open(&request) {
        Ok(_) => None,
        Err(OpenError::Find(error)) => Some(format!("{error} | {}", error.hint().unwrap_or_default())),
        Err(OpenError::Findings(findings)) => {
            let lines = findings.findings.iter().map(|finding| format!("{finding} | {}", finding.hint.as_deref().unwrap_or_default()));
            Some(format!("{}\nmore: {}", lines.collect::<Vec<_>>().join("\n"), findings.more))
        }
    }
}

fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(directory).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn hostile_profiles_are_refused_by_place_and_key() {
    let cases = cases::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evil/profiles"));
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut failed = Vec::new();
    for case in &cases {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = std::fs::canonicalize(directory.path()).expect("path");
        case.make(&path);
        let before = tree(&path);
        let begin = Instant::now();
        let told = told(case, &path).unwrap_or_else(|| "accepted".into());
        let took = begin.elapsed();
        let told = told.replace(&*path.to_string_lossy(), "DIR");
        assert_eq!(tree(&path), before, "{}", case.name);
        assert!(!case.tells.is_empty(), "{} expects nothing", case.name);
        assert!(!told.replace('\n', "").chars().any(char::is_control), "{}: {told:?}", case.name);
        let missing: Vec<&String> = case.tells.iter().filter(|tell| !told.contains(tell.as_str())).collect();
        if !missing.is_empty() || took > Duration::from_secs(2) {
            failed.push(format!("{} ({took:?})\n  missing: {missing:?}\n  told: {told}", case.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
