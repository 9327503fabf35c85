//! Policies that another one makes superfluous: it says the same of all that they are about, or forbids all that they permit.
//!
//! Every warning is certain. Scopes are compared as they are written, not by who is there today: a namespace with one service is wider than
//! the service, and a role is no part of a namespace, whoever has it.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{Effect, EntityUid, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;
use weft_model::{Finding, ServiceName, Severity};

use crate::entities;
use crate::scope::{names_foreign, names_plain_text};
use crate::source::Source;

/// What a scope names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Everyone,
    /// A service, or a group of them.
    Only(EntityUid),
    /// None that could be.
    Nobody,
}

/// What makes two policies say the same.
#[derive(PartialEq, Eq, Hash)]
struct Saying {
    permits: bool,
    principal: Scope,
    resource: Scope,
    /// As Cedar's JSON; empty without any.
    conditions: String,
}

/// The groups of each service, as scopes name them.
type Groups = HashMap<EntityUid, Vec<EntityUid>>;

/// Adds the warnings. Compares each policy with few others, however many there are.
pub(crate) fn warn(services: &[(&ServiceName, &[Arc<str>])], sources: &[Source], findings: &mut Vec<Finding>) {
    let groups: Groups = services
        .iter()
        .map(|(name, roles)| (entities::service(name), entities::parents(name, roles).collect()))
        .collect();
    let mut first = HashMap::<&Saying, usize>::new();
    let sayings: Vec<Saying> = sources.iter().map(saying).collect();
    for (at, saying) in sayings.iter().enumerate() {
        // What is not enforced makes nothing superfluous.
        if !sources[at].is_shadow() && saying.principal != Scope::Nobody && saying.resource != Scope::Nobody {
            first.entry(saying).or_insert(at);
        }
    }
    for (at, (source, saying)) in sources.iter().zip(&sayings).enumerate() {
        let Saying { permits, principal, resource, conditions } = saying;
        let (callers, callees) = (wider(principal, &groups), wider(resource, &groups));
        let is_alone = names_plain_text(&source.policy) || names_foreign(&source.policy).is_some();
        let find = |permits: bool, conditions: &str| {
            // No permit for everybody means whoever calls in plain text, or is of another trust domain.
            let callers = if permits && is_alone { std::slice::from_ref(principal) } else { &callers[..] };
            let mut scopes = callers.iter().flat_map(|caller| callees.iter().map(move |callee| (caller, callee)));
            scopes.find_map(|(caller, callee)| {
                let (principal, resource) = (caller.clone(), callee.clone());
                let saying = Saying { permits, principal, resource, conditions: conditions.to_owned() };
                first.get(&&saying).copied().filter(|other| *other != at)
            })
        };
        let forbidden = permits.then(|| find(false, "")).flatten();
        let same = || find(*permits, "").or_else(|| find(*permits, conditions));
        let message = match forbidden {
            Some(by) => {
                format!("{} has no effect: {} forbids all that it permits", source.subject(), sources[by].id)
            }
            None => match same() {
                Some(by) => {
                    let effect = source.policy.effect();
                    format!("{} adds nothing: {} {effect}s all that it does", source.subject(), sources[by].id)
                }
                None => continue,
            },
        };
        findings.push(Finding {
            code: "WEFT0214",
            severity: Severity::Warning,
            message,
            hint: "remove one of the two, or make this one say what the other does not".to_owned(),
            span: Some(source.span(0)),
        });
    }
}

/// The scope itself and all that are certain to hold whoever it does.
fn wider(scope: &Scope, groups: &Groups) -> Vec<Scope> {
    let mut all = vec![scope.clone()];
    match scope {
        Scope::Nobody => return Vec::new(),
        Scope::Everyone => return all,
        Scope::Only(uid) => all.extend(groups.get(uid).into_iter().flatten().cloned().map(Scope::Only)),
    }
    all.push(Scope::Everyone);
    all
}

fn saying(source: &Source) -> Saying {
    let policy = &source.policy;
    let service = |is_service: bool, scope: Scope| if is_service { scope } else { Scope::Nobody };
    // No service has members, so `in` one is the service itself.
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Any => Scope::Everyone,
        PrincipalConstraint::Is(kind) => service(entities::is_service(&kind), Scope::Everyone),
        PrincipalConstraint::IsIn(kind, uid) => service(entities::is_service(&kind), Scope::Only(uid)),
        PrincipalConstraint::In(uid) => Scope::Only(uid),
        PrincipalConstraint::Eq(uid) => service(entities::is_service(uid.type_name()), Scope::Only(uid)),
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Any => Scope::Everyone,
        ResourceConstraint::Is(kind) => service(entities::is_service(&kind), Scope::Everyone),
        ResourceConstraint::IsIn(kind, uid) => service(entities::is_service(&kind), Scope::Only(uid)),
        ResourceConstraint::In(uid) => Scope::Only(uid),
        ResourceConstraint::Eq(uid) => service(entities::is_service(uid.type_name()), Scope::Only(uid)),
    };
    let conditions = match &*source.conditions() {
        Value::Array(none) if none.is_empty() => String::new(),
        // Like no other.
        Value::Null => source.id.to_string(),
        some => some.to_string(),
    };
    Saying { permits: policy.effect() == Effect::Permit, principal, resource, conditions }
}
