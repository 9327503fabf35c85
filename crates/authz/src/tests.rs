//! The service as Envoy meets it: over gRPC, on a loopback connection.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request as Attributes, TlsSession,
};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckResponse, DeniedHttpResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::transport::Channel;
use weft_model::intent::EscapedSlashes;
use weft_policy::testing;

use super::*;

mod strangers;

const WEB: &str = "spiffe://acme.internal/ns/prod/sa/web";

fn engine(policies: &str) -> Arc<Engine> {
    engine_with(policies, EscapedSlashes::Reject)
}

fn engine_with(policies: &str, escaped_slashes: EscapedSlashes) -> Arc<Engine> {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    testing::policies(&mut intent, policies);
    for service in intent.services.values_mut() {
        service.paths = weft_model::intent::Paths { escaped_slashes, ..Default::default() };
    }
    Arc::new(testing::engine(&intent, "prod/board"))
}

/// A client of a server that decides with `source`, on a free port.
async fn client(source: impl EngineSource) -> AuthorizationClient<Channel> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = tonic::transport::Server::builder().add_service(ExtAuthz::new(source).into_service());
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    AuthorizationClient::connect(format!("http://{address}")).await.expect("connects")
}

fn board(policies: &'static str) -> impl EngineSource {
    let engine = engine(policies);
    move |_: Option<&SpiffeId>| Some(engine.clone())
}

fn peer(principal: &str) -> Option<Peer> {
    let socket = SocketAddress {
        address: "10.1.2.3".into(),
        port_specifier: Some(PortSpecifier::PortValue(4000)),
        ..Default::default()
    };
    let address = Address { address: Some(address::Address::SocketAddress(socket)) };
    Some(Peer { principal: principal.into(), address: Some(address), ..Default::default() })
}

fn check(principal: &str, http: Option<HttpRequest>) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            source: peer(principal),
            destination: peer("spiffe://acme.internal/ns/prod/sa/board"),
            request: Some(Attributes { http, ..Default::default() }),
            ..Default::default()
        }),
    }
}

fn get(path: &str) -> Option<HttpRequest> {
    Some(HttpRequest {
        method: "GET".into(),
        path: path.into(),
        host: "Board.prod:8080".into(),
        protocol: "HTTP/2".into(),
        headers: HashMap::from([("x-request-id".into(), "r-1".into())]),
        ..Default::default()
    })
}

async fn ask(client: &mut AuthorizationClient<Channel>, check: CheckRequest) -> CheckResponse {
    client.check(check).await.expect("answers").into_inner()
}

fn metadata(response: &CheckResponse, name: &str) -> String {
    match &response.dynamic_metadata.as_ref().expect("metadata").fields[name].kind {
        Some(Kind::StringValue(value)) => value.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

fn denial(response: &CheckResponse) -> &DeniedHttpResponse {
    assert_eq!(response.status.as_ref().expect("a status").code, 7);
    assert_eq!(metadata(response, "decision"), "deny");
    match &response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied,
        other => panic!("not a denial: {other:?}"),
    }
}

fn is_allowed(response: &CheckResponse) -> bool {
    response.status.as_ref().is_some_and(|status| status.code == 0)
}

fn header<'a>(denied: &'a DeniedHttpResponse, name: &str) -> Option<&'a str> {
    let headers = denied.headers.iter().filter_map(|option| option.header.as_ref());
    headers.into_iter().find(|header| header.key == name).map(|header| header.value.as_str())
}

const API: &str = r#"
permit(principal == Service::"prod/web", action == Action::"call", resource == Service::"prod/board")
when { context.path like "/api/*" && context.method == "GET" && context.host == "board.prod" };
forbid(principal, action, resource) when { context.path like "/api/secret*" };
"#;

#[tokio::test]
async fn an_allowed_call_names_its_policy_and_loses_a_forged_decision_id() {
    let mut client = client(board(API)).await;
    let response = ask(&mut client, check(WEB, get("/api/x?q=/api/secret"))).await;
    assert!(is_allowed(&response));
    assert_eq!(metadata(&response, "decision"), "allow");
    assert_eq!(metadata(&response, "policy"), "policies/x.cedar:2");
    assert_eq!(metadata(&response, "reason"), "permit policies/x.cedar:2");
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("not allowed: {response:?}") };
    assert_eq!(ok.headers_to_remove, ["x-weft-decision-id", "x-weft-principal", "x-weft-source"]);
    assert!(ok.headers.is_empty());
}

