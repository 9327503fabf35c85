//! Answers that the app breaks off: what it said until then arrives, and everybody says that it was the app.

use weft_tests::app;
use weft_tests::log::json_lines;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{curl, ports, wait};

/// What arrives of an answer whose 4,000 bytes are all that comes, and who is at fault as the ingress says.
fn broken_off(caller: DataPlane, callee: DataPlane, answer: &'static [&'static [u8]], cause: &str) {
    let mesh = Mesh::start();
    let chat = mesh.sidecar("chat", Spec::new("prod/chat", app::scripted(answer).0).on(callee));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
    web.wait_knows(&chat);
    for _ in 0..20 {
        let reply = curl::get(web.egress, "chat.prod", "/ws", &[]);
        assert_eq!((reply.status, reply.body.len()), (200, 4_000), "{reply:?}");
        assert!(!reply.error.is_empty(), "curl sees that it is not whole");
    }
    // The caller's sidecar knows it from the reset of the callee's.
    for (sidecar, data_plane, cause) in [(&chat, callee, cause), (&web, caller, "app_reset")] {
        if data_plane != DataPlane::Weft {
            continue;
        }
        let lines = wait::until("all lines", wait::SOON, || {
            let lines = json_lines(&sidecar.access_log);
            if lines.len() >= 20 { Ok(lines) } else { Err(lines.len()) }
        });
        for line in lines {
            assert_eq!((&line["layer"], &line["cause"]), (&"app".into(), &cause.into()), "{line:#}");
        }
    }
}

/// One answer a connection.
fn script(answer: Vec<u8>) -> &'static [&'static [u8]] {
    vec![&*answer.leak()].leak()
}

fn too_short() -> &'static [&'static [u8]] {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n".to_vec();
    script([head, vec![b'x'; 4_000]].concat())
}

fn with_a_bad_chunk() -> &'static [&'static [u8]] {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfa0\r\n".to_vec();
    script([head, vec![b'x'; 4_000], b"\r\nZZ\r\n".to_vec()].concat())
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
