//! Steps about identities: certificates and the roots that they hang from are replaced while calls go on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde_json::Value;
use weft_control::status::{BanRequest, IdentityEvent, IdentityRecord, RootState, RotateRequest, TrustStatus};

use super::expect;
use crate::http::{Connection, get};
use crate::up::mesh::LocalMesh;

/// In which every certificate must have been renewed.
const RENEWAL_BOUND: Duration = Duration::from_secs(45);
/// In which every sidecar must hold a new root, and, when the old one was stolen, have another certificate.
const ROOT_BOUND: Duration = Duration::from_secs(30);
/// In which nobody may take a banned service any more.
const BAN_BOUND: Duration = Duration::from_secs(2);

/// Calls without a pause until each sidecar on the way has another certificate.
pub(super) async fn renewed(mesh: &LocalMesh) -> Result<String> {
    const ON_THE_WAY: [&str; 3] = ["web", "board-v1", "board-v2"];
    let serials = || async {
        let mut serials = Vec::new();
        for name in ON_THE_WAY {
            serials.push(serial(mesh, name).await?);
        }
        anyhow::Ok(serials)
    };
    let before = serials().await?;
    let started = Instant::now();
    let mut connection = mesh.member("web")?.connect().await?;
    let (mut calls, mut renewed) = (0usize, false);
    while !renewed {
        ensure!(started.elapsed() < RENEWAL_BOUND, "not every certificate was renewed within {RENEWAL_BOUND:?}");
        for _ in 0..50 {
            call_on(mesh, &mut connection).await.with_context(|| format!("call {} failed", calls + 1))?;
            calls += 1;
            tokio::time::sleep(Duration::from_millis(5)).await; // about 150 calls a second
        }
        renewed = serials().await?.iter().zip(&before).all(|(now, before)| now != before);
    }
    let took = started.elapsed().as_secs_f64();
    Ok(format!("{calls} calls in {took:.1} s, 0 failed, {} certificates renewed", ON_THE_WAY.len()))
}

/// A new root is published, and signs when everybody holds it.
pub(super) async fn another_root(mesh: &LocalMesh) -> Result<String> {
    let before = active_root(mesh).await?;
    let wanted = RotateRequest { reason: "the tour".to_owned(), compromised: None, jwt: false };
    let (calls, took) = rotate(mesh, &wanted, async |trust| active(trust) != Some(before.as_str())).await?;
    let now = active_root(mesh).await?;
    Ok(format!("{calls} calls in {took:.1} s, 0 failed; root {before}, then {now}"))
}

/// Everything that hangs from the root is replaced, and then nobody trusts it.
pub(super) async fn stolen_root(mesh: &LocalMesh) -> Result<String> {
    let stolen = active_root(mesh).await?;
    let wanted =
        RotateRequest { reason: "the tour plays thief".to_owned(), compromised: Some(stolen.clone()), jwt: false };
    let gone = async |trust: &TrustStatus| trust.roots.iter().all(|root| root.id != stolen);
    let (calls, took) = rotate(mesh, &wanted, gone).await?;
    Ok(format!("{calls} calls in {took:.1} s, 0 failed; nobody trusts {stolen} any more"))
}

