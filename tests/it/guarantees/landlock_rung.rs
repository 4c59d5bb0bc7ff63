//! Without namespaces: what Landlock and seccomp refuse to a payload that has the caller's ids, and what ends with the run.
//!
//! Each attempt is made twice by the same program, without hamper and with it: the first is the control.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::pty::Pty;
use crate::support::{
    Hamper, Seen, TestEnv, gid, has_namespaces, has_rung, image, is_alive, landlock_abi, probe, seconds, slow, uid, unique, within,
};

/// What the payload can use: the probe in the project, since nothing can be mounted. `None` where the rung is refused.
fn env() -> Option<TestEnv> {
    let env = TestEnv::new();
    env.executable("probe", std::fs::read(probe()).expect("probe"));
    env.profile("image = \"host\"\nisolation = \"landlock\"\n");
    has_rung(&env).then_some(env)
}

fn run(env: &TestEnv) -> Hamper {
    env.hamper(["run"])
}

/// The same words of the probe without hamper and on the rung, which comes first: it must leave everything as it is.
fn both(env: &TestEnv, words: &str) -> (Seen, Seen) {
    let list = || std::iter::once("./probe").chain(words.split_whitespace());
    let rung = run(env).payload(list()).output().code(0);
    (env.program("./probe", words.split_whitespace()).output().code(0), rung)
}

/// Every line of the control says ok, and the same line on the rung has the wanted errno.
#[track_caller]
fn refused(env: &TestEnv, attempts: &[(&str, &str)]) {
    for (words, errno) in attempts {
        let (control, rung) = both(env, words);
        let verb = words.split_whitespace().next().expect("a verb");
        let (control, rung) = (control.answers(verb), rung.answers(verb));
        assert!(!control.is_empty() && control.len() == rung.len(), "{words}: {control:?} {rung:?}");
        for ((object, before), (_, after)) in control.iter().zip(&rung) {
            assert!(before.starts_with("ok"), "the control of {words}: {object} {before}");
            assert_eq!(after, errno, "{words}: {object}");
        }
    }
}

/// A process of the caller's outside, with a secret in its environment; ended with the test.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        Self(Command::new("sleep").arg("60").env("SECRET", "x").stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("sleep"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Ignoring: it may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn private(env: &TestEnv, name: &str) -> PathBuf {
    let path = env.home().join(name);
    std::fs::write(&path, "secret\n").expect("file");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("mode");
    path
}

#[test]
fn files_of_the_caller_outside_are_out_of_reach() {
    let Some(env) = env() else { return };
    let key = private(&env, "id_rsa").display().to_string();
    let home = env.home().display().to_string();
    refused(
        &env,
        &[
            (&format!("open {key} {home} /tmp"), "EACCES"),
            (&format!("write {home}/new"), "EACCES"),
            (&format!("truncate {key}"), "EACCES"),
            (&format!("mkdir {home}/directory"), "EACCES"),
            (&format!("rmdir {home}/directory"), "EACCES"),
            (&format!("symlink /etc {home}/link"), "EACCES"),
            (&format!("link {key} {home}/hard"), "EACCES"),
            (&format!("link {key} hard"), "EXDEV"),
            (&format!("mknod {home}/fifo p 0 0"), "EACCES"),
        ],
    );
    env.file("mine", "mine\n");
    refused(
        &env,
        &[
            (&format!("exchange {key} mine"), "EACCES"),
            (&format!("exchange {key} mine"), "EACCES"),
            (&format!("rename {key} {home}/other"), "EACCES"),
            (&format!("rename {home}/other stolen"), "EACCES"),
            (&format!("unlink {home}/hard"), "EACCES"),
        ],
    );
    let key = private(&env, "id_rsa").display().to_string();
    // A link in the project leads nowhere either.
    std::os::unix::fs::symlink(&key, env.project().join("way")).expect("link");
    refused(&env, &[("open way", "EACCES"), ("open /proc/self/cwd/way", "EACCES"), (&format!("open /proc/self/root{key}"), "EACCES")]);
    // A file of the host's /tmp, and what programs leave in memory there.
    let file = format!("/tmp/hamper-test-{}", unique());
    std::fs::write(&file, "x").expect("file");
    refused(&env, &[(&format!("open {file}"), "EACCES"), (&format!("write {file}"), "EACCES"), ("open /dev/shm /run", "EACCES")]);
    std::fs::remove_file(&file).expect("remove");
}

#[test]
fn modes_times_and_attributes_outside_cannot_be_changed() {
    let Some(env) = env() else { return };
    let key = private(&env, "id_rsa");
    let name = key.display().to_string();
    refused(
        &env,
        &[
            (&format!("chmod 666 {name}"), "EPERM"),
            (&format!("chown {} {} {name}", uid(), gid()), "EPERM"),
            // Access mode 3 asks Landlock for nothing, and gives a descriptor all the same.
            (&format!("fchmod 644 {name} 3"), "EPERM"),
            (&format!("fchmod 640 {name} 0"), "EACCES"),
            (&format!("fchmod 604 {name} 1"), "EACCES"),
        ],
    );
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("mode");
    let out = run(&env).payload(["sh", "-c", &format!("touch -d 2001-01-01 {name}; setfattr -n user.x -v y {name}; chmod 777 {name}")]);
    assert_ne!(out.output().any().status.code(), Some(0));
    let facts = std::fs::metadata(&key).expect("stat");
    assert_eq!(facts.permissions().mode() & 0o777, 0o600);
    assert!(facts.modified().expect("time").elapsed().is_ok_and(|age| age.as_secs() < 3600));
    // By a link in the project, by a descriptor of a directory, by a link of /proc, and beside the project.
    std::os::unix::fs::symlink(&key, env.project().join("way")).expect("link");
    std::fs::create_dir(env.root().join("project-of-another")).expect("directory");
    std::fs::write(env.root().join("project-of-another/file"), "x").expect("file");
    let home = env.home().display().to_string();
    let script = format!(
        "for f in way {name} ../home/id_rsa ../project-of-another/file /proc/self/root{name}; do chmod 777 $f && exit 9; touch -d 2001-01-01 $f && exit 8; done; \
         cd {home} && chmod 777 id_rsa && exit 7; cd / && chmod 777 {home} && exit 6; exit 0"
    );
    run(&env).payload(["sh", "-c", &script]).output().code(0);
    assert_eq!(std::fs::metadata(&key).expect("stat").permissions().mode() & 0o777, 0o600);
    assert_ne!(std::fs::metadata(env.root().join("project-of-another/file")).expect("stat").permissions().mode() & 0o777, 0o777);
}

