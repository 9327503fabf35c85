//! The local Envoy's end of the relay: it may always come in, and what it says is noted.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::Status;
use weft_model::SpiffeId;

use super::envoy::Envoy;
use super::{Relay, Shared};
use crate::{Directory, Nack, Node, Observer, Snapshot, Subscription};

#[tonic::async_trait]
impl Directory for Relay {
    async fn open(&self, _: Option<SpiffeId>, _: &Node) -> Result<Subscription, Status> {
        let mut id = 0;
        self.0.envoy.send_modify(|envoy| id = envoy.connects(&self.snapshot()));
        let observer = Listening { shared: self.0.clone(), id };
        Ok(Subscription { snapshots: self.0.snapshots.subscribe(), observer: Box::new(observer) })
    }
}

/// Notes what one Envoy stream says.
struct Listening {
    shared: Arc<Shared>,
    id: u64,
}

impl Listening {
    fn note(&self, change: impl FnOnce(&mut Envoy)) {
        self.shared.envoy.send_if_modified(|envoy| {
            let speaks = envoy.speaks(self.id);
            if speaks {
                change(envoy);
            }
            speaks
        });
    }
}

fn serial_of(revision: &str) -> u64 {
    revision.rsplit_once('+').and_then(|(_, serial)| serial.parse().ok()).unwrap_or(0)
}

impl Observer for Listening {
    fn ack(&mut self, type_url: &'static str, revision: &str, _: &[Arc<str>]) {
        self.note(|envoy| envoy.accepts(serial_of(revision), type_url));
    }

    fn nack(&mut self, nack: &Nack) {
        self.note(|envoy| envoy.refuses(serial_of(&nack.revision), nack));
    }

    fn settled_snapshot(&mut self, snapshot: &Arc<Snapshot>) {
        self.note(|envoy| envoy.settled = envoy.settled.max(snapshot.serial));
    }

    fn closed(&mut self) {
        self.shared.envoy.send_modify(|envoy| envoy.leaves(self.id, Instant::now()));
    }
}
