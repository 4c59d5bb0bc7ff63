//! Limits. The tests here hold on every host: a limit is there, or it is told of. Those below `delegated` and `on_one_host` need a host that
//! delegates, with users and units as those of `tests/vm` have them: `tests/vm/suite` starts them there alone.

mod delegated;
mod on_one_host;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::support::{Hamper, TestEnv, vm_variant};

/// One test at a time: they look at all cgroups of ours that there are, and at shares of the machine's processors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every limit, with the kernel's file and what it is to hold.
const ALL: [(&str, &str, &str); 8] = [
    ("limits.memory=64M", "memory.max", "67108864"),
    ("limits.memory_high=48M", "memory.high", "50331648"),
    ("limits.swap=0", "memory.swap.max", "0"),
    ("limits.pids=20", "pids.max", "21"),
    ("limits.cpus=0.5", "cpu.max", "50000 100000"),
    ("limits.cpu_weight=50", "cpu.weight", "50"),
    ("limits.cpuset=\"0\"", "cpuset.cpus", "0"),
    ("limits.io_weight=50", "io.weight", "50"),
];

fn limited(env: &TestEnv) -> Hamper {
    ALL.iter().fold(env.run("busybox").in_session(), |run, (set, ..)| run.set(set))
}

/// The files that this host's cgroups hold, as far as they are known: `None` where the host is none of `tests/vm`.
fn held_here() -> Option<&'static [&'static str]> {
    const USUAL: &[&str] = &["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight"];
    match vm_variant()?.as_str() {
        "full-delegation" => {
            // No disk of an emulator is divided by weights.
            Some(&["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight", "cpuset.cpus"])
        }
        "no-delegation" | "no-session" | "cgroup-v1" => Some(&[]),
        _ => Some(USUAL),
    }
}

/// What a report says of limits: by file, what was got.
fn got(report: &Value) -> BTreeMap<String, Option<String>> {
    let list = report["protections"].as_array().expect("protections");
    let limits = list.iter().find(|one| one["name"] == "limits").expect("limits");
    let got = limits["got"].as_object().expect("an object");
    got.iter().map(|(file, one)| (file.clone(), one["got"].as_str().map(str::to_owned))).collect()
}

