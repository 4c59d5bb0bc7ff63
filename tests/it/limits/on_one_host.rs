//! What needs disks to be delegated too, and what it is enough to try on one host.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::delegated::{Killed, ours, run};
use super::*;
use crate::support::within;

/// What a run with limits says and takes, in seconds, while something is in its way.
fn hindered(env: &TestEnv, more: impl Fn(Hamper) -> Hamper) -> (crate::support::Seen, f64) {
    let begin = Instant::now();
    let seen = more(run(env).set("limits.pids=9").set("limits.memory=64M")).sh("ulimit -d; echo ran").any();
    (seen, begin.elapsed().as_secs_f64())
}

#[test]
fn a_manager_that_is_stopped_keeps_nobody_waiting() {
    let _alone = alone();
    let env = TestEnv::new();
    let unit = format!("user@{}", rustix::process::getuid().as_raw());
    let manager = Command::new("systemctl").args(["show", "-P", "MainPID", &unit]).output().expect("systemctl").stdout;
    let signal = |name: &str| {
        let words = ["-s", name, String::from_utf8_lossy(&manager).trim()].map(str::to_owned);
        assert!(Command::new("/bin/kill").args(words).status().expect("kill").success());
    };
    signal("STOP");
    let (seen, time) = hindered(&env, |run| run);
    let doctor = env.hamper(["doctor"]).in_session().output().any();
    signal("CONT");
    // What helps a little stands in.
    let seen =
        seen.code(0).told(&["pids.max = 10: ", "it does not answer within 10 s", "each process may have that much data (RLIMIT_DATA)"]);
    assert_eq!((seen.stdout.as_str(), seen.stderr.lines().count()), ("65536\nran\n", 2), "{}", seen.stderr);
    assert!((10.0..25.0).contains(&time), "{time}");
    assert!(doctor.stdout.contains("no cgroup can be made in the scope hamper.scope"), "{}", doctor.stdout);
    // The control: it goes on.
    assert_eq!(run(&env).set("limits.pids=9").sh("cat /sys/fs/cgroup/pids.max").code(0).silent().stdout, "10\n");
}

/// The runtime directory of a user whose manager never comes to the end of a word.
fn dripping(env: &TestEnv) -> std::path::PathBuf {
    let directory = env.root().join("run");
    std::fs::create_dir_all(directory.join("systemd")).expect("a directory");
    let listener = UnixListener::bind(directory.join("systemd/private")).expect("a socket");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.write_all(b"O").is_ok() {
                    std::thread::sleep(Duration::from_millis(300))
                }
            });
        }
    });
    directory
}

#[test]
fn a_socket_that_drips_keeps_nobody_waiting() {
    let _alone = alone();
    let env = TestEnv::new();
    let directory = dripping(&env);
    let (seen, time) = hindered(&env, |run| run.env("XDG_RUNTIME_DIR", &directory));
    assert_eq!(seen.code(0).told(&["pids.max = 10: ", "it does not answer within 10 s"]).stdout, "65536\nran\n");
    assert!((10.0..25.0).contains(&time), "{time}");
}

/// Whose directory it is, and who has a lock on it has the turn.
fn turn(directory: &Path) -> File {
    File::open(directory.join("systemd")).expect("the manager's directory")
}

#[test]
fn another_runs_turn_is_waited_for() {
    let _alone = alone();
    let env = TestEnv::new();
    let words = "hamper: waiting for other runs of this user, which are getting their cgroups: pgrep -a hamper\n";
    for (seconds, told) in [(2, ""), (8, words)] {
        let turn = turn(format!("/run/user/{}", rustix::process::getuid().as_raw()).as_ref());
        turn.lock().expect("the turn");
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds));
            drop(turn);
        });
        let (seen, time) = hindered(&env, |run| run);
        let seen = seen.code(0);
        assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("unlimited\nran\n", told));
        assert!(time > seconds as f64, "{time}");
    }
}

