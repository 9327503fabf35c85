//! Feeds a local Envoy with what a [`Client`](crate::Client) receives, and answers upstream with what Envoy says to it.
//!
//! The relay is both ends at once: a [`Sink`] for the client, and a [`Directory`] for an [`AdsServer`](crate::AdsServer) on a Unix
//! socket whose permissions say who may connect. Envoy therefore survives a dead control plane, and can be started without one from the
//! client's cache. What Envoy refuses is taken back locally, so that a restarted Envoy gets what the old one ran on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use weft_model::SpiffeId;

use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use crate::{Directory, Nack, Node, Observer, Rejection, Resource, Sink, Snapshot, Subscription, Update, references};

/// How long an update waits for Envoy's answer, and how long a missing Envoy is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// What Envoy is fed with; other types are for the agent itself.
const RELAYED: [&str; 4] = [CLUSTER, ENDPOINT, LISTENER, ROUTE];

/// A local Envoy's configuration on its way through. Clones share it.
#[derive(Clone)]
pub struct Relay(Arc<Shared>);

struct Shared {
    snapshots: watch::Sender<Arc<Snapshot>>,
    envoy: watch::Sender<Envoy>,
}

/// What is known of the local Envoy.
struct Envoy {
    /// The open streams; the newest speaks for Envoy (two are open while it restarts itself).
    streams: BTreeSet<u64>,
    opened: u64,
    /// When the last stream ended, or the relay began.
    absent_since: Instant,
    /// The newest snapshot, by serial, that Envoy needs nothing more for.
    settled: u64,
    accepted: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, (u64, Nack)>,
}

/// How Envoy answered.
enum Answer {
    Accepted,
    Refused(Nack),
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
        let envoy = Envoy {
            streams: BTreeSet::new(),
            opened: 0,
            absent_since: Instant::now(),
            settled: 0,
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        Self(Arc::new(Shared { snapshots: watch::Sender::new(Arc::new(snapshot)), envoy: watch::Sender::new(envoy) }))
    }

    /// What Envoy is given now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshots.borrow().clone()
    }

    /// Whether an Envoy is connected.
    pub fn connected(&self) -> bool {
        !self.0.envoy.borrow().streams.is_empty()
    }

    /// What Envoy refuses now. A refusal that came in time is answered upstream and taken back, so what stays here came too late.
    pub fn refused(&self) -> Vec<Nack> {
        self.0.envoy.borrow().refused.values().map(|(_, nack)| nack.clone()).collect()
    }

    /// Changes what Envoy is given, and returns the serial of the new state.
    fn publish(&self, revision: &str, change: impl FnOnce(&mut Snapshot)) -> u64 {
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.serial += 1;
        let serial = snapshot.serial;
        // The serial makes answers to different states of one commit distinguishable.
        snapshot.revision = format!("{revision}+{serial}").into();
        change(&mut snapshot);
        self.0.snapshots.send_replace(Arc::new(snapshot));
        serial
    }

    async fn answer(&self, type_url: &'static str, serial: u64) -> Answer {
        let mut envoy = self.0.envoy.subscribe();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let until = {
                let envoy = envoy.borrow_and_update();
                match envoy.refused.get(type_url) {
                    Some((refused, nack)) if *refused >= serial => return Answer::Refused(nack.clone()),
                    _ => {}
                }
                if envoy.settled >= serial || envoy.accepted.get(type_url).is_some_and(|accepted| *accepted >= serial) {
                    return Answer::Accepted;
                }
                if envoy.streams.is_empty() { deadline.min(envoy.absent_since + PATIENCE) } else { deadline }
            };
            tokio::select! {
                _ = envoy.changed() => {}
                () = sleep_until(until) => return Answer::None,
            }
        }
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
        let before = self.snapshot();
        let serial = self.publish(&revision, |snapshot| {
            // Endpoints and routes come by name, after what names them: there may always be more to come.
            if matches!(type_url, CLUSTER | LISTENER) {
                snapshot.set_partial(type_url, false);
            }
            removed.iter().for_each(|name| drop(snapshot.remove(type_url, name)));
            changed.into_iter().for_each(|resource| snapshot.insert(resource));
        });
        match self.answer(type_url, serial).await {
            Answer::Accepted => {}
            Answer::None if self.connected() => {
                tracing::warn!(%revision, r#type = type_url, "Envoy has not answered within 5 s; its answer is not waited for any longer");
            }
            Answer::None => tracing::debug!(%revision, r#type = type_url, "no Envoy is connected"),
            Answer::Refused(nack) => {
                let refused = blame(&nack);
                self.publish(&revision, |snapshot| {
                    for Rejection { name, .. } in &refused {
                        match before.get(type_url).get(name) {
                            Some(previous) => snapshot.insert(previous.clone()),
                            None => drop(snapshot.remove(type_url, name)),
                        }
                    }
                });
                rejections.extend(refused);
            }
        }
        rejections
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

/// Which resources of a refused response Envoy complains about, each with its part of the text. Envoy writes
/// `Error adding/updating cluster(s) a: reason, b: reason` for several, and only a reason for one. Where no name can be found, all are.
fn blame(nack: &Nack) -> Vec<Rejection> {
    let mut places: Vec<(usize, usize, &Arc<str>)> = Vec::new();
    for name in &nack.resources {
        let mark = format!("{name}: ");
        let starts_a_word = |at: &usize| *at == 0 || nack.reason[..*at].ends_with([' ', '\n', ',', '(']);
        let found = nack.reason.match_indices(&mark).map(|(at, _)| at).find(starts_a_word);
        places.extend(found.map(|at| (at, at + mark.len(), name)));
    }
    places.sort_unstable();
    if places.is_empty() {
        let all = nack.resources.iter().cloned();
        return all.map(|name| Rejection { name, reason: nack.reason.trim().to_owned() }).collect();
    }
    let ends = places.iter().skip(1).map(|place| place.0).chain([nack.reason.len()]);
    let part = |((_, from, name), to): (&(usize, usize, &Arc<str>), usize)| {
        let reason = nack.reason.get(*from..to).unwrap_or(&nack.reason);
        Rejection { name: (*name).clone(), reason: reason.trim_end_matches([' ', ',', '\n']).to_owned() }
    };
    places.iter().zip(ends).map(part).collect()
}

#[tonic::async_trait]
impl Directory for Relay {
    async fn open(&self, _: Option<SpiffeId>, _: &Node) -> Result<Subscription, Status> {
        let mut id = 0;
        self.0.envoy.send_modify(|envoy| {
            envoy.opened += 1;
            id = envoy.opened;
            envoy.streams.insert(id);
            // A new Envoy has refused nothing yet.
            envoy.refused.clear();
        });
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
            let speaks = envoy.streams.last() == Some(&self.id);
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
    fn ack(&mut self, type_url: &'static str, revision: &str) {
        self.note(|envoy| {
            envoy.accepted.insert(type_url, serial_of(revision));
            envoy.refused.remove(type_url);
        });
    }

    fn nack(&mut self, nack: &Nack) {
        self.note(|envoy| {
            envoy.refused.insert(nack.type_url, (serial_of(&nack.revision), nack.clone()));
        });
    }

    fn settled_snapshot(&mut self, snapshot: &Arc<Snapshot>) {
        self.note(|envoy| envoy.settled = envoy.settled.max(snapshot.serial));
    }

    fn closed(&mut self) {
        self.shared.envoy.send_modify(|envoy| {
            envoy.streams.remove(&self.id);
            if envoy.streams.is_empty() {
                envoy.absent_since = Instant::now();
            }
        });
    }
}

#[cfg(test)]
mod tests;
