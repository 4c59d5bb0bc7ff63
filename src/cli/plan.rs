//! `hamper plan`: the exact ordered steps that `run` would take.

use std::process::ExitCode;

use clap::Args;

use super::run::{CommonArgs, RunArgs, run};
use crate::plan::Plan;

/// Print the steps that `run` would take, and do nothing
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One line a step, numbered as errors and `HAMPER_FAIL_AT` count them.
pub fn human(plan: &Plan) -> String {
    let mut text = String::new();
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("{index:3}  {step}\n"));
    }
    for degraded in &plan.degraded {
        text.push_str(&format!("     {}: asked for {}, got {}\n", degraded.what, degraded.asked, degraded.got));
    }
    text
}

pub fn plan(args: PlanArgs) -> ExitCode {
    let mut args = args;
    args.common.dry_run = true;
    run(&RunArgs { common: args.common, command: args.command })
}
