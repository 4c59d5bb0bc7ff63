//! What needs cgroups that are delegated, as the user manager of a usual host does.

use std::process::Command;
use std::time::Duration;

use super::*;
use crate::support::{Child, maps, slow, within};

mod bombs;
mod ends;
mod told;

pub(super) fn run(env: &TestEnv) -> Hamper {
    env.run("busybox").in_session().limit(Duration::from_secs(60))
}

/// Starts a script that says when it runs.
fn begun(run: Hamper, script: &str) -> Child {
    let script = format!("echo begun; {script}");
    let mut child = run.args(["--entrypoint", ""]).payload(["sh", "-c", &script]).spawn();
    child.await_line("begun");
    child
}

/// The cgroups of ours that there are.
pub(super) fn ours() -> Vec<String> {
    let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "hamper*"]).output().expect("find");
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

/// A shell's function: the CPU time of the sandbox until now, in microseconds, and the clock's hundredths.
const USED: &str = "used() { while read k v; do [ $k = usage_usec ] && u=$v; done < /sys/fs/cgroup/cpu.stat; read t r < /proc/uptime; }
    spin() { read b r < /proc/uptime; b=${b%.*}; while read e r < /proc/uptime; [ $((${e%.*} - b)) -lt $1 ]; do :; done; }";

#[test]
fn a_hog_dies_and_nothing_else_does() {
    let _alone = alone();
    let env = TestEnv::new();
    let other = begun(run(&env).set("limits.memory=64M"), "read line; echo $line");
    let hog = || run(&env).set("limits.memory=64M").set("limits.swap=0");
    hog().sh("dd if=/dev/zero of=/dev/null bs=200M count=1").code(137);
    // All of it, and not that process alone: what watches it would go on, and so would what it is beside.
    let seen = hog().sh("sleep 1000 & dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?; echo survived; wait").code(137);
    assert_eq!(seen.told(&["hamper: memory limit 64 MiB reached; killed by the kernel"]).stdout, "");
    let mut other = other;
    use std::io::Write;
    other.child.stdin.take().expect("stdin").write_all(b"alive\n").expect("write");
    assert_eq!(other.output().ok().trim(), "alive");
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
}

#[test]
fn a_payload_above_memory_high_gives_back_and_goes_on() {
    let _alone = alone();
    let env = TestEnv::new();
    // Pages of a file, which can be had anew.
    let script = "dd if=/dev/zero of=/big bs=1M count=96 2>/dev/null; cd /sys/fs/cgroup; cat memory.current; grep -w high memory.events";
    let figures = |run: Hamper| -> (u64, u64) {
        let out = run.sh(script).code(0).silent().stdout;
        let numbers: Vec<u64> = out.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[1])
    };
    let (free, _) = figures(run(&env).set("limits.memory=512M"));
    assert!(free > 90 << 20, "{free}");
    let (held, reclaims) = figures(run(&env).set("limits.memory_high=32M"));
    assert!(held < 48 << 20 && reclaims > 0, "{held} {reclaims}");
}

/// With the range map, capabilities and nested namespaces, a payload can give cgroups to another of its ids: of a run that ends they go with it, of
/// one that is killed the next takes them away.
#[test]
fn cgroups_that_a_payload_has_given_away_are_removed_under_a_range() {
    // Where there is no range, there is no other id.
    if !maps().contains(&"range") {
        return;
    }
    let _alone = alone();
    let env = TestEnv::new();
    let limits = |run: Hamper| run.in_session().set("limits.memory=64M").set("limits.swap=0").set("security.nested_userns=true");
    // By perl, since who has no map keeps no capability over execve(2) here: the three namespaces, and then the words for a shell.
    let given = |after: &str| {
        r#"perl -e 'syscall(272, 0x12020000) == 0 or die; for (1..300) { open(M, "/proc/self/gid_map") and <M> and last; select(undef, undef, undef, .1) }
            exec "sh", "-c", $ARGV[0]' 'mkdir -p /tmp/x; mount -t cgroup2 none /tmp/x && cd /tmp/x && mkdir -p a/b && chown 1:1 a/b a && chmod 700 a &&
            echo given; AFTER' &
            for i in $(seq 300); do [ $(readlink /proc/$!/ns/user) = $(readlink /proc/$$/ns/user) ] || break; sleep 0.1; done
            for map in uid_map gid_map; do /usr/bin/printf '0 0 1\n1 1 99\n' >/proc/$!/$map; done; wait"#
            .replace("AFTER", after)
    };
    let range =
        |script: &str| limits(env.run("debian")).map("range").set("security.caps=[\"@root\", \"SETFCAP\"]").payload(["bash", "-c", script]);
    let made = range(&given("true")).output().any().code(0);
    assert_eq!((made.stdout.as_str(), made.stderr.as_str()), ("given\n", ""));
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    let mut child = range(&given("sleep 100")).spawn();
    assert_eq!(child.await_line("\n"), "given\n");
    child.signal(rustix::process::Signal::KILL);
    let _ = child.output().any();
    range("true").output().any().code(0);
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
}

