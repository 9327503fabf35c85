//! Stock Envoy as the data plane: everything that it asks for is answered here, over one Unix socket, from what this agent has.
//!
//! So Envoy survives a control plane that is away, and a restart of either. The socket lies in a folder of mode 0700.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::Request;
use http_body_util::Full;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use weft_authz::ExtAuthz;
use weft_compile::bootstrap::{self, Bootstrap};
use weft_control::node::AgentNode;
use weft_decision_log::{DecisionLog, PlainText};
use weft_identity::LiveIdentity;
use weft_model::SpiffeId;
use weft_xds::{AdsServer, Relay};

use super::args::Args;
use super::envoy_binary;
use super::place::Place;
use super::secrets::{EnvoySink, Policy, Secrets};
use super::undecided;
use crate::http::{get, once};
use crate::output::hinted;
use weft_process::child::{Guarded, describe};

/// Between two looks at Envoy's admin endpoint.
const LOOK: Duration = Duration::from_millis(50);
/// And between two at its counters.
const COUNT: Duration = Duration::from_secs(1);
/// How long Envoy may take to end after SIGTERM.
const STOP_BOUND: Duration = Duration::from_secs(5);
/// Restarts come ever later, up to this; an Envoy that has lived as long starts afresh.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Linux has 108 bytes for the path of a Unix socket and its end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

pub(crate) struct Envoy {
    pub(crate) admin: SocketAddr,
    pub(crate) identity: Arc<LiveIdentity>,
    relay: Relay,
    policy: Policy,
    decision_log: Option<DecisionLog>,
    /// Told of calls in plain text.
    pub(crate) plain_text: PlainText,
    app_gone: AtomicBool,
    /// Ends the supervision; the answer comes when Envoy has ended.
    stop: mpsc::Sender<oneshot::Sender<()>>,
}

impl Envoy {
    /// Serves the socket, writes the bootstrap, and keeps an Envoy running.
    pub(crate) async fn start(
        args: &Args,
        place: &Place,
        node: &AgentNode,
        identity: &Arc<LiveIdentity>,
        decision_log: Option<DecisionLog>,
        plain_text: PlainText,
        workers: usize,
    ) -> Result<Arc<Self>> {
        let binary = envoy_binary::find(args.envoy_bin.as_deref())?;
        envoy_binary::check(&binary).await?;
        let socket = place.state.join("agent.sock");
        let (relay, policy) = (Relay::new(), Policy::default());
        serve_socket(&socket, &relay, &policy, identity, decision_log.clone(), plain_text.clone())?;

        let bootstrap = Bootstrap {
            node_id: node.id(),
            service: args.service.clone(),
            metadata: serde_json::json!({"weft": {"service": node.service, "labels": node.labels}}),
            agent: socket,
            admin: args.admin,
        };
        let config = place.state.join("envoy.json");
        let text = bootstrap::envoy(&bootstrap)
            .map_err(|error| hinted(error.to_string(), "choose a shorter folder with --state-dir"))?;
        std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;

        let (stop, stopped) = mpsc::channel(1);
        let app_gone = AtomicBool::new(false);
        let envoy = Arc::new(Self {
            admin: args.admin,
            identity: identity.clone(),
            relay,
            policy,
            decision_log,
            plain_text,
            app_gone,
            stop,
        });
        let lock = place.guarded();
        tokio::spawn(supervise(Run { binary, config, workers, lock }, stopped));
        tokio::spawn(undecided::watch(envoy.clone()));
        Ok(envoy)
    }

    /// What the xDS client feeds.
    pub(crate) fn sink(&self) -> EnvoySink {
        EnvoySink { relay: self.relay.clone(), policy: self.policy.clone() }
    }

