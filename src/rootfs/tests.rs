//! The unpacker against layers that are made here, entry by entry.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::image::Digest;
use crate::profile::{ImageSource, Platform, Pull, Select};
use crate::store::Store;

/// A layer as bytes of a tar.
#[derive(Default)]
struct Layer {
    builder: Option<tar::Builder<Vec<u8>>>,
}

impl Layer {
    fn entry(mut self, kind: tar::EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(data.len() as u64);
        if kind == tar::EntryType::Char {
            header.set_device_major(0).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        self.builder.get_or_insert_with(|| tar::Builder::new(Vec::new())).append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(tar::EntryType::Regular, path, "", 0o644, data.as_bytes())
    }

    fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Directory, path, "", mode, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, target, 0o777, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, path, target, 0o644, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.builder.map_or_else(|| vec![0; 1024], |builder| builder.into_inner().unwrap())
    }
}

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> Store {
        Store::open(&self.directory.path().join("store")).unwrap()
    }

    /// Writes an OCI layout of plain layers.
    fn layout(&self, config: &str, layers: Vec<Layer>) -> PathBuf {
        let path = self.directory.path().join("layout");
        let blobs = path.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
            digest
        };
        let layers: Vec<(Digest, usize)> = layers.into_iter().map(Layer::bytes).map(|bytes| (put(&bytes), bytes.len())).collect();
        let diff_ids: Vec<&Digest> = layers.iter().map(|(digest, _)| digest).collect();
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":{}}}}}"#,
            Platform::native().architecture,
            serde_json::to_string(&diff_ids).unwrap()
        );
        let descriptors: Vec<serde_json::Value> = layers
            .iter()
            .map(|(digest, size)| serde_json::json!({"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":digest,"size":size}))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType":"application/vnd.oci.image.config.v1+json","digest":put(config.as_bytes()),"size":config.len()},
            "layers": descriptors,
        })
        .to_string();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":put(manifest.as_bytes()),"size":manifest.len()}],
        });
        std::fs::write(path.join("index.json"), index.to_string()).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        path
    }

    fn load(&self, config: &str, layers: Vec<Layer>) -> Result<Prepared, Error> {
        let source = ImageSource::OciDir { path: self.layout(config, layers), select: Select::Only };
        prepare_source(&self.store(), &source)
    }

    /// The tree of the only layer.
    fn tree(&self, layer: Layer) -> Result<PathBuf, Error> {
        let prepared = self.load("{}", vec![layer])?;
        Ok(self.path_of(&prepared, 0))
    }

    fn path_of(&self, prepared: &Prepared, index: usize) -> PathBuf {
        let Tree::Layers { names } = &prepared.tree else { panic!("{:?}", prepared.tree) };
        self.directory.path().join("store/layers").join(names[index].as_str())
    }
}

