//! A failure at each step of a plan: the right code, the right words, and nothing left behind.

use serde_json::Value;

use crate::support::rich::rich;
use crate::support::tree::{is_recycled, names};
use crate::support::{TestEnv, has_rung, maps, within};

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;

#[test]
fn a_failure_at_each_step() {
    for map in maps() {
        for root in ["scratch", "ro", "keep"] {
            let env = TestEnv::alone();
            rich(&env, root, "");
            let call = || env.hamper(["run"]).map(map).env("TOKEN", "t").payload(["true"]);
            let first = call().output().any();
            if first.status.code() == Some(0) && first.stderr.contains("HAMPER_FAIL_AT") {
                continue;
            }
            assert_eq!(first.status.code(), Some(0), "{}", first.stderr);
            let plan = env.hamper(["plan", "--json"]).map(map).env("TOKEN", "t").payload(["true"]).output().ok();
            let plan: Value = serde_json::from_str(&plan).expect("JSON");
            let human = env.hamper(["plan"]).map(map).env("TOKEN", "t").payload(["true"]).output().ok();
            let words: Vec<&str> = human.lines().filter_map(|line| line.trim_start().split_once("  ")).map(|(_, words)| words).collect();
            let count = plan["steps"].as_array().expect("steps").len();
            assert!(count >= 35, "{count}");
            assert!(within(10.0, || trash_is_empty(&env)));
            let everything = || [names(&env.store()), names(&env.state()), names(&env.root().join("run")), names(&env.project())].concat();
            let known = everything();
            for (step, what) in words.iter().enumerate().take(count) {
                let out = call().env("HAMPER_FAIL_AT", format!("{step}:{EIO}")).measured();
                let code = if step == count - 1 { 126 } else { 125 };
                let out = out.code(code).told(&[cited(what), "Input/output error"]);
                let mut lines = out.stderr.lines();
                assert!(lines.next().is_some_and(|line| line.starts_with("hamper: cannot ")), "{}", out.stderr);
                assert_eq!(out.stdout, "", "the payload has not run");
                out.left_nothing();
            }
            call().env("HAMPER_FAIL_AT", format!("{}:{ENOENT}", count - 1)).output().code(127);
            call().env("HAMPER_FAIL_AT", format!("{}:{EACCES}", count - 1)).output().code(126);
            assert!(within(10.0, || trash_is_empty(&env)));
            let left: Vec<_> = everything().into_iter().filter(|path| !known.contains(path) && !is_recycled(path)).collect();
            assert!(left.is_empty(), "{map} {root}: {left:?}");
            call().output().code(0);
        }
    }
}

fn trash_is_empty(env: &TestEnv) -> bool {
    std::fs::read_dir(env.store().join("trash")).map_or(true, |mut trash| trash.next().is_none())
}

#[test]
fn a_failure_under_the_host_image() {
    let env = TestEnv::new();
    env.profile("image = \"host\"\n");
    let call = || env.hamper(["run"]).payload(["true"]);
    call().output().code(0);
    let human = env.hamper(["plan"]).payload(["true"]).output().ok();
    let words: Vec<&str> = human.lines().filter_map(|line| line.trim_start().split_once("  ")).map(|(_, words)| words).collect();
    for (step, words) in words.iter().enumerate() {
        let code = if words.starts_with("execute ") { 126 } else { 125 };
        call().env("HAMPER_FAIL_AT", format!("{step}:{EIO}")).measured().code(code).told(&[cited(words)]).left_nothing();
    }
}

#[test]
fn a_failure_without_namespaces() {
    let env = TestEnv::alone();
    if !has_rung(&env) {
        return;
    }
    env.profile("image = \"host\"\nisolation = \"landlock\"\n[limits]\nulimits = { nofile = 256 }\n");
    let call = || env.hamper(["run"]).payload(["true"]);
    call().output().code(0);
    let human = env.hamper(["plan"]).payload(["true"]).output().ok();
    let words: Vec<&str> = human
        .lines()
        .filter_map(|line| line.split_at_checked(5))
        .filter(|(number, _)| !number.trim().is_empty())
        .map(|(_, words)| words)
        .collect();
    assert!(words.len() > 20, "{human}");
    assert!(within(10.0, || trash_is_empty(&env)));
    let everything = || [names(&env.store()), names(&env.state()), names(&env.project())].concat();
    let known = everything();
    for (step, words) in words.iter().enumerate() {
        let code = if words.starts_with("execute ") { 126 } else { 125 };
        // EPERM is what a machine without namespaces says: here it must not lead anywhere.
        for errno in [EIO, 1] {
            let out = call().env("HAMPER_FAIL_AT", format!("{step}:{errno}")).measured().code(code).told(&[cited(words)]);
            assert_eq!(out.stdout, "", "the payload has not run");
            out.left_nothing();
        }
    }
    call().output().code(0);
    assert!(within(10.0, || trash_is_empty(&env)));
    let left: Vec<_> = everything().into_iter().filter(|path| !known.contains(path) && !is_recycled(path)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_failure_at_a_terminal() {
    use crate::support::pty::Pty;
    let env = TestEnv::new();
    // A plan loads nothing.
    env.run("busybox").sh("true").code(0);
    let hamper = env.run("busybox").args(["--entrypoint", ""]).payload(["true"]);
    let words = hamper.words();
    let human = Pty::new().run(&words.replacen("'run'", "'plan'", 1), &env);
    let step = human.lines().find(|line| line.contains("open a pseudo-terminal")).expect("a terminal in the plan");
    let number: u32 = step.split_whitespace().next().and_then(|word| word.parse().ok()).expect("number");
    for at in [number, number + 3] {
        let mut pty = Pty::new();
        let before = format!("{:?}", pty.settings());
        pty.start(&format!("HAMPER_FAIL_AT={at}:{EIO} {words}"), &env);
        assert_eq!(pty.wait().code(), Some(125), "{}", pty.shown());
        assert!(pty.shown().contains("Input/output error"), "{}", pty.shown());
        assert_eq!(format!("{:?}", pty.settings()), before);
    }
}

/// A step as an error tells it: of a command its first word alone.
fn cited(words: &str) -> &str {
    if words == "execute true" { "execute `true`" } else { words }
}
