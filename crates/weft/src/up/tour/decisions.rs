//! Steps about decisions: denied in three ways of thinking, written down, and opened for an emergency.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use weft_control::glass::GlassAnswer;
use weft_control::glass::signed::{GlassRequest, new_key};
use weft_control::status::ChangeState;
use weft_decision_log::{Entry, Outcome, Tail};

use super::{COMMIT_BOUND, expect, reason};
use crate::command::{logs, status};
use crate::up::mesh::LocalMesh;

/// In which the last lines of a log are on the disk.
const LOG_BOUND: Duration = Duration::from_secs(5);
/// In which every sidecar knows that the glass is broken, or whole again.
const GLASS_BOUND: Duration = Duration::from_secs(5);

/// The role storefront may read and post, and not delete.
pub(super) async fn by_role(mesh: &LocalMesh) -> Result<String> {
    denied(mesh, "web", (Method::DELETE, "board.prod", "/api/pins"), |reason| reason.contains("services/board.yaml:"))
        .await
}

/// Nothing of high sensitivity is deleted, by whomever.
pub(super) async fn by_attributes(mesh: &LocalMesh) -> Result<String> {
    denied(mesh, "board-v1", (Method::DELETE, "ledger.shared", "/entries"), is_of_the_ledger).await
}

/// A role and an attribute together: a storefront never touches what is sensitive.
pub(super) async fn hybrid(mesh: &LocalMesh) -> Result<String> {
    denied(mesh, "web", (Method::GET, "ledger.shared", "/"), is_of_the_ledger).await
}

fn is_of_the_ledger(reason: &str) -> bool {
    reason.starts_with("forbid policies/ledger.cedar:")
}

/// A call that is denied, for a reason that names its place.
async fn denied(
    mesh: &LocalMesh,
    from: &str,
    (method, host, target): (Method, &str, &str),
    is_place: impl Fn(&str) -> bool,
) -> Result<String> {
    let told = format!("{method} {host}{target} from {from}");
    let reply = mesh.member(from)?.call(method, host, target).await?;
    expect(&reply, StatusCode::FORBIDDEN)?;
    let reason = reason(&reply)?;
    ensure!(is_place(&reason), "{told}: another reason, or without its place: {reason}");
    Ok(format!("{told}: 403, {reason}"))
}

/// The denials of before are in the decision log, with their grounds.
pub(super) async fn logged(mesh: &LocalMesh) -> Result<String> {
    let newest = async {
        loop {
            let denied = denials(mesh)?;
            if let Some(entry) =
                denied.iter().rev().find(|entry| entry.method == "DELETE" && entry.resource == "shared/ledger")
            {
                return anyhow::Ok((entry.clone(), denied.len()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (entry, count) = tokio::time::timeout(LOG_BOUND, newest).await.context("the denial is in no log")??;
    ensure!(entry.commit == mesh.repo.head()?, "the line names the commit {}", entry.commit);
    let took = entry.micros.context("the line does not say how long it took")?;
    let (places, commit) = (entry.places(), &entry.commit[..10]);
    Ok(format!("{count} denials; the last by {places} of commit {commit}, decided in {took} us"))
}

fn denials(mesh: &LocalMesh) -> Result<Vec<Entry<'static>>> {
    let mut entries = Vec::new();
    for log in logs::find(&[mesh.folder().to_owned()])? {
        Tail::new(&log).read(|entry| entries.extend((entry.decision == Outcome::Deny).then_some(entry)))?;
    }
    entries.sort_by(|a, b| a.time.cmp(&b.time));
    Ok(entries)
}

/// What only break-glass opens is closed, open, and closed again.
pub(super) async fn break_glass(mesh: &LocalMesh) -> Result<String> {
    let (key, public) = new_key("warden@city").map_err(anyhow::Error::msg)?;
    mesh.repo.write("operators.yaml", &format!("kind: Operator\nname: warden\nsshKeys: [{public}]\n"))?;
    mesh.repo.write(
        "policies/glass.cedar",
        "permit (principal == Operator::\"warden\", action == Action::\"breakGlass\", resource)\nwhen { context.minutes <= 30 };\n\npermit (principal in Role::\"storefront\", action == Action::\"call\", resource == Service::\"prod/board\")\nwhen { context.breakGlass };\n",
    )?;
    let commit = mesh.repo.commit("A warden, and what a broken glass opens")?;
    let change = status::wait(&mesh.api, &commit, COMMIT_BOUND).await?;
    ensure!(change.state == ChangeState::Done, "the commit is {:?}", change.state);
    closed(mesh).await.context("before")?;

    let answer = ask(mesh, &key, 60).await?;
    let began = Instant::now();
    open(mesh, StatusCode::OK).await.context("while it is broken")?;
    let took = began.elapsed().as_millis();
    ask(mesh, &key, 0).await.context("ending it")?;
    open(mesh, StatusCode::FORBIDDEN).await.context("after its end")?;
    ["operators.yaml", "policies/glass.cedar"].into_iter().try_for_each(|file| mesh.repo.remove(file))?;
    mesh.repo.commit("Without the warden")?;
    Ok(format!("DELETE board.prod/api/pins from web: 403, then 200 within {took} ms ({}), then 403", answer.reason))
}

async fn ask(mesh: &LocalMesh, key: &ssh_key::PrivateKey, seconds: u64) -> Result<GlassAnswer> {
    let at = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let (city, operator, reason) = ("city".to_owned(), "warden".to_owned(), "the tour".to_owned());
    let mut request = GlassRequest { mesh: city, operator, seconds, reason, at, signature: String::new() };
    request.sign(key).map_err(anyhow::Error::msg)?;
    mesh.api.post_signed("/api/break-glass", &request).await
}

async fn closed(mesh: &LocalMesh) -> Result<()> {
    expect(&mesh.member("web")?.call(Method::DELETE, "board.prod", "/api/pins").await?, StatusCode::FORBIDDEN)
}

/// Waits until the call has this answer, whichever of the board's sidecars is asked: some in a row.
async fn open(mesh: &LocalMesh, status: StatusCode) -> Result<()> {
    let settled = async {
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let reply = mesh.member("web")?.call(Method::DELETE, "board.prod", "/api/pins").await?;
            in_a_row = if reply.status == status { in_a_row + 1 } else { 0 };
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(GLASS_BOUND, settled).await.with_context(|| format!("no {status} within {GLASS_BOUND:?}"))?
}
