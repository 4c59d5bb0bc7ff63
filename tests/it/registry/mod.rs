//! Images from registries: Debian's `docker-registry` on loopback, and a small one of the tests' own that misbehaves on demand.

mod auth;
mod faults;
mod faulty;
mod lock;
mod progress;
mod published;
mod pull;
mod push;
mod server;
mod store;

use crate::support::{TestEnv, images};

/// A test image as skopeo names it.
fn layout(image: &str) -> String {
    format!("oci:{}", images().join(image).display())
}

/// Runs skopeo in the test's surroundings; what it wrote.
fn skopeo<'a>(env: &TestEnv, arguments: impl IntoIterator<Item = &'a str>) -> String {
    env.program("skopeo", arguments).output().ok()
}

/// The files of a store below `directory`, without directories.
fn kept(env: &TestEnv, directory: &str) -> Vec<String> {
    let found = std::fs::read_dir(env.store().join(directory)).into_iter().flatten().flatten();
    let mut names: Vec<String> = found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The whole layers of a store. Nothing may be left of others.
fn layers(env: &TestEnv) -> usize {
    let names = kept(env, "layers");
    assert!(names.iter().all(|name| !name.starts_with(".tmp-")), "torn: {names:?}");
    names.iter().filter(|name| name.ends_with(".json") && !name.starts_with("s.")).count()
}
