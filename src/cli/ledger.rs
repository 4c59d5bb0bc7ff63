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

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::time::{ClockId, clock_gettime};

use super::error::CliError;
use super::state::make_directory;
use crate::host::Directories;

/// Beyond this the ledger is written anew with what still matters, if that is less than half of it.
const COMPACT: usize = 8 << 10;
/// No ledger grows so far: what a compacted one holds is a line for each project and [`MOST_KNOWN`] files.
const MOST: u64 = 8 << 20;
/// Files that a compacted ledger still knows.
const MOST_KNOWN: usize = 1024;

/// Where in the ledger's bytes something stands: a start reads hundreds of records and looks at few.
type Piece = Range<usize>;

/// A time during which a payload could write below a directory.
#[derive(Debug)]
struct Span {
    id: Piece,
    tree: Piece,
    /// Nanoseconds since 1970.
    start: i64,
    end: Option<i64>,
    guarded: Vec<Piece>,
}

#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
    /// Those of one run stand side by side.
    spans: Vec<Span>,
    /// Stamp and path; the last of a path counts.
    known: Vec<(Piece, Piece)>,
}

/// The ledger as it was when a run began, and the open file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    records: Records,
    /// Files that are the caller's, as this run has found out.
    fresh: Vec<(String, PathBuf)>,
    /// The run that has begun.
    id: Option<String>,
}

impl Ledger {
    /// # Errors
    /// [`CliError::Io`] of open(2) or read(2), `EFBIG` for one that is too large to be hamper's work; none where there is no ledger yet.
    pub fn read(directories: &Directories) -> Result<Self, CliError> {
        let path = directories.state.join("ledger");
        let wrap = |source| CliError::Io { act: "read", path: path.clone(), source };
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(CWD, &path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => None,
            result => Some(File::from(result.map_err(|errno| wrap(errno.into()))?)),
        };
        let bytes = file.as_ref().map(read_all).transpose().map_err(wrap)?.unwrap_or_default();
        Ok(Self { path, file, records: Records::parse(bytes), fresh: Vec::new(), id: None })
    }

