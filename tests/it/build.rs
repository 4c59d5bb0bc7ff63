//! The shipped profile `build`: the same bytes whoever builds, wherever and whenever; and without it, others.
//!
//! `tests/run` builds as two users where it is root: each leaves what came out in a directory that they share, and the second compares.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::require;
use crate::support::pty::Pty;
use crate::support::{TestEnv, has_image, images, peer, shared, sources, subuid, user_name};

/// A project of `tests/projects`, and what builds it.
struct Project {
    name: &'static str,
    command: &'static [&'static str],
    /// Files in which each build without the profile says something else.
    tells: &'static [&'static str],
}

const C: Project = Project {
    name: "c",
    command: &["make", "OUT=/out"],
    tells: &["environment.txt", "hello", "hello.tar.gz", "hello.txt", "libhello.a", "sources.tar.gz", "where.o"],
};

const NODE: Project = Project { name: "node", command: &["sh", "build.sh"], tells: &["dist/bundle.js", "twice-1.0.0.tgz"] };

/// Somebody who builds, with habits of their own.
struct Caller {
    /// Where the checkout lies.
    directory: &'static str,
    shell: &'static str,
    /// Files are written in the other order, which some file systems show.
    backwards: bool,
    at_a_terminal: bool,
}

const ONE: Caller =
    Caller { directory: "project", shell: "umask 022; export LANG=C.UTF-8 TERM=dumb MINE=1", backwards: false, at_a_terminal: false };

const OTHER: Caller = Caller {
    directory: "elsewhere/a-longer-name/checkout",
    shell: "umask 077; ulimit -S -s 4096 -n 300; ulimit -c unlimited 2>/dev/null || ulimit -c 0; \
            export LANG=tr_TR.UTF-8 LC_ALL=C LC_TIME=de_DE.UTF-8 TZ=Asia/Kathmandu TERM=screen COLORTERM=truecolor NO_COLOR=1 \
            CFLAGS=-O0 MAKEFLAGS=k NODE_OPTIONS=--no-warnings npm_config_umask=0 SOURCE_DATE_EPOCH=1 USER=somebody",
    backwards: true,
    at_a_terminal: true,
};

/// What came out: mode and content by name.
type Bytes = BTreeMap<String, (u32, Vec<u8>)>;

/// Builds a project; `options` are those of `hamper run`.
fn build(project: &Project, caller: &Caller, options: &[&str]) -> Bytes {
    let env = TestEnv::new();
    let checkout = env.directory(caller.directory);
    let (_, umask) = caller.shell.split_once("umask ").expect("a umask");
    let mask = u32::from_str_radix(&umask[..3], 8).expect("a umask");
    check_out(&sources().join("tests/projects").join(project.name), &checkout, mask, caller.backwards);
    let out = env.directory("out");
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o777 & !mask)).expect("mode");
    let volume = format!("{}:/out", out.display());
    let run = env.hamper(["run"]).args(options.iter().copied()).args(["--image", &pinned(), "-v", &volume]);
    let words = run.payload(project.command.iter().copied()).words();
    let line = format!("cd {} && {}; {words}", checkout.display(), caller.shell);
    // The image may have to be loaded first; a terminal is not waited for that long.
    env.run(&pinned()).set("identity.map=single").sh("true").ok();
    // Node takes longer than a terminal is waited for on a busy machine.
    if caller.at_a_terminal && project.name == C.name {
        let mut pty = Pty::new();
        pty.start(&line, &env);
        let status = pty.wait();
        assert!(status.success(), "{}", pty.shown());
    } else {
        env.program("bash", ["-c", &line]).output().ok();
    }
    let mut bytes = Bytes::new();
    collect(&out, &out, &mut bytes);
    assert!(bytes.len() >= project.tells.len(), "{:?}", bytes.keys());
    bytes
}

/// The image by its digest, which locks it.
fn pinned() -> String {
    let path = images().join("build-base");
    let index = std::fs::read_to_string(path.join("index.json")).expect("index.json");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    format!("oci:{}@{}", path.display(), index["manifests"][0]["digest"].as_str().expect("a digest"))
}

/// Copies a directory as git would write it under this umask.
fn check_out(from: &Path, to: &Path, mask: u32, backwards: bool) {
    std::fs::create_dir_all(to).expect("directory");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(from).expect("project").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    if backwards {
        paths.reverse();
    }
    for path in paths {
        let target = to.join(path.file_name().expect("name"));
        let mode = if path.is_dir() {
            check_out(&path, &target, mask, backwards);
            0o777
        } else {
            std::fs::copy(&path, &target).expect("copy");
            0o666
        };
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode & !mask)).expect("mode");
    }
}

fn collect(top: &Path, directory: &Path, into: &mut Bytes) {
    for entry in std::fs::read_dir(directory).expect("what came out") {
        let path = entry.expect("entry").path();
        let mode = std::fs::symlink_metadata(&path).expect("entry").permissions().mode();
        let name = path.strip_prefix(top).expect("below").display().to_string();
        let content = if path.is_dir() { Vec::new() } else { std::fs::read(&path).expect("readable") };
        into.insert(name, (mode, content));
        if path.is_dir() {
            collect(top, &path, into);
        }
    }
}

