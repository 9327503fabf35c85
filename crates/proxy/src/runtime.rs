//! A data plane as its owner sees it: started, fed with configuration, drained.
//!
//! A worker is a thread with a current-thread runtime; workers share nothing that a request writes. Configuration arrives on
//! the owner's thread, is built there, stored behind one atomic pointer, and the workers are told to adapt their sockets.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use weft_decision_log::{DecisionLog, PlainText, plain_text};
use weft_identity::LiveIdentity;
use weft_model::ServiceName;
use weft_proxy_config::{Builder, Config};
use weft_telemetry::metrics::{Kind, Registry};
use weft_xds::{Rejection, Sink, Update, type_url};

use crate::admin;
use crate::handle::{Command, ProxyHandle};
use crate::listen::{self, Listeners};
use crate::worker::{Shared, Worker};

/// Which proxy to start.
pub struct ProxyConfig {
    /// Threads that carry traffic; at least 1.
    pub workers: usize,
    /// Certificate, key and bundle; may be empty at first.
    pub identity: Arc<LiveIdentity>,
    /// The service behind the ingress.
    pub service: ServiceName,
    /// Where decisions are logged; `None` logs none.
    pub decision_log: Option<DecisionLog>,
    /// Told of calls in plain text.
    pub plain_text: PlainText,
    /// Address of the admin endpoint.
    pub admin: Option<SocketAddr>,
    /// Address of the health endpoint.
    pub health: Option<SocketAddr>,
    /// Address of the Prometheus endpoint.
    pub prometheus: Option<SocketAddr>,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread could not be started.
    #[error("a worker thread could not be started: {0}")]
    Worker(#[source] io::Error),
    /// An own endpoint could not be opened.
    #[error("the {what} endpoint cannot listen on {address}: {source}; give another address with --{what}")]
    Endpoint {
        /// `admin`, `health` or `prometheus`.
        what: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The data plane.
pub struct Proxy;

impl Proxy {
    /// Starts the workers and the admin, health and Prometheus endpoints. To be called within a tokio runtime, which serves
    /// those three.
    pub async fn start(config: ProxyConfig) -> Result<Arc<ProxyHandle>, StartError> {
        let metrics = Arc::new(Registry::default());
        let ProxyConfig { identity, decision_log, plain_text, .. } = config;
        let shared = Shared::new(identity, config.service.host().into(), metrics, decision_log, plain_text);
        let shared = Arc::new(shared);
        publish_gauges(&shared);
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for number in 0..config.workers.max(1) {
            let (commands, inbox) = mpsc::unbounded_channel();
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || run_worker(shared, inbox))
                .map_err(StartError::Worker)?;
            workers.push(commands);
            threads.push(thread);
        }
        let threads = Mutex::new(threads);
        let handle = Arc::new(ProxyHandle { shared, workers, threads, ready: watch::Sender::new(false) });
        for (what, address, serve) in [
            ("admin", config.admin, admin::Endpoint::Admin),
            ("health", config.health, admin::Endpoint::Health),
            ("prometheus", config.prometheus, admin::Endpoint::Prometheus),
        ] {
            let Some(address) = address else { continue };
            admin::serve(address, serve, handle.clone()).await.map_err(|source| StartError::Endpoint {
                what,
                address,
                source,
            })?;
        }
        Ok(handle)
    }
}

impl ProxyHandle {
    /// What the xDS client feeds.
    pub fn sink(self: &Arc<Self>) -> ProxySink {
        ProxySink { proxy: self.clone(), builder: Builder::default(), checked: BTreeSet::new() }
    }
}

fn run_worker(shared: Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker has no runtime"),
    };
    let tasks = LocalSet::new();
    let worker = tasks.block_on(&runtime, async move {
        let worker = Worker::new(shared);
        let mut listeners = Listeners::default();
        tokio::task::spawn_local(worker.clone().tick());
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Reconcile { config, done } => {
                    worker.pools.retain(&config);
                    let failed =
                        if worker.shared.is_draining() { Vec::new() } else { listeners.reconcile(&worker, &config) };
                    let _ = done.send(failed);
                }
                Command::Close => {
                    listeners.close();
                    worker.hand_over_logs();
                }
                Command::End => break,
            }
        }
        worker
    });
    // What is cut off here gets its line too.
    drop(tasks);
    worker.hand_over_logs();
}

/// Builds configurations from xDS updates and puts them in force.
pub struct ProxySink {
    proxy: Arc<ProxyHandle>,
    builder: Builder,
    /// Addresses of listeners that were free when they came, and so are ours.
    checked: BTreeSet<SocketAddr>,
}

