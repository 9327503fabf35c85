//! The policies of a whole mesh, compiled: who could call whom, and the bundle of each service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_model::intent::{Intent, Paths, PolicyInputs};
use weft_model::{Finding, Mtls, ServiceName, Severity, SpiffeId, TrustDomain};
use weft_policy_eval::Bits;

use crate::break_glass::BreakGlass;
use crate::bundle::{Bundle, ServiceFacts};
use crate::check;
use crate::context::{self, Attribute, Reads};
use crate::decision::{Decision, PolicyRef};
use crate::glass_rules::{Breaking, GlassRules};
use crate::scope::{self, Universe};
use crate::source::Source;

/// All policies of one commit.
pub struct PolicyModel {
    revision: Arc<str>,
    trust_domain: TrustDomain,
    mesh: Arc<str>,
    inputs: PolicyInputs,
    glass: GlassRules,
    policies: Vec<Policy>,
    services: Vec<Service>,
    /// Identities of other trust domains that some permit names, sorted. In sets they come after whoever calls in plain text.
    foreign: Vec<SpiffeId>,
    index: HashMap<ServiceName, usize>,
}

struct Policy {
    source: Source,
    principals: Arc<Bits>,
    reads: Reads,
}

/// A policy that could have a say in a call.
#[derive(Clone, Debug)]
pub struct Concern {
    /// Where it stands.
    pub place: PolicyRef,
    /// A `permit`, or else a `forbid`.
    pub is_permit: bool,
    /// Evaluated and logged, and not enforced.
    pub is_shadow: bool,
    /// As Cedar text.
    pub text: Arc<str>,
    /// What of a call it mentions, as policies write it: `context.method`, `context.headers.x-tenant`.
    pub reads: Vec<String>,
}

impl Concern {
    fn of(policy: &Policy) -> Self {
        let Source { id, file, line, text, .. } = &policy.source;
        Self {
            place: PolicyRef { file: file.clone(), line: *line, id: id.clone() },
            is_permit: policy.source.is_permit(),
            is_shadow: policy.source.is_shadow(),
            text: text.clone(),
            reads: policy.reads.iter().map(|attribute| format!("context.{attribute}")).collect(),
        }
    }
}

