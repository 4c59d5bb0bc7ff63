//! Where a cgroup that is ours to divide can come from. Looked for only where a profile sets limits.

use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, accessat, getxattr, openat, statfs, statvfs};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, getpid, getrlimit};
use serde::Serialize;

use super::disks::Disks;
use super::probe::{Units, errno_name, in_files};
use crate::sys;

/// Where systemd and everybody else mounts cgroups.
pub(super) const MOUNT: &str = "/sys/fs/cgroup";

/// statfs(2) of a cgroup2 file system.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// A controller of cgroup v2 that limits of a profile need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    Cpu,
    Cpuset,
    Io,
    Memory,
    Pids,
}

impl Controller {
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cpuset, Self::Io, Self::Memory, Self::Pids];

    /// As `cgroup.controllers` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Which versions of cgroups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hierarchy {
    Unified,
    /// Version 2 at `unified`, beside version 1.
    Hybrid,
    Legacy,
    None,
}

impl Hierarchy {
    pub fn find() -> Self {
        let unified = |path: &str| statfs(path).is_ok_and(|statistics| statistics.f_type as u64 == CGROUP2_MAGIC);
        if unified(MOUNT) {
            Self::Unified
        } else if unified("/sys/fs/cgroup/unified") {
            Self::Hybrid
        } else if memberships().is_some_and(|text| text.lines().any(|line| !line.starts_with("0::"))) {
            Self::Legacy
        } else {
            Self::None
        }
    }

    /// Where version 2 is mounted.
    pub fn mount(self) -> Option<&'static Path> {
        match self {
            Self::Unified => Some(Path::new(MOUNT)),
            Self::Hybrid => Some(Path::new("/sys/fs/cgroup/unified")),
            Self::Legacy | Self::None => None,
        }
    }
}

/// Where the cgroup of a sandbox is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Place {
    /// This process alone stands in it, and it is delegated.
    Own { directory: PathBuf },
    /// Above the cgroup that this process stands in; nothing stands in it itself.
    Above { directory: PathBuf },
    /// The user's service manager makes one; the directory is where version 2 is mounted.
    Manager { mount: PathBuf, socket: PathBuf, bus: bool },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own { directory } => write!(f, "in our own, {}", directory.display()),
            Self::Above { directory } => write!(f, "in {}", directory.display()),
            Self::Manager { socket, .. } => write!(f, "in the scope hamper.scope of the service manager at {}", socket.display()),
        }
    }
}

/// Why there is no place for a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlace {
    pub why: String,
    pub cause: Cause,
}

/// What keeps this process from a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody has delegated one, and there is no service manager that could.
    Nobody,
    /// The cgroup above our own, or that itself, which limits or confines what is in it: a scope of the service manager would leave that.
    KeptBy(PathBuf),
    /// Namespaces or mounts that hamper was started in.
    Surroundings,
}

impl<T: Into<String>> From<T> for NoPlace {
    fn from(why: T) -> Self {
        Self { why: why.into(), cause: Cause::Nobody }
    }
}

/// What a start that came to nothing has found out about cgroups, for the next one.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Why none could be made.
    pub none: Option<String>,
    /// What there is, of which one was made.
    pub delegation: Option<Delegation>,
}

/// A delegated cgroup, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    pub place: Result<Place, NoPlace>,
    /// What can be enabled there, sorted.
    pub controllers: Vec<Controller>,
    /// What was to be there, and was not when it was tried, and why.
    pub withheld: Vec<(Controller, String)>,
    /// Whether a cgroup of the sandbox is there already.
    pub made: bool,
    /// What processes of this user may be given at the most in place of a controller that is not there: hard limits of this process, by which
    /// bytes of data and processes are bound.
    pub data: Option<u64>,
    pub processes: Option<u64>,
    /// The processors that this process may run on, another one first each time; looked for where they stand in for a controller.
    pub processors: Vec<u32>,
    /// Whether weights divide each disk that the sandbox's files are on; looked for where they are wanted.
    pub weighs_disks: bool,
}

