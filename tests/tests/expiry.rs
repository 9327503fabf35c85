//! A certificate that runs out because nothing renews it: everybody who asks is told so.

use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::app::App;
use weft_tests::curl::{self, Reply, curl};
use weft_tests::log::json_lines;
use weft_tests::mesh::{Mesh, text};
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{ports, wait};

/// The shortest life that intent allows.
const SHORT: (&str, &str) = ("svidTtl: 1h", "svidTtl: 10s");
/// In which the certificate of that life has run out, on a busy machine.
const LIFE: Duration = Duration::from_secs(40);

fn ready(sidecar: &Sidecar) -> Reply {
    curl(&[&format!("http://{}/ready", sidecar.health)])
}

/// Waits until a sidecar is no longer ready, and gives what it says then.
#[track_caller]
fn expired(sidecar: &Sidecar) -> Reply {
    wait::until("the identity to expire", LIFE, || {
        let reply = ready(sidecar);
        if reply.status == 503 { Ok(reply) } else { Err(format!("{} {}", reply.status, reply.body)) }
    })
}

/// Lets some time pass in which nothing more should be said.
fn pass(time: Duration) {
    let start = Instant::now();
    wait::until("some time to pass", time * 10, || if start.elapsed() >= time { Ok(()) } else { Err("not yet") });
}

/// Waits until the control plane would know of these certificates after a sudden end too.
#[track_caller]
fn saved(mesh: &Mesh, nodes: &[&str]) {
    let file = mesh.state().join("certificates.json");
    wait::until("the certificates to be saved", wait::SOON, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if nodes.iter().all(|node| text.contains(node)) { Ok(()) } else { Err(text) }
    });
}

