//! What the caller's files have been through: which directories a sandbox could write, and which contents were taken as they are. From it
//! a run knows whether a file that it is about to obey may be a payload's work.
//!
//! `$XDG_STATE_HOME/hamper/ledger` is appended to, one write for the beginning of a run and one for its end. Records end in a zero byte:
//!
//! ```text
//! s ID TIME DEV:INO TREE     from here on a payload can write below TREE; TIME in nanoseconds since 1970
//! g ID FILE             but not this file, which is mounted read-only for it
//! u ID FILE             that was so, until somebody replaced the file
//! e ID                  until here
//! t DIGEST FILE         this content of the file is the caller's own
//! h HASH FILE           the hidden path of that hash led here by a link
//! ```
//!
//! This order tells: a file is the caller's if nothing that could write it went on after it was last taken as it was; else it must have
//! that content still, or be older than all of these runs, as its last change (ctime) and those of the directories on the way say. That a
//! time is later than a run says nothing: everything that changes it hides what it was before.
//!
//! Files are read before the ledger is: whoever could have written what was read has his beginning in it. A run holds a lock while it
//! lasts, by which others know that it does; one that was killed lasts until somebody sees that the lock is gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, fcntl};
use nix::time::{ClockId, clock_gettime};
use rustix::fs::{CWD, FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock, fstat, lstat, openat};
use rustix::io::Errno;

use super::error::CliError;
use super::state::{make_directory, short_hash};
use crate::host::Directories;
use crate::profile::Seen;
use crate::sys;

/// Beyond this the ledger is written anew with what still matters, if that is less than half of it.
const COMPACT: usize = 8 << 10;
/// No ledger grows so far: what a compacted one holds is a line for each project and [`MOST_KNOWN`] files.
const MOST: u64 = 8 << 20;
/// Bytes that other runs append while the ledger is written anew, and far more.
const ROOM: usize = 64 << 10;
/// Files that a compacted ledger still knows.
const MOST_KNOWN: usize = 1024;

/// A directory that a payload can write below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Resolved.
    pub path: PathBuf,
    /// Device and inode, by which it is known under another name.
    pub identity: (u64, u64),
}

/// Where in the ledger's bytes something stands: a start reads hundreds of records and looks at few.
type Piece = Range<usize>;

/// A run that could write below a directory.
#[derive(Debug)]
struct Span {
    id: Piece,
    /// `DEV:INO`
    identity: Piece,
    tree: Piece,
    /// Nothing that it wrote has an earlier time.
    start: i64,
    /// Where in the ledger it ends.
    end: Option<usize>,
    guarded: Vec<Piece>,
}

/// Tree, identity and guarded files of runs that are over: what they have in common.
type Over<'r> = (&'r [u8], &'r [u8], BTreeSet<&'r [u8]>);

#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
    /// Those of one run stand side by side.
    spans: Vec<Span>,
    /// Digest and path; the last of a path counts.
    known: Vec<(Piece, Piece)>,
    /// Hash of a path, and what it led to.
    led: Vec<(Piece, Piece)>,
}

/// The ledger as it was when a run began, and the open file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    records: Records,
    /// Files that are the caller's, as this run has found out.
    fresh: Vec<(String, PathBuf)>,
    /// What hidden paths lead to.
    led: Vec<(String, PathBuf)>,
    /// The run that has begun.
    id: Option<String>,
    /// Says to others that it goes on.
    alive: Option<OwnedFd>,
}

impl Ledger {
    /// To be called when everything has been read that it will be asked about.
    ///
    /// # Errors
    /// [`CliError::Io`] of open(2) or read(2); [`CliError::Told`] for one that is too large to be hamper's work; none where there is no
    /// ledger yet.
    pub fn read(directories: &Directories) -> Result<Self, CliError> {
        let path = directories.state.join("ledger");
        let file = open(&path).map_err(|errno| CliError::Io { act: "read", path: path.clone(), source: errno.into() })?;
        let bytes = file.as_ref().map(|file| read_all(file, &path)).transpose()?.unwrap_or_default();
        Ok(Self { path, file, records: Records::parse(bytes), fresh: Vec::new(), led: Vec::new(), id: None, alive: None })
    }

