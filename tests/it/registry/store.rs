//! What is done with images of the store: names, history, room, archives, removal by age.

use std::os::unix::fs::DirBuilderExt;

use serde_json::Value;

use super::faulty::Faulty;
use super::{Podman, kept, layers, layout, skopeo};
use crate::require;
use crate::support::{Seen, TestEnv, has_image, images, maps};

fn hamper(env: &TestEnv, arguments: &[&str]) -> Seen {
    env.hamper([&["image", "--map", "single"], arguments].concat()).output().any()
}

fn json(seen: Seen) -> Value {
    serde_json::from_str(&seen.code(0).stdout).expect("JSON")
}

/// The digest of the image that a name stands for.
fn digest(env: &TestEnv, name: &str) -> String {
    json(hamper(env, &["inspect", name]))["image"]["digest"].as_str().expect("digest").to_owned()
}

#[test]
fn a_name_that_was_given_is_as_good_as_any() {
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("busybox"), "--name", "b:1"]).code(0);
    hamper(&env, &["tag", "b:1", "localhost:1/other/b:2", "c"]).code(0).silent();
    let first = digest(&env, "b:1");
    for name in ["localhost:1/other/b:2", "c:latest", "docker.io/library/c:latest"] {
        assert_eq!(digest(&env, name), first);
        env.run(name).map("single").args(["--offline"]).probe("exit 4").code(4);
    }
    hamper(&env, &["rm", "b:1"]).code(0);
    env.run("c:latest").map("single").args(["--offline"]).probe("exit 4").code(4);
    // A name moves from one image to another.
    hamper(&env, &["load", &layout("debian"), "--name", "d:1"]).code(0);
    hamper(&env, &["tag", "d:1", "c"]).code(0);
    assert_eq!(digest(&env, "c"), digest(&env, "d:1"));
    assert_eq!(digest(&env, "localhost:1/other/b:2"), first);
    hamper(&env, &["tag", "none:1", "x"]).code(1).told(&["none:1"]);
    hamper(&env, &["tag", "c", &format!("x@{first}")]).code(2).told(&["a name has no digest"]);
    hamper(&env, &["tag", "c", "UPPER"]).code(2).told(&["UPPER"]);
}