#[test]
fn modes_and_times_inside_can_be_changed() {
    let Some(env) = env() else { return };
    let script = "set -e; mkdir -p d/e; echo x > d/e/f; ln -s e/f d/l; chmod 750 d/e/f; chmod u+x ./d/e; (cd d/e && chmod 701 f); touch -d 2001-02-03 d/e/f; \
                  cp -p d/e/f g; chmod 640 d/l; touch -h -d 2002-02-02 d/l; f=$(mktemp); chmod 600 $f; echo > ~/h; chmod 604 ~/h; stat -c '%a %Y' d/e/f g; stat -c %Y d/l";
    let out = run(&env).payload(["sh", "-c", script]).output().code(0);
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert!(lines[0].starts_with("640 981") && lines[1].starts_with("701 981") && lines[2].starts_with("1012"), "{}", out.stdout);
    // Where the project is read-only, the home is not.
    env.file("own", "x");
    for (mode, wanted) in [("rw", "ok"), ("ro", "EPERM")] {
        let words = ["./probe", "fchmod", "640", "own", "0", "--", "chmod", "600", "own"];
        let out = run(&env).set(&format!("project.mode={mode}")).payload(words).output().code(0);
        assert_eq!((out.value("fchmod own:").as_str(), out.value("chmod own:").as_str()), (wanted, wanted), "{mode}");
    }
    let script = "echo > ~/h; chmod 600 ~/h; ./probe fchmod 640 $HOME/h 0; touch ~/h";
    run(&env).set("project.mode=ro").payload(["sh", "-c", script]).output().code(0);
    // Programs that do so.
    run(&env)
        .payload(["sh", "-c", "git init -q . && git config user.name a && cp -a probe q && tar cf t probe && mkdir x && tar xf t -C x"])
        .output()
        .code(0);
    // Nothing but what the calls ask for, however they ask.
    if cfg!(target_arch = "x86_64") {
        for (words, wanted) in [
            ("syscall 90 0 0", "EFAULT"),
            ("syscall 90 -1 0", "EFAULT"),
            ("syscall 268 77 1 0", "EFAULT"),
            ("syscall 452 -100 1 0 0x1000", "EPERM"),
            ("syscall 280 -100 1 0 0x1000", "EPERM"),
        ] {
            let out = run(&env).payload(std::iter::once("./probe").chain(words.split(' '))).output().code(0);
            assert!(out.stdout.trim_end().ends_with(wanted), "{words}: {}", out.stdout);
        }
    }
    // Many at once, and one that ends while it asks.
    let script = "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5; do chmod 64$((j % 4)) own; done) & done; wait; (while :; do chmod 640 own; done) & sleep 0.1; kill -9 $!; chmod 600 own";
    run(&env).payload(["sh", "-c", script]).measured().code(0).left_nothing();
}

#[test]
fn sockets_of_the_host_are_out_of_reach() {
    let Some(env) = env() else { return };
    let (path, datagrams) = (env.root().join("stream"), env.root().join("datagrams"));
    let _server = UnixListener::bind(&path).expect("bind");
    let _other = UnixDatagram::bind(&datagrams).expect("bind");
    let name = format!("hamper-test-{}", unique());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("bind");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = tcp.local_addr().expect("address").port();
    let connect = format!("connect 127.0.0.1 {port}");
    refused(
        &env,
        &[
            (&format!("unix {}", path.display()), "EAFNOSUPPORT"),
            (&format!("unix @{name}"), "EAFNOSUPPORT"),
            (&connect, "EAFNOSUPPORT"),
            ("family unix inet inet6 udp netlink-route", "EAFNOSUPPORT"),
        ],
    );
    // A pair of datagram sockets could be connected to a path; a stream cannot.
    let (control, rung) = both(&env, &format!("pair dgram {}", datagrams.display()));
    assert_eq!(control.value(&format!("pair {}:", datagrams.display())), "ok");
    assert_eq!(rung.value("pair dgram:"), "EPERM");
    for kind in ["stream", "seqpacket"] {
        let out = run(&env).payload(["./probe", "pair", kind, &datagrams.display().to_string()]).output().code(0);
        assert_eq!(out.value(&format!("pair {kind}:")), "ok", "programs that need one have one");
        assert_eq!(out.value(&format!("pair {}:", datagrams.display())), "EPROTOTYPE");
    }
    // The host's network is INET, and nothing with a path or a name.
    let host =
        |words: &str| run(&env).args(["--network", "host"]).payload(std::iter::once("./probe").chain(words.split(' '))).output().code(0);
    assert_eq!(host(&connect).value("connect 127.0.0.1:"), "ok");
    for words in [format!("unix {}", path.display()), format!("unix @{name}")] {
        assert!(host(&words).stdout.contains("EAFNOSUPPORT"));
    }
    assert!(host("family inet udp netlink-route").answers("family").iter().all(|(_, result)| result == "ok"));
    assert!(host("family netlink-audit netlink-uevent packet alg vsock").answers("family").iter().all(|(_, result)| result != "ok"));
}

