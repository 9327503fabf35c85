//! A policy that forbids all below `/admin` is not passed by writing the path in another way, and the app gets the path that was decided on.
//!
//! Requests are written byte by byte, to an egress as an app does, and over mutual TLS to an ingress as whoever has an SVID can.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use weft_tests::app::App;
use weft_tests::mesh::Mesh;
use weft_tests::pki::Pair;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{ports, tls, wait};

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// The app gets this.
    Seen(&'static str),
    /// The app gets nothing: 400 or 403.
    Stopped,
    /// One data plane refuses it, and from the other the app gets this.
    Maybe(&'static str),
}

use Becomes::{Maybe, Seen, Stopped};

/// Of `prod/board`, as services are by default.
const BOARD: &[(&str, Becomes)] = &[
    // The control: what is open, and what is not.
    ("/open", Seen("/open")),
    ("/administer", Seen("/administer")),
    ("/admin", Stopped),
    ("/admin/users?x=/open", Stopped),
    ("/open?x=/../admin", Seen("/open?x=/../admin")),
    // Percent-encodings.
    ("/%61dmin/users", Stopped),
    ("/%61%64%6d%69%6E", Stopped),
    ("/op%65n", Seen("/open")),
    ("/a%20b", Seen("/a%20b")),
    ("/%2561dmin/users", Seen("/%2561dmin/users")),
    ("/admin%2Fusers", Stopped),
    ("/open%2f..%2fadmin", Stopped),
    ("/admin%3Fx", Stopped),
    ("/admin%23x", Stopped),
    ("/wiki/What%3F", Seen("/wiki/What%3F")),
    ("/admin%3Bx/users", Stopped),
    ("/a%3Bb", Seen("/a%3Bb")),
    ("/%61dmin%3bx", Stopped),
    ("/open%zz", Stopped),
    ("/open%", Stopped),
    ("/%u0061dmin", Stopped),
    ("/admin%00", Stopped),
    ("/open%0a", Stopped),
    ("/open%7F", Stopped),
    // Dot segments.
    ("/x/../admin", Stopped),
    ("/x/%2e%2e/admin/users", Stopped),
    ("/./admin", Stopped),
    ("/%2E/admin/.", Stopped),
    ("/../../admin", Stopped),
    ("/admin/../open", Seen("/open")),
    ("/x/..;/admin", Stopped),
    ("/x/..%3B/admin", Stopped),
    ("/x/.%3Bv=1/admin", Stopped),
    ("/x/.;/admin", Maybe("/x/admin")),
    // Empty segments.
    ("//admin/users", Stopped),
    ("///admin", Stopped),
    ("/x//..///admin", Seen("/x/admin")),
    ("//open", Seen("/open")),
    ("/;/admin", Stopped),
    ("/admin/", Stopped),
    ("/open/", Seen("/open/")),
    // Backslashes.
    ("/admin\\users", Stopped),
    ("/x\\..\\admin", Stopped),
    ("/admin%5Cusers", Stopped),
    ("/x/..%5Cadmin", Stopped),
    // Matrix parameters.
    ("/admin;v=1/users", Stopped),
    ("/admin;", Stopped),
    ("/open;v=1", Seen("/open;v=1")),
    // What is not UTF-8, and what only looks like a path.
    ("/%C0%AFadmin", Stopped),
    ("/x/..%C0%AFadmin", Stopped),
    ("/%E0%80%AFadmin", Stopped),
    ("/%C1%A1dmin", Stopped),
    ("/adm%FFin", Stopped),
    ("/admin%80", Stopped),
    ("/%EF%BC%8Fadmin", Seen("/%EF%BC%8Fadmin")),
    ("/caf%c3%a9", Seen("/caf%C3%A9")),
    ("/café", Maybe("/caf%C3%A9")),
    ("/a<b", Maybe("/a%3Cb")),
    // Absolute form.
    ("http://board.prod/admin", Stopped),
    ("http://board.prod//admin/users", Stopped),
    ("http://board.prod/x/../admin", Stopped),
    ("http://board.prod/open", Seen("/open")),
    // No slash at the start, and what follows a fragment.
    ("admin", Stopped),
    (";/admin", Stopped),
    ("%2Fadmin", Stopped),
    ("/open#/admin", Maybe("/open")),
    ("/admin#x", Stopped),
];

/// Of `prod/lax`, whose app tells neither upper from lower case nor takes `%2F` or `//` for what others do.
const LAX: &[(&str, Becomes)] = &[
    ("/Open", Seen("/Open")),
    ("/ADMIN/users", Stopped),
    ("/Admin", Stopped),
    ("/adm%C4%B0n/users", Stopped),
    ("/x/../aDMIN;v/users", Stopped),
    ("//ADMIN/users", Stopped),
    ("//open", Seen("//open")),
    ("/ADMIN%2Fusers", Stopped),
    ("/%2FAdmin", Stopped),
    ("/a%2fB", Seen("/a%2FB")),
    ("/admin%3Bv%2Fusers", Stopped),
    ("/x/..%2Fadmin", Stopped),
];

/// Both ends, and the apps, of one data plane.
struct World {
    web: Sidecar,
    client: Pair,
    board: Sidecar,
    lax: Sidecar,
    _apps: [App; 2],
    _mesh: Mesh,
}

impl World {
    fn start(data_plane: DataPlane) -> Self {
        let template = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("paths");
        let mesh = Mesh::start_from(&template, |_| {});
        let apps = [App::start("board"), App::start("lax")];
        let board = mesh.sidecar("board", Spec::new("prod/board", apps[0].address()).on(data_plane));
        let lax = mesh.sidecar("lax", Spec::new("prod/lax", apps[1].address()).on(data_plane));
        let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
        web.wait_knows(&board);
        web.wait_knows(&lax);
        let client = mesh.svid("prod/web", "client");
        let world = Self { web, client, board, lax, _apps: apps, _mesh: mesh };
        wait::until("the apps to answer", wait::SOON, || {
            let answers =
                [world.as_app(&head("/open", "board.prod", "")), world.as_app(&head("/open", "lax.prod", ""))];
            if answers.iter().all(|answer| answer.status == 200) { Ok(()) } else { Err(format!("{answers:?}")) }
        });
        world
    }

    /// As an app sends it to its egress.
    fn as_app(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.web.egress).expect("the egress listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("the egress reads");
        let mut text = Vec::new();
        // A connection that is closed with something unread ends in a reset, after the answer.
        let _ = stream.read_to_end(&mut text);
        Answer::read(&String::from_utf8_lossy(&text))
    }

    /// As whoever has an SVID sends it to an ingress.
    fn as_stranger(&self, ingress: SocketAddr, request: &str) -> Answer {
        Answer::read(&tls::send(ingress, Some(&self.client), request).text)
    }
}

/// A whole request with these further fields, each with its end of line.
fn head(target: &str, host: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{fields}connection: close\r\n\r\n")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// The target that the app got, and the host.
    seen: Option<(String, String)>,
    text: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let response = text.find("HTTP/1.1 ").map_or("", |start| &text[start..]);
        let status = response.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let (start, end) = (body.find('{').unwrap_or(0), body.rfind('}').map_or(0, |end| end + 1));
        let told: Value = body.get(start..end).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        let host = told["headers"].as_array().into_iter().flatten().find(|field| field[0] == "host");
        let host = host.and_then(|field| field[1].as_str()).unwrap_or_default();
        let seen = told["target"].as_str().map(|target| (target.to_owned(), host.to_owned()));
        Self { status, seen, text: response.to_owned() }
    }

    fn assert_becomes(&self, becomes: Becomes, what: &str) {
        let is_stopped = matches!(self.status, 400 | 403) && self.seen.is_none();
        let is_seen = |target: &str| self.status == 200 && self.seen.as_ref().is_some_and(|(seen, _)| seen == target);
        let holds = match becomes {
            Seen(target) => is_seen(target),
            Stopped => is_stopped,
            Maybe(target) => is_stopped || is_seen(target),
        };
        assert!(holds, "{what} should become {becomes:?}, and this is {self:?}");
        if let Some((seen, _)) = self.seen.as_ref().filter(|_| self.status == 200) {
            assert!(!is_admin_to_somebody(seen), "{what} reaches the app as {seen}");
        }
    }
}