/// A life after which the own certificate is of no use: no connection of web's has been made before.
fn own_identity(data_plane: DataPlane) {
    let mut mesh = Mesh::start_with(|repo| repo.replace("mesh.yaml", SHORT.0, SHORT.1));
    let app = App::start("v1");
    let mut chat = mesh.sidecar("chat", Spec::new("prod/chat", app.address()).on(data_plane));
    let mut web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
    mesh.wait_endpoints("prod/chat", 1);
    mesh.acknowledged(&mesh.repo.head());
    web.wait_knows(&chat);
    saved(&mesh, &["prod/chat~", "prod/web~"]);
    mesh.kill_server();

    let told = expired(&web);
    expired(&chat); // which was renewed at another time
    assert!(told.body.starts_with("IDENTITY_EXPIRED\n"), "{told:?}");
    assert!(told.body.contains("own certificate expired") && told.body.contains("/ns/prod/sa/web"), "{told:?}");
    let answer = curl::get(web.egress, "chat.prod", "/ws", &[]);
    assert_eq!((answer.status, app.requests()), (503, 0), "{answer:?}");
    if data_plane == DataPlane::Weft {
        let problem = answer.json();
        assert_eq!(
            (&problem["layer"], &problem["cause"]),
            (&"identity".into(), &"identity_expired".into()),
            "{problem:#}"
        );
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("/ns/prod/sa/web")), "{problem:#}");
        let line = wait::until("the access log to have the line", wait::SOON, || {
            let lines = json_lines(&web.access_log);
            lines.into_iter().find(|line| line["cause"] == "identity_expired").ok_or("no line")
        });
        assert_eq!((&line["layer"], &line["response_code"]), (&"identity".into(), &503.into()), "{line:#}");
    } else {
        // Envoy dials all the same; that the callee's certificate has run out too is what it meets.
        assert_eq!(answer.json()["cause"], "connect_failed", "{answer:?}");
        let line = wait::until("the access log to have the line", wait::SOON, || {
            let lines = json_lines(&web.access_log);
            lines.into_iter().find(|line| line["response_code"] == 503).ok_or("no line")
        });
        let reason = line["upstream_transport_failure_reason"].as_str().unwrap_or_default();
        assert!(reason.contains("certificate_has_expired"), "{line:#}");
    }

    // Told once, with what to do, and not contradicted afterwards.
    pass(Duration::from_secs(3));
    for sidecar in [&mut web, &mut chat] {
        let log = sidecar.process().output();
        let (before, after) = log.split_once("EXPIRED").unwrap_or_else(|| panic!("nothing of it in: {log}"));
        assert!(before.contains("the present one serves until it expires"), "{before}");
        assert!(after.contains("It comes back by itself, by the key of this machine"), "{after}");
        for again in ["EXPIRED", "serves until", "cannot renew", "xDS stream ended"] {
            assert!(!after.contains(again), "`{again}` after the end: {after}");
        }
    }

    // One that is gone for good is told of when the control plane is back; the other comes back without anybody's help.
    chat.kill();
    mesh.start_server();
    wait::until("web to be usable again", LIFE, || {
        let log = web.process().output();
        let lines = log.lines().filter(|line| line.contains("the identity is usable again")).count();
        if lines == 1 && ready(&web).status == 200 { Ok(()) } else { Err(format!("{lines} in {log}")) }
    });
    wait::until("the control plane to tell of both", wait::SOON, || {
        let rows = mesh.api("/api/proxies")?;
        let row = |service: &str| rows.as_array().into_iter().flatten().find(|row| row["service"] == service);
        let cause = |service: &str| row(service).map(|row| row["cause"].clone());
        let told = cause("prod/chat") == Some("identity_expired".into()) && cause("prod/web") == Some(Value::Null);
        if told { Ok(()) } else { Err(format!("{rows:#}")) }
    });
    let shown = text(&mesh.weft(&["status"]));
    assert!(shown.contains("prod/chat~") && shown.contains(": identity_expired: its certificate expired "), "{shown}");
    assert!(shown.contains("start the sidecar again: it comes back by the key of its machine"), "{shown}");

    // And it is true: with a certificate that has run out, and without a token.
    chat.restart();
    wait::until("the call to arrive again", wait::SOON, || {
        let answer = curl::get(web.egress, "chat.prod", "/ws", &[]);
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let shown = text(&mesh.weft(&["status"]));
    assert!(!shown.contains("identity_expired"), "{shown}");
}

#[test]
fn an_identity_that_has_expired_is_told_to_everyone_who_asks() {
    own_identity(DataPlane::Weft);
}

#[test]
fn an_envoy_whose_identity_has_expired_is_not_ready_and_its_agent_says_why() {
    own_identity(DataPlane::Envoy);
}

/// The callee's certificate has run out, the caller's has not.
fn peers_identity(data_plane: DataPlane) {
    let mut mesh = Mesh::start();
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    mesh.repo.replace("mesh.yaml", SHORT.0, SHORT.1);
    mesh.commit("Shorter lives");
    let app = App::start("v1");
    let mut chat = mesh.sidecar("chat", Spec::new("prod/chat", app.address()).on(data_plane));
    mesh.wait_endpoints("prod/chat", 1);
    mesh.acknowledged(&mesh.repo.head());
    web.wait_knows(&chat);
    mesh.kill_server();

    expired(&chat);
    assert_eq!(ready(&web).status, 200, "the caller's identity is good");
    let answer = curl::get(web.egress, "chat.prod", "/ws", &[]);
    assert_eq!((answer.status, app.requests()), (503, 0), "{answer:?}");
    let problem = answer.json();
    assert_eq!(
        (&problem["layer"], &problem["cause"]),
        (&"identity".into(), &"peer_identity_expired".into()),
        "{problem:#}"
    );
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("/ns/prod/sa/chat") && detail.contains("the peer's certificate expired "), "{problem:#}");
    if data_plane == DataPlane::Weft {
        wait::until("the callee to say why it refused", wait::SOON, || {
            let log = chat.process().output();
            let refused = |line: &str| line.contains("connection refused") && line.contains("identity_expired");
            if log.lines().any(refused) { Ok(()) } else { Err(log) }
        });
    }
}

#[test]
fn a_caller_reads_that_the_callees_identity_has_expired() {
    peers_identity(DataPlane::Weft);
}

#[test]
fn a_caller_reads_that_the_identity_of_a_callees_envoy_has_expired() {
    peers_identity(DataPlane::Envoy);
}
