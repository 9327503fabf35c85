//! Apps that call through our sidecar in HTTP/1.1 of their own, in bytes that are written here and by nobody's library.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use weft_tests::app::App;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{log, ports, wait};

struct World {
    web: Sidecar,
    _board: [Sidecar; 2],
    apps: [App; 2],
    _mesh: Mesh,
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start();
        let apps = [App::start("v1"), App::start("v2")];
        let board = [("v1", 0), ("v2", 1)].map(|(version, i)| {
            mesh.sidecar(
                &format!("board-{version}"),
                Spec::new("prod/board", apps[i].address()).label("version", version),
            )
        });
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
        mesh.wait_endpoints("prod/board", 2);
        let world = Self { web, _board: board, apps, _mesh: mesh };
        wait::until("the app to answer", wait::SOON, || {
            let answer = world.client().ask("GET /api/ HTTP/1.1\r\nhost: board.prod\r\n\r\n");
            if answer.status() == 200 { Ok(()) } else { Err(answer.head) }
        });
        world
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.web.egress).expect("the egress listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Client { stream, read: Vec::new() }
    }

    fn reached(&self) -> u64 {
        self.apps.iter().map(App::requests).sum()
    }

    /// Requests under way in the caller's sidecar.
    fn active(&self) -> u64 {
        let mut stream = TcpStream::connect(self.web.metrics).expect("metrics are served");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("they are asked for");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("they come");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("weft_requests_active "));
        lines.next().expect("the gauge is there").parse().expect("a number")
    }

    /// The access-log line of the request with that path.
    fn line(&self, path: &str) -> serde_json::Value {
        wait::until("the line of the request", wait::SOON, || {
            let lines = log::json_lines(&self.web.access_log);
            lines.into_iter().find(|line| line["path"] == path).ok_or("no such line")
        })
    }
}

/// A connection to the egress.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the egress reads");
    }

    fn ask(&mut self, bytes: &str) -> Answer {
        self.send(bytes);
        self.answer()
    }

    /// Reads until `is_there` says where what is wanted ends.
    fn until(&mut self, what: &str, is_there: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        loop {
            if let Some(end) = is_there(&self.read) {
                return self.read.drain(..end).collect();
            }
            let mut part = [0; 16 * 1024];
            let count = self.stream.read(&mut part).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(count > 0, "the connection ended before {what}: {:?}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&part[..count]);
        }
    }

    fn head(&mut self) -> String {
        let head = self.until("a head", |read| read.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4));
        String::from_utf8(head).expect("text")
    }

    /// The next response, which must have a length.
    fn answer(&mut self) -> Answer {
        let mut answer = Answer { head: self.head(), body: String::new() };
        let length = answer.field("content-length").map_or(0, |length| length.parse().expect("a number"));
        let body = self.until("a body", |read| (read.len() >= length).then_some(length));
        answer.body = String::from_utf8(body).expect("text");
        answer
    }

    /// What comes until the end, which must come.
    fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.read);
        self.stream.read_to_end(&mut rest).expect("an end");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let world = World::start();
    let mut client = world.client();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: board.prod\r\n\r\n");
    client.send([request("/status/201"), request("/status/202"), request("/status/203")].concat());
    for status in [201, 202, 203] {
        assert_eq!(client.answer().status(), status);
    }
    // A body that is refused unread, but is all there, does not end the connection.
    let denied = client.ask("POST /nowhere HTTP/1.1\r\nhost: board.prod\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!((denied.status(), denied.field("connection")), (403, None), "{denied:?}");
    let last = client.ask("GET /status/204 HTTP/1.1\r\nhost: board.prod\r\nconnection: close\r\n\r\n");
    assert_eq!((last.status(), last.field("connection")), (204, Some("close")), "{last:?}");
    assert_eq!(client.rest(), "");
}

