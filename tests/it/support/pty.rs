//! A terminal with a person at it: what is typed, what is shown, and how the program ends.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use super::TestEnv;

/// Longest wait for something to be shown.
const LIMIT: u32 = 20;

pub struct Pty {
    master: OwnedFd,
    terminal: OwnedFd,
    child: Option<std::process::Child>,
    shown: String,
    /// What `expect` has found already.
    read: usize,
}

impl Pty {
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).expect("its other side");
        let pty = Self { master, terminal, child: None, shown: String::new(), read: 0 };
        pty.resize(24, 80);
        pty
    }

    /// The path of the terminal's side that programs have.
    pub fn name(&self) -> String {
        ptsname(&self.master, Vec::new()).expect("its name").to_string_lossy().into_owned()
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("size");
    }

    /// Starts a line of shell as the leader of a session that this terminal controls.
    pub fn start(&mut self, line: &str, env: &TestEnv) {
        let surroundings = env.program("setsid", ["--ctty", "--wait", "bash", "-c", line]);
        let mut command: Command = surroundings.into_command();
        let side = || Stdio::from(self.terminal.try_clone().expect("duplicate"));
        command.env("TERM", "xterm").env("PS1", "shell> ").stdin(side()).stdout(side()).stderr(side());
        self.child = Some(command.spawn().expect("start"));
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("started").id()
    }

    pub fn send(&self, text: &str) {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let count = rustix::io::write(&self.master, bytes).expect("type");
            bytes = &bytes[count..];
        }
    }

    /// Reads what there is within this time; whether anything was.
    fn pump(&mut self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let time = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        if !poll(&mut fds, Some(&time)).is_ok_and(|count| count > 0) {
            return false;
        }
        let mut buffer = [0u8; 4096];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(count) if count > 0 => {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
                true
            }
            _ => false,
        }
    }

    /// Waits until this is shown, after what was waited for before; returns what was shown up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.shown[self.read..].find(text) {
                let seen = self.shown[self.read..self.read + at + text.len()].to_owned();
                self.read += at + text.len();
                return seen;
            }
            assert!(begin.elapsed() < super::seconds(LIMIT), "{text:?} was not shown; what was: {:?}", self.shown);
            self.pump(Duration::from_millis(50));
        }
    }

    /// Whether what was started has not ended yet; reads nothing of what it shows.
    pub fn is_running(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Waits for the end of what was started.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            self.pump(Duration::from_millis(10));
            if let Some(status) = self.child.as_mut().expect("started").try_wait().expect("wait") {
                while self.pump(Duration::from_millis(20)) {}
                return status;
            }
            assert!(begin.elapsed() < super::seconds(LIMIT), "it did not end; shown: {:?}", self.shown);
        }
    }

    /// Runs a line to its end; what was shown.
    #[track_caller]
    pub fn run(mut self, line: &str, env: &TestEnv) -> String {
        self.start(line, env);
        self.wait();
        std::mem::take(&mut self.shown)
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn settings(&self) -> Termios {
        tcgetattr(self.terminal.as_fd()).expect("settings")
    }

    /// Whether keys come at once and unseen, as a program in raw mode has it.
    pub fn is_raw(&self) -> bool {
        let modes = self.settings().local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ISIG)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ignoring: it is gone already where the test went well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