#[test]
fn history_and_room_are_what_other_tools_say() {
    require!(has_image("node14"), "the test images");
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("node14"), "--name", "n:1"]).code(0);
    let steps = json(hamper(&env, &["history", "n:1", "--json"]));
    let steps = steps.as_array().expect("list");
    // Newest first; skopeo has them oldest first.
    let config: Value = serde_json::from_str(&skopeo(&env, ["inspect", "--config", &layout("node14")])).expect("config");
    let wanted = config["history"].as_array().expect("history");
    assert!(wanted.len() > 1);
    let by = |list: &[Value]| list.iter().map(|one| one["created_by"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(by(steps), by(wanted).into_iter().rev().collect::<Vec<_>>());
    let mut made: Vec<&str> = steps.iter().filter_map(|one| one["diff_id"].as_str()).collect();
    made.reverse();
    let diff_ids: Vec<&str> = config["rootfs"]["diff_ids"].as_array().expect("list").iter().filter_map(Value::as_str).collect();
    assert_eq!(made, diff_ids);
    let table = hamper(&env, &["history", "n:1"]).code(0).stdout;
    assert_eq!(table.lines().count(), steps.len() + 1, "{table}");

    // Debian is the lowest layer of both.
    hamper(&env, &["load", &layout("debian"), "--name", "d:1"]).code(0);
    let du = json(hamper(&env, &["du", "--json"]));
    let of = |name: &str, key: &str| {
        let all = du["images"].as_array().expect("images").iter();
        all.clone().find(|one| one["names"][0].as_str().is_some_and(|found| found.ends_with(name))).expect(name)[key]
            .as_u64()
            .expect("bytes")
    };
    assert!(of("n:1", "size") > of("d:1", "size") && of("d:1", "size") > 20 << 20);
    assert!(of("d:1", "unique") < 1 << 20, "all but its documents is node's too: {du}");
    assert_eq!(of("n:1", "unique") + of("d:1", "size"), du["layers"].as_u64().expect("bytes") + du["blobs"].as_u64().expect("bytes"));
    assert_eq!(du["unreferenced"], 0);
    hamper(&env, &["du"]).code(0).told(&[]);
    // What is of no image any more is what a prune removes.
    let before = du["layers"].as_u64().expect("bytes");
    hamper(&env, &["rm", "n:1"]).code(0);
    let after = json(hamper(&env, &["du", "--json"]));
    assert_eq!(after["unreferenced"], 0);
    assert!(after["layers"].as_u64().expect("bytes") < before);
}

#[test]
fn an_archive_is_what_other_tools_load() {
    require!(has_image("node14-zstd"), "the test images");
    let env = TestEnv::alone();
    for image in ["node14", "node14-zstd", "busybox"] {
        let name = format!("localhost/{image}:1");
        hamper(&env, &["load", &layout(image), "--name", &name]).code(0);
        let own = digest(&env, &name);
        for kind in ["oci-archive", "docker-archive"] {
            let target = format!("{kind}:{}", env.root().join(format!("{image}.{kind}")).display());
            hamper(&env, &["save", &name, &target]).code(0);
            // skopeo reads and verifies every byte of it.
            let copy = format!("oci:{}:x", env.directory(&format!("{image}-{kind}")).display());
            let source = if kind == "oci-archive" { format!("{target}:{name}") } else { target.clone() };
            skopeo(&env, ["copy", "-q", &source, &copy]);
            let config = |source: &str| skopeo(&env, ["inspect", "--config", "--raw", source]);
            assert_eq!(config(&source), config(&layout(image)), "{target}");
            if kind == "oci-archive" {
                assert_eq!(skopeo(&env, ["inspect", "--format", "{{.Digest}}", &source]).trim(), own);
            }
            // And so does hamper, which finds the name in it.
            let other = TestEnv::alone();
            hamper(&other, &["load", &target]).code(0);
            if kind == "oci-archive" {
                assert_eq!(digest(&other, &name), own);
            }
            other.run(&name).map("single").args(["--offline", "--entrypoint", ""]).payload(["/bin/sh", "-c", "exit 4"]).output().code(4);
        }
    }
    // Twice the same is the same.
    let (one, two) = (env.root().join("one"), env.root().join("two"));
    for path in [&one, &two] {
        hamper(&env, &["save", "localhost/busybox:1", &format!("docker-archive:{}", path.display())]).code(0);
    }
    assert_eq!(std::fs::read(&one).expect("archive"), std::fs::read(&two).expect("archive"));
    let piped = env.program("sh", ["-c", "\"$1\" image save localhost/busybox:1 docker-archive:- | cmp - \"$2\"", "sh"]);
    piped.args([&crate::support::hamper().display().to_string(), &one.display().to_string()].map(String::as_str)).output().code(0);
}

#[test]
fn podman_loads_both_archives() {
    require!(has_image("debian"), "the test images");
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("busybox"), "--name", "localhost/b:1"]).code(0);
    for kind in ["oci-archive", "docker-archive"] {
        let path = env.root().join(format!("b.{kind}")).display().to_string();
        hamper(&env, &["save", "localhost/b:1", &format!("{kind}:{path}")]).code(0);
        let podman = Podman::new(&env);
        let podman = |arguments: &[&str]| podman.output(arguments).ok();
        podman(&["load", "-q", "-i", &path]);
        assert_eq!(podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).trim(), "localhost/b:1", "{kind}");
    }
}

