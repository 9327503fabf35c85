//! Services that do not speak HTTP: bytes in mutual TLS, decided on once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::World;
use super::calls::WEB;
use crate::sidecar::DataPlane;
use crate::{log, wait};

/// Opens the way that an app takes to a TCP service: CONNECT through its sidecar.
fn connect(world: &World, target: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
    stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").expect("the egress reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    (stream, String::from_utf8_lossy(&head).into_owned())
}

pub(super) fn echo(world: &World) {
    let (mut stream, head) = connect(world, "db.prod:5432");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut back = [0; 8];
    for word in [b"select 1", b"select 2"] {
        stream.write_all(word).expect("the way is open");
        stream.read_exact(&mut back).expect("the app answers");
        assert_eq!(&back, word);
    }
    drop(stream);
    let line = wait::until("the line of the connection", wait::SOON, || {
        let lines = log::json_lines(&world.db.access_log);
        lines.into_iter().find(|line| line["bytes_received"] == 16).ok_or("no such line")
    });
    assert_eq!(line["hop"], "ingress", "{line:#}");
    assert_eq!(line["method"], serde_json::Value::Null, "{line:#}");
    assert_eq!(line["response_code"], 0, "{line:#}");
    assert_eq!(line["response_flags"], "-", "{line:#}");
    assert_eq!(line["bytes_sent"], 16, "{line:#}");
    assert_eq!(line["peer_id"], WEB, "{line:#}");
    assert_eq!(line["decision"], "allow", "{line:#}");
    assert!(line["policy"].as_str().is_some_and(|policy| policy.contains("services/db.yaml:")), "{line:#}");
}

pub(super) fn half_close(world: &World) {
    let (mut stream, head) = connect(world, "db.prod:5432");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let said = [b's'; 100_000];
    stream.write_all(&said).expect("the way is open");
    stream.shutdown(Shutdown::Write).expect("an open socket");
    let mut back = Vec::new();
    let read = stream.read_to_end(&mut back);
    // Envoy ends a CONNECT with its caller's direction: what comes after that is lost.
    if world.caller == DataPlane::Weft {
        read.expect("an orderly end");
        assert_eq!(back.len(), said.len());
    }
}
