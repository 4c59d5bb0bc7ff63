//! The program's entry: C's `main` instead of Rust's runtime, which would set up a dozen things that a start does not need.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;

/// The caller's arguments and where the kernel has put them.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub list: Vec<OsString>,
    /// Address and length of the strings, one after the other, each with its zero byte.
    pub(super) strings: Option<(usize, usize)>,
}

/// Collects what the kernel has put on the stack, and sees to it that descriptors 0 to 2 exist.
///
/// # Safety
/// `argv` must be what C's `main` was called with: `argc` pointers to C strings that live as long as the process.
pub unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Arguments {
    standard_descriptors();
    let count = usize::try_from(argc).unwrap_or(0);
    let mut list = Vec::with_capacity(count);
    let mut strings: Option<(usize, usize)> = None;
    for index in 0..count {
        // SAFETY: the caller's promise.
        let text = unsafe { CStr::from_ptr(*argv.add(index)) };
        let (start, length) = (text.as_ptr() as usize, text.count_bytes() + 1);
        strings = match (strings, index) {
            (None, 0) => Some((start, length)),
            (Some((first, known)), _) if first + known == start => Some((first, known + length)),
            // Not one after the other: then they are left alone.
            _ => None,
        };
        list.push(OsString::from_vec(text.to_bytes().to_vec()));
    }
    Arguments { list, strings: strings.filter(|_| count > 0) }
}

/// A program started without them would open its own files there, and hand them to the payload as its output.
fn standard_descriptors() {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three valid entries; the call waits for nothing.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) };
    if ready > 0 && fds.iter().any(|fd| fd.revents & libc::POLLNVAL != 0) {
        for fd in fds.iter().filter(|fd| fd.revents & libc::POLLNVAL != 0) {
            // SAFETY: opens the lowest free descriptor, which is this one, as those before it exist or were just opened.
            let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
            if opened != fd.fd {
                super::exit_now(125);
            }
        }
    }
}

/// Defines C's `main`, which calls a function from [`Arguments`](crate::sys::Arguments) to an exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(argc: ::std::ffi::c_int, argv: *const *const ::std::ffi::c_char) -> ::std::ffi::c_int {
            // SAFETY: these are C's own.
            let arguments = unsafe { $crate::sys::arguments(argc, argv) };
            ::std::ffi::c_int::from($main(&arguments))
        }
    };
}
