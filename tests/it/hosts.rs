//! What hamper does, says and answers with on each host that `tests/vm` can be: one test a variant, which `tests/vm/suite` starts there alone.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Hamper, Seen, TestEnv, landlock_abi, seconds, uid, user_name, vm_kernel, vm_variant};

/// A host, as doctor sees it.
struct Host {
    env: TestEnv,
    code: i32,
    report: Value,
    human: String,
}

/// This host, which must be that one: tests of others are not started here.
fn host(variant: &str) -> Host {
    assert_eq!(vm_variant().as_deref(), Some(variant));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    assert!(release.starts_with(&vm_kernel().expect("a kernel")), "{release}");
    let env = TestEnv::new();
    let out = env.hamper(["doctor", "--json"]).in_session().output().any().silent();
    let report = serde_json::from_str(&out.stdout).expect("JSON");
    let code = out.status.code().expect("an exit code");
    let human = env.hamper(["doctor"]).in_session().output().code(code).silent().stdout;
    Host { env, code, report, human }
}

impl Host {
    fn finding(&self, check: &str) -> &Value {
        let list = self.report["findings"].as_array().expect("a list");
        list.iter().find(|one| one["check"] == check).unwrap_or_else(|| panic!("no {check} in {list:?}"))
    }

    /// One check: its state, words of what was seen, and those of the remedy. People are shown the same.
    #[track_caller]
    fn found(&self, check: &str, state: &str, seen: &[&str], remedy: &[&str]) {
        let finding = self.finding(check);
        assert_eq!(finding["state"], state, "{finding}");
        let text = finding["seen"].as_str().expect("words");
        assert!(seen.iter().all(|word| text.contains(word)), "{seen:?}: {finding}");
        let lines = finding["remedy"].to_string();
        assert!(remedy.iter().all(|word| lines.contains(word)), "{remedy:?}: {finding}");
        assert!(self.human.lines().any(|line| line.starts_with(state) && line.contains(check) && line.contains(text)), "{}", self.human);
    }

    /// Everything but these is well; Landlock is as old as the kernel.
    #[track_caller]
    fn well_but(&self, checks: &[&str]) {
        let list = self.report["findings"].as_array().expect("a list");
        let is_known = |one: &Value| one["check"].as_str().is_some_and(|name| checks.contains(&name) || name == "landlock");
        let others: Vec<&Value> = list.iter().filter(|one| one["state"] != "ok" && !is_known(one)).collect();
        assert!(others.is_empty(), "{others:?}: {}", self.human);
        let old = landlock_abi() < 6;
        assert_eq!(self.finding("landlock")["state"], if old { "degraded" } else { "ok" });
    }

    /// A start works with namespaces, and says nothing.
    #[track_caller]
    fn starts(&self) -> Value {
        assert_eq!((self.code, &self.report["can_start"]), (0, &Value::Bool(true)), "{}", self.human);
        assert!(self.human.contains("hamper run works here, with "), "{}", self.human);
        let inside = self.run("busybox").probe("session").code(0).silent();
        assert!(inside.stdout.contains("pid 2 parent 1 "), "{}", inside.stdout);
        let path = self.env.root().join("report.json").display().to_string();
        self.run("host").args(["--report", &path]).probe("session").code(0).silent();
        serde_json::from_str(&std::fs::read_to_string(&path).expect("report")).expect("JSON")
    }

    fn run(&self, image: &str) -> Hamper {
        self.env.run(image).in_session()
    }

    fn limited(&self, image: &str, more: &[&str]) -> Seen {
        let sets = LIMITS.iter().map(|(set, ..)| set).chain(more);
        let run = sets.fold(self.run(image), |run, set| run.set(set)).args(["--entrypoint", ""]);
        run.payload(["echo", "ran"]).output().any()
    }

    /// All that a run with limits says here, where none can be had, and all that one says which does not do without: why a limit cannot be
    /// had, by its controller, and why cgroups as such cannot, where that is so.
    #[track_caller]
    fn has_no_limits(&self, why: impl Fn(&str) -> String, none: Option<&str>) {
        let lines =
            LIMITS.iter().map(|(_, asked, controller, instead)| format!("hamper: {asked}: no limit: {}; {instead}\n", why(controller)));
        let seen = self.limited("busybox", &[]).code(0);
        assert_eq!((seen.stdout.as_str(), seen.stderr), ("ran\n", lines.collect()));
        // The control: who asks for none is told nothing.
        let seen = self.run("busybox").args(["--entrypoint", ""]).payload(["echo", "ran"]).output().code(0).silent();
        assert_eq!(seen.stdout, "ran\n");
        let each = LIMITS
            .iter()
            .map(|(_, asked, controller, _)| format!("{asked} is asked for, and cannot be had: no limit: {}", why(controller)));
        let no_limit = each.collect::<Vec<_>>().join("\n  ");
        let none = none.map_or_else(|| no_limit.clone(), |why| format!("cgroup is required, but {why}"));
        for (strict, words) in [("limits.on_missing=error", no_limit), ("require=[\"cgroup\"]", none)] {
            let seen = self.limited("busybox", &[strict]).code(125);
            assert_eq!((seen.stdout.as_str(), seen.stderr), ("", format!("hamper: {words}\n{HINT}\n")), "{strict}");
        }
    }
}

