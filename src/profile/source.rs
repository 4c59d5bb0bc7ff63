//! One text of a profile, and its values with the places that they stand at.
//!
//! The text is scanned before the parser sees it: a parser's cost must not be in the hands of who wrote the file. One TOML key of
//! 50,000 dotted parts has cost a parser gigabytes.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, Findings};

/// Largest text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Most parts of one dotted key; the schema's longest has three.
const MAX_PARTS: usize = 16;
/// Most brackets and braces open at once; the schema needs three.
const MAX_DEPTH: usize = 16;
/// Longest bare or quoted key, in bytes.
const MAX_KEY: usize = 256;
/// Above this, only the first syntax error is told: the parser keeps a record for each.
const RECOVERABLE: usize = 64 << 10;

/// A text with the name that messages use for it.
#[derive(Debug)]
pub struct Source {
    /// As messages name it.
    pub name: String,
    /// What relative paths in it count from; absolute.
    pub dir: PathBuf,
    pub text: String,
    pub layer: Layer,
}

/// How a text came into the profile; a later layer wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Include,
    Profile,
    Local,
    Override,
}

/// A place: bytes `start..end` of the source with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub source: u16,
    pub start: u32,
    pub end: u32,
}

impl At {
    pub fn span(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A TOML value and its place.
#[derive(Clone, Debug)]
pub struct Item {
    pub value: Value,
    pub at: At,
}

#[derive(Clone, Debug)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Item>),
    Table(Vec<(Name, Item)>),
    /// A number that fits nothing, or a date.
    Other(&'static str),
}

impl Value {
    /// With its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Flag(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// A key and its place.
#[derive(Clone, Debug)]
pub struct Name {
    pub text: String,
    pub at: At,
}

/// The top-level table, keys in the order of the text; what the parser could not read is a finding.
pub fn parse(source: &Source, number: u16, findings: &mut Findings) -> Vec<(Name, Item)> {
    if let Some(finding) = scan(source) {
        findings.push(finding);
        return Vec::new();
    }
    match DeTable::parse(&source.text) {
        Ok(table) => entries(table.get_ref(), number),
        Err(first) if source.text.len() > RECOVERABLE => {
            findings.push(syntax(source, &first));
            Vec::new()
        }
        Err(_) => recover(source, number, findings),
    }
}

/// Every syntax error, and what can be read around them. Values in a broken line are left out: they would only be misjudged.
fn recover(source: &Source, number: u16, findings: &mut Findings) -> Vec<(Name, Item)> {
    /// More broken lines than this say no more.
    const MOST: usize = 64;
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let mut broken: Vec<Range<usize>> = Vec::new();
    for error in errors.iter().take(16 * MOST) {
        let at = error.span().map_or(0, |span| span.start.min(source.text.len()));
        if broken.len() < MOST && !broken.iter().any(|line| line.contains(&at)) {
            broken.push(line_around(&source.text, at));
            findings.push(syntax(source, error));
        }
    }
    let mut items = entries(table.get_ref(), number);
    prune(&mut items, &|at| broken.iter().any(|line| line.contains(&(at.start as usize))));
    items
}

/// The bytes of the line that holds `at`, with its newline.
fn line_around(text: &str, at: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |newline| at + newline);
    start..end + 1
}

fn prune(items: &mut Vec<(Name, Item)>, is_broken: &dyn Fn(At) -> bool) {
    items.retain_mut(|(name, item)| match &mut item.value {
        Value::Table(inner) => {
            prune(inner, is_broken);
            !inner.is_empty()
        }
        _ => !is_broken(name.at) && !is_broken(item.at),
    });
}

fn syntax(source: &Source, error: &toml::de::Error) -> Finding {
    let span = error.span().unwrap_or(0..0);
    Findings::at(source, span, String::new(), super::finding::escape(&error.message().to_lowercase()), None)
}

/// What must not reach the parser.
fn scan(source: &Source) -> Option<Finding> {
    let whole = |message: String| Some(Findings::about_file(&source.name, message, None));
    if source.text.len() > MAX_BYTES {
        return whole(format!("is larger than {MAX_BYTES} bytes"));
    }
    let (at, message) = Scan::new(&source.text).find()?;
    Some(Findings::at(source, at..at + 1, String::new(), message, None))
}

/// A lexer that knows just enough TOML to tell keys and brackets from strings and comments.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    parts: usize,
    depth: usize,
    key: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, parts: 1, depth: 0, key: 0 }
    }

    /// The first place at which a bound is broken.
    fn find(mut self) -> Option<(usize, String)> {
        while let Some(&byte) = self.bytes.get(self.at) {
            let start = self.at;
            match byte {
                b'"' | b'\'' => self.string(byte),
                b'#' => self.comment(),
                _ => self.plain(byte),
            }
            if self.parts > MAX_PARTS {
                return Some((start, format!("a key has more than {MAX_PARTS} dotted parts")));
            }
            if self.depth > MAX_DEPTH {
                return Some((start, format!("brackets are nested more than {MAX_DEPTH} deep")));
            }
            if self.key > MAX_KEY {
                return Some((start, format!("a word is longer than {MAX_KEY} bytes")));
            }
        }
        None
    }

    fn plain(&mut self, byte: u8) {
        self.at += 1;
        match byte {
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        match byte {
            b'.' => (self.parts, self.key) = (self.parts + 1, 0),
            b'\n' | b'=' | b',' | b'[' | b']' | b'{' | b'}' => (self.parts, self.key) = (1, 0),
            b' ' | b'\t' | b'\r' => self.key = 0,
            _ => self.key += 1,
        }
    }

    fn comment(&mut self) {
        self.at += self.bytes[self.at..].iter().position(|byte| *byte == b'\n').unwrap_or(self.bytes.len() - self.at);
    }

    /// Steps over a string of either quote, on one line or on many.
    fn string(&mut self, quote: u8) {
        let many = self.bytes[self.at..].starts_with(&[quote; 3]);
        self.at += if many { 3 } else { 1 };
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'\\' if quote == b'"' => self.at += 1,
                b'\n' if !many => return,
                _ if byte != quote => {}
                _ if !many => return,
                _ if self.bytes[self.at..].starts_with(&[quote; 2]) => {
                    // The closing three may be preceded by one or two more that belong to the string.
                    self.at += 2;
                    while self.bytes.get(self.at) == Some(&quote) {
                        self.at += 1;
                    }
                    return;
                }
                _ => {}
            }
        }
    }
}

