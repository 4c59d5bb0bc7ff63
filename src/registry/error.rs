//! Why a registry did not do what it was asked.

use std::path::PathBuf;
use std::time::Duration;

use crate::image;

/// A failure, with the host and the step that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer: no address, no connection, no certificate that is trusted, or a connection that broke.
    #[error("{host}: cannot {step}")]
    Transport { host: String, step: String, source: ureq::Error },
    /// An answer with another status than the step has.
    #[error("{host}: cannot {step}: status {status}{}", .told.as_ref().map(|told| format!(" ({told})")).unwrap_or_default())]
    Status { host: String, step: String, status: u16, told: Option<String>, registry: String },
    /// An answer that breaks the rules, or that hamper does not follow.
    #[error("{host}: cannot {step}: {reason}")]
    Refused { host: String, step: String, reason: String },
    /// A body that broke off or stood still again and again.
    #[error("{host}: cannot {step}: gave up after {tries} tries at byte {at} of {size}")]
    Cut { host: String, step: String, tries: u32, at: u64, size: u64, source: std::io::Error },
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

impl Error {
    pub(crate) fn refused(host: &str, step: &str, reason: impl Into<String>) -> Self {
        Self::Refused { host: host.to_owned(), step: step.to_owned(), reason: reason.into() }
    }

    /// What the caller can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Transport { source, host, .. } => transport_hint(source, host),
            Self::Status { status: 401 | 403, registry, .. } => {
                Some(format!("check the name of the image; if it is not public: hamper login {registry}"))
            }
            Self::Status { status: 404, .. } => Some("check the image's name and tag: there is none of that name".to_owned()),
            Self::Status { status: 400, host, .. } => Some(format!(
                "if the registry speaks TLS on this port, say so in registries.toml: [registries.\"{host}\"] insecure = false"
            )),
            Self::Status { status: 429, registry, .. } => {
                Some(format!("wait a while; or log in, for a larger share: hamper login {registry}"))
            }
            Self::Status { status: 500.., .. } => Some("the registry has trouble: try again later".to_owned()),
            Self::Busy { .. } => Some("wait as long, and pull again: what has come stays".to_owned()),
            Self::Lost { .. } => Some("look at the network, and push again: blobs that have arrived whole stay".to_owned()),
            Self::Cut { .. } => Some("look at the network, and pull again: layers that have come stay".to_owned()),
            _ => None,
        }
    }
}

fn transport_hint(error: &ureq::Error, host: &str) -> Option<String> {
    // The TLS of a connection tells its failures as those of reading and writing.
    let tls = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    };
    Some(match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("if the registry speaks plain HTTP, say so in registries.toml: [registries.\"{host}\"] insecure = true")
        }
        Some(_) => format!(
            "if the registry's certificate is of a CA of your own, name it in registries.toml: [registries.\"{host}\"] ca = \"/path/to/ca.pem\""
        ),
        None => "check the registry's name and port and the network; a proxy is taken from HTTPS_PROXY".to_owned(),
    })
}

impl From<Error> for image::Error {
    fn from(error: Error) -> Self {
        let hint = error.hint();
        let words = error.to_string();
        let source = std::error::Error::source(&error).map(|cause| Box::from(image::chain(cause)));
        Self::Remote { words, hint, source }
    }
}
