//! At a terminal: a prompt, keys, job control, the window's size, and the terminal as it was when all is over.

use rustix::termios::LocalModes;

use crate::require;
use crate::support::pty::Pty;
use crate::support::{TestEnv, has_image, image, maps, seconds, slow, ticks, within};

fn node(env: &TestEnv, map: &str) -> String {
    env.hamper(["run", "--image", &image("node14")]).map(map).words()
}

#[test]
fn node_at_a_prompt() {
    require!(has_image("node14"), "the test images");
    for map in maps() {
        let env = TestEnv::new();
        let mut pty = Pty::new();
        let before = format!("{:?}", pty.settings());
        pty.start(&node(&env, map), &env);
        pty.expect("Welcome to Node.js v14.21.3");
        pty.expect("> ");
        assert!(pty.is_raw(), "keys go to the payload as they are");
        pty.send("1+1\r");
        pty.expect("\n");
        pty.expect("2");
        pty.expect("> ");
        pty.send("\x04");
        assert_eq!(pty.wait().code(), Some(0), "{}", pty.shown());
        assert_eq!(format!("{:?}", pty.settings()), before, "the terminal is as it was");
    }
}

#[test]
fn control_c_reaches_the_payload_and_not_us() {
    require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    let mut pty = Pty::new();
    pty.start(&node(&env, "auto"), &env);
    pty.expect("> ");
    pty.send("while(true){}\r");
    // Until it is at it.
    std::thread::sleep(std::time::Duration::from_millis(300) * slow());
    pty.send("\x03");
    pty.expect("interrupted");
    pty.expect("> ");
    pty.send("process.exit(7)\r");
    assert_eq!(pty.wait().code(), Some(7));
    // Where the payload does not care, it is ended: 128 + SIGINT.
    let mut pty = Pty::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; exec sleep 60"]).words();
    pty.start(&format!("{line}; echo code=$?"), &env);
    pty.expect("ready");
    pty.send("\x03");
    pty.expect("code=130");
    let _ = pty.wait();
}

#[test]
fn control_z_and_fg() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x; echo got $x; exit 5"]).words();
    let mut pty = Pty::new();
    pty.start("exec dash -i", &env);
    pty.expect("$ ");
    pty.send(&format!("{line}\r"));
    pty.expect("ready\r\n");
    assert!(pty.is_raw());
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("$ ");
    pty.send("echo here\r");
    pty.expect("\nhere");
    pty.send("jobs\r");
    pty.expect("Stopped");
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

/// What is typed is meant for all that runs there, also for the script that hamper was started from.
#[test]
fn control_z_stops_the_job_that_we_are_part_of() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x; echo got $x; exit 5"]).words();
    let script = env.root().join("job");
    std::fs::write(&script, format!("{line}\necho code=$?\n")).expect("script");
    let mut pty = Pty::new();
    pty.start("exec dash -i", &env);
    pty.expect("$ ");
    pty.send(&format!("sh {}\r", script.display()));
    pty.expect("ready\r\n");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("$ ");
    pty.send("fg\r");
    assert!(within(5.0, || pty.is_raw()), "it has the terminal again");
    pty.send("word\r");
    pty.expect("got word");
    pty.expect("code=5");
    pty.expect("$ ");
    pty.send("exit\r");
    let _ = pty.wait();
}

/// Where nobody could continue us, nothing stops, as the kernel has it for every job.
#[test]
fn control_z_without_a_shell_stops_nothing() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x; echo got $x; exit 5"]).words();
    let mut pty = Pty::new();
    pty.start(&line, &env);
    pty.expect("ready\r\n");
    pty.send("\x1a");
    pty.send("word\r");
    pty.expect("got word");
    assert_eq!(pty.wait().code(), Some(5));
}

/// Also where the payload takes all keys as they are and stops at this one by itself, as editors do.
#[test]
fn control_z_that_a_payload_reads_stops_the_job() {
    let env = TestEnv::new();
    let payload = "stty raw -echo; echo ready; dd bs=1 count=1 of=/dev/null 2>/dev/null; stty sane; kill -TSTP $$; echo on";
    let run = env.run("busybox").args(["--entrypoint", ""]);
    let script = env.root().join("job");
    std::fs::write(&script, format!("{}\necho code=$?\n", run.payload(["sh", "-c", payload]).words())).expect("script");
    let mut pty = Pty::new();
    pty.start("exec dash -i", &env);
    pty.expect("$ ");
    pty.send(&format!("sh {}\r", script.display()));
    pty.expect("ready");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("$ ");
    pty.send("fg\r");
    pty.expect("on\r\n");
    pty.expect("code=0");
    pty.expect("$ ");
    pty.send("exit\r");
    let _ = pty.wait();
}

