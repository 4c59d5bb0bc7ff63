//! Images from the store, with the skeleton that makes them ready to start.

use super::error::CliError;
use super::image_facts::{ImageFacts, hosts_file};
use super::progress::Display;
use super::start::Effects;
use crate::host::{Directories, Host};
use crate::plan::{self, Image, Lower, User, inside_home};
use crate::profile::{HomeMode, MapMode, Missing, Mount, MountKind, NetworkMode, Preset, Profile, ProjectMode, Pull, RootMode, signal};
use crate::rootfs::{
    self, Ownership, Prepared, Progress, PublishedTree, ResolvedUser, Skeleton, Stack, Wishes, ensure_skeleton, foresee_skeleton, prepare,
};
use crate::store::{LayerName, Store};

/// Finds the image in the store, or loads it; makes its skeleton where that is missing.
///
/// # Errors
/// [`CliError::Rootfs`] of the load or the lookup.
pub fn store_image(
    profile: &Profile,
    directories: &Directories,
    host: &Host,
    project: Option<&str>,
    offline: bool,
    effects: Effects,
) -> Result<ImageFacts, CliError> {
    let load = effects == Effects::All;
    let display = Display::new(false);
    let reach = super::registries::reach(&display);
    let origin = super::image_push::again(&display, offline || profile.pull == Pull::Never);
    let progress = |progress: Progress<'_>| display.load(&progress);
    let stores = || super::settings::stores(&directories.config);
    let request = rootfs::Request {
        source: &profile.image,
        platform: &profile.platform,
        pull: if offline || !load { Pull::Never } else { profile.pull },
        load,
        ownership: ownership(profile, host),
        user: profile.identity.user.as_ref(),
        names: None,
        locked: profile.locked.as_deref(),
        keep_blobs: false,
        stores: Some(&stores),
        registry: (load && !offline).then_some(&reach),
        origin: load.then_some(&origin),
        progress: Some(&progress),
    };
    let failed = |source| CliError::Rootfs { source };
    let opened = if load { Store::open(&directories.data).map(Some) } else { Store::find(&directories.data) };
    let store = opened.map_err(|error| failed(error.into()))?.ok_or_else(|| failed(rootfs::not_loaded(&request)))?;
    let ready = match make_ready(&store, &request, profile, project) {
        // What is missing is found where it is first needed: a start does not look for what should be there.
        Err((error, Some(prepared))) => match rootfs::forget_torn(&store, &request, &prepared) {
            Ok(true) if load => make_ready(&store, &request, profile, project).map_err(|(error, _)| error),
            Ok(true) => Err(rootfs::not_loaded(&request)),
            _ => Err(error),
        },
        result => result.map_err(|(error, _)| error),
    };
    let Ready { prepared, user, names, published, skeleton } = ready.map_err(failed)?;
    let is_root = (user.uid, user.gid) == (0, 0);
    let mut lower: Vec<Lower> = match &prepared.tree {
        rootfs::Tree::Directory(path) => vec![Lower::Directory(path.clone())],
        _ => names.iter().map(|name| Lower::Layer(name.as_str().to_owned())).collect(),
    };
    lower.push(Lower::Layer(skeleton.name));
    // The process needs it to its end, which closes it.
    std::mem::forget(store);
    let Prepared { digest, config, notes, lease, .. } = prepared;
    Ok(ImageFacts {
        image: Image {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            environment: config.env,
            workdir: config.workdir.unwrap_or_default(),
            volumes: config.volumes,
            user,
            tree: plan::Tree::Layers(lower),
            home_is_empty: skeleton.home_is_empty,
            root_owner: (!is_root).then_some((0, 0)),
        },
        digest: digest.to_string(),
        stop_signal: config.stop_signal.as_deref().and_then(|text| signal(text).ok()),
        root: (skeleton.mode, skeleton.modified),
        notes,
        opened: Vec::new(),
        published,
        _lease: lease,
    })
}

struct Ready {
    prepared: Prepared,
    user: User,
    names: Vec<LayerName>,
    published: Vec<PublishedTree>,
    skeleton: Skeleton,
}

/// The image and its skeleton; with an error, the image where that was found.
fn make_ready(
    store: &Store,
    request: &rootfs::Request<'_>,
    profile: &Profile,
    project: Option<&str>,
) -> Result<Ready, (rootfs::Error, Option<Box<Prepared>>)> {
    let prepared = prepare(store, request).map_err(|error| (error, None))?;
    let user = payload_user(&prepared.user);
    let names: Vec<LayerName> = match &prepared.tree {
        rootfs::Tree::Layers { names } => names.clone(),
        _ => Vec::new(),
    };
    let wishes = wishes(profile, &prepared, &user, project);
    let published = match rootfs::open_published(store, &prepared.published) {
        Ok(published) => published,
        Err(error) => return Err((error, Some(Box::new(prepared)))),
    };
    let stack = || match &prepared.tree {
        rootfs::Tree::Directory(path) => Stack::of_directory(path),
        _ => Stack::with_published(store.layers()?, prepared.content.as_ref().unwrap_or(&names), &published),
    };
    let mut image_key = String::with_capacity(80 + 23 * names.len());
    image_key.push_str(&prepared.digest.to_string());
    for name in &names {
        image_key.push(' ');
        image_key.push_str(name.as_str());
    }
    let skeleton = match request.load {
        true => ensure_skeleton(store, &image_key, &wishes, request.ownership, stack),
        false => foresee_skeleton(store, &image_key, &wishes, request.ownership, stack),
    };
    match skeleton {
        Ok(skeleton) => Ok(Ready { prepared, user, names, published, skeleton }),
        Err(error) => Err((error, Some(Box::new(prepared)))),
    }
}

