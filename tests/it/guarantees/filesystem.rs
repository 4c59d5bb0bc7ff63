//! What of the host's files is there, what may be written, and what protect and hide hold against.

use rustix::process::Signal;

use crate::require;
use crate::support::{Seen, TestEnv, has_image, image, isolations, maps, seconds, slow};

/// A project that is a git repository, with something to hide.
fn repository(env: &TestEnv) {
    env.file(".git/config", "[core]\n\trepositoryformatversion = 0\n");
    env.file(".git/HEAD", "ref: refs/heads/main\n");
    env.file(".git/hooks/pre-commit", "#!/bin/sh\n");
    env.file(".git/objects/info/x", "");
    env.file(".env", "SECRET=hush\n");
    env.file("deep/down/.env", "SECRET=hush\n");
    env.file("deep/down/other", "");
    env.file("hidden/x", "hush");
    env.file("plain", "");
    env.profile(&format!("image = \"{}\"\n[project]\nhide = [\".env\", \"deep/down/.env\", \"hidden\"]\n", image("busybox")));
}

/// What each attempt came to, in order.
fn results(out: &Seen) -> Vec<String> {
    out.stdout.lines().filter_map(|line| line.rsplit_once(": ")).map(|(_, result)| result.to_owned()).collect()
}

/// Every way that is known around a bind mount, tried from inside on one protected file.
fn attempts(path: &str) -> Vec<String> {
    vec![
        format!("write {path}"),
        format!("truncate {path}"),
        format!("unlink {path}"),
        format!("rename {path} ./gone"),
        format!("rename ./plain {path}"),
        format!("exchange ./plain {path}"),
        format!("exchange {path} ./plain"),
        format!("chmod 777 {path}"),
        format!("umount {path}"),
        format!("mount none {path} tmpfs 0"),
        format!("mount {path} ./plain none 4096"),
    ]
}

#[test]
fn protected_files_hold_against_everything() {
    for map in maps() {
        for (seccomp, landlock) in [("default", "auto"), ("none", "off")] {
            let env = TestEnv::new();
            repository(&env);
            let run = |words: &str| {
                let sets = [format!("security.seccomp={seccomp}"), format!("security.landlock={landlock}")];
                env.run_profile().map(map).set(&sets[0]).set(&sets[1]).probe(words)
            };
            for path in ["./.git/config", "./hamper.toml", "./.git/hooks/pre-commit"] {
                let before = env.read(path);
                for attempt in attempts(path) {
                    let out = run(&attempt).code(0);
                    assert!(results(&out).iter().all(|result| result != "ok"), "{map} {seccomp}: {attempt}: {}", out.stdout);
                    assert_eq!(env.read(path), before, "{attempt}");
                    assert!(env.project().join("plain").exists() && !env.project().join("gone").exists(), "{attempt}");
                }
            }
            // New hooks, and directories on the way.
            for attempt in [
                "write ./.git/hooks/post-checkout",
                "symlink /tmp/x ./.git/hooks/post-merge",
                "link ./plain ./.git/hooks/post-commit",
                "rename ./plain ./.git/hooks/post-commit",
                "mkdir ./.git/hooks/d",
                "rename ./.git ./x",
                "exchange ./.git ./deep",
                "exchange ./deep ./.git",
                "rename ./.git/hooks ./x",
                "exchange ./.git/hooks ./.git/objects",
                "rmdir ./.git/hooks",
                "umount ./.git/hooks",
                "umount ./.git",
                "umount .",
                "mount ./deep ./.git none 4096",
            ] {
                let out = run(attempt).code(0);
                assert!(results(&out).iter().all(|result| result != "ok"), "{map} {seccomp}: {attempt}: {}", out.stdout);
            }
            assert!(env.project().join(".git/hooks/pre-commit").exists());
            // The link to a protected file is another name of it: either it cannot be made, or it cannot be written to.
            drop(run("link ./.git/config ./other-name -- write ./other-name -- truncate ./other-name").any());
            assert_eq!(env.read(".git/config"), "[core]\n\trepositoryformatversion = 0\n");
        }
    }
}

#[test]
fn the_same_succeeds_where_nothing_is_protected() {
    for (attempt, path) in [
        ("write ./.git/config", ".git/config"),
        ("rename ./.git ./x", "x/config"),
        ("write ./.git/hooks/post-checkout", ".git/hooks/post-checkout"),
        ("exchange ./plain ./.git/config", ".git/config"),
        ("unlink ./.git/hooks/pre-commit", ".git/hooks"),
    ] {
        let env = TestEnv::new();
        repository(&env);
        env.profile(&format!("image = \"{}\"\n[project]\nprotect = []\n", image("busybox")));
        let out = env.run_profile().probe(attempt).any();
        assert!(out.stdout.contains(": ok"), "{attempt}: {} {}", out.stdout, out.stderr);
        assert!(env.project().join(path).exists());
    }
}

