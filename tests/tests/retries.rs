//! What is proven to have done nothing is tried again; nothing else is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use weft_tests::app::{self, App};
use weft_tests::grpc::Server;
use weft_tests::h2_app::{H2App, Manners};
use weft_tests::h2_client;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{curl, ports, wait};

/// Two endpoints of a service, the app of one does not listen: its sidecar says that nothing was done, and the other is asked.
fn an_app_that_does_not_listen_costs_no_call(caller: DataPlane, callee: DataPlane) {
    let mesh = Mesh::start_with(|repo| {
        repo.replace("services/board.yaml", "{subset: v1, weight: 80}, {subset: v2, weight: 20}", "{weight: 1}");
    });
    let app = App::start("listens");
    let mut listens = mesh.sidecar("board-1", Spec::new("prod/board", app.address()).on(callee));
    // It listens until it is registered.
    let silent = ports::free();
    let listener = std::net::TcpListener::bind(silent).expect("the port is free");
    let silent_sidecar = mesh.sidecar("board-2", Spec::new("prod/board", silent).on(callee));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
    mesh.wait_endpoints("prod/board", 2);
    drop(listener);
    wait::until("the app to answer", wait::SOON, || {
        let reply = curl::get(web.egress, "board.prod", "/api/", &[]);
        if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    calls_succeed(&web);
    // The endpoint leaves by itself, everybody is told, and it comes back when the app does.
    mesh.wait_endpoints("prod/board", 1);
    let health = |sidecar: &Sidecar| curl::curl(&[&format!("http://{}/ready", sidecar.health)]);
    let reply = health(&silent_sidecar);
    assert_eq!((reply.status, reply.body.trim()), (503, "APP_UNREACHABLE"), "{reply:?}");
    let status = weft_tests::mesh::text(&mesh.weft(&["status"]));
    assert!(status.contains(&format!("{} (app does not listen)", silent_sidecar.ingress)), "{status}");
    let listener = std::net::TcpListener::bind(silent).expect("the port is free");
    mesh.wait_endpoints("prod/board", 2);
    assert_eq!(health(&silent_sidecar).status, 200);
    drop(listener);
    // Where there is no other endpoint, the caller is told that it is the app, until its endpoint leaves too.
    assert!(listens.stop().success());
    wait::until("the other endpoint to be gone", wait::SOON, || {
        let reply = curl::get(web.egress, "board.prod", "/api/", &[]);
        let told = ["app_unreachable", "no_endpoint"].iter().any(|cause| reply.body.contains(cause));
        let told = reply.status == 503 && told;
        if told && reply.header("x-weft-untouched").is_none() { Ok(()) } else { Err(format!("{reply:?}")) }
    });
}

fn calls_succeed(web: &Sidecar) {
    for number in 0..30 {
        let (path, args): (_, &[&str]) = match number % 3 {
            0 => ("/count", &["--data-binary", "five!"]),
            1 => ("/api/", &["--http2-prior-knowledge"]),
            _ => ("/api/", &[]),
        };
        let reply = curl::get(web.egress, "board.prod", path, args);
        assert_eq!(reply.status, 200, "call {number}: {reply:?}");
        assert_eq!(reply.header("x-weft-untouched"), None, "for sidecars only: {reply:?}");
        if path == "/count" {
            assert!(reply.body.starts_with("5 "), "the body was sent again as it was: {reply:?}");
        }
    }
}

#[test]
fn an_app_that_does_not_listen_costs_no_call_weft_weft() {
    an_app_that_does_not_listen_costs_no_call(Weft, Weft);
}

#[test]
fn an_app_that_does_not_listen_costs_no_call_envoy_envoy() {
    an_app_that_does_not_listen_costs_no_call(Envoy, Envoy);
}

#[test]
fn an_app_that_does_not_listen_costs_no_call_weft_envoy() {
    an_app_that_does_not_listen_costs_no_call(Weft, Envoy);
}

#[test]
fn an_app_that_does_not_listen_costs_no_call_envoy_weft() {
    an_app_that_does_not_listen_costs_no_call(Envoy, Weft);
}

/// Only an ingress can say that nothing was done: an app that says so is not believed.
#[test]
fn an_app_cannot_ask_for_a_retry() {
    let mesh = Mesh::start();
    let (app, counted) = app::scripted(&[b"HTTP/1.1 503 No\r\nx-weft-untouched: true\r\ncontent-length: 2\r\n\r\nno"]);
    let _chat = mesh.sidecar("chat", Spec::new("prod/chat", app));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    mesh.wait_endpoints("prod/chat", 1);
    let reply = wait::until("the app's answer", wait::SOON, || {
        let reply = curl::get(web.egress, "chat.prod", "/ws", &[]);
        if reply.body == "no" { Ok(reply) } else { Err(format!("{reply:?}")) }
    });
    assert_eq!((reply.status, reply.header("x-weft-untouched")), (503, None), "{reply:?}");
    assert_eq!(counted.try_iter().count(), 1, "it was asked once");
}

/// A connection that the app gives up just then is tried once more on another; one on which it answers badly is not.
#[test]
fn a_bad_answer_on_a_kept_connection_is_not_asked_for_again() {
    let mesh = Mesh::start();
    let (app, counted) =
        app::scripted(&[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"HTTP/1.1 two hundred\r\n\r\n"]);
    let _chat = mesh.sidecar("chat", Spec::new("prod/chat", app).workers(1));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    mesh.wait_endpoints("prod/chat", 1);
    let ask = || curl::get(web.egress, "chat.prod", "/ws", &[]);
    wait::until("the app's answer", wait::SOON, || {
        let reply = ask();
        if reply.body == "ok" { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    let reply = ask();
    assert_eq!((reply.status, &reply.json()["cause"]), (502, &"app_protocol".into()), "{reply:?}");
    assert_eq!(counted.try_iter().count(), 2, "each was asked for once");
}

struct Pair {
    web: Sidecar,
    alive: Sidecar,
    dead: Sidecar,
    mesh: Mesh,
}

impl Pair {
    /// Two sidecars of a service, one of which was just killed and is still in everybody's list.
    fn start(service: &str, app: SocketAddr, data_plane: DataPlane) -> Self {
        let mesh = Mesh::start();
        let alive = mesh.sidecar("alive", Spec::new(service, app).on(data_plane));
        let mut dead = mesh.sidecar("dead", Spec::new(service, app).on(data_plane));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
        mesh.wait_endpoints(service, 2);
        [&alive, &dead].into_iter().for_each(|callee| web.wait_knows(callee));
        dead.kill();
        Self { web, alive, dead, mesh }
    }

    /// Opens by this request, and gives the head of the answer.
    fn open(&self, request: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.web.egress).expect("the egress accepts");
        stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("the egress reads");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
            head.push(byte[0]);
        }
        (stream, String::from_utf8_lossy(&head).into_owned())
    }
}

fn tunnels_open_on_another_endpoint(data_plane: DataPlane) {
    let pair = Pair::start("prod/db", app::echo_bytes(), data_plane);
    for number in 0..24 {
        let (mut stream, head) = pair.open("CONNECT db.prod:5432 HTTP/1.1\r\nhost: db.prod:5432\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "tunnel {number}: {head}");
        stream.write_all(b"ping").expect("the way is open");
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("tunnel {number}: {error}"));
        assert_eq!(&back, b"ping");
    }
    drop((pair.alive, pair.dead, pair.mesh));
}

#[test]
fn tunnels_open_on_another_endpoint_weft() {
    tunnels_open_on_another_endpoint(Weft);
}

#[test]
fn tunnels_open_on_another_endpoint_envoy() {
    tunnels_open_on_another_endpoint(Envoy);
}

fn websockets_open_on_another_endpoint(data_plane: DataPlane) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let app = Server::start(folder.path(), "ws_app.py");
    let pair = Pair::start("prod/chat", app.address, data_plane);
    for number in 0..24 {
        let (_stream, head) = pair.open(
            "GET /ws HTTP/1.1\r\nhost: chat.prod\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n",
        );
        assert!(head.starts_with("HTTP/1.1 101"), "WebSocket {number}: {head}");
    }
    drop((pair.alive, pair.dead, pair.mesh));
}

#[test]
fn websockets_open_on_another_endpoint_weft() {
    websockets_open_on_another_endpoint(Weft);
}

#[test]
fn websockets_open_on_another_endpoint_envoy() {
    websockets_open_on_another_endpoint(Envoy);
}

/// `count` gRPC calls at once, over a fresh connection, to an app of such manners.
fn calls(data_plane: DataPlane, manners: Manners, count: usize) -> (H2App, Vec<String>) {
    let mesh = Mesh::start();
    let app = H2App::start(manners);
    let greeter = mesh.sidecar("greeter", Spec::new("prod/greeter", app.address).on(data_plane).workers(1));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane).workers(1));
    mesh.wait_endpoints("prod/greeter", 1);
    web.wait_knows(&greeter);
    let answers = h2_client::unary_calls(web.egress, "greeter.prod", count);
    (app, answers)
}

