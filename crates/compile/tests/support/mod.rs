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

use weft_compile::{CompiledMesh, testing};
use weft_model::Intent;

pub fn intent(yaml: &str) -> Arc<Intent> {
    Arc::new(testing::intent(yaml))
}

pub fn mesh(yaml: &str, revision: &str) -> CompiledMesh {
    testing::compiled(testing::intent(yaml), revision)
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
