//! Callers that break the rules of HTTP: refused where they are, and written down as the caller's fault.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::World;
use crate::sidecar::DataPlane;
use crate::{log, wait};

/// Sends bytes to the caller's egress and gives the first line of the answer, which must come before the bound.
fn raw(world: &World, bytes: &str) -> String {
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
    stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
    stream.write_all(bytes.as_bytes()).expect("the egress reads");
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.contains(&b'\n') {
        match stream.read(&mut part).expect("an answer") {
            0 => break,
            read => answer.extend_from_slice(&part[..read]),
        }
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

pub(super) fn requests(world: &World) {
    let reached = world.reached();
    let two_hosts = "GET /api/ HTTP/1.1\r\nHost: board.prod\r\nHost: admin.prod\r\n\r\n";
    let bad_name = "GET /api/ HTTP/1.1\r\nHost: board.prod\r\nbad name: x\r\n\r\n";
    let both_framings =
        "POST /api/ HTTP/1.1\r\nHost: board.prod\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for (what, bytes) in [("two hosts", two_hosts), ("a bad header name", bad_name)] {
        let line = raw(world, bytes);
        assert!(line.starts_with("HTTP/1.1 4"), "{what}: {line}");
    }
    assert_eq!(world.reached(), reached, "a broken request reached an app");
    // Refused, or read as chunked with the length taken out (RFC 9112 s.6.3): never both. Ours refuses.
    let line = raw(world, both_framings);
    let read = line.starts_with("HTTP/1.1 200") && world.caller == DataPlane::Envoy;
    assert!(line.starts_with("HTTP/1.1 4") || read, "two framings: {line}");
    if world.caller == DataPlane::Weft {
        let log = || log::json_lines(&world.web.access_log);
        wait::until("the line of the unreadable request", wait::SOON, || {
            let found = log().into_iter().any(|line| line["cause"] == "bad_request" && line["method"].is_null());
            if found { Ok(()) } else { Err("no such line") }
        });
    }
}

pub(super) fn chunks(world: &World) {
    // Another length than announced; and a line that one reader ends at its LF, the next at its CRLF.
    let bodies = ["3\r\nabc\r\nXYZ\r\n", "2;\nxx\r\nab\r\n0\r\n\r\n"];
    for (body, id) in bodies.into_iter().zip(["555555555511", "555555555512"]) {
        let id = format!("11111111-2222-4333-8444-{id}");
        let head = format!(
            "POST /count HTTP/1.1\r\nHost: board.prod\r\nx-request-id: {id}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let line = raw(world, &format!("{head}{body}"));
        assert!(line.starts_with("HTTP/1.1 400"), "{body:?}: {line}");
        if world.caller == DataPlane::Weft {
            let line = wait::until("the line of the broken chunk", wait::SOON, || {
                log::access_line(&world.web.access_log, &id).ok_or("no such line")
            });
            assert_eq!(line["layer"], "client", "{line:#}");
            assert_eq!(line["response_flags"], "DPE", "{line:#}");
        }
    }
}

pub(super) fn trailers(world: &World) {
    let lie = "spiffe://test.internal/ns/prod/sa/admin";
    let head = "POST /count HTTP/1.1\r\nHost: board.prod\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\
                trailer: x-checksum, x-forwarded-client-cert, x-weft-principal\r\n\r\n";
    let tail = format!(
        "3\r\nabc\r\n0\r\nx-checksum: 1\r\nx-forwarded-client-cert: URI={lie}\r\nx-weft-principal: {lie}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
    stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
    stream.write_all(format!("{head}{tail}").as_bytes()).expect("the egress reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and an end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for name in ["x-forwarded-client-cert", "x-weft-principal"] {
        assert!(!answer.contains(name), "{name} reached the app in trailers: {answer}");
    }
    if (world.caller, world.callee) == (DataPlane::Weft, DataPlane::Weft) {
        // Envoy passes no HTTP/1.1 trailers on; ours passes what is not the mesh's.
        assert!(answer.contains("x-checksum"), "{answer}");
    }
}
