//! What the caller's files have been through: which directories a sandbox could write, from when to when, and which files were taken as
//! they were. From it a run knows whether a file that it is about to obey may be a payload's work.
//!
//! `$XDG_STATE_HOME/hamper/ledger` is appended to, one write for the beginning of a run and one for its end. Records end in a zero byte:
//!
//! ```text
//! s ID NANOSECONDS TREE     from here on a payload can write below TREE
//! g ID FILE                 but not this file, which is mounted read-only for it
//! e ID NANOSECONDS          until here
//! t STAMP FILE              this file is the caller's own as it is
//! ```
//!
//! The time of a file's last change (ctime) is the kernel's, and nobody can set it back. A run that was killed has no end: it lasts until
//! somebody sees that its process is gone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::error::CliError;
use super::start::make_directory;
use crate::host::Directories;

/// Beyond this the ledger is written anew with what still matters, if that is less than half of it.
const COMPACT: usize = 16 << 10;
/// No ledger grows so far; one that did would say nothing that can be trusted.
const MOST: u64 = 8 << 20;
/// Files that a compacted ledger still knows.
const MOST_KNOWN: usize = 1024;
/// File times come from a clock that lags behind by up to a timer tick.
const TICK: i128 = 20_000_000;

/// A time during which a payload could write below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    id: String,
    tree: PathBuf,
    /// Nanoseconds since 1970.
    start: i128,
    end: Option<i128>,
    guarded: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Records {
    spans: Vec<Span>,
    /// Stamp and path; the last of a path counts.
    known: Vec<(String, PathBuf)>,
}

/// The ledger as it was when a run began, and the open file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    size: usize,
    records: Records,
    /// Files that are the caller's, as this run has found out.
    fresh: Vec<(String, PathBuf)>,
    /// The run that has begun.
    id: Option<String>,
}

impl Ledger {
    /// # Errors
    /// [`CliError::Io`] of open(2) or read(2); none where there is no ledger yet.
    pub fn read(directories: &Directories) -> Result<Self, CliError> {
        let path = directories.state.join("ledger");
        let wrap = |source| CliError::Io { act: "read", path: path.clone(), source };
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(CWD, &path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => None,
            result => Some(File::from(result.map_err(|errno| wrap(errno.into()))?)),
        };
        let bytes = file.as_ref().map(read_all).transpose().map_err(wrap)?.unwrap_or_default();
        let records = Records::parse(&bytes);
        Ok(Self { path, file, size: bytes.len(), records, fresh: Vec::new(), id: None })
    }

    /// The first of the files that a payload may have made or changed. What is missing is told by whoever reads it.
    pub fn suspect(&mut self, files: &[PathBuf]) -> Option<PathBuf> {
        for file in files {
            let Some((stamp, changed)) = stamp(file) else { continue };
            if self.records.known.iter().rev().find(|(_, known)| known == file).is_some_and(|(known, _)| *known == stamp) {
                continue;
            }
            if self.records.is_suspect(file, changed) {
                return Some(file.clone());
            }
            self.fresh.push((stamp, file.clone()));
        }
        None
    }

    /// Says that the caller has read a file, and takes it as it is.
    ///
    /// # Errors
    /// [`CliError::Io`].
    pub fn trust(&mut self, file: &Path) -> Result<(), CliError> {
        let (stamp, _) = stamp(file).ok_or_else(|| CliError::Io {
            act: "look at",
            path: file.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        })?;
        self.append(&record(&[b"t", stamp.as_bytes(), file.as_os_str().as_bytes()]))
    }

    /// A run begins that can write below `trees`, but for the files `guarded`.
    ///
    /// # Errors
    /// [`CliError::Io`]: then it must not begin.
    pub fn begin(&mut self, trees: &[PathBuf], guarded: &[PathBuf]) -> Result<(), CliError> {
        let now = now();
        let mut bytes = Vec::new();
        for (stamp, file) in std::mem::take(&mut self.fresh) {
            bytes.extend(record(&[b"t", stamp.as_bytes(), file.as_os_str().as_bytes()]));
            self.records.known.push((stamp, file));
        }
        for span in self.records.spans.iter_mut().filter(|span| span.end.is_none() && !is_alive(&span.id)) {
            bytes.extend(record(&[b"e", span.id.as_bytes(), now.to_string().as_bytes()]));
            span.end = Some(now);
        }
        if !trees.is_empty() {
            let id = format!("{}-{now}", std::process::id());
            for tree in trees {
                bytes.extend(record(&[b"s", id.as_bytes(), (now - TICK).to_string().as_bytes(), tree.as_os_str().as_bytes()]));
            }
            for file in guarded {
                bytes.extend(record(&[b"g", id.as_bytes(), file.as_os_str().as_bytes()]));
            }
            self.id = Some(id);
        }
        if self.size > COMPACT {
            self.compact()?;
        }
        if bytes.is_empty() { Ok(()) } else { self.append(&bytes) }
    }

