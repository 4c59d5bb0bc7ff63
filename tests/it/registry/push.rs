//! Push: to Debian's `docker-registry`, read back by skopeo, podman and hamper; and to one that loses what it is sent.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hamper::image::Digest;
use serde_json::Value;

use super::cutting::{Cutting, Direction};
use super::faulty::{Asked, Content, Faulty, Reply, content, largest};
use super::server::{Server, program};
use super::{Podman, layout, skopeo};
use crate::require;
use crate::support::{Seen, TestEnv, has_image, images};

fn hamper(env: &TestEnv, arguments: &[&str]) -> Seen {
    env.hamper([&["image", "--map", "single"], arguments].concat()).output().any()
}

fn digest(seen: Seen) -> String {
    seen.code(0).stdout.lines().last().expect("a digest").trim().to_owned()
}

/// The document that a reference stands for, as it is in a registry.
fn raw(env: &TestEnv, server: &Server, name: &str) -> String {
    skopeo(env, ["inspect", "--raw", "--tls-verify=false", &format!("docker://{}", server.reference(name))])
}

fn document(image: &str, digest: &str) -> String {
    fs::read_to_string(images().join(image).join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).expect("document")
}

#[test]
fn what_is_pushed_is_what_was_loaded_or_pulled() {
    require!(program().is_some() && has_image("node14-zstd"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let (first, second) = (Server::start(&env), Server::start(&env));
    for image in ["node14", "node14-zstd"] {
        let loaded = digest(hamper(&env, &["load", &layout(image), "--name", &format!("own/{image}:1")]));
        let there = first.reference(&format!("team/{image}:v1"));
        assert_eq!(digest(hamper(&env, &["push", &format!("own/{image}:1"), &there])), loaded);
        assert_eq!(raw(&env, &first, &format!("team/{image}:v1")), document(image, &loaded), "byte for byte");
        // From one registry to another, with a store that never kept the blobs.
        let other = TestEnv::alone();
        assert_eq!(digest(hamper(&other, &["pull", &there])), loaded);
        let onwards = second.reference(&format!("{image}:v2"));
        let seen = hamper(&other, &["push", "--json", &there, &onwards]);
        let shown: Value = serde_json::from_str(&seen.code(0).stdout).expect("JSON");
        assert_eq!((shown["digest"].as_str(), shown["reference"].as_str()), (Some(&*loaded), Some(&*onwards)));
        // Every blob of it is read and verified by skopeo.
        let copy = env.directory("copies").join(image).display().to_string();
        skopeo(
            &env,
            ["copy", "-q", "--preserve-digests", "--src-tls-verify=false", &format!("docker://{onwards}"), &format!("oci:{copy}:x")],
        );
        assert_eq!(second.digest(&env, &format!("{image}:v2")), loaded);
        let pinned = second.reference(&format!("{image}@{loaded}"));
        let third = TestEnv::alone();
        assert_eq!(digest(hamper(&third, &["pull", &pinned])), loaded);
        assert_eq!(third.run(&pinned).map("single").args(["--entrypoint", ""]).payload(["node", "-p", "6*7"]).output().ok().trim(), "42");
    }
}

#[test]
fn podman_pulls_what_was_pushed() {
    require!(program().is_some() && has_image("debian"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    let there = server.reference("debian:v1");
    hamper(&env, &["load", &layout("debian"), "--name", "d:1"]).code(0);
    let pushed = digest(hamper(&env, &["push", "d:1", &there]));
    let podman = Podman::new(&env);
    let podman = |arguments: &[&str]| podman.output(arguments).ok();
    podman(&["pull", "-q", "--tls-verify=false", &there]);
    assert_eq!(podman(&["image", "inspect", "--format", "{{.Digest}}", &there]).trim(), pushed);
}

/// In both compressions: podman pushes, hamper pulls and pushes on, another podman and skopeo pull that.
#[test]
fn what_podman_pushed_goes_through_hamper_to_podman() {
    require!(program().is_some(), "docker-registry");
    for format in ["gzip", "zstd"] {
        // Each with a memory of its own for what it has compressed before.
        let env = TestEnv::alone();
        let (first, second) = (Server::start(&env), Server::start(&env));
        let archive = env.root().join("a.tar").display().to_string();
        skopeo(&env, ["copy", "-q", &layout("busybox"), &format!("docker-archive:{archive}:localhost/tool:1")]);
        let podman = Podman::new(&env);
        podman.output(&["load", "-q", "-i", &archive]).ok();
        let file = env.root().join(format).display().to_string();
        let (there, onwards) = (first.reference(&format!("b:{format}")), second.reference(&format!("b:{format}")));
        let push = ["push", "-q", "--tls-verify=false", "--format", "oci", "--compression-format", format, "--digestfile", &file];
        podman.output(&[&push[..], &["localhost/tool:1", &format!("docker://{there}")]].concat()).ok();
        let wanted = fs::read_to_string(&file).expect("digest");
        assert!(raw(&env, &first, &format!("b:{format}")).contains(format), "{format}");
        let own = TestEnv::alone();
        assert_eq!(digest(hamper(&own, &["pull", &there])), wanted.trim());
        own.run(&there).map("single").args(["--offline"]).probe("exit 4").code(4);
        assert_eq!(digest(hamper(&own, &["push", &there, &onwards])), wanted.trim());
        assert_eq!(raw(&env, &second, &format!("b:{format}")), raw(&env, &first, &format!("b:{format}")), "byte for byte");
        let other = Podman::new(&env);
        other.output(&["pull", "-q", "--tls-verify=false", &onwards]).ok();
        assert_eq!(other.output(&["image", "inspect", "--format", "{{.Digest}}", &onwards]).ok().trim(), wanted.trim());
        let copy = format!("oci:{}:x", env.directory(&format!("copy-{format}")).display());
        skopeo(&env, ["copy", "-q", "--preserve-digests", "--src-tls-verify=false", &format!("docker://{onwards}"), &copy]);
    }
}

#[test]
fn an_index_is_pushed_with_all_of_its_platforms() {
    require!(program().is_some() && has_image("multi-arch"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let (first, second) = (Server::start(&env), Server::start(&env));
    let index: Value = serde_json::from_slice(&fs::read(images().join("multi-arch/index.json")).expect("index")).expect("index");
    let whole = index["manifests"][0]["digest"].as_str().expect("digest");
    // From a layout on the disk, with attestations and an index in the index.
    let own = digest(hamper(&env, &["load", &layout("multi-arch:latest"), "--name", "m:1"]));
    let source = first.reference("m:v1");
    assert_eq!(digest(hamper(&env, &["push", "--all-platforms", "m:1", &source])), whole);
    assert_eq!(raw(&env, &first, "m:v1"), document("multi-arch", whole));
    // From one registry to another, by a store that has one platform of it.
    let other = TestEnv::alone();
    assert_eq!(digest(hamper(&other, &["pull", &source])), own);
    let all = second.reference("all:v1");
    assert_eq!(digest(hamper(&other, &["push", "--all-platforms", &source, &all])), whole);
    assert_eq!(raw(&env, &second, "all:v1"), document("multi-arch", whole));
    let list: Value = serde_json::from_str(&document("multi-arch", whole)).expect("index");
    let platforms: Vec<&Value> =
        list["manifests"].as_array().expect("list").iter().filter(|one| one["platform"]["os"] == "linux").collect();
    assert!(platforms.len() > 1);
    for one in platforms {
        let architecture = one["platform"]["architecture"].as_str().expect("architecture");
        let pulled = digest(hamper(&other, &["pull", "--platform", &format!("linux/{architecture}"), &all]));
        assert_eq!(pulled, one["digest"].as_str().expect("digest"));
        let copy = format!("oci:{}:x", env.directory(architecture).display());
        let from = format!("docker://{all}");
        skopeo(&env, ["--override-arch", architecture, "copy", "-q", "--preserve-digests", "--src-tls-verify=false", &from, &copy]);
    }
    // One image alone, unless all are asked for; and what is no index is none.
    assert_eq!(digest(hamper(&other, &["push", &source, &second.reference("one:v1")])), own);
    let pinned = second.reference(&format!("pinned@{whole}"));
    assert_eq!(digest(hamper(&env, &["push", "--all-platforms", "m:1", &pinned])), whole);
    hamper(&env, &["push", "m:1", &pinned]).code(2).told(&[&own, whole]);
    hamper(&env, &["load", &layout("busybox"), "--name", "b:1"]).code(0);
    hamper(&env, &["push", "--all-platforms", "b:1", &second.reference("b:1")]).code(2).told(&["leave --all-platforms out"]);
}

#[test]
fn what_a_registry_has_is_not_sent_to_it() {
    require!(program().is_some() && has_image("layers8"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    hamper(&env, &["load", &layout("layers8"), "--name", "l:1"]).code(0);
    // The control: nothing is there.
    let first = server.reference("a/l:v1");
    let seen = hamper(&env, &["push", "l:1", &first]).code(0).told(&[": sent"]);
    let blobs = seen.stderr.matches(": sent").count();
    assert_eq!((server.called("PUT", "/blobs/uploads/"), blobs), (9, 9), "{}", seen.stderr);
    let again = hamper(&env, &["push", "l:1", &first]).code(0);
    assert_eq!(again.stderr.matches(": is there already").count(), 9, "{}", again.stderr);
    assert_eq!(server.called("PUT", "/blobs/uploads/"), 9);
    // Another repository of the same registry: mounted, since the store knows that the image is there.
    hamper(&env, &["pull", &first]).code(0);
    let other = hamper(&env, &["push", "l:1", &server.reference("b/l:v1")]).code(0);
    assert_eq!(other.stderr.matches(": taken from a/l").count(), 9, "{}", other.stderr);
    assert_eq!((server.called("PUT", "/blobs/uploads/"), server.called("POST", "mount=")), (9, 9));
    skopeo(&env, ["copy", "-q", "--src-tls-verify=false", &format!("docker://{}", server.reference("b/l:v1")), "oci:copy:x"]);
}

#[test]
fn a_store_without_the_blobs_says_so_and_one_that_keeps_them_needs_nobody() {
    require!(program().is_some(), "docker-registry");
    let source = TestEnv::alone();
    let copy = source.directory("layout").display().to_string();
    source.program("cp", ["-r", &format!("{}/.", images().join("busybox").display()), &copy]).output().code(0);
    let (plain, keeps) = (TestEnv::alone(), TestEnv::alone());
    let server = Server::start(&source);
    let named = format!("oci:{copy}");
    hamper(&plain, &["load", &named, "--name", "b:1"]).code(0);
    hamper(&keeps, &["load", "--keep-blobs", &named, "--name", "b:1"]).code(0);
    let there = server.reference("b:1");
    // As long as the layout is where it was, nothing has to be kept.
    hamper(&plain, &["push", "b:1", &server.reference("control:1")]).code(0);
    fs::remove_dir_all(&copy).expect("remove");
    let server = Server::start(&source);
    let there = there.replace(&there[..there.find('/').expect("slash")], &server.host());
    hamper(&plain, &["push", "b:1", &there]).code(1).told(&["is not kept as it came", &copy, "hint: ", "--keep-blobs"]);
    assert_eq!(server.called("PUT", "/manifests/"), 0);
    let pushed = digest(hamper(&keeps, &["push", "b:1", &there]));
    assert_eq!(server.digest(&source, "b:1"), pushed);
    // Pulled with the blobs, it goes on without its registry; what is kept goes with the image.
    let env = TestEnv::alone();
    hamper(&env, &["pull", "--keep-blobs", &there]).code(0);
    assert_eq!(server.asked("/blobs/"), 2, "each once");
    let next = Server::start(&env);
    drop(server);
    assert_eq!(digest(hamper(&env, &["push", &there, &next.reference("b:2")])), pushed);
    assert_eq!(super::kept(&env, "blobs/sha256").len(), 3);
    hamper(&env, &["prune"]).code(0);
    assert_eq!(super::kept(&env, "blobs/sha256").len(), 3);
    hamper(&env, &["prune", "--all"]).code(0);
    assert_eq!(super::kept(&env, "blobs/sha256").len(), 0);
}

#[test]
fn an_archive_of_docker_is_pushed_as_the_image_that_it_holds() {
    require!(program().is_some(), "docker-registry");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    let archive = env.root().join("a.tar").display().to_string();
    skopeo(&env, ["copy", "-q", &layout("busybox"), &format!("docker-archive:{archive}:tool:1")]);
    hamper(&env, &["load", &format!("docker-archive:{archive}")]).code(0);
    let there = server.reference("tool:1");
    let pushed = digest(hamper(&env, &["push", "tool:1", &there]));
    assert_eq!(server.digest(&env, "tool:1"), pushed);
    let other = TestEnv::alone();
    assert_eq!(digest(hamper(&other, &["pull", &there])), pushed);
    other.run(&there).map("single").payload(["true"]).output().code(0);
}

#[test]
fn a_blob_that_is_not_what_it_should_be_is_not_pushed() {
    require!(program().is_some(), "docker-registry");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    let copy = env.directory("layout");
    env.program("cp", ["-r", &format!("{}/.", images().join("busybox").display()), &copy.display().to_string()]).output().code(0);
    hamper(&env, &["load", &format!("oci:{}", copy.display()), "--name", "b:1"]).code(0);
    let (path, mut bytes) = largest(&content("busybox"));
    let hex = path.rsplit(':').next().expect("digest");
    bytes[5000] ^= 1;
    fs::write(copy.join("blobs/sha256").join(hex), &bytes).expect("write");
    hamper(&env, &["push", "b:1", &server.reference("b:1")]).code(1).told(&[hex, "expected"]);
    assert_eq!((server.called("PUT", "/manifests/"), server.called("PUT", hex)), (0, 0));
}

#[test]
fn a_name_that_cannot_be_pushed_to_is_refused() {
    let env = TestEnv::alone();
    let loaded = digest(hamper(&env, &["load", &layout("busybox"), "--name", "b:1"]));
    hamper(&env, &["push", &loaded]).code(2).told(&["is no name with a registry", "REGISTRY/NAME:TAG"]);
    hamper(&env, &["push", "none:1", "localhost:1/x:1"]).code(1).told(&["none:1", "in the store"]);
    hamper(&env, &["push", "b:1", "localhost:1/x:1"]).code(1).told(&["localhost:1: cannot push blob", "hint: "]);
}

/// A registry that takes uploads, as long as it does not lose them.
#[derive(Default)]
struct Taken {
    upload: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    patches: usize,
    sizes: Vec<usize>,
}

fn upload(taken: &mut Taken, asked: &Asked, fault: &dyn Fn(&mut Taken, &Asked) -> Option<Reply>) -> Option<Reply> {
    let there = || ("location".to_owned(), "/v2/x/blobs/uploads/1?state=2".to_owned());
    let range = |taken: &Taken| ("range".to_owned(), format!("0-{}", taken.upload.len().saturating_sub(1)));
    let reply = |status, headers: Vec<(String, String)>| Some(Reply { headers, ..Reply::new(status, "") });
    match asked.method.as_str() {
        "HEAD" => reply(if taken.blobs.keys().any(|digest| asked.path.ends_with(digest)) { 200 } else { 404 }, Vec::new()),
        "POST" => {
            taken.upload.clear();
            reply(202, vec![there()])
        }
        "PATCH" => {
            taken.patches += 1;
            if let Some(fault) = fault(taken, asked) {
                return Some(fault);
            }
            let start = asked.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
            if start != Some(taken.upload.len()) {
                return reply(416, vec![there(), range(taken)]);
            }
            taken.sizes.push(asked.body.len());
            taken.upload.extend(&asked.body);
            reply(202, vec![there(), range(taken)])
        }
        "GET" if asked.path.contains("/uploads/") => reply(204, vec![there(), range(taken)]),
        "PUT" if asked.path.contains("/uploads/") => {
            taken.upload.extend(&asked.body);
            let bytes = std::mem::take(&mut taken.upload);
            let stated = asked.path.split("digest=").nth(1).expect("digest").replace("%3A", ":");
            let right = Digest::of(&bytes).to_string() == stated;
            if right {
                taken.blobs.insert(stated, bytes);
            }
            reply(if right { 201 } else { 400 }, Vec::new())
        }
        "PUT" => reply(201, Vec::new()),
        _ => None,
    }
}

/// Pushes an image with one large blob through `fault`; what has arrived.
fn push_through(fault: impl Fn(&mut Taken, &Asked) -> Option<Reply> + Send + Sync + 'static) -> (Arc<Mutex<Taken>>, Seen) {
    let taken = Arc::new(Mutex::new(Taken::default()));
    let inner = Arc::clone(&taken);
    let registry = Faulty::serve_content(Content::new(), move |asked, _| upload(&mut inner.lock().expect("taken"), asked, &fault));
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("debian"), "--name", "d:1"]).code(0);
    let seen = hamper(&env, &["push", "d:1", &registry.reference()]);
    (taken, seen)
}

#[test]
fn a_push_that_is_cut_goes_on_where_it_was_cut() {
    require!(has_image("debian"), "the test images");
    let (_, whole) = largest(&content("debian"));
    // The control: pieces of one size, and nothing twice.
    let (taken, seen) = push_through(|_, _| None);
    seen.code(0);
    let pieces = whole.len().div_ceil(8 << 20);
    assert!(pieces > 2);
    assert_eq!(taken.lock().expect("taken").sizes.len(), pieces);
    // Half of a piece arrives, and then the connection is gone, or the server has trouble, or nothing at all has arrived.
    for fault in [0, 1, 2] {
        let (taken, seen) = push_through(move |taken, asked| {
            let hangs_up = fault != 1;
            if taken.patches != 2 {
                return None;
            }
            if fault < 2 {
                taken.upload.extend(&asked.body[..asked.body.len() / 2]);
            }
            Some(Reply { hangs_up, ..Reply::new(503, "") })
        });
        seen.code(0).told(&["again in"]);
        let taken = taken.lock().expect("taken");
        assert!(taken.blobs.values().any(|bytes| *bytes == whole), "fault {fault}");
        let sent: usize = taken.sizes.iter().sum();
        let lost = if fault < 2 { 4 << 20 } else { 0 };
        assert_eq!(sent + lost, whole.len(), "fault {fault}: {:?}", taken.sizes);
    }
}

#[test]
fn an_upload_that_is_lost_is_begun_again_and_one_that_stays_lost_ends() {
    require!(has_image("debian"), "the test images");
    let (_, whole) = largest(&content("debian"));
    let (taken, seen) = push_through(|taken, _| {
        (taken.patches == 3).then(|| {
            taken.upload.clear();
            Reply::new(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"gone"}]}"#)
        })
    });
    seen.code(0).told(&["BLOB_UPLOAD_UNKNOWN", "again in"]);
    assert!(taken.lock().expect("taken").blobs.values().any(|bytes| *bytes == whole));
    let (taken, seen) = push_through(|_, _| Some(Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no leave"}]}"#)));
    seen.code(1).told(&["cannot push blob", "status 403", "DENIED: no leave", "hamper login"]);
    assert_eq!(taken.lock().expect("taken").patches, 1, "a refusal is not tried again");
}

/// Debian's registry keeps an offset in the address of an upload, signed, so that nobody can go on inside a piece: it drops the upload when
/// asked how much it has. Then that blob is sent again, and no other.
#[test]
fn a_registry_that_drops_what_was_cut_gets_that_blob_again_and_no_other() {
    require!(program().is_some() && has_image("node14"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let loaded = digest(hamper(&env, &["load", &layout("node14"), "--name", "n:1"]));
    let blobs = layers_of(&loaded) + 1;
    for (direction, at) in [(Direction::To, 20 << 20), (Direction::To, (12 << 20) + 17), (Direction::From, 300)] {
        let server = Server::start(&env);
        let network = Cutting::before(server.port(), move |cuts| (cuts < 2).then_some((direction, at)));
        let seen = hamper(&env, &["push", "n:1", &network.reference("n:1")]);
        assert_eq!(digest(seen), loaded);
        assert_eq!(network.cuts(), 2);
        assert_eq!(server.digest(&env, "n:1"), loaded);
        // Each blob that was begun again, once more; each that is there, closed once.
        let (begun, closed) = (server.called("POST", "/blobs/uploads/"), server.called("PUT", "/blobs/uploads/"));
        assert!(begun <= blobs + 2 && closed <= blobs + 2, "{begun} {closed}, of {blobs} blobs");
        let copy = format!("oci:{}:x", env.directory(&format!("copy{at}")).display());
        skopeo(&env, ["copy", "-q", "--src-tls-verify=false", &format!("docker://{}", server.reference("n:1")), &copy]);
    }
    // A network that never carries a whole blob ends it, and says what stays.
    fs::create_dir_all(env.config().join("hamper")).expect("directory");
    fs::write(env.config().join("hamper/registries.toml"), "retries = 2\n").expect("settings");
    let server = Server::start(&env);
    let network = Cutting::before(server.port(), |_| Some((Direction::To, 20 << 20)));
    let seen = hamper(&env, &["push", "n:1", &network.reference("n:1")]);
    seen.code(1).told(&["has dropped the upload", "again in", "hint: look at the network, and push again"]);
    assert!(network.cuts() <= 3 * 2 * blobs, "{}", network.cuts());
    assert_eq!(server.called("PUT", "/manifests/"), 0);
}

fn layers_of(digest: &str) -> usize {
    let manifest: Value = serde_json::from_str(&document("node14", digest)).expect("manifest");
    manifest["layers"].as_array().expect("layers").len()
}

#[test]
fn an_upload_on_another_host_learns_no_password() {
    let store = Faulty::serve_content(Content::new(), |asked, _| match asked.method.as_str() {
        "PUT" | "PATCH" => Some(Reply::new(if asked.method == "PUT" { 201 } else { 202 }, "")),
        _ => None,
    });
    let place = format!("http://{}/put?x=1", store.host());
    let registry = Faulty::serve_content(Content::new(), move |asked, _| {
        if asked.header("authorization") != Some("Basic amFuZTpwdw==") {
            return Some(Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""));
        }
        Some(match (asked.method.as_str(), asked.path.contains("/manifests/")) {
            ("HEAD", _) => Reply::new(404, ""),
            ("POST", _) => Reply::new(202, "").header("location", place.clone()),
            _ => Reply::new(201, ""),
        })
    });
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("busybox"), "--name", "b:1"]).code(0);
    fs::create_dir_all(env.home().join(".docker")).expect("directory");
    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "amFuZTpwdw=="}}}}}}"#, registry.host());
    fs::write(env.home().join(".docker/config.json"), auths).expect("credentials");
    hamper(&env, &["push", "b:1", &registry.reference()]).code(0);
    let uploads: Vec<Asked> = store.asked();
    assert_eq!(uploads.len(), 2);
    assert!(uploads.iter().all(|one| one.header("authorization").is_none() && one.path.contains("digest=sha256%3A")));
    // The control: the registry itself was told.
    assert!(registry.asked().iter().any(|one| one.method == "PUT" && one.header("authorization").is_some()));
}

