//! The rung below namespaces: the host's files, held by Landlock and seccomp alone, where no user namespace can be made.
//!
//! The payload runs as the caller, among the caller's other processes, in the host's own mount tree. So nothing can be mounted, hidden or
//! taken out of a writable directory, and what a profile says in so many words about that stops the start. What is only a default
//! degrades, and is reported.

use std::path::{Path, PathBuf};

use ::landlock::{AccessFs, BitFlags, make_bitflags};

use super::build::{last_steps, refuse_what_is_missing, sources};
use super::landlock::{SCOPES, file_rights, handled_access};
use super::payload::workdir;
use super::{Degraded, LandlockRule, Node, Plan, PlanError, Request, Step, Tree, laws};
use crate::host::{Host, Source};
use crate::profile::{ImageSource, LandlockMode, MapMode, NetworkMode, Preset, Profile, ProjectMode, Requirement, RootMode, SeccompSource};

/// Before ABI 3 truncate(2) empties every file of the caller, wherever it lies: here nothing else would stand in the way.
pub const RUNG_MINIMUM_ABI: u32 = 3;

/// From this ABI on bind and connect of TCP are refused.
const TCP: u32 = 4;

/// What a profile asks for and only namespaces can give.
struct Wish {
    key: &'static str,
    asked: fn(&Profile) -> bool,
    why: &'static str,
    remedy: &'static str,
}

const fn wish(key: &'static str, asked: fn(&Profile) -> bool, why: &'static str, remedy: &'static str) -> Wish {
    Wish { key, asked, why, remedy }
}

/// In the order in which they are told: what decides most comes first.
const WISHES: &[Wish] = &[
    wish("image", |p| p.image != ImageSource::Host, "it can have the host's files only", "image = \"host\""),
    wish(
        "security.preset",
        |p| p.security.preset != Preset::Dev,
        "the presets build and untrusted fix what only mounts and id maps can fix",
        "preset = \"dev\"",
    ),
    wish("project.hide", |p| !p.project.hide.is_empty(), "what the project holds cannot be hidden", "take the paths out of hide"),
    wish(
        "project.protect",
        |p| p.is_written("project", "protect") && !p.project.protect.is_empty(),
        "no part of a writable directory can be kept read-only",
        "project.mode = \"ro\", or do not write protect",
    ),
    wish("mounts", |p| !p.mounts.is_empty(), "nothing can be mounted", "take the mounts out"),
    wish("limits", |p| p.limits.needs_cgroup(), "there is no cgroup; time and ulimits work", "take the limits out"),
    wish("project.mode", |p| p.project.mode == ProjectMode::Scratch, "there is no overlay", "project.mode = \"ro\""),
    wish(
        "root.mode",
        |p| p.root.mode == RootMode::Keep || p.root.mode == RootMode::Scratch && p.is_written("root", "mode"),
        "the root is the host's, and cannot be written",
        "root.mode = \"ro\"",
    ),
    wish("root.tmp", |p| p.root.tmp.is_some(), "there is no tmpfs; TMPDIR names a directory of the run's own", "take root.tmp out"),
    wish("root.shm", |p| p.is_written("root", "shm"), "there is no /dev/shm", "take root.shm out"),
    wish("secrets", |p| !p.secrets.is_empty(), "a secret needs a file in memory, which is mounted", "take the secrets out"),
    wish("hostname", |p| p.is_written("", "hostname"), "the host keeps its name", "take hostname out"),
    wish("network.hosts", |p| !p.network.hosts.is_empty(), "/etc/hosts is the host's own", "take network.hosts out"),
    wish("identity.map", |p| p.identity.map == MapMode::Range, "there is no id map", "identity.map = \"auto\""),
    wish("security.caps", |p| !p.security.caps.is_empty(), "a capability would count on the host", "caps = []"),
    wish("security.nested_userns", |p| p.security.nested_userns, "no mount could be made in it", "nested_userns = false"),
    wish("security.landlock", |p| p.security.landlock == LandlockMode::Off, "Landlock is all that keeps files away", "landlock = \"auto\""),
    wish(
        "security.seccomp",
        |p| p.security.seccomp == SeccompSource::None,
        "the filter is all that keeps sockets, modes and IPC away",
        "seccomp = \"default\"",
    ),
    wish("lifecycle.init", |p| !p.lifecycle.init, "init is what ends all that the payload leaves", "lifecycle.init = true"),
];

