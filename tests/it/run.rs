//! `hamper run`: exit codes, the command that is run, environment, directory, and what can be mounted.

use crate::require;
use crate::support::{TestEnv, has_image, maps, seconds};

#[test]
fn the_embedded_default_needs_nothing() {
    let env = TestEnv::new();
    let out = env.hamper(["run", "hello"]).output().ok();
    assert!(out.contains("Hello from inside"), "{out}");
    assert!(out.contains("network    lo"), "{out}");
}

#[test]
fn the_payloads_code_is_ours() {
    let env = TestEnv::new();
    for code in [0, 1, 2, 124, 125, 255] {
        env.run("busybox").probe(&format!("exit {code}")).code(code).silent();
    }
}

#[test]
fn a_signal_that_ends_the_payload_is_128_and_its_number() {
    let env = TestEnv::new();
    for signal in [2, 6, 9, 11, 15] {
        env.run("busybox").probe(&format!("raise {signal}")).code(128 + signal);
    }
}

#[test]
fn the_time_limit_is_124() {
    let env = TestEnv::new();
    let out = env.run("busybox").set("limits.time=1s").set("lifecycle.stop_timeout=1s").probe("sleep 60").code(124).told(&["time limit"]);
    assert!(out.took < seconds(5), "{:?}", out.took);
    env.run("busybox").set("limits.time=60s").probe("exit 3").code(3).silent();
}

#[test]
fn the_time_limit_holds_against_a_payload_that_ignores_the_stop_signal() {
    let env = TestEnv::new();
    let out = env
        .run("busybox")
        .set("limits.time=1s")
        .set("lifecycle.stop_timeout=1s")
        .sh("trap '' TERM; while :; do sleep 1; done")
        .code(124)
        .told(&["time limit"]);
    assert!(out.took < seconds(6), "{:?}", out.took);
}

#[test]
fn failures_of_ours_are_125() {
    let env = TestEnv::new();
    env.hamper(["run", "--no-such-option"]).output().code(125).told(&["--no-such-option"]);
    env.hamper(["run", "no-such-profile"]).output().code(125).told(&["no-such-profile"]);
    env.hamper(["run"]).output().code(125).told(&["hint: try: hamper run hello"]);
    env.run("oci:/nonexistent").probe("exit 0").code(125).told(&["/nonexistent"]);
    env.run("busybox").set("no.such.key=1").probe("exit 0").code(125);
    env.run("busybox").args(["-v", "/no/such/source:/x"]).probe("exit 0").code(125).told(&["/no/such/source"]);
    env.run("busybox").args(["-v", "/etc"]).probe("exit 0").code(125).told(&["SRC:DST"]);
    env.run("busybox").args(["-w", "relative"]).probe("exit 0").code(125).told(&["absolute"]);
}

#[test]
fn what_cannot_be_executed_is_126_and_what_is_not_there_127() {
    let env = TestEnv::new();
    env.file("plain", "#!/bin/sh\n");
    env.executable("garbage", b"\0\x01garbage");
    env.executable("interpreter", "#!/no/such/interpreter\n");
    env.executable("fine", "#!/bin/sh\nexit 9\n");
    let run = |payload: &str| env.run("busybox").args(["--project", "."]).payload([payload]).output();
    run("./plain").code(126).told(&["./plain"]);
    run("./garbage").code(126).told(&["another processor"]);
    run("/").code(126);
    run("no-such-program").code(127).told(&["no-such-program"]);
    run("./interpreter").code(127).told(&["interpreter"]);
    run("./fine").code(9);
}

