//! When a run is over nothing of it is left: no process, no mount, no directory.

use crate::support::tree::{is_recycled, names};
use crate::support::{TestEnv, maps, seconds, within};

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines().count()
}

#[test]
fn many_runs_leave_nothing() {
    let runs: usize = std::env::var("HAMPER_TEST_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let before = mounts();
    for map in maps() {
        let env = TestEnv::alone();
        let script = "touch /x; mkdir /d; exit 0";
        // The first runs make what is kept: layers, scratch directories, the home.
        for script in ["true", script] {
            env.run("busybox").map(map).args(["--project", "."]).sh(script).code(0);
        }
        assert!(within(10.0, || trash(&env).is_empty()));
        let everything = || [names(&env.store()), names(&env.state()), names(&env.root().join("run")), names(&env.project())].concat();
        let known = everything();
        let words = env.run("busybox").map(map).args(["--project", ".", "--entrypoint", ""]);
        // Every tenth run writes; all of them under one eye.
        let (quiet, loud) = (words.words(), env.run("busybox").map(map).args(["--project", "."]).args(["--entrypoint", ""]).words());
        let loop_ = format!(
            "i=0; while [ $i -lt {} ]; do i=$((i+1)); if [ $((i % 10)) = 0 ]; then {loud} -- sh -c '{script}'; else {quiet} -- /bin/true; fi || exit 9; done",
            runs / maps().len()
        );
        env.program("sh", ["-c", &loop_]).limit(seconds(300)).measured().code(0).left_nothing();
        let left = || -> Vec<_> { everything().into_iter().filter(|path| !known.contains(path) && !is_recycled(path)).collect() };
        assert!(within(10.0, || left().is_empty()), "{map}: {:?}", left());
    }
    assert_eq!(mounts(), before);
}

fn trash(env: &TestEnv) -> Vec<std::path::PathBuf> {
    names(&env.store().join("trash")).into_iter().filter(|path| !path.as_os_str().is_empty()).collect()
}

#[test]
fn what_is_written_to_the_root_is_gone() {
    for map in maps() {
        let env = TestEnv::alone();
        env.run("busybox").map(map).sh("true").code(0);
        let known = names(&env.store());
        let script = "cp -a /bin /copy; mkdir -p /deep/$(seq -s / 1 50); ln -s /etc /link; mkfifo /fifo; chmod 0 /deep; rm -rf /bin/ls; echo x > /etc/passwd";
        env.run("busybox").map(map).sh(script).code(0);
        env.run("busybox")
            .map(map)
            .probe("stat /copy /deep /link /fifo /bin/ls")
            .code(0)
            .line("stat /copy: ENOENT")
            .line("stat /deep: ENOENT");
        let left = || -> Vec<_> { names(&env.store()).into_iter().filter(|path| !known.contains(path) && !is_recycled(path)).collect() };
        // The probe beside the second run is a mount point of its own, made once.
        let left = || -> Vec<_> { left().into_iter().filter(|path| !path.starts_with("layers")).collect() };
        assert!(within(10.0, || left().is_empty()), "{map}: {:?}", left());
    }
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    for map in maps() {
        let env = TestEnv::alone();
        // With an empty store: they load the same image at the same time.
        let children: Vec<_> = (0..6)
            .map(|n| {
                let script = format!("echo {n} > /mine; sleep 0.2; cat /mine; exit {n}");
                env.run("busybox").map(map).args(["--entrypoint", ""]).payload(["sh", "-c", &script]).spawn()
            })
            .collect();
        for (n, child) in children.into_iter().enumerate() {
            let out = child.output().code(i32::try_from(n).expect("small"));
            assert_eq!(out.stdout.trim(), n.to_string());
        }
    }
}
