//! Overlay in a user namespace on the store's file system.
//!
//! A mount that succeeds proves nothing: only replacing a directory of the lower layer shows whether the upper one can hold what that
//! needs, a whiteout and the `user.overlay.opaque` attribute.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, mkdirat, openat, setxattr, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{chdir, getegid, geteuid};

use super::storage::ScratchDirectory;
use super::trial::{Attempt, Trial, Tried, run};
use super::userns::{private, single_map};
use super::{Finding, errno_name, shell_word};

/// The acts on an overlay, in order, and what each is for.
const ACTS: [(&str, &str); 6] = [
    ("prepare", "making directories"),
    ("overlay", "the mount"),
    ("create", "making a file"),
    ("remove", "removing a lower directory"),
    ("replace", "making a lower directory anew"),
    ("rename", "renaming a file of a lower directory"),
];

const OPTIONS: &CStr = c"userxattr,lowerdir=l,upperdir=u,workdir=w";

/// Tries one in `scratch`, and one on a tmpfs over it, in a mount namespace that ends with the child.
fn attempt(scratch: &Path) -> Result<(Tried, Tried), Errno> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let namespaces = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
    let enter = |trial: &mut Trial| single_map(trial, uid, gid) && private(trial) && trial.attempt("enter", || chdir(scratch));
    let here = run(
        namespaces,
        |_| true,
        |trial| {
            if enter(trial) {
                trial.attempt("xattr", || {
                    mkdirat(CWD, "x", Mode::RWXU)?;
                    setxattr("x", "user.overlay.hamper", b"y", XattrFlags::empty())
                });
                acts(trial);
            }
        },
    )?;
    let memory = run(
        namespaces,
        |_| true,
        |trial| {
            let mounted = enter(trial) && trial.attempt("tmpfs", || mount(c"tmpfs", scratch, c"tmpfs", MountFlags::NODEV, c"size=1m"));
            if mounted && trial.attempt("enter it", || chdir(scratch)) {
                acts(trial);
            }
        },
    )?;
    Ok((here, memory))
}

fn acts(trial: &mut Trial) {
    let directory = |name: &str| mkdirat(CWD, name, Mode::RWXU);
    let file = |name: &str| openat(CWD, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).map(drop);
    let prepared = trial.attempt("prepare", || {
        ["l", "l/d", "l/d/e", "u", "w", "m"].into_iter().try_for_each(directory)?;
        ["l/d/f", "l/g"].into_iter().try_for_each(file)
    });
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    if !prepared || !trial.attempt("overlay", || mount(c"overlay", c"m", c"overlay", flags, OPTIONS)) {
        return;
    }
    trial.attempt("create", || file("m/n"));
    trial.attempt("remove", || {
        unlinkat(CWD, "m/d/f", AtFlags::empty())?;
        unlinkat(CWD, "m/d/e", AtFlags::REMOVEDIR)?;
        unlinkat(CWD, "m/d", AtFlags::REMOVEDIR)
    });
    trial.attempt("replace", || {
        directory("m/d")?;
        // What was in the old one must not come back.
        match openat(CWD, "m/d/f", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(_) => Err(Errno::NOTUNIQ),
        }
    });
    trial.attempt("rename", || rustix::fs::rename("m/g", "m/h"));
}

/// The first act that did not go well.
fn first_failure(tried: &Tried) -> Option<(&'static str, &'static str, Attempt)> {
    ACTS.into_iter().map(|(act, words)| (act, words, tried.attempt(act))).find(|(_, _, attempt)| !attempt.done())
}

fn words(attempt: Attempt) -> String {
    match attempt {
        Attempt::Failed(errno) => errno_name(errno),
        Attempt::Killed(signal) => format!("killed by signal {signal}"),
        Attempt::Done | Attempt::NotTried => "not tried".into(),
    }
}

pub fn check(scratch: &Path, place: &Path, store: &Path, kind: &str) -> Finding {
    const CHECK: &str = "overlay";
    let (here, memory) = match attempt(scratch) {
        Ok(tried) => tried,
        Err(errno) => return Finding::missing(CHECK, format!("cannot be tried ({})", errno_name(errno))).stops().errno(errno),
    };
    let on = format!("{} ({kind})", place.display());
    let Some((act, what, attempt)) = first_failure(&here) else {
        return Finding::ok(CHECK, format!("userxattr on {on}: a lower directory removed and made anew"));
    };
    let mut seen = format!("userxattr on {on}: {what} failed ({})", words(attempt));
    if let Attempt::Failed(errno) = here.attempt("xattr") {
        seen.push_str(&format!(", user extended attributes: {}", errno_name(errno)));
    }
    let memory_works = first_failure(&memory).is_none();
    seen.push_str(if memory_works { "; works on a tmpfs" } else { "; does not work on a tmpfs either" });
    let stops = matches!(act, "prepare" | "overlay" | "create");
    let finding = if stops { Finding::missing(CHECK, seen).stops() } else { Finding::degraded(CHECK, seen) };
    let finding = match attempt {
        Attempt::Failed(errno) => finding.errno(errno),
        _ => finding,
    };
    let finding = if stops {
        finding.instead("image \"host\" alone can be started: it needs no overlay")
    } else {
        finding.instead(
            "images start; in the root and in overlaid homes, directories that come from the image cannot be removed and made anew",
        )
    };
    if attempt == Attempt::Failed(Errno::NODEV) {
        return finding.remedy(["echo overlay | sudo tee /etc/modules-load.d/hamper.conf", "sudo modprobe overlay"]);
    }
    finding.remedy(elsewhere(place, store))
}

/// A place where it works, tried as well; a hint where none of the usual ones does.
fn elsewhere(place: &Path, store: &Path) -> Vec<String> {
    let user = geteuid().as_raw();
    let works = |parent: &str| {
        let parent = Path::new(parent);
        if place.starts_with(parent) {
            return false;
        }
        // Ignoring: a place where nothing can be made is no place.
        let Ok(scratch) = ScratchDirectory::new(parent) else { return false };
        attempt(&scratch.path).is_ok_and(|(here, _)| first_failure(&here).is_none())
    };
    match ["/var/tmp", "/tmp"].into_iter().find(|parent| works(parent)) {
        Some(parent) => {
            let directory = shell_word(&format!("{parent}/hamper-{user}"));
            let trees = shell_word(&store.join("trees").to_string_lossy());
            vec![
                format!("# overlay works in {parent}: the whole store there,"),
                format!("mkdir -m 700 {directory} && export XDG_DATA_HOME={directory}"),
                "# or its trees alone:".into(),
                format!("mkdir -p -m 700 {directory} && ln -s {directory} {trees}"),
            ]
        }
        None => vec!["# keep the store on ext4, xfs or btrfs: export XDG_DATA_HOME=/path/on/it".into()],
    }
}
