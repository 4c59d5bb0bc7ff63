//! A strict reader of tar streams: what two readers would read differently is refused.
//!
//! The size of an entry is decided once, here, from header and PAX together; a reader that skips by another size than it extracts
//! with turns file content into entries (CVE-2025-62518). PAX records are split by their lengths, never at newlines. Ground truth
//! where POSIX is silent is Go's `archive/tar`, which Docker, podman and containerd use; what even that takes loosely is refused:
//! content behind links and directories, a lone zero block, global headers that rename, bytes after the end.
//!
//! Reads ustar, GNU, PAX, V7 and star headers; sparse files in all four forms; numbers in octal and base 256, negative too.

use std::io::{self, BufRead};

pub const BLOCK: usize = 512;
/// Bytes of PAX and long-name headers of one entry; Go's `maxSpecialFileSize` is 1 MiB as well.
pub const MAX_METADATA: u64 = 1 << 20;
/// PATH_MAX without its NUL.
pub const MAX_PATH: usize = 4095;
/// Pieces of one sparse file; GNU tar writes one for each 4 KiB hole at the worst.
pub const MAX_SPARSE: usize = 32 << 10;
/// XATTR_SIZE_MAX of the kernel.
pub const MAX_XATTR_VALUE: usize = 64 << 10;
/// XATTR_NAME_MAX of the kernel.
pub const MAX_XATTR_NAME: usize = 255;
/// Extended attributes of one entry; ext4 has room for a handful.
pub const MAX_XATTRS: usize = 128;

