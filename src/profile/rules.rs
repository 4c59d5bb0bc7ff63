//! Network rules and ports: their syntax, which the profile checks and the network room uses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::value::{Parsed, Wrong};

/// One of `allow` or `deny`: whom, and which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRule {
    pub peer: Peer,
    /// Absent: every port.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A host's name, lower case.
    Name(String),
    /// `*.example.net`, kept without the `*.`: every name below it, not the name itself.
    Below(String),
    /// An address, or all that share its first `prefix` bits.
    Network { address: IpAddr, prefix: u8 },
}

impl NetworkRule {
    /// `HOST[:PORT]`, `*.DOMAIN[:PORT]`, `ADDRESS[/BITS][:PORT]`; IPv6 in brackets where a port follows.
    pub fn parse(text: &str) -> Parsed<Self> {
        let wrong = || {
            Wrong::new("is no rule")
                .hint("\"packages.example.org:443\", \"*.example.net:80\", \"10.1.0.0/16:5432\" or \"[2001:db8::/32]:443\"")
        };
        if let Some((scheme, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            let port = match scheme {
                "https" => ":443",
                "http" => ":80",
                _ => "",
            };
            return Err(Wrong::new("is a URL, not a rule").hint(format!("\"{}{port}\"", super::finding::escape(host))));
        }
        let (peer, port) = split_port(text).ok_or_else(wrong)?;
        let port = port.map(parse_port).transpose()?;
        if let Some(network) = parse_network(peer) {
            return Ok(Self { peer: network?, port });
        }
        if peer == "*" {
            return Err(Wrong::new("would allow everything").hint("[network] mode = \"nat\""));
        }
        let (below, host) = peer.strip_prefix("*.").map_or((false, peer), |rest| (true, rest));
        // All digits and dots is an address that is none, never a name.
        let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if numeric || !is_domain(host) {
            return Err(wrong());
        }
        let host = host.to_ascii_lowercase();
        Ok(Self { peer: if below { Peer::Below(host) } else { Peer::Name(host) }, port })
    }
}

/// A DNS name: labels of at most 63 bytes, with `_`, which service names have; at most 253 in all.
fn is_domain(host: &str) -> bool {
    let label = |label: &str| {
        let all = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        (1..=63).contains(&label.len()) && all && !label.starts_with('-') && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Splits `[X]:PORT`, `[X]`, `X:PORT` and `X`, where an `X` with more than one colon is an IPv6 address without a port.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, after) = rest.split_once(']')?;
        return match after {
            "" => Some((inner, None)),
            _ => Some((inner, Some(after.strip_prefix(':')?))),
        };
    }
    match text.matches(':').count() {
        1 => text.split_once(':').map(|(peer, port)| (peer, Some(port))),
        _ => Some((text, None)),
    }
}

fn parse_port(text: &str) -> Parsed<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok().filter(|port| *port > 0) } else { None };
    number.ok_or_else(|| Wrong::new("has no port of 1 to 65535"))
}

/// `None`: this is no address at all.
fn parse_network(text: &str) -> Option<Parsed<Peer>> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let digits = |bits: &str| if bits.bytes().all(|byte| byte.is_ascii_digit()) { bits.parse().ok() } else { None };
    let prefix = match bits {
        None => widest,
        Some(bits) => match digits(bits).filter(|prefix| *prefix <= widest) {
            Some(prefix) => prefix,
            None => return Some(Err(Wrong::new(format!("has no prefix length of 0 to {widest} after the slash")))),
        },
    };
    let network = first_address(address, prefix);
    if network != address {
        return Some(Err(Wrong::new("has bits set beyond its prefix length").hint(format!("\"{network}/{prefix}\""))));
    }
    Some(Ok(Peer::Network { address, prefix }))
}

/// The address with all bits beyond the prefix cleared.
fn first_address(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(four) => IpAddr::V4((u32::from(four) & u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0)).into()),
        IpAddr::V6(six) => IpAddr::V6((u128::from(six) & u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0)).into()),
    }
}

/// One of `ports`: a port of the host that leads to one inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// Where the host listens; 127.0.0.1 unless written.
    pub address: IpAddr,
    pub host: u16,
    pub inside: u16,
    pub udp: bool,
}

