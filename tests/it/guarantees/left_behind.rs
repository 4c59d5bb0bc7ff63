//! What a run is given and what it leaves: streams that would lead out, and files that would deceive, hang or break the runs after it.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;

use crate::require;
use crate::support::{Hamper, TestEnv, has_rung, isolations, probe, seconds};

/// A project of image `host`, with the probe in it.
fn env() -> TestEnv {
    let env = TestEnv::new();
    env.executable("probe", std::fs::read(probe()).expect("probe"));
    env.profile("image = \"host\"\n");
    env
}

/// The code, and what was said on both streams, of a command with this as its standard input.
fn with_input(command: Hamper, input: impl Into<OwnedFd>) -> (Option<i32>, String, String) {
    let mut command = command.into_command();
    let out = command.stdin(Stdio::from(input.into())).output().expect("start");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_socket_as_standard_input_leads_to_nobody_else() {
    let env = env();
    let peer = TcpListener::bind("127.0.0.1:0").expect("peer");
    let service = TcpListener::bind("127.0.0.1:0").expect("service");
    let port = service.local_addr().expect("address").port().to_string();
    let tcp = || TcpStream::connect(peer.local_addr().expect("address")).expect("connect");
    let udp = || UdpSocket::bind("127.0.0.1:0").expect("bind");
    let attempt = ["reconnect", "127.0.0.1", &port];
    let reached = "reconnect 127.0.0.1: ok\nreconnect send: ok\n";

    // The control: the same program without hamper.
    assert!(with_input(env.program("./probe", attempt), tcp()).1.ends_with(reached));
    for isolation in isolations(&env) {
        let run = |network: &str| env.hamper(["run", "--network", network]).set(isolation);
        let payload = || std::iter::once("./probe").chain(attempt);
        for socket in [OwnedFd::from(tcp()), udp().into(), peer.try_clone().expect("listener").into()] {
            let (code, out, err) = with_input(run("none").payload(payload()), socket);
            assert_eq!((code, out.as_str()), (Some(125), ""), "{isolation}: {err}");
            assert!(err.contains("standard input is a socket") && err.contains("hint: pass a pipe: cat | hamper run ..."), "{err}");
        }
        let (code, out, err) = with_input(run("host").payload(payload()), tcp());
        assert!(code == Some(0) && out.ends_with(reached), "{isolation}: {out}{err}");
        // What speaks with one peer for good may be there: that is what rsh-like programs and supervisors pass.
        let (near, far) = UnixStream::pair().expect("pair");
        std::io::Write::write_all(&mut &far, b"word\n").expect("write");
        drop(far);
        let (code, out, err) = with_input(run("none").payload(["cat"]), near);
        assert_eq!((code, out.as_str()), (Some(0), "word\n"), "{isolation}: {err}");
    }
}

#[test]
fn a_datagram_socket_as_standard_input_leads_to_no_service_of_the_host() {
    let env = env();
    let path = env.root().join("service");
    let service = UnixDatagram::bind(&path).expect("service");
    service.set_nonblocking(true).expect("flag");
    let heard = || service.recv(&mut [0; 8]).is_ok();
    let name = path.display().to_string();
    let attempt = || ["./probe", "reunix", &name];
    let socket = || UnixDatagram::unbound().expect("socket");
    drop(with_input(env.program("./probe", ["reunix", &name]), socket()));
    assert!(heard(), "the control");
    for isolation in isolations(&env) {
        let (near, _far) = UnixDatagram::pair().expect("pair");
        for socket in [socket(), near] {
            let (code, _, err) = with_input(env.hamper(["run"]).set(isolation).payload(attempt()), socket);
            assert_eq!(code, Some(125), "{isolation}: {err}");
        }
        assert!(!heard(), "{isolation}");
    }
    if !has_rung(&env) {
        return;
    }
    // With the host's network, its services are still shut on the lower rung.
    let run = env.hamper(["run", "--network", "host"]).set("isolation=landlock");
    let (code, _, err) = with_input(run.payload(attempt()), socket());
    assert!(code == Some(125) && err.contains("the host's services"), "{err}");
    assert!(!heard());
}

#[test]
fn what_takes_a_writable_directorys_place_keeps_its_modes() {
    let env = env();
    if !has_rung(&env) {
        return;
    }
    env.file("own", "x");
    let project = env.project();
    let aside = env.root().join("aside");
    let key = project.join("key").display().to_string();
    let other = format!("{}/sub", project.display());
    let script = format!(
        "echo ready; read x; exec 2>&1; ./probe chmod 777 {key} -- chmod 777 {project} -- fchmod 777 {key} 3; touch -d 1999-01-01 {key} && echo touched; \
         ./probe chmod 640 own; mkdir -p {other}/new; exec 3>gone; rm gone; chmod 600 /proc/self/fd/3 && echo nameless",
        project = project.display()
    );
    let run = |without: bool| {
        let mut child = if without {
            env.program("sh", ["-c", &script]).spawn()
        } else {
            env.hamper(["run"]).set("isolation=landlock").payload(["sh", "-c", &script]).spawn()
        };
        child.await_line("ready");
        // As an editor, a checkout or a deployment does while it runs.
        std::fs::rename(&project, &aside).expect("rename");
        std::fs::create_dir(&project).expect("directory");
        std::fs::write(&key, "secret").expect("file");
        for (path, mode) in [(key.as_str(), 0o600), (&project.display().to_string(), 0o700)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
        }
        std::io::Write::write_all(child.child.stdin.as_mut().expect("stdin"), b"go\n").expect("write");
        let seen = child.output().any();
        let mode = std::fs::metadata(&key).expect("stat").permissions().mode() & 0o777;
        std::fs::remove_dir_all(&project).expect("remove");
        std::fs::rename(&aside, &project).expect("rename");
        (seen, mode)
    };
    // The control: the same attempt without hamper.
    let (control, mode) = run(true);
    assert!(mode == 0o777 && control.stdout.contains("touched"), "{mode:o} {control:?}");
    let (seen, mode) = run(false);
    assert_eq!(mode, 0o600, "{seen:?}");
    assert_eq!(seen.value(&format!("chmod {key}:")), "EPERM");
    assert_eq!(seen.value(&format!("chmod {}:", project.display())), "EPERM");
    assert!(!seen.stdout.contains("touched"), "{seen:?}");
    // What the payload may write is still that, by whatever name.
    assert_eq!(seen.value("chmod own:"), "ok");
    assert!(seen.stdout.contains("nameless"), "{seen:?}");
}

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0)
        .expect("mkfifo");
}

