//! Which sidecars can be called: the endpoints that live ADS streams have registered.
//!
//! Pure: every method takes the time. A broken stream keeps its endpoint for a grace period, because a sidecar that merely lost
//! the control plane still serves; saying "not ready" or withdrawing removes it at once.

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
    /// When the stream broke; `None` while it lives.
    lost_at: Option<Instant>,
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
        let entry = |registration| Entry { registration, lost_at: Some(now) };
        Self { entries: saved.into_iter().map(|(node, registration)| (node, entry(registration))).collect() }
    }

    /// A live stream of `node` says that it is ready. Whoever held the same address before is gone: the address is the proof.
    pub fn register(&mut self, node: &Arc<str>, registration: Registration) -> Touched {
        let mut touched = Touched::new();
        let address = registration.address;
        self.entries.retain(|other, entry| {
            let stays = other == node || entry.registration.address != address;
            if !stays {
                touched.insert(entry.registration.service.clone());
            }
            stays
        });
        match self.entries.get_mut(node) {
            Some(entry) if entry.registration == registration => entry.lost_at = None,
            Some(entry) => {
                touched.insert(entry.registration.service.clone());
                touched.insert(registration.service.clone());
                *entry = Entry { registration, lost_at: None };
            }
            None => {
                touched.insert(registration.service.clone());
                self.entries.insert(node.clone(), Entry { registration, lost_at: None });
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
        if let Some(entry) = self.entries.get_mut(node) {
            entry.lost_at.get_or_insert(now);
        }
    }

    /// Removes what has been lost for `grace`.
    pub fn expire(&mut self, now: Instant, grace: Duration) -> Touched {
        let mut touched = Touched::new();
        self.entries.retain(|_, entry| {
            let stays = entry.lost_at.is_none_or(|at| now.saturating_duration_since(at) < grace);
            if !stays {
                touched.insert(entry.registration.service.clone());
            }
            stays
        });
        touched
    }

    /// When [`Registry::expire`] will next have something to do.
    pub fn next_expiry(&self, grace: Duration) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.lost_at).min().map(|at| at + grace)
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
}
