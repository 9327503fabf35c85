//! What policies read beside method, path, host and address: headers, query, gRPC, TLS, user, time and roles.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_model::intent::{Caller, Intent, Member, Role, ServicePattern};

use super::*;
use crate::request::{Headers, TlsFacts, User};
use crate::{Decisions, testing};

#[derive(Debug)]
struct Sent(&'static [(&'static str, &'static str)]);

impl Headers for Sent {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(*value))
    }
}

fn intent(policies: &str) -> Intent {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    intent.mesh.policy = PolicyInputs {
        redact: Vec::new(),
        headers: vec!["x-tenant".into()],
        query: vec!["tag".into()],
        claims: vec!["team".into()],
        time_zones: [("office".into(), "Europe/Berlin".into())].into(),
    };
    testing::policies(&mut intent, policies);
    intent
}

fn permit(conditions: &str) -> Engine {
    testing::engine(&intent(&format!("permit(principal, action, resource) when {{ {conditions} }};")), "prod/board")
}

#[test]
fn headers_that_the_mesh_declares_are_read() {
    let engine = permit(r#"context.headers has "x-tenant" && context.headers["x-tenant"] == "a""#);
    let id = testing::id("prod/web");
    let with = |headers: &'static [(&str, &str)]| {
        let decision = engine.decide(&CallRequest { headers: &Sent(headers), ..testing::request(&id) });
        assert!(decision.errors.is_empty(), "{decision:?}");
        decision.allowed
    };
    assert!(with(&[("x-tenant", "a"), ("x-other", "b")]));
    assert!(!with(&[("x-tenant", "a,b")]) && !with(&[("x-other", "a")]) && !with(&[]));
}

