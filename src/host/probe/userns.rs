//! User namespaces, the further ones, and the mounts that every sandbox makes.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsmount,
    fsopen, mount, mount_change, move_mount, open_tree,
};
use rustix::process::{WaitId, WaitIdOptions, chdir, pivot_root, waitid};

use super::blocker::{Act, Explanation, Surroundings, apparmor_label, explain_in, outside};
use super::trial::{Attempt, Trial, Tried, run};
use super::{Examination, Finding, errno_name};
use crate::sys::{self, Clone3, Forked, MountAttr, exit_now};

const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

/// The further namespaces of a sandbox.
const FURTHER: [(&str, u64); 6] = [
    ("mount", libc::CLONE_NEWNS as u64),
    ("pid", libc::CLONE_NEWPID as u64),
    ("ipc", libc::CLONE_NEWIPC as u64),
    ("uts", libc::CLONE_NEWUTS as u64),
    ("cgroup", libc::CLONE_NEWCGROUP as u64),
    ("net", libc::CLONE_NEWNET as u64),
];

/// Tries a user namespace with the single map, and then the further ones in it; what blocks them, if something does: then no sandbox of
/// namespaces can be had. Costs some milliseconds: for use after a failure.
pub fn namespaces_blocked() -> Option<Explanation> {
    let mut around = Surroundings::read();
    if let Some((_, explanation)) = blocked(&mut around) {
        return Some(explanation);
    }
    let errno = run(everything(), |_| true, |_| ()).err()?;
    Some(explain_in(Act::Namespace, errno, &around))
}

/// All that a sandbox is cloned into.
fn everything() -> u64 {
    FURTHER.iter().fold(NEWUSER, |flags, (_, flag)| flags | flag)
}

/// The acts of a user namespace with the single map, in order.
const MAP_ACTS: [(&str, Act); 3] = [("setgroups", Act::Setgroups), ("uid_map", Act::UidMap), ("gid_map", Act::GidMap)];

fn blocked(around: &mut Surroundings) -> Option<(Errno, Explanation)> {
    let refused = |act, errno, around: &Surroundings| Some((errno, explain_in(act, errno, around)));
    // Some filters kill who calls: then it is a child of ours that dies, and SIGSYS means what ENOSYS under a filter means.
    let errno_of = |attempt, around: &mut Surroundings| match attempt {
        Attempt::Failed(errno) => errno,
        _ => {
            around.seccomp = 2;
            Errno::NOSYS
        }
    };
    let first = match run(0, |_| true, |trial| trial.attempt("clone", clone_and_end)) {
        Ok(tried) => tried.attempt("clone"),
        Err(errno) => Attempt::Failed(errno),
    };
    if !first.done() {
        let errno = errno_of(first, around);
        return refused(Act::Clone, errno, around);
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let tried = match run(
        NEWUSER,
        |_| true,
        |trial| {
            if let Some(label) = apparmor_label() {
                trial.tell("label", &label);
            }
            single_map(trial, uid, gid);
        },
    ) {
        Ok(tried) => tried,
        Err(errno) => return refused(Act::Clone, errno, around),
    };
    if let Some(label) = tried.told("label") {
        around.label = Some(label.to_owned());
    }
    let (name, act) = MAP_ACTS.into_iter().find(|(name, _)| !tried.attempt(name).done())?;
    let errno = errno_of(tried.attempt(name), around);
    refused(act, errno, around)
}

fn clone_and_end() -> Result<(), Errno> {
    match sys::clone3(&Clone3 { namespaces: NEWUSER, cgroup: None })? {
        Forked::Child => exit_now(0),
        Forked::Parent { pidfd, .. } => {
            use std::os::fd::AsFd;
            waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).map(drop)
        }
    }
}