#[test]
fn an_archive_has_all_platforms_where_that_is_asked_for() {
    require!(has_image("multi-arch"), "the test images");
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("multi-arch:latest"), "--name", "m:1"]).code(0);
    let path = env.root().join("m.tar").display().to_string();
    hamper(&env, &["save", "--all-platforms", "m:1", &format!("oci-archive:{path}")]).code(0);
    let index: Value = serde_json::from_slice(&std::fs::read(images().join("multi-arch/index.json")).expect("index")).expect("index");
    let whole = index["manifests"][0]["digest"].as_str().expect("digest");
    let archive = env.program("tar", ["-xOf", &path, "index.json"]).output().ok();
    assert_eq!(serde_json::from_str::<Value>(&archive).expect("index")["manifests"][0]["digest"], whole);
    for platform in ["linux/amd64", "linux/arm64"] {
        let other = TestEnv::alone();
        hamper(&other, &["load", "--platform", platform, &format!("oci-archive:{path}")]).code(0);
    }
    hamper(&env, &["save", "--all-platforms", "m:1", &format!("docker-archive:{path}")]).code(2).told(&["--all-platforms"]);
}

#[test]
fn what_cannot_be_saved_leaves_no_archive() {
    let env = TestEnv::alone();
    let copy = env.directory("layout");
    env.program("cp", ["-r", &format!("{}/.", images().join("busybox").display()), &copy.display().to_string()]).output().code(0);
    hamper(&env, &["load", &format!("oci:{}", copy.display()), "--name", "b:1"]).code(0);
    let path = env.directory("out").join("b.tar");
    let target = format!("oci-archive:{}", path.display());
    hamper(&env, &["save", "b:1", &target]).code(0);
    let before = std::fs::read(&path).expect("archive");
    // The layer has another byte in the middle, or is gone.
    let hex = super::faulty::largest(&super::faulty::content("busybox")).0.rsplit(':').next().expect("digest").to_owned();
    let blob = copy.join("blobs/sha256").join(&hex);
    let mut bytes = std::fs::read(&blob).expect("blob");
    bytes[5000] ^= 1;
    std::fs::write(&blob, bytes).expect("write");
    hamper(&env, &["save", "b:1", &target]).code(1).told(&[&hex, "expected"]);
    std::fs::remove_dir_all(&copy).expect("remove");
    hamper(&env, &["save", "b:1", &target]).code(1).told(&["is not kept as it came", "hint: ", "--keep-blobs"]);
    assert_eq!(std::fs::read(&path).expect("archive"), before, "the archive that was there stays");
    assert_eq!(std::fs::read_dir(path.parent().expect("directory")).expect("directory").count(), 1, "and nothing lies beside it");
    for (target, word) in [("b.tar", "oci-archive:FILE"), ("oci-archive:", "oci-archive:FILE"), ("tar:x", "docker-archive:FILE")] {
        hamper(&env, &["save", "b:1", target]).code(2).told(&[word]);
    }
    // Kept as it came, it needs nobody.
    let keeps = TestEnv::alone();
    let again = keeps.directory("layout").display().to_string();
    keeps.program("cp", ["-r", &format!("{}/.", images().join("busybox").display()), &again]).output().code(0);
    hamper(&keeps, &["load", "--keep-blobs", &format!("oci:{again}"), "--name", "b:1"]).code(0);
    std::fs::remove_dir_all(&again).expect("remove");
    let other = keeps.root().join("b.tar");
    hamper(&keeps, &["save", "b:1", &format!("oci-archive:{}", other.display())]).code(0);
    assert_eq!(std::fs::read(other).expect("archive"), before);
}

/// An image that several registries gave needs only one of them to be there.
#[test]
fn what_one_registry_has_no_more_another_gives() {
    let serve = || Faulty::serve("busybox", |_, _| None);
    let (first, second) = (serve(), serve());
    let env = TestEnv::alone();
    for registry in [&first, &second] {
        hamper(&env, &["pull", &registry.reference()]).code(0);
    }
    let name = first.reference();
    let source = json(hamper(&env, &["inspect", &name]))["image"]["source"].as_str().expect("source").to_owned();
    let (gone, there) = if source == name { (first, second) } else { (second, first) };
    drop(gone);
    let save = |file: &str| hamper(&env, &["save", &name, &format!("oci-archive:{}", env.root().join(file).display())]);
    save("one.tar").code(0);
    // A name that only the user has given is no place to ask.
    hamper(&env, &["tag", &name, "registry.invalid/x:1"]).code(0);
    drop(there);
    let seen = save("two.tar").code(1);
    let seen = seen.told(&[&source, "does not give it again", "hint: "]);
    assert!(!seen.stderr.contains("registry.invalid"), "{}", seen.stderr);
}

