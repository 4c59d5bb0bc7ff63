//! Seccomp profiles as Docker, podman and the OCI runtime-spec write them, and what they mean for one machine.
//!
//! Read strictly and with bounds; every fault says where it stands (`syscalls[3].args[0].op`). Where the formats are silent, this does
//! what runc and libseccomp do:
//!
//! - an entry without conditions beats those with conditions for the same call; of several, the first counts;
//! - conditions of one entry hold together, unless two ask the same argument: then any of them is enough;
//! - numbers above the newest call that the profile names give ENOSYS where the default refuses, for programs try new calls first.
//!
//! Two things are harder than there: ABIs other than the machine's own stay shut whatever `architectures` says, and a number that we have
//! no name for gives ENOSYS under every default. So a name that we do not know can be left out without opening anything.
//!
//! # References
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>, <https://docs.docker.com/engine/security/seccomp/>

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::emit::{Graph, MAX_INSTRUCTIONS, Node, Op, TooLong, Word};
use super::table::{self, Arch, LIMIT, Set};
use super::{ALLOW, ENOSYS, EPERM, Leaves, errno};

/// Bytes of a profile; moby's own has 13 thousand.
pub const MAX_BYTES: usize = 1 << 20;
/// Entries of `syscalls`.
pub const MAX_ENTRIES: usize = 4096;
/// The kernel's own bound on the number that an errno action carries.
const MAX_ERRNO: u64 = 4095;
/// A system call has six arguments.
const ARGUMENTS: u64 = 6;
/// Conditions of one entry; no profile that we know has more than two.
const MAX_CONDITIONS: usize = 32;

/// A profile as it is written, every part checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    default: u32,
    abis: Vec<Abi>,
    entries: Vec<Entry>,
    notes: Vec<String>,
}

/// An ABI that the profile wants open; in an `archMap`, on this machine only.
#[derive(Clone, Debug, PartialEq)]
struct Abi {
    name: String,
    on: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    names: Vec<String>,
    action: u32,
    conditions: Vec<Condition>,
    includes: Scope,
    excludes: Scope,
}

/// `includes` or `excludes` of moby's format.
#[derive(Clone, Debug, Default, PartialEq)]
struct Scope {
    /// Without `CAP_`.
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<(u32, u32)>,
}

/// What is asked of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub argument: u8,
    pub compare: Compare,
}

/// Comparisons of all 64 bits, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    AtMost(u64),
    AtLeast(u64),
    Greater(u64),
    Masked { mask: u64, value: u64 },
}

/// What is wrong with a profile, and where.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OciError {
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("not JSON: {0}")]
    Json(String),
    #[error("{key}: {why}")]
    Key { key: String, why: String },
}

/// Reads a profile.
///
/// # Errors
/// Says the key that is missing, unknown or wrong. `SCMP_ACT_NOTIFY` is refused: it needs an agent outside, and we have none.
pub fn parse(text: &str) -> Result<Profile, OciError> {
    if text.len() > MAX_BYTES {
        return Err(OciError::TooLarge);
    }
    let json: Json = serde_json::from_str(text).map_err(|e| OciError::Json(e.to_string()))?;
    profile(&At { key: String::new(), json: &json })
}

