//! protect and hide, made to hold against renames from inside.
//!
//! A bind on `.git/hooks` alone falls to `mv .git x`: so each directory between the project and a guarded path becomes a mount point of
//! its own, which cannot be moved. A name that does not exist cannot be bound: then its parent becomes read-only, with what is in it
//! bound back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Guard, Step};
use crate::host::{Guarded, Presence};

/// The guard steps in an order in which each finds its parent in place, and the paths that cannot be protected.
pub fn guards(project: &str, guarded: &[Guarded]) -> (Vec<Step>, Vec<PathBuf>) {
    let mut steps: BTreeMap<PathBuf, Guard> = BTreeMap::new();
    let mut unprotected = Vec::new();
    for Guarded { path, hidden, presence, .. } in guarded {
        match presence {
            Presence::File | Presence::Directory if *hidden => {
                pin_ancestors(&mut steps, path);
                steps.insert(path.clone(), Guard::Hide { directory: *presence == Presence::Directory });
            }
            Presence::File | Presence::Directory => {
                pin_ancestors(&mut steps, path);
                strengthen(&mut steps, path, Guard::Protect);
            }
            // What it leads to is hidden by another entry.
            Presence::Link if *hidden => {}
            Presence::Link => unprotected.push(path.clone()),
            // What is missing needs no hiding; the watch ends the run when it appears.
            Presence::Unbindable { link: false, .. } | Presence::Unprotectable if *hidden => {}
            Presence::Unbindable { siblings, .. } => freeze_parent(&mut steps, path, siblings),
            Presence::Unprotectable => unprotected.push(path.clone()),
        }
    }
    let steps = steps.into_iter().map(|(path, guard)| Step::Guard { project: project.to_owned(), path, guard });
    (steps.collect(), unprotected)
}

fn pin_ancestors(steps: &mut BTreeMap<PathBuf, Guard>, path: &Path) {
    for ancestor in path.ancestors().skip(1).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        strengthen(steps, ancestor, Guard::Pin);
    }
}

/// The parent of a name that cannot be bound becomes read-only; its present entries stay writable.
fn freeze_parent(steps: &mut BTreeMap<PathBuf, Guard>, path: &Path, siblings: &[(PathBuf, bool)]) {
    let Some(parent) = path.parent() else { return };
    pin_ancestors(steps, path);
    strengthen(steps, parent, Guard::Protect);
    for (name, link) in siblings {
        if !link {
            steps.entry(parent.join(name)).or_insert(Guard::Release);
        }
    }
}

/// A path that is guarded twice gets the stronger guard: hide over protect over release over pin.
fn strengthen(steps: &mut BTreeMap<PathBuf, Guard>, path: &Path, guard: Guard) {
    let rank = |guard: &Guard| match guard {
        Guard::Pin => 0,
        Guard::Release => 1,
        Guard::Protect => 2,
        Guard::Hide { .. } => 3,
    };
    let known = steps.get(path).map_or(-1, rank);
    if rank(&guard) > known {
        steps.insert(path.to_owned(), guard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(path: &str, hidden: bool, presence: Presence) -> Guarded {
        Guarded { path: path.into(), hidden, presence, identity: None }
    }

    fn plan(list: &[Guarded]) -> Vec<(PathBuf, Guard)> {
        let (steps, _) = guards("/p", list);
        steps
            .into_iter()
            .filter_map(|step| match step {
                Step::Guard { path, guard, .. } => Some((path, guard)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn ancestors_are_pinned_before_what_they_hold() {
        let steps = plan(&[
            guarded(".git/hooks", false, Presence::Directory),
            guarded(".git/config", false, Presence::File),
            guarded("a/b/.env", true, Presence::File),
        ]);
        let expected = [
            (".git", Guard::Pin),
            (".git/config", Guard::Protect),
            (".git/hooks", Guard::Protect),
            ("a", Guard::Pin),
            ("a/b", Guard::Pin),
            ("a/b/.env", Guard::Hide { directory: false }),
        ];
        assert_eq!(steps, expected.map(|(path, guard)| (path.into(), guard)));
    }

    #[test]
    fn a_missing_name_freezes_its_parent_and_releases_the_rest() {
        let siblings = vec![("HEAD".into(), false), ("link".into(), true)];
        let steps = plan(&[
            guarded(".git/hooks", false, Presence::Unbindable { link: false, siblings }),
            guarded(".git/config", false, Presence::File),
        ]);
        let expected = [(".git", Guard::Protect), (".git/HEAD", Guard::Release), (".git/config", Guard::Protect)];
        assert_eq!(steps, expected.map(|(path, guard)| (path.into(), guard)));
    }

    #[test]
    fn a_name_that_is_no_text_keeps_its_bytes() {
        let odd = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a/\xff"));
        let steps = plan(&[Guarded { path: odd.clone(), hidden: false, presence: Presence::File, identity: None }]);
        assert_eq!(steps, [("a".into(), Guard::Pin), (odd, Guard::Protect)]);
    }

    #[test]
    fn what_cannot_be_protected_is_named() {
        let (steps, unprotected) = guards("/p", &[guarded("hamper.local.toml", false, Presence::Unprotectable)]);
        assert!(steps.is_empty());
        assert_eq!(unprotected, [PathBuf::from("hamper.local.toml")]);
    }
}