    /// Waits until both listeners are open.
    pub(crate) async fn ready(&self) {
        while !self.is_ready().await {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether Envoy serves and has both listeners.
    pub(crate) async fn is_ready(&self) -> bool {
        let listening = async {
            if !self.ask("/ready").await?.status.is_success() {
                return anyhow::Ok(false);
            }
            let listeners = self.ask("/listeners").await?.text();
            Ok(["egress::", "ingress::"].iter().all(|name| listeners.lines().any(|line| line.starts_with(name))))
        };
        self.policy.engine().is_some() && listening.await.unwrap_or(false)
    }

    /// Waits until a connection to the app was refused, as Envoy counts it.
    pub(crate) async fn app_refused(&self) {
        let before = self.app_refusals().await.unwrap_or(0);
        loop {
            tokio::time::sleep(COUNT).await;
            // An Envoy that was started again counts from zero.
            if self.app_refusals().await.is_ok_and(|now| now != before && now > 0) {
                return;
            }
        }
    }

    async fn app_refusals(&self) -> Result<u64> {
        let stats = self.ask("/stats?filter=^cluster\\.inbound.*upstream_cx_connect_fail$").await?.text();
        Ok(stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok()).sum())
    }

    /// Says in `/ready` whether the app, which took connections, takes none.
    pub(crate) fn set_app_gone(&self, gone: bool) {
        self.app_gone.store(gone, Ordering::Release);
    }

    /// Whether that was said.
    pub(crate) fn is_app_gone(&self) -> bool {
        self.app_gone.load(Ordering::Acquire)
    }

    /// Closes the listeners gracefully and waits for the requests under way.
    pub(crate) async fn drain(&self, bound: Duration) -> usize {
        // `skip_exit` keeps the process, so that we can wait for the requests; it is stopped afterwards.
        if let Err(error) = self.post("/drain_listeners?graceful&skip_exit").await {
            tracing::warn!(error = format!("{error:#}"), "Envoy was not told to drain");
            return 0;
        }
        let deadline = Instant::now() + bound;
        loop {
            let active = self.active().await.unwrap_or(0);
            if active == 0 || Instant::now() >= deadline {
                return active;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has the log files opened again, Envoy's and that of decisions.
    pub(crate) async fn reopen_logs(&self) {
        self.decision_log.iter().for_each(DecisionLog::reopen);
        if let Err(error) = self.post("/reopen_logs").await {
            tracing::warn!(error = format!("{error:#}"), "Envoy was not told to open its logs again");
        }
    }

    /// SIGTERM, then SIGKILL.
    pub(crate) async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.stop.send(done).await.is_ok() {
            let _ = ended.await; // an error means that the supervision is over already
        }
    }

    /// Requests in flight at the mesh's own listeners.
    async fn active(&self) -> Result<usize> {
        let stats = self.ask("/stats?filter=http\\.(egress|ingress).*downstream_rq_active$").await?.text();
        let counts = stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<usize>().ok());
        Ok(counts.sum())
    }

    pub(super) async fn ask(&self, target: &str) -> Result<crate::http::Reply> {
        once(&self.admin.to_string(), get("envoy", target)?).await
    }

    async fn post(&self, target: &str) -> Result<()> {
        let request = Request::post(target).header("host", "envoy").body(Full::default())?;
        once(&self.admin.to_string(), request).await.map(drop)
    }
}

/// ADS, SDS and ext_authz for the Envoy next door.
fn serve_socket(
    socket: &Path,
    relay: &Relay,
    policy: &Policy,
    identity: &Arc<LiveIdentity>,
    decision_log: Option<DecisionLog>,
    plain_text: PlainText,
) -> Result<()> {
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing the old socket {}", socket.display())),
    }
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        let what =
            format!("the path of the agent's socket is longer than {MAX_SOCKET_PATH} bytes: {}", socket.display());
        return Err(hinted(what, "choose a shorter folder with --state-dir"));
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
    let secrets = AdsServer::new(Arc::new(Secrets::new(identity)));
    let (policy, commit) = (policy.clone(), policy.clone());
    let bans = identity.bans();
    let mut authz = ExtAuthz::new(move |_: Option<&SpiffeId>| policy.engine())
        .telling(plain_text)
        .refusing(move |id| bans.borrow().of_identity(id).map(|ban| ban.reason.clone()));
    if let Some(log) = decision_log {
        authz = authz.logging(log, move || commit.commit());
    }
    let server = tonic::transport::Server::builder()
        .add_service(AdsServer::new(Arc::new(relay.clone())).ads())
        .add_service(secrets.sds())
        .add_service(authz.into_service());
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
            tracing::error!(%error, "the agent's socket is closed");
        }
    });
    Ok(())
}

/// How an Envoy is run.
struct Run {
    binary: PathBuf,
    config: PathBuf,
    workers: usize,
    lock: PathBuf,
}

/// Keeps an Envoy running until told to stop.
async fn supervise(run: Run, mut stop: mpsc::Receiver<oneshot::Sender<()>>) {
    let mut pause = Duration::from_millis(100);
    loop {
        let started = Instant::now();
        let mut command = Guarded::command(&run.binary, &run.lock);
        command.arg("--config-path").arg(&run.config).args(["--concurrency", &run.workers.to_string()]);
        command.args(["--log-level", "warning", "--disable-hot-restart"]);
        match Guarded::start(command) {
            Ok(mut envoy) => {
                tracing::info!(guard = envoy.id(), binary = %run.binary.display(), "Envoy is started");
                tokio::select! {
                    status = envoy.ended() => match status {
                        Ok(status) => {
                            let status = describe(status);
                            tracing::error!(status, "Envoy has ended; starting it again in {pause:?}");
                        }
                        Err(error) => tracing::error!(%error, "Envoy cannot be waited for"),
                    },
                    done = stop.recv() => return end(envoy, done).await,
                }
            }
            Err(error) => tracing::error!(%error, binary = %run.binary.display(), "Envoy cannot be started"),
        }
        if started.elapsed() >= LONGEST_PAUSE {
            pause = Duration::from_millis(100);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            done = stop.recv() => {
                let _ = done.map(|done| done.send(())); // nothing runs
                return;
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn end(mut envoy: Guarded, done: Option<oneshot::Sender<()>>) {
    envoy.stop(STOP_BOUND).await;
    if let Some(done) = done {
        let _ = done.send(()); // whoever asked is gone
    }
}