#[test]
fn entrypoint_and_command_follow_docker() {
    let env = TestEnv::new();
    require!(has_image("node14"), "the test images");
    env.hamper(["image", "load", &crate::support::image("node14")]).output().code(0);
    // The image's entrypoint executes its arguments, with `node` before what begins with a dash or is no program.
    let plan = |more: &[&str], payload: &[&str]| {
        let mut hamper = env.hamper(["plan", "--image", &crate::support::image("node14"), "--json"]).args(more.iter().copied());
        if !payload.is_empty() {
            hamper = hamper.payload(payload.iter().copied());
        }
        let text = hamper.output().ok();
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let steps = value["steps"].as_array().expect("steps").clone();
        let last = steps.last().expect("a step").clone();
        let argv = last["argv"].as_array().expect("argv").iter().map(|word| word.as_str().expect("word").to_owned());
        argv.collect::<Vec<_>>().join(" ")
    };
    let script = plan(&[], &[]);
    assert!(script.ends_with("docker-entrypoint.sh node"), "{script}");
    let entry = script.trim_end_matches(" node").to_owned();
    assert_eq!(plan(&[], &["npm", "test"]), format!("{entry} npm test"));
    assert_eq!(plan(&["--entrypoint", ""], &["npm"]), "npm");
    assert_eq!(plan(&["--entrypoint", "/x"], &[]), "/x");
    assert_eq!(plan(&["--entrypoint", "/x"], &["y"]), "/x y");
    assert_eq!(plan(&["--set", "entrypoint=[\"/p\"]"], &[]), "/p");
    assert_eq!(plan(&["--set", "command=[\"a\", \"b\"]"], &[]), format!("{entry} a b"));
    assert_eq!(plan(&["--set", "command=[\"a\"]"], &["c"]), format!("{entry} c"));
    assert_eq!(plan(&["--set", "entrypoint=[\"/p\"]", "--entrypoint", "/q"], &["c"]), "/q c");
    let none = env.run("busybox").args(["--entrypoint", ""]).output();
    none.code(125).told(&["COMMAND"]);
}

#[test]
fn the_last_word_on_a_variable_wins() {
    let env = TestEnv::new();
    env.file("a.env", "A=file\nB=file\nC=file\n# comment\n\nSPACES= x y \n");
    env.file("b.env", "B=second\n");
    env.profile(&format!(
        "image = \"{}\"\nenv_file = [\"a.env\", \"b.env\"]\nenv_pass = [\"C\", \"D\", \"PASS_*\"]\n[env]\nD = \"table\"\nE = \"table\"\n",
        crate::support::image("busybox")
    ));
    let out = env
        .run_profile()
        .env("A", "host")
        .env("C", "host")
        .env("D", "host")
        .env("PASS_ME", "passed")
        .env("LEAK", "host")
        .args(["-e", "E=option", "-e", "LEAK2", "-e", "F=", "-e", "A=x=y"])
        .env("LEAK2", "named")
        .probe("env");
    let out = out.code(0);
    for line in ["A=x=y", "B=second", "C=host", "D=table", "E=option", "PASS_ME=passed", "LEAK2=named", "F=", "SPACES= x y "] {
        assert!(out.stdout.lines().any(|known| known == line), "{line} is not in {}", out.stdout);
    }
    assert!(!out.stdout.contains("LEAK="), "{}", out.stdout);
    // What --env-file names comes after what the profile names.
    crate::support::tick();
    env.file("c.env", "B=third\n");
    env.hamper(["trust", "c.env"]).output().code(0);
    env.run_profile().args(["--env-file", "c.env"]).probe("env").code(0).line("B=third");
    crate::support::tick();
    env.file("c.env", "no equals sign\n");
    env.run_profile().args(["--env-file", "c.env"]).probe("env").code(125).told(&["c.env:1"]);
}

#[test]
fn the_image_sets_variables_and_the_profile_replaces_them() {
    let env = TestEnv::new();
    require!(has_image("node14"), "the test images");
    let out = env.run("node14").probe("env").code(0);
    assert_eq!(out.value("NODE_VERSION="), "14.21.3");
    assert_eq!(out.value("HOME="), "/home/node");
    env.run("node14").args(["-e", "NODE_VERSION=x"]).probe("env").code(0).line("NODE_VERSION=x");
}

#[test]
fn the_directory_is_the_projects_the_callers_the_images_or_the_one_asked_for() {
    let env = TestEnv::new();
    env.file("below/here/x", "");
    let project = env.project().display().to_string();
    let run = || env.run("busybox").args(["--project", &project]);
    run().probe("cwd").code(0).line(&format!("cwd {project}"));
    run().directory(env.project().join("below/here")).probe("cwd").code(0).line(&format!("cwd {project}/below/here"));
    run().directory("/").probe("cwd").code(0).line(&format!("cwd {project}"));
    run().args(["-w", "/etc"]).probe("cwd").code(0).line("cwd /etc");
    run().set("workdir=\"/tmp\"").probe("cwd").code(0).line("cwd /tmp");
    run().set("workdir=\"/tmp\"").args(["-w", "/etc"]).probe("cwd").code(0).line("cwd /etc");
    run().set("project.target=/build").probe("cwd").code(0).line("cwd /build");
    run().set("project.target=/build").directory(env.project().join("below")).probe("cwd").code(0).line("cwd /build/below");
    // As Docker does it: what is asked for is made.
    run().args(["-w", "/no/such/directory"]).probe("cwd").code(0).line("cwd /no/such/directory");
    require!(has_image("node14-app"), "the test images");
    // The image's own command starts where the image says; another one in the project.
    let out = env.hamper(["run", "--image", &crate::support::image("node14-app"), "--project", "."]).output().ok();
    assert!(out.contains("\"/app\""), "{out}");
    env.run("node14-app").args(["--project", "."]).probe("cwd").code(0).line(&format!("cwd {project}"));
}

