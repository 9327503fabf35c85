//! A sidecar that takes its identity from a Workload API on its machine: that of `weft agent` here.

use std::process::Command;
use std::time::Duration;

use nix::unistd::Uid;
use weft_tests::agent::Agent;
use weft_tests::app::App;
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, peers, ports, process, wait};

/// A mesh in which the tester's own processes are both services: which one a sidecar is says its `--service`.
fn mesh(ttl: &str) -> Mesh {
    Mesh::start_with(|repo| {
        repo.replace("mesh.yaml", "svidTtl: 1h", &format!("svidTtl: {ttl}"));
        for name in ["web", "board"] {
            let file = format!("services/{name}.yaml");
            let attest = format!("protocol: http\nattest: [{{uid: {}}}]\n", Uid::effective());
            repo.write(&file, &repo.read(&file).replace("protocol: http\n", &attest));
        }
        repo.replace("services/board.yaml", "{subset: v1, weight: 80}, {subset: v2, weight: 20}", "{subset: v1}");
    })
}

/// A sidecar without a token.
fn sidecar(mesh: &Mesh, name: &str, spec: Spec) -> Sidecar {
    Sidecar::launch(mesh.folder(), name, mesh.xds, None, spec).wait_ready()
}

fn by_socket(agent: &Agent, service: &str, app: std::net::SocketAddr, data_plane: DataPlane) -> Spec {
    let socket = agent.socket.display().to_string();
    Spec::new(service, app).on(data_plane).label("version", "v1").option("--identity-socket", &socket)
}

#[track_caller]
fn call(web: &Sidecar, status: u16) -> curl::Reply {
    wait::until(&format!("a call to answer {status}"), wait::SOON, || {
        let reply = curl::get(web.egress, "board.prod", "/api/x", &[]);
        if reply.status == status { Ok(reply) } else { Err(format!("{} {} {}", reply.status, reply.body, reply.error)) }
    })
}

fn serial(sidecar: &Sidecar) -> String {
    curl::curl(&[&format!("http://{}/certs", sidecar.admin)]).body
}

/// No sidecar has a token or saves a key; certificates change under it, and a restart needs the agent alone.
fn by_the_agent(data_plane: DataPlane) {
    let mut mesh = mesh("10s");
    let agent = Agent::start(&mesh, "m1");
    let app = App::start("v1");
    let board = sidecar(&mesh, "board", by_socket(&agent, "prod/board", app.address(), data_plane));
    let mut web = sidecar(&mesh, "web", by_socket(&agent, "prod/web", ports::free(), data_plane));
    mesh.wait_endpoints("prod/board", 1);
    call(&web, 200);
    for sidecar in [&board, &web] {
        assert!(!sidecar.state.join("identity.json").exists(), "the agent keeps it");
    }

    let before = serial(&web);
    wait::until("the certificate to be another one", wait::SOON, || {
        let now = serial(&web);
        call(&web, 200);
        if now != before { Ok(()) } else { Err(now) }
    });

    mesh.kill_server();
    web.kill();
    web.start_again();
    let web = web.wait_ready();
    call(&web, 200);
}

#[test]
fn sidecars_of_ours_live_by_the_agent_of_their_machine() {
    by_the_agent(DataPlane::Weft);
}

#[test]
fn sidecars_with_envoy_live_by_the_agent_of_their_machine() {
    by_the_agent(DataPlane::Envoy);
}

#[test]
fn an_identity_that_is_taken_away_ends_calls_until_it_is_given_back() {
    let mesh = mesh("1h");
    let agent = Agent::start(&mesh, "m1");
    let app = App::start("v1");
    let _board = sidecar(&mesh, "board", by_socket(&agent, "prod/board", app.address(), DataPlane::Weft));
    let mut web = sidecar(&mesh, "web", by_socket(&agent, "prod/web", ports::free(), DataPlane::Weft));
    mesh.wait_endpoints("prod/board", 1);
    call(&web, 200);
    let file = "services/web.yaml";
    let (entry, nobody) = (format!("attest: [{{uid: {}}}]", Uid::effective()), "attest: [{uid: 54323}]");
    mesh.repo.replace(file, &entry, nobody);
    mesh.repo.commit("web is somebody else");
    wait::until("the log to say so", wait::SOON, || {
        let log = web.process().output();
        if log.contains("this process has no identity there") && log.contains("not prod/web") {
            Ok(())
        } else {
            Err(log)
        }
    });
    // A connection that is there already stays; what comes anew has nobody to come as.
    wait::until("readiness to say so", wait::SOON, || {
        let ready = curl::curl(&[&format!("http://{}/ready", web.health)]);
        if ready.status == 503 && ready.body.starts_with("IDENTITY_MISSING") { Ok(()) } else { Err(ready.body) }
    });
    mesh.repo.replace(file, nobody, &entry);
    mesh.repo.commit("web is itself again");
    wait::until("the sidecar to be ready again", wait::SOON, || {
        let ready = curl::curl(&[&format!("http://{}/ready", web.health)]);
        if ready.status == 200 { Ok(()) } else { Err(ready.body) }
    });
    call(&web, 200);
}

