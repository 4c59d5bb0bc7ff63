//! However a run with limits ends, it ends as one without, and leaves no cgroup.

use rustix::process::Signal;

use super::*;
use crate::support::pty::Pty;
use crate::support::{Output, Seen};

/// With limits that hold, or it would not start.
fn held(run: Hamper) -> Hamper {
    ["limits.memory=64M", "limits.pids=20", "limits.cpus=1.5", "limits.on_missing=error"].into_iter().fold(run, Hamper::set)
}

fn free(run: Hamper) -> Hamper {
    run
}

/// The same once without limits and once with them: the same code and words, these.
#[track_caller]
fn alike(env: &TestEnv, code: i32, words: &str, end: impl Fn(Hamper) -> Output) {
    let [free, held] = [free, held].map(|limits| {
        let seen = end(limits(run(env).args(["--project", ".", "--entrypoint", ""]))).any();
        assert!(within(5.0, || ours().is_empty()), "{:?} {seen:?}", ours());
        (seen.status.code(), seen.stdout, seen.stderr)
    });
    assert_eq!(free, held);
    assert_eq!((held.0, held.2.as_str()), (Some(code), words));
}

#[test]
fn the_ends_of_a_payload_are_those_without_limits() {
    let _alone = alone();
    let env = TestEnv::new();
    env.file("plain", "#!/bin/sh\n");
    let sh = |script: &'static str| move |run: Hamper| run.payload(["sh", "-c", script]).output();
    alike(&env, 0, "error\n", sh("echo out; echo error >&2"));
    alike(&env, 3, "error\n", sh("echo out; echo error >&2; exit 3"));
    // The kernel kills so, and so does a limit of memory.
    alike(&env, 137, "", sh("kill -9 $$"));
    alike(&env, 143, "", sh("kill -15 $$"));
    let hint = "hint: a missing interpreter or loader of the program looks the same as a missing program";
    let words = format!("hamper: cannot execute `no-such-program`: No such file or directory (os error 2)\n{hint}\n");
    alike(&env, 127, &words, |run| run.payload(["no-such-program"]).output());
    alike(&env, 126, "hamper: cannot execute `./plain`: Permission denied (os error 13)\n", |run| run.payload(["./plain"]).output());
    alike(&env, 124, "hamper: the time limit was reached\n", |run| run.set("limits.time=1s").payload(["sleep", "1000"]).output());
    // What fails in the sandbox before the payload is there.
    let words = "hamper: cannot change to /etc/passwd: Not a directory (os error 20)\n";
    alike(&env, 125, words, |run| run.args(["-w", "/etc/passwd"]).payload(["true"]).output());
}

#[test]
fn a_run_whose_output_is_closed_ends_as_without_limits() {
    let _alone = alone();
    let env = TestEnv::new();
    let line = |line: &'static str, script: &'static str| {
        let env = &env;
        move |run: Hamper| {
            let words = run.payload(["sh", "-c", script]).words();
            env.program("bash", ["-c", &line.replace("RUN", &words)]).in_session().output()
        }
    };
    alike(&env, 0, "", line("RUN >&-", "echo out"));
    alike(&env, 0, "code=141\n", line("(RUN; echo code=$? >&2) | head -n 1", "while echo out; do :; done"));
}

#[test]
fn a_signal_ends_a_run_as_without_limits() {
    let _alone = alone();
    let env = TestEnv::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        // A payload that is ended, and one that ends when it is told.
        for (script, code) in [("exec sleep 1000", code), ("trap 'exit 7' TERM INT HUP QUIT; while :; do read line; done", 7)] {
            for (limits, count) in [(free as fn(Hamper) -> Hamper, 0), (held, 1)] {
                let child = begun(limits(run(&env)), script);
                let own = format!("/hamper-{}", child.pid());
                assert_eq!(ours().iter().filter(|path| path.ends_with(&own)).count(), count, "{:?}", ours());
                child.signal(signal);
                assert_eq!(child.output().code(code).silent().stdout, "");
                assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
            }
        }
    }
}

#[test]
fn the_keys_of_a_terminal_do_what_they_do_without_limits() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    for limits in [free, held] {
        let words = |script: &str| {
            let run = limits(env.run("busybox")).args(["--entrypoint", ""]).payload(["sh", "-c", script]);
            format!("XDG_RUNTIME_DIR=/run/user/$(id -u) {}", run.words())
        };
        // Ended from the keyboard.
        let mut pty = Pty::new();
        pty.start(&format!("{}; echo code=$?", words("echo ready; exec sleep 1000")), &env);
        pty.expect("ready\r\n");
        pty.send("\x03");
        assert_eq!(pty.expect("code=130\r\n"), "^Ccode=130\r\n");
        let _ = pty.wait();
        assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
        // Stopped, and begun again.
        let mut pty = Pty::new();
        pty.start("exec dash -i", &env);
        pty.expect("$ ");
        pty.send(&format!("{}\r", words("echo ready; read x; echo got $x; exit 5")));
        pty.expect("ready\r\n");
        pty.send("\x1a");
        pty.expect("Stopped");
        pty.expect("$ ");
        pty.send("fg\r");
        assert!(within(5.0, || pty.is_raw()), "it has the terminal again");
        pty.send("word\r");
        pty.expect("got word\r\n");
        assert_eq!(pty.expect("$ "), "$ ");
        pty.send("echo code=$?\r");
        pty.expect("code=5\r\n");
        pty.send("exit\r");
        let _ = pty.wait();
        assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    }
}

/// The words of the steps of a plan.
fn steps(plan: Hamper) -> Vec<String> {
    let human = plan.output().code(0).silent().stdout;
    human.lines().filter_map(|line| line.trim_start().split_once("  ")).map(|(_, words)| words.to_owned()).collect()
}

#[test]
fn a_start_that_fails_at_any_step_leaves_no_cgroup() {
    let _alone = alone();
    let env = TestEnv::new();
    let call = |command: &str, limits: fn(Hamper) -> Hamper| {
        limits(env.hamper([command]).image("busybox").in_session()).args(["--entrypoint", ""]).payload(["true"])
    };
    call("run", free).output().code(0).silent();
    let (before, all) = (steps(call("plan", free)), steps(call("plan", held)));
    assert!(all.len() > before.len() && before.len() > 30, "{before:?} {all:?}");
    let fail = |limits, step: usize| -> Seen {
        let seen = call("run", limits).env("HAMPER_FAIL_AT", format!("{step}:5")).output().any();
        assert!(within(5.0, || ours().is_empty()), "{step}: {:?} {seen:?}", ours());
        seen
    };
    for (step, words) in all.iter().enumerate() {
        let seen = fail(held, step);
        let code = if words.starts_with("execute ") { 126 } else { 125 };
        assert_eq!((seen.status.code(), seen.stdout.as_str()), (Some(code), ""), "{words}: {}", seen.stderr);
        if let Some(step) = before.iter().position(|other| other == words) {
            let free = fail(free, step);
            assert_eq!((free.status.code(), free.stderr), (seen.status.code(), seen.stderr), "{words}");
        }
    }
}
