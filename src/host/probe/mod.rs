//! What this machine can enforce, from what was really tried: children try and end, and nothing on the machine is changed.
//!
//! Versions decide nothing but the minimum; every other answer is that of the kernel to the act itself.

mod blocker;
mod cgroup;
mod confine;
mod ids;
mod limits;
mod overlay;
mod procfs;
mod program;
mod storage;
mod trial;
mod units;
mod userns;

use rustix::io::Errno;
use serde::Serialize;

use super::{Controller, Delegation, Directories};
pub use blocker::{Act, Blocker, Explanation, Surroundings, explain, explain_clone};
pub(super) use procfs::kernel_version;
pub(super) use program::MINIMUM_KERNEL;
pub(super) use units::{Units, in_files};
pub use userns::namespaces_blocked;

/// How much of what hamper wants is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Degraded,
    Missing,
}

/// The answer to one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that stays.
    pub check: &'static str,
    pub state: State,
    /// Without it `hamper run` cannot start the image of a profile.
    pub stops: bool,
    pub seen: String,
    /// The name of the errno that was seen.
    pub errno: Option<String>,
    /// Who is in the way, where that is known; a name that stays.
    pub cause: Option<&'static str>,
    /// What hamper does without it.
    pub instead: Option<String>,
    /// Lines for an admin to paste; one that begins with `#` says something.
    pub remedy: Vec<String>,
}

impl Finding {
    fn new(check: &'static str, state: State, seen: impl Into<String>) -> Self {
        Self { check, state, stops: false, seen: seen.into(), errno: None, cause: None, instead: None, remedy: Vec::new() }
    }

    fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Ok, seen)
    }

    fn degraded(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Degraded, seen)
    }

    fn missing(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Missing, seen)
    }

    fn stops(mut self) -> Self {
        self.stops = true;
        self
    }

    fn errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno_name(errno));
        self
    }

    fn instead(mut self, instead: impl Into<String>) -> Self {
        self.instead = Some(instead.into());
        self
    }

    fn remedy<L: Into<String>>(mut self, lines: impl IntoIterator<Item = L>) -> Self {
        self.remedy.extend(lines.into_iter().map(Into::into));
        self
    }

    fn explained(mut self, explanation: &Explanation) -> Self {
        self.cause = Some(explanation.blocker.name());
        self.remedy.extend(explanation.remedy.iter().cloned());
        self
    }
}

/// Every answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Examination {
    pub findings: Vec<Finding>,
    /// Checks that make no sense after what was found.
    pub skipped: Vec<&'static str>,
    /// What of hamper still works where user namespaces are blocked.
    pub still_works: Option<String>,
}

impl Examination {
    /// Whether `hamper run` can start the image of a profile.
    pub fn can_start(&self) -> bool {
        !self.findings.iter().any(|finding| finding.stops)
    }

    /// What came of a cgroup that was made where limits are wanted, in place of what only looking could tell.
    pub fn limits_were_tried(&mut self, delegation: &Delegation, made: Result<Vec<Controller>, String>) {
        let tried = cgroup::tried(delegation, made);
        self.findings.iter_mut().filter(|finding| finding.check == tried.check).for_each(|finding| *finding = tried.clone());
    }

    /// Whether everything is there.
    pub fn complete(&self) -> bool {
        self.findings.iter().all(|finding| finding.state == State::Ok)
    }
}

/// Asks this machine everything. The process must have one thread.
pub fn examine(directories: &Directories) -> Examination {
    let around = Surroundings::read();
    let mut all = Examination::default();
    let installation = program::installation(&around);
    if installation.stops {
        // A program with more rights than its caller must not try anything.
        all.findings.push(installation);
        return all;
    }
    let usable = userns::check(&around, &mut all);
    all.findings.extend([program::kernel(), program::architecture(), installation, program::capabilities(), program::container(&around)]);
    storage::check(directories, &around, usable, &mut all);
    let ((landlock, abi), seccomp) = (confine::landlock(), confine::seccomp());
    if !usable.users && abi >= confine::RUNG_ABI && !seccomp.stops {
        all.still_works = Some(STILL_WORKS.into());
    }
    all.findings.extend([landlock, seccomp]);
    all.findings.extend(cgroup::check());
    limits::check(&around, &mut all.findings);
    all
}

/// The rung below namespaces: files of the host alone, held by Landlock.
const STILL_WORKS: &str = "image \"host\" with isolation = \"auto\" or \"landlock\": the host's files held by Landlock and seccomp, no sockets unless network.mode = \"host\", no hide, protect, mounts, limits or secrets";

/// `EPERM` and the like.
pub fn errno_name(errno: Errno) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error()))
}

/// One word of a shell command.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=:,@%+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_errnos() {
        assert_eq!(errno_name(Errno::PERM), "EPERM");
        assert_eq!(errno_name(Errno::OPNOTSUPP), "EOPNOTSUPP");
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(shell_word("/a/b.c=1"), "/a/b.c=1");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
