//! Limits: the hierarchy, whether our own cgroup is ours to divide, and whether a user manager can give us another.

use std::path::Path;

use rustix::process::getuid;

use super::{Finding, errno_name};
use crate::host::delegation::{self, Delegation, Hierarchy, Manager};

/// Controllers that limits of a profile need.
const WANTED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

const INSTEAD: &str = "limits.memory, memory_high, swap, cpus, cpu_weight, pids, io_weight, io_read, io_write and cpuset are not enforced: said loudly, or refused with on_missing = \"error\"; time and ulimits work";

/// The file that gives a user's manager every controller, and how it takes effect.
fn delegate() -> [String; 3] {
    [
        "sudo mkdir -p /etc/systemd/system/user@.service.d".into(),
        format!("printf '%s\\n' '[Service]' 'Delegate={}' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf", WANTED.join(" ")),
        "sudo systemctl daemon-reload  # then log out of every session and in again".into(),
    ]
}

/// The cgroup that this process is in, and the user manager that could make another.
pub fn check() -> Vec<Finding> {
    let hierarchy = Hierarchy::find();
    let manager = Manager::find();
    let cgroup = match hierarchy {
        Hierarchy::Unified => unified(),
        other => legacy(other),
    };
    vec![cgroup, finding(&manager, hierarchy)]
}

fn legacy(hierarchy: Hierarchy) -> Finding {
    const CHECK: &str = "cgroup";
    if hierarchy == Hierarchy::None {
        return Finding::missing(CHECK, "no cgroup file system at /sys/fs/cgroup")
            .instead(INSTEAD)
            .remedy(["# mount cgroup2 at /sys/fs/cgroup, as systemd does by itself"]);
    }
    let seen = match hierarchy {
        Hierarchy::Hybrid => {
            let have = controllers(Path::new("/sys/fs/cgroup/unified"));
            let have = if have.is_empty() { "none of the controllers that limits need".to_owned() } else { have.join(" ") };
            format!("hybrid: cgroup2 at /sys/fs/cgroup/unified has {have}; version 1 has the others")
        }
        _ => "version 1, which an ordinary user cannot be given safely".into(),
    };
    Finding::missing(CHECK, seen).instead(INSTEAD).remedy(if Path::new("/run/systemd/system").is_dir() {
        "# on the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub), then sudo update-grub and a reboot: systemd.unified_cgroup_hierarchy=1"
    } else {
        "# boot with cgroup2 alone: cgroup_no_v1=all on the kernel's command line, cgroup2 mounted at /sys/fs/cgroup (OpenRC: rc_cgroup_mode=\"unified\")"
    }
    .split('\n'))
}

fn controllers(directory: &Path) -> Vec<String> {
    delegation::controllers(directory).into_iter().map(|controller| controller.name().to_owned()).collect()
}

fn without(have: &[String]) -> Vec<&'static str> {
    WANTED.into_iter().filter(|name| !have.iter().any(|own| own == name)).collect()
}

fn unified() -> Finding {
    const CHECK: &str = "cgroup";
    let Delegation { place, controllers: have, .. } = Delegation::find(&[], false);
    let place = match place {
        Ok(place) => place,
        Err(why) => return Finding::missing(CHECK, format!("version 2, but {why}")).instead(INSTEAD).remedy(["# see user_manager"]),
    };
    let have: Vec<String> = have.into_iter().map(|controller| controller.name().to_owned()).collect();
    let absent = without(&have);
    let seen =
        format!("version 2, cgroups are made {place}, with {}", if have.is_empty() { "no controller".to_owned() } else { have.join(" ") });
    if absent.is_empty() {
        return Finding::ok(CHECK, seen);
    }
    Finding::degraded(CHECK, format!("{seen}, without {}", absent.join(" ")))
        .instead(format!("limits by {} are not enforced: said loudly, or refused with on_missing = \"error\"", absent.join(", ")))
        .remedy(delegate())
}

fn finding(manager: &Manager, hierarchy: Hierarchy) -> Finding {
    const CHECK: &str = "user_manager";
    let socket = manager.path();
    let errno = match manager.reached {
        Ok(()) if hierarchy != Hierarchy::Unified => {
            let seen = format!("{} answers, but its limits enforce nothing without cgroup version 2", socket.display());
            return Finding::degraded(CHECK, seen).instead(INSTEAD).remedy(["# see cgroup"]);
        }
        Ok(()) => {
            let unset = if manager.by_environment { "" } else { "; XDG_RUNTIME_DIR is unset, hamper looks there by itself" };
            return Finding::ok(CHECK, format!("{} answers{unset}", socket.display()));
        }
        Err(errno) => errno,
    };
    let name = crate::host::facts::user_name(getuid().as_raw()).unwrap_or_else(|| getuid().as_raw().to_string());
    if !Path::new("/run/systemd/system").is_dir() {
        let finding =
            Finding::missing(CHECK, format!("{}: {}; this system was not booted with systemd", socket.display(), errno_name(errno)))
                .errno(errno)
                .instead("limits need a cgroup that is already delegated to you");
        if hierarchy != Hierarchy::Unified {
            return finding.remedy(["# see cgroup"]);
        }
        return finding
                .remedy([format!(
                    "# as root, for each session: mkdir /sys/fs/cgroup/{0}; chown -R {0} /sys/fs/cgroup/{0}; echo PID > /sys/fs/cgroup/{0}/cgroup.procs",
                    super::shell_word(&name)
                )]);
    }
    Finding::missing(CHECK, format!("{}: {}", socket.display(), errno_name(errno)))
        .errno(errno)
        .instead("limits need a cgroup that is already delegated to you")
        .remedy([format!("sudo loginctl enable-linger {}", super::shell_word(&name))])
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_are_not_there() {
        let have = ["cpu", "memory", "pids"].map(str::to_owned);
        assert_eq!(without(&have), ["cpuset", "io"]);
        assert_eq!(without(&WANTED.map(str::to_owned)), [""; 0]);
    }

    #[test]
    fn the_drop_in_file() {
        assert_eq!(
            delegate()[1],
            "printf '%s\\n' '[Service]' 'Delegate=cpu cpuset io memory pids' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf"
        );
    }
}
