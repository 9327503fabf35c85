//! Real calls through real Envoys that are configured by nothing but our bootstrap and our snapshots. What they show is what our
//! own data plane has to do as well; docs/reference/compile.md says it in words.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use serde_json::{Value, json};
use support::agent::Agent;
use support::client::{Answer, echo, get, open, raw, request};
use support::envoy::{Sidecar, find, find_within};
use support::pki::Ca;
use support::{app, free, refusing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_compile::testing::{endpoint, name};
use weft_compile::{EndpointSet, Proxy, ProxyKind};

const MESH: &str = include_str!("mesh.yaml");
const WEB: &str = "spiffe://acme.internal/ns/prod/sa/web";
const BOARD: &str = "spiffe://acme.internal/ns/prod/sa/board";

/// A caller and what it calls: two versions of an HTTP service, a gRPC service and a TCP service, each behind its own Envoy.
struct Mesh {
    web: Sidecar,
    v1: Sidecar,
    v2: Sidecar,
    echo: Sidecar,
    db: Sidecar,
    plain: Sidecar,
    /// Connections that the app of `plain` has open.
    open: Arc<AtomicUsize>,
    /// Ports that nobody may take.
    _closed: [tokio::net::TcpSocket; 2],
}

fn proxy(service: &str) -> Proxy {
    Proxy {
        service: name(service),
        ingress: free(),
        egress: free(),
        app: free(),
        authz: None,
        access_log: String::new(),
        kind: ProxyKind::Sidecar,
    }
}

impl Mesh {
    async fn start() -> Option<Self> {
        let binary = find()?;
        let mesh = support::mesh(MESH, "c1");
        let ca = Ca::new();
        let ((no_app, closed), (dead, also_closed)) = (refusing(), refusing());
        let services = ["prod/web", "prod/board", "prod/board", "tools/echo", "prod/db", "prod/plain"];
        let [mut web, v1, v2, echo, db, plain] = services.map(proxy);
        // The app of `web` does not run.
        web.app = no_app;
        app::http(v1.app, "v1").await;
        app::http(v2.app, "v2").await;
        app::tcp(db.app).await;
        let open = app::plain(plain.app).await;
        Agent::serve_authorization_at(echo.app).await;
        let version = |address, version| endpoint(address, &[("version", version)]);
        let endpoints: EndpointSet = [
            (name("prod/web"), vec![version(web.ingress, "v1")]),
            (name("prod/board"), vec![version(v1.ingress, "v1"), version(v2.ingress, "v2")]),
            // One of them is gone without a word.
            (name("tools/echo"), vec![version(echo.ingress, "v1"), version(dead, "v1")]),
            (name("prod/db"), vec![version(db.ingress, "v1")]),
            (name("prod/plain"), vec![version(plain.ingress, "v1")]),
            // Somebody else answers where a sidecar of `vault` should be.
            (name("prod/vault"), vec![version(v2.ingress, "v1")]),
        ]
        .into_iter()
        .map(|(service, list)| (service, Arc::from(list)))
        .collect();
        let start = |proxy| Sidecar::start(&binary, &ca, &mesh, &endpoints, proxy);
        let (web, v1, v2, echo, db, plain) =
            tokio::join!(start(web), start(v1), start(v2), start(echo), start(db), start(plain));
        Some(Self { web, v1, v2, echo, db, plain, open, _closed: [closed, also_closed] })
    }

    fn egress(&self) -> SocketAddr {
        self.web.proxy.egress
    }

    async fn get(&self, path: &str) -> Answer {
        get(self.egress(), "board.prod", path).await.unwrap()
    }

    /// The headers that the app sees when it is called with these.
    async fn headers_at_app(&self, path: &str, headers: &[(&str, &str)]) -> Value {
        let answer = request(self.egress(), "board.prod", "GET", path, headers).await.unwrap();
        answer.json()["headers"].clone()
    }

    /// The ingress line of a request that one of the two versions got.
    async fn board_line(&self, path: &str) -> Value {
        let look = || async {
            for sidecar in [&self.v1, &self.v2] {
                if let Some(line) = sidecar.access_log_so_far().await.into_iter().find(|line| line["path"] == path) {
                    return Some(line);
                }
            }
            None
        };
        find_within(Duration::from_secs(20), look).await.unwrap_or_else(|| panic!("no line for {path}"))
    }

    fn assert_nothing_refused(&self) {
        for sidecar in [&self.web, &self.v1, &self.v2, &self.echo, &self.db, &self.plain] {
            assert_eq!(sidecar.agent.refusals(), [""; 0], "{}", sidecar.proxy.service);
        }
    }
}

/// One mesh for all cases: five processes are enough to start once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_carry_calls_as_our_own_proxies_must() {
    let Some(mesh) = Mesh::start().await else { return };
    mesh.assert_nothing_refused();
    a_call_by_each_name(&mesh).await;
    who_calls_is_told_by_the_mesh_alone(&mesh).await;
    paths_are_normalised_once(&mesh).await;
    encoded_slashes_are_kept_where_the_intent_says_so(&mesh).await;
    old_callers_and_large_heads_are_served(&mesh).await;
    responses_are_read_as_ours_reads_them(&mesh).await;
    idle_connections_to_the_app_end_in_time(&mesh).await;
    ids_are_made_and_carried_on(&mesh).await;
    routes_take_precedence_as_in_the_gateway_api(&mesh).await;
    weights_split(&mesh).await;
    errors_are_problems(&mesh).await;
    denials_come_from_the_agent(&mesh).await;
    a_timeout_ends_a_request(&mesh).await;
    websockets_pass(&mesh).await;
    tcp_passes(&mesh).await;
    grpc_passes_and_a_dead_endpoint_is_avoided(&mesh).await;
    both_hops_log_every_key(&mesh).await;
    mesh.assert_nothing_refused();
    no_decision_is_no_denial(&mesh).await;
}

