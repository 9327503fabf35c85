//! The mesh as child processes: started in order, stopped in the opposite one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use weft_control::status::{JoinTokenAnswer, JoinTokenRequest, MeshStatus};
use weft_model::Intent;

use super::child::Child;
use super::member::{Member, Server, free_port};
use super::repo::Repo;
use crate::command::identity::admin_token;
use crate::http::{Api, get, once};

/// How long control plane and sidecars may take to start; a debug build on a busy machine is slow.
pub(crate) const START_BOUND: Duration = Duration::from_secs(60);

/// A mesh of child processes.
pub(crate) struct LocalMesh {
    pub(crate) repo: Repo,
    pub(crate) api: Api,
    pub(crate) http: SocketAddr,
    pub(crate) members: Vec<Member>,
    pub(crate) server: Child,
    /// Where it serves xDS and identity.
    pub(crate) xds: SocketAddr,
    /// The control plane's state folder.
    state: PathBuf,
}

impl LocalMesh {
    /// Starts everything and waits until it serves.
    pub(crate) async fn start(repo: Repo, intent: &Intent, folder: &Path) -> Result<Self> {
        let (xds, authz, http) = (free_port(15010)?, free_port(15011)?, free_port(7000)?);
        let args = [
            ("--repo", repo.root().display().to_string()),
            ("--state-dir", folder.join("server").display().to_string()),
            ("--xds", xds.to_string()),
            ("--authz", authz.to_string()),
            ("--http", http.to_string()),
            ("--poll", "0.1".to_owned()),
        ];
        let args: Vec<String> = std::iter::once("server".to_owned())
            .chain(args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]))
            .collect();
        let server = Child::start("the control plane", &args, &[], &folder.join("server.log"))?;
        let state = folder.join("server");
        let mut mesh = Self { repo, api: Api::new(http.to_string()), http, members: Vec::new(), server, xds, state };
        mesh.serving().await?;
        let admin = admin_token(&mesh.state)?;

        for (n, app) in intent.local.iter().enumerate() {
            let name = member_name(app, &mesh.members);
            let egress = if n == 0 { 15001 } else { 0 };
            let mut member = Member::plan(name, app.clone(), folder, Server { xds, authz }, egress)?;
            let wanted = JoinTokenRequest { service: app.service.to_string(), ttl: "10m".to_owned() };
            let token: JoinTokenAnswer = mesh.api.post("/api/join-tokens", &admin, &wanted).await?;
            member.start(Some(&token.token))?;
            mesh.members.push(member);
        }
        for member in &mut mesh.members {
            member.ready(START_BOUND).await?;
        }
        mesh.registered().await?;
        Ok(mesh)
    }

    /// Waits until the control plane has a commit and answers everything.
    async fn serving(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + START_BOUND;
        loop {
            self.server.check()?;
            let serving = self.api.get::<MeshStatus>("/api/status").await.is_ok_and(|status| status.serving.is_some());
            // Another control plane may have the port, and then it is the other that serves: ours ends, which is told.
            if serving && admin_token(&self.state).is_ok() {
                return Ok(());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "the control plane did not come up in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every member can be called and every proxy has the newest configuration.
    pub(crate) async fn registered(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + START_BOUND;
        loop {
            for member in &mut self.members {
                member.check()?;
            }
            let status: MeshStatus = self.api.get("/api/status").await?;
            let addresses: Vec<&str> = status
                .services
                .iter()
                .flat_map(|service| &service.endpoints)
                .map(|endpoint| &*endpoint.address)
                .collect();
            let all = self.members.iter().all(|member| addresses.contains(&&*member.ingress.to_string()));
            let settled = status.proxies.acknowledged >= self.members.len() && status.proxies.pending == 0;
            // What was registered a moment ago is not published yet: then nobody is waited for.
            if all && settled && self.callers_know().await {
                return Ok(());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "not every endpoint was registered in time: {:?}",
                status.proxies
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The admin token of the control plane.
    pub(crate) fn admin(&self) -> Result<String> {
        admin_token(&self.state)
    }

    /// Where state, logs and the copy of the intent are.
    pub(crate) fn folder(&self) -> &Path {
        self.state.parent().unwrap_or(&self.state)
    }

    /// Whether each data plane has the endpoints of all services that it may call.
    async fn callers_know(&self) -> bool {
        for caller in &self.members {
            let clusters = async { once(&caller.admin.to_string(), get("admin", "/clusters")?).await };
            let Ok(clusters) = clusters.await else { return false };
            let clusters = clusters.text();
            let unknown = |callee: &Member| {
                clusters.contains(&callee.app.service.host()) && !clusters.contains(&callee.ingress.to_string())
            };
            if self.members.iter().any(unknown) {
                return false;
            }
        }
        true
    }

    /// The member of a name, like `web`.
    pub(crate) fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name == name).with_context(|| format!("there is no {name}"))
    }

    /// Sidecars first and side by side, the control plane last: it tells callers who has left.
    pub(crate) async fn stop(mut self) {
        let stopping = self.members.iter_mut().map(Member::stop);
        futures_util::future::join_all(stopping).await;
        self.server.stop(Duration::from_secs(5)).await;
    }
}

/// `board-v1` for a version of a service that is there more than once, else `web`.
fn member_name(app: &weft_model::intent::LocalApp, others: &[Member]) -> String {
    let version = app.labels.get("version").map(|version| format!("-{version}")).unwrap_or_default();
    let base = format!("{}{version}", app.service.name());
    let taken = |name: &str| others.iter().any(|member| member.name == name);
    if !taken(&base) {
        return base;
    }
    (2..).map(|n| format!("{base}-{n}")).find(|name| !taken(name)).unwrap_or(base)
}
