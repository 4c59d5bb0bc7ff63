//! Who blocks user namespaces: from the act that failed, its errno and what surrounds this process to words and a remedy.
//!
//! The kernel answers with one errno for many causes, so the sysctls, the label and the filter of this process tell them apart.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::procfs::{confines, id_map, is_identity, is_mapped, mounts, number, read, status_field, variable};
use super::{errno_name, shell_word};

/// What was tried when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// clone(2) with `CLONE_NEWUSER`, alone or with others.
    Clone,
    Setgroups,
    UidMap,
    GidMap,
    /// A further namespace, in a user namespace that is there.
    Namespace,
    Mount,
    Loopback,
}

/// Who is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// Debian's own sysctl `kernel.unprivileged_userns_clone`.
    UsernsClone,
    /// Sysctls `user.max_*_namespaces` that are 0.
    LimitZero(Vec<String>),
    /// One of them is used up, or namespaces are 32 deep.
    LimitReached,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    AppArmorRestriction,
    /// An AppArmor profile that confines this process.
    AppArmorProfile(String),
    SeLinux,
    /// A seccomp filter that this process was started under.
    SeccompFilter,
    /// This process is in a chroot(2).
    Chroot,
    /// This process's own ids mean nothing outside its user namespace.
    Unmapped,
    /// The program file is not readable, so the process is not dumpable and its `/proc` files belong to root.
    Unreadable,
    /// `/proc` is mounted read-only.
    ReadOnlyProc,
    /// The kernel was built without them, or is too old.
    NotBuilt,
    ProcessLimit,
    Memory,
    Unknown,
}

impl Blocker {
    /// A stable name for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UsernsClone => "unprivileged_userns_clone",
            Self::LimitZero(_) => "max_namespaces_zero",
            Self::LimitReached => "max_namespaces_reached",
            Self::AppArmorRestriction => "apparmor_restrict_unprivileged_userns",
            Self::AppArmorProfile(_) => "apparmor_profile",
            Self::SeLinux => "selinux",
            Self::SeccompFilter => "seccomp_filter",
            Self::Chroot => "chroot",
            Self::Unmapped => "unmapped_ids",
            Self::Unreadable => "unreadable_program",
            Self::ReadOnlyProc => "read_only_proc",
            Self::NotBuilt => "not_built",
            Self::ProcessLimit => "process_limit",
            Self::Memory => "memory",
            Self::Unknown => "unknown",
        }
    }
}

/// What a failure means and what an admin can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub blocker: Blocker,
    /// A clause that says who refuses what.
    pub sentence: String,
    /// Lines to paste; one that begins with `#` says something.
    pub remedy: Vec<String>,
}

/// What tells blockers apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub root: bool,
    pub userns_clone: Option<u64>,
    pub apparmor_restrict: Option<u64>,
    /// The AppArmor label, of the child in its user namespace where that is known.
    pub label: Option<String>,
    pub selinux: bool,
    /// Mode of seccomp: 2 is a filter.
    pub seccomp: u64,
    pub no_new_privs: bool,
    /// The user namespace is not the initial one.
    pub nested: bool,
    /// It has one user id, or none.
    pub single: bool,
    pub mapped: bool,
    pub chroot: bool,
    pub readable: bool,
    /// Sysctls `user.max_*_namespaces` that are 0.
    pub zero_limits: Vec<String>,
    /// The kind of container, and what shows it.
    pub container: Option<(String, String)>,
    /// The program file.
    pub program: PathBuf,
}

