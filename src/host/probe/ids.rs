//! Subordinate ids: the ranges, the two programs that map them, and a namespace in which they are really mapped.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, chownat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid, getgid, getuid};

use super::procfs::{id_map, os_release, read};
use super::trial::{Attempt, run};
use super::{Finding, Surroundings, errno_name, shell_word};
use crate::host::SubRange;
use crate::host::facts::{find_range, user_name};
use crate::sys::{Extent, IdMapError, MAP_PROGRAMS, write_maps_with_programs};

const CHECK: &str = "subuid";
const INSTEAD: &str =
    "the single map: you are the only id inside, all files of an image are yours, and profiles with caps or map = \"range\" are refused";

/// As many ids as images use: up to `nobody`, 65534.
const WANTED: u32 = 65_536;

pub fn check(around: &Surroundings, usable: bool, scratch: Option<&Path>) -> Finding {
    if around.nested && around.single {
        return Finding::missing(CHECK, "hamper is inside a user namespace that has one id")
            .instead(INSTEAD)
            .remedy(["# start hamper outside of it, or give that namespace a range of ids"]);
    }
    let uid = getuid().as_raw();
    let name = user_name(uid);
    let files = ["/etc/subuid", "/etc/subgid"].map(|file| read(file).unwrap_or_default());
    let [uids, gids] = [0, 1].map(|index| files.get(index).and_then(|text| find_range(text, name.as_deref(), uid)));
    let (Some(uids), Some(gids)) = (uids, gids) else {
        return no_range(uid, name.as_deref(), &files, (uids.is_some(), gids.is_some()));
    };
    if let Some(finding) = MAP_PROGRAMS.iter().find_map(|program| unfit(program)) {
        return finding;
    }
    let ranges = format!("uids {}, gids {}", words(uids), words(gids));
    if !usable {
        return Finding::degraded(CHECK, format!("{ranges}, programs installed; not tried, since user namespaces are blocked"))
            .instead(INSTEAD);
    }
    match attempt(uids, gids, scratch) {
        Ok(()) if uids.count < WANTED || gids.count < WANTED => {
            Finding::degraded(CHECK, format!("{ranges}, mapped; fewer than {WANTED}, so that higher ids of an image do not exist"))
                .instead("owners beyond the range become yours")
                .remedy(remedy(uid, name.as_deref(), &files))
        }
        Ok(()) => Finding::ok(CHECK, format!("{ranges}, mapped by newuidmap and newgidmap")),
        Err(failure) => failed(&ranges, &failure, around),
    }
}

fn words(range: SubRange) -> String {
    // The range has been checked to end below 2^32.
    format!("{}-{}", range.start, range.start.saturating_add(range.count - 1))
}

fn no_range(uid: u32, name: Option<&str>, files: &[String; 2], has: (bool, bool)) -> Finding {
    let missing = match has {
        (false, false) => "/etc/subuid and /etc/subgid have no range",
        (false, true) => "/etc/subuid has no range",
        _ => "/etc/subgid has no range",
    };
    let who = name.map_or_else(|| format!("uid {uid}"), str::to_owned);
    let service = read("/etc/nsswitch.conf").unwrap_or_default();
    let service = service.lines().find_map(|line| line.trim().strip_prefix("subid:")).map(str::trim).filter(|names| *names != "files");
    let seen = match service {
        Some(service) => format!("{missing} for {who}; nsswitch.conf has them from {service:?}, which hamper does not ask"),
        None => format!("{missing} for {who}"),
    };
    Finding::missing(CHECK, seen).instead(INSTEAD).remedy(remedy(uid, name, files))
}

fn remedy(uid: u32, name: Option<&str>, files: &[String; 2]) -> Vec<String> {
    let start = free_start(files);
    let last = start.saturating_add(WANTED - 1);
    let mut lines = match name {
        Some(name) => vec![format!("sudo usermod --add-subuids {start}-{last} --add-subgids {start}-{last} {}", shell_word(name))],
        // A user of a directory service: usermod knows only those of /etc/passwd.
        None => vec![format!("echo {uid}:{start}:{WANTED} | sudo tee -a /etc/subuid /etc/subgid")],
    };
    if MAP_PROGRAMS.iter().any(|program| !Path::new(program).exists()) {
        lines.push(install());
    }
    lines
}

