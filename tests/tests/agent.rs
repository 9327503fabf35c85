//! The agent of a machine: each process gets the identity that it has by the kernel's word, and no other, for as long as it has it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use spiffe::{JwtSource, WorkloadApiClient, X509Source};
use weft_tests::agent::{Agent, Talker, may_be_others, user};
use weft_tests::mesh::{Mesh, text};
use weft_tests::{peers, ports, process, tls, wait};

const WEB: &str = "spiffe://test.internal/ns/prod/sa/web";
const BOARD: &str = "spiffe://test.internal/ns/prod/sa/board";
/// Users of their own, which no account is for.
const ONE: u32 = 54_321;
const OTHER: u32 = 54_322;
const NOBODY: u32 = 54_323;
/// In which a process that is something else now has lost what it had.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A mesh in which `prod/web` and `prod/board` are attested so.
fn mesh(web: &str, board: &str, ttl: &str) -> Mesh {
    Mesh::start_with(|repo| {
        repo.replace("mesh.yaml", "svidTtl: 1h", &format!("svidTtl: {ttl}"));
        for (name, attest) in [("web", web), ("board", board)] {
            let file = format!("services/{name}.yaml");
            let text = repo.read(&file).replace("protocol: http\n", &format!("protocol: http\nattest: {attest}\n"));
            repo.write(&file, &text);
        }
    })
}

/// Where both are told by their users.
fn by_user(ttl: &str) -> Mesh {
    mesh(&format!("[{{uid: {ONE}}}]"), &format!("[{{uid: {OTHER}}}]"), ttl)
}

#[track_caller]
fn assert_nobody(said: &Value) {
    let error = said["error"].as_str().unwrap_or_default();
    assert!(error.contains("PERMISSION_DENIED") && error.contains("no identity issued"), "{said}");
}

/// The next message of a listener: the first identity and its serial number.
#[track_caller]
fn svid(listener: &Talker, bound: Duration) -> (String, String) {
    let said = listener.next(bound);
    let part = |n: usize| said["svids"][0][n].as_str().unwrap_or_else(|| panic!("no identity: {said}")).to_owned();
    (part(0), part(1))
}

/// What ends a listener, whatever comes before.
#[track_caller]
fn end(listener: &Talker, bound: Duration) -> Value {
    let start = Instant::now();
    loop {
        let said = listener.next(bound.saturating_sub(start.elapsed()).max(Duration::from_millis(1)));
        if !said["end"].is_null() {
            return said;
        }
    }
}