impl Surroundings {
    pub fn read() -> Self {
        let status = read("/proc/self/status").unwrap_or_default();
        let field = |name| status_field(&status, name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let maps = [read("/proc/self/uid_map"), read("/proc/self/gid_map")].map(|text| id_map(&text.unwrap_or_default()));
        let [uid_map, gid_map] = &maps;
        let points = mounts(&read("/proc/self/mountinfo").unwrap_or_default());
        let uid = rustix::process::geteuid();
        let program = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::from("/usr/local/bin/hamper"));
        Self {
            root: uid.is_root(),
            userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            label: apparmor_label(),
            selinux: number("/sys/fs/selinux/enforce") == Some(1),
            seccomp: field("Seccomp"),
            no_new_privs: field("NoNewPrivs") == 1,
            nested: !uid_map.is_empty() && !is_identity(uid_map),
            single: uid_map.iter().map(|(_, _, count)| count).sum::<u64>() <= 1,
            mapped: is_mapped(uid_map, u64::from(uid.as_raw())) && is_mapped(gid_map, u64::from(rustix::process::getegid().as_raw())),
            chroot: !points.is_empty() && !points.iter().any(|mount| mount.point == Path::new("/")),
            readable: rustix::fs::access("/proc/self/exe", rustix::fs::Access::READ_OK).is_ok(),
            zero_limits: zero_limits(),
            container: container(),
            program,
        }
    }

    /// Whether an admin of this machine can help, as opposed to whoever started the sandbox around us.
    fn on_the_host(&self) -> bool {
        !self.nested && self.container.is_none()
    }
}

/// The label of this process, where AppArmor is on.
pub fn apparmor_label() -> Option<String> {
    let own = read("/proc/self/attr/apparmor/current").ok();
    // Kernels before 5.8 have the common file only, which may be another module's.
    let common = || {
        let enabled = read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
        enabled.then(|| read("/proc/self/attr/current").ok()).flatten()
    };
    own.or_else(common).map(|label| label.trim_end_matches(['\n', '\0']).to_owned()).filter(|label| !label.is_empty())
}

/// Every kind of namespace that a sandbox has, as its sysctl is spelt.
pub const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"];

pub fn limit(kind: &str) -> Option<u64> {
    number(format!("/proc/sys/user/max_{kind}_namespaces"))
}

fn zero_limits() -> Vec<String> {
    KINDS.iter().filter(|kind| limit(kind) == Some(0)).map(|kind| format!("user.max_{kind}_namespaces")).collect()
}

/// The kind of container around this process, and what shows it.
fn container() -> Option<(String, String)> {
    let found = |kind: &str, evidence: &str| Some((kind.to_owned(), evidence.to_owned()));
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return found("kubernetes", "KUBERNETES_SERVICE_HOST");
    }
    if Path::new("/run/.containerenv").exists() {
        return found("podman", "/run/.containerenv");
    }
    if Path::new("/.dockerenv").exists() {
        return found("docker", "/.dockerenv");
    }
    if let Ok(environment) = read("/proc/1/environ")
        && let Some(kind) = variable(&environment, "container")
    {
        return found(kind, "container= in the environment of process 1");
    }
    // systemd puts it there for everybody to read.
    let kind = read("/run/systemd/container").ok()?;
    found(kind.trim(), "/run/systemd/container")
}

/// Explains why clone(2) into new namespaces has failed.
pub fn explain_clone(errno: Errno) -> Explanation {
    explain(Act::Clone, errno)
}

/// Explains a failure on the way into a user namespace; looks at this machine.
pub fn explain(act: Act, errno: Errno) -> Explanation {
    explain_in(act, errno, &Surroundings::read())
}

/// The same with given surroundings.
pub fn explain_in(act: Act, errno: Errno, around: &Surroundings) -> Explanation {
    let blocker = identify(act, errno, around);
    Explanation { sentence: sentence(act, errno, &blocker, around), remedy: remedy(&blocker, around), blocker }
}

