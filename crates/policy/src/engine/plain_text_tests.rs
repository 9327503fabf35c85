//! Whoever calls in plain text: allowed what names it, forbidden what is forbidden to everybody, and nobody where the service is strict.

use weft_model::Mtls;
use weft_model::intent::{Allow, Caller, Intent};

use super::*;
use crate::testing;
use crate::{Decisions, PolicyModel};

/// `prod/board` takes plain text, `prod/cart` does not.
fn mesh(policies: &str) -> Intent {
    let mut intent = testing::intent(&["prod/web", "prod/board", "prod/cart"]);
    intent.services.get_mut(&testing::name("prod/board")).expect("it is there").mtls = Mtls::Permissive;
    testing::policies(&mut intent, policies);
    intent
}

fn compiled(intent: &Intent) -> PolicyModel {
    crate::compile(intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"))
}

fn plain(intent: &Intent, callee: &str, path: &str) -> Decision {
    let (engine, id) = (testing::engine(intent, callee), testing::id("prod/web"));
    engine.decide(&CallRequest { principal: Principal::PlainText, path, ..testing::request(&id) })
}

const WIDE: &str = "permit (principal, action, resource);\n";
const NAMED: &str = "permit (principal == Service::\"plain-text\", action == Action::\"call\", resource);\n";

#[test]
fn a_permit_that_does_not_name_it_is_not_meant() {
    let mut intent = mesh(
        "permit (principal, action, resource);
         permit (principal is Service, action, resource) when { principal == Service::\"plain-text\" };
         permit (principal, action, resource) when { principal.name == \"plain-text\" || 1 == 1 };",
    );
    testing::allow(&mut intent, "prod/board", Caller::Anyone, Vec::new());
    testing::allow(&mut intent, "prod/board", Caller::Namespace("prod".into()), Vec::new());
    let denied = plain(&intent, "prod/board", "/");
    assert!(!denied.allowed && denied.policies.is_empty(), "{denied:?}");
    let told = "no access rule of prod/board (services/prod-board.yaml:10) and no policy allows plain-text";
    assert!(denied.reason.starts_with(told), "{}", denied.reason);
}

#[test]
fn a_permit_that_names_it_is_in_whatever_way_a_scope_can() {
    for scope in ["==", "in", "is Service in"] {
        let named = NAMED.replace("==", scope).replace(&format!("action {scope}"), "action ==");
        let intent = mesh(&(WIDE.to_owned() + &named));
        let allowed = plain(&intent, "prod/board", "/");
        assert!(allowed.allowed, "{named}: {allowed:?}");
        assert_eq!(&*allowed.reason, "permit policies/x.cedar:2");
    }
    let mut intent = mesh("");
    let get = Allow { method: Some("GET".into()), path: "/api/**".into() };
    testing::allow(&mut intent, "prod/board", Caller::PlainText, vec![get]);
    assert!(plain(&intent, "prod/board", "/api/x").allowed);
    let denied = plain(&intent, "prod/board", "/admin");
    assert!(!denied.allowed && denied.reason.ends_with("allows plain-text GET /admin"), "{denied:?}");
}

#[test]
fn every_forbid_that_lets_it_in_applies() {
    for forbid in [
        "forbid (principal, action, resource) when { context.path == \"/\" };",
        "forbid (principal is Service, action, resource) when { principal.namespace == \"\" };",
        "forbid (principal == Service::\"plain-text\", action, resource);",
        "forbid (principal, action, resource) unless { context has tls };",
        "forbid (principal, action, resource) unless { principal in Namespace::\"prod\" };",
        "forbid (principal, action, resource) when { principal.spiffeId like \"*\" && principal.trustDomain == \"\" };",
        // What cannot be evaluated denies.
        "forbid (principal, action, resource) when { 9223372036854775807 + context.depth > 0 };",
    ] {
        let denied = plain(&mesh(&(NAMED.to_owned() + forbid)), "prod/board", "/");
        assert!(!denied.allowed && &*denied.policies[0].id == "policies/x.cedar:2", "{forbid}: {denied:?}");
    }
    for other in [
        "forbid (principal in Namespace::\"prod\", action, resource);",
        "forbid (principal, action, resource) when { principal in Namespace::\"prod\" };",
        "forbid (principal, action, resource) when { principal has tier };",
    ] {
        let mut intent = mesh(&(NAMED.to_owned() + other));
        intent.mesh.attributes.insert("tier".into(), vec!["one".into()]);
        assert!(plain(&intent, "prod/board", "/").allowed, "{other}");
    }
}

#[test]
fn a_strict_service_knows_no_such_caller() {
    let intent = mesh(NAMED);
    let denied = plain(&intent, "prod/cart", "/");
    assert_eq!(&*denied.reason, "the caller has shown no identity: no client certificate with a SPIFFE ID");
    let bundle = testing::bundle(&intent, "prod/cart");
    assert!(!bundle.plain_text && bundle.policies.is_empty(), "what names it alone is not sent: {bundle:?}");
}

#[test]
fn who_shows_a_certificate_is_not_it() {
    let (engine, web) = (testing::engine(&mesh(NAMED), "prod/board"), testing::id("prod/web"));
    assert!(!engine.decide(&testing::request(&web)).allowed);
    let unknown = CallRequest { principal: Principal::Unknown, ..testing::request(&web) };
    assert!(engine.decide(&unknown).reason.contains("no identity"));
    let mut remembered = Decisions::default();
    let plain = CallRequest { principal: Principal::PlainText, ..testing::request(&web) };
    for _ in 0..2 {
        assert!(!remembered.decide(&engine, &unknown).decision.allowed);
        assert!(remembered.decide(&engine, &plain).decision.allowed);
        assert!(!remembered.decide(&engine, &testing::request(&web)).decision.allowed);
    }
}

/// What is remembered of one call in plain text is never said of another one that its policies tell apart, whatever those of others read.
#[test]
fn calls_that_its_policies_tell_apart_are_decided_apart() {
    let mut intent = mesh("");
    intent.mesh.policy.query = vec!["tag".into()];
    let get = Allow { method: Some("GET".into()), path: "/api/**".into() };
    testing::allow(&mut intent, "prod/board", Caller::PlainText, vec![get]);
    testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), Vec::new());
    let secret = "forbid (principal == Service::\"plain-text\", action, resource) when { context.query has tag && context.query.tag.contains(\"secret\") };";
    testing::policies(&mut intent, secret);
    let (engine, web) = (testing::engine(&intent, "prod/board"), testing::id("prod/web"));
    let mut remembered = Decisions::default();
    let call = CallRequest { principal: Principal::PlainText, path: "/api/x", ..testing::request(&web) };
    let calls = [
        (call, true),
        (CallRequest { path: "/admin", ..call }, false),
        (CallRequest { method: "DELETE", ..call }, false),
        (CallRequest { query: Some("tag=secret"), ..call }, false),
        (CallRequest { query: Some("tag=a;tag=secret"), ..call }, false),
        (CallRequest { query: Some("tag=a"), ..call }, true),
    ];
    for (call, allowed) in calls.iter().chain(calls.iter().rev()) {
        let decision = remembered.decide(&engine, call).decision;
        assert_eq!(decision.allowed, *allowed, "{call:?}: {decision:?}");
    }
}

#[test]
fn a_bundle_has_what_is_about_it_and_opens_nothing_to_others() {
    let in_prod = "forbid (principal in Namespace::\"prod\", action, resource);\n";
    let everybody = "forbid (principal, action, resource) when { context.path == \"/never\" };\n";
    let intent = mesh(&(NAMED.to_owned() + in_prod + everybody));
    let bundle = testing::bundle(&intent, "prod/board");
    let ids: Vec<&str> = bundle.policies.iter().map(|policy| &*policy.id).collect();
    assert_eq!(
        (bundle.plain_text, bundle.callers.len(), ids),
        (true, 0, vec!["policies/x.cedar:1", "policies/x.cedar:3"])
    );
    let model = compiled(&intent);
    let (web, board) = (testing::name("prod/web"), testing::name("prod/board"));
    assert!(!model.may_call(&web, &board), "nobody of the mesh is sent the way");
    assert_eq!((model.concerning(&web, &board).len(), model.concerning_plain_text(&board).len()), (2, 2));
    assert!(model.concerning_plain_text(&testing::name("prod/cart")).is_empty());
}

#[test]
fn a_shadow_policy_tells_of_it_too() {
    let intent = mesh(&(NAMED.to_owned() + "@shadow forbid (principal, action, resource);\n"));
    let decision = plain(&intent, "prod/board", "/");
    assert!(decision.allowed && decision.shadow.is_some_and(|shadow| !shadow.allowed));
    let opened = mesh(&("@shadow ".to_owned() + NAMED));
    assert!(!plain(&opened, "prod/board", "/").allowed);
    let wide = mesh(&(NAMED.replace("resource)", "resource) when { context.path == \"/x\" }") + "@shadow " + WIDE));
    assert!(
        plain(&wide, "prod/board", "/").shadow.is_none(),
        "a shadow permit for everybody means nobody in plain text"
    );
}

#[test]
fn what_is_hardly_meant_is_told() {
    let told = |intent: &Intent| -> Vec<String> { crate::check(intent).iter().map(ToString::to_string).collect() };
    let closed = told(&mesh(WIDE));
    assert!(closed.len() == 1 && closed[0].contains("WEFT0220") && closed[0].contains("prod/board"), "{closed:?}");
    assert_eq!(told(&mesh(NAMED)), [""; 0], "it is for a service that takes plain text, among others");
    assert_eq!(told(&mesh(&(NAMED.to_owned() + WIDE))), [""; 0], "the wide one makes it not superfluous");
    let doubled = told(&mesh(&(NAMED.to_owned() + NAMED)));
    assert!(doubled.len() == 1 && doubled[0].contains("WEFT0214"), "{doubled:?}");
    let forbidden = told(&mesh(&(NAMED.to_owned() + "forbid (principal, action, resource);\n")));
    assert!(forbidden.len() == 1 && forbidden[0].contains("WEFT0214"), "{forbidden:?}");
    let for_cart = NAMED.replace("resource)", "resource == Service::\"prod/cart\")");
    let useless = told(&mesh(&(NAMED.to_owned() + &for_cart)));
    assert!(
        useless.iter().any(|finding| finding.contains("WEFT0221") && finding.contains("policies/x.cedar:2")),
        "{useless:?}"
    );
    let mut entry = mesh(NAMED);
    testing::allow(&mut entry, "prod/cart", Caller::PlainText, Vec::new());
    let told = told(&entry);
    assert!(
        told.iter().any(|finding| finding.contains("WEFT0221") && finding.contains("prod-cart.yaml:11")),
        "{told:?}"
    );
    let called = mesh(&NAMED.replace("resource)", "resource == Service::\"plain-text\")"));
    let called = crate::check(&called);
    assert!(called.iter().any(|finding| finding.code == "WEFT0213"), "nobody can call it: {called:?}");
}