#[test]
fn hidden_files_cannot_be_read_by_any_name() {
    for map in maps() {
        for (seccomp, landlock) in [("default", "auto"), ("none", "off")] {
            for user in ["0", "1000"] {
                let env = TestEnv::new();
                repository(&env);
                let run = |words: &str| {
                    let sets = [format!("security.seccomp={seccomp}"), format!("security.landlock={landlock}")];
                    env.run_profile().map(map).args(["-u", user]).set(&sets[0]).set(&sets[1]).probe(words)
                };
                for path in ["./.env", "./deep/down/.env", "./hidden"] {
                    for attempt in [
                        format!("open {path}"),
                        format!("write {path}"),
                        format!("chmod 777 {path} -- open {path}"),
                        format!("rename {path} ./y"),
                        format!("unlink {path}"),
                        format!("umount {path}"),
                        format!("exchange {path} ./plain"),
                        format!("link {path} ./y"),
                    ] {
                        let out = run(&attempt).code(0);
                        assert!(results(&out).iter().all(|result| result != "ok"), "{map} {seccomp} {user}: {attempt}: {}", out.stdout);
                    }
                }
                for attempt in ["rename ./deep ./z", "rename ./deep/down ./z", "exchange ./deep ./plain", "open ./hidden/x", "ls ./hidden"]
                {
                    let out = run(attempt).code(0);
                    assert!(results(&out).iter().all(|result| result != "ok"), "{map} {seccomp} {user}: {attempt}: {}", out.stdout);
                    assert!(!out.stdout.contains("entry"), "{attempt}: {}", out.stdout);
                }
                assert_eq!(env.read(".env"), "SECRET=hush\n");
                assert_eq!(env.read("hidden/x"), "hush");
                // What stands beside it is as usable as ever.
                run("write ./deep/down/other ./deep/down/new ./deep/new").code(0).line("write ./deep/down/new: ok");
                let control = run("open ./plain ./deep/down/other").code(0);
                assert!(results(&control).iter().all(|result| result == "ok"), "{}", control.stdout);
            }
        }
    }
    // The control: what is not hidden is read.
    let env = TestEnv::new();
    repository(&env);
    env.profile(&format!("image = \"{}\"\n", image("busybox")));
    env.run_profile().probe("cat ./.env").code(0).line("SECRET=hush");
}

#[test]
fn hidden_stays_hidden_in_read_only_and_scratch_projects() {
    let env = TestEnv::new();
    repository(&env);
    for mode in ["ro", "scratch", "rw"] {
        let out = env.run_profile().set(&format!("project.mode={mode}")).probe("open ./.env ./hidden/x -- write ./plain ./new").code(0);
        assert!(out.answers("open").iter().all(|(_, result)| result != "ok"), "{mode}: {}", out.stdout);
        assert!(out.answers("write").iter().all(|(_, result)| (result == "ok") == (mode != "ro")), "{mode}: {}", out.stdout);
        assert_eq!(env.project().join("new").exists(), mode == "rw");
        assert_eq!(env.read("plain").is_empty(), mode != "rw");
    }
}

/// No mount can hide what is not there: a run ends when it appears, whoever makes it.
#[test]
fn what_is_hidden_and_missing_ends_the_sandbox_when_it_appears() {
    for (path, early) in [(".env", false), (".env", true), ("not/yet/there/.env", false)] {
        let env = TestEnv::new();
        env.file("plain", "");
        env.profile(&format!("image = \"{}\"\n[project]\nhide = [\"{path}\"]\n", image("busybox")));
        let start = || {
            let mut child = env.run_profile().args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; sleep 60; exit 7"]).spawn();
            child.await_line("ready");
            std::thread::sleep(std::time::Duration::from_millis(if early { 0 } else { 400 }));
            child
        };
        let child = start();
        env.file(path, "SECRET=hush\n");
        child.output().code(125).told(&["was made or replaced while the sandbox ran", path]);
        // From now on it is there, and hidden.
        env.run_profile().probe(&format!("open ./{path}")).code(0).line(&format!("open ./{path}: EACCES"));
    }
    // The control: another name in the same directory ends nothing, and where it is told to a run goes on.
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n[project]\nhide = [\".env\"]\n", image("busybox")));
    for (path, set) in [("other", "project.on_replace=stop"), (".env", "project.on_replace=warn")] {
        let mut child = env.run_profile().set(set).args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; sleep 1; exit 7"]).spawn();
        child.await_line("ready");
        env.file(path, "");
        child.output().code(7);
    }
}

