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
    let from = crate::support::images().join("busybox");
    env.program("cp", ["-r", &from.display().to_string(), &env.project().join("layout").display().to_string()]).output().code(0);
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

/// A Docker archive of one small layer, with these tags.
fn docker_archive(env: &TestEnv, file: &str, tags: &[&str]) -> String {
    let directory = env.directory(&format!("{file}.d"));
    std::fs::create_dir_all(directory.join("tree/bin")).expect("tree");
    std::fs::write(directory.join("tree/bin/tool"), "tool\n").expect("file");
    let at = |name: &str| directory.join(name).display().to_string();
    let pack = ["--owner=0", "--group=0", "--mtime=@0", "--sort=name"];
    env.program("tar", pack).args(["-C", &at("tree"), "-cf", &at("layer.tar"), "."]).output().code(0);
    let sum = env.program("sha256sum", [at("layer.tar").as_str()]).output().ok();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", &sum[..64])] },
    });
    std::fs::write(directory.join("config.json"), config.to_string()).expect("config");
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"] }]);
    std::fs::write(directory.join("manifest.json"), manifest.to_string()).expect("manifest");
    let path = env.root().join(file).display().to_string();
    let parts = ["manifest.json", "config.json", "layer.tar"];
    env.program("tar", ["-C", &directory.display().to_string(), "-cf", &path]).args(parts).output().code(0);
    format!("docker-archive:{path}")
}

#[test]
fn an_image_keeps_all_of_its_names() {
    let env = TestEnv::alone();
    let call = |arguments: &[&str]| env.hamper([&["image"], arguments].concat()).output();
    let names = || json(&call(&["ls", "--json"]).ok())[0]["names"].clone();
    let plain = docker_archive(&env, "plain.tar", &[]);
    for source in [docker_archive(&env, "a.tar", &["tool:14"]), docker_archive(&env, "b.tar", &["localhost/tool:latest"]), plain.clone()] {
        call(&["load", &source]).code(0);
    }
    let both = serde_json::json!(["docker.io/library/tool:14", "localhost/tool:latest"]);
    assert_eq!(names(), both);
    let table = call(&["ls"]).ok();
    assert_eq!(table.lines().filter(|line| line.contains("/tool:")).count(), 2, "{table}");
    // Without a name, one can be given.
    call(&["load", &plain, "--name", "other/tool"]).code(0);
    assert_eq!(names().as_array().map(Vec::len), Some(3));
    call(&["load", &plain, "--name", "Not A Name"]).code(2).told(&["--name"]);
    // A name goes alone, the last one with the image.
    assert!(call(&["rm", "other/tool"]).ok().contains("docker.io/other/tool:latest"));
    assert_eq!(names(), both);
    call(&["rm", "localhost/tool"]).code(0);
    assert_eq!(names(), serde_json::json!(["docker.io/library/tool:14"]));
    // What was untagged is tagged by the same archive.
    call(&["load", &docker_archive(&env, "b.tar", &["localhost/tool:latest"])]).code(0);
    call(&["load", &docker_archive(&env, "b.tar", &["localhost/tool:latest"])]).code(0);
    assert_eq!(names(), both);
    call(&["rm", "localhost/tool"]).code(0);
    call(&["rm", "tool:14"]).code(0);
    assert_eq!(json(&call(&["ls", "--json"]).ok()), Value::Array(vec![]));
    // A digest takes all names with it.
    call(&["load", &plain, "--name", "one", "--name", "two"]).code(0);
    let digest = json(&call(&["ls", "--json"]).ok())[0]["digest"].as_str().expect("digest").to_owned();
    call(&["rm", &digest]).code(0);
    call(&["rm", "one"]).code(1).told(&["one"]);
}

#[test]
fn a_name_stands_for_the_image_that_was_loaded_last() {
    let env = TestEnv::alone();
    let call = |arguments: &[&str]| env.hamper([&["image"], arguments].concat()).output();
    call(&["load", &image("busybox"), "--name", "tool"]).code(0);
    call(&["load", &docker_archive(&env, "a.tar", &["tool:latest"])]).code(0);
    let list = json(&call(&["ls", "--json"]).ok());
    let mut names: Vec<usize> = list.as_array().expect("list").iter().filter_map(|one| one["names"].as_array()).map(Vec::len).collect();
    names.sort_unstable();
    assert_eq!(names, [0, 1], "{list}");
}

#[test]
fn a_tag_alone_is_no_name() {
    let env = TestEnv::alone();
    env.hamper(["image", "load", &image("busybox")]).output().code(0);
    let table = env.hamper(["image", "ls"]).output().ok();
    assert!(table.lines().any(|line| line.starts_with("- ")), "{table}");
    env.run("oci:/none").args(["--offline", "--set", "image=latest"]).probe("exit 0").code(125).told(&["latest", "not in the store"]);
}

#[test]
fn an_archives_image_is_chosen_by_its_full_name() {
    let env = TestEnv::alone();
    let source = docker_archive(&env, "node.tar", &["docker.io/library/tool:14"]);
    for tag in ["docker.io/library/tool:14", "tool:14", "14"] {
        env.hamper(["image", "load", &format!("{source}:{tag}")]).output().code(0);
    }
    let out = env.hamper(["image", "load", &format!("{source}:15")]).output().code(1).told(&["no tag `15`", "docker.io/library/tool:14"]);
    assert!(!out.stderr.contains("Tag("), "{}", out.stderr);
    let out = env.hamper(["image", "load", &format!("{}:nosuch", image("busybox"))]).output().code(1);
    assert!(out.stderr.contains("no tag `nosuch`") && out.stderr.contains("latest"), "{}", out.stderr);
    let other = env.hamper(["image", "load", &image("busybox"), "--platform", "linux/s390x"]).output().code(1);
    assert!(other.stderr.contains("--platform"), "{}", other.stderr);
}