    /// The run that has begun is over, and nothing of it writes any more.
    ///
    /// # Errors
    /// [`CliError::Io`]; then the run counts as one that was killed.
    pub fn end(&mut self) -> Result<(), CliError> {
        match self.id.take() {
            None => Ok(()),
            Some(id) => self.append(&record(&[b"e", id.as_bytes(), now().to_string().as_bytes()])),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let wrap = |source| CliError::Io { act: "write", path: self.path.clone(), source };
        if self.file.is_none() {
            if let Some(parent) = self.path.parent() {
                make_directory(parent)?;
            }
            let options = File::options().read(true).append(true).create(true).mode(0o600).open(&self.path);
            self.file = Some(options.map_err(wrap)?);
        }
        // One write, so that records of runs at the same time do not mix.
        self.file.as_ref().map_or(Ok(()), |mut file| file.write_all(bytes)).map_err(wrap)
    }

    /// Writes the ledger anew. The end of a run that is appended to the old one meanwhile is lost: it then counts as killed.
    fn compact(&mut self) -> Result<(), CliError> {
        let wrap = |source| CliError::Io { act: "write", path: self.path.clone(), source };
        self.records.compact();
        let bytes = self.records.bytes();
        if bytes.len() > self.size / 2 {
            return Ok(());
        }
        let temporary = self.path.with_extension(format!("tmp-{}", std::process::id()));
        let written = File::options().read(true).append(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            std::fs::rename(&temporary, &self.path)?;
            Ok(file)
        });
        if written.is_err() {
            // Ignoring: the first failure is told.
            let _ = std::fs::remove_file(&temporary);
        }
        self.file = Some(written.map_err(wrap)?);
        Ok(())
    }
}

impl Records {
    fn parse(bytes: &[u8]) -> Self {
        let mut records = Self::default();
        for record in bytes.split(|byte| *byte == 0) {
            let mut fields = record.splitn(4, |byte| *byte == b'\t');
            let (kind, first) = (fields.next().unwrap_or_default(), text(fields.next()));
            let (second, third) = (fields.next(), fields.next());
            match (kind, third) {
                (b"s", Some(tree)) => {
                    if let Ok(start) = text(second).parse() {
                        records.spans.push(Span { id: first, tree: path(tree), start, end: None, guarded: Vec::new() });
                    }
                }
                (b"g", _) => {
                    let file = rest(record);
                    records.spans.iter_mut().filter(|span| span.id == first).for_each(|span| span.guarded.push(file.clone()));
                }
                (b"e", None) => {
                    let end = text(second).parse().ok();
                    records.spans.iter_mut().filter(|span| span.id == first).for_each(|span| span.end = end);
                }
                (b"t", _) => records.known.push((first, rest(record))),
                _ => {}
            }
        }
        records
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (stamp, file) in &self.known {
            bytes.extend(record(&[b"t", stamp.as_bytes(), file.as_os_str().as_bytes()]));
        }
        for Span { id, tree, start, end, guarded } in &self.spans {
            bytes.extend(record(&[b"s", id.as_bytes(), start.to_string().as_bytes(), tree.as_os_str().as_bytes()]));
            for file in guarded {
                bytes.extend(record(&[b"g", id.as_bytes(), file.as_os_str().as_bytes()]));
            }
            if let Some(end) = end {
                bytes.extend(record(&[b"e", id.as_bytes(), end.to_string().as_bytes()]));
            }
        }
        bytes
    }

    /// One span for all that is over below a directory, and the last stamp of each file.
    fn compact(&mut self) {
        let mut spans: Vec<Span> = Vec::new();
        for span in std::mem::take(&mut self.spans) {
            let over = spans.iter_mut().find(|known| known.end.is_some() && span.end.is_some() && known.tree == span.tree);
            match over {
                None => spans.push(Span {
                    id: format!("{}-{}", span.id, spans.len()),
                    guarded: if span.end.is_some() { Vec::new() } else { span.guarded.clone() },
                    ..span
                }),
                Some(known) => {
                    known.start = known.start.min(span.start);
                    known.end = known.end.max(span.end);
                }
            }
        }
        self.spans = spans;
        let mut known: Vec<(String, PathBuf)> = Vec::new();
        for (stamp, file) in std::mem::take(&mut self.known).into_iter().rev() {
            if known.len() < MOST_KNOWN && !known.iter().any(|(_, other)| *other == file) {
                known.push((stamp, file));
            }
        }
        known.reverse();
        self.known = known;
    }