#[test]
fn what_the_host_replaces_ends_the_sandbox() {
    for (path, replace) in [("hamper.toml", true), (".git/config", true), (".env", true), (".git", false)] {
        let env = TestEnv::new();
        repository(&env);
        let mut child = env.run_profile().args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; exec sleep 60"]).spawn();
        child.await_line("ready");
        std::thread::sleep(std::time::Duration::from_millis(300));
        if replace {
            // As editors save: a new file, renamed over the old one.
            let text = env.read(path);
            env.file("new-file", text);
            std::fs::rename(env.project().join("new-file"), env.project().join(path)).expect("rename");
        } else {
            std::fs::rename(env.project().join(path), env.project().join("moved")).expect("rename");
        }
        let out = child.output().code(125).told(&["was made or replaced while the sandbox ran", path]);
        assert!(out.took < seconds(5));
    }
    // Writing in place changes no inode: the sandbox goes on. And so it does where it is told to.
    let env = TestEnv::new();
    repository(&env);
    let mut child = env.run_profile().args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; sleep 1; exit 7"]).spawn();
    child.await_line("ready");
    std::fs::write(env.project().join(".git/config"), "[core]\n").expect("write");
    child.output().code(7);
    let mut child = env
        .run_profile()
        .set("project.on_replace=warn")
        .args(["--entrypoint", ""])
        .payload(["sh", "-c", "echo ready; sleep 1; exit 7"])
        .spawn();
    child.await_line("ready");
    env.file("new-file", "x");
    std::fs::rename(env.project().join("new-file"), env.project().join(".git/config")).expect("rename");
    child.output().code(7);
}

/// The kernel keeps so many events for one who does not read them, and a payload can make more.
#[test]
fn what_the_host_replaces_is_seen_behind_more_events_than_the_kernel_keeps() {
    for set in ["project.on_replace=stop", "project.on_replace=warn"] {
        let env = TestEnv::new();
        repository(&env);
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("limit");
        let count = most.trim().parse::<u32>().expect("number") + 1000;
        let script = format!("echo ready; read x; seq 1 {count} | xargs touch; seq 1 {count} | xargs rm; echo made; sleep 4; exit 7");
        let mut child = env.run_profile().set(set).args(["--entrypoint", ""]).payload(["sh", "-c", &script]).spawn();
        child.await_line("ready");
        // Until it is watched.
        std::thread::sleep(std::time::Duration::from_millis(500) * slow());
        child.signal(Signal::STOP);
        std::io::Write::write_all(child.child.stdin.as_mut().expect("stdin"), b"go\n").expect("write");
        child.await_line("made");
        env.file("new-file", env.read("hamper.toml"));
        std::fs::rename(env.project().join("new-file"), env.project().join("hamper.toml")).expect("rename");
        child.signal(Signal::CONT);
        let code = if set.ends_with("stop") { 125 } else { 7 };
        child.output().code(code).told(&["was made or replaced while the sandbox ran", "hamper.toml"]);
    }
}

#[test]
fn what_is_missing_is_protected_by_its_parent_or_said() {
    let env = TestEnv::new();
    // A repository without hooks: its parent becomes read-only, and what is in it stays writable.
    env.file(".git/config", "[core]\n");
    env.file(".git/HEAD", "ref: refs/heads/main\n");
    env.file(".git/objects/x", "");
    env.profile(&format!("image = \"{}\"\n", image("busybox")));
    let out = env
        .run_profile()
        .probe("mkdir ./.git/hooks -- write ./.git/hooks/x -- write ./.git/HEAD ./.git/objects/y -- rename ./.git ./x")
        .code(0);
    assert_ne!(out.value("mkdir ./.git/hooks:"), "ok");
    assert_ne!(out.value("write ./.git/hooks/x:"), "ok");
    assert_eq!(out.value("write ./.git/HEAD:"), "ok");
    assert_eq!(out.value("write ./.git/objects/y:"), "ok");
    assert_ne!(out.value("rename ./.git:"), "ok");
    assert!(!env.project().join(".git/hooks").exists());
    // At the top there is no such parent: one line, and a stop where protection is required.
    let run = || env.run_profile().set("project.protect=[\"no-such\"]");
    run().probe("exit 0").code(0).told(&["not protected: no-such does not exist"]);
    run().set("require=[\"protect\"]").probe("exit 0").code(125).told(&["no-such"]);
}

