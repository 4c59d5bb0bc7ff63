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

            // The control: the same files, made by the user, and changed between runs that could not write them.
            let control = TestEnv::new();
            project(&control);
            control.file(file, &text);
            control.directory("project/sub");
            run_in(&control, directory, arguments).code(0).line("planted=yes");
            control.file(file, text.replace("yes", "again"));
            run_in(&control, directory, arguments).code(0).line("planted=again");
            // Also after a run that could have written it, once it was seen unchanged since.
            control.run_profile().sh("true").any();
            run_in(&control, directory, arguments).code(0);
            control.file(file, text.replace("yes", "more"));
            run_in(&control, directory, arguments).code(0).line("planted=more");
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
    // What the user makes in its place is a thing to look at too.
    env.run_profile().sh("true").code(0);
    env.file("hamper.local.toml", "name = \"mine\"\n");
    env.run_profile().sh("true").code(125).told(&["hamper.local.toml"]);
    env.hamper(["trust", "hamper.local.toml"]).output().code(0);
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
    // The control: one that nothing could write to.
    let fresh = env.directory("fresh");
    let volume = format!("{}:/fresh:ro", fresh.display());
    env.run_profile().args(["-v", &volume]).sh("true").code(0);
    std::fs::write(fresh.join("hamper.toml"), format!("image = \"{}\"\n", image("busybox"))).expect("write");
    env.hamper(["run"]).directory(&fresh).sh("true").code(0);
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
        run().sh("cat /data/secret").code(125).told(&["data leads elsewhere by a link"]);
        let volume = |source: &std::path::Path| format!("{}:/more", source.display());
        let by_hand = |source: &std::path::Path| env.run("busybox").map(map).args(["-v", &volume(source)]).sh("cat /more/secret").any();
        assert_eq!(by_hand(&env.project().join("data")).status.code(), Some(125));
        // The control: by its own name.
        by_hand(&outside).code(0).line("hush");
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
    env.run_profile().sh("true").code(125).told(&["leads elsewhere by a link"]);
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
        run(image).probe("open /secret").code(125).told(&["leads elsewhere by a link"]);
    }
    // The control: by its own name.
    let own = format!("rootfs:{}", outside.display());
    run(&own).probe("open /secret").code(0).line("open /secret: ok");
}

/// A profile that would give away what lies in `outside`.
fn giving(outside: &std::path::Path) -> String {
    format!("image = \"{}\"\n[[mounts]]\nsource = \"{}\"\ntarget = \"/given\"\n", image("busybox"), outside.display())
}

fn treasure(env: &TestEnv) -> std::path::PathBuf {
    let outside = env.directory("outside");
    std::fs::write(outside.join("secret"), "hush\n").expect("write");
    outside
}

#[test]
fn an_older_profile_that_a_payload_moves_into_place_with_its_directory_is_refused() {
    let env = TestEnv::new();
    project(&env);
    let outside = treasure(&env);
    env.file("examples/evil/dev.toml", giving(&outside));
    env.file("profiles/dev.toml", format!("image = \"{}\"\n", image("busybox")));
    let run = |arguments: &[&str]| env.hamper(std::iter::once("run").chain(arguments.iter().copied())).sh("cat /given/secret").any();
    // The control: where it is, it is the user's.
    run(&["examples/evil/dev.toml"]).code(0).line("hush");
    let env = TestEnv::new();
    project(&env);
    env.file("examples/evil/dev.toml", giving(&outside));
    env.file("profiles/dev.toml", format!("image = \"{}\"\n", image("busybox")));
    tick();
    env.run_profile().sh("mv profiles old && mv examples/evil profiles").code(0);
    for arguments in [&["profiles/dev.toml"][..], &["dev"]] {
        let out = env.hamper(std::iter::once("run").chain(arguments.iter().copied())).sh("cat /given/secret").any();
        assert!(!out.stdout.contains("hush"), "{arguments:?}");
        out.code(125).told(&["profiles/dev.toml", "hamper trust"]);
    }
}

