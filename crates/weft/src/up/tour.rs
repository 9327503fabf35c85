//! The tour of examples/city: what a mesh promises, tried out one promise after the other.
//!
//! Each step is a function that makes real calls through real sidecars and says what it saw, or what was wrong. Nothing here looks
//! inside: a step knows what an app, a person at a terminal, or an operator could know.

mod attested;
mod decisions;
mod identity;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use http::{Method, StatusCode};
use serde_json::Value;
use weft_control::status::{ChangeState, MeshStatus};
use weft_model::{Intent, ServiceName};

use super::member::Member;
use super::mesh::{LocalMesh, START_BOUND};
use super::repo::Repo;
use super::report::Report;
use crate::command::status;
use crate::http::{Reply, get};
use crate::sidecar::{DataPlane, envoy_binary as envoy};

/// Requests for which a split is counted.
const COUNTED: usize = 300;
/// What ten percent of that may come to by chance: four standard deviations around 30.
const TEN_PERCENT: std::ops::RangeInclusive<usize> = 9..=51;
/// The same around half.
const HALF: std::ops::RangeInclusive<usize> = 115..=185;
/// How long a commit may take until every proxy runs it.
const COMMIT_BOUND: Duration = Duration::from_secs(20);
/// Life of certificates during the tour; they are renewed at half of it.
const SHORT_LIFE: &str = "20s";

/// Whether this is the mesh that the tour knows.
pub(super) fn fits(intent: &Intent) -> bool {
    let has = |name: &str| intent.local.iter().any(|app| app.service.as_str() == name);
    &*intent.mesh.name == "city" && ["prod/web", "prod/board", "shared/ledger"].into_iter().all(has)
}

/// Gives certificates a life short enough to see them renewed.
pub(super) fn prepare(repo: &Repo) -> Result<()> {
    repo.replace("mesh.yaml", "svidTtl: 1h", &format!("svidTtl: {SHORT_LIFE}"))?;
    repo.commit("Certificates that live for seconds, to watch them being renewed").map(drop)
}

/// All steps in order. Returns whether everything held.
pub(super) async fn run(mesh: &mut LocalMesh) -> bool {
    let mut report = Report::default();
    report.line("a call that a rule allows arrives", allowed(mesh).await);
    report.line("an app calls on, through its own sidecar", chain(mesh).await);
    report.line("by role (RBAC): what no rule of the role allows is denied", decisions::by_role(mesh).await);
    report.line("by attributes (ABAC): what is sensitive is not deleted", decisions::by_attributes(mesh).await);
    report.line("hybrid: a role and an attribute together deny", decisions::hybrid(mesh).await);
    report.line("denials are logged, with line, commit and time", decisions::logged(mesh).await);
    report.line("a host that is no service is not found", unknown_host(mesh).await);
    report.line("weights split calls 90 to 10 over v1 and v2", split(mesh, TEN_PERCENT).await);
    report.line("a commit changes the split to 50 to 50, nothing restarts", commit_changes_split(mesh).await);
    report.line("a bad commit is refused and changes nothing", bad_commit(mesh).await);
    report.line("an operator breaks the glass, and makes it whole again", decisions::break_glass(mesh).await);
    report.line("certificates are renewed under traffic, no call fails", identity::renewed(mesh).await);
    report.line("another root follows under traffic, no call fails", identity::another_root(mesh).await);
    report.line("a root in wrong hands is out in seconds, no call fails", identity::stolen_root(mesh).await);
    report.line("a banned service is out within 2 s, the others go on", identity::banned(mesh).await);
    report.line("what became of it is on record", identity::recorded(mesh).await);
    report.line("an agent gives a program its identity, and another none", attested::by_agent(mesh).await);
    let steps = [
        ("the same calls with Envoy beside prod/board", "prod/board"),
        ("the same calls with Envoy on both sides", "prod/web"),
    ];
    match without_envoy().await {
        Some(why) => steps.iter().for_each(|(expectation, _)| report.skip(expectation, &why)),
        None => {
            for (expectation, service) in steps {
                report.line(expectation, with_envoy(mesh, service).await);
            }
        }
    }
    report.line("back to Weft's own proxies, and certificates of an hour", as_it_began(mesh).await);
    report.end()
}