/// The first block of ids that overlaps no range of either file, from `SUB_UID_MIN` of login.defs(5) on.
fn free_start(files: &[String; 2]) -> u32 {
    const FIRST: u32 = 100_000;
    let mut taken: Vec<(u32, u32)> = files
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':').skip(1);
            let start: u32 = fields.next()?.parse().ok()?;
            Some((start, start.saturating_add(fields.next()?.parse().ok()?)))
        })
        .collect();
    taken.sort_unstable();
    let mut start = FIRST;
    for (first, end) in taken {
        if first < start.saturating_add(WANTED) && start < end {
            start = end;
        }
    }
    start
}

/// How the programs are installed here.
fn install() -> String {
    let release = read("/etc/os-release").unwrap_or_default();
    let family = format!("{} {}", os_release(&release, "ID").unwrap_or(""), os_release(&release, "ID_LIKE").unwrap_or(""));
    let has = |name: &str| family.split_whitespace().any(|word| word == name || word.starts_with(&format!("{name}-")));
    let command = if has("debian") || has("ubuntu") {
        "sudo apt install uidmap"
    } else if has("fedora") || has("rhel") || has("centos") {
        "sudo dnf install shadow-utils"
    } else if has("arch") {
        "sudo pacman -S shadow"
    } else if has("suse") || has("opensuse") {
        "sudo zypper install shadow"
    } else if has("alpine") {
        "sudo apk add shadow-subids"
    } else {
        "# install newuidmap and newgidmap, which are part of shadow-utils (Debian: uidmap)"
    };
    command.to_owned()
}

/// What is wrong with one of the two programs as it is installed.
fn unfit(program: &'static str) -> Option<Finding> {
    let word = shell_word(program);
    let metadata = match std::fs::metadata(program) {
        Ok(metadata) => metadata,
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let seen = format!("a range is there, {program} is not ({})", errno_name(errno));
            return Some(Finding::missing(CHECK, seen).errno(errno).instead(INSTEAD).remedy([install()]));
        }
    };
    if metadata.uid() != 0 {
        let seen = format!("{program} belongs to uid {} and not to root", metadata.uid());
        return Some(
            Finding::missing(CHECK, seen).instead(INSTEAD).remedy([format!("sudo chown root:root {word} && sudo chmod u+s {word}")]),
        );
    }
    let capable = rustix::fs::getxattr(program, "security.capability", &mut [0u8; 0]).is_ok_and(|length| length > 0);
    if metadata.mode() & 0o4000 == 0 && !capable {
        let seen = format!("{program} is neither setuid nor has file capabilities");
        return Some(Finding::missing(CHECK, seen).instead(INSTEAD).remedy([format!("sudo chmod u+s {word}")]));
    }
    let nosuid = rustix::fs::statvfs(program).is_ok_and(|statistics| statistics.f_flag.contains(StatVfsMountFlags::NOSUID));
    nosuid.then(|| {
        Finding::missing(CHECK, format!("{program} is on a file system that is mounted nosuid"))
            .instead(INSTEAD)
            .remedy(["# mount it without nosuid, or start hamper outside of the sandbox that made it so"])
    })
}