/// Who can make a cgroup namespace and mount in it is above all cgroups that it makes, and not above its limits.
#[test]
fn a_payload_that_can_mount_lifts_no_limit_and_leaves_nothing() {
    let _alone = alone();
    let env = TestEnv::new();
    let script = "unshare -U -r -m -C sh -c 'mkdir -p /tmp/x; mount -t cgroup2 none /tmp/x && mkdir /tmp/x/in && mkdir /tmp/x/in/deep; \
                  echo 0 >/tmp/x/in/cgroup.procs; unshare -C sh -c \"echo max >/tmp/x/memory.max; echo max >/tmp/x/../memory.max\"' 2>/dev/null; \
                  dd if=/dev/zero of=/dev/null bs=200M count=1";
    let limits = |run: Hamper| run.in_session().set("limits.memory=64M").set("limits.swap=0").set("security.nested_userns=true");
    let seen = limits(env.run("host")).payload(["sh", "-c", script]).output().any();
    seen.code(137).told(&["memory limit 64 MiB reached"]);
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    // Closed to everybody.
    let closed = "unshare -U -r -m -C sh -c 'mkdir -p /tmp/x; mount -t cgroup2 none /tmp/x && cd /tmp/x && mkdir -p a/b/c d && chmod 0 a/b d && \
                  chmod 500 a && chmod 0 . && echo closed' 2>/dev/null";
    let made = limits(env.run("host")).payload(["sh", "-c", closed]).output().any().code(0);
    assert_eq!((made.stdout.as_str(), made.stderr.as_str()), ("closed\n", ""));
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    // Deeper and wider than anybody would look.
    let tree = "unshare -U -r -m -C sh -c 'mkdir -p /tmp/x; mount -t cgroup2 none /tmp/x && cd /tmp/x && mkdir a && i=0; \
                while mkdir b$i 2>/dev/null; do i=$((i+1)); done; cd a; while mkdir d 2>/dev/null && cd d; do i=$((i+1)); done; echo $i'";
    let made = limits(env.run("host")).payload(["sh", "-c", tree]).output().any().code(0);
    assert!(made.stdout.trim().parse::<u32>().is_ok_and(|count| count > 500), "{}", made.stdout);
    assert!(!made.stderr.contains("cannot remove"), "{}", made.stderr);
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    // The control: it has namespaces and mounts of its own.
    let made = "unshare -U -r -m -C sh -c 'mkdir -p /tmp/x; mount -t cgroup2 none /tmp/x && mkdir /tmp/x/in && echo made'";
    let made = limits(env.run("host")).payload(["sh", "-c", made]).output().any();
    assert_eq!(made.code(0).stdout.trim(), "made");
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
}

/// What stands in the caller's cgroup, which is the user's own in a scope of the service manager, is not the payload's to end.
#[test]
fn a_payload_that_can_mount_ends_nobody_else() {
    let _alone = alone();
    let env = TestEnv::new();
    let hamper = crate::support::hamper().display().to_string();
    let script = env.project().join("script");
    std::fs::write(
        &script,
        "unshare -U -r -m -C sh -c 'mkdir -p /tmp/x; mount -t cgroup2 none /tmp/x; mkdir /tmp/x/in; echo 0 >/tmp/x/in/cgroup.procs
        echo begun; unshare -C sh -c \"echo 1 >/tmp/x/cgroup.kill\"; echo alive'",
    )
    .expect("a script");
    let seen = |property: &str, more: &str| {
        let run = format!("{hamper} run --image host --set security.nested_userns=true {more} --entrypoint '' -- sh script; echo ended $?");
        let program = env.program("systemd-run", ["--user", "--scope", "-q", property, "sh", "-c", &run]).in_session();
        program.env("XDG_RUNTIME_DIR", format!("/run/user/{}", rustix::process::getuid().as_raw())).output().any()
    };
    // It ends all that is in its own.
    let own = seen("-pMemoryMax=infinity", "").code(0);
    assert_eq!(own.stdout, "begun\nended 137\n", "{}", own.stderr);
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    // The control: where it can have none, which is told, it ends the shell as well.
    let none = seen("-pMemoryMax=900M", "");
    assert!(!none.status.success(), "{}", none.stderr);
    assert_eq!(none.told(&["hamper: a cgroup of its own: none: a payload that mounts cgroups can end all"]).stdout, "begun\n");
    let refused = seen("-pMemoryMax=900M", "--set 'require=[\"cgroup\"]'").code(0);
    assert_eq!(refused.stdout, "ended 125\n", "{}", refused.stderr);
}

/// Killed for want of memory that another limit, around the sandbox, does not give.
#[test]
fn a_limit_around_the_sandbox_is_not_called_its_own() {
    let _alone = alone();
    let env = TestEnv::new();
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    env.run("busybox").sh("true").code(0);
    let dd = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let around = |limits: &str, command: &str| {
        let run = format!("{hamper} run --image {image} --entrypoint '' {limits} -- {command}; echo ended $?");
        let script = format!(
            "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $C/tools $C/around; echo $BASHPID > $C/tools/cgroup.procs
            echo +memory +pids > $C/cgroup.subtree_control; echo 100M > $C/around/memory.max; echo 0 > $C/around/memory.swap.max
            mkdir $C/around/own; bash -c \"echo \\$BASHPID > $C/around/own/cgroup.procs; {}\" 2>&1",
            run.replace("$?", "\\$?")
        );
        in_unit(&env, &script)
    };
    let seen = around("--set limits.memory=1G", dd);
    assert!(seen.contains("for want of memory: not at a limit of this profile") && seen.contains("ended 137"), "{seen}");
    let seen = around("--set limits.pids=50", dd);
    assert!(seen.contains("for want of memory: not at a limit of this profile") && seen.contains("ended 137"), "{seen}");
    let seen = around("--set limits.pids=50", &format!("sh -c '{dd}; exit $?'"));
    assert!(seen.contains("hamper: the kernel has killed 1 of its processes for want of memory") && seen.contains("ended 137"), "{seen}");
    let seen = around("--set limits.memory=50M --set limits.swap=0", dd);
    assert!(seen.contains("memory limit 50 MiB reached") && seen.contains("ended 137"), "{seen}");
}

