//! Nothing of the host's environment but what the profile names; nothing in a descriptor, a keyring or /proc either.

use crate::support::{TestEnv, maps};

#[test]
fn only_what_the_pass_list_names_comes_in() {
    let env = TestEnv::new();
    for image in ["busybox", "host"] {
        let run =
            || env.run(image).env("AWS_SECRET", "leaked").env("LD_PRELOAD", "/leaked").env("COLORTERM", "passes").env("LC_X", "passes");
        let out = run().probe("env").code(0);
        assert!(!out.stdout.contains("leaked"), "{}", out.stdout);
        assert_eq!(out.value("COLORTERM="), "passes");
        assert_eq!(out.value("LC_X="), "passes");
        // The control: named, it passes.
        let out = run().set("env_pass=[\"AWS_SECRET\"]").probe("env").code(0);
        assert_eq!(out.value("AWS_SECRET="), "leaked");
        assert!(!out.stdout.contains("COLORTERM"), "{}", out.stdout);
    }
}

#[test]
fn an_image_cannot_ask_for_a_variable_of_the_host() {
    let env = TestEnv::new();
    let out = env.run("busybox").env("SECRET", "leaked").args(["-e", "A=$SECRET", "-e", "B=${SECRET}"]).probe("env").code(0);
    assert_eq!(out.value("A="), "$SECRET");
    assert!(!out.stdout.contains("leaked"), "{}", out.stdout);
}

#[test]
fn no_process_shows_the_hosts_environment_or_command_line() {
    let env = TestEnv::new();
    for map in maps() {
        // Any uid inside, with root inside first of all.
        for user in ["0", "1000"] {
            let out = env
                .run("busybox")
                .map(map)
                .args(["-u", user])
                .env("AWS_SECRET", "leaked")
                .probe("open /proc/1/environ /proc/1/mem /proc/1/maps -- cat /proc/1/cmdline -- readlink /proc/1/exe /proc/1/cwd /proc/1/root -- memory /proc/1/mem -- ptrace 1");
            let out = out.code(0);
            for (object, result) in
                out.answers("open").into_iter().chain(out.answers("readlink")).chain(out.answers("memory")).chain(out.answers("ptrace"))
            {
                assert!(result == "EACCES" || result == "EPERM", "{map} {user} {object}: {result}");
            }
            let shown = out.stdout.lines().take_while(|line| !line.starts_with("readlink")).collect::<String>();
            assert!(!shown.contains("--image") && !shown.contains("busybox"), "the command line of init: {shown}");
        }
    }
}

#[test]
fn no_descriptor_above_two_comes_in() {
    let env = TestEnv::new();
    for map in maps() {
        for image in ["busybox", "host"] {
            let run = env.run(image).map(map).args(["--entrypoint", ""]).payload(["/probe", "fds"]);
            let words = run.words();
            // A shell that leaves descriptors open on a file, a directory and a pipe.
            let script = format!("exec 3</etc/passwd 4</ 7<>/dev/null 9</proc/self/status; {words}");
            let out = env.program("bash", ["-c", &script]).output().code(0);
            let open: Vec<&str> = out.stdout.lines().filter_map(|line| line.strip_prefix("fd ")?.split(' ').next()).collect();
            assert_eq!(open, ["0", "1", "2"], "{map}: {}", out.stdout);
            // The control: without a sandbox they are there.
            let script = format!("exec 3</etc/passwd 4</ 7<>/dev/null; {} fds", crate::support::probe().display());
            let out = env.program("bash", ["-c", &script]).output().code(0);
            assert!(out.stdout.lines().count() >= 6, "{}", out.stdout);
        }
    }
}

#[test]
fn closed_standard_descriptors_are_no_way_in() {
    let env = TestEnv::new();
    let words = env.run("busybox").args(["--entrypoint", ""]).payload(["/probe", "fds"]).words();
    let out = env.program("bash", ["-c", &format!("exec <&- 2>&-; {words}")]).output().code(0);
    let open: Vec<&str> = out.stdout.lines().filter_map(|line| line.strip_prefix("fd ")?.split(' ').next()).collect();
    assert_eq!(open, ["0", "1", "2"], "{}", out.stdout);
}

#[test]
fn the_umask_of_ours_is_not_the_payloads() {
    let env = TestEnv::new();
    let words =
        env.run("busybox").args(["--project", ".", "--entrypoint", ""]).payload(["/probe", "write", "./made", "--", "umask"]).words();
    for umask in ["022", "027", "077"] {
        let out = env.program("bash", ["-c", &format!("umask {umask}; {words}")]).output().code(0);
        assert_eq!(out.value("umask"), format!("0{umask}"));
    }
}

#[test]
fn the_host_name_is_the_sandboxs_own() {
    let env = TestEnv::new();
    let out = env.run("busybox").set("hostname=elsewhere").probe("hostname -- cat /etc/hostname /etc/hosts").code(0);
    assert_eq!(out.value("hostname"), "elsewhere");
    assert!(out.stdout.contains("elsewhere\n"), "{}", out.stdout);
    assert!(out.stdout.contains("127.0.0.1\tlocalhost"), "{}", out.stdout);
}

#[test]
fn the_domain_name_of_the_host_is_not_there() {
    let env = TestEnv::new();
    // A host name space in which an ordinary user may set one.
    let in_domain = |line: &str| {
        let set = "import ctypes, os, sys; assert ctypes.CDLL(None).setdomainname(b'site.example', 12) == 0; os.execvp('sh', ['sh', '-c', sys.argv[1]])";
        env.program("unshare", ["--user", "--map-current-user", "--uts", "--keep-caps", "python3", "-c", set, line]).output().ok()
    };
    // A nested user namespace has no range.
    let run = env.run("busybox").map("single").args(["--entrypoint", ""]);
    assert_eq!(in_domain(&run.payload(["/probe", "cat", "/proc/sys/kernel/domainname"]).words()).trim(), "(none)");
    // The control: outside it is there.
    assert_eq!(in_domain("cat /proc/sys/kernel/domainname").trim(), "site.example");
}
