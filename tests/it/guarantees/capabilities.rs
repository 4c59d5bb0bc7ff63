//! No capability, no way to get one, and no setuid program that gives one.

use crate::support::{TestEnv, maps};

const SETS: [&str; 5] = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];

#[test]
fn all_five_sets_are_empty_and_no_new_privs_is_set() {
    let env = TestEnv::new();
    for map in maps() {
        for user in ["0", "1000", "12345"] {
            let out = env.run("busybox").map(map).args(["-u", user]).probe("status").code(0);
            for set in SETS {
                assert_eq!(out.value(set), "0000000000000000", "{map} {user} {set}");
            }
            assert_eq!(out.value("NoNewPrivs:"), "1");
        }
    }
}

#[test]
fn a_capability_that_is_asked_for_is_there_and_no_other() {
    let env = TestEnv::new();
    crate::require!(crate::support::subuid().is_some(), "subordinate ids");
    let out =
        env.run("busybox").map("range").set("security.caps=[\"CAP_CHOWN\"]").probe("write /x -- chown 5 6 /x -- stat /x -- status").code(0);
    assert_eq!(out.value("CapEff:"), "0000000000000001");
    assert_eq!(out.value("CapBnd:"), "0000000000000001");
    assert_eq!(out.value("chown /x:"), "ok");
    assert!(out.value("stat /x:").contains(" 5:6 "), "{}", out.stdout);
    // Without it the same is refused.
    let out = env.run("busybox").map("range").probe("write /x -- chown 5 6 /x").code(0);
    assert_eq!(out.value("chown /x:"), "EPERM");
}

#[test]
fn what_needs_a_capability_is_refused() {
    let env = TestEnv::new();
    let attempts =
        "mount none /tmp tmpfs 0 -- umount /proc -- chroot /tmp -- setuid 5 -- mknod /dev/x c 1 3 -- mknod /x c 1 3 -- mknod /y b 7 0";
    for map in maps() {
        // Neither the filter nor Landlock is what refuses here.
        let run = || env.run("busybox").map(map).set("security.seccomp=none").set("security.landlock=off");
        let out = run().probe(attempts).code(0);
        for verb in ["mount", "umount", "chroot", "setuid", "mknod"] {
            for (object, result) in out.answers(verb) {
                assert!(result == "EPERM" || result == "EINVAL" && verb == "setuid", "{map}: {verb} {object}: {result}");
            }
        }
    }
    // With them, in a user namespace of one's own outside, the same succeeds.
    let control = env
        .program("unshare", ["--user", "--map-root-user", "--mount", "--", &crate::support::probe().display().to_string()])
        .args(["mount", "none", "/tmp", "tmpfs", "0", "--", "chroot", "/tmp"])
        .output()
        .code(0);
    assert_eq!(control.value("mount /tmp:"), "ok");
    assert_eq!(control.value("chroot /tmp:"), "ok");
}

#[test]
fn setuid_programs_have_no_power() {
    let env = TestEnv::new();
    crate::require!(crate::support::subuid().is_some() && crate::support::has_image("debian"), "subordinate ids and the test images");
    // The image has setuid programs of its root: as user 1000 one of them must not become 0.
    let script = "cp /usr/bin/id /tmp/id 2>/dev/null; ls -l /usr/bin/su /usr/bin/passwd; /usr/bin/su -c id root </dev/null; echo code $?";
    let out = env.hamper(["run", "--image", &crate::support::image("debian")]).map("range").args(["-u", "1000"]).sh(script).any();
    assert!(out.stdout.contains("rws"), "the control: the program is setuid: {}", out.stdout);
    assert!(!out.stdout.contains("uid=0"), "{}", out.stdout);
    assert!(out.stdout.contains("code 1"), "{}", out.stdout);
    // What the payload makes setuid itself gives nothing either.
    let script = "cp /bin/busybox /bin/x; chmod 4755 /bin/x; ls -l /bin/x; exec /probe statvfs / /dev /tmp .";
    let out = env.run("busybox").args(["--project", "."]).sh(script).code(0);
    assert!(out.stdout.contains("rws"), "{}", out.stdout);
    for path in ["/", "/dev", "/tmp", "."] {
        assert!(out.value(&format!("statvfs {path}:")).contains(" nosuid"), "{path}: {}", out.stdout);
    }
}

#[test]
fn file_capabilities_and_setuid_of_the_binary_itself_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let env = TestEnv::new();
    let copy = env.root().join("hamper");
    std::fs::copy(crate::support::hamper(), &copy).expect("copy");
    // Setgid to the user's own group is all that an ordinary user can do, and raises nothing.
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o2755)).expect("mode");
    env.program(&copy.display().to_string(), ["run", "hello"]).output().code(0);
}