fn identify(act: Act, errno: Errno, around: &Surroundings) -> Blocker {
    match (act, errno) {
        (_, Errno::NOSPC | Errno::USERS) if !around.zero_limits.is_empty() => Blocker::LimitZero(around.zero_limits.clone()),
        (_, Errno::NOSPC | Errno::USERS) => Blocker::LimitReached,
        (Act::Clone, Errno::AGAIN) => Blocker::ProcessLimit,
        (_, Errno::NOMEM) => Blocker::Memory,
        (Act::Setgroups | Act::UidMap | Act::GidMap, Errno::ROFS) => Blocker::ReadOnlyProc,
        // EINVAL is also what our own clone says where a filter refuses unshare(2), by which it counts its threads.
        (_, Errno::NOSYS) | (Act::Clone, Errno::INVAL) if around.seccomp == 2 => Blocker::SeccompFilter,
        (Act::Clone | Act::Namespace, Errno::INVAL) => Blocker::NotBuilt,
        (_, Errno::NOSYS) => Blocker::NotBuilt,
        (Act::Clone, Errno::PERM) if around.userns_clone == Some(0) && !around.root => Blocker::UsernsClone,
        (Act::Clone, Errno::PERM) if around.chroot => Blocker::Chroot,
        (Act::Clone, Errno::PERM) if !around.mapped => Blocker::Unmapped,
        (Act::Setgroups | Act::UidMap | Act::GidMap, Errno::ACCESS) if !around.readable => Blocker::Unreadable,
        (_, Errno::PERM | Errno::ACCESS) => by_policy(errno, around),
        _ => Blocker::Unknown,
    }
}

/// Security modules and filters, the likelier first. AppArmor's own refusal to make one is `EACCES`, a filter's mostly `EPERM`.
fn by_policy(errno: Errno, around: &Surroundings) -> Blocker {
    let label = around.label.as_deref().unwrap_or("");
    let restricted = around.apparmor_restrict.is_some_and(|value| value != 0) && !confines(label);
    if restricted || label.starts_with("unprivileged_userns") {
        return Blocker::AppArmorRestriction;
    }
    let filtered = around.seccomp == 2;
    match errno {
        Errno::PERM if filtered => Blocker::SeccompFilter,
        _ if confines(label) => Blocker::AppArmorProfile(label.to_owned()),
        _ if around.selinux => Blocker::SeLinux,
        _ if filtered => Blocker::SeccompFilter,
        _ => Blocker::Unknown,
    }
}

fn sentence(act: Act, errno: Errno, blocker: &Blocker, around: &Surroundings) -> String {
    let what = match act {
        Act::Clone => "a user namespace cannot be made",
        Act::Setgroups => "setgroups cannot be denied in a new user namespace",
        Act::UidMap => "the uid map of a new user namespace cannot be written",
        Act::GidMap => "the gid map of a new user namespace cannot be written",
        Act::Namespace => "further namespaces cannot be made in a user namespace",
        Act::Mount => "nothing can be mounted in a user namespace",
        Act::Loopback => "the loopback interface of a new network namespace cannot be brought up",
    };
    format!("{what} ({}): {}", errno_name(errno), cause(errno, blocker, around))
}