#[tonic::async_trait]
impl Sink for ProxySink {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        let type_url = update.type_url;
        let mut rejections = self.builder.apply(update);
        let mut config = self.builder.build();
        let mut unopened = self.take_out_foreign(&mut config);
        let config = Arc::new(config);
        self.proxy.shared.config.store(config.clone());
        if [type_url::LISTENER, type_url::ROUTE, type_url::CLUSTER, type_url::ENDPOINT].contains(&type_url) {
            unopened.extend(self.reconcile(&config).await);
            let whole = config.listeners.iter().all(|listener| config.has_routes(listener));
            if whole && unopened.is_empty() && !config.listeners.is_empty() {
                self.proxy.ready.send_replace(true);
            }
        }
        if type_url == type_url::LISTENER {
            rejections.extend(unopened);
        }
        rejections
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>> {
        self.builder.wanted(type_url)
    }
}

impl ProxySink {
    /// Takes out the listeners whose address another program has. They are looked at again with every update.
    fn take_out_foreign(&mut self, config: &mut Config) -> Vec<Rejection> {
        let mut foreign = Vec::new();
        self.checked.retain(|address| config.listeners.iter().any(|listener| listener.address == *address));
        config.listeners.retain(|listener| {
            if self.checked.contains(&listener.address) {
                return true;
            }
            match listen::is_free(listener.address) {
                Ok(()) => self.checked.insert(listener.address),
                Err(error) => {
                    foreign.push(cannot_listen(&listener.name, listener.address, &error));
                    false
                }
            }
        });
        foreign
    }

    /// Tells the workers; gives the listeners that one of them could not open.
    async fn reconcile(&self, config: &Arc<Config>) -> Vec<Rejection> {
        let mut answers = Vec::new();
        for worker in &self.proxy.workers {
            let (done, answer) = oneshot::channel();
            if worker.send(Command::Reconcile { config: config.clone(), done }).is_ok() {
                answers.push(answer);
            }
        }
        let mut unopened: Vec<Rejection> = Vec::new();
        for answer in answers {
            for (name, error) in answer.await.unwrap_or_default() {
                let address = config.listeners.iter().find(|listener| listener.name == name).map(|l| l.address);
                if let (Some(address), false) = (address, unopened.iter().any(|known| known.name == name)) {
                    unopened.push(cannot_listen(&name, address, &error));
                }
            }
        }
        unopened
    }
}

fn cannot_listen(name: &Arc<str>, address: SocketAddr, error: &io::Error) -> Rejection {
    tracing::error!(listener = %name, %address, cause = %error, "cannot listen; what else uses this address?");
    Rejection { name: name.clone(), reason: format!("envoy.config.listener.v3.Listener.address: {address}: {error}") }
}

fn publish_gauges(shared: &Arc<Shared>) {
    let gauge = |name, help, kind, read: fn(&Shared) -> f64| {
        let shared = Arc::downgrade(shared);
        let metrics = shared.upgrade().map(|shared| shared.metrics.clone());
        if let Some(metrics) = metrics {
            metrics.extra(name, help, kind, move || {
                shared.upgrade().map(|shared| vec![(String::new(), read(&shared))]).unwrap_or_default()
            });
        }
    };
    gauge("weft_requests_active", "Requests and tunnels under way.", Kind::Gauge, |s| {
        s.active.load(Ordering::Relaxed) as f64
    });
    gauge("weft_downstream_connections_active", "Open client connections.", Kind::Gauge, |s| {
        s.connections.load(Ordering::Relaxed) as f64
    });
    gauge("weft_tls_refused_total", "Connections refused at the TLS handshake.", Kind::Counter, |s| {
        s.refused_handshakes.load(Ordering::Relaxed) as f64
    });
    gauge("weft_access_log_lines_dropped_total", "Lines lost because the log could not keep up.", Kind::Counter, |s| {
        s.log_lines_dropped() as f64
    });
    gauge(
        "weft_decision_log_lines_dropped_total",
        "Lines lost because the log could not keep up.",
        Kind::Counter,
        |s| s.decision_log.as_ref().map_or(0, DecisionLog::dropped) as f64,
    );
    let undecided =
        "Calls that passed without a decision: no authorization server could be asked, and the service fails open.";
    gauge("weft_authz_failed_open_total", undecided, Kind::Counter, |s| s.undecided.passed() as f64);
    let undecided = "Calls that were refused because no authorization server could be asked.";
    gauge("weft_authz_unavailable_total", undecided, Kind::Counter, |s| s.undecided.failed() as f64);
    shared.metrics.extra(plain_text::METRIC, plain_text::HELP, Kind::Counter, {
        let plain_text = shared.plain_text.clone();
        move || plain_text.samples()
    });
    gauge("weft_certificate_expiry_seconds", "Unix time at which the certificate expires.", Kind::Gauge, |s| {
        admin::expiry(&s.identity).unwrap_or(0) as f64
    });
}
