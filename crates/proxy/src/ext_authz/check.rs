//! The question to an ext_authz server, as Envoy asks it (`envoy.service.auth.v3.CheckRequest`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::Timestamp;
use http::{HeaderMap, header};
use weft_proxy_config::{AuthzServer, ForwardClientCert, HttpListener};
use weft_proxy_http::headers::{X_FORWARDED_CLIENT_CERT, X_FORWARDED_PROTO, X_REQUEST_ID, strip_hop_by_hop};

use super::body::{Beginning, PARTIAL};
use crate::call::Call;
use crate::connection::Connection;
use crate::record::{Record, protocol};

/// About a request, with the fields that the app would get, and with what is shown of its body.
pub(super) fn of_request(
    call: &Call,
    http: &HttpListener,
    server: &AuthzServer,
    shown: Option<Beginning>,
) -> CheckRequest {
    let record: &Record = &call.exchange;
    let mut headers = fields(&call.headers);
    let mut add = |name: &str, value: &str| headers.insert(name.to_owned(), value.to_owned());
    add(":authority", call.authority.as_str());
    add(":method", call.method.as_str());
    add(":path", call.path.as_str());
    add(":scheme", "http");
    let id = record.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    add(X_REQUEST_ID.as_str(), id);
    if let (ForwardClientCert::SanitizeSet, Some(value)) = (http.xfcc, &record.connection.xfcc) {
        add(X_FORWARDED_CLIENT_CERT.as_str(), &String::from_utf8_lossy(value.as_bytes()));
    }
    headers.entry(X_FORWARDED_PROTO.as_str().to_owned()).or_insert_with(|| "http".to_owned());
    let length = call.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut request = HttpRequest {
        id: call.exchange.worker.random().to_string(),
        method: call.method.to_string(),
        path: call.path.to_string(),
        host: call.authority.to_string(),
        scheme: "http".to_owned(),
        protocol: protocol(record.protocol.unwrap_or_default()).to_owned(),
        size: length.unwrap_or(0),
        headers,
        ..Default::default()
    };
    if let Some(shown) = shown {
        request.size = i64::try_from(record.received.get()).unwrap_or(i64::MAX); // of what has come, as Envoy says it
        shown.put(&mut request);
    }
    about(record, Some(request), server)
}

/// About a connection of bytes.
pub(super) fn of_connection(record: &Record, server: &AuthzServer) -> CheckRequest {
    about(record, None, server)
}

fn about(record: &Record, http: Option<HttpRequest>, server: &AuthzServer) -> CheckRequest {
    let connection: &Connection = &record.connection;
    let sni = connection.server_name.as_deref().unwrap_or_default();
    let is_told = server.include_tls_session && connection.is_tls;
    CheckRequest {
        attributes: Some(AttributeContext {
            source: peer(connection.peer_id.as_deref(), connection.remote_address),
            destination: peer(connection.is_tls.then_some(&*connection.own_id), connection.local_address),
            request: Some(Request { time: Some(timestamp(record.started_at)), http }),
            tls_session: is_told.then(|| TlsSession { sni: sni.to_owned() }),
            ..Default::default()
        }),
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

fn peer(principal: Option<&str>, address: Option<SocketAddr>) -> Option<Peer> {
    let address = address.map(|at| Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..Default::default()
        })),
    });
    Some(Peer { address, principal: principal.unwrap_or_default().to_owned(), ..Default::default() })
}

/// Each name once, with the values of its lines joined by `,`; without what is for one connection only, and without `host`, which is
/// `:authority`, and what only the asking proxy may say of a body.
fn fields(headers: &HeaderMap) -> HashMap<String, String> {
    let mut headers = headers.clone();
    strip_hop_by_hop(&mut headers);
    headers.remove(header::HOST);
    headers.remove(PARTIAL);
    let mut fields: HashMap<String, String> = HashMap::with_capacity(headers.len() + 8);
    for (name, value) in &headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        fields
            .entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    fields
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn fields_are_those_that_the_app_gets_each_once() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("connection", "x-b"),
            ("x-b", "3"),
            ("te", "trailers"),
            (PARTIAL, "true"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.insert("x-odd", HeaderValue::from_bytes(b"\xff").expect("legal"));
        let fields = fields(&headers);
        let mut all: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.sort_unstable();
        assert_eq!(all, [("te", "trailers"), ("x-a", "1,2"), ("x-odd", "\u{fffd}")]);
    }
}
