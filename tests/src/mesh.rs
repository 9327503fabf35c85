//! A control plane on a repository of intent, and what it says about the mesh.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::pki::Pair;
use crate::process::{Process, run};
use crate::repo::Repo;
use crate::sidecar::{Sidecar, Spec};
use crate::{curl, peers, ports, wait};

/// A mesh in its own temporary folder. Fields drop in order: processes first, then the folder.
#[derive(Debug)]
pub struct Mesh {
    server: Option<Process>,
    /// The `weft` that everything of this mesh runs.
    program: PathBuf,
    /// The intent.
    pub repo: Repo,
    /// xDS and identity.
    pub xds: SocketAddr,
    /// ext_authz.
    pub authz: SocketAddr,
    /// HTTP API.
    pub api: SocketAddr,
    /// Further options of the control plane, as they are given.
    pub options: Vec<String>,
    folder: Folder,
}

/// The folder of a mesh: removed with it, kept when the test fails, so that its logs can be read.
#[derive(Debug)]
struct Folder(Option<TempDir>);

impl Folder {
    fn path(&self) -> &Path {
        self.0.as_ref().expect("only drop takes it").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.0.take()
        {
            eprintln!("the logs of this mesh stay in {}", folder.keep().display());
        }
    }
}

impl Mesh {
    /// Starts a control plane on a copy of this crate's `mesh/` folder.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same, with a change to the intent before its first commit.
    #[track_caller]
    pub fn start_with(change: impl FnOnce(&Repo)) -> Self {
        Self::start_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh"), change)
    }

    /// Starts a control plane on a copy of `template`.
    #[track_caller]
    pub fn start_from(template: &Path, change: impl FnOnce(&Repo)) -> Self {
        Self::start_program(&peers::weft(), template, change)
    }

    /// Starts a control plane with further options on a copy of this crate's `mesh/` folder.
    #[track_caller]
    pub fn start_with_options(options: &[&str], change: impl FnOnce(&Repo)) -> Self {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh");
        let mut mesh = Self::prepare(&peers::weft(), &template, change);
        mesh.options = options.iter().map(ToString::to_string).collect();
        mesh.start_server();
        mesh
    }

    /// Starts a control plane with further options that may have to wait for something before it serves.
    #[track_caller]
    pub fn launch_with_options(options: &[&str], change: impl FnOnce(&Repo)) -> Self {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh");
        let mut mesh = Self::prepare(&peers::weft(), &template, change);
        mesh.options = options.iter().map(ToString::to_string).collect();
        mesh.launch_server();
        mesh
    }

    /// The same with another `weft` than [`peers::weft`], for the control plane and for the sidecars.
    #[track_caller]
    pub fn start_program(program: &Path, template: &Path, change: impl FnOnce(&Repo)) -> Self {
        let mut mesh = Self::prepare(program, template, change);
        mesh.start_server();
        mesh
    }

    #[track_caller]
    fn prepare(program: &Path, template: &Path, change: impl FnOnce(&Repo)) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a temporary folder");
        let repo = Repo::create(&folder.path().join("repo"), template);
        change(&repo);
        repo.commit("Adapt");
        let [xds, authz, api] = std::array::from_fn(|_| ports::free());
        let program = program.to_owned();
        Self { server: None, program, repo, xds, authz, api, options: Vec::new(), folder: Folder(Some(folder)) }
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the control plane (again) on its state, and waits until it serves the newest commit.
    #[track_caller]
    pub fn start_server(&mut self) {
        self.launch_server();
        self.wait_serving();
    }

    /// Starts the control plane (again) on its state.
    #[track_caller]
    pub fn launch_server(&mut self) {
        let args = [
            "server".to_owned(),
            "--repo".to_owned(),
            self.repo.root().display().to_string(),
            "--state".to_owned(),
            self.state().display().to_string(),
            "--xds".to_owned(),
            self.xds.to_string(),
            "--authz".to_owned(),
            self.authz.to_string(),
            "--http".to_owned(),
            self.api.to_string(),
        ];
        let args = args.into_iter().chain(self.options.iter().cloned());
        self.server = Some(Process::start(self.folder(), "server", &self.program, args, &[]));
    }

