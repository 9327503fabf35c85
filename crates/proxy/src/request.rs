//! A request at one hop, phase by phase. Both directions are the same story; what differs stands in the listener.

use std::rc::Rc;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use weft_model::grpc::is_grpc;
use weft_policy::path;
use weft_proxy_config::{
    Authorizer, ForwardClientCert, HttpListener, Listener, ListenerKind, LogField, NoRoute, Route, host_key,
};
use weft_proxy_http::Malformed;
use weft_proxy_http::headers::{self, TRACEPARENT, X_FORWARDED_CLIENT_CERT, X_FORWARDED_PROTO, X_REQUEST_ID};
use weft_proxy_http::server::{ClientRequest, Interim};
use weft_proxy_http::{Kind, RequestBody, kind};
use weft_telemetry::Failure;
use weft_telemetry::trace::{self, TraceContext};

use crate::attempts::Upstream;
use crate::authorize::{Asked, Sent, authorize};
use crate::call::Call;
use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::ext_authz::authorize_request;
use crate::forward::forward;
use crate::response::ResponseBody;
use crate::stop::Stop;
use crate::tunnel;
use crate::worker::Worker;

/// Answers one request. Never fails: what cannot be served is answered by the mesh.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: ClientRequest,
) -> Response<ResponseBody> {
    let ClientRequest { head, body, fault, interim, switched } = request;
    let mut response = match begin(worker.clone(), connection, head, fault, interim) {
        Err(stopped) => stopped,
        Ok((mut call, http)) => {
            let mut body =
                RequestBody::new(body, call.exchange.received.clone(), &http.reserved, call.exchange.started);
            let decided = decide(&mut call, &http, &mut body).await;
            let mutations = std::mem::take(&mut call.exchange.answer_mutations);
            let mut response = match (decided, switched) {
                (Err(stop), _) => stop.into_response(call.exchange),
                (Ok(upstream), Some(client)) => Box::pin(tunnel::open(call, upstream, client)).await,
                (Ok(upstream), None) => forward(call, upstream, body).await,
            };
            mutations.into_iter().for_each(|mutation| mutation.apply(response.headers_mut()));
            response
        }
    };
    response.headers_mut().entry(header::DATE).or_insert_with(|| worker.date());
    response
}

/// Answers what came in place of a request: it has no method, path or host.
pub(crate) fn refuse_unreadable(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    failure: Failure,
    why: String,
) -> Response<ResponseBody> {
    let config = worker.shared.config.load_full();
    let listener = connection.listener(&config);
    let trace = worker.with_rng(|rng| TraceContext::continue_or_begin(None, rng));
    let mut exchange = Exchange::new(worker.clone(), connection.clone(), config, listener, trace);
    exchange.protocol = Some(Version::HTTP_11);
    exchange.request_id = Some(new_request_id(worker));
    exchange.transport_reason = Some(why.clone());
    let mut response = Stop::new(failure, why).into_response(exchange);
    response.headers_mut().insert(header::DATE, worker.date());
    response
}

/// The phases before the first byte goes upstream. None of them waits for anything, but where an authorization server is asked, and
/// where that is shown the body.
async fn decide(call: &mut Call, http: &HttpListener, body: &mut RequestBody) -> Result<Upstream, Stop> {
    normalize(call, http)?;
    headers::strip_identity(&mut call.headers, &http.reserved);
    match &http.authorize {
        None => {}
        Some(Authorizer::Engine) => {
            let protocol = crate::record::protocol(call.exchange.protocol.unwrap_or_default());
            let (target, authority, headers) = (call.path.as_str(), call.authority.as_str(), &Sent(&call.headers));
            authorize(&mut call.exchange, Asked { target, authority, protocol, headers })?;
        }
        Some(Authorizer::Server(server)) => Box::pin(authorize_request(call, http, server, body)).await?,
    }
    let authority = call.authority.clone();
    let host = host_key(authority.as_str(), http.strip_port, &call.method);
    let upstream = route(call, http, &host)?;
    set_mesh_headers(call, http);
    if !http.interim {
        call.interim.give_leave_and_end(&mut call.headers);
    }
    Ok(upstream)
}

