//! The layout of an access-log line, compiled once from Envoy's `json_format`.

use std::sync::Arc;

use http::HeaderName;

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog` with a `json_format`: one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat {
    /// The file, like `/dev/stdout`.
    pub path: Arc<str>,
    /// In the order written: the key as JSON, quoted and with its colon (`"method":`), and what stands behind it.
    /// Sorted by key, as Envoy does.
    pub keys: Vec<(Arc<str>, LogField)>,
}

/// What stands behind a key; `null` when a request has no such thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogField {
    /// This JSON text, already quoted and escaped.
    Literal(Arc<str>),
    /// `%START_TIME%`: when the request came, RFC 3339 with milliseconds.
    StartTime,
    /// `%REQ(:METHOD)%`.
    Method,
    /// `%REQ(:PATH)%` and `%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%` (our proxy rewrites no path).
    Path,
    /// `%REQ(:AUTHORITY)%`.
    Authority,
    /// `%REQ(:SCHEME)%`.
    Scheme,
    /// `%REQ(name)%`, like `user-agent`, `x-request-id`, `x-forwarded-for`.
    RequestHeader(HeaderName),
    /// `%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%`: milliseconds until the upstream's response headers.
    UpstreamServiceTime,
    /// `%PROTOCOL%`, like `HTTP/1.1`.
    Protocol,
    /// `%RESPONSE_CODE%`: a number.
    ResponseCode,
    /// `%RESPONSE_FLAGS%`: short names, `-` for none.
    ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    ResponseCodeDetails,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    ConnectionTerminationDetails,
    /// `%BYTES_RECEIVED%`: of the request's body.
    BytesReceived,
    /// `%BYTES_SENT%`: of the response's body.
    BytesSent,
    /// `%DURATION%`: milliseconds from the start to the last byte.
    Duration,
    /// `%UPSTREAM_HOST%`: address of the endpoint.
    UpstreamHost,
    /// `%UPSTREAM_CLUSTER%` and `%UPSTREAM_CLUSTER_RAW%`.
    UpstreamCluster,
    /// `%UPSTREAM_LOCAL_ADDRESS%`.
    UpstreamLocalAddress,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    UpstreamTransportFailureReason,
    /// `%UPSTREAM_REQUEST_ATTEMPT_COUNT%`: 0 when none was sent.
    UpstreamRequestAttemptCount,
    /// `%UPSTREAM_PEER_URI_SAN%`: SPIFFE ID of the endpoint.
    UpstreamPeerUriSan,
    /// `%UPSTREAM_LOCAL_URI_SAN%`: our SPIFFE ID, as shown to the endpoint.
    UpstreamLocalUriSan,
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`.
    DownstreamLocalAddress,
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`.
    DownstreamRemoteAddress,
    /// `%DOWNSTREAM_PEER_URI_SAN%`: SPIFFE ID of the client.
    DownstreamPeerUriSan,
    /// `%DOWNSTREAM_LOCAL_URI_SAN%`: our SPIFFE ID, as shown to the client.
    DownstreamLocalUriSan,
    /// `%REQUESTED_SERVER_NAME%`: SNI of the client.
    RequestedServerName,
    /// `%ROUTE_NAME%`.
    RouteName,
    /// `%TRACE_ID%`.
    TraceId,
    /// `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision)%`: `allow` or `deny`.
    Decision,
    /// `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%`.
    DecisionId,
    /// `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:policy)%`: what determined the decision.
    Policy,
    /// `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:shadow)%`: what the shadow policies would have decided, if that is something else.
    Shadow,
    /// `%REQ(x-envoy-auth-failure-mode-allowed)%`: `true` when nobody could be asked whether the call is allowed, and it passed.
    FailedOpen,
    /// `%DYNAMIC_METADATA(weft:layer)%`: the layer of a failure made by the mesh.
    Layer,
    /// `%DYNAMIC_METADATA(weft:cause)%`: its cause.
    Cause,
    /// `%DYNAMIC_METADATA(weft:config_version)%`: the commit.
    ConfigVersion,
}
