//! Apps that speak HTTP/1.1 in their own ways, behind our sidecar.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, log, ports, wait};

const LARGE: usize = 16 << 20;

/// An app that answers by the path, in bytes that are written here and by nobody's library.
fn start() -> SocketAddr {
    let address = ports::free();
    let listener = TcpListener::bind(address).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
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
        match line.split(' ').nth(1).unwrap_or_default() {
            "/api/plain" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain")?,
            // Keeps the connection, says so, and closes it all the same.
            "/api/fickle" => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nfickle"),
            "/api/old" => return stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"),
            "/api/hints" => {
                let hint = |link| format!("HTTP/1.1 103 Early Hints\r\nlink: {link}\r\n\r\n");
                write!(stream, "{}{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", hint("</a>"), hint("</b>"))?;
            }
            "/api/short" => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"),
            "/api/cut" => {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the")?;
                reader.read_line(&mut line)?; // the caller's body ends when the caller has read this
                return reset(&stream);
            }
            "/api/garbage" => return stream.write_all(b"220 mail.example.com ESMTP\r\n"),
            "/api/two-lengths" => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab");
            }
            "/api/bare" => stream.write_all(b"HTTP/1.1 200 OK\ncontent-length: 4\n\nbare")?,
            "/api/mixed" => return stream
                .write_all(b"HTTP/1.1 200 OK\r\nx-name: a\nx-evil: 1\r\ncontent-length: 2\r\n\r\nab"),
            "/api/extension" => {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                return write!(stream, "{head}2;\nxx\r\nab\r\n0\r\n\r\n");
            }
            "/api/trailers" => {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                return write!(stream, "{head}2\r\nab\r\n0\r\nx-name: a\nx-evil: 1\r\n\r\n");
            }
            "/api/nothing" => return Ok(()),
            "/api/ws-401" => stream
                .write_all(b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno")?,
            "/api/ws-426" => stream.write_all(
                b"HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: other\r\ntransfer-encoding: chunked\r\n\r\n\
                  2\r\nno\r\n0\r\n\r\n",
            )?,
            "/api/ws-200" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")?,
            // Opens, sends what it gets back once, and breaks off.
            "/api/ws" => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")?;
                let mut bytes = [0; 5];
                reader.read_exact(&mut bytes)?;
                stream.write_all(&bytes)?;
                reader.read_exact(&mut bytes)?;
                return reset(&stream);
            }
            "/api/first" => {
                // Answers at length before it reads.
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")?;
                let writer = stream.try_clone()?;
                let answer = std::thread::spawn(move || (&writer).write_all(&vec![b'a'; LARGE]));
                std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
                answer.join().expect("no panic")?;
            }
            _ => return Ok(()),
        }
    }
}

/// Its end is to be a break.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    let hard = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(stream, sockopt::Linger, &hard)?)
}

struct World {
    callee: Sidecar,
    web: Sidecar,
    _mesh: Mesh,
}

impl World {
    fn start() -> Self {
        Self::start_on(DataPlane::Weft, DataPlane::Weft)
    }

