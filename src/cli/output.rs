//! Data on stdout, talk on stderr; a closed pipe ends nothing with a panic.

use std::io::Write;

/// Data.
pub fn say(text: &str) {
    // Ignoring: a reader that went away has read enough.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
}

/// Talk.
pub fn talk(text: &str) {
    // Ignoring: there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
