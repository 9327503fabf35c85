//! The configuration as a whole: what the control plane compiles is taken, what is not supported is refused by its
//! path.

mod arbitrary;
mod compiled;
mod refused;
mod routing;
mod state;
mod surface;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::cluster::v3 as pb_cluster;
use envoy_types::pb::envoy::config::endpoint::v3 as pb_endpoint;
use envoy_types::pb::envoy::config::listener::v3 as pb_listener;
use weft_compile::testing::{self, MESH, ROUTES, service, service_of};
use weft_xds::{Rejection, Resource, Snapshot, Update, type_url};

use super::*;

fn intent() -> String {
    let access = r#"access: [{from: [prod/web], allow: ["GET /api/**", "POST /api/pins"]}]"#;
    let board = format!("subsets: {{v1: {{version: v1}}, v2: {{version: v2}}}}\n{access}\n{ROUTES}");
    [
        MESH.to_owned(),
        service("prod/web", "access: [{from: [prod/board]}]"),
        service("prod/board", &board),
        service_of("tools/echo", "grpc", 9000, r#"access: [{from: ["prod/*"]}]"#),
        service_of("prod/db", "tcp", 5432, "access: [{from: [prod/web]}]"),
    ]
    .concat()
}

/// What the control plane sends to a sidecar of this service.
fn snapshot(service: &str) -> Snapshot {
    static MADE: Mutex<BTreeMap<String, Snapshot>> = Mutex::new(BTreeMap::new());
    let make = || testing::snapshot(&testing::compiled(testing::intent(&intent()), "c0ffee"), service);
    MADE.lock().unwrap().entry(service.to_owned()).or_insert_with(make).clone()
}

/// All of it, in the order in which it comes.
fn apply(builder: &mut Builder, snapshot: &Snapshot) -> Vec<Rejection> {
    let all = type_url::ALL.into_iter().flat_map(|type_url| {
        let changed = snapshot.get(type_url).values().cloned().collect();
        builder.apply(Update { type_url, revision: snapshot.revision.clone(), changed, removed: Vec::new() })
    });
    all.collect()
}

/// A builder with what the control plane sends to `prod/web`.
fn web() -> Builder {
    let mut builder = Builder::default();
    assert_eq!(apply(&mut builder, &snapshot("prod/web")), []);
    builder
}

/// One resource alone; the reason if it was refused.
fn offer(builder: &mut Builder, resource: Arc<Resource>) -> Result<(), String> {
    let type_url = type_url::intern(&resource.any.type_url).unwrap();
    let update = Update { type_url, revision: "r".into(), changed: vec![resource], removed: Vec::new() };
    builder.apply(update).pop().map_or(Ok(()), |rejection| Err(rejection.reason))
}

fn remove(builder: &mut Builder, type_url: &'static str, name: &str) {
    let update = Update { type_url, revision: "r".into(), changed: Vec::new(), removed: vec![name.into()] };
    assert_eq!(builder.apply(update), []);
}

fn of<M: prost::Message + Default>(snapshot: &Snapshot, type_url: &'static str, name: &str) -> M {
    snapshot.get(type_url)[name].decode().unwrap()
}

fn cluster(message: &pb_cluster::Cluster) -> Arc<Resource> {
    Resource::new(type_url::CLUSTER, &message.name, message)
}

fn assignment(message: &pb_endpoint::ClusterLoadAssignment) -> Arc<Resource> {
    Resource::new(type_url::ENDPOINT, &message.cluster_name, message)
}

fn listener(message: &pb_listener::Listener) -> Arc<Resource> {
    Resource::new(type_url::LISTENER, &message.name, message)
}

fn http(listener: &Listener) -> &HttpListener {
    match &listener.kind {
        ListenerKind::Http(http) => http,
        ListenerKind::Tcp(_) => panic!("{} is not HTTP", listener.name),
    }
}

fn listener_of<'a>(config: &'a Config, name: &str) -> &'a Arc<Listener> {
    config.listeners.iter().find(|listener| &*listener.name == name).unwrap()
}
