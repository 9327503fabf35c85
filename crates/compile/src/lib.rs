//! From intent to what proxies run on: one commit, the endpoints of the moment and one proxy make a snapshot of Envoy v3 resources.
//!
//! [`compile`] is a pure function: the same input gives the same bytes in every process, so replicas of the control plane agree
//! without talking, and an unchanged resource keeps its version. It does no I/O, reads no clock and decides no policy; it asks the
//! policy only who may call whom, because a proxy hears of nothing else.
//!
//! [`bootstrap`] writes what a stock Envoy needs to ask the agent next door for those resources.

mod access_log;
mod authz;
pub mod bootstrap;
mod cluster;
mod endpoint;
mod foreign;
pub mod headers;
mod hop;
mod limits;
mod listener;
mod local_reply;
mod mesh;
pub mod names;
mod pb;
mod route;
#[doc(hidden)]
pub mod testing;
mod tls;
mod wire;

use std::net::SocketAddr;

use weft_model::ServiceName;
use weft_model::intent::Service;
use weft_xds::{Snapshot, type_url};

pub use authz::AUTHZ_CLUSTER;
pub use endpoint::{Endpoint, EndpointSet, Labels};
pub use hop::{EGRESS, INGRESS};
pub use mesh::{CompiledMesh, REVISION_NAME};
pub use pb::AGENT_CLUSTER;
pub use tls::{BUNDLE_SECRET, CERTIFICATE_SECRET};

/// Who a snapshot is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Whose proxy it is; the certificate says so too.
    pub service: ServiceName,
    /// Where other sidecars call it.
    pub ingress: SocketAddr,
    /// Where its app calls it.
    pub egress: SocketAddr,
    /// Where its app listens.
    pub app: SocketAddr,
    /// Where it reaches the control plane's ext_authz, if it has said so.
    pub authz: Option<SocketAddr>,
    /// Where the access log goes, like `/dev/stdout`.
    pub access_log: String,
    /// What it understands.
    pub kind: ProxyKind,
}

/// What a proxy understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// Envoy or our own data plane; they get the same.
    Sidecar,
    /// An app with gRPC's own xDS client; it has no listening side and no addresses.
    Grpc,
}

/// Everything that `proxy` should have: its listeners, and routes, clusters and endpoints of the services that it may call.
///
/// A proxy whose service the commit does not know gets the commit and nothing else.
pub fn compile(mesh: &CompiledMesh, endpoints: &EndpointSet, proxy: &Proxy) -> Snapshot {
    let mut snapshot = Snapshot::new(mesh.revision());
    snapshot.insert(mesh.revision_resource());
    let Some(service) = mesh.intent().services.get(&proxy.service) else {
        return snapshot;
    };
    let neighbours = match proxy.kind {
        ProxyKind::Sidecar => mesh.neighbours(service),
        ProxyKind::Grpc => mesh.neighbours_for_grpc(service),
    };
    snapshot.set(type_url::LISTENER, neighbours.listeners.clone());
    snapshot.set(type_url::CLUSTER, neighbours.clusters.clone());
    snapshot.set(type_url::ROUTE, neighbours.routes.clone());
    let assignments = neighbours.callees.iter().flat_map(|callee| mesh.assignments(callee, endpoints));
    assignments.for_each(|assignment| snapshot.insert(assignment));
    if proxy.kind == ProxyKind::Sidecar {
        own_side(mesh, service, proxy, &mut snapshot);
    }
    snapshot
}

/// What only this one sidecar has.
fn own_side(mesh: &CompiledMesh, service: &Service, proxy: &Proxy, snapshot: &mut Snapshot) {
    snapshot.insert(listener::egress(proxy, mesh.neighbours(service).slashes));
    let trust_domain = &mesh.intent().mesh.trust_domain;
    snapshot.insert(listener::ingress(proxy, service, mesh.intent()));
    authz::server(proxy, service, trust_domain).into_iter().for_each(|cluster| snapshot.insert(cluster));
    snapshot.insert(cluster::inbound(service, proxy.app));
    snapshot.insert(mesh.bundle(service));
}
