//! Who the payload is inside: `user[:group]` against the image's passwd and group files, as Docker reads them.

use serde::{Deserialize, Serialize};

use super::{Error, Stack};
use crate::image::shown;
use crate::profile::{IdOrName, UserSpec};

/// Larger than any passwd file of an image; a directory service belongs on the host.
const MAX_FILE: u64 = 1 << 20;
/// NGROUPS_MAX of the kernel is 65536; nobody is in more groups than this, and the list is handed to setgroups(2).
const MAX_GROUPS: usize = 1024;

/// A user with everything that a process of theirs starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, sorted; none where the group was named explicitly, as Docker does it.
    pub groups: Vec<u32>,
    pub home: String,
    pub shell: Option<String>,
    /// As the image's passwd says; absent for a number that it does not know.
    pub name: Option<String>,
    /// The image's group file knows `gid`.
    pub known_group: bool,
}

/// Parses an image's USER. A part that is all digits is a number and never a name (CVE-2016-3697); it must fit into an id and not
/// be the one that the kernel takes as "no change" (CVE-2024-40635).
pub fn parse(text: &str) -> Result<UserSpec, Error> {
    let bad = |reason| Error::BadUser { text: shown(text.as_bytes()), reason };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    // Docker takes `:group` as root with that group.
    let user = if user.is_empty() { IdOrName::Id(0) } else { part(user).map_err(bad)? };
    let group = group.filter(|group| !group.is_empty()).map(part).transpose().map_err(bad)?;
    Ok(UserSpec { user, group })
}

fn part(text: &str) -> Result<IdOrName, &'static str> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(u32::MAX) | Err(_) => Err("a number must be below 4294967295"),
            Ok(id) => Ok(IdOrName::Id(id)),
        };
    }
    let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b':' | b'/' | b',');
    if text.starts_with(['-', '+']) || text.bytes().any(odd) || text.len() > 256 {
        return Err("a name may not start with `-` or `+`, nor have spaces, `/`, `,` or other odd characters");
    }
    Ok(IdOrName::Name(text.to_owned()))
}

struct Passwd<'f> {
    name: &'f str,
    uid: u32,
    gid: u32,
    home: &'f str,
    shell: &'f str,
}

struct Group<'f> {
    name: &'f str,
    gid: u32,
    members: &'f str,
}

/// Resolves `spec` in the image; what is wrong with the files matters only where they are needed.
pub fn resolve(stack: &Stack, spec: &UserSpec) -> Result<ResolvedUser, Error> {
    let passwd = read(stack, "etc/passwd", matches!(spec.user, IdOrName::Name(_)))?;
    let line = find_user(&passwd, &spec.user);
    let uid = match (&spec.user, &line) {
        (IdOrName::Id(id), _) => *id,
        (_, Some(line)) => line.uid,
        (IdOrName::Name(name), None) => return Err(Error::NoUser(shown(name.as_bytes()))),
    };
    let group = read(stack, "etc/group", matches!(spec.group, Some(IdOrName::Name(_))))?;
    let gid = match &spec.group {
        Some(IdOrName::Id(id)) => *id,
        Some(IdOrName::Name(name)) => {
            groups(&group).find(|group| group.name == name).ok_or_else(|| Error::NoGroup(shown(name.as_bytes())))?.gid
        }
        None => line.as_ref().map_or(0, |line| line.gid),
    };
    let supplementary = match (&spec.group, &line) {
        (None, Some(line)) => member_of(&group, line.name, gid),
        _ => Vec::new(),
    };
    let home = line.as_ref().map(|line| line.home).filter(|home| home.starts_with('/')).unwrap_or("/");
    Ok(ResolvedUser {
        uid,
        gid,
        groups: supplementary,
        home: home.to_owned(),
        shell: line.as_ref().map(|line| line.shell).filter(|shell| shell.starts_with('/')).map(str::to_owned),
        name: line.as_ref().map(|line| line.name.to_owned()),
        known_group: groups(&group).any(|group| group.gid == gid),
    })
}

fn read(stack: &Stack, path: &str, needed: bool) -> Result<String, Error> {
    match stack.read(path.as_bytes(), MAX_FILE) {
        // Names outside of UTF-8 match nobody that a profile can write.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()),
        Err(error) if needed => Err(error),
        Err(_) => Ok(String::new()),
    }
}

fn find_user<'f>(text: &'f str, wanted: &IdOrName) -> Option<Passwd<'f>> {
    text.lines().filter_map(passwd_line).find(|line| match wanted {
        IdOrName::Id(id) => line.uid == *id,
        IdOrName::Name(name) => line.name == name,
    })
}

/// `None`: not a line of a user, such as `+::::::` of NIS; libc skips those too.
fn passwd_line(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid, _) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Passwd {
        name: Some(name).filter(|name| !name.is_empty())?,
        uid: id(uid)?,
        gid: id(gid)?,
        home: fields.next().unwrap_or(""),
        shell: fields.next().unwrap_or(""),
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Group { name: Some(name).filter(|name| !name.is_empty())?, gid: id(gid)?, members: fields.next().unwrap_or("") })
    })
}

/// Only digits, and not "no change": `+0`, ` 0` and 4294967296 are nobody.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

fn member_of(text: &str, name: &str, primary: u32) -> Vec<u32> {
    let mut list: Vec<u32> = groups(text)
        .filter(|group| group.gid != primary && group.members.split(',').any(|member| member == name))
        .map(|group| group.gid)
        .take(MAX_GROUPS)
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n+::::::\nnode:x:1000:1000::/home/node:/bin/bash\n1000:x:0:0::/evil:/bin/sh\nbad:x:4294967295:0::/:\n\nshort:x:5\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:node,other\nvideo:x:44:other,node\nnode:x:1000:\nempty:x:x:node\n";

    fn resolve_text(text: &str) -> Result<ResolvedUser, Error> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), PASSWD).unwrap();
        std::fs::write(directory.path().join("etc/group"), GROUP).unwrap();
        resolve(&Stack::of_directory(directory.path()).unwrap(), &parse(text)?)
    }

    #[test]
    fn resolves_as_docker_does() {
        for (text, uid, gid, groups, home, known) in [
            ("root", 0, 0, vec![], "/root", true),
            ("node", 1000, 1000, vec![29, 44], "/home/node", true),
            ("1000", 1000, 1000, vec![29, 44], "/home/node", true),
            ("node:audio", 1000, 29, vec![], "/home/node", true),
            ("node:7", 1000, 7, vec![], "/home/node", false),
            ("4242", 4242, 0, vec![], "/", true),
            ("4242:4243", 4242, 4243, vec![], "/", false),
            (":audio", 0, 29, vec![], "/root", true),
            ("node:", 1000, 1000, vec![29, 44], "/home/node", true),
        ] {
            let user = resolve_text(text).unwrap();
            assert_eq!((user.uid, user.gid, user.groups, user.home.as_str(), user.known_group), (uid, gid, groups, home, known), "{text}");
        }
    }

    #[test]
    fn refuses_odd_users() {
        for text in [
            "nosuch",
            "bad",
            "root:nosuch",
            "4294967295",
            "4294967296",
            "0:4294967296",
            "-1",
            "+0",
            " 0",
            "0 ",
            "a b",
            "99999999999999999999",
            "root:a:b",
            "no/de",
            "node\n",
        ] {
            assert!(resolve_text(text).is_err(), "{text:?}");
        }
    }
}
