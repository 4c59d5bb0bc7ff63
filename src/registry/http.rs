//! One request and its answer: connections, proxies, trusted certificates, redirects.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Method, Request, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use super::hosts::{self, Endpoint, host_of, is_loopback};
use super::settings::Settings;
use super::{Error, roots};

/// Redirects in a row: registries send to a store of blobs, and that to another place at most.
const MAX_REDIRECTS: usize = 5;
/// A connection must be there within this, whatever the address.
const CONNECT: Duration = Duration::from_secs(20);
/// A stream that brings less is as good as none; see [`Paced`].
const LEAST_RATE: u64 = 1 << 10;

/// A request, as it may be sent again.
#[derive(Clone)]
pub(crate) struct Call<'c> {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    /// Sent to the host of `url` alone.
    pub authorization: Option<String>,
    pub body: &'c [u8],
    /// What is done, for messages: `fetch layer …`.
    pub step: &'c str,
    /// Not tried again: whoever sends it must know first what has arrived.
    pub once: bool,
}

impl<'c> Call<'c> {
    pub fn new(method: Method, url: String, step: &'c str) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, body: &[], step, once: false }
    }
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
    /// Who answered, after all redirects.
    pub host: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn reader(self, stall: Duration) -> Paced {
        Paced { inner: Box::new(self.body.into_reader()), stall, waited: Duration::ZERO, came: 0 }
    }

    /// The whole body; `None`: it is larger than `limit`.
    pub fn read(self, limit: u64, stall: Duration) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.reader(stall).take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 <= limit).then_some(bytes))
    }
}

