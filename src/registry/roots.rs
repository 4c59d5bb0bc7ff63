//! The certificates that are trusted: the system's, and those that a registry has of its own.

use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, parse_pem};

use super::Error;
use super::settings::{Settings, failed, read_bounded};

/// Where distributions keep the bundle; the first one that is there is taken. The list is that of Go's `crypto/x509`.
const BUNDLES: [&str; 8] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
];

/// The largest bundles in use have half a megabyte.
const MAX_BUNDLE: u64 = 16 << 20;

/// Everything that is trusted for the registry `authority`, whose own CA file is `ca`.
///
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` stand in place of the system's bundle, as with OpenSSL and Go; a registry's own are added to
/// either, from `ca` and from `certs.d/HOST` of containers and Docker.
///
/// # Errors
/// [`Error::File`]: a file that was named cannot be read or has no certificate.
pub(crate) fn trusted(settings: &Settings, authority: &str, ca: Option<&Path>) -> Result<Vec<Certificate<'static>>, Error> {
    let variables = &settings.variables;
    let mut found = Vec::new();
    if let Some(path) = &variables.ssl_cert_file {
        found.extend(named(path)?);
    }
    for directory in variables.ssl_cert_dir.iter().flat_map(std::env::split_paths) {
        found.extend(directory_of(&directory, |_| true));
    }
    if variables.ssl_cert_file.is_none() && variables.ssl_cert_dir.is_none() {
        found.extend(
            BUNDLES.iter().find_map(|path| read_bounded(Path::new(path), MAX_BUNDLE).ok()).iter().flat_map(|bytes| certificates(bytes)),
        );
    }
    if let Some(path) = ca {
        found.extend(named(path)?);
    }
    let own = variables.config.iter().map(|config| config.join("containers"));
    for base in own.chain([PathBuf::from("/etc/containers"), PathBuf::from("/etc/docker")]) {
        found.extend(directory_of(&base.join("certs.d").join(authority), |path| path.extension().is_some_and(|end| end == "crt")));
    }
    Ok(found)
}

/// A file that the user has named: it must be good.
fn named(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let bytes = read_bounded(path, MAX_BUNDLE).map_err(|error| failed(path, error))?;
    let found = certificates(&bytes);
    if found.is_empty() { Err(failed(path, "it has no certificate in PEM form")) } else { Ok(found) }
}

/// What is there; a directory may hold links to nothing.
fn directory_of(path: &Path, good: impl Fn(&Path) -> bool) -> Vec<Certificate<'static>> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| good(path));
    entries.filter_map(|path| read_bounded(&path, MAX_BUNDLE).ok()).flat_map(|bytes| certificates(&bytes)).collect()
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    parse_pem(pem).filter_map(certificate).collect()
}