/// Host, path, method and headers to a route, a cluster and its endpoints.
fn route(call: &mut Call, http: &HttpListener, host: &str) -> Result<Upstream, Stop> {
    let config = call.exchange.config.clone();
    let table = config
        .route_table(&http.routes)
        .ok_or_else(|| Stop::new(Failure::NoRoute, "the routes of this listener have not been delivered yet"))?;
    let method = &call.method;
    let plain_path = if call.kind == Kind::Connect { "" } else { path::split(call.path.as_str()).0 };
    let hit = table
        .route(host, plain_path, method, &call.headers, call.exchange.worker.random())
        .map_err(|missing| no_route(missing, host, call))?;
    permit_kind(call.kind, http, hit.route)?;
    let upstream = config.upstream(hit.cluster).ok_or_else(|| {
        Stop::new(Failure::NoCluster, format!("the route leads to {}, which is not configured", hit.cluster.name))
    })?;
    call.exchange.route = Some(hit.route.name.clone());
    call.exchange.cluster = Some(hit.cluster.clone());
    call.exchange.upstream_id = upstream.cluster.tls.as_ref().map(|tls| tls.expected_id.clone());
    Ok(Upstream { cluster: upstream.cluster.clone(), endpoints: upstream.endpoints.clone(), route: hit.route.clone() })
}

/// Who asks, what for, when, and under which configuration.
#[allow(clippy::type_complexity, clippy::result_large_err)]
fn begin(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<()>,
    fault: Option<Malformed>,
    interim: Interim,
) -> Result<(Call, HttpRef), Response<ResponseBody>> {
    let config = worker.shared.config.load_full();
    let listener = connection.listener(&config);
    let kind = kind(&request);
    let (parts, ()) = request.into_parts();
    let headers = parts.headers;
    let uri = parts.uri.into_parts();
    let authority = uri.authority.or_else(|| Authority::try_from(headers.get(header::HOST)?.as_bytes()).ok());
    let grpc = headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes()));

    let http = HttpRef(listener.clone());
    let kept = headers.get(X_REQUEST_ID).filter(|id| !id.is_empty() && id.len() <= 256 && id.to_str().is_ok());
    let request_id = match kept.filter(|_| http.preserve_request_id || !connection.is_tls) {
        Some(id) => id.clone(),
        None => new_request_id(&worker),
    };
    let trace = worker
        .with_rng(|rng| TraceContext::continue_or_begin(headers.get(TRACEPARENT).map(HeaderValue::as_bytes), rng));
    let path = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut exchange = Exchange::new(worker, connection, config, listener, trace);
    exchange.logged_headers = logged_headers(&exchange.listener, &headers);
    exchange.authority = authority.as_ref().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    exchange.path = (kind != Kind::Connect).then(|| path.clone());
    // A WebSocket is a GET to policy, route and log, also where HTTP/2 carries it as extended CONNECT (RFC 8441 s.4).
    let method = if kind == Kind::WebSocket { Method::GET } else { parts.method };
    exchange.method = Some(method.clone());
    exchange.protocol = Some(parts.version);
    exchange.grpc = grpc;
    exchange.request_id = Some(request_id);
    if let Some(fault) = fault {
        return Err(Stop::new(fault.failure(), fault.to_string()).into_response(exchange));
    }
    if let Some(detail) = wrong_case(&method) {
        return Err(Stop::new(Failure::BadRequest, detail).into_response(exchange));
    }
    match one_host(authority, &headers) {
        Ok(authority) => Ok((Call { exchange, kind, method, headers, authority, path, interim }, http)),
        Err(detail) => Err(Stop::new(Failure::BadHost, detail).into_response(exchange)),
    }
}

/// Whoever decides by one host and routes by another can be deceived (RFC 9112 s.3.2).
fn one_host(authority: Option<Authority>, headers: &HeaderMap) -> Result<Authority, &'static str> {
    let authority = authority
        .ok_or("send a Host header (HTTP/1.1) or :authority (HTTP/2) that names the service, like board.prod")?;
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err("send one Host header, not several");
    }
    if authority.as_str().contains('@') {
        return Err("a host has no user name in front of it (RFC 9110 s.4.2.4)");
    }
    Ok(authority)
}