/// What is no terminal is written where it is at, and what is for a terminal alone is not written there.
#[test]
fn a_file_beside_a_terminal_is_not_overwritten() {
    let env = TestEnv::new();
    let run = |mode: &str, script: &str| {
        let run = env.run("busybox").set(&format!("lifecycle.tty={mode}")).args(["--entrypoint", ""]);
        run.payload(["sh", "-c", script]).words()
    };
    let log = env.root().join("log");
    let of = |line: String| {
        let _ = Pty::new().run(&line.replace("LOG", &log.display().to_string()), &env);
        std::fs::read_to_string(&log).expect("a log").replace('\r', "")
    };
    let (always, auto) = (run("always", "echo inside"), run("auto", "echo secret >/dev/tty; echo error >&2"));
    assert_eq!(of(format!("echo before >LOG; {always} >>LOG")), "before\ninside\n");
    assert_eq!(of(format!("{{ echo before; {always}; echo after; }} >LOG")), "before\ninside\nafter\n");
    assert_eq!(of(format!("echo before >LOG; {auto} >/dev/null 2>>LOG")), "before\nerror\n");
    let many = run("always", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done");
    assert_eq!(of(format!("{many} | cat >LOG")), (0..3000).map(|number| format!("{number}\n")).collect::<String>());
}

/// Then its keys are nobody's: Ctrl-C is a signal, and nothing keeps us busy.
#[test]
fn a_terminal_that_the_payload_has_left_is_the_callers_again() {
    let env = TestEnv::new();
    let script = "echo ready; exec >/dev/null 2>&1 </dev/null; sleep 1000 & wait";
    let mut pty = Pty::new();
    pty.start(&format!("exec {}", env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", script]).words()), &env);
    pty.expect("ready");
    assert!(within(5.0, || !pty.is_raw()), "it is raw");
    let used = || -> u64 { crate::support::descendants(pty.pid()).into_iter().chain([pty.pid()]).filter_map(ticks).sum() };
    let before = used();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(used() - before < 50, "{} hundredths of a second in two seconds", used() - before);
    pty.send("\x03");
    assert_eq!(pty.wait().code(), Some(130), "{}", pty.shown());
}

/// The payload has a terminal, and what is no terminal outside is passed on as if it was typed there.
#[test]
fn a_payload_that_always_has_a_terminal_reads_what_is_no_terminal() {
    let env = TestEnv::new();
    let run = |script: &str| {
        let run = env.run("busybox").set("lifecycle.tty=always").args(["--entrypoint", ""]);
        run.limit(seconds(15)).payload(["sh", "-c", script])
    };
    let of = |script: &str, input: &str| run(script).stdin(input).output().ok().replace('\r', "");
    let many: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    for input in ["hi\n", "no end of line", "", &many] {
        assert!(of("cat", input) == input, "{} bytes", input.len());
    }
    assert_eq!(of("sleep 1; cat", "hi\n"), "hi\n", "also where it reads late");
    assert_eq!(of("test -t 0 && test -t 1 && stty size", "hi\n"), "24 80\n");
    let seen = run("echo told >&2; exec cat").stdin("x\n").output().code(0);
    assert_eq!(seen.stdout, "told\r\nx\r\n");
    // Beside a terminal: its size, and keys that are signals.
    let out = Pty::new().run(&format!("echo word | {}", run("stty size; cat").words()), &env);
    assert_eq!(out, "24 80\r\nword\r\n");
    let mut pty = Pty::new();
    pty.resize(30, 90);
    pty.start(&format!("sleep 1000 | {}; echo code=$?", run("stty size; exec cat").words()), &env);
    pty.expect("30 90");
    assert!(!pty.is_raw());
    pty.send("\x03");
    assert!(within(10.0, || !pty.is_running()), "{}", pty.shown());
}

#[test]
fn the_end_is_typed_also_where_the_output_is_no_terminal() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["cat"]).words();
    let mut pty = Pty::new();
    pty.start(&format!("{line} | sed s/^/seen:/; echo over"), &env);
    pty.send("word\r");
    std::thread::sleep(std::time::Duration::from_millis(500) * slow());
    pty.send("\x04");
    pty.expect("seen:word");
    pty.expect("over");
    let _ = pty.wait();
}

/// What nobody has typed stops nobody but us: who watches over us outside goes on.
#[test]
fn a_payload_that_stops_itself_does_not_stop_its_watcher() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; kill -STOP $$; echo on"]).words();
    let mut pty = Pty::new();
    pty.start(&format!("timeout 3 {line}; echo over=$?"), &env);
    pty.expect("ready");
    pty.expect("over=124");
    let _ = pty.wait();
    // At a shell it is a job that has stopped.
    let mut pty = Pty::new();
    pty.start("exec dash -i", &env);
    pty.expect("$ ");
    pty.send(&format!("{line}\r"));
    pty.expect("ready");
    pty.expect("Stopped");
    pty.expect("$ ");
    pty.send("fg\r");
    pty.expect("on\r\n");
    pty.expect("$ ");
    pty.send("exit\r");
    let _ = pty.wait();
}

