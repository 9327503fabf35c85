//! Signals: those that ask for something, and those that must not end a process in the middle of its work.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_tests::app::App;
use weft_tests::load::{Load, Target};
use weft_tests::mesh::Mesh;
use weft_tests::process::Process;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, log, peers, ports, wait};

const SOON: Duration = Duration::from_secs(30);

const HARMLESS: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGXFSZ,
    Signal::SIGXCPU,
];

#[test]
fn no_signal_ends_a_call_that_is_under_way() {
    let mut mesh = Mesh::start();
    let app = App::start("v1");
    let mut board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1"));
    let mut web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let listen = ports::free();
    let mut demo = Process::start(mesh.folder(), "demo", peers::weft(), ["demo", "--listen", &listen.to_string()], &[]);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/x".to_owned() };
    mesh.wait_endpoints("prod/board", 1);
    let egress = web.egress;
    let call = move || (0..50).any(|_| curl::get(egress, "board.prod", "/api/x", &[]).status == 200);
    wait::until("a first call", SOON, || if call() { Ok(()) } else { Err("none") });
    drop(target);

    // To v1, whatever the weights are.
    let held = std::thread::spawn(move || {
        (0..50).map(|_| curl::get(egress, "board.prod", "/hold", &["-d", "x"])).find(|reply| reply.status != 503)
    });
    wait::until("the call to be under way", SOON, || if app.held() > 0 { Ok(()) } else { Err("not yet") });
    for signal in HARMLESS {
        for process in [board.process(), web.process(), mesh.server(), &mut demo] {
            process.signal(signal);
        }
    }
    assert!(call(), "calls go on");
    // Those without a name: SIGSTKFLT and the real-time signals, of which the fourth asks to stop.
    for number in [nix::libc::SIGSTKFLT].into_iter().chain(nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()) {
        if number != nix::libc::SIGRTMIN() + 3 {
            for process in [board.process(), web.process(), mesh.server(), &mut demo] {
                process.signal_number(number);
            }
        }
    }
    assert!(call(), "calls go on");
    app.release();
    let reply = held.join().expect("no panic").expect("one went to v1");
    assert_eq!((reply.status, &*reply.body), (200, "1 120"), "{reply:?}");
    for process in [board.process(), web.process(), mesh.server(), &mut demo] {
        process.assert_running();
    }
    for (name, process) in [("server", mesh.server()), ("demo", &mut demo)] {
        process.signal(Signal::SIGQUIT);
        assert!(process.wait(SOON).success(), "{name}");
    }
}

#[test]
fn what_asks_to_stop_drains() {
    let mesh = Mesh::start();
    for (name, signal) in [("int", Signal::SIGINT), ("quit", Signal::SIGQUIT), ("term", Signal::SIGTERM)] {
        let spec = Spec::new("prod/web", ports::free()).running(&["sh", "-c", "while :; do sleep 0.1; done"]).drain(20);
        let mut sidecar = mesh.sidecar(name, spec);
        wait::until("the app", SOON, || {
            let log = sidecar.process().output();
            if log.contains("the app is started") { Ok(()) } else { Err(log) }
        });
        // Twice at once, as `timeout` does to a process of its own group, is once.
        sidecar.process().signal(signal);
        sidecar.process().signal(signal);
        assert_eq!(sidecar.process().wait(SOON).code(), Some(0), "{signal}");
        let log = sidecar.process().output();
        assert!(log.contains("drained") && !log.contains("once more"), "{log}");
    }
}

#[test]
fn a_second_signal_cuts_a_drain_short() {
    let mesh = Mesh::start();
    let stubborn = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done";
    let spec = Spec::new("prod/web", ports::free()).running(&["sh", "-c", stubborn]).drain(3600);
    let mut sidecar = mesh.sidecar("web", spec);
    let pid = mesh.folder().join("web/pid");
    wait::until("the app", SOON, || if pid.exists() { Ok(()) } else { Err("not yet") });
    let status = wait::until("the sidecar to end", SOON, || {
        sidecar.process().signal(Signal::SIGTERM);
        sidecar.process().exited().ok_or("it still runs")
    });
    assert_eq!(status.code(), Some(128 + 9));
    let log = sidecar.process().output();
    assert!(log.contains("told to stop once more: the app is killed"), "{log}");
}