#[track_caller]
fn identity(mesh: &Mesh, arguments: &[&str]) {
    let state = mesh.state().display().to_string();
    let output = mesh.weft(&[&["identity"], arguments, &["--state-dir", &state]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
}

#[test]
fn users_of_one_machine_get_each_its_own_identity_and_a_third_none() {
    if !may_be_others() {
        return;
    }
    let mesh = by_user("1h");
    let agent = Agent::start(&mesh, "m1");
    assert_eq!(agent.ask(ONE, &["x509"])["id"], WEB);
    assert_eq!(agent.ask(OTHER, &["x509"])["id"], BOARD);
    for call in [&["x509"][..], &["ask", "db"]] {
        assert_nobody(&agent.ask(NOBODY, call));
    }
    assert_nobody(&agent.ask(0, &["x509"])); // root is nobody in particular
    let said = agent.ask(ONE, &["token", "board", "db"]);
    assert_eq!((&said["id"], &said["audience"]), (&json!(WEB), &json!(["board", "db"])));
    let valid = agent.ask(OTHER, &["validate", "board", said["token"].as_str().expect("a token")]);
    assert_eq!(valid, json!({"keys": 1, "here": WEB, "there": WEB}));
    assert_eq!(agent.metric("weft_agent_workloads"), Some(2));
    assert!(agent.metric("weft_agent_attestations_total{outcome=\"denied\"}").is_some_and(|count| count >= 3));

    // All of it is on record, through whom too, and shown beside the others.
    let records = mesh.api("/api/identity/records?who=prod/web").expect("records");
    let events: Vec<&str> = records.as_array().into_iter().flatten().filter_map(|it| it["event"].as_str()).collect();
    assert!(events.contains(&"attested") && events.contains(&"jwtIssued"), "{records:#}");
    let shown = records.to_string();
    assert!(shown.contains("by agent m1, for pid") && shown.contains("agent:m1~"), "{records:#}");
    let living = mesh.api("/api/identities").expect("certificates").to_string();
    assert!(living.contains(WEB) && living.contains("spiffe://test.internal/agent/m1"), "{living}");
}

/// A program that others must not be taken for.
fn copy_of_python(agent: &Agent, name: &str) -> std::path::PathBuf {
    let to = agent.folder().join(name);
    let real = std::fs::canonicalize(peers::venv("python")).expect("it is there");
    std::fs::copy(real, &to).expect("the folder can be written");
    to
}

fn sha256(path: &Path) -> String {
    process::run(Command::new("sha256sum").arg(path)).split_whitespace().next().expect("a digest").to_owned()
}

/// A process gets an identity by what it runs, becomes another program with its connection open, and has none.
#[test]
fn a_process_that_becomes_another_program_loses_the_identity() {
    if !may_be_others() {
        return;
    }
    let real = std::fs::canonicalize(peers::venv("python")).expect("it is there");
    let mesh = mesh(&format!("[{{uid: {ONE}, path: {}}}]", real.display()), "[]", "1h");
    let agent = Agent::start(&mesh, "m1");
    for by_digest in [false, true] {
        let other = copy_of_python(&agent, "other");
        if by_digest {
            // The copy has other bytes, and the entry asks for the content.
            let mut bytes = std::fs::read(&other).expect("a copy");
            bytes.push(0);
            std::fs::write(&other, bytes).expect("ours");
            let entry = format!("attest: [{{sha256: {}}}]", sha256(&real));
            let file = "services/web.yaml";
            let text = mesh.repo.read(file);
            let before = text.lines().find(|line| line.starts_with("attest:")).expect("an entry").to_owned();
            mesh.repo.replace(file, &before, &entry);
            mesh.commit("By content");
        }
        let mut command = Command::new("setpriv");
        command.args(user(ONE)).arg(&real).arg(peers::script("workload_stream.py"));
        // Where every user may make a socket.
        let here = std::env::temp_dir().join(format!("weft-relay-{}-{by_digest}", std::process::id()));
        let _ = std::fs::remove_file(&here);
        let mut relay = Talker::start(command.arg("relay").args([&here, &agent.socket, &other]));
        assert_eq!(relay.next(wait::SOON)["relays"], relay.id());
        let listener = agent.listener(NOBODY, &here); // whoever speaks through it, it is the relay's connection
        assert_eq!(relay.next(wait::SOON)["runs"], real.to_str().expect("a plain path"));
        assert_eq!(svid(&listener, wait::SOON).0, WEB);
        relay.go_on();
        let since = Instant::now();
        assert_eq!(relay.next(wait::SOON)["runs"], other.to_str().expect("a plain path"), "the same process");
        let said = end(&listener, AT_ONCE);
        assert_eq!((&said["end"], &said["why"]), (&json!("PERMISSION_DENIED"), &json!("no identity issued")));
        assert!(since.elapsed() < AT_ONCE);
        let _ = std::fs::remove_file(&here);
    }
    assert!(agent.metric("weft_agent_attestations_total{outcome=\"withdrawn\"}").is_some_and(|count| count >= 2));
}

#[test]
fn a_commit_gives_and_takes_identities_of_processes_that_run() {
    if !may_be_others() {
        return;
    }
    let mesh = by_user("1h");
    let agent = Agent::start(&mesh, "m1");
    let listener = agent.listener(ONE, &agent.socket);
    assert_eq!(svid(&listener, wait::SOON).0, WEB);
    let file = "services/web.yaml";
    let entry = format!("attest: [{{uid: {ONE}}}]");
    // Of another machine.
    mesh.repo.replace(file, &entry, &format!("attest: [{{agent: m2, uid: {ONE}}}]"));
    mesh.repo.commit("Not here");
    let said = end(&listener, wait::SOON);
    assert_eq!(said["end"], "PERMISSION_DENIED", "{said}");
    assert_nobody(&agent.ask(ONE, &["x509"]));
    wait::until("its key to be gone", wait::SOON, || {
        if agent.state.join("workloads/prod_web").exists() { Err("it is on disk") } else { Ok(()) }
    });
    mesh.repo.replace(file, "agent: m2", "agent: [m2, m1]");
    mesh.repo.commit("Here too");
    wait::until("the identity to be back", wait::SOON, || {
        let said = agent.ask(ONE, &["x509"]);
        if said["id"] == WEB { Ok(()) } else { Err(said.to_string()) }
    });
}

#[test]
fn bans_of_a_service_and_of_the_agent_take_identities_away() {
    if !may_be_others() {
        return;
    }
    let mesh = by_user("1h");
    let agent = Agent::start(&mesh, "m1");
    for (banned, ends) in
        [(&["prod/web"][..], false), (&["agent:m1"][..], true), (&["--machine", &machine(&mesh)][..], true)]
    {
        let (web, board) = (agent.listener(ONE, &agent.socket), agent.listener(OTHER, &agent.socket));
        svid(&web, wait::SOON);
        svid(&board, wait::SOON);
        identity(&mesh, &[&["ban"][..], banned, &["--reason", "a drill"]].concat());
        assert_eq!(end(&web, AT_ONCE)["end"], "PERMISSION_DENIED", "{banned:?}");
        assert_nobody(&agent.ask(ONE, &["x509"]));
        if ends {
            assert_eq!(end(&board, AT_ONCE)["end"], "PERMISSION_DENIED", "{banned:?}");
            assert_eq!(agent.ready().status, 503);
        } else {
            assert_eq!(agent.ask(OTHER, &["x509"])["id"], BOARD, "others go on");
        }
        identity(&mesh, &[&["unban"][..], banned].concat());
        wait::until("the identity to be back", wait::SOON, || {
            let said = agent.ask(ONE, &["x509"]);
            if said["id"] == WEB { Ok(()) } else { Err(said.to_string()) }
        });
    }
}

/// The name of the machine that an agent's certificate was issued to.
#[track_caller]
fn machine(mesh: &Mesh) -> String {
    let living = mesh.api("/api/identities").expect("certificates");
    let own = living.as_array().into_iter().flatten().find(|it| it["identity"] == "spiffe://test.internal/agent/m1");
    own.and_then(|it| it["machine"].as_str()).unwrap_or_else(|| panic!("no agent: {living:#}")).to_owned()
}

#[test]
fn what_has_not_run_out_is_served_without_a_control_plane_and_then_nothing_until_it_is_back() {
    if !may_be_others() {
        return;
    }
    let mut mesh = by_user("10s");
    let mut agent = Agent::start(&mesh, "m1");
    let listener = agent.listener(ONE, &agent.socket);
    let (id, serial) = svid(&listener, wait::SOON);
    assert_eq!(id, WEB);
    let saved = |agent: &Agent| std::fs::read_to_string(agent.state.join("workloads/prod_web/identity.json"));
    let first = wait::until("it to be saved", wait::SOON, || saved(&agent).map_err(|error| error.to_string()));
    let (_, renewed) = svid(&listener, wait::SOON);
    assert_ne!(serial, renewed, "it is renewed and pushed");
    wait::until("that to be saved too", wait::SOON, || match saved(&agent) {
        Ok(next) if next != first => Ok(()),
        other => Err(format!("{:?}", other.map(|_| "the first"))),
    });
    mesh.kill_server();
    // An agent that is killed now serves what it had, from its disk and to the same process.
    agent.kill();
    agent.start_again();
    let said = wait::until("the agent to be back", wait::SOON, || {
        let said = agent.ask(ONE, &["x509"]);
        if said["id"] == WEB { Ok(said) } else { Err(said.to_string()) }
    });
    assert_ne!(said["serial"], serial, "{said}");
    // Longer than a life: nothing is handed out any more, and that is no refusal.
    wait::until("it to run out", Duration::from_secs(40), || {
        let said = agent.ask(ONE, &["x509"]);
        let error = said["error"].as_str().unwrap_or_default();
        if error.contains("UNAVAILABLE") || error.contains("DEADLINE") { Ok(()) } else { Err(said.to_string()) }
    });
    wait::until("the agent's own to run out", wait::SOON, || match agent.ready() {
        reply if reply.status == 503 => Ok(()),
        reply => Err(reply.body),
    });
    mesh.start_server();
    wait::until("all to be back without a token", Duration::from_secs(40), || {
        let said = agent.ask(ONE, &["x509"]);
        if said["id"] == WEB && agent.ready().status == 200 { Ok(()) } else { Err(said.to_string()) }
    });
    assert!(agent.process().exited().is_none());
}

#[test]
fn an_agents_token_is_for_one_machine_once_and_the_machine_comes_back_without() {
    let mesh = mesh(&format!("[{{uid: {}}}]", nix::unistd::Uid::effective()), "[]", "1h");
    let own = nix::unistd::Uid::effective().as_raw();
    let token = mesh.agent_token("m1");
    let mut agent = Agent::launch(&mesh, "m1", Some(&token));
    agent.until_ready();
    assert_eq!(agent.ask(own, &["x509"])["id"], WEB);
    let refused = |name: &str, token: &str, why: &str| {
        let mut other = Agent::launch(&mesh, name, Some(token));
        assert!(!other.process().wait(wait::SOON).success());
        let said = other.process().output();
        assert!(said.contains(why) && said.contains(&format!("--agent {name}")), "{said}");
    };
    refused("m1", &token, "was used");
    refused("m2", &mesh.agent_token("m1"), "the join token is for agent:m1, not for agent:m2");
    refused("m1", &mesh.token("prod/web"), "the join token is for prod/web, not for agent:m1");

    // Its state folder is its own, and it comes back on it.
    let mut second = Agent::launch(&mesh, "m1", None);
    assert!(!second.process().wait(wait::SOON).success());
    agent.process().signal(Signal::SIGTERM);
    assert!(agent.process().wait(wait::SOON).success());
    agent.start_again();
    agent.until_ready();
    assert_eq!(agent.ask(own, &["x509"])["id"], WEB);
}

#[test]
fn a_root_that_follows_another_reaches_processes_that_listen() {
    if !may_be_others() {
        return;
    }
    let mesh = by_user("1h");
    let agent = Agent::start(&mesh, "m1");
    let listener = agent.listener(ONE, &agent.socket);
    let (_, serial) = svid(&listener, wait::SOON);
    let roots = |agent: &Agent| agent.ask(ONE, &["x509"])["roots"].as_u64().unwrap_or_default();
    assert_eq!(roots(&agent), 1);
    let trust = |mesh: &Mesh| mesh.api("/api/identity").expect("the control plane serves");
    let signs = |mesh: &Mesh| {
        let trust = trust(mesh);
        let active = trust["roots"].as_array().into_iter().flatten().find(|root| root["state"] == "active");
        active.and_then(|root| root["id"].as_str()).expect("one signs").to_owned()
    };
    let first = signs(&mesh);
    identity(&mesh, &["rotate", "--reason", "a drill"]);
    wait::until("another root to sign, and both to be known", wait::SOON, || match (signs(&mesh), roots(&agent)) {
        (root, 2) if root != first => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Now it turns out that the first was stolen, under which both have their certificates: they are replaced at once.
    identity(&mesh, &["rotate", "--compromised", &first, "--reason", "a drill"]);
    let next = std::iter::repeat_with(|| svid(&listener, wait::SOON)).find(|next| next.1 != serial);
    assert_eq!(next.map(|next| next.0).as_deref(), Some(WEB));
    wait::until("the stolen root to be out", wait::SOON, || {
        let trust = trust(&mesh).to_string();
        if trust.contains(&first) { Err(trust) } else { Ok(()) }
    });
    wait::until("it to be out at processes", wait::SOON, || match roots(&agent) {
        1 => Ok(()),
        count => Err(format!("{count} roots")),
    });
}

/// The crate `spiffe`, in this very process.
#[test]
fn rust_fetches_and_validates() {
    let own = nix::unistd::Uid::effective();
    let mesh = mesh(&format!("[{{uid: {own}}}]"), "[]", "10s");
    let agent = Agent::start(&mesh, "m1");
    let path = format!("unix://{}", agent.socket.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let source = X509Source::builder().endpoint(&path).build().await.expect("a source");
        let first = source.svid().expect("an SVID");
        assert_eq!(first.spiffe_id().to_string(), WEB);
        let mut updates = source.updated();
        let rotated = async {
            while source.svid().expect("an SVID").leaf().as_bytes() == first.leaf().as_bytes() {
                updates.changed().await.expect("the source is open");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), rotated).await.expect("the rotation arrives");
        let tokens = JwtSource::builder().endpoint(&path).build().await.expect("a source");
        let token = tokens.fetch_jwt_svid(["board", "db"]).await.expect("a token");
        assert_eq!(token.spiffe_id().to_string(), WEB);
        let client = WorkloadApiClient::connect_to(&path).await.expect("a client");
        let valid = client.validate_jwt_token("db", token.token()).await.expect("it is valid");
        assert_eq!(valid.spiffe_id().to_string(), WEB);
    });
}

/// An Envoy that knows nothing of Weft but the socket, with the names that SPIRE has for secrets.
#[test]
fn a_stock_envoy_takes_its_certificate_from_the_agent() {
    let own = nix::unistd::Uid::effective();
    let mesh = mesh(&format!("[{{uid: {own}}}]"), "[]", "1h");
    let agent = Agent::start(&mesh, "m1");
    for (certificate, bundle) in [("default", "ROOTCA"), (WEB, "spiffe://test.internal")] {
        let port = ports::free();
        let config = super::workload_api::envoy(port, &agent.socket, certificate, bundle);
        let file = mesh.folder().join(format!("{}.json", port.port()));
        std::fs::write(&file, config.to_string()).expect("the folder can be written");
        let arguments =
            ["--config-path", file.to_str().expect("a plain path"), "--disable-hot-restart", "--concurrency", "1"];
        let envoy = process::Process::start(mesh.folder(), "app-envoy", peers::venv("envoy"), arguments, &[]);
        let serial = wait::until("Envoy shows a certificate", wait::SOON, || tls::serial(port));
        let said = agent.ask(own.as_raw(), &["x509"]);
        assert_eq!(json!(serial.trim_start_matches("serial=").trim_start_matches('0')), said["serial"]);
        drop(envoy);
    }
}

/// SDS ends as the Workload API does. An Envoy says so in its log, and asks on until the identity is there again.
#[test]
fn an_envoy_whose_identity_is_taken_away_is_told_so_and_asks_again() {
    let own = nix::unistd::Uid::effective();
    let mesh = mesh(&format!("[{{uid: {own}}}]"), "[]", "1h");
    let agent = Agent::start(&mesh, "m1");
    let port = ports::free();
    let config = super::workload_api::envoy(port, &agent.socket, "default", "ROOTCA");
    let file = mesh.folder().join("envoy.json");
    std::fs::write(&file, config.to_string()).expect("the folder can be written");
    let arguments =
        ["--config-path", file.to_str().expect("a plain path"), "--disable-hot-restart", "--concurrency", "1"];
    let envoy = process::Process::start(mesh.folder(), "app-envoy", peers::venv("envoy"), arguments, &[]);
    wait::until("Envoy shows a certificate", wait::SOON, || tls::serial(port));
    let granted = || agent.metric("weft_agent_attestations_total{outcome=\"granted\"}").unwrap_or_default();
    identity(&mesh, &["ban", "prod/web", "--reason", "a drill"]);
    wait::until("Envoy to say why its streams ended", wait::SOON, || {
        let log = envoy.output();
        if log.contains("closed: 7, no") { Ok(()) } else { Err(log) }
    });
    assert!(tls::serial(port).is_ok(), "it keeps what it has");
    let before = granted();
    identity(&mesh, &["unban", "prod/web"]);
    wait::until("Envoy to have asked again", Duration::from_secs(60), || {
        let log = envoy.output();
        if granted() > before { Ok(()) } else { Err(log) }
    });
}
