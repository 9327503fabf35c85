//! Feeds a local Envoy with what a [`Client`](crate::Client) receives, and answers upstream with what Envoy says to it.
//!
//! The relay is both ends at once: a [`Sink`] for the client, and a [`Directory`](crate::Directory) for an
//! [`AdsServer`](crate::AdsServer) on a Unix socket whose permissions say who may connect. Envoy therefore survives a dead control plane,
//! and can be started without one from the client's cache. What Envoy refuses is taken back locally, so that a restarted Envoy gets what
//! the old one ran on.
//!
//! An update waits for Envoy's answer, but not for ever: an Envoy that is away or stuck must not keep the agent from newer
//! configuration, of which the server sends nothing while it waits. So after [`PATIENCE`] the update is accepted, and each of its
//! resources stays `open` with what was in force before. A refusal that comes later cannot go upstream by itself: in xDS a NACK
//! is the answer to one response, and that one has been answered. It is taken back all the same, and the client is [told](Sink::late)
//! to ask for the resource again; the response to that is refused at once, in Envoy's words. The same goes for a new Envoy that refuses
//! what an earlier one ran on, but that stays on offer: the next Envoy may accept it, and then upstream is told so.

mod door;
mod envoy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use crate::{Rejection, Resource, Sink, Snapshot, TakenBack, Update, references};
use envoy::{Envoy, Key, RELAYED, Refusal};

/// How long an update waits for Envoy's answer, and how long a missing Envoy is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A local Envoy's configuration on its way through. Clones share it.
#[derive(Clone)]
pub struct Relay(Arc<Shared>);

struct Shared {
    snapshots: watch::Sender<Arc<Snapshot>>,
    envoy: watch::Sender<Envoy>,
}

/// How Envoy answered.
enum Answer {
    Given,
    None,
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

impl Relay {
    /// A relay that has nothing yet; Envoy may connect at any time and waits for what comes.
    pub fn new() -> Self {
        let mut snapshot = Snapshot::default();
        RELAYED.into_iter().for_each(|type_url| snapshot.set_partial(type_url, true));
        let envoy = watch::Sender::new(Envoy::new(Instant::now()));
        Self(Arc::new(Shared { snapshots: watch::Sender::new(Arc::new(snapshot)), envoy }))
    }

    /// What Envoy is given now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshots.borrow().clone()
    }

    /// Whether an Envoy is connected.
    pub fn connected(&self) -> bool {
        self.0.envoy.borrow().is_connected()
    }

    /// Changes what Envoy is given, and returns the serial of the new state. `note` is told of it before Envoy can answer.
    fn publish(&self, revision: &str, change: impl FnOnce(&mut Snapshot), note: impl FnOnce(&mut Envoy, u64)) -> u64 {
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.serial += 1;
        let serial = snapshot.serial;
        // The serial makes answers to different states of one commit distinguishable.
        snapshot.revision = format!("{revision}+{serial}").into();
        change(&mut snapshot);
        self.0.envoy.send_modify(|envoy| note(envoy, serial));
        self.0.snapshots.send_replace(Arc::new(snapshot));
        serial
    }

    async fn answer(&self, type_url: &'static str, serial: u64) -> Answer {
        let mut envoy = self.0.envoy.subscribe();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let until = {
                let envoy = envoy.borrow_and_update();
                if envoy.has_answered(type_url, serial) {
                    return Answer::Given;
                }
                envoy.absent_since().map_or(deadline, |since| deadline.min(since + PATIENCE))
            };
            tokio::select! {
                _ = envoy.changed() => {}
                () = sleep_until(until) => return Answer::None,
            }
        }
    }

    /// Takes out the refusals that `of` chooses, and gives Envoy what it ran on before. Those that something newer has overtaken are
    /// dropped.
    fn take_back(&self, of: impl Fn(&Key) -> bool) -> Vec<Refusal> {
        let mut taken = Vec::new();
        self.0.envoy.send_if_modified(|envoy| {
            taken = envoy.refusals.extract_if(.., |refusal| of(&refusal.key)).collect();
            false
        });
        let now = self.snapshot();
        taken.retain(|Refusal { key: (type_url, name), open, .. }| {
            now.get(type_url).get(name).is_some_and(|resource| resource.version == open.version)
        });
        if taken.is_empty() {
            return taken;
        }
        let restore = |snapshot: &mut Snapshot| {
            for Refusal { key: (type_url, name), open, .. } in &taken {
                match &open.before {
                    Some(before) => snapshot.insert(before.clone()),
                    None => drop(snapshot.remove(type_url, name)),
                }
            }
        };
        let revision = now.revision.rsplit_once('+').map_or(&*now.revision, |(revision, _)| revision);
        self.publish(revision, restore, |_, _| {});
        taken
    }

    /// Sorts out what Envoy has refused, but too late to say so when it came.
    fn known_bad(&self, type_url: &'static str, changed: Vec<Arc<Resource>>) -> (Vec<Arc<Resource>>, Vec<Rejection>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        self.0.envoy.send_if_modified(|envoy| {
            for resource in changed {
                let key = (type_url, resource.name.clone());
                match envoy.told_late.get(&key).filter(|(version, _)| *version == resource.version) {
                    Some((_, reason)) => bad.push(Rejection { name: key.1, reason: reason.clone() }),
                    None => {
                        envoy.told_late.remove(&key);
                        good.push(resource);
                    }
                }
            }
            false
        });
        (good, bad)
    }
}

