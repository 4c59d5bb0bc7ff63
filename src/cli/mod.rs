//! The only room that reads argv, prints, or picks exit codes; one file per subcommand.

mod diagnostic;
mod doctor;
mod error;
mod exit;
mod image;
mod image_facts;
mod image_facts_store;
mod landlock_rung;
mod notice;
mod output;
mod plan;
mod profile;
mod run;
mod shell;
mod start;
mod trash;
mod trust;
mod which;

use std::ffi::OsString;
use std::io::Write;

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
    Profile(profile::ProfileArgs),
    Trust(trust::TrustArgs),
    Doctor(doctor::DoctorArgs),
}

/// Usage errors of the commands that run a payload: 125, since 1 and 2 may be the payload's own.
const RUN_USAGE: u8 = 125;

/// Reads the command line and does what it says.
pub fn main(arguments: &sys::Arguments) -> ExitCode {
    let code = dispatch(arguments);
    // Ignoring: a reader that went away has read enough.
    let _ = std::io::stdout().flush();
    code
}

fn dispatch(all: &sys::Arguments) -> ExitCode {
    let arguments = &all.list;
    if let Some(result) = run_alone(arguments) {
        return match result {
            Ok(args) => run::run(&args, all),
            Err(error) => usage(&error, true),
        };
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, arguments.get(1).is_some_and(|command| command == "shell")),
    };
    match cli.command {
        Command::Run(args) => run::run(&args, all),
        Command::Shell(args) => shell::run(args, all),
        Command::Plan(args) => plan::run(args, all),
        Command::Image(args) => image::run(&args),
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

/// `run [PROFILE] [-- COMMAND…]` without an option, the form that is typed all day: clap's answer, without clap's tree of options.
fn plain_run(arguments: &[OsString]) -> Option<run::RunArgs> {
    let separator = arguments.iter().position(|argument| argument == "--");
    let (before, after) = arguments.split_at(separator.unwrap_or(arguments.len()));
    let profile = match before {
        [] => None,
        [profile] if !profile.as_encoded_bytes().starts_with(b"-") && !profile.is_empty() => Some(profile.to_str()?.to_owned()),
        _ => return None,
    };
    let command = after.iter().skip(1).map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>()?;
    Some(run::RunArgs { common: run::CommonArgs { profile, ..run::CommonArgs::default() }, command })
}

/// The whole command, for completions and the manual page.
pub fn command() -> Clap {
    Cli::command()
}

fn usage(error: &clap::Error, runs: bool) -> ExitCode {
    // Ignoring: a reader that went away has read enough.
    let _ = error.print();
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
        let lines: [&[&str]; 8] =
            [&[], &["node14"], &["--", "true"], &["p", "--", "a", "--", "-x"], &["--"], &["-e", "A=b"], &["--help"], &["a", "b"]];
        for line in lines {
            let words: Vec<OsString> = line.iter().map(OsString::from).collect();
            let Some(short) = plain_run(&words) else {
                assert!(line.iter().any(|word| word.starts_with('-')) || line.len() > 1, "{line:?}");
                continue;
            };
            let command = run::RunArgs::augment_args(Clap::new("run"));
            let matches = command.try_get_matches_from(std::iter::once(OsString::from("run")).chain(words)).expect("clap takes it");
            let long = run::RunArgs::from_arg_matches(&matches).expect("clap takes it");
            assert_eq!(format!("{short:?}"), format!("{long:?}"), "{line:?}");
        }
    }
}
