//! Whom a policy can concern, read from its scope alone: conditions are taken to hold.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use weft_model::intent::{Caller, Intent, Member};
use weft_model::{ServiceName, SpiffeId};
use weft_policy_eval::Bits;

use crate::entities;

/// Whom a scope can name: each service by itself, by its namespace, by its roles, all of them; whoever calls in plain text, who comes
/// after the last service; and after that each identity of another trust domain that some policy names.
pub(crate) struct Universe {
    groups: HashMap<EntityUid, Arc<Bits>>,
    services: Arc<Bits>,
    /// Those and the identities of other trust domains.
    identified: Arc<Bits>,
    everyone: Arc<Bits>,
    plain_text: Arc<Bits>,
    none: Arc<Bits>,
}

impl Universe {
    pub(crate) fn new<'a>(
        services: impl Iterator<Item = (&'a ServiceName, &'a [Arc<str>])> + Clone,
        foreign: &[SpiffeId],
    ) -> Self {
        let plain_text_at = services.clone().count();
        let len = plain_text_at + 1 + foreign.len();
        let (mut all, mut plain_text) = (Bits::none(len), Bits::none(len));
        plain_text.insert(plain_text_at);
        let mut groups = HashMap::<EntityUid, Bits>::new();
        for (index, (name, roles)) in services.enumerate() {
            all.insert(index);
            for uid in entities::parents(name, roles).chain([entities::service(name)]) {
                groups.entry(uid).or_insert_with(|| Bits::none(len)).insert(index);
            }
        }
        let mut identified = all.clone();
        for (index, id) in (plain_text_at + 1..).zip(foreign) {
            identified.insert(index);
            groups.entry(entities::foreign(id)).or_insert_with(|| Bits::none(len)).insert(index);
        }
        let groups = groups.into_iter().map(|(uid, members)| (uid, Arc::new(members))).collect();
        let (everyone, none) = (Arc::new(Bits::all(len)), Arc::new(Bits::none(len)));
        Self {
            groups,
            services: Arc::new(all),
            identified: Arc::new(identified),
            everyone,
            plain_text: Arc::new(plain_text),
            none,
        }
    }

    /// All who show an identity.
    pub(crate) fn identified(&self) -> &Bits {
        &self.identified
    }

    /// Nobody.
    pub(crate) fn nobody(&self) -> Bits {
        Bits::clone(&self.none)
    }

    fn group(&self, uid: &EntityUid) -> Arc<Bits> {
        self.groups.get(uid).unwrap_or(&self.none).clone()
    }

    /// Who can be the principal of `policy`.
    pub(crate) fn principals(&self, policy: &Policy) -> Arc<Bits> {
        let all = if may_concern_outsiders(policy) { &self.everyone } else { &self.services };
        match policy.principal_constraint() {
            PrincipalConstraint::Any => all.clone(),
            PrincipalConstraint::Is(kind) if entities::is_service(&kind) => all.clone(),
            _ if names_plain_text(policy) => self.plain_text.clone(),
            PrincipalConstraint::IsIn(kind, uid) if entities::is_service(&kind) => self.group(&uid),
            PrincipalConstraint::Is(_) | PrincipalConstraint::IsIn(..) => self.none.clone(),
            // `==` a group names no service; the group's own members are only meant by `in`.
            PrincipalConstraint::Eq(uid) if !entities::is_service(uid.type_name()) => self.none.clone(),
            PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => self.group(&uid),
        }
    }

    /// The services that can be the resource of `policy`.
    pub(crate) fn resources(&self, policy: &Policy) -> Arc<Bits> {
        match policy.resource_constraint() {
            ResourceConstraint::Any => self.services.clone(),
            ResourceConstraint::Is(kind) if entities::is_service(&kind) => self.services.clone(),
            ResourceConstraint::IsIn(kind, uid) if entities::is_service(&kind) => self.group(&uid),
            ResourceConstraint::Is(_) | ResourceConstraint::IsIn(..) => self.none.clone(),
            ResourceConstraint::Eq(uid) if !entities::is_service(uid.type_name()) => self.none.clone(),
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => self.group(&uid),
        }
    }
}

