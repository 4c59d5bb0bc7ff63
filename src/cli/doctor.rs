//! `hamper doctor`: what this machine can enforce, what hamper does instead, and what an admin would have to do.

use super::exit::ExitCode;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::diagnostic::colour_on_stdout;
use super::error::{CliError, escape};
use super::output::{say, say_json, talk};
use crate::host::{Delegation, Directories, Examination, Finding, Learned, Place, State, examine};
use crate::launch::Cgroup;

/// Tell what this machine can enforce, what it cannot, and what an admin would have to do
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Fail where anything is missing, not only where nothing can be started
    #[arg(long)]
    strict: bool,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Version of the form of the JSON; a reader refuses one that it does not know.
const SCHEMA: u32 = 1;

/// `hamper run` cannot start here; with `--strict`: something is missing.
const FINDING: u8 = 1;

pub fn run(args: &DoctorArgs) -> ExitCode {
    let directories = match Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from)) {
        Ok(directories) => directories,
        Err(error) => {
            talk(&CliError::Host(error).render());
            return ExitCode::from(FINDING);
        }
    };
    let mut all = examine(&directories);
    if all.can_start() {
        try_limits(&mut all);
    }
    if args.json || args.format == Format::Json {
        let value = json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "can_start": all.can_start(),
            "complete": all.complete(),
            "still_works": all.still_works,
            "findings": all.findings,
            "skipped": all.skipped,
        });
        say_json(&value);
    } else {
        say(&human(&all, colour_on_stdout()));
    }
    let well = if args.strict { all.can_start() && all.complete() } else { all.can_start() };
    if well { ExitCode::SUCCESS } else { ExitCode::from(FINDING) }
}

/// Has a service manager give a cgroup, as a run with limits does, and removes it again: what it passes on it tells by that alone. Others say what
/// they have, and would stay divided.
fn try_limits(all: &mut Examination) {
    let delegation = Delegation::find(&[], None, &Learned::default());
    let Some(place @ Place::Manager { .. }) = delegation.place.as_ref().ok() else { return };
    let made = Cgroup::try_out(place).map_err(|error| CliError::from(error).chain());
    all.limits_were_tried(&delegation, made);
}

/// One line a check, what follows from it below.
fn human(all: &Examination, colour: bool) -> String {
    let widest = all.findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for finding in &all.findings {
        one(&mut text, finding, widest, colour);
    }
    if !all.skipped.is_empty() {
        text.push_str(&format!("\nnot tried, since it could not work: {}\n", all.skipped.join(" ")));
    }
    text.push('\n');
    text.push_str(match (all.can_start(), all.complete()) {
        (true, true) => "hamper run works here, with everything on.",
        (true, false) => "hamper run works here, with less where it says so above.",
        (false, _) => "hamper run cannot start here.",
    });
    text.push('\n');
    if let Some(words) = all.still_works.as_ref().filter(|_| !all.can_start()) {
        text.push_str(&format!("what still works: {}\n", shown(words)));
    }
    text
}

const INDENT: &str = "          ";

fn one(text: &mut String, finding: &Finding, widest: usize, colour: bool) {
    let (word, style) = match finding.state {
        State::Ok => ("ok", "32"),
        State::Degraded => ("degraded", "33"),
        State::Missing => ("missing", "31"),
    };
    let word = format!("{word:8}");
    let word = if colour { format!("\x1b[{style}m{word}\x1b[0m") } else { word };
    text.push_str(&format!("{word}  {:widest$}  {}\n", finding.check, shown(&finding.seen)));
    if let Some(instead) = &finding.instead {
        text.push_str(&format!("{INDENT}instead: {}\n", shown(instead)));
    }
    match finding.remedy.as_slice() {
        [] => {}
        [line] => text.push_str(&format!("{INDENT}remedy: {}\n", shown(line))),
        lines => {
            text.push_str(&format!("{INDENT}remedy:\n"));
            for line in lines {
                text.push_str(&format!("{INDENT}  {}\n", shown(line)));
            }
        }
    }
}

/// On one line, and nothing in it drives the terminal.
fn shown(text: &str) -> String {
    escape(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &'static str, state: State, stops: bool) -> Finding {
        Finding {
            check,
            state,
            stops,
            seen: "a\x1b[0m\nb".into(),
            errno: None,
            cause: None,
            instead: Some("less".into()),
            remedy: vec!["one".into(), "two".into()],
        }
    }

    #[test]
    fn one_line_a_check_and_a_sentence_at_the_end() {
        let mut all = Examination { findings: vec![finding("overlay", State::Degraded, false)], skipped: vec!["x"], still_works: None };
        let expected = "degraded  overlay  a\\u{1b}[0m\\nb\n          instead: less\n          remedy:\n            one\n            two\n\
                        \nnot tried, since it could not work: x\n\nhamper run works here, with less where it says so above.\n";
        assert_eq!(human(&all, false), expected);
        all.findings.push(finding("user_namespaces", State::Missing, true));
        all.still_works = Some("image host".into());
        let text = human(&all, true);
        assert!(text.contains("\x1b[31mmissing \x1b[0m  user_namespaces  a"), "{text}");
        assert!(text.ends_with("\nhamper run cannot start here.\nwhat still works: image host\n"), "{text}");
    }
}