fn cause(errno: Errno, blocker: &Blocker, around: &Surroundings) -> String {
    match blocker {
        Blocker::UsernsClone => "the sysctl kernel.unprivileged_userns_clone is 0".into(),
        Blocker::LimitZero(sysctls) if sysctls.len() == 1 => format!("the sysctl {} is 0", sysctls.join("")),
        Blocker::LimitZero(sysctls) => format!("the sysctls {} are 0", sysctls.join(", ")),
        Blocker::LimitReached => "one of the sysctls user.max_*_namespaces is used up, or namespaces are 32 deep here".into(),
        Blocker::AppArmorRestriction => {
            "AppArmor takes all capabilities from user namespaces of programs without a profile (kernel.apparmor_restrict_unprivileged_userns)".into()
        }
        Blocker::AppArmorProfile(label) => format!("the AppArmor profile {label} refuses it"),
        Blocker::SeLinux => "SELinux is enforcing, and its policy seems to refuse it".into(),
        Blocker::SeccompFilter => match &around.container {
            Some((kind, _)) => format!("a seccomp filter refuses it, as containers ({kind}) come with one"),
            None => "a seccomp filter that hamper was started under refuses it (a service's RestrictNamespaces= or SystemCallFilter=, another sandbox)".into(),
        },
        Blocker::Chroot => "hamper was started in a chroot, where the kernel refuses it".into(),
        Blocker::Unmapped => "hamper's own user or group has no meaning outside of the user namespace that it was started in".into(),
        Blocker::Unreadable => "the program file is not readable for its user, so the kernel gives the process's files in /proc to root".into(),
        Blocker::ReadOnlyProc => "/proc is mounted read-only here".into(),
        Blocker::NotBuilt if errno == Errno::NOSYS => "this kernel does not know the call".into(),
        Blocker::NotBuilt => "this kernel is built without them (CONFIG_USER_NS and the other *_NS)".into(),
        Blocker::ProcessLimit => "the limit of processes is reached (ulimit -u, or pids.max of the cgroup)".into(),
        Blocker::Memory => "there is no memory left".into(),
        Blocker::Unknown if around.nested => "the sandbox that hamper was started in seems to refuse it".into(),
        Blocker::Unknown => "nothing that can be seen from here says who refuses it (a security module or a chroot could)".into(),
    }
}

fn remedy(blocker: &Blocker, around: &Surroundings) -> Vec<String> {
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    match blocker {
        Blocker::UsernsClone => sysctl(&["kernel.unprivileged_userns_clone=1".into()]),
        Blocker::LimitZero(_) if around.nested => outside(around),
        Blocker::LimitZero(sysctls) => sysctl(&sysctls.iter().map(|name| format!("{name}=15000")).collect::<Vec<_>>()),
        Blocker::LimitReached if around.nested => outside(around),
        Blocker::LimitReached => lines(&["sysctl -a 2>/dev/null | grep '^user.max_.*_namespaces'", "lsns"]),
        Blocker::AppArmorRestriction if around.on_the_host() => apparmor(&around.program),
        Blocker::AppArmorProfile(label) if around.on_the_host() => {
            let name = label.rsplit_once(" (").map_or(label.as_str(), |(name, _)| name);
            vec![format!(
                "# add the rule \"userns,\" to the AppArmor profile {name} in /etc/apparmor.d, then: sudo systemctl reload apparmor"
            )]
        }
        Blocker::AppArmorRestriction | Blocker::AppArmorProfile(_) | Blocker::SeccompFilter | Blocker::ReadOnlyProc => outside(around),
        Blocker::SeLinux => lines(&["sudo ausearch -m avc -ts recent", "# then allow user_namespace create for hamper's domain"]),
        Blocker::Chroot => lines(&["# start hamper outside of the chroot, or enter the tree by pivot_root (bwrap --bind TREE / ...)"]),
        Blocker::Unmapped => lines(&["# start hamper as a user that the surrounding namespace maps"]),
        Blocker::Unreadable => vec![format!("sudo chmod a+r {}", shell_word(&around.program.to_string_lossy()))],
        Blocker::NotBuilt => lines(&["# boot a kernel with CONFIG_USER_NS=y (every distribution's own has it)"]),
        Blocker::ProcessLimit => lines(&["ulimit -u", "cat /sys/fs/cgroup/user.slice/user-$(id -u).slice/pids.max"]),
        Blocker::Unknown if !around.on_the_host() => outside(around),
        Blocker::Memory | Blocker::Unknown => Vec::new(),
    }
}

/// A sysctl that holds now and after a boot.
pub fn sysctl(settings: &[String]) -> Vec<String> {
    let words: Vec<_> = settings.iter().map(|setting| shell_word(setting)).collect();
    vec![format!("printf '%s\\n' {} | sudo tee /etc/sysctl.d/60-hamper.conf", words.join(" ")), "sudo sysctl --system".into()]
}

