//! The configuration that the data plane runs on: small immutable values, read by the request path and never changed.
//!
//! [`Builder`] keeps the last good version of every xDS resource and turns them into a [`Config`] by sharing, so that a
//! change of one route costs one new route table. Names are resolved to small numbers while parsing ([`ClusterId`]): a
//! request looks up its host, and nothing else, by text.
//!
//! What our proxy does not support is refused with the path of the field; nothing is ignored in silence. No I/O, no
//! clock.

mod authz;
mod builder;
mod cluster;
mod listener;
mod log_format;
mod parse;
mod route;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use authz::{Authorizer, AuthzServer, BodyShown};
pub use builder::Builder;
pub use cluster::{
    Cluster, ClusterId, ClusterRef, Endpoint, Endpoints, EndpointsSource, LbPolicy, Upstream, UpstreamProtocol,
    UpstreamTls,
};
pub use listener::{
    Direction, DownstreamProtocol, DownstreamTls, ForwardClientCert, HttpListener, Listener, ListenerKind, PeerMatch,
    Permissive, RouteRef, RouteSource, TcpListener,
};
pub use log_format::{LogField, LogFormat};
pub use route::{
    HeaderMatch, NoRoute, PathMatch, RetryOn, RetryPolicy, Route, RouteHit, RouteMatch, RouteTable, ValueMatch,
    VirtualHost, Weighted, host_key,
};
pub use weft_proxy_http::headers::Reserved;

/// Everything that one generation of the data plane runs on. A request keeps the one that it began with.
#[derive(Clone, Default)]
pub struct Config {
    /// Sorted by name. An `Arc` is the same one as before while its resource is unchanged.
    pub listeners: Vec<Arc<Listener>>,
    /// Every cluster with the endpoints that it has now, by name; for the admin endpoint. Requests use
    /// [`Config::upstream`].
    pub clusters: HashMap<Arc<str>, Arc<Upstream>>,
    /// Every route table of RDS, by name. Requests use [`Config::route_table`].
    pub routes: HashMap<Arc<str>, Arc<RouteTable>>,
    /// Decides about calls to this proxy's service; `None` until a bundle came, and then nothing is allowed.
    pub policy: Option<Arc<weft_policy::Engine>>,
    /// The commit that this is, empty until the control plane told.
    pub revision: Arc<str>,
    /// `clusters` by [`ClusterId`].
    upstreams: Arc<[Option<Arc<Upstream>>]>,
    /// `routes` by the number in [`RouteRef`].
    tables: Arc<[Option<Arc<RouteTable>>]>,
}

impl Config {
    /// The cluster that a route chose, without a look-up by text. `None`: the cluster does not exist (Envoy's flag
    /// `NC`).
    pub fn upstream(&self, cluster: &ClusterRef) -> Option<&Arc<Upstream>> {
        self.upstreams.get(cluster.id.index())?.as_ref()
    }

    /// Whether the routes of a listener are there, so that it can take requests.
    pub fn has_routes(&self, listener: &Listener) -> bool {
        match &listener.kind {
            ListenerKind::Http(http) => self.route_table(&http.routes).is_some(),
            ListenerKind::Tcp(_) => true,
        }
    }

    /// The routes that a listener uses. `None`: its route configuration has not come yet (Envoy's flag `NR`).
    pub fn route_table<'a>(&'a self, source: &'a RouteSource) -> Option<&'a Arc<RouteTable>> {
        match source {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(named) => self.tables.get(named.index())?.as_ref(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("revision", &self.revision)
            .field("policy", &self.policy.as_ref().map(|engine| engine.version()))
            .field("listeners", &self.listeners)
            .field("clusters", &self.clusters)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}