/// Why a stream is not taken as a tar.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    #[error("the stream cannot be read")]
    Read(#[from] io::Error),
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("the header's checksum is wrong")]
    Checksum,
    #[error("the header's {0} is not a number that fits")]
    Number(&'static str),
    #[error("entry type {0:?} is not supported")]
    Type(char),
    #[error("the PAX header is malformed: {0}")]
    Pax(&'static str),
    #[error("PAX record `{0}` has a malformed value")]
    PaxValue(&'static str),
    #[error("the headers of one entry have more than {MAX_METADATA} bytes")]
    Metadata,
    #[error("two {0} headers for one entry")]
    Twice(&'static str),
    #[error("a {0} header is not followed by an entry")]
    Orphan(&'static str),
    #[error("the path is empty")]
    EmptyPath,
    #[error("the {0} is longer than {MAX_PATH} bytes")]
    PathTooLong(&'static str),
    #[error("the {0} has a NUL byte")]
    Nul(&'static str),
    #[error("the name of a regular file ends in a slash")]
    Slash,
    #[error("header and PAX record say different sizes")]
    Sizes,
    #[error("a {0} must not have content")]
    Content(&'static str),
    #[error("the sparse map is malformed: {0}")]
    Sparse(&'static str),
    #[error("the extended attributes are beyond bounds: {0}")]
    Xattr(&'static str),
    #[error("a lone zero block stands between entries")]
    LoneZeroBlock,
    #[error("bytes that are not zero follow the end of the archive")]
    Trailing,
}

type Result<T> = std::result::Result<T, TarError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "regular file",
            Self::HardLink => "hard link",
            Self::Symlink => "symbolic link",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Directory => "directory",
            Self::Fifo => "fifo",
        }
    }
}

/// Seconds and nanoseconds; the nanoseconds count forward from the second, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// One entry, every extension applied. Paths are bytes as they stand in the archive: not split, not cleaned.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    /// Bytes of content in the stream.
    pub size: u64,
    /// Bytes of the file, holes included; equals `size` where the file is not sparse.
    pub real_size: u64,
    /// Offset and length of each piece of content, ascending; `None`: the file is not sparse.
    pub sparse: Option<Vec<(u64, u64)>>,
    pub device: (u32, u32),
    /// Names and values, in the order of the archive; a later one of the same name wins.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A stream that can leave bytes out.
pub trait Stream: BufRead {
    /// Skips `count` bytes; `Ok(false)`: the stream ended before.
    fn skip(&mut self, mut count: u64) -> io::Result<bool> {
        while count > 0 {
            let have = self.fill_buf()?.len();
            if have == 0 {
                return Ok(false);
            }
            let some = have.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.consume(some);
            count -= some as u64;
        }
        Ok(true)
    }
}

impl Stream for &[u8] {}

/// Reads the entries of a tar one after the other.
pub struct Reader<S> {
    stream: S,
    offset: u64,
    content: u64,
    padding: u64,
    done: bool,
}

impl<S: Stream> Reader<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, offset: 0, content: 0, padding: 0, done: false }
    }

    /// Bytes of the stream that have been read; where the fault is when an error comes back.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream, for what follows the end.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// The next entry; `None` at the end. What was left of the last entry's content is skipped.
    ///
    /// The end is two zero blocks, or the end of the stream at the start of a header, as Go takes it: whoever must know that nothing
    /// was cut off has a digest.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.done {
            return Ok(None);
        }
        self.skip_content()?;
        let mut pending = Pending::default();
        loop {
            let Some(block) = self.header()? else {
                self.done = true;
                return match pending.name() {
                    Some(name) => Err(TarError::Orphan(name)),
                    None => Ok(None),
                };
            };
            let header = Header(&block);
            header.verify()?;
            match header.flag() {
                b'L' => pending.set_long(&mut self.long(&header, pending.bytes)?, true)?,
                b'K' => pending.set_long(&mut self.long(&header, pending.bytes)?, false)?,
                b'x' => {
                    let data = self.metadata(&header, pending.bytes)?;
                    pending.set_pax(data)?;
                }
                b'g' => {
                    if let Some(name) = pending.name() {
                        return Err(TarError::Orphan(name));
                    }
                    check_global(&self.metadata(&header, 0)?)?;
                }
                _ => return self.entry(&header, pending).map(Some),
            }
        }
    }

    /// The next piece of the current entry's content; empty at its end. Call [`Self::advance`] with what was used of it.
    pub fn content(&mut self) -> Result<&[u8]> {
        if self.content == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.content).unwrap_or(usize::MAX);
        let buffer = self.stream.fill_buf()?;
        if buffer.is_empty() {
            return Err(TarError::Truncated("the content of an entry"));
        }
        Ok(&buffer[..buffer.len().min(left)])
    }

    pub fn advance(&mut self, count: usize) {
        self.stream.consume(count);
        self.content -= count as u64;
        self.offset += count as u64;
    }

    /// Reads to the end of the stream, behind the last entry: only zeros may stand there.
    pub fn finish(&mut self) -> Result<()> {
        loop {
            let buffer = self.stream.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Err(TarError::Trailing);
            }
            let count = buffer.len();
            self.stream.consume(count);
            self.offset += count as u64;
        }
    }

    fn skip_content(&mut self) -> Result<()> {
        let count = self.content + self.padding;
        if !self.stream.skip(count)? {
            // Some writers leave the padding of the last entry out, and Go takes that; missing content it does not.
            return Err(TarError::Truncated("the content of an entry"));
        }
        self.offset += count;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// Fills `buffer`; `Ok(n)` with fewer bytes only at the end of the stream.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let have = self.stream.fill_buf()?;
            if have.is_empty() {
                break;
            }
            let count = have.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&have[..count]);
            self.stream.consume(count);
            self.offset += count as u64;
            filled += count;
        }
        Ok(filled)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(TarError::Truncated("a header")),
        }
    }

    /// The next header block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second.iter().any(|byte| *byte != 0) => Err(TarError::LoneZeroBlock),
            _ => Ok(None),
        }
    }

    fn metadata(&mut self, header: &Header<'_>, already: u64) -> Result<Vec<u8>> {
        let size = header.size()?;
        if already.saturating_add(size) > MAX_METADATA {
            return Err(TarError::Metadata);
        }
        let length = usize::try_from(size).map_err(|_| TarError::Metadata)?;
        let mut data = vec![0; length.next_multiple_of(BLOCK)];
        if self.fill(&mut data)? != data.len() {
            return Err(TarError::Truncated("an extended header"));
        }
        data.truncate(length);
        Ok(data)
    }

    /// A GNU long name: it ends with its first NUL, behind which only NULs may stand.
    fn long(&mut self, header: &Header<'_>, already: u64) -> Result<Vec<u8>> {
        let mut data = self.metadata(header, already)?;
        let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
        if data[end..].iter().any(|byte| *byte != 0) {
            return Err(TarError::Nul("long name"));
        }
        data.truncate(end);
        if data.is_empty() {
            return Err(TarError::EmptyPath);
        }
        Ok(data)
    }

    fn entry(&mut self, header: &Header<'_>, pending: Pending) -> Result<Entry> {
        let pax = pending.pax.as_deref().map(Pax::parse).transpose()?.unwrap_or_default();
        let size = header.agreed_size(pax.size)?;
        let path = pax.path.or(pending.long_name).unwrap_or_else(|| header.path());
        let link = pax.link.or(pending.long_link).unwrap_or_else(|| header.field(157, 100).to_vec());
        check_path(&path, "path")?;
        check_path(&link, "link target")?;
        let kind = header.kind(&path)?;
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.unsigned(108, 8, "uid"), Ok)?,
            gid: pax.gid.map_or_else(|| header.unsigned(116, 8, "gid"), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            size,
            real_size: size,
            sparse: None,
            device: header.device(kind)?,
            xattrs: pax.xattrs,
        };
        if kind != Kind::File && size != 0 {
            return Err(TarError::Content(kind.name()));
        }
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        self.sparse(header, pax.sparse, &mut entry)?;
        // A sparse file may have been renamed.
        check_path(&entry.path, "path")?;
        if entry.path.is_empty() {
            return Err(TarError::EmptyPath);
        }
        Ok(entry)
    }

    /// Decides whether the entry is sparse, in which of the four forms, and reads a map that stands in the stream.
    fn sparse(&mut self, header: &Header<'_>, pax: PaxSparse, entry: &mut Entry) -> Result<()> {
        let (map, real_size) = if header.flag() == b'S' {
            if pax.present {
                return Err(TarError::Sparse("two forms at once"));
            }
            (self.gnu_map(header)?, header.unsigned(483, 12, "real size")?)
        } else if !pax.present {
            return Ok(());
        } else if header.flag() != b'0' && header.flag() != 0 {
            return Err(TarError::Sparse("it stands at an entry that is no regular file"));
        } else {
            let real_size = pax.real_size.ok_or(TarError::Sparse("no real size"))?;
            if let Some(name) = pax.name {
                entry.path = name;
            }
            match pax.version {
                (Some(1), Some(0)) => (self.stream_map()?, real_size),
                (None | Some(0), None | Some(0 | 1)) => (pax.map, real_size),
                _ => return Err(TarError::Sparse("unknown version")),
            }
        };
        let mut end = 0;
        let mut sum = 0u64;
        for (offset, length) in &map {
            let next = offset.checked_add(*length).ok_or(TarError::Sparse("a piece ends beyond all bounds"))?;
            if *offset < end || next > real_size {
                return Err(TarError::Sparse("pieces overlap, or end beyond the file"));
            }
            end = next;
            sum = sum.saturating_add(*length);
        }
        if sum != self.content {
            return Err(TarError::Sparse("the pieces are not as long as the content"));
        }
        entry.size = self.content;
        entry.real_size = real_size;
        entry.sparse = Some(map);
        Ok(())
    }

    fn gnu_map(&mut self, header: &Header<'_>) -> Result<Vec<(u64, u64)>> {
        let mut map = Vec::new();
        push_gnu_pieces(&header.0[386..482], &mut map)?;
        let mut more = header.0[482] != 0;
        while more {
            let block = self.block()?.ok_or(TarError::Truncated("a sparse map"))?;
            push_gnu_pieces(&block[..504], &mut map)?;
            more = block[504] != 0;
        }
        Ok(map)
    }

    /// The map of form 1.0: decimal numbers, each ended by a newline, at the head of the content, filled up to a block.
    fn stream_map(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut numbers = Lines { block: [0; BLOCK], at: BLOCK };
        let count = numbers.next(self)?;
        if count > MAX_SPARSE as u64 {
            return Err(TarError::Sparse("too many pieces"));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            map.push((numbers.next(self)?, numbers.next(self)?));
        }
        Ok(map)
    }
}

