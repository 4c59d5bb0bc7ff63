//! Limits: what is written into the sandbox's cgroup, and what stands in for it where there is none.

use serde::Serialize;

use super::{Degraded, Plan, PlanError, Request};
use crate::host::{Controller, Delegation, Disks, Place};
use crate::profile::{Limits, Requirement, Rlimit};

/// A file of the sandbox's cgroup and what is written into it, cgroups(7) and the kernel's cgroup-v2 document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub controller: Controller,
    pub file: &'static str,
    /// Of several disks one after the other, with [`BETWEEN_DISKS`] between them.
    pub value: String,
}

/// The kernel takes the limits of one disk in one write.
pub const BETWEEN_DISKS: &str = ", ";

impl Setting {
    /// What ends one process for want of memory ends the sandbox: half a payload is none.
    pub fn killing_all() -> Self {
        Self { controller: Controller::Memory, file: "memory.oom.group", value: "1".into() }
    }

    pub fn asked(&self) -> String {
        format!("{} = {}", self.file, self.value)
    }

    /// What there is instead of it.
    pub fn missing(&self, got: String) -> Degraded {
        Degraded { what: "cgroup", asked: self.asked(), got }
    }

    /// Whether it would be taken and have no effect.
    fn is_idle(&self, delegation: &Delegation) -> bool {
        self.file == "io.weight" && !delegation.weighs_disks
    }

    /// The first of the controllers that are needed and not delegated.
    fn lacks(&self, delegation: &Delegation) -> Option<Controller> {
        let buffered = self.value.contains("wbps=").then_some(Controller::Memory);
        // What is written is a cgroup's by way of the memory that it waits in (the kernel's cgroup-v2 document, "Writeback").
        [self.controller].into_iter().chain(buffered).find(|controller| !delegation.controllers.contains(controller))
    }
}

/// Microseconds over which `cpu.max` is measured.
const PERIOD: u64 = 100_000;

/// The least that the kernel takes as a quota, in microseconds.
const LEAST_QUOTA: u64 = 1000;

/// The most that the kernel takes for `pids.max`: what is above is no limit, and written as such.
const PIDS_MAX: u64 = 4_194_304;

/// The settings of a profile's limits, in the kernel's words. `init` is one process more, which is ours.
fn settings(limits: &Limits, init: bool, disks: Option<&Disks>) -> Vec<Setting> {
    use Controller::{Cpu, Cpuset, Io, Memory, Pids};
    let quota = |cpus: f64| ((cpus * PERIOD as f64).round() as u64).max(LEAST_QUOTA);
    let rows = [
        (Memory, "memory.max", limits.memory.map(|bytes| bytes.to_string())),
        (Memory, "memory.high", limits.memory_high.map(|bytes| bytes.to_string())),
        (Memory, "memory.swap.max", limits.swap.map(|bytes| bytes.to_string())),
        (Pids, "pids.max", limits.pids.map(|count| (u64::from(count) + u64::from(init)).min(PIDS_MAX).to_string())),
        (Cpu, "cpu.max", limits.cpus.map(|cpus| format!("{} {PERIOD}", quota(cpus)))),
        (Cpu, "cpu.weight", limits.cpu_weight.map(|weight| weight.to_string())),
        (Cpuset, "cpuset.cpus", limits.cpuset.clone()),
        (Io, "io.weight", limits.io_weight.map(|weight| weight.to_string())),
        (Io, "io.max", disks.filter(|disks| !disks.numbers.is_empty()).map(|disks| rates_of_all(limits, disks))),
    ];
    rows.into_iter().filter_map(|(controller, file, value)| Some(Setting { controller, file, value: value? })).collect()
}

/// What a disk may be asked for, in the words of `io.max`.
fn rates(limits: &Limits) -> String {
    let rates = [("rbps", limits.io_read), ("wbps", limits.io_write)];
    rates.iter().filter_map(|(name, rate)| Some(format!("{name}={}", (*rate)?))).collect::<Vec<_>>().join(" ")
}

fn rates_of_all(limits: &Limits, disks: &Disks) -> String {
    let rates = rates(limits);
    disks.numbers.iter().map(|(major, minor)| format!("{major}:{minor} {rates}")).collect::<Vec<_>>().join(BETWEEN_DISKS)
}