/// Limits that the caller stands under are not left behind for those that it asks for.
#[test]
fn a_scope_does_not_leave_the_limits_of_a_unit() {
    let _alone = alone();
    let env = TestEnv::new();
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    env.run("busybox").sh("true").code(0);
    let run = |more: &[&str]| {
        let words = ["--user", "--scope", "-q", "-p", "MemoryMax=100M", "-p", "MemorySwapMax=0", &hamper, "run", "--image", &image];
        let words = words.into_iter().chain(["--entrypoint", "", "--set", "limits.pids=50"]).chain(more.iter().copied());
        let command = ["--", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
        let program = env.program("systemd-run", words).in_session();
        program.env("XDG_RUNTIME_DIR", format!("/run/user/{}", rustix::process::getuid().as_raw())).args(command).output().any()
    };
    let seen = run(&[]);
    assert!(!seen.status.success(), "{}", seen.stderr);
    let _ = seen.told(&["pids.max = 51", "has a limit of its own (memory."]);
    let _ = run(&["--set", "limits.on_missing=error"]).code(125).told(&["pids.max = 51"]);
}

/// Nor are other things that a unit does to those that are in it.
#[test]
fn a_scope_does_not_leave_what_a_unit_confines() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    let unit = |property: &str, more: &str| {
        let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
        let run = format!("{hamper} run --image {image} --entrypoint '' --set limits.pids=50 {more} -- echo ran; echo $?");
        in_unit_with(&env, &[property], &run)
    };
    let seen = unit("-pIPAddressDeny=any", "");
    assert!(seen.contains("pids.max = 51: ") && seen.contains("confines what runs in it (IPAddressDeny="), "{seen}");
    assert!(seen.contains("ran\n0\n"), "{seen}");
    let seen = unit("-pIPAddressDeny=any", "--set limits.on_missing=error");
    assert!(seen.contains("confines what runs in it") && seen.contains("125\n") && !seen.contains("ran\n"), "{seen}");
    // The control: one that confines nothing is left.
    assert_eq!(unit("-pNice=1", "--set limits.on_missing=error"), "ran\n0\n");
    let seen = unit("-pTasksMax=100", "--set limits.on_missing=error");
    assert!(seen.contains("(TasksMax=100)") && seen.contains("125\n"), "{seen}");
    // For all whose names begin like its own.
    let root = |script: &str| assert!(Command::new("sudo").args(["-n", "sh", "-c", script]).status().expect("sudo").success());
    let directory = "/run/systemd/system/run-.service.d";
    root(&format!("mkdir {directory}; printf '[Service]\nIPAddressDeny=any\n' >{directory}/tests.conf; systemctl daemon-reload"));
    let seen = unit("-pNice=1", "--set limits.on_missing=error");
    root(&format!("rm -r {directory}; systemctl daemon-reload"));
    assert!(seen.contains("(IPAddressDeny=any)") && seen.contains("125\n"), "{seen}");
}

/// Also what stands below the scope's own manager. The number of processes is one that managers set for all, so that a file tells.
#[test]
fn a_scope_does_not_leave_what_a_users_unit_confines() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let runtime = format!("/run/user/{}", rustix::process::getuid().as_raw());
    let seen = |properties: &[&str], strict: bool| {
        let unit = ["--user", "--scope", "-q"].into_iter().chain(properties.iter().copied());
        let words = unit.chain([&*hamper, "run", "--image", &image, "--entrypoint", "", "--set", "limits.pids=50"]);
        let strict = ["--set", "limits.on_missing=error"].into_iter().filter(|_| strict);
        let program = env.program("systemd-run", words).in_session().env("XDG_RUNTIME_DIR", &runtime);
        program.args(strict).args(["--", "echo", "ran"]).output().any()
    };
    let told = "confines what runs in it (TasksMax=20)";
    assert_eq!(seen(&["-pTasksMax=20"], false).code(0).told(&["pids.max = 51: ", told]).stdout, "ran\n");
    assert_eq!(seen(&["-pTasksMax=20"], true).code(125).told(&["pids.max = 51", told]).stdout, "");
    // The control: in a scope that says nothing of its own there are the manager's usual ones, which are no limit.
    assert_eq!(seen(&[], true).code(0).silent().stdout, "ran\n");
    // For all whose names begin like its own.
    let directory = env.config().join("systemd/user/run-.scope.d");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("tests.conf"), "[Scope]\nTasksMax=20\n").expect("a file");
    assert_eq!(seen(&[], true).code(125).told(&[told]).stdout, "");
    std::fs::remove_dir_all(&directory).expect("a directory");
}

