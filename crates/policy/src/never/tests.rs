//! Policies of no use, here and in `covered`: what is warned of is true of every call there is.

use proptest::prelude::*;
use weft_model::intent::{Allow, Caller, Intent};

use crate::check::check;
use crate::request::CallRequest;
use crate::testing;

/// Four services, of which two are in roles; nobody has the role `idle`.
fn mesh() -> Intent {
    let mut intent = testing::intent(&["prod/web", "prod/board", "shared/ledger", "dev/web"]);
    intent.mesh = testing::mesh(&[("tier", &["one", "two"])]);
    for (service, tier) in [("prod/web", "one"), ("prod/board", "two")] {
        let service = intent.services.get_mut(&testing::name(service)).expect("it is there");
        service.attributes.insert("tier".into(), tier.into());
    }
    testing::role(&mut intent, "ops", vec![Caller::Service(testing::name("prod/web"))]);
    testing::role(&mut intent, "all", vec![Caller::Role("ops".into()), Caller::Namespace("shared".into())]);
    testing::role(&mut intent, "idle", Vec::new());
    intent
}

/// Warnings about policies of no use, one a line.
fn warnings(policies: &str) -> Vec<String> {
    let mut intent = mesh();
    testing::policies(&mut intent, policies);
    warnings_of(&intent)
}

fn warnings_of(intent: &Intent) -> Vec<String> {
    check(intent).iter().map(ToString::to_string).collect()
}

const CALL: &str = "action == Action::\"call\"";

#[test]
fn what_never_applies_is_told() {
    let told = |scope: &str, conditions: &str| warnings(&format!("{scope} {conditions};"));
    let nobody = told(&format!("permit (principal in Role::\"idle\", {CALL}, resource)"), "");
    assert!(nobody.len() == 1 && nobody[0].contains("WEFT0213"), "{nobody:?}");
    assert!(nobody[0].contains("this policy never applies: no service has the role \"idle\""), "{nobody:?}");
    let idle = format!("forbid (principal, {CALL}, resource in Role::\"idle\")");
    assert!(told(&idle, "")[0].contains("WEFT0213"));

    let permit = format!("permit (principal, {CALL}, resource)");
    for never in [
        "when { resource.name == \"gone\" }",
        "when { resource has tier && resource.tier == \"two\" && principal has tier && principal.tier == \"two\" && principal.name == \"web\" }",
        "when { principal.namespace == \"prod\" } unless { principal has tier }",
    ] {
        let told = told(&permit, never);
        assert!(told.len() == 1 && told[0].contains("its condition is false for every caller"), "{never}: {told:?}");
    }
    for may in [
        "when { resource.name == \"ledger\" }",
        "when { principal has tier && principal.tier == \"two\" }",
        "when { context.path == \"/x\" }",
        "when { principal.name == context.host }",
        "when { 9223372036854775807 + context.depth > 0 && principal.name == \"gone\" }",
    ] {
        assert_eq!(told(&permit, may), [""; 0], "{may}");
    }
    let forbid = permit.replace("permit", "forbid");
    assert_eq!(told(&forbid, "when { resource.name == \"gone\" }"), [""; 0], "it may be for what is to come");
}

#[test]
fn what_another_policy_makes_superfluous_is_told_with_both_places() {
    let told = |policies: &[&str]| {
        let policies: Vec<String> = policies.iter().map(|policy| policy.replace("ACTION", CALL)).collect();
        warnings(&policies.join("\n"))
    };
    let wide = "permit (principal in Role::\"all\", ACTION, resource);";
    let narrow = "permit (principal in Role::\"all\", ACTION, resource == Service::\"prod/board\") when { context.method == \"GET\" };";
    let twice = told(&[wide, narrow]);
    assert!(twice.len() == 1 && twice[0].contains("WEFT0214") && twice[0].contains("policies/x.cedar:2"), "{twice:?}");
    assert!(twice[0].contains("this policy adds nothing: policies/x.cedar:1 permits all that it does"), "{twice:?}");
    assert_eq!(told(&[narrow, narrow]).len(), 1, "the second");
    let member = "permit (principal == Service::\"prod/web\", ACTION, resource);";
    assert_eq!(told(&[member, wide]).len(), 1, "who has the role is a part of it");
    let forbid = "forbid (principal, ACTION, resource in Namespace::\"prod\");";
    let useless = told(&[narrow, forbid]);
    assert!(useless.len() == 1 && useless[0].contains("has no effect: policies/x.cedar:2 forbids all"), "{useless:?}");

    let namespace = "permit (principal in Namespace::\"shared\", ACTION, resource);";
    let alone = "permit (principal == Service::\"shared/ledger\", ACTION, resource);";
    assert_eq!(told(&[alone, namespace]).len(), 1);
    assert!(told(&[alone, namespace])[0].contains("policies/x.cedar:1"), "the narrower one, whoever is there today");
    for pair in [
        [wide, forbid],
        [narrow, "permit (principal, ACTION, resource) when { context.method == \"PUT\" };"],
        [narrow, "@shadow permit (principal, ACTION, resource);"],
        ["permit (principal in Role::\"ops\", ACTION, resource);", namespace],
    ] {
        assert_eq!(told(&pair), [""; 0], "{pair:?}");
    }
}

