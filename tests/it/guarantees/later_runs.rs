//! What a payload leaves in a writable project for the runs after it: none of that decides unseen what a sandbox may reach.

use crate::support::{TestEnv, image, maps, within};

fn project(env: &TestEnv) {
    env.file("plain", "");
    env.profile(&format!("image = \"{}\"\n", image("busybox")));
}

/// Every profile that the project may have and this run has not read.
const PLANTED: [(&str, &[&str]); 2] = [("hamper.local.toml", &[]), ("profiles/other.toml", &["other"])];

#[test]
fn a_profile_that_a_payload_makes_is_refused_until_it_is_trusted() {
    for (file, arguments) in PLANTED {
        let env = TestEnv::new();
        project(&env);
        let text = format!("image = \"{}\"\n[env]\nPLANTED = \"yes\"\n", image("busybox"));
        let plant = format!("mkdir -p profiles && printf '%s' '{text}' > {file}");
        env.run_profile().sh(&plant).code(0).told(&[file, "hamper trust"]);
        let listed = env.hamper(["trust"]).output().ok();
        assert!(listed.trim_end().ends_with(file) && listed.lines().count() == 1, "{listed}");
        let again = || env.hamper(std::iter::once("run").chain(arguments.iter().copied())).sh("echo planted=$PLANTED");
        again().code(125).told(&[file, "hint: read it, then: hamper trust "]);
        env.hamper(["plan"].into_iter().chain(arguments.iter().copied())).output().code(1).told(&[file]);
        env.hamper(["trust", file]).output().code(0);
        again().code(0).line("planted=yes");
        env.hamper(["trust", file]).output().code(1).told(&["nothing is held against"]);
        // A run that did not change it has nothing to tell.
        env.run_profile().sh("true").code(0).silent();

        // The control: the same file, made by the user.
        let control = TestEnv::new();
        project(&control);
        control.run_profile().sh("true").code(0);
        control.file(file, &text);
        control.hamper(std::iter::once("run").chain(arguments.iter().copied())).sh("echo planted=$PLANTED").code(0).line("planted=yes");
    }
}

#[test]
fn a_named_profile_that_a_payload_changes_is_refused() {
    let env = TestEnv::new();
    project(&env);
    env.file("profiles/other.toml", format!("image = \"{}\"\n", image("busybox")));
    env.hamper(["run", "other"]).sh("true").code(0);
    // Read by this run, so read-only; not read by the next.
    env.hamper(["run", "other"]).sh("echo '# x' >> profiles/other.toml").any();
    assert!(!env.read("profiles/other.toml").contains("# x"));
    env.run_profile().sh("echo '# x' >> profiles/other.toml").code(0).told(&["profiles/other.toml", "hamper trust"]);
    env.hamper(["run", "other"]).sh("true").code(125).told(&["profiles/other.toml"]);
}

/// The second run begins while the first goes on.
#[test]
fn a_profile_is_refused_while_the_sandbox_that_made_it_still_runs() {
    let env = TestEnv::new();
    project(&env);
    let script = "sleep 1; echo 'name = \"x\"' > hamper.local.toml; echo made; sleep 60";
    let mut first = env.run_profile().with_probe().payload(["sh", "-c", script]).spawn();
    first.await_line("made");
    assert!(within(5.0, || !env.hamper(["trust"]).output().ok().is_empty()), "it was not noticed");
    env.run_profile().sh("true").code(125).told(&["hamper.local.toml"]);
    first.signal(rustix::process::Signal::KILL);
}

#[test]
fn what_the_caller_changes_in_a_profile_that_was_read_is_his() {
    let env = TestEnv::new();
    project(&env);
    let mut first = env.run_profile().with_probe().payload(["sh", "-c", "echo up; sleep 1"]).spawn();
    first.await_line("up");
    let text = env.read("hamper.toml");
    std::fs::write(env.project().join("hamper.toml"), format!("{text}\n# mine\n")).expect("write");
    first.output().code(0);
    env.run_profile().sh("true").code(0).silent();
}

#[test]
fn a_repository_that_a_payload_makes_is_told() {
    let env = TestEnv::new();
    project(&env);
    env.run_profile().sh("mkdir -p .git/hooks && echo x > .git/hooks/pre-commit").code(0).told(&[".git appeared while the sandbox ran"]);
    // Where nothing that is protected is missing, the rest of the repository is writable, as git needs it.
    env.file(".git/config", "[core]\n");
    env.run_profile().sh("echo .. > .git/commondir").any().told(&[".git/commondir appeared"]);
}