#[test]
fn a_link_is_not_followed_to_what_it_names() {
    let env = TestEnv::new();
    let outside = env.directory("outside");
    std::fs::write(outside.join("file"), "outside").expect("write");
    std::os::unix::fs::symlink(&outside, env.project().join("link")).expect("link");
    env.profile(&format!("image = \"{}\"\n[project]\nprotect = [\"link/file\"]\nhide = [\"link\"]\n", image("busybox")));
    let out = env.run_profile().probe("open ./link/file -- rename ./link ./x -- unlink ./link").any();
    assert!(out.answers("open").iter().all(|(_, result)| result != "ok"), "{}", out.stdout);
    assert_eq!(std::fs::read_to_string(outside.join("file")).expect("file"), "outside");
}

#[test]
fn git_works_inside_a_protected_repository() {
    require!(has_image("build-base"), "the test images");
    for map in maps() {
        let env = TestEnv::new();
        let git = |arguments: &[&str]| env.program("git", arguments.iter().copied()).output().code(0);
        git(&["init", "--quiet", "--initial-branch=main"]);
        git(&["config", "user.name", "A"]);
        git(&["config", "user.email", "a@example.org"]);
        env.file("a", "one\n");
        git(&["add", "a"]);
        git(&["commit", "--quiet", "-m", "first"]);
        env.profile(&format!("image = \"{}\"\n", image("build-base")));
        let script = "git status --short && echo two >> a && git add a && git commit --quiet -m second && git log --oneline | wc -l && git checkout --quiet -b other";
        let out = env.hamper(["run"]).map(map).sh(script).ok();
        assert!(out.lines().any(|line| line.trim() == "2"), "{out}");
        let out = git(&["log", "--format=%s", "other"]);
        assert_eq!(out.stdout.lines().collect::<Vec<_>>(), ["second", "first"]);
        env.hamper(["run"]).map(map).sh("git config core.fsmonitor /tmp/x").any().told(&["could not"]);
        assert!(!env.read(".git/config").contains("fsmonitor"));
    }
}

/// A link in the place of what is guarded: what it leads to is guarded, and the link itself is not replaced unseen.
#[test]
fn what_a_link_leads_to_is_hidden_and_protected() {
    for map in maps() {
        let env = TestEnv::new();
        env.file("conf/prod.env", "hush\n");
        env.file("conf/cfg", "mine\n");
        env.file("githooks/x", "");
        env.file(".git/HEAD", "ref: refs/heads/main\n");
        env.file("s1/key", "hush too\n");
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, env.project().join(name)).expect("link");
        let links = [
            ("conf/prod.env", ".env"),
            ("conf/cfg", "cfg"),
            ("../githooks", ".git/hooks"),
            ("../conf/cfg", ".git/config"),
            ("s1", "secrets"),
        ];
        links.iter().for_each(|(to, name)| link(to, name));
        let lists = "[project]\nhide = [\".env\", \"secrets/key\"]\nprotect = [\"cfg\", \".git/hooks\", \".git/config\"]\n";
        let attempt = "cat .env; cat conf/prod.env; cat s1/key; cat secrets/key; echo w >> cfg; echo w >> conf/cfg; echo w > githooks/pre-commit; true";
        env.profile(&format!("image = \"{}\"\n{lists}", image("busybox")));
        let out = env.run_profile().map(map).sh(attempt).code(0);
        assert!(!out.stdout.contains("hush"), "{}", out.stdout);
        assert_eq!(env.read("conf/cfg"), "mine\n");
        assert!(!env.project().join("githooks/pre-commit").exists());
        for (script, name) in [("rm secrets; mkdir secrets", "secrets"), ("rm .env; echo > .env", ".env"), ("rm cfg; echo > cfg", "cfg")] {
            env.run_profile().map(map).sh(script).any().told(&[name, "was made or replaced while the sandbox ran"]);
            let made = env.project().join(name);
            let removed = if made.is_dir() { std::fs::remove_dir(made) } else { std::fs::remove_file(made) };
            // The sandbox may have been ended between the two halves of its script.
            assert!(removed.as_ref().err().is_none_or(|error| error.kind() == std::io::ErrorKind::NotFound), "{removed:?}");
            link(
                if name == "secrets" {
                    "s1"
                } else if name == "cfg" {
                    "conf/cfg"
                } else {
                    "conf/prod.env"
                },
                name,
            );
        }
        // With the link away, what it led to stays hidden; the user who takes it out of `hide` sees it again.
        env.run_profile().map(map).sh("rm .env secrets").any();
        let out = env.run_profile().map(map).sh("cat conf/prod.env; cat s1/key; true").code(0);
        assert!(!out.stdout.contains("hush"), "{}", out.stdout);
        link("conf/prod.env", ".env");
        link("s1", "secrets");
        // The control: neither hidden nor protected.
        crate::support::tick();
        env.profile(&format!("image = \"{}\"\n[project]\nprotect = []\n", image("busybox")));
        let out = env.run_profile().map(map).sh(attempt).code(0);
        assert_eq!(out.stdout, "hush\nhush\nhush too\nhush too\n");
        assert_eq!(env.read("conf/cfg"), "mine\nw\nw\n");
    }
}

