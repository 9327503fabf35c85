//! The names of compiled things. They stand in log lines and metrics, so they are the ones that people know from Istio.

use std::sync::Arc;

use weft_model::ServiceName;
use weft_model::intent::Service;

/// `outbound|8080||board.prod`, or `outbound|8080|v1|board.prod` for a subset.
pub fn outbound_cluster(service: &Service, subset: Option<&str>) -> Arc<str> {
    format!("outbound|{}|{}|{}", service.port, subset.unwrap_or_default(), service.name.host()).into()
}

/// `inbound|8080||`: the app behind a sidecar.
pub fn inbound_cluster(service: &Service) -> Arc<str> {
    format!("inbound|{}||", service.port).into()
}

/// `board.prod:8080`: the virtual host of a service.
pub(crate) fn virtual_host(service: &Service) -> String {
    format!("{}:{}", service.name.host(), service.port)
}

/// The hosts by which a service is called, without port: `board.prod`, `board.prod.mesh`, and `board` from its own namespace.
pub(crate) fn hosts(name: &ServiceName, from_own_namespace: bool) -> Vec<String> {
    let host = name.host();
    let mut hosts = vec![format!("{host}.mesh"), host];
    if from_own_namespace {
        hosts.push(name.name().to_owned());
    }
    hosts.reverse();
    hosts
}