#[test]
fn an_entry_of_access_is_told_by_its_caller() {
    let mut intent = mesh();
    let get = Allow { method: Some("GET".into()), path: "/api/**".into() };
    let web = testing::name("prod/web");
    testing::allow(&mut intent, "prod/board", Caller::Service(web.clone()), vec![get]);
    let board = intent.services.get_mut(&testing::name("prod/board")).expect("it is there");
    board.access[0].from.push(Caller::Role("idle".into()));
    testing::allow(&mut intent, "prod/board", Caller::Namespace("prod".into()), Vec::new());
    let told = warnings_of(&intent);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("what this entry says of `role:idle` never applies"), "{told:?}");
    assert!(told[1].contains("`prod/web` adds nothing: services/prod-board.yaml:12 permits all"), "{told:?}");
}

fn any_policy() -> impl Strategy<Value = String> {
    let caller = prop::sample::select(vec![
        "principal",
        "principal == Service::\"prod/web\"",
        "principal in Role::\"ops\"",
        "principal in Role::\"all\"",
        "principal in Role::\"idle\"",
        "principal in Namespace::\"prod\"",
        "principal is Service",
        "principal in Service::\"dev/web\"",
    ]);
    let callee = prop::sample::select(vec![
        "resource",
        "resource == Service::\"prod/board\"",
        "resource in Namespace::\"shared\"",
        "resource in Role::\"idle\"",
        "resource is Service in Role::\"all\"",
    ]);
    let condition = prop::sample::select(vec![
        "",
        "",
        "when { context.method == \"GET\" }",
        "when { principal.name == resource.name }",
        "when { principal has tier && principal.tier == \"two\" }",
        "unless { principal has tier }",
        "when { resource has tier && resource.tier == \"one\" } unless { context.path like \"/a*\" }",
        "when { 9223372036854775807 + context.depth > 9 }",
    ]);
    (any::<bool>(), any::<bool>(), caller, callee, condition).prop_map(
        |(permits, shadow, caller, callee, condition)| {
            let effect = if permits { "permit" } else { "forbid" };
            format!("{}{effect} ({caller}, {CALL}, {callee}) {condition};", if shadow { "@shadow " } else { "" })
        },
    )
}

/// What is decided about each call by each service to each other: whether it is allowed, and would be with the shadow policies.
fn decided(policies: &[String]) -> Vec<(bool, bool)> {
    let mut intent = mesh();
    // Whoever calls is known, so that what shadow policies would change is told of all.
    let nothing = format!("permit (principal, {CALL}, resource) when {{ context.method == \"NONE\" }};\n");
    testing::policies(&mut intent, &(nothing + &policies.join("\n")));
    let model = crate::compile(&intent, "").unwrap_or_else(|findings| panic!("{findings:#?}"));
    let mut all = Vec::new();
    for callee in intent.services.keys() {
        let engine = crate::Engine::new(&model.bundle_for(callee)).expect("an engine");
        for caller in intent.services.keys().map(|name| testing::id(name.as_str())) {
            for (method, path) in [("GET", "/a"), ("GET", "/b/c"), ("PUT", "/a/b"), ("PUT", "/c")] {
                let decision = engine.decide(&CallRequest { method, path, ..testing::request(&caller) });
                let with_shadow = decision.shadow.map_or(decision.allowed, |shadow| shadow.allowed);
                all.push((decision.allowed, with_shadow));
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Without a policy that is warned of, every call is decided as with it. One after the other: of two that make each other superfluous
    /// one has to stay.
    #[test]
    fn no_warning_is_false(policies in proptest::collection::vec(any_policy(), 1..6)) {
        let mut left = policies.clone();
        loop {
            let mut intent = mesh();
            testing::policies(&mut intent, &left.join("\n"));
            let findings = check(&intent);
            let found = findings.iter().find(|finding| ["WEFT0213", "WEFT0214"].contains(&finding.code));
            let Some(line) = found.and_then(|finding| finding.span.as_ref()).map(|span| span.line as usize) else { break };
            left.remove(line - 1);
        }
        prop_assert_eq!(decided(&left), decided(&policies), "{:#?}\n{:#?}", left, policies);
    }
}