#[test]
fn who_is_banned_has_no_calls_also_by_an_agent() {
    let mesh = mesh("1h");
    let agent = Agent::start(&mesh, "m1");
    let app = App::start("v1");
    let _board = sidecar(&mesh, "board", by_socket(&agent, "prod/board", app.address(), DataPlane::Weft));
    let web = sidecar(&mesh, "web", by_socket(&agent, "prod/web", ports::free(), DataPlane::Weft));
    mesh.wait_endpoints("prod/board", 1);
    call(&web, 200);
    let state = mesh.state().display().to_string();
    let ban = ["identity", "ban", "prod/web", "--reason", "stolen", "--state-dir", &state];
    let output = mesh.weft(&ban);
    assert!(output.status.success(), "{}", weft_tests::mesh::text(&output));
    let refused = call(&web, 503);
    assert_eq!(refused.json()["layer"], "identity", "{refused:?}");
    let output = mesh.weft(&["identity", "unban", "prod/web", "--state-dir", &state]);
    assert!(output.status.success(), "{}", weft_tests::mesh::text(&output));
    call(&web, 200);
}

/// `SPIFFE_ENDPOINT_SOCKET` alone is enough; a token or what is saved counts for more, and two answers to one question are none.
#[test]
fn the_environment_names_the_socket_where_nothing_else_says_who_this_is() {
    let mesh = mesh("1h");
    let agent = Agent::start(&mesh, "m1");
    let named = format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", agent.socket.display());
    let under = ["env".to_owned(), named.clone()];
    let mut web = sidecar(&mesh, "web", Spec::new("prod/web", ports::free()).under(&under));
    let log = web.process().output();
    assert!(log.contains("an identity came from the Workload API"), "{log}");

    let mut board = mesh.sidecar("board", Spec::new("prod/board", ports::free()).under(&under));
    assert!(board.state.join("identity.json").exists(), "it came by its token");
    board.kill();
    board.start_again();
    let mut board = board.wait_ready();
    let log = board.process().output();
    assert!(log.contains("SPIFFE_ENDPOINT_SOCKET is not used") && log.contains("using the saved identity"), "{log}");

    let refused = |arguments: &[&str]| {
        let folder = mesh.folder().join("refused");
        let mut command = Command::new("timeout");
        command.args(["20"]).arg(peers::weft()).args(["sidecar", "--service", "prod/web", "--server", "127.0.0.1:1"]);
        command.arg("--state-dir").arg(folder).args(arguments).env("NO_COLOR", "1");
        let output = command.output().expect("timeout runs");
        assert!(!output.status.success());
        weft_tests::mesh::text(&output)
    };
    let token = mesh.token("prod/web");
    let both = refused(&["--identity-socket", "/run/x.sock", "--join-token", &token]);
    assert!(both.contains("two ways to an identity") && both.contains("hint: give one of them"), "{both}");
    let no_api = ports::free();
    let server = process::Process::start(
        mesh.folder(),
        "not-spiffe",
        peers::venv("python"),
        ["-m", "http.server", "--bind", "127.0.0.1", &no_api.port().to_string()],
        &[],
    );
    wait::until("a web server", wait::SOON, || std::net::TcpStream::connect(no_api).map(drop));
    let mut waiting = Sidecar::launch(
        mesh.folder(),
        "waits",
        mesh.xds,
        None,
        Spec::new("prod/web", ports::free()).option("--identity-socket", &format!("tcp://{no_api}")),
    );
    wait::until("the log to say that nothing of use answers there", Duration::from_secs(20), || {
        let log = waiting.process().output();
        if log.contains("the Workload API says nothing for now; trying on") { Ok(()) } else { Err(log) }
    });
    waiting.kill();
    drop(server);
}