/// Names of what differs, with the first place of it.
fn differing(one: &Bytes, other: &Bytes) -> BTreeMap<String, String> {
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let difference = |name: &String| match (one.get(name), other.get(name)) {
        (Some(one), Some(other)) if one == other => None,
        (Some((mode, _)), Some((other_mode, _))) if mode != other_mode => Some(format!("mode {mode:o} and {other_mode:o}")),
        (Some((_, one)), Some((_, other))) => {
            let at = one.iter().zip(other).position(|(one, other)| one != other).unwrap_or(one.len().min(other.len()));
            let near = |bytes: &[u8]| {
                let part = bytes.get(at.saturating_sub(40)..bytes.len().min(at + 80)).unwrap_or_default();
                String::from_utf8_lossy(part).into_owned()
            };
            Some(format!("at byte {at} of {} and {}: {:?} and {:?}", one.len(), other.len(), near(one), near(other)))
        }
        _ => Some("is in one of them".into()),
    };
    names.into_iter().filter_map(|name| Some((name.clone(), difference(name)?))).collect()
}

/// The shipped profile, and the same in a profile of one's own, whose name is that of the checkout.
const SHIPPED: [&str; 1] = ["build"];
const OWN: [&str; 6] = ["--set", "security.preset=build", "--set", "name=checkout", "--project", "."];

/// Both builds of the profile, the second at least two seconds after the first.
fn twice(project: &Project) -> &'static (Bytes, Bytes) {
    static BUILT: [OnceLock<(Bytes, Bytes)>; 2] = [const { OnceLock::new() }; 2];
    BUILT[usize::from(project.name == NODE.name)].get_or_init(|| {
        let begin = Instant::now();
        let one = build(project, &ONE, &SHIPPED);
        std::thread::sleep(Duration::from_secs(2).saturating_sub(begin.elapsed()));
        (one, build(project, &OTHER, &OWN))
    })
}

fn the_same_from_two_directories_at_two_times(project: &Project) {
    require!(has_image("build-base"), "the test images");
    let (one, other) = twice(project);
    assert_eq!(differing(one, other), BTreeMap::new());
    // The control: without the profile everything that tells something tells something else.
    let control = ["--project", "."];
    let differing = differing(&build(project, &ONE, &control), &build(project, &OTHER, &control));
    for name in project.tells {
        assert!(differing.contains_key(*name), "without the profile {name} should differ too; there are: {differing:?}");
    }
}

#[test]
fn a_c_project_gives_the_same_bytes() {
    the_same_from_two_directories_at_two_times(&C);
}

#[test]
fn a_node_project_gives_the_same_bytes() {
    the_same_from_two_directories_at_two_times(&NODE);
}

#[test]
fn both_maps_give_the_same_bytes() {
    require!(has_image("build-base"), "the test images");
    if subuid().is_none() {
        return;
    }
    for project in [C, NODE] {
        let range = build(&project, &OTHER, &["build", "--set", "identity.map=range"]);
        let mut differing = differing(&twice(&project).0, &range);
        // Whose the image's files are goes with the map, and with it what can be installed: the reason why the preset has a map.
        if project.name == C.name {
            let told = differing.remove("image.txt").expect("owners of the image's files");
            assert!(told.contains("node:node") && told.contains("root:root") && told.contains("writable"), "{told}");
        }
        assert_eq!(differing, BTreeMap::new(), "{}", project.name);
    }
}

#[test]
fn what_one_user_builds_is_left_for_the_other() {
    require!(has_image("build-base"), "the test images");
    let Some(shared) = shared() else { return };
    for project in [C, NODE] {
        let top = shared.join(user_name()).join(project.name);
        for (name, (mode, content)) in &twice(&project).1 {
            let path = top.join(name);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("directories");
            if mode & 0o040_000 == 0 {
                std::fs::write(&path, content).expect("file");
            } else {
                std::fs::create_dir_all(&path).expect("directory");
            }
            // As the others must read it anyway; a mode that they could not read with shows as one that differs.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o7777)).expect("mode");
        }
    }
}

#[test]
fn two_users_build_the_same_bytes() {
    require!(has_image("build-base"), "the test images");
    let peer = peer();
    require!(shared().is_some() && peer.is_some(), "a second user to compare with, which tests/run has where it is root");
    let (shared, peer) = (shared().expect("shared"), peer.expect("peer"));
    for project in [C, NODE] {
        let top = shared.join(&peer).join(project.name);
        assert!(top.is_dir(), "{} has left nothing of {}", peer.display(), project.name);
        let mut theirs = Bytes::new();
        collect(&top, &top, &mut theirs);
        assert_eq!(differing(&twice(&project).0, &theirs), BTreeMap::new(), "{}", project.name);
    }
}

#[test]
fn the_report_says_where_the_image_is_not_locked() {
    require!(has_image("build-base"), "the test images");
    let env = TestEnv::new();
    let report = env.root().join("report.json");
    let degraded = |image: &str, preset: &str| -> Vec<serde_json::Value> {
        let preset = format!("security.preset={preset}");
        let call = env.hamper(["run", "--image", image, "--set", &preset, "--report", &report.display().to_string()]);
        call.payload(["true"]).output().code(0).silent();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).expect("report")).expect("JSON");
        value["degraded"].as_array().expect("list").iter().filter(|one| one["what"] == "locked").cloned().collect()
    };
    let (pinned, loose) = (pinned(), format!("oci:{}", images().join("build-base").display()));
    assert_eq!(degraded(&pinned, "build"), Vec::<serde_json::Value>::new());
    let told = degraded(&loose, "build");
    // The line that it says to write is the one that locks.
    assert!(told.len() == 1 && told[0]["got"].as_str().is_some_and(|got| got.contains(&pinned)), "{told:?}");
    // The control: nobody asked.
    assert_eq!(degraded(&loose, "dev"), Vec::<serde_json::Value>::new());
    // A digest that is not there is no image.
    let other = format!("{loose}@sha256:{}", "0".repeat(64));
    env.hamper(["run", "--image", &other]).payload(["true"]).output().code(125).told(&["sha256:000"]);
}
