//! What was decided is logged, alike on both data planes, and what operators may open for a time.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::app::App;
use weft_tests::mesh::Mesh;
use weft_tests::process::run;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::Spec;
use weft_tests::{curl, peers, ports, wait};

/// What `weft logs` says of the mesh's folder.
fn logs(mesh: &Mesh, args: &[&str]) -> Vec<Value> {
    let output = Command::new(peers::weft()).arg("logs").arg(mesh.folder()).args(["-o", "json"]).args(args).output();
    let output = output.expect("weft runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn decisions(data_plane: DataPlane) {
    let mesh = Mesh::start();
    let app = App::start("v1");
    let board =
        mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v2").workers(1).on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    web.wait_knows(&board);
    let call = |method: &str, target: &str, id: &str| {
        let id = format!("x-request-id: {id}");
        curl::get(
            web.egress,
            "board.prod",
            target,
            &[
                "-X",
                method,
                "-H",
                &id,
                "-H",
                "x-version: v2",
                "-H",
                "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ],
        )
        .status
    };
    for n in 0..5 {
        assert_eq!(call("GET", "/api/pins?token=s3cret", &format!("allowed-{n}")), 200);
        assert_eq!(call("DELETE", "/api/pins", &format!("denied-{n}")), 403);
    }
    assert_eq!(call("GET", "/a%00", "bad"), 400);
    let denied = wait::until("a line of each denial", wait::SOON, || {
        let lines = logs(&mesh, &["--denied", "--callee", "prod/board"]);
        if lines.len() == 5 { Ok(lines) } else { Err(format!("{lines:#?}")) }
    });
    let last = &denied[4];
    assert_eq!(last["request_id"], "denied-4");
    assert_eq!(last["principal"], "spiffe://test.internal/ns/prod/sa/web");
    assert_eq!(
        (&last["resource"], &last["method"], &last["path"]),
        (&"prod/board".into(), &"DELETE".into(), &"/api/pins".into())
    );
    assert!(
        last["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("no access rule of prod/board (services/board.yaml:")),
        "{last:#}"
    );
    assert_eq!(last["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(last["commit"], *mesh.repo.head());
    assert!(
        denied[0]["micros"].as_f64().is_some() && last["micros"].is_null(),
        "evaluated, then remembered: {denied:#?}"
    );

    // Of the allowed the first of their kind; there are others, like those by which the harness found the way.
    let allowed = logs(&mesh, &["--allowed", "--id", "allowed-0"]);
    assert_eq!(allowed.len(), 1, "{allowed:#?}");
    assert_eq!(allowed[0]["policies"][0]["file"], "services/board.yaml");
    assert!(logs(&mesh, &["--id", "allowed-1"]).is_empty() && logs(&mesh, &["--id", "bad"]).is_empty());
    assert!(logs(&mesh, &[]).iter().all(|line| !line.to_string().contains("s3cret")));
    assert!(logs(&mesh, &["--since", "1s", "--caller", "prod/board"]).is_empty());
    let text = Command::new(peers::weft()).arg("logs").arg(mesh.folder()).args(["--id", "denied-4"]).output();
    let text = String::from_utf8_lossy(&text.expect("weft runs").stdout).into_owned();
    assert!(
        text.starts_with("TIME")
            && text.contains("deny      prod/web  prod/board  DELETE /api/pins  no access rule of"),
        "{text}"
    );
}

#[test]
fn decisions_are_logged() {
    decisions(Weft);
}

#[test]
fn decisions_are_logged_on_envoy() {
    decisions(Envoy);
}

/// A new key of an operator, with and without a passphrase.
fn key(mesh: &Mesh, name: &str) -> (PathBuf, String) {
    let path = mesh.folder().join(name);
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path));
    let public = std::fs::read_to_string(path.with_extension("pub")).expect("a public key");
    (path, public.trim().to_owned())
}

#[test]
fn the_glass_is_broken_for_a_time_by_whom_a_policy_permits_it() {
    let mesh = Mesh::start();
    let app = App::start("v1");
    let boards = [(Weft, "v1"), (Envoy, "v2")].map(|(plane, version)| {
        mesh.sidecar(
            &format!("board-{version}"),
            Spec::new("prod/board", app.address()).label("version", version).on(plane),
        )
    });
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    boards.iter().for_each(|board| web.wait_knows(board));
    let ((alice, alice_public), (bob, bob_public)) = (key(&mesh, "alice"), key(&mesh, "bob"));
    mesh.repo.write(
        "operators.yaml",
        &format!(
            "kind: Operator\nname: alice\nsshKeys: [{alice_public}]\n---\nkind: Operator\nname: bob\nsshKeys: [{bob_public}]\n"
        ),
    );
    mesh.repo.write(
        "policies/glass.cedar",
        r#"permit (principal == Operator::"alice", action == Action::"breakGlass", resource) when { context.minutes <= 30 };
permit (principal == Service::"prod/web", action == Action::"call", resource == Service::"prod/board")
when { context.breakGlass };
"#,
    );
    let commit = mesh.commit("Operators");
    mesh.acknowledged(&commit);
    // To one of the board's sidecars or the other, and to the second.
    let headers = ["x-version: v1", "x-version: v2"].repeat(4);
    let calls = || {
        headers
            .iter()
            .map(|header| curl::get(web.egress, "board.prod", "/closed", &["-H", header]).status)
            .collect::<Vec<_>>()
    };
    let all_become = |status: u16, bound: Duration, what: &str| {
        wait::until(what, bound, || if calls() == [status; 8] { Ok(()) } else { Err("not yet") });
    };
    let ask = |key: &PathBuf, args: &[&str]| -> Output {
        mesh.weft(
            &[&["policy", "break-glass", "--key", &key.display().to_string(), "--reason", "a test"], args].concat(),
        )
    };
    assert_eq!(calls(), [403; 8]);

    for (key, args, status) in [
        (&bob, &["--as", "bob", "--for", "10m"], "no policy about Action::\"breakGlass\" permits bob this"),
        (&alice, &["--as", "alice", "--for", "31m"], "no policy about Action::\"breakGlass\" permits alice this"),
        (&bob, &["--as", "alice", "--for", "10m"], "the key is none of the operator's"),
        (&alice, &["--as", "carol", "--for", "10m"], "there is no operator carol"),
    ] {
        let output = ask(key, args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(status), "{told}");
    }
    assert_eq!(calls(), [403; 8]);

    let began = Instant::now();
    let output = ask(&alice, &["--as", "alice", "--for", "8s"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("the glass is broken for 8 s (permit policies/glass.cedar:1)"), "{output:?}");
    assert!(told.contains("policies of 1 service ask for it"), "{told}");
    all_become(200, Duration::from_secs(5), "both data planes let it through");
    let status = mesh.api("/api/status").expect("the API answers");
    assert_eq!(
        (&status["break_glass"]["operator"], &status["break_glass"]["reason"]),
        (&"alice".into(), &"a test".into())
    );
    assert!(String::from_utf8_lossy(&mesh.weft(&["status"]).stdout).contains("break-glass is on for"));
    all_become(403, Duration::from_secs(30), "it is over by itself");
    assert!(began.elapsed() >= Duration::from_secs(8));

    // Ended by hand, long before its time.
    assert!(ask(&alice, &["--as", "alice", "--for", "30m"]).status.success());
    all_become(200, Duration::from_secs(5), "broken again");
    assert!(ask(&alice, &["--as", "alice", "--end"]).status.success());
    all_become(403, Duration::from_secs(5), "and whole again");
    assert_eq!(mesh.api("/api/status").expect("the API answers")["break_glass"], Value::Null);

    let told: Vec<_> = logs(&mesh, &[]).into_iter().filter(|line| line["action"] == "breakGlass").collect();
    let of = |decision: &str| told.iter().filter(|line| line["decision"] == decision).count();
    assert_eq!((of("allow"), of("deny")), (3, 2), "{told:#?}");
    assert!(
        logs(&mesh, &["--allowed", "--callee", "prod/board"])
            .iter()
            .any(|line| line["attributes"]["breakGlass"] == true)
    );
}

/// An agent, or a passphrase: `ssh-keygen` signs what the operator's key can.
#[test]
fn ssh_keygen_signs_what_we_verify() {
    let mut mesh = Mesh::start();
    let (key, public) = key(&mesh, "alice");
    mesh.repo.write("operators.yaml", &format!("kind: Operator\nname: alice\nsshKeys: [{public}]\n"));
    mesh.repo.write("policies/glass.cedar", "permit (principal, action == Action::\"breakGlass\", resource);\n");
    let commit = mesh.commit("Operators");
    wait::until("the commit serves", wait::SOON, || {
        let serving = mesh.api("/api/status")?["serving"]["commit"].clone();
        if serving == *commit { Ok(()) } else { Err(serving.to_string()) }
    });
    // A key with a passphrase cannot be read by us; ssh-keygen asks for it by a program of the environment.
    run(Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"]).arg(&key));
    let asker = mesh.folder().join("ask");
    std::fs::write(&asker, "#!/bin/sh\necho open sesame\n").expect("written");
    run(Command::new("chmod").arg("700").arg(&asker));
    let api = mesh.api.to_string();
    let output = Command::new(peers::weft())
        .args([
            "policy",
            "break-glass",
            "--for",
            "1m",
            "--reason",
            "a test",
            "--as",
            "alice",
            "--server",
            &api,
            "--key",
        ])
        .arg(&key)
        .env("SSH_ASKPASS", &asker)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .output()
        .expect("weft runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("the glass is broken for 60 s"), "{output:?}");
    assert!(told.contains("no policy asks for context.breakGlass"), "{told}");

    // It outlives the control plane.
    mesh.kill_server();
    mesh.start_server();
    assert_eq!(mesh.api("/api/status").expect("the API answers")["break_glass"]["operator"], "alice");
}
