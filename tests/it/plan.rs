//! `hamper plan`: the steps of a start, and nothing done.

use serde_json::Value;

use crate::support::rich::rich;
use crate::support::tree::{assert_same, tree};
use crate::support::{TestEnv, image, maps};

fn makes_nothing(env: &TestEnv, code: i32) {
    for arguments in [&["plan"][..], &["plan", "--json"], &["run", "--dry-run"]] {
        let before = tree(env.root());
        for map in maps() {
            env.hamper(arguments.iter().copied()).map(map).env("TOKEN", "t").payload(["true"]).output().code(code);
        }
        assert_same(&before, &tree(env.root()), arguments[0]);
    }
}

#[test]
fn a_plan_makes_nothing() {
    let env = TestEnv::alone();
    rich(&env, "scratch", "time = \"1m\"");
    // Twice: which layers serve both maps is known only when both have been loaded.
    for map in [maps(), maps()].concat() {
        env.hamper(["run"]).map(map).env("TOKEN", "t").payload(["true"]).output().code(0);
    }
    assert!(crate::support::within(10.0, || std::fs::read_dir(env.store().join("trash")).map_or(true, |mut trash| trash.next().is_none())));
    makes_nothing(&env, 0);
}

#[test]
fn a_plan_of_an_image_that_is_not_loaded_says_how_to_load_it() {
    let env = TestEnv::alone();
    rich(&env, "scratch", "time = \"1m\"");
    // The steps depend on what is in the image: its user, its home, its links.
    for (arguments, code) in [(&["plan"][..], 1), (&["plan", "--json"], 1), (&["run", "--dry-run"], 125)] {
        let before = tree(env.root());
        env.hamper(arguments.iter().copied()).env("TOKEN", "t").payload(["true"]).output().code(code);
        assert_same(&before, &tree(env.root()), arguments[0]);
    }
    let load = format!("hamper image load 'oci:{}'", crate::support::images().join("busybox").display());
    env.hamper(["plan"]).env("TOKEN", "t").payload(["true"]).output().code(1).told(&["is not loaded yet", &load]);
    env.hamper(["run", "--dry-run"]).env("TOKEN", "t").payload(["true"]).output().code(125).told(&["is not loaded yet", &load]);
}

/// What a run would make is foreseen: its name, and whether the image has a home for the user.
#[test]
fn a_plan_before_the_first_run_is_the_plan_after_it() {
    for map in maps() {
        for user in ["0", "1000:1000"] {
            let env = TestEnv::alone();
            rich(&env, "scratch", "time = \"1m\"");
            let user = format!("identity.user=\"{user}\"");
            env.hamper(["image", "load", &image("busybox"), "--map", map]).output().code(0);
            let plan = || {
                let planned = env.hamper(["plan", "--json"]).map(map).set(&user).env("TOKEN", "t").payload(["true"]).output().ok();
                serde_json::from_str::<Value>(&planned).expect("JSON")["steps"].clone()
            };
            let before = tree(env.root());
            let foreseen = plan();
            assert_same(&before, &tree(env.root()), "plan");
            env.run_profile().map(map).set(&user).env("TOKEN", "t").probe("exit 0").code(0);
            assert_eq!(foreseen, plan(), "{map} {user}");
        }
    }
}

#[test]
fn a_plan_under_the_host_image_makes_nothing() {
    let env = TestEnv::alone();
    env.profile("image = \"host\"\n");
    makes_nothing(&env, 0);
}

#[test]
fn the_steps_printed_are_the_steps_run() {
    let env = TestEnv::new();
    rich(&env, "scratch", "time = \"1m\"");
    for map in maps() {
        let steps = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["steps"].clone();
        env.run_profile().map(map).env("TOKEN", "t").probe("exit 0").code(0);
        let planned = env.hamper(["plan", "--json"]).map(map).env("TOKEN", "t").payload(["true"]).output().ok();
        let report = env.root().join("report.json");
        env.hamper(["run", "--report", &report.display().to_string()]).map(map).env("TOKEN", "t").payload(["true"]).output().code(0);
        let run = steps(&std::fs::read_to_string(&report).expect("report"));
        assert_eq!(steps(&planned), run, "{map}");
        let human = env.hamper(["plan"]).map(map).env("TOKEN", "t").payload(["true"]).output().ok();
        assert_eq!(
            human.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).count(),
            run.as_array().expect("list").len()
        );
        let dry = env.hamper(["run", "--dry-run"]).map(map).env("TOKEN", "t").payload(["true"]).output().ok();
        assert_eq!(dry, human);
    }
}

