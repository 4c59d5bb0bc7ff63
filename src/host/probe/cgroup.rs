//! Limits: the hierarchy, whether our own cgroup is ours to divide, and whether a user manager can give us another.

use std::path::{Path, PathBuf};

use rustix::process::getuid;

use super::units::{self, Assignment};
use super::{Finding, errno_name};
use crate::host::delegation::{self, Cause, Controller, Delegation, Hierarchy, Learned, Manager, Place};

/// Controllers that limits of a profile need.
const WANTED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

const INSTEAD: &str = "limits.memory, memory_high, swap, cpus, cpu_weight, pids, io_weight, io_read, io_write and cpuset are not enforced: said loudly, or refused with on_missing = \"error\"; time and ulimits work";

/// The drop-in that gives every user's manager every controller, under a name that comes after those that are there.
fn delegate(written: &[Assignment]) -> [String; 2] {
    const DIRECTORY: &str = "/etc/systemd/system/user@.service.d";
    const USUAL: &str = "delegate.conf";
    let own = Path::new(DIRECTORY).join(USUAL);
    let drop_ins = written.iter().filter(|one| one.file.extension().is_some_and(|end| end == "conf"));
    let last = drop_ins.filter(|one| one.file != own).filter_map(|one| one.file.file_name()).max();
    let name = match last {
        Some(last) if last >= USUAL => format!("zz-{}", last.to_string_lossy()),
        _ => USUAL.to_owned(),
    };
    let file = super::shell_word(&format!("{DIRECTORY}/{name}"));
    [format!("sudo mkdir -p {DIRECTORY}"), format!("printf '%s\\n' '[Service]' 'Delegate={}' | sudo tee {file}", WANTED.join(" "))]
}

/// How what was written takes effect: a manager learns what it has when it starts, and one that lingers does not end with the sessions.
fn anew(lingers: bool) -> [String; 2] {
    let restart = format!("sudo systemctl restart user@{}.service  # ends all that runs in it", getuid().as_raw());
    let again = "# log out of every session and in again".to_owned();
    ["sudo systemctl daemon-reload".into(), if lingers { restart } else { again }]
}

fn lingers() -> bool {
    crate::host::facts::user_name(getuid().as_raw()).is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists())
}

/// The cgroup that this process is in, and the user manager that could make another.
pub fn check() -> Vec<Finding> {
    let hierarchy = Hierarchy::find();
    let manager = Manager::find();
    let cgroup = match hierarchy {
        Hierarchy::Unified => unified(&Delegation::find(&[], None, &Learned::default()), None),
        other => legacy(other),
    };
    vec![cgroup, finding(&manager, hierarchy)]
}

