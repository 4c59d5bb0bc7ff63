//! The system call filter: what a profile asks for in, a BPF program out.
//!
//! Pure: no file system, no system call; whether and how a program is installed, others decide. Every filter made here holds to this:
//!
//! - a call through a foreign ABI (i386 on x86-64, arm on aarch64) ends the process; an x32 number is an unknown number;
//! - a number that we have no name for gives ENOSYS, so that programs try the older call, as on the older kernel;
//! - a call that we know and refuse gives EPERM, but ENOSYS where callers look for that to take an older way: `clone3` above all, whose
//!   flags lie in memory that a filter cannot read, and for which every C library takes `clone`;
//! - a socket family or protocol that is shut gives the errno of a kernel built without it, for libraries know what to do about that;
//! - arguments that the kernel takes as 32 bits are compared as 32 bits.
//!
//! `policy` has the lists, `table` names and numbers, `oci` profiles in Docker's format, `emit` the instructions.
//!
//! # References
//! seccomp(2), Documentation/userspace-api/seccomp_filter.rst of the kernel

mod emit;
mod oci;
mod policy;
mod same_user;
mod table;
#[cfg(test)]
mod tests;

use seccompiler::BpfProgram;

use emit::{Graph, Node, Op, TooLong, Word};
pub use oci::{MAX_BYTES as OCI_MAX_BYTES, OciError, Profile as OciProfile, parse as parse_oci};
pub use policy::{GROUPS, Group};
pub use table::Arch;
use table::{LIMIT, Set};

const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7FFF_0000;
const EPERM: u32 = errno(libc::EPERM as u32);
/// `SECCOMP_RET_USER_NOTIF`: without somebody who listens it is ENOSYS.
const ASK: u32 = 0x7FC0_0000;
const ENOSYS: u32 = errno(libc::ENOSYS as u32);

/// `SECCOMP_RET_ERRNO` with this number.
const fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

/// Where each number leads. The last is unknown on every architecture, and so are all above.
type Leaves = [Node; LIMIT];

/// What a filter is made from.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub source: Source<'a>,
    /// Names and `@groups` that are let through besides, whatever their arguments; `security.seccomp_allow`.
    pub allow: &'a [String],
    /// Debuggers work, on processes of the sandbox. Counts for [`Source::Default`] only.
    pub ptrace: bool,
    /// The payload may make user namespaces of its own, and mount in them.
    pub nested_userns: bool,
    /// Where there are no namespaces: what is refused besides, whatever else is let through.
    pub same_user: Option<SameUser>,
    /// Whether the payload is the process that the kernel ends with ours: what it could tell the kernel to forget (PR_SET_PDEATHSIG(2const)).
    pub dies_with_parent: bool,
    /// Capabilities that the payload has, with or without `CAP_`.
    pub caps: &'a [&'a str],
    /// Major and minor version of the kernel, for the `minKernel` of OCI profiles.
    pub kernel: (u32, u32),
    pub arch: Arch,
}

/// A payload that has the caller's ids, and the host's processes, sockets and IPC around it: the filter shuts what Landlock leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SameUser {
    /// Sockets of the host's network; without it there are none at all.
    pub network: bool,
}

/// The list that a filter starts from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    Default,
    /// For hostile code: less of the kernel, no debugging, few ioctls, TCP and UDP only.
    Strict,
    /// Everything, foreign ABIs too: no filter at all, unless `same_user` needs one.
    None,
    /// As the profile says, and never more ABIs than the machine's own.
    Oci(&'a OciProfile),
}

/// A program for the kernel, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Empty: nothing to install.
    pub program: BpfProgram,
    /// How many calls get through, at least with some arguments.
    pub allowed: usize,
    /// Sentences that are said and change nothing.
    pub notes: Vec<String>,
}

