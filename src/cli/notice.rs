//! What was asked for and cannot be had is said once for each boot and profile, and on a terminal only; the report has it always.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use super::output::talk;
use super::state::make_directory;
use crate::host::Directories;
use crate::plan::Degraded;

/// Says what is degraded, unless that was said since this machine started.
pub fn degraded(profile: &str, degraded: &[Degraded], directories: &Directories) {
    use rustix::termios::isatty;
    if degraded.is_empty() || !isatty(rustix::stdio::stderr()) {
        return;
    }
    let Ok(boot) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return };
    let mut hasher = DefaultHasher::new();
    (boot.trim(), profile).hash(&mut hasher);
    degraded.iter().for_each(|one| (one.what, &one.asked, &one.got).hash(&mut hasher));
    let directory = directories.state.join("notices");
    let mark = directory.join(format!("{:016x}", hasher.finish()));
    if mark.exists() {
        return;
    }
    for one in degraded {
        talk(&format!("hamper: {}: asked for {}, got {}", one.what, one.asked, one.got));
    }
    talk("hamper: (said once; `hamper doctor` tells more)");
    // Ignoring: said twice is better than not at all.
    let _ = make_directory(&directory).map(|()| std::fs::write(&mark, ""));
}
