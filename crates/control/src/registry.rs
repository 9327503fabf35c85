//! Which sidecars can be called: the endpoints that live ADS streams have registered.
//!
//! Pure: every method takes the time. A broken stream keeps its endpoint for a grace period, because a sidecar that merely lost
//! the control plane still serves; saying "not ready" or withdrawing removes it at once. Of several control planes each also knows the
//! endpoints whose streams another one has; when that one is gone, they get the grace period too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weft_model::ServiceName;

/// What a ready sidecar says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Whose endpoint it is; the control plane has checked that the certificate says so too.
    pub service: ServiceName,
    /// Where the sidecar's ingress listens.
    pub address: SocketAddr,
    /// Matched by subsets.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Clone, Debug)]
struct Entry {
    registration: Registration,
    stream: Stream,
    /// The other control plane that says it has a stream of it.
    other: Option<Arc<str>>,
}

/// The stream at this control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Lives,
    /// When it broke, and nobody else has another.
    Lost(Instant),
    /// Another control plane has one.
    Elsewhere,
}

impl Entry {
    fn lost_at(&self) -> Option<Instant> {
        match self.stream {
            Stream::Lost(at) => Some(at),
            Stream::Lives | Stream::Elsewhere => None,
        }
    }
}

/// Endpoints by node id.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<Arc<str>, Entry>,
}

/// Services whose set of endpoints a change touched.
pub type Touched = BTreeSet<ServiceName>;

impl Registry {
    /// What an earlier run of the control plane knew. Every entry gets the grace period from `now`, in which its sidecar should
    /// come back; without this a restarted control plane would tell the first sidecar that nobody else exists.
    pub fn restore(saved: impl IntoIterator<Item = (Arc<str>, Registration)>, now: Instant) -> Self {
        let entry = |registration| Entry { registration, stream: Stream::Lost(now), other: None };
        Self { entries: saved.into_iter().map(|(node, registration)| (node, entry(registration))).collect() }
    }

    /// A live stream of `node` says that it is ready. Whoever held the same address before is gone: the address is the proof.
    pub fn register(&mut self, node: &Arc<str>, registration: Registration) -> Touched {
        self.put(node, Entry { registration, stream: Stream::Lives, other: None })
    }

    /// Another control plane says that it has a stream of `node`. A stream that lives here goes on; what it says counts here.
    pub fn elsewhere(&mut self, node: &Arc<str>, registration: Registration, other: &Arc<str>) -> Touched {
        let other = Some(other.clone());
        match self.entries.get_mut(node) {
            Some(entry) if entry.stream == Stream::Lives => {
                entry.other = other;
                Touched::new()
            }
            _ => self.put(node, Entry { registration, stream: Stream::Elsewhere, other }),
        }
    }

    /// An endpoint of a control plane that is gone, if nothing newer is known of it.
    pub fn left_behind(&mut self, node: &Arc<str>, registration: Registration, now: Instant) -> Touched {
        if self.entries.contains_key(node) {
            return Touched::new();
        }
        self.put(node, Entry { registration, stream: Stream::Lost(now), other: None })
    }

    /// Another control plane has taken `node` out. A stream that lives here speaks for itself, unless that was `asked` for: by the sidecar.
    pub fn gone_elsewhere(&mut self, node: &str, asked: bool) -> Touched {
        match self.entries.get_mut(node) {
            Some(entry) if entry.stream == Stream::Lives && !asked => {
                entry.other = None;
                Touched::new()
            }
            _ => self.remove(node),
        }
    }

    /// Another control plane is gone: its sidecars have the grace period to come to one that is left. Whether there were any.
    pub fn server_lost(&mut self, server: &str, now: Instant) -> bool {
        let mut any = false;
        for entry in self.entries.values_mut().filter(|entry| entry.other.as_deref() == Some(server)) {
            entry.other = None;
            if entry.stream == Stream::Elsewhere {
                entry.stream = Stream::Lost(now);
            }
            any = true;
        }
        any
    }

    /// What this control plane is to tell the others: the endpoints that have their only stream here.
    pub fn own(&self) -> impl Iterator<Item = (&Arc<str>, &Registration)> {
        let own = self.entries.iter().filter(|(_, entry)| entry.stream == Stream::Lives && entry.other.is_none());
        own.map(|(node, entry)| (node, &entry.registration))
    }

    /// Whether anything is known of `node`.
    pub fn knows(&self, node: &str) -> bool {
        self.entries.contains_key(node)
    }

    fn put(&mut self, node: &Arc<str>, new: Entry) -> Touched {
        let mut touched = Touched::new();
        let address = new.registration.address;
        self.entries.retain(|other, entry| {
            let stays = other == node || entry.registration.address != address;
            if !stays {
                touched.insert(entry.registration.service.clone());
            }
            stays
        });
        match self.entries.insert(node.clone(), new.clone()) {
            Some(before) if before.registration == new.registration => {}
            before => {
                touched.extend(before.map(|entry| entry.registration.service));
                touched.insert(new.registration.service);
            }
        }
        touched
    }

    /// `node` is not ready or has withdrawn.
    pub fn remove(&mut self, node: &str) -> Touched {
        self.entries.remove(node).map(|entry| entry.registration.service).into_iter().collect()
    }

    /// The stream of `node` broke. It stays registered until [`Registry::expire`] finds that its grace is over.
    pub fn lost(&mut self, node: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(node).filter(|entry| entry.stream == Stream::Lives) {
            entry.stream = if entry.other.is_some() { Stream::Elsewhere } else { Stream::Lost(now) };
        }
    }

