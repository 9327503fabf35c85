//! What the importer is told beside the documents: the mesh that they are for, and which names there are which here.

use std::collections::BTreeMap;

use weft_model::intent::{Intent, Protocol};
use weft_model::{ServiceName, TrustDomain};

use crate::vocabulary::Vocabulary;

/// Istio's word for the trust domain of the mesh, whatever that is called.
const OWN: &str = "cluster.local";

/// How an import is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of documents that name none.
    pub namespace: String,
    /// The namespace whose policies are for the whole mesh.
    pub root_namespace: String,
    /// Istio's trust domain and its aliases. Empty: `cluster.local`.
    pub trust_domains: Vec<String>,
    /// Labels whose value is the name of a service, the weightiest first.
    pub service_labels: Vec<String>,
    /// Service accounts and workloads (`namespace/name`) that are called otherwise here, each with the services that it is.
    pub renamed: BTreeMap<String, Vec<ServiceName>>,
    /// Whether what no ALLOW policy is for may be called by everyone, as it may in Istio.
    pub default_allow: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            root_namespace: "istio-system".to_owned(),
            trust_domains: Vec::new(),
            service_labels: ["app", "app.kubernetes.io/name", "service.istio.io/canonical-name"]
                .map(str::to_owned)
                .to_vec(),
            renamed: BTreeMap::new(),
            default_allow: false,
        }
    }
}

/// The options, and the mesh if it is known.
#[derive(Clone, Debug)]
pub(super) struct World<'a> {
    pub(super) options: &'a Options,
    pub(super) mesh: Option<&'a Intent>,
    pub(super) words: Vocabulary,
}

impl<'a> World<'a> {
    pub(super) fn new(options: &'a Options, mesh: Option<&'a Intent>) -> Self {
        Self { options, mesh, words: Vocabulary::of(mesh) }
    }

    /// The services that a workload of this name is: itself, unless it is called otherwise here.
    pub(super) fn services(&self, namespace: &str, name: &str) -> Vec<String> {
        let own = format!("{namespace}/{name}");
        match self.options.renamed.get(&own) {
            Some(services) => services.iter().map(ToString::to_string).collect(),
            None => vec![own],
        }
    }

    /// The services that run under a service account. A service that another account is said to be runs under that alone.
    pub(super) fn callers(&self, namespace: &str, account: &str) -> Vec<String> {
        let own = format!("{namespace}/{account}");
        let is_another = !self.options.renamed.contains_key(&own)
            && self.options.renamed.values().flatten().any(|service| service.as_str() == own);
        if is_another { Vec::new() } else { self.services(namespace, account) }
    }

    /// Whether a service may be named: of an unknown mesh, every one that has a legal name.
    pub(super) fn has_service(&self, name: &str) -> bool {
        name.parse::<ServiceName>().is_ok_and(|name| self.mesh.is_none_or(|mesh| mesh.services.contains_key(&name)))
    }

    /// Likewise a namespace.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        // A namespace is as legal as a service in it.
        ServiceName::new(namespace, "x").is_ok()
            && self.mesh.is_none_or(|mesh| mesh.services.keys().any(|name| name.namespace() == namespace))
    }

    /// Whether some service of these may be called over TCP, where there is no method and no path.
    pub(super) fn speaks_tcp(&self, of_these: impl Fn(&ServiceName) -> bool) -> bool {
        self.mesh.is_none_or(|mesh| {
            mesh.services.values().any(|service| service.protocol == Protocol::Tcp && of_these(&service.name))
        })
    }

    /// Istio's own trust domains: a caller of any of them is a caller of this mesh.
    pub(super) fn domains(&self) -> Vec<&str> {
        let given = self.options.trust_domains.iter().map(String::as_str);
        let mut domains: Vec<&str> = given.collect();
        if domains.is_empty() {
            domains.push(OWN);
        }
        domains.extend(self.mesh.map(|mesh| &mesh.mesh.trust_domain).map(TrustDomain::as_str));
        domains
    }

    /// Whether a principal of this trust domain is of this mesh. `cluster.local` always is.
    pub(super) fn is_own(&self, domain: &str) -> bool {
        domain == OWN || self.domains().contains(&domain)
    }
}
