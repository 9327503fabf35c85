//! Callers of other trust domains: only a permit that names one means it.

use weft_model::intent::{Caller, Intent};
use weft_model::{ServiceName, SpiffeId};

use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::request::{CallRequest, Principal};
use crate::testing;

const WEB: &str = "spiffe://west.test/ns/prod/sa/web";
const OTHER: &str = "spiffe://west.test/ns/prod/sa/other";

fn mesh(policies: &str) -> Intent {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    testing::federate(&mut intent, "west.test");
    testing::policies(&mut intent, policies);
    intent
}

fn codes(intent: &Intent) -> Vec<&'static str> {
    crate::check(intent).iter().map(|finding| finding.code).collect()
}

fn allows(engine: &Engine, caller: &str, method: &str) -> bool {
    let id: SpiffeId = caller.parse().expect("legal");
    engine.decide(&CallRequest { principal: Principal::Id(&id), method, ..testing::request(&id) }).allowed
}

#[test]
fn only_a_permit_that_names_an_identity_means_it_and_every_forbid_does() {
    let all = "permit (principal, action, resource);\npermit (principal in Namespace::\"prod\", action, resource);\n";
    let named = format!("permit (principal == Service::\"{WEB}\", action, resource == Service::\"prod/board\");\n");
    let own = "spiffe://acme.internal/ns/prod/sa/web";
    let engine = testing::engine(&mesh(all), "prod/board");
    assert!(allows(&engine, own, "GET") && !allows(&engine, WEB, "GET"));
    let engine = testing::engine(&mesh(&format!("{all}{named}")), "prod/board");
    assert!(allows(&engine, own, "GET") && allows(&engine, WEB, "GET") && !allows(&engine, OTHER, "GET"));
    // Nothing of it is what a service of the mesh has, whatever the path of its identity says.
    for forbid in [
        "forbid (principal, action, resource) when { principal.trustDomain != \"acme.internal\" };",
        "forbid (principal, action, resource) unless { principal.namespace == \"prod\" };",
        "forbid (principal, action, resource) unless { principal in Namespace::\"prod\" };",
        "forbid (principal, action, resource) when { principal.spiffeId like \"spiffe://west.test/*\" };",
        "forbid (principal, action, resource) when { context.method == \"GET\" && principal.name == \"\" };",
        &format!("forbid (principal == Service::\"{WEB}\", action, resource);"),
    ] {
        let engine = testing::engine(&mesh(&format!("{named}{forbid}\n")), "prod/board");
        assert!(!allows(&engine, WEB, "GET"), "{forbid}");
    }
}

#[test]
fn access_names_foreign_callers_and_the_model_knows_them() {
    let mut intent = mesh("");
    let id: SpiffeId = WEB.parse().expect("legal");
    testing::allow(&mut intent, "prod/board", Caller::Foreign(id.clone()), Vec::new());
    let board: ServiceName = testing::name("prod/board");
    let model = crate::compile(&intent, "c0ffee").expect("sound");
    assert_eq!(model.foreign_callers(&board).collect::<Vec<_>>(), [&id]);
    assert_eq!(model.foreign_callers(&testing::name("prod/web")).count(), 0);
    assert_eq!(model.concerning_foreign(&id, &board).len(), 1);
    assert!(model.concerning_foreign(&OTHER.parse().expect("legal"), &board).is_empty());
    let bundle = model.bundle_for(&board);
    assert_eq!(Bundle::from_bytes(&bundle.to_bytes()), Ok(bundle.clone()));
    let engine = Engine::new(&bundle).expect("an engine");
    assert!(allows(&engine, WEB, "GET") && !allows(&engine, OTHER, "GET"));
    assert!(
        !String::from_utf8(model.bundle_for(&testing::name("prod/web")).to_bytes()).expect("UTF-8").contains("foreign")
    );
}

#[test]
fn an_identity_of_a_trust_domain_that_nobody_declares_is_no_caller() {
    let permit = |id: &str| {
        format!(
            "permit (principal == Service::\"{id}\", action == Action::\"call\", resource == Service::\"prod/board\");"
        )
    };
    assert!(codes(&mesh(&permit(WEB))).is_empty());
    for unknown in ["spiffe://east.test/ns/prod/sa/web", "spiffe://acme.internal/ns/prod/sa/web"] {
        assert_eq!(codes(&mesh(&permit(unknown))), ["WEFT0204"], "{unknown}");
    }
}
