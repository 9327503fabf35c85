//! One commit, ready to be compiled for any number of proxies: what does not depend on the proxy is encoded once and shared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use prost::Message;
use weft_model::intent::{self, Protocol, Service, Slashes};
use weft_model::{Intent, ServiceName};
use weft_policy::{BreakGlass, PolicyModel};
use weft_xds::{Resource, Resources, type_url};

use crate::endpoint::{self, Endpoint, EndpointSet};
use crate::foreign::{self, Foreign};
use crate::{cluster, hop, listener, names, route, wire};

/// Name of the resource that holds the commit.
pub const REVISION_NAME: &str = "mesh";

/// The intent of one commit and its policy, with everything that proxies share.
pub struct CompiledMesh {
    intent: Arc<Intent>,
    policy: Arc<PolicyModel>,
    revision: Arc<Resource>,
    revision_id: Arc<str>,
    break_glass: Option<BreakGlass>,
    parts: BTreeMap<ServiceName, Parts>,
    foreign: OnceLock<Vec<Foreign>>,
}

/// What one service contributes: as a callee to everyone who may call it, and as a caller to its own replicas. Filled on demand,
/// because most services are called by few.
#[derive(Default)]
struct Parts {
    clusters: OnceLock<Vec<Arc<Resource>>>,
    clusters_for_grpc: OnceLock<Vec<Arc<Resource>>>,
    host: OnceLock<Bytes>,
    host_in_namespace: OnceLock<Bytes>,
    listeners_for_grpc: OnceLock<Vec<Arc<Resource>>>,
    listeners_for_grpc_in_namespace: OnceLock<Vec<Arc<Resource>>>,
    routes_for_grpc: OnceLock<Arc<Resource>>,
    /// Assignments for the endpoints that were last asked for.
    assignments: Mutex<Option<Assignments>>,
    bundle: OnceLock<Arc<Resource>>,
    neighbours: OnceLock<Neighbours>,
    neighbours_for_grpc: OnceLock<Neighbours>,
}

struct Assignments {
    endpoints: Arc<[Endpoint]>,
    resources: Vec<Arc<Resource>>,
}

/// What all proxies of one caller get about the services that it may call.
pub(crate) struct Neighbours {
    pub(crate) callees: Vec<ServiceName>,
    pub(crate) clusters: Arc<Resources>,
    pub(crate) routes: Arc<Resources>,
    /// For proxyless gRPC; a sidecar's listeners are its own.
    pub(crate) listeners: Arc<Resources>,
    /// What the egress does with several slashes in a row: it knows only afterwards which service is called, so one that keeps them
    /// is enough.
    pub(crate) slashes: Slashes,
}

impl CompiledMesh {
    /// Takes a checked intent and the policy compiled from it. `revision` is the commit.
    pub fn new(intent: Arc<Intent>, policy: Arc<PolicyModel>, revision: &str) -> Self {
        let parts = intent.services.keys().map(|name| (name.clone(), Parts::default())).collect();
        let resource = Resource::from_bytes(type_url::REVISION, REVISION_NAME, revision.as_bytes().to_vec());
        Self {
            intent,
            policy,
            revision: resource,
            revision_id: revision.into(),
            break_glass: None,
            parts,
            foreign: OnceLock::new(),
        }
    }

    /// The same commit with the glass broken, or whole again.
    pub fn with_break_glass(&self, break_glass: Option<BreakGlass>) -> Self {
        let again = Self::new(self.intent.clone(), self.policy.clone(), &self.revision_id);
        Self { break_glass, ..again }
    }

    /// That the glass is broken.
    pub fn break_glass(&self) -> Option<&BreakGlass> {
        self.break_glass.as_ref()
    }

    /// The commit.
    pub fn revision(&self) -> &Arc<str> {
        &self.revision_id
    }

    /// The intent that this was made from.
    pub fn intent(&self) -> &Arc<Intent> {
        &self.intent
    }

    /// The policy that this was made from.
    pub fn policy(&self) -> &Arc<PolicyModel> {
        &self.policy
    }

    /// The services that `caller` could be allowed to call: all that its proxies hear of.
    pub fn callees(&self, caller: &ServiceName) -> Vec<ServiceName> {
        let may_call = |callee: &&ServiceName| self.policy.may_call(caller, callee);
        self.intent.services.keys().filter(may_call).cloned().collect()
    }

    pub(crate) fn revision_resource(&self) -> Arc<Resource> {
        self.revision.clone()
    }

    /// The policy bundle of a service.
    pub(crate) fn bundle(&self, service: &Service) -> Arc<Resource> {
        let encode = || {
            let bundle = self.policy.bundle_with(&service.name, self.break_glass.as_ref());
            Resource::from_bytes(type_url::POLICY_BUNDLE, service.name.as_str(), bundle.to_bytes())
        };
        self.parts(service).bundle.get_or_init(encode).clone()
    }

    /// What sidecars of `caller` get about others.
    pub(crate) fn neighbours(&self, caller: &Service) -> &Neighbours {
        self.parts(caller).neighbours.get_or_init(|| {
            let callees = self.callees(&caller.name);
            let clusters = self.services(&callees).flat_map(|callee| self.clusters(callee)).cloned();
            let clusters = clusters.chain(self.foreign().iter().map(|foreign| foreign.cluster.clone()));
            let hosts = self.services(&callees).map(|callee| self.host(callee, caller));
            let hosts = hosts.chain(self.foreign().iter().map(|foreign| foreign.host.clone())).collect();
            let message = wire::RouteConfiguration { name: hop::EGRESS.to_owned(), virtual_hosts: hosts };
            let routes = [Resource::new(type_url::ROUTE, hop::EGRESS, &message)];
            let keeps = self.services(&callees).any(|callee| callee.paths.slashes == Slashes::Keep);
            Neighbours {
                clusters: by_name(clusters),
                routes: by_name(routes),
                listeners: Arc::default(),
                slashes: if keeps { Slashes::Keep } else { Slashes::Merge },
                callees,
            }
        })
    }

