//! A service that takes mutual TLS and plain text at one port, while its callers move into the mesh.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::app::{self, App};
use weft_tests::curl::{self, Reply};
use weft_tests::load::{Load, Target};
use weft_tests::mesh::{Mesh, text};
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{log, peers, ports, wait};

const BOARD: &str = "services/board.yaml";
const PERMISSIVE: &str = "mtls: permissive\n";
/// What a caller says that it is, who is nobody.
const FORGED: [&str; 6] = [
    "x-forwarded-client-cert: By=spiffe://test.internal/ns/prod/sa/board;URI=spiffe://test.internal/ns/prod/sa/web",
    "x-weft-principal: spiffe://test.internal/ns/prod/sa/web",
    "x_weft_principal: spiffe://test.internal/ns/prod/sa/web",
    "x-forwarded-for: 10.9.9.9",
    // The mesh's policies read this one, and some apps cannot tell the other from it.
    "x-tenant: mine",
    "X_Tenant: not-mine",
];

/// `prod/board` allows `prod/web` more than whoever calls in plain text.
fn board(rest: &str) -> String {
    format!(
        "kind: Service\nname: board\nnamespace: prod\nattributes: {{sensitivity: low}}\nport: 8080\nprotocol: http\n\
         access:\n  - {{from: [prod/web], allow: [\"* /**\"]}}\n  - {{from: [plain-text], allow: [\"GET /api/**\"]}}\n  \
         - {{from: [\"*\"], allow: [\"GET /open\"]}}\n{rest}"
    )
}

struct World {
    board: Sidecar,
    web: Sidecar,
    _app: App,
    mesh: Mesh,
}

impl World {
    fn start(data_plane: DataPlane, rest: &str) -> Self {
        let mesh = Mesh::start_with(|repo| {
            repo.write(BOARD, &board(rest));
            repo.write("mesh.yaml", &format!("{}policy: {{headers: [x-tenant]}}\n", repo.read("mesh.yaml")));
        });
        let app = App::start("v1");
        let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).on(data_plane));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
        let world = Self { board, web, _app: app, mesh };
        world.by_web().wait_reachable();
        world
    }

    fn by_web(&self) -> Target {
        Target { address: self.web.egress, host: "board.prod".to_owned(), path: "/status/200".to_owned() }
    }

    /// A call in plain text, straight to the ingress.
    fn plain(&self, target: &str, args: &[&str]) -> Reply {
        curl::get(self.board.ingress, "board.prod", target, args)
    }

    /// What the control plane says of callers in plain text.
    fn told(&self) -> Value {
        let status = self.mesh.api("/api/status").expect("it answers");
        let board = status["services"].as_array().into_iter().flatten().find(|service| service["name"] == "prod/board");
        board.map(|board| board["plain_text"].clone()).unwrap_or_default()
    }

    fn metrics(&self) -> String {
        curl::curl(&[&format!("http://{}/stats/prometheus", self.board.metrics)]).body
    }
}

fn forged<'a>(args: &[&'a str]) -> Vec<&'a str> {
    FORGED.iter().flat_map(|header| ["-H", header]).chain(args.iter().copied()).collect()
}

fn detail(reply: &Reply) -> String {
    assert_eq!(reply.status, 403, "{reply:?}");
    reply.json()["detail"].as_str().unwrap_or_default().to_owned()
}

