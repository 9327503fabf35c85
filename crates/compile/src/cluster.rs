//! Clusters: the services that a proxy may call, and the app behind it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions as UpstreamHttpOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use weft_model::intent::{Protocol, Service};
use weft_model::{SpiffeId, TrustDomain};
use weft_xds::{Resource, type_url};

use crate::pb::{ads, any, duration, socket_address, uint32};
use crate::{limits, names, tls};

/// From `connect()` to the end of the TLS handshake. Three attempts fit into the default request timeout of 15 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The cluster of a service, or of one of its subsets, as a sidecar calls it.
pub(crate) fn outbound(trust_domain: &TrustDomain, service: &Service, subset: Option<&str>) -> Arc<Resource> {
    let name = names::outbound_cluster(service, subset);
    let peer = SpiffeId::for_service(trust_domain, &service.name);
    let cluster = between(&peer, service, subset, eds(&name, LbPolicy::LeastRequest));
    Resource::new(type_url::CLUSTER, &name, &cluster)
}

/// The cluster of a service of another trust domain, which is where the intent says.
pub(crate) fn foreign(peer: &SpiffeId, service: &Service, addresses: &[SocketAddr]) -> Arc<Resource> {
    let name = names::outbound_cluster(service, None);
    let fixed = Cluster { lb_policy: LbPolicy::LeastRequest.into(), ..fixed(&name, addresses) };
    Resource::new(type_url::CLUSTER, &name, &between(peer, service, None, fixed))
}

/// Mutual TLS with `peer`, and HTTP/2 unless it is bytes that are carried.
fn between(peer: &SpiffeId, service: &Service, subset: Option<&str>, cluster: Cluster) -> Cluster {
    let http = service.protocol != Protocol::Tcp;
    Cluster {
        transport_socket: Some(tls::upstream(
            peer,
            service.name.server_name(service.port, subset),
            if http { &["h2"] } else { &[] },
        )),
        typed_extension_protocol_options: if http {
            speaking(http2(), limits::BETWEEN.of_responses())
        } else {
            HashMap::new()
        },
        circuit_breakers: Some(bounds()),
        ..cluster
    }
}

/// The same for a proxyless gRPC client. gRPC knows `LEAST_REQUEST` only as an experiment.
pub(crate) fn outbound_for_grpc(trust_domain: &TrustDomain, service: &Service, subset: Option<&str>) -> Arc<Resource> {
    let name = names::outbound_cluster(service, subset);
    let peer = SpiffeId::for_service(trust_domain, &service.name);
    let cluster = Cluster { transport_socket: Some(tls::upstream_for_grpc(&peer)), ..eds(&name, LbPolicy::RoundRobin) };
    Resource::new(type_url::CLUSTER, &name, &cluster)
}

/// The app behind a sidecar, in clear.
pub(crate) fn inbound(service: &Service, app: SocketAddr) -> Arc<Resource> {
    let name = names::inbound_cluster(service);
    let cluster = Cluster {
        typed_extension_protocol_options: match service.protocol {
            Protocol::Http => speaking(http1(), idle_for(service.app.idle_timeout)),
            Protocol::Grpc => speaking(http2(), limits::FROM_APP.of_responses()),
            Protocol::Tcp => HashMap::new(),
        },
        circuit_breakers: Some(bounds()),
        ..fixed(&name, &[app])
    };
    Resource::new(type_url::CLUSTER, &name, &cluster)
}

/// A gRPC service of the control plane; without an address nobody answers.
pub(crate) fn control_plane(name: &str, trust_domain: &TrustDomain, address: Option<SocketAddr>) -> Arc<Resource> {
    let peer = SpiffeId::of_control_plane(trust_domain);
    let cluster = Cluster {
        transport_socket: Some(tls::upstream(&peer, name.to_owned(), &["h2"])),
        typed_extension_protocol_options: speaking(http2(), limits::BETWEEN.of_responses()),
        circuit_breakers: Some(bounds()),
        ..fixed(name, address.as_slice())
    };
    Resource::new(type_url::CLUSTER, name, &cluster)
}

fn fixed(name: &str, addresses: &[SocketAddr]) -> Cluster {
    let lb_endpoints = addresses.iter().map(|address| {
        let endpoint = Endpoint { address: socket_address(*address), ..Default::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
    });
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: duration(CONNECT_TIMEOUT),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: lb_endpoints.collect(), ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn eds(name: &str, lb_policy: LbPolicy) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), service_name: name.to_owned() }),
        connect_timeout: duration(CONNECT_TIMEOUT),
        lb_policy: lb_policy.into(),
        ..Default::default()
    }
}

/// Extended CONNECT (RFC 8441) is how a WebSocket travels between sidecars.
fn http2() -> ProtocolConfig {
    ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions { allow_connect: true, ..Default::default() })
}

/// An app that sends both framings means chunks (RFC 9112 s.6.3).
fn http1() -> ProtocolConfig {
    ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions { allow_chunked_length: true, ..Default::default() })
}

/// Envoy would keep an idle connection for an hour, and the first request on one that the app has given up fails.
fn idle_for(timeout: Duration) -> HttpProtocolOptions {
    HttpProtocolOptions { idle_timeout: duration(timeout), ..limits::FROM_APP.of_responses() }
}

fn speaking(
    protocol: ProtocolConfig,
    common: HttpProtocolOptions,
) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    let options = UpstreamHttpOptions {
        common_http_protocol_options: Some(common),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..Default::default()
    };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options))])
}

/// As many retries as requests may be under way. Envoy's default of three would fail requests when one endpoint of two is gone
/// and thirty callers notice at once, or when an app refuses thirty streams; only what no server began to work on is retried, so there is no storm to fear. The other
/// bounds stay Envoy's: 1024 connections, pending requests and requests.
fn bounds() -> CircuitBreakers {
    let thresholds = vec![Thresholds { max_retries: uint32(1024), ..Default::default() }];
    CircuitBreakers { thresholds, ..Default::default() }
}
