//! Who signs a server's issuing CA: a CA of the organization by files, the PKI of an OpenBao, a root that is kept apart.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weft_tests::app::App;
use weft_tests::ca::{Ca, Kind};
use weft_tests::load::{Load, Target};
use weft_tests::mesh::{Mesh, text};
use weft_tests::process::run;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{peers, ports, wait};

mod by_files;
mod by_hand;
mod by_vault;

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("weft-upstream-").tempdir().expect("a temporary folder")
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a plain path")
}

fn trust(mesh: &Mesh) -> Value {
    mesh.api("/api/identity").expect("the control plane serves")
}

/// The root that signs.
fn active(mesh: &Mesh) -> Value {
    let trust = trust(mesh);
    let roots = trust["roots"].as_array().expect("roots").iter();
    roots.clone().find(|root| root["state"] == "active").expect("one signs").clone()
}

/// `prod/web` calls `prod/board`, each beside its data plane.
struct Pair {
    _app: App,
    _boards: [Sidecar; 2],
    web: Sidecar,
}

impl Pair {
    #[track_caller]
    fn start(mesh: &Mesh, caller: DataPlane, callee: DataPlane) -> Self {
        let app = App::start("v1");
        let board = |name: &str, version: &str| {
            mesh.sidecar(name, Spec::new("prod/board", app.address()).label("version", version).on(callee))
        };
        let boards = [board("board", "v1"), board("board-2", "v2")];
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
        mesh.wait_endpoints("prod/board", 2);
        let pair = Self { _app: app, _boards: boards, web };
        pair.target().wait_reachable();
        pair
    }

    fn target(&self) -> Target {
        Target { address: self.web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() }
    }
}

/// Starts another control plane on the same intent that must not come to serve; what it says.
#[track_caller]
fn refused(mesh: &Mesh, options: &[&str]) -> String {
    let state = folder();
    let output = Command::new("timeout")
        .args(["30", path(&peers::weft()), "server", "--repo", path(mesh.repo.root())])
        .args(["--state-dir", path(state.path())])
        .args(["--xds", &ports::free().to_string(), "--authz", &ports::free().to_string()])
        .args(["--http", &ports::free().to_string()])
        .args(options)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}