/// Reads the numbers of a sparse map of form 1.0 block by block.
struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn next<S: Stream>(&mut self, reader: &mut Reader<S>) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                if reader.content < BLOCK as u64 {
                    return Err(TarError::Sparse("it is longer than the content"));
                }
                self.block = reader.block()?.ok_or(TarError::Truncated("a sparse map"))?;
                reader.content -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or(TarError::Sparse("not a number")),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(TarError::Sparse("not a number")),
            }
        }
    }
}

fn push_gnu_pieces(bytes: &[u8], map: &mut Vec<(u64, u64)>) -> Result<()> {
    for piece in bytes.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        if map.len() == MAX_SPARSE {
            return Err(TarError::Sparse("too many pieces"));
        }
        let number = |field| number(field).and_then(|n| u64::try_from(n).ok()).ok_or(TarError::Sparse("not a number"));
        map.push((number(&piece[..12])?, number(&piece[12..])?));
    }
    Ok(())
}

fn check_path(path: &[u8], what: &'static str) -> Result<()> {
    if path.len() > MAX_PATH {
        return Err(TarError::PathTooLong(what));
    }
    if path.contains(&0) {
        return Err(TarError::Nul(what));
    }
    Ok(())
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Pending {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
    bytes: u64,
}

impl Pending {
    fn name(&self) -> Option<&'static str> {
        match self {
            Self { pax: Some(_), .. } => Some("PAX"),
            Self { long_name: Some(_), .. } | Self { long_link: Some(_), .. } => Some("long name"),
            _ => None,
        }
    }

    fn set_long(&mut self, data: &mut Vec<u8>, is_name: bool) -> Result<()> {
        let slot = if is_name { &mut self.long_name } else { &mut self.long_link };
        if slot.is_some() {
            return Err(TarError::Twice("long name"));
        }
        self.bytes += data.len() as u64;
        *slot = Some(std::mem::take(data));
        Ok(())
    }

    fn set_pax(&mut self, data: Vec<u8>) -> Result<()> {
        if self.pax.is_some() {
            return Err(TarError::Twice("PAX"));
        }
        self.bytes += data.len() as u64;
        self.pax = Some(data);
        Ok(())
    }
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    /// The bytes of a text field up to its first NUL.
    fn field(&self, at: usize, length: usize) -> &[u8] {
        let field = &self.0[at..at + length];
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(length)]
    }

    fn unsigned(&self, at: usize, length: usize, what: &'static str) -> Result<u64> {
        number(&self.0[at..at + length]).and_then(|n| u64::try_from(n).ok()).ok_or(TarError::Number(what))
    }

    fn size(&self) -> Result<u64> {
        self.unsigned(124, 12, "size")
    }

    /// PAX wins, as POSIX says, and is needed where the field is too small: writers leave it 0 then. Where both say something else,
    /// a reader without PAX would take content for entries, or entries for content.
    fn agreed_size(&self, pax: Option<u64>) -> Result<u64> {
        const FIELD_LIMIT: u64 = 1 << 33;
        let size = self.size()?;
        match pax {
            Some(pax) if pax < FIELD_LIMIT && size != 0 && size != pax => Err(TarError::Sizes),
            Some(pax) => Ok(pax),
            None => Ok(size),
        }
    }

    fn mode(&self) -> Result<u32> {
        // The type bits that some writers repeat here are the type flag's business.
        let mode = self.unsigned(100, 8, "mode")?;
        u32::try_from(mode & 0o7777).map_err(|_| TarError::Number("mode"))
    }

    fn mtime(&self) -> Result<Time> {
        let seconds = number(&self.0[136..148]).ok_or(TarError::Number("mtime"))?;
        Ok(Time { seconds, nanoseconds: 0 })
    }

    fn flag(&self) -> u8 {
        self.0[156]
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    /// Name with the ustar prefix before it; star keeps times in the last bytes of the prefix and says so at the end of the block.
    fn path(&self) -> Vec<u8> {
        let name = self.field(0, 100);
        if !self.is_ustar() {
            return name.to_vec();
        }
        let prefix = self.field(345, if &self.0[508..] == b"tar\0" { 131 } else { 155 });
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// A sum over the block, the field itself taken as spaces; very old writers summed signed bytes.
    fn verify(&self) -> Result<()> {
        let stored = number(&self.0[148..156]).ok_or(TarError::Checksum)?;
        let byte = |i: usize| if (148..156).contains(&i) { b' ' } else { self.0[i] };
        let unsigned: i64 = (0..BLOCK).map(|i| i64::from(byte(i))).sum();
        let signed: i64 = (0..BLOCK).map(|i| i64::from(byte(i).cast_signed())).sum();
        if stored == unsigned || stored == signed { Ok(()) } else { Err(TarError::Checksum) }
    }

    fn kind(&self, path: &[u8]) -> Result<Kind> {
        let flag = self.flag();
        Ok(match flag {
            // Before ustar a directory was a file whose name ends in a slash; Go reads the old flag so, and only that.
            0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | b'S' if path.ends_with(b"/") => return Err(TarError::Slash),
            0 | b'0' | b'7' => Kind::File,
            b'S' if self.is_gnu() => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Type(char::from(other))),
        })
    }

    fn device(&self, kind: Kind) -> Result<(u32, u32)> {
        if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Ok((0, 0));
        }
        let part = |at| self.unsigned(at, 8, "device number").and_then(|n| u32::try_from(n).map_err(|_| TarError::Number("device number")));
        Ok((part(329)?, part(337)?))
    }
}