/// While a manager is asked no signal tells that the cgroup has ended in which the run was started.
#[test]
fn whose_caller_ends_while_the_manager_is_asked_ends() {
    let _alone = alone();
    let env = TestEnv::new();
    let directory = dripping(&env);
    let turn = turn(&directory);
    // In the manager's own time, and in that of others, which may be long.
    for (waits, seconds) in [(false, 25.0), (true, 5.0)] {
        let held = || if waits { turn.lock() } else { turn.unlock() };
        held().expect("the turn");
        let run = run(&env).set("limits.pids=9").env("XDG_RUNTIME_DIR", &directory).args(["--entrypoint", ""]).payload(["echo", "ran"]);
        let run = run.spawn();
        let cleanup = || -> Option<i32> {
            let found = Command::new("pgrep").args(["-P", &run.pid().to_string()]).output().expect("pgrep").stdout;
            String::from_utf8_lossy(&found).trim().parse().ok()
        };
        assert!(within(20.0, || cleanup().is_some()), "nothing would clean up");
        let cleanup = cleanup().and_then(rustix::process::Pid::from_raw).expect("a process");
        let begin = Instant::now();
        rustix::process::kill_process(cleanup, Signal::KILL).expect("killed");
        let seen = run.output().code(125).told(&["a process of this run was killed in the cgroup that the run was started in"]);
        assert!(seen.stdout.is_empty() && begin.elapsed().as_secs_f64() < seconds, "{} {:?}", seen.stdout, begin.elapsed());
    }
}

#[test]
fn who_is_stopped_in_his_turn_stops_after_it() {
    let _alone = alone();
    let env = TestEnv::new();
    let directory = dripping(&env);
    let turn = turn(&directory);
    for (signal, ends) in [(Signal::TSTP, true), (Signal::STOP, false)] {
        let run = run(&env).set("limits.pids=9").env("XDG_RUNTIME_DIR", &directory).args(["--entrypoint", ""]).payload(["echo", "ran"]);
        let run = run.stoppable().spawn();
        let free = || turn.try_lock().map(|()| turn.unlock()).is_ok();
        assert!(within(5.0, || !free()), "it has no turn");
        run.signal(signal);
        // For the manager's words it waits ten seconds; a slow machine's seconds are no longer.
        let ended = (0..150).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            free()
        });
        assert_eq!(ended, ends, "{signal:?}");
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", run.pid())).expect("a process");
        assert!(within(1.0, || stat().contains(") T ")), "it is not stopped: {}", stat());
        run.signal(Signal::CONT);
        assert_eq!(run.output().code(0).stdout, "ran\n");
    }
}

#[test]
fn what_is_read_and_written_takes_its_time() {
    let _alone = alone();
    let env = TestEnv::new();
    std::fs::write(env.project().join("file"), vec![1; 6 << 20]).expect("a file");
    let acts = [
        ("limits.io_write=1M", "dd if=/dev/zero of=out bs=64k count=96 oflag=direct"),
        // Written back by the kernel, in the name of who wrote it.
        ("limits.io_write=1M", "dd if=/dev/zero of=out bs=64k count=96 conv=fsync"),
        ("limits.io_read=1M", "dd if=file of=/dev/null bs=64k iflag=direct"),
    ];
    for (set, act) in acts {
        // A file of its own: one that is there already stays its first writer's for a while.
        let script = format!("rm -f out; read a r < /proc/uptime; {act} || exit 1; read b r < /proc/uptime; echo $a $b");
        let seconds = |run: Hamper| -> f64 {
            let out = run.sh(&script).code(0).stdout;
            let numbers: Vec<f64> = out.split_whitespace().map(|word| word.parse().expect("a number")).collect();
            numbers[1] - numbers[0]
        };
        // Six MiB, of which the kernel gives the first fraction of a second in advance.
        let (free, held) = (seconds(run(&env)), seconds(run(&env).set(set)));
        assert!((4.5..12.0).contains(&held) && free < held / 2.0, "{act}: {held} s at 1 MiB a second, {free} s without a limit");
    }
}