/// True if the policy's scope names whoever calls in plain text.
pub(crate) fn names_plain_text(policy: &Policy) -> bool {
    match policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => entities::is_plain_text(&uid),
        PrincipalConstraint::IsIn(kind, uid) => entities::is_service(&kind) && entities::is_plain_text(&uid),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => false,
    }
}

/// The identity of another trust domain that the policy's scope names, if it names one.
pub(crate) fn names_foreign(policy: &Policy) -> Option<SpiffeId> {
    match policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => entities::as_foreign(&uid),
        PrincipalConstraint::IsIn(kind, uid) if entities::is_service(&kind) => entities::as_foreign(&uid),
        _ => None,
    }
}

/// Every identity of another trust domain that some policy names, sorted: nobody else of those can be allowed anything.
pub(crate) fn foreign_callers<'a>(policies: impl Iterator<Item = &'a Policy>) -> Vec<SpiffeId> {
    policies.filter_map(names_foreign).collect::<BTreeSet<_>>().into_iter().collect()
}

/// False for a `permit` that names neither whoever calls in plain text nor an identity of another trust domain: it was written for the
/// callers of the mesh, and is opened to nobody else by a service that takes plain text (ADR 12) or by a federation (ADR 19). A `forbid` is
/// about everybody whom its scope lets in.
pub(crate) fn may_concern_outsiders(policy: &Policy) -> bool {
    policy.effect() == Effect::Forbid || names_plain_text(policy) || names_foreign(policy).is_some()
}

/// The roles of each service, sorted: those that name it, and those that such a role is a member of.
pub(crate) fn roles_of_services(intent: &Intent) -> HashMap<ServiceName, Vec<Arc<str>>> {
    let mut roles = HashMap::<ServiceName, Vec<Arc<str>>>::new();
    for role in intent.roles.values() {
        let mut members = BTreeSet::new();
        gather(&role.name, intent, &mut BTreeSet::new(), &mut members);
        for service in members {
            roles.entry(service.clone()).or_default().push(role.name.clone());
        }
    }
    roles
}

/// Adds the members of a role, and those of the roles among them. `seen` bounds it whatever the roles say.
fn gather<'a>(
    role: &'a str,
    intent: &'a Intent,
    seen: &mut BTreeSet<&'a str>,
    members: &mut BTreeSet<&'a ServiceName>,
) {
    if !seen.insert(role) {
        return;
    }
    for member in intent.roles.get(role).into_iter().flat_map(|role| &role.members) {
        let fits: &dyn Fn(&ServiceName) -> bool = match member {
            Member::Caller(Caller::Role(inner)) => {
                gather(inner, intent, seen, members);
                continue;
            }
            Member::Caller(Caller::Service(name)) => &move |service| name == service,
            Member::Caller(Caller::Namespace(namespace)) => &move |service| **namespace == *service.namespace(),
            Member::Caller(Caller::Anyone) => &|_| true,
            Member::Caller(Caller::PlainText | Caller::Foreign(_)) => &|_| false,
            Member::Pattern(pattern) => &move |service| pattern.matches(service),
        };
        members.extend(intent.services.keys().filter(|service| fits(service)));
    }
}

/// True if the policy names break-glass. Such a policy concerns nothing else.
pub(crate) fn concerns_break_glass(policy: &Policy) -> bool {
    let action = entities::break_glass();
    match policy.action_constraint() {
        ActionConstraint::Any => false,
        ActionConstraint::Eq(uid) => uid == action,
        ActionConstraint::In(uids) => uids.contains(&action),
    }
}

/// True if the policy can concern calls (later: secrets and tokens have actions of their own).
pub(crate) fn concerns_calls(policy: &Policy) -> bool {
    let call = entities::call();
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == call,
        ActionConstraint::In(uids) => uids.contains(&call),
    }
}
