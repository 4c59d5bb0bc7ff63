//! The filter and the Landlock domain: read back, counted, and tried.

use crate::support::{TestEnv, has_image, maps};

/// More calls than any kernel of today has.
const LAST: u32 = 480;

#[test]
fn the_filter_is_on_and_there_is_one() {
    let env = TestEnv::new();
    for map in maps() {
        for (image, filter) in [("busybox", "default"), ("host", "default"), ("busybox", "strict")] {
            let out = env.run(image).map(map).set(&format!("security.seccomp={filter}")).probe("status").code(0);
            assert_eq!(out.value("Seccomp:"), "2");
            assert_eq!(out.value("Seccomp_filters:"), "1");
        }
        let control = env.run("busybox").map(map).set("security.seccomp=none").probe("status").code(0);
        assert_eq!(control.value("Seccomp:"), "0");
    }
}

#[test]
fn at_most_three_hundred_calls_get_through_by_reading_the_filter() {
    use hamper::plan::seccomp::{Arch, Request, Source, compile};
    for (source, most) in [(Source::Default, 300), (Source::Strict, 300)] {
        for ptrace in [false, true] {
            let request = Request {
                source,
                allow: &[],
                ptrace,
                nested_userns: false,
                same_user: None,
                dies_with_parent: false,
                caps: &[],
                kernel: (6, 0),
                arch: Arch::X86_64,
            };
            let filter = compile(&request).expect("filter");
            let let_through = (0..1024).filter(|number| evaluate(&filter.program, 0xC000_003E, *number) == 0x7FFF_0000).count();
            assert!(let_through <= most, "{let_through}");
            assert!(filter.allowed <= most, "{}", filter.allowed);
            assert!(let_through >= 150, "{let_through}: the reader of filters is wrong");
            // x32 is an unknown number; i386 ends the process.
            assert!((0..1024).all(|number| evaluate(&filter.program, 0xC000_003E, 0x4000_0000 | number) != 0x7FFF_0000));
            assert!((0..1024).all(|number| evaluate(&filter.program, 0x4000_0003, number) == 0x8000_0000));
        }
    }
}

/// Without an init of ours the payload is what the kernel ends with hamper, which it cannot tell the kernel to forget.
#[test]
fn a_payload_that_is_pid_1_ends_with_hamper() {
    let env = TestEnv::new();
    let forget = |init: &str| env.run("busybox").set(&format!("lifecycle.init={init}")).probe("syscall 157 1 0");
    forget("false").code(0).line("syscall 157: EPERM");
    forget("true").code(0).line("syscall 157: ok 0");
}

/// What a filter says to a call with arguments of 0: the classic BPF that seccomp(2) takes.
fn evaluate(program: &[seccompiler::sock_filter], arch: u32, number: u32) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        _ => 0,
    };
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = word(step.k),
            0x06 => return step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x45 => at += jump(accumulator & step.k != 0),
            0x54 => accumulator &= step.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Numbers whose call with arguments of -1 would do something to the prober itself.
fn reached(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.strip_prefix("call ")?.strip_suffix(" reached")?.parse().ok()).collect()
}

#[test]
fn at_most_three_hundred_calls_get_through_by_trying() {
    let env = TestEnv::new();
    let run = |filter: &str| {
        env.run("busybox").set(&format!("security.seccomp={filter}")).set("security.landlock=off").probe(&format!("sweep {LAST}")).code(0)
    };
    let with = reached(&run("default").stdout);
    let without = reached(&run("none").stdout);
    assert!(with.len() <= 300, "{}: {with:?}", with.len());
    assert!(with.len() >= 150, "{}: {with:?}", with.len());
    assert!(without.len() > with.len() + 5, "the control: {} {}", without.len(), with.len());
    let strict = reached(&run("strict").stdout);
    assert!(strict.len() < with.len(), "{} {}", strict.len(), with.len());
    // What must never get through: mount, umount2, pivot_root, kexec_load, init_module, ptrace apart, bpf, perf_event_open, userfaultfd,
    // io_uring_setup, keyctl, add_key, open_by_handle_at, setns, unshare, move_mount, open_tree, fsopen, mount_setattr.
    for number in [165, 166, 155, 246, 175, 321, 298, 323, 425, 250, 248, 304, 308, 429, 428, 430, 442] {
        assert!(!with.contains(&number), "call {number} gets through");
        assert!(!strict.contains(&number), "call {number} gets through");
    }
}

