//! Inside, the payload's user is the caller; every other id is of the caller's range, or does not exist.

use std::os::unix::fs::MetadataExt;

use crate::require;
use crate::support::{TestEnv, gid, has_image, image, maps, subuid, uid};

#[test]
fn the_map_is_as_promised() {
    let env = TestEnv::new();
    for user in [0u32, 1000, 12345] {
        let run = |map: &str| {
            env.run("busybox")
                .map(map)
                .args(["-u", &format!("{user}:{user}")])
                .probe("cat /proc/self/uid_map -- ids -- cat /proc/self/setgroups")
        };
        let lines = |text: &str| -> Vec<Vec<u32>> {
            let numbers = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>();
            text.lines().filter_map(|line| numbers(line).ok().filter(|numbers| numbers.len() == 3)).collect()
        };
        let out = run("single").code(0);
        assert_eq!(lines(&out.stdout), [[user, uid(), 1]]);
        assert_eq!(out.value("uid"), format!("{user} {user} {user}"));
        assert!(out.stdout.lines().any(|line| line == "deny"), "{}", out.stdout);
        let Some((start, count)) = subuid() else { continue };
        let out = run("range").code(0);
        let map = lines(&out.stdout);
        // The payload's user is the caller ...
        assert!(map.iter().any(|line| line[0] <= user && user - line[0] < line[2] && line[1] + (user - line[0]) == uid()), "{map:?}");
        // ... and every other id is of the caller's range.
        for line in map {
            let own = line[1] == uid() && line[2] == 1;
            assert!(own || line[1] >= start && line[1] - start + line[2] <= count, "{line:?}");
        }
        assert_eq!(out.value("uid"), format!("{user} {user} {user}"));
    }
}

#[test]
fn auto_is_range_where_there_is_one() {
    let env = TestEnv::new();
    let out = env.run("busybox").probe("cat /proc/self/uid_map").code(0);
    let lines = out.stdout.lines().count();
    assert_eq!(lines > 1, subuid().is_some(), "{}", out.stdout);
}

#[test]
fn what_the_payload_writes_in_the_project_is_the_callers() {
    for map in maps() {
        for user in ["0", "1000", "4242"] {
            let env = TestEnv::new();
            let out =
                env.run("busybox").map(map).args(["--project", ".", "-u", user]).probe("write ./made -- mkdir ./d -- stat ./made").code(0);
            assert!(out.value("stat ./made:").contains(&format!(" {user}:")), "{}", out.stdout);
            for name in ["made", "d"] {
                let status = std::fs::metadata(env.project().join(name)).expect(name);
                assert_eq!((status.uid(), status.gid()), (uid(), gid()), "{map} {user}");
            }
        }
    }
}

#[test]
fn users_by_name_by_number_and_unknown_ones() {
    require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    for map in maps() {
        let run = |user: &str| env.run("node14").map(map).args(["-u", user]).probe("ids -- env");
        let own = env.run("node14").map(map).probe("ids -- env").code(0);
        assert_eq!((own.value("uid"), own.value("HOME=")), ("1000 1000 1000".into(), "/home/node".into()));
        let root = run("root").code(0);
        assert_eq!((root.value("uid"), root.value("HOME=")), ("0 0 0".into(), "/root".into()));
        let named = run("node:root").code(0);
        assert_eq!((named.value("uid"), named.value("gid")), ("1000 1000 1000".into(), "0 0 0".into()));
        let unknown = run("4242").code(0);
        assert_eq!((unknown.value("uid"), unknown.value("gid")), ("4242 4242 4242".into(), "0 0 0".into()));
        run("nobody-of-that-name").code(125).told(&["nobody-of-that-name"]);
        // An unknown one has a line in passwd, so that programs find a name and a home.
        let line = env.run("node14").map(map).args(["-u", "4242"]).sh("getent passwd 4242; cd ~ && touch x && echo home ok").ok();
        assert!(line.contains(":4242:") && line.contains("home ok"), "{line}");
    }
}

#[test]
fn supplementary_groups_are_the_images_under_a_range() {
    require!(subuid().is_some() && has_image("node14"), "subordinate ids and the test images");
    let env = TestEnv::new();
    let out = env.run("node14").map("range").probe("ids").code(0);
    assert_eq!(out.value("groups"), "");
    // Root of a Debian image is in the group root alone.
    let out = env.run("node14").map("range").args(["-u", "root"]).sh("id -G").code(0);
    assert_eq!(out.stdout.trim(), "0");
}

#[test]
fn owners_of_an_image_are_true_under_a_range_and_the_callers_alone() {
    require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    let out = env.run("node14").map("single").probe("stat /etc/passwd /home/node /tmp").code(0);
    assert!(out.value("stat /etc/passwd:").contains(" 1000:1000 "), "{}", out.stdout);
    require!(subuid().is_some(), "subordinate ids");
    let out =
        env.run("node14").map("range").probe("stat /etc/passwd /home/node /etc/shadow -- open /etc/shadow -- write /etc/passwd").code(0);
    assert!(out.value("stat /etc/passwd:").contains(" 0:0 "), "{}", out.stdout);
    assert!(out.value("stat /home/node:").contains(" 1000:1000 "), "{}", out.stdout);
    assert_eq!(out.value("open /etc/shadow:"), "EACCES");
    assert_eq!(out.value("write /etc/passwd:"), "EACCES");
}

