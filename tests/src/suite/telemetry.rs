//! What each hop writes down about a request.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::World;
use super::calls::WEB;
use crate::sidecar::{DataPlane, Sidecar};
use crate::{curl, log, wait};

/// Istio's JSON log, and what Weft adds. Every line has every key; `null` where there is nothing to say.
const KEYS: &[&str] = &[
    "start_time",
    "route_name",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "upstream_transport_failure_reason",
    "trace_id",
    "decision_id",
    "config_version",
    "attempt_count",
    "peer_id",
    "own_id",
    "layer",
    "cause",
    "decision",
    "policy",
    "hop",
];

const BOARD: &str = "spiffe://test.internal/ns/prod/sa/board";

#[track_caller]
fn line(sidecar: &Sidecar, id: &str) -> Value {
    // Envoy writes its lines out every 10 s.
    wait::until(&format!("the line of {id} in {}", sidecar.access_log.display()), wait::SOON, || {
        log::access_line(&sidecar.access_log, id).ok_or("no such line")
    })
}

pub(super) fn access_log(world: &World) {
    let id = "11111111-2222-4333-8444-555555555501";
    let reply = world.curl(
        "board.prod",
        "/api/logged?q=1",
        &["-H", "x-version: v2", "-H", &format!("x-request-id: {id}"), "-A", "tester/1"],
    );
    assert_eq!(reply.status, 200, "{reply:?}");
    let egress = line(&world.web, id);
    let ingress = line(&world.board[1], id);
    for (hop, line) in [("egress", &egress), ("ingress", &ingress)] {
        let keys = line.as_object().expect("an object");
        let missing: Vec<_> = KEYS.iter().filter(|key| !keys.contains_key(**key)).collect();
        assert!(missing.is_empty(), "{hop}: no {missing:?} in {line:#}");
        assert_eq!(line["hop"], hop);
        assert_eq!(line["method"], "GET", "{line:#}");
        assert_eq!(line["path"], "/api/logged?q=1", "{line:#}");
        assert_eq!(line["response_code"], 200, "{line:#}");
        assert_eq!(line["user_agent"], "tester/1", "{line:#}");
        assert_eq!(line["response_flags"], "-", "{hop}: {line:#}");
        assert_eq!(line["bytes_sent"], reply.body.len(), "{line:#}");
    }
    assert_eq!(egress["peer_id"], BOARD, "{egress:#}");
    assert_eq!(egress["own_id"], WEB, "{egress:#}");
    assert_eq!(egress["upstream_cluster"], "outbound|8080|v2|board.prod", "{egress:#}");
    assert_eq!(egress["upstream_host"], world.board[1].ingress.to_string(), "{egress:#}");
    assert_eq!(ingress["peer_id"], WEB, "{ingress:#}");
    assert_eq!(ingress["own_id"], BOARD, "{ingress:#}");
    assert_eq!(ingress["decision"], "allow", "{ingress:#}");
    assert!(ingress["policy"].as_str().is_some_and(|p| p.contains("services/board.yaml:")), "{ingress:#}");
    assert!(ingress["decision_id"].as_str().is_some_and(|p| p.len() >= 8), "{ingress:#}");
    assert_eq!(egress["trace_id"], ingress["trace_id"]);
    assert!(egress["trace_id"].as_str().is_some_and(|t| t.len() == 32), "{egress:#}");
    for (plane, line) in [(world.caller, &egress), (world.callee, &ingress)] {
        if plane == DataPlane::Weft {
            assert_eq!(line["config_version"], world.mesh.repo.head(), "{line:#}");
        }
    }
}

pub(super) fn denied_log(world: &World) {
    let id = "11111111-2222-4333-8444-555555555502";
    let header = format!("x-request-id: {id}");
    let reply = world.curl("board.prod", "/admin", &["-H", "x-version: v2", "-H", &header]);
    assert_eq!(reply.status, 403, "{reply:?}");
    let line = line(&world.board[1], id);
    assert_eq!(line["response_code"], 403, "{line:#}");
    assert_eq!(line["response_flags"], "UAEX", "{line:#}");
    assert_eq!(line["decision"], "deny", "{line:#}");
    assert_eq!(line["decision_id"], reply.json()["decision_id"], "{line:#}");
    if world.callee == DataPlane::Weft {
        assert!(line["layer"].is_string() && line["cause"].is_string(), "{line:#}");
    }
}

pub(super) fn metrics(world: &World) {
    for (plane, sidecar, reporter) in
        [(world.caller, &world.web, "source"), (world.callee, &world.board[1], "destination")]
    {
        let reply = curl::curl(&[&format!("http://{}/stats/prometheus", sidecar.metrics)]);
        assert_eq!(reply.status, 200, "{reply:?}");
        let lines = || reply.body.lines().filter(|line| !line.starts_with('#'));
        let expiry = lines().find_map(|line| line.strip_prefix("weft_certificate_expiry_seconds "));
        let expiry: u64 = expiry.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{}", reply.body));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        assert!((now..now + 7 * 24 * 3600).contains(&expiry), "{expiry} is no near future of {now}");
        if plane == DataPlane::Envoy {
            assert!(lines().any(|line| line.starts_with("envoy_")), "{}", reply.body);
            continue;
        }
        let wanted = [
            format!("reporter=\"{reporter}\""),
            format!("source_principal=\"{WEB}\""),
            format!("destination_principal=\"{BOARD}\""),
            "destination_service_name=\"board\"".to_owned(),
            "destination_service_namespace=\"prod\"".to_owned(),
            "response_code=\"200\"".to_owned(),
            "request_protocol=\"http\"".to_owned(),
            "connection_security_policy=\"mutual_tls\"".to_owned(),
        ];
        let count =
            lines().find(|line| line.starts_with("istio_requests_total{") && wanted.iter().all(|w| line.contains(w)));
        let count = count.unwrap_or_else(|| panic!("no istio_requests_total with {wanted:#?} in\n{}", reply.body));
        let value: f64 = count.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number");
        assert!(value >= 1.0, "{count}");
        for name in
            ["istio_request_duration_milliseconds_bucket{", "istio_request_bytes_sum{", "istio_response_bytes_count{"]
        {
            assert!(lines().any(|line| line.starts_with(name)), "no {name}");
        }
    }
}
