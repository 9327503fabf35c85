//! Configuration changes under load, and streams that outlive them.

use std::time::{Duration, Instant};

use weft_tests::app::App;
use weft_tests::grpc::{Server, Talk};
use weft_tests::load::{Load, Target};
use weft_tests::mesh::Mesh;
use weft_tests::sidecar::{DataPlane, Spec};
use weft_tests::{curl, ports, tls, wait};

const RATE: u64 = 200;
const BOARD: &str = "services/board.yaml";

fn ten_commits(data_plane: DataPlane) {
    let mesh = Mesh::start();
    let app = App::start("app");
    let spec = |version: &str| Spec::new("prod/board", app.address()).label("version", version).on(data_plane);
    let board = [mesh.sidecar("board-1", spec("v1")), mesh.sidecar("board-2", spec("v2"))];
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
    mesh.wait_endpoints("prod/board", 2);
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();

    let load = Load::start(target, RATE);
    let start = Instant::now();
    let mut weight = 20;
    for commit in 1..=10 {
        // Routes, policy and a subset's cluster all change in turn.
        let next = 20 + commit * 5;
        mesh.repo.replace(BOARD, &format!("subset: v2, weight: {weight}"), &format!("subset: v2, weight: {next}"));
        mesh.repo.replace(BOARD, "\"GET /api/**\"", &format!("\"GET /api/**\"\n      - \"PUT /extra{commit}/**\""));
        mesh.repo.write(&format!("policies/more-{commit}.cedar"), &format!(
            "forbid (principal, action == Action::\"call\", resource == Service::\"prod/board\")\nwhen {{ context.path like \"/never-{commit}*\" }};\n"
        ));
        weight = next;
        let before = load.succeeded();
        mesh.commit(&format!("Change {commit}"));
        // The load goes on between the commits, not only at the ends.
        wait::until("traffic after the commit", wait::SOON, || {
            if load.succeeded() > before + 50 { Ok(()) } else { Err("little traffic") }
        });
    }
    let elapsed = start.elapsed();
    load.stop().assert_clean(RATE, elapsed);
    drop((web, board));
}

#[test]
fn ten_commits_under_load_fail_no_request() {
    ten_commits(DataPlane::Weft);
}

#[test]
fn ten_commits_under_load_fail_no_request_on_envoy() {
    ten_commits(DataPlane::Envoy);
}

/// Envoy answers for new clusters only when their endpoints are there, so these must not wait for its answer.
#[test]
fn a_new_service_reaches_envoy_at_once() {
    let mesh = Mesh::start();
    let app = App::start("app");
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(DataPlane::Envoy));
    let extra = |name: &str| {
        format!(
            "kind: Service\nname: {name}\nnamespace: prod\nport: 8080\nprotocol: http\naccess:\n  - {{from: [prod/web]}}\n"
        )
    };
    for name in ["extra", "another"] {
        mesh.repo.write(&format!("services/{name}.yaml"), &extra(name));
        let start = Instant::now();
        mesh.commit(&format!("Add prod/{name}"));
        assert!(start.elapsed() < Duration::from_secs(4), "the commit took {:?}", start.elapsed());
    }
    let callee = mesh.sidecar("extra", Spec::new("prod/extra", app.address()));
    Target { address: web.egress, host: "extra.prod".to_owned(), path: "/x".to_owned() }.wait_reachable();
    drop((web, callee));
}

fn streams_outlive(data_plane: DataPlane) {
    let mesh = Mesh::start_with(|repo| repo.replace("mesh.yaml", "svidTtl: 1h", "svidTtl: 10s"));
    let grpc = Server::start(mesh.folder(), "grpc_app.py");
    let chat_app = Server::start(mesh.folder(), "ws_app.py");
    let app = App::start("app");
    let greeter = mesh.sidecar("greeter", Spec::new("prod/greeter", grpc.address).on(data_plane));
    let chat = mesh.sidecar("chat", Spec::new("prod/chat", chat_app.address).on(data_plane));
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()).on(data_plane));
    for host in ["greeter.prod", "chat.prod"] {
        wait::until(&format!("{host} to answer"), wait::SOON, || {
            let reply = curl::get(web.egress, host, "/", &[]);
            if reply.status == 403 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
    let egress = web.egress.to_string();
    let mut stream = Talk::open("grpc_calls.py", &[&egress, "greeter.prod"]);
    let mut socket = Talk::open("ws_client.py", &[&egress, "chat.prod", "/ws"]);
    let serials = [greeter.ingress, chat.ingress].map(|ingress| tls::serial(ingress).expect("a certificate"));

    for change in 1..=10 {
        // The services of the streams themselves change: their routes and the cluster's subsets.
        for file in ["services/greeter.yaml", "services/chat.yaml"] {
            let text = mesh.repo.read(file);
            let text = text.split("\nroutes:").next().unwrap_or_default().trim_end().to_owned();
            let route = format!(
                "{text}\nroutes:\n  - matches: [{{headers: [{{name: x-n, value: \"{change}\"}}]}}]\n    timeouts: {{request: {change}s}}\n"
            );
            mesh.repo.write(file, &route);
        }
        mesh.commit(&format!("Change {change}"));
        stream.say();
        socket.say();
    }
    // A policy change that would refuse both if they came now.
    mesh.repo.write(
        "policies/closed.cedar",
        "forbid (principal, action == Action::\"call\", resource)\n\
         when { [Service::\"prod/chat\", Service::\"prod/greeter\"].contains(resource) };\n",
    );
    mesh.commit("Close both to new calls");
    let reply = curl::get(web.egress, "chat.prod", "/ws", &["-H", "x-n: 10"]);
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("closed.cedar"), "{reply:?}");
    stream.say();
    socket.say();
    for (ingress, old) in [greeter.ingress, chat.ingress].into_iter().zip(serials) {
        wait::until("a rotation", wait::SOON, || {
            let serial = tls::serial(ingress)?;
            if serial == old { Err(format!("still {serial}")) } else { Ok(()) }
        });
    }
    stream.say();
    socket.say();
    stream.close();
    socket.close();
    drop((web, greeter, chat, board));
}

#[test]
fn streams_outlive_changes_rotation_and_policy() {
    streams_outlive(DataPlane::Weft);
}

#[test]
fn streams_outlive_changes_rotation_and_policy_on_envoy() {
    streams_outlive(DataPlane::Envoy);
}