/// A profile that gives user namespaces to hamper alone. Whoever can replace the program has them too, so it moves to root's hands first.
fn apparmor(program: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let safe = owned_by_root(program);
    let place = if safe { program } else { Path::new("/usr/local/bin/hamper") };
    if !safe {
        lines.push(format!("sudo install -m 755 {} {}", shell_word(&program.to_string_lossy()), place.display()));
    }
    let profile = format!("profile hamper {} flags=(unconfined) {{ userns, }}", apparmor_path(&place.to_string_lossy()));
    lines.push(format!("printf '%s\\n' 'abi <abi/4.0>,' {} | sudo tee /etc/apparmor.d/hamper", shell_word(&profile)));
    lines.push("sudo apparmor_parser -r /etc/apparmor.d/hamper".into());
    lines.push("# or, for every program of this machine:".into());
    lines.extend(sysctl(&["kernel.apparmor_restrict_unprivileged_userns=0".into()]));
    lines
}

fn owned_by_root(program: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let safe = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0);
    program.is_absolute() && program.ancestors().all(safe)
}

/// A path in an AppArmor profile: quoted, its own special characters escaped.
fn apparmor_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len() + 2);
    for character in path.chars() {
        if "\"\\*?[]{}^@".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    if escaped.len() == path.len() && !path.contains([' ', '#', '\t']) { escaped } else { format!("\"{escaped}\"") }
}

