//! A profile with something of each kind of step.

use super::{TestEnv, image};

/// Writes it into the project, and what it names; `more` goes to the table `[limits]`.
pub fn rich(env: &TestEnv, root: &str, more: &str) {
    env.file(".git/config", "[core]\n");
    env.file(".git/HEAD", "ref: refs/heads/main\n");
    env.file(".git/hooks/pre-commit", "");
    env.file(".env", "SECRET=1\n");
    env.file("data/x", "");
    env.profile(&format!(
        r#"name = "rich"
image = "{}"
[root]
mode = "{root}"
tmp = "16M"
[project]
hide = [".env"]
[[mounts]]
source = "data"
target = "/data"
[[mounts]]
type = "tmpfs"
target = "/scratch"
[[mounts]]
type = "cache"
source = "c"
target = "/cache"
[limits]
ulimits = {{ nofile = 256 }}
{more}
[secrets.token]
from = "env:TOKEN"
target = "/run/secrets/token"
"#,
        image("busybox")
    ));
}
