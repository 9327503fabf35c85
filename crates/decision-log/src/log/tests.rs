use std::sync::Arc;
use std::time::UNIX_EPOCH;

use weft_policy::{Decisions, Principal, testing};

use super::*;
use crate::Tail;

fn engine(policies: &str) -> Engine {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    intent.mesh.policy.headers = vec!["x-key".into(), "x-pin".into(), "x-tenant".into()];
    intent.mesh.policy.query = vec!["tag".into()];
    intent.mesh.policy.redact = vec!["x-pin".into()];
    testing::policies(&mut intent, policies);
    testing::engine(&intent, "prod/board")
}

const POLICIES: &str = r#"
permit(principal, action, resource) when { context.method == "GET" && context.headers has "x-tenant" };
forbid(principal, action, resource) when { context.headers has "x-key" && context.headers["x-key"] == "no" };
forbid(principal, action, resource) when { context.headers has "x-pin" && context.headers["x-pin"] == "1" };
forbid(principal, action, resource) when { context.query has tag && context.query.tag.contains("red") };
"#;

/// Decides on each and reads back what was logged.
fn logged(engine: &Engine, allowed: Allowed, requests: &[CallRequest<'_>]) -> Vec<Entry<'static>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.log");
    let log = DecisionLog::open(&path, Settings { allowed, ..Settings::default() }, None).unwrap();
    let (mut recorder, mut decisions) = (log.recorder(), Decisions::default());
    for request in requests {
        let decided = decisions.decide(engine, request);
        let Some(line) = recorder.takes(&decided.decision, decided.evaluated) else { continue };
        recorder.record(
            line,
            &Made {
                engine: Some(engine),
                request,
                decision: &decided.decision,
                evaluated: decided.evaluated,
                id: "d-1",
                commit: "c0ffee",
                request_id: Some("r-1"),
                trace_id: None,
            },
        );
    }
    drop(recorder);
    log.flush();
    let mut entries = Vec::new();
    Tail::new(&path).read(|entry| entries.push(entry)).unwrap();
    entries
}

#[test]
fn a_line_says_who_what_why_and_on_what_grounds() {
    let id = testing::id("prod/web");
    let headers = [("x-tenant", "a"), ("x-key", "no"), ("x-pin", "0"), ("x-other", "y")];
    let headers = headers.map(|(name, value)| (Arc::<str>::from(name), Arc::<str>::from(value)));
    let headers = std::collections::BTreeMap::from(headers);
    let now = UNIX_EPOCH + Duration::from_millis(1_795_537_086_250);
    let request = CallRequest {
        method: "GET",
        path: "/x",
        query: Some("tag=blue&token=1"),
        headers: &headers,
        source_ip: "10.1.2.3".parse().ok(),
        now,
        ..testing::request(&id)
    };
    let engine = engine(POLICIES);
    let entries = logged(&engine, Allowed::First, &[request]);
    let [entry] = &entries[..] else { panic!("{entries:#?}") };
    assert_eq!(entry.decision, Outcome::Deny);
    assert_eq!(entry.time, "2026-11-24T16:18:06.250Z");
    assert_eq!(entry.principal.as_deref(), Some("spiffe://acme.internal/ns/prod/sa/web"));
    assert_eq!((&*entry.resource, &*entry.method, &*entry.path), ("prod/board", "GET", "/x"));
    assert_eq!(entry.source_ip.as_deref(), Some("10.1.2.3"));
    assert_eq!(entry.places(), "policies/x.cedar:3");
    assert_eq!(entry.reason, "forbid policies/x.cedar:3");
    assert_eq!((&*entry.commit, &*entry.policy_version), ("c0ffee", engine.version()));
    assert!(entry.micros.is_some_and(|micros| micros > 0.0));
    let attributes = serde_json::json!({
        "headers.x-tenant": "a", "headers.x-key": "[redacted]", "headers.x-pin": "[redacted]", "query.tag": ["blue"],
    });
    assert_eq!(serde_json::Value::Object(entry.attributes.clone()), attributes);
    assert_eq!(entry.reads, ["method", "headers.x-key", "headers.x-pin", "headers.x-tenant", "query.tag"]);
}

#[test]
fn every_denial_has_a_line_and_of_the_allowed_as_many_as_are_wanted() {
    let id = testing::id("prod/web");
    let engine = engine("permit(principal, action, resource) when { context.method == \"GET\" };");
    let get = CallRequest { method: "GET", ..testing::request(&id) };
    let put = CallRequest { method: "PUT", ..get };
    let calls = [get, put, get, put, get, get];
    for (allowed, lines) in [
        (Allowed::None, vec!["PUT true", "PUT false"]),
        (Allowed::First, vec!["GET true", "PUT true", "PUT false"]),
        (Allowed::OneIn(2), vec!["GET true", "PUT true", "PUT false", "GET false"]),
        (Allowed::All, vec!["GET true", "PUT true", "GET false", "PUT false", "GET false", "GET false"]),
    ] {
        let entries = logged(&engine, allowed, &calls);
        let seen: Vec<String> =
            entries.iter().map(|entry| format!("{} {}", entry.method, entry.micros.is_some())).collect();
        assert_eq!(seen, lines, "{allowed}");
    }
}

#[test]
fn a_caller_without_identity_and_a_hostile_one_break_no_line() {
    let engine = engine(POLICIES);
    let id: weft_model::SpiffeId = "spiffe://other.org/x".parse().unwrap();
    let hostile =
        CallRequest { path: "/\"\n\u{2028}{", host: "\\", principal: Principal::Unknown, ..testing::request(&id) };
    let entries = logged(&engine, Allowed::First, &[hostile, CallRequest { principal: Principal::Id(&id), ..hostile }]);
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].principal, None);
    assert_eq!(entries[1].path, "/\"\n\u{2028}{");
    assert!(entries[1].reason.contains("not of the trust domain"));
    assert!(entries.iter().all(|entry| entry.reads.is_empty() && entry.attributes.is_empty()));
}
