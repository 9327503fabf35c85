//! One app of a local mesh and its sidecar.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_model::intent::LocalApp;

use super::child::Child;
use crate::http::{Connection, Reply, get, once};
use crate::sidecar::DataPlane;

/// A sidecar drains for at most this long when it is stopped; local apps have nothing that takes longer.
const DRAIN: &str = "3";
const STOP_BOUND: Duration = Duration::from_secs(20);

/// Below the kernel's range for outgoing connections (32768 and up), so that no client takes a port before its server does, or
/// while a sidecar is being replaced.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A loopback port that is free now and was not given before; `preferred` if that is.
pub(crate) fn free_port(preferred: u16) -> Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = rand::random_range(PORTS);
    let candidates = (first..PORTS.end).chain(PORTS.start..first);
    let preferred = Some(preferred).filter(|port| *port != 0);
    for port in preferred.into_iter().chain(candidates) {
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok((Ipv4Addr::LOCALHOST, port).into());
        }
    }
    bail!("no port from {} to {} is free on 127.0.0.1", PORTS.start, PORTS.end - 1)
}

/// Where sidecars find the control plane.
#[derive(Clone, Copy)]
pub(crate) struct Server {
    pub(crate) xds: SocketAddr,
    pub(crate) authz: SocketAddr,
}

/// One app and its sidecar, a child process each of the other.
pub(crate) struct Member {
    /// Short and unique, like `board-v1`.
    pub(crate) name: String,
    /// What the mesh repository says of it.
    pub(crate) app: LocalApp,
    /// Where the app's calls go.
    pub(crate) egress: SocketAddr,
    /// Where others call.
    pub(crate) ingress: SocketAddr,
    /// Admin endpoint of the data plane.
    pub(crate) admin: SocketAddr,
    /// Health endpoint.
    pub(crate) health: SocketAddr,
    /// Who moves the bytes.
    pub(crate) data_plane: DataPlane,
    prometheus: SocketAddr,
    port: SocketAddr,
    folder: PathBuf,
    server: Server,
    child: Option<Child>,
}

impl Member {
    /// Chooses ports and a folder; starts nothing.
    pub(crate) fn plan(name: String, app: LocalApp, folder: &Path, server: Server, egress: u16) -> Result<Self> {
        let folder = folder.join(&name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self {
            egress: free_port(egress)?,
            ingress: free_port(0)?,
            admin: free_port(0)?,
            health: free_port(0)?,
            prometheus: free_port(0)?,
            port: free_port(0)?,
            data_plane: DataPlane::Weft,
            name,
            app,
            folder,
            server,
            child: None,
        })
    }

    /// Starts the sidecar, which starts the app. A token is needed the first time only.
    pub(crate) fn start(&mut self, token: Option<&str>) -> Result<()> {
        let mut args = vec!["sidecar".to_owned()];
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag("service", self.app.service.to_string());
        flag("app", self.port.to_string());
        flag("server", self.server.xds.to_string());
        flag("authz-server", self.server.authz.to_string());
        flag("state-dir", self.folder.join("state").display().to_string());
        flag("egress", self.egress.to_string());
        flag("ingress", self.ingress.to_string());
        flag("admin", self.admin.to_string());
        flag("health", self.health.to_string());
        flag("prometheus", self.prometheus.to_string());
        flag("access-log", self.access_log().display().to_string());
        flag("workers", "1".to_owned());
        flag("drain", DRAIN.to_owned());
        for (key, value) in &self.app.labels {
            flag("labels", format!("{key}={value}"));
        }
        if self.data_plane == DataPlane::Envoy {
            flag("data-plane", "envoy".to_owned());
        }
        args.push("--".to_owned());
        args.extend(self.command()?);
        let token: Vec<_> = token.map(|token| ("WEFT_JOIN_TOKEN", token)).into_iter().collect();
        self.child = Some(Child::start(&self.name, &args, &token, &self.folder.join("log"))?);
        Ok(())
    }

    /// The app's command, with this binary for `weft` and the two variables filled in.
    fn command(&self) -> Result<Vec<String>> {
        let fill = |word: &String| {
            word.replace("${PORT}", &self.port.port().to_string()).replace("${EGRESS}", &self.egress.to_string())
        };
        let mut command: Vec<String> = self.app.command.iter().map(fill).collect();
        if let Some(program) = command.first_mut().filter(|program| *program == "weft") {
            *program = std::env::current_exe().context("finding this binary")?.display().to_string();
        }
        Ok(command)
    }

    /// Waits until the sidecar takes calls.
    pub(crate) async fn ready(&mut self, bound: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + bound;
        loop {
            if let Some(child) = &mut self.child {
                child.check()?;
            }
            let ready = async { once(&self.health.to_string(), get("health", "/ready")?).await };
            if ready.await.is_ok_and(|reply| reply.status.is_success()) {
                return Ok(());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "{} was not ready within {} s",
                self.name,
                bound.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops sidecar and app in order.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop(STOP_BOUND).await;
        }
    }

    /// Fails when the sidecar has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::check)
    }

    /// Process id of the sidecar.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Its access log.
    pub(crate) fn access_log(&self) -> PathBuf {
        self.folder.join("access.json")
    }

    /// One call as the app would make it.
    pub(crate) async fn call(&self, method: http::Method, host: &str, target: &str) -> Result<Reply> {
        let mut request = get(host, target)?;
        *request.method_mut() = method;
        once(&self.egress.to_string(), request).await
    }

    /// A connection to the egress, for many calls.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.egress.to_string()).await
    }
}
