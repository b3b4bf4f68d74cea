//! Where a component may connect to: the app's `allowed_outbound_hosts` (features.md H63-H67) and, on top
//! of it, the operator's blocked networks (H69). Pure: names are resolved by whoever asks.
//!
//! Laws: what no rule allows is refused; `allows` comes before the name is resolved and `admit` after it,
//! and only addresses that `admit` returned are connected to; an IPv4 address inside an IPv6 one is judged
//! as IPv4. Templates are filled in by the control plane, so a brace here is an error.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;

use crate::error::Error;

const ALLOW_ALL: &str = "insecure:allow-all";

/// `block_networks = ["private"]`: not globally reachable, or a cloud's metadata service.
const PRIVATE: [&str; 22] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32", // Azure's, the one metadata address in a public range
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "64:ff9b:1::/48",
    "100::/64",
    "2001:db8::/32",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// One component's rules and the operator's; lives as long as the app.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    blocked: Vec<IpNet>,
}

#[derive(Debug)]
struct Rule {
    /// None is `*`.
    scheme: Option<String>,
    host: Host,
    /// Ends are exclusive, and 65536 is one of them.
    ports: Range<u32>,
}

#[derive(Debug)]
enum Host {
    Any,
    /// With the dot in front.
    Below(String),
    Exact(String),
    Network(IpNet),
    /// The app's own listener (H29).
    Own,
}

impl Policy {
    /// Rules as the app's manifest has them; networks as CIDRs, or `private`.
    pub fn parse(allowed: &[String], block_networks: &[String]) -> Result<Self, Error> {
        let given = allowed.iter().map(|entry| entry.trim());
        let rules = given.filter(|entry| !["", "http://", "https://"].contains(entry));
        Ok(Self {
            rules: rules.map(Rule::parse).collect::<Result<_, _>>()?,
            blocked: networks(block_networks)?,
        })
    }

    /// For a relative URL, ask for host `self.alt`; for a socket, for scheme `tcp` or `udp` (H68).
    #[must_use]
    pub fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = bare(host).to_ascii_lowercase();
        self.rules.iter().any(|rule| rule.matches(scheme, &host, port))
    }

    /// What may be connected to of the addresses that a name resolved to; none left is a refusal.
    #[must_use]
    pub fn admit(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        addresses.into_iter().filter(|address| !self.blocks(address.ip())).collect()
    }

    fn blocks(&self, address: IpAddr) -> bool {
        let judged = innermost(address);
        self.blocked.iter().any(|net| net.contains(&judged) || net.contains(&address))
    }
}

impl Rule {
    fn parse(entry: &str) -> Result<Self, Error> {
        if entry == ALLOW_ALL {
            return Err(bad(entry, "write \"*://*:*\" to allow everything"));
        }
        let (scheme, rest) =
            entry.split_once("://").ok_or_else(|| bad(entry, "it has no scheme"))?;
        if scheme != "*" && !is_scheme(scheme) {
            return Err(bad(entry, "its scheme is neither '*' nor letters"));
        }
        let (host, port) = split_port(rest.strip_suffix('/').unwrap_or(rest));
        Ok(Self {
            scheme: (scheme != "*").then(|| scheme.to_ascii_lowercase()),
            host: Host::parse(host)
                .ok_or_else(|| bad(entry, "its host is not one, or has a path"))?,
            ports: ports(scheme, port).ok_or_else(|| {
                bad(entry, "its port is not a number, '*' or a range, or its scheme has no default")
            })?,
        })
    }

    fn matches(&self, scheme: &str, host: &str, port: u16) -> bool {
        let same_scheme =
            self.scheme.as_deref().is_none_or(|mine| mine.eq_ignore_ascii_case(scheme));
        same_scheme && self.ports.contains(&u32::from(port)) && self.host.matches(host)
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let text = bare(text).to_ascii_lowercase();
        if let Ok(net) = text.parse() {
            return Some(Self::Network(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network(address.into()));
        }
        match text.as_str() {
            "*" => Some(Self::Any),
            "self" | "self.alt" => Some(Self::Own),
            name if name.strip_prefix("*.").is_some_and(is_name) => {
                Some(Self::Below(name[1..].into()))
            }
            name => is_name(name).then(|| Self::Exact(name.into())),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            Self::Exact(name) => host == name,
            Self::Network(net) => host.parse().is_ok_and(|address: IpAddr| net.contains(&address)),
            Self::Own => host == "self" || host == "self.alt",
        }
    }
}

fn bad(entry: &str, why: &str) -> Error {
    Error::Plan(format!(
        "allowed_outbound_hosts: wanted <scheme>://<host>[:<port>], found {entry:?}: {why}"
    ))
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic())
}

fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && text.bytes().all(word)
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
}

/// A colon inside brackets belongs to the address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn ports(scheme: &str, port: Option<&str>) -> Option<Range<u32>> {
    let one = |port: u16| u32::from(port)..u32::from(port) + 1;
    match port {
        None => default_port(scheme).map(one),
        Some("*") => Some(0..65_536),
        Some(text) => match text.split_once("..") {
            None => text.parse().ok().map(one),
            Some((from, to)) => {
                let range =
                    u32::from(from.parse::<u16>().ok()?)..u32::from(to.parse::<u16>().ok()?);
                (!range.is_empty()).then_some(range)
            }
        },
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some(80),
        "https" => Some(443),
        "postgres" => Some(5432),
        "mysql" => Some(3306),
        "redis" => Some(6379),
        "mqtt" => Some(1883),
        _ => None,
    }
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, Error> {
    let each = texts.iter().flat_map(|text| match text.as_str() {
        "private" => PRIVATE.to_vec(),
        other => vec![other],
    });
    each.map(|text| {
        text.parse().map_err(|_| {
            Error::Plan(format!("block_networks: wanted a CIDR or \"private\", found {text:?}"))
        })
    })
    .collect()
}

