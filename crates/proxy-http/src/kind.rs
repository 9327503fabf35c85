//! What a client asks for: an answer, or its connection (or stream) for itself.

use h2::ext::Protocol;
use http::{Method, Request, Version, header};

use crate::headers::has_option;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One request, one response.
    Plain,
    /// A WebSocket, by `Upgrade` or by extended CONNECT.
    WebSocket,
    /// Bytes to a host and port.
    Connect,
    /// Another protocol by extended CONNECT: taken nowhere.
    Unknown,
}

impl Kind {
    /// Whether the request wants its connection, or its stream, for itself.
    pub fn is_tunnel(self) -> bool {
        self != Self::Plain
    }
}

/// What the client asks for. An upgrade is asked for in HTTP/1.1, named as one for this connection, and has no body; where one of
/// that fails, it is an ordinary request (RFC 9110 s.7.8).
pub fn kind(request: &Request<()>) -> Kind {
    let is_websocket = |value: &[u8]| value.eq_ignore_ascii_case(b"websocket");
    let headers = request.headers();
    if *request.method() == Method::CONNECT {
        return match request.extensions().get::<Protocol>() {
            Some(protocol) if is_websocket(protocol.as_str().as_bytes()) => Kind::WebSocket,
            Some(_) => Kind::Unknown,
            None => Kind::Connect,
        };
    }
    let Some(upgrade) = headers.get(header::UPGRADE) else { return Kind::Plain };
    let has_body = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
        || headers.contains_key(header::TRANSFER_ENCODING);
    let asked = request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && is_websocket(upgrade.as_bytes())
        && has_option(headers, &header::CONNECTION, "upgrade");
    if asked && !has_body { Kind::WebSocket } else { Kind::Plain }
}
