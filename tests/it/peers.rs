//! Images that other tools wrote: the tree inside, under the range map, is the one that rootless podman shows.

use crate::require;
use crate::support::{Seen, TestEnv, has_image, image, sources, subuid};

/// What hamper makes itself, whatever the image has there.
const OWN: [&str; 8] = ["./dev", "./proc", "./sys", "./etc/hosts", "./etc/hostname", "./etc/resolv.conf", "./etc/localtime", "./probe"];

/// The lines of `tests/images/walk.py`, from inside.
fn inside(env: &TestEnv, name: &str, exclude: &[&str]) -> Seen {
    // Reads what root of the image may read.
    let words = [&["/probe", "walk"], &OWN[..], exclude].concat();
    env.run(name)
        .map("range")
        .args(["-u", "0", "--entrypoint", ""])
        .set("identity.home=none")
        .set("project.mode=none")
        .set("security.caps=[\"CAP_DAC_OVERRIDE\", \"CAP_DAC_READ_SEARCH\"]")
        .payload(words)
        .output()
        .code(0)
}

fn podman(env: &TestEnv, name: &str, exclude: &[&str]) -> Seen {
    let program = sources().join("tests/images/tree-of").display().to_string();
    // Podman's run root must have a short name.
    let mut call = env.program("env", ["TMPDIR=/var/tmp", program.as_str(), "--no-dir-mtime"]);
    for path in OWN.iter().chain(exclude) {
        call = call.args(["--exclude", path]);
    }
    let path = crate::support::images().join(name).display().to_string();
    call.args([path.as_str()]).output().code(0)
}

fn same(name: &str, exclude: &[&str]) {
    require!(subuid().is_some() && has_image(name), "subordinate ids and the test images");
    let env = TestEnv::new();
    let (ours, theirs) = (inside(&env, name, exclude), podman(&env, name, exclude));
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (ours.stdout.lines().collect(), theirs.stdout.lines().collect());
    assert!(theirs.len() > 100, "podman shows {} lines", theirs.len());
    let only = |one: &[&str], other: &[&str]| -> Vec<String> {
        let other: std::collections::HashSet<&str> = other.iter().copied().collect();
        one.iter().filter(|line| !other.contains(*line)).take(10).map(ToString::to_string).collect()
    };
    let (here, there) = (only(&ours, &theirs), only(&theirs, &ours));
    assert!(here.is_empty() && there.is_empty(), "{name}\nonly inside hamper: {here:#?}\nonly in podman: {there:#?}");
    assert_eq!(ours, theirs);
}

#[test]
fn what_podman_saved_as_a_docker_archive() {
    same("podman-save.tar", &[]);
}

#[test]
fn what_podman_saved_as_an_oci_archive() {
    same("podman-save-oci.tar", &[]);
}

#[test]
fn what_buildah_built_in_stages() {
    // Its volumes, which podman makes when it runs the image.
    same("buildah-multistage", &["./data", "./var/lib"]);
}

#[test]
fn what_umoci_changed() {
    same("umoci-mods", &[]);
}

#[test]
fn a_hundred_and_twenty_seven_layers() {
    same("layers127", &[]);
}

#[test]
fn layers_that_whiteout_and_replace_each_other() {
    // tests/images/README.md tells why podman differs here.
    same("whiteouts", &["./w/meta/before1970", "./w/hard/symlink", "./w/hard/symlink-too", "./w/meta/xattr-dir"]);
}

#[test]
fn the_real_one() {
    same("node14", &[]);
}

#[test]
fn what_podman_refuses_is_right_by_the_specification() {
    require!(subuid().is_some() && has_image("whiteouts"), "subordinate ids and the test images");
    let env = TestEnv::new();
    let out = inside(&env, "whiteouts", &[]);
    assert!(out.stdout.contains("./w/meta/before1970 f 0644 0:0 mtime=-86400.500000000"), "{}", out.value("./w/meta/before1970"));
    env.run("umoci-swap").probe("ls /").code(0);
    // A hard link out of its layer is refused, as by podman with overlay storage.
    env.run("cross-links").probe("ls /").code(125).told(&["hard link to what is not in this layer"]);
    for tag in ["latest", "nested"] {
        let source = format!("{}:{tag}", image("multi-arch"));
        env.run(&source).probe("ls /").code(0);
    }
    env.run(&format!("{}:only-arm64", image("multi-arch"))).probe("ls /").code(125).told(&["arm64"]);
}

#[test]
fn the_tree_is_the_same_under_the_single_map_but_for_owners() {
    require!(has_image("whiteouts"), "the test images");
    let env = TestEnv::new();
    let run = |map: &str| {
        let words = [&["/probe", "walk"], &OWN[..]].concat();
        let call = env.run("whiteouts").map(map).args(["-u", "0", "--entrypoint", ""]).set("identity.home=none").set("project.mode=none");
        let out = call.payload(words).output().code(0);
        // Path, kind, mode; no owner.
        let line = |line: &str| line.split(' ').take(3).collect::<Vec<_>>().join(" ");
        out.stdout.lines().map(line).collect::<Vec<_>>()
    };
    let single = run("single");
    assert!(single.len() > 100);
    require!(subuid().is_some(), "subordinate ids");
    let range = run("range");
    let missing: Vec<_> = range.iter().filter(|line| !single.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
