//! Machines that come without a join token: by a certificate or a token that somebody else has given them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::agent::Agent;
use weft_tests::app::App;
use weft_tests::issuer::Issuer;
use weft_tests::mesh::{Mesh, text};
use weft_tests::pki::{Authority, Pair};
use weft_tests::process::tail;
use weft_tests::repo::Repo;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, ports, wait};

const AUDIENCE: &str = "weft.test.internal";

/// A mesh whose intent says by what machines prove who they are, the CA of a data centre and an issuer of tokens.
struct Bench {
    mesh: Mesh,
    issuer: Issuer,
    authority: Authority,
    /// The mesh's roots, as they are on every machine.
    roots: PathBuf,
    _folder: tempfile::TempDir,
}

/// The entries of `nodes`.
fn nodes(authority: &Authority, issuer: &Issuer) -> String {
    let pem = std::fs::read_to_string(authority.certificate()).expect("it is there").replace('\n', "\n          ");
    let (url, keys) = (issuer.url(), issuer.keys());
    format!(
        "identity:
  nodes:
    - x509pop:
        ca: |
          {pem}
        match: {{dnsName: \"*.board.dc1.test\"}}
      services: [prod/board]
    - oidc: {{issuer: \"{url}\", audience: {AUDIENCE}, claims: {{kubernetes.io/serviceaccount/name: web, kubernetes.io/namespace: [prod]}}}}
      services: [prod/web]
    - oidc: {{issuer: \"{url}\", audience: {AUDIENCE}, jwks: '{keys}', claims: {{sub: agent, kubernetes.io/node/name: \"node-*\"}}}}
      agent: \"*\"
"
    )
}

impl Bench {
    #[track_caller]
    fn start_with(change: impl FnOnce(&Repo)) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a temporary folder");
        let issuer = Issuer::start(folder.path());
        let authority = Authority::create(folder.path(), "dc1", "dc1.test");
        let mesh = Mesh::start_with(|repo| {
            let mesh = repo.read("mesh.yaml") + "\n" + &nodes(&authority, &issuer);
            repo.write("mesh.yaml", &mesh);
            change(repo);
        });
        let bundle = mesh.weft(&["identity", "bundle"]);
        assert!(bundle.status.success(), "{}", text(&bundle));
        let roots = mesh.folder().join("roots.json");
        std::fs::write(&roots, &bundle.stdout).expect("the folder can be written");
        Self { mesh, issuer, authority, roots, _folder: folder }
    }

    #[track_caller]
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// A sidecar's options to prove by this certificate.
    fn by_certificate(&self, spec: Spec, pair: &Pair) -> Spec {
        let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
        let spec = spec.option("--attest-cert", &certificate).option("--attest-key", &key);
        spec.option("--server-ca", &self.roots.display().to_string())
    }

    /// A sidecar's options to prove by the token in this file.
    fn by_jwt(&self, spec: Spec, file: &Path) -> Spec {
        let spec = spec.option("--attest-jwt", &file.display().to_string());
        spec.option("--server-ca", &self.roots.display().to_string())
    }

    fn launch(&self, name: &str, spec: Spec) -> Sidecar {
        Sidecar::launch(self.mesh.folder(), name, self.mesh.xds, None, spec)
    }

    /// A file with a token of a pod of `prod/web`, of which these claims differ, and with other wishes.
    #[track_caller]
    fn token(&self, name: &str, claims: &Value, wishes: &Value) -> PathBuf {
        let pod = json!({"namespace": "prod", "serviceaccount": {"name": "web"}, "pod": {"uid": name}});
        let mut all = json!({"sub": "system:serviceaccount:prod:web", "aud": [AUDIENCE], "kubernetes.io": pod});
        for (name, value) in claims.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let mut wanted = json!({"claims": all});
        for (name, value) in wishes.as_object().into_iter().flatten() {
            wanted[name] = value.clone();
        }
        let file = self.mesh.folder().join(format!("{name}.jwt"));
        std::fs::write(&file, self.issuer.token(&wanted) + "\n").expect("the folder can be written");
        file
    }

    /// What a sidecar says that does not get in, which must contain all of this.
    #[track_caller]
    fn refused(&self, name: &str, spec: Spec, reasons: &[&str]) {
        let mut sidecar = self.launch(name, spec);
        let status = sidecar.process().wait(Duration::from_secs(30));
        let output = sidecar.process().output();
        assert!(!status.success(), "{name} got in: {}", tail(&output, 20));
        for reason in reasons {
            assert!(output.contains(reason), "{name}: no `{reason}` in: {}", tail(&output, 20));
        }
        assert!(!output.contains("eyJ"), "{name}: it shows a token: {}", tail(&output, 20));
    }

    #[track_caller]
    fn records(&self, who: &str) -> Vec<Value> {
        let records = self.mesh.api(&format!("/api/identity/records?who={who}")).expect("records");
        records.as_array().expect("a list").clone()
    }

    #[track_caller]
    fn said(&self, args: &[&str]) -> String {
        let state = self.mesh.state().display().to_string();
        let state = if args.contains(&"ban") { vec!["--state-dir", &state] } else { Vec::new() };
        let output = self.mesh.weft(&[&["identity"], args, &state].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }
}

/// The fields of the line that `weft identity list` has for a service.
#[track_caller]
fn line(list: &str, service: &str) -> Vec<String> {
    let id = format!("spiffe://test.internal/ns/{}", service.replace('/', "/sa/"));
    let line = list.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("no {service} in: {list}"));
    line.split_whitespace().map(str::to_owned).collect()
}

/// One comes by a certificate and the other by a token, and they call each other.
#[track_caller]
fn serves(caller: DataPlane, callee: DataPlane) {
    let bench = Bench::start();
    let node = bench.authority.node("m1", "DNS:m1.board.dc1.test");
    let app = App::start("v1");
    let spec = Spec::new("prod/board", app.address()).label("version", "v1").on(callee);
    let mut board = bench.launch("board", bench.by_certificate(spec, &node)).wait_ready();
    let file = bench.token("pod-1", &json!({}), &json!({}));
    let web = bench.launch("web", bench.by_jwt(Spec::new("prod/web", ports::free()).on(caller), &file)).wait_ready();
    let called = || {
        wait::until("the call to be answered", wait::SOON, || {
            let reply = curl::get(web.egress, "board.prod", "/api/x", &[]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    };
    called();

    let list = bench.said(&["list"]);
    let (of_board, of_web) = (line(&list, "prod/board"), line(&list, "prod/web"));
    assert_eq!((&*of_board[3], &*of_web[3]), ("x509pop", "oidc"), "{list}");
    assert!(bench.said(&["show", "prod/board"]).contains("x509pop"));
    let log = bench.said(&["log"]);
    assert!(log.contains("by x509pop: O=weft, SHA-256 ") && log.contains("system:serviceaccount:prod:web"), "{log}");

    // It comes back from what is saved; and without that by the same certificate, as the same machine.
    assert!(board.stop().success());
    board.restart();
    assert!(board.stop().success());
    std::fs::remove_file(board.state.join("identity.json")).expect("it is there");
    board.restart();
    called();
    assert_eq!(line(&bench.said(&["list"]), "prod/board")[2], of_board[2], "the machine is the same");
}

#[test]
fn a_sidecar_comes_by_the_certificate_of_its_machine_and_another_by_a_token_and_they_serve_calls() {
    serves(DataPlane::Weft, DataPlane::Envoy);
}

#[test]
fn so_they_do_with_the_data_planes_the_other_way_round() {
    serves(DataPlane::Envoy, DataPlane::Weft);
}

#[test]
fn a_certificate_that_does_not_entitle_is_refused_and_the_operator_told_what_to_do() {
    let bench = Bench::start();
    let board = || Spec::new("prod/board", ports::free());
    let node = bench.authority.node("m1", "DNS:m1.board.dc1.test");
    let other = bench.authority.node("m2", "DNS:m2.vault.dc1.test");
    bench.refused("other-name", bench.by_certificate(board(), &other), &["m2.vault.dc1.test", "mesh.yaml:", "x509pop"]);
    let elsewhere = Authority::create(bench.mesh.folder(), "dc2", "dc2.test").node("m3", "DNS:m3.board.dc1.test");
    bench.refused("other-ca", bench.by_certificate(board(), &elsewhere), &["does not lead to the entry's `ca`"]);
    let server = bench.authority.server("m4");
    bench.refused("server", bench.by_certificate(board(), &server), &["the machine's certificate is refused"]);
    let web = Spec::new("prod/web", ports::free());
    bench.refused(
        "other-service",
        bench.by_certificate(web, &node),
        &["no entry of `Mesh.identity.nodes`", "prod/web"],
    );
    let mixed = Pair { key: other.key.clone(), ..node.clone() };
    bench.refused("other-key", bench.by_certificate(board(), &mixed), &["m2.key", "not the key of"]);
    let gone = Pair { certificate: bench.mesh.folder().join("gone.pem"), ..node.clone() };
    bench.refused("no-file", bench.by_certificate(board(), &gone), &["gone.pem", "--attest-cert"]);

    // Refusals of the control plane are on record, those that never reached it are not.
    let refused: Vec<Value> = bench.records("prod/board").into_iter().filter(|it| it["event"] == "refused").collect();
    assert_eq!(refused.len(), 3, "{refused:#?}");
    assert!(refused.iter().all(|it| it["asked"] == "attested" && it["machine"].is_string()), "{refused:#?}");

    // A machine that is banned does not come back as another one by the same certificate.
    let first = bench.launch("first", bench.by_certificate(board(), &node)).wait_ready();
    let machine = line(&bench.said(&["list"]), "prod/board")[2].clone();
    bench.said(&["ban", "--machine", &machine, "--reason", "stolen"]);
    drop(first);
    bench.refused(
        "again",
        bench.by_certificate(board(), &node),
        &[&format!("machine {machine} is banned"), "same proof"],
    );
}

#[test]
fn a_control_plane_that_is_not_of_the_roots_on_the_machine_gets_nothing() {
    let bench = Bench::start();
    let other = Mesh::start_with(|repo| repo.replace("mesh.yaml", "test.internal", "other.internal"));
    let (own, node) = (other.svid("prod/web", "fetched").bundle, bench.authority.node("m1", "DNS:m1.board.dc1.test"));
    let file = bench.token("pod-1", &json!({}), &json!({}));
    for (name, spec) in [
        ("x509", bench.by_certificate(Spec::new("prod/board", ports::free()), &node)),
        ("jwt", bench.by_jwt(Spec::new("prod/web", ports::free()), &file)),
    ] {
        let options = spec.options.iter().map(|option| match option == &bench.roots.display().to_string() {
            true => own.display().to_string(),
            false => option.clone(),
        });
        let spec = Spec { options: options.collect(), ..spec };
        let mut sidecar = bench.launch(name, spec);
        wait::until("it to be told", wait::SOON, || {
            let output = sidecar.process().output();
            let told = "the roots of the mesh on this machine do not judge the server";
            if output.contains(told) { Ok(()) } else { Err(tail(&output, 20)) }
        });
    }
    let came = bench.mesh.api("/api/identity/records").expect("records").to_string();
    assert!(!came.contains("attested"), "nobody has even asked: {came}");
}

#[test]
fn a_token_that_does_not_entitle_is_refused_and_the_operator_told_what_to_do() {
    let bench = Bench::start();
    let refused = |name: &str, claims: Value, wishes: Value, reasons: &[&str]| {
        let file = bench.token(name, &claims, &wishes);
        bench.refused(name, bench.by_jwt(Spec::new("prod/web", ports::free()), &file), reasons);
    };
    let none = || json!({});
    refused(
        "issuer",
        json!({"iss": "https://evil.test"}),
        none(),
        &["no entry of `Mesh.identity.nodes`", "https://evil.test"],
    );
    refused("audience", json!({"aud": "vault"}), none(), &["the token is for vault, not for weft.test.internal"]);
    refused("expired", json!({"exp": 1_700_000_000}), none(), &["the token expired"]);
    refused("endless", json!({"exp": null}), none(), &["no `exp`"]);
    refused("early", json!({"nbf": 4_000_000_000_u64}), none(), &["`nbf`", "is a clock wrong"]);
    refused("future", json!({"iat": 4_000_000_000_u64}), none(), &["`iat`", "is a clock wrong"]);
    refused("none", none(), json!({"alg": "none"}), &["the token's algorithm"]);
    refused("hmac", none(), json!({"alg": "HS256"}), &["the token's algorithm"]);
    refused("forged", none(), json!({"stranger": true}), &["the token's signature is wrong"]);
    refused(
        "claimless",
        json!({"kubernetes.io": {"namespace": "prod"}}),
        none(),
        &["no claim `kubernetes.io/serviceaccount/name`"],
    );
    let other = json!({"namespace": "staging", "serviceaccount": {"name": "web"}});
    refused(
        "claim",
        json!({"kubernetes.io": other}),
        none(),
        &["`kubernetes.io/namespace` of the token is `staging`", "mesh.yaml:"],
    );
    refused("key", none(), json!({"kid": "rsa9"}), &["no key with the `kid`"]);

    // A token serves the machine that came first, again too, and no other one.
    let file = bench.token("pod-1", &json!({}), &json!({"alg": "ES256"}));
    let spec = || bench.by_jwt(Spec::new("prod/web", ports::free()), &file);
    let mut first = bench.launch("first", spec()).wait_ready();
    bench.refused("thief", spec(), &["the token was used", "by another machine", "leaked"]);
    assert!(first.stop().success());
    std::fs::remove_file(first.state.join("identity.json")).expect("it is there");
    first.restart();

    // Who is banned does not come back by another token of the same pod.
    let machine = line(&bench.said(&["list"]), "prod/web")[2].clone();
    bench.said(&["ban", "--machine", &machine, "--reason", "stolen"]);
    drop(first);
    let another = bench.token("pod-1", &json!({}), &json!({}));
    bench.refused("banned", bench.by_jwt(Spec::new("prod/web", ports::free()), &another), &["is banned", "same proof"]);
    let pod = bench.token("pod-2", &json!({}), &json!({}));
    drop(bench.launch("pod-2", bench.by_jwt(Spec::new("prod/web", ports::free()), &pod)).wait_ready());
}

#[test]
fn keys_of_an_issuer_are_kept_and_found_anew_when_it_has_others() {
    let mut bench = Bench::start();
    let come = |bench: &Bench, name: &str| {
        let file = bench.token(name, &json!({}), &json!({}));
        bench.launch(name, bench.by_jwt(Spec::new("prod/web", ports::free()), &file))
    };
    drop(come(&bench, "one").wait_ready());
    bench.issuer.mode("away");
    drop(come(&bench, "two").wait_ready());
    assert_eq!(bench.issuer.fetches(), 1, "what is known is not asked for again");

    // Whoever comes by a key that is not known waits until it is found, and no longer.
    bench.issuer.rotate();
    bench.issuer.mode("redirect");
    let file = bench.token("three", &json!({}), &json!({}));
    let three = bench.launch("three", bench.by_jwt(Spec::new("prod/web", ports::free()), &file));
    wait::until("a redirect to be refused", wait::SOON, || {
        let output = bench.mesh.server().output();
        if output.contains("302") { Ok(()) } else { Err(tail(&output, 20)) }
    });
    bench.issuer.mode("");
    drop(three.wait_ready());
    assert!(bench.issuer.fetches() <= 4, "{} fetches: nobody is asked all the time", bench.issuer.fetches());
}

#[test]
fn an_agent_is_called_as_its_token_says() {
    let bench = Bench::start();
    let agent = |name: &str, node: &str| {
        let claims = json!({"sub": "agent", "kubernetes.io": {"node": {"name": node}, "pod": {"uid": node}}});
        let file = bench.token(&format!("of-{name}"), &claims, &json!({}));
        let (file, roots) = (file.display().to_string(), bench.roots.display().to_string());
        Agent::launch_by(&bench.mesh, name, &["--attest-jwt", &file, "--server-ca", &roots])
    };
    let mut good = agent("m1", "node-m1");
    good.until_ready();
    let mut liar = agent("m2", "node-m3");
    assert!(!liar.process().wait(Duration::from_secs(30)).success());
    let told = liar.process().output();
    assert!(told.contains("`kubernetes.io/node/name` of the token is `node-m3`"), "{}", tail(&told, 20));
    let list = bench.said(&["list"]);
    assert!(list.lines().any(|line| line.contains("/agent/m1") && line.contains("oidc")), "{list}");
}

/// For clients that check host names, a certificate has those that its service has in the intent, for as long as that says.
#[track_caller]
fn named(data_plane: DataPlane) {
    let mesh = Mesh::start_with(|repo| {
        let own = "protocol: http\nidentity: {svidTtl: 30m, dnsNames: [board.acme.test, pins.acme.test]}\n";
        let board = repo.read("services/board.yaml").replace("protocol: http\n", own);
        repo.write("services/board.yaml", &board);
    });
    let app = App::start("v1");
    let board = mesh.sidecar("board", Spec::new("prod/board", app.address()).label("version", "v1").on(data_plane));
    let web = mesh.sidecar("web", Spec::new("prod/web", ports::free()));
    wait::until("the mesh to call it by its identity", wait::SOON, || {
        let reply = curl::get(web.egress, "board.prod", "/api/x", &[]);
        if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    let client = mesh.svid("prod/web", "client");
    let path = |path: &Path| path.display().to_string();
    let (certificate, key, roots) = (path(&client.certificate), path(&client.key), path(&client.bundle));
    let call = |name: &str| {
        let (url, port) = (format!("https://{name}:{}/api/x", board.ingress.port()), board.ingress.port());
        let resolve = format!("{name}:{port}:127.0.0.1");
        let tls = ["--cacert", &roots, "--cert", &certificate, "--key", &key, "--resolve", &resolve];
        curl::curl(&[&tls[..], &["--http1.1", "-H", "Host: board.prod:8080", &url]].concat())
    };
    for name in ["board.acme.test", "pins.acme.test"] {
        assert_eq!(call(name).status, 200, "{:?}", call(name));
    }
    let other = call("vault.acme.test");
    assert!(other.status == 0 && other.error.contains("subject"), "{other:?}");
    let living = mesh.api("/api/identities").expect("certificates");
    let life = |service: &str| {
        let one = living
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["node"].as_str().is_some_and(|it| it.starts_with(service)));
        let one = one.unwrap_or_else(|| panic!("no {service}: {living:#}"));
        one["expires_at"].as_u64().unwrap_or_default() - one["issued_at"].as_u64().unwrap_or_default()
    };
    assert_eq!((life("prod/board~"), life("prod/web~")), (1_800, 3_600));
}

#[test]
fn a_certificate_has_the_names_and_the_life_that_its_service_has_in_the_intent() {
    named(DataPlane::Weft);
}

#[test]
fn so_it_has_where_envoy_is_the_data_plane() {
    named(DataPlane::Envoy);
}