async fn a_call_by_each_name(mesh: &Mesh) {
    for (host, at_app) in [
        ("board", "board"),
        ("board.prod", "board.prod"),
        ("board.prod.mesh", "board.prod.mesh"),
        ("BOARD.prod", "BOARD.prod"),
        ("board.prod:8080", "board.prod"),
        ("board.prod:1", "board.prod"),
    ] {
        let answer = get(mesh.egress(), host, "/api/x?q=1").await.unwrap();
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert_eq!(answer.json()["path"], "/api/x?q=1");
        assert_eq!(answer.json()["headers"]["host"], at_app);
        assert_eq!(answer.header("server"), Some("the-app"), "{answer:?}");
    }
    // An HTTP proxy's form of the same (`HTTP_PROXY`).
    let answer = get(mesh.egress(), "ignored", "http://board.prod/api/x").await.unwrap();
    assert_eq!((answer.status, &answer.json()["path"]), (200, &json!("/api/x")));
    // What the policy does not let this caller call, it does not hear of; and TCP is not HTTP.
    for host in ["vault.prod", "vault", "example.com", "db.prod", "echo"] {
        assert_eq!(get(mesh.egress(), host, "/").await.unwrap().status, 404, "{host}");
    }
}

async fn who_calls_is_told_by_the_mesh_alone(mesh: &Mesh) {
    let spoofed = [
        ("x-forwarded-client-cert", "URI=spiffe://acme.internal/ns/prod/sa/admin"),
        ("x-weft-principal", "prod/admin"),
        ("X-Weft-Decision-Id", "forged"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-original-path", "/forged"),
        ("x-kept", "yes"),
    ];
    let mut headers = mesh.headers_at_app("/api/spoofed", &spoofed).await;
    let xfcc = headers["x-forwarded-client-cert"].as_str().unwrap();
    let parts: Vec<_> = xfcc.split(';').map(|part| part.split_at(part.find('=').unwrap() + 1)).collect();
    assert_eq!((parts[0], parts[2]), (("By=", BOARD), ("URI=", WEB)), "{xfcc}");
    assert_eq!((parts[1].0, parts[1].1.len(), parts.len()), ("Hash=", 64, 3), "{xfcc}");
    for made in ["x-forwarded-client-cert", "traceparent", "x-request-id"] {
        assert!(headers.as_object_mut().unwrap().remove(made).is_some(), "{made}");
    }
    assert_eq!(headers, json!({"host": "board.prod", "tracestate": "", "x-forwarded-proto": "http", "x-kept": "yes"}));
    assert_eq!(mesh.board_line("/api/spoofed").await["peer_id"], WEB);
}

async fn paths_are_normalised_once(mesh: &Mesh) {
    for (sent, received) in [
        ("/api/a/../b/./c", "/api/b/c"),
        ("/api/%2e%2e/api/x", "/api/x"),
        ("/../..", "/"),
        ("/api/%7Euser", "/api/~user"),
        ("/api/a%2db", "/api/a-b"),
        ("/api/%e4", "/api/%e4"),
        ("/api//x", "/api/x"),
        ("/api/a%20b", "/api/a%20b"),
        ("/api/%252f", "/api/%252f"),
        ("/api/a;b=c/x", "/api/a;b=c/x"),
        ("/api/x?a=/../b", "/api/x?a=/../b"),
        // Here our proxy is stricter and answers 400.
        ("/api/a\\b", "/api/a/b"),
        ("/api/%zz", "/api/%zz"),
        ("/api/a%", "/api/a%"),
        ("/api/..;/x", "/x"),
    ] {
        let answer = mesh.get(sent).await;
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(answer.json()["path"], received, "{sent}");
    }
    let refused = async |path: &str| {
        let answer = mesh.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
        let problem = answer.json();
        assert_eq!((&problem["layer"], &problem["cause"]), (&json!("client"), &json!("bad_request")), "{path}");
        assert_eq!(problem["detail"], "path_normalization_failed", "{path}");
        problem["request_id"].clone()
    };
    // By the caller's Envoy, before the request has an id.
    for path in ["/api/%00", "/api/x#fragment"] {
        assert_eq!(refused(path).await, Value::Null, "{path}");
    }
    // By the callee's, since another service may keep them.
    for path in ["/api/a%2fb", "/api/a%2Fb", "/api/a%5cb", "/api/a%5Cb"] {
        assert_eq!(refused(path).await.as_str().map(str::len), Some(36), "{path}");
    }
}

async fn encoded_slashes_are_kept_where_the_intent_says_so(mesh: &Mesh) {
    for (sent, received) in [
        ("/repos/a%2Fb/files", "/repos/a%2Fb/files"),
        ("/repos/a%2fb/../c%2Fd", "/repos/c%2Fd"),
        // What else Envoy keeps then is for the agent to refuse, whose part is played by a stub here.
        ("/repos/a%5Cb", "/repos/a%5Cb"),
        ("/repos/..%2Fb", "/repos/..%2Fb"),
    ] {
        let answer = get(mesh.egress(), "plain.prod", sent).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, received), "{sent}");
    }
}