/// For each disk whether weights divide it, at the root alone (the kernel's cgroup-v2 document, "io.cost.qos").
const COST_MODELS: &str = "/sys/fs/cgroup/io.cost.qos";

fn weighs(disks: &Disks, models: &str) -> bool {
    let weighed = |(major, minor): &(u32, u32)| {
        let number = format!("{major}:{minor}");
        models.lines().any(|line| line.split(' ').next() == Some(&number) && line.split(' ').any(|word| word == "enable=1"))
    };
    !disks.numbers.is_empty() && disks.numbers.iter().all(weighed)
}

impl Delegation {
    /// Looks at the cgroup that this process stands in, at those above it, and for a service manager; in this order.
    ///
    /// Other processes are never moved, and a cgroup that a service manager keeps for itself is not touched even where it could be written:
    /// `user.delegate` tells those that are delegated (systemd's CGROUP_DELEGATION document). `of_processors`: the controllers that are
    /// wanted, and for which an affinity stands in.
    pub fn find(of_processors: &[Controller], weighed: Option<&Disks>, learned: &Learned) -> Self {
        if let Some(delegation) = &learned.delegation {
            return delegation.clone();
        }
        let found = learned.none.as_ref().map_or_else(find, |why| Err(why.as_str().into()));
        let (place, controllers) = found.map_or_else(|no| (Err(no), Vec::new()), |(place, controllers)| (Ok(place), controllers));
        let held = of_processors.iter().all(|wanted| controllers.contains(wanted));
        let weighs_disks = weighed.is_some_and(|disks| std::fs::read_to_string(COST_MODELS).is_ok_and(|text| weighs(disks, &text)));
        let processors = if held { Vec::new() } else { processors() };
        let mut found =
            Self { place, controllers, withheld: Vec::new(), made: false, data: None, processes: None, processors, weighs_disks };
        found.look_for_bounds();
        found
    }

    /// What is left of it where a cgroup that was made there had not got these, for the reasons that go with them.
    pub fn without(mut self, withheld: Vec<(Controller, String)>) -> Self {
        self.controllers.retain(|controller| withheld.iter().all(|(other, _)| other != controller));
        (self.withheld, self.made, self.processors) = (withheld, true, processors());
        self.look_for_bounds();
        self
    }

    fn look_for_bounds(&mut self) {
        let bound = |controller, resource| {
            if self.controllers.contains(&controller) { None } else { getrlimit(resource).maximum }
        };
        (self.data, self.processes) = (bound(Controller::Memory, Resource::Data), bound(Controller::Pids, Resource::Nproc));
    }
}

fn find() -> Result<(Place, Vec<Controller>), NoPlace> {
    let own = own_cgroup().ok_or("this process stands in no cgroup of version 2")?;
    // Outside of the namespace's own root nothing is ours.
    let inside = !own.starts_with("/..") && !own.ends_with(" (deleted)");
    let below = |mount: &'static Path| direct(mount, &mount.join(own.trim_start_matches('/'))).filter(|_| inside);
    // Where version 1 is mounted, there is no such file at this place.
    if let Some(found) = below(Path::new(MOUNT)) {
        return Ok(found);
    }
    let hierarchy = Hierarchy::find();
    let Some(mount) = hierarchy.mount() else {
        return Err("this host has no cgroup version 2".into());
    };
    if let Some(found) = below(mount).filter(|_| hierarchy == Hierarchy::Hybrid) {
        return Ok(found);
    }
    if hierarchy != Hierarchy::Unified {
        // On newer kernels it has some: those that no longer are of version 1.
        let have = match controllers(mount).as_slice() {
            [] => "no controllers here: version 1 has them".to_owned(),
            some => {
                let names = some.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ");
                format!("only {names} here, delegated to nobody: version 1 has the others")
            }
        };
        return Err(format!("cgroup version 2 has {have}, which no ordinary user can be given").into());
    }
    let surroundings = |why| Err(NoPlace { why, cause: Cause::Surroundings });
    let manager = Manager::find();
    match manager.reached {
        Ok(()) if statvfs(mount).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY)) => {
            surroundings(format!("{} is read-only here, so that no cgroup can be made in it", mount.display()))
        }
        // It is told whom to move by a number, which there is another process's.
        Ok(()) if manager.in_other_namespace => {
            surroundings("this process is in a pid namespace in which the service manager is not, which would move another".into())
        }
        Ok(()) => {
            let service = manager.service();
            if let Some((path, limit)) = left_behind(mount, &own, &service.join("app.slice"), &LIMITS) {
                let why = format!("{own} has a limit of its own ({limit}), which a scope of the service manager would leave");
                return Err(NoPlace { why, cause: Cause::KeptBy(path) });
            }
            if let Some((path, rule)) = confinement_left(&own, &service, &manager.directory) {
                let unit = path.file_name().unwrap_or_default().to_string_lossy();
                let why = format!("{unit} confines what runs in it ({rule}), which a scope of the service manager would leave");
                return Err(NoPlace { why, cause: Cause::KeptBy(path) });
            }
            let controllers = controllers(&service);
            Ok((Place::Manager { mount: mount.into(), bus: manager.is_bus(), socket: manager.path() }, controllers))
        }
        Err(errno) => Err(format!(
            "{own} is not delegated to you, and no service manager answers at {} ({})",
            manager.path().display(),
            errno_name(errno)
        )
        .into()),
    }
}

