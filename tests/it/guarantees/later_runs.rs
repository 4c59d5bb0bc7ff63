//! What a payload leaves in a writable project for the runs after it: none of that decides unseen what a sandbox may reach.

use crate::support::{TestEnv, image, maps, tick};

fn project(env: &TestEnv) {
    env.file("plain", "");
    env.profile(&format!("image = \"{}\"\n", image("busybox")));
}

/// Where a payload can put what a later run reads: the file, the directory of that run, and its arguments.
const PLANTED: [(&str, &str, &[&str]); 5] = [
    ("hamper.local.toml", "", &[]),
    ("profiles/other.toml", "", &["other"]),
    ("sub/hamper.toml", "sub", &[]),
    ("sub/profiles/hello.toml", "sub", &["hello"]),
    ("x.toml", "", &["./x.toml"]),
];

fn run_in(env: &TestEnv, directory: &str, arguments: &[&str]) -> crate::support::Output {
    let run = env.hamper(std::iter::once("run").chain(arguments.iter().copied())).directory(env.project().join(directory));
    run.sh("echo planted=$PLANTED")
}

#[test]
fn a_profile_that_a_payload_makes_is_refused_until_it_is_trusted() {
    for map in maps() {
        for (file, directory, arguments) in PLANTED {
            let text = format!("image = \"{}\"\n[env]\nPLANTED = \"yes\"\n", image("busybox"));
            // Also where the directory was there before, and cannot be listed.
            let plant = format!("mkdir -p profiles sub/profiles && printf '%s' '{text}' > {file} && chmod 311 profiles");
            let env = TestEnv::new();
            project(&env);
            env.directory("project/profiles");
            env.run_profile().map(map).sh(&plant).code(0);
            let name = env.project().join(file).display().to_string();
            run_in(&env, directory, arguments).code(125).told(&[&name, "hint: read it, then: hamper trust "]);
            let plan = env.hamper(std::iter::once("plan").chain(arguments.iter().copied())).directory(env.project().join(directory));
            plan.output().code(1).told(&[&name]);
            env.hamper(["trust", &name]).output().code(0).silent();
            run_in(&env, directory, arguments).code(0).line("planted=yes");

            // The control: the same files, made by the user, before and after runs.
            let control = TestEnv::new();
            project(&control);
            control.run_profile().sh("true").code(0);
            tick();
            control.file(file, &text);
            control.directory("project/sub");
            run_in(&control, directory, arguments).code(0).line("planted=yes");
            tick();
            control.file(file, text.replace("yes", "again"));
            run_in(&control, directory, arguments).code(0).line("planted=again");
        }
    }
}

#[test]
fn trust_without_a_file_names_what_would_be_refused() {
    let env = TestEnv::new();
    project(&env);
    env.hamper(["trust"]).output().code(0).silent();
    env.run_profile().sh("echo 'name = \"x\"' > hamper.local.toml").code(0);
    let listed = env.hamper(["trust"]).output().code(1);
    assert_eq!(listed.stdout.trim_end(), env.project().join("hamper.local.toml").display().to_string());
    env.hamper(["trust", "hamper.local.toml"]).output().code(0);
    env.hamper(["trust"]).output().code(0);
    env.hamper(["trust", "no-such-file"]).output().code(1).told(&["no-such-file"]);
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
    env.run_profile().sh("echo '# x' >> profiles/other.toml").code(0);
    env.hamper(["run", "other"]).sh("true").code(125).told(&["profiles/other.toml"]);
}

/// A file that is older than the run is not made younger by a link to it, nor by another name.
#[test]
fn links_that_a_payload_makes_are_refused() {
    let env = TestEnv::new();
    project(&env);
    env.file("examples/dangerous.toml", "name = \"x\"\n");
    let outside = env.directory("outside");
    std::fs::write(outside.join("vars"), "SECRET=hush\n").expect("write");
    env.file("vars", "A=b\n");
    env.run_profile().sh("true").code(0);
    for plant in ["ln -s examples/dangerous.toml hamper.local.toml", "ln examples/dangerous.toml hamper.local.toml"] {
        env.run_profile().sh(plant).code(0);
        env.run_profile().sh("true").code(125).told(&["hamper.local.toml"]);
        std::fs::remove_file(env.project().join("hamper.local.toml")).expect("remove");
    }
    env.run_profile().sh(&format!("rm vars; ln -s {}/vars vars", outside.display())).code(0);
    let with_vars = |env: &TestEnv| env.run_profile().set("env_file=[\"vars\"]").sh("echo secret=$SECRET").any();
    let out = with_vars(&env);
    assert!(out.status.code() == Some(125) && !out.stdout.contains("hush"), "{out:?}");
    // The control: a link that the user made.
    let control = TestEnv::new();
    project(&control);
    std::os::unix::fs::symlink(outside.join("vars"), control.project().join("vars")).expect("link");
    assert!(with_vars(&control).stdout.contains("secret=hush"));
}

