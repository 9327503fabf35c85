//! Every way in which the mesh itself can fail a request, with the layer that is at fault.
//!
//! The same three words stand in the response (`problem`), the `Proxy-Status` header, the access-log line and the metric, so
//! that an operator who sees one of them can find the others.

use http::StatusCode;

/// The part of the system that has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// The caller sent something that cannot be served.
    Client,
    /// No route leads there.
    Routing,
    /// The service is known, no endpoint of it is.
    Discovery,
    /// An endpoint did not answer, or the connection broke.
    Network,
    /// A certificate or a SPIFFE ID was refused.
    Identity,
    /// A policy, or the absence of one, denied the call.
    Policy,
    /// A bound of the mesh was reached.
    Overload,
    /// The application behind the callee's sidecar.
    App,
    /// Time ran out.
    Timeout,
    /// The sidecar has not (yet) got what it needs from the control plane.
    Config,
}

impl Layer {
    /// The word that stands in logs and problems.
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Client => "client",
            Layer::Routing => "routing",
            Layer::Discovery => "discovery",
            Layer::Network => "network",
            Layer::Identity => "identity",
            Layer::Policy => "policy",
            Layer::Overload => "overload",
            Layer::App => "app",
            Layer::Timeout => "timeout",
            Layer::Config => "config",
        }
    }
}

/// A mesh-made failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The path has an encoded slash, backslash or NUL, or a malformed percent-encoding.
    BadPath,
    /// The request has no host, more than one, or one that cannot be read.
    BadHost,
    /// The request breaks the rules of HTTP: its head cannot be parsed, or its body is framed wrongly.
    BadRequest,
    /// The head of the request is larger than the proxy takes.
    HeadTooLarge,
    /// The body of the request is longer than the authorization server is to be shown.
    BodyTooLarge,
    /// The head of the request did not come as a whole within its time.
    HeadTimeout,
    /// No virtual host for the name: it does not exist, or no policy lets this service call it.
    UnknownHost,
    /// The host is known, none of its routes matches.
    NoRoute,
    /// The route names a cluster that has not been delivered.
    NoCluster,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// The endpoint refused the connection or could not be reached.
    ConnectFailed,
    /// The endpoint did not answer within the connect timeout.
    ConnectTimeout,
    /// The TLS handshake failed: a certificate or an identity was refused.
    TlsFailed,
    /// This sidecar has no identity yet.
    IdentityMissing,
    /// This sidecar's own certificate has expired.
    IdentityExpired,
    /// This sidecar's own certificate is not valid yet.
    IdentityNotYetValid,
    /// Every root that this sidecar knows has expired.
    TrustBundleExpired,
    /// By the peer's clock this sidecar's certificate has expired, or is not valid yet.
    IdentityRefused,
    /// This sidecar's own identity is banned.
    IdentityBanned,
    /// The endpoint is banned: its identity, its machine or its certificate.
    PeerIdentityBanned,
    /// The endpoint has no certificate to show.
    PeerIdentityMissing,
    /// The endpoint's certificate has expired.
    PeerIdentityExpired,
    /// The endpoint's certificate is not valid yet.
    PeerIdentityNotYetValid,
    /// The connection ended before a response began.
    UpstreamClosed,
    /// The upstream reset the stream before a response began.
    UpstreamReset,
    /// The upstream did not speak HTTP as agreed.
    UpstreamProtocol,
    /// The request's time ran out.
    RequestTimeout,
    /// A policy forbade the call, or none permitted it.
    Denied,
    /// No policy has been delivered yet, so everything is denied.
    NoPolicy,
    /// The authorization server could not be asked, or its answer not be read.
    NoDecision,
    /// Too many requests or connections are under way.
    Overflow,
    /// The caller went away before the response was complete.
    ClientGone,
    /// The caller took nothing of the answer for too long.
    ClientStalled,
    /// The app could not be reached by its sidecar.
    AppUnreachable,
    /// The app closed the connection before it answered.
    AppClosed,
    /// The app reset the request, or broke its answer off.
    AppReset,
    /// The app did not speak HTTP.
    AppProtocol,
}

/// What is said of a failure, in every place where it is said.
pub struct Facts {
    /// Status of the response.
    pub status: StatusCode,
    /// Envoy's response flag, `-` where Envoy has none.
    pub flag: &'static str,
    /// The layer at fault.
    pub layer: Layer,
    /// One snake_case word.
    pub cause: &'static str,
    /// Envoy's `RESPONSE_CODE_DETAILS`.
    pub details: &'static str,
    /// `Proxy-Status` error type (RFC 9209 s.2.3).
    pub proxy_status: &'static str,
    /// Title of the problem (RFC 9457 s.3.1.3).
    pub title: &'static str,
}

