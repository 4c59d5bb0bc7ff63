//! Pull and run, from Debian's `docker-registry`.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::faulty::Faulty;
use super::layers;
use super::server::{Server, program};
use crate::require;
use crate::support::{TestEnv, has_image, images, maps, within};

fn pull(env: &TestEnv, map: &str, reference: &str) -> String {
    env.hamper(["image", "--map", map, "pull", reference]).output().ok().trim().to_owned()
}

#[test]
fn an_image_is_pulled_by_tag_and_digest_and_runs_without_its_registry() {
    require!(program().is_some(), "docker-registry");
    for map in maps() {
        let env = TestEnv::alone();
        let mut server = Server::start(&env);
        let digest = server.fill(&env, "busybox", "team/busybox:v1");
        let tagged = server.reference("team/busybox:v1");
        assert_eq!(pull(&env, map, &tagged), digest);
        let pinned = server.reference(&format!("team/busybox@{digest}"));
        assert_eq!(pull(&env, map, &pinned), digest);
        assert_eq!(server.asked("/blobs/"), 2, "config and layer, once each");
        server.kill();
        for reference in [&tagged, &pinned] {
            for more in [&[][..], &["--offline"], &["--set", "pull=never"]] {
                env.run(reference).map(map).args(more.iter().copied()).payload(["true"]).output().code(0);
            }
            env.hamper(["plan", "--image", reference]).args(["--set", &format!("identity.map={map}")]).output().code(0);
        }
        let shown: Value = serde_json::from_str(&env.hamper(["image", "inspect", &tagged]).output().ok()).expect("JSON");
        assert_eq!(shown["image"]["digest"], digest.as_str());
    }
}

#[test]
fn a_run_fetches_what_is_missing_and_only_where_it_may() {
    require!(program().is_some(), "docker-registry");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    server.fill(&env, "busybox", "b:v1");
    let reference = server.reference("b:v1");
    for more in [&["--offline"][..], &["--set", "pull=never"]] {
        let seen = env.run(&reference).args(more.iter().copied()).payload(["true"]).output().code(125);
        let _ = seen.told(&[&reference, "is not in the store", "hint: hamper image pull"]);
    }
    assert_eq!(server.asked("/"), 0);
    env.hamper(["plan", "--image", &reference]).output().code(1).told(&["hint: hamper image pull"]);
    env.run(&reference).payload(["true"]).output().code(0);
    let asked = server.asked("/");
    env.run(&reference).payload(["true"]).output().code(0);
    assert_eq!(server.asked("/"), asked, "a warm start asks nobody");
}

#[test]
fn a_tag_that_moves_is_followed_where_that_is_asked_for() {
    require!(program().is_some(), "docker-registry");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    let old = server.fill(&env, "busybox", "b:v1");
    let reference = server.reference("b:v1");
    env.run(&reference).payload(["true"]).output().code(0);
    let new = server.fill(&env, "layers8", "b:v1");
    assert_ne!(old, new);
    let run = |more: &[&str]| {
        let out = env.run(&reference).args(["--entrypoint", ""]).args(more.iter().copied()).payload(["sh", "-c", "echo /*"]).output().ok();
        let shown: Value = serde_json::from_str(&env.hamper(["image", "inspect", &reference]).output().ok()).expect("JSON");
        (shown["image"]["digest"].as_str().expect("digest").to_owned(), out)
    };
    let first = run(&[]);
    assert_eq!(first.0, old);
    let second = run(&["--set", "pull=always"]);
    assert_eq!(second.0, new);
    assert_ne!(first.1, second.1);
    assert_eq!(run(&[]), second, "and from then on it is that");
    let list: Value = serde_json::from_str(&env.hamper(["image", "ls", "--format", "json"]).output().ok()).expect("JSON");
    let names = |digest: &str| list.as_array().expect("list").iter().find(|one| one["digest"] == digest).expect("image")["names"].clone();
    assert_eq!((names(&old), names(&new)), (serde_json::json!([]), serde_json::json!([reference])));
}

