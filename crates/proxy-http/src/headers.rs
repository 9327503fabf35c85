//! Header names of the mesh, and the headers that belong to one connection only.

use foldhash::HashSet;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The same at every hop of a request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Who called, as the ingress saw it.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The scheme that the caller used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Of an answer that an ingress made: no app began to work on the request.
pub const X_WEFT_UNTOUCHED: HeaderName = HeaderName::from_static("x-weft-untouched");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Names that only the mesh may set on a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved(HashSet<Box<str>>);

impl Reserved {
    /// These, and `x-forwarded-client-cert`.
    pub fn new(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self(names.into_iter().chain([X_FORWARDED_CLIENT_CERT]).map(|name| name.as_str().into()).collect())
    }

    /// Whether a client may not set the header. Underscores count as dashes: an app behind CGI or WSGI cannot tell them apart. A name that is
    /// reserved with an underscore is so in that spelling alone.
    pub fn holds(&self, name: &str) -> bool {
        self.0.contains(name) || name.contains('_') && self.0.contains(&*name.replace('_', "-"))
    }
}

/// Removes what only the mesh may say, from a head before anything reads it and from trailers (an app may merge them into its
/// headers, RFC 9110 s.6.5.1).
pub fn strip_identity(headers: &mut HeaderMap, reserved: &Reserved) {
    while let Some(name) = headers.keys().find(|name| reserved.holds(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Removes from trailers what may only stand in a head (RFC 9110 s.6.5.1): framing and routing, which some peers answer by
/// closing the connection that others share, and credentials.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    const HEAD_ONLY: [HeaderName; 12] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TRAILER,
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
    ];
    for name in HEAD_ONLY.iter().chain([&KEEP_ALIVE, &PROXY_CONNECTION]) {
        trailers.remove(name);
    }
}

/// Removes what RFC 9110 s.7.6.1 says is for one connection: `connection`, what it names, and the old hop-by-hop headers.
/// `te: trailers` stays, since gRPC demands it end to end.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const OF_CONNECTION: [HeaderName; 7] = [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HTTP2_SETTINGS,
        header::TE,
    ];
    // Mostly there is nothing to do, and one look at each header tells.
    if !headers.keys().any(|name| OF_CONNECTION.contains(name)) {
        return;
    }
    let wants_trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|te| te.to_str().is_ok_and(|te| te.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers"))));
    let options: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    for name in options.iter().filter_map(|option| option.to_str().ok()).flat_map(|option| option.split(',')) {
        if let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes()) {
            headers.remove(name);
        }
    }
    for name in &OF_CONNECTION {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a field that is a list has the option.
pub fn has_option(headers: &HeaderMap, name: &HeaderName, option: &str) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(option)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_so_in_every_spelling_or_in_one() {
        let reserved = Reserved::new(["x-weft-source", "x_tenant"].map(HeaderName::from_static));
        for name in ["x-weft-source", "x_weft-source", "x-weft_source", "x_tenant", "x_forwarded_client_cert"] {
            assert!(reserved.holds(name), "{name}");
        }
        for name in ["x-tenant", "x-weft", "source", "_"] {
            assert!(!reserved.holds(name), "{name}");
        }
    }

    #[test]
    fn connection_headers_and_what_they_name_go() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Secret"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "trailers;q=0.5, gzip"),
            ("te", "deflate, trailers"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["accept: */*", "te: trailers"]);
    }
}
