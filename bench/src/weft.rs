//! Weft's own pair: a real `weft server` and two sidecars with one worker each; access log to a file, metrics and authorization on.

use std::net::SocketAddr;

use weft_tests::load::Target;
use weft_tests::mesh::Mesh;
use weft_tests::ports;
use weft_tests::sidecar::{Sidecar, Spec};

use crate::root;

/// The running pair. Fields drop in order: sidecars before the control plane.
pub(crate) struct Wefts {
    client: Sidecar,
    app: Sidecar,
    _mesh: Mesh,
}

impl Wefts {
    pub(crate) fn egress(&self) -> SocketAddr {
        self.client.egress
    }

    pub(crate) fn proxies(&self) -> Vec<u32> {
        vec![self.client.pid(), self.app.pid()]
    }
}

/// Starts server and sidecars and waits until calls pass.
pub(crate) fn start(app: SocketAddr) -> Wefts {
    let mesh = Mesh::start_from(&root().join("bench/mesh"), |_| {});
    let callee = mesh.sidecar("app", Spec::new("bench/app", app).workers(1));
    // Nobody calls the client, so nothing listens where its app would be.
    let client = mesh.sidecar("client", Spec::new("bench/client", ports::free()).workers(1));
    Target { address: client.egress, host: "app.bench".to_owned(), path: "/bench".to_owned() }.wait_reachable();
    Wefts { client, app: callee, _mesh: mesh }
}