    fn is_suspect(&self, file: &Path, changed: i128) -> bool {
        let could_write = |span: &&Span| file.starts_with(&span.tree) && !span.guarded.iter().any(|guarded| guarded == file);
        let mut spans = self.spans.iter().filter(could_write).peekable();
        let Some(Span { tree, .. }) = spans.peek() else { return false };
        // A link that a payload has made leads to a file that is as old as it likes.
        let direct = file.strip_prefix(tree).is_ok_and(|inside| is_direct(tree, inside));
        !direct || spans.any(|span| span.start <= changed && span.end.is_none_or(|end| changed <= end))
    }
}

/// One read takes nearly every ledger whole.
fn read_all(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; COMPACT + COMPACT / 2];
    let count = file.read(&mut bytes)?;
    let whole = count < bytes.len();
    bytes.truncate(count);
    if !whole {
        file.take(MOST).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Whether no component of `inside` is a link.
fn is_direct(tree: &Path, inside: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = openat(CWD, tree, flags | OFlags::DIRECTORY, Mode::empty()) else { return false };
    openat2(&root, inside, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS).is_ok()
}

/// A run whose process is there and is a hamper. Another process may have its number by now: then it lasts a little longer.
fn is_alive(id: &str) -> bool {
    let pid = id.split('-').next().unwrap_or_default();
    let own = std::fs::read("/proc/self/comm").unwrap_or_default();
    pid.bytes().all(|byte| byte.is_ascii_digit()) && std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == own)
}

/// What a file is, as words that change when it does, and when it was changed last. `None`: there is none.
fn stamp(file: &Path) -> Option<(String, i128)> {
    let name = file.symlink_metadata().ok()?;
    let target = if name.is_symlink() { file.metadata().ok()? } else { name.clone() };
    let changed = |facts: &std::fs::Metadata| i128::from(facts.ctime()) * 1_000_000_000 + i128::from(facts.ctime_nsec());
    let stamp = format!("{}:{}:{}:{}", target.dev(), target.ino(), changed(&target), changed(&name));
    Some((stamp, changed(&target).max(changed(&name))))
}

fn now() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(0))
}

fn record(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = fields.join(&b'\t');
    bytes.push(0);
    bytes
}

fn text(field: Option<&[u8]>) -> String {
    String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// All after the second field, tabs too.
fn rest(record: &[u8]) -> PathBuf {
    path(record.splitn(3, |byte| *byte == b'\t').nth(2).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = [
            record(&[b"s", b"7-1", b"100", b"/p\tq"]),
            record(&[b"g", b"7-1", b"/p\tq/hamper.toml"]),
            record(&[b"t", b"1:2:3:3", b"/x\ty"]),
            record(&[b"e", b"7-1", b"200"]),
            record(&[b"s", b"8-1", b"300", b"/p"]),
            b"s\tbroken".to_vec(),
        ]
        .concat();
        let records = Records::parse(&bytes);
        assert_eq!(records.spans.len(), 2);
        assert_eq!(records.spans[0].end, Some(200));
        assert_eq!(records.spans[0].guarded, [PathBuf::from("/p\tq/hamper.toml")]);
        assert_eq!(records.known, [("1:2:3:3".to_owned(), PathBuf::from("/x\ty"))]);
        let again = Records::parse(&records.bytes());
        assert_eq!((again.spans, again.known), (records.spans, records.known));
    }

    #[test]
    fn a_compact_ledger_suspects_no_less() {
        let mut records = Records::default();
        for run in 0..100 {
            let start = run * 10;
            records.spans.push(Span { id: format!("1-{run}"), tree: "/p".into(), start, end: Some(start + 5), guarded: Vec::new() });
            records.known.push((run.to_string(), "/p/hamper.toml".into()));
        }
        records.spans.push(Span { id: "2-1".into(), tree: "/p".into(), start: 2000, end: None, guarded: vec!["/p/g".into()] });
        records.compact();
        assert_eq!(records.spans.len(), 2);
        assert_eq!((records.spans[0].start, records.spans[0].end), (0, Some(995)));
        assert_eq!(records.spans[1].guarded, [PathBuf::from("/p/g")]);
        assert_eq!(records.known, [("99".to_owned(), PathBuf::from("/p/hamper.toml"))]);
    }
}