/// A sandbox beside the cgroup that hamper stands in is not under the limits of that.
#[test]
fn a_limit_of_ones_own_that_does_not_hold_is_told() {
    let _alone = alone();
    let unit = Killed::new();
    let run = |more: &str| unit.run(&format!("--set limits.cpus=1 {more}"), "true");
    let (warn, strict) = (run(""), run("--set limits.on_missing=error"));
    for (file, value) in [("memory.max", "104857600"), ("pids.max", "40"), ("cpu.max", "50000 100000")] {
        let lines = unit.lines(&format!(
            "mkdir $C/leaf; echo {value} > $C/leaf/{file}; {warn} 2>&1 | grep -c 'no limit'
            sh -c \"echo 0 > $C/leaf/cgroup.procs; {warn} 2>&1 | grep 'no limit'; {strict} 2>&1; echo ended \\$?\"; true"
        ));
        assert_eq!(lines.first().map(String::as_str), Some("0"), "{lines:?}");
        assert!(lines[1].starts_with(&format!("hamper: {file} = {value}: no limit: hamper stands under it")), "{lines:?}");
        assert!(lines[2].contains(&format!("it would leave a limit that hamper stands under ({file} = {value})")), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("ended 125"), "{lines:?}");
    }
}

#[test]
fn a_share_of_a_processor_is_that_share() {
    let _alone = alone();
    let env = TestEnv::new();
    let script = format!("{USED}\nspin 1; used; a=$u; s=$t; spin 12; used; echo $a $u $s $t");
    let start = |cpus: f64| begun(run(&env).set(&format!("limits.cpus={cpus}")), &script);
    in_time(|| {
        let both = [0.5, 0.25].map(|asked| (start(asked), asked));
        let ratios = both.map(|(child, asked)| {
            let out = child.output().ok();
            let numbers: Vec<f64> = out.split_whitespace().map(|word| word.parse().expect("a number")).collect();
            (numbers[1] - numbers[0]) / 1e6 / (numbers[3] - numbers[2]) / asked
        });
        // What it is not given, it may not have wanted; what it is given beyond is no limit.
        assert!(ratios.iter().all(|ratio| *ratio < 1.1), "{ratios:?}");
        (ratios.iter().all(|ratio| *ratio > 0.9), format!("{ratios:?}"))
    });
}

/// An emulator that gets no processor itself for a while gives none: one measurement of three without that will do.
#[track_caller]
fn in_time(measure: impl Fn() -> (bool, String)) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (good, words) = measure();
        seen.push(words);
        if good {
            return;
        }
    }
    panic!("{seen:?}");
}

#[test]
fn weights_divide_what_is_there() {
    let _alone = alone();
    let env = TestEnv::new();
    // Both want all processors for all of the time that is measured: more loops than processors, so that none is left to one alone.
    let go = env.project().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 1; done", go.display());
    let script = format!("{USED}\n{wait}; for i in 1 2 3 4; do (spin 22) & done; sleep 3; used; a=$u; sleep 15; used; echo $a $u; wait");
    let start = |weight: u32| begun(run(&env).set(&format!("limits.cpu_weight={weight}")), &script);
    let used = |child: Child| {
        let out = child.output().ok();
        let numbers: Vec<f64> = out.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        numbers[1] - numbers[0]
    };
    in_time(|| {
        let (light, heavy) = (start(100), start(300));
        std::fs::write(&go, "").expect("go");
        let (light, heavy) = (used(light), used(heavy));
        std::fs::remove_file(&go).expect("go");
        let ratio = heavy / light;
        ((ratio / 3.0 - 1.0).abs() < 0.15, format!("{heavy} / {light} = {ratio}"))
    });
}

#[test]
fn who_is_killed_leaves_nothing() {
    let _alone = alone();
    let env = TestEnv::new();
    let begun = || begun(run(&env).set("limits.memory=64M"), "sleep 1000");
    let own = |child: &Child| format!("/hamper-{}", child.pid());
    let is_there = |name: &str| ours().iter().any(|path| path.ends_with(name));
    let seconds = 5.0 / f64::from(slow());
    // Beside others, and as the last.
    let mut runs = [begun(), begun(), begun()].map(|child| (own(&child), child)).into_iter().collect::<Vec<_>>();
    while let Some((name, child)) = runs.pop() {
        assert!(is_there(&name), "{:?}", ours());
        child.signal(rustix::process::Signal::KILL);
        assert!(within(seconds, || !is_there(&name)), "{name}: {:?}", ours());
        assert_eq!(child.output().any().status.code(), None);
        assert!(runs.iter().all(|(name, _)| is_there(name)), "{:?}", ours());
    }
    assert!(within(seconds, || ours().is_empty()), "{:?}", ours());
}

#[test]
fn a_hundred_at_once_have_their_limits_and_leave_nothing() {
    let _alone = alone();
    let env = TestEnv::new();
    let mut children: Vec<(u32, Child)> = Vec::new();
    for number in 1..=100 {
        let memory = format!("limits.memory={}M", 32 + number);
        let run = run(&env).set(&memory).set(&format!("limits.pids={}", number + 4)).limit(Duration::from_secs(120));
        let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; echo begun; read line";
        children.push((number, run.args(["--entrypoint", ""]).payload(["sh", "-c", script]).spawn()));
    }
    for (number, child) in &mut children {
        for wanted in [((32 + u64::from(*number)) << 20).to_string(), (*number + 5).to_string(), "begun".into()] {
            assert_eq!(child.await_line("\n").trim(), wanted, "sandbox {number}");
        }
    }
    assert_eq!(ours().iter().filter(|path| path.contains("hamper.scope/hamper-")).count(), 100);
    // One scope for all of them.
    assert_eq!(ours().iter().filter(|path| path.ends_with(".scope")).count(), 1);
    for (_, mut child) in children {
        drop(child.child.stdin.take());
        child.output().any();
    }
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
}