#[test]
fn processes_of_the_caller_outside_are_out_of_reach() {
    let Some(env) = env() else { return };
    let outside = Outside::new();
    let pid = outside.pid();
    refused(
        &env,
        &[
            (&format!("kill {pid} 0"), "EPERM"),
            ("kill -1 0", "EPERM"),
            (&format!("open /proc/{pid}/environ /proc/{pid}/mem /proc/{pid}/maps"), "EACCES"),
            (&format!("readlink /proc/{pid}/cwd /proc/{pid}/exe /proc/{pid}/fd/0"), "EACCES"),
            (&format!("open /proc/{pid}/root/etc/passwd"), "EACCES"),
            (&format!("ptrace {pid}"), "EPERM"),
        ],
    );
    // What the kernel lets an owner set of another process is read-only.
    run(&env).payload(["sh", "-c", &format!("! echo 500 > /proc/{pid}/oom_score_adj")]).output().code(0);
    env.program("sh", ["-c", &format!("echo 500 > /proc/{pid}/oom_score_adj")]).output().code(0);
    let own = std::process::id();
    let (control, rung) = both(&env, &format!("cat /proc/{own}/environ"));
    assert!(control.stdout.contains("PATH="));
    assert!(rung.stdout.contains("EACCES"));
    // Numbers of x86-64: prlimit64, sched_setaffinity, setpriority; process_vm_readv, pidfd_getfd, kcmp.
    if cfg!(target_arch = "x86_64") {
        refused(&env, &[(&format!("syscall 302 {pid} 7 0 0"), "EPERM"), (&format!("syscall 141 0 {pid} 10"), "EPERM")]);
        for words in [format!("syscall 310 {pid} 0 0 0 0 0"), format!("syscall 312 {pid} {pid} 0 0 0"), "syscall 438 3 0 0".into()] {
            let out = run(&env).payload(std::iter::once("./probe").chain(words.split(' '))).output().code(0);
            assert!(out.stdout.trim_end().ends_with("EPERM"), "{words}: {}", out.stdout);
        }
    }
    // Init and hamper itself are outside as well.
    for target in ["$PPID", "$(cut -d' ' -f4 /proc/$PPID/stat)"] {
        let script = format!("./probe kill {target} 9 -- memory /proc/$PPID/mem -- open /proc/$PPID/environ -- exit 4");
        let out = run(&env).payload(["sh", "-c", &script]).output().code(4);
        assert_eq!(out.answers("kill").len(), 1, "{}", out.stdout);
        assert!(out.answers("kill").iter().all(|(_, result)| result == "EPERM"), "{}", out.stdout);
        assert!(out.answers("open").iter().all(|(_, result)| result == "EACCES"), "{}", out.stdout);
    }
    // Its own children it may signal.
    run(&env).payload(["sh", "-c", "sleep 60 & kill -9 $!; wait $!; test $? = 137"]).output().code(0);
}

#[test]
fn ipc_and_watches_of_the_host_are_out_of_reach() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let Some(env) = env() else { return };
    // msgget, semget, shmget of a key that nothing has, without IPC_CREAT: ENOENT is the control's answer.
    for (number, words) in [(29, "29 0x48414d50 4096 0"), (64, "64 0x48414d50 1 0"), (68, "68 0x48414d50 0")] {
        let (control, rung) = both(&env, &format!("syscall {words}"));
        assert_eq!(control.value(&format!("syscall {number}:")), "ENOENT");
        assert_eq!(rung.value(&format!("syscall {number}:")), "EPERM");
    }
    // inotify_init1, mq_open without a name
    refused(&env, &[("syscall 294 0", "EPERM")]);
    let (control, rung) = both(&env, "syscall 240 0 0 0 0");
    assert_eq!((control.value("syscall 240:").as_str(), rung.value("syscall 240:").as_str()), ("EFAULT", "EPERM"));
    // openat2 is as though it did not exist, so that callers take another.
    assert_eq!(both(&env, "syscall 437 0 0 0 0").1.value("syscall 437:"), "ENOSYS");
}

#[test]
fn the_project_home_and_temporary_directory_work() {
    let Some(env) = env() else { return };
    let script = "set -e; echo kept > made; mkdir -p d/e; mv made d/e/made; ln d/e/made d/two; rm d/two; printf '#!/bin/sh\\necho ran\\n' > s; sh s; \
                  echo h >> ~/history; cat ~/history; f=$(mktemp); echo t > $f; cat $f; case $f in $TMPDIR/*) ;; *) exit 9;; esac; echo at $TMPDIR";
    let first = run(&env).payload(["sh", "-c", script]).output().code(0);
    let made = env.project().join("d/e/made");
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::metadata(&made).expect("stat");
    assert_eq!((facts.uid(), facts.gid()), (uid(), gid()));
    assert!(!env.home().join("history").exists(), "the home is not the caller's");
    let temporary = PathBuf::from(first.value("at "));
    assert!(!temporary.exists(), "{}", temporary.display());
    std::fs::remove_dir_all(env.project().join("d")).expect("remove");
    let second = run(&env).payload(["sh", "-c", script]).output().code(0);
    assert_eq!(second.stdout.matches("h\n").count(), 2, "the home is kept: {}", second.stdout);
    // A home that is thrown away, and none.
    let script = "echo x > ~/x; ls ~; echo at $HOME";
    for _ in 0..2 {
        let out = run(&env).set("identity.home=tmp").payload(["sh", "-c", script]).output().code(0);
        assert_eq!(out.stdout.lines().next(), Some("x"));
        assert!(!PathBuf::from(out.value("at ")).exists());
    }
    run(&env).set("identity.home=none").payload(["sh", "-c", "! ls ~"]).output().code(0);
    // Read-only, and none.
    run(&env).set("project.mode=ro").payload(["sh", "-c", "cat hamper.toml >/dev/null && ! touch new"]).output().code(0);
    run(&env).set("project.mode=none").payload(["sh", "-c", &format!("! cat {}/hamper.toml", env.project().display())]).output().code(0);
}

