//! The cgroup of a run, from the plan's step to its end: what could not be had stops the run or is said, each limit by itself.

use std::path::Path;

use rustix::io::Errno;

use super::error::CliError;
use super::output::talk;
use crate::host::{Controller, Place, SubRange, limit_left, subordinate_ranges, unbound_by_shares};
use crate::launch::{self, Cgroup, CgroupError, Missing};
use crate::plan::{Degraded, PlanError, Setting, Step, has_stand_in};
use crate::profile::{Profile, Requirement, Rlimit};
use crate::report::Limits;
use crate::rootfs;
use crate::supervise::{End, Got, Outcome, Usage};

/// A run that has a cgroup of its own.
pub struct Limited {
    cgroup: Cgroup,
    got: Vec<Got>,
    memory: Option<u64>,
    place: Place,
}

/// What has become of the cgroup that a plan asks for, if it does.
pub enum Made {
    NotNeeded,
    /// And what it could not be given.
    Cgroup(Limited, Vec<Degraded>),
    /// Why there is none.
    Cannot(String),
    /// And what it has not got, for which something else would stand in.
    Withheld(Limited, Vec<(Controller, String)>),
}

/// Makes the cgroup that the plan asks for.
///
/// # Errors
/// Where the profile does not do without a limit that cannot be had.
pub fn make(steps: &[Step], profile: &Profile) -> Result<Made, CliError> {
    let Some((place, settings, nested)) = steps.iter().find_map(|step| match step {
        Step::MakeCgroup { place, settings, nested } => Some((place, settings, *nested)),
        _ => None,
    }) else {
        return Ok(Made::NotNeeded);
    };
    let strict = profile.limits.missing_is_error || profile.require.contains(&Requirement::Cgroup);
    if strict && let Some(limit) = limit_left(place) {
        let why = format!("it would leave a limit that hamper stands under ({limit})");
        return Err(match settings.as_slice() {
            [] => PlanError::Required { what: "cgroup", got: why },
            all => PlanError::Limits(all.iter().map(|setting| setting.missing(why.clone())).collect()),
        }
        .into());
    }
    let unbound = if strict { unbound(steps, settings) } else { Vec::new() };
    if !unbound.is_empty() {
        return Err(PlanError::Limits(unbound).into());
    }
    let waits = || talk("hamper: waiting for other runs of this user, which are getting their cgroups: pgrep -a hamper");
    let (cgroup, got) = match Cgroup::make(place, settings, nested, waits) {
        Ok(made) => made,
        // Without limits it would only outlive what it belongs to.
        Err(error @ CgroupError::CleanupKilled) => return Err(error.into()),
        Err(error) if strict || error.has_moved_us(place) => return Err(error.into()),
        Err(error) => return Ok(Made::Cannot(CliError::from(error).chain())),
    };
    let missing: Vec<Degraded> = got.iter().filter(|got| !got.held).map(|got| missed(got, place)).collect();
    if strict && !missing.is_empty() {
        return Err(PlanError::Limits(missing).into());
    }
    let limited = Limited { cgroup, got, memory: profile.limits.memory, place: place.clone() };
    let withheld: Vec<&Got> = limited.got.iter().filter(|got| is_withheld(got)).collect();
    // What stands in is a step, which is there only if it was planned.
    if withheld.iter().any(|got| has_stand_in(&got.setting)) {
        let withheld = withheld.into_iter().map(|got| (got.setting.controller, missed(got, place).got)).collect();
        return Ok(Made::Withheld(limited, withheld));
    }
    Ok(Made::Cgroup(limited, missing))
}

fn is_withheld(got: &Got) -> bool {
    matches!(got.value, Err(Missing::Controller(_)))
}

fn missed(got: &Got, place: &Place) -> Degraded {
    let (controller, file) = (got.setting.controller.name(), got.setting.file);
    let got_instead = match &got.value {
        Ok(value) => format!("no such limit: the kernel has {value:?} there"),
        Err(Missing::Refused(Errno::RANGE)) if file == "cpuset.cpus" => "no limit: this machine has no such processors".into(),
        Err(Missing::Refused(errno)) => format!("no limit: {errno}"),
        Err(Missing::File) => format!("no limit: this kernel has no {file}"),
        // What was delegated since the manager has started is there, and not passed on.
        Err(Missing::Controller(None | Some(Errno::NOENT))) if matches!(place, Place::Manager { .. }) => no_controller(
            controller,
            &format!(
                "; a service manager does that when it has started anew, which ends all that runs in it: sudo systemctl restart user@{}.service",
                rustix::process::getuid().as_raw()
            ),
        ),
        Err(Missing::Controller(None)) => no_controller(controller, ""),
        Err(Missing::Controller(Some(errno))) => no_controller(controller, &format!(": {errno}")),
    };
    got.setting.missing(got_instead)
}

fn no_controller(name: &str, more: &str) -> String {
    format!("no limit: the controller `{name}` is not passed on to the sandbox's cgroup{more}")
}

