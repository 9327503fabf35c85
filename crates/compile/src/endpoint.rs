//! Where the sidecars of a service are: endpoints into `ClusterLoadAssignment`s.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3 as pb_endpoint;
use weft_model::ServiceName;
use weft_model::intent::StaticEndpoint;
use weft_xds::{Resource, type_url};

use crate::pb::{socket_address, text, uint32};
use crate::wire;

/// Labels of an endpoint, like `version: v1`.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// One sidecar that serves a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of its ingress.
    pub address: SocketAddr,
    /// Matched by subsets.
    pub labels: Labels,
    /// Which instance it is, for people; not compiled into anything.
    pub id: Arc<str>,
}

/// The registered endpoints of every service. Services with written-down endpoints need none; others without any are known but
/// cannot be reached.
///
/// A list behind the same `Arc` as before is taken as unchanged without looking at it.
pub type EndpointSet = BTreeMap<ServiceName, Arc<[Endpoint]>>;

/// The assignment of one cluster: the endpoints that carry all of `wanted`, sorted by address, each address once.
pub(crate) fn assignment(cluster: &str, endpoints: &[Endpoint], wanted: Option<&Labels>) -> Arc<Resource> {
    let carries_wanted = |endpoint: &&Endpoint| wanted.is_none_or(|wanted| carries(&endpoint.labels, wanted));
    let mut chosen: Vec<_> =
        endpoints.iter().filter(carries_wanted).map(|endpoint| (endpoint.address, &endpoint.labels)).collect();
    chosen.sort();
    chosen.dedup_by_key(|(address, _)| *address);
    let localities = if chosen.is_empty() {
        Vec::new()
    } else {
        vec![wire::LocalityLbEndpoints {
            locality: Some(Locality::default()),
            lb_endpoints: chosen.into_iter().map(|(address, labels)| lb_endpoint(address, labels)).collect(),
            load_balancing_weight: uint32(1),
        }]
    };
    let message = wire::ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints: localities };
    Resource::new(type_url::ENDPOINT, cluster, &message)
}

/// The endpoints that stand in the intent.
pub(crate) fn written_down(list: &[StaticEndpoint]) -> Arc<[Endpoint]> {
    let endpoint = |written: &StaticEndpoint| Endpoint {
        address: written.address,
        labels: written.labels.clone(),
        id: written.address.to_string().into(),
    };
    list.iter().map(endpoint).collect()
}

fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Labels travel as `envoy.lb` metadata, which Envoy's subset balancer and our metrics read.
fn lb_endpoint(address: SocketAddr, labels: &Labels) -> wire::LbEndpoint {
    let metadata = (!labels.is_empty()).then(|| {
        let fields = labels.iter().map(|(key, value)| (key.to_string(), text(value))).collect();
        wire::Metadata { filter_metadata: BTreeMap::from([("envoy.lb".to_owned(), wire::Struct { fields })]) }
    });
    let endpoint = pb_endpoint::Endpoint { address: socket_address(address), ..Default::default() };
    wire::LbEndpoint { endpoint: Some(endpoint), metadata }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb_endpoint::lb_endpoint::HostIdentifier;

    fn endpoint(port: u16, labels: &[(&str, &str)]) -> Endpoint {
        Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            labels: labels.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
            id: "x".into(),
        }
    }

    fn ports(resource: &Resource) -> Vec<String> {
        let message: pb_endpoint::ClusterLoadAssignment = resource.decode().unwrap();
        let all = message.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        all.map(|endpoint| match endpoint.host_identifier.clone() {
            Some(HostIdentifier::Endpoint(endpoint)) => format!("{:?}", endpoint.address.unwrap().address.unwrap()),
            other => panic!("{other:?}"),
        })
        .map(|address| address.split("PortValue(").nth(1).unwrap().split(')').next().unwrap().to_owned())
        .collect()
    }

    #[test]
    fn a_subset_has_the_endpoints_that_carry_all_its_labels() {
        let all = [
            endpoint(3, &[("version", "v1"), ("zone", "a")]),
            endpoint(1, &[("version", "v1")]),
            endpoint(2, &[("version", "v2")]),
        ];
        assert_eq!(ports(&assignment("c", &all, None)), ["1", "2", "3"]);
        assert_eq!(ports(&assignment("c", &all, Some(&all[1].labels))), ["1", "3"]);
        assert_eq!(ports(&assignment("c", &all, Some(&all[0].labels))), ["3"]);
        assert_eq!(ports(&assignment("c", &all, Some(&endpoint(1, &[("version", "v9")]).labels))), [""; 0]);
    }

    #[test]
    fn order_and_repetition_of_the_registry_change_nothing() {
        let (a, b) = (endpoint(1, &[("version", "v1"), ("zone", "a")]), endpoint(2, &[]));
        let one = assignment("c", &[a.clone(), b.clone()], None);
        assert_eq!(one, assignment("c", &[b.clone(), a.clone(), b], None));
        assert_eq!(one, assignment("c", &[endpoint(2, &[]), Endpoint { id: "other".into(), ..a }], None));
    }
}