    /// Every directory that a payload could write below at some time.
    pub fn trees(&self) -> Vec<Tree> {
        let piece = |piece: &Piece| &self.records.bytes[piece.clone()];
        let trees: BTreeSet<[&[u8]; 2]> = self.records.spans.iter().map(|span| [piece(&span.tree), piece(&span.identity)]).collect();
        let numbers = |identity: &[u8]| {
            let (device, inode) = std::str::from_utf8(identity).ok()?.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        };
        let tree = |[path, identity]: [&[u8]; 2]| Tree {
            path: PathBuf::from(OsStr::from_bytes(path)),
            identity: numbers(identity).unwrap_or_default(),
        };
        trees.into_iter().map(tree).collect()
    }

    /// The first of the files that a payload may have made or changed.
    pub fn suspect(&mut self, files: &[Seen]) -> Option<PathBuf> {
        for file in files {
            let known = self.records.last_known_of(&file.path);
            let unchanged = known.is_some_and(|(_, digest)| digest == file.digest.as_bytes());
            if !unchanged && self.records.is_suspect(file, known.map(|(at, _)| at)) {
                return Some(file.path.clone());
            }
            self.fresh.push((file.digest.clone(), file.path.clone()));
        }
        None
    }

    /// What the hidden paths of a project have led to by links at some time: a payload that takes a link away does not uncover it. Notes
    /// what they lead to now.
    pub fn led_to(&mut self, project: &Path, hide: &[PathBuf]) -> Vec<PathBuf> {
        let mut found = BTreeSet::new();
        for path in hide.iter().map(|hidden| project.join(hidden)) {
            let hash = short_hash(path.as_os_str().as_bytes());
            let of_path = |(key, _): &&(Piece, Piece)| self.records.bytes[key.clone()] == *hash.as_bytes();
            let known: BTreeSet<&Path> = self.records.led.iter().filter(of_path).map(|(_, real)| self.records.path(real)).collect();
            found.extend(known.iter().filter_map(|real| real.strip_prefix(project).ok()).map(Path::to_owned));
            if let Ok(real) = path.canonicalize()
                && real != path
                && !known.contains(real.as_path())
            {
                self.led.push((hash, real));
            }
        }
        found.into_iter().filter(|path| !hide.contains(path)).collect()
    }

    /// Says that the caller has read a file, and takes it as it is.
    ///
    /// # Errors
    /// [`CliError::Io`].
    pub fn trust(&mut self, file: &Seen) -> Result<(), CliError> {
        self.append(&record(&[b"t", file.digest.as_bytes(), file.path.as_os_str().as_bytes()]))
    }

    /// A run begins that can write below `trees`, but for the files `guarded`.
    ///
    /// # Errors
    /// [`CliError::Io`]: then it must not begin.
    pub fn begin(&mut self, trees: &[Tree], guarded: &[PathBuf]) -> Result<(), CliError> {
        let mut bytes = Vec::new();
        // First the ends: what is taken as it is from here on comes after them.
        for id in self.records.killed(&self.path) {
            bytes.extend(record(&[b"e", id, b""]));
        }
        for (digest, file) in std::mem::take(&mut self.fresh) {
            if self.records.is_news(&digest, &file) {
                bytes.extend(record(&[b"t", digest.as_bytes(), file.as_os_str().as_bytes()]));
            }
        }
        for (hash, real) in std::mem::take(&mut self.led) {
            bytes.extend(record(&[b"h", hash.as_bytes(), real.as_os_str().as_bytes()]));
        }
        if !trees.is_empty() {
            let now = now();
            self.alive = hold(&self.path, now)?;
            // Without a lock there is nothing to see that it is gone by.
            let id = format!("{}-{}{now}", sys::own_pid(), if self.alive.is_some() { "" } else { "unlocked" });
            let start = file_clock().to_string();
            for Tree { path, identity: (device, inode) } in trees {
                let identity = format!("{device}:{inode}");
                bytes.extend(record(&[b"s", id.as_bytes(), start.as_bytes(), identity.as_bytes(), path.as_os_str().as_bytes()]));
            }
            // By a second name it could be written all the same.
            for file in guarded.iter().filter(|file| lstat(file.as_path()).is_ok_and(|stat| stat.st_nlink == 1)) {
                bytes.extend(record(&[b"g", id.as_bytes(), file.as_os_str().as_bytes()]));
            }
            self.id = Some(id);
        }
        if self.records.bytes.len() > COMPACT {
            self.compact()?;
        }
        if bytes.is_empty() { Ok(()) } else { self.append(&bytes) }
    }