#[test]
fn an_upload_on_another_host_cannot_send_for_the_password() {
    require!(has_image("node14"), "the test images");
    // It refuses the first piece of a large blob, and answers the question how far it has come by leading to the registry, which asks who that is.
    let home: Arc<std::sync::OnceLock<String>> = Arc::default();
    let lead = Arc::clone(&home);
    let store = Faulty::serve_content(Content::new(), move |asked, _| {
        Some(match (asked.method.as_str(), asked.header("authorization")) {
            ("GET", None) => Reply::new(307, "").header("location", format!("http://{}/v2/x/trap", lead.get().expect("the registry"))),
            ("PATCH", _) => Reply::new(416, ""),
            _ => Reply::new(404, ""),
        })
    });
    let place = format!("http://{}/put?x=1", store.host());
    let registry = Faulty::serve_content(Content::new(), move |asked, _| {
        if asked.header("authorization") != Some("Basic amFuZTpwdw==") {
            return Some(Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""));
        }
        Some(match asked.method.as_str() {
            "POST" => Reply::new(202, "").header("location", place.clone()),
            _ => Reply::new(404, ""),
        })
    });
    home.set(registry.host()).expect("once");
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("node14"), "--name", "b:1"]).code(0);
    fs::create_dir_all(env.home().join(".docker")).expect("directory");
    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "amFuZTpwdw=="}}}}}}"#, registry.host());
    fs::write(env.home().join(".docker/config.json"), auths).expect("credentials");
    hamper(&env, &["push", "b:1", &registry.reference()]).code(1);
    let asked: Vec<Asked> = store.asked();
    assert!(asked.iter().any(|one| one.method == "GET"), "it was led nowhere");
    assert!(asked.iter().all(|one| one.header("authorization").is_none()));
    // The control: the registry was told, also where it was led to.
    assert!(registry.asked().iter().any(|one| one.method == "POST" && one.header("authorization").is_some()));
    assert!(registry.asked().iter().any(|one| one.path.contains("/trap")));
}

