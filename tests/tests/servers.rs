//! Three control planes on an etcd of three members: whoever of them dies, no call fails, and what is single is done once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::app::App;
use weft_tests::etcd::Etcd;
use weft_tests::load::{Load, Target};
use weft_tests::mesh::text;
use weft_tests::process::Process;
use weft_tests::repo::Repo;
use weft_tests::sidecar::{DataPlane, Sidecar, Spec};
use weft_tests::{curl, peers, ports, wait};

const RATE: u64 = 100;
/// What everybody is promised of a ban.
const AT_ONCE: Duration = Duration::from_secs(2);

/// One of several control planes.
struct Server {
    process: Option<Process>,
    args: Vec<String>,
    folder: PathBuf,
    state: PathBuf,
    xds: SocketAddr,
    api: SocketAddr,
}

impl Server {
    #[track_caller]
    fn start(folder: &Path, number: usize, repo: &Repo, etcd: &Etcd) -> Self {
        let [xds, authz, api] = std::array::from_fn(|_| ports::free());
        let state = folder.join(format!("server-{number}"));
        let args = [
            ("repo", repo.root().display().to_string()),
            ("state", state.display().to_string()),
            ("store", etcd.url()),
            ("store-key", folder.join("root.key").display().to_string()),
            ("xds", xds.to_string()),
            ("authz", authz.to_string()),
            ("http", api.to_string()),
        ];
        let args = args.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        let args = std::iter::once("server".to_owned()).chain(args).collect();
        let mut server = Self { process: None, args, folder: folder.to_owned(), state, xds, api };
        server.launch();
        server
    }