#[test]
fn images_go_by_age_but_not_from_under_a_sandbox() {
    require!(has_image("debian"), "the test images");
    let env = TestEnv::alone();
    for (image, name) in [("busybox", "old:1"), ("debian", "young:1"), ("layers8", "used:1")] {
        hamper(&env, &["load", &layout(image), "--name", name]).code(0);
    }
    for name in ["old:1", "used:1"] {
        let path = env.store().join(format!("images/{}.json", digest(&env, name).trim_start_matches("sha256:")));
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).expect("record")).expect("record");
        record["loaded"] = (record["loaded"].as_u64().expect("time") - 40 * 86_400).into();
        std::fs::write(&path, record.to_string()).expect("record");
    }
    let (old, young) = (digest(&env, "old:1"), digest(&env, "young:1"));
    let mut running =
        env.run("used:1").map("single").args(["--offline", "--entrypoint", ""]).payload(["sh", "-c", "echo up; read x"]).spawn();
    running.await_line("up");
    assert_eq!(json(hamper(&env, &["prune", "--older-than", "50d", "--json"]))["images"], 0);
    let removed = json(hamper(&env, &["prune", "--older-than", "30d", "--json"]));
    assert_eq!((&removed["images"], &removed["in_use"]), (&1.into(), &1.into()), "{removed}");
    hamper(&env, &["inspect", &old]).code(1);
    hamper(&env, &["inspect", &young]).code(0);
    running.signal(rustix::process::Signal::TERM);
    let _ = running.output().any();
    assert_eq!(json(hamper(&env, &["prune", "--older-than", "30d", "--json"]))["images"], 1);
    assert!(layers(&env) > 0 && kept(&env, "images").len() == 1);
    hamper(&env, &["prune", "--older-than", "soon"]).code(2).told(&["--older-than soon", "is no duration"]);
    hamper(&env, &["prune", "--older-than", "1d", "--all"]).code(2);
}

/// Who makes an image ready while others do the same must not lose it to a removal once those have ended.
#[test]
fn who_loads_beside_others_keeps_what_it_uses() {
    let env = TestEnv::alone();
    for round in 0..30 {
        let script = "echo up; read x; test -e /bin/busybox";
        let start = || env.run("busybox").map("single").args(["--entrypoint", ""]).payload(["sh", "-c", script]).spawn();
        let mut running: [_; 8] = std::array::from_fn(|_| start());
        running.iter_mut().for_each(|run| drop(run.await_line("up")));
        let end = |mut run: crate::support::Child| {
            drop(run.child.stdin.take());
            drop(run.output().code(0));
        };
        let [last, others @ ..] = running;
        others.into_iter().for_each(end);
        let removed = json(hamper(&env, &["prune", "--all", "--json"]));
        assert_eq!((&removed["images"], &removed["in_use"]), (&0.into(), &1.into()), "{round}: {removed}");
        end(last);
        assert_eq!(json(hamper(&env, &["prune", "--all", "--json"]))["images"], 1);
    }
}