#[test]
fn a_profile_that_a_payload_made_is_refused_by_every_name() {
    let env = TestEnv::new();
    project(&env);
    let outside = treasure(&env);
    let other = env.directory("other");
    let link = env.root().join("link");
    std::os::unix::fs::symlink(env.project(), &link).expect("link");
    std::fs::write(env.project().join("shared.toml"), "name = \"shared\"\n").expect("write");
    std::fs::hard_link(env.project().join("shared.toml"), other.join("hamper.toml")).expect("link");
    tick();
    let made = giving(&outside);
    env.run_profile().sh(&format!("printf '%s' '{made}' > ci.toml; printf '%s' '{made}' > shared.toml")).code(0);
    let refused = |arguments: &[&str], directory: &std::path::Path| {
        let out = env.hamper(std::iter::once("run").chain(arguments.iter().copied())).directory(directory).sh("cat /given/secret").any();
        assert!(out.status.code() == Some(125) && !out.stdout.contains("hush"), "{arguments:?}: {} {}", out.stdout, out.stderr);
        assert!(out.stderr.contains("hamper trust"), "{}", out.stderr);
    };
    refused(&["./ci.toml"], &env.project());
    // By a link of the user's own from elsewhere, also as an include, and by a second name of the file.
    refused(&[&link.join("ci.toml").display().to_string()], &other);
    std::fs::write(other.join("including.toml"), format!("include = [\"{}\"]\n", link.join("ci.toml").display())).expect("write");
    refused(&["./including.toml"], &other);
    refused(&["./hamper.toml"], &other);
    // And after the directory was moved.
    let moved = env.root().join("moved");
    std::fs::rename(env.project(), &moved).expect("rename");
    refused(&["./ci.toml"], &moved);
    // The control: read, and taken as it is.
    env.hamper(["trust", "ci.toml"]).directory(&moved).output().code(0);
    env.hamper(["run", "./ci.toml"]).directory(&moved).sh("cat /given/secret").code(0).line("hush");
}

/// What was judged is what was read, whatever the name leads to a moment later.
#[test]
fn a_profile_that_comes_and_goes_is_never_obeyed() {
    let env = TestEnv::new();
    project(&env);
    let outside = treasure(&env);
    std::fs::write(env.project().join("hidden"), giving(&outside)).expect("write");
    tick();
    let script = "echo up; n=0; while [ $n -lt 20000 ]; do mv hidden hamper.local.toml; mv hamper.local.toml hidden; n=$((n+1)); done";
    let mut first = env.run_profile().with_probe().payload(["sh", "-c", script]).spawn();
    first.await_line("up");
    let mut refused = 0;
    for _ in 0..40 {
        let out = env.hamper(["run"]).sh("cat /given/secret").any();
        assert!(!out.stdout.contains("hush"), "{}", out.stderr);
        refused += u32::from(out.stderr.contains("hamper trust"));
    }
    assert!(refused > 0, "it was there at some time");
    first.signal(rustix::process::Signal::KILL);
}

/// Trust is in a content: what the sandbox that is still there makes of it afterwards has none.
#[test]
fn what_is_changed_after_it_was_trusted_is_refused() {
    let env = TestEnv::new();
    project(&env);
    let script =
        "echo '[env]' > ci.toml; echo made; while [ ! -e go ]; do sleep 0.05; done; echo 'name = \"x\"' > ci.toml; echo again; sleep 60";
    let mut first = env.run_profile().with_probe().payload(["sh", "-c", script]).spawn();
    first.await_line("made");
    let run = || env.hamper(["run", "--image", &image("busybox"), "./ci.toml"]).sh("true").any();
    run().code(125).told(&["hamper trust"]);
    env.hamper(["trust", "ci.toml"]).output().code(0);
    run().code(0);
    std::fs::write(env.project().join("go"), "").expect("write");
    first.await_line("again");
    run().code(125).told(&["hamper trust"]);
    first.signal(rustix::process::Signal::KILL);
}

