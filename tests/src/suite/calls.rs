//! Who may call what, by which name, and what each side is told.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::World;
use crate::curl::Reply;
use crate::sidecar::DataPlane;
use crate::wait;

/// The identity that `prod/web` shows.
pub(super) const WEB: &str = "spiffe://test.internal/ns/prod/sa/web";

/// Waits until each service answers: configuration and endpoints arrive in their own time.
pub(super) fn wait_reachable(world: &World) {
    for (host, target, args, wanted) in [
        ("board.prod", "/api/", &["-H", "x-version: v2"][..], 200),
        ("board.prod", "/api/", &[], 200),
        // The gRPC and WebSocket apps refuse a plain GET themselves; 403 is the mesh's, and proves that the path works.
        ("greeter.prod", "/", &[], 403),
        ("chat.prod", "/", &[], 403),
        ("registry.prod", "/api/", &[], 200),
    ] {
        wait::until(&format!("{host} to answer"), wait::SOON, || {
            let reply = world.curl(host, target, args);
            if reply.status == wanted { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
}

/// What the app says it has seen of a header.
pub(super) fn seen(reply: &Reply, name: &str) -> Vec<String> {
    let headers = reply.json()["headers"].as_array().cloned().unwrap_or_default();
    headers.iter().filter(|h| h[0] == name).filter_map(|h| h[1].as_str()).map(str::to_owned).collect()
}

#[track_caller]
pub(super) fn one(reply: &Reply, name: &str) -> String {
    let values = seen(reply, name);
    assert_eq!(values.len(), 1, "{name}: {values:?} in {reply:?}");
    values[0].clone()
}

pub(super) fn allowed(world: &World) {
    let reply = world.curl("board.prod", "/api/pins?x=1&y=%2F", &["-H", "x-own: kept"]);
    assert_eq!(reply.status, 200, "{reply:?}");
    let seen = reply.json();
    assert_eq!(seen["method"], "GET");
    assert_eq!(seen["target"], "/api/pins?x=1&y=%2F");
    assert_eq!(one(&reply, "x-own"), "kept");
    assert_eq!(one(&reply, "x-forwarded-proto"), "http");
    let certificate = one(&reply, "x-forwarded-client-cert");
    assert!(certificate.contains(&format!("URI={WEB}")), "{certificate}");
    let trace = one(&reply, "traceparent");
    assert!(trace.len() == 55 && trace.starts_with("00-"), "{trace}");
    assert!(one(&reply, "x-request-id").len() >= 16);
    // What the app sent on is carried on, not made anew.
    let id = "7b1f5a52-9f2e-4b6b-8a55-6f2d4a3f9c11";
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let reply = world.curl(
        "board.prod",
        "/api/",
        &["-H", &format!("x-request-id: {id}"), "-H", &format!("traceparent: {parent}")],
    );
    assert_eq!(one(&reply, "x-request-id"), id);
    assert!(one(&reply, "traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"));
}

pub(super) fn names(world: &World) {
    for host in ["board", "board.prod", "board.prod.mesh", "board.prod:8080", "board.prod.mesh:8080", "BOARD.prod"] {
        let reply = world.curl(host, "/api/", &[]);
        assert_eq!(reply.status, 200, "{host}: {reply:?}");
    }
}

pub(super) fn http_proxy(world: &World) {
    let proxy = format!("http://{}", world.web.egress);
    let reply = crate::curl::curl(&["-x", &proxy, "http://board.prod/api/pins"]);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["target"], "/api/pins");
}

pub(super) fn h2c(world: &World) {
    let reply = world.curl("board.prod", "/api/pins", &["--http2-prior-knowledge"]);
    assert_eq!((reply.status, reply.version.as_str()), (200, "2"), "{reply:?}");
    let big = world.curl("board.prod", "/bytes/3000000", &["--http2-prior-knowledge"]);
    assert_eq!((big.status, big.body.len()), (200, 3_000_000), "{:?}", big.headers);
    let denied = world.curl("board.prod", "/admin", &["--http2-prior-knowledge"]);
    assert_eq!((denied.status, denied.version.as_str()), (403, "2"), "{denied:?}");
}

pub(super) fn semantics(world: &World) {
    let head = world.curl("board.prod", "/bytes/1234", &["--head"]);
    assert_eq!((head.status, head.header("content-length"), head.body.as_str()), (200, Some("1234"), ""), "{head:?}");
    for status in [204, 304, 404, 418, 500, 503] {
        let reply = world.curl("board.prod", &format!("/status/{status}"), &[]);
        assert_eq!(reply.status, status, "{reply:?}");
        // The app's own error is not dressed up as the mesh's.
        assert_ne!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    }
    let kept = world.curl("board.prod", "/api/", &["-H", "connection: close, x-hop", "-H", "x-hop: dropped"]);
    assert_eq!(kept.status, 200, "{kept:?}");
    assert_eq!(seen(&kept, "x-hop"), [""; 0], "a header named by Connection is for one hop (RFC 9110 s.7.6.1)");
}

pub(super) fn denied(world: &World) {
    let before = world.reached();
    let reply = world.curl("board.prod", "/admin/users", &["-X", "DELETE"]);
    assert_eq!(reply.status, 403, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    let problem = reply.json();
    assert_eq!(problem["status"], 403, "{problem:#}");
    let text = problem.to_string();
    for part in ["prod/web", "prod/board", "DELETE", "/admin/users", "services/board.yaml"] {
        assert!(text.contains(part), "the reason does not name `{part}`: {problem:#}");
    }
    for key in ["layer", "cause", "request_id", "decision_id"] {
        assert!(problem[key].as_str().is_some_and(|v| !v.is_empty()), "no {key}: {problem:#}");
    }
    assert_eq!(world.reached(), before, "a denied call reached the app");
}

pub(super) fn forbidden(world: &World) {
    let reply = world.curl("board.prod", "/api/closed/1", &[]);
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("policies/guard.cedar:2"), "the reason does not name the policy: {reply:?}");
}

pub(super) fn unknown_host(world: &World) {
    for host in ["nowhere.prod", "vault.prod", "example.com"] {
        let reply = world.curl(host, "/api/", &[]);
        assert_eq!(reply.status, 404, "{host}: {reply:?}");
        if world.caller == DataPlane::Weft {
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
            assert!(reply.header("proxy-status").is_some(), "{reply:?}");
        }
    }
}

pub(super) fn spoofed_headers(world: &World) {
    let lie = "spiffe://test.internal/ns/prod/sa/admin";
    let mut args = vec!["-H".to_owned(), format!("x-forwarded-client-cert: By=x;URI={lie}")];
    // An app behind CGI or WSGI cannot tell an underscore from a dash.
    let look_alikes = ["x_forwarded_client_cert", "x-forwarded_client-cert", "x_weft_principal", "x-weft_principal"];
    let of_paths = ["script-name", "script_name", "path-info", "path_info"];
    let of_callers = ["x-weft-principal", "x-weft-decision-id", "x-weft-source"];
    for name in of_callers.into_iter().chain(of_paths).chain(look_alikes) {
        args.extend(["-H".to_owned(), format!("{name}: {lie}")]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let reply = world.curl("board.prod", "/api/", &args);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(!reply.body.contains(lie), "a spoofed header reached the app: {}", reply.body);
    assert!(one(&reply, "x-forwarded-client-cert").contains(WEB));
}

/// Sends bytes to the caller's egress and gives all that comes back until the connection ends.
fn raw(world: &World, bytes: &str) -> String {
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
    stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
    stream.write_all(bytes.as_bytes()).expect("the egress reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and an end");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) fn http_10(world: &World) {
    let answer = raw(world, "GET /api/pins HTTP/1.0\r\nHost: board.prod\r\n\r\n");
    // The version of the answer is the highest that the sender speaks (RFC 9110 s.2.5); Envoy says 1.0.
    assert!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 "), "{answer}");
    assert!(answer.ends_with('}') && !answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    // Its body has no length, and ends with the connection.
    let answer = raw(world, "POST /echo HTTP/1.0\r\nHost: board.prod\r\ncontent-length: 5\r\n\r\nhello");
    assert!(answer.contains(" 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    let answer = raw(world, "GET /api/pins HTTP/1.0\r\n\r\n");
    assert!(answer.contains(" 400 "), "without a host nobody knows who is called: {answer}");
}

pub(super) fn hop_by_hop(world: &World) {
    let reply = world.curl("board.prod", "/api/hop", &[]);
    assert_eq!((reply.status, reply.header("x-kept")), (200, Some("1")), "{reply:?}");
    for name in ["x-hop", "keep-alive"] {
        assert_eq!(reply.header(name), None, "{name} is for one hop (RFC 9110 s.7.6.1): {reply:?}");
    }
}

pub(super) fn no_websocket(world: &World) {
    let answer = raw(
        world,
        "GET /api/pins HTTP/1.1\r\nHost: board.prod\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 502 "), "the app answered 200, so nothing is open: {answer}");
}

pub(super) fn large_heads(world: &World) {
    let many: Vec<String> = (0..200).flat_map(|n| ["-H".to_owned(), format!("x-{n}: 1")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let reply = world.curl("board.prod", "/api/pins", &many);
    assert_eq!((reply.status, &*one(&reply, "x-199")), (200, "1"), "{}", reply.error);
    let long = format!("x-long: {}", "a".repeat(62_000));
    let reply = world.curl("board.prod", "/api/pins", &["-H", &long]);
    assert_eq!((reply.status, one(&reply, "x-long").len()), (200, 62_000), "{}", reply.error);
    let reply = world.curl("board.prod", "/api/fields", &[]);
    assert_eq!((reply.status, reply.header("x-199")), (200, Some("1")), "{reply:?}");
}
