//! Envoy itself reads what we compile.

#![allow(clippy::unwrap_used)]

mod support;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, ApiVersion, GrpcService, Node};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::util::pack_any;
use prost::Message;
use serde_json::json;
use weft_compile::testing;
use weft_compile::{AGENT_CLUSTER, CompiledMesh, EndpointSet, bootstrap, compile};
use weft_xds::{Snapshot, type_url};

const MESH: &str = include_str!("mesh.yaml");

/// Everything in a snapshot as static resources, its routes inline in a copy of the egress listener.
fn static_bootstrap(mesh: &CompiledMesh, snapshot: &Snapshot) -> Bootstrap {
    let decode = |type_url| snapshot.get(type_url).values();
    let mut listeners: Vec<Listener> = decode(type_url::LISTENER).map(|one| one.decode().unwrap()).collect();
    let clusters: Vec<Cluster> = decode(type_url::CLUSTER).map(|one| one.decode().unwrap()).collect();
    let routes: RouteConfiguration = snapshot.get(type_url::ROUTE)["egress"].decode().unwrap();
    let elsewhere = testing::sidecar("prod/web", 2);
    let mut inline: Listener =
        compile(mesh, &EndpointSet::new(), &elsewhere).get(type_url::LISTENER)["egress"].decode().unwrap();
    inline.name = "routes".to_owned();
    let config = inline.filter_chains[0].filters[0].config_type.as_mut().unwrap();
    let filter::ConfigType::TypedConfig(any) = config else { panic!() };
    let mut manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes));
    *any = pack_any(manager);
    listeners.push(inline);

    let agent = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: AGENT_CLUSTER.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let ads = ApiConfigSource {
        api_type: ApiType::DeltaGrpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![agent],
        ..Default::default()
    };
    Bootstrap {
        node: Some(Node { id: "prod/web~1".to_owned(), cluster: "prod/web".to_owned(), ..Default::default() }),
        static_resources: Some(StaticResources { listeners, clusters, ..Default::default() }),
        dynamic_resources: Some(DynamicResources { ads_config: Some(ads), ..Default::default() }),
        ..Default::default()
    }
}

#[test]
fn envoy_takes_the_resources_of_every_protocol() {
    let Some(envoy) = support::envoy::find() else { return };
    let mesh = support::mesh(MESH, "c1");
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("agent.sock");
    for service in mesh.intent().services.keys() {
        let proxy = testing::sidecar(service.as_str(), 1);
        let mut config = static_bootstrap(&mesh, &compile(&mesh, &EndpointSet::new(), &proxy));
        // The cluster of the agent, as our own bootstrap writes it.
        let ours = bootstrap::envoy(&bootstrap::Bootstrap {
            node_id: "x".to_owned(),
            service: service.clone(),
            metadata: json!({}),
            agent: agent.clone(),
            admin: ([127, 0, 0, 1], 0).into(),
        });
        let path = folder.path().join("envoy.json");
        std::fs::write(&path, ours.unwrap()).unwrap();
        let output = support::envoy::validate(&envoy, &path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        config.static_resources.as_mut().unwrap().clusters.push(support::envoy::agent_cluster(&agent));
        let path = folder.path().join("static.pb");
        std::fs::write(&path, config.encode_to_vec()).unwrap();
        let output = support::envoy::validate(&envoy, &path);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{service}: {said}");
        assert!(!said.contains("deprecated"), "{service}: {said}");
    }
}