/// Refuses a profile that asks for what only namespaces can give. Looks at nothing but the profile, so that it can be asked before
/// anything is opened or made.
///
/// # Errors
/// [`PlanError::NeedsNamespaces`] with the key, the reason and the remedy; [`PlanError::Required`] for a `require` that cannot hold.
pub fn refuse_wishes(profile: &Profile) -> Result<(), PlanError> {
    if let Some(Wish { key, why, remedy, .. }) = WISHES.iter().find(|wish| (wish.asked)(profile)) {
        return Err(PlanError::NeedsNamespaces { key, why, remedy });
    }
    for (requirement, what) in [(Requirement::Protect, "protect"), (Requirement::Subuid, "subuid"), (Requirement::Cgroup, "cgroup")] {
        if profile.require.contains(&requirement) {
            return Err(PlanError::Required { what, got: "isolation = \"landlock\" cannot give it".into() });
        }
    }
    refuse_what_is_missing(profile)
}

/// Decides every step of a start without namespaces, in order.
///
/// # Errors
/// Those of [`refuse_wishes`]; [`PlanError::Required`] where this kernel's Landlock cannot hold a payload alone.
pub fn build(request: &Request<'_>) -> Result<Plan, PlanError> {
    refuse_wishes(request.profile)?;
    refuse_identity(request)?;
    let abi = abi(request.host)?;
    let mut plan = Plan { steps: Vec::with_capacity(48), degraded: degraded(request, abi), notes: vec![note(request, abi)] };
    if let Some(worktree) = request.project.worktree.as_ref().filter(|_| request.project.mode == ProjectMode::Rw) {
        plan.notes.push(format!("a git worktree: its repository {} is {NO_COMMITS}", worktree.common.path.display()));
    }
    parent_steps(request, abi, &mut plan.steps);
    child_steps(request, abi, &mut plan.steps);
    plan.steps.push(Step::EnterLandlock { abi, rules: rules(request, abi)?, terminal: terminal(request, abi) });
    last_steps(request, &[], &mut plan)?;
    laws::check(&plan.steps)?;
    Ok(plan)
}

/// What only the image and the project can tell.
fn refuse_identity(request: &Request<'_>) -> Result<(), PlanError> {
    let user = &request.image.user;
    if (user.uid, user.gid) != (request.host.uid, request.host.gid) {
        return Err(PlanError::NeedsNamespaces {
            key: "identity.user",
            why: "there is no id map, so that the payload is you",
            remedy: "take identity.user out",
        });
    }
    if request.project.source.is_some() && Path::new(&request.project.target) != request.project.path {
        return Err(PlanError::NeedsNamespaces {
            key: "project.target",
            why: "the project stays where it is",
            remedy: "take project.target out",
        });
    }
    Ok(())
}

fn abi(host: &Host) -> Result<u32, PlanError> {
    let got = match host.landlock {
        Ok(abi) if abi >= RUNG_MINIMUM_ABI => return Ok(abi),
        Ok(abi) => format!("this kernel has ABI {abi}, and only {RUNG_MINIMUM_ABI} keeps files outside from being emptied (Linux 6.2)"),
        Err(errno) => format!("this kernel has no Landlock ({errno})"),
    };
    Err(PlanError::Required { what: "Landlock", got })
}

fn degraded(request: &Request<'_>, abi: u32) -> Vec<Degraded> {
    let mut list = vec![
        Degraded {
            what: "mounts",
            asked: "a view of files of its own".into(),
            got: "the host's tree: what Landlock refuses cannot be opened or listed, but names that are known can be looked up".into(),
        },
        Degraded {
            what: "processes",
            asked: "a pid namespace".into(),
            got: "the host's: processes can be seen, with their command lines".into(),
        },
    ];
    if abi < SCOPES {
        let got = format!("Landlock ABI {abi}: the payload can signal your other processes");
        list.push(Degraded { what: "signals", asked: "signals stay inside".into(), got });
    }
    if request.profile.identity.map == MapMode::Auto {
        list.push(Degraded { what: "subuid", asked: "a range of ids".into(), got: "your own id alone".into() });
    }
    let project = request.project;
    if let Some(worktree) = project.worktree.as_ref().filter(|_| project.mode == ProjectMode::Rw) {
        list.push(Degraded { what: "worktree", asked: worktree.common.path.display().to_string(), got: NO_COMMITS.into() });
    }
    if project.mode == ProjectMode::Rw && project.source.is_some() {
        list.extend(project.guarded.iter().map(|guarded| Degraded {
            what: "protect",
            asked: guarded.path.display().to_string(),
            got: "not protected: the whole project is writable".into(),
        }));
    }
    list
}