fn profile(root: &At<'_>) -> Result<Profile, OciError> {
    let mut notes = Vec::new();
    root.only(&[
        "defaultAction",
        "defaultErrnoRet",
        "defaultErrno",
        "architectures",
        "archMap",
        "flags",
        "syscalls",
        "listenerPath",
        "listenerMetadata",
        "comment",
    ])?;
    let Some(action) = root.get("defaultAction") else { return Err(root.fault("defaultAction is missing")) };
    let default = action_of(&action, root.get("defaultErrnoRet"), root.get("defaultErrno"))?;
    for key in ["listenerPath", "listenerMetadata"] {
        if let Some(at) = root.get(key) {
            return Err(at.fault("notifications are not supported"));
        }
    }
    for flag in root.list("flags")? {
        match flag.text()? {
            "SECCOMP_FILTER_FLAG_TSYNC"
            | "SECCOMP_FILTER_FLAG_LOG"
            | "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
            | "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
                notes.push(format!("{}: {} has no effect here", flag.key, flag.text()?));
            }
            _ => return Err(flag.fault("not a flag of a seccomp filter")),
        }
    }
    let abis = abis(root)?;
    let syscalls = root.list("syscalls")?;
    if syscalls.len() > MAX_ENTRIES {
        return Err(OciError::Key { key: "syscalls".into(), why: format!("more than {MAX_ENTRIES} entries") });
    }
    let entries = syscalls.iter().map(entry).collect::<Result<_, _>>()?;
    Ok(Profile { default, abis, entries, notes })
}

fn abis(root: &At<'_>) -> Result<Vec<Abi>, OciError> {
    let plain = root.list("architectures")?;
    let map = root.list("archMap")?;
    if !plain.is_empty() && !map.is_empty() {
        return Err(OciError::Key { key: "archMap".into(), why: "not together with architectures".into() });
    }
    let mut all = Vec::new();
    for at in plain {
        all.push(Abi { name: scmp_arch(&at)?, on: None });
    }
    for at in map {
        at.only(&["architecture", "subArchitectures"])?;
        let Some(main) = at.get("architecture") else { return Err(at.fault("architecture is missing")) };
        let main = scmp_arch(&main)?;
        for sub in at.list("subArchitectures")? {
            all.push(Abi { name: scmp_arch(&sub)?, on: Some(main.clone()) });
        }
        all.push(Abi { name: main, on: None });
    }
    Ok(all)
}

fn scmp_arch(at: &At<'_>) -> Result<String, OciError> {
    let text = at.text()?;
    let known = text
        .strip_prefix("SCMP_ARCH_")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    if known { Ok(text.into()) } else { Err(at.fault("not the name of an architecture, which begins with SCMP_ARCH_")) }
}

