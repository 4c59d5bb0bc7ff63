//! `hamper image`: load, list, look, unpack, remove.

use serde_json::Value;

use crate::require;
use crate::support::tree::names;
use crate::support::{TestEnv, has_image, image, maps};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn an_image_is_loaded_listed_inspected_and_removed() {
    for map in maps() {
        let env = TestEnv::alone();
        let call = |arguments: &[&str]| env.hamper([&["image", "--map", map], arguments].concat()).output();
        assert_eq!(json(&call(&["ls", "--format", "json"]).ok()), Value::Array(vec![]));
        call(&["load", &image("busybox")]).ok();
        let list = json(&call(&["ls", "--format", "json"]).ok());
        let digest = list[0]["digest"].as_str().expect("digest").to_owned();
        assert!(digest.starts_with("sha256:"), "{list}");
        assert!(call(&["ls"]).ok().contains(&digest[..19]));
        let shown = json(&call(&["inspect", &digest]).ok());
        assert!(shown.to_string().contains("diff_id"), "{shown}");
        call(&["rm", &digest]).ok();
        assert_eq!(json(&call(&["ls", "--format", "json"]).ok()), Value::Array(vec![]));
        call(&["rm", &digest]).code(1).told(&[&digest[7..19]]);
        call(&["prune"]).ok();
        let left: Vec<_> =
            names(&env.store()).into_iter().filter(|path| path.starts_with("layers") && path.components().count() > 1).collect();
        assert!(left.is_empty(), "{map}: {left:?}");
    }
}

#[test]
fn loading_twice_loads_once() {
    let env = TestEnv::alone();
    env.hamper(["image", "load", &image("busybox")]).output().code(0);
    let before = names(&env.store());
    env.hamper(["image", "load", &image("busybox")]).output().code(0);
    assert_eq!(names(&env.store()), before);
}

#[test]
fn every_kind_of_source() {
    let env = TestEnv::alone();
    require!(has_image("podman-save.tar"), "the test images");
    // tar: and rootfs: of a tree that is unpacked here.
    let tree = env.root().join("tree");
    env.hamper(["image", "--map", "single", "unpack", &image("busybox"), &tree.display().to_string()]).output().code(0);
    let tar = env.root().join("tree.tar");
    env.program("tar", ["--owner=0", "--group=0", "-C", &tree.display().to_string(), "-cf", &tar.display().to_string(), "."])
        .output()
        .code(0);
    for source in [format!("tar:{}", tar.display()), format!("rootfs:{}", tree.display()), image("busybox")] {
        env.run(&source).args(["--entrypoint", ""]).payload(["/bin/busybox", "true"]).output().code(0);
    }
    // What was run from a directory has not changed it.
    assert!(!tree.join("probe").exists());
    for source in ["podman-save.tar", "podman-save-oci.tar"] {
        assert_eq!(env.run(source).args(["--entrypoint", ""]).payload(["node", "-p", "6*7"]).output().ok().trim(), "42");
    }
}

#[test]
fn a_source_in_a_profile_counts_from_the_profiles_directory() {
    let env = TestEnv::new();
    std::os::unix::fs::symlink(crate::support::images().join("busybox"), env.project().join("layout")).expect("link");
    env.file("below/x", "");
    env.profile("image = \"oci:layout\"\n");
    env.run_profile().directory(env.project().join("below")).probe("exit 4").code(4);
}

#[test]
fn unpack_writes_a_tree_and_overwrites_none() {
    let env = TestEnv::alone();
    let out = env.root().join("out");
    let call = || env.hamper(["image", "--map", "single", "unpack", &image("busybox"), &out.display().to_string()]).output();
    call().ok();
    assert!(out.join("bin/busybox").exists());
    call().code(1).told(&["out"]);
}

#[test]
fn usage_errors_are_two_and_findings_one() {
    let env = TestEnv::new();
    env.hamper(["image", "load"]).output().code(2);
    env.hamper(["image", "load", "oci:/no/such/place"]).output().code(1).told(&["/no/such/place"]);
    env.hamper(["image", "no-such-command"]).output().code(2);
}

#[test]
fn a_running_sandbox_keeps_its_image() {
    let env = TestEnv::alone();
    let mut child =
        env.run("busybox").map("single").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x; ls /bin/busybox"]).spawn();
    child.await_line("ready");
    drop(env.hamper(["image", "--map", "single", "prune", "--all"]).output().any());
    drop(child.child.stdin.take());
    let out = child.output().code(0);
    assert!(out.stdout.contains("/bin/busybox"), "{}", out.stdout);
}

#[test]
fn a_killed_load_leaves_nothing_that_counts() {
    require!(has_image("node14"), "the test images");
    for wait in [5, 20, 60, 150, 300] {
        let env = TestEnv::alone();
        let child = env.hamper(["image", "--map", "single", "load", &image("node14")]).spawn();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.signal(rustix::process::Signal::KILL);
        drop(child);
        // What it left does not hinder the next one, and is gone with it.
        env.hamper(["image", "--map", "single", "load", &image("node14")]).output().code(0);
        let out = env.run("node14").map("single").args(["--entrypoint", ""]).payload(["node", "-p", "6*7"]).output().ok();
        assert_eq!(out.trim(), "42");
        env.hamper(["image", "--map", "single", "prune", "--all"]).output().code(0);
        assert!(
            crate::support::within(10.0, || names(&env.store()).len() < 30),
            "{wait}: {:?}",
            names(&env.store()).into_iter().take(40).collect::<Vec<_>>()
        );
    }
}