#[test]
fn trees_are_kept_elsewhere_where_the_stores_file_system_does_not_do() {
    require!(has_image("whiteouts"), "the test images");
    let env = TestEnv::alone();
    let (ram, trees) = (env.directory("ram"), env.directory("trees"));
    // A file system without extended attributes.
    let script = "mount -t ramfs none \"$1\" || exit 77; export XDG_DATA_HOME=\"$1/data\"; load() { \"$2\" image --map single load \"$4\"; }; \
                  run() { \"$2\" run --image \"$4\" --set identity.map=single --entrypoint '' -- sh -c 'rm -r /w/opaque && mkdir /w/opaque && ls /w/opaque | wc -l'; }; \
                  mkdir -p \"$1/data/hamper\"; \"$2\" doctor | grep -A9 overlay; load \"$@\"; echo \"ended $?\"; rm -rf \"$1/data/hamper\"; \
                  mkdir -p \"$1/data/hamper\"; ln -s \"$3\" \"$1/data/hamper/trees\"; \
                  load \"$@\" && run \"$@\" && run \"$@\"; echo \"ended $?\"; \"$2\" doctor | grep 'store.*trees'; \
                  readlink \"$1/data/hamper/layers\"; ls \"$3\"; \"$2\" image prune --all && ls -A \"$3/layers\" \"$3/scratch\" | grep -v '^[0-9/]' | grep . | wc -l";
    let paths = [ram.clone(), crate::support::hamper(), trees.clone()].map(|path| path.display().to_string());
    let image = layout("whiteouts");
    let words = ["-r", "-m", "sh", "-c", script, "sh"].into_iter().chain(paths.iter().map(String::as_str)).chain([image.as_str()]);
    let seen = env.program("unshare", words).output().any();
    require!(seen.status.code() != Some(77), "ramfs in a user namespace");
    let out = seen.code(0);
    let (before, after) = out.stdout.split_once("ended 1").expect("a load that fails");
    assert!(before.contains("ln -s ") && before.contains("hamper/trees"), "{before}");
    assert!(out.stderr.contains("no user extended attributes") && out.stderr.contains("hamper doctor"), "{}", out.stderr);
    assert!(after.contains("\n0\n0\nended 0\n"), "{after}\n{}", out.stderr);
    assert!(after.contains(&format!("its trees in {}", trees.display())), "{after}");
    assert!(after.contains(&format!("{}/layers\nlayers\nscratch\nscratch-range\ntrash\n", trees.display())), "{after}");
}

#[test]
fn trees_that_are_gone_from_elsewhere_are_made_again() {
    let env = TestEnv::alone();
    let around = env.directory("around");
    let trees = around.join("trees");
    std::fs::create_dir(&trees).expect("directory");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(env.store()).expect("store");
    std::os::unix::fs::symlink(&trees, env.store().join("trees")).expect("link");
    let source = layout("busybox");
    let run = |more: &[&str]| env.run(&source).map("single").args(more.iter().copied()).probe("exit 4").any();
    // The kernel closes some of an overlay's directories.
    let remove = |path: &std::path::Path| {
        env.program("sh", ["-c", "chmod -R u+rwX \"$1\"; rm -rf \"$1\"", "sh", &path.display().to_string()]).output().code(0);
    };
    run(&[]).code(4);
    assert!(trees.join("layers").is_dir() && env.store().join("layers").is_symlink());
    // All of it, or some of what is in it; each time a start finds it, and the next one is warm.
    for gone in ["", "layers", "scratch", "trash", "scratch-range"] {
        remove(&trees.join(gone));
        run(&[]).code(4).silent();
        assert!(trees.join("layers").is_dir(), "{gone}");
        run(&[]).code(4).silent();
    }
    // What makes nothing says what would.
    let plan = || env.hamper(["plan", "--image", &source, "--set", "identity.map=single"]).output().any();
    plan().code(0);
    remove(&trees);
    plan().code(1).told(&["is not loaded yet", "hint: hamper image load"]);
    assert!(!trees.exists());
    hamper(&env, &["load", &source]).code(0);
    plan().code(0);
    run(&[]).code(4);
    // Where what is around it is gone too, it may be a disk that is not mounted: that is for its user to say, by the line that is told.
    remove(&around);
    let seen = run(&[]).code(125).told(&["the link `trees`", "hint: mkdir -p -m 700 "]);
    assert!(!around.exists());
    let line = seen.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).expect("a hint");
    env.program("sh", ["-c", line]).output().code(0);
    run(&[]).code(4);
}