#[test]
fn the_profile_of_a_project_that_is_named_is_found_where_there_is_none_upwards() {
    let env = TestEnv::new();
    let project = env.project().display().to_string();
    env.profile(&format!("image = \"{}\"\nname = \"theirs\"\n", crate::support::image("busybox")));
    let elsewhere = env.directory("elsewhere");
    let name = |project: &str| env.hamper(["run", "--project", project]).directory(&elsewhere).payload(["hostname"]).output();
    assert_eq!(name(&project).ok().trim(), "theirs");
    assert_eq!(name("../project").ok().trim(), "theirs");
    name("../nowhere").code(125).told(&["no `hamper.toml` from", "elsewhere"]);
    // The nearest one comes first.
    std::fs::write(elsewhere.join("hamper.toml"), format!("image = \"{}\"\nname = \"mine\"\n", crate::support::image("busybox")))
        .expect("write");
    assert_eq!(name(&project).ok().trim(), "mine");
}

#[test]
fn volumes_of_the_command_line() {
    let env = TestEnv::new();
    let data = env.directory("data");
    std::fs::write(data.join("there"), "hello").expect("write");
    let spec = format!("{}:/data", data.display());
    env.run("busybox").args(["-v", &spec]).probe("cat /data/there -- write /data/new").code(0).line("write /data/new: ok");
    assert!(data.join("new").exists());
    let out = env.run("busybox").args(["-v", &format!("{spec}:ro")]).probe("write /data/newer /data/there");
    assert_eq!(out.code(0).answers("write"), [("/data/newer".into(), "EROFS".into()), ("/data/there".into(), "EROFS".into())]);
    // Relative to the caller's directory, and with a name instead of a path: a volume of the store.
    env.file("sub/f", "relative");
    env.run("busybox").args(["-v", "./sub:/s"]).probe("cat /s/f").code(0).line("relative");
    let volume = format!("v{}", crate::support::unique());
    env.run("busybox").args(["-v", &format!("{volume}:/v")]).probe("write /v/kept").code(0).line("write /v/kept: ok");
    env.run("busybox").args(["-v", &format!("{volume}:/v")]).probe("ls /v").code(0).line("entry kept");
}

#[test]
fn a_tmpfs_has_its_size() {
    let env = TestEnv::new();
    env.profile(&format!(
        "image = \"{}\"\n[root]\ntmp = \"1M\"\nshm = \"2M\"\n[[mounts]]\ntype = \"tmpfs\"\ntarget = \"/small\"\nsize = \"512K\"\nmode = \"rw\"\n",
        crate::support::image("busybox")
    ));
    let out =
        env.run_profile().probe("statvfs /tmp /dev/shm /small -- fill /tmp/x 5000000 -- fill /small/x 5000000 -- fill /root/x 5000000");
    let out = out.code(0);
    assert!(out.value("statvfs /tmp: bytes").starts_with("1048576 nosuid nodev"), "{}", out.stdout);
    assert!(out.value("statvfs /dev/shm: bytes").starts_with("2097152 nosuid nodev"), "{}", out.stdout);
    assert!(out.value("statvfs /small: bytes").starts_with("524288 nosuid nodev"), "{}", out.stdout);
    assert!(out.value("fill /tmp/x:").starts_with("ENOSPC"), "{}", out.stdout);
    assert!(out.value("fill /small/x:").starts_with("ENOSPC"), "{}", out.stdout);
    assert!(out.value("fill /root/x:").starts_with("ok"), "{}", out.stdout);
}

