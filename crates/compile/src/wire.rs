//! The few Envoy messages that hold a map with several entries, with ordered maps.
//!
//! `envoy-types` has hash maps there, whose order differs from process to process; equal content must have equal bytes, because
//! the bytes are the version. The tags are those of the originals, so the encoding is the same.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLogFilter;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValueOption, Locality};
use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use envoy_types::pb::google::protobuf::{UInt32Value, Value};

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Struct {
    /// Members, by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) fields: BTreeMap<String, Value>,
}

/// `envoy.config.core.v3.SubstitutionFormatString` with a `json_format`, or a `text_format_source`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SubstitutionFormat {
    /// A JSON object.
    #[prost(message, optional, tag = "2")]
    pub(crate) json_format: Option<Struct>,
    /// A text.
    #[prost(message, optional, tag = "5")]
    pub(crate) text_format_source: Option<DataSource>,
    /// Media type, of a local reply.
    #[prost(string, tag = "4")]
    pub(crate) content_type: String,
}

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileAccessLog {
    /// File.
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    /// Layout of a line.
    #[prost(message, optional, tag = "5")]
    pub(crate) log_format: Option<SubstitutionFormat>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResponseMapper {
    /// When it applies.
    #[prost(message, optional, tag = "1")]
    pub(crate) filter: Option<AccessLogFilter>,
    /// Its status, instead of the one that it would have.
    #[prost(message, optional, tag = "2")]
    pub(crate) status_code: Option<UInt32Value>,
    /// Body of the reply.
    #[prost(message, optional, tag = "4")]
    pub(crate) body_format_override: Option<SubstitutionFormat>,
    /// Fields that the reply gets.
    #[prost(message, repeated, tag = "5")]
    pub(crate) headers_to_add: Vec<HeaderValueOption>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LocalReplyConfig {
    /// The first that applies, rules.
    #[prost(message, repeated, tag = "1")]
    pub(crate) mappers: Vec<ResponseMapper>,
    /// Where none applies.
    #[prost(message, optional, tag = "2")]
    pub(crate) body_format: Option<SubstitutionFormat>,
}

/// The one field of `HttpConnectionManager` that needs ordered maps; its encoding is appended to the rest of the message.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpConnectionManagerTail {
    /// `local_reply_config`.
    #[prost(message, optional, tag = "38")]
    pub(crate) local_reply_config: Option<LocalReplyConfig>,
}

/// `envoy.config.core.v3.Metadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Metadata {
    /// By namespace.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) filter_metadata: BTreeMap<String, Struct>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LbEndpoint {
    /// Where it is.
    #[prost(message, optional, tag = "1")]
    pub(crate) endpoint: Option<Endpoint>,
    /// Its labels.
    #[prost(message, optional, tag = "3")]
    pub(crate) metadata: Option<Metadata>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LocalityLbEndpoints {
    /// Empty for now; gRPC refuses an assignment without one.
    #[prost(message, optional, tag = "1")]
    pub(crate) locality: Option<Locality>,
    /// Endpoints, sorted.
    #[prost(message, repeated, tag = "2")]
    pub(crate) lb_endpoints: Vec<LbEndpoint>,
    /// Localities of equal priority share by weight; gRPC ignores a locality without one.
    #[prost(message, optional, tag = "3")]
    pub(crate) load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClusterLoadAssignment {
    /// Name of the cluster.
    #[prost(string, tag = "1")]
    pub(crate) cluster_name: String,
    /// One locality, or none without endpoints.
    #[prost(message, repeated, tag = "2")]
    pub(crate) endpoints: Vec<LocalityLbEndpoints>,
}

/// `envoy.config.route.v3.RouteConfiguration` whose virtual hosts are encoded already: each is encoded once for all callers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RouteConfiguration {
    /// Name.
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// Encoded virtual hosts.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) virtual_hosts: Vec<bytes::Bytes>,
}
