//! A gRPC client without a sidecar: `xds:///` against our control plane.

use std::process::Command;

use serde_json::json;
use weft_tests::grpc::Server;
use weft_tests::mesh::Mesh;
use weft_tests::peers;
use weft_tests::sidecar::{DataPlane, Spec};

fn calls(data_plane: DataPlane) {
    let mesh = Mesh::start();
    let grpc = Server::start(mesh.folder(), "grpc_app.py");
    let greeter = mesh.sidecar("greeter", Spec::new("prod/greeter", grpc.address).on(data_plane));
    mesh.wait_endpoints("prod/greeter", 1);
    let web = mesh.svid("prod/web", "web");
    let files = json!({
        "certificate_file": web.certificate, "private_key_file": web.key, "ca_certificate_file": web.bundle, "refresh_interval": "600s"
    });
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": mesh.xds.to_string(),
            "channel_creds": [{"type": "tls", "config": files}],
            "server_features": ["xds_v3"]
        }],
        "node": {"id": "prod/web~python"},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}}
    });
    let path = mesh.folder().join("grpc-bootstrap.json");
    std::fs::write(&path, bootstrap.to_string()).expect("the folder can be written");
    for host in ["greeter.prod", "greeter.prod:8080", "greeter.prod.mesh"] {
        let output = Command::new("timeout")
            .arg("60")
            .arg(peers::venv("python"))
            .arg(peers::script("xds_client.py"))
            .args([host, "3"])
            .env("GRPC_XDS_BOOTSTRAP", &path)
            .output()
            .expect("python runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.lines().collect::<Vec<_>>(), ["hello 0", "hello 1", "hello 2"], "{host}: {output:?}");
    }
    // What policy hides from `prod/web` does not resolve.
    let output = Command::new("timeout")
        .arg("60")
        .arg(peers::venv("python"))
        .arg(peers::script("xds_client.py"))
        .args(["vault.prod", "1"])
        .env("GRPC_XDS_BOOTSTRAP", &path)
        .output()
        .expect("python runs");
    assert!(!output.status.success(), "{output:?}");
    drop(greeter);
}

#[test]
fn grpc_resolves_and_calls_weft() {
    calls(DataPlane::Weft);
}

#[test]
fn grpc_resolves_and_calls_envoy() {
    calls(DataPlane::Envoy);
}