/// The IPv4 address that an IPv6 one stands for: mapped (`::ffff:0:0/96`) or through NAT64 (`64:ff9b::/96`).
fn innermost(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let [.., a, b, c, d] = six.octets();
    if six.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return Ipv4Addr::new(a, b, c, d).into();
    }
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str], blocked: &[&str]) -> Result<Policy, Error> {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        Policy::parse(&owned(allowed), &owned(blocked))
    }

    fn allows(rule: &str, scheme: &str, host: &str, port: u16) -> bool {
        policy(&[rule], &[]).unwrap().allows(scheme, host, port)
    }

    fn admits(blocked: &str, address: &str) -> bool {
        let address = SocketAddr::new(address.parse().unwrap(), 80);
        !policy(&[], &[blocked]).unwrap().admit([address]).is_empty()
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert!(!Policy::default().allows("http", "example.com", 80));
        assert!(!policy(&["", "http://", " https:// "], &[]).unwrap().allows("http", "", 80));
    }

    #[test]
    fn scheme_host_and_port_must_all_match() {
        assert!(allows("https://Example.com", "HTTPS", "example.COM", 443));
        assert!(!allows("https://example.com", "http", "example.com", 443));
        assert!(!allows("https://example.com", "https", "example.com", 8443));
        assert!(!allows("https://example.com", "https", "example.com.evil.net", 443));
        assert!(allows("*://*:*", "redis", "anything", 1));
    }

    #[test]
    fn a_wildcard_matches_what_is_below_its_domain_only() {
        assert!(allows("http://*.example.com", "http", "a.b.example.com", 80));
        for host in ["example.com", ".example.com", "badexample.com"] {
            assert!(!allows("http://*.example.com", "http", host, 80), "{host}");
        }
        assert!(allows("http://*.spin.internal", "http", "api.spin.internal", 80));
    }

    #[test]
    fn addresses_and_networks_match_addresses_in_every_spelling() {
        assert!(allows("tcp://127.0.0.0/24:5000", "tcp", "127.0.0.9", 5000));
        assert!(!allows("tcp://127.0.0.0/24:5000", "tcp", "127.0.1.9", 5000));
        assert!(allows("http://[::1]:8080", "http", "[0:0::1]", 8080));
        assert!(allows("http://[fd00::/8]", "http", "fd00::7", 80));
        assert!(!allows("http://10.0.0.1", "http", "10.0.0.1.example.com", 80));
    }

    #[test]
    fn port_ranges_are_half_open_and_defaults_are_the_schemes() {
        assert!(allows("http://h:8000..9000", "http", "h", 8000));
        assert!(!allows("http://h:8000..9000", "http", "h", 9000));
        assert!(allows("tcp://h:*", "tcp", "h", 65_535));
        for (scheme, port) in [("postgres", 5432), ("mysql", 3306), ("redis", 6379), ("mqtt", 1883)]
        {
            assert!(allows(&format!("{scheme}://h"), scheme, "h", port));
        }
    }

    #[test]
    fn the_apps_own_listener_has_two_names() {
        for rule in ["http://self", "http://self.alt", "http://*"] {
            assert!(allows(rule, "http", "self.alt", 80), "{rule}");
        }
        assert!(!allows("http://example.com", "http", "self.alt", 80));
    }

    #[test]
    fn a_bad_rule_is_quoted_in_its_error() {
        for entry in [
            "insecure:allow-all",
            "example.com",
            "ht2p://h",
            "http://h/path",
            "http://h:80,81",
            "http://h:9..9",
            "http://h:70000",
            "tcp://h",
            "*://h",
            "http://{{ h }}",
            "http://a*b",
            "http://:80",
        ] {
            let message = policy(&[entry], &[]).unwrap_err().to_string();
            assert!(message.contains(entry), "{message}");
        }
    }

    #[test]
    fn blocked_networks_are_taken_out_of_what_a_name_resolved_to() {
        assert!(!admits("10.0.0.0/8", "10.1.2.3"));
        assert!(admits("10.0.0.0/8", "11.1.2.3"));
        for private in
            ["127.0.0.1", "169.254.169.254", "168.63.129.16", "::1", "::", "fd00:ec2::254"]
        {
            assert!(!admits("private", private), "{private}");
        }
        assert!(admits("private", "8.8.8.8") && admits("private", "2606:4700::1111"));
    }

    #[test]
    fn an_ipv4_address_cannot_hide_in_an_ipv6_one() {
        for hidden in ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1"] {
            assert!(!admits("10.0.0.0/8", hidden), "{hidden}");
        }
        assert!(admits("private", "64:ff9b::8.8.8.8"));
    }

    #[test]
    fn a_bad_network_is_quoted_in_its_error() {
        assert!(policy(&[], &["10.0.0.0/33"]).unwrap_err().to_string().contains("10.0.0.0/33"));
    }
}
