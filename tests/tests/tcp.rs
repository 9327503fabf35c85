//! How connections that are bytes end: what either app does reaches the other as what it is, and the log and the metrics say what
//! moved and who broke off.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{curl, log, ports, wait};

const MILLION: usize = 1_000_000;

/// A caller, an app that the test itself is, and their sidecars.
struct World {
    web: Sidecar,
    callee: Sidecar,
    listener: TcpListener,
    /// What a caller sends to get its way, and what the app answers to that.
    opening: (&'static str, &'static str),
    _mesh: Mesh,
}

impl World {
    /// A TCP service.
    fn tcp(caller: DataPlane, callee: DataPlane) -> Self {
        Self::start("prod/db", ("CONNECT db.prod:5432 HTTP/1.1\r\nhost: db.prod:5432\r\n\r\n", ""), caller, callee)
    }

    /// An HTTP service that opens WebSockets.
    fn websocket() -> Self {
        let asked = "GET /ws HTTP/1.1\r\nhost: chat.prod\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        Self::start("prod/chat", (asked, answer), Weft, Weft)
    }

    fn start(service: &str, opening: (&'static str, &'static str), caller: DataPlane, callee: DataPlane) -> Self {
        let mesh = Mesh::start();
        let address = ports::free();
        let listener = TcpListener::bind(address).expect("the port is free");
        let callee = mesh.sidecar("callee", Spec::new(service, address).on(callee));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
        mesh.wait_endpoints(service, 1);
        let world = Self { web, callee, listener, opening, _mesh: mesh };
        wait::until("the way to the app", wait::SOON, || {
            let (_, head) = ask(world.web.egress, &opening.0.replace("/ws", "/no"));
            if [" 200 ", " 403 "].iter().any(|status| head.contains(status)) { Ok(()) } else { Err(head) }
        });
        world
    }

    /// A connection of which both ends are ours: the caller has said 5 bytes, which the app has read.
    fn open(&self) -> (TcpStream, TcpStream) {
        let egress = self.web.egress;
        let asked = self.opening.0;
        let caller = std::thread::spawn(move || {
            let (mut caller, head) = ask(egress, asked);
            assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 101"), "{head}");
            caller.write_all(b"hello").expect("the way is open");
            caller
        });
        let app = self.accept();
        (caller.join().expect("the caller gets its way"), app)
    }

    /// The app's end of the next connection that says hello.
    fn accept(&self) -> TcpStream {
        loop {
            let (mut app, _) = self.listener.accept().expect("the sidecar connects");
            app.set_read_timeout(Some(wait::SOON)).expect("a timeout");
            let opened = self.opening.1.is_empty() || {
                head(&mut app).is_ok() && app.write_all(self.opening.1.as_bytes()).is_ok()
            };
            let mut bytes = [0; 5];
            // Not one of those that only looked whether there is a way.
            if opened && app.read_exact(&mut bytes).is_ok() {
                assert_eq!(&bytes, b"hello");
                return app;
            }
        }
    }

    /// The line at each hop of the connection on which the caller said so many bytes.
    fn lines(&self, received: usize) -> [Value; 2] {
        [&self.web, &self.callee].map(|sidecar| {
            wait::until(&format!("the line in {}", sidecar.access_log.display()), wait::SOON, || {
                let lines = log::json_lines(&sidecar.access_log);
                lines.into_iter().find(|line| line["bytes_received"] == received).ok_or("no such line")
            })
        })
    }
}

/// Asks the egress for a way.
fn ask(egress: SocketAddr, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(egress).expect("the egress listens");
    stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("the egress reads");
    let head = head(&mut stream).expect("an answer");
    (stream, head)
}

fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn exact(stream: &mut TcpStream, length: usize) {
    stream.read_exact(&mut vec![0; length]).expect("so many bytes");
}

/// Ends a connection as one does who is not done.
fn reset(stream: TcpStream) {
    let hard = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &hard).expect("a socket has the option");
}