#[test]
fn a_pipe_in_the_reports_place_holds_no_run_up() {
    let env = env();
    let report = env.project().join("report.json");
    let path = report.display().to_string();
    // By the payload of an earlier run.
    env.hamper(["run"]).payload(["mkfifo", "report.json"]).output().code(0);
    let run = || env.hamper(["run", "--report", &path]).limit(seconds(30)).payload(["./probe", "exit", "3"]);
    let refused = run().output().code(125).told(&["nobody reads from this pipe: ", "hint: read from it first: cat '"]);
    assert!(refused.took < seconds(3), "{:?}", refused.took);
    // The same by a descriptor: a shell's `3<>` is a reader, and never reads.
    let line = run().words();
    let own = line.replace(&path, "/dev/fd/3");
    env.program("sh", ["-c", &format!("{own} 3>/dev/null")]).output().code(3);
    // The control: somebody reads.
    let script = format!("cat report.json > got & {line}; code=$?; wait; exit $code");
    env.program("sh", ["-c", &script]).output().code(3);
    assert!(env.read("got").contains("\"code\": 3"));
    // Somebody could read, and does not: the payload's code is told, and the run ends.
    let held = rustix::fs::open(&report, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK, rustix::fs::Mode::empty()).expect("pipe");
    rustix::pipe::fcntl_setpipe_size(&held, 4096).expect("a small pipe");
    let late = run().output().code(125).told(&["ended with code 3, but the report cannot be written: Connection timed out"]);
    assert!(late.took < seconds(20), "{:?}", late.took);
}

