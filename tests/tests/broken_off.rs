//! Answers that the app breaks off: what it said until then arrives, and everybody says that it was the app.

use std::io::{Read, Write};
use std::net::SocketAddr;

use weft_tests::log::json_lines;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{curl, ports, wait};

/// Answers each request with these bytes, and closes.
fn app(answer: &'static [u8]) -> SocketAddr {
    let address = ports::free();
    let listener = std::net::TcpListener::bind(address).expect("the port is free");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(answer);
            }
        }
    });
    address
}

/// What arrives of an answer whose 4,000 bytes are all that comes, and that is at fault as the ingress says.
fn broken_off(caller: DataPlane, callee: DataPlane, answer: &'static [u8], cause: &str) {
    let mesh = Mesh::start();
    let chat = mesh.sidecar("chat", Spec::new("prod/chat", app(answer)).on(callee));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
    web.wait_knows(&chat);
    for _ in 0..20 {
        let reply = curl::get(web.egress, "chat.prod", "/ws", &[]);
        assert_eq!((reply.status, reply.body.len()), (200, 4_000), "{reply:?}");
        assert!(!reply.error.is_empty(), "curl sees that it is not whole");
    }
    if callee == DataPlane::Weft {
        let lines = wait::until("all lines", wait::SOON, || {
            let lines = json_lines(&chat.access_log);
            if lines.len() >= 20 { Ok(lines) } else { Err(lines.len()) }
        });
        for line in lines {
            assert_eq!((&line["layer"], &line["cause"]), (&"app".into(), &cause.into()), "{line:#}");
        }
    }
}

fn too_short() -> &'static [u8] {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n".to_vec();
    [head, vec![b'x'; 4_000]].concat().leak()
}

fn with_a_bad_chunk() -> &'static [u8] {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfa0\r\n".to_vec();
    [head, vec![b'x'; 4_000], b"\r\nZZ\r\n".to_vec()].concat().leak()
}

#[test]
fn what_an_app_said_before_it_broke_off_arrives_weft() {
    broken_off(DataPlane::Weft, DataPlane::Weft, too_short(), "app_closed");
}

#[test]
fn what_an_app_said_before_it_broke_off_arrives_envoy_weft() {
    broken_off(DataPlane::Envoy, DataPlane::Weft, too_short(), "app_closed");
}

#[test]
fn what_an_app_said_before_it_broke_off_arrives_envoy() {
    broken_off(DataPlane::Envoy, DataPlane::Envoy, too_short(), "app_closed");
}

#[test]
fn what_an_app_said_before_it_broke_http_arrives() {
    broken_off(DataPlane::Weft, DataPlane::Weft, with_a_bad_chunk(), "app_protocol");
}