/// All that still comes, and how it ends.
fn rest(stream: &mut TcpStream) -> (usize, Result<(), ErrorKind>) {
    let (mut count, mut buffer) = (0, [0; 16 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (count, Ok(())),
            Ok(length) => count += length,
            Err(error) => return (count, Err(error.kind())),
        }
    }
}

const BROKEN: Result<(), ErrorKind> = Err(ErrorKind::ConnectionReset);

/// The caller says 1 byte more and is told 4, then breaks off: what the app sees.
fn caller_breaks(world: &World) -> (usize, Result<(), ErrorKind>) {
    let (mut caller, mut app) = world.open();
    caller.write_all(b"1").expect("it is open");
    exact(&mut app, 1);
    app.write_all(b"back").expect("it is open");
    exact(&mut caller, 4);
    reset(caller);
    rest(&mut app)
}

/// The caller says 2 bytes more and is told 4, then the app breaks off: what the caller sees.
fn app_breaks(world: &World) -> (usize, Result<(), ErrorKind>) {
    let (mut caller, mut app) = world.open();
    caller.write_all(b"12").expect("it is open");
    exact(&mut app, 2);
    app.write_all(b"back").expect("it is open");
    exact(&mut caller, 4);
    reset(app);
    rest(&mut caller)
}

/// What a line says of the end, and of the bytes that the caller was told.
fn told(line: &Value) -> (&str, &str, &str, u64) {
    let text = |key: &str| line[key].as_str().unwrap_or("null");
    (text("response_flags"), text("layer"), text("response_code_details"), line["bytes_sent"].as_u64().unwrap_or(0))
}

const CUT: &str = "upstream_reset_after_response_started{connection_termination}";

#[test]
fn a_reset_arrives_as_one_and_the_log_says_whose_it_was() {
    let world = World::tcp(Weft, Weft);
    assert_eq!(caller_breaks(&world), (0, BROKEN));
    let [egress, ingress] = world.lines(6);
    assert_eq!(told(&egress), ("DC", "client", "downstream_remote_disconnect", 4), "{egress:#}");
    assert_eq!(told(&ingress), ("DC", "client", "null", 4), "{ingress:#}");
    assert_eq!(app_breaks(&world), (0, BROKEN));
    let [egress, ingress] = world.lines(7);
    assert_eq!(told(&egress), ("UC", "network", CUT, 4), "{egress:#}");
    assert_eq!(egress["upstream_transport_failure_reason"], "the connection was reset", "{egress:#}");
    assert_eq!(told(&ingress), ("UC", "app", "null", 4), "{ingress:#}");
}

#[test]
fn a_websocket_that_breaks_off_is_not_one_that_ends() {
    let world = World::websocket();
    assert_eq!(caller_breaks(&world), (0, BROKEN));
    let [egress, ingress] = world.lines(6);
    assert_eq!(told(&egress), ("DC", "client", "downstream_remote_disconnect", 4), "{egress:#}");
    assert_eq!(told(&ingress), ("DC", "client", "downstream_remote_disconnect", 4), "{ingress:#}");
    assert_eq!(app_breaks(&world), (0, BROKEN));
    let [egress, ingress] = world.lines(7);
    assert_eq!(told(&egress), ("UC", "network", CUT, 4), "{egress:#}");
    assert_eq!(told(&ingress), ("UC", "app", CUT, 4), "{ingress:#}");
}

/// The caller ends after 3 bytes more, and is told a million after that.
fn caller_ends_first(world: &World) -> usize {
    let (mut caller, mut app) = world.open();
    caller.write_all(b"123").expect("it is open");
    caller.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(rest(&mut app), (3, Ok(())));
    let answer = std::thread::spawn(move || app.write_all(&vec![b'a'; MILLION]));
    let (count, end) = rest(&mut caller);
    assert_eq!(end, Ok(()));
    let _ = answer.join().expect("no panic");
    count
}