/// Limits as a profile asks for them, as the kernel is asked for them, by which controller, and what there is of each without a cgroup.
const LIMITS: [(&str, &str, &str, &str); 3] = [
    ("limits.memory=64M", "memory.max = 67108864", "memory", "each process may have that much data (RLIMIT_DATA)"),
    ("limits.pids=20", "pids.max = 21", "pids", "RLIMIT_NPROC is set to it"),
    ("limits.cpus=0.5", "cpu.max = 50000 100000", "cpu", "it starts on 1 processor, which it may change"),
];

const HINT: &str = "hint: `hamper doctor` says what this machine needs; limits.on_missing = \"warn\" without require = [\"cgroup\"] goes on without limits";

/// One that nothing knows would have none.
#[test]
fn this_host_has_a_test() {
    const ALL: [&str; 12] = [
        "cgroup-v1",
        "default",
        "full-delegation",
        "nfs-home",
        "no-delegation",
        "no-newuidmap",
        "no-session",
        "no-session-environment",
        "no-subuid",
        "no-user-bus",
        "no-userns",
        "tmpfs-home",
    ];
    assert_eq!(vm_kernel().is_some(), vm_variant().is_some(), "a kernel and a variant go together");
    assert!(vm_variant().is_none_or(|variant| ALL.contains(&&*variant)), "{:?} has no test", vm_variant());
}

const NO_LIMITS: &str = "not enforced";

#[test]
fn default_on_this_host() {
    let host = host("default");
    assert_eq!(host.starts()["degraded"], serde_json::json!([]));
    host.well_but(&["cgroup"]);
    host.found(
        "cgroup",
        "degraded",
        &["cgroups are made in the scope hamper.scope of the service manager at /run/user/", "with cpu memory pids, without cpuset io"],
        &["Delegate=cpu cpuset io memory pids"],
    );
    host.found("user_manager", "ok", &["/systemd/private answers"], &[]);
}

#[test]
fn full_delegation_on_this_host() {
    let host = host("full-delegation");
    assert_eq!(host.starts()["degraded"], serde_json::json!([]));
    host.well_but(&[]);
    host.found("cgroup", "ok", &["with ", "cpu ", "cpuset", "io", "memory", "pids"], &[]);
}

#[test]
fn no_delegation_on_this_host() {
    let host = host("no-delegation");
    host.starts();
    host.well_but(&["cgroup"]);
    let file = "/etc/systemd/system/user-.slice.d/tests.conf";
    let seen = ["with no controller", &format!("DisableControllers= in {file} keeps controllers away")];
    host.found("cgroup", "degraded", &seen, &["Delegate=cpu cpuset io memory pids", file, "sudo systemctl restart user@"]);
    assert!(host.finding("cgroup")["instead"].as_str().is_some_and(|words| words.contains(NO_LIMITS)));
    host.has_no_limits(|controller| format!("the controller `{controller}` is not delegated to you"), None);
}

#[test]
fn no_session_on_this_host() {
    let host = host("no-session");
    assert!(std::env::var_os("XDG_RUNTIME_DIR").is_none());
    host.starts();
    host.well_but(&["cgroup", "user_manager"]);
    host.found("cgroup", "missing", &["is not delegated to you, and no service manager answers at /run/user/"], &["see user_manager"]);
    let socket = format!("/run/user/{}/", uid());
    host.found("user_manager", "missing", &[&socket, "ENOENT"], &[&format!("sudo loginctl enable-linger {}", user_name())]);
    let why = format!("/system.slice/tests.service is not delegated to you, and no service manager answers at {socket}bus (ENOENT)");
    host.has_no_limits(|_| why.clone(), Some(&why));
}

#[test]
fn no_session_environment_on_this_host() {
    let host = host("no-session-environment");
    assert!(std::env::var_os("XDG_RUNTIME_DIR").is_none());
    host.starts();
    host.well_but(&["cgroup"]);
    host.found("user_manager", "ok", &["answers; XDG_RUNTIME_DIR is unset, hamper looks there by itself"], &[]);
    host.found(
        "cgroup",
        "degraded",
        &["cgroups are made in the scope hamper.scope of the service manager at /run/user/", "with cpu memory pids"],
        &[],
    );
}

