//! Findings about a profile for people: the place, the line with a caret, and what to do about it.

use std::fmt::Write;
use std::io::IsTerminal;

use crate::profile::{Finding, Findings};

/// Whether colours are wanted where talk goes: stderr is a terminal, and NO_COLOR is unset or empty.
pub fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && colour_wanted()
}

/// The same for data.
pub fn colour_on_stdout() -> bool {
    std::io::stdout().is_terminal() && colour_wanted()
}

fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Every finding, with a count at the end. The text ends with a newline.
pub fn render(findings: &Findings, colour: bool) -> String {
    let mut text = String::new();
    for finding in &findings.findings {
        one(&mut text, finding, colour);
        text.push('\n');
    }
    match findings.findings.len() + findings.more {
        1 => text.push_str("1 finding\n"),
        count => {
            let _ = writeln!(text, "{count} findings");
        }
    }
    text
}

fn one(text: &mut String, finding: &Finding, colour: bool) {
    let paint = |style: &str, part: &str| if colour { format!("\x1b[{style}m{part}\x1b[0m") } else { part.to_owned() };
    let place = match finding.line {
        0 => finding.file.clone(),
        line => format!("{}:{line}:{}", finding.file, finding.column),
    };
    let key = if finding.key.is_empty() { String::new() } else { format!("{}: ", finding.key) };
    let _ = writeln!(text, "{}: {key}{}", paint("1", &place), paint("1;31", &finding.message));
    if let Some(line) = finding.text.as_ref().filter(|line| finding.line > 0 && finding.column <= line.chars().count() + 1) {
        let number = finding.line.to_string();
        let gutter = " ".repeat(number.len());
        let before = " ".repeat(finding.column - 1);
        let carets = "^".repeat(finding.width.min(line.chars().count() + 2 - finding.column).max(1));
        let _ = writeln!(text, " {gutter} {}", paint("34", "|"));
        let _ = writeln!(text, " {} {} {line}", paint("34", &number), paint("34", "|"));
        let _ = writeln!(text, " {gutter} {} {before}{}", paint("34", "|"), paint("31", &carets));
    }
    if let Some(hint) = &finding.hint {
        let _ = writeln!(text, "{}: {hint}", paint("36", "hint"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_what_is_wrong() {
        let finding = Finding {
            file: "x.toml".into(),
            line: 12,
            column: 3,
            width: 4,
            key: "a.b".into(),
            message: "is wrong".into(),
            hint: Some("b = 1".into()),
            text: Some("  word = 1".into()),
        };
        let mut cut = finding.clone();
        cut.column = 500;
        cut.hint = None;
        let text = render(&Findings { findings: vec![finding, cut], more: 3 }, false);
        assert_eq!(
            text,
            "x.toml:12:3: a.b: is wrong\n    |\n 12 |   word = 1\n    |   ^^^^\nhint: b = 1\n\nx.toml:12:500: a.b: is wrong\n\n5 findings\n"
        );
    }
}
