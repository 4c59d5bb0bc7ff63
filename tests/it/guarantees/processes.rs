//! Processes of the host do not exist inside; init is pid 1, and nobody can touch it.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::support::{TestEnv, maps};

#[test]
fn processes_of_the_host_do_not_exist() {
    let env = TestEnv::new();
    for map in maps() {
        for image in ["busybox", "host"] {
            let own = std::process::id();
            let out = env.run(image).map(map).probe(&format!("ls /proc -- kill {own} 0 -- ptrace {own} -- session")).code(0);
            let processes: Vec<&str> =
                out.stdout.lines().filter_map(|line| line.strip_prefix("entry ")).filter(|name| name.parse::<u32>().is_ok()).collect();
            assert_eq!(processes, ["1", "2"], "{map}");
            // The test's own process, by its number, is nobody inside.
            assert_eq!(out.value(&format!("kill {own}:")), "ESRCH");
            assert_eq!(out.value(&format!("ptrace {own}:")), "ESRCH");
            assert!(out.stdout.contains("pid 2 parent 1 "), "{}", out.stdout);
        }
    }
    let own = std::process::id();
    let control = env.program(&crate::support::probe().display().to_string(), ["kill", &own.to_string(), "0"]).output().code(0);
    assert_eq!(control.value(&format!("kill {own}:")), "ok", "the control");
}

#[test]
fn init_cannot_be_killed_traced_or_read() {
    let env = TestEnv::new();
    for map in maps() {
        for user in ["0", "1000"] {
            let run = || env.run("busybox").map(map).args(["-u", user]);
            let out = run().probe("kill 1 9 -- kill 1 15 -- kill 1 19 -- ptrace 1 -- memory /proc/1/mem -- ls /proc/1/fd -- readlink /proc/1/ns/pid -- session").code(0);
            // A signal from inside to pid 1 is dropped by the kernel, or refused: the payload goes on.
            assert_eq!(out.value("ptrace 1:"), "EPERM", "{map} {user}");
            assert_eq!(out.value("memory /proc/1/mem:"), "EACCES", "{map} {user}");
            assert!(out.stdout.contains("pid 2 parent 1"), "{}", out.stdout);
            assert!(!out.stdout.contains("entry "), "its descriptors: {}", out.stdout);
        }
    }
    // The control: a child of one's own can be traced, with the dev preset.
    let out = env.run("busybox").sh("sleep 5 & /probe ptrace $!; kill $!").code(0);
    assert!(out.stdout.contains(": ok"), "{}", out.stdout);
    let out = env.run("busybox").set("security.seccomp=strict").sh("sleep 5 & /probe ptrace $!; kill $!").code(0);
    assert!(out.stdout.contains(": EPERM"), "{}", out.stdout);
}

/// Landlock keeps such signals back as well, on newer kernels: here it is off.
#[test]
fn init_passes_no_signal_of_the_payload_on() {
    let env = TestEnv::new();
    for map in maps() {
        let run = || env.run("busybox").map(map).set("security.landlock=off");
        // Right at the start, and when init has gone to rest.
        for pause in ["0", "0.6"] {
            let script = format!("sleep {pause}; /probe kill 1 15 -- kill 1 10 -- kill 1 2 -- queue 1 15 -- queue 1 1; sleep 0.4; exit 7");
            let out = run().sh(&script).code(7);
            assert!(["kill", "queue"].iter().all(|verb| out.answers(verb).iter().all(|(_, result)| result == "ok")), "{}", out.stdout);
            // The control: init passes on what comes from outside.
            let script = format!("sleep {pause}; echo ready; exec sleep 60");
            let mut child = run().args(["--entrypoint", ""]).payload(["sh", "-c", &script]).spawn();
            child.await_line("ready");
            child.signal(rustix::process::Signal::TERM);
            child.output().code(143);
        }
    }
}

