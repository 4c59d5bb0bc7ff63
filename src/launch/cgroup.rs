//! The cgroup of one sandbox: made before clone, read at the end, removed always.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, chmod, mkdir, mkdirat, openat};
use rustix::io::{Errno, pread, read, write};
use rustix::process::Pid;

use super::removal::{DIRECTORY, Home, MAX_DEPTH, MAX_DESCENDANTS, PREFIX, Removal, end_and_remove_at, remove_left, sweep};
use super::scope::{self, PARENTS, ScopeError, UNIT};
use crate::host::{Controller, Place, own_cgroup};
use crate::plan::{BETWEEN_DISKS, Setting, in_list};
use crate::sys::{Cleanup, HeldSignals, cleanup_has_ended, keep_open, own_pid, spawn_cleanup};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot {act} {}", path.display())]
    Act { act: &'static str, path: PathBuf, source: Errno },
    #[error("cannot have a scope from the service manager")]
    Scope(#[from] ScopeError),
    #[error("this process was moved to no cgroup that it can see")]
    Nowhere,
    #[error("a process of this run was killed in the cgroup that the run was started in, as all is there when a service stops")]
    CleanupKilled,
}

impl CgroupError {
    /// Whether the manager has moved this process all the same, and nothing would end it with the cgroup that it was started in.
    pub fn has_moved_us(&self, place: &Place) -> bool {
        matches!(place, Place::Manager { .. }) && own_cgroup().is_some_and(|own| own.contains(&format!("/{UNIT}")))
    }
}

/// A setting that was written, and what the kernel says of it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub setting: Setting,
    pub value: Result<String, Missing>,
    /// Whether it is what was asked for.
    pub held: bool,
}

/// Why a setting has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    Refused(Errno),
    /// The cgroup has not got the controller; what the kernel said where it was to be passed on, if that was an error.
    Controller(Option<Errno>),
    /// The controller is there, and this kernel has no such file.
    File,
}

/// What a sandbox has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Bytes at the most; absent before Linux 5.19.
    pub memory_peak: Option<u64>,
    /// Times that what it may have was not enough; where it is what all may have, they count there.
    pub memory_limit_hits: Option<u64>,
    /// Processes that the kernel has killed for want of memory.
    pub memory_oom_kills: Option<u64>,
    pub cpu_usec: Option<u64>,
    /// Periods of `cpu.max` in which it was held back, and for how long.
    pub cpu_throttled_periods: Option<u64>,
    pub cpu_throttled_usec: Option<u64>,
    /// Processes at the most; absent before Linux 6.1.
    pub pids_peak: Option<u64>,
    /// Forks that `pids.max` has refused.
    pub pids_refused: Option<u64>,
}

/// A cgroup of this run's own. Dropping it ends what is in it and removes it; where this process is killed, another does that.
pub struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
    /// Below it, with nothing that limits: where the sandbox is born.
    inner: Option<OwnedFd>,
    enabled: Result<(), Errno>,
    end: End,
}

/// What is to be undone, and by whom in place of this process.
struct End {
    removal: &'static Removal,
    cleanup: Option<Cleanup>,
    removed: bool,
}

/// Names that are tried.
const MOST_NAMES: u32 = 16;

/// Where a process stays that has left its own cgroup to divide it; there is one at most, since it was alone.
const PARENT: &str = "hamper-parent";
const SANDBOX: &str = "hamper-sandbox";

/// Where a payload stands that can make cgroup namespaces and mount in them: the kernel keeps it from the limits of the cgroup that is the
/// root of its namespace, and of no cgroup below, and the limits are above that root then.
const INNER: &str = "payload";

impl Cgroup {
    /// Makes a cgroup with these settings, and reads each back; `waits` is called where other runs keep this one waiting for long. All signals
    /// must be blocked by the caller, but where a manager is asked: that may take long, and end with who is impatient. When they are blocked then,
    /// the caller has to look whether [`cleanup_has_ended`]: its signal may have come before.
    ///
    /// # Errors
    /// [`CgroupError`]: nothing has been left. A setting that the kernel refuses is no error: it is among what is returned.
    ///
    /// # References
    /// cgroups(7), the kernel's cgroup-v2 document; systemd's CGROUP_DELEGATION document
    pub fn make(place: &Place, settings: &[Setting], nested: bool, waits: impl FnOnce()) -> Result<(Self, Vec<Got>), CgroupError> {
        let mut cgroup = Self::with(place, &controllers(settings), waits)?;
        if nested {
            cgroup.inner = Some(cgroup.divide()?);
        }
        let got = settings.iter().map(|setting| cgroup.set(setting)).collect();
        Ok((cgroup, got))
    }

