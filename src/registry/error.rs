//! Why a registry did not do what it was asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hosts::{host_of, is_loopback};
use crate::image;

/// A failure, with the host and the step that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer: no address, no connection, no certificate that is trusted, or a connection that broke. `proxy` is the one on the way, without
    /// its password.
    #[error("{host}: cannot {step}{}", .proxy.as_ref().map(|proxy| format!(" by the proxy {proxy}")).unwrap_or_default())]
    Transport { host: String, step: String, proxy: Option<String>, source: Box<ureq::Error> },
    /// An answer with another status than the step has.
    #[error("{host}: cannot {step}: status {status}{}", .told.as_ref().map(|told| format!(" ({told})")).unwrap_or_default())]
    Status { host: String, step: String, status: u16, told: Option<Box<str>>, registry: String, offered: Offered },
    /// An answer that breaks the rules, or that hamper does not follow.
    #[error("{host}: cannot {step}: {reason}")]
    Refused { host: String, step: String, reason: String },
    /// A body that broke off or stood still; with a number of tries where it did so again and again.
    #[error("{host}: cannot {step}: {} at byte {at} of {size}", gave_up(*.tries))]
    Cut { host: String, step: String, tries: Option<u32>, at: u64, size: u64, source: std::io::Error },
    /// An upload of which the registry knows nothing any more: it can only begin anew.
    #[error("{host}: cannot {step}: the registry has dropped the upload")]
    Lost { host: String, step: String, source: Box<Error> },
    /// A registry that wants to be asked again much later.
    #[error("{host}: cannot {step}: status {status}, and it asks for {} s of patience", .wait.as_secs())]
    Busy { host: String, step: String, status: u16, wait: Duration },
    /// A file about registries that cannot be used.
    #[error("cannot use `{}`", path.display())]
    File { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// A setting, or a variable of the environment, that cannot be meant.
    #[error("{name}: {reason}")]
    Setting { name: String, reason: String },
}

/// Which password a registry has refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Offered {
    #[default]
    Nothing,
    /// The one that somebody has just typed.
    Typed,
    /// One that is kept there.
    Kept(Box<str>),
}

impl Error {
    /// Says of a refusal what was refused.
    pub(crate) fn of(mut self, what: Offered) -> Self {
        if let Self::Status { status: 401 | 403, offered, .. } = &mut self {
            *offered = what;
        }
        self
    }

    pub(crate) fn refused(host: &str, step: &str, reason: impl Into<String>) -> Self {
        Self::Refused { host: host.to_owned(), step: step.to_owned(), reason: reason.into() }
    }

    /// What the caller can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Transport { source, host, proxy, .. } => transport_hint(source, host, proxy.as_deref()),
            Self::Status { status: 401 | 403, registry, offered: Offered::Typed, .. } => {
                format!("the name or the password is wrong; try again: hamper login {registry}")
            }
            Self::Status { status: 401, registry, offered: Offered::Kept(place), .. } => {
                format!("the password in {place} is refused; for another one: hamper logout {registry}; hamper login {registry}")
            }
            Self::Status { status: 403, registry, offered: Offered::Kept(place), .. } => format!(
                "check the name of the image; whoever is known in {place} may not have it, so perhaps as another: hamper logout {registry}; hamper login {registry}"
            ),
            Self::Status { status: 401 | 403, registry, .. } => {
                format!("check the name of the image; if it is not public: hamper login {registry}")
            }
            Self::Status { status: 404, .. } => "check the image's name and tag: there is none of that name".to_owned(),
            Self::Status { status: 400, host, .. } => {
                format!("if the registry speaks TLS on this port, say so in registries.toml: [registries.\"{host}\"] insecure = false")
            }
            Self::Status { status: 429, registry, .. } => {
                format!("wait a while; or log in, for a larger share: hamper login {registry}")
            }
            Self::Status { status: 500.., .. } => "the registry has trouble: try again later".to_owned(),
            Self::Status { host, .. } | Self::Refused { host, .. } => format!("see what answers there: {}", look(host)),
            Self::Busy { .. } => "wait as long, and try again: what has come stays".to_owned(),
            Self::Lost { .. } => "look at the network, and push again: blobs that have arrived whole stay".to_owned(),
            Self::Cut { .. } => "look at the network, and pull again: layers that have come stay".to_owned(),
            Self::File { path, source } => file_hint(path, &**source),
            Self::Setting { name, .. } if name.starts_with("docker-credential-") => {
                format!("try it: echo REGISTRY | {name} get; or take its name out of ~/.docker/config.json")
            }
            Self::Setting { name, .. } if name == "HOME" => "export HOME=/path/to/your/home".to_owned(),
            Self::Setting { .. } => "look at it: env | grep -i proxy".to_owned(),
        })
    }
}

fn gave_up(tries: Option<u32>) -> String {
    match tries {
        None => "it broke off".to_owned(),
        Some(1) => "gave up after 1 try".to_owned(),
        Some(tries) => format!("gave up after {tries} tries"),
    }
}

/// A line that shows what a host answers.
fn look(host: &str) -> String {
    format!("curl -v {}://{host}/v2/", if is_loopback(host) { "http" } else { "https" })
}

fn file_hint(path: &Path, source: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let kind = source.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::NotFound) => "a setting names it: look at registries.toml, and: env | grep SSL_CERT".to_owned(),
        Some(std::io::ErrorKind::PermissionDenied) => format!("ls -l '{}'", path.display()),
        Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
            format!("free some space there: df -h '{}'", path.parent().unwrap_or(path).display())
        }
        _ => format!("mend it, or take it away: mv '{0}' '{0}.old'", path.display()),
    }
}