/// What a worktree cannot have here.
const NO_COMMITS: &str = "read-only: git can look, but not commit";

/// The one line that is always said.
fn note(request: &Request<'_>, abi: u32) -> String {
    let network = match request.profile.network.mode {
        NetworkMode::Host => "the host's network",
        _ => "no sockets",
    };
    let signals = if abi < SCOPES { ", signals to your processes" } else { "" };
    format!(
        "held by Landlock and seccomp alone ({network}): not enforced are an own view of files and processes, protect, limits{signals}; /tmp is TMPDIR"
    )
}

fn parent_steps(request: &Request<'_>, abi: u32, steps: &mut Vec<Step>) {
    steps.push(Step::JoinSessionKeyring);
    steps.extend(sources(request).map(|source| Step::OpenSource { source: source.clone() }));
    steps.push(Step::TakeScratch);
    if let Some(seccomp) = request.seccomp {
        steps.push(Step::CompileSeccomp { filter: seccomp.name.clone(), allowed: seccomp.allowed, instructions: seccomp.instructions });
    }
    let no_tcp = abi >= TCP && request.profile.network.mode != NetworkMode::Host;
    steps.push(Step::CreateLandlock { abi, no_tcp });
    steps.push(Step::BecomeSubreaper);
    steps.push(Step::Clone { namespaces: Vec::new() });
}

fn child_steps(request: &Request<'_>, abi: u32, steps: &mut Vec<Step>) {
    steps.extend([Step::BecomeSubreaper, Step::EndWithParent, Step::NotDumpable]);
    if request.invocation.has_terminal() {
        steps.push(Step::OpenPty);
    }
    steps.push(Step::ChangeDirectory { path: workdir(request.profile, request.image, request.invocation, request.project) });
    steps.extend([Step::DropCapabilities { keep: Vec::new(), ambient: false }, Step::NoNewPrivileges]);
    if abi >= SCOPES {
        steps.push(Step::ScopeSignals);
    }
    steps.push(Step::StartPayload { init: true });
}

/// Devices that every program expects. No pseudo-terminals: the directory that has them has the caller's other terminals as well.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// File systems of the kernel that tell and are not written: in `/proc` are the settings of the caller's other processes.
const KERNEL: [&str; 2] = ["/proc", "/sys"];

/// Sets of rights, all that the ABI has of them.
struct Rights {
    read: BitFlags<AccessFs>,
    write: BitFlags<AccessFs>,
    device: BitFlags<AccessFs>,
}

impl Rights {
    fn new(abi: u32) -> Self {
        let all = handled_access(abi);
        Self {
            read: all & make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir}),
            write: all & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev}),
            device: all & make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev}),
        }
    }
}

/// The directories that the payload of a plan may write, where its filter asks about them; with device and inode, where they are known.
pub fn writable(steps: &[Step]) -> Vec<(PathBuf, Option<(u64, u64)>)> {
    let asks = steps.iter().any(|step| matches!(step, Step::InstallSeccomp { asks: true, .. }));
    let rules = steps.iter().filter_map(|step| match step {
        Step::EnterLandlock { rules, .. } if asks => Some(rules),
        _ => None,
    });
    // What can be made there tells a directory from a device.
    let made = BitFlags::from(AccessFs::MakeReg).bits();
    rules.flatten().filter(|rule| rule.access & made != 0).map(|rule| (PathBuf::from(&rule.path), rule.identity)).collect()
}

fn terminal(request: &Request<'_>, abi: u32) -> u64 {
    if request.invocation.has_terminal() { Rights::new(abi).device.bits() } else { 0 }
}

/// What the payload can open: the parts of the host that make up the image `host`, the project, the private home, and its own temporary
/// directory. Everything else is refused.
fn rules(request: &Request<'_>, abi: u32) -> Result<Vec<LandlockRule>, PlanError> {
    let rights = Rights::new(abi);
    let mut rules = image_rules(request, &rights);
    let named = |path: &str, access: BitFlags<AccessFs>, optional| LandlockRule {
        path: path.to_owned(),
        access: access.bits(),
        optional,
        identity: None,
    };
    rules.extend(KERNEL.map(|path| named(path, rights.read & !AccessFs::Execute, true)));
    rules.extend(DEVICES.map(|path| named(path, rights.device, true)));
    rules.extend(request.profile.security.devices.iter().map(|path| named(path, rights.device, false)));
    let project = request.project;
    if let Some(source) = project.source.as_ref().filter(|_| project.mode != ProjectMode::None) {
        rules.push(below(source, if project.mode == ProjectMode::Rw { rights.write } else { rights.read }));
    }
    if let Some(worktree) = &project.worktree {
        // Where git makes its index and its locks it also keeps what says where the repository is, and with that whose commands the host's
        // git runs: Landlock cannot tell them apart.
        rules.push(below(&worktree.common, rights.read));
    }
    let temporary = request.temporary.ok_or(PlanError::Law("without mounts a plan has a temporary directory"))?;
    let homes = [request.home.map(|home| home.source.path.as_path()), Some(temporary)];
    rules.extend(homes.into_iter().flatten().map(|path| named(&path.to_string_lossy(), rights.write, false)));
    Ok(rules)
}