/// A directory that a payload has shut is not taken for one that is empty.
#[test]
fn worktrees_that_cannot_be_looked_into_stop_a_run() {
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n", image("busybox")));
    env.file(".git/config", "[core]\n");
    env.file(".git/hooks/x", "");
    env.file(".git/worktrees/wt/commondir", "../..\n");
    for shut in [".git/worktrees", ".git/worktrees/wt"] {
        env.run_profile().sh(&format!("chmod 000 {shut}")).code(0);
        env.run_profile().sh("true").code(125).told(&[shut]);
        std::fs::set_permissions(env.project().join(shut), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        env.run_profile().sh("true").code(0);
    }
}

#[test]
fn a_worktree_reaches_its_repository_and_no_other() {
    require!(has_image("build-base"), "the test images");
    let env = TestEnv::new();
    let main = env.directory("main");
    let git = |directory: &std::path::Path, arguments: &[&str]| {
        env.program("git", arguments.iter().copied()).directory(directory).output().code(0)
    };
    git(&main, &["init", "--quiet", "--initial-branch=main"]);
    git(&main, &["config", "user.name", "A"]);
    git(&main, &["config", "user.email", "a@example.org"]);
    std::fs::write(main.join("a"), "one\n").expect("write");
    git(&main, &["add", "a"]);
    git(&main, &["commit", "--quiet", "-m", "first"]);
    let tree = env.root().join("tree");
    git(&main, &["worktree", "add", "--quiet", "-b", "side", &tree.display().to_string()]);
    std::fs::write(tree.join("hamper.toml"), format!("image = \"{}\"\n", image("build-base"))).expect("write");
    let out = env.hamper(["run"]).directory(&tree).sh("git status --short; echo two >> a && git commit --quiet -am second && git log --format=%s; echo x > $(git rev-parse --git-common-dir)/hooks/post-commit; echo x >> $(git rev-parse --git-common-dir)/config").any();
    assert!(out.stdout.contains("second\nfirst"), "{} {}", out.stdout, out.stderr);
    assert!(!main.join(".git/hooks/post-commit").exists());
    assert!(!std::fs::read_to_string(main.join(".git/config")).expect("config").contains("x\n"));
    // What says where the repository is, and with that whose commands git runs.
    let own = main.join(".git/worktrees/tree");
    for (isolation, image) in [("auto", image("build-base")), ("namespaces", "host".into())] {
        crate::support::tick();
        std::fs::write(tree.join("hamper.toml"), format!("image = \"{image}\"\nisolation = \"{isolation}\"\n")).expect("write");
        let script = format!(
            "cd {}; for f in commondir gitdir; do echo x > $f && exit 9; mv $f y && exit 8; rm $f && exit 7; echo x > y; mv y $f && exit 6; done; mv ../tree ../other && exit 5; \
             echo x > config.worktree; echo x > ../../commondir; echo made; exit 0",
            own.display()
        );
        let out = env
            .hamper(["run"])
            .directory(&tree)
            .sh(&script)
            .code(0)
            .told(&["worktrees/tree/config.worktree appeared", ".git/commondir appeared"]);
        assert!(out.stdout.contains("made"), "{}", out.stderr);
        assert_eq!(std::fs::read_to_string(own.join("commondir")).expect("read"), "../..\n");
        for made in [own.join("config.worktree"), main.join(".git/commondir")] {
            std::fs::remove_file(made).expect("remove");
        }
        let script = "git status --short; git checkout --quiet -b $1 && echo three >> a && git commit --quiet -am third && git stash list && git checkout --quiet side && git status --short";
        let out = env.hamper(["run"]).directory(&tree).payload(["sh", "-c", script, "sh", isolation]).output().any();
        assert_eq!(out.status.code(), Some(0), "{}", out.stderr);
        // Once there is one, it is not the payload's to change.
        std::fs::write(own.join("config.worktree"), "").expect("write");
        let script = format!("echo x > {}/config.worktree", own.display());
        assert_ne!(env.hamper(["run"]).directory(&tree).sh(&script).any().status.code(), Some(0));
        std::fs::remove_file(own.join("config.worktree")).expect("remove");
    }
    // Seen from the checkout that has the repository, git is not to obey somebody else in the worktree either.
    let pointers = "cd .git/worktrees/tree; for f in commondir gitdir; do echo x > $f && exit 9; mv $f y && exit 8; echo x > y; mv y $f && exit 7; done; echo x > config.worktree; exit 0";
    crate::support::tick();
    std::fs::write(main.join("hamper.toml"), format!("image = \"{}\"\n", image("build-base"))).expect("write");
    env.hamper(["run"]).directory(&main).sh(pointers).code(0).told(&["worktrees/tree/config.worktree appeared"]);
    assert_eq!(std::fs::read_to_string(own.join("commondir")).expect("read"), "../..\n");
    std::fs::remove_file(own.join("config.worktree")).expect("remove");
    env.hamper(["run"])
        .directory(&main)
        .sh("git worktree add -q inside && cd inside && echo x > x && git add x && git commit -qm x")
        .code(0);
    let unprotected = env.hamper(["run", "--set", "project.protect=[]"]).directory(&main);
    assert_eq!(unprotected.sh(pointers).any().status.code(), Some(9));
    std::fs::write(own.join("commondir"), "../..\n").expect("write");
    // A worktree that the repository does not name back is none.
    let liar = env.directory("liar");
    std::fs::write(liar.join(".git"), format!("gitdir: {}/.git/worktrees/tree\n", main.display())).expect("write");
    std::fs::write(liar.join("hamper.toml"), format!("image = \"{}\"\n", image("build-base"))).expect("write");
    let out = env.hamper(["run"]).directory(&liar).sh(&format!("ls {}", main.display())).any();
    assert_ne!(out.status.code(), Some(0), "{}", out.stdout);
}

#[test]
fn a_directory_is_no_standard_stream() {
    let env = TestEnv::new();
    env.profile("image = \"host\"\n");
    env.executable("probe", std::fs::read(crate::support::probe()).expect("probe"));
    for isolation in isolations(&env) {
        let words = env.hamper(["run"]).set(isolation).payload(["./probe", "exit", "3"]).words();
        let with = |redirection: &str| env.program("sh", ["-c", &format!("{words} {redirection}")]).output();
        with("< /dev/null").code(3);
        for (redirection, name) in [("< /", "input"), ("1< /", "output")] {
            with(redirection).code(125).told(&[&format!("standard {name} is a directory")]);
        }
        with("2< /").code(125);
    }
}

#[test]
fn the_hosts_files_are_not_there() {
    let env = TestEnv::new();
    let secret = env.directory("elsewhere").join("secret");
    std::fs::write(&secret, "hush").expect("write");
    let homes = ["/root", "/home", "/etc/shadow", "/etc/ssh", "/var/lib", "/boot", "/run/user"].join(" ");
    for map in maps() {
        for image in ["busybox", "host"] {
            let out = env.run(image).map(map).args(["--project", "."]).probe(&format!("open {} -- ls {homes}", secret.display())).code(0);
            assert_eq!(out.value(&format!("open {}:", secret.display())), "ENOENT", "{map} {image}");
            let others: Vec<&str> = out.stdout.lines().filter(|line| line.starts_with("entry ")).collect();
            assert!(
                others.iter().all(|entry| !entry.contains("ssh_host") && !entry.contains("vmlinuz") && !entry.contains("dpkg")),
                "{map} {image}: {others:?}"
            );
            // Of homes there is at most the user's own, empty.
            let out = env.run(image).map(map).args(["--project", "."]).probe("ls /home").code(0);
            let own = crate::support::user_name();
            assert!(out.stdout.lines().all(|line| line == format!("entry {own}") || line.starts_with("ls ")), "{}", out.stdout);
        }
    }
    let out = env.run("host").probe(&format!("open {}", secret.display())).code(0);
    assert_eq!(out.value(&format!("open {}:", secret.display())), "ENOENT");
    let volume = format!("{0}:{0}:ro", secret.display());
    let out = env.run("host").args(["-v", &volume]).probe(&format!("open {}", secret.display())).code(0);
    assert_eq!(out.value(&format!("open {}:", secret.display())), "ok", "the control");
}

#[test]
fn the_image_host_is_read_only() {
    let env = TestEnv::new();
    let out =
        env.run("host").probe("write /usr/x /usr/bin/x /etc/ld.so.cache -- unlink /usr/bin/true -- statvfs /usr -- write /tmp/x").code(0);
    assert!(out.answers("write")[..3].iter().all(|(_, result)| result == "EROFS" || result == "EACCES"), "{}", out.stdout);
    assert!(out.value("statvfs /usr:").contains(" ro nosuid nodev"), "{}", out.stdout);
    assert_eq!(out.value("write /tmp/x:"), "ok", "the control");
}

#[test]
fn devices_are_the_harmless_ones() {
    let env = TestEnv::new();
    for map in maps() {
        let out = env.run("busybox").map(map).probe("ls /dev -- stat /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty -- open /dev/null /dev/zero /dev/urandom -- write /dev/null /dev/full").code(0);
        let names: Vec<&str> = out.stdout.lines().filter_map(|line| line.strip_prefix("entry ")).collect();
        for name in &names {
            assert!(
                [
                    "null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "mqueue", "fd", "stdin", "stdout", "stderr",
                    "console", "core"
                ]
                .contains(name),
                "{map}: /dev/{name}"
            );
        }
        assert!(out.value("stat /dev/null:").contains("rdev 1:3"), "{}", out.stdout);
        assert!(out.answers("open").iter().all(|(_, result)| result == "ok"), "{}", out.stdout);
        // A node that the payload makes is refused, and one that it brings is dead.
        let out = env
            .run("busybox")
            .map(map)
            .args(["--project", "."])
            .probe("mknod ./n c 1 3 -- mknod /tmp/n c 1 3 -- statvfs . / /dev/shm /tmp")
            .code(0);
        assert!(out.answers("mknod").iter().all(|(_, result)| result == "EPERM" || result == "EACCES"), "{}", out.stdout);
        for path in [".", "/", "/dev/shm", "/tmp"] {
            assert!(out.value(&format!("statvfs {path}:")).contains(" nodev"), "{path}: {}", out.stdout);
        }
    }
}

#[test]
fn a_device_is_there_where_the_profile_names_it() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
    let env = TestEnv::new();
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("flags");
    let opens = |path: &&str| std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).is_ok();
    let device = ["/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/autofs"].into_iter().find(opens);
    require!(device.is_some(), "a device that an ordinary user may open");
    let device = device.unwrap_or_default();
    let host = std::fs::metadata(device).expect("device");
    assert!(host.file_type().is_char_device());
    let number = format!("rdev {}:{}", rustix::fs::major(host.rdev()), rustix::fs::minor(host.rdev()));
    for map in maps() {
        for image in ["busybox", "host"] {
            let run = || env.run(image).map(map);
            let probe = format!("open {device} /dev/zero -- stat {device}");
            // Named twice, or there anyway: once is enough.
            let out = run().set(&format!("security.devices=[\"{device}\", \"/dev/zero\", \"{device}\"]")).probe(&probe).code(0);
            assert!(out.answers("open").iter().all(|(_, result)| result == "ok"), "{map} {image}: {}", out.stdout);
            assert!(out.value(&format!("stat {device}:")).contains(&number), "{map} {image}: {}", out.stdout);
            // The control: not named, it is not there.
            let out = run().probe(&probe).code(0);
            assert_eq!(out.value(&format!("open {device}:")), "ENOENT");
        }
    }
    let refused = |device: &str| env.run("busybox").set(&format!("security.devices=[\"{device}\"]")).probe("exit 0").code(125);
    refused("/dev/no-such-device").told(&["cannot mount /dev with /dev/no-such-device", "No such file"]);
    for own in ["/dev/ptmx", "/dev/pts/0", "/dev/stdin", "/dev/shm", "/dev/console"] {
        refused(own).told(&[own, "the sandbox's own"]);
    }
    refused("/etc/passwd").told(&["no path below /dev"]);
}