#[test]
fn strict_and_own_filters_keep_what_the_rung_needs() {
    let Some(env) = env() else { return };
    env.file("open.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    // What was made in the moment before a run counts as made by it.
    crate::support::tick();
    let key = private(&env, "id_rsa").display().to_string();
    for filter in ["strict", "open.json"] {
        let words = format!("./probe chmod 644 {key} -- fchmod 644 {key} 3 -- chmod 755 probe -- family unix inet");
        let out = run(&env).set(&format!("security.seccomp={filter}")).payload(words.split(' ')).output().code(0);
        assert_eq!(out.value(&format!("chmod {key}:")), "EPERM", "{filter}");
        assert_eq!(out.value(&format!("fchmod {key}:")), "EPERM", "{filter}");
        assert_eq!(out.value("chmod probe:"), "ok", "{filter}");
        assert!(out.answers("family").iter().all(|(_, result)| result == "EAFNOSUPPORT"), "{filter}: {}", out.stdout);
    }
    for allowed in ["chmod", "@ipc", "socket"] {
        let out = run(&env).set(&format!("security.seccomp_allow=[\"{allowed}\"]")).payload(["true"]).output().code(125);
        out.told(&["seccomp_allow", "isolation = \"landlock\""]);
    }
}

#[test]
fn attributes_of_standard_input_and_of_files_outside_are_out_of_reach() {
    let Some(env) = env() else { return };
    let key = private(&env, "id_rsa");
    let name = key.display().to_string();
    rustix::fs::setxattr(&key, "user.probe", b"x", rustix::fs::XattrFlags::empty()).expect("a file system with attributes");
    refused(&env, &[(&format!("attributes {name}"), "EOPNOTSUPP")]);
    // A file that can merely be read, given as standard input.
    let given = |hamper: Hamper| env.program("sh", ["-c", &format!("{} < {name}", hamper.words())]).output().code(0).answers("stdin");
    let rung = given(run(&env).payload(["./probe", "stdin"]));
    assert!(rung.len() == 5 && rung.iter().all(|(_, result)| result == "EPERM" || result == "EOPNOTSUPP"), "{rung:?}");
    assert_eq!(std::fs::metadata(&key).expect("stat").permissions().mode() & 0o777, 0o600);
    let control = given(env.program("./probe", ["stdin"]));
    assert!(control.len() == 5 && control.iter().all(|(_, result)| result == "ok"), "{control:?}");
    assert_eq!(std::fs::metadata(&key).expect("stat").permissions().mode() & 0o777, 0o666);
    // Programs that meet it go on, and quietly.
    let script = "set -e; mkdir -p a/b; echo x > a/b/c; chmod 640 a/b/c; cp -a a z; tar cf t a; mkdir y; tar xpf t -C y; ls -l a z y/a >/dev/null; \
                  rsync -a a/ w; install -m 755 a/b/c v; stat -c %a z/b/c y/a/b/c w/b/c v";
    let out = run(&env).payload(["sh", "-c", script]).output().code(0);
    assert_eq!(out.stdout, "640\n640\n640\n755\n");
    let said: Vec<&str> = out.stderr.lines().filter(|line| !line.starts_with("hamper:")).collect();
    assert!(said.is_empty(), "{said:?}");
}

/// How many processes of the probe there are with this among their arguments.
fn marked(mark: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(b"./probe\0") && line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())).count()
}

/// All that there are, those that have ended and are not reaped among them: a limit counts these too.
fn processes() -> usize {
    std::fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count()
}

#[test]
fn nobody_outruns_the_end() {
    const LEAD: usize = 1500;
    let Some(env) = env() else { return };
    if landlock_abi() < 6 {
        return;
    }
    let mark = format!("mark-{}", unique());
    let others = processes();
    let lead = LEAD.to_string();
    // Longer than anybody waits for them here.
    let life = (60 * slow()).to_string();
    let grown = || assert!(within(20.0, || marked(&mark) > LEAD / 2), "{}", marked(&mark));
    // The control: what has no sandbox goes on when its parent is gone.
    let mut child = env.program("./probe", ["snake", "100", "4", &mark]).spawn();
    child.await_line("ready");
    assert!(within(5.0, || marked(&mark) > 50));
    child.signal(Signal::KILL);
    child.output().any();
    assert!(marked(&mark) > 10);
    assert!(within(20.0, || marked(&mark) == 0));
    // Hamper killed.
    let mut child = run(&env).payload(["./probe", "snake", &lead, &life, &mark]).spawn();
    child.await_line("ready");
    grown();
    child.signal(Signal::KILL);
    assert!(within(15.0, || marked(&mark) == 0), "{} are left", marked(&mark));
    drop(child);
    assert!(within(20.0, || processes() < others + LEAD / 10));
    // The time limit.
    let hamper = run(&env).set("limits.time=4s").set("lifecycle.stop_timeout=1s");
    let before = std::time::Instant::now();
    hamper.payload(["./probe", "snake", &lead, &life, &mark]).output().code(124);
    assert!(marked(&mark) == 0 && before.elapsed() < seconds(30), "{:?}", before.elapsed());
}