/// Both kinds of callers at one port, each with what it is allowed, whatever it says of itself.
fn both_at_one_port(data_plane: DataPlane) {
    let world = World::start(data_plane, PERMISSIVE);
    for (args, version) in [(&[] as &[&str], "1.1"), (&["--http2-prior-knowledge"], "2")] {
        let reply = world.plain("/api/pins", &forged(args));
        assert_eq!((reply.status, &*reply.version), (200, version), "{reply:?}");
        let seen = reply.json()["headers"].to_string();
        assert!(seen.contains("x-tenant") && !seen.to_lowercase().contains("x_tenant"), "{seen}");
        assert!(!seen.contains("spiffe://"), "the app is told who calls by nobody but the mesh: {seen}");
        for path in ["/status/200", "/open"] {
            let told = detail(&world.plain(path, &forged(args)));
            assert!(told.ends_with(&format!("allows plain-text GET {path}")), "{told}");
        }
        let forbidden = detail(&world.plain("/api/closed", &forged(args)));
        assert!(forbidden.starts_with("forbid policies/guard.cedar:"), "{forbidden}");
    }
    assert_eq!(curl::get(world.web.egress, "board.prod", "/open", &[]).status, 200);

    // 127.0.0.1 called twice, and was denied six times.
    let told = wait::until("the report of who called", wait::SOON, || {
        let told = world.told();
        let caller = &told["callers"][0];
        if caller["allowed"] == 2 && caller["denied"] == 6 { Ok(told) } else { Err(format!("{told:#}")) }
    });
    let caller = &told["callers"][0];
    assert_eq!((&caller["address"], &caller["asked"]), (&"127.0.0.1".into(), &"GET /api/closed".into()), "{told:#}");
    assert!(caller["user_agent"].as_str().is_some_and(|agent| agent.starts_with("curl/")), "{told:#}");
    assert!(
        caller["last_seen"].as_u64() >= caller["first_seen"].as_u64() && told["quiet_seconds"].is_u64(),
        "{told:#}"
    );
    let shown = world.mesh.weft(&["status"]);
    assert!(text(&shown).contains("prod/board takes plain text; 1 caller"), "{}", text(&shown));
    assert!(text(&shown).contains("127.0.0.1") && text(&shown).contains("GET /api/closed"), "{}", text(&shown));
    let metrics = world.metrics();
    for line in ["{decision=\"allow\"} 2", "{decision=\"deny\"} 6"] {
        assert!(metrics.contains(&format!("weft_plain_text_requests_total{line}\n")), "{line}");
    }

    if data_plane == Weft {
        let is_it = |line: &&str| {
            let all =
                ["reporter=\"destination\"", "source_principal=\"unknown\"", "connection_security_policy=\"none\""];
            line.starts_with("istio_requests_total{") && all.iter().all(|label| line.contains(label))
        };
        let line = metrics.lines().find(is_it).unwrap_or_else(|| panic!("{metrics}"));
        assert!(line.contains("destination_principal=\"spiffe://test.internal/ns/prod/sa/board\""), "{line}");
    }

    let denied = wait::until("the denials in the log", wait::SOON, || {
        let lines = weft(
            &world.mesh,
            &["logs", &world.mesh.folder().display().to_string(), "--denied", "--caller", "plain-text", "-o", "json"],
        );
        let lines = String::from_utf8_lossy(&lines.stdout).into_owned();
        if lines.lines().count() == 6 { Ok(lines) } else { Err(lines) }
    });
    for line in denied.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&line["principal"], &line["source_ip"]), (&"plain-text".into(), &"127.0.0.1".into()), "{line:#}");
    }
    // Yesterday's calls by the policies of the folder: as they are, and as they would be were it strict.
    let repo = world.mesh.repo.root().display().to_string();
    let folder = world.mesh.folder().display().to_string();
    let replay = || weft(&world.mesh, &["policy", "replay", "--repo", &repo, &folder]);
    let same = replay();
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    world.mesh.repo.write(BOARD, &board(""));
    let strict = replay();
    assert!(strict.status.code() == Some(1) && text(&strict).contains("plain-text"), "{}", text(&strict));

    // Envoy writes its log now and then: this one is waited for last.
    let line = log::wait_line(&world.board.access_log, "the access log", |line| line["path"] == "/api/closed");
    assert_ne!(line["peer"], "spiffe://test.internal/ns/prod/sa/web", "{line:#}");
}

#[test]
fn weft_takes_both_at_one_port() {
    both_at_one_port(Weft);
}

#[test]
fn envoy_takes_both_at_one_port() {
    both_at_one_port(Envoy);
}

/// The control plane decides, and so it is who has seen the callers.
fn by_server(data_plane: DataPlane) {
    let world = World::start(data_plane, "mtls: permissive\nauthorization: {by: server}\n");
    assert_eq!(world.plain("/api/pins", &forged(&[])).status, 200);
    let told = detail(&world.plain("/open", &forged(&[])));
    assert!(told.ends_with("allows plain-text GET /open"), "{told}");
    wait::until("the report of who called", wait::SOON, || {
        let told = world.told();
        let caller = &told["callers"][0];
        let is_it = caller["address"] == "127.0.0.1" && caller["allowed"] == 1 && caller["denied"] == 1;
        if is_it { Ok(()) } else { Err(format!("{told:#}")) }
    });
    if data_plane == Weft {
        let metrics = world.metrics();
        assert!(metrics.contains("weft_plain_text_requests_total{decision=\"deny\"} 1\n"), "{metrics}");
    }
}