/// Where bytes are read and written that nothing counts, or nowhere at all.
fn without_disk(limits: &Limits, disks: &Disks) -> Vec<Degraded> {
    let asked = |rates: String, got| Degraded { what: "cgroup", asked: format!("io.max = {rates}"), got };
    let degraded = |got| asked(rates(limits), got);
    if disks.numbers.is_empty() && disks.unknown.is_empty() {
        return vec![degraded("no limit: none of the sandbox's files is on a disk".into())];
    }
    let unknown = disks.unknown.iter();
    let unknown = unknown.map(|(path, kind)| degraded(format!("no limit for {}: no disk is known below it ({kind})", path.display())));
    let untold = limits.io_write.iter().flat_map(|rate| disks.untold.iter().map(move |place| (rate, place)));
    let untold = untold.map(|(rate, (path, kind))| {
        let words = "no limit for what waits in memory before it is written to";
        asked(format!("wbps={rate}"), format!("{words} {}: {kind} does not say whose it is", path.display()))
    });
    unknown.chain(untold).collect()
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
/// [`PlanError::Required`] and [`PlanError::Limits`] where the profile does not do without.
pub fn choose(request: &Request<'_>, plan: &mut Plan) -> Result<Chosen, PlanError> {
    let Some(delegation) = request.delegation else { return Ok(Chosen::default()) };
    let profile = request.profile;
    let (can, cannot): (Vec<_>, Vec<_>) = settings(&profile.limits, profile.lifecycle.init, request.disks)
        .into_iter()
        .partition(|setting| setting.lacks(delegation).is_none() && !setting.is_idle(delegation));
    let required = profile.require.contains(&Requirement::Cgroup);
    if let (true, Err(no)) = (required, &delegation.place) {
        return Err(PlanError::Required { what: "cgroup", got: no.why.clone() });
    }
    let mut chosen = Chosen::default();
    let strict = required || profile.limits.missing_is_error;
    let mut missing: Vec<_> = cannot.iter().map(|setting| setting.missing(why(delegation, setting))).collect();
    let elsewhere = request.disks.map(|disks| without_disk(&profile.limits, disks)).unwrap_or_default();
    if strict && !(missing.is_empty() && elsewhere.is_empty()) {
        missing.extend(elsewhere);
        return Err(PlanError::Limits(missing));
    }
    for (setting, degraded) in cannot.iter().zip(&mut missing) {
        degraded.got += &stand_in(setting, request, delegation, &mut chosen);
    }
    plan.degraded.extend(missing.into_iter().chain(elsewhere));
    if let (true, Err(no)) = (request.apart, &delegation.place) {
        let why = &no.why;
        let got = format!("none: a payload that mounts cgroups can end all that stands in the one that hamper stands in ({why})");
        plan.degraded.push(Degraded { what: "cgroup", asked: "a cgroup of its own".into(), got });
    }
    // One without a limit is for who requires that there is one, and for a payload that could end others in it.
    let wanted = required || request.apart || delegation.made || !can.is_empty();
    chosen.cgroup = delegation.place.as_ref().ok().filter(|_| wanted).map(|place| (place.clone(), can));
    Ok(chosen)
}

fn why(delegation: &Delegation, setting: &Setting) -> String {
    match &delegation.place {
        Err(no) => format!("no limit: {}", no.why),
        Ok(_) if setting.lacks(delegation).is_none() => "no limit: no disk of this machine is divided by weights (io.cost.qos)".into(),
        Ok(_) => {
            let controller = setting.lacks(delegation).unwrap_or(setting.controller);
            if let Some((_, why)) = delegation.withheld.iter().find(|(withheld, _)| *withheld == controller) {
                return why.clone();
            }
            format!("no limit: the controller `{}` is not delegated to you", controller.name())
        }
    }
}

/// Whether something stands in for a limit that is not there.
pub fn has_stand_in(setting: &Setting) -> bool {
    matches!(setting.file, "memory.max" | "pids.max" | "cpu.max" | "cpuset.cpus")
}

/// What helps a little, and what it is.
fn stand_in(setting: &Setting, request: &Request<'_>, delegation: &Delegation, chosen: &mut Chosen) -> String {
    let limits = &request.profile.limits;
    let set = |resource| limits.ulimits.iter().any(|(own, _)| *own == resource);
    match (setting.file, limits) {
        ("memory.max", Limits { memory: Some(bytes), .. }) if !set(Rlimit::Data) => {
            if let Some(less) = delegation.data.filter(|most| most < bytes) {
                return format!("; each process may have {less} bytes of data, as before (RLIMIT_DATA)");
            }
            chosen.rlimits.push((Rlimit::Data, *bytes));
            "; each process may have that much data (RLIMIT_DATA)".into()
        }
        // Before Linux 5.14 it counts all that the user has running, everywhere.
        ("pids.max", Limits { pids: Some(_), .. }) if !set(Rlimit::Nproc) && request.host.kernel >= (5, 14) => {
            let count = setting.value.parse().unwrap_or(u64::MAX);
            if let Some(less) = delegation.processes.filter(|most| *most < count) {
                return format!("; RLIMIT_NPROC is {less}, as before");
            }
            chosen.rlimits.push((Rlimit::Nproc, count));
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
        let words: Vec<String> = settings(&limits, true, None).iter().map(|one| format!("{}={}", one.file, one.value)).collect();
        assert_eq!(words, ["memory.max=67108864", "pids.max=21", "cpu.max=25000 100000", "cpuset.cpus=0-1"]);
        let many = Limits { pids: Some(4_194_304), ..Limits::default() };
        assert_eq!(settings(&many, true, None).first().map(|one| one.value.as_str()), Some("4194304"));
        let tiny = Limits { cpus: Some(0.001), ..Limits::default() };
        assert_eq!(settings(&tiny, false, None).first().map(|one| one.value.as_str()), Some("1000 100000"));
    }

    #[test]
    fn each_disk_has_the_same_rates() {
        let limits = Limits { memory_high: Some(4096), io_read: Some(1 << 20), io_write: Some(2 << 20), ..Limits::default() };
        let mut disks = Disks { numbers: vec![(8, 0), (254, 1)], ..Disks::default() };
        let words: Vec<String> = settings(&limits, true, Some(&disks)).iter().map(Setting::asked).collect();
        assert_eq!(words, ["memory.high = 4096", "io.max = 8:0 rbps=1048576 wbps=2097152, 254:1 rbps=1048576 wbps=2097152"]);
        assert_eq!(without_disk(&limits, &disks), []);
        disks.unknown = vec![("/home".into(), "nfs4".into())];
        let told = |disks: &Disks| without_disk(&limits, disks).into_iter().map(|one| one.asked + ": " + &one.got).collect::<Vec<_>>();
        let asked = "io.max = rbps=1048576 wbps=2097152: ";
        assert_eq!(told(&disks), [format!("{asked}no limit for /home: no disk is known below it (nfs4)")]);
        (disks.unknown, disks.untold) = (vec![], vec![("/mnt".into(), "vfat".into())]);
        let words = "no limit for what waits in memory before it is written to /mnt: vfat does not say whose it is";
        assert_eq!(told(&disks), [format!("io.max = wbps=2097152: {words}")]);
        assert_eq!(without_disk(&Limits { io_write: None, ..limits.clone() }, &disks), []);
        assert_eq!(told(&Disks::default()), [format!("{asked}no limit: none of the sandbox's files is on a disk")]);
        assert!(settings(&limits, true, Some(&Disks::default())).iter().all(|setting| setting.file != "io.max"));
    }

    #[test]
    fn what_is_written_is_held_by_way_of_memory() {
        let delegation = |controllers: &[Controller]| Delegation {
            place: Err("".into()),
            controllers: controllers.to_vec(),
            withheld: vec![],
            made: false,
            data: None,
            processes: None,
            processors: vec![],
            weighs_disks: false,
        };
        let disks = Disks { numbers: vec![(8, 0)], ..Disks::default() };
        let one = |limits: Limits| settings(&limits, true, Some(&disks)).remove(0);
        let (read, write) =
            (one(Limits { io_read: Some(1 << 20), ..Limits::default() }), one(Limits { io_write: Some(1 << 20), ..Limits::default() }));
        assert_eq!(read.lacks(&delegation(&[Controller::Io])), None);
        assert_eq!(write.lacks(&delegation(&[Controller::Io])), Some(Controller::Memory));
        assert_eq!(write.lacks(&delegation(&[Controller::Io, Controller::Memory])), None);
    }

    #[test]
    fn lists_of_processors() {
        assert!(in_list("0-3,8", 3) && in_list("0-3,8", 8) && in_list("5", 5));
        assert!(!in_list("0-3,8", 4) && !in_list("", 0));
    }
}