#[test]
fn a_loaded_image_is_unpacked_by_name() {
    for map in maps() {
        let env = TestEnv::alone();
        env.hamper(["image", "load", "--map", map, &image("busybox"), "--name", "box:1"]).output().code(0);
        let out = env.root().join("out");
        env.hamper(["image", "unpack", "box:1", &out.display().to_string()]).output().code(0);
        use std::os::unix::fs::MetadataExt;
        let facts = std::fs::symlink_metadata(out.join("bin/busybox")).expect("file");
        assert_eq!((facts.uid(), facts.gid()), (crate::support::uid(), crate::support::gid()), "{map}");
        let none = env.root().join("none").display().to_string();
        env.hamper(["image", "unpack", "--offline", "box:2", &none]).output().code(1).told(&["box:2", "not in the store"]);
    }
}

#[test]
fn what_cannot_be_loaded_is_refused() {
    let env = TestEnv::alone();
    env.hamper(["image", "load", "node:14"]).output().code(1).told(&["is a name", "hint: hamper image pull 'node:14'"]);
    let tree = format!("rootfs:{}", env.project().display());
    env.hamper(["image", "load", &tree]).output().code(1).told(&["nothing to load", "hamper run --image"]);
}

#[test]
fn a_load_does_not_wait_for_a_removal() {
    let env = TestEnv::alone();
    env.hamper(["image", "load", &image("busybox")]).output().code(0);
    env.hamper(["image", "prune", "--all"]).output().code(0);
    // All that was removed went by way of the trash.
    assert!(env.store().join("trash").is_dir());
    assert!(std::fs::read_dir(env.store().join("trash")).expect("trash").next().is_none());
    env.hamper(["image", "load", &image("busybox")]).output().code(0);
}

#[test]
fn data_that_cannot_be_written_is_a_failure() {
    let env = TestEnv::new();
    env.profile("image = \"host\"\n");
    for (arguments, code) in
        [(&["image", "ls"][..], 1), (&["profile", "show"], 1), (&["plan"], 1), (&["profile", "schema"], 1), (&["run", "--dry-run"], 125)]
    {
        let line = env.hamper(arguments.iter().copied()).words();
        env.program("sh", ["-c", &format!("{line} > /dev/full")]).output().code(code).told(&["standard output", "No space left"]);
        // A reader that goes away has read enough.
        let out = env.program("bash", ["-c", &format!("{line} | true; exit ${{PIPESTATUS[0]}}")]).output().any();
        assert!(matches!(out.status.code(), Some(0 | 141)) && out.stderr.is_empty(), "{:?} {}", out.status, out.stderr);
    }
}

#[test]
fn without_home_the_host_knows_it() {
    let env = TestEnv::new();
    let line = env.hamper(["image", "ls", "--json"]).words();
    env.program("sh", ["-c", &format!("unset HOME; {line}")]).output().code(0);
    let closed = env.directory("closed");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o500)).expect("mode");
    let script = format!("unset XDG_DATA_HOME XDG_STATE_HOME; export HOME={}; {}", closed.display(), env.hamper(["run", "hello"]).words());
    env.program("sh", ["-c", &script]).output().code(125).told(&["XDG_DATA_HOME"]);
}

/// Places that cannot be read or written end with what can be done.
#[test]
fn places_that_are_wrong_have_a_hint() {
    let env = TestEnv::alone();
    let closed = env.directory("closed");
    let full = env.directory("full");
    std::fs::write(full.join("file"), "").expect("file");
    let source = format!("oci:{}", crate::support::images().join("busybox").display());
    let digest = env.hamper(["image", "--map", "single", "load", &source]).output().ok().trim().to_owned();
    let set = |mode| std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("mode");
    set(0o555);
    let at = |path: std::path::PathBuf| path.display().to_string();
    let call = |arguments: &[&str], words: &[&str]| {
        let _ = env.hamper([&["image", "--map", "single"], arguments].concat()).output().code(1).told(words).told(&["hint: "]);
    };
    call(&["load", "oci:/nonexist"], &["/nonexist"]);
    call(&["unpack", &source, &at(full)], &["not empty"]);
    call(&["unpack", &source, &at(env.root().join("absent/below"))], &["No such file"]);
    call(&["unpack", &source, &at(closed.join("below"))], &["Permission denied"]);
    call(&["save", &digest, &format!("oci-archive:{}", at(closed.join("x.tar")))], &["Permission denied"]);
    call(&["save", &digest, &format!("oci-archive:{}", at(env.root().join("absent/x.tar")))], &["No such file"]);
    call(&["--store", &at(closed.join("store")), "ls"], &["Permission denied"]);
    env.hamper(["image", "ls"]).env("XDG_DATA_HOME", at(closed.clone())).output().code(1).told(&["Permission denied", "XDG_DATA_HOME=DIR"]);
    set(0o755);
}