/// Nothing but what policies say of callers in plain text tells their calls apart; at a port that takes both families, where an address is what
/// it is in its own.
fn calls_are_told_apart(data_plane: DataPlane, by_server: bool) {
    let mesh = Mesh::start_with(|repo| {
        let rest = if by_server { "mtls: permissive\nauthorization: {by: server}\n" } else { PERMISSIVE };
        let access = "access: [{from: [plain-text], allow: [\"GET /api/**\"]}]\n";
        let service = "kind: Service\nname: board\nnamespace: prod\nport: 8080\nprotocol: http\n";
        repo.write(BOARD, &format!("{service}{access}{rest}"));
        let forbid = |condition: &str| {
            format!(
                "forbid (principal, action == Action::\"call\", resource == Service::\"prod/board\")\n{condition};\n"
            )
        };
        let local = "when { context.path == \"/api/local\" && context has sourceIp && context.sourceIp.isInRange(ip(\"127.0.0.0/8\")) }";
        let tags = "when { context.path == \"/api/tags\" } unless { context.query has tag && context.query.tag == [\"blue\"] }";
        let h2 = "when { context.path == \"/api/h2\" } unless { context.protocol == \"HTTP/2\" }";
        repo.write("policies/guard.cedar", &[local, tags, h2].map(forbid).concat());
        repo.write("mesh.yaml", &format!("{}policy: {{query: [tag]}}\n", repo.read("mesh.yaml")));
    });
    let app = App::start("v1");
    let port = ports::free().port();
    let mut spec = Spec::new("prod/board", app.address()).on(data_plane);
    spec.ingress = Some(SocketAddr::new([0_u16; 8].into(), port));
    let board = mesh.sidecar("board", spec.option("--advertise", &format!("127.0.0.1:{port}")));
    mesh.wait_endpoints("prod/board", 1);
    let call = |method: &str, path: &str, host: &str| {
        let reply = curl::curl(&["-X", method, "-H", "Host: board.prod", &format!("http://{host}:{port}{path}")]);
        assert_ne!(reply.status, 0, "{data_plane:?} {method} {host} {path}: {reply:?}");
        reply.status
    };
    for host in ["127.0.0.1", "[::1]"] {
        let calls =
            [("GET", "/api/x", 200), ("GET", "/admin", 403), ("DELETE", "/api/x", 403), ("DELETE", "/admin", 403)];
        for (method, path, status) in calls.into_iter().chain(calls.into_iter().rev()) {
            assert_eq!(call(method, path, host), status, "{data_plane:?} {method} {host} {path}");
        }
    }
    assert_eq!((call("GET", "/api/local", "127.0.0.1"), call("GET", "/api/local", "[::1]")), (403, 200));
    for (query, status) in [("tag=blue", 200), ("tag=blue;tag=red", 403), ("TAG=red&tag=blue", 403), ("", 403)] {
        assert_eq!(call("GET", &format!("/api/tags?{query}"), "127.0.0.1"), status, "{query}");
    }
    let url = format!("http://127.0.0.1:{port}/api/h2");
    let h2 = || curl::curl(&["--http2-prior-knowledge", "-H", "Host: board.prod", &url]).status;
    assert_eq!((call("GET", "/api/h2", "127.0.0.1"), h2(), call("GET", "/api/h2", "127.0.0.1")), (403, 200, 403));

    // What was decided is decided again, where the line says all that it takes; and who asks hears that it hangs on the protocol.
    let repo = mesh.repo.root().display().to_string();
    let log = if by_server { mesh.state() } else { board.state.clone() };
    let replayed = weft(&mesh, &["policy", "replay", "--repo", &repo, &log.display().to_string()]);
    assert!(
        replayed.status.success() && text(&replayed).contains(" 0 would be decided otherwise"),
        "{}",
        text(&replayed)
    );
    let asked = weft(&mesh, &["policy", "who-can", "call", "prod/board", "GET", "/api/h2", "--repo", &repo]);
    let told = text(&asked);
    let plain_text = told.lines().find(|line| line.starts_with("plain-text")).unwrap_or_default();
    assert!(plain_text.contains("context.protocol"), "{told}");
    let h2 = ["policy", "who-can", "call", "prod/board", "GET", "/api/h2", "--protocol", "http/2", "--repo", &repo];
    assert!(weft(&mesh, &h2).status.success());
}

