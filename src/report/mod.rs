//! What was asked for and what was got: two values, both reported. Reads plan and outcome; knows nothing else.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use crate::host::Host;
use crate::plan::{Degraded, Plan, Step};
use crate::profile::Profile;
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
    asked: String,
    got: String,
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
            End::Replaced(_) => (exit(None, None, "a guarded file was replaced on the host"), None),
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
    plan.steps
        .iter()
        .filter_map(|step| match step {
            Step::Clone { namespaces } => {
                Some(Protection { name: "namespaces", asked: format!("{namespaces:?}"), got: format!("{namespaces:?}") })
            }
            Step::EnterLandlock { abi, rules } => Some(Protection {
                name: "landlock",
                asked: format!("{:?}", profile.security.landlock),
                got: format!("ABI {abi} of {}, {} rules", host.landlock.unwrap_or(0), rules.len()),
            }),
            Step::InstallSeccomp { instructions } => Some(Protection {
                name: "seccomp",
                asked: format!("{:?}", profile.security.seccomp),
                got: format!("{instructions} instructions"),
            }),
            Step::DropCapabilities { keep, .. } => {
                Some(Protection { name: "capabilities", asked: format!("{keep:?}"), got: format!("{keep:?}") })
            }
            Step::NoNewPrivileges => Some(Protection { name: "no_new_privs", asked: "1".into(), got: "1".into() }),
            Step::WriteIdMaps { uid, gid, .. } => {
                Some(Protection { name: "id maps", asked: format!("{:?}", profile.identity.map), got: format!("{uid:?} {gid:?}") })
            }
            _ => None,
        })
        .collect()
}

/// Writes the report, readable for the caller alone; a file that is there is replaced.
///
/// # Errors
/// Those of open(2) and write(2).
pub fn write(path: &Path, report: &Report<'_>) -> std::io::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