/// The second run begins while the first goes on, and after it was killed.
#[test]
fn a_profile_is_refused_while_the_sandbox_that_made_it_still_runs() {
    let env = TestEnv::new();
    project(&env);
    let script = "echo 'name = \"x\"' > hamper.local.toml; echo made; sleep 60";
    let mut first = env.run_profile().with_probe().payload(["sh", "-c", script]).spawn();
    first.await_line("made");
    env.run_profile().sh("true").code(125).told(&["hamper.local.toml"]);
    first.signal(rustix::process::Signal::KILL);
    drop(first);
    env.run_profile().sh("true").code(125).told(&["hamper.local.toml"]);
    std::fs::remove_file(env.project().join("hamper.local.toml")).expect("remove");
    // What the user makes once nothing runs is the user's.
    env.run_profile().sh("true").code(0);
    tick();
    env.file("hamper.local.toml", "name = \"mine\"\n");
    env.run_profile().sh("true").code(0);
}

#[test]
fn what_the_caller_changes_in_a_profile_that_was_read_is_his() {
    let env = TestEnv::new();
    project(&env);
    let mut first = env.run_profile().with_probe().payload(["sh", "-c", "echo up; sleep 1"]).spawn();
    first.await_line("up");
    let text = env.read("hamper.toml");
    std::fs::write(env.project().join("hamper.toml"), format!("{text}\n# mine\n")).expect("write");
    env.run_profile().sh("true").code(0).silent();
    first.output().code(0);
    env.run_profile().sh("true").code(0).silent();
}

/// A writable mount is as good as the project for that.
#[test]
fn what_a_payload_makes_in_a_writable_mount_is_refused() {
    let env = TestEnv::new();
    project(&env);
    let other = env.directory("other");
    let volume = format!("{}:/other", other.display());
    env.run_profile().args(["-v", &volume]).sh(&format!("echo 'image = \"{}\"' > /other/hamper.toml", image("busybox"))).code(0);
    env.hamper(["run"]).directory(&other).sh("true").code(125).told(&["other/hamper.toml"]);
    std::fs::remove_file(other.join("hamper.toml")).expect("remove");
    env.run_profile().args(["-v", &format!("{volume}:ro")]).sh("true").code(0);
    tick();
    std::fs::write(other.join("hamper.toml"), format!("image = \"{}\"\n", image("busybox"))).expect("write");
    env.hamper(["run"]).directory(&other).sh("true").code(0);
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

#[test]
fn an_image_of_the_project_that_a_payload_has_swapped_leads_nowhere_else() {
    let env = TestEnv::new();
    let outside = env.directory("outside");
    std::fs::write(outside.join("secret"), "hush\n").expect("write");
    env.directory("project/tree/bin");
    env.profile("image = \"host\"\n");
    let run = |image: &str| env.run_profile().set(&format!("image=\"{image}\"")).with_probe();
    run("rootfs:tree").probe("open /secret").code(0).line("open /secret: ENOENT");
    std::fs::rename(env.project().join("tree"), env.project().join("old")).expect("rename");
    std::os::unix::fs::symlink(&outside, env.project().join("tree")).expect("link");
    for image in ["rootfs:tree", "tar:tree/secret", "oci:tree", "oci-archive:tree/secret", "docker-archive:tree/secret"] {
        run(image).probe("open /secret").code(125).told(&["leads out of the project by a link"]);
    }
    // The control: by its own name.
    let own = format!("rootfs:{}", outside.display());
    run(&own).probe("open /secret").code(0).line("open /secret: ok");
}