#[test]
fn caches_volumes_and_homes_are_kept_and_roots_are_not() {
    let env = TestEnv::new();
    let profile = |name: &str| {
        format!(
            "name = \"{name}\"\nimage = \"{}\"\n[[mounts]]\ntype = \"cache\"\nsource = \"c\"\ntarget = \"/c\"\n\
             [[mounts]]\ntype = \"volume\"\nsource = \"v{}\"\ntarget = \"/v\"\n",
            crate::support::image("busybox"),
            std::process::id()
        )
    };
    env.profile(&profile("one"));
    let out = env.run_profile().probe("write /c/x /v/x /root/x /etc/x /x").code(0);
    assert!(out.answers("write").iter().all(|(_, result)| result == "ok"), "{}", out.stdout);
    let out = env.run_profile().probe("open /c/x /v/x /root/x /etc/x /x").code(0);
    let results: Vec<String> = out.answers("open").into_iter().map(|(_, result)| result).collect();
    assert_eq!(results, ["ok", "ok", "ok", "ENOENT", "ENOENT"]);
    // Another project, even one of the same name: its own cache and home, and the user's volume.
    let other = env.directory("other");
    std::fs::write(other.join("hamper.toml"), profile("one")).expect("profile");
    let out = env.run_profile().directory(&other).probe("open /c/x /v/x /root/x").code(0);
    let results: Vec<String> = out.answers("open").into_iter().map(|(_, result)| result).collect();
    assert_eq!(results, ["ENOENT", "ok", "ENOENT"]);
}

#[test]
fn a_kept_root_is_kept() {
    let env = TestEnv::new();
    for map in maps() {
        let run = || env.run("busybox").map(map).args(["--keep", "--project", "."]);
        run().probe("write /etc/kept").code(0).line("write /etc/kept: ok");
        run().probe("open /etc/kept").code(0).line("open /etc/kept: ok");
        env.run("busybox").map(map).args(["--project", "."]).probe("open /etc/kept").code(0).line("open /etc/kept: ENOENT");
    }
}

#[test]
fn a_read_only_root_is_read_only_but_where_it_need_not_be() {
    let env = TestEnv::new();
    for map in maps() {
        let run = || env.run("busybox").map(map).args(["--project", "."]);
        let out = run().set("root.mode=ro").probe("write /etc/x /x /tmp/x /run/x /dev/shm/x ./x").code(0);
        let results: Vec<String> = out.answers("write").into_iter().map(|(_, result)| result).collect();
        assert_eq!(results[2..], ["ok", "ok", "ok", "ok"], "{}", out.stdout);
        assert!(results[..2].iter().all(|result| result == "EROFS" || result == "EACCES"), "{}", out.stdout);
        let out = run().probe("write /etc/x /x").code(0);
        assert!(out.answers("write").iter().all(|(_, result)| result == "ok"), "{}", out.stdout);
    }
}

#[test]
fn a_secret_is_a_file_for_the_payload_alone_and_no_variable() {
    let env = TestEnv::new();
    env.file("token", "from a file");
    env.profile(&format!(
        "image = \"{}\"\n[secrets.one]\nfrom = \"env:MY_TOKEN\"\ntarget = \"/run/secrets/one\"\n[secrets.two]\nfrom = \"file:token\"\ntarget = \"/run/secrets/two\"\n",
        crate::support::image("busybox")
    ));
    for map in maps() {
        let out = env
            .run_profile()
            .map(map)
            .env("MY_TOKEN", "hush-hush")
            .probe("cat /run/secrets/one -- stat /run/secrets/one -- cat /run/secrets/two -- env");
        let out = out.code(0);
        assert!(out.stdout.starts_with("hush-hush"), "{}", out.stdout);
        assert!(out.stdout.contains("from a file"), "{}", out.stdout);
        let status = out.value("stat /run/secrets/one:");
        assert!(status.starts_with("100400 0:0 ") || status.starts_with("100600 0:0 "), "{}", out.stdout);
        assert!(!out.stdout.contains("MY_TOKEN"), "{}", out.stdout);
        let plan = env.hamper(["plan", "--json"]).map(map).env("MY_TOKEN", "hush-hush").output().ok();
        assert!(!plan.contains("hush-hush"), "{plan}");
    }
    env.run_profile().probe("env").code(125).told(&["MY_TOKEN"]);
}

#[test]
fn an_unset_tmp_is_the_images_own() {
    let env = TestEnv::new();
    env.run("busybox").probe("write /tmp/x -- statvfs /tmp").code(0).line("write /tmp/x: ok");
}

