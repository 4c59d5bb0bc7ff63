//! Lock files: what a tag stood for, and what happens when it moves.

use std::fs;

use hamper::image::Digest;
use serde_json::{Value, json};

use super::faulty::{Content, Faulty, Reply, content};
use super::server::{Server, program};
use crate::require;
use crate::support::{TestEnv, has_image};

#[test]
fn a_tag_that_moves_is_refused_where_it_is_locked() {
    require!(program().is_some() && has_image("layers8"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    let old = server.fill(&env, "busybox", "b:v1");
    let reference = server.reference("b:v1");
    env.profile(&format!("image = \"{reference}\"\n[identity]\nmap = \"single\"\n"));
    let run = |more: &[&str]| env.run_profile().args(more.iter().copied()).probe("exit 4").any();
    let _ = run(&["--locked"]).code(125).told(&["there is no hamper.lock", "hint: hamper lock"]);
    let lock = |more: &[&str]| env.hamper([&["lock"], more].concat()).output().any();
    // A check writes nothing.
    let seen = lock(&["--check"]).code(1);
    assert!(seen.stdout.contains(&old) && !env.project().join("hamper.lock").exists());
    lock(&[]).code(0);
    let text = env.read("hamper.lock");
    for part in [&*reference, "linux/amd64", &old, "diff_ids", "date = \"20"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    lock(&["--check"]).code(0);
    lock(&[]).code(0);
    assert_eq!(env.read("hamper.lock"), text, "what has not changed is not written anew");
    run(&["--locked"]).code(4);
    run(&["--set", "pull=locked", "--offline"]).code(4);

    let new = server.fill(&env, "layers8", "b:v1");
    // The store still has what was locked, and nobody asks.
    run(&["--locked"]).code(4);
    let seen = lock(&["--check"]).code(1);
    assert!(seen.stdout.contains(&format!("{old} is now {new}")), "{}", seen.stdout);
    // Without the lock the new one comes, and with it that is refused.
    run(&["--set", "pull=always"]).code(4);
    let _ = run(&["--locked"]).code(125).told(&[&old, &new, "hint: ", "hamper lock"]);
    // So it is where the store is empty, before any layer has come.
    env.hamper(["image", "--map", "single", "prune", "--all"]).output().code(0);
    let before = server.asked("/blobs/");
    let _ = run(&["--locked"]).code(125).told(&[&old, &new]);
    assert_eq!(server.asked("/blobs/") - before, 1, "the config alone");
    lock(&[]).code(0);
    run(&["--locked"]).code(4);
}

/// Somebody else has locked the new image, and this store has the old one.
#[test]
fn what_is_locked_comes_where_the_store_is_behind() {
    require!(program().is_some() && has_image("layers8"), "docker-registry and the test images");
    let (env, other) = (TestEnv::alone(), TestEnv::alone());
    let server = Server::start(&env);
    let old = server.fill(&env, "busybox", "b:v1");
    let profile = format!("image = \"{}\"\n[identity]\nmap = \"single\"\n", server.reference("b:v1"));
    env.profile(&profile);
    other.profile(&profile);
    let run = |more: &[&str]| env.run_profile().args(more.iter().copied()).probe("exit 4").any();
    run(&[]).code(4);
    let new = server.fill(&env, "layers8", "b:v1");
    other.hamper(["lock"]).output().code(0);
    fs::copy(other.project().join("hamper.lock"), env.project().join("hamper.lock")).expect("lock file");
    env.hamper(["trust", "hamper.lock"]).output().code(0);
    // Nobody may be asked: then the store is what is told of, and not the registry.
    let _ = run(&["--locked", "--offline"]).code(125).told(&[&old, &new, "the store has", "hint: "]);
    run(&["--locked"]).code(4);
    run(&["--locked", "--offline"]).code(4).silent();
}

#[test]
fn a_link_in_the_place_of_the_new_file_is_not_written_through() {
    require!(program().is_some() && has_image("busybox"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    server.fill(&env, "busybox", "b:v1");
    env.profile(&format!("image = \"{}\"\n[identity]\nmap = \"single\"\n", server.reference("b:v1")));
    let precious = env.home().join("precious");
    std::fs::write(&precious, "precious").expect("file");
    // A payload could make one for every number that a process may have; here it is the very one.
    let script = "ln -s \"$1\" .hamper.lock.$$; exec \"$0\" lock";
    let hamper = crate::support::hamper().display().to_string();
    let planted = env.program("sh", ["-c", script, &hamper, &precious.display().to_string()]).output().any();
    assert_eq!(std::fs::read_to_string(&precious).expect("file"), "precious", "{}", planted.stderr);
    planted.code(0);
    assert!(env.project().join("hamper.lock").symlink_metadata().expect("a lock").is_file());
}

#[test]
fn each_platform_is_locked() {
    require!(has_image("multi-arch"), "the test images");
    let registry = Faulty::serve_content(content("multi-arch"), |_, _| None);
    let env = TestEnv::alone();
    env.profile(&format!("image = \"{}\"\n", registry.reference()));
    env.hamper(["lock"]).output().code(0);
    let text = env.read("hamper.lock");
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(text.contains(&format!("name = \"{platform}")), "{text}");
    }
    env.run_profile().args(["--locked"]).probe("exit 4").code(4);
}

#[test]
fn a_lock_file_is_read_with_the_care_of_a_profile() {
    let registry = Faulty::serve("busybox", |_, _| None);
    let env = TestEnv::alone();
    env.profile(&format!("image = \"{}\"\npull = \"locked\"\n[identity]\nmap = \"single\"\n", registry.reference()));
    env.hamper(["lock"]).output().code(0);
    let good = env.read("hamper.lock");
    // It is read-only inside, though the project is not.
    env.run_profile().args(["--entrypoint", ""]).payload(["sh", "-c", "! echo x >hamper.lock"]).output().code(0);
    for (text, word) in [("version = 2\n", "of version 2"), ("version = 1\nx = 1\n", "no lock file"), ("x", "no lock file")] {
        env.file("hamper.lock", text);
        env.run_profile().probe("exit 4").code(125).told(&["hamper.lock", word]);
    }
    // Made where no run is held to it, it is not obeyed unseen.
    env.file("hamper.lock", &good);
    let write = "x=$(cat hamper.lock); printf '%s\\n# more\\n' \"$x\" >hamper.lock";
    env.run_profile().set("pull=missing").args(["--entrypoint", ""]).payload(["sh", "-c", write]).output().code(0);
    env.run_profile().probe("exit 4").code(125).told(&["hamper.lock", "hamper trust"]);
    // Nor is what else it says written anew, as if the caller had written it.
    env.hamper(["lock"]).output().code(1).told(&["hamper.lock", "hamper trust"]);
    env.hamper(["trust", "hamper.lock"]).output().code(0);
    env.run_profile().probe("exit 4").code(4);
    let path = env.file("hamper.lock", good);
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("mode");
    env.run_profile().probe("exit 4").code(125).told(&["hamper.lock", "can be written by others"]);
}

#[test]
fn what_cannot_be_locked_is_refused_by_the_option_alone() {
    let env = TestEnv::new();
    env.run("busybox").args(["--locked"]).probe("exit 0").code(125).told(&["--locked", "sha256:"]);
    env.run("busybox").set("pull=locked").probe("exit 4").code(4);
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn put(content: &mut Content, name: &str, kind: &str, document: &Value) -> Value {
    let bytes = document.to_string().into_bytes();
    let digest = Digest::of(&bytes).to_string();
    for name in [name, &digest] {
        content.insert(format!("/v2/x/manifests/{name}"), (kind.to_owned(), bytes.clone()));
    }
    json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
}

/// A descriptor of the one image of some content.
fn only(content: &Content) -> Value {
    let bytes = &content["/v2/x/manifests/v1"].1;
    json!({ "mediaType": MANIFEST, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

fn on(mut descriptor: Value, architecture: &str) -> Value {
    descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
    descriptor
}

fn index(entries: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries })
}

/// A project that names the image of `registry`.
fn project(registry: &Faulty) -> TestEnv {
    let env = TestEnv::alone();
    env.profile(&format!("image = \"{}\"\n[identity]\nmap = \"single\"\n", registry.reference()));
    env
}

#[test]
fn an_entry_without_platform_has_that_of_its_config() {
    let mut content = content("busybox");
    let image = only(&content);
    let inner = put(&mut content, "inner", INDEX, &index(std::slice::from_ref(&image)));
    for entry in [image.clone(), inner] {
        put(&mut content, "v1", INDEX, &index(&[entry]));
        let registry = Faulty::serve_content(content.clone(), |_, _| None);
        let env = project(&registry);
        env.hamper(["lock", "--check"]).output().code(1);
        env.hamper(["lock"]).output().code(0);
        let text = env.read("hamper.lock");
        assert!(text.contains("name = \"linux/amd64\"") && text.contains(image["digest"].as_str().expect("digest")), "{text}");
        env.hamper(["lock", "--check"]).output().code(0);
        env.run_profile().args(["--locked"]).probe("exit 4").code(4);
    }
}

#[test]
fn an_index_without_images_is_no_lock() {
    let mut content = content("busybox");
    let image = only(&content);
    put(&mut content, "v1", INDEX, &index(&[on(image, "unknown")]));
    let registry = Faulty::serve_content(content, |_, _| None);
    let env = project(&registry);
    env.hamper(["lock"]).output().code(1).told(&["no image for linux/amd64", "hint: "]);
    env.hamper(["lock", "--check"]).output().code(125).told(&["no image for linux/amd64"]);
    assert!(!env.project().join("hamper.lock").exists());
}

#[test]
fn an_entry_that_is_no_image_is_skipped_unless_it_is_the_one_that_is_wanted() {
    let mut content = content("busybox");
    let image = only(&content);
    content.insert("/v2/x/blobs/empty".into(), (String::new(), b"{}".to_vec()));
    let empty = json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}").to_string(), "size": 2 });
    let artifact = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "x/y", "config": empty, "layers": [] });
    let artifact = put(&mut content, "artifact", MANIFEST, &artifact);
    put(&mut content, "v1", INDEX, &index(&[on(artifact.clone(), "s390x"), on(image.clone(), "amd64")]));
    let registry = Faulty::serve_content(content.clone(), |_, _| None);
    let env = project(&registry);
    env.hamper(["lock"]).output().code(0).told(&["ignoring: ", "application/vnd.oci.empty.v1+json"]);
    assert!(!env.read("hamper.lock").contains("s390x"));
    env.hamper(["lock", "--check"]).output().code(0);

    put(&mut content, "v1", INDEX, &index(&[on(artifact, "amd64"), on(image, "s390x")]));
    let registry = Faulty::serve_content(content, |_, _| None);
    let _ = project(&registry).hamper(["lock"]).output().code(1).told(&["it is not an image"]);
}

#[test]
fn a_check_that_cannot_look_does_not_say_that_the_tag_has_moved() {
    let registry = Faulty::serve("busybox", |_, _| Some(Reply::new(403, "")));
    let env = project(&registry);
    env.hamper(["lock", "--check"]).output().code(125).told(&["status 403"]);
    env.hamper(["lock"]).output().code(1).told(&["status 403"]);
}

#[test]
fn a_lock_of_another_config_is_told_as_that() {
    let registry = Faulty::serve("busybox", |_, _| None);
    let env = project(&registry);
    env.hamper(["lock"]).output().code(0);
    let lines: Vec<String> = env.read("hamper.lock").lines().map(str::to_owned).collect();
    let changed = lines.iter().map(|line| match line.starts_with("config") {
        true => format!("config = \"sha256:{}\"\n", "0".repeat(64)),
        false => format!("{line}\n"),
    });
    env.file("hamper.lock", changed.collect::<String>());
    let seen = env.hamper(["lock", "--check"]).output().code(1);
    assert!(seen.stdout.contains("another config") && !seen.stdout.contains("is now"), "{}", seen.stdout);
}

#[test]
fn nothing_of_an_index_or_a_lock_file_drives_the_terminal() {
    let evil = "\u{1b}]0;pwn\u{7}\u{1b}[2J\nhint: evil";
    let mut content = content("busybox");
    let image = only(&content);
    put(&mut content, "v1", INDEX, &index(&[on(image.clone(), "amd64"), on(image, evil)]));
    let registry = Faulty::serve_content(content, |_, _| None);
    let env = project(&registry);
    let written = format!(
        "version = 1\n[[image]]\nreference = \"{}\"\ndate = \"x\"\n[[image.platform]]\nname = \"linux/amd64\"\n\
         digest = \"sha256:\\u001b[2J\\nhint: evil\"\nconfig = \"\"\ndiff_ids = []\n",
        registry.reference()
    );
    for lock in [None, Some(written)] {
        if let Some(text) = lock {
            env.file("hamper.lock", text);
        }
        for arguments in [&["lock"][..], &["lock", "--check"]] {
            let seen = env.hamper(arguments.iter().copied()).output().any();
            assert!(!seen.status.success());
            for text in [&seen.stdout, &seen.stderr] {
                assert!(!text.contains(['\u{1b}', '\u{7}']) && !text.contains("\nhint: evil"), "{text:?}");
            }
        }
    }
}