/// Nobody takes the ledger any more, until the ban is lifted.
pub(super) async fn banned(mesh: &LocalMesh) -> Result<String> {
    let wanted = BanRequest { who: "shared/ledger".to_owned(), reason: "the tour".to_owned() };
    let mut connection = mesh.member("web")?.connect().await?;
    let mut calls = 0;
    let started = Instant::now();
    let _: TrustStatus = mesh.api.post("/api/identity/ban", &mesh.admin()?, &wanted).await?;
    while ledger_answers(&mut connection).await? {
        ensure!(started.elapsed() < BAN_BOUND, "the ledger is still there after {BAN_BOUND:?}");
        call_on(mesh, &mut connection).await.with_context(|| format!("call {} failed", calls + 1))?;
        calls += 1;
    }
    let took = started.elapsed().as_secs_f64();
    for _ in 0..50 {
        call_on(mesh, &mut connection).await.with_context(|| format!("call {} failed", calls + 1))?;
        calls += 1;
    }
    let _: TrustStatus = mesh.api.post("/api/identity/unban", &mesh.admin()?, &wanted).await?;
    let lifted = Instant::now();
    while !ledger_answers(&mut connection).await? {
        ensure!(lifted.elapsed() < ROOT_BOUND, "the ledger is not back within {ROOT_BOUND:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(format!("out after {took:.1} s, {calls} calls to the board, 0 failed; back when the ban was lifted"))
}

/// The ledger's way, as the identity log has it.
pub(super) async fn recorded(mesh: &LocalMesh) -> Result<String> {
    let records: Vec<IdentityRecord> = mesh.api.get("/api/identity/records?who=shared/ledger&limit=4096").await?;
    let first = |wanted: IdentityEvent| {
        let found = records.iter().find(|record| record.event == wanted);
        found.with_context(|| format!("there is no record of `{}` in {records:?}", wanted.name()))
    };
    let (attested, banned) = (first(IdentityEvent::Attested)?, first(IdentityEvent::Banned)?);
    let lifted = first(IdentityEvent::Unbanned)?;
    ensure!(attested.reason.starts_with("by join token"), "it was attested {}", attested.reason);
    ensure!(banned.reason == "the tour" && banned.time <= lifted.time, "{banned:?}, {lifted:?}");
    let machine = attested.machine.as_deref().unwrap_or("unknown");
    Ok(format!("attested {} on machine {machine}, banned for \"{}\", taken back", attested.reason, banned.reason))
}

/// Whether the board reaches it. Whoever does not is told why.
async fn ledger_answers(connection: &mut Connection) -> Result<bool> {
    let reply = connection.send(get("board.prod", "/call/ledger.shared/")?).await?;
    if reply.status == StatusCode::OK {
        return Ok(true);
    }
    let text = reply.text();
    let is_told = ["peer_identity_banned", "no_endpoint", "upstream_closed", "upstream_reset", "tls_failed"];
    ensure!(is_told.iter().any(|cause| text.contains(cause)), "the ledger is away for another reason: {text}");
    Ok(false)
}

/// Asks for it and makes calls until it is done; how many there were, in how many seconds.
async fn rotate(
    mesh: &LocalMesh,
    wanted: &RotateRequest,
    done: impl AsyncFn(&TrustStatus) -> bool,
) -> Result<(usize, f64)> {
    let started = Instant::now();
    let mut trust: TrustStatus = mesh.api.post("/api/identity/rotate", &mesh.admin()?, wanted).await?;
    let mut connection = mesh.member("web")?.connect().await?;
    let mut calls = 0;
    while !done(&trust).await {
        ensure!(started.elapsed() < ROOT_BOUND, "it is not done within {ROOT_BOUND:?}: {trust:?}");
        call_on(mesh, &mut connection).await.with_context(|| format!("call {} failed", calls + 1))?;
        calls += 1;
        trust = mesh.api.get("/api/identity").await?;
    }
    Ok((calls, started.elapsed().as_secs_f64()))
}

async fn active_root(mesh: &LocalMesh) -> Result<String> {
    let trust: TrustStatus = mesh.api.get("/api/identity").await?;
    active(&trust).map(str::to_owned).context("no root signs")
}

fn active(trust: &TrustStatus) -> Option<&str> {
    trust.roots.iter().find(|root| root.state == RootState::Active).map(|root| root.id.as_str())
}

async fn call_on(mesh: &LocalMesh, connection: &mut Connection) -> Result<()> {
    if !connection.is_open() {
        *connection = mesh.member("web")?.connect().await?;
    }
    let reply = connection.send(get("board.prod", "/hello")?).await?;
    expect(&reply, StatusCode::OK)
}

/// Serial number of the certificate that a sidecar serves with, as its admin endpoint says.
async fn serial(mesh: &LocalMesh, name: &str) -> Result<String> {
    let reply = crate::http::once(&mesh.member(name)?.admin.to_string(), get("admin", "/certs")?).await?;
    let certs: Value = serde_json::from_slice(&reply.body).with_context(|| format!("reading /certs of {name}"))?;
    let serial = find(&certs, "serial").or_else(|| find(&certs, "serial_number"));
    serial.with_context(|| format!("/certs of {name} shows no serial number: {certs}"))
}

fn find(value: &Value, key: &str) -> Option<String> {
    match value {
        Value::Object(fields) => match fields.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => fields.values().find_map(|field| find(field, key)),
        },
        Value::Array(items) => items.iter().find_map(|item| find(item, key)),
        _ => None,
    }
}
