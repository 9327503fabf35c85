//! The whole output for a small mesh, to be read by whoever changes it.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use support::mesh;
use weft_compile::testing::{MESH, endpoint, name, service, service_of, sidecar};
use weft_compile::{CompiledMesh, EndpointSet, Proxy, ProxyKind, compile};
use weft_xds::type_url::LISTENER;

fn intent() -> String {
    let board = "subsets: {v1: {version: v1}}
access: [{from: [prod/web]}]
routes:
  - matches: [{path: {type: PathPrefix, value: /api/}, method: GET, headers: [{name: x-version, value: v1}]}]
    backendRefs: [{subset: v1, weight: 90}, {weight: 10}]
    timeouts: {request: 2s}
  - matches: [{path: {type: Exact, value: /api}}]";
    let db = "endpoints: {static: [{address: '10.0.0.2:1'}]}\naccess: [{from: [prod/web, prod/board]}]";
    [MESH.to_owned(), service("prod/web", ""), service("prod/board", board), service_of("data/db", "tcp", 5432, db)]
        .concat()
}

fn endpoints() -> EndpointSet {
    let at = |port, version| endpoint(([10, 0, 0, 1], port).into(), &[("version", version), ("zone", "a")]);
    [(name("prod/board"), Arc::from([at(2, "v2"), at(1, "v1")]))].into()
}

fn shown(mesh: &CompiledMesh, proxy: &Proxy) -> String {
    support::render::snapshot(&compile(mesh, &endpoints(), proxy))
}

#[test]
fn a_caller_of_http_and_tcp() {
    insta::assert_snapshot!(shown(&mesh(&intent(), "c1"), &sidecar("prod/web", 1)));
}

#[test]
fn a_tcp_service_that_calls_nobody() {
    insta::assert_snapshot!(shown(&mesh(&intent(), "c1"), &sidecar("data/db", 1)));
}

/// All that differs is told here; what a strict service gets stands in the pages above.
#[test]
fn a_permissive_ingress_has_the_filters_of_the_strict_one_for_plain_text_too() {
    let ingress = |mtls: &str| -> Listener {
        let board = service("prod/board", &format!("mtls: {mtls}\naccess: [{{from: [plain-text]}}]"));
        let snapshot = compile(&mesh(&(MESH.to_owned() + &board), "c1"), &endpoints(), &sidecar("prod/board", 1));
        snapshot.get(LISTENER)["ingress"].decode().unwrap()
    };
    let (strict, mut permissive) = (ingress("strict"), ingress("permissive"));
    let plain = permissive.filter_chains.pop().unwrap();
    let protocol = |chain: &FilterChain| chain.filter_chain_match.clone().unwrap().transport_protocol;
    assert_eq!((protocol(&permissive.filter_chains[0]), protocol(&plain)), ("tls".to_owned(), "raw_buffer".to_owned()));
    let only_filters = FilterChain {
        filters: strict.filter_chains[0].filters.clone(),
        filter_chain_match: plain.filter_chain_match.clone(),
        ..Default::default()
    };
    assert_eq!(plain, only_filters);
    assert_eq!(permissive.listener_filters[0].name, "envoy.filters.listener.tls_inspector");
    assert_eq!(permissive.listener_filters_timeout.as_ref().map(|bound| bound.seconds), Some(10));
    permissive.filter_chains[0].filter_chain_match = None;
    (permissive.listener_filters, permissive.listener_filters_timeout) = (Vec::new(), None);
    assert_eq!(permissive, strict);
}

#[test]
fn a_proxyless_grpc_client() {
    let client = Proxy { kind: ProxyKind::Grpc, ..sidecar("prod/web", 1) };
    insta::assert_snapshot!(shown(&mesh(&intent(), "c1"), &client));
}

#[test]
fn a_service_that_the_commit_does_not_know_gets_the_commit_alone() {
    insta::assert_snapshot!(shown(&mesh(&intent(), "c1"), &sidecar("prod/unknown", 1)), @"
    == revision mesh
    c1
    ");
}

#[test]
fn proxies_share_what_is_the_same_for_them() {
    let mesh = mesh(&intent(), "c1");
    let endpoints = endpoints();
    let [first, second, other] = [sidecar("prod/web", 1), sidecar("prod/web", 2), sidecar("prod/board", 3)]
        .map(|proxy| compile(&mesh, &endpoints, &proxy));
    for (kind, resources) in first.types() {
        for (key, resource) in resources {
            let same = second.get(kind).get(key).is_some_and(|theirs| Arc::ptr_eq(theirs, resource));
            let own = matches!(&**key, "egress" | "ingress" | "inbound|8080||") && kind != weft_xds::type_url::ROUTE;
            assert_eq!(same, !own, "{resource:?}");
        }
    }
    let shared = other.types().flat_map(|(kind, resources)| resources.iter().map(move |(key, one)| (kind, key, one)));
    let shared =
        shared.filter(|(kind, key, one)| first.get(kind).get(*key).is_some_and(|theirs| Arc::ptr_eq(theirs, one)));
    let shared: Vec<_> = shared.map(|(_, key, _)| &**key).collect();
    assert_eq!(shared, ["outbound|5432||db.data", "outbound|5432||db.data", "mesh"]);
}
