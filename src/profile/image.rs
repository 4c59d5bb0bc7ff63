//! `image`: which of the forms it is, and whether its characters can be right. What it leads to is looked at much later.

use std::path::Path;

use super::model::{ImageSource, Select};
use super::value::{Parsed, Wrong};

/// `path` turns the path of a local form into an absolute one.
pub fn image(text: &str, path: &dyn Fn(&str) -> Parsed<std::path::PathBuf>) -> Parsed<ImageSource> {
    if text == "host" {
        return Ok(ImageSource::Host);
    }
    let Some((prefix, rest)) = text.split_once(':') else { return registry(text) };
    if rest.is_empty() && matches!(prefix, "oci" | "oci-archive" | "docker-archive" | "tar" | "rootfs") {
        return Err(Wrong::new("names no path").hint(format!("image = \"{prefix}:./PATH\"")));
    }
    match prefix {
        "oci" => selected(rest).and_then(|(at, select)| Ok(ImageSource::OciDir { path: path(at)?, select })),
        "oci-archive" => selected(rest).and_then(|(at, select)| Ok(ImageSource::OciArchive { path: path(at)?, select })),
        "docker-archive" => match selected(rest)? {
            (_, Select::Digest(_)) => Err(Wrong::new("selects by digest, which a Docker archive does not have")),
            (at, select) => Ok(ImageSource::DockerArchive { path: path(at)?, select }),
        },
        "tar" => Ok(ImageSource::Tar { path: path(rest)? }),
        "rootfs" if matches!(Path::new(rest).components().as_path().as_os_str().as_encoded_bytes(), b"/") => {
            Err(Wrong::new("is the host's own root").hint("image = \"host\""))
        }
        "rootfs" => Ok(ImageSource::Rootfs { path: path(rest)? }),
        "docker" | "http" | "https" if rest.starts_with("//") => {
            Err(Wrong::new("is no image").hint(format!("without `{prefix}://`: image = \"{}\"", rest.trim_start_matches('/'))))
        }
        _ => registry(text),
    }
}

/// `PATH[:TAG|@DIGEST]`. The first colon ends the path, so that a tag can be a whole reference, as `docker save` writes it.
fn selected(text: &str) -> Parsed<(&str, Select)> {
    if let Some((path, digest)) = text.split_once('@') {
        check_digest(digest)?;
        return Ok((path, Select::Digest(digest.into())));
    }
    let Some((path, tag)) = text.split_once(':') else { return Ok((text, Select::Only)) };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':' | b'+');
    if tag.is_empty() || tag.len() > 512 || !tag.bytes().all(fits) {
        return Err(Wrong::new("has no tag after the colon that could be one").hint("`oci:DIR:TAG` or `oci:DIR@sha256:…`"));
    }
    Ok((path, Select::Tag(tag.into())))
}

fn check_digest(text: &str) -> Parsed<()> {
    let hex = |digits: &str, length| digits.len() == length && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let valid = match text.split_once(':') {
        Some(("sha256", digits)) => hex(digits, 64),
        Some(("sha512", digits)) => hex(digits, 128),
        _ => false,
    };
    if valid { Ok(()) } else { Err(Wrong::new("has no digest after the `@`").hint("`sha256:` and 64 lower-case hexadecimal digits")) }
}

/// `[HOST[:PORT]/]NAME[/NAME…][:TAG][@DIGEST]`
fn registry(text: &str) -> Parsed<ImageSource> {
    let wrong = |message: &str| Wrong::new(message).hint("write `docker.io/library/node:14`, `oci:DIR`, `rootfs:DIR` or `host`");
    if text.starts_with(['/', '.', '~']) {
        return Err(Wrong::new("is a path without its form")
            .hint(format!("`rootfs:{text}`, `oci:{text}`, `oci-archive:{text}`, `docker-archive:{text}` or `tar:{text}`")));
    }
    let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
    digest.map_or(Ok(()), check_digest)?;
    let (path, tag) = match named.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (named, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(wrong("has no tag after the colon that could be one"));
    }
    let (host, repository) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
        _ => (None, path),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return Err(wrong("names no registry that could be one"));
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Wrong::new("has upper-case letters in its name").hint(format!("image = \"{}\"", text.to_ascii_lowercase())));
    }
    if path.len() > 255 || !repository.split('/').all(is_repository) {
        return Err(wrong("is no image"));
    }
    Ok(ImageSource::Registry(text.into()))
}

fn is_tag(tag: &str) -> bool {
    let all = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    (1..=128).contains(&tag.len()) && all && !tag.starts_with(['.', '-'])
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let six = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let known = match six {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            super::value::hostname(name).is_ok() || name.len() <= 253 && name.split('.').all(|label| super::value::hostname(label).is_ok())
        }
    };
    known && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_repository(part: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all = part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    all && edge(part.bytes().next()) && edge(part.bytes().last()) && !part.contains("..") && !part.contains("___")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn parse(text: &str) -> Parsed<ImageSource> {
        image(text, &|path| Ok(PathBuf::from("/base").join(path)))
    }

    #[test]
    fn forms() {
        let hex = "a".repeat(64);
        let base = |path: &str| PathBuf::from("/base").join(path);
        for (text, expected) in [
            ("host", ImageSource::Host),
            ("oci:./x", ImageSource::OciDir { path: base("./x"), select: Select::Only }),
            ("oci:x:v1", ImageSource::OciDir { path: base("x"), select: Select::Tag("v1".into()) }),
            (&format!("oci:x@sha256:{hex}"), ImageSource::OciDir { path: base("x"), select: Select::Digest(format!("sha256:{hex}")) }),
            (
                "docker-archive:x.tar:docker.io/a/b:1",
                ImageSource::DockerArchive { path: base("x.tar"), select: Select::Tag("docker.io/a/b:1".into()) },
            ),
            ("tar:/x.tar", ImageSource::Tar { path: "/x.tar".into() }),
            ("rootfs:x", ImageSource::Rootfs { path: base("x") }),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn references() {
        let hex = "0".repeat(64);
        for text in [
            "node",
            "node:14",
            "docker.io/library/node:14",
            "localhost:5000/a/b",
            "[::1]:5000/a:b",
            "ghcr.io/a/b__c.d-e--f",
            &format!("a@sha256:{hex}"),
            &format!("a:b@sha256:{hex}"),
        ] {
            assert_eq!(parse(text), Ok(ImageSource::Registry(text.into())), "{text}");
        }
        for text in [
            "",
            "Node",
            "no de",
            "node:",
            "node:-x",
            "/etc",
            "./x",
            "../x",
            "~/x",
            "a//b",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "docker://node",
            "https://x/y",
            "oci:",
            "rootfs:",
            "rootfs:/",
            "rootfs://",
            "oci:x:",
            "oci:x@sha256:1",
            "docker-archive:x@sha256:1",
            "a@sha256:XYZ",
            "a@b",
            "reg:99999/a",
            "host\n",
            "a\0b",
            "ä",
            "localhost:0/a",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"a".repeat(300)).is_err());
    }
}
