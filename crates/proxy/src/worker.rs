//! What a worker has for itself, and what all workers of a proxy share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::HeaderValue;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_decision_log::{DecisionLog, PlainText, Recorder};
use weft_identity::LiveIdentity;
use weft_policy::Decisions;
use weft_telemetry::lines::{Log, LogBuffer, LogSink};
use weft_telemetry::metrics::{Registry, Shard};

use crate::balance;
use crate::undecided::Undecided;
use crate::upstream::Pools;
use weft_proxy_config::{Cluster, Config, Endpoints, LogFormat};

/// Log lines are handed to the writing thread at least this often.
const TICK: Duration = Duration::from_millis(100);
/// Idle connections are looked at once in so many ticks.
const SWEEP_TICKS: u32 = 10;

/// Shared by the workers of a proxy.
pub(crate) struct Shared {
    /// The configuration of the moment; a request takes it once and keeps it.
    pub(crate) config: ArcSwap<Config>,
    pub(crate) identity: Arc<LiveIdentity>,
    /// Host of the service behind this proxy, like `board.prod`.
    pub(crate) own_host: Arc<str>,
    pub(crate) metrics: Arc<Registry>,
    pub(crate) draining: AtomicBool,
    pub(crate) drain: Notify,
    /// Requests and tunnels under way in all workers.
    pub(crate) active: AtomicUsize,
    /// Open client connections in all workers.
    pub(crate) connections: AtomicUsize,
    /// Client connections that are being served: one that drains ends when its last answer has left.
    serving: AtomicUsize,
    /// Connections whose TLS handshake failed or whose peer was not taken.
    pub(crate) refused_handshakes: AtomicU64,
    /// Told whenever nothing may be under way any more, while draining.
    pub(crate) idle: Notify,
    /// Told whenever the app took no connection.
    pub(crate) app_refused: Notify,
    /// Whether the app, which took connections, takes none: calls are not to be sent here.
    pub(crate) app_gone: AtomicBool,
    /// Calls about which no authorization server could be asked.
    pub(crate) undecided: Undecided,
    logs: Mutex<HashMap<Arc<str>, Option<LogSink>>>,
    pub(crate) decision_log: Option<DecisionLog>,
    /// Told of calls in plain text.
    pub(crate) plain_text: PlainText,
}

impl Shared {
    pub(crate) fn new(
        identity: Arc<LiveIdentity>,
        own_host: Arc<str>,
        metrics: Arc<Registry>,
        decision_log: Option<DecisionLog>,
        plain_text: PlainText,
    ) -> Self {
        Self {
            config: ArcSwap::default(),
            identity,
            own_host,
            metrics,
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            active: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            serving: AtomicUsize::new(0),
            refused_handshakes: AtomicU64::new(0),
            idle: Notify::new(),
            app_refused: Notify::new(),
            app_gone: AtomicBool::new(false),
            undecided: Undecided::default(),
            logs: Mutex::default(),
            decision_log,
            plain_text,
        }
    }

    /// The sink of a log file, opened on first use; `None`, and one warning, if it cannot be.
    fn log_sink(&self, path: &Arc<str>) -> Option<LogSink> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = Log { name: "access log", mode: 0o644, rotation: None, copy: None };
        let open = || match LogSink::open(Path::new(&**path), log) {
            Ok(sink) => Some(sink),
            Err(error) => {
                tracing::error!(%path, %error, "the access log cannot be written");
                None
            }
        };
        logs.entry(path.clone()).or_insert_with(open).clone()
    }

    /// Lines lost so far because a log could not keep up.
    pub(crate) fn log_lines_dropped(&self) -> u64 {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.values().flatten().map(LogSink::dropped).sum()
    }

    /// Waits until every line handed over is written.
    pub(crate) fn flush_logs(&self) {
        let sinks: Vec<LogSink> =
            self.logs.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect();
        sinks.iter().for_each(LogSink::flush);
        self.decision_log.iter().for_each(DecisionLog::flush);
    }

    /// Has every log file opened again.
    pub(crate) fn reopen_logs(&self) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().for_each(LogSink::reopen);
        self.decision_log.iter().for_each(DecisionLog::reopen);
    }

    /// Whether the proxy takes no more requests.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Waits until the proxy takes no more requests.
    pub(crate) async fn drained(&self) {
        let mut told = std::pin::pin!(self.drain.notified());
        told.as_mut().enable();
        if !self.is_draining() {
            told.await;
        }
    }

    /// Whether every answer has left.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0 && self.serving.load(Ordering::Acquire) == 0
    }

    fn leave(&self, count: &AtomicUsize) {
        if count.fetch_sub(1, Ordering::AcqRel) == 1 && self.is_draining() {
            self.idle.notify_waiters();
        }
    }
}

