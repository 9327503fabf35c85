//! Plain Cedar over all policies of a bundle, as whoever uses the library would.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, anyhow};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityUid, Policy, PolicyId, PolicySet, Request,
    RestrictedExpression,
};
use weft_policy::{Bundle, ServiceFacts};

use super::mix::{self, Call};

/// A policy set and its entities.
pub(crate) struct Plain {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
}

impl Plain {
    pub(crate) fn new(bundle: &Bundle) -> Result<Self> {
        let mut parsed = Vec::with_capacity(bundle.policies.len());
        for policy in &bundle.policies {
            parsed.push(Policy::parse(Some(PolicyId::new(&policy.id)), &policy.text)?);
        }
        let policies = PolicySet::from_policies(parsed)?;
        let services = bundle.callers.iter().chain([&bundle.service]).map(entity).collect::<Result<Vec<_>>>()?;
        let entities = Entities::from_entities(services, None)?;
        Ok(Self { authorizer: Authorizer::new(), policies, entities })
    }

    /// Whether a call is allowed. Making Cedar's request is part of what a decision costs.
    pub(crate) fn decide(&self, call: &Call) -> Result<bool> {
        let (principal, resource) = (uid("Service", &call.caller)?, uid("Service", mix::callee())?);
        let request = Request::new(principal, uid("Action", "call")?, resource, context(call)?, None)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &self.entities);
        Ok(response.decision() == Decision::Allow)
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid> {
    Ok(EntityUid::from_type_name_and_id(kind.parse()?, EntityId::new(id)))
}

fn entity(facts: &ServiceFacts) -> Result<Entity> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut attributes: HashMap<String, RestrictedExpression> =
        facts.attributes.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    attributes.insert("name".to_owned(), text(facts.name.name()));
    attributes.insert("namespace".to_owned(), text(facts.name.namespace()));
    let mut parents = HashSet::from([uid("Namespace", facts.name.namespace())?]);
    for role in &facts.roles {
        parents.insert(uid("Role", role)?);
    }
    Entity::new(uid("Service", facts.name.as_str())?, attributes, parents).map_err(|error| anyhow!("{error}"))
}

/// All that a policy can ask for.
fn context(call: &Call) -> Result<Context> {
    let request = call.request();
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let slashes: Vec<usize> = request.path.match_indices('/').map(|(at, _)| at).collect();
    let mut pairs = vec![
        ("method".to_owned(), text(request.method)),
        ("path".to_owned(), text(request.path)),
        ("host".to_owned(), text(request.host)),
        ("protocol".to_owned(), text(request.protocol)),
        ("depth".to_owned(), RestrictedExpression::new_long(slashes.len() as i64)),
    ];
    for n in 1..=slashes.len().min(8) {
        let end = slashes.get(n).copied().unwrap_or(request.path.len());
        pairs.push((format!("first{n}"), text(&request.path[..end])));
    }
    let ip = request.source_ip.context("every call comes from somewhere")?;
    pairs.push(("sourceIp".to_owned(), RestrictedExpression::new_ip(ip.to_string())));
    Ok(Context::from_pairs(pairs)?)
}
