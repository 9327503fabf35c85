//! `Service.mtls`, and the caller `plain-text`.

use super::{BOARD, MESH, parse, repository, told, told_of};
use crate::intent::{Caller, TestCaller};
use crate::mtls::Mtls;

#[test]
fn a_service_is_strict_unless_it_says_otherwise() {
    let mtls = |line: &str| {
        let board = BOARD.replacen("protocol: http\n", &format!("protocol: http\n{line}"), 1);
        let (intent, findings) = parse(&repository(&[("mesh.yaml", MESH), ("prod.yaml", &board)]));
        assert!(findings.is_empty(), "{findings:?}");
        intent.expect("no errors").services[&"prod/board".parse().unwrap()].mtls
    };
    assert_eq!((mtls(""), mtls("mtls: strict\n")), (Mtls::Strict, Mtls::Strict));
    assert_eq!(mtls("mtls: permissive\n"), Mtls::Permissive);
}

#[test]
fn plain_text_is_a_caller_and_nothing_else() {
    let files = [
        ("mesh.yaml", MESH),
        ("prod.yaml", BOARD),
        (
            "cart.yaml",
            "kind: Service\nname: cart\nnamespace: prod\nport: 80\nprotocol: http\nmtls: permissive\naccess: [{from: [plain-text, prod/web]}]\n\
             ---\nkind: Test\nname: cart\ndecisions: [{from: plain-text, to: prod/cart, call: GET /, expect: allow}]\n",
        ),
    ];
    let (intent, findings) = parse(&repository(&files));
    let intent = intent.unwrap_or_else(|| panic!("{findings:?}"));
    assert_eq!(intent.services[&"prod/cart".parse().unwrap()].access[0].from[0], Caller::PlainText);
    assert_eq!(intent.tests[0].decisions[0].from, TestCaller::PlainText);
}

#[test]
fn what_cannot_be_said_of_it_is_told_with_a_hint() {
    insta::assert_snapshot!(told_of(
        "kind: Service\nname: plain-text\nnamespace: prod\nport: 80\nprotocol: tcp\nmtls: permissive\n---\n\
         kind: Service\nname: pins\nnamespace: prod\nport: 80\nprotocol: http\nmtls: permisive\naccess: [{from: [plaintext]}]\n---\n\
         kind: Role\nname: old\nmembers: [plain-text]\n"
    ));
    let route = "kind: Test\nname: board\nroutes: [{from: plain-text, to: prod/board, call: GET /, expect: none}]\n";
    insta::assert_snapshot!(told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("test.yaml", route)]));
}
