//! The child between clone and the payload: it walks the lowered plan top to bottom.
//!
//! Nothing here allocates, prints or panics; a failure goes to the parent as `{step, errno}` and ends the process.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat};
use rustix::io::{Errno, write};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{
    DumpableBehavior, Signal, chdir, fchdir, getpid, getppid, pivot_root, set_child_subreaper, set_dumpable_behavior,
    set_parent_process_death_signal, test_kill_process, umask,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities, set_no_new_privs, set_thread_groups,
};

use super::lower::Lowered;
use super::op::{BindSource, Op, PublishedLower};
use super::tree::{Kept, Missing, attach, clone_tree, clone_tree_at, mount_on, resolve, resolve_or_make, resolve_real, restrict};
use super::wire::{Message, await_go_ahead, tell, tell_with};
use super::{init, payload};
use crate::plan::Guard;
use crate::sys::{self, MountAttr, exit_now, keep_open, mount_setattr, release};

/// What the steps leave for later steps.
pub(super) struct State<'a> {
    pub socket: BorrowedFd<'a>,
    pub lowered: &'a Lowered,
    /// The new root, once it is mounted.
    root: Option<Kept>,
    dev: Option<Kept>,
    proc: Option<Kept>,
    project: Option<Kept>,
    secrets: Option<Kept>,
    /// The payload's side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Room for the kernel's answer to getcwd(2), allocated before clone.
    directory: Vec<u8>,
}