/// A numeric field: octal, or base 256 where the first byte is 0x80 (positive) or 0xff (negative). `None`: not a number that fits.
fn number(field: &[u8]) -> Option<i64> {
    match field[0] {
        0x80 | 0xff => {
            let sign = if field[0] == 0xff { -1i64 } else { 0 };
            let (high, low) = field.split_at(field.len().saturating_sub(8));
            if low.len() < 8 || field.len() == 8 {
                // Eight bytes: the marker and seven of value.
                return Some(field[1..].iter().fold(sign, |value, byte| (value << 8) | i64::from(*byte)));
            }
            let value = low.iter().fold(0i64, |value, byte| (value << 8) | i64::from(*byte));
            let fill = sign.cast_unsigned() as u8;
            let fits = high[1..].iter().all(|byte| *byte == fill) && (value < 0) == (sign < 0);
            fits.then_some(value)
        }
        byte if byte & 0x80 != 0 => None,
        _ => octal(field),
    }
}

/// Spaces, digits, then a space or NUL, behind which Go does not look either. A field of NULs or spaces is 0.
fn octal(field: &[u8]) -> Option<i64> {
    if field[0] == 0 {
        // Go looks behind leading NULs, C does not: refused where that makes a difference.
        return field.iter().all(|byte| *byte == 0 || *byte == b' ').then_some(0);
    }
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field[..end].trim_ascii().iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })?;
    // An offset or size beyond this cannot be a file's.
    i64::try_from(value).is_ok().then_some(value)
}

