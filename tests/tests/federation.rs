//! Two trust domains: calls across with a policy and not without, a bundle from the right endpoint only, one root after the other, and the
//! end of a federation.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_tests::app::App;
use weft_tests::curl::Reply;
use weft_tests::mesh::{Mesh, text};
use weft_tests::pki::{Authority, Pair};
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, peers, ports, process, wait};

/// What is promised of a federation that is removed.
const REMOVED: Duration = Duration::from_secs(5);
const POLICY: &str = "policies/east.cedar";

/// `east.test`, which calls, and `west.test`, whose board is called.
struct Two {
    east: Mesh,
    west: Mesh,
    web: Sidecar,
    board: Sidecar,
    _app: App,
}

/// A mesh of this trust domain that publishes its bundle.
fn mesh(domain: &str, endpoint: SocketAddr, options: &[&str]) -> Mesh {
    let address = endpoint.to_string();
    let own = ["--bundle-endpoint", &address, "--bundle-refresh-hint", "10"];
    Mesh::start_with_options(&[&own[..], options].concat(), |repo| repo.replace("mesh.yaml", "test.internal", domain))
}

/// Its bundle, as an operator would hand it over.
fn bundle(mesh: &Mesh) -> String {
    let output = mesh.weft(&["identity", "bundle"]);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// A `TrustDomain` document of the profile `https_spiffe`.
fn trust_domain(name: &str, endpoint: SocketAddr, id: &str, bundle: &str) -> String {
    format!(
        "kind: TrustDomain\nname: {name}\nendpoint: https://{endpoint}/\nprofile:\n  https_spiffe:\n    spiffeId: {id}\n    bundle: '{bundle}'\n"
    )
}

fn federation(mesh: &Mesh) -> Vec<Value> {
    let shown = mesh.api("/api/identity/federation").expect("it is served");
    shown.as_array().expect("a list").clone()
}

impl Two {
    fn start(caller: DataPlane, callee: DataPlane) -> Self {
        let endpoints = [ports::free(), ports::free()];
        let (east, west) = (mesh("east.test", endpoints[0], &[]), mesh("west.test", endpoints[1], &[]));
        let app = App::start("west-board");
        let board = west.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(callee));
        let server = |domain: &str| format!("spiffe://{domain}/ns/weft/sa/server");
        let documents = trust_domain("west.test", endpoints[1], &server("west.test"), &bundle(&west));
        let service = format!(
            "services:\n- {{host: board.west, port: 8080, addresses: [\"{}\"], spiffeId: spiffe://west.test/ns/prod/sa/board}}\n",
            board.ingress
        );
        east.repo.write("west.yaml", &(documents + &service));
        east.repo.commit("Federate with the west");
        west.repo.write("east.yaml", &trust_domain("east.test", endpoints[0], &server("east.test"), &bundle(&east)));
        west.commit("Federate with the east");
        let web = east.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
        Self { east, west, web, board, _app: app }
    }

    /// The west lets the web of the east in.
    fn allow(&self) {
        let permit = "permit (principal == Service::\"spiffe://east.test/ns/prod/sa/web\", action == Action::\"call\", resource == \
             Service::\"prod/board\")\nwhen { context has first1 && context.first1 == \"/api\" };\n";
        self.west.repo.write(POLICY, permit);
        self.west.commit("Let the web of the east in");
    }

    fn call(&self) -> Reply {
        curl::get(self.web.egress, "board.west:8080", "/api/x", &[])
    }

    #[track_caller]
    fn wait_status(&self, status: u16) -> Reply {
        wait::until(&format!("calls across to be answered {status}"), wait::SOON, || {
            let reply = self.call();
            if reply.status == status { Ok(reply) } else { Err(format!("{reply:?}")) }
        })
    }
}

/// A call over a connection of its own by whoever has this certificate.
fn direct(ingress: SocketAddr, client: &Pair) -> Reply {
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (certificate, key) = (path(&client.certificate), path(&client.key));
    let url = format!("https://{ingress}/api/x");
    curl::curl(&["-k", "--http1.1", "--cert", &certificate, "--key", &key, "-H", "Host: board.prod:8080", &url])
}