#[test]
fn proc_and_sys_tell_and_take_nothing() {
    let env = TestEnv::new();
    for map in maps() {
        let out = env
            .run("busybox")
            .map(map)
            .set("security.landlock=off")
            .probe("open /proc/kcore /proc/keys /proc/timer_list -- cat /proc/keys -- write /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /sys/kernel/x /sys/fs/cgroup/x -- stat /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /sys/kernel/x /sys/fs/cgroup/x -- mkdir /sys/fs/cgroup/x -- ls /proc/scsi /proc/acpi -- statvfs /sys /sys/fs/cgroup /proc")
            .code(0);
        // A file that is masked takes everything, and keeps nothing: it is /dev/null.
        let masked = |path: &str| out.value(&format!("stat {path}:")).contains("rdev 1:3");
        assert!(out.answers("write").iter().all(|(path, result)| result != "ok" || masked(path)), "{}", out.stdout);
        assert!(!out.stdout.contains("keyring"), "{}", out.stdout);
        assert!(!out.stdout.contains("entry "), "{}", out.stdout);
        assert_ne!(out.value("mkdir /sys/fs/cgroup/x:"), "ok");
        for path in ["/sys", "/sys/fs/cgroup"] {
            assert!(out.value(&format!("statvfs {path}:")).contains(" ro"), "{path}: {}", out.stdout);
        }
        assert!(out.value("statvfs /proc:").contains(" nosuid nodev noexec"), "{}", out.stdout);
    }
}