    /// Removes what has been lost for `grace`.
    pub fn expire(&mut self, now: Instant, grace: Duration) -> Touched {
        let mut touched = Touched::new();
        self.entries.retain(|_, entry| {
            let stays = entry.lost_at().is_none_or(|at| now.saturating_duration_since(at) < grace);
            if !stays {
                touched.insert(entry.registration.service.clone());
            }
            stays
        });
        touched
    }

    /// When [`Registry::expire`] will next have something to do.
    pub fn next_expiry(&self, grace: Duration) -> Option<Instant> {
        self.entries.values().filter_map(Entry::lost_at).min().map(|at| at + grace)
    }

    /// Every endpoint with its node id, in the order of node ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Registration)> {
        self.entries.iter().map(|(node, entry)| (node, &entry.registration))
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn board(port: u16) -> Registration {
        Registration {
            service: "prod/board".parse().expect("legal"),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            labels: BTreeMap::from([("version".into(), "v1".into())]),
        }
    }

    fn touched(names: &[&str]) -> Touched {
        names.iter().map(|name| name.parse().expect("legal")).collect()
    }

    #[test]
    fn a_broken_stream_keeps_its_endpoint_for_the_grace_period_only() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        let node: Arc<str> = "prod/board~a".into();
        assert_eq!(registry.register(&node, board(1)), touched(&["prod/board"]));
        registry.lost(&node, start);
        registry.lost(&node, start + GRACE); // a second report does not extend the grace
        assert_eq!(registry.next_expiry(GRACE), Some(start + GRACE));
        assert_eq!(registry.expire(start + GRACE - Duration::from_millis(1), GRACE), touched(&[]));
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.expire(start + GRACE, GRACE), touched(&["prod/board"]));
        assert!(registry.is_empty());
    }

    #[test]
    fn coming_back_within_the_grace_touches_nothing() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        let node: Arc<str> = "prod/board~a".into();
        registry.register(&node, board(1));
        registry.lost(&node, start);
        assert_eq!(registry.register(&node, board(1)), touched(&[]));
        assert_eq!(registry.expire(start + GRACE * 2, GRACE), touched(&[]));
        assert_eq!(registry.len(), 1);
    }

    #[test]
    fn not_ready_removes_at_once() {
        let mut registry = Registry::default();
        let node: Arc<str> = "prod/board~a".into();
        registry.register(&node, board(1));
        assert_eq!(registry.remove(&node), touched(&["prod/board"]));
        assert_eq!(registry.remove(&node), touched(&[]));
    }

    #[test]
    fn an_address_belongs_to_the_last_who_proved_it() {
        let mut registry = Registry::default();
        registry.register(&"prod/board~a".into(), board(1));
        registry.register(&"prod/board~b".into(), board(1));
        let nodes: Vec<_> = registry.iter().map(|(node, _)| node.to_string()).collect();
        assert_eq!(nodes, ["prod/board~b"]);
    }

    #[test]
    fn a_restored_registry_waits_for_its_sidecars() {
        let start = Instant::now();
        let mut registry =
            Registry::restore([("prod/board~a".into(), board(1)), ("prod/board~b".into(), board(2))], start);
        registry.register(&"prod/board~a".into(), board(1));
        assert_eq!(registry.expire(start + GRACE, GRACE), touched(&["prod/board"]));
        let nodes: Vec<_> = registry.iter().map(|(node, _)| node.to_string()).collect();
        assert_eq!(nodes, ["prod/board~a"]);
    }

    #[test]
    fn an_endpoint_that_another_server_has_stays_until_that_is_gone_for_the_grace_period() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        let (node, other): (Arc<str>, Arc<str>) = ("prod/board~a".into(), "s2".into());
        registry.register(&node, board(1));
        assert_eq!(registry.own().count(), 1);
        // It moves to the other one, which says so before the stream here is seen to be broken.
        assert_eq!(registry.elsewhere(&node, board(1), &other), touched(&[]));
        assert_eq!(registry.own().count(), 0);
        registry.lost(&node, start);
        assert_eq!(registry.next_expiry(GRACE), None);
        assert!(registry.server_lost("s2", start) && !registry.server_lost("s2", start + GRACE));
        assert_eq!(registry.next_expiry(GRACE), Some(start + GRACE));
        assert_eq!(registry.elsewhere(&node, board(1), &"s3".into()), touched(&[]));
        assert_eq!(registry.next_expiry(GRACE), None);
        assert_eq!(registry.gone_elsewhere(&node, false), touched(&["prod/board"]));
    }

    #[test]
    fn a_stream_that_lives_here_outweighs_what_others_say_unless_the_sidecar_asked() {
        let mut registry = Registry::default();
        let node: Arc<str> = "prod/board~a".into();
        registry.elsewhere(&node, board(1), &"s2".into());
        assert_eq!(registry.own().count(), 0);
        assert_eq!(registry.register(&node, board(1)), touched(&[]));
        assert_eq!(registry.own().count(), 1);
        assert_eq!(registry.gone_elsewhere(&node, false), touched(&[]));
        assert_eq!(registry.left_behind(&node, board(2), Instant::now()), touched(&[]));
        assert_eq!(registry.gone_elsewhere(&node, true), touched(&["prod/board"]));
    }
}
