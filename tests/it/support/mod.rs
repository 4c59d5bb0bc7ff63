//! What every test needs: a user's directories of its own, the binary, the probe, the images.

mod command;
mod environment;
pub mod pty;
pub mod rich;
pub mod tree;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub use command::{Child, Hamper, Output, Seen};
pub use environment::TestEnv;

/// Ends the test early where this machine cannot run it; fails it where every test must run.
#[macro_export]
macro_rules! require {
    ($condition:expr, $what:expr) => {
        if !$condition {
            assert!(!$crate::support::must_run(), "needs {}, which this machine has not", $what);
            eprintln!("skipped: needs {}", $what);
            return;
        }
    };
}

pub fn must_run() -> bool {
    std::env::var_os("HAMPER_TESTS_MUST_RUN").is_some_and(|value| value == "1")
}

/// By how much limits of time are multiplied, on a machine that is emulated for instance.
pub fn slow() -> u32 {
    std::env::var("HAMPER_TEST_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// A limit of time, as long as this machine needs.
pub fn seconds(count: u32) -> std::time::Duration {
    std::time::Duration::from_secs(u64::from(count)) * slow()
}

/// The host that `tests/vm` has booted, and the version of its kernel.
pub fn vm_variant() -> Option<String> {
    std::env::var("HAMPER_TEST_VM_VARIANT").ok()
}

pub fn vm_kernel() -> Option<String> {
    std::env::var("HAMPER_TEST_VM_KERNEL").ok()
}

/// Whether there are user namespaces: everywhere but on the one host that is there to have none.
pub fn has_namespaces() -> bool {
    vm_variant().as_deref() != Some("no-userns")
}

/// Version of this kernel's Landlock; 0 where there is none.
pub fn landlock_abi() -> u32 {
    static ABI: OnceLock<u32> = OnceLock::new();
    *ABI.get_or_init(|| {
        let out = Command::new(probe()).arg("landlock").output().expect("the probe");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().find_map(|line| line.strip_prefix("landlock abi: ")?.parse().ok()).unwrap_or(0)
    })
}

/// Whether there is the rung without namespaces here. Where Landlock is too old for it, a run on it is refused, which is looked at.
#[track_caller]
pub fn has_rung(env: &TestEnv) -> bool {
    let abi = landlock_abi();
    if abi < 3 {
        let words = format!("Landlock is required, but this kernel has ABI {abi}, and only 3 keeps files outside from being emptied");
        let refused = env.hamper(["run", "--image", "host"]).set("isolation=landlock").payload(["touch", "ran"]).output();
        refused.code(125).told(&[&words]);
        assert!(!env.project().join("ran").exists());
    }
    abi >= 3
}

/// Those of the two kinds of isolation that are there.
pub fn isolations(env: &TestEnv) -> Vec<&'static str> {
    if has_rung(env) { vec!["isolation=namespaces", "isolation=landlock"] } else { vec!["isolation=namespaces"] }
}

/// The sources: this file's package.
pub fn sources() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The program under test.
pub fn hamper() -> PathBuf {
    std::env::var_os("HAMPER_TEST_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_hamper")), PathBuf::from)
}

/// The probe: built here where `tests/run` has not.
pub fn probe() -> PathBuf {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("HAMPER_TEST_PROBE") {
                return PathBuf::from(path);
            }
            let path = base().join("probe");
            let made = base().join(format!("probe.{}", std::process::id()));
            let status = Command::new(sources().join("tests/probe/build")).arg(&made).status().expect("tests/probe/build");
            assert!(status.success(), "the probe could not be built");
            std::fs::rename(&made, &path).expect("rename the probe");
            path
        })
        .clone()
}

/// Where the tests keep what they make: on a disk, not in memory, and short enough for sockets.
pub fn base() -> PathBuf {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let path = match std::env::var_os("HAMPER_TEST_TMP") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(format!("/var/tmp/hamper-it-{}", uid())),
        };
        std::fs::create_dir_all(&path).expect("directory for tests");
        std::fs::canonicalize(path).expect("directory for tests")
    })
    .clone()
}

/// Where the users of one run of the tests leave what the others look at.
pub fn shared() -> Option<PathBuf> {
    std::env::var_os("HAMPER_TEST_SHARED").map(PathBuf::from)
}

/// The user who has left something there before this one runs: where `tests/run` is root.
pub fn peer() -> Option<std::ffi::OsString> {
    std::env::var_os("HAMPER_TEST_PEER")
}

pub fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

pub fn gid() -> u32 {
    rustix::process::getgid().as_raw()
}

/// The user's name, as the host knows it.
pub fn user_name() -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("passwd");
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid().to_string().as_str())).expect("a passwd line");
    line.split(':').next().unwrap_or_default().to_owned()
}

/// First id and count of the user's subordinate range.
pub fn subuid() -> Option<(u32, u32)> {
    let (name, number) = (user_name(), uid().to_string());
    let text = std::fs::read_to_string("/etc/subuid").ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|who| who == name || who == number))?;
    let mut parts = line.split(':').skip(1);
    let range = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Path::new("/usr/bin/newuidmap").exists().then_some(range)
}

/// The maps that this user can have.
pub fn maps() -> Vec<&'static str> {
    let mut maps = vec!["single"];
    if subuid().is_some() {
        maps.push("range");
    } else {
        assert!(!must_run() || std::env::var_os("HAMPER_TEST_NO_SUBUID").is_some(), "the user has no subordinate ids");
    }
    maps
}

/// An image of `tests/images/build`, as a source.
pub fn image(name: &str) -> String {
    let path = images().join(name);
    match name {
        "podman-save.tar" => format!("docker-archive:{}", path.display()),
        _ if name.ends_with(".tar") => format!("oci-archive:{}", path.display()),
        _ => format!("oci:{}", path.display()),
    }
}

pub fn images() -> PathBuf {
    std::env::var_os("HAMPER_TEST_IMAGES").map_or_else(|| sources().join("target/test-images"), PathBuf::from)
}

/// Whether the test images are there.
pub fn has_image(name: &str) -> bool {
    images().join(name).exists()
}

/// The clock of file times lags behind: what is made in the moment in which a run ends counts as made by it.
pub fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

/// A number that no other test of this machine has.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until something is so, for at most as many seconds, or as a slow machine needs for it.
pub fn within(seconds: f64, mut what: impl FnMut() -> bool) -> bool {
    let begin = std::time::Instant::now();
    loop {
        if what() {
            return true;
        }
        if begin.elapsed().as_secs_f64() > seconds * f64::from(slow()) {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Parents of all processes, by number.
pub fn parents() -> std::collections::HashMap<u32, u32> {
    let mut parents = std::collections::HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        // A zombie is gone, but for the one who waits for it.
        if fields.next() != Some("Z")
            && let Some(parent) = fields.next().and_then(|parent| parent.parse().ok())
        {
            parents.insert(pid, parent);
        }
    }
    parents
}

/// Every process that descends from this one.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|entry| *entry.1 == parent).map(|entry| *entry.0));
        at += 1;
    }
    found.remove(0);
    found
}

pub fn is_alive(pid: u32) -> bool {
    parents().contains_key(&pid)
}

/// The processor time that a process has used, in hundredths of a second; `None` for one that is gone.
pub fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some(fields[11..=12].iter().map(|field| field.parse::<u64>().expect("ticks")).sum())
}