/// A script of the user who runs the tests, or of the other one of this host, in a session of her own.
fn of(env: &TestEnv, who: &str, script: &str) -> Hamper {
    match who {
        "eve" => env.program("/run/tests/as", ["eve", "bash", "-c", script]),
        _ => env.program("bash", ["-c", script]),
    }
}

/// A user's sandbox, which goes on.
struct Theirs {
    who: &'static str,
    cgroup: String,
    process: String,
    store: String,
}

impl Theirs {
    fn new(env: &TestEnv, who: &'static str, store: String) -> Self {
        let slice = format!("/user-{}.slice/", of(env, who, "id -u").output().ok().trim());
        let found = of(env, who, "find /sys/fs/cgroup -type d -name 'hamper-*' 2>/dev/null; true").output().ok();
        let found: Vec<&str> = found.lines().filter(|path| path.contains(&slice)).collect();
        let [cgroup] = &found[..] else { panic!("{who} has one sandbox: {found:?}") };
        let processes = of(env, who, &format!("cat {cgroup}/cgroup.procs")).output().ok();
        let process = processes.lines().next().expect("a process").to_owned();
        Self { who, cgroup: (*cgroup).to_owned(), process, store }
    }

    /// What its owner can see and do, and the words by which another user is refused.
    fn acts(&self) -> Vec<(String, &'static str)> {
        let Self { cgroup, process, store, .. } = self;
        let denied = [
            format!("cat {cgroup}/cgroup.procs {cgroup}/memory.current"),
            // How many there are, and what they use together.
            format!("D=$(dirname {cgroup}); ls $D; cat $D/memory.current $D/pids.current"),
            format!("echo 32M > {cgroup}/memory.high"),
            format!("echo max > {cgroup}/memory.max"),
            format!("mkdir {cgroup}/x && rmdir {cgroup}/x"),
            // From below the user's own manager, whose processes may be moved there.
            format!("XDG_RUNTIME_DIR=/run/user/$(id -u) systemd-run --user --scope -q bash -c 'echo $$ > {cgroup}/cgroup.procs'"),
            format!("ls {store}"),
            format!("ls /run/user/$(stat -c %u $(dirname {cgroup}))"),
        ];
        let denied = denied.into_iter().map(|act| (act, "Permission denied"));
        denied.chain([(format!("kill -0 {process}"), "Operation not permitted")]).collect()
    }

    fn kill(&self) -> (String, &'static str) {
        (format!("echo 1 > {}/cgroup.kill", self.cgroup), "Permission denied")
    }

    /// Refused to the other user for the reason that it should be, and the control: not to the owner.
    #[track_caller]
    fn is_the_owners(&self, env: &TestEnv, other: &Self, (act, words): (String, &str)) {
        refused(env, other.who, &act, words);
        of(env, self.who, &act).output().code(0).silent();
    }
}

#[track_caller]
fn refused(env: &TestEnv, who: &str, act: &str, words: &str) {
    let seen = of(env, who, act).output().any();
    assert!(!seen.status.success() && seen.stderr.contains(words), "{who}: {act}: {seen:?}");
}

#[test]
fn another_user_neither_sees_nor_touches_it() {
    let _alone = alone();
    let env = TestEnv::alone();
    // A session of hers works, and a program of her own.
    assert_eq!(of(&env, "eve", "id -un").output().code(0).silent().stdout, "eve\n");
    let program = std::fs::File::open(crate::support::hamper()).expect("hamper");
    let mut copy = of(&env, "eve", "mkdir -p project && cat >hamper && chmod 755 hamper").into_command();
    assert!(copy.stdin(program).status().expect("a copy").success());
    let image = crate::support::image("busybox");
    let eves = format!("cd project && exec ../hamper run --image {image} --entrypoint '' --set limits.memory=48M --set limits.swap=0 --");
    // Both at once, each under the limit that was asked for.
    let script = "echo begun; cat /sys/fs/cgroup/memory.max; read line";
    let run = run(&env).set("limits.memory=64M").args(["--entrypoint", ""]).payload(["sh", "-c", script]);
    let mut runs = [(run, 64 << 20), (of(&env, "eve", &format!("{eves} sh -c '{script}'")), 48 << 20)].map(|(run, most)| {
        let mut child = run.spawn();
        child.await_line("begun");
        assert_eq!(child.await_line("\n").trim(), u32::to_string(&most));
        child
    });
    of(&env, "eve", &format!("{eves} dd if=/dev/zero of=/dev/null bs=200M count=1"))
        .output()
        .code(137)
        .told(&["memory limit 48 MiB reached"]);
    let home = of(&env, "eve", "echo ~").output().ok();
    let dev = Theirs::new(&env, "dev", env.store().display().to_string());
    let eve = Theirs::new(&env, "eve", format!("{}/.local/share/hamper", home.trim()));
    for (one, other) in [(&dev, &eve), (&eve, &dev)] {
        one.acts().into_iter().for_each(|act| one.is_the_owners(&env, other, act));
        // Nor is a process of one moved under the limits of the other.
        refused(&env, one.who, &format!("echo {} > {}/cgroup.procs", other.process, one.cgroup), "Permission denied");
    }
    for ((one, other), child) in [(&dev, &eve), (&eve, &dev)].into_iter().zip(&mut runs) {
        assert!(child.child.try_wait().expect("wait").is_none(), "{} goes on", one.who);
        one.is_the_owners(&env, other, one.kill());
    }
    for child in runs {
        child.output().code(125).told(&["hamper: the sandbox was killed\n"]);
    }
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
}