/// The app ends after a million bytes, and is told 4 bytes after that.
fn app_ends_first(world: &World) -> usize {
    let (mut caller, mut app) = world.open();
    let saying = std::thread::spawn(move || {
        app.write_all(&vec![b'a'; MILLION]).expect("it is open");
        app.shutdown(Shutdown::Write).expect("it is open");
        app
    });
    assert_eq!(rest(&mut caller), (MILLION, Ok(())));
    let mut app = saying.join().expect("all is taken");
    caller.write_all(b"1234").expect("the socket is open");
    drop(caller);
    rest(&mut app).0
}

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    let world = World::tcp(Weft, Weft);
    assert_eq!(caller_ends_first(&world), MILLION);
    assert_eq!(app_ends_first(&world), 4);
    for received in [8, 9] {
        for line in world.lines(received) {
            assert_eq!((told(&line).0, told(&line).3), ("-", MILLION as u64), "{line:#}");
        }
    }
}

#[test]
fn a_sidecar_that_is_killed_breaks_what_it_carried() {
    let mut world = World::tcp(Weft, Weft);
    let (_caller, mut app) = world.open();
    world.web.kill();
    assert_eq!(rest(&mut app), (0, BROKEN), "the caller's sidecar is gone");
    world.web.restart();
    let (mut caller, _app) = world.open();
    world.callee.kill();
    assert_eq!(rest(&mut caller), (0, BROKEN), "the app's sidecar is gone");
}

/// What the app says before it breaks off, and as what the caller sees that; then what the app sees of a caller's break.
#[allow(clippy::type_complexity)]
fn breaks_over_http2(world: &World) -> ((Vec<u8>, Option<h2::Reason>), (usize, Result<(), ErrorKind>)) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let open = || {
        let sending = runtime.block_on(connect_h2(world.web.egress));
        (sending, world.accept())
    };
    let ((_send, mut receive), mut app) = open();
    app.write_all(b"back").expect("it is open");
    let mut said = runtime.block_on(receive.data()).expect("no end").expect("it is open").to_vec();
    reset(app);
    let broken = runtime.block_on(async {
        loop {
            match receive.data().await {
                Some(Ok(data)) => said.extend_from_slice(&data),
                Some(Err(error)) => return (said, error.reason()),
                None => return (said, None),
            }
        }
    });
    let ((mut send, _receive), mut app) = open();
    send.send_reset(h2::Reason::CANCEL);
    (broken, rest(&mut app))
}

#[test]
fn over_http2_a_break_is_a_stream_error_of_connect() {
    let world = World::tcp(Weft, Weft);
    let (caller, app) = breaks_over_http2(&world);
    assert_eq!(caller, (b"back".to_vec(), Some(h2::Reason::CONNECT_ERROR)));
    assert_eq!(app, (0, BROKEN));
}

/// What `docs/reference/compile.md` says of Envoy, which may become better but not worse.
#[test]
fn envoy_passes_resets_on_at_the_ingress() {
    let world = World::tcp(Weft, Envoy);
    assert_eq!(caller_breaks(&world), (0, BROKEN));
    assert_eq!(app_breaks(&world), (0, BROKEN));
    assert_eq!(caller_ends_first(&world), MILLION);
    assert_eq!(app_ends_first(&world), 4);
    let flags = [6, 7].map(|received| world.lines(received).map(|line| told(&line).0.to_owned()));
    assert_eq!(flags, [["DC", "-"], ["UC", "UR"]], "at the egress and at the ingress");
}

/// The same, where Envoy does not do what it should.
#[test]
fn envoy_makes_ends_of_resets_at_the_egress() {
    let world = World::tcp(Envoy, Weft);
    assert_eq!(caller_breaks(&world), (0, Ok(())));
    assert_eq!(app_breaks(&world), (0, Ok(())));
    let flags = [6, 7].map(|received| world.lines(received).map(|line| told(&line).0.to_owned()));
    assert_eq!(flags, [["DC", "-"], ["UC", "UC"]], "at the egress and at the ingress");
    assert_eq!(caller_ends_first(&world), 0, "the answer is lost");
    assert_eq!(app_ends_first(&world), 0, "what the caller says after the app's end is lost");
    assert_eq!(breaks_over_http2(&world), ((b"back".to_vec(), Some(h2::Reason::CONNECT_ERROR)), (0, Ok(()))));
}

