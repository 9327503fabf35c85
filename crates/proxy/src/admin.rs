//! What an operator can ask a running proxy: admin (configuration, clusters, certificate, statistics, drain), health, and
//! Prometheus. Serves on the owner's runtime, never on a worker.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use weft_identity::{LiveIdentity, OwnFault};
use weft_proxy_config::{Authorizer, Config, ListenerKind};

use crate::handle::ProxyHandle;

/// How long `POST /drain_listeners` lets requests go on.
const DRAIN_BOUND: Duration = Duration::from_secs(30);

/// Which of the three endpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Admin,
    Health,
    Prometheus,
}

/// Listens on `address` and serves in the background.
pub(crate) async fn serve(address: SocketAddr, endpoint: Endpoint, proxy: Arc<ProxyHandle>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let proxy = proxy.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let answered = answer(endpoint, &proxy, &request);
                    async move { Ok::<_, Infallible>(answered) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(tcp), answer);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "admin connection ended");
                }
            });
        }
    });
    Ok(())
}

fn answer(endpoint: Endpoint, proxy: &Arc<ProxyHandle>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let admin = endpoint == Endpoint::Admin;
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/ready" | "/healthz/ready") => ready(proxy),
        (&Method::GET, "/stats/prometheus" | "/metrics") if endpoint != Endpoint::Health => {
            text("text/plain; version=0.0.4", proxy.metrics().render())
        }
        (&Method::GET, "/stats") if admin => text("text/plain", proxy.metrics().render()),
        (&Method::GET, "/config_dump") if admin => document(&config(&proxy.shared.config.load())),
        (&Method::GET, "/clusters") if admin => document(&clusters(&proxy.shared.config.load())),
        (&Method::GET, "/certs") if admin => document(&certificates(&proxy.shared.identity)),
        (&Method::GET, "/server_info") if admin => document(&json!({
            "version": env!("CARGO_PKG_VERSION"), "state": state(proxy).0, "revision": &*proxy.revision(),
        })),
        (&Method::POST, "/drain_listeners") if admin => {
            let proxy = proxy.clone();
            tokio::spawn(async move { proxy.drain(DRAIN_BOUND).await });
            text("text/plain", "draining\n".to_owned())
        }
        (&Method::POST, "/reopen_logs") if admin => {
            proxy.reopen_logs();
            text("text/plain", "OK\n".to_owned())
        }
        (&Method::GET, "/drain_listeners") if admin => use_post("this stops the proxy from accepting connections"),
        (&Method::GET, "/reopen_logs") if admin => use_post("this opens the log files again"),
        (&Method::GET, "/" | "/help") if admin => text("text/plain", HELP.to_owned()),
        _ => {
            let mut missing = text("text/plain", "no such page\n".to_owned());
            *missing.status_mut() = StatusCode::NOT_FOUND;
            missing
        }
    }
}

const HELP: &str =
    "GET  /ready               200 when there is an identity that is valid now and a configuration, and the app takes connections
GET  /config_dump         listeners, routes and policy in force
GET  /clusters            clusters and their endpoints
GET  /certs               own certificate and trust bundle
GET  /stats/prometheus    metrics
GET  /server_info         version, state and commit
POST /drain_listeners     stop accepting, finish what is under way
POST /reopen_logs         open the log files again, after they were moved away
";

fn use_post(why: &str) -> Response<Full<Bytes>> {
    let mut refused = text("text/plain", format!("use POST: {why}\n"));
    *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    refused
}

/// One word, and a sentence where the word is not enough.
fn state(proxy: &ProxyHandle) -> (String, Option<OwnFault>) {
    let fault = proxy.shared.identity.fault();
    let word = match &fault {
        _ if proxy.is_draining() => "DRAINING".to_owned(),
        Some(OwnFault::Missing) if !proxy.has_configuration() => "INITIALIZING".to_owned(),
        Some(fault) => fault.cause().to_ascii_uppercase(),
        None if proxy.is_app_gone() => "APP_UNREACHABLE".to_owned(),
        None if proxy.is_ready() => "LIVE".to_owned(),
        None => "INITIALIZING".to_owned(),
    };
    (word, fault)
}

