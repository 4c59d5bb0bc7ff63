//! The disks below opened files, by the numbers that `io.max` takes. Looked for only where a profile limits bytes per second.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, major, minor, stat, statx};

/// Numbers of a block device.
pub type Number = (u32, u32);

/// What lies below some files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// Whole disks, in the order of their numbers: the kernel limits no partition.
    pub numbers: Vec<Number>,
    /// Mounts of which no disk is known, with their kind of file system.
    pub unknown: Vec<(PathBuf, String)>,
    /// Mounts of which the kernel does not know whose it is what they have in memory and have not written yet.
    pub untold: Vec<(PathBuf, String)>,
}

/// Kinds of file systems that have nothing on a disk.
const IN_MEMORY: [&str; 12] =
    ["cgroup2", "devpts", "devtmpfs", "debugfs", "efivarfs", "hugetlbfs", "mqueue", "proc", "ramfs", "securityfs", "sysfs", "tmpfs"];

/// Kinds of file systems whose late writes are charged to a cgroup (the kernel's cgroup-v2 document, "Writeback"); and some that are never written.
const CHARGED: [&str; 9] = ["ext2", "ext3", "ext4", "btrfs", "f2fs", "xfs", "erofs", "iso9660", "squashfs"];

impl Disks {
    /// The disks on which these files are.
    pub fn below<'f>(files: impl Iterator<Item = BorrowedFd<'f>>) -> Self {
        let (mut numbers, mut others) = (BTreeSet::new(), Others::default());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let sys = Path::new("/sys");
        for fd in files {
            let mask = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);
            let Ok(found) = statx(fd, "", AtFlags::EMPTY_PATH, mask) else { continue };
            let mount = mount(&mounts, found.stx_mnt_id);
            let number = (found.stx_dev_major, found.stx_dev_minor);
            numbers.extend(note(sys, number, mount, || path(fd), &mut others));
            // What is mounted in it comes with it.
            for (inner, number) in mounted_below(&mounts, &path(fd)) {
                numbers.extend(note(sys, number, Some(inner), PathBuf::new, &mut others));
            }
        }
        let Others { unknown, untold } = others;
        Self { numbers: numbers.into_iter().collect(), unknown: unknown.into_iter().collect(), untold: untold.into_iter().collect() }
    }
}

/// Mounts that are not limited, or not whole.
#[derive(Default)]
struct Others {
    unknown: BTreeSet<(PathBuf, String)>,
    untold: BTreeSet<(PathBuf, String)>,
}

/// The disks of one file system. Noted is where there are none and it is not one of memory alone, and where writing does not count as it should.
fn note(sys: &Path, number: Number, mount: Option<Mount<'_>>, path: impl FnOnce() -> PathBuf, others: &mut Others) -> Vec<Number> {
    let below = match (number, mount) {
        ((0, _), Some(mount)) => mount.disks(sys),
        ((0, _), None) => Vec::new(),
        _ => whole(sys, number).into_iter().collect(),
    };
    let kind = mount.map_or("unknown", |mount| mount.kind);
    let (known, charged) = (!below.is_empty() || IN_MEMORY.contains(&kind), below.is_empty() || CHARGED.contains(&kind));
    if !known || !charged {
        let set = if known { &mut others.untold } else { &mut others.unknown };
        set.insert((mount.map_or_else(path, |mount| unescaped(mount.point)), kind.to_owned()));
    }
    below
}

fn path(fd: BorrowedFd<'_>) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).unwrap_or_default()
}

/// A line of `/proc/PID/mountinfo`, proc_pid_mountinfo(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mount<'m> {
    point: &'m str,
    kind: &'m str,
    source: &'m str,
}

fn mount(text: &str, id: u64) -> Option<Mount<'_>> {
    let id = id.to_string();
    text.lines().find_map(|line| parse(line).filter(|(found, ..)| *found == id).map(|(.., mount)| mount))
}

/// The number of a mount, that of its device, and the rest.
fn parse(line: &str) -> Option<(&str, Number, Mount<'_>)> {
    let mut fields = line.split(' ');
    let id = fields.next()?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let point = fields.nth(1)?;
    let mut after = fields.skip_while(|field| *field != "-").skip(1);
    Some((id, (major.parse().ok()?, minor.parse().ok()?), Mount { point, kind: after.next()?, source: after.next()? }))
}

/// Mounts below a directory, and their devices.
fn mounted_below<'m>(text: &'m str, directory: &Path) -> Vec<(Mount<'m>, Number)> {
    let inside = |mount: &Mount<'_>| {
        let point = unescaped(mount.point);
        point.starts_with(directory) && point != directory
    };
    text.lines().filter_map(parse).map(|(_, number, mount)| (mount, number)).filter(|(mount, _)| inside(mount)).collect()
}