#[tokio::test]
async fn the_app_receives_the_path_that_was_decided_on() {
    let mut client = client(board(API)).await;
    let response = ask(&mut client, check(WEB, get("/api/./%c3%a9|?q=%c3"))).await;
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("not allowed: {response:?}") };
    let header = ok.headers[0].header.as_ref().expect("a header");
    assert_eq!((&*header.key, &*header.value), (":path", "/api/%C3%A9%7C?q=%c3"));
}

#[tokio::test]
async fn a_denied_call_is_told_the_reason_as_a_problem() {
    let mut client = client(board(API)).await;
    let response = ask(&mut client, check(WEB, get("/api/./%73ecret/x?q"))).await;
    let denied = denial(&response);
    assert_eq!(denied.status.as_ref().expect("a status").code, 403);
    assert_eq!(header(denied, "content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(&denied.body).expect("JSON");
    assert_eq!(problem["detail"], "forbid policies/x.cedar:4");
    assert_eq!(problem["request_id"], "r-1");
    assert_eq!(problem["layer"], "policy");
    let id = metadata(&response, "decision_id");
    assert_eq!(problem["decision_id"], *id);
    assert_eq!(header(denied, "x-weft-decision-id"), Some(&*id));
    assert_eq!(metadata(&response, "policy"), "policies/x.cedar:4");
}

#[tokio::test]
async fn a_path_that_two_readers_take_differently_is_a_bad_request() {
    let mut client = client(board("permit(principal, action, resource);")).await;
    assert!(is_allowed(&ask(&mut client, check(WEB, get("/any?x=%2f"))).await));
    for path in ["/a%2fb", "/a\\b", "/a%00", "relative", ""] {
        let response = ask(&mut client, check(WEB, get(path))).await;
        let denied = denial(&response);
        assert_eq!(denied.status.as_ref().expect("a status").code, 400, "{path}");
        assert!(denied.body.contains("\"cause\":\"bad_path\""), "{}", denied.body);
    }
}

#[tokio::test]
async fn where_encoded_slashes_are_kept_what_could_be_meant_by_them_is_refused_or_forbidden() {
    let policies = "permit(principal, action, resource);
        forbid(principal, action, resource) when { context.path like \"/admin/*\" };";
    let engine = engine_with(policies, EscapedSlashes::Keep);
    let mut client = client(move |_: Option<&SpiffeId>| Some(engine.clone())).await;
    let lower = ask(&mut client, check(WEB, get("/repos/a%2fb/files"))).await;
    assert!(is_allowed(&lower));
    let Some(HttpResponse::OkResponse(ok)) = &lower.http_response else { panic!("{lower:?}") };
    let path = ok.headers.iter().filter_map(|option| option.header.as_ref()).find(|header| header.key == ":path");
    assert_eq!(path.map(|header| &*header.value), Some("/repos/a%2Fb/files"), "the app gets what was decided on");
    for path in ["/a%2F..%2Fadmin/x", "/a%5Cb", "/a\\b"] {
        let response = ask(&mut client, check(WEB, get(path))).await;
        assert_eq!(denial(&response).status.as_ref().expect("a status").code, 400, "{path}");
    }
    for path in ["/admin%2Fx", "/admin%2fx", "/admin%2F%2Fx", "/%2Fadmin%2Fx"] {
        let response = ask(&mut client, check(WEB, get(path))).await;
        assert_eq!(denial(&response).status.as_ref().expect("a status").code, 403, "{path}");
        assert_eq!(metadata(&response, "policy"), "policies/x.cedar:2", "{path}");
    }
}

#[tokio::test]
async fn callers_without_an_identity_are_denied() {
    let mut client = client(board("permit(principal, action, resource);")).await;
    for principal in ["", "CN=web", "web.prod", "spiffe://acme.internal", "spiffe://other.org/ns/prod/sa/web"] {
        let response = ask(&mut client, check(principal, get("/"))).await;
        assert_eq!(denial(&response).status.as_ref().expect("a status").code, 403, "{principal}");
    }
    let nothing = ask(&mut client, CheckRequest::default()).await;
    assert!(metadata(&nothing, "reason").contains("no identity"));
    denial(&nothing);
}

#[tokio::test]
async fn without_policies_everything_is_denied() {
    let mut client = client(|_: Option<&SpiffeId>| None).await;
    let response = ask(&mut client, check(WEB, get("/"))).await;
    assert!(denial(&response).body.contains("\"cause\":\"no_policy\""));
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_way() {
    let mut client = client(board(API)).await;
    let call = |path: &str, content_type: &str| {
        let mut http = get(path).expect("http");
        http.method = "POST".into();
        http.headers.insert("content-type".into(), content_type.into());
        check(WEB, Some(http))
    };
    let response = ask(&mut client, call("/pkg.Board/Get", "application/grpc+proto")).await;
    let denied = denial(&response);
    assert_eq!(denied.status.as_ref().expect("a status").code, 403);
    assert_eq!(header(denied, "grpc-status"), Some("7"));
    assert_eq!(header(denied, "content-type"), None);
    assert!(denied.body.starts_with("no access rule of prod/board"), "{}", denied.body);
    assert!(denied.body.ends_with(&format!("(decision {})", metadata(&response, "decision_id"))));
    let response = ask(&mut client, call("/pkg.Board%2FGet", "application/grpc")).await;
    assert_eq!(header(denial(&response), "grpc-status"), Some("3"));
    let response = ask(&mut client, call("/pkg.Board/Get", "application/grpc-web")).await;
    assert_eq!(header(denial(&response), "grpc-status"), None);
}

#[tokio::test]
async fn bytes_without_http_are_a_tcp_call() {
    let policies = "permit(principal, action, resource) when { context.protocol == \"TCP\" && context.path == \"\"
        && context has sourceIp && context.sourceIp == ip(\"10.1.2.3\") };";
    let mut client = client(board(policies)).await;
    assert!(is_allowed(&ask(&mut client, check(WEB, None)).await));
    denial(&ask(&mut client, check(WEB, get("/"))).await);
}

#[tokio::test]
async fn the_callees_identity_chooses_the_engine_and_each_decision_has_its_own_id() {
    let engine = engine("permit(principal, action, resource);");
    let source = move |callee: Option<&SpiffeId>| {
        callee.and_then(SpiffeId::service).filter(|service| service == engine.service()).map(|_| engine.clone())
    };
    let mut client = client(source).await;
    let mut ids = HashSet::new();
    for _ in 0..50 {
        let response = ask(&mut client, check(WEB, get("/"))).await;
        assert!(is_allowed(&response));
        let id = metadata(&response, "decision_id");
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 50);
    let mut other = check(WEB, get("/"));
    other.attributes.as_mut().expect("attributes").destination = peer("spiffe://acme.internal/ns/prod/sa/web");
    denial(&ask(&mut client, other).await);
}

#[test]
fn a_repeated_check_is_not_evaluated_again_until_another_bundle_is_in_force() {
    let in_force = Arc::new(Mutex::new(engine(API)));
    let source = in_force.clone();
    let authz = ExtAuthz::new(move |_: Option<&SpiffeId>| Some(source.lock().expect("not poisoned").clone()));
    let decide = |path: &str| {
        let check = check(WEB, get(path));
        let engine = in_force.lock().expect("not poisoned").clone();
        authz.decide(&Call::read(&check, weft_model::intent::Paths::default()), "d", Some(&engine))
    };
    // The sentence of a denial by default is made anew by each evaluation.
    let first = decide("/other");
    assert!(first.failure.is_some());
    assert!(Arc::ptr_eq(&first.reason, &decide("/other?q=1").reason));
    assert!(!Arc::ptr_eq(&first.reason, &decide("/else").reason));
    *in_force.lock().expect("not poisoned") = engine("permit(principal, action, resource);");
    assert!(decide("/other").failure.is_none());
}

#[test]
fn decisions_are_logged_with_the_commit_in_force() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("decisions.log");
    let log = DecisionLog::open(&path, weft_decision_log::Settings::default(), None).expect("opens");
    let authz = ExtAuthz::new(board(API)).logging(log.clone(), || "c0ffee".into());
    for target in ["/api/x", "/api/x", "/api/secret?token=x", "/a%00"] {
        authz.answer(None, &check(WEB, get(target))).expect("an answer");
    }
    log.flush();
    let mut entries = Vec::new();
    weft_decision_log::Tail::new(&path).read(|entry| entries.push(entry)).expect("reads");
    let [allowed, denied] = &entries[..] else { panic!("one each, and none where no policy was asked: {entries:#?}") };
    assert_eq!(allowed.reason, "permit policies/x.cedar:2");
    assert_eq!(denied.principal.as_deref(), Some(WEB));
    assert_eq!((&*denied.resource, &*denied.path, &*denied.host), ("prod/board", "/api/secret", "board.prod"));
    assert_eq!((denied.places(), &*denied.commit), ("policies/x.cedar:4".to_owned(), "c0ffee"));
    assert_eq!(denied.request_id.as_deref(), Some("r-1"));
    let text = std::fs::read_to_string(&path).expect("reads");
    assert!(!text.contains("token"), "the query may hold secrets");
}

/// What Envoy says of a connection without TLS: no certificate at either end, and a `tls_session` without a name.
#[test]
fn who_calls_in_plain_text_is_decided_on_as_such_and_told_of() {
    let policies = "permit(principal, action, resource);
        permit(principal == Service::\"plain-text\", action, resource) when { context.path == \"/a\" };
        forbid(principal, action, resource) when { context has tls && context.path == \"/tls\" };";
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    testing::policies(&mut intent, policies);
    let strict = Arc::new(testing::engine(&intent, "prod/board"));
    intent.services.get_mut(&testing::name("prod/board")).expect("it is there").mtls = weft_model::Mtls::Permissive;
    let permissive = Arc::new(testing::engine(&intent, "prod/board"));
    let (told, mut heard) = PlainText::new();
    let service = |engine: &Arc<Engine>| {
        let engine = engine.clone();
        ExtAuthz::new(move |_: Option<&SpiffeId>| Some(engine.clone())).telling(told.clone())
    };
    let (strict, permissive) = (service(&strict), service(&permissive));
    let ask = |service: &ExtAuthz<_>, source: &str, destination: &str, sni: &str, path: &str| {
        let mut check = check(source, get(path));
        let attributes = check.attributes.as_mut().expect("some");
        attributes.destination = peer(destination);
        attributes.tls_session = Some(TlsSession { sni: sni.into() });
        is_allowed(&service.answer(None, &check).expect("an answer"))
    };
    const BOARD: &str = "spiffe://acme.internal/ns/prod/sa/board";
    assert!(ask(&permissive, "", "", "", "/a"));
    assert!(!ask(&permissive, "", "", "", "/b"), "the permit for all means nobody in plain text");
    assert!(!ask(&strict, "", "", "", "/a"));
    assert!(ask(&permissive, WEB, BOARD, "board.prod", "/b") && !ask(&permissive, WEB, BOARD, "", "/tls"));
    for (source, destination, sni) in
        [("", BOARD, ""), ("", "", "board.prod"), ("CN=web", BOARD, ""), ("CN=web", "", "")]
    {
        assert!(!ask(&permissive, source, destination, sni, "/a"), "TLS without an identity is no plain text");
    }
    let seen: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok())
        .map(|call| (call.address.to_string(), call.caller.asked, call.caller.allowed, call.caller.denied))
        .collect();
    let call = |path: &str, allowed, denied| ("10.1.2.3".to_owned(), format!("GET {path}"), allowed, denied);
    assert_eq!(seen, [call("/a", 1, 0), call("/b", 0, 1), call("/a", 0, 1)]);
}

#[test]
fn a_sidecar_asks_about_itself_only() {
    let board = engine("permit (principal, action, resource);");
    let service = ExtAuthz::new(move |_: Option<&SpiffeId>| Some(board.clone()));
    let id = |service: &str| format!("spiffe://acme.internal/ns/prod/sa/{service}").parse::<SpiffeId>().expect("legal");
    let destination = Peer { principal: id("board").to_string(), ..Default::default() };
    let attributes = AttributeContext { destination: Some(destination), ..Default::default() };
    let check = CheckRequest { attributes: Some(attributes) };
    assert!(service.answer(Some(&id("board")), &check).is_ok());
    assert!(service.answer(None, &check).is_ok(), "the agent's socket shows no certificate");
    let refused = service.answer(Some(&id("web")), &check).expect_err("web is not board");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(refused.message().contains("sa/web") && refused.message().contains("sa/board"), "{}", refused.message());
}

#[tokio::test]
async fn what_a_shadow_policy_would_change_is_told_and_not_done() {
    const SHADOW: &str = r#"
permit(principal == Service::"prod/web", action == Action::"call", resource);
@shadow forbid(principal, action == Action::"call", resource) when { context.path like "/old/*" };
"#;
    let mut client = client(board(SHADOW)).await;
    // The second is remembered.
    for _ in 0..2 {
        let old = ask(&mut client, check(WEB, get("/old/x"))).await;
        assert!(is_allowed(&old));
        assert_eq!(metadata(&old, "decision"), "allow");
        assert_eq!(metadata(&old, "shadow"), "deny: forbid policies/x.cedar:3");
    }
    let new = ask(&mut client, check(WEB, get("/new"))).await;
    assert!(is_allowed(&new) && !new.dynamic_metadata.expect("metadata").fields.contains_key("shadow"));
}
