//! The Landlock ruleset: a second proof beside the mounts, on the final merged tree.

use ::landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, Scope, make_bitflags};

use super::LandlockRule;

/// ABI 1 forbids renames across directories altogether, which breaks real programs: below 2 Landlock counts as absent.
pub const MINIMUM_ABI: u32 = 2;

/// From this ABI on signals and abstract sockets stay inside.
pub const SCOPES: u32 = 6;

/// The newest ABI of which all rights are known to be harmless here.
const NEWEST_ABI: u32 = 7;

/// Every file system right that this ABI can handle.
pub fn handled_access(abi: u32) -> BitFlags<AccessFs> {
    AccessFs::from_all(known(abi))
}

/// Abstract sockets and signals stay inside, where the kernel can see to that.
pub fn scoped(abi: u32) -> BitFlags<Scope> {
    if abi >= SCOPES { Scope::AbstractUnixSocket | Scope::Signal } else { BitFlags::EMPTY }
}

/// Bind and connect of TCP, where the kernel can see to that (ABI 4).
pub fn tcp(abi: u32) -> BitFlags<AccessNet> {
    AccessNet::from_all(known(abi))
}

fn known(abi: u32) -> ABI {
    ABI::from(i32::try_from(abi.min(NEWEST_ABI)).unwrap_or(0))
}

/// The rights that make sense on something that is not a directory.
pub fn file_rights() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{Execute | WriteFile | ReadFile | Truncate | IoctlDev})
}

/// Where the payload may write, besides `/dev` and `/proc`, which are always there.
pub struct Writable<'a> {
    pub root: bool,
    pub targets: &'a [String],
}

/// The rules for a tree: everything readable and executable; writable where the mounts are; device nodes usable only in `/dev`, and
/// makeable nowhere.
pub fn rules(abi: u32, writable: &Writable<'_>) -> Vec<LandlockRule> {
    let all = handled_access(abi);
    let no_devices = all & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev});
    let read = all & make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir});
    let devices = all & !make_bitflags!(AccessFs::{MakeChar | MakeBlock});
    let rule = |path: &str, access: BitFlags<AccessFs>, optional| LandlockRule {
        path: path.into(),
        access: access.bits(),
        optional,
        identity: None,
    };
    if writable.root {
        return vec![rule("/", no_devices, false), rule("/dev", devices, false)];
    }
    let mut rules = vec![rule("/", read, false), rule("/dev", devices, false), rule("/proc", no_devices, false)];
    // A target may be a single file, and is looked at.
    rules.extend(writable.targets.iter().map(|target| rule(target, no_devices, true)));
    rules
}
