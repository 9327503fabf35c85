//! The harness itself: what it does not notice, no test built on it would.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_tests::app::App;
use weft_tests::grpc::{self, Server, Talk};
use weft_tests::load::{Load, Target};
use weft_tests::pki::Authority;
use weft_tests::process::Process;
use weft_tests::{curl, ports, tls, wait};

fn target(app: &App, path: &str) -> Target {
    Target { address: app.address(), host: "app".to_owned(), path: path.to_owned() }
}

#[test]
fn a_load_counts_what_succeeds_and_why_others_fail() {
    let app = App::start("app");
    let load = Load::start(target(&app, "/api/"), 200);
    let start = Instant::now();
    wait::until("100 answers", wait::SOON, || if load.succeeded() >= 100 { Ok(()) } else { Err("fewer") });
    let elapsed = start.elapsed();
    let outcome = load.stop();
    outcome.assert_clean(200, elapsed);
    assert_eq!(outcome.sent, outcome.succeeded);
    assert_eq!(outcome.sent, app.requests(), "each request reaches the app once");

    let load = Load::start(target(&app, "/status/503"), 200);
    wait::until("a request", wait::SOON, || if app.requests() > outcome.sent + 10 { Ok(()) } else { Err("none") });
    let outcome = load.stop();
    assert_eq!((outcome.succeeded, outcome.failures.len() as u64), (0, outcome.sent));
    assert!(outcome.failures[0].1.starts_with("503"), "{:?}", outcome.failures[0]);
}

#[test]
fn a_refused_connection_is_a_failure() {
    let address = ports::free();
    let load = Load::start(Target { address, host: "x".to_owned(), path: "/".to_owned() }, 100);
    let start = Instant::now();
    wait::until("some time", wait::SOON, || {
        if start.elapsed() > Duration::from_millis(100) { Ok(()) } else { Err("early") }
    });
    let outcome = load.stop();
    assert!(outcome.sent > 0 && outcome.succeeded == 0, "{outcome:?}");
    assert!(outcome.failures.iter().all(|(_, why)| why.starts_with("connect")), "{outcome:?}");
}

#[test]
fn a_process_and_its_children_end_with_their_owner() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = "sleep 1000 & echo child $!; wait";
    let process = Process::start(folder.path(), "parent", "sh", ["-c", script], &[]);
    let child = wait::until("the child", wait::SOON, || {
        let output = process.output();
        output.trim().strip_prefix("child ").map(str::to_owned).ok_or(output)
    });
    let alive = |pid: &str| Path::new("/proc").join(pid).join("exe").exists();
    let parent = process.id().to_string();
    assert!(alive(&child) && alive(&parent));
    drop(process);
    wait::until("both to be gone", wait::SOON, || if alive(&child) || alive(&parent) { Err("alive") } else { Ok(()) });
}

#[test]
fn free_ports_are_free_and_differ() {
    let ports: Vec<_> = (0..20).map(|_| ports::free()).collect();
    for port in &ports {
        assert_eq!(ports.iter().filter(|other| *other == port).count(), 1);
        assert!(TcpListener::bind(port).is_ok());
    }
}

#[test]
fn curl_and_the_app_tell_what_was_sent() {
    let app = App::start("me");
    let reply = curl::get(app.address(), "board.prod", "/a/../b?q=1", &["-H", "X-One: 1"]);
    assert_eq!((reply.status, reply.version.as_str()), (200, "1.1"));
    let seen = reply.json();
    assert_eq!((seen["app"].as_str(), seen["target"].as_str()), (Some("me"), Some("/a/../b?q=1")));
    assert!(seen["headers"].to_string().contains(r#"["host","board.prod"],"#), "{seen}");
    assert!(seen["headers"].to_string().contains(r#"["x-one","1"]"#), "{seen}");
}

#[test]
fn the_python_peers_speak_with_each_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (server, client, path) in [("grpc_app.py", "grpc_calls.py", None), ("ws_app.py", "ws_client.py", Some("/ws"))] {
        let server = Server::start(folder.path(), server);
        let address = server.address.to_string();
        let args: Vec<&str> = [address.as_str(), "host.prod"].into_iter().chain(path).collect();
        grpc::suite(client, &args);
        let mut talk = Talk::open(client, &args);
        talk.say();
        talk.close();
    }
}

#[test]
fn a_refusal_by_tls_is_told_from_an_answer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ca = Authority::create(folder.path(), "ca", "a.internal");
    let (server, client) =
        (ca.issue("server", "spiffe://a.internal/s", 1), ca.issue("client", "spiffe://a.internal/c", 1));
    let address = ports::free();
    let file = |path: &Path| path.display().to_string();
    let args = [
        "s_server".to_owned(),
        "-accept".to_owned(),
        address.to_string(),
        "-cert".to_owned(),
        file(&server.certificate),
        "-key".to_owned(),
        file(&server.key),
        "-CAfile".to_owned(),
        file(ca.certificate()),
        "-Verify".to_owned(),
        "2".to_owned(),
        "-verify_return_error".to_owned(),
        "-www".to_owned(),
    ];
    let _server = Process::start(folder.path(), "s_server", "openssl", args, &[]);
    let serial = wait::until("the server", wait::SOON, || tls::serial(address));
    assert!(serial.starts_with("serial="), "{serial}");
    let call = |pair| tls::request(address, pair, "a", "/").response.unwrap_or_default();
    assert!(
        tls::request(address, Some(&client), "a", "/").text.contains("HTTP/1.0 200"),
        "a client of the CA is answered"
    );
    assert_eq!(call(Some(&client)), "", "only an HTTP/1.1 answer counts");
    tls::request(address, None, "a", "/").assert_refused("no certificate");
    let other = Authority::create(folder.path(), "other", "a.internal");
    tls::request(address, Some(&other.issue("o", "spiffe://a.internal/c", 1)), "a", "/").assert_refused("another CA");
}