/// Runs a script in a unit of the system's manager whose cgroup is delegated to this user.
fn in_unit(env: &TestEnv, script: &str) -> String {
    in_unit_with(env, &["-pDelegate=yes"], script)
}

fn in_unit_with(env: &TestEnv, properties: &[&str], script: &str) -> String {
    let user = format!("--uid={}", rustix::process::getuid().as_raw());
    let home = format!("--setenv=HOME={}", env.home().display());
    let data = format!("--setenv=XDG_DATA_HOME={}", env.store().display());
    let directory = format!("-pWorkingDirectory={}", env.project().display());
    let unit = ["-n", "systemd-run", "-q", "--pipe", "--wait", &user, &home, &data, &directory];
    let out = Command::new("sudo").args(unit).args(properties).args(["bash", "-c", script]).output().expect("a unit");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}");
    text
}

#[test]
fn a_cgroup_that_is_delegated_is_taken_without_asking_anybody() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    let hamper = crate::support::hamper().display().to_string();
    let image = crate::support::image("busybox");
    let words = format!("--image {image} --entrypoint '' --set limits.memory=64M");
    // Alone in it: it steps aside.
    let alone = in_unit(&env, &format!("exec {hamper} run {words} -- cat /sys/fs/cgroup/memory.max"));
    assert_eq!(alone.trim(), "67108864");
    let plan = in_unit(&env, &format!("exec {hamper} plan {words} -- true"));
    assert!(plan.contains("make a cgroup in our own, /sys/fs/cgroup/system.slice/"), "{plan}");
    // Others stand below, and nobody in it.
    let aside = "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $C/shell; echo $BASHPID > $C/shell/cgroup.procs";
    let beside = in_unit(&env, &format!("{aside}; {hamper} run {words} -- cat /sys/fs/cgroup/memory.max && ls -d $C/*/"));
    let lines: Vec<&str> = beside.lines().collect();
    assert_eq!(lines.first(), Some(&"67108864"), "{beside}");
    assert!(lines.len() == 2 && lines[1].ends_with("/shell/"), "{beside}");
    // Others stand in it: they are not moved, and it is not divided.
    let plan = in_unit(&env, &format!("{hamper} plan {words} -- true; true"));
    assert!(!plan.contains("in our own,") && !plan.contains("make a cgroup in /sys"), "{plan}");
    let others = "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); sleep 1000 & S=$!";
    let still = "grep -cxe $BASHPID -e $S $C/cgroup.procs; cat $C/cgroup.subtree_control; ls -d $C/*/ 2>/dev/null; kill $S";
    let run = in_unit(&env, &format!("{others}; {hamper} run {words} -- cat /sys/fs/cgroup/memory.max; {still}; true"));
    assert_eq!(run, "67108864\n2\n", "{run}");
    // A unit that its manager keeps for itself is left to it.
    let words: Vec<&str> = words.split(' ').map(|word| word.trim_matches('\'')).collect();
    let kept = env
        .program("systemd-run", ["--user", "--scope", "-q", &hamper, "plan"])
        .in_session()
        // A session that has told nobody where it is.
        .env("XDG_RUNTIME_DIR", format!("/run/user/{}", rustix::process::getuid().as_raw()))
        .args(words)
        .args(["--", "true"])
        .output()
        .ok();
    assert!(!kept.contains("in our own,"), "{kept}");
}

/// The words of a run with limits that goes on, a script, and a caller of systemd's programs as a user has them.
fn service(env: &TestEnv) -> (String, impl Fn(&str, &[&str]) + '_) {
    env.run("busybox").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let run = format!("{hamper} run --image {image} --entrypoint '' --set limits.pids=9 -- sleep 1000");
    let own = [format!("-pWorkingDirectory={}", env.project().display()), format!("--setenv=XDG_DATA_HOME={}", env.store().display())];
    let user = move |program: &str, words: &[&str]| {
        let own = own.iter().filter(|_| program == "systemd-run").map(String::as_str);
        let run = env.program(program, ["--user", "-q"]).in_session();
        let run = run.env("XDG_RUNTIME_DIR", format!("/run/user/{}", rustix::process::getuid().as_raw()));
        run.args(own.chain(words.iter().copied())).output().code(0);
    };
    (run, user)
}

/// The cgroups of single runs whose payload has begun.
fn busy() -> Vec<String> {
    let has_two =
        |path: &String| std::fs::read_to_string(format!("{path}/pids.current")).is_ok_and(|text| !matches!(text.trim(), "0" | "1"));
    ours().into_iter().filter(|path| path.contains("/hamper-")).filter(has_two).collect()
}

