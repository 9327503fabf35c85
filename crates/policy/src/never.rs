//! Policies that can never apply, whoever calls whom: nobody fits the scope, or the facts of every service rule the condition out.
//!
//! Every warning is certain; of what cannot be told nothing is said. Of a `forbid` only the scope counts: a rule for services that are to
//! come is no mistake.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{PrincipalConstraint, ResourceConstraint};
use serde_json::Value;
use weft_model::intent::Intent;
use weft_model::{Finding, ServiceName, Severity, SpiffeId, TrustDomain};
use weft_policy_eval::{Bits, Builder, Loader, Request};

use crate::context::{self, NAMES};
use crate::entities::{self, ServiceFacts};
use crate::scope::Universe;
use crate::source::Source;

/// Policies are compiled for so many services in all, at most: of what is left nothing is said.
const TRIALS_MAX: usize = 20_000;
/// Services are described so many times in all, once for each callee that is tried: a description takes some hundred bytes.
const DESCRIBED_MAX: usize = 200_000;

/// Adds the warnings. `told` are the ids of policies of which Cedar says something already.
pub(crate) fn warn(
    intent: &Intent,
    roles: &HashMap<ServiceName, Vec<Arc<str>>>,
    universe: &Universe,
    foreign: &[SpiffeId],
    sources: &[Source],
    told: &HashSet<String>,
    findings: &mut Vec<Finding>,
) {
    let mut trials = Trials::new(intent, roles, foreign);
    for source in sources.iter().filter(|source| !told.contains(&*source.id)) {
        let (principals, resources) = (universe.principals(&source.policy), universe.resources(&source.policy));
        let message = if principals.is_empty() {
            format!("{} never applies: {}", source.subject(), nobody(&principal(source)))
        } else if resources.is_empty() {
            format!("{} never applies: {}", source.subject(), nobody(&resource(source)))
        } else if source.is_permit() && trials.never_applies(source, &principals, &resources) {
            let what = "its condition is false for every caller and callee of this mesh";
            format!("{} never applies: {what}", source.subject())
        } else {
            continue;
        };
        findings.push(Finding {
            code: "WEFT0213",
            severity: Severity::Warning,
            message,
            hint: "give the role members, change what the policy asks for, or remove it".to_owned(),
            span: Some(source.span(0)),
        });
    }
}

fn nobody(group: &str) -> String {
    match group.strip_prefix("Role::") {
        Some(role) => format!("no service has the role {role}"),
        None => format!("no service is {group}"),
    }
}

/// What the scope says of the caller, like `Role::"ops"`.
fn principal(source: &Source) -> String {
    match source.policy.principal_constraint() {
        PrincipalConstraint::Any => "a caller".to_owned(),
        PrincipalConstraint::Is(kind) => format!("a {kind}"),
        PrincipalConstraint::IsIn(_, uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => {
            uid.to_string()
        }
    }
}

fn resource(source: &Source) -> String {
    match source.policy.resource_constraint() {
        ResourceConstraint::Any => "a callee".to_owned(),
        ResourceConstraint::Is(kind) => format!("a {kind}"),
        ResourceConstraint::IsIn(_, uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => uid.to_string(),
    }
}

/// Policies tried on the services of a mesh.
struct Trials {
    trust_domain: TrustDomain,
    /// In the order of the universe, where whoever calls in plain text comes after them.
    services: Vec<ServiceFacts>,
    /// And then these.
    foreign: Vec<SpiffeId>,
    /// By callee, made when it is asked for.
    loaders: BTreeMap<usize, Loader>,
    left: usize,
}

impl Trials {
    fn new(intent: &Intent, roles: &HashMap<ServiceName, Vec<Arc<str>>>, foreign: &[SpiffeId]) -> Self {
        let facts = intent.services.values().map(|service| ServiceFacts {
            name: service.name.clone(),
            attributes: service.attributes.clone(),
            roles: roles.get(&service.name).cloned().unwrap_or_default(),
        });
        let trust_domain = intent.mesh.trust_domain.clone();
        Self {
            trust_domain,
            services: facts.collect(),
            foreign: foreign.to_vec(),
            loaders: BTreeMap::new(),
            left: TRIALS_MAX,
        }
    }

    /// True if it is certain that the policy is false, and no error, for each of these callers at each of these callees.
    fn never_applies(&mut self, source: &Source, principals: &Bits, resources: &Bits) -> bool {
        if !names_a_service(&source.conditions()) {
            return false;
        }
        for callee in resources.iter() {
            let is_new = !self.loaders.contains_key(&callee);
            let is_full = is_new && (self.loaders.len() + 1) * self.services.len() > DESCRIBED_MAX;
            if self.left == 0 || is_full {
                return false;
            }
            self.left -= 1;
            let compiled = self.loader(callee).add(source.policy.as_ref());
            if !compiled.ways.is_empty() && compiled.principals.intersects(principals) {
                return false;
            }
        }
        true
    }

    fn loader(&mut self, callee: usize) -> &mut Loader {
        let (services, foreign, trust_domain) = (&self.services, &self.foreign, &self.trust_domain);
        self.loaders.entry(callee).or_insert_with(|| {
            let mut builder = Builder::new(&NAMES);
            let mut all: Vec<_> = services.iter().map(|facts| facts.describe(&mut builder, trust_domain)).collect();
            all.push(entities::describe_plain_text(&mut builder));
            all.extend(foreign.iter().map(|id| entities::describe_foreign(&mut builder, id)));
            let action = entities::describe_call(&mut builder);
            Loader::new(builder, Request { action, resource: all[callee], context: context::field }, all)
        })
    }
}

/// Whether the facts of caller or callee are read.
fn names_a_service(expression: &Value) -> bool {
    match expression {
        Value::Array(items) => items.iter().any(names_a_service),
        Value::Object(members) => members.iter().any(|(key, value)| {
            key == "Var" && matches!(value.as_str(), Some("principal" | "resource")) || names_a_service(value)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
