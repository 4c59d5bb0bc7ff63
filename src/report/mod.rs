//! What was asked for and what was got: two values, both reported. Reads plan and outcome; knows nothing else.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Value, json};

use crate::host::Host;
use crate::plan::{Degraded, Plan, Step, scoped};
use crate::profile::{Capability, Profile};
use crate::supervise::{End, Outcome};

/// Version of the report's form; a reader refuses one that it does not know.
const SCHEMA: u32 = 1;

/// The report of one run.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    profile: &'a str,
    /// Present only if the payload ran.
    exit: Option<Exit>,
    /// Present only if it did not.
    failed: Option<Failed>,
    protections: Vec<Protection>,
    degraded: &'a [Degraded],
    /// Steps that found less than they asked for, and went on.
    missed: Vec<Failed>,
    /// Groups of the caller that stay effective on bind mounts under the single map.
    groups: Vec<u32>,
    notes: &'a [String],
    steps: &'a [Step],
}

#[derive(Debug, Serialize)]
struct Exit {
    code: Option<i32>,
    signal: Option<i32>,
    by: &'static str,
}

#[derive(Debug, Serialize)]
struct Failed {
    step: u32,
    what: String,
    errno: i32,
    cause: String,
}

/// A protection, what was asked of it, and what is there.
#[derive(Debug, Serialize)]
struct Protection {
    name: &'static str,
    asked: Value,
    got: Value,
}

impl<'a> Report<'a> {
    pub fn new(profile: &'a Profile, plan: &'a Plan, outcome: &Outcome, host: &Host) -> Self {
        let failed = |step: u32, errno: rustix::io::Errno| Failed {
            step,
            what: plan.steps.get(step as usize).map(ToString::to_string).unwrap_or_default(),
            errno: errno.raw_os_error(),
            cause: errno.to_string(),
        };
        let exit = |code, signal, by| Some(Exit { code, signal, by });
        let (exit, end_failed) = match &outcome.end {
            End::Exited(code) => (exit(Some(*code), None, "payload"), None),
            End::Signaled(signal) => (exit(None, Some(*signal), "signal"), None),
            End::TimeLimit => (exit(None, None, "time limit"), None),
            End::Replaced(_) => (exit(None, None, "a guarded file was made or replaced while the sandbox ran"), None),
            End::Lost => (exit(None, None, "killed from outside"), None),
            End::Failed { step, errno } => (None, Some(failed(*step, *errno))),
        };
        Self {
            schema: SCHEMA,
            profile: &profile.name,
            exit,
            failed: end_failed,
            protections: protections(profile, plan, host),
            degraded: &plan.degraded,
            missed: outcome.missed.iter().map(|(step, errno)| failed(*step, *errno)).collect(),
            groups: supplementary_groups(plan),
            notes: &plan.notes,
            steps: &plan.steps,
        }
    }
}

/// Under the single map the kernel has no way to drop them.
fn supplementary_groups(plan: &Plan) -> Vec<u32> {
    let dropped = plan.steps.iter().any(|step| matches!(step, Step::SetGroups { .. }));
    if dropped {
        return Vec::new();
    }
    rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::process::Gid::as_raw).collect()
}

fn protections(profile: &Profile, plan: &Plan, host: &Host) -> Vec<Protection> {
    let without_namespaces = plan.steps.iter().any(|step| matches!(step, Step::Clone { namespaces } if namespaces.is_empty()));
    plan.steps.iter().filter_map(|step| protection(step, profile, host, without_namespaces)).collect()
}

/// What a step asked for in the words of the profile, and what it came to: a step that could not do its part has ended the run, or is among
/// what was missed.
fn protection(step: &Step, profile: &Profile, host: &Host, without_namespaces: bool) -> Option<Protection> {
    let security = &profile.security;
    let (name, asked, got) = match step {
        Step::Clone { namespaces } if namespaces.is_empty() => {
            ("isolation", json!(profile.isolation), json!("Landlock and seccomp, no namespaces"))
        }
        Step::Clone { namespaces } => ("namespaces", json!(profile.isolation), json!(namespaces)),
        Step::EnterLandlock { abi, rules, .. } => {
            let scoped: &[&str] = if scoped(*abi).is_empty() { &[] } else { &["signal", "abstract-unix-socket"] };
            let got = json!({ "abi": abi, "kernel": host.landlock.ok(), "rules": rules.len(), "scoped": scoped });
            ("landlock", json!(security.landlock), got)
        }
        Step::InstallSeccomp { instructions, .. } => {
            ("seccomp", json!(security.seccomp), json!({ "mode": 2, "instructions": instructions }))
        }
        Step::DropCapabilities { keep, .. } if without_namespaces => {
            let got = json!({ "sets": names(keep), "bounding": "unchanged: no_new_privs alone keeps execve from giving any of it" });
            ("capabilities", json!(names(&security.caps)), got)
        }
        Step::DropCapabilities { keep, .. } => ("capabilities", json!(names(&security.caps)), json!(names(keep))),
        Step::NoNewPrivileges => ("no_new_privs", json!(true), json!(true)),
        Step::WriteIdMaps { uid, gid, .. } => ("id maps", json!(profile.identity.map), json!({ "uid": uid, "gid": gid })),
        Step::SetRlimits { rlimits } => ("rlimits", json!(profile.limits.ulimits), json!(rlimits)),
        _ => return None,
    };
    Some(Protection { name, asked, got })
}

fn names(capabilities: &[Capability]) -> Vec<&'static str> {
    capabilities.iter().map(|capability| capability.name()).collect()
}

/// Where a report goes: a name in a directory that was opened before the payload could put anything else in its place.
pub struct Destination {
    directory: OwnedFd,
    name: OsString,
}

impl Destination {
    /// # Errors
    /// Those of open(2) on the directory; `EINVAL` where the path names no file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let name = path.file_name().ok_or_else(|| std::io::Error::from(Errno::INVAL))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: openat(CWD, parent, flags, Mode::empty())?, name })
    }

    /// Writes the report, readable for the caller alone; what is there by that name is replaced, never followed.
    ///
    /// # Errors
    /// Those of open(2), write(2) and rename(2).
    pub fn write(&self, report: &Report<'_>) -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(report)?;
        text.push('\n');
        let mut temporary = OsString::from(format!(".hamper-report-{}-", std::process::id()));
        temporary.push(&self.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(openat(&self.directory, &temporary, flags, Mode::from_raw_mode(0o600))?);
        let written = file.write_all(text.as_bytes()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let done = written.and_then(|()| renameat(&self.directory, &temporary, &self.directory, &self.name));
        if done.is_err() {
            // Ignoring: the first failure is told.
            let _ = unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
        Ok(done?)
    }
}
