//! Registries and networks that fail: what is tried again, what is refused, and what is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::faulty::{Faulty, Reply, content, largest, right};
use super::server::{Server, program};
use super::{kept, layers};
use crate::require;
use crate::support::{TestEnv, has_image, seconds};

fn pull(env: &TestEnv, reference: &str) -> crate::support::Seen {
    env.hamper(["image", "--map", "single", "pull", reference]).output().any()
}

/// A pseudo-random sequence, the same each time.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("fits") % below
    }
}

#[test]
fn a_blob_that_is_cut_goes_on_where_it_was_cut() {
    let content = content("busybox");
    let (path, bytes) = largest(&content);
    let next = Mutex::new(numbers(7));
    let (wanted, whole) = (path.clone(), content.clone());
    let registry = Faulty::serve_content(content, move |asked, before| {
        (asked.path == wanted && before < 5).then(|| {
            let mut reply = right(asked, &whole);
            let length = reply.body.len();
            // Always some progress, never the end.
            reply.cut = Some(65_536.min(length / 4) + next.lock().expect("numbers")(length / 2));
            reply
        })
    });
    let env = TestEnv::alone();
    pull(&env, &registry.reference()).code(0).told(&["again in"]);
    let asked: Vec<usize> = registry.asked().iter().filter(|one| one.path == path).map(super::faulty::Asked::from).collect();
    assert_eq!((asked.len(), asked[0]), (6, 0), "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[0] < pair[1] && pair[1] < bytes.len()), "{asked:?}");
    env.run(&registry.reference()).map("single").args(["--offline"]).probe("exit 4").code(4);
}

#[test]
fn a_registry_without_ranges_is_read_from_the_start_again() {
    let content = content("busybox");
    let (path, bytes) = largest(&content);
    let (wanted, half) = (path.clone(), bytes.len() / 2);
    let registry = Faulty::serve_content(content, move |asked, before| {
        (asked.path == wanted).then(|| Reply { cut: (before == 0).then_some(half), ..Reply::new(200, bytes.clone()) })
    });
    let env = TestEnv::alone();
    pull(&env, &registry.reference()).code(0);
    let froms: Vec<bool> = registry.asked().iter().filter(|one| one.path == path).map(|one| one.from() > 0).collect();
    assert_eq!(froms, [false, true]);
}

#[test]
fn a_range_of_something_else_is_refused() {
    let content = content("busybox");
    let (path, bytes) = largest(&content);
    let registry = Faulty::serve_content(content, move |asked, before| {
        (asked.path == path).then(|| match before {
            0 => Reply { cut: Some(1000), ..Reply::new(200, bytes.clone()) },
            _ => Reply::new(206, &bytes[10..]).header("content-range", format!("bytes 10-{}/{}", bytes.len() - 1, bytes.len())),
        })
    });
    let env = TestEnv::alone();
    pull(&env, &registry.reference()).code(1).told(&["asked for `bytes ", "it sends `bytes 10-"]);
    assert_eq!(layers(&env), 0);
}

/// RFC 9110 section 15.3.7: less than was asked for is an answer.
#[test]
fn a_shorter_range_is_taken_for_what_it_is() {
    let content = content("busybox");
    let (path, bytes) = largest(&content);
    let (wanted, piece) = (path.clone(), bytes.len() / 5);
    let registry = Faulty::serve_content(content, move |asked, _| {
        (asked.path == wanted).then(|| match asked.from() {
            0 => Reply { cut: Some(piece), ..Reply::new(200, bytes.clone()) },
            from => {
                let end = (from + piece).min(bytes.len());
                Reply::new(206, &bytes[from..end]).header("content-range", format!("bytes {from}-{}/{}", end - 1, bytes.len()))
            }
        })
    });
    let env = TestEnv::alone();
    let seen = pull(&env, &registry.reference()).code(0);
    assert_eq!(seen.stderr.matches("again in").count(), 1, "{}", seen.stderr);
    assert!(registry.asked().iter().filter(|one| one.path == path).count() >= 5);
}

#[test]
fn a_registry_that_refuses_ranges_is_asked_for_the_whole() {
    for refuses in [true, false] {
        let content = content("busybox");
        let (path, bytes) = largest(&content);
        let wanted = path.clone();
        let registry = Faulty::serve_content(content, move |asked, before| {
            (asked.path == wanted).then(|| match (asked.header("range"), before) {
                (Some(_), _) if refuses => Reply::new(416, "").header("content-range", format!("bytes */{}", bytes.len())),
                (Some(_), _) => Reply::new(206, &bytes[asked.from()..]),
                (None, 0) => Reply { cut: Some(bytes.len() / 2), ..Reply::new(200, bytes.clone()) },
                (None, _) => Reply::new(200, bytes.clone()),
            })
        });
        let env = TestEnv::alone();
        let seen = pull(&env, &registry.reference()).code(0).told(&["it broke off at byte"]);
        assert!(!seen.stderr.contains("gave up"), "{}", seen.stderr);
        let ranges: Vec<bool> = registry.asked().iter().filter(|one| one.path == path).map(|one| one.header("range").is_some()).collect();
        assert_eq!(ranges, [false, true, false]);
    }
}

#[test]
fn a_server_that_is_busy_is_given_the_time_that_it_asks_for() {
    for (status, wait) in [(429, Some("2")), (503, Some("1")), (500, None), (502, None)] {
        let registry = Faulty::serve("busybox", move |asked, before| {
            (before == 0).then(|| {
                assert_eq!(asked.method, "GET");
                let reply = Reply::new(status, "");
                wait.map_or_else(|| Reply::new(status, ""), |wait| reply.header("retry-after", wait))
            })
        });
        let env = TestEnv::alone();
        let begin = Instant::now();
        pull(&env, &registry.reference()).code(0).told(&[&format!("status {status}"), "again in"]);
        // Manifest, config and layer, one after the other.
        let least = wait.map_or(0, |wait| 3 * wait.parse::<u64>().expect("seconds"));
        assert!(begin.elapsed() >= Duration::from_secs(least), "{status}: {:?}", begin.elapsed());
    }
}

#[test]
fn who_asks_for_too_much_patience_is_told_and_not_waited_for() {
    let registry = Faulty::serve("busybox", |_, _| Some(Reply::new(429, "").header("retry-after", "3600")));
    let env = TestEnv::alone();
    let seen = pull(&env, &registry.reference()).code(1);
    assert!(seen.took < seconds(10));
    let _ = seen.told(&[&registry.host(), "fetch manifest v1", "429", "3600", "hint: "]);
}

#[test]
fn failures_that_stay_end_with_host_step_status_and_hint() {
    let env = TestEnv::alone();
    std::fs::create_dir_all(env.config().join("hamper")).expect("config");
    std::fs::write(env.config().join("hamper/registries.toml"), "retries = 1\nstall_timeout = 1\n").expect("settings");
    for (status, word) in [(404, "MANIFEST_UNKNOWN"), (500, ""), (403, ""), (418, "")] {
        let body = format!(r#"{{"errors":[{{"code":"{word}","message":"no"}}]}}"#);
        let registry = Faulty::serve("busybox", move |_, _| Some(Reply::new(status, body.clone())));
        let seen = pull(&env, &registry.reference()).code(1);
        assert!(seen.took < seconds(10));
        let seen = seen.told(&[&registry.host(), "cannot fetch manifest v1", &format!("status {status}"), word]);
        assert!(status == 418 || seen.stderr.contains("hint: "), "{}", seen.stderr);
    }
    let nobody = format!("localhost:{}/x:v1", super::server::free_port());
    pull(&env, &nobody).code(1).told(&[&nobody[..14], "cannot fetch manifest v1", "hint: "]);
    pull(&env, "no-such-host.invalid/x:v1").code(1).told(&["no-such-host.invalid", "hint: "]);
}

#[test]
fn what_has_another_digest_or_size_than_was_asked_for_is_refused() {
    let whole = content("busybox");
    let (layer, bytes) = largest(&whole);
    let config = whole
        .iter()
        .find(|(path, (_, bytes))| path.contains("/blobs/") && bytes.starts_with(b"{") && bytes.windows(8).any(|w| w == b"diff_ids"));
    let config = config.expect("config").0.clone();
    let pinned = whole.keys().find(|path| path.contains("/manifests/sha256:")).expect("manifest").clone();
    let flip = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    let shorter = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    let longer = |bytes: &[u8]| [bytes, b"x"].concat();
    for path in [&layer, &config, &pinned] {
        let right = whole[path].1.clone();
        for wrong in [flip(&right), shorter(&right), longer(&right), Vec::new()] {
            let mut content = whole.clone();
            content.get_mut(path).expect("blob").1 = wrong;
            let registry = Faulty::serve_content(content, |_, _| None);
            let env = TestEnv::alone();
            let reference = match pinned.strip_prefix("/v2/x/manifests/").filter(|_| *path == pinned) {
                Some(digest) => format!("{}/x@{digest}", registry.host()),
                None => registry.reference(),
            };
            let seen = pull(&env, &reference).code(1);
            assert!(seen.took < seconds(30), "{:?}", seen.took);
            assert_eq!((layers(&env), kept(&env, "images").len(), kept(&env, "references").len()), (0, 0, 0), "{path}: {}", seen.stderr);
        }
    }
    assert!(bytes.len() > 1000);
    // Bytes that nothing can decompress, or that are of another kind, are told for what they are: not the ones that were asked for.
    for place in [0, bytes.len() / 2] {
        let mut content = whole.clone();
        content.get_mut(&layer).expect("blob").1[place] ^= 0xff;
        let registry = Faulty::serve_content(content, |_, _| None);
        let digest = layer.rsplit_once('/').expect("a digest").1;
        pull(&TestEnv::alone(), &registry.reference()).code(1).told(&[
            &format!("expected {digest}"),
            &registry.host(),
            "has digest sha256:",
            "hint: ",
        ]);
    }
    // Nor is a page of a web server an image.
    let registry = Faulty::serve("busybox", |_, _| Some(Reply::new(200, "<html>welcome</html>")));
    pull(&TestEnv::alone(), &registry.reference()).code(1).told(&[&registry.host(), "hint: "]);
    // A digest in a header that is not the body's.
    let registry = Faulty::serve("busybox", move |asked, _| {
        asked
            .path
            .contains("/manifests/")
            .then(|| right(asked, &whole).header("docker-content-digest", format!("sha256:{}", "0".repeat(64))))
    });
    pull(&TestEnv::alone(), &registry.reference()).code(1).told(&["it says that this is sha256:0000"]);
}

#[test]
fn a_redirect_to_another_host_takes_no_credentials_along() {
    let whole = content("busybox");
    let elsewhere = Faulty::serve_content(whole.clone(), |_, _| None);
    let host = elsewhere.host();
    let registry = Faulty::serve_content(whole, move |asked, _| {
        if asked.header("authorization").is_none() {
            return Some(Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""));
        }
        asked.is_blob().then(|| Reply::new(307, "").header("location", format!("http://{host}{}", asked.path)))
    });
    let env = TestEnv::alone();
    env.file("../home/.docker/config.json", format!(r#"{{"auths":{{"{}":{{"auth":"dTpwYXNzd29yZA=="}}}}}}"#, registry.host()));
    pull(&env, &registry.reference()).code(0);
    assert!(registry.asked().iter().any(|one| one.header("authorization") == Some("Basic dTpwYXNzd29yZA==")));
    let there = elsewhere.asked();
    assert!(there.len() >= 2 && there.iter().all(|one| one.header("authorization").is_none()), "{there:?}");
}

#[test]
fn redirects_end() {
    let registry = Faulty::serve("busybox", |asked, _| Some(Reply::new(302, "").header("location", asked.path.clone())));
    pull(&TestEnv::alone(), &registry.reference()).code(1).told(&["redirects more than"]);
    for location in ["ftp://localhost/x", "http://u@localhost/x", "http://"] {
        let registry = Faulty::serve("busybox", move |_, _| Some(Reply::new(302, "").header("location", location)));
        pull(&TestEnv::alone(), &registry.reference()).code(1).told(&["redirects to no address"]);
    }
}

#[test]
fn a_sender_that_stalls_or_drips_is_given_up() {
    let env = TestEnv::alone();
    std::fs::create_dir_all(env.config().join("hamper")).expect("config");
    std::fs::write(env.config().join("hamper/registries.toml"), "retries = 2\nstall_timeout = 1\n").expect("settings");
    let (path, _) = largest(&content("busybox"));
    for wait in [Duration::from_millis(100), Duration::from_secs(20)] {
        // Once: the next connection is in order.
        let (whole, wanted) = (content("busybox"), path.clone());
        let registry = Faulty::serve("busybox", move |asked, before| {
            (asked.path == wanted && before == 0).then(|| Reply { drip: Some(wait), ..right(asked, &whole) })
        });
        let seen = pull(&env, &registry.reference()).code(0);
        assert!(seen.took < seconds(15), "{:?}", seen.took);
        env.hamper(["image", "--map", "single", "prune", "--all"]).output().code(0);
        // Always.
        let (whole, wanted) = (content("busybox"), path.clone());
        let registry =
            Faulty::serve("busybox", move |asked, _| (asked.path == wanted).then(|| Reply { drip: Some(wait), ..right(asked, &whole) }));
        let seen = pull(&env, &registry.reference()).code(1).told(&[&registry.host(), "cannot fetch layer", "gave up after", "hint: "]);
        assert!(seen.took < seconds(20), "{:?}", seen.took);
        assert_eq!(layers(&env), 0);
    }
}

#[test]
fn a_body_may_take_its_time_as_long_as_it_comes() {
    let env = TestEnv::alone();
    std::fs::create_dir_all(env.config().join("hamper")).expect("config");
    std::fs::write(env.config().join("hamper/registries.toml"), "retries = 0\nstall_timeout = 1\n").expect("settings");
    let whole = content("busybox");
    let (path, bytes) = largest(&whole);
    // Far above the least pace, and much longer than an answer may take to begin.
    let pause = Duration::from_secs(4) / u32::try_from(bytes.len() / 16).expect("fits");
    let again = whole.clone();
    let registry =
        Faulty::serve_content(whole, move |asked, _| (asked.path == path).then(|| Reply { drip: Some(pause), ..right(asked, &again) }));
    let seen = pull(&env, &registry.reference()).code(0);
    assert!(seen.took > Duration::from_secs(3), "{:?}", seen.took);
}

#[test]
fn documents_are_bounded() {
    let big = vec![b' '; 5 << 20];
    let registry = Faulty::serve("busybox", move |_, _| Some(Reply::new(200, big.clone())));
    pull(&TestEnv::alone(), &registry.reference()).code(1).told(&["more than the 4194304 bytes"]);
}

#[test]
fn a_registry_that_dies_and_comes_back_is_waited_for() {
    require!(program().is_some() && has_image("node14"), "docker-registry and the test images");
    let env = TestEnv::alone();
    let mut server = Server::start(&env);
    let digest = server.fill(&env, "node14", "n:v1");
    let child = env.hamper(["image", "--map", "single", "pull", &server.reference("n:v1")]).spawn();
    assert!(crate::support::within(20.0, || server.asked("/blobs/") > 1));
    server.kill();
    std::thread::sleep(Duration::from_millis(700));
    server.revive();
    assert_eq!(child.output().ok().trim(), digest);
}

#[test]
fn a_pull_that_is_killed_leaves_what_the_next_one_goes_on_from() {
    require!(has_image("node14"), "the test images");
    let whole = content("node14");
    let env = TestEnv::alone();
    let slow = Arc::new(AtomicUsize::new(1));
    let (held, again) = (Arc::clone(&slow), whole.clone());
    let (path, bytes) = largest(&whole);
    let wanted = path.clone();
    let registry = Faulty::serve_content(whole, move |asked, _| {
        (asked.path == wanted && held.load(Ordering::Relaxed) == 1).then(|| Reply {
            cut: Some(bytes.len() / 2),
            drip: None,
            ..right(asked, &again)
        })
    });
    let mut next = numbers(3);
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let child = env.hamper(["image", "--map", "single", "pull", &registry.reference()]).spawn();
        std::thread::sleep(Duration::from_millis(100 + next(900) as u64));
        child.signal(signal);
        drop(child);
    }
    // All but the largest layer are there before it comes.
    let child = env.hamper(["image", "--map", "single", "pull", &registry.reference()]).spawn();
    assert!(crate::support::within(60.0, || kept(&env, "layers").iter().filter(|name| name.ends_with(".json")).count() >= 3));
    child.signal(rustix::process::Signal::KILL);
    drop(child);
    slow.store(0, Ordering::Relaxed);
    let before = registry.asked().len();
    pull(&env, &registry.reference()).code(0);
    let blobs: Vec<String> = registry.asked()[before..].iter().filter(|one| one.is_blob()).map(|one| one.path.clone()).collect();
    assert_eq!(blobs, [path], "what has come stays");
    assert_eq!(layers(&env), 4);
    assert_eq!(
        env.run(&registry.reference()).args(["--entrypoint", ""]).map("single").payload(["node", "-p", "6*7"]).output().ok().trim(),
        "42"
    );
}

#[test]
fn fifty_kills_tear_nothing() {
    require!(has_image("layers8"), "the test images");
    let whole = content("layers8");
    let again = whole.clone();
    let registry = Faulty::serve_content(whole, move |asked, _| {
        asked.is_blob().then(|| {
            std::thread::sleep(Duration::from_millis(8));
            right(asked, &again)
        })
    });
    let env = TestEnv::alone();
    let mut next = numbers(11);
    for _ in 0..50 {
        let child = env.hamper(["image", "--map", "single", "pull", &registry.reference()]).spawn();
        std::thread::sleep(Duration::from_millis(next(120) as u64));
        child.signal(rustix::process::Signal::KILL);
        drop(child);
    }
    let digest = pull(&env, &registry.reference()).code(0).stdout;
    assert_eq!(layers(&env), 8);
    for directory in ["blobs/sha256", "images", "references", "prepared"] {
        assert!(kept(&env, directory).iter().all(|name| !name.starts_with(".tmp-")), "{directory}");
    }
    // As one that was never disturbed.
    let other = TestEnv::alone();
    assert_eq!(pull(&other, &registry.reference()).code(0).stdout, digest);
    let facts = |env: &TestEnv| {
        let mut all: Vec<Vec<u8>> = kept(env, "layers")
            .iter()
            .filter(|name| name.ends_with(".json"))
            .map(|name| std::fs::read(env.store().join("layers").join(name)).expect("facts"))
            .collect();
        all.sort();
        all
    };
    assert_eq!(facts(&env), facts(&other));
    env.run(&registry.reference()).map("single").args(["--offline"]).probe("exit 4").code(4);
}

#[test]
fn a_full_disk_is_told_and_what_has_come_stays() {
    require!(has_image("node14"), "the test images");
    let registry = Faulty::serve("node14", |_, _| None);
    let env = TestEnv::alone();
    let hamper = crate::support::hamper();
    // Room for the smallest layers only; then for all.
    let script = "mount -t tmpfs -o size=280m none \"$1\" || exit 77; head -c 240M /dev/zero >\"$1/ballast\"; \
                  \"$2\" image --store \"$1/s\" --map single pull \"$3\"; echo \"ended $?\"; find \"$1/s/layers\" -name '.tmp-*' | wc -l; \
                  \"$2\" image --store \"$1/k\" --map single pull --keep-blobs \"$3\" >/dev/null; rm -rf \"$1/k\"; rm \"$1/ballast\"; \"$2\" image --store \"$1/s\" --map single pull \"$3\"";
    let mount = env.directory("small");
    let seen = env
        .program(
            "unshare",
            ["-r", "-m", "sh", "-c", script, "sh", &mount.display().to_string(), &hamper.display().to_string(), &registry.reference()],
        )
        .output()
        .any();
    require!(seen.status.code() != Some(77), "tmpfs in a user namespace");
    let seen = seen.code(0).told(&["No space left on device", "hint: free some space"]);
    assert_eq!(seen.stderr.matches("hint: free some space").count(), 2, "layers, and blobs that are kept: {}", seen.stderr);
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!((lines[0], lines[1].trim()), ("ended 1", "0"), "{lines:?}");
    assert!(lines[2].starts_with("sha256:"), "{lines:?}");
}

/// Sizes are what documents say, and are added up.
#[test]
fn sizes_that_no_layer_has_are_refused() {
    let mut content = content("busybox");
    let manifest = content.get("/v2/x/manifests/v1").expect("manifest").clone();
    let mut document: serde_json::Value = serde_json::from_slice(&manifest.1).expect("manifest");
    document["layers"][0]["size"] = u64::MAX.into();
    let layer = document["layers"][0].clone();
    document["layers"] = [layer.clone(), layer].into_iter().collect();
    let config = format!("/v2/x/blobs/{}", document["config"]["digest"].as_str().expect("digest"));
    let mut config: serde_json::Value = serde_json::from_slice(&content[&config].1).expect("config");
    let diff_id = config["rootfs"]["diff_ids"][0].clone();
    config["rootfs"]["diff_ids"] = [diff_id.clone(), diff_id].into_iter().collect();
    let config = config.to_string().into_bytes();
    let digest = hamper::image::Digest::of(&config).to_string();
    document["config"]["size"] = config.len().into();
    document["config"]["digest"] = digest.as_str().into();
    content.insert(format!("/v2/x/blobs/{digest}"), (String::new(), config));
    content.insert("/v2/x/manifests/v1".into(), (manifest.0, document.to_string().into_bytes()));
    let registry = Faulty::serve_content(content, |_, _| None);
    pull(&TestEnv::alone(), &registry.reference()).code(1).told(&["the manifest says 18446744073709551615", "hint: "]);
}