#[test]
fn no_user_bus_on_this_host() {
    let host = host("no-user-bus");
    assert!(!std::path::Path::new(&format!("/run/user/{}/bus", uid())).exists());
    host.starts();
    host.well_but(&["cgroup"]);
    host.found("user_manager", "ok", &["/systemd/private answers"], &[]);
}

#[test]
fn cgroup_v1_on_this_host() {
    let host = host("cgroup-v1");
    host.starts();
    host.well_but(&["cgroup", "user_manager"]);
    // Kernels that have lost the memory controller of version 1 have it in version 2.
    let have = if vm_kernel().as_deref() == Some("6.1") { "pids" } else { "cpuset memory pids" };
    let words = format!("only {have} here, delegated to nobody: version 1 has the others");
    let have = &format!(" has {have}; version 1 has the others");
    host.found("cgroup", "missing", &["hybrid", have], &["systemd.unified_cgroup_hierarchy=1"]);
    host.found("user_manager", "degraded", &["answers, but its limits enforce nothing without cgroup version 2"], &[]);
    let why = format!("cgroup version 2 has {words}, which no ordinary user can be given");
    host.has_no_limits(|_| why.clone(), Some(&why));
    // What somebody has delegated there is ours to divide.
    let root = "cd /sys/fs/cgroup/unified; echo +pids >cgroup.subtree_control; mkdir -p tests/shell
        chown $SUDO_UID tests tests/cgroup.procs tests/cgroup.subtree_control tests/shell tests/shell/cgroup.procs";
    host.env.program("sudo", ["-n", "sh", "-ec", root]).output().code(0);
    let run = host.run("busybox").set("limits.pids=20").args(["--entrypoint", ""]);
    let strict = run.set("limits.on_missing=error").payload(["cat", "/sys/fs/cgroup/pids.max"]).words();
    let script = format!(
        "echo $$ | sudo -n tee /sys/fs/cgroup/unified/tests/shell/cgroup.procs >&2; {strict}; ls -d /sys/fs/cgroup/unified/tests/*/"
    );
    let seen = host.env.program("sh", ["-c", &script]).in_session().output().code(0);
    assert_eq!(seen.stdout, "21\n/sys/fs/cgroup/unified/tests/shell/\n", "{}", seen.stderr);
}

/// The single map is what there is: said in the report, and no start that asks for more.
#[track_caller]
fn single_map(host: &Host) -> Seen {
    let report = host.starts();
    let degraded = &report["degraded"][0];
    assert_eq!((&degraded["what"], &degraded["got"]), (&Value::from("subuid"), &Value::from("your own id alone")), "{report}");
    host.well_but(&["cgroup", "subuid"]);
    assert!(host.finding("subuid")["instead"].as_str().is_some_and(|words| words.starts_with("the single map")));
    host.run("busybox").map("range").probe("exit 0").code(125).told(&["identity.map = \"range\" is required, but this user has no range"])
}

#[test]
fn no_subuid_on_this_host() {
    let host = host("no-subuid");
    single_map(&host).told(&["newuidmap"]);
    let name = user_name();
    host.found("subuid", "missing", &[&format!("/etc/subuid and /etc/subgid have no range for {name}")], &["usermod --add-subuids", &name]);
}

#[test]
fn no_newuidmap_on_this_host() {
    let host = host("no-newuidmap");
    single_map(&host).told(&["newuidmap is not installed"]);
    host.found("subuid", "missing", &["a range is there, /usr/bin/newuidmap is not (ENOENT)"], &["sudo apt install uidmap"]);
}

#[test]
fn no_userns_on_this_host() {
    let host = host("no-userns");
    assert_eq!((host.code, &host.report["can_start"]), (1, &Value::Bool(false)), "{}", host.human);
    assert!(host.human.contains("hamper run cannot start here."), "{}", host.human);
    host.found("user_namespaces", "missing", &["user.max_user_namespaces", "ENOSPC"], &["sysctl", "user.max_user_namespaces"]);
    let finding = host.finding("user_namespaces");
    assert_eq!((&finding["cause"], &finding["errno"]), (&Value::from("max_namespaces_zero"), &Value::from("ENOSPC")), "{finding}");
    host.run("busybox").probe("exit 0").code(125).told(&["user.max_user_namespaces", "hint:"]);
    // The lower rung, for image host: where Landlock is new enough, and only then.
    let rung = host.env.hamper(["run", "--image", "host"]).in_session().payload(["sh", "-c", "exit 7"]).output();
    if landlock_abi() < 3 {
        let words = [
            "user.max_user_namespaces is 0; without namespaces Landlock is required, but this kernel has ABI 2",
            "hint: to have namespaces:",
        ];
        rung.code(125).told(&words).told(&["sysctl"]);
    } else {
        let _ = rung.code(7).told(&["user.max_user_namespaces is 0", "held by Landlock and seccomp alone"]);
        a_path_that_nobody_answers_for_holds_nobody_up(&host);
    }
}

