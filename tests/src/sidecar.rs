//! A `weft sidecar` process with either data plane.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::Process;
use crate::{curl, peers, ports, wait};

/// Who moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    /// Our proxy, in the sidecar's process.
    Weft,
    /// Stock Envoy, as its child.
    Envoy,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `namespace/name`.
    pub service: String,
    /// Where its app listens.
    pub app: SocketAddr,
    /// Labels of the endpoint.
    pub labels: BTreeMap<String, String>,
    /// Ours or Envoy.
    pub data_plane: DataPlane,
    /// Threads that serve requests; `None` leaves it to the sidecar.
    pub workers: Option<u32>,
    /// Where the egress listens; `None` is a free port.
    pub egress: Option<SocketAddr>,
    /// Where the ingress listens; `None` is a free port.
    pub ingress: Option<SocketAddr>,
    /// The app that the sidecar runs itself, program and arguments; empty for none.
    pub command: Vec<String>,
    /// The app's host as it is given to the sidecar; `None` is its address.
    pub app_host: Option<String>,
    /// Seconds for what is under way when the sidecar is stopped; `None` leaves it to the sidecar.
    pub drain: Option<u32>,
    /// The `weft` to run; `None` is [`peers::weft`].
    pub program: Option<PathBuf>,
    /// The control plane's ext_authz; `None` leaves it to the sidecar.
    pub authz: Option<SocketAddr>,
    /// What it runs under, a program and its arguments; empty for nothing.
    pub under: Vec<String>,
    /// Other control planes than that of its mesh.
    pub servers: Option<String>,
    /// Further options, as they are given.
    pub options: Vec<String>,
}

impl Spec {
    /// Our data plane, no labels.
    pub fn new(service: &str, app: SocketAddr) -> Self {
        Self {
            service: service.to_owned(),
            app,
            labels: BTreeMap::new(),
            data_plane: DataPlane::Weft,
            workers: None,
            egress: None,
            ingress: None,
            command: Vec::new(),
            app_host: None,
            drain: None,
            program: None,
            authz: None,
            servers: None,
            under: Vec::new(),
            options: Vec::new(),
        }
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With this data plane.
    #[must_use]
    pub fn on(mut self, data_plane: DataPlane) -> Self {
        self.data_plane = data_plane;
        self
    }

    /// With an app that the sidecar runs, and a second to drain.
    #[must_use]
    pub fn running(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(ToString::to_string).collect();
        self.drain = Some(1);
        self
    }

    /// With this time to drain, in seconds.
    #[must_use]
    pub fn drain(mut self, seconds: u32) -> Self {
        self.drain = Some(seconds);
        self
    }

    /// With these control planes, `host:port,host:port`, instead of the one of its mesh.
    #[must_use]
    pub fn servers(mut self, addresses: &str) -> Self {
        self.servers = Some(addresses.to_owned());
        self
    }

    /// With the app's host by name.
    #[must_use]
    pub fn app_host(mut self, name: &str) -> Self {
        self.app_host = Some(name.to_owned());
        self
    }

    /// Under another program, such as a tool that counts what it does.
    #[must_use]
    pub fn under(mut self, command: &[String]) -> Self {
        self.under = command.to_vec();
        self
    }

    /// With a further option.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// With this number of worker threads.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// With the egress at this address.
    #[must_use]
    pub fn egress(mut self, address: SocketAddr) -> Self {
        self.egress = Some(address);
        self
    }
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// What was asked for.
    pub spec: Spec,
    /// Where the app sends its calls.
    pub egress: SocketAddr,
    /// Where other sidecars call.
    pub ingress: SocketAddr,
    /// Admin endpoint.
    pub admin: SocketAddr,
    /// Health endpoint.
    pub health: SocketAddr,
    /// Prometheus endpoint.
    pub metrics: SocketAddr,
    /// Where it keeps its identity and its last good configuration.
    pub state: PathBuf,
    /// Its access log.
    pub access_log: PathBuf,
    process: Process,
    folder: PathBuf,
    name: String,
    args: Vec<String>,
}

impl Sidecar {
    /// Starts it in its own folder under `folder`, with the token for its first start, and waits until it is ready.
    #[track_caller]
    pub fn start(folder: &Path, name: &str, server: SocketAddr, token: &str, spec: Spec) -> Self {
        let sidecar = Self::launch(folder, name, server, Some(token), spec);
        sidecar.wait_ready()
    }

