//! A step about the agent of a machine: who a program is says the kernel.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use weft_control::status::{ChangeState, JoinTokenAnswer, JoinTokenRequest};

use super::COMMIT_BOUND;
use crate::command::status;
use crate::http::{get, once};
use crate::up::child::Child;
use crate::up::member::free_port;
use crate::up::mesh::{LocalMesh, START_BOUND};

const FILE: &str = "services/ledger.yaml";

/// A commit says which program is the ledger: one of two that are alike but for their paths. Another commit takes it back.
pub(super) async fn by_agent(mesh: &LocalMesh) -> Result<String> {
    let folder = mesh.folder().join("agent");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let folder = folder.canonicalize().with_context(|| format!("finding {}", folder.display()))?;
    let (ledger, other) = (program(&folder, "ledger")?, program(&folder, "other")?);
    let attest = format!("protocol: http\nattest: [{{agent: tour, path: {}}}]\n", ledger.display());
    commit(mesh, "protocol: http\n", &attest, "One program of this machine is the ledger").await?;

    let wanted = JoinTokenRequest { service: "agent:tour".to_owned(), ttl: "10m".to_owned() };
    let token: JoinTokenAnswer = mesh.api.post("/api/join-tokens", &mesh.admin()?, &wanted).await?;
    let (socket, health) = (folder.join("s"), free_port(0)?);
    let args = [
        ("--name", "tour".to_owned()),
        ("--server", mesh.xds.to_string()),
        ("--state-dir", folder.join("state").display().to_string()),
        ("--socket", socket.display().to_string()),
        ("--health", health.to_string()),
    ];
    let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let args: Vec<String> = std::iter::once("agent".to_owned()).chain(args).collect();
    let mut agent = Child::start("the agent", &args, &[("WEFT_JOIN_TOKEN", &token.token)], &folder.join("log"))?;
    let begun = Instant::now();
    while !async { once(&health.to_string(), get("health", "/ready")?).await }
        .await
        .is_ok_and(|it| it.status.is_success())
    {
        agent.check()?;
        ensure!(begun.elapsed() < START_BOUND, "the agent was not ready within {START_BOUND:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let got = ask(&ledger, &socket).await?.context("the program at the path of the entry was refused")?;
    ensure!(got == "spiffe://city.internal/ns/shared/sa/ledger", "it got {got}");
    if let Some(got) = ask(&other, &socket).await? {
        bail!("a program that no entry names got {got}");
    }
    commit(mesh, &attest, "protocol: http\n", "No program of this machine is the ledger").await?;
    let begun = Instant::now();
    while ask(&ledger, &socket).await?.is_some() {
        ensure!(begun.elapsed() < COMMIT_BOUND, "a commit has taken the entry away, and not the identity");
    }
    agent.stop(Duration::from_secs(5)).await;
    Ok(format!("{got} for {}, none for its twin; none when a commit took it back", ledger.display()))
}

/// This binary at a path of its own.
fn program(folder: &Path, name: &str) -> Result<PathBuf> {
    let (own, path) = (std::env::current_exe().context("finding this binary")?, folder.join(name));
    let linked = std::fs::hard_link(&own, &path).or_else(|_| std::fs::copy(&own, &path).map(drop));
    linked.with_context(|| format!("copying this binary to {}", path.display()))?;
    Ok(path)
}

async fn commit(mesh: &LocalMesh, from: &str, to: &str, message: &str) -> Result<()> {
    mesh.repo.replace(FILE, from, to)?;
    let commit = mesh.repo.commit(message)?;
    let change = status::wait(&mesh.api, &commit, COMMIT_BOUND).await?;
    ensure!(change.state == ChangeState::Done, "the commit is {:?}", change.state);
    Ok(())
}

/// What a program is to the agent; `None` if it is nobody.
async fn ask(program: &Path, socket: &Path) -> Result<Option<String>> {
    let mut command = Command::new(program);
    command.args(["identity", "ask", "--socket"]).arg(socket).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("running {}", program.display()))?;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(said.split_whitespace().next().map(str::to_owned));
    }
    ensure!(error.contains("has no identity"), "{} says {error}", program.display());
    Ok(None)
}