#[test]
fn a_report_tells_what_was_asked_and_got() {
    let env = TestEnv::new();
    let report = env.root().join("report.json");
    let path = report.display().to_string();
    let run = |payload: &str| -> Value {
        drop(env.run("busybox").args(["--report", &path]).probe(payload).any());
        serde_json::from_str(&std::fs::read_to_string(&report).expect("report")).expect("JSON")
    };
    let value = run("exit 3");
    assert_eq!(value["schema"], 1);
    assert_eq!(value["exit"]["code"], 3);
    assert_eq!(value["exit"]["by"], "payload");
    assert!(value["failed"].is_null());
    let names: Vec<&str> = value["protections"].as_array().expect("list").iter().filter_map(|one| one["name"].as_str()).collect();
    for name in ["namespaces", "landlock", "seccomp", "capabilities", "no_new_privs", "id maps"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(run("raise 9")["exit"]["signal"], 9);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&report).expect("report").permissions().mode() & 0o777, 0o600);
    // The payload never ran: no exit, but what failed.
    env.run("busybox").args(["--report", &path]).payload(["no-such-program"]).output().code(127);
    let value: Value = serde_json::from_str(&std::fs::read_to_string(&report).expect("report")).expect("JSON");
    assert!(value["exit"].is_null(), "{value}");
    assert_eq!(value["failed"]["errno"], 2);
    // What may degrade and was not had.
    let value = {
        env.profile(&format!("image = \"{}\"\n[project]\nprotect = [\"no/such/file\"]\n", image("busybox")));
        env.hamper(["trust", "hamper.toml"]).output().code(0);
        env.run_profile().args(["--report", &path]).probe("exit 0").code(0).told(&["not protected: no/such/file does not exist"]);
        serde_json::from_str::<Value>(&std::fs::read_to_string(&report).expect("report")).expect("JSON")
    };
    assert_eq!(value["degraded"][0]["what"], "protect");
    env.run_profile().set("require=[\"protect\"]").probe("exit 0").code(125).told(&["protect", "no/such/file"]);
}

#[test]
fn a_secret_is_not_in_plan_or_report() {
    let env = TestEnv::new();
    rich(&env, "scratch", "time = \"1m\"");
    let report = env.root().join("report.json");
    env.run_profile().env("TOKEN", "hush-hush").args(["--report", &report.display().to_string()]).probe("exit 0").code(0);
    assert!(!std::fs::read_to_string(&report).expect("report").contains("hush-hush"));
}

#[test]
fn a_report_goes_where_it_can_or_the_payload_does_not_run() {
    let env = TestEnv::new();
    let closed = env.directory("closed");
    let mark = env.project().join("mark");
    let run = |report: &str| env.run("busybox").args(["--project", ".", "--report", report, "--entrypoint", ""]);
    let touch = ["sh", "-c", "echo ran > mark; exit 3"];
    run(&closed.display().to_string()).payload(touch).output().code(125).told(&["closed", "directory"]);
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o500)).expect("mode");
    run(&closed.join("x").display().to_string()).payload(touch).output().code(125).told(&["closed/x", "denied"]);
    assert!(!mark.exists());
    // What goes wrong only when it is written.
    run("/dev/full").payload(touch).output().code(125).told(&["the payload ran and ended with code 3", "No space left"]);
    assert!(mark.exists());
    // Into what is open already, and into pipes.
    for name in ["-", "/dev/stdout", "/dev/fd/1"] {
        let out = run(name).payload(["true"]).output().ok();
        assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["exit"]["code"], 0);
    }
    let pipe = env.root().join("pipe").display().to_string();
    env.program("mkfifo", [pipe.as_str()]).output().code(0);
    let line = run(&pipe).payload(["true"]).words();
    let out = env.program("sh", ["-c", &format!("cat {pipe} & {line}; wait")]).output().ok();
    assert!(out.contains("\"exit\""), "{out}");
    let line = env.run("busybox").args(["--entrypoint", ""]).words();
    let out = env.program("bash", ["-c", &format!("{line} --report >(cat) -- true; sleep 0.3")]).output().ok();
    assert!(out.contains("\"exit\""), "{out}");
}

#[test]
fn an_earlier_report_is_not_taken_for_this_runs() {
    let env = TestEnv::new();
    let report = env.root().join("report.json");
    let path = report.display().to_string();
    let read = || serde_json::from_str::<Value>(&std::fs::read_to_string(&report).expect("report")).expect("JSON");
    env.run("busybox").args(["--report", &path]).probe("exit 0").code(0);
    assert_eq!(read()["exit"]["code"], 0);
    env.run("oci:/no/such/place").args(["--report", &path]).probe("exit 0").code(125);
    let value = read();
    assert!(value["exit"].is_null() && value["failed"]["what"].as_str().is_some_and(|what| what.contains("/no/such/place")), "{value}");
    assert_eq!(value["failed"]["errno"], 2);
    env.run("busybox").args(["--report", &path, "--set", "no.such=1"]).probe("exit 0").code(125);
    assert!(read()["failed"]["errno"].is_null());
}
