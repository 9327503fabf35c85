//! What an app starts ends with it, and it ends with its sidecar, whatever ends first and however.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::family::{self, Member};
use weft_tests::mesh::Mesh;
use weft_tests::process::Process;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, peers, ports, wait};

const SOON: Duration = Duration::from_secs(30);

/// A server in the background of a shell; one in a session of its own; one whose parent has ended; one that does not listen to SIGTERM.
const LARGE_FAMILY: &str = "\"$WEFT\" demo --listen \"$LISTEN\" & setsid sleep 1000 & (sleep 1000 &); \
                            (trap '' TERM; exec sleep 1000) & wait";

struct World {
    sidecar: Sidecar,
    folder: PathBuf,
    _mesh: Mesh,
}

impl World {
    /// A sidecar that runs `script` as its app, once the server of it answers.
    fn start(data_plane: DataPlane, script: &str) -> Self {
        let mesh = Mesh::start();
        let address = ports::free();
        let script = format!("WEFT='{}'; LISTEN={address}; {script}", peers::weft().display());
        let spec = Spec::new("prod/web", address).on(data_plane).running(&["sh", "-c", &script]);
        let sidecar = Sidecar::launch(mesh.folder(), "web", mesh.xds, Some(&mesh.token("prod/web")), spec);
        let folder = mesh.folder().join("web").canonicalize().expect("it is there");
        wait::until("the app to answer", SOON, || {
            let reply = curl::curl(&[&format!("http://{address}/hello")]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        let world = Self { sidecar, folder, _mesh: mesh };
        world.sleepers(3);
        world
    }

    fn sleepers(&self, count: usize) {
        wait::until("the whole family", SOON, || {
            let family = family::living_in(&self.folder);
            let sleepers = family.iter().filter(|member| member.name == "sleep").count();
            if sleepers == count { Ok(()) } else { Err(format!("{family:?}")) }
        });
    }

    fn nobody_is_left(&self) {
        wait::until("everybody to end", SOON, || {
            let left = family::living_in(&self.folder);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        assert!(std::net::TcpListener::bind(self.sidecar.spec.app).is_ok(), "the app's port is free");
    }
}

#[test]
fn a_stopped_sidecar_leaves_nothing_of_its_app() {
    let mut world = World::start(DataPlane::Weft, LARGE_FAMILY);
    assert_eq!(world.sidecar.stop().code(), Some(128 + 9), "one of them had to be killed");
    assert_eq!(family::living_in(&world.folder), [], "gone before the sidecar is");
    world.nobody_is_left();
}

#[test]
fn a_killed_sidecar_leaves_nothing_of_its_app() {
    for data_plane in [DataPlane::Weft, DataPlane::Envoy] {
        let mut world = World::start(data_plane, LARGE_FAMILY);
        world.sidecar.process().signal(Signal::SIGKILL);
        world.sidecar.process().wait(SOON);
        // A supervisor starts it again at once: it waits for the end of what holds its ports.
        world.sidecar.restart();
        wait::until("the app to answer again", SOON, || {
            world.sidecar.process().assert_running();
            let reply = curl::curl(&[&format!("http://{}/hello", world.sidecar.spec.app)]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        world.sleepers(3);
        world.sidecar.process().signal(Signal::SIGKILL);
        world.sidecar.process().wait(SOON);
        world.nobody_is_left();
    }
}

#[test]
fn an_app_that_ends_by_itself_leaves_nothing() {
    let mut world = World::start(
        DataPlane::Weft,
        &LARGE_FAMILY.replace(" wait", " read line < fifo; exit 7").replacen("\"$WEFT\"", "mkfifo fifo; \"$WEFT\"", 1),
    );
    std::fs::write(world.folder.join("fifo"), "end\n").expect("it reads");
    assert_eq!(world.sidecar.process().wait(SOON).code(), Some(7));
    assert_eq!(family::living_in(&world.folder), [], "gone before the sidecar is");
    world.nobody_is_left();
}

/// What stays in its place when nobody asks for more: SIGTERM is for the program, which ends its workers as it sees fit.
#[test]
fn a_program_ends_its_own_workers() {
    let script = "(trap 'echo worker was told' TERM; while :; do sleep 0.1; done) & worker=$!
                  trap 'echo program was told; kill -KILL $worker; exit 0' TERM; \"$WEFT\" demo --listen \"$LISTEN\" & echo ready > ready
                  while :; do wait; done";
    let mesh = Mesh::start();
    let address = ports::free();
    let script = format!("WEFT='{}'; LISTEN={address}; {script}", peers::weft().display());
    let spec = Spec::new("prod/web", address).running(&["sh", "-c", &script]).drain(20);
    let mut sidecar = Sidecar::launch(mesh.folder(), "web", mesh.xds, Some(&mesh.token("prod/web")), spec);
    let ready = mesh.folder().join("web/ready");
    wait::until("the program", SOON, || if ready.exists() { Ok(()) } else { Err("not yet") });
    assert_eq!(sidecar.stop().code(), Some(0));
    let told = sidecar.process().output();
    assert!(told.contains("program was told") && !told.contains("worker was told"), "{told}");
}

/// A supervisor that signals a whole group, as `timeout` and many process managers do, does not end the app before it is drained.
#[test]
fn a_signal_to_the_group_of_a_sidecar_is_for_the_sidecar() {
    let script = "trap 'echo program was told; exit 0' TERM INT; echo ready > ready; while :; do sleep 0.05; done";
    let mesh = Mesh::start();
    let spec = Spec::new("prod/web", ports::free()).running(&["sh", "-c", script]).drain(20);
    let mut sidecar = Sidecar::launch(mesh.folder(), "web", mesh.xds, Some(&mesh.token("prod/web")), spec);
    let ready = mesh.folder().join("web/ready");
    wait::until("the program", SOON, || if ready.exists() { Ok(()) } else { Err("not yet") });
    nix::sys::signal::killpg(Pid::from_raw(sidecar.pid().cast_signed()), Signal::SIGTERM).expect("it leads its group");
    assert_eq!(sidecar.process().wait(SOON).code(), Some(0));
    let log = sidecar.process().output();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no `{what}` in {log}"));
    assert!(at("drained") < at("program was told"), "{log}");
}

/// How to start a program as the first process of a PID namespace, if this machine lets us.
fn first_process() -> Option<Vec<&'static str>> {
    let mut command = vec!["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !nix::unistd::geteuid().is_root() {
        command.extend(["--user", "--map-root-user"]);
    }
    let tried = Command::new(command[0]).args(&command[1..]).arg("true").stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success()).then_some(command)
}

#[test]
fn the_first_process_of_a_container_reaps_and_passes_signals_on() {
    let Some(unshare) = first_process() else {
        eprintln!("skipped: no PID namespace can be made here");
        return;
    };
    let mesh = Mesh::start();
    let [egress, ingress, admin, health, metrics, app] = std::array::from_fn(|_| ports::free().to_string());
    let (weft, xds, token) = (peers::weft().display().to_string(), mesh.xds.to_string(), mesh.token("prod/web"));
    // Orphans of the app, and an orphan that was no child of the sidecar's, as `docker exec` leaves them.
    let script = "for n in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 & sleep 0.1 &) done; echo ready > ready; exec sleep 1000";
    let mut args: Vec<&str> = unshare[1..].to_vec();
    args.extend([
        &weft,
        "sidecar",
        "--service",
        "prod/web",
        "--server",
        &xds,
        "--join-token",
        &token,
        "--state",
        "state",
    ]);
    for (flag, address) in [
        ("--app", &app),
        ("--egress", &egress),
        ("--ingress", &ingress),
        ("--admin", &admin),
        ("--health", &health),
        ("--prometheus", &metrics),
    ] {
        args.extend([flag, address]);
    }
    args.extend(["--drain", "20", "--", "sh", "-c", script]);
    let mut container = Process::start(mesh.folder(), "container", unshare[0], args, &[]);
    let ready = mesh.folder().join("ready");
    wait::until("the app", SOON, || {
        container.assert_running();
        if ready.exists() { Ok(()) } else { Err("not yet") }
    });
    let inside = || family::descendants(container.id());
    let first = inside().iter().find(|member| member.parent == container.id()).expect("unshare has a child").pid;
    // One more, into the container: its parent ends at once, and the first process has it.
    let entered = Command::new("nsenter")
        .args(["--target", &first.to_string(), "--pid", "--mount", "sh", "-c", "(sleep 0.1 &) ; (sleep 0.2 &)"])
        .status();
    assert!(entered.expect("nsenter runs").success());
    wait::until("every orphan to end and be reaped", SOON, || {
        let all = inside();
        let left = |member: &&Member| member.zombie || member.name == "sleep";
        let left: Vec<_> = all.iter().filter(left).collect();
        // The app itself sleeps on.
        if left.len() == 1 && !left[0].zombie { Ok(()) } else { Err(format!("{all:?}")) }
    });
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGTERM).expect("it runs");
    assert_eq!(container.wait(SOON).code(), Some(0), "{}", container.output());
    assert!(container.output().contains("drained"), "{}", container.output());
}
