//! A server that is shown bodies (`with_request_body`).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::BufferSettings;
use serde_json::Value;
use weft_tests::app::App;
use weft_tests::{curl, log, wait};

use crate::server::Server;
use crate::subject::{Spec, Subject, envoy, weft};

/// Bytes that the server is shown.
const MOST: u32 = 10;

/// The ways to show a body.
const WAYS: [BufferSettings; 3] = [
    BufferSettings { max_request_bytes: MOST, allow_partial_message: false, pack_as_bytes: false },
    BufferSettings { max_request_bytes: MOST, allow_partial_message: true, pack_as_bytes: false },
    BufferSettings { max_request_bytes: MOST, allow_partial_message: true, pack_as_bytes: true },
];

/// What follows the first line and `host` of a request over HTTP/1.1.
const CALLS: [(&str, &[u8]); 15] = [
    ("short", b"content-length: 5\r\n\r\nhello"),
    ("of no length", b"content-length: 0\r\n\r\n"),
    ("none", b"\r\n"),
    ("none, and the caller claims a part", b"x-envoy-auth-partial-body: true\r\n\r\n"),
    ("short, and the caller claims a part", b"x-envoy-auth-partial-body: true\r\ncontent-length: 5\r\n\r\nhello"),
    ("in chunks, of no length", b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("in chunks", b"transfer-encoding: chunked\r\n\r\n3\r\n012\r\n3\r\n345\r\n0\r\n\r\n"),
    ("as long as may be", b"content-length: 10\r\n\r\n0123456789"),
    ("in chunks, as long as may be", b"transfer-encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"),
    ("longer by one", b"content-length: 11\r\n\r\n0123456789a"),
    ("in chunks, too long", b"transfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n7\r\n89abcde\r\n0\r\n\r\n"),
    ("no UTF-8", b"content-length: 6\r\n\r\na\xff\xfeb\xc3("),
    ("cut within a letter", b"content-length: 13\r\n\r\n01234567\xe2\x82\xac89"),
    ("of gRPC", b"content-type: application/grpc\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02ab"),
    ("of gRPC, too long", b"content-type: application/grpc\r\ncontent-length: 17\r\n\r\n\0\0\0\0\x0cabcdefabcdef"),
];

/// Over HTTP/2, in one frame that ends the stream.
const OVER_H2: [usize; 3] = [5, 10, 100_000];

/// What the caller, the server and the log were told.
#[derive(Debug, PartialEq)]
struct Outcome {
    call: String,
    status: u16,
    grpc_status: Option<String>,
    body: String,
    asked: Vec<Value>,
    log: [Value; 3],
}

/// Sends the bytes, and gives the answer.
fn send(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = open(at);
    stream.write_all(bytes).unwrap();
    rest(&mut stream)
}

fn open(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A proxy that has answered may hang up on what it does not read.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(id: &str, method: &str) -> Vec<u8> {
    format!("{method} /count HTTP/1.1\r\nhost: board.prod\r\nx-request-id: {id}\r\n").into_bytes()
}

fn line(subject: &Subject, id: &str) -> [Value; 3] {
    let log = subject.folder.path().join("access.json");
    let line = log::wait_line(&log, &format!("the line of {id}"), |line| line["request_id"] == *id);
    ["response_code", "response_flags", "response_code_details"].map(|key| line[key].clone())
}

/// Of all calls, and those over HTTP/2 of at most `most` bytes.
fn outcomes(subject: &Subject, server: &Server, most: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (number, (call, bytes)) in CALLS.iter().enumerate() {
        let id = format!("{}-{number}", subject.name);
        // The answer ends with the connection.
        let answer = send(subject.at, &[&head(&id, "POST"), &b"connection: close\r\n"[..], bytes].concat());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let grpc_status = head.lines().find_map(|line| line.strip_prefix("grpc-status: ")).map(str::to_owned);
        // What the two say of a refusal has words of their own.
        let body = if status < 400 { body.to_owned() } else { String::new() };
        let asked = server.take();
        outcomes.push(Outcome { call: call.to_string(), status, grpc_status, body, asked, log: line(subject, &id) });
    }
    for length in OVER_H2.into_iter().filter(|length| *length <= most) {
        let id = format!("{}-h2-{length}", subject.name);
        let (id_header, data) = (format!("x-request-id: {id}"), "x".repeat(length));
        let args = ["--http2-prior-knowledge", "-H", &id_header, "-d", &data];
        let reply = curl::get(subject.at, "board.prod", "/count", &args);
        let asked = server.take();
        let (call, log) = (format!("{length} bytes over HTTP/2"), line(subject, &id));
        outcomes.push(Outcome { call, status: reply.status, grpc_status: None, body: reply.body, asked, log });
    }
    outcomes
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_show_the_same_of_a_body() {
    let server = Server::default();
    let authz = server.start().await;
    let app = blocking(|| App::start("v1")).await;
    for body in WAYS {
        let spec = Spec { app: app.address(), authz, rest: "timeout: 5s", body: Some(body) };
        // Those that are too long are tried on ours alone, below.
        let most = if body.allow_partial_message { usize::MAX } else { MOST as usize };
        let of = |subject: Subject| {
            let server = server.clone();
            blocking(move || outcomes(&subject, &server, most))
        };
        let ours = of(weft(&spec).await).await;
        let theirs = of(envoy(&spec)).await;
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{body:?}: {}, weft beside envoy", ours.call);
        }
        let refused = ours.iter().filter(|one| one.log[2] == "request_payload_too_large").count();
        assert_eq!(refused, if body.allow_partial_message { 0 } else { 4 });
    }
}

/// What is ours alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_must_see_all_of_a_body_is_not_deceived() {
    let server = Server::default();
    let authz = server.start().await;
    let app = blocking(|| App::start("v1")).await;
    let spec = Spec { app: app.address(), authz, rest: "timeout: 5s", body: Some(WAYS[0]) };
    let subject = weft(&spec).await;
    blocking(move || {
        // In one frame that ends the stream.
        let reply = curl::get(
            subject.at,
            "board.prod",
            "/count",
            &["--http2-prior-knowledge", "-H", "content-length:", "-d", "0123456789a"],
        );
        assert_eq!((reply.status, reply.json()["cause"].as_str()), (413, Some("body_too_large")));
        // By its length alone: the caller need not send it.
        let answer = send(subject.at, &[&head("early", "POST"), &b"content-length: 99\r\n\r\n"[..]].concat());
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        // Broken off, and framed wrongly.
        let mut stream = open(subject.at);
        stream.write_all(&[&head("gone", "POST"), &b"content-length: 5\r\n\r\nhe"[..]].concat()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        assert_eq!(line(&subject, "gone")[1], "DC");
        let bytes = [&head("odd", "POST"), &b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\nx\r\n"[..]].concat();
        let answer = send(subject.at, &bytes);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(server.take(), Vec::<Value>::new());
        assert_eq!(app.requests(), 0);

        // An upgrade has no body: it is asked about at once.
        let upgrade = b"connection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let mut stream = open(subject.at);
        stream.write_all(&[&head("upgrade", "GET"), &upgrade[..]].concat()).unwrap();
        wait::until("the server to be asked", wait::SOON, || server.is_asked().then_some(()).ok_or("not yet"));
        assert_eq!(server.take()[0]["headers"]["x-envoy-auth-partial-body"], Value::Null);

        // A caller that waits for leave gets it: Envoy, which leaves it to the app, waits with it.
        let mut stream = open(subject.at);
        let expecting = b"connection: close\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        stream.write_all(&[&head("waits", "POST"), &expecting[..]].concat()).unwrap();
        let mut leave = [0; 25];
        stream.read_exact(&mut leave).unwrap();
        assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").unwrap();
        let answer = rest(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("5 532"), "{answer}");
        assert_eq!(server.take()[0]["body"], "hello");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_the_bound_streams() {
    const LONG: usize = 1 << 20;
    let server = Server::default();
    let authz = server.start().await;
    let app = blocking(|| App::start("v1")).await;
    let spec = Spec { app: app.address(), authz, rest: "timeout: 5s", body: Some(WAYS[1]) };
    let subject = weft(&spec).await;
    let most = BufferSettings { max_request_bytes: 2 * LONG as u32, ..WAYS[0] };
    let whole = weft(&Spec { body: Some(most), ..spec }).await;
    blocking(move || {
        let framing = format!("connection: close\r\ncontent-length: {LONG}\r\n\r\n");
        // The server is asked when the bound is reached, and does not know whether that is all.
        let mut stream = open(subject.at);
        stream.write_all(&[&head("slow", "POST"), framing.as_bytes(), b"0123456789"].concat()).unwrap();
        wait::until("the server to be asked", wait::SOON, || server.is_asked().then_some(()).ok_or("not yet"));
        let asked = server.take();
        assert_eq!(
            (&asked[0]["body"], &asked[0]["headers"]["x-envoy-auth-partial-body"]),
            (&"0123456789".into(), &"true".into())
        );
        stream.write_all(&vec![b'x'; LONG - 10]).unwrap();
        let answer = rest(&mut stream);
        let sum = 525 + (LONG as u64 - 10) * u64::from(b'x');
        assert!(answer.ends_with(&format!("{LONG} {sum}")), "{answer}");

        // One that is kept whole arrives whole, and so do its trailers.
        let bytes = [&head("whole", "POST"), framing.as_bytes(), &vec![b'x'; LONG]].concat();
        let answer = send(whole.at, &bytes);
        assert!(answer.ends_with(&format!("{LONG} {}", LONG as u64 * u64::from(b'x'))), "{answer}");
        assert_eq!(server.take()[0]["body"].as_str().map(str::len), Some(LONG));
        let chunked = b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\nx-t: 1\r\n\r\n";
        let answer = send(whole.at, &[&head("trailer", "POST"), &chunked[..]].concat());
        assert!(answer.ends_with("5 250 x-t"), "{answer}");
    })
    .await;
}