/// The finding anew, with what came of a cgroup that was made: the controllers that it had, or why there was none.
pub fn tried(delegation: &Delegation, made: Result<Vec<Controller>, String>) -> Finding {
    unified(delegation, Some(made))
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
            let have = if have.is_empty() {
                "none of the controllers that limits need; version 1 has them".to_owned()
            } else {
                format!("{}; version 1 has the others", have.join(" "))
            };
            format!("hybrid: cgroup2 at /sys/fs/cgroup/unified has {have}")
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

fn unified(delegation: &Delegation, made: Option<Result<Vec<Controller>, String>>) -> Finding {
    const CHECK: &str = "cgroup";
    let place = match (&delegation.place, &made) {
        (Ok(place), None | Some(Ok(_))) => place,
        (Ok(place), Some(Err(why))) => {
            return Finding::missing(CHECK, format!("version 2, but no cgroup can be made {place}: {why}"))
                .instead(INSTEAD)
                .remedy([format!("sudo systemctl restart user@{}.service  # ends all that runs in it", getuid().as_raw())]);
        }
        (Err(no), _) => {
            let remedy = match &no.cause {
                Cause::Nobody => vec!["# see user_manager".to_owned()],
                Cause::KeptBy(path) => keep_and_divide(path),
                Cause::Surroundings => vec![
                    "# start hamper outside of what has made it so (a container, unshare, bwrap, a unit with ProtectControlGroups=yes)"
                        .into(),
                ],
            };
            return Finding::missing(CHECK, format!("version 2, but {}", no.why)).instead(INSTEAD).remedy(remedy);
        }
    };
    let names = |list: &[Controller]| list.iter().map(|controller| controller.name().to_owned()).collect::<Vec<_>>();
    let delegated = names(&delegation.controllers);
    let have = made.and_then(Result::ok).map_or_else(|| delegated.clone(), |made| names(&made));
    let absent = without(&have);
    let seen =
        format!("version 2, cgroups are made {place}, with {}", if have.is_empty() { "no controller".to_owned() } else { have.join(" ") });
    if absent.is_empty() {
        return Finding::ok(CHECK, seen);
    }
    let why = Why::of(&absent, &delegated, matches!(place, Place::Manager { .. }));
    Finding::degraded(CHECK, format!("{seen}, without {}{}", absent.join(" "), why.words()))
        .instead(format!("limits by {} are not enforced: said loudly, or refused with on_missing = \"error\"", absent.join(", ")))
        .remedy(why.remedy(lingers()))
}

/// How the rules of a unit stay, and limits can be had below it: it is delegated, where it can be (systemd.resource-control(5), `Delegate=`).
fn keep_and_divide(kept_by: &Path) -> Vec<String> {
    let kind = |path: &&Path| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        kind.filter(|kind| matches!(*kind, "service" | "scope" | "slice")).map(str::to_owned)
    };
    let Some((path, kind)) = kept_by.ancestors().find_map(|path| kind(&path).map(|kind| (path, kind))) else {
        return vec!["# whoever has made this cgroup (a unit, a container, a batch system) must delegate it, or one below it".into()];
    };
    let of_user = path.ancestors().skip(1).any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("user@")));
    let user = if of_user { " --user" } else { "" };
    let unit = path.file_name().unwrap_or_default().to_string_lossy();
    let word = super::shell_word(&unit);
    let shows = format!("systemctl{user} cat {word}  # where it says so");
    match kind.as_str() {
        // Managers of users tell which of their units are delegated from systemd 253 on.
        _ if of_user => vec![
            shows,
            format!("# put the limit into the profile, and out of {unit}; or from systemd 253 on: Delegate=yes, and hamper alone in it"),
        ],
        "service" => vec![
            shows,
            format!("sudo mkdir -p /etc/systemd/system/{word}.d"),
            format!("printf '%s\\n' '[Service]' 'Delegate=yes' | sudo tee /etc/systemd/system/{word}.d/delegate.conf"),
            "sudo systemctl daemon-reload".into(),
            format!("sudo systemctl restart {word}  # then hamper divides it, where nothing else stands in it (ExecStart=/.../hamper run)"),
        ],
        "scope" if !unit.starts_with("session-") => {
            vec![shows, "# start it with: systemd-run --scope -p Delegate=yes --uid=USER COMMAND, and exec hamper in it".into()]
        }
        _ => vec![
            shows,
            format!("# {unit} cannot be delegated: who may write there takes the rule out, or gives it to a service with Delegate=yes"),
        ],
    }
}

/// What keeps controllers away, from the kernel down.
#[derive(Debug, Default, PartialEq, Eq)]
struct Why {
    /// Not in this kernel, or switched off when it was booted.
    not_in_kernel: Vec<&'static str>,
    /// `DisableControllers=` of these files.
    disabled: Vec<PathBuf>,
    /// Whether the user's manager is not to have them by what is written.
    not_delegated: bool,
    /// A manager has them, or would, and passes them on when it has started anew.
    not_passed_on: bool,
    /// It has started since it was given them, and does not pass them on all the same.
    kept_back: bool,
    /// What is written about what it has.
    written: Vec<Assignment>,
    /// Whoever has made the cgroup has left them out, and is no manager of a user.
    by_others: bool,
}