/// What whoever started the surrounding container or sandbox can do.
pub fn outside(around: &Surroundings) -> Vec<String> {
    let sandbox =
        "# where another sandbox refuses it: start hamper outside of that; in a systemd unit: RestrictNamespaces=no, no SystemCallFilter="
            .to_owned();
    let line = match around.container.as_ref().map(|(kind, _)| kind.as_str()) {
        Some("docker") => {
            "# start the container with: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
        }
        Some("podman") => {
            "# start the container with: podman run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt unmask=ALL"
        }
        Some("kubernetes") => {
            "# in the pod: hostUsers: false, and in securityContext procMount: Unmasked, seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}"
        }
        Some("lxc") => "# outside: incus config set NAME security.nesting=true (or lxc config set ...), then restart the container",
        Some("systemd-nspawn") => "# outside: in the container's .nspawn file [Exec] PrivateUsers=no and SystemCallFilter=@mount @keyring",
        Some(_) => "# start this container without its seccomp filter and with /proc unmasked",
        None => return vec![sandbox],
    };
    vec![line.to_owned(), sandbox]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordinary() -> Surroundings {
        Surroundings { mapped: true, readable: true, program: "/home/u/bin/hamper".into(), ..Surroundings::default() }
    }

    fn docker() -> Option<(String, String)> {
        Some(("docker".into(), "/.dockerenv".into()))
    }

    /// What hosts of each kind have been seen to answer.
    #[test]
    fn hosts() {
        let ubuntu = Surroundings { apparmor_restrict: Some(1), label: Some("unconfined".into()), ..ordinary() };
        let inside = Surroundings { label: Some("unprivileged_userns (enforce)".into()), ..ordinary() };
        let label = "containers-default-0.62.2 (enforce)";
        let contained = Surroundings { label: Some(label.into()), seccomp: 2, container: docker(), ..ordinary() };
        let filtered = Surroundings { seccomp: 2, ..ordinary() };
        let zero = vec!["user.max_user_namespaces".to_owned()];
        for (act, errno, around, expected) in [
            (Act::Clone, Errno::NOSPC, Surroundings { zero_limits: zero.clone(), ..ordinary() }, Blocker::LimitZero(zero)),
            (Act::Clone, Errno::NOSPC, ordinary(), Blocker::LimitReached),
            (Act::Clone, Errno::PERM, Surroundings { userns_clone: Some(0), ..ordinary() }, Blocker::UsernsClone),
            (Act::Clone, Errno::PERM, Surroundings { userns_clone: Some(1), ..ordinary() }, Blocker::Unknown),
            (Act::Clone, Errno::PERM, filtered.clone(), Blocker::SeccompFilter),
            (Act::Clone, Errno::NOSYS, filtered, Blocker::SeccompFilter),
            (Act::Clone, Errno::NOSYS, ordinary(), Blocker::NotBuilt),
            (Act::Clone, Errno::INVAL, ordinary(), Blocker::NotBuilt),
            (Act::Clone, Errno::INVAL, Surroundings { seccomp: 2, ..ordinary() }, Blocker::SeccompFilter),
            (Act::Clone, Errno::ACCESS, contained.clone(), Blocker::AppArmorProfile(label.into())),
            (Act::Clone, Errno::PERM, contained, Blocker::SeccompFilter),
            (Act::Setgroups, Errno::ACCESS, ubuntu.clone(), Blocker::AppArmorRestriction),
            (Act::UidMap, Errno::PERM, ubuntu.clone(), Blocker::AppArmorRestriction),
            (Act::Namespace, Errno::PERM, ubuntu.clone(), Blocker::AppArmorRestriction),
            (Act::Mount, Errno::ACCESS, ubuntu.clone(), Blocker::AppArmorRestriction),
            (Act::Loopback, Errno::PERM, ubuntu, Blocker::AppArmorRestriction),
            (Act::UidMap, Errno::PERM, inside, Blocker::AppArmorRestriction),
            (Act::UidMap, Errno::ACCESS, Surroundings { readable: false, ..ordinary() }, Blocker::Unreadable),
            (Act::Clone, Errno::PERM, Surroundings { chroot: true, ..ordinary() }, Blocker::Chroot),
            (Act::Clone, Errno::PERM, Surroundings { mapped: false, ..ordinary() }, Blocker::Unmapped),
            (Act::Clone, Errno::ACCESS, Surroundings { selinux: true, ..ordinary() }, Blocker::SeLinux),
            (Act::Clone, Errno::AGAIN, ordinary(), Blocker::ProcessLimit),
            (Act::Setgroups, Errno::ROFS, ordinary(), Blocker::ReadOnlyProc),
        ] {
            assert_eq!(identify(act, errno, &around), expected, "{act:?} {errno:?} {around:?}");
        }
    }

    #[test]
    fn words_name_the_cause_and_the_remedy_can_be_pasted() {
        let told = explain_in(Act::Clone, Errno::PERM, &Surroundings { userns_clone: Some(0), ..ordinary() });
        assert_eq!(told.sentence, "a user namespace cannot be made (EPERM): the sysctl kernel.unprivileged_userns_clone is 0");
        assert_eq!(
            told.remedy,
            ["printf '%s\\n' kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-hamper.conf", "sudo sysctl --system"]
        );
        let ubuntu = Surroundings { apparmor_restrict: Some(1), ..ordinary() };
        let told = explain_in(Act::UidMap, Errno::PERM, &ubuntu);
        assert_eq!(told.remedy.first().map(String::as_str), Some("sudo install -m 755 /home/u/bin/hamper /usr/local/bin/hamper"));
        assert_eq!(
            told.remedy.get(1).map(String::as_str),
            Some(
                "printf '%s\\n' 'abi <abi/4.0>,' 'profile hamper /usr/local/bin/hamper flags=(unconfined) { userns, }' | sudo tee /etc/apparmor.d/hamper"
            )
        );
        let told = explain_in(Act::Clone, Errno::PERM, &Surroundings { seccomp: 2, container: docker(), ..ordinary() });
        assert!(told.remedy.concat().contains("docker run --security-opt seccomp=unconfined"), "{told:?}");
    }

    #[test]
    fn paths_in_profiles() {
        assert_eq!(apparmor_path("/usr/bin/hamper"), "/usr/bin/hamper");
        assert_eq!(apparmor_path("/a b/h"), "\"/a b/h\"");
        assert_eq!(apparmor_path("/a*/h"), "\"/a\\*/h\"");
    }
}