/// `[-]SECONDS[.FRACTION]`; digits of the fraction beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, rest) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match rest.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&rest[..dot], &rest[dot + 1..]),
        None => (rest, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let nanoseconds = (0..9).fold(0, |sum, i| sum * 10 + u32::from(fraction.get(i).map_or(0, |digit| digit - b'0')));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    present: bool,
    version: (Option<u64>, Option<u64>),
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    map: Vec<(u64, u64)>,
    offset: Option<u64>,
}

impl Pax {
    fn parse(data: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        for record in Records(data) {
            let (key, value) = record?;
            pax.apply(key, value)?;
        }
        if pax.sparse.offset.is_some() {
            return Err(TarError::Sparse("an offset without a length"));
        }
        Ok(pax)
    }

    /// An empty value takes the record back, and the header's own counts again.
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let given = (!value.is_empty()).then_some(value);
        let whole = |name| given.map(|value| decimal(value).ok_or(TarError::PaxValue(name))).transpose();
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = whole("size")?,
            b"uid" => self.uid = whole("uid")?,
            b"gid" => self.gid = whole("gid")?,
            b"mtime" => self.mtime = given.map(|value| time(value).ok_or(TarError::PaxValue("mtime"))).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value)?;
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.apply(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Err(TarError::Xattr("a name is empty, too long or has a NUL byte"));
        }
        if value.len() > MAX_XATTR_VALUE {
            return Err(TarError::Xattr("a value is longer than 64 KiB"));
        }
        if self.xattrs.len() == MAX_XATTRS {
            return Err(TarError::Xattr("too many at one entry"));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl PaxSparse {
    fn apply(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let whole = || decimal(value).ok_or(TarError::Sparse("not a number"));
        self.present = true;
        match name {
            b"major" => self.version.0 = Some(whole()?),
            b"minor" => self.version.1 = Some(whole()?),
            b"name" if !value.is_empty() => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(whole()?),
            b"numblocks" => drop(whole()?),
            b"offset" if self.offset.is_none() => self.offset = Some(whole()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(TarError::Sparse("a length without an offset"))?;
                self.push(offset, whole()?)?;
            }
            b"map" => self.parse_map(value)?,
            _ => return Err(TarError::Sparse("unknown record")),
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        if self.map.len() == MAX_SPARSE {
            return Err(TarError::Sparse("too many pieces"));
        }
        self.map.push((offset, length));
        Ok(())
    }

    fn parse_map(&mut self, value: &[u8]) -> Result<()> {
        self.map.clear();
        let mut numbers = value.split(|byte| *byte == b',').filter(|_| !value.is_empty());
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or(TarError::Sparse("an offset without a length"))?;
            let whole = |digits| decimal(digits).ok_or(TarError::Sparse("not a number"));
            self.push(whole(offset)?, whole(length)?)?;
        }
        Ok(())
    }
}

/// Splits `LENGTH KEY=VALUE\n` records by their lengths; values may hold anything.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split_record(self.0);
        match record {
            Ok((_, _, rest)) => self.0 = rest,
            Err(_) => self.0 = &[],
        }
        Some(record.map(|(key, value, _)| (key, value)))
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn split_record(data: &[u8]) -> Result<Record<'_>> {
    let bad = TarError::Pax;
    let space = data.iter().take(8).position(|byte| *byte == b' ').ok_or(bad("a record has no length"))?;
    let length = decimal(&data[..space]).filter(|_| data[0] != b'0').ok_or(bad("a record's length is not a number"))?;
    let length = usize::try_from(length).map_err(|_| bad("a record's length is not a number"))?;
    let record = data.get(space + 1..length).ok_or(bad("a record's length is wrong"))?;
    let record = record.strip_suffix(b"\n").ok_or(bad("a record does not end in a newline"))?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(bad("a record has no `=`"))?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(bad("a key is empty or has a NUL byte"));
    }
    Ok((key, value, &data[length..]))
}

/// A global header may comment, as git's do, but not rename or resize: Go ignores what it says, GNU tar obeys.
fn check_global(data: &[u8]) -> Result<()> {
    for record in Records(data) {
        let (key, _) = record?;
        let obeyed = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime");
        if obeyed || key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"GNU.sparse.") {
            return Err(TarError::Pax("a global header changes paths, sizes, owners, times or attributes"));
        }
    }
    Ok(())
}
