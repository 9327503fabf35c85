//! The phase that asks an authorization server (Envoy's ext_authz v3), where the policy engine of this process is not to decide.
//!
//! A worker asks over its own connections, with the certificate of its identity. While it waits for an answer it does other things:
//! nothing is locked.

mod answer;
mod body;
mod check;

use std::rc::Rc;
use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request};
use prost::Message as _;
use weft_policy::Principal;
use weft_proxy_config::{AuthzServer, Config, HttpListener, UpstreamProtocol};
use weft_proxy_http::{AttemptError, Kind, RequestBody, Sent};
use weft_telemetry::Failure;

use self::answer::{Answer, Changes};
use crate::call::Call;
use crate::exchange::Exchange;
use crate::stop::{Reply, Stop};
use crate::upstream::Leased;
use crate::worker::Worker;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// So much of an answer is read, in bytes. The longest that makes sense has two heads and a page for the caller.
const ANSWER_MAX: usize = 1024 * 1024;
/// Tells the app that nobody decided.
const FAILED_OPEN: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// Asks about a request whose path is normalised and whose identity headers are gone, and makes of it what the answer says.
pub(crate) async fn authorize_request(
    call: &mut Call,
    http: &HttpListener,
    server: &AuthzServer,
    body: &mut RequestBody,
) -> Result<(), Stop> {
    let asked = asked_about(call, http, server, body).await;
    count(&call.exchange, asked.is_ok());
    asked
}

async fn asked_about(
    call: &mut Call,
    http: &HttpListener,
    server: &AuthzServer,
    body: &mut RequestBody,
) -> Result<(), Stop> {
    let shown = match server.body {
        // As with Envoy, what makes a tunnel of its connection has no body.
        Some(how) if call.kind == Kind::Plain && !body.is_empty() => Some(body::beginning(call, how, body).await?),
        _ => None,
    };
    let check = check::of_request(call, http, server, shown);
    match ask(&mut call.exchange, server, check).await {
        Ok(Answer::Allowed(changes)) => match change(call, *changes) {
            Ok(()) => Ok(()),
            Err(why) => unanswered_request(call, server, None, &why),
        },
        Ok(Answer::Denied(reply)) => Err(Stop::with_reply(Failure::Denied, reply)),
        Ok(Answer::Failed(reply)) => unanswered_request(call, server, reply, "the server says that it failed"),
        Err(why) => unanswered_request(call, server, None, &why),
    }
}

/// Asks about a connection of bytes.
pub(crate) async fn authorize_connection(exchange: &mut Exchange, server: &AuthzServer) -> Result<(), Stop> {
    let check = check::of_connection(exchange, server);
    let asked = match ask(exchange, server, check).await {
        Ok(Answer::Allowed(_)) => Ok(()),
        Ok(Answer::Denied(_)) => {
            let policy = exchange.told.as_ref().and_then(|told| told.policy.as_deref()).unwrap_or_default();
            Err(Stop::new(Failure::Denied, format!("the authorization server denies it: {policy}")))
        }
        Ok(Answer::Failed(_)) => unanswered(exchange, server, None, "the server says that it failed"),
        Err(why) => unanswered(exchange, server, None, &why),
    };
    count(exchange, asked.is_ok());
    asked
}

/// Counts a call in plain text. Who it was is told by the server, which decided.
fn count(exchange: &Exchange, allowed: bool) {
    if exchange.connection.principal() == Principal::PlainText {
        exchange.worker.shared.plain_text.count(allowed);
    }
}

fn unanswered_request(call: &mut Call, server: &AuthzServer, reply: Option<Reply>, why: &str) -> Result<(), Stop> {
    unanswered(&mut call.exchange, server, reply, why)?;
    if server.tells_fail_open {
        call.headers.insert(FAILED_OPEN, HeaderValue::from_static("true"));
    }
    Ok(())
}

/// Nobody has decided: the call fails, or where that is said it passes, for all to see.
fn unanswered(exchange: &mut Exchange, server: &AuthzServer, reply: Option<Reply>, why: &str) -> Result<(), Stop> {
    exchange.worker.shared.undecided.count(server.fail_open, 1, &server.cluster.name, why);
    if server.fail_open {
        exchange.failed_open = true;
        return Ok(());
    }
    exchange.transport_reason = Some(format!("{}: {why}", server.cluster.name));
    let stop = match reply {
        Some(reply) => Stop::with_reply(Failure::NoDecision, reply),
        None => Stop::new(Failure::NoDecision, "the authorization server gave no answer")
            .with_status(server.status_on_error),
    };
    Err(stop)
}

/// The answer, or why there is none.
async fn ask(exchange: &mut Exchange, server: &AuthzServer, check: CheckRequest) -> Result<Answer, String> {
    let (worker, config) = (exchange.worker.clone(), exchange.config.clone());
    let asked = Box::pin(call_server(&worker, &config, server, check.encode_to_vec()));
    let response = match server.timeout {
        None => asked.await,
        Some(bound) => {
            tokio::time::timeout(bound, asked).await.unwrap_or_else(|_| Err(format!("no answer within {bound:?}")))
        }
    };
    let response = response?;
    exchange.told = Some(Box::new(answer::told(&response)));
    let answer = answer::read(&response)?;
    if !matches!(answer, Answer::Failed(_)) {
        worker.shared.undecided.decided();
    }
    Ok(answer)
}