#[test]
fn init_reaps_orphans_and_ends_with_the_payload() {
    let env = TestEnv::new();
    // Orphans that have ended are no zombies.
    let out = env.run("busybox").sh("(sleep 0 & sleep 0 & ) ; sleep 1; ps -o pid,stat | grep -c Z").any();
    assert_eq!(out.stdout.trim(), "0", "{}", out.stderr);
    // Orphans that have not are ended.
    for map in maps() {
        env.run("busybox").map(map).args(["--entrypoint", ""]).payload(["/probe", "orphan"]).measured().code(0).left_nothing();
    }
}

/// Also many, and such as take their time: each has the standard error, whose end comes with that of the last.
#[test]
fn whatever_the_payload_has_left_has_ended_when_its_end_is_told() {
    let env = TestEnv::new();
    let script = "/probe hold 200 & /probe hold 200 & i=0; while [ $i -lt 400 ]; do sleep 1000 & i=$((i+1)); done; sleep 1; echo $i";
    for map in maps() {
        let mut run = env.run("busybox").map(map).args(["--entrypoint", ""]).payload(["sh", "-c", script]).spawn();
        run.await_line("400");
        let status = run.child.wait().expect("wait");
        let mut held = [PollFd::new(run.child.stderr.as_ref().expect("stderr"), PollFlags::IN)];
        poll(&mut held, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll");
        let held = held[0].revents();
        assert!(held.contains(PollFlags::HUP), "{map}: somebody has it still: {held:?}");
        assert_eq!(status.code(), Some(0));
    }
}

/// With CAP_SETUID and without CAP_KILL a payload leaves processes that init cannot signal: the kernel ends them with init.
#[test]
fn what_init_cannot_end_keeps_nobody_waiting_under_a_range() {
    // Where there is no range, nobody has another id.
    if !maps().contains(&"range") {
        return;
    }
    let env = TestEnv::new();
    env.run("debian").map("range").sh("true").code(0);
    let run = |caps: &str| {
        let script = "setpriv --reuid 5 --clear-groups sh -c 'echo left; exec sleep 100' & sleep 1; kill -0 $! && echo may";
        let began = Instant::now();
        let out = env.run("debian").map("range").set(&format!("security.caps={caps}")).payload(["sh", "-c", script]).output().any();
        // One that waits for them takes more than 30 s.
        assert!(began.elapsed() < Duration::from_secs(25), "{caps}: {:?}", began.elapsed());
        out.stdout
    };
    assert_eq!(run("[\"SETUID\", \"SETGID\"]"), "left\n");
    assert_eq!(run("[\"SETUID\", \"SETGID\", \"KILL\"]"), "left\nmay\n");
}

#[test]
fn without_an_init_the_payload_is_pid_one() {
    let env = TestEnv::new();
    let out = env.run("busybox").set("lifecycle.init=false").probe("session -- exit 7").code(7);
    assert!(out.stdout.contains("pid 1 parent 0"), "{}", out.stdout);
    env.run("busybox").set("lifecycle.init=false").sh("kill -9 $$; exit 3").code(3);
}

#[test]
fn message_queues_and_shared_memory_are_the_sandboxs_own() {
    let env = TestEnv::new();
    let namespaces = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("readlink /proc/self/ns/")).map(str::to_owned).collect()
    };
    let verbs = "readlink /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/user /proc/self/ns/cgroup";
    let inside = env.run("busybox").probe(verbs).code(0);
    let outside = env.program(&crate::support::probe().display().to_string(), verbs.split(' ')).output().code(0);
    let (inside, outside) = (namespaces(&inside.stdout), namespaces(&outside.stdout));
    assert_eq!(inside.len(), 7, "{inside:?}");
    for (one, other) in inside.iter().zip(&outside) {
        assert_ne!(one, other);
    }
}

#[test]
fn the_keyring_is_the_sandboxs_own() {
    let env = TestEnv::new();
    // keyctl(2) is 250; KEYCTL_GET_KEYRING_ID is 0, of the session -3.
    let out = env.run("busybox").probe("syscall 250 0 -3 0").code(0);
    assert_ne!(out.value("syscall 250:").split(' ').next(), Some("ok"), "{}", out.stdout);
    let control = env.run("busybox").set("security.seccomp=none").probe("syscall 250 0 -3 0").code(0);
    assert!(control.value("syscall 250:").starts_with("ok"), "the control: {}", control.stdout);
}
