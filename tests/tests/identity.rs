//! Who may join as what.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_tests::app::App;
use weft_tests::curl::curl;
use weft_tests::mesh::{Mesh, text};
use weft_tests::process::tail;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{peers, wait};

/// Starts a sidecar that must not get in, and gives what it says about it.
#[track_caller]
fn refused(mesh: &Mesh, name: &str, service: &str, token: &str, reason: &str) -> String {
    let app = App::start("x");
    let mut sidecar = Sidecar::launch(mesh.folder(), name, mesh.xds, Some(token), Spec::new(service, app.address()));
    let output = wait::until("the refusal to be told", Duration::from_secs(30), || {
        let output = sidecar.process().output();
        if output.contains(reason) { Ok(output) } else { Err(format!("no `{reason}` in: {}", tail(&output, 20))) }
    });
    let ready = weft_tests::curl::curl(&[&format!("http://{}/ready", sidecar.health)]);
    assert_ne!(ready.status, 200, "a refused sidecar says that it is ready");
    output
}

#[test]
fn a_join_token_is_for_one_service() {
    let mesh = Mesh::start();
    let token = mesh.token("prod/web");
    let output = refused(&mesh, "liar", "prod/board", &token, "prod/web");
    assert!(output.contains("prod/board"), "the error names both services: {output}");
}

#[test]
fn a_join_token_works_once() {
    let mesh = Mesh::start();
    let token = mesh.token("prod/web");
    let app = App::start("x");
    let first = Sidecar::start(mesh.folder(), "first", mesh.xds, &token, Spec::new("prod/web", app.address()));
    refused(&mesh, "second", "prod/web", &token, "token");
    // The first one is not disturbed.
    drop(first.wait_ready());
}

#[test]
fn a_made_up_token_is_refused() {
    let mesh = Mesh::start();
    let token = mesh.token("prod/web");
    let (kept, _) = token.split_at(token.len() - 4);
    refused(&mesh, "guesser", "prod/web", &format!("{kept}AAAA"), "token");
}

#[test]
fn a_node_may_only_be_what_its_certificate_says() {
    let mesh = Mesh::start();
    let web = mesh.svid("prod/web", "web");
    let answer = mesh.ads(&web, "prod/board");
    assert!(answer.starts_with("PERMISSION_DENIED"), "{answer}");
    assert!(answer.contains("prod/sa/web") && answer.contains("prod/board"), "the error names both: {answer}");
    let answer = mesh.ads(&web, "prod/web");
    assert!(answer.starts_with("OK"), "{answer}");
}

#[test]
fn no_one_gets_configuration_without_a_certificate() {
    let mesh = Mesh::start();
    let answer = mesh.ads_without_certificate(&mesh.svid("prod/web", "web").bundle, "prod/web");
    assert!(answer.starts_with("UNAUTHENTICATED") || answer.starts_with("PERMISSION_DENIED"), "{answer}");
}

/// The kernel would let two sidecars of one user share a port, and half of the calls would leave under the other's identity.
#[test]
fn a_port_of_another_sidecar_is_not_shared() {
    let mesh = Mesh::start();
    let board = App::start("v1");
    let callee = mesh.sidecar("board", Spec::new("prod/board", board.address()).label("version", "v1"));
    let web = mesh.sidecar("web", Spec::new("prod/web", weft_tests::ports::free()));
    for data_plane in [DataPlane::Weft, DataPlane::Envoy] {
        let spec = Spec::new("staging/stranger", board.address()).egress(web.egress).on(data_plane);
        let token = mesh.token("staging/stranger");
        let mut second = Sidecar::launch(mesh.folder(), &format!("{data_plane:?}"), mesh.xds, Some(&token), spec);
        let status = second.process().wait(Duration::from_secs(30));
        assert!(!status.success(), "{data_plane:?} takes a port that is taken");
        let output = second.process().output();
        assert!(output.contains(&web.egress.to_string()) && output.contains("--egress"), "{output}");
    }
    drop((callee, web));
}

#[test]
fn a_join_token_is_made_for_whoever_has_the_admin_token() {
    let mesh = Mesh::start();
    let url = format!("http://{}/api/join-tokens", mesh.api);
    let ask = |header: &str| {
        let body = r#"{"service": "prod/web", "ttl": "10m"}"#;
        curl(&["-H", "content-type: application/json", "-H", header, "-d", body, &url])
    };
    for header in ["x-nothing: here", "authorization: Bearer 00", "authorization: Bearer"] {
        let refused = ask(header);
        assert_eq!(refused.status, 401, "{header}: {}", refused.body);
        assert!(refused.body.contains("admin.token") && !refused.body.contains("weft."), "{}", refused.body);
    }
    let file = mesh.state().join("admin.token");
    let admin = std::fs::read_to_string(&file).expect("the server has made it");
    let given = ask(&format!("authorization: Bearer {}", admin.trim()));
    assert_eq!(given.status, 201, "{}", given.body);

    let elsewhere = mesh.weft(&["identity", "join-token", "--service", "prod/web", "--state-dir", "nowhere"]);
    let told = text(&elsewhere);
    assert!(
        !elsewhere.status.success() && told.contains("nowhere/admin.token") && told.contains("--state-dir"),
        "{told}"
    );
}

#[test]
fn a_state_folder_is_for_one_sidecar_at_a_time() {
    let mesh = Mesh::start();
    for (name, data_plane) in [("weft", DataPlane::Weft), ("envoy", DataPlane::Envoy)] {
        let app = App::start("x");
        let mut first = mesh.sidecar(name, Spec::new("prod/web", app.address()).on(data_plane));
        let state = first.state.display().to_string();
        let second = Command::new(peers::weft())
            .args(["sidecar", "--service", "prod/web", "--state-dir", &state, "--server", &mesh.xds.to_string()])
            .output()
            .expect("the weft binary runs");
        let told = text(&second);
        assert!(!second.status.success() && told.contains(&state) && told.contains("--state-dir"), "{told}");
        // Neither an orderly end nor a sudden one leaves the folder locked.
        assert!(first.stop().success());
        first.restart();
        first.process().signal(Signal::SIGKILL);
        first.process().wait(Duration::from_secs(10));
        first.restart();
    }
}