/// Runs are known to go on by a lock, not by the name of their program.
#[test]
fn a_run_under_another_name_goes_on() {
    let env = TestEnv::new();
    project(&env);
    let named = env.root().join("another-name");
    std::os::unix::fs::symlink(crate::support::hamper(), &named).expect("link");
    let script = "echo up; while [ ! -e go ]; do sleep 0.05; done; echo 'name = \"x\"' > hamper.local.toml; echo made; sleep 60";
    let mut first = env.program(&named.display().to_string(), ["run"]).payload(["sh", "-c", script]).spawn();
    first.await_line("up");
    env.run_profile().sh("touch go").code(0);
    first.await_line("made");
    env.run_profile().sh("true").code(125).told(&["hamper.local.toml"]);
    first.signal(rustix::process::Signal::KILL);
}

/// Many runs at the same time, of which some write the ledger anew: none of them is forgotten.
#[test]
fn no_run_is_lost_from_the_ledger() {
    const THREADS: usize = 6;
    const RUNS: usize = 30;
    let env = TestEnv::new();
    project(&env);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let env = &env;
            scope.spawn(move || {
                for run in 0..RUNS {
                    env.run_profile().sh(&format!("echo 'image = \"host\"' > x-{thread}-{run}.toml")).code(0);
                }
            });
        }
    });
    for thread in 0..THREADS {
        for run in (0..RUNS).step_by(5) {
            env.hamper(["run", &format!("./x-{thread}-{run}.toml")]).sh("true").code(125).told(&["hamper trust"]);
        }
    }
    let ledger = std::fs::metadata(env.state().join("hamper/ledger")).expect("ledger").len();
    assert!(ledger < 60_000, "it was never written anew: {ledger}");
}

#[test]
fn a_project_or_a_source_that_a_payload_has_swapped_elsewhere_is_refused() {
    let env = TestEnv::new();
    project(&env);
    let outside = treasure(&env);
    env.directory("project/inner");
    env.directory("project/data");
    let other = env.directory("other");
    let source = format!("image = \"{}\"\n[[mounts]]\nsource = \"../project/data\"\ntarget = \"/data\"\n", image("busybox"));
    std::fs::write(other.join("hamper.toml"), source).expect("write");
    env.file("second.toml", format!("image = \"{}\"\n[project]\npath = \"./inner\"\n", image("busybox")));
    let second = || env.hamper(["run", "./second.toml"]).sh("cat secret").any();
    let third = || env.hamper(["run"]).directory(&other).sh("cat /data/secret").any();
    let by_hand = || env.hamper(["run", "--image", &image("busybox"), "--project", "inner"]).sh("cat secret").any();
    tick();
    env.run_profile().sh("true").code(0);
    assert_eq!((second().status.code(), third().status.code()), (Some(1), Some(1)));
    let target = outside.display().to_string();
    env.run_profile().sh(&format!("rmdir inner data; ln -s {target} inner; ln -s {target} data")).code(0);
    for out in [second(), third(), by_hand()] {
        assert!(out.status.code() == Some(125) && !out.stdout.contains("hush"), "{} {}", out.stdout, out.stderr);
        assert!(out.stderr.contains("by a link"), "{}", out.stderr);
    }
    // Nor by another name of the directory, which the user has made or given it.
    let named = env.root().join("named");
    std::os::unix::fs::symlink(env.project(), &named).expect("link");
    for directory in [named, env.root().join("moved")] {
        if directory.ends_with("moved") {
            std::fs::rename(env.project(), &directory).expect("rename");
        }
        let source = format!("{}/data:/data", directory.display());
        let project = directory.join("inner").display().to_string();
        let by_source =
            env.hamper(["run", "--image", &image("busybox"), "--project", &other.display().to_string(), "-v", &source]).directory(&other);
        let by_project = env.hamper(["run", "--image", &image("busybox"), "--project", &project]).directory(&other);
        for out in [by_source.sh("cat /data/secret").any(), by_project.sh("cat secret").any()] {
            assert!(out.status.code() == Some(125) && !out.stdout.contains("hush"), "{} {}", out.stdout, out.stderr);
        }
    }
    // The control: what the link leads to, by its own name.
    env.hamper(["run", "--image", &image("busybox"), "--project", &target]).directory(&other).sh("cat secret").code(0).line("hush");
}

