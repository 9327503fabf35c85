//! Names where an address is asked for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use weft_tests::load::Target;
use weft_tests::mesh::Mesh;
use weft_tests::process::Process;
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{curl, peers, ports, wait};

/// An app that listens at one address and answers everything with it.
fn app(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("the port is free");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut bytes = [0; 1024];
                loop {
                    match stream.read(&mut bytes) {
                        Ok(0) | Err(_) => return,
                        Ok(count) => head.extend_from_slice(&bytes[..count]),
                    }
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let body = address.to_string();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        if stream.write_all(head.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
}

/// `localhost` has addresses of both families; the app listens on one of them.
fn by_name(data_plane: DataPlane) {
    let mesh = Mesh::start_with(|repo| {
        repo.replace("services/board.yaml", "{subset: v1, weight: 80}, {subset: v2, weight: 20}", "{subset: v1}");
    });
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    for host in ["127.0.0.1", "::1"] {
        let port = ports::free().port();
        let address = SocketAddr::new(host.parse().expect("an address"), port);
        let spec = Spec::new("prod/board", SocketAddr::from(([127, 0, 0, 1], port)));
        let spec = spec.label("version", "v1").app_host("localhost").on(data_plane);
        let mut board = mesh.sidecar(&format!("board-{}", host.len()), spec);
        // It is there before the app is.
        app(address);
        mesh.wait_endpoints("prod/board", 1);
        let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/x".to_owned() };
        // Callers were told of the endpoint when it could take calls, not before.
        let first = wait::until("a call that finds the endpoint", wait::SOON, || {
            let reply = curl::get(web.egress, "board.prod", "/api/x", &[]);
            if reply.body.contains("no_endpoint") { Err(reply.body) } else { Ok(reply) }
        });
        assert_eq!((first.status, first.body), (200, address.to_string()));
        target.wait_reachable();
        assert!(board.stop().success());
        mesh.wait_endpoints("prod/board", 0);
    }
}

#[test]
fn an_app_by_name_is_reached_at_the_address_where_it_listens() {
    by_name(DataPlane::Weft);
}

#[test]
fn envoy_reaches_an_app_by_name_too() {
    by_name(DataPlane::Envoy);
}

#[test]
fn whatever_listens_takes_a_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = ports::free().port();
    let listen = format!("localhost:{port}");
    let mut demo = Process::start(folder.path(), "demo", peers::weft(), ["demo", "--listen", &listen], &[]);
    wait::until("it to answer", wait::SOON, || {
        demo.assert_running();
        let reply = curl::curl(&[&format!("http://127.0.0.1:{port}/hello")]);
        if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
}

#[test]
fn what_is_no_address_is_told_what_to_write() {
    for (role, option) in [
        ("sidecar", "--app"),
        ("sidecar", "--egress"),
        ("sidecar", "--ingress"),
        ("sidecar", "--advertise"),
        ("sidecar", "--admin"),
        ("sidecar", "--health"),
        ("sidecar", "--prometheus"),
        ("server", "--xds"),
        ("server", "--authz"),
        ("server", "--http"),
        ("demo", "--listen"),
    ] {
        let output = Command::new(peers::weft()).args([role, option, "localhost"]).output().expect("weft runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{role} {option}: {told}");
        assert!(told.contains("write IP:PORT or NAME:PORT"), "{role} {option}: {told}");
    }
}

#[test]
fn a_name_without_an_address_is_told_and_tried_again() {
    let mesh = Mesh::start();
    let spec = Spec::new("prod/web", ports::free()).app_host("no-such-name.invalid");
    let mut sidecar = mesh.sidecar("web", spec);
    wait::until("the log to say so", Duration::from_secs(30), || {
        let log = sidecar.process().output();
        if log.contains("the app's name has no address; looking again until it has") { Ok(()) } else { Err(log) }
    });
    assert!(sidecar.stop().success());
}
