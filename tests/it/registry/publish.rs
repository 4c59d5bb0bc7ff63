//! Publishing: what is left when it is killed, two at once, what was damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout;
use crate::require;
use crate::support::{Hamper, Seen, TestEnv, has_image};

/// A name that no registry answers to.
const NAME: &str = "localhost:1/team/tool:1";

fn load(env: &TestEnv, image: &str) {
    env.hamper(["image", "--map", "single", "load", &layout(image), "--name", NAME]).output().code(0);
}

fn publish(env: &TestEnv, directory: &Path) -> Hamper {
    env.hamper(["image", "--map", "single", "publish", &directory.display().to_string(), NAME])
}

fn run(env: &TestEnv, directory: &Path) -> Seen {
    let call = env.run(NAME).env("HAMPER_STORES", directory).map("single").args(["--offline", "--entrypoint", ""]);
    call.payload(["sh", "-c", "exit 4"]).output().any()
}

/// Everything below a published store, by path.
fn everything(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["", "references", "blobs", "blobs/sha256", "blobs/sha512", "layers"] {
        let entries = fs::read_dir(directory.join(name)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("{name}/{}", entry.file_name().to_string_lossy())));
    }
    found.sort();
    found
}

fn tree(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory.join("layers")).expect("layers").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).find(|path| path.file_name().is_some_and(|name| name.len() == 22)).expect("a tree")
}

#[test]
fn what_a_killed_publication_left_is_swept_by_the_next_one() {
    require!(has_image("layers8"), "the test images");
    let (admin, env, control) = (TestEnv::alone(), TestEnv::alone(), TestEnv::alone());
    load(&admin, "layers8");
    let (directory, undisturbed) = (env.root().join("published"), env.root().join("undisturbed"));
    publish(&admin, &undisturbed).output().code(0);
    // At many moments, the making of the store among them.
    for delay in 0..30 {
        let child = publish(&admin, &directory).spawn();
        std::thread::sleep(Duration::from_millis(2 * delay));
        child.signal(rustix::process::Signal::KILL);
        drop(child);
    }
    // And what such a one leaves at its worst: a tree half made, one without facts, documents that have no name yet.
    fs::create_dir_all(directory.join("layers")).expect("layers");
    let (half, torn) = (format!("{}.tmp-1-0-1", "a".repeat(22)), "b".repeat(22));
    for name in [&half, &torn] {
        fs::create_dir_all(directory.join("layers").join(name).join("deep/deeper")).expect("tree");
        fs::set_permissions(directory.join("layers").join(name).join("deep"), fs::Permissions::from_mode(0o0)).expect("mode");
    }
    fs::write(directory.join(format!("layers/{torn}.modes")), "").expect("file");
    fs::write(directory.join(format!("references/{}.json.tmp-1-0-2", "c".repeat(64))), "").expect("file");
    fs::write(directory.join("hamper-store.tmp-1-0-3"), "").expect("file");
    // What is somebody's own stays.
    for own in ["notes.tmp-old", "layers/README"] {
        fs::write(directory.join(own), "mine").expect("file");
    }
    // Not while another one publishes: it waits.
    let lock = directory.join("hamper-lock").display().to_string();
    let mut holder = env.program("flock", [&*lock, "sh", "-c", "echo held; read x"]).spawn();
    holder.await_line("held");
    let waiting = publish(&admin, &directory).spawn();
    std::thread::sleep(Duration::from_millis(300));
    assert!(directory.join("layers").join(&half).exists(), "swept from under another");
    holder.signal(rustix::process::Signal::KILL);
    drop(holder);
    waiting.output().code(0);
    let mut wanted = everything(&undisturbed);
    wanted.extend(["/notes.tmp-old", "layers/README"].map(str::to_owned));
    wanted.sort();
    assert_eq!(everything(&directory), wanted);
    assert_eq!(run(&env, &directory).code(4).stdout, run(&control, &undisturbed).code(4).stdout);
}

#[test]
fn a_damaged_tree_is_published_anew() {
    let (admin, env) = (TestEnv::alone(), TestEnv::alone());
    load(&admin, "busybox");
    let directory = env.root().join("published");
    publish(&admin, &directory).output().code(0);
    let file = tree(&directory).join("bin/busybox");
    let bytes = fs::read(&file).expect("file");
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("file");
    let _ = run(&env, &directory).code(125).told(&["was published with", "hint: ask who publishes"]);
    let told = |words: &str| assert!(publish(&admin, &directory).output().ok().contains(words));
    told("1 new layers");
    let _ = run(&env, &directory).code(4);
    told("0 new layers");
    // Documents that are damaged too.
    for blob in fs::read_dir(directory.join("blobs/sha256")).expect("blobs").flatten() {
        fs::write(blob.path(), "x").expect("document");
    }
    told("0 new layers");
    let _ = run(&TestEnv::alone(), &directory).code(4);
}

#[test]
fn many_publish_at_once() {
    require!(has_image("layers8"), "the test images");
    let (env, admins) = (TestEnv::alone(), [TestEnv::alone(), TestEnv::alone(), TestEnv::alone(), TestEnv::alone()]);
    let directory = env.root().join("published");
    admins.iter().for_each(|admin| load(admin, "layers8"));
    let running: Vec<_> = admins.iter().map(|admin| publish(admin, &directory).spawn()).collect();
    let made: Vec<String> = running.into_iter().map(|one| one.output().ok()).collect();
    assert_eq!(made.iter().filter(|out| out.contains("8 new layers")).count(), 1, "{made:?}");
    assert!(everything(&directory).iter().all(|name| !name.contains(".tmp-")));
    let _ = run(&env, &directory).code(4);
}
