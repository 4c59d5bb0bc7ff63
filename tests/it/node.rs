//! The main job: node from an image, in a project, under both maps.

use std::os::unix::fs::MetadataExt;

use crate::require;
use crate::support::{TestEnv, gid, has_image, image, maps, uid};

const WRITE: &str = "require(\"fs\").writeFileSync(\"x\", process.version)";

#[test]
fn what_node_writes_in_the_project_is_the_callers() {
    require!(has_image("node14"), "the test images");
    for map in maps() {
        for source in ["node14", "node14-zstd"] {
            let env = TestEnv::new();
            env.profile(&format!("image = \"{}\"\n", image(source)));
            env.hamper(["run"]).map(map).payload(["node", "-e", WRITE]).output().code(0).silent();
            assert_eq!(env.read("x"), "v14.21.3");
            let status = std::fs::metadata(env.project().join("x")).expect("x");
            assert_eq!((status.uid(), status.gid()), (uid(), gid()), "{map}");
        }
    }
}

#[test]
fn the_shipped_name_works_with_the_local_image() {
    require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    let out = env.hamper(["run", "node14", "--image", &image("node14")]).payload(["node", "-e", WRITE]).output();
    out.code(0);
    assert_eq!(env.read("x"), "v14.21.3");
}

#[test]
fn npm_works() {
    require!(has_image("node14"), "the test images");
    for map in maps() {
        let env = TestEnv::new();
        let out = env.hamper(["run", "--image", &image("node14")]).map(map).payload(["npm", "--version"]).output().ok();
        assert!(out.trim().split('.').count() == 3, "{out}");
    }
}

#[test]
fn an_application_starts_its_own_command_with_a_project_mounted() {
    require!(has_image("node14-app"), "the test images");
    for map in maps() {
        let env = TestEnv::new();
        env.profile(&format!("image = \"{}\"\n", image("node14-app")));
        let out = env.hamper(["run"]).map(map).output().ok();
        let value: serde_json::Value = serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{error}: {out}"));
        assert!(value.to_string().contains("/app"), "{value}");
        assert!(value.to_string().contains("v14.21.3"), "{value}");
    }
}

#[test]
fn two_versions_side_by_side() {
    require!(has_image("node14") && has_image("node22"), "the test images");
    let envs = [("node14", TestEnv::new()), ("node22", TestEnv::new())];
    let script = "console.log(process.version.split('.')[0]); require('fs').readFileSync(0)";
    let mut running: Vec<_> = envs
        .iter()
        .map(|(name, env)| {
            env.profile(&format!("image = \"{}\"\n", image(name)));
            env.hamper(["run"]).payload(["node", "-e", script]).spawn()
        })
        .collect();
    // Both run at this moment: neither ends before its standard input does.
    let versions: Vec<String> = running.iter_mut().map(|child| child.await_line("v").trim().to_owned()).collect();
    assert_eq!(versions, ["v14", "v22"]);
    for mut child in running {
        drop(child.child.stdin.take());
        child.output().code(0);
    }
}
