//! The control plane's ext_authz, as a client meets it that is neither our proxy nor an Envoy; and what it decides about bytes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use weft_tests::app::echo_bytes;
use weft_tests::mesh::Mesh;
use weft_tests::pki::Pair;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::Spec;
use weft_tests::{log, peers, ports, wait};

const WEB: &str = "spiffe://test.internal/ns/prod/sa/web";
const BOARD: &str = "spiffe://test.internal/ns/prod/sa/board";

/// What `client` is told about each check.
#[track_caller]
fn ask(mesh: &Mesh, client: &Pair, checks: &[Value]) -> Vec<Value> {
    let mut child = Command::new(peers::venv("python"))
        .arg(peers::script("ext_authz.py"))
        .arg(mesh.authz.to_string())
        .args([&client.bundle, &client.certificate, &client.key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut input = child.stdin.take().expect("it is piped");
    for check in checks {
        writeln!(input, "{check}").expect("the client reads its input");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), checks.len(), "{text}");
    answers
}

#[test]
fn a_third_party_client_is_told_the_decision_and_the_line_that_made_it() {
    let mesh = Mesh::start_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("authz"), |_| {});
    let board = mesh.svid("prod/board", "board");
    let check = |method: &str, path: &str| json!({"caller": WEB, "callee": BOARD, "method": method, "path": path});
    let with = |mut check: Value, key: &str, value: Value| {
        check[key] = value;
        check
    };
    let answers = ask(
        &mesh,
        &board,
        &[
            check("GET", "/api/x?q=1"),
            check("DELETE", "/api/x"),
            check("GET", "/api/secrets/x"),
            check("GET", "/api/%2F"),
            with(check("GET", "/api/x"), "body", json!("x".repeat(100_000))),
            with(check("GET", "/tenants/a"), "headers", json!({"x-tenant": "a", "x_weft_principal": "me"})),
            with(check("POST", "/acme.Board/Erase"), "headers", json!({"content-type": "application/grpc"})),
            json!({"caller": WEB, "method": "GET", "path": "/api/x"}),
            json!({"callee": BOARD, "method": "GET", "path": "/api/x"}),
            json!({"caller": WEB, "callee": BOARD}),
            json!({}),
            with(check("GET", "/api/x"), "callee", json!(WEB)),
        ],
    );
    let [allowed, no_rule, forbidden, bad_path, with_body, tenant, grpc, no_callee, no_caller, tcp, nothing, other] =
        &answers[..]
    else {
        panic!("{answers:#?}")
    };
    let place = |answer: &Value| answer["metadata"]["policy"].as_str().expect("a place").to_owned();
    for answer in [allowed, with_body, no_callee] {
        assert_eq!((&answer["status"], &answer["metadata"]["decision"]), (&json!(0), &json!("allow")), "{answer}");
        assert!(place(answer).starts_with("services/all.yaml:"), "{answer}");
        assert_eq!(answer["metadata"]["decision_id"].as_str().map(str::len), Some(32), "{answer}");
    }
    assert_eq!(
        tenant["removed"],
        json!(["x-weft-decision-id", "x-weft-principal", "x-weft-source", "x_weft_principal"])
    );

    let problem =
        |answer: &Value| -> Value { serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON") };
    for (answer, status, cause) in
        [(no_rule, 403, "denied"), (forbidden, 403, "denied"), (bad_path, 400, "bad_path"), (no_caller, 403, "denied")]
    {
        assert_eq!((&answer["status"], &answer["http"]), (&json!(7), &json!(status)), "{answer}");
        assert_eq!(answer["headers"]["content-type"], "application/problem+json", "{answer}");
        let problem = problem(answer);
        assert_eq!((&problem["cause"], &problem["status"]), (&json!(cause), &json!(status)), "{problem}");
        assert_eq!(problem["decision_id"], answer["headers"]["x-weft-decision-id"], "{answer}");
        assert_eq!(problem["decision_id"], answer["metadata"]["decision_id"], "{answer}");
    }
    assert!(place(forbidden).starts_with("policies/rules.cedar:"), "{forbidden}");
    assert_eq!(problem(forbidden)["detail"], format!("forbid {}", place(forbidden)));
    assert!(place(no_rule).contains("no access rule of prod/board (services/all.yaml:35)"), "{no_rule}");
    assert!(problem(no_caller)["detail"].as_str().is_some_and(|why| why.contains("no identity")), "{no_caller}");
    assert_eq!((&grpc["http"], &grpc["headers"]["grpc-status"]), (&json!(403), &json!("7")), "{grpc}");
    for answer in [tcp, nothing] {
        assert_eq!((&answer["status"], &answer["metadata"]["decision"]), (&json!(7), &json!("deny")), "{answer}");
    }
    assert_eq!(other["error"], "PERMISSION_DENIED", "{other}");
    assert!(other["details"].as_str().is_some_and(|why| why.contains("may ask about calls to itself")), "{other}");

    let web = mesh.svid("prod/web", "web");
    let answers = ask(&mesh, &web, &[check("GET", "/api/x")]);
    assert_eq!(answers[0]["error"], "PERMISSION_DENIED", "who may call board is none of web's business");
}

/// Whether bytes come back from a TCP service, through the egress of its caller.
fn is_echoed(egress: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(egress).expect("the egress listens");
    stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
    stream.write_all(b"CONNECT db.prod:5432 HTTP/1.1\r\nhost: db.prod:5432\r\n\r\n").expect("the egress reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !stream.read(&mut byte).is_ok_and(|read| read == 1) {
            return false;
        }
        head.push(byte[0]);
    }
    let mut bytes = [0; 5];
    head.starts_with(b"HTTP/1.1 200")
        && stream.write_all(b"hello").is_ok()
        && stream.read_exact(&mut bytes).is_ok_and(|()| bytes == *b"hello")
}

