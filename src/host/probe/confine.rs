//! Landlock, seccomp filters and the session keyring, each tried in a child: an outer filter may kill who asks.

use rustix::io::Errno;

use super::blocker::{Surroundings, outside};
use super::procfs::read;
use super::trial::{Attempt, run};
use super::{Finding, errno_name};
use crate::sys;

/// ABI 1 forbids renames between directories, which breaks real programs.
const MINIMUM_ABI: u32 = 2;

/// Without truncate(2) Landlock alone does not keep files outside from being emptied.
pub const RUNG_ABI: u32 = 3;

/// The newest ABI that adds something hamper asks for.
const WANTED_ABI: u32 = 6;

/// What each ABI adds, landlock(7).
const ADDED: [(u32, &str); 6] = [
    (2, "renames between directories"),
    (3, "truncate"),
    (4, "TCP bind and connect"),
    (5, "ioctl on devices"),
    (6, "abstract sockets and signals"),
    (7, "audit records"),
];

/// Where no process can be made, nothing is tried.
fn in_child(name: &'static str, act: impl FnOnce() -> Result<(), Errno>) -> Attempt {
    run(0, |_| true, |trial| trial.attempt(name, act)).map_or(Attempt::NotTried, |tried| tried.attempt(name))
}

const NO_PROCESS: &str = "not tried: no process could be made for it";

/// The finding, and the ABI that was seen: 0 for none.
pub fn landlock() -> (Finding, u32) {
    let tried = run(
        0,
        |_| true,
        |trial| {
            let mut abi = 0;
            trial.attempt("abi", || {
                abi = sys::landlock_abi()?;
                Ok(())
            });
            trial.tell("number", &abi.to_string());
        },
    );
    let (attempt, abi) = match &tried {
        Ok(tried) => (tried.attempt("abi"), tried.told("number").and_then(|number| number.parse().ok()).unwrap_or(0)),
        Err(_) => (Attempt::NotTried, 0),
    };
    (landlock_words(attempt, abi, &read("/sys/kernel/security/lsm").unwrap_or_default()), abi)
}

fn landlock_words(attempt: Attempt, abi: u32, modules: &str) -> Finding {
    const CHECK: &str = "landlock";
    let instead = "the mounts alone hold the payload; profiles with landlock = \"required\" or require = [\"landlock\"] are refused";
    match attempt {
        Attempt::Done if abi >= MINIMUM_ABI => present(CHECK, abi),
        Attempt::Done => Finding::missing(CHECK, format!("ABI {abi} counts as absent: it forbids renames between directories"))
            .instead(instead)
            .remedy(["# a kernel from 5.19 on has ABI 2"]),
        Attempt::Failed(Errno::OPNOTSUPP) => {
            let modules = modules.trim();
            let list =
                if modules.is_empty() { "landlock,lockdown,yama,integrity,apparmor".to_owned() } else { format!("landlock,{modules}") };
            Finding::missing(CHECK, "switched off at boot (EOPNOTSUPP)").errno(Errno::OPNOTSUPP).instead(instead).remedy([format!(
                "# on the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub), then sudo update-grub and a reboot: lsm={list}"
            )])
        }
        Attempt::Failed(errno) => {
            Finding::missing(CHECK, format!("not built into this kernel, or an outer filter refuses it ({})", errno_name(errno)))
                .errno(errno)
                .instead(instead)
                .remedy(["# a kernel with CONFIG_SECURITY_LANDLOCK=y and landlock in CONFIG_LSM or lsm="])
        }
        Attempt::Killed(signal) => Finding::missing(CHECK, format!("an outer seccomp filter forbids the call (signal {signal})"))
            .instead(instead)
            .remedy(outside(&Surroundings::read())),
        Attempt::NotTried => Finding::missing(CHECK, NO_PROCESS).instead(instead),
    }
}

fn present(check: &'static str, abi: u32) -> Finding {
    let absent: Vec<String> = ADDED.iter().filter(|(added, _)| *added > abi).map(|(added, what)| format!("{what} ({added})")).collect();
    let seen = match absent.as_slice() {
        [] => format!("ABI {abi}"),
        absent => format!("ABI {abi}; newer ones add: {}", absent.join(", ")),
    };
    if abi >= WANTED_ABI {
        return Finding::ok(check, seen);
    }
    Finding::degraded(check, seen)
        .instead("a domain with the rights that there are; the report names the ABI")
        .remedy([format!("# a newer kernel: {} for all of it", if abi < 5 { "6.12" } else { "6.12 or later" })])
}

/// Number of getpgid(2), which nothing here needs.
const REFUSED_CALL: u32 = libc::SYS_getpgid as u32;