#[test]
fn unknown_numbers_are_unknown_and_known_ones_refused() {
    let env = TestEnv::new();
    // bpf is 321, mount 165, clone3 435, 1023 and up nothing.
    let out = env.run("busybox").probe("syscall 1023 -- syscall 100000 -- syscall 321 -- syscall 165 -- syscall 435").code(0);
    let results: Vec<String> = out.answers("syscall").into_iter().map(|(_, result)| result).collect();
    assert_eq!(results, ["ENOSYS", "ENOSYS", "EPERM", "EPERM", "ENOSYS"]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn foreign_abis_are_refused() {
    let env = TestEnv::new();
    for map in maps() {
        let out = env.run("busybox").map(map).probe("foreign").code(0);
        assert_eq!(out.value("foreign int80:"), "signal 31");
        assert_eq!(out.value("foreign x32:"), "ENOSYS");
    }
    let control = env.run("busybox").set("security.seccomp=none").probe("foreign").code(0);
    assert_ne!(control.value("foreign int80:"), "signal 31", "the control");
}

#[test]
fn no_user_namespace_can_be_made() {
    let env = TestEnv::new();
    for map in maps() {
        let out = env.run("busybox").map(map).probe("userns").code(0);
        assert_eq!(out.value("userns unshare:"), "EPERM");
        assert_eq!(out.value("userns clone:"), "EPERM");
        assert_eq!(out.value("userns clone3:"), "ENOSYS");
        let control = env.run("busybox").map(map).set("security.seccomp=none").probe("userns").code(0);
        assert_eq!(control.value("userns unshare:"), "ok", "the control");
        let asked = env.run("busybox").map(map).set("security.nested_userns=true").probe("userns").code(0);
        assert_eq!(asked.value("userns unshare:"), "ok", "asked for");
    }
}

#[test]
fn a_terminal_cannot_be_typed_into() {
    let env = TestEnv::new();
    // On a terminal of its own, and with the filter.
    let out =
        crate::support::pty::Pty::new().run(&env.run("busybox").args(["--entrypoint", ""]).payload(["/probe", "tiocsti"]).words(), &env);
    for name in ["TIOCSTI", "TIOCSTI-high", "TIOCLINUX"] {
        assert!(out.contains(&format!("tiocsti {name}: EPERM")), "{out}");
    }
    let control = crate::support::pty::Pty::new()
        .run(&env.run("busybox").set("security.seccomp=none").args(["--entrypoint", ""]).payload(["/probe", "tiocsti"]).words(), &env);
    assert!(!control.contains("tiocsti TIOCLINUX: EPERM"), "the control: {control}");
}

#[test]
fn a_landlock_domain_is_there() {
    let env = TestEnv::new();
    let outside = env.program(&crate::support::probe().display().to_string(), ["landlock"]).output().code(0);
    let Some(before) = outside.stdout.lines().find_map(|line| line.strip_prefix("landlock layers: ")?.parse::<u32>().ok()) else {
        assert!(!crate::support::must_run(), "no Landlock: {}", outside.stdout);
        return;
    };
    for map in maps() {
        for image in ["busybox", "host"] {
            let layers = |more: &str| -> u32 {
                env.run(image).map(map).set(more).probe("landlock").code(0).value("landlock layers:").parse().expect("number")
            };
            assert_eq!(layers("security.landlock=auto"), before + 1, "{map} {image}");
            assert_eq!(layers("security.landlock=required"), before + 1, "{map} {image}");
            assert_eq!(layers("security.landlock=off"), before, "the control");
        }
    }
}

#[test]
fn an_oci_profile_is_taken_as_it_is() {
    let env = TestEnv::new();
    let profile = env.file(
        "filter.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    );
    let set = format!("security.seccomp=\"{}\"", profile.display());
    let out = env.run("busybox").set(&set).probe("mkdir /tmp/x -- status").code(0);
    assert_eq!(out.value("mkdir /tmp/x:"), "EACCES");
    assert_eq!(out.value("Seccomp:"), "2");
    env.run("busybox").probe("mkdir /tmp/x").code(0).line("mkdir /tmp/x: ok");
    std::fs::write(&profile, "{ not json").expect("write");
    env.run("busybox").set(&set).probe("exit 0").code(125).told(&["filter.json"]);
}

#[test]
fn what_is_allowed_besides_is_allowed() {
    let env = TestEnv::new();
    // keyctl is 250
    let out = env.run("busybox").set("security.seccomp_allow=[\"keyctl\"]").probe("syscall 250 0 -3 0").code(0);
    assert!(out.value("syscall 250:").starts_with("ok"), "{}", out.stdout);
    env.run("busybox").set("security.seccomp_allow=[\"keyctll\"]").probe("exit 0").code(125).told(&["keyctl"]);
}

#[test]
fn real_programs_run_under_the_strict_filter() {
    crate::require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    let out = env
        .hamper(["run", "--image", &crate::support::image("node14")])
        .set("security.seccomp=strict")
        .payload(["node", "-p", "1+1"])
        .output()
        .ok();
    assert_eq!(out.trim(), "2");
}
