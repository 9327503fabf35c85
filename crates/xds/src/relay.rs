//! Feeds a local Envoy with what a [`Client`](crate::Client) receives, and answers upstream with what Envoy says to it.
//!
//! The relay is both ends at once: a [`Sink`] for the client, and a [`Directory`] for an [`AdsServer`](crate::AdsServer) on a Unix
//! socket whose permissions say who may connect. Envoy therefore survives a dead control plane, and can be started without one from the
//! client's cache. What Envoy refuses is taken back locally, so that a restarted Envoy gets what the old one ran on.
//!
//! An update waits for Envoy's answer, but not for ever: an Envoy that is away or stuck must not keep the agent from newer
//! configuration, of which the server sends nothing while it waits. So after [`PATIENCE`] the update is accepted, and each of its
//! resources stays `open` with what was in force before. A refusal that comes later cannot go upstream by itself: in xDS a NACK
//! is the answer to one response, and that one has been answered. It is taken back all the same, and the client is [told](Sink::late)
//! to ask for the resource again; the response to that is refused at once, in Envoy's words.

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
use crate::{
    Directory, Nack, Node, Observer, Rejection, Resource, Sink, Snapshot, Subscription, TakenBack, Update, references,
};

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
    refused: BTreeMap<&'static str, u64>,
    /// What Envoy has not answered for.
    open: BTreeMap<Key, Open>,
    /// What it refused and is not taken back yet.
    refusals: Vec<Refusal>,
    /// Versions that were refused late, and the reason, until they come again.
    told_late: BTreeMap<Key, (Arc<str>, String)>,
}

type Key = (&'static str, Arc<str>);

/// A version of a resource that Envoy has been given, and may still refuse.
#[derive(Clone)]
struct Open {
    /// The first state that has this version.
    serial: u64,
    version: Arc<str>,
    /// The last that Envoy has accepted, if any.
    before: Option<Arc<Resource>>,
}

/// A version that Envoy refused.
struct Refusal {
    key: Key,
    open: Open,
    reason: String,
}

impl Envoy {
    /// Envoy is about to be given this version instead of `before`.
    fn opens(&mut self, serial: u64, type_url: &'static str, resource: &Resource, before: Option<&Arc<Resource>>) {
        let key = (type_url, resource.name.clone());
        let known = self.open.get(&key);
        let newest = known.map(|open| &open.version).or(before.map(|before| &before.version));
        if newest == Some(&resource.version) {
            return;
        }
        let before = known.map_or(before, |open| open.before.as_ref()).cloned();
        self.open.insert(key, Open { serial, version: resource.version.clone(), before });
    }

    /// Envoy has answered for all that it was given of this type up to a state.
    fn closes(&mut self, type_url: &'static str, serial: u64) {
        self.open.retain(|key, open| key.0 != type_url || open.serial > serial);
    }

    /// Envoy has refused a response that was made from the state `serial`.
    fn refuses(&mut self, serial: u64, nack: &Nack) {
        let type_url = nack.type_url;
        let refusal = |Rejection { name, reason }: Rejection| {
            let key = (type_url, name);
            let open = self.open.get(&key).filter(|open| open.serial <= serial)?.clone();
            Some(Refusal { key, open, reason })
        };
        let mut refusals: Vec<Refusal> = blame(nack).into_iter().filter_map(&refusal).collect();
        if refusals.is_empty() {
            // It names nothing that is new, so all of that is to blame.
            let all = nack.resources.iter().map(|name| Rejection { name: name.clone(), reason: nack.reason.clone() });
            refusals = all.filter_map(refusal).collect();
        }
        self.refusals.append(&mut refusals);
        self.closes(type_url, serial);
        self.refused.insert(type_url, serial);
    }
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
        let envoy = Envoy {
            streams: BTreeSet::new(),
            opened: 0,
            absent_since: Instant::now(),
            settled: 0,
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
            open: BTreeMap::new(),
            refusals: Vec::new(),
            told_late: BTreeMap::new(),
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
                let answered = [envoy.refused.get(type_url), envoy.accepted.get(type_url), Some(&envoy.settled)];
                if answered.into_iter().flatten().any(|answered| *answered >= serial) {
                    return Answer::Given;
                }
                if envoy.streams.is_empty() { deadline.min(envoy.absent_since + PATIENCE) } else { deadline }
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
                match envoy.told_late.remove(&(type_url, resource.name.clone())) {
                    Some((version, reason)) if version == resource.version => {
                        bad.push(Rejection { name: resource.name.clone(), reason });
                    }
                    _ => good.push(resource),
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
                envoy.open.remove(&(type_url, name.clone()));
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
            let first = envoy.borrow_and_update().refusals.first().map(|refusal| refusal.key.0);
            if let Some(type_url) = first {
                let refused = self.take_back(|key| key.0 == type_url);
                let mut in_force = Vec::new();
                self.0.envoy.send_if_modified(|envoy| {
                    for Refusal { key, open, reason } in refused {
                        tracing::warn!(r#type = type_url, name = %key.1, %reason, "Envoy refuses what was already accepted for it");
                        in_force.push((key.1.clone(), open.before));
                        envoy.told_late.insert(key, (open.version, reason));
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
            envoy.told_late.clear();
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
            envoy.closes(type_url, serial_of(revision));
            envoy.accepted.insert(type_url, serial_of(revision));
        });
    }

    fn nack(&mut self, nack: &Nack) {
        self.note(|envoy| envoy.refuses(serial_of(&nack.revision), nack));
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