#[test]
fn a_pipe_of_another_user_gets_no_report() {
    require!(crate::support::subuid().is_some(), "subordinate ids");
    let env = env();
    let pipe = env.project().join("pipe");
    make_pipe(&pipe);
    let run = format!(
        "cat pipe > got & {}; code=$?; wait; exit $code",
        env.hamper(["run", "--report", "pipe"]).payload(["./probe", "exit", "3"]).words()
    );
    // The control: the same pipe, of the caller's own.
    env.program("sh", ["-c", &run]).output().code(3);
    assert!(env.read("got").contains("\"code\": 3"));
    env.program("unshare", ["--map-auto", "--map-root-user", "sh", "-c", "chmod 666 pipe && chown 1 pipe"]).output().code(0);
    env.program("sh", ["-c", &run]).output().code(125).told(&["belongs to another user", "hint: "]);
    assert_eq!(env.read("got"), "");
}

/// Makes the project itself a repository whose configuration starts a program, and its own one none.
const BARE: &str = "mv .git/HEAD . && cp -r .git/objects .git/refs . && printf '[core]\\n\\trepositoryformatversion = 0\\n\\tbare = false\\n\\t\
                    worktree = %s\\n\\tfsmonitor = \"touch %s/obeyed;false\"\\n' \"$PWD\" \"$PWD\" > config";

fn repository(env: &TestEnv) {
    let script = "git init -q . && echo x > f && git add f && git -c user.name=n -c user.email=e commit -qm x";
    env.program("sh", ["-c", script]).output().code(0);
}

#[test]
fn a_project_that_becomes_a_repository_itself_is_told() {
    for isolation in isolations(&env()) {
        let env = env();
        repository(&env);
        let run = |script: &str| env.hamper(["run"]).set(isolation).payload(["sh", "-c", script]).output().any();
        let head = format!("{} is gone", env.project().join(".git/HEAD").display());
        let bare = format!("{} has become a repository itself", env.project().display());
        // The control: what git and programs do in a repository is not worth a word.
        let seen = run(
            "git -c user.name=n -c user.email=e commit -q --allow-empty -m y && mkdir objects refs && rmdir objects refs && echo > new",
        );
        assert!(seen.status.success() && !seen.stderr.contains(" git "), "{isolation}: {seen:?}");
        let seen = run(BARE).code(0);
        assert!(seen.stderr.contains(&head) && seen.stderr.contains(&bare), "{isolation}: {}", seen.stderr);
        // And the control of that: git on the host obeys it.
        env.program("git", ["status"]).output().any();
        assert!(env.project().join("obeyed").exists(), "{isolation}");
        // Told once, by the run that has done it.
        let seen = run("echo > newer");
        assert!(!seen.stderr.contains(&head) && !seen.stderr.contains(&bare), "{isolation}: {}", seen.stderr);
        // Also where there was no repository, and in the other form that git knows.
        let plain = self::env();
        let name = format!("{} has become a repository itself", plain.project().display());
        let run = |script: &str| plain.hamper(["run"]).set(isolation).payload(["sh", "-c", script]).output().code(0);
        assert!(!run("echo > HEAD; mkdir objects").stderr.contains(&name));
        assert!(run("mkdir refs").stderr.contains(&name));
        assert!(!run("true").stderr.contains(&name));
        assert!(run("rmdir refs; echo x > commondir").stderr.contains(&name));
    }
}

#[test]
fn a_repository_that_was_there_did_not_appear() {
    let env = env();
    repository(&env);
    env.profile("image = \"host\"\n[project]\nprotect = [\"f\"]\n");
    let run = |script: &str| env.hamper(["run"]).payload(["sh", "-c", script]).output().code(0).stderr;
    for script in ["true", "echo > new"] {
        assert_eq!(run(script), "");
    }
    // The control: one that does, and what git obeys in one that was there.
    assert!(run("echo x > .git/commondir").contains(".git/commondir appeared"));
    let plain = self::env();
    let made = plain.hamper(["run"]).payload(["mkdir", ".git"]).output().code(0);
    assert!(made.stderr.contains(".git appeared"), "{}", made.stderr);
}