#[test]
fn a_report_tells_of_capabilities_what_is_so() {
    let Some(env) = env() else { return };
    let out = run(&env).args(["--report", "report.json"]).payload(["./probe", "status"]).output().code(0);
    let bounding = out.value("CapBnd:");
    let report: Value = serde_json::from_str(&env.read("report.json")).expect("JSON");
    let list = report["protections"].as_array().expect("a list");
    let got = &list.iter().find(|one| one["name"] == "capabilities").expect("capabilities")["got"];
    assert_eq!(got["sets"], Value::Array(vec![]));
    assert!(got["bounding"].as_str().is_some_and(|words| words.starts_with("unchanged")), "{got}");
    let own = std::fs::read_to_string("/proc/self/status").expect("status");
    assert_eq!(own.lines().find_map(|line| line.strip_prefix("CapBnd:")).map(str::trim), Some(bounding.trim()));
}

#[test]
fn a_worktree_can_be_read_and_a_forged_one_gives_nothing() {
    let Some(env) = env() else { return };
    let main = env.directory("main");
    let git = |directory: &std::path::Path, line: &str| env.program("git", line.split(' ')).directory(directory).output().code(0);
    for line in [
        "init --quiet --initial-branch=main",
        "config user.name A",
        "config user.email a@example.org",
        "commit --quiet --allow-empty -m first",
    ] {
        git(&main, line);
    }
    let tree = env.root().join("tree");
    git(&main, &format!("worktree add --quiet -b side {}", tree.display()));
    crate::support::tick();
    std::fs::write(tree.join("hamper.toml"), "image = \"host\"\nisolation = \"landlock\"\n").expect("write");
    let own = main.join(".git/worktrees/tree");
    let script = format!(
        "git status --short && git log --format=%s; for f in {0}/commondir {0}/gitdir {0}/config.worktree {0}/../../config {0}/../../commondir; do echo x > $f && exit 9; mv $f {0}/y && exit 8; rm -f $f && exit 7; done; exit 0",
        own.display()
    );
    // rm -f of what is not there is no attempt.
    let script = script.replace("rm -f", "rm");
    let out = run(&env).directory(&tree).payload(["sh", "-c", &script]).output().code(0).told(&["a git worktree", "not commit"]);
    assert!(out.stdout.contains("first"), "{}", out.stdout);
    git(&tree, "status --short");
    // A payload makes a repository where it may write, and has the project's `.git` name it.
    let key = private(&env, "id_rsa").display().to_string();
    let forge = format!(
        "F=${{1:-$HOME/fake}}; mkdir -p $F/refs $F/worktrees/x; echo ref: refs/heads/m > $F/HEAD; {{ [ -n \"$1\" ] && mkdir $F/objects; }} || ln -s {} $F/objects; \
         echo $PWD/.git > $F/worktrees/x/gitdir; echo ../.. > $F/worktrees/x/commondir; echo gitdir: $F/worktrees/x > .git; echo $F",
        env.home().display()
    );
    let forged = run(&env).payload(["sh", "-c", &forge]).output().code(0).stdout;
    let words = |isolation: &str| {
        let words = format!("./probe open {key} {0}/id_rsa {0} -- write {0}/owned", format!("{}/objects", forged.trim()));
        run(&env).set(&format!("isolation={isolation}")).payload(words.split(' ')).output().any()
    };
    for isolation in ["landlock", "namespaces"] {
        let out = words(isolation);
        assert!(!out.stderr.contains("a git worktree"), "{isolation}: {}", out.stderr);
        assert!(!out.stdout.is_empty() || isolation == "namespaces", "{}", out.stderr);
        assert!(!out.stdout.contains(": ok"), "{isolation}: {}", out.stdout);
    }
    // The control: the same, made by the caller where no payload writes.
    let elsewhere = env.root().join("elsewhere");
    std::fs::remove_file(env.project().join(".git")).expect("remove");
    env.program("sh", ["-c", &forge, "sh", &elsewhere.display().to_string()]).output().code(0);
    run(&env).payload(["true"]).output().code(0).told(&["a git worktree"]);
}

