//! Apps that speak HTTP/1.1 in their own ways, behind our sidecar.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{Sidecar, Spec};
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
            "/api/hints" => stream.write_all(
                b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )?,
            "/api/short" => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"),
            "/api/garbage" => return stream.write_all(b"220 mail.example.com ESMTP\r\n"),
            "/api/two-lengths" => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab");
            }
            "/api/nothing" => return Ok(()),
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

struct World {
    callee: Sidecar,
    web: Sidecar,
    _mesh: Mesh,
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start();
        let callee = mesh.sidecar("board", Spec::new("prod/board", start()).label("version", "v1"));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
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
        for (path, body) in
            [("/api/plain", "plain"), ("/api/fickle", "fickle"), ("/api/old", "until the end"), ("/api/hints", "ok")]
        {
            let reply = world.get(path);
            assert_eq!((reply.status, &*reply.body), (200, body), "{path}: {reply:?}");
        }
    }
}

#[test]
fn a_broken_answer_is_the_apps_fault() {
    let world = World::start();
    for (path, status, flag) in
        [("/api/garbage", 502, "UPE"), ("/api/two-lengths", 502, "UPE"), ("/api/nothing", 503, "UC")]
    {
        let reply = world.get(path);
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        let line = wait::until("the line of the call", wait::SOON, || {
            let lines = log::json_lines(&world.callee.access_log);
            lines.into_iter().find(|line| line["path"] == path).ok_or("no such line")
        });
        assert_eq!(line["response_flags"], flag, "{line:#}");
    }
    let reply = world.get("/api/short");
    let told = !reply.error.is_empty() || reply.status == 503;
    assert!(told, "an answer that breaks off is not passed off as a whole one: {reply:?}");
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
