//! A running data plane as its owner sees it: whether it is ready, its drain, its end.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use weft_proxy_config::Config;
use weft_telemetry::metrics::Registry;

use crate::worker::Shared;

/// What a worker is told.
pub(crate) enum Command {
    Reconcile { config: Arc<Config>, done: oneshot::Sender<Vec<(Arc<str>, io::Error)>> },
    Close,
    End,
}

/// A running data plane.
pub struct ProxyHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<mpsc::UnboundedSender<Command>>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) ready: watch::Sender<bool>,
}

impl ProxyHandle {
    /// Waits until there is an identity and every listener of a first configuration is open.
    pub async fn ready(&self) {
        let mut identity = self.shared.identity.subscribe();
        while self.shared.identity.id().is_none() {
            if identity.changed().await.is_err() {
                return;
            }
        }
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether requests are taken and can be sent: it has been [`ready`](Self::ready), no drain has begun, and the identity is of use
    /// now.
    pub fn is_ready(&self) -> bool {
        self.has_configuration() && self.shared.identity.fault().is_none() && !self.is_draining()
    }

    /// Whether there has been a first configuration.
    pub(crate) fn has_configuration(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Waits until the app took no connection.
    pub async fn app_refused(&self) {
        self.shared.app_refused.notified().await;
    }

    /// Says in `/ready` whether the app, which took connections, takes none.
    pub fn set_app_gone(&self, gone: bool) {
        self.shared.app_gone.store(gone, Ordering::Release);
    }

    /// Whether that was said.
    pub fn is_app_gone(&self) -> bool {
        self.shared.app_gone.load(Ordering::Acquire)
    }

    /// The commit that is in force, empty before the first.
    pub fn revision(&self) -> Arc<str> {
        self.shared.config.load().revision.clone()
    }

    /// All metrics.
    pub fn metrics(&self) -> &Arc<Registry> {
        &self.shared.metrics
    }

    /// Stops accepting, tells clients (GOAWAY, `Connection: close`), and waits at most `bound` for what is under way.
    /// Gives the number of requests and tunnels that were still open.
    pub async fn drain(&self, bound: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.drain.notify_waiters();
        for worker in &self.workers {
            let _ = worker.send(Command::Close);
        }
        let idle = async {
            loop {
                let changed = self.shared.idle.notified();
                if self.shared.is_idle() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(bound, idle).await;
        self.shared.active.load(Ordering::Acquire)
    }

    /// Has every access log opened again, so that a file that was moved away gets no more lines. Waits for nothing.
    pub fn reopen_logs(&self) {
        self.shared.reopen_logs();
    }

    /// Ends the workers, and with them what is still open. Log lines are written out first.
    pub fn stop(&self) {
        for worker in &self.workers {
            let _ = worker.send(Command::End);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
        self.shared.flush_logs();
    }
}
