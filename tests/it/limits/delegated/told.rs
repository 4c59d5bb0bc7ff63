//! What is told of limits: what was used of them, and where one is not there, why, and what to do.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use super::*;
use crate::support::{uid, vm_variant};

#[test]
fn what_was_used_is_told() {
    let _alone = alone();
    let env = TestEnv::new();
    let limits = |run: Hamper| run.set("limits.memory=64M").set("limits.swap=0").set("limits.pids=20").set("limits.cpus=0.2");
    let script = format!("{USED}\nspin 2; used; echo $u; dd if=/dev/zero of=/dev/null bs=32M count=1 2>/dev/null");
    let (seen, told) = report(&env, limits(run(&env)).args(["--verbose"]), &script);
    let seen = seen.code(0);
    let usage = |name: &str| told["usage"][name].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
    let peak = usage("memory_peak");
    assert!((32 << 20..=64 << 20).contains(&peak), "{peak}");
    assert_eq!((usage("memory_oom_kills"), usage("memory_limit_hits"), usage("pids_refused")), (0, 0, 0), "{told}");
    // A fifth of two seconds, and it wanted more.
    let inside: u64 = seen.stdout.trim().parse().expect("a number");
    assert!(inside >= 100_000 && usage("cpu_usec") >= inside, "{inside} {told}");
    assert!(usage("cpu_throttled_periods") >= 5 && usage("cpu_throttled_usec") >= 500_000, "{told}");
    assert!((2..=3).contains(&usage("pids_peak")), "{told}");
    let seconds = |name: &str| format!("{:.2} s", usage(name) as f64 / 1e6);
    let words = [
        format!("hamper: used {} MiB of memory at the most, {} of CPU time, ", peak.div_ceil(1 << 20), seconds("cpu_usec")),
        format!(
            "held back for {} by cpu.max, {} processes at the most, init among them\n",
            seconds("cpu_throttled_usec"),
            usage("pids_peak")
        ),
    ];
    assert!(seen.stderr.contains(&words.concat()), "{words:?}: {}", seen.stderr);
    assert_eq!((&told["exit"]["code"], &told["exit"]["by"]), (&0.into(), &"payload".into()), "{told}");
    // What the kernel ended has its true name.
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let (seen, told) = report(&env, limits(run(&env)).args(["--verbose"]), hog);
    let seen = seen.code(137).told(&["memory limit 64 MiB reached", " kills for want of memory\n"]);
    let exit = &told["exit"];
    assert_eq!((&exit["code"], &exit["signal"], &exit["by"]), (&Value::Null, &9.into(), &"memory limit".into()), "{told} {}", seen.stderr);
    let usage = |name: &str| told["usage"][name].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
    assert!(usage("memory_oom_kills") >= 1 && usage("memory_limit_hits") >= 1, "{told}");
    // Who asks for nothing is told nothing.
    limits(run(&env)).sh("true").code(0).silent();
}

