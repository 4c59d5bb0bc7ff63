//! One call of the binary: how it is made, and what came of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{image, probe};

/// No test waits longer for the end of a program.
const LIMIT: u32 = 120;

/// A call of the binary, in the making.
#[must_use]
pub struct Hamper {
    command: Command,
    root: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    payload: Option<Vec<String>>,
    stdin: Vec<u8>,
    limit: Duration,
    measured: Option<PathBuf>,
}

/// A binary that a test has just copied is busy for as long as a process that another test is starting has it open from before its execve.
fn start(command: &mut Command) -> std::process::Child {
    let mut started = command.spawn();
    let busy = |started: &std::io::Result<_>| matches!(started, Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy);
    for _ in 0..50 {
        if !busy(&started) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        started = command.spawn();
    }
    started.expect("start")
}

impl Hamper {
    pub fn new(program: PathBuf, root: PathBuf) -> Self {
        let mut command = Command::new(&program);
        command.env_clear();
        Self {
            command,
            root,
            program,
            arguments: Vec::new(),
            payload: None,
            stdin: Vec::new(),
            limit: super::seconds(LIMIT),
            measured: None,
        }
    }

    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What the caller's own session is known by, where there is one: the tests have a runtime directory of their own.
    pub fn in_session(mut self) -> Self {
        for name in ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] {
            match std::env::var_os(name) {
                Some(value) => self.command.env(name, value),
                None => self.command.env_remove(name),
            };
        }
        self
    }

    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.as_bytes().to_vec();
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// `--image`, by the name of a test image or as a source, and the probe.
    pub fn image(self, name: &str) -> Self {
        let source = if name == "host" || name.contains(':') { name.to_owned() } else { image(name) };
        self.args(["--image", &source]).with_probe()
    }

    /// The probe at `/probe`.
    pub fn with_probe(self) -> Self {
        let volume = format!("{}:/probe:ro", probe().display());
        self.args(["-v", &volume])
    }

    /// `--set KEY=VALUE`
    pub fn set(self, pair: &str) -> Self {
        self.args(["--set", pair])
    }

    pub fn map(self, map: &str) -> Self {
        self.set(&format!("identity.map={map}"))
    }

    /// What stands after `--`.
    pub fn payload<'a>(mut self, payload: impl IntoIterator<Item = &'a str>) -> Self {
        self.payload = Some(payload.into_iter().map(str::to_owned).collect());
        self
    }

    /// Runs `/probe` with these words; several verbs are separated by `--`.
    pub fn probe(mut self, words: &str) -> Output {
        // The image's entrypoint may be a script of a shell: the probe needs none.
        self = self.args(["--entrypoint", ""]);
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        self.payload = Some(std::iter::once("/probe".to_owned()).chain(words).collect());
        self.output()
    }

    /// Runs a script with the image's `sh`.
    pub fn sh(self, script: &str) -> Output {
        self.args(["--entrypoint", ""]).payload(["sh", "-c", script]).output()
    }

    fn ready(&mut self) {
        self.command.args(&self.arguments);
        if let Some(payload) = &self.payload {
            self.command.arg("--").args(payload);
        }
    }

    /// The command as std has it, for tests that need more of it.
    pub fn into_command(mut self) -> Command {
        self.ready();
        self.command
    }

    /// The words of the command, for a shell on a terminal.
    pub fn words(&self) -> String {
        let quote = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
        let mut words: Vec<String> = vec![self.program.display().to_string()];
        words.extend(self.arguments.iter().map(quote));
        if let Some(payload) = &self.payload {
            words.push("--".into());
            words.extend(payload.iter().map(quote));
        }
        words.join(" ")
    }

    /// As a shell starts a job: one that its terminal can stop.
    pub fn stoppable(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// Starts it, with pipes on 0, 1 and 2.
    pub fn spawn(mut self) -> Child {
        self.ready();
        let command = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Child { child: start(command), limit: self.limit }
    }

    /// Runs it to its end.
    pub fn output(mut self) -> Output {
        let input = std::mem::take(&mut self.stdin);
        let measured = self.measured.clone();
        let mut child = self.spawn();
        let mut stdin = child.child.stdin.take().expect("stdin");
        let writer = std::thread::spawn(move || {
            // Ignoring: it need not read what it is given.
            let _ = stdin.write_all(&input);
        });
        let mut output = child.output();
        writer.join().expect("writer");
        output.0.measured = measured.map(|path| std::fs::read_to_string(path).expect("measures"));
        output
    }

    /// Runs it under the probe's eye: peak memory, and processes that are left when it is over.
    pub fn measured(mut self) -> Output {
        let path = self.root.join(format!("measures-{}", super::unique()));
        let mut command = Command::new(probe());
        command.env_clear();
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.current_dir(self.command.get_current_dir().unwrap_or(Path::new("/")));
        command.arg("measure").arg(&path).arg(&self.program);
        self.command = command;
        self.measured = Some(path);
        self.output()
    }
}