fn transport_hint(error: &ureq::Error, host: &str, proxy: Option<&str>) -> String {
    // The TLS of a connection tells its failures as those of reading and writing.
    let tls = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    };
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("if the registry speaks plain HTTP, say so in registries.toml: [registries.\"{host}\"] insecure = true")
        }
        Some(_) => format!(
            "if the registry's certificate is of a CA of your own, name it in registries.toml: [registries.\"{host}\"] ca = \"/path/to/ca.pem\""
        ),
        None => match proxy {
            Some(proxy) => {
                let host = host_of(host);
                format!("look at the proxy {proxy}: env | grep -i proxy; to go without it: export NO_PROXY=\"$NO_PROXY,{host}\"")
            }
            None => format!("check the registry's name and port and the network: {}; a proxy is taken from HTTPS_PROXY", look(host)),
        },
    }
}

impl From<Error> for image::Error {
    fn from(error: Error) -> Self {
        let hint = error.hint();
        let words = error.to_string();
        let source = std::error::Error::source(&error).map(|cause| Box::from(image::chain(cause)));
        Self::Remote { words, hint, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever fails says which host, which step, which status, and ends in what can be done.
    #[test]
    fn every_failure_says_where_it_was_and_what_to_do() {
        let (host, step) = ("r.example:5000".to_owned(), "fetch manifest v1 of r.example:5000/x".to_owned());
        let transport = |source| Error::Transport { host: host.clone(), step: step.clone(), proxy: None, source: Box::new(source) };
        let by_proxy = |words: &str| Error::Transport {
            host: host.clone(),
            step: step.clone(),
            proxy: Some("proxy.example:3128".into()),
            source: Box::new(ureq::Error::ConnectProxyFailed(words.into())),
        };
        let status = |status| Error::Status {
            host: host.clone(),
            step: step.clone(),
            status,
            told: Some("DENIED: no".into()),
            registry: "r.example".into(),
            offered: Offered::Nothing,
        };
        let kept = || Offered::Kept("/c/auth.json".into());
        let tls = |error: rustls::Error| transport(ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, error)));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let wrong = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let cut = |tries| Error::Cut {
            host: host.clone(),
            step: step.clone(),
            tries,
            at: 5,
            size: 9,
            source: std::io::ErrorKind::TimedOut.into(),
        };
        let busy = Error::Busy { host: host.clone(), step: step.clone(), status: 429, wait: Duration::from_secs(3600) };
        let lost = Error::Lost { host: host.clone(), step: step.clone(), source: Box::new(status(404)) };
        for (error, words, hint) in [
            (transport(ureq::Error::Io(refused)), "connection refused", "curl -v https://r.example:5000/v2/"),
            (transport(ureq::Error::HostNotFound), "host not found", "HTTPS_PROXY"),
            (tls(wrong), "UnknownIssuer", "ca = \"/path/to/ca.pem\""),
            (tls(plain), "InvalidContentType", "insecure = true"),
            (status(400), "status 400", "insecure = false"),
            (status(401), "status 401 (DENIED: no)", "hamper login r.example"),
            (status(403), "status 403", "hamper login r.example"),
            (status(401).of(Offered::Typed), "status 401", "the name or the password is wrong"),
            (
                status(401).of(kept()),
                "status 401",
                "/c/auth.json is refused; for another one: hamper logout r.example; hamper login r.example",
            ),
            (status(403).of(kept()), "status 403", "/c/auth.json may not have it"),
            (by_proxy("407"), "by the proxy proxy.example:3128: CONNECT proxy failed: 407", "NO_PROXY=\"$NO_PROXY,r.example\""),
            (status(404), "status 404", "name and tag"),
            (status(418), "status 418", "curl -v https://r.example:5000/v2/"),
            (status(429), "status 429", "hamper login r.example"),
            (status(503), "status 503", "try again later"),
            (Error::refused(&host, &step, "it sends more"), "it sends more", "curl -v"),
            (cut(Some(7)), "gave up after 7 tries at byte 5 of 9", "pull again"),
            (cut(Some(1)), "gave up after 1 try at byte 5 of 9", "pull again"),
            (cut(None), "it broke off at byte 5 of 9", "pull again"),
            (busy, "status 429, and it asks for 3600 s", "wait as long"),
            (lost, "status 404", "push again"),
        ] {
            let told = image::chain(&error);
            for part in [&*host, &*step, words] {
                assert!(told.contains(part), "no {part:?} in {told}");
            }
            assert!(error.hint().is_some_and(|told| told.contains(hint)), "{told}: {:?}", error.hint());
        }
        let file = |source: Box<dyn std::error::Error + Send + Sync>| Error::File { path: "/c/registries.toml".into(), source };
        let setting = |name: &str| Error::Setting { name: name.into(), reason: "no".into() };
        for (error, word, hint) in [
            (file(Box::new(std::io::Error::from(std::io::ErrorKind::NotFound))), "/c/registries.toml", "grep SSL_CERT"),
            (
                file(Box::new(std::io::Error::from(std::io::ErrorKind::PermissionDenied))),
                "/c/registries.toml",
                "ls -l '/c/registries.toml'",
            ),
            (file("unknown key".into()), "unknown key", "mv '/c/registries.toml' '/c/registries.toml.old'"),
            (setting("docker-credential-x"), "docker-credential-x", "echo REGISTRY | docker-credential-x get"),
            (setting("HOME"), "HOME", "export HOME="),
            (setting("the proxy of the environment"), "proxy", "grep -i proxy"),
        ] {
            let told = image::chain(&error);
            assert!(told.contains(word), "{told}");
            assert!(error.hint().is_some_and(|told| told.contains(hint)), "{told}: {:?}", error.hint());
        }
    }
}