#[test]
fn a_payload_never_answers_for_its_own_calls() {
    let Some(env) = env() else { return };
    env.file("open.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    crate::support::tick();
    // A filter with a listener, alone and with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; not EBUSY, which holds only as long as the parent.
    refused(&env, &[("listener 0x8", "EPERM"), ("listener 0x28", "EPERM"), ("listener 0x100000008", "EPERM")]);
    // A filter without one can only refuse more.
    let (control, rung) = both(&env, "listener 0");
    assert_eq!((control.value("listener filter:").as_str(), rung.value("listener filter:").as_str()), ("ok", "ok"));
    for filter in ["strict", "open.json"] {
        let out = run(&env).set(&format!("security.seccomp={filter}")).payload(["./probe", "listener", "8"]).output().code(0);
        assert_ne!(out.value("listener filter:"), "ok", "{filter}");
        assert_ne!(out.value("listener filter:"), "EBUSY", "{filter}");
    }
    run(&env).set("security.seccomp_allow=[\"seccomp\"]").payload(["true"]).output().code(125).told(&["seccomp_allow"]);
}

#[test]
fn a_profile_that_the_payload_changes_is_not_obeyed_unseen() {
    let Some(env) = env() else { return };
    run(&env).payload(["sh", "-c", "echo 'network.mode = \"host\"' >> hamper.toml"]).output().code(0);
    run(&env).payload(["true"]).output().code(125).told(&["hamper.toml", "hamper trust"]);
}

#[test]
fn nothing_is_left_when_the_payload_ends() {
    let Some(env) = env() else { return };
    let number = || env.read("daemon.pid").trim().parse::<u32>().expect("a number");
    run(&env)
        .payload(["sh", "-c", "./probe daemon daemon.pid; while [ ! -s daemon.pid ]; do sleep 0.05; done; exit 3"])
        .measured()
        .code(3)
        .left_nothing();
    assert!(!is_alive(number()));
    // Processes that hand on to a child and end, faster than anybody could look at them.
    run(&env).payload(["./probe", "chains", "8"]).measured().code(0).left_nothing();
    // A time limit, with a payload that does not care.
    std::fs::remove_file(env.project().join("daemon.pid")).expect("remove");
    let script = "trap '' TERM; ./probe daemon daemon.pid; while :; do sleep 1; done";
    let limits = |hamper: Hamper| hamper.set("limits.time=1s").set("lifecycle.stop_timeout=1s");
    limits(run(&env)).payload(["sh", "-c", script]).measured().code(124).left_nothing();
    assert!(!is_alive(number()));
    // The control: without hamper it stays.
    std::fs::remove_file(env.project().join("daemon.pid")).expect("remove");
    env.program("./probe", ["daemon", "daemon.pid"]).output().code(0);
    assert!(within(5.0, || std::fs::read_to_string(env.project().join("daemon.pid")).is_ok_and(|text| text.ends_with('\n'))));
    let pid = rustix::process::Pid::from_raw(i32::try_from(number()).expect("small")).expect("a number");
    assert!(is_alive(number()));
    rustix::process::kill_process(pid, Signal::KILL).expect("kill");
}

#[test]
fn nothing_is_left_after_a_kill() {
    let Some(env) = env() else { return };
    let script = "./probe daemon daemon.pid; while [ ! -s daemon.pid ]; do sleep 0.05; done; echo ready; sleep 60";
    let mut child = run(&env).payload(["sh", "-c", script]).spawn();
    child.await_line("ready");
    let daemon: u32 = env.read("daemon.pid").trim().parse().expect("a number");
    let everything = crate::support::descendants(child.pid());
    assert!(everything.len() >= 3 && is_alive(daemon), "{everything:?}");
    child.signal(Signal::KILL);
    assert!(within(5.0, || everything.iter().all(|pid| !is_alive(*pid)) && !is_alive(daemon)));
    // Its temporary directory is thrown away by the next run, and never seen by it.
    let out = run(&env).payload(["sh", "-c", "ls -A $TMPDIR"]).output().code(0);
    assert_eq!(out.stdout, "");
    // Init killed from outside: hamper ends what it has left.
    let mut child = run(&env).payload(["sh", "-c", script]).spawn();
    child.await_line("ready");
    let everything = crate::support::descendants(child.pid());
    let init = *everything.iter().min().expect("init");
    let parents = crate::support::parents();
    assert_eq!(parents.get(&init), Some(&child.pid()));
    rustix::process::kill_process(rustix::process::Pid::from_raw(init.cast_signed()).expect("pid"), Signal::KILL).expect("kill");
    let out = child.output().code(125).told(&["the sandbox was killed"]);
    assert!(!out.stderr.contains("may still run"), "{}", out.stderr);
    assert!(within(5.0, || everything.iter().all(|pid| !is_alive(*pid))));
    // Where hamper has inherited children it cannot do that, and says so.
    let words = run(&env).payload(["sh", "-c", "echo ready; exec sleep 7"]).words();
    let mut child = env.program("sh", ["-c", &format!("sleep 8 >&- 2>&- & exec {words}")]).spawn();
    child.await_line("ready");
    let parents = crate::support::parents();
    let is_init = |pid: &u32| parents.get(pid) == Some(&child.pid()) && parents.values().any(|parent| parent == pid);
    let init = crate::support::descendants(child.pid()).into_iter().find(is_init).expect("init");
    rustix::process::kill_process(rustix::process::Pid::from_raw(init.cast_signed()).expect("pid"), Signal::KILL).expect("kill");
    child.output().code(125).told(&["the sandbox was killed", "may still run"]);
}

#[test]
fn exit_codes_and_signals() {
    let Some(env) = env() else { return };
    run(&env).payload(["sh", "-c", "exit 7"]).output().code(7);
    run(&env).payload(["sh", "-c", "kill -9 $$"]).output().code(137);
    run(&env).payload(["no-such-program"]).output().code(127);
    run(&env).payload(["./hamper.toml"]).output().code(126);
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1), (Signal::USR1, 10)] {
        let mut child = run(&env).payload(["./probe", "signal"]).spawn();
        child.await_line("ready");
        child.signal(signal);
        child.output().code(40 + number);
    }
    let caps = run(&env).payload(["./probe", "status", "--", "landlock", "--", "umask", "--", "fds"]).output().code(0);
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapInh:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(caps.stdout.contains(line), "{line}: {}", caps.stdout);
    }
    // Where signals can be kept inside, init has a domain of its own around the payload's.
    let layers = if caps.value("landlock abi:").parse::<u32>().expect("a number") >= 6 { "2" } else { "1" };
    assert_eq!(caps.value("landlock layers:"), layers);
    assert_eq!(caps.stdout.lines().filter(|line| line.starts_with("fd ")).count(), 3, "{}", caps.stdout);
}

#[test]
fn a_terminal_of_its_own() {
    let Some(env) = env() else { return };
    let line = run(&env).payload(["sh", "-c", "tty; stty size; echo ready; read x; echo got $x > /dev/tty; exit 5"]).words();
    let mut pty = Pty::new();
    pty.resize(33, 101);
    let before = format!("{:?}", pty.settings());
    pty.start(&line, &env);
    pty.expect("/dev/pts/");
    pty.expect("33 101");
    pty.expect("ready");
    pty.send("word\r");
    pty.expect("got word");
    assert_eq!(pty.wait().code(), Some(5), "{}", pty.shown());
    assert_eq!(format!("{:?}", pty.settings()), before);
    // Ctrl-C, and the caller's other terminals.
    let other = Pty::new();
    let name = other.name();
    let line = run(&env).payload(["sh", "-c", &format!("./probe open {name} /dev/ptmx; echo ready; exec sleep 60")]).words();
    let mut pty = Pty::new();
    pty.start(&format!("{line}; echo code=$?"), &env);
    pty.expect(&format!("open {name}: EACCES"));
    pty.expect("open /dev/ptmx: EACCES");
    pty.expect("ready");
    pty.send("\x03");
    pty.expect("code=130");
    let _ = pty.wait();
}

