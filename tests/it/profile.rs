//! `hamper profile`, and which profile and project a run takes.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{TestEnv, image, maps};

#[test]
fn check_tells_every_finding_with_its_place() {
    let env = TestEnv::new();
    env.profile("image = \"host\"\nnme = \"x\"\n[project]\nmode = \"maybe\"\n[limits]\ntime = \"soon\"\n");
    let out = env.hamper(["profile", "check"]).output().code(1);
    let told = format!("{}{}", out.stdout, out.stderr);
    for words in ["hamper.toml:2", "nme", "name", "hamper.toml:4", "project.mode", "hamper.toml:6", "limits.time"] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
    env.hamper(["run"]).output().code(125).told(&["hamper.toml:2", "hamper.toml:4", "hamper.toml:6"]);
    env.profile("image = \"host\"\n");
    env.hamper(["profile", "check"]).output().code(0);
    env.hamper(["profile", "check", "no-such"]).output().code(2);
}

const SHIPPED: [&str; 9] = ["hello", "node14", "node22", "python3", "rust", "go", "debian", "build", "untrusted"];

#[test]
fn every_shipped_profile_is_right() {
    let env = TestEnv::new();
    let list = env.hamper(["profile", "ls", "--json"]).output().ok();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let names: Vec<&str> = list["profiles"].as_array().expect("list").iter().filter_map(|one| one["name"].as_str()).collect();
    for name in SHIPPED {
        assert!(names.contains(&name), "{names:?}");
        env.hamper(["profile", "check", name]).output().code(0);
    }
    assert_eq!(names.len(), SHIPPED.len(), "{names:?}");
}

#[test]
fn every_shipped_profile_plans_or_says_what_is_missing() {
    let env = TestEnv::new();
    // A plan loads nothing.
    for map in maps() {
        env.run("debian").map(map).sh("true").ok();
    }
    for name in SHIPPED {
        for own in [None, Some(image("debian"))] {
            let options: Vec<&str> = own.iter().flat_map(|image| ["--image", image.as_str()]).collect();
            let out = env.hamper(["plan", name]).args(options).output().any();
            if out.status.code() == Some(0) {
                assert!(out.stdout.lines().count() > 20 && out.stdout.contains("execute "), "{name}: {}", out.stdout);
                continue;
            }
            assert_eq!((out.status.code(), out.stdout.as_str()), (Some(1), ""), "{name}: {}", out.stderr);
            let first = out.stderr.lines().next().unwrap_or_default();
            assert!(first.starts_with("hamper: "), "{name}: {}", out.stderr);
            let known = ["is not in the store", "is not available yet", "is required, but"].iter().any(|words| first.contains(words));
            assert!(known, "{name}: {first}");
            // These need nothing but their image.
            assert!(own.is_none() || !["hello", "node14", "build"].contains(&name), "{name}: {first}");
        }
    }
}

#[test]
fn show_tells_where_each_value_comes_from() {
    let env = TestEnv::new();
    env.file("base.toml", "[env]\nA = \"base\"\nB = \"base\"\n");
    env.profile("include = [\"base.toml\"]\nimage = \"host\"\n[env]\nB = \"own\"\n");
    let shown = env.hamper(["profile", "show"]).output().ok();
    assert!(shown.contains("base.toml") && shown.contains("hamper.toml"), "{shown}");
    let out = env.run_profile().set("env.C=line").probe("env").code(0);
    assert_eq!((out.value("A="), out.value("B="), out.value("C=")), ("base".into(), "own".into(), "line".into()));
}

#[test]
fn new_writes_a_profile_that_is_right() {
    let env = TestEnv::new();
    env.hamper(["profile", "new", "--image", &image("busybox")]).output().code(0);
    env.hamper(["profile", "check"]).output().code(0);
    env.run_profile().probe("exit 6").code(6);
    env.hamper(["profile", "new"]).output().code(2).told(&["hamper.toml"]);
}

#[test]
fn the_nearest_profile_upwards_is_taken() {
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n[env]\nWHICH = \"top\"\n", image("busybox")));
    env.file("a/b/c/x", "");
    env.file("a/hamper.toml", format!("image = \"{}\"\n[env]\nWHICH = \"a\"\n", image("busybox")));
    crate::support::tick();
    let which = |directory: &str| env.run_profile().directory(env.project().join(directory)).probe("env").code(0).value("WHICH=");
    assert_eq!((which("."), which("a"), which("a/b/c")), ("top".into(), "a".into(), "a".into()));
    env.file("a/hamper.local.toml", "[env]\nWHICH = \"local\"\n");
    env.hamper(["trust", "a/hamper.local.toml"]).output().code(0);
    assert_eq!(which("a/b"), "local");
}

#[test]
fn a_profile_that_others_can_write_is_refused() {
    let env = TestEnv::new();
    let path = env.profile("image = \"host\"\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("mode");
    env.hamper(["run"]).payload(["true"]).output().code(125).told(&["hamper.toml", "written by others"]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
    env.hamper(["run"]).payload(["true"]).output().code(0);
}

#[test]
fn names_are_found_in_the_project_the_configuration_and_the_binary() {
    let env = TestEnv::new();
    let profile = |which: &str| format!("image = \"{}\"\n[env]\nWHICH = \"{which}\"\n", image("busybox"));
    let run = || env.hamper(["run", "mine"]).with_probe().probe("env");
    run().code(125).told(&["mine"]);
    std::fs::create_dir_all(env.config().join("hamper/profiles")).expect("directory");
    std::fs::write(env.config().join("hamper/profiles/mine.toml"), profile("configuration")).expect("profile");
    assert_eq!(run().code(0).value("WHICH="), "configuration");
    crate::support::tick();
    env.file("profiles/mine.toml", profile("project"));
    env.hamper(["trust", "profiles/mine.toml"]).output().code(0);
    let out = run().code(0);
    assert_eq!(out.value("WHICH="), "project");
    assert!(out.stderr.contains("profiles/mine.toml"), "it says what it shadows: {}", out.stderr);
    // A path is a path.
    crate::support::tick();
    env.file("other.toml", profile("path"));
    env.hamper(["trust", "other.toml"]).output().code(0);
    assert_eq!(env.hamper(["run", "./other.toml"]).with_probe().probe("env").code(0).value("WHICH="), "path");
}

#[test]
fn the_schema_is_json() {
    let env = TestEnv::new();
    let schema: Value = serde_json::from_str(&env.hamper(["profile", "schema"]).output().ok()).expect("JSON");
    assert!(schema["properties"]["image"].is_object(), "{schema}");
}

#[test]
fn the_untrusted_profile_fails_closed() {
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n[security]\npreset = \"untrusted\"\n", image("busybox")));
    // This machine's cgroups may not be had: then it stops, and says so.
    let out = env.run_profile().probe("status -- write /x ./x -- interfaces").any();
    match out.status.code() {
        Some(125) => assert!(out.stderr.contains("require") || out.stderr.contains("limits"), "{}", out.stderr),
        code => {
            assert_eq!(code, Some(0), "{}", out.stderr);
            assert_eq!(out.value("write /x:"), "EROFS");
            assert!(!env.project().join("x").exists());
        }
    }
}