#[tonic::async_trait]
impl Sink for Relay {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        let Update { type_url, revision, changed, removed } = update;
        if !RELAYED.contains(&type_url) {
            return Vec::new();
        }
        let (changed, mut rejections) = readable(type_url, changed);
        let (changed, refused_before) = self.known_bad(type_url, changed);
        if changed.is_empty() && removed.is_empty() && !refused_before.is_empty() {
            return refused_before;
        }
        rejections.extend(refused_before);
        let names: BTreeSet<_> = changed.iter().map(|resource| resource.name.clone()).collect();
        let concerns = |key: &Key| key.0 == type_url && names.contains(&key.1);
        // What was refused late and is replaced now need not be told any more, but is nothing to go back to.
        self.take_back(concerns);
        let before = self.snapshot();
        let change = |snapshot: &mut Snapshot| {
            // Endpoints and routes come by name, after what names them: there may always be more to come.
            if matches!(type_url, CLUSTER | LISTENER) {
                snapshot.set_partial(type_url, false);
            }
            removed.iter().for_each(|name| drop(snapshot.remove(type_url, name)));
            changed.iter().for_each(|resource| snapshot.insert(resource.clone()));
        };
        let serial = self.publish(&revision, change, |envoy, serial| {
            for name in &removed {
                envoy.loses(type_url, name);
            }
            for resource in &changed {
                envoy.opens(serial, type_url, resource, before.get(type_url).get(&resource.name));
            }
        });
        if type_url == CLUSTER && awaits_endpoints(&changed, &before) {
            // Envoy keeps its answer back until the new clusters are warm, so until their endpoints are there; and these come
            // only after this answer. The refusal of a cluster comes late, then.
            return rejections;
        }
        match self.answer(type_url, serial).await {
            Answer::Given => {}
            Answer::None if self.connected() => {
                tracing::warn!(%revision, r#type = type_url, "Envoy has not answered within 5 s; the update is accepted for it until it does");
            }
            Answer::None => tracing::debug!(%revision, r#type = type_url, "no Envoy is connected"),
        }
        let refused = self.take_back(concerns);
        rejections.extend(refused.into_iter().map(|refusal| Rejection { name: refusal.key.1, reason: refusal.reason }));
        rejections
    }

    async fn late(&mut self) -> TakenBack {
        let mut envoy = self.0.envoy.subscribe();
        loop {
            let (refused, accepted) = {
                let envoy = envoy.borrow_and_update();
                let refused = envoy.refusals.first().map(|refusal| refusal.key.0);
                (refused, envoy.accepted_after_all.first().map(|(key, _)| key.0))
            };
            if let Some(type_url) = accepted {
                let mut in_force = Vec::new();
                self.0.envoy.send_if_modified(|envoy| {
                    let of_type = envoy.accepted_after_all.extract_if(.., |(key, _)| key.0 == type_url);
                    in_force.extend(of_type.map(|(key, resource)| (key.1, Some(resource))));
                    false
                });
                tracing::info!(r#type = type_url, "Envoy accepts what an earlier one refused");
                return TakenBack { type_url, in_force };
            }
            if let Some(type_url) = refused {
                let refused = self.take_back(|key| key.0 == type_url);
                let mut in_force = Vec::new();
                self.0.envoy.send_if_modified(|envoy| {
                    for refusal in refused {
                        let Refusal { key, open, reason } = &refusal;
                        tracing::warn!(r#type = type_url, name = %key.1, %reason, "Envoy refuses what was already accepted for it");
                        in_force.push((key.1.clone(), open.before.clone()));
                        envoy.is_told(refusal);
                    }
                    false
                });
                return TakenBack { type_url, in_force };
            }
            if envoy.changed().await.is_err() {
                std::future::pending::<()>().await; // the sender is in `self`
            }
        }
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>> {
        let snapshot = self.snapshot();
        match type_url {
            ENDPOINT => {
                let clusters = snapshot.get(CLUSTER).values().filter_map(|resource| resource.decode::<Cluster>().ok());
                clusters.filter_map(|cluster| references::endpoints(&cluster)).collect()
            }
            ROUTE => {
                let listeners =
                    snapshot.get(LISTENER).values().filter_map(|resource| resource.decode::<Listener>().ok());
                listeners.flat_map(|listener| references::routes(&listener).unwrap_or_default()).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// Whether a cluster needs endpoints that Envoy has not been given yet.
fn awaits_endpoints(clusters: &[Arc<Resource>], snapshot: &Snapshot) -> bool {
    let needed =
        |cluster: &Arc<Resource>| cluster.decode::<Cluster>().ok().and_then(|cluster| references::endpoints(&cluster));
    clusters.iter().filter_map(needed).any(|name| !snapshot.get(ENDPOINT).contains_key(&name))
}

/// The resources that can be passed on: those from which the names that they refer to can be read.
fn readable(type_url: &'static str, resources: Vec<Arc<Resource>>) -> (Vec<Arc<Resource>>, Vec<Rejection>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for resource in resources {
        let read = match type_url {
            CLUSTER => resource.decode::<Cluster>().map(drop),
            LISTENER => resource.decode::<Listener>().and_then(|listener| references::routes(&listener)).map(drop),
            _ => Ok(()),
        };
        match read {
            Ok(()) => good.push(resource),
            Err(error) => bad.push(Rejection { name: resource.name.clone(), reason: error.to_string() }),
        }
    }
    (good, bad)
}