async fn call_server(
    worker: &Rc<Worker>,
    config: &Arc<Config>,
    server: &AuthzServer,
    message: Vec<u8>,
) -> Result<CheckResponse, String> {
    let upstream = config.upstream(&server.cluster).ok_or("the cluster is not configured")?;
    if upstream.cluster.protocol != UpstreamProtocol::Http2 {
        return Err("the cluster does not speak HTTP/2, so no gRPC".to_owned());
    }
    let mut tried = Vec::new();
    loop {
        let address = worker
            .pick(&upstream.cluster, &upstream.endpoints, &tried)
            .ok_or("the cluster has no endpoint: where is the authorization server?")?;
        let pool = worker.pools.endpoint(&upstream.cluster, address);
        let _active = pool.enter();
        let once = async {
            let Leased::H2(connection, _count) = pool.lease().await? else { unreachable!("the cluster speaks HTTP/2") };
            connection.unary(head(server), &message, ANSWER_MAX).await
        };
        match once.await {
            Ok(answer) => {
                return CheckResponse::decode(answer).map_err(|error| format!("an answer of {address}: {error}"));
            }
            Err(error) if is_worth_another(&error, tried.len(), upstream.endpoints.len()) => tried.push(address),
            Err(error) => return Err(error.reason),
        }
    }
}

/// Once more where nothing was decided yet: over a new connection in the place of one that was going away, or at another endpoint.
fn is_worth_another(error: &AttemptError, tried: usize, endpoints: usize) -> bool {
    match error.sent {
        Sent::NotProcessed => tried == 0,
        Sent::NoConnection => tried + 1 < endpoints,
        Sent::Nowhere | Sent::Perhaps => false,
    }
}

fn head(server: &AuthzServer) -> Request<()> {
    let mut head = Request::new(());
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTPS);
    uri.authority = Some(http::uri::Authority::try_from(&*server.cluster.name).unwrap_or_else(|_| {
        http::uri::Authority::from_static("authz") // a name of a cluster may have any letters
    }));
    uri.path_and_query = Some(PathAndQuery::from_static(CHECK));
    *head.uri_mut() = http::Uri::from_parts(uri).expect("scheme, authority and path make a URI");
    if let Some(value) = server.timeout.and_then(|bound| HeaderValue::from_str(&format!("{}m", bound.as_millis())).ok())
    {
        head.headers_mut().insert("grpc-timeout", value);
    }
    head
}

/// Makes of the request what the server says.
fn change(call: &mut Call, changes: Changes) -> Result<(), String> {
    let path = with_query(changes.path, &call.path, &changes.query_set, &changes.query_removed)?;
    if let Some(path) = path {
        call.exchange.path = Some(path.clone());
        call.path = path;
    }
    if let Some(authority) = changes.authority {
        call.authority = authority;
    }
    if let Some(method) = changes.method {
        call.exchange.method = Some(method.clone());
        call.method = method;
    }
    for mutation in changes.headers {
        mutation.apply(&mut call.headers);
    }
    for name in changes.removed {
        call.headers.remove(name);
    }
    call.exchange.answer_mutations = changes.of_answer;
    Ok(())
}

/// The path with other parameters; `None` where nothing changes.
fn with_query(
    new: Option<PathAndQuery>,
    old: &PathAndQuery,
    set: &[(String, String)],
    removed: &[String],
) -> Result<Option<PathAndQuery>, String> {
    if set.is_empty() && removed.is_empty() {
        return Ok(new);
    }
    let current = new.as_ref().unwrap_or(old);
    let mut query: Vec<String> = Vec::new();
    // Parameters are taken off after they are set, as Envoy does it.
    let mut left: Vec<_> = set.iter().filter(|(name, _)| !removed.contains(name)).collect();
    for pair in current.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let key = pair.split('=').next().unwrap_or_default();
        if let Some(at) = left.iter().position(|(name, _)| name == key) {
            let (key, value) = left.remove(at);
            query.push(format!("{key}={value}")); // in the place of the first of that name
        } else if !set.iter().any(|(name, _)| name == key) && !removed.iter().any(|name| name == key) {
            query.push(pair.to_owned());
        }
    }
    query.extend(left.iter().map(|(key, value)| format!("{key}={value}")));
    let mark = if query.is_empty() { "" } else { "?" };
    answer::path(&format!("{}{mark}{}", current.path(), query.join("&"))).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_and_taken_off() {
        let old = PathAndQuery::from_static("/a?x=1&y=2&x=3&z");
        let changed = |set: &[(&str, &str)], removed: &[&str]| {
            let set: Vec<_> = set.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            let removed: Vec<_> = removed.iter().map(|&name| name.to_owned()).collect();
            with_query(None, &old, &set, &removed).map(|path| path.map(|path| path.to_string()))
        };
        assert_eq!(changed(&[], &[]), Ok(None));
        assert_eq!(changed(&[("x", "9")], &["y"]), Ok(Some("/a?x=9&z".to_owned())));
        assert_eq!(changed(&[("x", "9"), ("new", "1")], &["x", "new"]), Ok(Some("/a?y=2&z".to_owned())));
        assert_eq!(changed(&[], &["x", "y", "z"]), Ok(Some("/a".to_owned())));
        assert_eq!(changed(&[("new", "1")], &["x"]), Ok(Some("/a?y=2&z&new=1".to_owned())));
        assert!(changed(&[("x", "a b")], &[]).is_err());
    }

    #[test]
    fn an_endpoint_that_did_nothing_is_asked_once_more() {
        let error = |sent| AttemptError::new(Failure::UpstreamClosed, sent, "");
        assert!(is_worth_another(&error(Sent::NotProcessed), 0, 1));
        assert!(!is_worth_another(&error(Sent::NotProcessed), 1, 1));
        assert!(!is_worth_another(&error(Sent::NoConnection), 0, 1));
        assert!(is_worth_another(&error(Sent::NoConnection), 0, 2));
        assert!(!is_worth_another(&error(Sent::Perhaps), 0, 2));
    }
}
