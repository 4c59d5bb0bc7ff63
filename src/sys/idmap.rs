//! User namespace id maps, and the two setuid programs that write those with more than one id.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;
use serde::Serialize;

/// One line of uid_map(5): `count` ids from `inside` on are `outside` and up on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    #[serde(rename = "container_id")]
    pub inside: u32,
    #[serde(rename = "host_id")]
    pub outside: u32,
    #[serde(rename = "size")]
    pub count: u32,
}

/// A map as the kernel's file takes it.
pub fn format_map(extents: &[Extent]) -> String {
    let mut text = String::new();
    for Extent { inside, outside, count } in extents {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// Where shadow-utils (Debian: uidmap) puts its programs. They are setuid, so only these root-owned paths are used, never PATH.
pub const MAP_PROGRAMS: [&str; 2] = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"];

/// Why a range map could not be written.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    #[error("cannot start {program}")]
    Start { program: &'static str, source: std::io::Error },
    #[error("{program} refused: {words}")]
    Refused { program: &'static str, words: String },
}

/// Writes both maps of `process` by newuidmap(1) and newgidmap(1), both at once.
///
/// # Errors
/// [`IdMapError::Start`] where a program is missing; [`IdMapError::Refused`] with the program's own words where the range is not in
/// subuid(5) or subgid(5), or where this process has no_new_privs or stands in another user namespace.
pub fn write_maps_with_programs(process: Pid, uids: &[Extent], gids: &[Extent]) -> Result<(), IdMapError> {
    let start = |program: &'static str, extents: &[Extent]| {
        let numbers = extents.iter().flat_map(|extent| [extent.inside, extent.outside, extent.count]);
        Command::new(Path::new(program))
            .arg(process.as_raw_nonzero().to_string())
            .args(numbers.map(|number| number.to_string()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| IdMapError::Start { program, source })
    };
    let finish = |program: &'static str, child: std::process::Child| {
        let output = child.wait_with_output().map_err(|source| IdMapError::Start { program, source })?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(IdMapError::Refused { program, words })
    };
    let uid_child = start(MAP_PROGRAMS[0], uids)?;
    let gid_child = start(MAP_PROGRAMS[1], gids);
    finish(MAP_PROGRAMS[0], uid_child)?;
    finish(MAP_PROGRAMS[1], gid_child?)
}
