//! `hamper plan`: the exact ordered steps that `run` would take.

use super::exit::ExitCode;

use clap::Args;

use super::run::{CommonArgs, Show, finish, start};
use crate::plan::{Invocation, Plan};
use crate::sys::Arguments;

/// Print the steps that `run` would take, and do nothing
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to run instead of the image's CMD
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One line a step, numbered as errors count them.
pub fn human(plan: &Plan) -> String {
    let mut text = String::new();
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("{index:3}  {step}\n"));
    }
    for degraded in &plan.degraded {
        text.push_str(&format!("     {}: asked for {}, got {}\n", degraded.what, degraded.asked, degraded.got));
    }
    for note in &plan.notes {
        text.push_str(&format!("     {note}\n"));
    }
    super::error::escape_text(&text)
}

/// The plan as data, with the version of its form.
pub fn json(plan: &Plan) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(plan)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".into(), 1.into());
    }
    Ok(super::output::json(&serde_json::to_string_pretty(&value)?))
}

pub fn run(args: PlanArgs, all: &Arguments) -> ExitCode {
    let show = if args.json { Show::Json } else { Show::Human };
    let invocation = Invocation { command: args.command, ..Invocation::default() };
    match start(&args.common, invocation, Some(show), all) {
        Err(error) => {
            super::output::talk(&error.render());
            ExitCode::FAILURE
        }
        result => finish(result),
    }
}
