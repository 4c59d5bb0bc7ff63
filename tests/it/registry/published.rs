//! Published stores: many read what one has written, nothing is copied, nothing is taken unseen.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{kept, layout};
use crate::require;
use crate::support::{Hamper, Seen, TestEnv, has_image, maps, peer, seconds, shared, subuid, user_name};

fn hamper(env: &TestEnv, arguments: &[&str]) -> Seen {
    env.hamper([&["image", "--map", "single"], arguments].concat()).output().any()
}

/// A name that no registry answers to.
const NAME: &str = "localhost:1/team/tool:1";

/// Publishes a test image as [`NAME`].
fn publish(env: &TestEnv, image: &str) -> PathBuf {
    let directory = env.root().join("published");
    hamper(env, &["load", &layout(image), "--name", NAME]).code(0);
    hamper(env, &["publish", &directory.display().to_string(), NAME]).code(0).told(&["HAMPER_STORES="]);
    directory
}

/// The tree of an image with one layer.
fn tree(directory: &Path) -> PathBuf {
    let mut paths = fs::read_dir(directory.join("layers")).expect("layers").flatten().map(|entry| entry.path());
    paths.find(|path| path.is_dir()).expect("a tree")
}

/// Runs a command where the ids of the range are, and the caller is root.
fn in_range(env: &TestEnv, command: &[&str]) {
    env.program("unshare", [&["--map-auto", "--map-root-user"], command].concat()).output().code(0);
}

/// Gives a published store to somebody else.
fn give_away(env: &TestEnv, directory: &Path) {
    in_range(env, &["chown", "-R", "7:7", &directory.display().to_string()]);
}

fn take_back(env: &TestEnv, directory: &Path) {
    in_range(env, &["chown", "-R", "0:0", &directory.display().to_string()]);
}

/// KiB of a store's layers.
fn room(env: &TestEnv) -> u64 {
    let layers = env.store().join("layers").display().to_string();
    let out = env.program("unshare", ["--map-auto", "--map-root-user", "du", "-sk", &layers]).output().ok();
    out.split('\t').next().expect("size").parse().expect("KiB")
}

/// A run of the published image by another user.
fn run(env: &TestEnv, directory: &Path) -> Hamper {
    env.run(NAME).env("HAMPER_STORES", directory).args(["--entrypoint", ""])
}

fn sh(env: &TestEnv, directory: &Path, map: &str, script: &str) -> Seen {
    run(env, directory).map(map).payload(["sh", "-c", script]).output().any()
}

#[test]
fn what_somebody_published_runs_without_a_copy() {
    require!(subuid().is_some() && has_image("debian"), "a range of ids and the test images");
    let admin = TestEnv::alone();
    let directory = publish(&admin, "debian");
    give_away(&admin, &directory);
    for map in maps() {
        let env = TestEnv::alone();
        let out =
            sh(&env, &directory, map, "cat /etc/debian_version; stat -c '%a %n' / /root /tmp /etc /etc/shadow /var/mail /usr/bin/env");
        let out = out.code(0).stdout;
        let wanted = TestEnv::alone();
        let own = wanted.run(&layout("debian")).map(map).args(["--entrypoint", ""]);
        let own =
            own.payload(["sh", "-c", "cat /etc/debian_version; stat -c '%a %n' / /root /tmp /etc /etc/shadow /var/mail /usr/bin/env"]);
        assert_eq!(out, own.output().ok(), "{map}");
        // No file of the image is in the user's store, but for the few that others may not read there.
        let (bytes, control) = (room(&env), room(&wanted));
        assert!(bytes < control / 4, "{bytes} KiB, of {control}");
        // What is made, replaced and removed stays in the sandbox; the second run begins anew.
        let script = "echo new >/etc/new && rm /usr/bin/env && sed -i s/root/toor/ /etc/passwd && grep -q toor /etc/passwd && mkdir /usr/lib/x \
                      && rm -r /usr/share/doc && echo x >/var/cache/x && ! ls /usr/bin/env";
        sh(&env, &directory, map, script).code(0);
        sh(&env, &directory, map, "[ ! -e /etc/new ] && [ -e /usr/bin/env ] && [ -d /usr/share/doc ] && ! grep -q toor /etc/passwd")
            .code(0);
        // It lies there with a modest mode.
        let open =
            env.program("find", [&directory.display().to_string(), "-perm", "/7022", "!", "-type", "l"].map(|one| one)).output().ok();
        assert_eq!(open, "", "writable by others, or with a setuid bit");
    }
    take_back(&admin, &directory);
}

