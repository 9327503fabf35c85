//! `weft sidecar`: one app's way into the mesh and out of it.
//!
//! Top to bottom: identity, data plane, configuration, app, and then out again in the opposite order. Deregistered before
//! draining, drained before the app is stopped, so that nobody is sent to a sidecar that no longer takes calls.

pub(crate) mod app;
mod envoy;
mod health;
mod place;
mod plane;
mod presence;
mod secrets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use weft_control::node::AgentNode;
use weft_identity::proto::WithdrawRequest;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{Identity, IdentityConfig};
use weft_model::ServiceName;
use weft_xds::{Client, Node};

use crate::command::identity::parse_token;
use crate::command::server::seconds;
use crate::output::hinted;
use crate::signal::Stop;
use app::App;
pub(crate) use app::terminate;
pub(crate) use envoy::find_envoy;
use plane::Plane;

/// The control plane waits 5 s for subscribers; a little more for the way there and back.
const WITHDRAW_BOUND: Duration = Duration::from_secs(6);

/// Run a sidecar beside an app
///
/// Takes the app's calls on --egress and calls for the app on --ingress. With `-- PROGRAM ARGS` it runs the app too: ready before
/// the app starts, gone after the app has ended, with the app's exit code (128 and the signal if it was killed).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which service this is
    #[arg(long, value_name = "NAMESPACE/NAME", env = "WEFT_SERVICE")]
    pub(crate) service: ServiceName,
    /// Where the app listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) app: SocketAddr,
    /// The control plane's xDS and identity port
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_SERVER", default_value = "127.0.0.1:15010")]
    pub(crate) server: String,
    /// One-time token for the first start, from `weft identity join-token`
    #[arg(long, value_name = "TOKEN", env = "WEFT_JOIN_TOKEN", hide_env_values = true)]
    pub(crate) join_token: Option<String>,
    /// Where the app's calls are taken
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15001")]
    pub(crate) egress: SocketAddr,
    /// Where calls of other sidecars are taken
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15006")]
    pub(crate) ingress: SocketAddr,
    /// Where other sidecars reach the ingress [default: --ingress, or for 0.0.0.0 this machine's address towards the server]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Admin endpoint: configuration, clusters, certificate, drain
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub(crate) admin: SocketAddr,
    /// Health endpoint, /ready
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15021")]
    pub(crate) health: SocketAddr,
    /// Prometheus endpoint, /stats/prometheus
    #[arg(long, alias = "metrics", value_name = "ADDRESS", default_value = "0.0.0.0:15090")]
    pub(crate) prometheus: SocketAddr,
    /// Folder for the identity and the last good configuration [default: weft-sidecar/NAMESPACE-NAME]
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_STATE")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Labels of the endpoint, which subsets match; may be repeated or separated by commas
    #[arg(long, alias = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Worker threads [default: one a core]
    #[arg(long, value_name = "COUNT")]
    pub(crate) workers: Option<usize>,
    /// Where the access log goes, a JSON line a request
    #[arg(long, value_name = "PATH", default_value = "/dev/stdout")]
    pub(crate) access_log: String,
    /// Who moves the bytes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data_plane: DataPlane,
    /// The Envoy to run with --data-plane envoy [default: $WEFT_ENVOY, .venv/bin/envoy, or envoy in PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy_bin: Option<PathBuf>,
    /// How long requests may go on after the sidecar was told to stop, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    pub(crate) drain: Duration,
    /// The app to run: program and arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<String>,
}

/// Who moves the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DataPlane {
    /// Weft's own proxy, in this process
    #[default]
    Weft,
    /// Stock Envoy, as a child process
    Envoy,
}

/// Why the sidecar leaves.
enum Leave {
    Told,
    AppEnded(ExitCode),
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    app::find(&args.command)?;
    let place = place::Place::prepare(&args)?;

    let identity = tokio::select! {
        identity = identify(&args, &place) => identity?,
        () = stop.wait() => return Ok(ExitCode::SUCCESS),
    };
    let (node, nodes) = watch::channel(place.node(&args).to_node());
    let node = Introduction { agent: place.node(&args), sender: node };
    let node = std::sync::Arc::new(std::sync::Mutex::new(node));
    tokio::spawn(report_certificate(identity.live().clone(), node.clone()));

