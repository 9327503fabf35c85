//! A request between the phases, and its head as the next hop gets it, in either HTTP.

use http::uri::{self, Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use weft_proxy_http::Kind;
use weft_proxy_http::server::Interim;

use crate::exchange::Exchange;

/// A request between the phases.
pub(crate) struct Call {
    /// Boxed: it moves through every phase and into the response's body.
    pub(crate) exchange: Box<Exchange>,
    pub(crate) kind: Kind,
    /// A WebSocket is a GET.
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) authority: Authority,
    pub(crate) path: PathAndQuery,
    /// Where the client hears what comes before its answer.
    pub(crate) interim: Interim,
}

impl Call {
    /// The head of the request as it goes over HTTP/2: scheme, authority and path in the URI, no `host`.
    pub(crate) fn h2_head(&self, headers: HeaderMap) -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = self.method.clone();
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = headers;
        head.headers_mut().remove(header::HOST);
        let mut uri = uri::Parts::default();
        uri.scheme = Some(uri::Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        *head.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path make a URI");
        head
    }

    /// The head of the request as it goes over HTTP/1.1: path in the request line, `host` from the authority.
    pub(crate) fn h1_head(&self, mut headers: HeaderMap) -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = self.method.clone();
        join_cookies(&mut headers);
        let same = headers.get(header::HOST).is_some_and(|host| host.as_bytes() == self.authority.as_str().as_bytes());
        if !same && let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            headers.insert(header::HOST, host);
        }
        *head.headers_mut() = headers;
        *head.uri_mut() = Uri::from(self.path.clone());
        head
    }
}

/// HTTP/2 may send a cookie in pieces; HTTP/1.1 knows one field of them (RFC 9113 s.8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() < 2 {
        return;
    }
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_cookie_become_one() {
        let mut headers = HeaderMap::new();
        for piece in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(piece));
        }
        join_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }
}
