//! What goes on while something is away.

use std::time::{Duration, Instant};

use weft_tests::app::App;
use weft_tests::load::{Load, Target};
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{curl, ports, wait};

const RATE: u64 = 200;

#[test]
fn traffic_goes_on_without_the_control_plane() {
    let mut mesh = Mesh::start();
    let app = App::start("app");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1"));
    let second =
        mesh.sidecar("board-2", Spec::new("prod/board", app.address()).label("version", "v2").on(DataPlane::Envoy));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let mut again = [
        mesh.sidecar("web-weft", Spec::new("prod/web", ports::free())),
        mesh.sidecar("web-envoy", Spec::new("prod/web", ports::free()).on(DataPlane::Envoy)),
    ];
    mesh.wait_endpoints("prod/board", 2);
    let target = |address| Target { address, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target(web.egress).wait_reachable();
    for sidecar in &again {
        target(sidecar.egress).wait_reachable();
    }

    let load = Load::start(target(web.egress), RATE);
    let start = Instant::now();
    mesh.kill_server();
    let away = Instant::now();
    for sidecar in &mut again {
        assert!(sidecar.stop().success(), "{sidecar:?}");
        sidecar.restart();
        let reply = curl::get(sidecar.egress, "board.prod", "/api/", &[]);
        assert_eq!(reply.status, 200, "restarted from its cache: {reply:?}");
    }
    wait::until("the outage to last 30 s", Duration::from_secs(60), || {
        if away.elapsed() >= Duration::from_secs(30) { Ok(()) } else { Err("not yet") }
    });
    mesh.start_server();
    // All five come back by themselves and take the next commit.
    wait::until("every sidecar to reconnect", Duration::from_secs(30), || {
        let status = mesh.api("/api/status")?;
        if status["proxies"]["connected"] == 5 { Ok(()) } else { Err(status["proxies"].to_string()) }
    });
    mesh.repo.replace("services/board.yaml", "weight: 20", "weight: 30");
    mesh.commit("After the outage");
    let elapsed = start.elapsed();
    load.stop().assert_clean(RATE, elapsed);
    drop((web, again, board, second));
}

fn leaving(data_plane: DataPlane) {
    let mesh = Mesh::start();
    let apps = [App::start("one"), App::start("two")];
    let mut boards: Vec<_> = ["board-1", "board-2"]
        .iter()
        .zip(&apps)
        .map(|(name, app)| {
            mesh.sidecar(name, Spec::new("prod/board", app.address()).label("version", "v1").on(data_plane))
        })
        .collect();
    let third =
        mesh.sidecar("board-3", Spec::new("prod/board", apps[0].address()).label("version", "v2").on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
    mesh.wait_endpoints("prod/board", 3);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();

    let load = Load::start(target, RATE);
    let start = Instant::now();
    let busy = |app: &App| {
        let before = app.requests();
        wait::until("both endpoints to be used", wait::SOON, || {
            if app.requests() > before + 20 { Ok(()) } else { Err("idle") }
        });
    };
    for round in 0..3 {
        busy(&apps[1]);
        let status = boards[1].stop();
        assert!(status.success(), "round {round}: a sidecar that was asked to stop ends with {status}");
        mesh.wait_endpoints("prod/board", 2);
        boards[1].restart();
        mesh.wait_endpoints("prod/board", 3);
    }
    busy(&apps[1]);
    let elapsed = start.elapsed();
    load.stop().assert_clean(RATE, elapsed);
    drop((web, third, boards));
}

#[test]
fn a_sidecar_that_stops_fails_no_request() {
    leaving(DataPlane::Weft);
}

#[test]
fn an_envoy_that_stops_fails_no_request() {
    leaving(DataPlane::Envoy);
}