/// Files that limit, and what they have where they do not. The first word counts: a quota has a period behind it.
const LIMITS: [(&str, &str); 10] = [
    ("memory.max", "max"),
    ("memory.high", "max"),
    ("memory.swap.max", "max"),
    ("memory.zswap.max", "max"),
    ("hugetlb.2MB.max", "max"),
    ("hugetlb.1GB.max", "max"),
    ("cpuset.cpus", ""),
    ("cpuset.mems", ""),
    ("io.max", ""),
    ("cpu.max", "max"),
];

/// A limit that managers set for every unit; what an admin has set is in the unit's files.
const OF_PROCESSES: (&str, &str) = ("pids.max", "max");

/// A limit that this process stands under, and would not in a cgroup below the other: the cgroup that has it, and `FILE = VALUE`.
fn left_behind(mount: &Path, own: &str, other: &Path, limits: &[(&str, &str)]) -> Option<(PathBuf, String)> {
    let own = mount.join(own.trim_start_matches('/'));
    let left = own.ancestors().take(MAX_DEPTH).take_while(|path| path.starts_with(mount) && !other.starts_with(path));
    left.flat_map(|path| {
        let limit = |(file, none): &(&str, &str)| {
            // However long: the limits of many disks are limits.
            let (value, _) = beginning(&path.join(file), OFlags::RDONLY)?;
            let value = value.lines().next().unwrap_or_default();
            (value.split_whitespace().next().unwrap_or_default() != *none).then(|| (path.to_owned(), format!("{file} = {value}")))
        };
        limits.iter().filter_map(limit).collect::<Vec<_>>()
    })
    .next()
}

