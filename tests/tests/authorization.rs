//! The same calls are decided alike, for the same reasons, by our data plane and by Envoy with the policies behind ext_authz, and by both
//! when they ask the control plane.

use std::collections::HashMap;

use serde_json::Value;
use weft_tests::app::App;
use weft_tests::curl::Reply;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{curl, log, ports, wait};

const CALLERS: [&str; 3] = ["prod/web", "prod/report-daily", "staging/web"];

/// Method, target and header of a call.
type Ask = (&'static str, &'static str, &'static str);

/// Each by every caller.
const ASKS: [Ask; 50] = [
    ("GET", "/api/", ""),
    ("GET", "/api", ""),
    ("GET", "/api/a/b/c?x=1", ""),
    ("GET", "/api/%70ins", ""),
    ("GET", "//api///a", ""),
    ("GET", "/x/../api/a", ""),
    ("GET", "/x/%2e%2e/api/a", ""),
    ("GET", "/apix", ""),
    ("GET", "/API/", ""),
    ("PUT", "/api/", ""),
    ("DELETE", "/api/a", ""),
    ("GET", "/api/public", ""),
    ("GET", "/api/public;v=1", ""),
    ("GET", "/api/secrets/x", ""),
    ("GET", "/api/secrets", ""),
    ("GET", "/api//secrets", ""),
    ("GET", "/api/secrets;x/y", ""),
    ("GET", "/api/%73ecrets", ""),
    ("POST", "/pins/7/notes", ""),
    ("POST", "/pins/7/8/notes", ""),
    ("POST", "/pins//notes", ""),
    ("GET", "/reports", ""),
    ("GET", "/reports/2026/11", ""),
    ("POST", "/reports", ""),
    ("POST", "/reports/x", ""),
    ("GET", "/open", ""),
    ("GET", "/open/", ""),
    ("GET", "/open?tag=black", ""),
    ("GET", "/open?tag=red&tag=black", ""),
    ("GET", "/open?tag=%62lack", ""),
    ("GET", "/open?TAG=black", ""),
    ("GET", "/open", "x-plan: gold"),
    ("GET", "/open", "x-plan: expired"),
    ("GET", "/open", "X-Plan: gold, expired"),
    ("GET", "/tenants/a", "x-tenant: a"),
    ("GET", "/tenants/a/x", "x-tenant: a"),
    ("GET", "/tenants/a", "x-tenant: b"),
    ("GET", "/tenants/a", ""),
    ("GET", "/tags?tag=red", ""),
    ("GET", "/tags?tag=red&tag=blue", ""),
    ("GET", "/tags?tag", ""),
    ("POST", "/acme.Board/Get", "content-type: application/grpc"),
    ("POST", "/acme.Board/Erase", "content-type: application/grpc"),
    ("POST", "/acme.Board/Erase", "content-type: application/grpc-web"),
    ("GET", "/sni", ""),
    ("GET", "/no-sni", ""),
    ("GET", "/port", ""),
    ("GET", "/some-office", ""),
    ("GET", "/no-office", ""),
    ("GET", "/since-2020", ""),
];

/// Those whose policies cannot be evaluated.
const BROKEN: [Ask; 2] = [("GET", "/overflow", ""), ("GET", "/overflow-too", "")];

/// What the caller was told and what the callee's log says.
#[derive(Debug, PartialEq)]
struct Outcome {
    call: String,
    status: u16,
    grpc_status: Option<String>,
    cause: Value,
    detail: String,
    decision: Value,
    policy: Value,
}

/// Of calls about which the callee's sidecar decides by itself, or asks the control plane.
fn outcomes(data_plane: DataPlane, authorization: &str) -> Vec<Outcome> {
    let template = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("authz");
    let mesh = Mesh::start_from(&template, |repo| {
        // At the end, in the document of prod/board: no line moves, and each stands in the reason of a decision.
        let services = repo.read("services/all.yaml");
        repo.write("services/all.yaml", &format!("{services}authorization: {authorization}\n"));
    });
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).on(data_plane));
    let callers: Vec<(&str, Sidecar)> = CALLERS
        .iter()
        .map(|caller| (*caller, mesh.sidecar(&caller.replace('/', "-"), Spec::new(caller, ports::free()))))
        .collect();
    let mut replies = Vec::new();
    for (caller, sidecar) in &callers {
        sidecar.wait_knows(&board);
        for (number, (method, target, header)) in ASKS.iter().chain(&BROKEN).enumerate() {
            let id = format!("{}-{number}", caller.replace('/', "-"));
            let id_header = format!("x-request-id: {id}");
            let mut args = vec!["-X", method, "-H", &id_header];
            if !header.is_empty() {
                args.extend(["-H", header]);
            }
            let reply = curl::get(sidecar.egress, "board.prod", target, &args);
            replies.push((format!("{caller} {method} {target} {header}"), id, reply));
        }
    }
    // Envoy writes its log now and then: all lines are waited for at once.
    let lines = wait::until("a log line of each call", wait::SOON, || {
        let lines = log::json_lines(&board.access_log);
        let by_id: HashMap<String, Value> =
            lines.into_iter().filter_map(|line| Some((line["request_id"].as_str()?.to_owned(), line))).collect();
        match replies.iter().find(|(_, id, _)| !by_id.contains_key(id)) {
            None => Ok(by_id),
            Some((call, _, reply)) => Err(format!("none of {call}: {reply:?}")),
        }
    });
    replies.into_iter().map(|(call, id, reply)| outcome(call, &reply, &lines[&id])).collect()
}

fn outcome(call: String, reply: &Reply, line: &Value) -> Outcome {
    let problem: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    // A gRPC caller is told by the status, and the reason is followed by the decision's id.
    let detail = match reply.header("grpc-message") {
        Some(message) => message.split(" (decision").next().unwrap_or_default().replace("%3B", ";"),
        None => problem["detail"].as_str().unwrap_or_default().to_owned(),
    };
    Outcome {
        call,
        status: reply.status,
        grpc_status: reply.header("grpc-status").map(str::to_owned),
        cause: problem["cause"].clone(),
        detail,
        decision: line["decision"].clone(),
        policy: line["policy"].clone(),
    }
}

#[test]
fn the_same_calls_are_decided_alike_on_both_data_planes() {
    const BY_SERVER: &str = "{by: server, timeout: 10s}";
    let weft = outcomes(Weft, "{by: sidecar}");
    assert_eq!(weft.len(), 3 * (ASKS.len() + BROKEN.len()));
    for (data_plane, by) in [(Envoy, "{by: sidecar}"), (Weft, BY_SERVER), (Envoy, BY_SERVER)] {
        let other = outcomes(data_plane, by);
        let differ: Vec<_> = weft.iter().zip(&other).filter(|(weft, other)| weft != other).collect();
        assert!(differ.is_empty(), "{data_plane:?} by {by}: {} of {} differ: {differ:#?}", differ.len(), weft.len());
    }
    let all: String =
        weft.iter().map(|one| format!("{} -> {} {} {}\n", one.call, one.status, one.decision, one.detail)).collect();
    insta::assert_snapshot!(all);
}