impl Why {
    fn of(absent: &[&'static str], delegated: &[String], by_manager: bool) -> Self {
        let root = Path::new("/");
        let uid = getuid().as_raw();
        let kernel = controllers(Path::new("/sys/fs/cgroup"));
        let mut why = Self::default();
        let (slice, service) = (format!("user-{uid}.slice"), format!("user@{uid}.service"));
        let slices = [vec!["user.slice"], vec!["user-.slice", &slice], vec!["user@.service", &service]];
        let disabled: Vec<Assignment> =
            slices.iter().flat_map(|names| since_reset(units::assignments(root, names, "DisableControllers"))).collect();
        let written = units::assignments(root, &["user@.service", &service], "Delegate");
        for name in absent {
            let names_it = |one: &&Assignment| one.value.split_whitespace().any(|word| word == *name);
            let by = disabled.iter().filter(names_it).map(|one| one.file.clone());
            match () {
                () if !kernel.iter().any(|own| own == name) => why.not_in_kernel.push(name),
                () if !by_manager => why.by_others = true,
                () if disabled.iter().any(|one| names_it(&one)) => why.disabled.extend(by),
                () if delegated.iter().any(|own| own == name) => why.not_passed_on = true,
                () if delegates(&written, name) => why.not_passed_on = true,
                () => why.not_delegated = true,
            }
        }
        why.kept_back = why.not_passed_on && has_started_since(&written);
        why.not_passed_on &= !why.kept_back;
        // What is not written either would be missing next.
        why.not_delegated |= !why.disabled.is_empty() && !absent.iter().all(|name| delegates(&written, name));
        why.disabled.sort();
        why.disabled.dedup();
        why.written = written;
        why
    }

    fn words(&self) -> String {
        let mut words = String::new();
        if !self.not_in_kernel.is_empty() {
            words.push_str(&format!("; this kernel has no {}", self.not_in_kernel.join(" ")));
        }
        for file in &self.disabled {
            words.push_str(&format!("; DisableControllers= in {} keeps controllers away", file.display()));
        }
        if self.not_passed_on {
            words.push_str("; delegated, but not known to the manager that runs, which was started before");
        }
        if self.kept_back {
            words.push_str("; delegated to the manager, which passes it on to no scope: DisableControllers= in one of its own units?");
        }
        words
    }

    fn remedy(&self, lingers: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.not_in_kernel.is_empty() {
            let enable = self.not_in_kernel.iter().map(|name| format!("cgroup_enable={name}")).collect::<Vec<_>>().join(" ");
            lines.push(format!("# on the kernel's command line, without cgroup_disable= and followed by a reboot: {enable}"));
        }
        if self.by_others {
            lines.push("# whoever has made this cgroup (a unit, a container, a batch system) must enable the controllers for it".into());
        }
        for file in &self.disabled {
            lines.push(format!(
                "sudo sed -i '/^[[:space:]]*DisableControllers[[:space:]]*=/d' {}",
                super::shell_word(&file.to_string_lossy())
            ));
        }
        if self.kept_back {
            lines.push(
                "grep -rs DisableControllers ~/.config/systemd/user /etc/systemd/user /usr/lib/systemd/user  # take it out, then:".into(),
            );
        }
        if self.not_delegated {
            lines.extend(delegate(&self.written));
        }
        if self.not_delegated || self.not_passed_on || self.kept_back || !self.disabled.is_empty() {
            lines.extend(anew(lingers));
        }
        lines
    }
}

/// Whether the user's manager has started after all of this was written. Its socket is as old as itself.
fn has_started_since(written: &[Assignment]) -> bool {
    let of = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let socket = of(&PathBuf::from(format!("/run/user/{}/systemd/private", getuid().as_raw())));
    socket.is_some_and(|started| written.iter().filter_map(|one| of(&one.file)).all(|file| file < started))
}

/// An empty value takes back what came before.
fn since_reset(all: Vec<Assignment>) -> Vec<Assignment> {
    let begin = all.iter().rposition(|one| one.value.is_empty()).map_or(0, |at| at + 1);
    all.into_iter().skip(begin).collect()
}

/// Whether a manager is to have a controller by what is written: what systemd ships counts, unless something is written.
fn delegates(written: &[Assignment], controller: &str) -> bool {
    written.iter().fold(false, |has, one| match one.value.as_str() {
        "" | "no" | "false" | "0" | "off" => false,
        "yes" | "true" | "1" | "on" => true,
        list => has || list.split_whitespace().any(|word| word == controller),
    })
}

/// What an admin does where no service manager does it: once, and for each shell. The limits of the cgroup itself stay root's, and the shell
/// stands below it, since what is divided has no processes of its own (the kernel's cgroup-v2 document, "Delegation").
fn delegate_by_hand(uid: u32) -> [String; 3] {
    let base = format!("user-{uid}");
    let given = ". cgroup.procs cgroup.subtree_control shell shell/cgroup.procs";
    [
        "sudo sh -c 'cd /sys/fs/cgroup && for one in $(cat cgroup.controllers); do echo +$one >cgroup.subtree_control; done'".into(),
        format!("sudo sh -c 'cd /sys/fs/cgroup && mkdir -p {base}/shell && cd {base} && chown {uid} {given}'"),
        format!("echo $$ | sudo tee /sys/fs/cgroup/{base}/shell/cgroup.procs"),
    ]
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
        return finding.remedy(delegate_by_hand(getuid().as_raw()));
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
    fn the_drop_in_file_comes_after_others() {
        let written = |file: &str| Assignment { file: file.into(), value: "no".into() };
        let name = |files: &[Assignment]| delegate(files)[1].rsplit('/').next().map(str::to_owned);
        let directory = "/etc/systemd/system/user@.service.d";
        let (before, own) = (written(&format!("{directory}/a.conf")), written(&format!("{directory}/delegate.conf")));
        assert_eq!(name(&[before, own]).as_deref(), Some("delegate.conf"));
        assert_eq!(name(&[written(&format!("{directory}/override.conf"))]).as_deref(), Some("zz-override.conf"));
        assert_eq!(name(&[written("/etc/systemd/system/user@7.service.d/delegate.conf")]).as_deref(), Some("zz-delegate.conf"));
    }

    #[test]
    fn the_drop_in_file() {
        assert_eq!(
            delegate(&[])[1],
            "printf '%s\\n' '[Service]' 'Delegate=cpu cpuset io memory pids' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf"
        );
    }
}
