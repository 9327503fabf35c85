//! Whole repositories through the parser: what a reader is told, in which words.

use std::fmt::Write as _;

use super::*;
use crate::intent::{Caller, Endpoints, EscapedSlashes, PathMatch, Paths, Protocol, Slashes};

mod entries;
mod mtls;

const MESH: &str = "\
kind: Mesh
name: acme
trustDomain: acme.internal
attributes:
  sensitivity: [low, medium, high]
  environment: [prod, staging]
";

const BOARD: &str = "\
kind: Service
name: board
namespace: prod
attributes: {sensitivity: high, environment: prod}
port: 8080
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
access:
  - {from: [prod/web, role:reporting], allow: [GET /api/**, POST /api/pins]}
  - {from: [shared/*]}
routes:
  - matches: [{headers: [{name: X-Version, value: v2}]}, {path: {value: /beta/}}]
    backendRefs: [{subset: v2}]
  - backendRefs: [{subset: v1, weight: 90}, {subset: v2, weight: 10}]
    timeouts: {request: 2s}
---
kind: Service
name: web
namespace: prod
port: 8080
protocol: grpc
---
kind: Service
name: ledger
namespace: shared
port: 5432
protocol: tcp
endpoints: {static: [{address: 10.0.0.7:15006, labels: {zone: a}}]}
access: [{from: ['*']}]
---
kind: Role
name: reporting
members: [prod/web, shared/*]
";

fn repository(files: &[(&str, &str)]) -> Vec<SourceFile> {
    files.iter().map(|(path, text)| SourceFile::new(*path, text.as_bytes())).collect()
}

/// `file:line:col code severity: message | hint`, one line a finding.
fn told(files: &[(&str, &str)]) -> String {
    let (intent, findings) = parse(&repository(files));
    let errors = findings.iter().any(|f| f.severity == Severity::Error);
    assert_eq!(intent.is_none(), errors, "an intent exactly when nothing is an error");
    let mut out = String::new();
    for f in &findings {
        let place = f.span.as_ref().map_or("-".to_owned(), ToString::to_string);
        writeln!(out, "{place} {} {:?}: {}\n    {}", f.code, f.severity, f.message, f.hint).expect("a String");
    }
    out
}

/// One service document among a sound repository.
fn told_of(service: &str) -> String {
    told(&[("mesh.yaml", MESH), ("prod.yaml", BOARD), ("x.yaml", service)])
}

#[test]
fn a_repository_becomes_an_intent() {
    let files = repository(&[
        ("mesh.yaml", MESH),
        ("services/all.yml", BOARD),
        ("p/abac.cedar", "permit(principal, action, resource);"),
    ]);
    let (intent, findings) = parse(&files);
    assert!(findings.is_empty(), "{findings:?}");
    let intent = intent.expect("an intent");
    assert_eq!(intent.mesh.trust_domain.as_str(), "acme.internal");
    assert_eq!(intent.mesh.defaults.timeout.as_secs(), 15);
    assert_eq!(intent.mesh.defaults.svid_ttl.as_secs(), 3_600);
    assert_eq!(intent.services.len(), 3);
    let board = &intent.services[&"prod/board".parse().expect("legal")];
    assert_eq!((board.port, board.protocol), (8080, Protocol::Http));
    assert_eq!(board.access_span.to_string(), "services/all.yml:8:1");
    assert_eq!(board.access[0].span.to_string(), "services/all.yml:9:5");
    assert_eq!(board.access[0].from[1], Caller::Role("reporting".into()));
    assert_eq!(board.access[0].allow[1].method.as_deref(), Some("POST"));
    assert_eq!(board.access[1].from, [Caller::Namespace("shared".into())]);
    assert!(board.access[1].allow.is_empty());
    assert_eq!(&*board.routes[0].matches[0].headers[0].name, "x-version");
    assert_eq!(board.routes[0].matches[1].path, PathMatch::Prefix("/beta".into()));
    assert_eq!(board.routes[1].backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [90, 10]);
    assert_eq!(board.routes[1].request_timeout.map(|t| t.as_secs()), Some(2));
    let ledger = &intent.services[&"shared/ledger".parse().expect("legal")];
    assert!(matches!(&ledger.endpoints, Endpoints::Static(list) if list[0].address.port() == 15006));
    assert_eq!(intent.roles["reporting"].members.len(), 2);
    assert_eq!(&*intent.policies[0].path, "p/abac.cedar");
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let forth = repository(&[("a.yaml", MESH), ("b.yaml", BOARD), ("c.yaml", "kind: X"), ("d.yaml", "kind: [")]);
    let back: Vec<_> = forth.iter().rev().cloned().collect();
    assert_eq!(parse(&forth).1, parse(&back).1);
}

#[test]
fn everything_is_reported_at_once() {
    insta::assert_snapshot!(told(&[
        ("mesh.yaml", &MESH.replace("acme.internal", "Acme.Internal")),
        ("broken.yaml", "kind: Service\nname: board\nnamespace: prod\nport: [8080\n"),
        ("binary.yaml", "a: \u{0}\n"),
        ("web.yaml", "kind: Service\nnmae: web\nnamespace: prod\nport: http\nprotocol: htpp\naccess: prod/board\n"),
        (
            "ledger.yaml",
            "kind: Service\nname: ledger\nnamespace: shared\nport: 1\nprotocol: http\naccess: [{from: [prod/board, prod/bord, prod/wbe]}]\n"
        ),
    ]));
}

#[test]
fn documents_without_a_known_kind() {
    insta::assert_snapshot!(told(&[
        (
            "a.yaml",
            "name: x\n---\nkind: service\n---\nkind: Gatway\n---\nkind: Gateway\n---\n- 1\n---\nkind: [x]\n---\n# nothing\n"
        ),
        (
            "k8s.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: board}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n"
        ),
    ]));
}

#[test]
fn nobody_can_be_the_control_plane() {
    let server = "kind: Service\nname: server\nnamespace: weft\nport: 80\nprotocol: http\n";
    assert_eq!(
        told(&[("mesh.yaml", MESH), ("x.yaml", server)]),
        "x.yaml:3:12 WEFT0114 Error: the namespace `weft` is for the mesh's own services\n    choose another namespace\n"
    );
}

#[test]
fn duplicates_name_both_places() {
    insta::assert_snapshot!(told(&[
        ("a/mesh.yaml", MESH),
        ("b/mesh.yaml", MESH),
        ("a/services.yaml", BOARD),
        (
            "b/services.yaml",
            "kind: Service\nname: web\nnamespace: prod\nport: 1\nport: 2\nprotocol: http\n---\nkind: Role\nname: reporting\nmembers: [prod/web, prod/web]\n"
        ),
    ]));
}

#[test]
fn mesh_fields() {
    insta::assert_snapshot!(told(&[
        (
            "mesh.yaml",
            "kind: Mesh\nname: Acme Corp\ntrust_domain: acme\nrollout: {stages: [5%]}\nattributes:\n  name: [x]\n  cost-center: [a]\n  \
             empty: []\n  twice: [a, a, 'b c']\n  text: low\ndefaults: {timeout: 15, mtls: permissive, svidTtl: 5s, retries: 3}\n"
        ),
        ("s.yaml", BOARD),
    ]));
}

#[test]
fn service_fields() {
    insta::assert_snapshot!(told_of(
        "\
kind: Service
name: Pins_2
namespace: weft
attributes: {sensitivty: high, environment: Prod, sensitivity: [high]}
port: '8080'
protocol: udp
canary: {to: v2}
health: {path: /healthz}
subsets: {V1: {version: v1}, v2: {}, v3: {version: 'a b'}, v4: [x]}
endpoints: {static: [{address: localhost:80}, {address: 0.0.0.0:80}, {address: 10.0.0.1}, {adress: 10.0.0.1:1}]}
"
    ));
}

/// One http service with these fields, and one of each other protocol.
#[test]
fn what_is_said_of_the_app_and_of_paths() {
    let service = |name: &str, protocol: &str, fields: &str| {
        format!("---\nkind: Service\nname: {name}\nnamespace: prod\nport: 8080\nprotocol: {protocol}\n{fields}")
    };
    let text = [
        service("a", "http", "app: {idleTimeout: 90}\npaths: {escapedSlashes: kept}\n"),
        service(
            "b",
            "http",
            "app: {idleTimeout: 0s, idletimeout: 1s}\npaths: {escapedSlashes: unescape, slashes: keep}\n",
        ),
        service("c", "grpc", "app: {idleTimeout: 5s}\n"),
        service("d", "tcp", "app: {idleTimeout: 5s}\npaths: {escapedSlashes: keep}\n"),
        service("e", "http", "app: 5s\npaths: keep\naccess: [{from: ['*'], allow: [GET /a%2Fb]}]\n"),
        service(
            "f",
            "http",
            "paths: {escapedSlashes: keep}\naccess: [{from: ['*'], allow: [GET /a%2fb, GET /a%2F..]}]\n",
        ),
    ]
    .concat();
    insta::assert_snapshot!(told_of(text.strip_prefix("---\n").unwrap()));
}

#[test]
fn the_app_and_paths_have_defaults() {
    let read = |fields: &str| {
        let text = format!("{MESH}---\nkind: Service\nname: a\nnamespace: prod\nport: 8080\nprotocol: http\n{fields}");
        let (intent, findings) = parse(&[SourceFile::new("x.yaml", text.as_bytes())]);
        assert_eq!(findings, [], "{fields}");
        let service = intent.unwrap().services.into_values().next().unwrap();
        (service.app.idle_timeout.as_millis(), service.paths)
    };
    let (default, keep) =
        (Paths::default(), Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep, ..Paths::default() });
    assert_eq!((default.escaped_slashes, default.slashes), (EscapedSlashes::Reject, Slashes::Merge));
    assert_eq!(read(""), (60_000, default));
    assert_eq!(read("app: {idleTimeout: 4s500ms}\npaths: {escapedSlashes: keep, slashes: keep}\n"), (4_500, keep));
    assert_eq!(read("app: {}\npaths: {escapedSlashes: reject, slashes: merge}\n"), (60_000, default));
}

#[test]
fn access_rules() {
    insta::assert_snapshot!(told_of(
        "\
kind: Service
name: pins
namespace: prod
port: 8080
protocol: http
access:
  - {from: [web, board.prod, reporting, role:reportng, prod/webb, prdo/*, Prod/Web]}
  - {from: ['spiffe://acme.internal/ns/prod/sa/web'], when: x}
  - {from: [], allow: []}
  - {from: prod/web}
  - {allow: [GET /]}
  - from: [prod/web]
    allow:
      - /api/**
      - GET
      - get /api
      - GET api
      - GET /**/x
      - GET /pins*
      - GET /a/../b
      - GET /a%2Fb
      - GET /a%7eb
      - GET /a?b=c
      - GET /ä
      - GTE /a
      - GET /ok
      - GET /ok
"
    ));
}