/// What a payload meets on a machine without user namespaces: a limit of its user namespace, or a filter that it was started under; or
/// this machine is one.
fn without_namespaces(env: &TestEnv, by: &str, hamper: Hamper) -> Hamper {
    let words = hamper.words();
    let own = format!("--map-user={} --map-group={}", uid(), gid());
    match by {
        "host" => hamper,
        // The limit of a user namespace holds for those below, the caller's own being the first.
        "limit" => {
            let inner = format!("echo 1 > /proc/sys/user/max_user_namespaces && exec unshare --user {own} sh -c \"$0\"");
            env.program("unshare", ["--user", "--map-root-user", "sh", "-c", &inner, &words])
        }
        _ => env.program(&probe().display().to_string(), ["nouserns", "sh", "-c", &words]),
    }
}

#[test]
fn auto_falls_back_and_says_so() {
    let Some(env) = env() else { return };
    env.profile("image = \"host\"\n");
    let with = |by: &str, arguments: &[&str], payload: &[&str]| {
        let hamper = env.hamper(["run"]).args(arguments.iter().copied()).payload(payload.iter().copied());
        without_namespaces(&env, by, hamper).output().any()
    };
    let key = private(&env, "id_rsa").display().to_string();
    let ways = if has_namespaces() { &[("limit", "(ENOSPC)"), ("filter", "seccomp filter")][..] } else { &[("host", "(ENOSPC)")] };
    for &(by, words) in ways {
        let report = env.root().join("report.json");
        let arguments = ["--report", &report.display().to_string()];
        let out = with(by, &arguments, &["sh", "-c", &format!("umask; ! cat {key}")]).code(0);
        let out = out.told(&["user namespace", words, "held by Landlock and seccomp alone", "not enforced"]);
        assert_eq!(out.stderr.lines().filter(|line| line.starts_with("hamper: ")).count(), 1, "{}", out.stderr);
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&report).expect("report")).expect("JSON");
        let text = report.to_string();
        for wanted in [
            "\"name\":\"isolation\"",
            "\"asked\":\"auto\"",
            "Landlock and seccomp, no namespaces",
            "\"what\":\"processes\"",
            "\"what\":\"protect\"",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        with(by, &[], &["sh", "-c", "exit 9"]).code(9);
        // A plan says what a run would do.
        let plan = without_namespaces(&env, by, env.hamper(["plan"]).payload(["true"])).output().ok();
        assert!(
            plan.contains("enter the Landlock domain") && plan.contains("no namespace of its own") && !plan.contains("  mount "),
            "{plan}"
        );
        // Nobody who asked for namespaces gets less.
        let out = with(by, &["--set", "isolation=namespaces"], &["touch", "ran"]).code(125);
        out.told(&["cannot clone into new namespaces", "hint:"]);
        // What cannot be had stops, with the key and the remedy.
        for (set, key) in [
            ("project.hide=[\"x\"]", "project.hide"),
            ("project.protect=[\"x\"]", "project.protect"),
            ("limits.memory=1G", "limits"),
            ("require=[\"protect\"]", "protect"),
            // Where no cgroup can be had, the preset's `require` names that first.
            ("security.preset=untrusted", "require|security.preset"),
        ] {
            let out = with(by, &["--set", set], &["touch", "ran"]);
            assert_eq!(out.status.code(), Some(125), "{set}: {}", out.stderr);
            assert!(key.split('|').any(|key| out.stderr.contains(key)), "{set}: {}", out.stderr);
        }
        with(by, &["-v", "/usr:/mnt:ro"], &["touch", "ran"]).code(125).told(&["mounts cannot be had", "hint:"]);
        // Nor can another image.
        let out = with(by, &["--image", &image("busybox"), "--set", "identity.map=single"], &["touch", "ran"]).code(125);
        out.told(&["hint:"]);
        assert!(!env.project().join("ran").exists());
    }
    if !has_namespaces() {
        return;
    }
    // Where there are namespaces, they are taken.
    let out = env.hamper(["run"]).payload(["sh", "-c", "echo $$"]).output().code(0).silent();
    assert_eq!(out.stdout.trim(), "2");
}

#[test]
fn root_of_a_namespace_gets_no_more() {
    let Some(env) = env().filter(|_| has_namespaces()) else { return };
    env.profile("image = \"host\"\n");
    let key = private(&env, "id_rsa").display().to_string();
    let words = env
        .hamper(["run"])
        .payload(["./probe", "status", "--", "open", &key, "--", "chmod", "644", &key, "--", "chmod", "755", "probe"])
        .words();
    let script = format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {words}");
    let out = env.program("unshare", ["--user", "--map-root-user", "sh", "-c", &script]).output().code(0);
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t0\t0\t0\t0"] {
        assert!(out.stdout.contains(line), "{line}: {}", out.stdout);
    }
    assert_eq!(out.value(&format!("open {key}:")), "EACCES");
    assert_eq!(out.value(&format!("chmod {key}:")), "EPERM");
    assert_eq!(out.value("chmod probe:"), "ok");
    out.told(&["user.max_user_namespaces is 0", "held by Landlock"]);
}