/// A run leaves the cgroup of a service for its limits, and does not outlive it for that.
#[test]
fn who_stops_a_service_stops_the_runs_in_it() {
    let _alone = alone();
    let env = TestEnv::new();
    let (run, user) = service(&env);
    let stubborn = run.replace("sleep 1000", "sh -c \"trap : TERM; while :; do sleep 1000; done\"");
    assert_ne!(run, stubborn);
    // The second kills what is not the first process of the service at once; in the third and fourth the payload does not go by itself.
    for (mode, run) in [("control-group", &run), ("mixed", &run), ("control-group", &stubborn), ("mixed", &stubborn)] {
        let mode = format!("-pKillMode={mode}");
        let words = ["--unit=service-of-tests", "--collect", "-pTimeoutStopSec=2", &mode, "sh", "-c", &format!("{run}; true")];
        user("systemd-run", &words);
        assert!(within(20.0, || busy().len() == 1), "{:?}", ours());
        user("systemctl", &["stop", "service-of-tests"]);
        assert!(within(5.0, || ours().is_empty()), "{mode} {run}: {:?}", ours());
    }
    // Also one that somebody has stopped, and with it whatever its manager sends to the first process alone, or to all that cannot be held.
    let stop = ["stop", "service-of-tests"].as_slice();
    for (mode, act) in [("control-group", stop), ("mixed", stop), ("mixed", &["kill", "-s", "KILL", "service-of-tests"])] {
        let property = format!("-pKillMode={mode}");
        let words = ["--unit=service-of-tests", "--collect", "-pTimeoutStopSec=2", &property, "sh", "-c", &format!("{run}; true")];
        user("systemd-run", &words);
        assert!(within(20.0, || busy().len() == 1), "{:?}", ours());
        let parent = busy()[0].rsplit_once("/hamper-").expect("a number").1.parse().ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(parent.expect("a process"), rustix::process::Signal::STOP).expect("stopped");
        user("systemctl", act);
        assert!(within(5.0, || ours().is_empty()), "{mode} {act:?}: {:?}", ours());
    }
}

/// Its manager ends all that is left in the service then, and what cleans up among it.
#[test]
fn who_is_killed_in_a_service_leaves_nothing_beside_others() {
    let _alone = alone();
    let env = TestEnv::new();
    let (run, user) = service(&env);
    let other = begun(super::delegated::run(&env).set("limits.pids=9"), "sleep 1000");
    for turn in 0..5 {
        user("systemd-run", &["--unit=service-of-tests", "--collect", "sh", "-c", &format!("exec {run}")]);
        assert!(within(20.0, || busy().len() == 2), "{:?}", ours());
        user("systemctl", &["kill", "--kill-who=main", "-s", "KILL", "service-of-tests"]);
        assert!(within(5.0, || busy().len() == 1 && ours().len() == 2), "{turn}: {:?}", ours());
    }
    assert!(busy()[0].ends_with(&format!("/hamper-{}", other.pid())));
    other.signal(rustix::process::Signal::TERM);
    other.output().any();
    assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
}

/// A unit in which a run is killed: shell words that await its sandbox, kill it and what else is said, and await its end.
pub(super) struct Killed {
    env: TestEnv,
    words: String,
}

impl Killed {
    pub fn new() -> Self {
        let env = TestEnv::new();
        env.run("busybox").sh("true").code(0);
        let words = format!("{} run --image {} --entrypoint ''", crate::support::hamper().display(), crate::support::image("busybox"));
        Self { env, words }
    }