/// A run with a time limit never stops its clock, and so is not stopped.
#[test]
fn control_z_leaves_a_run_with_a_time_limit_alone() {
    let env = TestEnv::new();
    let run = env.run("busybox").set("limits.time=60s").args(["--entrypoint", ""]);
    let line = run.payload(["sh", "-c", "echo ready; read x; echo got $x; exit 5"]).words();
    for line in [line.clone(), format!("{line} 2>&1 | cat")] {
        let mut pty = Pty::new();
        pty.start("exec bash --norc -i", &env);
        pty.expect("$ ");
        pty.send(&format!("{line}\r"));
        pty.expect("ready\r\n");
        pty.send("\x1a");
        // One that has its line before the stop has come through ends, and its job is what is left of it.
        std::thread::sleep(std::time::Duration::from_millis(300) * slow());
        pty.send("word\r");
        pty.expect("got word");
        pty.expect("$ ");
        pty.send("exit ${PIPESTATUS[0]}\r");
        assert_eq!(pty.wait().code(), Some(5), "{line}");
    }
}

/// A terminal that takes nothing holds the payload up, and neither its limit nor who ends us.
#[test]
fn a_screen_that_takes_nothing_keeps_no_run_alive() {
    let env = TestEnv::new();
    for (mode, set) in [("auto", "limits.time=2s"), ("never", "limits.time=2s"), ("auto", "limits.time=1h"), ("never", "limits.time=1h")] {
        let run = env.run("busybox").set(&format!("lifecycle.tty={mode}")).set(set).args(["--entrypoint", ""]);
        let mut pty = Pty::new();
        pty.start(&run.payload(["sh", "-c", "while :; do echo y; done"]).words(), &env);
        // Nothing reads what it shows.
        let run = || crate::support::descendants(pty.pid()).into_iter().next().filter(|_| pty.is_running());
        assert!(within(10.0, || run().is_some()), "{mode} {set}: it has not begun");
        if set.ends_with('h') {
            std::thread::sleep(std::time::Duration::from_secs(1) * slow());
            let run = run().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().expect("a number")));
            rustix::process::kill_process(run.expect("it goes on"), rustix::process::Signal::TERM).expect("told");
        }
        assert!(within(10.0, || run().is_none()), "{mode} {set}");
    }
}

/// A shell tells a job that runs nothing when it becomes the foreground.
#[test]
fn what_comes_to_the_foreground_has_the_keyboard() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x; echo got $x; exit 5"]).words();
    let mut pty = Pty::new();
    pty.start("exec bash --norc -i", &env);
    pty.expect("$ ");
    pty.send(&format!("{line} &\r"));
    pty.expect("ready\r");
    pty.send("fg\r");
    assert!(within(5.0, || pty.is_raw()), "it has the terminal");
    pty.send("word\r");
    pty.expect("got word");
    pty.expect("$ ");
    pty.send("echo code=$?\r");
    pty.expect("code=5");
    pty.send("exit\r");
    let _ = pty.wait();
}

