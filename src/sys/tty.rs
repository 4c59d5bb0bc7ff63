//! What other processes see of our command line.

use super::entry::Arguments;

impl Arguments {
    /// Overwrites the argument strings, so that `/proc/PID/cmdline` of this process shows nothing of the caller's command line.
    pub fn clear(&self) {
        if let Some((start, length)) = self.strings {
            // SAFETY: the strings that the kernel has put on the stack, found one after the other; they stay mapped and writable for the
            // life of the process, and nobody keeps a reference into them: `list` holds copies.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, length) };
        }
    }
}
