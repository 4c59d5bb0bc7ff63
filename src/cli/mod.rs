//! The only room that reads argv, prints, or picks exit codes; one file per subcommand.

mod diagnostic;
mod doctor;
mod error;
mod exit;
mod exposure;
mod hints;
mod image;
mod image_du;
mod image_facts;
mod image_facts_store;
mod image_history;
mod image_publish;
mod image_push;
mod image_save;
mod inputs;
mod landlock_rung;
mod ledger;
mod limits;
mod lock;
mod login;
mod names;
mod notice;
mod origin;
mod output;
mod plan;
mod profile;
mod progress;
mod registries;
mod run;
mod settings;
mod shell;
mod sources;
mod start;
mod state;
mod streams;
mod time;
mod trash;
mod trust;
mod which;

use std::ffi::OsString;

use self::exit::ExitCode;
use crate::sys;

use clap::{Args, Command as Clap, CommandFactory, FromArgMatches, Parser, Subcommand};

/// Run programs from container images in a sandbox, as an ordinary user
#[derive(Parser, Debug)]
#[command(name = "hamper", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    Shell(shell::ShellArgs),
    Plan(plan::PlanArgs),
    Image(image::ImageArgs),
    Lock(lock::LockArgs),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Profile(profile::ProfileArgs),
    Trust(trust::TrustArgs),
    Doctor(doctor::DoctorArgs),
}

/// Usage errors of the commands that run a payload: 125, since 1 and 2 may be the payload's own.
const RUN_USAGE: u8 = 125;