/// `prod/web` may GET everything of `prod/board`.
async fn allowed(mesh: &LocalMesh) -> Result<String> {
    let reply = mesh.member("web")?.call(Method::GET, "board.prod", "/").await?;
    expect(&reply, StatusCode::OK)?;
    Ok(format!("GET board.prod/ from web: 200 from {}", answered_by(&reply)?))
}

/// `/call/ledger.shared/` makes the board ask the ledger.
async fn chain(mesh: &LocalMesh) -> Result<String> {
    let reply = mesh.member("web")?.call(Method::GET, "board.prod", "/call/ledger.shared/").await?;
    expect(&reply, StatusCode::OK)?;
    let app = answered_by(&reply)?;
    ensure!(app == "ledger", "{app} answered, not ledger");
    Ok("web to board to ledger: 200 from ledger".to_owned())
}

/// What is not in the mesh cannot be called.
async fn unknown_host(mesh: &LocalMesh) -> Result<String> {
    let reply = mesh.member("web")?.call(Method::GET, "nowhere.prod", "/").await?;
    expect(&reply, StatusCode::NOT_FOUND)?;
    Ok("GET nowhere.prod/ from web: 404".to_owned())
}

/// Counts who answers.
async fn split(mesh: &LocalMesh, expected: std::ops::RangeInclusive<usize>) -> Result<String> {
    let mut connection = mesh.member("web")?.connect().await?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..COUNTED {
        let reply = connection.send(get("board.prod", "/")?).await?;
        expect(&reply, StatusCode::OK)?;
        *counts.entry(answered_by(&reply)?).or_default() += 1;
    }
    let (v1, v2) = (counts.get("board-v1").copied().unwrap_or(0), counts.get("board-v2").copied().unwrap_or(0));
    ensure!(v1 + v2 == COUNTED, "others answered too: {counts:?}");
    ensure!(
        expected.contains(&v2),
        "v2 answered {v2} of {COUNTED} calls, expected {} to {}",
        expected.start(),
        expected.end()
    );
    Ok(format!("of {COUNTED} calls v1 answered {v1} and v2 {v2}"))
}

/// Every proxy runs the commit within moments, and each process is the one that it was.
async fn commit_changes_split(mesh: &LocalMesh) -> Result<String> {
    let before = processes(mesh);
    mesh.repo.replace(
        "services/board.yaml",
        "weight: 90}, {subset: v2, weight: 10}",
        "weight: 50}, {subset: v2, weight: 50}",
    )?;
    let commit = mesh.repo.commit("Half of the calls to v2")?;
    let change = status::wait(&mesh.api, &commit, COMMIT_BOUND).await?;
    ensure!(change.state == ChangeState::Done, "the commit is {:?}", change.state);
    let counted = split(mesh, HALF).await?;
    ensure!(processes(mesh) == before, "a process was restarted");
    let took = change.converged_ms.unwrap_or_default();
    Ok(format!("{} proxies run it {took:.0} ms after it was published; {counted}", change.acknowledged.len()))
}

/// The mesh goes on with the last good commit and says what is wrong with the new one.
async fn bad_commit(mesh: &LocalMesh) -> Result<String> {
    let serving = |status: MeshStatus| status.serving.map(|change| change.commit).context("nothing is served");
    let before = serving(mesh.api.get("/api/status").await?)?;
    mesh.repo.replace("services/board.yaml", "{subset: v2, weight: 50}", "{subset: v9, weight: 50}")?;
    let bad = mesh.repo.commit("A subset that does not exist")?;
    let change = status::wait(&mesh.api, &bad, COMMIT_BOUND).await?;
    ensure!(change.state == ChangeState::Refused, "the bad commit is {:?}", change.state);
    let after = serving(mesh.api.get("/api/status").await?)?;
    ensure!(after == before, "the mesh no longer runs on {before}");
    allowed(mesh).await?;
    let finding = change.findings.first().context("no finding says why")?;
    let place = finding.place.as_deref().context("the finding names no place")?;
    let said = format!("refused: {place} {} [{}]; calls go on", finding.message, finding.code);
    mesh.repo.replace("services/board.yaml", "{subset: v9, weight: 50}", "{subset: v2, weight: 50}")?;
    let mended = mesh.repo.commit("Back to a subset that exists")?;
    let change = status::wait(&mesh.api, &mended, COMMIT_BOUND).await?;
    ensure!(change.state == ChangeState::Done, "the mended commit is {:?}", change.state);
    Ok(said)
}

