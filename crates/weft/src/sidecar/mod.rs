//! `weft sidecar`: one app's way into the mesh and out of it.
//!
//! Top to bottom: identity, data plane, configuration, app, and then out again in the opposite order. Deregistered before
//! draining, drained before the app is stopped, so that nobody is sent to a sidecar that no longer takes calls.

mod app;
mod app_address;
mod args;
mod authz_server;
mod envoy;
pub(crate) mod envoy_binary;
mod health;
mod introduction;
mod place;
mod plain_text;
mod plane;
mod presence;
mod secrets;
mod undecided;
mod workload_socket;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use weft_decision_log::{PlainText, Source};
use weft_identity::proto::WithdrawRequest;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{Identity, IdentityConfig};

use crate::http::{get, once};
use crate::output::hinted;
use app::App;
pub(crate) use args::{Args, DataPlane};
use introduction::{Following, Introduction};
use plane::Plane;
use weft_process::signal::{Reopen, Stop};
use workload_socket::WorkloadSocket;

/// The control plane waits 5 s for subscribers; a little more for the way there and back.
const WITHDRAW_BOUND: Duration = Duration::from_secs(6);
/// How long a changed address of the app may take to the control plane and back before the endpoint is registered all the same.
const IN_FORCE_BOUND: Duration = Duration::from_secs(5);

/// Why the sidecar leaves.
enum Leave {
    Told,
    AppEnded(ExitCode),
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let reopen = Reopen::listen()?;
    app::find(&args.command)?;
    let place = place::Place::prepare(&args)?;
    place.alone().await;
    let workload_socket = WorkloadSocket::open(&args).await?;

    let authz_server = args.authz_server();
    let node = place.node(&args, args.app.guess().await, authz_server::find(authz_server.as_ref()).await);
    let identity = tokio::select! {
        identity = identify(&args, &place, node.id()) => identity?,
        () = stop.wait() => return Ok(ExitCode::SUCCESS),
    };
    if let Some(socket) = &workload_socket {
        socket.begin(&identity);
    }
    let (introduction, nodes) = Introduction::new(node);
    tokio::spawn(authz_server::follow(authz_server, introduction.clone()));
    tokio::spawn(introduction.clone().report_certificate(identity.live().clone()));

    let source = Source {
        namespace: args.service.namespace().to_owned(),
        name: args.service.name().to_owned(),
        instance: introduction.agent().id(),
    };
    let decisions = args.decisions.open(&place.state, source)?;
    let (told, heard) = PlainText::new();
    tokio::spawn(plain_text::report(told.clone(), heard, args.server.clone(), identity.live().clone()));
    let plane =
        Plane::start(&args, &place, &introduction.agent(), identity.live(), decisions.log.clone(), told).await?;
    tokio::spawn(reopen_logs(reopen, plane.clone()));
    let following = Following::start(&args, &place, identity.live(), &plane, &introduction, nodes);
    tokio::select! {
        () = plane.ready() => {}
        () = stop.wait() => {
            following.end().await;
            plane.stop().await;
            decisions.end().await;
            return Ok(ExitCode::SUCCESS);
        }
    }
    tracing::info!(service = %args.service, egress = %args.egress, ingress = %args.ingress, "the sidecar is ready");

    let mut app = App::start(&args, &place, workload_socket.as_ref().map(WorkloadSocket::endpoint))?;
    let leave = tokio::select! {
        never = register(&args, &introduction, &plane) => match never {},
        code = app.ended() => Leave::AppEnded(code),
        () = stop.wait() => Leave::Told,
    };

    introduction.update(|agent| agent.ready = false);
    let drained = async {
        withdraw(&args, &introduction, &identity).await;
        plane.drain(args.drain).await
    };
    let cut_short = tokio::select! {
        left = drained => {
            tracing::info!(unfinished = left, "drained");
            false
        }
        () = stop.again() => true,
    };
    let code = match leave {
        Leave::AppEnded(code) => code,
        Leave::Told if cut_short => app.kill().await,
        Leave::Told => tokio::select! {
            code = app.stop(args.drain) => code,
            () = stop.again() => app.kill().await,
        },
    };
    following.end().await;
    plane.stop().await;
    decisions.end().await;
    Ok(code)
}

/// Tells the control plane that callers may be sent here, for as long as the app takes connections, and where it is.
async fn register(args: &Args, introduction: &Introduction, plane: &Plane) -> Infallible {
    let mut app = args.app.listening().await;
    loop {
        if introduction.agent().app != app {
            introduction.update(|agent| agent.app = app);
            in_force(args.admin, app).await;
        }
        plane.set_app_gone(false);
        introduction.update(|agent| agent.ready = true);
        tracing::info!(%app, "the app listens; the endpoint is registered");
        let is_gone = Cell::new(false);
        let told = |change| {
            is_gone.set(change == presence::Change::Withdrawn);
            plane.set_app_gone(is_gone.get());
            introduction.update(|agent| agent.ready = !is_gone.get());
        };
        app = tokio::select! {
            never = presence::watch(app, async || plane.app_refused().await, told) => match never {},
            elsewhere = args.app.moved(app, &is_gone) => elsewhere,
        };
        tracing::info!(%app, name = %args.app, "the app is at another address of its name");
    }
}

/// Waits, as long as is worthwhile, until the data plane has the app's address: callers come as soon as the endpoint is registered.
async fn in_force(admin: SocketAddr, app: SocketAddr) {
    let known = async {
        loop {
            let clusters = async { once(&admin.to_string(), get("admin", "/clusters")?).await };
            if clusters.await.is_ok_and(|reply| reply.text().contains(&app.to_string())) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(IN_FORCE_BOUND, known).await.is_err() {
        tracing::warn!(%app, "calls go to where the app was before, until the control plane answers");
    }
}

/// Opens the log files again whenever a signal asks for it.
async fn reopen_logs(mut reopen: Reopen, plane: Plane) {
    loop {
        reopen.wait().await;
        plane.reopen_logs().await;
    }
}

async fn identify(args: &Args, place: &place::Place, node_id: String) -> Result<Identity> {
    let config = IdentityConfig {
        server: args.server.clone(),
        subject: args.service.clone().into(),
        node_id,
        proof: args.proof.proof()?,
        state_dir: place.state.clone(),
    };
    Identity::start(config)
        .await
        .map_err(|error| hinted(error.to_string(), args.proof.hint(&format!("--service {}", args.service))))
}

/// Takes the endpoint out and waits until its callers know. Without a control plane they will find out by themselves.
async fn withdraw(args: &Args, introduction: &Introduction, identity: &Identity) {
    let withdrawal = async {
        let channel = weft_identity::connect(&args.server, identity.live()).await?;
        let request = WithdrawRequest { node_id: introduction.agent().id() };
        let answer = IdentityClient::new(channel).withdraw(request).await?.into_inner();
        anyhow::Ok(answer)
    };
    match tokio::time::timeout(WITHDRAW_BOUND, withdrawal).await {
        Ok(Ok(answer)) => tracing::info!(
            callers_told = answer.acknowledged,
            callers_silent = answer.waiting,
            "the endpoint is withdrawn"
        ),
        Ok(Err(error)) => {
            tracing::warn!(error = format!("{error:#}"), "not withdrawn; callers will notice by themselves")
        }
        Err(_) => tracing::warn!("the control plane did not answer the withdrawal in time"),
    }
}
