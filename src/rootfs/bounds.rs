//! Bounds on what one load may make; shared by its threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of all layers together. The largest images in use (TeX Live, Anaconda with CUDA) have half a million.
pub const MAX_ENTRIES: u64 = 2_000_000;
/// Bytes of all layers' files together, holes included: four times the largest images in use (machine learning, 30 GB).
pub const MAX_BYTES: u64 = 128 << 30;
/// A layer may unpack to this without being asked how well it was compressed …
pub const FREE_BYTES: u64 = 1 << 30;
/// … and beyond that to at most this many times its blob. Real layers are at 2 to 10; zeros are at 1000 under gzip.
pub const MAX_RATIO: u64 = 100;
/// A layer may have this many entries whatever its size …
pub const FREE_ENTRIES: u64 = 100_000;
/// … and beyond that one for this many bytes of its blob. Real entries take 60 and more; two million equal headers take half a byte
/// each, and half a minute.
pub const ENTRY_BYTES: u64 = 16;
/// NAME_MAX of every file system that matters.
pub const MAX_NAME: usize = 255;
/// Directories above one another; deep `node_modules` have 60.
pub const MAX_DEPTH: usize = 256;

#[derive(Default)]
pub(crate) struct Bounds {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Bounds {
    /// Counts one entry and the bytes that it will take.
    pub fn count(&self, bytes: u64) -> Result<(), String> {
        let entries = self.entries.fetch_add(1, Ordering::Relaxed) + 1;
        if entries > MAX_ENTRIES {
            return Err(format!("the image has more than {MAX_ENTRIES} entries"));
        }
        let before = self.bytes.fetch_add(bytes.min(MAX_BYTES + 1), Ordering::Relaxed);
        if before.saturating_add(bytes) > MAX_BYTES {
            return Err(format!("the image has more than {} GiB of files", MAX_BYTES >> 30));
        }
        Ok(())
    }
}
