//! What was asked for and what was got: two values, both reported. Reads plan and outcome; knows nothing else.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, fstat, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, write};
use rustix::process::geteuid;
use rustix::time::Timespec;
use serde::Serialize;
use serde_json::{Value, json};

use crate::host::Host;
use crate::plan::{Degraded, Plan, Step, scoped};
use crate::profile::{Capability, Profile};
use crate::supervise::{End, Got, Outcome, Usage};

/// Version of the report's form; a reader refuses one that it does not know.
const SCHEMA: u32 = 1;

/// The report of one run.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    /// Absent where none was found.
    profile: Option<&'a str>,
    /// Present only if the payload ran.
    exit: Option<Exit>,
    /// Present only if it did not.
    failed: Option<Failed>,
    protections: Vec<Protection>,
    /// Present only if there was a cgroup to read it from.
    usage: Option<Usage>,
    degraded: &'a [Degraded],
    /// Steps that found less than they asked for, and went on.
    missed: Vec<Failed>,
    /// Groups of the caller that stay effective on bind mounts under the single map.
    groups: Vec<u32>,
    notes: &'a [String],
    steps: &'a [Step],
}

#[derive(Debug, Serialize)]
struct Exit {
    code: Option<i32>,
    signal: Option<i32>,
    by: &'static str,
}

#[derive(Debug, Serialize)]
struct Failed {
    /// Absent where it failed before there was a plan.
    step: Option<u32>,
    what: String,
    errno: Option<i32>,
    cause: Option<String>,
}

/// A protection, what was asked of it, and what is there.
#[derive(Debug, Serialize)]
struct Protection {
    name: &'static str,
    asked: Value,
    got: Value,
}

impl<'a> Report<'a> {
    pub fn new(profile: &'a Profile, plan: &'a Plan, outcome: &Outcome, limits: Option<&Limits>, host: &Host) -> Self {
        let failed = |step: u32, errno: rustix::io::Errno| Failed {
            step: Some(step),
            what: plan.steps.get(step as usize).map(ToString::to_string).unwrap_or_default(),
            errno: Some(errno.raw_os_error()),
            cause: Some(errno.to_string()),
        };
        let exit = |code, signal, by| Some(Exit { code, signal, by });
        let (exit, end_failed) = match &outcome.end {
            End::Exited(code) => (exit(Some(*code), None, "payload"), None),
            End::Signaled(signal) => (exit(None, Some(*signal), "signal"), None),
            End::TimeLimit => (exit(None, None, "time limit"), None),
            End::Replaced(_) => (exit(None, None, "a guarded file was made or replaced while the sandbox ran"), None),
            End::MemoryLimit(Some(_)) => (exit(None, Some(9), "memory limit"), None),
            End::MemoryLimit(None) => (exit(None, Some(9), "want of memory"), None),
            End::CleanupKilled => (exit(None, Some(9), "killed with the caller's cgroup"), None),
            End::Lost => (exit(None, None, "killed from outside"), None),
            End::Failed { step, errno } => (None, Some(failed(*step, *errno))),
        };
        Self {
            schema: SCHEMA,
            profile: Some(&profile.name),
            exit,
            failed: end_failed,
            protections: protections(profile, plan, limits, host),
            usage: limits.map(|limits| limits.usage),
            degraded: &plan.degraded,
            missed: outcome.missed.iter().map(|(step, errno)| failed(*step, *errno)).collect(),
            groups: supplementary_groups(plan),
            notes: &plan.notes,
            steps: &plan.steps,
        }
    }

    /// Of a run that came to nothing before its plan could be carried out.
    pub fn failed(what: String, errno: Option<i32>) -> Self {
        let cause = errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string());
        Self {
            schema: SCHEMA,
            profile: None,
            exit: None,
            failed: Some(Failed { step: None, what, errno, cause }),
            protections: Vec::new(),
            usage: None,
            degraded: &[],
            missed: Vec::new(),
            groups: Vec::new(),
            notes: &[],
            steps: &[],
        }
    }
}

/// Under the single map the kernel has no way to drop them.
fn supplementary_groups(plan: &Plan) -> Vec<u32> {
    let dropped = plan.steps.iter().any(|step| matches!(step, Step::SetGroups { .. }));
    if dropped {
        return Vec::new();
    }
    rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::process::Gid::as_raw).collect()
}

/// What came of the limits.
#[derive(Debug)]
pub struct Limits {
    pub got: Vec<Got>,
    pub usage: Usage,
}