#[test]
fn forty_users_start_at_once() {
    require!(subuid().is_some(), "a range of ids");
    let admin = TestEnv::alone();
    let directory = publish(&admin, "busybox");
    give_away(&admin, &directory);
    let users: Vec<TestEnv> = (0..40).map(|_| TestEnv::alone()).collect();
    for users in users.chunks(10) {
        let running: Vec<_> =
            users.iter().map(|env| run(env, &directory).map("single").payload(["sh", "-c", "echo x >/x; exit 4"]).spawn()).collect();
        for one in running {
            one.output().code(4);
        }
    }
    // They have written nothing there.
    let newer = admin.program(
        "find",
        [&directory.display().to_string(), "-newer", &directory.join("hamper-store").display().to_string(), "-name", "*lock*"],
    );
    assert_eq!(newer.output().ok(), "");
    for env in &users {
        assert!(kept(env, "layers").iter().any(|name| env.store().join("layers").join(name).is_symlink()));
    }
    take_back(&admin, &directory);
}

/// As the user who is called first, where there are two.
#[test]
fn what_one_user_publishes_is_left_for_others() {
    require!(has_image("debian"), "the test images");
    let Some(shared) = shared() else { return };
    let (admin, directory) = (TestEnv::alone(), shared.join(user_name()).join("published"));
    fs::create_dir_all(directory.parent().expect("parent")).expect("directory");
    hamper(&admin, &["load", &layout("debian"), "--name", NAME]).code(0);
    hamper(&admin, &["publish", &directory.display().to_string(), NAME]).code(0);
    // Who publishes reads it as all others do, and so does who unpacks it.
    let (reader, out) = (TestEnv::alone(), admin.root().join("out").display().to_string());
    reader.hamper(["image", "unpack", NAME, &out]).env("HAMPER_STORES", &directory).output().code(0);
    assert!(fs::metadata(format!("{out}/etc/debian_version")).is_ok());
    let _ = sh(&TestEnv::alone(), &directory, "single", "exit 4").code(4);
}

#[test]
fn two_users_run_one_published_image() {
    require!(has_image("debian"), "the test images");
    require!(shared().is_some() && peer().is_some(), "a second user who publishes, which tests/run has where it is root");
    let directory = shared().expect("shared").join(peer().expect("peer")).join("published");
    let owner = fs::metadata(&directory).expect("published").uid();
    assert!(owner != crate::support::uid() && owner != 0, "{owner}");
    let state = || {
        let out = TestEnv::alone().program("find", [&*directory.display().to_string(), "-printf", "%p %U %m %C@ %s\n"]).output().ok();
        assert!(out.lines().count() > 1000);
        out
    };
    let before = state();
    for map in maps() {
        let (env, control) = (TestEnv::alone(), TestEnv::alone());
        let script = "cat /etc/debian_version /etc/shadow; stat -c '%a %n' / /tmp /etc/shadow; ls -a /root /usr | md5sum; rm /usr/bin/env; echo x >/usr/y";
        let out = sh(&env, &directory, map, script).code(0).stdout;
        let own = control.run(&layout("debian")).map(map).args(["--entrypoint", ""]).payload(["sh", "-c", script]).output().ok();
        assert_eq!(out, own, "{map}");
        assert!(kept(&env, "layers").iter().any(|name| env.store().join("layers").join(name).is_symlink()));
        // The second is warm, and the payload is still the caller: what it writes into the project is.
        let _ = sh(&env, &directory, map, "test -e /usr/bin/env && ! test -e /usr/y && echo x >made").code(0);
        assert_eq!(fs::metadata(env.project().join("made")).expect("made").uid(), crate::support::uid());
        // The one file of another's that it may not have is out of reach, not only for the payload.
        assert!(fs::write(directory.join("references/x"), "").is_err());
    }
    assert_eq!(state(), before, "nothing of it was touched");
}