impl Failure {
    /// The facts of this failure.
    pub fn facts(self) -> &'static Facts {
        macro_rules! facts {
            ($status:ident, $flag:literal, $layer:ident, $cause:literal, $details:literal, $proxy:literal, $title:literal) => {
                &Facts {
                    status: StatusCode::$status,
                    flag: $flag,
                    layer: Layer::$layer,
                    cause: $cause,
                    details: $details,
                    proxy_status: $proxy,
                    title: $title,
                }
            };
        }
        use Failure::*;
        match self {
            BadPath => facts!(
                BAD_REQUEST,
                "-",
                Client,
                "bad_path",
                "path_normalization_failed",
                "http_request_error",
                "The path cannot be normalised safely"
            ),
            BadHost => facts!(
                BAD_REQUEST,
                "-",
                Client,
                "bad_host",
                "missing_host_header",
                "http_request_error",
                "The request names no host, or more than one"
            ),
            BadRequest => facts!(
                BAD_REQUEST,
                "DPE",
                Client,
                "bad_request",
                "http1.codec_error",
                "http_request_error",
                "The request breaks the HTTP protocol"
            ),
            HeadTooLarge => facts!(
                REQUEST_HEADER_FIELDS_TOO_LARGE,
                "DPE",
                Client,
                "head_too_large",
                "request_headers_too_large",
                "http_request_error",
                "The head of the request is too large"
            ),
            BodyTooLarge => facts!(
                PAYLOAD_TOO_LARGE,
                "-",
                Client,
                "body_too_large",
                "request_payload_too_large",
                "http_request_error",
                "The body of the request is longer than the authorization server takes"
            ),
            HeadTimeout => facts!(
                REQUEST_TIMEOUT,
                "DPE",
                Client,
                "head_timeout",
                "request_header_timeout",
                "http_request_error",
                "The head of the request did not come in time"
            ),
            UnknownHost => facts!(
                NOT_FOUND,
                "NR",
                Routing,
                "unknown_host",
                "route_not_found",
                "destination_not_found",
                "No such service for this caller"
            ),
            NoRoute => facts!(
                NOT_FOUND,
                "NR",
                Routing,
                "no_route",
                "route_not_found",
                "destination_not_found",
                "No route of the service matches"
            ),
            NoCluster => facts!(
                SERVICE_UNAVAILABLE,
                "NC",
                Config,
                "no_cluster",
                "cluster_not_found",
                "proxy_configuration_error",
                "The route's cluster is not configured"
            ),
            NoEndpoint => facts!(
                SERVICE_UNAVAILABLE,
                "UH",
                Discovery,
                "no_endpoint",
                "no_healthy_upstream",
                "destination_unavailable",
                "The service has no endpoint"
            ),
            ConnectFailed => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Network,
                "connect_failed",
                "upstream_reset_before_response_started{connection_failure}",
                "connection_refused",
                "The endpoint could not be reached"
            ),
            ConnectTimeout => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Network,
                "connect_timeout",
                "upstream_reset_before_response_started{connection_timeout}",
                "connection_timeout",
                "The endpoint did not answer in time"
            ),
            TlsFailed => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "tls_failed",
                "upstream_reset_before_response_started{connection_failure}",
                "tls_certificate_error",
                "The TLS handshake with the endpoint failed"
            ),
            IdentityMissing => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "identity_missing",
                "upstream_reset_before_response_started{connection_failure}",
                "proxy_configuration_error",
                "The sidecar has no identity yet"
            ),
            IdentityExpired => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "identity_expired",
                "upstream_reset_before_response_started{connection_failure}",
                "proxy_configuration_error",
                "The sidecar's own identity has expired"
            ),
            IdentityNotYetValid => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "identity_not_yet_valid",
                "upstream_reset_before_response_started{connection_failure}",
                "proxy_configuration_error",
                "The sidecar's own identity is not valid yet"
            ),
            TrustBundleExpired => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "trust_bundle_expired",
                "upstream_reset_before_response_started{connection_failure}",
                "proxy_configuration_error",
                "The root certificate that the sidecar trusts has expired"
            ),
            IdentityRefused => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "identity_refused",
                "upstream_reset_before_response_started{connection_failure}",
                "tls_certificate_error",
                "The endpoint takes the sidecar's identity for expired, or not valid yet"
            ),
            IdentityBanned => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "identity_banned",
                "upstream_reset_before_response_started{connection_failure}",
                "proxy_configuration_error",
                "The sidecar's own identity is banned"
            ),
            PeerIdentityBanned => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "peer_identity_banned",
                "upstream_reset_before_response_started{connection_failure}",
                "tls_certificate_error",
                "The endpoint's identity is banned"
            ),
            PeerIdentityMissing => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "peer_identity_missing",
                "upstream_reset_before_response_started{connection_failure}",
                "tls_certificate_error",
                "The endpoint has no identity yet"
            ),
            PeerIdentityExpired => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "peer_identity_expired",
                "upstream_reset_before_response_started{connection_failure}",
                "tls_certificate_error",
                "The endpoint's identity has expired"
            ),
            PeerIdentityNotYetValid => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                Identity,
                "peer_identity_not_yet_valid",
                "upstream_reset_before_response_started{connection_failure}",
                "tls_certificate_error",
                "The endpoint's identity is not valid yet"
            ),
            UpstreamClosed => facts!(
                SERVICE_UNAVAILABLE,
                "UC",
                Network,
                "upstream_closed",
                "upstream_reset_before_response_started{connection_termination}",
                "connection_terminated",
                "The connection to the endpoint broke"
            ),
            UpstreamReset => facts!(
                SERVICE_UNAVAILABLE,
                "UR",
                Network,
                "upstream_reset",
                "upstream_reset_before_response_started{remote_reset}",
                "connection_terminated",
                "The endpoint reset the request"
            ),
            UpstreamProtocol => facts!(
                BAD_GATEWAY,
                "UPE",
                Network,
                "upstream_protocol",
                "upstream_reset_before_response_started{protocol_error}",
                "http_protocol_error",
                "The endpoint broke the HTTP protocol"
            ),
            RequestTimeout => facts!(
                GATEWAY_TIMEOUT,
                "UT",
                Timeout,
                "request_timeout",
                "response_timeout",
                "http_response_timeout",
                "The request took longer than the route allows"
            ),
            Denied => facts!(
                FORBIDDEN,
                "UAEX",
                Policy,
                "denied",
                "ext_authz_denied",
                "http_request_denied",
                "The call is not allowed"
            ),
            NoPolicy => facts!(
                FORBIDDEN,
                "UAEX",
                Config,
                "no_policy",
                "ext_authz_error",
                "proxy_configuration_error",
                "No policy has been delivered to the callee's sidecar yet"
            ),
            NoDecision => facts!(
                SERVICE_UNAVAILABLE,
                "UAEX",
                Policy,
                "no_decision",
                "ext_authz_error",
                "http_request_denied",
                "Nobody could be asked whether the call is allowed"
            ),
            Overflow => facts!(
                SERVICE_UNAVAILABLE,
                "UO",
                Overload,
                "overflow",
                "overflow",
                "connection_limit_reached",
                "Too many requests are under way"
            ),
            ClientGone => facts!(
                BAD_REQUEST,
                "DC",
                Client,
                "client_gone",
                "downstream_remote_disconnect",
                "connection_terminated",
                "The caller went away"
            ),
            ClientStalled => facts!(
                REQUEST_TIMEOUT,
                "SI",
                Client,
                "client_stalled",
                "stream_idle_timeout",
                "http_request_error",
                "The caller took nothing of the answer"
            ),
            AppUnreachable => facts!(
                SERVICE_UNAVAILABLE,
                "UF",
                App,
                "app_unreachable",
                "upstream_reset_before_response_started{connection_failure}",
                "connection_refused",
                "The app does not listen"
            ),
            AppClosed => facts!(
                SERVICE_UNAVAILABLE,
                "UC",
                App,
                "app_closed",
                "upstream_reset_before_response_started{connection_termination}",
                "connection_terminated",
                "The app closed the connection before it answered"
            ),
            AppReset => facts!(
                SERVICE_UNAVAILABLE,
                "UR",
                App,
                "app_reset",
                "upstream_reset_before_response_started{remote_reset}",
                "connection_terminated",
                "The app reset the request"
            ),
            AppProtocol => facts!(
                BAD_GATEWAY,
                "UPE",
                App,
                "app_protocol",
                "upstream_reset_before_response_started{protocol_error}",
                "http_protocol_error",
                "The app broke the HTTP protocol"
            ),
        }
    }
}
