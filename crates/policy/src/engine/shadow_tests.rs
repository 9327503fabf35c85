//! Shadow policies: they say what they would change, and change nothing.

use proptest::prelude::*;
use weft_model::intent::{Allow, Caller, Intent, Slashes};

use super::*;
use crate::testing::Choices;
use crate::{Decisions, testing};

/// `prod/web` may GET all of `prod/board` below `/api`.
fn board(policies: &str) -> Intent {
    let mut intent = testing::intent(&["prod/web", "prod/board", "staging/web"]);
    let get = Allow { method: Some("GET".into()), path: "/api/**".into() };
    testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), vec![get]);
    testing::policies(&mut intent, policies);
    intent
}

fn decide(intent: &Intent, method: &str, path: &str) -> Decision {
    let web = testing::id("prod/web");
    testing::engine(intent, "prod/board").decide(&CallRequest { method, path, ..testing::request(&web) })
}

fn told(decision: &Decision) -> Option<String> {
    decision.shadow.as_ref().map(ToString::to_string)
}

#[test]
fn a_shadow_policy_says_what_it_would_change_and_changes_nothing() {
    let forbid = board("@shadow\nforbid(principal, action, resource) when { context.path like \"/api/secret*\" };");
    let secret = decide(&forbid, "GET", "/api/secret");
    assert!(secret.allowed && &*secret.reason == "permit services/prod-board.yaml:11");
    assert_eq!(told(&secret).as_deref(), Some("deny: forbid policies/x.cedar:1"));
    assert_eq!(&*secret.shadow.expect("it is there").policies[0].id, "policies/x.cedar:1");
    assert_eq!(told(&decide(&forbid, "GET", "/api/x")), None, "nothing would change");
    let denied = decide(&forbid, "PUT", "/api/secret");
    assert!(!denied.allowed && denied.shadow.is_none(), "denied either way: {denied:?}");

    let permit = board("@shadow permit(principal, action, resource) when { context.method == \"PUT\" };");
    let put = decide(&permit, "PUT", "/api/x");
    assert!(!put.allowed && put.policies.is_empty());
    assert_eq!(told(&put).as_deref(), Some("allow: permit policies/x.cedar:1"));
    assert!(!put.reason.contains("/api/y") && decide(&board(""), "PUT", "/api/x").reason == put.reason);
}

#[test]
fn a_shadow_forbid_that_cannot_be_evaluated_denies_in_the_shadow() {
    let overflow = "@shadow forbid(principal, action, resource) when { 9223372036854775807 + context.depth > 0 };";
    let decision = decide(&board(overflow), "GET", "/api/x");
    assert!(decision.allowed && decision.errors.is_empty(), "{decision:?}");
    let told = told(&decision).expect("it would deny");
    assert!(told.starts_with("deny: forbid policies/x.cedar:1 could not be evaluated"), "{told}");
}

#[test]
fn an_entry_of_access_may_be_a_shadow() {
    let mut intent = board("");
    let put = Allow { method: Some("PUT".into()), path: "/api/**".into() };
    testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), vec![put]);
    let entry = &mut intent.services.get_mut(&testing::name("prod/board")).expect("it is there").access[1];
    entry.shadow = true;
    let decision = decide(&intent, "PUT", "/api/x");
    assert!(!decision.allowed);
    assert_eq!(told(&decision).as_deref(), Some("allow: permit services/prod-board.yaml:12"));
}

#[test]
fn what_would_permit_another_reading_of_the_path_is_named() {
    let mut intent = board("@shadow permit(principal, action, resource) when { context.path == \"/api/cars\" };");
    let board = intent.services.get_mut(&testing::name("prod/board")).expect("it is there");
    board.paths.slashes = Slashes::Keep;
    board.access[0].allow = vec![Allow { method: None, path: "/api//cars".into() }];
    let decision = decide(&intent, "GET", "/api//cars");
    assert!(!decision.allowed && decision.reason.contains("several slashes as one"), "{decision:?}");
    assert_eq!(told(&decision).as_deref(), Some("allow: permit policies/x.cedar:1"));
}

#[test]
fn a_shadow_permit_opens_nothing() {
    let open = board("@shadow permit(principal, action, resource);");
    let model = crate::compile(&open, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
    let (web, board_name) = (testing::name("staging/web"), testing::name("prod/board"));
    assert!(!model.may_call(&web, &board_name));
    let (with, without) = (model.bundle_for(&board_name), testing::bundle(&board(""), "prod/board"));
    assert_eq!(with.callers, without.callers);
    assert_eq!((with.policies.len(), with.shadow.len()), (1, 1));
    assert_eq!(Bundle::from_bytes(&with.to_bytes()), Ok(with));
    assert!(!String::from_utf8_lossy(&without.to_bytes()).contains("shadow"), "nothing is sent where there are none");
}

#[test]
fn decisions_are_remembered_by_what_shadow_policies_read_too() {
    let by_host = board("@shadow forbid(principal, action, resource) when { context.host == \"evil\" };");
    let (engine, web) = (testing::engine(&by_host, "prod/board"), testing::id("prod/web"));
    let mut decisions = Decisions::default();
    let good = CallRequest { path: "/api/x", ..testing::request(&web) };
    for _ in 0..2 {
        assert!(decisions.decide(&engine, &good).decision.shadow.is_none());
        assert!(decisions.decide(&engine, &CallRequest { host: "evil", ..good }).decision.shadow.is_some());
    }
}

/// What nobody may tell apart.
fn enforced(decision: &Decision) -> (bool, Vec<PolicyRef>, String, String, Vec<String>) {
    let Decision { allowed, policies, places, reason, errors, shadow: _ } = decision;
    (*allowed, policies.to_vec(), places.to_string(), reason.to_string(), errors.to_vec())
}

proptest! {
    /// Also where Cedar is asked, and where policies cannot be evaluated.
    #[test]
    fn shadow_policies_never_change_what_is_enforced_and_say_what_they_would_change(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        policies in 1usize..16,
    ) {
        let mut choices = Choices::new(&bytes);
        let all = testing::random_bundle(&mut choices, policies);
        let (shadow, policies) = all.policies.iter().cloned().partition(|_| choices.one_in(2));
        let with = Bundle { policies, shadow, ..all.clone() };
        let without = Bundle { shadow: Vec::new(), ..with.clone() };
        let [all, with, without] = [all, with, without].map(|bundle| Engine::new(&bundle).expect("an engine"));
        for _ in 0..4 {
            let (caller, [method, path, host, protocol], source_ip) = testing::random_call(&mut choices);
            let request = CallRequest { method, path, host, protocol, source_ip, ..testing::request(&caller) };
            let [all, with, without] = [&all, &with, &without].map(|engine| engine.decide(&request));
            prop_assert_eq!(enforced(&with), enforced(&without));
            let changed = Shadow { allowed: all.allowed, policies: all.policies, reason: all.reason };
            prop_assert_eq!(with.shadow, (all.allowed != with.allowed).then_some(changed));
        }
    }
}
