//! `hamper doctor`: its form, its exit codes, and that it says what `run` then does.

use serde_json::Value;

use crate::support::{Hamper, TestEnv};

fn examined(call: Hamper) -> (i32, Value) {
    let out = call.output().any();
    let value = serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", out.stdout, out.stderr));
    (out.status.code().expect("an exit code"), value)
}

/// The words of a call in a user namespace that lets nobody make another.
fn blocked(env: &TestEnv, words: &str) -> Hamper {
    let script = format!("echo 0 >/proc/sys/user/max_user_namespaces && exec {words}");
    env.program("unshare", ["--user", "--map-root-user", "sh", "-c", &script])
}

#[test]
fn the_json_is_whole_and_agrees_with_the_exit_codes() {
    let env = TestEnv::new();
    let (code, value) = examined(env.hamper(["doctor", "--json"]));
    assert_eq!(value["schema"], 1);
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    let findings = value["findings"].as_array().expect("a list");
    let checks: Vec<&str> = findings.iter().map(|one| one["check"].as_str().expect("a name")).collect();
    for check in ["kernel", "user_namespaces", "overlay", "landlock", "seccomp", "subuid"] {
        assert!(checks.contains(&check), "{check} is not in {checks:?}");
    }
    for finding in findings {
        assert!(["ok", "degraded", "missing"].contains(&finding["state"].as_str().expect("a state")), "{finding}");
        assert!(!finding["seen"].as_str().expect("a sentence").is_empty(), "{finding}");
        assert!(finding["remedy"].is_array() && finding["stops"].is_boolean(), "{finding}");
        // What is not there has a way out, or something in its place.
        let helps = finding["instead"].is_string() || finding["remedy"].as_array().is_some_and(|lines| !lines.is_empty());
        assert!(finding["state"] == "ok" || helps, "{finding}");
    }
    let stops = findings.iter().any(|one| one["stops"] == true);
    let complete = findings.iter().all(|one| one["state"] == "ok");
    assert_eq!((&value["can_start"], &value["complete"]), (&Value::Bool(!stops), &Value::Bool(complete)));
    assert_eq!(code, i32::from(stops));
    let (strict, again) = examined(env.hamper(["doctor", "--strict", "--format", "json"]));
    assert_eq!(strict, i32::from(stops || !complete));
    let names =
        |value: &Value| -> Vec<Value> { value["findings"].as_array().expect("a list").iter().map(|one| one["check"].clone()).collect() };
    assert_eq!(names(&again), names(&value));
    // It says what run then does.
    assert_eq!(env.run("busybox").probe("exit 0").any().status.success(), !stops);
}

#[test]
fn people_read_the_same() {
    let env = TestEnv::new();
    let (code, value) = examined(env.hamper(["doctor", "--json"]));
    let out = env.hamper(["doctor"]).output().code(code).silent();
    for finding in value["findings"].as_array().expect("a list") {
        let (check, state) = (finding["check"].as_str().expect("name"), finding["state"].as_str().expect("state"));
        let line = out.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some(check));
        assert!(line.is_some_and(|line| line.starts_with(state)), "{check} {state}: {}", out.stdout);
    }
    let end = out.stdout.lines().rfind(|line| line.starts_with("hamper run ")).unwrap_or_default();
    assert_eq!(end.contains("cannot start"), value["can_start"] == false, "{}", out.stdout);
    assert!(!out.stdout.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn where_user_namespaces_are_blocked_it_says_so_and_run_refuses() {
    let env = TestEnv::new();
    let doctor = env.hamper(["doctor", "--json"]).words();
    let (code, value) = examined(blocked(&env, &doctor));
    assert_eq!((code, &value["can_start"]), (1, &Value::Bool(false)), "{value}");
    let stops: Vec<&Value> = value["findings"].as_array().expect("a list").iter().filter(|one| one["stops"] == true).collect();
    assert!(stops.iter().any(|one| one["check"] == "user_namespaces" && one["remedy"] != serde_json::json!([])), "{stops:?}");
    let run = env.run("busybox").args(["--entrypoint", ""]).payload(["true"]).words();
    blocked(&env, &run).output().code(125).told(&["hint:", "max_user_namespaces"]);
}

#[test]
fn usage_and_surroundings_that_are_wrong() {
    let env = TestEnv::new();
    env.hamper(["doctor", "--no-such-option"]).output().code(2);
    env.hamper(["doctor", "--format", "xml"]).output().code(2);
    env.hamper(["doctor"]).env("HOME", "").output().code(1).told(&["HOME"]);
}