#[test]
fn a_mount_source_that_a_payload_has_swapped_leads_nowhere_else() {
    for map in maps() {
        let env = TestEnv::new();
        let outside = env.directory("outside");
        std::fs::write(outside.join("secret"), "hush\n").expect("write");
        env.directory("project/data");
        env.profile(&format!("image = \"{}\"\n[[mounts]]\nsource = \"data\"\ntarget = \"/data\"\n", image("busybox")));
        let run = || env.run_profile().map(map);
        run().sh("ls /data").code(0);
        let swap = format!("rmdir data && ln -s {} data", outside.display());
        run().sh(&swap).code(0);
        run().sh("cat /data/secret").code(125).told(&["data leads out of the project by a link"]);
        // The control: the caller's own word goes wherever it leads.
        let volume = format!("{}:/more", env.project().join("data").display());
        env.run("busybox").map(map).args(["-v", &volume]).sh("cat /more/secret").code(0).line("hush");
        // And a link that stays in the project is as good as what it leads to.
        env.file("inside/x", "fine\n");
        std::fs::remove_file(env.project().join("data")).expect("remove");
        std::os::unix::fs::symlink("inside", env.project().join("data")).expect("link");
        run().sh("cat /data/x").code(0).line("fine");
    }
}

#[test]
fn what_is_made_for_a_mount_is_made_in_the_project() {
    let env = TestEnv::new();
    let outside = env.directory("outside");
    env.profile(&format!(
        "image = \"{}\"\n[[mounts]]\nsource = \"a/b/c\"\ntarget = \"/data\"\nmode = \"rw\"\nmissing = \"create\"\n",
        image("busybox")
    ));
    std::os::unix::fs::symlink(&outside, env.project().join("a")).expect("link");
    env.run_profile().sh("true").code(125).told(&["leads out of the project"]);
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
    std::fs::remove_file(env.project().join("a")).expect("remove");
    env.run_profile().sh("echo made > /data/x").code(0);
    assert_eq!(env.read("a/b/c/x"), "made\n");
}

#[test]
fn filters_and_secrets_of_the_project_are_read_only() {
    for map in maps() {
        let env = TestEnv::new();
        env.file("filter.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
        env.file("token", "hush\n");
        env.file("plain", "");
        env.profile(&format!(
            "image = \"{}\"\n[security]\nseccomp = \"filter.json\"\n[secrets.token]\nfrom = \"file:token\"\ntarget = \"/run/secrets/token\"\n",
            image("busybox")
        ));
        let out = env.run_profile().map(map).sh("echo x >> plain && echo control; echo x >> filter.json || echo no; mv token t || echo no");
        let out = out.code(0).line("control");
        assert_eq!(out.stdout.lines().filter(|line| *line == "no").count(), 2, "{}", out.stdout);
        assert_eq!(env.read("token"), "hush\n");
    }
}

#[test]
fn a_writable_mount_of_what_is_protected_is_told() {
    let env = TestEnv::new();
    project(&env);
    env.file(".git/config", "[core]\n");
    env.file(".git/hooks/x", "");
    let volume = format!("{}:/src", env.project().display());
    let words = ["not protected: .git/hooks is writable through the mount on /src"];
    env.run_profile().args(["-v", &volume]).sh("true").code(0).told(&words);
    env.run_profile().args(["-v", &volume]).set("require=[\"protect\"]").sh("true").code(125).told(&["protect is required", ".git/hooks"]);
    env.run_profile().args(["-v", &format!("{volume}:ro")]).sh("true").code(0).silent();
}

/// A path that leaves the project by its own words is no link that a payload made.
#[test]
fn paths_beside_the_project_are_reached() {
    for map in maps() {
        let env = TestEnv::new();
        env.file("../data/x", "fine\n");
        env.file("../base.toml", "[env]\nBASE = \"yes\"\n");
        env.file("../vars", "VARS=yes\n");
        env.file("inside/y", "fine\n");
        env.profile(&format!(
            r#"include = ["../base.toml"]
image = "{}"
env_file = ["../vars"]
[[mounts]]
source = "../data"
target = "/data"
[[mounts]]
source = "inside/../inside"
target = "/inside"
[secrets.token]
from = "file:../data/x"
target = "/run/secrets/token"
"#,
            image("busybox")
        ));
        let script = "cat /data/x /inside/y /run/secrets/token; echo $BASE $VARS";
        assert_eq!(env.run_profile().map(map).sh(script).code(0).stdout, "fine\nfine\nfine\nyes yes\n");
    }
}
