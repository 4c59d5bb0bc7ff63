//! Limits: the hierarchy, whether our own cgroup is ours to divide, and whether a user manager can give us another.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};
use rustix::io::Errno;
use rustix::process::getuid;

use super::procfs::{own_cgroup, read};
use super::{Finding, errno_name};

const MOUNT: &str = "/sys/fs/cgroup";

/// statfs(2) of a cgroup2 file system.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Controllers that limits of a profile need.
const WANTED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

const INSTEAD: &str = "limits.memory, swap, cpus, cpu_weight, pids, io_weight and cpuset are not enforced: said loudly, or refused with on_missing = \"error\"; time and ulimits work";

/// The file that gives a user's manager every controller, and how it takes effect.
fn delegate() -> [String; 3] {
    [
        "sudo mkdir -p /etc/systemd/system/user@.service.d".into(),
        format!("printf '%s\\n' '[Service]' 'Delegate={}' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf", WANTED.join(" ")),
        "sudo systemctl daemon-reload  # then log out of every session and in again".into(),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    Unified,
    Hybrid,
    Legacy,
    None,
}

fn hierarchy() -> Hierarchy {
    let unified = |path: &str| statfs(path).is_ok_and(|statistics| statistics.f_type as u64 == CGROUP2_MAGIC);
    if unified(MOUNT) {
        Hierarchy::Unified
    } else if unified("/sys/fs/cgroup/unified") {
        Hierarchy::Hybrid
    } else if read("/proc/self/cgroup").is_ok_and(|text| text.lines().any(|line| !line.starts_with("0::"))) {
        Hierarchy::Legacy
    } else {
        Hierarchy::None
    }
}

/// The cgroup that this process is in, and the user manager that could make another.
pub fn check() -> Vec<Finding> {
    let hierarchy = hierarchy();
    let manager = Manager::find();
    let cgroup = match hierarchy {
        Hierarchy::Unified => unified(&manager),
        other => legacy(other),
    };
    vec![cgroup, manager.finding(hierarchy)]
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
    let text = read(directory.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().filter(|name| WANTED.contains(name)).map(str::to_owned).collect()
}

fn without(have: &[String]) -> Vec<&'static str> {
    WANTED.into_iter().filter(|name| !have.iter().any(|own| own == name)).collect()
}

fn unified(manager: &Manager) -> Finding {
    const CHECK: &str = "cgroup";
    let text = read("/proc/self/cgroup").unwrap_or_default();
    let own = own_cgroup(&text).unwrap_or("/");
    let directory = PathBuf::from(format!("{MOUNT}{own}"));
    let writable = |name: &str| access(directory.join(name), Access::WRITE_OK);
    let delegated =
        access(&directory, Access::WRITE_OK).and_then(|()| writable("cgroup.procs")).and_then(|()| writable("cgroup.subtree_control"));
    // The manager's own cgroup says what it can pass on.
    let service = manager.service();
    let (place, have) = match (delegated, &manager.reached) {
        (Ok(()), _) => (format!("{own}, which is delegated"), controllers(&directory)),
        (Err(errno), Ok(())) => {
            (format!("{own} is not ours ({}); the user manager can make one that is", errno_name(errno)), controllers(&service))
        }
        (Err(errno), Err(_)) => {
            let finding =
                Finding::missing(CHECK, format!("version 2, {own} is not ours ({}), and there is no user manager", errno_name(errno)));
            return finding.errno(errno).instead(INSTEAD).remedy(["# see user_manager"]);
        }
    };
    let absent = without(&have);
    let seen = format!("version 2, {place}, with {}", if have.is_empty() { "no controller".to_owned() } else { have.join(" ") });
    if absent.is_empty() {
        return Finding::ok(CHECK, seen);
    }
    Finding::degraded(CHECK, format!("{seen}, without {}", absent.join(" ")))
        .instead(format!("limits by {} are not enforced: said loudly, or refused with on_missing = \"error\"", absent.join(", ")))
        .remedy(delegate())
}

/// The user's own service manager.
struct Manager {
    directory: PathBuf,
    /// Whether the directory is that of the environment.
    by_environment: bool,
    /// Whether one of its sockets takes a connection, and which; or why not.
    reached: Result<(), Errno>,
    socket: &'static str,
}

impl Manager {
    const SOCKETS: [&'static str; 2] = ["systemd/private", "bus"];

    fn find() -> Self {
        let environment = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let by_environment = environment.is_some();
        let directory = environment.unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", getuid().as_raw())));
        let mut reached = Err(Errno::NOENT);
        let mut socket = "";
        for name in Self::SOCKETS {
            match UnixStream::connect(directory.join(name)) {
                Ok(_) => return Self { directory, by_environment, reached: Ok(()), socket: name },
                Err(error) => {
                    reached = Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
                    socket = name;
                }
            }
        }
        Self { directory, by_environment, reached, socket }
    }

    fn service(&self) -> PathBuf {
        let uid = getuid().as_raw();
        PathBuf::from(format!("{MOUNT}/user.slice/user-{uid}.slice/user@{uid}.service"))
    }

    fn finding(&self, hierarchy: Hierarchy) -> Finding {
        const CHECK: &str = "user_manager";
        let socket = self.directory.join(self.socket);
        let errno = match self.reached {
            Ok(()) if hierarchy != Hierarchy::Unified => {
                let seen = format!("{} answers, but its limits enforce nothing without cgroup version 2", socket.display());
                return Finding::degraded(CHECK, seen).instead(INSTEAD).remedy(["# see cgroup"]);
            }
            Ok(()) => {
                let unset = if self.by_environment { "" } else { "; XDG_RUNTIME_DIR is unset, hamper looks there by itself" };
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