#[test]
fn weft_tells_calls_in_plain_text_apart() {
    calls_are_told_apart(Weft, false);
}

#[test]
fn envoy_tells_calls_in_plain_text_apart() {
    calls_are_told_apart(Envoy, false);
}

#[test]
fn a_control_plane_that_is_asked_tells_calls_in_plain_text_apart() {
    calls_are_told_apart(Weft, true);
}

#[test]
fn weft_asks_the_control_plane_about_plain_text() {
    by_server(Weft);
}

#[test]
fn envoy_asks_the_control_plane_about_plain_text() {
    by_server(Envoy);
}

/// Nobody in plain text gets an answer out of a strict service.
fn a_strict_service_takes_none(data_plane: DataPlane) {
    let world = World::start(data_plane, "");
    for args in [&[] as &[&str], &["--http2-prior-knowledge"]] {
        let reply = world.plain("/api/pins", &forged(args));
        assert_eq!(reply.status, 0, "{reply:?}");
    }
    assert!(world.told().is_null(), "there is nothing to tell of it");
}

#[test]
fn weft_takes_no_plain_text_for_a_strict_service() {
    a_strict_service_takes_none(Weft);
}

#[test]
fn envoy_takes_no_plain_text_for_a_strict_service() {
    a_strict_service_takes_none(Envoy);
}