    /// Makes a cgroup with every controller that there is, says which it had, and removes it.
    ///
    /// # Errors
    /// [`CgroupError`]: nothing has been left.
    pub fn try_out(place: &Place) -> Result<Vec<Controller>, CgroupError> {
        let cgroup = Self::with(place, &Controller::ALL, || ())?;
        let text = cgroup.read("cgroup.controllers").unwrap_or_default();
        let had = |controller: &Controller| text.split_whitespace().any(|name| name == controller.name());
        Ok(Controller::ALL.into_iter().filter(had).collect())
    }

    fn with(place: &Place, controllers: &[Controller], waits: impl FnOnce()) -> Result<Self, CgroupError> {
        let own = own_pid();
        let (base, enabled, end) = match place {
            Place::Above { directory } => {
                let end = End::begin(own, false, Removal::default(), directory)?;
                (directory.clone(), enable(directory, controllers), end)
            }
            Place::Own { directory } => {
                // A unit that is taken away whole takes this with it.
                let aside = (!is_taken_away_whole(directory)).then(|| directory.join(PARENT));
                let home = Home::new(directory, aside, &enabling(controllers, '-'));
                let end = End::begin(own, false, Removal::of_divided(home), directory)?;
                // Meanwhile the cleanup process comes apart; killed with its group until then, this one leaves an empty directory, which the next
                // run there takes over.
                step_aside(directory, PARENT, end.cleanup.as_ref().map(Cleanup::pid))?;
                (directory.clone(), enable(directory, controllers), end)
            }
            Place::Manager { mount, socket, bus } => {
                // It stays where we have come from: who stops a service, or ends a session, of which this run is a part, ends the run.
                let held = HeldSignals::all();
                let end = End::begin(own, true, Removal::default(), mount)?;
                drop(held);
                let made = scope(mount, socket, *bus, controllers, waits);
                // Whatever came of it: the caller's cgroup has come to its end meanwhile.
                if cleanup_has_ended() {
                    return Err(CgroupError::CleanupKilled);
                }
                let (base, enabled) = made?;
                (base, enabled, end)
            }
        };
        end.await_apart();
        let alone = end.removal.divides();
        // Alone in it there is no other run to be told from.
        let name = if alone { SANDBOX.to_owned() } else { format!("{PREFIX}{}", own.as_raw_nonzero()) };
        let mut path = base.join(&name);
        end.removal.is_intended(&path);
        let mut made = mkdir(&path, Mode::from_raw_mode(0o755));
        if made == Err(Errno::EXIST) && alone {
            // Of a killed run, with its limits, and with what its payload stood in. One that cannot be removed keeps its name, and nothing else.
            made = remove_left(&path).and_then(|()| mkdir(&path, Mode::from_raw_mode(0o755))).or(Err(Errno::EXIST));
        }
        for again in 1..MOST_NAMES {
            if made != Err(Errno::EXIST) {
                break;
            }
            // Of a killed run whose number has come round again, or of a run whose numbers are of another namespace.
            path = base.join(format!("{name}-{again}"));
            made = mkdir(&path, Mode::from_raw_mode(0o755));
        }
        let failed = |act, source| CgroupError::Act { act, path: path.clone(), source };
        made.map_err(|errno| failed("make the cgroup", errno))?;
        end.removal.is_made(&path);
        let directory = openat(CWD, &path, DIRECTORY, Mode::empty()).map_err(|errno| failed("open the cgroup", errno))?;
        Ok(Self { path, directory, inner: None, enabled, end })
    }