/// What a unit does to its cgroup by other means than limits, of which the scope's manager knows nothing, or by a limit that managers set for every
/// other: the unit's cgroup and the assignment. Of all units that the process stands in, and would not in one below the manager's `service`.
fn confinement_left(own: &str, service: &Path, runtime: &Path) -> Option<(PathBuf, String)> {
    const KEYS: [&str; 12] = [
        "IPAddressDeny",
        "DevicePolicy",
        "DeviceAllow",
        "PrivateDevices",
        "ProtectClock",
        "RestrictNetworkInterfaces",
        "RestrictFileSystems",
        "SocketBindDeny",
        "IPIngressFilterPath",
        "IPEgressFilterPath",
        "BPFProgram",
        "TasksMax",
    ];
    const NO: [&str; 7] = ["", "auto", "no", "false", "0", "off", "infinity"];
    let (mount, other) = (Path::new(MOUNT), service.join("app.slice"));
    let own = mount.join(own.trim_start_matches('/'));
    let mut left: Vec<&Path> = own.ancestors().take_while(|path| *path != mount && !other.starts_with(path)).collect();
    left.reverse();
    left.into_iter().take(MAX_DEPTH).find_map(|path| {
        let unit = path.file_name()?.to_str()?;
        let units = if path.starts_with(service) { Units::of_user(runtime) } else { Units::of_system(Path::new("/")) };
        let names = configured_as(unit);
        let files = units.files(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let set = |key: &&str| {
            let last = in_files(&files, key).pop()?;
            (!NO.contains(&last.value.as_str())).then(|| (path.to_owned(), format!("{key}={}", last.value)))
        };
        KEYS.iter().find_map(set)
    })
}

/// Names under which a unit is configured, the most general first: with all of its type, with those of whose names its own is a longer one, and an
/// instance with all of its kind (systemd.unit(5)).
fn configured_as(unit: &str) -> Vec<String> {
    let Some((name, kind)) = unit.rsplit_once('.') else { return vec![unit.to_owned()] };
    let longer =
        name.split_once('@').map_or(name, |(template, _)| template).match_indices('-').map(|(at, _)| format!("{}.{kind}", &name[..=at]));
    let instance = name.split_once('@').map(|(template, _)| format!("{template}@.{kind}"));
    [kind.to_owned()].into_iter().chain(longer).chain(instance).chain([unit.to_owned()]).collect()
}

/// A limit that this process stands under, and that does not hold in a cgroup that is made there.
pub fn limit_left(place: &Place) -> Option<String> {
    let Place::Above { directory } = place else { return None };
    let all: Vec<_> = LIMITS.into_iter().chain([OF_PROCESSES]).collect();
    left_behind(Hierarchy::find().mount()?, &own_cgroup()?, directory, &all).map(|(_, limit)| limit)
}

/// Why a share of the processors would not hold what is started from here: shares bind threads of the fair class alone (sched(7)). `most`: the
/// rlimit that it starts with, where it is not this process's.
pub fn unbound_by_shares(most: Option<u64>) -> Option<String> {
    if sys::is_real_time() {
        return Some("no limit: hamper was started in a real-time class, and so is what it starts: chrt --other 0 hamper ...".into());
    }
    let most = most.or_else(|| getrlimit(Resource::Rtprio).maximum);
    (most != Some(0)).then(|| {
        let most = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
        format!(
            "no limit for threads that take a real-time class, as RLIMIT_RTPRIO lets them ({most}): [limits] ulimits = {{ rtprio = 0 }}"
        )
    })
}

/// Whether this process may write what ends or freezes all that stand in its own cgroup: as in the scopes of a user's own service manager.
pub fn can_end_own_cgroup() -> bool {
    let path = |mount: &Path, own: &str| mount.join(own.trim_start_matches('/')).join("cgroup.procs");
    let own = Hierarchy::find().mount().zip(own_cgroup());
    own.is_some_and(|(mount, own)| accessat(CWD, path(mount, &own), Access::WRITE_OK, AtFlags::empty()).is_ok())
}

/// What stands open without asking anybody.
fn direct(mount: &Path, own: &Path) -> Option<(Place, Vec<Controller>)> {
    // We stand in our own: whoever is alone there is this process.
    if delegated(mount, own).is_some_and(|processes| processes.lines().count() == 1) {
        return Some((Place::Own { directory: own.to_owned() }, controllers(own)));
    }
    let above = own.ancestors().skip(1).take_while(|path| path.starts_with(mount));
    let directory = above.take(MAX_DEPTH).find(|path| delegated(mount, path).is_some_and(|processes| processes.is_empty()))?;
    Some((Place::Above { directory: directory.to_owned() }, controllers(directory)))
}

/// Cgroups above our own that are looked at.
const MAX_DEPTH: usize = 16;

/// The processes that stand in a cgroup, one a line, where it may be divided: its files can be written, and no service manager has it for
/// itself. `None` also where they are many.
fn delegated(mount: &Path, directory: &Path) -> Option<String> {
    // Who may write that may write the others: whoever delegates gives all of them (the kernel's cgroup-v2 document, "Delegation").
    let processes = read(&directory.join("cgroup.procs"), OFlags::RDWR)?;
    is_ours(mount, directory).then_some(processes)
}

fn is_ours(mount: &Path, directory: &Path) -> bool {
    let managed = |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("user@"));
    let mut below = directory.ancestors().take_while(|path| path.starts_with(mount));
    match directory.ancestors().find(managed) {
        // Not the manager's own cgroup, which is delegated to it and not to us.
        Some(manager) => below.by_ref().take_while(|path| *path != manager).any(says_delegated),
        // What an ordinary user can write is so by somebody's will, and so is what root finds at the root of its container, if no service
        // manager has that for itself (sd_booted(3)).
        None => {
            let container = directory == mount && !Path::new("/run/systemd/system").is_dir();
            container || sys::ids_at_start().uid != 0 || says_delegated(directory)
        }
    }
}