fn prepare_source(store: &Store, source: &ImageSource) -> Result<Prepared, Error> {
    let platform = Platform::native();
    prepare(
        store,
        &Request {
            source,
            platform: &platform,
            pull: Pull::Missing,
            load: true,
            ownership: Ownership::Single,
            user: None,
            names: None,
            locked: None,
            keep_blobs: false,
            stores: None,
            registry: None,
            origin: None,
            progress: None,
        },
    )
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn loads_a_layout_and_starts_warm() {
    let bench = Bench::new();
    let layer =
        Layer::default().dir("./", 0o711).dir("etc/", 0o755).file("etc/passwd", "root:x:0:0::/root:/bin/sh\nme:x:7:8::/me:/bin/me\n");
    let upper = Layer::default().file("etc/group", "root:x:0:\nmore:x:9:me\n").entry(tar::EntryType::Regular, "bin/su", "", 0o4755, b"x");
    let config = r#"{"User":"me","Env":["A=1"],"Cmd":["sh"]}"#;
    let cold = bench.load(config, vec![layer, upper]).unwrap();
    assert_eq!((cold.user.uid, cold.user.gid, cold.user.groups.as_slice(), cold.user.home.as_str()), (7, 8, &[9][..], "/me"));
    assert_eq!(cold.config.cmd, ["sh"]);
    let root = bench.path_of(&cold, 0);
    assert_eq!(std::fs::metadata(&root).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(std::fs::metadata(&root).unwrap().mtime(), 1_000_000);
    assert_eq!(std::fs::metadata(bench.path_of(&cold, 1).join("bin/su")).unwrap().mode() & 0o7777, 0o4755);
    let store = bench.store();
    let source = ImageSource::OciDir { path: bench.directory.path().join("layout"), select: Select::Only };
    // A warm start reads no blob.
    std::fs::remove_dir_all(bench.directory.path().join("layout/blobs")).unwrap();
    let warm = prepare_source(&store, &source).unwrap();
    assert_eq!((warm.digest, warm.tree, warm.user, warm.config), (cold.digest, cold.tree, cold.user, cold.config));
    assert!(warm.lease.is_some());
    for directory in ["layers", "prepared", "blobs", "images"] {
        let path = bench.directory.path().join("store").join(directory);
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let bench = Bench::new();
    let layer = Layer::default()
        .file("a", "old")
        .file("a", "new")
        .dir("d", 0o700)
        .file("d/x", "1")
        .dir("d", 0o755)
        .file("e/deep/er", "1")
        .file("e", "file now")
        .symlink("l", "/etc")
        .dir("l", 0o755)
        .file("l/inside", "1");
    let tree = bench.tree(layer).unwrap();
    assert_eq!((text(tree.join("a")), text(tree.join("d/x")), text(tree.join("e"))), ("new".into(), "1".into(), "file now".into()));
    assert!(std::fs::symlink_metadata(tree.join("l")).unwrap().is_dir());
    assert_eq!(text(tree.join("l/inside")), "1");
}

#[test]
fn links_of_the_layer_are_followed_inside_of_it() {
    let bench = Bench::new();
    let layer = Layer::default()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("lib/x.so", "x")
        .symlink("abs", "/usr/share")
        .file("abs/y", "y")
        .symlink("out", "../../../../../../tmp")
        .file("out/z", "z")
        .link("hard", "lib/x.so")
        .symlink("p", "/proc/self/root")
        .file("p/w", "w");
    let tree = bench.tree(layer).unwrap();
    assert_eq!(text(tree.join("usr/lib/x.so")), "x");
    assert_eq!(text(tree.join("usr/share/y")), "y");
    assert_eq!(text(tree.join("tmp/z")), "z");
    assert_eq!(text(tree.join("proc/self/root/w")).len(), 1);
    assert_eq!(std::fs::metadata(tree.join("hard")).unwrap().nlink(), 2);
}

#[test]
fn whiteouts_hide_lower_layers_and_nothing_else() {
    let bench = Bench::new();
    let lower = Layer::default().file("a", "1").file("d/x", "1").file("d/y", "1").file("o/x", "1").file("p/q/r", "1").file("c", "1");
    let upper = Layer::default()
        .file(".wh.a", "")
        .file("d/new", "2")
        .file("d/.wh.x", "")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "2")
        .file(".wh.p", "")
        .file("p/new", "2")
        .file("kept", "2")
        .file(".wh.kept", "")
        .entry(tar::EntryType::Char, "c", "", 0, b"")
        .file(".wh.again", "")
        .file("again", "2")
        .file("swapped", "2")
        .file("swapped/.wh.inside", "")
        .symlink("link", "nowhere")
        .file("link/.wh.inside", "");
    let prepared = bench.load("{}", vec![lower, upper]).unwrap();
    let tree = bench.path_of(&prepared, 1);
    assert!(std::fs::symlink_metadata(tree.join("a")).unwrap().file_type().is_char_device());
    assert_eq!((text(tree.join("kept")), text(tree.join("again"))), ("2".into(), "2".into()));
    let Tree::Layers { names } = &prepared.tree else { panic!() };
    let stack = Stack::of_layers(bench.store().layers().unwrap(), names).unwrap();
    let shows = |path: &str| stack.lookup(path.as_bytes()).unwrap().is_some();
    for (path, expected) in [
        ("a", false),
        ("d/x", false),
        ("d/y", true),
        ("d/new", true),
        ("o/x", false),
        ("o/new", true),
        ("p/q", false),
        ("p/new", true),
        ("kept", true),
        ("c", false),
        ("again", true),
        ("swapped", true),
        ("nowhere", false),
        ("none", false),
    ] {
        assert_eq!(shows(path), expected, "{path}");
    }
    assert_eq!(stack.list(b"d").unwrap().unwrap(), [b"new".to_vec(), b"y".to_vec()]);
}

#[test]
fn refuses_what_would_leave_the_tree_or_deceive() {
    for (layer, word) in [
        (Layer::default().file("../x", ""), "has a `..`"),
        (Layer::default().file("a/../../x", ""), "has a `..`"),
        (Layer::default().link("x", "../../etc/passwd"), "has a `..`"),
        (Layer::default().link("x", "/etc/passwd"), "not in this layer"),
        (Layer::default().file("x", "").link("x", "x"), "to itself"),
        (Layer::default().dir("d", 0o755).link("x", "d"), "to a directory"),
        (Layer::default().file(".wh.w", "").link("x", "w"), "to a whiteout"),
        (Layer::default().symlink(".", "/etc"), "must be a directory"),
        (Layer::default().symlink("./", "/etc"), "must be a directory"),
        (Layer::default().file(".wh.", ""), "whiteout of nothing"),
        (Layer::default().file("d/.wh...", ""), "whiteout of nothing"),
        (Layer::default().file(".wh..wh.x", ""), "whiteout of a whiteout"),
        (Layer::default().file("d/.wh.x/y", ""), "below a whiteout"),
        (Layer::default().file(".wh.x", "content"), "empty file"),
        (Layer::default().symlink("loop", "loop").file("loop/x", ""), "find the directory"),
        (Layer::default().file("f", "").file("f/x", ""), "find the directory"),
    ] {
        let bench = Bench::new();
        let error = bench.tree(layer).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
        assert_eq!(std::fs::read_dir(bench.directory.path().join("store/layers")).unwrap().count(), 0, "{word}: something is left");
    }
}

#[test]
fn closed_directories_and_fifos() {
    let bench = Bench::new();
    let layer = Layer::default()
        .dir("closed", 0)
        .dir("closed/in", 0o555)
        .file("closed/in/x", "1")
        .entry(tar::EntryType::Fifo, "pipe", "", 0o600, b"")
        .entry(tar::EntryType::Regular, "secret", "", 0, b"1");
    let tree = bench.tree(layer).unwrap();
    assert_eq!(std::fs::metadata(tree.join("closed")).unwrap().mode() & 0o7777, 0);
    assert_eq!(std::fs::metadata(tree.join("secret")).unwrap().mode() & 0o7777, 0);
    assert!(std::fs::metadata(tree.join("pipe")).unwrap().file_type().is_fifo());
    let parent = std::fs::File::open(tree.parent().unwrap()).unwrap();
    crate::store::remove_tree(&parent, tree.file_name().unwrap().as_encoded_bytes()).unwrap();
    assert!(!tree.exists());
}

/// What `tests/evil/images/generate.py` expects of one image; see there.
#[derive(serde::Deserialize)]
struct Case {
    name: String,
    source: String,
    refused: Option<Vec<String>>,
    loaded: Option<std::collections::BTreeMap<String, serde_json::Value>>,
    user: Option<serde_json::Value>,
    env: Option<Vec<(String, String)>>,
}

impl Case {
    fn source(&self, directory: &Path) -> ImageSource {
        let (kind, rest) = self.source.split_once(':').unwrap();
        let (path, select) = (directory.join(rest), Select::Only);
        match kind {
            "oci" => ImageSource::OciDir { path, select },
            "oci-archive" => ImageSource::OciArchive { path, select },
            "docker-archive" => ImageSource::DockerArchive { path, select },
            "tar" => ImageSource::Tar { path },
            _ => panic!("{kind}"),
        }
    }

    /// What is wrong, if anything is.
    fn fault(&self, directory: &Path) -> Option<String> {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("store")).unwrap();
        let outcome = prepare_source(&store, &self.source(directory));
        match (&self.refused, outcome) {
            (Some(words), Err(error)) => {
                let text = error.chain();
                let missing = words.iter().find(|word| !text.contains(word.as_str()));
                let left = store.list("layers").unwrap();
                // Who names an image refuses it whole, but layers that are good by themselves may stay.
                let kept = left.iter().any(|name| name.starts_with(".tmp"));
                missing.map(|word| format!("`{word}` is not in: {text}")).or(kept.then(|| format!("left: {left:?}")))
            }
            (Some(_), Ok(_)) => Some("it was loaded".into()),
            (None, Err(error)) => Some(format!("it was refused: {}", error.chain())),
            (None, Ok(prepared)) => self.wrong(&store, &prepared),
        }
    }

    fn wrong(&self, store: &Store, prepared: &Prepared) -> Option<String> {
        let Tree::Layers { names } = &prepared.tree else { return Some("no layers".into()) };
        let stack = Stack::of_layers(store.layers().unwrap(), names).unwrap();
        for (path, facts) in self.loaded.iter().flatten() {
            let found = match stack.lookup_link(path.as_bytes()) {
                // A directory that the image closes to its owner is closed to this test as well, unless it runs as root.
                Err(Error::LookupIo { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => continue,
                found => found.unwrap(),
            };
            for (fact, value) in facts.as_object().unwrap() {
                if !holds(&stack, path, found.as_ref(), fact, value) {
                    return Some(format!("{path}: {fact} is not {value}"));
                }
            }
        }
        let user = serde_json::to_value(&prepared.user).unwrap();
        let other = self.user.iter().flat_map(|facts| facts.as_object().unwrap()).find(|(key, value)| user[key] != **value);
        if let Some((key, value)) = other {
            return Some(format!("user: {key} is not {value}, but {}", user[key]));
        }
        self.env.as_ref().filter(|env| **env != prepared.config.env).map(|_| format!("env is {:?}", prepared.config.env))
    }
}

fn holds(stack: &Stack, path: &str, found: Option<&Found>, fact: &str, value: &serde_json::Value) -> bool {
    use rustix::fs::FileType;
    let Some(found) = found else { return fact == "absent" };
    let kind = found.file_type();
    match fact {
        "any" => true,
        "file" => match stack.read(path.as_bytes(), 1 << 20) {
            Ok(content) => content.unwrap() == value.as_str().unwrap().as_bytes(),
            // A file or directory of mode 0 shuts an ordinary user out, its owner too.
            Err(_) => found.stat.st_size == value.as_str().unwrap().len() as i64,
        },
        "link" => kind == FileType::Symlink && stack.target(found).unwrap() == value.as_str().unwrap().as_bytes(),
        "dir" => kind == FileType::Directory,
        "fifo" => kind == FileType::Fifo,
        "mode" => format!("{:o}", found.stat.st_mode & 0o7777) == value.as_str().unwrap(),
        "mtime" => found.stat.st_mtime == value.as_i64().unwrap(),
        "size" => found.stat.st_size == value.as_i64().unwrap(),
        "absent" => false,
        _ => panic!("{fact}"),
    }
}

#[test]
fn hostile_images() {
    let directory = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/evil/images/generate.py");
    let status =
        std::process::Command::new("python3").arg("-B").arg(script).arg(directory.path()).stdout(std::process::Stdio::null()).status();
    assert!(status.unwrap().success());
    let cases: Vec<Case> = serde_json::from_str(&text(directory.path().join("expect.json"))).unwrap();
    let faults: Vec<String> =
        cases.iter().filter_map(|case| case.fault(directory.path()).map(|fault| format!("{}: {fault}", case.name))).collect();
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
}
