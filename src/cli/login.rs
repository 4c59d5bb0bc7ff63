//! `hamper login` and `hamper logout`: a user's password for a registry.

use std::io::{IsTerminal, Read};
use std::os::fd::BorrowedFd;

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::error::{escape, told};
use super::exit::ExitCode;
use super::output::talk;
use super::progress::Display;
use super::registries;
use crate::image::{self, Reference};
use crate::registry::{self, Settings, logout, registry_name};

/// Log in to a registry; the password comes from the standard input
#[derive(Args, Debug)]
pub struct LoginArgs {
    /// The registry, as references name it
    #[arg(default_value = "docker.io")]
    registry: String,
    /// Who you are there; asked for on a terminal
    #[arg(short = 'u', long, value_name = "NAME")]
    username: Option<String>,
    /// Taken as Docker takes it; the password always comes from the standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Forget the password for a registry
#[derive(Args, Debug)]
pub struct LogoutArgs {
    /// The registry, as references name it
    #[arg(default_value = "docker.io")]
    registry: String,
}

/// No password is longer; tokens that serve as one have some kilobytes.
const MAX_PASSWORD: u64 = 64 << 10;

pub fn login(args: &LoginArgs) -> ExitCode {
    let Some(registry) = name(&args.registry) else { return no_name(&args.registry, "login") };
    let credentials = match ask(args) {
        Ok(credentials) => credentials,
        Err(words) => {
            talk(&format!("hamper: {}\nhint: echo \"$PASSWORD\" | hamper login {} -u NAME", escape(&words), escape(&registry)));
            return ExitCode::from(2);
        }
    };
    let (user, password) = credentials;
    let kept = registries::client(&Display::new(false)).and_then(|client| client.login(&registry, &user, &password));
    match kept {
        Ok(place) => {
            talk(&format!("logged in to {} as {}; the password is in {}", escape(&registry), escape(&user), escape(&place)));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn no_name(text: &str, command: &str) -> ExitCode {
    talk(&format!("hamper: {} is no registry's name\nhint: as in: hamper {command} registry.example.org:5000", escape(text)));
    ExitCode::from(2)
}

/// As references have it; `None`: it is none.
fn name(text: &str) -> Option<String> {
    let registry = registry_name(text);
    let reference = format!("{registry}/x").parse::<Reference>().ok()?;
    reference.registry.eq_ignore_ascii_case(&registry).then_some(reference.registry)
}

pub fn log_out(args: &LogoutArgs) -> ExitCode {
    let Some(registry) = name(&args.registry) else { return no_name(&args.registry, "logout") };
    let erased = match Settings::read(&|name| std::env::var_os(name)) {
        Ok(settings) => logout(&settings, &registry),
        Err(error) => return failed(&error),
    };
    match (erased.places.is_empty(), erased.failures.is_empty()) {
        (true, true) => talk(&format!("nothing was known of {}", escape(&registry))),
        (true, false) => {}
        (false, _) => talk(&format!("logged out of {}; erased from {}", escape(&registry), escape(&erased.places.join(", ")))),
    }
    erased.failures.iter().fold(ExitCode::SUCCESS, |_, error| failed(error))
}

fn failed(error: &registry::Error) -> ExitCode {
    talk(&told(&image::chain(error), error.hint().as_deref()));
    ExitCode::FAILURE
}

/// Name and password; on a terminal both are asked for, and the password is not shown.
fn ask(args: &LoginArgs) -> Result<(String, String), String> {
    let input = std::io::stdin();
    let terminal = input.is_terminal() && !args.password_stdin;
    let user = match &args.username {
        Some(user) => user.clone(),
        None if terminal => {
            talk("Name:");
            line(&input)?
        }
        None => return Err("a name is needed".into()),
    };
    let password = if terminal {
        talk("Password (not shown):");
        unseen(|| line(&input))?
    } else {
        let mut text = String::new();
        input.lock().take(MAX_PASSWORD + 1).read_to_string(&mut text).map_err(|error| format!("cannot read the password: {error}"))?;
        text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned()
    };
    match (user.is_empty() || user.contains(':'), password.is_empty() || password.len() as u64 > MAX_PASSWORD) {
        (true, _) => Err("the name is empty, or has a colon".into()),
        (_, true) => Err("there is no password on the standard input, or one that is too long".into()),
        _ => Ok((user, password)),
    }
}

fn line(input: &std::io::Stdin) -> Result<String, String> {
    let mut text = String::new();
    input.read_line(&mut text).map_err(|error| format!("cannot read: {error}"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Does something while the terminal shows nothing of what is typed.
fn unseen<T>(act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let terminal = rustix::stdio::stdin();
    let failed = |errno| format!("cannot keep the terminal from showing the password: {errno}");
    let before = tcgetattr(terminal).map_err(failed)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    let signals = Ends::block()?;
    tcsetattr(terminal, OptionalActions::Flush, &quiet).map_err(failed)?;
    let typed = signals.none_before(terminal);
    let result = if typed { act() } else { Err("interrupted".into()) };
    tcsetattr(terminal, OptionalActions::Flush, &before).map_err(failed)?;
    // One that has come ends this process now, and leaves the terminal as it was.
    signals.let_through();
    result
}

/// The signals by which somebody ends a prompt, held back while the terminal is not as it was.
struct Ends {
    set: SigSet,
    fd: SignalFd,
}

impl Ends {
    fn block() -> Result<Self, String> {
        let failed = |errno: nix::errno::Errno| format!("cannot hold signals back: {errno}");
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
        set.thread_block().map_err(failed)?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(failed)?, set })
    }

    /// Waits for a line or a signal; whether the line came first.
    fn none_before(&self, terminal: BorrowedFd<'_>) -> bool {
        let mut list = [PollFd::new(&terminal, PollFlags::IN), PollFd::new(&self.fd, PollFlags::IN)];
        while poll(&mut list, None) == Err(rustix::io::Errno::INTR) {}
        !list[1].revents().contains(PollFlags::IN)
    }

    fn let_through(&self) {
        // Ignoring: held back, they end it a little later.
        let _ = self.set.thread_unblock();
    }
}
