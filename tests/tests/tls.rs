//! Who gets past the TLS of an ingress, as openssl sees it.

use std::time::Duration;

use weft_tests::app::App;
use weft_tests::mesh::Mesh;
use weft_tests::pki::{Authority, Pair};
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{tls, wait};

const WEB: &str = "spiffe://test.internal/ns/prod/sa/web";

struct Setup {
    board: Sidecar,
    _app: App,
    mesh: Mesh,
}

fn setup(data_plane: DataPlane) -> Setup {
    let mesh = Mesh::start_with(|repo| repo.replace("mesh.yaml", "svidTtl: 1h", "svidTtl: 10s"));
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).on(data_plane));
    Setup { board, _app: app, mesh }
}

fn only_living_members_of_the_mesh_get_in(data_plane: DataPlane) {
    let Setup { board, _app, mesh } = setup(data_plane);
    let web = mesh.svid("prod/web", "web");
    let call = |client: Option<&Pair>| tls::request(board.ingress, client, "board.prod", "/api/");
    // The control first: a living SVID of the right service is answered, so the refusals below are not for another reason.
    let answer = wait::until("an SVID of prod/web to be let in", wait::SOON, || {
        let outcome = call(Some(&web));
        outcome.response.clone().ok_or(outcome.text)
    });
    assert_eq!(answer, "HTTP/1.1 200 OK");

    let stranger = mesh.svid("staging/stranger", "stranger");
    let outcome = call(Some(&stranger));
    assert!(outcome.response.as_deref().is_some_and(|line| line.starts_with("HTTP/1.1 403")), "{}", outcome.text);

    call(None).assert_refused("a client without a certificate");
    let other = Authority::create(mesh.folder(), "other", "test.internal");
    call(Some(&other.issue("forged", WEB, 1))).assert_refused("the same identity from another CA");

    // The SVID lives for 10 s; nothing renews this one.
    wait::until("the SVID to expire", Duration::from_secs(30), || {
        let status = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-checkend", "0", "-in"])
            .arg(&web.certificate)
            .output()
            .map_err(|error| error.to_string())?;
        if status.status.success() { Err("it is still valid".to_owned()) } else { Ok(()) }
    });
    // The last second belongs to its life (RFC 5280 s.4.1.2.5), and openssl counts that second otherwise.
    wait::until("the ingress to see that it expired", Duration::from_secs(3), || {
        call(Some(&web)).response.map_or(Ok(()), Err)
    });
    call(Some(&web)).assert_refused("an expired certificate");
}

#[test]
fn weft_lets_only_living_members_of_the_mesh_in() {
    only_living_members_of_the_mesh_get_in(DataPlane::Weft);
}

#[test]
fn envoy_lets_only_living_members_of_the_mesh_in() {
    only_living_members_of_the_mesh_get_in(DataPlane::Envoy);
}

/// Whoever has an SVID can talk to an ingress without a sidecar of its own, and spell hosts as it likes.
fn a_host_is_one_to_policies_however_it_is_spelled(data_plane: DataPlane) {
    let forbid = "forbid(principal, action == Action::\"call\", resource) when { context.host == \"closed.prod\" };\n";
    let mesh = Mesh::start_with(|repo| repo.write("policies/host.cedar", forbid));
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).on(data_plane));
    let web = mesh.svid("prod/web", "web");
    let call = |host: &str| tls::request(board.ingress, Some(&web), host, "/api/").response;
    let answer = wait::until("an SVID of prod/web to be let in", wait::SOON, || call("open.prod").ok_or("no response"));
    assert_eq!(answer, "HTTP/1.1 200 OK");
    for host in ["closed.prod", "Closed.Prod", "closed.prod:8080", "closed.prod.", "closed.prod.:80", "closed.prod.."] {
        let answer = call(host);
        assert!(answer.as_deref().is_some_and(|line| line.starts_with("HTTP/1.1 403")), "{host}: {answer:?}");
    }
}

#[test]
fn a_host_is_one_to_weft_however_it_is_spelled() {
    a_host_is_one_to_policies_however_it_is_spelled(DataPlane::Weft);
}

#[test]
fn a_host_is_one_to_envoy_however_it_is_spelled() {
    a_host_is_one_to_policies_however_it_is_spelled(DataPlane::Envoy);
}

#[test]
fn a_certificate_is_an_x509_svid() {
    let mesh = Mesh::start();
    let web = mesh.svid("prod/web", "web");
    let text = tls::describe(&web.certificate);
    let names =
        text.lines().skip_while(|line| !line.contains("Subject Alternative Name")).nth(1).unwrap_or_default().trim();
    assert_eq!(names, format!("URI:{WEB}"), "one URI and nothing else (SPIFFE X.509-SVID s.2): {text}");
    assert!(text.contains("CA:FALSE"), "{text}");
    assert!(
        text.contains("Digital Signature") && !text.contains("Certificate Sign") && !text.contains("CRL Sign"),
        "{text}"
    );
    assert!(text.contains("TLS Web Server Authentication, TLS Web Client Authentication"), "{text}");
    assert!(text.contains("NIST CURVE: P-256"), "{text}");
}
