//! Small meshes for tests and fuzz targets, of this crate and of those that read what it makes. Not for anything that serves.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::source::SourceFile;
use weft_model::{Intent, ServiceName};
use weft_xds::Snapshot;

use crate::{CompiledMesh, Endpoint, EndpointSet, Proxy, ProxyKind};

/// A mesh document with what must be in one.
pub const MESH: &str = "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n";

/// Routes of a service with subsets `v1` and `v2`: by header, by path and method, and by weight.
pub const ROUTES: &str = "routes:
  - matches: [{headers: [{name: x-version, value: v2}]}]
    backendRefs: [{subset: v2}]
  - matches: [{path: {type: Exact, value: /slow}}, {path: {type: PathPrefix, value: /slow/}, method: POST}]
    timeouts: {request: 500ms}
  - backendRefs: [{subset: v1, weight: 90}, {subset: v2, weight: 10}]
";

/// The document of an HTTP service, `namespace/name`, with `rest` at its end.
pub fn service(name: &str, rest: &str) -> String {
    service_of(name, "http", 8080, rest)
}

/// The same for any protocol.
pub fn service_of(name: &str, protocol: &str, port: u16, rest: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    format!("---\nkind: Service\nname: {name}\nnamespace: {namespace}\nport: {port}\nprotocol: {protocol}\n{rest}\n")
}

/// The intent of some YAML documents, which must be without a finding.
pub fn intent(yaml: &str) -> Intent {
    let (intent, findings) = weft_model::parse::parse(&[SourceFile::new("mesh.yaml", yaml.as_bytes())]);
    assert!(findings.is_empty(), "{findings:#?}");
    intent.expect("no finding")
}

/// The mesh of an intent that the check accepts.
pub fn compiled(intent: Intent, revision: &str) -> CompiledMesh {
    let intent = Arc::new(intent);
    let policy = Arc::new(weft_policy::compile(&intent, revision).expect("good policies"));
    CompiledMesh::new(intent, policy, revision)
}

/// A service's name.
pub fn name(text: &str) -> ServiceName {
    text.parse().expect("a service name")
}

/// A sidecar of `service` with addresses that tell it from others.
pub fn sidecar(service: &str, number: u8) -> Proxy {
    let at = |port| SocketAddr::from(([127, 0, 0, number], port));
    Proxy {
        service: name(service),
        ingress: at(15006),
        egress: at(15001),
        app: at(8080),
        authz: None,
        access_log: "/dev/stdout".to_owned(),
        kind: ProxyKind::Sidecar,
    }
}

/// An endpoint with labels.
pub fn endpoint(address: SocketAddr, labels: &[(&str, &str)]) -> Endpoint {
    let labels = labels.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    Endpoint { address, labels, id: address.to_string().into() }
}

/// What the control plane sends to a sidecar of `service` when `prod/board` has three endpoints, two of `v1` and one of `v2`.
pub fn snapshot(mesh: &CompiledMesh, service: &str) -> Snapshot {
    let at = |port, version| endpoint(([127, 0, 0, 1], port).into(), &[("version", version), ("zone", "a")]);
    let endpoints: EndpointSet = [(name("prod/board"), Arc::from([at(1, "v1"), at(2, "v1"), at(3, "v2")]))].into();
    crate::compile(mesh, &endpoints, &sidecar(service, 1))
}
