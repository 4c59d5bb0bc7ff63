//! Data on stdout, talk on stderr; a closed pipe ends nothing with a panic.

use std::io::{Error, Write};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use serde::Serialize;

use crate::profile::is_unseen;

/// The first errno with which data could not be written; 0: all was.
static FAILED: AtomicI32 = AtomicI32::new(0);

/// Data.
pub fn say(text: &str) {
    note(writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')));
}

/// Data as JSON on many lines. What a terminal would obey is escaped, which is the same text to every reader of JSON.
pub fn say_json(value: &impl Serialize) {
    say(&json(&serde_json::to_string_pretty(value).unwrap_or_default()));
}

/// JSON with `\uXXXX` for what a terminal would obey. Outside of strings there is nothing but ASCII and newlines.
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unseen(character) && character != '\n' {
            character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}")));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Remembers why data was not written.
pub fn note(result: std::io::Result<()>) {
    if let Err(error) = result {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        // Ignoring: the first failure is the one to tell.
        let _ = FAILED.compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Writes what is left, and tells whether data was lost. A reader that went away has read enough.
pub fn finish() -> Option<Error> {
    note(std::io::stdout().flush());
    match FAILED.load(Ordering::Relaxed) {
        0 => None,
        errno if errno == Errno::PIPE.raw_os_error() => None,
        errno => Some(Error::from_raw_os_error(errno)),
    }
}

/// Talk.
pub fn talk(text: &str) {
    // Ignoring: there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_and_drives_no_terminal() {
        let evil = "a\n\x1b\u{7f}\u{9b}\u{202e}\u{e0001}é";
        let text = json(&serde_json::to_string_pretty(&[evil]).unwrap());
        assert!(text.contains(r"\u007f\u009b\u202e\udb40\udc01é"), "{text}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [evil]);
    }
}
