//! The phase that sends a request on: pick an endpoint, get a connection, send, and once more where that is proven safe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode, header};
use tokio::time::Instant;
use weft_telemetry::Failure;

use crate::config::{Cluster, Endpoints, RetryPolicy, Route};
use crate::downstream::ClientBody;
use crate::exchange::Exchange;
use crate::headers::strip_hop_by_hop;
use crate::request::Call;
use crate::response::{Held, ResponseBody};
use crate::stop::Stop;
use crate::upstream::{AttemptError, Leased, Progress, RequestBody, Sent, UpstreamBody};
use crate::worker::Worker;

/// Where a request goes, as its configuration says.
pub(crate) struct Upstream {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) route: Arc<Route>,
}

impl Upstream {
    /// The endpoint for one attempt; those that were tried are taken only if there is no other.
    pub(crate) fn pick(&self, worker: &Worker, tried: &[SocketAddr]) -> Result<SocketAddr, Stop> {
        worker.pick(&self.cluster, &self.endpoints, tried).ok_or_else(|| {
            let detail = format!("{} has no endpoint: no sidecar of it is registered", self.cluster.name);
            Stop::new(Failure::NoEndpoint, detail)
        })
    }
}

/// Sends the request and answers with what comes back.
pub(crate) async fn forward(mut call: Call, upstream: Upstream, incoming: ClientBody) -> Response<ResponseBody> {
    let body = RequestBody::new(incoming, call.exchange.received.clone(), &call.exchange.listener);
    let progress = body.progress();
    let timeout = upstream.route.timeout.filter(|timeout| !timeout.is_zero());
    let attempts = attempts(&mut call, &upstream, body);
    let answered = match timeout {
        None => attempts.await,
        Some(timeout) => {
            let mut attempts = std::pin::pin!(attempts);
            loop {
                match tokio::time::timeout(timeout, attempts.as_mut()).await {
                    Ok(answered) => break answered,
                    // The time counts from the end of the request (Envoy's `RouteAction.timeout`).
                    Err(_) if !progress.ended() => {}
                    Err(_) => break Err(Stop::new(Failure::RequestTimeout, format!("no response within {timeout:?}"))),
                }
            }
        }
    };
    match answered {
        Ok((response, held)) => {
            let deadline = timeout.map(|timeout| call.exchange.started + timeout).filter(|_| progress.ended());
            respond(call.exchange, response, held, deadline, Some(progress))
        }
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

async fn attempts(call: &mut Call, upstream: &Upstream, mut body: RequestBody) -> Result<Answer, Stop> {
    let retry = upstream.route.retry.as_ref();
    let mut tried = Vec::new();
    let most = 1 + retry.map_or(0, |retry| retry.num_retries);
    loop {
        call.exchange.attempts += 1;
        let last = call.exchange.attempts >= most;
        let again = if last || !body.is_empty() { None } else { Some(call.headers.clone()) };
        let (error, unsent) = match attempt(call, upstream, &tried, body).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let retry = match retry {
            Some(retry) if !last && permits(retry, error.sent) => retry,
            _ => return Err(error.into()),
        };
        tried.extend(call.exchange.upstream);
        // Nothing is sent twice: either the request never left, or it was refused and had no body.
        body = match (unsent, again) {
            (Some((headers, body)), _) => {
                call.headers = headers;
                body
            }
            (None, Some(headers)) => {
                call.headers = headers;
                RequestBody::empty()
            }
            (None, None) => return Err(error.into()),
        };
        tokio::time::sleep(pause(retry, call.exchange.attempts, call.exchange.worker.random())).await;
    }
}

/// The request as it was, if nothing of it has left.
type Unsent = Option<(HeaderMap, RequestBody)>;

async fn attempt(
    call: &mut Call,
    upstream: &Upstream,
    tried: &[SocketAddr],
    body: RequestBody,
) -> Result<Answer, (AttemptError, Unsent)> {
    let worker = call.exchange.worker.clone();
    let headers = std::mem::take(&mut call.headers);
    let address = match upstream.pick(&worker, tried) {
        Ok(address) => address,
        Err(stop) => return Err((AttemptError::new(stop.failure, Sent::Nowhere, stop.detail), None)),
    };
    let pool = worker.pools.endpoint(&upstream.cluster, address);
    let active = pool.enter();
    call.exchange.upstream = Some(address);
    let lease = match pool.lease().await {
        Ok(lease) => lease,
        Err(error) => return Err((error, Some((headers, body)))),
    };
    match lease {
        Leased::H2(connection, count) => {
            call.exchange.upstream_local = connection.local_address;
            if let Err(error) = connection.ready().await {
                return Err((error, Some((headers, body))));
            }
            let response = connection.send(call.h2_head(headers), body).await.map_err(|error| (error, None))?;
            let held = Held { pool, _stream: Some((connection, count)), _active: active };
            Ok((response.map(UpstreamBody::H2), held))
        }
        Leased::H1(connection) => {
            call.exchange.upstream_local = connection.local_address;
            let was_used = connection.used;
            let response = match connection.send(call.h1_head(headers), body).await {
                Ok(response) => response,
                // The app closed an idle connection just then: the request goes once more over a new one, if it never
                // left or may be repeated (RFC 9110 s.9.2.2).
                Err((error, Some(head)))
                    if was_used && (error.sent == Sent::NotProcessed || is_idempotent(&call.method)) =>
                {
                    let connection = pool.h1_connect().await.map_err(|error| (error, None))?;
                    call.exchange.upstream_local = connection.local_address;
                    connection.send(head, RequestBody::empty()).await.map_err(|(error, _)| (error, None))?
                }
                Err((error, _)) => return Err((error, None)),
            };
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let reason = "the app switches protocols, and was not asked to";
                return Err((AttemptError::new(Failure::UpstreamProtocol, Sent::Perhaps, reason), None));
            }
            Ok((response.map(UpstreamBody::H1), Held { pool, _stream: None, _active: active }))
        }
    }
}

/// Whether a policy retries after what is proven of an attempt.
fn permits(retry: &RetryPolicy, sent: Sent) -> bool {
    match sent {
        Sent::NoConnection => retry.on.connect_failure,
        Sent::NotProcessed => retry.on.refused_stream || retry.on.reset_before_request,
        Sent::Nowhere | Sent::Perhaps => false,
    }
}

/// Full jitter over an exponential pause.
fn pause(retry: &RetryPolicy, attempts: u32, random: u64) -> Duration {
    let longest = retry.base_interval.saturating_mul(1 << (attempts - 1).min(16)).min(retry.max_interval);
    longest.mul_f64(random as f64 / u64::MAX as f64)
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
    deadline: Option<Instant>,
    request: Option<Progress>,
) -> Response<ResponseBody> {
    exchange.upstream_ms = Some(exchange.elapsed_ms() as u64);
    exchange.status = Some(response.status());
    exchange.note_grpc_status(response.headers());
    strip_hop_by_hop(response.headers_mut());
    *response.version_mut() = exchange.protocol.unwrap_or_default();
    let length = length_for_http1(&exchange, &response);
    response.map(|body| ResponseBody::from_upstream(body, exchange, held, deadline, length, request))
}
