//! Entries of `Test`, `Role` and `Local` documents and of `access`, and what a service says of its paths.

use super::{BOARD, MESH, parse, repository, told};
use crate::intent::Case;

#[test]
fn tests_of_decisions() {
    let test = |decisions: &str| {
        let text = format!("kind: Test\nname: board\ndecisions:\n{decisions}");
        told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("test.yaml", &text)])
    };
    let good = "  - {from: prod/web, to: prod/board, call: 'GET /api?x=1', expect: allow, by: prod.yaml}\n  \
                - {from: 'spiffe://other.example/ns/a/sa/b', to: prod/board, call: PUT /, expect: deny, headers: {X-Tenant: a}, \
                source: '::1', at: '2026-03-29T09:00:00+02:00'}\n";
    assert_eq!(test(good), "");
    insta::assert_snapshot!(test(
        "  - {from: web, to: prod/baord, call: get /, expect: maybe}\n  - {from: 'spiffe://X/y', to: prod/board, call: /api, expect: deny, user: ada}\n  \
         - {from: prod/web, to: prod/board, call: GET api, at: tomorrow, source: here, headers: [a]}\n"
    ));
}

#[test]
fn a_list_that_leaves_a_document_without_effect_is_pointed_at() {
    for (document, does) in [
        ("kind: Role\nname: ops\nmembers: []\n", "`members` is empty: no service has this role"),
        ("kind: Operator\nname: ada\nsshKeys: []\n", "`sshKeys` is empty: nobody is known as this operator"),
        ("kind: Test\nname: none\ndecisions: []\n", "`decisions` is empty: this test expects nothing"),
        ("kind: Test\nname: none\nroutes: []\n", "`routes` is empty: this test expects nothing"),
    ] {
        let told = told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("empty.yaml", document)]);
        assert!(told.contains("WEFT0116") && told.contains(does), "{document}: {told}");
    }
}

#[test]
fn tests_of_routes() {
    let test = |routes: &str| {
        let text = format!("kind: Test\nname: board\nroutes:\n{routes}");
        told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("test.yaml", &text)])
    };
    let good = "  - {from: prod/web, to: prod/board, call: GET /, expect: {subset: v2}}\n  \
                - {from: prod/web, to: prod/board, host: board, call: GET /, headers: {X-Tenant: a}, expect: [{service: prod/board, weight: 1}]}\n  \
                - {from: prod/web, to: prod/board, call: GET /, expect: none}\n";
    assert_eq!(test(good), "");
    insta::assert_snapshot!(test(
        "  - {from: web, to: prod/board, expect: []}\n  - {from: prod/web, to: prod/board, call: GET /, expect: v2}\n  \
         - {from: prod/web, to: prod/board, call: GET /, expect: {subset: v2, weight: 0, host: x}}\n"
    ));
}

#[test]
fn a_rule_may_be_a_shadow() {
    let rule = |shadow: &str| {
        let rest = format!("access: [{{from: [prod/web], shadow: {shadow}}}]\n");
        let board = format!("kind: Service\nname: x\nnamespace: prod\nport: 80\nprotocol: http\n{rest}");
        told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("x.yaml", &board)])
    };
    assert_eq!((rule("true"), rule("false")), (String::new(), String::new()));
    assert!(rule("yes").contains("`shadow` cannot be `yes`"), "{}", rule("yes"));
}

#[test]
fn a_service_may_ignore_the_case_of_paths() {
    let with = |case: &str| {
        let board =
            format!("kind: Service\nname: x\nnamespace: prod\nport: 80\nprotocol: http\npaths: {{case: {case}}}\n");
        let (intent, findings) = parse(&repository(&[("mesh.yaml", MESH), ("x.yaml", &board)]));
        let case = intent.and_then(|intent| intent.services.values().next().map(|service| service.paths.case));
        (case, findings.iter().map(ToString::to_string).collect::<String>())
    };
    assert_eq!(with("ignore"), (Some(Case::Ignore), String::new()));
    assert_eq!(with("sensitive"), (Some(Case::Sensitive), String::new()));
    assert!(with("lower").1.contains("`case` cannot be `lower`"), "{:?}", with("lower"));
}

#[test]
fn roles_in_roles() {
    let roles = |text: &str| told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("roles.yaml", text)]);
    assert_eq!(roles("kind: Role\nname: all\nmembers: [role:reporting, prod/b*, '*/web', '*']\n"), "");
    insta::assert_snapshot!(roles(
        "kind: Role\nname: a\nmembers: [role:b, role:a]\n---\nkind: Role\nname: b\nmembers: [role:c]\n---\nkind: Role\nname: c\n\
         members: [role:a, role:reporting, dev/w*, prod/*x/y, role:*]\n"
    ));
}

#[test]
fn roles_and_local_apps() {
    insta::assert_snapshot!(told(&[
        ("mesh.yaml", MESH),
        ("prod.yaml", BOARD),
        (
            "more.yaml",
            "kind: Role\nname: ops\nmembers: [role:reporting, prod/web, dev/*]\n---\nkind: Role\nname: none\n---\nkind: Local\napps:\n  \
             - {service: board, command: [weft]}\n  - {service: prod/baord, command: weft demo}\n  - {service: prod/web, labels: {version: 'v 1'}, \
             command: []}\n  - {command: [weft, {}], env: {}}\n"
        ),
    ]));
}