#[test]
fn layers_lie_over_each_other_as_ever() {
    require!(subuid().is_some() && has_image("whiteouts"), "a range of ids and the test images");
    for image in ["whiteouts", "layers8", "buildah-multistage"] {
        let (admin, env, own) = (TestEnv::alone(), TestEnv::alone(), TestEnv::alone());
        let directory = publish(&admin, image);
        give_away(&admin, &directory);
        let script = "cd / && { find . -xdev -type f -exec md5sum {} \\;; find . -xdev; } | grep -v '^./\\(proc\\|sys\\|dev\\|var/tmp\\)' | sort | md5sum; \
                      find / -xdev -type f | wc -l";
        let seen = sh(&env, &directory, "single", script).code(0).stdout;
        let wanted =
            own.run(&layout(image)).map("single").args(["--entrypoint", ""]).payload(["sh", "-c", script]).output().any().code(0).stdout;
        assert_eq!(seen, wanted, "{image}");
        take_back(&admin, &directory);
    }
}

#[test]
fn each_tree_is_verified_before_it_is_used() {
    let admin = TestEnv::alone();
    let directory = publish(&admin, "busybox");
    let (early, late) = (TestEnv::alone(), TestEnv::alone());
    sh(&early, &directory, "single", "exit 4").code(4);
    let tree = tree(&directory);
    let file = tree.join("bin/busybox");
    let mut bytes = fs::read(&file).expect("file");
    let times = fs::metadata(&file).expect("file").modified().expect("time");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).expect("file");
    // The time is what it was; only the content is not.
    fs::File::options().write(true).open(&file).expect("file").set_modified(times).expect("time");
    sh(&late, &directory, "single", "exit 4").code(125).told(&["was published with", "hint: "]);
    assert!(kept(&late, "layers").iter().all(|name| name.ends_with(".owners")), "{:?}", kept(&late, "layers"));
    // A file more, a mode, a document: each is seen.
    bytes[last] ^= 1;
    fs::write(&file, &bytes).expect("file");
    fs::File::options().write(true).open(&file).expect("file").set_modified(times).expect("time");
    let directory_time = fs::metadata(tree.join("bin")).expect("directory").modified().expect("time");
    fs::write(tree.join("bin/zz-more"), "x").expect("file");
    fs::File::open(tree.join("bin")).expect("directory").set_modified(directory_time).expect("time");
    sh(&late, &directory, "single", "exit 4").code(125).told(&["was published with"]);
    fs::remove_file(tree.join("bin/zz-more")).expect("file");
    fs::File::open(tree.join("bin")).expect("directory").set_modified(directory_time).expect("time");
    // The control: as it was, it runs.
    sh(&late, &directory, "single", "exit 4").code(4);
    let blobs = fs::read_dir(directory.join("blobs/sha256")).expect("blobs").flatten().map(|entry| entry.path());
    for blob in blobs {
        let text = fs::read_to_string(&blob).expect("document");
        fs::write(&blob, text.replace("sha256", "sha255")).expect("document");
        sh(&TestEnv::alone(), &directory, "single", "exit 4").code(125);
        fs::write(&blob, text).expect("document");
    }
}

/// The owner of a store may put into a tree what an overlay obeys, what no layer has, and files without end.
#[test]
fn what_no_layer_has_is_refused_in_a_tree_of_others() {
    let admin = TestEnv::alone();
    let directory = publish(&admin, "busybox");
    let tree = tree(&directory);
    let refused = |words: &[&str]| {
        let _ = sh(&TestEnv::alone(), &directory, "single", "exit 4").code(125).told(words).told(&["hint: "]);
    };
    let (bin, file) = (tree.join("bin"), tree.join("bin/busybox"));
    let with = |path: &Path, name: &str, value: &[u8], words: &[&str]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("attribute");
        refused(words);
        rustix::fs::removexattr(path, name).expect("attribute");
    };
    with(&bin, "user.overlay.opaque", b"x", &["attributes for an overlay"]);
    with(&file, "user.overlay.whiteout", b"y", &["attributes for an overlay"]);
    with(&file, "user.overlay.metacopy", b"", &["attributes for an overlay"]);
    // One that nothing obeys is as much a change as a byte.
    with(&file, "user.mine", b"y", &["was published with"]);
    let time = fs::metadata(&bin).expect("directory").modified().expect("time");
    let back = || fs::File::open(&bin).expect("directory").set_modified(time).expect("time");
    let socket = std::os::unix::net::UnixListener::bind(bin.join("zz-socket")).expect("socket");
    refused(&["zz-socket", "a socket or a device"]);
    drop(socket);
    fs::remove_file(bin.join("zz-socket")).expect("file");
    fs::File::create(bin.join("zz-holes")).expect("file").set_len(1 << 42).expect("holes");
    let begin = std::time::Instant::now();
    refused(&["GiB of files"]);
    assert!(begin.elapsed() < seconds(20));
    fs::remove_file(bin.join("zz-holes")).expect("file");
    back();
    // The control: without all that, it runs.
    sh(&TestEnv::alone(), &directory, "single", "exit 4").code(4);
}