/// Policies name methods as they are registered; an app may not care for their case.
fn wrong_case(method: &Method) -> Option<String> {
    let is_wrong = method.as_str().bytes().any(|b| b.is_ascii_lowercase());
    is_wrong.then(|| {
        let meant = method.as_str().to_ascii_uppercase();
        format!("methods are case-sensitive (RFC 9110 s.9.1); did you mean {meant}?")
    })
}

fn new_request_id(worker: &Worker) -> HeaderValue {
    HeaderValue::from_bytes(&worker.with_rng(trace::request_id)).expect("hexadecimal and dashes")
}

/// The HTTP part of a listener that is known to be one.
struct HttpRef(Arc<Listener>);

impl std::ops::Deref for HttpRef {
    type Target = HttpListener;

    fn deref(&self) -> &HttpListener {
        match &self.0.kind {
            ListenerKind::Http(http) => http,
            ListenerKind::Tcp(_) => unreachable!("a connection of a TCP listener carries no requests"),
        }
    }
}

fn logged_headers(listener: &Listener, headers: &HeaderMap) -> Vec<(header::HeaderName, HeaderValue)> {
    let Some(format) = &listener.access_log else { return Vec::new() };
    let wanted = format.keys.iter().filter_map(|(_, field)| match field {
        LogField::RequestHeader(name) => Some(name),
        _ => None,
    });
    wanted.filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// One spelling of the path, for the policy, the route and the app alike (RFC 3986 s.6.2.2).
fn normalize(call: &mut Call, http: &HttpListener) -> Result<(), Stop> {
    let Some(paths) = http.paths.filter(|_| call.kind != Kind::Connect) else { return Ok(()) };
    let raw = call.path.as_str();
    if raw == "*" && call.method == Method::OPTIONS {
        return Ok(());
    }
    match path::normalize(raw, paths) {
        Ok(std::borrow::Cow::Borrowed(_)) => Ok(()),
        Ok(std::borrow::Cow::Owned(normal)) => {
            call.path = PathAndQuery::try_from(normal)
                .map_err(|error| Stop::new(Failure::BadPath, format!("the path cannot be normalised: {error}")))?;
            call.exchange.path = Some(call.path.clone());
            Ok(())
        }
        Err(error) => Err(Stop::new(Failure::BadPath, error.to_string())),
    }
}

fn permit_kind(kind: Kind, http: &HttpListener, route: &Route) -> Result<(), Stop> {
    let allowed = match kind {
        Kind::Plain => true,
        Kind::WebSocket => route.websocket.unwrap_or(http.websocket),
        Kind::Connect => http.connect,
        Kind::Unknown => false,
    };
    if allowed { Ok(()) } else { Err(Stop::new(Failure::NoRoute, "the route takes no upgraded connections")) }
}

fn no_route(missing: NoRoute, host: &str, call: &Call) -> Stop {
    match missing {
        NoRoute::Host => {
            let caller = &call.exchange.connection.own_id;
            let detail =
                format!("{host} is no service that {caller} may call: it does not exist, or no policy allows it");
            Stop::new(Failure::UnknownHost, detail)
        }
        NoRoute::Path => {
            let method = &call.method;
            Stop::new(Failure::NoRoute, format!("{host} has no route for {method} {}", call.path.path()))
        }
    }
}

/// What the next hop is told by the mesh, and nothing that belongs to this connection only.
fn set_mesh_headers(call: &mut Call, http: &HttpListener) {
    headers::strip_hop_by_hop(&mut call.headers);
    if let Some(id) = &call.exchange.request_id {
        call.headers.insert(X_REQUEST_ID, id.clone());
    }
    call.headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if http.tracing {
        let header = call.exchange.trace.header();
        call.headers.insert(TRACEPARENT, HeaderValue::from_bytes(&header).expect("hexadecimal and dashes"));
    }
    if let (ForwardClientCert::SanitizeSet, Some(value)) = (http.xfcc, &call.exchange.connection.xfcc) {
        call.headers.insert(X_FORWARDED_CLIENT_CERT, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// It is there as long as the request, and is copied before it runs.
    #[test]
    fn a_request_waits_in_little_memory() {
        let (all, forward) = (size(handle), size(forward));
        assert!(all <= 5 * 1024, "{all} bytes, of which {forward} to forward one");
    }
}