/// The mode of a file behind a server that does not answer: whoever resolves its path waits, and not the run's limits and signals.
#[track_caller]
fn a_path_that_nobody_answers_for_holds_nobody_up(host: &Host) {
    let root = "modprobe fuse; mkdir -p /run/hangs; exec 3<>/dev/fuse
        mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0,allow_other hangs /run/hangs; echo mounted; exec sleep 120";
    let mut server = host.env.program("sudo", ["-n", "sh", "-ec", root]).spawn();
    server.await_line("mounted");
    for (path, ended) in [("own", Duration::from_secs(0)), ("/run/hangs/x", Duration::from_secs(2))] {
        // chmod(1) would look at the file first, and wait itself.
        let script = format!("touch own; python3 -c 'import os; os.chmod(\"{path}\", 0o600)' || exit 3; exit 5");
        let run = host.env.hamper(["run", "--image", "host"]).in_session().limit(Duration::from_secs(60)).set("limits.time=2s");
        let run = run.set("lifecycle.stop_timeout=1s").args(["--project", "."]).payload(["sh", "-c", &script]);
        let begin = Instant::now();
        run.output().code(if ended.is_zero() { 5 } else { 124 });
        assert!((ended..seconds(10)).contains(&begin.elapsed()), "{path}: {:?}", begin.elapsed());
    }
    server.signal(rustix::process::Signal::TERM);
}

#[test]
fn tmpfs_home_on_this_host() {
    let host = host("tmpfs-home");
    host.starts();
    // There is little room in memory for a store.
    if landlock_abi() >= 6 {
        host.well_but(&["cgroup", "store"]);
        return;
    }
    // Before Linux 6.6 a file system in memory has no user attributes, by which an overlay hides a directory that was there before.
    host.well_but(&["cgroup", "store", "overlay"]);
    let seen = ["(tmpfs)", "removing a lower directory failed (EIO)", "user extended attributes: EOPNOTSUPP"];
    host.found("overlay", "degraded", &seen, &[]);
}

/// What cannot lie on NFS is told with a remedy that, as it stands there, is one.
#[test]
fn nfs_home_on_this_host() {
    let host = host("nfs-home");
    assert_eq!((host.code, &host.report["can_start"]), (1, &Value::Bool(false)), "{}", host.human);
    host.found("store", "ok", &[" on nfs"], &[]);
    host.found("subuid", "missing", &["chown: EPERM"], &["XDG_DATA_HOME="]);
    host.found("overlay", "missing", &["(nfs", "the mount failed (EACCES)"], &["/trees"]);
    for (map, words) in [("single", "cannot rename"), ("range", "cannot set the owner of")] {
        let _ = host.run("whiteouts").map(map).probe("exit 4").code(125).told(&[words, "hint: ", "hamper doctor says how"]);
    }
    // Image `host` needs no tree; limits do not ask where homes are.
    for strict in ["limits.on_missing=error", "require=[\"cgroup\"]"] {
        assert_eq!(host.limited("host", &[strict]).code(0).silent().stdout, "ran\n");
    }
    let _ = host
        .limited("busybox", &[])
        .code(125)
        .told(&["hint: the file system of the store cannot hold trees, as NFS cannot; hamper doctor says how"]);
    let lines = host.finding("overlay")["remedy"].as_array().expect("lines").iter().filter_map(Value::as_str);
    let remedy = lines.filter(|line| line.contains("/trees")).collect::<Vec<_>>().join("\n");
    std::fs::remove_dir_all(host.env.store()).expect("store");
    std::fs::create_dir_all(host.env.store()).expect("store");
    host.env.program("sh", ["-ec", &remedy]).output().code(0);
    for map in ["single", "range"] {
        let script =
            "rm -r /w/opaque-late && mkdir /w/opaque-late && ls /w/opaque-late | wc -l && echo x >made && stat -c %u made && rm made";
        let inside = host.run("whiteouts").map(map).args(["--entrypoint", ""]).payload(["sh", "-c", script]).output().code(0).silent();
        assert_eq!(inside.stdout, "0\n0\n", "{map}");
    }
    assert_eq!(host.limited("busybox", &["limits.on_missing=error"]).code(0).silent().stdout, "ran\n");
    let out = host.env.hamper(["doctor"]).in_session().output().code(0).silent();
    assert!(out.stdout.contains("its trees in "), "{}", out.stdout);
}