/// Whoever ends it finds nothing beside the archive that is not there.
#[test]
fn a_save_that_is_ended_leaves_no_file() {
    use super::faulty::{Faulty, Reply, content, largest, right};
    let whole = content("busybox");
    let (path, again) = (largest(&whole).0, whole.clone());
    let registry = Faulty::serve_content(whole, move |asked, before| {
        // It comes at once for the pull, and hardly for the archive.
        let wait = std::time::Duration::from_millis(20);
        (asked.path == path && before > 0).then(|| Reply { drip: Some(wait), ..right(asked, &again) })
    });
    let env = TestEnv::alone();
    env.hamper(["image", "--map", "single", "pull", &registry.reference()]).output().code(0);
    let directory = env.directory("archives");
    let target = format!("oci-archive:{}", directory.join("x.tar").display());
    let child = env.hamper(["image", "--map", "single", "save", &registry.reference(), &target]).spawn();
    assert!(crate::support::within(20.0, || registry.asked().iter().filter(|one| one.is_blob()).count() > 2));
    std::thread::sleep(std::time::Duration::from_millis(200));
    child.signal(rustix::process::Signal::INT);
    drop(child);
    let left: Vec<_> = std::fs::read_dir(&directory).expect("directory").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What is there is not said to come.
#[test]
fn an_unpack_of_what_is_there_fetches_nothing_and_says_so() {
    let registry = super::faulty::Faulty::serve("busybox", |_, _| None);
    let env = TestEnv::alone();
    env.hamper(["image", "pull", &registry.reference()]).output().code(0);
    let before = registry.asked().len();
    let target = env.root().join("unpacked").display().to_string();
    let seen = env.hamper(["image", "unpack", &registry.reference(), &target]).output().code(0);
    assert!(!seen.stderr.contains("fetch") && registry.asked().len() == before, "{}", seen.stderr);
}

/// A layout like that of a test image, whose config and manifest a test has changed.
fn changed(env: &TestEnv, image: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let to = env.directory(&format!("changed-{}", crate::support::unique()));
    env.program("cp", ["-r", &format!("{}/.", images().join(image).display()), &to.display().to_string()]).output().code(0);
    let read = |path: std::path::PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).expect("document")).expect("JSON");
    let blob = |digest: &Value| to.join("blobs").join(digest.as_str().expect("digest").replace(':', "/"));
    let put = |value: &Value| {
        let bytes = value.to_string();
        let digest = hamper::image::Digest::of(bytes.as_bytes()).to_string();
        std::fs::write(to.join("blobs").join(digest.replace(':', "/")), &bytes).expect("blob");
        (Value::from(digest), Value::from(bytes.len()))
    };
    let mut index = read(to.join("index.json"));
    let mut manifest = read(blob(&index["manifests"][0]["digest"]));
    let mut config = read(blob(&manifest["config"]["digest"]));
    change(&mut config, &mut manifest);
    (manifest["config"]["digest"], manifest["config"]["size"]) = put(&config);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = put(&manifest);
    std::fs::write(to.join("index.json"), index.to_string()).expect("index");
    format!("oci:{}", to.display())
}

/// Builders write the same empty layer for each step that changes nothing.
#[test]
fn an_image_may_have_one_layer_several_times() {
    for map in maps() {
        let env = TestEnv::alone();
        let source = changed(&env, "layers8", |config, manifest| {
            for list in [&mut config["rootfs"]["diff_ids"], &mut manifest["layers"]] {
                let list = list.as_array_mut().expect("list");
                let (first, third) = (list[0].clone(), list[2].clone());
                list.insert(4, third.clone());
                list.push(first);
                list.push(third);
            }
        });
        hamper(&env, &["load", &source, "--name", "twice:1"]).code(0);
        let plain = layout("layers8");
        let look = |image: &str| {
            let run = env.run(image).map(map).args(["--entrypoint", ""]);
            run.payload(["sh", "-c", "find / -xdev ! -path '/proc*' | sort | md5sum; cat /bin/busybox | md5sum"]).output().code(0).stdout
        };
        // Nothing that is in the middle hides what the first has, so that the end is the same.
        assert_eq!(look("twice:1"), look(&plain), "{map}");
    }
}