/// The owner of a store may put a link in the place of what was verified: it would lead to what the reader has, and the owner has not.
#[test]
fn a_tree_that_becomes_a_link_shows_nothing_of_the_readers() {
    let (admin, env) = (TestEnv::alone(), TestEnv::alone());
    let directory = publish(&admin, "busybox");
    // What is closed to everybody else, with a program in it that would run.
    let own = env.directory("own");
    env.program("cp", ["-a", &format!("{}/.", tree(&directory).display()), &own.display().to_string()]).output().code(0);
    fs::write(own.join("key"), "secret").expect("file");
    let attempt = |env: &TestEnv| sh(env, &directory, "single", "cat /key; exit 4");
    // The control: a directory of the reader's is seen where the reader says so.
    let rootfs = format!("rootfs:{}", own.display());
    let control = env.hamper(["run", "--image", &rootfs]).args(["--entrypoint", ""]).payload(["sh", "-c", "cat /key"]).output();
    assert_eq!(control.ok(), "secret");
    attempt(&env).code(4);
    let refused = |env: &TestEnv| {
        let seen = attempt(env).code(125).told(&["in the place of a layer", "hint: "]);
        assert!(!seen.stdout.contains("secret"));
    };
    let path = tree(&directory);
    let aside = directory.join("aside");
    fs::rename(&path, &aside).expect("rename");
    std::os::unix::fs::symlink(&own, &path).expect("link");
    refused(&env);
    // The directory around it, with all of its names, as well; and one who comes for the first time.
    fs::remove_file(&path).expect("link");
    fs::rename(&aside, &path).expect("rename");
    attempt(&env).code(4);
    let (layers, other) = (directory.join("layers"), env.directory("other"));
    fs::rename(&layers, &aside).expect("rename");
    env.program("cp", ["-a", &format!("{}/.", aside.display()), &other.display().to_string()]).output().code(0);
    fs::write(other.join(path.file_name().expect("name")).join("key"), "secret").expect("file");
    std::os::unix::fs::symlink(&other, &layers).expect("link");
    refused(&env);
    let first = attempt(&TestEnv::alone()).code(125);
    assert!(!first.stdout.contains("secret"), "{}", first.stdout);
    fs::remove_file(&layers).expect("link");
    fs::rename(&aside, &layers).expect("rename");
    attempt(&env).code(4);
    // Nor by being fast: whatever is there at each moment, the payload has what was published or does not start.
    let (stop, path) = (std::sync::atomic::AtomicBool::new(false), tree(&directory));
    let swap = || {
        let link = directory.join("link");
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            fs::rename(&path, directory.join("aside")).expect("rename");
            std::os::unix::fs::symlink(&own, &link).and_then(|()| fs::rename(&link, &path)).expect("link");
            fs::remove_file(&path).expect("link");
            fs::rename(directory.join("aside"), &path).expect("rename");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(swap);
        let seen: Vec<_> = (0..60).map(|_| attempt(&env)).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for one in seen {
            assert!(!one.stdout.contains("secret"), "{}", one.stderr);
            assert!(matches!(one.status.code(), Some(4 | 125)), "{:?} {}", one.status, one.stderr);
        }
    });
    attempt(&env).code(4);
}

