//! What a request's headers must be, and what Spin guests expect to find in them: pure.
//!
//! Laws (features.md H25-H27): the origin comes from Host and must not contradict the URI; `spin-*` is
//! ours alone, whatever the client sent; hop-by-hop headers end here.

use std::net::SocketAddr;

use http::header::{CONNECTION, Entry, HOST};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use crate::route::Match;

const OURS: &str = "spin-";

/// Names below this are for calls between components, which no outsider makes.
const INTERNAL_SUFFIX: &str = ".spin.internal";

/// Checks and cleans what the client sent, and makes the URI absolute.
///
/// `local` stands in for a Host that must not be believed.
pub fn sanitize(parts: &mut Parts, scheme: &Scheme, local: SocketAddr) -> Result<(), &'static str> {
    let authority = origin(parts)?;
    parts.headers.remove(CONNECTION);
    strip_ours(&mut parts.headers);
    let authority = if is_internal(&authority) {
        parts.headers.remove(HOST);
        Authority::try_from(local.to_string()).map_err(|_| "no local address")?
    } else {
        if let Entry::Vacant(missing) = parts.headers.entry(HOST)
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            missing.insert(host);
        }
        authority
    };
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::builder()
        .scheme(scheme.clone())
        .authority(authority)
        .path_and_query(path.unwrap_or(PathAndQuery::from_static("/")))
        .build()
        .map_err(|_| "the request target is not a path")?;
    Ok(())
}

fn origin(parts: &Parts) -> Result<Authority, &'static str> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let target = parts.uri.authority();
    let host = match (hosts.next(), hosts.next(), target) {
        (Some(host), None, _) => {
            Authority::try_from(host.as_bytes()).map_err(|_| "Host is no host")?
        }
        // HTTP/2 names the origin in the request target alone.
        (None, _, Some(target)) if parts.version == Version::HTTP_2 => target.clone(),
        (None, _, _) => return Err("no Host header"),
        (Some(_), Some(_), _) => return Err("two Host headers"),
    };
    if host.as_str().contains('@') {
        return Err("Host has user information");
    }
    match target {
        Some(target) if *target != host => Err("Host and request target disagree"),
        _ => Ok(host),
    }
}

fn is_internal(authority: &Authority) -> bool {
    authority.host().to_ascii_lowercase().ends_with(INTERNAL_SUFFIX)
}

fn strip_ours(headers: &mut HeaderMap) {
    let planted: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in planted {
        headers.remove(name);
    }
}

/// Adds what a Spin guest reads its route from. Call after [`sanitize`].
pub fn add_spin<T>(parts: &mut Parts, found: &Match<'_, '_, T>, client: SocketAddr) {
    let route = found.route;
    let full_url = parts.uri.to_string();
    let client = client.to_string();
    let headers = &mut parts.headers;
    let mut set = |name: HeaderName, value: &str| {
        // All values come out of a URI that was parsed, or out of the plan; one that cannot be a
        // header (a control character in a route) is left out rather than mangled.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(name, value);
        }
    };
    set(HeaderName::from_static("spin-path-info"), found.path_info);
    set(HeaderName::from_static("spin-full-url"), &full_url);
    set(HeaderName::from_static("spin-matched-route"), route.raw());
    set(HeaderName::from_static("spin-base-path"), "/");
    set(HeaderName::from_static("spin-raw-component-route"), route.raw());
    set(HeaderName::from_static("spin-component-route"), route.prefix());
    set(HeaderName::from_static("spin-client-addr"), &client);
    for (name, value) in found.captures() {
        let name = format!("spin-path-match-{}", name.replace('_', "-").to_ascii_lowercase());
        if let Ok(name) = HeaderName::try_from(name) {
            set(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Routes;
    use http::Request;

    fn local() -> SocketAddr {
        "10.0.0.1:80".parse().unwrap()
    }

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn sanitized(uri: &str, headers: &[(&str, &str)]) -> Result<Parts, &'static str> {
        let mut parts = parts(uri, headers);
        sanitize(&mut parts, &Scheme::HTTP, local()).map(|()| parts)
    }

    fn spin(route: &str, uri: &str, name: &str) -> Option<String> {
        let routes = Routes::new([(route, ())]).0;
        let mut parts = sanitized(uri, &[("host", "example.com")]).unwrap();
        let path = parts.uri.path().to_owned();
        let found = routes.find(&path).unwrap();
        add_spin(&mut parts, &found, "192.0.2.1:5000".parse().unwrap());
        parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_origin_is_the_host_header() {
        let parts = sanitized("/a?b=c", &[("host", "example.com:8080")]).unwrap();
        assert_eq!(parts.uri, "http://example.com:8080/a?b=c");
    }

    #[test]
    fn a_missing_doubled_or_contradicting_host_is_refused() {
        assert!(sanitized("/", &[]).is_err());
        assert!(sanitized("/", &[("host", "a"), ("host", "b")]).is_err());
        assert!(sanitized("/", &[("host", "a b")]).is_err());
        assert!(sanitized("/", &[("host", "u@a")]).is_err());
        assert!(sanitized("http://a/", &[("host", "b")]).is_err());
        assert!(sanitized("http://a/", &[("host", "a")]).is_ok());
    }

    /// HTTP/2 needs no Host, and guests find one all the same; TLS is seen in the scheme (H27, H3).
    #[test]
    fn the_authority_of_http2_stands_in_for_a_host() {
        let mut two = parts("http://example.com/a", &[]);
        two.version = Version::HTTP_2;
        sanitize(&mut two, &Scheme::HTTPS, local()).unwrap();
        assert_eq!(two.uri, "https://example.com/a");
        assert_eq!(two.headers[HOST], "example.com");
        let mut planted = parts("http://u@example.com/a", &[]);
        planted.version = Version::HTTP_2;
        assert!(sanitize(&mut planted, &Scheme::HTTP, local()).is_err());
    }

    #[test]
    fn an_internal_host_is_not_believed() {
        let parts = sanitized("/", &[("host", "Other.Spin.Internal")]).unwrap();
        assert_eq!(parts.uri, "http://10.0.0.1:80/");
        assert!(!parts.headers.contains_key(HOST));
    }

    #[test]
    fn hop_by_hop_and_planted_headers_end_here() {
        let planted =
            [("host", "a"), ("connection", "x"), ("spin-client-addr", "me"), ("Spin-Evil", "1")];
        let parts = sanitized("/", &planted).unwrap();
        assert_eq!(parts.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["host"]);
    }

    #[test]
    fn a_wildcard_route_is_told_in_all_its_parts() {
        let of = |name| spin("/api/...", "/api/x/y?q=1", name).unwrap();
        assert_eq!(of("spin-path-info"), "/x/y");
        assert_eq!(of("spin-full-url"), "http://example.com/api/x/y?q=1");
        assert_eq!(of("spin-matched-route"), "/api/...");
        assert_eq!(of("spin-raw-component-route"), "/api/...");
        assert_eq!(of("spin-component-route"), "/api");
        assert_eq!(of("spin-base-path"), "/");
        assert_eq!(of("spin-client-addr"), "192.0.2.1:5000");
    }

    #[test]
    fn an_exact_route_has_no_path_info() {
        assert_eq!(spin("/a", "/a", "spin-path-info").unwrap(), "");
        assert_eq!(spin("/a", "/a", "spin-component-route").unwrap(), "/a");
    }

    #[test]
    fn captures_become_headers_with_dashes() {
        let value = spin("/u/:User_Id/...", "/u/seven/x", "spin-path-match-user-id");
        assert_eq!(value.unwrap(), "seven");
    }
}