/// A payload's repository of many worktrees does not fill the ledger.
#[test]
fn what_a_run_guards_for_git_does_not_stand_in_the_ledger() {
    let env = TestEnv::new();
    project(&env);
    env.file(".git/config", "[core]\n");
    for number in 0..60 {
        for file in ["commondir", "gitdir", "config.worktree"] {
            env.file(&format!(".git/worktrees/{}-{number}/{file}", "x".repeat(200)), "");
        }
    }
    env.run_profile().sh("true").any();
    assert!(std::fs::metadata(env.state().join("hamper/ledger")).expect("ledger").len() < 4096);
}

/// What changes a file's times afterwards does not make it the user's.
#[test]
fn a_profile_that_a_payload_changed_stays_refused() {
    let env = TestEnv::new();
    project(&env);
    env.file("other.toml", format!("image = \"{}\"\n", image("busybox")));
    let other = || env.hamper(["run", "./other.toml"]).sh("true").any();
    other().code(0);
    env.run_profile().sh("echo '# x' >> other.toml; mkdir kept; ln other.toml kept/o").code(0);
    other().code(125).told(&["hamper trust"]);
    std::fs::remove_dir_all(env.project().join("kept")).expect("remove");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(env.project().join("other.toml"), mode).expect("mode");
    other().code(125).told(&["hamper trust"]);
}

#[test]
fn a_second_name_of_a_profile_undoes_its_guard() {
    let env = TestEnv::new();
    project(&env);
    std::fs::hard_link(env.project().join("hamper.toml"), env.project().join("hamper.bak")).expect("link");
    env.run_profile().sh("true").code(0);
    env.run_profile().sh("echo '[env]' >> hamper.bak").code(0);
    env.run_profile().sh("true").code(125).told(&["hamper.toml", "hamper trust"]);
}

/// The mount that guards a file falls when the file is replaced on the host, and the sandbox lives on for a moment.
#[test]
fn a_profile_that_was_replaced_under_a_run_is_looked_at() {
    let env = TestEnv::new();
    project(&env);
    let text = env.read("hamper.toml");
    let mut first =
        env.run_profile().with_probe().payload(["sh", "-c", "echo up; while :; do echo '# more' >> hamper.toml; done 2>/dev/null"]).spawn();
    first.await_line("up");
    std::fs::write(env.project().join("new"), &text).expect("write");
    std::fs::rename(env.project().join("new"), env.project().join("hamper.toml")).expect("rename");
    first.output().any();
    if env.read("hamper.toml") != text {
        env.run_profile().sh("true").code(125).told(&["hamper.toml", "hamper trust"]);
    }
}

#[test]
fn a_pipe_in_the_place_of_variables_is_none() {
    let env = TestEnv::new();
    project(&env);
    env.file("vars", "A=fine\n");
    let run = |vars: &str| env.run_profile().args(["--env-file", vars]).sh("echo a=$A").any();
    run("vars").code(0).line("a=fine");
    env.run_profile().sh("rm vars; mkfifo vars").code(0);
    run("vars").code(125).told(&["vars", "not a regular file"]);
    env.hamper(["trust", "vars"]).output().code(1).told(&["not a regular file"]);
    // The control: a pipe of the caller's own shell.
    let script = format!("exec {} run --env-file <(echo A=piped) -- sh -c 'echo a=$A'", crate::support::hamper().display());
    env.program("bash", ["-c", &script]).output().code(0).line("a=piped");
}