/// Maps the caller, and nobody else, as a sandbox under the single map does. Runs in the new user namespace.
pub fn single_map(trial: &mut Trial, uid: u32, gid: u32) -> bool {
    let write = |path: &str, text: String| {
        let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes()).map(drop)
    };
    trial.attempt("setgroups", || write("/proc/self/setgroups", "deny".into()))
        && trial.attempt("uid_map", || write("/proc/self/uid_map", format!("{uid} {uid} 1\n")))
        && trial.attempt("gid_map", || write("/proc/self/gid_map", format!("{gid} {gid} 1\n")))
}

/// Nothing that is mounted in this namespace is seen outside. Runs in the child.
pub fn private(trial: &mut Trial) -> bool {
    trial.attempt("propagation", || mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC))
}

/// What the checks that follow can be tried with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usable {
    pub users: bool,
    pub mounts: bool,
}

/// The three checks of this file.
pub fn check(around: &Surroundings, all: &mut Examination) -> Usable {
    let mut around = around.clone();
    if let Some((errno, explanation)) = blocked(&mut around) {
        let finding = Finding::missing("user_namespaces", explanation.sentence.clone()).stops().errno(errno).explained(&explanation);
        all.findings.push(finding.instead("no image with layers can be started; see the end of this list for what still works"));
        all.skipped.extend(["namespaces", "mounts"]);
        return Usable::default();
    }
    all.findings.push(Finding::ok("user_namespaces", "made, and the single map written"));
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let place = ["/tmp", "/run", "/usr"].into_iter().find(|path| Path::new(path).is_dir()).unwrap_or("/proc");
    let tried = run(
        everything(),
        |_| true,
        |trial| {
            if single_map(trial, uid, gid) && private(trial) {
                try_mounts(trial, place);
            }
        },
    );
    match tried {
        Ok(tried) => {
            all.findings.push(Finding::ok("namespaces", names(&FURTHER.map(|(name, _)| name))));
            let mounts = mounts(&tried, &around);
            // A masked /proc stops a start, and tells nothing about an overlay.
            let usable = Usable { users: true, mounts: tried.attempt("tmpfs").done() };
            all.findings.push(mounts);
            usable
        }
        Err(errno) => {
            all.findings.push(namespaces(errno, &around));
            all.skipped.push("mounts");
            Usable::default()
        }
    }
}

fn names(names: &[&str]) -> String {
    names.join(" ")
}

/// All at once failed; each alone says which.
fn namespaces(errno: Errno, around: &Surroundings) -> Finding {
    let mut errno = errno;
    let mut refused = Vec::new();
    for (name, flag) in FURTHER {
        if let Err(own) = run(NEWUSER | flag, |_| true, |_| ()) {
            refused.push(name);
            errno = own;
        }
    }
    let explanation = explain_in(Act::Namespace, errno, around);
    let which = if refused.is_empty() { "all of them together".to_owned() } else { names(&refused) };
    Finding::missing("namespaces", format!("{which}: {}", explanation.sentence))
        .stops()
        .errno(errno)
        .explained(&explanation)
        .instead("nothing: a sandbox without these is not started")
}

const SAFEST: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts that a sandbox cannot do without, and then those that it can.
const NEEDED: [&str; 9] = ["propagation", "tmpfs", "proc", "devpts", "mqueue", "fsopen", "open_tree", "loopback", "pivot_root"];
const WANTED: [&str; 2] = ["sysfs", "cgroup2"];

