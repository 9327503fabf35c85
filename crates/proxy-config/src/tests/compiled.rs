//! What the control plane compiles, as this proxy understands it.

use std::time::Duration;

use ::http::{HeaderMap, Method};
use weft_model::intent::{Case, EscapedSlashes, Paths, Slashes};

use super::*;

fn hit<'a>(
    table: &'a RouteTable,
    host: &str,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    random: u64,
) -> RouteHit<'a> {
    table.route(host, path, &method, headers, random).unwrap()
}

#[test]
fn all_of_it_is_accepted_for_every_service() {
    for service in ["prod/web", "prod/board", "tools/echo", "prod/db"] {
        let mut builder = Builder::default();
        assert_eq!(apply(&mut builder, &snapshot(service)), [], "{service}");
        let config = builder.build();
        assert_eq!(&*config.revision, "c0ffee");
        assert_eq!(config.policy.unwrap().service().as_str(), service);
        let names: Vec<_> = config.listeners.iter().map(|listener| &*listener.name).collect();
        assert_eq!(names, ["egress", "ingress"]);
    }
}

#[test]
fn egress_takes_plain_http_and_finds_its_routes_without_their_name() {
    let config = web().build();
    let egress = listener_of(&config, "egress");
    assert_eq!((egress.address, egress.direction), (([127, 0, 0, 1], 15001).into(), Direction::Outbound));
    assert!(egress.tls.is_none() && egress.access_log.is_some());
    let http = http(egress);
    assert!(http.authorize.is_none() && http.strip_port && http.websocket && http.connect && http.tracing);
    assert!(
        http.paths
            == Some(Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Merge, case: Case::Sensitive })
            && http.interim
            && !http.preserve_request_id
    );
    assert_eq!((http.xfcc, http.protocol), (ForwardClientCert::Sanitize, DownstreamProtocol::Auto));
    for name in weft_compile::headers::IDENTITY {
        assert!(http.reserved.holds(name), "{name}");
    }
    let table = config.route_table(&http.routes).unwrap();
    assert!(Arc::ptr_eq(table, &config.routes["egress"]));
}

#[test]
fn a_permissive_ingress_is_the_strict_one_and_takes_plain_text_too() {
    let of = |mtls: &str| {
        let board = service("prod/board", &format!("mtls: {mtls}\naccess: [{{from: [plain-text]}}]"));
        let compiled = testing::compiled(testing::intent(&(MESH.to_owned() + &board)), "c1");
        let mut builder = Builder::default();
        assert_eq!(apply(&mut builder, &testing::snapshot(&compiled, "prod/board")), []);
        Listener::clone(listener_of(&builder.build(), "ingress"))
    };
    let (strict, permissive) = (of("strict"), of("permissive"));
    let first_byte = Some(Duration::from_secs(10));
    assert_eq!((strict.permissive, permissive.permissive), (None, Some(Permissive { first_byte })));
    assert_eq!(Listener { permissive: None, ..permissive }, strict);
}

