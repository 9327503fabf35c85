//! The resource types that Weft moves, by their type URL.

/// `envoy.config.listener.v3.Listener` (LDS).
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `envoy.config.route.v3.RouteConfiguration` (RDS).
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// `envoy.config.cluster.v3.Cluster` (CDS).
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS).
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// `envoy.extensions.transport_sockets.tls.v3.Secret` (SDS).
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The authorization policy of one service, for our own data plane.
pub const POLICY_BUNDLE: &str = "type.googleapis.com/weft.policy.v1.Bundle";
/// The commit that all the other resources come from, for our own data plane.
pub const REVISION: &str = "type.googleapis.com/weft.mesh.v1.Revision";

/// Every type, in the order in which a make-before-break update goes out; [`REVISION`] is last, so whoever sees it has the rest.
pub const ALL: [&str; 7] = [SECRET, POLICY_BUNDLE, CLUSTER, ENDPOINT, LISTENER, ROUTE, REVISION];

/// The constant equal to `url`, or `None` for a type that Weft does not know.
pub fn intern(url: &str) -> Option<&'static str> {
    ALL.into_iter().find(|known| *known == url)
}

/// The short name that people use, like `CDS`; the URL itself for an unknown type.
pub fn short(url: &str) -> &str {
    match url {
        LISTENER => "LDS",
        ROUTE => "RDS",
        CLUSTER => "CDS",
        ENDPOINT => "EDS",
        SECRET => "SDS",
        POLICY_BUNDLE => "policy",
        REVISION => "revision",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_interns_to_itself_and_others_do_not() {
        for url in ALL {
            assert_eq!(intern(url), Some(url));
        }
        assert_eq!(intern("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"), None);
        assert_eq!(intern(""), None);
    }
}