#[test]
fn rlimits_are_set_and_cannot_be_raised() {
    let env = TestEnv::new();
    let out =
        env.run("busybox").set("limits.ulimits={ nofile = 64, core = 0 }").probe("getrlimit 7 -- getrlimit 4 -- setrlimit 7 128").code(0);
    assert_eq!(out.value("rlimit 7"), "64 64");
    assert_eq!(out.value("rlimit 4"), "0 0");
    assert_eq!(out.value("setrlimit 7:"), "EPERM");
    env.run("busybox").probe("setrlimit 7 128").code(0).line("setrlimit 7: ok");
}

#[test]
fn a_tiny_limit_of_open_files_starves_the_payload_and_not_us() {
    let env = TestEnv::new();
    env.run("busybox").set("limits.ulimits={ nofile = 4 }").probe("getrlimit 7").code(0).line("rlimit 7 4 4");
}

#[test]
fn what_comes_with_later_versions_is_refused_by_name() {
    let env = TestEnv::new();
    env.run("busybox").set("network.mode=nat").probe("exit 0").code(125).told(&["network.mode", "not available yet"]);
    // All at once, with their places, and before the image is looked for.
    env.profile("image = \"node:14\"\n[network]\nmode = \"filtered\"\nports = [\"80:80\"]\n");
    env.run_profile().probe("exit 0").code(125).told(&["network.mode (hamper.toml:3) is not", "network.ports (hamper.toml:4)"]);
}

#[test]
fn missing_sources_are_refused_skipped_or_made() {
    let env = TestEnv::new();
    let profile = |missing: &str| {
        format!(
            "image = \"{}\"\n[[mounts]]\nsource = \"made\"\ntarget = \"/made\"\nmode = \"rw\"\nmissing = \"{missing}\"\n",
            crate::support::image("busybox")
        )
    };
    env.profile(&profile("error"));
    env.run_profile().probe("ls /made").code(125).told(&["made", "hamper.toml"]);
    env.profile(&profile("skip"));
    env.run_profile().probe("stat /made").code(0).line("stat /made: ENOENT");
    env.profile(&profile("create"));
    env.run_profile().probe("write /made/x").code(0).line("write /made/x: ok");
    assert!(env.project().join("made/x").exists());
}

#[test]
fn standard_input_reaches_the_payload() {
    let env = TestEnv::new();
    let out = env.run("busybox").stdin("one\ntwo\n").sh("wc -l").ok();
    assert_eq!(out.trim(), "2");
    let big = "x".repeat(300_000);
    assert_eq!(env.run("busybox").stdin(&big).sh("wc -c").ok().trim(), "300000");
    assert_eq!(env.run("busybox").sh("head -c 300000 /dev/zero").ok().len(), 300_000);
}

#[test]
fn a_name_has_one_sandbox_at_a_time() {
    let env = TestEnv::new();
    let run = || env.run("busybox").args(["--name", "only"]);
    let mut child = run().args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x"]).spawn();
    child.await_line("ready");
    run().probe("exit 0").code(125).told(&["only", "runs already", &child.pid().to_string()]);
    env.run("busybox").args(["--name", "other"]).probe("exit 0").code(0);
    env.run("busybox").probe("exit 0").code(0);
    drop(child.child.stdin.take());
    drop(child.output());
    run().probe("exit 0").code(0).silent();
}

#[test]
fn verbose_says_more() {
    let env = TestEnv::new();
    env.run("busybox").args(["--verbose"]).probe("exit 3").code(3).told(&["hamper: image sha256:", "id maps", "scratch directory /"]);
}

#[test]
fn what_cannot_be_a_project_is_refused() {
    let env = TestEnv::new();
    let file = env.file("a-file", "");
    for image in ["busybox", "host"] {
        env.run(image).args(["--project", "/"]).probe("exit 0").code(125).told(&["`/`", "is the root"]);
        env.run(image).args(["--project", "a-file"]).probe("exit 0").code(125).told(&["a-file", "is not a directory"]);
        env.run(image).set("project.target=/").probe("exit 0").code(125).told(&["is the root"]);
        let below = format!("{}:{}", env.directory("data").display(), file.display());
        env.run(image).args(["--project", ".", "-v", &below]).probe("exit 0").code(125).told(&["a-file", "which is a file"]);
    }
    let directory = env.directory("data").display().to_string();
    let onto = |source: &str, target: &str| env.run("busybox").args(["-v", &format!("{source}:{target}")]).probe("exit 0").code(125);
    onto(&directory, "/etc/passwd").told(&["/etc/passwd", "is a file"]);
    onto(&file.display().to_string(), "/etc").told(&["/etc", "is a directory"]);
}

