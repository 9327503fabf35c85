//! Two meshes on two machines that share nothing but a wire, each with its own trust domain, at the ports that they have by default.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_tests::curl::Reply;
use weft_tests::mesh::text;
use weft_tests::namespace::{Namespace, Wired};
use weft_tests::process::Process;
use weft_tests::repo::Repo;
use weft_tests::{peers, wait};

const API: &str = "127.0.0.1:7000";
const ENDPOINT: u16 = 7443;
/// What is promised of a federation that is removed.
const REMOVED: Duration = Duration::from_secs(5);

/// A machine with a control plane. Fields drop in order: the processes first.
struct Machine {
    processes: Vec<Process>,
    repo: Repo,
    domain: &'static str,
    namespace: Namespace,
    folder: TempDir,
}

impl Machine {
    fn start(namespace: Namespace, domain: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a temporary folder");
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh");
        let repo = Repo::create(&folder.path().join("repo"), &template);
        repo.replace("mesh.yaml", "test.internal", domain);
        repo.commit("A trust domain of its own");
        let endpoint = format!("{}:{ENDPOINT}", namespace.address);
        let (repository, state) = (repo.root().display().to_string(), path(&folder, "server-state"));
        let state = state.display().to_string();
        let mut args = vec!["server", "--repo", &repository, "--state-dir", &state];
        args.extend(["--bundle-endpoint", &endpoint, "--bundle-refresh-hint", "10"]);
        let server = namespace.start(folder.path(), "server", &args);
        let machine = Self { processes: vec![server], repo, domain, namespace, folder };
        machine.serves(&machine.repo.head());
        machine
    }

    #[track_caller]
    fn serves(&self, commit: &str) {
        wait::until("the control plane to serve", wait::SOON, || {
            let status = self.api("/api/status");
            if status["serving"]["commit"] == commit { Ok(()) } else { Err(status.to_string()) }
        });
    }

    fn api(&self, of: &str) -> Value {
        let reply = self.namespace.curl(&[&format!("http://{API}{of}")]);
        serde_json::from_str(&reply.body).unwrap_or_else(|_| json!({"status": reply.status, "error": reply.error}))
    }