fn report(env: &TestEnv, run: Hamper, script: &str) -> (crate::support::Seen, Value) {
    let path = env.root().join("report.json").display().to_string();
    let seen = run.args(["--report", &path]).sh(script).any();
    let text = std::fs::read_to_string(&path).expect("report");
    (seen, serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn each_limit_is_there_or_told_of() {
    let _alone = alone();
    let env = TestEnv::new();
    let (seen, report) = report(&env, limited(&env), "for f in /sys/fs/cgroup/*.*; do echo ${f##*/}: $(cat $f 2>&1); done");
    let seen = seen.code(0);
    let got = got(&report);
    let plan = env.hamper(["plan", "--json"]).in_session();
    let plan = ALL.iter().fold(plan.image("busybox"), |plan, (set, ..)| plan.set(set)).output().ok();
    for (_, file, value) in ALL {
        let line = format!("{file} = {value}: ");
        match &got[file] {
            Some(text) => {
                assert_eq!(text.strip_prefix("default ").unwrap_or(text), value, "{file}");
                let inside = seen.stdout.lines().find_map(|line| line.strip_prefix(&format!("{file}: ")));
                assert_eq!(inside, Some(text.as_str()), "{file} as the payload sees it: {}", seen.stdout);
                assert!(!seen.stderr.contains(&line), "{}", seen.stderr);
            }
            None => {
                assert!(seen.stderr.contains(&line), "{file} is not told of: {}", seen.stderr);
                let degraded = report["degraded"].as_array().expect("a list");
                assert!(degraded.iter().any(|one| one["asked"] == format!("{file} = {value}")), "{degraded:?}");
            }
        }
        assert_eq!(plan.contains(&format!("\"file\": \"{file}\"")), got[file].is_some(), "{file}: {plan}");
    }
    if let Some(held) = held_here() {
        let here: Vec<&str> = ALL.iter().map(|(_, file, _)| *file).filter(|file| got[*file].is_some()).collect();
        assert_eq!(here, held);
    }
    // Who does not do without is not started.
    let missing = got.values().any(Option::is_none);
    for strict in ["limits.on_missing=error", "require=[\"cgroup\"]"] {
        let seen = limited(&env).set(strict).sh("echo ran").any();
        if missing {
            let seen = seen.code(125).told(&["hamper doctor"]);
            assert_eq!(seen.stdout, "", "{strict}");
            for (_, file, value) in ALL.iter().filter(|_| !seen.stderr.contains("cgroup is required")) {
                let named = seen.stderr.contains(&format!("{file} = {value} is asked for, and cannot be had: no limit"));
                assert_eq!(named, got[*file].is_none(), "{strict}: {}", seen.stderr);
            }
        } else {
            assert_eq!(seen.code(0).silent().stdout, "ran\n", "{strict}");
        }
    }
}

#[test]
fn limits_that_are_not_asked_for_cost_and_say_nothing() {
    let _alone = alone();
    let env = TestEnv::new();
    let seen = env.run("busybox").in_session().sh("cat /proc/self/cgroup").code(0).silent();
    assert!(!seen.stdout.contains("hamper"), "{}", seen.stdout);
    let plan = env.hamper(["plan"]).in_session().image("busybox").output().ok();
    assert!(!plan.contains("make a cgroup"), "{plan}");
}

/// Whether a file of the kernel holds here.
fn holds(env: &TestEnv, set: &str, file: &str) -> bool {
    let (_, report) = report(env, env.run("busybox").in_session().set(set), "true");
    got(&report)[file].is_some()
}

#[test]
fn bytes_a_second_are_held_on_each_disk_or_told_of() {
    let _alone = alone();
    let env = TestEnv::new();
    let run = || env.run("busybox").in_session().set("limits.io_read=20M").set("limits.io_write=10M");
    let (seen, report) = report(&env, run(), "cat /sys/fs/cgroup/io.max");
    match &got(&report)["io.max"] {
        Some(text) => {
            assert!(text.contains(" rbps=20971520 wbps=10485760 "), "{text}");
            assert_eq!(seen.code(0).silent().stdout.trim(), text);
        }
        None => {
            assert!(seen.stderr.contains("io.max = "), "{}", seen.stderr);
            assert!(seen.stderr.contains("rbps=20971520 wbps=10485760: no limit"), "{}", seen.stderr);
            let strict = run().set("limits.on_missing=error").sh("echo ran").any().code(125).told(&["rbps=20971520 wbps=10485760"]);
            assert_eq!(strict.stdout, "");
        }
    }
}

#[test]
fn memory_ends_at_its_limit() {
    let _alone = alone();
    let env = TestEnv::new();
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    env.run("busybox").in_session().sh(hog).code(0);
    let seen = env.run("busybox").in_session().set("limits.memory=64M").set("limits.swap=0").sh(hog).any();
    if holds(&env, "limits.memory=64M", "memory.max") {
        seen.code(137).told(&["hamper: memory limit 64 MiB reached; killed by the kernel"]);
    } else {
        // Each process by itself.
        assert_ne!(seen.status.code(), Some(0), "{}", seen.stderr);
        env.run("busybox").in_session().set("limits.memory=64M").probe("getrlimit 2").code(0).line("rlimit 2 67108864 67108864");
        // What the profile says of it is not overruled.
        let own = env.run("busybox").in_session().set("limits.memory=64M").set("limits.ulimits={ data = 1073741824 }");
        own.probe("getrlimit 2").code(0).line("rlimit 2 1073741824 1073741824");
    }
}

/// What stands in for a limit is no more than the caller has, who could not raise it.
#[test]
fn what_stands_in_is_no_more_than_there_was() {
    let _alone = alone();
    let env = TestEnv::new();
    let bound = |bounds: &str, set: &str, probe: &str| {
        let run = env.run("busybox").set(set).args(["--entrypoint", ""]);
        let run = run.payload(std::iter::once("/probe").chain(probe.split(' '))).words();
        env.program("bash", ["-c", &format!("{bounds}; exec {run}")]).in_session().output().any()
    };
    for (set, file, bounds, probe, line) in [
        ("limits.memory=2G", "memory.max", "ulimit -d 1000000", "getrlimit 2", "rlimit 2 1024000000 1024000000"),
        ("limits.pids=3000", "pids.max", "ulimit -u 2000", "getrlimit 6", "rlimit 6 2000 2000"),
    ] {
        let told = !holds(&env, set, file);
        let seen = bound(bounds, set, probe).code(0);
        assert!(seen.stdout.contains(line), "{seen:?}");
        assert_eq!(seen.stderr.contains(", as before"), told, "{}", seen.stderr);
    }
}

#[test]
fn processes_end_at_their_limit() {
    let _alone = alone();
    let env = TestEnv::new();
    // Forty that are there at the same time; the shell counts them.
    let bomb = "for i in $(seq 40); do sleep 30 & done; jobs | wc -l; kill $(jobs -p); wait";
    let count = |seen: &crate::support::Seen| seen.stdout.trim().parse::<usize>().unwrap_or(0);
    let free = env.run("busybox").in_session().sh(bomb).any();
    assert_eq!(count(&free), 40, "{}", free.stderr);
    let bound = env.run("busybox").in_session().set("limits.pids=20").sh(bomb).any();
    assert!(count(&bound) < 20, "{}", bound.stdout);
    assert!(bound.stderr.contains("fork"), "{}", bound.stderr);
}

#[test]
fn processors_are_as_many_as_were_asked_for() {
    let _alone = alone();
    let env = TestEnv::new();
    let seen = env.run("busybox").in_session().set("limits.cpuset=\"0\"").sh("grep Cpus_allowed_list /proc/self/status").code(0);
    assert_eq!(seen.stdout.split_whitespace().last(), Some("0"), "{}", seen.stdout);
    let seen = env.run("busybox").in_session().set("limits.cpuset=\"4000\"").sh("echo ran").code(0);
    assert!(seen.stderr.contains("cpuset.cpus = 4000: "), "{}", seen.stderr);
}
