//! A tar on disk, indexed once, from which entries are read where they stand.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::blob::{Blob, open_regular};
use super::media::Compression;
use super::tar::{Kind, Reader, Stream};
use super::{Error, MAX_LAYERS, shown};

/// Entries of an archive of an image: three a layer in Docker's old form, and room for other images' beside it.
const MAX_ENTRIES: usize = MAX_LAYERS * 64;
/// Links in a row from a layer's name to its bytes; Docker makes one.
const MAX_LINKS: usize = 8;

enum Item {
    File { offset: u64, length: u64 },
    Link(Vec<u8>),
}

pub(crate) struct Archive {
    file: Arc<File>,
    name: String,
    items: HashMap<Vec<u8>, Item>,
}

impl Archive {
    /// Opens an uncompressed tar and notes where its entries are.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let (file, length) = open_file(path)?;
        let mut head = [0; 6];
        let count = file.read_at(&mut head, 0).map_err(Error::read(&name))?;
        if Compression::by_magic(&head[..count]) != Compression::None || head == *b"\xfd7zXZ\0" {
            return Err(Error::refused(&name, "the archive as a whole is compressed; unpack it first (`gunzip`, `zstd -d`, `unxz`)"));
        }
        let file = Arc::new(file);
        let stream = FileStream { file: Arc::clone(&file), at: 0, length, buffer: Vec::new(), used: 0 };
        let items = index(stream, &name)?;
        Ok(Self { file, name, items })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The content behind `path`; links within the archive are followed. `None`: there is no such entry.
    pub fn find(&self, path: &[u8]) -> Result<Option<Blob>, Error> {
        let refused = |reason: &str| Error::refused(&self.name, format!("entry `{}` {reason}", shown(path)));
        let mut at = clean(b"", path).ok_or_else(|| refused("leads out of the archive"))?;
        for _ in 0..=MAX_LINKS {
            match self.items.get(&at) {
                None => return Ok(None),
                Some(Item::File { offset, length }) => {
                    return Ok(Some(Blob::Range { file: Arc::clone(&self.file), offset: *offset, length: *length }));
                }
                Some(Item::Link(target)) => {
                    let parent = at.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash);
                    at = clean(&at[..parent], target).ok_or_else(|| refused("is a link that leads out of the archive"))?;
                }
            }
        }
        Err(refused("is behind too many links"))
    }
}

pub(crate) fn open_file(path: &Path) -> Result<(File, u64), Error> {
    let name = path.display().to_string();
    let open = |source: io::Error| Error::Open { path: name.clone(), source };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let base = path.file_name().ok_or_else(|| open(io::ErrorKind::IsADirectory.into()))?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, rustix::fs::Mode::empty()).map_err(|errno| open(errno.into()))?;
    match base.to_str() {
        // A link that the user named may lead anywhere; only its target must be a regular file.
        Some(base) if !path.is_symlink() => open_regular(&directory, base, &name).map_err(|error| match error {
            Error::Open { source, .. } => open(source),
            other => other,
        }),
        _ => {
            let target = std::fs::canonicalize(path).map_err(open)?;
            let file = File::open(&target).map_err(open)?;
            let metadata = file.metadata().map_err(open)?;
            match metadata.is_file() {
                true => Ok((file, metadata.len())),
                false => Err(Error::refused(name, "it is not a regular file")),
            }
        }
    }
}

/// A later entry of a name replaces an earlier one, as it does on extraction.
fn index(stream: FileStream, name: &str) -> Result<HashMap<Vec<u8>, Item>, Error> {
    let mut reader = Reader::new(stream);
    let mut items = HashMap::new();
    loop {
        let entry = reader.next_entry().map_err(|source| Error::Tar { what: name.to_owned(), offset: reader.offset(), source })?;
        let Some(entry) = entry else { return Ok(items) };
        let refused = |reason: &str| Error::refused(name, format!("entry `{}` {reason}", shown(&entry.path)));
        let item = match entry.kind {
            Kind::Directory => continue,
            Kind::File if entry.sparse.is_none() => Item::File { offset: reader.offset(), length: entry.size },
            Kind::Symlink => Item::Link(entry.link),
            // The target of a hard link counts from the archive's root.
            Kind::HardLink => Item::Link([b"/".as_slice(), &entry.link].concat()),
            _ => return Err(refused("is neither a file, a directory nor a link")),
        };
        let path = clean(b"", &entry.path).ok_or_else(|| refused("leads out of the archive"))?;
        items.insert(path, item);
        if items.len() > MAX_ENTRIES {
            return Err(Error::refused(name, format!("it has more than {MAX_ENTRIES} entries")));
        }
    }
}

/// `path` seen from `base`, without `.`, `..` and doubled slashes; `None` if it climbs above the root.
fn clean(base: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let base = if path.starts_with(b"/") { &b""[..] } else { base };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// Reads headers by position and leaves content out.
struct FileStream {
    file: Arc<File>,
    at: u64,
    length: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Read for FileStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let count = have.len().min(out.len());
        out[..count].copy_from_slice(&have[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for FileStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() {
            self.buffer.resize(4096, 0);
            let count = self.file.read_at(&mut self.buffer, self.at)?;
            self.buffer.truncate(count);
            self.at += count as u64;
            self.used = 0;
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.buffer.len());
    }
}

impl Stream for FileStream {
    fn skip(&mut self, count: u64) -> io::Result<bool> {
        let have = (self.buffer.len() - self.used) as u64;
        if count <= have {
            self.consume(usize::try_from(count).unwrap_or(usize::MAX));
            return Ok(true);
        }
        self.used = self.buffer.len();
        self.at = self.at.saturating_add(count - have);
        Ok(self.at <= self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(clean(b"a", b"../x/layer.tar").as_deref(), Some(&b"x/layer.tar"[..]));
        assert_eq!(clean(b"", b"./a//b/.").as_deref(), Some(&b"a/b"[..]));
        assert_eq!(clean(b"a/b", b"/x").as_deref(), Some(&b"x"[..]));
        assert_eq!(clean(b"a", b"../../x"), None);
    }
}