#[test]
fn always_asks_for_no_more_than_the_digest_while_a_tag_stays() {
    require!(program().is_some() && has_image("multi-arch"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    for (image, own) in [("busybox", "b:v1"), ("multi-arch:latest", "m:v1")] {
        let reference = server.reference(own);
        env.hamper(["image", "load", &super::layout(image), "--name", "x:1"]).output().code(0);
        let all: &[&str] = if own == "m:v1" { &["--all-platforms"] } else { &[] };
        env.hamper([&["image", "push"], all, &["x:1", &reference]].concat()).output().code(0);
        let run = |more: &[&str]| env.run(&reference).map("single").set("pull=always").args(more.iter().copied()).probe("exit 4").any();
        let asked = || (server.called("HEAD", "/manifests/"), server.asked("/manifests/") + server.asked("/blobs/"));
        // The control: what is not known is fetched.
        let before = asked();
        run(&[]).code(4);
        assert!(asked().1 > before.1);
        let before = asked();
        run(&[]).code(4);
        assert_eq!(asked(), (before.0 + 1, before.1), "{image}");
        run(&["--offline"]).code(4);
        assert_eq!(asked(), (before.0 + 1, before.1), "{image}");
    }
    // By its digest it can be nothing else.
    let pinned = server.reference(&format!("b@{}", server.digest(&env, "b:v1")));
    let before = server.called("HEAD", "/");
    env.run(&pinned).map("single").set("pull=always").probe("exit 4").code(4);
    assert_eq!(server.called("HEAD", "/"), before);
    // A registry that is gone is told, unless nobody is to be asked.
    let reference = server.reference("b:v1");
    drop(server);
    let run = || env.run(&reference).map("single").set("pull=always");
    run().probe("exit 4").code(125).told(&["cannot look up v1", "hint: "]);
    run().args(["--offline"]).probe("exit 4").code(4);
}

#[test]
fn a_registry_that_answers_no_head_is_asked_by_get() {
    for answer in [Some(405), Some(404), None] {
        let registry = Faulty::serve("busybox", move |asked, _| {
            let reply = answer.map(|status| super::faulty::Reply::new(status, ""));
            (asked.method == "HEAD").then_some(reply).flatten()
        });
        let env = TestEnv::alone();
        let run = || env.run(&registry.reference()).map("single").set("pull=always").probe("exit 4");
        for expected in [1, 2, 3] {
            run().code(4);
            let gets = registry.asked().iter().filter(|one| one.method == "GET" && one.path.ends_with("/manifests/v1")).count();
            assert_eq!(gets, expected, "{answer:?}");
        }
        // What the store has is not fetched again for that.
        assert_eq!(registry.asked().iter().filter(|one| one.is_blob()).count(), 2);
    }
}

#[test]
fn an_index_leads_to_the_platform() {
    require!(has_image("multi-arch"), "the test images");
    let env = TestEnv::alone();
    let content = super::faulty::content("multi-arch");
    let index: Value = serde_json::from_slice(&content["/v2/x/manifests/v1"].1).expect("index");
    let pinned = content.keys().filter_map(|path| path.strip_prefix("/v2/x/manifests/sha256:")).map(str::to_owned);
    let whole = pinned
        .into_iter()
        .find(|hex| content[&format!("/v2/x/manifests/sha256:{hex}")].1 == content["/v2/x/manifests/v1"].1)
        .expect("index");
    let registry = Faulty::serve_content(content, |_, _| None);
    let mut seen = 0;
    for one in index["manifests"].as_array().expect("manifests") {
        let (Some(os), Some(architecture)) = (one["platform"]["os"].as_str(), one["platform"]["architecture"].as_str()) else { continue };
        let is_manifest = one["mediaType"].as_str().is_some_and(|kind| kind.contains("manifest.v"));
        if os == "unknown" || !is_manifest {
            continue;
        }
        let variant = one["platform"]["variant"].as_str().map(|text| format!("/{text}")).unwrap_or_default();
        for reference in [registry.reference(), format!("{}/x@sha256:{whole}", registry.host())] {
            let text = format!("{os}/{architecture}{variant}");
            let got = env.hamper(["image", "pull", "--platform", &text, &reference]).output().ok();
            assert_eq!(got.trim(), one["digest"].as_str().expect("digest"), "{text}");
        }
        seen += 1;
    }
    assert!(seen > 1, "{index}");
    env.hamper(["image", "pull", "--platform", "linux/s390x", &registry.reference()]).output().code(1).told(&["no image for linux/s390x"]);
    env.hamper(["image", "pull", &registry.reference()]).output().code(0);
    let asked = registry.asked().len();
    // Each platform has its own, whichever came last; an index by its digest too.
    for reference in [registry.reference(), format!("{}/x@sha256:{whole}", registry.host())] {
        env.run(&reference).args(["--offline"]).probe("exit 4").code(4);
    }
    assert_eq!(registry.asked().len(), asked);
}

#[test]
fn node_runs_from_gzip_and_zstd() {
    require!(program().is_some() && has_image("node14-zstd"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    for image in ["node14", "node14-zstd"] {
        let digest = server.fill(&env, image, &format!("{image}:v1"));
        let reference = server.reference(&format!("{image}:v1"));
        assert_eq!(pull(&env, "auto", &reference), digest);
        assert_eq!(env.run(&reference).args(["--entrypoint", ""]).payload(["node", "-p", "6*7"]).output().ok().trim(), "42");
    }
}

#[test]
fn layers_come_side_by_side_whether_their_blobs_are_kept_or_not() {
    require!(has_image("layers8"), "the test images");
    for more in [&[][..], &["--keep-blobs"]] {
        let content = super::faulty::content("layers8");
        let again = content.clone();
        let coming = AtomicUsize::new(0);
        // No layer comes before two are asked for: one after the other, they would never.
        let registry = Faulty::serve_content(content, move |asked, _| {
            let is_layer = asked.is_blob() && again[&asked.path].1.starts_with(&[0x1f, 0x8b]);
            if is_layer {
                coming.fetch_add(1, Ordering::Relaxed);
                if !within(10.0, || coming.load(Ordering::Relaxed) > 1) {
                    return Some(super::faulty::Reply::new(404, ""));
                }
            }
            None
        });
        let env = TestEnv::alone();
        let seen = env.hamper(["image", "--map", "single", "pull"]).args(more.iter().copied()).args([&*registry.reference()]);
        seen.output().code(0).told(&["fetching 8 layers"]);
        assert_eq!(registry.asked().iter().filter(|one| one.is_blob()).count(), 9, "config and layers, once each");
        assert_eq!(super::kept(&env, "blobs/sha256").len(), if more.is_empty() { 2 } else { 10 });
        let again = env.hamper(["image", "--map", "single", "pull"]).args(more.iter().copied()).args([&*registry.reference()]);
        assert!(!again.output().code(0).stderr.contains("fetching"));
        assert_eq!(registry.asked().iter().filter(|one| one.is_blob()).count(), 9);
    }
}

#[test]
fn many_at_once_fetch_each_blob_once() {
    require!(program().is_some() && has_image("layers8"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let server = Server::start(&env);
    let digest = server.fill(&env, "layers8", "l:v1");
    let reference = server.reference("l:v1");
    let hampers: Vec<_> = (0..8).map(|_| env.hamper(["image", "--map", "single", "pull", &reference]).spawn()).collect();
    for hamper in hampers {
        assert_eq!(hamper.output().ok().trim(), digest);
    }
    let manifest: Value = serde_json::from_slice(
        &std::fs::read(images().join("layers8/blobs/sha256").join(digest.trim_start_matches("sha256:"))).expect("manifest"),
    )
    .expect("JSON");
    let blobs = manifest["layers"].as_array().expect("layers").iter().chain([&manifest["config"]]);
    for blob in blobs {
        assert_eq!(server.asked(blob["digest"].as_str().expect("digest")), 1, "{blob}");
    }
    assert_eq!(layers(&env), manifest["layers"].as_array().expect("layers").len());
}
