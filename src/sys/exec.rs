//! execve(2) with everything prepared beforehand, so that the child need not allocate.

use std::ffi::{CStr, CString, c_char};

use rustix::io::Errno;

use super::clone::last_errno;

/// A null-terminated array of C strings, as execve(2) takes it, with the strings that it points to.
pub struct CStrArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrArray {
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
        Self { strings, pointers }
    }

    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Executes `path`; returns only when that failed.
///
/// # References
/// execve(2)
pub fn execve(path: &CStr, argv: &CStrArray, envp: &CStrArray) -> Errno {
    // SAFETY: both arrays end in a null pointer, and every other element points into a CString that the same value owns and that is
    // never changed.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    last_errno()
}
