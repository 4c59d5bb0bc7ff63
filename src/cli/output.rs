//! Data on stdout, talk on stderr; a closed pipe ends nothing with a panic.

use std::io::{Error, Write};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

/// The first errno with which data could not be written; 0: all was.
static FAILED: AtomicI32 = AtomicI32::new(0);

/// Data.
pub fn say(text: &str) {
    note(writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')));
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
