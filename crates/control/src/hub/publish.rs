//! The publisher: the one task that compiles rounds, so that each stream sees generations in order.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Hub;
use super::round::{Round, compose};

impl Hub {
    /// Publishes until the process ends.
    pub(crate) async fn publish_forever(self: Arc<Self>) {
        loop {
            let next_expiry = self.next_expiry();
            let expiry = async {
                match next_expiry {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.work.notified() => {}
                () = expiry => {}
            }
            self.expire(Instant::now(), SystemTime::now());
            self.publish().await;
        }
    }

    /// When an endpoint, or a proxy that is lost, will be given up, or break-glass be over.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let state = self.state();
        let broken = state
            .break_glass
            .as_ref()
            .map(|broken| Instant::now() + broken.end().duration_since(SystemTime::now()).unwrap_or_default());
        [state.next_expiry(self.grace), broken].into_iter().flatten().min()
    }

    pub(crate) fn expire(&self, now: Instant, wall: SystemTime) {
        // Not in the `if let`, which would hold the lock until its end.
        let over = self.state().break_glass.clone().filter(|broken| broken.end() <= wall);
        if let Some(over) = over {
            tracing::warn!(operator = &*over.operator, reason = &*over.reason, "break-glass is over");
            self.break_glass(None);
        }
        let touched = self.state().expire(now, self.grace);
        if !touched.is_empty() {
            tracing::info!(services = ?touched, "endpoints whose sidecars did not come back were removed");
            self.registry_changed.notify_one();
            self.to_share.notify_one();
        }
    }

    /// One round: everything that is dirty now.
    pub(super) async fn publish(&self) {
        let started = Instant::now();
        // Not in the `let else`, which would hold the lock until the end.
        let round = self.state().take_round();
        let Some(Round { mesh, endpoints, generation, streams }) = round else { return };
        let count = streams.len();
        for (n, (proxy, snapshots)) in streams.into_iter().enumerate() {
            let mut snapshot = compose(&mesh, &endpoints, &proxy, generation);
            snapshot.share_with(&snapshots.borrow().clone());
            snapshots.send_replace(Arc::new(snapshot));
            if n % 64 == 63 {
                tokio::task::yield_now().await; // let the streams send what is ready
            }
        }
        self.metrics.push_time.observe(started.elapsed().as_secs_f64());
        self.progressed();
        tracing::debug!(generation, proxies = count, took = ?started.elapsed(), "published");
    }
}