fn entry(at: &At<'_>) -> Result<Entry, OciError> {
    at.only(&["name", "names", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"])?;
    let mut names = Vec::new();
    if let Some(one) = at.get("name") {
        names.push(call_name(&one)?);
    }
    for name in at.list("names")? {
        names.push(call_name(&name)?);
    }
    if names.is_empty() {
        return Err(at.fault("names is missing or empty"));
    }
    if at.get("name").is_some() && at.get("names").is_some() {
        return Err(at.fault("name and names exclude each other"));
    }
    let Some(action) = at.get("action") else { return Err(at.fault("action is missing")) };
    let action = action_of(&action, at.get("errnoRet"), at.get("errno"))?;
    let args = at.list("args")?;
    if args.len() > MAX_CONDITIONS {
        return Err(at.fault(&format!("more than {MAX_CONDITIONS} args")));
    }
    let conditions = args.iter().map(condition).collect::<Result<_, _>>()?;
    Ok(Entry { names, action, conditions, includes: scope(at, "includes")?, excludes: scope(at, "excludes")? })
}

fn call_name(at: &At<'_>) -> Result<String, OciError> {
    let text = at.text()?;
    let plain = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain { Ok(text.into()) } else { Err(at.fault("not the name of a system call")) }
}

/// An action with the number that it carries.
fn action_of(at: &At<'_>, number: Option<At<'_>>, name: Option<At<'_>>) -> Result<u32, OciError> {
    let named = match &name {
        Some(name) if name.text()?.is_empty() => None,
        Some(name) => Some(errno_named(name.text()?).ok_or_else(|| name.fault("an errno that is not known by name; use the number"))?),
        None => None,
    };
    let carried = match &number {
        Some(number) if number.number()? > MAX_ERRNO => return Err(number.fault(&format!("greater than {MAX_ERRNO}"))),
        Some(number) => Some(number.number()? as u32),
        None => named,
    };
    if let (Some(number), Some(named), Some(carried)) = (&number, named, carried)
        && named != carried
    {
        return Err(number.fault("the errno by number and the one by name differ"));
    }
    let plain = |action| match (&number, &name) {
        (Some(fault), _) | (None, Some(fault)) if carried.is_some() => Err(fault.fault("goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only")),
        _ => Ok(action),
    };
    match at.text()? {
        "SCMP_ACT_ALLOW" => plain(ALLOW),
        "SCMP_ACT_LOG" => plain(0x7FFC_0000),
        "SCMP_ACT_TRAP" => plain(0x0003_0000),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => plain(0),
        "SCMP_ACT_KILL_PROCESS" => plain(super::KILL_PROCESS),
        "SCMP_ACT_ERRNO" => Ok(carried.map_or(EPERM, errno)),
        "SCMP_ACT_TRACE" => Ok(0x7FF0_0000 | carried.unwrap_or(1)),
        "SCMP_ACT_NOTIFY" => Err(at.fault("notifications are not supported")),
        _ => Err(at.fault("not an action; they are SCMP_ACT_ALLOW, ERRNO, KILL, KILL_PROCESS, KILL_THREAD, LOG, TRACE and TRAP")),
    }
}

/// The names that profiles use.
fn errno_named(name: &str) -> Option<u32> {
    const NAMES: &[(&str, i32)] = &[
        ("EPERM", libc::EPERM),
        ("ENOENT", libc::ENOENT),
        ("EIO", libc::EIO),
        ("EAGAIN", libc::EAGAIN),
        ("ENOMEM", libc::ENOMEM),
        ("EACCES", libc::EACCES),
        ("EBUSY", libc::EBUSY),
        ("EINVAL", libc::EINVAL),
        ("ENOTTY", libc::ENOTTY),
        ("EROFS", libc::EROFS),
        ("ENOSYS", libc::ENOSYS),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
        ("ENOTSUP", libc::ENOTSUP),
        ("EPROTONOSUPPORT", libc::EPROTONOSUPPORT),
        ("EAFNOSUPPORT", libc::EAFNOSUPPORT),
    ];
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number as u32)
}

fn condition(at: &At<'_>) -> Result<Condition, OciError> {
    at.only(&["index", "value", "valueTwo", "op"])?;
    let number = |key: &str| at.get(key).map_or(Ok(None), |at| at.number().map(Some));
    let Some(index) = at.get("index") else { return Err(at.fault("index is missing")) };
    if index.number()? >= ARGUMENTS {
        return Err(index.fault("a system call has the arguments 0 to 5"));
    }
    let Some(value) = number("value")? else { return Err(at.fault("value is missing")) };
    let Some(op) = at.get("op") else { return Err(at.fault("op is missing")) };
    let compare = match op.text()? {
        "SCMP_CMP_EQ" => Compare::Equal(value),
        "SCMP_CMP_NE" => Compare::NotEqual(value),
        "SCMP_CMP_LT" => Compare::Less(value),
        "SCMP_CMP_LE" => Compare::AtMost(value),
        "SCMP_CMP_GE" => Compare::AtLeast(value),
        "SCMP_CMP_GT" => Compare::Greater(value),
        "SCMP_CMP_MASKED_EQ" => Compare::Masked { mask: value, value: number("valueTwo")?.unwrap_or(0) },
        _ => return Err(op.fault("not a comparison; they are SCMP_CMP_EQ, NE, LT, LE, GT, GE and MASKED_EQ")),
    };
    Ok(Condition { argument: index.number()? as u8, compare })
}

fn scope(entry: &At<'_>, key: &str) -> Result<Scope, OciError> {
    let Some(at) = entry.get(key) else { return Ok(Scope::default()) };
    at.only(&["caps", "arches", "minKernel"])?;
    let caps = at.list("caps")?.iter().map(|cap| capability(cap)).collect::<Result<_, _>>()?;
    let arches = at.list("arches")?.iter().map(|arch| arch.text().map(String::from)).collect::<Result<_, _>>()?;
    let min_kernel = match at.get("minKernel") {
        Some(version) if version.text()?.is_empty() => None,
        Some(version) => Some(kernel(version.text()?).ok_or_else(|| version.fault("not a kernel version such as 4.8"))?),
        None => None,
    };
    Ok(Scope { caps, arches, min_kernel })
}

fn capability(at: &At<'_>) -> Result<String, OciError> {
    let name = at.text()?.strip_prefix("CAP_").unwrap_or_default();
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if plain { Ok(name.into()) } else { Err(at.fault("not the name of a capability, which begins with CAP_")) }
}

/// `major.minor`, as runtime-tools and moby take it; a patch level is accepted and does not count.
fn kernel(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.splitn(3, '.').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None });
    match (parts.next()?, parts.next()?, parts.next()) {
        (Some(major), Some(minor), None | Some(Some(_))) => Some((major, minor)),
        _ => None,
    }
}