fn entries(table: &DeTable<'_>, source: u16) -> Vec<(Name, Item)> {
    let named = table.iter().map(|(key, value)| {
        let name = Name { text: key.get_ref().to_string(), at: place(key.span(), source) };
        (name, item(value, source))
    });
    let mut entries: Vec<_> = named.collect();
    // The parser's map is sorted by key; people read in the order of the file.
    entries.sort_by_key(|(name, _)| name.at.start);
    entries
}

fn item(value: &Spanned<DeValue<'_>>, source: u16) -> Item {
    let at = place(value.span(), source);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other("an integer beyond 64 bits"), Value::Integer)
        }
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("no float"), Value::Float),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => Value::List(list.iter().map(|element| item(element, source)).collect()),
        DeValue::Table(table) => Value::Table(entries(table, source)),
    };
    Item { value, at }
}

fn place(span: Range<usize>, source: u16) -> At {
    let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    At { source, start: short(span.start), end: short(span.end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "x.toml".into(), dir: "/".into(), text: text.into(), layer: Layer::Profile }
    }

    fn findings(text: &str) -> String {
        let mut findings = Findings::default();
        parse(&source(text), 0, &mut findings);
        findings.to_string()
    }

    #[test]
    fn strings_and_comments_are_not_scanned_as_keys() {
        let dots = ".".repeat(100);
        for text in [
            format!("a = \"{dots}\""),
            format!("a = '{dots}'"),
            format!("a = \"\"\"\n{dots}\n\"\" {dots}\"\"\"\"\""),
            format!("a = '''{dots}'''"),
            format!("# {dots}\na = 1"),
            format!("a = \"\\\"{dots}\""),
            format!("a = [{}]", "1.5, ".repeat(100)),
        ] {
            assert_eq!(findings(&text), "", "{text}");
        }
    }

    #[test]
    fn hostile_texts_do_not_reach_the_parser() {
        let parts = vec!["a"; 50_000].join(".");
        for (text, expected) in [
            (format!("{parts} = 1"), "x.toml:1:32: a key has more than 16 dotted parts"),
            (format!("[{parts}]"), "x.toml:1:33: a key has more than 16 dotted parts"),
            (format!("{} = 1", vec!["\"a\""; 50_000].join(" . ")), "x.toml:1:95: a key has more than 16 dotted parts"),
            (format!("a = {}", "[".repeat(100_000)), "x.toml:1:21: brackets are nested more than 16 deep"),
            (format!("a = {}", "{a=".repeat(100_000)), "x.toml:1:53: brackets are nested more than 16 deep"),
            (format!("{} = 1", "k".repeat(300)), "x.toml:1:257: a word is longer than 256 bytes"),
            ("a".repeat(MAX_BYTES + 1), "x.toml: is larger than 1048576 bytes"),
        ] {
            assert_eq!(findings(&text), expected);
        }
    }

    #[test]
    fn several_syntax_errors_are_told_at_once() {
        let text = "a = \nb = 1\nc = [1, 2\nd = \"x\nname = \"y\"\n";
        let told = findings(text);
        assert!(told.lines().count() >= 2, "{told}");
        assert!(told.contains("x.toml:1:5: string values must be quoted"), "{told}");
    }
}