#[test]
fn the_home_is_private_to_the_project_and_not_the_hosts() {
    let env = TestEnv::new();
    std::fs::write(env.home().join("secret"), "leaked").expect("write");
    for image in ["busybox", "host"] {
        let out = env.run(image).args(["--project", "."]).sh("cat ~/secret; touch ~/kept && ls -A ~").any();
        assert!(!out.stdout.contains("leaked") && !out.stdout.contains("secret"), "{}", out.stdout);
        let out = env.run(image).args(["--project", "."]).sh("ls -A ~").ok();
        assert!(out.contains("kept"), "{out}");
        let out = env.run(image).args(["--project", "."]).set("identity.home=tmp").sh("ls -A ~; touch ~/x").ok();
        assert!(!out.contains("kept"), "{out}");
    }
    assert!(!env.home().join("kept").exists());
}

#[test]
fn a_home_of_the_image_keeps_what_the_image_has_there() {
    require!(has_image("node14"), "the test images");
    for map in maps() {
        let env = TestEnv::new();
        let run = || env.hamper(["run", "--image", &crate::support::image("node14"), "--project", "."]).map(map);
        let before = run().sh("ls -A ~").ok();
        run().sh("echo mine > ~/made").ok();
        let after = run().sh("ls -A ~; cat ~/made").ok();
        assert!(after.contains("mine"), "{after}");
        for name in before.lines() {
            assert!(after.contains(name), "{name} is gone: {after}");
        }
    }
}

#[test]
fn the_root_directory_is_roots_whoever_ran_before() {
    require!(subuid().is_some() && has_image("node14"), "subordinate ids and the test images");
    let env = TestEnv::alone();
    // Scratch directories are used again: by other users, under other maps of the same range.
    for user in ["0", "1000", "0", "0:5", "4242:4242", "0", "1000:0", "0"] {
        let out = env.run("node14").map("range").args(["-u", user]).probe("stat /").code(0);
        assert!(out.value("stat /:").starts_with("40755 0:0 "), "as {user}: {}", out.stdout);
    }
}

/// Under the single map nothing takes the caller's supplementary groups away: what only they open stays closed to an untrusted program.
#[test]
fn an_untrusted_program_gets_no_mount_that_is_writable_by_a_supplementary_group_alone() {
    let shared = std::env::var_os("HAMPER_TEST_GROUP").map(std::path::PathBuf::from).filter(|path| path.exists());
    crate::require!(shared.is_some(), "a directory that is writable by a supplementary group alone (root makes it)");
    let env = TestEnv::new();
    let shared = shared.expect("directory");
    let inside = shared.join(format!("by-{}", crate::support::unique()));
    std::fs::write(&inside, "").expect("the caller may write there");
    std::fs::remove_file(&inside).expect("remove");
    // What an untrusted run requires besides is not the point here.
    let run = |preset: &str, mode: &str| {
        let volume = format!("{}:/shared{mode}", shared.display());
        let name = format!("/shared/by-{}", crate::support::unique());
        let sets = [format!("security.preset={preset}"), "require=[]".into(), "limits.on_missing=warn".into()];
        let run = env.run("busybox").map("single").args(["-v", &volume]).set(&sets[0]).set(&sets[1]).set(&sets[2]);
        run.probe(&format!("write {name} -- unlink {name}"))
    };
    run("untrusted", "").code(125).told(&["only by your supplementary group", "hamper doctor"]);
    run("untrusted", ":ro").code(0);
    let control = run("dev", "").code(0);
    assert!(control.stdout.lines().all(|line| line.ends_with(": ok")), "{}", control.stdout);
}

/// A server and a shell beside it: both change what the image has in the home.
#[test]
fn runs_of_one_project_at_the_same_time_share_its_home() {
    crate::require!(crate::support::has_image("node14"), "the image node14");
    for map in maps() {
        let env = TestEnv::new();
        env.profile(&format!("image = \"{}\"\n", image("node14")));
        let script = |script: &str| vec!["sh".to_owned(), "-c".into(), script.into()];
        let first = script("echo ready; sleep 1.5; echo A >> ~/.profile && rm ~/.bash_logout && mv ~/.bashrc ~/.bashrc2 && cat ~/second");
        let mut first = env.run_profile().map(map).payload(first.iter().map(String::as_str)).spawn();
        first.await_line("ready");
        for _ in 0..3 {
            env.run_profile()
                .map(map)
                .payload(script("touch ~/.profile ~/x && echo here > ~/second").iter().map(String::as_str))
                .output()
                .code(0);
        }
        assert_eq!(first.output().code(0).stdout, "here\n", "{map}");
        let after = env.run_profile().map(map).payload(script("tail -1 ~/.profile; ls -A ~").iter().map(String::as_str)).output().ok();
        assert!(after.starts_with("A\n") && after.contains(".bashrc2") && !after.contains(".bash_logout"), "{map}: {after}");
    }
}