#[test]
fn hints_for_who_comes_from_another_tool() {
    let env = TestEnv::new();
    for (line, words) in [
        (&["run", "-it", "hello"][..], "terminal is chosen by itself"),
        (&["run", "--rm", "hello"], "always removed"),
        (&["run", "-d", "hello"], "come later"),
        (&["run", "-p", "80:80", "hello"], "--network host"),
        (&["run", "--image", "host", "echo", "hi"], "hamper run --image host -- echo hi"),
        (&["run", "--image", "host", "echo"], "hamper run --image host -- echo"),
        (&["run", "node:14"], "hamper run --image node:14"),
        (&["run", "oci:/dir"], "hamper run --image oci:/dir"),
        (&["run", "."], "hamper run ./hamper.toml"),
        (&["run", "hello", "--set", "nothing"], "--set 'nothing=VALUE'"),
        (&["run", "hello", "--set", "root.mode=rw"], "scratch"),
        (&["run", "hello", "--set", "include=[\"x.toml\"]"], "cannot be set on the command line"),
        (&["shell", "--entrypoint", "x", "hello"], "without any entrypoint"),
    ] {
        env.hamper(line.iter().copied()).output().code(125).told(&[words]);
    }
    env.hamper(["plan", "hello", "--report", "x"]).output().code(1).told(&["--report", "plan --json"]);
    let secret = env.run("busybox").args(["--entrypoint", ""]).payload(["no-such", "hush-hush"]).output().code(127);
    assert!(secret.stderr.contains("cannot execute `no-such`") && !secret.stderr.contains("hush-hush"), "{}", secret.stderr);
    let empty = env.directory("empty");
    std::fs::create_dir(empty.join("etc")).expect("directory");
    env.hamper(["shell", "--image", &format!("rootfs:{}", empty.display())]).output().code(127).told(&["no /bin/sh"]);
}

#[test]
fn a_lack_of_descriptors_is_called_so() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["true"]).words();
    for limit in [5, 8] {
        env.program("sh", ["-c", &format!("ulimit -n {limit}; {line}")]).output().code(125).told(&["hint:", "ulimit -n"]);
    }
}

#[test]
fn names_that_are_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let env = TestEnv::new();
    let odd = env.root().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    std::fs::create_dir(&odd).expect("directory");
    std::fs::write(odd.join("hamper.toml"), format!("image = \"{}\"\n", crate::support::image("busybox"))).expect("profile");
    env.run_profile().args(["--report", "report.json"]).directory(&odd).probe("exit 3").code(3);
    assert!(std::fs::read_to_string(odd.join("report.json")).expect("report").contains("\"code\": 3"));
    let plan = env.hamper(["plan", "--json"]).directory(&odd).payload(["true"]).output().ok();
    assert!(plan.contains("odd\u{fffd}"), "{plan}");
    let mut command = env.hamper(["run", "hello"]).into_command();
    let out = command.arg("-e").arg(std::ffi::OsStr::from_bytes(b"X=\xff")).output().expect("run");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(125) && told.contains("`X=\u{fffd}` is not UTF-8"), "{told}");
}

#[test]
fn root_without_capabilities_is_told_what_may_help() {
    let env = TestEnv::new();
    let image = crate::support::image("busybox");
    let hinted = |arguments: &[&str]| {
        let mut pty = crate::support::pty::Pty::new();
        let line = env.hamper(["run", "--image", &image]).args(arguments.iter().copied()).words();
        pty.start(&format!("{line} -e PS1=inside; echo code=$?"), &env);
        pty.expect("inside");
        pty.send("exit 3\r");
        pty.expect("code=3");
        pty.wait();
        pty.shown().contains("set identity.user or caps")
    };
    assert!(hinted(&[]));
    assert!(!hinted(&["-u", "1000"]));
    env.run("busybox").sh("exit 3").code(3).silent();
    env.hamper(["run", "--image", &image]).stdin("exit 3\n").output().code(3).silent();
}