/// What a profile says of one call.
#[derive(Clone, Default)]
struct Said<'a> {
    always: Option<u32>,
    sometimes: Vec<&'a Entry>,
    hidden: bool,
}

impl Profile {
    /// The verdicts of this profile on a machine, in `leaves`.
    pub(super) fn apply(
        &self,
        graph: &mut Graph,
        arch: Arch,
        caps: &[&str],
        kernel: (u32, u32),
        leaves: &mut Leaves,
    ) -> Result<Vec<String>, TooLong> {
        let mut notes = self.notes.clone();
        self.note_abis(arch, &mut notes);
        let known = Set::known(arch);
        let mut said = vec![Said::default(); LIMIT];
        let mut unknown: Vec<&str> = Vec::new();
        let mut newest = 0;
        for entry in self.entries.iter().filter(|entry| entry.holds(arch, caps, kernel)) {
            for name in &entry.names {
                let Some(call) = table::find(name) else {
                    if table::FOREIGN.binary_search(&name.as_str()).is_err() {
                        unknown.push(name);
                    }
                    continue;
                };
                if let Some(number) = call.number(arch) {
                    newest = newest.max(number as usize);
                    said[number as usize].add(entry);
                }
            }
        }
        let otherwise = graph.verdict(self.default);
        let missing = graph.verdict(ENOSYS);
        let refuses = !permits(self.default);
        for (number, said) in said.iter().enumerate() {
            leaves[number] = match said {
                _ if !known.has(number) => missing,
                Said { always: Some(action), .. } => graph.verdict(*action),
                Said { sometimes, .. } if !sometimes.is_empty() => chain(graph, sometimes, otherwise)?,
                _ if refuses && number > newest => missing,
                _ => otherwise,
            };
        }
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            notes.push(format!("calls that are not known here stay shut (ENOSYS): {}", few(&unknown)));
        }
        let hidden: Vec<&str> =
            table::CALLS.iter().filter(|call| call.number(arch).is_some_and(|n| said[n as usize].hidden)).map(|call| call.0).collect();
        if !hidden.is_empty() {
            notes.push(format!("an entry without conditions makes others for the same call idle: {}", few(&hidden)));
        }
        if !refuses {
            notes.push("the profile's default action lets calls through: whatever it does not name is open".into());
        }
        Ok(notes)
    }

    fn note_abis(&self, arch: Arch, notes: &mut Vec<String>) {
        let here = |abi: &&Abi| abi.on.as_deref().is_none_or(|on| on == arch.scmp());
        let foreign: Vec<&str> =
            self.abis.iter().filter(here).map(|abi| abi.name.as_str()).filter(|name| foreign_abi(arch, name)).collect();
        if !foreign.is_empty() {
            notes.push(format!("programs of other ABIs stay shut out, though the profile lists {}", few(&foreign)));
        }
        if !self.abis.is_empty() && !self.abis.iter().any(|abi| abi.name == arch.scmp()) {
            notes.push(format!("the profile does not list {}; it is applied all the same", arch.scmp()));
        }
    }
}