    /// The lines of a script, without those of a shell that tells who was killed.
    pub fn lines(&self, script: &str) -> Vec<String> {
        let script = format!(
            "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); O=$C/own; mkdir $C/tools $O; echo $BASHPID > $C/tools/cgroup.procs
            echo +cpu +memory +pids > $C/cgroup.subtree_control
            busy() {{ grep -qs populated.1 $1/cgroup.events; }}
            within_five() {{ for i in $(seq 50); do \"$@\" && return; sleep 0.1; done; echo not within 5 s: \"$@\": $(cd $C; ls -d */ own/*/; cat own/cgroup.subtree_control own/*/cgroup.procs); }}
            {script}"
        );
        let seen = in_unit(&self.env, &script);
        seen.lines().filter(|line| !line.contains("Killed")).map(str::to_owned).collect()
    }

    pub fn run(&self, limits: &str, command: &str) -> String {
        format!("{} {limits} -- {command}", self.words)
    }

    /// Alone in its own cgroup, leading a session.
    pub fn alone(&self, limits: &str, command: &str) -> String {
        format!("setsid bash -c \"echo \\$BASHPID > $O/cgroup.procs; exec {}\"", self.run(limits, command))
    }
}

#[test]
fn who_is_killed_in_a_delegated_cgroup_leaves_nothing() {
    let _alone = alone();
    let unit = Killed::new();
    // Beside another in a cgroup above; the second with all of its process group.
    let run = unit.run("--set limits.memory=64M", "sleep 1000");
    let lines = unit.lines(&format!(
        "for i in 1 2 3; do setsid {run} & done; sleep 1
        set -- $(jobs -p); for p; do until busy $C/hamper-$p; do sleep 0.1; done; done
        gone() {{ [ ! -e $C/hamper-$1 ]; }}
        kill -9 $1; within_five gone $1; kill -9 -$2; within_five gone $2
        busy $C/hamper-$3 && echo the third goes on; kill $3; wait $3; ls -d $C/hamper* 2>/dev/null; true"
    ));
    assert_eq!(lines, ["the third goes on"]);
    // Alone in one that no manager takes away: nobody has to tidy up before the next can enter it.
    let (killed, next) = (unit.alone("--set limits.memory=64M --set limits.pids=20", "sleep 1000"), unit.alone("", "echo next"));
    let lines = unit.lines(&format!(
        "{killed} & P=$!; until busy $O/hamper-sandbox; do sleep 0.1; done; cat $O/cgroup.subtree_control
        gone() {{ ! ls -d $O/*/ >/dev/null 2>&1; }}
        kill -9 $P; within_five gone; echo divided: $(cat $O/cgroup.subtree_control); {next}; true"
    ));
    assert_eq!(lines, ["memory pids", "divided:", "next"]);
}

#[test]
fn what_was_killed_with_its_cleanup_is_no_hindrance() {
    let _alone = alone();
    let unit = Killed::new();
    let next = unit.alone("--set limits.memory=32M", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max");
    // The second stands one cgroup below its limits.
    for (more, below) in [("", None), ("--set security.nested_userns=true", Some("hamper-sandbox/payload/"))] {
        let killed = unit.alone(&format!("--set limits.memory=64M --set limits.pids=20 {more}"), "sleep 1000");
        let lines = unit.lines(&format!(
            "{killed} & P=$!; until busy $O/hamper-sandbox; do sleep 0.1; done
            # And newuidmap, where it is not over yet.
            cleanup=$(grep -vx $P $O/hamper-parent/cgroup.procs); kill -STOP $cleanup 2>/dev/null; kill -9 $P $cleanup 2>/dev/null
            while busy $O; do sleep 0.1; done
            ls -d $O/*/ $O/*/payload/ 2>/dev/null | sed 's|.*/own/||'
            echo -memory -pids > $O/cgroup.subtree_control; {next} 2>&1; ls -d $O/*/ 2>/dev/null; true"
        ));
        let left = ["hamper-parent/", "hamper-sandbox/"].into_iter().chain(below);
        // The limit of the first is not that of the second, and nothing is left in the end.
        let next = ["33554432", "cat: can't open '/sys/fs/cgroup/pids.max': No such file or directory"];
        assert_eq!(lines, left.chain(next).collect::<Vec<_>>());
    }
}

/// What has come by the name is another's, and goes on.
#[test]
fn what_cannot_be_removed_is_no_hindrance() {
    let _alone = alone();
    let unit = Killed::new();
    let run = unit.alone("--set limits.pids=20 --set limits.on_missing=error", "cat /sys/fs/cgroup/pids.max");
    let lines = unit.lines(&format!(
        "mkdir $O/hamper-sandbox; sleep 1000 & echo $! > $O/hamper-sandbox/cgroup.procs
        {run} 2>&1; cat $O/hamper-sandbox/cgroup.procs | wc -l; kill $!; wait $!; ls -d $O/*/ | sed 's|.*/own/||'; true"
    ));
    assert_eq!(lines, ["21", "1", "hamper-sandbox/"]);
}

/// System calls until the payload begins, of a run in a delegated cgroup: the fewest of five, since one may have to wait or to tidy up.
fn calls(env: &TestEnv, place: &str, more: &str) -> usize {
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let run = format!("{hamper} run --image {image} --entrypoint '' --set identity.map=single {more} -- true");
    // The tracer stands elsewhere, so that the run can be alone.
    let traced = format!("strace -f -o $HOME/trace bash -c \"echo \\$BASHPID > $C/{place}/cgroup.procs; exec {run}\"");
    // What the parent does beside its child comes before or after what that does, and so does what its cleanup process does, which then waits:
    // five calls. The payload's name lies in memory that a tracer cannot read any more.
    let count = "awk '/resumed|[+][+][+]|---/ { next } NR == 1 { main = $1 } $1 == main && cloned { next } \
                 /setsid[(]/ && !cloned { beside = $1 } $1 == beside && ++others <= 5 { next } { n++ } \
                 $1 == main && /clone3[(]/ { cloned = 1 } /execve[(]0x/ { print n; exit }' $HOME/trace";
    let own = if place == "tools" { "" } else { "echo +cpu +memory +pids > $C/cgroup.subtree_control;" };
    let script = format!(
        "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir -p $C/tools $C/{place}; echo $BASHPID > $C/tools/cgroup.procs; {own}
        for i in 1 2 3 4 5; do {traced}; {count}; done"
    );
    let counts = in_unit(env, &script);
    let counts: Vec<usize> = counts.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{counts}"))).collect();
    assert_eq!(counts.len(), 5);
    counts.into_iter().min().unwrap_or(0)
}

#[test]
fn direct_delegation_costs_few_calls() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").map("single").sh("true").code(0);
    let limits = "--set limits.memory=64M --set limits.pids=20 --set limits.cpus=0.5";
    // Beside its tracer; alone, in a cgroup that a manager removes whole, and in one that has to be tidied.
    let more = ["tools", "own.service", "own"].map(|place| calls(&env, place, limits) - calls(&env, place, ""));
    assert!(more.iter().all(|more| (13..=25).contains(more)), "{more:?}");
}

/// A child whose maps are written by others waits for them, and for nothing of its cgroup.
#[test]
fn direct_delegation_keeps_no_child_waiting() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").map("range").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let run = format!("{hamper} run --image {image} --entrypoint '' --set identity.map=range --set limits.memory=64M -- true");
    // Root traces it, or newgidmap would have no privilege.
    let lines = in_unit(
        &env,
        &format!(
            "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $C/tools; echo $BASHPID > $C/tools/cgroup.procs
            sudo -n strace -u $(id -un) -f -o /tmp/trace-of-tests env HOME=$HOME XDG_DATA_HOME=$XDG_DATA_HOME {run}; echo $?
            awk '/execve[(].*newgidmap/ {{ maps = $1 }} $1 == maps && /exited with 0/ {{ over = NR }} \
                 /memory.oom.group/ && !group {{ group = NR }} END {{ print (over > 0) \" \" (group > over) }}' /tmp/trace-of-tests
            sudo -n rm /tmp/trace-of-tests"
        ),
    );
    assert_eq!(lines, "0\n1 1\n");
}
