//! The image as a plan needs it: the host's own tree, or what the store has unpacked.

use std::os::fd::OwnedFd;

use super::error::CliError;
use super::start::Effects;
use crate::host::{Directories, Host, host_tree, host_user};
use crate::plan::{Image, Node, Tree, User};
use crate::profile::{IdOrName, ImageSource, NetworkMode, Profile};
use crate::rootfs::{Lease, PublishedTree};

/// The image, and what only the start of it needs to know.
pub struct ImageFacts {
    pub image: Image,
    pub digest: String,
    /// Number of the image's STOPSIGNAL.
    pub stop_signal: Option<i32>,
    /// Permission bits and modification time of the merged root directory.
    pub root: (u32, (i64, i64)),
    pub notes: Vec<String>,
    /// Sources of the host tree.
    pub opened: Vec<OwnedFd>,
    /// Lower directories that are another's.
    pub published: Vec<PublishedTree>,
    /// Keeps the layers from being pruned, to the end of the process.
    pub _lease: Option<Lease>,
}

/// Resolves the profile's image; loads it where that is needed and allowed.
///
/// # Errors
/// [`CliError`] of the room that failed.
pub fn image_facts(
    profile: &Profile,
    directories: &Directories,
    host: &Host,
    project: Option<&str>,
    offline: bool,
    effects: Effects,
) -> Result<ImageFacts, CliError> {
    match &profile.image {
        ImageSource::Host => host_image(profile, directories, host),
        _ => super::image_facts_store::store_image(profile, directories, host, project, offline, effects),
    }
}

fn host_image(profile: &Profile, directories: &Directories, host: &Host) -> Result<ImageFacts, CliError> {
    let user = host_user(host.uid, host.gid, &directories.home);
    let (uid, gid) = match &profile.identity.user {
        None => (host.uid, host.gid),
        Some(spec) => {
            let id = |part: &IdOrName, own: u32| match part {
                IdOrName::Id(id) => Ok(*id),
                IdOrName::Name(name) if *name == user.name => Ok(own),
                IdOrName::Name(name) if name == "root" => Ok(0),
                IdOrName::Name(name) => Err(CliError::HostUser { name: name.clone() }),
            };
            (id(&spec.user, host.uid)?, spec.group.as_ref().map_or(Ok(host.gid), |group| id(group, host.gid))?)
        }
    };
    let home = if uid == 0 { "/root".to_owned() } else { user.home.to_string_lossy().into_owned() };
    let tree = host_tree()?;
    let file = |path: &str, content: String| (path.to_owned(), Node::File { mode: 0o644, content });
    let own_line = if uid == 0 { String::new() } else { format!("{}:x:{uid}:{gid}:{}:{home}:{}\n", user.name, user.name, user.shell) };
    let own_group = if gid == 0 { String::new() } else { format!("{}:x:{gid}:\n", user.name) };
    let mut nodes: Vec<(String, Node)> = vec![("/etc".to_owned(), Node::Directory { mode: 0o755 })];
    nodes.extend(tree.links.into_iter().map(|(path, target)| (path, Node::Link { target })));
    nodes.push(file(
        "/etc/passwd",
        format!("root:x:0:0:root:/root:/bin/sh\n{own_line}nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    ));
    nodes.push(file("/etc/group", format!("root:x:0:\n{own_group}nogroup:x:65534:\n")));
    nodes.push(file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()));
    nodes.push(file("/etc/hostname", format!("{}\n", profile.hostname)));
    nodes.push(file("/etc/hosts", hosts_file(profile)));
    if profile.network.mode != NetworkMode::Host {
        nodes.push(file("/etc/resolv.conf", String::new()));
    }
    for directory in ["/var", "/var/tmp", "/run", "/mnt", "/opt", "/srv"] {
        let mode = if directory == "/var/tmp" { 0o1777 } else { 0o755 };
        nodes.push((directory.to_owned(), Node::Directory { mode }));
    }
    let (sources, opened) = tree.binds.into_iter().map(|opened| (opened.source, opened.fd)).unzip();
    Ok(ImageFacts {
        image: Image {
            entrypoint: Vec::new(),
            cmd: vec![user.shell.clone()],
            environment: vec![("USER".into(), user.name.clone()), ("LOGNAME".into(), user.name), ("SHELL".into(), user.shell)],
            workdir: String::new(),
            volumes: Vec::new(),
            user: User { uid, gid, groups: Vec::new(), home },
            tree: Tree::Host { binds: sources, nodes },
            home_is_empty: true,
            root_owner: None,
        },
        digest: "host".into(),
        stop_signal: None,
        root: (0o755, (0, 0)),
        notes: Vec::new(),
        opened,
        published: Vec::new(),
        _lease: None,
    })
}

/// hosts(5) of the sandbox.
pub fn hosts_file(profile: &Profile) -> String {
    let mut text = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{}\n", profile.hostname);
    for (name, address) in &profile.network.hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}
