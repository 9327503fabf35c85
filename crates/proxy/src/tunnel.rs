//! Connections that stop being HTTP: WebSockets and CONNECT. Once open, they are bytes both ways (`carry.rs`); no change of
//! configuration, policy or certificate touches them.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use weft_proxy_http::client::{H1Connection, H2Body, H2Connection, StreamCount};
use weft_proxy_http::h2_stream::H2Duplex;
use weft_proxy_http::headers::strip_hop_by_hop;
use weft_proxy_http::{AttemptError, Kind, RequestBody, Sent, Switched, UpstreamBody, Way};
use weft_telemetry::Failure;

use crate::attempts::{Attempt, Upstream, attempts};
use crate::call::Call;
use crate::carry::carry;
use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::forward::respond;
use crate::response::{Held, ResponseBody};
use crate::stop::Stop;
use crate::upstream::Leased;

/// How long one side of a WebSocket may go on after the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// Opens the way upstream, and only then tells the client that it is open. The route's time is for the opening.
pub(crate) async fn open(mut call: Call, upstream: Upstream, client: Switched) -> Response<ResponseBody> {
    let body = RequestBody::empty();
    let mut deadline = Deadline::new(upstream.route.timeout, body.progress());
    let opened = match call.kind {
        Kind::Connect => attempts(&mut call, &upstream, body, &mut deadline, dial).await,
        Kind::WebSocket | Kind::Plain | Kind::Unknown => {
            attempts(&mut call, &upstream, body, &mut deadline, web_socket).await
        }
    };
    match opened {
        Ok(Opened::Way(head, way)) => accept(call.exchange, head, way, client),
        // To a client that opened a stream, a success would say that it is open (RFC 8441 s.4).
        Ok(Opened::Refused(response, _)) if response.status().is_success() && call.exchange.is_http2() => {
            let detail = format!("the app answered {}, not with a WebSocket", response.status());
            Stop::new(Failure::AppProtocol, detail).into_response(call.exchange)
        }
        Ok(Opened::Refused(response, held)) => respond(call.exchange, response, held, &upstream.route, deadline, None),
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

async fn dial(call: &mut Call, attempt: Attempt) -> Result<Opened, AttemptError> {
    let stream = attempt.pool.dial().await?;
    call.exchange.upstream_local = stream.local_address();
    Ok(Opened::Way(Response::new(()), Box::new(stream)))
}

async fn web_socket(call: &mut Call, mut attempt: Attempt) -> Result<Opened, AttemptError> {
    let mut headers = std::mem::take(&mut attempt.headers);
    headers.remove(header::CONTENT_LENGTH); // of nothing; over HTTP/2 it would be that of what follows
    let opened = match attempt.pool.lease().await? {
        Leased::H2(connection, count) => extended_connect(call, connection, count, headers).await?,
        Leased::H1(connection) => upgrade(call, connection, headers).await?,
    };
    let (response, stream) = match opened {
        Answered::Way(head, way) => return Ok(Opened::Way(head, way)),
        Answered::Refused(response, stream) => (response, stream),
    };
    if attempt.is_refused(response.headers()) {
        let reason = "the endpoint says that its app did nothing";
        return Err(AttemptError::new(Failure::AppUnreachable, Sent::NotProcessed, reason));
    }
    Ok(Opened::Refused(response, Held { pool: attempt.pool, _stream: stream, _active: attempt.active }))
}

/// What an endpoint makes of a WebSocket, with what its stream holds.
enum Answered {
    Way(Response<()>, Box<dyn Way>),
    Refused(Response<UpstreamBody>, Option<(Rc<H2Connection>, StreamCount)>),
}

/// Over HTTP/2 (RFC 8441).
async fn extended_connect(
    call: &mut Call,
    connection: Rc<H2Connection>,
    count: StreamCount,
    headers: HeaderMap,
) -> Result<Answered, AttemptError> {
    call.exchange.upstream_local = connection.local_address;
    if !connection.takes_extended_connect() {
        let reason = "the endpoint takes no WebSocket over HTTP/2";
        return Err(AttemptError::new(Failure::UpstreamProtocol, Sent::NotProcessed, reason));
    }
    let mut head = call.h2_head(headers);
    *head.method_mut() = Method::CONNECT;
    head.extensions_mut().insert(Protocol::from_static("websocket"));
    let (response, send) = connection.open_tunnel(head, &mut call.interim).await?;
    let (head, receive) = response.into_parts();
    let held = (connection, count);
    if head.status != StatusCode::OK {
        let response = Response::from_parts(head, UpstreamBody::H2(H2Body::new(receive)));
        return Ok(Answered::Refused(response, Some(held)));
    }
    let way = H2Duplex::new(send, receive, Some(Box::new(held)));
    Ok(Answered::Way(Response::from_parts(head, ()), Box::new(way)))
}

/// Over HTTP/1.1 (RFC 6455 s.4.1).
async fn upgrade(call: &mut Call, connection: H1Connection, mut headers: HeaderMap) -> Result<Answered, AttemptError> {
    call.exchange.upstream_local = connection.local_address;
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if !headers.contains_key(SEC_WEBSOCKET_KEY) {
        // Over HTTP/2 a client sends none (RFC 8441 s.5); the app expects one.
        let nonce = BASE64_STANDARD.encode(call.exchange.worker.with_rng(rand::Rng::random::<[u8; 16]>));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&nonce).expect("base64 is a header value"));
    }
    let mut head = call.h1_head(headers);
    *head.method_mut() = Method::GET;
    let response = connection.send(head, RequestBody::empty(), &mut call.interim).await.map_err(|(error, _)| error)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answered::Refused(response.map(UpstreamBody::H1), None));
    }
    let (head, body) = response.into_parts();
    let way = body
        .into_way()
        .ok_or_else(|| AttemptError::new(Failure::AppClosed, Sent::Perhaps, "the app's connection is gone"))?;
    Ok(Answered::Way(Response::from_parts(head, ()), Box::new(way)))
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
