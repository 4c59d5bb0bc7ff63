//! What other processes see of our command line.

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const libc::c_char;
}

/// Overwrites this process's argument strings, so that `/proc/PID/cmdline` of our init shows nothing of the caller's command line.
///
/// The kernel puts the argument strings right before the environment strings; they are cleared only where they are found to be there.
pub fn hide_arguments() {
    let arguments: Vec<_> = std::env::args_os().collect();
    let total: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    // SAFETY: environ is set by the C runtime before main; it is read in a process with one thread.
    let first = unsafe { environ.as_ref().copied().unwrap_or(std::ptr::null()) };
    let end = if first.is_null() { execfn() } else { first };
    if end.is_null() || total == 0 {
        return;
    }
    let start = end.cast::<u8>().wrapping_sub(total).cast_mut();
    let mut expected = arguments.iter().flat_map(|argument| argument.as_encoded_bytes().iter().chain(std::iter::once(&0)));
    for offset in 0..total {
        // SAFETY: the strings at the top of the initial stack are mapped without a gap for the life of the process, and the argument
        // strings lie right below `end` (fs/exec.c copies file name, environment, arguments downwards).
        let byte = unsafe { *start.add(offset) };
        if expected.next() != Some(&byte) {
            return;
        }
    }
    // SAFETY: the same bytes, just verified; nobody keeps references into them (std copies arguments on each call).
    unsafe { std::ptr::write_bytes(start, 0, total) };
}

fn execfn() -> *const libc::c_char {
    // SAFETY: getauxval only reads the auxiliary vector.
    (unsafe { libc::getauxval(libc::AT_EXECFN) }) as *const libc::c_char
}
