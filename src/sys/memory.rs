//! What stays in memory beside a running sandbox.

use std::os::raw::c_long;

use rustix::event::PollFd;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::clone::{Taken, last_errno};

/// The program's own code and constants, which the page cache has anyway.
///
/// A start touches some three megabytes of them, and a sandbox may run for days with a parent and an init that only wait. So both give
/// them back before a long wait, and wait in the very function that did so. Its own page stays: the kernel would map sixteen or more
/// around it.
///
/// # References
/// madvise(2) `MADV_DONTNEED`; elf(5) `PT_LOAD`
#[derive(Clone, Copy, Debug, Default)]
struct Code {
    segments: [(usize, usize); 8],
    count: usize,
}

impl Code {
    fn find() -> Self {
        let mut code = Self::default();
        // SAFETY: getauxval only reads the auxiliary vector.
        let (table, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
        if table == 0 {
            return code;
        }
        // SAFETY: the kernel has mapped the program headers there, AT_PHNUM of them.
        let headers = unsafe { std::slice::from_raw_parts(table as *const libc::Elf64_Phdr, usize::try_from(count).unwrap_or(0)) };
        // Where the program was put, as the headers know only where it wanted to be: they themselves follow the file's first header.
        let Some(first) = headers.iter().find(|header| header.p_type == libc::PT_LOAD && header.p_offset == 0) else { return code };
        let base = table.wrapping_sub(size_of::<libc::Elf64_Ehdr>() as u64).wrapping_sub(first.p_vaddr);
        let read_only = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        let kept = give_back_and as *const () as usize & !4095;
        for header in headers.iter().filter(read_only) {
            let start = usize::try_from(base.wrapping_add(header.p_vaddr)).unwrap_or(0) & !4095;
            let end = start.saturating_add(usize::try_from(header.p_memsz).unwrap_or(0));
            if (start..end).contains(&kept) {
                code.add(start, kept);
                code.add(kept + 4096, end);
            } else {
                code.add(start, end);
            }
        }
        code
    }

    fn add(&mut self, start: usize, end: usize) {
        if start < end
            && let Some(segment) = self.segments.get_mut(self.count)
        {
            *segment = (start, end - start);
            self.count += 1;
        }
    }
}

/// poll(2) for a long wait.
///
/// # Errors
/// `EINTR` · `EINVAL` · `ENOMEM`.
pub fn poll_idle(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<(), Errno> {
    const { assert!(size_of::<PollFd<'_>>() == size_of::<libc::pollfd>()) };
    let timeout = timeout.map(|timeout| libc::timespec { tv_sec: timeout.tv_sec, tv_nsec: timeout.tv_nsec as c_long });
    let timeout = timeout.as_ref().map_or(0, |timeout| std::ptr::from_ref(timeout) as usize);
    let arguments = [fds.as_mut_ptr() as usize, fds.len(), timeout, 0, 8];
    // SAFETY: ppoll with a slice of what rustix lays out as the kernel's struct pollfd, a timeout or none, and no signal mask.
    let result = unsafe { give_back_and(&Code::find(), libc::SYS_ppoll, arguments) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Takes the next of the blocked signals, as [`await_signal`](super::await_signal), in a long wait.
pub fn await_signal_idle() -> Option<Taken> {
    // SAFETY: the set is filled before it is used, and a siginfo_t of zeroes is one.
    let (set, mut info) = unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        (set.assume_init(), std::mem::zeroed::<libc::siginfo_t>())
    };
    let arguments = [std::ptr::from_ref(&set) as usize, std::ptr::from_mut(&mut info) as usize, 0, 8, 0];
    // SAFETY: rt_sigtimedwait with a signal set of the kernel's 8 bytes, which is where every C library keeps its first 64 signals, a
    // siginfo_t that the kernel fills, and a null pointer for the timeout.
    let result = unsafe { give_back_and(&Code::find(), libc::SYS_rt_sigtimedwait, arguments) };
    i32::try_from(result).ok().and_then(|signal| Taken::new(signal, &info))
}

/// Gives the code back and makes one system call, touching little code of its own in between.
///
/// # Safety
/// The arguments must be right for the call.
#[unsafe(link_section = ".text.hamper_idle")]
#[inline(never)]
unsafe fn give_back_and(code: &Code, number: c_long, arguments: [usize; 5]) -> c_long {
    let [a, b, c, d, e] = arguments;
    // SAFETY: segments that are never written: their pages are those of the file, and the kernel reads them again when they are needed.
    // The call itself is the caller's promise.
    unsafe {
        let mut index = 0;
        while index < code.count {
            let (start, length) = *code.segments.as_ptr().add(index);
            libc::syscall(libc::SYS_madvise, start, length, libc::MADV_DONTNEED);
            index += 1;
        }
        libc::syscall(number, a, b, c, d, e)
    }
}

/// Gives the memory of a start back, for init: from here on it must touch nothing that was allocated.
pub fn forget_allocations() {
    super::alloc::forget_block();
}

/// Gives back the stack below this frame, which the depths of a start have touched.
pub fn forget_stack() {
    const DEPTH: usize = 256 * 1024;
    /// What stays: this frame, what it calls, and the red zone below.
    const ROOM: usize = 8 * 1024;
    let here = 0u8;
    let end = (std::ptr::from_ref(&here) as usize).saturating_sub(ROOM) & !4095;
    // SAFETY: below the stack pointer nothing lives; where the stack does not reach so far down, the kernel passes over what is not
    // mapped.
    unsafe { libc::madvise(end.saturating_sub(DEPTH) as *mut libc::c_void, DEPTH, libc::MADV_DONTNEED) };
}

/// Gives back the whole pages of memory that nobody uses any more.
pub fn forget(memory: &mut [std::mem::MaybeUninit<u8>]) {
    let range = memory.as_mut_ptr_range();
    let start = (range.start as usize).next_multiple_of(4096);
    let end = range.end as usize & !4095;
    if let Some(length) = end.checked_sub(start).filter(|length| *length > 0) {
        // SAFETY: exclusively borrowed, and without a value that could be lost.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}
