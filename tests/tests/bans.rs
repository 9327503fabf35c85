//! Whoever is banned is out at once: open connections are cut, new ones refused, and nothing is issued; and back when the ban is lifted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_tests::app::{App, echo_bytes};
use weft_tests::load::{Load, Target};
use weft_tests::mesh::{Mesh, text};
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, ports, wait};

/// What everybody is promised.
const AT_ONCE: Duration = Duration::from_secs(2);
const RATE: u64 = 50;

/// A connection to the database that stays open.
struct Held(TcpStream);

impl Held {
    fn open(egress: SocketAddr) -> Result<Self, String> {
        let open = || {
            let mut stream = TcpStream::connect(egress)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"CONNECT db.prod:5432 HTTP/1.1\r\nhost: db.prod:5432\r\n\r\n")?;
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            let mut held = Self(stream);
            if head.starts_with(b"HTTP/1.1 200") {
                held.echo().map(|()| held)
            } else {
                Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned()))
            }
        };
        open().map_err(|error: std::io::Error| error.to_string())
    }

    fn echo(&mut self) -> std::io::Result<()> {
        self.0.write_all(b"hello")?;
        let mut answer = [0; 5];
        self.0.read_exact(&mut answer)
    }

    /// How long it takes until the other end is gone.
    fn gone(mut self, since: Instant) -> Duration {
        self.0.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        match self.0.read(&mut [0; 16]) {
            Ok(0) => {}
            Ok(_) => panic!("bytes that nobody sent"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
        since.elapsed()
    }
}

struct Banned<'a> {
    mesh: &'a Mesh,
    web: &'a Sidecar,
}