/// Stopped by somebody while it has the terminal, which its shell takes back then.
#[test]
fn who_was_stopped_while_raw_takes_the_terminal_anew() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "echo ready; read x; echo got $x; exit 5"]).words();
    for shell in ["dash -i", "bash --norc -i"] {
        let mut pty = Pty::new();
        pty.start(&format!("{shell}; echo over; read x"), &env);
        pty.expect("$ ");
        pty.send(&format!("{line}\r"));
        pty.expect("ready\r\n");
        assert!(within(5.0, || pty.is_raw()), "{shell}");
        let runs = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "hamper");
        let mut all = crate::support::descendants(pty.pid());
        all.sort_unstable();
        let run = all.into_iter().find(runs).and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().expect("a number")));
        rustix::process::kill_process(run.expect("a run"), rustix::process::Signal::STOP).expect("stopped");
        pty.expect("Stopped");
        pty.send("stty sane\n");
        assert!(within(5.0, || !pty.is_raw()), "{shell}: the shell has it");
        pty.send("fg\n");
        assert!(within(5.0, || pty.is_raw()), "{shell}: it has the terminal again");
        pty.send("word\r");
        pty.expect("got word");
        pty.expect("$ ");
        pty.send("exit\r");
        pty.expect("over");
        let modes = pty.settings().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{shell}: {modes:?}");
    }
}

#[test]
fn the_size_of_the_window_is_known_and_follows() {
    let env = TestEnv::new();
    let line = env
        .run("busybox")
        .args(["--entrypoint", ""])
        .payload(["sh", "-c", "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done"])
        .words();
    let mut pty = Pty::new();
    pty.resize(33, 101);
    pty.start(&line, &env);
    pty.expect("33 101");
    pty.expect("ready");
    pty.resize(44, 120);
    pty.expect("44 120");
    assert_eq!(pty.wait().code(), Some(0));
}

#[test]
fn the_terminal_is_restored_when_the_payload_dies() {
    let env = TestEnv::new();
    for (script, code) in [("stty raw -echo; echo ready; kill -9 $$", 137), ("stty raw -echo; echo ready; exit 3", 3)] {
        let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", script]).words();
        let mut pty = Pty::new();
        let before = format!("{:?}", pty.settings());
        pty.start(&line, &env);
        pty.expect("ready");
        assert_eq!(pty.wait().code(), Some(code));
        assert_eq!(format!("{:?}", pty.settings()), before);
    }
}

#[test]
fn the_terminal_is_restored_when_we_are_ended() {
    let env = TestEnv::new();
    for signal in ["TERM", "HUP", "INT"] {
        let line = env.run("busybox").args(["--entrypoint", ""]).payload(["/probe", "signal"]).words();
        let mut pty = Pty::new();
        let before = format!("{:?}", pty.settings());
        pty.start(&format!("exec {line}"), &env);
        pty.expect("ready");
        assert!(pty.is_raw());
        let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pty.pid().to_string()]).status().expect("kill");
        assert!(status.success());
        assert!(pty.wait().code().is_some_and(|code| code > 40), "{}", pty.shown());
        assert_eq!(format!("{:?}", pty.settings()), before, "{signal}");
    }
}

#[test]
fn a_pipe_on_one_side_and_a_terminal_on_the_other() {
    let env = TestEnv::new();
    let run = |script: &str| env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", script]).words();
    // Standard input is a pipe: the payload sees its end, and a terminal to write to.
    let out = Pty::new().run(&format!("printf 'a\\nb\\n' | {}", run("wc -l; test -t 0 && echo tty0; test -t 1 && echo tty1; true")), &env);
    assert!(out.contains('2') && out.contains("tty1") && !out.contains("tty0"), "{out:?}");
    // Standard output is a pipe: no terminal's line ends in it, and the keyboard is not raw.
    let script = "test -t 0 && echo tty0; test -t 1 && echo tty1; read x; echo got $x";
    let mut pty = Pty::new();
    pty.start(&format!("{} | cat -A", run(script)), &env);
    pty.expect("tty0$");
    assert!(!pty.is_raw());
    pty.send("word\r");
    pty.expect("got word$");
    assert!(!pty.shown().contains("tty1"), "{}", pty.shown());
    let _ = pty.wait();
}

#[test]
fn a_detached_keyboard_is_the_end_of_input() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "cat; echo over"]).words();
    let out = Pty::new().run(&format!("{line} </dev/null"), &env);
    assert!(out.contains("over"), "{out:?}");
}

#[test]
fn the_terminal_inside_is_the_sandboxs_own() {
    let env = TestEnv::new();
    let line = env
        .run("busybox")
        .args(["--entrypoint", ""])
        .payload(["sh", "-c", "tty; ls -1 /dev/pts; echo a > /dev/tty; readlink /proc/self/fd/0; ps -o tty | tail -1"])
        .words();
    let out = Pty::new().run(&line, &env);
    assert!(out.contains("/dev/pts/0"), "{out:?}");
    assert!(out.contains("\na\r"), "{out:?}");
    let rows: Vec<&str> = out.lines().filter(|line| line.trim().parse::<u32>().is_ok()).collect();
    assert_eq!(rows.len(), 1, "one terminal and no other: {out:?}");
}

