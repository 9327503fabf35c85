//! The phase that sends a request on: get a connection, send, and once more over another one where that is proven safe.

use http::{Method, Request, Response, StatusCode, header};
use weft_proxy_config::Route;
use weft_proxy_http::client::{H1Body, H1Connection};
use weft_proxy_http::headers::strip_hop_by_hop;
use weft_proxy_http::{AttemptError, Progress, RequestBody, Sent, UpstreamBody};
use weft_telemetry::Failure;

use crate::attempts::{Attempt, Upstream, attempts};
use crate::call::Call;
use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::response::{Held, ResponseBody};
use crate::upstream::Leased;

/// Sends the request and answers with what comes back.
pub(crate) async fn forward(mut call: Call, upstream: Upstream, body: RequestBody) -> Response<ResponseBody> {
    let progress = body.progress();
    let mut deadline = Deadline::new(upstream.route.timeout, progress.clone());
    let answer = attempts(&mut call, &upstream, body, &mut deadline, attempt).await;
    match answer {
        Ok((response, held)) => respond(call.exchange, response, held, &upstream.route, deadline, Some(progress)),
        Err(mut stop) => {
            if let Some(fault) = progress.broken() {
                stop.failure = fault;
            }
            call.exchange.transport_reason = Some(stop.detail.clone());
            stop.into_response(call.exchange)
        }
    }
}

type Answer = (Response<UpstreamBody>, Held);

async fn attempt(call: &mut Call, mut attempt: Attempt) -> Result<Answer, AttemptError> {
    let headers = std::mem::take(&mut attempt.headers);
    let body = std::mem::replace(&mut attempt.body, RequestBody::empty());
    let (response, stream) = match attempt.pool.lease().await? {
        Leased::H2(connection, count) => {
            call.exchange.upstream_local = connection.local_address;
            connection.ready().await?;
            let response = connection.send(call.h2_head(headers), body, &mut call.interim).await?;
            (response.map(UpstreamBody::H2), Some((connection, count)))
        }
        Leased::H1(connection) => {
            let response = send_to_app(call, &attempt, connection, call.h1_head(headers), body).await?;
            (response.map(UpstreamBody::H1), None)
        }
    };
    if attempt.is_refused(response.headers()) {
        let reason = "the endpoint says that its app did nothing";
        return Err(AttemptError::new(Failure::AppUnreachable, Sent::NotProcessed, reason));
    }
    Ok((response, Held { pool: attempt.pool, _stream: stream, _active: attempt.active }))
}

/// The app may close an idle connection just as the next request is sent on it. Such a request goes once more, over a new
/// connection, if it never left or may be repeated (RFC 9110 s.9.2.2).
async fn send_to_app(
    call: &mut Call,
    attempt: &Attempt,
    connection: H1Connection,
    head: Request<()>,
    body: RequestBody,
) -> Result<Response<H1Body>, AttemptError> {
    call.exchange.upstream_local = connection.local_address;
    let may_repeat = body.is_empty() && is_idempotent(&call.method);
    let again = connection.used.then(|| body.again());
    let response = match (connection.send(head, body, &mut call.interim).await, again) {
        (Ok(response), _) => response,
        (Err((error, Some(head))), Some(again)) if error.sent == Sent::NotProcessed || may_repeat => {
            let body = again.body().ok_or(error)?;
            let connection = Box::pin(attempt.pool.h1_connect()).await?;
            call.exchange.upstream_local = connection.local_address;
            connection.send(head, body, &mut call.interim).await.map_err(|(error, _)| error)?
        }
        (Err((error, _)), _) => return Err(error),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let reason = "the app switches protocols, and was not asked to";
        return Err(AttemptError::new(Failure::UpstreamProtocol, Sent::Perhaps, reason));
    }
    Ok(response)
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// After how many bytes an HTTP/1.1 client has the whole body (RFC 9112 s.6.3), if the head says it.
fn length_for_http1(exchange: &Exchange, response: &Response<UpstreamBody>) -> Option<u64> {
    if exchange.is_http2() {
        return None;
    }
    let status = response.status();
    if exchange.method == Some(Method::HEAD) || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Some(0);
    }
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The response of an endpoint, as the client gets it.
pub(crate) fn respond(
    mut exchange: Box<Exchange>,
    mut response: Response<UpstreamBody>,
    held: Held,
    route: &Route,
    deadline: Option<Deadline>,
    request: Option<Progress>,
) -> Response<ResponseBody> {
    exchange.upstream_ms = Some(exchange.elapsed_ms() as u64);
    exchange.status = Some(response.status());
    exchange.note_grpc_status(response.headers());
    strip_hop_by_hop(response.headers_mut());
    for name in &*route.removed_response_headers {
        response.headers_mut().remove(name);
    }
    *response.version_mut() = exchange.protocol.unwrap_or_default();
    let length = length_for_http1(&exchange, &response);
    response.map(|body| ResponseBody::from_upstream(body, exchange, held, deadline, length, request))
}
