//! Images from registries: Debian's `docker-registry` on loopback, and a small one of the tests' own that misbehaves on demand.

mod auth;
mod cutting;
mod faults;
mod faulty;
mod lock;
mod progress;
mod publish;
mod published;
mod pull;
mod push;
mod server;
mod store;

use std::path::PathBuf;

use crate::support::{Output, TestEnv, images, unique};

/// A test image as skopeo names it.
fn layout(image: &str) -> String {
    format!("oci:{}", images().join(image).display())
}

/// Runs skopeo in the test's surroundings; what it wrote.
fn skopeo<'a>(env: &TestEnv, arguments: impl IntoIterator<Item = &'a str>) -> String {
    env.program("skopeo", arguments).output().ok()
}

/// A podman with a storage of its own, gone with it. It refuses a run root of more than 50 characters, so that is not where the test is.
struct Podman<'a> {
    env: &'a TestEnv,
    run: PathBuf,
    arguments: Vec<String>,
}

impl<'a> Podman<'a> {
    fn new(env: &'a TestEnv) -> Self {
        let run = PathBuf::from(format!("/tmp/hp{}", unique()));
        std::fs::create_dir(&run).expect("podman's run root");
        let root = env.directory(&format!("podman{}", unique())).display().to_string();
        let arguments = ["--root", &root, "--runroot", &run.display().to_string(), "--storage-driver", "vfs"].map(str::to_owned).into();
        Self { env, run, arguments }
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.env.program("podman", self.arguments.iter().map(String::as_str).chain(arguments.iter().copied())).output()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.output(&["unshare", "rm", "-rf", &self.arguments[1]]);
        let _ = std::fs::remove_dir_all(&self.run);
    }
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