/// Whether the most generous of readers takes a target for something below `/admin`.
fn is_admin_to_somebody(target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    // What is not UTF-8 is dropped.
    let text = String::from_utf8_lossy(&bytes).replace('\u{fffd}', "").replace('\\', "/");
    let text = text.split(['?', '#', '\0']).next().unwrap_or_default();
    let mut segments = Vec::new();
    for segment in text.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.first() == Some(&"admin")
}

fn no_spelling_passes(data_plane: DataPlane) {
    let world = World::start(data_plane);
    for (host, sidecar, cases) in [("board.prod", &world.board, BOARD), ("lax.prod", &world.lax, LAX)] {
        for (target, becomes) in cases {
            let request = head(target, host, "");
            world.as_app(&request).assert_becomes(*becomes, &format!("{host} {target} of an app"));
            let what = format!("{host} {target} of a stranger");
            world.as_stranger(sidecar.ingress, &request).assert_becomes(*becomes, &what);
            if let Seen(seen) = becomes {
                // What the policies were asked about is what the app got.
                let seen = seen.split('?').next().unwrap_or_default();
                if host == "board.prod" && !seen.ends_with('/') && !seen.contains([';', '%']) {
                    let decided = head(target, host, &format!("x-decided: {seen}\r\n"));
                    world.as_app(&decided).assert_becomes(*becomes, &format!("{target}, decided on as {seen}"));
                }
            }
        }
        let other = head("/open", host, "x-decided: /other\r\n");
        assert_eq!(world.as_app(&other).status == 200, host == "lax.prod", "the control");
    }
}

