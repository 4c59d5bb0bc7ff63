//! The order laws of a start as predicates: every plan is checked against them before anything is done.

use super::{PlanError, Step};

/// Whether a step is of a kind.
type Kind = fn(&Step) -> bool;

/// A law: when both kinds of step are there, each `before` comes before each `after`.
struct Law {
    words: &'static str,
    before: Kind,
    after: Kind,
}

/// Each law has broken somebody else; SECURITY.md tells the story of each.
const LAWS: &[Law] = &[
    Law {
        words: "every source is opened before clone, so that nothing is made before all input has been checked",
        before: |step| {
            matches!(
                step,
                Step::OpenSource { .. }
                    | Step::TakeScratch
                    | Step::MakePipes
                    | Step::MakeCgroup { .. }
                    | Step::JoinSessionKeyring
                    | Step::CompileSeccomp { .. }
                    | Step::CreateLandlock { .. }
                    | Step::WatchReplaced { .. }
            )
        },
        after: |step| matches!(step, Step::Clone { .. }),
    },
    Law { words: "the id maps are written before the first mount", before: |step| matches!(step, Step::WriteIdMaps { .. }), after: mounts },
    Law {
        words: "the child dies with its parent before it sets anything up",
        before: |step| matches!(step, Step::DieWithParent),
        after: mounts,
    },
    Law {
        words: "a limited sandbox is born in its cgroup, and sees it as the root of all",
        before: |step| matches!(step, Step::MakeCgroup { .. } | Step::EnterCgroupNamespace),
        after: |step| matches!(step, Step::MountCgroup | Step::MountRoot { .. }),
    },
    Law {
        words: "the groups are set before the capability to set them is dropped",
        before: |step| matches!(step, Step::SetGroups { .. }),
        after: |step| matches!(step, Step::DropCapabilities { .. }),
    },
    Law {
        words: "propagation is private before the first mount, so that no mount reaches the host",
        before: |step| matches!(step, Step::PrivatePropagation),
        after: mounts,
    },
    Law {
        words: "the root is attached before every other mount",
        before: |step| matches!(step, Step::MountRoot { .. }),
        after: |step| mounts(step) && !matches!(step, Step::MountRoot { .. }),
    },
    Law { words: "every mount is made before the old root is gone", before: mounts, after: |step| matches!(step, Step::PivotRoot) },
    Law {
        words: "sysctls are written before /proc/sys becomes read-only",
        before: |step| matches!(step, Step::WriteSysctls { .. }),
        after: |step| matches!(step, Step::MaskProc { .. }),
    },
    Law {
        words: "the working directory is entered after the old root is gone",
        before: |step| matches!(step, Step::PivotRoot),
        after: |step| matches!(step, Step::ChangeDirectory { .. } | Step::ReadOnlyRoot),
    },
    Law {
        words: "capabilities are dropped when nothing needs them any more",
        before: |step| mounts(step) || matches!(step, Step::PivotRoot | Step::ReadOnlyRoot | Step::ChangeDirectory { .. }),
        after: |step| matches!(step, Step::DropCapabilities { .. }),
    },
    Law {
        words: "the bounding set is dropped, and no_new_privs set, before image content runs",
        before: |step| matches!(step, Step::DropCapabilities { .. } | Step::NoNewPrivileges),
        after: |step| matches!(step, Step::StartPayload { .. }),
    },
    Law {
        words: "init takes in orphans, ends everything with its parent and cannot be traced before there is anything to end",
        before: |step| matches!(step, Step::BecomeSubreaper | Step::EndWithParent | Step::NotDumpable),
        after: |step| matches!(step, Step::StartPayload { .. } | Step::OpenPty),
    },
    Law {
        words: "no_new_privs comes before Landlock and seccomp, which need it",
        before: |step| matches!(step, Step::NoNewPrivileges),
        after: |step| matches!(step, Step::ScopeSignals | Step::EnterLandlock { .. } | Step::InstallSeccomp { .. }),
    },
    Law {
        words: "init is in its own domain before it starts the payload, so that all that comes of it is in that too",
        before: |step| matches!(step, Step::ScopeSignals),
        after: |step| matches!(step, Step::StartPayload { .. }),
    },
    Law {
        words: "Landlock forbids mounts, so it comes after them, on the final tree",
        before: |step| mounts(step) || matches!(step, Step::PivotRoot | Step::ReadOnlyRoot),
        after: |step| matches!(step, Step::EnterLandlock { .. }),
    },
    Law {
        words: "rlimits come after the last descriptor that is opened, so that a small one starves the payload and not us",
        before: |step| mounts(step) || matches!(step, Step::EnterLandlock { .. } | Step::CloseDescriptors),
        after: |step| matches!(step, Step::SetRlimits { .. }),
    },
    Law {
        words: "seccomp comes last, since it forbids what the other steps do",
        before: |step| matches!(step, Step::EnterLandlock { .. } | Step::SetRlimits { .. } | Step::CloseDescriptors) || mounts(step),
        after: |step| matches!(step, Step::InstallSeccomp { .. }),
    },
];

