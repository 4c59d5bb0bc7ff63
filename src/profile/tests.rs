//! From text to profile and to findings, as a whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

fn env(name: &str) -> Option<String> {
    match name {
        "LANG" => Some("C.UTF-8".into()),
        "XDG_DATA_HOME" => Some("/home/u/data".into()),
        "SOURCE_DATE_EPOCH" => Some("1".into()),
        "LC_EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn finish_with(text: &str, sets: &[&str]) -> Result<Profile, String> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let vars = Vars { home: Path::new("/home/u"), env: &env, project: Some(Path::new("/work/app")) };
    local_text("x.toml", text, Path::new("/base"), &sets).finish(&vars).map_err(|findings| {
        let hints = findings.findings.iter().map(|finding| match &finding.hint {
            Some(hint) => format!("{finding} | {hint}"),
            None => finding.to_string(),
        });
        hints.collect::<Vec<_>>().join("\n")
    })
}

fn ok(text: &str) -> Profile {
    finish_with(&format!("image = \"host\"\n{text}"), &[]).expect(text)
}

fn wrong(text: &str) -> String {
    finish_with(&format!("image = \"host\"\n{text}"), &[]).expect_err(text)
}

/// The example of the design, with every key of the schema.
const WHOLE: &str = r#"
schema = 1
name = "app"
image = "docker.io/library/node:14"
platform = "linux/amd64"
pull = "missing"
entrypoint = ["/bin/x"]
command = ["npm", "test"]
hostname = "app"
workdir = "${project}"
env_pass = ["TERM", "LANG"]
env_file = [".env.sandbox"]
isolation = "auto"
require = ["cgroup", "landlock"]
[env]
NODE_ENV = "development"
[identity]
user = "node"
map = "auto"
home = "private"
[root]
mode = "scratch"
tmp = "256M"
shm = "64M"
[project]
path = "."
target = "/build"
mode = "rw"
protect = [".git/hooks", ".git/config"]
hide = [".env"]
[[mounts]]
type = "bind"
source = "../data"
target = "/data"
mode = "ro"
missing = "error"
[limits]
memory = "2G"
memory_high = "1G"
swap = "0"
cpus = 2.0
cpu_weight = 100
pids = 512
io_weight = 100
io_read = "20M"
io_write = "10M"
cpuset = "0-3"
time = "30m"
on_missing = "warn"
ulimits = { nofile = 4096, core = 0 }
[network]
mode = "filtered"
allow = ["packages.example.org:443", "*.example.net:80", "10.1.0.0/16:5432"]
deny = ["169.254.169.254"]
ports = ["127.0.0.1:3000:3000"]
host_services = [5432]
dns = []
hosts = { "db.local" = "10.1.2.3" }
host_ca = false
[security]
preset = "dev"
caps = []
seccomp = "default"
seccomp_allow = []
landlock = "auto"
nested_userns = false
devices = []
[secrets.npm_token]
from = "env:NPM_TOKEN"
target = "/run/secrets/npm_token"
[lifecycle]
init = true
stop_signal = "SIGTERM"
stop_timeout = "10s"
tty = "auto"
[expose]
commands = ["node", "npm", "npx"]
"#;

#[test]
fn every_key_of_the_schema() {
    let profile = finish_with(WHOLE, &[]).expect("valid");
    assert_eq!(profile.name, "app");
    assert_eq!(profile.workdir.as_deref(), Some("/build"));
    assert_eq!(profile.env_file, [PathBuf::from("/base/.env.sandbox")]);
    assert_eq!(profile.require, [Requirement::Cgroup, Requirement::Landlock]);
    assert_eq!(profile.identity.user, Some(UserSpec { user: IdOrName::Name("node".into()), group: None }));
    assert_eq!(profile.root.tmp, Some(256 << 20));
    assert_eq!(profile.project.path, Some("/base".into()));
    assert_eq!(profile.mounts[0].kind, MountKind::Bind { source: "/base/../data".into(), missing: Missing::Error });
    assert!(profile.mounts[0].read_only);
    assert_eq!(profile.mounts[0].origin, "x.toml:31");
    assert_eq!(
        (profile.limits.memory_high, profile.limits.io_read, profile.limits.io_write),
        (Some(1 << 30), Some(20 << 20), Some(10 << 20))
    );
    assert_eq!(profile.limits.time, Some(Duration::from_secs(1800)));
    assert_eq!(profile.limits.ulimits, [(Rlimit::Nofile, 4096), (Rlimit::Core, 0)]);
    assert_eq!(profile.network.hosts, [("db.local".into(), "10.1.2.3".parse().expect("address"))]);
    assert_eq!(profile.secrets[0].from, SecretSource::Env("NPM_TOKEN".into()));
    assert_eq!(profile.lifecycle.stop_signal, Some(15));
    assert_eq!(profile.expose, ["node", "npm", "npx"]);
}

#[test]
fn absent_keys_have_the_documented_values() {
    let profile = ok("");
    assert_eq!((profile.name.as_str(), profile.hostname.as_str()), ("sandbox", "sandbox"));
    assert_eq!(profile.project.protect, [PathBuf::from(".git/hooks"), PathBuf::from(".git/config")]);
    assert_eq!(profile.env_pass, ["TERM", "COLORTERM", "NO_COLOR", "LANG", "LC_*", "TZ"]);
    assert_eq!(profile.network.mode, NetworkMode::None);
    assert_eq!((profile.project.mode, profile.root.mode, profile.pull), (ProjectMode::Rw, RootMode::Scratch, Pull::Missing));
    assert!(profile.security.caps.is_empty() && profile.require.is_empty() && !profile.limits.needs_cgroup());
    assert!(ok("[project]\nprotect = []").project.protect.is_empty());
}

#[test]
fn presets_are_beaten_by_written_keys() {
    let untrusted = ok("[security]\npreset = \"untrusted\"");
    assert_eq!(untrusted.security.seccomp, SeccompSource::Strict);
    assert_eq!(untrusted.require.len(), 4);
    assert!(untrusted.limits.missing_is_error && untrusted.security.single_command);
    let softened = ok(
        "[security]\npreset = \"untrusted\"\nseccomp = \"default\"\n[limits]\nulimits = { core = 5, nofile = 9 }\n[identity]\nmap = \"single\"",
    );
    assert_eq!(softened.security.seccomp, SeccompSource::Default);
    assert_eq!(softened.limits.ulimits, [(Rlimit::Core, 5), (Rlimit::Nofile, 9)]);
    assert_eq!(softened.require, [Requirement::Cgroup, Requirement::Landlock, Requirement::Protect]);
    let build = ok("workdir = \"${project}\"\n[security]\npreset = \"build\"\n[env]\nTZ = \"CET\"");
    assert_eq!((build.pull, build.project.mode), (Pull::Locked, ProjectMode::Ro));
    assert_eq!(build.workdir.as_deref(), Some("/build"));
    assert!(build.env.contains(&("TZ".into(), "CET".into())) && build.env.iter().filter(|(name, _)| name == "TZ").count() == 1);
    let passed = ok("env_pass = [\"SOURCE_DATE_EPOCH\"]\n[security]\npreset = \"build\"");
    assert!(!passed.env.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH"));
}

#[test]
fn variables_are_replaced_only_where_and_how_they_may() {
    let profile = ok(
        "[env]\nA = \"${HOME}/x ${LC_NONE:-d} ${LC_EMPTY:-e}\"\nB = \"$${X} $Y\"\n[[mounts]]\nsource = \"${XDG_DATA_HOME}/m\"\ntarget = \"~/m\"\n[[mounts]]\nsource = \"~/n\"\ntarget = \"${project}/n\"",
    );
    assert_eq!(profile.env, [("A".into(), "/home/u/x d e".into()), ("B".into(), "${X} $Y".to_owned())]);
    assert_eq!(profile.mounts[0].kind, MountKind::Bind { source: "/home/u/data/m".into(), missing: Missing::Error });
    assert_eq!(profile.mounts[0].target, "~/m");
    assert_eq!(profile.mounts[1].target, "/work/app/n");
    assert_eq!(
        wrong("[env]\nA = \"x ${SECRET}\""),
        "x.toml:3:8: env.A: has `${SECRET}`, which is not in `env_pass` | add \"SECRET\" to `env_pass`; a literal `${` is written `$${`"
    );
    assert!(wrong("[env]\nA = \"${TZ}\"").starts_with("x.toml:3:6: env.A: has `${TZ}`, which is not set"));
    assert!(wrong("[project]\npath = \"${project}\"").contains("not known yet"));
    assert!(
        finish_with("image = \"node:${LANG}\"", &[]).expect_err("image").starts_with("x.toml:1:15: image: variables are never replaced")
    );
}

#[test]
fn findings_name_place_key_and_remedy() {
    for (text, expected) in [
        ("[limits]\nmemroy = \"1G\"", "x.toml:3:1: limits.memroy: unknown key | did you mean `memory`?"),
        ("memory = \"1G\"", "x.toml:2:1: memory: unknown key | did you mean `memory` in `[limits]`?"),
        ("[limit]\nmemory = \"1G\"", "x.toml:2:2: limit: unknown key | did you mean `[limits]`?"),
        (
            "[limits]\nmemory = \"1 G\"",
            "x.toml:3:10: limits.memory: `1 G` is no size | sizes are bytes or `512K`, `512M`, `2G`, `1T` (powers of 1024)",
        ),
        (
            "[limits]\nmemory = \"1G\"\nmemory_high = \"2G\"",
            "x.toml:4:15: limits.memory_high: `2G` is more than `memory = \"1G\"`, at which the sandbox ends | memory_high at most as large as memory",
        ),
        ("[limits]\nio_write = \"1K\"", "x.toml:3:12: limits.io_write: `1K` is less than 64K, the least that works"),
        ("[limits]\nio_read = 0", "x.toml:3:11: limits.io_read: is less than 64K, the least that works"),
        ("[limits]\ntime = 30", "x.toml:3:8: limits.time: is an integer, not a duration | with its unit: \"30s\""),
        ("command = \"npm test\"", "x.toml:2:11: command: is a string, not an array | command = [\"sh\", \"-c\", \"npm test\"]"),
        ("pull = \"alway\"", "x.toml:2:8: pull: `alway` is none of `missing`, `always`, `never`, `locked` | pull = \"always\""),
        (
            "[identity]\nuser = \"4294967295\"",
            "x.toml:3:8: identity.user: `4294967295` is no user or group id | ids go from 0 to 4294967294",
        ),
        (
            "[[mounts]]\nsource = \"a\"\ntarget = \"/proc/x\"",
            "x.toml:4:10: mounts[0].target: `/proc/x` lies at or below `/proc`, which hamper makes itself",
        ),
        ("[[mounts]]\nsource = \"a\"\ndestination = \"/x\"", "x.toml:4:1: mounts[0].destination: unknown key | did you mean `target`?"),
        (
            "[[mounts]]\nsource = \"a\"\ntarget = \"/x\"\nshared = true",
            "x.toml:5:1: mounts[0].shared: means nothing for a bind | only a mount of type \"cache\" has it",
        ),
        (
            "[[mounts]]\nsource = \"a\"\ntarget = \"/x\"\n[[mounts]]\nsource = \"b\"\ntarget = \"/x/\"",
            "x.toml:5:1: mounts[1]: `/x` is a target already, at x.toml:2",
        ),
        (
            "[network]\nallow = [\"x.org:443\"]",
            "x.toml:3:9: network.allow: means nothing with `mode = \"none\"` | [network] mode = \"filtered\"",
        ),
        (
            "[network]\nmode = \"filtered\"\nallow = [\"x.org\", \"10.1.0.5/16\"]",
            "x.toml:4:19: network.allow[1]: `10.1.0.5/16` has bits set beyond its prefix length | \"10.1.0.0/16\"",
        ),
        (
            "[security]\nnested_userns = true\nlandlock = \"required\"",
            "x.toml:3:17: security.nested_userns: cannot be together with `landlock = \"required\"` | namespaces of its own need mount, which Landlock forbids: landlock = \"off\"",
        ),
        ("[security]\ncaps = [\"NET_ADMN\"]", "x.toml:3:9: security.caps[0]: `NET_ADMN` is no capability | \"NET_ADMIN\""),
        ("[secrets.t]\nfrom = \"hunter2\"", "x.toml:3:8: secrets.t.from: is neither `env:NAME` nor `file:PATH` | from = \"env:NPM_TOKEN\""),
        ("[secrets.t]\ntarget = \"/t\"", "x.toml:2:10: secrets.t: has no `from` | from = \"env:NPM_TOKEN\""),
        ("schema = 2", "x.toml:2:10: schema: 2 is unknown to this hamper, which knows 1 | a newer hamper may know it"),
        ("[limits.ulimits]\nnofil = 1", "x.toml:3:1: limits.ulimits.nofil: `nofil` is no rlimit | `nofile`"),
        ("[env]\n\"A=B\" = \"x\"", "x.toml:3:1: env.A=B: `A=B` is no variable name | letters, digits and `_`, no digit first"),
        ("[env]\nA = 1", "x.toml:3:5: env.A: is an integer, not a string | \"1\""),
        ("limits = 1", "x.toml:2:1: limits: is an integer, not a table | [limits]"),
        ("env = 1", "x.toml:2:7: env: is an integer, not a table | [env]"),
    ] {
        assert_eq!(wrong(text), expected, "{text}");
    }
    assert!(finish_with("", &[]).expect_err("no image").starts_with("x.toml: image: is not written"));
}

#[test]
fn all_findings_come_at_once() {
    let told = wrong("nam = 1\npull = \"x\"\n[limits]\npids = 0\n[network]\nmode = \"filterd\"\nports = [\"x\", \"70000\"]\n");
    assert_eq!(told.lines().count(), 6, "{told}");
    let syntax = wrong("pull = \nnam = 1\n[limits]\npids = 0\n");
    assert_eq!(syntax.lines().count(), 3, "{syntax}");
}

#[test]
fn overrides_win_and_say_where_they_come_from() {
    let set = |text: &str, sets: &[&str]| finish_with(text, sets);
    let profile = set("image = \"host\"\n[limits]\nmemory = \"1G\"\n", &["limits.memory=2G", "env.A=b c", "image=node:14"]).expect("valid");
    assert_eq!(profile.limits.memory, Some(2 << 30));
    assert_eq!(profile.env, [("A".into(), "b c".to_owned())]);
    assert_eq!(profile.image, ImageSource::Registry("node:14".into()));
    assert_eq!(
        set("image = \"host\"", &["limits.memroy=1"]).expect_err("unknown"),
        "--set limits.memroy:1:8: limits.memroy: unknown key | did you mean `memory`?"
    );
    let off = set("image = \"host\"\n[network]\nmode = \"filtered\"\nallow = [\"a.org\"]\n", &["network.mode=none"]).expect("off");
    assert!(off.network.allow.is_empty());
    let unset = set("image = \"host\"\nhostname = \"${LC_NONE}\"\n", &["hostname=a"]).expect("overruled");
    assert_eq!(unset.hostname, "a");
}

#[test]
fn shipped_profiles_are_valid_and_say_whom_they_are_for() {
    for shipped in SHIPPED {
        let vars = Vars { home: Path::new("/home/u"), env: &env, project: Some(Path::new("/work/app")) };
        let profile = local_text(shipped.name, shipped.text, Path::new("/base"), &[]).finish(&vars);
        let profile = profile.unwrap_or_else(|findings| panic!("{findings}"));
        assert_eq!(profile.name, shipped.name);
        assert!(shipped.text.starts_with("# For "), "{}", shipped.name);
    }
}

#[test]
fn a_start_is_not_held_up() {
    let vars = Vars { home: Path::new("/home/u"), env: &env, project: Some(Path::new("/work/app")) };
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        local_text("x.toml", WHOLE, Path::new("/base"), &[]).finish(&vars).expect("valid");
    }
    let each = begin.elapsed() / 100;
    // Some 30 times what a release build takes, so that a busy machine does not fail it.
    assert!(each < Duration::from_millis(5), "{each:?}");
}

#[test]
fn what_is_shown_means_the_same() {
    let vars = Vars { home: Path::new("/home/u"), env: &env, project: Some(Path::new("/work/app")) };
    let texts = [
        WHOLE,
        "image = \"host\"\n[env]\nA = \"$${x}\"\n\"b.c\" = \"a\\nb\"\n[security]\npreset = \"untrusted\"\ncaps = [\"@root\", \"NET_RAW\"]",
    ];
    for text in texts.into_iter().chain(SHIPPED.iter().map(|shipped| shipped.text)) {
        let loaded = local_text("x.toml", text, Path::new("/base"), &[]);
        let profile = loaded.finish(&vars).expect(text);
        let shown = loaded.show(&profile);
        let mut again =
            local_text("y.toml", &shown, Path::new("/other"), &[]).finish(&vars).unwrap_or_else(|findings| panic!("{findings}\n{shown}"));
        for (mount, original) in again.mounts.iter_mut().zip(&profile.mounts) {
            mount.origin.clone_from(&original.origin);
        }
        again.env.sort();
        // What is shown has defaults in it as well, and so writes more.
        assert!(profile.written.iter().all(|(section, name)| ["include", "schema"].contains(name) || again.is_written(section, name)));
        again.written.clone_from(&profile.written);
        let mut profile = profile;
        profile.env.sort();
        profile.limits.ulimits.sort_by_key(|(limit, _)| format!("{limit:?}"));
        again.limits.ulimits.sort_by_key(|(limit, _)| format!("{limit:?}"));
        assert_eq!(again, profile, "{shown}");
    }
}

#[test]
fn values_say_where_they_come_from() {
    let vars = Vars { home: Path::new("/home/u"), env: &env, project: None };
    let loaded = local_text(
        "x.toml",
        "image = \"host\"\n[security]\npreset = \"build\"\n[env]\nTZ = \"CET\"\n",
        Path::new("/base"),
        &["limits.pids=5".into()],
    );
    let values = loaded.values(&loaded.finish(&vars).expect("valid"));
    for (section, name, expected) in [
        ("", "image", "x.toml:1"),
        ("", "pull", "preset build"),
        ("env", "TZ", "x.toml:5"),
        ("env", "LANG", "preset build"),
        ("limits", "pids", "--set limits.pids"),
        ("root", "mode", "default"),
        ("", "name", "found"),
    ] {
        let shown = values.iter().find(|shown| shown.section == section && shown.name == name).expect(name);
        assert_eq!(shown.origin, expected, "{section}.{name}");
    }
}