struct Service {
    facts: ServiceFacts,
    access: Arc<str>,
    paths: Paths,
    port: u16,
    /// Whether it takes calls in plain text.
    plain_text: bool,
    /// Policies whose resource it can be, in order.
    policies: Vec<usize>,
    /// Who some `permit` could allow to call it, plain text included.
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
        let none: &[Arc<str>] = &[];
        let with_roles = intent.services.keys().map(|name| (name, roles.get(name).map_or(none, |roles| &roles[..])));
        let foreign = scope::foreign_callers(sources.iter().map(|source| &source.policy));
        let universe = Universe::new(with_roles, &foreign);
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
                port: service.port,
                plain_text: service.mtls == Mtls::Permissive,
                policies: Vec::new(),
                callers: universe.nobody(),
            });
        }
        let (glass, sources): (Vec<Source>, Vec<Source>) =
            sources.into_iter().partition(|source| scope::concerns_break_glass(&source.policy));
        let mut policies = Vec::with_capacity(sources.len());
        for source in sources.into_iter().filter(|source| scope::concerns_calls(&source.policy)) {
            let principals = universe.principals(&source.policy);
            for callee in universe.resources(&source.policy).iter() {
                services[callee].policies.push(policies.len());
                // A shadow permit opens nothing, not even what a sidecar is sent.
                if source.is_permit() && !source.is_shadow() {
                    services[callee].callers.union(&principals);
                }
            }
            let reads = context::reads(&source.policy, &intent.mesh.policy);
            policies.push(Policy { source, principals, reads });
        }
        for service in services.iter_mut().filter(|service| !service.plain_text) {
            service.callers.intersect(universe.identified());
        }
        let index = services.iter().enumerate().map(|(at, service)| (service.facts.name.clone(), at)).collect();
        let (revision, trust_domain) = (revision.into(), intent.mesh.trust_domain.clone());
        let (mesh, inputs, glass) = (intent.mesh.name.clone(), intent.mesh.policy.clone(), GlassRules::new(glass));
        Self { revision, trust_domain, mesh, inputs, glass, policies, services, foreign, index }
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

    /// The policies that could have a say in calls of `caller` to `callee`, in the order of the mesh's files; conditions are not looked at.
    pub fn concerning(&self, caller: &ServiceName, callee: &ServiceName) -> Vec<Concern> {
        self.index.get(caller).map(|caller| self.concerning_at(*caller, callee)).unwrap_or_default()
    }

    /// The same of calls in plain text; none where the callee takes no such calls.
    pub fn concerning_plain_text(&self, callee: &ServiceName) -> Vec<Concern> {
        if self.takes_plain_text(callee) { self.concerning_at(self.services.len(), callee) } else { Vec::new() }
    }

    /// The same of calls by an identity of another trust domain; none where no permit names it.
    pub fn concerning_foreign(&self, caller: &SpiffeId, callee: &ServiceName) -> Vec<Concern> {
        let at = self.foreign.binary_search(caller);
        at.map(|at| self.concerning_at(self.services.len() + 1 + at, callee)).unwrap_or_default()
    }

    /// The identities of other trust domains that some policy could allow to call `callee`.
    pub fn foreign_callers<'a>(&'a self, callee: &ServiceName) -> impl Iterator<Item = &'a SpiffeId> + use<'a> {
        let callers = self.index.get(callee).map(|callee| &self.services[*callee].callers);
        let first = self.services.len() + 1;
        let foreign = self.foreign.iter().enumerate();
        foreign.filter(move |(at, _)| callers.is_some_and(|callers| callers.contains(first + at))).map(|(_, id)| id)
    }

    /// Whether the service takes calls in plain text.
    pub fn takes_plain_text(&self, callee: &ServiceName) -> bool {
        self.index.get(callee).is_some_and(|callee| self.services[*callee].plain_text)
    }

    fn concerning_at(&self, caller: usize, callee: &ServiceName) -> Vec<Concern> {
        let Some(callee) = self.index.get(callee) else { return Vec::new() };
        let policies = self.services[*callee].policies.iter().map(|at| &self.policies[*at]);
        policies.filter(|policy| policy.principals.contains(caller)).map(Concern::of).collect()
    }

    /// How many services have policies that ask whether the glass is broken.
    pub fn services_that_read_break_glass(&self) -> usize {
        let asks = |policy: &usize| self.policies[*policy].reads.has(&Attribute::BreakGlass);
        self.services.iter().filter(|service| service.policies.iter().any(asks)).count()
    }

    /// Every policy about calls that is enforced, in the order of the mesh's files.
    pub fn policies(&self) -> impl Iterator<Item = PolicyRef> {
        let enforced = self.policies.iter().filter(|policy| !policy.source.is_shadow());
        enforced.map(|policy| Concern::of(policy).place)
    }

    /// Whether an operator may break the glass.
    pub fn may_break_glass(&self, asked: &Breaking<'_>) -> Decision {
        self.glass.decide(&self.mesh, &self.inputs, asked)
    }

    /// The same as [`bundle_with`](Self::bundle_with) while the glass is whole.
    pub fn bundle_for(&self, callee: &ServiceName) -> Bundle {
        self.bundle_with(callee, None)
    }

    /// What the sidecars of `callee` decide with. For a service that is not in the mesh: a bundle that denies everything.
    pub fn bundle_with(&self, callee: &ServiceName, glass: Option<&BreakGlass>) -> Bundle {
        let trust_domain = self.trust_domain.clone();
        let Some(service) = self.index.get(callee).map(|at| &self.services[*at]) else {
            let facts = ServiceFacts { name: callee.clone(), attributes: BTreeMap::new(), roles: Vec::new() };
            return Bundle::denying(trust_domain, facts, "not in the mesh".into()).sealed();
        };
        let policies = service.policies.iter().map(|at| &self.policies[*at]);
        let policies: Vec<&Policy> = policies.filter(|policy| policy.principals.intersects(&service.callers)).collect();
        let reads = policies.iter().fold(Reads::default(), |all, policy| all.union(&policy.reads));
        let callers = service.callers.iter().filter_map(|caller| Some(self.services.get(caller)?.facts.clone()));
        let (shadow, enforced): (Vec<&Policy>, Vec<&Policy>) =
            policies.into_iter().partition(|policy| policy.source.is_shadow());
        let texts = |policies: Vec<&Policy>| policies.iter().map(|policy| policy.source.to_text()).collect();
        Bundle {
            port: service.port,
            inputs: reads.inputs(&self.inputs),
            paths: service.paths,
            plain_text: service.plain_text,
            foreign: self.foreign_callers(callee).cloned().collect(),
            break_glass: glass.filter(|_| reads.has(&Attribute::BreakGlass)).cloned(),
            policies: texts(enforced),
            shadow: texts(shadow),
            callers: callers.collect(),
            ..Bundle::denying(trust_domain, service.facts.clone(), service.access.clone())
        }
        .sealed()
    }
}
