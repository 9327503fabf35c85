//! Services of other trust domains: a cluster that only the named identity may answer, and the host by which it is called.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weft_model::Intent;
use weft_model::intent::{App, Authorization, Endpoints, ForeignService, Paths, Protocol, Service, ServiceIdentity};
use weft_xds::Resource;

use crate::{cluster, route};

/// What a sidecar needs to call one.
pub(crate) struct Foreign {
    pub(crate) cluster: Arc<Resource>,
    /// The encoded virtual host.
    pub(crate) host: Bytes,
}

/// Those of all trust domains.
pub(crate) fn all(intent: &Intent) -> Vec<Foreign> {
    let all = intent.trust_domains.values().flat_map(|domain| &domain.services);
    let one = |foreign: &ForeignService| {
        let service = as_service(foreign);
        Foreign {
            cluster: cluster::foreign(&foreign.id, &service, &foreign.addresses),
            host: route::virtual_host(&service, intent.mesh.defaults.timeout, false).encode_to_vec().into(),
        }
    };
    all.map(one).collect()
}

/// To those who call it, it is a service like others: HTTP, without subsets and routes.
fn as_service(foreign: &ForeignService) -> Service {
    Service {
        attest: Vec::new(),
        identity: ServiceIdentity::default(),
        name: foreign.name.clone(),
        attributes: BTreeMap::new(),
        port: foreign.port,
        protocol: Protocol::Http,
        app: App::default(),
        mtls: weft_model::Mtls::default(),
        paths: Paths::default(),
        authorization: Authorization::default(),
        endpoints: Endpoints::Static(Vec::new()),
        subsets: BTreeMap::new(),
        access: Vec::new(),
        routes: Vec::new(),
        span: foreign.span.clone(),
        access_span: foreign.span.clone(),
    }
}