/// ABIs that run on this machine beside its own.
fn foreign_abi(arch: Arch, name: &str) -> bool {
    match arch {
        Arch::X86_64 => matches!(name, "SCMP_ARCH_X86" | "SCMP_ARCH_X32"),
        Arch::Aarch64 => name == "SCMP_ARCH_ARM",
    }
}

/// Whether an action lets the call happen.
pub(super) fn permits(action: u32) -> bool {
    matches!(action & 0xFFFF_0000, 0x7FFF_0000 | 0x7FFC_0000 | 0x7FF0_0000)
}

fn few(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", names[..SHOWN].join(", ")),
        _ => names.join(", "),
    }
}

impl<'a> Said<'a> {
    fn add(&mut self, entry: &'a Entry) {
        let differs =
            self.always.is_some_and(|action| action != entry.action) || self.sometimes.iter().any(|other| other.action != entry.action);
        if entry.conditions.is_empty() {
            self.hidden |= differs;
            self.always.get_or_insert(entry.action);
        } else {
            self.hidden |= self.always.is_some_and(|action| action != entry.action);
            self.sometimes.push(entry);
        }
    }
}

impl Entry {
    fn holds(&self, arch: Arch, caps: &[&str], kernel: (u32, u32)) -> bool {
        let has = |cap: &String| caps.iter().any(|given| given.strip_prefix("CAP_").unwrap_or(given) == cap);
        let (with, without) = (&self.includes, &self.excludes);
        let included = with.caps.iter().all(has)
            && (with.arches.is_empty() || with.arches.iter().any(|name| name == arch.moby()))
            && with.min_kernel.is_none_or(|least| kernel >= least);
        let excluded = without.caps.iter().any(has)
            || without.arches.iter().any(|name| name == arch.moby())
            || without.min_kernel.is_some_and(|least| kernel >= least);
        included && !excluded
    }

    /// Two conditions on one argument: libseccomp cannot join them, and runc takes either.
    fn any_is_enough(&self) -> bool {
        let mut seen = [false; ARGUMENTS as usize];
        self.conditions.iter().any(|condition| std::mem::replace(&mut seen[condition.argument as usize], true))
    }
}

/// Entries with conditions, the first that holds counts.
fn chain(graph: &mut Graph, entries: &[&Entry], otherwise: Node) -> Result<Node, TooLong> {
    let mut rest = otherwise;
    for entry in entries.iter().rev() {
        let then = graph.verdict(entry.action);
        rest = if entry.any_is_enough() {
            entry.conditions.iter().rev().fold(rest, |no, condition| condition.test(graph, then, no))
        } else {
            entry.conditions.iter().rev().fold(then, |yes, condition| condition.test(graph, yes, rest))
        };
        // Each decision is an instruction or more: no need to go on.
        if graph.len() > 2 * MAX_INSTRUCTIONS {
            return Err(TooLong(graph.len()));
        }
    }
    Ok(rest)
}

impl Condition {
    /// Asks both words of the argument.
    pub(super) fn test(self, graph: &mut Graph, yes: Node, no: Node) -> Node {
        let (low, high) = (Word::low(self.argument), Word::high(self.argument));
        let halves = |value: u64| (value as u32, (value >> 32) as u32);
        let mut ordered = |op: Op, value: u64, yes: Node, no: Node| {
            let (l, h) = halves(value);
            let tie = graph.test(low, op, l, yes, no);
            let not_above = graph.test(high, Op::Equal, h, tie, no);
            graph.test(high, Op::Greater, h, yes, not_above)
        };
        match self.compare {
            Compare::Greater(value) => ordered(Op::Greater, value, yes, no),
            Compare::AtLeast(value) => ordered(Op::AtLeast, value, yes, no),
            Compare::Less(value) => ordered(Op::AtLeast, value, no, yes),
            Compare::AtMost(value) => ordered(Op::Greater, value, no, yes),
            Compare::Equal(value) => Self::both(graph, (low, high), (u32::MAX, u32::MAX), halves(value), yes, no),
            Compare::NotEqual(value) => Self::both(graph, (low, high), (u32::MAX, u32::MAX), halves(value), no, yes),
            Compare::Masked { mask, value } => Self::both(graph, (low, high), halves(mask), halves(value), yes, no),
        }
    }

