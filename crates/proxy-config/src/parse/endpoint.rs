//! EDS: `ClusterLoadAssignment`.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use envoy_types::pb::google::protobuf::value::Kind;

use super::socket_address;
use super::strict::{NOT_SUPPORTED, Path, Refused, named, uint32};
use crate::cluster::{Endpoint, Endpoints};

/// The name of the cluster and its usable endpoints.
///
/// Localities are read as one list: without zone-aware or locality-weighted balancing, which no cluster here can ask
/// for, Envoy does not look at them either.
pub(crate) fn assignment(mut given: ClusterLoadAssignment, at: &Path<'_>) -> Result<(Arc<str>, Endpoints), Refused> {
    let name = named(&mut given.cluster_name, &at.field("cluster_name"))?;
    let mut list = Vec::new();
    let localities = at.field("endpoints");
    for (index, mut locality) in take(&mut given.endpoints).into_iter().enumerate() {
        let at = &localities.index(index);
        locality.locality = None;
        locality.load_balancing_weight = None;
        let endpoints = at.field("lb_endpoints");
        for (index, endpoint) in take(&mut locality.lb_endpoints).into_iter().enumerate() {
            list.extend(lb_endpoint(endpoint, &endpoints.index(index))?);
        }
        at.rest(&locality)?;
    }
    at.rest(&given)?;
    Ok((name, Endpoints::new(list)))
}

/// `None` for one that must not be used now.
fn lb_endpoint(mut given: LbEndpoint, at: &Path<'_>) -> Result<Option<Endpoint>, Refused> {
    let usable = match HealthStatus::try_from(take(&mut given.health_status)) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => true,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => false,
        _ => return Err(at.field("health_status").refuse(NOT_SUPPORTED)),
    };
    let weight = uint32(given.load_balancing_weight.take()).unwrap_or(1);
    if weight == 0 {
        return Err(at.field("load_balancing_weight").refuse("must be at least 1"));
    }
    let labels = labels(given.metadata.take(), &at.field("metadata"))?;
    let Some(HostIdentifier::Endpoint(mut endpoint)) = given.host_identifier.take() else {
        return Err(at.field("endpoint").refuse("required"));
    };
    let address = {
        let at = &at.field("endpoint");
        let address = socket_address(endpoint.address.take(), &at.field("address"))?;
        if address.port() == 0 {
            return Err(at.field("address").field("socket_address").field("port_value").refuse("must not be 0"));
        }
        at.rest(&endpoint)?;
        address
    };
    at.rest(&given)?;
    Ok(usable.then_some(Endpoint { address, weight, labels }))
}

/// The strings of `envoy.lb`; nothing else reads the metadata of an endpoint.
fn labels(given: Option<Metadata>, at: &Path<'_>) -> Result<BTreeMap<Arc<str>, Arc<str>>, Refused> {
    let mut given = given.unwrap_or_default();
    let at_filter = at.field("filter_metadata");
    let labels = given.filter_metadata.remove("envoy.lb").unwrap_or_default();
    let labels = labels
        .fields
        .into_iter()
        .map(|(key, value)| match value.kind {
            Some(Kind::StringValue(text)) => Ok((key.into(), text.into())),
            _ => Err(at_filter
                .key("envoy.lb")
                .field("fields")
                .key(&key)
                .refuse("only strings are supported by this proxy")),
        })
        .collect::<Result<_, _>>()?;
    if let Some(namespace) = given.filter_metadata.keys().min() {
        return Err(at_filter.key(namespace).refuse(NOT_SUPPORTED));
    }
    at.rest(&given)?;
    Ok(labels)
}
