//! Certificates turn over under load and nobody notices.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weft_tests::app::{App, echo_bytes};
use weft_tests::load::{Load, Target};
use weft_tests::mesh::{Mesh, text};
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{tls, wait};

const RATE: u64 = 200;
/// Requests a second beside as many new connections as one caller makes.
const BESIDE: u64 = 50;

fn rotations(data_plane: DataPlane, wanted: usize) {
    // The shortest life that intent allows; it is renewed at half of it, so this takes about 5 s a rotation.
    let mesh = Mesh::start_with(|repo| repo.replace("mesh.yaml", "svidTtl: 1h", "svidTtl: 10s"));
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(data_plane));
    let other = mesh.sidecar("board-2", Spec::new("prod/board", app.address()).label("version", "v2").on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", weft_tests::ports::free()).on(data_plane));
    mesh.wait_endpoints("prod/board", 2);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();

    let load = Load::start(target, RATE);
    let start = Instant::now();
    let mut serials = BTreeSet::from([tls::serial(board.ingress).expect("the ingress shows a certificate")]);
    for rotation in 1..=wanted {
        let serial = wait::until(&format!("rotation {rotation}"), Duration::from_secs(20), || {
            let serial = tls::serial(board.ingress)?;
            if serials.contains(&serial) { Err(format!("still {serial}")) } else { Ok(serial) }
        });
        serials.insert(serial);
    }
    let elapsed = start.elapsed();
    load.stop().assert_clean(RATE, elapsed);
    assert_eq!(serials.len(), wanted + 1);
    drop((web, board, other));
}

/// One connection to a TCP service: a handshake between two sidecars, and bytes there and back.
fn connect(egress: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(egress)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"CONNECT db.prod:5432 HTTP/1.1\r\nhost: db.prod:5432\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned()));
    }
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    if &answer == b"hello" { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// The root that signs.
fn active_root(mesh: &Mesh) -> String {
    let trust = mesh.api("/api/identity").expect("the control plane serves");
    let roots = trust["roots"].as_array().expect("roots");
    let active = roots.iter().find(|root| root["state"] == "active").expect("one signs");
    active["id"].as_str().expect("an id").to_owned()
}

/// The root is replaced by plan, and then as if its key were stolen: under requests, and under new connections, each with a handshake.
fn roots(data_plane: DataPlane) {
    let mesh = Mesh::start();
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(data_plane));
    let other = mesh.sidecar("board-2", Spec::new("prod/board", app.address()).label("version", "v2").on(data_plane));
    let db = mesh.sidecar("db", Spec::new("prod/db", echo_bytes()).on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", weft_tests::ports::free()).on(data_plane));
    mesh.wait_endpoints("prod/board", 2);
    mesh.wait_endpoints("prod/db", 1);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();
    wait::until("the way to the database", wait::SOON, || connect(web.egress).map_err(|error| error.to_string()));

    let (load, start) = (Load::start(target, BESIDE), Instant::now());
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (stopped, counted, egress) = (stop.clone(), made.clone(), web.egress);
    let connecting = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            connect(egress).map_err(|error| format!("connection {number}: {error}"))?;
        }
        Ok::<(), String>(())
    });
    let some_more = || {
        let before = made.load(Ordering::Relaxed);
        wait::until("ten more connections", wait::SOON, || match made.load(Ordering::Relaxed) {
            now if now >= before + 10 || connecting.is_finished() => Ok(()),
            now => Err(format!("{now}")),
        });
    };
    let rotate = |args: &[&str]| {
        let state = mesh.state();
        let state = state.to_str().expect("a plain path");
        let output = mesh.weft(&[&["identity", "rotate", "--wait", "2m", "--state-dir", state], args].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    some_more();
    let first = active_root(&mesh);
    let told = rotate(&["--reason", "a drill"]);
    let second = active_root(&mesh);
    assert_ne!(first, second, "{told}");
    assert!(told.contains(&format!("{first}  retired")) && told.contains(&format!("{second}  active")), "{told}");
    some_more();
    let told = rotate(&["--reason", "its key was in a backup", "--compromised", &second]);
    let third = active_root(&mesh);
    assert!(!told.contains(&second) && third != second, "{told}");

    some_more();
    stop.store(true, Ordering::Relaxed);
    connecting.join().expect("the thread ends").expect("no connection fails");
    load.stop().assert_clean(BESIDE, start.elapsed());
    drop((web, board, other, db));
}

#[test]
fn a_planned_and_a_stolen_root_are_replaced_under_load_and_nothing_fails() {
    roots(DataPlane::Weft);
}

#[test]
fn envoy_takes_other_roots_under_load_too() {
    roots(DataPlane::Envoy);
}

#[test]
fn twenty_rotations_under_load_fail_no_request() {
    rotations(DataPlane::Weft, 20);
}

#[test]
fn envoy_rotates_twenty_times_under_load_too() {
    rotations(DataPlane::Envoy, 20);
}
