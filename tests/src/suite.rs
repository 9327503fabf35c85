//! The one suite of calls that every pairing of data planes must pass.

mod bodies;
mod broken;
mod calls;
mod paths;
mod routing;
mod tcp;
mod telemetry;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::app::App;
use crate::grpc::Server;
use crate::mesh::Mesh;
use crate::sidecar::{DataPlane, Sidecar, Spec};

/// Everything that a case can look at. Fields drop in order: sidecars before the control plane.
#[derive(Debug)]
pub struct World {
    /// Data plane of the caller.
    pub caller: DataPlane,
    /// Data plane of those that are called.
    pub callee: DataPlane,
    /// The sidecar of `prod/web`, which calls.
    pub web: Sidecar,
    /// The two of `prod/board`, v1 and v2.
    pub board: [Sidecar; 2],
    /// `prod/greeter`, gRPC.
    pub greeter: Sidecar,
    /// `prod/chat`, WebSocket.
    pub chat: Sidecar,
    /// `prod/db`, bytes.
    pub db: Sidecar,
    /// `prod/registry`, which keeps encoded slashes.
    pub registry: Sidecar,
    /// The apps of `prod/board`.
    pub apps: [App; 2],
    /// The app of `prod/registry`.
    pub registry_app: App,
    _peers: [Server; 2],
    /// The control plane.
    pub mesh: Mesh,
}

impl World {
    /// Starts all of it.
    #[track_caller]
    pub fn start(caller: DataPlane, callee: DataPlane) -> Self {
        let mesh = Mesh::start();
        let apps = [App::start("v1"), App::start("v2")];
        let registry_app = App::start("registry");
        let grpc = Server::start(mesh.folder(), "grpc_app.py");
        let chat_app = Server::start(mesh.folder(), "ws_app.py");
        let board = [("v1", 0), ("v2", 1)].map(|(version, i)| {
            let spec = Spec::new("prod/board", apps[i].address()).label("version", version).on(callee);
            mesh.sidecar(&format!("board-{version}"), spec)
        });
        let greeter = mesh.sidecar("greeter", Spec::new("prod/greeter", grpc.address).on(callee));
        let chat = mesh.sidecar("chat", Spec::new("prod/chat", chat_app.address).on(callee));
        let db = mesh.sidecar("db", Spec::new("prod/db", crate::app::echo_bytes()).on(callee));
        let registry = mesh.sidecar("registry", Spec::new("prod/registry", registry_app.address()).on(callee));
        let web = mesh.sidecar("web", Spec::new("prod/web", crate::ports::free()).on(caller));
        mesh.wait_endpoints("prod/board", 2);
        mesh.wait_endpoints("prod/greeter", 1);
        mesh.wait_endpoints("prod/chat", 1);
        mesh.wait_endpoints("prod/db", 1);
        mesh.wait_endpoints("prod/registry", 1);
        let _peers = [grpc, chat_app];
        let world = Self { caller, callee, web, board, greeter, chat, db, registry, apps, registry_app, _peers, mesh };
        calls::wait_reachable(&world);
        world
    }

    /// `curl [args] -H 'Host: <host>' http://<egress of prod/web><target>`.
    #[track_caller]
    pub fn curl(&self, host: &str, target: &str, args: &[&str]) -> crate::curl::Reply {
        crate::curl::get(self.web.egress, host, target, args)
    }

    /// Requests that the apps of `prod/board` have seen.
    pub fn reached(&self) -> u64 {
        self.apps.iter().map(App::requests).sum()
    }
}

type Case = (&'static str, fn(&World));

/// The table. Cases run in this order on one mesh; the last ones change its intent.
const CASES: &[Case] = &[
    ("an allowed call reaches the app", calls::allowed),
    ("every name of a service leads to it", calls::names),
    ("an app may use the sidecar as its HTTP proxy", calls::http_proxy),
    ("HTTP/2 in clear from the app", calls::h2c),
    ("statuses, HEAD and empty bodies pass as they are", calls::semantics),
    ("a denied call says why", calls::denied),
    ("a forbid wins over an access rule", calls::forbidden),
    ("an unknown host, and one that policy hides, are not found", calls::unknown_host),
    ("identity headers from outside never arrive", calls::spoofed_headers),
    ("a caller of HTTP/1.0 is served", calls::http_10),
    ("fields of one connection do not pass in responses", calls::hop_by_hop),
    ("a WebSocket that the app takes for a call is refused", calls::no_websocket),
    ("heads are as large as ours may be", calls::large_heads),
    ("identity trailers from outside never arrive", broken::trailers),
    ("a request that breaks HTTP is refused as the caller's fault", broken::requests),
    ("a broken chunk is the caller's fault", broken::chunks),
    ("paths are decided on as the app receives them", paths::table),
    ("encoded slashes pass where the intent says so", paths::kept_slashes),
    ("large bodies arrive whole, both ways", bodies::large),
    ("the app says whether it wants a body", bodies::expectations),
    ("an upload waits for its reader", bodies::upload_back_pressure),
    ("a download waits for its reader", bodies::download_back_pressure),
    ("gRPC: unary, streaming, trailers, statuses", bodies::grpc),
    ("WebSocket", bodies::websocket),
    ("a WebSocket that its caller leaves is over", bodies::abandoned_websocket),
    ("TCP: bytes both ways, decided and logged once", tcp::echo),
    ("TCP: a caller that has said all is still answered", tcp::half_close),
    ("one access-log line at each hop, with every key", telemetry::access_log),
    ("a denied call is logged at the hop that denied it", telemetry::denied_log),
    ("metrics with the names that dashboards know", telemetry::metrics),
    ("a header chooses the subset, weights split the rest", routing::split),
    ("a commit changes the split with no restart", routing::commit_changes_split),
    ("a bad commit changes nothing and is reported", routing::bad_commit),
];

/// Runs every case of the table on one mesh, reports each, and fails if any did.
///
/// `$CASE` limits the run to cases whose name contains it.
pub fn run(caller: DataPlane, callee: DataPlane) {
    let world = World::start(caller, callee);
    let only = std::env::var("CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&only)) {
        let start = std::time::Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| case(&world)));
        let verdict = if result.is_ok() { "ok    " } else { "FAILED" };
        println!("{verdict} {:>6.2} s  {name}", start.elapsed().as_secs_f64());
        if result.is_err() {
            failed.push(*name);
        }
    }
    assert!(
        failed.is_empty(),
        "{caller:?} calling {callee:?}: {} of {} cases failed: {failed:#?}",
        failed.len(),
        CASES.len()
    );
}