fn refused_streams_are_sent_again(data_plane: DataPlane) {
    let (app, answers) = calls(data_plane, Manners::Refuses(2), 1);
    assert_eq!((answers, app.refused(), app.answered()), (vec!["0".to_owned()], 2, 1));
}

/// All at once: no bound on retries is in the way.
fn many_refused_streams_are_sent_again(data_plane: DataPlane) {
    let (app, answers) = calls(data_plane, Manners::RefusesTogether(40), 40);
    assert_eq!((answers, app.refused(), app.answered()), (vec!["0".to_owned(); 40], 40, 40));
}

#[test]
fn many_refused_streams_are_sent_again_weft() {
    many_refused_streams_are_sent_again(Weft);
}

#[test]
fn many_refused_streams_are_sent_again_envoy() {
    many_refused_streams_are_sent_again(Envoy);
}

#[test]
fn refused_streams_are_sent_again_weft() {
    refused_streams_are_sent_again(Weft);
}

#[test]
fn refused_streams_are_sent_again_envoy() {
    refused_streams_are_sent_again(Envoy);
}

/// More of it than is kept: it cannot be sent again, and the caller is told what the callee's sidecar saw.
#[test]
fn a_refused_stream_with_a_large_body_is_told_as_such() {
    let mesh = Mesh::start();
    let app = H2App::start(Manners::Refuses(u64::MAX));
    let greeter = mesh.sidecar("greeter", Spec::new("prod/greeter", app.address));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    web.wait_knows(&greeter);
    let body = mesh.folder().join("body");
    std::fs::write(&body, vec![b'x'; 100_000]).expect("a file");
    let reply = curl::get(
        web.egress,
        "greeter.prod",
        "/weft.test.Greeter/Unary",
        &["--data-binary", &format!("@{}", body.display())],
    );
    assert_eq!((reply.status, &reply.json()["cause"]), (503, &"upstream_reset".into()), "{reply:?}");
    assert_eq!((reply.header("x-weft-untouched"), app.refused()), (None, 1), "{reply:?}");
}

fn what_a_goaway_leaves_out_is_sent_again(data_plane: DataPlane) {
    let (app, answers) = calls(data_plane, Manners::Leaves(1), 1);
    assert_eq!((answers, app.refused(), app.answered()), (vec!["0".to_owned()], 1, 1));
}

#[test]
fn what_a_goaway_leaves_out_is_sent_again_weft() {
    what_a_goaway_leaves_out_is_sent_again(Weft);
}

#[test]
fn what_a_goaway_leaves_out_is_sent_again_envoy() {
    what_a_goaway_leaves_out_is_sent_again(Envoy);
}

/// Sixty calls at once to an app that takes ten streams a connection: none is opened beyond, so none is refused.
#[test]
fn no_more_streams_are_opened_than_the_app_takes() {
    let (app, answers) = calls(Weft, Manners::Takes(10), 60);
    let failed: Vec<_> = answers.iter().filter(|answer| *answer != "0").collect();
    assert!(failed.is_empty(), "{} of 60 failed: {failed:?}", failed.len());
    assert_eq!((app.refused(), app.answered()), (0, 60));
}
