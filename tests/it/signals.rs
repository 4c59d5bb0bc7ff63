//! Signals to the parent reach the payload; when the parent is killed, everything goes.

use rustix::process::Signal;

use crate::support::tree::{is_recycled, names};
use crate::support::{TestEnv, descendants, image, is_alive, maps, seconds, ticks, within};

#[test]
fn signals_are_forwarded() {
    let env = TestEnv::new();
    for map in maps() {
        for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1), (Signal::USR1, 10), (Signal::QUIT, 3)] {
            let mut child = env.run("busybox").map(map).args(["--entrypoint", ""]).payload(["/probe", "signal"]).spawn();
            child.await_line("ready");
            child.signal(signal);
            let out = child.output().code(40 + number);
            assert!(out.stdout.contains(&format!("got {number}")), "{}", out.stdout);
        }
    }
}

#[test]
fn a_payload_without_a_handler_is_ended_by_the_signal() {
    let env = TestEnv::new();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let mut child = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; exec sleep 60"]).spawn();
        child.await_line("ready");
        child.signal(signal);
        child.output().code(128 + number);
    }
}

/// Also one that is stopped, which would hear nothing.
#[test]
fn a_payload_that_is_stopped_hears_of_its_time_limit() {
    let env = TestEnv::new();
    let script = "trap 'echo told; exit 3' TERM; echo ready; kill -STOP $$; echo on";
    let run = env.run("busybox").set("limits.time=1s").args(["--entrypoint", ""]).payload(["sh", "-c", script]);
    let seen = run.output().code(124).told(&["the time limit was reached"]);
    assert_eq!(seen.stdout, "ready\ntold\n");
}

/// It rests while the payload takes its time, and ends it when a guarded file is replaced.
#[test]
fn a_payload_that_was_told_to_end_is_watched_on() {
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n", image("busybox")));
    let script = "trap '' TERM; echo ready; sleep 1.5; touch x; mv x y; echo moved; sleep 60";
    let run = env.run_profile().set("limits.time=1s").set("lifecycle.stop_timeout=20s").args(["--entrypoint", ""]);
    let mut child = run.payload(["sh", "-c", script]).spawn();
    child.await_line("moved");
    let before = ticks(child.pid()).expect("running");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let used = ticks(child.pid()).expect("running") - before;
    assert!(used < 50, "{used} hundredths of a second in two seconds");
    env.file("new-file", env.read("hamper.toml"));
    std::fs::rename(env.project().join("new-file"), env.project().join("hamper.toml")).expect("rename");
    let seen = child.output().code(124).told(&["hamper.toml was made or replaced while the sandbox ran", "the time limit was reached"]);
    assert!(seen.took < seconds(5), "{:?}", seen.took);
}

/// The kernel tells a writer whom nobody reads by a signal, which is ours; one that somebody sends is the payload's.
#[test]
fn what_nobody_reads_of_us_ends_no_payload() {
    let env = TestEnv::new();
    let line = env.run("busybox").set("limits.memory=1G").args(["--entrypoint", ""]).payload(["sh", "-c", "sleep 0.5; echo alive"]).words();
    let script = format!("(sleep 0.5; {line} 2>&1 >out; echo $? >code) | true; while ! [ -s code ]; do sleep 0.1; done");
    env.program("bash", ["-c", &script]).output().code(0);
    assert_eq!((env.read("out").as_str(), env.read("code").as_str()), ("alive\n", "0\n"));
    let mut child = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; exec sleep 60"]).spawn();
    child.await_line("ready");
    child.signal(Signal::PIPE);
    child.output().code(141);
}

#[test]
fn the_signal_mask_of_the_payload_is_empty() {
    let env = TestEnv::new();
    let out = env.run("busybox").probe("status").code(0);
    // What the caller ignores stays ignored, as under nohup(1).
    let outside = env.program(&crate::support::probe().display().to_string(), ["status"]).output().code(0);
    assert_eq!(out.value("SigIgn:"), outside.value("SigIgn:"));
    for set in ["SigBlk:", "SigCgt:"] {
        assert_eq!(out.value(set), "0000000000000000", "{set}");
    }
}

#[test]
fn nothing_outlives_the_parent() {
    for map in maps() {
        for init in ["true", "false"] {
            let env = TestEnv::new();
            let script = "echo ready; trap '' HUP TERM INT; (trap '' HUP TERM; exec sleep 600) & setsid sleep 600 & exec sleep 600";
            let run = || env.run("busybox").map(map).set(&format!("lifecycle.init={init}")).args(["--project", ".", "--entrypoint", ""]);
            let mut child = run().payload(["sh", "-c", script]).spawn();
            child.await_line("ready");
            let mut all = Vec::new();
            assert!(
                within(3.0, || {
                    all = descendants(child.pid());
                    all.len() >= 3
                }),
                "{all:?}"
            );
            child.signal(Signal::KILL);
            assert!(within(1.0, || !all.iter().any(|pid| is_alive(*pid))), "{map} init={init}: alive a second later");
            drop(child);
            // The next run cleans up what was left on disk.
            run().payload(["true"]).measured().code(0).left_nothing();
        }
    }
}

#[test]
fn what_a_killed_run_left_is_swept() {
    for map in maps() {
        let env = TestEnv::alone();
        let run = || env.run("busybox").map(map).args(["--entrypoint", ""]);
        // Twice: what the first one makes is the layers, the second one shows what stays.
        run().payload(["true"]).output().code(0);
        let scratch: Vec<_> = names(&env.store());
        let mut child =
            run().payload(["sh", "-c", "mkdir -p /a/b/c; echo data > /a/b/c/d; chmod 0 /a/b; echo ready; exec sleep 60"]).spawn();
        child.await_line("ready");
        child.signal(Signal::KILL);
        drop(child);
        // One run in sixteen looks behind the directory that it has itself.
        let left = || -> Vec<_> { names(&env.store()).into_iter().filter(|path| !scratch.contains(path) && !is_recycled(path)).collect() };
        let swept = within(60.0, || {
            run().payload(["true"]).output().code(0);
            left().is_empty()
        });
        assert!(swept, "{map}: {:?}", left());
    }
}