async fn old_callers_and_large_heads_are_served(mesh: &Mesh) {
    let answer = raw(mesh.egress(), "GET /api/old HTTP/1.0\r\nhost: board.prod\r\n\r\n").await.unwrap();
    assert_eq!((answer.status, &answer.json()["path"]), (200, &json!("/api/old")), "{answer:?}");
    let answer = raw(mesh.egress(), "GET /api/old HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(answer.status, 400, "without a host nobody knows who is called: {answer:?}");
    let long = "a".repeat(62_000);
    let answer = request(mesh.egress(), "plain.prod", "GET", "/long", &[("x-long", &long)]).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let names: Vec<String> = (0..200).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    let answer = request(mesh.egress(), "plain.prod", "GET", "/many", &many).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn responses_are_read_as_ours_reads_them(mesh: &Mesh) {
    let call = async |path: &str| get(mesh.egress(), "plain.prod", path).await.unwrap();
    let answer = call("/hop").await;
    assert_eq!((answer.header("x-kept"), answer.header("x-hop"), &*answer.body), (Some("1"), None, "ok"), "{answer:?}");
    assert_eq!(call("/both-framings").await.body, "ok");
    assert_eq!(call("/trailers").await.body, "ok");
    // Here our proxy is more lenient: one length, said twice, and no content in no pieces.
    for path in ["/equal-lengths", "/204-chunked"] {
        let answer = call(path).await;
        assert_eq!((answer.status, &answer.json()["cause"]), (502, &json!("app_protocol")), "{path}");
    }
    let fields = "host: plain.prod\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    let answer = raw(mesh.egress(), &format!("GET /no-websocket HTTP/1.1\r\n{fields}\r\n")).await.unwrap();
    let problem = answer.json();
    assert_eq!((answer.status, &problem["status"], &problem["cause"]), (502, &json!(502), &json!("app_protocol")));
}

async fn idle_connections_to_the_app_end_in_time(mesh: &Mesh) {
    assert_eq!(get(mesh.egress(), "plain.prod", "/idle").await.unwrap().status, 200);
    let all_closed = || async { (mesh.open.load(Relaxed) == 0).then_some(()) };
    find_within(Duration::from_secs(20), all_closed).await.expect("the sidecar closes what nobody wants");
}

async fn ids_are_made_and_carried_on(mesh: &Mesh) {
    let headers = mesh.headers_at_app("/api/ids", &[]).await;
    let made = headers["traceparent"].as_str().unwrap_or_else(|| panic!("{headers}"));
    assert!(made.starts_with("00-") && made.ends_with("-00"), "{made}");
    let id = headers["x-request-id"].as_str().unwrap();
    assert_eq!(id.len(), 36, "{id}");
    for line in [mesh.web.access_line("/api/ids").await, mesh.board_line("/api/ids").await] {
        assert_eq!((&line["request_id"], &line["trace_id"]), (&json!(id), &json!(&made[3..35])));
    }

    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let sent = [("traceparent", given), ("tracestate", "vendor=1"), ("x-request-id", "mine")];
    let headers = mesh.headers_at_app("/api/given", &sent).await;
    let carried = headers["traceparent"].as_str().unwrap();
    assert_eq!(carried[..36], given[..36]);
    assert_ne!(carried[36..52], given[36..52]);
    // Envoy takes the app's sampling away; our proxy leaves it.
    assert!(carried.ends_with("-00"), "{carried}");
    assert_eq!((&headers["tracestate"], &headers["x-request-id"]), (&json!("vendor=1"), &json!("mine")));
    // And it passes on what is no trace context; our proxy begins a new trace.
    let broken = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
    assert_eq!(mesh.headers_at_app("/api/broken", &[("traceparent", broken)]).await["traceparent"], broken);
}

async fn routes_take_precedence_as_in_the_gateway_api(mesh: &Mesh) {
    for _ in 0..20 {
        let answer = request(mesh.egress(), "board.prod", "GET", "/api/v", &[("x-version", "v2")]).await.unwrap();
        assert_eq!(answer.json()["instance"], "v2");
    }
    for (method, path, route) in [
        ("GET", "/slow?q", "board.prod/routes[1].matches[0]"),
        ("POST", "/slow/x", "board.prod/routes[1].matches[1]"),
        ("GET", "/slow/y", "board.prod/routes[2]"),
        ("POST", "/slower", "board.prod/routes[2]"),
    ] {
        assert_eq!(request(mesh.egress(), "board.prod", method, path, &[]).await.unwrap().status, 200);
        assert_eq!(mesh.web.access_line(path).await["route_name"], route);
    }
}

async fn weights_split(mesh: &Mesh) {
    let mut v2 = 0;
    for _ in 0..300 {
        v2 += u32::from(mesh.get("/api/split").await.json()["instance"] == "v2");
    }
    // 10% of 300 with a standard deviation of 5.2.
    assert!((5..60).contains(&v2), "{v2} of 300 went to v2");
}

async fn errors_are_problems(mesh: &Mesh) {
    let from_board = mesh.v1.proxy.egress;
    for (egress, host, status, flag, layer, cause, by) in [
        (mesh.egress(), "nowhere.prod", 404, "NR", "routing", "unknown_host", "prod/web~test"),
        (from_board, "void", 503, "UH", "discovery", "no_endpoint", "prod/board~test"),
        (from_board, "gone", 503, "URX,UF", "network", "connect_failed", "prod/board~test"),
        // An endpoint that shows somebody else's certificate is not talked to.
        (from_board, "vault", 503, "URX,UF", "network", "connect_failed", "prod/board~test"),
        // Let in by the sidecar of `web`, whose app does not run: a failure at the other end, passed on as it is.
        (from_board, "web", 503, "UF", "app", "app_unreachable", "prod/web~test"),
    ] {
        let answer = get(egress, host, &format!("/error/{host}")).await.unwrap();
        let problem = answer.json();
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        let told = ["status", "flag", "layer", "cause"].map(|key| &problem[key]);
        assert_eq!(told, [&json!(status), &json!(flag), &json!(layer), &json!(cause)], "{host}: {problem:#}");
        assert_eq!(problem["request_id"].as_str().map(str::len), Some(36), "{problem}");
        assert!(answer.header("proxy-status").is_some_and(|value| value.starts_with(by)), "{answer:?}");
    }
    let line = mesh.v1.access_line("/error/vault").await;
    let reason = line["upstream_transport_failure_reason"].as_str().unwrap();
    assert!(reason.contains("CERTIFICATE_VERIFY_FAILED"), "{reason}");
    assert_eq!((&line["attempt_count"], &line["peer_id"]), (&json!(3), &Value::Null), "{line:#}");
}

async fn denials_come_from_the_agent(mesh: &Mesh) {
    let denied = mesh.get("/denied/x?secret=1").await;
    assert_eq!((denied.status, &denied.json()["decision_id"]), (403, &json!("d1")));
    assert_eq!(denied.header("content-type"), Some("application/problem+json"));
    let line = mesh.board_line("/denied/x?secret=1").await;
    let told = ["response_flags", "response_code_details", "decision", "decision_id", "upstream_host"];
    assert_eq!(
        told.map(|key| &line[key]),
        [&json!("UAEX"), &json!("ext_authz_denied"), &json!("deny"), &json!("d1"), &Value::Null]
    );
    let asked = |sidecar: &Sidecar| {
        let checks = sidecar.agent.checks().into_iter().filter_map(|check| check.attributes);
        checks.into_iter().find(|check| http(check).path.starts_with("/denied"))
    };
    let check = asked(&mesh.v1).or_else(|| asked(&mesh.v2)).unwrap();
    let request = http(&check).clone();
    assert_eq!(check.source.unwrap().principal, WEB);
    assert_eq!(check.destination.unwrap().principal, BOARD);
    // The query is part of the path; the path is the normalised one.
    assert_eq!((&*request.path, &*request.query), ("/denied/x?secret=1", ""));
    assert_eq!((&*request.method, &*request.host, &*request.protocol), ("GET", "board.prod", "HTTP/2"));
}

/// Also where the agent does not answer in time, or is gone, nothing passes.
async fn no_decision_is_no_denial(mesh: &Mesh) {
    let undecided = async |path: &str| {
        let answer = mesh.get(path).await;
        let problem = answer.json();
        let told = ["status", "flag", "layer", "cause", "detail"].map(|key| problem[key].clone());
        let expected = [json!(503), json!("UAEX"), json!("policy"), json!("no_decision"), json!("ext_authz_error")];
        assert_eq!((answer.status, told), (503, expected), "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let line = mesh.board_line(path).await;
        let told = ["response_code", "response_flags", "response_code_details", "decision", "upstream_host"];
        let expected = [json!(503), json!("UAEX"), json!("ext_authz_error"), Value::Null, Value::Null];
        assert_eq!(told.map(|key| line[key].clone()), expected, "{line:#}");
    };
    undecided("/broken").await;
    undecided("/silent").await;
    mesh.v1.kill_agent();
    mesh.v2.kill_agent();
    undecided("/api/dead").await;
}

fn http(check: &AttributeContext) -> &HttpRequest {
    check.request.as_ref().unwrap().http.as_ref().unwrap()
}

async fn a_timeout_ends_a_request(mesh: &Mesh) {
    let answer = request(mesh.egress(), "board.prod", "GET", "/slow", &[("x-delay-ms", "3000")]).await.unwrap();
    assert_eq!((answer.status, &answer.json()["cause"]), (504, &json!("request_timeout")));
    assert_eq!((&answer.json()["flag"], &answer.json()["detail"]), (&json!("UT"), &json!("response_timeout")));
}

async fn websockets_pass(mesh: &Mesh) {
    let head = "GET /api/ws HTTP/1.1\r\nhost: board.prod\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut stream = open(mesh.egress(), head, "101").await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    assert_eq!(echo(&mut stream, &[7; 100_000]).await, [7; 100_000]);
    drop(stream);
    let line = mesh.board_line("/api/ws").await;
    let told = ["method", "protocol", "response_code", "bytes_received", "bytes_sent"];
    assert_eq!(
        told.map(|key| line[key].clone()),
        [json!("GET"), json!("HTTP/2"), json!(101), json!(100_005), json!(100_005)]
    );
}

async fn tcp_passes(mesh: &Mesh) {
    // Envoy looks a CONNECT up without its port, so any port leads to the service.
    for target in ["db.prod:5432", "db:5432", "db.prod.mesh:5432", "db.prod:1"] {
        let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
        let mut stream = open(mesh.egress(), &head, "200").await;
        assert_eq!(echo(&mut stream, b"select 1").await, *app::GREETING);
    }
    // A caller that ends its direction ends the whole of it, and hears no more.
    let mut stream = open(mesh.egress(), "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n", "200").await;
    stream.write_all(b"select 1").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    assert_eq!((stream.read_to_end(&mut heard).await.unwrap_or(0), &*heard), (0, &b""[..]));
    // Who is denied hears nothing, whoever speaks first.
    let mut stream = open(mesh.v1.proxy.egress, "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n", "200").await;
    let mut heard = Vec::new();
    let silence = tokio::time::timeout(Duration::from_millis(500), stream.read_buf(&mut heard)).await;
    assert!(silence.is_err(), "{silence:?} {heard:?}");
    stream.write_all(b"select 1").await.unwrap();
    assert_eq!(stream.read_to_end(&mut heard).await.unwrap_or(0), 0, "{heard:?}");
    for refused in ["board.prod:8080", "nowhere.prod:1"] {
        let head = format!("CONNECT {refused} HTTP/1.1\r\nhost: {refused}\r\n\r\n");
        open(mesh.egress(), &head, "404").await;
    }
    let checks: Vec<_> = mesh.db.agent.checks().into_iter().filter_map(|check| check.attributes).collect();
    assert!(checks.iter().all(|check| check.request.as_ref().is_none_or(|request| request.http.is_none())));
    let callers = checks.iter().filter_map(|check| Some(&*check.source.as_ref()?.principal));
    assert_eq!(callers.collect::<Vec<_>>(), [WEB, WEB, WEB, WEB, WEB, BOARD]);
    let told =
        ["peer_id", "decision", "bytes_received", "bytes_sent", "response_code", "response_flags", "upstream_cluster"];
    let line = mesh.db.access_lines("peer_id", WEB, 4).await.remove(0);
    let expected = json!([WEB, "allow", 8, 16, 0, "-", "inbound|5432||"]);
    assert_eq!(json!(told.map(|key| &line[key])), expected, "{line:#}");
    let line = mesh.db.access_lines("peer_id", BOARD, 1).await.remove(0);
    let expected = json!([BOARD, "deny", 8, 0, 0, "UAEX", null]);
    assert_eq!(json!(told.map(|key| &line[key])), expected, "{line:#}");
    let line = mesh.web.access_lines("method", "CONNECT", 4).await.remove(0);
    let told = ["authority", "path", "response_code", "bytes_received", "upstream_cluster", "route_name"];
    let expected = json!(["db.prod:5432", null, 200, 8, "outbound|5432||db.prod", "db.prod/connect"]);
    assert_eq!(json!(told.map(|key| &line[key])), expected, "{line:#}");
}

async fn grpc_passes_and_a_dead_endpoint_is_avoided(mesh: &Mesh) {
    let channel = |host: &str| {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", mesh.egress())).unwrap();
        endpoint.origin(format!("http://{host}").parse().unwrap()).connect_lazy()
    };
    let mut client = AuthorizationClient::new(channel("echo.tools"));
    for _ in 0..20 {
        let answer = client.check(CheckRequest::default()).await.unwrap().into_inner();
        assert!(answer.dynamic_metadata.is_some());
    }
    let lines = mesh.web.access_lines("authority", "echo.tools", 20).await;
    let attempts: Vec<_> = lines.iter().map(|line| line["attempt_count"].as_u64()).collect();
    assert!(attempts.iter().all(|attempts| matches!(attempts, Some(1 | 2))), "{attempts:?}");
    assert!(attempts.contains(&Some(2)), "{attempts:?}");

    let mut client = AuthorizationClient::new(channel("nowhere.tools"));
    let error = client.check(CheckRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (tonic::Code::Unimplemented, ""));
}

async fn both_hops_log_every_key(mesh: &Mesh) {
    mesh.get("/api/logged").await;
    let (egress, ingress) = (mesh.web.access_line("/api/logged").await, mesh.board_line("/api/logged").await);
    for line in [&egress, &ingress] {
        let keys: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
        insta::allow_duplicates! { insta::assert_json_snapshot!("access_log_keys", keys) };
    }
    let nulls = |line: &Value| {
        let all = line.as_object().unwrap().iter();
        all.filter(|(_, value)| value.is_null()).map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    insta::assert_json_snapshot!("access_log_nulls", json!({"egress": nulls(&egress), "ingress": nulls(&ingress)}));
    assert_eq!((&egress["hop"], &ingress["hop"]), (&json!("egress"), &json!("ingress")));
    assert_eq!((&egress["own_id"], &egress["peer_id"]), (&json!(WEB), &json!(BOARD)));
    assert_eq!((&ingress["own_id"], &ingress["peer_id"]), (&json!(BOARD), &json!(WEB)));
    assert_eq!((&ingress["decision"], &ingress["policy"]), (&json!("allow"), &json!("policies/x.cedar:3")));
    assert_eq!((&egress["response_code"], &egress["response_flags"]), (&json!(200), &json!("-")));
    assert!(egress["upstream_service_time"].is_string() && egress["duration"].is_u64(), "{egress:#}");
}
