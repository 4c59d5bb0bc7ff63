//! From a registry's name to where it is asked, and how.

use std::net::IpAddr;

use super::settings::{Mirror, Settings};

/// Where Docker Hub's registry is; its name in references is of another host.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One place that has a repository.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The registry's name, by which settings and credentials are found: `docker.io`.
    pub registry: String,
    /// Where requests go: `registry-1.docker.io`, `localhost:5000`.
    pub authority: String,
    /// What stands before the repository's name, with a slash at its end where it is not empty.
    pub prefix: String,
    pub plain: bool,
    /// There is another one to ask.
    pub is_mirror: bool,
}

impl Endpoint {
    pub fn of(registry: &str, settings: &Settings) -> Self {
        let own = settings.registry(registry);
        let authority = if registry == "docker.io" { DOCKER_HUB } else { registry };
        let plain = own.insecure.unwrap_or(is_loopback(authority) && own.ca.is_none());
        Self { registry: registry.to_owned(), authority: authority.to_owned(), prefix: String::new(), plain, is_mirror: false }
    }

    /// The mirrors of `registry`, then the registry itself.
    pub fn all(registry: &str, settings: &Settings) -> Vec<Self> {
        let mirror = |mirror: Mirror| Self { prefix: mirror.prefix, is_mirror: true, ..Self::of(&mirror.host, settings) };
        settings.registry(registry).mirrors.into_iter().map(mirror).chain([Self::of(registry, settings)]).collect()
    }

    /// `https://HOST`, without a slash at its end.
    pub fn base(&self) -> String {
        format!("{}://{}", if self.plain { "http" } else { "https" }, self.authority)
    }
}

/// Whether a `HOST[:PORT]` is this machine itself, where nobody listens in on plain HTTP.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of a `HOST[:PORT]`, an IPv6 address without its brackets.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        // Without brackets, as `NO_PROXY` has them, there is no port.
        None if authority.parse::<std::net::Ipv6Addr>().is_ok() => authority,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// Whether `NO_PROXY` names the host: `*`, a name with everything below it, an address, a network.
pub(crate) fn bypasses_proxy(authority: &str, list: &str) -> bool {
    let host = host_of(authority).to_ascii_lowercase();
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let name = host_of(entry.trim_start_matches("*.").trim_start_matches('.')).to_owned();
        entry == "*" || host == name || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.')) || in_network(&host, &entry)
    })
}

fn in_network(host: &str, network: &str) -> bool {
    let Some((address, bits)) = network.split_once('/') else { return false };
    let as_number = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    match (host.parse().map(as_number), address.parse().map(as_number), bits.parse::<u32>()) {
        (Ok((host, width)), Ok((network, other)), Ok(bits)) if width == other && bits <= width => {
            let shift = 128 - bits;
            shift == 128 || host >> shift == network >> shift
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback() {
        for (host, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("::1", true),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
            ("10.0.0.1:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(Endpoint::of(host, &Settings::default()).plain, plain, "{host}");
        }
        assert_eq!(Endpoint::of("docker.io", &Settings::default()).base(), "https://registry-1.docker.io");
    }

    #[test]
    fn no_proxy_is_read_as_curl_and_go_do() {
        for (host, list, wanted) in [
            ("a.example.org:443", "example.org", true),
            ("example.org", ".example.org", true),
            ("notexample.org", "example.org", false),
            ("a.b", "*", true),
            ("a.b", "", false),
            ("10.1.2.3:5000", "10.0.0.0/8, x", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("[fd00::1]:80", "fd00::/8", true),
            ("[fd00::1]:80", "fd00::1", true),
            ("[fd00::1]:80", "[fd00::1]:80", true),
            ("[fd00::2]", "fd00::1", false),
        ] {
            assert_eq!(bypasses_proxy(host, list), wanted, "{host} by {list}");
        }
    }
}