/// How the layers are unpacked goes with how ids are mapped.
fn ownership(profile: &Profile, host: &Host) -> Ownership {
    let range = |range: crate::host::SubRange| rootfs::SubRange { start: range.start, count: range.count };
    match (profile.identity.map, host.ranges) {
        (MapMode::Single, _) | (_, None) => Ownership::Single,
        (_, Some((uids, gids))) => Ownership::Range { uids: range(uids), gids: range(gids) },
    }
}

/// A user whom the image does not know gets a home of its own.
fn payload_user(user: &ResolvedUser) -> User {
    let home = match (&user.name, user.uid) {
        (Some(_), _) => user.home.clone(),
        (None, 0) => "/root".into(),
        (None, uid) => format!("/home/user{uid}"),
    };
    User { uid: user.uid, gid: user.gid, groups: user.groups.clone(), home }
}

fn wishes(profile: &Profile, prepared: &Prepared, user: &User, project: Option<&str>) -> Wishes {
    let mut wishes = Wishes { home: user.home.clone(), user: (user.uid, user.gid), ..Wishes::default() };
    if profile.identity.home == HomeMode::None {
        wishes.home = "/".into();
    }
    let target = |mount: &&Mount| inside_home(&mount.target, &user.home);
    let inside_project = |target: &String| project.is_some_and(|project| std::path::Path::new(target).starts_with(project));
    let below_home = |target: &String| std::path::Path::new(target).starts_with(&user.home);
    // What lies in a mount of its own is made there when it is mounted.
    let own = |target: &String| !inside_project(target) && !below_home(target);
    // A missing source is told when it is opened.
    let is_file = |mount: &&Mount| matches!(&mount.kind, MountKind::Bind { source, .. } if source.exists() && !source.is_dir());
    let is_left_out = |mount: &&Mount| matches!(&mount.kind, MountKind::Bind { source, missing: Missing::Skip } if !source.exists());
    let (files, directories): (Vec<&Mount>, Vec<&Mount>) = profile.mounts.iter().filter(|mount| !is_left_out(mount)).partition(is_file);
    wishes.directories = directories.iter().map(target).filter(own).collect();
    wishes.file_points = files.iter().map(target).filter(own).collect();
    if profile.project.mode != ProjectMode::None {
        wishes.directories.extend(project.map(str::to_owned));
    }
    if profile.root.tmp.is_some() || profile.root.mode == RootMode::Ro {
        wishes.directories.push("/tmp".into());
        wishes.directories.push("/run".into());
    }
    // They are there whether anything is mounted on them or not.
    wishes.directories.extend(prepared.config.volumes.iter().cloned());
    if !profile.secrets.is_empty() {
        wishes.directories.push("/run/secrets".into());
    }
    wishes.files.push(("/etc/hosts".into(), hosts_file(profile).into_bytes()));
    wishes.files.push(("/etc/hostname".into(), format!("{}\n", profile.hostname).into_bytes()));
    match profile.network.mode {
        NetworkMode::Host => wishes.files.push(("/etc/resolv.conf".into(), Vec::new())),
        _ => wishes.files.push(("/etc/resolv.conf".into(), b"# no network\n".to_vec())),
    }
    if profile.security.preset != Preset::Build
        && let Some(zone) = local_time()
    {
        wishes.files.push(("/etc/localtime".into(), zone));
    }
    let User { uid, gid, home, .. } = user;
    let shell = prepared.user.shell.as_deref().unwrap_or("/bin/sh");
    if prepared.user.name.is_none() {
        let name = if *uid == 0 { "root".to_owned() } else { format!("user{uid}") };
        wishes.passwd = Some(format!("{name}:x:{uid}:{gid}:{name}:{home}:{shell}"));
    }
    if !prepared.user.known_group {
        let name = if *gid == 0 { "root".to_owned() } else { format!("group{gid}") };
        wishes.group = Some(format!("{name}:x:{gid}:"));
    }
    wishes
}

/// A time zone file is a few kilobytes, tzfile(5).
const MAX_ZONE: usize = 8 << 10;

fn local_time() -> Option<Vec<u8>> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    // One buffer and one read: this is on the way of every start.
    let mut bytes = vec![0; MAX_ZONE];
    let file = openat(CWD, c"/etc/localtime", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let length = rustix::io::read(crate::sys::keep_open(file), &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}
