//! The HTTP API and the dashboard of the control plane: reads for everyone who reaches the port, join tokens, rotations and bans for
//! whoever on this machine has the admin token, break-glass for operators whom a policy permits it.
//!
//! One handler a route, no framework. Nothing else here changes the mesh.

mod identity;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use weft_model::intent::Protocol;

use crate::admin::AdminToken;
use crate::glass::signed::GlassRequest;
use crate::glass::{Glass, Refused};
use crate::hub::Hub;
use crate::identities::Identities;
use crate::metrics::Gauges;
use crate::status::{
    ApiError, BreakGlassStatus, CertificateStatus, ChangeState, ChangeStatus, EndpointStatus, MeshStatus,
    ServiceStatus, unix_seconds,
};

const INDEX: &str = include_str!("../../../ui/index.html");
const SCRIPT: &str = include_str!("../../../ui/app.js");
const STYLE: &str = include_str!("../../../ui/style.css");
const ICON: &str = include_str!("../../../ui/icon.svg");

/// Nothing that the API takes is larger.
const MAX_BODY: usize = 16 * 1024;
const HEADER_BOUND: Duration = Duration::from_secs(10);

pub(crate) struct Api {
    pub(crate) hub: Arc<Hub>,
    pub(crate) identities: Arc<Identities>,
    pub(crate) admin: AdminToken,
    pub(crate) glass: Arc<Glass>,
    pub(crate) started: Instant,
}

type Answer = Response<Full<Bytes>>;