fn ready(proxy: &ProxyHandle) -> Response<Full<Bytes>> {
    let (word, fault) = state(proxy);
    let why = fault.map(|fault| format!("{fault}\n")).unwrap_or_default();
    let mut response = text("text/plain", format!("{word}\n{why}"));
    if !proxy.is_ready() || proxy.is_app_gone() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn config(config: &Config) -> Value {
    let listeners: Vec<Value> = config
        .listeners
        .iter()
        .map(|listener| {
            let (kind, authorize) = match &listener.kind {
                ListenerKind::Http(http) => ("http", &http.authorize),
                ListenerKind::Tcp(tcp) => ("tcp", &tcp.authorize),
            };
            let authorized_by = match authorize {
                None => None,
                Some(Authorizer::Engine) => Some("this process"),
                Some(Authorizer::Server(server)) => Some(&*server.cluster.name),
            };
            json!({
                "name": &*listener.name, "address": listener.address.to_string(), "kind": kind,
                "mutual_tls": listener.tls.is_some(), "authorize": authorize.is_some(), "authorized_by": authorized_by,
            })
        })
        .collect();
    let mut routes: Vec<Value> = config
        .routes
        .values()
        .map(|table| {
            let hosts: Vec<Value> = table
                .virtual_hosts()
                .iter()
                .map(|host| {
                    let routes: Vec<Value> = host
                        .routes
                        .iter()
                        .map(|route| {
                            let clusters: Vec<Value> = route
                                .clusters
                                .iter()
                                .map(|(cluster, weight)| json!({ "cluster": &*cluster.name, "weight": weight }))
                                .collect();
                            json!({ "name": &*route.name, "clusters": clusters })
                        })
                        .collect();
                    json!({ "name": &*host.name, "routes": routes })
                })
                .collect();
            json!({ "name": &*table.name, "virtual_hosts": hosts })
        })
        .collect();
    routes.sort_by_key(|table| table["name"].to_string());
    let policy = config.policy.as_ref().map(|engine| engine.version().to_owned());
    json!({ "revision": &*config.revision, "listeners": listeners, "routes": routes, "policy": policy })
}

fn clusters(config: &Config) -> Value {
    let mut clusters: Vec<_> = config.clusters.values().collect();
    clusters.sort_by(|a, b| a.cluster.name.cmp(&b.cluster.name));
    let describe = |upstream: &&Arc<weft_proxy_config::Upstream>| {
        let endpoints: Vec<Value> = upstream
            .endpoints
            .iter()
            .map(|endpoint| {
                let labels: serde_json::Map<String, Value> =
                    endpoint.labels.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect();
                json!({ "address": endpoint.address.to_string(), "weight": endpoint.weight, "labels": labels })
            })
            .collect();
        json!({
            "name": &*upstream.cluster.name,
            "expected_peer": upstream.cluster.tls.as_ref().map(|tls| tls.expected.as_str().to_owned()),
            "endpoints": endpoints,
        })
    };
    json!({ "clusters": clusters.iter().map(describe).collect::<Vec<_>>() })
}

fn certificates(identity: &LiveIdentity) -> Value {
    let state = identity.load();
    let Some(svid) = state.svid() else { return json!({ "certificate": null }) };
    json!({
        "certificate": {
            "spiffe_id": svid.id().as_str(), "serial": svid.serial(),
            "not_before": seconds(svid.not_before()), "not_after": seconds(svid.not_after()),
            "generation": state.generation(),
        },
        "bundle": state.bundle().map(|bundle| json!({
            "trust_domain": bundle.trust_domain().as_str(), "certificates": bundle.roots().len(),
        })),
    })
}

/// When the certificate expires, in seconds since 1970.
pub(crate) fn expiry(identity: &LiveIdentity) -> Option<u64> {
    identity.load().svid().map(|svid| seconds(svid.not_after()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn document(value: &Value) -> Response<Full<Bytes>> {
    text("application/json", format!("{value:#}\n"))
}

fn text(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
