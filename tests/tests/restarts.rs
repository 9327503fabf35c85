//! A unit of a service manager, a sidecar with its app, is restarted under load.
//!
//! The signals are sent in the order of systemd.kill(5): with `KillMode=mixed`, as `docs/running.md` has it, SIGTERM to the main process and,
//! when that has ended, SIGKILL to whatever is left of the unit.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::load::{Load, Target};
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{family, peers, ports, wait};

const RATE: u64 = 100;
const RESTARTS: usize = 4;

struct Unit {
    sidecar: Sidecar,
}

impl Unit {
    fn start(mesh: &Mesh, name: &str, data_plane: DataPlane) -> Self {
        let address = ports::free();
        let weft = peers::weft().display().to_string();
        let command = [&*weft, "demo", "--name", name, "--listen", &address.to_string()];
        let spec = Spec::new("prod/board", address).label("version", "v1").on(data_plane).running(&command).drain(5);
        Self { sidecar: mesh.sidecar(name, spec) }
    }

    /// `systemctl restart` with `KillMode=mixed`.
    fn restart(&mut self) {
        let unit = family::descendants(self.sidecar.pid());
        assert!(!unit.is_empty(), "the app runs");
        assert_eq!(self.sidecar.stop().code(), Some(0));
        for member in unit {
            // Nothing is left: a signal finds nobody.
            assert!(kill(Pid::from_raw(member.pid.cast_signed()), Signal::SIGKILL).is_err(), "{member:?} is left");
        }
        self.sidecar.restart();
    }
}

fn restarts(data_plane: DataPlane) {
    let mesh = Mesh::start_with(|repo| {
        repo.replace("services/board.yaml", "{subset: v1, weight: 80}, {subset: v2, weight: 20}", "{subset: v1}");
    });
    let mut units = ["one", "two"].map(|name| Unit::start(&mesh, name, data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    mesh.wait_endpoints("prod/board", 2);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();

    let (load, start) = (Load::start(target, RATE), Instant::now());
    for turn in 0..RESTARTS {
        let begun = load.succeeded();
        wait::until("some calls", wait::SOON, || if load.succeeded() > begun + 50 { Ok(()) } else { Err("fewer") });
        units[turn % 2].restart();
        mesh.wait_endpoints("prod/board", 2);
    }
    let elapsed = start.elapsed();
    let outcome = load.stop();
    outcome.assert_clean(RATE, elapsed.max(Duration::from_secs(1)));
}

#[test]
fn a_unit_is_restarted_and_no_call_fails() {
    restarts(DataPlane::Weft);
}

#[test]
fn a_unit_with_envoy_is_restarted_and_no_call_fails() {
    restarts(DataPlane::Envoy);
}
