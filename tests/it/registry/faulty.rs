//! A small registry of one image, which does what a test tells it to do wrong.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::images;

/// What came in.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The byte that a `Range` begins with.
    pub fn from(&self) -> usize {
        self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0)
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// What goes out.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes after which the connection is cut, whatever the length says.
    pub cut: Option<usize>,
    /// The connection is closed without any answer.
    pub hangs_up: bool,
    /// Wait before each of many small pieces.
    pub drip: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, hangs_up: false, drip: None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Looks at a request before the registry does; `None`: let it do what is right. The number counts requests of the same path from 0.
pub type Rule = dyn Fn(&Asked, usize) -> Option<Reply> + Send + Sync;

/// The image, by path.
pub type Content = HashMap<String, (String, Vec<u8>)>;

/// The registry; it ends with the test.
pub struct Faulty {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
}

impl Faulty {
    /// Serves the test image `image` as `x:v1`, but for what `rule` does.
    pub fn serve(image: &str, rule: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::serve_content(content(image), rule)
    }

    pub fn serve_content(content: Content, rule: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("address").port();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (content, rule): (Arc<Content>, Arc<Rule>) = (Arc::new(content), Arc::new(rule));
        let (all, end) = (Arc::clone(&asked), Arc::clone(&stop));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (content, rule, all) = (Arc::clone(&content), Arc::clone(&rule), Arc::clone(&all));
                std::thread::spawn(move || {
                    // Ignoring: a client that went away is what some tests are about.
                    let _ = answer(connection, &content, &*rule, &all);
                });
            }
        });
        Self { port, asked, stop }
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn reference(&self) -> String {
        format!("{}/x:v1", self.host())
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("asked").clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// The documents and blobs of a layout, by path of the repository `x`.
pub fn content(image: &str) -> Content {
    let directory = images().join(image);
    let index: Value = serde_json::from_slice(&fs::read(directory.join("index.json")).expect("index")).expect("index");
    let mut content = Content::new();
    for entry in fs::read_dir(directory.join("blobs/sha256")).expect("blobs").flatten() {
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        let bytes = fs::read(entry.path()).expect("blob");
        // What has a media type of its own is a document that others refer to.
        let kind = serde_json::from_slice::<Value>(&bytes).ok().and_then(|value| value["mediaType"].as_str().map(str::to_owned));
        if let Some(kind) = kind.filter(|kind| kind.contains("index") || kind.contains("manifest")) {
            content.insert(format!("/v2/x/manifests/{digest}"), (kind, bytes.clone()));
        }
        content.insert(format!("/v2/x/blobs/{digest}"), ("application/octet-stream".into(), bytes));
    }
    let descriptor = &index["manifests"][0];
    let (digest, kind) = (descriptor["digest"].as_str().expect("digest"), descriptor["mediaType"].as_str().expect("type"));
    let bytes = content[&format!("/v2/x/blobs/{digest}")].1.clone();
    for name in ["v1", digest] {
        content.insert(format!("/v2/x/manifests/{name}"), (kind.to_owned(), bytes.clone()));
    }
    content
}

/// The path of the image's largest layer, and its bytes.
pub fn largest(content: &Content) -> (String, Vec<u8>) {
    let (path, (_, bytes)) = content.iter().max_by_key(|(_, (_, bytes))| bytes.len()).expect("a blob");
    (path.clone(), bytes.clone())
}

fn answer(mut connection: TcpStream, content: &Content, rule: &Rule, all: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    connection.set_write_timeout(Some(Duration::from_secs(60)))?;
    let asked = read(&connection)?;
    let before = {
        let mut all = all.lock().expect("asked");
        let before = all.iter().filter(|one| one.path == asked.path).count();
        all.push(asked.clone());
        before
    };
    let reply = rule(&asked, before).unwrap_or_else(|| right(&asked, content));
    if reply.hangs_up {
        return connection.shutdown(Shutdown::Both);
    }
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    connection.write_all(format!("{head}\r\n").as_bytes())?;
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    if asked.method != "HEAD" {
        match reply.drip {
            None => connection.write_all(body)?,
            Some(wait) => {
                for piece in body.chunks(16) {
                    std::thread::sleep(wait);
                    connection.write_all(piece)?;
                }
            }
        }
    }
    connection.flush()?;
    connection.shutdown(Shutdown::Both)
}

fn read(connection: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: HashMap<String, String> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    std::io::Read::read_exact(&mut reader, &mut body)?;
    Ok(Asked { method, path, headers, body })
}

/// What a registry that is in order would say.
pub fn right(asked: &Asked, content: &Content) -> Reply {
    if asked.path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let Some((kind, bytes)) = content.get(&asked.path) else {
        return Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
    };
    let from = asked.from();
    let reply = Reply::new(if from > 0 { 206 } else { 200 }, &bytes[from.min(bytes.len())..]).header("content-type", kind.clone());
    match from {
        0 => reply,
        _ => reply.header("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
    }
}
