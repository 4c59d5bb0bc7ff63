//! An image as one file that other tools load: an OCI layout in a tar, or what `docker save` writes.
//!
//! The same image gives the same bytes: no times, no owners, entries in the order in which documents name them.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde_json::json;

use super::document::REF_NAME;
use super::{Digest, Error, Hasher, Piece, Remote, Whole, plain};

/// What Docker's archives say of one layer: its uncompressed tar.
pub struct PlainLayer {
    /// As its manifest names it.
    pub blob: Piece,
    pub diff_id: Digest,
    /// Of the uncompressed tar.
    pub size: u64,
}

/// Writes an OCI layout whose index names the last of the documents by each of `names`.
///
/// # Errors
/// [`Error`] of `content`, [`Error::Digest`] and [`Error::Size`] of blobs that are not what they should be, [`Error::Read`] of writing.
///
/// # References
/// image-spec 1.1, "image-layout"
pub fn save_layout(content: &dyn Remote, whole: &Whole, names: &[String], out: &mut dyn Write) -> Result<(), Error> {
    let mut tar = Tar { out };
    tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let Some((top, _)) = whole.documents.last() else { return Err(Error::refused(content.name(), "it has no documents")) };
    let entry = |name: Option<&String>| {
        let mut entry = json!({ "mediaType": top.media_type, "digest": top.digest, "size": top.size });
        if let Some(name) = name {
            // Tools differ in which of the two they look at.
            entry["annotations"] = json!({ REF_NAME: name, "io.containerd.image.name": name });
        }
        entry
    };
    let entries: Vec<_> = if names.is_empty() { vec![entry(None)] } else { names.iter().map(|name| entry(Some(name))).collect() };
    let index = json!({ "schemaVersion": 2, "mediaType": super::media::OCI_INDEX, "manifests": entries });
    tar.file("index.json", index.to_string().as_bytes())?;
    // Tools that unpack the archive make what is not named as root's.
    tar.directory("blobs/")?;
    let all = whole.documents.iter().map(|(piece, _)| piece).chain(&whole.blobs);
    for algorithm in all.map(|piece| piece.digest.algorithm().name()).collect::<BTreeSet<_>>() {
        tar.directory(&format!("blobs/{algorithm}/"))?;
    }
    for (piece, bytes) in &whole.documents {
        tar.file(&path(&piece.digest), bytes)?;
    }
    for blob in &whole.blobs {
        let what = format!("blob {} of {}", blob.digest, content.name());
        tar.stream(&path(&blob.digest), content.blob(&blob.digest, blob.size)?, blob.size, &blob.digest, &what)?;
    }
    tar.end()
}

/// Writes what `docker save` writes of one image: its config, its layers without compression, and a list that names them.
///
/// # Errors
/// As [`save_layout`].
///
/// # References
/// Docker's image specification 1.2, "Combined Image JSON + Filesystem Changeset Format"
pub fn save_docker(
    content: &dyn Remote,
    config: (&Digest, &[u8]),
    layers: &[PlainLayer],
    names: &[String],
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut tar = Tar { out };
    let file = |diff_id: &Digest| format!("{}.tar", diff_id.hex());
    let mut written = BTreeSet::new();
    for layer in layers.iter().filter(|layer| written.insert(&layer.diff_id)) {
        let what = format!("layer {} of {}", layer.diff_id, content.name());
        let blob = plain(content.blob(&layer.blob.digest, layer.blob.size)?).map_err(Error::read(&what))?;
        tar.stream(&file(&layer.diff_id), blob, layer.size, &layer.diff_id, &what)?;
    }
    let (digest, bytes) = config;
    let config = format!("{}.json", digest.hex());
    tar.file(&config, bytes)?;
    let paths: Vec<String> = layers.iter().map(|layer| file(&layer.diff_id)).collect();
    let list = json!([{ "Config": config, "RepoTags": names, "Layers": paths }]);
    tar.file("manifest.json", list.to_string().as_bytes())?;
    tar.end()
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

struct Tar<'o> {
    out: &'o mut dyn Write,
}

impl Tar<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|source| Error::Write { source })
    }

    /// A name that is too long for a header goes before it, as an extended one; pax(1), "pax Extended Header".
    fn head(&mut self, path: &str, size: u64) -> Result<(), Error> {
        if path.len() > MAX_NAME {
            // The length counts itself.
            let rest = format!(" path={path}\n");
            let length = (1..5).map(|digits| rest.len() + digits).find(|length| length.to_string().len() + rest.len() == *length);
            let record = format!("{}{rest}", length.unwrap_or_default());
            self.write(&header("path", record.len() as u64, b'x'))?;
            self.write(record.as_bytes())?;
            self.pad(record.len() as u64)?;
        }
        self.write(&header(path, size, b'0'))
    }

    fn directory(&mut self, path: &str) -> Result<(), Error> {
        self.write(&header(path, 0, b'5'))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.head(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// A file as it comes, verified when all of it has come.
    fn stream(&mut self, name: &str, mut from: Box<dyn Read + Send>, size: u64, digest: &Digest, what: &str) -> Result<(), Error> {
        self.head(name, size)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut came = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(|source| Error::Read { what: what.to_owned(), source })),
            };
            came += count as u64;
            if came > size || (count == 0 && came < size) {
                return Err(Error::Size { what: what.to_owned(), expected: size, found: came });
            }
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            self.write(&buffer[..count])?;
        }
        let found = hasher.finish();
        if found != *digest {
            return Err(Error::Digest { what: what.to_owned(), expected: digest.clone(), found });
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let rest = usize::try_from(size % BLOCK).unwrap_or(0);
        if rest == 0 { Ok(()) } else { self.write(&ZEROS[rest..]) }
    }

    /// Two empty blocks.
    fn end(&mut self) -> Result<(), Error> {
        self.write(&ZEROS)?;
        self.write(&ZEROS)?;
        self.out.flush().map_err(|source| Error::Write { source })
    }
}

const BLOCK: u64 = 512;
const ZEROS: [u8; 512] = [0; 512];

/// Of the name in a header.
const MAX_NAME: usize = 100;

/// A file or a directory of root's, which all can read, of 1970; pax(1), "ustar Interchange Format".
fn header(name: &str, size: u64, kind: u8) -> [u8; 512] {
    let mut block = ZEROS;
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(MAX_NAME)]);
    put(100, if kind == b'5' { b"0000755\0" } else { b"0000444\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    // Beyond 8 GiB - 1 in base 256, as GNU tar and star have it.
    match size < 1 << 33 {
        true => put(124, format!("{size:011o}\0").as_bytes()),
        false => {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_by_another_reader() {
        for size in [0, 5, (1 << 33) - 1, 1 << 33, 1 << 40] {
            let header = tar::Header::from_byte_slice(&header("oci-layout", size, b'0')).clone();
            assert_eq!((header.size().unwrap(), header.path().unwrap().to_str().unwrap()), (size, "oci-layout"));
            let mut again = header.clone();
            again.set_cksum();
            assert_eq!(header.cksum().unwrap(), again.cksum().unwrap());
        }
    }

    #[test]
    fn long_names_are_read_by_another_reader() {
        let names = ["short".to_owned(), format!("blobs/sha512/{}", "a".repeat(128)), "b".repeat(100), "c".repeat(101)];
        let mut bytes = Vec::new();
        let mut out = Tar { out: &mut bytes };
        names.iter().for_each(|name| out.file(name, name.as_bytes()).unwrap());
        out.end().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        });
        assert!(read.eq(names.iter().map(|name| (name.clone(), name.clone()))));
    }
}
