//! Limits: what is written into the sandbox's cgroup, and what stands in for it where there is none.

use serde::Serialize;

use super::{Degraded, Plan, PlanError, Request};
use crate::host::{Controller, Delegation, Place};
use crate::profile::{Limits, Requirement, Rlimit};

/// A file of the sandbox's cgroup and what is written into it, cgroups(7) and the kernel's cgroup-v2 document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub controller: Controller,
    pub file: &'static str,
    pub value: String,
}

impl Setting {
    /// Whether it is one of the limits that were asked for, and not what goes with one.
    pub fn is_limit(&self) -> bool {
        self.file != "memory.oom.group"
    }
}

/// Microseconds over which `cpu.max` is measured.
const PERIOD: u64 = 100_000;

/// The least that the kernel takes as a quota, in microseconds.
const LEAST_QUOTA: u64 = 1000;

/// The settings of a profile's limits, in the kernel's words. `init` is one process more, which is ours.
fn settings(limits: &Limits, init: bool) -> Vec<Setting> {
    use Controller::{Cpu, Cpuset, Io, Memory, Pids};
    let quota = |cpus: f64| ((cpus * PERIOD as f64).round() as u64).max(LEAST_QUOTA);
    let rows = [
        (Memory, "memory.max", limits.memory.map(|bytes| bytes.to_string())),
        // What ends one process for want of memory ends the sandbox: half a payload is none.
        (Memory, "memory.oom.group", limits.memory.map(|_| "1".into())),
        (Memory, "memory.swap.max", limits.swap.map(|bytes| bytes.to_string())),
        (Pids, "pids.max", limits.pids.map(|count| (u64::from(count) + u64::from(init)).to_string())),
        (Cpu, "cpu.max", limits.cpus.map(|cpus| format!("{} {PERIOD}", quota(cpus)))),
        (Cpu, "cpu.weight", limits.cpu_weight.map(|weight| weight.to_string())),
        (Cpuset, "cpuset.cpus", limits.cpuset.clone()),
        (Io, "io.weight", limits.io_weight.map(|weight| weight.to_string())),
    ];
    rows.into_iter().filter_map(|(controller, file, value)| Some(Setting { controller, file, value: value? })).collect()
}

/// What a plan does for its limits.
#[derive(Default)]
pub struct Chosen {
    /// Where the sandbox's cgroup is made, and what is written into it.
    pub cgroup: Option<(Place, Vec<Setting>)>,
    /// In place of limits that nothing enforces.
    pub rlimits: Vec<(Rlimit, u64)>,
    pub affinity: Vec<u32>,
}

/// Decides where limits go; what nothing enforces is among the plan's `degraded`, with what stands in for it.
///
/// # Errors
/// [`PlanError::Required`] where the profile does not do without.
pub fn choose(request: &Request<'_>, plan: &mut Plan) -> Result<Chosen, PlanError> {
    let Some(delegation) = request.delegation else { return Ok(Chosen::default()) };
    let profile = request.profile;
    let (can, cannot): (Vec<_>, Vec<_>) = settings(&profile.limits, profile.lifecycle.init)
        .into_iter()
        .partition(|setting| delegation.controllers.contains(&setting.controller));
    let required = profile.require.contains(&Requirement::Cgroup);
    if let (true, Err(why)) = (required, &delegation.place) {
        return Err(PlanError::Required { what: "cgroup", got: why.clone() });
    }
    let mut chosen = Chosen::default();
    for setting in cannot.iter().filter(|setting| setting.is_limit()) {
        let why = why(delegation, setting.controller);
        if required || profile.limits.missing_is_error {
            return Err(PlanError::Limit { limit: format!("{} = {}", setting.file, setting.value), why });
        }
        let instead = stand_in(setting, request, delegation, &mut chosen);
        plan.degraded.push(Degraded {
            what: "cgroup",
            asked: format!("{} = {}", setting.file, setting.value),
            got: format!("{why}{instead}"),
        });
    }
    // One without a limit is for who requires that there is one.
    let wanted = required || !can.is_empty();
    chosen.cgroup = delegation.place.as_ref().ok().filter(|_| wanted).map(|place| (place.clone(), can));
    Ok(chosen)
}

fn why(delegation: &Delegation, controller: Controller) -> String {
    match &delegation.place {
        Err(why) => format!("no limit: {why}"),
        Ok(_) => format!("no limit: the controller `{}` is not delegated to you", controller.name()),
    }
}

/// What helps a little, and what it is.
fn stand_in(setting: &Setting, request: &Request<'_>, delegation: &Delegation, chosen: &mut Chosen) -> String {
    let limits = &request.profile.limits;
    let set = |resource| limits.ulimits.iter().any(|(own, _)| *own == resource);
    match (setting.file, limits) {
        ("memory.max", Limits { memory: Some(bytes), .. }) if !set(Rlimit::Data) => {
            chosen.rlimits.push((Rlimit::Data, *bytes));
            "; each process may have that much data (RLIMIT_DATA)".into()
        }
        // Before Linux 5.14 it counts all that the user has running, everywhere.
        ("pids.max", Limits { pids: Some(_), .. }) if !set(Rlimit::Nproc) && request.host.kernel >= (5, 14) => {
            chosen.rlimits.push((Rlimit::Nproc, setting.value.parse().unwrap_or(u64::MAX)));
            "; RLIMIT_NPROC is set to it".into()
        }
        ("cpu.max", Limits { cpus: Some(cpus), cpuset: None, .. }) => {
            let count = (cpus.ceil() as usize).max(1);
            if count >= delegation.processors.len() {
                return String::new();
            }
            chosen.affinity = delegation.processors.iter().copied().take(count).collect();
            format!("; it starts on {count} processor{}, which it may change", if count == 1 { "" } else { "s" })
        }
        ("cpuset.cpus", Limits { cpuset: Some(list), .. }) => {
            chosen.affinity = delegation.processors.iter().copied().filter(|cpu| in_list(list, *cpu)).collect();
            if chosen.affinity.is_empty() {
                "; this machine has none of them".into()
            } else {
                "; it starts on them, and may change that".into()
            }
        }
        _ => String::new(),
    }
}

/// Whether a processor is in a list of the kernel's form, `0-3,8`.
pub fn in_list(list: &str, cpu: u32) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        matches!((first.parse::<u32>(), last.parse::<u32>()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_the_kernels_words() {
        let limits = Limits { memory: Some(64 << 20), cpus: Some(0.25), pids: Some(20), cpuset: Some("0-1".into()), ..Limits::default() };
        let words: Vec<String> = settings(&limits, true).iter().map(|one| format!("{}={}", one.file, one.value)).collect();
        assert_eq!(words, ["memory.max=67108864", "memory.oom.group=1", "pids.max=21", "cpu.max=25000 100000", "cpuset.cpus=0-1"]);
        let tiny = Limits { cpus: Some(0.001), ..Limits::default() };
        assert_eq!(settings(&tiny, false).first().map(|one| one.value.as_str()), Some("1000 100000"));
    }

    #[test]
    fn lists_of_processors() {
        assert!(in_list("0-3,8", 3) && in_list("0-3,8", 8) && in_list("5", 5));
        assert!(!in_list("0-3,8", 4) && !in_list("", 0));
    }
}