/// Every limit that was asked for, in the words of the kernel, with what its file says; those that nothing holds are `null`, and what does not
/// hold beside one that does, on one of several mounts for one, is among its `missing`.
fn limits(profile: &Profile, plan: &Plan, limits: Option<&Limits>) -> Option<Protection> {
    let got = limits.map_or(&[][..], |limits| limits.got.as_slice());
    let had = got.iter().filter(|got| got.held).filter_map(|got| Some((&got.setting, got.value.as_ref().ok()?)));
    let mut all: serde_json::Map<String, Value> =
        had.map(|(setting, value)| (setting.file.to_owned(), json!({ "asked": setting.value, "got": value }))).collect();
    let missed = plan.degraded.iter().filter(|one| one.what == "cgroup");
    for (one, (file, asked)) in missed.filter_map(|one| Some((one, one.asked.split_once(" = ")?))) {
        let entry = all.entry(file).or_insert_with(|| json!({ "asked": asked, "got": null }));
        if let (false, Some(entry)) = (entry["got"].is_null(), entry.as_object_mut()) {
            let list = entry.entry("missing").or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.push(json!({ "asked": asked, "got": one.got })));
        }
    }
    (!all.is_empty()).then(|| Protection { name: "limits", asked: json!(profile.limits), got: Value::Object(all) })
}

fn protections(profile: &Profile, plan: &Plan, limited: Option<&Limits>, host: &Host) -> Vec<Protection> {
    let without_namespaces = plan.steps.iter().any(|step| matches!(step, Step::Clone { namespaces } if namespaces.is_empty()));
    let steps = plan.steps.iter().filter_map(|step| protection(step, profile, host, without_namespaces));
    steps.chain(limits(profile, plan, limited)).collect()
}

/// What a step asked for in the words of the profile, and what it came to: a step that could not do its part has ended the run, or is among
/// what was missed.
fn protection(step: &Step, profile: &Profile, host: &Host, without_namespaces: bool) -> Option<Protection> {
    let security = &profile.security;
    let (name, asked, got) = match step {
        Step::Clone { namespaces } if namespaces.is_empty() => {
            ("isolation", json!(profile.isolation), json!("Landlock and seccomp, no namespaces"))
        }
        Step::Clone { namespaces } => ("namespaces", json!(profile.isolation), json!(namespaces)),
        Step::EnterLandlock { abi, rules, .. } => {
            let scoped: &[&str] = if scoped(*abi).is_empty() { &[] } else { &["signal", "abstract-unix-socket"] };
            let got = json!({ "abi": abi, "kernel": host.landlock.ok(), "rules": rules.len(), "scoped": scoped });
            ("landlock", json!(security.landlock), got)
        }
        Step::InstallSeccomp { instructions, .. } => {
            ("seccomp", json!(security.seccomp), json!({ "mode": 2, "instructions": instructions }))
        }
        Step::DropCapabilities { keep, .. } if without_namespaces => {
            let got = json!({ "sets": names(keep), "bounding": "unchanged: no_new_privs alone keeps execve from giving any of it" });
            ("capabilities", json!(names(&security.caps)), got)
        }
        Step::DropCapabilities { keep, .. } => ("capabilities", json!(names(&security.caps)), json!(names(keep))),
        Step::NoNewPrivileges => ("no_new_privs", json!(true), json!(true)),
        Step::WriteIdMaps { uid, gid, .. } => ("id maps", json!(profile.identity.map), json!({ "uid": uid, "gid": gid })),
        Step::SetRlimits { rlimits } => ("rlimits", json!(profile.limits.ulimits), json!(rlimits)),
        _ => return None,
    };
    Some(Protection { name, asked, got })
}

fn names(capabilities: &[Capability]) -> Vec<&'static str> {
    capabilities.iter().map(|capability| capability.name()).collect()
}

/// Where a report goes, settled before the payload could put anything else there.
pub struct Destination {
    to: To,
    written: Cell<bool>,
}

enum To {
    /// A file of this name in this directory, written beside it and renamed.
    Name { directory: OwnedFd, name: OsString },
    /// A pipe or a device, opened without waiting.
    Stream(OwnedFd),
    /// What the caller has opened, and may wait for it.
    Descriptor(OwnedFd),
}

#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// A pipe without a reader would be waited for, by a process that no signal reaches.
    #[error("nobody reads from this pipe")]
    NobodyReads { source: Errno },
    /// Who has made it could hold the run up, or read what was run.
    #[error("this pipe belongs to another user, {uid}")]
    OfAnother { uid: u32 },
    #[error(transparent)]
    Open(#[from] Errno),
}

