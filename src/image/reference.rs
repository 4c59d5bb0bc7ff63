//! Image references: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, with Docker's defaults.

use std::fmt;
use std::str::FromStr;

use super::{Digest, Error, shown};

/// The most that registries accept for a repository name.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A reference with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `docker.io`, `registry.example.org:5000`.
    pub registry: String,
    /// `library/node`.
    pub repository: String,
    /// `latest` where neither tag nor digest is given.
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadReference { text: shown(text.as_bytes()), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon behind the last slash is a tag's; one before it a port's.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].split_once(':') {
            Some((last, tag)) => (&rest[..name_end + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            is_tag(tag).then_some(()).ok_or_else(|| bad("the tag has other characters than A-Z a-z 0-9 _ . -, or starts with . or -"))?;
        }
        let (registry, path) = split_registry(name);
        if registry.is_empty() || !is_host(registry) {
            return Err(bad("the registry is not a host name with an optional port"));
        }
        let official = registry.eq_ignore_ascii_case("docker.io") && !path.contains('/');
        let repository = if official { format!("library/{path}") } else { path.to_owned() };
        if repository.len() > MAX_NAME || !repository.split('/').all(is_component) {
            return Err(bad("the name must be lower-case words of a-z 0-9, joined by / . _ or -"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        // A host's name is the same in any case; one that only its capitals tell from a name on Docker Hub keeps them.
        let registry = if registry.contains(['.', ':']) { registry.to_ascii_lowercase() } else { registry.to_owned() };
        Ok(Self { registry, repository, tag, digest })
    }
}

/// Docker's rule: the first part is a host if it has a dot or a colon, or is `localhost`; everything else is on Docker Hub.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((host, path)) if host.eq_ignore_ascii_case("index.docker.io") => ("docker.io", path),
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|b| b.is_ascii_uppercase()) => {
            (host, path)
        }
        _ => ("docker.io", name),
    }
}

/// Whether a text is a `HOST[:PORT]`.
pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("v6", port.strip_prefix(':').or(none_if_empty(port)))
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// No port at all is fine; a rest that is no port becomes one that does not parse.
fn none_if_empty(rest: &str) -> Option<&str> {
    (!rest.is_empty()).then_some("x")
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG && tag.bytes().next().is_some_and(word) && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// `[a-z0-9]+((.|_|__|-+)[a-z0-9]+)*`
pub(crate) fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && bytes
        .split(alphanumeric)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_dockers_defaults() {
        let digest = Digest::of(b"");
        for (text, full) in [
            ("node", "docker.io/library/node:latest"),
            ("node:14", "docker.io/library/node:14"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("docker.io/node", "docker.io/library/node:latest"),
            ("index.docker.io/node", "docker.io/library/node:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/a/b:v1.2_3-4", "localhost:5000/a/b:v1.2_3-4"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("quay.io/a/b__c/d--e", "quay.io/a/b__c/d--e:latest"),
            ("Docker.io/node", "docker.io/library/node:latest"),
            ("Registry.Example.org:5000/a:V1", "registry.example.org:5000/a:V1"),
            ("Lab/a", "Lab/a:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full);
        }
        let pinned: Reference = format!("quay.io/a/b@{digest}").parse().unwrap();
        assert_eq!((pinned.tag, pinned.digest), (None, Some(digest)));
    }

    #[test]
    fn refuses_what_registries_refuse() {
        for text in [
            "",
            "Node",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a@sha256:12",
            "-a.io/x",
            "a.io:99999/x",
            "a.io:+1/x",
            "a b",
            "a/../b",
            "a._b",
            "a___b",
            "a\n",
            "ä",
            "[::1]x/a",
            "[zz]:1/a",
            "a:b:c",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