/// A commit closes the door, and another opens it: callers within the mesh notice nothing.
fn the_door_is_closed_under_load(data_plane: DataPlane) {
    const RATE: u64 = 100;
    let world = World::start(data_plane, PERMISSIVE);
    assert_eq!(world.plain("/api/pins", &[]).status, 200);
    let mut kept = Kept::open(world.board.ingress);
    assert_eq!(kept.get("/api/pins").as_deref(), Some("HTTP/1.1 200 OK"));
    let (load, start) = (Load::start(world.by_web(), RATE), Instant::now());
    for (rest, is_open) in [("", false), (PERMISSIVE, true), ("mtls: strict\n", false)] {
        let before = load.succeeded();
        world.mesh.repo.write(BOARD, &board(rest));
        world.mesh.commit(&format!("It is {rest:?}"));
        wait::until("the door to be as it is said", wait::SOON, || {
            let reply = world.plain("/api/pins", &[]);
            if reply.status == if is_open { 200 } else { 0 } { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        if !is_open {
            let answer = kept.get("/api/pins");
            assert!(answer.as_deref().is_none_or(|line| line.contains(" 403 ")), "a kept connection: {answer:?}");
        }
        wait::until("traffic after the commit", wait::SOON, || {
            if load.succeeded() > before + 50 { Ok(()) } else { Err("little traffic") }
        });
    }
    let elapsed = start.elapsed();
    load.stop().assert_clean(RATE, elapsed);
}

#[test]
fn weft_closes_the_door_under_load() {
    the_door_is_closed_under_load(Weft);
}

#[test]
fn envoy_closes_the_door_under_load() {
    the_door_is_closed_under_load(Envoy);
}

/// A connection in plain text that is kept open.
struct Kept(TcpStream);

impl Kept {
    fn open(ingress: SocketAddr) -> Self {
        let stream = TcpStream::connect(ingress).expect("the ingress listens");
        stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
        Self(stream)
    }

    /// The first line of the answer; `None` if the connection is closed.
    fn get(&mut self, path: &str) -> Option<String> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: board.prod\r\n\r\n").as_bytes()).ok()?;
        let mut answer = vec![0; 16 * 1024];
        // A head and its small body come at once, or one after the other: the next answer begins behind them.
        let length = self.0.read(&mut answer).ok().filter(|length| *length > 0)?;
        let head = String::from_utf8_lossy(&answer[..length]).into_owned();
        let body =
            head.to_ascii_lowercase().split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
        let end = head.find("\r\n\r\n")? + 4 + body;
        if end > length {
            self.0.read_exact(&mut vec![0; end - length]).ok()?;
        }
        head.lines().next().map(str::to_owned)
    }
}

/// Bytes, by mutual TLS and without, and who sends nothing is closed.
fn bytes(data_plane: DataPlane) {
    let db = |callers: &str| {
        format!(
            "kind: Service\nname: db\nnamespace: prod\nport: 5432\nprotocol: tcp\nmtls: permissive\naccess: [{{from: {callers}}}]\n"
        )
    };
    let mesh = Mesh::start_with(|repo| repo.write("services/db.yaml", &db("[prod/web, plain-text]")));
    let callee = mesh.sidecar("db", Spec::new("prod/db", app::echo_bytes()).on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
    web.wait_knows(&callee);
    let mut silent = TcpStream::connect(callee.ingress).expect("the ingress listens");

    let mut by_mesh = TcpStream::connect(web.egress).expect("the egress listens");
    by_mesh.write_all(b"CONNECT db.prod:5432 HTTP/1.1\r\nhost: db.prod:5432\r\n\r\n").expect("the egress reads");
    let mut head = [0; 12];
    by_mesh.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(echoed(callee.ingress), Some("hello".to_owned()));

    mesh.repo.write("services/db.yaml", &db("[prod/web]"));
    mesh.commit("Close it to plain text");
    wait::until("it to be closed", wait::SOON, || echoed(callee.ingress).map_or(Ok(()), Err));
    wait::until("the report of who called", wait::SOON, || {
        let status = mesh.api("/api/status")?;
        let db = status["services"].as_array().into_iter().flatten().find(|service| service["name"] == "prod/db");
        let caller = db.map(|db| db["plain_text"]["callers"][0].clone()).unwrap_or_default();
        let is_it = caller["asked"] == "TCP" && caller["allowed"] == 1 && caller["denied"].as_u64() >= Some(1);
        if is_it { Ok(()) } else { Err(caller.to_string()) }
    });

    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let closed = silent.read(&mut [0]);
    assert!(matches!(closed, Ok(0)) || closed.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

/// What comes back of `hello`.
fn echoed(ingress: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(ingress).ok()?;
    stream.set_read_timeout(Some(wait::SOON)).ok()?;
    stream.write_all(b"hello").ok()?;
    let mut back = [0; 5];
    stream.read_exact(&mut back).ok()?;
    Some(String::from_utf8_lossy(&back).into_owned())
}

#[test]
fn weft_takes_bytes_in_plain_text() {
    bytes(Weft);
}

#[test]
fn envoy_takes_bytes_in_plain_text() {
    bytes(Envoy);
}

fn weft(mesh: &Mesh, args: &[&str]) -> Output {
    Command::new(peers::weft()).args(args).current_dir(mesh.folder()).output().expect("weft runs")
}

/// What is asked about such calls is answered as their decisions are.
#[test]
fn questions_about_plain_text_are_answered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("it can be written");
    write("mesh.yaml", "kind: Mesh\nname: test\ntrustDomain: test.internal\nattributes: {sensitivity: [low]}\n");
    write("web.yaml", "kind: Service\nname: web\nnamespace: prod\nport: 80\nprotocol: http\n");
    write("board.yaml", &board(PERMISSIVE));
    write(
        "tests.yaml",
        "kind: Test\nname: moving-in\ndecisions:\n  - {from: plain-text, to: prod/board, call: GET /api/x, expect: allow, by: board.yaml}\n  \
         - {from: plain-text, to: prod/board, call: GET /open, expect: deny}\n  - {from: plain-text, to: prod/web, call: GET /, expect: deny}\n",
    );
    let ask = |args: &[&str]| {
        let output = Command::new(peers::weft()).args(args).current_dir(folder.path()).output().expect("weft runs");
        (output.status.code(), text(&output))
    };
    let (code, told) = ask(&["explain", "plain-text", "prod/board", "GET", "/api/x"]);
    assert!(code == Some(0) && told.contains("permit board.yaml:9"), "{told}");
    let (code, told) = ask(&["explain", "plain-text", "prod/board", "GET", "/open"]);
    assert!(
        code == Some(1) && told.contains("allows plain-text GET /open") && !told.contains("board.yaml:10\n"),
        "{told}"
    );
    let (code, told) = ask(&["policy", "who-can", "call", "prod/board", "GET", "/api/x"]);
    assert!(
        code == Some(0) && told.lines().any(|line| line.starts_with("plain-text") && line.contains("board.yaml:9")),
        "{told}"
    );
    let (code, told) = ask(&["policy", "test"]);
    assert!(code == Some(0) && told.contains("3 expectations, 0 failed"), "{told}");
}
