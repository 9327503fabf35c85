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
use weft_compile::{CompiledMesh, Endpoint, EndpointSet, Proxy, ProxyKind};
use weft_model::{ServiceName, source::SourceFile};
use weft_xds::{Rejection, Resource, Snapshot, Update, type_url};

use super::*;

const MESH: &str = r#"
kind: Mesh
name: acme
trustDomain: acme.internal
---
kind: Service
name: web
namespace: prod
port: 8080
protocol: http
access: [{from: [prod/board]}]
---
kind: Service
name: board
namespace: prod
port: 8080
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
access: [{from: [prod/web], allow: ["GET /api/**", "POST /api/pins"]}]
routes:
  - matches: [{headers: [{name: x-version, value: v2}]}]
    backendRefs: [{subset: v2}]
  - matches: [{path: {type: Exact, value: /slow}}, {path: {type: PathPrefix, value: /slow/}, method: POST}]
    timeouts: {request: 500ms}
  - backendRefs: [{subset: v1, weight: 90}, {subset: v2, weight: 10}]
---
kind: Service
name: echo
namespace: tools
port: 9000
protocol: grpc
access: [{from: ["prod/*"]}]
---
kind: Service
name: db
namespace: prod
port: 5432
protocol: tcp
access: [{from: [prod/web]}]
"#;

/// What the control plane sends to a sidecar of this service.
fn snapshot(service: &str) -> Snapshot {
    static MADE: Mutex<BTreeMap<String, Snapshot>> = Mutex::new(BTreeMap::new());
    MADE.lock().unwrap().entry(service.to_owned()).or_insert_with(|| compile(service)).clone()
}

fn compile(service: &str) -> Snapshot {
    let (intent, findings) = weft_model::parse::parse(&[SourceFile::new("mesh.yaml", MESH.as_bytes())]);
    assert!(findings.is_empty(), "{findings:?}");
    let intent = Arc::new(intent.unwrap());
    let policy = Arc::new(weft_policy::compile(&intent, "c0ffee").unwrap());
    let mesh = CompiledMesh::new(intent, policy, "c0ffee");
    let endpoint = |port: u16, version: &str| Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        labels: [("version".into(), version.into()), ("zone".into(), "a".into())].into(),
        id: "x".into(),
    };
    let board: ServiceName = "prod/board".parse().unwrap();
    let endpoints: EndpointSet = [(board, [endpoint(1, "v1"), endpoint(2, "v1"), endpoint(3, "v2")].into())].into();
    let proxy = Proxy {
        service: service.parse().unwrap(),
        ingress: ([127, 0, 0, 1], 15006).into(),
        egress: ([127, 0, 0, 1], 15001).into(),
        app: ([127, 0, 0, 1], 8080).into(),
        access_log: "/dev/stdout".into(),
        kind: ProxyKind::Sidecar,
    };
    weft_compile::compile(&mesh, &endpoints, &proxy)
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