/// Counts a client connection as being served, for as long as it lives.
pub(crate) struct Serving(Arc<Shared>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.leave(&self.0.serving);
    }
}

/// One worker: a thread with its own runtime, pools, counters and log buffer. Never shared.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pools: Pools,
    pub(crate) metrics: RefCell<Shard>,
    pub(crate) decisions: RefCell<Decisions>,
    turn: Cell<u64>,
    rng: RefCell<SmallRng>,
    logs: RefCell<HashMap<Arc<str>, Option<LogBuffer>>>,
    recorder: RefCell<Option<Recorder>>,
    /// The second, since 1970, of the `Date` beside it.
    date: RefCell<(u64, HeaderValue)>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            pools: Pools::new(shared.identity.clone()),
            metrics: RefCell::new(shared.metrics.shard()),
            decisions: RefCell::default(),
            turn: Cell::new(0),
            rng: RefCell::new(SmallRng::from_os_rng()),
            logs: RefCell::default(),
            recorder: RefCell::new(shared.decision_log.as_ref().map(DecisionLog::recorder)),
            date: RefCell::new((0, HeaderValue::from_static(""))),
            shared,
        })
    }

    /// 64 random bits; not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.rng.borrow_mut().random()
    }

    /// The `Date` of this moment (RFC 9110 s.6.6.1), written once a second.
    pub(crate) fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            *date = (second, HeaderValue::from_str(&httpdate::fmt_http_date(now)).expect("a date is plain text"));
        }
        date.1.clone()
    }

    /// Runs `make` with the worker's generator. Ids are made with it: unique, not secret.
    pub(crate) fn with_rng<T>(&self, make: impl FnOnce(&mut SmallRng) -> T) -> T {
        make(&mut self.rng.borrow_mut())
    }

    /// An endpoint by the cluster's balancing; one that was tried, or lately refused a connection, only if there is no other.
    pub(crate) fn pick(&self, cluster: &Cluster, endpoints: &Endpoints, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let now = Instant::now();
        let load = |index: usize| {
            let address = endpoints[index].address;
            let (active, failing) = self.pools.load(cluster.id, address, now);
            (active, failing || tried.contains(&address))
        };
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let picked = balance::pick(endpoints, cluster.lb_policy, load, turn, self.random());
        picked.map(|index| endpoints[index].address)
    }

    /// Counts a request or tunnel as begun.
    pub(crate) fn begun(&self) {
        self.shared.active.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts it as ended.
    pub(crate) fn ended(&self) {
        self.shared.leave(&self.shared.active);
    }

    /// Counts a client connection as being served.
    pub(crate) fn serving(&self) -> Serving {
        self.shared.serving.fetch_add(1, Ordering::AcqRel);
        Serving(self.shared.clone())
    }

    /// Appends a line to the log of `format`.
    pub(crate) fn log(&self, format: &LogFormat, write: impl FnOnce(&mut Vec<u8>)) {
        let mut logs = self.logs.borrow_mut();
        if !logs.contains_key(&format.path) {
            let buffer = self.shared.log_sink(&format.path).map(|sink| sink.buffer());
            logs.insert(format.path.clone(), buffer);
        }
        if let Some(Some(buffer)) = logs.get_mut(&format.path) {
            write(buffer.lines());
            buffer.line_done();
        }
    }

    /// Has a decision taken note of, where there is a decision log.
    pub(crate) fn record(&self, record: impl FnOnce(&mut Recorder)) {
        if let Some(recorder) = &mut *self.recorder.borrow_mut() {
            record(recorder);
        }
    }

    /// Gives the gathered log lines to the writing threads.
    pub(crate) fn hand_over_logs(&self) {
        self.logs.borrow_mut().values_mut().flatten().for_each(LogBuffer::hand_over);
        self.recorder.borrow_mut().iter_mut().for_each(Recorder::hand_over);
    }

    /// Hands log lines over on a regular tick, and looks after idle connections, for ever.
    pub(crate) async fn tick(self: Rc<Self>) {
        let mut ticks = 0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.hand_over_logs();
            ticks = (ticks + 1) % SWEEP_TICKS;
            if ticks == 0 {
                self.pools.sweep();
            }
        }
    }
}
