//! Hostile images and profiles, given to the real binary: bounded time and memory, the right words, and nothing made elsewhere.

#[path = "../evil/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::support::tree::{assert_same, names, tree};
use crate::support::{TestEnv, maps, seconds, sources};

/// Longest time that one of them may take. An entry costs a build without optimization some fifty microseconds, and a bomb of entries is
/// let through to half a million, on a machine that does other things as well.
const TIME: u32 = 20;
const BOMB_TIME: u32 = 240;
/// Peak memory in KiB.
const MEMORY: u64 = 64 << 10;

/// What `tests/evil/images/generate.py` expects of one image; see there.
#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    about: String,
    refused: Option<Vec<String>>,
    loaded: Option<BTreeMap<String, Value>>,
    user: Option<Value>,
    env: Option<Vec<(String, String)>>,
}

fn generate(env: &TestEnv) -> (PathBuf, Vec<Case>) {
    let directory = env.directory("evil");
    let script = sources().join("tests/evil/images/generate.py");
    env.program("python3", ["-B", &script.display().to_string(), &directory.display().to_string()]).output().code(0);
    let text = std::fs::read_to_string(directory.join("expect.json")).expect("expect.json");
    (directory, serde_json::from_str(&text).expect("expect.json"))
}

/// Where an image could have written if it could write outside.
fn canaries(env: &TestEnv) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = ["home", "project", "config", "cache", "canary"].iter().map(|name| env.root().join(name)).collect();
    places.push(env.root().join("evil"));
    places
}