#[test]
fn a_lot_of_output_arrives_whole() {
    let env = TestEnv::new();
    let line = env.run("busybox").args(["--entrypoint", ""]).payload(["sh", "-c", "seq 1 20000; echo end"]).words();
    let out = Pty::new().run(&line, &env);
    assert!(out.contains("\n20000\r\nend\r\n"), "{}", &out[out.len().saturating_sub(200)..]);
    assert_eq!(out.lines().count(), 20001);
}

/// What a payload sees of a terminal, and what comes of typing.
const LOOK: &str = "test -t 0 && echo tty0; test -t 1 && echo tty1; test -t 2 && echo tty2; (: </dev/tty) 2>/dev/null && echo controlled; \
                    echo to-stderr >&2; read x; echo got $x; cat; echo over; exit 7";

#[test]
fn a_payload_that_is_to_have_no_terminal_has_none() {
    let env = TestEnv::new();
    for map in maps() {
        for init in ["true", "false"] {
            let line = |tty: &str| {
                let run = env.run("busybox").map(map).set(&format!("lifecycle.tty={tty}")).set(&format!("lifecycle.init={init}"));
                run.args(["--entrypoint", ""]).payload(["sh", "-c", LOOK]).words()
            };
            let mut pty = Pty::new();
            let before = format!("{:?}", pty.settings());
            pty.start(&line("never"), &env);
            pty.expect("to-stderr");
            assert!(!pty.is_raw(), "the keyboard stays the caller's");
            pty.send("word\r");
            pty.expect("got word\r\n");
            pty.send("more\r\x04");
            pty.expect("more\r\nmore");
            pty.expect("over");
            assert_eq!(pty.wait().code(), Some(7), "{}", pty.shown());
            assert!(!pty.shown().contains("tty") && !pty.shown().contains("controlled"), "{}", pty.shown());
            assert_eq!(format!("{:?}", pty.settings()), before);
            // The control: with a terminal of its own it has one everywhere.
            let mut pty = Pty::new();
            pty.start(&line("auto"), &env);
            for words in ["tty0", "tty1", "tty2", "controlled"] {
                pty.expect(words);
            }
            pty.send("word\r\x04");
            assert_eq!(pty.wait().code(), Some(7), "{}", pty.shown());
        }
    }
}

#[test]
fn without_a_terminal_keys_are_signals_and_output_is_whole() {
    let env = TestEnv::new();
    let line = |script: &str| {
        let run = env.run("busybox").set("lifecycle.tty=never").args(["--entrypoint", ""]);
        run.payload(["sh", "-c", script]).words()
    };
    let mut pty = Pty::new();
    pty.start(&format!("{}; echo code=$?", line("echo ready; exec sleep 60")), &env);
    pty.expect("ready");
    pty.send("\x03");
    pty.expect("code=130");
    let _ = pty.wait();
    // What is typed for a payload that reads no more is lost, and ends nothing.
    let mut pty = Pty::new();
    pty.start(&line("exec <&-; echo ready; sleep 0.5; echo alive; exit 3"), &env);
    pty.expect("ready");
    pty.send("word\r");
    pty.send("word\r");
    pty.expect("alive");
    assert_eq!(pty.wait().code(), Some(3), "{}", pty.shown());
    // A payload that closes its output goes on.
    let mut pty = Pty::new();
    pty.start(&line("exec >&- 2>&-; sleep 0.5; exit 4"), &env);
    assert_eq!(pty.wait().code(), Some(4), "{}", pty.shown());
    let out = Pty::new().run(&line("seq 1 20000; echo end"), &env);
    assert!(out.contains("\n20000\r\nend\r\n"), "{}", &out[out.len().saturating_sub(200)..]);
    assert_eq!(out.lines().count(), 20001);
    // Only what is a terminal becomes a pipe of ours.
    let out = Pty::new().run(&format!("echo piped | {} | cat", line("cat; echo err >&2")), &env);
    assert!(out.contains("piped") && out.contains("err"), "{out:?}");
    let plan = Pty::new().run(&line("true").replacen("'run'", "'plan'", 1), &env);
    assert!(plan.contains("make pipes in place of the terminal") && !plan.contains("pseudo-terminal"), "{plan}");
}