/// What does not hold though it was taken: for a sandbox that stands beside what hamper stands in, and for threads that shares do not bind. Looked
/// for beside a start, which it would slow down.
pub fn left(steps: &[Step]) -> Vec<Degraded> {
    let Some((place, settings)) = steps.iter().find_map(|step| match step {
        Step::MakeCgroup { place, settings, .. } => Some((place, settings)),
        _ => None,
    }) else {
        return Vec::new();
    };
    let got = "no limit: hamper stands under it, and the sandbox beside that";
    let left = limit_left(place).map(|asked| Degraded { what: "cgroup", asked, got: got.into() });
    left.into_iter().chain(unbound(steps, settings)).collect()
}

/// Shares of the processors, where some threads are bound by none.
fn unbound(steps: &[Step], settings: &[Setting]) -> Vec<Degraded> {
    let shares: Vec<_> = settings.iter().filter(|setting| matches!(setting.file, "cpu.max" | "cpu.weight")).collect();
    if shares.is_empty() {
        return Vec::new();
    }
    let rlimits = steps.iter().find_map(|step| if let Step::SetRlimits { rlimits } = step { Some(rlimits) } else { None });
    let most = rlimits.and_then(|rlimits| rlimits.iter().find(|(resource, _)| *resource == Rlimit::Rtprio)).map(|(_, most)| *most);
    unbound_by_shares(most).map_or_else(Vec::new, |why| shares.into_iter().map(|setting| setting.missing(why.clone())).collect())
}

impl Limited {
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What was not taken, but for what the plan has made good since.
    pub fn refused(&self) -> impl Iterator<Item = Degraded> {
        self.got.iter().filter(|got| !got.held && !is_withheld(got)).map(|got| missed(got, &self.place))
    }

    /// What was set when the sandbox was there; what is missing now.
    pub fn add(&mut self, got: Got) -> Option<Degraded> {
        let missed = (!got.held).then(|| missed(&got, &self.place));
        self.got.push(got);
        missed
    }

    /// Reads what was used, where that is to be told, gives the end its true name, and removes the cgroup.
    pub fn end(self, outcome: &mut Outcome, tell: bool) -> Limits {
        let Self { cgroup, got, memory, place: _ } = self;
        let killed = matches!(outcome.end, End::Lost | End::Signaled(9));
        // As a shell tells of its program: without a limit of memory that is the sandbox's own, the kernel ends no more than one.
        let killed_inside = outcome.end == End::Exited(128 + 9);
        let usage = if tell || killed || killed_inside { cgroup.usage() } else { Usage::default() };
        match usage.memory_oom_kills {
            // Where it was not this limit that was reached, it was that of a cgroup above, or the machine.
            Some(1..) if killed => outcome.end = End::MemoryLimit(memory.filter(|_| usage.memory_limit_hits != Some(0))),
            Some(count @ 1..) if killed_inside => {
                talk(&format!("hamper: the kernel has killed {count} of its processes for want of memory"))
            }
            _ => {}
        }
        let swept = cgroup.sweep();
        let path = cgroup.path().to_owned();
        let mut removed = cgroup.remove();
        if [swept, removed].iter().any(|done| matches!(done, Err(Errno::ACCESS | Errno::PERM))) {
            // What is swept is another's: that it cannot be had is no news of this run, and the next tries again.
            let others = remove_of_others(&path);
            if removed.is_err() {
                removed = others;
            }
        }
        if let Err(errno) = removed {
            let path = path.display();
            talk(&format!("hamper: ignoring: cannot remove {path}: {errno}; when it is empty: rmdir {path}"));
        }
        Limits { got, usage }
    }
}

/// As root of the subordinate ranges: a payload that had them may have given them cgroups that it has made.
fn remove_of_others(path: &Path) -> Result<(), Errno> {
    let range = |range: SubRange| rootfs::SubRange { start: range.start, count: range.count };
    let (uids, gids) = subordinate_ranges(rustix::process::getuid().as_raw()).ok_or(Errno::PERM)?;
    let removed = rootfs::in_range(range(uids), range(gids), || Ok(launch::remove_cgroups(path).err().map(Errno::raw_os_error)));
    // Ignoring why no child is to be had: what is left is told by the path.
    removed.unwrap_or(Some(Errno::PERM.raw_os_error())).map_or(Ok(()), |errno| Err(Errno::from_raw_os_error(errno)))
}

/// Bytes as people say them, where that is a whole number.
pub fn shown(bytes: u64) -> String {
    let whole =
        [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")].into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

/// What `--verbose` says at the end.
pub fn say_usage(usage: &Usage) {
    let seconds = |usec: u64| format!("{:.2} s", usec as f64 / 1e6);
    let parts = [
        usage.memory_peak.map(|bytes| format!("{} MiB of memory at the most", bytes.div_ceil(1 << 20))),
        usage.cpu_usec.map(|usec| format!("{} of CPU time", seconds(usec))),
        usage.cpu_throttled_usec.filter(|usec| *usec > 0).map(|usec| format!("held back for {} by cpu.max", seconds(usec))),
        usage.pids_peak.map(|count| format!("{count} processes at the most, init among them")),
        usage.pids_refused.filter(|count| *count > 0).map(|count| format!("{count} forks refused by pids.max")),
        usage.memory_oom_kills.filter(|count| *count > 0).map(|count| format!("{count} kills for want of memory")),
    ];
    let said: Vec<String> = parts.into_iter().flatten().collect();
    if !said.is_empty() {
        talk(&format!("hamper: used {}", said.join(", ")));
    }
}