impl Mount<'_> {
    /// A file system with a device number of its own, which no disk has: btrfs names one of its disks, and all of them below `/sys`.
    fn disks(&self, sys: &Path) -> Vec<Number> {
        let source = unescaped(self.source);
        let Some(number) =
            source.starts_with("/dev").then(|| stat(&source).ok()).flatten().map(|stat| (major(stat.st_rdev), minor(stat.st_rdev)))
        else {
            return Vec::new();
        };
        let all = if self.kind == "btrfs" { together(sys, number) } else { Vec::new() };
        let all = if all.is_empty() { vec![number] } else { all };
        // One that is not found would be without a limit.
        all.iter().map(|number| whole(sys, *number)).collect::<Option<_>>().unwrap_or_default()
    }
}

/// All devices of the btrfs that has this one.
fn together(sys: &Path, number: Number) -> Vec<Number> {
    let Ok(systems) = std::fs::read_dir(sys.join("fs/btrfs")) else { return Vec::new() };
    let members = |directory: PathBuf| -> Vec<Number> {
        let devices = std::fs::read_dir(directory.join("devices")).into_iter().flatten().flatten();
        devices.filter_map(|device| read_number(&device.path().join("dev"))).collect()
    };
    systems.flatten().map(|system| members(system.path())).find(|all| all.contains(&number)).unwrap_or_default()
}

/// The disk that a partition is of, and that itself where it is none.
fn whole(sys: &Path, (major, minor): Number) -> Option<Number> {
    let device = std::fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}"))).ok()?;
    if device.join("partition").exists() { read_number(&device.parent()?.join("dev")) } else { read_number(&device.join("dev")) }
}

/// `8:1` and a line end.
fn read_number(path: &Path) -> Option<Number> {
    let text = std::fs::read_to_string(path).ok()?;
    let (major, minor) = text.trim_end().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Space, tab, line end and backslash are octal in `mountinfo`.
fn unescaped(text: &str) -> PathBuf {
    let octal = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    octal.iter().fold(text.to_owned(), |text, (code, character)| text.replace(code, character)).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let text = "30 1 0:27 /@ / rw,relatime shared:1 master:2 - btrfs /dev/sda2 rw\n31 30 0:28 / /a\\040b rw - nfs4 host:/x rw\n";
        assert_eq!(mount(text, 30), Some(Mount { point: "/", kind: "btrfs", source: "/dev/sda2" }));
        let other = mount(text, 31).expect("a mount");
        assert_eq!((unescaped(other.point), other.kind), (PathBuf::from("/a b"), "nfs4"));
        assert_eq!(mount(text, 3), None);
        let below =
            |path: &str| mounted_below(text, Path::new(path)).iter().map(|(mount, number)| (mount.kind, *number)).collect::<Vec<_>>();
        assert_eq!(below("/"), [("nfs4", (0, 28))]);
        assert_eq!((below("/a"), below("/a b")), (vec![], vec![]));
    }

    #[test]
    fn a_partition_is_its_disk() {
        let sys = std::env::temp_dir().join(format!("hamper-disks-{}", std::process::id()));
        let make = |path: &str, number: &str| {
            std::fs::create_dir_all(sys.join(path)).expect("directory");
            std::fs::write(sys.join(path).join("dev"), format!("{number}\n")).expect("dev");
        };
        make("devices/sda", "8:0");
        make("devices/sda/sda2", "8:2");
        make("devices/dm-0", "254:0");
        std::fs::write(sys.join("devices/sda/sda2/partition"), "2\n").expect("partition");
        std::fs::create_dir_all(sys.join("dev/block")).expect("directory");
        for (number, path) in [("8:0", "sda"), ("8:2", "sda/sda2"), ("254:0", "dm-0")] {
            symlink(format!("../../devices/{path}"), sys.join("dev/block").join(number)).expect("link");
        }
        assert_eq!(whole(&sys, (8, 2)), Some((8, 0)));
        assert_eq!(whole(&sys, (8, 0)), Some((8, 0)));
        assert_eq!(whole(&sys, (254, 0)), Some((254, 0)));
        assert_eq!(whole(&sys, (9, 9)), None);
        // What is written late to a file system that knows no cgroups is nobody's.
        let untold = |kind: &'static str, number| {
            let mut others = Others::default();
            let mount = Mount { point: "/mnt", kind, source: "/dev/sda2" };
            note(&sys, number, Some(mount), PathBuf::new, &mut others);
            (others.untold.len(), others.unknown.len())
        };
        assert_eq!((untold("vfat", (8, 2)), untold("ext4", (8, 2))), ((1, 0), (0, 0)));
        assert_eq!((untold("tmpfs", (9, 9)), untold("vfat", (9, 9))), ((0, 0), (0, 1)));
        // Each disk of a file system over several.
        std::fs::create_dir_all(sys.join("fs/btrfs/features")).expect("directory");
        std::fs::create_dir_all(sys.join("fs/btrfs/1-2/devices")).expect("directory");
        symlink("../../../../devices/sda/sda2", sys.join("fs/btrfs/1-2/devices/sda2")).expect("link");
        symlink("../../../../devices/dm-0", sys.join("fs/btrfs/1-2/devices/dm-0")).expect("link");
        let mut all = together(&sys, (8, 2));
        all.sort_unstable();
        assert_eq!(all, [(8, 2), (254, 0)]);
        assert_eq!(together(&sys, (9, 9)), []);
        std::fs::remove_dir_all(&sys).expect("removed");
    }
}