/// Whether this machine has an Envoy that is of use, or what to do.
async fn has_envoy() -> Result<()> {
    let usable = async { envoy::check(&envoy::find(None)?).await };
    usable.await.map_err(|error| anyhow!("{error:#}; {}", envoy::HOW))
}

/// Why there are no steps with Envoy here, if so: a machine need not have one. One that somebody has named must be of use.
async fn without_envoy() -> Option<String> {
    let why = has_envoy().await.err()?;
    (!envoy::is_named()).then(|| why.to_string())
}

/// Every sidecar of `service` is replaced by stock Envoy, and nothing else changes.
async fn with_envoy(mesh: &mut LocalMesh, service: &str) -> Result<String> {
    has_envoy().await?;
    carry(mesh, |app| app.as_str() == service, DataPlane::Envoy).await?;
    allowed(mesh).await.context("the allowed call")?;
    chain(mesh).await.context("the call onwards")?;
    decisions::by_role(mesh).await.context("the call denied by role")?;
    decisions::by_attributes(mesh).await.context("the call denied by attributes")?;
    decisions::hybrid(mesh).await.context("the call denied by both")?;
    unknown_host(mesh).await.context("the unknown host")?;
    let counted = split(mesh, HALF).await?;
    let pairing = |name: &str| match mesh.member(name).map(|member| member.data_plane) {
        Ok(DataPlane::Envoy) => "envoy",
        _ => "weft",
    };
    Ok(format!(
        "{} calling {}: allowed, onwards, denied in three ways, unknown alike; {counted}",
        pairing("web"),
        pairing("board-v1")
    ))
}

/// Restarts the sidecars of the chosen services with another data plane, and waits until they serve again.
async fn carry(mesh: &mut LocalMesh, chosen: impl Fn(&ServiceName) -> bool, plane: DataPlane) -> Result<()> {
    for member in mesh.members.iter_mut().filter(|member| member.data_plane != plane && chosen(&member.app.service)) {
        member.stop().await;
        member.data_plane = plane;
        member.start(None)?;
    }
    for member in &mut mesh.members {
        member.ready(START_BOUND).await?;
    }
    mesh.registered().await
}

/// The mesh that stays behind after the tour is an ordinary one: Weft's own proxies, certificates of an hour.
async fn as_it_began(mesh: &mut LocalMesh) -> Result<String> {
    carry(mesh, |_| true, DataPlane::Weft).await?;
    allowed(mesh).await.context("the allowed call")?;
    mesh.repo.replace("mesh.yaml", &format!("svidTtl: {SHORT_LIFE}"), "svidTtl: 1h")?;
    let commit = mesh.repo.commit("Certificates that live for an hour")?;
    let change = status::wait(&mesh.api, &commit, COMMIT_BOUND).await?;
    ensure!(change.state == ChangeState::Done, "the commit is {:?}", change.state);
    Ok(format!("{} proxies run the commit", change.acknowledged.len()))
}

fn processes(mesh: &LocalMesh) -> Vec<u32> {
    mesh.members.iter().map(Member::id).collect()
}

fn expect(reply: &Reply, status: StatusCode) -> Result<()> {
    if reply.status != status {
        bail!("expected {}, got {}: {}", status.as_u16(), reply.status.as_u16(), reply.text().trim());
    }
    Ok(())
}

/// The name that a demo app gives in its answer.
fn answered_by(reply: &Reply) -> Result<String> {
    let answer: Value = serde_json::from_slice(&reply.body).context("the answer is not of a demo app")?;
    answer["app"].as_str().map(str::to_owned).context("the answer does not say which app it is from")
}

/// Why the mesh said no.
fn reason(reply: &Reply) -> Result<String> {
    let problem: Value =
        serde_json::from_slice(&reply.body).with_context(|| format!("no problem+json: {}", reply.text()))?;
    problem["detail"].as_str().map(str::to_owned).context("the problem has no detail")
}
