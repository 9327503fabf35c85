//! Services, roles and namespaces as Cedar entities: `Service::"prod/web"` in `Namespace::"prod"` and in its `Role`s.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Entity, EntityTypeName, EntityUid, RestrictedExpression};
use weft_model::{PLAIN_TEXT, ServiceName, SpiffeId, TrustDomain};
use weft_policy_eval::{Builder, EntityId};

const SERVICE: &str = "Service";
const ACTION: &str = "Action";
const CALL: &str = "call";
const BREAK_GLASS: &str = "breakGlass";

/// What policies can read of a service.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub name: ServiceName,
    /// Attribute -> value, from the mesh's vocabulary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// Roles that it has, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Arc<str>>,
}

impl ServiceFacts {
    /// The entity, with its attributes and its groups, as Cedar wants it.
    pub(crate) fn entity(&self, trust_domain: &TrustDomain) -> Result<Entity, String> {
        let text = |value: Cow<'_, str>| RestrictedExpression::new_string(value.into_owned());
        let attributes = self.readable(trust_domain).into_iter().map(|(name, value)| (name.to_owned(), text(value)));
        let parents: HashSet<EntityUid> = parents(&self.name, &self.roles).collect();
        Entity::new(service(&self.name), attributes.collect(), parents).map_err(|error| error.to_string())
    }

    /// The entity, as our evaluator wants it.
    pub(crate) fn describe(&self, builder: &mut Builder, trust_domain: &TrustDomain) -> EntityId {
        let id = builder.entity(SERVICE, self.name.as_str());
        let groups: Vec<EntityId> =
            groups(&self.name, &self.roles).map(|(kind, group)| builder.entity(kind, group)).collect();
        let readable = self.readable(trust_domain);
        builder.describe(id, readable.iter().map(|(name, value)| (*name, &**value)), groups.into_iter());
        id
    }

    /// All attributes; those that every service has cannot be given another meaning.
    fn readable(&self, trust_domain: &TrustDomain) -> BTreeMap<&str, Cow<'_, str>> {
        let own = self.attributes.iter().map(|(name, value)| (&**name, Cow::Borrowed(&**value)));
        let id = SpiffeId::for_service(trust_domain, &self.name);
        let built_in = [
            ("name", self.name.name().into()),
            ("namespace", self.name.namespace().into()),
            ("serviceAccount", self.name.name().into()),
            ("trustDomain", trust_domain.as_str().to_owned().into()),
            ("spiffeId", id.as_str().to_owned().into()),
        ];
        own.chain(built_in).collect()
    }
}

/// What policies can read of a caller in plain text: nothing that could be meant for a service.
const OF_PLAIN_TEXT: [(&str, &str); 5] =
    [("name", PLAIN_TEXT), ("namespace", ""), ("serviceAccount", ""), ("trustDomain", ""), ("spiffeId", "")];

/// `Service::"plain-text"`, in no namespace and no role.
pub(crate) fn plain_text() -> EntityUid {
    uid(SERVICE, PLAIN_TEXT)
}

/// Whether it is that one. Asked of every policy, so nothing is parsed for it.
pub(crate) fn is_plain_text(uid: &EntityUid) -> bool {
    is_service(uid.type_name()) && uid.id().unescaped() == PLAIN_TEXT
}

/// The same as Cedar wants it.
pub(crate) fn plain_text_entity() -> Result<Entity, String> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let attributes = OF_PLAIN_TEXT.map(|(name, value)| (name.to_owned(), text(value)));
    Entity::new(plain_text(), attributes.into(), HashSet::new()).map_err(|error| error.to_string())
}

/// The same as our evaluator wants it.
pub(crate) fn describe_plain_text(builder: &mut Builder) -> EntityId {
    let id = builder.entity(SERVICE, PLAIN_TEXT);
    builder.describe(id, OF_PLAIN_TEXT.into_iter(), std::iter::empty());
    id
}

/// `Service::"spiffe://other.example/ns/prod/sa/web"`: an identity of another trust domain, in no namespace and no role.
pub(crate) fn foreign(id: &SpiffeId) -> EntityUid {
    uid(SERVICE, id.as_str())
}

/// The identity that it is, if it is one of those.
pub(crate) fn as_foreign(uid: &EntityUid) -> Option<SpiffeId> {
    let id = uid.id().unescaped();
    // No name of a service has a colon. Asked of every policy, so most are told by their first letters.
    if is_service(uid.type_name()) && id.starts_with("spiffe://") { id.parse().ok() } else { None }
}

/// What policies can read of it: who it is, and nothing that could be meant for a service of the mesh.
fn of_foreign(id: &SpiffeId) -> [(&'static str, String); 5] {
    [
        ("name", String::new()),
        ("namespace", String::new()),
        ("serviceAccount", String::new()),
        ("trustDomain", id.trust_domain().as_str().to_owned()),
        ("spiffeId", id.as_str().to_owned()),
    ]
}

/// The same as Cedar wants it.
pub(crate) fn foreign_entity(id: &SpiffeId) -> Result<Entity, String> {
    let attributes = of_foreign(id).map(|(name, value)| (name.to_owned(), RestrictedExpression::new_string(value)));
    Entity::new(foreign(id), attributes.into(), HashSet::new()).map_err(|error| error.to_string())
}

/// The same as our evaluator wants it.
pub(crate) fn describe_foreign(builder: &mut Builder, id: &SpiffeId) -> EntityId {
    let entity = builder.entity(SERVICE, id.as_str());
    let readable = of_foreign(id);
    builder.describe(entity, readable.iter().map(|(name, value)| (*name, value.as_str())), std::iter::empty());
    entity
}

fn uid(kind: &str, id: &str) -> EntityUid {
    let kind: EntityTypeName = kind.parse().expect("an identifier");
    EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(id))
}

/// `Service::"prod/web"`.
pub(crate) fn service(name: &ServiceName) -> EntityUid {
    uid(SERVICE, name.as_str())
}

/// The namespace and the roles of a service.
pub(crate) fn parents<'a>(name: &'a ServiceName, roles: &'a [Arc<str>]) -> impl Iterator<Item = EntityUid> + 'a {
    groups(name, roles).map(|(kind, id)| uid(kind, id))
}

/// The same, as types and ids.
fn groups<'a>(name: &'a ServiceName, roles: &'a [Arc<str>]) -> impl Iterator<Item = (&'static str, &'a str)> {
    [("Namespace", name.namespace())].into_iter().chain(roles.iter().map(|role| ("Role", &**role)))
}

/// `Action::"call"`.
pub(crate) fn call() -> EntityUid {
    uid(ACTION, CALL)
}

/// `Action::"breakGlass"`.
pub(crate) fn break_glass() -> EntityUid {
    uid(ACTION, BREAK_GLASS)
}

/// `Operator::"alice"`.
pub(crate) fn operator(name: &str) -> EntityUid {
    uid("Operator", name)
}

/// `Mesh::"acme"`.
pub(crate) fn mesh(name: &str) -> EntityUid {
    uid("Mesh", name)
}

/// `Action::"call"`, as our evaluator wants it.
pub(crate) fn describe_call(builder: &mut Builder) -> EntityId {
    builder.entity(ACTION, CALL)
}

pub(crate) fn is_service(kind: &EntityTypeName) -> bool {
    kind.namespace().is_empty() && kind.basename() == SERVICE
}
