//! Where connections come in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_model::intent::Paths;
use weft_model::{SpiffeId, TrustDomain};

use weft_proxy_http::headers::Reserved;

use super::authz::Authorizer;
use super::cluster::ClusterRef;
use super::log_format::LogFormat;
use super::route::RouteTable;

/// One listening socket (`envoy.config.listener.v3.Listener`).
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique name, like `egress`.
    pub name: Arc<str>,
    /// Where to listen.
    pub address: SocketAddr,
    /// Whether it serves the app (outbound) or other sidecars (inbound).
    pub direction: Direction,
    /// `None` is clear text.
    pub tls: Option<DownstreamTls>,
    /// Clear text is taken beside TLS.
    pub permissive: Option<Permissive>,
    /// From accept to the end of the TLS handshake (`FilterChain.transport_socket_connect_timeout`); `None` is for ever. Default 10 s.
    pub handshake_timeout: Option<Duration>,
    /// What happens with a connection.
    pub kind: ListenerKind,
    /// How a line of the access log is written; `None` writes none.
    pub access_log: Option<Arc<LogFormat>>,
}

impl Listener {
    /// How long a client may take nothing of an answer; `None` is for ever.
    pub fn patience(&self) -> Option<Duration> {
        match &self.kind {
            ListenerKind::Http(http) => http.patience,
            ListenerKind::Tcp(_) => None,
        }
    }
}

/// `traffic_direction`; where it is not given, a listener with TLS is inbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Calls to the app of this proxy.
    Inbound,
    /// Calls by the app of this proxy.
    Outbound,
}

/// How TLS and clear text are told apart on one socket: by the first byte of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissive {
    /// How long that may take (`Listener.listener_filters_timeout`); `None` is for ever. Default 15 s.
    pub first_byte: Option<Duration>,
}

/// TLS towards clients, who must show a certificate; own certificate and trust bundle are the proxy's live identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    /// Protocols that are accepted, in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Who may connect at all: whoever one of these fits.
    pub peers: Vec<PeerMatch>,
}

/// A rule on the peer's URI SAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMatch {
    /// This workload only.
    Exact(SpiffeId),
    /// Any workload of this trust domain.
    TrustDomain(TrustDomain),
}

/// What happens with a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerKind {
    /// HTTP/1.1 and HTTP/2.
    Http(HttpListener),
    /// Bytes to one cluster.
    Tcp(TcpListener),
}

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpListener {
    /// Where the bytes go.
    pub cluster: ClusterRef,
    /// Who decides before the first byte, if anybody does.
    pub authorize: Option<Authorizer>,
    /// Prefix of this listener's statistics.
    pub stat_prefix: Arc<str>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// Where requests go.
    pub routes: RouteSource,
    /// What clients may speak.
    pub protocol: DownstreamProtocol,
    /// Who decides about each request, if anybody does.
    pub authorize: Option<Authorizer>,
    /// Prefix of this listener's statistics.
    pub stat_prefix: Arc<str>,
    /// `strip_any_host_port`: routes are found by the host without its port (but for CONNECT).
    pub strip_port: bool,
    /// What becomes of `x-forwarded-client-cert`.
    pub xfcc: ForwardClientCert,
    /// Identity headers of the mesh, taken off every request before anything reads them.
    pub reserved: Arc<Reserved>,
    /// `preserve_external_request_id`: the client's `x-request-id` is kept.
    pub preserve_request_id: bool,
    /// Upgrades to `websocket` are passed on.
    pub websocket: bool,
    /// CONNECT is accepted where a route takes it.
    pub connect: bool,
    /// `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action`: dot segments and percent-encoding are normalised before anything
    /// reads the path, and paths with `%5C`, `\\` or, unless it is kept, `%2F` are refused with 400.
    pub paths: Option<Paths>,
    /// W3C trace context is made where a request has none, and carried on.
    pub tracing: bool,
    /// How long a client may take nothing of an answer that is there (`stream_flush_timeout`; `None` is for ever). Envoy asks it of
    /// the end of an answer only.
    pub patience: Option<Duration>,
    /// `max_concurrent_streams` of HTTP/2, if given.
    pub max_concurrent_streams: Option<u32>,
    /// `proxy_100_continue`: clients hear what endpoints say before their answer (1xx), and endpoints are asked whether they want a
    /// body. Without it a client that asks is told 100 at once.
    pub interim: bool,
}

/// Where a listener's routes are.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    /// In RDS.
    Named(RouteRef),
    /// In the listener.
    Inline(Arc<RouteTable>),
}

/// The name of a route configuration in RDS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRef {
    /// Name, like `egress`.
    pub name: Arc<str>,
    pub(super) id: u32,
}

impl RouteRef {
    pub(super) fn index(&self) -> usize {
        self.id as usize
    }
}

/// What clients may speak (`codec_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownstreamProtocol {
    /// By ALPN, or by the first bytes.
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// What becomes of `x-forwarded-client-cert` (`forward_client_cert_details`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Taken off.
    Sanitize,
    /// Replaced by one that tells the peer's certificate hash and its URI SAN.
    SanitizeSet,
}
