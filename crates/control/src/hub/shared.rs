//! What the hub hears of other control planes that share its store: endpoints whose streams they have.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::{Hub, State};
use crate::registry::{Registration, Touched};

impl Hub {
    /// Another control plane has a stream of `node`. It knows when the certificate of that ends; what is known here may be older.
    pub(crate) fn elsewhere(&self, node: &Arc<str>, registration: Registration, other: &Arc<str>) {
        let mut state = self.state();
        if state.issued.forget(node) {
            self.issued_changed.notify_one();
        }
        let touched = state.registry.elsewhere(node, registration, other);
        self.touched(touched, state);
    }

    /// `node` had a stream at a control plane that is gone.
    pub(crate) fn left_behind(&self, node: &Arc<str>, registration: Registration) {
        let mut state = self.state();
        let touched = state.registry.left_behind(node, registration, Instant::now());
        self.touched(touched, state);
    }

    /// Another control plane has taken `node` out; see [`Registry::gone_elsewhere`](crate::registry::Registry::gone_elsewhere).
    pub(crate) fn gone_elsewhere(&self, node: &str, asked: bool) {
        let mut state = self.state();
        let touched = state.registry.gone_elsewhere(node, asked);
        self.touched(touched, state);
    }

    /// Another control plane is gone.
    pub(crate) fn server_lost(&self, server: &str) {
        if self.state().registry.server_lost(server, Instant::now()) {
            tracing::info!(
                server,
                "another control plane is gone; its sidecars have the grace period to come to one that is left"
            );
            self.work.notify_one(); // the publisher looks at its next expiry
        }
    }

    fn touched(&self, touched: Touched, mut state: MutexGuard<'_, State>) {
        if state.touch(touched) {
            self.registry_changed.notify_one();
            self.work.notify_one();
        }
    }
}