impl PortMap {
    /// `[ADDRESS:]HOST:INSIDE[/udp]`, or one number for both.
    pub fn parse(text: &str) -> Parsed<Self> {
        let wrong = || Wrong::new("is no port").hint("\"3000:3000\", \"127.0.0.1:8080:80\", \"[::1]:8080:80\" or \"5353:53/udp\"");
        let (ports, udp) = match text.rsplit_once('/') {
            Some((ports, "udp")) => (ports, true),
            Some((ports, "tcp")) => (ports, false),
            Some(_) => return Err(wrong()),
            None => (text, false),
        };
        let (rest, inside) = ports.rsplit_once(':').map_or((None, ports), |(rest, inside)| (Some(rest), inside));
        let inside = parse_port(inside)?;
        let Some(rest) = rest else { return Ok(Self { address: Ipv4Addr::LOCALHOST.into(), host: inside, inside, udp }) };
        let (address, host) = rest.rsplit_once(':').map_or((None, rest), |(address, host)| (Some(address), host));
        let address = match address {
            None => Ipv4Addr::LOCALHOST.into(),
            Some(text) => parse_listen(text).ok_or_else(wrong)?,
        };
        Ok(Self { address, host: parse_port(host)?, inside, udp })
    }
}

impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, host, inside, udp } = self;
        match address {
            IpAddr::V4(four) => write!(f, "{four}:{host}:{inside}")?,
            IpAddr::V6(six) => write!(f, "[{six}]:{host}:{inside}")?,
        }
        if *udp { f.write_str("/udp") } else { Ok(()) }
    }
}

/// `1.2.3.4`, `[::1]` or `localhost`.
fn parse_listen(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6),
        None if text == "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let network = |address: &str, prefix| Peer::Network { address: address.parse().expect(address), prefix };
        for (text, peer, port) in [
            ("packages.example.org:443", Peer::Name("packages.example.org".into()), Some(443)),
            ("Example.ORG", Peer::Name("example.org".into()), None),
            ("*.example.net:80", Peer::Below("example.net".into()), Some(80)),
            ("10.1.0.0/16:5432", network("10.1.0.0", 16), Some(5432)),
            ("169.254.169.254", network("169.254.169.254", 32), None),
            ("0.0.0.0/0", network("0.0.0.0", 0), None),
            ("2001:db8::/32", network("2001:db8::", 32), None),
            ("[2001:db8::/32]:443", network("2001:db8::", 32), Some(443)),
            ("[::1]", network("::1", 128), None),
            ("::/0", network("::", 0), None),
        ] {
            assert_eq!(NetworkRule::parse(text), Ok(NetworkRule { peer, port }), "{text}");
        }
        for text in [
            "",
            "*",
            "*:443",
            "a.*.b",
            "*a.b",
            "a:0",
            "a:65536",
            "a:",
            ":80",
            "a:b",
            "10.1.0.5/16",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "1.2.3",
            "256.1.1.1",
            "https://x.org/",
            "a b",
            "a..b",
            "-a.b",
            "[::1",
            "[::1]x",
            "a/16",
            "a\n",
            "a.org.",
        ] {
            assert!(NetworkRule::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ports() {
        for (text, expected) in [
            ("3000", "127.0.0.1:3000:3000"),
            ("8080:80", "127.0.0.1:8080:80"),
            ("127.0.0.1:3000:3000", "127.0.0.1:3000:3000"),
            ("0.0.0.0:53:53/udp", "0.0.0.0:53:53/udp"),
            ("[::1]:80:80/tcp", "[::1]:80:80"),
            ("localhost:1:2", "127.0.0.1:1:2"),
        ] {
            assert_eq!(PortMap::parse(text).map(|port| port.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "65536",
            "a",
            "1:",
            ":1",
            "1:2:3",
            "::1:80:80",
            "1:2/sctp",
            "1.2.3.4:1",
            "x:1:2",
            "-1",
            "+1",
            "1:2:3:4",
            "[1.2.3.4]:1:2",
        ] {
            assert!(PortMap::parse(text).is_err(), "{text:?}");
        }
    }
}
