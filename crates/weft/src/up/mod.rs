//! `weft up`: a whole mesh on this machine, from one folder of intent.
//!
//! The control plane and each sidecar are child processes of this very binary with ports and folders of their own, as they would be
//! on machines of their own; nothing is shared but the network.

pub(crate) mod child;
mod member;
mod repo;
mod summary;
mod tour;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_control::check::{Look, check, render};
use weft_control::status::{JoinTokenAnswer, JoinTokenRequest, MeshStatus};
use weft_model::{Intent, SourceFile};

use crate::command::identity::admin_token;
use crate::http::Api;
use crate::output::hinted;
use crate::signal::Stop;
use child::Child;
use member::{Member, free_port};
use repo::Repo;

/// How long control plane and sidecars may take to start; a debug build on a busy machine is slow.
const START_BOUND: Duration = Duration::from_secs(60);

/// Run a whole mesh on this machine: control plane, sidecars and apps
///
/// Starts the control plane, and a sidecar with its app for each entry of `kind: Local`. The root of a Git repository runs as it was last committed, and then follows its commits; any other folder is copied to a temporary repository. The mesh of examples/city first gives a tour.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the intent
    #[arg(default_value = "examples/city")]
    dir: PathBuf,
    /// Give the tour, then stop; exit code 0 only if everything held
    #[arg(long)]
    once: bool,
    /// Go without the tour
    #[arg(long, conflicts_with = "once")]
    no_tour: bool,
    /// Keep state, logs and the copy of the intent in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// A mesh of child processes.
pub(crate) struct LocalMesh {
    pub(crate) repo: Repo,
    pub(crate) api: Api,
    pub(crate) http: SocketAddr,
    pub(crate) members: Vec<Member>,
    server: Child,
    /// The control plane's state folder.
    state: PathBuf,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let files = repo::files(&args.dir)?;
    let intent = judge(&args.dir, &files)?;
    let tour = !args.no_tour && tour::fits(&intent);
    if args.once && !tour {
        return Err(hinted("the tour needs the services of examples/city", "weft up --once examples/city"));
    }
    let temporary;
    let folder = match &args.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            folder.canonicalize()?
        }
        None => {
            // Short, because Envoy's agent has a Unix socket in it.
            temporary = tempfile::Builder::new().prefix("weft-").tempdir().context("making a temporary folder")?;
            temporary.path().to_owned()
        }
    };
    let copy = folder.join("intent");
    // The tour makes commits, and gives certificates a short life: never in somebody's own repository.
    let repo = if tour { Repo::copy(&files, &copy)? } else { Repo::open(&args.dir, &files, &copy)? };
    if tour {
        tour::prepare(&repo)?;
    }

    let started = std::time::Instant::now();
    let mut mesh = tokio::select! {
        mesh = LocalMesh::start(repo, &intent, &folder) => mesh?,
        () = stop.wait() => return Ok(ExitCode::FAILURE),
    };
    println!("mesh {} is up after {:.1} s\n", intent.mesh.name, started.elapsed().as_secs_f64());

    let outcome = tokio::select! {
        outcome = live(&args, &mut mesh, tour) => outcome,
        () = stop.wait() => Ok(if args.once { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
    };
    eprintln!("stopping");
    mesh.stop().await;
    outcome
}

/// The tour, then the summary for as long as everything runs.
async fn live(args: &Args, mesh: &mut LocalMesh, tour: bool) -> Result<ExitCode> {
    if tour {
        let held = tour::run(mesh).await;
        if args.once {
            return Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    println!("{}", summary::describe(mesh));
    summary::follow(mesh).await?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the files of the folder before anything is started.
fn judge(dir: &Path, files: &[SourceFile]) -> Result<Intent> {
    let checked = check(files);
    let Some(intent) = checked.intent else {
        eprint!("{}", render(&checked.findings, files, Look::default()));
        let (what, then) = match repo::is_root(dir) {
            true => ("last commit of", " and commit"),
            false => ("intent in", ""),
        };
        return Err(hinted(
            format!("the {what} {} has errors", dir.display()),
            format!("mend them{then}: weft check {}", dir.display()),
        ));
    };
    if intent.local.is_empty() {
        let hint = "add a document `kind: Local` with `apps: [{service: NS/NAME, command: [...]}]`";
        return Err(hinted(format!("{} names no apps to run", dir.display()), hint));
    }
    Ok(intent)
}

impl LocalMesh {
    async fn start(repo: Repo, intent: &Intent, folder: &Path) -> Result<Self> {
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
        let mut mesh = Self { repo, api: Api::new(http.to_string()), http, members: Vec::new(), server, state };
        mesh.serving().await?;
        let admin = admin_token(&mesh.state)?;

        for (n, app) in intent.local.iter().enumerate() {
            let name = member_name(app, &mesh.members);
            let egress = if n == 0 { 15001 } else { 0 };
            let mut member = Member::plan(name, app.clone(), folder, xds, egress)?;
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
            if self.api.get::<MeshStatus>("/api/status").await.is_ok_and(|status| status.serving.is_some()) {
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
            if all && status.proxies.acknowledged >= self.members.len() && status.proxies.pending == 0 {
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

    /// The member of a name, like `web`.
    pub(crate) fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name == name).with_context(|| format!("there is no {name}"))
    }

    /// Sidecars first and side by side, the control plane last: it tells callers who has left.
    async fn stop(mut self) {
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