impl Api {
    /// Serves until the listener fails for good, which it does not.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection to the API");
                    tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors: give others time to close
                    continue;
                }
            };
            let api = self.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(peer, request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_BOUND)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = connection.await; // a client that went away is no news
            });
        }
    }

    async fn answer(&self, peer: SocketAddr, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let get = request.method() == Method::GET || request.method() == Method::HEAD;
        match path.as_str() {
            "/api/join-tokens" if request.method() == Method::POST => self.join_token(peer, request).await,
            "/api/break-glass" if request.method() == Method::POST => self.break_glass(request).await,
            "/api/break-glass" => error(StatusCode::METHOD_NOT_ALLOWED, "only POST", "weft policy break-glass does it"),
            "/api/identity/issuing" if request.method() == Method::POST => self.install(peer, request).await,
            "/api/identity/rotate" if request.method() == Method::POST => self.rotate(peer, request).await,
            "/api/identity/ban" if request.method() == Method::POST => self.ban(peer, request, false).await,
            "/api/identity/unban" if request.method() == Method::POST => self.ban(peer, request, true).await,
            "/api/identity/ban" | "/api/identity/unban" => {
                error(StatusCode::METHOD_NOT_ALLOWED, "only POST", "weft identity ban prod/web --reason TEXT does it")
            }
            "/api/identity/rotate" => {
                error(StatusCode::METHOD_NOT_ALLOWED, "only POST", "weft identity rotate --reason TEXT does it")
            }
            "/api/join-tokens" => {
                error(StatusCode::METHOD_NOT_ALLOWED, "only POST", "weft identity join-token --service NS/NAME")
            }
            _ if !get => {
                error(StatusCode::METHOD_NOT_ALLOWED, "only GET", "the API reads; the mesh is changed by commits")
            }
            "/" => page(INDEX, "text/html; charset=utf-8"),
            "/app.js" => page(SCRIPT, "text/javascript; charset=utf-8"),
            "/style.css" => page(STYLE, "text/css; charset=utf-8"),
            "/icon.svg" => page(ICON, "image/svg+xml"),
            "/api/status" => json(StatusCode::OK, &self.status()),
            "/api/proxies" => json(StatusCode::OK, &self.hub.state().proxies()),
            "/api/identity" => self.trust(),
            "/api/identity/bundle" => self.bundle(),
            "/api/identity/federation" => self.federation(),
            "/api/identities" => self.certificates().await,
            "/api/identity/records" => self.records(request.uri().query().unwrap_or_default()),
            "/api/findings" => json(StatusCode::OK, &self.hub.state().findings),
            "/metrics" => page_owned(self.metrics(), "text/plain; version=0.0.4; charset=utf-8"),
            "/healthz" => page("ok\n", "text/plain; charset=utf-8"),
            "/readyz" => self.ready(),
            other => match other.strip_prefix("/api/status/") {
                Some(commit) => self.change(commit),
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("there is nothing at {other}"),
                    "see /api/status and /api/proxies",
                ),
            },
        }
    }

    /// Ready is who can answer everything: a first commit alone makes no certificate authority.
    fn ready(&self) -> Answer {
        let state = self.hub.state();
        match (&state.mesh, state.open) {
            (_, true) => page("ok\n", "text/plain; charset=utf-8"),
            (Some(_), false) => {
                error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is still starting", "ask again in a moment")
            }
            (None, false) => {
                error(StatusCode::SERVICE_UNAVAILABLE, "no commit has passed the check yet", "see /api/status")
            }
        }
    }

    fn status(&self) -> MeshStatus {
        let late = self.identities.certificates().unwrap_or_default().into_iter().filter(|one| one.late);
        let late: Vec<CertificateStatus> = late.collect();
        let mut warnings = self.identities.warnings();
        let state = self.hub.state();
        warnings.extend(identity::late(&late, &state.proxies(), unix_seconds(SystemTime::now())));
        let history = state.tracker.history();
        let mut status = MeshStatus {
            warnings,
            serving: history.iter().find(|change| state.open && change.state != ChangeState::Refused).cloned(),
            refused: state.refused.clone(),
            git_error: state.git_error.clone(),
            break_glass: state.break_glass.as_ref().map(BreakGlassStatus::from),
            proxies: state.tracker.counts(),
            history,
            uptime_seconds: self.started.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..MeshStatus::default()
        };
        if let Some(mesh) = &state.mesh {
            let intent = mesh.intent();
            status.mesh = intent.mesh.name.to_string();
            status.trust_domain = intent.mesh.trust_domain.to_string();
            status.services = intent.services.values().map(|service| service_status(&state, service)).collect();
        }
        status
    }

    fn change(&self, commit: &str) -> Answer {
        let legal = commit.len() >= 4 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        if !legal {
            let hint = "give at least 4 hexadecimal digits, as `git log` prints them";
            return error(StatusCode::BAD_REQUEST, &format!("`{commit}` is not a commit id"), hint);
        }
        let history = self.hub.state().tracker.history();
        let mut found: Vec<&ChangeStatus> = history.iter().filter(|change| change.commit.starts_with(commit)).collect();
        found.dedup_by(|a, b| a.commit == b.commit); // a commit that came again: the newest counts
        match found.as_slice() {
            [one] => json(StatusCode::OK, one),
            [] => error(
                StatusCode::NOT_FOUND,
                &format!("commit {commit} has not been seen"),
                "is it on the branch that the server watches? `weft status` shows the newest one",
            ),
            _ => error(StatusCode::CONFLICT, &format!("{commit} begins several commits"), "give more digits"),
        }
    }

    /// The answer to whoever is not on this machine or has no admin token; `None` for whoever is and has. `what` is done for nobody else,
    /// `command` does it.
    fn refused(&self, peer: SocketAddr, request: &Request<Incoming>, what: &str, command: &str) -> Option<Answer> {
        if !peer.ip().to_canonical().is_loopback() {
            let text = format!("{what} for callers on this machine only");
            let hint = format!("run `{command}` on the machine of the control plane");
            return Some(error(StatusCode::FORBIDDEN, &text, &hint));
        }
        // A page in a browser on this machine must not get anything, not even through a name that resolves to loopback: it can
        // neither send this content type without asking first, nor name an address as host.
        if !is_json(request) || !names_this_machine(request) {
            let hint = "send Content-Type: application/json, and the address or localhost as Host";
            return Some(error(StatusCode::FORBIDDEN, "this does not look like a call of the command line", hint));
        }
        if !self.admin.allows(request.headers()) {
            let text = format!("{what} for whoever has the admin token");
            let hint = format!(
                "send `Authorization: Bearer` with the line in admin.token in the server's state folder; `{command} --state-dir FOLDER` does"
            );
            let mut answer = error(StatusCode::UNAUTHORIZED, &text, &hint);
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            return Some(answer);
        }
        None
    }

    /// Who asks is known by the signature, wherever from.
    async fn break_glass(&self, request: Request<Incoming>) -> Answer {
        let asked: GlassRequest = match body(request, "weft policy break-glass sends it").await {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        match self.glass.ask(&asked, SystemTime::now()) {
            Ok(answer) => json(StatusCode::OK, &answer),
            Err(Refused { status, what, hint }) => error(status, &what, &hint),
        }
    }

    fn metrics(&self) -> String {
        let state = self.hub.state();
        let counts = state.tracker.counts();
        let services = state.mesh.as_ref().map(|mesh| mesh.intent().services.values().collect::<Vec<_>>());
        let services = services.unwrap_or_default();
        let gauges = Gauges {
            connected: counts.connected,
            refused: counts.refused,
            pending: counts.pending,
            services: services.len(),
            routes: services.iter().filter(|service| !service.routes.is_empty()).count(),
            services_without_endpoints: services.iter().filter(|service| addresses(&state, service).is_empty()).count(),
            endpoints: state.registry.len(),
            uptime_seconds: self.started.elapsed().as_secs(),
            root_expiry: self.identities.root_expiry(),
        };
        let mut text = self.hub.metrics.render(gauges);
        drop(state);
        text += &self.identity_metrics();
        text
    }
}