fn says_delegated(directory: &Path) -> bool {
    let mut value = [0u8; 4];
    getxattr(directory, "user.delegate", &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
}

pub(super) fn controllers(directory: &Path) -> Vec<Controller> {
    let text = read(&directory.join("cgroup.controllers"), OFlags::RDONLY).unwrap_or_default();
    let has = |controller: &Controller| text.split_whitespace().any(|name| name == controller.name());
    Controller::ALL.into_iter().filter(has).collect()
}

fn memberships() -> Option<String> {
    read(Path::new("/proc/self/cgroup"), OFlags::RDONLY)
}

/// The path of version 2 in `/proc/PID/cgroup`, cgroups(7).
pub fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The cgroup of version 2 that this process stands in.
pub fn own_cgroup() -> Option<String> {
    memberships().as_deref().and_then(own_path).map(str::to_owned)
}

/// A small file of the kernel, which gives it in one piece; what is longer counts as not there.
fn read(path: &Path, access: OFlags) -> Option<String> {
    beginning(path, access).and_then(|(text, whole)| whole.then_some(text))
}

/// What a file begins with, and whether that is all of it.
fn beginning(path: &Path, access: OFlags) -> Option<(String, bool)> {
    let fd = sys::keep_open(openat(CWD, path, access | OFlags::CLOEXEC, Mode::empty()).ok()?);
    let mut bytes = [0; 4096];
    let length = rustix::io::read(fd, &mut bytes).ok()?;
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    Some((text.to_owned(), length < bytes.len()))
}

fn processors() -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let mut processors: Vec<u32> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).map(|cpu| cpu as u32).collect();
    // Sandboxes of one processor each shall not all meet on the first.
    let turn = getpid().as_raw_nonzero().get().unsigned_abs() as usize % processors.len().max(1);
    processors.rotate_left(turn);
    processors
}

/// How long a service manager that is well may take for one connection.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Connects to a socket; one whose listener takes nobody on is given up.
///
/// # Errors
/// Those of connect(2): `EAGAIN` where the time is over.
pub fn connect_within(path: &Path, time: Duration) -> Result<UnixStream, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Also the time of connect(2), where the listener's queue is full: socket(7), SO_SNDTIMEO.
    set_socket_timeout(&socket, Timeout::Send, Some(time))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The user's own service manager.
pub(super) struct Manager {
    directory: PathBuf,
    /// Whether the directory is that of the environment.
    pub by_environment: bool,
    /// Whether one of its sockets takes a connection, and which; or why not.
    pub reached: Result<(), Errno>,
    /// Whether it has no number in our pid namespace, and so we have another in its own.
    in_other_namespace: bool,
    socket: &'static str,
}

