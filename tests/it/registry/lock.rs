//! Lock files: what a tag stood for, and what happens when it moves.

use std::fs;

use super::faulty::{Faulty, content};
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
