//! What goes on when nothing can be written.

use std::fs;

use weft_tests::mesh::Mesh;
use weft_tests::process::Process;
use weft_tests::sidecar::Spec;
use weft_tests::{curl, peers, ports, wait};

/// A log on a full disk loses lines. It ended the process once: the complaint about it goes to the same full disk.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let mesh = Mesh::start();
    let [xds, authz, api] = std::array::from_fn(|_| ports::free().to_string());
    let repo = mesh.repo.root().display().to_string();
    let weft = peers::weft().display().to_string();
    let script = "exec \"$@\" 2>/dev/full";
    let args = ["-c", script, "sh", &weft, "server", "--repo", &repo, "--state", "another"];
    let args = args.into_iter().chain(["--xds", &xds, "--authz", &authz, "--http", &api]);
    let mut server = Process::start(mesh.folder(), "another-server", "sh", args, &[]);
    wait::until("it to serve", wait::SOON, || {
        server.assert_running();
        let reply = curl::curl(&[&format!("http://{api}/readyz")]);
        if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
}

/// A commit runs whether it can be saved or not, and is saved as soon as it can be.
#[test]
fn a_commit_that_cannot_be_saved_is_saved_later() {
    let mut mesh = Mesh::start();
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let file = mesh.state().join("commit.json");
    fs::remove_file(&file).expect("the first commit was saved");
    fs::create_dir(&file).expect("something is in the way");
    mesh.repo.replace("services/board.yaml", "weight: 20", "weight: 30");
    let commit = mesh.commit("It runs all the same");
    wait::until("the log to say so", wait::SOON, || {
        let log = mesh.server().output();
        if log.contains("the commit was not saved, and is tried again") { Ok(()) } else { Err(log) }
    });
    assert!(!mesh.state().join("commit.new").exists(), "what was begun is not left behind");
    fs::remove_dir(&file).expect("still empty");
    wait::until("it to be saved", wait::SOON, || {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        if text.contains(&commit) { Ok(()) } else { Err(text) }
    });
    drop(web);
}