/// Walks the plan; never returns.
pub(super) fn run(lowered: &Lowered, socket: BorrowedFd<'_>, directory: Vec<u8>) -> ! {
    let mut state = State { socket, lowered, root: None, dev: None, proc: None, project: None, secrets: None, terminal: None, directory };
    umask(Mode::empty());
    for (step, op) in &lowered.init {
        let result = match lowered.fault {
            Some((at, errno)) if at == *step => Err(Errno::from_raw_os_error(errno)),
            _ => state.perform(*step, op),
        };
        if let Err(errno) = result {
            tell(socket, Message::Failed { step: *step, errno: errno.raw_os_error() });
            break;
        }
    }
    exit_now(125)
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const SAFEST: MountFlags = SAFE.union(MountFlags::NOEXEC);

impl State<'_> {
    fn perform(&mut self, step: u32, op: &Op) -> Result<(), Errno> {
        match op {
            Op::WriteMaps { uid, gid } => write_maps(uid.as_bytes(), gid.as_bytes()),
            Op::AwaitMaps => await_go_ahead(self.socket).and_then(|()| hide_from_others()),
            Op::DieWithParent => self.die_with_parent(),
            Op::BecomeSubreaper => set_child_subreaper(Some(getpid())),
            Op::EndWithParent => self.end_with_parent(),
            Op::NotDumpable => hide_from_others(),
            Op::SetGroups(groups) => set_thread_groups(groups),
            // A new namespace begins with both names of the host; "(none)" is what the kernel has before anybody sets one.
            Op::SetHostname(name) => rustix::system::sethostname(name).and_then(|()| rustix::system::setdomainname(b"(none)")),
            Op::LoopbackUp => sys::loopback_up(),
            Op::PrivatePropagation => mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
            Op::OverlayRoot { layers, published, marks, owner, options, target } => {
                // By its path: a descriptor from before the clone belongs to the mounts of the parent's namespace.
                chdir(layers.as_c_str())?;
                published.iter().try_for_each(reopen)?;
                mount(c"overlay", target.as_c_str(), c"overlay", SAFE, options.as_c_str())?;
                remove_marks(marks)?;
                self.enter_root(target)?;
                self.own_root(*owner)
            }
            Op::LongOverlayRoot { layers, published, marks, owner, lower, upper, work, target } => {
                // By its path: a descriptor from before the clone belongs to the mounts of the parent's namespace.
                chdir(layers.as_c_str())?;
                published.iter().try_for_each(reopen)?;
                mount_long_overlay(lower, upper, work, !marks.is_empty(), target)?;
                remove_marks(marks)?;
                self.enter_root(target)?;
                self.own_root(*owner)
            }
            Op::TmpfsRoot { target } => {
                mount(c"tmpfs", target.as_c_str(), c"tmpfs", SAFE, c"mode=755")?;
                self.enter_root(target)
            }
            Op::Link { path, target } => {
                let (parent, name) = self.parent_of(path)?;
                symlinkat(target.as_c_str(), parent, name)
            }
            Op::File { path, mode, content } => {
                let (parent, name) = self.parent_of(path)?;
                write_new(parent, name, *mode, content).map(drop)
            }
            Op::Directory { path, mode } => {
                let (parent, name) = self.parent_of(path)?;
                mkdirat(parent, name, Mode::from_raw_mode(*mode))
            }
            Op::Dev { shm, devices } => self.mount_dev(shm, devices),
            Op::Proc => self.mount_proc(),
            Op::Sysctls(sysctls) => self.write_sysctls(sysctls),
            Op::MaskProc { directories, files, read_only } => self.mask_proc(directories, files, read_only),
            Op::Sys => self.mount_sys(step),
            Op::Cgroup => self.mount_cgroup(step),
            Op::EnterCgroupNamespace => enter_cgroup_namespace(),
            Op::Affinity(set) => rustix::thread::sched_setaffinity(None, set),
            Op::Tmpfs { target, options, read_only } => self.mount_tmpfs(target, options, *read_only),
            Op::Bind { source, target, read_only, project } => self.bind(source, target, *read_only, *project),
            Op::Over { target, options, project } => self.mount_over(target, options, *project),
            Op::Guard { path, guard, mask } => self.guard(path, guard, mask),
            Op::Secret { name, target, content } => self.write_secret(name, target.as_deref(), content),
            Op::OpenPty => self.open_pty(self.dev.ok_or(Errno::BADF)?, c"pts/ptmx"),
            // The payload comes soon after, and must find the size and the settings of the caller's terminal.
            Op::OpenHostPty => self.open_pty(CWD, c"/dev/ptmx").and_then(|()| await_go_ahead(self.socket)),
            Op::PivotRoot => self.pivot(),
            Op::ReadOnlyRoot => mount_setattr(self.root()?, false, &MountAttr { set: MountAttr::RDONLY, ..MountAttr::default() }),
            Op::ChangeDirectory(path) => self.change_directory(path),
            Op::EnterDirectory(path) => chdir(path.as_c_str()),
            Op::DropAllCapabilities => drop_all_capabilities(),
            Op::DropCapabilities { keep, ambient } => drop_capabilities(*keep, *ambient),
            Op::NoNewPrivileges => set_no_new_privs(true),
            Op::ScopeSignals(ruleset) => scope_signals(ruleset.as_fd()),
            Op::StartPayload { init: true } => init::run(self, step),
            Op::StartPayload { init: false } => payload::become_payload(self, step),
        }
    }

    fn root(&self) -> Result<Kept, Errno> {
        self.root.ok_or(Errno::BADF)
    }

    /// The parent's death must end this process, also when it came before the prctl.
    fn die_with_parent(&self) -> Result<(), Errno> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if is_hung_up(self.socket) { exit_now(125) } else { Ok(()) }
    }

    /// The parent's death is a signal that init waits for, as it does for all: it has to end what the payload has left before itself. That
    /// the parent is gone, the socket says, whoever sent the signal.
    fn end_with_parent(&self) -> Result<(), Errno> {
        set_parent_process_death_signal(Some(Signal::HUP))?;
        if is_hung_up(self.socket) { exit_now(125) } else { Ok(()) }
    }

    fn enter_root(&mut self, target: &CStr) -> Result<(), Errno> {
        // The last part may be a link of the caller's own, where trees are kept elsewhere; mount(2) has followed it too.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.root = Some(keep_open(openat(CWD, target, flags, Mode::empty())?));
        Ok(())
    }

    /// The upper directory is the caller's; the root that the payload sees is whose the image says.
    fn own_root(&self, owner: Option<(u32, u32)>) -> Result<(), Errno> {
        let Some((uid, gid)) = owner else { return Ok(()) };
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(self.root()?, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    /// The directory that a new node goes into, and its name there.
    fn parent_of<'p>(&self, path: &'p CStr) -> Result<(Kept, &'p CStr), Errno> {
        let bytes = path.to_bytes_with_nul();
        let Some(slash) = path.to_bytes().iter().rposition(|byte| *byte == b'/') else {
            return Ok((resolve(self.root()?, c".", OFlags::DIRECTORY)?, path));
        };
        let mut parent = [0u8; 256];
        parent.get_mut(..slash).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(&bytes[..slash]);
        let parent = CStr::from_bytes_until_nul(&parent).map_err(|_| Errno::INVAL)?;
        let name = CStr::from_bytes_with_nul(&bytes[slash + 1..]).map_err(|_| Errno::INVAL)?;
        Ok((resolve_or_make(self.root()?, parent, Missing::Directory)?, name))
    }

    /// A fresh tmpfs with the few devices that every program expects; nothing of it comes from the image.
    fn mount_dev(&mut self, shm: &CStr, devices: &[(std::ffi::CString, std::ffi::CString)]) -> Result<(), Errno> {
        let place = resolve_real(self.root()?, c"dev")?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::STRICTATIME;
        mount_on(place, c"tmpfs", flags, c"mode=755,size=64k")?;
        let dev = resolve_real(self.root()?, c"dev")?;
        fchdir(dev)?;
        for (host, name) in STANDARD_DEVICES {
            bind_device(host, name)?;
        }
        for (host, name) in devices {
            make_device_parent(dev, name)?;
            bind_device(host, name)?;
        }
        for (target, name) in DEV_LINKS {
            symlinkat(target, CWD, name)?;
        }
        for name in [c"pts", c"shm", c"mqueue"] {
            mkdirat(CWD, name, Mode::from_raw_mode(0o755))?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(c"devpts", c"pts", c"devpts", flags, c"newinstance,ptmxmode=0666,mode=0620")?;
        mount(c"shm", c"shm", c"tmpfs", SAFEST, shm)?;
        mount(c"mqueue", c"mqueue", c"mqueue", SAFEST, None)?;
        self.dev = Some(dev);
        Ok(())
    }

    fn mount_proc(&mut self) -> Result<(), Errno> {
        let place = resolve_real(self.root()?, c"proc")?;
        mount_on(place, c"proc", SAFEST, None)?;
        self.proc = Some(resolve_real(self.root()?, c"proc")?);
        Ok(())
    }

    /// Written through our own procfs, so that nothing can stand in for it. A sysctl that this kernel lacks is not needed either.
    fn write_sysctls(&self, sysctls: &[(std::ffi::CString, Vec<u8>)]) -> Result<(), Errno> {
        let proc = self.proc.ok_or(Errno::BADF)?;
        for (name, value) in sysctls {
            match openat(proc, name.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(file) => write(keep_open(file), value).map(drop)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Masks with devices of the host and a tmpfs of ours, never with anything of the image.
    fn mask_proc(
        &self,
        directories: &[std::ffi::CString],
        files: &[std::ffi::CString],
        read_only: &[std::ffi::CString],
    ) -> Result<(), Errno> {
        fchdir(self.proc.ok_or(Errno::BADF)?)?;
        let cover = |name: &CStr| mount(c"tmpfs", name, c"tmpfs", SAFEST | MountFlags::RDONLY, c"size=0k,mode=555");
        for name in directories {
            match cover(name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        for name in files {
            match mount_bind(c"/dev/null", name.as_c_str()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR) => cover(name)?,
                Err(errno) => return Err(errno),
            }
        }
        for name in read_only {
            match mount_bind_recursive(name.as_c_str(), name.as_c_str()) {
                Ok(()) => remount_read_only(name)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Where the host shows only a part of its sysfs (inside another container) the kernel refuses a new one: then /sys stays empty.
    fn mount_sys(&self, step: u32) -> Result<(), Errno> {
        let place = resolve_real(self.root()?, c"sys")?;
        match mount_on(place, c"sysfs", SAFEST | MountFlags::RDONLY, None) {
            Err(Errno::PERM) => self.missed(step, Errno::PERM),
            result => result?,
        }
        for name in [c"sys/firmware", c"sys/devices/virtual/powercap"] {
            match resolve(self.root()?, name, OFlags::DIRECTORY) {
                Ok(place) => mount_on(place, c"tmpfs", SAFEST | MountFlags::RDONLY, c"size=0k,mode=555")?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The payload's view of its own cgroup; a host without cgroup v2, or one that shows only a part of it, has none to show.
    fn mount_cgroup(&self, step: u32) -> Result<(), Errno> {
        let place = match resolve(self.root()?, c"sys/fs/cgroup", OFlags::DIRECTORY) {
            Ok(place) => place,
            Err(errno) => {
                self.missed(step, errno);
                return Ok(());
            }
        };
        match mount_on(place, c"cgroup2", SAFEST | MountFlags::RDONLY, None) {
            Err(errno @ (Errno::PERM | Errno::BUSY | Errno::NODEV)) => {
                self.missed(step, errno);
                Ok(())
            }
            result => result,
        }
    }

    fn missed(&self, step: u32, errno: Errno) {
        tell(self.socket, Message::Missed { step, errno: errno.raw_os_error() });
    }

    fn mount_tmpfs(&mut self, target: &CStr, options: &CStr, read_only: bool) -> Result<(), Errno> {
        let place = resolve_or_make(self.root()?, target, Missing::Directory)?;
        let flags = if read_only { SAFE | MountFlags::RDONLY } else { SAFE };
        mount_on(place, c"tmpfs", flags, options)?;
        if target.to_bytes() == b"run/secrets" {
            self.secrets = Some(resolve(self.root()?, target, OFlags::DIRECTORY)?);
        }
        Ok(())
    }

    fn bind(&mut self, source: &BindSource, target: &CStr, read_only: bool, project: bool) -> Result<(), Errno> {
        let tree = clone_tree(&source.path, source.device, source.inode)?;
        restrict(tree, read_only)?;
        let place = resolve_or_make(self.root()?, target, source.missing)?;
        attach(tree, place)?;
        release(place);
        if project {
            self.project = Some(tree);
        } else {
            release(tree);
        }
        Ok(())
    }

    /// An overlay whose lower directory is what the tree shows there now.
    fn mount_over(&mut self, target: &CStr, options: &CStr, project: bool) -> Result<(), Errno> {
        let place = resolve_or_make(self.root()?, target, Missing::Directory)?;
        mount_on(place, c"overlay", SAFE, options)?;
        if project {
            self.project = Some(resolve(self.root()?, target, OFlags::DIRECTORY)?);
        }
        Ok(())
    }

    /// Each guard is a mount of its own: a mount point can be neither moved nor removed from inside.
    fn guard(&self, path: &CStr, guard: &Guard, mask: &CStr) -> Result<(), Errno> {
        let project = self.project.ok_or(Errno::BADF)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let place = keep_open(openat2(project, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)?);
        let mut attributes = MountAttr { set: MountAttr::NOSUID | MountAttr::NODEV, ..MountAttr::default() };
        let tree = match guard {
            Guard::Hide { .. } => {
                attributes.set |= MountAttr::RDONLY | MountAttr::NOEXEC;
                let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
                keep_open(rustix::mount::open_tree(CWD, mask, flags)?)
            }
            _ => clone_tree_at(place)?,
        };
        match guard {
            Guard::Protect => attributes.set |= MountAttr::RDONLY,
            Guard::Release => attributes.clear |= MountAttr::RDONLY,
            Guard::Pin | Guard::Hide { .. } => {}
        }
        mount_setattr(tree, true, &attributes)?;
        attach(tree, place)?;
        release(tree);
        release(place);
        Ok(())
    }

    fn write_secret(&self, name: &CStr, target: Option<&CStr>, content: &[u8]) -> Result<(), Errno> {
        let secrets = self.secrets.ok_or(Errno::BADF)?;
        let file = write_new(secrets.as_fd(), name, 0o400, content)?;
        let Some(target) = target else { return Ok(()) };
        let tree = clone_tree_at(file.as_fd())?;
        restrict(tree, true)?;
        let place = resolve_or_make(self.root()?, target, Missing::File)?;
        attach(tree, place)
    }

    /// The terminal is made in the sandbox's own devpts, so that it has a name inside; the parent gets the other side.
    fn open_pty(&mut self, directory: BorrowedFd<'_>, multiplexer: &CStr) -> Result<(), Errno> {
        let master = openat(directory, multiplexer, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        unlockpt(&master)?;
        let terminal = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        // Here and not by the parent alone, which may come to it when the payload has asked already.
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        if let Some(size) = streams.into_iter().find_map(|stream| tcgetwinsize(stream).ok()) {
            tcsetwinsize(&master, size)?;
        }
        tell_with(self.socket, Message::Terminal, master.as_fd())?;
        self.terminal = Some(terminal);
        Ok(())
    }

    /// pivot_root(2) with both paths the same puts the old root on top of the new one, where one umount removes it. The step that changes
    /// the directory comes next, and goes by the descriptor of the root.
    fn pivot(&self) -> Result<(), Errno> {
        fchdir(self.root()?)?;
        pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)
    }

    fn change_directory(&mut self, path: &CStr) -> Result<(), Errno> {
        let directory = resolve_or_make(self.root()?, path, Missing::Directory)?;
        fchdir(directory)?;
        // A directory outside the root would show here as "(unreachable)…".
        let cwd = rustix::process::getcwd(std::mem::take(&mut self.directory))?;
        let inside = cwd.as_bytes().first() == Some(&b'/');
        // Never freed: this memory belongs to the parent's allocator, which is not touched here.
        std::mem::forget(cwd);
        if inside { Ok(()) } else { Err(Errno::XDEV) }
    }
}

const STANDARD_DEVICES: [(&CStr, &CStr); 6] = [
    (c"/dev/null", c"null"),
    (c"/dev/zero", c"zero"),
    (c"/dev/full", c"full"),
    (c"/dev/random", c"random"),
    (c"/dev/urandom", c"urandom"),
    (c"/dev/tty", c"tty"),
];

const DEV_LINKS: [(&CStr, &CStr); 5] = [
    (c"pts/ptmx", c"ptmx"),
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
];

/// In our own tmpfs, which is the working directory: no link can be in the way.
fn bind_device(host: &CStr, name: &CStr) -> Result<(), Errno> {
    mknodat(CWD, name, FileType::RegularFile, Mode::from_raw_mode(0o666), 0)?;
    mount_bind(host, name)
}

fn make_device_parent(dev: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let bytes = name.to_bytes();
    let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else { return Ok(()) };
    let mut parent = [0u8; 256];
    parent.get_mut(..slash).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(&bytes[..slash]);
    let parent = CStr::from_bytes_until_nul(&parent).map_err(|_| Errno::INVAL)?;
    resolve_or_make(dev, parent, Missing::Directory).map(drop)
}

fn write_new(parent: BorrowedFd<'_>, name: &CStr, mode: u32, content: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::from_raw_mode(mode))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(file)
}

/// The kernel lets everybody map the own id, once setgroups(2) is denied.
fn write_maps(uid: &[u8], gid: &[u8]) -> Result<(), Errno> {
    for (file, content) in [(c"/proc/self/setgroups", b"deny".as_slice()), (c"/proc/self/uid_map", uid), (c"/proc/self/gid_map", gid)] {
        let file = keep_open(openat(CWD, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?);
        write(file, content)?;
    }
    hide_from_others()
}

/// Whether the parent has closed its end, which only its own end does.
pub(super) fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    // A poll that fails for want of memory is asked again with the next signal.
    let _ = poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }));
    fds[0].revents().contains(PollFlags::HUP)
}

/// From here on no other process may trace this one or open its files in /proc: its maps needed that, and are written.
fn hide_from_others() -> Result<(), Errno> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// A domain that this process's children inherit, and that its signals end at: kill(2) with -1 must mean the sandbox and nothing else, so that
/// this is tried on the parent, which has the same ids and is outside.
fn scope_signals(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    sys::landlock_restrict_self(ruleset)?;
    match getppid().map(test_kill_process) {
        Some(Err(Errno::PERM)) => Ok(()),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// Without options: for any at all, also for none in them, the kernel copies a page.
fn remount_read_only(target: &CStr) -> Result<(), Errno> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let none = None::<&CStr>;
    nix::mount::mount(none, target, none, flags, none).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Opens a lower directory in this mount namespace, under the number that the options of the mount have.
fn reopen(lower: &PublishedLower) -> Result<(), Errno> {
    let own = openat(CWD, lower.path.as_c_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&own)?;
    // ESTALE: whoever owns it has put something else in its place.
    if (stat.st_dev, stat.st_ino) != (lower.device, lower.inode) {
        return Err(Errno::STALE);
    }
    sys::replace_descriptor(own, lower.fd.as_fd())
}

/// A file, and the directories that it was in; kernels differ in which of them they make.
fn remove_marks(marks: &[std::ffi::CString]) -> Result<(), Errno> {
    for (index, name) in marks.iter().enumerate() {
        let flags = if index == 0 { AtFlags::empty() } else { AtFlags::REMOVEDIR };
        match unlinkat(CWD, name.as_c_str(), flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn mount_long_overlay(lower: &[std::ffi::CString], upper: &CStr, work: &CStr, volatile: bool, target: &CStr) -> Result<(), Errno> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, c"userxattr")?;
    if volatile {
        fsconfig_set_flag(&context, c"volatile")?;
    }
    for layer in lower {
        fsconfig_set_string(&context, c"lowerdir+", layer.as_c_str())?;
    }
    fsconfig_set_string(&context, c"upperdir", upper)?;
    fsconfig_set_string(&context, c"workdir", work)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let tree = keep_open(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?);
    let place = keep_open(openat(CWD, target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
    attach(tree, place)
}

/// Without a user namespace of our own most callers have none, and may not touch the bounding set; nor need they, since execve(2) gives
/// nothing of it once no_new_privs is set.
fn drop_all_capabilities() -> Result<(), Errno> {
    set_capabilities(
        None,
        CapabilitySets { effective: CapabilitySet::empty(), permitted: CapabilitySet::empty(), inheritable: CapabilitySet::empty() },
    )
}

/// Bounding first, since that needs CAP_SETPCAP; then the other four sets to exactly what is kept.
fn drop_capabilities(keep: u64, ambient: bool) -> Result<(), Errno> {
    for capability in 0..64u8 {
        if keep & 1 << capability == 0 {
            match sys::drop_bounding(capability) {
                Ok(()) => {}
                // The first number that this kernel does not know.
                Err(Errno::INVAL) if capability > 30 => break,
                Err(errno) => return Err(errno),
            }
        }
    }
    let kept = CapabilitySet::from_bits_truncate(keep);
    let inheritable = if ambient { kept } else { CapabilitySet::empty() };
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    // The ambient set is empty since the user namespace was made.
    if ambient {
        for capability in kept.iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

/// The cgroup that this process was born in becomes the root of all that it sees of cgroups.
fn enter_cgroup_namespace() -> Result<(), Errno> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}