#[test]
fn a_parameter_of_the_query_is_the_set_of_its_values() {
    let engine = permit(r#"context.query has tag && context.query.tag == ["red"]"#);
    let id = testing::id("prod/web");
    let with = |query| engine.decide(&CallRequest { query, ..testing::request(&id) }).allowed;
    assert!(with(Some("tag=red")) && with(Some("x=1&tag=%72ed&y")) && with(Some("tag=red&tag=red")));
    assert!(!with(Some("tag=red&tag=blue")) && !with(Some("Tag=red")) && !with(Some("tag")) && !with(None));
}

/// What the schema says is always there is there for Cedar too, where our evaluator has to ask it, whatever the mesh declares.
#[test]
fn headers_and_query_are_there_without_any_that_are_declared() {
    let id = testing::id("prod/web");
    for declared in [false, true] {
        for condition in [
            "context has headers && context.now > datetime(\"2020-01-01\")",
            "context has query && decimal(\"1.0\").lessThan(decimal(\"2.0\"))",
            "context.headers == context.headers && context.now > datetime(\"2020-01-01\")",
            "context has time && context.now > datetime(\"2020-01-01\")",
            "!(context.headers has \"x-nobody\") && context.now > datetime(\"2020-01-01\")",
        ] {
            let mut intent = testing::intent(&["prod/web", "prod/board"]);
            if declared {
                intent.mesh.policy.headers = vec!["x-tenant".into()];
            }
            let forbid = format!("forbid(principal, action, resource) when {{ {condition} }};");
            testing::policies(&mut intent, &("permit(principal, action, resource);\n".to_owned() + &forbid));
            let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
            let request = CallRequest { now, ..testing::request(&id) };
            let decision = testing::engine(&intent, "prod/board").decide(&request);
            assert!(!decision.allowed && decision.errors.is_empty(), "{condition}, declared {declared}: {decision:?}");
        }
    }
}

/// A socket of both families has IPv4 addresses as IPv6 ones.
#[test]
fn an_ipv4_address_is_one_in_whatever_form_a_socket_has_it() {
    let forbid = r#"permit(principal, action, resource);
        forbid(principal, action, resource) when { context has sourceIp && context.sourceIp.isInRange(ip("127.0.0.0/8")) };"#;
    let asked = r#"permit(principal, action, resource); forbid(principal, action, resource)
        when { context has sourceIp && context.sourceIp.isLoopback() && context.now > datetime("2020-01-01") };"#;
    let id = testing::id("prod/web");
    for policies in [forbid, asked] {
        let engine = testing::engine(&intent(policies), "prod/board");
        let mut remembered = Decisions::default();
        for (from, allowed) in [("::ffff:127.0.0.1", false), ("127.0.0.1", false), ("::ffff:10.0.0.1", true)] {
            let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
            let request = CallRequest { source_ip: from.parse().ok(), now, ..testing::request(&id) };
            assert_eq!(remembered.decide(&engine, &request).decision.allowed, allowed, "{from}");
        }
    }
}

/// So that whoever decides again about what was logged decides the same.
#[test]
fn what_is_shown_of_a_query_is_what_it_was_decided_on() {
    let forbid = r#"forbid(principal, action, resource) when { context.query has tag && context.query.tag.contains("red") };
        permit(principal, action, resource);"#;
    let engine = testing::engine(&intent(forbid), "prod/board");
    let id = testing::id("prod/web");
    for (query, shown) in [
        ("tag=blue", serde_json::json!(["blue"])),
        ("x=1;tag=red", serde_json::json!(["red"])),
        ("[tag]=red&tag=blue", serde_json::json!(["blue", "red"])),
        ("tag=a+b", serde_json::json!(["a b"])),
    ] {
        let request = CallRequest { query: Some(query), ..testing::request(&id) };
        let of = engine.read_of(&request);
        assert_eq!(of.get("query.tag"), Some(&shown), "{query}: {of:?}");
        assert_eq!(engine.decide(&request).allowed, !query.contains("red"), "{query}");
    }
}

#[test]
fn a_call_of_grpc_has_a_service_and_a_method() {
    let engine = permit(r#"context has grpc && context.grpc.service == "acme.Board" && context.grpc.method == "Get""#);
    let id = testing::id("prod/web");
    let with = |grpc, path| engine.decide(&CallRequest { grpc, path, ..testing::request(&id) }).allowed;
    assert!(with(true, "/acme.Board/Get"));
    assert!(!with(false, "/acme.Board/Get") && !with(true, "/acme.Board/Put") && !with(true, "/acme.Board"));
}

#[test]
fn tls_user_and_port_are_read() {
    let user = User {
        subject: "ada".into(),
        issuer: "https://login.acme.internal".into(),
        scopes: vec!["pins:read".into()],
        groups: vec!["staff".into()],
        claims: [("team".into(), "maps".to_owned())].into(),
    };
    let id = testing::id("prod/web");
    for (conditions, holds) in [
        (r#"context has tls && context.tls has sni && context.tls.sni == "board.prod""#, true),
        (r#"context has user && context.user.scopes.contains("pins:read")"#, true),
        (r#"context has user && context.user.groups.containsAny(["staff", "guests"])"#, true),
        (r#"context has user && context.user.claims has team && context.user.claims.team == "maps""#, true),
        (r#"context has user && context.user.subject == "eve""#, false),
        ("context.port == 8080", true),
        ("context.breakGlass", false),
    ] {
        let engine = permit(conditions);
        let request = CallRequest {
            user: Some(&user),
            tls: Some(TlsFacts { server_name: Some("board.prod") }),
            ..testing::request(&id)
        };
        let decision = engine.decide(&request);
        assert_eq!((decision.allowed, &*decision.errors), (holds, &[][..]), "{conditions}");
        let without = engine.decide(&CallRequest { user: None, tls: None, ..request });
        assert!(without.errors.is_empty(), "{conditions}: {without:?}");
    }
}

/// Seconds since 1970.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const WORKING_HOURS: &str = r#"
    forbid(principal, action, resource)
    unless { context.time.office.hour >= 9 && context.time.office.hour < 17 };
    permit(principal, action, resource);
"#;

/// 29 March 2026 has no 02:00 to 03:00 in Berlin, 25 October has it twice: the working hours follow the wall, not the offset.
#[test]
fn outside_of_working_hours_a_call_is_denied_also_on_both_days_of_change() {
    let engine = testing::engine(&intent(WORKING_HOURS), "prod/board");
    let id = testing::id("prod/web");
    let midnight =
        [(1_774_738_800, "28 to 29 March", 23), (1_792_879_200, "25 October", 25), (1_795_734_000, "27 November", 24)];
    for (midnight, day, hours) in midnight {
        // From midnight, the ninth hour of the wall comes an hour sooner, or later.
        let shift = 24 - hours;
        let opens = midnight + (9 - shift) as u64 * 3600;
        for (second, open) in
            [(opens - 1, false), (opens, true), (opens + 8 * 3600 - 1, true), (opens + 8 * 3600, false)]
        {
            let decision = engine.decide(&CallRequest { now: at(second), ..testing::request(&id) });
            assert_eq!(decision.allowed, open, "{day}, {second}: {}", decision.reason);
        }
    }
}

#[test]
fn a_decision_that_reads_the_time_is_remembered_to_the_end_of_the_minute() {
    let engine = testing::engine(&intent(WORKING_HOURS), "prod/board");
    let id = testing::id("prod/web");
    let mut decisions = Decisions::default();
    let closes = 1_795_734_000 + 17 * 3600;
    let mut decide = |second| decisions.decide(&engine, &CallRequest { now: at(second), ..testing::request(&id) });
    let first = decide(closes - 60);
    assert!(first.decision.allowed);
    assert!(Arc::ptr_eq(&first.decision.reason, &decide(closes - 1).decision.reason));
    assert!(!decide(closes).decision.allowed);
    assert!(decide(closes - 1).decision.allowed, "a clock that is set back");
}

#[test]
fn a_role_has_the_members_of_its_roles_and_patterns() {
    let mut intent = testing::intent(&["prod/web-1", "prod/web-2", "prod/web", "staging/batch", "prod/board"]);
    testing::role(&mut intent, "everyone", vec![Caller::Role("fronts".into()), Caller::Role("batches".into())]);
    for (name, namespace, service) in [("fronts", "prod", "web-*"), ("batches", "*", "batch")] {
        let pattern = ServicePattern { namespace: namespace.into(), name: service.into() };
        let role =
            Role { name: name.into(), members: vec![Member::Pattern(pattern)], span: testing::span("roles.yaml", 1) };
        intent.roles.insert(name.into(), role);
    }
    testing::allow(&mut intent, "prod/board", Caller::Role("everyone".into()), Vec::new());
    testing::policies(
        &mut intent,
        r#"forbid(principal in Role::"batches", action, resource) when { context.method == "PUT" };"#,
    );
    let engine = testing::engine(&intent, "prod/board");
    let decide =
        |caller: &str, method| engine.decide(&CallRequest { method, ..testing::request(&testing::id(caller)) }).allowed;
    assert!(decide("prod/web-1", "PUT") && decide("prod/web-2", "GET") && decide("staging/batch", "GET"));
    assert!(!decide("prod/web", "GET") && !decide("staging/batch", "PUT"));
}
