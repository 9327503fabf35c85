//! What the tests of this crate share: a small mesh, and real Envoys with a stub of the agent beside each.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test binary uses its part

pub mod agent;
pub mod app;
pub mod client;
pub mod envoy;
pub mod pki;
pub mod render;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use weft_compile::{CompiledMesh, Endpoint, Proxy, ProxyKind};
use weft_model::source::SourceFile;
use weft_model::{Intent, ServiceName};

/// The intent of some YAML documents, which must be without a finding.
pub fn intent(yaml: &str) -> Arc<Intent> {
    let (intent, findings) = weft_model::parse::parse(&[SourceFile::new("mesh.yaml", yaml.as_bytes())]);
    assert!(findings.is_empty(), "{findings:#?}");
    Arc::new(intent.unwrap())
}

pub fn mesh(yaml: &str, revision: &str) -> CompiledMesh {
    let intent = intent(yaml);
    let policy = weft_policy::compile(&intent, revision).unwrap();
    CompiledMesh::new(intent, Arc::new(policy), revision)
}

pub fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// A sidecar of `service` with addresses that tell it from others.
pub fn sidecar(service: &str, number: u8) -> Proxy {
    let at = |port| SocketAddr::from(([127, 0, 0, number], port));
    Proxy {
        service: name(service),
        ingress: at(15006),
        egress: at(15001),
        app: at(8080),
        access_log: "/dev/stdout".to_owned(),
        kind: ProxyKind::Sidecar,
    }
}

pub fn endpoint(address: SocketAddr, labels: &[(&str, &str)]) -> Endpoint {
    let labels = labels.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    Endpoint { address, labels, id: address.to_string().into() }
}

pub use weft_tests::ports::free;

/// An address that refuses connections for as long as the socket is held: bound, but not listening.
pub fn refusing() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