    /// Starts it without waiting.
    #[track_caller]
    pub fn launch(folder: &Path, name: &str, server: SocketAddr, token: Option<&str>, spec: Spec) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).expect("the sidecar's folder can be made");
        let [egress, ingress, admin, health, metrics] = std::array::from_fn(|_| ports::free());
        let (egress, ingress) = (spec.egress.unwrap_or(egress), spec.ingress.unwrap_or(ingress));
        let (state, access_log) = (folder.join("state"), folder.join("access.json"));
        let mut args = vec!["sidecar".to_owned()];
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag("service", spec.service.clone());
        flag(
            "app",
            match &spec.app_host {
                Some(host) => format!("{host}:{}", spec.app.port()),
                None => spec.app.to_string(),
            },
        );
        flag("server", spec.servers.clone().unwrap_or_else(|| server.to_string()));
        flag("state", state.display().to_string());
        flag("egress", egress.to_string());
        flag("ingress", ingress.to_string());
        flag("admin", admin.to_string());
        flag("health", health.to_string());
        flag("metrics", metrics.to_string());
        flag("access-log", access_log.display().to_string());
        for (name, value) in &spec.labels {
            flag("label", format!("{name}={value}"));
        }
        if let Some(workers) = spec.workers {
            flag("workers", workers.to_string());
        }
        if let Some(drain) = spec.drain {
            flag("drain", drain.to_string());
        }
        if spec.data_plane == DataPlane::Envoy {
            flag("data-plane", "envoy".to_owned());
        }
        args.extend(spec.options.iter().cloned());
        let mut first = args.clone();
        if let Some(token) = token {
            first.extend(["--join-token".to_owned(), token.to_owned()]);
        }
        if !spec.command.is_empty() {
            for args in [&mut args, &mut first] {
                args.push("--".to_owned());
                args.extend(spec.command.iter().cloned());
            }
        }
        let process = spawn(&folder, name, &spec, &first);
        Self {
            spec,
            egress,
            ingress,
            admin,
            health,
            metrics,
            state,
            access_log,
            process,
            name: name.to_owned(),
            folder,
            args,
        }
    }

    /// Waits until the health endpoint says that it serves.
    #[track_caller]
    pub fn wait_ready(mut self) -> Self {
        self.until_ready();
        self
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let what = format!("{} to be ready", self.name);
        let url = format!("http://{}/ready", self.health);
        let bound = if self.spec.under.is_empty() { wait::SOON } else { wait::SLOW };
        wait::until(&what, bound, || {
            self.process.assert_running();
            let reply = curl::curl(&[&url]);
            if reply.status == 200 { Ok(()) } else { Err(format!("{} {} {}", reply.status, reply.body, reply.error)) }
        });
    }

    /// Waits until another one is an endpoint to its data plane. The control plane may be away from then on.
    #[track_caller]
    pub fn wait_knows(&self, callee: &Self) {
        wait::until("the callee to be known", wait::SOON, || {
            let clusters = curl::curl(&[&format!("http://{}/clusters", self.admin)]).body;
            if clusters.contains(&callee.ingress.to_string()) { Ok(()) } else { Err(clusters) }
        });
    }

    /// SIGTERM, then its exit status.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(Duration::from_secs(60))
    }

    /// SIGKILL, and the end of everything that it ran: its guard ends an Envoy a moment later.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.kill();
        wait::until("nothing to listen where it did", wait::SOON, || match TcpStream::connect(self.ingress) {
            Ok(_) => Err("something does"),
            Err(_) => Ok(()),
        });
    }

    /// Starts it again after its end, from what it has on disk, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.start_again();
        self.until_ready();
    }

    /// The same without the waiting.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.process = spawn(&self.folder, &self.name, &self.spec, &self.args);
    }

    /// What it says, as a file.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Id of the sidecar's process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn spawn(folder: &Path, name: &str, spec: &Spec, args: &[String]) -> Process {
    let envoy = match spec.data_plane {
        DataPlane::Envoy => peers::venv("envoy").display().to_string(),
        DataPlane::Weft => String::new(),
    };
    // In the environment: an older `weft` that is compared has no such option.
    let authz = spec.authz.map(|authz| authz.to_string()).unwrap_or_default();
    let env = [("WEFT_ENVOY", &*envoy), ("WEFT_AUTHZ_SERVER", &*authz)];
    let env: Vec<_> = env.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let program = spec.program.clone().unwrap_or_else(peers::weft);
    Process::start_under(&spec.under, folder, name, program, args, &env)
}