#[test]
fn no_spelling_passes_weft() {
    no_spelling_passes(Weft);
}

#[test]
fn no_spelling_passes_envoy() {
    no_spelling_passes(Envoy);
}

/// Of several hosts in one request, that which is decided on is that which the app gets.
fn one_host_is_decided_on(data_plane: DataPlane) {
    let world = World::start(data_plane);
    let ask = |request: &str| [world.as_app(request), world.as_stranger(world.board.ingress, request)];
    // The control: a policy looks at the host.
    for answer in ask(&head("/open", "board.prod", "x-host: other\r\n")) {
        assert_eq!(answer.status, 403, "{}", answer.text);
    }
    // RFC 9112 s.3.2.2: the target's host counts, whatever `host` says.
    for answer in ask(&head("http://board.prod/open", "evil.example", "x-host: board.prod\r\n")) {
        let seen = answer.seen.as_ref().map(|(_, host)| host.as_str());
        assert_eq!((answer.status, seen), (200, Some("board.prod")), "{answer:?}");
    }
    // RFC 9112 s.3.2: two hosts are none. Envoy makes one of both, of a name that no service has; and that is decided on.
    let two = "x-host: board.prod,evil.example\r\nhost: evil.example\r\n";
    for answer in ask(&head("/open", "board.prod", two)) {
        let seen = answer.seen.as_ref().map(|(_, host)| host.as_str());
        let is_refused = matches!(answer.status, 400 | 404) && seen.is_none();
        assert!(is_refused || seen == Some("board.prod,evil.example"), "{answer:?}");
    }
    let answer = both::ask(world.web.egress, "board.prod", "evil.example");
    let is_told = answer.as_ref().is_ok_and(|(status, host)| *status == 200 && host == "board.prod");
    let is_refused = answer.as_ref().map_or(true, |(status, _)| *status == 400);
    assert!(is_told || is_refused, "{answer:?}");
}

#[test]
fn one_host_is_decided_on_by_weft() {
    one_host_is_decided_on(Weft);
}

#[test]
fn one_host_is_decided_on_by_envoy() {
    one_host_is_decided_on(Envoy);
}

/// `:authority` against `host`, which no library of clients writes.
mod both {
    use std::net::SocketAddr;

    use hyper::Request;
    use serde_json::Value;
    use tokio::net::TcpStream;

    /// The status, and the host that the app got; or how the stream or the connection ended.
    pub(super) fn ask(egress: SocketAddr, authority: &str, host: &str) -> Result<(u16, String), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let asked = async {
            let tcp = TcpStream::connect(egress).await.expect("the egress accepts");
            let (send, connection) = h2::client::handshake(tcp).await?;
            tokio::spawn(connection);
            let request = Request::get(format!("http://{authority}/open")).header("host", host);
            let request = request.header("x-host", authority).body(()).expect("a request");
            let mut answer = send.ready().await?.send_request(request, true)?.0.await?;
            let mut body = Vec::new();
            while let Some(data) = answer.body_mut().data().await {
                body.extend_from_slice(&data?);
            }
            Ok::<_, h2::Error>((answer.status().as_u16(), body))
        };
        let (status, body) = runtime.block_on(asked).map_err(|error| error.to_string())?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = told["headers"].as_array().into_iter().flatten().find(|field| field[0] == "host");
        Ok((status, field.and_then(|field| field[1].as_str()).unwrap_or_default().to_owned()))
    }
}