/// A body that must bring something: each read ends within the stall timeout, and a sender that drips is given up too. Only time spent
/// waiting counts, not what the reader needs between two reads.
pub(crate) struct Paced {
    inner: Box<dyn Read + Send>,
    stall: Duration,
    waited: Duration,
    came: u64,
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begin = Instant::now();
        let count = self.inner.read(buffer)?;
        self.waited += begin.elapsed();
        self.came += count as u64;
        if count > 0 && self.waited >= self.stall {
            if self.came < LEAST_RATE * self.stall.as_secs() {
                let words = format!("less than 1 KiB/s came for {} s", self.stall.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}

/// Connections that are kept, by how they must be made.
pub(crate) struct Http {
    settings: Arc<Settings>,
    agents: Mutex<HashMap<AgentKey, Agent>>,
}

/// Two processes must not speak on one connection: a load goes on in a child.
type AgentKey = (u32, String);

impl Http {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, agents: Mutex::default() }
    }

    /// Sends the call and follows redirects.
    ///
    /// The authorization, and everything else that `headers` has but ranges and types, stays with the first host, and is not taken up again
    /// when a redirect leads back. What was asked by TLS is never asked in plain, but for loopback.
    pub fn send(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let mut url = call.url.clone();
        let mut authorization = call.authorization.as_deref();
        for _ in 0..=MAX_REDIRECTS {
            let uri: Uri = url.parse().map_err(|_| Error::refused(host_of(&url), call.step, "the address is malformed"))?;
            let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
            let mut request = Request::builder().method(call.method.clone()).uri(uri.clone());
            for (name, value) in &call.headers {
                request = request.header(*name, value);
            }
            // Bytes are counted and hashed as they are; nothing on the way may pack them.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let agent = self.agent(&uri, &authority)?;
            let proxy = agent.config().proxy().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
            let transport =
                |source| Error::Transport { host: authority.clone(), step: call.step.to_owned(), proxy, source: Box::new(source) };
            let response = if is_without_body(&call.method) {
                request.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request))
            } else {
                request.body(call.body).map_err(ureq::Error::from).and_then(|request| agent.run(request))
            };
            let response = response.map_err(transport)?;
            let status = response.status().as_u16();
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let follows = matches!(status, 301 | 302 | 303 | 307 | 308) && is_without_body(&call.method);
            let Some(location) = location.filter(|_| follows) else {
                let (parts, body) = response.into_parts();
                return Ok(Answer { status, headers: parts.headers, body, host: authority });
            };
            let next = resolve(&url, location).ok_or_else(|| Error::refused(&authority, call.step, "it redirects to no address"))?;
            let next_authority = authority_of(&next).to_owned();
            if url.starts_with("https:") && !next.starts_with("https:") && !is_loopback(&next_authority) {
                return Err(Error::refused(&authority, call.step, "it redirects from TLS to plain HTTP"));
            }
            if next_authority != authority || scheme_of(&next) != scheme_of(&url) {
                authorization = None;
            }
            url = next;
        }
        Err(Error::refused(authority_of(&call.url), call.step, format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    fn agent(&self, uri: &Uri, authority: &str) -> Result<Agent, Error> {
        let tls = uri.scheme_str() == Some("https");
        let variables = &self.settings.variables;
        let bypass = is_loopback(authority) || variables.no_proxy.as_ref().is_some_and(|list| hosts::bypasses_proxy(authority, list));
        let proxy = if tls { &variables.https_proxy } else { &variables.http_proxy };
        let proxy = proxy.as_ref().filter(|_| !bypass);
        // Only where it is trusted does a registry's own CA count.
        let key = (std::process::id(), format!("{tls} {} {}", authority, proxy.map_or("", String::as_str)));
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = proxy
            .map(|text| Proxy::new(text))
            .transpose()
            .map_err(|error| Error::Setting { name: "the proxy of the environment".into(), reason: error.to_string() })?;
        let stall = self.settings.stall_timeout();
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .user_agent(concat!("hamper/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall))
            // Up to the end of the headers; the body has its own pace.
            .timeout_recv_response(Some(stall.saturating_mul(2)))
            .max_response_header_size(64 << 10)
            .max_idle_age(Duration::from_secs(10));
        if tls {
            let ca = self.certificate_file(authority);
            let certificates = roots::trusted(&self.settings, authority, ca.as_deref())?;
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::from(certificates))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
            config = config.tls_config(tls.build());
        }
        let agent: Agent = config.build().into();
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    fn certificate_file(&self, authority: &str) -> Option<std::path::PathBuf> {
        let registry = if authority == Endpoint::of("docker.io", &self.settings).authority { "docker.io" } else { authority };
        self.settings.registry(registry).ca
    }
}

fn is_without_body(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

fn scheme_of(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

pub(crate) fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The address that a `Location` means, seen from `base`; only HTTP, and no user in it. RFC 3986 section 5.2, without dot segments.
pub(crate) fn resolve(base: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = scheme_of(base);
    // A colon before the first slash ends a scheme, in any case; behind it, it may be part of anything.
    let own = location.split(['/', '?']).next().and_then(|start| start.split_once(':'));
    let url = if let Some((own, _)) = own {
        let own = own.to_ascii_lowercase();
        let rest = location[own.len()..].strip_prefix("://").filter(|_| own == "http" || own == "https")?;
        format!("{own}://{rest}")
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", authority_of(base))
    } else {
        let path = base.split(['?', '#']).next().unwrap_or_default();
        let end = path.rfind('/').filter(|end| *end > scheme.len() + 2)?;
        format!("{}/{location}", &path[..end])
    };
    let authority = authority_of(&url);
    (!authority.is_empty() && !authority.contains('@')).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_what_was_asked() {
        let base = "https://a.example:5000/v2/x/blobs/uploads/?n=1";
        for (location, wanted) in [
            ("https://b.example/y?z=1#f", Some("https://b.example/y?z=1")),
            ("//b.example/y", Some("https://b.example/y")),
            ("/v2/y", Some("https://a.example:5000/v2/y")),
            ("y?z", Some("https://a.example:5000/v2/x/blobs/uploads/y?z")),
            ("/v2/y?from=https://cdn.example/z", Some("https://a.example:5000/v2/y?from=https://cdn.example/z")),
            ("HTTP://b.example/y", Some("http://b.example/y")),
            ("HtTpS://b.example/y", Some("https://b.example/y")),
            ("ftp://b.example/", None),
            ("https:/b.example/y", None),
            ("mailto:x", None),
            ("https://user@b.example/", None),
            ("https:///x", None),
        ] {
            assert_eq!(resolve(base, location).as_deref(), wanted, "{location}");
        }
    }
}
