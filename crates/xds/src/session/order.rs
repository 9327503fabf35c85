//! The order of an update that breaks nothing (xDS protocol, "Eventual consistency considerations"): what is referred to comes before
//! what refers to it, and goes after it.
//!
//! Clusters, their endpoints, listeners, routes; then the clusters and endpoints that nothing refers to any more are taken away.

use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, POLICY_BUNDLE, REVISION, ROUTE, SECRET};

/// The types that must be settled before a new or changed resource of this type goes out.
///
/// Endpoints go out after their clusters, but not only when those are answered for: Envoy answers for a cluster that it rebuilds when it
/// has its endpoints, and would wait in vain for them.
pub(super) fn before_change(type_url: &str) -> &'static [&'static str] {
    match type_url {
        // A listener that opens before its policy is there would deny for a moment.
        LISTENER => &[POLICY_BUNDLE, CLUSTER, ENDPOINT],
        ROUTE => &[CLUSTER, ENDPOINT, LISTENER],
        REVISION => &[SECRET, POLICY_BUNDLE, CLUSTER, ENDPOINT, LISTENER, ROUTE],
        _ => &[],
    }
}

/// The types that must be settled, and not refused, before a resource of this type is taken away: they may still refer to it.
pub(super) fn before_removal(type_url: &str) -> &'static [&'static str] {
    match type_url {
        CLUSTER => &[LISTENER, ROUTE],
        ENDPOINT => &[CLUSTER, LISTENER, ROUTE],
        ROUTE => &[LISTENER],
        _ => &[],
    }
}

/// Types that a first request without names subscribes to as a whole (the legacy wildcard). Endpoints, routes and secrets are only
/// ever asked for by name, or by an explicit `*`.
pub(super) fn legacy_wildcard(type_url: &str) -> bool {
    matches!(type_url, LISTENER | CLUSTER | POLICY_BUNDLE | REVISION)
}

/// Types of which a state-of-the-world response must hold every resource that the client should have; absence is removal.
pub(super) fn full_state(type_url: &str) -> bool {
    matches!(type_url, LISTENER | CLUSTER)
}