impl Manager {
    /// systemd's own socket, which systemctl takes as well and which needs no bus, and that of the bus.
    const SOCKETS: [&'static str; 2] = ["systemd/private", "bus"];

    /// `$XDG_RUNTIME_DIR`, or where that would be: cron and su set none while the manager runs.
    pub fn find() -> Self {
        let environment = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let by_environment = environment.is_some();
        let usual = PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
        let at = |directory, by_environment| Self {
            directory,
            by_environment,
            reached: Err(Errno::NOENT),
            in_other_namespace: false,
            socket: "bus",
        };
        let mut found = at(environment.unwrap_or_else(|| usual.clone()), by_environment);
        if found.connect().is_err() && found.directory != usual {
            let mut other = at(usual, false);
            if other.connect().is_ok() {
                return other;
            }
        }
        found
    }

    fn connect(&mut self) -> Result<(), Errno> {
        for name in Self::SOCKETS {
            self.socket = name;
            let connection = self.owned().and_then(|()| connect_within(&self.path(), ANSWERS_WITHIN));
            self.reached = connection.as_ref().map(drop).map_err(|errno| *errno);
            if let Ok(connection) = connection {
                // unix(7), SO_PEERCRED: who listens, which is the manager for the bus as well; 0 is nobody whom we could name.
                self.in_other_namespace = getsockopt(&connection, PeerCredentials).is_ok_and(|peer| peer.pid() == 0);
                break;
            }
        }
        self.reached
    }

    /// Another user's manager is not asked for anything.
    fn owned(&self) -> Result<(), Errno> {
        let metadata = self.directory.metadata().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if metadata.st_uid() == rustix::process::getuid().as_raw() { Ok(()) } else { Err(Errno::ACCESS) }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join(self.socket)
    }

    fn is_bus(&self) -> bool {
        self.socket == "bus"
    }

    /// Its cgroup, which says what it can pass on.
    pub fn service(&self) -> PathBuf {
        let uid = rustix::process::getuid().as_raw();
        PathBuf::from(format!("{MOUNT}/user.slice/user-{uid}.slice/user@{uid}.service"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_version_two() {
        assert_eq!(own_path("4:memory:/x\n0::/user.slice/a b.scope\n"), Some("/user.slice/a b.scope"));
        assert_eq!(own_path("4:memory:/x\n"), None);
    }

    #[test]
    fn limits_that_would_be_left() {
        let mount = std::env::temp_dir().join(format!("hamper-left-{}", std::process::id()));
        let own = mount.join("slice/unit");
        std::fs::create_dir_all(&own).expect("directories");
        let left = |file: &str, text: &str| {
            std::fs::write(own.join(file), text).expect("a file");
            let left = left_behind(&mount, "/slice/unit", &mount.join("slice/other"), &LIMITS);
            std::fs::remove_file(own.join(file)).expect("a file");
            left.map(|(path, limit)| (path == own).then_some(limit).expect("its own"))
        };
        // Of more disks than are read.
        let disks: String = (0..256).map(|number| format!("8:{number} rbps=1048576 wbps=max riops=max wiops=max\n")).collect();
        let found = [("io.max", &*disks), ("cpuset.mems", "0\n"), ("cpuset.mems", "\n"), ("memory.max", "max\n"), ("pids.max", "7\n")];
        let found = found.map(|(file, text)| left(file, text));
        std::fs::remove_dir_all(&mount).expect("directories");
        let first = Some("io.max = 8:0 rbps=1048576 wbps=max riops=max wiops=max".to_owned());
        assert_eq!(found, [first, Some("cpuset.mems = 0".to_owned()), None, None, None]);
    }

    #[test]
    fn names_under_which_a_unit_is_configured() {
        assert_eq!(configured_as("cron.service"), ["service", "cron.service"]);
        assert_eq!(configured_as("a-b@c-d.service"), ["service", "a-.service", "a-b@.service", "a-b@c-d.service"]);
        assert_eq!(configured_as("init"), ["init"]);
    }

    #[test]
    fn weights_divide_where_each_disk_has_a_model() {
        let disks = |numbers: &[(u32, u32)]| Disks { numbers: numbers.to_vec(), ..Disks::default() };
        let models = "8:0 enable=1 ctrl=auto\n8:16 enable=0 ctrl=auto\n";
        assert!(weighs(&disks(&[(8, 0)]), models));
        assert!(!weighs(&disks(&[(8, 0), (8, 16)]), models) && !weighs(&disks(&[(8, 1)]), models) && !weighs(&disks(&[]), models));
    }

    #[test]
    fn a_cgroup_that_a_manager_keeps_is_not_ours() {
        // Not writable here, whatever it says; what is tried on a real host is in the tests of the virtual machine.
        assert!(!is_ours(Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/user.slice/user-0.slice/user@0.service/app.slice")));
    }
}
