//! The only room that reads argv, prints, or picks exit codes; one file per subcommand.

mod error;
mod image_facts;
mod image_facts_store;
mod output;
mod plan;
mod run;
mod start;
mod trash;
mod which;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Plan(plan::PlanArgs),
}

/// Usage errors of the commands that run a payload: 125, since 1 and 2 may be the payload's own.
const RUN_USAGE: u8 = 125;

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::plan(args),
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Ignoring: a reader that went away has read enough.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let runs = std::env::args().nth(1).is_some_and(|command| matches!(command.as_str(), "run" | "shell" | "exec"));
    ExitCode::from(if runs { RUN_USAGE } else { 2 })
}