/// Reads the command line and does what it says.
pub fn main(arguments: &sys::Arguments) -> ExitCode {
    let code = dispatch(arguments);
    match output::finish() {
        Some(error) if code == ExitCode::SUCCESS => {
            output::talk(&format!("hamper: cannot write to the standard output: {error}"));
            match arguments.list.get(1) {
                Some(command) if command == "run" || command == "shell" => ExitCode::from(RUN_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
        _ => code,
    }
}

fn dispatch(all: &sys::Arguments) -> ExitCode {
    let arguments = &all.list;
    if let Some(result) = run_alone(arguments) {
        return match result {
            Ok(args) => run::run(&args, all),
            Err(error) => usage(&error, arguments, true),
        };
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, arguments, arguments.get(1).is_some_and(|command| command == "shell")),
    };
    match cli.command {
        Command::Run(args) => run::run(&args, all),
        Command::Shell(args) => shell::run(args, all),
        Command::Plan(args) => plan::run(args, all),
        Command::Image(args) => image::run(&args),
        Command::Lock(args) => lock::run(&args),
        Command::Login(args) => login::login(&args),
        Command::Logout(args) => login::log_out(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Trust(args) => trust::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}

/// `run` is what somebody waits for at each start: its arguments are read without building the tree of all other commands.
fn run_alone(arguments: &[OsString]) -> Option<Result<run::RunArgs, clap::Error>> {
    if arguments.get(1).is_none_or(|command| command != "run") {
        return None;
    }
    if let Some(args) = plain_run(&arguments[2..]) {
        return Some(Ok(args));
    }
    let command = run::RunArgs::augment_args(
        Clap::new("run").bin_name("hamper run").about("Run the default command of a profile's image, or COMMAND, in a sandbox"),
    );
    Some(command.try_get_matches_from(&arguments[1..]).and_then(|matches| run::RunArgs::from_arg_matches(&matches)))
}

/// `run` with the options that are typed all day and by scripts, each apart from its value: clap's answer, without clap's tree of options.
/// What is spelled in another way, or is wrong, is left to clap.
fn plain_run(arguments: &[OsString]) -> Option<run::RunArgs> {
    let separator = arguments.iter().position(|argument| argument == "--");
    let (before, after) = arguments.split_at(separator.unwrap_or(arguments.len()));
    let mut common = run::CommonArgs::default();
    let mut words = before.iter().map(|word| word.to_str());
    while let Some(word) = words.next() {
        let word = word?;
        let once = match word {
            "-e" | "--env" => {
                common.env.push(value(&mut words)?);
                continue;
            }
            "-v" | "--volume" => {
                common.volume.push(value(&mut words)?);
                continue;
            }
            "--set" => {
                common.set.push(value(&mut words)?);
                continue;
            }
            "-w" | "--workdir" => &mut common.workdir,
            "-u" | "--user" => &mut common.user,
            "--network" => &mut common.network,
            "--image" => &mut common.image,
            "--name" => &mut common.name,
            _ if word.starts_with('-') || word.is_empty() => return None,
            _ => {
                // The profile, and only one.
                if common.profile.replace(word.to_owned()).is_some() {
                    return None;
                }
                continue;
            }
        };
        if once.replace(value(&mut words)?).is_some() {
            return None;
        }
    }
    let command = after.iter().skip(1).map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>()?;
    Some(run::RunArgs { common, command })
}

/// The value of an option; one that is empty or looks like an option is for clap to judge.
fn value<'a>(words: &mut impl Iterator<Item = Option<&'a str>>) -> Option<String> {
    let value = words.next()??;
    (!value.is_empty() && !value.starts_with('-')).then(|| value.to_owned())
}

/// The whole command, for completions and the manual page.
pub fn command() -> Clap {
    Cli::command()
}

fn usage(error: &clap::Error, arguments: &[OsString], runs: bool) -> ExitCode {
    match arguments.iter().find(|argument| argument.to_str().is_none()) {
        // Clap does not say which.
        Some(argument) if error.kind() == clap::error::ErrorKind::InvalidUtf8 => {
            let shown = error::escape(&argument.to_string_lossy());
            output::talk(&format!("hamper: the argument `{shown}` is not UTF-8 text, and only paths may be something else"));
        }
        _ => output::note(error.print()),
    }
    if let Some(hint) = hints::of_usage(error, arguments).filter(|_| error.use_stderr()) {
        output::talk(&format!("hint: {hint}"));
    }
    match (error.use_stderr(), runs) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(RUN_USAGE),
        (true, false) => ExitCode::from(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short way says what clap says, or leaves it to clap.
    #[test]
    fn the_plain_form_means_what_clap_means() {
        let lines: [&[&str]; 22] = [
            &[],
            &["node14"],
            &["--", "true"],
            &["p", "--", "a", "--", "-x"],
            &["--"],
            &["-e", "A=b"],
            &["-e", "A=b", "p", "-v", "/a:/b:ro", "--set", "a=b", "--set", "c=d", "--", "x"],
            &["--image", "host", "--network", "none", "-w", "/x", "-u", "1:2", "--name", "n"],
            &["--env", "A", "--volume", "a:/b", "--workdir", "/", "--user", "u", "q"],
            &["--image", "a", "--image", "b"],
            &["a", "b"],
            &["-e"],
            &["--image", ""],
            &["-e", "-v", "a:/b"],
            &["-eA=b"],
            &["--image=host"],
            &["--help"],
            &["-h"],
            &["-ev", "x"],
            &["--nonsense", "x"],
            &["", "--"],
            &["--keep", "p"],
        ];
        let mut short_ways = 0;
        for line in lines {
            let words: Vec<OsString> = line.iter().map(OsString::from).collect();
            let Some(short) = plain_run(&words) else { continue };
            short_ways += 1;
            let command = run::RunArgs::augment_args(Clap::new("run"));
            let matches = command.try_get_matches_from(std::iter::once(OsString::from("run")).chain(words)).expect("clap takes it");
            let long = run::RunArgs::from_arg_matches(&matches).expect("clap takes it");
            assert_eq!(format!("{short:?}"), format!("{long:?}"), "{line:?}");
        }
        assert_eq!(short_ways, 9);
    }
}
