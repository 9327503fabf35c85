//! Apps that give up idle connections: no call may come on one just then, since what is not idempotent is not sent again.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, ports, wait};

/// How long the app keeps an idle connection. A request that comes later crosses the end of the connection.
const KEPT: Duration = Duration::from_secs(3);

/// When the app has answered last.
type Answered = Arc<Mutex<Instant>>;

/// An app that answers requests without a body, with this field, and none on a connection that was idle for too long.
fn start(field: &'static str) -> (SocketAddr, Answered) {
    let address = ports::free();
    let listener = TcpListener::bind(address).expect("the port is free");
    let answered = Arc::new(Mutex::new(Instant::now()));
    let told = answered.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let told = told.clone();
            std::thread::spawn(move || serve(stream, field, &told));
        }
    });
    (address, answered)
}

fn serve(mut stream: TcpStream, field: &str, answered: &Mutex<Instant>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut idle_since = Instant::now();
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        if idle_since.elapsed() >= KEPT {
            return Ok(());
        }
        write!(stream, "HTTP/1.1 200 OK\r\n{field}content-length: 0\r\n\r\n")?;
        idle_since = Instant::now();
        *answered.lock().expect("not poisoned") = idle_since;
    }
}

struct World {
    web: Sidecar,
    _board: Sidecar,
    answered: Answered,
    _mesh: Mesh,
}

impl World {
    /// `app` stands in the intent; `field` in each of the app's responses.
    fn start(data_plane: DataPlane, app: &str, field: &'static str) -> Self {
        let service = format!(
            "kind: Service\nname: board\nnamespace: prod\nport: 8080\nprotocol: http\naccess: [{{from: [prod/web]}}]\n{app}"
        );
        let mesh = Mesh::start_with(|repo| repo.write("services/board.yaml", &service));
        let (address, answered) = start(field);
        let board = mesh.sidecar("board", Spec::new("prod/board", address).on(data_plane).workers(1));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
        let world = Self { web, _board: board, answered, _mesh: mesh };
        wait::until("the app to answer", wait::SOON, || match world.post().status {
            200 => Ok(()),
            status => Err(status),
        });
        world
    }

    fn post(&self) -> curl::Reply {
        curl::get(self.web.egress, "board.prod", "/", &["-X", "POST"])
    }

    /// Calls twice, with so much time between that the app has given up the connection of the first.
    fn assert_no_call_is_lost(&self) {
        for _ in 0..2 {
            assert_eq!(self.post().status, 200);
            wait::until("the app to give up the connection", wait::SOON, || {
                let idle = self.answered.lock().expect("not poisoned").elapsed();
                if idle > KEPT { Ok(()) } else { Err(format!("idle for {idle:?}")) }
            });
            let reply = self.post();
            assert_eq!(reply.status, 200, "a call went on a connection that the app had given up: {reply:?}");
        }
    }
}

#[test]
fn a_connection_is_not_used_for_longer_than_the_app_says() {
    World::start(DataPlane::Weft, "", "keep-alive: timeout=3, max=100\r\n").assert_no_call_is_lost();
}

#[test]
fn a_connection_is_not_used_for_longer_than_the_intent_says() {
    for data_plane in [DataPlane::Weft, DataPlane::Envoy] {
        World::start(data_plane, "app: {idleTimeout: 1s}\n", "").assert_no_call_is_lost();
    }
}