#[test]
fn names_that_a_payload_has_chosen_drive_no_terminal() {
    let env = env();
    repository(&env);
    let run = |script: &str| env.hamper(["run"]).payload(["sh", "-c", script]).output().code(0);
    run("mkdir -p \".git/worktrees/$(printf 'a\\033]0;title\\007\\nhamper: b')\"");
    let seen = run("for tree in .git/worktrees/*; do touch \"$tree/commondir\"; done");
    assert!(seen.stderr.contains("a\\u{1b}]0;title\\u{7}\\nhamper: b/commondir appeared"), "{}", seen.stderr);
    assert!(!seen.stderr.contains(['\u{1b}', '\u{7}']), "{}", seen.stderr);
    let again = run("true");
    assert!(!again.stderr.contains(['\u{1b}', '\u{7}']), "{}", again.stderr);
}

#[test]
fn a_name_that_is_no_text_is_guarded_as_it_is() {
    let env = env();
    repository(&env);
    let run = |script: &str| env.hamper(["run"]).payload(["sh", "-c", script]).output();
    let make = "for name in \"$(printf '\\377w')\" \"$(printf '\\357\\277\\275w')\"; do mkdir -p \".git/worktrees/$name\"; \
                echo real > \".git/worktrees/$name/commondir\"; done";
    let write = "for file in .git/worktrees/*/commondir; do echo changed > \"$file\"; done";
    run("mkdir -p \".git/worktrees/$(printf '\\377w')\"").code(0);
    run("true").code(0);
    env.program("sh", ["-c", make]).output().code(0);
    run(write).any();
    assert_eq!(env.program("sh", ["-c", "cat .git/worktrees/*/commondir"]).output().ok(), "real\nreal\n");
    // The control: without protection they can be written.
    env.hamper(["run"]).set("project.protect=[]").payload(["sh", "-c", write]).output().any();
    assert_eq!(env.program("sh", ["-c", "cat .git/worktrees/*/commondir"]).output().ok(), "changed\nchanged\n");
    // A sibling of a name that is missing.
    env.program("sh", ["-c", "rm -rf .git/hooks; echo > \".git/$(printf '\\377odd')\""]).output().code(0);
    run("true").code(0);
}

#[test]
fn what_killed_runs_have_left_is_cleared_by_the_next_one() {
    const KILLED: usize = 11;
    for map in crate::support::maps() {
        let env = TestEnv::alone();
        env.run("busybox").map(map).sh("true").code(0);
        let left = || {
            let scratch = std::fs::read_dir(env.store()).expect("store").flatten().filter(|entry| entry.file_name() != "layers");
            let slots = scratch.filter_map(|entry| std::fs::read_dir(entry.path()).ok()).flatten().flatten();
            slots.filter(|slot| slot.path().join("u/big").exists()).count()
        };
        let script = "head -c 100000 /dev/zero > /big; echo ready; sleep 60";
        let payload = || env.run("busybox").map(map).args(["--entrypoint", ""]).payload(["sh", "-c", script]);
        let mut running: Vec<_> = (0..KILLED).map(|_| payload().spawn()).collect();
        running.iter_mut().for_each(|child| drop(child.await_line("ready")));
        drop(running);
        // The control: nobody has cleared it yet.
        assert_eq!(left(), KILLED, "{map}");
        env.run("busybox").map(map).sh("true").code(0);
        assert!(crate::support::within(20.0, || left() == 0), "{map}: {}", left());
    }
}

#[test]
fn a_home_that_a_payload_has_closed_is_open_for_the_next_run() {
    let rung = isolations(&env()).into_iter().filter(|isolation| isolation.ends_with("landlock")).map(str::to_owned);
    let settings = crate::support::maps().into_iter().map(|map| format!("identity.map={map}")).chain(rung);
    for setting in settings {
        let env = env();
        let run = |script: &str| env.hamper(["run"]).set(&setting).payload(["sh", "-c", script]).output();
        // The control: closed it is closed, for the run that has done it.
        run("echo kept > ~/kept && chmod 000 ~ && ! cat ~/kept && ! touch ~/new").code(0);
        assert_eq!(run("touch ~/new && cat ~/kept").code(0).stdout, "kept\n", "{setting}");
    }
    // With an overlay over what the image has there.
    let env = TestEnv::new();
    let run = |script: &str| env.run("debian").sh(script);
    run("echo kept > ~/kept && chmod 000 ~ && ! cat ~/kept").code(0);
    assert_eq!(run("touch ~/new && cat ~/kept").code(0).stdout, "kept\n");
}