#[test]
fn a_client_that_asks_for_leave_is_told_to_go_on_or_not() {
    let world = World::start();
    let mut client = world.client();
    client.send("POST /count HTTP/1.1\r\nhost: board.prod\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    let answer = client.ask("abc");
    assert_eq!((answer.status(), &*answer.body), (200, "3 294"), "{answer:?}");
    // What goes nowhere is never asked for its body: by this sidecar, by the other one, by the app.
    for (line, host, status) in
        [("POST /", "nobody.prod", 404), ("POST /nowhere", "board.prod", 403), ("GET /status/401", "board.prod", 401)]
    {
        let mut client = world.client();
        let refused = client
            .ask(&format!("{line} HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"));
        assert_eq!((refused.status(), refused.field("connection")), (status, Some("close")), "{refused:?}");
        assert_eq!(client.rest(), "");
    }
    // Another expectation is the app's to judge.
    let other =
        world.client().ask("POST /api/ HTTP/1.1\r\nhost: board.prod\r\nexpect: wonders\r\ncontent-length: 0\r\n\r\n");
    assert_eq!((other.status(), other.body.contains(r#"["expect","wonders"]"#)), (200, true), "{other:?}");
}

#[test]
fn an_old_client_is_understood() {
    let world = World::start();
    let mut client = world.client();
    let kept = client.ask("GET /bytes/5 HTTP/1.0\r\nhost: board.prod\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!((&*kept.body, kept.field("connection")), ("xxxxx", Some("keep-alive")), "{kept:?}");
    // No length is known beforehand, and HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
    client.send("GET /flood HTTP/1.0\r\nhost: board.prod\r\n\r\n");
    let head = client.head();
    assert!(head.contains("connection: close") && !head.contains("transfer-encoding"), "{head}");
    let body = client.rest();
    assert!(body.len() > 1 << 20 && body.bytes().all(|byte| byte == b'f'), "{} bytes", body.len());
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let world = World::start();
    let length = 8 << 20;
    // By this sidecar, which says that it closes; by the other one, whose answer comes when some of the body is on its way.
    for (host, status, cause) in [("nobody.prod", 404, "unknown_host"), ("board.prod", 403, "denied")] {
        let mut client = world.client();
        client.send(format!("POST /nowhere HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n"));
        // Some of it may be refused, since the connection ends; the answer must be there all the same.
        if let Err(error) = client.stream.write_all(&vec![b'a'; length]) {
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        }
        let answer = client.answer();
        assert_eq!(answer.status(), status, "{answer:?}");
        assert!(answer.body.contains(&format!(r#""cause":"{cause}""#)), "{answer:?}");
        assert_eq!(client.rest(), "", "the connection is not used again");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_a_reason() {
    let world = World::start();
    let reached = world.reached();
    let large = format!("GET / HTTP/1.1\r\nhost: board.prod\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    for (bytes, status, cause) in [
        ("GET /api/ HTTP/1.1\r\nhost: board.prod\r\nbad name: x\r\n\r\n", 400, "bad_request"),
        ("GET /api/ HTTP/1.1\r\nhost : board.prod\r\n\r\n", 400, "bad_request"),
        ("GET /api/ HTTP/3.0\r\nhost: board.prod\r\n\r\n", 400, "bad_request"),
        ("GET /api/ HTTP/1.1\r\nhost: board.prod\nx-evil: 1\r\n\r\n", 400, "bad_request"),
        ("GET /api/ HTTP/1.1\r\nhost: board.prod\r\n\n", 400, "bad_request"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", 400, "bad_request"),
        (&*large, 431, "head_too_large"),
    ] {
        let mut client = world.client();
        let _ = client.stream.write_all(bytes.as_bytes());
        let answer = client.answer();
        assert_eq!(answer.status(), status, "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{answer:?}");
        assert_eq!(answer.field("connection"), Some("close"), "{answer:?}");
        let problem: serde_json::Value = serde_json::from_str(&answer.body).expect("a problem in JSON");
        assert_eq!((&problem["cause"], &problem["layer"]), (&cause.into(), &"client".into()), "{answer:?}");
        assert_eq!(answer.field("x-request-id"), problem["request_id"].as_str(), "{answer:?}");
        assert_eq!(client.rest(), "");
    }
    for (path, fields) in [
        ("/api/both", "content-length: 3\r\ntransfer-encoding: chunked"),
        ("/api/two", "content-length: 3\r\ncontent-length: 3"),
        ("/api/list", "content-length: 3, 3"),
        ("/api/coding", "transfer-encoding: gzip, chunked"),
    ] {
        let mut client = world.client();
        let smuggled = "GET /api/smuggled HTTP/1.1\r\nhost: board.prod\r\n\r\n";
        client.send(format!("POST {path} HTTP/1.1\r\nhost: board.prod\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.field("connection")), (400, Some("close")), "{path}: {answer:?}");
        assert_eq!(client.rest(), "", "{path}");
        let line = world.line(path);
        assert_eq!((&line["cause"], &line["method"]), (&"bad_request".into(), &"POST".into()), "{line:#}");
    }
    assert_eq!(world.reached(), reached, "a broken request reached an app");
}

#[test]
fn a_client_that_leaves_is_written_down() {
    let world = World::start();
    let mut client = world.client();
    client.send("POST /hold HTTP/1.1\r\nhost: board.prod\r\ncontent-length: 1\r\n\r\na");
    wait::until("the app to have the request", wait::SOON, || {
        if world.apps.iter().any(|app| app.held() > 0) { Ok(()) } else { Err("not yet") }
    });
    drop(client);
    let line = world.line("/hold");
    assert_eq!((&line["response_flags"], &line["layer"]), (&"DC".into(), &"client".into()), "{line:#}");
    world.apps.iter().for_each(App::release);
}

/// The app reads no more, so nobody reads the client either; that it is gone is seen all the same.
#[test]
fn a_client_that_breaks_off_an_upload_nobody_reads_is_written_down() {
    let world = World::start();
    let client = world.client();
    client.stream.set_nonblocking(true).expect("a socket");
    let length = 256 << 20;
    let mut client = client;
    client.send(format!("POST /hold HTTP/1.1\r\nhost: board.prod\r\nx-upload: 1\r\ncontent-length: {length}\r\n\r\n"));
    let chunk = vec![b'a'; 64 << 10];
    let (mut sent, mut quiet) = (0, std::time::Instant::now());
    while quiet.elapsed() < Duration::from_secs(2) {
        match client.stream.write(&chunk) {
            Ok(count) => (sent, quiet) = (sent + count, std::time::Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < length, "the app reads nothing, so this cannot all be taken");
    setsockopt(&client.stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).expect("a socket");
    drop(client);
    let line = world.line("/hold");
    assert_eq!((&line["response_flags"], &line["layer"]), (&"DC".into(), &"client".into()), "{line:#}");
}

/// The last part of an answer waits in the sidecar for a client that reads slowly.
#[test]
fn a_sidecar_that_stops_hands_out_the_rest_of_its_answers() {
    let world = World::start();
    let mut client = world.client();
    setsockopt(&client.stream, sockopt::RcvBuf, &(64 << 10)).expect("a socket");
    client.send("GET /bytes/9000000 HTTP/1.1\r\nhost: board.prod\r\n\r\n");
    client.head();
    // Until the sidecar has all of it, and the client does not.
    while world.active() > 0 {
        let mut part = vec![0; 8 * 1024];
        client.stream.read_exact(&mut part).expect("more of it");
        client.read.extend_from_slice(&part);
    }
    assert!(client.read.len() < 9_000_000, "nothing is left to be handed out");
    let mut web = world.web;
    let stopping = std::thread::spawn(move || web.stop());
    client.until("the whole body", |read| (read.len() >= 9_000_000).then_some(9_000_000));
    assert_eq!(client.rest(), "");
    assert!(stopping.join().expect("no panic").success());
}

#[test]
fn a_client_that_leaves_in_its_first_word_is_gone() {
    let world = World::start();
    for word in ["", "P", "PR", "PRI", "GET /"] {
        let mut client = world.client();
        client.send(word);
        client.stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
        let said = client.rest(); // to the end, which must come
        assert!(said.is_empty() || word == "PRI", "{word:?}: {said:?}");
    }
}

/// A client may send again what came after the last request that a GOAWAY names (RFC 9113 s.6.8), so that one must come.
#[test]
fn a_sidecar_that_stops_tells_http2_clients_what_it_has_taken() {
    const GOAWAY: u8 = 7;
    const PING: u8 = 6;
    let world = World::start();
    let mut client = world.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let next = |client: &mut Client| {
        let mut head = [0; 9];
        client.stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.stream.read_exact(&mut payload).expect("a whole frame");
        Some((head[3], head[4], payload))
    };
    next(&mut client).expect("the settings of the sidecar");
    let mut web = world.web;
    let (tell, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(web.stop()));
    let mut last_taken = Vec::new();
    while let Some((kind, flags, payload)) = next(&mut client) {
        match kind {
            GOAWAY => last_taken.push(u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]])),
            PING if flags == 0 => {
                let early = stopped.recv_timeout(Duration::from_secs(1));
                assert!(early.is_err(), "the sidecar left a client that had not heard it out: {early:?}");
                client.send([&b"\0\0\x08\x06\x01\0\0\0\0"[..], &payload].concat());
            }
            _ => {}
        }
    }
    assert_eq!(last_taken, [(1 << 31) - 1, 0], "first that it ends, then that nothing was taken");
    assert!(stopped.recv().expect("the sidecar stops").success());
}
