//! `hamper shell`: an interactive shell in the sandbox.

use super::exit::ExitCode;

use clap::Args;
use rustix::io::Errno;

use super::error::{CliError, StepKind};
use super::run::{CommonArgs, Show, finish, start};
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
    if args.common.entrypoint.is_some() {
        return finish(Err(CliError::Told {
            words: "--entrypoint: a shell is started without any entrypoint".into(),
            hint: Some("hamper run --entrypoint PROGRAM".into()),
        }));
    }
    let show = args.common.dry_run.then_some(Show::Human);
    finish(start(&args.common, invocation, show, all).map_err(|error| match error {
        CliError::Step { kind: StepKind::Execute, source: Errno::NOENT, .. } => {
            CliError::Step { step: "cannot start a shell: the image has no /bin/sh".into(), kind: StepKind::NoShell, source: Errno::NOENT }
        }
        error => error,
    }))
}