#[test]
fn a_registry_that_dies_in_a_push_and_comes_back_has_all_of_it() {
    require!(program().is_some() && has_image("node14"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let mut server = Server::start(&env);
    hamper(&env, &["load", &layout("node14"), "--name", "n:1"]).code(0);
    let child = env.hamper(["image", "push", "n:1", &server.reference("n:1")]).spawn();
    assert!(crate::support::within(20.0, || server.uploads("n").exists()));
    std::thread::sleep(Duration::from_millis(150));
    server.kill();
    std::thread::sleep(Duration::from_millis(700));
    server.revive();
    let pushed = child.output().ok().trim().to_owned();
    assert_eq!(server.digest(&env, "n:1"), pushed);
    skopeo(&env, ["copy", "-q", "--src-tls-verify=false", &format!("docker://{}", server.reference("n:1")), "oci:copy:x"]);
}

#[test]
fn a_push_asks_the_token_server_for_leave_to_push() {
    let tokens = Faulty::serve_content(Content::new(), |asked, _| {
        let scope = asked.path.split("scope=").nth(1).unwrap_or_default().split('&').next().unwrap_or_default();
        Some(Reply::new(200, format!(r#"{{"token": "for-{}"}}"#, if scope.contains("push") { "push" } else { "pull" })))
    });
    let realm = format!("http://{}/token", tokens.host());
    let registry = Faulty::serve_content(Content::new(), move |asked, _| {
        let reads = asked.method == "HEAD";
        let good = match asked.header("authorization") {
            Some("Bearer for-push") => true,
            Some("Bearer for-pull") => reads,
            _ => false,
        };
        if !good {
            let leave = if reads { "pull" } else { "pull,push" };
            let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:x:{leave}\"");
            return Some(Reply::new(401, "").header("www-authenticate", challenge));
        }
        Some(match asked.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => Reply::new(202, "").header("location", "/v2/x/blobs/uploads/1"),
            _ => Reply::new(201, ""),
        })
    });
    let env = TestEnv::alone();
    hamper(&env, &["load", &layout("busybox"), "--name", "b:1"]).code(0);
    hamper(&env, &["push", "b:1", &registry.reference()]).code(0);
    assert!(tokens.asked().iter().any(|one| one.path.contains("pull%2Cpush")));
}
