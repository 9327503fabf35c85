//! How sidecars, their apps and commands begin and end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{peers, ports, wait};

const SOON: Duration = Duration::from_secs(30);

fn launch(mesh: &Mesh, name: &str, command: &[&str]) -> Sidecar {
    let spec = Spec::new("prod/web", ports::free()).running(command);
    Sidecar::launch(mesh.folder(), name, mesh.xds, Some(&mesh.token("prod/web")), spec)
}

/// Process id of an app that writes it to a file, once it has.
fn app_of(mesh: &Mesh, name: &str) -> u32 {
    let file = mesh.folder().join(name).join("pid");
    wait::until("the app to start", SOON, || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| format!("no number: {text}"))
    })
}

#[test]
fn the_exit_code_of_a_sidecar_is_its_apps() {
    let mesh = Mesh::start();
    let stubborn = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done";
    let mut killed = launch(&mesh, "killed", &["sh", "-c", stubborn]);
    app_of(&mesh, "killed");
    assert_eq!(killed.stop().code(), Some(128 + 9), "the app was killed after the drain time");

    let mut kind = launch(&mesh, "kind", &["sh", "-c", "echo $$ > pid; while :; do sleep 0.1; done"]);
    app_of(&mesh, "kind");
    assert_eq!(kind.stop().code(), Some(0), "the app ended as it was told");

    let mut crashed = launch(&mesh, "crashed", &["sh", "-c", "kill -SEGV $$"]);
    assert_eq!(crashed.process().wait(SOON).code(), Some(128 + 11));
    let mut left = launch(&mesh, "left", &["sh", "-c", "exit 7"]);
    assert_eq!(left.process().wait(SOON).code(), Some(7));
}

#[test]
fn an_app_does_not_outlive_a_sidecar_that_is_killed() {
    let mesh = Mesh::start();
    let mut sidecar = launch(&mesh, "web", &["sh", "-c", "echo $$ > pid; while :; do sleep 0.1; done"]);
    let app = app_of(&mesh, "web");
    sidecar.process().signal(Signal::SIGKILL);
    sidecar.process().wait(SOON);
    wait::until("the app to be killed", SOON, || match std::fs::read_to_string(format!("/proc/{app}/stat")) {
        Ok(stat) if !stat.contains(") Z ") => Err(stat),
        _ => Ok(()),
    });
}

#[test]
fn a_program_that_is_not_there_is_told_before_anything_starts() {
    let mesh = Mesh::start();
    for (name, program) in [("path", "./no-such-program"), ("name", "no-such-program"), ("folder", "/tmp")] {
        let mut sidecar = launch(&mesh, name, &[program]);
        assert_eq!(sidecar.process().wait(SOON).code(), Some(1));
        let told = sidecar.process().output();
        assert!(told.contains(&format!("cannot start the app `{program}`")) && !told.contains("is started"), "{told}");
    }
}

#[test]
fn an_empty_join_token_counts_as_none() {
    let mesh = Mesh::start();
    let spec = Spec::new("prod/web", ports::free());
    let mut first = mesh.sidecar("web", spec.clone());
    assert!(first.stop().success());
    // In the same folder, with the identity of the first.
    drop(Sidecar::start(mesh.folder(), "web", mesh.xds, "", spec.clone()));
    let mut without = Sidecar::launch(mesh.folder(), "new", mesh.xds, Some(" "), spec);
    assert!(!without.process().wait(SOON).success());
    let told = without.process().output();
    assert!(told.contains("no join token"), "{told}");
}

#[test]
fn a_reader_that_has_read_enough_is_no_panic() {
    let mesh = Mesh::start();
    let api = mesh.api.to_string();
    let (repo, pipe) = (mesh.repo.root().display().to_string(), Stdio::piped);
    for args in
        [&["status", "--server", &api][..], &["status", "--output", "json", "--server", &api], &["check", &repo]]
    {
        let command = Command::new(peers::weft()).args(args).stdout(pipe()).stderr(pipe()).spawn();
        let mut child = command.expect("the weft binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(141), "{args:?}");
    }
}

/// Whether a process that aborts leaves its memory in a file, where the system lets it.
fn leaves_core(pid: u32, end: impl FnOnce() -> std::process::ExitStatus) -> bool {
    let allowed = Command::new("prlimit").args(["--pid", &pid.to_string(), "--core=unlimited"]).status();
    assert!(allowed.expect("prlimit runs").success(), "the limit of core dumps can be lifted");
    kill(Pid::from_raw(pid as i32), Signal::SIGABRT).expect("it is there");
    let status = end();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    status.core_dumped()
}

/// A crash leaves no private key behind. Needs a system that writes core dumps at all, which an ordinary program shows.
#[test]
fn who_holds_keys_leaves_no_core_dump() {
    let mut mesh = Mesh::start();
    let mut sleeper =
        Command::new("sleep").arg("60").current_dir(mesh.folder()).spawn().expect("an ordinary program runs");
    if !leaves_core(sleeper.id(), || sleeper.wait().expect("it ended")) {
        eprintln!("skipped: this system writes no core dumps");
        return;
    }
    let mut web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    let pid = web.process().id();
    assert!(!leaves_core(pid, || web.process().wait(SOON)), "a sidecar's memory is in a core dump");
    let server = mesh.server();
    assert!(!leaves_core(server.id(), || server.wait(SOON)), "the control plane's memory is in a core dump");
}
