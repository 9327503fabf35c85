//! Connections that stop being HTTP: WebSockets and CONNECT. Once open, they are bytes both ways (`carry.rs`); no change of
//! configuration, policy or certificate touches them.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::ext::Protocol;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use weft_proxy_http::client::{H2Body, H2Connection};
use weft_proxy_http::h2_stream::H2Duplex;
use weft_proxy_http::headers::strip_hop_by_hop;
use weft_proxy_http::{AttemptError, Kind, RequestBody, Sent, Switched, UpstreamBody, Way};
use weft_telemetry::Failure;

use crate::call::Call;
use crate::carry::carry;
use crate::exchange::Exchange;
use crate::forward::{Upstream, respond};
use crate::response::{Held, ResponseBody};
use crate::stop::Stop;
use crate::upstream::Leased;

/// How long one side of a WebSocket may go on after the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// Opens the way upstream, and only then tells the client that it is open.
pub(crate) async fn open(mut call: Call, upstream: Upstream, client: Switched) -> Response<ResponseBody> {
    call.exchange.attempts = 1;
    let opened = match call.kind {
        Kind::Connect => dial(&mut call, &upstream).await,
        Kind::WebSocket | Kind::Plain | Kind::Unknown => web_socket(&mut call, &upstream).await,
    };
    match opened {
        Ok(Opened::Way(head, way)) => accept(call.exchange, head, way, client),
        // To a client that opened a stream, a success would say that it is open (RFC 8441 s.4).
        Ok(Opened::Refused(response, _)) if response.status().is_success() && call.exchange.is_http2() => {
            let detail = format!("the app answered {}, not with a WebSocket", response.status());
            Stop::new(Failure::AppProtocol, detail).into_response(call.exchange)
        }
        Ok(Opened::Refused(response, held)) => respond(call.exchange, response, held, None, None),
        Err(stop) => {
            call.exchange.transport_reason = Some(stop.detail.clone());
            stop.into_response(call.exchange)
        }
    }
}

enum Opened {
    Way(Response<()>, Box<dyn Way>),
    /// The app answered with an ordinary response.
    Refused(Response<UpstreamBody>, Held),
}

async fn dial(call: &mut Call, upstream: &Upstream) -> Result<Opened, Stop> {
    let worker = call.exchange.worker.clone();
    let address = upstream.pick(&worker, &[])?;
    call.exchange.upstream = Some(address);
    let stream = worker.pools.endpoint(&upstream.cluster, address).dial().await?;
    call.exchange.upstream_local = stream.local_address();
    Ok(Opened::Way(Response::new(()), Box::new(stream)))
}

async fn web_socket(call: &mut Call, upstream: &Upstream) -> Result<Opened, Stop> {
    let worker = call.exchange.worker.clone();
    let address = upstream.pick(&worker, &[])?;
    let pool = worker.pools.endpoint(&upstream.cluster, address);
    let active = pool.enter();
    call.exchange.upstream = Some(address);
    let mut headers = std::mem::take(&mut call.headers);
    headers.remove(header::CONTENT_LENGTH); // of nothing; over HTTP/2 it would be that of what follows
    match pool.lease().await? {
        Leased::H2(connection, count) => {
            call.exchange.upstream_local = connection.local_address;
            wait_for_extended_connect(&connection, upstream.cluster.connect_timeout).await?;
            let mut head = call.h2_head(headers);
            *head.method_mut() = Method::CONNECT;
            head.extensions_mut().insert(Protocol::from_static("websocket"));
            let (response, send) = connection.open_tunnel(head).await?;
            let (head, receive) = response.into_parts();
            if head.status != StatusCode::OK {
                let held = Held { pool, _stream: Some((connection, count)), _active: active };
                return Ok(Opened::Refused(Response::from_parts(head, UpstreamBody::H2(H2Body::new(receive))), held));
            }
            let way = H2Duplex::new(send, receive, Some(Box::new((connection, count))));
            Ok(Opened::Way(Response::from_parts(head, ()), Box::new(way)))
        }
        Leased::H1(connection) => {
            call.exchange.upstream_local = connection.local_address;
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if !headers.contains_key(SEC_WEBSOCKET_KEY) {
                // Over HTTP/2 a client sends none (RFC 8441 s.5); the app expects one.
                let nonce = BASE64_STANDARD.encode(worker.with_rng(rand::Rng::random::<[u8; 16]>));
                headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&nonce).expect("base64 is a header value"));
            }
            let mut head = call.h1_head(headers);
            *head.method_mut() = Method::GET;
            let response = connection.send(head, RequestBody::empty()).await.map_err(|(error, _)| error)?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let held = Held { pool, _stream: None, _active: active };
                return Ok(Opened::Refused(response.map(UpstreamBody::H1), held));
            }
            let (head, body) = response.into_parts();
            let way = body
                .into_way()
                .ok_or_else(|| AttemptError::new(Failure::AppClosed, Sent::Perhaps, "the app's connection is gone"))?;
            Ok(Opened::Way(Response::from_parts(head, ()), Box::new(way)))
        }
    }
}

/// The peer's SETTINGS say whether it takes extended CONNECT; on a new connection they may still be on their way.
async fn wait_for_extended_connect(connection: &H2Connection, bound: std::time::Duration) -> Result<(), Stop> {
    let mut look = tokio::time::interval(std::time::Duration::from_millis(2));
    let told = async {
        while !connection.takes_extended_connect() {
            look.tick().await;
        }
    };
    tokio::time::timeout(bound.min(std::time::Duration::from_secs(1)), told)
        .await
        .map_err(|_| Stop::new(Failure::UpstreamProtocol, "the endpoint takes no WebSocket over HTTP/2"))
}

/// Answers the client and carries the bytes.
fn accept(
    mut exchange: Box<Exchange>,
    head: Response<()>,
    way: Box<dyn Way>,
    client: Switched,
) -> Response<ResponseBody> {
    let mut response = head;
    strip_hop_by_hop(response.headers_mut());
    if exchange.is_http2() || exchange.method == Some(Method::CONNECT) {
        *response.status_mut() = StatusCode::OK;
    } else {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    *response.version_mut() = exchange.protocol.unwrap_or_default();
    let is_websocket = exchange.method != Some(Method::CONNECT);
    // Also where HTTP/2 has no such status (RFC 8441 s.4).
    exchange.status = Some(if is_websocket { StatusCode::SWITCHING_PROTOCOLS } else { response.status() });
    exchange.begin_bytes();
    tokio::task::spawn_local(async move {
        let mut exchange = exchange; // the whole of it, so that it ends here
        let mut way = way;
        let Ok(mut client) = client.await else { return way.reset() };
        // Only bytes to a host and port know an end of one direction; a WebSocket whose one side is gone is over.
        let bound = is_websocket.then_some(LAST_WORDS);
        carry(&mut exchange, &mut *client, &mut *way, bound).await;
    });
    response.map(|()| ResponseBody::bare())
}
