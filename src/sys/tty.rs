//! What other processes see of our command line.

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const libc::c_char;
}

/// Where the kernel has put this process's argument strings.
#[derive(Clone, Copy, Debug)]
pub struct ArgumentStrings {
    start: usize,
    length: usize,
}

impl ArgumentStrings {
    /// Finds the argument strings, which lie right before the environment strings; `None` where something else is found there.
    pub fn find() -> Option<Self> {
        let arguments: Vec<_> = std::env::args_os().collect();
        let length: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
        // SAFETY: environ is set by the C runtime before main, and read here in a process with one thread.
        let first = unsafe { environ.as_ref().copied().unwrap_or(std::ptr::null()) };
        let end = if first.is_null() { execfn() } else { first } as usize;
        let start = end.checked_sub(length).filter(|_| end != 0 && length > 0)?;
        let mut expected = arguments.iter().flat_map(|argument| argument.as_encoded_bytes().iter().chain(std::iter::once(&0)));
        // SAFETY: the strings at the top of the initial stack are mapped without a gap for the life of the process, and what lies below
        // the environment strings are the argument strings and then the pointer arrays (fs/exec.c), so all of it can be read.
        let same = (start..end).all(|address| expected.next() == Some(unsafe { &*(address as *const u8) }));
        same.then_some(Self { start, length })
    }

    /// Overwrites them, so that `/proc/PID/cmdline` of this process shows nothing of the caller's command line.
    pub fn clear(self) {
        // SAFETY: the bytes that `find` has verified; they stay mapped and writable for the life of the process, and nobody keeps a
        // reference into them (std copies arguments on each call).
        unsafe { std::ptr::write_bytes(self.start as *mut u8, 0, self.length) };
    }
}

fn execfn() -> *const libc::c_char {
    // SAFETY: getauxval only reads the auxiliary vector.
    (unsafe { libc::getauxval(libc::AT_EXECFN) }) as *const libc::c_char
}
