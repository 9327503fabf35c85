//! Bodies: large ones, slow readers, streams both ways, upgrades.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::World;
use crate::app::FLOOD;
use crate::{grpc, log, wait};

/// What all buffers between two ends of a stopped stream may hold: three hops' kernel sockets (6 MiB of receive and 4 MiB of send
/// buffer, which the kernel may count at half of what they take), HTTP/2 windows (Envoy's are 16 MiB).
const BUFFERS: u64 = 96 << 20;

pub(super) fn large(world: &World) {
    let folder = world.mesh.folder();
    let (sent, received) = (folder.join("sent"), folder.join("received"));
    // Bytes that do not repeat with any buffer's size.
    let bytes: Vec<u8> = (0u32..5_000_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&sent, &bytes).expect("the folder can be written");
    for (version, more) in [
        ("--http1.1", "content-type: x/y"),
        ("--http1.1", "transfer-encoding: chunked"),
        ("--http2-prior-knowledge", "x: y"),
    ] {
        let status = Command::new("curl")
            .args(["-s", "-S", "--max-time", "60", version, "-H", "Host: board.prod", "-H", more, "--data-binary"])
            .arg(format!("@{}", sent.display()))
            .args(["-w", "%{http_code}", "-o"])
            .arg(&received)
            .arg(format!("http://{}/echo", world.web.egress))
            .output()
            .expect("curl runs");
        assert_eq!(
            String::from_utf8_lossy(&status.stdout),
            "200",
            "{version} {more}: {}",
            String::from_utf8_lossy(&status.stderr)
        );
        let back = std::fs::read(&received).expect("curl has written it");
        assert!(back == bytes, "{version} {more}: {} bytes came back changed ({} sent)", back.len(), bytes.len());
    }
}

pub(super) fn expectations(world: &World) {
    let ask = |line: &str| {
        let mut stream = TcpStream::connect(world.web.egress).expect("the egress accepts");
        stream.set_read_timeout(Some(wait::SOON)).expect("a socket has a timeout");
        write!(stream, "{line} HTTP/1.1\r\nhost: board.prod\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            .expect("the head is taken");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("an answer");
        (stream, String::from_utf8_lossy(&first).into_owned())
    };
    // The app reads the body, which is its leave to send it; or refuses by the head, and no body is sent.
    let (mut stream, first) = ask("POST /count");
    assert_eq!(first, "HTTP/1.1 100");
    stream.write_all(b"abc").expect("the body is taken");
    let mut rest = Vec::new();
    while !rest.ends_with(b"3 294") {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).expect("an answer");
        assert!(count > 0, "{}", String::from_utf8_lossy(&rest));
        rest.extend_from_slice(&part[..count]);
    }
    let (mut stream, first) = ask("GET /status/401");
    assert_eq!(first, "HTTP/1.1 401");
    stream.read_to_end(&mut Vec::new()).expect("an end, since a body may come or another request");
}

pub(super) fn upload_back_pressure(world: &World) {
    const TOTAL: u64 = 128 << 20;
    // Version 1 alone, so that the released app is the one that holds.
    let head = format!(
        "POST /hold HTTP/1.1\r\nhost: board.prod\r\nx-version: v2\r\nconnection: close\r\ncontent-length: {TOTAL}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress accepts");
    stream.write_all(head.as_bytes()).expect("the head is taken");
    let chunk = vec![1u8; 256 << 10];
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket has a timeout");
    let mut sent = 0u64;
    while sent < TOTAL {
        match stream.write(&chunk[..chunk.len().min((TOTAL - sent) as usize)]) {
            Ok(n) => sent += n as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
    assert!(sent < BUFFERS, "{sent} bytes were taken while the app read nothing");
    world.apps[1].release();
    stream.set_write_timeout(Some(wait::SOON)).expect("a socket has a timeout");
    while sent < TOTAL {
        sent += stream.write(&chunk[..chunk.len().min((TOTAL - sent) as usize)]).expect("the app reads again") as u64;
    }
    let mut answer = String::new();
    stream.set_read_timeout(Some(wait::SOON)).expect("a socket has a timeout");
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("{TOTAL} {TOTAL}")), "{answer}");
}

pub(super) fn download_back_pressure(world: &World) {
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress accepts");
    stream.set_read_timeout(Some(wait::SOON)).expect("a socket has a timeout");
    let before = world.apps[1].flooded();
    let head = "GET /flood HTTP/1.1\r\nhost: board.prod\r\nx-version: v2\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the head is taken");
    let mut buffer = vec![0u8; 1 << 16];
    let mut read = stream.read(&mut buffer).expect("the response begins") as u64;
    // Nobody reads: the app's progress must come to a stop.
    let (mut last, mut since) = (0, Instant::now());
    let flooded = wait::until("the flood to stop", Duration::from_secs(30), || {
        let now = world.apps[1].flooded() - before;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(1) { Ok(now) } else { Err(format!("{now} bytes and rising")) }
    });
    assert!(flooded < BUFFERS, "{flooded} bytes left the app while nobody read");
    loop {
        match stream.read(&mut buffer).expect("the response goes on") {
            0 => break,
            n => read += n as u64,
        }
    }
    assert!(read >= FLOOD, "{read} of {FLOOD} bytes arrived");
}

pub(super) fn grpc(world: &World) {
    grpc::suite("grpc_calls.py", &[&world.web.egress.to_string(), "greeter.prod"]);
}

pub(super) fn abandoned_websocket(world: &World) {
    let id = "11111111-2222-4333-8444-555555555521";
    let mut stream = TcpStream::connect(world.web.egress).expect("the egress accepts");
    stream.set_read_timeout(Some(wait::SOON)).expect("a socket has a timeout");
    write!(
        stream,
        "GET /ws HTTP/1.1\r\nhost: chat.prod\r\nx-request-id: {id}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .expect("the head is taken");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101");
    drop(stream);
    // The line is written when the tunnel is over, at both ends.
    for sidecar in [&world.web, &world.chat] {
        wait::until(&format!("the end of the tunnel in {}", sidecar.access_log.display()), wait::SOON, || {
            log::access_line(&sidecar.access_log, id).map(drop).ok_or("no line yet")
        });
    }
}

pub(super) fn websocket(world: &World) {
    grpc::suite("ws_client.py", &[&world.web.egress.to_string(), "chat.prod", "/ws"]);
    let reply = world.curl("chat.prod", "/other", &["-H", "connection: upgrade", "-H", "upgrade: websocket"]);
    assert_eq!(reply.status, 403, "an upgrade is authorized like any request: {reply:?}");
}
