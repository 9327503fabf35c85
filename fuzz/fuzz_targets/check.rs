//! A check that an Envoy asks for, or whoever can connect: only the one caller, method and paths that are allowed pass.
#![no_main]

use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request as Attributes};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use weft_authz::ExtAuthz;
use weft_fuzz::{board, edited, intent};
use weft_model::SpiffeId;
use weft_policy::{Engine, path};

const WEB: &str = "spiffe://acme.internal/ns/prod/sa/web";
const BOARD: &str = "spiffe://acme.internal/ns/prod/sa/board";

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let socket = SocketAddress {
        address: "10.1.2.3".into(),
        port_specifier: Some(PortSpecifier::PortValue(4000)),
        ..Default::default()
    };
    let address = Address { address: Some(address::Address::SocketAddress(socket)) };
    let peer = |id: &str| Some(Peer { principal: id.into(), address: Some(address.clone()), ..Default::default() });
    let http = HttpRequest {
        method: "GET".into(),
        path: "/api/pins?x=1".into(),
        host: "board.prod:8080".into(),
        protocol: "HTTP/2".into(),
        headers: [("x-request-id".into(), "r1".into()), ("content-type".into(), "application/grpc".into())].into(),
        ..Default::default()
    };
    let attributes = AttributeContext {
        source: peer(WEB),
        destination: peer(BOARD),
        request: Some(Attributes { http: Some(http), ..Default::default() }),
        ..Default::default()
    };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
});

static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(Engine::new(&board(&intent())).expect("good")));

fuzz_target!(|edits: &[u8]| {
    let Ok(check) = CheckRequest::decode(edited(&GOOD, edits).as_slice()) else { return };
    let source = |callee: Option<&SpiffeId>| callee.filter(|id| id.as_str() == BOARD).map(|_| ENGINE.clone());
    let answer = ExtAuthz::new(source).check(tonic::Request::new(check.clone())).now_or_never();
    let answer = answer.expect("nothing to wait for").expect("without a certificate nobody is refused").into_inner();
    if answer.status.expect("always there").code == 0 {
        let attributes = check.attributes.expect("who and what");
        let http = attributes.request.and_then(|request| request.http).expect("what");
        assert_eq!(attributes.destination.expect("whom").principal, BOARD);
        let target = path::normalize(&http.path, Default::default()).expect("a path that is refused is not allowed");
        let path = path::split(&target).0;
        let caller = attributes.source.expect("who").principal;
        let caller = caller.strip_prefix("spiffe://acme.internal/ns/").expect("no other mesh");
        let api = match &*http.method {
            "GET" => path == "/api" || path.starts_with("/api/"),
            method => method == "POST" && path == "/api/pins",
        };
        let is_api = api && ["prod/sa/web", "tools/sa/echo"].contains(&caller);
        let is_public = path.starts_with("/public/") && path.ends_with("/x");
        let of_mesh = ["prod/sa/web", "prod/sa/board", "prod/sa/db", "tools/sa/echo"].contains(&caller);
        assert!(is_api || is_public && of_mesh, "{caller}: {http:?}");
    }
});