#[test]
fn hostile_images_are_refused_or_loaded_right() {
    let env = TestEnv::alone();
    let canary = env.directory("canary");
    std::fs::write(canary.join("passwd"), "mine").expect("canary");
    let (directory, cases) = generate(&env);
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let before: Vec<_> = canaries(&env).iter().map(|place| tree(place)).collect();
    let mut faults = Vec::new();
    for case in &cases {
        faults.extend(judge(&env, &directory, case).into_iter().map(|fault| format!("{} ({}): {fault}", case.name, case.about)));
    }
    for (place, before) in canaries(&env).iter().zip(&before) {
        assert_same(before, &tree(place), &place.display().to_string());
    }
    for path in ["/tmp/hamper-evil", "/tmp/evil", "/var/tmp/evil", "/evil"] {
        assert!(!Path::new(path).exists(), "{path} was made");
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

fn judge(env: &TestEnv, directory: &Path, case: &Case) -> Vec<String> {
    let mut faults = Vec::new();
    // A store of its own: what one image has brought, another one need not bring, and is not judged for.
    let data = env.directory(&format!("data-{}", case.name));
    let limit = seconds(if case.name.starts_with("bomb") { BOMB_TIME } else { TIME });
    let out = env.hamper(["image", "load", &case.source]).env("XDG_DATA_HOME", &data).directory(directory).limit(limit).measured().any();
    if out.peak() > MEMORY {
        faults.push(format!("{} KiB of memory", out.peak()));
    }
    if out.stderr.contains("panicked") || out.stderr.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        faults.push(format!("words: {:?}", out.stderr));
    }
    match (&case.refused, &case.loaded) {
        (Some(words), _) => {
            if out.status.code() != Some(1) {
                faults.push(format!("code {:?}: {}", out.status.code(), out.stderr));
            }
            faults.extend(words.iter().filter(|word| !out.stderr.contains(*word)).map(|word| format!("{word:?} is not in {}", out.stderr)));
            if names(&data.join("hamper/images")).len() > 1 {
                faults.push("an image stands in the store".into());
            }
        }
        (None, Some(expected)) => {
            if out.status.code() != Some(0) {
                faults.push(format!("code {:?}: {}", out.status.code(), out.stderr));
            } else {
                faults.extend(look(env, directory, &data, case, expected));
            }
        }
        (None, None) => faults.push("it expects nothing".into()),
    }
    drop(env.hamper(["image", "prune", "--all"]).env("XDG_DATA_HOME", &data).output().any());
    faults
}

/// Starts the image, and looks at what is in it.
fn look(env: &TestEnv, directory: &Path, data: &Path, case: &Case, expected: &BTreeMap<String, Value>) -> Vec<String> {
    let mut words = vec!["/probe".to_owned()];
    for verb in ["stat", "readlink"] {
        words.push(verb.into());
        words.extend(expected.keys().map(|path| format!("/{path}")));
        words.push("--".into());
    }
    words.extend(["ids".into(), "--".into(), "env".into()]);
    let map = maps()[0];
    let call =
        env.hamper(["run", "--image", &case.source]).map(map).with_probe().directory(directory).args(["--entrypoint", "", "-w", "/"]);
    let call = call.set("project.mode=none").set("identity.home=none").env("XDG_DATA_HOME", data);
    let out = call.payload(words.iter().map(String::as_str)).limit(seconds(TIME)).output().any();
    // What can be loaded and not be started: nobody may enter the root, its owner neither; passwd would need a line more.
    let told = [("root-closed", "Permission denied"), ("passwd-fifo-number", "is not a regular file")];
    if told.iter().any(|(name, words)| case.name == *name && out.status.code() == Some(125) && out.stderr.contains(words)) {
        return Vec::new();
    }
    if out.status.code() != Some(0) {
        return vec![format!("it does not start: {}", out.stderr)];
    }
    let mut faults = Vec::new();
    for (path, wanted) in expected {
        // hamper's own stand there; and the probe's lines do not tell every name.
        if ["dev", "proc", "sys"].contains(&path.split('/').next().unwrap_or_default()) || path.chars().any(char::is_control) {
            continue;
        }
        let status = out.stdout.lines().find_map(|line| line.strip_prefix(&format!("stat /{path}: "))).unwrap_or("nothing");
        let link = out.stdout.lines().find_map(|line| line.strip_prefix(&format!("readlink /{path}: ok ")));
        let fields: Vec<&str> = status.split(' ').collect();
        let mode = u32::from_str_radix(fields[0], 8).unwrap_or(0);
        let after =
            |name: &str| fields.iter().position(|field| *field == name).and_then(|at| fields.get(at + 1)).map(|text| (*text).to_owned());
        let own: serde_json::Map<String, Value> = match wanted {
            Value::Object(map) => map.clone(),
            Value::String(word) => [(word.clone(), Value::Bool(true))].into_iter().collect(),
            _ => serde_json::Map::new(),
        };
        for (kind, value) in &own {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let right = match kind.as_str() {
                "absent" => status == "ENOENT" || status == "ENOTDIR",
                "any" => mode != 0,
                "file" => {
                    mode & 0o170_000 == 0o100_000 && value.as_str().is_none_or(|content| after("size") == Some(content.len().to_string()))
                }
                "dir" => mode & 0o170_000 == 0o040_000,
                "fifo" => mode & 0o170_000 == 0o010_000,
                "link" => link == Some(text(value).as_str()),
                "mode" => {
                    format!("{:o}", mode & 0o7777).trim_start_matches('0') == text(value).trim_start_matches("0o").trim_start_matches('0')
                        || value.as_u64() == Some(u64::from(mode & 0o7777))
                }
                "mtime" => after("mtime") == Some(text(value)),
                "links" => after("links") == Some(text(value)),
                _ => true,
            };
            if !right {
                faults.push(format!("{path}: {kind} {value} is wanted, there is {status} {link:?}"));
            }
        }
    }
    for (name, id) in [("uid", "uid"), ("gid", "gid")] {
        if let Some(wanted) = case.user.as_ref().and_then(|user| user[name].as_u64())
            && !out.value(id).starts_with(&format!("{wanted} "))
        {
            faults.push(format!("{name} {wanted} is wanted, there is {}", out.value(id)));
        }
    }
    for (name, value) in case.env.iter().flatten() {
        if !out.stdout.lines().any(|line| line == format!("{name}={value}")) {
            faults.push(format!("{name}={value} is not in the environment"));
        }
    }
    faults
}

#[test]
fn a_hostile_image_never_reaches_the_payload() {
    let env = TestEnv::alone();
    let (directory, cases) = generate(&env);
    // One in eight, by the way that people take: run.
    for case in cases.iter().filter(|case| case.refused.is_some() && !case.name.starts_with("bomb")).step_by(8) {
        let out =
            env.hamper(["run", "--image", &case.source]).with_probe().directory(&directory).limit(seconds(TIME)).probe("exit 0").any();
        assert_eq!(out.status.code(), Some(125), "{}: {} {}", case.name, out.stdout, out.stderr);
        for word in case.refused.iter().flatten() {
            assert!(out.stderr.contains(word), "{}: {word:?} is not in {}", case.name, out.stderr);
        }
    }
}

#[test]
fn hostile_profiles_are_refused_by_place_and_key() {
    let cases = cases::all(&sources().join("tests/evil/profiles"));
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut faults = Vec::new();
    for case in &cases {
        let env = TestEnv::alone();
        let place = env.directory("case");
        case.make(&place);
        let before = tree(env.root());
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(case.profile.clone());
        for set in &case.sets {
            arguments.extend(["--set".into(), set.clone()]);
        }
        let call = env.hamper(arguments.iter().map(String::as_str)).directory(&place).env("HOME", place.join("home"));
        let call = call.env("XDG_CONFIG_HOME", place.join("home/.config")).env("LC_TRICK", "a\u{7}b").limit(seconds(TIME));
        let out = call.payload(["true"]).measured().any();
        let told = out.stderr.replace(&*place.to_string_lossy(), "DIR");
        if out.status.code() != Some(125) {
            faults.push(format!("{}: code {:?}: {told}", case.name, out.status.code()));
        }
        if out.peak() > MEMORY {
            faults.push(format!("{}: {} KiB of memory", case.name, out.peak()));
        }
        faults.extend(
            case.tells
                .iter()
                .flat_map(|tell| tell.split(" | "))
                .filter(|tell| !tell.starts_with("more: ") && !told.contains(tell.trim()))
                .map(|tell| format!("{}: {tell:?} is not in {told}", case.name)),
        );
        if told.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            faults.push(format!("{}: control characters: {told:?}", case.name));
        }
        let after: Vec<_> = tree(env.root()).into_keys().filter(|path| !path.to_string_lossy().starts_with("measures")).collect();
        let made: Vec<_> = after.into_iter().filter(|path| !before.contains_key(path)).collect();
        if !made.is_empty() {
            faults.push(format!("{}: made {made:?}", case.name));
        }
    }
    assert!(faults.is_empty(), "{} faults in {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
}