    fn divide(&self) -> Result<OwnedFd, CgroupError> {
        let failed = |act, source| CgroupError::Act { act, path: self.path.join(INNER), source };
        // What is made in it must be few enough to be removed again; the kernel counts from here, where the payload cannot write.
        for (file, most) in [("cgroup.max.depth", MAX_DEPTH), ("cgroup.max.descendants", MAX_DESCENDANTS)] {
            let written = openat(&self.directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|file| write(keep_open(file), most.to_string().as_bytes()));
            written.map_err(|errno| failed("bound what is made in the cgroup", errno))?;
        }
        mkdirat(&self.directory, INNER, Mode::from_raw_mode(0o755)).map_err(|errno| failed("make the cgroup", errno))?;
        openat(&self.directory, INNER, DIRECTORY, Mode::empty()).map_err(|errno| failed("open the cgroup", errno))
    }

    /// Has the kernel end all of it where it ends one process for want of memory; for a sandbox that is being set up, beside that.
    pub(super) fn kill_as_one(&self) -> Got {
        self.set(&Setting::killing_all())
    }

    /// For clone3(2).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.inner.as_ref().unwrap_or(&self.directory).as_fd()
    }

    fn set(&self, setting: &Setting) -> Got {
        let value = set(self.directory.as_fd(), setting).map_err(|errno| self.missing(setting.controller, errno));
        let value = value.map(|value| self.effective(setting).unwrap_or(value));
        let held = value.as_ref().is_ok_and(|got| holds(setting, got));
        Got { setting: setting.clone(), value, held }
    }

    /// What counts in place of what is in the file: a list of processors that the cgroups above do not have gives all that they have.
    fn effective(&self, setting: &Setting) -> Option<String> {
        if setting.file != "cpuset.cpus" {
            return None;
        }
        let list = self.read("cpuset.cpus.effective").unwrap_or_default().trim().to_owned();
        (!is_within(&list, &setting.value)).then_some(list)
    }

    fn missing(&self, controller: Controller, errno: Errno) -> Missing {
        let has = |text: String| text.split_whitespace().any(|name| name == controller.name());
        match errno {
            Errno::NOENT if self.read("cgroup.controllers").is_some_and(has) => Missing::File,
            Errno::NOENT => Missing::Controller(self.enabled.err()),
            errno => Missing::Refused(errno),
        }
    }

    /// What was used until now; a controller that is not there has no figures.
    pub fn usage(&self) -> Usage {
        let number = |name| self.read(name)?.trim().parse().ok();
        let (memory, cpu, pids) = (self.read("memory.events"), self.read("cpu.stat"), self.read("pids.events"));
        Usage {
            memory_peak: number("memory.peak"),
            memory_limit_hits: memory.as_deref().and_then(|text| field(text, "oom")),
            memory_oom_kills: memory.as_deref().and_then(|text| field(text, "oom_kill")),
            cpu_usec: cpu.as_deref().and_then(|text| field(text, "usage_usec")),
            cpu_throttled_periods: cpu.as_deref().and_then(|text| field(text, "nr_throttled")),
            cpu_throttled_usec: cpu.as_deref().and_then(|text| field(text, "throttled_usec")),
            pids_peak: number("pids.peak"),
            pids_refused: pids.as_deref().and_then(|text| field(text, "max")),
        }
    }

    /// How many processes the kernel has killed here for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.read("memory.events").and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    fn read(&self, name: &str) -> Option<String> {
        let fd = openat(&self.directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0; 4096];
        let length = read(&fd, &mut text).ok()?;
        String::from_utf8(text.get(..length)?.to_vec()).ok()
    }

    /// Removes what killed runs have left beside it; for a run that has lasted, since it takes a look at all that is there.
    ///
    /// # Errors
    /// `EACCES`, `EPERM` where something in there belongs to somebody else.
    pub fn sweep(&self) -> Result<(), Errno> {
        sweep(self.path.parent().unwrap_or(&self.path))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends what is in it and removes it.
    ///
    /// # Errors
    /// Those of rmdir(2): `EBUSY` where a process is on its way out for longer than five seconds.
    pub fn remove(mut self) -> Result<(), Errno> {
        let removed = self.end.come();
        // The process ends now, and the kernel closes what is open faster than we do.
        std::mem::forget(self);
        removed
    }
}

/// Removes a sandbox's cgroup whose processes have been ended, and what killed runs have left beside it.
///
/// # Errors
/// Those of rmdir(2) for the first; what is left of others is left.
pub fn remove_cgroups(path: &Path) -> Result<(), Errno> {
    // Ignoring: the next run sweeps too.
    let _ = sweep(path.parent().unwrap_or(path));
    end_and_remove_at(path)
}

