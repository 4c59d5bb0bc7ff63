//! The host's own programs as an image: `/usr`, the links into it, and the parts of `/etc` that programs need.

use std::path::{Path, PathBuf};

use super::facts::read_bounded;
use super::sources::{Opened, SourceError, open_source};

/// Top-level directories that are either links into `/usr` or directories of their own.
const TOP: [&str; 7] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr"];

/// What programs read in `/etc` that says nothing about the people and services of this machine.
const ETC: [&str; 26] = [
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/bash_completion.d",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/lsb-release",
    "/etc/magic",
    "/etc/magic.mime",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/perl",
    "/etc/pki",
    "/etc/protocols",
    "/etc/python3",
    "/etc/services",
    "/etc/ssl",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Links, and sources to bind at their own paths.
pub struct HostTree {
    pub links: Vec<(String, String)>,
    pub binds: Vec<Opened>,
}

/// Opens everything that the image `host` consists of; what this host does not have is left out.
///
/// # Errors
/// [`SourceError`] for a directory that is there and cannot be opened.
pub fn host_tree() -> Result<HostTree, SourceError> {
    let mut tree = HostTree { links: Vec::new(), binds: Vec::new() };
    for path in TOP {
        match std::fs::read_link(path) {
            Ok(target) => tree.links.push((path.to_owned(), target.to_string_lossy().into_owned())),
            Err(_) => bind(&mut tree, path)?,
        }
    }
    ETC.iter().try_for_each(|path| bind(&mut tree, path))?;
    Ok(tree)
}

fn bind(tree: &mut HostTree, path: &str) -> Result<(), SourceError> {
    match open_source(Path::new(path)) {
        Ok(opened) => tree.binds.push(opened),
        Err(SourceError::Open { source: rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS, .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
    pub shell: String,
}

/// The caller, from `/etc/passwd`; a user of a directory service has no line there and is known by number and `HOME`.
pub fn host_user(uid: u32, gid: u32, home: &Path) -> HostUser {
    let known = read_bounded(Path::new("/etc/passwd")).and_then(|text| text.lines().find_map(|line| passwd_line(line, uid)));
    known.unwrap_or_else(|| HostUser { name: format!("user{uid}"), uid, gid, home: home.to_owned(), shell: "/bin/sh".into() })
}

fn passwd_line(line: &str, wanted: u32) -> Option<HostUser> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = PathBuf::from(fields.nth(1)?);
    let shell = fields.next()?.to_owned();
    (uid == wanted).then_some(HostUser { name, uid, gid, home, shell })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let user = passwd_line("alice:x:1000:100:Alice,,,:/home/alice:/bin/zsh", 1000).expect("a line");
        assert_eq!((user.name.as_str(), user.gid, user.home.as_path()), ("alice", 100, Path::new("/home/alice")));
        assert_eq!(passwd_line("alice:x:1000:100:Alice,,,:/home/alice:/bin/zsh", 1), None);
        assert_eq!(passwd_line("broken:x:1000", 1000), None);
    }
}
