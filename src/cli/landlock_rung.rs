//! The rung below namespaces on the command line: when a start takes it, and the directories that it has instead of mounts.

use std::path::PathBuf;

use rustix::io::Errno;

use super::error::CliError;
use super::start::Effects;
use super::state::make_directory;
use crate::host::{Directories, Explanation, Host, namespaces_blocked};
use crate::launch::{LaunchError, RootAttributes, Scratch, ScratchError};
use crate::plan::{Plan, PlanError, Step};
use crate::profile::{HomeMode, ImageSource, Isolation, Profile};

/// The profile as it holds on this rung, where the host keeps its name.
pub fn on_rung(profile: &Profile) -> Profile {
    let mut profile = profile.clone();
    profile.isolation = Isolation::Landlock;
    if !profile.is_written("", "hostname") {
        profile.hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    profile
}

/// Directories of this run alone; gone when it is over.
pub struct Private {
    pub scratch: Option<Scratch>,
    pub temporary: PathBuf,
    /// The home, where that is thrown away too.
    pub home: Option<PathBuf>,
}

impl Private {
    /// Takes a scratch directory and makes them in it. A plan, which takes none, names the first, and a run takes the first that is free.
    ///
    /// # Errors
    /// [`CliError::Scratch`] names the path.
    pub fn take(profile: &Profile, directories: &Directories, host: &Host, effects: Effects) -> Result<Self, CliError> {
        let base = directories.data.join("scratch");
        let mut scratch = match effects {
            Effects::None => None,
            Effects::All => {
                make_directory(&directories.data)?;
                let caller = (host.uid, host.gid);
                Some(Scratch::take(&base, RootAttributes { mode: 0o755, modified: (0, 0), caller, owner: caller })?)
            }
        };
        let first = base.join("0");
        let mut directory = |name: &str| {
            let made = scratch.as_mut().map_or_else(|| Ok(first.join(name)), |scratch| scratch.also(name));
            made.map(|path| path.join("u")).map_err(|source| ScratchError::Make { path: base.join(name), source })
        };
        let temporary = directory("tmp")?;
        let home = (profile.identity.home == HomeMode::Tmp).then(|| directory("home")).transpose()?;
        Ok(Self { scratch, temporary, home })
    }

    /// The variable by which programs find the place that `/tmp` cannot be here.
    pub fn variable(&self) -> (String, String) {
        ("TMPDIR".into(), self.temporary.to_string_lossy().into_owned())
    }
}

/// What a machine without user namespaces answers, wherever in a start it does.
const REFUSALS: [Errno; 6] = [Errno::PERM, Errno::ACCESS, Errno::NOSPC, Errno::USERS, Errno::INVAL, Errno::NOSYS];

/// Whether a profile may have this rung where there are no user namespaces.
fn may_fall_back(profile: &Profile) -> bool {
    profile.isolation == Isolation::Auto && profile.image == ImageSource::Host
}

/// Who blocks namespaces, where a start that has failed may be made anew without them: nothing of the payload has run, and the machine,
/// asked by a trial, says that none can be made. Any other failure is what it is.
pub fn blocked(profile: &Profile, plan: &Plan, failed: u32, errno: Errno) -> Option<Explanation> {
    let with_namespaces = plan.steps.iter().any(|step| matches!(step, Step::Clone { namespaces } if !namespaces.is_empty()));
    let payload = plan.steps.iter().position(|step| matches!(step, Step::StartPayload { .. }))?;
    let before_the_payload = usize::try_from(failed).is_ok_and(|failed| failed < payload);
    let may = may_fall_back(profile) && with_namespaces && before_the_payload && REFUSALS.contains(&errno);
    if may { namespaces_blocked() } else { None }
}

/// The same for a start that has come to nothing in the parent.
pub fn blocked_launch(profile: &Profile, plan: &Plan, error: &LaunchError) -> Option<Explanation> {
    match error {
        LaunchError::Step { step, source } => blocked(profile, plan, *step, *source),
        // newuidmap has its own words for it, and no errno.
        LaunchError::Maps { step, .. } => blocked(profile, plan, *step, Errno::PERM),
    }
}

/// What a plan that is only shown has to know beforehand, since nothing of it is tried.
pub fn blocked_plan(profile: &Profile) -> Option<Explanation> {
    if may_fall_back(profile) { namespaces_blocked() } else { None }
}

/// Says in the plan why it is this one.
pub fn explain(plan: &mut Plan, explanation: &Explanation) {
    if let Some(note) = plan.notes.first_mut() {
        *note = format!("{}; {note}", explanation.sentence);
    }
}

/// Why there is no plan on this rung, for a caller who did not ask for it.
pub fn refused(error: CliError, explanation: &Explanation) -> CliError {
    let sentence = &explanation.sentence;
    let (words, hint) = match error {
        CliError::Plan(PlanError::NeedsNamespaces { key, why, remedy }) => (
            format!("{key} cannot be had: {sentence}, and Landlock alone cannot give it: {why}"),
            format!("{remedy}; or, to have namespaces:"),
        ),
        // A kernel that is too old for the rung: namespaces are what its user can have, not another Landlock.
        CliError::Plan(PlanError::Required { what: "Landlock", got }) => {
            (format!("{sentence}; without namespaces Landlock is required, but {got}"), "to have namespaces:".to_owned())
        }
        other => return other,
    };
    let lines = explanation.remedy.iter().map(|line| format!("\n      {line}"));
    CliError::Told { words, hint: Some(hint + &lines.collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Blocker;

    #[test]
    fn who_has_no_namespaces_is_told_how_to_have_them() {
        let explanation = Explanation { blocker: Blocker::Unknown, sentence: "refused".into(), remedy: vec!["one".into(), "two".into()] };
        let told = |error| match refused(CliError::Plan(error), &explanation) {
            CliError::Told { words, hint } => format!("{words}\n{}", hint.unwrap_or_default()),
            other => other.to_string(),
        };
        let key = PlanError::NeedsNamespaces { key: "mounts", why: "so", remedy: "none" };
        assert_eq!(
            told(key),
            "mounts cannot be had: refused, and Landlock alone cannot give it: so\nnone; or, to have namespaces:\n      one\n      two"
        );
        let required = |what| PlanError::Required { what, got: "it is old".into() };
        assert_eq!(
            told(required("Landlock")),
            "refused; without namespaces Landlock is required, but it is old\nto have namespaces:\n      one\n      two"
        );
        assert_eq!(told(required("protect")), "protect is required, but it is old");
    }
}
