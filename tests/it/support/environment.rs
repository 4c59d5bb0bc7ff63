//! A user's directories, made for one test.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Hamper, base, hamper, unique};

/// HOME, XDG directories and a project of one test; removed when it is over.
///
/// The store is shared by all tests of a run, which saves loading, and shows that hampers do not disturb each other; [`TestEnv::alone`]
/// has one of its own.
pub struct TestEnv {
    root: PathBuf,
    store: PathBuf,
}

impl TestEnv {
    pub fn new() -> Self {
        Self::with_store(base().join("shared-store"))
    }

    /// With a store of its own, empty.
    pub fn alone() -> Self {
        let mut env = Self::with_store(PathBuf::new());
        env.store = env.root.join("data");
        env.make(&env.store);
        env
    }

    fn with_store(store: PathBuf) -> Self {
        let env = Self { root: base().join(format!("t{}", unique())), store };
        for directory in ["home", "state", "config", "cache", "run", "project"] {
            env.make(&env.root.join(directory));
        }
        if !env.store.as_os_str().is_empty() {
            env.make(&env.store);
        }
        env
    }

    fn make(&self, path: &Path) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).expect("directory of a test");
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// hamper's own directory of the store.
    pub fn store(&self) -> PathBuf {
        self.store.join("hamper")
    }

    pub fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// Another directory beside the project.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        self.make(&path);
        path
    }

    /// Writes a file below the project, with its directories.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        if [".toml", ".json", ".env"].iter().any(|end| path.ends_with(end)) {
            super::tick();
        }
        let path = self.project().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("directories");
        fs::write(&path, content).expect("file of a test");
        path
    }

    pub fn executable(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(path, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        path
    }

    /// Writes the project's `hamper.toml`.
    pub fn profile(&self, text: &str) -> PathBuf {
        self.file("hamper.toml", text)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The binary with this environment and no other, in the project.
    pub fn hamper<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Hamper {
        let mut command = Hamper::new(hamper(), self.root.clone());
        command = self.surround(command);
        command.args(arguments)
    }

    /// Another program in the same surroundings.
    pub fn program<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Hamper {
        self.surround(Hamper::new(PathBuf::from(program), self.root.clone())).args(arguments)
    }

    fn surround(&self, command: Hamper) -> Hamper {
        command
            .env("HOME", self.home())
            .env("XDG_DATA_HOME", &self.store)
            .env("XDG_STATE_HOME", self.state())
            .env("XDG_CONFIG_HOME", self.config())
            .env("XDG_CACHE_HOME", self.root.join("cache"))
            .env("XDG_RUNTIME_DIR", self.root.join("run"))
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LANG", "C.UTF-8")
            .directory(self.project())
    }

    /// `hamper run --image IMAGE`, with the probe at `/probe`.
    pub fn run(&self, image: &str) -> Hamper {
        self.hamper(["run"]).image(image)
    }

    /// `hamper run` of the project's profile, with the probe at `/probe`.
    pub fn run_profile(&self) -> Hamper {
        self.hamper(["run"]).with_probe()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("HAMPER_TEST_KEEP").is_some() {
            use std::io::Write;
            // Ignoring: there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "kept: {}", self.root.display());
            return;
        }
        // Ids of a range are nobody's outside its map.
        if self.store.starts_with(&self.root) && self.store().exists() {
            drop(self.hamper(["image", "prune", "--all"]).output());
        }
        if fs::remove_dir_all(&self.root).is_err() {
            // Files of other ids, or directories that the payload has closed.
            let script = "chmod -R u+rwX \"$1\"; rm -rf \"$1\"";
            let run = |program: &str, before: &[&str]| {
                drop(
                    Command::new(program)
                        .args(before)
                        .args(["sh", "-c", script, "sh"])
                        .arg(&self.root)
                        .stderr(std::process::Stdio::null())
                        .status(),
                );
            };
            run("env", &[]);
            if self.root.exists() {
                run("unshare", &["--map-auto", "--map-root-user", "--"]);
            }
        }
    }
}
