//! `hamper shell`: an interactive shell in the sandbox.

use super::exit::ExitCode;

use clap::Args;

use super::run::{CommonArgs, finish, start};
use crate::plan::Invocation;
use crate::sys::Arguments;

/// Start a shell in a profile's sandbox
#[derive(Args, Debug)]
pub struct ShellArgs {
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The image's bash where it has one, else its sh; no entrypoint.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"];

pub fn run(args: ShellArgs, all: &Arguments) -> ExitCode {
    let invocation = Invocation { command: SHELL.map(str::to_owned).to_vec(), no_entrypoint: true, ..Invocation::default() };
    finish(start(&args.common, invocation, None, all))
}