    #[track_caller]
    fn weft(&self, args: &[&str]) -> String {
        let output = self.namespace.weft(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// A sidecar at the usual ports, and an app if it has one.
    fn sidecar(&mut self, service: &str) {
        let state = path(&self.folder, "server-state").display().to_string();
        let made = self.weft(&["identity", "join-token", "--service", service, "--state-dir", &state]);
        let token = made.split_whitespace().find(|word| word.starts_with("weft.")).expect("a token").to_owned();
        let own = path(&self.folder, "sidecar").display().to_string();
        let args =
            ["sidecar", "--service", service, "--join-token", &token, "--state-dir", &own, "--labels", "version=v1"];
        self.processes.push(self.namespace.start(self.folder.path(), "sidecar", &args));
    }

    /// A web server that answers `GET /api/x`.
    fn app(&mut self) {
        let pages = path(&self.folder, "pages");
        std::fs::create_dir_all(pages.join("api")).expect("a folder of ours");
        std::fs::write(pages.join("api/x"), self.domain).expect("a folder of ours");
        let pages = pages.display().to_string();
        let args = ["-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory", &pages];
        let python = peers::venv("python");
        self.processes.push(self.namespace.start_program(self.folder.path(), "app", &python, &args));
    }

    fn ready(&self) {
        wait::until("the sidecar to be ready", wait::SOON, || {
            let reply = self.namespace.curl(&["http://127.0.0.1:15021/ready"]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }

    /// How the other side is named here.
    fn names(&self, other: &Self, endpoint: &str) -> String {
        let bundle = other.weft(&["identity", "bundle", "--server", API]);
        format!(
            "kind: TrustDomain\nname: {domain}\nendpoint: https://{endpoint}/\nprofile:\n  https_spiffe:\n    spiffeId: spiffe://{domain}/ns/weft/sa/server\n    bundle: '{}'\n",
            bundle.trim(),
            domain = other.domain,
        )
    }

    fn endpoint(&self) -> String {
        format!("{}:{ENDPOINT}", self.namespace.address)
    }

    fn federation(&self) -> Value {
        self.api("/api/identity/federation")[0].clone()
    }
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[test]
fn two_trust_domains_on_two_machines_call_each_other_by_policy_alone() {
    let Some(Wired { one, other }) = Wired::make() else { return };
    let (mut east, mut west) = (Machine::start(one, "east.test"), Machine::start(other, "west.test"));
    west.app();
    west.sidecar("prod/board");
    west.ready();
    let service = format!(
        "services:\n- {{host: board.west, port: 8080, addresses: [\"{}:15006\"], spiffeId: spiffe://west.test/ns/prod/sa/board}}\n",
        west.namespace.address
    );
    east.repo.write("west.yaml", &(east.names(&west, &west.endpoint()) + &service));
    east.serves(&east.repo.commit("Federate with the west"));
    let of_east = west.names(&east, &east.endpoint());
    west.repo.write("east.yaml", &of_east);
    west.serves(&west.repo.commit("Federate with the east"));
    east.sidecar("prod/web");
    east.ready();
    for machine in [&east, &west] {
        wait::until("the other's bundle to be fetched", wait::SOON, || {
            let shown = machine.federation();
            if shown["roots"] == 1 && shown["error"].is_null() && shown["fetched_at"] != Value::Null {
                Ok(())
            } else {
                Err(shown.to_string())
            }
        });
    }

    let call = || east.namespace.curl(&["-H", "Host: board.west:8080", "http://127.0.0.1:15001/api/x"]);
    let answered = |status: u16| -> Reply {
        wait::until(&format!("calls across to be answered {status}"), wait::SOON, || {
            let reply = call();
            if reply.status == status { Ok(reply) } else { Err(format!("{reply:?}")) }
        })
    };
    assert_eq!(answered(403).json()["cause"], "denied");
    let permit = "permit (principal == Service::\"spiffe://east.test/ns/prod/sa/web\", action == Action::\"call\", resource == \
         Service::\"prod/board\");\n";
    west.repo.write("policies/east.cedar", permit);
    west.repo.commit("Let the web of the east in");
    assert_eq!(answered(200).body, "west.test");

    // What the wrong endpoint says is refused, and calls go on by what was known before.
    let wrong = west.names(&east, &west.endpoint());
    west.repo.write("east.yaml", &wrong);
    west.repo.commit("The east is somewhere else");
    wait::until("the wrong endpoint to be refused", wait::SOON, || {
        let shown = west.federation();
        let why = shown["error"].as_str().unwrap_or_default();
        if why.contains("spiffe://west.test/ns/weft/sa/server") || why.contains("under this trust domain's bundle") {
            Ok(())
        } else {
            Err(shown.to_string())
        }
    });
    assert_eq!(west.federation()["roots"], 1);
    assert_eq!(call().status, 200);
    west.repo.write("east.yaml", &of_east);
    west.repo.commit("The east is where it was");

    // The end: connections that are there are cut, and there is no new one.
    std::fs::remove_file(west.repo.root().join("policies/east.cedar")).expect("it is there");
    std::fs::remove_file(west.repo.root().join("east.yaml")).expect("it is there");
    let begun = Instant::now();
    west.repo.commit("The east is on its own");
    wait::until("calls across to fail", REMOVED, || {
        let reply = call();
        if [200, 403].contains(&reply.status) { Err(format!("{reply:?}")) } else { Ok(()) }
    });
    assert!(begun.elapsed() < REMOVED, "{:?}", begun.elapsed());
    assert_eq!(call().json()["layer"], "identity", "{:?}", call());
}
