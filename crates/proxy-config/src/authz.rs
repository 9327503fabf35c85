//! Who decides whether a request or a connection is allowed.

use std::time::Duration;

use http::StatusCode;

use super::cluster::ClusterRef;

/// Who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorizer {
    /// The policy engine of this process: what ext_authz at the cluster `weft_agent` means to this proxy.
    Engine,
    /// An ext_authz server.
    Server(AuthzServer),
}

/// `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz` and `envoy.extensions.filters.network.ext_authz.v3.ExtAuthz` with a `grpc_service`.
///
/// Routes are chosen after the answer, by what it made of the request (`clear_route_cache`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthzServer {
    /// Where it is.
    pub cluster: ClusterRef,
    /// How long an answer may take (`grpc_service.timeout`); `None` is for ever. Default 200 ms.
    pub timeout: Option<Duration>,
    /// Whether a call passes when there is no answer (`failure_mode_allow`).
    pub fail_open: bool,
    /// Whether the app is told that it passed so, by `x-envoy-auth-failure-mode-allowed` (`failure_mode_allow_header_add`).
    pub tells_fail_open: bool,
    /// What the caller gets when there is no answer (`status_on_error`). Default 403.
    pub status_on_error: StatusCode,
    /// Whether the server is told the server name of the TLS handshake (`include_tls_session`).
    pub include_tls_session: bool,
    /// What it is shown of a request's body (`with_request_body`); `None` is nothing.
    pub body: Option<BodyShown>,
}

/// How much of a body an ext_authz server is shown, and how (`BufferSettings`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyShown {
    /// In bytes, at least 1 (`max_request_bytes`).
    pub most: usize,
    /// Whether a longer body is shown in part; else such a request is refused with 413 (`allow_partial_message`).
    pub in_part: bool,
    /// As it is, and not as text (`pack_as_bytes`).
    pub as_bytes: bool,
}
