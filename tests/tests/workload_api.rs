//! An app asks for its own identity by the SPIFFE Workload API, with clients that nobody here wrote.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::Uid;
use serde_json::{Value, json};
use spiffe::{BundleSource, JwtSource, TrustDomain, WorkloadApiClient, X509Source};
use weft_tests::mesh::{Mesh, text};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{peers, ports, process, tls, wait};

const WEB: &str = "spiffe://test.internal/ns/prod/sa/web";

/// A mesh whose certificates live as short as intent allows: they are renewed every five seconds.
fn short_lived() -> Mesh {
    Mesh::start_with(|repo| repo.replace("mesh.yaml", "svidTtl: 1h", "svidTtl: 10s"))
}

fn socket(mesh: &Mesh, name: &str) -> PathBuf {
    mesh.folder().join(format!("{name}.sock"))
}

/// A sidecar with a Workload API.
fn sidecar(mesh: &Mesh, name: &str) -> Sidecar {
    let path = socket(mesh, name);
    let spec = Spec::new(&format!("prod/{name}"), ports::free());
    mesh.sidecar(name, spec.option("--workload-socket", path.to_str().expect("a plain path")))
}

fn address(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// What PyPI `spiffe` says.
fn python(socket: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new("timeout");
    command.arg("60").arg(peers::venv("python")).arg(peers::script("spiffe_client.py")).args(arguments);
    let said = process::run(command.env("SPIFFE_ENDPOINT_SOCKET", address(socket)));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn python_fetches_and_watches_x509_svids() {
    let mesh = short_lived();
    let web = sidecar(&mesh, "web");
    let path = socket(&mesh, "web");
    let said = python(&path, &["x509"]);
    assert_eq!((&said["id"], &said["bundles"], &said["roots"]), (&json!(WEB), &json!(["test.internal"]), &json!(1)));
    let said = python(&path, &["watch"]);
    assert_eq!((&said[0]["id"], &said[1]["id"]), (&json!(WEB), &json!(WEB)));
    assert_ne!(said[0]["serial"], said[1]["serial"], "the rotation arrives");
    assert_eq!(python(&path, &["bare"]), json!("INVALID_ARGUMENT: security header missing from request"));
    drop(web);
}

#[test]
fn python_fetches_and_validates_jwt_svids() {
    let mesh = Mesh::start();
    let (web, board) = (sidecar(&mesh, "web"), sidecar(&mesh, "board"));
    let said = python(&socket(&mesh, "web"), &["token", "board", "db"]);
    assert_eq!((&said["id"], &said["audience"]), (&json!(WEB), &json!(["board", "db"])));
    let token = said["token"].as_str().expect("a token");
    let judge = |audience: &str, token: &str| python(&socket(&mesh, "board"), &["validate", audience, token]);
    assert_eq!(judge("board", token), json!({"keys": 1, "here": WEB, "there": WEB}), "the callee believes it");

    let both = |said: &Value, here: &str, there: &str| {
        let said = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        assert!(said("here").contains(here), "{}", said("here"));
        let told = said("there");
        assert!(told.contains(there) && told.contains("INVALID_ARGUMENT") && !told.contains(token), "{told}");
    };
    both(&judge("other", token), "InvalidTokenError", "the token is for another audience");
    let damaged = format!("{}AAAA", &token[..token.len() - 4]);
    both(&judge("board", &damaged), "InvalidTokenError", "the token's signature is wrong");

    // Another key signs: what the one before has signed is still good, and so is what comes now.
    let state = mesh.state();
    let state = state.to_str().expect("a plain path");
    let rotated = mesh.weft(&["identity", "rotate", "--jwt", "--reason", "a drill", "--state-dir", state]);
    assert!(rotated.status.success(), "{}", text(&rotated));
    let next = python(&socket(&mesh, "web"), &["token", "board", "again"]);
    for token in [token, next["token"].as_str().expect("a token")] {
        assert_eq!(judge("board", token), json!({"keys": 2, "here": WEB, "there": WEB}));
    }

    // Of another mesh of the same name.
    let elsewhere = Mesh::start();
    let stranger = sidecar(&elsewhere, "web");
    let foreign = python(&socket(&elsewhere, "web"), &["token", "board"]);
    let foreign = foreign["token"].as_str().expect("a token");
    both(&judge("board", foreign), "Authority", "the key that the token names is not in the bundle");
    drop((web, board, stranger));
}

#[test]
fn a_user_that_is_not_the_apps_gets_permission_denied() {
    let mesh = Mesh::start();
    let path = socket(&mesh, "web");
    let other = (Uid::effective().as_raw() + 1).to_string();
    let spec = Spec::new("prod/web", ports::free()).option("--workload-socket", path.to_str().expect("a plain path"));
    let web = mesh.sidecar("web", spec.option("--workload-user", &other));
    for call in [&["x509"][..], &["ask", "db"]] {
        let said = python(&path, call);
        let error = said["error"].as_str().unwrap_or_default();
        assert!(error.contains("PERMISSION_DENIED") && error.contains("no identity issued"), "{call:?}: {said}");
    }
    drop(web);
}

#[test]
fn an_app_is_told_where_to_ask_and_a_bad_place_is_an_error() {
    let mesh = Mesh::start();
    let path = socket(&mesh, "web");
    let told = mesh.folder().join("told");
    let script = format!("printf %s \"$SPIFFE_ENDPOINT_SOCKET\" > {}; exec sleep 60", told.display());
    let spec = Spec::new("prod/web", ports::free()).option("--workload-socket", path.to_str().expect("a plain path"));
    let web = mesh.sidecar("web", spec.running(&["sh", "-c", &script]));
    wait::until("the app is told", wait::SOON, || match std::fs::read_to_string(&told) {
        Ok(told) if told == address(&path) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(web);

    let bad = |place: &str| {
        let folder = mesh.folder().join("bad");
        let arguments = ["sidecar", "--service", "prod/web", "--state", folder.to_str().expect("a plain path")];
        let mut command = Command::new(peers::weft());
        let output = command.args(arguments).args(["--workload-socket", place]).output().expect("weft runs");
        assert!(!output.status.success(), "{place}");
        text(&output)
    };
    assert!(bad("tcp://0.0.0.0:8000").contains("no loopback address"));
    let file = mesh.folder().join("file");
    std::fs::write(&file, "x").expect("the folder can be written");
    let said = bad(file.to_str().expect("a plain path"));
    assert!(said.contains("there is a file that is no socket") && said.contains("--workload-socket"), "{said}");
}

/// The crate `spiffe`: keeps up with rotations, and asks the server whether tokens are valid.
#[test]
fn rust_fetches_watches_and_validates() {
    let mesh = short_lived();
    let web = sidecar(&mesh, "web");
    let path = address(&socket(&mesh, "web"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let domain = TrustDomain::new("test.internal").expect("a trust domain");
        let source = X509Source::builder().endpoint(&path).build().await.expect("a source");
        let first = source.svid().expect("an SVID");
        assert_eq!(first.spiffe_id().to_string(), WEB);
        assert_eq!(first.cert_chain().len(), 2, "leaf and issuing CA");
        let bundle = source.bundle_for_trust_domain(&domain).expect("it is open").expect("a bundle");
        assert_eq!(bundle.authorities().len(), 1);
        let mut updates = source.updated();
        let rotated = async {
            while source.svid().expect("an SVID").leaf().as_bytes() == first.leaf().as_bytes() {
                updates.changed().await.expect("the source is open");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), rotated).await.expect("the rotation arrives");

        let tokens = JwtSource::builder().endpoint(&path).build().await.expect("a source");
        let token = tokens.fetch_jwt_svid(["board", "db"]).await.expect("a token");
        assert_eq!(token.spiffe_id().to_string(), WEB);
        let client = WorkloadApiClient::connect_to(&path).await.expect("a client");
        let valid = client.validate_jwt_token("db", token.token()).await.expect("it is valid");
        assert_eq!(valid.spiffe_id().to_string(), WEB);
        let wrong = client.validate_jwt_token("other", token.token()).await.expect_err("another audience");
        assert!(format!("{wrong:?}").contains("another audience"), "{wrong:?}");
    });
    drop(web);
}

/// The configuration of an Envoy that listens on a port with what it gets by SDS at a socket, under these names.
pub(crate) fn envoy(port: std::net::SocketAddr, path: &Path, certificate: &str, bundle: &str) -> Value {
    let sds = json!({"resource_api_version": "V3", "api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "agent"}}],
    }});
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": certificate, "sds_config": sds}],
            "validation_context_sds_secret_config": {"name": bundle, "sds_config": sds},
        },
    });
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "app", "cluster": "agent",
    });
    let address = json!({"socket_address": {"address": port.ip().to_string(), "port_value": port.port()}});
    json!({
        "node": {"id": "app", "cluster": "app"},
        "static_resources": {
            "listeners": [{"name": "app", "address": address, "filter_chains": [{
                "filters": [{"name": "app", "typed_config": proxy}],
                "transport_socket": {"name": "tls", "typed_config": context},
            }]}],
            "clusters": [{
                "name": "agent", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }},
                "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": {"pipe": {"path": path}}}},
                ]}]},
            }],
        },
    })
}

/// An Envoy of the app's own, which knows nothing of Weft but the socket.
#[test]
fn a_stock_envoy_takes_its_certificate_from_the_same_socket() {
    let mesh = Mesh::start();
    let web = sidecar(&mesh, "web");
    let path = socket(&mesh, "web");
    let port = ports::free();
    let config = envoy(port, &path, "default", "ROOTCA");
    let file = mesh.folder().join("app-envoy.json");
    std::fs::write(&file, config.to_string()).expect("the folder can be written");
    let arguments =
        ["--config-path", file.to_str().expect("a plain path"), "--disable-hot-restart", "--concurrency", "1"];
    let envoy = process::Process::start(mesh.folder(), "app-envoy", peers::venv("envoy"), arguments, &[]);
    let serial = wait::until("Envoy shows a certificate", wait::SOON, || tls::serial(port));
    let said = python(&path, &["x509"]);
    let serial = serial.trim_start_matches("serial=").trim_start_matches('0');
    assert_eq!(json!(serial), said["serial"]);
    drop((envoy, web));
}
