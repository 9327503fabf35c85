//! Certificates turn over under load and nobody notices.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft_tests::app::App;
use weft_tests::load::{Load, Target};
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{tls, wait};

const RATE: u64 = 200;

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

#[test]
fn twenty_rotations_under_load_fail_no_request() {
    rotations(DataPlane::Weft, 20);
}

#[test]
fn envoy_rotates_twenty_times_under_load_too() {
    rotations(DataPlane::Envoy, 20);
}