/// How often each of two was there when it was killed.
fn there(line: Option<&String>) -> [u32; 2] {
    let numbers: Vec<u32> = line.into_iter().flat_map(|line| line.split(' ').skip(1)).filter_map(|word| word.parse().ok()).collect();
    use std::io::Write;
    writeln!(std::io::stderr(), "there when it was killed: {line:?}").expect("written");
    numbers.try_into().expect("two numbers")
}

/// Also while it begins and ends.
#[test]
fn who_is_killed_at_any_time_leaves_nothing() {
    let _alone = alone();
    let unit = Killed::new();
    let (above, own) = (unit.run("--set limits.memory=64M", "sleep 0.2"), unit.alone("--set limits.memory=64M", "sleep 0.2"));
    let stays = unit.run("--set limits.memory=64M", "sleep 1000");
    let lines = unit.lines(&format!(
        "setsid {stays} & S=$!; until busy $C/hamper-$S; do sleep 0.1; done
        above() {{ [ $(ls -d $C/hamper-*/ | wc -l) = 1 ]; }}
        own() {{ ! ls -d $O/*/ >/dev/null 2>&1 && [ -z \"$(cat $O/cgroup.subtree_control)\" ]; }}
        both() {{ setsid {above} 2>/dev/null & A=$!; {own} 2>/dev/null & B=$!; }}
        # Every other one when there is something to clean up for one of the two; the others at any time until after the end, however long that
        # takes here.
        both; wait $A $B; T=${{EPOCHREALTIME/./}}; both; wait $A $B; T=$((${{EPOCHREALTIME/./}} - T)); X=0 Y=0
        for i in $(seq 40); do
            both; P=$C/hamper-$A; [ $((i % 4)) = 1 ] && P=$O/hamper-sandbox
            if [ $((i % 2)) = 1 ]; then for j in $(seq 20000); do [ -e $P ] && break; done
            else sleep $(printf %d.%06d $((T * i / 33 / 1000000)) $((T * i / 33 % 1000000))); fi
            [ -e $C/hamper-$A ] && X=$((X + 1)); [ -e $O/hamper-sandbox ] && Y=$((Y + 1)); kill -9 $A $B; wait $A $B
            within_five above; within_five own
        done 2>/dev/null
        echo there $X $Y; busy $C/hamper-$S && echo the other goes on; kill $S; wait $S; true"
    ));
    let there = there(lines.first());
    assert!(there.iter().all(|count| (10..=38).contains(count)), "{lines:?}");
    assert_eq!(lines[1..], ["the other goes on"]);
}

/// With all of its group, on a busy machine: the process that cleans up must have left that before there is something to clean up.
#[test]
fn who_is_killed_with_his_group_at_any_time_leaves_nothing() {
    let _alone = alone();
    let unit = Killed::new();
    let (above, own) = (unit.run("--set limits.memory=64M", "true"), unit.alone("--set limits.memory=64M", "true"));
    let lines = unit.lines(&format!(
        "for i in 1 2 3; do while :; do :; done & BUSY=\"$BUSY $!\"; done; X=0 Y=0
        above() {{ ! ls -d $C/hamper-*/ >/dev/null 2>&1; }}
        # The empty directory in which it stood itself may stay where both were killed at once: the next run there takes it over.
        own() {{ ! ls -d $O/hamper-sandbox/ >/dev/null 2>&1 && [ -z \"$(cat $O/cgroup.subtree_control)\" ]; }}
        for i in $(seq 60); do
            [ $((i % 2)) = 0 ] && S=KILL || S=TERM
            # As soon as there is something.
            setsid {above} 2>/dev/null & A=$!; for j in $(seq 20000); do [ -e $C/hamper-$A ] && break; done
            [ -e $C/hamper-$A ] && X=$((X + 1)); kill -$S -$A
            {own} 2>/dev/null & B=$!; for j in $(seq 20000); do [ -e $O/hamper-parent ] && break; done
            sleep 0.0$((i % 4))$((RANDOM % 10)); [ -e $O/hamper-sandbox ] && Y=$((Y + 1)); kill -$S -$B
            within_five above; within_five own; wait $A $B
        done 2>/dev/null
        kill $BUSY; echo there $X $Y"
    ));
    let there = there(lines.first());
    assert!(lines.len() == 1 && there.iter().all(|count| *count >= 5), "{lines:?}");
}

/// Processors that the cgroups above do not have cannot be given, and the kernel gives others.
#[test]
fn processors_that_others_have_are_told() {
    let _alone = alone();
    let env = TestEnv::new();
    let slice = format!("user-{}.slice", rustix::process::getuid().as_raw());
    let allow = |list: &str| {
        let words = ["-n", "systemctl", "set-property", "--runtime", &slice, &format!("AllowedCPUs={list}")].map(str::to_owned);
        assert!(Command::new("sudo").args(words).status().expect("sudo").success());
    };
    let processors = |more: &str| run(&env).set("limits.cpuset=\"1\"").set(more).sh("grep Cpus_allowed_list /proc/self/status").any();
    let free = processors("limits.on_missing=error");
    allow("0");
    let (warn, strict) = (processors("limits.on_missing=warn"), processors("limits.on_missing=error"));
    allow("");
    assert_eq!(free.code(0).silent().stdout, "Cpus_allowed_list:\t1\n");
    let words = "cpuset.cpus = 1: no such limit: the kernel has \"0\" there";
    assert_eq!(warn.code(0).told(&[words]).stdout, "Cpus_allowed_list:\t0\n");
    let _ = strict.code(125).told(&["cpuset.cpus = 1", "the kernel has \"0\" there"]);
}

/// A login session, where the tests stand, is a unit of the system's manager.
#[test]
fn a_scope_does_not_leave_what_a_session_confines() {
    let _alone = alone();
    let env = TestEnv::new();
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("a cgroup");
    assert!(own.contains("/session-"), "these tests stand in no session: {own}");
    let root = |script: &str| assert!(Command::new("sudo").args(["-n", "sh", "-c", script]).status().expect("sudo").success());
    let session = || run(&env).set("limits.pids=50").set("limits.on_missing=error").sh("echo ran").any();
    let directory = "/run/systemd/system/session-.scope.d";
    root(&format!("mkdir {directory}; printf '[Scope]\nIPAddressDeny=192.0.2.1\n' >{directory}/tests.conf"));
    let confined = session();
    root(&format!("rm -r {directory}"));
    assert_eq!(confined.code(125).told(&["confines what runs in it (IPAddressDeny=192.0.2.1)"]).stdout, "");
    assert_eq!(session().code(0).silent().stdout, "ran\n");
}

#[test]
fn few_descriptors_are_too_few_or_enough() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    let (mut worked, mut refused) = (0, 0);
    const MOST: [u32; 12] = [18, 20, 22, 23, 24, 25, 26, 28, 32, 38, 48, 64];
    for most in MOST {
        let words = [format!("--nofile={most}:{most}"), crate::support::hamper().display().to_string(), "run".into(), "--image".into()];
        let words = words.into_iter().chain([crate::support::image("busybox"), "--entrypoint".into(), String::new()]);
        let words = words.chain(["--set", "limits.pids=9", "--set", "limits.on_missing=error", "--", "echo", "ran"].map(str::to_owned));
        let words: Vec<String> = words.collect();
        let seen = env.program("prlimit", []).in_session().args(words.iter().map(String::as_str)).output().any();
        match seen.status.code() {
            Some(0) => worked += usize::from(seen.stdout == "ran\n"),
            Some(125) => refused += usize::from(seen.stderr.contains("hamper: ") && seen.stdout.is_empty()),
            _ => panic!("{most}: {:?} {}", seen.status, seen.stderr),
        }
        assert!(within(5.0, || ours().is_empty()), "{most}: {:?}", ours());
    }
    assert!(worked > 0 && refused > 0 && worked + refused == MOST.len(), "{worked} {refused}");
}
