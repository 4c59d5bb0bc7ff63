//! What is wrong with a profile, said so that it can be found and mended.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::source::Source;

/// More findings than this are counted, not kept: a hostile file could make one per byte.
const KEPT: usize = 100;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file as messages name it; `--set` for an override. Escaped.
    pub file: String,
    /// From 1; 0 when the finding is about the whole file.
    pub line: usize,
    /// In characters, from 1; 0 when the finding is about the whole file.
    pub column: usize,
    /// How many characters of the line the caret underlines.
    pub width: usize,
    /// The key path, `limits.memory` or `mounts[2].target`; empty where there is none. Escaped.
    pub key: String,
    /// A lower-case fragment.
    pub message: String,
    /// What to do about it; can be pasted where it is code.
    pub hint: Option<String>,
    /// The line of the file that the finding is about, escaped and cut.
    pub text: Option<String>,
}

/// `file:line:column: key: message`, in one line, without the hint.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong with a profile, in the order of its files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub findings: Vec<Finding>,
    /// How many more there were than are kept.
    pub more: usize,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether another one would be kept. One that would not is counted without being made: its place costs a look at the whole text.
    pub(super) fn wants(&mut self) -> bool {
        let wants = self.findings.len() < KEPT;
        self.more += usize::from(!wants);
        wants
    }

    pub(super) fn push(&mut self, finding: Finding) {
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        other.findings.into_iter().for_each(|finding| self.push(finding));
        self.more += other.more;
    }

    /// A finding about a file as a whole.
    pub(super) fn about_file(file: &str, message: impl Into<String>, hint: Option<String>) -> Finding {
        Finding { file: escape(file), line: 0, column: 0, width: 0, key: String::new(), message: message.into(), hint, text: None }
    }

    /// A finding at a place in a file.
    pub(super) fn at(source: &Source, span: Range<usize>, key: String, message: String, hint: Option<String>) -> Finding {
        let place = Place::of(&source.text, span);
        let Place { line, column, width, text } = place;
        Finding { file: escape(&source.name), line, column, width, key, message, hint, text: Some(text) }
    }

    /// By file in the order of reading, then by line.
    pub(super) fn sort(&mut self, sources: &[Source]) {
        let rank = |file: &str| sources.iter().position(|source| escape(&source.name) == file).unwrap_or(usize::MAX);
        self.findings.sort_by_cached_key(|finding| (rank(&finding.file), finding.line, finding.column));
        self.findings.dedup();
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Findings {}

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        Self { findings: vec![finding], more: 0 }
    }
}

/// A span as a person counts: lines and columns from 1, columns in characters.
struct Place {
    line: usize,
    column: usize,
    width: usize,
    text: String,
}

impl Place {
    /// Longer lines are cut: the caret stays in view.
    const WIDEST: usize = 160;

    fn of(text: &str, span: Range<usize>) -> Self {
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[..start].bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let width = text[start..end.min(line_end)].chars().count().max(1);
        let shown = text[line_start..line_end].chars().take(Self::WIDEST).map(|c| if c.is_control() { ' ' } else { visible(c) });
        Self { line, column, width, text: shown.collect() }
    }
}

/// A character of the same width that cannot reorder the line that it stands in.
fn visible(c: char) -> char {
    if is_deceptive(c) { '\u{fffd}' } else { c }
}

/// The nearest character boundary at or below `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Characters that change what a terminal shows without being seen: bidirectional overrides, zero widths, tags.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Characters that a terminal obeys instead of showing them.
pub fn is_unseen(c: char) -> bool {
    c.is_control() || is_deceptive(c)
}

/// Text from a file as it may be shown to people: control and deceptive characters escaped, and cut at a sensible length.
pub fn escape(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if is_unseen(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The nearest of `known` to a misspelt word, if one is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    let squeezed = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let distance = if squeezed(candidate) == squeezed(word) { 0 } else { distance(word, candidate) };
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Edit distance with neighbouring letters swapped counted as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_found_and_far_ones_are_not() {
        let known = ["memory", "swap", "cpus", "cpu_weight", "pids"];
        for (word, expected) in [
            ("memroy", Some("memory")),
            ("cpu", Some("cpus")),
            ("cpu-weight", Some("cpu_weight")),
            ("cpuWeight", Some("cpu_weight")),
            ("pid", Some("pids")),
            ("network", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn places_count_characters() {
        let place = Place::of("a = 1\nbü = \"x\"\n", 11..14);
        assert_eq!((place.line, place.column, place.width, place.text.as_str()), (2, 5, 3, "bü = \"x\""));
        let end = Place::of("a", 5..9);
        assert_eq!((end.line, end.column, end.width), (1, 2, 1));
    }

    #[test]
    fn shown_text_cannot_move_the_cursor_or_turn_the_line() {
        assert_eq!(escape("a\x1b[2J\u{202e}b\n"), "a\\u{1b}[2J\\u{202e}b\\n");
        assert_eq!(escape(&"x".repeat(500)).chars().count(), 201);
    }
}
