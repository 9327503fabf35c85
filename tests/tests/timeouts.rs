//! What a route's timeout counts, and what it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, log, ports, wait};

/// The route's.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The same, less what Envoy's clock of whole milliseconds may be early.
const AT_LEAST: Duration = Duration::from_millis(1_990);

/// An app that reads a whole request, and answers by the path: `/api/work/MS` after so many milliseconds, in two parts.
#[derive(Debug)]
struct App {
    address: SocketAddr,
    /// Whether the endless answer came to an end.
    broken: Arc<AtomicBool>,
}

impl App {
    fn start() -> Self {
        let app = Self { address: ports::free(), broken: Arc::default() };
        let listener = TcpListener::bind(app.address).expect("the port is free");
        let broken = app.broken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let broken = broken.clone();
                std::thread::spawn(move || serve(stream, &broken));
            }
        });
        app
    }
}

fn serve(mut stream: TcpStream, broken: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        loop {
            let mut field = String::new();
            if reader.read_line(&mut field)? <= 2 {
                break;
            }
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let work = |ms: &str| std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
        match path.strip_prefix("/api/").and_then(|path| path.split_once('/')) {
            Some(("work", ms)) => {
                std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
                work(ms);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")?;
                work("150");
                stream.write_all(b"0123456789")?;
            }
            Some(("head", ms)) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234")?;
                work(ms);
                stream.write_all(b"56789")?;
            }
            Some(("endless", _)) => {
                let ended = endless(&mut stream);
                broken.store(true, Ordering::Relaxed);
                return ended;
            }
            Some(("silent", _)) => return std::io::copy(&mut reader, &mut std::io::sink()).map(drop),
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?,
        }
    }
}

fn endless(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    loop {
        stream.write_all(&[b'e'; 64 << 10])?;
    }
}

struct World {
    web: Sidecar,
    board: Sidecar,
    app: App,
    _mesh: Mesh,
}

impl World {
    fn start(data_plane: DataPlane) -> Self {
        let mesh = Mesh::start_with(|repo| {
            repo.replace("services/board.yaml", "subset: v1, weight: 80}, {subset: v2, weight: 20", "subset: v1");
            repo.replace("services/board.yaml", "request: 60s", "request: 2s");
        });
        let app = App::start();
        let board = mesh.sidecar("board", Spec::new("prod/board", app.address).label("version", "v1").on(data_plane));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
        wait::until("the app to answer", wait::SOON, || {
            let reply = curl::get(web.egress, "board.prod", "/api/", &[]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        Self { web, board, app, _mesh: mesh }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.web.egress).expect("the egress accepts");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket has a timeout");
        stream
    }

    /// Sends a body evenly over `sending`, and gives the whole answer and how long it took after the last byte.
    fn upload(&self, path: &str, sending: Duration) -> (String, Duration) {
        const PARTS: u32 = 10;
        let mut stream = self.connect();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: board.prod\r\nconnection: close\r\ncontent-length: {PARTS}\r\n\r\n"
        )
        .expect("the head is taken");
        for _ in 0..PARTS {
            std::thread::sleep(sending / PARTS);
            stream.write_all(b"x").expect("the body is taken");
        }
        let sent = Instant::now();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (String::from_utf8_lossy(&answer).into_owned(), sent.elapsed())
    }
}

/// The client sends slower, or the app works longer, than a timeout that counted from the first byte would allow.
fn the_time_counts_from_the_end_of_the_request(data_plane: DataPlane) {
    let world = World::start(data_plane);
    for (sending, work) in [(2500, 0), (1700, 800), (3600, 800)] {
        let (answer, _) = world.upload(&format!("/api/work/{work}"), Duration::from_millis(sending));
        assert!(answer.starts_with("HTTP/1.1 200"), "{sending} ms and {work} ms of work: {answer}");
        assert!(answer.ends_with("0123456789"), "{sending} ms and {work} ms of work: {answer}");
    }
    let (answer, waited) = world.upload("/api/work/9000", Duration::from_millis(500));
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(waited >= TIMEOUT - Duration::from_millis(200) && waited < TIMEOUT * 3, "504 after {waited:?}");
}

#[test]
fn the_time_counts_from_the_end_of_the_request_weft() {
    the_time_counts_from_the_end_of_the_request(DataPlane::Weft);
}

#[test]
fn the_time_counts_from_the_end_of_the_request_envoy() {
    the_time_counts_from_the_end_of_the_request(DataPlane::Envoy);
}

/// A late end of an answer that has begun is a break, which no client takes for the whole.
fn a_begun_answer_is_broken_off_in_time(data_plane: DataPlane) {
    let world = World::start(data_plane);
    let began = Instant::now();
    let reply = curl::get(world.web.egress, "board.prod", "/api/head/9000", &[]);
    let took = began.elapsed();
    assert_eq!((reply.status, &*reply.body), (200, "01234"), "{reply:?}");
    assert!(!reply.error.is_empty(), "curl took a part for the whole: {reply:?}");
    assert!(took >= AT_LEAST && took < TIMEOUT * 3, "broken off after {took:?}");
}

#[test]
fn a_begun_answer_is_broken_off_in_time_weft() {
    a_begun_answer_is_broken_off_in_time(DataPlane::Weft);
}

#[test]
fn a_begun_answer_is_broken_off_in_time_envoy() {
    a_begun_answer_is_broken_off_in_time(DataPlane::Envoy);
}

/// A client that takes nothing frees the app when the route's time is up.
fn an_answer_that_nobody_takes_ends(data_plane: DataPlane) {
    let world = World::start(data_plane);
    let mut stream = world.connect();
    stream.write_all(b"GET /api/endless/ HTTP/1.1\r\nhost: board.prod\r\n\r\n").expect("the head is taken");
    wait::until("the app's answer to be broken off", TIMEOUT + wait::SOON, || {
        if world.app.broken.load(Ordering::Relaxed) { Ok(()) } else { Err("it goes on") }
    });
    if data_plane == DataPlane::Weft {
        let line = log::wait_line(&world.web.access_log, "the caller's line", |line| line["path"] == "/api/endless/");
        assert_eq!((&line["response_flags"], &line["cause"]), (&"UT".into(), &"request_timeout".into()), "{line:#}");
        log::wait_line(&world.board.access_log, "the callee's line", |line| line["path"] == "/api/endless/");
    }
    drop(stream);
}

#[test]
fn an_answer_that_nobody_takes_ends_weft() {
    an_answer_that_nobody_takes_ends(DataPlane::Weft);
}

#[test]
fn an_answer_that_nobody_takes_ends_envoy() {
    an_answer_that_nobody_takes_ends(DataPlane::Envoy);
}

/// The opening of a WebSocket has the route's time.
fn a_websocket_that_is_never_opened_is_504(data_plane: DataPlane) {
    let world = World::start(data_plane);
    let mut stream = world.connect();
    let began = Instant::now();
    stream
        .write_all(
            b"GET /api/silent/ HTTP/1.1\r\nhost: board.prod\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n",
        )
        .expect("the head is taken");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer comes");
    let took = began.elapsed();
    assert_eq!(&head, b"HTTP/1.1 504", "{}", String::from_utf8_lossy(&head));
    assert!(took >= AT_LEAST && took < TIMEOUT * 3, "after {took:?}");
}

#[test]
fn a_websocket_that_is_never_opened_is_504_weft() {
    a_websocket_that_is_never_opened_is_504(DataPlane::Weft);
}

#[test]
fn a_websocket_that_is_never_opened_is_504_envoy() {
    a_websocket_that_is_never_opened_is_504(DataPlane::Envoy);
}