#[test]
fn where_nobody_can_be_asked_modes_stay_as_they_are() {
    let Some(env) = env() else { return };
    let key = private(&env, "id_rsa").display().to_string();
    let report = env.root().join("report.json").display().to_string();
    let words = env.hamper(["run", "--report", &report]).payload(["./probe", "chmod", "644", &key, "--", "chmod", "755", "probe"]).words();
    let out = env.program(&probe().display().to_string(), ["listened", "sh", "-c", &words]).output().code(0);
    assert_eq!(out.value(&format!("chmod {key}:")), "ENOSYS");
    assert_eq!(out.value("chmod probe:"), "ENOSYS");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&report).expect("report")).expect("JSON");
    assert!(report["missed"][0]["what"].as_str().is_some_and(|what| what.contains("asks the parent")), "{report}");
}

#[test]
fn control_z_and_fg_without_namespaces() {
    let Some(env) = env() else { return };
    let line = run(&env).payload(["sh", "-c", "echo ready; read x; chmod 755 probe && echo got $x; exit 5"]).words();
    let mut pty = Pty::new();
    pty.start("exec dash -i", &env);
    pty.expect("$ ");
    pty.send(&format!("{line}\r"));
    pty.expect("ready\r\n");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("$ ");
    pty.send("fg\r");
    assert!(within(5.0, || pty.is_raw()), "it has the terminal again");
    pty.send("word\r");
    pty.expect("got word");
    pty.expect("$ ");
    pty.send("echo code=$?\r");
    pty.expect("code=5");
    pty.send("exit\r");
    let _ = pty.wait();
}

#[test]
fn a_failure_at_a_terminal_without_namespaces() {
    let Some(env) = env() else { return };
    let words = run(&env).payload(["true"]).words();
    let human = Pty::new().run(&words.replacen("'run'", "'plan'", 1), &env);
    let steps: Vec<&str> = human.lines().filter(|line| line.get(..4).is_some_and(|number| number.trim().parse::<u32>().is_ok())).collect();
    let first = steps.iter().position(|line| line.contains("take in processes")).expect("a step");
    for (at, _) in steps.iter().enumerate().skip(first) {
        let mut pty = Pty::new();
        let before = format!("{:?}", pty.settings());
        pty.start(&format!("HAMPER_FAIL_AT={at}:5 {words}"), &env);
        assert!([125, 126].map(Some).contains(&pty.wait().code()), "{}", pty.shown());
        assert!(pty.shown().contains("Input/output error"), "{}", pty.shown());
        assert_eq!(format!("{:?}", pty.settings()), before);
    }
}

#[test]
fn the_rung_must_not_be_fallen_to_for_another_reason() {
    if !has_namespaces() {
        return;
    }
    let env = TestEnv::new();
    env.profile("image = \"host\"\n");
    let plan = env.hamper(["plan"]).payload(["true"]).output().ok();
    let steps: Vec<&str> = plan.lines().collect();
    for errno in [1, 13, 28] {
        for (step, _) in steps.iter().enumerate().filter(|(_, words)| words.contains("clone into") || words.contains("mount /proc")) {
            let out = env.hamper(["run"]).payload(["true"]).env("HAMPER_FAIL_AT", format!("{step}:{errno}")).output().code(125);
            assert!(!out.stderr.contains("Landlock"), "{}", out.stderr);
        }
    }
}

#[test]
fn what_needs_namespaces_stops_with_key_and_remedy() {
    let Some(env) = env() else { return };
    env.profile("image = \"host\"\nisolation = \"landlock\"\n");
    for (set, key) in [
        ("root.mode=keep", "root.mode"),
        ("root.mode=scratch", "root.mode"),
        ("root.tmp=16M", "root.tmp"),
        ("root.shm=16M", "root.shm"),
        ("project.mode=scratch", "project.mode"),
        ("project.target=/elsewhere", "project.target"),
        ("identity.user=\"12345\"", "identity.user"),
        ("identity.map=range", "identity.map"),
        ("security.caps=[\"CHOWN\"]", "security.caps"),
        ("security.nested_userns=true", "security.nested_userns"),
        ("security.landlock=off", "security.landlock"),
        ("security.seccomp=none", "security.seccomp"),
        ("security.preset=build", "security.preset"),
        ("hostname=x", "hostname"),
        ("lifecycle.init=false", "lifecycle.init"),
        ("network.hosts={\"a.b\" = \"10.0.0.1\"}", "network.hosts"),
    ] {
        let out = run(&env).set(set).payload(["touch", "ran"]).output().code(125);
        out.told(&[&format!("{key} needs namespaces"), "hint:"]);
    }
    let secret = ["--set", "secrets.t.from=env:PATH"];
    run(&env).args(secret).payload(["touch", "ran"]).output().code(125).told(&["secrets needs namespaces"]);
    run(&env).args(["-u", "0"]).payload(["touch", "ran"]).output().code(125).told(&["identity.user"]);
    for (set, key) in
        [("project.hide=[\"x\"]", "project.hide"), ("project.protect=[\"x\"]", "project.protect"), ("limits.pids=9", "limits.pids")]
    {
        run(&env).set(set).payload(["touch", "ran"]).output().code(125).told(&[key, "landlock"]);
    }
    run(&env).set("require=[\"protect\"]").payload(["touch", "ran"]).output().code(125).told(&["protect is required"]);
    env.hamper(["run", "--image", &image("busybox"), "--set", "isolation=landlock"]).payload(["touch", "ran"]).output().code(125);
    assert!(!env.project().join("ran").exists());
    // What it can give, it gives.
    run(&env)
        .set("require=[\"landlock\"]")
        .set("root.mode=ro")
        .set("limits.ulimits.nofile=9")
        .payload(["sh", "-c", "test $(ulimit -n) = 9"])
        .output()
        .code(0);
}
