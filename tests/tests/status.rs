//! What `weft status` says of proxies that do not answer, and of those that are gone.

use std::time::Duration;

use serde_json::Value;
use weft_tests::mesh::{Mesh, text};
use weft_tests::process::Process;
use weft_tests::sidecar::Spec;
use weft_tests::{peers, ports, wait};

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