#[test]
fn ingress_asks_for_a_certificate_of_the_trust_domain_and_for_permission() {
    let config = web().build();
    let ingress = listener_of(&config, "ingress");
    let tls = ingress.tls.as_ref().unwrap();
    assert_eq!(tls.peers, [PeerMatch::TrustDomain("acme.internal".parse().unwrap())]);
    assert_eq!(tls.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(ingress.direction, Direction::Inbound);
    let http = http(ingress);
    assert!(
        http.authorize == Some(Authorizer::Engine)
            && http.preserve_request_id
            && http.websocket
            && !http.connect
            && !http.strip_port
    );
    assert!(http.interim);
    assert_eq!(http.xfcc, ForwardClientCert::SanitizeSet);
    let table = config.route_table(&http.routes).unwrap();
    let hit = hit(table, "whatever", Method::GET, "/x", &HeaderMap::new(), 0);
    assert_eq!(hit.route.timeout, None);
    assert!(hit.route.retry.is_none(), "an app that speaks HTTP/1.1 refuses no stream");
    assert_eq!(*hit.route.removed_response_headers, ["x-weft-untouched"]);
    assert_eq!(http.patience, Some(Duration::from_secs(300)));
    let app = config.upstream(hit.cluster).unwrap();
    assert_eq!((&*app.cluster.name, app.cluster.protocol), ("inbound|8080||", UpstreamProtocol::Http1));
    assert!(app.cluster.tls.is_none());
    assert_eq!(app.endpoints[0].address, ([127, 0, 0, 1], 8080).into());
}

#[test]
fn a_grpc_app_that_refuses_a_stream_is_asked_again() {
    let mut builder = Builder::default();
    apply(&mut builder, &snapshot("tools/echo"));
    let config = builder.build();
    let table = config.route_table(&http(listener_of(&config, "ingress")).routes).unwrap();
    let hit = hit(table, "whatever", Method::POST, "/x", &HeaderMap::new(), 0);
    let retry = hit.route.retry.as_ref().unwrap();
    assert_eq!((retry.on, retry.num_retries), (RetryOn { refused_stream: true, ..Default::default() }, 2));
}

#[test]
fn a_tcp_service_is_served_by_connections() {
    let mut builder = Builder::default();
    apply(&mut builder, &snapshot("prod/db"));
    let config = builder.build();
    let ingress = listener_of(&config, "ingress");
    let ListenerKind::Tcp(tcp) = &ingress.kind else { panic!("not TCP") };
    assert!(tcp.authorize == Some(Authorizer::Engine) && ingress.access_log.is_some());
    assert_eq!(config.upstream(&tcp.cluster).unwrap().endpoints[0].address, ([127, 0, 0, 1], 8080).into());
}

#[test]
fn routes_lead_to_clusters_by_path_method_header_and_weight() {
    let config = web().build();
    let table = &config.routes["egress"];
    let none = HeaderMap::new();
    let v2 = HeaderMap::from_iter([("x-version".parse().unwrap(), "v2".parse().unwrap())]);
    for host in ["board", "board.prod", "board.prod.mesh"] {
        let cluster = |headers, random| &*hit(table, host, Method::GET, "/", headers, random).cluster.name;
        assert_eq!(cluster(&none, 89), "outbound|8080|v1|board.prod");
        assert_eq!(cluster(&none, 90), "outbound|8080|v2|board.prod");
        assert_eq!(cluster(&v2, 0), "outbound|8080|v2|board.prod");
    }
    let slow = |method, path| hit(table, "board.prod", method, path, &none, 0).route.timeout.unwrap();
    assert_eq!(slow(Method::GET, "/slow"), Duration::from_millis(500));
    assert_eq!(slow(Method::POST, "/slow/x"), Duration::from_millis(500));
    assert_eq!(slow(Method::GET, "/slow/x"), Duration::from_secs(15));
    let retry = hit(table, "board", Method::GET, "/", &none, 0).route.retry.as_ref().unwrap();
    assert_eq!((retry.num_retries, retry.avoid_previous_hosts), (2, true));
    assert!(retry.on.connect_failure && retry.on.refused_stream && retry.on.reset_before_request);
    let echo = hit(table, "echo.tools", Method::POST, "/a.B/C", &none, 0);
    assert_eq!(echo.route.timeout, None);
    assert_eq!(table.route("vault.prod", "/", &Method::GET, &none, 0), Err(NoRoute::Host));
    assert_eq!(table.route("board.prod", "", &Method::CONNECT, &none, 0), Err(NoRoute::Path));
    let db = hit(table, &host_key("DB.prod:5432", true, &Method::CONNECT), Method::CONNECT, "", &none, 0);
    assert_eq!(&*db.cluster.name, "outbound|5432||db.prod");
    let db = config.upstream(db.cluster).unwrap();
    assert_eq!((db.cluster.protocol, db.cluster.tls.as_ref().unwrap().alpn.len()), (UpstreamProtocol::Http1, 0));
}

#[test]
fn clusters_know_whom_to_expect_and_where() {
    let config = web().build();
    let v1 = &config.clusters["outbound|8080|v1|board.prod"];
    let tls = v1.cluster.tls.as_ref().unwrap();
    assert_eq!(tls.expected.as_str(), "spiffe://acme.internal/ns/prod/sa/board");
    assert_eq!(tls.sni.as_deref(), Some("outbound_.8080_.v1_.board.prod"));
    assert_eq!(tls.alpn, [b"h2".to_vec()]);
    assert_eq!((v1.cluster.protocol, v1.cluster.lb_policy), (UpstreamProtocol::Http2, LbPolicy::LeastRequest));
    assert_eq!((v1.cluster.connect_timeout, v1.cluster.idle_timeout), (Duration::from_secs(2), None));
    let app = &config.clusters["inbound|8080||"].cluster;
    assert_eq!((app.protocol, app.idle_timeout), (UpstreamProtocol::Http1, Some(Duration::from_secs(60))));
    let ports: Vec<_> = v1.endpoints.iter().map(|endpoint| endpoint.address.port()).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!(v1.endpoints[0].labels.get("version").map(|label| &**label), Some("v1"));
    assert!(config.clusters["outbound|9000||echo.tools"].endpoints.is_empty());
}

#[test]
fn every_line_of_the_access_log_is_understood() {
    let config = web().build();
    let log = listener_of(&config, "egress").access_log.as_ref().unwrap();
    assert_eq!(&*log.path, "/dev/stdout");
    assert!(log.keys.is_sorted_by(|(one, _), (other, _)| one < other));
    let field = |key: &str| &log.keys.iter().find(|(known, _)| **known == *format!("\"{key}\":")).unwrap().1;
    assert_eq!(field("hop"), &LogField::Literal("\"egress\"".into()));
    assert_eq!(field("method"), &LogField::Method);
    assert_eq!(field("path"), &LogField::Path);
    assert_eq!(field("user_agent"), &LogField::RequestHeader("user-agent".parse().unwrap()));
    assert_eq!(field("decision_id"), &LogField::DecisionId);
    assert_eq!(field("config_version"), &LogField::ConfigVersion);
    assert_eq!(field("peer_id"), &LogField::UpstreamPeerUriSan);
    assert!(log.keys.len() >= 24 + 11, "{}", log.keys.len());
}

/// A snapshot of a service that has the control plane asked, which is at this address.
fn asking(rest: &str, protocol: &str, authz: Option<std::net::SocketAddr>) -> Config {
    let yaml = [MESH.to_owned(), service_of("prod/board", protocol, 8080, rest)].concat();
    let files = [weft_model::source::SourceFile::new("mesh.yaml", yaml.as_bytes())];
    let intent = weft_model::parse::parse(&files).0.unwrap(); // warnings aside
    let mesh = testing::compiled(intent, "c0ffee");
    let proxy = weft_compile::Proxy { authz, ..testing::sidecar("prod/board", 1) };
    let mut builder = Builder::default();
    assert_eq!(apply(&mut builder, &weft_compile::compile(&mesh, &Default::default(), &proxy)), []);
    builder.build()
}

#[test]
fn a_service_may_have_the_control_plane_asked() {
    let at = std::net::SocketAddr::from(([10, 0, 0, 1], 15011));
    let config = asking("authorization: {by: server, timeout: 300ms}", "http", Some(at));
    let Some(Authorizer::Server(server)) = &http(listener_of(&config, "ingress")).authorize else { panic!() };
    assert_eq!(
        (&*server.cluster.name, server.timeout),
        (weft_compile::AUTHZ_CLUSTER, Some(Duration::from_millis(300)))
    );
    assert!(!server.fail_open && !server.tells_fail_open && server.include_tls_session);
    assert_eq!(server.status_on_error, 503);
    let cluster = config.upstream(&server.cluster).unwrap();
    assert_eq!((cluster.cluster.protocol, cluster.endpoints[0].address), (UpstreamProtocol::Http2, at));
    let tls = cluster.cluster.tls.as_ref().unwrap();
    assert_eq!(tls.expected.as_str(), "spiffe://acme.internal/ns/weft/sa/server");

    let config = asking("authorization: {by: server, failOpen: true}", "http", None);
    let Some(Authorizer::Server(server)) = &http(listener_of(&config, "ingress")).authorize else { panic!() };
    assert!(server.fail_open && server.tells_fail_open);
    assert!(config.upstream(&server.cluster).unwrap().endpoints.is_empty(), "nobody has said where it is");

    let config = asking("authorization: {by: server, failOpen: true}", "tcp", Some(at));
    let ListenerKind::Tcp(tcp) = &listener_of(&config, "ingress").kind else { panic!("not TCP") };
    assert!(matches!(&tcp.authorize, Some(Authorizer::Server(server)) if server.fail_open));
}
