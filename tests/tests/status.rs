//! What `weft status` says of proxies that do not answer, and of those that are gone.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_tests::mesh::{Mesh, text};
use weft_tests::process::Process;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{family, peers, ports, wait};

/// What `weft status` prints of the mesh.
fn shown(mesh: &Mesh) -> String {
    text(&mesh.weft(&["status"]))
}

#[test]
fn a_silent_proxy_is_named_and_a_lost_one_holds_up_nobody() {
    let mesh = Mesh::start();
    let mut web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let pair = mesh.svid("prod/board", "board");
    let script = peers::script("ads.py").display().to_string();
    let (xds, files) = (mesh.xds.to_string(), [&pair.bundle, &pair.certificate, &pair.key]);
    let [bundle, certificate, key] = files.map(|file| file.display().to_string());
    let args = [&*script, &xds, &bundle, "prod/board", &certificate, &key, "silent"];
    let mut silent = Process::start(mesh.folder(), "silent", peers::venv("python"), args, &[]);
    wait::until("it to have its clusters", wait::SOON, || {
        silent.assert_running();
        if silent.output().contains("OK") { Ok(()) } else { Err(silent.output()) }
    });

    mesh.repo.replace("services/board.yaml", "weight: 20", "weight: 30");
    let commit = mesh.repo.commit("Nobody minds");
    let waited = mesh.weft(&["status", &commit, "--wait", "--timeout", "2"]);
    let said = text(&waited);
    assert_eq!(waited.status.code(), Some(1), "{said}");
    assert!(said.contains("was not settled within 2 s"), "{said}");
    assert!(said.contains("prod/board~test has neither accepted nor refused CDS for "), "{said}");
    assert!(!said.contains("prod/web"), "{said}");

    let waited = mesh.weft(&["status", &commit, "--wait", "--timeout", "0.2", "--output", "json"]);
    assert_eq!(waited.status.code(), Some(1));
    let change: Value = serde_json::from_slice(&waited.stdout).expect("JSON also when the time is over");
    assert_eq!(change["state"], "rolling", "{change}");
    let waiting = &change["waiting"][0];
    assert_eq!((&waiting["node"], &waiting["unanswered"][0]["kind"]), (&"prod/board~test".into(), &"CDS".into()));
    wait::until("the mesh's page to name it", wait::SOON, || {
        let page = shown(&mesh);
        if page.contains("prod/board~test has neither accepted nor refused CDS for 1") { Ok(()) } else { Err(page) }
    });

    // Lost, it is waited for by nobody, shown for as long as it may come back, and then no longer.
    silent.kill();
    mesh.acknowledged(&commit);
    let page = shown(&mesh);
    assert!(page.lines().any(|line| line.contains("prod/board~test") && line.contains("lost for ")), "{page}");
    wait::until("the lost proxy to leave the list", Duration::from_secs(60), || {
        let page = shown(&mesh);
        if page.contains("prod/board~test") { Err(page) } else { Ok(()) }
    });

    // One that says goodbye is not lost.
    assert!(web.stop().success());
    wait::until("the list to be empty", Duration::from_secs(10), || {
        let page = shown(&mesh);
        assert!(!page.contains("lost"), "{page}");
        if page.contains("prod/web~") || !page.contains("no proxy is connected") { Err(page) } else { Ok(()) }
    });
}

/// Kills the Envoy that the sidecar runs; the sidecar starts another.
#[track_caller]
fn kill_envoy(sidecar: &Sidecar) {
    let envoy = wait::until("an Envoy", wait::SOON, || {
        let family = family::descendants(sidecar.pid());
        family.iter().find(|member| member.name == "envoy" && !member.zombie).map(|member| member.pid).ok_or("none")
    });
    kill(Pid::from_raw(envoy.cast_signed()), Signal::SIGKILL).expect("it runs");
}

#[test]
fn a_restarted_envoy_that_refuses_what_the_old_one_ran_on_is_told_of() {
    let mesh = Mesh::start();
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(DataPlane::Envoy));
    wait::until("it to run the commit", wait::SOON, || {
        let status = mesh.api("/api/status")?;
        if status["proxies"]["acknowledged"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });

    // Somebody takes the port between the death of one Envoy and the start of the next.
    let ingress = web.ingress;
    let thief = std::thread::spawn(move || {
        loop {
            if let Ok(listener) = TcpListener::bind(ingress) {
                return listener;
            }
        }
    });
    kill_envoy(&web);
    let stolen = thief.join().expect("no panic");
    wait::until("the refusal", wait::SOON, || {
        let page = shown(&mesh);
        if page.contains("refuses LDS [ingress]: ingress: cannot bind") { Ok(()) } else { Err(page) }
    });

    drop(stolen);
    kill_envoy(&web);
    wait::until("the next Envoy to accept it", wait::SOON, || {
        let status = mesh.api("/api/status")?;
        let proxies = &status["proxies"];
        let good = proxies["acknowledged"] == 1 && proxies["refused"] == 0 && status["serving"]["state"] == "done";
        if good { Ok(()) } else { Err(status.to_string()) }
    });
}
