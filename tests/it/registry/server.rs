//! Debian's `docker-registry`, started for one test on a port of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{layout, skopeo};
use crate::support::{TestEnv, within};

/// The program, where `tests/run` has put it or the distribution has.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("HAMPER_TEST_REGISTRY").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from("/usr/bin/docker-registry")]).find(|path| path.exists())
}

/// A registry; it ends with the test.
pub struct Server {
    child: Child,
    directory: PathBuf,
    port: u16,
    config: String,
}

impl Server {
    /// Plain HTTP, nobody needs to say who he is.
    pub fn start(env: &TestEnv) -> Self {
        Self::start_with(env, "", "")
    }

    /// `http` is put below the section `http`, `more` at the end of the configuration.
    pub fn start_with(env: &TestEnv, http: &str, more: &str) -> Self {
        let directory = env.directory(&format!("registry-{}", crate::support::unique()));
        for _ in 0..5 {
            let port = free_port();
            let config = format!(
                "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\nstorage:\n  filesystem: {{rootdirectory: {0}/data}}\n  delete: {{enabled: true}}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{http}{more}",
                directory.display()
            );
            let mut server = Self { child: spawn(&directory, &config), directory: directory.clone(), port, config };
            if server.is_up() {
                return server;
            }
        }
        panic!("docker-registry does not start: {}", fs::read_to_string(directory.join("log")).unwrap_or_default());
    }

    fn is_up(&mut self) -> bool {
        within(20.0, || TcpStream::connect(("127.0.0.1", self.port)).is_ok() || self.child.try_wait().is_ok_and(|end| end.is_some()))
            && self.child.try_wait().is_ok_and(|end| end.is_none())
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Pushes a test image by skopeo; its digest there.
    pub fn fill(&self, env: &TestEnv, image: &str, name: &str) -> String {
        let target = format!("docker://127.0.0.1:{}/{name}", self.port);
        skopeo(env, ["copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false", &layout(image), &target]);
        self.digest(env, name)
    }

    /// The digest of a tag, as skopeo sees it.
    pub fn digest(&self, env: &TestEnv, name: &str) -> String {
        let raw = format!("docker://127.0.0.1:{}/{name}", self.port);
        skopeo(env, ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &raw]).trim().to_owned()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("kill the registry");
        self.child.wait().expect("wait for the registry");
    }

    /// The same registry again, on the same port.
    pub fn revive(&mut self) {
        self.child = spawn(&self.directory, &self.config);
        assert!(self.is_up(), "the registry does not come back");
    }

    /// How often hamper asked for a path with this in it.
    pub fn asked(&self, part: &str) -> usize {
        self.called("GET", part)
    }

    /// How often hamper called a path with this in it by a method.
    pub fn called(&self, method: &str, part: &str) -> usize {
        let log = fs::read_to_string(self.directory.join("log")).expect("log");
        let start = format!("\"{method} /v2/");
        log.lines().filter(|line| line.contains(&start) && line.contains("\"hamper/") && line.contains(part)).count()
    }

    /// Where a repository keeps its uploads.
    pub fn uploads(&self, repository: &str) -> PathBuf {
        self.directory.join(format!("data/docker/registry/v2/repositories/{repository}/_uploads"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ignoring: a test may have killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, config: &str) -> Child {
    let path = directory.join("config.yml");
    fs::write(&path, config).expect("configuration");
    let log = || fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("log");
    // It ends with the thread of the test, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program().expect("docker-registry")).arg("serve").arg(&path);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(log())
        .stderr(log())
        .spawn()
        .expect("start docker-registry")
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
