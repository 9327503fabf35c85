//! The policies of a whole mesh, compiled: who could call whom, and the bundle of each service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_model::intent::{Intent, Paths};
use weft_model::{Finding, ServiceName, Severity, TrustDomain};
use weft_policy_eval::Bits;

use crate::bundle::{Bundle, PolicyText, ServiceFacts};
use crate::check;
use crate::scope::{self, Universe};
use crate::source::Source;

/// All policies of one commit.
pub struct PolicyModel {
    revision: Arc<str>,
    trust_domain: TrustDomain,
    policies: Vec<Policy>,
    services: Vec<Service>,
    index: HashMap<ServiceName, usize>,
}

struct Policy {
    source: Source,
    principals: Arc<Bits>,
}

struct Service {
    facts: ServiceFacts,
    access: Arc<str>,
    paths: Paths,
    /// Policies whose resource it can be, in order.
    policies: Vec<usize>,
    /// Services that some `permit` could allow to call it.
    callers: Bits,
}

/// Compiles the policies of `intent`, which is the commit `revision`.
///
/// # Errors
/// Every finding that is an error; warnings alone do not stop a commit.
pub fn compile(intent: &Intent, revision: &str) -> Result<PolicyModel, Vec<Finding>> {
    let (sources, findings) = check::read_and_check(intent);
    let errors: Vec<Finding> = findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect();
    if errors.is_empty() { Ok(PolicyModel::new(intent, revision, sources)) } else { Err(errors) }
}

impl PolicyModel {
    fn new(intent: &Intent, revision: &str, sources: Vec<Source>) -> Self {
        let roles = scope::roles_of_services(intent);
        let mut services: Vec<Service> = Vec::with_capacity(intent.services.len());
        for service in intent.services.values() {
            services.push(Service {
                facts: ServiceFacts {
                    name: service.name.clone(),
                    attributes: service.attributes.clone(),
                    roles: roles.get(&service.name).cloned().unwrap_or_default(),
                },
                access: format!("{}:{}", service.access_span.file, service.access_span.line).into(),
                paths: service.paths,
                policies: Vec::new(),
                callers: Bits::none(intent.services.len()),
            });
        }
        let universe = Universe::new(services.iter().map(|service| (&service.facts.name, &service.facts.roles[..])));
        let mut policies = Vec::with_capacity(sources.len());
        for source in sources.into_iter().filter(|source| scope::concerns_calls(&source.policy)) {
            let principals = universe.principals(&source.policy);
            for callee in universe.resources(&source.policy).iter() {
                services[callee].policies.push(policies.len());
                if source.is_permit() {
                    services[callee].callers.union(&principals);
                }
            }
            policies.push(Policy { source, principals });
        }
        let index = services.iter().enumerate().map(|(at, service)| (service.facts.name.clone(), at)).collect();
        Self { revision: revision.into(), trust_domain: intent.mesh.trust_domain.clone(), policies, services, index }
    }

    /// The commit that this was compiled from.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// True if some policy could allow `caller` to call `callee`. Conservative: conditions are taken to hold and `forbid` is not
    /// looked at, so false means that every call is denied.
    pub fn may_call(&self, caller: &ServiceName, callee: &ServiceName) -> bool {
        match (self.index.get(caller), self.index.get(callee)) {
            (Some(caller), Some(callee)) => self.services[*callee].callers.contains(*caller),
            _ => false,
        }
    }

    /// What the sidecars of `callee` decide with. For a service that is not in the mesh: a bundle that denies everything.
    pub fn bundle_for(&self, callee: &ServiceName) -> Bundle {
        let trust_domain = self.trust_domain.clone();
        let Some(service) = self.index.get(callee).map(|at| &self.services[*at]) else {
            let facts = ServiceFacts { name: callee.clone(), attributes: BTreeMap::new(), roles: Vec::new() };
            let nowhere = "not in the mesh".into();
            return Bundle::new(trust_domain, facts, nowhere, Paths::default(), Vec::new(), Vec::new());
        };
        let policies = service.policies.iter().map(|at| &self.policies[*at]);
        let policies = policies.filter(|policy| policy.principals.intersects(&service.callers)).map(
            |Policy { source, .. }| PolicyText {
                id: source.id.clone(),
                file: source.file.clone(),
                line: source.line,
                text: source.text.clone(),
            },
        );
        let callers = service.callers.iter().map(|caller| self.services[caller].facts.clone());
        Bundle::new(
            trust_domain,
            service.facts.clone(),
            service.access.clone(),
            service.paths,
            policies.collect(),
            callers.collect(),
        )
    }
}