/// Why there is no filter.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("seccomp_allow[{index}]: there is no system call {name:?}{}", meant(.nearest))]
    UnknownCall { index: usize, name: String, nearest: Option<&'static str> },
    #[error("seccomp_allow[{index}]: there is no group {name:?}{}", meant(.nearest))]
    UnknownGroup { index: usize, name: String, nearest: Option<&'static str> },
    #[error("{asked} does not go with {with}: {why}")]
    Conflict { asked: String, with: &'static str, why: &'static str },
    #[error("the filter would have {0} instructions or more, and the kernel takes {max}", max = emit::MAX_INSTRUCTIONS)]
    TooLong(usize),
}

fn meant(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

impl From<TooLong> for Error {
    fn from(TooLong(instructions): TooLong) -> Self {
        Self::TooLong(instructions)
    }
}

/// Makes the filter.
///
/// # Errors
/// A name in `allow` that nothing is called, with the nearest that something is; wishes that exclude each other; a profile that comes out
/// longer than the kernel takes.
pub fn compile(request: &Request<'_>) -> Result<Filter, Error> {
    let granted = granted(request)?;
    if matches!(request.source, Source::None) && request.same_user.is_none() {
        return Ok(Filter { program: Vec::new(), allowed: Set::known(request.arch).len(), notes: granted.notes });
    }
    let mut draft = Draft::new(request, granted.notes);
    draft.base(request)?;
    draft.open(&granted.calls);
    if let Some(same_user) = request.same_user {
        same_user::narrow(&mut draft, same_user);
    }
    if request.dies_with_parent {
        same_user::keep_death_signal(&mut draft);
    }
    draft.finish()
}

/// What is let through beyond the source, whatever the arguments.
struct Granted {
    calls: Set,
    notes: Vec<String>,
}

fn granted(request: &Request<'_>) -> Result<Granted, Error> {
    let arch = request.arch;
    let mut granted = Granted { calls: Set::EMPTY, notes: Vec::new() };
    let mut open = |group: &Group| granted.calls = granted.calls.union(&Set::of(arch, group.calls));
    if request.nested_userns {
        if matches!(request.source, Source::Strict) {
            return Err(Error::Conflict {
                asked: "nested_userns".into(),
                with: "seccomp = \"strict\"",
                why: "most of what strict keeps shut is reached through user namespaces",
            });
        }
        open(policy::MOUNT);
        open(policy::USERNS);
    }
    if matches!(request.source, Source::Default) {
        if request.ptrace {
            open(policy::DEBUGGER);
        }
        let given = |name: &str| request.caps.iter().any(|cap| cap.strip_prefix("CAP_").unwrap_or(cap) == name);
        policy::CAPABILITIES.iter().filter(|(name, _)| given(name)).flat_map(|(_, groups)| *groups).for_each(|group| open(group));
    }
    for (index, name) in request.allow.iter().enumerate() {
        allow(request, index, name, &mut granted)?;
    }
    Ok(granted)
}

/// One entry of `seccomp_allow`.
fn allow(request: &Request<'_>, index: usize, name: &str, granted: &mut Granted) -> Result<(), Error> {
    let names = if name.starts_with('@') {
        match GROUPS.iter().find(|group| group.name == name) {
            Some(group) => group.calls.to_vec(),
            None => {
                let nearest = nearest(name, GROUPS.iter().map(|group| group.name));
                return Err(Error::UnknownGroup { index, name: name.into(), nearest });
            }
        }
    } else {
        match table::find(name) {
            Some(call) if call.number(request.arch).is_some() => vec![call.0],
            Some(_) => {
                granted.notes.push(format!("seccomp_allow: {name} does not exist on this architecture"));
                return Ok(());
            }
            None => {
                let nearest = nearest(name, table::CALLS.iter().map(|call| call.0));
                return Err(Error::UnknownCall { index, name: name.into(), nearest });
            }
        }
    };
    let ring = names.iter().any(|name| policy::IO_URING.calls.contains(name));
    if request.same_user.is_some() && names.iter().any(|name| same_user::narrows(name)) {
        return Err(Error::Conflict {
            asked: format!("seccomp_allow = [{name:?}]"),
            with: "isolation = \"landlock\"",
            why: "without namespaces the filter is all that keeps such calls from what is yours",
        });
    }
    if ring {
        granted.notes.push(format!("seccomp_allow: {name} opens sockets of every family past the filter"));
    }
    if ["clone", "socket", "socketpair", "ioctl", "personality"].contains(&name) {
        granted.notes.push(format!("seccomp_allow: {name} is let through with all arguments"));
    }
    granted.calls = granted.calls.union(&Set::of(request.arch, &names));
    Ok(())
}

/// A filter in the making.
struct Draft {
    arch: Arch,
    graph: Graph,
    leaves: Leaves,
    allow: Node,
    refuse: Node,
    missing: Node,
    notes: Vec<String>,
}

impl Draft {
    fn new(request: &Request<'_>, notes: Vec<String>) -> Self {
        let mut graph = Graph::default();
        let (allow, refuse, missing) = (graph.verdict(ALLOW), graph.verdict(EPERM), graph.verdict(ENOSYS));
        Self { arch: request.arch, graph, leaves: [missing; LIMIT], allow, refuse, missing, notes }
    }

    fn base(&mut self, request: &Request<'_>) -> Result<(), TooLong> {
        match request.source {
            Source::Default => {
                let lists = policy::lists(self.arch);
                self.lists(&lists.default, &lists.longer_way);
                self.rules(policy::PERSONALITIES);
                self.sockets(None);
                let ioctl = self.graph.one_of(Word::low(1), &policy::REFUSED_IOCTLS, self.refuse, self.allow);
                self.set("ioctl", ioctl);
            }
            Source::Strict => {
                let lists = policy::lists(self.arch);
                self.lists(&lists.strict, &lists.default.union(&lists.longer_way));
                self.rules(policy::STRICT_PERSONALITIES);
                self.sockets(Some(policy::STRICT_PROTOCOLS));
                self.few_ioctls();
            }
            Source::None => self.lists(&Set::known(self.arch), &Set::EMPTY),
            Source::Oci(profile) => {
                let notes = profile.apply(&mut self.graph, self.arch, request.caps, request.kernel, &mut self.leaves)?;
                self.notes.extend(notes);
            }
        }
        Ok(())
    }

    /// Calls that are let through, and those that are refused as though the kernel had none such.
    fn lists(&mut self, allowed: &Set, absent: &Set) {
        let refused = Set::known(self.arch).without(absent);
        for (number, leaf) in self.leaves.iter_mut().enumerate() {
            *leaf = match () {
                () if allowed.has(number) => self.allow,
                () if refused.has(number) => self.refuse,
                () => self.missing,
            };
        }
    }

    /// The rules by argument that default and strict have in common.
    fn rules(&mut self, personalities: &[u32]) {
        // The kernel takes the low word of the flags only, so nothing can hide in the high one.
        let clone = self.graph.test(Word::low(0), Op::AnyBit, policy::NAMESPACE_FLAGS, self.refuse, self.allow);
        self.set("clone", clone);
        let personality = self.graph.one_of(Word::low(0), personalities, self.allow, self.refuse);
        self.set("personality", personality);
        let no_family = self.graph.verdict(errno(libc::EAFNOSUPPORT as u32));
        let pair = self.graph.test(Word::low(0), Op::Equal, libc::AF_UNIX as u32, self.allow, no_family);
        self.set("socketpair", pair);
    }

    /// UNIX, INET and INET6, with these protocols; NETLINK_ROUTE where the protocols are free.
    fn sockets(&mut self, protocols: Option<&[u32]>) {
        let no_family = self.graph.verdict(errno(libc::EAFNOSUPPORT as u32));
        let no_protocol = self.graph.verdict(errno(libc::EPROTONOSUPPORT as u32));
        let family = |family: i32, node| (family as u32, family as u32, node);
        let (inet, netlink) = match protocols {
            Some(protocols) => (self.graph.one_of(Word::low(2), protocols, self.allow, no_protocol), no_family),
            None => (self.allow, self.graph.test(Word::low(2), Op::Equal, libc::NETLINK_ROUTE as u32, self.allow, no_protocol)),
        };
        let families = [
            family(libc::AF_UNIX, self.allow),
            family(libc::AF_INET, inet),
            family(libc::AF_INET6, inet),
            family(libc::AF_NETLINK, netlink),
        ];
        let socket = self.graph.spans(Word::low(0), &families, no_family);
        self.set("socket", socket);
    }

    /// The ioctls of strict; others give ENOTTY, which is what a file says that has no such thing.
    fn few_ioctls(&mut self) {
        let not_here = self.graph.verdict(errno(libc::ENOTTY as u32));
        let mut spans: Vec<_> = policy::STRICT_IOCTLS.iter().map(|&(first, last)| (first, last, self.allow)).collect();
        spans.extend(policy::REFUSED_IOCTLS.map(|ioctl| (ioctl, ioctl, self.refuse)));
        spans.sort_unstable_by_key(|(first, ..)| *first);
        let ioctl = self.graph.spans(Word::low(1), &spans, not_here);
        self.set("ioctl", ioctl);
    }

    fn open(&mut self, calls: &Set) {
        for (number, leaf) in self.leaves.iter_mut().enumerate() {
            if calls.has(number) {
                *leaf = self.allow;
            }
        }
    }

    fn leaf(&self, name: &str) -> Option<Node> {
        Some(self.leaves[usize::from(table::find(name)?.number(self.arch)?)])
    }

    fn set(&mut self, name: &str, leaf: Node) {
        if let Some(number) = table::find(name).and_then(|call| call.number(self.arch)) {
            self.leaves[usize::from(number)] = leaf;
        }
    }

    fn finish(mut self) -> Result<Filter, Error> {
        let mut ranges: Vec<(u32, Node)> = Vec::with_capacity(128);
        for (number, leaf) in self.leaves.iter().enumerate() {
            if ranges.last().is_none_or(|(_, last)| last != leaf) {
                ranges.push((number as u32, *leaf));
            }
        }
        let permitted = self.graph.reaching(oci::permits);
        let allowed = self.leaves.iter().filter(|leaf| permitted.from(**leaf)).count();
        let numbers = self.graph.ranges(Word::NUMBER, &ranges);
        let kill = self.graph.verdict(KILL_PROCESS);
        let root = self.graph.test(Word::ARCH, Op::Equal, self.arch.audit(), numbers, kill);
        Ok(Filter { program: self.graph.assemble(root)?, allowed, notes: self.notes })
    }
}

/// The candidate with the fewest letters to change, if they are few enough for a slip.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let slips = (name.len() / 3).max(1);
    candidates
        .map(|candidate| (edits(name.as_bytes(), candidate.as_bytes()), candidate))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, _)| *edits <= slips)
        .map(|(_, candidate)| candidate)
}

fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
