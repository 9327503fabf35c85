//! The state of the configuration: the last good version of each resource, and the [`Config`] made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3 as pb_cluster;
use envoy_types::pb::envoy::config::endpoint::v3 as pb_endpoint;
use envoy_types::pb::envoy::config::listener::v3 as pb_listener;
use envoy_types::pb::envoy::config::route::v3 as pb_route;
use prost::{Message, Name};
use weft_policy::{Bundle, Engine};
use weft_xds::{Rejection, Resource, Update, type_url};

use super::parse::Names;
use super::parse::strict::{Path, Refused};
use super::parse::{cluster, endpoint, listener, route};
use super::{
    Cluster, ClusterId, Config, Endpoints, EndpointsSource, HttpListener, Listener, ListenerKind, RouteSource,
    RouteTable, Upstream,
};

type ByName<T> = BTreeMap<Arc<str>, Arc<T>>;

/// Takes resources in, one update after the other, and makes configurations of them.
///
/// A resource that is refused changes nothing: what was in force under its name stays in force, and the others of its
/// update are taken.
#[derive(Default)]
pub struct Builder {
    names: Names,
    listeners: ByName<Listener>,
    clusters: ByName<Cluster>,
    endpoints: ByName<Endpoints>,
    routes: ByName<RouteTable>,
    policy: Option<(Arc<str>, Arc<Engine>)>,
    revision: Arc<str>,
    /// What the last configuration had, to be shared with the next.
    upstreams: HashMap<ClusterId, Arc<Upstream>>,
    none: Arc<Endpoints>,
}

impl Builder {
    /// Takes what it can of an update and tells what it refused, with the path of the field at fault.
    pub fn apply(&mut self, update: Update) -> Vec<Rejection> {
        for name in &update.removed {
            self.remove(update.type_url, name);
        }
        let rejections = update.changed.iter().filter_map(|resource| {
            let refused = self.take(update.type_url, resource).err()?;
            Some(Rejection { name: resource.name.clone(), reason: refused.to_string() })
        });
        let rejections = rejections.collect();
        if update.type_url == type_url::CLUSTER {
            // Nobody tells that endpoints which are no longer asked for have gone.
            let wanted = self.wanted(type_url::ENDPOINT);
            self.endpoints.retain(|name, _| wanted.contains(name));
        }
        if update.type_url == type_url::LISTENER {
            let wanted = self.wanted(type_url::ROUTE);
            self.routes.retain(|name, _| wanted.contains(name));
        }
        rejections
    }

