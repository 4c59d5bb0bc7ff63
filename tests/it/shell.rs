//! `hamper shell`: an interactive shell of the image, and its exit code.

use crate::require;
use crate::support::pty::Pty;
use crate::support::{TestEnv, has_image, image, maps};

#[test]
fn bash_where_the_image_has_it_else_sh() {
    require!(has_image("debian") && has_image("busybox"), "the test images");
    for map in maps() {
        let env = TestEnv::new();
        for (name, shell) in [("debian", "bash"), ("busybox", "sh")] {
            let shell_in = env.hamper(["shell", "--image", &image(name)]).map(map);
            let out = shell_in.stdin("echo shell: $0; test -n \"$BASH_VERSION\" && echo it is bash; exit 7\n").output().code(7);
            assert_eq!(out.value("shell: "), shell);
            assert_eq!(out.stdout.contains("it is bash"), shell == "bash", "{}", out.stdout);
        }
    }
}

#[test]
fn a_prompt_at_a_terminal() {
    for (name, prompt) in [("debian", "$ "), ("busybox", "$ ")] {
        require!(has_image(name), "the test images");
        let env = TestEnv::new();
        let mut pty = Pty::new();
        let line = env.hamper(["shell", "--image", &image(name), "-u", "1000", "-e", "PS1=inside$ "]).words();
        pty.start(&line, &env);
        pty.expect(prompt);
        assert!(pty.is_raw());
        pty.send("test -t 0 && echo at a $((6 * 7)) terminal\r");
        pty.expect("at a 42 terminal");
        // Job control: the shell stays when what it runs is interrupted.
        pty.send("sleep 60\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        pty.send("\x03");
        pty.expect(prompt);
        pty.send("exit 9\r");
        assert_eq!(pty.wait().code(), Some(9), "{}", pty.shown());
    }
}

#[test]
fn neither_entrypoint_nor_command_of_image_and_profile_run() {
    require!(has_image("node14"), "the test images");
    let env = TestEnv::new();
    env.profile(&format!("image = \"{}\"\nentrypoint = [\"/no/such\"]\ncommand = [\"nothing\"]\n", image("node14")));
    env.file("mine", "");
    let out = env.hamper(["shell"]).stdin("ls; pwd\n").output().code(0);
    assert!(out.stdout.contains("mine") && out.stdout.contains(&env.project().display().to_string()), "{}", out.stdout);
    // The control: a run of it does what the profile says.
    env.hamper(["run"]).output().code(127).told(&["/no/such"]);
}

#[test]
fn failures_of_ours_are_125() {
    let env = TestEnv::new();
    env.hamper(["shell"]).output().code(125).told(&["hamper run hello"]);
    env.hamper(["shell", "--no-such-option"]).output().code(125);
    env.hamper(["shell", "--image", "oci:/no/such/image"]).output().code(125).told(&["/no/such/image"]);
    env.hamper(["shell", "--help"]).output().code(0);
}