impl End {
    /// From here on whatever is made is undone.
    fn begin(own: Pid, forwards: bool, removal: Removal, base: &Path) -> Result<Self, CgroupError> {
        let removal: &'static Removal = Box::leak(Box::new(removal));
        let failed = |source| CgroupError::Act { act: "start the process that would clean up", path: base.into(), source };
        let cleanup = spawn_cleanup(own, forwards, removal, Removal::carry_out).map_err(failed)?;
        Ok(Self { removal, cleanup: Some(cleanup), removed: false })
    }

    fn await_apart(&self) {
        self.cleanup.iter().for_each(Cleanup::await_apart);
    }

    fn come(&mut self) -> Result<(), Errno> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        let removed = self.removal.remove_made();
        self.removal.undivide(self.cleanup.as_ref().map(Cleanup::pid));
        // Last: until now it would do what is still to be done.
        drop(self.cleanup.take());
        removed
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Ignoring: what is left is swept by the next run.
        let _ = self.come();
    }
}

/// One of a handful, which the end of the process closes.
fn open_to_write(path: &Path) -> Result<BorrowedFd<'static>, Errno> {
    openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map(keep_open)
}

/// Writes a setting and reads what has become of it.
fn set(directory: BorrowedFd<'_>, setting: &Setting) -> Result<String, Errno> {
    // A handful, which the end of the process closes.
    let fd = keep_open(openat(directory, setting.file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
    setting.value.split(BETWEEN_DISKS).try_for_each(|value| write(fd, value.as_bytes()).map(drop))?;
    let mut text = [0; 4096];
    let length = pread(fd, &mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim_end().to_owned())
}

/// Whether the kernel's words are what was asked for: bytes are rounded down to pages, lists and weights have a form of their own.
fn holds(setting: &Setting, got: &str) -> bool {
    const LARGEST_PAGE: u64 = 64 * 1024;
    let asked = setting.value.as_str();
    match (setting.controller, asked.parse::<u64>(), got.parse::<u64>()) {
        (Controller::Memory, Ok(asked), Ok(got)) => got <= asked && asked - got < LARGEST_PAGE,
        (Controller::Io, ..) if setting.file == "io.max" => asked.split(BETWEEN_DISKS).all(|disk| has_rates(got, disk)),
        (Controller::Io, ..) => got.strip_prefix("default ") == Some(asked),
        (Controller::Cpuset, ..) => is_within(got, asked),
        _ => got == asked,
    }
}

/// Whether a list of processors has some, and none that another has not.
fn is_within(list: &str, other: &str) -> bool {
    let mut all = (0..u32::from(u16::MAX)).filter(|cpu| in_list(list, *cpu)).peekable();
    all.peek().is_some() && all.all(|cpu| in_list(other, cpu))
}

/// Whether the line of a disk has these rates, among others that were not asked for.
fn has_rates(got: &str, disk: &str) -> bool {
    let mut asked = disk.split(' ');
    let number = asked.next();
    let Some(line) = got.lines().find(|line| line.split(' ').next() == number) else { return false };
    asked.all(|rate| line.split(' ').any(|word| word == rate))
}

fn controllers(settings: &[Setting]) -> Vec<Controller> {
    let mut controllers: Vec<Controller> = settings.iter().map(|setting| setting.controller).collect();
    // Without it nobody learns what the kernel has killed here for want of memory, and what is written is nobody's by the time that it
    // reaches the disk.
    controllers.push(Controller::Memory);
    controllers.sort_unstable();
    controllers.dedup();
    controllers
}

fn enabling(controllers: &[Controller], sign: char) -> String {
    controllers.iter().map(|controller| format!("{sign}{}", controller.name())).collect::<Vec<_>>().join(" ")
}

/// All at once, and where that is refused each by itself: one that is not there must not cost the others. What is missing shows when its
/// files are written. A process that is just leaving makes it `EBUSY`.
///
/// # Errors
/// Of the last controller that could not be enabled.
fn enable(base: &Path, controllers: &[Controller]) -> Result<(), Errno> {
    let file = open_to_write(&base.join("cgroup.subtree_control"))?;
    let enable = |controllers: &[Controller]| write(file, enabling(controllers, '+').as_bytes()).map(drop);
    let started = Instant::now();
    loop {
        match enable(controllers) {
            Err(Errno::BUSY) if started.elapsed() < Duration::from_secs(1) => std::thread::sleep(Duration::from_millis(1)),
            Ok(()) => return Ok(()),
            Err(_) => break,
        }
    }
    let mut result = Ok(());
    for controller in controllers {
        result = enable(&[*controller]).and(result);
    }
    result
}

/// Whether somebody removes a cgroup with all that is in it as soon as its last process has ended: systemd those of its units, and who has made a
/// container that which is its root.
fn is_taken_away_whole(path: &Path) -> bool {
    let unit = path.extension().is_some_and(|extension| extension == "service" || extension == "scope");
    unit || path == Path::new("/sys/fs/cgroup")
}

/// Moves this process, and another one with it, into a cgroup below, so that the one above can be divided.
fn step_aside(base: &Path, name: &str, other: Option<Pid>) -> Result<(), CgroupError> {
    let path = base.join(name);
    let failed = |act, source| CgroupError::Act { act, path: path.clone(), source };
    match mkdir(&path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make the cgroup", errno)),
    }
    let enter = |file: BorrowedFd<'_>| {
        write(file, b"0")?;
        other.map_or(Ok(()), |pid| write(file, pid.to_string().as_bytes()).map(drop))
    };
    open_to_write(&path.join("cgroup.procs")).and_then(enter).map_err(|errno| failed("enter the cgroup", errno))
}

/// The scope of the user's service manager, divided.
fn scope(
    mount: &Path,
    socket: &Path,
    bus: bool,
    controllers: &[Controller],
    waits: impl FnOnce(),
) -> Result<(PathBuf, Result<(), Errno>), CgroupError> {
    let place = || {
        let own = own_cgroup()?;
        let (before, after) = own.split_once(&format!("/{UNIT}"))?;
        matches!(after, "" | "/parents").then(|| mount.join(format!("{before}/{UNIT}").trim_start_matches('/')))
    };
    let turn = scope::enter(socket, bus, waits, || place().is_some())?;
    let base = place().ok_or(CgroupError::Nowhere)?;
    // Which runs there are, and what they use together, is nobody else's to see.
    chmod(&base, Mode::RWXU).map_err(|source| CgroupError::Act { act: "close to others", path: base.clone(), source })?;
    step_aside(&base, PARENTS, None)?;
    let enabled = enable(&base, controllers);
    drop(turn);
    Ok((base, enabled))
}

/// `name number`, one a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(controller: Controller, value: &str) -> Setting {
        Setting { controller, file: "x", value: value.into() }
    }

    #[test]
    fn what_the_kernel_says_of_a_setting() {
        assert!(holds(&setting(Controller::Memory, "100000"), "98304"));
        assert!(!holds(&setting(Controller::Memory, "100000"), "max"));
        assert!(!holds(&setting(Controller::Memory, "100000"), "100001"));
        assert!(holds(&setting(Controller::Io, "50"), "default 50"));
        assert!(holds(&setting(Controller::Cpu, "20000 100000"), "20000 100000"));
        assert!(!holds(&setting(Controller::Pids, "20"), "max"));
        let rates = |value: &str| Setting { controller: Controller::Io, file: "io.max", value: value.into() };
        let got = "8:0 rbps=1048576 wbps=max riops=max wiops=max\n8:16 rbps=1048576 wbps=max riops=max wiops=max";
        assert!(holds(&rates("8:0 rbps=1048576, 8:16 rbps=1048576"), got));
        assert!(!holds(&rates("8:0 rbps=1048576 wbps=1048576"), got));
        assert!(!holds(&rates("8:1 rbps=1048576"), got));
        assert!(!holds(&rates("8:0 rbps=1048576"), ""));
    }

    #[test]
    fn processors_that_are_had_are_among_those_asked_for() {
        assert!(is_within("0-1", "0-3,8") && is_within("8", "0-3,8") && is_within("0-1", "0,1"));
        assert!(!is_within("0-4", "0-3,8") && !is_within("0", "1") && !is_within("", "0-3"));
        assert!(!holds(&setting(Controller::Cpuset, "1"), "0"));
    }

    #[test]
    fn figures_by_name() {
        let text = "low 0\noom 3\noom_kill 2\n";
        assert_eq!((field(text, "oom_kill"), field(text, "oom"), field(text, "high")), (Some(2), Some(3), None));
    }
}