#[test]
fn route_rules() {
    insta::assert_snapshot!(told_of(
        "\
kind: Service
name: pins
namespace: prod
port: 8080
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
routes:
  - matches: [{path: /api}]
  - matches: [{path: {type: Prefix, value: api}}]
  - matches: [{path: {type: RegularExpression, value: /.*}}]
  - matches: [{path: {value: /api/*}}]
  - matches: [{headers: [{name: 'x y', value: 1}, {name: a, value: 1}, {name: A, value: 2}], queryParams: []}]
  - matches: [{method: post}]
  - backendRefs: [{subset: v3}, {subset: v1, weight: -1}, {name: other}]
  - matches: [{path: {value: /zero}}]
    backendRefs: [{subset: v1, weight: 0}, {subset: v2, weight: 0}]
  - matches: [{path: {value: /none}}]
    backendRefs: []
  - matches: [{path: {value: /twice}}]
    backendRefs: [{subset: v1}, {subset: v1}]
    timeouts: {request: 1.5s, backendRequest: 1s}
    filters: []
"
    ));
}

#[test]
fn rules_that_can_never_be_chosen_name_both_places() {
    insta::assert_snapshot!(told_of(
        "\
kind: Service
name: pins
namespace: prod
port: 8080
protocol: http
routes:
  - matches: [{path: {value: /api}, headers: [{name: a, value: 1}, {name: b, value: 2}]}]
  - {}
  - matches: [{headers: [{name: B, value: 2}, {name: a, value: 1}], path: {type: PathPrefix, value: /api/}}, {method: GET}]
  - matches: [{path: {value: /}}]
  - matches: [{path: {type: Exact, value: /api}}]
  - matches: [{path: {type: Exact, value: /api/}}]
  - matches: [{method: GET}]
"
    ));
}

#[test]
fn tcp_services_have_no_http_rules() {
    insta::assert_snapshot!(told_of(
        "\
kind: Service
name: db
namespace: prod
port: 5432
protocol: tcp
access: [{from: [prod/web], allow: ['* /**']}]
routes: [{backendRefs: [{}]}]
"
    ));
}

#[test]
fn what_policies_may_read() {
    let mesh = |policy: &str| format!("kind: Mesh\nname: acme\ntrustDomain: acme.internal\npolicy:\n{policy}");
    let good = mesh(
        "  headers: [x-tenant, x-plan]\n  query: [tag, \"a b\"]\n  claims: [team]\n  timeZones: {office: Europe/Berlin, home: America/New_York}\n",
    );
    let (intent, findings) = parse(&repository(&[("mesh.yaml", &good)]));
    assert!(findings.is_empty(), "{findings:#?}");
    let policy = intent.unwrap().mesh.policy;
    assert_eq!((&*policy.headers[0], &*policy.headers[1], &*policy.query[0]), ("x-plan", "x-tenant", "a b"));
    assert_eq!(&*policy.time_zones["home"], "America/New_York");
    insta::assert_snapshot!(told(&[(
        "mesh.yaml",
        &mesh(
            "  headers: [X-Tenant, authorization, cookie, x-weft-id, connection, 'a b', x-plan, x-plan, host]\n  query: [\"\"]\n  claims: team\n  \
             timeZones: {utc: Europe/Berlin, office: Europe/Berln, home: europe/berlin, 'a-b': UTC, here: Local}\n  log: all\n",
        ),
    )]));
}

#[test]
fn what_yaml_can_do_and_intent_does_not_need() {
    insta::assert_snapshot!(told(&[
        ("mesh.yaml", &MESH.replace("name: acme", "name: !secret acme")),
        ("tabs.yaml", "kind: Role\nname: x\nmembers:\n\t- prod/web\n"),
        ("merge.yaml", "kind: Role\nname: y\nmembers: &m [prod/web]\n<<: *m\n? [a]\n: b\n"),
        ("star.yaml", "kind: Role\nname: z\nmembers: [*]\n"),
        ("services.yaml", BOARD),
    ]));
}

#[test]
fn files_that_are_not_read() {
    let mut files = repository(&[("mesh.yaml", MESH), ("prod.yaml", BOARD)]);
    files.push(SourceFile::new("latin1.yaml", b"a: 1\nb: \xe9\n".as_slice()));
    files.push(SourceFile::new("big.yaml", vec![b' '; MAX_FILE_BYTES as usize + 1]));
    for (path, content) in
        [("link", Content::Symlink), ("module", Content::Submodule), ("huge.cedar", Content::TooLarge(1 << 30))]
    {
        files.push(SourceFile { path: path.into(), content });
    }
    let (intent, findings) = parse(&files);
    assert!(intent.is_none());
    let told: Vec<_> = findings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_draft_holds_what_could_be_read() {
    let files = repository(&[
        ("mesh.yaml", MESH),
        ("a.yaml", BOARD),
        ("broken.yaml", "kind: Service\nname: pins\nnamespace: prod\nport: ]\n"),
        ("bad.yaml", "kind: Service\nname: cart\nnamespace: prod\nport: x\nprotocol: http\n"),
    ]);
    let draft = draft(&files);
    let names: Vec<_> = draft.intent.expect("a draft").services.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["prod/board", "prod/cart", "prod/pins", "prod/web", "shared/ledger"]);
    assert_eq!(draft.findings.len(), 2);
}

#[test]
fn many_mistakes_are_cut_but_still_stop_the_commit() {
    let text = format!("kind: Role\nname: x\nmembers: [{}]\n", vec!["nobody"; 5_000].join(", "));
    let (intent, findings) = parse(&repository(&[("mesh.yaml", MESH), ("role.yaml", &text)]));
    assert!(intent.is_none());
    assert!(findings.len() <= 1_001);
    assert!(findings.last().expect("some").message.contains("not shown"));
}

/// Every code that the sources use has its paragraph in the reference, and every paragraph is used.
#[test]
fn every_code_is_documented() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(crates.join("../docs/reference/findings.md")).expect("the reference page");
    let mut used = std::collections::BTreeSet::new();
    let mut folders = vec![crates];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            if entry.is_dir() && !entry.ends_with("target") && !entry.ends_with("tests") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") && !entry.ends_with("tests.rs") {
                // A file may vanish while others work on it.
                let Ok(text) = std::fs::read_to_string(&entry) else { continue };
                used.extend(codes_in(text.split("#[cfg(test)]").next().unwrap_or_default(), "\""));
            }
        }
    }
    let documented = codes_in(&page, "## ");
    assert!(used.len() > 25, "{used:?}");
    assert_eq!(used.difference(&documented).collect::<Vec<_>>(), [""; 0], "codes without a heading in findings.md");
    assert_eq!(
        documented.difference(&used).collect::<Vec<_>>(),
        [""; 0],
        "headings in findings.md that no source uses"
    );
}

fn codes_in(text: &str, before: &str) -> std::collections::BTreeSet<String> {
    let start = format!("{before}WEFT");
    text.match_indices(&start)
        .filter_map(|(at, _)| text.get(at + before.len()..at + before.len() + 8))
        .filter(|code| code[4..].bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Whatever is in the files: no panic, an intent exactly when there is no error, places within the files.
    fn check(files: &[SourceFile]) -> Result<(), TestCaseError> {
        let (intent, findings) = parse(files);
        prop_assert_eq!(intent.is_some(), findings.iter().all(|f| f.severity == Severity::Warning));
        for span in findings.iter().filter_map(|f| f.span.as_ref()) {
            let file = files.iter().find(|file| file.path == span.file).expect("a finding is in a file that was given");
            if let Some(text) = file.text() {
                prop_assert!(span.line >= 1 && span.line as usize <= text.split('\n').count(), "{span}");
            }
        }
        crate::render::render(&findings, files, crate::render::Look::default());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            check(&[SourceFile::new("a.yaml", bytes.clone()), SourceFile::new("a.cedar", bytes)])?;
        }

        #[test]
        fn mutated_documents(
            edits in proptest::collection::vec((0usize..2_000, 0usize..12, "(?s)([\\[\\]{}:,&*!|>'\"#%@\\-\n\t ?~]|kind: |subset|\\PC){0,4}"), 1..6)
        ) {
            let mut text = format!("{MESH}---\n{BOARD}");
            for (at, cut, insert) in edits {
                let near = |mut i: usize| { i = i.min(text.len()); while !text.is_char_boundary(i) { i -= 1 } i };
                let (from, to) = (near(at), near(at + cut));
                text.replace_range(from..to, &insert);
            }
            check(&repository(&[("a.yaml", &text)]))?;
        }

        #[test]
        fn shuffled_lines(order in proptest::collection::vec(0usize..40, 0..40)) {
            let all = format!("{MESH}---\n{BOARD}");
            let lines: Vec<&str> = all.lines().collect();
            let text: String = order.iter().filter_map(|at| lines.get(*at)).map(|line| format!("{line}\n")).collect();
            check(&repository(&[("a.yaml", &text)]))?;
        }
    }
}