    /// Waits until the control plane serves the newest commit.
    #[track_caller]
    pub fn wait_serving(&mut self) {
        let head = self.repo.head();
        wait::until("the control plane to serve", wait::SOON, || {
            self.server().assert_running();
            let status = self.api("/api/status")?;
            if status["serving"]["commit"] == head { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// The control plane's process.
    pub fn server(&mut self) -> &mut Process {
        self.server.as_mut().expect("the server has been started")
    }

    /// Kills the control plane at once.
    pub fn kill_server(&mut self) {
        self.server().kill();
    }

    /// Where the control plane keeps its state.
    pub fn state(&self) -> PathBuf {
        self.folder().join("server-state")
    }

    /// The answer of the HTTP API.
    ///
    /// # Errors
    /// When it does not answer with JSON and status 200.
    pub fn api(&self, path: &str) -> Result<Value, String> {
        let reply = curl::curl(&[&format!("http://{}{path}", self.api)]);
        if reply.status != 200 {
            return Err(format!("{path}: {} {} {}", reply.status, reply.body, reply.error));
        }
        serde_json::from_str(&reply.body).map_err(|error| format!("{path}: {error}"))
    }

    /// A fresh one-time join token for a service.
    #[track_caller]
    pub fn token(&self, service: &str) -> String {
        self.token_for("--service", service)
    }

    /// A fresh one-time join token for the agent of a machine.
    #[track_caller]
    pub fn agent_token(&self, name: &str) -> String {
        self.token_for("--agent", name)
    }

    #[track_caller]
    fn token_for(&self, option: &str, who: &str) -> String {
        let state = self.state().display().to_string();
        let output = self.weft(&["identity", "join-token", option, who, "--state-dir", &state]);
        assert!(output.status.success(), "no token for {who}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .find(|w| w.starts_with("weft."))
            .expect("a token")
            .to_owned()
    }

    /// An X.509-SVID of a service, for a peer that is no sidecar, as `weft identity fetch` writes it; nothing renews it.
    #[track_caller]
    pub fn svid(&self, service: &str, name: &str) -> Pair {
        let folder = self.folder().join(name);
        let fetched = Command::new(&self.program)
            .args(["identity", "fetch", "--service", service, "--join-token", &self.token(service)])
            .args(["--server", &self.xds.to_string(), "--out"])
            .arg(&folder)
            .output()
            .expect("the weft binary runs");
        assert!(fetched.status.success(), "no certificate for {service}: {}", text(&fetched));
        let file = |name| folder.join(name);
        Pair { certificate: file("cert.pem"), key: file("key.pem"), bundle: file("bundle.pem") }
    }

    /// What ADS answers to a node that says it is the sidecar of `service` and shows this certificate: `OK ...` or a status.
    #[track_caller]
    pub fn ads(&self, client: &Pair, service: &str) -> String {
        self.ads_with(service, &client.bundle, &[&client.certificate, &client.key])
    }

    /// The same without a certificate.
    #[track_caller]
    pub fn ads_without_certificate(&self, bundle: &Path, service: &str) -> String {
        self.ads_with(service, bundle, &[])
    }

    #[track_caller]
    fn ads_with(&self, service: &str, bundle: &Path, files: &[&Path]) -> String {
        let mut command = Command::new(peers::venv("python"));
        command.arg(peers::script("ads.py")).arg(self.xds.to_string()).arg(bundle).arg(service).args(files);
        run(&mut command)
    }

    /// Runs the command-line tool against this control plane.
    pub fn weft(&self, args: &[&str]) -> Output {
        Command::new(&self.program)
            .args(args)
            .args(["--server", &self.api.to_string()])
            .current_dir(self.folder())
            .output()
            .expect("the weft binary runs")
    }

    /// Starts a sidecar with a fresh token and waits until it is ready.
    #[track_caller]
    pub fn sidecar(&self, name: &str, mut spec: Spec) -> Sidecar {
        let token = self.token(&spec.service);
        spec.program.get_or_insert_with(|| self.program.clone());
        spec.authz = Some(self.authz);
        Sidecar::start(self.folder(), name, self.xds, &token, spec)
    }

    /// Commits the work tree and waits until every proxy has acknowledged it, with `weft status COMMIT --wait`.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        let commit = self.repo.commit(message);
        self.acknowledged(&commit);
        commit
    }

    /// Waits until every proxy has acknowledged the commit.
    #[track_caller]
    pub fn acknowledged(&self, commit: &str) {
        let output = self.weft(&["status", commit, "--wait"]);
        assert!(output.status.success(), "{commit} was not acknowledged: {}", text(&output));
        let status = self.api(&format!("/api/status/{commit}")).expect("the commit is known");
        assert_eq!(status["state"], "done", "{status:#}");
        assert_eq!(status["pending"].as_array().map(Vec::len), Some(0), "{status:#}");
        assert_eq!(status["refused"].as_array().map(Vec::len), Some(0), "{status:#}");
    }

    /// Waits until callers are sent this many endpoints of a service.
    #[track_caller]
    pub fn wait_endpoints(&self, service: &str, count: usize) {
        wait::until(&format!("{count} endpoints of {service}"), Duration::from_secs(30), || {
            let status = self.api("/api/status")?;
            let found = status["services"].as_array().into_iter().flatten().find(|s| s["name"] == service);
            let have = found.and_then(|s| s["endpoints"].as_array()).map_or(0, Vec::len);
            if have == count { Ok(()) } else { Err(format!("it has {have}")) }
        });
    }
}

/// Both streams of a command.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