    /// The run that has begun is over, and nothing of it writes any more. What was `replaced` meanwhile was not guarded to the end.
    ///
    /// # Errors
    /// [`CliError::Io`]; then the run counts as one that was killed.
    pub fn end(&mut self, replaced: &[PathBuf]) -> Result<(), CliError> {
        let Some(id) = self.id.take() else { return Ok(()) };
        let mut bytes = Vec::new();
        for file in replaced {
            bytes.extend(record(&[b"u", id.as_bytes(), file.as_os_str().as_bytes()]));
        }
        bytes.extend(record(&[b"e", id.as_bytes(), b""]));
        self.append(&bytes)
    }

    /// One write, so that records of runs at the same time do not mix. Where another run has written the ledger anew, its records go there:
    /// whoever does that takes over what was written to the old one before the name was changed.
    fn append(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        /// More often than this no ledger is replaced between two system calls.
        const TRIES: usize = 100;
        let path = self.path.clone();
        let wrap = |source| CliError::Io { act: "write", path: path.clone(), source };
        for _ in 0..TRIES {
            if self.file.is_none() {
                if let Some(parent) = path.parent() {
                    make_directory(parent)?;
                }
                let options = File::options().read(true).append(true).create(true).mode(0o600).open(&path);
                self.file = Some(options.map_err(wrap)?);
            }
            let Some(mut file) = self.file.as_ref() else { break };
            file.write_all(bytes).map_err(wrap)?;
            if fstat(file).map_err(|errno| wrap(errno.into()))?.st_nlink > 0 {
                return Ok(());
            }
            self.file = None;
        }
        Err(wrap(Errno::AGAIN.into()))
    }

    /// Writes the ledger anew, unless another run is doing so or has done it.
    fn compact(&mut self) -> Result<(), CliError> {
        let wrap = |source| CliError::Io { act: "write", path: self.path.clone(), source };
        let Some(old) = &self.file else { return Ok(()) };
        if flock(old, FlockOperation::NonBlockingLockExclusive).is_err() || !is_at(old, &self.path) {
            return Ok(());
        }
        // What others have written since.
        let records = Records::parse(read_from(old, 0).map_err(wrap)?);
        let bytes = records.compact();
        if bytes.len() > records.bytes.len() / 2 {
            return flock(old, FlockOperation::Unlock).map_err(|errno| wrap(errno.into()));
        }
        let temporary = self.path.with_extension(format!("tmp-{}", std::process::id()));
        let written = File::options().read(true).append(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            // Room for what others append until they see the new name: a full disk must not cost their records, so it is met here.
            match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, (bytes.len() + ROOM) as u64) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
            std::fs::rename(&temporary, &self.path)?;
            // And what came before they could see that.
            file.write_all(&read_from(old, records.bytes.len())?)?;
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
        let (mut spans, mut known, mut led): (Vec<Span>, _, _) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        while let Ok(record) = CStr::from_bytes_until_nul(&bytes[at..]) {
            let whole = at..at + record.count_bytes();
            at = whole.end + 1;
            let Some((kind, rest)) = split(&bytes, whole) else { continue };
            let Some((first, rest)) = split(&bytes, rest) else { continue };
            match &bytes[kind] {
                b"s" => {
                    let Some((start, rest)) = split(&bytes, rest) else { continue };
                    let Some((identity, tree)) = split(&bytes, rest) else { continue };
                    // A beginning that cannot be read is one that nothing came before.
                    let start = number(&bytes[start]).unwrap_or(i64::MIN);
                    spans.push(Span { id: first, identity, tree, start, end: None, guarded: Vec::new() });
                }
                b"g" => of_run(&bytes, &mut spans, first).for_each(|span| span.guarded.push(rest.clone())),
                b"u" => {
                    of_run(&bytes, &mut spans, first).for_each(|span| span.guarded.retain(|one| bytes[one.clone()] != bytes[rest.clone()]));
                }
                b"e" => of_run(&bytes, &mut spans, first).for_each(|span| span.end = Some(at)),
                b"t" => known.push((first, rest)),
                b"h" => led.push((first, rest)),
                _ => {}
            }
        }
        Self { bytes, spans, known, led }
    }