    /// The first of the files that a payload may have made or changed. What is missing is told by whoever reads it.
    pub fn suspect(&mut self, files: &[PathBuf]) -> Option<PathBuf> {
        for file in files {
            let Some((stamp, changed)) = stamp(file) else { continue };
            if self.records.known_stamp(file) == Some(stamp.as_bytes()) {
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
        }
        for id in self.records.killed() {
            bytes.extend(record(&[b"e", id, now.to_string().as_bytes()]));
        }
        if !trees.is_empty() {
            let id = format!("{}-{now}", std::process::id());
            let start = file_clock().to_string();
            for tree in trees {
                bytes.extend(record(&[b"s", id.as_bytes(), start.as_bytes(), tree.as_os_str().as_bytes()]));
            }
            for file in guarded {
                bytes.extend(record(&[b"g", id.as_bytes(), file.as_os_str().as_bytes()]));
            }
            self.id = Some(id);
        }
        if self.records.bytes.len() > COMPACT {
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
        let bytes = self.records.compact();
        if bytes.len() > self.records.bytes.len() / 2 {
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
    fn parse(bytes: Vec<u8>) -> Self {
        let (mut spans, mut known): (Vec<Span>, _) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Ok(record) = CStr::from_bytes_until_nul(&bytes[at..]) {
            let whole = at..at + record.count_bytes();
            at = whole.end + 1;
            let Some((kind, rest)) = split(&bytes, whole) else { continue };
            let Some((first, rest)) = split(&bytes, rest) else { continue };
            match &bytes[kind] {
                b"s" => {
                    let Some((start, tree)) = split(&bytes, rest) else { continue };
                    // A beginning that cannot be read is one that nothing came before.
                    let start = number(&bytes[start]).unwrap_or(i64::MIN);
                    spans.push(Span { id: first, tree, start, end: None, guarded: Vec::new() });
                }
                b"g" => of_run(&bytes, &mut spans, first).for_each(|span| span.guarded.push(rest.clone())),
                b"e" => {
                    let end = number(&bytes[rest]);
                    of_run(&bytes, &mut spans, first).for_each(|span| span.end = end);
                }
                b"t" => known.push((first, rest)),
                _ => {}
            }
        }
        Self { bytes, spans, known }
    }

    fn path(&self, piece: &Piece) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes[piece.clone()]))
    }

    fn known_stamp(&self, file: &Path) -> Option<&[u8]> {
        let file = file.as_os_str().as_bytes();
        let (stamp, _) = self.known.iter().rev().find(|(_, known)| self.bytes[known.clone()] == *file)?;
        Some(&self.bytes[stamp.clone()])
    }

    /// The runs that have not ended and are no more.
    fn killed(&self) -> impl Iterator<Item = &[u8]> {
        let open = self.spans.iter().filter(|span| span.end.is_none()).map(|span| &self.bytes[span.id.clone()]);
        open.filter(|id| !is_alive(id))
    }

    /// The same with one span for all that is over below a directory, and the last stamp of each file.
    fn compact(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (stamp, file) in self.last_known() {
            bytes.extend(record(&[b"t", stamp, file]));
        }
        let mut over: BTreeMap<&[u8], (i64, i64)> = BTreeMap::new();
        // A run guards the same files in all its trees.
        let mut guarded = BTreeSet::new();
        for span in &self.spans {
            let (id, tree) = (&self.bytes[span.id.clone()], &self.bytes[span.tree.clone()]);
            if let Some(end) = span.end {
                let known = over.entry(tree).or_insert((span.start, end));
                *known = (known.0.min(span.start), known.1.max(end));
                continue;
            }
            bytes.extend(record(&[b"s", id, span.start.to_string().as_bytes(), tree]));
            guarded.extend(span.guarded.iter().map(|file| (id, &self.bytes[file.clone()])));
        }
        for (id, file) in guarded {
            bytes.extend(record(&[b"g", id, file]));
        }
        for (number, (tree, (start, end))) in over.into_iter().enumerate() {
            // A number of no process.
            let id = format!("0-{number}");
            bytes.extend(record(&[b"s", id.as_bytes(), start.to_string().as_bytes(), tree]));
            bytes.extend(record(&[b"e", id.as_bytes(), end.to_string().as_bytes()]));
        }
        bytes
    }

    fn last_known(&self) -> Vec<(&[u8], &[u8])> {
        let mut seen = HashSet::new();
        let all = self.known.iter().rev().map(|(stamp, file)| (&self.bytes[stamp.clone()], &self.bytes[file.clone()]));
        let mut last: Vec<_> = all.filter(|(_, file)| seen.insert(*file)).take(MOST_KNOWN).collect();
        last.reverse();
        last
    }

    fn is_suspect(&self, file: &Path, changed: i64) -> bool {
        let bytes = file.as_os_str().as_bytes();
        let could_write = |span: &&Span| {
            bytes.starts_with(&self.bytes[span.tree.clone()])
                && file.starts_with(self.path(&span.tree))
                && !span.guarded.iter().any(|guarded| self.bytes[guarded.clone()] == *bytes)
        };
        let mut spans = self.spans.iter().filter(could_write).peekable();
        let Some(tree) = spans.peek().map(|span| self.path(&span.tree)) else { return false };
        // A link that a payload has made leads to a file that is as old as it likes.
        let direct = file.strip_prefix(tree).is_ok_and(|inside| is_direct(tree, inside));
        !direct || spans.any(|span| span.start <= changed && span.end.is_none_or(|end| changed <= end))
    }
}

/// What stands before the first tab, and after it.
fn split(bytes: &[u8], piece: Piece) -> Option<(Piece, Piece)> {
    let tab = piece.start + bytes[piece.clone()].iter().position(|byte| *byte == b'\t')?;
    Some((piece.start..tab, tab + 1..piece.end))
}

fn number(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The spans of a run, of which there is seldom more than one, and seldom one that is not the last.
fn of_run<'a>(bytes: &'a [u8], spans: &'a mut [Span], id: Piece) -> impl Iterator<Item = &'a mut Span> {
    let is_of_run = move |span: &&mut Span| bytes[span.id.clone()] == bytes[id.clone()];
    spans
        .iter_mut()
        .rev()
        .skip_while({
            let is_of_run = is_of_run.clone();
            move |span| !is_of_run(span)
        })
        .take_while(is_of_run)
}

/// The first bytes take nearly every ledger whole.
fn read_all(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; COMPACT + COMPACT / 2];
    let count = file.read(&mut bytes)?;
    let whole = count < bytes.len();
    bytes.truncate(count);
    if !whole {
        file.take(MOST).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 >= MOST {
        return Err(std::io::Error::from_raw_os_error(rustix::io::Errno::FBIG.raw_os_error()));
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
fn is_alive(id: &[u8]) -> bool {
    let Some(pid) = id.split(|byte| *byte == b'-').next().and_then(number) else { return false };
    let own = std::fs::read("/proc/self/comm").unwrap_or_default();
    std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == own)
}

/// What a file is, as words that change when it does, and when it was changed last. `None`: there is none.
fn stamp(file: &Path) -> Option<(String, i64)> {
    let name = file.symlink_metadata().ok()?;
    let target = if name.is_symlink() { file.metadata().ok()? } else { name.clone() };
    let changed = |facts: &std::fs::Metadata| facts.ctime().saturating_mul(1_000_000_000).saturating_add(facts.ctime_nsec());
    let stamp = format!("{}:{}:{}:{}", target.dev(), target.ino(), changed(&target), changed(&name));
    Some((stamp, changed(&target).max(changed(&name))))
}

/// The clock that file times are taken from, which lags behind [`now`] by up to a timer tick: nothing that is written from here on has an
/// earlier time.
fn file_clock() -> i64 {
    let time = clock_gettime(ClockId::RealtimeCoarse);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// No file has a later time yet.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn record(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = fields.join(&b'\t');
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(records: &Records) -> Vec<(&Path, i64, Option<i64>, Vec<&Path>)> {
        let guarded = |span: &Span| span.guarded.iter().map(|file| records.path(file)).collect();
        records.spans.iter().map(|span| (records.path(&span.tree), span.start, span.end, guarded(span))).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = [
            record(&[b"s", b"7-1", b"100", b"/p\tq"]),
            record(&[b"s", b"7-1", b"100", b"/r"]),
            record(&[b"g", b"7-1", b"/p\tq/hamper.toml"]),
            record(&[b"t", b"1:2:3:3", b"/x\ty"]),
            record(&[b"s", b"8-1", b"300", b"/p"]),
            record(&[b"e", b"7-1", b"200"]),
            b"\0s\0s\t\0s\t1\0".to_vec(),
            b"s\tbroken".to_vec(),
        ]
        .concat();
        let records = Records::parse(bytes);
        let guarded = vec![Path::new("/p\tq/hamper.toml")];
        let first = (Path::new("/p\tq"), 100, Some(200), guarded.clone());
        assert_eq!(spans(&records), [first, (Path::new("/r"), 100, Some(200), guarded), (Path::new("/p"), 300, None, vec![])]);
        assert_eq!(records.known_stamp(Path::new("/x\ty")), Some(&b"1:2:3:3"[..]));
        assert_eq!(records.known_stamp(Path::new("/x")), None);
    }

    #[test]
    fn a_compact_ledger_suspects_no_less() {
        let mut bytes = Vec::new();
        for run in 0..100 {
            let (id, start, end, stamp) = (format!("1-{run}"), (run * 10).to_string(), (run * 10 + 5).to_string(), run.to_string());
            bytes.extend(record(&[b"s", id.as_bytes(), start.as_bytes(), b"/p"]));
            bytes.extend(record(&[b"e", id.as_bytes(), end.as_bytes()]));
            bytes.extend(record(&[b"t", stamp.as_bytes(), b"/p/hamper.toml"]));
        }
        bytes.extend(record(&[b"s", b"2-1", b"2000", b"/p"]));
        bytes.extend(record(&[b"s", b"2-1", b"2000", b"/q"]));
        bytes.extend(record(&[b"g", b"2-1", b"/p/g"]));
        let compact = Records::parse(Records::parse(bytes).compact());
        let guarded = vec![Path::new("/p/g")];
        let open = |tree| (Path::new(tree), 2000, None, guarded.clone());
        assert_eq!(spans(&compact), [open("/p"), open("/q"), (Path::new("/p"), 0, Some(995), vec![])]);
        assert_eq!(compact.known_stamp(Path::new("/p/hamper.toml")), Some(&b"99"[..]));
        // The end that the open run writes later is still its own.
        let ended = [compact.bytes.clone(), record(&[b"e", b"2-1", b"3000"])].concat();
        assert!(Records::parse(ended).spans.iter().all(|span| span.end.is_some()));
    }
}
