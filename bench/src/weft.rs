//! Weft's own pair, on either data plane: a real `weft server` and two sidecars with one worker each; access log to a file, metrics and
//! authorization on.

use std::net::SocketAddr;
use std::path::Path;

use weft_tests::family::descendants;
use weft_tests::load::Target;
use weft_tests::mesh::Mesh;
use weft_tests::ports;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};

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

    /// The sidecars, and their Envoys. What an agent runs beside those (a guard that sleeps, a look at a version) costs nothing.
    pub(crate) fn proxies(&self) -> Vec<u32> {
        let envoys = |pid| descendants(pid).into_iter().filter(|member| member.name == "envoy" && !member.zombie);
        let with_envoy = |pid| std::iter::once(pid).chain(envoys(pid).map(|member| member.pid));
        [self.client.pid(), self.app.pid()].into_iter().flat_map(with_envoy).collect()
    }
}

/// Starts server and sidecars of one binary and waits until calls pass. The sidecars run under `under`; the server never does.
pub(crate) fn start(app: SocketAddr, program: &Path, data_plane: DataPlane, under: &[String]) -> Wefts {
    let mesh = Mesh::start_program(program, &root().join("bench/mesh"), |_| {});
    let spec = |service: &str, app| Spec::new(service, app).workers(1).on(data_plane).under(under);
    let callee = mesh.sidecar("app", spec("bench/app", app));
    // Nobody calls the client, so nothing listens where its app would be.
    let client = mesh.sidecar("client", spec("bench/client", ports::free()));
    Target { address: client.egress, host: "app.bench".to_owned(), path: "/bench".to_owned() }.wait_reachable();
    Wefts { client, app: callee, _mesh: mesh }
}
