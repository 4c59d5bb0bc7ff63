//! Where the store is: the file system, space on it, and a scratch directory in which the probes are made.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::io::Errno;

use super::procfs::{MountLine, mount_of, mounts, read};
use super::userns::Usable;
use super::{Examination, Finding, Surroundings, ids, overlay};
use crate::host::Directories;

/// A directory that goes when this value goes; signals that would end the process wait until then.
pub struct ScratchDirectory {
    pub path: PathBuf,
    signals: Option<SigSet>,
}

impl ScratchDirectory {
    /// Makes one in `parent`, for the caller alone.
    pub fn new(parent: &Path) -> Result<Self, Errno> {
        let signals = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        let path = parent.join(format!(".hamper-doctor-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        let errno = made.err().map(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let scratch = Self { path, signals };
        match errno {
            None => Ok(scratch),
            Some(errno) => {
                // Not ours, so not to be removed.
                scratch.restore();
                std::mem::forget(scratch);
                Err(errno)
            }
        }
    }

    fn restore(&self) {
        if let Some(signals) = &self.signals {
            // Ignoring: setting a mask that was read cannot fail.
            let _ = signals.thread_set_mask();
        }
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        // The overlay's own work directory may be entered by nobody.
        let _ = std::fs::set_permissions(self.path.join("w/work"), std::fs::Permissions::from_mode(0o700));
        // Ignoring: there is nothing else that could be done about it.
        let _ = std::fs::remove_dir_all(&self.path);
        self.restore();
    }
}

/// The store, or the nearest directory above it that is there.
fn nearest(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    found.canonicalize().unwrap_or_else(|_| found.to_owned())
}

/// Below this, an image of ordinary size does not fit.
const SMALL: u64 = 1 << 30;

pub fn check(directories: &Directories, around: &Surroundings, usable: Usable, all: &mut Examination) {
    // Trees may be kept elsewhere, by a link; that is where overlayfs works.
    let trees = directories.data.join("trees");
    let place = nearest(if trees.is_dir() { &trees } else { &directories.data });
    let table = mounts(&read("/proc/self/mountinfo").unwrap_or_default());
    let scratch = ScratchDirectory::new(&place);
    all.findings.push(store(directories, &place, mount_of(&table, &place), scratch.as_ref().err().copied()));
    let path = scratch.as_ref().ok().map(|scratch| scratch.path.as_path());
    all.findings.push(ids::check(around, usable.users, path));
    match path {
        Some(path) if usable.mounts => {
            let kind = mount_of(&table, &place).map_or("", |mount| &mount.kind);
            all.findings.push(overlay::check(path, &place, &directories.data, kind));
        }
        _ => all.skipped.push("overlay"),
    }
}

fn store(directories: &Directories, place: &Path, mount: Option<&MountLine>, refused: Option<Errno>) -> Finding {
    const CHECK: &str = "store";
    let kind = mount.map_or("unknown file system", |mount| &mount.kind);
    let store = directories.data.display();
    let elsewhere = ["export XDG_DATA_HOME=/path/that/you/may/write"];
    if let Some(errno) = refused {
        return Finding::missing(
            CHECK,
            format!("{store}: nothing can be made in {} ({kind}): {}", place.display(), super::errno_name(errno)),
        )
        .stops()
        .errno(errno)
        .instead("nothing: images and scratch directories need a place")
        .remedy(elsewhere);
    }
    let Ok(statistics) = rustix::fs::statvfs(place) else {
        return Finding::degraded(CHECK, format!("{store} on {kind}, free space unknown"));
    };
    // Some file systems in memory count nothing.
    if statistics.f_blocks == 0 {
        return Finding::ok(CHECK, format!("{store} on {kind}, free space unknown"));
    }
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    let trees = directories.data.join("trees");
    let apart = if trees.is_dir() { format!(", its trees in {}", place.display()) } else { String::new() };
    let seen = format!("{store} on {kind}, {} free{apart}", size(free));
    let no_files = statistics.f_files > 0 && statistics.f_favail < 10_000;
    if free < SMALL || no_files {
        let seen = if no_files { format!("{seen}, {} files more", statistics.f_favail) } else { seen };
        return Finding::degraded(CHECK, seen).instead("larger images do not fit").remedy(["hamper image prune", elsewhere[0]]);
    }
    Finding::ok(CHECK, seen)
}

/// Rounded down, in powers of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10 * 1024 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS.get(unit).unwrap_or(&"B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(10_239), "10239 B");
        assert_eq!(size(10 << 30), "10 GiB");
    }

    #[test]
    fn a_scratch_directory_goes_with_what_is_in_it() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().expect("tempdir");
        let scratch = ScratchDirectory::new(parent.path()).expect("scratch");
        std::fs::create_dir_all(scratch.path.join("w/work")).expect("make");
        std::fs::set_permissions(scratch.path.join("w/work"), std::fs::Permissions::from_mode(0o000)).expect("chmod");
        assert_eq!(ScratchDirectory::new(parent.path()).err(), Some(Errno::EXIST));
        assert!(scratch.path.exists());
        drop(scratch);
        assert_eq!(std::fs::read_dir(parent.path()).expect("list").count(), 0);
    }
}