/// Everything on a tmpfs of its own, over a directory that always exists, in a namespace that ends with this child.
fn try_mounts(trial: &mut Trial, place: &str) {
    let made = trial.attempt("tmpfs", || {
        mount(c"tmpfs", place, c"tmpfs", SAFEST, c"size=64k,mode=700")?;
        chdir(place)?;
        ["proc", "devpts", "mqueue", "sysfs", "cgroup2", "fsopen", "old"]
            .iter()
            .try_for_each(|name| mkdirat(CWD, *name, Mode::from_raw_mode(0o700)))
    });
    if !made {
        return;
    }
    for (kind, options) in [("proc", None), ("devpts", Some(c"newinstance,ptmxmode=0666,mode=0620")), ("mqueue", None)] {
        let flags = if kind == "devpts" { MountFlags::NOSUID | MountFlags::NOEXEC } else { SAFEST };
        trial.attempt(kind, || mount(kind, kind, kind, flags, options));
    }
    for kind in WANTED {
        trial.attempt(kind, || mount(kind, kind, kind, SAFEST | MountFlags::RDONLY, None));
    }
    trial.attempt("fsopen", || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        move_mount(&tree, "", CWD, "fsopen", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    });
    trial.attempt("open_tree", || {
        let tree = open_tree(CWD, "fsopen", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        use std::os::fd::AsFd;
        sys::mount_setattr(tree.as_fd(), true, &MountAttr { set: MountAttr::RDONLY | MountAttr::NOSUID, ..MountAttr::default() })
    });
    trial.attempt("loopback", sys::loopback_up);
    // Relative to the tmpfs: its own path leads to what it covers.
    trial.attempt("pivot_root", || pivot_root(".", "old"));
}

fn mounts(tried: &Tried, around: &Surroundings) -> Finding {
    const CHECK: &str = "mounts";
    let Some(name) = NEEDED.into_iter().find(|name| !tried.attempt(name).done()) else {
        return wanted_mounts(tried, around);
    };
    let errno = match tried.attempt(name) {
        Attempt::Failed(errno) => errno,
        Attempt::Killed(signal) => {
            return Finding::missing(CHECK, format!("{name}: killed by signal {signal}, so an outer seccomp filter forbids the call"))
                .stops()
                .instead("nothing: a sandbox is not started without its own mounts")
                .remedy(outside(around));
        }
        _ => Errno::PERM,
    };
    if name == "proc" && errno == Errno::PERM && tried.attempt("tmpfs").done() {
        return Finding::missing(
            CHECK,
            "proc (EPERM): /proc is masked here, by mounts over parts of it, and so the kernel gives no new one",
        )
        .stops()
        .errno(errno)
        .instead("nothing: a sandbox without its own /proc would show the processes of others")
        .remedy(outside(around));
    }
    if name == "pivot_root" && errno == Errno::INVAL {
        return Finding::missing(CHECK, "pivot_root (EINVAL): the root is the initial RAM disk, which cannot be left")
            .stops()
            .errno(errno)
            .instead("nothing: a sandbox must leave the host's root")
            .remedy(["# boot from a file system of its own: switch_root in the initrd"]);
    }
    let act = if name == "loopback" { Act::Loopback } else { Act::Mount };
    let explanation = explain_in(act, errno, around);
    Finding::missing(CHECK, format!("{name}: {}", explanation.sentence))
        .stops()
        .errno(errno)
        .explained(&explanation)
        .instead("nothing: a sandbox is not started without its own mounts")
}

fn wanted_mounts(tried: &Tried, around: &Surroundings) -> Finding {
    const CHECK: &str = "mounts";
    let missed: Vec<String> = WANTED
        .into_iter()
        .filter_map(|name| match tried.attempt(name) {
            Attempt::Failed(errno) => Some(format!("{name} ({})", errno_name(errno))),
            Attempt::Killed(signal) => Some(format!("{name} (signal {signal})")),
            _ => None,
        })
        .collect();
    let fine = "tmpfs proc devpts mqueue, by mount and by fsopen, loopback up, pivot_root";
    if missed.is_empty() {
        return Finding::ok(CHECK, format!("{fine}, sysfs cgroup2"));
    }
    let finding = Finding::degraded(CHECK, format!("{fine}; not {}", missed.join(", ")));
    let finding = match tried.attempt("sysfs") {
        Attempt::Done => finding.instead("/sys/fs/cgroup is empty inside"),
        _ => finding.instead("/sys is empty inside"),
    };
    match (&around.container, around.nested) {
        (None, false) => finding,
        _ => finding.remedy(outside(around)),
    }
}