    /// What proxyless gRPC clients of `caller` get. TCP services mean nothing to them.
    pub(crate) fn neighbours_for_grpc(&self, caller: &Service) -> &Neighbours {
        self.parts(caller).neighbours_for_grpc.get_or_init(|| {
            let mut callees = self.callees(&caller.name);
            callees.retain(|callee| self.intent.services[callee].protocol != Protocol::Tcp);
            let listeners = self.services(&callees).flat_map(|callee| self.listeners_for_grpc(callee, caller)).cloned();
            let clusters = self.services(&callees).flat_map(|callee| self.clusters_for_grpc(callee)).cloned();
            let routes = self.services(&callees).map(|callee| self.routes_for_grpc(callee));
            Neighbours {
                listeners: by_name(listeners),
                clusters: by_name(clusters),
                routes: by_name(routes),
                slashes: Slashes::Keep, // gRPC's own client does nothing to a path
                callees,
            }
        })
    }

    /// The endpoints of a service and of its subsets.
    pub(crate) fn assignments(&self, name: &ServiceName, registered: &EndpointSet) -> Vec<Arc<Resource>> {
        let service = &self.intent.services[name];
        let mut last = self.parts(service).assignments.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints = match (&service.endpoints, &*last) {
            (intent::Endpoints::Static(_), Some(last)) => last.endpoints.clone(),
            (intent::Endpoints::Static(list), None) => endpoint::written_down(list),
            (intent::Endpoints::Registry, _) => registered.get(name).cloned().unwrap_or_default(),
        };
        if let Some(last) = &*last
            && (Arc::ptr_eq(&last.endpoints, &endpoints) || last.endpoints == endpoints)
        {
            return last.resources.clone();
        }
        let encode = |(subset, labels): (Option<&str>, _)| {
            endpoint::assignment(&names::outbound_cluster(service, subset), &endpoints, labels)
        };
        let of_subsets = service.subsets.iter().map(|(name, labels)| (Some(&**name), Some(labels)));
        let resources: Vec<_> = std::iter::once((None, None)).chain(of_subsets).map(encode).collect();
        *last = Some(Assignments { endpoints, resources: resources.clone() });
        resources
    }

    /// What every sidecar gets of the services of other trust domains: whom those let in is theirs to say.
    fn foreign(&self) -> &[Foreign] {
        self.foreign.get_or_init(|| foreign::all(&self.intent))
    }

    fn services<'a>(&'a self, names: &'a [ServiceName]) -> impl Iterator<Item = &'a Service> {
        names.iter().map(|name| &self.intent.services[name])
    }

    fn parts(&self, service: &Service) -> &Parts {
        &self.parts[&service.name]
    }

    fn clusters(&self, service: &Service) -> &[Arc<Resource>] {
        let trust_domain = &self.intent.mesh.trust_domain;
        self.parts(service)
            .clusters
            .get_or_init(|| subsets(service).map(|subset| cluster::outbound(trust_domain, service, subset)).collect())
    }

    fn clusters_for_grpc(&self, service: &Service) -> &[Arc<Resource>] {
        let trust_domain = &self.intent.mesh.trust_domain;
        let encode = |subset| cluster::outbound_for_grpc(trust_domain, service, subset);
        self.parts(service).clusters_for_grpc.get_or_init(|| subsets(service).map(encode).collect())
    }

    /// The encoded virtual host of a service, as `caller` sees it.
    fn host(&self, service: &Service, caller: &Service) -> Bytes {
        let own_namespace = service.name.namespace() == caller.name.namespace();
        let parts = self.parts(service);
        let cell = if own_namespace { &parts.host_in_namespace } else { &parts.host };
        let timeout = self.intent.mesh.defaults.timeout;
        cell.get_or_init(|| route::virtual_host(service, timeout, own_namespace).encode_to_vec().into()).clone()
    }

    fn routes_for_grpc(&self, service: &Service) -> Arc<Resource> {
        let encode = || {
            let name = names::virtual_host(service);
            let message = wire::RouteConfiguration {
                virtual_hosts: vec![route::virtual_host_for_grpc(service).encode_to_vec().into()],
                name: name.clone(),
            };
            Resource::new(type_url::ROUTE, &name, &message)
        };
        self.parts(service).routes_for_grpc.get_or_init(encode).clone()
    }

    /// One listener for each name by which a `xds:///` target can call the service, with and without its port.
    fn listeners_for_grpc(&self, service: &Service, caller: &Service) -> &[Arc<Resource>] {
        let own_namespace = service.name.namespace() == caller.name.namespace();
        let parts = self.parts(service);
        let cell = if own_namespace { &parts.listeners_for_grpc_in_namespace } else { &parts.listeners_for_grpc };
        cell.get_or_init(|| {
            let routes = names::virtual_host(service);
            let hosts = names::hosts(&service.name, own_namespace).into_iter();
            let targets = hosts.flat_map(|host| [format!("{host}:{}", service.port), host]);
            targets.map(|target| listener::for_grpc(&target, &routes)).collect()
        })
    }
}

/// The whole service and each of its subsets.
fn subsets(service: &Service) -> impl Iterator<Item = Option<&str>> {
    std::iter::once(None).chain(service.subsets.keys().map(|name| Some(&**name)))
}

fn by_name(resources: impl IntoIterator<Item = Arc<Resource>>) -> Arc<Resources> {
    Arc::new(resources.into_iter().map(|resource| (resource.name.clone(), resource)).collect())
}