fn mounts(step: &Step) -> bool {
    matches!(
        step,
        Step::MountRoot { .. }
            | Step::MakeNode { .. }
            | Step::MountDev { .. }
            | Step::MountProc
            | Step::MaskProc { .. }
            | Step::MountSys
            | Step::MountCgroup
            | Step::MountTmpfs { .. }
            | Step::Bind { .. }
            | Step::MountOver { .. }
            | Step::Guard { .. }
            | Step::WriteSecret { .. }
    )
}

/// Steps without which there is no sandbox, once each.
const ALWAYS: &[(&str, Kind)] = &[
    ("a plan clones once", |step| matches!(step, Step::Clone { .. })),
    ("a plan drops capabilities once", |step| matches!(step, Step::DropCapabilities { .. })),
    ("a plan sets no_new_privs once", |step| matches!(step, Step::NoNewPrivileges)),
    ("a plan closes descriptors once", |step| matches!(step, Step::CloseDescriptors)),
    ("a plan executes once", |step| matches!(step, Step::Execute { .. })),
];

/// What a sandbox of namespaces has besides.
const WITH_NAMESPACES: &[(&str, Kind)] = &[
    ("a plan mounts a root once", |step| matches!(step, Step::MountRoot { .. })),
    ("a plan pivots once", |step| matches!(step, Step::PivotRoot)),
];

/// What a sandbox without namespaces has besides: nothing else holds the payload, and nothing else ends what it leaves.
const WITHOUT_NAMESPACES: &[(&str, Kind)] = &[
    ("without namespaces a plan enters a Landlock domain once", |step| matches!(step, Step::EnterLandlock { .. })),
    ("without namespaces a plan installs a seccomp filter once", |step| matches!(step, Step::InstallSeccomp { .. })),
    ("without namespaces init ends everything with its parent", |step| matches!(step, Step::EndWithParent)),
    ("without namespaces the payload runs under init", |step| matches!(step, Step::StartPayload { init: true })),
];

/// Without a mount namespace of its own a mount would be the host's.
const WITHOUT_NAMESPACES_NEVER: (&str, Kind) =
    ("without namespaces nothing is mounted", |step| mounts(step) || matches!(step, Step::PivotRoot | Step::ReadOnlyRoot));

fn own_namespaces(steps: &[Step]) -> bool {
    !steps.iter().any(|step| matches!(step, Step::Clone { namespaces } if namespaces.is_empty()))
}

/// Checks a plan against every law.
///
/// # Errors
/// [`PlanError::Law`] with the first law that does not hold.
pub fn check(steps: &[Step]) -> Result<(), PlanError> {
    let besides = if own_namespaces(steps) { WITH_NAMESPACES } else { WITHOUT_NAMESPACES };
    let (words, mounting) = WITHOUT_NAMESPACES_NEVER;
    if !own_namespaces(steps) && steps.iter().any(mounting) {
        return Err(PlanError::Law(words));
    }
    for (words, kind) in ALWAYS.iter().chain(besides) {
        if steps.iter().filter(|step| kind(step)).count() != 1 {
            return Err(PlanError::Law(words));
        }
    }
    if !matches!(steps.last(), Some(Step::Execute { .. })) {
        return Err(PlanError::Law("execve is the last step"));
    }
    for law in LAWS {
        let first_after = steps.iter().position(law.after).unwrap_or(usize::MAX);
        let last_before = steps.iter().rposition(law.before).unwrap_or(0);
        if last_before > first_after {
            return Err(PlanError::Law(law.words));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each law, a pair of steps in the wrong order is refused by that very law, and in the right order is not.
    #[test]
    fn every_law_refuses_its_breach() {
        let samples = super::super::build::tests_support::every_step();
        for law in LAWS {
            let before = samples.iter().find(|step| (law.before)(step) && !(law.after)(step)).expect(law.words);
            let after = samples.iter().find(|step| (law.after)(step) && !(law.before)(step)).expect(law.words);
            let holds = |steps: &[&Step]| {
                let first_after = steps.iter().position(|step| (law.after)(step)).unwrap_or(usize::MAX);
                let last_before = steps.iter().rposition(|step| (law.before)(step)).unwrap_or(0);
                last_before <= first_after
            };
            assert!(holds(&[before, after]), "{}", law.words);
            assert!(!holds(&[after, before]), "{}", law.words);
        }
    }
}