/// Moves the log away again and again under load. Each call is in exactly one of the files.
fn rotate(data_plane: DataPlane) {
    const RATE: u64 = 200;
    const TURNS: usize = 8;
    let mesh = Mesh::start_with(|repo| {
        repo.replace("services/board.yaml", "{subset: v1, weight: 80}, {subset: v2, weight: 20}", "{subset: v1}");
    });
    let app = App::start("v1");
    let spec = Spec::new("prod/board", app.address()).label("version", "v1").on(data_plane).drain(1);
    let mut board = mesh.sidecar("board", spec);
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    mesh.wait_endpoints("prod/board", 1);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();

    let load = Load::start(target, RATE);
    let moved = |turn: usize| board.access_log.with_extension(turn.to_string());
    for turn in 0..TURNS {
        let begun = load.succeeded();
        wait::until("some calls", SOON, || if load.succeeded() > begun + 50 { Ok(()) } else { Err("fewer") });
        // Envoy opens its log when it has the first line for it.
        wait::until("a log", SOON, || if board.access_log.exists() { Ok(()) } else { Err("none") });
        fs::rename(&board.access_log, moved(turn)).expect("it is there");
        match turn % 3 {
            0 => drop(nix::sys::signal::kill(pid(&board), Signal::SIGUSR1)),
            1 => drop(nix::sys::signal::kill(pid(&board), Signal::SIGHUP)),
            _ => {
                let url = format!("http://{}/reopen_logs", board.admin);
                let reply = curl::curl(&["-X", "POST", &url]);
                assert_eq!((reply.status, reply.body.trim()), (200, "OK"), "{reply:?}");
                let get = curl::curl(&[&url]);
                assert_ne!(get.status, 200, "reading changes nothing: {get:?}");
            }
        }
        wait::until("a new log", SOON, || if board.access_log.exists() { Ok(()) } else { Err("none") });
    }
    let outcome = load.stop();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    let files: Vec<_> = (0..TURNS).map(moved).chain([board.access_log.clone()]).collect();
    assert!(board.stop().success());

    let lines: Vec<_> = files.iter().flat_map(|file| log::json_lines(file)).collect();
    let ids: BTreeSet<_> = lines.iter().map(|line| line["request_id"].to_string()).collect();
    assert_eq!(ids.len(), lines.len(), "no line is in two files");
    assert_eq!(lines.len() as u64, app.requests(), "no line is lost");
    let raw: usize = files.iter().map(|file| fs::read_to_string(file).expect("readable").lines().count()).sum();
    assert_eq!(raw, lines.len(), "no line is torn");
}

fn pid(sidecar: &Sidecar) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(sidecar.pid().cast_signed())
}

#[test]
fn a_log_that_is_moved_away_is_opened_again_without_a_lost_line() {
    rotate(DataPlane::Weft);
}

#[test]
fn envoys_log_that_is_moved_away_is_opened_again_without_a_lost_line() {
    rotate(DataPlane::Envoy);
}

/// The last calls before the end have their lines: one that a drain waits for, and one that the end cuts off.
#[test]
fn the_last_calls_are_in_the_log() {
    let mesh = Mesh::start_with(|repo| {
        repo.replace("services/board.yaml", "{subset: v1, weight: 80}, {subset: v2, weight: 20}", "{subset: v1}");
    });
    let app = App::start("v1");
    let spec = Spec::new("prod/board", app.address()).label("version", "v1").drain(2);
    let mut board = mesh.sidecar("board", spec);
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    for (turn, waited_for) in [(1, true), (2, false)] {
        mesh.wait_endpoints("prod/board", 1);
        Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/x".to_owned() }.wait_reachable();
        let egress = web.egress;
        let held = std::thread::spawn(move || curl::get(egress, "board.prod", "/hold", &["-d", "x"]));
        wait::until("the call to be under way", SOON, || if app.held() == turn { Ok(()) } else { Err("not yet") });
        board.process().signal(Signal::SIGTERM);
        wait::until("the drain", SOON, || {
            let log = board.process().output();
            let begun = log.matches("the endpoint is withdrawn").count() as u64;
            if begun == turn { Ok(()) } else { Err(log) }
        });
        if waited_for {
            app.release();
        }
        assert!(board.process().wait(SOON).success());
        let reply = held.join().expect("no panic");
        assert_eq!(reply.status == 200, waited_for, "{reply:?}");
        let lines = log::json_lines(&board.access_log);
        assert_eq!(lines.iter().filter(|line| line["path"] == "/hold").count() as u64, turn, "{lines:#?}");
        board.restart();
    }
}

/// What is in force is on disk when the process has ended, however shortly before it came.
#[test]
fn a_sidecar_that_is_stopped_at_once_starts_again_without_a_control_plane() {
    let mut mesh = Mesh::start();
    let mut web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    assert!(web.stop().success());
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&web.state).expect("its folder").flatten();
        entries.map(|entry| entry.file_name().into_string().expect("text")).collect()
    };
    assert!(names().contains(&"xds-cache".to_owned()), "{:?}", names());
    // Of a process that was killed while it wrote.
    fs::write(web.state.join("xds-cache.4711.new"), "half").expect("written");
    fs::write(web.state.join("xds-cache.new"), "half").expect("written");
    web.restart();
    mesh.repo.replace("services/board.yaml", "weight: 20", "weight: 30");
    let commit = mesh.commit("Just before the end");
    mesh.kill_server();
    assert!(web.stop().success());
    let entries = fs::read_dir(&web.state).expect("its folder").flatten();
    let remains: Vec<_> =
        entries.map(|entry| entry.file_name()).filter(|n| n.to_string_lossy().ends_with("new")).collect();
    assert!(remains.is_empty(), "{remains:?}");
    web.restart();
    let dump = curl::curl(&[&format!("http://{}/config_dump", web.admin)]);
    assert!(dump.body.contains(&commit), "{} is not in {}", commit, dump.body);
}