/// Whatever is removed meanwhile, what stays can be started, and what is gone comes again.
#[test]
fn removals_disturb_no_start_and_no_pull() {
    let registry = Faulty::serve("busybox", |_, _| None);
    let (env, name) = (TestEnv::alone(), registry.reference());
    hamper(&env, &["pull", &name]).code(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (env, name, done) = (&env, &name, &done);
    for removal in [&["prune"][..], &["prune", "--all"]] {
        done.store(false, std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            let remover = scope.spawn(move || {
                let mut count = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    hamper(env, removal).code(0);
                    count += 1;
                }
                count
            });
            let run = move || (0..25).for_each(|_| drop(env.run(name).map("single").probe("exit 4").code(4)));
            let pull = move || (0..25).for_each(|_| drop(hamper(env, &["pull", name]).code(0)));
            let starters = [scope.spawn(run), scope.spawn(pull)];
            let ended: Vec<_> = starters.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(remover.join().expect("removals") > 3);
            assert!(ended.iter().all(Result::is_ok), "{removal:?}");
        });
    }
}

/// An archive may call its image by the digest of another, which would then be pushed or started in its place.
#[test]
fn no_name_poses_as_a_digest() {
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("busybox"), "--name", "b:1"]).code(0);
    let mine = digest(&env, "b:1");
    let archive = env.root().join("other.tar").display().to_string();
    skopeo(&env, ["copy", &layout("layers8"), &format!("docker-archive:{archive}:docker.io/library/{mine}")]);
    hamper(&env, &["load", &format!("docker-archive:{archive}")]).code(0);
    let out = env.root().join("saved.tar").display().to_string();
    hamper(&env, &["save", &mine, &format!("oci-archive:{out}")]).code(0);
    assert_eq!(skopeo(&env, ["inspect", "--format", "{{.Digest}}", &format!("oci-archive:{out}")]).trim(), mine);
    assert_eq!(digest(&env, &mine), mine);
    for arguments in [&["tag", "b:1", &mine][..], &["load", &layout("busybox"), "--name", &mine]] {
        hamper(&env, arguments).code(2).told(&["taken for a digest"]);
    }
}

#[test]
fn what_is_known_of_a_name_stays_when_its_image_comes_again() {
    let registry = Faulty::serve_content(super::faulty::content("multi-arch"), |_, _| None);
    let target = Faulty::serve("busybox", |asked, _| (asked.method != "GET").then(|| super::faulty::Reply::new(500, "")));
    let (env, name) = (TestEnv::alone(), registry.reference());
    hamper(&env, &["pull", &name]).code(0);
    let whole = || hamper(&env, &["push", "--all-platforms", &name, &format!("{}/y:1", target.host())]);
    let begun = |seen: Seen| assert!(!seen.stderr.contains("for no index"), "{}", seen.stderr);
    begun(whole());
    hamper(&env, &["pull", "--keep-blobs", &name]).code(0);
    begun(whole());
    // Asked for as another kind of processor of the same sort, it is the same image.
    let platform = |name: &str| json(hamper(&env, &["inspect", name]))["image"]["platform"].as_str().expect("platform").to_owned();
    let before = platform(&name);
    hamper(&env, &["pull", &name, "--platform", "linux/amd64/v3"]).code(0);
    hamper(&env, &["pull", &name, "--platform", "linux/arm64"]).code(0);
    assert_eq!(platform(&name), before);
    hamper(&env, &["tag", &name, "mine:1"]).code(0);
    env.run("mine:1").map("single").args(["--offline"]).payload(["true"]).output().any().silent();
}

/// What a user calls an image says nothing of where it is.
#[test]
fn a_given_name_is_had_from_where_the_image_came_from() {
    let registry = Faulty::serve("node14", |_, _| None);
    let nowhere = Faulty::serve("busybox", |_, _| Some(super::faulty::Reply::new(404, "")));
    let env = TestEnv::alone();
    hamper(&env, &["pull", &registry.reference()]).code(0);
    let given = format!("{}/mine:1", nowhere.host());
    let local = format!("{}/local:1", nowhere.host());
    hamper(&env, &["tag", &registry.reference(), &given]).code(0);
    hamper(&env, &["load", &layout("node14"), "--name", &local]).code(0);
    // Another map has other trees.
    for name in [&given, &local] {
        for map in maps() {
            env.run(name).map(map).args(["--user", "1000:1000"]).probe("exit 4").code(4);
        }
    }
    assert!(nowhere.asked().is_empty(), "{:?}", nowhere.asked());
}