#[test]
fn what_is_published_anew_is_seen_at_once() {
    require!(has_image("layers8"), "the test images");
    let (admin, env) = (TestEnv::alone(), TestEnv::alone());
    let directory = publish(&admin, "busybox");
    // A plan makes nothing, not even a link.
    let plan = |env: &TestEnv| {
        env.hamper(["plan", "--image", NAME, "--set", "identity.map=single"]).env("HAMPER_STORES", &directory).output().any()
    };
    plan(&env).code(1);
    let tell = |env: &TestEnv| -> Value {
        let report = env.root().join("report.json");
        run(env, &directory).map("single").args(["--report", &report.display().to_string()]).payload(["sh", "-c", "ls /"]).output().code(0);
        serde_json::from_slice(&fs::read(report).expect("report")).expect("JSON")
    };
    let before = sh(&env, &directory, "single", "echo /*").code(0).stdout;
    publish(&admin, "layers8");
    plan(&env).code(1).told(&["is not loaded yet", "hint: hamper run"]);
    let after = sh(&env, &directory, "single", "echo /*").code(0).stdout;
    plan(&env).code(0);
    assert_ne!(before, after);
    let _ = tell(&env);
    // Nothing is published twice, and a name that this store knows itself stays what it is here.
    hamper(&admin, &["publish", &directory.display().to_string(), NAME]).code(0).told(&[]);
    hamper(&env, &["load", &layout("busybox"), "--name", NAME]).code(0);
    assert_eq!(sh(&env, &directory, "single", "echo /*").code(0).stdout, before);
    hamper(&env, &["rm", NAME]).code(0);
    assert_eq!(sh(&env, &directory, "single", "echo /*").code(0).stdout, after);
    // What is not published is asked for as ever.
    env.run("localhost:1/other:1")
        .env("HAMPER_STORES", &directory)
        .args(["--offline"])
        .probe("exit 4")
        .code(125)
        .told(&["not in the store"]);
}

#[test]
fn a_store_that_cannot_be_used_is_told_of_once_and_the_next_one_asked() {
    let (admin, env) = (TestEnv::alone(), TestEnv::alone());
    let directory = publish(&admin, "busybox");
    let (empty, closed) = (env.directory("empty"), env.directory("closed"));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).expect("mode");
    let bad = format!("/nowhere/at/all:{}:{}", closed.display(), empty.display());
    let list = format!("{bad}:{}", directory.display());
    let run = |env: &TestEnv, image: &str, list: &str, more: &[&str]| {
        let call = env.run(image).env("HAMPER_STORES", list).map("single").args(["--entrypoint", ""]).args(more.iter().copied());
        call.payload(["sh", "-c", "exit 4"]).output().any()
    };
    let words = ["ignoring the store /nowhere/at/all: ", "No such file", "Permission denied", "is no published store"];
    // The first run and a warm one, which looks there as well.
    for _ in 0..2 {
        let seen = run(&env, NAME, &list, &["--offline"]).code(4).told(&words);
        assert_eq!(seen.stderr.matches("ignoring the store").count(), 3, "{}", seen.stderr);
        assert!(!seen.stderr.contains("fetching"), "nothing comes from anywhere: {}", seen.stderr);
    }
    // What stands behind the one that has the image is not looked at.
    let _ = run(&env, NAME, &format!("{}:{bad}", directory.display()), &["--offline"]).code(4).silent();
    // A registry is asked as ever.
    let (registry, other) = (super::faulty::Faulty::serve("busybox", |_, _| None), TestEnv::alone());
    let _ = run(&other, &registry.reference(), &bad, &[]).code(4).told(&words);
    // What one's own store knows is not looked for anywhere.
    let _ = run(&other, &registry.reference(), &bad, &[]).code(4).silent();
    // Found nowhere, the failure names them as well.
    for (more, word) in [(&["--offline"][..], "is not in the store"), (&[], "localhost:1: cannot fetch manifest 1")] {
        let seen = run(&other, NAME, &bad, more).code(125).told(&[word, "hint: "]);
        let last = seen.stderr.lines().find(|line| line.contains(word) && !line.contains("again in")).expect("the failure");
        assert!(last.contains("not looked for in a published store") && words[1..].iter().all(|word| last.contains(word)), "{last}");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("mode");
}