#[test]
fn images_cannot_lead_mounts_astray() {
    // A root file system whose /dev, /etc and work directory are links to the host.
    for (link, target) in [("dev", "/tmp/.."), ("proc", "/etc"), ("sys", "../../../../.."), ("etc", "/var/tmp"), ("tmp", "../../../../tmp")]
    {
        let env = TestEnv::new();
        let root = env.directory("rootfs");
        std::fs::create_dir_all(root.join("bin")).expect("bin");
        std::os::unix::fs::symlink(target, root.join(link)).expect("link");
        let out = env.run(&format!("rootfs:{}", root.display())).probe("stat /dev/null /proc/self /etc/hosts -- cat /etc/hosts").any();
        // Refused with words, or right.
        if out.status.code() == Some(0) {
            assert!(out.value("stat /dev/null:").contains("rdev 1:3"), "{link}: {}", out.stdout);
            assert!(out.stdout.contains("localhost"), "{link}: {}", out.stdout);
        } else {
            assert_eq!(out.status.code(), Some(125), "{}", out.stderr);
        }
        for path in ["/var/tmp/hosts", "/var/tmp/passwd", "/var/tmp/hostname", "/tmp/hosts"] {
            assert!(!std::path::Path::new(path).exists(), "{link}: {path} was made on the host");
        }
        let made: Vec<_> = crate::support::tree::names(&root);
        assert_eq!(made.len(), 3, "{link}: {made:?}");
    }
}