/// A stream to the app, on which the caller has said hello.
async fn connect_h2(egress: SocketAddr) -> (h2::SendStream<Bytes>, h2::RecvStream) {
    let tcp = tokio::net::TcpStream::connect(egress).await.expect("the egress listens");
    let (client, connection) = h2::client::handshake(tcp).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let request = hyper::Request::connect("db.prod:5432").body(()).expect("a request");
    let mut client = client.ready().await.expect("there is room");
    let (response, mut send) = client.send_request(request, false).expect("it leaves");
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), 200);
    send.send_data(Bytes::from_static(b"hello"), false).expect("the way is open");
    (send, response.into_body())
}

/// The value of a counter for calls of `db`, over all its other labels that hold `label`.
fn counted(sidecar: &Sidecar, name: &str, label: &str) -> u64 {
    let reply = curl::curl(&[&format!("http://{}/stats/prometheus", sidecar.metrics)]);
    assert_eq!(reply.status, 200, "{reply:?}");
    let wanted = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(label);
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
    reply.body.lines().filter(wanted).map(|line| value(line).expect("a number")).sum()
}

#[test]
fn bytes_are_counted_while_they_move() {
    let world = World::tcp(Weft, Weft);
    let ends = "source_principal=\"spiffe://test.internal/ns/prod/sa/web\",";
    let callee = "destination_principal=\"spiffe://test.internal/ns/prod/sa/db\",";
    let sidecars = [(&world.web, "reporter=\"source\""), (&world.callee, "reporter=\"destination\"")];
    for (sidecar, reporter) in sidecars {
        wait::until("the connection that looked whether there is a way", wait::SOON, || {
            match counted(sidecar, "istio_tcp_connections_opened_total", callee) {
                1 => Ok(()),
                opened => Err(format!("{reporter}: {opened}")),
            }
        });
    }
    let (mut caller, mut app) = world.open();
    caller.write_all(b"13 bytes").expect("it is open");
    exact(&mut app, 8);
    let saying = std::thread::spawn(move || app.write_all(&vec![b'a'; MILLION]).map(|()| app));
    exact(&mut caller, MILLION);
    let app = saying.join().expect("no panic").expect("all is taken");
    // The connection is still open.
    for (sidecar, reporter) in sidecars {
        for label in
            [reporter, ends, callee, "destination_service=\"db.prod\"", "connection_security_policy=\"mutual_tls\""]
        {
            assert_eq!(counted(sidecar, "istio_tcp_received_bytes_total", label), 13, "{reporter} {label}");
            assert_eq!(counted(sidecar, "istio_tcp_sent_bytes_total", label), MILLION as u64, "{reporter} {label}");
        }
        assert_eq!(counted(sidecar, "istio_tcp_connections_opened_total", callee), 2, "{reporter}");
    }
    reset(app);
    drop(caller);
    for (sidecar, reporter) in sidecars {
        wait::until("all connections to be closed", wait::SOON, || {
            let closed = counted(sidecar, "istio_tcp_connections_closed_total", callee);
            if closed == 2 { Ok(()) } else { Err(format!("{closed}")) }
        });
        assert_eq!(counted(sidecar, "istio_tcp_connections_closed_total", "response_flags=\"UC\""), 1, "{reporter}");
        assert_eq!(counted(sidecar, "istio_tcp_received_bytes_total", callee), 13, "{reporter}");
        assert_eq!(counted(sidecar, "istio_tcp_sent_bytes_total", callee), MILLION as u64, "{reporter}");
        assert_eq!(
            counted(sidecar, "istio_requests_total", "destination_service=\"db.prod\""),
            0,
            "{reporter}: it is TCP"
        );
    }
}
