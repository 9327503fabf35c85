//! Which certificates are out: for each node, when the newest one that was issued to it ends.
//!
//! A sidecar whose certificate has run out has no way left to say so, and a control plane that was away when that happened has never
//! seen it. Both are told of here. Pure: every method takes the time, in seconds since the Unix epoch.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_model::SpiffeId;

use crate::status::ProxyStatus;

/// How long one that has run out is told of: somebody should have seen it after a day.
const KEEP: u64 = 24 * 3600;
/// Between two looks for those that are forgotten, in seconds: a look is at all of them, and certificates are issued by the thousand.
const SWEEP: u64 = 60;
/// The most nodes that are remembered.
const MOST: usize = 65_536;
/// What is said of a node whose certificate has run out.
const EXPIRED: &str = "identity_expired";

/// A certificate that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    /// Its SPIFFE ID.
    pub(crate) identity: String,
    /// `namespace/name`.
    pub(crate) service: String,
    /// When it ends.
    pub(crate) not_after: u64,
}

/// Certificates by node id.
#[derive(Debug, Default)]
pub(crate) struct Issued {
    nodes: HashMap<Arc<str>, Certificate>,
    /// When those were last forgotten that ended long ago.
    swept: u64,
}

impl Issued {
    /// What an earlier run of the control plane knew.
    pub(crate) fn restore(saved: HashMap<Arc<str>, Certificate>) -> Self {
        Self { nodes: saved, swept: 0 }
    }

    /// What is to be saved.
    pub(crate) fn nodes(&self) -> &HashMap<Arc<str>, Certificate> {
        &self.nodes
    }

    /// A certificate of `id` was issued. `node` is what the workload calls itself; only a name under its own service counts.
    pub(crate) fn issue(&mut self, id: &SpiffeId, node: &str, not_after: u64, now: u64) -> bool {
        let Some(service) = id.service() else { return false };
        if !crate::node::is_of(node, &service) {
            return false;
        }
        if now.saturating_sub(self.swept) >= SWEEP {
            let ended_lately = |certificate: &mut Certificate| now.saturating_sub(certificate.not_after) < KEEP;
            self.nodes.retain(|_, certificate| ended_lately(certificate));
            self.swept = now;
        }
        if self.nodes.len() >= MOST && !self.nodes.contains_key(node) {
            return false;
        }
        let certificate = Certificate { identity: id.to_string(), service: service.to_string(), not_after };
        self.nodes.insert(node.into(), certificate);
        true
    }

    /// The node has said goodbye: that its certificate runs out is no news. Returns whether it was known.
    pub(crate) fn forget(&mut self, node: &str) -> bool {
        self.nodes.remove(node).is_some()
    }

    /// `proxies`, with what is known of their certificates, and after them the nodes that are not among them because their certificates
    /// have run out.
    pub(crate) fn complete(&self, mut proxies: Vec<ProxyStatus>, now: u64) -> Vec<ProxyStatus> {
        for proxy in &mut proxies {
            let issued = self.nodes.get(&*proxy.node).map(|certificate| certificate.not_after);
            proxy.certificate_expires = proxy.certificate_expires.max(issued);
            proxy.cause = proxy.certificate_expires.filter(|end| *end < now).map(|_| EXPIRED.to_owned());
        }
        let known = |node: &str| proxies.iter().any(|proxy| proxy.node == node);
        let mut silent: Vec<ProxyStatus> = self
            .nodes
            .iter()
            .filter(|(node, certificate)| certificate.not_after < now && !known(node))
            .map(|(node, certificate)| silent(node, certificate))
            .collect();
        silent.sort_by(|one, other| one.node.cmp(&other.node));
        proxies.extend(silent);
        proxies
    }
}

/// A node of which nothing is known but its certificate.
fn silent(node: &str, certificate: &Certificate) -> ProxyStatus {
    ProxyStatus {
        node: node.to_owned(),
        service: certificate.service.clone(),
        identity: certificate.identity.clone(),
        certificate_expires: Some(certificate.not_after),
        cause: Some(EXPIRED.to_owned()),
        state: "lost".to_owned(),
        since: certificate.not_after,
        ..ProxyStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://acme.internal/ns/prod/sa/{name}").parse().expect("legal")
    }

    fn proxy(node: &str, certificate_expires: Option<u64>) -> ProxyStatus {
        ProxyStatus { node: node.to_owned(), certificate_expires, connected: true, ..ProxyStatus::default() }
    }

    #[test]
    fn a_node_whose_certificate_ran_out_is_told_of_whether_it_is_there_or_not() {
        let mut issued = Issued::default();
        assert!(issued.issue(&id("web"), "prod/web~a", 100, 50));
        assert!(issued.issue(&id("board"), "prod/board~a", 100, 50));
        assert!(issued.issue(&id("board"), "prod/board~b", 200, 50));
        let there = || vec![proxy("prod/board~a", Some(100)), proxy("prod/board~g", None)];
        let told = |now| {
            let rows = issued.complete(there(), now).into_iter();
            rows.map(|row| (row.node, row.cause.is_some(), row.connected)).collect::<Vec<_>>()
        };
        let row = |node: &str, expired, connected| (node.to_owned(), expired, connected);
        let both = [row("prod/board~a", false, true), row("prod/board~g", false, true)];
        assert_eq!(told(100), both, "the last second of a certificate counts");
        assert_eq!(told(101), [row("prod/board~a", true, true), both[1].clone(), row("prod/web~a", true, false)]);
    }

    #[test]
    fn a_renewal_an_end_that_was_told_of_and_a_farewell_are_no_news() {
        let mut issued = Issued::default();
        assert!(issued.issue(&id("web"), "prod/web~a", 100, 50));
        assert!(issued.issue(&id("web"), "prod/web~a", 150, 90));
        assert!(issued.complete(Vec::new(), 120).is_empty(), "it was renewed");
        assert_eq!(issued.complete(Vec::new(), 160).len(), 1);
        assert!(issued.forget("prod/web~a") && !issued.forget("prod/web~a"));
        assert!(issued.issue(&id("web"), "prod/web~a", 100, 50));
        assert!(issued.issue(&id("web"), "prod/web~b", 100 + 2 * KEEP, 100 + KEEP));
        assert_eq!(issued.nodes().len(), 1, "a day later");
    }

    #[test]
    fn nobody_is_told_of_in_anothers_name() {
        let mut issued = Issued::default();
        for node in ["prod/board~a", "prod/web", "prod/webx~a", "prod/web~\n", ""] {
            assert!(!issued.issue(&id("web"), node, 100, 50), "{node:?}");
        }
        let long = format!("prod/web~{}", "x".repeat(300));
        assert!(!issued.issue(&id("web"), &long, 100, 50));
        assert!(issued.nodes().is_empty());
    }
}