/// A running binary; killed if the test ends before it.
pub struct Child {
    pub child: std::process::Child,
    limit: Duration,
}

impl Child {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).expect("pid")).expect("pid");
        rustix::process::kill_process(pid, signal).expect("signal");
    }

    /// Reads from the standard output until a line with this in it has come.
    pub fn await_line(&mut self, wanted: &str) -> String {
        let out = self.child.stdout.as_mut().expect("stdout");
        let mut seen = Vec::new();
        let mut byte = [0];
        while out.read(&mut byte).expect("read") == 1 {
            seen.push(byte[0]);
            if byte[0] == b'\n' && String::from_utf8_lossy(&seen).contains(wanted) {
                return String::from_utf8_lossy(&seen).into_owned();
            }
        }
        let mut told = String::new();
        drop(self.child.stderr.as_mut().map(|err| err.read_to_string(&mut told)));
        panic!("no {wanted:?} in {:?}; it told {told:?}", String::from_utf8_lossy(&seen));
    }

    /// Waits for its end.
    pub fn output(mut self) -> Output {
        let begin = Instant::now();
        let read = |mut from: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // Ignoring: what came before is what there is.
                let _ = from.read_to_end(&mut bytes);
                bytes
            })
        };
        let stdout = self.child.stdout.take().map(|out| read(Box::new(out)));
        let stderr = self.child.stderr.take().map(|err| read(Box::new(err)));
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(begin.elapsed() < self.limit, "it did not end within {:?}", self.limit);
            std::thread::sleep(Duration::from_millis(if begin.elapsed().as_millis() < 200 { 1 } else { 10 }));
        };
        let bytes =
            |thread: Option<std::thread::JoinHandle<Vec<u8>>>| thread.map(|thread| thread.join().expect("reader")).unwrap_or_default();
        let (stdout, stderr) = (bytes(stdout), bytes(stderr));
        Output(Seen {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: begin.elapsed(),
            measured: None,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Ignoring: it is gone already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a call, and nobody has looked at yet.
#[must_use]
#[derive(Debug)]
pub struct Output(Seen);

impl Output {
    #[track_caller]
    pub fn code(self, wanted: i32) -> Seen {
        self.0.code(wanted)
    }

    /// Ended with 0; the standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        self.0.ok()
    }

    /// As it is, for tests that accept more than one end.
    pub fn any(self) -> Seen {
        self.0
    }
}

/// What came of a call whose end was looked at.
#[derive(Debug)]
pub struct Seen {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    measured: Option<String>,
}

impl Seen {
    #[track_caller]
    pub fn code(self, wanted: i32) -> Self {
        assert_eq!(self.status.code(), Some(wanted), "exit code\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Ended with 0; the standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        self.code(0).stdout
    }

    /// All of these are on the standard error.
    #[track_caller]
    pub fn told(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        self
    }

    /// Nothing on the standard error.
    #[track_caller]
    pub fn silent(self) -> Self {
        assert_eq!(self.stderr, "", "stdout: {}", self.stdout);
        self
    }

    /// A line of the standard output is this.
    #[track_caller]
    pub fn line(self, wanted: &str) -> Self {
        assert!(self.stdout.lines().any(|line| line == wanted), "no line {wanted:?} in: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// What comes after this at the beginning of a line of the standard output.
    #[track_caller]
    pub fn value(&self, prefix: &str) -> String {
        let mut lines = self.stdout.lines();
        match lines.find_map(|line| line.strip_prefix(prefix)) {
            Some(rest) => rest.trim().to_owned(),
            None => panic!("no line begins with {prefix:?} in: {}\nstderr: {}", self.stdout, self.stderr),
        }
    }

    /// The probe's answers to one verb: what it was tried on, and what came of it.
    pub fn answers(&self, verb: &str) -> Vec<(String, String)> {
        let lines = self.stdout.lines().filter_map(|line| line.strip_prefix(verb)?.strip_prefix(' ')?.rsplit_once(": "));
        lines.map(|(object, result)| (object.to_owned(), result.to_owned())).collect()
    }

    fn measure(&self, name: &str) -> u64 {
        let measured = self.measured.as_ref().expect("measured() was called");
        measured
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {measured:?}"))
    }

    /// Peak memory in KiB of the largest process.
    pub fn peak(&self) -> u64 {
        self.measure("maxrss")
    }

    /// No process is left.
    #[track_caller]
    pub fn left_nothing(self) -> Self {
        assert_eq!(self.measure("lefts"), 0, "processes are left: {:?}", self.measured);
        self
    }
}