    fn path(&self, piece: &Piece) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes[piece.clone()]))
    }

    /// Where a file was last taken as it was, and the digest of what it was.
    fn last_known_of(&self, file: &Path) -> Option<(usize, &[u8])> {
        let file = file.as_os_str().as_bytes();
        let (digest, _) = self.known.iter().rev().find(|(_, known)| self.bytes[known.clone()] == *file)?;
        Some((digest.start, &self.bytes[digest.clone()]))
    }

    /// Whether a record of that would say more than there is: another content, or that it is still the same after a run.
    fn is_news(&self, digest: &str, file: &Path) -> bool {
        let Some((at, known)) = self.last_known_of(file) else { return true };
        known != digest.as_bytes() || self.spans.iter().any(|span| span.end.is_none_or(|end| end > at))
    }

    /// The runs that have not ended and are no more.
    fn killed(&self, ledger: &Path) -> Vec<&[u8]> {
        let open = self.spans.iter().filter(|span| span.end.is_none()).map(|span| &self.bytes[span.id.clone()]);
        let open: BTreeSet<&[u8]> = open.collect();
        if open.is_empty() {
            return Vec::new();
        }
        let locks = File::open(locks_of(ledger)).ok();
        open.into_iter().filter(|id| !is_alive(locks.as_ref(), id)).collect()
    }

    /// The same with one span for all that is over below a directory with the same files guarded, and the last digest of each file; in
    /// the order that they have.
    fn compact(&self) -> Vec<u8> {
        let piece = |piece: &Piece| &self.bytes[piece.clone()];
        let mut bytes = Vec::new();
        let led: BTreeSet<[&[u8]; 2]> = self.led.iter().map(|(hash, real)| [piece(hash), piece(real)]).collect();
        led.iter().for_each(|[hash, real]| bytes.extend(record(&[b"h", hash, real])));
        // A run guards the same files in all its trees.
        let mut guarded = BTreeSet::new();
        for span in self.spans.iter().filter(|span| span.end.is_none()) {
            bytes.extend(record(&[b"s", piece(&span.id), span.start.to_string().as_bytes(), piece(&span.identity), piece(&span.tree)]));
            guarded.extend(span.guarded.iter().map(|file| (piece(&span.id), piece(file))));
        }
        guarded.into_iter().for_each(|(id, file)| bytes.extend(record(&[b"g", id, file])));
        let mut over: BTreeMap<Over<'_>, (i64, usize)> = BTreeMap::new();
        for (span, end) in self.spans.iter().filter_map(|span| Some((span, span.end?))) {
            let last = over
                .entry((piece(&span.tree), piece(&span.identity), span.guarded.iter().map(piece).collect()))
                .or_insert((span.start, end));
            *last = (span.start.min(last.0), end.max(last.1));
        }
        let mut ordered: Vec<(usize, Vec<u8>)> = Vec::new();
        for (number, ((tree, identity, files), (start, end))) in over.into_iter().enumerate() {
            // A number of no process.
            let id = format!("0-{number}");
            let mut all = record(&[b"s", id.as_bytes(), start.to_string().as_bytes(), identity, tree]);
            files.into_iter().for_each(|file| all.extend(record(&[b"g", id.as_bytes(), file])));
            all.extend(record(&[b"e", id.as_bytes(), b""]));
            ordered.push((end, all));
        }
        ordered.extend(self.last_known().into_iter().map(|(digest, file)| (digest.start, record(&[b"t", piece(digest), piece(file)]))));
        ordered.sort();
        bytes.extend(ordered.into_iter().flat_map(|(_, bytes)| bytes));
        bytes
    }

    fn last_known(&self) -> Vec<&(Piece, Piece)> {
        let mut seen = HashSet::new();
        self.known.iter().rev().filter(|(_, file)| seen.insert(&self.bytes[file.clone()])).take(MOST_KNOWN).collect()
    }

    /// `known`: where the file was last taken as it was.
    fn is_suspect(&self, file: &Seen, known: Option<usize>) -> bool {
        let later = |span: &&Span| span.end.is_none_or(|end| known.is_none_or(|known| end > known));
        let mut spans = self.spans.iter().filter(later).peekable();
        if spans.peek().is_none() {
            return false;
        }
        // What has been moved away since it was read, nobody vouches for.
        let Some(way) = Way::of(&file.real) else { return true };
        spans.any(|span| {
            let tree = self.path(&span.tree);
            let is_direct = file.path == file.real && file.links == 1;
            if is_direct && span.guarded.iter().any(|guarded| self.path(guarded) == file.real) {
                return false;
            }
            match way.depth(tree, &self.bytes[span.identity.clone()]) {
                // A directory that was moved has brought along files that are older than itself.
                Some(depth) => !is_direct || file.changed >= span.start || way.changed[..depth].iter().any(|time| *time >= span.start),
                // A link of a payload, or a second name, which may lie anywhere.
                None => file.path.starts_with(tree) || file.links > 1 && file.changed >= span.start,
            }
        })
    }
}

