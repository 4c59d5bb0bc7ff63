//! The memory of a start: a start allocates a few hundred small pieces and ends, so they come from one block that is never given back.
//!
//! musl's allocator maps and unmaps pages for them, some fifty system calls a start. What does not fit, a load of an image above all,
//! goes to the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the block; pages of it that are never touched cost nothing.
const BLOCK: usize = 256 * 1024;

/// Larger pieces go to the system: they are few, and may be given back.
const LARGEST: usize = 32 * 1024;

#[repr(align(64))]
struct Block(UnsafeCell<[u8; BLOCK]>);

// SAFETY: the block is only handed out in disjoint pieces, by an atomic cursor.
unsafe impl Sync for Block {}

static MEMORY: Block = Block(UnsafeCell::new([0; BLOCK]));

/// See the module.
pub struct Bump {
    used: AtomicUsize,
    /// How far pieces have ever reached: behind it the block is as the kernel gave it, all zero.
    reached: AtomicUsize,
}

impl Bump {
    pub const fn new() -> Self {
        Self { used: AtomicUsize::new(0), reached: AtomicUsize::new(0) }
    }

    fn start() -> usize {
        MEMORY.0.get() as usize
    }

    /// Offset of a piece in the block.
    fn offset(pointer: *mut u8) -> Option<usize> {
        (pointer as usize).checked_sub(Self::start()).filter(|offset| *offset < BLOCK)
    }

    /// A piece, and how many of its first bytes somebody may have written before.
    fn take(&self, layout: Layout) -> Option<(*mut u8, usize)> {
        if layout.size() > LARGEST || layout.align() > 64 {
            return None;
        }
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let start = used.checked_next_multiple_of(layout.align())?;
            let end = start.checked_add(layout.size()).filter(|end| *end <= BLOCK)?;
            match self.used.compare_exchange_weak(used, end, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    // Whoever had these bytes and gave them back has told before how far they reached.
                    let written = self.reached.fetch_max(end, Ordering::Relaxed).saturating_sub(start).min(layout.size());
                    return Some((MEMORY.0.get().cast::<u8>().wrapping_add(start), written));
                }
                Err(now) => used = now,
            }
        }
    }
}

impl Default for Bump {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: pieces of the block are disjoint (each successful exchange moves the cursor past the piece), aligned (the block is aligned to
// 64, larger alignments go to the system) and never handed out twice except after the last piece itself was given back.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((piece, _)) => piece,
            // SAFETY: the caller's contract is passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    /// A buffer that will be filled in part does not touch all of its pages.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((piece, written)) => {
                // SAFETY: the first bytes of a piece that nobody else has.
                unsafe { piece.write_bytes(0, written) };
                piece
            }
            // SAFETY: the caller's contract is passed on.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match Self::offset(pointer) {
            Some(offset) => {
                // Only the last piece can be taken back; losing the race means that it is not the last any more.
                let _ = self.used.compare_exchange(offset + layout.size(), offset, Ordering::AcqRel, Ordering::Relaxed);
            }
            // SAFETY: not of the block, so of the system's allocator.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = Self::offset(pointer) else {
            // SAFETY: not of the block, so of the system's allocator.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        if size <= LARGEST && offset + size <= BLOCK {
            let (old, new) = (offset + layout.size(), offset + size);
            if self.used.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.reached.fetch_max(new, Ordering::Relaxed);
                return pointer;
            }
        }
        // SAFETY: the new layout has the old one's alignment; the pieces are disjoint, and both hold the bytes that are copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            new
        }
    }
}

/// Gives the block back, for a process that ends without ever touching what it has allocated.
pub(super) fn forget_block() {
    let start = MEMORY.0.get() as usize;
    let (first, end) = (start.next_multiple_of(4096), (start + BLOCK) & !4095);
    // SAFETY: whole pages of the block, which read as zeroes from now on; the only caller is init, which uses no allocation any more.
    unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED) };
}
