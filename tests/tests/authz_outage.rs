//! The authorization server killed under load: whoever decides by itself does not notice, whoever asks it fails closed with the right words,
//! and a service that fails open goes on, for all to see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use weft_tests::app::App;
use weft_tests::load::{Load, Target};
use weft_tests::mesh::Mesh;
use weft_tests::repo::Repo;
use weft_tests::sidecar::DataPlane::{Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{curl, log, ports, wait};

const RATE: u64 = 40;

/// Service, and who decides about its calls.
const SERVICES: [(&str, &str); 3] =
    [("own", "{}"), ("closed", "{by: server, timeout: 5s}"), ("open", "{by: server, timeout: 5s, failOpen: true}")];

/// One of each kind on each data plane, a service each so that a caller knows which it calls.
fn add_services(repo: &Repo) {
    let mut text = repo.read("services/all.yaml");
    for (name, authorization) in SERVICES {
        for data_plane in ["weft", "envoy"] {
            text += &format!(
                "---\nkind: Service\nname: {name}-{data_plane}\nnamespace: prod\nport: 8080\nprotocol: http\n\
                 authorization: {authorization}\naccess:\n  - {{from: [prod/web], allow: [\"GET /api/**\"]}}\n"
            );
        }
    }
    repo.write("services/all.yaml", &text);
}

struct Callee {
    host: String,
    sidecar: Sidecar,
}

fn callees(mesh: &Mesh, app: &App) -> BTreeMap<String, Callee> {
    let each = SERVICES.iter().flat_map(|(name, _)| [(name, "weft", Weft), (name, "envoy", Envoy)]);
    each.map(|(name, word, data_plane)| {
        let key = format!("{name}-{word}");
        let spec = Spec::new(&format!("prod/{key}"), app.address()).on(data_plane);
        (key.clone(), Callee { host: format!("{key}.prod"), sidecar: mesh.sidecar(&key, spec) })
    })
    .collect()
}

fn metric(sidecar: &Sidecar, name: &str) -> f64 {
    let reply = curl::curl(&[&format!("http://{}/stats/prometheus", sidecar.metrics)]);
    let of_name = |line: &&str| line.split([' ', '{']).next() == Some(name);
    reply.body.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A call, and the callee's log line of it.
fn call(egress: SocketAddr, callee: &Callee, id: &str) -> (curl::Reply, impl Fn() -> Value + use<>) {
    let header = format!("x-request-id: {id}");
    // What the mesh says of a call that nobody decided on is not the caller's to say.
    let forged = "x-envoy-auth-failure-mode-allowed: forged";
    let reply = curl::get(egress, &callee.host, "/api/x", &["-H", &header, "-H", forged]);
    let (path, id) = (callee.sidecar.access_log.clone(), id.to_owned());
    (reply, move || log::wait_line(&path, &format!("the line of {id}"), |line| line["request_id"] == *id))
}

fn told_the_app(reply: &curl::Reply) -> Vec<Value> {
    let headers = reply.json()["headers"].as_array().cloned().unwrap_or_default();
    headers
        .into_iter()
        .filter(|pair| pair[0] == "x-envoy-auth-failure-mode-allowed")
        .map(|pair| pair[1].clone())
        .collect()
}

#[test]
fn an_authorization_server_that_is_killed_under_load_opens_nothing_and_stops_nobody_else() {
    let mut mesh = Mesh::start_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("authz"), add_services);
    let app = App::start("v1");
    let callees = callees(&mesh, &app);
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let target =
        |name: &str| Target { address: web.egress, host: callees[name].host.clone(), path: "/api/x".to_owned() };
    for (name, callee) in &callees {
        web.wait_knows(&callee.sidecar);
        target(name).wait_reachable();
        let (reply, line) = call(web.egress, callee, &format!("before-{name}"));
        assert_eq!((reply.status, told_the_app(&reply)), (200, Vec::new()), "{name}");
        let line = line();
        assert_eq!((&line["decision"], &line["authz_failed_open"]), (&json!("allow"), &Value::Null), "{name}: {line}");
        let denied = curl::get(web.egress, &callee.host, "/other", &[]);
        assert_eq!((denied.status, &denied.json()["cause"]), (403, &json!("denied")), "{name}");
        assert_eq!(denied.header("x-weft-decision-id"), denied.json()["decision_id"].as_str(), "{name}");
    }

    let start = Instant::now();
    let loads: BTreeMap<&str, Load> =
        callees.keys().map(|name| (name.as_str(), Load::start(target(name), RATE))).collect();
    let go_on = |names: &[&str], more: u64| {
        let from: Vec<u64> = names.iter().map(|name| loads[name].succeeded()).collect();
        wait::until("the load to go on", wait::SOON, || {
            let now = names.iter().map(|name| loads[name].succeeded());
            if now.zip(&from).all(|(now, from)| now >= from + more) { Ok(()) } else { Err(format!("since {from:?}")) }
        });
    };
    go_on(&callees.keys().map(String::as_str).collect::<Vec<_>>(), 40);
    mesh.kill_server();

    for name in ["closed-weft", "closed-envoy"] {
        let (reply, line) = call(web.egress, &callees[name], &format!("away-{name}"));
        let problem = reply.json();
        let told = ["status", "flag", "layer", "cause"].map(|key| problem[key].clone());
        let expected = [json!(503), json!("UAEX"), json!("policy"), json!("no_decision")];
        assert_eq!((reply.status, told), (503, expected), "{name}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{name}");
        let line = line();
        let told = ["response_code", "response_flags", "response_code_details", "decision", "authz_failed_open"];
        let expected = [json!(503), json!("UAEX"), json!("ext_authz_error"), Value::Null, Value::Null];
        assert_eq!(told.map(|key| line[key].clone()), expected, "{name}: {line}");
    }
    for name in ["open-weft", "open-envoy"] {
        let (reply, line) = call(web.egress, &callees[name], &format!("away-{name}"));
        assert_eq!((reply.status, told_the_app(&reply)), (200, vec![json!("true")]), "{name}: {reply:?}");
        let line = line();
        let told = ["response_code", "response_flags", "decision", "authz_failed_open"].map(|key| line[key].clone());
        assert_eq!(told, [json!(200), json!("-"), Value::Null, json!("true")], "{name}: {line}");
        // Also what the policy would deny.
        assert_eq!(curl::get(web.egress, &callees[name].host, "/other", &[]).status, 200, "{name}");
    }
    go_on(&["own-weft", "own-envoy", "open-weft", "open-envoy"], 100);
    assert!(metric(&callees["open-weft"].sidecar, "weft_authz_failed_open_total") >= 100.0);
    assert!(metric(&callees["closed-weft"].sidecar, "weft_authz_unavailable_total") >= 1.0);
    assert!(metric(&callees["open-envoy"].sidecar, "envoy_cluster_ext_authz_failure_mode_allowed") >= 100.0);

    let says = |name: &str, what: &str| {
        wait::until(what, wait::SOON, || {
            let log = std::fs::read_to_string(callees[name].sidecar.log()).unwrap_or_default();
            if log.contains(what) { Ok(()) } else { Err(format!("{name}: {log}")) }
        });
    };
    for data_plane in ["weft", "envoy"] {
        says(&format!("open-{data_plane}"), "calls PASS WITHOUT A DECISION");
        says(&format!("closed-{data_plane}"), "calls are refused: the authorization server cannot be asked");
    }

    mesh.start_server();
    for name in ["closed-weft", "closed-envoy"] {
        target(name).wait_reachable();
    }
    for name in ["open-weft", "open-envoy"] {
        wait::until("the policy to count again", wait::SOON, || {
            let reply = curl::get(web.egress, &callees[name].host, "/other", &[]);
            if reply.status == 403 { Ok(()) } else { Err(format!("{name}: {reply:?}")) }
        });
    }
    for name in ["open-weft", "open-envoy", "closed-weft", "closed-envoy"] {
        says(name, "the authorization server decides again");
    }
    let elapsed = start.elapsed();
    for (name, load) in loads {
        let outcome = load.stop();
        if name.starts_with("closed") {
            assert!(!outcome.failures.is_empty(), "{name}: nobody was asked in vain");
            for (at, why) in &outcome.failures {
                assert!(why.starts_with("503") && why.contains("\"cause\":\"no_decision\""), "{name} at {at}: {why}");
            }
        } else {
            outcome.assert_clean(RATE, elapsed);
        }
    }
}