fn service_status(state: &crate::hub::State, service: &weft_model::intent::Service) -> ServiceStatus {
    let protocol = match service.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    };
    ServiceStatus {
        name: service.name.to_string(),
        protocol: protocol.to_owned(),
        port: service.port,
        endpoints: addresses(state, service),
        plain_text: state.plain_text.status(&service.name, unix_seconds(SystemTime::now())),
    }
}

fn addresses(state: &crate::hub::State, service: &weft_model::intent::Service) -> Vec<EndpointStatus> {
    let status = |address: SocketAddr, labels: &weft_compile::Labels| EndpointStatus {
        address: address.to_string(),
        labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    };
    match &service.endpoints {
        weft_model::intent::Endpoints::Static(list) => {
            list.iter().map(|endpoint| status(endpoint.address, &endpoint.labels)).collect()
        }
        weft_model::intent::Endpoints::Registry => {
            let registered = state.endpoints_of(&service.name);
            registered.iter().map(|endpoint| status(endpoint.address, &endpoint.labels)).collect()
        }
    }
}

/// The body of a request, as a value; else the answer that says what was wrong with it, and how it should be.
async fn body<T: DeserializeOwned>(request: Request<Incoming>, example: &str) -> Result<T, Answer> {
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
        return Err(error(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 16 KiB", ""));
    };
    serde_json::from_slice(&body.to_bytes())
        .map_err(|problem| error(StatusCode::BAD_REQUEST, &format!("the body is not as expected: {problem}"), example))
}

fn is_json<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| text.split(';').next().is_some_and(|kind| kind.trim() == "application/json"))
}

fn names_this_machine<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("");
    host.parse::<SocketAddr>().is_ok()
        || host.parse::<std::net::IpAddr>().is_ok()
        || host.rsplit_once(':').map_or(host, |(name, _)| name).eq_ignore_ascii_case("localhost")
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    // Plain data always serializes; were it not so, an empty body would say that something is wrong.
    respond(status, "application/json", serde_json::to_vec_pretty(value).unwrap_or_default().into())
}

fn error(status: StatusCode, text: &str, hint: &str) -> Answer {
    json(status, &ApiError { error: text.to_owned(), hint: hint.to_owned() })
}

fn page(text: &'static str, kind: &'static str) -> Answer {
    respond(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()))
}

fn page_owned(text: String, kind: &'static str) -> Answer {
    respond(StatusCode::OK, kind, text.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        header::HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_in_host_is_not_this_machine() {
        let with_host = |host: &str| Request::builder().header("host", host).body(()).expect("legal");
        for own in ["127.0.0.1:7000", "[::1]:7000", "localhost:7000", "localhost", "127.0.0.1"] {
            assert!(names_this_machine(&with_host(own)), "{own}");
        }
        for foreign in ["evil.example:7000", "localhost.evil.example", ""] {
            assert!(!names_this_machine(&with_host(foreign)), "{foreign}");
        }
    }
}