/// The runtime directory of a user whose manager hangs up on everybody, and how often somebody has called.
fn hanging_up(env: &TestEnv) -> (PathBuf, Arc<AtomicUsize>) {
    let directory = env.root().join("run");
    std::fs::create_dir_all(directory.join("systemd")).expect("a directory");
    let calls = Arc::new(AtomicUsize::new(0));
    for socket in ["systemd/private", "bus"] {
        let (listener, calls) = (UnixListener::bind(directory.join(socket)).expect("a socket"), Arc::clone(&calls));
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    (directory, calls)
}

#[test]
fn a_manager_is_asked_for_limits_alone() {
    let _alone = alone();
    let env = TestEnv::new();
    let (directory, calls) = hanging_up(&env);
    let seen = |more: fn(Hamper) -> Hamper| {
        let seen = more(run(&env).env("XDG_RUNTIME_DIR", &directory)).sh("echo ran").code(0);
        assert_eq!(seen.stdout, "ran\n");
        (seen.stderr, calls.swap(0, Ordering::SeqCst))
    };
    let processes = |run: Hamper| run.set("limits.ulimits={ nofile = 100 }").set("limits.time=60s");
    assert_eq!((seen(|run| run), seen(processes)), ((String::new(), 0), (String::new(), 0)));
    // The control: who wants a cgroup asks there, and nowhere else.
    let (words, calls) = seen(|run| run.set("limits.pids=9"));
    assert!(calls > 0 && words.contains("pids.max = 10: no limit: ") && words.contains("systemd/private"), "{calls} {words}");
}

#[test]
fn each_socket_of_a_manager_will_do() {
    let _alone = alone();
    let env = TestEnv::new();
    let usual = PathBuf::from(format!("/run/user/{}", uid()));
    let sockets: Vec<&str> = ["systemd/private", "bus"].into_iter().filter(|socket| usual.join(socket).exists()).collect();
    assert_eq!(sockets.len(), if vm_variant().as_deref() == Some("no-user-bus") { 1 } else { 2 });
    for socket in sockets {
        let directory = env.root().join(socket.replace('/', "-"));
        let own = directory.join(socket);
        std::fs::create_dir_all(own.parent().expect("a directory")).expect("a directory");
        std::os::unix::fs::symlink(usual.join(socket), &own).expect("a link");
        let limits = |run: Hamper| run.env("XDG_RUNTIME_DIR", &directory).set("limits.pids=9").set("limits.on_missing=error");
        let plan = limits(env.hamper(["plan"]).image("busybox")).output().ok();
        assert!(plan.contains(&format!("hamper.scope of the service manager at {}", own.display())), "{plan}");
        // Who has the scope made, and who finds it there.
        let first = begun(limits(run(&env)), "sleep 1000");
        assert_eq!(limits(run(&env)).sh("cat /sys/fs/cgroup/pids.max").code(0).silent().stdout, "10\n", "{socket}");
        first.signal(Signal::TERM);
        first.output().any();
        assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
    }
}

/// Delegated by halves: processes may be moved there, and controllers not be passed on.
#[test]
fn what_is_not_passed_on_has_a_stand_in() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let path = env.root().join("report.json").display().to_string();
    let seen = |before: &str, more: &str| {
        let limits = "--set limits.memory=64M --set limits.pids=20 --set limits.cpu_weight=50";
        let run = format!("{hamper} run --image {image} --entrypoint '' --report {path} {limits} {more} -- sh -c 'ulimit -d'; echo $?");
        let aside = "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $C/shell; echo $BASHPID > $C/shell/cgroup.procs";
        in_unit(&env, &format!("{aside}; {before} {run}; ls -d $C/hamper*/ 2>/dev/null; true"))
    };
    let half = "sudo -n chown root $C/cgroup.subtree_control;";
    let why = "is not passed on to the sandbox's cgroup: Permission denied (os error 13)";
    let text = seen(half, "");
    let lines: Vec<&str> = text.lines().collect();
    let memory = format!(
        "hamper: memory.max = 67108864: no limit: the controller `memory` {why}; each process may have that much data (RLIMIT_DATA)"
    );
    let pids = format!("hamper: pids.max = 21: no limit: the controller `pids` {why}; RLIMIT_NPROC is set to it");
    let weight = format!("hamper: cpu.weight = 50: no limit: the controller `cpu` {why}");
    for line in ["65536", "0", &memory, &pids, &weight] {
        assert_eq!(lines.iter().filter(|other| **other == line).count(), 1, "{line}: {text}");
    }
    assert_eq!(lines.len(), 5, "{text}");
    let told: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("report")).expect("JSON");
    assert_eq!(got(&told), ["cpu.weight", "memory.max", "pids.max"].map(|file| (file.to_owned(), None)).into(), "{told}");
    let strict = seen(half, "--set limits.on_missing=error");
    assert!(strict.contains("125\n") && strict.contains(why) && !strict.contains("65536"), "{strict}");
    // The control: delegated wholly.
    assert_eq!(seen("", "--set limits.on_missing=error"), "unlimited\n0\n");
}

/// What keeps hamper from the manager's scope can be kept, and limits be had below it: doctor says how.
#[test]
fn doctor_says_how_a_unit_is_divided_that_confines() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let doctor = in_unit_with(&env, &["-pIPAddressDeny=192.0.2.1"], &format!("{hamper} doctor"));
    assert!(doctor.contains("confines what runs in it (IPAddressDeny=192.0.2.1"), "{doctor}");
    assert!(doctor.contains("'Delegate=yes' | sudo tee /etc/systemd/system/run-"), "{doctor}");
    let run = format!("exec {hamper} run --image {image} --entrypoint '' --set limits.pids=50 --set limits.on_missing=error -- echo ran");
    assert_eq!(in_unit_with(&env, &["-pIPAddressDeny=192.0.2.1", "-pDelegate=yes"], &run), "ran\n");
    let words = ["--user", "--scope", "-q", "-pMemoryMax=200M", &hamper, "doctor"];
    let program = env.program("systemd-run", words).in_session().env("XDG_RUNTIME_DIR", format!("/run/user/{}", uid()));
    let doctor = program.output().any().stdout;
    assert!(doctor.contains("has a limit of its own (memory.max = 209715200)"), "{doctor}");
    assert!(doctor.contains("systemctl --user cat run-") && doctor.contains("put the limit into the profile, and out of run-"), "{doctor}");
}