impl Destination {
    /// `-` and the names of `/dev` for a descriptor stand for that descriptor.
    ///
    /// # Errors
    /// Those of open(2) and access(2) on the directory; `EISDIR` for a directory, `EINVAL` where the path names no file; a pipe by its name
    /// that nobody reads from, or that is not the caller's own.
    pub fn open(path: &Path) -> Result<Self, DestinationError> {
        if let Some(fd) = descriptor(path) {
            return Ok(Self::to(duplicate(fd)?));
        }
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty())?;
        let found = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match found {
            Ok(FileType::Directory) => return Err(Errno::ISDIR.into()),
            Ok(FileType::Fifo | FileType::CharacterDevice) => return Ok(Self::to(To::Stream(open_stream(&directory, &name)?))),
            _ => {}
        }
        accessat(&directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
        Ok(Self::to(To::Name { directory, name }))
    }

    fn to(to: To) -> Self {
        Self { to, written: Cell::new(false) }
    }

    /// Whether a report has gone there.
    pub fn is_written(&self) -> bool {
        self.written.get()
    }

    /// Writes the report. A file is readable for the caller alone, and what is there by its name is replaced, never followed.
    ///
    /// # Errors
    /// Those of open(2), write(2) and rename(2).
    pub fn write(&self, report: &Report<'_>) -> std::io::Result<()> {
        self.written.set(true);
        let mut text = serde_json::to_string_pretty(report)?;
        text.push('\n');
        match &self.to {
            To::Name { directory, name } => replace(directory, name, &text),
            To::Stream(fd) => Ok(write_in_time(fd, text.as_bytes())?),
            To::Descriptor(fd) => std::fs::File::from(fd.try_clone()?).write_all(text.as_bytes()),
        }
    }
}

/// The descriptor that a path stands for by its words alone.
fn descriptor(path: &Path) -> Option<i32> {
    match path.to_str()? {
        "-" | "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        text => text.strip_prefix("/dev/fd/").or_else(|| text.strip_prefix("/proc/self/fd/"))?.parse().ok(),
    }
}

fn duplicate(fd: i32) -> Result<To, DestinationError> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(To::Descriptor);
    let own = match fd {
        0 => own(std::io::stdin().as_fd()),
        1 => own(std::io::stdout().as_fd()),
        2 => own(std::io::stderr().as_fd()),
        // A pipe is opened once more, as a shell's own redirection to this path would.
        _ => {
            let path = format!("/proc/self/fd/{fd}");
            return match open_when_read(|| openat(CWD, &path, STREAM, Mode::empty())) {
                Ok(opened) => Ok(To::Stream(opened)),
                Err(errno) => Err(unread(errno, statat(CWD, &path, AtFlags::empty()))),
            };
        }
    };
    Ok(own.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?)
}

/// Neither opening nor writing waits: the pipe may be one that another user, or the payload of an earlier run, has put there.
const STREAM: OFlags = OFlags::WRONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn open_stream(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, DestinationError> {
    let fd = open_when_read(|| openat(directory, name, STREAM | OFlags::NOFOLLOW, Mode::empty()))
        .map_err(|errno| unread(errno, statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)))?;
    let found = fstat(&fd)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo if found.st_uid != geteuid().as_raw() => Err(DestinationError::OfAnother { uid: found.st_uid }),
        FileType::Fifo | FileType::CharacterDevice => Ok(fd),
        // Somebody has put another file there meanwhile.
        _ => Err(Errno::STALE.into()),
    }
}

/// A reader that was started together with this run, `cat PIPE & hamper run ...`, may come a moment later.
fn open_when_read(open: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match open() {
            Err(Errno::NXIO) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn unread(errno: Errno, found: Result<Stat, Errno>) -> DestinationError {
    let pipe = found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if pipe && errno == Errno::NXIO { DestinationError::NobodyReads { source: errno } } else { errno.into() }
}

/// So long a reader may let the report wait: no signal reaches this process by then.
const PATIENCE: Duration = Duration::from_secs(5);

fn write_in_time(fd: &OwnedFd, mut text: &[u8]) -> Result<(), Errno> {
    let deadline = Instant::now() + PATIENCE;
    while !text.is_empty() {
        match write(fd, text) {
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
                if poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&left))? == 0 {
                    return Err(Errno::TIMEDOUT);
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn replace(directory: &OwnedFd, name: &OsStr, text: &str) -> std::io::Result<()> {
    let mut temporary = OsString::from(format!(".hamper-report-{}-", std::process::id()));
    temporary.push(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(directory, &temporary, flags, Mode::from_raw_mode(0o600))?);
    let written = file.write_all(text.as_bytes()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let done = written.and_then(|()| renameat(directory, &temporary, directory, name));
    if done.is_err() {
        // Ignoring: the first failure is told.
        let _ = unlinkat(directory, &temporary, AtFlags::empty());
    }
    Ok(done?)
}