#[test]
fn a_directory_that_is_a_magic_link_leads_nowhere() {
    let env = TestEnv::new();
    for path in ["/proc/self/fd/3", "/proc/1/root", "/proc/self/root/../..", "/proc/1/cwd"] {
        let out = env.run("busybox").args(["-w", path]).probe("cwd").any();
        if out.status.code() == Some(0) {
            assert!(out.value("cwd").starts_with('/'), "{path}: {}", out.stdout);
        } else {
            assert_eq!(out.status.code(), Some(125), "{path}: {}", out.stderr);
        }
    }
}

#[test]
fn no_project_where_that_would_be_the_whole_home() {
    let env = TestEnv::new();
    for directory in [std::path::PathBuf::from("/"), "/tmp".into(), env.home()] {
        let out = env.run("busybox").directory(&directory).probe("cwd").code(0);
        assert!(out.stderr.contains("project"), "{}: {:?}", directory.display(), out.stderr);
        assert_eq!(out.value("cwd"), "/");
    }
}

#[test]
fn a_projects_mode() {
    let env = TestEnv::new();
    env.file("x", "there");
    let run = |mode: &str| {
        env.run("busybox").args(["--project", "."]).set(&format!("project.mode={mode}")).probe("write ./new -- open ./x").any()
    };
    assert_eq!(run("rw").value("write ./new:"), "ok");
    std::fs::remove_file(env.project().join("new")).expect("remove");
    assert_eq!(run("ro").value("write ./new:"), "EROFS");
    let scratch = run("scratch");
    assert_eq!((scratch.value("write ./new:"), scratch.value("open ./x:")), ("ok".into(), "ok".into()));
    assert!(!env.project().join("new").exists());
    let none = run("none");
    assert_eq!(none.value("open ./x:"), "ENOENT");
}

#[test]
fn a_group_of_devices_is_what_this_machine_has() {
    let env = TestEnv::new();
    let run = env.run("busybox").set("security.devices=[\"@gpu\"]").sh("ls /dev/dri /dev/kfd /dev/nvidia* 2>/dev/null; true").any();
    let has = std::path::Path::new("/dev/dri").exists() || std::path::Path::new("/dev/kfd").exists();
    match has {
        true => assert!(run.status.success() && !run.stdout.is_empty(), "{run:?}"),
        false => drop(run.code(125).told(&["no device that @gpu could stand for", "hint: ls -l /dev/dri"])),
    }
}
