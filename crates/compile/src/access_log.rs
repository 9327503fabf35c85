//! The access log: one JSON line a request (or a TCP connection) at each hop, the same from Envoy and from our proxy.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::hop::Hop;
use crate::pb::text;
use crate::wire;

/// Who decides about a call, by the name under which Envoy keeps the decision's metadata.
pub(crate) const HTTP_AUTHZ: &str = "envoy.filters.http.ext_authz";
/// The same for TCP.
pub(crate) const TCP_AUTHZ: &str = "envoy.filters.network.ext_authz";

/// The 24 keys of Istio's JSON log.
const ISTIO: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// What Weft adds on both hops. Envoy has nothing in the namespace `weft` and prints `null`; our proxy knows.
const BOTH: [(&str, &str); 6] = [
    ("attempt_count", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("authz_failed_open", "%REQ(X-ENVOY-AUTH-FAILURE-MODE-ALLOWED)%"),
    ("cause", "%DYNAMIC_METADATA(weft:cause)%"),
    ("config_version", "%DYNAMIC_METADATA(weft:config_version)%"),
    ("layer", "%DYNAMIC_METADATA(weft:layer)%"),
    ("trace_id", "%TRACE_ID%"),
];

/// What Weft adds and one hop sees on its mutual-TLS side.
const EGRESS: [(&str, &str); 3] =
    [("hop", "egress"), ("own_id", "%UPSTREAM_LOCAL_URI_SAN%"), ("peer_id", "%UPSTREAM_PEER_URI_SAN%")];
const INGRESS: [(&str, &str); 3] =
    [("hop", "ingress"), ("own_id", "%DOWNSTREAM_LOCAL_URI_SAN%"), ("peer_id", "%DOWNSTREAM_PEER_URI_SAN%")];

/// A JSON line to the file at `path`. `authz` is where the decision is found.
pub(crate) fn json(path: &str, hop: Hop, authz: &str) -> AccessLog {
    let hop = match hop {
        Hop::Egress => EGRESS,
        Hop::Ingress => INGRESS,
    };
    let decision = ["decision", "decision_id", "policy", "shadow"]
        .map(|key| (key.to_owned(), text(&format!("%DYNAMIC_METADATA({authz}:{key})%"))));
    let fields = ISTIO.iter().chain(&BOTH).chain(&hop).map(|&(key, format)| (key.to_owned(), text(format)));
    let format = wire::SubstitutionFormat {
        json_format: Some(wire::Struct { fields: fields.chain(decision).collect() }),
        ..Default::default()
    };
    let log = wire::FileAccessLog { path: path.to_owned(), log_format: Some(format) };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog".to_owned(),
            value: log.encode_to_vec(),
        })),
        ..Default::default()
    }
}