    fn start_on(caller: DataPlane, callee: DataPlane) -> Self {
        let mesh = Mesh::start();
        let callee = mesh.sidecar("board", Spec::new("prod/board", start()).label("version", "v1").on(callee));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
        let world = Self { callee, web, _mesh: mesh };
        // A share of the calls goes to v2, which nobody is.
        wait::until("the app to answer", wait::SOON, || {
            let reply = world.get("/api/plain");
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        world
    }

    /// To v1, whatever the weights are.
    fn get(&self, path: &str) -> curl::Reply {
        for _ in 0..50 {
            let reply = curl::get(self.web.egress, "board.prod", path, &[]);
            if !reply.body.contains("no_endpoint") {
                return reply;
            }
        }
        panic!("no call went to v1");
    }
}

#[test]
fn answers_end_where_the_app_says() {
    let world = World::start();
    for _ in 0..5 {
        for (path, body) in [
            ("/api/plain", "plain"),
            ("/api/fickle", "fickle"),
            ("/api/old", "until the end"),
            ("/api/hints", "ok"),
            ("/api/bare", "bare"),
        ] {
            let reply = world.get(path);
            assert_eq!((reply.status, &*reply.body), (200, body), "{path}: {reply:?}");
        }
    }
}

/// Envoy lets one head pass before an answer, and drops the others.
#[test]
fn hints_reach_the_caller() {
    use DataPlane::{Envoy, Weft};
    for (caller, callee, hints) in [(Weft, Weft, 2), (Weft, Envoy, 1), (Envoy, Weft, 1)] {
        let world = World::start_on(caller, callee);
        let told = (0..50).find_map(|_| {
            let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
            stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
            write!(stream, "GET /api/hints HTTP/1.1\r\nhost: board.prod\r\nconnection: close\r\n\r\n")
                .expect("it is taken");
            let mut told = String::new();
            stream.read_to_string(&mut told).expect("an answer and an end");
            (!told.starts_with("HTTP/1.1 503")).then_some(told) // to v2, which nobody is
        });
        let told = told.expect("a call to v1");
        let links: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("link: ")).collect();
        assert_eq!(links, ["</a>", "</b>"][..hints], "{caller:?} {callee:?}: {told}");
        assert_eq!(told.matches("HTTP/1.1 103 ").count(), hints, "{caller:?} {callee:?}: {told}");
        assert!(told.contains("\r\n\r\nHTTP/1.1 200 OK\r\n") && told.ends_with("ok"), "{caller:?} {callee:?}: {told}");
    }
}

#[test]
fn a_broken_answer_is_the_apps_fault() {
    let world = World::start();
    let line = |path: &str| {
        wait::until("the line of the call", wait::SOON, || {
            let lines = log::json_lines(&world.callee.access_log);
            lines.into_iter().find(|line| line["path"] == path).ok_or("no such line")
        })
    };
    for (path, status, flag) in [
        ("/api/garbage", 502, "UPE"),
        ("/api/two-lengths", 502, "UPE"),
        ("/api/mixed", 502, "UPE"),
        ("/api/nothing", 503, "UC"),
    ] {
        let reply = world.get(path);
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        let line = line(path);
        assert_eq!((&line["response_flags"], &line["layer"]), (&flag.into(), &"app".into()), "{line:#}");
    }
    for (path, flag) in [("/api/short", "UC"), ("/api/extension", "UPE"), ("/api/trailers", "UPE")] {
        let reply = world.get(path);
        let told = !reply.error.is_empty() || reply.status >= 500;
        assert!(told, "{path}: an answer that breaks off is not passed off as a whole one: {reply:?}");
        assert_eq!(line(path)["response_flags"], flag, "{path}: {:#}", line(path));
    }
}

/// An answer without a length ends with the connection: a connection that broke must not look like one that ended.
#[test]
fn an_answer_until_the_end_that_breaks_off_has_no_end() {
    let world = World::start();
    let broken = (0..50).find_map(|_| {
        let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
        stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
        stream
            .write_all(b"POST /api/cut HTTP/1.0\r\nhost: board.prod\r\ncontent-length: 1\r\n\r\n")
            .expect("it is taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"until the") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?; // an answer of the mesh, for v2, which nobody is
            answer.push(byte[0]);
        }
        stream.write_all(b"\n").expect("it is taken");
        Some(stream.read_to_end(&mut answer).map_err(|error| error.kind()))
    });
    assert_eq!(broken, Some(Err(ErrorKind::ConnectionReset)));
}

/// A caller may read only after it has sent everything, and an app may answer before it has read: nobody waits for the other.
#[test]
fn an_answer_before_the_request_is_read_blocks_nobody() {
    let world = World::start();
    let answered = (0..50).any(|_| {
        let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        write!(
            stream,
            "POST /api/first HTTP/1.1\r\nhost: board.prod\r\nconnection: close\r\ncontent-length: {LARGE}\r\n\r\n"
        )
        .expect("the head is taken");
        let sent = stream.write_all(&vec![b'b'; LARGE]);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer[..answer.len().min(400)]).into_owned();
        if text.contains("no_endpoint") {
            return false; // to v2, which nobody is
        }
        sent.expect("everything is taken");
        read.expect("everything is answered");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(answer.len() > LARGE, "{} bytes", answer.len());
        true
    });
    assert!(answered, "no call went to v1");
}

/// Sends an upgrade to v1, whatever the weights are, and gives the connection with the head of the answer.
fn upgrade(world: &World, path: &str, fields: &str) -> (TcpStream, String) {
    for _ in 0..50 {
        let mut stream = TcpStream::connect(world.web.egress).expect("the egress listens");
        stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: board.prod\r\nconnection: upgrade\r\nupgrade: websocket\r\n{fields}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("the head is taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).expect("text");
        if !answer.starts_with("HTTP/1.1 503") {
            return (stream, answer);
        }
    }
    panic!("no call went to v1");
}

#[test]
fn an_app_that_takes_no_websocket_is_heard() {
    let world = World::start();
    // A success would open the stream between the sidecars, which nobody wants here.
    for (path, status) in [("/api/ws-401", 401), ("/api/ws-426", 426), ("/api/ws-200", 502)] {
        let (_, answer) = upgrade(&world, path, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[test]
fn an_app_that_breaks_off_a_websocket_is_the_one_at_fault() {
    let world = World::start();
    let (mut stream, answer) = upgrade(&world, "/api/ws", "content-length: 0\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mut bytes = [0; 5];
    stream.write_all(b"hello").expect("an open tunnel");
    stream.read_exact(&mut bytes).expect("an echo");
    assert_eq!(&bytes, b"hello");
    stream.write_all(b"again").expect("an open tunnel");
    stream.read_to_end(&mut Vec::new()).ok();
    let line = wait::until("the line of the tunnel", wait::SOON, || {
        let lines = log::json_lines(&world.callee.access_log);
        lines.into_iter().find(|line| line["path"] == "/api/ws").ok_or("no such line")
    });
    let told = (&line["response_code"], &line["response_flags"], &line["layer"]);
    assert_eq!(told, (&101.into(), &"UC".into(), &"app".into()), "{line:#}");
}