fn bytes_are_decided_on(data_plane: DataPlane) {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("authz");
    let mut mesh = Mesh::start_from(&template, |repo| {
        let services = repo.read("services/all.yaml");
        let db = "kind: Service\nname: db\nnamespace: prod\nport: 5432\nprotocol: tcp\nauthorization: {by: server, timeout: 5s}\n\
                  attributes: {environment: prod}\naccess: [{from: [prod/web]}, {from: [\"staging/*\"]}]\n";
        repo.write("services/all.yaml", &format!("{services}---\n{db}"));
    });
    let db = mesh.sidecar("db", Spec::new("prod/db", echo_bytes()).on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    // A rule lets it in, and a forbid stops it: it is of another environment.
    let staging = mesh.sidecar("staging", Spec::new("staging/web", ports::free()));
    wait::until("bytes to come back", wait::SOON, || if is_echoed(web.egress) { Ok(()) } else { Err("none") });
    let line = |what: &str, is_it: &dyn Fn(&Value) -> bool| log::wait_line(&db.access_log, what, is_it);
    let allowed = line("the line of bytes that passed", &|line| line["bytes_received"] == 5);
    assert_eq!((&allowed["decision"], &allowed["response_flags"]), (&json!("allow"), &json!("-")), "{allowed}");

    assert!(!is_echoed(staging.egress));
    let denied = line("the line of bytes that were denied", &|line| line["decision"] == "deny");
    assert_eq!(denied["response_flags"], "UAEX", "{denied}");
    assert!(denied["policy"].as_str().is_some_and(|policy| policy.starts_with("policies/rules.cedar:")), "{denied}");

    mesh.kill_server();
    assert!(!is_echoed(web.egress), "nobody could be asked");
    line("the line of bytes that nobody decided on", &|line| {
        line["response_flags"] == "UAEX" && line["decision"].is_null()
    });
}

#[test]
fn our_proxy_asks_about_connections_of_bytes() {
    bytes_are_decided_on(Weft);
}

#[test]
fn envoy_asks_about_connections_of_bytes() {
    bytes_are_decided_on(Envoy);
}