/// The directories above a file, the nearest first.
struct Way<'w> {
    paths: Vec<&'w Path>,
    identities: Vec<String>,
    changed: Vec<i64>,
}

impl<'w> Way<'w> {
    fn of(file: &'w Path) -> Option<Self> {
        let mut way = Self { paths: Vec::new(), identities: Vec::new(), changed: Vec::new() };
        for path in file.ancestors().skip(1) {
            let stat = lstat(path).ok()?;
            way.paths.push(path);
            way.identities.push(format!("{}:{}", stat.st_dev, stat.st_ino));
            way.changed.push(stat.st_ctime.saturating_mul(1_000_000_000).saturating_add(i64::try_from(stat.st_ctime_nsec).unwrap_or(0)));
        }
        Some(way)
    }

    /// How many directories lie between the file and the tree; `None`: the file is not in it.
    fn depth(&self, tree: &Path, identity: &[u8]) -> Option<usize> {
        (0..self.paths.len()).find(|index| self.paths[*index] == tree || self.identities[*index].as_bytes() == identity)
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
    let is_of_another = {
        let is_of_run = is_of_run.clone();
        move |span: &&mut Span| !is_of_run(span)
    };
    spans.iter_mut().rev().skip_while(is_of_another).take_while(is_of_run)
}

fn open(path: &Path) -> Result<Option<File>, Errno> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(|fd| Some(File::from(fd))),
    }
}

/// The first bytes take nearly every ledger whole.
fn read_all(mut file: &File, path: &Path) -> Result<Vec<u8>, CliError> {
    let wrap = |source| CliError::Io { act: "read", path: path.to_owned(), source };
    let mut bytes = vec![0; COMPACT + COMPACT / 2];
    let count = file.read(&mut bytes).map_err(wrap)?;
    let whole = count < bytes.len();
    bytes.truncate(count);
    if !whole {
        file.take(MOST).read_to_end(&mut bytes).map_err(wrap)?;
    }
    if bytes.len() as u64 >= MOST {
        let words = format!("{} is larger than {MOST} bytes: too large to be hamper's own work", path.display());
        let hint = format!("read the profiles of your projects once, then: rm '{}'", path.display());
        return Err(CliError::Told { words, hint: Some(hint) });
    }
    Ok(bytes)
}

fn read_from(file: &File, offset: usize) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let length = usize::try_from(file.metadata()?.size().min(MOST)).unwrap_or(0).saturating_sub(offset);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset as u64)?;
    Ok(bytes)
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(here), Ok(there)) = (fstat(file), lstat(path)) else { return false };
    (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
}

/// A file of which every run locks one byte, the one that its beginning in nanoseconds numbers, for as long as it lasts.
fn locks_of(ledger: &Path) -> PathBuf {
    ledger.with_extension("locks")
}

/// A lock that belongs to the descriptor, fcntl(2) "Open file description locks": no fork, no pid and no name of a program takes part.
fn lock_of(start: i64) -> libc::flock {
    libc::flock { l_type: libc::F_WRLCK as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: start, l_len: 1, l_pid: 0 }
}

