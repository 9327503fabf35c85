//! From a bundle to what an engine runs on. Nothing of a policy is kept in Cedar's form: ten thousand would take too much.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Effect, Entities, EntityUid};
use weft_model::{PLAIN_TEXT, SpiffeId};
use weft_policy_eval::{Bits, Builder, EntityId, Loader, Program, Request};

use crate::ask::Asked;
use crate::bundle::{Bundle, PolicyError, PolicyText};
use crate::context::{self, NAMES};
use crate::decision::PolicyRef;
use crate::entities;
use crate::index::{Gathering, Groups, Index};
use crate::parse;
use crate::scope::may_concern_outsiders;

/// What decisions are made of.
pub(crate) struct Parts {
    pub(crate) program: Program,
    pub(crate) index: Index,
    /// Where the shadow policies are found, if there are any.
    pub(crate) shadow: Option<Index>,
    /// In the order of the bundle, the shadow policies last.
    pub(crate) policies: Box<[Known]>,
    /// By SPIFFE ID.
    pub(crate) callers: HashMap<Box<str>, Caller>,
    /// Whoever calls in plain text, where the service takes such calls.
    pub(crate) plain_text: Option<Caller>,
    /// For Cedar, where it is asked.
    pub(crate) entities: Entities,
}

/// One who may be allowed something.
pub(crate) struct Caller {
    /// As denials name it.
    pub(crate) name: Arc<str>,
    pub(crate) entity: EntityId,
    pub(crate) uid: EntityUid,
    /// Where the policies are that concern it.
    pub(crate) groups: Groups,
    /// The same of shadow policies.
    pub(crate) shadow: Groups,
}

/// What is kept of a policy, beside its code.
pub(crate) struct Known {
    pub(crate) effect: Effect,
    pub(crate) place: PolicyRef,
    /// Policies, places and reason of a decision that this policy alone determines, made once.
    pub(crate) alone: (Arc<[PolicyRef]>, Arc<str>, Arc<str>),
    pub(crate) asked: Asked,
}

/// Compiles policies one after the other. By recursion: the caller sees to it that there is stack for the deepest.
pub(crate) fn load(bundle: &Bundle) -> Result<Parts, PolicyError> {
    let entities = entities(bundle)?;
    let mut builder = Builder::new(&NAMES);
    let mut callers: Vec<EntityId> =
        bundle.callers.iter().map(|facts| facts.describe(&mut builder, &bundle.trust_domain)).collect();
    if bundle.plain_text {
        callers.push(entities::describe_plain_text(&mut builder));
    }
    callers.extend(bundle.foreign.iter().map(|id| entities::describe_foreign(&mut builder, id)));
    let everyone = Bits::all(callers.len());
    let mut services = Bits::none(callers.len());
    (0..bundle.callers.len()).for_each(|caller| services.insert(caller));
    // What is said of a caller holds, should it be the callee too.
    let itself = bundle.callers.iter().position(|facts| facts.name == bundle.service.name);
    let resource = match itself {
        Some(at) => callers[at],
        None => bundle.service.describe(&mut builder, &bundle.trust_domain),
    };
    let request = Request { action: entities::describe_call(&mut builder), resource, context: context::field };
    let mut loader = Loader::new(builder, request, callers.clone());

    let mut policies = Vec::with_capacity(bundle.policies.len() + bundle.shadow.len());
    let mut ids = HashSet::with_capacity(policies.capacity());
    let mut gather = |texts| {
        let mut gathering = Gathering::new(callers.len());
        parse::parse(texts, |text, policy| {
            if !ids.insert(&text.id) {
                return Err(PolicyError::Format(format!("two policies have the id {}", text.id)));
            }
            let among = if may_concern_outsiders(policy) { &everyone } else { &services };
            let reads = context::reads(policy, &bundle.inputs);
            gathering.add(policies.len() as u32, &reads, loader.add(policy.as_ref()), among);
            policies.push(known(text, policy.effect()));
            Ok(())
        })?;
        Ok(gathering.finish())
    };
    let (index, groups) = gather(&bundle.policies)?;
    let (shadow, of_shadow) = gather(&bundle.shadow)?;
    let mut found = callers.into_iter().zip(groups.into_iter().zip(of_shadow));
    let of_services = bundle.callers.iter().zip(found.by_ref()).map(|(facts, (entity, (groups, shadow)))| {
        let id = SpiffeId::for_service(&bundle.trust_domain, &facts.name);
        let (name, uid) = (facts.name.as_str().into(), entities::service(&facts.name));
        (id.as_str().into(), Caller { name, entity, uid, groups, shadow })
    });
    let mut callers: HashMap<Box<str>, Caller> = of_services.collect();
    let plain_text = bundle.plain_text.then(|| found.next()).flatten().map(|(entity, (groups, shadow))| {
        let (name, uid) = (PLAIN_TEXT.into(), entities::plain_text());
        Caller { name, entity, uid, groups, shadow }
    });
    callers.extend(bundle.foreign.iter().zip(found).map(|(id, (entity, (groups, shadow)))| {
        let (name, uid) = (id.as_str().into(), entities::foreign(id));
        (id.as_str().into(), Caller { name, entity, uid, groups, shadow })
    }));
    let shadow = (!bundle.shadow.is_empty()).then_some(shadow);
    Ok(Parts { program: loader.finish(), index, shadow, policies: policies.into(), callers, plain_text, entities })
}

fn entities(bundle: &Bundle) -> Result<Entities, PolicyError> {
    let callee = bundle.callers.iter().all(|caller| caller.name != bundle.service.name).then_some(&bundle.service);
    let made = bundle.callers.iter().chain(callee).map(|facts| facts.entity(&bundle.trust_domain));
    let made = made.chain(bundle.plain_text.then(entities::plain_text_entity));
    let made = made.chain(bundle.foreign.iter().map(entities::foreign_entity));
    let made = made.collect::<Result<Vec<_>, _>>().map_err(PolicyError::Entities)?;
    Entities::from_entities(made, None).map_err(|error| PolicyError::Entities(error.to_string()))
}

fn known(text: &PolicyText, effect: Effect) -> Known {
    let place = PolicyRef { file: text.file.clone(), line: text.line, id: text.id.clone() };
    let places: Arc<str> = place.to_string().into();
    let reason = format!("{effect} {places}").into();
    let asked = Asked::new(text.text.clone());
    Known { effect, alone: (Arc::new([place.clone()]), places, reason), place, asked }
}