    fn both(graph: &mut Graph, words: (Word, Word), masks: (u32, u32), values: (u32, u32), yes: Node, no: Node) -> Node {
        let yes = Self::half(graph, words.1, masks.1, values.1, yes, no);
        Self::half(graph, words.0, masks.0, values.0, yes, no)
    }

    fn half(graph: &mut Graph, word: Word, mask: u32, value: u32, yes: Node, no: Node) -> Node {
        match (mask, value) {
            _ if value & !mask != 0 => no,
            (0, _) => yes,
            (u32::MAX, _) => graph.test(word, Op::Equal, value, yes, no),
            (_, 0) => graph.test(word, Op::AnyBit, mask, no, yes),
            _ => graph.masked(word, mask, Op::Equal, value, yes, no),
        }
    }
}

/// A JSON value, as these profiles have them: no fractions, no negative numbers, no key twice.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, a list, a string, null, or a whole number that is not negative")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        // No object of the format has more keys than this, which keeps the search for doubles short.
        const KEYS: usize = 32;
        let mut object: Vec<(String, Json)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            if object.iter().any(|(known, _)| *known == key) {
                return Err(de::Error::custom(format_args!("the key {key:?} stands twice")));
            }
            if object.len() == KEYS {
                return Err(de::Error::custom(format_args!("an object with more than {KEYS} keys")));
            }
            object.push((key, value));
        }
        Ok(Json::Object(object))
    }
}

/// A value and the way to it.
struct At<'a> {
    key: String,
    json: &'a Json,
}

impl<'a> At<'a> {
    fn fault(&self, why: &str) -> OciError {
        OciError::Key { key: if self.key.is_empty() { "profile".into() } else { self.key.clone() }, why: why.into() }
    }

    /// A member that is there and not null.
    fn get(&self, name: &str) -> Option<At<'a>> {
        let Json::Object(members) = self.json else { return None };
        let (_, json) = members.iter().find(|(key, json)| key == name && *json != Json::Null)?;
        Some(At { key: if self.key.is_empty() { name.into() } else { format!("{}.{name}", self.key) }, json })
    }

    /// Is an object, and has no other members than these.
    fn only(&self, names: &[&str]) -> Result<(), OciError> {
        let Json::Object(members) = self.json else { return Err(self.fault("not an object")) };
        match members.iter().find(|(key, _)| !names.contains(&key.as_str())) {
            Some((key, _)) => Err(self.fault(&format!("the key {key:?} is unknown; known are {}", names.join(", ")))),
            None => Ok(()),
        }
    }

    /// The elements of a member; none if it is absent or null.
    fn list(&self, name: &str) -> Result<Vec<At<'a>>, OciError> {
        let Some(at) = self.get(name) else { return Ok(Vec::new()) };
        let Json::List(list) = at.json else { return Err(at.fault("not a list")) };
        Ok(list.iter().enumerate().map(|(i, json)| At { key: format!("{}[{i}]", at.key), json }).collect())
    }

    fn text(&self) -> Result<&'a str, OciError> {
        match self.json {
            Json::Text(text) => Ok(text),
            _ => Err(self.fault("not a string")),
        }
    }

    fn number(&self) -> Result<u64, OciError> {
        match self.json {
            Json::Number(number) => Ok(*number),
            _ => Err(self.fault("not a whole number")),
        }
    }
}
