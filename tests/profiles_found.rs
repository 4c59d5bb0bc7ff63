//! Which profile is found, what its files add up to, and which directory becomes the project.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hamper::profile::{Caller, MountKind, Opened, Origin, ProjectMode, Request, Search, open};

/// A home with a project in it.
struct World {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = std::fs::canonicalize(directory.path()).expect("root");
        let world = Self { _directory: directory, root };
        world.mode("", 0o755);
        for name in ["home", "home/app", "home/app/src"] {
            std::fs::create_dir_all(world.at(name)).expect("directory");
            world.mode(name, 0o755);
        }
        files.iter().for_each(|(name, text)| world.write(name, text));
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.at(name), std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.at(name).parent().expect("parent")).expect("parents");
        std::fs::write(self.at(name), text).expect("write");
        self.mode(name, 0o644);
    }

    fn open(&self, cwd: &str, profile: Option<&str>) -> Result<Opened, String> {
        let (cwd, home) = (self.at(cwd), self.at("home"));
        let caller = Caller { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() };
        let search = Search { cwd: &cwd, home: &home, config: &home.join(".config/hamper"), caller };
        let store = home.join(".local/share/hamper");
        let request = Request { profile, image: None, sets: &[], project: None, search, store: &store, env: &|_| None };
        open(&request).map_err(|error| error.to_string().replace(&*self.root.to_string_lossy(), "ROOT"))
    }
}

const HOST: &str = "image = \"host\"\n";

#[test]
fn the_nearest_file_upwards_within_bounds() {
    let world = World::new(&[("home/app/hamper.toml", HOST)]);
    let opened = world.open("home/app/src", None).expect("found");
    assert_eq!((opened.origin, opened.project), (Origin::Upwards, world.at("home/app")));
    assert_eq!((opened.profile.name.as_str(), opened.profile.files.len()), ("app", 1));

    let above = World::new(&[("hamper.toml", HOST), ("home/hamper.toml", HOST)]);
    assert_eq!(
        above.open("home/app/src", None).expect_err("home"),
        "no `hamper.toml` from `ROOT/home/app/src` upwards (stopped below your home `ROOT/home`)"
    );
    let at_home = above.open("home", None).expect("in the home itself");
    assert_eq!(at_home.profile.project.mode, ProjectMode::None);
    assert!(at_home.notes[0].contains("is your home; `--project DIR` names one"), "{:?}", at_home.notes);

    let open_to_all = World::new(&[("home/app/hamper.toml", HOST)]);
    open_to_all.mode("home/app", 0o777);
    let told = open_to_all.open("home/app/src", None).expect_err("others write");
    assert!(told.contains("not looked into `ROOT/home/app`, which others can write"), "{told}");
    // Given as a path it is read, since its own owner and mode are right; but it makes no project.
    assert_eq!(open_to_all.open("home/app/src", Some("../hamper.toml")).expect("path").profile.project.mode, ProjectMode::None);
}

#[test]
fn names_are_looked_up_in_order() {
    let world = World::new(&[
        ("home/app/profiles/node14.toml", "image = \"host\"\nname = \"here\"\n"),
        ("home/.config/hamper/profiles/node14.toml", "image = \"host\"\nname = \"user\"\n"),
        ("home/.config/hamper/profiles/mine.toml", HOST),
    ]);
    let here = world.open("home/app", Some("node14")).expect("here");
    assert_eq!((here.origin, here.profile.name.as_str()), (Origin::Here, "here"));
    assert!(here.notes[0].contains("`node14` is ./profiles/node14.toml, which shadows"), "{:?}", here.notes);
    let user = world.open("home/app/src", Some("node14")).expect("user");
    assert_eq!((user.origin, user.profile.name.as_str()), (Origin::User, "user"));
    assert_eq!(world.open("home/app", Some("mine")).expect("mine").profile.name, "mine");
    assert_eq!(world.open("home/app", Some("hello")).expect("shipped").origin, Origin::Shipped);
}

#[test]
fn a_named_profile_works_on_the_project_around_the_caller() {
    let world = World::new(&[]);
    let project = |world: &World, cwd| world.open(cwd, Some("python3")).expect("shipped").project;
    assert_eq!(project(&world, "home/app/src"), world.at("home/app/src"));
    std::fs::create_dir(world.at("home/app/.git")).expect("git");
    assert_eq!(project(&world, "home/app/src"), world.at("home/app"));
    world.write("home/app/src/hamper.toml", HOST);
    assert_eq!(project(&world, "home/app/src"), world.at("home/app/src"));
    let above = world.open("", Some("python3")).expect("above");
    assert_eq!(above.profile.project.mode, ProjectMode::None);
    assert!(above.notes[0].contains("contains your home"), "{:?}", above.notes);
}

#[test]
fn files_add_up_by_the_rules() {
    let base = "image = \"node:14\"\ncommand = [\"base\", \"x\"]\n[env]\nA = \"base\"\nB = \"${UNSET_BUT_OVERRULED}\"\n[network]\nmode = \"filtered\"\nallow = [\"a.org\"]\n[[mounts]]\nsource = \"data\"\ntarget = \"/data\"\n[[mounts]]\nsource = \"other\"\ntarget = \"/other\"\n[secrets.t]\nfrom = \"env:T\"\n";
    let profile = "include = [\"lib/base.toml\", \"lib/more.toml\"]\ncommand = [\"own\"]\n[env]\nB = \"own\"\n[network]\nallow = [\"b.org\", \"a.org\"]\n[[mounts]]\nsource = \"data\"\ntarget = \"/data/\"\nmode = \"rw\"\n[secrets.t]\ntarget = \"/t\"\n";
    let world = World::new(&[
        ("home/app/lib/base.toml", base),
        // A diamond: the base is read once, and what stands here comes after it.
        ("home/app/lib/more.toml", "include = [\"base.toml\"]\n[env]\nA = \"more\"\n"),
        ("home/app/hamper.toml", profile),
        ("home/app/hamper.local.toml", "[limits]\npids = 7\n"),
    ]);
    let opened = world.open("home/app/src", None).expect("valid");
    let profile = &opened.profile;
    assert_eq!(profile.command.as_deref(), Some(&["own".to_owned()][..]));
    assert_eq!(profile.env, [("A".into(), "more".into()), ("B".into(), "own".to_owned())]);
    assert_eq!(profile.network.allow, ["a.org", "b.org"]);
    assert_eq!(profile.limits.pids, Some(7));
    assert_eq!((profile.secrets.len(), profile.secrets[0].target.as_str()), (1, "/t"));
    let sources: Vec<_> = profile.mounts.iter().map(|mount| (&mount.kind, mount.read_only)).collect();
    assert!(matches!(&sources[0], (MountKind::Bind { source, .. }, false) if *source == world.at("home/app/data")), "{sources:?}");
    assert!(matches!(&sources[1], (MountKind::Bind { source, .. }, true) if *source == world.at("home/app/lib/other")), "{sources:?}");
    let names: Vec<_> = profile.files.iter().map(|file| file.strip_prefix(world.at("home/app")).expect("in").to_owned()).collect();
    assert_eq!(names, ["hamper.toml", "lib/base.toml", "lib/more.toml", "hamper.local.toml"].map(PathBuf::from));
}

#[test]
fn an_explicit_path_is_the_project_even_where_none_would_be() {
    let world = World::new(&[("home/hamper.toml", "image = \"host\"\n[project]\npath = \".\"\n")]);
    let opened = world.open("home", None).expect("valid");
    assert_eq!((opened.profile.project.mode, opened.project.as_path()), (ProjectMode::Rw, Path::new(&world.at("home"))));
}
