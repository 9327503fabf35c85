//! The endpoints of control planes that share a store: each writes those whose sidecars have a stream at it, and hears of the others'.
//!
//! So a sidecar that loses its control plane finds everybody at the next one. Each holds a lease while it lives; when that runs out, its
//! endpoints have the grace period in which their sidecars come to another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use weft_store::{Change, Entry, Event, Lease, Store, StoreError, Swap, Watch};

use crate::hub::Hub;
use crate::registry::Registration;

const ENDPOINTS: &str = "endpoint/";
/// Where the leases of servers are in the store.
const SERVERS: &str = "lease/server/";
/// How long a server that is gone is taken to live.
const LIFE: Duration = Duration::from_secs(10);
/// How often it says that it lives, and tries again what failed.
const BEAT: Duration = Duration::from_secs(3);

/// What the store has of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The server that has its stream.
    server: Arc<str>,
    registration: Registration,
}

/// See the module.
pub(crate) struct Shared {
    store: Store,
    own: Arc<str>,
    hub: Arc<Hub>,
    lease: Option<Lease>,
    endpoints: Watch,
    servers: Watch,
    /// What the store has, with revisions.
    stored: BTreeMap<Arc<str>, (Record, u64)>,
    failing: bool,
}

impl Shared {
    /// Takes over what the other servers have. To be called before anybody is served.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn open(store: Store, own: &str, hub: Arc<Hub>) -> Result<Self, StoreError> {
        let (endpoints, servers) = (store.watch(ENDPOINTS), store.watch(SERVERS));
        let stored = BTreeMap::new();
        let mut shared = Self { store, own: own.into(), hub, lease: None, endpoints, servers, stored, failing: false };
        shared.take_over().await?;
        Ok(shared)
    }

    /// Tells and hears until the process ends.
    pub(crate) async fn run(mut self) {
        let hub = self.hub.clone();
        let mut beat = Instant::now();
        loop {
            if Instant::now() >= beat {
                beat = Instant::now() + BEAT;
                let alive = self.say_that_it_lives().await;
                self.report(alive);
                hub.to_share.notify_one(); // what failed before is tried again
            }
            tokio::select! {
                () = sleep_until(beat) => {}
                () = hub.to_share.notified() => {
                    let told = self.tell().await;
                    self.report(told);
                }
                event = self.endpoints.next() => match event {
                    Some(event) => self.heard(&event),
                    None => self.begin_anew().await,
                },
                event = self.servers.next() => match event {
                    Some(Event { key, change: Change::Deleted, .. }) => hub.server_lost(&key[SERVERS.len()..]),
                    Some(_) => {}
                    None => self.begin_anew().await,
                },
            }
        }
    }

    fn report(&mut self, told: Result<(), StoreError>) {
        match told {
            Err(error) if !self.failing => {
                tracing::warn!(%error, "other control planes do not hear of this one's endpoints; trying on");
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::info!("other control planes hear of this one's endpoints again");
                self.failing = false;
            }
            _ => {}
        }
    }

    async fn begin_anew(&mut self) {
        let taken_over = self.take_over().await;
        self.report(taken_over);
    }

    /// Reads all that the servers have written.
    async fn take_over(&mut self) -> Result<(), StoreError> {
        let servers = self.store.list(SERVERS).await?;
        let alive: BTreeSet<&str> = servers.iter().map(|(key, _)| &key[SERVERS.len()..]).collect();
        let mut before = std::mem::take(&mut self.stored);
        for (key, Entry { value, revision }) in self.store.list(ENDPOINTS).await? {
            let (node, Ok(record)) = (Arc::from(&key[ENDPOINTS.len()..]), serde_json::from_slice::<Record>(&value))
            else {
                continue;
            };
            before.remove(&node);
            if record.server != self.own && alive.contains(&*record.server) {
                self.hub.elsewhere(&node, record.registration.clone(), &record.server);
            } else {
                self.hub.left_behind(&node, record.registration.clone());
            }
            self.stored.insert(node, (record, revision));
        }
        before.keys().for_each(|node| self.hub.gone_elsewhere(node, false));
        Ok(())
    }

    /// What is written under this server's name is heard too, and only remembered.
    fn heard(&mut self, event: &Event) {
        let node: Arc<str> = Arc::from(&event.key[ENDPOINTS.len()..]);
        let before = self.stored.get(&node);
        if before.is_some_and(|(_, revision)| *revision >= event.revision) {
            return;
        }
        match &event.change {
            Change::Deleted => {
                // Whoever deletes what this server has written was asked to by the sidecar.
                let asked = before.is_some_and(|(record, _)| record.server == self.own);
                self.stored.remove(&node);
                self.hub.gone_elsewhere(&node, asked);
            }
            Change::Put(value) => {
                let Ok(record) = serde_json::from_slice::<Record>(value) else { return };
                if record.server != self.own {
                    self.hub.elsewhere(&node, record.registration.clone(), &record.server);
                }
                self.stored.insert(node, (record, event.revision));
            }
        }
    }

    /// Holds the lease, or takes it again; then the others may have given this server up, and are told everything.
    async fn say_that_it_lives(&mut self) -> Result<(), StoreError> {
        let now = SystemTime::now();
        if let Some(lease) = &mut self.lease
            && lease.renew(now, LIFE).await?
        {
            return Ok(());
        }
        self.lease = self.store.lease(&format!("server/{}", self.own), now, LIFE).await?;
        if self.lease.is_some() {
            let own: Vec<_> = self.own();
            for (node, registration) in own {
                self.put(node, registration).await?;
            }
        }
        Ok(())
    }

    fn own(&self) -> Vec<(Arc<str>, Registration)> {
        self.hub.state().registry.own().map(|(node, registration)| (node.clone(), registration.clone())).collect()
    }

    /// Writes what is new here, and deletes what is gone, unless somebody else has written it since.
    async fn tell(&mut self) -> Result<(), StoreError> {
        let own = self.own();
        for (node, registration) in own {
            let record = self.stored.get(&node).map(|(record, _)| record);
            if record.is_none_or(|record| record.server != self.own || record.registration != registration) {
                self.put(node, registration).await?;
            }
        }
        let gone: Vec<(Arc<str>, u64)> = {
            let state = self.hub.state();
            let gone = self.stored.iter().filter(|(node, _)| !state.registry.knows(node));
            gone.map(|(node, (_, revision))| (node.clone(), *revision)).collect()
        };
        for (node, revision) in gone {
            let swap = self.store.compare_and_swap(&format!("{ENDPOINTS}{node}"), Some(revision), None).await?;
            if let Swap::Done(_) = swap {
                self.stored.remove(&node);
            } else {
                return Ok(()); // somebody else has written it: that is heard in a moment
            }
        }
        Ok(())
    }

    async fn put(&mut self, node: Arc<str>, registration: Registration) -> Result<(), StoreError> {
        let record = Record { server: self.own.clone(), registration };
        let value = serde_json::to_vec(&record).expect("strings and numbers are JSON");
        let revision = self.store.put(&format!("{ENDPOINTS}{node}"), value).await?;
        self.stored.insert(node, (record, revision));
        Ok(())
    }
}