/// `None`: the file system has no such locks.
fn hold(ledger: &Path, start: i64) -> Result<Option<OwnedFd>, CliError> {
    let path = locks_of(ledger);
    let wrap = |source| CliError::Io { act: "lock", path: path.clone(), source };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = match openat(CWD, &path, flags, mode) {
        Err(Errno::NOENT) => {
            path.parent().map_or(Ok(()), make_directory)?;
            openat(CWD, &path, flags, mode)
        }
        result => result,
    };
    let fd = fd.map_err(|errno| wrap(errno.into()))?;
    Ok(fcntl(&fd, FcntlArg::F_OFD_SETLK(&lock_of(start))).is_ok().then_some(fd))
}

fn is_alive(locks: Option<&File>, id: &[u8]) -> bool {
    let Some(start) = id.split(|byte| *byte == b'-').nth(1).and_then(number) else { return true };
    let Some(locks) = locks else { return false };
    let mut lock = lock_of(start);
    match fcntl(locks, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => lock.l_type != libc::F_UNLCK as libc::c_short,
        // Who cannot tell believes in life.
        Err(_) => true,
    }
}

/// The clock that file times are taken from, which lags behind [`now`] by up to a timer tick: nothing that is written from here on has an
/// earlier time.
fn file_clock() -> i64 {
    // Every kernel has it.
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
}

/// Nanoseconds since 1970, which number the lock of a run.
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

    fn seen(path: &str, digest: &str) -> Seen {
        Seen { path: path.into(), real: path.into(), links: 1, changed: 500, digest: digest.into() }
    }

    fn suspects(records: &Records, path: &str, digest: &str) -> bool {
        let known = records.last_known_of(Path::new(path));
        known.is_none_or(|(_, one)| one != digest.as_bytes()) && records.is_suspect(&seen(path, digest), known.map(|(at, _)| at))
    }

    /// A directory that is there, so that what lies in it has a way.
    fn ledger(root: &Path) -> Vec<u8> {
        let tree = root.as_os_str().as_bytes();
        let file = |name: &str| root.join(name).into_os_string().into_encoded_bytes();
        [
            record(&[b"t", b"one", &file("a")]),
            record(&[b"t", b"one", &file("held")]),
            record(&[b"s", b"7-1", b"100", b"0:0", tree]),
            record(&[b"g", b"7-1", &file("held")]),
            record(&[b"g", b"7-1", &file("lost")]),
            record(&[b"u", b"7-1", &file("lost")]),
            record(&[b"e", b"7-1", b""]),
            record(&[b"t", b"one", &file("b\tc")]),
            b"\0s\0s\t\0s\t1\0".to_vec(),
            record(&[b"s", b"8-1", b"100", b"0:0", b"/nowhere"]),
        ]
        .concat()
    }

    #[test]
    fn order_tells_whose_a_file_is_also_after_the_ledger_is_written_anew() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path().canonicalize().expect("real");
        let name = |name: &str| root.join(name).to_str().expect("text").to_owned();
        let records = Records::parse([ledger(&root), b"s\tbroken".to_vec()].concat());
        let compact = Records::parse(Records::parse(ledger(&root)).compact());
        for records in [records, compact] {
            // Unchanged since before the run; changed; held by the run; held until it was replaced; taken after it; never seen.
            let found = ["a one", "a two", "held two", "lost two", "b\tc two", "new two"].map(|file| {
                let (file, digest) = file.rsplit_once(' ').expect("two words");
                suspects(&records, &name(file), digest)
            });
            assert_eq!(found, [false, true, false, true, false, true]);
            assert_eq!(records.spans.iter().filter(|span| span.end.is_none()).count(), 1);
            // Older than the run; but not by a second name, nor by a way through a link.
            assert!(!records.is_suspect(&Seen { changed: 50, ..seen(&name("new"), "two") }, None));
            let twice = Seen { links: 2, ..seen(&name("held"), "two") };
            let linked = Seen { real: "/etc/hostname".into(), ..seen(&name("held"), "two") };
            assert!(records.is_suspect(&twice, Some(0)) && records.is_suspect(&linked, Some(0)));
        }
    }
}
