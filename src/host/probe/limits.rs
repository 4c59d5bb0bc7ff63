//! What is counted: groups that stay, open files, inotify, namespaces, keys.

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use rustix::process::{Resource, getegid, getgroups, getrlimit};

use super::blocker::{KINDS, Surroundings, limit, outside, sysctl};
use super::procfs::{number, read};
use super::{Finding, State, confine, errno_name};

/// A start with many layers and mounts may hold this many files open.
const FILES: u64 = 256;

/// A start of the plainest sandbox needs almost as many.
const LEAST_FILES: u64 = 192;

/// Namespaces of one kind, under which many sandboxes at once do not fit.
const FEW_NAMESPACES: u64 = 64;

pub fn check(around: &Surroundings, findings: &mut Vec<Finding>) {
    let range = findings.iter().any(|finding| finding.check == "subuid" && finding.state == State::Ok);
    findings.push(groups(range));
    findings.push(confine::keyring());
    findings.push(namespaces(around));
    findings.push(inotify(around));
    findings.push(files());
}

/// The kernel lets nobody drop groups in a user namespace with a single map.
fn groups(range: bool) -> Finding {
    const CHECK: &str = "groups";
    let own = getegid();
    let table = read("/etc/group").unwrap_or_default();
    let extra = getgroups().unwrap_or_default().into_iter().filter(|gid| *gid != own);
    let names: Vec<String> = extra.map(|gid| group_name(&table, gid.as_raw())).collect();
    if names.is_empty() {
        return Finding::ok(CHECK, "no supplementary group");
    }
    let seen = format!("supplementary groups: {}", names.join(" "));
    if range {
        return Finding::ok(CHECK, format!("{seen}; dropped under the range map, effective on bind mounts under map = \"single\""));
    }
    Finding::degraded(CHECK, format!("{seen}; they stay effective on bind mounts under the single map"))
        .instead("they are listed in the report, and the preset untrusted refuses writable binds that only they can write")
        .remedy(["# subordinate ids (see subuid) make the range map possible, which drops them"])
}

fn group_name(table: &str, gid: u32) -> String {
    let number = gid.to_string();
    let name = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or(number)
}

fn namespaces(around: &Surroundings) -> Finding {
    const CHECK: &str = "namespace_limits";
    let known: Vec<(&str, u64)> = KINDS.iter().filter_map(|kind| Some((*kind, limit(kind)?))).collect();
    if known.is_empty() {
        return Finding::ok(CHECK, "no limits to be seen");
    }
    let words = |list: &[(&str, u64)]| list.iter().map(|(kind, value)| format!("{kind} {value}")).collect::<Vec<_>>().join(", ");
    let few: Vec<_> = known.iter().filter(|(_, value)| *value < FEW_NAMESPACES).copied().collect();
    let least = known.iter().map(|(_, value)| *value).min().unwrap_or(0);
    if few.is_empty() {
        return Finding::ok(CHECK, format!("user.max_*_namespaces at least {least}"));
    }
    let settings: Vec<String> = few.iter().map(|(kind, _)| format!("user.max_{kind}_namespaces=15000")).collect();
    Finding::degraded(CHECK, format!("user.max_*_namespaces: {}", words(&few)))
        .instead("no more sandboxes at once than that")
        .remedy(if around.nested { outside(around) } else { sysctl(&settings) })
}

/// Guarded files of a project are watched: one instance a sandbox.
fn inotify(around: &Surroundings) -> Finding {
    const CHECK: &str = "inotify";
    let value = |name: &str| number(format!("/proc/sys/fs/inotify/{name}"));
    let limits = match (value("max_user_instances"), value("max_user_watches")) {
        (Some(instances), Some(watches)) => format!("{instances} instances, {watches} watches"),
        _ => "limits unknown".into(),
    };
    // In a nested user namespace the counters of that one apply as well.
    let own = number("/proc/sys/user/max_inotify_instances").filter(|_| around.nested);
    let limits = own.map_or_else(|| limits.clone(), |own| format!("{limits}, user.max_inotify_instances {own}"));
    let tried = init(CreateFlags::CLOEXEC).and_then(|fd| add_watch(&fd, "/", WatchFlags::MOVE_SELF));
    let remedy = || {
        if around.nested {
            outside(around)
        } else {
            sysctl(&["fs.inotify.max_user_instances=512".into(), "fs.inotify.max_user_watches=65536".into()])
        }
    };
    match tried {
        Ok(_) if value("max_user_instances").is_some_and(|instances| instances < 64) => Finding::degraded(CHECK, limits)
            .instead("no more sandboxes with guarded files at once than that, less what your editors use")
            .remedy(remedy()),
        Ok(_) => Finding::ok(CHECK, limits),
        Err(errno) => Finding::degraded(CHECK, format!("used up or refused ({}): {limits}", errno_name(errno)))
            .errno(errno)
            .instead("a sandbox with protect or hide in a writable project is not started")
            .remedy(if errno == Errno::MFILE || errno == Errno::NOSPC { remedy() } else { Vec::new() }),
    }
}

fn files() -> Finding {
    const CHECK: &str = "open_files";
    let limit = getrlimit(Resource::Nofile);
    let words = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
    let seen = format!("{} open files, {} at most", words(limit.current), words(limit.maximum));
    match limit.current {
        Some(soft) if soft < FILES => {
            let remedy = match limit.maximum {
                Some(hard) if hard < FILES => "echo '* - nofile 4096' | sudo tee /etc/security/limits.d/60-hamper.conf".to_owned(),
                _ => format!("ulimit -n {}", limit.maximum.map_or(1024, |hard| hard.min(1024))),
            };
            let finding = if soft < LEAST_FILES {
                Finding::missing(CHECK, seen).stops().instead("nothing: a start opens every source before it makes anything")
            } else {
                Finding::degraded(CHECK, seen).instead("profiles with many mounts cannot be started")
            };
            finding.remedy([remedy])
        }
        _ => Finding::ok(CHECK, seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups() {
        let table = "root:x:0:\nvideo:x:44:alice,bob\n";
        assert_eq!(group_name(table, 44), "video");
        assert_eq!(group_name(table, 45), "45");
    }
}