    let plane = Plane::start(&args, &place, identity.live()).await?;
    configure(&args, &place, &identity, &plane, nodes);
    tokio::select! {
        () = plane.ready() => {}
        () = stop.wait() => {
            plane.stop().await;
            return Ok(ExitCode::SUCCESS);
        }
    }
    tracing::info!(service = %args.service, egress = %args.egress, ingress = %args.ingress, "the sidecar is ready");

    let mut app = App::start(&args)?;
    let leave = tokio::select! {
        () = app::listens(args.app) => {
            update(&node, |agent| agent.ready = true);
            tracing::info!(app = %args.app, "the app listens; the endpoint is registered");
            let told = |change| {
                let gone = change == presence::Change::Withdrawn;
                plane.set_app_gone(gone);
                update(&node, |agent| agent.ready = !gone);
            };
            tokio::select! {
                () = presence::watch(args.app, async || plane.app_refused().await, told) => unreachable!("it watches for ever"),
                code = app.ended() => Leave::AppEnded(code),
                () = stop.wait() => Leave::Told,
            }
        }
        code = app.ended() => Leave::AppEnded(code),
        () = stop.wait() => Leave::Told,
    };

    update(&node, |agent| agent.ready = false);
    withdraw(&args, &place, &identity).await;
    let left = plane.drain(args.drain).await;
    tracing::info!(unfinished = left, "drained");
    let code = match leave {
        Leave::AppEnded(code) => code,
        Leave::Told => app.stop(args.drain).await,
    };
    plane.stop().await;
    Ok(code)
}

async fn identify(args: &Args, place: &place::Place) -> Result<Identity> {
    // Unit files and compose files often set an empty variable: it counts as none.
    let given = args.join_token.as_deref().filter(|text| !text.trim().is_empty());
    let join_token = given.map(parse_token).transpose()?;
    let config = IdentityConfig {
        server: args.server.clone(),
        service: args.service.clone(),
        node_id: place.node(args).id(),
        join_token,
        state_dir: place.state.clone(),
    };
    Identity::start(config).await.map_err(|error| {
        let hint =
            format!("weft identity join-token --service {} makes one, on the control plane's machine", args.service);
        hinted(error.to_string(), hint)
    })
}

/// Follows the control plane for as long as the process lives.
fn configure(args: &Args, place: &place::Place, identity: &Identity, plane: &Plane, nodes: watch::Receiver<Node>) {
    let (server, live) = (args.server.clone(), identity.live().clone());
    let connect = move || {
        let (server, live) = (server.clone(), live.clone());
        async move {
            // With an expired identity there is nobody to connect as; the renewal has told of it.
            live.unexpired().await;
            weft_identity::connect(&server, &live).await
        }
    };
    let client = Client::new(nodes, Some(place.state.join("xds-cache")), connect);
    match plane {
        Plane::Weft(proxy) => drop(tokio::spawn(client.run(proxy.sink()))),
        Plane::Envoy(envoy) => drop(tokio::spawn(client.run(envoy.sink()))),
    }
}

/// What the control plane is told of this sidecar; a change is sent at once.
struct Introduction {
    agent: AgentNode,
    sender: watch::Sender<Node>,
}

type SharedIntroduction = std::sync::Arc<std::sync::Mutex<Introduction>>;

fn update(node: &SharedIntroduction, change: impl FnOnce(&mut AgentNode)) {
    let mut node = node.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    change(&mut node.agent);
    let introduction = node.agent.to_node();
    node.sender.send_replace(introduction);
}

/// Lets the control plane show when the certificate expires.
async fn report_certificate(identity: std::sync::Arc<weft_identity::LiveIdentity>, node: SharedIntroduction) {
    let mut changes = identity.subscribe();
    loop {
        let expires = identity.load().svid().map(|svid| weft_control::status::unix_seconds(svid.not_after()));
        update(&node, |agent| agent.certificate_expires = expires);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Takes the endpoint out and waits until its callers know. Without a control plane they will find out by themselves.
async fn withdraw(args: &Args, place: &place::Place, identity: &Identity) {
    let withdrawal = async {
        let channel = weft_identity::connect(&args.server, identity.live()).await?;
        let request = WithdrawRequest { node_id: place.node(args).id() };
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

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, like version=v1".to_owned()),
    }
}
