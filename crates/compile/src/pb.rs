//! Short ways to write Envoy's protobuf messages.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService, SocketAddress, address,
    api_config_source::ApiType,
};
use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

/// The cluster of the bootstrap that leads to the agent: ADS, SDS and ext_authz.
pub const AGENT_CLUSTER: &str = "weft_agent";

/// `message` in an `Any`.
pub(crate) fn any<M: Name + Message>(message: &M) -> protobuf::Any {
    protobuf::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(crate) fn uint32(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub(crate) fn boolean(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

/// Durations of configuration are far below the bound of `google.protobuf.Duration` (10,000 years).
pub(crate) fn duration(value: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: value.subsec_nanos() as i32 })
}

pub(crate) fn text(value: &str) -> protobuf::Value {
    protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(value.to_owned())) }
}

pub(crate) fn socket_address(at: SocketAddr) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..Default::default()
        })),
    })
}

/// Where something listens: at `[::]` that is IPv4 too, as it is for everything else on a machine.
pub(crate) fn listening_at(at: SocketAddr) -> Option<Address> {
    let mut address = socket_address(at);
    if let Some(address::Address::SocketAddress(socket)) = address.as_mut().and_then(|address| address.address.as_mut())
    {
        socket.ipv4_compat = is_of_both_families(at);
    }
    address
}

pub(crate) fn is_of_both_families(at: SocketAddr) -> bool {
    at.is_ipv6() && at.ip().is_unspecified()
}

/// "Ask the stream that this came from."
pub(crate) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    })
}

/// "Ask the agent on a stream of its own", as Envoy wants it for secrets.
pub(crate) fn agent_source() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
            api_type: ApiType::Grpc.into(),
            transport_api_version: ApiVersion::V3.into(),
            grpc_services: vec![agent_service()],
            ..Default::default()
        })),
        ..Default::default()
    })
}

/// The agent as a gRPC service.
pub(crate) fn agent_service() -> GrpcService {
    grpc_service(AGENT_CLUSTER, None)
}

/// A gRPC service behind a cluster, with a bound for each call.
pub(crate) fn grpc_service(cluster: &str, timeout: Option<Duration>) -> GrpcService {
    GrpcService {
        timeout: timeout.and_then(duration),
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}