impl Banned<'_> {
    fn identity(&self, args: &[&str]) -> String {
        let state = self.mesh.state();
        let state = state.to_str().expect("a plain path");
        let output = self.mesh.weft(&[&["identity"], args, &["--state-dir", state]].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }

    /// What `weft identity` shows; anybody may see it.
    fn shown(&self, args: &[&str]) -> String {
        let output = self.mesh.weft(&[&["identity"], args].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.web.log()).unwrap_or_default()
    }

    /// Bans, sees that the connection is cut at once and calls fail, and lifts it again.
    fn there_and_back(&self, who: &[&str], reason: &str) {
        let held = wait::until("the way to the database", wait::SOON, || Held::open(self.web.egress));
        let began = Instant::now();
        let told = self.identity(&[&["ban"], who, &["--reason", reason]].concat());
        assert!(told.contains("BANNED") && told.contains(reason), "{told}");
        let took = held.gone(began);
        assert!(took < AT_ONCE, "{who:?}: the open connection was cut after {took:?}");
        let reply = curl::get(self.web.egress, "board.prod", "/api/x", &[]);
        assert!(began.elapsed() < AT_ONCE + Duration::from_secs(1), "{:?}", began.elapsed());
        let problem = reply.json();
        assert_eq!(
            (reply.status, &problem["layer"], &problem["cause"]),
            (503, &json!("identity"), &json!("identity_banned")),
            "{who:?}: {reply:?}"
        );
        wait::until("the log to say why", wait::SOON, || {
            let log = self.log();
            if log.contains(&format!("BANNED: {reason}")) { Ok(()) } else { Err(log) }
        });
    }

    fn lift(&self, who: &[&str]) {
        self.identity(&[&["unban"], who].concat());
        wait::until("calls to go again", wait::SOON, || {
            let reply = curl::get(self.web.egress, "board.prod", "/api/x", &[]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
}

/// Serial number and machine of the certificate that a sidecar has now.
fn certificate(sidecar: &Sidecar, state: &Path) -> (String, String) {
    let log = std::fs::read_to_string(sidecar.log()).unwrap_or_default();
    let word = |name: &str| {
        let at =
            log.rfind(&format!("{name}=")).unwrap_or_else(|| panic!("{name} is not in {log} of {}", state.display()));
        let rest = &log[at + name.len() + 1..];
        rest.trim_start_matches('"').split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    (word("serial"), word("machine"))
}

#[test]
fn whoever_is_banned_is_out_at_once_and_back_when_it_is_lifted() {
    let mesh = Mesh::start();
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1"));
    let second = mesh.sidecar("board-2", Spec::new("prod/board", app.address()).label("version", "v2"));
    let db = mesh.sidecar("db", Spec::new("prod/db", echo_bytes()));
    let mut web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let other = mesh.sidecar("web-2", Spec::new("prod/web", ports::free()));
    let target =
        |of: &Sidecar| Target { address: of.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    mesh.wait_endpoints("prod/board", 2);
    mesh.wait_endpoints("prod/db", 1);
    target(&web).wait_reachable();
    target(&other).wait_reachable();
    let (serial, machine) = certificate(&web, mesh.folder());

    // One machine of two that are the same service: the other notices nothing.
    let (load, start) = (Load::start(target(&other), RATE), Instant::now());
    let banned = Banned { mesh: &mesh, web: &web };
    banned.there_and_back(&["--machine", &machine], "the laptop was stolen");
    let log = |name: &str, sidecar: &Sidecar, what: &str| {
        wait::until(what, wait::SOON, || {
            let log = std::fs::read_to_string(sidecar.log()).unwrap_or_default();
            if log.contains(what) { Ok(()) } else { Err(format!("{name}: {log}")) }
        });
    };
    log("db", &db, "connections of peers that are banned are cut off");
    // Not by a restart either, and without a control plane that answers.
    web.stop();
    web.start_again();
    let ready = format!("http://{}/ready", web.health);
    wait::until("the probe to say it", wait::SOON, || {
        let reply = curl::curl(&[&ready]);
        if reply.status == 503 && reply.body.contains("IDENTITY_BANNED") { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    let banned = Banned { mesh: &mesh, web: &web };
    let name = format!("machine:{machine}");
    let list = banned.shown(&["list", &name]);
    assert!(list.contains("BANNED: the laptop was stolen") && list.contains(&serial), "{list}");
    let all = banned.shown(&["list", "prod/web"]);
    assert_eq!(all.matches("/ns/prod/sa/web ").count(), 2, "two machines of one service: {all}");
    // What is shown says how it came to that.
    let show = banned.shown(&["show", &name]);
    for what in ["machine:", "is banned: the laptop was stolen", "attested", "by join token"] {
        assert!(show.contains(what), "{what} is not in {show}");
    }
    banned.lift(&["--machine", &machine]);
    let log = banned.shown(&["log", &name]);
    for (event, why) in [("banned", "the laptop was stolen"), ("unbanned", "")] {
        let line = log.lines().find(|line| line.contains(&format!("  {event} ")) && line.contains(why));
        assert!(line.is_some_and(|line| line.contains(&name)), "{event} is not in {log}");
    }
    let nobody = mesh.weft(&["identity", "show", "prod/nobody"]);
    assert!(!nobody.status.success() && text(&nobody).contains("nobody is known as prod/nobody"), "{}", text(&nobody));
    let metrics = curl::curl(&[&format!("http://{}/metrics", mesh.api)]).body;
    for line in ["weft_identity_events_total{event=\"banned\"} 1", "weft_identity_records_lost_total 0"] {
        assert!(metrics.lines().any(|have| have == line), "{line} is not in {metrics}");
    }
    // The log on disk has the same, and is for its owner.
    let written = std::fs::read_to_string(mesh.state().join("identity.log")).expect("the identity log");
    assert!(written.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{written}");
    assert!(written.contains("\"event\":\"unbanned\"") && !written.contains("weft."), "{written}");
    // A single certificate: its machine gets another by itself.
    let (elapsed, outcome) = (start.elapsed(), load.stop());
    outcome.assert_clean(RATE, elapsed);
    let (serial_now, _) = certificate(&web, mesh.folder());
    assert!(!serial.is_empty() && !serial_now.is_empty());

    // The service: everybody of it.
    banned.there_and_back(&["prod/web"], "it talks to strangers");
    let reply = curl::get(other.egress, "board.prod", "/api/x", &[]);
    assert_eq!(reply.json()["cause"], json!("identity_banned"), "{reply:?}");
    banned.lift(&["prod/web"]);
    drop((board, second, db, other));
}

/// An Envoy takes no part in it; its agent decides about each request.
#[test]
fn an_envoy_refuses_the_requests_of_whoever_is_banned() {
    let mesh = Mesh::start();
    let app = App::start("v1");
    let board =
        mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(DataPlane::Envoy));
    let second =
        mesh.sidecar("board-2", Spec::new("prod/board", app.address()).label("version", "v2").on(DataPlane::Envoy));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(DataPlane::Envoy));
    mesh.wait_endpoints("prod/board", 2);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/x".to_owned() };
    target.wait_reachable();
    let banned = Banned { mesh: &mesh, web: &web };
    let began = Instant::now();
    banned.identity(&["ban", "prod/web", "--reason", "it talks to strangers"]);
    wait::until("the call to be refused", AT_ONCE, || {
        let reply = curl::get(web.egress, "board.prod", "/api/x", &[]);
        if reply.status == 403 && reply.body.contains("banned: it talks to strangers") {
            Ok(())
        } else {
            Err(format!("{reply:?}"))
        }
    });
    assert!(began.elapsed() < AT_ONCE + Duration::from_secs(1), "{:?}", began.elapsed());
    banned.lift(&["prod/web"]);
    drop((board, second));
}