    /// The names of endpoints and of routes that clusters and listeners refer to; empty for the types that come as a
    /// whole.
    pub fn wanted(&self, type_url: &str) -> BTreeSet<Arc<str>> {
        match type_url {
            type_url::ENDPOINT => {
                let name = |cluster: &Arc<Cluster>| match &cluster.endpoints {
                    EndpointsSource::Eds(name) => Some(name.clone()),
                    EndpointsSource::Static(_) => None,
                };
                self.clusters.values().filter_map(name).collect()
            }
            type_url::ROUTE => {
                let name = |listener: &Arc<Listener>| match &listener.kind {
                    ListenerKind::Http(HttpListener { routes: RouteSource::Named(route), .. }) => {
                        Some(route.name.clone())
                    }
                    _ => None,
                };
                self.listeners.values().filter_map(name).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// The configuration of now. Cheap: everything is shared with the resources, and with the configuration before.
    pub fn build(&mut self) -> Config {
        let mut upstreams = vec![None; self.names.clusters()];
        let mut clusters = HashMap::with_capacity(self.clusters.len());
        let mut kept = HashMap::with_capacity(self.clusters.len());
        for (name, cluster) in &self.clusters {
            let endpoints = match &cluster.endpoints {
                EndpointsSource::Static(endpoints) => endpoints,
                EndpointsSource::Eds(name) => self.endpoints.get(name).unwrap_or(&self.none),
            };
            let upstream = match self.upstreams.get(&cluster.id) {
                Some(old) if Arc::ptr_eq(&old.cluster, cluster) && Arc::ptr_eq(&old.endpoints, endpoints) => {
                    old.clone()
                }
                _ => Arc::new(Upstream { cluster: cluster.clone(), endpoints: endpoints.clone() }),
            };
            upstreams[cluster.id.index()] = Some(upstream.clone());
            kept.insert(cluster.id, upstream.clone());
            clusters.insert(name.clone(), upstream);
        }
        self.upstreams = kept;
        let mut tables = vec![None; self.names.routes()];
        for (name, table) in &self.routes {
            tables[self.names.route(name).index()] = Some(table.clone());
        }
        Config {
            listeners: self.listeners.values().cloned().collect(),
            clusters,
            routes: self.routes.iter().map(|(name, table)| (name.clone(), table.clone())).collect(),
            policy: self.policy.as_ref().map(|(_, engine)| engine.clone()),
            revision: self.revision.clone(),
            upstreams: upstreams.into(),
            tables: tables.into(),
        }
    }

    fn take(&mut self, type_url: &str, resource: &Resource) -> Result<(), Refused> {
        let name = &resource.name;
        match type_url {
            type_url::LISTENER => {
                let at = &Path::root::<pb_listener::Listener>();
                let new = listener::listener(decode(resource, at)?, at, &mut self.names)?;
                same_name(name, &new.name, "name", at)?;
                let taken = |other: &&Arc<Listener>| other.address == new.address && other.name != new.name;
                if let (Some(other), true) = (self.listeners.values().find(taken), new.address.port() != 0) {
                    let problem = format!("{} is the address of the listener {} already", new.address, other.name);
                    return Err(at.field("address").refuse(problem));
                }
                keep(&mut self.listeners, name, new);
            }
            type_url::CLUSTER => {
                let at = &Path::root::<pb_cluster::Cluster>();
                let new = cluster::cluster(decode(resource, at)?, at, &mut self.names)?;
                same_name(name, &new.name, "name", at)?;
                keep(&mut self.clusters, name, new);
            }
            type_url::ENDPOINT => {
                let at = &Path::root::<pb_endpoint::ClusterLoadAssignment>();
                let (cluster, new) = endpoint::assignment(decode(resource, at)?, at)?;
                same_name(name, &cluster, "cluster_name", at)?;
                keep(&mut self.endpoints, name, new);
            }
            type_url::ROUTE => {
                let at = &Path::root::<pb_route::RouteConfiguration>();
                let new = route::table(decode(resource, at)?, at, &mut self.names)?;
                same_name(name, &new.name, "name", at)?;
                self.names.route(name);
                keep(&mut self.routes, name, new);
            }
            type_url::POLICY_BUNDLE => self.take_policy(resource)?,
            type_url::REVISION => {
                let revision = std::str::from_utf8(&resource.any.value).map_err(|_| own("Revision", "not UTF-8"))?;
                if *self.revision != *revision {
                    self.revision = revision.into();
                }
            }
            _ => return Err(own("Any", &format!("{type_url} is not a type of this proxy's configuration"))),
        }
        Ok(())
    }

    fn take_policy(&mut self, resource: &Resource) -> Result<(), Refused> {
        let problem = |error: weft_policy::PolicyError| own("Bundle", &error.to_string());
        let bundle = Bundle::from_bytes(&resource.any.value).map_err(problem)?;
        let engine = Engine::new(&bundle).map_err(problem)?;
        self.policy = Some((resource.name.clone(), Arc::new(engine)));
        Ok(())
    }

    fn remove(&mut self, type_url: &str, name: &Arc<str>) {
        match type_url {
            type_url::LISTENER => drop(self.listeners.remove(name)),
            type_url::CLUSTER => drop(self.clusters.remove(name)),
            type_url::ENDPOINT => drop(self.endpoints.remove(name)),
            type_url::ROUTE => drop(self.routes.remove(name)),
            type_url::POLICY_BUNDLE => drop(self.policy.take_if(|(current, _)| current == name)),
            _ => {}
        }
    }
}

/// The message of a resource, if it is one of that type.
fn decode<M: Message + Name + Default>(resource: &Resource, at: &Path<'_>) -> Result<M, Refused> {
    if !super::parse::strict::holds::<M>(&resource.any) {
        return Err(at.refuse(format!("the resource is of another type, `{}`", resource.any.type_url.escape_debug())));
    }
    at.decode(&resource.any.value)
}

fn same_name(resource: &Arc<str>, message: &Arc<str>, field: &str, at: &Path<'_>) -> Result<(), Refused> {
    if resource == message {
        return Ok(());
    }
    let problem =
        format!("`{}` is not the name of the resource, `{}`", message.escape_debug(), resource.escape_debug());
    Err(at.field(field).refuse(problem))
}

/// Puts the new one in force, unless it says the same as the one that is.
fn keep<T: PartialEq>(all: &mut ByName<T>, name: &Arc<str>, new: T) {
    match all.get(name) {
        Some(old) if **old == new => {}
        _ => drop(all.insert(name.clone(), Arc::new(new))),
    }
}

/// A refusal of one of Weft's own types, which are not protobuf.
fn own(name: &'static str, problem: &str) -> Refused {
    Path::own(name).refuse(problem)
}