#[track_caller]
fn across(caller: DataPlane, callee: DataPlane) {
    let two = Two::start(caller, callee);
    // Without a policy: the handshake is good, and the answer says who was not allowed what.
    let denied = two.wait_status(403);
    assert_eq!(denied.json()["cause"], json!("denied"), "{denied:?}");
    let own = curl::get(two.web.egress, "board.prod", "/api/x", &[]);
    assert_ne!(own.status, 200, "the host of the other board is not that of one's own: {own:?}");
    two.allow();
    let allowed = two.wait_status(200);
    assert_eq!(allowed.json()["app"], json!("west-board"), "{allowed:?}");
    assert_eq!(curl::get(two.web.egress, "board.west:8080", "/other", &[]).status, 403);

    // Another workload of the east is named by no policy.
    let stranger = two.east.svid("staging/stranger", "stranger");
    let reply = direct(two.board.ingress, &stranger);
    assert_eq!(reply.status, 403, "{reply:?}");
    let web = two.east.svid("prod/web", "web");
    let reply = direct(two.board.ingress, &web);
    assert_eq!(reply.status, 200, "{reply:?}");

    // The end: what names the other trust domain has to go with it.
    std::fs::remove_file(two.west.repo.root().join(POLICY)).expect("it is there");
    std::fs::remove_file(two.west.repo.root().join("east.yaml")).expect("it is there");
    let begun = Instant::now();
    two.west.repo.commit("The east is on its own");
    wait::until("new connections of the east to fail", REMOVED, || {
        let reply = direct(two.board.ingress, &web);
        if reply.status == 0 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    let took = begun.elapsed();
    assert!(took < REMOVED, "it took {took:?}");
    let reply = two.call();
    assert!(![200, 0].contains(&reply.status), "{reply:?}");
    let kept = std::fs::read_to_string(two.board.state.join("federated.json")).expect("it was saved");
    assert_eq!(kept, "{}");
}

#[test]
fn a_call_across_needs_a_policy_and_a_removed_federation_cuts_new_connections_within_five_seconds() {
    across(DataPlane::Weft, DataPlane::Weft);
}

#[test]
fn the_same_holds_between_envoys() {
    across(DataPlane::Envoy, DataPlane::Envoy);
}

/// The first bundle of a trust domain that has no endpoint yet: an openssl root as a bundle document.
fn document_of(authority: &Authority) -> String {
    let pem = std::fs::read_to_string(authority.certificate()).expect("a certificate");
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    json!({"keys": [{"use": "x509-svid", "kty": "EC", "x5c": [der]}]}).to_string()
}

#[track_caller]
fn judged_by_its_own(callee: DataPlane) {
    let west = Mesh::start_with(|repo| repo.replace("mesh.yaml", "test.internal", "west.test"));
    let [third, fourth] =
        ["third", "fourth"].map(|name| Authority::create(west.folder(), name, &format!("{name}.test")));
    for (name, authority) in [("third", &third), ("fourth", &fourth)] {
        let id = format!("spiffe://{name}.test/endpoint");
        let document = trust_domain(&format!("{name}.test"), ports::free(), &id, &document_of(authority));
        west.repo.write(&format!("{name}.yaml"), &document);
    }
    west.repo.write(
        POLICY,
        "permit (principal == Service::\"spiffe://third.test/ns/prod/sa/web\", action == Action::\"call\", resource == Service::\"prod/board\");\n",
    );
    west.commit("Federate with the third and the fourth");
    let app = App::start("west-board");
    let board = west.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(callee));
    let web = third.issue("web", "spiffe://third.test/ns/prod/sa/web", 1);
    wait::until("the third to be let in", wait::SOON, || {
        let reply = direct(board.ingress, &web);
        if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    assert_eq!(direct(board.ingress, &fourth.issue("other", "spiffe://fourth.test/ns/prod/sa/web", 1)).status, 403);
    for (name, authority, claim) in [
        ("a", &fourth, "spiffe://third.test/ns/prod/sa/web"),
        ("b", &fourth, "spiffe://west.test/ns/prod/sa/web"),
        ("c", &third, "spiffe://west.test/ns/prod/sa/web"),
        ("d", &third, "spiffe://nobody.test/ns/prod/sa/web"),
    ] {
        let reply = direct(board.ingress, &authority.issue(name, claim, 1));
        assert_eq!(reply.status, 0, "{claim}: {reply:?}");
    }

    // Not even the right CA makes a leaf of a certificate that may sign others (X.509-SVID s.5.2).
    let id = "spiffe://third.test/ns/prod/sa/web";
    for (name, constraints, usage) in [
        ("ca", "CA:TRUE", "digitalSignature,keyCertSign"),
        ("signs", "CA:FALSE", "digitalSignature,keyCertSign"),
        ("revokes", "CA:FALSE", "digitalSignature,cRLSign"),
    ] {
        let reply = direct(board.ingress, &third.issue_as(name, id, constraints, usage));
        assert_eq!(reply.status, 0, "{name}: {reply:?}");
    }
    // Nor is one with two identities a caller. An Envoy counts none: it knows whoever it is by the first, which has chosen the bundle too.
    let other = "spiffe://third.test/ns/prod/sa/other";
    let (first, second) = match callee {
        DataPlane::Envoy => (200, 403),
        DataPlane::Weft => (0, 0),
    };
    assert_eq!(direct(board.ingress, &third.issue_several("two", &[id, other])).status, first);
    assert_eq!(direct(board.ingress, &third.issue_several("owt", &[other, id])).status, second);
    let foreign = third.issue_several("far", &["spiffe://fourth.test/ns/prod/sa/web", id]);
    assert_eq!(direct(board.ingress, &foreign).status, 0, "the bundle of the first does not vouch for it");
}

#[test]
fn a_peer_is_judged_by_the_bundle_of_its_own_trust_domain() {
    judged_by_its_own(DataPlane::Weft);
}

#[test]
fn an_envoy_judges_a_peer_by_the_bundle_of_its_own_trust_domain() {
    judged_by_its_own(DataPlane::Envoy);
}

/// Whoever answers for a service is judged by the bundle of that service's trust domain, whatever other names he brings.
#[track_caller]
fn nobody_else_answers(caller: DataPlane) {
    let west = Mesh::start_with(|repo| repo.replace("mesh.yaml", "test.internal", "west.test"));
    let [third, fourth] =
        ["third", "fourth"].map(|name| Authority::create(west.folder(), name, &format!("{name}.test")));
    let id = "spiffe://third.test/ns/prod/sa/board";
    let own = "spiffe://west.test/ns/prod/sa/board";
    let of_fourth = |name: &str, id: &str| fourth.issue_several(name, &["spiffe://fourth.test/x", id]);
    let servers = [
        ("right", third.issue("right", id, 1), id),
        ("alone", fourth.issue("alone", id, 1), id),
        ("beside", of_fourth("beside", id), id),
    ]
    .map(|(name, pair, id)| {
        let port = ports::free();
        let arguments = [port.port().to_string().into(), pair.certificate.into_os_string(), pair.key.into_os_string()];
        let script = [peers::script("tls_server.py").into_os_string()];
        let server = process::Process::start(
            west.folder(),
            name,
            peers::venv("python"),
            script.into_iter().chain(arguments),
            &[],
        );
        (name, id, port, server)
    });
    let mut documents = trust_domain("third.test", ports::free(), "spiffe://third.test/x", &document_of(&third));
    documents += "services:\n";
    for (name, id, port, _) in &servers {
        documents += &format!("- {{host: {name}.third, port: 8080, addresses: [\"{port}\"], spiffeId: {id}}}\n");
    }
    documents += "---\n";
    documents += &trust_domain("fourth.test", ports::free(), "spiffe://fourth.test/x", &document_of(&fourth));
    // One's own service, at an address that somebody of the fourth has taken.
    let stolen = ports::free();
    let pair = of_fourth("stolen", own);
    let arguments = [stolen.port().to_string().into(), pair.certificate.into_os_string(), pair.key.into_os_string()];
    let script = [peers::script("tls_server.py").into_os_string()];
    let thief = process::Process::start(
        west.folder(),
        "thief",
        peers::venv("python"),
        script.into_iter().chain(arguments),
        &[],
    );
    west.repo.write("foreign.yaml", &documents);
    let file = "services/board.yaml";
    let fixed =
        format!("protocol: http\nendpoints: {{static: [{{address: \"{stolen}\", labels: {{version: v1}}}}]}}\n");
    west.repo.write(file, &west.repo.read(file).replace("protocol: http\n", &fixed));
    west.commit("Federate with the third and the fourth");
    let web = west.sidecar("web", Spec::new("prod/web", ports::free()).on(caller));
    let said = |server: &process::Process, host: &str, what: &str| {
        wait::until(&format!("{host} to be {what}"), wait::SOON, || {
            let reply = curl::get(web.egress, host, "/api/x", &[]);
            let log = server.output();
            if log.contains(what) { Ok(log) } else { Err(format!("{reply:?} {log}")) }
        })
    };
    let [(_, _, _, right), wrong @ ..] = &servers;
    said(right, "right.third:8080", "taken");
    for (name, _, _, server) in wrong {
        let log = said(server, &format!("{name}.third:8080"), "refused");
        assert!(!log.contains("taken"), "{name}: {log}");
    }
    let log = said(&thief, "board.prod", "refused");
    assert!(!log.contains("taken"), "{log}");
}

#[test]
fn nobody_else_answers_for_a_service() {
    nobody_else_answers(DataPlane::Weft);
}

#[test]
fn nobody_else_answers_an_envoy_for_a_service() {
    nobody_else_answers(DataPlane::Envoy);
}

#[test]
fn the_other_side_changes_its_root_and_calls_go_on() {
    let mut two = Two::start(DataPlane::Weft, DataPlane::Weft);
    two.allow();
    two.wait_status(200);
    let before = bundle(&two.east);
    let (egress, stop) = (two.web.egress, std::sync::mpsc::channel::<()>());
    let calls = std::thread::spawn(move || {
        let mut wrong = Vec::new();
        while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stop.1.recv_timeout(Duration::from_millis(50)) {
            let reply = curl::get(egress, "board.west:8080", "/api/x", &[]);
            if reply.status != 200 {
                wrong.push(reply);
            }
        }
        wrong
    });
    let state = two.east.state();
    let rotate = ["identity", "rotate", "--reason", "a drill", "--wait", "2m", "--state-dir"];
    let output = two.east.weft(&[&rotate[..], &[state.to_str().expect("a plain path")]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let after = bundle(&two.east);
    assert_ne!(before, after);
    // Under the new root, which the west has learned of from the endpoint and in no other way.
    let web = two.east.svid("prod/web", "new");
    let reply = direct(two.board.ingress, &web);
    assert_eq!(reply.status, 200, "{reply:?}");
    drop(stop.0);
    let wrong = calls.join().expect("it ends");
    assert!(wrong.is_empty(), "{} calls failed: {:?}", wrong.len(), wrong.first());

    // A restart without the other side knows its newest bundle, whatever the intent begins with.
    two.east.kill_server();
    two.west.kill_server();
    two.west.start_server();
    two.board.kill();
    two.board.restart();
    wait::until("the board to be back", wait::SOON, || {
        let reply = direct(two.board.ingress, &web);
        if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    let shown = wait::until("the fetch to fail", wait::SOON, || {
        let shown = federation(&two.west);
        if shown[0]["error"].is_string() { Ok(shown) } else { Err(format!("{shown:?}")) }
    });
    let sequence: Value = serde_json::from_str(&after).expect("JSON");
    assert_eq!(shown[0]["sequence"], sequence["spiffe_sequence"], "{shown:?}");
    let told = text(&two.west.weft(&["status"]));
    assert!(told.contains("trust domain east.test goes on with the bundle of before"), "{told}");
}

#[test]
fn a_bundle_from_the_wrong_endpoint_is_refused_and_anybody_may_read_the_right_one() {
    let endpoints = [ports::free(), ports::free()];
    let folder = tempfile::tempdir().expect("a folder");
    let public = Authority::create(folder.path(), "public", "public.test");
    let site = public.server("site");
    let file = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (certificate, key) = (file(&site.certificate), file(&site.key));
    let web = ["--bundle-endpoint-cert", &certificate, "--bundle-endpoint-key", &key];
    let (east, _site) = (
        mesh("east.test", endpoints[0], &[]),
        mesh("site.test", SocketAddr::new([0; 4].into(), endpoints[1].port()), &web),
    );
    let ca = file(public.certificate());
    let west = Mesh::start_with_options(&["--federation-ca", &ca], |repo| {
        repo.replace("mesh.yaml", "test.internal", "west.test");
    });
    let (of_east, port) = (bundle(&east), endpoints[1].port());
    let https_web = |name: &str, url: &str| {
        format!("kind: TrustDomain\nname: {name}\nendpoint: {url}\nprofile: {{https_web: {{}}}}\n")
    };
    let error = |name: &str, document: &str, why: &str| {
        west.repo.write("foreign.yaml", document);
        west.repo.commit("Federate");
        wait::until(why, wait::SOON, || {
            let shown = federation(&west);
            match shown.iter().find(|one| one["trust_domain"] == name) {
                Some(one) if one["error"].as_str().is_some_and(|error| error.contains(why)) => Ok(one.clone()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let server = "spiffe://east.test/ns/weft/sa/server";
    let wrong_id = trust_domain("east.test", endpoints[0], "spiffe://east.test/ns/prod/sa/web", &of_east);
    let kept = error("east.test", &wrong_id, "the peer is spiffe://east.test/ns/weft/sa/server");
    assert_eq!(kept["roots"], 1, "the bundle that the intent begins with stays: {kept}");
    let elsewhere = trust_domain("east.test", endpoints[1], server, &of_east);
    error("east.test", &elsewhere, "no URI SAN");
    let wrong_profile = https_web("east.test", &format!("https://localhost:{}/", endpoints[0].port()));
    let none = error("east.test", &wrong_profile, "--federation-ca");
    assert_eq!((&none["roots"], &none["sequence"]), (&json!(0), &Value::Null), "{none}");
    let log = west.weft(&["identity", "log", "spiffe://east.test"]);
    let log = text(&log);
    assert!(
        log.contains("the peer is spiffe://east.test/ns/weft/sa/server") && log.contains("--federation-ca"),
        "{log}"
    );
    error("east.test", &https_web("east.test", &format!("https://localhost:{port}/")), "spiffe://site.test");
    error("site.test", &https_web("site.test", &format!("https://localhost:{port}/bundle")), "404");
    error("site.test", &https_web("site.test", &format!("https://127.0.0.2:{port}/")), "not valid for name");

    west.repo.write("foreign.yaml", &https_web("site.test", &format!("https://localhost:{port}/")));
    west.repo.commit("Federate with the site");
    wait::until("the site's bundle", wait::SOON, || {
        let shown = federation(&west);
        if shown[0]["roots"] == 1 && shown[0]["error"].is_null() { Ok(()) } else { Err(format!("{shown:?}")) }
    });

    // Anybody may read it, by both versions of TLS; a reader that is none of ours finds in it what the mesh vouches with.
    let url = format!("https://{}/", endpoints[0]);
    for version in [["--tlsv1.3", "--tls-max", "1.3"], ["--tlsv1.2", "--tls-max", "1.2"]] {
        let reply = curl::curl(&[&["-k", &url][..], &version].concat());
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{reply:?}");
    }
    assert_eq!(curl::curl(&["-k", "--tlsv1.0", "--tls-max", "1.1", &url]).status, 0);
    assert_eq!(curl::curl(&["-k", "-X", "POST", &url]).status, 405);
    let document = curl::curl(&["-k", &url]).body;
    let mut python = Command::new(peers::venv("python"))
        .arg(peers::script("bundle.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    python.stdin.take().expect("piped").write_all(document.as_bytes()).expect("it reads");
    let read = python.wait_with_output().expect("it ends");
    assert!(read.status.success());
    let read: Value = serde_json::from_slice(&read.stdout).expect("JSON");
    let pem = std::fs::read_to_string(east.svid("prod/web", "web").bundle).expect("a bundle");
    let lines = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(read["roots"].as_array().map(Vec::len), Some(1), "{read}");
    assert_eq!(lines(read["roots"][0].as_str().unwrap_or_default()), lines(&pem));
    assert_eq!((&read["hint"], read["kids"].as_array().map(Vec::len)), (&json!(10), Some(1)), "{read}");
    assert!(read["sequence"].as_u64().is_some_and(|sequence| sequence > 0), "{read}");
}
