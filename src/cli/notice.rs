//! What a run has to say beside its payload is said once for each boot and profile on a terminal. A log has what was asked for and not
//! got in its report, and everything else each time.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use rustix::termios::isatty;

use super::output::talk;
use super::state::make_directory;
use crate::host::Directories;
use crate::plan::Degraded;

/// Says what is worth knowing about a plan: on a terminal, unless that was said since this machine started.
pub fn notes<'a>(profile: &str, notes: impl Iterator<Item = &'a String>, directories: &Directories) {
    for note in notes {
        if !isatty(rustix::stdio::stderr()) || first_time(&(profile, note), directories) {
            talk(&format!("hamper: {}", super::error::escape(note)));
        }
    }
}

/// Says what is degraded, unless that was said since this machine started.
pub fn degraded(profile: &str, degraded: &[Degraded], directories: &Directories) {
    if degraded.is_empty() || !isatty(rustix::stdio::stderr()) {
        return;
    }
    let facts: Vec<_> = degraded.iter().map(|one| (one.what, &one.asked, &one.got)).collect();
    if !first_time(&(profile, facts), directories) {
        return;
    }
    for one in degraded {
        talk(&super::error::escape(&format!("hamper: {}: asked for {}, got {}", one.what, one.asked, one.got)));
    }
    talk("hamper: (said once; `hamper doctor` tells more)");
}

/// Says each limit that is not enforced, each time: who reads it in a log must know it as well.
pub fn limits(degraded: &[Degraded]) {
    for one in degraded.iter().filter(|one| one.what == "cgroup") {
        talk(&super::error::escape(&format!("hamper: {}: {}", one.asked, one.got)));
    }
}

/// Whether this was not said yet since this machine started; it counts as said from now on.
fn first_time(what: &impl Hash, directories: &Directories) -> bool {
    let Ok(boot) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return true };
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    let all = directories.state.join("notices");
    let directory = all.join(boot.trim());
    let mark = directory.join(format!("{:016x}", hasher.finish()));
    if mark.exists() {
        return false;
    }
    // Ignoring each failure: said twice is better than not at all.
    if !directory.exists() {
        let _ = std::fs::remove_dir_all(&all);
    }
    let _ = make_directory(&directory).map(|()| std::fs::write(&mark, ""));
    true
}