/// Where hamper was started in a mount or a pid namespace that keeps it from cgroups, a run has its stand-ins, and nobody is moved.
#[test]
fn surroundings_that_keep_cgroups_away_are_told() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("busybox").map("single").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("busybox"));
    let run = format!("{hamper} run --image {image} --entrypoint '' --set identity.map=single --set limits.pids=50");
    let seen = |around: &[&str], before: &str, command: &str| {
        let script = format!("{before} {command}");
        let words = around.iter().copied().chain(["sh", "-c", &script]);
        env.program("unshare", words).in_session().env("XDG_RUNTIME_DIR", format!("/run/user/{}", uid())).output().any()
    };
    let own_user = format!("exec unshare -U --map-user={} --map-group={}", uid(), rustix::process::getgid().as_raw());
    let read_only = format!("mount -o remount,bind,ro /sys/fs/cgroup; {own_user}");
    let cases: [(&[&str], &str, &str); 2] = [
        (&["-r", "-m"], &read_only, "pids.max = 51: no limit: /sys/fs/cgroup is read-only here"),
        (&["-U", "--map-current-user", "-p", "-f", "--mount-proc"], "exec", "pids.max = 51: no limit: this process is in a pid namespace"),
    ];
    for (around, before, words) in cases {
        let ran = seen(around, before, &format!("{run} -- echo ran")).code(0).told(&[words]);
        assert_eq!(ran.stdout, "ran\n");
        let doctor = seen(around, before, &format!("{hamper} doctor")).stdout;
        assert!(doctor.contains("# start hamper outside of what has made it so"), "{doctor}");
    }
    assert_eq!(ours(), [""; 0]);
    // The control: namespaces that keep nothing away.
    for (around, before) in [(&["-r", "-m"][..], &*own_user), (&["-U", "--map-current-user"], "exec")] {
        let ran = seen(around, before, &format!("{run} --set limits.on_missing=error -- echo ran")).code(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("ran\n", ""));
    }
}

/// Shares of processors bind the fair class, and a user may have another.
#[test]
fn a_share_that_real_time_threads_do_without_is_told() {
    let _alone = alone();
    let env = TestEnv::new();
    env.run("debian").sh("true").code(0);
    let (hamper, image) = (crate::support::hamper().display().to_string(), crate::support::image("debian"));
    let seen = |properties: &[&str], before: &str, more: &str| {
        let run = format!("{hamper} run --image {image} --entrypoint '' --set limits.cpus=0.5 {more}");
        let command = "bash -c 'chrt --fifo 1 true 2>/dev/null && echo taken'; echo $?";
        in_unit_with(&env, &[&["-pDelegate=yes"], properties].concat(), &format!("{before} {run} -- {command}"))
    };
    let words = "hamper: cpu.max = 50000 100000: no limit for threads that take a real-time class, as RLIMIT_RTPRIO lets them (20)";
    let text = seen(&["-pLimitRTPRIO=20"], "", "");
    assert!(text.contains(words) && text.contains("taken\n0\n"), "{text}");
    let text = seen(&["-pLimitRTPRIO=20"], "", "--set limits.on_missing=error");
    assert!(text.starts_with("125\n") && text.contains("RLIMIT_RTPRIO"), "{text}");
    // The hint holds.
    assert_eq!(seen(&["-pLimitRTPRIO=20"], "", "--set limits.on_missing=error --set 'limits.ulimits={ rtprio = 0 }'"), "1\n");
    assert_eq!(seen(&[], "", "--set limits.on_missing=error"), "1\n");
    let text = seen(&["-pLimitRTPRIO=20"], "chrt --fifo 1", "--set 'limits.ulimits={ rtprio = 0 }'");
    assert!(text.contains("cpu.max = 50000 100000: no limit: hamper was started in a real-time class"), "{text}");
}
