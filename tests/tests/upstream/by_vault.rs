//! The PKI of a real OpenBao.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::json;
use weft_tests::openbao::{OpenBao, ROOT_TOKEN};

use super::*;

/// What the token of a control plane may do.
const POLICY: &str = r#"path "pki/root/sign-intermediate" { capabilities = ["update"] }"#;

/// A file for its owner alone.
fn secret(bao: &OpenBao, name: &str, text: &str) -> PathBuf {
    let file = bao.folder().join(name);
    std::fs::write(&file, text).expect("the folder can be written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    file
}

/// A token that may ask for issuing CAs and nothing else.
fn token(bao: &OpenBao) -> String {
    bao.write("sys/policies/acl/weft", &json!({"policy": POLICY}));
    let made = bao.write("auth/token/create", &json!({"policies": ["weft"], "no_default_policy": true}));
    made["auth"]["client_token"].as_str().expect("a token").to_owned()
}

fn start(bao: &OpenBao, login: &[&str]) -> Mesh {
    let (url, ca) = (bao.url(), bao.ca());
    let mut options = vec!["--upstream-vault", &url, "--upstream-vault-mount", "pki"];
    if url.starts_with("https") {
        options.extend(["--upstream-vault-ca", path(&ca)]);
    }
    Mesh::start_with_options(&[&options, login].concat(), |_| {})
}

fn rotate(mesh: &Mesh, wait: &str) -> std::process::Output {
    let state = mesh.state();
    mesh.weft(&["identity", "rotate", "--wait", wait, "--state-dir", path(&state), "--reason", "a drill"])
}

#[test]
fn an_openbao_signs_and_its_next_root_takes_over_under_load() {
    let bao = OpenBao::start(false);
    let file = secret(&bao, "token", &(token(&bao) + "\n"));
    let mesh = start(&bao, &["--upstream-vault-token-file", path(&file)]);
    let pair = Pair::start(&mesh, DataPlane::Weft, DataPlane::Envoy);
    let first = active(&mesh);
    assert_eq!(first["source"], format!("{}/v1/pki", bao.url()), "{first}");
    let (load, begun) = (Load::start(pair.target(), 50), Instant::now());
    bao.make_root("Example root 2");
    let told = rotate(&mesh, "1m");
    assert!(told.status.success(), "{}", text(&told));
    let second = active(&mesh);
    assert_ne!(first["id"], second["id"], "{}", text(&told));
    assert!(text(&told).contains(&format!("{}  retired", first["id"].as_str().expect("an id"))), "{}", text(&told));
    load.stop().assert_clean(50, begun.elapsed());
    // Last: who takes its certificate as files says nothing of the bundle, and a rotation waits for it.
    let svid = mesh.svid("prod/web", "svid");
    let shown = run(Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(&svid.bundle)
        .arg("-untrusted")
        .arg(&svid.certificate)
        .arg(&svid.certificate));
    assert!(shown.contains(": OK"), "{shown}");
    drop(pair);
}

#[test]
fn an_openbao_that_is_away_is_waited_out_and_told() {
    let bao = OpenBao::start(false);
    let file = secret(&bao, "token", ROOT_TOKEN);
    let mut mesh = start(&bao, &["--upstream-vault-token-file", path(&file)]);
    let before = trust(&mesh);
    bao.sleep();
    let told = rotate(&mesh, "12s");
    assert!(!told.status.success() && text(&told).contains("no answer within 5 s"), "{}", text(&told));
    let status = text(&mesh.weft(&["status"]));
    assert!(status.contains("has no successor") && status.contains("does not answer"), "{status}");
    // The issuing CA that there is goes on, also after a restart that finds nobody.
    mesh.kill_server();
    mesh.start_server();
    assert_eq!(trust(&mesh)["issuing"], before["issuing"]);
    drop(mesh.svid("prod/web", "svid"));
    bao.awake();
    let told = rotate(&mesh, "1m");
    assert!(told.status.success(), "{}", text(&told));
    let after = trust(&mesh);
    assert!(after["issuing"] != before["issuing"] && after["upstream"]["problem"].is_null(), "{after}");
}

#[test]
fn a_token_that_is_refused_is_told_and_read_again() {
    let bao = OpenBao::start(false);
    let file = secret(&bao, "token", &token(&bao));
    let mesh = start(&bao, &["--upstream-vault-token-file", path(&file)]);
    std::fs::write(&file, "s.nobody").expect("the folder can be written");
    let told = rotate(&mesh, "5s");
    assert!(!told.status.success() && text(&told).contains("refused to sign an issuing CA"), "{}", text(&told));
    let other = Mesh::start();
    let told = refused(&other, &["--upstream-vault", &bao.url(), "--upstream-vault-token-file", path(&file)]);
    assert!(told.contains("refused to sign an issuing CA") && told.contains("permission denied"), "{told}");
    std::fs::write(&file, token(&bao)).expect("the folder can be written");
    let told = rotate(&mesh, "1m");
    assert!(told.status.success(), "{}", text(&told));
}

#[test]
fn approle_and_certificate_log_in_over_tls() {
    let bao = OpenBao::start(true);
    bao.write("sys/policies/acl/weft", &json!({"policy": POLICY}));
    bao.write("sys/auth/approle", &json!({"type": "approle"}));
    bao.write("auth/approle/role/weft", &json!({"token_policies": "weft", "token_ttl": "5m"}));
    let role = bao.read("auth/approle/role/weft/role-id")["data"]["role_id"].as_str().expect("an id").to_owned();
    let made = bao.write("auth/approle/role/weft/secret-id", &json!({}));
    let file = secret(&bao, "secret", made["data"]["secret_id"].as_str().expect("an id"));
    let login = ["--upstream-vault-approle", &role, "--upstream-vault-approle-secret-file", path(&file)];
    let mesh = start(&bao, &login);
    assert_eq!(active(&mesh)["source"], format!("{}/v1/pki", bao.url()));
    // The token was given back: none is left but the root's.
    let tokens = bao.read("auth/token/accessors?list=true")["data"]["keys"].as_array().expect("a list").len();
    assert_eq!(tokens, 1, "tokens that are left");
    drop(mesh);

    let folder = folder();
    let organization = Ca::root(folder.path(), "clients", Kind::default());
    let client = organization.below(
        "control",
        Kind {
            subject: "/CN=control",
            constraints: "CA:FALSE",
            extensions: "extendedKeyUsage=clientAuth",
            ..Kind::default()
        },
    );
    bao.write("sys/auth/cert", &json!({"type": "cert"}));
    let trusted = std::fs::read_to_string(&organization.root).expect("it was made");
    bao.write(
        "auth/cert/certs/weft",
        &json!({"certificate": trusted, "allowed_common_names": "control", "token_policies": "weft"}),
    );
    let login = ["--upstream-vault-cert", path(&client.chain), "--upstream-vault-cert-key", path(&client.key)];
    let mesh = start(&bao, &login);
    assert_eq!(active(&mesh)["source"], format!("{}/v1/pki", bao.url()));
}