#[test]
fn a_name_with_a_digest_is_held_to_it_in_a_published_store_too() {
    let (admin, env) = (TestEnv::alone(), TestEnv::alone());
    let directory = publish(&admin, "busybox");
    let digest: Value = serde_json::from_slice(&hamper(&admin, &["inspect", NAME]).code(0).stdout.into_bytes()).expect("JSON");
    let digest = digest["image"]["digest"].as_str().expect("digest").to_owned();
    let repository = NAME.rsplit_once(':').expect("a tag").0;
    let run = |wanted: &str| {
        let run = env.run(&format!("{repository}@{wanted}")).env("HAMPER_STORES", &directory).map("single").args(["--offline"]);
        run.args(["--entrypoint", ""]).payload(["sh", "-c", "exit 4"]).output().any()
    };
    // What the owner of the store says of a digest counts only where it is that digest.
    let write = |wanted: &str| {
        let reference = format!("{repository}@{wanted}");
        let full: hamper::image::Reference = reference.parse().expect("a reference");
        let platform = hamper::profile::Platform::native();
        let name = hamper::image::Digest::of(format!("{full} {platform}").as_bytes());
        let path = directory.join(format!("references/{}.json", name.hex()));
        fs::write(path, format!(r#"{{"reference":"{full}","digest":"{digest}"}}"#)).expect("record");
    };
    write(&digest);
    run(&digest).code(4);
    let other = format!("sha256:{}", "a".repeat(64));
    write(&other);
    let _ = run(&other).code(125).told(&["not in the store"]);
}

#[test]
fn stores_that_cannot_be_trusted_or_read_are_refused() {
    let (admin, env) = (TestEnv::alone(), TestEnv::alone());
    let directory = publish(&admin, "busybox");
    let refused = |list: &str, words: &[&str]| {
        let _ = env.run(NAME).env("HAMPER_STORES", list).args(["--offline"]).probe("exit 4").code(125).told(words);
    };
    let text = directory.display().to_string();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("mode");
    refused(&text, &["can be written by others", "hint: "]);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("mode");
    for below in ["layers", "references", "blobs/sha256"] {
        fs::set_permissions(directory.join(below), fs::Permissions::from_mode(0o777)).expect("mode");
        refused(&text, &["can be written by others", "hint: "]);
        fs::set_permissions(directory.join(below), fs::Permissions::from_mode(0o755)).expect("mode");
    }
    refused("relative", &["HAMPER_STORES", "is no absolute path"]);
    refused(&admin.home().display().to_string(), &["is no published store"]);
    refused("/nowhere/at/all", &["/nowhere/at/all", "No such file"]);
    refused("", &["not in the store"]);
    fs::write(directory.join("hamper-store"), "2\n").expect("version");
    refused(&text, &["another version"]);
    fs::write(directory.join("hamper-store"), "1\n").expect("version");
    // By the settings as well; the variable stands for them.
    fs::create_dir_all(env.config().join("hamper")).expect("directory");
    fs::write(env.config().join("hamper/settings.toml"), format!("stores = [\"{text}\"]\n")).expect("settings");
    let plain = |env: &TestEnv| env.run(NAME).map("single").args(["--offline", "--entrypoint", ""]).payload(["sh", "-c", "exit 4"]);
    plain(&env).output().code(4);
    let _ = plain(&env).env("HAMPER_STORES", "").output().code(125).told(&["not in the store"]);
    fs::write(env.config().join("hamper/settings.toml"), "stroes = []\n").expect("settings");
    let _ = plain(&TestEnv::alone()).env("XDG_CONFIG_HOME", env.config()).output().code(125).told(&["settings.toml", "stroes", "hint: "]);
    // One that never ends, and one that is never written to.
    let settings = env.config().join("hamper/settings.toml");
    fs::remove_file(&settings).expect("settings");
    std::os::unix::fs::symlink("/dev/zero", &settings).expect("link");
    let _ = plain(&TestEnv::alone()).env("XDG_CONFIG_HOME", env.config()).output().code(125).told(&["settings.toml", "not a regular file"]);
    fs::remove_file(&settings).expect("settings");
    env.program("mkfifo", [&*settings.display().to_string()]).output().code(0);
    let _ = plain(&TestEnv::alone()).env("XDG_CONFIG_HOME", env.config()).output().code(125).told(&["settings.toml", "not a regular file"]);
    // A directory that is something else is not published into.
    let other = admin.directory("other");
    fs::write(other.join("file"), "x").expect("file");
    hamper(&admin, &["publish", &other.display().to_string(), NAME]).code(1).told(&["is no published store"]);
    hamper(&admin, &["publish", "/usr/published", NAME]).code(1).told(&["/usr/published", "ermission denied", "hint: publish into"]);
}