/// Installs a filter that refuses one call with an errno nobody else gives, and makes the call.
fn install_filter() -> Result<(), Errno> {
    let instruction = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    const ERRNO_EOWNERDEAD: u32 = 0x0005_0000 | 130;
    const ALLOW: u32 = 0x7fff_0000;
    // Load the number; equal: the errno; else allow (linux/filter.h, seccomp(2)).
    let program = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, REFUSED_CALL),
        instruction(0x06, 0, 0, ERRNO_EOWNERDEAD),
        instruction(0x06, 0, 0, ALLOW),
    ];
    seccompiler::apply_filter(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO),
        _ => Errno::INVAL,
    })?;
    match rustix::process::getpgid(None) {
        Err(Errno::OWNERDEAD) => Ok(()),
        _ => Err(Errno::NOTUNIQ),
    }
}

pub fn seccomp() -> Finding {
    const CHECK: &str = "seccomp";
    let instead = "nothing: a sandbox without its filter is not started";
    let attempt = in_child("filter", install_filter);
    match attempt {
        Attempt::Done => {
            let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
            let actions: Vec<&str> = actions.split_whitespace().collect();
            let seen = if actions.is_empty() { String::new() } else { format!("; actions: {}", actions.join(" ")) };
            Finding::ok(CHECK, format!("a filter was installed, and refuses{seen}"))
        }
        Attempt::Failed(errno) => Finding::missing(CHECK, format!("no filter can be installed ({})", errno_name(errno)))
            .stops()
            .errno(errno)
            .instead(instead)
            .remedy(["# a kernel with CONFIG_SECCOMP_FILTER=y; hamper outside of any sandbox that forbids seccomp(2)"]),
        Attempt::Killed(signal) => Finding::missing(CHECK, format!("an outer seccomp filter forbids the call (signal {signal})"))
            .stops()
            .instead(instead)
            .remedy(outside(&Surroundings::read())),
        Attempt::NotTried => Finding::missing(CHECK, NO_PROCESS).stops(),
    }
}

/// A new session keyring, in a child, so that the caller keeps its own.
pub fn keyring() -> Finding {
    const CHECK: &str = "keyring";
    let refuses = "hamper refuses to run: a sandbox would share the caller's keys";
    let attempt = in_child("keyring", sys::join_session_keyring);
    match attempt {
        Attempt::Done => Finding::ok(CHECK, "a session keyring of its own"),
        Attempt::Failed(Errno::DQUOT) => Finding::missing(CHECK, "your quota of keys is used up (EDQUOT)")
            .stops()
            .errno(Errno::DQUOT)
            .instead(refuses)
            .remedy(["grep \"^ *$(id -u):\" /proc/key-users", "sudo sysctl -w kernel.keys.maxkeys=2000 kernel.keys.maxbytes=200000"]),
        Attempt::Failed(Errno::NOSYS) => Finding::degraded(CHECK, "this kernel has no keyrings (ENOSYS)")
            .errno(Errno::NOSYS)
            .instead("there are no keys that a sandbox could share"),
        Attempt::Failed(errno) => Finding::missing(CHECK, format!("no new session keyring: {}", errno_name(errno)))
            .stops()
            .errno(errno)
            .instead(refuses)
            .remedy(outside(&Surroundings::read())),
        Attempt::Killed(signal) => Finding::missing(
            CHECK,
            format!("an outer seccomp filter kills whoever asks for a session keyring (signal {signal}), hamper run as well"),
        )
        .stops()
        .remedy(outside(&Surroundings::read())),
        Attempt::NotTried => Finding::degraded(CHECK, NO_PROCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::probe::State;

    #[test]
    fn landlock_answers() {
        for (attempt, abi, state, words) in [
            (Attempt::Done, 7, State::Ok, "ABI 7"),
            (Attempt::Done, 6, State::Ok, "audit records (7)"),
            (Attempt::Done, 2, State::Degraded, "truncate (3)"),
            (Attempt::Done, 1, State::Missing, "counts as absent"),
            (Attempt::Failed(Errno::OPNOTSUPP), 0, State::Missing, "switched off at boot (EOPNOTSUPP)"),
            (Attempt::Failed(Errno::NOSYS), 0, State::Missing, "ENOSYS"),
            (Attempt::Killed(31), 0, State::Missing, "signal 31"),
        ] {
            let finding = landlock_words(attempt, abi, "lockdown,capability,yama\n");
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.seen.contains(words), "{finding:?}");
        }
        let off = landlock_words(Attempt::Failed(Errno::OPNOTSUPP), 0, "lockdown,capability,yama\n");
        assert!(off.remedy.concat().ends_with("lsm=landlock,lockdown,capability,yama"), "{off:?}");
    }
}
