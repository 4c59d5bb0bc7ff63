//! What goes on forking.

use std::time::Instant;

use rustix::process::Signal;

use super::*;
use crate::support::{is_alive, seconds};

/// Each that is started starts others; one that is refused them begins anew.
const BOMB: &str = "trap 'exec sh ./bomb' EXIT\nwhile :; do sh ./bomb & done\n";

/// A cgroup as it is seen from outside.
struct Seen {
    path: String,
}

impl Seen {
    fn of(child: &Child) -> Self {
        let name = format!("/hamper-{}", child.pid());
        Self { path: ours().into_iter().find(|path| path.ends_with(&name)).expect("a cgroup") }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("{}/{file}", self.path)).expect("a file of the cgroup")
    }

    fn processes(&self) -> Vec<u32> {
        self.read("cgroup.procs").lines().map(|line| line.parse().expect("a process")).collect()
    }

    fn current(&self) -> usize {
        self.read("pids.current").trim().parse().expect("a number")
    }

    fn refused(&self) -> u64 {
        let events = self.read("pids.events");
        events.lines().find_map(|line| line.strip_prefix("max ")?.parse().ok()).expect("a number")
    }
}

#[test]
fn a_fork_bomb_stays_below_its_limit_and_leaves_the_machine_to_others() {
    let _alone = alone();
    let env = TestEnv::new();
    env.file("bomb", BOMB);
    env.run("busybox").sh("true").code(0);
    let path = env.root().join("report.json").display().to_string();
    // The second is the control of the first: it takes what it is given. Signals that its shell does not catch, which would forget one where it
    // begins anew.
    for (limit, signal, code) in [(20, Signal::TERM, 143), (60, Signal::HUP, 129)] {
        let most = limit + 1; // init
        let run = run(&env).set(&format!("limits.pids={limit}")).args(["--project", ".", "--report", &path]);
        let bomb = begun(run, "exec sh ./bomb 2>/dev/null");
        let cgroup = Seen::of(&bomb);
        assert!(within(5.0, || cgroup.current() == most), "{}", cgroup.current());
        let before = cgroup.refused();
        for _ in 0..10 {
            let begin = Instant::now();
            let mut other = env.run("busybox").args(["--entrypoint", ""]).payload(["echo", "usable"]).spawn();
            while other.child.try_wait().expect("wait").is_none() {
                assert!(begin.elapsed() < seconds(2), "the machine is not usable");
                // One that is being refused counts until it is, on each processor.
                let (current, processors) = (cgroup.current(), std::thread::available_parallelism().expect("processors").get());
                assert!((most..=most + processors).contains(&current), "{current}");
                assert_eq!(cgroup.processes().len(), most);
            }
            assert_eq!(other.output().code(0).silent().stdout, "usable\n");
        }
        let (processes, refused) = (cgroup.processes(), cgroup.refused());
        assert!(refused > before, "it goes on forking: {before} {refused}");
        let begin = Instant::now();
        bomb.signal(signal);
        bomb.output().code(code).silent();
        assert!(begin.elapsed() < seconds(2), "{:?}", begin.elapsed());
        assert!(!processes.iter().any(|process| is_alive(*process)), "{processes:?}");
        assert!(within(5.0, || ours().is_empty()), "{:?}", ours());
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("report")).expect("JSON");
        assert_eq!(report["usage"]["pids_peak"], most, "{report}");
        assert!(report["usage"]["pids_refused"].as_u64().is_some_and(|count| count >= refused), "{report}");
    }
}