    #[track_caller]
    fn launch(&mut self) {
        let name = self.state.file_name().expect("it has one").to_string_lossy().into_owned();
        let mut process = Process::start(&self.folder, &name, peers::weft(), &self.args, &[]);
        wait::until(&format!("{name} to serve"), wait::SOON * 2, || {
            process.assert_running();
            let status = self.get("/api/status")?;
            if status["serving"]["commit"].is_string() && self.get("/api/identity").is_ok() {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
        self.process = Some(process);
    }

    fn kill(&mut self) {
        self.process.as_mut().expect("it runs").kill();
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let reply = curl::curl(&[&format!("http://{}{path}", self.api)]);
        if reply.status != 200 {
            return Err(format!("{path}: {} {} {}", reply.status, reply.body, reply.error));
        }
        serde_json::from_str(&reply.body).map_err(|error| format!("{path}: {error}"))
    }

    /// The command-line tool, on this server's machine.
    fn weft(&self, args: &[&str]) -> Output {
        let mut command = Command::new(peers::weft());
        command.args(args).arg("--state-dir").arg(&self.state).args(["--server", &self.api.to_string()]);
        command.output().expect("the weft binary runs")
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.weft(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    #[track_caller]
    fn token(&self, service: &str) -> String {
        let told = self.done(&["identity", "join-token", "--service", service]);
        told.split_whitespace().find(|word| word.starts_with("weft.")).expect("a token").to_owned()
    }

    fn connected(&self) -> u64 {
        self.get("/api/status").ok().and_then(|status| status["proxies"]["connected"].as_u64()).unwrap_or_default()
    }

    fn endpoints(&self, service: &str) -> usize {
        let status = self.get("/api/status").unwrap_or_default();
        let found = status["services"].as_array().into_iter().flatten().find(|found| found["name"] == service);
        found.and_then(|service| service["endpoints"].as_array()).map_or(0, Vec::len)
    }
}

/// All servers, and their repository.
struct Servers {
    servers: Vec<Server>,
    etcd: Etcd,
    repo: Repo,
    folder: tempfile::TempDir,
}

impl Servers {
    #[track_caller]
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a temporary folder");
        let repo = Repo::create(&folder.path().join("repo"), &Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh"));
        repo.replace("mesh.yaml", "svidTtl: 1h", "svidTtl: 20s"); // renewals go on all the while
        repo.commit("Adapt");
        let etcd = Etcd::start(3);
        let servers = (0..3).map(|number| Server::start(folder.path(), number, &repo, &etcd)).collect();
        Self { servers, etcd, repo, folder }
    }

    /// A sidecar that tries the servers in this order.
    #[track_caller]
    fn sidecar(&self, name: &str, spec: Spec, order: [usize; 3]) -> Sidecar {
        let token = self.servers[order[0]].token(&spec.service);
        let addresses = order.map(|number| self.servers[number].xds.to_string()).join(",");
        Sidecar::start(self.folder.path(), name, self.servers[order[0]].xds, &token, spec.servers(&addresses))
    }

    /// Waits until the servers that live have a stream of every sidecar, and know this many endpoints of the board.
    #[track_caller]
    fn wait_together(&self, dead: Option<usize>, sidecars: u64, boards: usize) {
        let living = || self.servers.iter().enumerate().filter(|(number, _)| Some(*number) != dead);
        wait::until("the servers that live to know everybody", wait::SOON * 2, || {
            let connected: Vec<u64> = living().map(|(_, server)| server.connected()).collect();
            let endpoints: Vec<usize> = living().map(|(_, server)| server.endpoints("prod/board")).collect();
            if connected.iter().sum::<u64>() >= sidecars && endpoints.iter().all(|count| *count == boards) {
                Ok(())
            } else {
                Err(format!("streams {connected:?}, endpoints {endpoints:?}"))
            }
        });
    }

    fn roots(&self, number: usize) -> Result<Vec<(String, String)>, String> {
        let trust = self.servers[number].get("/api/identity")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let roots = trust["roots"].as_array().ok_or("no roots")?;
        Ok(roots.iter().map(|root| (text(&root["id"]), text(&root["state"]))).collect())
    }
}

/// Two that come at once with one token, each to another server: how many were let in, and what the others were told.
fn redeem_at_once(servers: &Servers, round: usize) -> (usize, String) {
    let token = servers.servers[round % 3].token("prod/vault");
    let fetches: Vec<_> = (0..3)
        .map(|number| {
            let out = servers.folder.path().join(format!("fetched-{round}-{number}"));
            let mut command = Command::new(peers::weft());
            command.args(["identity", "fetch", "--service", "prod/vault", "--join-token", &token, "--server"]);
            command.arg(servers.servers[number].xds.to_string()).arg("--out").arg(out);
            std::thread::spawn(move || command.output().expect("the weft binary runs"))
        })
        .collect();
    let outputs: Vec<Output> = fetches.into_iter().map(|fetch| fetch.join().expect("it ends")).collect();
    let refused = outputs.iter().filter(|output| !output.status.success()).map(text).collect();
    (outputs.iter().filter(|output| output.status.success()).count(), refused)
}

#[test]
fn each_server_and_a_member_of_etcd_die_in_turn_and_no_call_fails_and_a_token_is_taken_and_a_root_made_once() {
    let mut all = Servers::start();
    let app = App::start("v1");
    let board = |version| Spec::new("prod/board", app.address()).label("version", version);
    let sidecars = [
        all.sidecar("board", board("v1"), [0, 1, 2]),
        all.sidecar("board-2", board("v2").on(DataPlane::Envoy), [1, 2, 0]),
        all.sidecar("web", Spec::new("prod/web", ports::free()), [2, 0, 1]),
    ];
    let web = &sidecars[2];
    all.wait_together(None, 3, 2);
    let connected: Vec<u64> = all.servers.iter().map(Server::connected).collect();
    assert_eq!(connected, [1, 1, 1], "each is at another server, and the caller knows both callees");
    let target = Target { address: web.egress, host: "board.prod".to_owned(), path: "/api/load".to_owned() };
    target.wait_reachable();

    let (load, start) = (Load::start(target.clone(), RATE), Instant::now());
    for number in 0..3 {
        all.servers[number].kill();
        all.wait_together(Some(number), 3, 2);
        // Whoever comes now finds a mesh that is whole.
        let token = all.servers[(number + 1) % 3].token("prod/board");
        assert!(token.starts_with("weft."));
        all.servers[number].launch();
        all.wait_together(None, 3, 2);
    }
    for number in 0..3 {
        all.etcd.kill(number);
        let (let_in, refused) = redeem_at_once(&all, number);
        assert_eq!(let_in, 1, "{refused}");
        assert!(
            refused.matches("was used 0 s ago by another key").count() + refused.matches("was used 1 s ago").count()
                >= 2,
            "{refused}"
        );
        all.etcd.restart(number);
    }

    let before = all.roots(0).expect("it serves");
    let told = all.servers[1].done(&["identity", "rotate", "--reason", "a drill", "--wait", "2m"]);
    let after = all.roots(1).expect("it serves");
    assert_eq!(before.len(), 1);
    assert_eq!(after.iter().map(|(_, state)| &**state).collect::<Vec<_>>(), ["retired", "active"], "{told}");
    for number in [0, 2] {
        wait::until("the other servers to have the same roots", wait::SOON, || {
            let roots = all.roots(number)?;
            if roots == after { Ok(()) } else { Err(format!("{roots:?}, not {after:?}")) }
        });
    }
    // The keys of all roots that were ever made are in etcd: not one more.
    assert_eq!(count(&all.etcd, "weft/ca/x509/"), 2);
    load.stop().assert_clean(RATE, start.elapsed());

    // A ban at one server counts for whoever is connected to others.
    let at = all.servers.iter().position(|server| server.connected() == 0).unwrap_or(0);
    let banned = Instant::now();
    all.servers[at].done(&["identity", "ban", "prod/web", "--reason", "a drill"]);
    wait::until("the ban to count", wait::SOON, || {
        let reply = curl::get(web.egress, "board.prod", "/api/load", &[]);
        if reply.status == 503 && reply.body.contains("identity_banned") { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    assert!(banned.elapsed() < AT_ONCE, "it took {:?}", banned.elapsed());
    drop(sidecars);
    assert!(all.repo.root().exists());
}

/// How many keys etcd has under a prefix, by its own word.
fn count(etcd: &Etcd, prefix: &str) -> u64 {
    let encode = |bytes: &[u8]| {
        let mut command = Command::new("base64");
        let input = std::process::Stdio::piped();
        let mut child = command.arg("-w0").stdin(input).stdout(std::process::Stdio::piped()).spawn().expect("base64");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), bytes).expect("it reads");
        String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("is text")
    };
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("not empty") += 1;
    let body = format!(
        "{{\"key\": \"{}\", \"range_end\": \"{}\", \"count_only\": true}}",
        encode(prefix.as_bytes()),
        encode(&end)
    );
    let reply = curl::curl(&["-X", "POST", "-d", &body, &format!("http://{}/v3/kv/range", etcd.client(0))]);
    let answer: Value = serde_json::from_str(&reply.body).expect("etcd answers in JSON");
    answer["count"].as_str().and_then(|count| count.parse().ok()).unwrap_or_default()
}
