//! The names by which one resource refers to another: what to subscribe to after a listener or a cluster has come.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use prost::{DecodeError, Message, Name};

use crate::Any;

/// The route configurations that a listener's HTTP connection managers fetch by RDS.
///
/// # Errors
/// An HTTP connection manager inside cannot be decoded.
pub fn routes(listener: &Listener) -> Result<BTreeSet<Arc<str>>, DecodeError> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let filters = chains.flat_map(|chain| &chain.filters).filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    let api = listener.api_listener.as_ref().and_then(|api| api.api_listener.as_ref());
    let mut names = BTreeSet::new();
    for any in filters.chain(api) {
        names.extend(rds_name(any)?);
    }
    Ok(names)
}

fn rds_name(any: &Any) -> Result<Option<Arc<str>>, DecodeError> {
    if any.type_url != HttpConnectionManager::type_url() {
        return Ok(None);
    }
    let manager = HttpConnectionManager::decode(any.value.as_slice())?;
    Ok(match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name.into()),
        _ => None,
    })
}

/// The endpoints that a cluster fetches by EDS, if it does.
pub fn endpoints(cluster: &Cluster) -> Option<Arc<str>> {
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
    if cluster.cluster_discovery_type.as_ref() != Some(&eds) {
        return None;
    }
    let named =
        cluster.eds_cluster_config.as_ref().map(|config| config.service_name.as_str()).filter(|name| !name.is_empty());
    Some(named.unwrap_or(&cluster.name).into())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;
    use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain};
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::Rds;

    use super::*;

    fn manager(route: &str) -> Any {
        let rds = Rds { route_config_name: route.into(), ..Default::default() };
        let manager = HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), ..Default::default() };
        Any { type_url: HttpConnectionManager::type_url(), value: manager.encode_to_vec() }
    }

    fn chain(any: Any) -> FilterChain {
        let filter = Filter { config_type: Some(ConfigType::TypedConfig(any)), ..Default::default() };
        FilterChain { filters: vec![filter], ..Default::default() }
    }

    #[test]
    fn every_place_of_a_listener_that_can_name_a_route_is_read() {
        let other = Any { type_url: "type.googleapis.com/x".into(), value: vec![0xff] };
        let mut listener = Listener {
            filter_chains: vec![chain(manager("a")), chain(other)],
            default_filter_chain: Some(chain(manager("b"))),
            api_listener: Some(ApiListener { api_listener: Some(manager("c")) }),
            ..Default::default()
        };
        assert_eq!(routes(&listener).expect("decodable"), ["a", "b", "c"].map(Arc::from).into());
        listener.filter_chains.push(chain(Any { value: vec![0xff], ..manager("d") }));
        assert!(routes(&listener).is_err());
    }

    #[test]
    fn endpoints_are_those_of_the_service_name_or_the_cluster() {
        let mut cluster = Cluster { name: "c".into(), ..Default::default() };
        assert_eq!(endpoints(&cluster), None);
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
        assert_eq!(endpoints(&cluster).as_deref(), Some("c"));
        cluster.eds_cluster_config = Some(EdsClusterConfig { service_name: "s".into(), ..Default::default() });
        assert_eq!(endpoints(&cluster).as_deref(), Some("s"));
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
        assert_eq!(endpoints(&cluster), None);
    }
}