enum Failure {
    Clone(Errno),
    Programs(IdMapError),
    /// An act inside.
    Act(&'static str, Attempt),
}

/// Maps both ranges, drops all groups, and gives a file of the store's file system to an id of the range.
fn attempt(uids: SubRange, gids: SubRange, scratch: Option<&Path>) -> Result<(), Failure> {
    let extents = |range: SubRange, caller: u32| {
        [Extent { inside: 0, outside: range.start, count: range.count }, Extent { inside: range.count, outside: caller, count: 1 }]
    };
    let (uid_map, gid_map) = (extents(uids, geteuid().as_raw()), extents(gids, getegid().as_raw()));
    let mut refused = None;
    let tried = run(
        libc::CLONE_NEWUSER as u64,
        |child| {
            refused = write_maps_with_programs(child, &uid_map, &gid_map).err();
            refused.is_none()
        },
        |trial| {
            trial.attempt("read back", || match id_map(&read("/proc/self/uid_map")?).len() {
                2 => Ok(()),
                _ => Err(Errno::NODATA),
            });
            trial.attempt("setgroups", || rustix::thread::set_thread_groups(&[]));
            if let Some(scratch) = scratch {
                trial.attempt("chown", || {
                    let file = scratch.join("owned");
                    openat(CWD, &file, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR)?;
                    chownat(CWD, &file, Some(Uid::from_raw(1)), Some(Gid::from_raw(1)), AtFlags::SYMLINK_NOFOLLOW)?;
                    unlinkat(CWD, &file, AtFlags::empty())
                });
            }
        },
    )
    .map_err(Failure::Clone)?;
    if let Some(error) = refused {
        return Err(Failure::Programs(error));
    }
    match ["read back", "setgroups", "chown"].into_iter().find(|act| tried.attempt(act).failed()) {
        Some(act) => Err(Failure::Act(act, tried.attempt(act))),
        None => Ok(()),
    }
}

fn failed(ranges: &str, failure: &Failure, around: &Surroundings) -> Finding {
    match failure {
        Failure::Clone(errno) => {
            Finding::missing(CHECK, format!("{ranges}; no namespace to map ({})", errno_name(*errno))).errno(*errno).instead(INSTEAD)
        }
        Failure::Programs(error) => refused(ranges, error, around),
        Failure::Act(act, attempt) => {
            let finding = match attempt {
                Attempt::Failed(errno) => {
                    Finding::missing(CHECK, format!("{ranges}, mapped, but {act}: {}", errno_name(*errno))).errno(*errno)
                }
                _ => Finding::missing(CHECK, format!("{ranges}, mapped, but {act} ended the process")),
            };
            let finding = finding.instead("nothing by itself: set identity.map = \"single\" in profiles");
            if *act == "chown" {
                return finding.remedy([
                    "# the store's file system takes no owner of the range (NFS does so): export XDG_DATA_HOME=/path/on/a/local/disk",
                ]);
            }
            finding
        }
    }
}

/// The programs say the same words for several causes; what surrounds us tells them apart.
fn refused(ranges: &str, error: &IdMapError, around: &Surroundings) -> Finding {
    let words = match error {
        IdMapError::Start { program, source } => format!("{program}: {source}"),
        IdMapError::Refused { program, words } => format!("{program} refused: {words}"),
    };
    let (cause, remedy) = if around.no_new_privs {
        (
            "; no_new_privs is set, so that setuid programs have no effect",
            "# start hamper outside of what sets no_new_privs (NoNewPrivileges= of a service, setpriv, another sandbox)",
        )
    } else if around.nested {
        (
            "; hamper is inside another user namespace, which has not these ids",
            "# start hamper outside of it, or give that namespace the range as well",
        )
    } else if getuid() != geteuid() || getgid() != getegid() {
        ("; real and effective ids differ", "# start hamper as one user")
    } else {
        ("", "getcap /usr/bin/newuidmap /usr/bin/newgidmap; ls -l /usr/bin/newuidmap /usr/bin/newgidmap")
    };
    Finding::missing(CHECK, format!("{ranges}, but {words}{cause}")).instead(INSTEAD).remedy([remedy])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_blocks() {
        let files = |uids: &str, gids: &str| [uids.to_owned(), gids.to_owned()];
        assert_eq!(free_start(&files("", "")), 100_000);
        assert_eq!(free_start(&files("a:100000:65536\n", "")), 165_536);
        assert_eq!(free_start(&files("a:100000:65536\n", "b:165536:65536\nbroken\n")), 231_072);
        assert_eq!(free_start(&files("a:300000:65536\nb:100000:1\n", "")), 100_001);
        assert_eq!(free_start(&files("a:130000:10\n", "")), 130_010);
    }

    #[test]
    fn remedies() {
        let files = [String::new(), "a:100000:65536\n".to_owned()];
        let lines = remedy(1000, Some("dev"), &files);
        assert_eq!(lines.first().map(String::as_str), Some("sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 dev"));
        let lines = remedy(1000, None, &files);
        assert_eq!(lines.first().map(String::as_str), Some("echo 1000:165536:65536 | sudo tee -a /etc/subuid /etc/subgid"));
    }
}