/// The same list that the image `host` is bound from; where hamper would make a file of its own in `/etc`, the host's is read.
fn image_rules(request: &Request<'_>, rights: &Rights) -> Vec<LandlockRule> {
    let Tree::Host { binds, nodes } = &request.image.tree else { return Vec::new() };
    let mut rules: Vec<LandlockRule> = binds.iter().chain(request.resolv_conf).map(|source| below(source, rights.read)).collect();
    let files = nodes.iter().filter(|(path, node)| matches!(node, Node::File { .. }) && path != "/etc/resolv.conf");
    rules.extend(files.map(|(path, _)| LandlockRule {
        path: path.clone(),
        access: BitFlags::from(AccessFs::ReadFile).bits(),
        optional: true,
        identity: None,
    }));
    rules
}

/// On something that is no directory only some rights make sense.
fn below(source: &Source, access: BitFlags<AccessFs>) -> LandlockRule {
    let access = if source.directory { access } else { access & file_rights() };
    LandlockRule {
        path: source.path.to_string_lossy().into_owned(),
        access: access.bits(),
        optional: false,
        identity: Some((source.device, source.inode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Image, Invocation, Project, SeccompFacts, User};
    use crate::profile::{Vars, local_text};

    const READ: u64 = 0b1101;

    fn source(path: &str) -> Source {
        Source { path: path.into(), directory: true, device: 1, inode: 2 }
    }

    /// The plan of a profile of image `host` with these lines, on a kernel with this ABI.
    fn plan(lines: &str, landlock: Result<u32, rustix::io::Errno>) -> Result<Plan, PlanError> {
        plan_with("landlock", lines, landlock)
    }

    fn plan_with(isolation: &str, lines: &str, landlock: Result<u32, rustix::io::Errno>) -> Result<Plan, PlanError> {
        let text = format!("image = \"host\"\nisolation = \"{isolation}\"\n{lines}");
        let vars = Vars { home: Path::new("/home/u"), env: &|_| None, project: Some(Path::new("/p")) };
        let profile = local_text("x.toml", &text, Path::new("/p"), &[]).finish(&vars).expect("valid");
        let user = User { uid: 1000, gid: 1000, groups: Vec::new(), home: "/state/home".into() };
        let nodes = vec![("/etc/passwd".to_owned(), Node::File { mode: 0o644, content: String::new() })];
        let image = Image {
            entrypoint: Vec::new(),
            cmd: vec!["sh".into()],
            environment: Vec::new(),
            workdir: String::new(),
            volumes: Vec::new(),
            user,
            tree: Tree::Host { binds: vec![source("/usr")], nodes },
            home_is_empty: true,
            root_owner: None,
        };
        let project = Project {
            path: "/p".into(),
            source: Some(source("/p")),
            target: "/p".into(),
            mode: profile.project.mode,
            guarded: Vec::new(),
            shown: Vec::new(),
            worktree: None,
        };
        super::super::build(&Request {
            profile: &profile,
            host: &Host { uid: 1000, gid: 1000, landlock, ranges: None, kernel: (6, 18) },
            image: &image,
            digest: "host",
            project: &project,
            invocation: &Invocation::default(),
            environment: &[],
            mounts: &[],
            home: Some(&crate::plan::Home { source: source("/state/home"), work: None }),
            keep: None,
            secrets: &[],
            seccomp: Some(&SeccompFacts { name: "default".into(), allowed: 1, instructions: 1 }),
            resolv_conf: None,
            delegation: None,
            apart: false,
            disks: None,
            temporary: Some(Path::new("/data/scratch/0/tmp/u")),
        })
    }

    fn rules(plan: &Plan) -> Vec<(&str, u64)> {
        let entered = plan.steps.iter().find_map(|step| match step {
            Step::EnterLandlock { rules, .. } => Some(rules),
            _ => None,
        });
        entered.expect("a domain").iter().map(|rule| (rule.path.as_str(), rule.access)).collect()
    }

    #[test]
    fn only_what_is_the_runs_own_can_be_written() {
        for (lines, writable) in [
            ("", &["/p", "/state/home", "/data/scratch/0/tmp/u"][..]),
            ("[project]\nmode = \"ro\"", &["/state/home", "/data/scratch/0/tmp/u"]),
            ("[project]\nmode = \"none\"", &["/state/home", "/data/scratch/0/tmp/u"]),
        ] {
            let plan = plan(lines, Ok(7)).expect("a plan");
            let rules = rules(&plan);
            let found: Vec<&str> = rules.iter().filter(|(_, access)| access & 0b10 != 0).map(|(path, _)| *path).collect();
            let found: Vec<&str> = found.into_iter().filter(|path| !path.starts_with("/dev/")).collect();
            assert_eq!(found, writable, "{lines}");
            assert!(rules.contains(&("/usr", READ)) && rules.contains(&("/etc/passwd", 0b100)));
            assert!(!rules.iter().any(|(path, _)| ["/", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/run", "/home"].contains(path)));
            // Nobody makes a device node.
            assert!(rules.iter().all(|(_, access)| access & (1 << 6 | 1 << 11) == 0));
        }
    }

    #[test]
    fn an_old_kernel_is_told_or_refused() {
        let degraded = |abi| plan("", Ok(abi)).expect("a plan").degraded.into_iter().map(|one| one.what).collect::<Vec<_>>();
        assert_eq!(degraded(7), ["mounts", "processes", "subuid"]);
        assert_eq!(degraded(4), ["mounts", "processes", "signals", "subuid"]);
        assert_eq!(degraded(3), ["mounts", "processes", "signals", "subuid"]);
        for landlock in [Ok(2), Ok(1), Err(rustix::io::Errno::NOSYS)] {
            assert!(matches!(plan("", landlock), Err(PlanError::Required { what: "Landlock", .. })), "{landlock:?}");
        }
        let no_tcp = |abi, lines| plan(lines, Ok(abi)).expect("a plan").steps.contains(&Step::CreateLandlock { abi, no_tcp: true });
        assert!(no_tcp(4, "") && !no_tcp(3, "") && !no_tcp(7, "[network]\nmode = \"host\""));
    }

    #[test]
    fn abstract_sockets_within_reach_are_told_or_refused() {
        let host = "[network]\nmode = \"host\"\n";
        let degraded = |lines: &str, abi| {
            let plan = plan_with("namespaces", lines, Ok(abi)).expect("a plan");
            let asked = plan.degraded.into_iter().filter(|one| one.what == "landlock").map(|one| one.asked).collect::<Vec<_>>();
            (asked, plan.steps.iter().any(|step| matches!(step, Step::EnterLandlock { .. })))
        };
        assert_eq!(degraded(host, 6), (vec![], true));
        assert_eq!(degraded("", 5), (vec![], true));
        assert_eq!(degraded(host, 5), (vec!["no abstract sockets of the host".to_owned()], true));
        assert_eq!(degraded(host, 2), (vec!["no abstract sockets of the host".to_owned()], true));
        assert_eq!(degraded(host, 1), (vec!["a Landlock domain".to_owned()], false));
        assert_eq!(degraded(&format!("{host}[security]\nlandlock = \"off\""), 5), (vec![], false));
        for required in [format!("require = [\"landlock\"]\n{host}"), format!("{host}[security]\nlandlock = \"required\"")] {
            assert!(matches!(plan_with("namespaces", &required, Ok(5)), Err(PlanError::Required { what: "landlock", .. })), "{required}");
            assert!(plan_with("namespaces", &required, Ok(6)).is_ok(), "{required}");
        }
    }

    #[test]
    fn a_mount_breaks_the_law_of_this_rung() {
        let plan = plan("", Ok(7)).expect("a plan");
        let broken = |change: &dyn Fn(&mut Vec<Step>)| {
            let mut steps = plan.steps.clone();
            change(&mut steps);
            laws::check(&steps).is_err()
        };
        assert!(!broken(&|_| ()));
        let clone = plan.steps.iter().position(|step| matches!(step, Step::Clone { .. })).expect("a clone");
        assert!(broken(&|steps| steps.insert(clone + 1, Step::MountProc)));
        for gone in ["enter", "install", "end everything", "set no_new_privs", "close all"] {
            assert!(broken(&|steps| steps.retain(|step| !step.to_string().starts_with(gone))), "{gone}");
        }
        assert!(broken(&|steps| steps.swap(clone + 1, clone + 8)));
    }
}
