//! What was decided is logged, alike on both data planes, and what operators may open for a time.

use std::path::{Path, PathBuf};
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
    replayed(&mesh);
}

/// What was decided, decided again by a branch.
fn replayed(mesh: &Mesh) {
    let other = mesh.folder().join("other");
    let git = |folder: &Path, args: &[&str]| {
        run(Command::new("git").arg("-C").arg(folder).args(["-c", "user.name=t", "-c", "user.email=t@t"]).args(args))
    };
    git(mesh.folder(), &["clone", "-q", &mesh.repo.root().display().to_string(), "other"]);
    let policy =
        "forbid (principal, action == Action::\"call\", resource) when { context.path like \"/api/pins*\" };\n";
    std::fs::write(other.join("policies/new.cedar"), policy).expect("written");
    for args in [
        &["checkout", "-q", "-b", "stricter"][..],
        &["add", "--all"],
        &["commit", "-q", "-m", "Stricter"],
        &["push", "-q", "origin", "stricter"],
    ] {
        git(&other, args);
    }
    let replay = |branch: &str| {
        let output = Command::new(peers::weft())
            .args(["policy", "replay", "--against", branch, "-o", "json", "--repo"])
            .args([mesh.repo.root(), mesh.folder()])
            .output()
            .expect("weft runs");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), told)
    };
    let branch = git(mesh.repo.root(), &["branch", "--show-current"]);
    let (code, told) = replay(branch.trim());
    assert_eq!((code, &told["changed"]), (Some(0), &serde_json::json!([])), "{told:#}");
    let (code, told) = replay("stricter");
    let pins: Vec<&Value> =
        told["changed"].as_array().expect("a list").iter().filter(|one| one["path"] == "/api/pins").collect();
    let [change] = pins[..] else { panic!("{told:#}") };
    assert_eq!((code, &change["was"], &change["would_be"]), (Some(1), &"allow".into(), &"deny".into()));
    assert_eq!(change["reason"], "forbid policies/new.cedar:1");
    assert_eq!(told["partial"], 0, "the policies read the path before: {told:#}");
}

/// A rule moves from one path to another in one commit: whatever the moment, a call is decided by all of one commit.
fn one_commit_at_a_time(data_plane: DataPlane) {
    let mesh = Mesh::start_with(|repo| {
        repo.replace("services/board.yaml", "\"GET /api/**\"", "\"GET /api/one\"");
    });
    let app = App::start("v1");
    let spec = Spec::new("prod/board", app.address()).label("version", "v2").on(data_plane);
    let board = mesh.sidecar("board", spec);
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    web.wait_knows(&board);
    let call = |target: &str| curl::get(web.egress, "board.prod", target, &["-H", "x-version: v2"]).status;
    let (mut one, mut slowest) = (true, Duration::ZERO);
    for _ in 0..6 {
        let (from, to) = if one { ("one", "two") } else { ("two", "one") };
        mesh.repo.replace("services/board.yaml", &format!("\"GET /api/{from}\""), &format!("\"GET /api/{to}\""));
        let began = Instant::now();
        mesh.repo.commit("The rule moves");
        wait::until("the rule has moved", wait::SOON, || {
            let moved = (call(&format!("/api/{from}")), call(&format!("/api/{to}"))) == (403, 200);
            if moved { Ok(()) } else { Err("not yet") }
        });
        slowest = slowest.max(began.elapsed());
        one = !one;
    }
    println!("{data_plane:?}: a change of policy was in effect within {slowest:?} of its commit");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}; a second is the aim on a machine that does nothing else");
    // Each version allowed one of the two, and nothing else.
    let mut allowed = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
    let lines = logs(&mesh, &["--callee", "prod/board"]);
    for line in lines.iter().filter(|line| line["path"].as_str().is_some_and(|path| path.starts_with("/api/"))) {
        let (version, path) = (line["policy_version"].to_string(), line["path"].to_string());
        let paths = allowed.entry(version).or_default();
        paths.extend((line["decision"] == "allow").then_some(path));
    }
    assert_eq!(allowed.len(), 2, "{allowed:#?}");
    assert!(allowed.values().all(|paths| paths.len() == 1), "{allowed:#?}");
}

#[test]
fn no_call_is_decided_by_half_of_a_change() {
    one_commit_at_a_time(Weft);
}

#[test]
fn no_call_is_decided_by_half_of_a_change_on_envoy() {
    one_commit_at_a_time(Envoy);
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
