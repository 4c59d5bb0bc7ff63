//! What must wait until every entry of a layer is there: times of directories, and modes that would lock us out.
//!
//! Times go into a list of bytes, and beyond a megabyte into a file without a name: a layer may have a million directories, and a
//! load has 64 MiB.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use super::directory::{Directories, open_for_attributes};
use crate::image::tar::Time;

const MAX_MEMORY: usize = 1 << 20;
/// Directories whose owner may not enter them; real images have a few (`/root/.ssh` is not among them, 0700 is enough).
const MAX_MODES: usize = 16 << 10;

pub(crate) struct Late {
    memory: Vec<u8>,
    spilled: Option<File>,
    make: Box<dyn FnMut() -> io::Result<File> + Send>,
    modes: HashMap<Vec<u8>, u32>,
}

impl Late {
    /// `make` makes a file without a name.
    pub fn new(make: impl FnMut() -> io::Result<File> + Send + 'static) -> Self {
        Self { memory: Vec::new(), spilled: None, make: Box::new(make), modes: HashMap::new() }
    }

    pub fn directory(&mut self, path: &[u8], mode: u32, mtime: Time) -> io::Result<()> {
        self.memory.extend_from_slice(&mtime.seconds.to_le_bytes());
        self.memory.extend_from_slice(&mtime.nanoseconds.to_le_bytes());
        self.memory.extend_from_slice(&u32::try_from(path.len()).unwrap_or(0).to_le_bytes());
        self.memory.extend_from_slice(path);
        if self.memory.len() > MAX_MEMORY {
            self.spill()?;
        }
        self.modes.remove(path);
        if mode & 0o700 != 0o700 {
            if self.modes.len() == MAX_MODES {
                return Err(Errno::TOOBIG.into());
            }
            self.modes.insert(path.to_vec(), mode);
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.spilled {
            Some(file) => file,
            None => self.spilled.insert((self.make)()?),
        };
        file.write_all(&self.memory)?;
        self.memory.clear();
        Ok(())
    }

    /// Sets what had to wait, in the order of the archive: the last word about a directory counts.
    pub fn apply(mut self, directories: &Directories<'_>) -> io::Result<()> {
        if let Some(mut file) = self.spilled.take() {
            file.write_all(&self.memory)?;
            file.seek(SeekFrom::Start(0))?;
            apply_times(BufReader::with_capacity(64 << 10, file), directories)?;
        } else {
            apply_times(self.memory.as_slice(), directories)?;
        }
        // Deepest first: once a directory is closed, nothing below it can be reached.
        let mut modes: Vec<(Vec<u8>, u32)> = self.modes.into_iter().collect();
        modes.sort_by_key(|(path, _)| std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count() + usize::from(!path.is_empty())));
        for (path, mode) in &modes {
            if let Some(fd) = find(directories, path)? {
                rustix::fs::fchmod(open_for_attributes(&fd, b".")?, Mode::from_raw_mode(*mode))?;
            }
        }
        Ok(())
    }
}

fn apply_times(mut list: impl Read, directories: &Directories<'_>) -> io::Result<()> {
    let mut path = Vec::new();
    loop {
        let mut head = [0; 16];
        match list.read(&mut head[..1])? {
            0 => return Ok(()),
            _ => list.read_exact(&mut head[1..])?,
        }
        let [a, b, c, d, e, f, g, h, n0, n1, n2, n3, l0, l1, l2, l3] = head;
        let seconds = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let nanoseconds = u32::from_le_bytes([n0, n1, n2, n3]);
        path.resize(u32::from_le_bytes([l0, l1, l2, l3]) as usize, 0);
        list.read_exact(&mut path)?;
        if let Some(fd) = find(directories, &path)? {
            rustix::fs::utimensat(&fd, "", &times(Time { seconds, nanoseconds }), AtFlags::EMPTY_PATH)?;
        }
    }
}

/// `None`: a later entry has replaced the directory.
fn find(directories: &Directories<'_>, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    match directories.find(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
