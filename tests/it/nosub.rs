//! What a user without subordinate ids has: the single map, said once, and everything else as ever.
//!
//! `tests/run` starts these as such a user too; for one with subordinate ids they hold as well, under `map = "single"`.

use crate::support::{TestEnv, has_image, image, subuid, uid};

fn map() -> &'static str {
    if subuid().is_some() { "single" } else { "auto" }
}

#[test]
fn the_map_is_of_one_id() {
    let env = TestEnv::new();
    let out = env.run("busybox").map(map()).probe("cat /proc/self/uid_map").code(0);
    let numbers: Vec<u32> = out.stdout.split_whitespace().map(|word| word.parse().expect("number")).collect();
    assert_eq!(numbers, [0, uid(), 1]);
}

#[test]
fn a_range_that_is_required_and_not_there_stops() {
    if subuid().is_some() {
        return;
    }
    let env = TestEnv::new();
    env.run("busybox").map("range").probe("exit 0").code(125).told(&["subuid"]);
    env.run("busybox").set("require=[\"subuid\"]").probe("exit 0").code(125).told(&["subuid"]);
    let report = env.root().join("report.json");
    env.run("busybox").args(["--report", &report.display().to_string()]).probe("exit 0").code(0);
    let report = std::fs::read_to_string(report).expect("report");
    assert!(report.contains("\"subuid\""), "{report}");
}

#[test]
fn node_and_npm_work() {
    crate::require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n", image("node14")));
    let script = "npm --version && npm init -y >/dev/null && node -e 'require(\"fs\").writeFileSync(\"x\", process.version)'";
    let out = env.hamper(["run"]).map(map()).payload(["sh", "-c", script]).output().ok();
    assert!(out.trim().contains('.'), "{out}");
    assert_eq!(env.read("x"), "v14.21.3");
    assert!(env.read("package.json").contains("\"name\""));
}

#[test]
fn the_store_is_removed_with_plain_means() {
    let env = TestEnv::alone();
    env.run("whiteouts").map("single").args(["--entrypoint", ""]).payload(["true"]).output().code(0);
    let script = "chmod -R u+rwX \"$0\" && rm -rf \"$0\"";
    env.program("sh", ["-c", script, &env.store().display().to_string()]).output().code(0).silent();
    assert!(!env.store().exists());
}

/// The threads that unpacked the layers, which this user's hamper does itself, are gone before it clones: the kernel counts one for a
/// while after its work is done, so that one run in four ended with `EINVAL` here.
#[test]
fn a_first_run_unpacks_and_starts_every_time() {
    let env = TestEnv::alone();
    for round in 0..40 {
        let store = env.directory(&format!("store-{round}"));
        let run = env.run("layers8").map("single").env("XDG_DATA_HOME", &store);
        run.args(["--entrypoint", ""]).payload(["true"]).output().code(0);
    }
}

#[test]
fn programs_of_other_owners_in_the_image_are_usable() {
    crate::require!(has_image("build-base"), "the test images");
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\n", image("build-base")));
    env.file("a.c", "int main(void) { return 7; }\n");
    env.hamper(["run"]).map(map()).payload(["sh", "-c", "gcc a.c -o a && ./a"]).output().code(7);
}
